/* v16 in NEON (every aarch64): four q registers, lanes 0 to 3 in v[0] and so on. The meaning of each operation stands in
 * v16_scalar.inc.h. */
#include "kernels/compiler.inc.h"
#include "kernels/quant.h"

#include <arm_neon.h>
#include <math.h>
#include <string.h>

typedef struct v16 { float32x4_t v[4]; } v16;
typedef struct b64 { uint8x16_t v[4]; } b64;

#define EACH(expression) (v16){ { expression(0), expression(1), expression(2), expression(3) } }
#define BITS(x) vreinterpretq_u32_f32(x)
#define FLOATS(x) vreinterpretq_f32_u32(x)

INLINE v16 v16_set1(float x) {
    float32x4_t v = vdupq_n_f32(x);
    return (v16){ { v, v, v, v } };
}
INLINE v16 v16_load(const float *p) {
#define AT(i) vld1q_f32(p + 4 * i)
    return EACH(AT);
#undef AT
}
INLINE void v16_store(float *p, v16 a) {
    vst1q_f32(p, a.v[0]), vst1q_f32(p + 4, a.v[1]), vst1q_f32(p + 8, a.v[2]), vst1q_f32(p + 12, a.v[3]);
}
#define OPERATION2(name, op) \
    INLINE v16 name(v16 a, v16 b) { \
        return (v16){ { op(a.v[0], b.v[0]), op(a.v[1], b.v[1]), op(a.v[2], b.v[2]), op(a.v[3], b.v[3]) } }; \
    }
OPERATION2(v16_add, vaddq_f32)
OPERATION2(v16_sub, vsubq_f32)
OPERATION2(v16_mul, vmulq_f32)
OPERATION2(v16_div, vdivq_f32)
#undef OPERATION2
INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
#define AT(i) vfmaq_f32(c.v[i], a.v[i], b.v[i])
    return EACH(AT);
#undef AT
}
INLINE v16 v16_fnma(v16 a, v16 b, v16 c) {
#define AT(i) vfmsq_f32(c.v[i], a.v[i], b.v[i])
    return EACH(AT);
#undef AT
}
INLINE v16 v16_if_gt(v16 a, v16 b, v16 x, v16 y) {
#define AT(i) vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), x.v[i], y.v[i])
    return EACH(AT);
#undef AT
}
INLINE v16 v16_larger(v16 a, v16 b) { return v16_if_gt(a, b, a, b); } /* fmax would keep a NaN */
INLINE v16 v16_smaller(v16 a, v16 b) { return v16_if_gt(b, a, a, b); }
INLINE v16 v16_abs(v16 a) {
#define AT(i) vabsq_f32(a.v[i])
    return EACH(AT);
#undef AT
}
INLINE v16 v16_copysign(v16 a, v16 s) {
#define AT(i) vbslq_f32(vdupq_n_u32(0x7fffffff), a.v[i], s.v[i])
    return EACH(AT);
#undef AT
}
INLINE v16 v16_shl23(v16 a) {
#define AT(i) FLOATS(vshlq_n_u32(BITS(a.v[i]), 23))
    return EACH(AT);
#undef AT
}

INLINE float v16_sum(v16 a) {
    float32x4_t q = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3])); /* i+8, then i+4 */
    float32x2_t d = vadd_f32(vget_low_f32(q), vget_high_f32(q));
    return vget_lane_f32(d, 0) + vget_lane_f32(d, 1);
}
/* no lane is NaN here */
INLINE float v16_max(v16 a) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[2]), vmaxq_f32(a.v[1], a.v[3]))); }
INLINE uint32x4_t magnitude(v16 a) {
    const uint32x4_t size = vdupq_n_u32(0x7fffffff);
#define AT(i) vandq_u32(BITS(a.v[i]), size)
    return vmaxq_u32(vmaxq_u32(AT(0), AT(1)), vmaxq_u32(AT(2), AT(3)));
#undef AT
}
INLINE uint32_t v16_max_magnitude(v16 a, v16 b, v16 c, v16 d) {
    return vmaxvq_u32(vmaxq_u32(vmaxq_u32(magnitude(a), magnitude(b)), vmaxq_u32(magnitude(c), magnitude(d))));
}

INLINE v16 v16_from_f16(const uint16_t *p) {
#define AT(i) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)))
    return EACH(AT);
#undef AT
}
INLINE void v16_to_f16(uint16_t *p, v16 a) {
    for (int i = 0; i < 4; i++) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}
INLINE void v16_to_i8(int8_t *p, v16 a) {
    int16x8_t low = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(a.v[0])), vmovn_s32(vcvtnq_s32_f32(a.v[1])));
    int16x8_t high = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(a.v[2])), vmovn_s32(vcvtnq_s32_f32(a.v[3])));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

INLINE b64 b64_load(const void *p) {
    const uint8_t *b = p;
    return (b64){ { vld1q_u8(b), vld1q_u8(b + 16), vld1q_u8(b + 32), vld1q_u8(b + 48) } };
}
INLINE b64 b64_xor(b64 a, b64 b) {
    return (b64){ { veorq_u8(a.v[0], b.v[0]), veorq_u8(a.v[1], b.v[1]), veorq_u8(a.v[2], b.v[2]), veorq_u8(a.v[3], b.v[3]) } };
}
INLINE uint64_t b64_fold(b64 a) {
    uint64x2_t x = vreinterpretq_u64_u8(veorq_u8(veorq_u8(a.v[0], a.v[1]), veorq_u8(a.v[2], a.v[3])));
    return vgetq_lane_u64(x, 0) ^ vgetq_lane_u64(x, 1);
}

INLINE v16 v16_from_q8(const uint8_t *quad, int c) {
    const b64 w = b64_load(quad);
    const int32x4_t up = vdupq_n_s32(24 - 8 * c);
#define AT(i) vcvtq_f32_s32(vshrq_n_s32(vshlq_s32(vreinterpretq_s32_u8(w.v[i]), up), 24))
    return EACH(AT);
#undef AT
}
INLINE v16 v16_from_q4(const uint8_t *quad, int c, int high) {
    const b64 w = b64_load(quad);
    const int32x4_t down = vdupq_n_s32(-(8 * c + 4 * high)), nibble = vdupq_n_s32(15), eight = vdupq_n_s32(8);
#define AT(i) vcvtq_f32_s32(vsubq_s32(vandq_s32(vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_u8(w.v[i]), down)), nibble), \
    eight))
    return EACH(AT);
#undef AT
}
INLINE v16 v16_from_bf16(const uint8_t *pair, int c) {
    const b64 w = b64_load(pair);
    const int32x4_t up = vdupq_n_s32(c ? 0 : 16);
    const uint32x4_t high = vdupq_n_u32(0xffff0000);
#define AT(i) FLOATS(vandq_u32(vshlq_u32(vreinterpretq_u32_u8(w.v[i]), up), high))
    return EACH(AT);
#undef AT
}
#undef EACH
#undef BITS
#undef FLOATS

/* Four activation bytes to every row of a quarter of a quad. */
typedef int8x16_t x4;
INLINE x4 bytes4(const int8_t *x) {
    int32_t v;
    memcpy(&v, x, sizeof v);
    return vreinterpretq_s8_s32(vdupq_n_s32(v));
}
#define HIDE(x) __asm__("" : "+w"(x)) /* the compiler no longer knows the value, and must have it here */
