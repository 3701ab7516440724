/* lora: LoRA adapters in the converter. peft.c reads a PEFT folder and finds the base's tensors that it changes; whole.c puts those
 * that it saved whole in the place of the base's; lora.c makes of the others what the runtime adds to its matrices: for an adapter
 * file, or into the weights before they are packed. */
#ifndef QUERN_CONVERT_LORA_H
#define QUERN_CONVERT_LORA_H

#include "tools/convert/plan.h"

/* ---- peft.c ---- */

/* W + scale * b a, of one module of the base. */
typedef struct peft_module {
    const char *name;        /* "model.layers.0.mlp.up_proj" */
    const st_tensor *a, *b;  /* [r][inputs], [outputs][r] */
    const st_tensor *target; /* the base's weight; NULL: the base has it, and this model does not use it */
    double scale;            /* alpha / r, or alpha / sqrt(r), times what the user asked for */
} peft_module;

/* A tensor that was trained whole (modules_to_save), or is the base's own under an adapter (base_layer). */
typedef struct peft_whole {
    const char *name; /* "lm_head.weight", as the base has it under one of its family's prefixes */
    const st_tensor *t;
    bool listed;      /* modules_to_save names its module: PEFT keeps it beside the base's, which may be tied to another */
} peft_whole;

typedef struct peft {
    const char *folder, *config_path;
    arena mem;
    json *config;
    safetensors st;
    peft_module *modules;
    peft_whole *whole;
    int n, n_whole;
    const peft_module **by_target; /* [tensors of the base] */
    int rank;                      /* of the modules that no pattern names */
    double alpha, scale;
    bool root; /* rank-stabilised: alpha / sqrt(r) */
} peft;

typedef struct peft_list { /* several, added one after the other */
    peft *p;
    int n;
} peft_list;

bool peft_folder(const char *folder); /* has it an adapter_config.json? */
/* Reads and checks what can be checked without the base. Settings that would change the arithmetic and are not known here are
 * refused by name. folder is borrowed; peft_close also after a failure. */
int peft_open(peft *p, const char *folder, double scale, err *e);
void peft_close(peft *p);
/* The base's folder by base_model_name_or_path, in the arena; NULL: an error that says --base. */
const char *peft_base(peft *p, err *e);
/* The base's tensor of this name, under any prefix that its family may have; NULL: there is none. */
const st_tensor *peft_find(const checkpoint *c, const char *name);
bool peft_is_head(const checkpoint *c, const char *name);    /* is this the name of the family's output matrix? */
void peft_shape(const st_tensor *t, char *out, size_t size); /* "[32, 16]" */
/* Finds each module in the base and checks shapes. An adapter of a tied output matrix unties it. Warnings go to c. */
int peft_match(peft *p, checkpoint *c, plan *list, err *e);

/* ---- whole.c ---- */

/* Notes a tensor of the adapter that is no half of a low-rank pair. */
int whole_add(peft *p, const st_tensor *t, const char *name, err *e);
/* Puts the adapter's whole tensors in the place of the base's, before plan_make: what PEFT computes with them, in a base whose
 * output matrix is its embedding too. Refused: one that the base has not, of another shape, or that another adapter has put already. */
int whole_put(peft *p, checkpoint *c, err *e);
bool whole_is(const checkpoint *c, const st_tensor *t); /* was it put there? */

bool looked_up(const output *o); /* a table or vector, which takes part in no product */

/* ---- lora.c ---- */

/* What adapters add to one matrix of the file: b^T a, scales in b. Padding is zero. */
typedef struct low_rank {
    int r;
    size_t lda, ldb; /* pad64(k), pad64(n) */
    float *a, *b;    /* [pad16(r)][lda], [pad16(r)][ldb]; owned */
} low_rank;
int low_rank_make(low_rank *l, const peft_list *list, const checkpoint *c, const output *o, err *e); /* r 0: nothing */
void low_rank_add(const low_rank *l, int panel, float *rows, uint32_t k); /* to the 16 rows [pad64(k)] of a panel, in f32 */
void low_rank_free(low_rank *l);

int adapter_hash(const checkpoint *c, const plan *list, uint64_t *out, err *e); /* of a base's vectors: LORA_VECTORS_KEY */
/* Writes the adapter file of p, which was matched with list, the plan of the base with p's whole tensors; hash is the base's own. */
int adapter_write(checkpoint *c, plan *list, peft *p, uint64_t hash, const char *path, bool force, const pack_opts *o, err *e);

#endif
