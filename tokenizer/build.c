/* build: gathers what a checkpoint's files say and lays it out as a blob. Everything slow is done here, once, at conversion: hash
 * tables, where words may part, and which entries a word of the same text becomes without merging. It must not know file formats.
 */
#include "tokenizer/build.h"
#include "tokenizer/encode.h"

#include <stdlib.h>

static int grow(void *list, size_t *cap, size_t need, size_t size, err *e) {
    void **p = list;
    if (need <= *cap) return 0;
    size_t more = *cap ? *cap : 256;
    while (more < need) more *= 2;
    void *q = realloc(*p, more * size);
    if (!q) return fail_memory(e, more * size, "a tokenizer");
    memset((char *)q + *cap * size, 0, (more - *cap) * size);
    *p = q;
    *cap = more;
    return 0;
}

int build_piece(struct build *b, int64_t id, struct slice text, uint8_t flags, double score, err *e) {
    if (id < 0 || id >= TOK_MAX_IDS)
        return fail_code(e, ERR_INPUT, "tokenizer: entry \"%.*s\" has id %lld; expected 0 to %d", (int)(text.n < 60 ? text.n : 60),
                         text.p, (long long)id, TOK_MAX_IDS - 1);
    if (grow(&b->piece, &b->cap_piece, (size_t)id + 1, sizeof *b->piece, e)) return -1;
    struct piece *p = b->piece + id;
    if ((p->flags & PIECE_PRESENT) && !slice_equal(p->text, text))
        return fail_code(e, ERR_INPUT, "tokenizer: \"%.*s\" and \"%.*s\" have the same id %lld",
                         (int)(p->text.n < 60 ? p->text.n : 60), p->text.p, (int)(text.n < 60 ? text.n : 60), text.p,
                         (long long)id);
    *p = (struct piece){ text, p->flags | flags | PIECE_PRESENT, score };
    if ((size_t)id + 1 > b->n_piece) b->n_piece = (size_t)id + 1;
    return 0;
}

int build_index(struct build *b, err *e) {
    free(b->map.slot);
    b->map.n = b->n_piece * 2 + 1;
    b->map.slot = calloc(b->map.n, sizeof *b->map.slot);
    if (!b->map.slot) return fail_memory(e, b->map.n * 4, "a tokenizer");
    for (size_t id = 0; id < b->n_piece; id++) {
        if (!(b->piece[id].flags & PIECE_MODEL)) continue;
        size_t at = piece_hash(b->piece[id].text.p, b->piece[id].text.n) % b->map.n;
        while (b->map.slot[at] && !slice_equal(b->piece[b->map.slot[at] - 1].text, b->piece[id].text))
            at = at + 1 == b->map.n ? 0 : at + 1;
        b->map.slot[at] = (uint32_t)id + 1; /* of equal texts the last one counts */
    }
    return 0;
}

int32_t build_find(const struct build *b, struct slice text) {
    if (!b->map.n) return -1;
    for (size_t at = piece_hash(text.p, text.n) % b->map.n; b->map.slot[at]; at = at + 1 == b->map.n ? 0 : at + 1)
        if (slice_equal(b->piece[b->map.slot[at] - 1].text, text)) return (int32_t)b->map.slot[at] - 1;
    return -1;
}

int32_t build_id(const struct build *b, struct slice text) {
    for (size_t i = 0; i < b->n_added; i++)
        if (slice_equal(b->piece[b->added[i].id].text, text)) return b->added[i].id;
    return build_find(b, text);
}

int build_merge(struct build *b, int32_t left, int32_t right, uint32_t rank, int32_t result, err *e) {
    if (grow(&b->merge, &b->cap_merge, b->n_merge + 1, sizeof *b->merge, e)) return -1;
    b->merge[b->n_merge++] = (struct merge){ left, right, rank, result };
    return 0;
}

int build_join(struct build *b, struct slice left, struct slice right, uint32_t rank, buf *both, err *e) {
    int32_t l = build_find(b, left), r = build_find(b, right), result = -1;
    both->n = 0;
    if (l >= 0 && r >= 0) {
        buf_add(both, left.p, left.n);
        buf_add(both, right.p, right.n);
        result = both->failed ? -1 : build_find(b, (struct slice){ both->p ? both->p : "", both->n });
    } else buf_add(both, l < 0 ? left.p : right.p, l < 0 ? left.n : right.n);
    if (result >= 0) return build_merge(b, l, r, rank, result, e);
    buf_byte(both, 0);
    return both->failed ? fail_memory(e, left.n + right.n, "a tokenizer") : 1;
}

bool build_has_added(const struct build *b, int32_t id) {
    for (size_t i = 0; i < b->n_added; i++)
        if (b->added[i].id == id) return true;
    return false;
}

int build_added(struct build *b, int32_t id, uint32_t flags, err *e) {
    size_t i = b->n_added;
    while (i && b->added[i - 1].id > id) i--;
    if (i && b->added[i - 1].id == id) return b->added[i - 1].flags = flags, 0;
    if (grow(&b->added, &b->cap_added, b->n_added + 1, sizeof *b->added, e)) return -1;
    memmove(b->added + i + 1, b->added + i, (b->n_added++ - i) * sizeof *b->added);
    b->added[i] = (struct added){ id, flags };
    return 0;
}

void build_rule(struct build *b, int list, struct rule r) { rule_write(b->rules + list, &r); }

/* ---- sections ---- */

static void begin(struct tok_header *h, buf *out, enum section s) {
    static const char zero[16] = { 0 };
    buf_add(out, zero, round_up(out->n, 16) - out->n);
    h->section[s].at = out->n;
}

static void end(struct tok_header *h, buf *out, enum section s) { h->section[s].bytes = out->n - h->section[s].at; }

static void add_section(struct tok_header *h, buf *out, enum section s, const void *bytes, size_t n) {
    begin(h, out, s);
    buf_add(out, bytes, n);
    end(h, out, s);
}

/* The entries' texts one behind another, and where each begins: as written, or as the bytes they stand for. */
static void add_texts(const struct build *b, struct tok_header *h, buf *out, enum section at, enum section text, bool raw,
                      buf *all) {
    buf where = { 0 };
    all->n = 0;
    for (size_t id = 0; id < b->n_piece; id++) {
        struct slice s = b->piece[id].text;
        buf_u32(&where, (uint32_t)all->n);
        if (!raw || !bytes_of_text(s, all)) buf_add(all, s.p, s.n);
    }
    buf_u32(&where, (uint32_t)all->n);
    add_section(h, out, at, where.p, where.n);
    add_section(h, out, text, all->p, all->n);
    out->failed |= where.failed || all->failed;
    buf_free(&where);
}

/* What the model looks an entry up by; n = SIZE_MAX: not at all. */
static struct slice lookup_key(const struct build *b, size_t id, buf *work) {
    struct slice s = b->piece[id].text;
    work->n = 0;
    if (!(b->piece[id].flags & PIECE_MODEL)) return (struct slice){ NULL, SIZE_MAX };
    if (!(b->flags & TOK_BYTES)) return s;
    return bytes_of_text(s, work) ? (struct slice){ work->p ? work->p : "", work->n } : (struct slice){ NULL, SIZE_MAX };
}

static void add_vocab(const struct build *b, struct tok_header *h, buf *out) {
    h->n_vocab_slots = (uint32_t)(b->n_piece + b->n_piece / 2 + 1);
    struct vocab_slot *slot = calloc(h->n_vocab_slots, sizeof *slot);
    out->failed |= !slot;
    buf work = { 0 };
    for (size_t id = 0; slot && id < b->n_piece; id++) {
        struct slice key = lookup_key(b, id, &work);
        if (key.n == SIZE_MAX) continue;
        uint64_t hash = piece_hash(key.p, key.n);
        uint32_t at = slot_of(hash, h->n_vocab_slots);
        while (slot[at].id_1) at = at + 1 == h->n_vocab_slots ? 0 : at + 1;
        slot[at] = (struct vocab_slot){ (uint32_t)id + 1, (uint32_t)hash };
    }
    add_section(h, out, SEC_VOCAB, slot, h->n_vocab_slots * sizeof *slot);
    out->failed |= work.failed;
    buf_free(&work);
    free(slot);
}

static void add_merges(const struct build *b, struct tok_header *h, buf *out) {
    size_t slots = b->n_merge ? b->n_merge + b->n_merge / 2 + 1 : 0;
    struct merge *table = malloc(slots * sizeof *table + 1);
    if (!table || slots > UINT32_MAX) {
        out->failed = true;
        free(table);
        return;
    }
    memset(table, 0xff, slots * sizeof *table);
    for (size_t i = 0; i < b->n_merge; i++) {
        struct merge m = b->merge[i];
        uint32_t at = slot_of(pair_hash(m.left, m.right), (uint32_t)slots);
        while (table[at].left >= 0 && (table[at].left != m.left || table[at].right != m.right)) at = at + 1 == slots ? 0 : at + 1;
        table[at] = m; /* of equal pairs the last one holds */
    }
    h->n_merges = (uint32_t)b->n_merge;
    h->n_merge_slots = (uint32_t)slots;
    add_section(h, out, SEC_MERGE, table, slots * sizeof *table);
    free(table);
}

static void add_bytes(const struct build *b, struct tok_header *h, buf *out) {
    int32_t id[256];
    for (int c = 0; c < 256; c++) {
        char text[8];
        int n = b->flags & TOK_BYTES ? utf8_encode(text, byte_to_char((uint8_t)c))
                                     : snprintf(text, sizeof text, "<0x%02X>", (unsigned)c);
        id[c] = build_find(b, (struct slice){ text, (size_t)n });
        for (size_t i = 0; id[c] < 0 && (b->flags & TOK_SENTENCEPIECE) && i < b->n_piece; i++)
            if ((b->piece[i].flags & PIECE_BYTE) && slice_equal(b->piece[i].text, (struct slice){ text, (size_t)n }))
                id[c] = (int32_t)i;
    }
    add_section(h, out, SEC_BYTE, id, sizeof id);
}

/* Words of a text without spaces can be cut before each U+2581 that no merged piece has inside, behind this character. */
static void find_glue(const struct build *b, struct tok_header *h) {
    static const struct slice mark = { "\xe2\x96\x81", 3 };
    bool whole = b->model != MODEL_BPE || (b->flags & TOK_IGNORE_MERGES) || build_find(b, mark) < 0 ||
                 b->unk < 0; /* what is left out brings its neighbours together */
    memset(h->glue, whole ? 0xff : 0, sizeof h->glue);
    for (size_t i = 0; i < b->n_merge; i++) {
        struct slice s = b->piece[b->merge[i].result].text;
        for (size_t k = 1; k + 3 <= s.n; k++)
            if (memcmp(s.p + k, mark.p, 3) == 0) h->glue[(uint8_t)s.p[k - 1] >> 3] |= (uint8_t)(1 << ((uint8_t)s.p[k - 1] & 7));
    }
}

static int by_text(const void *a, const void *b) {
    const struct ordered *x = a, *y = b;
    int c = memcmp(x->text.p, y->text.p, x->text.n < y->text.n ? x->text.n : y->text.n);
    if (!c) c = (x->text.n > y->text.n) - (x->text.n < y->text.n);
    return c ? c : (x->id > y->id) - (x->id < y->id);
}

/* Unigram: the entries that its search finds, and the range of scores. */
static void add_trie(const struct build *b, struct tok_header *h, buf *out) {
    struct ordered *list = malloc((b->n_piece + 1) * sizeof *list);
    size_t n = 0;
    out->failed |= !list;
    for (size_t id = 0; list && id < b->n_piece; id++) {
        const struct piece *p = b->piece + id;
        if (!(p->flags & PIECE_MODEL) || !p->text.n) continue;
        if (!n || p->score < h->min_score) h->min_score = p->score;
        if (!n || p->score > h->max_score) h->max_score = p->score;
        list[n++] = (struct ordered){ p->text, (uint32_t)id };
    }
    if (n) qsort(list, n, sizeof *list, by_text);
    begin(h, out, SEC_TRIE);
    h->n_trie = trie_build(list, n, out);
    end(h, out, SEC_TRIE);
    free(list);
}

static void add_pieces(const struct build *b, struct tok_header *h, buf *out) {
    begin(h, out, SEC_PIECE);
    for (size_t id = 0; id < b->n_piece; id++) buf_byte(out, b->piece[id].flags);
    end(h, out, SEC_PIECE);
    if (b->model != MODEL_UNIGRAM) return;
    begin(h, out, SEC_SCORE);
    for (size_t id = 0; id < b->n_piece; id++) buf_add(out, &b->piece[id].score, sizeof(double));
    end(h, out, SEC_SCORE);
    add_trie(b, h, out);
}

static void add_templates(const struct build *b, struct tok_header *h, buf *out) {
    begin(h, out, SEC_TEMPLATE);
    if (b->tool_template.n) {
        buf_byte(out, 0);
        buf_u32(out, (uint32_t)b->chat_template.n);
    }
    buf_add(out, b->chat_template.p, b->chat_template.n);
    buf_add(out, b->tool_template.p, b->tool_template.n);
    end(h, out, SEC_TEMPLATE);
}

static void lay_out(const struct build *b, buf *out) {
    struct tok_header h = { .version = TOK_VERSION,
                            .header_bytes = sizeof h,
                            .model = b->model,
                            .flags = b->flags,
                            .unk = b->unk,
                            .bos = b->bos,
                            .eos = b->eos,
                            .n_ids = (uint32_t)b->n_piece,
                            .n_added = (uint32_t)b->n_added,
                            .max_chars = b->max_chars };
    buf texts = { 0 };
    memcpy(h.magic, TOK_MAGIC, sizeof h.magic);
    buf_add(out, &h, sizeof h);
    add_texts(b, &h, out, SEC_TEXT_AT, SEC_TEXT, false, &texts);
    if (b->raw) add_texts(b, &h, out, SEC_RAW_AT, SEC_RAW, true, &texts);
    add_pieces(b, &h, out);
    add_vocab(b, &h, out);
    add_merges(b, &h, out);
    add_bytes(b, &h, out);
    add_section(&h, out, SEC_ADDED, b->added, b->n_added * sizeof *b->added);
    add_section(&h, out, SEC_PREFIX, b->prefix.p, b->prefix.n * 4);
    add_section(&h, out, SEC_SUFFIX, b->suffix.p, b->suffix.n * 4);
    for (int i = 0; i < 3; i++) add_section(&h, out, SEC_NORMALIZERS + i, b->rules[i].p, b->rules[i].n);
    add_section(&h, out, SEC_CONTINUE, b->prefix_inside.p, b->prefix_inside.n);
    add_section(&h, out, SEC_CHARSMAP, b->charsmap.p, b->charsmap.n);
    add_templates(b, &h, out);
    find_glue(b, &h);
    h.bytes = out->n;
    if (!out->failed) memcpy(out->p, &h, sizeof h);
    out->failed |= b->rules[0].failed || b->rules[1].failed || b->rules[2].failed || b->prefix.failed || b->suffix.failed ||
                   texts.n > UINT32_MAX || b->chat_template.n > UINT32_MAX;
    buf_free(&texts);
}

/* Which entries the model makes of a word with exactly their text: asked of the model itself. */
static int mark_whole(tokenizer *t, err *e) {
    uint8_t *piece = (uint8_t *)t->owned + t->h.section[SEC_PIECE].at;
    ids out = { 0 };
    struct encoder x = { .t = t, .out = &out, .e = e };
    int rc = 0;
    for (uint32_t id = 0; id < t->h.n_ids && !rc; id++) {
        struct slice s = key_of(t, (int32_t)id);
        if (!(piece[id] & PIECE_MODEL) || !s.n || vocab_find(t, s.p, s.n) != (int32_t)id) continue;
        bool whole = t->h.flags & TOK_IGNORE_MERGES;
        if (!whole && (t->h.flags & TOK_BYTES || utf8_valid(s.p, s.n))) {
            out.n = 0;
            rc = word_encode(&x, s);
            whole = !rc && out.n == 1 && out.p[0] == (int32_t)id;
        }
        if (whole) piece[id] |= PIECE_WHOLE;
    }
    if (!rc && out.failed) rc = fail_memory(e, out.cap * 4, "a tokenizer");
    ids_free(&out);
    buf_free(&x.key);
    free(x.symbol);
    free(x.heap);
    free(x.step);
    return rc;
}

int build_finish(struct build *b, tokenizer **t, err *e) {
    buf out = { 0 };
    *t = NULL;
    lay_out(b, &out);
    void *owned = out.failed ? NULL : alloc_aligned(out.n);
    if (owned) memcpy(owned, out.p, out.n);
    size_t n = out.n;
    buf_free(&out);
    if (!owned) return fail_memory(e, n, "a tokenizer");
    if (blob_open(t, owned, n, owned, e)) return -1;
    int rc = mark_whole(*t, e);
    if (rc) {
        tokenizer_free(*t);
        *t = NULL;
    }
    return rc;
}

void build_free(struct build *b) {
    arena_free(&b->mem);
    free(b->piece);
    free(b->merge);
    free(b->added);
    free(b->map.slot);
    for (int i = 0; i < 3; i++) buf_free(b->rules + i);
    ids_free(&b->prefix);
    ids_free(&b->suffix);
}
