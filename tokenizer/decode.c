/* decode: ids to text, whole or as they arrive. The same machine serves both, so the pieces of a stream are the whole by
 * construction. Owns the chain of decoding rules: each token's text passes along it; two rules hold something back, a run of
 * <0xXX> bytes and the bytes of an unfinished character, and both live in detok.held. It must not know how ids were made. */
#include "tokenizer/encode.h"

struct decoder {
    detok *d;
    const tokenizer *t;
    buf *out;
    bool raw;                 /* bytes pass as they are, whole characters or not */
    buf level[MAX_RULES + 1]; /* a rule's text, while the rules behind it work */
    struct regex_work work;
};

static void pass(struct decoder *x, size_t rule, struct slice s);

/* ---- <0xXX>: HuggingFace gives a run's text if the whole run is UTF-8, else one U+FFFD a byte ---- */

/* A run that fills the buffer gives out its finished characters: what follows cannot take them back any more. */
static void run_add(struct decoder *x, size_t rule, uint8_t byte) {
    detok *d = x->d;
    if (x->raw) {
        pass(x, rule + 1, (struct slice){ (const char *)&byte, 1 });
        return;
    }
    if (d->broken) {
        pass(x, rule + 1, (struct slice){ "\xef\xbf\xbd", 3 });
        return;
    }
    d->held[d->n_held++] = (char)byte;
    size_t open = utf8_incomplete_tail(d->held, d->n_held);
    if (!utf8_valid(d->held, d->n_held - open)) {
        for (size_t i = 0; i < d->n_held; i++) pass(x, rule + 1, (struct slice){ "\xef\xbf\xbd", 3 });
        d->broken = true;
        d->n_held = 0;
    } else if (d->n_held == sizeof d->held) {
        size_t whole = d->n_held - open;
        pass(x, rule + 1, (struct slice){ d->held, whole });
        memmove(d->held, d->held + whole, open);
        d->n_held = open;
    }
}

static void run_end(struct decoder *x, size_t rule) {
    detok *d = x->d;
    size_t open = utf8_incomplete_tail(d->held, d->n_held), n = d->n_held;
    d->n_held = 0;
    d->broken = false;
    if (n && !open) pass(x, rule + 1, (struct slice){ d->held, n });
    for (size_t i = 0; i < n && open; i++) pass(x, rule + 1, (struct slice){ "\xef\xbf\xbd", 3 });
}

/* The byte that a text of the form <0xXX> names, or -1. */
static int byte_of(struct slice s) {
    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>') return -1;
    int v = 0;
    for (int i = 3; i < 5; i++) {
        char c = s.p[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (d < 0) return -1;
        v = v << 4 | d;
    }
    return v;
}

/* ---- bytes in any portions to characters: what is no character becomes U+FFFD ---- */

static void stream_bytes(struct decoder *x, size_t rule, struct slice s, bool end, bool each) {
    detok *d = x->d;
    buf *b = x->level + rule;
    if (x->raw) {
        if (s.n) pass(x, rule + 1, s);
        return;
    }
    b->n = 0;
    buf_add(b, d->held, d->n_held);
    buf_add(b, s.p, s.n);
    size_t open = end || b->failed ? 0 : utf8_incomplete_tail(b->p, b->n);
    if (b->failed) {
        x->out->failed = true;
        return;
    }
    memcpy(d->held, b->p + b->n - open, open);
    d->n_held = open;
    buf text = { 0 };
    if (each) utf8_sanitise(b->p, b->n - open, &text);
    else utf8_lossy(b->p, b->n - open, &text);
    x->out->failed |= text.failed;
    if (text.n) pass(x, rule + 1, (struct slice){ text.p, text.n });
    buf_free(&text);
}

/* ---- rules that change one token's text ---- */

static struct slice unstrip(const struct rule *r, struct slice s) {
    for (int i = 0; i < r->x && s.n >= r->a.n && memcmp(s.p, r->a.p, r->a.n) == 0; i++) s.p += r->a.n, s.n -= r->a.n;
    for (int i = 0; i < r->y && s.n >= r->a.n && memcmp(s.p + s.n - r->a.n, r->a.p, r->a.n) == 0; i++) s.n -= r->a.n;
    return s;
}

/* Replaces each `a` by `b`, or drops it. */
static void substitute(struct slice s, struct slice a, const char *b, buf *out) {
    for (size_t i = 0; i < s.n;) {
        if (s.n - i >= a.n && memcmp(s.p + i, a.p, a.n) == 0) {
            buf_str(out, b);
            i += a.n;
        } else buf_byte(out, (uint8_t)s.p[i++]);
    }
}

static struct slice of_buf(buf *b) { return (struct slice){ b->p ? b->p : "", b->n }; }

/* Pairs that WordPiece's clean-up replaces within one token's text, in its order. */
static void clean_up(struct decoder *x, size_t rule, struct slice s) {
    static const char *const pairs[][2] = { { " .", "." },   { " ?", "?" },     { " !", "!" },    { " ,", "," },
                                            { " ' ", "'" },  { " n't", "n't" }, { " 'm", "'m" },  { " do not", " don't" },
                                            { " 's", "'s" }, { " 've", "'ve" }, { " 're", "'re" } };
    buf work[2] = { { 0 }, { 0 } };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        buf *b = work + i % 2;
        b->n = 0;
        substitute(s, (struct slice){ pairs[i][0], strlen(pairs[i][0]) }, pairs[i][1], b);
        s = of_buf(b);
    }
    x->out->failed |= work[0].failed || work[1].failed;
    pass(x, rule + 1, s);
    buf_free(work);
    buf_free(work + 1);
}

static void unwordpiece(struct decoder *x, size_t rule, const struct rule *r, struct slice s) {
    buf *b = x->level + rule;
    b->n = 0;
    bool goes_on = r->a.n && s.n >= r->a.n && memcmp(s.p, r->a.p, r->a.n) == 0;
    if (x->d->started && goes_on) s.p += r->a.n, s.n -= r->a.n;
    else if (x->d->started) buf_byte(b, ' ');
    buf_add(b, s.p, s.n);
    if (r->x) clean_up(x, rule, of_buf(b));
    else pass(x, rule + 1, of_buf(b));
}

/* SentencePiece's own decoding (sentencepiece_processor.cc): U+2581 is a space, one at the very beginning is dropped. */
static void unsentencepiece(struct decoder *x, size_t rule, const struct rule *r, struct slice s) {
    static const struct slice mark = { "\xe2\x96\x81", 3 };
    detok *d = x->d;
    buf *b = x->level + rule;
    b->n = 0;
    if (!d->stripped && (r->x & (SP_PREFIX | SP_COLLAPSE)) && s.n >= 3 && memcmp(s.p, mark.p, 3) == 0) {
        s.p += 3, s.n -= 3;
        if (!(r->x & SP_COLLAPSE)) d->stripped = 1;
    }
    substitute(s, mark, " ", b);
    if (b->n) d->stripped = 1;
    pass(x, rule + 1, of_buf(b));
}

static void rewrite(struct decoder *x, size_t rule, const struct rule *r, struct slice s) {
    buf *b = x->level + rule;
    b->n = 0;
    if (r->op == RULE_REPLACE) {
        if (!utf8_valid(s.p, s.n) || replace_all(r, s, b, &x->work, NULL)) b->n = 0, buf_add(b, s.p, s.n);
    } else if (r->op == RULE_UNMETASPACE) substitute(s, r->a, !x->d->started && r->x ? "" : " ", b);
    else { /* RULE_JOIN */
        if (x->d->started) buf_byte(b, ' ');
        buf_add(b, s.p, s.n);
    }
    x->out->failed |= b->failed;
    pass(x, rule + 1, of_buf(b));
}

static bool after_fuse(const tokenizer *t, size_t rule) {
    while (rule--)
        if (t->decoders.p[rule].op == RULE_FUSE) return true;
    return false;
}

/* Strip behind Fuse works on the text as a whole: up to x at its very beginning. */
static struct slice strip_stream(detok *d, const struct rule *r, struct slice s) {
    for (; d->stripped < r->x && s.n >= r->a.n; d->stripped++, s.p += r->a.n, s.n -= r->a.n)
        if (memcmp(s.p, r->a.p, r->a.n) != 0) break;
    if (s.n) d->stripped = r->x;
    return s;
}

static void pass(struct decoder *x, size_t rule, struct slice s) {
    const struct rule *r = x->t->decoders.p + rule;
    if (rule == x->t->decoders.n) {
        if (x->raw) buf_add(x->out, s.p, s.n);
        else utf8_lossy(s.p, s.n, x->out); /* a hostile file's entries may be any bytes */
        return;
    }
    switch (r->op) {
    case RULE_FUSE:
        pass(x, rule + 1, s);
        break;
    case RULE_UNSTRIP:
        pass(x, rule + 1, after_fuse(x->t, rule) ? strip_stream(x->d, r, s) : unstrip(r, s));
        break;
    case RULE_BYTE_FALLBACK: {
        int byte = byte_of(s);
        if (byte >= 0) run_add(x, rule, (uint8_t)byte);
        else {
            run_end(x, rule);
            pass(x, rule + 1, s);
        }
        break;
    }
    case RULE_BYTE_LEVEL:
        stream_bytes(x, rule, s, false, false);
        break;
    case RULE_UNWORDPIECE:
        unwordpiece(x, rule, r, s);
        break;
    case RULE_UNSENTENCEPIECE:
        unsentencepiece(x, rule, r, s);
        break;
    default:
        rewrite(x, rule, r, s);
    }
}

/* ---- tokens ---- */

/* SentencePiece: bytes are put together character by character; control pieces are nothing, but part bytes; unknown is a sign. */
static void sentencepiece_token(struct decoder *x, int32_t id, bool skipped) {
    const struct rule *r = x->t->decoders.p;
    uint8_t piece = x->t->piece[id];
    int byte = piece & PIECE_BYTE ? byte_of(text_of(x->t, id)) : -1;
    if (byte >= 0) {
        char c = (char)byte;
        x->d->stripped = 1;
        stream_bytes(x, 0, (struct slice){ &c, 1 }, false, true);
        return;
    }
    stream_bytes(x, 0, (struct slice){ "", 0 }, true, true);
    if (!skipped) pass(x, 0, piece & PIECE_UNKNOWN ? r->a : text_of(x->t, id));
}

static void token(struct decoder *x, int32_t id) {
    const tokenizer *t = x->t;
    if (id < 0 || (uint32_t)id >= t->h.n_ids || !(t->piece[id] & PIECE_PRESENT)) return;
    const struct rules *rs = &t->decoders;
    bool skipped = x->d->skip_special && (t->piece[id] & PIECE_SPECIAL);
    if (rs->n && rs->p[0].op == RULE_UNSENTENCEPIECE) sentencepiece_token(x, id, skipped);
    else if (skipped) return;
    else pass(x, 0, rs->n && rs->p[0].op == RULE_BYTE_LEVEL ? raw_of(t, id) : text_of(t, id));
    x->d->started |= !skipped;
}

static void finish(struct decoder *x) {
    const struct rules *rs = &x->t->decoders;
    for (size_t i = 0; i < rs->n; i++) {
        if (rs->p[i].op == RULE_BYTE_FALLBACK) run_end(x, i);
        if (rs->p[i].op == RULE_BYTE_LEVEL) stream_bytes(x, i, (struct slice){ "", 0 }, true, false);
        if (rs->p[i].op == RULE_UNSENTENCEPIECE) stream_bytes(x, i, (struct slice){ "", 0 }, true, true);
    }
}

static void decoder_free(struct decoder *x) {
    for (size_t i = 0; i <= MAX_RULES; i++) buf_free(x->level + i);
    regex_work_free(&x->work);
}

void detok_begin(detok *d, const tokenizer *t, bool skip_special) { *d = (detok){ .t = t, .skip_special = skip_special }; }

void detok_token(detok *d, int32_t id, buf *out) {
    struct decoder x = { .d = d, .t = d->t, .out = out };
    token(&x, id);
    decoder_free(&x);
}

void detok_end(detok *d, buf *out) {
    struct decoder x = { .d = d, .t = d->t, .out = out };
    finish(&x);
    decoder_free(&x);
}

static int decode(const tokenizer *t, const int32_t *id, size_t n, bool skip_special, bool raw, buf *out, err *e) {
    detok d;
    detok_begin(&d, t, skip_special);
    struct decoder x = { .d = &d, .t = t, .out = out, .raw = raw };
    for (size_t i = 0; i < n; i++) token(&x, id[i]);
    finish(&x);
    decoder_free(&x);
    return out->failed ? fail_memory(e, out->n, "the text of token ids") : 0;
}

int tokenizer_decode(const tokenizer *t, const int32_t *id, size_t n, bool skip_special, buf *out, err *e) {
    return decode(t, id, n, skip_special, false, out, e);
}

int tokenizer_decode_bytes(const tokenizer *t, const int32_t *id, size_t n, bool skip_special, buf *out, err *e) {
    return decode(t, id, n, skip_special, true, out, e);
}
