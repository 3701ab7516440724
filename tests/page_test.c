/* The server's page as it is built in: the file's bytes, text, complete in itself, and a policy whose hashes are of this script and this
 * style (a browser runs nothing else). What it does is tried in a browser: tests/tools/page_test.py. */
#include "tools/serve/page.h"

#include <stdio.h>

#include "runtime/files.h"
#include "tests/test.h"

enum { MOST_BYTES = 62 * 1024 };

static void test_bytes(void **state) {
    (void)state;
    err e = { 0 };
    buf file = { 0 };
    if (read_file("tools/serve/page.html", 1 << 20, &file, &e)) fail_msg("%s", e.msg);
    assert_int_equal(file.n, page_html_n);
    assert_memory_equal(file.p, page_html, file.n);
    assert_int_equal(page_html[page_html_n], 0);
    assert_int_equal(strlen(page_html), page_html_n);
    if (page_html_n > MOST_BYTES) fail_msg("the page has %zu bytes, the most is %d", page_html_n, MOST_BYTES);
    buf_free(&file);
}

static void test_utf8(void **state) {
    (void)state;
    int len;
    for (size_t i = 0; i < page_html_n; i += (size_t)len)
        if (utf8_decode(page_html + i, page_html_n - i, &len) < 0) fail_msg("byte %zu is no UTF-8", i);
    assert_non_null(strstr(page_html, "<meta charset=\"utf-8\">"));
    assert_true(strstr(page_html, "<meta charset") - page_html < 1024); /* where browsers look for it */
}

/* Where a browser would fetch something: the value that follows must be a fragment or data. */
static void test_no_resources(void **state) {
    (void)state;
    static const char *const loads[] = { "src=", "href=", "srcset=", "action=", "poster=", "url(", "@import", "import(",
                                         "importScripts", "EventSource", "WebSocket", "<iframe", "<object", "<embed", "<base" };
    for (size_t i = 0; i < sizeof loads / sizeof *loads; i++)
        for (const char *at = strstr(page_html, loads[i]); at; at = strstr(at + 1, loads[i])) {
            const char *value = at + strlen(loads[i]);
            if (strncmp(value, "\"#", 2) && strncmp(value, "\"data:", 6)) fail_msg("loads something: %.60s", at);
        }
}

/* What would make text of a model into markup or script. */
static void test_no_markup_from_text(void **state) {
    (void)state;
    static const char *const never[] = { "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function",
                                         "DOMParser", "createContextualFragment", "srcdoc", "unsafe-inline", "unsafe-eval", " onclick=", " style=" };
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (strstr(page_html, never[i])) fail_msg("the page says %s", never[i]);
}

/* ---- the policy ---- */

static uint32_t turn(uint32_t x, int n) { return x >> n | x << (32 - n); }

/* FIPS 180-4, one block. The constants are the first bits of the roots of the first primes: computed, as the standard says. */
static void sha256_block(uint32_t h[8], const unsigned char *p, const uint32_t k[64]) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++) w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + (turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
               (turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, h, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t a = v[7] + (turn(v[4], 6) ^ turn(v[4], 11) ^ turn(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
        uint32_t b = (turn(v[0], 2) ^ turn(v[0], 13) ^ turn(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += a;
        v[0] = a + b;
    }
    for (int i = 0; i < 8; i++) h[i] += v[i];
}

/* The first 32 bits behind the point of the root of that degree, by bisection in integers; the standard's example shows whether it is right. */
static uint32_t root_bits(uint32_t prime, int degree) {
    uint64_t low = 0, high = (uint64_t)20 << 32;
    while (high - low > 1) { /* low^degree <= prime * 2^(32 degree) < high^degree */
        uint64_t mid = low + (high - low) / 2;
        unsigned __int128 square = (unsigned __int128)mid * mid;
        bool fits = degree == 2 ? square <= (unsigned __int128)prime << 64 : (square >> 16) * mid <= (unsigned __int128)prime << 80;
        if (fits) low = mid;
        else high = mid;
    }
    return (uint32_t)low;
}

static void sha256(const char *text, size_t n, unsigned char out[32]) {
    uint32_t k[64], h[8];
    size_t whole = (n + 9 + 63) / 64 * 64;
    int n_primes = 0;
    unsigned char *p = calloc(1, whole);
    for (uint32_t x = 2; n_primes < 64; x++) {
        bool prime = true;
        for (uint32_t d = 2; d * d <= x; d++) prime &= x % d != 0;
        if (!prime) continue;
        if (n_primes < 8) h[n_primes] = root_bits(x, 2);
        k[n_primes++] = root_bits(x, 3);
    }
    assert_non_null(p);
    memcpy(p, text, n);
    p[n] = 0x80;
    for (int i = 0; i < 8; i++) p[whole - 1 - (size_t)i] = (unsigned char)((uint64_t)n * 8 >> 8 * i);
    for (size_t i = 0; i < whole; i += 64) sha256_block(h, p + i, k);
    for (int i = 0; i < 32; i++) out[i] = (unsigned char)(h[i / 4] >> 8 * (3 - i % 4));
    free(p);
}

static void base64(const unsigned char digest[32], char out[45]) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    int n = 0;
    for (int i = 0; i < 32; i += 3) {
        uint32_t v = (uint32_t)digest[i] << 16 | (uint32_t)digest[i + 1] << 8 | (i + 2 < 32 ? digest[i + 2] : 0);
        for (int j = 0; j < 4; j++) out[n++] = letters[v >> (18 - 6 * j) & 63];
    }
    out[43] = '=';
    out[44] = 0;
}

/* The policy's hash of what stands between these tags, which must come once. */
static void expect_sealed(const char *tag) {
    unsigned char digest[32];
    char hash[45], open[16], end[16], want[80];
    snprintf(open, sizeof open, "<%s>", tag);
    snprintf(end, sizeof end, "</%s>", tag);
    const char *from = strstr(page_html, open), *to = strstr(page_html, end);
    assert_true(from && to && from < to);
    from += strlen(open);
    assert_null(strstr(to + 1, end));
    sha256(from, (size_t)(to - from), digest);
    base64(digest, hash);
    snprintf(want, sizeof want, "; %s-src 'sha256-%s'; ", tag, hash);
    if (!strstr(page_html, want)) fail_msg("the policy has not the hash of this %s (%s): run tests/tools/page_test.py --seal", tag, hash);
}

static void test_policy(void **state) {
    (void)state;
    static const char abc[] = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="; /* FIPS 180-4's example */
    static const char *const must[] = { "default-src 'none'; ", "connect-src 'self'; ", "base-uri 'none'; ", "form-action 'none'; ",
                                        "require-trusted-types-for 'script'; ", "trusted-types 'none'\"" };
    unsigned char digest[32];
    char hash[45];
    sha256("abc", 3, digest);
    base64(digest, hash);
    assert_string_equal(hash, abc);
    const char *policy = strstr(page_html, "<meta http-equiv=\"Content-Security-Policy\" content=\"");
    assert_non_null(policy);
    assert_true(policy < strstr(page_html, "<style>") && policy < strstr(page_html, "<script>")); /* it holds for what follows it */
    for (size_t i = 0; i < sizeof must / sizeof *must; i++)
        if (!strstr(policy, must[i])) fail_msg("the policy lacks %s", must[i]);
    expect_sealed("script");
    expect_sealed("style");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes), cmocka_unit_test(test_utf8), cmocka_unit_test(test_no_resources),
        cmocka_unit_test(test_no_markup_from_text), cmocka_unit_test(test_policy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
