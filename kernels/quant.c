/* quant: packs f32 rows into P16 panels or plain rows and back: the reference of the layouts. It owns the choice of each group's
 * scale. It must not know files, threads or instruction sets: every CPU packs the same bytes, so loops here are plain C that a
 * compiler vectorises without reassociating (explicit lanes, rounding by a magic addend, no fma).
 * A block is a panel, or one plain row: the same text with 16 rows or one.
 *
 * The search: a candidate scale fixes the integers q; for fixed q the best scale is sum(w x q) / sum(w q q), and it removes
 * sum(w x q)^2 / sum(w q q) of the squared error. Candidates are compared by that; the winner is rounded to f16 and then
 * re-fitted against its own rounded integers while that helps (alternating least squares). */
#include "kernels/quant.h"

#include <math.h>
#include <string.h>

static const char *const names[W_COUNT] = { "f32", "bf16", "q8", "q4" };
static const size_t group_bytes[W_COUNT] = { 4096, 2048, 1024, 512 };

const char *wtype_name(wtype t) { return (unsigned)t < W_COUNT ? names[t] : "unknown"; }

int wtype_parse(const char *name, wtype *t) {
    for (int i = 0; i < W_COUNT; i++)
        if (strcmp(name, names[i]) == 0) return *t = (wtype)i, 0;
    return -1;
}

static size_t groups_of(int k) { return ((size_t)k + GROUP - 1) / GROUP; }
static bool quantised(wtype t) { return t == W_Q8 || t == W_Q4; }

static size_t block_scale_bytes(wtype t, size_t rows, int k) {
    return quantised(t) && k > 0 ? round_up(groups_of(k) * rows * sizeof(uint16_t), 64) : 0;
}

static size_t block_bytes(wtype t, size_t rows, int k) {
    if ((unsigned)t >= W_COUNT || k <= 0) return 0;
    return block_scale_bytes(t, rows, k) + groups_of(k) * (group_bytes[t] / PANEL * rows);
}

size_t panel_scale_bytes(wtype t, int k) { return block_scale_bytes(t, PANEL, k); }
size_t panel_bytes(wtype t, int k) { return block_bytes(t, PANEL, k); }
size_t plain_row_scale_bytes(wtype t, int k) { return block_scale_bytes(t, 1, k); }
size_t plain_row_bytes(wtype t, int k) { return block_bytes(t, 1, k); }

int matrix_bytes(wtype t, wlayout layout, uint64_t n, uint64_t k, uint64_t *bytes) {
    *bytes = 0;
    if ((unsigned)t >= W_COUNT || n > INT32_MAX || k > INT32_MAX) return -1;
    uint64_t panels = (n + PANEL - 1) / PANEL;
    uint64_t each = layout == LAYOUT_ROWS ? PANEL * plain_row_bytes(t, (int)k) : panel_bytes(t, (int)k);
    if (mul_overflows(panels, each, bytes) || *bytes > 1ull << 62) return *bytes = 0, -1;
    return 0;
}

uint64_t mat_bytes(const mat *w) {
    uint64_t bytes = 0;
    if (w->data) matrix_bytes((wtype)w->type, (wlayout)w->layout, (uint64_t)w->n, (uint64_t)w->k, &bytes);
    return bytes;
}

mat mat_rows(const mat *w, int first, int n) {
    mat part = *w;
    part.data = (const char *)w->data + (size_t)(first / PANEL) * panel_bytes((wtype)w->type, w->k);
    if (w->bias) part.bias = w->bias + first;
    part.n = n;
    return part;
}

/* ---- f16 and bf16 ---- */

static uint32_t float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
    /* a NaN comes out quiet, as hardware does it */
    if (e == 31) return bits_float(sign | 0x7f800000 | m << 13 | (m ? 0x400000 : 0));
    if (e) return bits_float(sign | (e + 112) << 23 | m << 13);
    float tiny = (float)m * 0x1p-24f;
    return sign ? -tiny : tiny;
}

uint16_t f32_to_f16(float x) {
    uint32_t u = float_bits(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and above round to infinity */
    if (a < 0x38800000) {                                  /* below 2^-14: the sum leaves rint(x * 2^24) in the low bits */
        return (uint16_t)(sign | (float_bits(bits_float(a) + 0.5f) - 0x3f000000));
    }
    return (uint16_t)(sign | (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13);
}

float bf16_to_f32(uint16_t b) { return bits_float((uint32_t)b << 16); }

uint16_t f32_to_bf16(float x) {
    uint32_t u = float_bits(x);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* ---- the scale of a group ---- */

/* What a type can hold, and the candidates: x is multiplied by steps[i] / (the element of largest size). */
struct grid {
    float lo, hi;
    int n;
    float steps[20];
};
/* q4: with a negative step the extreme lands on -8 and beyond, with a positive one on +7. */
static const struct grid grid_q4 = { -8, 7, 18, { -8, -8.6f, -7.7f, -7.4f, -7.1f, -6.8f, -6.5f, -6.2f, -5.9f, -5.6f, -5.2f, 8,
    7.5f, 7.2f, 6.9f, 6.6f, 6.2f, 5.7f } };
static const struct grid grid_q8 = { -127, 127, 12, { 127, 126.4f, 125.8f, 125.1f, 124.4f, 123.6f, 122.8f, 122, 121, 120, 128,
    129 } };

enum { LANES = 8 };
struct fit { float xq, qq; }; /* sum(w x q), sum(w q q) */

/* Nearest integer, ties to even, for |x| < 2^22, within [lo, hi]; NaN gives lo. */
static inline float round_clamp(float x, float lo, float hi) {
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    float r = (x + magic) - magic;
    r = r > lo ? r : lo;
    return r < hi ? r : hi;
}

static float lane_sum(const float *v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

static struct fit fit_group(const float *x, const float *w, float inverse, const struct grid *g) {
    float xq[LANES] = { 0 }, qq[LANES] = { 0 };
    for (int i = 0; i < GROUP; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float q = round_clamp(x[i + l] * inverse, g->lo, g->hi), wq = w[i + l] * q;
            xq[l] += wq * x[i + l];
            qq[l] += wq * q;
        }
    return (struct fit){ lane_sum(xq), lane_sum(qq) };
}

static float group_error(const float *x, const float *w, float scale, const struct grid *g) {
    float e[LANES] = { 0 }, inverse = 1 / scale;
    for (int i = 0; i < GROUP; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float d = x[i + l] - scale * round_clamp(x[i + l] * inverse, g->lo, g->hi);
            e[l] += w[i + l] * d * d;
        }
    return lane_sum(e);
}

/* The element of largest size, with its sign; a NaN or an infinity wins. */
static float extreme(const float *x) {
    uint32_t best = 0;
    int at = 0;
    for (int i = 0; i < GROUP; i++) {
        uint32_t a = float_bits(x[i]) & 0x7fffffff;
        if (a > best) best = a, at = i;
    }
    return x[at];
}

static float round_f16(float x) { return f16_to_f32(f32_to_f16(x)); }

/* The scale (exactly an f16) of least weighted squared error for 64 inputs x; 0 for zeros, NaN for what is not finite. */
static float search_scale(const float *x, const float *w, const struct grid *g) {
    float top = extreme(x), size = fabsf(top);
    if (!(size < INFINITY)) return NAN;
    if (size < 0x1p-24f) return 0; /* its scale would vanish in f16 */
    float best = round_f16(top / g->steps[0]), error = INFINITY, start = 0, most = -1;
    if (best != 0 && fabsf(best) < INFINITY) error = group_error(x, w, best, g);
    for (int i = 0; i < g->n; i++) {
        struct fit f = fit_group(x, w, g->steps[i] / top, g);
        float removed = f.qq > 0 ? f.xq * (f.xq / f.qq) : -1;
        if (removed > most) most = removed, start = f.xq / f.qq;
    }
    for (int turn = 0; turn < 4; turn++) {
        float scale = round_f16(start);
        if (scale == 0 || !(fabsf(scale) < INFINITY) || size > fabsf(scale) * 0x1p20f) break;
        float e = group_error(x, w, scale, g);
        if (!(e < error)) break;
        error = e, best = scale;
        struct fit f = fit_group(x, w, 1 / scale, g);
        if (!(f.qq > 0)) break;
        start = f.xq / f.qq;
    }
    return error < INFINITY ? best : 0;
}

int quant_exponent(wtype t, float amax) {
    if (!quantised(t) || !(amax > 0) || !(amax < INFINITY)) return 0;
    int e;
    frexpf(amax / (t == W_Q8 ? 127.0f : 8.0f), &e); /* the largest plain scale lies in [2^(e-1), 2^e): bring it to [2^14, 2^15) */
    e -= 15;                                        /* a searched scale is at most 8/5.2 of it: below f16's 65504 */
    return e < -126 ? -126 : e > 127 ? 127 : e;
}

/* ---- blocks: [rows][pad64(k)] floats, 16 rows for a panel, one for a plain row ---- */

static void put_quantised(wtype t, uint8_t *group, size_t rows, size_t row, const int8_t *q) {
    for (size_t i = 0; i < GROUP; i++) {
        uint8_t *to = group + (i / 4 * rows + row) * 4 + i % 4;
        if (t == W_Q8) *to = (uint8_t)q[i];
        else if (i < 32) *to = (uint8_t)((q[i] + 8) | (q[i + 32] + 8) << 4);
    }
}

static int get_quantised(wtype t, const uint8_t *group, size_t rows, size_t row, size_t i) {
    if (t == W_Q8) return (int8_t)group[(i / 4 * rows + row) * 4 + i % 4];
    int byte = group[(i % 32 / 4 * rows + row) * 4 + i % 4];
    return (i < 32 ? byte & 15 : byte >> 4) - 8;
}

/* One row's group: x[64] in units of 2^exponent, to q. Returns its scale as stored, and adds the weighted squared error. */
static uint16_t pack_group(wtype t, const float *x, const float *w, int8_t *q, double *error) {
    const struct grid *g = t == W_Q8 ? &grid_q8 : &grid_q4;
    float scale = search_scale(x, w, g), inverse = scale != 0 && scale == scale ? 1 / scale : 0, e[LANES] = { 0 };
    for (int i = 0; i < GROUP; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float v = inverse != 0 ? round_clamp(x[i + l] * inverse, g->lo, g->hi) : 0, d = x[i + l] - scale * v;
            q[i + l] = (int8_t)v;
            e[l] += w[i + l] * d * d;
        }
    *error += lane_sum(e);
    return f32_to_f16(scale);
}

static float power_of_two(int e) { return ldexpf(1.0f, e); }

/* The group's weights of the error, scaled to at most 1; all ones where they say nothing. Returns what they were divided by. */
static double group_importance(const float *importance, float *w) {
    float most = 0;
    for (int i = 0; importance && i < GROUP; i++) most = importance[i] > most ? importance[i] : most;
    bool usable = most > 0x1p-100f && most < INFINITY;
    for (int i = 0; i < GROUP; i++) w[i] = usable && importance[i] > 0 ? importance[i] / most : usable ? 0.0f : 1.0f;
    return usable ? most : importance ? 0 : 1;
}

static void pack_quantised(wtype t, const float *from, size_t rows, int k, int exponent, const float *importance, uint8_t *block,
    double *error) {
    size_t groups = groups_of(k), padded = groups * GROUP, step = group_bytes[t] / PANEL * rows;
    uint16_t *scales = (uint16_t *)(void *)block;
    uint8_t *data = block + block_scale_bytes(t, rows, k);
    int8_t q[GROUP];
    float down = power_of_two(-exponent), x[GROUP], w[GROUP];
    double sum = 0;
    for (size_t g = 0; g < groups; g++) {
        double unit = group_importance(importance ? importance + g * GROUP : NULL, w), one = 0;
        for (size_t r = 0; r < rows; r++) {
            for (size_t i = 0; i < GROUP; i++) x[i] = from[r * padded + g * GROUP + i] * down;
            scales[g * rows + r] = pack_group(t, x, w, q, &one);
            put_quantised(t, data + g * step, rows, r, q);
        }
        sum += one * unit;
    }
    size_t used = groups * rows * sizeof *scales;
    memset(block + used, 0, block_scale_bytes(t, rows, k) - used);
    *error += ldexp(sum, 2 * exponent);
}

static void pack_bf16(const float *from, size_t rows, int k, uint16_t *block, double *error) {
    size_t padded = groups_of(k) * GROUP;
    for (size_t i = 0; i < padded; i++)
        for (size_t r = 0; r < rows; r++) {
            float x = from[r * padded + i];
            uint16_t b = f32_to_bf16(x);
            double d = (double)x - bf16_to_f32(b);
            block[(i / 2 * rows + r) * 2 + i % 2] = b;
            *error += d * d;
        }
}

/* Importance weights it only where it weights the error too. */
static double squares(const float *from, size_t rows, size_t padded, const float *importance) {
    double sum = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < padded; i++) {
            double x = from[r * padded + i];
            sum += importance ? importance[i] * x * x : x * x;
        }
    return sum;
}

static void pack_block(wtype t, const float *from, size_t rows, int k, int exponent, const float *importance, void *block,
    double *error, double *power) {
    size_t padded = groups_of(k) * GROUP;
    double e = 0;
    if (t == W_F32) memcpy(block, from, rows * padded * sizeof *from);
    else if (t == W_BF16) pack_bf16(from, rows, k, block, &e);
    else pack_quantised(t, from, rows, k, exponent, importance, block, &e);
    if (error) *error += e;
    if (power) *power += squares(from, rows, padded, quantised(t) ? importance : NULL);
}

static void unpack_block(wtype t, const void *block, size_t rows, int k, int exponent, float *to) {
    size_t groups = groups_of(k), padded = groups * GROUP, step = group_bytes[t] / PANEL * rows;
    if (t == W_F32) {
        memcpy(to, block, rows * padded * sizeof *to);
        return;
    }
    const uint16_t *half = block;
    const uint8_t *data = (const uint8_t *)block + block_scale_bytes(t, rows, k);
    float up = power_of_two(exponent);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < padded; i++) {
            size_t g = i / GROUP;
            if (t == W_BF16) to[r * padded + i] = bf16_to_f32(half[(i / 2 * rows + r) * 2 + i % 2]);
            else {
                int q = get_quantised(t, data + g * step, rows, r, i % GROUP);
                to[r * padded + i] = (float)q * f16_to_f32(half[g * rows + r]) * up;
            }
        }
}

void pack_panel(wtype t, const float *rows, int k, int exponent, const float *importance, void *panel, double *error,
    double *power) {
    pack_block(t, rows, PANEL, k, exponent, importance, panel, error, power);
}

void unpack_panel(wtype t, const void *panel, int k, int exponent, float *rows) {
    unpack_block(t, panel, PANEL, k, exponent, rows);
}

void pack_plain_row(wtype t, const float *row, int k, int exponent, const float *importance, void *packed, double *error,
    double *power) {
    pack_block(t, row, 1, k, exponent, importance, packed, error, power);
}

void unpack_plain_row(wtype t, const void *packed, int k, int exponent, float *row) {
    unpack_block(t, packed, 1, k, exponent, row);
}

size_t kv_block_bytes(kv_type type, int hd, bool value) {
    size_t rows = value || type == KV_Q8 ? round_up((size_t)hd, PANEL) : (size_t)hd;
    return rows * KV_PAGE * (type == KV_Q8 ? 1 : type == KV_F16 ? 2 : 4) + (type == KV_Q8 ? KV_PAGE * sizeof(float) : 0);
}
