/* matmul: y = a w^T, blocked so that weights are read from memory once and unpacked once for several rows.
 * Part of generic.inc.h.
 *
 *            activations x                panel p: 16 outputs in lanes         registers: one v16 a row
 *        k ->                              k ->
 *   m  | x x x x |                      | w0..w15 | w0..w15 | ...          acc[row] += w(k, 16 lanes) * broadcast x[row][k]
 *   |  | x x x x |  ROWS rows a block       no horizontal sums: a lane is an output from the first input to the last
 *   v
 *
 * Order of the loops: chunks of rows whose activations stay in the second cache; panels (streamed from memory once a
 * chunk, each then lying in the first cache); blocks of ROWS rows; groups; quads. One row is the case ROWS = 1. */

enum { CHUNK_BYTES = 384 << 10, AHEAD = 4096 }; /* activations of a chunk of rows; prefetch distance */

INLINE size_t groups_of(int k) { return ((size_t)k + GROUP - 1) / GROUP; }

/* A finished v16 of outputs: the tensor's power of two, the bias. */
INLINE void put(float *y, v16 acc, const mat *w, int p) {
    acc = v16_mul(acc, v16_set1(w->scale));
    if (w->bias) acc = v16_add(acc, v16_load(w->bias + (size_t)p * PANEL));
    v16_store(y, acc);
}

/* What a block works on: some rows of activations against one panel, or several that lie `bytes` apart. */
typedef struct part {
    const mat *w;
    const uint8_t *panel;
    size_t bytes;
    const acts *a;
    int row, p;
    float *y; /* of the block's first row, at the panel's first column */
    size_t ldy;
    bool ahead; /* the next panels are to be fetched meanwhile */
} part;

/* The part's panel i by itself. */
INLINE part one_panel(part b, int i) {
    b.panel += (size_t)i * b.bytes, b.p += i, b.y += i * PANEL;
    return b;
}

/* ---- int8 activations ----
 * rows x panels sums stay in registers. In a group each has one integer accumulator, or several (SPLIT) where there are so few that
 * chains of dependent dot products would leave the units idle: a table says with how many (CHAINS_INT) they are busy. Then
 * sum += w_scale * x_scale * dot. The k_*.c file says what a dot is; q4 and q8 differ in what a quad's 64 bytes are: a nibble of 8
 * inputs a row, or a byte of 4.
 * While a panel is worked on, the same places of the next one are on their way to the second cache: one panel is far enough for any
 * memory, and nothing is left out, neither scales nor a beginning (4 KB ahead into the first cache: 10 to 45 % slower). Later
 * blocks of rows find it there; the first two fetch, so that many lines at once do not wait for few rows. */
#define SPLIT(sums) ((sums) >= CHAINS_INT ? 1 : 2 * (sums) >= CHAINS_INT ? 2 : 4)
enum { ROWS_INT = (int)ROWS_Q4 > (int)ROWS_Q8 ? (int)ROWS_Q4 : (int)ROWS_Q8,
       SUMS_INT = PANELS_INT * ROWS_INT, DOTS = SUMS_INT > 2 * CHAINS_INT ? SUMS_INT : 2 * CHAINS_INT };

INLINE const uint8_t *panel_data(const uint8_t *panel, size_t groups) { return panel + groups * PANEL * 2 + (groups & 1) * 32; }

/* The integer sums of one group: data of the first panel, activations of the first row. */
INLINE void group_dots(const wtype t, dot *dots, const uint8_t *data, size_t bytes, const int8_t *q, size_t ldq,
                       const int rows, const int panels, const bool ahead) {
    const int split = SPLIT(rows * panels), quads = t == W_Q4 ? 8 : 16;
    UNROLL for (int j = 0; j < quads; j++) {
        quad w[PANELS_INT];
        UNROLL for (int p = 0; p < panels; p++) {
            w[p] = quad_of(t, b64_load(data + (size_t)p * bytes + 64 * j));
            if (ahead) PREFETCH_L2(data + (size_t)(p + panels) * bytes + 64 * j);
        }
        UNROLL for (int r = 0; r < rows; r++) {
            x4 low = bytes4(q + (size_t)r * ldq + 4 * j), high = t == W_Q4 ? bytes4(q + (size_t)r * ldq + 4 * j + 32) : low;
            UNROLL for (int p = 0; p < panels; p++) {
                const int i = (p * rows + r) * split + j % split;
                dots[i] = dot_step(t, dots[i], w[p], low, high);
            }
        }
    }
}

INLINE void int8_block(const wtype t, const part b, const int rows, const int panels) {
    size_t groups = groups_of(b.a->k), ldq = groups * GROUP;
    const uint8_t *ws = b.panel, *data = panel_data(b.panel, groups);
    const int8_t *q = b.a->q + (size_t)b.row * ldq;
    const float *xs = b.a->scale + (size_t)b.row * groups;
    const int32_t *xsum = b.a->sum + (size_t)b.row * groups;
    const int split = SPLIT(rows * panels);
    v16 sum[PANELS_INT][ROWS_INT];
    UNROLL for (int i = 0; i < panels * rows; i++) sum[i / rows][i % rows] = v16_set1(0);
    for (size_t g = 0; g < groups; g++, data += t == W_Q4 ? 512 : 1024, ws += PANEL * 2, q += GROUP) {
        dot dots[DOTS];
        if (b.ahead) UNROLL for (int p = 0; p < panels; p++) PREFETCH_L2(ws + (size_t)(p + panels) * b.bytes);
        UNROLL for (int i = 0; i < panels * rows * split; i++)
            dots[i] = dot_start(t, i % split ? 0 : xsum[(size_t)(i / split % rows) * groups + g]);
        group_dots(t, dots, data, b.bytes, q, ldq, rows, panels, b.ahead);
        UNROLL for (int p = 0; p < panels; p++) {
            v16 scale = v16_from_f16((const uint16_t *)(const void *)(ws + (size_t)p * b.bytes));
            UNROLL for (int r = 0; r < rows; r++) {
                const int i = (p * rows + r) * split;
                UNROLL for (int s = 1; s < split; s++) dots[i] = dot_join(t, dots[i], dots[i + s]);
                v16 both = v16_mul(scale, v16_set1(xs[(size_t)r * groups + g]));
                sum[p][r] = v16_fma(dot_end(t, dots[i], xsum[(size_t)r * groups + g]), both, sum[p][r]);
            }
        }
    }
    UNROLL for (int p = 0; p < panels; p++)
        UNROLL for (int r = 0; r < rows; r++) put(b.y + (size_t)r * b.ldy + p * PANEL, sum[p][r], b.w, b.p + p);
}

/* ---- f32 activations ---- */

/* 16 weights of input 4j + c of a group, as floats before the scale. */
INLINE v16 weight16(wtype t, const uint8_t *data, int j, int c) {
    if (t == W_Q4) return v16_from_q4(data + 64 * (j & 7), c, j >> 3);
    if (t == W_Q8) return v16_from_q8(data + 64 * j, c);
    return v16_from_bf16(data + 128 * j + 64 * (c >> 1), c & 1);
}

/* The four chains of the definition (k mod 4) are the bytes of a quad. With `rows` rows there is room for `chains` of them at a
 * time: the panel, by now in the first cache, is read 4 / chains times. */
INLINE void p16_block(const wtype t, const part b, const int rows, const int chains) {
    size_t groups = groups_of(b.a->k);
    const size_t step = t == W_Q4 ? 512 : t == W_Q8 ? 1024 : 2048;
    const uint16_t *ws = (const uint16_t *)(const void *)b.panel;
    const float *x = b.a->x + (size_t)b.row * b.a->ldx;
    v16 pair[2][ROWS_P16], acc[4][ROWS_P16];
    for (int first = 0; first < 4; first += chains) {
        const uint8_t *data = t == W_BF16 ? b.panel : panel_data(b.panel, groups);
        UNROLL for (int c = 0; c < chains; c++)
            UNROLL for (int r = 0; r < rows; r++) acc[c][r] = v16_set1(0);
        for (size_t g = 0; g < groups; g++, data += step) {
            v16 scale = t == W_BF16 ? v16_set1(1) : v16_from_f16(ws + g * PANEL);
            if (first == 0) for (size_t i = 0; i < step; i += 64) PREFETCH(data + i + AHEAD);
            for (int j = 0; j < 16; j++)
                UNROLL for (int c = 0; c < chains; c++) {
                    v16 w = weight16(t, data, j, first + c);
                    if (t != W_BF16) w = v16_mul(w, scale);
                    const float *at = x + g * GROUP + 4 * (size_t)j + (size_t)(first + c);
                    UNROLL for (int r = 0; r < rows; r++) acc[c][r] = v16_fma(w, v16_set1(at[(size_t)r * b.a->ldx]), acc[c][r]);
                }
        }
        UNROLL for (int c = 0; c < chains; c++) /* (acc_0 + acc_1) + (acc_2 + acc_3), as they come */
            UNROLL for (int r = 0; r < rows; r++) {
                int k = first + c;
                pair[k / 2][r] = k % 2 ? v16_add(pair[k / 2][r], acc[c][r]) : acc[c][r];
            }
    }
    UNROLL for (int r = 0; r < rows; r++) put(b.y + (size_t)r * b.ldy, v16_add(pair[0][r], pair[1][r]), b.w, b.p);
}

/* Plain f32 rows: `outs` outputs against `rows` rows, inputs in lanes, one tree at the end. */
INLINE void f32_outs(const part b, int out, const int outs, const int rows) {
    size_t ld = groups_of(b.a->k) * GROUP;
    const float *w = (const float *)(const void *)b.panel + (size_t)out * ld, *x = b.a->x + (size_t)b.row * b.a->ldx;
    v16 acc[OUTS_F32][ROWS_F32];
    UNROLL for (int o = 0; o < outs; o++)
        UNROLL for (int r = 0; r < rows; r++) acc[o][r] = v16_set1(0);
    for (size_t i = 0; i < ld; i += 16) {
        v16 xs[ROWS_F32];
        UNROLL for (int r = 0; r < rows; r++) xs[r] = v16_load(x + (size_t)r * b.a->ldx + i);
        UNROLL for (int o = 0; o < outs; o++) {
            v16 ws = v16_load(w + (size_t)o * ld + i);
            UNROLL for (int r = 0; r < rows; r++) acc[o][r] = v16_fma(ws, xs[r], acc[o][r]);
        }
    }
    UNROLL for (int o = 0; o < outs; o++)
        UNROLL for (int r = 0; r < rows; r++) {
            float y = v16_sum(acc[o][r]);
            b.y[(size_t)r * b.ldy + (size_t)(out + o)] = b.w->bias ? y + b.w->bias[(size_t)b.p * PANEL + (size_t)(out + o)] : y;
        }
}

INLINE void f32_block(const part b, const int rows) {
    for (int out = 0; out < PANEL; out += OUTS_F32) f32_outs(b, out, OUTS_F32, rows);
}

/* ---- the loops around the blocks ---- */

/* Blocks for the rows that are left, against `panels` panels: the widest that fits. Returns how many rows it took. */
typedef int block_fn(part b, int left, int panels);
#define EACH_PANEL(call) for (int i = 0; i < panels; i++) { const part one = one_panel(b, i); call; }
#define TAKE(n, most, call) if ((n) <= (most) && left >= (n)) { EACH_PANEL(call) return (n); }

/* As equal blocks as there can be: 10 rows are 5 and 5, not 6 and 4. */
#define BLOCK_OF(n) if ((n) <= most && rows == (n)) { \
        const int count = (n) < ROWS_INT ? (n) : ROWS_INT; /* it is n: so that no table compiles one too many */ \
        if (panels == PANELS_INT) int8_block(t, b, count, PANELS_INT); \
        else EACH_PANEL(int8_block(t, one, count, 1)) \
        return count; }

INLINE int int8_blocks(const wtype t, const int most, part b, int left, int panels) {
    int blocks = (left + most - 1) / most, rows = (left + blocks - 1) / blocks;
    BLOCK_OF(6) BLOCK_OF(5) BLOCK_OF(4) BLOCK_OF(3) BLOCK_OF(2) BLOCK_OF(1)
    return 0;
}
INLINE int q4_blocks(part b, int left, int panels) { return int8_blocks(W_Q4, ROWS_Q4, b, left, panels); }
INLINE int q8_blocks(part b, int left, int panels) { return int8_blocks(W_Q8, ROWS_Q8, b, left, panels); }

INLINE int p16_blocks(const wtype t, part b, int left, int panels) {
    TAKE(ROWS_P16, ROWS_P16, p16_block(t, one, ROWS_P16, CHAINS_P16))
    TAKE(4, ROWS_P16, p16_block(t, one, 4, CHAINS_P16))
    TAKE(1, 1, p16_block(t, one, 1, 4))
    return 0;
}
INLINE int q4_f32_blocks(part b, int left, int panels) { return p16_blocks(W_Q4, b, left, panels); }
INLINE int q8_f32_blocks(part b, int left, int panels) { return p16_blocks(W_Q8, b, left, panels); }
INLINE int bf16_blocks(part b, int left, int panels) { return p16_blocks(W_BF16, b, left, panels); }

INLINE int f32_blocks(part b, int left, int panels) {
    TAKE(ROWS_F32, ROWS_F32, f32_block(one, ROWS_F32))
    TAKE(2, ROWS_F32, f32_block(one, 2))
    TAKE(1, 1, f32_block(one, 1))
    return 0;
}

/* Chunks of rows, panels, blocks. `take` is a constant and becomes part of each matmul below. */
INLINE void each_block(const mat *w, const acts *a, float *y, size_t ldy, int p0, int p1, size_t row_bytes, int most, int at_once,
                       block_fn *take) {
    size_t bytes = panel_bytes((wtype)w->type, w->k), fit = CHUNK_BYTES / row_bytes;
    int chunk = max_int((int)fit / most, 1) * most;
    for (int m0 = 0; m0 < a->m; m0 += chunk)
        for (int p = p0; p < p1; p += at_once)
            for (int row = m0, end = min_int(a->m, m0 + chunk); row < end;) {
                const uint8_t *panel = (const uint8_t *)w->data + (size_t)p * bytes;
                part b = { w, panel, bytes, a, row, p, y + (size_t)row * ldy + (size_t)p * PANEL, ldy, row < m0 + 2 * most };
                row += take(b, end - row, min_int(at_once, p1 - p));
            }
}

/* inline: no warning where a table has its own way */
#define MATMUL(name, most, at_once, bytes_per_input, take) \
    static inline void name(const mat *w, const acts *a, float *y, size_t ldy, int p0, int p1) { \
        each_block(w, a, y, ldy, p0, p1, groups_of(a->k) * GROUP * (bytes_per_input), most, at_once, take); \
    }
MATMUL(matmul_q4, ROWS_Q4, PANELS_INT, 1, q4_blocks)
MATMUL(matmul_q8, ROWS_Q8, PANELS_INT, 1, q8_blocks)
MATMUL(matmul_q4_f32, ROWS_P16, 1, 4, q4_f32_blocks)
MATMUL(matmul_q8_f32, ROWS_P16, 1, 4, q8_f32_blocks)
MATMUL(matmul_bf16, ROWS_P16, 1, 4, bf16_blocks)
MATMUL(matmul_f32, ROWS_F32, 1, 4, f32_blocks)

/* ---- activations to int8, one row of weights to f32 ---- */

/* n floats, in `chunks` of 64, to int8 with one scale (kernels.h: quantize); q is written to the end of the last chunk. */
INLINE void to_int8(const float *x, int n, const int chunks, int8_t *q, float *scale, int32_t *sum) {
    uint32_t top = 0;
    int32_t total = 0;
    float amax;
    for (int c = 0; c < chunks; c++) {
        v16 v[4];
        UNROLL for (int i = 0; i < 4; i++) v[i] = v16_load_n(x + 64 * c + 16 * i, n - 64 * c - 16 * i);
        uint32_t most = v16_max_magnitude(v[0], v[1], v[2], v[3]);
        top = most > top ? most : top;
    }
    memcpy(&amax, &top, sizeof amax);
    *sum = 0;
    *scale = top < 0x7f800000 ? 0 : NAN;
    memset(q, 0, (size_t)chunks * GROUP);
    if (top >= 0x7f800000 || amax < 0x1p-100f) return;
    *scale = amax / 127;
    v16 inverse = v16_set1(127 / amax);
    for (int c = 0; c < chunks; c++) {
        UNROLL for (int i = 0; i < 4; i++) v16_to_i8(q + 64 * c + 16 * i, v16_mul(v16_load_n(x + 64 * c + 16 * i, n - 64 * c - 16 * i), inverse));
        for (int i = 0; i < GROUP; i++) total += q[64 * c + i]; /* a sum of its own: through *sum the compiler could not add 64 at once */
    }
    *sum = total;
}

/* Sums in a pass of their own: right behind a group's four stores, a load of all its bytes waits until they have left the store buffer. */
static void quantize(const float *x, int k, int8_t *q, float *scale, int32_t *sum) {
    const size_t groups = groups_of(k);
    int32_t later;
    for (size_t g = 0; g < groups; g++) to_int8(x + g * GROUP, min_int(k - (int)g * GROUP, GROUP), 1, q + g * GROUP, scale + g, &later);
    for (size_t g = 0; g < groups; g++) {
        int32_t total = 0;
        for (size_t i = 0; i < GROUP; i++) total += q[g * GROUP + i];
        sum[g] = total;
    }
}

static float panel_value(const mat *w, const uint8_t *panel, size_t row, size_t i) {
    size_t g = i / GROUP, at = i % GROUP;
    const uint16_t *half = (const uint16_t *)(const void *)panel;
    if (w->type == W_BF16) return bf16_to_f32(half[i / 2 * 32 + row * 2 + i % 2]);
    const uint8_t *data = panel + panel_scale_bytes((wtype)w->type, w->k);
    int q;
    if (w->type == W_Q8) q = (int8_t)data[g * 1024 + at / 4 * 64 + row * 4 + at % 4];
    else q = (data[g * 512 + at % 32 / 4 * 64 + row * 4 + at % 4] >> (at < 32 ? 0 : 4) & 15) - 8;
    return (float)q * f16_to_f32(half[g * PANEL + row]);
}

/* A plain row: it lies in one piece. */
static void plain_row_load(const mat *w, int row, float *x) {
    wtype t = (wtype)w->type;
    size_t groups = groups_of(w->k);
    const uint8_t *from = (const uint8_t *)w->data + (size_t)row * plain_row_bytes(t, w->k);
    const uint8_t *data = from + plain_row_scale_bytes(t, w->k);
    const uint16_t *half = (const uint16_t *)(const void *)from;
    if (t == W_F32) memcpy(x, from, groups * GROUP * sizeof *x);
    for (size_t i = 0; t == W_BF16 && i < groups * GROUP; i++) x[i] = bf16_to_f32(half[i]) * w->scale;
    for (size_t g = 0; (t == W_Q8 || t == W_Q4) && g < groups; g++, x += GROUP) {
        float scale = f16_to_f32(half[g]);
        for (int i = 0; t == W_Q8 && i < GROUP; i++) x[i] = (float)(int8_t)data[g * GROUP + (size_t)i] * scale * w->scale;
        for (int i = 0; t == W_Q4 && i < GROUP / 2; i++) {
            int both = data[g * (GROUP / 2) + (size_t)i];
            x[i] = (float)((both & 15) - 8) * scale * w->scale;
            x[i + GROUP / 2] = (float)((both >> 4) - 8) * scale * w->scale;
        }
    }
}

static void row_load(const mat *w, int row, float *x) {
    size_t k = groups_of(w->k) * GROUP;
    if (w->layout == LAYOUT_ROWS) {
        plain_row_load(w, row, x);
        return;
    }
    const uint8_t *panel = (const uint8_t *)w->data + (size_t)(row / PANEL) * panel_bytes((wtype)w->type, w->k);
    for (size_t i = 0; i < k; i++) x[i] = panel_value(w, panel, (size_t)(row % PANEL), i) * w->scale;
}
