/* k_avx512: AVX-512 without VNNI (Skylake-X). vpmaddubsw multiplies unsigned by signed bytes and adds pairs in 16 bits.
 * q4: a pair is at most 2 * 15 * 127 in size, so the 8 quads of a group add up in 16 bits if low and high nibbles have an
 * accumulator each.
 * q8: |w| is the unsigned side and x takes the sign of w; a pair is at most 2 * 127 * 127 = 32258, which fits, and goes to 32
 * bits at once.
 * Sums are hidden from the compiler after each step, as k_avx2.c says. */
#include "kernels/v16_avx512.inc.h"

enum { ROWS_Q4 = 5, ROWS_Q8 = 6, PANELS_INT = 1, CHAINS_INT = 1, ROWS_P16 = 12, CHAINS_P16 = 2, ROWS_F32 = 6, OUTS_F32 = 4,
       ATTN_QUERIES = 6, ATTN_INT_QUERIES = 4, ATTN_VECS = 4, PROBE_CHAINS = 12, PROBE_DOTS = 6 };

typedef struct dot { __m512i low, high; } dot; /* q4: 16-bit sums of low and high nibbles; q8: 32-bit sums in low */
typedef struct quad { __m512i low, high; __mmask64 negative; } quad; /* q4: low and high nibbles; q8: sizes in low, signs */

INLINE __m512i add16_to(__m512i sum, __m512i x) {
    sum = _mm512_add_epi16(sum, x);
    HIDE(sum);
    return sum;
}
INLINE __m512i add32_to(__m512i sum, __m512i x) {
    sum = _mm512_add_epi32(sum, x);
    HIDE(sum);
    return sum;
}
INLINE quad quad_of(wtype t, b64 w) {
    const __m512i nibble = _mm512_set1_epi8(15);
    if (t == W_Q8) return (quad){ _mm512_abs_epi8(w), _mm512_setzero_si512(), _mm512_movepi8_mask(w) };
    return (quad){ _mm512_and_si512(w, nibble), _mm512_and_si512(_mm512_srli_epi16(w, 4), nibble), 0 };
}
INLINE dot dot_start(wtype t, int32_t sum) {
    (void)t, (void)sum;
    return (dot){ _mm512_setzero_si512(), _mm512_setzero_si512() };
}
INLINE dot dot_step(wtype t, dot a, quad w, x4 low, x4 high) {
    if (t == W_Q8) {
        __m512i x = _mm512_mask_sub_epi8(low, w.negative, _mm512_setzero_si512(), low);
        a.low = add32_to(a.low, _mm512_madd_epi16(_mm512_maddubs_epi16(w.low, x), _mm512_set1_epi16(1)));
        return a;
    }
    a.low = add16_to(a.low, _mm512_maddubs_epi16(w.low, low));
    a.high = add16_to(a.high, _mm512_maddubs_epi16(w.high, high));
    return a;
}
INLINE dot dot_step_positive(dot a, b64 w, x4 x) { /* no byte of x below 0: w as it lies */
    a.low = add32_to(a.low, _mm512_madd_epi16(_mm512_maddubs_epi16(x, w), _mm512_set1_epi16(1)));
    return a;
}
INLINE dot dot_join(wtype t, dot a, dot b) {
    if (t == W_Q8) return (dot){ _mm512_add_epi32(a.low, b.low), a.high };
    return (dot){ _mm512_add_epi16(a.low, b.low), _mm512_add_epi16(a.high, b.high) };
}
INLINE v16 dot_end(wtype t, dot a, int32_t sum) {
    const __m512i one = _mm512_set1_epi16(1);
    if (t == W_Q8) return _mm512_cvtepi32_ps(a.low);
    __m512i whole = _mm512_add_epi32(_mm512_madd_epi16(a.low, one), _mm512_madd_epi16(a.high, one));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(whole, _mm512_set1_epi32(8 * sum)));
}

#include "kernels/generic.inc.h"

const kernels kernels_avx512 = KERNELS("avx512");
