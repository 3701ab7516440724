/* grammar: a grammar and its states (grammar.h). It owns where an answer stands and the masks it met last; it must not know how grammars
 * are written nor how a mask is made. */
#include "runtime/grammar.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/grammar_build.h"
#include "runtime/grammar_parse.h"

enum { CACHE_BYTES = 4 << 20, CACHE_LEAST = 8, CACHE_MOST = 256,
       SWEEP = 8 << 20 }; /* bytes of sets beyond twice those that were live, after which they are swept */

typedef struct cached {
    uint32_t set;
    uint64_t used;  /* when */
    uint64_t *bits; /* [words] */
} cached;

struct grammar_state {
    grammar *g;
    stacks s;
    mask_room room;
    uint32_t set;
    bool ended;          /* an end-of-text token was accepted */
    int32_t *eos;
    float *kept;         /* [n_eos] their logits, while the others are masked */
    int n_eos;
    cached *cache;
    int n_cache, cap_cache;
    uint64_t clock;
    size_t live; /* bytes of sets after the last sweep */
};

/* ---- grammars ---- */

int grammar_of_net(grammar **out, const vocabulary *v, net *n, err *e) {
    grammar *g = calloc(1, sizeof *g);
    *out = NULL;
    if (g) g->mask = calloc(n->n_states + 1, sizeof *g->mask);
    if (!g || !g->mask) {
        free(g);
        net_free(n);
        return fail_memory(e, n->n_states * sizeof *g->mask, "a grammar");
    }
    g->n = *n;
    g->v = v;
    *n = (net){ 0 };
    *out = g;
    return 0;
}

int grammar_compile(grammar **g, const vocabulary *v, const char *gbnf, size_t n, err *e) {
    net made = { 0 };
    *g = NULL;
    if (!gbnf_parse(&made, gbnf, n, NULL, e)) return grammar_of_net(g, v, &made, e);
    net_free(&made);
    return -1;
}

void grammar_free(grammar *g) {
    if (!g) return;
    for (uint32_t i = 0; i < g->n.n_states; i++) free(atomic_load(&g->mask[i]));
    free(g->mask);
    net_free(&g->n);
    free(g);
}

/* ---- states ---- */

static void begin_text(grammar_state *s) {
    const net *n = &s->g->n;
    s->set = stacks_start(&s->s, n->rule[n->root].start, NODE_ROOT, true);
    s->ended = false;
}

static int new_state(grammar_state **out, grammar *g, const int32_t *eos, int n_eos, err *e) {
    grammar_state *s = *out = calloc(1, sizeof *s);
    if (!s) return fail_memory(e, sizeof *s, "a grammar's state");
    s->g = g;
    stacks_begin(&s->s, &g->n);
    s->n_eos = n_eos;
    s->eos = malloc(((size_t)n_eos + 1) * sizeof *s->eos);
    s->kept = malloc(((size_t)n_eos + 1) * sizeof *s->kept);
    size_t most = CACHE_BYTES / (mask_words(g->v) * 8 + 1);
    s->cap_cache = most < CACHE_LEAST ? CACHE_LEAST : most > CACHE_MOST ? CACHE_MOST : (int)most;
    s->cache = calloc((size_t)s->cap_cache, sizeof *s->cache);
    if (!s->eos || !s->kept || !s->cache) return fail_memory(e, (size_t)s->cap_cache * sizeof *s->cache, "a grammar's state");
    if (n_eos) memcpy(s->eos, eos, (size_t)n_eos * sizeof *eos);
    return mask_room_begin(&s->room, g, e);
}

int grammar_state_new(grammar_state **out, grammar *g, const int32_t *eos, int n_eos, err *e) {
    int rc = new_state(out, g, eos, n_eos, e);
    if (!rc) begin_text(*out);
    if (!rc) rc = stacks_check(&(*out)->s, e);
    if (!rc) return 0;
    grammar_state_free(*out);
    *out = NULL;
    return -1;
}

int grammar_state_clone(grammar_state **out, const grammar_state *from, err *e) {
    int rc = new_state(out, from->g, from->eos, from->n_eos, e);
    if (!rc) {
        (*out)->set = stacks_copy(&(*out)->s, &from->s, from->set);
        (*out)->ended = from->ended;
        (*out)->live = (*out)->s.memory;
        rc = stacks_check(&(*out)->s, e);
    }
    if (!rc) return 0;
    grammar_state_free(*out);
    *out = NULL;
    return -1;
}

int grammar_state_reset(grammar_state *s, err *e) {
    if (s->s.failure || s->s.no_memory) {
        stacks_free(&s->s);
        stacks_begin(&s->s, &s->g->n);
        s->n_cache = 0;
    }
    begin_text(s);
    return stacks_check(&s->s, e);
}

void grammar_state_free(grammar_state *s) {
    if (!s) return;
    for (int i = 0; i < s->cap_cache && s->cache; i++) free(s->cache[i].bits);
    free(s->cache);
    free(s->eos);
    free(s->kept);
    mask_room_free(&s->room);
    stacks_free(&s->s);
    free(s);
}

/* Sets that were passed are only of use if they come again: now and then all but the present one go. */
static int sweep(grammar_state *s, err *e) {
    stacks fresh;
    if (stacks_check(&s->s, e)) return -1;
    if (s->s.memory < 2 * s->live + SWEEP) return 0;
    stacks_begin(&fresh, &s->g->n);
    uint32_t set = stacks_copy(&fresh, &s->s, s->set);
    if (stacks_check(&fresh, e)) {
        stacks_free(&fresh);
        return -1;
    }
    stacks_free(&s->s);
    s->s = fresh;
    s->set = set;
    s->live = fresh.memory;
    s->n_cache = 0;
    return 0;
}

/* ---- masks ---- */

static cached *find_cached(grammar_state *s, uint32_t set) {
    for (int i = 0; i < s->n_cache; i++)
        if (s->cache[i].set == set) return s->cache + i;
    return NULL;
}

/* Room for another mask: a new one, or the one not used for longest. */
static cached *take_cached(grammar_state *s, err *e) {
    cached *c = s->cache + s->n_cache;
    if (s->n_cache < s->cap_cache) s->n_cache++;
    else {
        c = s->cache;
        for (int i = 1; i < s->n_cache; i++)
            if (s->cache[i].used < c->used) c = s->cache + i;
    }
    c->set = SET_UNKNOWN;
    size_t bytes = mask_words(s->g->v) * 8 + 8;
    if (!c->bits && !(c->bits = malloc(bytes))) return fail_memory(e, bytes, "a grammar's mask"), NULL;
    return c;
}

static const uint64_t *bits_of(grammar_state *s, err *e) {
    uint32_t set = stacks_for_walk(&s->s, s->set);
    if (stacks_check(&s->s, e)) return NULL;
    cached *c = find_cached(s, set);
    if (!c) {
        if (!(c = take_cached(s, e)) || mask_make(&s->room, s->g, &s->s, set, c->bits, e)) return NULL;
        c->set = set;
    }
    c->used = ++s->clock;
    return c->bits;
}

static void apply(const uint64_t *bits, float *logits, int n) {
    for (int w = 0; w < n / 64; w++) {
        float *row = logits + (size_t)w * 64;
        if (bits[w] == 0)
            for (int i = 0; i < 64; i++) row[i] = -INFINITY;
        else
            for (uint64_t none = ~bits[w]; none; none &= none - 1) row[__builtin_ctzll(none)] = -INFINITY;
    }
    for (int i = n / 64 * 64; i < n; i++)
        if (!(bits[i / 64] >> (i % 64) & 1)) logits[i] = -INFINITY;
}

int grammar_mask(grammar_state *s, float *logits, int n_vocab, err *e) {
    static const uint64_t none[1] = { 0 };
    const uint64_t *bits = none;
    if (!s->ended && (sweep(s, e) || !(bits = bits_of(s, e)))) return -1;
    for (int i = 0; i < s->n_eos; i++)
        if (s->eos[i] >= 0 && s->eos[i] < n_vocab) s->kept[i] = logits[s->eos[i]];
    int n = s->ended ? 0 : min_int(n_vocab, s->g->v->n);
    apply(bits, logits, n);
    for (int i = n; i < n_vocab; i++) logits[i] = -INFINITY;
    bool end = grammar_may_end(s);
    for (int i = 0; i < s->n_eos; i++)
        if (s->eos[i] >= 0 && s->eos[i] < n_vocab) logits[s->eos[i]] = end ? s->kept[i] : -INFINITY;
    return 0;
}

/* ---- taking ---- */

static bool is_eos(const grammar_state *s, int32_t id) {
    for (int i = 0; i < s->n_eos; i++)
        if (s->eos[i] == id) return true;
    return false;
}

static uint32_t after(grammar_state *s, const char *p, size_t n, bool walking) {
    uint32_t set = walking ? stacks_for_walk(&s->s, s->set) : s->set;
    for (size_t i = 0; i < n && set != SET_DEAD; i++) set = stacks_step(&s->s, set, (uint8_t)p[i], walking);
    return set;
}

bool grammar_allows(grammar_state *s, int32_t id) {
    size_t n;
    if (is_eos(s, id)) return grammar_may_end(s);
    const char *p = vocabulary_bytes(s->g->v, id, &n);
    return !s->ended && n && after(s, p, n, true) != SET_DEAD;
}

int grammar_accept_bytes(grammar_state *s, const char *p, size_t n, err *e) {
    if (sweep(s, e)) return -1;
    uint32_t to = after(s, p, n, false);
    if (stacks_check(&s->s, e)) return -1;
    if (s->ended || (to == SET_DEAD && n)) return fail_code(e, ERR_INPUT, "the grammar does not allow \"%.*s\" here", (int)(n < 60 ? n : 60), p);
    s->set = to;
    return 0;
}

int grammar_accept(grammar_state *s, int32_t id, err *e) {
    size_t n;
    if (is_eos(s, id)) {
        if (!grammar_may_end(s)) return fail_code(e, ERR_INPUT, "the grammar does not allow the text to end here (token %d)", id);
        s->ended = true;
        return 0;
    }
    const char *p = vocabulary_bytes(s->g->v, id, &n);
    if (!n) return fail_code(e, ERR_INPUT, "token %d stands for no text, which no grammar allows", id);
    return grammar_accept_bytes(s, p, n, e);
}

bool grammar_may_end(const grammar_state *s) { return s->ended || (stacks_set(&s->s, s->set)->flags & SET_MAY_END); }

bool grammar_done(const grammar_state *s) { return s->ended || (grammar_may_end(s) && stacks_set(&s->s, s->set)->n == 0); }

grammar_figures grammar_about(const grammar_state *s) {
    const grammar *g = s->g;
    return (grammar_figures){ g->n.n_states, atomic_load(&g->n_masks), atomic_load(&g->mask_bytes), s->s.memory + s->room.local.memory };
}
