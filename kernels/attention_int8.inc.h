/* attention over a cache of int8: both products are exact integers, found as the products of q8 weights are.
 * Part of generic.inc.h; attention.inc.h holds the loops around this.
 *
 *   K block: quads of 4 elements            V block: quads of 4 positions
 *     [hd / 4][64 positions][4]               [64 / 4][pad16(hd)][4]
 *     dot[query][16 t] += q[4 d] . K[16 t][4 d]   dot[query][16 d] += w[4 t] . V[16 d][4 t]
 *
 * The 64-byte vectors are those of a q8 panel, the queries (or a page's weights p * v_scale, in int8) take the activations' place. */

/* Up to QUERIES_AT_ONCE queries in int8. */
typedef struct int8_queries {
    _Alignas(64) int8_t q[QUERIES_AT_ONCE][ATTN_Q8_MOST];
    float scale[QUERIES_AT_ONCE];
    int32_t sum[QUERIES_AT_ONCE];
} int8_queries;

/* Their weights of one page. */
typedef struct int8_weights {
    _Alignas(64) int8_t w[QUERIES_AT_ONCE][KV_PAGE];
    float scale[QUERIES_AT_ONCE];
    int32_t sum[QUERIES_AT_ONCE];
} int8_weights;

INLINE const float *scales_of(const char *block, size_t hdp) { return (const float *)(const void *)(block + hdp * KV_PAGE); }

static void store_int8(void *k_block, void *v_block, int slot, const float *k, const float *v, int hd) {
    _Alignas(64) int8_t q[ATTN_Q8_MOST];
    size_t hdp = round_up((size_t)hd, 16), at = (size_t)slot;
    int8_t *key = k_block, *value = v_block;
    int chunks = (hd + GROUP - 1) / GROUP;
    int32_t sum;
    to_int8(k, hd, chunks, q, (float *)(void *)(key + hdp * KV_PAGE) + slot, &sum);
    for (size_t d = 0; d < hdp; d += 4) memcpy(key + d * KV_PAGE + at * 4, q + d, 4);
    to_int8(v, hd, chunks, q, (float *)(void *)(value + hdp * KV_PAGE) + slot, &sum);
    for (size_t d = 0; d < hdp; d++) value[(at / 4 * hdp + d) * 4 + at % 4] = q[d];
}

INLINE void quantize_queries(const attn_job *j, const attn_query *query, int n, int8_queries *q) {
    for (int i = 0; i < n; i++) to_int8(query[i].q, j->hd, (j->hd + GROUP - 1) / GROUP, q->q[i], &q->scale[i], &q->sum[i]);
}

/* Scores of queries [i0, i0 + n) with `vecs` * 16 positions of one K block, from vector `first`. ahead: the block to fetch, or this. */
INLINE void score_int8(const attn_job *j, const char *block, const char *ahead, int first, const int8_queries *q, int i0,
                       float (*s)[LD_SCORES], const int n, const int vecs) {
    size_t hdp = round_up((size_t)j->hd, 16);
    const float *scale = scales_of(block, hdp) + 16 * first;
    q8_acc dot[ATTN_QUERIES][PAGE_VECS];
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int v = 0; v < vecs; v++) dot[i][v] = q8_start(q->sum[i0 + i]);
    for (size_t d = 0; d < hdp; d += 4) {
        q8_weights k[PAGE_VECS];
        UNROLL for (int v = 0; v < vecs; v++) {
            size_t at = d * KV_PAGE + 64 * (size_t)(first + v);
            PREFETCH(ahead + at);
            k[v] = q8_prepare(b64_load(block + at));
        }
        UNROLL for (int i = 0; i < n; i++) {
            x4 x = bytes4(q->q[i0 + i] + d);
            UNROLL for (int v = 0; v < vecs; v++) dot[i][v] = q8_step(dot[i][v], k[v], x);
        }
    }
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int v = 0; v < vecs; v++)
            v16_store(s[i] + 16 * (first + v), v16_mul(q8_end(dot[i][v]), v16_mul(v16_load(scale + 16 * v), v16_set1(q->scale[i0 + i]))));
}

/* The weights of a page's positions: p * v_scale where a query looks, 0 elsewhere. */
INLINE void quantize_weights(const attn_job *j, const char *block, const attn_query *query, int n, int at, int base,
                             float (*s)[LD_SCORES], int8_weights *w) {
    const float *scale = scales_of(block, round_up((size_t)j->hd, 16));
    for (int i = 0; i < n; i++) {
        _Alignas(64) float x[KV_PAGE] = { 0 };
        const float *p = s[i] + at - base;
        int a = max_int(query[i].t0 - at, 0), b = min_int(query[i].t1 - at, KV_PAGE);
        if (a == 0 && b == KV_PAGE)
            UNROLL for (int t = 0; t < KV_PAGE; t += 16) v16_store(x + t, v16_mul(v16_load(p + t), v16_load(scale + t)));
        else
            for (int t = a; t < b; t++) x[t] = p[t] * scale[t];
        to_int8(x, KV_PAGE, 1, w->w[i], &w->scale[i], &w->sum[i]);
    }
}

/* out[n] += the weights i0 and on of one page times its V. */
INLINE void value_vectors(const char *block, const char *ahead, size_t hdp, size_t d, const int8_weights *w, int i0,
                          const attn_query *query, const int n, const int vecs) {
    q8_acc dot[ATTN_QUERIES][PAGE_VECS];
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int v = 0; v < vecs; v++) dot[i][v] = q8_start(w->sum[i0 + i]);
    for (size_t t = 0; t < KV_PAGE; t += 4) {
        q8_weights value[PAGE_VECS];
        UNROLL for (int v = 0; v < vecs; v++) {
            size_t at = t * hdp + d * 4 + 64 * (size_t)v;
            PREFETCH(ahead + at);
            value[v] = q8_prepare(b64_load(block + at));
        }
        UNROLL for (int i = 0; i < n; i++) {
            x4 x = bytes4(w->w[i0 + i] + t);
            UNROLL for (int v = 0; v < vecs; v++) dot[i][v] = q8_step(dot[i][v], value[v], x);
        }
    }
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int v = 0; v < vecs; v++) {
            float *out = query[i].out + d + 16 * v;
            v16_store(out, v16_fma(q8_end(dot[i][v]), v16_set1(w->scale[i0 + i]), v16_load(out)));
        }
}

INLINE void value_int8(const attn_job *j, const char *block, const char *ahead, const int8_weights *w, int i0,
                       const attn_query *query, const int n) {
    size_t d = 0, hdp = round_up((size_t)j->hd, 16);
    for (; d + 16 * ATTN_VECS <= hdp; d += 16 * ATTN_VECS) value_vectors(block, ahead, hdp, d, w, i0, query, n, ATTN_VECS);
    for (; d < hdp; d += 16) value_vectors(block, ahead, hdp, d, w, i0, query, n, 1);
}
