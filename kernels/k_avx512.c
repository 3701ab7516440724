/* k_avx512: AVX-512 without VNNI (Skylake-X). vpmaddubsw multiplies unsigned by signed bytes and adds pairs in 16 bits.
 * q4: a pair is at most 2 * 15 * 127 in size, so the 8 quads of a group add up in 16 bits if low and high nibbles have an
 * accumulator each.
 * q8: |w| is the unsigned side and x takes the sign of w; a pair is at most 2 * 127 * 127 = 32258, which fits, and goes to 32
 * bits at once. */
#include "kernels/v16_avx512.inc.h"

enum { ROWS_Q4 = 6, ROWS_Q8 = 8, PANELS_INT = 1,
       ROWS_P16 = 12, CHAINS_P16 = 2, ROWS_F32 = 6, OUTS_F32 = 4, ATTN_QUERIES = 6, ATTN_INT_QUERIES = 4, ATTN_VECS = 4, PROBE_CHAINS = 12 };

typedef struct q4_acc { __m512i low, high; } q4_acc;
typedef __m512i q8_acc;
typedef struct q8_weights { __m512i size; __mmask64 negative; } q8_weights;

INLINE q4_acc q4_start(int32_t sum) { (void)sum; return (q4_acc){ _mm512_setzero_si512(), _mm512_setzero_si512() }; }
INLINE q4_acc q4_step(q4_acc a, b64 w, x4 low, x4 high) {
    const __m512i nibble = _mm512_set1_epi8(15);
    a.low = _mm512_add_epi16(a.low, _mm512_maddubs_epi16(_mm512_and_si512(w, nibble), low));
    a.high = _mm512_add_epi16(a.high, _mm512_maddubs_epi16(_mm512_and_si512(_mm512_srli_epi16(w, 4), nibble), high));
    return a;
}
INLINE q4_acc q4_join(q4_acc a, q4_acc b) { return (q4_acc){ _mm512_add_epi16(a.low, b.low), _mm512_add_epi16(a.high, b.high) }; }
INLINE v16 q4_end(q4_acc a, int32_t sum) {
    const __m512i one = _mm512_set1_epi16(1);
    __m512i dot = _mm512_add_epi32(_mm512_madd_epi16(a.low, one), _mm512_madd_epi16(a.high, one));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(dot, _mm512_set1_epi32(8 * sum)));
}

INLINE q8_acc q8_start(int32_t sum) { (void)sum; return _mm512_setzero_si512(); }
INLINE q8_weights q8_prepare(b64 w) { return (q8_weights){ _mm512_abs_epi8(w), _mm512_movepi8_mask(w) }; }
INLINE q8_acc q8_step(q8_acc a, q8_weights w, x4 x) {
    __m512i v = _mm512_mask_sub_epi8(x, w.negative, _mm512_setzero_si512(), x);
    return _mm512_add_epi32(a, _mm512_madd_epi16(_mm512_maddubs_epi16(w.size, v), _mm512_set1_epi16(1)));
}
INLINE q8_acc q8_step_positive(q8_acc a, b64 w, x4 x) {
    return _mm512_add_epi32(a, _mm512_madd_epi16(_mm512_maddubs_epi16(x, w), _mm512_set1_epi16(1)));
}
INLINE q8_acc q8_join(q8_acc a, q8_acc b) { return _mm512_add_epi32(a, b); }
INLINE v16 q8_end(q8_acc a) { return _mm512_cvtepi32_ps(a); }

#include "kernels/generic.inc.h"

const kernels kernels_avx512 = KERNELS("avx512");
