/* k_neon: aarch64 without the dot product extension (Cortex-A53 to A73). smull and smlal multiply signed bytes into 16 bits;
 * lanes hold two rows of four products each, added pairwise at the end.
 * q4: nibbles less 8; 16 products of at most 8 * 127 fit in 16 bits, so a group needs no widening before its end.
 * q8: each product goes pairwise to 32 bits at once. */
#include "kernels/v16_neon.inc.h"

enum { ROWS_Q4 = 2, ROWS_Q8 = 2, PANELS_INT = 1,
       ROWS_P16 = 6, CHAINS_P16 = 1, ROWS_F32 = 2, OUTS_F32 = 2, ATTN_QUERIES = 6, ATTN_INT_QUERIES = 4, ATTN_VECS = 1, PROBE_CHAINS = 5 };

typedef struct q4_acc { int16x8_t v[8]; } q4_acc; /* v[i]: rows 2i and 2i+1, four products each */
typedef struct q8_acc { int32x4_t v[8]; } q8_acc; /* v[i]: rows 2i and 2i+1, two sums each */
typedef b64 q8_weights;

INLINE q4_acc q4_start(int32_t sum) {
    (void)sum;
    const int16x8_t z = vdupq_n_s16(0);
    return (q4_acc){ { z, z, z, z, z, z, z, z } };
}
INLINE q4_acc q4_step(q4_acc a, b64 w, x4 low, x4 high) {
    const uint8x16_t nibble = vdupq_n_u8(15);
    const int8x16_t eight = vdupq_n_s8(8);
    UNROLL for (int i = 0; i < 4; i++) {
        int8x16_t wl = vsubq_s8(vreinterpretq_s8_u8(vandq_u8(w.v[i], nibble)), eight);
        int8x16_t wh = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(w.v[i], 4)), eight);
        a.v[2 * i] = vmlal_s8(vmlal_s8(a.v[2 * i], vget_low_s8(wl), vget_low_s8(low)), vget_low_s8(wh), vget_low_s8(high));
        a.v[2 * i + 1] = vmlal_high_s8(vmlal_high_s8(a.v[2 * i + 1], wl, low), wh, high);
    }
    return a;
}
INLINE q4_acc q4_join(q4_acc a, q4_acc b) { UNROLL for (int i = 0; i < 8; i++) a.v[i] = vaddq_s16(a.v[i], b.v[i]); return a; }
INLINE v16 q4_end(q4_acc a, int32_t sum) {
    (void)sum;
    v16 r;
    UNROLL for (int i = 0; i < 4; i++) r.v[i] = vcvtq_f32_s32(vpaddq_s32(vpaddlq_s16(a.v[2 * i]), vpaddlq_s16(a.v[2 * i + 1])));
    return r;
}

INLINE q8_acc q8_start(int32_t sum) {
    (void)sum;
    const int32x4_t z = vdupq_n_s32(0);
    return (q8_acc){ { z, z, z, z, z, z, z, z } };
}
INLINE q8_weights q8_prepare(b64 w) { return w; }
INLINE q8_acc q8_step(q8_acc a, q8_weights w, x4 v) {
    UNROLL for (int i = 0; i < 4; i++) {
        int8x16_t q = vreinterpretq_s8_u8(w.v[i]);
        a.v[2 * i] = vpadalq_s16(a.v[2 * i], vmull_s8(vget_low_s8(q), vget_low_s8(v)));
        a.v[2 * i + 1] = vpadalq_s16(a.v[2 * i + 1], vmull_high_s8(q, v));
    }
    return a;
}
INLINE q8_acc q8_step_positive(q8_acc a, b64 w, x4 x) { return q8_step(a, w, x); }
INLINE q8_acc q8_join(q8_acc a, q8_acc b) { UNROLL for (int i = 0; i < 8; i++) a.v[i] = vaddq_s32(a.v[i], b.v[i]); return a; }
INLINE v16 q8_end(q8_acc a) {
    v16 r;
    UNROLL for (int i = 0; i < 4; i++) r.v[i] = vcvtq_f32_s32(vpaddq_s32(a.v[2 * i], a.v[2 * i + 1]));
    return r;
}

#include "kernels/generic.inc.h"

const kernels kernels_neon = KERNELS("neon");
