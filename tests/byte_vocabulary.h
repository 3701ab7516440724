/* A small vocabulary for tests and fuzzers of grammars: the 256 bytes, some longer tokens, then tokens without text, as an end of text is. */
#ifndef QUERN_TEST_BYTE_VOCABULARY_H
#define QUERN_TEST_BYTE_VOCABULARY_H

#include <stdlib.h>
#include <string.h>

#include "runtime/grammar.h"

enum { BYTE_TOKENS = 256, BYTE_IDS_MOST = 512 };

/* Ids 0 to 255 are bytes, then come the words; the rest up to n_ids has no text. */
static inline vocabulary *byte_vocabulary(const char *const *words, int n_words, int n_ids) {
    char byte[BYTE_TOKENS];
    const char *piece[BYTE_IDS_MOST];
    size_t n[BYTE_IDS_MOST];
    vocabulary *v;
    err e = { 0 };
    if (n_ids > BYTE_IDS_MOST) abort();
    for (int i = 0; i < n_ids; i++) {
        if (i < BYTE_TOKENS) byte[i] = (char)i;
        piece[i] = i < BYTE_TOKENS ? byte + i : i - BYTE_TOKENS < n_words ? words[i - BYTE_TOKENS] : "";
        n[i] = i < BYTE_TOKENS ? 1 : strlen(piece[i]);
    }
    if (vocabulary_of(&v, piece, n, n_ids, &e)) abort();
    return v;
}

#endif
