/* k_avxvnni: AVX2 with AVX-VNNI (Alder Lake and later, Zen 5): vpdpbusd on 8 rows at a time. Weights are the unsigned side, as
 * k_avx512vnni.c says; 16 registers hold 3 rows of dot products and weights, their f32 sums wait in the first cache. */
#include "kernels/v16_avx2.inc.h"

enum { ROWS_Q4 = 4, ROWS_Q8 = 4, PANELS_INT = 1,
       ROWS_P16 = 4, CHAINS_P16 = 1, ROWS_F32 = 3, OUTS_F32 = 2, ATTN_QUERIES = 6, ATTN_INT_QUERIES = 4, ATTN_VECS = 1, PROBE_CHAINS = 5 };

typedef b64 q4_acc;
typedef b64 q8_acc;
typedef b64 q8_weights;

INLINE b64 all(int32_t x) { return (b64){ _mm256_set1_epi32(x), _mm256_set1_epi32(x) }; }

INLINE q4_acc q4_start(int32_t sum) { return all(-8 * sum); }
INLINE q4_acc q4_step(q4_acc acc, b64 w, x4 low, x4 high) {
    const __m256i nibble = _mm256_set1_epi8(15);
    acc.a = _mm256_dpbusd_avx_epi32(acc.a, _mm256_and_si256(w.a, nibble), low);
    acc.b = _mm256_dpbusd_avx_epi32(acc.b, _mm256_and_si256(w.b, nibble), low);
    acc.a = _mm256_dpbusd_avx_epi32(acc.a, _mm256_and_si256(_mm256_srli_epi16(w.a, 4), nibble), high);
    acc.b = _mm256_dpbusd_avx_epi32(acc.b, _mm256_and_si256(_mm256_srli_epi16(w.b, 4), nibble), high);
    return acc;
}
INLINE q4_acc q4_join(q4_acc x, q4_acc y) { return (b64){ _mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b) }; }
INLINE v16 q4_end(q4_acc acc, int32_t sum) { (void)sum; return v16_from_i32(acc.a, acc.b); }

INLINE q8_acc q8_start(int32_t sum) { return all(-128 * sum); }
INLINE q8_weights q8_prepare(b64 w) {
    const __m256i top = _mm256_set1_epi8(-128);
    return (b64){ _mm256_xor_si256(w.a, top), _mm256_xor_si256(w.b, top) };
}
INLINE q8_acc q8_step(q8_acc acc, q8_weights w, x4 v) {
    return (b64){ _mm256_dpbusd_avx_epi32(acc.a, w.a, v), _mm256_dpbusd_avx_epi32(acc.b, w.b, v) };
}
INLINE q8_acc q8_step_positive(q8_acc acc, b64 w, x4 v) {
    return (b64){ _mm256_dpbusd_avx_epi32(acc.a, v, w.a), _mm256_dpbusd_avx_epi32(acc.b, v, w.b) };
}
INLINE q8_acc q8_join(q8_acc x, q8_acc y) { return (b64){ _mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b) }; }
INLINE v16 q8_end(q8_acc acc) { return v16_from_i32(acc.a, acc.b); }

#include "kernels/generic.inc.h"

const kernels kernels_avxvnni = KERNELS("avxvnni");
