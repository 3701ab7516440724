/* trie: the entries of a Unigram vocabulary as a double array (Aoe 1989): from a node, a byte leads to the unit base + byte, if
 * that unit's parent is the node. Built once, at conversion, from the entries in order; in the blob it is walked as it lies. */
#include "tokenizer/build.h"

#include <stdlib.h>

struct range {
    uint32_t low, high, node; /* entries with the same beginning, and where that leads */
    uint32_t depth;
};
struct growing {
    struct trie_unit *unit;
    size_t cap, used, search; /* used: units up to the last one taken; search: where places are looked for */
};

static const uint32_t FREE = UINT32_MAX;

static bool grow_units(struct growing *g, size_t need) {
    if (need <= g->cap) return true;
    size_t cap = g->cap ? g->cap : 1024;
    while (cap < need) cap *= 2;
    struct trie_unit *p = realloc(g->unit, cap * sizeof *p);
    if (!p) return false;
    for (size_t i = g->cap; i < cap; i++) p[i] = (struct trie_unit){ 0, FREE, -1 };
    g->unit = p;
    g->cap = cap;
    return true;
}

/* A base from which all n bytes lead to free units; 0: out of memory. The search leaves behind what is nearly full. */
static uint32_t find_base(struct growing *g, const uint8_t *byte, size_t n) {
    size_t at = g->search > byte[0] ? g->search : byte[0] + 1u, taken = 0, from = 0;
    for (;; at++) {
        if (!grow_units(g, at + 257)) return 0;
        if (g->unit[at].parent != FREE) {
            taken++;
            continue;
        }
        if (!from) g->search = from = at;
        size_t base = at - byte[0], k = 1;
        while (k < n && g->unit[base + byte[k]].parent == FREE) k++;
        if (k < n || !base) continue;
        if (taken * 20 >= (at - from + 1) * 19) g->search = at;
        if (base + byte[n - 1] + 1 > g->used) g->used = base + byte[n - 1] + 1;
        return (uint32_t)base;
    }
}

/* The children of a node: their bytes, and where each one's entries begin (bound[n] is the end). */
static size_t children(const struct ordered *list, struct range r, uint8_t byte[256], uint32_t bound[257]) {
    size_t n = 0;
    for (uint32_t i = r.low; i < r.high; i++) {
        uint8_t c = (uint8_t)list[i].text.p[r.depth];
        if (n && byte[n - 1] == c) continue;
        byte[n] = c;
        bound[n++] = i;
    }
    bound[n] = r.high;
    return n;
}

static int place_all(struct growing *g, const struct ordered *list, struct range *queue, size_t n_queue) {
    uint8_t byte[256];
    uint32_t bound[257];
    while (n_queue) {
        struct range r = queue[--n_queue];
        for (; r.low < r.high && list[r.low].text.n == r.depth; r.low++) g->unit[r.node].id = (int32_t)list[r.low].id;
        if (r.low == r.high) continue;
        size_t n = children(list, r, byte, bound);
        uint32_t base = find_base(g, byte, n);
        if (!base) return -1;
        g->unit[r.node].base = base;
        for (size_t k = 0; k < n; k++) {
            g->unit[base + byte[k]].parent = r.node;
            queue[n_queue++] = (struct range){ bound[k], bound[k + 1], base + byte[k], r.depth + 1 };
        }
    }
    return 0;
}

uint32_t trie_build(const struct ordered *list, size_t n, buf *out) {
    struct growing g = { .search = 1, .used = 1 };
    struct range *queue =
        malloc((n + 1) * sizeof *queue); /* ranges that wait are apart from one another: never more than entries */
    if (!queue || !grow_units(&g, 1)) out->failed = true;
    else {
        g.unit[0].parent = 0;
        queue[0] = (struct range){ 0, (uint32_t)n, 0, 0 };
        out->failed |= place_all(&g, list, queue, 1) != 0;
        buf_add(out, g.unit, g.used * sizeof *g.unit);
    }
    free(queue);
    free(g.unit);
    return (uint32_t)g.used;
}
