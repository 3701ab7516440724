/* schema_string: strings with lengths and patterns. Patterns and the count of characters run side by side; the sets that can come
 * about are made one after the other, and each character's way of being written in JSON leads from one to the next. */
#include <stdlib.h>
#include <string.h>

#include "runtime/grammar_parse.h"
#include "runtime/schema_parts.h"

enum { MAX_SETS = 20000, MAX_POOL = 1 << 18, /* numbers in all sets */
       MAX_LENGTH = 10000 };

/* ---- as JSON writes it ---- */

static int escape_of(uint32_t c, char out[8]) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *f = c ? memchr(from, (int)c, 7) : NULL;
    if (c < 128 && f) return out[0] = '\\', out[1] = to[f - from], 2;
    if (c < 0x20) return snprintf(out, 8, "\\u%04x", (unsigned)c);
    return 0;
}

void json_text(buf *b, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char out[8];
        int len = (uint8_t)s[i] < 128 ? escape_of((uint8_t)s[i], out) : 0;
        buf_add(b, len ? out : s + i, len ? (size_t)len : 1);
    }
}

/* The escaped ones among the characters below 128 whose bits are set; they share their beginnings. */
static void emit_escapes(net *n, uint32_t from, uint32_t to, const uint64_t bits[2]) {
    uint32_t rule = n->failed || n->too_large ? 0 : n->state[from].rule, back = NET_NONE, zero = NET_NONE, high[2] = { NET_NONE, NET_NONE };
    for (uint32_t c = 0; c < 128; c++) {
        char out[8];
        int len = bits[c / 64] >> (c % 64) & 1 ? escape_of(c, out) : 0;
        if (!len) continue;
        if (back == NET_NONE) net_bytes(n, from, '\\', '\\', back = net_add_state(n, rule));
        if (len == 2) {
            net_bytes(n, back, (uint8_t)out[1], (uint8_t)out[1], to);
            continue;
        }
        if (zero == NET_NONE) zero = net_literal(n, back, "u00", 3);
        uint32_t *h = &high[out[4] - '0'];
        if (*h == NET_NONE) net_bytes(n, zero, (uint8_t)out[4], (uint8_t)out[4], *h = net_add_state(n, rule));
        net_bytes(n, *h, (uint8_t)out[5], (uint8_t)out[5], to);
    }
}

/* Any of the characters: as themselves, or escaped. */
static void emit_chars(net *n, uint32_t from, uint32_t to, const char_range *r, size_t count) {
    static const char_range plain[] = { { 0x20, 0x21 }, { 0x23, 0x5b }, { 0x5d, 0x10ffff } };
    char_range part[3 * 64];
    uint64_t escaped[2] = { 0, 0 };
    size_t k = 0;
    for (size_t i = 0; i < count; i++) {
        for (int j = 0; j < 3; j++) {
            uint32_t lo = r[i].lo > plain[j].lo ? r[i].lo : plain[j].lo, hi = r[i].hi < plain[j].hi ? r[i].hi : plain[j].hi;
            if (lo <= hi) part[k++] = (char_range){ lo, hi };
        }
        for (uint32_t c = r[i].lo; c <= r[i].hi && c < 128; c++) escaped[c / 64] |= UINT64_C(1) << (c % 64);
        if (k > 3 * 60 || i + 1 == count) net_chars(n, from, part, k, to), k = 0;
    }
    emit_escapes(n, from, to, escaped);
}

/* ---- as it is ---- */

static const char_range raw_ranges[] = { { 9, 10 }, { 0x20, '<' - 1 }, { '<' + 1, 0x7e }, { 0x80, 0x10ffff } };

bool string_is_raw(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '<' || c == 0x7f || (c < 0x20 && c != 9 && c != 10)) return false;
    }
    return true;
}

static void emit_raw(net *n, uint32_t from, uint32_t to, const char_range *r, size_t count) {
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < sizeof raw_ranges / sizeof *raw_ranges; j++) {
            char_range x = { r[i].lo > raw_ranges[j].lo ? r[i].lo : raw_ranges[j].lo, r[i].hi < raw_ranges[j].hi ? r[i].hi : raw_ranges[j].hi };
            if (x.lo <= x.hi) net_chars(n, from, &x, 1, to);
        }
}

/* ---- sets of states of the patterns ---- */

typedef struct set {
    uint32_t first, n, count; /* numbers of states, pattern after pattern; characters so far */
    uint32_t state;           /* of the network */
} set;

typedef struct builder {
    net *n;
    const string_limits *l;
    uint32_t rule, end, base[MAX_PATTERNS + 1]; /* of the patterns' numbers */
    set *sets;
    uint32_t n_sets, cap_sets;
    uint32_t *pool, n_pool, cap_pool;
    uint32_t *now, n_now;  /* being made */
    bool *seen;
    uint32_t *slot, slots;
    uint32_t *cut, n_cut, cap_cut; /* where characters begin to behave otherwise */
    bool failed;
} builder;

/* A state and what it reaches without a character. start: nothing has come yet; at_end: nothing more will. */
static void add_state(const char_nfa *a, uint32_t s, uint32_t base, bool start, bool at_end, uint32_t *list, uint32_t *n, bool *seen) {
    uint32_t from = *n;
    if (seen[base + s]) return;
    seen[base + s] = true;
    list[(*n)++] = base + s;
    for (uint32_t i = from; i < *n; i++)
        for (uint32_t k = a->first[list[i] - base]; k < a->first[list[i] - base + 1]; k++) {
            const regex_arc *x = a->arc + k;
            bool passes = x->kind == REGEX_EMPTY || (x->kind == REGEX_START && start) || (x->kind == REGEX_END && at_end);
            if (!passes || seen[base + x->to]) continue;
            seen[base + x->to] = true;
            list[(*n)++] = base + x->to;
        }
}

static bool has_char(const char_nfa *a, const regex_arc *x, uint32_t c) {
    for (uint32_t i = x->first; x->kind == REGEX_CHARS && i < x->first + x->n; i++)
        if (a->range[i].lo <= c && c <= a->range[i].hi) return true;
    return false;
}

/* The states behind a character; how many of list are from this pattern is [from, to). */
static void step(const char_nfa *a, uint32_t base, const uint32_t *from, uint32_t n_from, uint32_t c, uint32_t *list, uint32_t *n, bool *seen) {
    for (uint32_t i = 0; i < n_from; i++)
        for (uint32_t k = a->first[from[i] - base]; k < a->first[from[i] - base + 1]; k++)
            if (has_char(a, a->arc + k, c)) add_state(a, a->arc[k].to, base, false, false, list, n, seen);
}

static bool accepts(const char_nfa *a, uint32_t base, const uint32_t *now, uint32_t n, bool start, uint32_t *list, bool *seen) {
    uint32_t m = 0;
    for (uint32_t i = 0; i < n; i++) add_state(a, now[i] - base, base, start, true, list, &m, seen);
    bool match = seen[base + a->match];
    for (uint32_t i = 0; i < m; i++) seen[list[i]] = false;
    return match;
}

bool string_matches(const char_nfa *a, const char *s, size_t n) {
    uint32_t *list = malloc((a->n_states + 1) * 12), *next = list ? list + a->n_states : NULL, *spare = list ? next + a->n_states : NULL, m = 0;
    bool *seen = calloc(a->n_states + 1, 1), match = false, start = true;
    if (list && seen) {
        add_state(a, a->start, 0, true, false, list, &m, seen);
        for (size_t i = 0; i < n; start = false) {
            int len;
            int32_t c = utf8_decode(s + i, n - i, &len);
            uint32_t k = 0;
            for (uint32_t j = 0; j < m; j++) seen[list[j]] = false;
            step(a, 0, list, m, (uint32_t)c, next, &k, seen);
            memcpy(list, next, k * sizeof *list);
            m = k;
            i += (size_t)len;
        }
        for (uint32_t j = 0; j < m; j++) seen[list[j]] = false;
        match = accepts(a, 0, list, m, start, spare, seen);
    }
    free(list);
    free(seen);
    return match;
}

/* ---- the sets that can come about ---- */

static int by_number(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void *more(builder *b, void *p, uint32_t n, uint32_t *cap, size_t size) {
    if (n < *cap) return p;
    uint32_t c = 2 * n + 64;
    void *q = realloc(p, c * size);
    if (!q) return b->failed = true, p;
    *cap = c;
    return q;
}

static uint64_t set_hash(const uint32_t *p, uint32_t n, uint32_t count) {
    return hash_bytes(p, n * sizeof *p) + count * UINT64_C(0x9e3779b97f4a7c15);
}

static void rehash(builder *b) {
    uint32_t slots = b->slots ? 2 * b->slots : 1024, *slot = malloc(slots * sizeof *slot);
    if (!slot) {
        b->failed = true;
        return;
    }
    memset(slot, 0xff, slots * sizeof *slot);
    for (uint32_t i = 1; i < b->n_sets; i++) { /* the first is the beginning, which nothing leads back to */
        uint64_t h = set_hash(b->pool + b->sets[i].first, b->sets[i].n, b->sets[i].count);
        while (slot[h & (slots - 1)] != NET_NONE) h++;
        slot[h & (slots - 1)] = i;
    }
    free(b->slot);
    b->slot = slot;
    b->slots = slots;
}

/* The set in `now`: which one is it? seen is cleared. */
static uint32_t find_set(builder *b, uint32_t count) {
    for (uint32_t i = 0; i < b->n_now; i++) b->seen[b->now[i]] = false;
    qsort(b->now, b->n_now, sizeof *b->now, by_number);
    if (2 * (b->n_sets + 1) > b->slots) rehash(b);
    while (!b->failed && (!b->pool || b->cap_pool - b->n_pool < b->n_now)) b->pool = more(b, b->pool, b->cap_pool, &b->cap_pool, sizeof *b->pool);
    b->sets = more(b, b->sets, b->n_sets, &b->cap_sets, sizeof *b->sets);
    if (b->failed) return 0;
    uint64_t h = set_hash(b->now, b->n_now, count);
    for (; b->slot[h & (b->slots - 1)] != NET_NONE; h++) {
        uint32_t i = b->slot[h & (b->slots - 1)];
        const set *x = b->sets + i;
        if (x->n == b->n_now && x->count == count && memcmp(b->pool + x->first, b->now, b->n_now * sizeof *b->now) == 0) return i;
    }
    b->slot[h & (b->slots - 1)] = b->n_sets;
    memcpy(b->pool + b->n_pool, b->now, b->n_now * sizeof *b->now);
    b->sets[b->n_sets] = (set){ b->n_pool, b->n_now, count, net_add_state(b->n, b->rule) };
    b->n_pool += b->n_now;
    return b->n_sets++;
}

static void add_cut(builder *b, uint32_t c) {
    b->cut = more(b, b->cut, b->n_cut, &b->cap_cut, sizeof *b->cut);
    if (!b->failed) b->cut[b->n_cut++] = c;
}

static void find_cuts(builder *b) {
    add_cut(b, 0);
    add_cut(b, 0x110000);
    for (int p = 0; p < b->l->n_patterns; p++)
        for (uint32_t i = 0; i < b->l->pattern[p].n_ranges; i++)
            add_cut(b, b->l->pattern[p].range[i].lo), add_cut(b, b->l->pattern[p].range[i].hi + 1);
    if (b->failed) return;
    qsort(b->cut, b->n_cut, sizeof *b->cut, by_number);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < b->n_cut; i++)
        if (!kept || b->cut[kept - 1] != b->cut[i]) b->cut[kept++] = b->cut[i];
    b->n_cut = kept;
}

/* The part of a set that is one pattern's. */
static const uint32_t *part(const builder *b, const set *x, int p, uint32_t *n) {
    uint32_t from = 0, to;
    while (from < x->n && b->pool[x->first + from] < b->base[p]) from++;
    for (to = from; to < x->n && b->pool[x->first + to] < b->base[p + 1]; to++) {}
    *n = to - from;
    return b->pool + x->first + from;
}

/* The set behind a character; NET_NONE where a pattern has nothing left. */
static uint32_t set_behind(builder *b, uint32_t i, uint32_t c, uint32_t count) {
    b->n_now = 0;
    for (int p = 0; p < b->l->n_patterns; p++) {
        uint32_t n, before = b->n_now;
        const uint32_t *from = part(b, b->sets + i, p, &n);
        step(b->l->pattern + p, b->base[p], from, n, c, b->now, &b->n_now, b->seen);
        if (b->n_now > before) continue;
        for (uint32_t k = 0; k < b->n_now; k++) b->seen[b->now[k]] = false;
        return NET_NONE;
    }
    return find_set(b, count);
}

static bool set_accepts(builder *b, uint32_t i) {
    const set *x = b->sets + i;
    for (int p = 0; p < b->l->n_patterns; p++) {
        uint32_t n;
        const uint32_t *now = part(b, x, p, &n);
        if (!accepts(b->l->pattern + p, b->base[p], now, n, i == 0, b->now, b->seen)) return false;
    }
    return x->count >= b->l->min;
}

/* A set's arcs: characters that lead to the same set together. */
static void expand(builder *b, uint32_t i) {
    const string_limits *l = b->l;
    uint32_t count = b->sets[i].count, from = b->sets[i].state;
    if (set_accepts(b, i) && l->raw) net_empty(b->n, from, b->end);
    else if (set_accepts(b, i)) net_bytes(b->n, from, '"', '"', b->end);
    if (l->max != NET_NONE && count >= l->max) return;
    uint32_t most = l->max != NET_NONE ? l->max : l->min, next = count < most ? count + 1 : most, n = b->n_cut - 1;
    uint32_t *to = malloc((n + 1) * sizeof *to);
    char_range *r = malloc((n + 1) * sizeof *r);
    if (!to || !r) b->failed = true;
    for (uint32_t k = 0; k < n && !b->failed; k++) to[k] = set_behind(b, i, b->cut[k], next);
    for (uint32_t k = 0; k < n && !b->failed; k++) {
        size_t m = 0;
        uint32_t target = to[k];
        for (uint32_t j = k; j < n && target != NET_NONE; j++) {
            if (to[j] != target) continue;
            if (m && r[m - 1].hi + 1 == b->cut[j]) r[m - 1].hi = b->cut[j + 1] - 1;
            else r[m++] = (char_range){ b->cut[j], b->cut[j + 1] - 1 };
            to[j] = NET_NONE;
        }
        if (m && l->raw) emit_raw(b->n, from, b->sets[target].state, r, m);
        else if (m) emit_chars(b->n, from, b->sets[target].state, r, m);
    }
    free(to);
    free(r);
}

static int emit_sets(builder *b, uint32_t from, err *e) {
    b->n_now = 0;
    for (int p = 0; p < b->l->n_patterns; p++)
        add_state(b->l->pattern + p, b->l->pattern[p].start, b->base[p], true, false, b->now, &b->n_now, b->seen);
    find_set(b, 0);
    if (!b->failed) memset(b->slot, 0xff, b->slots * sizeof *b->slot);
    find_cuts(b);
    for (uint32_t i = 0; i < b->n_sets && !b->failed && !b->n->too_large && !b->n->failed; i++) {
        if (b->n_sets > MAX_SETS || b->n_pool > MAX_POOL)
            return fail_code(e, ERR_INPUT, "its patterns and lengths together are too large: over %d states", MAX_SETS);
        expand(b, i);
    }
    if (b->failed) return fail_memory(e, b->n_pool * 4, "a pattern");
    net_empty(b->n, from, b->sets[0].state);
    return 0;
}

int string_emit(net *n, uint32_t from, uint32_t to, const string_limits *l, err *e) {
    uint32_t rule = n->failed || n->too_large ? 0 : n->state[from].rule, open = net_add_state(n, rule), inside = net_add_state(n, rule);
    if (l->min > MAX_LENGTH || (l->max != NET_NONE && l->max > MAX_LENGTH))
        return fail_code(e, ERR_INPUT, "lengths over %d cannot be kept", MAX_LENGTH);
    if (l->raw) net_empty(n, from, open);
    else net_bytes(n, from, '"', '"', open);
    if (!l->raw && !l->n_patterns && !l->min && l->max == NET_NONE) {
        net_call(n, open, n->text, inside);
        net_bytes(n, inside, '"', '"', to);
        return 0;
    }
    builder b = { .n = n, .l = l, .rule = rule, .end = to };
    for (int p = 0; p < l->n_patterns; p++) b.base[p + 1] = b.base[p] + l->pattern[p].n_states;
    b.now = malloc((b.base[l->n_patterns] + 1) * sizeof *b.now);
    b.seen = calloc(b.base[l->n_patterns] + 1, 1);
    int rc = b.now && b.seen ? emit_sets(&b, open, e) : fail_memory(e, b.base[l->n_patterns], "a pattern");
    free(b.now);
    free(b.seen);
    free(b.sets);
    free(b.pool);
    free(b.slot);
    free(b.cut);
    return rc;
}
