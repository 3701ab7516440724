/* Who asks when a proxy asks for him: whom X-Forwarded-For is believed from, how far, and what is no address. */
#include <arpa/inet.h>
#include "tests/test.h"
#include "tools/serve/proxy.h"

static void test_trust(void **state) {
    (void)state;
    static const char *const bad[] = { "", ",", "10.0.0.1,", "10.0.0", "10.0.0.1/33", "10.0.0.1/", "10.0.0.1/-1",
                                       "10.0.0.1/8x", "10.0.0.1/ 8", "::1/129", "[::1]", "localhost", "10.0.0.1 ", "10.0.0.256",
                                       "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc:dddd:eeee:ffff:0000" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        proxies v = { .n = 0 };
        err e = { 0 };
        if (proxies_add(&v, bad[i], &e) == 0) fail_msg("accepted: %s", bad[i]);
        assert_non_null(strstr(e.msg, "expected an address"));
    }
    proxies v = { .n = 0 };
    err e = { 0 };
    for (int i = 0; i < PROXY_MOST; i++) assert_int_equal(proxies_add(&v, "10.0.0.1", &e), 0);
    assert_int_equal(proxies_add(&v, "10.0.0.1", &e), -1);
}

/* trust; the peer; the headers; the client, NULL: malformed. */
static const struct { const char *trust, *peer, *header[3], *client; } rows[] = {
    { "127.0.0.1", "127.0.0.1", { "203.0.113.7" }, "203.0.113.7" },
    { "127.0.0.1", "127.0.0.2", { "203.0.113.7" }, "127.0.0.2" },        /* of a stranger: not believed */
    { "127.0.0.1", "127.0.0.1", { NULL }, "127.0.0.1" },
    { "127.0.0.1", "127.0.0.1", { "9.9.9.9, 203.0.113.7" }, "203.0.113.7" }, /* what a client sends itself stands before */
    { "127.0.0.1", "127.0.0.1", { "bogus, , 203.0.113.7" }, "203.0.113.7" }, /* and is not even read */
    { "127.0.0.1,10.0.0.0/8", "127.0.0.1", { "9.9.9.9,203.0.113.7 ,\t10.1.2.3" }, "203.0.113.7" },
    { "127.0.0.1,10.0.0.0/8", "127.0.0.1", { "10.3.3.3, 10.1.2.3" }, "10.3.3.3" }, /* all are trusted: the first */
    { "10.0.0.0/9", "10.127.0.1", { "203.0.113.7" }, "203.0.113.7" },
    { "10.0.0.0/9", "10.128.0.1", { "203.0.113.7" }, "10.128.0.1" },
    { "0.0.0.0/0", "192.0.2.1", { "203.0.113.7" }, "203.0.113.7" },
    { "0.0.0.0/0", "2001:db8::1", { "203.0.113.7" }, "2001:db8::1" },     /* of IPv4 only */
    { "127.0.0.1", "127.0.0.1", { "9.9.9.9", "203.0.113.7" }, "203.0.113.7" }, /* several headers are one list */
    { "127.0.0.1,10.0.0.1", "127.0.0.1", { "9.9.9.9", "203.0.113.7", "10.0.0.1" }, "203.0.113.7" },
    { "::1", "::1", { "2001:DB8:0:0::7" }, "2001:db8::7" },               /* one spelling */
    { "::1", "::1", { "::ffff:203.0.113.7" }, "203.0.113.7" },
    { "::ffff:127.0.0.1", "127.0.0.1", { "2001:db8::7" }, "2001:db8::7" },
    { "fd00::/8", "fdab::1", { "2001:db8::7, fd12::9" }, "2001:db8::7" },
    { "fd00::/8", "fc00::1", { "2001:db8::7" }, "fc00::1" },
    { "127.0.0.1", "127.0.0.1", { "203.0.113.7:5123" }, "203.0.113.7" },
    { "127.0.0.1", "127.0.0.1", { "[2001:db8::7]:443" }, "2001:db8::7" },
    { "127.0.0.1", "127.0.0.1", { "[2001:db8::7]" }, "2001:db8::7" },
    { "127.0.0.1", "127.0.0.1", { "" }, NULL },
    { "127.0.0.1", "127.0.0.1", { "unknown" }, NULL },
    { "127.0.0.1", "127.0.0.1", { "203.0.113.7," }, NULL },
    { "127.0.0.1,10.0.0.1", "127.0.0.1", { "203.0.113.7,,10.0.0.1" }, NULL },
    { "127.0.0.1", "127.0.0.1", { "203.0.113.7:" }, NULL },
    { "127.0.0.1", "127.0.0.1", { "203.0.113.7:99999999" }, NULL },
    { "127.0.0.1", "127.0.0.1", { "[2001:db8::7" }, NULL },
    { "127.0.0.1", "127.0.0.1", { "[2001:db8::7]x" }, NULL },
    { "127.0.0.1", "127.0.0.1", { "[203.0.113.7]" }, NULL },
    { "127.0.0.1", "127.0.0.1", { "2001:db8::7::1" }, NULL },
    { "127.0.0.1", "127.0.0.1", { "fe80::1%eth0" }, NULL },
    { "127.0.0.1", "127.0.0.1", { "203.0.113.7 1.2.3.4" }, NULL },
    { "127.0.0.1", "127.0.0.1", { "11111111111111111111111111111111111111111111111111111111111111111111111111111111" }, NULL },
    { "127.0.0.1", "?", { "203.0.113.7" }, "?" },
};

static void test_client(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        proxies v = { .n = 0 };
        err e = { 0 };
        http_header h[5] = { { "host", "x" }, { "x-forwarded", "8.8.8.8" } };
        int n = 2;
        for (int k = 0; k < 3 && rows[i].header[k]; k++) h[n++] = (http_header){ "x-forwarded-for", rows[i].header[k] };
        http_request r = { .peer = rows[i].peer, .headers = h, .n_headers = n };
        char client[PROXY_ADDRESS], bad[64] = "";
        if (proxies_add(&v, rows[i].trust, &e)) fail_msg("%s", e.msg);
        forwarded f = proxies_client(&v, &r, client, bad);
        if (strcmp(client, rows[i].client ? rows[i].client : rows[i].peer)) fail_msg("row %zu: %s", i, client);
        if ((f == FORWARDED_BAD) != (rows[i].client == NULL)) fail_msg("row %zu: %d", i, (int)f);
        if (f == FORWARDED_BAD && rows[i].header[0][0] && !strchr(rows[i].header[0], ',') && strncmp(bad, rows[i].header[0], 60))
            fail_msg("row %zu: %s", i, bad);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_trust), cmocka_unit_test(test_client) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
