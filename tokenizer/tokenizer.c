/* tokenizer: text to ids. Owns the order of the stages (added tokens, normalization, words, model, BOS/EOS) as HuggingFace's
 * tokenizers library has it (tokenizer/mod.rs, added_vocabulary.rs), and the small questions of the header. It must not know
 * files: it sees an opened blob only. */
#include "tokenizer/encode.h"

#include <stdlib.h>

int32_t vocab_find(const tokenizer *t, const char *s, size_t n) {
    uint32_t slots = t->h.n_vocab_slots;
    if (!slots) return -1;
    uint64_t hash = piece_hash(s, n);
    uint32_t at = slot_of(hash, slots), check = (uint32_t)hash;
    for (uint32_t probes = 0; probes < slots; probes++) {
        struct vocab_slot v = t->vocab[at];
        if (!v.id_1) return -1;
        if (v.check == check && slice_equal(key_of(t, (int32_t)(v.id_1 - 1)), (struct slice){ s, n })) return (int32_t)(v.id_1 - 1);
        if (++at == slots) at = 0;
    }
    return -1;
}

/* ---- added tokens ---- */

static bool word_char(uint32_t c) { return (uni_of(c) & UNI_WORD) || c == 0x200c || c == 0x200d; }

static size_t char_before(const char *s, size_t at) {
    do at--;
    while (((uint8_t)s[at] & 0xc0) == 0x80);
    return at;
}

static bool stands_alone(struct slice s, size_t start, size_t end) {
    int len;
    return !(start && word_char(utf8_next(s.p + char_before(s.p, start), &len))) &&
           !(end < s.n && word_char(utf8_next(s.p + end, &len)));
}

/* Does any of these bytes belong to a user? */
static bool is_users(const struct user_parts *u, size_t begin, size_t end) {
    size_t low = 0, high = u->n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (u->p[mid].end <= begin) low = mid + 1;
        else high = mid;
    }
    return low < u->n && u->p[low].begin < end;
}

/* Cuts s at the added tokens of m and gives the text between them to `text`. A token that is text this time, or not a word of its
 * own where it must be, is stepped over whole, as there. */
static int at_added(struct encoder *x, const struct matcher *m, struct slice s, int flags, bool first,
                    int (*text)(struct encoder *, struct slice, int flags, bool first)) {
    const tokenizer *t = x->t;
    size_t from = 0, len = 0;
    if (m->n)
        for (size_t i = 0; i < s.n;) {
            int64_t k = m->from[(uint8_t)s.p[i]] == m->from[(uint8_t)s.p[i] + 1] ? -1 : matcher_at(m, s.p + i, s.n - i, &len);
            if (k < 0) {
                i++;
                continue;
            }
            const struct added *a = t->added + k;
            size_t start = i, end = i + len;
            i = end;
            if ((a->flags & ADDED_SPECIAL) && (!(flags & TOK_PARSE_SPECIAL) || is_users(m == &t->plain ? &x->user : &x->mapped, start, end)))
                continue;
            if ((a->flags & ADDED_SINGLE_WORD) && !stands_alone(s, start, end)) continue;
            int n;
            for (size_t k2;
                 (a->flags & ADDED_LSTRIP) && start > from && uni_is_space(utf8_next(s.p + (k2 = char_before(s.p, start)), &n));)
                start = k2;
            while ((a->flags & ADDED_RSTRIP) && end < s.n && uni_is_space(utf8_next(s.p + end, &n))) end += (size_t)n;
            if (from < start && text(x, (struct slice){ s.p + from, start - from }, flags, first && from == 0)) return -1;
            ids_add(x->out, a->id);
            from = end;
        }
    return from < s.n ? text(x, (struct slice){ s.p + from, s.n - from }, flags, first && from == 0) : 0;
}

static int encode_words(struct encoder *x, struct slice s, int flags, bool first) {
    (void)flags;
    return pretokenize(x, 0, s, first);
}

/* How long the first n bytes of s become. */
static int normalized_length(struct encoder *x, struct slice s, size_t n, size_t *length) {
    struct slice head = { s.p, n };
    if (normalize(x->t, &head, x->aside, &x->work, x->e)) return -1;
    *length = head.n;
    return 0;
}

/* Where the user's parts of a piece of the text lie once it is normalized. Only a tokenizer that looks for special tokens behind
 * normalization needs to know; what a character at a border becomes may count for either side. */
static int map_user(struct encoder *x, struct slice s, int flags) {
    size_t at = (size_t)(s.p - x->text);
    x->mapped.n = 0;
    if (!x->user.n || !x->t->special_normal || !(flags & TOK_PARSE_SPECIAL)) return 0;
    if (!x->mapping && !(x->mapping = malloc(x->user.n * sizeof *x->mapping)))
        return fail_memory(x->e, x->user.n * sizeof *x->mapping, "a chat's parts");
    x->mapped.p = x->mapping;
    for (size_t i = 0; i < x->user.n; i++) {
        text_range u = x->user.p[i], *to = x->mapping + x->mapped.n;
        if (u.end <= at || u.begin >= at + s.n) continue;
        if (normalized_length(x, s, u.begin > at ? u.begin - at : 0, &to->begin)) return -1;
        if (normalized_length(x, s, u.end < at + s.n ? u.end - at : s.n, &to->end)) return -1;
        x->mapped.n++;
    }
    return 0;
}

static int encode_text(struct encoder *x, struct slice s, int flags, bool first) {
    if (map_user(x, s, flags) || normalize(x->t, &s, x->normal, &x->work, x->e)) return -1;
    return at_added(x, &x->t->normal, s, flags, first, encode_words);
}

static void add_section(const tokenizer *t, enum section which, ids *out) {
    struct slice s = section(t, which);
    for (size_t i = 0; i + 4 <= s.n; i += 4) {
        int32_t id;
        memcpy(&id, s.p + i, 4);
        ids_add(out, id);
    }
}

static void encoder_free(struct encoder *x) {
    regex_work_free(&x->work);
    for (size_t i = 0; i < 2; i++) buf_free(x->normal + i), buf_free(x->aside + i);
    free(x->mapping);
    for (size_t i = 0; i < MAX_RULES; i++) buf_free(x->level + i);
    buf_free(&x->key);
    buf_free(&x->bytes);
    free(x->symbol);
    free(x->heap);
    free(x->step);
    free(x->cache);
}

int tokenizer_encode(const tokenizer *t, const char *text, size_t n, int flags, ids *out, err *e) {
    return tokenizer_encode_parts(t, text, n, flags, NULL, 0, out, e);
}

int tokenizer_encode_parts(const tokenizer *t, const char *text, size_t n, int flags, const text_range *user, size_t n_user, ids *out, err *e) {
    struct encoder x = { .t = t, .out = out, .total = n, .text = text, .user = { user, n_user }, .e = e };
    buf repaired = { 0 };
    struct slice s = { text, n };
    int rc = 0;
    if (n && n_user && !utf8_valid(text, n)) return fail_code(e, ERR_INPUT, "a chat's text is not UTF-8");
    if (n && !utf8_valid(text, n)) {
        /* SentencePiece's map of characters takes U+FFFD away, but not where bytes are ill-formed: they stay apart until there */
        if ((t->h.flags & TOK_SENTENCEPIECE) && t->h.section[SEC_CHARSMAP].bytes) utf8_mark(text, n, &repaired);
        else if ((x.escaped = t->h.flags & TOK_RAW_BYTES)) utf8_escape(text, n, &repaired);
        else utf8_sanitise(text, n, &repaired);
        if (repaired.failed) rc = fail_memory(e, n, "a text that is not UTF-8");
        s = (struct slice){ repaired.p, repaired.n };
    }
    if (flags & TOK_SPECIAL) add_section(t, SEC_PREFIX, out);
    if (!rc) rc = at_added(&x, &t->plain, s, flags, true, encode_text);
    if (flags & TOK_SPECIAL) add_section(t, SEC_SUFFIX, out);
    if (!rc && out->failed) rc = fail_memory(e, out->cap * 8, "a list of token ids");
    encoder_free(&x);
    buf_free(&repaired);
    return rc;
}

/* ---- questions ---- */

int tokenizer_size(const tokenizer *t) { return (int)t->h.n_ids; }
int32_t tokenizer_bos(const tokenizer *t) { return t->h.bos; }
int32_t tokenizer_eos(const tokenizer *t) { return t->h.eos; }

static bool has_id(const tokenizer *t, int32_t id) {
    return id >= 0 && (uint32_t)id < t->h.n_ids && (t->piece[id] & PIECE_PRESENT);
}

const char *tokenizer_piece(const tokenizer *t, int32_t id, size_t *n) {
    if (!has_id(t, id)) return *n = 0, NULL;
    struct slice s = text_of(t, id);
    *n = s.n;
    return s.p;
}

bool tokenizer_is_special(const tokenizer *t, int32_t id) { return has_id(t, id) && (t->piece[id] & PIECE_SPECIAL); }

int32_t tokenizer_id(const tokenizer *t, const char *piece, size_t n) {
    struct slice want = { piece, n };
    buf raw = { 0 };
    struct slice key = (t->h.flags & TOK_BYTES) && utf8_valid(piece, n) && bytes_of_text(want, &raw)
                           ? (struct slice){ raw.p ? raw.p : "", raw.n }
                           : want;
    int32_t id = vocab_find(t, key.p, key.n);
    buf_free(&raw);
    if (id >= 0 && slice_equal(text_of(t, id), want)) return id;
    for (uint32_t i = 0; i < t->h.n_added; i++) /* the few that the model does not find by their text */
        if (slice_equal(text_of(t, t->added[i].id), want)) return t->added[i].id;
    for (int32_t i = 0; (uint32_t)i < t->h.n_ids; i++)
        if (has_id(t, i) && slice_equal(text_of(t, i), want)) return i;
    return -1;
}

int32_t tokenizer_unk(const tokenizer *t) { return t->h.unk; }

const char *tokenizer_template(const tokenizer *t, bool tools, size_t *n) {
    struct slice text, with_tools;
    templates_of(section(t, SEC_TEMPLATE), &text, &with_tools);
    if (tools) text = with_tools;
    *n = text.n;
    return text.n ? text.p : NULL;
}

void tokenizer_free(tokenizer *t) {
    if (!t) return;
    rules_free(&t->normalizers);
    rules_free(&t->pretokenizers);
    rules_free(&t->decoders);
    arena_free(&t->mem);
    free_aligned(t->owned);
    free(t);
}
