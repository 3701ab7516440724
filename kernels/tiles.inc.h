/* tiles: matrix products on a CPU with tile registers. Included after generic.inc.h by k_amx.c, with tiles_amx.inc.h, and by a test
 * with tiles in plain C. A panel's group of 64 inputs is, unpacked to bytes, a B tile as it lies; 16 rows of int8 activations are
 * an A tile as they lie; one instruction makes the 256 integer sums of 16 rows x 16 outputs. Each group has its own scales, so
 * every such product is stored, converted and added in f32:
 *
 *   tile unit     load A, B, multiply group g+2 | store group g+1 |                   16 + 16 cycles
 *   vector unit                                                   | convert group g   beside them
 *
 * which needs the sums of one 16 x 16 block in 16 registers for as long as possible. Order of the loops: chunks of rows (second
 * cache); SPAN panels; segments of SEGMENT groups, whose weights, unpacked, stay in the first cache; bands of 16 rows; panels;
 * groups. Between segments the sums wait in y. */
enum { BAND = 16, SPAN = 4, SEGMENT = 8, TILE_BYTES = 1024, TILES_LEAST = 8 /* fewer rows: dot products are faster */ };

/* What ldtilecfg reads. */
typedef struct tile_shapes {
    _Alignas(64) uint8_t palette;
    uint8_t start_row, reserved[14];
    uint16_t bytes[16]; /* a row's, of each tile */
    uint8_t rows[16];
} tile_shapes;
_Static_assert(sizeof(tile_shapes) == 64, "ldtilecfg reads 64 bytes");

/* ---- int8 activations ---- */

/* One segment of some panels. */
typedef struct span {
    const int8_t *tile[SPAN];    /* [groups] tiles of 1024 bytes */
    const uint16_t *scale[SPAN]; /* [groups][16], f16 */
    int panels, groups;
    const uint8_t *ahead;        /* what the second cache should fetch meanwhile: this of the first panel, or NULL. (The first has no
                                  * place: this segment's tiles are 32 KB, and all bands pass before the next one begins.) */
    size_t bytes, step;          /* of a panel, of a group */
    bool first, last;            /* segment of the inputs */
} span;

/* 16 rows of activations over one segment, of which `rows` are real. */
typedef struct band {
    const int8_t *q;
    const float *scale;
    size_t ldq, ld_scale;
    float *y; /* at the first panel's column */
    size_t ldy;
    int rows;
} band;

/* The products of consecutive groups take turns between two sets of registers. */
INLINE void multiply(bool odd, const int8_t *a, size_t lda, const int8_t *b) {
    if (odd) {
        TILE_ZERO(1);
        TILE_LOAD(3, a, lda);
        TILE_LOAD(5, b, 64);
        TILE_DOT_INT8(1, 3, 5);
    } else {
        TILE_ZERO(0);
        TILE_LOAD(2, a, lda);
        TILE_LOAD(4, b, 64);
        TILE_DOT_INT8(0, 2, 4);
    }
}

INLINE void load_sums(v16 *sum, const float *y, size_t ldy, int rows, bool first) {
    UNROLL for (int r = 0; r < BAND; r++) sum[r] = first || r >= rows ? v16_set1(0) : v16_load(y + (size_t)r * ldy);
}

INLINE void store_sums(const v16 *sum, float *y, size_t ldy, int rows, const mat *w, int p, bool last) {
    UNROLL for (int r = 0; r < BAND; r++) {
        if (r >= rows) continue;
        if (last) put(y + (size_t)r * ldy, sum[r], w, p);
        else v16_store(y + (size_t)r * ldy, sum[r]);
    }
}

/* The pipeline over the groups of all panels of the span: see above. */
static void tile_band(const span *w, const band *b, const mat *m, int p) {
    _Alignas(64) int32_t product[4][BAND * PANEL];
    v16 sum[BAND];
    const int n = w->panels * w->groups, groups = w->groups;
    int ahead_panel = 0, ahead = 0, panel = 0, g = 0;
    const float *xs = b->scale;
    const size_t ldx = b->ld_scale;
    for (int i = -2; i < n; i++) {
        if (i + 2 < n) {
            multiply(i & 1, b->q + ahead * GROUP, b->ldq, w->tile[ahead_panel] + ahead * TILE_BYTES);
            if (w->ahead)
                for (size_t at = 0; at < w->step; at += 64)
                    PREFETCH_L2(w->ahead + (size_t)ahead_panel * w->bytes + (size_t)ahead * w->step + at);
            if (++ahead == groups) ahead = 0, ahead_panel++;
        }
        if (i >= -1 && i + 1 < n) {
            if (i & 1) TILE_STORE(0, product[(i + 1) & 3], 64);
            else TILE_STORE(1, product[(i + 1) & 3], 64);
        }
        if (i < 0) continue;
        float *y = b->y + panel * PANEL;
        if (g == 0) load_sums(sum, y, b->ldy, b->rows, w->first);
        v16 ws = v16_from_f16(w->scale[panel] + g * PANEL);
        UNROLL for (int r = 0; r < BAND; r++)
            sum[r] = v16_fma(v16_load_i32(product[i & 3] + r * PANEL), v16_mul(ws, v16_set1(xs[(size_t)r * ldx + (size_t)g])),
                             sum[r]);
        if (++g < groups) continue;
        store_sums(sum, y, b->ldy, b->rows, m, p + panel, w->last);
        g = 0, panel++;
    }
}

/* A segment of a q4 panel as tiles: the quads of the low nibbles are inputs 0 to 31, those of the high ones 32 to 63. */
static void unpack_tiles(const uint8_t *data, int groups, int8_t *tiles) {
    for (int g = 0; g < groups; g++, data += 512, tiles += TILE_BYTES)
        for (int i = 0; i < 512; i++) {
            tiles[i] = (int8_t)((data[i] & 15) - 8);
            tiles[512 + i] = (int8_t)((data[i] >> 4) - 8);
        }
}

typedef struct band_copy {
    _Alignas(64) int8_t q[BAND][SEGMENT * GROUP];
    float scale[BAND][SEGMENT];
} band_copy;

/* The band of rows from `row` on, up to `end`. Where rows lie a multiple of 4096 bytes apart, a tile's lines would all fall into
 * one set of the first cache; and a tile has 16 rows: such bands are copied. */
INLINE band band_of(const acts *a, int row, int end, size_t g0, int groups, band_copy *copy) {
    size_t all = groups_of(a->k), ldq = all * GROUP;
    const int8_t *q = a->q + (size_t)row * ldq + g0 * GROUP;
    const float *scale = a->scale + (size_t)row * all + g0;
    const int rows = min_int(BAND, end - row);
    if (rows == BAND && ldq % 4096) return (band){ q, scale, ldq, all, NULL, 0, rows };
    if (rows < BAND) memset(copy, 0, sizeof *copy);
    for (int r = 0; r < rows; r++) {
        memcpy(copy->q[r], q + (size_t)r * ldq, (size_t)groups * GROUP);
        memcpy(copy->scale[r], scale + (size_t)r * all, (size_t)groups * sizeof *scale);
    }
    return (band){ copy->q[0], copy->scale[0], sizeof copy->q[0], SEGMENT, NULL, 0, rows };
}

/* Panels [p, p + panels) for rows [m0, m1). */
INLINE void tile_span(const wtype t, const mat *w, const acts *a, float *y, size_t ldy, int p, int panels, int m0, int m1) {
    _Alignas(64) int8_t tiles[SPAN][SEGMENT * TILE_BYTES];
    band_copy copy;
    size_t groups = groups_of(a->k), bytes = panel_bytes(t, a->k), step = t == W_Q4 ? 512 : 1024;
    const uint8_t *panel = (const uint8_t *)w->data + (size_t)p * bytes, *data = panel_data(panel, groups);
    for (size_t g0 = 0; g0 < groups; g0 += SEGMENT) {
        span s = { .panels = panels, .groups = min_int(SEGMENT, (int)(groups - g0)), .bytes = bytes, .step = step, .first = g0 == 0,
                   .last = g0 + SEGMENT >= groups };
        const uint8_t *at = data + g0 * step;
        for (int i = 0; i < panels; i++) {
            s.scale[i] = (const uint16_t *)(const void *)(panel + (size_t)i * bytes) + g0 * PANEL;
            s.tile[i] = (const int8_t *)at + (size_t)i * bytes;
            if (t == W_Q4) {
                unpack_tiles(at + (size_t)i * bytes, s.groups, tiles[i]);
                s.tile[i] = tiles[i];
            }
        }
        s.ahead = s.last ? panel + (size_t)panels * bytes : at + (size_t)s.groups * step;
        for (int row = m0; row < m1; row += BAND, s.ahead = NULL) {
            band b = band_of(a, row, m1, g0, s.groups, &copy);
            b.y = y + (size_t)row * ldy + (size_t)p * PANEL;
            b.ldy = ldy;
            tile_band(&s, &b, w, p);
        }
    }
}

INLINE void matmul_tiles(const wtype t, const mat *w, const acts *a, float *y, size_t ldy, int p0, int p1) {
    tile_shapes shapes = { .palette = 1 };
    const size_t groups = groups_of(a->k), ldq = groups * GROUP;
    const int rest = a->m % BAND < TILES_LEAST ? a->m % BAND : 0, m = a->m - rest;
    const int chunk = max_int((int)(CHUNK_BYTES / ldq) / BAND, 1) * BAND;
    if (m > 0) {
        for (int i = 0; i < 6; i++) shapes.bytes[i] = 64, shapes.rows[i] = BAND;
        TILE_CONFIG(&shapes);
        for (int m0 = 0; m0 < m; m0 += chunk)
            for (int p = p0; p < p1; p += SPAN) tile_span(t, w, a, y, ldy, p, min_int(SPAN, p1 - p), m0, min_int(m, m0 + chunk));
        TILE_RELEASE();
    }
    if (rest == 0) return;
    acts few = { rest, a->k, a->x, a->ldx, a->q + (size_t)m * ldq, a->scale + (size_t)m * groups, a->sum + (size_t)m * groups };
    if (t == W_Q4) matmul_q4(w, &few, y + (size_t)m * ldy, ldy, p0, p1);
    else matmul_q8(w, &few, y + (size_t)m * ldy, ldy, p0, p1);
}

static void matmul_q4_tiles(const mat *w, const acts *a, float *y, size_t ldy, int p0, int p1) {
    matmul_tiles(W_Q4, w, a, y, ldy, p0, p1);
}
static void matmul_q8_tiles(const mat *w, const acts *a, float *y, size_t ldy, int p0, int p1) {
    matmul_tiles(W_Q8, w, a, y, ldy, p0, p1);
}

/* ---- bf16 weights ----
 * The tile unit multiplies bf16 by bf16. An f32 activation is the exact sum of three: its upper 8 significant bits, the next 8 and
 * the last 8, so three products lose nothing of it. Sums stay in tiles: 32 rows x 2 panels, over all inputs, in the same order for
 * any number of rows; so one row takes this way too. Between segments of inputs the sums wait in y, unrounded. */
enum { TERMS = 3, STEP = 32 /* inputs of a tile */, TERM_BYTES = 48 << 10, WIDE = 32 /* panels between segments */ };

typedef struct bf16_rows {
    _Alignas(64) uint8_t tiles[TERM_BYTES]; /* [steps][TERMS][rows][32] bf16; of rows past 16 a tile of their own */
    int rows, steps;
} bf16_rows;

/* x as three bf16: [TERMS][STEP], terms `apart` elements from each other. */
INLINE void split3(const float *x, uint16_t *out, size_t apart) {
    for (int i = 0; i < STEP; i++) {
        float rest = x[i];
        for (int term = 0; term < TERMS; term++) {
            uint32_t u;
            memcpy(&u, &rest, sizeof u);
            u &= 0xffff0000;
            out[(size_t)term * apart + (size_t)i] = (uint16_t)(u >> 16);
            float top;
            memcpy(&top, &u, sizeof top);
            rest -= top;
        }
    }
}

static void split_rows(const acts *a, int row, size_t k0, bf16_rows *out) {
    const size_t tile = (size_t)out->rows * STEP;
    for (int s = 0; s < out->steps; s++)
        for (int r = 0; r < out->rows; r++)
            split3(a->x + (size_t)(row + r) * a->ldx + k0 + (size_t)s * STEP,
                   (uint16_t *)(void *)out->tiles + (size_t)s * TERMS * tile + (size_t)r * STEP, tile);
}

/* Sums of one or two bands against one or two panels `bytes` apart. Tiles 0 to 3: sums, [band][panel]; 4, 5 bands; 6, 7 panels. */
INLINE void bf16_tiles(const bf16_rows *x, const uint8_t *data, size_t bytes, float *y, size_t ldy, bool first, bool fetch,
                       const bool two, const bool wide) {
    const size_t stride = ldy * sizeof *y, term = (size_t)x->rows * 64;
    float *y1 = y + BAND * ldy;
    TILE_ZERO(0);
    if (wide) TILE_ZERO(1);
    if (two) TILE_ZERO(2);
    if (two && wide) TILE_ZERO(3);
    if (!first) {
        TILE_LOAD(0, y, stride);
        if (wide) TILE_LOAD(1, y + PANEL, stride);
        if (two) TILE_LOAD(2, y1, stride);
        if (two && wide) TILE_LOAD(3, y1 + PANEL, stride);
    }
    const uint8_t *at = x->tiles;
    for (int s = 0; s < x->steps; s++, data += TILE_BYTES) {
        for (size_t i = 0; fetch && i < TILE_BYTES; i += 64) {
            PREFETCH(data + i + AHEAD);
            if (wide) PREFETCH(data + bytes + i + AHEAD);
        }
        TILE_LOAD(6, data, 64);
        if (wide) TILE_LOAD(7, data + bytes, 64);
        for (int i = 0; i < TERMS; i++, at += term) {
            TILE_LOAD(4, at, 64);
            TILE_DOT_BF16(0, 4, 6);
            if (wide) TILE_DOT_BF16(1, 4, 7);
            if (!two) continue;
            TILE_LOAD(5, at + TILE_BYTES, 64);
            TILE_DOT_BF16(2, 5, 6);
            if (wide) TILE_DOT_BF16(3, 5, 7);
        }
    }
    TILE_STORE(0, y, stride);
    if (wide) TILE_STORE(1, y + PANEL, stride);
    if (two) TILE_STORE(2, y1, stride);
    if (two && wide) TILE_STORE(3, y1 + PANEL, stride);
}

/* The rows that x holds, over its segment of inputs, against panels [p0, p1). */
static void bf16_segment(const bf16_rows *x, const mat *w, size_t k0, float *y, size_t ldy, int p0, int p1, bool fetch) {
    const size_t bytes = panel_bytes(W_BF16, w->k);
    for (int p = p0; p < p1; p += 2) {
        const uint8_t *data = (const uint8_t *)w->data + (size_t)p * bytes + k0 * 2 * PANEL;
        float *out = y + (size_t)p * PANEL;
        const bool wide = p + 1 < p1, first = k0 == 0;
        if (x->rows > BAND && wide) bf16_tiles(x, data, bytes, out, ldy, first, fetch, true, true);
        else if (x->rows > BAND) bf16_tiles(x, data, bytes, out, ldy, first, fetch, true, false);
        else if (wide) bf16_tiles(x, data, bytes, out, ldy, first, fetch, false, true);
        else bf16_tiles(x, data, bytes, out, ldy, first, fetch, false, false);
    }
}

static void bf16_shape(int rows) {
    tile_shapes shapes = { .palette = 1 };
    for (int i = 0; i < 8; i++) shapes.bytes[i] = 64, shapes.rows[i] = BAND;
    shapes.rows[0] = shapes.rows[1] = shapes.rows[4] = (uint8_t)min_int(rows, BAND);
    shapes.rows[2] = shapes.rows[3] = shapes.rows[5] = (uint8_t)max_int(rows - BAND, 1);
    TILE_CONFIG(&shapes);
}

static void matmul_bf16_tiles(const mat *w, const acts *a, float *y, size_t ldy, int p0, int p1) {
    bf16_rows x;
    const size_t k = groups_of(a->k) * GROUP;
    for (int p = p0; p < p1; p += WIDE) {
        const int end = min_int(p + WIDE, p1), most = min_int(a->m, 2 * BAND), segment = (TERM_BYTES / (TERMS * 64) / most) & ~1;
        for (size_t k0 = 0; k0 < k; k0 += (size_t)segment * STEP)
            for (int row = 0; row < a->m; row += most) {
                x.rows = min_int(most, a->m - row);
                x.steps = min_int(segment, (int)((k - k0) / STEP));
                bf16_shape(x.rows);
                split_rows(a, row, k0, &x);
                bf16_segment(&x, w, k0, y + (size_t)row * ldy, ldy, p, end, row == 0);
            }
    }
    TILE_RELEASE();
    if (!w->bias && w->scale == 1) return;
    for (int row = 0; row < a->m; row++)
        for (int p = p0; p < p1; p++) {
            float *out = y + (size_t)row * ldy + (size_t)p * PANEL;
            put(out, v16_load(out), w, p);
        }
}

/* ---- probes ---- */

static double probe_tiles_int8(long reps) {
    _Alignas(64) int8_t bytes[TILE_BYTES];
    tile_shapes shapes = { .palette = 1 };
    for (int i = 0; i < TILE_BYTES; i++) bytes[i] = (int8_t)i;
    for (int i = 0; i < 8; i++) shapes.bytes[i] = 64, shapes.rows[i] = BAND;
    TILE_CONFIG(&shapes);
    TILE_LOAD(4, bytes, 64);
    TILE_LOAD(5, bytes, 64);
    for (long r = 0; r < reps; r++) {
        TILE_DOT_INT8(0, 4, 5);
        TILE_DOT_INT8(1, 4, 5);
        TILE_DOT_INT8(2, 4, 5);
        TILE_DOT_INT8(3, 4, 5);
    }
    TILE_RELEASE();
    return (double)reps * 4 * 2 * BAND * PANEL * GROUP;
}

static double probe_tiles_bf16(long reps) {
    _Alignas(64) uint16_t halves[TILE_BYTES / 2];
    for (int i = 0; i < TILE_BYTES / 2; i++) halves[i] = (uint16_t)(0x3c00 + i);
    bf16_shape(2 * BAND);
    TILE_LOAD(4, halves, 64);
    TILE_LOAD(6, halves, 64);
    for (long r = 0; r < reps; r++) {
        TILE_DOT_BF16(0, 4, 6);
        TILE_DOT_BF16(1, 4, 6);
        TILE_DOT_BF16(2, 4, 6);
        TILE_DOT_BF16(3, 4, 6);
    }
    TILE_RELEASE();
    return (double)reps * 4 * 2 * BAND * PANEL * STEP;
}
