/* http_exchange: the side of http.h that is called from any thread: replies, whole or in pieces, and the callback of a client's closing. It
 * only leaves bytes in the connection's buffer and marks the connection; sending is the I/O thread's (http.c). It must not touch sockets.
 *
 * exchange_end, and taking on_close back, wait while the callback runs on the I/O thread, so that it never runs afterwards: who calls them
 * must not hold a lock that the callback takes. The callback itself may call anything here. */
#define _GNU_SOURCE
#include <string.h>
#include <time.h>

#include "tools/serve/http_conn.h"

static const size_t MOST_PENDING = (size_t)64 << 20; /* of a stream: who lags further behind is taken for gone */

/* ---- the head of a reply ---- */

static const char *reason(int status) {
    static const struct {
        int status;
        const char *reason;
    } known[] = { { 200, "OK" }, { 201, "Created" }, { 202, "Accepted" }, { 204, "No Content" }, { 301, "Moved Permanently" }, { 302, "Found" },
                  { 304, "Not Modified" },
                  { 307, "Temporary Redirect" }, { 400, "Bad Request" }, { 401, "Unauthorized" }, { 403, "Forbidden" },
                  { 404, "Not Found" }, { 405, "Method Not Allowed" }, { 408, "Request Timeout" }, { 409, "Conflict" }, { 411, "Length Required" },
                  { 413, "Content Too Large" }, { 414, "URI Too Long" }, { 415, "Unsupported Media Type" }, { 417, "Expectation Failed" },
                  { 422, "Unprocessable Content" }, { 429, "Too Many Requests" }, { 431, "Request Header Fields Too Large" },
                  { 499, "Client Closed Request" }, { 500, "Internal Server Error" }, { 501, "Not Implemented" }, { 502, "Bad Gateway" },
                  { 503, "Service Unavailable" }, { 504, "Gateway Timeout" }, { 505, "HTTP Version Not Supported" },
                  { 507, "Insufficient Storage" } };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].status == status) return known[i].reason;
    return status < 400 ? "OK" : "Error";
}

static void add_date(buf *b) { /* not strftime: the names of days do not follow a locale */
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    time_t now = time(NULL);
    struct tm t;
    gmtime_r(&now, &t);
    buf_fmt(b, "Date: %.3s, %02d %.3s %04d %02d:%02d:%02d GMT\r\n", days + 3 * t.tm_wday, t.tm_mday, months + 3 * t.tm_mon, t.tm_year + 1900,
            t.tm_hour, t.tm_min, t.tm_sec);
}

static bool has_no_body(int status) { return status == 204 || status == 304; }

void reply_add_head(buf *b, const http *h, const reply_head *r) {
    buf_fmt(b, "HTTP/1.1 %d %s\r\nServer: quern/%s\r\n", r->status, reason(r->status), QUERN_VERSION);
    add_date(b);
    if (h->cors) {
        buf_fmt(b, "Access-Control-Allow-Origin: %s\r\n", h->cors);
        if (strcmp(h->cors, "*") != 0) buf_str(b, "Vary: Origin\r\n");
    }
    if (r->type && !has_no_body(r->status)) buf_fmt(b, "Content-Type: %s\r\n", r->type);
    if (has_no_body(r->status)) {}
    else if (r->sized) buf_fmt(b, "Content-Length: %zu\r\n", r->n);
    else if (r->chunked) buf_str(b, "Transfer-Encoding: chunked\r\n");
    if (!r->keep_alive) buf_str(b, "Connection: close\r\n");
    else if (r->http10) buf_str(b, "Connection: keep-alive\r\n");
    if (r->extra) buf_str(b, r->extra);
    buf_str(b, "\r\n");
}

static void plain_error(buf *body, int status, const char *code, const char *message) {
    buf_str(body, "{\"error\":{\"code\":");
    buf_json(body, code, strlen(code));
    buf_str(body, ",\"message\":");
    buf_json(body, message, strlen(message));
    buf_fmt(body, ",\"type\":\"%s\"}}", status == 500 || status == 503 ? "server_error" : "invalid_request_error");
}

void reply_add_error(buf *b, const http *h, const http_parser *p, int status, const char *code, const char *message) {
    buf body = { 0 };
    char path[256];
    parser_path(p, path, sizeof path);
    if (h->o.error_body) h->o.error_body(h->o.arg, path, status, code, message, &body);
    else plain_error(&body, status, code, message);
    const char *extra = status == 503 ? "Retry-After: 1\r\n" : "";
    reply_add_head(b, h, &(reply_head){ .status = status, .type = "application/json", .extra = extra, .sized = true, .n = body.n });
    if (!parser_is_head(p)) buf_add(b, body.p, body.n);
    b->failed |= body.failed;
    buf_free(&body);
}

/* ---- marks: a connection that the I/O thread shall look at ---- */

static bool on_io_thread(const http *h) { return pthread_equal(pthread_self(), h->io_thread); }

/* Unlocks. Puts the connection on the list unless it is there; whoever finds the list empty wakes the I/O thread. What comes behind the exchange
 * touches no connection (it may be gone), and http_free waits for `posting`. */
static void unlock_marked(conn *c) {
    http *h = c->h;
    bool there = c->marked;
    c->marked = true;
    if (!there) atomic_fetch_add(&h->posting, 1);
    pthread_mutex_unlock(&c->lock);
    if (there) return;
    conn *head = atomic_load(&h->marked);
    do c->next_marked = head;
    while (!atomic_compare_exchange_weak(&h->marked, &head, c));
    if (!head && !on_io_thread(h)) http_wake(h);
    atomic_fetch_sub(&h->posting, 1);
}

/* ---- replies ---- */

/* With the lock held. */
static void begin(exchange *x, reply_head r) {
    conn *c = x->c;
    size_t before = c->out.n;
    x->begun = true;
    x->silent = has_no_body(r.status) || strcmp(c->parser.request.method, "HEAD") == 0;
    r.http10 = c->parser.http10;
    x->streams = !r.sized;
    x->chunked = r.chunked = x->streams && !r.http10;
    x->keep_alive = r.keep_alive = c->parser.keep_alive && !atomic_load(&c->h->stop) && (r.sized || r.chunked || x->silent);
    reply_add_head(&c->out, c->h, &r);
    atomic_fetch_add(&c->pending, c->out.n - before);
}

/* With the lock held. */
static void add(exchange *x, const char *bytes, size_t n) {
    conn *c = x->c;
    size_t before = c->out.n;
    if (x->silent || !n) return;
    if (x->chunked) buf_fmt(&c->out, "%zx\r\n", n);
    buf_add(&c->out, bytes, n);
    if (x->chunked) buf_str(&c->out, "\r\n");
    size_t pending = atomic_fetch_add(&c->pending, c->out.n - before);
    if (x->streams && pending > MOST_PENDING) c->overrun = true;
}

static void wait_for_callback(exchange *x) {
    while (x->calling && !on_io_thread(x->c->h)) pthread_cond_wait(&x->c->called, &x->c->lock);
}

static bool open_for(const exchange *x, bool begun) { return x->begun == begun && !x->ended && !atomic_load(&x->closed); }

void exchange_reply(exchange *x, int status, const char *type, const char *extra, const char *body, size_t n) {
    conn *c = x->c;
    pthread_mutex_lock(&c->lock);
    if (open_for(x, false)) {
        begin(x, (reply_head){ .status = status, .type = type, .extra = extra, .sized = true, .n = n });
        add(x, body, n);
    }
    wait_for_callback(x);
    x->ended = true;
    unlock_marked(c);
}

void exchange_begin(exchange *x, int status, const char *type, const char *extra) {
    conn *c = x->c;
    pthread_mutex_lock(&c->lock);
    if (open_for(x, false)) begin(x, (reply_head){ .status = status, .type = type, .extra = extra });
    unlock_marked(c);
}

void exchange_write(exchange *x, const char *bytes, size_t n) {
    conn *c = x->c;
    pthread_mutex_lock(&c->lock);
    if (!n || !open_for(x, true)) {
        pthread_mutex_unlock(&c->lock);
        return;
    }
    add(x, bytes, n);
    unlock_marked(c);
}

static bool is_unanswered(exchange *x) {
    pthread_mutex_lock(&x->c->lock);
    bool yes = open_for(x, false);
    pthread_mutex_unlock(&x->c->lock);
    return yes;
}

void exchange_end(exchange *x) {
    conn *c = x->c;
    buf error = { 0 };
    if (is_unanswered(x)) /* an exchange never ends in silence */
        reply_add_error(&error, c->h, &c->parser, 500, "internal_error", "the server ended this request without an answer");
    pthread_mutex_lock(&c->lock);
    size_t before = c->out.n;
    if (open_for(x, false)) {
        buf_add(&c->out, error.p, error.n);
        c->out.failed |= error.failed;
    } else if (open_for(x, true) && x->chunked && !x->silent) {
        buf_str(&c->out, "0\r\n\r\n");
    }
    atomic_fetch_add(&c->pending, c->out.n - before);
    wait_for_callback(x);
    x->ended = true;
    unlock_marked(c);
    buf_free(&error);
}

/* ---- what can be asked ---- */

const http_request *exchange_request(const exchange *x) { return &x->c->parser.request; }
const char *exchange_header(const exchange *x, const char *name) { return parser_header(&x->c->parser, name); }
bool exchange_is_closed(const exchange *x) { return atomic_load(&x->closed); }
size_t exchange_pending(const exchange *x) { return atomic_load(&x->c->pending); }

void exchange_on_close(exchange *x, void (*closed)(void *arg), void *arg) {
    conn *c = x->c;
    pthread_mutex_lock(&c->lock);
    wait_for_callback(x);
    x->on_close = closed;
    x->on_close_arg = arg;
    if (closed && atomic_load(&x->closed)) unlock_marked(c); /* too late to be told by the socket: the I/O thread calls it at once */
    else pthread_mutex_unlock(&c->lock);
}

/* ---- CORS ---- */

bool exchange_preflight(exchange *x) {
    const http_request *r = exchange_request(x);
    if (!x->c->h->cors || strcmp(r->method, "OPTIONS") != 0) return false;
    const char *asked = exchange_header(x, "access-control-request-headers");
    buf extra = { 0 };
    buf_str(&extra, "Allow: GET, HEAD, POST, DELETE, OPTIONS\r\nAccess-Control-Allow-Methods: GET, HEAD, POST, DELETE, OPTIONS\r\n");
    /* What is asked for is allowed: "*" would leave Authorization out. */
    bool plain = asked && *asked && strlen(asked) <= 1024;
    buf_fmt(&extra, "Access-Control-Allow-Headers: %s\r\nAccess-Control-Max-Age: 86400\r\n",
            plain ? asked : "Authorization, Content-Type, X-Api-Key, Anthropic-Version");
    exchange_reply(x, 204, NULL, extra.failed ? "" : extra.p, NULL, 0);
    buf_free(&extra);
    return true;
}
