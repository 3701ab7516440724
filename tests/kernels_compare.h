/* What kernels_test and kernels_emulated share: a case is a seed, which chooses an operation, its shape and its numbers; running
 * it on a table gives bytes, and every table must give the same ones. Any NaN counts as the same NaN: its sign and payload are the
 * processor's choice. Plain C, no cmocka, so that it runs under an emulator. */
#ifndef QUERN_KERNELS_COMPARE_H
#define QUERN_KERNELS_COMPARE_H
#include "kernels/quant.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers ---- */
typedef struct rng { uint64_t s; bool hostile; } rng;

static uint64_t rng_next(rng *r) { /* splitmix64 */
    uint64_t z = r->s += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}
static int rng_int(rng *r, int lo, int hi) { return lo + (int)(rng_next(r) % (uint64_t)(hi - lo + 1)); }

static float rng_float(rng *r) {
    static const uint32_t strange[] = { 0, 0x80000000, 1, 0x80000001, 0x007fffff, 0x7f7fffff, 0xff7fffff, 0x7f800000,
        0xff800000, 0x7fc00000, 0xffc00000,
                                        0x7f800001, 0x33000000, 0x33000001, 0x387fffff, 0x477fefff, 0x477ff000, 0x3f800000,
                                            0x0d800000, 0x0d7fffff };
    if (r->hostile && rng_int(r, 0, 200) == 0) {
        uint32_t u = strange[rng_next(r) % (sizeof strange / sizeof *strange)];
        float x;
        memcpy(&x, &u, sizeof x);
        return x;
    }
    float x = 0; /* a sum of four uniforms: bell enough; exact in f32 */
    for (int i = 0; i < 4; i++) x += (float)(int)(rng_next(r) >> 44) * 0x1p-20f - 0.5f;
    return x;
}
static void rng_fill(rng *r, float *x, size_t n) { for (size_t i = 0; i < n; i++) x[i] = rng_float(r); }

/* ---- what a case writes ---- */
typedef struct sink { uint8_t *p; size_t n, cap; bool skip_bf16; } sink;

static void sink_bytes(sink *s, const void *p, size_t n) {
    if (s->n + n > s->cap) {
        s->cap = 2 * (s->n + n);
        s->p = realloc(s->p, s->cap);
    }
    memcpy(s->p + s->n, p, n);
    s->n += n;
}
static void sink_floats(sink *s, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t u = 0x7fc00000;
        if (x[i] == x[i]) memcpy(&u, x + i, 4);
        sink_bytes(s, &u, 4);
    }
}

/* ---- a random matrix and random activations ---- */
typedef struct problem {
    mat w;
    acts a;
    float *rows; /* [pad16(n)][pad64(k)] as packed */
    uint8_t *data;
    float *x, *bias;
} problem;

static int padded(int n, int to) { return (n + to - 1) / to * to; }

static void problem_make(problem *p, rng *r, const kernels *k, wtype t, int m, int n, int inputs, bool int8) {
    int np = padded(n, PANEL), kp = padded(inputs, GROUP), groups = kp / GROUP;
    size_t bytes = panel_bytes(t, inputs);
    bool hostile = r->hostile;
    p->rows = alloc_aligned((size_t)np * (size_t)kp * 4);
    p->data = alloc_aligned(bytes * (size_t)(np / PANEL));
    p->x = alloc_aligned((size_t)m * (size_t)kp * 4);
    p->bias = rng_int(r, 0, 1) ? alloc_aligned((size_t)np * 4) : NULL;
    r->hostile = hostile && t < W_Q8; /* a file holds what pack_panel made; plain weights may be anything */
    for (int i = 0; i < n; i++) rng_fill(r, p->rows + (size_t)i * (size_t)kp, (size_t)inputs);
    r->hostile = hostile;
    for (int i = 0; i < m; i++) rng_fill(r, p->x + (size_t)i * (size_t)kp, (size_t)inputs);
    if (p->bias) rng_fill(r, p->bias, (size_t)n);
    int e = quant_exponent(t, 2);
    for (int i = 0; i < np / PANEL; i++)
        pack_panel(t, p->rows + (size_t)i * PANEL * (size_t)kp, inputs, e, NULL, p->data + (size_t)i * bytes, NULL, NULL);
    p->w = (mat){ p->data, (uint8_t)t, (uint8_t)(t == W_F32 ? LAYOUT_ROWS : LAYOUT_P16), n, inputs, ldexpf(1, e), p->bias, NULL };
    p->a = (acts){ m, inputs, p->x, (size_t)kp, NULL, NULL, NULL };
    if (!int8) return;
    p->a.q = alloc_aligned((size_t)m * (size_t)kp);
    p->a.scale = alloc_aligned((size_t)m * (size_t)groups * 4);
    p->a.sum = alloc_aligned((size_t)m * (size_t)groups * 4);
    for (int i = 0; i < m; i++)
        k->quantize(p->x + (size_t)i * (size_t)kp, inputs, p->a.q + (size_t)i * (size_t)kp, p->a.scale + i * groups,
            p->a.sum + i * groups);
}

static void problem_free(problem *p) {
    void *all[] = { p->rows, p->data, p->x, p->bias, p->a.q, p->a.scale, p->a.sum };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free_aligned(all[i]);
}

/* ---- the cases ---- */
static void case_matmul(const kernels *k, rng *r, sink *s) {
    problem p = { 0 };
    int m = rng_int(r, 0, 3) ? rng_int(r, 1, 14) : rng_int(r, 1, 40), n = rng_int(r, 1, 70), inputs = rng_int(r, 1, 330);
    wtype t = (wtype)rng_int(r, 0, W_COUNT - 1);
    bool int8 = rng_int(r, 0, 1);
    problem_make(&p, r, k, t, m, n, inputs, int8);
    int panels = padded(n, PANEL) / PANEL, p0 = rng_int(r, 0, panels - 1), p1 = rng_int(r, p0 + 1, panels),
        ldy = panels * PANEL + 3;
    float *y = alloc_aligned((size_t)m * (size_t)ldy * 4);
    for (int i = 0; i < m * ldy; i++) y[i] = -7;
    k->matmul[t][int8](&p.w, &p.a, y, (size_t)ldy, p0, p1);
    for (int i = 0; i < m * ldy && s->skip_bf16 && t == W_BF16; i++) y[i] = y[i] != -7;
    sink_floats(s, y, (size_t)m * (size_t)ldy);
    free_aligned(y);
    problem_free(&p);
}

static void case_quantize(const kernels *k, rng *r, sink *s) {
    static const float sizes[] = { 1, 0x1p-98f, 0x1p-110f, 0x1p100f, 0x1p-140f, 0 };
    int n = rng_int(r, 1, 400), groups = padded(n, GROUP) / GROUP;
    float x[448], scale[7], size = sizes[rng_int(r, 0, 5)];
    int8_t q[448];
    int32_t sum[7];
    rng_fill(r, x, 448);
    for (int i = 0; i < n; i++) x[i] *= rng_int(r, 0, 9) ? 1 : size;
    if (rng_int(r, 0, 3) == 0) for (int i = 0; i < n; i++) x[i] = rintf(x[i] * 100) * 0.5f; /* ties */
    for (int i = 0; rng_int(r, 0, 3) == 0 && i < n; i++) x[i] *= size;
    k->quantize(x, n, q, scale, sum);
    sink_bytes(s, q, (size_t)groups * GROUP);
    sink_floats(s, scale, (size_t)groups);
    sink_bytes(s, sum, (size_t)groups * 4);
}

static void case_row_load(const kernels *k, rng *r, sink *s) {
    problem p = { 0 };
    wtype t = (wtype)rng_int(r, 0, W_COUNT - 1);
    int n = rng_int(r, 1, 40), inputs = rng_int(r, 1, 200);
    problem_make(&p, r, k, t, 1, n, inputs, false);
    float x[256];
    int row = rng_int(r, 0, n - 1), kp = padded(inputs, GROUP), e;
    k->row_load(&p.w, row, x);
    sink_floats(s, x, (size_t)kp);
    /* the same row out of a table in plain rows, whose other rows are garbage */
    size_t bytes = plain_row_bytes(t, inputs);
    uint8_t *plain = memset(alloc_aligned(bytes * (size_t)padded(n, PANEL)), 0xab, bytes * (size_t)padded(n, PANEL));
    frexpf(p.w.scale, &e);
    pack_plain_row(t, p.rows + (size_t)row * (size_t)kp, inputs, e - 1, NULL, plain + (size_t)row * bytes, NULL, NULL);
    p.w.data = plain;
    p.w.layout = LAYOUT_ROWS;
    k->row_load(&p.w, row, x);
    sink_floats(s, x, (size_t)kp);
    free_aligned(plain);
    problem_free(&p);
}

static void case_norms(const kernels *k, rng *r, sink *s) {
    int n = rng_int(r, 1, 200);
    float x[200], w[200], b[200], y[200];
    rng_fill(r, x, 200), rng_fill(r, w, 200), rng_fill(r, b, 200);
    for (int i = 0; i < 200; i++) y[i] = -7;
    float eps = rng_int(r, 0, 1) ? 1e-5f : 0;
    const float *weight = rng_int(r, 0, 3) ? w : NULL, *bias = rng_int(r, 0, 1) ? b : NULL;
    k->rmsnorm(y, x, weight, n, eps);
    sink_floats(s, y, 200);
    k->layernorm(y, x, w, bias, n, eps);
    sink_floats(s, y, 200);
    k->rmsnorm(x, x, w, n, eps); /* in place */
    k->layernorm(x, x, w, b, n, eps);
    sink_floats(s, x, 200);
}

static void case_rows(const kernels *k, rng *r, sink *s) {
    int n = rng_int(r, 1, 150);
    float x[320], y[320], g[320], spread = ldexpf(1, rng_int(r, -6, 7));
    rng_fill(r, x, 320), rng_fill(r, y, 320), rng_fill(r, g, 320);
    for (int i = 0; i < 320; i++) g[i] *= spread;
    for (int kind = 0; kind < ACT_COUNT; kind++) {
        float t[160];
        memcpy(t, g, sizeof t);
        k->act((act_kind)kind, t, n);
        sink_floats(s, t, 160);
        k->glu((act_kind)kind, t, g, padded(n, 16));
        sink_floats(s, t, 160);
    }
    k->add(x, y, rng_float(r), n);
    k->scale(x, rng_float(r), n);
    k->softcap(g, 1 + (float)rng_int(r, 0, 50), n);
    sink_floats(s, x, 320);
    sink_floats(s, g, 320);
    int n_freq = rng_int(r, 1, 40), heads = 300 / (2 * n_freq + 3);
    k->rope(x, (size_t)(2 * n_freq + 3), min_int(heads, 3), y, g, n_freq);
    sink_floats(s, x, 320);
    float rows[7 * 176];
    rng_fill(r, rows, 7 * 176);
    for (int i = 0; i < 2; i++) {
        int m = rng_int(r, 1, 7), ranks = rng_int(r, 0, 8), blocks = rng_int(r, 1, 9);
        k->add_ranks(rows + 32 * i, 176, m, g, 20, y, 40, ranks, 16 * blocks);
    }
    sink_floats(s, rows, 7 * 176);
}

/* Some queries of one segment, each with its own range, or most with nearly the same as in a prompt. */
static void case_attention(const kernels *k, rng *r, sink *s) {
    static const int dims[] = { 1, 8, 20, 32, 64, 80, 96, 128, 176 };
    int hd = dims[rng_int(r, 0, 8)], pad = padded(hd, 16), n = rng_int(r, 0, 3) ? rng_int(r, 1, 8) : rng_int(r, 9, 30);
    int segment = rng_int(r, 0, 1) * ATTN_SEGMENT, t0 = segment + rng_int(r, 0, ATTN_SEGMENT - 1) * rng_int(r, 0, 1);
    int t1 = rng_int(r, 0, 1) ? rng_int(r, t0 + 1, segment + ATTN_SEGMENT) : min_int(t0 + rng_int(r, 1, 70),
        segment + ATTN_SEGMENT);
    kv_type type = (kv_type)rng_int(r, 0, 2);
    size_t v_at = 64 + kv_block_bytes(type, hd, false), page_bytes = v_at + kv_block_bytes(type, hd, true);
    void *page[16] = { NULL };
    float key[176], value[176];
    for (int t = t0; t < t1; t++) {
        int i = t / KV_PAGE;
        /* unwritten slots are NaN */
        if (!page[i]) page[i] = memset(alloc_aligned(page_bytes), 0xff, page_bytes);
        rng_fill(r, key, 176), rng_fill(r, value, 176);
        k->kv_store(type, (char *)page[i] + 64, (char *)page[i] + v_at, t % KV_PAGE, key, value, hd);
    }
    for (int i = 0; i < 16; i++)
        if (page[i] && rng_int(r, 0, 3) == 0) sink_bytes(s, page[i], page_bytes);
    size_t ldq = (size_t)hd + 5, ld = (size_t)pad + 16;
    float *q = alloc_aligned((size_t)n * ldq * 4), *out = alloc_aligned((size_t)n * ld * 4), *bias = alloc_aligned((size_t)n * 1100 * 4);
    rng_fill(r, q, (size_t)n * ldq), rng_fill(r, bias, (size_t)n * 1100);
    if (rng_int(r, 0, 3) == 0) for (int i = 0; i < n * 1100; i++) bias[i] = rng_int(r, 0, 9) ? -INFINITY : 0; /* masks */
    attn_query query[30];
    bool biased = rng_int(r, 0, 2) == 0, prompt = rng_int(r, 0, 1);
    for (int i = 0; i < n; i++) {
        int a = prompt ? min_int(t0 + i / 4, t1 - 1) : rng_int(r, t0, t1 - 1), b = prompt ? max_int(a + 1, t1 - (n - i) / 4) : rng_int(r, a + 1, t1);
        query[i] = (attn_query){ q + (size_t)i * ldq, biased ? bias + i * 1100 : NULL, a, b, out + (size_t)i * ld };
    }
    k->attention(&(attn_job){ query, n, hd, (const void *const *)page, 64, v_at, type, rng_int(r, 0, 2) ? 0 : 3.5f });
    for (int i = 0; i < n; i++) sink_floats(s, query[i].out, (size_t)pad + 2);
    for (int i = 0; i + 1 < n; i++) k->attn_merge(query[i].out, query[i + 1].out, pad);
    for (int i = 0; i < n; i++) sink_floats(s, query[i].out, (size_t)pad + 2);
    for (int i = 0; i < 16; i++) free_aligned(page[i]);
    free_aligned(q), free_aligned(out), free_aligned(bias);
}

static const struct { const char *name; void (*run)(const kernels *, rng *, sink *); } cases[] = {
    { "matmul", case_matmul }, { "quantize", case_quantize }, { "row_load", case_row_load }, { "norms", case_norms }, { "rows",
        case_rows },
    { "attention", case_attention }, { "matmul", case_matmul }, { "matmul", case_matmul },
};

static const char *case_run(const kernels *k, uint64_t seed, sink *s) {
    rng r = { seed * 0x9e3779b97f4a7c15ull, seed / 8 % 4 == 3 };
    s->n = 0;
    cases[seed % 8].run(k, &r, s);
    return cases[seed % 8].name;
}

/* A table with bf16 units has its own bits for bf16 weights (kernels.h); they are compared by tolerance elsewhere. */
static bool own_bf16(const kernels *k) { return strncmp(k->name, "amx", 3) == 0; }

/* Runs seeds [0, n) on both tables; adds scalar's bytes to h. Returns the first differing seed, or -1. */
static long case_compare(const kernels *reference, const kernels *k, long n, hash64 *h) {
    sink a = { .skip_bf16 = own_bf16(k) }, b = a;
    long bad = -1;
    for (long seed = 0; seed < n && bad < 0; seed++) {
        const char *name = case_run(reference, (uint64_t)seed, &a);
        if (h) hash_add(h, a.p, a.n);
        if (k == reference) continue;
        case_run(k, (uint64_t)seed, &b);
        size_t at = 0;
        while (at < a.n && a.n == b.n && a.p[at] == b.p[at]) at++;
        if (a.n == b.n && at == a.n) continue;
        bad = seed;
        fprintf(stderr, "%s differs from %s: %s, seed %ld, byte %zu of %zu\n", k->name, reference->name, name, seed, at, a.n);
    }
    free(a.p), free(b.p);
    return bad;
}
#endif
