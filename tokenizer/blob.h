/* blob: a tokenizer's bytes in the model file: a header, then sections at multiples of 16, all little-endian. Texts have lengths
 * and no NUL; merges are pairs of ids. The hash functions are part of the format, because the tables they fill are stored. */
#ifndef QUERN_TOKENIZER_BLOB_H
#define QUERN_TOKENIZER_BLOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { MODEL_BPE = 1, MODEL_UNIGRAM, MODEL_WORDPIECE };
enum {
    TOK_BYTES = 1,         /* the model sees bytes: vocabulary entries are looked up by the bytes they stand for (byte-level BPE) */
    TOK_BYTE_FALLBACK = 2, /* a character that is not in the vocabulary becomes its bytes <0xXX> */
    TOK_FUSE_UNK = 4,
    TOK_IGNORE_MERGES = 8,  /* as the file said; what it means is in PIECE_WHOLE */
    TOK_SENTENCEPIECE = 16, /* from a SentencePiece model */
    TOK_RAW_BYTES = 32,     /* ill-formed bytes of a text are bytes for the model (tiktoken), not U+FFFD */
    TOK_FLAGS = 63
};
enum {
    PIECE_PRESENT = 1, /* there is an entry with this id */
    PIECE_SPECIAL = 2, /* left out when special tokens are skipped */
    PIECE_MODEL = 4,   /* the model finds it by its text */
    PIECE_WHOLE = 8,   /* a word of just this text is this id: no merging needed */
    PIECE_BYTE = 16,   /* <0xXX> */
    PIECE_UNKNOWN = 32,
    PIECE_USER = 64, /* SentencePiece user-defined: matched in the text before the model */
    PIECE_FLAGS = 127
};
enum { ADDED_SPECIAL = 1, ADDED_LSTRIP = 2, ADDED_RSTRIP = 4, ADDED_SINGLE_WORD = 8, ADDED_NORMALIZED = 16, ADDED_FLAGS = 31 };

enum section {
    SEC_TEXT_AT, /* u32[n_ids + 1]: where each entry's text as written begins */
    SEC_TEXT,
    SEC_RAW_AT,
    SEC_RAW,   /* the bytes entries stand for, where a ByteLevel rule makes them differ */
    SEC_PIECE, /* u8[n_ids]: PIECE_ */
    SEC_VOCAB, /* struct vocab_slot[n_vocab_slots]: open addressing by piece_hash */
    SEC_MERGE, /* struct merge[n_merge_slots]: open addressing by pair_hash */
    SEC_SCORE, /* f64[n_ids]: unigram */
    SEC_TRIE,  /* struct trie_unit[n_trie]: unigram: the entries that the model finds, see trie.c */
    SEC_BYTE,  /* i32[256]: the entry of each byte, -1: none */
    SEC_ADDED, /* struct added[n_added], by rising id */
    SEC_PREFIX,
    SEC_SUFFIX, /* i32[]: ids around a text */
    SEC_NORMALIZERS,
    SEC_PRETOKENIZERS,
    SEC_DECODERS, /* rules, see rules.c */
    SEC_CONTINUE, /* WordPiece: what entries inside a word begin with */
    SEC_CHARSMAP, /* SentencePiece's precompiled character map, as in its file */
    SEC_TEMPLATE, /* the chat template; with one for tools: a zero byte, u32 length of the first, the first, the second */
    SEC_COUNT
};

#define TOK_MAGIC "QTOK\r\n\x1a\n"
enum { TOK_VERSION = 2, TOK_MAX_IDS = 1 << 24 };

struct tok_header {
    char magic[8];
    uint32_t version, header_bytes;
    uint64_t bytes;
    uint32_t model, flags;
    int32_t unk, bos, eos; /* -1: none */
    uint32_t n_ids, n_vocab_slots, n_merge_slots, n_merges, n_added;
    uint32_t max_chars; /* WordPiece: longer words are unknown */
    uint32_t n_trie;
    double min_score, max_score; /* unigram */
    uint8_t glue[32]; /* bit c: U+2581 behind a character that ends in byte c can be inside a merged piece; else words part there */
    struct {
        uint64_t at, bytes;
    } section[SEC_COUNT];
};

struct vocab_slot {
    uint32_t id_1, check;
}; /* id + 1; 0: empty */
struct merge {
    int32_t left, right;
    uint32_t rank;
    int32_t result;
}; /* left -1: empty */
struct trie_unit {
    uint32_t base, parent; /* parent UINT32_MAX: empty */
    int32_t id;            /* the entry that ends here, -1: none */
};
struct added {
    int32_t id;
    uint32_t flags;
};

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
        if (n & 4) {
            uint32_t v;
            memcpy(&v, s, 4);
            w = v;
            s += 4;
        }
        if (n & 2) {
            uint16_t v;
            memcpy(&v, s, 2);
            w = w << 16 | v;
            s += 2;
        }
        if (n & 1) w = w << 8 | (uint8_t)*s;
    }
    h = (h ^ w) * 0xBF58476D1CE4E5B9ull;
    return h ^ h >> 31;
}

static inline uint32_t slot_of(uint64_t hash, uint32_t slots) { return (uint32_t)((hash >> 32) * slots >> 32); }

#endif
