/* regex: the matcher. A backtracking machine over the code that regex_compile.c writes.
 * Its one idea: a loop over one set of characters is one instruction and one entry on the stack of retreats, so the patterns of
 * tokenizers run straight through; what could run wild draws on a budget of steps that the caller gives. It owns nothing but
 * the stack in the caller's work space, and must not know what the pieces it finds are for. */
#include "tokenizer/regex_code.h"

#include <stdlib.h>
#include <string.h>

enum { RETREAT_TO, RETREAT_LOOP, RETREAT_LAZY };
struct regex_retreat {
    size_t at, least; /* position; LOOP: how far back it may go; LAZY: how many more it may take */
    int32_t pc;
    uint32_t kind;
};

struct match {
    const struct regex *r;
    const char *s;
    size_t n;
    struct regex_work *w;
};

static const size_t NO_MATCH = SIZE_MAX;

void regex_work_free(struct regex_work *w) {
    free(w->stack);
    *w = (struct regex_work){ 0 };
}

bool re_set_has(const struct regex *r, const struct re_set *s, uint32_t c) {
    if (c < 128) return s->ascii[c];
    uint8_t p = uni_of(c);
    bool in = (s->categories >> (p & UNI_CATEGORY) & 1) || (p & s->any) || (~p & s->none);
    for (size_t i = 0; !in && i < s->n_range; i++) in = c >= s->range[i].first && c <= s->range[i].last;
    for (size_t i = 0; !in && i < s->n_inner; i++) in = re_set_has(r, r->sets + s->inner[i], c);
    return in != s->negated;
}

static bool push(struct regex_work *w, int32_t pc, size_t at, size_t least, uint32_t kind) {
    if (w->n == w->cap) {
        size_t cap = w->cap ? w->cap * 2 : 64;
        struct regex_retreat *p = realloc(w->stack, cap * sizeof *p);
        if (!p) {
            w->failed = true;
            return false;
        }
        w->stack = p;
        w->cap = cap;
    }
    w->stack[w->n++] = (struct regex_retreat){ at, least, pc, kind };
    return true;
}

/* Up to max characters of the set from at; gives where they end. */
static size_t take(const struct match *m, const struct re_set *set, size_t at, uint32_t max) {
    const char *s = m->s;
    size_t n = m->n;
    for (uint32_t k = 0; k < max && at < n; k++) {
        uint8_t c = (uint8_t)s[at];
        if (c < 128) {
            if (!set->ascii[c]) break;
            at++;
        } else {
            int len;
            if (!re_set_has(m->r, set, utf8_next(s + at, &len))) break;
            at += (size_t)len;
        }
    }
    return at;
}

static size_t step_back(const char *s, size_t at) {
    do at--;
    while (((uint8_t)s[at] & 0xc0) == 0x80);
    return at;
}

static bool prior_has(const struct match *m, const struct re_set *set, size_t at) {
    int len;
    return at && re_set_has(m->r, set, utf8_next(m->s + step_back(m->s, at), &len));
}

static bool word_at(const struct match *m, size_t at) {
    int len;
    if (at >= m->n) return false;
    uint32_t c = utf8_next(m->s + at, &len);
    return (uni_of(c) & UNI_WORD) || c == 0xb2 || c == 0xb3 || c == 0xb9 || (c >= 0xbc && c <= 0xbe);
}

static bool holds(const struct match *m, const struct re_ins *i, size_t at) {
    const char *s = m->s;
    switch (i->op) {
    case RE_BEHIND:
        return prior_has(m, m->r->sets + i->set, at) != (i->mode == RE_NOT);
    case RE_LINE_START:
        return at == 0 || (s[at - 1] == '\n' && at < m->n);
    case RE_LINE_END:
        return at == m->n || s[at] == '\n';
    case RE_TEXT_START:
        return at == 0;
    case RE_TEXT_END:
        return at == m->n;
    case RE_LAST_END:
        return at == m->n || (at + 1 == m->n && s[at] == '\n');
    default:
        return ((at && word_at(m, step_back(s, at))) != word_at(m, at)) != (i->mode == RE_NOT);
    }
}

/* A loop: the fewest it needs, then as its mode says. Gives where to go on, or NO_MATCH. */
static size_t loop(const struct match *m, const struct re_ins *i, int32_t pc, size_t at) {
    const struct re_set *set = m->r->sets + i->set;
    size_t least = at;
    for (uint32_t k = 0; k < i->min; k++) {
        size_t to = take(m, set, least, 1);
        if (to == least) return NO_MATCH;
        least = to;
    }
    if (i->mode == RE_LAZY) return push(m->w, pc, least, i->max - i->min, RETREAT_LAZY) ? least : NO_MATCH;
    size_t end = take(m, set, least, i->max - i->min);
    uint64_t cost = (end - least) / 16;
    m->w->steps -= cost < m->w->steps ? cost : m->w->steps;
    if (end > least && i->mode == RE_GREEDY && !push(m->w, pc + 1, end, least, RETREAT_LOOP)) return NO_MATCH;
    return end;
}

/* Takes back the latest choice; false: none left above `base`. */
static bool retreat(const struct match *m, size_t base, int32_t *pc, size_t *at) {
    struct regex_work *w = m->w;
    while (w->n > base) {
        struct regex_retreat *t = w->stack + w->n - 1;
        *pc = t->pc;
        if (t->kind == RETREAT_TO) {
            *at = t->at;
            w->n--;
            return true;
        }
        if (t->kind == RETREAT_LOOP) {
            *at = t->at = step_back(m->s, t->at);
            if (t->at <= t->least) w->n--;
            return true;
        }
        const struct re_ins *i = m->r->code + t->pc; /* lazy: one more, if it may */
        size_t to = t->least ? take(m, m->r->sets + i->set, t->at, 1) : t->at;
        if (to == t->at) {
            w->n--;
            continue;
        }
        *at = t->at = to;
        t->least--;
        *pc = t->pc + 1;
        return true;
    }
    return false;
}

/* Runs from pc at `at`; gives the end of the match or NO_MATCH. Recursion only into look-arounds, whose depth is bounded. */
static size_t run(const struct match *m, int32_t pc, size_t at) {
    struct regex_work *w = m->w;
    const struct regex *r = m->r;
    size_t base = w->n;
    for (;;) {
        const struct re_ins *i = r->code + pc;
        bool ok = true;
        int len;
        if (!w->steps || w->failed) break;
        w->steps--;
        switch (i->op) {
        case RE_CHAR:
            ok = at < m->n && utf8_next(m->s + at, &len) == (uint32_t)i->x;
            if (ok) at += (size_t)len, pc++;
            break;
        case RE_SET: {
            size_t to = take(m, r->sets + i->set, at, 1);
            ok = to != at;
            at = to;
            pc++;
            break;
        }
        case RE_LOOP: {
            size_t to = loop(m, i, pc, at);
            ok = to != NO_MATCH;
            at = to;
            pc++;
            break;
        }
        case RE_SPLIT:
            ok = push(w, i->mode == RE_LAZY ? pc + 1 : pc + i->x, at, 0, RETREAT_TO);
            pc += i->mode == RE_LAZY ? i->x : 1;
            break;
        case RE_JUMP:
            pc += i->x;
            break;
        case RE_LOOK: {
            size_t to = run(m, pc + 1, at);
            ok = (to != NO_MATCH) != (i->mode == RE_NOT);
            if (i->mode == RE_ATOMIC) at = to;
            pc += i->x;
            break;
        }
        case RE_MATCH:
            w->n = base;
            return at;
        default:
            ok = holds(m, i, at);
            pc++;
        }
        if (!ok && !retreat(m, base, &pc, &at)) break;
    }
    w->n = base;
    return NO_MATCH;
}

int regex_find(const regex *r, const char *s, size_t n, size_t from, size_t *start, size_t *end, struct regex_work *w) {
    if (r->literal) {
        for (const char *p = s + from; (size_t)(s + n - p) >= r->n_literal; p++) {
            p = memchr(p, r->literal[0], (size_t)(s + n - p) - r->n_literal + 1);
            if (!p) break;
            if (memcmp(p, r->literal, r->n_literal) == 0) return *start = (size_t)(p - s), *end = *start + r->n_literal, 1;
        }
        return 0;
    }
    struct match m = { r, s, n, w };
    for (size_t at = from; at < n; at += (size_t)utf8_len(s[at])) {
        uint8_t c = (uint8_t)s[at];
        for (uint32_t some = r->first[c < 128 ? c : 128]; some; some &= some - 1) {
            size_t to = run(&m, r->start[__builtin_ctz(some)], at);
            if (!w->steps || w->failed) return -1;
            if (to != NO_MATCH && to > at) return *start = at, *end = to, 1;
        }
    }
    return 0;
}
