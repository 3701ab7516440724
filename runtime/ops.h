/* ops: the operations of a forward pass on m rows, spread over the pool's threads. Between forward.c, which says what is
 * computed, and kernels/, which says how: here is only how the work is cut. Cuts never change a result. */
#ifndef QUERN_OPS_H
#define QUERN_OPS_H

#include "kernels/kernels.h"
#include "runtime/kv.h"
#include "runtime/pool.h"

/* What an adapter adds to a matrix (LoRA, Hu et al. 2021): y += b^T (scale * (a x)). Of each output, in the order of the ranks:
 * y = fma(b[r][j], (a x)[r] * scale, y), with a x as any f32 product: one arithmetic here too. The next adapter comes after it. */
typedef struct lora {
    mat a;                   /* [r][k] f32 */
    const float *b;          /* [r][ldb] what each rank adds to output j; zero from n to pad16(n) */
    size_t ldb;
    float scale;
    const struct lora *next; /* NULL: the last */
} lora;

/* Room for rows in int8 (kernels.h: acts). */
typedef struct int8_rows {
    int8_t *q;           /* [max_rows][pad64(max_k)] */
    float *scale;        /* [max_rows][groups] */
    int32_t *sum;        /* [max_rows][groups] */
} int8_rows;

/* How to compute: the table, the threads, and scratch for prepared activations. */
typedef struct exec {
    const kernels *k;
    pool *pool;
    bool exact;          /* f32 activations with quantised weights */
    int8_rows plain, normed, inner; /* of the product under way; of the latest ops_norm and ops_inner */
    float *inner_worker; /* [workers] gates and ups of a block, see ops_inner */
    float *attn_part;    /* partial results of attention segments, see ops_attention */
    size_t attn_part_floats;
    int max_queries;     /* of one attention kernel call */
    float *attn_worker;  /* [workers] results of max_queries, twice */
    size_t attn_worker_floats;
    attn_query *attn_query; /* [workers][max_queries] */
    int *attn_block;     /* [max_rows + 1] first row of each block of rows of one sequence */
    uint64_t bytes, macs; /* done so far: weights and cache that were read, multiply-adds of matrices and attention (padding left out) */
    int max_ranks;       /* of all adapters of one matrix, each rounded up to 16, set before ops_layout; 0: none */
    float *ranks;        /* [max_rows][max_ranks] a x of one matrix and its adapters */
    /* Where set, called before each product of the model's matrices: to fetch weights that are not at hand yet, or to look at
     * their inputs. NULL wherever a whole model is there. */
    void (*before)(void *arg, const mat *w, const float *in, size_t ldx, int m);
    void *before_arg;
} exec;

/* Lays the scratch out (twice: c->base NULL measures). max_k, d, d_ff: the most inputs of any product, of a norm, of an MLP's second
 * matrix; n_heads x hd: of all query heads; ctx: for long decode steps. */
void ops_layout(exec *x, carve *c, int max_rows, int max_k, int d, int d_ff, int n_heads, int n_kv_heads, int hd, int ctx);

/* m rows of k activations, zero from k to pad64(k), as products take them. Where what made them knew their reader, they are there in int8
 * as well, made while a row lay in the cache and read by as many products as like; else each product that wants it does so itself. */
acts ops_rows(const float *x, size_t ldx, int m, int k);
/* y[m][ldy] = a times w, columns 0 to pad16(n), and what w's adapters add. */
void ops_matmul(exec *x, const mat *w, const acts *a, float *y, size_t ldy);
/* y[m][ldy] = act(gate) * up, gated, or act(up), of the product a times w: the inner activations of an MLP, k of the matrix `reader`,
 * zeros from there to pad64(k). The product itself stays in the cache. int8 holds until the next ops_inner. */
acts ops_inner(exec *x, const mat *w, bool gated, act_kind kind, const acts *a, const mat *reader, float *y, size_t ldy);
/* kind 0: RMSNorm, 1: LayerNorm; b may be NULL. y may be in. reader: the matrix that the rows are for, or NULL; int8 holds until the
 * next norm with one. */
acts ops_norm(exec *x, int kind, float *y, const float *in, size_t ld, int m, const float *w, const float *b, int n, float eps, const mat *reader);
void ops_embed(exec *x, const mat *embed, const int32_t *tok, int m, float *y, size_t ld, float scale);
/* y[m][n] = act(gate) * up, zeros from n to pad64(n), of gates that become sparse first (kernels.h: sparsify). */
void ops_sparse_glu(exec *x, act_kind kind, float *y, size_t ldy, float *gate_up, size_t ldx, int m, int n, float sparsity);
void ops_act(exec *x, act_kind kind, float *y, size_t ld, int m, int n); /* in place; zeros from n to pad64(n) */
/* Router logits [m][n] to weights: softmax, the n_used largest kept (ties: the lower number; renorm: scaled to sum to 1), the
 * others 0; chosen[m][n_used] are their numbers, ascending. */
void ops_route(exec *x, float *route, size_t ld, int m, int n, int n_used, bool renorm, int *chosen);
void ops_scale(exec *x, float *y, size_t ld, int m, int n, float s);
void ops_add(exec *x, float *y, const float *in, size_t ld, int m, int n, float scale);

/* cos and sin [m][n_freq] of the rows' positions, times factor. */
void ops_rope_table(exec *x, const float *inv_freq, int n_freq, float factor, const int *pos, int m, float *cos, float *sin);

/* sum[d] takes the rows first .. first + n - 1 of a text, hidden[n][ld]: of pooling 1, 2, 3 its first, the sum or the last so far. */
void ops_pool(double *sum, const float *hidden, size_t ld, int first, int n, int d, int pooling);
void ops_pooled(const double *sum, int n, int d, bool normalize, float *out); /* out[d] = sum / n, scaled to length 1 if asked */

/* For m rows of fused q, k, v: norms of heads, rotation, scale of q, and k and v into the pages. */
typedef struct qkv_rows {
    float *qkv;                /* [m][ld] */
    size_t ld;
    int m, n_heads, n_kv_heads, hd, k_at, v_at; /* columns where k and v begin */
    const float *q_norm, *k_norm; /* NULL: none; of each head; norm_whole: RMSNorm of all together, LayerNorm of each with its own */
    const float *q_norm_bias, *k_norm_bias;
    int norm_kind;             /* 0: RMSNorm, 1: LayerNorm */
    bool norm_whole;
    const float *v_norm;
    float eps, attn_scale;
    const float *cos, *sin;    /* [m][n_freq] NULL: no rotation */
    int n_freq;
    kv_seq *const *seq;        /* [m] the sequence of each row */
    const int *pos;            /* [m] */
    int group, slot;           /* the layer's place in a page */
    bool store;                /* false: another layer's keys and values are read */
} qkv_rows;
void ops_rope_append(exec *x, const qkv_rows *r);

/* y[m][ldy] = attention of each row's heads over a sequence, positions kv_first(window, pos) to end - 1. */
typedef struct attn_rows {
    const float *q;            /* [m][ldq] */
    size_t ldq;
    float *y;                  /* [m][ldy] heads side by side */
    size_t ldy;
    int m, n_heads, n_kv_heads, hd, window;
    float softcap;
    kv_seq *const *seq;        /* [m] */
    const int *pos, *end;      /* [m] */
    const float *bias;         /* [n_heads][ld_bias] column bias_zero + key - query; NULL: none */
    size_t ld_bias;
    int bias_zero;
    int group, slot;
} attn_rows;
void ops_attention(exec *x, const attn_rows *r);

#endif
