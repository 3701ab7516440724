/* convert: what the parts of the converter share. A checkpoint is read by config.c (fields), rope.c (frequencies) and plan.c
 * (tensors) as the tables of families.c say; pack.c writes it. */
#ifndef QUERN_CONVERT_H
#define QUERN_CONVERT_H

#include "kernels/quant.h"
#include "runtime/arch.h"
#include "weights/file.h"
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

typedef struct checkpoint {
    const char *folder, *config_path, *generation_path;
    arena mem;
    json *root, *config, *generation; /* config: the root of config.json, or the part of it that describes the text model; generation: NULL where there is no such file */
    const struct family *family;
    safetensors st;
    arch arch;
    rope_freqs rope[MAX_ROPES];
    bool tied;                   /* the output matrix is the embedding */
    bool gated;                  /* the MLP has a gate, where the family has both */
    bool *mixture;               /* [n_layers] layers with experts; NULL: all, where there are any */
    int laurel_rank, n_types, n_buckets, max_distance; /* sizes of tensors that are no fields of the architecture */
    buf warnings;                /* lines for the end: an error is to be the only line */
} checkpoint;

void warn(checkpoint *c, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---- families.c ---- */

/* A number of config.json: the arch field it fills, and how. otherwise: what a missing or null key means; NAN: it must be there. */
typedef enum { AS_IS, TRUTH, FIXED, WIDTHS, ROOT, INVERSE, INVERSE_ROOT } key_use;
typedef struct config_key {
    const char *key;
    size_t at;
    double otherwise;
    key_use use; /* TRUTH: true is 1; FIXED: `otherwise`, no key is read; WIDTHS: otherwise is times d_model */
} config_key;

/* A setting that this converter only knows at one value: any other is refused by name. */
typedef struct config_must {
    const char *key, *value; /* "false", "true", or a string; missing and null are accepted */
} config_must;

/* What a dimension of a tensor is, of the checkpoint's numbers. */
typedef enum {
    DIM_NONE, DIM_ONE, DIM_MODEL, DIM_FF, DIM_FF2, DIM_VOCAB, DIM_Q, DIM_KV, DIM_QK, DIM_QKV, DIM_HEAD, DIM_CTX, DIM_EXPERTS, DIM_EXPERT, DIM_SHARED,
    DIM_STREAMS, DIM_STREAMS2, DIM_LAUREL, DIM_PER_LAYER, DIM_ALL_PER_LAYER, DIM_VOCAB_PER_LAYER, DIM_TYPES, DIM_BUCKETS, DIM_HEADS
} dim_kind;
int dim_value(const checkpoint *c, dim_kind d);

/* An output tensor and the checkpoint's tensors it is made of; {l} stands for each layer, {e} for each expert, {s} for each stream
 * but the first ({s-1}: one less), {m} for the prefix. Parts follow one another, each padded to 16 rows where there are several. */
enum {
    INTERLEAVED = 1,    /* 16 rows of each part in turn */
    TIED = 2,           /* the embedding, where the checkpoint ties it */
    TRANSPOSED = 4,     /* the checkpoint has [inputs][outputs] */
    PLUS_ONE = 8,       /* 1 + w */
    OVER_WIDTH = 16,    /* w / d_model */
    HEADWISE = 32,      /* the source has, for each key/value head, rows of its queries, its key, its value */
    PAIRS = 64,         /* rotated dimensions lie side by side in a head of the source: the even ones first */
    EXACT = 128,        /* f32 whatever --type says: small and sensitive */
    ONES = 256,         /* no source: all ones */
    PADDED = 512,       /* padded to 16 rows, though it is alone */
    ADD_FIRST = 1024,   /* the second part's first row is added to every row of the first part */
    BIAS_BOTH = 2048,   /* relative position biases by bucket to a table by distance: an encoder's, */
    BIAS_BACK = 4096,   /* a decoder's */
    IF_OWN_KV = 1 << 13, IF_OTHER_KV = 1 << 14, /* only in layers with keys and values of their own, or not */
    IF_EXPERTS = 1 << 15, IF_DENSE = 1 << 16,   /* only in layers with experts, or not */
    IF_GATED = 1 << 17, IF_UNGATED = 1 << 18
};
typedef struct weight {
    const char *name;
    dim_kind k; /* DIM_NONE: a vector, of f32 in the file */
    int flags;
    const char *when; /* a key of config.json that must be true, NULL: always; "!key": not true; "+key": true where it is missing */
    struct {
        const char *source;
        dim_kind rows, whole, first; /* whole, first: of a fused source, all its rows and the first to take */
    } part[MAX_PARTS];
} weight;

/* Where a rope table's numbers stand in config.json. */
typedef struct rope_spec {
    const char *theta_key;    /* NULL: there is no such table */
    double theta;             /* where config.json is silent */
    const char *partial_key;  /* the share of a head that is rotated; NULL: partial_rotary_factor */
    double partial;           /* where config.json is silent; 0: all */
    const char *layer_type;   /* the member of rope_parameters; NULL: none */
    bool unscaled;            /* rope_scaling is not for this table */
} rope_spec;

typedef struct family {
    const char *model_type;
    const char *classes[MAX_CLASSES]; /* what "architectures" may say */
    const char *nested;               /* the member of config.json that describes the text model; NULL: the root does */
    const char *prefixes[4];          /* what {m} may be: the first under which the embedding is found */
    const config_key *keys;           /* to a NULL key */
    const config_must *musts;         /* to a NULL key; NULL: none */
    const weight *weights;            /* in the order of execution, to a NULL name */
    const char *const *unneeded;      /* patterns of tensors that a checkpoint may hold for no use; to NULL */
    const char *const *aside;         /* what names of other parts of the model begin with: left aside, and said; to NULL; NULL: none */
    bool untied;                      /* no tie_word_embeddings where config.json is silent */
    int head_dim;                     /* where config.json is silent; 0: d_model / n_heads */
    const char *act_key, *act;        /* act_key NULL: hidden_act; act: where config.json is silent, NULL: silu */
    bool gelu_is_tanh;                /* the name gelu means the tanh form */
    rope_spec rope[MAX_ROPES];
    int (*special)(checkpoint *c, err *e); /* what varies by layer, and other things that are no key; NULL: nothing */
} family;
const family *family_at(int i); /* NULL past the last */

/* ---- config.c ---- */
int config_load(checkpoint *c, err *e); /* config.json and generation_config.json into c->arch, c->rope, c->tied, c->family */
bool config_true(const checkpoint *c, const char *key);
int config_activation(checkpoint *c, const char *key, const char *name, err *e); /* name to arch.act */
/* A whole number of config.json; -1 with the key, the range and what was found. NAN otherwise: required. */
int config_int(const checkpoint *c, const char *key, int64_t min, int64_t max, double otherwise, int *out, err *e);
int config_json(arena *mem, const char *path, json **root, err *e); /* a JSON object from a file; a git-LFS pointer is named */

/* ---- rope.c ---- */
int rope_load(const checkpoint *c, const rope_spec *spec, int head_dim, int max_positions, arena *mem, rope_freqs *out, err *e);

/* ---- layers.c: what varies by layer; each a family's `special` ---- */
int layers_window(checkpoint *c, err *e);       /* sliding_window, where it stands, in every layer */
int layers_mistral(checkpoint *c, err *e);
int layers_qwen(checkpoint *c, err *e);
int layers_moe(checkpoint *c, err *e);          /* decoder_sparse_step, mlp_only_layers; windows as layers_qwen */
int layers_alternate(checkpoint *c, err *e);    /* a window in all but each second, or sliding_window_pattern-th, layer */
int layers_gemma3(checkpoint *c, err *e);
int layers_gemma3n(checkpoint *c, err *e);
int layers_smollm3(checkpoint *c, err *e);
int layers_t5(checkpoint *c, err *e);
int layers_bert(checkpoint *c, err *e);

/* ---- pooling.c: the files that sentence-transformers lays beside a model ---- */
int pooling_load(checkpoint *c, err *e); /* into arch.pooling, arch.normalize; 0 and nothing where there are none */

/* ---- relative.c ---- */
/* [n_heads][2 max_distance + 1] in the arena, of the checkpoint's [n_buckets][n_heads]; column max_distance + key - query. */
float *relative_biases(checkpoint *c, const st_tensor *t, bool both, err *e);

/* ---- plan.c ---- */
/* Row r of a part is row first + r / chunk * stride + r % chunk of t. */
typedef struct source_rows {
    const st_tensor *t;    /* NULL: padding */
    uint32_t rows, padded; /* rows that are taken, and of their place in the output */
    uint32_t first, chunk, stride;
} source_rows;
typedef struct output {
    char name[FORMAT_NAME];
    int index;             /* in the file */
    wtype type;
    bool vector, interleaved;
    bool columns;          /* rows of the output are columns of the sources */
    uint32_t pairs;        /* not 0: heads of so many dimensions, whose even rows come first */
    uint32_t n, k;         /* a vector has k = 1 */
    const float *values;   /* [n][k] computed, not read; borrowed from the checkpoint's arena */
    const st_tensor *added;/* its first k values are added to every row */
    float scale, offset;   /* of a vector: w * scale + offset */
    int n_parts;
    source_rows part[MAX_PARTS];
} output;
typedef struct plan {
    output *outputs;
    int n, cap;
    int embed;             /* the output that is the embedding */
    bool tied;
    const struct peft_list *merge; /* adapters to add to the weights, borrowed; NULL: none */
} plan;
/* Finds every tensor, checks every shape; a tensor of the checkpoint without use becomes a warning, or an error where it shows
 * that config.json is wrong. plan_free frees it. */
int plan_make(plan *p, checkpoint *c, wtype type, err *e);
void plan_free(plan *p);
int plan_untie(plan *p, err *e); /* the output matrix, which was the embedding, becomes a matrix of its own */

/* ---- pack.c ---- */
typedef struct pack_opts {
    int threads;
    bool verbose, progress;
    const volatile int *stop; /* a signal's number once one came */
} pack_opts;
/* The checkpoint's tensor and row (or column) that row r of an output comes from; NULL: padding, or computed. */
const st_tensor *source_row(const output *o, uint32_t r, uint32_t *row);
int load_vector(const checkpoint *c, const output *o, float *x, err *e); /* x[pad64(n)] zero at first: a vector as the file gets it */
/* Writes the plan's tensors through w, which must have begun. */
int pack_all(checkpoint *c, plan *p, file_writer *w, const pack_opts *o, err *e);

#endif
