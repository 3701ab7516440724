/* attention: one KV head against the queries that read it, page by page, and the writer of pages.
 * Part of generic.inc.h.
 *
 *   K block [hd][64 positions]           V block [64 positions][pad16(hd)]
 *   lanes are positions:                 lanes are elements of the head:
 *     s[query][16 t] += q[query][d] * K[d][16 t]     out[query][16 d] += p[query][t] * V[t][16 d]
 *
 * so neither product needs a horizontal sum, and each K and V vector is converted from f16 once for ATTN_QUERIES queries: the heads
 * that share this KV head, of one token in a decode step, of several in a prompt. Scores of one segment and up to
 * QUERIES_AT_ONCE queries lie on the stack between the two; the pages of a segment are read once for all of them. A prompt's queries see different
 * ends: scores are computed a page at a time and masked, values are added only where a query looks. */
enum { QUERIES_AT_ONCE = 24, PAGE_VECS = KV_PAGE / 16, LD_SCORES = ATTN_SEGMENT + 16 }; /* 16 more: rows 2 KB apart share cache sets */

/* The pages of a job: where K and V of page i begin; while one is read, its successor is fetched. */
INLINE const char *kv_page(const attn_job *j, int page, size_t at) { return (const char *)j->page[page] + at; }

/* Blocks of as many queries as registers hold, then of fewer. Each count is a constant of its own code. */
#define EACH_BLOCK(most, call) \
    int i = 0; \
    for (; i + (most) <= n; i += (most)) call(most); \
    for (; (most) > 4 && i + 4 <= n; i += 4) call(4); \
    for (; i + 2 <= n; i += 2) call(2); \
    for (; i < n; i++) call(1)

#include "kernels/attention_int8.inc.h"

/* ---- a cache of floats ---- */

INLINE v16 kv_load(const kv_type type, const void *block, size_t i) {
    return type == KV_F16 ? v16_from_f16((const uint16_t *)block + i) : v16_load((const float *)block + i);
}

INLINE size_t kv_bytes(kv_type type) { return type == KV_F16 ? 2 : 4; }

INLINE void store_floats(const kv_type type, void *k_block, void *v_block, int slot, const float *k, const float *v, int hd) {
    for (int d = 0; d < hd; d += 16) {
        int n = min_int(16, hd - d);
        v16 key = v16_load_n(k + d, n), value = v16_load_n(v + d, n);
        if (type == KV_F16) {
            uint16_t half[16], *kb = k_block;
            v16_to_f16(half, key);
            for (int i = 0; i < n; i++) kb[(size_t)(d + i) * KV_PAGE + (size_t)slot] = half[i];
            v16_to_f16((uint16_t *)v_block + (size_t)slot * round_up((size_t)hd, 16) + d, value);
        } else {
            float *kb = k_block;
            for (int i = 0; i < n; i++) kb[(size_t)(d + i) * KV_PAGE + (size_t)slot] = k[d + i];
            v16_store((float *)v_block + (size_t)slot * round_up((size_t)hd, 16) + d, value);
        }
    }
}

static void kv_store(kv_type type, void *k_block, void *v_block, int slot, const float *k, const float *v, int hd) {
    if (type == KV_Q8) store_int8(k_block, v_block, slot, k, v, hd);
    else store_floats(type, k_block, v_block, slot, k, v, hd);
}

/* Scores of `n` queries with `vecs` * 16 positions of one K block, from vector `first`. ahead: the block to fetch, or this. */
INLINE void score_block(const attn_job *j, const kv_type type, const char *block, const char *ahead, int first, const attn_query *query,
                        float (*s)[LD_SCORES], const int n, const int vecs) {
    v16 acc[ATTN_QUERIES][PAGE_VECS];
    const float *q[ATTN_QUERIES];
    UNROLL for (int i = 0; i < n; i++) q[i] = query[i].q;
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int v = 0; v < vecs; v++) acc[i][v] = v16_set1(0);
    for (int d = 0; d < j->hd; d++) {
        size_t at = (size_t)d * KV_PAGE + (size_t)first * 16;
        v16 k[PAGE_VECS];
        UNROLL for (int v = 0; v < vecs; v++) {
            if (v % 2 == 0 || type == KV_F32) PREFETCH_L2(ahead + (at + 16 * (size_t)v) * kv_bytes(type));
            k[v] = kv_load(type, block, at + 16 * (size_t)v);
        }
        UNROLL for (int i = 0; i < n; i++) {
            v16 x = v16_set1(q[i][d]);
            UNROLL for (int v = 0; v < vecs; v++) acc[i][v] = v16_fma(x, k[v], acc[i][v]);
        }
    }
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int v = 0; v < vecs; v++) v16_store(s[i] + 16 * (first + v), acc[i][v]);
}

/* out[n][vecs * 16] += p of one page's positions [t0, t1) times V, t after t, from element d on. */
INLINE void value_block(const attn_job *j, const kv_type type, const char *block, const char *ahead, int t0, int t1, int d,
                        float (*p)[LD_SCORES], const attn_query *query, const int n, const int vecs) {
    size_t ld = round_up((size_t)j->hd, 16);
    v16 acc[ATTN_QUERIES][PAGE_VECS];
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int v = 0; v < vecs; v++) acc[i][v] = v16_load(query[i].out + d + 16 * v);
    for (int t = t0; t < t1; t++) {
        size_t at = (size_t)t * ld + (size_t)d;
        v16 value[PAGE_VECS];
        UNROLL for (int v = 0; v < vecs; v++) {
            if (v % 2 == 0 || type == KV_F32) PREFETCH_L2(ahead + (at + 16 * (size_t)v) * kv_bytes(type));
            value[v] = kv_load(type, block, at + 16 * (size_t)v);
        }
        UNROLL for (int i = 0; i < n; i++) {
            v16 x = v16_set1(p[i][t]);
            UNROLL for (int v = 0; v < vecs; v++) acc[i][v] = v16_fma(x, value[v], acc[i][v]);
        }
    }
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int v = 0; v < vecs; v++) v16_store(query[i].out + d + 16 * v, acc[i][v]);
}

/* The same for all vectors of a page, ATTN_VECS at a time. */
INLINE void value_range(const attn_job *j, const kv_type type, const char *block, const char *ahead, int t0, int t1,
                        float (*p)[LD_SCORES], const attn_query *query, const int n) {
    int d = 0, end = (int)round_up((size_t)j->hd, 16);
    if (t0 >= t1) return;
    for (; d + 16 * ATTN_VECS <= end; d += 16 * ATTN_VECS) value_block(j, type, block, ahead, t0, t1, d, p, query, n, ATTN_VECS);
    for (; d < end; d += 16) value_block(j, type, block, ahead, t0, t1, d, p, query, n, 1);
}

/* Values of a page's positions from `at` on: where all n queries look together, before and after that each by itself. */
INLINE void value_page(const attn_job *j, const kv_type type, const char *block, const char *ahead, int at, float (*p)[LD_SCORES],
                       const attn_query *query, const int n) {
    int t0 = 0, t1 = KV_PAGE;
    for (int i = 0; i < n; i++) t0 = max_int(t0, query[i].t0 - at), t1 = min_int(t1, query[i].t1 - at);
    t1 = max_int(t1, t0);
    for (int i = 0; i < n && n > 1; i++)
        value_range(j, type, block, ahead, max_int(query[i].t0 - at, 0), min_int(min_int(t0, KV_PAGE), query[i].t1 - at), p + i, query + i, 1);
    value_range(j, type, block, ahead, t0, t1, p, query, n);
    for (int i = 0; i < n && n > 1; i++)
        value_range(j, type, block, ahead, max_int(t1, query[i].t0 - at), min_int(query[i].t1 - at, KV_PAGE), p + i, query + i, 1);
}

/* Scores of n queries with pages first to last, s[0] being position base; then values times their weights. */
INLINE void scores_floats(const attn_job *j, const kv_type type, const attn_query *query, int n, int first, int last,
                          int base, float (*s)[LD_SCORES]) {
    for (int page = first; page <= last; page++) {
        const char *block = kv_page(j, page, j->k_at);
        const char *ahead = page < last ? kv_page(j, page + 1, j->k_at) : kv_page(j, first, j->v_at);
        const int at = page * KV_PAGE - base;
#define SCORES(count) \
    for (int v = 0; v < PAGE_VECS; v += ATTN_VECS) \
        score_block(j, type, block, ahead, v, query + i, (float (*)[LD_SCORES])(void *)(s[i] + at), count, ATTN_VECS)
        EACH_BLOCK(ATTN_QUERIES, SCORES);
    }
}

INLINE void values_floats(const attn_job *j, const kv_type type, const attn_query *query, int n, int first, int last,
                          int base, float (*s)[LD_SCORES]) {
    for (int page = first; page <= last; page++) {
        const char *block = kv_page(j, page, j->v_at), *ahead = page < last ? kv_page(j, page + 1, j->v_at) : block;
        const int at = page * KV_PAGE;
#define VALUES(count) value_page(j, type, block, ahead, at, (float (*)[LD_SCORES])(void *)(s[i] + at - base), query + i, count)
        EACH_BLOCK(ATTN_QUERIES, VALUES);
    }
}

/* ---- a segment ---- */

/* From scores s of positions from `base` on to p = exp(s - max), in place; positions of the range's vectors outside of it get p = 0.
 * A max of -inf (every position masked) counts as 0, so that sum and out are 0. */
INLINE void soften(const attn_job *j, const attn_query *query, float *s, int base) {
    int a = query->t0 - base, b = query->t1 - base, v0 = a / 16 * 16, v1 = (b + 15) / 16 * 16;
    float *end = query->out + round_up((size_t)j->hd, 16);
    if (j->softcap > 0) for (int i = v0; i < v1; i += 16) v16_store(s + i, v16_softcap(v16_load(s + i), j->softcap));
    if (query->bias) for (int i = a; i < b; i++) s[i] += query->bias[base + i];
    for (int i = v0; i < a; i++) s[i] = -INFINITY;
    for (int i = b; i < v1; i++) s[i] = -INFINITY;
    v16 top = v16_set1(-INFINITY), sum = v16_set1(0);
    for (int i = v0; i < v1; i += 16) top = v16_larger(v16_load(s + i), top);
    float max = v16_max(top) + 0.0f; /* never -0, whichever zero came first */
    v16 less = v16_set1(max > -INFINITY ? max : 0);
    for (int i = v0; i < v1; i += 16) {
        v16 p = v16_exp_weight(v16_sub(v16_load(s + i), less));
        v16_store(s + i, p);
        sum = v16_add(sum, p);
    }
    end[1] = v16_sum(sum);
    end[0] = end[1] == end[1] ? max : NAN;
}

/* Queries [0, n) over the whole job: scores, softmax, values. */
INLINE void attention_queries(const attn_job *j, const kv_type type, const attn_query *query, int n) {
    _Alignas(64) float s[QUERIES_AT_ONCE][LD_SCORES];
    size_t ld = round_up((size_t)j->hd, 16);
    int t0 = query[0].t0, t1 = query[0].t1;
    for (int i = 1; i < n; i++) t0 = min_int(t0, query[i].t0), t1 = max_int(t1, query[i].t1);
    int base = t0 / ATTN_SEGMENT * ATTN_SEGMENT, first = t0 / KV_PAGE, last = (t1 - 1) / KV_PAGE;
    if (type == KV_Q8) scores_int8(j, query, n, first, last, base, s);
    else scores_floats(j, type, query, n, first, last, base, s);
    for (int i = 0; i < n; i++) soften(j, &query[i], s[i], base);
    for (int i = 0; i < n; i++) memset(query[i].out, 0, ld * sizeof(float));
    if (type == KV_Q8) values_int8(j, query, n, first, last, base, s);
    else values_floats(j, type, query, n, first, last, base, s);
    for (int i = 0; i < n; i++)
        if (!(query[i].out[ld + 1] == query[i].out[ld + 1])) for (size_t d = 0; d < ld; d++) query[i].out[d] = NAN;
}

static void attention_f16(const attn_job *j, const attn_query *query, int n) { attention_queries(j, KV_F16, query, n); }
static void attention_f32(const attn_job *j, const attn_query *query, int n) { attention_queries(j, KV_F32, query, n); }
static void attention_q8(const attn_job *j, const attn_query *query, int n) { attention_queries(j, KV_Q8, query, n); }

static void attention(const attn_job *j) {
    for (int i = 0; i < j->n; i += QUERIES_AT_ONCE)
        (j->type == KV_F16 ? attention_f16 : j->type == KV_F32 ? attention_f32 : attention_q8)(j, j->query + i, min_int(QUERIES_AT_ONCE, j->n - i));
}

INLINE float exp_of(float x) {
    float e[16];
    v16_store(e, v16_exp(v16_set1(x)));
    return e[0];
}

static void attn_merge(float *a, const float *b, int n) {
    float max = b[n] > a[n] ? b[n] : a[n], less;
    if (b[n] != b[n]) max = b[n];
    less = max == -INFINITY ? 0 : max;
    float ea = exp_of(a[n] - less), eb = exp_of(b[n] - less);
    v16 va = v16_set1(ea), vb = v16_set1(eb);
    a[n] = max;
    a[n + 1] = fmaf(b[n + 1], eb, a[n + 1] * ea);
    for (int i = 0; i < n; i += 16) v16_store(a + i, v16_fma(v16_load(b + i), vb, v16_mul(v16_load(a + i), va)));
}
