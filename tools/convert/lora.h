/* lora: LoRA adapters in the converter. peft.c reads a PEFT folder and finds the base's tensors that it changes; lora.c makes of
 * that what the runtime adds to its matrices: for an adapter file, or into the weights before they are packed. */
#ifndef QUERN_CONVERT_LORA_H
#define QUERN_CONVERT_LORA_H

#include "tools/convert/convert.h"

/* ---- peft.c ---- */

/* W + scale * b a, of one module of the base. */
typedef struct peft_module {
    const char *name;        /* "model.layers.0.mlp.up_proj" */
    const st_tensor *a, *b;  /* [r][inputs], [outputs][r] */
    const st_tensor *target; /* the base's weight; NULL: the base has it, and this model does not use it */
    double scale;            /* alpha / r, or alpha / sqrt(r), times what the user asked for */
} peft_module;

typedef struct peft {
    const char *folder, *config_path;
    arena mem;
    json *config;
    safetensors st;
    peft_module *modules;
    int n;
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
/* Finds each module in the base and checks shapes. An adapter of a tied output matrix unties it. Warnings go to c. */
int peft_match(peft *p, checkpoint *c, plan *list, err *e);

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

/* Writes the adapter file of p, which was matched with list. */
int adapter_write(const checkpoint *c, const plan *list, peft *p, const char *path, bool force, const volatile int *stop, err *e);

#endif
