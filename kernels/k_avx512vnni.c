/* k_avx512vnni: AVX-512 with VNNI (Ice Lake, Zen 4 and later). vpdpbusd multiplies 64 unsigned by 64 signed bytes and adds
 * each four products to a 32-bit lane: a quad of 16 rows against four broadcast activation bytes, exactly, in one instruction.
 * Weights are its unsigned side: nibbles as they lie (0 to 15, 8 too much: start at -8 * sum x), int8 with the top bit flipped
 * (128 too much: start at -128 * sum x). 32 registers: 12 rows of sums, 12 of dot products, weights, masks. */
#include "kernels/v16_avx512.inc.h"

enum { ROWS_Q4 = 6, ROWS_Q8 = 6, PANELS_INT = 2,
       ROWS_P16 = 12, CHAINS_P16 = 2, ROWS_F32 = 6, OUTS_F32 = 4, ATTN_QUERIES = 6, ATTN_INT_QUERIES = 4, ATTN_VECS = 4, PROBE_CHAINS = 12 };

typedef __m512i q4_acc;
typedef __m512i q8_acc;
typedef __m512i q8_weights;

INLINE q4_acc q4_start(int32_t sum) { return _mm512_set1_epi32(-8 * sum); }
INLINE q4_acc q4_step(q4_acc a, b64 w, x4 low, x4 high) {
    const __m512i nibble = _mm512_set1_epi8(15);
    a = _mm512_dpbusd_epi32(a, _mm512_and_si512(w, nibble), low);
    return _mm512_dpbusd_epi32(a, _mm512_and_si512(_mm512_srli_epi16(w, 4), nibble), high);
}
INLINE q4_acc q4_join(q4_acc a, q4_acc b) { return _mm512_add_epi32(a, b); }
INLINE v16 q4_end(q4_acc a, int32_t sum) { (void)sum; return _mm512_cvtepi32_ps(a); }

INLINE q8_acc q8_start(int32_t sum) { return _mm512_set1_epi32(-128 * sum); }
INLINE q8_weights q8_prepare(b64 w) { return _mm512_xor_si512(w, _mm512_set1_epi8(-128)); }
INLINE q8_acc q8_step(q8_acc a, q8_weights w, x4 x) { return _mm512_dpbusd_epi32(a, w, x); }
INLINE q8_acc q8_step_positive(q8_acc a, b64 w, x4 x) { return _mm512_dpbusd_epi32(a, x, w); }
INLINE q8_acc q8_join(q8_acc a, q8_acc b) { return _mm512_add_epi32(a, b); }
INLINE v16 q8_end(q8_acc a) { return _mm512_cvtepi32_ps(a); }

#include "kernels/generic.inc.h"

const kernels kernels_avx512vnni = KERNELS("avx512vnni");
