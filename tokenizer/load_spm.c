/* load_spm: a SentencePiece model (sentencepiece_model.proto), read by hand: protocol buffers are tags, lengths and bytes. Owns
 * what its fields mean and the making of merges from scores. Every length is checked against what is left. It must not know what
 * happens to a text. */
#include "tokenizer/build.h"

#include <stdlib.h>

enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };
enum { TYPE_UNIGRAM = 1, TYPE_BPE };

/* ---- protocol buffers: the wire format ---- */

struct field {
    uint32_t number;
    uint64_t value;     /* varint, or the bits of a fixed number */
    struct slice bytes; /* n bytes, if length-delimited */
};

static uint64_t varint(cursor *c) {
    uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        const uint8_t *p = cursor_take(c, 1);
        if (!p) return 0;
        v |= (uint64_t)(*p & 0x7f) << shift;
        if (!(*p & 0x80)) return v;
    }
    c->failed = true;
    return 0;
}

/* The next field; false at the end or where the bytes make no sense (then c->failed). */
static bool next_field(cursor *c, struct field *f) {
    if (c->failed || c->at == c->n) return false;
    uint64_t tag = varint(c);
    *f = (struct field){ .number = (uint32_t)(tag >> 3) };
    switch (tag & 7) {
    case 0:
        f->value = varint(c);
        break;
    case 1:
        f->value = cursor_u64(c);
        break;
    case 5:
        f->value = cursor_u32(c);
        break;
    case 2:
        f->bytes.n = varint(c);
        f->bytes.p = cursor_take(c, f->bytes.n);
        break;
    default:
        c->failed = true;
    }
    return !c->failed;
}

static cursor inside(struct slice s) { return (cursor){ (const uint8_t *)s.p, s.n, 0, false }; }

/* ---- the model's messages ---- */

struct model {
    struct build *b;
    uint64_t type;
    int32_t unk, bos, eos;
    bool byte_fallback, suffix, prefix, collapse, escape;
    struct slice unk_surface, denormalizer;
    err *e;
};

static int bad_model(struct model *m, const char *what) {
    return fail_code(m->e, ERR_INPUT, "not a SentencePiece model: %s", what);
}

uint8_t sentencepiece_flags(uint64_t type) {
    switch (type) {
    case NORMAL:
    case UNUSED:
        return PIECE_MODEL;
    case USER_DEFINED:
        return PIECE_MODEL | PIECE_USER;
    case UNKNOWN:
        return PIECE_UNKNOWN;
    case CONTROL:
        return PIECE_SPECIAL;
    case BYTE:
        return PIECE_BYTE;
    default:
        return 0;
    }
}

static int read_piece(struct model *m, struct slice bytes) {
    cursor c = inside(bytes);
    struct slice text = { "", 0 };
    uint64_t type = NORMAL;
    float score = 0;
    for (struct field f; next_field(&c, &f);) {
        uint32_t bits = (uint32_t)f.value;
        if (f.number == 1 && f.bytes.p) text = f.bytes;
        if (f.number == 2) memcpy(&score, &bits, 4);
        if (f.number == 3) type = f.value;
    }
    if (c.failed || !sentencepiece_flags(type)) return bad_model(m, "a piece cannot be read");
    if (!(score > -1e30f && score < 1e30f)) return bad_model(m, "a piece's score is out of range");
    if (!text.n || !utf8_valid(text.p, text.n)) return bad_model(m, "a piece is empty or not UTF-8");
    if (type == UNUSED)
        return fail_code(m->e, ERR_INPUT, "SentencePiece model: unused pieces (\"%.*s\") are not supported",
                         (int)(text.n < 60 ? text.n : 60), text.p);
    return build_piece(m->b, (int64_t)m->b->n_piece, text, sentencepiece_flags(type), score, m->e);
}

static int read_trainer(struct model *m, struct slice bytes) {
    cursor c = inside(bytes);
    for (struct field f; next_field(&c, &f);) switch (f.number) {
        case 3:
            m->type = f.value;
            break;
        case 24:
            m->suffix = f.value;
            break;
        case 35:
            m->byte_fallback = f.value;
            break;
        case 40:
            m->unk = (int32_t)f.value;
            break;
        case 41:
            m->bos = (int32_t)f.value;
            break;
        case 42:
            m->eos = (int32_t)f.value;
            break;
        case 44:
            m->unk_surface = f.bytes;
            break;
        default:
            break;
        }
    return c.failed ? bad_model(m, "its trainer_spec cannot be read") : 0;
}

static int read_normalizer(struct model *m, struct slice bytes, struct slice *map) {
    cursor c = inside(bytes);
    for (struct field f; next_field(&c, &f);) switch (f.number) {
        case 2:
            *map = f.bytes;
            break;
        case 3:
            m->prefix = f.value;
            break;
        case 4:
            m->collapse = f.value;
            break;
        case 5:
            m->escape = f.value;
            break;
        default:
            break;
        }
    return c.failed ? bad_model(m, "its normalizer_spec cannot be read") : 0;
}

static int read_model(struct model *m, struct slice bytes) {
    cursor c = inside(bytes);
    int rc = 0;
    struct field f;
    while (!rc && next_field(&c, &f)) {
        if (f.number >= 1 && f.number <= 5 && !f.bytes.p) return bad_model(m, "a message is missing its length");
        if (f.number == 1) rc = read_piece(m, f.bytes);
        if (f.number == 2) rc = read_trainer(m, f.bytes);
        if (f.number == 3) rc = read_normalizer(m, f.bytes, &m->b->charsmap);
        if (f.number == 5) rc = read_normalizer(m, f.bytes, &m->denormalizer);
    }
    if (rc) return rc;
    if (c.failed) return bad_model(m, "it is cut off or damaged");
    return m->b->n_piece ? 0 : bad_model(m, "it has no pieces");
}

/* ---- merges: any two pieces may join into a third; the better its score, the earlier ---- */

static int by_score(const void *a, const void *b) {
    double x = ((const struct piece *)a)->score, y = ((const struct piece *)b)->score;
    return (x < y) - (x > y);
}

static int piece_merges(struct model *m, struct slice s, uint32_t rank) {
    int32_t result = build_find(m->b, s);
    for (size_t k = (size_t)utf8_len(s.p[0]); k < s.n; k += (size_t)utf8_len(s.p[k])) {
        int32_t left = build_find(m->b, (struct slice){ s.p, k }), right = build_find(m->b, (struct slice){ s.p + k, s.n - k });
        if (left >= 0 && right >= 0 && build_merge(m->b, left, right, rank, result, m->e)) return -1;
    }
    return 0;
}

/* Pieces of equal score have equal rank: then the leftmost in the text goes first. */
static int make_merges(struct model *m) {
    struct build *b = m->b;
    struct piece *sorted = malloc(b->n_piece * sizeof *sorted);
    if (!sorted) return fail_memory(m->e, b->n_piece * sizeof *sorted, "a SentencePiece model");
    memcpy(sorted, b->piece, b->n_piece * sizeof *sorted);
    qsort(sorted, b->n_piece, sizeof *sorted, by_score);
    int rc = 0;
    uint32_t rank = 0;
    for (size_t i = 0; i < b->n_piece && !rc; i++) {
        if (i && sorted[i].score != sorted[i - 1].score) rank++;
        if (sorted[i].flags & PIECE_MODEL) rc = piece_merges(m, sorted[i].text, rank);
    }
    free(sorted);
    return rc;
}

static int32_t id_or_none(const struct build *b, int32_t id) { return id >= 0 && (size_t)id < b->n_piece ? id : -1; }

static int add_rules(struct model *m) {
    struct build *b = m->b;
    int32_t how =
        (m->prefix ? SP_PREFIX : 0) | (m->collapse ? SP_COLLAPSE : 0) | (m->escape ? SP_ESCAPE : 0) | (m->suffix ? SP_SUFFIX : 0);
    if (m->denormalizer.n) return fail_code(m->e, ERR_INPUT, "SentencePiece model: a denormalizer is not supported");
    build_rule(b, LIST_NORMALIZER, (struct rule){ .op = RULE_SENTENCEPIECE, .x = how });
    build_rule(b, LIST_DECODER, (struct rule){ .op = RULE_UNSENTENCEPIECE, .x = how, .a = m->unk_surface });
    for (size_t id = 0; id < b->n_piece; id++) /* written out in a text they are found when asked for */
        if ((b->piece[id].flags & PIECE_SPECIAL) && build_added(b, (int32_t)id, ADDED_SPECIAL, m->e)) return -1;
    return 0;
}

int finish_sentencepiece(struct build *b, bool byte_fallback, bool prefix, bool collapse, err *e) {
    struct model m = { .b = b,
                       .prefix = prefix,
                       .collapse = collapse,
                       .escape = true,
                       .unk_surface = { " \xe2\x81\x87 ", 5 },
                       .e = e };
    b->flags |= TOK_SENTENCEPIECE | TOK_FUSE_UNK | (byte_fallback ? TOK_BYTE_FALLBACK : 0);
    return build_index(b, e) || (b->model == MODEL_BPE && make_merges(&m)) || add_rules(&m) ? -1 : 0;
}

int load_sentencepiece(struct build *b, const char *bytes, size_t n, err *e) {
    struct model m = { .b = b,
                       .type = TYPE_UNIGRAM,
                       .unk = 0,
                       .bos = 1,
                       .eos = 2,
                       .prefix = true,
                       .collapse = true,
                       .escape = true,
                       .unk_surface = { " \xe2\x81\x87 ", 5 },
                       .e = e };
    if (read_model(&m, (struct slice){ bytes, n })) return -1;
    if (m.type != TYPE_BPE && m.type != TYPE_UNIGRAM)
        return fail_code(e, ERR_INPUT, "SentencePiece model: its model type %llu (word or char) is not supported",
                         (unsigned long long)m.type);
    b->model = m.type == TYPE_BPE ? MODEL_BPE : MODEL_UNIGRAM;
    b->ask_config = b->add_bos = true;
    b->flags |= TOK_SENTENCEPIECE | TOK_FUSE_UNK | (m.byte_fallback ? TOK_BYTE_FALLBACK : 0);
    b->unk = id_or_none(b, m.unk);
    b->bos = id_or_none(b, m.bos);
    b->eos = id_or_none(b, m.eos);
    return build_index(b, e) || (m.type == TYPE_BPE && make_merges(&m)) || add_rules(&m) ? -1 : 0;
}
