/* constrain: what an answer may be, by --grammar, --json or --json-schema. Without these every call does nothing. */
#ifndef QUERN_CONSTRAIN_H
#define QUERN_CONSTRAIN_H

#include "runtime/grammar.h"
#include "tools/run/run.h"

typedef struct constraint {
    vocabulary *v;
    grammar *g;
    grammar_state *s; /* of the answer; NULL: anything may come */
    float *row;       /* [n_vocab] */
    int n_vocab;
} constraint;

bool run_constrains(const run_opts *o);
int constraint_open(constraint *c, const run_opts *o, const tokenizer *t, int n_vocab, err *e); /* on failure too constraint_close */
void constraint_close(constraint *c);
int constraint_begin(constraint *c, const int32_t *eos, int n_eos, err *e); /* an answer begins; these ids end it */
/* The logits with -INFINITY where a token may not come; valid until the next call. NULL on failure. */
const float *constraint_mask(constraint *c, const float *logits, err *e);
int constraint_take(constraint *c, int32_t id, bool *done, err *e); /* done: the answer is whole, and nothing may follow */

#endif
