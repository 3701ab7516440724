/* certify: how the converter measures what it wrote. passages.c chooses what is run; reference.c is the checkpoint as a model in
 * f32 whose matrices are there one at a time; walk.c takes one or two models through forward's layers in step; calibrate.c
 * gathers from that what weights the search of scales, certify.c the certificate; write.c is the order of all that. */
#ifndef QUERN_CERTIFY_H
#define QUERN_CERTIFY_H

#include "runtime/forward.h"
#include "runtime/options.h"
#include "tools/convert/plan.h"
#include "weights/certificate.h"

/* ---- passages.c ---- */

typedef struct passage {
    const int32_t *enc, *tok; /* what the encoder reads; what the decoder does. n 0: the model has none */
    int n_enc, n;
} passage;
typedef struct passages {
    ids all;
    passage *p;             /* [n] the first is the built-in prompt, the others are blocks of the text */
    int n, longest;
    char prompt[64];        /* the built-in prompt's name */
    uint64_t text_hash;
    int64_t text_tokens;    /* in p[1 ..]; 0: no text */
} passages;
/* text: a file's path, or NULL. blob: the tokenizer as it goes into the file, 0 bytes: none. */
int passages_make(passages *s, const arch *a, const buf *blob, const char *text, err *e);
void passages_free(passages *s);
static inline int passage_rows(const passage *p) { return max_int(p->n - 1, 0); } /* that have a next token */

/* ---- reference.c ---- */

typedef struct reference {
    const checkpoint *c;
    const plan *plan;
    struct pool *pool;
    model model;            /* bound to an image of the file in f32 */
    struct resident { uint64_t at, bytes; } *resident; /* [n] matrices that are in memory, oldest first */
    int n, cap;
    uint64_t held, budget;  /* bytes of them */
    err failed;             /* the first error of a fetch, which cannot fail itself */
} reference;
/* After file_write_begin(w). budget: bytes of matrices that are kept; one is always. */
int reference_open(reference *r, const checkpoint *c, const plan *p, struct pool *workers, const file_writer *w, uint64_t budget, err *e);
void reference_close(reference *r);
void reference_fetch(reference *r, const mat *w);   /* reads it from the checkpoint, unless it is there */
void reference_release(reference *r);               /* lets all matrices go */
/* Reads the rows of tables that passages look up. */
int reference_tables(reference *r, const passage *p, int n, err *e);
const output *reference_output(const reference *r, const mat *w); /* what a matrix of its model is made of */

/* ---- walk.c ---- */

typedef struct walk_state { /* of one passage between two layers */
    kv_seq kv, enc;
    float *x, *streams, *per_layer; /* as in forward_ctx; at the end x holds the hidden states */
    float *encoded;                 /* [n_enc][d_ld] the encoder's hidden states */
} walk_state;
typedef struct walk_side {
    model *model;
    bool exact;
    void (*before)(void *arg, const mat *w, const float *in, size_t ldx, int m); /* NULL, or as in exec */
    void *arg;
    kv_pool kv, enc_kv;
    walk_state *state;      /* [n_passages] */
} walk_side;
typedef struct walk {
    const passage *p;
    int n_passages, longest, n_sides;
    walk_side side[2];
    forward_ctx f;
    void *scratch;
    size_t scratch_bytes;
    const volatile int *stop;
    /* After all passages went through a layer (the encoder's are counted first); *e is set to stop. */
    void (*layer_done)(void *arg, struct walk *w, int layer, err *e);
    void *arg;
} walk;
/* side[].model, exact, before and arg, n_sides, p, n_passages, longest, stop, layer_done and arg are set. */
int walk_open(walk *w, struct pool *workers, err *e);
int walk_run(walk *w, err *e);
void walk_close(walk *w);
/* The batch of passage i on one side becomes the one of w->f. */
void walk_take(walk *w, int side, int i, bool encoder);

/* ---- calibrate.c ---- */
/* Runs the text through r and gives each matrix of the plan the mean square of its inputs as importance; from the arena. */
int calibrate(reference *r, plan *p, arena *mem, const passages *s, const volatile int *stop, bool progress, err *e);

/* ---- certify.c ---- */
enum { CERTIFY_WARNING = 256 };
/* Opens the file at path, written of r's checkpoint, and runs the passages through both. Refuses what is clearly broken; warning:
 * what is to be said of a file that is not, or "". */
int certify(reference *r, const char *path, const passages *s, const volatile int *stop, bool progress, certificate *out,
            char warning[CERTIFY_WARNING], err *e);
void certificate_begin(certificate *c, const arch *a, const passages *s); /* all that is known before; zeros for the rest */

/* ---- write.c ---- */
typedef struct write_opts {
    const char *output;
    const char *calibrate;  /* a text's path, or NULL */
    const texts *merged;    /* for the records: adapters, */
    const char *slice;      /* and what was taken of a Gemma 3n, or NULL */
    bool force, verbose, verify;
    int threads;
    const volatile int *stop;
} write_opts;
int declare(const checkpoint *c, plan *p, file_writer *w, err *e);      /* every tensor of the file */
int write_ropes(const checkpoint *c, file_writer *w, int first, err *e);
/* Writes the model file: *bytes is its size. cert->tokens 0: it has no certificate. */
int write_model(checkpoint *c, plan *p, const buf *blob, const write_opts *o, uint64_t *bytes, certificate *cert, err *e);

#endif
