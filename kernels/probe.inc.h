/* probe: the machine's limits as this table's instructions meet them. Part of generic.inc.h. */

static uint64_t probe_read(const void *p, size_t bytes) {
    const char *at = p, *end = at + bytes;
    b64 a = b64_load(at), b = a, c = a, d = a;
    for (; at < end; at += 256) {
        UNROLL for (int i = 0; i < 256; i += 64) PREFETCH(at + i + 2048);
        a = b64_xor(a, b64_load(at));
        b = b64_xor(b, b64_load(at + 64));
        c = b64_xor(c, b64_load(at + 128));
        d = b64_xor(d, b64_load(at + 192));
    }
    return b64_fold(a) ^ b64_fold(b) ^ b64_fold(c) ^ b64_fold(d);
}

static double probe_f32(long reps) {
    v16 acc[PROBE_CHAINS], x = v16_set1(0.999f), y = v16_set1(1e-3f);
    UNROLL for (int i = 0; i < PROBE_CHAINS; i++) acc[i] = v16_set1(1 + (float)i);
    for (long r = 0; r < reps; r++)
        UNROLL for (int i = 0; i < PROBE_CHAINS; i++) acc[i] = v16_fma(acc[i], x, y);
    volatile float keep = 0;
    UNROLL for (int i = 0; i < PROBE_CHAINS; i++) keep = keep + v16_sum(acc[i]);
    return (double)reps * PROBE_CHAINS * 32;
}

/* HIDE keeps the compiler from computing a product once for all chains and rounds. */
static inline double probe_int8(long reps) {
    const int8_t bytes[4] = { 3, -2, 1, 5 };
    uint8_t weights[64];
    for (int i = 0; i < 64; i++) weights[i] = (uint8_t)i;
    dot acc[PROBE_DOTS];
    quad w = quad_of(W_Q4, b64_load(weights)); /* two products a byte: where q8 takes more steps than that, this is the limit of both */
    x4 x = bytes4(bytes);
    UNROLL for (int i = 0; i < PROBE_DOTS; i++) acc[i] = dot_start(W_Q4, i);
    for (long r = 0; r < reps; r++)
        UNROLL for (int i = 0; i < PROBE_DOTS; i++) {
            HIDE(x);
            acc[i] = dot_step(W_Q4, acc[i], w, x, x);
        }
    volatile float keep = 0;
    UNROLL for (int i = 0; i < PROBE_DOTS; i++) keep = keep + v16_sum(dot_end(W_Q4, acc[i], i));
    return (double)reps * PROBE_DOTS * 256;
}
