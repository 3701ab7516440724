/* model: a model file bound to typed tensors, every shape checked against the architecture. It knows no arithmetic: what is
 * done with a tensor stands in forward.c, and happens if and only if the tensor is there. */
#ifndef QUERN_MODEL_H
#define QUERN_MODEL_H

#include "runtime/arch.h"
#include "runtime/kv.h"
#include "weights/file.h"

/* A matrix or vector that is not in the file has data NULL. All pointers are borrowed from the mapping until model_close. */
typedef struct norm_weights {
    const float *w, *b;         /* [d_model]; w NULL: there is no norm here */
} norm_weights;

typedef struct mlp_weights {
    mat gate_up;                /* [2 * pad16(d)][d_model] 16 rows of gate, 16 rows of up, ...; or */
    mat up;                     /* [d][d_model] without a gate */
    mat down;                   /* [d_model][d] */
} mlp_weights;

/* AltUp (Baykal et al. 2023): the streams are predicted before a layer and corrected after it. n = n_streams. */
typedef struct altup_weights {
    norm_weights router_norm;   /* times 1 / d_model */
    mat router;                 /* [n][d_model] */
    mat predict;                /* [n * n][n] row i n + j: what stream i gets of stream j */
    mat correct;                /* [n][n], bias 1 */
    norm_weights scale;         /* w: [d_model] multiplies the corrected stream 0 */
} altup_weights;

typedef struct layer {
    norm_weights attn_norm, attn_post_norm, attn_sum_norm; /* before attention; after it; after the residual sum */
    mat qkv;                    /* [q_rows + 2 kv_rows][d_model] rows of q, k, v, each part padded to 16; bias likewise */
    const float *q_norm, *k_norm; /* before rotation: [head_dim], of each head; or [heads * head_dim]: RMSNorm of all together, */
    const float *q_norm_bias, *k_norm_bias; /* LayerNorm of each head with weights of its own */
    const float *v_norm;        /* [head_dim] of each head of v */
    bool qk_norm_whole;
    mat attn_out;               /* [d_model][n_heads * head_dim] */
    norm_weights cross_norm;    /* attention over the encoder's output: */
    mat cross_q;                /* [q_rows][d_model] */
    mat cross_kv;               /* [2 kv_rows][d_model] of the encoder's output, once a text */
    mat cross_out;              /* [d_model][n_heads * head_dim] */
    int cross_slot;             /* where these keys and values lie in the pages of the encoder's text */
    norm_weights mlp_norm, mlp_post_norm, mlp_sum_norm;
    mlp_weights mlp;            /* dense; or */
    mat router;                 /* [n_experts][d_model] of a mixture of experts */
    mlp_weights *experts;       /* [n_experts] */
    mlp_weights shared;         /* the expert every token goes to, times the sigmoid of */
    mat shared_gate;            /* [1][d_model] */
    mat laurel_left, laurel_right; /* [r][d_model], [d_model][r]: a low-rank path beside attention (LAuReL, Menghani et al. 2024) */
    norm_weights laurel_norm;
    altup_weights altup;
    mat per_layer_gate, per_layer_out; /* [d_per_layer][d_model], [d_model][d_per_layer] */
    norm_weights per_layer_norm;
    float sparsity;             /* of the gates; 0: none */
    int window;                 /* positions seen, 0: all */
    int rope;                   /* rope table, -1: none */
    int kv_group, kv_slot;      /* where its keys and values lie: the page group, and the layer within it */
    bool own_kv;                /* false: it reads an earlier layer's */
} layer;

typedef struct rope_table {
    const float *inv_freq;      /* [n_freq], chosen for the session's context */
    int n_freq;
    float factor;               /* multiplies cos and sin */
} rope_table;

/* What is added to the score of a key by its distance from the query (Raffel et al. 2020). */
typedef struct bias_table {
    const float *file;          /* [n_heads][2 reach + 1] rows padded to 64; NULL: none */
    int reach;                  /* beyond it the last value holds */
    float *expanded;            /* [n_heads][2 ctx]: column ctx + key - query */
} bias_table;

/* What a tensor of the file became. Both NULL: a table that nothing can be put in the place of. */
typedef struct tensor_place {
    mat *matrix;
    const float **vector;
} tensor_place;

typedef struct model {
    file file;
    bool file_mapped; /* from a disk, which has what is dropped from memory; an image made by file_write_image has not */
    tensor_place *places;       /* [file.n_tensors] */
    arch arch;
    arena mem;
    layer *layers, *enc_layers; /* [n_layers], [n_enc_layers] */
    mat embed, output;          /* [n_vocab][d_model]; embed, pos_embed and per_layer_embed are looked up: rows in either layout */
    mat pos_embed;              /* [n_ctx][d_model] added to the embedding */
    mat per_layer_embed;        /* [n_vocab_per_layer][n_layers * d_per_layer] rows, read on demand */
    mat per_layer_proj;         /* [n_layers * d_per_layer][d_model] */
    const float *per_layer_norm;/* [d_per_layer] */
    mat stream_in[8], stream_out[8]; /* [d_model][d_model] to and from the streams 1 .. n_streams - 1 */
    norm_weights embed_norm, final_norm, enc_final_norm;
    mat dense[MAX_DENSE];       /* [n][k of the one before] of a pooled embedding, one after the other */
    int n_dense;
    bias_table rel_bias, enc_rel_bias; /* of all layers of the decoder, of the encoder */
    rope_table *ropes;          /* [n_ropes] */
    int q_rows, kv_rows;        /* pad16(n_heads * head_dim), pad16(n_kv_heads * head_dim) */
    struct { int window, n_layers; } kv_group[KV_MAX_GROUPS];
    int n_kv_groups;
} model;

/* Opens and binds. A missing tensor, a wrong shape, a tensor that this version does not know: one line that says which, what
 * was expected and what was found. */
int model_open(model *m, const char *path, bool copy, err *e); /* copy: file_open_copy */
/* The same where m->file is open already, and nothing else is set; after a failure m is closed. */
int model_bind(model *m, err *e);
void model_close(model *m);

/* Takes the RoPE tables for a session of ctx positions (DESIGN: what depends on the length is chosen once); true: the long ones. */
bool model_choose_ropes(model *m, int ctx);

/* Fills the bias tables for a context. Memory: the model's arena. */
int model_expand_biases(model *m, int ctx, err *e);

/* Bytes of weights that one decode step reads (the embedding is looked up; a tied output is read once). */
uint64_t model_decode_bytes(const model *m);
/* Large tables that are only looked up are not kept in memory: a token reads its row from the file's mapping, and the memory is
 * given back when the row is read. */
bool model_lone_table(const model *m, const mat *table);   /* is it such a table? */
void model_forget_rows(const model *m, const mat *table);  /* gives back what was read of it, if it is one */
uint64_t model_table_bytes(const model *m, uint64_t *row); /* of all such tables; *row: of their rows that one token reads */
/* Multiply-adds of all matrices for one token, without attention scores; with_output: the output matrix too. */
uint64_t model_macs(const model *m, bool with_output);

#endif
