/* build: what the readers of vocabularies gather, and what becomes a blob of it. */
#ifndef QUERN_TOKENIZER_BUILD_H
#define QUERN_TOKENIZER_BUILD_H

#include "tokenizer/parts.h"

struct piece {
    struct slice text;
    uint8_t flags;
    double score;
};
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
    struct slice charsmap, chat_template, tool_template, prefix_inside;
    bool raw; /* some rule needs the bytes of entries */
    bool ask_config, add_bos, add_eos; /* what surrounds a text: the configuration says, or else the habit */
    uint32_t max_chars;
    struct id_map {
        uint32_t *slot;
        size_t n;
    } map; /* text -> id + 1 */
};
struct ordered { /* entries in the order of their bytes */
    struct slice text;
    uint32_t id;
};
uint32_t trie_build(const struct ordered *list, size_t n, buf *out); /* appends its units and gives their number */

int build_piece(struct build *b, int64_t id, struct slice text, uint8_t flags, double score, err *e);
int build_index(struct build *b, err *e); /* after the last build_piece of the vocabulary */
int32_t build_find(const struct build *b, struct slice text);
int build_merge(struct build *b, int32_t left, int32_t right, uint32_t rank, int32_t result, err *e);
/* The same of texts: 1 if one of them, or what they make, is no entry (its text is then in both, with a NUL). */
int build_join(struct build *b, struct slice left, struct slice right, uint32_t rank, buf *both, err *e);
int build_added(struct build *b, int32_t id, uint32_t flags, err *e);
bool build_has_added(const struct build *b, int32_t id);
int32_t build_id(const struct build *b, struct slice text); /* of an added token or a vocabulary entry; -1 */
void build_rule(struct build *b, int list, struct rule r);
int build_finish(struct build *b, tokenizer **t, err *e); /* the blob, opened and owned */
void build_free(struct build *b);

/* The files beside a vocabulary, as far as they are there, else NULL. */
struct beside {
    const json *config, *map, *added, *model; /* tokenizer_config.json, special_tokens_map.json, added_tokens.json, config.json */
    bool t5;                                  /* a T5 tokenizer: it has sentinels behind its vocabulary */
};

int load_json(struct build *b, const json *root, err *e);                     /* tokenizer.json */
int load_tekken(struct build *b, const json *root, err *e);                   /* tekken.json */
int load_sentencepiece(struct build *b, const char *bytes, size_t n, err *e); /* tokenizer.model */
int load_ranks(struct build *b, struct slice text, bool specials_named, err *e); /* a rank file; named: by something beside it */
bool looks_like_ranks(struct slice text);
int load_vocab_json(struct build *b, const json *vocab, struct slice merges, const struct beside *by, err *e);
int load_vocab_txt(struct build *b, struct slice text, const struct beside *by, err *e);
int add_tokens_beside(struct build *b, const struct beside *by, bool only_new, err *e); /* only_new: those that are no entry yet */
uint8_t sentencepiece_flags(uint64_t type);                                   /* PIECE_ of a piece's type; 0: no such type */
/* Merges (where b->model is MODEL_BPE) and rules for pieces, with their scores, that came without a tokenizer.model. */
int finish_sentencepiece(struct build *b, bool byte_fallback, bool prefix, bool collapse, err *e);
int load_rules(struct build *b, const json *root, err *e);                    /* its normalizer, pre_tokenizer, decoder */

/* ---- shared by readers ---- */
#define BAD_JSON(e, ...) fail_code(e, ERR_INPUT, "tokenizer.json: " __VA_ARGS__)
int json_only(const json *j, const char *names, const char *where, err *e); /* names: the members that may be there, by spaces */
int json_bool(const json *j, const char *key, bool otherwise, bool *out, const char *where, err *e);
int load_vocab(struct build *b, const json *vocab, uint64_t most, const char *where, err *e); /* {"text": id}, ids below most */
int added_flags(const json *j, uint32_t *out, err *e);                                      /* ADDED_ of an added token */
struct slice next_line(struct slice *rest); /* without its end, \n or \r\n */
bool base64_add(buf *out, struct slice text); /* false: it is not base64 */

#endif
