/* dot_scalar: a group's integer sums in plain C: what every other dot_*.inc.h and k_*.c finds faster. */
typedef struct dot { int32_t v[16]; } dot;
typedef b64 quad;

INLINE quad quad_of(wtype t, b64 w) { (void)t; return w; }
INLINE dot dot_start(wtype t, int32_t sum) { dot a; for (int i = 0; i < 16; i++) a.v[i] = t == W_Q4 ? -8 * sum : 0; return a; }
INLINE dot dot_step(wtype t, dot a, quad w, x4 low, x4 high) {
    for (int i = 0; i < 16; i++)
        for (int c = 0; c < 4; c++) {
            if (t == W_Q4) a.v[i] += (w.b[4 * i + c] & 15) * low.b[c] + (w.b[4 * i + c] >> 4) * high.b[c];
            else a.v[i] += (int8_t)w.b[4 * i + c] * low.b[c];
        }
    return a;
}
INLINE dot dot_step_positive(dot d, b64 w, x4 x) { return dot_step(W_Q8, d, quad_of(W_Q8, w), x, x); }
INLINE dot dot_join(wtype t, dot a, dot b) { (void)t; for (int i = 0; i < 16; i++) a.v[i] += b.v[i]; return a; }
INLINE v16 dot_end(wtype t, dot a, int32_t sum) {
    (void)t, (void)sum;
    v16 r;
    for (int i = 0; i < 16; i++) r.v[i] = (float)a.v[i];
    return r;
}
