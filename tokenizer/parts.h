/* parts: the tokenizer from inside. One form serves everything: a checkpoint's files become a blob (build.c), and a blob, from a
 * file or just built, is opened in place (blob.c). Encoding, decoding and writing know nothing but the opened blob. */
#ifndef QUERN_TOKENIZER_PARTS_H
#define QUERN_TOKENIZER_PARTS_H

#include "tokenizer/blob.h"
#include "tokenizer/regex.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

struct slice {
    const char *p;
    size_t n;
};
static inline bool slice_equal(struct slice a, struct slice b) { return a.n == b.n && (!a.n || memcmp(a.p, b.p, a.n) == 0); }

/* ---- rules ---- */

enum rule_op {
    RULE_NORMALIZE = 1, /* x: UNI_COMPOSE, UNI_COMPAT */
    RULE_LOWERCASE,
    RULE_STRIP /* x 1: left, 2: right */,
    RULE_REPLACE /* a: regex, b */,
    RULE_PREPEND /* a */,
    RULE_SENTENCEPIECE /* x: SP_ */,
    RULE_CHARSMAP,
    RULE_BERT_CHINESE,
    RULE_SPLIT, /* a: regex, x: SPLIT_, y 1: inverted */
    RULE_PREFIX_SPACE,
    RULE_METASPACE /* a: its character; x: PREPEND_ */,
    RULE_BYTE_LEVEL,
    RULE_BYTE_FALLBACK,
    RULE_FUSE,
    RULE_UNSTRIP /* a: character, x: from the start, y: from the end */,
    RULE_UNMETASPACE /* a, x 1: the first one is dropped */,
    RULE_UNWORDPIECE /* a: prefix, x 1: clean up */,
    RULE_JOIN,
    RULE_UNSENTENCEPIECE /* x: SP_, a: what unknown looks like */,
    RULE_BYTES, /* each byte becomes its character of the byte-level alphabet */
    RULE_COUNT
};
enum { RULE_LITERAL = 1 }; /* flags: a is text, not a regular expression */
enum { SP_PREFIX = 1, SP_COLLAPSE = 2, SP_ESCAPE = 4, SP_SUFFIX = 8 };
enum { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_PREVIOUS, SPLIT_NEXT, SPLIT_CONTIGUOUS };
enum { PREPEND_NEVER, PREPEND_ALWAYS, PREPEND_FIRST };
enum { MAX_RULES = 32 };
enum { LIST_NORMALIZER, LIST_PRETOKENIZER, LIST_DECODER };

struct rule {
    uint32_t op, flags;
    int32_t x, y;
    struct slice a, b;
    regex *re;
};
struct rules {
    struct rule p[MAX_RULES];
    size_t n;
};
void rule_write(buf *out, const struct rule *r);
int rules_read(struct rules *rs, struct slice bytes, int list, err *e); /* checked; slices borrow from bytes */
void rules_free(struct rules *rs);
const char *rule_name(uint32_t op);

/* ---- many texts looked for at once: the longest that begins at a place ---- */

struct matcher {
    struct {
        struct slice text;
        uint32_t which;
    } * p; /* sorted by text */
    size_t n;
    uint32_t from[257]; /* by first byte */
};
int matcher_build(struct matcher *m, arena *a, const struct slice *texts, const uint32_t *which, size_t n, err *e);
int64_t matcher_at(const struct matcher *m, const char *s, size_t n, size_t *len); /* which, or -1; n > 0 */

/* ---- the opened tokenizer ---- */

struct tokenizer {
    struct tok_header h;
    const uint8_t *blob;
    size_t n;
    void *owned; /* the blob's memory, if not borrowed */
    const uint32_t *text_at, *raw_at;
    const char *text, *raw; /* raw: the same as text if there is no such section */
    const uint32_t *key_at; /* what the model looks entries up by: one of the two */
    const char *key;
    const uint8_t *piece;
    const struct vocab_slot *vocab;
    const struct merge *merge;
    const double *score;
    const struct trie_unit *trie;
    const int32_t *byte_id;
    const struct added *added;
    struct rules normalizers, pretokenizers, decoders;
    struct matcher plain, normal, user; /* added tokens found before and after normalization; user-defined pieces */
    int32_t ascii_id[128];              /* entries of one ASCII character */
    size_t longest;                     /* bytes of the longest entry that the model finds by its text */
    bool special_normal;                /* some special token is looked for after normalization */
    arena mem;
};
static inline struct slice section(const tokenizer *t, enum section s) {
    return (struct slice){ (const char *)t->blob + t->h.section[s].at, (size_t)t->h.section[s].bytes };
}
static inline struct slice text_of(const tokenizer *t, int32_t id) {
    return (struct slice){ t->text + t->text_at[id], t->text_at[id + 1] - t->text_at[id] };
}
static inline struct slice raw_of(const tokenizer *t, int32_t id) {
    return (struct slice){ t->raw + t->raw_at[id], t->raw_at[id + 1] - t->raw_at[id] };
}
static inline uint32_t trie_next(const tokenizer *t, uint32_t node, uint8_t byte) { /* 0, the root: there is none */
    uint32_t to = t->trie[node].base + byte;
    return to < t->h.n_trie && t->trie[to].parent == node ? to : 0;
}
static inline struct slice key_of(const tokenizer *t, int32_t id) {
    return (struct slice){ t->key + t->key_at[id], t->key_at[id + 1] - t->key_at[id] };
}
int32_t vocab_find(const tokenizer *t, const char *s, size_t n); /* by what the model sees; -1 */
const struct merge *merge_find(const tokenizer *t, int32_t left, int32_t right); /* NULL: they do not merge */

/* ---- byte-level alphabet (GPT-2): each byte as a printable character ---- */
uint32_t byte_to_char(uint8_t b);
int char_to_byte(uint32_t c);                    /* -1: not of the alphabet */
bool bytes_of_text(struct slice text, buf *out); /* false: some character is not of the alphabet; out as before */

/* The two chat templates in their section: default and for tools; false if its lengths are wrong. */
bool templates_of(struct slice section, struct slice *text, struct slice *tools);

int blob_open(tokenizer **t, const void *blob, size_t n, void *owned, err *e); /* frees owned if it fails */

#endif
