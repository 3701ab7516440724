/* http_site: what the tests of the server's HTTP share: a site whose handlers answer from workers, from other threads, late or never, and clients
 * that speak HTTP byte by byte. Included once by each of them. */
#ifndef QUERN_TEST_HTTP_SITE_H
#define QUERN_TEST_HTTP_SITE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>
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

static inline void *pulse(void *arg) {
    for (double last = now_seconds(), t;; last = t) {
        usleep(5000);
        t = now_seconds();
        if (t - last - 0.005 > atomic_load(&stall)) atomic_store(&stall, t - last - 0.005);
    }
    return arg;
}

static inline double patience(double seconds) { return seconds * SLOW + 3 * atomic_load(&stall); }

static inline int no_stall(void **state) {
    (void)state;
    atomic_store(&stall, 0);
    return 0;
}

/* ---- a site ---- */

typedef struct site {
    http *h;
    work *w, *light;
    pthread_t thread;
    atomic_bool blocks;       /* requests of /block do not end */
    _Atomic(exchange *) held; /* the last of /hold and /late: the test answers it */
    atomic_int closed;        /* calls of on_close */
    _Atomic double closed_at;
    atomic_bool stop_flood;
} site;

static inline void *run_site(void *arg) {
    err e = { 0 };
    return (void *)(intptr_t)http_run(((site *)arg)->h, &e);
}

static inline void on_closed(void *arg) {
    site *s = arg;
    atomic_store(&s->closed_at, now_seconds());
    atomic_fetch_add(&s->closed, 1);
}

static inline void answer_echo(exchange *x) {
    const http_request *r = exchange_request(x);
    exchange_reply(x, 200, "text/plain", "X-Extra: yes\r\n", r->body, r->body_n);
}

static inline void answer_info(exchange *x) {
    const http_request *r = exchange_request(x);
    const char *test = exchange_header(x, "x-test");
    char text[400];
    int n = snprintf(text, sizeof text, "%s %s %s %s %s", r->method, r->path, r->query, r->peer, test ? test : "-");
    exchange_reply(x, r->arrived > 0 ? 200 : 500, "text/plain", "", text, (size_t)n);
}

static inline void answer_stream(exchange *x) {
    exchange_begin(x, 200, "text/event-stream", "");
    for (int i = 0, n = atoi(exchange_request(x)->query); i < n; i++) {
        char piece[40];
        exchange_write(x, piece, (size_t)snprintf(piece, sizeof piece, "piece %d\n", i));
    }
    exchange_end(x);
}

/* Streams as fast as it can, up to 40 MB, until the client has gone. */
static inline void answer_flood(site *s, exchange *x) {
    static char block[10000];
    exchange_on_close(x, on_closed, s);
    exchange_begin(x, 200, "text/plain", "");
    for (int i = 0; i < 4000 && !exchange_is_closed(x); i++) exchange_write(x, block, sizeof block);
    while (!exchange_is_closed(x) && !atomic_load(&s->stop_flood) && exchange_pending(x)) usleep(1000);
    exchange_end(x);
}

static inline void answer_big(exchange *x) {
    size_t n = (size_t)8 << 20;
    char *p = malloc(n);
    for (size_t i = 0; p && i < n; i++) p[i] = (char)('a' + i % 23);
    exchange_reply(x, 200, "text/plain", NULL, p, n);
    free(p);
}

static inline bool on_path(const exchange *x, const char *path) { return strcmp(exchange_request(x)->path, path) == 0; }

static inline void on_request(void *arg, exchange *x) {
    site *s = arg;
    if (on_path(x, "/echo")) return answer_echo(x);
    if (on_path(x, "/stream")) return answer_stream(x);
    if (on_path(x, "/flood")) return answer_flood(s, x);
    if (on_path(x, "/big")) return answer_big(x);
    if (on_path(x, "/none")) return exchange_end(x);
    while (on_path(x, "/block") && atomic_load(&s->blocks)) usleep(1000);
    if (on_path(x, "/empty")) return exchange_reply(x, 204, NULL, "", "no body", 7);
    if (on_path(x, "/hold")) exchange_on_close(x, on_closed, s);
    if (on_path(x, "/hold") || on_path(x, "/late")) return atomic_store(&s->held, x);
    answer_info(x);
}

static inline bool answer_now(void *arg, exchange *x) {
    (void)arg;
    if (on_path(x, "/sleep")) usleep(200000); /* and nobody is served */
    if (!on_path(x, "/now") && !on_path(x, "/sleep")) return false;
    exchange_reply(x, 200, "text/plain", "", "now", 3);
    return true;
}

static inline bool named_light(void *arg, const http_request *r) {
    (void)arg;
    return strncmp(r->path, "/light", 6) == 0;
}

static inline site *open_site(http_opts o) {
    site *s = calloc(1, sizeof *s);
    err e = { 0 };
    if (work_start(&s->w, 3, &e) || work_start(&s->light, 1, &e)) fail_msg("%s", e.msg);
    o.light = s->light;
    o.is_light = named_light;
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
static inline void close_site(site *s) {
    void *status;
    http_stop(s->h);
    pthread_join(s->thread, &status);
    assert_null(status);
    http_counts c = http_about(s->h);
    assert_int_equal(c.open, 0);
    assert_int_equal(c.active, 0);
    work_stop(s->w);
    work_stop(s->light);
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

static inline client dial(const site *s) {
    client c = { .fd = socket(AF_INET, SOCK_STREAM, 0) };
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)http_port(s->h)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval t = { .tv_sec = 20 };
    assert_true(c.fd >= 0);
    setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    if (connect(c.fd, (struct sockaddr *)&a, sizeof a)) fail_msg("connect: %s", strerror(errno));
    return c;
}

static inline void hang_up(client *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    buf_free(&c->in);
}

static inline void say_n(client *c, const char *bytes, size_t n) {
    for (size_t at = 0; at < n;) {
        ssize_t k = send(c->fd, bytes + at, n - at, MSG_NOSIGNAL);
        if (k < 0) fail_msg("send: %s", strerror(errno));
        at += (size_t)k;
    }
}

static inline void say(client *c, const char *text) { say_n(c, text, strlen(text)); }

static inline bool more(client *c) { /* false: the end, or broken */
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

static inline bool take(client *c, buf *out, size_t n) {
    while (c->in.n - c->at < n)
        if (!more(c)) return false;
    buf_add(out, c->in.p + c->at, n);
    c->at += n;
    return true;
}

static inline bool closed(client *c) { return c->at == c->in.n && !more(c); }

/* Reads one answer; false when the connection ended before it did. */
static inline bool hear_head(client *c, answer *a) {
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

static inline bool hear(client *c, answer *a) {
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

static inline void expect(client *c, answer *a, int status, const char *body) {
    if (!hear(c, a)) fail_msg("no whole answer: status %d, head %s", a->status, a->head);
    if (a->status != status || (body && strcmp(a->body.p, body) != 0))
        fail_msg("expected %d %s, found %d %s", status, body ? body : "", a->status, a->body.p);
}

/* An error of the HTTP layer: JSON with code, message and type; the connection is closed behind it. */
static inline void expect_error(client *c, answer *a, int status, const char *code) {
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

static inline void reset_on_close(client *c) {
    struct linger l = { .l_onoff = 1, .l_linger = 0 };
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
}

static inline void wait_for(atomic_int *v, int n, double seconds) {
    double before = now_seconds();
    while (atomic_load(v) < n && now_seconds() - before < patience(seconds)) usleep(500);
    if (atomic_load(v) < n) fail_msg("waited %g s for %d, found %d", seconds, n, atomic_load(v));
}

static inline exchange *wait_held(site *s) {
    for (int i = 0; i < 5000 * SLOW && !atomic_load(&s->held); i++) usleep(1000);
    assert_non_null(atomic_load(&s->held));
    return atomic_exchange(&s->held, NULL);
}

#define GET(path) "GET " path " HTTP/1.1\r\nHost: x\r\n\r\n"
#define POST(path, n) "POST " path " HTTP/1.1\r\nHost: x\r\nContent-Length: " #n "\r\n\r\n"

#endif
