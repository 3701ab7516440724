/* Which Host headers a server answers to: no name that somebody else's DNS could point at it. */
#define _GNU_SOURCE
#include <unistd.h>
#include "tests/test.h"
#include "tools/serve/hosts.h"

static void test_names(void **state) {
    (void)state;
    static const char *const bad[] = { "", ",", "a,", "http://a", "a:80", "a b", "a/b", "..", ".a", "a..b", ".",
                                       "[::1]", "*.example.org", "**", "caf\xc3\xa9" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        static hosts v;
        err e = { 0 };
        if (hosts_add(&v, bad[i], &e) == 0) fail_msg("accepted: %s", bad[i]);
        if (!strstr(e.msg, "expected a name such as llm.example.org")) fail_msg("%s", e.msg);
    }
    static hosts v;
    err e = { 0 };
    char text[300];
    for (int i = 0; i < HOSTS_MOST; i++) {
        snprintf(text, sizeof text, "n%d", i);
        assert_int_equal(hosts_add(&v, text, &e), 0);
    }
    assert_int_equal(hosts_add(&v, "more", &e), -1);
    e = (err){ 0 };
    memset(text, 'a', sizeof text);
    text[254] = 0;
    static hosts other;
    assert_int_equal(hosts_add(&other, text, &e), -1);
    text[253] = 0;
    assert_int_equal(hosts_add(&other, text, &e), 0);
    other.checked = true;
    assert_true(hosts_allow(&other, text));
    assert_int_equal(hosts_add(&other, "*", &e), 0);
    assert_true(other.any);
}

static const struct { const char *host; bool passes; } rows[] = {
    { NULL, true }, { "", true }, /* HTTP/1.0, and clients that are no browser */
    { "localhost", true }, { "localhost:8080", true }, { "LocalHost:8080", true }, { "localhost.", true }, { "localhost.:8080", true },
    { "chat.localhost", true }, { "a.b.LOCALHOST:1", true }, { ".localhost", false }, { "xlocalhost", false }, { "localhost.example.org", false },
    { "127.0.0.1", true }, { "127.0.0.1:8080", true }, { "127.9.9.9", true }, { "127.1:8080", true }, { "0.0.0.0:8080", true },
    { "192.168.1.5:8080", true },
    { "203.0.113.7", true }, { "[::1]", true }, { "[::1]:8080", true }, { "[2001:db8::7]:80", true },
    { "[fe80::1%25eth0]:80", true }, { "::1", true },
    { "[::1", false }, { "[::1]x", false }, { "[::1]:x", false }, { "[evil.example]", false }, { "[]", false }, { "a:b:c", false },
    { "evil.example", false }, { "evil.example:8080", false }, { "127.0.0.1.evil.example", false },
    { "127.0.0.1.nip.io:8080", false }, { "1.2.3.4.5", false },
    { "evil.example.", false }, { "localhost:evil.example", false }, { "localhost evil.example", false },
    { "evil.example/localhost", false }, { "user@localhost", false },
    { "::ffff:7f00:1", true }, { "llm.example.org", true }, { "LLM.example.org.:443", true }, { "two", true },
    { "x.llm.example.org", false }, { "llm.example.orgx", false },
    { "256.1.1.1", false }, { "dead.beef", false }, { ":8080", false }, { ".", false },
};

static void test_rows(void **state) {
    (void)state;
    static hosts v;
    err e = { 0 };
    assert_int_equal(hosts_add(&v, "llm.Example.org,two.", &e), 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) assert_true(hosts_allow(&v, rows[i].host)); /* not checked */
    v.checked = true;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (hosts_allow(&v, rows[i].host) != rows[i].passes)
            fail_msg("\"%s\" should %spass", rows[i].host ? rows[i].host : "(none)", rows[i].passes ? "" : "not ");
    char own[300] = "";
    assert_int_equal(gethostname(own, 200), 0);
    hosts_add_own(&v);
    if (*own) assert_true(hosts_allow(&v, strcat(own, ":8080")));
    char host[400];
    memset(host, 'a', sizeof host);
    host[399] = 0;
    assert_false(hosts_allow(&v, host));
    host[0] = '[';
    host[398] = ']';
    assert_false(hosts_allow(&v, host));
}

static const struct { const char *origin, *host; bool passes; } origins[] = {
    { "http://127.0.0.1:8080", "127.0.0.1:8080", true }, { "http://192.168.1.5:8080", "192.168.1.5:8080", true },
    { "http://Box.lan", "box.lan:80", true }, { "https://box.lan", "box.lan:443", true },
    { "https://box.lan:443", "BOX.lan", true }, { "http://[2001:db8::7]:80", "[2001:db8::7]", true },
    { "http://192.168.1.5:3000", "192.168.1.5:8080", false }, { "https://box.lan:80", "box.lan", false },
    { "http://localhost:3000", "x", true }, { "https://localhost", NULL, true }, { "http://ui.localhost:1", "x", true },
    { "http://127.0.0.1:5173", "x", true }, { "http://127.3.2.1", "x", true },
    { "http://[::1]:3000", "x", true }, { "http://[::1]", "x", true }, { "http://0.0.0.0:3000", "x", true }, { "HTTP://LOCALHOST:3000", "x", true },
    { "https://llm.example.org", "127.0.0.1:8080", true }, { "https://llm.example.org:8443", "x", true }, { "http://two:3000", "x", true },
    { "app://obsidian.md", "x", true }, { "file://", "x", true }, { "tauri://localhost", "x", true },
    { "vscode-webview://0abc", "x", true }, { "vscode-file://vscode-app", "x", true },
    { "https://evil.example", "127.0.0.1:8080", false }, { "http://evil.example:8080", "localhost:8080", false },
    { "null", "localhost", false }, { "", "localhost", false }, { "", "", false },
    { "http://", "", false }, { "http://localhost.evil.example", "x", false }, { "http://127.0.0.1.evil.example", "x", false },
    { "http://127.0.0.1.nip.io", "x", false }, { "http://localhost@evil.example", "x", false },
    { "http://localhost:80@evil.example", "x", false }, { "http://evil.example#localhost", "x", false },
    { "http://xlocalhost", "x", false }, { "http://[::1].evil.example", "x", false }, { "http://[::1", "x", false },
    { "http://x.llm.example.org", "x", false }, { "http://llm.example.orgx", "x", false }, { "localhost", "localhost", false },
    { "//localhost", "localhost", false }, { "ftp://localhost", "localhost", false },
    { "chrome-extension://abcdef", "x", false }, { "http://127.1", "x", false }, { "http://10.0.0.1", "x", false },
    { "http://localhost:evil", "x", false }, { "http://localhost http://evil.example", "x", false }, { "xapp://a", "x", false },
};

static void test_origins(void **state) {
    (void)state;
    static hosts v;
    err e = { 0 };
    assert_int_equal(hosts_add(&v, "llm.Example.org,two.", &e), 0);
    for (size_t i = 0; i < sizeof origins / sizeof *origins; i++)
        if (hosts_allow_origin(&v, origins[i].origin, origins[i].host) != origins[i].passes)
            fail_msg("\"%s\" at %s should %spass", origins[i].origin, origins[i].host ? origins[i].host : "(none)", origins[i].passes ? "" : "not ");
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_names), cmocka_unit_test(test_rows), cmocka_unit_test(test_origins) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
