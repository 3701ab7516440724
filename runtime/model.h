/* model: a model file bound to typed tensors, every shape checked against the architecture. It knows no arithmetic: what is
 * done with a tensor stands in forward.c, and happens if and only if the tensor is there. */
#ifndef QUERN_MODEL_H
#define QUERN_MODEL_H

#include "runtime/arch.h"
#include "runtime/kv.h"
#include "weights/file.h"

/* A matrix or vector that is not in the file has data NULL. All pointers are borrowed from the mapping until model_close. */
typedef struct layer {
    const float *attn_norm;     /* [d_model] */
    mat qkv;                    /* [q_rows + 2 kv_rows][d_model] rows of q, k, v, each part padded to 16; bias likewise */
    const float *q_norm, *k_norm; /* [head_dim] RMSNorm of each head, before rotation */
    mat attn_out;               /* [d_model][n_heads * head_dim] */
    const float *mlp_norm;      /* [d_model] */
    mat gate_up;                /* [2 * pad16(d_ff)][d_model] 16 rows of gate, 16 rows of up, ... */
    mat down;                   /* [d_model][d_ff] */
    int window;                 /* positions seen, 0: all */
    int rope;                   /* rope table, -1: none */
    int kv_group, kv_slot;      /* where its keys and values lie: the page group, and the layer within it */
} layer;

typedef struct rope_table {
    const float *inv_freq;      /* [n_freq], chosen for the session's context */
    int n_freq;
    float factor;               /* multiplies cos and sin */
} rope_table;

typedef struct model {
    file file;
    arch arch;
    arena mem;
    layer *layers;              /* [n_layers] */
    mat embed, output;          /* [n_vocab][d_model] */
    const float *final_norm;    /* [d_model] */
    rope_table *ropes;          /* [n_ropes] */
    int q_rows, kv_rows;        /* pad16(n_heads * head_dim), pad16(n_kv_heads * head_dim) */
    struct { int window, n_layers; } kv_group[KV_MAX_GROUPS];
    int n_kv_groups;
} model;

/* Opens and binds. A missing tensor, a wrong shape, a tensor that this version does not know: one line that says which, what
 * was expected and what was found. */
int model_open(model *m, const char *path, err *e);
void model_close(model *m);

/* Takes the RoPE tables for a session of ctx positions (DESIGN: what depends on the length is chosen once); true: the long ones. */
bool model_choose_ropes(model *m, int ctx);

/* Bytes of weights that one decode step reads (the embedding is looked up; a tied output is read once). */
uint64_t model_decode_bytes(const model *m);
/* Multiply-adds of all matrices for one token, without attention scores; with_output: the output matrix too. */
uint64_t model_macs(const model *m, bool with_output);

#endif
