/* lora: adapter files (convert ADAPTER --base CHECKPOINT), checked against a model and hung on its matrices. The mapped weights
 * stay as they are; ops_matmul adds what the adapters say, and tensors that an adapter replaces are read from its own file. */
#ifndef QUERN_LORA_H
#define QUERN_LORA_H

#include "runtime/model.h"
#include "runtime/ops.h"

/* An adapter file is a model file's container (weights/FORMAT.md) with these records. Its tensors are named after the matrices of
 * the model: NAME.lora_a [r][k], NAME.lora_b [r][n], f32; the parts of a fused matrix are stacked along r; scales are in lora_b.
 * A tensor with the name of one of the model's takes its place, of whatever type it is (PEFT: modules_to_save). */
#define LORA_KEY FORMAT_ADAPTER_KEY
enum { LORA_VERSION = 1 };
#define LORA_NUMBERS(X) X("adapter.rank", REC_I64) X("adapter.alpha", REC_F64) X("adapter.scale", REC_F64) /* for people */
#define LORA_BASE_KEY "base." /* the numbers of the architecture that must be equal: base.n_layers, ... */
#define LORA_BASE(X)                                                                                                    \
    X(n_layers) X(n_enc_layers) X(d_model) X(n_heads) X(n_kv_heads) X(head_dim) X(d_ff) X(n_vocab)                      \
    X(n_experts) X(d_expert) X(d_shared)
#define LORA_VECTORS_KEY "base.vectors" /* i64: a hash of the base's norms and biases, equal in files of every type */
#define LORA_NAME_KEY "base.name"

/* Adapters in use. Everything is borrowed from here until lora_close, which comes before model_close. */
typedef struct lora_set {
    arena mem;
    struct lora_file *files;
    int n;
    int max_ranks;        /* of all that hang on one matrix, each rounded up to 16 */
    uint64_t hash;        /* of all of them and their scales, in order; 0: none, or none that does anything */
    uint64_t bytes, macs; /* read and computed for each token; of a mixture, as if it went to all experts */
    uint64_t file_bytes;  /* of their files */
    char warning[320];    /* made for other weights of this architecture; empty: no */
} lora_set;

/* Adds an adapter times scale to the model's matrices, after those already there. Refuses by name what is no adapter, what was made
 * for another architecture, what the model has no tensor for, and a second one that replaces the same tensor. Replaced tensors are
 * not scaled, as PEFT does not (rescale_adapter_scale). Scale 0 changes nothing at all: the adapter is left away. */
int lora_open(lora_set *s, model *m, const char *path, float scale, err *e);
void lora_close(lora_set *s);
bool lora_maps(const lora_set *s, const void *p); /* does this address lie in a file of theirs? */

bool lora_is(const file *f);               /* an adapter file? */
uint64_t lora_vectors_hash(const file *f); /* LORA_VECTORS_KEY of a model file */

#endif
