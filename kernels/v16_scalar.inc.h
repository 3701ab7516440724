/* v16 in plain C: 16 floats, and the panel's integer dot products, as every other v16_*.inc.h spells them in registers.
 * This text is the meaning of the operations; it needs nothing but C11, and where a CPU has no fma, libm's rounds right. */
#include "kernels/quant.h"

#include <math.h>
#include <string.h>

#define UNROLL /* v16 is an array here: unrolling and inlining everything buys nothing */
#define INLINE static inline

typedef struct v16 { float v[16]; } v16;
typedef struct b64 { uint8_t b[64]; } b64; /* a quad of a panel: [16 rows][4 bytes] */

/* How many rows share the registers of one block, and how many chains; see matmul.inc.h. */
enum { ROWS_Q4 = 2, ROWS_Q8 = 2, PANELS_INT = 1, CHAINS_INT = 3, ROWS_P16 = 2, CHAINS_P16 = 4, ROWS_F32 = 2, OUTS_F32 = 1,
       ATTN_QUERIES = 2, ATTN_INT_QUERIES = 2, ATTN_VECS = 1, PROBE_CHAINS = 2, PROBE_DOTS = 2 };

#define EACH for (int i = 0; i < 16; i++)

INLINE v16 v16_set1(float x) { v16 r; EACH r.v[i] = x; return r; }
INLINE v16 v16_load(const float *p) { v16 r; EACH r.v[i] = p[i]; return r; }
INLINE void v16_store(float *p, v16 a) { EACH p[i] = a.v[i]; }
INLINE v16 v16_load_i32(const int32_t *p) { v16 r; EACH r.v[i] = (float)p[i]; return r; } /* for tables with tiles */
INLINE v16 v16_add(v16 a, v16 b) { EACH a.v[i] += b.v[i]; return a; }
INLINE v16 v16_sub(v16 a, v16 b) { EACH a.v[i] -= b.v[i]; return a; }
INLINE v16 v16_mul(v16 a, v16 b) { EACH a.v[i] *= b.v[i]; return a; }
INLINE v16 v16_div(v16 a, v16 b) { EACH a.v[i] /= b.v[i]; return a; }
INLINE v16 v16_fma(v16 a, v16 b, v16 c) { EACH c.v[i] = fmaf(a.v[i], b.v[i], c.v[i]); return c; }
INLINE v16 v16_fnma(v16 a, v16 b, v16 c) { EACH c.v[i] = fmaf(-a.v[i], b.v[i], c.v[i]); return c; }
/* a > b ? x : y; false where either is NaN */
INLINE v16 v16_if_gt(v16 a, v16 b, v16 x, v16 y) { EACH y.v[i] = a.v[i] > b.v[i] ? x.v[i] : y.v[i]; return y; }
/* a > b ? a : b, and a < b ? a : b: b where either is NaN */
INLINE v16 v16_larger(v16 a, v16 b) { EACH b.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return b; }
INLINE v16 v16_smaller(v16 a, v16 b) { EACH b.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return b; }

INLINE uint32_t scalar_bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
INLINE float scalar_float(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
INLINE v16 v16_abs(v16 a) { EACH a.v[i] = scalar_float(scalar_bits(a.v[i]) & 0x7fffffff); return a; }
INLINE v16 v16_copysign(v16 a, v16 s) {
    EACH a.v[i] = scalar_float((scalar_bits(a.v[i]) & 0x7fffffff) | (scalar_bits(s.v[i]) & 0x80000000));
    return a;
}
/* bits << 23: of 1.5 * 2^23 + 127 + n it makes 2^n */
INLINE v16 v16_shl23(v16 a) { EACH a.v[i] = scalar_float(scalar_bits(a.v[i]) << 23); return a; }

/* lane i += lane i+8, then i+4, i+2, i+1 */
INLINE float v16_sum(v16 a) {
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) a.v[i] += a.v[i + n];
    return a.v[0];
}
INLINE float v16_max(v16 a) { /* NaN lanes aside, if they are not first */
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) a.v[i] = a.v[i + n] > a.v[i] ? a.v[i + n] : a.v[i];
    return a.v[0];
}
/* the largest magnitude of 64 floats as bits, so that infinities and NaNs are the largest of all */
INLINE uint32_t v16_max_magnitude(v16 a, v16 b, v16 c, v16 d) {
    uint32_t top = 0;
    EACH {
        uint32_t m[4] = { scalar_bits(a.v[i]), scalar_bits(b.v[i]), scalar_bits(c.v[i]), scalar_bits(d.v[i]) };
        for (int j = 0; j < 4; j++) top = (m[j] & 0x7fffffff) > top ? m[j] & 0x7fffffff : top;
    }
    return top;
}

INLINE v16 v16_from_f16(const uint16_t *p) { v16 r; EACH r.v[i] = f16_to_f32(p[i]); return r; }
INLINE void v16_to_f16(uint16_t *p, v16 a) { EACH p[i] = f32_to_f16(a.v[i]); }
/* |a| <= 127.5, nearest, ties to even: the low byte of the sum with 1.5 * 2^23 */
INLINE void v16_to_i8(int8_t *p, v16 a) { EACH p[i] = (int8_t)(uint8_t)scalar_bits(a.v[i] + 12582912.0f); }

/* Byte c of each row of a quad as floats: signed bytes, nibbles less 8, halves of a bf16 pair (c is 0 or 1). */
INLINE v16 v16_from_q8(const uint8_t *quad, int c) { v16 r; EACH r.v[i] = (int8_t)quad[4 * i + c]; return r; }
INLINE v16 v16_from_q4(const uint8_t *quad, int c, int high) {
    v16 r;
    EACH r.v[i] = (float)((quad[4 * i + c] >> 4 * high & 15) - 8);
    return r;
}
INLINE v16 v16_from_bf16(const uint8_t *pair, int c) {
    v16 r;
    EACH r.v[i] = scalar_float((uint32_t)pair[4 * i + 2 * c] << 16 | (uint32_t)pair[4 * i + 2 * c + 1] << 24);
    return r;
}

INLINE b64 b64_load(const void *p) { b64 r; memcpy(r.b, p, 64); return r; }
INLINE b64 b64_xor(b64 a, b64 b) { for (int i = 0; i < 64; i++) a.b[i] ^= b.b[i]; return a; }
INLINE uint64_t b64_fold(b64 a) { uint64_t w[8], s = 0; memcpy(w, a.b, 64); for (int i = 0; i < 8; i++) s ^= w[i]; return s; }
/* Four activation bytes. */
typedef struct x4 { int8_t b[4]; } x4;
INLINE x4 bytes4(const int8_t *x) { x4 r; memcpy(r.b, x, 4); return r; }
#define HIDE(x) __asm__("" : "+m"(x)) /* the compiler no longer knows the value, and must have it here */
#undef EACH
