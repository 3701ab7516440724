/* v16 in AVX2 with FMA and F16C: two ymm registers, lanes 0 to 7 in a and 8 to 15 in b. The meaning of each operation
 * stands in v16_scalar.inc.h. */
#include "kernels/compiler.inc.h"
#include "kernels/quant.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

typedef struct v16 { __m256 a, b; } v16;
typedef struct b64 { __m256i a, b; } b64;

INLINE v16 v16_set1(float x) { return (v16){ _mm256_set1_ps(x), _mm256_set1_ps(x) }; }
INLINE v16 v16_load(const float *p) { return (v16){ _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8) }; }
INLINE void v16_store(float *p, v16 v) { _mm256_storeu_ps(p, v.a), _mm256_storeu_ps(p + 8, v.b); }
INLINE v16 v16_add(v16 x, v16 y) { return (v16){ _mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b) }; }
INLINE v16 v16_sub(v16 x, v16 y) { return (v16){ _mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b) }; }
INLINE v16 v16_mul(v16 x, v16 y) { return (v16){ _mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b) }; }
INLINE v16 v16_div(v16 x, v16 y) { return (v16){ _mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b) }; }
INLINE v16 v16_fma(v16 x, v16 y, v16 z) { return (v16){ _mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b) }; }
INLINE v16 v16_fnma(v16 x, v16 y, v16 z) { return (v16){ _mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b) }; }
INLINE v16 v16_if_gt(v16 x, v16 y, v16 s, v16 t) {
    return (v16){ _mm256_blendv_ps(t.a, s.a, _mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ)),
                  _mm256_blendv_ps(t.b, s.b, _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ)) };
}
INLINE v16 v16_larger(v16 x, v16 y) { return (v16){ _mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b) }; }
INLINE v16 v16_smaller(v16 x, v16 y) { return (v16){ _mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b) }; }

INLINE v16 v16_abs(v16 x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (v16){ _mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b) };
}
INLINE v16 v16_copysign(v16 x, v16 s) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (v16){ _mm256_or_ps(_mm256_andnot_ps(sign, x.a), _mm256_and_ps(sign, s.a)),
                  _mm256_or_ps(_mm256_andnot_ps(sign, x.b), _mm256_and_ps(sign, s.b)) };
}
INLINE v16 v16_shl23(v16 x) {
    return (v16){ _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x.a), 23)),
        _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x.b), 23)) };
}

INLINE float v16_sum(v16 v) {
    __m256 h = _mm256_add_ps(v.a, v.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
INLINE float v16_max(v16 v) { /* no lane is NaN here */
    __m256 h = _mm256_max_ps(v.a, v.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
INLINE __m256i magnitude(v16 v) {
    v = v16_abs(v);
    return _mm256_max_epu32(_mm256_castps_si256(v.a), _mm256_castps_si256(v.b));
}
INLINE uint32_t v16_max_magnitude(v16 a, v16 b, v16 c, v16 d) {
    __m256i m = _mm256_max_epu32(_mm256_max_epu32(magnitude(a), magnitude(b)), _mm256_max_epu32(magnitude(c), magnitude(d)));
    __m128i q = _mm_max_epu32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    q = _mm_max_epu32(q, _mm_shuffle_epi32(q, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(q, _mm_shuffle_epi32(q, 0xb1)));
}

INLINE v16 v16_from_f16(const uint16_t *p) {
    return (v16){ _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 8))) };
}
INLINE void v16_to_f16(uint16_t *p, v16 v) {
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((void *)(p + 8), _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE void v16_to_i8(int8_t *p, v16 v) { /* packs within 128-bit halves, then puts the quarters in order */
    __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)), 0xd8);
    _mm_storeu_si128((void *)p, _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}

INLINE b64 b64_load(const void *p) { return (b64){ _mm256_loadu_si256(p), _mm256_loadu_si256((const __m256i *)p + 1) }; }
INLINE b64 b64_xor(b64 x, b64 y) { return (b64){ _mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b) }; }
INLINE uint64_t b64_fold(b64 x) {
    uint64_t w[4];
    _mm256_storeu_si256((void *)w, _mm256_xor_si256(x.a, x.b));
    return w[0] ^ w[1] ^ w[2] ^ w[3];
}

INLINE v16 v16_from_i32(__m256i a, __m256i b) { return (v16){ _mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b) }; }
INLINE v16 v16_from_q8(const uint8_t *quad, int c) {
    b64 w = b64_load(quad);
    const __m256i up = _mm256_set1_epi32(24 - 8 * c);
    return v16_from_i32(_mm256_srai_epi32(_mm256_sllv_epi32(w.a, up), 24), _mm256_srai_epi32(_mm256_sllv_epi32(w.b, up), 24));
}
INLINE v16 v16_from_q4(const uint8_t *quad, int c, int high) {
    b64 w = b64_load(quad);
    const __m256i down = _mm256_set1_epi32(8 * c + 4 * high), nibble = _mm256_set1_epi32(15), eight = _mm256_set1_epi32(8);
    return v16_from_i32(_mm256_sub_epi32(_mm256_and_si256(_mm256_srlv_epi32(w.a, down), nibble), eight),
                        _mm256_sub_epi32(_mm256_and_si256(_mm256_srlv_epi32(w.b, down), nibble), eight));
}
INLINE v16 v16_from_bf16(const uint8_t *pair, int c) {
    b64 w = b64_load(pair);
    const __m256i high = _mm256_set1_epi32((int)0xffff0000);
    if (c) return (v16){ _mm256_castsi256_ps(_mm256_and_si256(w.a, high)), _mm256_castsi256_ps(_mm256_and_si256(w.b, high)) };
    return (v16){ _mm256_castsi256_ps(_mm256_slli_epi32(w.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(w.b, 16)) };
}

/* Four activation bytes to every row of half a quad. */
typedef __m256i x4;
INLINE x4 bytes4(const int8_t *x) {
    int32_t v;
    memcpy(&v, x, sizeof v);
    return _mm256_set1_epi32(v);
}
#define HIDE(x) __asm__("" : "+x"(x)) /* the compiler no longer knows the value, and must have it here */
