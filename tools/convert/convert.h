/* convert: what the parts of the converter share. A checkpoint is read by config.c (fields), rope.c (frequencies) and plan.c
 * (tensors) as the table of families.c says, whose vocabulary is families.h; pack.c writes it. */
#ifndef QUERN_CONVERT_H
#define QUERN_CONVERT_H

#include "kernels/quant.h"
#include "runtime/arch.h"
#include "tokenizer/tokenizer.h"
#include "weights/file.h"
#include "weights/gguf.h"
#include "weights/safetensors.h"

enum { MAX_PARTS = 3, MAX_ROPES = 2, MAX_CLASSES = 5 };

/* Inverse frequencies as transformers computes them, in float32. */
typedef struct rope_freqs {
    int n;                       /* frequencies: half the rotated dimensions */
    float *inv_freq, *inv_long;  /* [n] in the checkpoint's arena; inv_long: NULL where there is one table for all lengths */
    float factor, factor_long;   /* multiply cos and sin */
    int ctx_long;                /* a session with more positions takes inv_long; 0: never */
    int n_ctx;                   /* positions the model reaches with this scaling */
} rope_freqs;

/* A checkpoint of which only a part is taken (matformer.c): what it has itself, where arch says what is taken. */
typedef struct taken_part {
    int n_layers;                /* of the checkpoint; 0: it is taken whole */
    int *layer, *ff;             /* [arch.n_layers] which of its layers each one is; inner dimension of the MLP there */
} taken_part;

typedef struct checkpoint {
    const char *folder, *config_path, *generation_path;
    arena mem;
    json *root, *config;         /* config: the root of config.json, or its member that describes the text model */
    json *generation;            /* NULL where there is no generation_config.json */
    const struct family *family; /* families.h */
    safetensors st;
    gguf gguf;                   /* path NULL: the checkpoint is a folder */
    arch arch;
    rope_freqs rope[MAX_ROPES];
    bool tied;                   /* the output matrix is the embedding */
    bool gated;                  /* the MLP has a gate, where the family has both */
    taken_part slice;
    bool two_norms;              /* attention and MLP have norms of their own, where the family has both */
    bool *mixture;               /* [n_layers] layers with experts; NULL: all, where there are any */
    safetensors dense[MAX_DENSE]; /* [n_dense] of the modules behind pooling: c->st has their tensors as dense.I.weight and .bias */
    const char *dense_folder[MAX_DENSE];
    int n_dense;
    int laurel_rank, n_types, n_buckets, max_distance; /* sizes of tensors that are no fields of the architecture */
    buf warnings;                /* lines for the end: an error is to be the only line */
} checkpoint;

struct rope_spec; /* families.h */

void warn(checkpoint *c, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---- config.c ---- */
int config_load(checkpoint *c, err *e); /* config.json and generation_config.json into c->arch, c->rope, c->tied, c->family */
bool config_true(const checkpoint *c, const char *key);
int config_activation(checkpoint *c, const char *key, const char *name, err *e); /* name to arch.act */
/* A whole number of config.json; -1 with the key, the range and what was found. NAN otherwise: required. */
int config_int(const checkpoint *c, const char *key, int64_t min, int64_t max, double otherwise, int *out, err *e);
int config_json(arena *mem, const char *path, json **root, err *e); /* a JSON object from a file; a git-LFS pointer is named */

/* ---- matformer.c ---- */
enum { MATFORMER_MAX_LAYERS = 1024, MATFORMER_MAX_FF = 1 << 22 };
typedef struct matformer { /* what --matformer says */
    const char *spec;
    bool e2b, one_width;     /* one_width: ff[0] is that of all layers */
    int ff[MATFORMER_MAX_LAYERS], n_ff; /* of the layers that are kept, in order; n_ff 0: their own */
    bool skip[MATFORMER_MAX_LAYERS];
} matformer;
int matformer_parse(matformer *m, const char *spec, err *e);
int matformer_apply(checkpoint *c, matformer *m, err *e); /* to a checkpoint whose configuration is loaded */

/* ---- gguf.c, gguf_names.c, gguf_vocab.c: a GGUF file as such a checkpoint ---- */

/* Opens the file: c->st gets its tensors under HuggingFace's names, c->config and c->generation what its metadata say.
 * vocab_only: neither. */
int gguf_load(checkpoint *c, const char *path, bool vocab_only, err *e);
int gguf_tokenizer(checkpoint *c, tokenizer **t, err *e); /* *t NULL: the file has none */

int gguf_pooling(checkpoint *c, err *e); /* into arch.pooling, arch.normalize */
/* The one GGUF file of a folder without a config.json, in the arena; *out NULL: there is none. Several are an error. */
int gguf_in_folder(arena *mem, const char *folder, const char **out, err *e);

/* An architecture of llama.cpp: what it is called here, and how its tensors differ from HuggingFace's. */
enum {
    GGUF_INTERLEAVED = 1,    /* rows of q and k */
    GGUF_NORMS_PLUS_ONE = 2, /* 1 + w is stored */
    GGUF_WINDOWS = 4,        /* attention.sliding_window_pattern says which layers have one */
    GGUF_ENCODER = 8,        /* attention.causal is false */
    GGUF_WIDTHS = 16         /* feed_forward_length may differ from layer to layer */
};
typedef struct gguf_name {
    const char *gguf, *name; /* without .weight and .bias; {l} a layer, {e} each expert; name NULL: of no use here */
    int flags;
} gguf_name;
enum {
    GGUF_Q = 1, GGUF_K = 2, GGUF_TRANSPOSED = 4, GGUF_NORM = 8, GGUF_ROW = 16,
    GGUF_GROUPS = 32, /* queries, keys and values one after another, where HuggingFace has them by key and value */
    GGUF_BARE = 64    /* without .weight */
};
typedef struct gguf_arch {
    const char *arch, *model_type;
    const char *marker;           /* this row only if the file has this key, above 0, or this tensor; NULL: always */
    int flags;
    const gguf_name *own;         /* names that differ from those of llama; to NULL; NULL: none */
    const struct gguf_key { const char *gguf, *config; } *keys; /* besides the common ones; to NULL; NULL: none */
    const char *extra;            /* members of config.json that follow from the architecture; NULL: none */
} gguf_arch;
const gguf_arch *gguf_arch_of(const checkpoint *c, err *e);
int gguf_rename(checkpoint *c, const gguf_arch *a, err *e); /* needs c->config */

/* ---- rope.c ---- */
int rope_load(const checkpoint *c, const struct rope_spec *spec, int head_dim, int max_positions, arena *mem, rope_freqs *out,
              err *e);

/* ---- pooling.c: the files that sentence-transformers lays beside a model ---- */
int pooling_load(checkpoint *c, err *e); /* into arch.pooling, arch.normalize, dense_folder; 0 and nothing where there are none */
int pooling_open(checkpoint *c, err *e); /* the matrices behind pooling, into c->dense and c->st, which is open */
void checkpoint_close(checkpoint *c);    /* its tensors; what else it has is the arena's */

/* ---- relative.c ---- */
/* [n_heads][2 max_distance + 1] in the arena, of the checkpoint's [n_buckets][n_heads]; column max_distance + key - query. */
float *relative_biases(checkpoint *c, const st_tensor *t, bool both, err *e);

#endif
