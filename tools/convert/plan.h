/* plan: the model file's tensors and what of the checkpoint each is made of; and reading and packing them by it. */
#ifndef QUERN_PLAN_H
#define QUERN_PLAN_H

#include "tools/convert/convert.h"

/* ---- plan.c ---- */
/* Row r of a part is row first + i * stride + r % chunk of t, i being r / chunk, or blocks[r / chunk] where there are blocks. */
typedef struct source_rows {
    const st_tensor *t;    /* NULL: padding */
    uint32_t rows, padded; /* rows that are taken, and of their place in the output */
    uint32_t first, chunk, stride;
    const int *blocks;     /* borrowed from the checkpoint's arena; NULL: none */
} source_rows;
typedef struct output {
    char name[FORMAT_NAME];
    int index;             /* in the file */
    wtype type;
    bool vector, interleaved;
    bool columns;          /* rows of the output are columns of the sources */
    bool looked_up;        /* no product takes it: in plain rows */
    uint32_t pairs;        /* not 0: heads of so many dimensions, whose even rows come first */
    uint32_t n, k;         /* a vector has k = 1 */
    uint32_t k_source;     /* inputs of a row of the sources; it has more than k where the checkpoint is sliced: */
    uint32_t k_chunk;      /* input j is input j of the source, or with blocks input blocks[j / k_chunk] * k_chunk + j % k_chunk */
    const int *k_blocks;   /* likewise */
    const float *values;   /* [n][k] computed, not read; borrowed from the checkpoint's arena */
    const st_tensor *of;   /* what they were computed of; NULL: of nothing */
    const st_tensor *added;/* its first k values are added to every row */
    float scale, offset;   /* of a vector: w * scale + offset */
    const float *importance; /* [pad64(k)] weights of each input's error in the search of scales, borrowed; NULL: all alike */
    int n_parts;
    source_rows part[MAX_PARTS];
} output;
wlayout output_layout(const output *o);
typedef struct plan {
    output *outputs;
    int n, cap;
    int embed;             /* the output that is the embedding */
    wtype type;            /* of the matrices, as asked for */
    bool tied;
    const struct peft_list *merge; /* adapters to add to the weights, borrowed; NULL: none */
} plan;
/* Finds every tensor, checks every shape; a tensor of the checkpoint without use becomes a warning, or an error where it shows
 * that config.json is wrong. plan_free frees it. */
int plan_make(plan *p, checkpoint *c, wtype type, err *e);
const st_tensor *plan_embedding(const checkpoint *c); /* NULL: the checkpoint has none under any of its family's names */
void plan_free(plan *p);
int plan_untie(plan *p, err *e); /* the output matrix, which was the embedding, becomes a matrix of its own */

/* ---- pack.c ---- */
struct pool;
typedef struct pack_opts {
    struct pool *pool;
    bool verbose, progress;
    const volatile int *stop; /* a signal's number once one came */
} pack_opts;
/* The checkpoint's tensor and row (or column) that row r of an output comes from; NULL: padding, or computed. */
const st_tensor *source_row(const output *o, uint32_t r, uint32_t *row);
int load_vector(const checkpoint *c, const output *o, float *x, err *e); /* x[pad64(n)] zero at first: a vector as the file gets it */
/* Panels [first, first + n) of an output in f32, as a file of that type has them: to [16 n][pad64(k)], adapters added. */
int load_panels(const checkpoint *c, const plan *p, const output *o, struct pool *workers, int first, int n, float *to, err *e);
/* Writes the plan's tensors through w, which must have begun. */
int pack_all(checkpoint *c, plan *p, file_writer *w, const pack_opts *o, err *e);

#endif
