/* parts: the tokenizer from inside. One form serves everything: a checkpoint's files become a blob (build.c), and a blob, from a
 * file or just built, is opened in place (blob.c). Encoding, decoding and writing know nothing but the opened blob. */
#ifndef QUERN_TOKENIZER_PARTS_H
#define QUERN_TOKENIZER_PARTS_H

#include "tokenizer/regex.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

#include <string.h>

struct slice {
    const char *p;
    size_t n;
};
static inline bool slice_equal(struct slice a, struct slice b) { return a.n == b.n && (!a.n || memcmp(a.p, b.p, a.n) == 0); }

/* ---- the blob: a header, sections at multiples of 16, all little-endian ---- */

enum { MODEL_BPE = 1, MODEL_UNIGRAM, MODEL_WORDPIECE };
enum { TOK_BYTES = 1,         /* the model sees bytes: vocabulary entries are looked up by the bytes they stand for (byte-level BPE) */
       TOK_BYTE_FALLBACK = 2, /* a character that is not in the vocabulary becomes its bytes <0xXX> */
       TOK_FUSE_UNK = 4,
       TOK_IGNORE_MERGES = 8, /* as the file said; what it means is in PIECE_WHOLE */
       TOK_SENTENCEPIECE = 16,/* from a SentencePiece model */
       TOK_FLAGS = 31 };
enum { PIECE_PRESENT = 1,     /* there is an entry with this id */
       PIECE_SPECIAL = 2,     /* left out when special tokens are skipped */
       PIECE_MODEL = 4,       /* the model finds it by its text */
       PIECE_WHOLE = 8,       /* a word of just this text is this id: no merging needed */
       PIECE_BYTE = 16,       /* <0xXX> */
       PIECE_UNKNOWN = 32,
       PIECE_USER = 64,       /* SentencePiece user-defined: matched in the text before the model */
       PIECE_FLAGS = 127 };
enum { ADDED_SPECIAL = 1, ADDED_LSTRIP = 2, ADDED_RSTRIP = 4, ADDED_SINGLE_WORD = 8, ADDED_NORMALIZED = 16, ADDED_FLAGS = 31 };

enum section { SEC_TEXT_AT, /* u32[n_ids + 1]: where each entry's text as written begins */
               SEC_TEXT, SEC_RAW_AT, SEC_RAW, /* the bytes entries stand for, where a ByteLevel rule makes them differ */
               SEC_PIECE,   /* u8[n_ids]: PIECE_ */
               SEC_VOCAB,   /* struct vocab_slot[n_vocab_slots]: open addressing by piece_hash */
               SEC_MERGE,   /* struct merge[n_merge_slots]: open addressing by pair_hash */
               SEC_SCORE,   /* f32[n_ids]: unigram */
               SEC_BYTE,    /* i32[256]: the entry of each byte, -1: none */
               SEC_ADDED,   /* struct added[n_added], by rising id */
               SEC_PREFIX, SEC_SUFFIX, /* i32[]: ids around a text */
               SEC_NORMALIZERS, SEC_PRETOKENIZERS, SEC_DECODERS, /* rules, see rules.c */
               SEC_CHARSMAP, /* SentencePiece's precompiled character map, as in its file */
               SEC_TEMPLATE, /* the chat template */
               SEC_COUNT };

#define TOK_MAGIC "QTOK\r\n\x1a\n"
enum { TOK_VERSION = 1, TOK_MAX_IDS = 1 << 24 };

struct tok_header {
    char magic[8];
    uint32_t version, header_bytes;
    uint64_t bytes;
    uint32_t model, flags;
    int32_t unk, bos, eos; /* -1: none */
    uint32_t n_ids, n_vocab_slots, n_merge_slots, n_merges, n_added;
    uint32_t max_chars; /* WordPiece: longer words are unknown */
    uint32_t reserved;
    uint8_t glue[32]; /* bit c: U+2581 behind a character that ends in byte c can be inside a merged piece; else words part there */
    struct { uint64_t at, bytes; } section[SEC_COUNT];
};

struct vocab_slot { uint32_t id_1, check; }; /* id + 1; 0: empty */
struct merge { int32_t left, right; uint32_t rank; int32_t result; }; /* left -1: empty */
struct added { int32_t id; uint32_t flags; };

static inline uint64_t pair_hash(int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15ull;
    return (h ^ h >> 29) * 0xBF58476D1CE4E5B9ull;
}

static inline uint64_t piece_hash(const char *s, size_t n) {
    uint64_t h = n * 0x9E3779B97F4A7C15ull, w;
    for (; n > 8; s += 8, n -= 8) {
        memcpy(&w, s, 8);
        h = (h ^ w) * 0xBF58476D1CE4E5B9ull;
        h ^= h >> 32;
    }
    w = 0;
    if (n & 8) memcpy(&w, s, 8);
    else {
        if (n & 4) { uint32_t v; memcpy(&v, s, 4); w = v; s += 4; }
        if (n & 2) { uint16_t v; memcpy(&v, s, 2); w = w << 16 | v; s += 2; }
        if (n & 1) w = w << 8 | (uint8_t)*s;
    }
    h = (h ^ w) * 0xBF58476D1CE4E5B9ull;
    return h ^ h >> 31;
}

static inline uint32_t slot_of(uint64_t hash, uint32_t slots) { return (uint32_t)((hash >> 32) * slots >> 32); }

/* ---- rules ---- */

enum rule_op {
    RULE_NORMALIZE = 1, /* x: UNI_COMPOSE, UNI_COMPAT */
    RULE_LOWERCASE, RULE_STRIP /* x 1: left, 2: right */, RULE_STRIP_ACCENTS, RULE_REPLACE /* a: regex, b */, RULE_PREPEND /* a */,
    RULE_CHARSMAP, RULE_SENTENCEPIECE /* x: SP_ */, RULE_BERT_CLEAN, RULE_BERT_CHINESE,
    RULE_SPLIT,         /* a: regex, x: SPLIT_, y 1: inverted */
    RULE_PREFIX_SPACE, RULE_METASPACE /* a: its character; x: PREPEND_ */,
    RULE_BYTE_LEVEL, RULE_BYTE_FALLBACK, RULE_FUSE, RULE_UNSTRIP /* a: character, x: from the start, y: from the end */,
    RULE_UNMETASPACE /* a, x 1: the first one is dropped */, RULE_UNWORDPIECE /* a: prefix, x 1: clean up */, RULE_UNSUFFIX /* a */, RULE_JOIN,
    RULE_UNSENTENCEPIECE /* x: SP_, a: what unknown looks like */,
    RULE_COUNT };
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
    struct { struct slice text; uint32_t which; } *p; /* sorted by text */
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
    const uint8_t *piece;
    const struct vocab_slot *vocab;
    const struct merge *merge;
    const float *score;
    const int32_t *byte_id;
    const struct added *added;
    struct rules normalizers, pretokenizers, decoders;
    struct matcher plain, normal, user; /* added tokens found before and after normalization; user-defined pieces */
    int32_t ascii_id[128];  /* entries of one ASCII character */
    size_t longest;         /* bytes of the longest entry that the model finds by its text */
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
int32_t vocab_find(const tokenizer *t, const char *s, size_t n); /* by what the model sees; -1 */

/* ---- encoding: one call's work space ---- */

struct symbol { int32_t id, prev, next; };
struct candidate { uint32_t rank, at; int32_t left, right; };
struct cached { uint8_t n, n_ids; char key[30]; int32_t id[8]; };
enum { CACHE_SLOTS = 4096 };

struct encoder {
    const tokenizer *t;
    ids *out;
    size_t total; /* bytes of the text */
    struct regex_work work;
    buf normal[2], level[MAX_RULES];
    struct symbol *symbol;
    struct candidate *heap;
    size_t n_symbol, cap_symbol, n_heap, cap_heap;
    struct cached *cache; /* words that took merging, by hash */
    err *e;
};
int normalize(const tokenizer *t, struct slice *s, buf work[2], struct regex_work *w, err *e); /* *s is then in work[], or as before */
int replace_all(const struct rule *r, struct slice s, buf *out, struct regex_work *w, err *e);  /* a by b */
int pretokenize(struct encoder *x, size_t rule, struct slice s, bool first); /* and on to the model */
int model_encode(struct encoder *x, struct slice word);
int bpe_encode(struct encoder *x, struct slice word);

/* ---- byte-level alphabet (GPT-2): each byte as a printable character ---- */
uint32_t byte_to_char(uint8_t b);
int char_to_byte(uint32_t c);                        /* -1: not of the alphabet */
bool bytes_of_text(struct slice text, buf *out);     /* false: some character is not of the alphabet; out as before */

/* ---- building a blob ---- */

struct piece { struct slice text; uint8_t flags; float score; };
struct build {
    arena mem;
    uint32_t model, flags;
    int32_t unk, bos, eos;
    struct piece *piece; /* by id */
    size_t n_piece, cap_piece;
    struct merge *merge; /* result -1: not known yet */
    size_t n_merge, cap_merge;
    struct added *added;
    size_t n_added, cap_added;
    buf rules[3]; /* normalizers, pre-tokenizers, decoders */
    ids prefix, suffix;
    struct slice charsmap, chat_template;
    bool raw;       /* some rule needs the bytes of entries */
    uint32_t max_chars;
    struct id_map { uint32_t *slot; size_t n; } map; /* text -> id + 1 */
};
int build_piece(struct build *b, int64_t id, struct slice text, uint8_t flags, float score, err *e);
int build_index(struct build *b, err *e); /* after the last build_piece of the vocabulary */
int32_t build_find(const struct build *b, struct slice text);
int build_merge(struct build *b, int32_t left, int32_t right, uint32_t rank, int32_t result, err *e);
int build_added(struct build *b, int32_t id, uint32_t flags, err *e);
int32_t build_id(const struct build *b, struct slice text); /* of an added token or a vocabulary entry; -1 */
void build_rule(struct build *b, int list, struct rule r);
int build_finish(struct build *b, tokenizer **t, err *e);         /* the blob, opened and owned */
void build_free(struct build *b);

int load_json(struct build *b, const char *text, size_t n, err *e);          /* tokenizer.json */
int load_sentencepiece(struct build *b, const char *bytes, size_t n, err *e); /* tokenizer.model */
int load_rules(struct build *b, const json *root, err *e);                    /* its normalizer, pre_tokenizer, decoder */
int blob_open(tokenizer **t, const void *blob, size_t n, void *owned, err *e); /* frees owned if it fails */

#endif
