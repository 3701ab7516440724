/* kv: a random history of reserve, fork, truncate and free against a model that remembers every position's value: no page is
 * lost, none is shared by mistake, windows give back what they can, and a full pool refuses without changing anything. */
#include "runtime/kv.h"
#include "tests/test.h"

enum { SEQS = 5, CTX = 1000, BATCH = 100 };

static uint32_t rng = 1;
static int pick(int n) {
    rng = rng * 1664525u + 1013904223u;
    return (int)((rng >> 8) % (uint32_t)n);
}

static int32_t *cell(kv_seq *s, int group, int t) { return (int32_t *)(uintptr_t)s->page[group][t / KV_PAGE] + t % KV_PAGE; }

static void open_pool(kv_pool *p, int n_seqs) {
    err e = { 0 };
    *p = (kv_pool){ .n_groups = 2, .n_kv_heads = 2, .head_dim = 24, .type = KV_F16 };
    p->group[0].n_layers = 3;
    p->group[1].n_layers = 1;
    p->group[1].window = 130;
    assert_int_equal(kv_pool_init(p, n_seqs, CTX, BATCH, &e), 0);
}

static void check_all(kv_seq *s, int32_t (*want)[CTX], int n) {
    for (int i = 0; i < n; i++)
        for (int g = 0; g < 2; g++)
            for (int t = kv_first(s[i].pool->group[g].window, s[i].len); t < s[i].len; t++) assert_int_equal(*cell(&s[i], g, t), want[i][t]);
}

static void test_random_history(void **state) {
    (void)state;
    kv_pool p;
    kv_seq s[SEQS];
    static int32_t want[SEQS][CTX];
    err e = { 0 };
    open_pool(&p, SEQS);
    for (int i = 0; i < SEQS; i++) assert_int_equal(kv_seq_init(&s[i], &p, CTX, &e), 0);
    int32_t value = 1;
    for (int round = 0; round < 4000; round++) {
        int i = pick(SEQS), what = pick(10);
        if (what < 7) {
            int n = 1 + pick(BATCH);
            if (n > CTX - s[i].len) n = CTX - s[i].len;
            if (!n) kv_truncate(&s[i], 0);
            else {
                if (kv_reserve(&s[i], n, &e)) fail_msg("%s", e.msg);
                for (int t = s[i].len; t < s[i].len + n; t++) {
                    want[i][t] = value++;
                    for (int g = 0; g < 2; g++) *cell(&s[i], g, t) = want[i][t];
                }
                kv_advance(&s[i], n);
            }
        } else if (what < 8) {
            int j = pick(SEQS);
            if (j != i) {
                assert_int_equal(kv_fork(&s[j], &s[i], &e), 0);
                memcpy(want[j], want[i], sizeof want[i]);
            }
        } else {
            int to = s[i].len - pick(80);
            int kept = kv_truncate(&s[i], to < 0 ? 0 : to);
            assert_true(kept == (to < 0 ? 0 : to) || kept == 0);
        }
        check_all(s, want, SEQS);
    }
    for (int i = 0; i < SEQS; i++) kv_seq_free(&s[i]);
    for (int g = 0; g < 2; g++) {
        assert_int_equal(p.group[g].n_free, p.group[g].n_pages);
        for (int i = 0; i < p.group[g].n_pages; i++) assert_int_equal(p.group[g].refs[i], 0);
    }
    kv_pool_free(&p);
}

static void test_limits(void **state) {
    (void)state;
    kv_pool p;
    kv_seq a, b;
    err e = { 0 };
    open_pool(&p, 1);
    assert_int_equal(kv_seq_init(&a, &p, CTX, &e), 0);
    assert_int_equal(kv_seq_init(&b, &p, CTX, &e), 0);
    assert_int_equal(kv_reserve(&a, CTX + 100, &e), -1);
    assert_int_equal(e.code, ERR_CONTEXT);
    e.code = 0;
    for (; a.len < 900; kv_advance(&a, 50)) assert_int_equal(kv_reserve(&a, 50, &e), 0);
    assert_true(p.group[1].n_pages < p.group[0].n_pages); /* the window's group is small ... */
    int used = p.group[1].n_pages - p.group[1].n_free;
    assert_true(used <= (130 + 50) / KV_PAGE + 2);       /* ... and gives pages back */
    int free_before = p.group[0].n_free;
    assert_int_equal(kv_reserve(&b, 200, &e), -1);
    assert_int_equal(e.code, ERR_MEMORY);
    assert_int_equal(p.group[0].n_free, free_before);
    assert_int_equal(kv_truncate(&a, 500), 0); /* the window no longer has what position 500 sees */
    assert_int_equal(p.group[0].n_free, p.group[0].n_pages);
    assert_int_equal(p.group[1].n_free, p.group[1].n_pages);
    kv_seq_free(&a);
    kv_seq_free(&b);
    kv_pool_free(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_random_history), cmocka_unit_test(test_limits) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
