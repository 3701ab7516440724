/* bpe: byte pair encoding of one word. Owns the order of merges; knows neither where words come from nor what files say.
 * Its idea: the lowest rank first, the leftmost of equals (Sennrich et al. 2016, as HuggingFace and SentencePiece do it). Short
 * words are searched plainly; long ones go through a heap of candidates, so a megabyte of one letter costs n log n. */
#include "tokenizer/encode.h"

#include <stdlib.h>

enum { SHORT_WORD = 24 };

const struct merge *merge_find(const tokenizer *t, int32_t left, int32_t right) {
    uint32_t slots = t->h.n_merge_slots;
    if (!slots) return NULL;
    uint32_t at = slot_of(pair_hash(left, right), slots);
    for (uint32_t probes = 0; probes < slots; probes++) {
        const struct merge *m = t->merge + at;
        if (m->left == left && m->right == right) return m;
        if (m->left < 0) return NULL;
        if (++at == slots) at = 0;
    }
    return NULL;
}

static int symbol_add(struct encoder *x, int32_t id) {
    if (x->n_symbol == x->cap_symbol) {
        size_t cap = x->cap_symbol ? x->cap_symbol * 2 : 256;
        struct symbol *p = cap > INT32_MAX ? NULL : realloc(x->symbol, cap * sizeof *p);
        if (!p) return fail_memory(x->e, cap * sizeof *p, "a word of the text");
        x->symbol = p;
        x->cap_symbol = cap;
    }
    x->symbol[x->n_symbol++].id = id;
    return 0;
}

/* The characters (or bytes) of a word as symbols. What the vocabulary lacks becomes bytes, or unknown, or nothing. */
static int spell(struct encoder *x, struct slice w) {
    const tokenizer *t = x->t;
    bool bytes = t->h.flags & TOK_BYTES, pending = false;
    x->n_symbol = 0;
    for (size_t i = 0, len; i < w.n; i += len) {
        len = bytes ? 1 : (size_t)utf8_len(w.p[i]);
        int32_t id = bytes ? t->byte_id[(uint8_t)w.p[i]] : len == 1 ? t->ascii_id[(uint8_t)w.p[i]] : vocab_find(t, w.p + i, len);
        if (id >= 0) {
            if (pending && symbol_add(x, t->h.unk)) return -1;
            pending = false;
            if (symbol_add(x, id)) return -1;
            continue;
        }
        bool fall = t->h.flags & TOK_BYTE_FALLBACK;
        for (size_t k = 0; k < len && fall; k++) fall = t->byte_id[(uint8_t)w.p[i + k]] >= 0;
        for (size_t k = 0; k < len && fall; k++)
            if (symbol_add(x, t->byte_id[(uint8_t)w.p[i + k]])) return -1;
        if (fall || t->h.unk < 0) continue;
        if (pending && !(t->h.flags & TOK_FUSE_UNK) && symbol_add(x, t->h.unk)) return -1;
        pending = true;
    }
    return pending ? symbol_add(x, t->h.unk) : 0;
}

static void merge_short(struct encoder *x) {
    const tokenizer *t = x->t;
    const struct merge *pair[SHORT_WORD];
    struct symbol *s = x->symbol;
    size_t n = x->n_symbol;
    for (size_t i = 0; i + 1 < n; i++) pair[i] = merge_find(t, s[i].id, s[i + 1].id);
    for (;;) {
        size_t best = SIZE_MAX;
        for (size_t i = 0; i + 1 < n; i++)
            if (pair[i] && (best == SIZE_MAX || pair[i]->rank < pair[best]->rank)) best = i;
        if (best == SIZE_MAX) break;
        s[best].id = pair[best]->result;
        n--;
        for (size_t i = best + 1; i < n; i++) {
            s[i].id = s[i + 1].id;
            pair[i - 1] = pair[i];
        }
        if (best) pair[best - 1] = merge_find(t, s[best - 1].id, s[best].id);
        if (best + 1 < n) pair[best] = merge_find(t, s[best].id, s[best + 1].id);
    }
    x->n_symbol = n;
}

/* ---- the heap of candidates: rank << 32 | place, so the least is the lowest rank and of equals the leftmost. Four children, side
 * by side in memory: a long word's heap is larger than the nearest caches ---- */

enum { CHILDREN = 4 };

static void sift_down(uint64_t *h, size_t n, size_t i) {
    uint64_t moved = h[i];
    for (size_t k; (k = CHILDREN * i + 1) < n;) {
        size_t end = k + CHILDREN < n ? k + CHILDREN : n, least = k;
        for (k++; k < end; k++)
            if (h[k] < h[least]) least = k;
        if (h[least] >= moved) break;
        h[i] = h[least];
        i = least;
    }
    h[i] = moved;
}

static void sift_up(uint64_t *h, size_t i) {
    uint64_t moved = h[i];
    for (size_t up; i && moved < h[up = (i - 1) / CHILDREN]; i = up) h[i] = h[up];
    h[i] = moved;
}

/* Appends the pair that begins at symbol i, if it merges: not in order yet. */
static int heap_add(struct encoder *x, int32_t i) {
    const struct symbol *s = x->symbol;
    const struct merge *m = merge_find(x->t, s[i].id, s[s[i].next].id);
    if (!m) return 0;
    if (x->n_heap == x->cap_heap) {
        size_t cap = x->cap_heap ? x->cap_heap * 2 : 256;
        uint64_t *p = realloc(x->heap, cap * sizeof *p);
        if (!p) return fail_memory(x->e, cap * sizeof *p, "a word of the text");
        x->heap = p;
        x->cap_heap = cap;
    }
    x->heap[x->n_heap++] = (uint64_t)m->rank << 32 | (uint32_t)i;
    return 0;
}

static uint64_t heap_take(struct encoder *x) {
    uint64_t least = x->heap[0];
    x->heap[0] = x->heap[--x->n_heap];
    if (x->n_heap) sift_down(x->heap, x->n_heap, 0);
    return least;
}

/* Joins symbol i with the next one, and adds the pairs that this makes. */
static int join(struct encoder *x, int32_t i, int32_t result) {
    struct symbol *s = x->symbol, *a = s + i;
    s[a->next].id = -1; /* gone */
    a->id = result;
    a->next = s[a->next].next;
    if (a->next >= 0) s[a->next].prev = i;
    size_t had = x->n_heap;
    if ((a->prev >= 0 && heap_add(x, a->prev)) || (a->next >= 0 && heap_add(x, i))) return -1;
    for (; had < x->n_heap; had++) sift_up(x->heap, had);
    return 0;
}

/* Symbols form a list. A candidate is stale once its place is gone, or what begins there merges at another rank by now. */
static int merge_long(struct encoder *x) {
    struct symbol *s = x->symbol;
    int32_t n = (int32_t)x->n_symbol;
    for (int32_t i = 0; i < n; i++) {
        s[i].prev = i - 1;
        s[i].next = i + 1 < n ? i + 1 : -1;
    }
    x->n_heap = 0;
    for (int32_t i = 0; i + 1 < n; i++)
        if (heap_add(x, i)) return -1;
    for (size_t i = x->n_heap / CHILDREN + 1; i-- > 0;)
        if (i < x->n_heap) sift_down(x->heap, x->n_heap, i);
    while (x->n_heap) {
        uint64_t c = heap_take(x);
        int32_t i = (int32_t)(uint32_t)c;
        if (s[i].id < 0 || s[i].next < 0) continue;
        const struct merge *m = merge_find(x->t, s[i].id, s[s[i].next].id);
        if (m && m->rank == (uint32_t)(c >> 32) && join(x, i, m->result)) return -1;
    }
    size_t kept = 0;
    for (int32_t i = 0; i >= 0; i = s[i].next) s[kept++].id = s[i].id;
    x->n_symbol = kept;
    return 0;
}

int bpe_encode(struct encoder *x, struct slice word) {
    if (spell(x, word)) return -1;
    if (x->n_symbol > 1 && x->n_symbol <= SHORT_WORD) merge_short(x);
    else if (x->n_symbol > 1 && merge_long(x)) return -1;
    for (size_t i = 0; i < x->n_symbol; i++) ids_add(x->out, x->symbol[i].id);
    return 0;
}
