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
    _Alignas(64) int8_t w[QUERIES_AT_ONCE][KV_PAGE]; /* 0 to 127 */
    float scale[QUERIES_AT_ONCE];
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

/* dots[n][vecs] += `quads` quads of bytes x (rows ld_x apart) times vectors of weights that lie `step` apart. positive: no byte of
 * x is below zero, which spares the tables that need one unsigned side their preparation of weights. */
INLINE void dot_quads(dot dots[ATTN_INT_QUERIES][PAGE_VECS], const char *block, const char *ahead, size_t step, const int8_t *x, size_t ld_x,
                      const bool positive, const int quads, const int n, const int vecs) {
    HIDE_POINTER(x); /* else the compiler moves all its loads to the front, and spills what it loaded */
    UNROLL for (int j = 0; j < quads; j++, block += step, ahead += step) {
        if (positive) { /* a step that is no constant: else all addresses are computed first, and spilled */
            HIDE_POINTER(block);
            HIDE_POINTER(ahead);
        }
        quad w[PAGE_VECS];
        b64 plain[PAGE_VECS];
        UNROLL for (int v = 0; v < vecs; v++) {
            PREFETCH(ahead + 64 * v);
            plain[v] = b64_load(block + 64 * v);
            if (!positive) w[v] = quad_of(W_Q8, plain[v]);
        }
        UNROLL for (int i = 0; i < n; i++) {
            x4 four = bytes4(x + (size_t)i * ld_x + 4 * j);
            UNROLL for (int v = 0; v < vecs; v++)
                dots[i][v] = positive ? dot_step_positive(dots[i][v], plain[v], four) : dot_step(W_Q8, dots[i][v], w[v], four, four);
        }
    }
}

/* Scores of queries [i0, i0 + n) with `vecs` * 16 positions of one K block, from vector `first`. ahead: the block to fetch, or this. */
INLINE void score_int8(const attn_job *j, const char *block, const char *ahead, int first, const int8_queries *q, int i0,
                       float (*s)[LD_SCORES], const int n, const int vecs) {
    size_t hdp = round_up((size_t)j->hd, 16), step = 4 * KV_PAGE, d = 0, at = 64 * (size_t)first;
    const float *scale = scales_of(block, hdp) + 16 * first;
    dot dots[ATTN_INT_QUERIES][PAGE_VECS];
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int v = 0; v < vecs; v++) dots[i][v] = dot_start(W_Q8, q->sum[i0 + i]);
    for (; d + 64 <= hdp; d += 64)
        dot_quads(dots, block + at + d * KV_PAGE, ahead + at + d * KV_PAGE, step, q->q[i0] + d, ATTN_Q8_MOST, false, 16, n, vecs);
    for (; d < hdp; d += 16) dot_quads(dots, block + at + d * KV_PAGE, ahead + at + d * KV_PAGE, step, q->q[i0] + d, ATTN_Q8_MOST, false, 4, n, vecs);
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int v = 0; v < vecs; v++)
            v16_store(s[i] + 16 * (first + v), v16_mul(dot_end(W_Q8, dots[i][v], 0), v16_mul(v16_load(scale + 16 * v), v16_set1(q->scale[i0 + i]))));
}

/* p * v_scale of a page's positions where the query looks, 0 elsewhere. */
INLINE void page_weights(const attn_query *query, const float *p, const float *v_scale, int at, v16 w[4]) {
    int a = max_int(query->t0 - at, 0), b = min_int(query->t1 - at, KV_PAGE);
    if (a == 0 && b == KV_PAGE) {
        UNROLL for (int i = 0; i < 4; i++) w[i] = v16_mul(v16_load(p + 16 * i), v16_load(v_scale + 16 * i));
        return;
    }
    _Alignas(64) float x[KV_PAGE] = { 0 };
    for (int t = a; t < b; t++) x[t] = p[t] * v_scale[t];
    UNROLL for (int i = 0; i < 4; i++) w[i] = v16_load(x + 16 * i);
}

/* These in int8: all queries' scales first, so that no query's division waits for its maximum. */
INLINE void quantize_weights(const attn_job *j, const char *block, const attn_query *query, int n, int at, int base,
                             float (*s)[LD_SCORES], int8_weights *w) {
    const float *v_scale = scales_of(block, round_up((size_t)j->hd, 16));
    float inverse[QUERIES_AT_ONCE];
    v16 x[4];
    for (int i = 0; i < n; i++) {
        page_weights(&query[i], s[i] + at - base, v_scale, at, x);
        uint32_t top = v16_max_magnitude(x[0], x[1], x[2], x[3]);
        memcpy(&w->scale[i], &top, sizeof top);
    }
    for (int i = 0; i < n; i++) {
        float amax = w->scale[i];
        bool small = amax < 0x1p-100f, finite = amax < INFINITY;
        inverse[i] = small || !finite ? 0 : 127 / amax;
        w->scale[i] = finite ? small ? 0 : amax / 127 : NAN;
    }
    for (int i = 0; i < n; i++) {
        page_weights(&query[i], s[i] + at - base, v_scale, at, x);
        UNROLL for (int k = 0; k < 4; k++) v16_to_i8(w->w[i] + 16 * k, v16_mul(x[k], v16_set1(inverse[i])));
    }
}

/* out[n] += the weights i0 and on of one page times its V. */
INLINE void value_vectors(const char *block, const char *ahead, size_t hdp, size_t d, const int8_weights *w, int i0,
                          const attn_query *query, const int n, const int vecs) {
    dot dots[ATTN_INT_QUERIES][PAGE_VECS];
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int v = 0; v < vecs; v++) dots[i][v] = dot_start(W_Q8, 0);
    dot_quads(dots, block + d * 4, ahead + d * 4, 4 * hdp, w->w[i0], KV_PAGE, true, KV_PAGE / 4, n, vecs);
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int v = 0; v < vecs; v++) {
            float *out = query[i].out + d + 16 * v;
            v16_store(out, v16_fma(dot_end(W_Q8, dots[i][v], 0), v16_set1(w->scale[i0 + i]), v16_load(out)));
        }
}

INLINE void value_int8(const attn_job *j, const char *block, const char *ahead, const int8_weights *w, int i0,
                       const attn_query *query, const int n) {
    size_t d = 0, hdp = round_up((size_t)j->hd, 16);
    for (; d + 16 * ATTN_VECS <= hdp; d += 16 * ATTN_VECS) value_vectors(block, ahead, hdp, d, w, i0, query, n, ATTN_VECS);
    for (; d < hdp; d += 16) value_vectors(block, ahead, hdp, d, w, i0, query, n, 1);
}

INLINE void scores_int8(const attn_job *j, const attn_query *query, int n, int first, int last, int base, float (*s)[LD_SCORES]) {
    int8_queries q;
    quantize_queries(j, query, n, &q);
    for (int page = first; page <= last; page++) {
        const char *block = kv_page(j, page, j->k_at);
        const char *ahead = page < last ? kv_page(j, page + 1, j->k_at) : kv_page(j, first, j->v_at);
        const int at = page * KV_PAGE - base;
#define SCORES_INT8(count) \
    for (int v = 0; v < PAGE_VECS; v += ATTN_VECS) \
        score_int8(j, block, ahead, v, &q, i, (float (*)[LD_SCORES])(void *)(s[i] + at), count, ATTN_VECS)
        EACH_BLOCK(ATTN_INT_QUERIES, SCORES_INT8);
    }
}

INLINE void values_int8(const attn_job *j, const attn_query *query, int n, int first, int last, int base, float (*s)[LD_SCORES]) {
    int8_weights w;
    for (int page = first; page <= last; page++) {
        const char *block = kv_page(j, page, j->v_at), *ahead = page < last ? kv_page(j, page + 1, j->v_at) : block;
        quantize_weights(j, block, query, n, page * KV_PAGE, base, s, &w);
#define VALUES_INT8(count) value_int8(j, block, ahead, &w, i, query + i, count)
        EACH_BLOCK(ATTN_INT_QUERIES, VALUES_INT8);
    }
}
