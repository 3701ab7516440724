/* base: JSON, UTF-8, hash and buffers against known answers and hostile input. */
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include "runtime/files.h"
#include "tests/test.h"

static int parses(const char *text, size_t n) {
    arena a = { 0 };
    json *j;
    err e = { 0 };
    int rc = json_parse(&a, text, n, &j, &e);
    assert_true((rc != 0) == (e.code != 0));
    arena_free(&a);
    return rc == 0;
}

static void test_json(void **state) {
    (void)state;
    arena a = { 0 };
    json *j;
    err e = { 0 };
    const char *text = " {\"a\": [1, -2.5e3, true, null, \"x\\n\\u00e9\\ud83d\\ude00\\ud800\"], \"b\": {}, \"c\": 12345678901, \"a2\": []} ";
    assert_int_equal(json_parse(&a, text, strlen(text), &j, &e), 0);
    const json *list = json_get(j, "a");
    assert_int_equal(list->n, 5);
    double x;
    assert_int_equal(json_num(list->child->next, &x), 0);
    assert_true(x == -2500);
    assert_true(json_is(list->child->next->next->next->next, "x\n\xc3\xa9\xf0\x9f\x98\x80\xef\xbf\xbd"));
    int64_t v;
    assert_int_equal(json_int(json_get(j, "c"), &v), 0);
    assert_true(v == 12345678901);
    assert_null(json_get(j, "missing"));
    arena_free(&a);
    static const char *const bad[] = { "", " ", "{", "[1,]", "{\"a\":}", "{\"a\" 1}", "[1 2]", "01", "1.", "-", "\"", "\"\\x\"", "\"\\u12\"", "tru",
                                       "[1]]", "{,}", "[,1]", "{\"a\":1,}", "\"\t\"", "\"\xff\"", "nul", "1 2", "{1:2}", "\"\\" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (parses(bad[i], strlen(bad[i]))) fail_msg("accepted: %s", bad[i]);
    static const char *const good[] = { "0", "-0.5e-7", "[]", "{}", "[[],{}]", "\"\"", "null", "{\"a\":[{\"b\":[]}]}" };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!parses(good[i], strlen(good[i]))) fail_msg("refused: %s", good[i]);
    char deep[50000];
    memset(deep, '[', sizeof deep);
    assert_false(parses(deep, sizeof deep));
    for (size_t n = 0; n < strlen(text) - 1; n++) assert_false(parses(text, n));
}

static void test_json_put(void **state) {
    (void)state;
    static const char text[] = "{\"a\":[1,-2.50e3,true,null,\"x\\n\u00e9\"],\"b\":{},\"\":[]}";
    arena a = { 0 };
    json *j;
    buf b = { 0 };
    err e = { 0 };
    assert_int_equal(json_parse(&a, text, strlen(text), &j, &e), 0);
    json_put(&b, j);
    buf_byte(&b, 0);
    assert_string_equal(b.p, text); /* a number as it was written, too */
    buf_free(&b);
    arena_free(&a);
}

static void test_ending(void **state) {
    (void)state;
    assert_true(has_ending("a.bin", ".bin"));
    assert_false(has_ending(".bin", ".bin")); /* an ending alone is no name */
    assert_false(has_ending("a.bin2", ".bin"));
    assert_false(has_ending("n", ".bin"));
}

static void test_utf8(void **state) {
    (void)state;
    static const struct { const char *s; int32_t c; int len; } cases[] = {
        { "a", 'a', 1 }, { "\xc3\xa9", 0xe9, 2 }, { "\xe2\x82\xac", 0x20ac, 3 }, { "\xf0\x9f\x98\x80", 0x1f600, 4 }, { "\xc0\x80", -1, 1 },
        { "\xed\xa0\x80", -1, 1 }, { "\xf4\x90\x80\x80", -1, 1 }, { "\xe0\x80\x80", -1, 1 }, { "\x80", -1, 1 },
        { "\xf5", -1, 1 }, { "\xe2\x82", -1, 1 }, { "\xf4\x8f\xbf\xbf", 0x10ffff, 4 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int len;
        assert_int_equal(utf8_decode(cases[i].s, strlen(cases[i].s), &len), cases[i].c);
        assert_int_equal(len, cases[i].len);
    }
    for (uint32_t c = 0; c <= 0x10ffff; c++) {
        if (c >= 0xd800 && c <= 0xdfff) continue;
        char s[4];
        int n = utf8_encode(s, c), len;
        assert_int_equal(utf8_decode(s, (size_t)n, &len), c);
        for (int k = 1; k < n; k++) assert_int_equal(utf8_incomplete_tail(s, (size_t)k), k);
        assert_int_equal(utf8_incomplete_tail(s, (size_t)n), 0);
    }
    assert_int_equal(utf8_incomplete_tail("a\xed\xa0", 3), 0); /* can only become a surrogate */
    assert_int_equal(utf8_incomplete_tail("a\xf4\x90", 3), 0);
}

static void test_hash(void **state) {
    (void)state; /* vectors of the XXH64 specification's reference implementation, seed 0 */
    assert_true(hash_bytes("", 0) == 0xef46db3751d8e999ull);
    assert_true(hash_bytes("a", 1) == 0xd24ec4f1a98c6e5bull);
    assert_true(hash_bytes("abc", 3) == 0x44bc2cf5ad770999ull);
    char text[1000];
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)(i * 7919 >> 3);
    uint64_t whole = hash_bytes(text, sizeof text);
    for (size_t cut = 0; cut < 100; cut++) {
        hash64 h;
        hash_begin(&h);
        hash_add(&h, text, cut);
        hash_add(&h, text + cut, 3 * cut);
        hash_add(&h, text + 4 * cut, sizeof text - 4 * cut);
        assert_true(hash_end(&h) == whole);
    }
}

static void test_buffers(void **state) {
    (void)state;
    buf b = { 0 };
    buf_json(&b, "a\"\\\n\x01\xff\xc3\xa9", 8);
    assert_string_equal(b.p, "\"a\\\"\\\\\\n\\u0001\xef\xbf\xbd\xc3\xa9\"");
    buf_free(&b);
    ids v = { 0 };
    err e = { 0 };
    assert_int_equal(ids_parse(&v, " 1 2,3\n4 ", &e), 0);
    assert_int_equal(v.n, 4);
    assert_int_equal(v.p[3], 4);
    static const char *const bad[] = { "1 x", "-1", "99999999999", "1.5", "3a" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        e.code = 0;
        assert_int_equal(ids_parse(&v, bad[i], &e), -1);
    }
    ids_free(&v);
    cursor c = { (const uint8_t *)"\1\0\0\0\2", 5, 0, false };
    assert_int_equal(cursor_u32(&c), 1);
    assert_int_equal(cursor_u32(&c), 0);
    assert_true(c.failed);
}

/* A mapping that the system has no room for is a want of memory, which passes, not a bad file. */
static void test_map_without_room(void **state) {
    (void)state;
    char path[] = "/tmp/quern-map-XXXXXX";
    err e = { 0 };
    mapping m;
    struct rlimit before, small = { .rlim_cur = 64 << 20 };
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)1 << 36), 0); /* all of it a hole */
    close(fd);
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    small.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_AS, &small), 0);
    int rc = map_file(path, &m, &e);
    setrlimit(RLIMIT_AS, &before);
    unlink(path);
    assert_int_equal(rc, -1);
    assert_int_equal(e.code, ERR_MEMORY);
}

/* A pipe that nobody writes to is refused, not waited for; nor is a folder a file. */
static void test_not_regular(void **state) {
    (void)state;
    char folder[] = "/tmp/quern-pipe-XXXXXX", path[sizeof folder + 8];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/pipe", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(20); /* ends a test that waits */
    err e = { 0 };
    mapping m;
    int rc = map_file(path, &m, &e);
    FILE *pipe = open_regular(path), *of_folder = open_regular(folder);
    alarm(0);
    unlink(path);
    rmdir(folder);
    assert_int_equal(rc, -1);
    assert_non_null(strstr(e.msg, "not a regular file"));
    assert_null(pipe);
    assert_null(of_folder);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_json), cmocka_unit_test(test_json_put), cmocka_unit_test(test_ending),
                                        cmocka_unit_test(test_utf8), cmocka_unit_test(test_hash), cmocka_unit_test(test_buffers),
                                        cmocka_unit_test(test_map_without_room), cmocka_unit_test(test_not_regular) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
