/* k_dotprod: aarch64 with the dot product extension (Cortex-A75, Neoverse N1, Apple and later): sdot multiplies 16 by 16
 * signed bytes and adds each four products to a 32-bit lane: a quarter of a quad, 4 rows, against four broadcast activation
 * bytes. Nibbles go in as they lie (0 to 15, 8 too much: start at -8 * sum x). 32 registers: 4 rows of 4, weights of 4 or 8. */
#include "kernels/v16_neon.inc.h"

enum { ROWS_Q4 = 4, ROWS_Q8 = 4, PANELS_INT = 1,
       ROWS_P16 = 6, CHAINS_P16 = 1, ROWS_F32 = 2, OUTS_F32 = 2, ATTN_QUERIES = 6, ATTN_INT_QUERIES = 4, ATTN_VECS = 1, PROBE_CHAINS = 5 };

typedef struct q4_acc { int32x4_t v[4]; } q4_acc;
typedef q4_acc q8_acc;
typedef b64 q8_weights;

INLINE q4_acc q4_start(int32_t sum) {
    const int32x4_t s = vdupq_n_s32(-8 * sum);
    return (q4_acc){ { s, s, s, s } };
}
INLINE q4_acc q4_step(q4_acc a, b64 w, x4 low, x4 high) {
    const uint8x16_t nibble = vdupq_n_u8(15);
    UNROLL for (int i = 0; i < 4; i++) {
        a.v[i] = vdotq_s32(a.v[i], vreinterpretq_s8_u8(vandq_u8(w.v[i], nibble)), low);
        a.v[i] = vdotq_s32(a.v[i], vreinterpretq_s8_u8(vshrq_n_u8(w.v[i], 4)), high);
    }
    return a;
}
INLINE q4_acc q4_join(q4_acc a, q4_acc b) { UNROLL for (int i = 0; i < 4; i++) a.v[i] = vaddq_s32(a.v[i], b.v[i]); return a; }
INLINE q8_acc q8_join(q8_acc a, q8_acc b) { return q4_join(a, b); }
INLINE v16 q8_end(q8_acc a) {
    return (v16){ { vcvtq_f32_s32(a.v[0]), vcvtq_f32_s32(a.v[1]), vcvtq_f32_s32(a.v[2]), vcvtq_f32_s32(a.v[3]) } };
}
INLINE v16 q4_end(q4_acc a, int32_t sum) { (void)sum; return q8_end(a); }

INLINE q8_acc q8_start(int32_t sum) {
    (void)sum;
    const int32x4_t z = vdupq_n_s32(0);
    return (q8_acc){ { z, z, z, z } };
}
INLINE q8_weights q8_prepare(b64 w) { return w; }
INLINE q8_acc q8_step(q8_acc a, q8_weights w, x4 v) {
    UNROLL for (int i = 0; i < 4; i++) a.v[i] = vdotq_s32(a.v[i], vreinterpretq_s8_u8(w.v[i]), v);
    return a;
}

INLINE q8_acc q8_step_positive(q8_acc a, b64 w, x4 x) { return q8_step(a, w, x); }

#include "kernels/generic.inc.h"

const kernels kernels_dotprod = KERNELS("dotprod");
