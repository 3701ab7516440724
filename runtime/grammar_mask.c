/* grammar_mask: the tokens that a set of places allows. Most do not depend on the stack (after Dong et al. 2024, XGrammar): for each state
 * they are found once, by a walk of the whole trie above a stack of which nothing is known, and what needs the stack is left as
 * subtrees of the trie to be walked with the real one. A walk is over sets that remember where each byte leads, so it is an automaton
 * made while it is used. It must not know how a text got where it is. */
#include "runtime/grammar_mask.h"

#include <stdlib.h>
#include <string.h>

enum { LOCAL_MOST = 8 << 20,   /* bytes of sets kept from one state's walk to the next */
       SHARED_MOST = 192 << 20, /* of states' masks, all together */
       DENSE = 48,             /* a list where fewer than one in so many is allowed */
       TOGETHER = 4 };         /* with more states whose masks are new: one walk of them all */

int mask_room_begin(mask_room *r, const grammar *g, err *e) {
    size_t depth = g->v->depth + 1;
    *r = (mask_room){ .path = malloc(depth * sizeof *r->path), .at = malloc(depth * sizeof *r->at), .left = calloc(depth, 1),
                      .bits = malloc(mask_words(g->v) * 8 + 8) };
    stacks_begin(&r->local, &g->n);
    return r->path && r->at && r->left && r->bits ? 0 : fail_memory(e, depth * 9 + mask_words(g->v) * 8, "a grammar's masks");
}

void mask_room_free(mask_room *r) {
    stacks_free(&r->local);
    free(r->path);
    free(r->at);
    free(r->left);
    free(r->bits);
    free(r->open.p);
    *r = (mask_room){ 0 };
}

static void allow(const vocabulary *v, const trie_node *x, uint64_t *bits) {
    for (uint32_t i = x->first; i < x->first + x->n; i++) bits[v->order[i] / 64] |= UINT64_C(1) << (v->order[i] % 64);
}

/* ---- one state, whatever lies below ---- */

static bool add_open(mask_room *r, uint32_t node) {
    struct list *l = &r->open;
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? 2 * l->cap : 256;
        void *p = realloc(l->p, cap * sizeof node);
        if (!p) return false;
        l->p = p;
        l->cap = cap;
    }
    ((uint32_t *)l->p)[l->n++] = node;
    return true;
}

/* left: something unknown may come at once. */
static bool walk_local(mask_room *r, const vocabulary *v, uint32_t start, bool left) {
    bool room = true;
    r->path[0] = start;
    r->left[0] = left;
    for (uint32_t i = 0; i < v->n_nodes && room;) {
        const trie_node *x = v->node + i;
        uint32_t to = stacks_step(&r->local, r->path[x->depth - 1], x->byte, true);
        if (to == SET_DEAD) {
            if (r->left[x->depth - 1]) room = add_open(r, i);
            i = x->end;
            continue;
        }
        r->path[x->depth] = to;
        r->left[x->depth] = r->left[x->depth - 1] || (stacks_set(&r->local, to)->flags & SET_LEFT);
        allow(v, x, r->bits);
        i++;
    }
    return room;
}

/* The walk's findings, as small as they go. */
static state_mask *pack(const mask_room *r, const vocabulary *v, size_t *bytes) {
    size_t words = mask_words(v), count = 0;
    for (size_t w = 0; w < words; w++) count += (size_t)__builtin_popcountll(r->bits[w]);
    bool dense = count > (size_t)v->n / DENSE;
    size_t n = dense ? 2 * words : count;
    *bytes = sizeof(state_mask) + (n + r->open.n) * 4;
    state_mask *m = malloc(*bytes);
    if (!m) return NULL;
    *m = (state_mask){ dense ? 0 : (uint32_t)count, r->open.n, dense };
    if (dense) memcpy(m->data, r->bits, words * 8);
    for (size_t w = 0, k = 0; w < words && !dense; w++)
        for (uint64_t b = r->bits[w]; b; b &= b - 1) m->data[k++] = (uint32_t)(w * 64) + (uint32_t)__builtin_ctzll(b);
    if (r->open.n) memcpy(m->data + n, r->open.p, r->open.n * 4);
    return m;
}

static state_mask *make_local(mask_room *r, const grammar *g, uint32_t state, size_t *bytes, err *e) {
    if (r->local.memory > LOCAL_MOST) {
        stacks_free(&r->local);
        stacks_begin(&r->local, &g->n);
    }
    r->open.n = 0;
    memset(r->bits, 0, mask_words(g->v) * 8);
    uint32_t start = stacks_start(&r->local, state, NODE_UNKNOWN, false);
    bool key = g->n.text != NET_NONE && state == g->n.text_state[0]; /* it stands for keys as well, whose end is the object's */
    bool room = walk_local(r, g->v, start, key);
    if (stacks_check(&r->local, e)) {
        stacks_free(&r->local);
        stacks_begin(&r->local, &g->n);
        return NULL;
    }
    state_mask *m = room ? pack(r, g->v, bytes) : NULL;
    if (!m) fail_memory(e, (size_t)g->v->n / 8, "a grammar's mask");
    return m;
}

/* The mask of a state. *own: it could not be kept, the caller frees it. */
static const state_mask *mask_of(mask_room *r, grammar *g, uint32_t state, bool *own, err *e) {
    size_t bytes;
    state_mask *there = atomic_load_explicit(&g->mask[state], memory_order_acquire);
    *own = false;
    if (there) return there;
    state_mask *m = make_local(r, g, state, &bytes, e);
    if (!m) return NULL;
    if (atomic_load(&g->mask_bytes) + bytes > SHARED_MOST) return *own = true, m;
    if (atomic_compare_exchange_strong(&g->mask[state], &there, m)) {
        atomic_fetch_add(&g->mask_bytes, bytes);
        atomic_fetch_add(&g->n_masks, 1);
        return m;
    }
    free(m); /* another thread was sooner */
    return there;
}

static void add_mask(const state_mask *m, size_t words, uint64_t *bits) {
    if (m->dense) {
        for (size_t w = 0; w < words; w++) {
            uint64_t b;
            memcpy(&b, m->data + 2 * w, 8);
            bits[w] |= b;
        }
    } else
        for (uint32_t i = 0; i < m->n_ids; i++) bits[m->data[i] / 64] |= UINT64_C(1) << (m->data[i] % 64);
}

/* ---- with the real stacks ---- */

/* The subtrees of nodes from..end, whose parent's set stands in path. */
static void walk(mask_room *r, const vocabulary *v, stacks *s, uint32_t from, uint32_t end, uint64_t *bits) {
    for (uint32_t i = from; i < end;) {
        const trie_node *x = v->node + i;
        uint32_t to = stacks_step(s, r->path[x->depth - 1], x->byte, true);
        if (to == SET_DEAD) {
            i = x->end;
            continue;
        }
        r->path[x->depth] = to;
        r->at[x->depth] = i;
        allow(v, x, bits);
        i++;
    }
}

/* Takes the path down to the parent of node i. True; or false, and *skip: the node behind which it may go on. */
static bool descend(mask_room *r, const vocabulary *v, stacks *s, uint32_t i, uint32_t *valid, uint32_t *skip) {
    uint32_t depth = v->node[i].depth, up = v->node[i].parent, k = depth - 1;
    while (k > *valid || (k > 0 && r->at[k] != up)) {
        r->at[k] = up; /* to be stepped to */
        up = v->node[up].parent;
        k--;
    }
    for (*valid = k, k++; k < depth; k++) {
        const trie_node *x = v->node + r->at[k];
        r->path[k] = stacks_step(s, r->path[k - 1], x->byte, true);
        if (r->path[k] == SET_DEAD) return *skip = x->end, false;
        *valid = k;
    }
    return true;
}

static void walk_open(mask_room *r, const vocabulary *v, stacks *s, uint32_t set, const uint32_t *open, uint32_t n, uint64_t *bits) {
    uint32_t skip = 0, valid = 0;
    r->path[0] = set;
    for (uint32_t k = 0; k < n; k++) {
        if (open[k] < skip || !descend(r, v, s, open[k], &valid, &skip)) continue;
        walk(r, v, s, open[k], v->node[open[k]].end, bits);
        skip = v->node[open[k]].end;
    }
}

/* The network's state that stands for an item as far as its stack does not matter; NET_NONE: there is none. */
static uint32_t state_of(const grammar *g, const stacks *s, const item *i) {
    if (g->n.state[i->state].object == NET_NONE) return i->state;
    int text = stacks_key_state(s, i);
    return text < 0 ? NET_NONE : g->n.text_state[text];
}

static int add_item(mask_room *r, grammar *g, stacks *s, uint32_t set, uint32_t state, uint64_t *bits, err *e) {
    bool own;
    const state_mask *m = mask_of(r, g, state, &own, e);
    if (!m) return -1;
    size_t words = mask_words(g->v);
    add_mask(m, words, bits);
    walk_open(r, g->v, s, set, m->data + (m->dense ? 2 * words : m->n_ids), m->n_open, bits);
    if (own) free((void *)(uintptr_t)m);
    return 0;
}

/* How many of a set's states have no mask yet? */
static uint32_t count_new(const grammar *g, const stacks *s, uint32_t set) {
    uint32_t n = 0;
    for (uint32_t k = 0; k < stacks_set(s, set)->n; k++) {
        item i = stacks_item(s, stacks_set(s, set))[k];
        uint32_t state = state_of(g, s, &i);
        n += state != NET_NONE && !atomic_load_explicit(&g->mask[state], memory_order_acquire);
    }
    return n;
}

int mask_make(mask_room *r, grammar *g, stacks *s, uint32_t set, uint64_t *bits, err *e) {
    buf others = { 0 };
    bool together = count_new(g, s, set) > TOGETHER;
    memset(bits, 0, mask_words(g->v) * 8);
    for (uint32_t k = 0; k < stacks_set(s, set)->n; k++) {
        item i = stacks_item(s, stacks_set(s, set))[k];
        uint32_t state = state_of(g, s, &i);
        if (state == NET_NONE || (together && !atomic_load_explicit(&g->mask[state], memory_order_acquire))) buf_add(&others, &i, sizeof i);
        else if (add_item(r, g, s, set, state, bits, e)) return buf_free(&others), -1;
        if (stacks_check(s, e)) return buf_free(&others), -1;
    }
    if (others.n && !others.failed) {
        r->path[0] = stacks_items(s, (const item *)(void *)others.p, (uint32_t)(others.n / sizeof(item)));
        walk(r, g->v, s, 0, g->v->n_nodes, bits);
    }
    bool failed = others.failed;
    buf_free(&others);
    return failed ? fail_memory(e, 0, "a grammar's mask") : stacks_check(s, e);
}
