/* ./serve's beginning: what its options make of it, and that a mistake in one is said before a port is open. And what it answers before a path is
 * known to anybody. */
#define _GNU_SOURCE
#include "tests/serve_site.h"

static int set_up(void **state) {
    (void)state;
    site_open();
    return 0;
}

/* Bytes as they are; the whole reply. */
static http_answer send_raw(const char *bytes, size_t n) {
    http_answer a;
    int fd = http_dial(site.port);
    if (fd < 0) fail_msg("nobody listens");
    for (size_t at = 0; at < n;) {
        ssize_t k = send(fd, bytes + at, n - at, MSG_NOSIGNAL);
        if (k <= 0) break;
        at += (size_t)k;
    }
    if (http_hear(fd, &a)) fail_msg("no reply to %.60s", bytes);
    close(fd);
    return a;
}

static void named(const char *host, const char *path, int status) {
    char text[400];
    int n = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, host);
    http_answer a = send_raw(text, (size_t)n);
    if (a.status != status) fail_msg("%s of %s: expected %d, found %d: %s", path, host, status, a.status, a.body.p);
    if (status == 403 && !strstr(a.body.p, "--allow-host")) fail_msg("%s", a.body.p);
    http_answer_free(&a);
}

/* On 127.0.0.1 without keys a name of the web is refused; with keys, or where all may come, it is not asked for, unless names were given. */
static void test_names(void **state) {
    (void)state;
    char own[256] = "";
    gethostname(own, sizeof own - 1);
    site_start("");
    named("evil.example", "/", 403);
    named("evil.example:80", "/api/tags", 403);
    named("evil.example", "/metrics", 403);
    named("evil.example", "/health", 200);
    named("localhost", "/", 200);
    named("127.0.0.1:1234", "/api/tags", 200);
    if (*own) named(own, "/api/tags", 200);
    site_start("--allow-host llm.example.org,two --allow-host three");
    named("llm.example.org:443", "/api/tags", 200);
    named("two", "/api/tags", 200);
    named("three", "/api/tags", 200);
    named("four", "/api/tags", 403);
    site_start("--allow-host '*'");
    named("evil.example", "/api/tags", 200);
    site_start("--api-key k");
    named("evil.example", "/api/tags", 401);
    site_start("--api-key k --allow-host two");
    named("evil.example", "/api/tags", 403);
    named("two", "/api/tags", 401);
    site_end(SIGTERM);
}

static void from_page(const char *origin, int status) {
    char text[400];
    int n = snprintf(text, sizeof text, "POST /tokenize HTTP/1.1\r\nHost: localhost:%d\r\nOrigin: %s\r\nContent-Type: text/plain\r\n"
                                        "Content-Length: 15\r\nConnection: close\r\n\r\n{\"content\":\"x\"}", site.port, origin);
    http_answer a = send_raw(text, (size_t)n);
    if (a.status != status) fail_msg("a page of %s: expected %d, found %d: %s", origin, status, a.status, a.body.p);
    if (status == 403 && !strstr(a.body.p, "--cors")) fail_msg("%s", a.body.p);
    http_answer_free(&a);
}

/* What a browser sends for any page, without asking first. */
static void test_origins(void **state) {
    (void)state;
    char own[64];
    site_start("--allow-host llm.example.org");
    snprintf(own, sizeof own, "http://localhost:%d", site.port);
    from_page(own, 200);
    from_page("http://127.0.0.1:3000", 200);
    from_page("https://llm.example.org", 200);
    from_page("https://evil.example", 403);
    from_page("null", 403);
    site_start("--cors https://a.example");
    from_page("https://a.example", 200);
    from_page("https://evil.example", 403);
    site_start("--cors '*'");
    from_page("https://evil.example", 200);
    site_start("--api-key k");
    from_page("https://evil.example", 401);
    site_end(SIGTERM);
}

/* Options, the exit status, and a part of what is said; nobody has listened by then. */
static const struct { const char *before, *options, *part; int status; } mistakes[] = {
    { "", "--kernels bogus", "kernels 'bogus' are unknown; usable here: scalar", 1 },
    { "QUERN_KERNELS=bogus", "", "kernels 'bogus' are unknown; usable here: scalar", 1 },
    { "", "--threads 100000", "threads: expected 1 to ", 1 },
    { "", "--threads -1", "--threads: expected no negative number", 2 },
    { "", "--exact --cache-type q8", "--exact keeps its cache in f32", 1 },
    { "", "--cache-type q3", "expected f16 or q8, found \"q3\"", 2 },
    { "", "--allow-host http://a.example",
      "--allow-host: expected a name such as llm.example.org, without scheme and port, or *, found \"http://a.example\"", 2 },
    { "", "--allow-host a.example:80", "--allow-host: expected a name", 2 },
    { "", "--cors example.org", "--cors: expected an origin such as https://example.org", 2 },
    { "", "--cors https://example.org/", "--cors: expected an origin", 2 },
    { "", "--cors https://a.example,https://b.example", "--cors: expected an origin", 2 },
    { "", "--api-key ' k'", "--api-key: a key with blanks around it", 2 },
    { "QUERN_API_KEY='k '", "", "QUERN_API_KEY: a key with blanks around it", 2 },
    { "", "--api-key-file /nothing/there", "/nothing/there", 1 },
    { "", "--pooling best", "--pooling: expected first, mean or last, found \"best\"", 2 },
    { "", "--memory much", "--memory: expected bytes such as 8G, found \"much\"", 2 },
    { "", "--kv-disk much", "--kv-disk: expected bytes", 2 },
    { "", "--kv-dir /dev/null/x", "/dev/null/x", 1 },
    { "", "--response-cache much", "--response-cache: expected bytes", 2 },
    { "", "--keep-alive soon", "--keep-alive: expected a time such as 5m, found \"soon\"", 2 },
    { "", "--trace /nothing/there", "/nothing/there", 1 },
    { "", "--log xml", "--log: expected text, json or none, found \"xml\"", 2 },
    { "", "--trust-proxy me", "--trust-proxy: expected an address", 2 },
    { "", "--alias a", "--alias: expected NAME=MODEL, found \"a\"", 2 },
    { "", "--fallback a", "--fallback: expected MODEL=OTHER", 2 },
    { "", "--host 256.1.1.1", "256.1.1.1: no such host", 1 },
    { "", "--port 70000", "--port: expected 0 to 65535, found 70000", 2 },
    { "", "--max-delay x", "--max-delay: expected a number, found \"x\"", 2 },
};

static void test_mistakes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        char command[1600], text[1600] = "";
        snprintf(command, sizeof command, "%s timeout 60 '%s/serve' '%s' --port 0 %s 2>&1", mistakes[i].before, bin_dir(),
                 site.model, mistakes[i].options);
        FILE *f = popen(command, "r");
        text[fread(text, 1, sizeof text - 1, f)] = 0;
        int rc = pclose(f);
        if (!WIFEXITED(rc) || WEXITSTATUS(rc) != mistakes[i].status || !strstr(text, mistakes[i].part) || strstr(text, "listening"))
            fail_msg("%s %s: status %d: %s", mistakes[i].before, mistakes[i].options, WIFEXITED(rc) ? WEXITSTATUS(rc) : -1, text);
        if (strchr(text, '\n') != text + strlen(text) - 1) fail_msg("more than one line: %s", text);
    }
}

/* Models may come later: a name of none is no mistake, but is said. */
static void test_names_of_no_model(void **state) {
    (void)state;
    buf log = { 0 };
    site_start("--alias gpt=nobody --fallback pip-stories-q8=neither --cors https://example.org --alias fine=pip-stories-q8");
    site_log(&log);
    if (!strstr(log.p, "--alias: model 'nobody' not found; there is: pip-stories-q8") ||
        !strstr(log.p, "--fallback: model 'neither' not found") || strstr(log.p, "fine"))
        fail_msg("%s", log.p);
    assert_int_equal(site_end(SIGTERM), 0);
    buf_free(&log);
}

/* What HTTP refuses, sent for real: the status, and the shape that the path's clients read. */
static void test_errors_of_http(void **state) {
    (void)state;
    static const struct { const char *bytes; int status; const char *shape; } rows[] = {
        { "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413,
          "{\"error\":{\"message\":\"a body of 99999999999 bytes, the most is 33554432\",\"type\":\"invalid_request_error\","
          "\"code\":\"body_too_large\"" },
        { "POST /api/chat HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413, "{\"error\":\"a body of 99999999999 bytes" },
        { "POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413,
          "{\"type\":\"error\",\"error\":{\"message\":\"a body of 99999999999 bytes, the most is 33554432\",\"type\":\"request_too_large\"" },
        { "POST /completion HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413, "\"code\":413,\"name\":\"body_too_large\"" },
        { "POST /api/chat HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501,
          "{\"error\":\"Transfer-Encoding: gzip is not known here; expected chunked\"" },
        { "POST /v1/messages HTTP/1.1\r\nno header\r\n\r\n", 400,
          "{\"type\":\"error\",\"error\":{\"message\":\"malformed request: a header line without a colon\"" },
        { "GET /api/tags HTTP/1.1\r\n\r\n", 400, "{\"error\":\"malformed request: no Host header\"" },
        { "GET /api/tags HTTP/2.0\r\n\r\n", 505, "{\"error\":\"HTTP/2.0 is not spoken here" },
        { "POST /api/chat HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "{\"error\":\"malformed request: a chunk's size" },
        { "\x16\x03\x01\r\n", 400, "{\"error\":{\"message\":\"malformed request" },
    };
    site_start("");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        http_answer a = send_raw(rows[i].bytes, strlen(rows[i].bytes));
        if (a.status != rows[i].status || !strstr(a.body.p, rows[i].shape)) fail_msg("%s%d %s", rows[i].bytes, a.status, a.body.p);
        http_answer_free(&a);
    }
    static char large[80000]; /* a target, and headers, beyond their limits */
    for (int k = 0; k < 2; k++) {
        int n = snprintf(large, sizeof large, k ? "GET /api/tags HTTP/1.1\r\nHost: a\r\nX: %070000d\r\n\r\n"
                                                : "GET /v1/messages/%070000d HTTP/1.1\r\n\r\n", 0);
        http_answer a = send_raw(large, (size_t)n);
        if (a.status != (k ? 431 : 414) ||
            !strstr(a.body.p, k ? "{\"error\":\"the request's headers" : "{\"type\":\"error\",\"error\":{\"message\":\"the request's target"))
            fail_msg("%d %s", a.status, a.body.p);
        http_answer_free(&a);
    }
    site_end(SIGTERM);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_names), cmocka_unit_test(test_origins), cmocka_unit_test(test_mistakes),
                                        cmocka_unit_test(test_names_of_no_model), cmocka_unit_test(test_errors_of_http) };
    return cmocka_run_group_tests(tests, set_up, site_close);
}
