/* pretokenize: from a normalized text to the words that the model sees. Each rule cuts its piece and hands every part to the next
 * rule; the last hands words to the model. So no list of pieces is ever kept. It must not know how a model makes ids. */
#include "tokenizer/encode.h"

#include <stdlib.h>

/* What happens to the pieces of a split is decided one piece behind: `from .. to` waits for what follows. */
struct split {
    struct encoder *x;
    size_t rule;
    struct slice s;
    bool first, waiting, was_match;
    size_t from, to;
};

static int hand_on(struct split *p, size_t from, size_t to) {
    return pretokenize(p->x, p->rule + 1, (struct slice){ p->s.p + from, to - from }, p->first && from == 0);
}

static int flush(struct split *p) {
    if (!p->waiting) return 0;
    p->waiting = false;
    return hand_on(p, p->from, p->to);
}

static int wait_for(struct split *p, size_t from, size_t to) {
    if (flush(p)) return -1;
    p->waiting = true;
    p->from = from;
    p->to = to;
    return 0;
}

static int split_part(struct split *p, int behaviour, size_t from, size_t to, bool is_match) {
    bool was = p->was_match;
    p->was_match = is_match;
    if (from == to) return p->was_match = was, 0;
    switch (behaviour) {
    case SPLIT_REMOVED:
        return is_match ? 0 : hand_on(p, from, to);
    case SPLIT_ISOLATED:
        return hand_on(p, from, to);
    case SPLIT_PREVIOUS:
        if (!is_match || was || !p->waiting) return wait_for(p, from, to);
        p->to = to;
        return 0;
    case SPLIT_NEXT:
        if (is_match || !p->waiting) return is_match ? wait_for(p, from, to) : hand_on(p, from, to);
        p->to = to;
        return flush(p);
    default:
        if (is_match != was || !p->waiting) return wait_for(p, from, to);
        p->to = to;
        return 0;
    }
}

static int split(struct encoder *x, size_t index, struct slice s, bool first) {
    const struct rule *r = x->t->pretokenizers.p + index;
    struct split p = { .x = x, .rule = index, .s = s, .first = first };
    size_t at = 0, start, end;
    int found;
    x->work.steps += 65536 + 512 * (uint64_t)s.n;
    while ((found = regex_find(r->re, s.p, s.n, at, &start, &end, &x->work)) == 1) {
        if (split_part(&p, r->x, at, start, r->y) || split_part(&p, r->x, start, end, !r->y)) return -1;
        at = end;
    }
    if (x->work.failed) return fail_memory(x->e, s.n, "cutting a text into words");
    if (found < 0)
        return fail_code(x->e, ERR_INPUT, "the tokenizer's pattern takes too long on this text (at byte %zu of a piece of %zu)", at,
                         s.n);
    return split_part(&p, r->x, at, s.n, r->y) ? -1 : flush(&p);
}

static int prefix_space(struct encoder *x, size_t index, struct slice s, bool first) {
    buf *b = x->level + index;
    if (*s.p == ' ') return pretokenize(x, index + 1, s, first);
    b->n = 0;
    buf_byte(b, ' ');
    buf_add(b, s.p, s.n);
    return b->failed ? fail_memory(x->e, s.n, "cutting a text into words")
                     : pretokenize(x, index + 1, (struct slice){ b->p, b->n }, first);
}

static int metaspace(struct encoder *x, size_t index, struct slice s, bool first) {
    const struct rule *r = x->t->pretokenizers.p + index;
    buf *b = x->level + index;
    bool there = *s.p == ' ' || (s.n >= r->a.n && memcmp(s.p, r->a.p, r->a.n) == 0);
    b->n = 0;
    if (!there && (r->x == PREPEND_ALWAYS || (r->x == PREPEND_FIRST && first))) buf_add(b, r->a.p, r->a.n);
    for (size_t i = 0; i < s.n;) {
        const char *space = memchr(s.p + i, ' ', s.n - i);
        size_t to = space ? (size_t)(space - s.p) : s.n;
        buf_add(b, s.p + i, to - i);
        if (space) buf_add(b, r->a.p, r->a.n);
        i = to + (space != NULL);
    }
    return b->failed ? fail_memory(x->e, s.n, "cutting a text into words")
                     : pretokenize(x, index + 1, (struct slice){ b->p, b->n }, first);
}

int pretokenize(struct encoder *x, size_t rule, struct slice s, bool first) {
    if (!s.n) return 0;
    if (rule == x->t->pretokenizers.n) return model_encode(x, s);
    switch (x->t->pretokenizers.p[rule].op) {
    case RULE_PREFIX_SPACE:
        return prefix_space(x, rule, s, first);
    case RULE_METASPACE:
        return metaspace(x, rule, s, first);
    default:
        return split(x, rule, s, first);
    }
}

/* ---- words to the model ---- */

int word_encode(struct encoder *x, struct slice w) {
    switch (x->t->h.model) {
    case MODEL_UNIGRAM:
        return unigram_encode(x, w);
    case MODEL_WORDPIECE:
        return wordpiece_encode(x, w);
    default:
        return bpe_encode(x, w);
    }
}

static int cached_encode(struct encoder *x, struct slice w) {
    enum { KEY = sizeof((struct cached *)0)->key, IDS = sizeof((struct cached *)0)->id / sizeof(int32_t) };
    if (w.n > KEY || x->total < 512) return word_encode(x, w);
    if (!x->cache && !(x->cache = calloc(CACHE_SLOTS, sizeof *x->cache)))
        return fail_memory(x->e, sizeof *x->cache * CACHE_SLOTS, "a cache of words");
    struct cached *c = x->cache + (piece_hash(w.p, w.n) >> 20) % CACHE_SLOTS;
    if (c->n == w.n && memcmp(c->key, w.p, w.n) == 0) {
        for (int i = 0; i < c->n_ids; i++) ids_add(x->out, c->id[i]);
        return 0;
    }
    size_t from = x->out->n;
    if (word_encode(x, w)) return -1;
    size_t n = x->out->n - from;
    if (n > IDS || x->out->failed) return 0;
    c->n = (uint8_t)w.n;
    c->n_ids = (uint8_t)n;
    memcpy(c->key, w.p, w.n);
    if (n) memcpy(c->id, x->out->p + from, n * sizeof *c->id);
    return 0;
}

static int whole_encode(struct encoder *x, struct slice w) {
    const tokenizer *t = x->t;
    if (!w.n) return 0;
    if (w.n <= t->longest) {
        int32_t id = vocab_find(t, w.p, w.n);
        if (id >= 0 && (t->piece[id] & PIECE_WHOLE)) return ids_add(x->out, id), 0;
    }
    return cached_encode(x, w);
}

/* A text without spaces to cut at: words part before U+2581 wherever no merge can reach over it (found when the blob was built). */
static int part_encode(struct encoder *x, struct slice s) {
    static const char mark[] = "\xe2\x96\x81";
    size_t from = 0;
    if (x->t->h.flags & TOK_BYTES) return whole_encode(x, s);
    for (size_t i = 1; i + 3 <= s.n; i++) {
        const char *p = memchr(s.p + i, mark[0], s.n - 2 - i);
        if (!p) break;
        i = (size_t)(p - s.p);
        uint8_t prior = (uint8_t)p[-1];
        if (memcmp(p, mark, 3) != 0 || (x->t->h.glue[prior >> 3] >> (prior & 7) & 1)) continue;
        if (whole_encode(x, (struct slice){ s.p + from, i - from })) return -1;
        from = i;
    }
    return whole_encode(x, (struct slice){ s.p + from, s.n - from });
}

int model_encode(struct encoder *x, struct slice s) {
    const struct matcher *user = &x->t->user;
    size_t from = 0, len;
    if (x->escaped) {
        x->bytes.n = 0;
        utf8_unescape(s.p, s.n, &x->bytes);
        if (x->bytes.failed) return fail_memory(x->e, s.n, "a word of the text");
        s = (struct slice){ x->bytes.p ? x->bytes.p : "", x->bytes.n };
    }
    if (user->n && x->t->h.model == MODEL_BPE) /* Unigram finds them itself */
        for (size_t i = 0; i < s.n;) {
            int64_t id = matcher_at(user, s.p + i, s.n - i, &len);
            if (id < 0) {
                i += (size_t)utf8_len(s.p[i]);
                continue;
            }
            if (part_encode(x, (struct slice){ s.p + from, i - from })) return -1;
            ids_add(x->out, (int32_t)id);
            from = i += len;
        }
    return part_encode(x, (struct slice){ s.p + from, s.n - from });
}
