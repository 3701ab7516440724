/* ./serve's beginning: what its options make of it, and that a mistake in one is said before a port is open. And what it answers before a path is
 * known to anybody. */
#define _GNU_SOURCE
#include "tests/serve_site.h"

static int set_up(void **state) {
    (void)state;
    make_work_dir();
    static char path[800];
    snprintf(path, sizeof path, "%s", converted("weights/pip-stories", "q8"));
    site.model = path;
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    site_end(SIGKILL);
    remove_work_dir();
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

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_names) };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
