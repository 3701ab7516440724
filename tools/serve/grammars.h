/* grammars: what constrains the answers of one model: its vocabulary, made when first needed, and compiled grammars, kept by their text as
 * long as there is room. From any thread; what is held stays good until it is put back. */
#ifndef QUERN_SERVE_GRAMMARS_H
#define QUERN_SERVE_GRAMMARS_H

#include "runtime/schema.h"

enum { GRAMMARS_KEPT = 32, GRAMMARS_KEPT_TEXT = 1 << 20 }; /* grammars, and bytes of the text of one */

typedef struct grammars grammars;
typedef struct kept_grammar kept_grammar;

/* What is asked for: a grammar with values of schemas in it, or (gbnf NULL) rule[0]'s schema alone. markers: special tokens whose text counts
 * as text, for grammars that write them. */
typedef struct grammar_ask {
    const char *gbnf;
    size_t n;
    const schema_rule *rules; /* [n_rules] */
    int n_rules;
    const char *const *markers; /* up to a NULL; NULL: none */
} grammar_ask;

grammars *grammars_new(const tokenizer *t); /* t: borrowed; NULL: out of memory */
void grammars_free(grammars *g);            /* after all that was held has been put back */
/* Holds it. *which: the rule an error is of; -1: the grammar itself. */
int grammars_hold(grammars *g, const grammar_ask *ask, kept_grammar **out, int *which, err *e);
void grammars_put(kept_grammar *k);
grammar *kept_grammar_of(const kept_grammar *k);
const vocabulary *kept_vocabulary_of(const kept_grammar *k);
int grammars_count(grammars *g); /* that are kept; for tests */

#endif
