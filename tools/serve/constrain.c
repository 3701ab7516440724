/* constrain: one answer's grammar while it is written (constrain.h). It owns the grammar's state and the text in which a trigger is looked
 * for. It must not know what the grammar stands for. */
#define _GNU_SOURCE /* memmem */
#include "tools/serve/constrain.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_SEEN = 4096, TAIL = 128 }; /* bytes of free text that are kept; of them when it grows over that */

struct constraint {
    constraint_opts o;
    grammar_state *s;
    enum { FREE, THINKING, ON, OFF } state; /* OFF: it was triggered by a text that it does not allow */
    buf seen;
    bool begun; /* what is in seen is not the answer's beginning */
};

int constraint_new(constraint **out, const constraint_opts *o, const int32_t *eos, int n_eos, err *e) {
    constraint *c = *out = calloc(1, sizeof *c);
    if (!c) return fail_memory(e, sizeof *c, "an answer's grammar");
    c->o = *o;
    c->state = !o->n_triggers ? ON : o->thinking ? THINKING : FREE;
    if (grammar_state_new(&c->s, kept_grammar_of(o->grammar), eos, n_eos, e) == 0) return 0;
    constraint_free(c);
    *out = NULL;
    return -1;
}

void constraint_free(constraint *c) {
    if (!c) return;
    grammar_state_free(c->s);
    buf_free(&c->seen);
    free(c);
}

bool constraint_on(const constraint *c) { return c && c->state == ON; }

int constraint_mask(constraint *c, float *row, int n_vocab, err *e) { return c->state == ON ? grammar_mask(c->s, row, n_vocab, e) : 0; }

/* ---- triggers ---- */

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

static size_t find(const buf *b, const char *what) {
    const char *at = b->n ? memmem(b->p, b->n, what, strlen(what)) : NULL;
    return at ? (size_t)(at - b->p) : SIZE_MAX;
}

/* Does the text begin with it, space aside? */
static bool begins(const buf *b, const char *what) {
    for (size_t i = 0; i < b->n && *what; i++) {
        if (is_space(b->p[i])) continue;
        if (b->p[i] != *what++) return false;
    }
    return !*what;
}

static void forget(buf *b, size_t n) {
    memmove(b->p, b->p + n, b->n - n);
    b->n -= n;
}

static size_t first_text(const buf *b) {
    size_t i = 0;
    while (i < b->n && is_space(b->p[i])) i++;
    return i;
}

/* Where the first trigger stands. */
static size_t triggered(const constraint *c) {
    size_t best = SIZE_MAX;
    for (int i = 0; i < c->o.n_triggers; i++) {
        const grammar_trigger *t = &c->o.triggers[i];
        size_t at = !t->at_start ? find(&c->seen, t->text) : !c->begun && begins(&c->seen, t->text) ? first_text(&c->seen) : SIZE_MAX;
        if (at < best) best = at;
    }
    return best;
}

static int begin_grammar(constraint *c, size_t at, bool *done, err *e) {
    err why = { 0 };
    c->state = ON;
    if (grammar_accept_bytes(c->s, c->seen.p + at, c->seen.n - at, &why)) {
        if (why.code != ERR_INPUT) return fail_code(e, why.code, "%s", why.msg);
        c->state = OFF; /* one token wrote the trigger and more than the grammar allows behind it */
    } else *done = grammar_done(c->s);
    c->seen.n = 0;
    return 0;
}

static int look(constraint *c, bool *done, err *e) {
    if (c->seen.failed) return fail_memory(e, c->seen.n, "an answer's text");
    if (c->state == FREE && c->o.think_open && !c->begun && begins(&c->seen, c->o.think_open)) {
        size_t at = find(&c->seen, c->o.think_open);
        if (at != SIZE_MAX) forget(&c->seen, at + strlen(c->o.think_open));
        c->state = THINKING;
    }
    if (c->state == THINKING) {
        size_t at = find(&c->seen, c->o.think_close);
        if (at == SIZE_MAX) {
            if (c->seen.n > TAIL) forget(&c->seen, c->seen.n - TAIL);
            return 0;
        }
        forget(&c->seen, at + strlen(c->o.think_close));
        c->state = FREE;
    }
    size_t at = triggered(c);
    if (at != SIZE_MAX) return begin_grammar(c, at, done, e);
    if (c->seen.n > MOST_SEEN) {
        forget(&c->seen, c->seen.n - TAIL);
        c->begun = true;
    }
    return 0;
}

int constraint_take(constraint *c, int32_t id, bool *done, err *e) {
    *done = false;
    if (c->state == OFF) return 0;
    if (c->state == ON) {
        if (grammar_accept(c->s, id, e)) return -1;
        *done = grammar_done(c->s);
        return 0;
    }
    size_t n;
    const char *p = vocabulary_bytes(kept_vocabulary_of(c->o.grammar), id, &n);
    if (!n) return 0;
    buf_add(&c->seen, p, n);
    return look(c, done, e);
}
