/* kernels: every table against scalar bit for bit, scalar against double precision and libm, the layout against its definition,
 * and results that do not depend on how rows and panels are cut. */
#define _GNU_SOURCE
#include "tests/kernels_compare.h"

#include "tests/test.h"

static const kernels *scalar(void) { return kernels_named("scalar"); }

static float *floats(size_t n) { return alloc_aligned(n * sizeof(float)); }

/* The amx table with tiles in plain C: with the rest of it in plain C too, and with the rest as it is. */
extern const kernels amx_soft;
bool amx_soft_released(void);
#if defined(__x86_64__)
extern const kernels amx_soft512;
#endif

/* The tables that can run here, NULL at the end; or the one that QUERN_KERNELS names, where an emulated CPU is slow. */
static const kernels *table_at(int i) {
    const kernels *list[16], *only = getenv("QUERN_KERNELS") ? kernels_named(getenv("QUERN_KERNELS")) : NULL;
    int n = 0;
    if (only) {
        assert_true(kernels_usable(only));
        return i == 0 ? only : NULL;
    }
    for (int t = 0; kernels_all()[t]; t++)
        if (kernels_usable(kernels_all()[t])) list[n++] = kernels_all()[t];
    list[n++] = &amx_soft;
#if defined(__x86_64__)
    if (kernels_usable(kernels_named("avx512vnni"))) list[n++] = &amx_soft512;
#endif
    list[n] = NULL;
    return list[i];
}

static void test_tables_agree(void **state) {
    (void)state;
    for (int i = 0; table_at(i); i++) assert_int_equal(case_compare(scalar(), table_at(i), 2000, NULL), -1);
}

/* More inputs than a segment of tiles, more panels than a span, rows of several bands with a tail, inputs 4096 apart. */
static void test_large_products(void **state) {
    (void)state;
    static const struct { int m, n, k; } shapes[] = { { 41, 96, 1500 }, { 23, 70, 4096 }, { 16, 16, 512 }, { 8, 150, 640 },
        { 7, 40, 8300 }, { 1, 1100, 300 }, { 33, 33, 8256 }, { 200, 40, 4100 } };
    rng r = { 3, false };
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++)
        for (int t = W_BF16; t < W_COUNT; t++) {
            int m = shapes[c].m, ld = padded(shapes[c].n, PANEL);
            problem p = { 0 };
            problem_make(&p, &r, scalar(), (wtype)t, m, shapes[c].n, shapes[c].k, true);
            if (c == 0) p.a.scale[5] = NAN, p.x[7] = INFINITY;
            float *want = floats((size_t)m * (size_t)ld), *got = floats((size_t)m * (size_t)ld);
            scalar()->matmul[t][1](&p.w, &p.a, want, (size_t)ld, 0, ld / PANEL);
            for (int i = 0; table_at(i); i++) {
                memset(got, 0xee, (size_t)m * (size_t)ld * sizeof *got);
                table_at(i)->matmul[t][1](&p.w, &p.a, got, (size_t)ld, 0, ld / PANEL);
                assert_true(amx_soft_released());
                bool close = t == W_BF16 && own_bf16(table_at(i));
                for (int j = 0; j < m * ld; j++) {
                    bool same = memcmp(want + j, got + j, sizeof *got) == 0 || (isnan(want[j]) && isnan(got[j]));
                    if (close && isfinite(want[j])) same = fabsf(want[j] - got[j]) <= 1.5e-6f * sqrtf((float)shapes[c].k) + 5e-6f * fabsf(want[j]);
                    else if (close) same = !isfinite(got[j]);
                    if (!same) fail_msg("%s, %s, case %zu, row %d, column %d: %a, expected %a", table_at(i)->name,
                                        wtype_name((wtype)t), c, j / ld, j % ld, got[j], want[j]);
                }
            }
            free_aligned(want), free_aligned(got);
            problem_free(&p);
        }
}

/* ---- attention over a cache of int8, at sizes that a case of test_tables_agree does not have ---- */

/* What a job is made of; kind: where its queries look. */
typedef struct big_job { int hd, n, t0, t1; enum { ALL, PROMPT, WINDOW, APART, KINDS } kind; bool values_first, biased, capped, hostile; } big_job;

static attn_query big_query(const big_job *b, int i, rng *r) {
    int t0 = b->t0, t1 = b->t1, most = t1 - t0;
    if (b->kind == PROMPT) t1 -= min_int(most - 1, (b->n - 1 - i) / 3);
    if (b->kind == WINDOW) t0 += min_int(most - 1, i), t1 = min_int(t1, t0 + 100);
    if (b->kind == APART) t0 += rng_int(r, 0, most - 1), t1 = rng_int(r, t0 + 1, b->t1);
    return (attn_query){ .t0 = t0, .t1 = t1 };
}

/* Pages [t0 / 64, t1 / 64] end where their memory ends, with the K block or the V block; slots outside of [t0, t1) are NaN. */
static void big_pages(const big_job *b, rng *r, void **page, size_t bytes, size_t k_at, size_t v_at) {
    float key[ATTN_Q8_MOST], value[ATTN_Q8_MOST];
    for (int t = b->t0; t < b->t1; t++) {
        int i = t / KV_PAGE;
        if (!page[i]) page[i] = memset(alloc_aligned(bytes), 0xff, bytes);
        rng_fill(r, key, ATTN_Q8_MOST), rng_fill(r, value, ATTN_Q8_MOST);
        scalar()->kv_store(KV_Q8, (char *)page[i] + k_at, (char *)page[i] + v_at, t % KV_PAGE, key, value, b->hd);
    }
}

static void check_big_job(const big_job *b, uint64_t seed) {
    enum { LD_BIAS = 2 * ATTN_SEGMENT };
    rng r = { seed, false };
    const int pad = padded(b->hd, 16), ld = pad + 16;
    const size_t k_bytes = kv_block_bytes(KV_Q8, b->hd, false), v_bytes = kv_block_bytes(KV_Q8, b->hd, true);
    const size_t k_at = b->values_first ? v_bytes : 0, v_at = b->values_first ? 0 : k_bytes, n = (size_t)b->n;
    void *page[16] = { NULL };
    r.hostile = b->hostile;
    big_pages(b, &r, page, k_bytes + v_bytes, k_at, v_at);
    float *q = floats(n * (size_t)b->hd), *bias = floats(n * LD_BIAS), *want = floats(n * (size_t)ld), *got = floats(n * (size_t)ld);
    rng_fill(&r, q, n * (size_t)b->hd), rng_fill(&r, bias, n * LD_BIAS);
    attn_query *query = calloc(n, sizeof *query);
    for (int i = 0; i < b->n; i++) {
        query[i] = big_query(b, i, &r);
        query[i].q = q + (size_t)i * (size_t)b->hd;
        query[i].bias = b->biased ? bias + (size_t)i * LD_BIAS : NULL;
    }
    attn_job job = { query, b->n, b->hd, (const void *const *)page, k_at, v_at, KV_Q8, b->capped ? 4.5f : 0 };
    for (int i = 0; i < b->n; i++) query[i].out = want + (size_t)i * (size_t)ld;
    scalar()->attention(&job);
    for (int k = 0; table_at(k); k++) {
        memset(got, 0xee, n * (size_t)ld * sizeof *got);
        for (int i = 0; i < b->n; i++) query[i].out = got + (size_t)i * (size_t)ld;
        table_at(k)->attention(&job);
        assert_true(amx_soft_released());
        for (int i = 0; i < b->n * ld; i++)
            if (i % ld < pad + 2 && memcmp(want + i, got + i, sizeof *got) != 0 && !(isnan(want[i]) && isnan(got[i])))
                fail_msg("%s, hd %d, %d queries of kind %d, query %d, element %d: %a, expected %a", table_at(k)->name, b->hd, b->n,
                         (int)b->kind, i / ld, i % ld, got[i], want[i]);
    }
    for (int i = 0; i < 16; i++) free_aligned(page[i]);
    free_aligned(q), free_aligned(bias), free_aligned(want), free_aligned(got), free(query);
}

/* Heads of every remainder by 64, with every number of whole 64s up to the most; queries below, at and above what tiles take, and
 * so many that a job is cut; both segments. */
static void test_large_attention(void **state) {
    (void)state;
    static const int dims[] = { 5, 16, 32, 48, 64, 80, 96, 100, 112, 128, 144, 176, 192, 208, 256, 272, 320, 480, 512 };
    static const int counts[] = { 1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 33, 39, 40, 48, 55, 56, 63, 64, 65, 70, 128 };
    enum { DIMS = sizeof dims / sizeof *dims, COUNTS = sizeof counts / sizeof *counts };
    rng r = { 17, false };
    for (int i = 0; i < 4 * DIMS * COUNTS / 5; i++) {
        const int segment = rng_int(&r, 0, 1) * ATTN_SEGMENT, begin = rng_int(&r, 0, 1) * rng_int(&r, 0, ATTN_SEGMENT - 1);
        const int most = rng_int(&r, 0, 5) ? min_int(ATTN_SEGMENT, begin + 150) : ATTN_SEGMENT;
        big_job b = { .hd = dims[i % DIMS], .n = counts[i % COUNTS], .t0 = segment + begin, .t1 = segment + rng_int(&r, begin + 1, most) };
        b.kind = rng_int(&r, 0, KINDS - 1);
        b.values_first = rng_int(&r, 0, 1), b.biased = rng_int(&r, 0, 3) == 0, b.capped = rng_int(&r, 0, 3) == 0;
        b.hostile = rng_int(&r, 0, 4) == 0;
        check_big_job(&b, (uint64_t)i);
    }
}

/* ---- cuts ---- */

static void check_cuts(const kernels *k, wtype t, bool int8, rng *r) {
    enum { M = 40 };
    problem p = { 0 };
    problem_make(&p, r, k, t, M, 77, 200, int8);
    size_t ldy = 80;
    float *whole = floats(M * ldy), *cut = floats(M * ldy);
    k->matmul[t][int8](&p.w, &p.a, whole, ldy, 0, 5);
    for (int most = 1; most < M; most += 3) {
        memset(cut, 0, M * ldy * sizeof *cut);
        for (int row = 0; row < M;) {
            int rows = min_int(rng_int(r, 1, most), M - row), middle = rng_int(r, 1, 4);
            acts part = p.a;
            part.m = rows, part.x += (size_t)row * p.a.ldx;
            if (int8) part.q += (size_t)row * 256, part.scale += row * 4, part.sum += row * 4;
            k->matmul[t][int8](&p.w, &part, cut + (size_t)row * ldy, ldy, 0, middle);
            k->matmul[t][int8](&p.w, &part, cut + (size_t)row * ldy, ldy, middle, 5);
            row += rows;
        }
        assert_memory_equal(whole, cut, M * ldy * sizeof *cut);
    }
    free_aligned(whole), free_aligned(cut);
    problem_free(&p);
}

static void test_cuts(void **state) {
    (void)state;
    rng r = { 7, false };
    for (int i = 0; table_at(i); i++)
        for (int t = 0; t < W_COUNT; t++)
            for (int int8 = 0; int8 < 2; int8++) check_cuts(table_at(i), (wtype)t, int8, &r);
}

/* ---- scalar against double ---- */

static void test_matmul_reference(void **state) {
    (void)state;
    rng r = { 1, false };
    for (int round = 0; round < 60; round++) {
        wtype t = (wtype)(round % W_COUNT);
        bool int8 = round / 4 % 2;
        int m = rng_int(&r, 1, 5), n = rng_int(&r, 1, 50), k = rng_int(&r, 1, 300), kp = padded(k, GROUP), np = padded(n, PANEL), e;
        problem p = { 0 };
        problem_make(&p, &r, scalar(), t, m, n, k, int8);
        float *w = floats((size_t)np * (size_t)kp), *y = floats((size_t)m * (size_t)np), *row = floats((size_t)kp);
        frexpf(p.w.scale, &e);
        for (int i = 0; i < np / PANEL; i++)
            unpack_panel(t, p.data + (size_t)i * panel_bytes(t, k), k, e - 1, w + (size_t)i * PANEL * (size_t)kp);
        scalar()->matmul[t][int8](&p.w, &p.a, y, (size_t)np, 0, np / PANEL);
        for (int j = 0; j < np; j++) {
            scalar()->row_load(&p.w, j, row);
            assert_memory_equal(row, w + (size_t)j * (size_t)kp, (size_t)kp * 4);
            for (int i = 0; i < m; i++) {
                double sum = p.bias ? p.bias[j] : 0, size = 1;
                for (int c = 0; c < kp; c++) {
                    double x = p.a.x[(size_t)i * p.a.ldx + (size_t)c];
                    if (int8 && t >= W_Q8) x = (double)p.a.q[i * kp + c] * p.a.scale[i * (kp / GROUP) + c / GROUP];
                    sum += x * w[(size_t)j * (size_t)kp + (size_t)c];
                    size += fabs(x * w[(size_t)j * (size_t)kp + (size_t)c]);
                }
                assert_true(fabs(sum - y[i * np + j]) <= 2e-6 * size);
            }
        }
        free_aligned(w), free_aligned(y), free_aligned(row);
        problem_free(&p);
    }
}

static double attention_reference(const float *s, const float *v, int n, int ld, int d, double *sum) {
    double max = -INFINITY, out = 0;
    for (int t = 0; t < n; t++) max = s[t] > max ? s[t] : max;
    *sum = 0;
    for (int t = 0; t < n; t++) *sum += exp(s[t] - max), out += exp(s[t] - max) * v[t * ld + d];
    return out;
}

/* 700 positions in two segments, merged, against one softmax in double. */
static void test_attention_reference(void **state) {
    (void)state;
    enum { HD = 24, LD = 32, N = 700, FIRST = 40 };
    rng r = { 5, false };
    static char pages[12][64 * HD * 4 + 64 * LD * 4];
    static float keys[N][HD], values[N][HD], s[N];
    const void *page[12];
    float q[HD], out[2][LD + 16];
    rng_fill(&r, q, HD), rng_fill(&r, keys[0], N * HD), rng_fill(&r, values[0], N * HD);
    for (int i = 0; i < 12; i++) page[i] = pages[i];
    for (int t = FIRST; t < N; t++) {
        scalar()->kv_store(KV_F32, pages[t / 64], pages[t / 64] + 64 * HD * 4, t % 64, keys[t], values[t], HD);
        double dot = 0;
        for (int d = 0; d < HD; d++) dot += (double)q[d] * keys[t][d];
        s[t] = (float)dot;
    }
    attn_query query = { q, NULL, FIRST, 512, out[0] };
    attn_job j = { &query, 1, HD, page, 0, 64 * HD * 4, KV_F32, 0 };
    scalar()->attention(&j);
    query.t0 = 512, query.t1 = N, query.out = out[1];
    scalar()->attention(&j);
    scalar()->attn_merge(out[0], out[1], LD);
    for (int d = 0; d < HD; d++) {
        double total, want = attention_reference(s + FIRST, values[FIRST], N - FIRST, HD, d, &total);
        assert_true(fabs(want / total - out[0][d] / out[0][LD + 1]) < 1e-6);
        assert_true(fabs(total / out[0][LD + 1] - 1) < 1e-5);
    }
    assert_true(out[0][HD] == 0 && out[0][LD - 1] == 0);
}

/* A cache of int8 against the same softmax in double: what int8 loses, of keys, values, query and weights, is small. */
static void test_attention_int8(void **state) {
    (void)state;
    enum { HD = 80, N = 300 };
    rng r = { 9, false };
    size_t k_bytes = kv_block_bytes(KV_Q8, HD, false), page_bytes = k_bytes + kv_block_bytes(KV_Q8, HD, true);
    static float keys[N][HD], values[N][HD], s[N];
    char *memory = alloc_aligned(5 * page_bytes);
    const void *page[5];
    float q[HD], out[HD + 16];
    rng_fill(&r, q, HD), rng_fill(&r, keys[0], N * HD), rng_fill(&r, values[0], N * HD);
    for (int d = 0; d < HD; d++) q[d] *= 0.3f;
    for (int i = 0; i < 5; i++) page[i] = memory + (size_t)i * page_bytes;
    for (int t = 0; t < N; t++) {
        char *block = memory + (size_t)(t / 64) * page_bytes;
        scalar()->kv_store(KV_Q8, block, block + k_bytes, t % 64, keys[t], values[t], HD);
        double dot = 0;
        for (int d = 0; d < HD; d++) dot += (double)q[d] * keys[t][d];
        s[t] = (float)dot;
    }
    attn_query query = { q, NULL, 3, N, out };
    scalar()->attention(&(attn_job){ &query, 1, HD, page, 0, k_bytes, KV_Q8, 0 });
    double error = 0, size = 0;
    for (int d = 0; d < HD; d++) {
        double total, want = attention_reference(s + 3, values[3], N - 3, HD, d, &total) / total, got = (double)out[d] / out[HD + 1];
        error += (got - want) * (got - want), size += want * want;
    }
    free_aligned(memory);
    assert_true(error > 0 && sqrt(error / size) < 0.02);
}

/* A run whose every position is masked has weight nothing: sum and out 0, and merging it changes nothing. */
static void test_attention_masked(void **state) {
    (void)state;
    static float k[64 * 16], v[64 * 16], q[16], bias[64];
    for (int i = 0; i < 64 * 16; i++) k[i] = v[i] = 1;
    const void *page[] = { k, v };
    for (int i = 0; i < 64; i++) bias[i] = -INFINITY;
    for (int i = 0; kernels_all()[i]; i++) {
        const kernels *table = kernels_all()[i];
        if (!kernels_usable(table)) continue;
        float out[32], other[32] = { 5 };
        attn_query query = { q, bias, 0, 64, out };
        other[16] = 2, other[17] = 3;
        page[0] = k;
        table->attention(&(attn_job){ &query, 1, 16, page, 0, (size_t)((char *)v - (char *)k), KV_F32, 0 });
        assert_true(out[16] == -INFINITY && out[17] == 0 && out[0] == 0 && out[15] == 0);
        table->attn_merge(other, out, 16);
        assert_true(other[16] == 2 && other[17] == 3 && other[0] == 5);
        table->attn_merge(out, out, 16);
        assert_true(out[16] == -INFINITY && out[17] == 0);
        table->attn_merge(out, other, 16);
        assert_true(out[16] == 2 && out[17] == 3 && out[0] == 5);
    }
}

static void test_norm_reference(void **state) {
    (void)state;
    rng r = { 6, false };
    for (int n = 1; n < 300; n += 7) {
        float x[300], w[300], b[300], rms[300], ln[300];
        rng_fill(&r, x, 300), rng_fill(&r, w, 300), rng_fill(&r, b, 300);
        scalar()->rmsnorm(rms, x, w, n, 1e-5f);
        scalar()->layernorm(ln, x, w, b, n, 1e-5f);
        double square = 0, mean = 0, var = 0;
        for (int i = 0; i < n; i++) square += (double)x[i] * x[i], mean += x[i];
        for (int i = 0; i < n; i++) var += (x[i] - mean / n) * (x[i] - mean / n);
        for (int i = 0; i < n; i++) {
            assert_true(fabs(rms[i] - x[i] / sqrt(square / n + 1e-5) * w[i]) < 2e-6);
            assert_true(fabs(ln[i] - ((x[i] - mean / n) / sqrt(var / n + 1e-5) * w[i] + b[i])) < (n == 1 ? 1e-4 : 3e-6));
        }
    }
}

/* ---- functions of one number ---- */

static float act_of(act_kind kind, float x) {
    float v[16];
    for (int i = 0; i < 16; i++) v[i] = x;
    scalar()->act(kind, v, 16);
    return v[3];
}

static float tanh_of(float x) {
    scalar()->softcap(&x, 1, 1);
    return x;
}

static float exp_of(float x) { /* x <= 0, as the merge of two runs uses it */
    float out[18] = { 0 }, other[18] = { 0 };
    other[16] = x, other[17] = 1;
    scalar()->attn_merge(out, other, 16);
    return out[17];
}

static double relative(double got, double want) { return fabs(got - want) / fabs(want); }

static void test_functions(void **state) {
    (void)state;
    for (double x = 1e-6; x < 87; x *= 1.0007) {
        float f = (float)x;
        assert_true(relative(exp_of(-f), exp(-(double)f)) < 1.5e-7);
        assert_true(relative(tanh_of(f), tanh(f)) < 2.5e-7);
        assert_true(tanh_of(-f) == -tanh_of(f));
        assert_true(relative(act_of(ACT_SILU, -f), -f / (1 + exp((double)f))) < 3.5e-7);
        assert_true(relative(act_of(ACT_GELU_ERF, f), 0.5 * f * (1 + erf(f * sqrt(0.5)))) < 2.5e-7);
        double u = sqrt(2 / M_PI) * (f + 0.044715 * f * f * f);
        assert_true(relative(act_of(ACT_GELU_TANH, f), 0.5 * f * (1 + tanh(u))) < 3e-7);
        assert_true(fabs(act_of(ACT_GELU_ERF, -f) + 0.5 * f * erfc(f * sqrt(0.5))) < 2e-7 * (1 + f));
    }
    /* denormals too */
    for (float x = -87; x > -104.5f; x -= 0.01f) assert_true(fabs(exp_of(x) - exp(x)) <= 0x1p-149 + exp(x) * 1.5e-7);
    assert_true(exp_of(0) == 1 && exp_of(-1e30f) == 0 && exp_of(-INFINITY) == 0);
    assert_true(tanh_of(INFINITY) == 1 && tanh_of(-1e30f) == -1 && isnan(tanh_of(NAN)) && tanh_of(0) == 0);
    for (int kind = 0; kind < ACT_COUNT; kind++) {
        assert_true(isnan(act_of((act_kind)kind, NAN)));
        assert_true(act_of((act_kind)kind, INFINITY) == INFINITY && act_of((act_kind)kind, 1e30f) == 1e30f
            && act_of((act_kind)kind, -1e30f) == 0);
    }
    assert_true(act_of(ACT_RELU, -1) == 0 && act_of(ACT_RELU, 2) == 2);
}

/* Attention's weight of position 1, whose score is x below that of position 0; V is 1 there and 0 elsewhere. */
static float weight_of(float x) {
    static float blocks[2][16 * KV_PAGE]; /* K [16][64], V [64][16] */
    static const float q[16] = { 1 };
    float out[32];
    const void *page = blocks;
    blocks[0][1] = x;
    blocks[1][16] = 1;
    scalar()->attention(&(attn_job){ &(attn_query){ q, NULL, 0, 2, out }, 1, 16, &page, 0, sizeof blocks[0], KV_F32, 0 });
    return out[0];
}

static void test_weights(void **state) {
    (void)state;
    for (double x = 1e-6; x < 87; x *= 1.0007) {
        float f = (float)x;
        assert_true(relative(weight_of(-f), exp(-(double)f)) < 2.5e-7 + 1.5e-8 * x);
    }
    assert_true(weight_of(0) == 1 && weight_of(-87.01f) == 0 && weight_of(-1e30f) == 0 && weight_of(-INFINITY) == 0 && isnan(weight_of(NAN)));
}

static void test_sincos(void **state) {
    (void)state;
    rng r = { 3, false };
    for (int i = 0; i < 300000; i++) {
        double x = ldexp((double)(int64_t)rng_next(&r) * 0x1p-63, rng_int(&r, -10, 30));
        float s, c;
        sincos_exact(x, &s, &c);
        assert_true(fabs(s - sin(x)) <= 0x1p-24 * fabs(sin(x)) + 1e-15 && fabs(c - cos(x)) <= 0x1p-24 * fabs(cos(x)) + 1e-15);
    }
    float s, c;
    sincos_exact(0, &s, &c);
    assert_true(s == 0 && c == 1);
}

/* ---- f16 ---- */

static void test_f16(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float x = f16_to_f32((uint16_t)h);
        if (x != x) {
            assert_true((h & 0x7fff) > 0x7c00 && (f32_to_f16(x) & 0x7fff) > 0x7c00);
            continue;
        }
        assert_int_equal(f32_to_f16(x), h);
        if ((h & 0x7fff) >= 0x7bff) continue;
        float up = f16_to_f32((uint16_t)(h + 1)), middle = x + (up - x) / 2; /* exact in f32: ties go to the even neighbour */
        assert_int_equal(f32_to_f16(middle), h & 1 ? h + 1 : h);
        assert_int_equal(f32_to_f16(nextafterf(middle, x)), h);
        assert_int_equal(f32_to_f16(nextafterf(middle, up)), h + 1);
    }
    assert_int_equal(f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(f32_to_f16(65520), 0x7c00);
    assert_int_equal(f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(f32_to_bf16(1.00390625f), 0x3f80); /* a tie, to even */
    assert_int_equal(f32_to_bf16(1.01171875f), 0x3f82);
    assert_int_equal(f32_to_bf16(3.4e38f), 0x7f80);
    assert_true((f32_to_bf16(NAN) & 0x7fff) > 0x7f80);
}

/* Every table reads and writes every f16 as quant.c does: V of one position has p = 1, so attention returns it as it is. */
static void test_f16_tables(void **state) {
    (void)state;
    enum { HD = 1024 };
    static uint16_t k[64 * HD], v[64 * HD];
    static float q[HD], out[HD + 16], key[HD], value[HD];
    for (int i = 0; kernels_all()[i]; i++) {
        const kernels *table = kernels_all()[i];
        for (uint32_t h = 0; kernels_usable(table) && h < 65536; h += HD) {
            for (uint32_t d = 0; d < HD; d++) {
                float x = f16_to_f32((uint16_t)(h + d)), up = f16_to_f32((uint16_t)(h + d + 1));
                v[d] = (uint16_t)(h + d);
                value[d] = isfinite(x) && isfinite(up) ? x + (up - x) / 2 : x;
            }
            const void *page = k;
            attn_query query = { q, NULL, 0, 1, out };
            table->attention(&(attn_job){ &query, 1, HD, &page, 0, (size_t)((char *)v - (char *)k), KV_F16, 0 });
            for (uint32_t d = 0; d < HD; d++) {
                float want = f16_to_f32(v[d]);
                assert_true(want == out[d] || (want != want && out[d] != out[d]));
            }
            table->kv_store(KV_F16, k, v, 0, key, value, HD);
            for (uint32_t d = 0; d < HD; d++) assert_int_equal(v[d], f32_to_f16(value[d]));
        }
    }
}

/* ---- quantisation ---- */

static void test_quantize_edges(void **state) {
    (void)state;
    float x[64] = { 0 }, scale;
    int8_t q[64];
    int32_t sum;
    x[0] = -3, x[1] = 3, x[2] = 1.5f, x[3] = -0.011f;
    scalar()->quantize(x, 64, q, &scale, &sum);
    assert_true(q[0] == -127 && q[1] == 127 && (q[2] == 63 || q[2] == 64) && q[3] == 0 && scale == 3.0f / 127);
    assert_int_equal(sum, q[0] + q[1] + q[2] + q[3]);
    x[0] = 127, x[1] = 0.5f, x[2] = 1.5f, x[3] = -2.5f; /* ties to even */
    scalar()->quantize(x, 64, q, &scale, &sum);
    assert_true(q[0] == 127 && q[1] == 0 && q[2] == 2 && q[3] == -2 && scale == 1);
    float bad[] = { INFINITY, -INFINITY, NAN };
    for (int i = 0; i < 3; i++) {
        x[63] = bad[i];
        scalar()->quantize(x, 64, q, &scale, &sum);
        assert_true(isnan(scale) && q[0] == 0 && sum == 0);
    }
    memset(x, 0, sizeof x);
    x[5] = nextafterf(0x1p-100f, 0);
    scalar()->quantize(x, 64, q, &scale, &sum);
    assert_true(scale == 0 && q[5] == 0);
    x[5] = 0x1p-100f;
    scalar()->quantize(x, 64, q, &scale, &sum);
    assert_true(scale > 0 && q[5] == 127);
}

static double nearest_error(wtype t, const float *x) { /* of the plain scale: the extreme on -8 (q4) or 127 (q8) */
    float top = 0;
    double error = 0;
    for (int i = 0; i < 64; i++) top = fabsf(x[i]) > fabsf(top) ? x[i] : top;
    double s = t == W_Q4 ? top / -8.0 : top / 127.0;
    for (int i = 0; i < 64; i++) {
        double q = rint(x[i] / s);
        q = t == W_Q4 && q > 7 ? 7 : q;
        error += (x[i] - q * s) * (x[i] - q * s);
    }
    return error;
}

static void test_pack(void **state) {
    (void)state;
    rng r = { 9, false };
    float rows[16 * 128], back[16 * 128], importance[128];
    _Alignas(64) uint8_t panel[16 * 128 * 4], again[16 * 128 * 4];
    for (int t = W_BF16; t < W_COUNT; t++) {
        rng_fill(&r, rows, 16 * 128);
        for (int i = 0; i < 64; i++) rows[i] = 0;
        rows[3 * 128 + 5] = 1.75f;
        for (int i = 64; i < 128; i++) rows[2 * 128 + i] = i == 70 ? -0.75f : 0; /* alone in its group: exact */
        double error = 0, power = 0, nearest = 0, want = 0, want_power = 0;
        int e = quant_exponent((wtype)t, 2);
        pack_panel((wtype)t, rows, 100, e, NULL, panel, &error, &power);
        unpack_panel((wtype)t, panel, 100, e, back);
        for (int i = 0; i < 16 * 128; i++)
            want += ((double)rows[i] - back[i]) * ((double)rows[i] - back[i]), want_power += (double)rows[i] * rows[i];
        assert_true(fabs(error - want) < 1e-5 * want && fabs(power - want_power) < 1e-9 * power);
        for (int i = 0; i < 64; i++) assert_true(back[i] == 0);
        assert_true(t == W_Q8 ? fabsf(back[2 * 128 + 70] + 0.75f) < 1e-4f : back[2 * 128 + 70] == -0.75f);
        double most = t == W_BF16 ? 0x1p-16 * power : t == W_Q8 ? 1e-4 * power : 1.5e-2 * power;
        assert_true(error < most);
        for (int i = 0; i < 32 && t >= W_Q8; i++)
            nearest += nearest_error((wtype)t, rows + 64 * i) > 0 ? nearest_error((wtype)t, rows + 64 * i) : 0;
        if (t >= W_Q8) assert_true(error < 0.93 * nearest); /* the search earns its keep */
        for (int i = 0; i < 128; i++) importance[i] = i % 8 ? 0.01f : 1;
        pack_panel((wtype)t, rows, 100, e, importance, again, NULL, NULL);
        double plain = 0, weighted = 0;
        for (int i = 0; i < 16 * 128; i++) plain += importance[i % 128] * ((double)rows[i] - back[i]) * ((double)rows[i] - back[i]);
        unpack_panel((wtype)t, again, 100, e, back);
        for (int i = 0; i < 16 * 128; i++)
            weighted += importance[i % 128] * ((double)rows[i] - back[i]) * ((double)rows[i] - back[i]);
        assert_true(t == W_BF16 ? weighted == plain : weighted < 0.95 * plain);
    }
    rows[7] = NAN; /* never silent: its group's scale is NaN */
    pack_panel(W_Q4, rows, 128, quant_exponent(W_Q4, 2), NULL, panel, NULL, NULL);
    unpack_panel(W_Q4, panel, 128, 0, back);
    assert_true(isnan(back[0]) && isnan(back[63]) && !isnan(back[64]) && !isnan(back[128]));
}

/* A table in plain rows has the weights of the same table in panels, bit for bit, packed with the same errors; and a row lies in
 * its own bytes: garbage in all the others changes nothing. */
static void test_plain_rows(void **state) {
    (void)state;
    enum { N = 16, K = 200, KP = 256 };
    rng r = { 21, false };
    float rows[N * KP] = { 0 }, panel_back[N * KP], back[KP], importance[KP];
    _Alignas(64) uint8_t panel[N * KP * 4], plain[N * KP * 4];
    for (int i = 0; i < N; i++) rng_fill(&r, rows + i * KP, K);
    for (int i = 0; i < KP; i++) importance[i] = i % 8 ? 0.01f : 1;
    for (int t = 0; t < W_COUNT; t++) {
        int e = quant_exponent((wtype)t, 2);
        size_t bytes = plain_row_bytes((wtype)t, K);
        double error = 0, power = 0, plain_error = 0, plain_power = 0;
        pack_panel((wtype)t, rows, K, e, importance, panel, &error, &power);
        unpack_panel((wtype)t, panel, K, e, panel_back);
        for (int i = 0; i < N; i++)
            pack_plain_row((wtype)t, rows + i * KP, K, e, importance, plain + (size_t)i * bytes, &plain_error, &plain_power);
        assert_true(fabs(plain_error - error) <= 1e-9 * error && fabs(plain_power - power) <= 1e-9 * power);
        for (int i = 0; i < N; i++) {
            uint8_t alone[N * KP * 4];
            memset(alone, 0xab, sizeof alone);
            memcpy(alone + (size_t)i * bytes, plain + (size_t)i * bytes, bytes);
            unpack_plain_row((wtype)t, alone + (size_t)i * bytes, K, e, back);
            assert_memory_equal(back, panel_back + i * KP, sizeof back);
            mat w = { alone, (uint8_t)t, LAYOUT_ROWS, N, K, ldexpf(1, e), NULL, NULL };
            for (int k = 0; kernels_all()[k]; k++) {
                if (!kernels_usable(kernels_all()[k])) continue;
                memset(back, 0, sizeof back);
                kernels_all()[k]->row_load(&w, i, back);
                assert_memory_equal(back, panel_back + i * KP, sizeof back);
            }
        }
    }
}

/* Any size of tensor: the exponent keeps scales normal, so the relative error is the same from 2^-120 to 2^120. */
static void test_exponent(void **state) {
    (void)state;
    float rows[16 * 64], back[16 * 64];
    _Alignas(64) uint8_t panel[2048];
    for (int t = W_Q8; t <= W_Q4; t++)
        for (int size = -120; size <= 120; size += 8) {
            rng r = { 11, false };
            rng_fill(&r, rows, 16 * 64);
            float amax = 0;
            for (int i = 0; i < 16 * 64; i++) rows[i] = ldexpf(rows[i], size), amax = fabsf(rows[i]) > amax ? fabsf(rows[i]) : amax;
            int e = quant_exponent((wtype)t, amax);
            pack_panel((wtype)t, rows, 64, e, NULL, panel, NULL, NULL);
            unpack_panel((wtype)t, panel, 64, e, back);
            double error = 0, power = 0;
            for (int i = 0; i < 16 * 64; i++)
                error += pow(ldexp(rows[i] - back[i], -size), 2), power += pow(ldexp(rows[i], -size), 2);
            assert_true(error < (t == W_Q8 ? 1e-4 : 1.5e-2) * power);
        }
    assert_int_equal(quant_exponent(W_Q4, 0), 0);
    assert_int_equal(quant_exponent(W_Q4, INFINITY), 0);
    assert_true(quant_exponent(W_Q8, 0x1p-149f) >= -128 && quant_exponent(W_Q8, 0x1.fffffep127f) <= 127);
    memset(rows, 0, sizeof rows);
    pack_panel(W_Q4, rows, 64, 0, NULL, panel, NULL, NULL);
    unpack_panel(W_Q4, panel, 64, 0, back);
    for (int i = 0; i < 16 * 64; i++) assert_true(back[i] == 0);
}

static void test_sizes(void **state) {
    (void)state;
    uint64_t bytes;
    wtype t;
    assert_int_equal(panel_bytes(W_Q4, 64), 64 + 512);
    assert_int_equal(panel_bytes(W_Q4, 65), 64 + 1024);
    assert_int_equal(panel_bytes(W_Q8, 129), 128 + 3072);
    assert_int_equal(panel_bytes(W_BF16, 1), 2048);
    assert_int_equal(panel_bytes(W_F32, 64), 4096);
    assert_int_equal(plain_row_bytes(W_Q4, 65), 64 + 2 * 32);
    assert_int_equal(plain_row_bytes(W_Q8, 64 * 33), 128 + 33 * 64);
    assert_int_equal(plain_row_bytes(W_BF16, 1), 128);
    assert_int_equal(plain_row_bytes(W_F32, 64), 256);
    assert_int_equal(matrix_bytes(W_Q8, LAYOUT_ROWS, 17, 64, &bytes), 0);
    assert_true(bytes == 32 * 128);
    assert_int_equal(matrix_bytes(W_Q4, LAYOUT_P16, 17, 64, &bytes), 0);
    assert_true(bytes == 2 * 576);
    assert_int_equal(matrix_bytes(W_F32, LAYOUT_ROWS, 1ull << 31, 64, &bytes), -1);
    assert_int_equal(matrix_bytes(W_F32, LAYOUT_ROWS, INT32_MAX, INT32_MAX, &bytes), -1);
    assert_int_equal(matrix_bytes(W_F32, LAYOUT_ROWS, UINT64_MAX, 1, &bytes), -1);
    for (int i = 0; i < W_COUNT; i++) assert_true(wtype_parse(wtype_name((wtype)i), &t) == 0 && (int)t == i);
    assert_int_equal(wtype_parse("q5", &t), -1);
}

/* ---- the choice of a table ---- */

static void test_choice(void **state) {
    (void)state;
    err e = { 0 };
    assert_int_equal(kernels_init("sclar", &e), -1);
    assert_non_null(strstr(e.msg, "'sclar'"));
    assert_non_null(strstr(e.msg, "usable here: scalar"));
    e.code = 0;
    setenv("QUERN_KERNELS", "scalar", 1);
    assert_int_equal(kernels_init(NULL, &e), 0);
    assert_ptr_equal(kernels_get(), scalar());
    setenv("QUERN_KERNELS", "nonsense", 1);
    assert_int_equal(kernels_init(NULL, &e), -1);
    unsetenv("QUERN_KERNELS");
    e.code = 0;
    assert_int_equal(kernels_init(NULL, &e), 0);
    assert_true(kernels_usable(kernels_get()));
    for (int i = 0; kernels_all()[i]; i++) {
        const kernels *k = kernels_all()[i];
        assert_ptr_equal(kernels_named(k->name), k);
        assert_int_equal(kernels_init(k->name, &e), kernels_usable(k) ? 0 : -1);
    }
    char cpu[200], small[8];
    cpu_describe(cpu, sizeof cpu);
    cpu_describe(small, sizeof small);
    assert_true(strlen(cpu) > 3 && strlen(small) == 7);
}

static void test_probes(void **state) {
    (void)state;
    static _Alignas(64) uint8_t bytes[1024];
    for (int i = 0; table_at(i); i++) {
        const kernels *k = table_at(i);
        memset(bytes, 0, sizeof bytes);
        uint64_t none = k->probe_read(bytes, sizeof bytes);
        for (size_t at = 256; at < sizeof bytes; at += 63) { /* each byte counts (the first block starts the sum and cancels) */
            bytes[at] ^= 0x55;
            assert_true(k->probe_read(bytes, sizeof bytes) != none);
            bytes[at] ^= 0x55;
        }
        assert_true(k->probe_f32(10) > 0 && k->probe_int8(10) > 0 && k->probe_bf16(10) > 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables_agree), cmocka_unit_test(test_large_products), cmocka_unit_test(test_large_attention),
        cmocka_unit_test(test_cuts), cmocka_unit_test(test_matmul_reference), cmocka_unit_test(test_attention_reference),
        cmocka_unit_test(test_attention_int8), cmocka_unit_test(test_attention_masked), cmocka_unit_test(test_norm_reference),
        cmocka_unit_test(test_functions), cmocka_unit_test(test_weights), cmocka_unit_test(test_sincos), cmocka_unit_test(test_f16),
        cmocka_unit_test(test_f16_tables), cmocka_unit_test(test_quantize_edges), cmocka_unit_test(test_pack),
        cmocka_unit_test(test_plain_rows), cmocka_unit_test(test_exponent), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_choice), cmocka_unit_test(test_probes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
