/* k_i8mm: aarch64 with the matrix multiply extension (Neoverse V1 and N2, Apple M2 and later). smmla multiplies 2 rows of 8 signed
 * bytes by 2 rows of 8, 32 products where sdot makes 16: two rows of activations against two outputs. Two quads zipped give 8
 * inputs of each output. 8 rows of activations and half a panel are 16 registers of sums; one row takes sdot (dot_sdot.inc.h). */
#include "kernels/v16_neon.inc.h"

#include "kernels/dot_sdot.inc.h"
#include "kernels/generic.inc.h"

enum { ROWS_MM = 8 };

/* sums[pair][j]: activation rows 2 pair and 2 pair + 1 against outputs 2j and 2j + 1 of the half panel. */
typedef struct mm_sums { int32x4_t v[ROWS_MM / 2][4]; } mm_sums;

INLINE int8x16_t two_rows(const int8_t *q, size_t ldq) { return vcombine_s8(vld1_s8(q), vld1_s8(q + ldq)); }

/* 8 inputs: w holds [2 outputs][8 inputs] for each j. */
INLINE void mm_step(mm_sums *s, const int8x16_t *w, const int8_t *q, size_t ldq, const int pairs) {
    UNROLL for (int p = 0; p < pairs; p++) {
        int8x16_t x = two_rows(q + (size_t)(2 * p) * ldq, ldq);
        UNROLL for (int j = 0; j < 4; j++) s->v[p][j] = vmmlaq_s32(s->v[p][j], x, w[j]);
    }
}

/* The integer sums of a group; data: the half panel's part of its first quad. */
INLINE void mm_group(const wtype t, mm_sums *s, const uint8_t *data, const int8_t *q, size_t ldq, const int pairs) {
    const int steps = t == W_Q4 ? 4 : 8;
    UNROLL for (int i = 0; i < steps; i++, data += 128) {
        uint8x16_t w[4];
        int8x16_t low[4], high[4];
        UNROLL for (int j = 0; j < 2; j++) {
            uint32x4_t a = vreinterpretq_u32_u8(vld1q_u8(data + 16 * j)), b = vreinterpretq_u32_u8(vld1q_u8(data + 64 + 16 * j));
            w[2 * j] = vreinterpretq_u8_u32(vzip1q_u32(a, b));
            w[2 * j + 1] = vreinterpretq_u8_u32(vzip2q_u32(a, b));
        }
        UNROLL for (int j = 0; j < 4; j++) {
            low[j] = vreinterpretq_s8_u8(t == W_Q4 ? vandq_u8(w[j], vdupq_n_u8(15)) : w[j]);
            high[j] = vreinterpretq_s8_u8(vshrq_n_u8(w[j], 4));
        }
        mm_step(s, low, q + 8 * i, ldq, pairs);
        if (t == W_Q4) mm_step(s, high, q + 8 * i + 32, ldq, pairs);
    }
}

/* sum = fma(dot, w_scale * x_scale, sum) for one row and 4 outputs; `row` picks it of the pair. */
INLINE float32x4_t mm_add(float32x4_t sum, int32x4_t first, int32x4_t second, const int row, float32x4_t ws, float xs) {
    int64x2_t a = vreinterpretq_s64_s32(first), b = vreinterpretq_s64_s32(second);
    int32x4_t dots = vreinterpretq_s32_s64(row ? vzip2q_s64(a, b) : vzip1q_s64(a, b));
    return vfmaq_f32(sum, vcvtq_f32_s32(dots), vmulq_n_f32(ws, xs));
}

INLINE void mm_half(const wtype t, const part b, const int rows, const int half, v16 *out) {
    size_t groups = groups_of(b.a->k), ldq = groups * GROUP;
    const uint16_t *ws = (const uint16_t *)(const void *)b.panel + 8 * half;
    const uint8_t *data = panel_data(b.panel, groups) + 32 * half;
    const int8_t *q = b.a->q + (size_t)b.row * ldq;
    const float *xs = b.a->scale + (size_t)b.row * groups;
    const int32_t *xsum = b.a->sum + (size_t)b.row * groups;
    float32x4_t sum[ROWS_MM][2];
    UNROLL for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = vdupq_n_f32(0);
    for (size_t g = 0; g < groups; g++, data += t == W_Q4 ? 512 : 1024, ws += PANEL, q += GROUP) {
        mm_sums s;
        UNROLL for (int p = 0; p < rows / 2; p++) { /* nibbles go in as 0 to 15, 8 too much */
            const int32_t *at = xsum + (size_t)(2 * p) * groups + g;
            int32x4_t start = t == W_Q4 ? vcombine_s32(vdup_n_s32(-8 * at[0]), vdup_n_s32(-8 * at[groups])) : vdupq_n_s32(0);
            UNROLL for (int j = 0; j < 4; j++) s.v[p][j] = start;
        }
        mm_group(t, &s, data, q, ldq, rows / 2);
        UNROLL for (int i = 0; i < 2; i++) {
            float32x4_t scale = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(ws + 4 * i)));
            UNROLL for (int r = 0; r < rows; r++)
                sum[r][i] = mm_add(sum[r][i], s.v[r / 2][2 * i], s.v[r / 2][2 * i + 1], r % 2, scale, xs[(size_t)r * groups + g]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) out[r].v[2 * half] = sum[r][0], out[r].v[2 * half + 1] = sum[r][1];
}

INLINE void mm_block(const wtype t, const part b, const int rows) {
    v16 sum[ROWS_MM];
    mm_half(t, b, rows, 0, sum);
    mm_half(t, b, rows, 1, sum);
    UNROLL for (int r = 0; r < rows; r++) put(b.y + (size_t)r * b.ldy, sum[r], b.w, b.p);
}

INLINE int mm_blocks(const wtype t, part b, int left, int panels) {
    TAKE(8, ROWS_MM, mm_block(t, one, 8))
    TAKE(4, ROWS_MM, mm_block(t, one, 4))
    TAKE(2, ROWS_MM, mm_block(t, one, 2))
    TAKE(1, ROWS_MM, int8_block(t, one, 1, 1))
    return 0;
}
INLINE int q4_mm_blocks(part b, int left, int panels) { return mm_blocks(W_Q4, b, left, panels); }
INLINE int q8_mm_blocks(part b, int left, int panels) { return mm_blocks(W_Q8, b, left, panels); }

MATMUL(matmul_q4_mm, ROWS_MM, PANELS_INT, 1, q4_mm_blocks)
MATMUL(matmul_q8_mm, ROWS_MM, PANELS_INT, 1, q8_mm_blocks)

static double probe_mm(long reps) {
    int32x4_t acc[16];
    int8x16_t x = vdupq_n_s8(3), w = vdupq_n_s8(-5);
    UNROLL for (int i = 0; i < 16; i++) acc[i] = vdupq_n_s32(i);
    for (long r = 0; r < reps; r++)
        UNROLL for (int i = 0; i < 16; i++) {
            HIDE(x);
            acc[i] = vmmlaq_s32(acc[i], x, w);
        }
    volatile int32_t keep = 0;
    UNROLL for (int i = 0; i < 16; i++) keep = keep ^ vaddvq_s32(acc[i]);
    return (double)reps * 16 * 64;
}

const kernels kernels_i8mm = KERNELS_WITH("i8mm", matmul_bf16, matmul_q8_mm, matmul_q4_mm, attention, probe_mm, probe_f32);
