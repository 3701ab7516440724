/* arch: what a model file says of its architecture. One list of fields makes the struct, the reader, the writer, inspect
 * and the table in weights/FORMAT.md. Rules: a number has a neutral default; what varies by layer is a vector of n_layers;
 * an operation happens if and only if its tensor is in the file; nothing here names a model family for the runtime to ask. */
#ifndef QUERN_ARCH_H
#define QUERN_ARCH_H

#include "runtime/base.h"

/* X(name, default, min, max, what): whole numbers. A default below min means: required. */
#define ARCH_INTS(X) \
    X(n_layers,    -1, 0, 1024,      "decoder layers; 0: an encoder alone") \
    X(n_enc_layers, 0, 0, 1024,      "encoder layers, which see the whole input at once; 0: a decoder alone") \
    X(d_model,      0, 1, 1 << 20,   "width of the residual stream") \
    X(n_heads,      0, 1, 4096,      "query heads") \
    X(n_kv_heads,   0, 1, 4096,      "key/value heads; divides n_heads") \
    X(head_dim,     0, 1, 4096,      "dimension of a head") \
    X(d_ff,         0, 1, 1 << 22,   "inner dimension of the MLP; the largest where layers differ") \
    X(n_vocab,      0, 1, 1 << 24,   "rows of the embedding and of the output matrix") \
    X(n_ctx,        0, 1, 1 << 28,   "positions the model was made for") \
    X(act,          0, 0, 3,         "0 silu, 1 gelu (tanh), 2 gelu (erf), 3 relu") \
    X(norm,         0, 0, 1,         "0 RMSNorm, 1 LayerNorm") \
    X(parallel,     0, 0, 1,         "1: attention and MLP read the same input and are added together") \
    X(n_experts,    0, 0, 4096,      "experts of a mixture; 0: none") \
    X(n_used,       0, 0, 64,        "experts that each token goes to") \
    X(d_expert,     0, 0, 1 << 22,   "inner dimension of an expert") \
    X(d_shared,     0, 0, 1 << 22,   "inner dimension of the expert that every token goes to; 0: none") \
    X(renorm,       0, 0, 1,         "1: the chosen experts' weights are scaled to sum to 1") \
    X(n_streams,    1, 1, 8,         "copies of the residual stream (AltUp)") \
    X(d_per_layer,  0, 0, 1 << 16,   "width of the per-layer embeddings; 0: none") \
    X(n_vocab_per_layer, 0, 0, 1 << 24, "rows of the per-layer embeddings; ids beyond take row 0") \
    X(n_ropes,      0, 0, 64,        "tensors rope.0, rope.1, ...: inverse frequencies") \
    X(rope_ctx,     0, 0, 1 << 28,   "a session with a longer --ctx takes the tables rope.N.long where they exist; 0: never") \
    X(decoder_start, -1, -1, 1 << 24, "id that begins the decoder's text where there is an encoder; -1: none") \
    X(pooling,      0, 0, 3,         "embedding of a text: 0 none, 1 its first token, 2 the mean, 3 its last token") \
    X(normalize,    0, 0, 1,         "1: embeddings are scaled to length 1") \
    X(dense_tanh,   0, 0, 15,        "bit I: tanh follows the matrix dense.I, which follows pooling") \
    X(bos,         -1, -1, 1 << 24,  "id that begins a text, for files without a tokenizer; -1: none")

/* Real numbers. */
#define ARCH_FLOATS(X) \
    X(norm_eps,       1e-5, 0, 1,       "added to the mean square in every norm") \
    X(attn_scale,     0,    0, 1e6,     "multiplies query-key products") \
    X(attn_softcap,   0,    0, 1e6,     "scores become cap * tanh(score / cap); 0: none") \
    X(embed_scale,    1,    -1e9, 1e9,  "multiplies the embedding") \
    X(per_layer_scale, 1, -1e9, 1e9, "multiplies the per-layer embedding") \
    X(residual_scale, 1,    -1e9, 1e9,  "multiplies what each block adds to the residual stream") \
    X(logit_scale,    1,    -1e9, 1e9,  "multiplies the logits") \
    X(logit_softcap,  0,    0, 1e9,     "logits become cap * tanh(logit / cap); 0: none")

/* Vectors of whole numbers: X(name, length, default, min, max, what). */
#define ARCH_INT_VECTORS(X) \
    X(ff,       n_layers, 0,  0, 1 << 22, "inner dimension of the layer's MLP; 0: d_ff") \
    X(window,   n_layers, 0,  0, 1 << 28, "positions a layer sees, itself included; 0: all") \
    X(rope,     n_layers, 0, -1, 63,      "the layer's rope table; -1: no rotation") \
    X(kv_layer, n_layers, -1, -1, 1023,   "the layer whose keys and values this one reads; -1: its own")

/* Vectors of real numbers: they multiply cos and sin of a rope table (yarn, longrope). */
#define ARCH_FLOAT_VECTORS(X) \
    X(sparsity,         n_layers, 0, -100, 100, "gates below mean + sparsity * deviation are zero, the others less by that; 0: off") \
    X(rope_factor,      n_ropes, 1, 0, 1e6, "factor of rope.N") \
    X(rope_factor_long, n_ropes, 1, 0, 1e6, "factor of rope.N.long")

/* The checkpoint's own defaults for generating: X(type, name, key, none, min, max). type: a C type; key: the name in its
 * generation_config.json, NULL: not a number there; none: it does not say, or says what does nothing. */
#define ARCH_SAMPLING(X) \
    X(float, temperature,          "temperature",          -1, 0, 1e6) \
    X(float, top_p,                "top_p",                -1, 0, 1e6) \
    X(float, min_p,                "min_p",                -1, 0, 1e6) \
    X(float, repeat_penalty,       "repetition_penalty",   -1, 0, 1e6) \
    X(int,   top_k,                "top_k",                -1, 0, 1e6) \
    X(int,   num_beams,            "num_beams",             1, 1, 1e6) /* more than 1: beam search */ \
    X(float, length_penalty,       "length_penalty",        1, -1e3, 1e3) /* of a beam search's hypotheses */ \
    X(int,   early_stopping,       NULL,                    0, 0, 2) /* of a beam search: 0 false, 1 true, 2 never */ \
    X(int,   no_repeat_ngram_size, "no_repeat_ngram_size",  0, 0, 1e6) \
    X(int,   min_length,           "min_length",            0, 0, 1e9) /* the prompt counted; of an encoder-decoder, the decoder's */ \
    X(int,   min_new_tokens,       "min_new_tokens",        0, 0, 1e9)

enum { MAX_EOS = 16, MAX_DENSE = 4 };

typedef struct arch {
#define X(name, def, min, max, what) int name;
    ARCH_INTS(X)
#undef X
#define X(name, def, min, max, what) float name;
    ARCH_FLOATS(X)
#undef X
#define X(name, length, def, min, max, what) int *name;
    ARCH_INT_VECTORS(X)
#undef X
#define X(name, length, def, min, max, what) float *name;
    ARCH_FLOAT_VECTORS(X)
#undef X
    int eos[MAX_EOS], n_eos;      /* ids that end a generation */
    char name[128], family[32];   /* for people: the checkpoint's folder, its model_type */
#define X(type, name, key, none, min, max) type name;
    ARCH_SAMPLING(X)
#undef X
} arch;

struct file;
/* Vectors live in the arena. arch_init sets scalar defaults; arch_vectors allocates and fills the vectors once n_layers and
 * n_ropes are known. */
void arch_init(arch *a);
int arch_vectors(arch *a, arena *mem, err *e);
int arch_read(arch *a, const struct file *f, arena *mem, err *e); /* checks every range and that the fields fit together */
int arch_check(const arch *a, err *e);                            /* the cross-field part of arch_read */
void arch_write(const arch *a, buf *records);                     /* as weights/file.h records; defaults are written too */
void arch_print(const arch *a, FILE *out);                        /* for inspect: one field a line, vectors run-length coded */
void arch_fields(FILE *out);                                      /* the table of all fields that stands in weights/FORMAT.md */

#endif
