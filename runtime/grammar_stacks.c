/* grammar_stacks: sets of places with the stacks below them (grammar_stacks.h). A node is a set of returns; a place is a state above a node.
 * All calls of a rule at one point of the text share one node, so what is ambiguous is a graph, as in Tomita's parsers (1985),
 * and not a list of stacks. Everything is kept once, by hash: numbers are equal where things are. It must not know tokens. */
#include "runtime/grammar_stacks.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/grammar.h"
#include "runtime/grammar_object.h"

enum { DONE = UINT32_MAX, UNKNOWN = UINT32_MAX - 1, /* returns to these states end the grammar, or lead where nothing is known */
       MAX_PLACES = 20000, MAX_RETURNS = 1 << 20 }; /* of one byte */

/* ---- growing ---- */

static void *grow(stacks *s, struct list *l, uint32_t more, size_t size) {
    if (s->failure || s->no_memory) return NULL;
    if (l->cap - l->n < more) {
        size_t cap = l->cap ? 2 * (size_t)l->cap : 64;
        while (cap - l->n < more) cap *= 2;
        size_t extra = (cap - l->cap) * size;
        if (cap > UINT32_MAX / 2 || s->memory + extra > GRAMMAR_MAX_BYTES)
            return s->failure = "the stacks of the grammar need over 256 MiB: it is too ambiguous, or too deep", NULL;
        void *p = realloc(l->p, cap * size);
        if (!p) return s->no_memory = true, NULL;
        s->memory += extra;
        l->p = p;
        l->cap = (uint32_t)cap;
    }
    void *at = (char *)l->p + l->n * size;
    l->n += more;
    return at;
}

static bool bad(const stacks *s) { return s->failure || s->no_memory; }

static void push(stacks *s, struct list *l, item x) {
    item *p = grow(s, l, 1, sizeof x);
    if (p) *p = x;
}

/* ---- tables: numbers by hash ---- */

static uint64_t mix(uint64_t h, uint64_t v) { return (h ^ v) * UINT64_C(0x9e3779b97f4a7c15) ^ (h >> 29); }

static uint64_t hash_items(const item *p, uint32_t n, uint64_t seed) {
    uint64_t h = seed + n;
    for (uint32_t i = 0; i < n; i++) h = mix(mix(h, (uint64_t)p[i].state << 32 | p[i].data), p[i].node);
    return h ^ h >> 32;
}

/* Room for one more; true: the table was made anew, and is empty. */
static bool table_room(stacks *s, struct table *t) {
    if (2 * (t->used + 1) <= t->size) return false;
    uint32_t size = t->size ? 2 * t->size : 256, *slot = malloc(size * sizeof *slot);
    if (!slot) return s->no_memory = true, false;
    memset(slot, 0xff, size * sizeof *slot);
    s->memory += (size - t->size) * sizeof *slot;
    free(t->slot);
    *t = (struct table){ slot, size, 0 };
    return true;
}

static void table_put(struct table *t, uint64_t h, uint32_t id) {
    uint32_t i = (uint32_t)h & (t->size - 1);
    while (t->slot[i] != UINT32_MAX) i = (i + 1) & (t->size - 1);
    t->slot[i] = id;
    t->used++;
}

/* ---- blobs ---- */

const void *stacks_blob_at(const stacks *s, uint32_t id, uint32_t *n) {
    if (!id) return *n = 0, "";
    const blob *b = (const blob *)s->blobs.p + id;
    *n = b->n;
    return (const char *)s->bytes.p + b->at;
}

static uint64_t hash_blob(const stacks *s, uint32_t id) {
    uint32_t n;
    const void *p = stacks_blob_at(s, id, &n);
    return hash_bytes(p, n);
}

uint32_t stacks_blob(stacks *s, const void *p, uint32_t n) {
    if (!n || bad(s)) return 0;
    if (table_room(s, &s->blob_table))
        for (uint32_t i = 1; i < s->blobs.n; i++) table_put(&s->blob_table, hash_blob(s, i), i);
    if (bad(s)) return 0;
    uint64_t h = hash_bytes(p, n);
    struct table *t = &s->blob_table;
    for (uint32_t i = (uint32_t)h & (t->size - 1); t->slot[i] != UINT32_MAX; i = (i + 1) & (t->size - 1)) {
        const blob *b = (const blob *)s->blobs.p + t->slot[i];
        if (b->n == n && memcmp((const char *)s->bytes.p + b->at, p, n) == 0) return t->slot[i];
    }
    uint32_t at = s->bytes.n, id = s->blobs.n;
    char *to = grow(s, &s->bytes, (n + 7) & ~7u, 1);
    blob *b = grow(s, &s->blobs, 1, sizeof *b);
    if (!to || !b) return 0;
    memcpy(to, p, n);
    *b = (blob){ at, n };
    table_put(t, h, id);
    return id;
}

/* ---- nodes and sets ---- */

static int compare(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->state != y->state) return x->state < y->state ? -1 : 1;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return (x->node > y->node) - (x->node < y->node);
}

static uint32_t sort_unique(item *p, uint32_t n) {
    uint32_t kept = 0;
    if (n > 1) qsort(p, n, sizeof *p, compare);
    for (uint32_t i = 0; i < n; i++)
        if (!kept || compare(p + kept - 1, p + i)) p[kept++] = p[i];
    return kept;
}

static stack_node *node_at(const stacks *s, uint32_t id) { return (stack_node *)s->nodes.p + id; }
static const edge *edges_of(const stacks *s, uint32_t id) { return (const edge *)s->edges.p + node_at(s, id)->first; }

/* The node of these returns, sorted; p may not lie among the edges. */
static uint32_t make_node(stacks *s, const edge *p, uint32_t n) {
    if (bad(s)) return 0;
    if (table_room(s, &s->node_table))
        for (uint32_t i = 0; i < s->nodes.n; i++) table_put(&s->node_table, hash_items(edges_of(s, i), node_at(s, i)->n, 1), i);
    if (bad(s)) return 0;
    uint64_t h = hash_items(p, n, 1);
    struct table *t = &s->node_table;
    for (uint32_t i = (uint32_t)h & (t->size - 1); t->slot[i] != UINT32_MAX; i = (i + 1) & (t->size - 1)) {
        uint32_t id = t->slot[i];
        if (node_at(s, id)->n == n && memcmp(edges_of(s, id), p, n * sizeof *p) == 0) return id;
    }
    stack_node x = { s->edges.n, n, 0 };
    for (uint32_t i = 0; i < n; i++)
        if (p[i].state < UNKNOWN && node_at(s, p[i].node)->depth >= x.depth) x.depth = node_at(s, p[i].node)->depth + 1;
    if (x.depth > GRAMMAR_MAX_DEPTH) s->failure = "over 131072 rules of the grammar are open within one another";
    edge *to = grow(s, &s->edges, n, sizeof *to);
    if (!to) return 0;
    memcpy(to, p, n * sizeof *to);
    uint32_t id = s->nodes.n;
    stack_node *node = grow(s, &s->nodes, 1, sizeof *node);
    if (!node) return 0;
    *node = x;
    table_put(t, h, id);
    return id;
}

static uint32_t make_set(stacks *s, const item *p, uint32_t n, uint32_t flags) {
    if (bad(s)) return SET_DEAD;
    if (table_room(s, &s->set_table))
        for (uint32_t i = 0; i < s->sets.n; i++)
            table_put(&s->set_table, hash_items(stacks_item(s, stacks_set(s, i)), stacks_set(s, i)->n, stacks_set(s, i)->flags), i);
    if (bad(s)) return SET_DEAD;
    uint64_t h = hash_items(p, n, flags);
    struct table *t = &s->set_table;
    for (uint32_t i = (uint32_t)h & (t->size - 1); t->slot[i] != UINT32_MAX; i = (i + 1) & (t->size - 1)) {
        const stack_set *x = stacks_set(s, t->slot[i]);
        if (x->n == n && x->flags == flags && (n == 0 || memcmp(stacks_item(s, x), p, n * sizeof *p) == 0)) return t->slot[i];
    }
    uint32_t first = s->items.n, id = s->sets.n;
    item *to = n ? grow(s, &s->items, n, sizeof *to) : NULL;
    stack_set *x = grow(s, &s->sets, 1, sizeof *x);
    if ((n && !to) || !x) return SET_DEAD;
    if (n) memcpy(to, p, n * sizeof *p);
    *x = (stack_set){ .first = first, .n = n, .flags = flags };
    table_put(t, h, id);
    return id;
}

void stacks_begin(stacks *s, const net *n) {
    *s = (stacks){ .n = n };
    blob *none = grow(s, &s->blobs, 1, sizeof *none);
    if (none) *none = (blob){ 0 };
    grow(s, &s->bytes, 8, 1);
    make_node(s, &(edge){ DONE, 0, 0 }, 1);
    make_node(s, &(edge){ UNKNOWN, 0, 0 }, 1);
    make_set(s, NULL, 0, 0);
}

void stacks_free(stacks *s) {
    for (uint32_t i = 0; i < s->sets.n; i++) free(stacks_set(s, i)->next);
    struct list *const lists[] = { &s->items, &s->edges, &s->nodes, &s->sets, &s->blobs, &s->bytes, &s->work, &s->out, &s->pending, &s->found };
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) free(lists[i]->p);
    free(s->node_table.slot);
    free(s->set_table.slot);
    free(s->blob_table.slot);
    free(s->seen.slot);
    *s = (stacks){ 0 };
}

int stacks_check(stacks *s, err *e) {
    if (s->no_memory) return fail_memory(e, s->memory, "the stacks of a grammar");
    return s->failure ? fail_code(e, ERR_INPUT, "%s", s->failure) : 0;
}

/* ---- closures: what can be reached without a byte ---- */

enum { POPS = 1u << 31 }; /* in work, on a node's number: the rule of this place has taken bytes, so its end returns */

/* Was it there before? `found` holds what was, `seen` their places. */
static bool add_seen(stacks *s, item x) {
    struct table *t = &s->seen;
    if (table_room(s, t))
        for (uint32_t i = 0; i < s->found.n; i++) table_put(t, hash_items((const item *)s->found.p + i, 1, 0), i);
    if (bad(s)) return true;
    uint64_t h = hash_items(&x, 1, 0);
    for (uint32_t i = (uint32_t)h & (t->size - 1); t->slot[i] != UINT32_MAX; i = (i + 1) & (t->size - 1))
        if (compare((const item *)s->found.p + t->slot[i], &x) == 0) return true;
    uint32_t id = s->found.n;
    if (id > MAX_PLACES) s->failure = "the grammar is too ambiguous: over 20000 places in it fit the text at once";
    push(s, &s->found, x);
    if (!bad(s)) table_put(t, h, id);
    return false;
}

static void visit(stacks *s, item x) {
    if (!add_seen(s, x)) push(s, &s->work, x);
}

static void pop(stacks *s, uint32_t node) {
    for (uint32_t i = 0, n = node_at(s, node)->n; i < n && !bad(s); i++) {
        edge r = edges_of(s, node)[i];
        if (++s->returns > MAX_RETURNS) s->failure = "the grammar is too ambiguous: over a million ways to go on from one byte";
        if (r.state == DONE) s->flags |= SET_MAY_END;
        else if (r.state == UNKNOWN) s->flags |= SET_LEFT;
        else visit(s, (item){ r.state, r.data, r.node | POPS });
    }
}

/* A call: kept until all calls of the rule are known. The rule goes where the state was. */
static void call(stacks *s, uint32_t rule, edge ret) {
    push(s, &s->pending, (item){ rule, 0, 0 });
    push(s, &s->pending, ret);
}

static void expand_object(stacks *s, const net_state *st, item x, uint32_t node) {
    const net_object *o = s->n->object + st->object;
    uint32_t base = s->n->rule[st->rule].start, phase = x.state - base;
    bool space = phase == PHASE_OPEN || phase == PHASE_NEXT || phase == PHASE_VALUE || (phase == PHASE_AFTER && object_may_close(s, o, x.data));
    if (phase == PHASE_END) {
        if (x.node & POPS) pop(s, node);
        return;
    }
    if (space) call(s, s->n->space, (edge){ x.state + 1, x.data, node });
    if (phase == PHASE_VALUE || phase == PHASE_VALUED)
        call(s, object_value(s, x.data), (edge){ base + PHASE_AFTER, object_settled(s, o, x.data), node });
    else push(s, &s->out, (item){ x.state, x.data, node });
}

static void expand(stacks *s, item x) {
    const net_state *st = s->n->state + x.state;
    uint32_t node = x.node & ~(uint32_t)POPS;
    if (st->object != NET_NONE) {
        expand_object(s, st, x, node);
        return;
    }
    if (st->n_bytes) push(s, &s->out, (item){ x.state, 0, node });
    if (st->final && (x.node & POPS)) pop(s, node);
    for (const net_arc *a = s->n->arc + st->first + st->n_bytes; a < s->n->arc + st->first + st->n; a++) {
        if (a->kind == ARC_EMPTY) visit(s, (item){ a->to, 0, x.node });
        else call(s, a->rule, (edge){ a->to, 0, node });
    }
}

static void drain(stacks *s) {
    while (s->work.n && !bad(s)) expand(s, ((item *)s->work.p)[--s->work.n]);
}

/* Of the pending calls those of the rule that comes first in the order; their returns into a node. What only returns is passed over. */
static void call_next(stacks *s) {
    item *p = s->pending.p;
    uint32_t best = p[0].state, kept = 0, n = s->pending.n;
    for (uint32_t i = 0; i < n; i += 2)
        if (s->n->rule[p[i].state].rank < s->n->rule[best].rank) best = p[i].state;
    struct list returns = { 0 };
    for (uint32_t i = 0; i < n && !bad(s); i += 2) {
        if (p[i].state != best) {
            p[kept] = p[i];
            p[kept + 1] = p[i + 1];
            kept += 2;
        } else if (s->n->state[p[i + 1].state].tail) {
            uint32_t m = node_at(s, p[i + 1].node)->n;
            edge *to = grow(s, &returns, m, sizeof *to);
            if (to) memcpy(to, edges_of(s, p[i + 1].node), m * sizeof *to);
        } else push(s, &returns, p[i + 1]);
    }
    s->pending.n = kept;
    uint32_t node = make_node(s, returns.p, sort_unique(returns.p, returns.n));
    s->memory -= returns.cap * sizeof(item);
    free(returns.p);
    if (!bad(s)) visit(s, (item){ s->n->rule[best].start, 0, node });
    drain(s);
}

/* One place for each state and data: several nodes become one that has all of their returns. */
static uint32_t merge(stacks *s, item *p, uint32_t n) {
    uint32_t kept = 0;
    n = sort_unique(p, n);
    for (uint32_t i = 0, end; i < n && !bad(s); i = end) {
        for (end = i + 1; end < n && p[end].state == p[i].state && p[end].data == p[i].data;) end++;
        item x = p[i];
        struct list all = { 0 };
        for (uint32_t k = i; k < end && end - i > 1; k++) {
            uint32_t m = node_at(s, p[k].node)->n;
            edge *to = grow(s, &all, m, sizeof *to);
            if (to) memcpy(to, edges_of(s, p[k].node), m * sizeof *to);
        }
        if (end - i > 1 && !bad(s)) x.node = make_node(s, all.p, sort_unique(all.p, all.n));
        s->memory -= all.cap * sizeof(item);
        free(all.p);
        p[kept++] = x;
    }
    return kept;
}

/* The set of what `work` leads to. */
static uint32_t close_set(stacks *s) {
    drain(s);
    while (s->pending.n && !bad(s)) call_next(s);
    uint32_t n = merge(s, s->out.p, s->out.n);
    return make_set(s, s->out.p, n, s->flags);
}

static void begin_closure(stacks *s) {
    s->work.n = s->out.n = s->pending.n = s->found.n = s->flags = s->returns = 0;
    if (s->seen.used) memset(s->seen.slot, 0xff, s->seen.size * sizeof *s->seen.slot);
    s->seen.used = 0;
}

uint32_t stacks_items(stacks *s, const item *p, uint32_t n) { return make_set(s, p, n, 0); }

uint32_t stacks_start(stacks *s, uint32_t state, uint32_t node, bool close) {
    if (!close) return make_set(s, &(item){ state, 0, node }, 1, 0);
    begin_closure(s);
    if (bad(s)) return SET_DEAD;
    visit(s, (item){ state, 0, node | POPS });
    return close_set(s);
}

/* ---- steps ---- */

static void step_item(stacks *s, item x, uint8_t byte) {
    const net_state *st = s->n->state + x.state;
    if (st->object != NET_NONE) {
        uint32_t base = s->n->rule[st->rule].start;
        uint32_t phase = object_byte(s, s->n->object + st->object, x.state - base, &x.data, byte);
        if (phase < PHASES) visit(s, (item){ base + phase, x.data, x.node | POPS });
        return;
    }
    for (const net_arc *a = s->n->arc + st->first; a < s->n->arc + st->first + st->n_bytes; a++)
        if (a->lo <= byte && byte <= a->hi) visit(s, (item){ a->to, 0, x.node | POPS });
}

static uint32_t step(stacks *s, uint32_t set, uint8_t byte) {
    begin_closure(s);
    for (uint32_t i = 0; i < stacks_set(s, set)->n && !bad(s); i++) step_item(s, stacks_item(s, stacks_set(s, set))[i], byte);
    return s->work.n ? close_set(s) : SET_DEAD;
}

uint32_t stacks_step(stacks *s, uint32_t set, uint8_t byte, bool walking) {
    s->walking = walking;
    if (bad(s)) return SET_DEAD;
    if (!walking) return step(s, set, byte);
    uint32_t *next = stacks_set(s, set)->next, c = s->n->class_of[byte];
    if (next && next[c] != SET_UNKNOWN) return next[c];
    uint32_t to = step(s, set, byte);
    if (!next && !bad(s)) {
        size_t bytes = (size_t)s->n->n_classes * sizeof *next;
        if (!(next = malloc(bytes))) return s->no_memory = true, SET_DEAD;
        memset(next, 0xff, bytes);
        stacks_set(s, set)->next = next;
        s->memory += bytes;
        if (s->memory > GRAMMAR_MAX_BYTES) s->failure = "the stacks of the grammar need over 256 MiB: it is too ambiguous, or too deep";
    }
    if (bad(s)) return SET_DEAD;
    return next[c] = to;
}

uint32_t stacks_for_walk(stacks *s, uint32_t set) {
    const stack_set *x = stacks_set(s, set);
    uint32_t flags = x->flags;
    bool same = true;
    s->out.n = 0;
    for (uint32_t i = 0; i < stacks_set(s, set)->n && !bad(s); i++) {
        item p = stacks_item(s, stacks_set(s, set))[i];
        const net_state *st = s->n->state + p.state;
        uint32_t data = p.data;
        if (st->object != NET_NONE) p.data = object_for_walk(s, s->n->object + st->object, p.state - s->n->rule[st->rule].start, p.data);
        same &= p.data == data;
        push(s, &s->out, p);
    }
    return same || bad(s) ? set : make_set(s, s->out.p, merge(s, s->out.p, s->out.n), flags);
}

int stacks_key_state(const stacks *s, const item *i) {
    const net_state *st = s->n->state + i->state;
    if (st->object == NET_NONE || i->state - s->n->rule[st->rule].start != PHASE_KEY) return -1;
    if (s->n->object[st->object].additional == NET_NONE) return -1;
    uint32_t n;
    const object_data *d = stacks_blob_at(s, i->data, &n);
    /* with a bound on their number another key may be one too many */
    return s->n->object[st->object].max == UINT32_MAX ? d->text : -1;
}

/* ---- into other stacks ---- */

static uint32_t copy_data(stacks *to, const stacks *from, uint32_t state, uint32_t data) {
    if (state >= UNKNOWN || from->n->state[state].object == NET_NONE) return 0;
    return object_copy(to, from, from->n->object + from->n->state[state].object, data);
}

/* Nodes lie above those that they return to, so from the top down marks all that are needed, and from the bottom up copies them. */
static void copy_nodes(stacks *to, const stacks *from, const stack_set *x, uint32_t *map) {
    for (uint32_t i = 0; i < x->n; i++) map[stacks_item(from, x)[i].node] = 1;
    for (uint32_t k = from->nodes.n; k-- > 2;)
        for (uint32_t i = 0; map[k] && i < node_at(from, k)->n; i++)
            if (edges_of(from, k)[i].state < UNKNOWN) map[edges_of(from, k)[i].node] = 1;
    map[NODE_ROOT] = NODE_ROOT;
    map[NODE_UNKNOWN] = NODE_UNKNOWN;
    struct list work = { 0 };
    for (uint32_t k = 2; k < from->nodes.n && !bad(to); k++) {
        if (!map[k]) continue;
        work.n = 0;
        for (uint32_t i = 0; i < node_at(from, k)->n; i++) {
            edge r = edges_of(from, k)[i];
            push(to, &work, (edge){ r.state, copy_data(to, from, r.state, r.data), r.state < UNKNOWN ? map[r.node] : 0 });
        }
        if (!bad(to)) map[k] = make_node(to, work.p, sort_unique(work.p, work.n));
    }
    to->memory -= work.cap * sizeof(item);
    free(work.p);
}

uint32_t stacks_copy(stacks *to, const stacks *from, uint32_t set) {
    const stack_set *x = stacks_set(from, set);
    uint32_t *map = calloc(from->nodes.n, sizeof *map);
    if (!map) return to->no_memory = true, SET_DEAD;
    copy_nodes(to, from, x, map);
    to->out.n = 0;
    for (uint32_t i = 0; i < x->n && !bad(to); i++) {
        item p = stacks_item(from, x)[i];
        push(to, &to->out, (item){ p.state, copy_data(to, from, p.state, p.data), map[p.node] });
    }
    free(map);
    return bad(to) ? SET_DEAD : make_set(to, to->out.p, merge(to, to->out.p, to->out.n), x->flags);
}
