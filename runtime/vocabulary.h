/* vocabulary: the trie of a tokenizer's tokens (grammar.h). Not for others than the grammar's files. */
#ifndef QUERN_VOCABULARY_H
#define QUERN_VOCABULARY_H

#include "runtime/grammar.h"

typedef struct trie_node {
    uint32_t end;       /* the first node behind its subtree, in the order of a walk */
    uint32_t parent;    /* NET_NONE at the top */
    uint32_t first;     /* its tokens: order[first .. first + n) */
    uint16_t n, depth;  /* depth: bytes down to here */
    uint8_t byte;
} trie_node;

struct vocabulary {
    int n;              /* ids */
    uint32_t *at;       /* [n + 1] bytes of id: text[at[id] .. at[id + 1]) */
    char *text;
    uint32_t *order;    /* ids with bytes, sorted by them */
    uint32_t n_order;
    trie_node *node;
    uint32_t n_nodes, depth;
};

#endif
