/* attention: one KV head against the query heads that share it, page by page, and the writer of pages.
 * Part of generic.inc.h.
 *
 *   K block [hd][64 positions]           V block [64 positions][pad16(hd)]
 *   lanes are positions:                 lanes are elements of the head:
 *     s[head][16 t] += q[head][d] * K[d][16 t]     out[head][16 d] += p[head][t] * V[t][16 d]
 *
 * so neither product needs a horizontal sum, and each K and V vector is converted from f16 once for ATTN_HEADS heads. Scores of one
 * segment and up to HEADS_AT_ONCE heads lie on the stack between the two; the pages of a segment are read once for all of them. */
enum { HEADS_AT_ONCE = 16, PAGE_VECS = KV_PAGE / 16 };

INLINE v16 kv_load(const kv_type type, const void *block, size_t i) {
    return type == KV_F16 ? v16_from_f16((const uint16_t *)block + i) : v16_load((const float *)block + i);
}

INLINE size_t kv_bytes(kv_type type) { return type == KV_F16 ? 2 : 4; }

static void kv_store(kv_type type, void *k_block, void *v_block, int slot, const float *k, const float *v, int hd) {
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

/* The pages of a job: where K and V of page i begin; while one is read, its successor is fetched. */
INLINE const char *kv_page(const attn_job *j, int page, size_t at) { return (const char *)j->page[page] + at; }

/* Scores of `heads` heads with `vecs` * 16 positions of one K block, from vector `first`. ahead: the block to fetch, or this. */
INLINE void score_block(const attn_job *j, const kv_type type, const char *block, const char *ahead, int first, const float *q,
                        float (*s)[ATTN_SEGMENT], const int heads, const int vecs) {
    v16 acc[ATTN_HEADS][PAGE_VECS];
    UNROLL for (int h = 0; h < heads; h++)
        UNROLL for (int v = 0; v < vecs; v++) acc[h][v] = v16_set1(0);
    for (int d = 0; d < j->hd; d++) {
        size_t at = (size_t)d * KV_PAGE + (size_t)first * 16;
        v16 k[PAGE_VECS];
        UNROLL for (int v = 0; v < vecs; v++) {
            if (v % 2 == 0 || type == KV_F32) PREFETCH(ahead + (at + 16 * (size_t)v) * kv_bytes(type));
            k[v] = kv_load(type, block, at + 16 * (size_t)v);
        }
        UNROLL for (int h = 0; h < heads; h++) {
            v16 x = v16_set1(q[(size_t)h * j->ldq + (size_t)d]);
            UNROLL for (int v = 0; v < vecs; v++) acc[h][v] = v16_fma(x, k[v], acc[h][v]);
        }
    }
    UNROLL for (int h = 0; h < heads; h++)
        UNROLL for (int v = 0; v < vecs; v++) v16_store(s[h] + 16 * (first + v), acc[h][v]);
}

/* out[heads][dims * 16] += p of one page's positions [t0, t1) times V, t after t. */
INLINE void value_block(const attn_job *j, const kv_type type, const char *block, const char *ahead, int t0, int t1, int d,
                        float (*p)[ATTN_SEGMENT], float *out, const int heads, const int dims) {
    size_t ld = round_up((size_t)j->hd, 16);
    v16 acc[ATTN_HEADS][PAGE_VECS];
    UNROLL for (int h = 0; h < heads; h++)
        UNROLL for (int v = 0; v < dims; v++) acc[h][v] = v16_load(out + (size_t)h * ld + (size_t)d + 16 * (size_t)v);
    for (int t = t0; t < t1; t++) {
        size_t at = (size_t)t * ld + (size_t)d;
        v16 value[PAGE_VECS];
        UNROLL for (int v = 0; v < dims; v++) {
            if (v % 2 == 0 || type == KV_F32) PREFETCH(ahead + (at + 16 * (size_t)v) * kv_bytes(type));
            value[v] = kv_load(type, block, at + 16 * (size_t)v);
        }
        UNROLL for (int h = 0; h < heads; h++) {
            v16 x = v16_set1(p[h][t]);
            UNROLL for (int v = 0; v < dims; v++) acc[h][v] = v16_fma(x, value[v], acc[h][v]);
        }
    }
    UNROLL for (int h = 0; h < heads; h++)
        UNROLL for (int v = 0; v < dims; v++) v16_store(out + (size_t)h * ld + (size_t)d + 16 * (size_t)v, acc[h][v]);
}

/* The same for a page and all its vectors, ATTN_VECS at a time. */
INLINE void score_page(const attn_job *j, const kv_type type, const char *block, const char *ahead, const float *q,
                       float (*s)[ATTN_SEGMENT], const int heads) {
    for (int v = 0; v < PAGE_VECS; v += ATTN_VECS) score_block(j, type, block, ahead, v, q, s, heads, ATTN_VECS);
}

INLINE void value_page(const attn_job *j, const kv_type type, const char *block, const char *ahead, int t0, int t1,
                       float (*p)[ATTN_SEGMENT], float *out, const int heads) {
    int d = 0, n = (int)round_up((size_t)j->hd, 16);
    for (; d + 16 * ATTN_VECS <= n; d += 16 * ATTN_VECS) value_block(j, type, block, ahead, t0, t1, d, p, out, heads, ATTN_VECS);
    for (; d < n; d += 16) value_block(j, type, block, ahead, t0, t1, d, p, out, heads, 1);
}

/* From scores to p = exp(s - max), in place; positions of the segment's vectors outside [a, b) get p = 0. A max of -inf (every
 * position masked) counts as 0, so that sum and out are 0. */
INLINE void soften(const attn_job *j, int h, float *s, int a, int b) {
    int v0 = a / 16 * 16, v1 = (b + 15) / 16 * 16;
    if (j->softcap > 0) for (int i = v0; i < v1; i += 16) v16_store(s + i, v16_softcap(v16_load(s + i), j->softcap));
    if (j->bias) {
        const float *bias = j->bias + (size_t)h * j->ld_bias + (j->t0 - a);
        for (int i = a; i < b; i++) s[i] += bias[i];
    }
    for (int i = v0; i < a; i++) s[i] = -INFINITY;
    for (int i = b; i < v1; i++) s[i] = -INFINITY;
    v16 top = v16_set1(-INFINITY), sum = v16_set1(0);
    for (int i = v0; i < v1; i += 16) {
        v16 x = v16_load(s + i);
        top = v16_if_gt(x, top, x, top);
    }
    float max = v16_max(top) + 0.0f; /* never -0, whichever zero came first */
    v16 less = v16_set1(max > -INFINITY ? max : 0);
    for (int i = v0; i < v1; i += 16) {
        v16 p = v16_exp(v16_sub(v16_load(s + i), less));
        v16_store(s + i, p);
        sum = v16_add(sum, p);
    }
    j->sum[h] = v16_sum(sum);
    j->max[h] = j->sum[h] == j->sum[h] ? max : NAN;
}

/* Heads [h0, h0 + n) over the whole job: scores, softmax, values. Each `heads` below is a constant of its own code. */
INLINE void attention_heads(const attn_job *j, const kv_type type, int h0, int n) {
    _Alignas(64) float s[HEADS_AT_ONCE][ATTN_SEGMENT];
    size_t ld = round_up((size_t)j->hd, 16);
    int base = j->t0 / ATTN_SEGMENT * ATTN_SEGMENT, first = j->t0 / KV_PAGE, last = (j->t1 - 1) / KV_PAGE;
    for (int page = first; page <= last; page++) {
        const char *block = kv_page(j, page, j->k_at);
        const char *ahead = page < last ? kv_page(j, page + 1, j->k_at) : kv_page(j, first, j->v_at);
        const int at = page * KV_PAGE - base;
        const float *q = j->q + (size_t)h0 * j->ldq;
        int h = 0;
#define SCORES(count) score_page(j, type, block, ahead, q + (size_t)h * j->ldq, (float (*)[ATTN_SEGMENT])(void *)(s[h] + at), count)
        for (; h + ATTN_HEADS <= n; h += ATTN_HEADS) SCORES(ATTN_HEADS);
        for (; h + 2 <= n; h += 2) SCORES(2);
        for (; h < n; h++) SCORES(1);
    }
    for (int h = 0; h < n; h++) soften(j, h0 + h, s[h], j->t0 - base, j->t1 - base);
    memset(j->out + (size_t)h0 * ld, 0, (size_t)n * ld * sizeof(float));
    for (int page = first; page <= last; page++) {
        const char *block = kv_page(j, page, j->v_at), *ahead = page < last ? kv_page(j, page + 1, j->v_at) : block;
        int at = page * KV_PAGE, t0 = max_int(j->t0 - at, 0), t1 = min_int(j->t1 - at, KV_PAGE), h = 0;
        float *out = j->out + (size_t)h0 * ld;
#define VALUES(count) \
    value_page(j, type, block, ahead, t0, t1, (float (*)[ATTN_SEGMENT])(void *)(s[h] + at - base), out + (size_t)h * ld, count)
        for (; h + ATTN_HEADS <= n; h += ATTN_HEADS) VALUES(ATTN_HEADS);
        for (; h + 2 <= n; h += 2) VALUES(2);
        for (; h < n; h++) VALUES(1);
    }
    for (int h = h0; h < h0 + n; h++)
        if (!(j->sum[h] == j->sum[h])) for (size_t d = 0; d < ld; d++) j->out[(size_t)h * ld + d] = NAN;
}
#undef SCORES
#undef VALUES

static void attention_f16(const attn_job *j, int h0, int n) { attention_heads(j, KV_F16, h0, n); }
static void attention_f32(const attn_job *j, int h0, int n) { attention_heads(j, KV_F32, h0, n); }

static void attention(const attn_job *j) {
    for (int h = 0; h < j->n_q; h += HEADS_AT_ONCE)
        (j->type == KV_F16 ? attention_f16 : attention_f32)(j, h, min_int(HEADS_AT_ONCE, j->n_q - h));
}

INLINE float exp_of(float x) {
    float e[16];
    v16_store(e, v16_exp(v16_set1(x)));
    return e[0];
}

static void attn_merge(float *max_a, float *sum_a, float *out_a, float max_b, float sum_b, const float *out_b, int n) {
    float max = max_b > *max_a ? max_b : *max_a, less;
    if (max_b != max_b) max = max_b;
    less = max == -INFINITY ? 0 : max;
    float ea = exp_of(*max_a - less), eb = exp_of(max_b - less);
    v16 a = v16_set1(ea), b = v16_set1(eb);
    *max_a = max;
    *sum_a = fmaf(sum_b, eb, *sum_a * ea);
    for (int i = 0; i < n; i += 16) v16_store(out_a + i, v16_fma(v16_load(out_b + i), b, v16_mul(v16_load(out_a + i), a)));
}
