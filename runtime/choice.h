/* choice: what a checkpoint says of choosing tokens and of ending answers, where a request says nothing. What run, its replay and a server
 * share, so that the same seed gives the same answer everywhere. */
#ifndef QUERN_CHOICE_H
#define QUERN_CHOICE_H

#include "runtime/beam.h"
#include "tokenizer/tokenizer.h"

/* rules: the checkpoint's own sampling, else sample_defaults; beams 1: none. Not filled in: min_length, eos, max_new. */
beam_opts choice_defaults(const engine_info *i);
/* The least length of an answer to a prompt, or decoder's beginning, of n_prompt tokens: transformers' min_length counts those, its min_new_tokens
 * the answer alone. */
int choice_min_length(const engine_info *i, int n_prompt);

enum { ENDS_MOST = 32 };
typedef struct ends {
    int32_t id[ENDS_MOST]; /* [n] ids that end an answer */
    int n;
} ends;
ends ends_of(const engine_info *i, const tokenizer *t); /* the model's and the tokenizer's (t may be NULL), each once */
void ends_add(ends *x, int32_t id);                     /* negative: none */
bool ends_has(const ends *x, int32_t id);

/* Does the text of answer[0 .. n) hold one of the stop strings? after: the detokenizer behind the prompt. */
bool choice_holds_stop(const detok *after, const char *const *stops, int n_stops, const int32_t *answer, int n);

#endif
