/* k_avx2: AVX2 with FMA and F16C (Haswell, Zen 1 and later). A quad of 16 rows is two registers of 8 rows; vpmaddubsw
 * multiplies unsigned by signed bytes and adds pairs in 16 bits.
 * q4: a pair is at most 2 * 15 * 127 in size, so the 8 quads of a group add up in 16 bits if low and high nibbles have an
 * accumulator each.
 * q8: |w| is the unsigned side and x takes the sign of w, as (x ^ -1) + 1 where w is below 0: vpsignb would do it in one, but wants the ports
 * that multiply. A pair is at most 2 * 128 * 127 = 32512, which fits, and goes to 32 bits at once.
 * Sums are hidden from the compiler after each step: it would turn eight additions into a tree, with all products alive and spilled. */
#include "kernels/v16_avx2.inc.h"

enum { ROWS_Q4 = 2, ROWS_Q8 = 4, PANELS_INT = 1, CHAINS_INT = 1, ROWS_P16 = 4, CHAINS_P16 = 1, ROWS_F32 = 3, OUTS_F32 = 2,
       ATTN_QUERIES = 6, ATTN_INT_QUERIES = 4, ATTN_VECS = 1, PROBE_CHAINS = 5, PROBE_DOTS = 2 };

typedef struct dot { b64 low, high; } dot;   /* q4: 16-bit sums of low and high nibbles; q8: 32-bit sums in low */
typedef struct quad { b64 low, high; } quad; /* q4: low and high nibbles; q8: sizes, and -1 where the weight is below 0 */

INLINE __m256i add16_to(__m256i sum, __m256i x) {
    sum = _mm256_add_epi16(sum, x);
    HIDE(sum);
    return sum;
}
INLINE __m256i add32_to(__m256i sum, __m256i x) {
    sum = _mm256_add_epi32(sum, x);
    HIDE(sum);
    return sum;
}
INLINE __m256i below_zero(__m256i w) { return _mm256_cmpgt_epi8(_mm256_setzero_si256(), w); }
INLINE __m256i nibbles(__m256i w) { return _mm256_and_si256(w, _mm256_set1_epi8(15)); }
INLINE quad quad_of(wtype t, b64 w) {
    if (t == W_Q8) return (quad){ { _mm256_abs_epi8(w.a), _mm256_abs_epi8(w.b) }, { below_zero(w.a), below_zero(w.b) } };
    return (quad){ { nibbles(w.a), nibbles(w.b) }, { nibbles(_mm256_srli_epi16(w.a, 4)), nibbles(_mm256_srli_epi16(w.b, 4)) } };
}
INLINE dot dot_start(wtype t, int32_t sum) {
    (void)t, (void)sum;
    const b64 zero = { _mm256_setzero_si256(), _mm256_setzero_si256() };
    return (dot){ zero, zero };
}
INLINE __m256i q8_half(__m256i acc, __m256i size, __m256i below, __m256i x) {
    x = _mm256_sub_epi8(_mm256_xor_si256(x, below), below);
    return add32_to(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), _mm256_set1_epi16(1)));
}
INLINE dot dot_step(wtype t, dot d, quad w, x4 low, x4 high) {
    if (t == W_Q8) return (dot){ { q8_half(d.low.a, w.low.a, w.high.a, low), q8_half(d.low.b, w.low.b, w.high.b, low) }, d.high };
    d.low.a = add16_to(d.low.a, _mm256_maddubs_epi16(w.low.a, low));
    d.low.b = add16_to(d.low.b, _mm256_maddubs_epi16(w.low.b, low));
    d.high.a = add16_to(d.high.a, _mm256_maddubs_epi16(w.high.a, high));
    d.high.b = add16_to(d.high.b, _mm256_maddubs_epi16(w.high.b, high));
    return d;
}
INLINE __m256i positive_half(__m256i acc, __m256i w, __m256i x) {
    return add32_to(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
}
INLINE dot dot_step_positive(dot d, b64 w, x4 x) { /* no byte of x below 0: w as it lies */
    return (dot){ { positive_half(d.low.a, w.a, x), positive_half(d.low.b, w.b, x) }, d.high };
}
INLINE b64 add16(b64 x, b64 y) { return (b64){ _mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b) }; }
INLINE b64 add32(b64 x, b64 y) { return (b64){ _mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b) }; }
INLINE dot dot_join(wtype t, dot x, dot y) {
    if (t == W_Q8) return (dot){ add32(x.low, y.low), x.high };
    return (dot){ add16(x.low, y.low), add16(x.high, y.high) };
}
INLINE __m256i q4_dot(__m256i low, __m256i high, int32_t sum) {
    const __m256i one = _mm256_set1_epi16(1);
    __m256i whole = _mm256_add_epi32(_mm256_madd_epi16(low, one), _mm256_madd_epi16(high, one));
    return _mm256_sub_epi32(whole, _mm256_set1_epi32(8 * sum));
}
INLINE v16 dot_end(wtype t, dot d, int32_t sum) {
    if (t == W_Q8) return v16_from_i32(d.low.a, d.low.b);
    return v16_from_i32(q4_dot(d.low.a, d.high.a, sum), q4_dot(d.low.b, d.high.b, sum));
}

#include "kernels/generic.inc.h"

const kernels kernels_avx2 = KERNELS("avx2");
