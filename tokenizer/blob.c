/* blob: a tokenizer as one run of bytes, in the model file. Owns its checks: whatever the bytes are, an opened tokenizer has every
 * index in range and every text where UTF-8 is relied on; the tables of hashes may still be wrong, which gives wrong tokens and
 * nothing worse. It must not know where blobs come from. */
#include "tokenizer/encode.h"

#include <stdlib.h>

static int refuse(err *e, const char *what) {
    return fail_code(e, ERR_INPUT, "tokenizer: %s; the file is damaged or not a quern model: convert it again", what);
}

static int check_header(const tokenizer *t, err *e) {
    const struct tok_header *h = &t->h;
    if (memcmp(h->magic, TOK_MAGIC, sizeof h->magic) != 0) return refuse(e, "its magic number is wrong");
    if (h->version != TOK_VERSION)
        return fail_code(e, ERR_INPUT, "tokenizer: version %u, this program reads version %d: convert the checkpoint again",
                         h->version, TOK_VERSION);
    if (h->header_bytes != sizeof *h || h->bytes != t->n) return refuse(e, "its length is not what its header says");
    if (h->model < MODEL_BPE || h->model > MODEL_WORDPIECE) return refuse(e, "its kind of model is unknown");
    if (h->flags & ~(uint32_t)TOK_FLAGS) return refuse(e, "it has unknown flags");
    if (h->n_ids > TOK_MAX_IDS || h->n_added > h->n_ids) return refuse(e, "its number of entries is out of range");
    for (int i = 0; i < SEC_COUNT; i++) {
        uint64_t at = h->section[i].at, bytes = h->section[i].bytes;
        if (at % 16 || at > t->n || bytes > t->n - at || (bytes && at < sizeof *h)) return refuse(e, "a section lies outside it");
    }
    return 0;
}

static int check_sizes(const tokenizer *t, err *e) {
    const struct tok_header *h = &t->h;
    uint64_t n = h->n_ids, at = 4 * (n + 1);
    const struct {
        int section;
        uint64_t bytes;
        bool optional;
    } want[] = { { SEC_TEXT_AT, at, false },
                 { SEC_RAW_AT, at, true },
                 { SEC_PIECE, n, false },
                 { SEC_VOCAB, 8ull * h->n_vocab_slots, false },
                 { SEC_MERGE, 16ull * h->n_merge_slots, false },
                 { SEC_SCORE, 8 * n, h->model != MODEL_UNIGRAM },
                 { SEC_TRIE, 12ull * h->n_trie, false },
                 { SEC_BYTE, 1024, false },
                 { SEC_ADDED, 8ull * h->n_added, false } };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        uint64_t found = h->section[want[i].section].bytes;
        if (found != want[i].bytes && !(want[i].optional && !found))
            return refuse(e, "a section's size does not fit its number of entries");
    }
    return h->section[SEC_PREFIX].bytes % 4 || h->section[SEC_SUFFIX].bytes % 4 ? refuse(e, "a list of ids is cut off") : 0;
}

static bool offsets_rise(const uint32_t *at, uint32_t n, uint64_t bytes) {
    uint32_t bad = 0;
    for (uint32_t i = 0; i < n; i++) bad |= at[i + 1] < at[i]; /* no exit inside: the loop becomes vector code */
    return !bad && at[n] <= bytes;
}

static bool ids_in_range(const int32_t *id, size_t n, int32_t least, uint32_t n_ids) {
    bool bad = false;
    for (size_t i = 0; i < n; i++) bad |= id[i] < least || (id[i] >= 0 && (uint32_t)id[i] >= n_ids);
    return !bad;
}

static bool vocab_in_range(const tokenizer *t) {
    bool bad = false;
    for (uint32_t i = 0; i < t->h.n_vocab_slots; i++) bad |= t->vocab[i].id_1 > t->h.n_ids;
    return !bad;
}

static bool trie_in_range(const tokenizer *t) {
    bool bad = t->h.model == MODEL_UNIGRAM && !t->h.n_trie;
    for (uint32_t i = 0; i < t->h.n_trie; i++) bad |= t->trie[i].id >= (int32_t)t->h.n_ids;
    return !bad;
}

static bool merges_in_range(const tokenizer *t) {
    uint32_t n = t->h.n_ids;
    bool bad = false;
    for (uint32_t i = 0; i < t->h.n_merge_slots; i++) {
        struct merge m = t->merge[i];
        bool whole = (uint32_t)m.left < n && (uint32_t)m.right < n && (uint32_t)m.result < n;
        bad |= m.left != -1 && !whole;
    }
    return !bad;
}

static int check_tables(const tokenizer *t, err *e) {
    const struct tok_header *h = &t->h;
    uint32_t n = h->n_ids;
    const int32_t three[] = { h->unk, h->bos, h->eos };
    if (!offsets_rise(t->text_at, n, h->section[SEC_TEXT].bytes) ||
        (t->raw != t->text && !offsets_rise(t->raw_at, n, h->section[SEC_RAW].bytes)))
        return refuse(e, "an entry's text lies outside it");
    uint8_t flags = 0;
    for (uint32_t i = 0; i < n; i++) flags |= t->piece[i];
    if (flags & ~PIECE_FLAGS) return refuse(e, "an entry has unknown flags");
    if (!ids_in_range(three, 3, -1, n) || !ids_in_range(t->byte_id, 256, -1, n) ||
        !ids_in_range((const void *)section(t, SEC_PREFIX).p, h->section[SEC_PREFIX].bytes / 4, 0, n) ||
        !ids_in_range((const void *)section(t, SEC_SUFFIX).p, h->section[SEC_SUFFIX].bytes / 4, 0, n) || !vocab_in_range(t) ||
        !merges_in_range(t) || !trie_in_range(t))
        return refuse(e, "an id is out of range");
    for (uint32_t i = 0; i < h->n_added; i++) {
        const struct added *a = t->added + i;
        if (a->id < 0 || (uint32_t)a->id >= n || (i && a->id <= a[-1].id) || (a->flags & ~(uint32_t)ADDED_FLAGS) ||
            !(t->piece[a->id] & PIECE_PRESENT))
            return refuse(e, "an added token is out of order");
        if (!utf8_valid(text_of(t, a->id).p, text_of(t, a->id).n)) return refuse(e, "an added token is not UTF-8");
    }
    struct slice text, tools;
    return templates_of(section(t, SEC_TEMPLATE), &text, &tools) ? 0 : refuse(e, "a chat template lies outside it");
}

bool templates_of(struct slice all, struct slice *text, struct slice *tools) {
    cursor c = { (const uint8_t *)all.p, all.n, 0, false };
    *text = *tools = all;
    if (!all.n || all.p[0]) return true;
    cursor_take(&c, 1);
    text->n = cursor_u32(&c);
    text->p = cursor_take(&c, text->n);
    tools->n = c.n - c.at;
    tools->p = (const char *)c.p + c.at;
    if (c.failed) *text = *tools = (struct slice){ "", 0 };
    return !c.failed;
}

static void place(tokenizer *t) {
    t->text_at = (const void *)section(t, SEC_TEXT_AT).p;
    t->text = section(t, SEC_TEXT).p;
    bool raw = t->h.section[SEC_RAW_AT].bytes;
    t->raw_at = raw ? (const void *)section(t, SEC_RAW_AT).p : t->text_at;
    t->raw = raw ? section(t, SEC_RAW).p : t->text;
    t->key_at = t->h.flags & TOK_BYTES ? t->raw_at : t->text_at;
    t->key = t->h.flags & TOK_BYTES ? t->raw : t->text;
    t->piece = (const void *)section(t, SEC_PIECE).p;
    t->vocab = (const void *)section(t, SEC_VOCAB).p;
    t->merge = (const void *)section(t, SEC_MERGE).p;
    t->score = t->h.section[SEC_SCORE].bytes ? (const void *)section(t, SEC_SCORE).p : NULL;
    t->trie = (const void *)section(t, SEC_TRIE).p;
    t->byte_id = (const void *)section(t, SEC_BYTE).p;
    t->added = (const void *)section(t, SEC_ADDED).p;
}

/* The added tokens that are looked for before (or after) normalization; these are looked for in their normalized form. */
static int index_added(tokenizer *t, struct matcher *m, bool normalized, err *e) {
    size_t n = 0;
    struct slice *text = arena_alloc(&t->mem, (t->h.n_added + 1) * sizeof *text);
    uint32_t *which = arena_alloc(&t->mem, (t->h.n_added + 1) * sizeof *which);
    if (!text || !which) return fail_memory(e, t->h.n_added * sizeof *text, "the list of added tokens");
    buf work[2] = { { 0 }, { 0 } };
    struct regex_work steps = { 0 };
    int rc = 0;
    for (uint32_t i = 0; i < t->h.n_added && !rc; i++) {
        if (!(t->added[i].flags & ADDED_NORMALIZED) == normalized) continue;
        struct slice s = text_of(t, t->added[i].id);
        if (normalized && t->normalizers.n) {
            rc = normalize(t, &s, work, &steps, e);
            if (!rc && !(s.p = arena_copy(&t->mem, s.p, s.n))) rc = fail_memory(e, s.n, "an added token");
        }
        text[n] = s;
        which[n++] = i;
        t->special_normal |= normalized && (t->added[i].flags & ADDED_SPECIAL);
    }
    buf_free(work);
    buf_free(work + 1);
    regex_work_free(&steps);
    return rc ? -1 : matcher_build(m, &t->mem, text, which, n, e);
}

static int index_user(tokenizer *t, err *e) {
    size_t n = 0, k = 0;
    for (uint32_t i = 0; i < t->h.n_ids; i++) n += (t->piece[i] & PIECE_USER) != 0;
    struct slice *text = arena_alloc(&t->mem, (n + 1) * sizeof *text);
    uint32_t *which = arena_alloc(&t->mem, (n + 1) * sizeof *which);
    if (!text || !which) return fail_memory(e, n * sizeof *text, "the list of user-defined pieces");
    for (uint32_t i = 0; k < n; i++) {
        if (!(t->piece[i] & PIECE_USER)) continue;
        text[k] = text_of(t, (int32_t)i);
        if (!utf8_valid(text[k].p, text[k].n)) return refuse(e, "a user-defined piece is not UTF-8");
        which[k++] = i;
    }
    return matcher_build(&t->user, &t->mem, text, which, n, e);
}

static int open_parts(tokenizer *t, err *e) {
    if (check_header(t, e) || check_sizes(t, e)) return -1;
    place(t);
    if (check_tables(t, e)) return -1;
    if (rules_read(&t->normalizers, section(t, SEC_NORMALIZERS), LIST_NORMALIZER, e)) return -1;
    if (rules_read(&t->pretokenizers, section(t, SEC_PRETOKENIZERS), LIST_PRETOKENIZER, e)) return -1;
    if (rules_read(&t->decoders, section(t, SEC_DECODERS), LIST_DECODER, e)) return -1;
    if (index_user(t, e) || index_added(t, &t->plain, false, e) || index_added(t, &t->normal, true, e)) return -1;
    for (uint32_t i = 0; i < t->h.n_ids; i++)
        if ((t->piece[i] & PIECE_MODEL) && key_of(t, (int32_t)i).n > t->longest) t->longest = key_of(t, (int32_t)i).n;
    for (int c = 0; c < 128; c++) {
        char one = (char)c;
        t->ascii_id[c] = vocab_find(t, &one, 1);
    }
    return 0;
}

int blob_open(tokenizer **out, const void *blob, size_t n, void *owned, err *e) {
    *out = NULL;
    tokenizer *t = calloc(1, sizeof *t);
    if (!t) {
        free_aligned(owned);
        return fail_memory(e, sizeof *t, "a tokenizer");
    }
    t->blob = blob;
    t->n = n;
    t->owned = owned;
    int rc = n < sizeof t->h ? refuse(e, "it is shorter than its header") : 0;
    if (!rc && (uintptr_t)blob % 16) { /* tables are read in place */
        t->owned = alloc_aligned(n);
        if (t->owned) t->blob = memcpy(t->owned, blob, n);
        else rc = fail_memory(e, n, "a tokenizer");
    }
    if (!rc) memcpy(&t->h, t->blob, sizeof t->h);
    if (!rc) rc = open_parts(t, e);
    if (rc) tokenizer_free(t);
    else *out = t;
    return rc;
}

int tokenizer_open(tokenizer **t, const void *blob, size_t n, err *e) { return blob_open(t, blob, n, NULL, e); }

int tokenizer_write(const tokenizer *t, buf *blob) {
    buf_add(blob, t->blob, t->n);
    return blob->failed ? -1 : 0;
}

static void print_rules(FILE *out, const char *title, const struct rules *rs) {
    fprintf(out, "  %-14s", title);
    for (size_t i = 0; i < rs->n; i++) {
        const struct rule *r = rs->p + i;
        buf text = { 0 };
        size_t most = r->a.n < 160 ? r->a.n : 160;
        if (r->re) buf_json(&text, r->a.p, most);
        fprintf(out, "%s%s%s%s%s", i ? ", " : "", rule_name(r->op), text.n ? " " : "", text.n ? text.p : "",
                text.n && most < r->a.n ? "..." : "");
        buf_free(&text);
    }
    fprintf(out, "%s\n", rs->n ? "" : "none");
}

static void print_id(FILE *out, const tokenizer *t, const char *title, int32_t id) {
    buf text = { 0 };
    size_t n = 0;
    const char *s = tokenizer_piece(t, id, &n);
    if (s) buf_json(&text, s, n);
    if (id >= 0) fprintf(out, "  %-14s%d %s\n", title, id, text.p ? text.p : "");
    buf_free(&text);
}

void tokenizer_print(const tokenizer *t, FILE *out) {
    const struct tok_header *h = &t->h;
    const char *kind = h->model == MODEL_WORDPIECE ? "WordPiece"
                       : h->model == MODEL_UNIGRAM ? "Unigram"
                       : h->flags & TOK_BYTES      ? "byte-level BPE"
                                                   : "BPE";
    const char *more = h->flags & TOK_SENTENCEPIECE   ? " (SentencePiece)"
                       : h->flags & TOK_BYTE_FALLBACK ? " with byte fallback"
                                                      : "";
    fprintf(out, "tokenizer: %s%s, %u entries, %u merges, %u added tokens, %zu bytes\n", kind, more, h->n_ids, h->n_merges,
            h->n_added, t->n);
    print_rules(out, "normalizer", &t->normalizers);
    print_rules(out, "words", &t->pretokenizers);
    print_rules(out, "decoder", &t->decoders);
    print_id(out, t, "bos", h->bos);
    print_id(out, t, "eos", h->eos);
    fprintf(out, "  %-14s%llu before, %llu behind a text\n", "added ids", (unsigned long long)h->section[SEC_PREFIX].bytes / 4,
            (unsigned long long)h->section[SEC_SUFFIX].bytes / 4);
    struct slice text, tools;
    templates_of(section(t, SEC_TEMPLATE), &text, &tools);
    fprintf(out, "  %-14s", "chat template");
    if (text.p == tools.p) fprintf(out, text.n ? "%zu bytes\n" : "none\n", text.n);
    else fprintf(out, "%zu bytes, and one of %zu for chats with tools\n", text.n, tools.n);
}
