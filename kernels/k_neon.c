/* k_neon: aarch64 without the dot product extension (Cortex-A53 to A73). smull and smlal multiply signed bytes into 16 bits;
 * lanes hold two rows of four products each, added pairwise at the end.
 * q4: nibbles less 8; 16 products of at most 8 * 127 fit in 16 bits, so a group needs no widening before its end.
 * q8: each product goes pairwise to 32 bits at once. */
#include "kernels/v16_neon.inc.h"

enum { ROWS_Q4 = 2, ROWS_Q8 = 2, PANELS_INT = 1, CHAINS_INT = 3, ROWS_P16 = 6, CHAINS_P16 = 1, ROWS_F32 = 2, OUTS_F32 = 2,
       ATTN_QUERIES = 6, ATTN_INT_QUERIES = 4, ATTN_VECS = 1, PROBE_CHAINS = 5, PROBE_DOTS = 2 };

/* v[i]: rows 2i and 2i+1; q4: four sums each, 16 bits; q8: two each, 32 bits */
typedef struct dot { int32x4_t v[8]; } dot;
typedef struct quad { int8x16_t low[4], high[4]; } quad; /* q4: low and high nibbles less 8; q8: the bytes, in low */

INLINE quad quad_of(wtype t, b64 w) {
    const uint8x16_t nibble = vdupq_n_u8(15);
    const int8x16_t eight = vdupq_n_s8(8);
    quad r;
    UNROLL for (int i = 0; i < 4; i++) {
        r.low[i] = t == W_Q4 ? vsubq_s8(vreinterpretq_s8_u8(vandq_u8(w.v[i], nibble)), eight) : vreinterpretq_s8_u8(w.v[i]);
        r.high[i] = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(w.v[i], 4)), eight);
    }
    return r;
}
INLINE dot dot_start(wtype t, int32_t sum) {
    (void)t, (void)sum;
    const int32x4_t z = vdupq_n_s32(0);
    return (dot){ { z, z, z, z, z, z, z, z } };
}
#define HALF_WORDS(v) vreinterpretq_s16_s32(v)
#define WORDS(v) vreinterpretq_s32_s16(v)
INLINE int32x4_t q4_low(int32x4_t acc, int8x16_t wl, int8x16_t wh, x4 low, x4 high) {
    int16x8_t a = vmlal_s8(HALF_WORDS(acc), vget_low_s8(wl), vget_low_s8(low));
    return WORDS(vmlal_s8(a, vget_low_s8(wh), vget_low_s8(high)));
}
INLINE int32x4_t q4_high(int32x4_t acc, int8x16_t wl, int8x16_t wh, x4 low, x4 high) {
    return WORDS(vmlal_high_s8(vmlal_high_s8(HALF_WORDS(acc), wl, low), wh, high));
}
INLINE dot dot_step(wtype t, dot a, quad w, x4 low, x4 high) {
    UNROLL for (int i = 0; i < 4; i++) {
        int8x16_t q = w.low[i];
        if (t == W_Q4) {
            a.v[2 * i] = q4_low(a.v[2 * i], q, w.high[i], low, high);
            a.v[2 * i + 1] = q4_high(a.v[2 * i + 1], q, w.high[i], low, high);
        } else {
            a.v[2 * i] = vpadalq_s16(a.v[2 * i], vmull_s8(vget_low_s8(q), vget_low_s8(low)));
            a.v[2 * i + 1] = vpadalq_s16(a.v[2 * i + 1], vmull_high_s8(q, low));
        }
    }
    return a;
}
INLINE dot dot_step_positive(dot d, b64 w, x4 x) { return dot_step(W_Q8, d, quad_of(W_Q8, w), x, x); }
INLINE dot dot_join(wtype t, dot a, dot b) {
    UNROLL for (int i = 0; i < 8; i++)
        a.v[i] = t == W_Q4 ? WORDS(vaddq_s16(HALF_WORDS(a.v[i]), HALF_WORDS(b.v[i]))) : vaddq_s32(a.v[i], b.v[i]);
    return a;
}
INLINE v16 dot_end(wtype t, dot a, int32_t sum) {
    (void)sum;
    v16 r;
    if (t == W_Q4) UNROLL for (int i = 0; i < 8; i++) a.v[i] = vpaddlq_s16(HALF_WORDS(a.v[i]));
    UNROLL for (int i = 0; i < 4; i++) r.v[i] = vcvtq_f32_s32(vpaddq_s32(a.v[2 * i], a.v[2 * i + 1]));
    return r;
}
#undef HALF_WORDS
#undef WORDS

#include "kernels/generic.inc.h"

const kernels kernels_neon = KERNELS("neon");
