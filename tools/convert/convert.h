/* convert: what the parts of the converter share. A checkpoint is read by config.c (fields), rope.c (frequencies) and plan.c
 * (tensors) as the tables of families.c say; pack.c writes it. */
#ifndef QUERN_CONVERT_H
#define QUERN_CONVERT_H

#include "kernels/quant.h"
#include "runtime/arch.h"
#include "tokenizer/tokenizer.h"
#include "weights/file.h"
#include "weights/gguf.h"
#include "weights/safetensors.h"

enum { MAX_PARTS = 3, MAX_ROPES = 2 };

/* Inverse frequencies as transformers computes them, in float32. */
typedef struct rope_freqs {
    int n;                       /* frequencies: half the rotated dimensions */
    float *inv_freq, *inv_long;  /* [n] in the checkpoint's arena; inv_long: NULL where there is one table for all lengths */
    float factor, factor_long;   /* multiply cos and sin */
    int ctx_long;                /* a session with more positions takes inv_long; 0: never */
    int n_ctx;                   /* positions the model reaches with this scaling */
} rope_freqs;

typedef struct checkpoint {
    const char *folder, *config_path, *generation_path;
    arena mem;
    json *config, *generation;   /* generation: NULL where there is no generation_config.json */
    const struct family *family;
    safetensors st;
    gguf gguf;                   /* path NULL: the checkpoint is a folder */
    arch arch;
    rope_freqs rope[MAX_ROPES];
    bool tied;                   /* the output matrix is the embedding */
    buf warnings;                /* lines for the end: an error is to be the only line */
} checkpoint;

void warn(checkpoint *c, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---- families.c ---- */

/* A number of config.json: the arch field it fills. otherwise: what a missing or null key means; NAN: it must be there. */
typedef struct config_key {
    const char *key;
    size_t at;
    double otherwise;
} config_key;

/* What a dimension of a tensor is, of the checkpoint's numbers. */
typedef enum { DIM_NONE, DIM_MODEL, DIM_FF, DIM_VOCAB, DIM_Q, DIM_KV, DIM_HEAD } dim_kind;
int dim_value(const arch *a, dim_kind d);

/* An output tensor and the checkpoint's tensors it is made of; {l} stands for each layer, {m} for the prefix. Parts follow one
 * another, each padded to 16 rows where there are several; INTERLEAVED takes 16 rows of each in turn. */
enum { INTERLEAVED = 1, TIED = 2 }; /* TIED: the embedding, where the checkpoint ties it */
typedef struct weight {
    const char *name;
    dim_kind k; /* DIM_NONE: a vector, of f32 in the file */
    int flags;
    const char *when; /* a key of config.json that must be true, or NULL: always; else the output is left out */
    struct { const char *source; dim_kind rows; } part[MAX_PARTS];
} weight;

typedef struct family {
    const char *model_type;
    const char *classes[3];           /* what "architectures" may say */
    const char *prefixes[4];          /* what {m} may be: the first under which the embedding is found */
    const config_key *keys;           /* to a NULL key */
    const weight *weights;            /* in the order of execution, to a NULL name */
    const char *const *unneeded;      /* patterns of buffers that a checkpoint may hold for no use; to NULL */
    bool tied;                        /* tie_word_embeddings where config.json is silent */
    int head_dim;                     /* where config.json is silent; 0: hidden_size / num_attention_heads */
    const char *eps_key;
    int (*layers)(checkpoint *c, err *e); /* what varies by layer (windows); NULL: nothing */
} family;
const family *const *families_all(void); /* to NULL */

/* ---- config.c ---- */
int config_load(checkpoint *c, err *e); /* config.json and generation_config.json into c->arch, c->rope, c->tied, c->family */
bool config_true(const checkpoint *c, const char *key);
/* A whole number of config.json; -1 with the key, the range and what was found. NAN otherwise: required. */
int config_int(const checkpoint *c, const char *key, int64_t min, int64_t max, double otherwise, int *out, err *e);
int config_json(arena *mem, const char *path, json **root, err *e); /* a JSON object from a file; a git-LFS pointer is named */

/* ---- gguf.c, gguf_names.c, gguf_vocab.c: a GGUF file as such a checkpoint ---- */

/* Opens the file: c->st gets its tensors under HuggingFace's names, c->config and c->generation what its metadata say.
 * vocab_only: neither. */
int gguf_load(checkpoint *c, const char *path, bool vocab_only, err *e);
int gguf_tokenizer(checkpoint *c, tokenizer **t, err *e); /* *t NULL: the file has none */

/* An architecture of llama.cpp: what it is called here, and how its tensors differ from HuggingFace's. */
enum { GGUF_INTERLEAVED = 1, GGUF_NORMS_PLUS_ONE = 2 }; /* rows of q and k; 1 + w is stored */
typedef struct gguf_name {
    const char *gguf, *name; /* without .weight and .bias; {l} a layer, {e} each expert; name NULL: of no use here */
    int flags;
} gguf_name;
enum { GGUF_Q = 1, GGUF_K = 2, GGUF_TRANSPOSED = 4, GGUF_NORM = 8, GGUF_ROW = 16 };
typedef struct gguf_arch {
    const char *arch, *model_type;
    const char *marker;           /* this row only if the file has this key, above 0; NULL: always */
    int flags;
    const gguf_name *own;         /* names that differ from those of llama; to NULL; NULL: none */
    const struct gguf_key { const char *gguf, *config; } *keys; /* besides the common ones; to NULL; NULL: none */
    const char *extra;            /* members of config.json that follow from the architecture; NULL: none */
} gguf_arch;
const gguf_arch *gguf_arch_of(const gguf *g, err *e);
int gguf_rename(checkpoint *c, const gguf_arch *a, err *e); /* needs c->config */

/* ---- rope.c ---- */
int rope_load(const checkpoint *c, int head_dim, int max_positions, arena *mem, rope_freqs *out, err *e);

/* ---- plan.c ---- */
typedef struct source_rows {
    const st_tensor *t;
    uint32_t rows, padded; /* rows of the checkpoint's tensor, and of its place in the output */
} source_rows;
typedef struct output {
    char name[FORMAT_NAME];
    int index;             /* in the file */
    wtype type;
    bool vector, interleaved;
    uint32_t n, k;         /* a vector has k = 1 */
    int n_parts;
    source_rows part[MAX_PARTS];
} output;
typedef struct plan {
    output *outputs;
    int n, cap;
    int embed;             /* the output that is the embedding */
    bool tied;
} plan;
/* Finds every tensor, checks every shape; a tensor of the checkpoint without use becomes a warning, or an error where it shows
 * that config.json is wrong. plan_free frees it. */
int plan_make(plan *p, checkpoint *c, wtype type, err *e);
void plan_free(plan *p);

/* ---- pack.c ---- */
typedef struct pack_opts {
    int threads;
    bool verbose, progress;
    const volatile int *stop; /* a signal's number once one came */
} pack_opts;
/* Writes the plan's tensors through w, which must have begun. */
int pack_all(checkpoint *c, plan *p, file_writer *w, const pack_opts *o, err *e);

#endif
