/* dot_sdot: a group's integer sums by the dot product extension, for k_dotprod.c and k_i8mm.c. sdot multiplies 16 by 16 signed
 * bytes and adds each four products to a 32-bit lane: a quarter of a quad, 4 rows, against four broadcast activation bytes.
 * Nibbles go in as they lie (0 to 15, 8 too much: start at -8 * sum x). 32 registers: 4 rows of 4, weights of 4 or 8. */
enum { ROWS_Q4 = 4, ROWS_Q8 = 4, PANELS_INT = 1, CHAINS_INT = 3, ROWS_P16 = 6, CHAINS_P16 = 1, ROWS_F32 = 2, OUTS_F32 = 2,
       ATTN_QUERIES = 6, ATTN_INT_QUERIES = 4, ATTN_VECS = 1, PROBE_CHAINS = 5, PROBE_DOTS = 5 };

typedef struct dot { int32x4_t v[4]; } dot;
typedef struct quad { int8x16_t low[4], high[4]; } quad; /* q4: low and high nibbles; q8: the bytes, in low */

INLINE quad quad_of(wtype t, b64 w) {
    quad r;
    UNROLL for (int i = 0; i < 4; i++) {
        r.low[i] = vreinterpretq_s8_u8(t == W_Q4 ? vandq_u8(w.v[i], vdupq_n_u8(15)) : w.v[i]);
        r.high[i] = vreinterpretq_s8_u8(vshrq_n_u8(w.v[i], 4));
    }
    return r;
}
INLINE dot dot_start(wtype t, int32_t sum) {
    const int32x4_t s = vdupq_n_s32(t == W_Q4 ? -8 * sum : 0);
    return (dot){ { s, s, s, s } };
}
INLINE dot dot_step(wtype t, dot a, quad w, x4 low, x4 high) {
    UNROLL for (int i = 0; i < 4; i++) a.v[i] = vdotq_s32(a.v[i], w.low[i], low);
    if (t == W_Q4) UNROLL for (int i = 0; i < 4; i++) a.v[i] = vdotq_s32(a.v[i], w.high[i], high);
    return a;
}
INLINE dot dot_step_positive(dot d, b64 w, x4 x) { return dot_step(W_Q8, d, quad_of(W_Q8, w), x, x); }
INLINE dot dot_join(wtype t, dot a, dot b) {
    (void)t;
    UNROLL for (int i = 0; i < 4; i++) a.v[i] = vaddq_s32(a.v[i], b.v[i]);
    return a;
}
INLINE v16 dot_end(wtype t, dot a, int32_t sum) {
    (void)t, (void)sum;
    return (v16){ { vcvtq_f32_s32(a.v[0]), vcvtq_f32_s32(a.v[1]), vcvtq_f32_s32(a.v[2]), vcvtq_f32_s32(a.v[3]) } };
}
