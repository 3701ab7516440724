/* attention_tiles: both products of attention over an int8 cache by tile registers. Included after tiles.inc.h, whose instructions and
 * sizes it uses; softmax and quantisation are attention.inc.h's and attention_int8.inc.h's.
 *
 *   scores   A: 16 queries x 64 elements       B: 16 quads of elements x 16 positions of a K block, rows 256 bytes apart
 *   values   A: 16 queries' weights x 64       B: 16 quads of positions x 16 elements of a V block, rows 4 pad16(hd) bytes apart
 *
 * Both blocks are B tiles as they lie, bytes are signed on both sides. One product makes a page's sums of 16 queries x 16 elements;
 * the scores of 16 positions take hd / 64 of them, summed in the tile, the last with fewer quads (tiles 6 and 7). Every 16 x 16 sums
 * are stored, then scaled in f32, as kernels.h defines, in the pipeline of tiles.inc.h: product i + 2 | store i + 1 | scale i.
 *
 * What to expect of 16 queries against a page, hd 128, in cycles (16 a product, 16 a store of sums; beside them 2 loads, 2 vector operations
 * and 1 store of 64 bytes a cycle):
 *   scores   4 x (2 products + store) = 192 of the tile unit; loads 4 x 32 (queries stay in their tiles), vectors 4 x 24
 *   values   8 x (product + store) = 256; loads 8 x 32 (weights, V, sums, scales: as long as the tile unit), vectors 8 x 16
 * where vpdpbusd takes 1024 for each of the two at its peak. The softmax between them, 64 vectors of some 28 operations, stays: 900.
 * So such a page takes a half of what it took, and then two thirds of it are the softmax. A band costs the same for any number of
 * queries, as much as vpdpbusd needs for 3 to 4: fewer than TILES_LEAST leave the tiles to those who fill them. */
enum { ATTN_BANDS = 2, SEGMENT_PAGES = ATTN_SEGMENT / KV_PAGE, K_STRIDE = 4 * KV_PAGE };

/* Up to two bands of queries, and the pages that any of them looks into. */
typedef struct tile_queries {
    const attn_job *j;
    const attn_query *query; /* [n] */
    int n, bands, first, last, base;
    size_t hdp;
} tile_queries;

/* Where a pipeline is: steps run over `inner`, then bands, then `outer`. */
typedef struct tile_place { int outer, band, inner; } tile_place;

INLINE void next_place(tile_place *p, int bands, int n_inner) {
    if (++p->inner < n_inner) return;
    p->inner = 0;
    if (++p->band < bands) return;
    p->band = 0;
    p->outer++;
}

INLINE int rows_of(const tile_queries *t, int b) { return min_int(BAND, t->n - b * BAND); }

/* ---- scores: pages, bands, 16 positions ---- */

#define TILE_SCORE(sums, a, b) \
    do { \
        TILE_LOAD(b, k, K_STRIDE); \
        TILE_DOT_INT8(sums, a, b); \
    } while (0)

/* One band against 16 positions of a K block. fresh: the tiles of queries are those of another band. */
INLINE void score_product(bool odd, const int8_t *q, const char *k, size_t hdp, bool fresh) {
    const int full = (int)(hdp / GROUP);
    if (odd) TILE_ZERO(1);
    else TILE_ZERO(0);
    for (int c = 0; c < full; c++, q += GROUP, k += GROUP * KV_PAGE) {
        if (c == 0 && fresh) TILE_LOAD(2, q, ATTN_Q8_MOST);
        if (c > 0 && (fresh || full > 2)) TILE_LOAD(3, q, ATTN_Q8_MOST);
        if (c == 0 && odd) TILE_SCORE(1, 2, 5);
        else if (c == 0) TILE_SCORE(0, 2, 4);
        else if (odd) TILE_SCORE(1, 3, 4);
        else TILE_SCORE(0, 3, 5);
    }
    if (hdp % GROUP == 0) return;
    if (fresh) TILE_LOAD(6, q, ATTN_Q8_MOST);
    if (odd) TILE_SCORE(1, 6, 7);
    else TILE_SCORE(0, 6, 7);
}

INLINE void scale_scores(const int32_t *product, const float *k_scale, const float *q_scale, float (*s)[LD_SCORES], int at, int rows) {
    const v16 scale = v16_load(k_scale);
    UNROLL for (int r = 0; r < BAND; r++) {
        if (r >= rows) continue;
        v16_store(s[r] + at, v16_mul(v16_load_i32(product + r * PANEL), v16_mul(scale, v16_set1(q_scale[r]))));
    }
}

/* While a page is worked on: of the next one, the same lines; and the scales of its own V block. */
INLINE void fetch_scores(const tile_queries *t, const tile_place *p, const char *ahead) {
    const float *v_scale = scales_of(kv_page(t->j, t->first + p->outer, t->j->v_at), t->hdp);
    for (size_t d = 0; d < t->hdp; d += 4) PREFETCH(ahead + d * KV_PAGE + 64 * p->inner);
    PREFETCH(scales_of(ahead, t->hdp) + 16 * p->inner);
    PREFETCH_L2(v_scale + 16 * p->inner);
}

/* Without their sums, which bytes of two signs do not need; making one waits for what was just stored. */
static void band_queries(const tile_queries *t, int b, int8_queries *q) {
    const int rows = rows_of(t, b), hd = t->j->hd;
    int32_t unused;
    for (int i = 0; i < rows; i++) to_int8(t->query[b * BAND + i].q, hd, (int)groups_of(hd), q->q[i], &q->scale[i], &unused);
    memset(q->q[rows], 0, (size_t)(BAND - rows) * sizeof q->q[0]);
}

static void score_tiles(const tile_queries *t, float (*s)[LD_SCORES]) {
    int8_queries q[ATTN_BANDS];
    _Alignas(64) int32_t product[2][BAND * PANEL];
    const int pages = t->last - t->first + 1, n = pages * t->bands * PAGE_VECS;
    tile_place ahead = { 0 }, here = { 0 };
    for (int b = 0; b < t->bands; b++) band_queries(t, b, &q[b]);
    for (int i = -2; i < n; i++) {
        if (i + 2 < n) {
            const char *k = kv_page(t->j, t->first + ahead.outer, t->j->k_at);
            score_product(i & 1, q[ahead.band].q[0], k + 64 * ahead.inner, t->hdp, ahead.inner == 0);
            if (ahead.band == 0) fetch_scores(t, &ahead, ahead.outer + 1 < pages ? kv_page(t->j, t->first + ahead.outer + 1, t->j->k_at) : k);
            next_place(&ahead, t->bands, PAGE_VECS);
        }
        if (i >= -1 && i + 1 < n) {
            if (i & 1) TILE_STORE(0, product[0], 64);
            else TILE_STORE(1, product[1], 64);
        }
        if (i < 0) continue;
        const float *k_scale = scales_of(kv_page(t->j, t->first + here.outer, t->j->k_at), t->hdp) + 16 * here.inner;
        scale_scores(product[i & 1], k_scale, q[here.band].scale, s + here.band * BAND,
                     (t->first + here.outer) * KV_PAGE - t->base + 16 * here.inner, rows_of(t, here.band));
        next_place(&here, t->bands, PAGE_VECS);
    }
}

/* ---- values: 16 elements, bands, pages ---- */

INLINE void value_product(bool odd, const int8_t *w, const char *v, size_t stride) {
    if (odd) {
        TILE_ZERO(1);
        TILE_LOAD(3, w, KV_PAGE);
        TILE_LOAD(5, v, stride);
        TILE_DOT_INT8(1, 3, 5);
    } else {
        TILE_ZERO(0);
        TILE_LOAD(2, w, KV_PAGE);
        TILE_LOAD(4, v, stride);
        TILE_DOT_INT8(0, 2, 4);
    }
}

INLINE void fetch_column(const char *v, size_t stride) {
    for (int i = 0; i < KV_PAGE / 4; i++) PREFETCH(v + (size_t)i * stride);
}

/* All weights of the segment: [page][band]. */
static void weigh_pages(const tile_queries *t, float (*s)[LD_SCORES], int8_weights (*w)[ATTN_BANDS]) {
    for (int page = t->first; page <= t->last; page++) {
        const char *block = kv_page(t->j, page, t->j->v_at);
        fetch_column(block, 4 * t->hdp);
        for (int b = 0; b < t->bands; b++) {
            int8_weights *to = &w[page - t->first][b];
            const int rows = rows_of(t, b);
            quantize_weights(t->j, block, t->query + b * BAND, rows, page * KV_PAGE, t->base, s + b * BAND, to);
            for (int r = rows; r < BAND; r++) memset(to->w[r], 0, sizeof to->w[r]), to->scale[r] = 0;
        }
    }
}

static void value_tiles(const tile_queries *t, float (*s)[LD_SCORES]) {
    int8_weights w[SEGMENT_PAGES][ATTN_BANDS];
    _Alignas(64) int32_t product[2][BAND * PANEL];
    v16 sum[BAND];
    const int pages = t->last - t->first + 1, columns = (int)(t->hdp / PANEL), n = columns * t->bands * pages;
    const size_t stride = 4 * t->hdp;
    tile_place ahead = { 0 }, here = { 0 };
    weigh_pages(t, s, w);
    for (int i = -2; i < n; i++) {
        if (i + 2 < n) {
            const char *v = kv_page(t->j, t->first + ahead.inner, t->j->v_at) + 64 * ahead.outer;
            value_product(i & 1, w[ahead.inner][ahead.band].w[0], v, stride);
            if (ahead.band == 0 && ahead.outer + 1 < columns) fetch_column(v + 64, stride);
            next_place(&ahead, t->bands, pages);
        }
        if (i >= -1 && i + 1 < n) {
            if (i & 1) TILE_STORE(0, product[0], 64);
            else TILE_STORE(1, product[1], 64);
        }
        if (i < 0) continue;
        const float *scale = w[here.inner][here.band].scale;
        if (here.inner == 0) UNROLL for (int r = 0; r < BAND; r++) sum[r] = v16_set1(0);
        UNROLL for (int r = 0; r < BAND; r++) sum[r] = v16_fma(v16_load_i32(product[i & 1] + r * PANEL), v16_set1(scale[r]), sum[r]);
        if (here.inner + 1 == pages)
            UNROLL for (int r = 0; r < BAND; r++)
                if (r < rows_of(t, here.band)) v16_store(t->query[here.band * BAND + r].out + 16 * here.outer, sum[r]);
        next_place(&here, t->bands, pages);
    }
}

/* ---- a job ---- */

static void tile_attend(const attn_job *j, const attn_query *query, int n) {
    _Alignas(64) float s[ATTN_BANDS * BAND][LD_SCORES];
    int t0 = query[0].t0, t1 = query[0].t1;
    for (int i = 1; i < n; i++) t0 = min_int(t0, query[i].t0), t1 = max_int(t1, query[i].t1);
    const tile_queries t = { .j = j, .query = query, .n = n, .bands = (n + BAND - 1) / BAND, .first = t0 / KV_PAGE, .last = (t1 - 1) / KV_PAGE,
                             .base = t0 / ATTN_SEGMENT * ATTN_SEGMENT, .hdp = round_up((size_t)j->hd, 16) };
    score_tiles(&t, s);
    for (int i = 0; i < n; i++) soften(j, &query[i], s[i], t.base);
    value_tiles(&t, s); /* a NaN weight has made the scale of its page NaN, and so all of out */
}

static void attention_shapes(int hd) {
    const int rest = (int)round_up((size_t)hd, 16) % GROUP;
    tile_shapes shapes = { .palette = 1 };
    for (int i = 0; i < 6; i++) shapes.bytes[i] = 64, shapes.rows[i] = BAND;
    if (rest) {
        shapes.bytes[6] = (uint16_t)rest, shapes.rows[6] = BAND;
        shapes.bytes[7] = 64, shapes.rows[7] = (uint8_t)(rest / 4);
    }
    TILE_CONFIG(&shapes);
}

static void attention_tiles(const attn_job *j) {
    const int rest = j->n % BAND < TILES_LEAST ? j->n % BAND : 0, n = j->n - rest;
    attn_job few = *j;
    if (j->type == KV_Q8 && n > 0) {
        attention_shapes(j->hd);
        for (int i = 0; i < n; i += ATTN_BANDS * BAND) tile_attend(j, j->query + i, min_int(ATTN_BANDS * BAND, n - i));
        TILE_RELEASE();
        few.query += n, few.n = rest;
    }
    attention(&few);
}
