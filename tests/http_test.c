/* The server's HTTP over real sockets on the loopback: replies, limits, timeouts, clients that are slow, rude or gone, the end. Each test has
 * a site of its own, with handlers that answer from workers, from other threads, late or never. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "tools/serve/http.h"
#include "tools/serve/work.h"
#include "tests/test.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { SLOW = 5 }; /* sanitizers slow everything down */
#else
enum { SLOW = 1 };
#endif

/* The longest time that this process got no turn, so that a machine that is busy, or stops it, breaks no time limit. */
static _Atomic double stall;

static void *pulse(void *arg) {
    for (double last = now_seconds(), t;; last = t) {
        usleep(5000);
        t = now_seconds();
        if (t - last - 0.005 > atomic_load(&stall)) atomic_store(&stall, t - last - 0.005);
    }
    return arg;
}

static double patience(double seconds) { return seconds * SLOW + 3 * atomic_load(&stall); }

static int no_stall(void **state) {
    (void)state;
    atomic_store(&stall, 0);
    return 0;
}

/* ---- a site ---- */

typedef struct site {
    http *h;
    work *w;
    pthread_t thread;
    _Atomic(exchange *) held; /* the last of /hold and /late: the test answers it */
    atomic_int closed;        /* calls of on_close */
    _Atomic double closed_at;
    atomic_bool stop_flood;
} site;

static void *run_site(void *arg) {
    err e = { 0 };
    return (void *)(intptr_t)http_run(((site *)arg)->h, &e);
}

static void on_closed(void *arg) {
    site *s = arg;
    atomic_store(&s->closed_at, now_seconds());
    atomic_fetch_add(&s->closed, 1);
}

static void answer_echo(exchange *x) {
    const http_request *r = exchange_request(x);
    exchange_reply(x, 200, "text/plain", "X-Extra: yes\r\n", r->body, r->body_n);
}

static void answer_info(exchange *x) {
    const http_request *r = exchange_request(x);
    const char *test = exchange_header(x, "x-test");
    char text[400];
    int n = snprintf(text, sizeof text, "%s %s %s %s %s", r->method, r->path, r->query, r->peer, test ? test : "-");
    exchange_reply(x, r->arrived > 0 ? 200 : 500, "text/plain", "", text, (size_t)n);
}

static void answer_stream(exchange *x) {
    exchange_begin(x, 200, "text/event-stream", "");
    for (int i = 0, n = atoi(exchange_request(x)->query); i < n; i++) {
        char piece[40];
        exchange_write(x, piece, (size_t)snprintf(piece, sizeof piece, "piece %d\n", i));
    }
    exchange_end(x);
}

/* Streams as fast as it can, up to 40 MB, until the client has gone. */
static void answer_flood(site *s, exchange *x) {
    static char block[10000];
    exchange_on_close(x, on_closed, s);
    exchange_begin(x, 200, "text/plain", "");
    for (int i = 0; i < 4000 && !exchange_is_closed(x); i++) exchange_write(x, block, sizeof block);
    while (!exchange_is_closed(x) && !atomic_load(&s->stop_flood) && exchange_pending(x)) usleep(1000);
    exchange_end(x);
}

static void answer_big(exchange *x) {
    size_t n = (size_t)8 << 20;
    char *p = malloc(n);
    for (size_t i = 0; p && i < n; i++) p[i] = (char)('a' + i % 23);
    exchange_reply(x, 200, "text/plain", NULL, p, n);
    free(p);
}

static bool on_path(const exchange *x, const char *path) { return strcmp(exchange_request(x)->path, path) == 0; }

static void on_request(void *arg, exchange *x) {
    site *s = arg;
    if (on_path(x, "/echo")) return answer_echo(x);
    if (on_path(x, "/stream")) return answer_stream(x);
    if (on_path(x, "/flood")) return answer_flood(s, x);
    if (on_path(x, "/big")) return answer_big(x);
    if (on_path(x, "/none")) return exchange_end(x);
    if (on_path(x, "/empty")) return exchange_reply(x, 204, NULL, "", "no body", 7);
    if (on_path(x, "/hold")) exchange_on_close(x, on_closed, s);
    if (on_path(x, "/hold") || on_path(x, "/late")) return atomic_store(&s->held, x);
    answer_info(x);
}

static bool answer_now(void *arg, exchange *x) {
    (void)arg;
    if (on_path(x, "/sleep")) usleep(200000); /* and nobody is served */
    if (!on_path(x, "/now") && !on_path(x, "/sleep")) return false;
    exchange_reply(x, 200, "text/plain", "", "now", 3);
    return true;
}

static site *open_site(http_opts o) {
    site *s = calloc(1, sizeof *s);
    err e = { 0 };
    if (work_start(&s->w, 3, &e)) fail_msg("%s", e.msg);
    o.handle = on_request;
    o.handle_now = answer_now;
    o.arg = s;
    o.workers = s->w;
    if (http_listen(&s->h, &o, &e)) fail_msg("%s", e.msg);
    assert_true(http_port(s->h) > 0);
    pthread_create(&s->thread, NULL, run_site, s);
    return s;
}

/* Everything must have been given back. */
static void close_site(site *s) {
    void *status;
    http_stop(s->h);
    pthread_join(s->thread, &status);
    assert_null(status);
    http_counts c = http_about(s->h);
    assert_int_equal(c.open, 0);
    assert_int_equal(c.active, 0);
    work_stop(s->w);
    http_free(s->h);
    free(s);
}

/* ---- clients ---- */

typedef struct client {
    int fd;
    buf in;
    size_t at;
} client;

typedef struct answer {
    int status;
    bool chunked;
    char head[2000];
    buf body;
} answer;

static client dial(const site *s) {
    client c = { .fd = socket(AF_INET, SOCK_STREAM, 0) };
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)http_port(s->h)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval t = { .tv_sec = 20 };
    assert_true(c.fd >= 0);
    setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    if (connect(c.fd, (struct sockaddr *)&a, sizeof a)) fail_msg("connect: %s", strerror(errno));
    return c;
}

static void hang_up(client *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    buf_free(&c->in);
}

static void say_n(client *c, const char *bytes, size_t n) {
    for (size_t at = 0; at < n;) {
        ssize_t k = send(c->fd, bytes + at, n - at, MSG_NOSIGNAL);
        if (k < 0) fail_msg("send: %s", strerror(errno));
        at += (size_t)k;
    }
}

static void say(client *c, const char *text) { say_n(c, text, strlen(text)); }

static bool more(client *c) { /* false: the end, or broken */
    static _Thread_local char some[65536];
    ssize_t n = recv(c->fd, some, sizeof some, 0);
    if (n < 0 && errno == EAGAIN) fail_msg("no answer within 20 s");
    if (n > 0) buf_add(&c->in, some, (size_t)n);
    return n > 0;
}

static const char *line(client *c) { /* up to CR LF; NULL at the end */
    static _Thread_local char text[2000];
    for (;;) {
        char *p = c->in.n > c->at ? memmem(c->in.p + c->at, c->in.n - c->at, "\r\n", 2) : NULL;
        if (p) {
            snprintf(text, sizeof text, "%.*s", (int)(p - c->in.p - (ptrdiff_t)c->at), c->in.p + c->at);
            c->at = (size_t)(p - c->in.p) + 2;
            return text;
        }
        if (!more(c)) return NULL;
    }
}

static bool take(client *c, buf *out, size_t n) {
    while (c->in.n - c->at < n)
        if (!more(c)) return false;
    buf_add(out, c->in.p + c->at, n);
    c->at += n;
    return true;
}

static bool closed(client *c) { return c->at == c->in.n && !more(c); }

/* Reads one answer; false when the connection ended before it did. */
static bool hear_head(client *c, answer *a) {
    const char *l = line(c);
    buf_free(&a->body);
    *a = (answer){ 0 };
    if (!l || sscanf(l, "HTTP/1.1 %d", &a->status) != 1) return false;
    while ((l = line(c)) && *l) {
        size_t n = strlen(a->head);
        snprintf(a->head + n, sizeof a->head - n, "%s\n", l);
    }
    a->chunked = strstr(a->head, "Transfer-Encoding: chunked");
    return l;
}

static bool hear(client *c, answer *a) {
    if (!hear_head(c, a)) return false;
    const char *length = strstr(a->head, "Content-Length: ");
    buf_str(&a->body, "");
    if (length) return take(c, &a->body, strtoul(length + 16, NULL, 10));
    while (a->chunked) {
        const char *l = line(c);
        size_t n = l ? strtoul(l, NULL, 16) : 0;
        if (!l || !take(c, &a->body, n) || !(l = line(c)) || *l) return false;
        if (!n) return true;
    }
    if (a->status >= 200 && a->status != 204)
        while (!closed(c)) take(c, &a->body, c->in.n - c->at);
    return true;
}

static void expect(client *c, answer *a, int status, const char *body) {
    if (!hear(c, a)) fail_msg("no whole answer: status %d, head %s", a->status, a->head);
    if (a->status != status || (body && strcmp(a->body.p, body) != 0))
        fail_msg("expected %d %s, found %d %s", status, body ? body : "", a->status, a->body.p);
}

/* An error of the HTTP layer: JSON with code, message and type; the connection is closed behind it. */
static void expect_error(client *c, answer *a, int status, const char *code) {
    arena mem = { 0 };
    json *root;
    expect(c, a, status, NULL);
    if (json_parse(&mem, a->body.p, a->body.n, &root, NULL)) fail_msg("no JSON: %s", a->body.p);
    const json *error = json_get(root, "error");
    if (!json_is(json_get(error, "code"), code)) fail_msg("expected %s, found %s", code, a->body.p);
    assert_true(json_get(error, "message") && json_get(error, "type"));
    assert_non_null(strstr(a->head, "Connection: close"));
    assert_non_null(strstr(a->head, "Content-Type: application/json"));
    assert_true(closed(c));
    arena_free(&mem);
}

static void wait_for(atomic_int *v, int n, double seconds) {
    double before = now_seconds();
    while (atomic_load(v) < n && now_seconds() - before < patience(seconds)) usleep(500);
    if (atomic_load(v) < n) fail_msg("waited %g s for %d, found %d", seconds, n, atomic_load(v));
}

static exchange *wait_held(site *s) {
    for (int i = 0; i < 5000 * SLOW && !atomic_load(&s->held); i++) usleep(1000);
    assert_non_null(atomic_load(&s->held));
    return atomic_exchange(&s->held, NULL);
}

#define GET(path) "GET " path " HTTP/1.1\r\nHost: x\r\n\r\n"
#define POST(path, n) "POST " path " HTTP/1.1\r\nHost: x\r\nContent-Length: " #n "\r\n\r\n"

/* ---- replies ---- */

static void keep_alive(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    client c = dial(s);
    answer a = { 0 };
    int day, year, hour;
    char name[10], month[10];
    for (int i = 0; i < 3; i++) {
        say(&c, POST("/echo", 5) "hello");
        expect(&c, &a, 200, "hello");
    }
    assert_non_null(strstr(a.head, "Server: quern/" QUERN_VERSION "\n"));
    assert_non_null(strstr(a.head, "Content-Type: text/plain\n"));
    assert_non_null(strstr(a.head, "Content-Length: 5\n"));
    assert_non_null(strstr(a.head, "X-Extra: yes\n"));
    assert_null(strstr(a.head, "Connection:"));
    assert_null(strstr(a.head, "Access-Control"));
    assert_int_equal(sscanf(strstr(a.head, "Date: "), "Date: %3s, %2d %3s %4d %2d:", name, &day, month, &year, &hour), 5);
    say(&c, "GET /a%20b?q=%20 HTTP/1.1\r\nhost: x\r\nX-TEST:  v \r\n\r\n");
    expect(&c, &a, 200, "GET /a b q=%20 127.0.0.1 v");
    say(&c, GET("/now"));
    expect(&c, &a, 200, "now");
    say(&c, GET("/empty") GET("/none"));
    expect(&c, &a, 204, NULL);
    assert_null(strstr(a.head, "Content-"));
    expect_error(&c, &a, 500, "internal_error");
    assert_int_equal(http_about(s->h).accepted, 1);
    assert_int_equal(http_about(s->h).requests, 7);
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
}

static void pipelined(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    client c = dial(s);
    answer a = { 0 };
    buf all = { 0 };
    char want[40];
    for (int i = 0; i < 300; i++) buf_fmt(&all, "%s /%d HTTP/1.1\r\nHost: x\r\n\r\n", "GET", i);
    buf_str(&all, GET("/hold") GET("/now") "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" GET("/never"));
    say_n(&c, all.p, all.n);
    for (int i = 0; i < 300; i++) {
        snprintf(want, sizeof want, "GET /%d  127.0.0.1 -", i);
        expect(&c, &a, 200, want);
    }
    exchange *x = wait_held(s);
    usleep(20000);
    assert_int_equal(http_about(s->h).requests, 301); /* the second waits until the first is answered */
    exchange_reply(x, 200, "text/plain", "", "held", 4);
    expect(&c, &a, 200, "held");
    expect(&c, &a, 200, "now");
    expect(&c, &a, 200, "GET /  127.0.0.1 -");
    assert_non_null(strstr(a.head, "Connection: close\n"));
    assert_true(closed(&c));
    hang_up(&c);
    buf_free(&all);
    buf_free(&a.body);
    close_site(s);
}

static void chunked_both_ways(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    client c = dial(s);
    answer a = { 0 };
    const char *request = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n6\r\n world\r\n0\r\nT: 1\r\n\r\n";
    for (const char *p = request; *p; p++) say_n(&c, p, 1); /* a packet each */
    expect(&c, &a, 200, "hello world");
    say(&c, GET("/stream?1000"));
    if (!hear(&c, &a)) fail_msg("no whole answer");
    assert_true(a.chunked);
    const char *p = a.body.p;
    char want[40];
    for (int i = 0; i < 1000; i++) {
        size_t n = (size_t)snprintf(want, sizeof want, "piece %d\n", i);
        assert_memory_equal(p, want, n);
        p += n;
    }
    assert_int_equal(*p, 0);
    say(&c, GET("/stream?0"));
    expect(&c, &a, 200, "");
    say(&c, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_true(hear_head(&c, &a));
    assert_int_equal(a.status, 100);
    say(&c, "ok");
    expect(&c, &a, 200, "ok");
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
}

static void old_clients_and_head(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    client c = dial(s);
    answer a = { 0 };
    say(&c, "HEAD /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcHEAD /stream?3 HTTP/1.1\r\nHost: x\r\n\r\n" GET("/now"));
    assert_true(hear_head(&c, &a));
    assert_non_null(strstr(a.head, "Content-Length: 3\n"));
    assert_true(hear_head(&c, &a));
    assert_true(a.chunked);
    expect(&c, &a, 200, "now"); /* no byte of a body came between */
    say(&c, "GET /now HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    expect(&c, &a, 200, "now");
    assert_non_null(strstr(a.head, "Connection: keep-alive\n"));
    say(&c, "GET /now HTTP/1.0\r\n\r\n");
    expect(&c, &a, 200, "now");
    assert_non_null(strstr(a.head, "Connection: close\n"));
    assert_true(closed(&c));
    hang_up(&c);
    c = dial(s);
    say(&c, "GET /stream?2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    expect(&c, &a, 200, "piece 0\npiece 1\n");
    assert_false(a.chunked);
    assert_non_null(strstr(a.head, "Connection: close\n"));
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
}

static void cors(void **state) {
    (void)state;
    site *s = open_site((http_opts){ .cors = "https://example.org" });
    client c = dial(s);
    answer a = { 0 };
    say(&c, "OPTIONS /v1/x HTTP/1.1\r\nHost: x\r\nOrigin: https://example.org\r\nAccess-Control-Request-Headers: authorization, x-a\r\n\r\n");
    expect(&c, &a, 204, NULL);
    assert_non_null(strstr(a.head, "Access-Control-Allow-Origin: https://example.org\n"));
    assert_non_null(strstr(a.head, "Vary: Origin\n"));
    assert_non_null(strstr(a.head, "Access-Control-Allow-Headers: authorization, x-a\n"));
    assert_non_null(strstr(a.head, "Access-Control-Allow-Methods: GET, HEAD, POST, DELETE, OPTIONS\n"));
    assert_non_null(strstr(a.head, "Access-Control-Max-Age: 86400\n"));
    say(&c, GET("/now"));
    expect(&c, &a, 200, "now");
    assert_non_null(strstr(a.head, "Access-Control-Allow-Origin: https://example.org\n"));
    say(&c, "GET x HTTP/1.1\r\nHost: x\r\n\r\n"); /* errors, too: a page could not read them otherwise */
    expect_error(&c, &a, 400, "malformed_request");
    assert_non_null(strstr(a.head, "Access-Control-Allow-Origin"));
    hang_up(&c);
    close_site(s);
    s = open_site((http_opts){ 0 });
    c = dial(s);
    say(&c, "OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n");
    expect(&c, &a, 200, "OPTIONS /  127.0.0.1 -");
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
    err e = { 0 };
    assert_int_equal(http_listen(&(http *){ NULL }, &(http_opts){ .cors = "a\r\nb" }, &e), -1);
    assert_non_null(strstr(e.msg, "origin"));
}

/* ---- limits ---- */

static void refusals(void **state) {
    (void)state;
    site *s = open_site((http_opts){ .max_body = 100000, .max_header = 10000 });
    answer a = { 0 };
    buf big = { 0 };
    buf_fmt(&big, "GET /%09000d HTTP/1.1\r\n\r\n", 0);
    const struct { const char *bytes; int status; const char *code; } cases[] = {
        { "nonsense\r\n\r\n", 400, "malformed_request" }, { "GET / HTTP/2.0\r\n\r\n", 505, "version_not_supported" },
        { "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "transfer_encoding_not_supported" },
        { big.p, 414, "target_too_long" }, { "POST / HTTP/1.1\r\nHost: x\r\nExpect: x\r\n\r\n", 417, "expectation_failed" },
        { POST("/", 5) "helloGET\r\n", 0, "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        client c = dial(s);
        say(&c, cases[i].bytes);
        if (!cases[i].status) expect(&c, &a, 200, "POST /  127.0.0.1 -");
        expect_error(&c, &a, cases[i].status ? cases[i].status : 400, cases[i].status ? cases[i].code : "malformed_request");
        hang_up(&c);
    }
    big.n = 0;
    buf_fmt(&big, "GET / HTTP/1.1\r\nHost: x\r\nX: %012000d\r\n\r\n", 0);
    client c = dial(s);
    say(&c, big.p);
    expect_error(&c, &a, 431, "headers_too_large");
    hang_up(&c);
    for (int chunks = 0; chunks < 2; chunks++) { /* who sends all of a large body before it listens hears why it was refused */
        c = dial(s);
        say(&c, chunks ? "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nF4240\r\n" : POST("/", 1000000));
        big.n = 0;
        buf_fmt(&big, "%01000000d", 0);
        say_n(&c, big.p, big.n);
        expect_error(&c, &a, 413, "body_too_large");
        hang_up(&c);
    }
    c = dial(s);
    say(&c, POST("/echo", 100000)); /* exactly the most */
    say_n(&c, big.p, 100000);
    expect(&c, &a, 200, NULL);
    assert_int_equal(a.body.n, 100000);
    hang_up(&c);
    assert_int_equal(http_about(s->h).refused, 9);
    buf_free(&big);
    buf_free(&a.body);
    close_site(s);
}

static void most_connections(void **state) {
    (void)state;
    site *s = open_site((http_opts){ .max_connections = 4 });
    client c[4], more_clients[3];
    answer a = { 0 };
    for (int i = 0; i < 4; i++) {
        c[i] = dial(s);
        say(&c[i], GET("/now"));
        expect(&c[i], &a, 200, "now");
    }
    for (int i = 0; i < 3; i++) {
        more_clients[i] = dial(s);
        if (i) say(&more_clients[i], GET("/now"));
    }
    double before = now_seconds();
    for (int i = 0; i < 3; i++) {
        expect_error(&more_clients[i], &a, 503, "too_many_connections");
        assert_non_null(strstr(a.head, "Retry-After: "));
        hang_up(&more_clients[i]);
    }
    assert_true(now_seconds() - before < patience(0.5));
    hang_up(&c[0]);
    usleep(50000 * SLOW);
    c[0] = dial(s);
    say(&c[0], GET("/now"));
    expect(&c[0], &a, 200, "now");
    client again = dial(s); /* the refused ones, now gone, have left no room */
    expect_error(&again, &a, 503, "too_many_connections");
    hang_up(&again);
    for (int i = 0; i < 4; i++) hang_up(&c[i]);
    buf_free(&a.body);
    close_site(s);
}

/* When no file can be opened, the server waits without turning, and goes on afterwards. */
static void no_files_left(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    struct rlimit before, low;
    int taken[300], n = 0;
    answer a = { 0 };
    struct timespec t0, t1;
    clockid_t clock;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    low = before;
    low.rlim_cur = 256;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    while (n < 300 && (taken[n] = dup(0)) >= 0) n++;
    assert_true(n > 0 && n < 300);
    close(taken[--n]);
    client c = dial(s); /* takes the last one */
    say(&c, GET("/now"));
    assert_int_equal(pthread_getcpuclockid(s->thread, &clock), 0);
    clock_gettime(clock, &t0);
    usleep(400000);
    clock_gettime(clock, &t1);
    double busy = (double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec);
    int accepted = (int)http_about(s->h).accepted;
    while (n) close(taken[--n]);
    setrlimit(RLIMIT_NOFILE, &before);
    assert_int_equal(accepted, 0);
    if (busy > 0.1) fail_msg("busy for %g of 0.4 s", busy);
    expect(&c, &a, 200, "now");
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
}

/* ---- time ---- */

/* Says this, then a blank every 50 ms, until the server closes; the seconds it took. */
static double dribble(site *s, const char *first, answer *a, int status) {
    client c = dial(s);
    double before = now_seconds();
    say(&c, first);
    for (int i = 0; i < 100; i++) {
        struct pollfd p = { .fd = c.fd, .events = POLLIN };
        if (poll(&p, 1, 50) > 0) break;
        if (*first && status) send(c.fd, "x", 1, MSG_NOSIGNAL);
    }
    double seconds = now_seconds() - before;
    if (status) expect_error(&c, a, status, "request_timeout");
    else assert_true(closed(&c));
    hang_up(&c);
    return seconds;
}

static void timeouts(void **state) {
    (void)state;
    site *s = open_site((http_opts){ .header_timeout = 0.3, .body_timeout = 0.2, .idle_timeout = 0.25 });
    answer a = { 0 };
    double t;
    t = dribble(s, "GET /", &a, 408); /* a byte now and then does not help */
    if (t < 0.25 || t > patience(1)) fail_msg("the head: %g s", t);
    t = dribble(s, POST("/", 1000), &a, 408);
    if (t < 0.15 || t > patience(1)) fail_msg("the body: %g s", t);
    t = dribble(s, "", &a, 0);
    if (t < 0.25 || t > patience(1)) fail_msg("nothing: %g s", t);
    client c = dial(s);
    for (int i = 0; i < 3; i++) {
        usleep(100000);
        say(&c, GET("/now"));
        expect(&c, &a, 200, "now");
    }
    double before = now_seconds();
    assert_true(closed(&c));
    t = now_seconds() - before;
    if (t < 0.2 || t > patience(1)) fail_msg("idle: %g s", t);
    hang_up(&c);
    c = dial(s); /* an answer may take its time */
    say(&c, GET("/late"));
    exchange *x = wait_held(s);
    usleep(600000);
    exchange_reply(x, 200, "text/plain", "", "late", 4);
    expect(&c, &a, 200, "late");
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
}

static void slow_reader(void **state) {
    (void)state;
    site *s = open_site((http_opts){ .write_timeout = 0.5 });
    client slow = dial(s), other = dial(s);
    answer a = { 0 };
    say(&slow, GET("/flood"));
    double worst = 0, before = now_seconds();
    while (now_seconds() - before < 0.3) { /* nobody else notices */
        double t = now_seconds();
        say(&other, GET("/now"));
        expect(&other, &a, 200, "now");
        worst = worst > now_seconds() - t ? worst : now_seconds() - t;
    }
    print_message("beside a client that does not read: worst %.1f ms\n", worst * 1000);
    assert_true(worst < patience(0.1));
    wait_for(&s->closed, 1, 3); /* write_timeout */
    assert_true(atomic_load(&s->closed_at) - before > 0.4);
    hang_up(&slow);
    slow = dial(s); /* but one that reads slowly gets everything */
    say(&slow, GET("/big"));
    assert_true(hear_head(&slow, &a));
    for (int i = 0; i < 8; i++) {
        usleep(100000);
        take(&slow, &a.body, (size_t)1 << 20);
    }
    assert_int_equal(a.body.n, (size_t)8 << 20);
    for (size_t i = 0; i < a.body.n; i++)
        if (a.body.p[i] != (char)('a' + i % 23)) fail_msg("byte %zu is wrong", i);
    hang_up(&slow);
    hang_up(&other);
    buf_free(&a.body);
    close_site(s);
}

/* ---- clients that go ---- */

static void reset_on_close(client *c) {
    struct linger l = { .l_onoff = 1, .l_linger = 0 };
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
}

/* A client that closes is noticed within 100 ms: before the answer, in the middle of a stream, by reset; also if it had said more. */
static void gone(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    answer a = { 0 };
    double worst = 0;
    for (int i = 0; i < 16; i++) {
        bool begun = i & 1, reset = i & 2, unread = i & 4, extra = i & 8;
        client c = dial(s);
        say(&c, extra ? GET("/hold") GET("/now") : GET("/hold"));
        exchange *x = wait_held(s);
        atomic_store(&s->closed, 0);
        if (begun) exchange_begin(x, 200, "text/plain", "");
        if (begun) exchange_write(x, "some", 4);
        if (begun && !unread) { /* to the last byte: otherwise closing would be a reset */
            assert_true(hear_head(&c, &a) && strcmp(line(&c), "4") == 0 && take(&c, &a.body, 6));
        } else {
            usleep(5000);
        }
        if (reset) reset_on_close(&c);
        assert_false(exchange_is_closed(x));
        double before = now_seconds();
        hang_up(&c);
        wait_for(&s->closed, 1, 1);
        double t = atomic_load(&s->closed_at) - before;
        worst = worst > t ? worst : t;
        assert_true(exchange_is_closed(x));
        exchange_write(x, "nothing happens", 15);
        assert_int_equal(exchange_pending(x), 0);
        exchange_on_close(x, on_closed, s); /* too late: told at once */
        wait_for(&s->closed, 2, 1);
        if (begun) exchange_end(x);
        else exchange_reply(x, 200, "text/plain", "", "for nobody", 10);
    }
    print_message("closing is seen within %.1f ms\n", worst * 1000);
    assert_true(worst < patience(0.1));
    client c = dial(s); /* closed before anybody has read the request */
    client other = dial(s);
    atomic_store(&s->closed, 0);
    say(&other, GET("/sleep"));
    usleep(50000 * SLOW);
    say(&c, GET("/hold"));
    hang_up(&c);
    exchange *x = wait_held(s);
    wait_for(&s->closed, 1, 1);
    exchange_end(x);
    expect(&other, &a, 200, "now");
    hang_up(&other);
    c = dial(s); /* taken back: never called */
    say(&c, GET("/hold"));
    x = wait_held(s);
    atomic_store(&s->closed, 0);
    exchange_on_close(x, NULL, NULL);
    hang_up(&c);
    for (int i = 0; i < 1000 * SLOW && !exchange_is_closed(x); i++) usleep(1000);
    assert_true(exchange_is_closed(x));
    exchange_end(x);
    assert_int_equal(atomic_load(&s->closed), 0);
    buf_free(&a.body);
    close_site(s);
}

/* A client that only stops writing gets its answer: at once, late, as a stream, with HTTP/1.0. */
static void half_closed(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    answer a = { 0 };
    for (int late = 0; late < 2; late++) {
        client c = dial(s);
        say(&c, GET("/late"));
        shutdown(c.fd, SHUT_WR);
        exchange *x = wait_held(s);
        if (late) usleep(50000);
        assert_false(exchange_is_closed(x));
        exchange_reply(x, 200, "text/plain", "", "late", 4);
        do assert_true(hear(&c, &a));
        while (a.status == 100);
        assert_string_equal(a.body.p, "late");
        assert_true(closed(&c));
        hang_up(&c);
    }
    client c = dial(s);
    say(&c, GET("/late"));
    exchange *x = wait_held(s);
    shutdown(c.fd, SHUT_WR);
    hear(&c, &a);
    assert_int_equal(a.status, 100); /* asked whether it still listens */
    exchange_begin(x, 200, "text/plain", "");
    exchange_write(x, "a", 1);
    usleep(50000);
    exchange_write(x, "b", 1);
    exchange_end(x);
    expect(&c, &a, 200, "ab");
    hang_up(&c);
    c = dial(s);
    say(&c, "GET /late HTTP/1.0\r\n\r\n");
    shutdown(c.fd, SHUT_WR);
    x = wait_held(s);
    usleep(50000);
    exchange_reply(x, 200, "text/plain", "", "old", 3);
    expect(&c, &a, 200, "old");
    hang_up(&c);
    c = dial(s);
    say(&c, "GET /l");
    shutdown(c.fd, SHUT_WR);
    expect_error(&c, &a, 400, "malformed_request");
    hang_up(&c);
    buf_free(&a.body);
    close_site(s);
}

/* Clients close at the same moment as their exchanges end, many times: nothing is called too late, nothing is lost. */
static void closing_races_ending(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    for (int i = 0; i < 400; i++) {
        client c = dial(s);
        say(&c, GET("/hold"));
        exchange *x = wait_held(s);
        if (i & 1) exchange_begin(x, 200, "text/plain", "");
        for (volatile int spin = i * 20; spin > 0; spin--) {}
        hang_up(&c);
        for (volatile int spin = (400 - i) * 20; spin > 0; spin--) {}
        if (i & 1) exchange_end(x);
        else exchange_reply(x, 200, "text/plain", "", "x", 1);
        int before = atomic_load(&s->closed);
        if (i % 50 == 0) usleep(2000);
        assert_int_equal(atomic_load(&s->closed), before);
    }
    close_site(s);
}

/* ---- the end ---- */

static void stop_drains(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    client busy = dial(s), stream = dial(s), idle = dial(s), partial = dial(s);
    answer a = { 0 };
    say(&busy, GET("/late"));
    exchange *x = wait_held(s);
    say(&stream, GET("/late"));
    exchange *y = wait_held(s);
    exchange_begin(y, 200, "text/plain", "");
    say(&idle, GET("/now"));
    expect(&idle, &a, 200, "now");
    say(&partial, "GET /n");
    usleep(20000 * SLOW);
    http_stop(s->h);
    assert_true(closed(&idle));
    expect_error(&partial, &a, 503, "shutting_down");
    client late = { .fd = socket(AF_INET, SOCK_STREAM, 0) };
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)http_port(s->h)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    assert_int_equal(connect(late.fd, (struct sockaddr *)&at, sizeof at), -1);
    usleep(50000);
    exchange_reply(x, 200, "text/plain", "", "drained", 7);
    expect(&busy, &a, 200, "drained");
    assert_non_null(strstr(a.head, "Connection: close\n"));
    assert_true(closed(&busy));
    exchange_write(y, "drained", 7);
    exchange_end(y);
    expect(&stream, &a, 200, "drained");
    hang_up(&late), hang_up(&busy), hang_up(&stream), hang_up(&idle), hang_up(&partial);
    buf_free(&a.body);
    close_site(s);
}

/* Who had connected, and said something, before the stop is answered, even if nobody has looked at it until then. */
static void stop_is_fair(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    client first = dial(s), known = dial(s);
    answer a = { 0 };
    say(&known, GET("/now"));
    expect(&known, &a, 200, "now");
    say(&first, GET("/sleep"));
    usleep(50000 * SLOW);
    client fresh = dial(s);
    say(&known, GET("/known"));
    say(&fresh, GET("/fresh"));
    http_stop(s->h);
    expect(&first, &a, 200, "now");
    expect(&known, &a, 200, "GET /known  127.0.0.1 -");
    assert_true(closed(&known));
    expect(&fresh, &a, 200, "GET /fresh  127.0.0.1 -");
    hang_up(&first), hang_up(&known), hang_up(&fresh);
    buf_free(&a.body);
    close_site(s);
}

static void listen_errors(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    http *h;
    err e = { 0 };
    assert_int_equal(http_listen(&h, &(http_opts){ .port = http_port(s->h) }, &e), -1);
    assert_non_null(strstr(e.msg, "another program listens there"));
    e = (err){ 0 };
    assert_int_equal(http_listen(&h, &(http_opts){ .port = 70000 }, &e), -1);
    assert_non_null(strstr(e.msg, "70000"));
    e = (err){ 0 };
    assert_int_equal(http_listen(&h, &(http_opts){ .host = "no such host" }, &e), -1);
    assert_non_null(strstr(e.msg, "no such host"));
    close_site(s);
}

/* ---- many ---- */

static void two_hundred(void **state) {
    (void)state;
    enum { N = 200 };
    site *s = open_site((http_opts){ 0 });
    client *c = calloc(N, sizeof *c);
    answer a = { 0 };
    char text[100];
    for (int i = 0; i < N; i++) c[i] = dial(s);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) {
            snprintf(text, sizeof text, i % 2 ? GET("/stream?%d") : GET("/%d"), i + round);
            say(&c[i], text);
        }
        for (int i = 0; i < N; i++) {
            if (!hear(&c[i], &a)) fail_msg("client %d: no whole answer", i);
            snprintf(text, sizeof text, "GET /%d  127.0.0.1 -", i + round);
            if (i % 2 == 0) assert_string_equal(a.body.p, text);
            size_t lines = 0;
            for (size_t k = 0; k < a.body.n; k++) lines += a.body.p[k] == '\n';
            assert_int_equal(lines, i % 2 ? i + round : 0);
        }
    }
    assert_int_equal(http_about(s->h).open, N);
    for (int i = 0; i < N; i++) hang_up(&c[i]);
    free(c);
    buf_free(&a.body);
    close_site(s);
}

static uint64_t draw(uint64_t *s) { /* xorshift64 */
    *s ^= *s << 13, *s ^= *s >> 7;
    return *s ^= *s << 17;
}

static long resident_pages(void) {
    long size, pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%ld %ld", &size, &pages) != 2) pages = 0;
    if (f) fclose(f);
    return pages;
}

/* Bytes without sense, requests that are cut off, clients that go at any time: the others are served, and memory does not grow. */
static void random_clients(void **state) {
    (void)state;
    site *s = open_site((http_opts){ .header_timeout = 1, .body_timeout = 1 });
    static const char *const starts[] = { "", "", POST("/echo", 3000), "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", GET("/stream?50"), "GET / HTTP/1.1\r\nX:" };
    uint64_t r = 99;
    long warm = 0;
    answer a = { 0 };
    for (int i = 0; i < 3000 / SLOW; i++) {
        char bytes[2000];
        client c = dial(s);
        const char *start = starts[draw(&r) % 6];
        send(c.fd, start, strlen(start), MSG_NOSIGNAL);
        size_t n = draw(&r) % sizeof bytes;
        for (size_t k = 0; k < n; k++) bytes[k] = (char)draw(&r);
        if (n & 1) send(c.fd, bytes, n, MSG_NOSIGNAL);
        if (n & 2) shutdown(c.fd, SHUT_WR);
        if (n & 4) reset_on_close(&c);
        if ((n & 8) && (n & 2)) while (more(&c)) {}
        hang_up(&c);
        if (i % 100 == 0) {
            c = dial(s);
            say(&c, POST("/echo", 5) "still");
            expect(&c, &a, 200, "still");
            hang_up(&c);
        }
        if (i == 1000) warm = resident_pages();
    }
    long grown = (resident_pages() - warm) * (sysconf(_SC_PAGESIZE) / 1024);
    if (SLOW == 1) print_message("2000 connections more: %ld KiB more memory\n", grown);
    assert_true(SLOW > 1 || grown < 1024);
    buf_free(&a.body);
    close_site(s);
}

typedef struct load {
    const site *s;
    int n;
    double *seconds;
} load;

static void *load_client(void *arg) {
    load *l = arg;
    client c = dial(l->s);
    answer a = { 0 };
    for (int i = 0; i < l->n; i++) {
        double t = now_seconds();
        say(&c, POST("/echo", 5) "hello");
        expect(&c, &a, 200, "hello");
        l->seconds[i] = now_seconds() - t;
        c.in.n = c.at = 0;
    }
    hang_up(&c);
    buf_free(&a.body);
    return NULL;
}

/* 200 streams that one thread writes to, piece after piece, as a scheduler does; every client reads every byte. */
static void *read_streams(void *arg) {
    client *c = arg;
    answer a = { 0 };
    for (int i = 0; i < 200; i++) {
        if (!hear(&c[i], &a)) fail_msg("stream %d was cut", i);
        assert_int_equal(a.body.n, 3000 / SLOW * 20);
    }
    buf_free(&a.body);
    return NULL;
}

static void many_streams(void **state) {
    (void)state;
    site *s = open_site((http_opts){ 0 });
    client c[200];
    exchange *x[200];
    pthread_t reader;
    for (int i = 0; i < 200; i++) {
        c[i] = dial(s);
        say(&c[i], GET("/late"));
        x[i] = wait_held(s);
        exchange_begin(x[i], 200, "text/plain", "");
    }
    pthread_create(&reader, NULL, read_streams, c);
    double before = now_seconds();
    for (int k = 0; k < 3000 / SLOW; k++)
        for (int i = 0; i < 200; i++) exchange_write(x[i], "data: 0123456789ab\n\n", 20);
    double seconds = now_seconds() - before;
    for (int i = 0; i < 200; i++) exchange_end(x[i]);
    pthread_join(reader, NULL);
    print_message("200 streams: %.2f us for each of %d writes\n", seconds * 1e6 / (3000 / SLOW * 200), 3000 / SLOW * 200);
    for (int i = 0; i < 200; i++) hang_up(&c[i]);
    close_site(s);
}

static int by_size(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

static void speed(void **state) {
    (void)state;
    enum { CLIENTS = 8 };
    int n = 5000 / SLOW;
    site *s = open_site((http_opts){ 0 });
    double *seconds = calloc((size_t)n * CLIENTS, sizeof *seconds);
    pthread_t thread[CLIENTS];
    load l[CLIENTS];
    double before = now_seconds();
    for (int i = 0; i < CLIENTS; i++) {
        l[i] = (load){ .s = s, .n = n, .seconds = seconds + (size_t)n * (size_t)i };
        pthread_create(&thread[i], NULL, load_client, &l[i]);
    }
    for (int i = 0; i < CLIENTS; i++) pthread_join(thread[i], NULL);
    double rate = n * CLIENTS / (now_seconds() - before);
    qsort(seconds, (size_t)n * CLIENTS, sizeof *seconds, by_size);
    print_message("echo, %d connections: %.0f requests/s, p50 %.2f ms, p99 %.2f ms\n", CLIENTS, rate, seconds[n * CLIENTS / 2] * 1e3,
                  seconds[n * CLIENTS / 100 * 99] * 1e3);
    assert_int_equal(http_about(s->h).requests, n * CLIENTS);
    assert_true(rate > 200);
    free(seconds);
    close_site(s);
}

/* ---- workers ---- */

typedef struct count_task {
    work_task task;
    atomic_int *done;
} count_task;

static void count(work_task *t) { atomic_fetch_add(((count_task *)t)->done, 1); }

static void workers(void **state) {
    (void)state;
    enum { N = 10000 };
    work *w;
    err e = { 0 };
    atomic_int done = 0;
    count_task *task = calloc(N, sizeof *task);
    assert_int_equal(work_start(&w, 0, &e), -1);
    assert_non_null(strstr(e.msg, "found 0"));
    e = (err){ 0 };
    assert_int_equal(work_start(&w, 4, &e), 0);
    for (int i = 0; i < N; i++) {
        task[i] = (count_task){ { .run = count }, &done };
        work_post(w, &task[i].task);
    }
    work_stop(w); /* runs what is queued */
    assert_int_equal(atomic_load(&done), N);
    free(task);
}

int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, pulse, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(workers, no_stall), cmocka_unit_test_setup(keep_alive, no_stall),
        cmocka_unit_test_setup(pipelined, no_stall), cmocka_unit_test_setup(chunked_both_ways, no_stall),
        cmocka_unit_test_setup(old_clients_and_head, no_stall), cmocka_unit_test_setup(cors, no_stall),
        cmocka_unit_test_setup(refusals, no_stall), cmocka_unit_test_setup(most_connections, no_stall),
        cmocka_unit_test_setup(no_files_left, no_stall), cmocka_unit_test_setup(timeouts, no_stall),
        cmocka_unit_test_setup(slow_reader, no_stall), cmocka_unit_test_setup(gone, no_stall),
        cmocka_unit_test_setup(half_closed, no_stall), cmocka_unit_test_setup(closing_races_ending, no_stall),
        cmocka_unit_test_setup(stop_drains, no_stall), cmocka_unit_test_setup(listen_errors, no_stall),
        cmocka_unit_test_setup(stop_is_fair, no_stall), cmocka_unit_test_setup(two_hundred, no_stall),
        cmocka_unit_test_setup(random_clients, no_stall), cmocka_unit_test_setup(many_streams, no_stall),
        cmocka_unit_test_setup(speed, no_stall),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
