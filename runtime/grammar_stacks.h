/* grammar_stacks: where a text stands in a grammar: a set of places, each with all the stacks below it. Not for others than grammar.c and
 * grammar_mask.c. Sets, and what they are made of, are kept once each, so equal sets have equal numbers. */
#ifndef QUERN_GRAMMAR_STACKS_H
#define QUERN_GRAMMAR_STACKS_H

#include "runtime/grammar_net.h"

typedef struct item {
    uint32_t state, data, node; /* of the network; of an object, else 0; what lies below */
} item;

typedef item edge; /* a return: to this state, with this data, above this node */

enum { SET_MAY_END = 1, /* the whole grammar may end here */
       SET_LEFT = 2 };  /* of sets above NODE_UNKNOWN: something unknown may go on here */

typedef struct stack_set {
    uint32_t first, n; /* items */
    uint32_t flags;
    uint32_t *next;    /* [n_classes] sets behind a byte of each class, SET_UNKNOWN where not asked yet; NULL: none was */
} stack_set;

enum { SET_DEAD = 0, SET_UNKNOWN = UINT32_MAX };
enum { NODE_ROOT = 0, NODE_UNKNOWN = 1 };

struct table { /* of numbers by hash, open addressing */
    uint32_t *slot, size, used;
};

typedef struct stack_node {
    uint32_t first, n, depth;
} stack_node;

typedef struct blob { /* an object's data, a key, a list of keys: bytes, kept once */
    uint32_t at, n;
} blob;

struct list { /* growable */
    void *p;
    uint32_t n, cap;
};

typedef struct stacks {
    const net *n;
    struct list items, edges, nodes, sets, blobs, bytes;
    struct table item_table, node_table, set_table, blob_table;
    struct list work, out, pending, found; /* of one closure */
    struct table seen;
    size_t memory;
    uint32_t flags, returns; /* of the closure being made */
    bool walking;        /* masks: other keys of objects are not kept */
    const char *failure; /* a limit that was met, or NULL */
    bool no_memory;
} stacks;

void stacks_begin(stacks *s, const net *n);
void stacks_free(stacks *s);
uint32_t stacks_start(stacks *s, uint32_t state, uint32_t node, bool close); /* a set of one place; close: with what can be reached from it */
uint32_t stacks_items(stacks *s, const item *p, uint32_t n);                 /* a set of these */
/* One byte further. walking: for masks; remembered, and of other keys of an object only as much is kept as a mask needs. */
uint32_t stacks_step(stacks *s, uint32_t set, uint8_t byte, bool walking);
uint32_t stacks_for_walk(stacks *s, uint32_t set); /* the same set without what only accepting needs */
uint32_t stacks_copy(stacks *to, const stacks *from, uint32_t set); /* into another, fresh one; the number there */
int stacks_check(stacks *s, err *e);           /* -1 and the reason when a call before met a limit; then the numbers mean nothing */
static inline stack_set *stacks_set(const stacks *s, uint32_t set) { return (stack_set *)s->sets.p + set; }
static inline const item *stacks_item(const stacks *s, const stack_set *x) { return (const item *)s->items.p + x->first; }

/* Of an object's data: is it in a key, and then json_text_step's state there; -1: no. */
int stacks_key_state(const stacks *s, const item *i);

#endif
