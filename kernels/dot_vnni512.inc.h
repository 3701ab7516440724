/* dot_vnni512: a group's integer sums by AVX-512 VNNI, for k_avx512vnni.c and k_amx.c. vpdpbusd multiplies 64 unsigned by 64
 * signed bytes and adds each four products to a 32-bit lane: a quad of 16 rows against four broadcast activation bytes, exactly,
 * in one instruction. Weights are its unsigned side: nibbles as they lie (0 to 15, 8 too much: start at -8 * sum x), int8 with the
 * top bit flipped (128 too much: start at -128 * sum x). 32 registers: 12 sums, 12 dot products, weights, masks. */
enum { ROWS_Q4 = 6, ROWS_Q8 = 6, PANELS_INT = 2, CHAINS_INT = 8, ROWS_P16 = 12, CHAINS_P16 = 2, ROWS_F32 = 6, OUTS_F32 = 4,
       ATTN_QUERIES = 6, ATTN_INT_QUERIES = 4, ATTN_VECS = 4, PROBE_CHAINS = 12, PROBE_DOTS = 12 };

typedef __m512i dot;
typedef struct quad { __m512i low, high; } quad; /* q4: low and high nibbles; q8: the flipped bytes, in low */

INLINE quad quad_of(wtype t, b64 w) {
    const __m512i nibble = _mm512_set1_epi8(15);
    if (t == W_Q8) return (quad){ _mm512_xor_si512(w, _mm512_set1_epi8(-128)), w };
    return (quad){ _mm512_and_si512(w, nibble), _mm512_and_si512(_mm512_srli_epi16(w, 4), nibble) };
}
INLINE dot dot_start(wtype t, int32_t sum) { return _mm512_set1_epi32((t == W_Q4 ? -8 : -128) * sum); }
INLINE dot dot_step(wtype t, dot a, quad w, x4 low, x4 high) {
    a = _mm512_dpbusd_epi32(a, w.low, low);
    return t == W_Q4 ? _mm512_dpbusd_epi32(a, w.high, high) : a;
}
INLINE dot dot_step_positive(dot d, b64 w, x4 x) { return _mm512_dpbusd_epi32(d, x, w); } /* no byte of x below 0: w as it lies */
INLINE dot dot_join(wtype t, dot a, dot b) { (void)t; return _mm512_add_epi32(a, b); }
INLINE v16 dot_end(wtype t, dot a, int32_t sum) { (void)t, (void)sum; return _mm512_cvtepi32_ps(a); }
