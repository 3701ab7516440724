/* grammar: what a text may be, and so which token may come next. A grammar in GBNF (as llama.cpp's users write it), or one made of a
 * JSON Schema (schema.h), becomes a pushdown automaton over bytes; a state of it gives the mask of the tokens that keep the text a
 * beginning of something the grammar allows.
 *
 *   vocabulary *v; vocabulary_new(&v, tokenizer, &e)                     once for a tokenizer: the trie of its tokens' bytes
 *   grammar *g; grammar_compile(&g, v, text, n, &e)                      once; states of many threads share it
 *   grammar_state *s; grammar_state_new(&s, g, eos, n_eos, &e)           for each answer
 *   grammar_mask(s, logits, n_vocab, &e); id = pick(logits); grammar_accept(s, id, &e); until grammar_done(s)
 *
 * A state costs memory by the depth of what is open, not by the length of the text. Ambiguity is bounded: equal stacks are one, stacks
 * that share their lower part share its memory. Past GRAMMAR_MAX_DEPTH or GRAMMAR_MAX_BYTES a call fails and says which it was. */
#ifndef QUERN_GRAMMAR_H
#define QUERN_GRAMMAR_H

#include "tokenizer/tokenizer.h"

enum {
    GRAMMAR_MAX_TEXT = 4 << 20,   /* bytes of a grammar's text */
    GRAMMAR_MAX_GROUPS = 500,      /* groups within groups, in the text */
    GRAMMAR_MAX_STATES = 1 << 18,  /* of the automaton: repetitions are written out */
    GRAMMAR_MAX_DEPTH = 1 << 17,   /* rules open at once in a text */
    GRAMMAR_MAX_BYTES = 256 << 20, /* memory of one state */
};

/* The bytes of each token in a trie. Special tokens are in none: they match no text. Borrows nothing; states and grammars borrow it. */
typedef struct vocabulary vocabulary;
int vocabulary_new(vocabulary **v, const tokenizer *t, err *e);
int vocabulary_of(vocabulary **v, const char *const *piece, const size_t *len, int n, err *e); /* [n] bytes; empty: matches nothing */
void vocabulary_free(vocabulary *v);
const char *vocabulary_bytes(const vocabulary *v, int32_t id, size_t *n); /* borrowed; *n 0 where a token matches no text */

typedef struct grammar grammar;
typedef struct grammar_state grammar_state;

/* The rule "root" is the whole. Errors say line and column; left recursion names its cycle. */
int grammar_compile(grammar **g, const vocabulary *v, const char *gbnf, size_t n, err *e);
void grammar_free(grammar *g); /* after all of its states */

/* eos: [n_eos] copied; these tokens end the text, and are allowed where it may end. Several threads may use states of one grammar;
 * one state belongs to one thread at a time. */
int grammar_state_new(grammar_state **s, grammar *g, const int32_t *eos, int n_eos, err *e);
int grammar_state_clone(grammar_state **s, const grammar_state *from, err *e);
int grammar_state_reset(grammar_state *s, err *e); /* to the beginning; what was learnt stays */
void grammar_state_free(grammar_state *s);

/* Logits [n_vocab] of tokens that may not come become -INFINITY. Fails at a limit or without memory; then the logits are as they were. */
int grammar_mask(grammar_state *s, float *logits, int n_vocab, err *e);
bool grammar_allows(grammar_state *s, int32_t id); /* one token, without a mask */
/* The token was picked. One that is not allowed is an error (ERR_INPUT), and changes nothing. */
int grammar_accept(grammar_state *s, int32_t id, err *e);
int grammar_accept_bytes(grammar_state *s, const char *p, size_t n, err *e); /* the same for text */
bool grammar_may_end(const grammar_state *s); /* the text so far is whole */
bool grammar_done(const grammar_state *s);    /* and nothing can be added to it, or it has been ended */

typedef struct grammar_figures {
    size_t states;            /* of the automaton */
    size_t masks, mask_bytes; /* shared ones, made so far */
    size_t state_bytes;       /* of this state */
} grammar_figures;
grammar_figures grammar_about(const grammar_state *s);

#endif
