/* Any bytes as HTTP requests, cut anywhere: the limits are kept, strings end, and the outcome does not depend on the cuts. The first two
 * bytes choose the cuts. */
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>

#include "tools/serve/http_parse.h"
#include "tools/serve/proxy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const http_limits limits = { .target = 64, .header = 512, .body = 300, .headers = 8 };

/* Whom a proxy asks for: an address, in the spelling that inet_ntop gives it. */
static void check_client(const http_request *whole) {
    static proxies v;
    err e = { 0 };
    if (!v.n && proxies_add(&v, "127.0.0.1,10.0.0.0/8,fd00::/8", &e)) abort();
    http_request r = *whole;
    r.peer = "127.0.0.1";
    char client[PROXY_ADDRESS], again[PROXY_ADDRESS], bad[64];
    unsigned char a[16];
    if (proxies_client(&v, &r, client, bad) == FORWARDED_BAD && strcmp(client, r.peer)) abort();
    int family = strchr(client, ':') ? AF_INET6 : AF_INET;
    if (inet_pton(family, client, a) != 1 || !inet_ntop(family, a, again, sizeof again) || strcmp(client, again)) abort();
}

static void add_text(buf *b, const char *s) { buf_add(b, s, strlen(s) + 1); }

/* What a request consists of, once it is whole or refused. */
static void add_outcome(buf *b, const http_parser *p) {
    const http_request *r = &p->request;
    buf_fmt(b, "%d %d %d;", (int)p->stage, p->http10, p->keep_alive);
    if (p->stage == PARSE_BAD) {
        buf_fmt(b, "%d ", p->status);
        add_text(b, p->code);
        add_text(b, p->message);
        char path[24];
        parser_path(p, path, sizeof path);
        add_text(b, path);
    }
    if (p->stage != PARSE_WHOLE) return;
    if (r->body_n > limits.body || r->n_headers > limits.headers || strlen(r->path) > limits.target || r->body[r->body_n]) abort();
    if (*r->path != '/' && strcmp(r->path, "*") != 0) abort();
    add_text(b, r->method);
    add_text(b, r->path);
    add_text(b, r->query);
    for (int i = 0; i < r->n_headers; i++) {
        if (strpbrk(r->headers[i].name, " \r\n:") || strpbrk(r->headers[i].value, "\r\n")) abort();
        add_text(b, r->headers[i].name);
        add_text(b, r->headers[i].value);
    }
    buf_add(b, r->body, r->body_n);
    check_client(r);
}

/* Request after request until the bytes end or one is refused. */
static void parse_all(const uint8_t *data, size_t n, unsigned seed, buf *out) {
    http_parser p = { .limits = limits };
    size_t at = 0;
    while (at < n && p.stage != PARSE_BAD) {
        size_t most = seed ? 1 + (seed >> 16) % 23 : n;
        seed = seed ? seed * 1664525u + 1013904223u : 0;
        if (most > n - at) most = n - at;
        size_t used = parser_feed(&p, (const char *)data + at, most);
        if (used > most || (used < most && p.stage < PARSE_WHOLE)) abort();
        if (p.body.n > limits.body || p.head.n > limits.header) abort();
        at += used;
        if (p.stage != PARSE_WHOLE) continue;
        add_outcome(out, &p);
        parser_reset(&p);
    }
    buf_fmt(out, "at %zu ", at);
    if (p.stage == PARSE_BAD) add_outcome(out, &p);
    parser_free(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2) return 0;
    buf whole = { 0 }, cut = { 0 };
    parse_all(data + 2, n - 2, 0, &whole);
    parse_all(data + 2, n - 2, 1u + data[0] + 256u * data[1], &cut);
    if (whole.n != cut.n || memcmp(whole.p, cut.p, whole.n) != 0) abort();
    buf_free(&whole);
    buf_free(&cut);
    return 0;
}
