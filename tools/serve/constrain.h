/* constrain: one answer's grammar while it is written: masks for its tokens, from its beginning on or from where a marker was written. */
#ifndef QUERN_SERVE_CONSTRAIN_H
#define QUERN_SERVE_CONSTRAIN_H

#include "tools/serve/grammars.h"

/* Where a grammar begins. at_start: only as the first text of the answer, space not counted. */
typedef struct grammar_trigger {
    const char *text;
    bool at_start;
} grammar_trigger;

typedef struct constraint_opts { /* all borrowed while the constraint lives */
    const kept_grammar *grammar;
    /* [n_triggers] the text is free until one of them, which is the grammar's first text; none: from the beginning */
    const grammar_trigger *triggers;
    int n_triggers;
    const char *think_open, *think_close; /* in between triggers do not count; NULL: there is no such text */
    bool thinking;                   /* the answer begins there */
} constraint_opts;

typedef struct constraint constraint;
int constraint_new(constraint **c, const constraint_opts *o, const int32_t *eos, int n_eos, err *e);
void constraint_free(constraint *c);
bool constraint_on(const constraint *c); /* is what comes next masked? */
int constraint_mask(constraint *c, float *row, int n_vocab, err *e); /* as grammar_mask; nothing while it is not on */
int constraint_take(constraint *c, int32_t id, bool *done, err *e);  /* done: nothing can follow */

#endif
