/* kernels: the arithmetic of quern, one constant table of single-threaded functions per instruction set.
 *
 * Every operation has ONE definition, to the bit; it stands above its entry here. All tables implement it, so a result
 * does not depend on the table, on the number of rows in a call, or on how work is cut among threads (bf16 weights may
 * differ between tables, never within one). Common terms of the definitions:
 *   fma        fmaf: one rounding.
 *   lanes16    a reduction over n plain elements: 16 partial results, lane i takes elements i, i+16, ... in order, starting
 *              from +0; then one tree: lane i += lane i+8, then i+4, i+2, i+1.
 *   pad16/64   n rounded up to a multiple of 16 / 64. Buffers are padded so and the padding holds zeros.
 *   NaN        any NaN equals any other: its sign and payload are the processor's.
 * kernels/ knows no layers, files, threads or models. m token rows, n output rows, k inputs, p panel of 16 rows,
 * g group of 64 inputs, h head, hd head dimension, t position. */
#ifndef QUERN_KERNELS_H
#define QUERN_KERNELS_H

#include "kernels/operands.h"

/* y[i][j] for rows i of a, and outputs j of panels [p0, p1) of w: columns 16*p0 to 16*p1, padding included.
 *   int8 activations (a->q): acc = +0; for g in order: acc = fma((float)dot_g, w_scale * x_scale, acc), dot_g the exact
 *     integer sum over the group; y = acc * w->scale (+ bias).
 *   f32 activations, P16 weights: chain c in 0..3: acc_c = fma(w[k], x[k], acc_c) for k = c, c+4, ... below pad64(k), with
 *     w[k] = (float)q * (float)f16 scale (exact); y = ((acc_0 + acc_1) + (acc_2 + acc_3)) * w->scale (+ bias).
 *   f32 weights: y = lanes16 over pad64(k) of fma(w[k], x[k], lane) (+ bias). */
typedef void matmul_fn(const mat *w, const acts *a, float *y, size_t ldy, int p0, int p1);

typedef struct kernels {
    const char *name; /* "scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "amx", "neon", "dotprod", "i8mm" */

    matmul_fn *matmul[W_COUNT][2]; /* [type][a->q != NULL]; f32 and bf16 read a->x in both */

    /* x[k] (k below pad64(k)): row `row` of w in f32, times w->scale. For embeddings. */
    void (*row_load)(const mat *w, int row, float *x);

    /* One row of k floats to int8 in groups of 64: amax over the group's |x|; scale = amax / 127; q = rint(x * (127 / amax)),
     * ties to even; a group with amax below 2^-100 is zero with scale 0; a group with an infinity or NaN gets q = 0 and
     * scale NaN, so that every output of the row is NaN. sum = sum of q. Writes all of pad64(k). */
    void (*quantize)(const float *x, int k, int8_t *q, float *scale, int32_t *sum);

    /* y = (x * r) * w, r = 1 / sqrtf(lanes16(fma(x, x, lane)) / n + eps). w may be NULL (ones). y may be x. */
    void (*rmsnorm)(float *y, const float *x, const float *w, int n, float eps);

    /* mean = lanes16(x + lane) / n; c = x - mean; r = 1 / sqrtf(lanes16(fma(c, c, lane)) / n + eps);
     * y = fma(c * r, w, b); b may be NULL (then y = c * r * w). y may be x. */
    void (*layernorm)(float *y, const float *x, const float *w, const float *b, int n, float eps);

    /* Rotates the first 2 * n_freq elements of each of n_heads vectors (ld floats apart), half-split: with a = x[i],
     * b = x[i + n_freq]: x[i] = fma(-b, sin, a * cos), x[i + n_freq] = fma(a, sin, b * cos). */
    void (*rope)(float *x, size_t ld, int n_heads, const float *cos, const float *sin, int n_freq);

    /* y[i] = act(gate) * up for n outputs; gate_up interleaves panels: 16 of gate, 16 of up, ... (n a multiple of 16).
     * silu x / (1 + exp(-x)); gelu_tanh 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); gelu_erf 0.5 x (1 + erf(x / sqrt 2)). */
    void (*glu)(act_kind kind, float *y, const float *gate_up, int n);
    void (*act)(act_kind kind, float *x, int n); /* in place */

    /* The n gates of gate_up (interleaved as for glu): mean = lanes16(x + lane) / n; deviation = sqrtf(lanes16(fma(c, c, lane)) / n)
     * with c = x - mean; x = relu(x - fma(deviation, sparsity, mean)). */
    void (*sparsify)(float *gate_up, int n, float sparsity);
    float (*mean_square)(const float *x, int n);                  /* lanes16(fma(x, x, lane)) / n */
    void (*mul)(float *x, const float *y, int n);                 /* x = x * y */

    void (*add)(float *x, const float *y, float scale, int n);    /* x = fma(y, scale, x) */
    /* m rows of x: x[i][j] = fma(y[r][j], s[i][r], x[i][j]) for r = 0, 1, ... in order, as so many adds; n a multiple of 16. */
    void (*add_ranks)(float *x, size_t ldx, int m, const float *y, size_t ldy, const float *s, size_t lds, int n_ranks, int n);
    void (*scale)(float *x, float s, int n);                      /* x = x * s */
    void (*softmax)(float *x, int n);                             /* x = exp(x - max) / lanes16(exp(x - max) + lane) */
    void (*softcap)(float *x, float cap, int n);                  /* x = cap * tanh(x / cap) */

    /* One position of one KV head into its page's blocks, written by `kv_type`, padding included. slot = t % 64.
     *   f16, f32: K is [hd][64 positions] (positions in lanes), V [64][pad16(hd)]; f16 rounds to nearest even.
     *   q8: int8 with a scale a position: scale = amax / 127, q = rint(x * (127 / amax)) over all of hd, with the rules of
     *   `quantize` for small and non-finite ones. K is [pad16(hd) / 4][64 positions][4], V [64 / 4][pad16(hd)][4 positions]:
     *   quads of panels whose outputs are positions, and elements. After each block its [64] f32 scales. */
    void (*kv_store)(kv_type type, void *k_block, void *v_block, int slot, const float *k, const float *v, int hd);

    /* f16, f32: s_t = chain over d in order of fma(q[d], k[t][d], s), from +0.
     * q8: q to int8 as a position is; s_t = (float)dot * (k_scale[t] * q_scale), dot the exact integer sum.
     * Then softcap; then + bias. max over t in [t0, t1); p_t = exp(s_t - max), 0 below exp(-87) (v16_exp_weight);
     * sum = lanes16 over position t % 16 of p.
     * f16, f32: out[d] = chain over t in order of fma(p_t, v[t][d], out).
     * q8: page after page: w_t = p_t * v_scale[t] of the page's positions in [t0, t1), 0 for its others, to int8 as `quantize` does a group;
     * out[d] = fma((float)dot, w_scale, out[d]).
     * max is never -0; a max of -inf (all masked) is subtracted as 0, so sum and out are 0. A NaN score, or one of +inf, makes
     * max, sum and out NaN. q8 takes hd up to ATTN_Q8_MOST. */
    void (*attention)(const attn_job *job);

    /* Merges two runs of positions, a before b, into a, each as a query's out: [n] values, max, sum. max = larger;
     * ea = exp(a.max - max), eb = exp(b.max - max); sum = fma(b.sum, eb, a.sum * ea); out likewise. n = pad16(hd). A max of -inf
     * is subtracted as 0. */
    void (*attn_merge)(float *a, const float *b, int n);

    /* Probes for bench: they measure the machine, not the model. */
    /* streams bytes (a multiple of 256, 64-byte aligned); returns a checksum */
    uint64_t (*probe_read)(const void *p, size_t bytes);
    /* runs reps rounds of the table's best f32 fma; returns the operations done (2 a multiply-add) */
    double (*probe_f32)(long reps);
    double (*probe_int8)(long reps);  /* the same for its best int8 dot product (for tables without one: what it uses instead) */
    double (*probe_bf16)(long reps);  /* the same for what it uses with bf16 weights */
} kernels;

/* The tables compiled in, best last, NULL at the end; kernels_usable says whether this CPU and system can run one. */
const kernels *const *kernels_all(void);
bool kernels_usable(const kernels *k);
const kernels *kernels_named(const char *name); /* NULL if not compiled in */

/* Chooses the table of this process: `want`, else $QUERN_KERNELS, else the best. An unknown or unusable name is an error
 * that lists the usable ones: never a silent fallback. */
int kernels_init(const char *want, err *e);
const kernels *kernels_get(void); /* after kernels_init */

/* The name of the CPU for reports ("AMD EPYC ..."), and of what it can ("avx2 fma f16c avx512vnni ..."). */
void cpu_describe(char *out, size_t n);

/* sin and cos of x (radians, any finite double below 2^30 in size) by our own polynomial in double: the same bits on
 * every machine. Used for the RoPE tables of a forward pass. */
void sincos_exact(double x, float *sin_out, float *cos_out);

#endif
