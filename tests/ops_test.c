/* ops: what operations do together has the bits of what the kernels do one after the other, however tasks are cut: at groups or within
 * them, rows over a block, padding, few threads and many, every type of weights, adapters; and int8 that was made once is read again. */
#include "runtime/ops.h"
#include "tests/kernels_compare.h"
#include "tests/test.h"

enum { MOST_ROWS = 530, MOST_D = 1000, K = 100, KP = 128, OUTS = 40, LD = 1024, MOST_RANKS = 48 };

static void *scratch;

static float *floats(size_t n) {
    float *x = alloc_aligned(n * sizeof *x);
    assert_non_null(x);
    return x;
}

static exec make_exec(int threads, bool exact) {
    exec x = { .k = kernels_get(), .exact = exact, .max_ranks = MOST_RANKS };
    err e = { 0 };
    if (pool_new(&x.pool, threads, &e)) fail_msg("%s", e.msg);
    carve c = { 0 };
    ops_layout(&x, &c, MOST_ROWS, MOST_D, K, MOST_D, 1, 1, 16, 64);
    scratch = alloc_aligned(c.used);
    assert_non_null(scratch);
    memset(scratch, 0xff, c.used); /* NaN: nothing may be read that was not written */
    c = (carve){ scratch, 0 };
    ops_layout(&x, &c, MOST_ROWS, MOST_D, K, MOST_D, 1, 1, 16, 64);
    return x;
}

static void drop_exec(exec *x) {
    pool_free(x->pool);
    free_aligned(scratch);
}

/* Whatever is not written stays NaN. */
static float *nans(size_t n) {
    float *x = floats(n);
    memset(x, 0xff, n * sizeof *x);
    return x;
}

/* The same rows made int8 by the kernel alone, where w takes it. */
static acts prepared(const exec *x, const mat *w, const float *in, size_t ld, int m, int8_rows *mem) {
    size_t groups = (size_t)(w->k + GROUP - 1) / GROUP, rows = (size_t)m;
    acts a = ops_rows(in, ld, m, w->k);
    *mem = (int8_rows){ alloc_aligned(rows * groups * GROUP), alloc_aligned(rows * groups * 4), alloc_aligned(rows * groups * 4) };
    if (x->exact || (w->type != W_Q8 && w->type != W_Q4)) return a;
    a.q = mem->q, a.scale = mem->scale, a.sum = mem->sum;
    for (size_t i = 0; i < rows; i++) x->k->quantize(in + i * ld, w->k, a.q + i * groups * GROUP, a.scale + i * groups, a.sum + i * groups);
    return a;
}

static void free_int8(int8_rows *r) { free_aligned(r->q), free_aligned(r->scale), free_aligned(r->sum); }

/* y = in times w, and what its adapters add: one kernel call each. */
static void reference_product(const exec *x, const mat *w, const float *in, size_t ld, int m, float *y, size_t ldy) {
    int8_rows mem;
    acts a = prepared(x, w, in, ld, m, &mem);
    int panels = (w->n + PANEL - 1) / PANEL;
    x->k->matmul[w->type][a.q != NULL](w, &a, y, ldy, 0, panels);
    float *ranks = floats((size_t)m * 32);
    acts f32 = ops_rows(in, ld, m, w->k);
    for (const lora *l = w->lora; l; l = l->next) {
        x->k->matmul[W_F32][0](&l->a, &f32, ranks, 32, 0, (l->a.n + PANEL - 1) / PANEL);
        for (int i = 0; i < m; i++) x->k->scale(ranks + 32 * i, l->scale, l->a.n);
        x->k->add_ranks(y, ldy, m, l->b, l->ldb, ranks, 32, l->a.n, panels * PANEL);
    }
    free_aligned(ranks);
    free_int8(&mem);
}

static void reference_inner(const exec *x, const mat *w, bool gated, act_kind kind, const float *in, size_t ld, int m, int d, float *y) {
    size_t wide = (size_t)padded(w->n, PANEL);
    float *product = floats((size_t)m * wide);
    reference_product(x, w, in, ld, m, product, wide);
    for (int i = 0; i < m; i++, y += LD) {
        memset(y, 0, (size_t)padded(d, GROUP) * sizeof *y);
        if (gated) x->k->glu(kind, y, product + (size_t)i * wide, padded(d, PANEL));
        else memcpy(y, product + (size_t)i * wide, (size_t)d * sizeof *y);
        if (!gated) x->k->act(kind, y, d);
        memset(y + d, 0, (size_t)(padded(d, GROUP) - d) * sizeof *y);
    }
    free_aligned(product);
}

static void same_rows(const float *got, const float *want, size_t ld, int m, int n, const char *what) {
    for (int i = 0; i < m; i++)
        if (memcmp(got + (size_t)i * ld, want + (size_t)i * ld, (size_t)n * sizeof *got)) fail_msg("%s: row %d of %d differs", what, i, m);
}

static void make_adapter(rng *r, lora *l, int rank, const mat *w, const lora *next) {
    problem p = { 0 };
    problem_make(&p, r, kernels_named("scalar"), W_F32, 1, rank, w->k, false);
    size_t ldb = (size_t)padded(w->n, GROUP);
    float *b = floats((size_t)rank * ldb);
    for (int i = 0; i < rank; i++) rng_fill(r, b + (size_t)i * ldb, (size_t)w->n);
    *l = (lora){ .a = p.w, .b = b, .ldb = ldb, .scale = 0.5f, .next = next };
    l->a.bias = NULL;
    free_aligned(p.rows), free_aligned(p.x), free_aligned(p.bias);
}

typedef struct inner_case {
    wtype in, down;
    bool gated, exact, adapters;
    int threads, m, d;
} inner_case;

static void check_inner(rng *r, const inner_case *c) {
    problem up = { 0 }, down = { 0 };
    lora list[2] = { { .scale = 0 } };
    int n = c->gated ? 2 * padded(c->d, PANEL) : c->d;
    exec x = make_exec(c->threads, c->exact);
    problem_make(&up, r, kernels_named("scalar"), c->in, c->m, n, K, false);
    problem_make(&down, r, kernels_named("scalar"), c->down, 1, OUTS, c->d, false);
    if (c->adapters) {
        make_adapter(r, &list[1], 17, &up.w, NULL);
        make_adapter(r, &list[0], 3, &up.w, &list[1]);
        up.w.lora = &list[0];
    }
    float *want = floats(MOST_ROWS * LD), *got = nans(MOST_ROWS * LD), *want_y = floats(MOST_ROWS * 48), *y = nans(MOST_ROWS * 48);
    act_kind kind = c->gated ? ACT_SILU : ACT_GELU_ERF;
    acts a = ops_rows(up.a.x, up.a.ldx, c->m, K);
    reference_inner(&x, &up.w, c->gated, kind, a.x, a.ldx, c->m, c->d, want);
    reference_product(&x, &down.w, want, LD, c->m, want_y, 48);
    acts ff = ops_inner(&x, &up.w, c->gated, kind, &a, &down.w, got, LD);
    char what[160];
    snprintf(what, sizeof what, "%s to %s%s%s%s, %d threads, %d rows, d %d", wtype_name(c->in), wtype_name(c->down), c->gated ? ", gated" : "",
             c->exact ? ", exact" : "", c->adapters ? ", adapters" : "", c->threads, c->m, c->d);
    same_rows(got, want, LD, c->m, padded(c->d, GROUP), what);
    bool int8 = !c->exact && (c->down == W_Q8 || c->down == W_Q4), whole = padded(c->d, GROUP) / GROUP >= 4 * c->threads;
    assert_int_equal(ff.q != NULL, int8 && whole);
    ops_matmul(&x, &down.w, &ff, y, 48);
    same_rows(y, want_y, 48, c->m, OUTS, what);
    for (int i = 0; c->adapters && i < 2; i++) free_aligned((void *)(uintptr_t)list[i].a.data), free_aligned((void *)(uintptr_t)list[i].b);
    free_aligned(want), free_aligned(got), free_aligned(want_y), free_aligned(y);
    problem_free(&up), problem_free(&down);
    drop_exec(&x);
}

static void test_inner(void **state) {
    (void)state;
    static const int widths[] = { 1, 16, 40, 64, 100, 333, 500, 520, 1000 }, rows[] = { 1, 2, 7, 40, 130, 513, 530 };
    static const wtype types[][2] = { { W_Q4, W_Q4 }, { W_Q8, W_Q8 }, { W_Q4, W_Q8 }, { W_F32, W_Q8 }, { W_Q8, W_F32 },
                                      { W_F32, W_F32 }, { W_BF16, W_BF16 } };
    static const int threads[] = { 1, 2, 3, 9 };
    rng r = { 11, false };
    for (size_t i = 0; i < 400; i++) {
        const wtype *t = types[i % 7];
        check_inner(&r, &(inner_case){ t[0], t[1], rng_int(&r, 0, 1), rng_int(&r, 0, 4) == 0, rng_int(&r, 0, 2) == 0, threads[rng_int(&r, 0, 3)],
                                       rows[rng_int(&r, 0, 6)], widths[rng_int(&r, 0, 8)] });
    }
}

/* A norm's rows in int8: those of the kernel, and still there after products of other rows and an MLP. */
static void check_normed(rng *r, int threads, int m, bool exact) {
    exec x = make_exec(threads, exact);
    problem p = { 0 }, q = { 0 }, f = { 0 };
    problem_make(&p, r, kernels_named("scalar"), W_Q8, m, OUTS, K, false);
    problem_make(&q, r, kernels_named("scalar"), W_Q4, m, 2 * 512, K, false);
    problem_make(&f, r, kernels_named("scalar"), W_F32, 1, OUTS, K, false);
    float *h = floats((size_t)m * KP), *w = floats(KP), *want = floats((size_t)m * 48), *y = nans((size_t)m * 48), *ff = floats((size_t)m * LD);
    rng_fill(r, w, K);
    mat reader = p.w, down = { .type = W_Q8, .k = 512 };
    acts a = ops_norm(&x, 0, h, p.a.x, p.a.ldx, m, w, NULL, K, 1e-5f, &reader);
    for (int i = 0; i < m; i++) {
        float row[KP] = { 0 };
        x.k->rmsnorm(row, p.a.x + (size_t)i * p.a.ldx, w, K, 1e-5f);
        assert_memory_equal(row, h + (size_t)i * KP, sizeof row);
    }
    assert_int_equal(a.q != NULL, !exact);
    const mat *reads[] = { &p.w, &f.w, &p.w };
    for (int i = 0; i < 3; i++) {
        reference_product(&x, reads[i], h, KP, m, want, 48);
        ops_matmul(&x, reads[i], &a, y, 48);
        same_rows(y, want, 48, m, OUTS, "normed rows");
        acts other = ops_rows(q.a.x, q.a.ldx, m, K);
        ops_inner(&x, &q.w, true, ACT_SILU, i ? &a : &other, &down, ff, LD);
        ops_norm(&x, 0, ff, p.a.x, p.a.ldx, m, w, NULL, K, 1e-5f, NULL); /* for nobody */
    }
    free_aligned(h), free_aligned(w), free_aligned(want), free_aligned(y), free_aligned(ff);
    problem_free(&p), problem_free(&q), problem_free(&f);
    drop_exec(&x);
}

static void test_normed(void **state) {
    (void)state;
    rng r = { 12, false };
    for (int threads = 1; threads < 4; threads++)
        for (int m = 1; m < 700; m = 8 * m + 3) check_normed(&r, threads, m, m == 11);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_inner), cmocka_unit_test(test_normed) };
    err e = { 0 };
    (void)case_compare; /* the kernels' own tests */
    if (kernels_init(NULL, &e)) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
