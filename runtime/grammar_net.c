/* grammar_net: building networks of states (grammar_net.h), and what must hold before one is run: every state can be reached and can
 * end, rules that may be empty are known, none begins with itself. It must not know where a grammar came from, nor tokens. */
#include "runtime/grammar_net.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/grammar.h"

enum { MAX_ARCS = 1 << 21 };

/* ---- building ---- */

/* Room for one more in a growable array, or NULL. */
static void *room(net *n, void **p, uint32_t count, uint32_t *cap, size_t size, uint32_t most) {
    if (n->too_large || n->failed) return NULL;
    if (count >= most) return n->too_large = true, NULL;
    if (count == *cap) {
        uint32_t more = *cap ? 2 * *cap : 64;
        void *q = realloc(*p, more * size);
        if (!q) return n->failed = true, NULL;
        *p = q;
        *cap = more;
    }
    return memset((char *)*p + count * size, 0, size);
}

uint32_t net_add_state(net *n, uint32_t rule) {
    net_state *s = room(n, (void **)&n->state, n->n_states, &n->cap_states, sizeof *s, GRAMMAR_MAX_STATES);
    if (!s) return 0; /* whoever adds arcs to it adds none */
    s->rule = rule;
    s->object = NET_NONE;
    return n->n_states++;
}

static void add_arc(net *n, net_arc a) {
    net_arc *p = room(n, (void **)&n->arc, n->n_arcs, &n->cap_arcs, sizeof *p, MAX_ARCS);
    if (!p) return;
    *p = a;
    n->n_arcs++;
}

uint32_t net_add_rule(net *n, const char *name, size_t name_n) {
    net_rule *r = room(n, (void **)&n->rule, n->n_rules, &n->cap_rules, sizeof *r, GRAMMAR_MAX_STATES);
    const char *copy = arena_copy(&n->mem, name, name_n);
    if (!r || !copy) return n->failed |= !copy, 0;
    *r = (net_rule){ .name = copy, .object = NET_NONE };
    uint32_t id = n->n_rules++;
    uint32_t start = net_add_state(n, id), end = net_add_state(n, id);
    n->rule[id].start = start;
    n->rule[id].end = end;
    return id;
}

void net_empty(net *n, uint32_t from, uint32_t to) { add_arc(n, (net_arc){ ARC_EMPTY, 0, 0, from, to, NET_NONE }); }
void net_bytes(net *n, uint32_t from, uint8_t lo, uint8_t hi, uint32_t to) { add_arc(n, (net_arc){ ARC_BYTES, lo, hi, from, to, NET_NONE }); }
void net_call(net *n, uint32_t from, uint32_t rule, uint32_t to) { add_arc(n, (net_arc){ ARC_CALL, 0, 0, from, to, rule }); }

static uint32_t rule_of(const net *n, uint32_t state) { return n->failed || n->too_large ? 0 : n->state[state].rule; }

uint32_t net_literal(net *n, uint32_t from, const char *s, size_t len) {
    for (size_t i = 0; i < len && !n->too_large && !n->failed; i++) {
        uint32_t to = net_add_state(n, rule_of(n, from));
        net_bytes(n, from, (uint8_t)s[i], (uint8_t)s[i], to);
        from = to;
    }
    return from;
}

/* ---- characters as bytes ---- */

/* Any continuation bytes, `count` of them, and then `to`; made once for a class. */
static uint32_t any_tail(net *n, uint32_t tail[4], int count) {
    if (tail[count] == NET_NONE) {
        uint32_t behind = any_tail(n, tail, count - 1), s = net_add_state(n, rule_of(n, behind));
        net_bytes(n, s, 0x80, 0xbf, behind);
        tail[count] = s;
    }
    return tail[count];
}

/* Encodings of one length that share their first bytes before `at`: split until each byte is a range of its own. */
static void add_encodings(net *n, uint32_t from, uint32_t lo, uint32_t hi, int rest, int length, uint32_t tail[4]) {
    static const uint8_t lead[] = { 0, 0, 0xc0, 0xe0, 0xf0 };
    bool first = rest == length - 1;
    while (lo <= hi) {
        uint32_t unit = 1u << (6 * rest), top = (lo / unit) * unit + unit - 1; /* the last with lo's byte here */
        uint32_t end = hi < top ? hi : top;
        uint8_t a = (uint8_t)(first && length == 1 ? lo : first ? lead[length] | lo / unit : 0x80 | (lo / unit & 0x3f));
        uint8_t b = a;
        if (lo % unit == 0 && end == top) { /* whole units: as many as there are, in one arc */
            uint32_t units = (hi - lo + 1) / unit;
            end = lo + units * unit - 1;
            b = (uint8_t)(a + units - 1);
            net_bytes(n, from, a, b, any_tail(n, tail, rest));
        } else {
            uint32_t to = net_add_state(n, rule_of(n, from));
            net_bytes(n, from, a, b, to);
            if (n->too_large || n->failed) return;
            add_encodings(n, to, lo, end, rest - 1, length, tail);
        }
        lo = end + 1;
    }
}

void net_chars(net *n, uint32_t from, const char_range *r, size_t n_ranges, uint32_t to) {
    static const uint32_t part[][3] = { { 0, 0x7f, 1 }, { 0x80, 0x7ff, 2 }, { 0x800, 0xd7ff, 3 }, { 0xe000, 0xffff, 3 }, { 0x10000, 0x10ffff, 4 } };
    uint32_t tail[4] = { to, NET_NONE, NET_NONE, NET_NONE };
    for (size_t i = 0; i < n_ranges && !n->too_large && !n->failed; i++)
        for (int k = 0; k < 5; k++) {
            uint32_t lo = r[i].lo > part[k][0] ? r[i].lo : part[k][0], hi = r[i].hi < part[k][1] ? r[i].hi : part[k][1];
            if (lo <= hi) add_encodings(n, from, lo, hi, (int)part[k][2] - 1, (int)part[k][2], tail);
        }
}

/* ---- JSON's parts ---- */

int json_text_step(int state, uint8_t b) {
    enum { WHOLE, ESCAPE, U, U0, U00, U000, U001, LAST1, LAST2, LAST3, AFTER_E0, AFTER_ED, AFTER_F0, AFTER_F4 };
    switch (state) {
    case WHOLE:
        if (b == '\\') return ESCAPE;
        if (b < 0x20 || b == '"') return -1;
        if (b < 0x80) return WHOLE;
        if (b >= 0xc2 && b <= 0xdf) return LAST1;
        if (b >= 0xe0 && b <= 0xef) return b == 0xe0 ? AFTER_E0 : b == 0xed ? AFTER_ED : LAST2;
        if (b >= 0xf0 && b <= 0xf4) return b == 0xf0 ? AFTER_F0 : b == 0xf4 ? AFTER_F4 : LAST3;
        return -1;
    case ESCAPE: return b == 'u' ? U : b && strchr("\"\\bfnrt", b) ? WHOLE : -1;
    case U: return b == '0' ? U0 : -1;
    case U0: return b == '0' ? U00 : -1;
    case U00: return b == '0' ? U000 : b == '1' ? U001 : -1;
    case U000: return b && strchr("01234567bef", b) ? WHOLE : -1;
    case U001: return b && strchr("0123456789abcdef", b) ? WHOLE : -1;
    case LAST1: return (b & 0xc0) == 0x80 ? WHOLE : -1;
    case LAST2: return (b & 0xc0) == 0x80 ? LAST1 : -1;
    case LAST3: return (b & 0xc0) == 0x80 ? LAST2 : -1;
    case AFTER_E0: return b >= 0xa0 && b <= 0xbf ? LAST1 : -1;
    case AFTER_ED: return b >= 0x80 && b <= 0x9f ? LAST1 : -1;
    case AFTER_F0: return b >= 0x90 && b <= 0xbf ? LAST2 : -1;
    case AFTER_F4: return b >= 0x80 && b <= 0x8f ? LAST2 : -1;
    default: return -1;
    }
}

/* Between tokens of JSON at most one space, or up to two newlines and 20 of indentation: enough for every usual layout, and no model
 * can go on with it for ever. */
static void add_space(net *n) {
    enum { INDENT = 20 };
    n->space = net_add_rule(n, "space", 5);
    net_rule r = n->failed || n->too_large ? (net_rule){ 0 } : n->rule[n->space];
    uint32_t line = net_add_state(n, n->space), line2 = net_add_state(n, n->space), at = line2;
    net_bytes(n, r.start, ' ', ' ', r.end);
    net_bytes(n, r.start, '\n', '\n', line);
    net_bytes(n, line, '\n', '\n', line2);
    net_empty(n, line, line2);
    net_empty(n, line2, r.end);
    for (int i = 0; i < INDENT; i++) {
        uint32_t to = net_add_state(n, n->space);
        net_bytes(n, at, ' ', ' ', to);
        net_bytes(n, at, '\t', '\t', to);
        net_empty(n, to, r.end);
        at = to;
    }
}

void net_json(net *n) {
    add_space(n);
    n->text = net_add_rule(n, "text", 4);
    for (int i = 0; i < JSON_TEXT_STATES; i++) n->text_state[i] = net_add_state(n, n->text);
    if (n->failed || n->too_large) return;
    net_empty(n, n->rule[n->text].start, n->text_state[0]);
    net_empty(n, n->text_state[0], n->rule[n->text].end);
    for (int i = 0; i < JSON_TEXT_STATES; i++)
        for (int b = 0, to, end; b < 256; b = end) {
            to = json_text_step(i, (uint8_t)b);
            for (end = b + 1; end < 256 && json_text_step(i, (uint8_t)end) == to;) end++;
            if (to >= 0) net_bytes(n, n->text_state[i], (uint8_t)b, (uint8_t)(end - 1), n->text_state[to]);
        }
}

static int by_name(const void *a, const void *b) {
    const net_property *x = a, *y = b;
    size_t n = x->n < y->n ? x->n : y->n;
    int c = n ? memcmp(x->name, y->name, n) : 0;
    return c ? c : (x->n > y->n) - (x->n < y->n);
}

void net_set_object(net *n, uint32_t rule, const net_property *p, uint32_t n_p, uint32_t additional, uint32_t min, uint32_t max) {
    net_object *o = room(n, (void **)&n->object, n->n_objects, &n->cap_objects, sizeof *o, GRAMMAR_MAX_STATES);
    net_property *copy = arena_alloc(&n->mem, (n_p + 1) * sizeof *copy);
    if (!o || !copy) {
        n->failed |= !copy;
        return;
    }
    if (n_p) memcpy(copy, p, n_p * sizeof *copy);
    qsort(copy, n_p, sizeof *copy, by_name);
    *o = (net_object){ copy, n_p, additional, min, max, rule };
    uint32_t first = n->n_states, id = n->n_objects++;
    for (int i = 0; i < PHASES; i++) net_add_state(n, rule);
    if (n->too_large || n->failed) return;
    for (uint32_t i = first; i < n->n_states; i++) n->state[i].object = id;
    n->rule[rule].object = id;
    n->rule[rule].start = first;
    n->rule[rule].end = first + PHASE_END;
}

uint32_t net_add_object(net *n, const char *name, const net_property *p, uint32_t n_p, uint32_t additional, uint32_t min, uint32_t max) {
    uint32_t rule = net_add_rule(n, name, strlen(name));
    net_set_object(n, rule, p, n_p, additional, min, max);
    return rule;
}

/* ---- finishing: what can be reached, what can end ---- */

typedef struct work {
    net *n;
    uint32_t *stack, depth;   /* states to look at */
    bool *seen;               /* [n_states] */
    uint32_t *first_call, *next_call; /* arcs that call a rule: heads by rule, and the next by arc */
    bool *ends;               /* [n_rules] the rule's end was seen */
} work;

static bool object_can_end(const net_object *o, const bool *ends) {
    uint64_t usable = 0, required = 0;
    for (uint32_t i = 0; i < o->n; i++) {
        bool can = o->p[i].rule != NET_NONE && ends[o->p[i].rule];
        if (o->p[i].required && !can) return false;
        usable += can;
        required += o->p[i].required;
    }
    if (o->additional != NET_NONE && ends[o->additional]) usable = UINT64_MAX;
    return required <= o->max && o->min <= o->max && o->min <= usable;
}

static void reach(work *w, uint32_t s) {
    if (w->seen[s]) return;
    w->seen[s] = true;
    w->stack[w->depth++] = s;
}

static void rule_ends(work *w, uint32_t rule) {
    if (w->ends[rule]) return;
    w->ends[rule] = true;
    for (uint32_t a = w->first_call[rule]; a != NET_NONE; a = w->next_call[a])
        if (w->seen[w->n->arc[a].from]) reach(w, w->n->arc[a].to);
}

/* Follows arcs from every rule's start; a call is passed once its rule can end. empty: without any byte. */
static void find_ends(work *w, bool empty) {
    net *n = w->n;
    memset(w->seen, 0, n->n_states);
    memset(w->ends, 0, n->n_rules);
    for (uint32_t r = 0; r < n->n_rules; r++) reach(w, n->rule[r].start);
    for (bool again = true; again;) {
        while (w->depth) {
            const net_state *s = n->state + w->stack[--w->depth];
            if (s->final) rule_ends(w, s->rule);
            for (const net_arc *a = n->arc + s->first; a < n->arc + s->first + s->n; a++)
                if (a->kind == ARC_EMPTY || (a->kind == ARC_BYTES && !empty) || (a->kind == ARC_CALL && w->ends[a->rule])) reach(w, a->to);
        }
        again = false;
        for (uint32_t o = 0; o < n->n_objects && !empty; o++)
            if (!w->ends[n->object[o].rule] && object_can_end(n->object + o, w->ends)) rule_ends(w, n->object[o].rule), again = true;
    }
}

/* Arcs in the order of their states, bytes first. */
static int sort_arcs(net *n, err *e) {
    net_arc *to = malloc((n->n_arcs + 1) * sizeof *to);
    if (!to) return fail_memory(e, n->n_arcs * sizeof *to, "a grammar");
    for (uint32_t s = 0; s < n->n_states; s++) n->state[s].n = n->state[s].n_bytes = 0;
    for (uint32_t a = 0; a < n->n_arcs; a++) n->state[n->arc[a].from].n++;
    uint32_t at = 0;
    for (uint32_t s = 0; s < n->n_states; s++) {
        n->state[s].first = at;
        at += n->state[s].n;
        n->state[s].n = 0;
    }
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t a = 0; a < n->n_arcs; a++) {
            net_state *s = n->state + n->arc[a].from;
            if ((n->arc[a].kind == ARC_BYTES) != (pass == 0)) continue;
            to[s->first + s->n++] = n->arc[a];
        }
    for (uint32_t a = 0; a < n->n_arcs; a++)
        if (n->arc[a].kind == ARC_BYTES) n->state[n->arc[a].from].n_bytes++;
    free(n->arc);
    n->arc = to;
    n->cap_arcs = n->n_arcs + 1;
    return 0;
}

/* Which states can reach the end of their rule: backwards along the arcs that can be passed. */
static int find_alive(work *w, bool *alive, err *e) {
    net *n = w->n;
    uint32_t *head = malloc((n->n_states + 1) * sizeof *head), *next = malloc((n->n_arcs + 1) * sizeof *next);
    if (head && next) {
        memset(head, 0xff, n->n_states * sizeof *head);
        for (uint32_t a = 0; a < n->n_arcs; a++) {
            next[a] = head[n->arc[a].to];
            head[n->arc[a].to] = a;
        }
        memset(alive, 0, n->n_states);
        for (uint32_t s = 0; s < n->n_states; s++)
            if (n->state[s].final || (n->state[s].object != NET_NONE && w->ends[n->state[s].rule])) alive[s] = true, w->stack[w->depth++] = s;
        while (w->depth)
            for (uint32_t a = head[w->stack[--w->depth]], from; a != NET_NONE; a = next[a]) {
                from = n->arc[a].from;
                if (alive[from] || (n->arc[a].kind == ARC_CALL && !w->ends[n->arc[a].rule])) continue;
                alive[from] = true;
                w->stack[w->depth++] = from;
            }
    }
    free(head);
    free(next);
    return head && next ? 0 : fail_memory(e, n->n_arcs * sizeof *next, "a grammar");
}

/* Cuts off what leads nowhere: arcs to states that cannot end, calls of rules that cannot, properties without a value. */
static void trim(net *n, const bool *alive, const bool *ends) {
    uint32_t kept = 0;
    for (uint32_t a = 0; a < n->n_arcs; a++) {
        const net_arc *arc = n->arc + a;
        if (alive[arc->from] && alive[arc->to] && (arc->kind != ARC_CALL || ends[arc->rule])) n->arc[kept++] = *arc;
    }
    n->n_arcs = kept;
    for (uint32_t o = 0; o < n->n_objects; o++) {
        net_object *x = n->object + o;
        for (uint32_t i = 0; i < x->n; i++)
            if (x->p[i].rule != NET_NONE && !ends[x->p[i].rule]) x->p[i].rule = NET_NONE;
        if (x->additional != NET_NONE && !ends[x->additional]) x->additional = NET_NONE;
    }
}

/* A call of a rule that may be empty can be passed without it. */
static void add_bypasses(net *n) {
    uint32_t n_arcs = n->n_arcs;
    for (uint32_t a = 0; a < n_arcs && !n->failed && !n->too_large; a++)
        if (n->arc[a].kind == ARC_CALL && n->rule[n->arc[a].rule].nullable) net_empty(n, n->arc[a].from, n->arc[a].to);
}

/* ---- left recursion, and the order of rules that begin with others ---- */

typedef struct order {
    const net *n;
    uint32_t *begin, *list, n_list; /* rules that rule r begins with: list[begin[r] .. begin[r + 1]) */
    uint32_t *path, *at;            /* rules being looked at, and how far */
    uint8_t *colour;                /* 0 new, 1 on the path, 2 done */
} order;

/* The rules that each begins with, calls from what its start reaches without a byte. */
static void list_beginnings(order *o, work *w) {
    const net *n = o->n;
    memset(w->seen, 0, n->n_states);
    for (uint32_t r = 0; r < n->n_rules; r++) {
        o->begin[r] = o->n_list;
        reach(w, n->rule[r].start);
        while (w->depth) {
            const net_state *s = n->state + w->stack[--w->depth];
            for (const net_arc *a = n->arc + s->first + s->n_bytes; a < n->arc + s->first + s->n; a++) {
                if (a->kind == ARC_EMPTY) reach(w, a->to);
                else o->list[o->n_list++] = a->rule;
            }
        }
    }
    o->begin[n->n_rules] = o->n_list;
}

static int left_recursion(const order *o, uint32_t depth, uint32_t rule, err *e) {
    buf b = { 0 };
    uint32_t from = 0, shown = 0;
    while (o->path[from] != rule) from++;
    for (uint32_t i = from; i < depth; i++, shown++) {
        if (shown < 12) buf_fmt(&b, "%.40s -> ", o->n->rule[o->path[i]].name);
        if (shown == 12) buf_str(&b, "... -> ");
    }
    fail_code(e, ERR_INPUT, "left recursion: %s%.40s: a rule may not begin with itself; write a repetition, or put something in front",
              b.p ? b.p : "", o->n->rule[rule].name);
    buf_free(&b);
    return -1;
}

static int rank_rules(order *o, uint32_t *next_rank, uint32_t root, net_rule *rules, err *e) {
    uint32_t depth = 0;
    if (o->colour[root]) return 0;
    o->path[depth] = root;
    o->at[depth++] = o->begin[root];
    o->colour[root] = 1;
    while (depth) {
        uint32_t r = o->path[depth - 1];
        if (o->at[depth - 1] == o->begin[r + 1]) {
            o->colour[r] = 2;
            rules[r].rank = --*next_rank;
            depth--;
            continue;
        }
        uint32_t to = o->list[o->at[depth - 1]++];
        if (o->colour[to] == 1) return left_recursion(o, depth, to, e);
        if (o->colour[to]) continue;
        o->colour[to] = 1;
        o->path[depth] = to;
        o->at[depth++] = o->begin[to];
    }
    return 0;
}

static int order_rules(net *n, work *w, err *e) {
    uint32_t m = n->n_rules, next_rank = m;
    order o = { .n = n, .begin = calloc(m + 1, 4), .list = calloc(n->n_arcs + 1, 4), .path = calloc(m + 1, 4),
                .at = calloc(m + 1, 4), .colour = calloc(m + 1, 1) };
    int rc = o.begin && o.list && o.path && o.at && o.colour ? 0 : fail_memory(e, (size_t)m * 16 + n->n_arcs * 4, "a grammar's rules");
    if (!rc) list_beginnings(&o, w);
    for (uint32_t r = 0; r < m && !rc; r++) rc = rank_rules(&o, &next_rank, r, n->rule, e);
    free(o.begin);
    free(o.list);
    free(o.path);
    free(o.at);
    free(o.colour);
    return rc;
}

/* ---- tails and classes ---- */

/* A state from which only the rule's end can come needs no return: stacks of right recursion stay flat. Passes in both directions; one
 * that is not found costs memory, no more. */
static void find_tails(net *n) {
    bool again = true;
    for (int pass = 0; pass < 16 && again; pass++) {
        again = false;
        for (uint32_t k = 0; k < n->n_states; k++) {
            net_state *s = n->state + (pass & 1 ? k : n->n_states - 1 - k);
            if (s->tail || s->n_bytes || s->object != NET_NONE) continue;
            bool tail = s->final || s->n;
            for (const net_arc *a = n->arc + s->first; a < n->arc + s->first + s->n && tail; a++) tail = a->kind == ARC_EMPTY && n->state[a->to].tail;
            s->tail = tail;
            again |= tail;
        }
    }
}

static void find_classes(net *n) {
    bool cut[257] = { false };
    for (uint32_t a = 0; a < n->n_arcs; a++)
        if (n->arc[a].kind == ARC_BYTES) cut[n->arc[a].lo] = cut[n->arc[a].hi + 1] = true;
    for (uint32_t o = 0; o < n->n_objects; o++) {
        for (const char *s = "{}:,\""; *s; s++) cut[(int)*s] = cut[*s + 1] = true;
        for (uint32_t i = 0; i < n->object[o].n; i++)
            for (uint32_t k = 0; k < n->object[o].p[i].n; k++)
                cut[(uint8_t)n->object[o].p[i].name[k]] = cut[(uint8_t)n->object[o].p[i].name[k] + 1] = true;
    }
    n->n_classes = 1;
    for (int b = 0; b < 256; b++) {
        if (b && cut[b]) n->n_classes++;
        n->class_of[b] = (uint8_t)(n->n_classes - 1);
    }
}

/* ---- the whole ---- */

static int finish(net *n, work *w, bool *alive, err *e) {
    for (uint32_t r = 0; r < n->n_rules; r++) n->state[n->rule[r].end].final = true;
    if (sort_arcs(n, e)) return -1;
    memset(w->first_call, 0xff, n->n_rules * sizeof *w->first_call);
    for (uint32_t a = 0; a < n->n_arcs; a++) {
        if (n->arc[a].kind != ARC_CALL) continue;
        w->next_call[a] = w->first_call[n->arc[a].rule];
        w->first_call[n->arc[a].rule] = a;
    }
    find_ends(w, true);
    for (uint32_t r = 0; r < n->n_rules; r++) n->rule[r].nullable = w->ends[r];
    find_ends(w, false);
    for (uint32_t r = 0; r < n->n_rules; r++) n->rule[r].productive = w->ends[r];
    if (!w->ends[n->root])
        return fail_code(e, ERR_INPUT, "no text can ever complete the rule \"%.60s\": each of its alternatives needs itself", n->rule[n->root].name);
    if (find_alive(w, alive, e)) return -1;
    trim(n, alive, w->ends);
    add_bypasses(n);
    if (n->failed || n->too_large || sort_arcs(n, e)) return -1;
    if (order_rules(n, w, e)) return -1;
    find_tails(n);
    find_classes(n);
    return 0;
}

static int check_room(const net *n, err *e) {
    if (n->failed) return fail_memory(e, n->n_arcs * sizeof *n->arc, "a grammar");
    if (n->too_large)
        return fail_code(e, ERR_INPUT, "the grammar is too large: over %d states or %d steps between them; use smaller repetitions",
                         GRAMMAR_MAX_STATES, MAX_ARCS);
    return 0;
}

int net_finish(net *n, uint32_t root, err *e) {
    if (check_room(n, e)) return -1;
    n->root = root;
    work w = { .n = n, .stack = malloc((n->n_states + 1) * 4), .seen = malloc(n->n_states + 1), .first_call = malloc((n->n_rules + 1) * 4),
               .next_call = malloc((n->n_arcs + 1) * 4), .ends = malloc(n->n_rules + 1) };
    bool *alive = malloc(n->n_states + 1);
    int rc = w.stack && w.seen && w.first_call && w.next_call && w.ends && alive ? finish(n, &w, alive, e)
                                                                                 : fail_memory(e, n->n_states * 8 + n->n_arcs * 4, "a grammar");
    if (rc && !e->code) check_room(n, e);
    free(w.stack);
    free(w.seen);
    free(w.first_call);
    free(w.next_call);
    free(w.ends);
    free(alive);
    return rc;
}

void net_free(net *n) {
    free(n->state);
    free(n->arc);
    free(n->rule);
    free(n->object);
    arena_free(&n->mem);
    *n = (net){ 0 };
}
