/* families: the vocabulary of the converter's table of model families: what a row can say of keys, tensors and settings. */
#ifndef QUERN_CONVERT_FAMILIES_H
#define QUERN_CONVERT_FAMILIES_H

#include "tools/convert/convert.h"

/* A number of config.json: the arch field it fills, and how. otherwise: what a missing or null key means; NAN: it must be there. */
typedef enum { AS_IS, TRUTH, FIXED, WIDTHS, ROOT, INVERSE, INVERSE_ROOT, LARGEST } key_use;
typedef struct config_key {
    const char *key;
    size_t at;
    double otherwise;
    key_use use; /* TRUTH: true is 1; FIXED: `otherwise`, no key is read; WIDTHS: otherwise is times d_model; LARGEST: of a list */
} config_key;

/* A setting that this converter only knows at one value: any other is refused by name. */
typedef struct config_must {
    const char *key, *value; /* "false", "true", or a string; missing and null are accepted */
} config_must;

/* What a dimension of a tensor is, of the checkpoint's numbers. */
typedef enum {
    DIM_NONE, DIM_ONE, DIM_MODEL, DIM_FF, DIM_FF2, DIM_VOCAB, DIM_Q, DIM_KV, DIM_QK, DIM_QKV, DIM_HEAD, DIM_CTX, DIM_EXPERTS,
    DIM_EXPERT, DIM_SHARED, DIM_STREAMS, DIM_STREAMS2, DIM_LAUREL, DIM_PER_LAYER, DIM_ALL_PER_LAYER, DIM_VOCAB_PER_LAYER,
    DIM_TYPES, DIM_BUCKETS, DIM_HEADS
} dim_kind;
int dim_value(const checkpoint *c, dim_kind d, int l);  /* in layer l of the file; l is looked at where layers may differ */
int dim_source(const checkpoint *c, dim_kind d, int l); /* and in the checkpoint's tensors: larger where it is sliced */

/* An output tensor and the checkpoint's tensors it is made of; {l} stands for each layer, {e} for each expert, {s} for each stream
 * but the first ({s-1}: one less), {h} for each head, {m} for the prefix. Parts follow one another, each padded to
 * 16 rows where there are several. */
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
    IF_GATED = 1 << 17, IF_UNGATED = 1 << 18,
    FLAT = 1 << 19,     /* the source has [heads][head_dim] */
    BY_HEAD = 1 << 20,  /* of a tensor for each head, {h} in its name */
    IF_TWO_NORMS = 1 << 21, IF_ONE_NORM = 1 << 22, /* attention and MLP of a parallel block read norms of their own, or one */
    IF_PARALLEL = 1 << 23, IF_SERIAL = 1 << 24,
    LOOKED_UP = 1 << 25 /* no product takes it. Of the embedding the plan itself knows, once it is clear whether it is tied */
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
    const char *const *aside;         /* beginnings of names of the model's other parts: left aside, and said; to NULL, or NULL */
    bool untied;                      /* no tie_word_embeddings where config.json is silent */
    int head_dim;                     /* where config.json is silent; 0: d_model / n_heads */
    const char *act_key, *act;        /* act_key NULL: hidden_act; act: where config.json is silent, NULL: silu */
    bool gelu_is_tanh;                /* the name gelu means the tanh form */
    bool matformer;                   /* --matformer can slice it */
    rope_spec rope[MAX_ROPES];
    int (*special)(checkpoint *c, err *e); /* what varies by layer, and other things that are no key; NULL: nothing */
} family;
const family *family_at(int i); /* NULL past the last */
void families_print(FILE *out); /* the table that stands in README.md */

/* ---- layers.c: what varies by layer; each a family's `special` ---- */
int layers_window(checkpoint *c, err *e);       /* sliding_window, where it stands, in every layer */
int layers_mistral(checkpoint *c, err *e);
int layers_qwen(checkpoint *c, err *e);
int layers_qwen2_moe(checkpoint *c, err *e);    /* decoder_sparse_step, mlp_only_layers, and windows */
int layers_qwen3_moe(checkpoint *c, err *e);
int layers_alternate(checkpoint *c, err *e);    /* a window in all but each second, or sliding_window_pattern-th, layer */
int layers_gemma3(checkpoint *c, err *e);
int layers_gemma3n(checkpoint *c, err *e);
int layers_smollm3(checkpoint *c, err *e);
void widths_settle(arch *a);                    /* a->ff as a file has it: d_ff the largest, 0 where all layers have it */
int layers_t5(checkpoint *c, err *e);
int layers_bert(checkpoint *c, err *e);
int layers_falcon(checkpoint *c, err *e);

/* ---- plan.c ---- */
/* Writes pattern with {m}, {l}, {e}, {h}, {s} and {s-1} filled in; i is the expert, the head or the stream. */
void pattern_expand(char *out, size_t size, const char *pattern, const char *prefix, int l, int i);

/* ---- experts.c ---- */
/* Experts that a checkpoint has in one tensor (transformers 5: experts.gate_up_proj, experts.down_proj) as one for each. */
int experts_split(checkpoint *c, err *e);

#endif
