/* compare: do two tokenizers mean the same by their ids? Owns the question of which differences count: those by which an id would stand for
 * another text, or a text become other ids. A chat template, the rules of decoding, and which ids are called BOS and EOS do neither: a
 * chat model and its base differ just there. It must not know why somebody asks. */
#include <stdlib.h>

#include "tokenizer/parts.h"

static const char *kind_of(const tokenizer *t) {
    return t->h.model == MODEL_WORDPIECE ? "WordPiece" : t->h.model == MODEL_UNIGRAM ? "Unigram" : t->h.flags & TOK_BYTES ? "byte-level BPE" : "BPE";
}

static const char *text_or_none(const tokenizer *t, int32_t id, buf *text) {
    size_t n;
    const char *s = tokenizer_piece(t, id, &n);
    text->n = 0;
    if (s) buf_json(text, s, n < 60 ? n : 60), buf_byte(text, 0);
    return !s || text->failed ? "none" : text->p;
}

static int tell_piece(const tokenizer *a, const tokenizer *b, int32_t id, const char *what, err *e) {
    buf one = { 0 }, other = { 0 };
    fail_code(e, ERR_INPUT, "%s %d is %s and %s", what, id, text_or_none(a, id, &one), text_or_none(b, id, &other));
    buf_free(&one);
    buf_free(&other);
    return -1;
}

/* Text, bytes, and how each entry is found and left out. */
static int compare_pieces(const tokenizer *a, const tokenizer *b, err *e) {
    if (a->h.n_ids != b->h.n_ids) return fail_code(e, ERR_INPUT, "%u and %u tokens", a->h.n_ids, b->h.n_ids);
    for (int32_t i = 0; (uint32_t)i < a->h.n_ids; i++) {
        if (!slice_equal(text_of(a, i), text_of(b, i)) || !slice_equal(raw_of(a, i), raw_of(b, i)) || (a->piece[i] ^ b->piece[i]) & PIECE_PRESENT)
            return tell_piece(a, b, i, "token", e);
        if ((a->piece[i] ^ b->piece[i]) & PIECE_SPECIAL) return fail_code(e, ERR_INPUT, "token %d is special in one of them", i);
        if (a->piece[i] != b->piece[i]) return fail_code(e, ERR_INPUT, "token %d is found in a text in other ways", i);
        if (a->score && b->score && memcmp(&a->score[i], &b->score[i], sizeof *a->score))
            return fail_code(e, ERR_INPUT, "the scores of token %d are %g and %g", i, a->score[i], b->score[i]);
    }
    return 0;
}

static int compare_added(const tokenizer *a, const tokenizer *b, err *e) {
    if (a->h.n_added != b->h.n_added) return fail_code(e, ERR_INPUT, "%u and %u added tokens", a->h.n_added, b->h.n_added);
    for (uint32_t i = 0; i < a->h.n_added; i++) {
        if (a->added[i].id != b->added[i].id)
            return fail_code(e, ERR_INPUT, "token %d is an added one in one of them", min_int(a->added[i].id, b->added[i].id));
        if (a->added[i].flags != b->added[i].flags) return fail_code(e, ERR_INPUT, "the added token %d is looked for in other ways", a->added[i].id);
    }
    return 0;
}

/* The first merge, by rank, that b does not have as a has it. */
static int compare_merges(const tokenizer *a, const tokenizer *b, err *e) {
    const struct merge *first = NULL;
    if (a->h.n_merges != b->h.n_merges) return fail_code(e, ERR_INPUT, "%u and %u merges", a->h.n_merges, b->h.n_merges);
    if (slice_equal(section(a, SEC_MERGE), section(b, SEC_MERGE))) return 0;
    for (uint32_t i = 0; i < a->h.n_merge_slots; i++) {
        const struct merge *m = &a->merge[i], *o = m->left < 0 ? m : merge_find(b, m->left, m->right);
        if (m->left >= 0 && (!o || o->rank != m->rank || o->result != m->result) && (!first || m->rank < first->rank)) first = m;
    }
    return first ? fail_code(e, ERR_INPUT, "their merges differ, first in that of tokens %d and %d", first->left, first->right) : 0;
}

static int compare_rules(const struct rules *a, const struct rules *b, const char *what, err *e) {
    for (size_t i = 0; i < a->n || i < b->n; i++) {
        const struct rule *x = i < a->n ? &a->p[i] : NULL, *y = i < b->n ? &b->p[i] : NULL;
        if (x && y && x->op == y->op && x->flags == y->flags && x->x == y->x && x->y == y->y && slice_equal(x->a, y->a) && slice_equal(x->b, y->b))
            continue;
        return fail_code(e, ERR_INPUT, "rule %zu of their %s is %s and %s", i + 1, what, x ? rule_name(x->op) : "none",
                         !y ? "none" : x && x->op == y->op ? "the same with other settings" : rule_name(y->op));
    }
    return 0;
}

static int compare_parts(const tokenizer *a, const tokenizer *b, err *e) {
    static const struct {
        enum section which;
        const char *what;
    } parts[] = { { SEC_BYTE, "the tokens of single bytes" }, { SEC_PREFIX, "the tokens that are added before a text" },
                  { SEC_SUFFIX, "the tokens that are added behind a text" },
                  { SEC_CONTINUE, "what tokens inside a word begin with" }, { SEC_CHARSMAP, "the maps of characters" } };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!slice_equal(section(a, parts[i].which), section(b, parts[i].which))) return fail_code(e, ERR_INPUT, "%s differ", parts[i].what);
    if (a->h.unk != b->h.unk) return fail_code(e, ERR_INPUT, "what is unknown is token %d and %d", a->h.unk, b->h.unk);
    return a->h.max_chars != b->h.max_chars
                   ? fail_code(e, ERR_INPUT, "words of %u and of %u characters are unknown", a->h.max_chars, b->h.max_chars) : 0;
}

static int compare(const tokenizer *a, const tokenizer *b, err *e) {
    enum { COUNTS = TOK_BYTES | TOK_BYTE_FALLBACK | TOK_FUSE_UNK | TOK_RAW_BYTES }; /* the others say where it came from, or stand in the pieces */
    if (a->h.model != b->h.model || (a->h.flags ^ b->h.flags) & TOK_BYTES)
        return fail_code(e, ERR_INPUT, "one is %s, the other %s", kind_of(a), kind_of(b));
    if (compare_pieces(a, b, e) || compare_added(a, b, e) || compare_merges(a, b, e)) return -1;
    if (compare_rules(&a->normalizers, &b->normalizers, "normalization", e) ||
        compare_rules(&a->pretokenizers, &b->pretokenizers, "splitting into words", e))
        return -1;
    if ((a->h.flags ^ b->h.flags) & COUNTS) return fail_code(e, ERR_INPUT, "bytes without a token are treated in other ways");
    return compare_parts(a, b, e);
}

int tokenizer_same_ids(const void *a, size_t n_a, const void *b, size_t n_b, err *e) {
    tokenizer *x = NULL, *y = NULL;
    if (!n_a && !n_b) return 0;
    if (!n_a || !n_b) return fail_code(e, ERR_INPUT, "only one of them has a tokenizer");
    if (n_a == n_b && memcmp(a, b, n_a) == 0) return 0;
    int rc = tokenizer_open(&x, a, n_a, e) || tokenizer_open(&y, b, n_b, e) ? -1 : compare(x, y, e);
    tokenizer_free(x);
    tokenizer_free(y);
    return rc;
}
