/* forward: THE forward pass. One entry point for prompts, decode steps, continuous batches and speculative checks: spans. */
#ifndef QUERN_FORWARD_H
#define QUERN_FORWARD_H

#include <stdatomic.h>

#include "runtime/model.h"
#include "runtime/ops.h"

typedef enum { OUT_NONE, OUT_LAST, OUT_ALL } span_out; /* which rows' logits are wanted */

/* A run of tokens of one sequence, at positions seq->len and on; kv_reserve has made room. */
typedef struct span {
    kv_seq *seq;
    const int32_t *tok;
    int n;
    span_out out;
    kv_seq *cross; /* the encoder's output that it reads; NULL where there is no encoder */
    float *dst; /* wanted rows' logits, one after the other: [rows][pad16(n_vocab)] */
} span;

/* Called after each named step when set: x[m][ld], of which n columns count. For finding the first step that differs. */
typedef void tap_fn(void *arg, const char *name, int layer, const float *x, int m, size_t ld, int n);

/* Buffers of one batch of rows, and what is the same for all its layers. */
typedef struct forward_ctx {
    exec ops;
    const model *model;
    int max_rows;
    size_t d_ld, qkv_ld, att_ld, gate_up_ld, ff_ld, vocab_ld, route_ld, coef_ld, per_layer_ld, side_ld; /* floats a row */
    float *x;        /* [max_rows][d_ld] the residual stream */
    float *h;        /* [max_rows][d_ld] a normed copy */
    float *block;    /* [max_rows][d_ld] what a block adds */
    float *qkv;      /* [max_rows][qkv_ld] */
    float *att;      /* [max_rows][att_ld] heads side by side */
    float *gate_up;  /* [max_rows][gate_up_ld] where gates become sparse; else they stay in the workers' caches */
    float *ff;       /* [max_rows][ff_ld] */
    float *streams, *predicted; /* [n_streams][max_rows][d_ld] */
    float *coefs;    /* [max_rows][coef_ld] */
    float *per_layer;/* [max_rows][per_layer_ld] the embeddings of all layers */
    float *own;      /* [per_layer_ld] a token's own row of their table */
    float *side;     /* [max_rows][side_ld] inside a side path */
    float *route;    /* [max_rows][route_ld] the router's logits, then its weights */
    float *gathered, *expert_out; /* [max_rows][d_ld] the rows of one expert */
    int *chosen;     /* [max_rows][n_used] experts of each row, ascending */
    int *expert_row; /* [max_rows] rows of one expert */
    float *cos, *sin;/* [n_ropes][max_rows][n_freq of the longest table] */
    int max_freq;
    int32_t *tok;    /* [max_rows] */
    int *pos, *end;  /* [max_rows] position, and end of the positions it sees */
    int *cross_end;  /* [max_rows] the same in the encoder's output */
    int ctx;         /* of the bias tables */
    int *wanted;     /* [max_rows] rows whose logits are wanted, in order */
    kv_seq **seq, **cross; /* [max_rows] */
    int m;           /* rows of the batch that forward_take took */
    bool encoder;    /* which goes through the encoder's layers */
    tap_fn *tap;
    void *tap_arg;
    atomic_bool *stop; /* read between layers; NULL: never stops */
} forward_ctx;

/* Lays out the buffers (twice: c->base NULL measures). f->ops.pool, ops.k and model are set. */
void forward_layout(forward_ctx *f, carve *c, int max_rows, int ctx);

/* Runs all spans, at most max_rows tokens in all, appends their keys and values to the pages and advances seq->len. Cannot
 * fail; false: stopped by *stop between two layers, and no sequence was advanced. */
bool forward(forward_ctx *f, const span *spans, int n_spans);

/* ---- a pass in steps: for weights that are at hand one layer at a time, for hidden states, and for encoders ----
 * forward_take makes a span the batch of the steps that follow: every row is wanted, seq->len and dst are left alone. What a batch
 * keeps from one step to the next is x (with several streams: streams) and per_layer, buffers of the sizes above that the caller
 * may exchange; so batches can take turns within a layer.
 * An encoder's batch is a whole text, 1 to max_rows tokens. seq: of the encoder's pool (group 0 its layers, group 1 the decoder's
 * cross attention), empty, with all its positions reserved. */
void forward_take(forward_ctx *f, const span *s, bool encoder);
void forward_enter(forward_ctx *f);             /* the embeddings */
bool forward_layer(forward_ctx *f, int l);      /* layers 0, 1, ... of the stack; false: stopped */
const float *forward_leave(forward_ctx *f);     /* the hidden states [n][d_ld] after the final norm, until the next step */
/* The encoder's batch: layer l's keys and values of its hidden states, for the decoder's cross attention. */
void forward_cross(forward_ctx *f, const float *hidden, int l);
/* dst[m][ld] = logits first .. first + n - 1 (first a multiple of 16) of m rows of hidden states; columns up to pad16(n) are written. */
void forward_logits(forward_ctx *f, const float *hidden, int m, int first, int n, float *dst, size_t ld);

#endif
