/* operands: what kernels work on: types of weights, matrices, activations, queries against pages. Their layouts are drawn in quant.h
 * (weights) and at kv_store (pages); pad16, pad64 and the letters are those of kernels.h. */
#ifndef QUERN_OPERANDS_H
#define QUERN_OPERANDS_H

#include "runtime/base.h"

enum { PANEL = 16, GROUP = 64, KV_PAGE = 64, ATTN_SEGMENT = 512, ATTN_Q8_MOST = 512 };

typedef enum { W_F32, W_BF16, W_Q8, W_Q4, W_COUNT } wtype;        /* numbers of the file format: never renumber */
typedef enum { LAYOUT_ROWS, LAYOUT_P16 } wlayout;                 /* quant.h draws them. f32: ROWS; else P16, a table that is looked up either */
typedef enum { ACT_SILU, ACT_GELU_TANH, ACT_GELU_ERF, ACT_RELU, ACT_COUNT } act_kind;
typedef enum { KV_F16, KV_F32, KV_Q8 } kv_type;

/* A weight matrix [n][k] as it lies in the file, borrowed from the mapping. */
typedef struct mat {
    const void *data;  /* panels of 16 rows, or plain rows; matmul takes plain rows of f32 only, row_load takes all */
    uint8_t type, layout;
    int n, k;          /* stored rows are pad16(n), stored inputs pad64(k), padding zero */
    float scale;       /* 2^e of the tensor: its f16 group scales times this are the real ones; 1 for bf16, f32 */
    const float *bias; /* [pad16(n)], or NULL */
    const struct lora *lora; /* what adapters add to a product with it (runtime/ops.h); kernels do not look at it */
} mat;

uint64_t mat_bytes(const mat *w); /* as it lies, padding included; 0 of no matrix */
mat mat_rows(const mat *w, int first, int n); /* of panels: outputs first, a multiple of 16, and the n - 1 after it; adapters are not cut */

/* m rows of activations, prepared once and read by every panel of a matmul. */
typedef struct acts {
    int m, k;
    const float *x;    /* [m][ldx] f32, zero from k to pad64(k); for f32 and bf16 weights, and under --exact */
    size_t ldx;
    int8_t *q;         /* [m][pad64(k)] or NULL: then x is used */
    float *scale;      /* [m][groups] */
    int32_t *sum;      /* [m][groups]: sums of q, for kernels whose instruction wants one unsigned side */
} acts;

/* Bytes of one KV head's K block, or V block, in a page; a multiple of 64. */
size_t kv_block_bytes(kv_type type, int hd, bool value);

/* A query vector against one KV head, over part of one segment. */
typedef struct attn_query {
    const float *q;    /* [hd] rotated and multiplied by the score scale */
    const float *bias; /* added to the score of position t: bias[t], or NULL */
    int t0, t1;        /* positions [t0, t1), at least one; t0 / ATTN_SEGMENT == (t1 - 1) / ATTN_SEGMENT, the same for a whole job */
    float *out;        /* out [pad16(hd)] not yet divided by the sum; then max, sum */
} attn_query;

/* Queries that read the same KV head of the same sequence: heads that share it, tokens of a prompt. */
typedef struct attn_job {
    const attn_query *query; /* [n] */
    int n, hd;
    const void *const *page; /* page[t / KV_PAGE] of this sequence; only pages that a query looks into are read */
    size_t k_at, v_at;       /* byte offsets of this layer's and head's K and V blocks in a page */
    kv_type type;
    float softcap;           /* 0: none */
} attn_job;

#endif
