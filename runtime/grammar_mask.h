/* grammar_mask: which tokens may come, of a set of places (grammar_mask.c). Not for others than grammar.c. */
#ifndef QUERN_GRAMMAR_MASK_H
#define QUERN_GRAMMAR_MASK_H

#include <stdatomic.h>

#include "runtime/grammar_stacks.h"
#include "runtime/vocabulary.h"

/* Of a state of the network, whatever lies below it: tokens that are allowed, and subtrees of the trie where that depends on what does. */
typedef struct state_mask {
    uint32_t n_ids;    /* allowed ones as a list */
    uint32_t n_open;   /* trie nodes, rising */
    bool dense;        /* allowed ones as bits */
    uint32_t data[];   /* ids, or pairs of halves of words; then the nodes */
} state_mask;

struct grammar {
    net n;
    const vocabulary *v;
    _Atomic(state_mask *) *mask; /* [n_states] made when first needed, the same for all threads */
    atomic_size_t mask_bytes, n_masks;
};

/* One thread's room for making masks. */
typedef struct mask_room {
    stacks local;        /* above what is unknown */
    uint32_t *path, *at; /* [depth + 1] sets and nodes down to where a walk is */
    uint8_t *left;       /* [depth + 1] */
    uint64_t *bits;      /* [words] */
    struct list open;
} mask_room;

static inline size_t mask_words(const vocabulary *v) { return ((size_t)v->n + 63) / 64; }
int mask_room_begin(mask_room *r, const grammar *g, err *e);
void mask_room_free(mask_room *r);
/* Fills bits [mask_words] with the tokens that set (of stacks_for_walk) allows. */
int mask_make(mask_room *r, grammar *g, stacks *s, uint32_t set, uint64_t *bits, err *e);

#endif
