/* v16 in AVX-512: one zmm register. The meaning of each operation stands in v16_scalar.inc.h. */
#include "kernels/compiler.inc.h"
#include "kernels/quant.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

typedef __m512 v16;
typedef __m512i b64;

INLINE v16 v16_set1(float x) { return _mm512_set1_ps(x); }
INLINE v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void v16_store(float *p, v16 a) { _mm512_storeu_ps(p, a); }
INLINE v16 v16_load_i32(const int32_t *p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
INLINE v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
INLINE v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
INLINE v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
INLINE v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
INLINE v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE v16 v16_fnma(v16 a, v16 b, v16 c) { return _mm512_fnmadd_ps(a, b, c); }
INLINE v16 v16_if_gt(v16 a, v16 b, v16 x, v16 y) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x); }
INLINE v16 v16_larger(v16 a, v16 b) { return _mm512_max_ps(a, b); }
INLINE v16 v16_smaller(v16 a, v16 b) { return _mm512_min_ps(a, b); }

INLINE v16 v16_abs(v16 a) { return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff))); }
INLINE v16 v16_copysign(v16 a, v16 s) { /* 0xca: bits of a where the mask is set, of s elsewhere */
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_set1_epi32(0x7fffffff), _mm512_castps_si512(a),
        _mm512_castps_si512(s), 0xca));
}
INLINE v16 v16_shl23(v16 a) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 23)); }

INLINE float v16_sum(v16 a) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
INLINE float v16_max(v16 a) { /* no lane is NaN here */
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
INLINE uint32_t v16_max_magnitude(v16 a, v16 b, v16 c, v16 d) {
    __m512i m = _mm512_max_epu32(_mm512_max_epu32(_mm512_castps_si512(v16_abs(a)), _mm512_castps_si512(v16_abs(b))),
                                 _mm512_max_epu32(_mm512_castps_si512(v16_abs(c)), _mm512_castps_si512(v16_abs(d))));
    return _mm512_reduce_max_epu32(m);
}

INLINE v16 v16_from_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
INLINE void v16_to_f16(uint16_t *p, v16 a) {
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE void v16_to_i8(int8_t *p, v16 a) { _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a))); }

INLINE b64 b64_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE b64 b64_xor(b64 a, b64 b) { return _mm512_xor_si512(a, b); }
INLINE uint64_t b64_fold(b64 a) {
    uint64_t w[8], s = 0;
    _mm512_storeu_si512(w, a);
    for (int i = 0; i < 8; i++) s ^= w[i];
    return s;
}

INLINE v16 v16_from_q8(const uint8_t *quad, int c) {
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_sllv_epi32(b64_load(quad), _mm512_set1_epi32(24 - 8 * c)), 24));
}
INLINE v16 v16_from_q4(const uint8_t *quad, int c, int high) { /* the permutation looks at the low 4 bits of an index only */
    const __m512 value = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(b64_load(quad), _mm512_set1_epi32(8 * c + 4 * high)), value);
}
INLINE v16 v16_from_bf16(const uint8_t *pair, int c) {
    __m512i w = b64_load(pair);
    return _mm512_castsi512_ps(c ? _mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)) : _mm512_slli_epi32(w, 16));
}

/* Four activation bytes to every row of a quad. */
typedef __m512i x4;
INLINE x4 bytes4(const int8_t *x) {
    int32_t v;
    memcpy(&v, x, sizeof v);
    return _mm512_set1_epi32(v);
}
#define HIDE(x) __asm__("" : "+v"(x)) /* the compiler no longer knows the value, and must have it here */
