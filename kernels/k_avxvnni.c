/* k_avxvnni: AVX2 with AVX-VNNI (Alder Lake and later, Zen 5): vpdpbusd on 8 rows at a time. Weights are the unsigned side, as
 * k_avx512vnni.c says; 16 registers hold 3 rows of dot products and weights, their f32 sums wait in the first cache. */
#include "kernels/v16_avx2.inc.h"

enum { ROWS_Q4 = 4, ROWS_Q8 = 4, PANELS_INT = 1, CHAINS_INT = 3, ROWS_P16 = 4, CHAINS_P16 = 1, ROWS_F32 = 3, OUTS_F32 = 2,
       ATTN_QUERIES = 6, ATTN_INT_QUERIES = 4, ATTN_VECS = 1, PROBE_CHAINS = 5, PROBE_DOTS = 5 };

typedef b64 dot;
typedef struct quad { b64 low, high; } quad; /* q4: low and high nibbles; q8: the bytes with the top bit flipped, in low */

INLINE quad quad_of(wtype t, b64 w) {
    const __m256i nibble = _mm256_set1_epi8(15), top = _mm256_set1_epi8(-128);
    if (t == W_Q8) return (quad){ { _mm256_xor_si256(w.a, top), _mm256_xor_si256(w.b, top) }, w };
    return (quad){ { _mm256_and_si256(w.a, nibble), _mm256_and_si256(w.b, nibble) },
                   { _mm256_and_si256(_mm256_srli_epi16(w.a, 4), nibble), _mm256_and_si256(_mm256_srli_epi16(w.b, 4), nibble) } };
}
INLINE dot dot_start(wtype t, int32_t sum) {
    const __m256i x = _mm256_set1_epi32((t == W_Q4 ? -8 : -128) * sum);
    return (dot){ x, x };
}
INLINE dot dot_step(wtype t, dot d, quad w, x4 low, x4 high) {
    d.a = _mm256_dpbusd_avx_epi32(d.a, w.low.a, low);
    d.b = _mm256_dpbusd_avx_epi32(d.b, w.low.b, low);
    if (t == W_Q8) return d;
    d.a = _mm256_dpbusd_avx_epi32(d.a, w.high.a, high);
    d.b = _mm256_dpbusd_avx_epi32(d.b, w.high.b, high);
    return d;
}
INLINE dot dot_step_positive(dot d, b64 w, x4 x) { /* no byte of x below 0: w as it lies */
    return (dot){ _mm256_dpbusd_avx_epi32(d.a, x, w.a), _mm256_dpbusd_avx_epi32(d.b, x, w.b) };
}
INLINE dot dot_join(wtype t, dot x, dot y) { (void)t; return (dot){ _mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b) }; }
INLINE v16 dot_end(wtype t, dot d, int32_t sum) { (void)t, (void)sum; return v16_from_i32(d.a, d.b); }

#include "kernels/generic.inc.h"

const kernels kernels_avxvnni = KERNELS("avxvnni");
