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
    for (int i = 0; i < PROBE_CHAINS; i++) keep = keep + v16_sum(acc[i]);
    return (double)reps * PROBE_CHAINS * 32;
}

static double probe_int8(long reps) {
    static const uint8_t weights[64] = { 1, 2, 3, 4, 5 };
    static const int8_t activations[64] = { 1, 2, 3, 4, 5 };
    const int8_t *x = activations;
    q8_acc acc[PROBE_CHAINS];
    q8_weights w = q8_prepare(b64_load(weights));
    UNROLL for (int i = 0; i < PROBE_CHAINS; i++) acc[i] = q8_start(i);
    for (long r = 0; r < reps; r++) {
        UNROLL for (int i = 0; i < PROBE_CHAINS; i++) acc[i] = q8_step(acc[i], w, x);
        __asm__ volatile("" : "+r"(x)); /* else gcc 12 copies every chain to another register and back, at a quarter of the speed */
    }
    volatile float keep = 0;
    for (int i = 0; i < PROBE_CHAINS; i++) keep = keep + v16_sum(q8_end(acc[i]));
    return (double)reps * PROBE_CHAINS * 128;
}
