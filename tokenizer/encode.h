/* encode: the work space of one call of tokenizer_encode, and the stages that a text goes through. */
#ifndef QUERN_TOKENIZER_ENCODE_H
#define QUERN_TOKENIZER_ENCODE_H

#include "tokenizer/parts.h"

struct symbol {
    int32_t id, prev, next;
};
struct reached { /* the best way to a place: its last entry (-1: an unknown character), and where that begins (-1: none yet) */
    double score;
    int32_t id, from;
};
struct cached {
    uint8_t n, n_ids;
    char key[30];
    int32_t id[8];
};
enum { CACHE_SLOTS = 4096 };

struct user_parts {
    const text_range *p; /* rising, apart */
    size_t n;
};
struct encoder {
    const tokenizer *t;
    ids *out;
    size_t total; /* bytes of the text */
    const char *text;
    struct user_parts user, mapped; /* of the text; of the piece of it in work, in its normalized form */
    text_range *mapping;            /* [user.n] what mapped points to */
    buf aside[2];
    struct regex_work work;
    buf normal[2], level[MAX_RULES], key, bytes;
    bool escaped; /* ill-formed bytes stand in the text as utf8_escape writes them */
    struct symbol *symbol;
    uint64_t *heap; /* see bpe.c */
    struct reached *step;
    size_t n_symbol, cap_symbol, n_heap, cap_heap, cap_step;
    struct cached *cache; /* words that took merging, by hash */
    err *e;
};
int normalize(const tokenizer *t, struct slice *s, buf work[2], struct regex_work *w, err *e); /* *s: in work[], or as before */
int replace_all(const struct rule *r, struct slice s, buf *out, struct regex_work *w, err *e); /* a by b */
int pretokenize(struct encoder *x, size_t rule, struct slice s, bool first);                   /* and on to the model */
int model_encode(struct encoder *x, struct slice word);
int word_encode(struct encoder *x, struct slice word); /* by the kind of model, without looking the whole word up */
int bpe_encode(struct encoder *x, struct slice word);
int wordpiece_encode(struct encoder *x, struct slice word);
int unigram_encode(struct encoder *x, struct slice word);

#endif
