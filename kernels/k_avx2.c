/* k_avx2: AVX2 with FMA and F16C (Haswell, Zen 1 and later). A quad of 16 rows is two registers of 8 rows; vpmaddubsw
 * multiplies unsigned by signed bytes and adds pairs in 16 bits.
 * q4: a pair is at most 2 * 15 * 127 in size, so the 8 quads of a group add up in 16 bits if low and high nibbles have an
 * accumulator each.
 * q8: |w| is the unsigned side and x takes the sign of w; a pair is at most 2 * 127 * 127 = 32258, which fits, and goes to 32
 * bits at once. */
#include "kernels/v16_avx2.inc.h"

enum { ROWS_Q4 = 2, ROWS_Q8 = 4, PANELS_INT = 1,
       ROWS_P16 = 4, CHAINS_P16 = 1, ROWS_F32 = 3, OUTS_F32 = 2, ATTN_QUERIES = 6, ATTN_INT_QUERIES = 4, ATTN_VECS = 1, PROBE_CHAINS = 5 };

typedef struct q4_acc { b64 low, high; } q4_acc;
typedef b64 q8_acc;
typedef struct q8_weights { b64 size, w; } q8_weights;

INLINE b64 zero(void) { return (b64){ _mm256_setzero_si256(), _mm256_setzero_si256() }; }

INLINE q4_acc q4_start(int32_t sum) { (void)sum; return (q4_acc){ zero(), zero() }; }
INLINE q4_acc q4_step(q4_acc acc, b64 w, x4 low, x4 high) {
    const __m256i nibble = _mm256_set1_epi8(15);
    acc.low.a = _mm256_add_epi16(acc.low.a, _mm256_maddubs_epi16(_mm256_and_si256(w.a, nibble), low));
    acc.low.b = _mm256_add_epi16(acc.low.b, _mm256_maddubs_epi16(_mm256_and_si256(w.b, nibble), low));
    acc.high.a = _mm256_add_epi16(acc.high.a, _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(w.a, 4), nibble), high));
    acc.high.b = _mm256_add_epi16(acc.high.b, _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(w.b, 4), nibble), high));
    return acc;
}
INLINE b64 add16(b64 x, b64 y) { return (b64){ _mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b) }; }
INLINE q4_acc q4_join(q4_acc x, q4_acc y) { return (q4_acc){ add16(x.low, y.low), add16(x.high, y.high) }; }
INLINE __m256i q4_dot(__m256i low, __m256i high, int32_t sum) {
    const __m256i one = _mm256_set1_epi16(1);
    __m256i dot = _mm256_add_epi32(_mm256_madd_epi16(low, one), _mm256_madd_epi16(high, one));
    return _mm256_sub_epi32(dot, _mm256_set1_epi32(8 * sum));
}
INLINE v16 q4_end(q4_acc acc, int32_t sum) {
    return v16_from_i32(q4_dot(acc.low.a, acc.high.a, sum), q4_dot(acc.low.b, acc.high.b, sum));
}

INLINE q8_acc q8_start(int32_t sum) { (void)sum; return zero(); }
INLINE q8_weights q8_prepare(b64 w) { return (q8_weights){ { _mm256_abs_epi8(w.a), _mm256_abs_epi8(w.b) }, w }; }
INLINE __m256i q8_half(__m256i acc, __m256i size, __m256i w, __m256i x) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(size, _mm256_sign_epi8(x, w)), _mm256_set1_epi16(1)));
}
INLINE q8_acc q8_step(q8_acc acc, q8_weights w, x4 v) {
    return (q8_acc){ q8_half(acc.a, w.size.a, w.w.a, v), q8_half(acc.b, w.size.b, w.w.b, v) };
}
INLINE __m256i positive_half(__m256i acc, __m256i w, __m256i x) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
}
INLINE q8_acc q8_step_positive(q8_acc acc, b64 w, x4 v) { return (q8_acc){ positive_half(acc.a, w.a, v), positive_half(acc.b, w.b, v) }; }
INLINE q8_acc q8_join(q8_acc x, q8_acc y) { return (b64){ _mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b) }; }
INLINE v16 q8_end(q8_acc acc) { return v16_from_i32(acc.a, acc.b); }

#include "kernels/generic.inc.h"

const kernels kernels_avx2 = KERNELS("avx2");
