/* The parser of HTTP requests: what it understands, what it refuses and how, and that neither depends on how the bytes were cut. */
#include "tools/serve/http_parse.h"

#include "tests/test.h"

static const http_limits limits = { .target = 200, .header = 1000, .body = 2000, .headers = 12 };

/* All that an outcome consists of, as one text. */
static void describe(const http_parser *p, size_t used, buf *out) {
    const http_request *r = &p->request;
    out->n = 0;
    buf_fmt(out, "stage %d used %zu ", (int)p->stage, used);
    if (p->stage == PARSE_BAD) {
        char path[40];
        parser_path(p, path, sizeof path);
        buf_fmt(out, "%d %s %s (%s%s)", p->status, p->code, p->message, parser_is_head(p) ? "HEAD " : "", path);
    }
    if (p->stage == PARSE_BODY || p->stage == PARSE_WHOLE) {
        buf_fmt(out, "%s %s %s %d %d %d", r->method, r->path, r->query, p->http10, p->keep_alive, p->expects);
        for (int i = 0; i < r->n_headers; i++) buf_fmt(out, " [%s: %s]", r->headers[i].name, r->headers[i].value);
    }
    if (p->stage == PARSE_WHOLE) buf_fmt(out, " body %zu %s", r->body_n, r->body);
}

/* Feeds these bytes in two pieces, or byte by byte (cut 0). */
static void outcome(const char *bytes, size_t n, size_t cut, buf *out) {
    http_parser p = { .limits = limits };
    size_t used = 0;
    if (cut) used = parser_feed(&p, bytes, cut);
    if (cut && used == cut) used += parser_feed(&p, bytes + cut, n - cut);
    for (size_t i = 0; !cut && i < n; i++) used += parser_feed(&p, bytes + i, 1);
    describe(&p, used, out);
    parser_free(&p);
}

/* Parses at once, and wherever the bytes can be cut, expecting the same; returns the description. */
static const char *parsed_n(const char *bytes, size_t n) {
    static buf whole;
    buf other = { 0 };
    outcome(bytes, n, n, &whole);
    for (size_t cut = 0; cut < n; cut++) {
        outcome(bytes, n, cut, &other);
        if (strcmp(whole.p, other.p) != 0) fail_msg("cut at %zu: %s\nat once: %s", cut, other.p, whole.p);
    }
    buf_free(&other);
    return whole.p;
}

static const char *parsed(const char *bytes) { return parsed_n(bytes, strlen(bytes)); }

static void expect(const char *bytes, const char *text) {
    char want[4096];
    snprintf(want, sizeof want, "stage 2 used %zu %s", strlen(bytes), text);
    assert_string_equal(parsed(bytes), want);
}

static void expect_bad(const char *bytes, int status, const char *mention) {
    const char *found = strstr(parsed(bytes), " ");
    char want[40];
    snprintf(want, sizeof want, " %d ", status);
    if (strncmp(parsed(bytes), "stage 3 ", 8) != 0 || !strstr(found, want) || !strstr(found, mention))
        fail_msg("%s\nexpected %d %s, found %s", bytes, status, mention, found);
}

#define HOST "Host: a\r\n"

static void understands(void **state) {
    (void)state;
    expect("GET / HTTP/1.1\r\n" HOST "\r\n", "GET /  0 1 0 [host: a] body 0 ");
    expect("GET /v1/models/a%2Fb:c?x=%20&y HTTP/1.1\r\nHOST:\t a \t\r\nX-Empty:\r\n\r\n",
           "GET /v1/models/a/b:c x=%20&y 0 1 0 [host: a] [x-empty: ] body 0 ");
    expect("\r\n\r\nGET http://host:80/p%c3%a9?q HTTP/1.1\r\n" HOST "\r\n", "GET /p\xc3\xa9 q 0 1 0 [host: a] body 0 ");
    expect("GET http://host HTTP/1.1\r\n" HOST "\r\n", "GET /  0 1 0 [host: a] body 0 ");
    expect("OPTIONS * HTTP/1.1\r\n" HOST "\r\n", "OPTIONS *  0 1 0 [host: a] body 0 ");
    expect("POST /x HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello", "POST /x  0 1 0 [host: a] [content-length: 5] body 5 hello");
    expect("POST /x HTTP/1.7\r\n" HOST "Content-Length: 000\r\n\r\n", "POST /x  0 1 0 [host: a] [content-length: 000] body 0 ");
    expect("GET /\xc3\xa9 HTTP/1.1\r\n" HOST "X: \xff\r\n\r\n", "GET /\xc3\xa9  0 1 0 [host: a] [x: \xff] body 0 ");
    expect("POST / HTTP/1.1\r\n" HOST "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx",
           "POST /  0 1 1 [host: a] [expect: 100-Continue] [content-length: 1] body 1 x");
}

static void understands_chunks(void **state) {
    (void)state;
#define CHUNKED "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: Chunked\r\n\r\n"
#define HEAD "POST /  0 1 0 [host: a] [transfer-encoding: Chunked] "
    expect(CHUNKED "0\r\n\r\n", HEAD "body 0 ");
    expect(CHUNKED "5\r\nhello\r\n0\r\n\r\n", HEAD "body 5 hello");
    expect(CHUNKED "5;a=b ; c=\"d\"\r\nhello\r\n00A \t;x\r\n, you all!\r\n0000;last\r\nX-Sum: 1\r\nY:\r\n\r\n", HEAD "body 15 hello, you all!");
    expect_bad(CHUNKED "5\r\nhello!\r\n0\r\n\r\n", 400, "longer than its size");
    expect_bad(CHUNKED "5\r\nhello\n0\r\n\r\n", 400, "LF alone");
    const char *sizes[] = { "", "x", "-1", "+1", "0x5", "5 ", "5 x", " 5", "g;", ";a", "5,", "1ffffffffffffffff", "ffffffffffffffff0" };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char text[300];
        snprintf(text, sizeof text, CHUNKED "%s\r\nhello\r\n0\r\n\r\n", sizes[i]);
        expect_bad(text, 400, "chunk's size");
    }
    expect_bad(CHUNKED "fffffffffffffff\r\n", 413, "2000");
    expect_bad(CHUNKED "7d1\r\n", 413, "2000");
    expect_bad(CHUNKED "0\r\nbad trailer\r\n\r\n", 400, "colon");
    expect_bad(CHUNKED "0\r\nA: b\r\n c\r\n\r\n", 400, "folded");
}

static void keeps_alive(void **state) {
    (void)state;
    expect("GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", "GET /  0 0 0 [host: a] [connection: close] body 0 ");
    expect("GET / HTTP/1.1\r\n" HOST "Connection: x, Close\r\n\r\n", "GET /  0 0 0 [host: a] [connection: x, Close] body 0 ");
    expect("GET / HTTP/1.1\r\n" HOST "Connection: closed\r\n\r\n", "GET /  0 1 0 [host: a] [connection: closed] body 0 ");
    expect("GET / HTTP/1.0\r\n\r\n", "GET /  1 0 0 body 0 ");
    expect("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "GET /  1 1 0 [connection: Keep-Alive] body 0 ");
}

static void refuses(void **state) {
    (void)state;
    const struct { const char *bytes; int status; const char *mention; } cases[] = {
        { "GET /\r\n", 400, "METHOD TARGET HTTP/1.1" }, { "GET  / HTTP/1.1\r\n", 400, "METHOD" }, { " GET / HTTP/1.1\r\n", 400, "METHOD" },
        { "GET / HTTP/1.1 \r\n", 400, "METHOD" }, { "GET / x HTTP/1.1\r\n", 400, "METHOD" }, { "G(T / HTTP/1.1\r\n", 400, "METHOD" },
        { "GET /\tx HTTP/1.1\r\n", 400, "tab" }, { "GET / http/1.1\r\n", 400, "METHOD" }, { "GET / HTTP/11\r\n", 400, "METHOD" },
        { "GET / HTTP/2.0\r\n", 505, "HTTP/2.0" }, { "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2.0" }, { "GET / HTTP/0.9\r\n", 505, "HTTP/0.9" },
        { "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJ / HTTP/1.1\r\n", 501, "36 characters" },
        { "\r\n\r\n\r\n\r\n\r\n", 400, "blank lines" }, { "\n", 400, "LF alone" }, { "GET / HTTP/1.1\n", 400, "LF alone" },
        { "GET / HTTP/1.1\r" HOST, 400, "CR without LF" }, { "\x16\x03\x01", 400, "control character" },
        { "GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "a blank between" }, { "GET / HTTP/1.1\r\n" HOST " folded\r\n\r\n", 400, "folded" },
        { "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "folded" }, { "GET / HTTP/1.1\r\nHost\r\n\r\n", 400, "colon" },
        { "GET / HTTP/1.1\r\n: a\r\n\r\n", 400, "name" }, { "GET / HTTP/1.1\r\nHo st: a\r\n\r\n", 400, "name" },
        { "GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", 400, "CR without LF" }, { "GET / HTTP/1.1\r\nX: \x01\r\n", 400, "control" },
        { "GET / HTTP/1.1\r\n\r\n", 400, "no Host" }, { "GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400, "several Host" },
        { "GET x HTTP/1.1\r\n" HOST "\r\n", 400, "begin with /" }, { "GET * HTTP/1.1\r\n" HOST "\r\n", 400, "begin with /" },
        { "CONNECT a:1 HTTP/1.1\r\n" HOST "\r\n", 400, "begin with /" }, { "GET /a#b HTTP/1.1\r\n" HOST "\r\n", 400, "#" },
        { "GET /%4 HTTP/1.1\r\n" HOST "\r\n", 400, "hexadecimal" }, { "GET /%xy HTTP/1.1\r\n" HOST "\r\n", 400, "hexadecimal" },
        { "GET /a%00b HTTP/1.1\r\n" HOST "\r\n", 400, "%00" },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "both" },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\ncontent-length: 1\r\n\r\n", 400, "several Content-Length" },
        { "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "several Transfer" },
        { "POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n", 400, "HTTP/1.0" },
        { "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "gzip" },
        { "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\n", 501, "identity" },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 1, 1\r\n\r\n", 400, "not a number" },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\n", 400, "not a number" },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: +1\r\n\r\n", 400, "not a number" },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\n", 400, "not a number" },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 0x1\r\n\r\n", 400, "not a number" },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 2001\r\n\r\n", 413, "2001" },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551617\r\n\r\n", 413, "18446744073709551617" },
        { "POST / HTTP/1.1\r\n" HOST "Expect: magic\r\n\r\n", 417, "magic" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) expect_bad(cases[i].bytes, cases[i].status, cases[i].mention);
    const char nul[] = "GET / HTTP/1.1\r\nX: a\0b\r\n\r\n";
    assert_non_null(strstr(parsed_n(nul, sizeof nul - 1), "NUL"));
}

static void keeps_limits(void **state) {
    (void)state;
    buf b = { 0 };
    for (int over = 0; over < 2; over++) { /* exactly at the limit, and beyond it */
        b.n = 0;
        buf_fmt(&b, "GET /%0*d HTTP/1.1\r\n" HOST "\r\n", (int)limits.target - 1 + over, 0);
        if (over) expect_bad(b.p, 414, "200");
        else assert_non_null(strstr(parsed(b.p), "stage 2"));
        b.n = 0;
        buf_str(&b, "GET / HTTP/1.1\r\n" HOST "X: ");
        buf_fmt(&b, "%0*d\r\n\r\n", (int)(limits.header - b.n - 4) + over, 0);
        if (over) expect_bad(b.p, 431, "1000");
        else assert_non_null(strstr(parsed(b.p), "stage 2"));
        b.n = 0;
        buf_str(&b, "GET / HTTP/1.1\r\n" HOST);
        for (int i = 1; i < limits.headers + over; i++) buf_str(&b, "x: y\r\n");
        buf_str(&b, "\r\n");
        if (over) expect_bad(b.p, 431, "12");
        else assert_non_null(strstr(parsed(b.p), "stage 2"));
        b.n = 0;
        buf_fmt(&b, CHUNKED "0\r\nX: %0*d\r\n\r\n", (int)limits.header - 7 + over, 0); /* trailers */
        if (over) expect_bad(b.p, 431, "1000");
        else assert_non_null(strstr(parsed(b.p), "stage 2"));
        b.n = 0;
        buf_str(&b, CHUNKED);
        for (int i = 0; i < 10 + over; i++) buf_fmt(&b, "1;%0*d\r\nx\r\n", 99, 0);
        buf_str(&b, "0\r\n\r\n");
        if (over) expect_bad(b.p, 400, "extensions");
        else assert_non_null(strstr(parsed(b.p), "stage 2"));
    }
    for (int over = 0; over < 2; over++) { /* chunks together */
        b.n = 0;
        buf_fmt(&b, CHUNKED "3E8\r\n%01000d\r\n3E7\r\n%0999d\r\n%d\r\n", 0, 0, 1 + over);
        if (over) expect_bad(b.p, 413, "2000");
        else assert_non_null(strstr(parsed(b.p), "stage 1"));
    }
    b.n = 0;
    buf_fmt(&b, "GET /%03000d", 0); /* no end in sight */
    expect_bad(b.p, 414, "200");
    b.n = 0;
    buf_fmt(&b, CHUNKED "1;%03000d", 0);
    expect_bad(b.p, 400, "long line");
    buf_free(&b);
}

static void stops_behind_a_request(void **state) {
    (void)state;
    const char two[] = "POST /1 HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nabGET /2 HTTP/1.1\r\n" HOST "\r\n";
    http_parser p = { .limits = limits };
    size_t first = parser_feed(&p, two, sizeof two - 1);
    assert_int_equal(p.stage, PARSE_WHOLE);
    assert_string_equal(p.request.path, "/1");
    assert_string_equal(p.request.body, "ab");
    assert_string_equal(parser_header(&p, "content-length"), "2");
    assert_null(parser_header(&p, "content"));
    assert_int_equal(parser_feed(&p, "x", 1), 0);
    parser_reset(&p);
    assert_false(parser_has_begun(&p));
    assert_int_equal(first + parser_feed(&p, two + first, sizeof two - 1 - first), sizeof two - 1);
    assert_int_equal(p.stage, PARSE_WHOLE);
    assert_string_equal(p.request.path, "/2");
    assert_int_equal(p.request.body_n, 0);
    parser_free(&p);
}

static uint64_t rng_next(uint64_t *s) { /* xorshift64 */
    *s ^= *s << 13, *s ^= *s >> 7;
    return *s ^= *s << 17;
}

/* Pieces of requests, put together at random and cut at random: the same outcome as at once, and never beyond the limits. */
static void random_requests(void **state) {
    (void)state;
    static const char *const pieces[] = { "GET ", "POST ", "/", "/a%20b", " HTTP/1.1", "\r\n", "\r\n\r\n", HOST,
                                          "Content-Length: ", "3\r\n", "Transfer-Encoding: chunked\r\n",
                                          "5\r\nhello\r\n", "0\r\n\r\n", ":", " ", "\r", "\n", "%", "abc",
                                          "Connection: close\r\n", ";x=y", "POST / HTTP/1.1\r\n" HOST, CHUNKED };
    buf b = { 0 }, whole = { 0 }, cut = { 0 };
    uint64_t r = 7;
    int good = 0;
    for (int round = 0; round < 20000; round++) {
        b.n = 0;
        for (uint64_t k = 2 + rng_next(&r) % 12; k; k--) buf_str(&b, pieces[rng_next(&r) % (sizeof pieces / sizeof *pieces)]);
        for (uint64_t k = rng_next(&r) % 8; k == 1; k--) b.p[rng_next(&r) % b.n] = (char)rng_next(&r);
        outcome(b.p, b.n, b.n, &whole);
        good += strncmp(whole.p, "stage 2", 7) == 0;
        outcome(b.p, b.n, rng_next(&r) % b.n, &cut);
        assert_string_equal(whole.p, cut.p);
    }
    assert_true(good > 100);
    buf_free(&b);
    buf_free(&whole);
    buf_free(&cut);
}

/* Who refuses a request wants to know its path, however early it was refused. */
static void tells_the_path(void **state) {
    (void)state;
    static const struct { const char *bytes, *path; } rows[] = {
        { "POST /v1/x?a=b HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n", "(/v1/x)" },
        { "POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "(/v1/x)" },
        { "POST /v1/x HTTP/1.1\r\nbad header\r\n\r\n", "(/v1/x)" }, { "POST /v1/x HTTP/1.1\r\nA: b\n", "(/v1/x)" },
        { "POST /v1/x HTTP/1.1\r\n\r\n", "(/v1/x)" },
        { "HEAD /v1/x HTTP/1.1\r\n\r\n", "(HEAD /v1/x)" }, { "\r\nHEAD /v1/x HTTP/2.0\r\n", "(HEAD /v1/x)" },
        { "POST /v1/x\r\n", "(/v1/x)" }, { "POST /v1/x\n", "(/v1/x)" },
        { "POST http://a.example/v1/x?y HTTP/1.1\r\n\r\n", "(/v1/x)" }, { "POST HTTPS://a.example HTTP/1.1\r\n\r\n", "()" },
        { "POST /a%zz HTTP/1.1\r\nHost: a\r\n\r\n", "(/a%zz)" },
        { "AVERYLONGMETHODOFMORETHANTHIRTYTWOLETTERS /v1/x HTTP/1.1\r\n", "(/v1/x)" }, { "\x01", "()" }, { "GET", NULL },
        { "GET \x01", "()" }, { " /v1/x HTTP/1.1\r\n", "(/v1/x)" },
        { "POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "(/v1/x)" },
        { "POST /0123456789012345678901234567890123456789 HTTP/1.1\r\n\r\n", "(/01234567890123456789012345678901234567)" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *found = parsed(rows[i].bytes);
        if (rows[i].path ? !strstr(found, rows[i].path) : strncmp(found, "stage 0", 7)) fail_msg("%s: %s", rows[i].bytes, found);
    }
    char text[400];
    snprintf(text, sizeof text, "POST /v1/%0300d HTTP/1.1\r\n", 0); /* too long, in the middle of its line */
    assert_non_null(strstr(parsed(text), "(/v1/00000"));
    http_parser none = { .limits = limits };
    parser_path(&none, text, sizeof text);
    assert_string_equal(text, "");
    assert_false(parser_is_head(&none));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(understands),  cmocka_unit_test(understands_chunks),     cmocka_unit_test(keeps_alive),
        cmocka_unit_test(refuses),      cmocka_unit_test(keeps_limits),           cmocka_unit_test(stops_behind_a_request),
        cmocka_unit_test(tells_the_path), cmocka_unit_test(random_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
