/* vocabulary: what each token is in bytes, and the trie of all of them in the order of a walk, so that a walk is one loop and a subtree is
 * skipped by one assignment. It must not know grammars. */
#include "runtime/vocabulary.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TOKEN = 4096, /* longer ones match nothing: no text is made of them */
       MAX_TRIE = 1 << 26 };

void vocabulary_free(vocabulary *v) {
    if (!v) return;
    free(v->at);
    free(v->text);
    free(v->order);
    free(v->node);
    free(v);
}

const char *vocabulary_bytes(const vocabulary *v, int32_t id, size_t *n) {
    bool there = id >= 0 && id < v->n;
    *n = there ? v->at[id + 1] - v->at[id] : 0;
    return there ? v->text + v->at[id] : "";
}

/* ---- sorting ---- */

struct sortable {
    const unsigned char *p;
    uint32_t n, id;
};

static int compare(const void *a, const void *b) {
    const struct sortable *x = a, *y = b;
    int c = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);
    if (c) return c;
    if (x->n != y->n) return x->n < y->n ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static int sort_tokens(vocabulary *v, err *e) {
    struct sortable *s = malloc(((size_t)v->n + 1) * sizeof *s);
    v->order = malloc(((size_t)v->n + 1) * sizeof *v->order);
    if (s && v->order) {
        for (int i = 0; i < v->n; i++)
            if (v->at[i + 1] > v->at[i])
                s[v->n_order++] = (struct sortable){ (const unsigned char *)v->text + v->at[i], v->at[i + 1] - v->at[i], (uint32_t)i };
        qsort(s, v->n_order, sizeof *s, compare);
        for (uint32_t i = 0; i < v->n_order; i++) v->order[i] = s[i].id;
    }
    free(s);
    return s && v->order ? 0 : fail_memory(e, (size_t)v->n * sizeof *s, "the order of a vocabulary");
}

/* ---- the trie ---- */

static uint32_t common(const vocabulary *v, uint32_t a, uint32_t b) {
    size_t n, m;
    const char *p = vocabulary_bytes(v, (int32_t)a, &n), *q = vocabulary_bytes(v, (int32_t)b, &m);
    uint32_t k = 0;
    while (k < n && k < m && p[k] == q[k]) k++;
    return k;
}

/* The tokens in order share beginnings with the one before; path: the nodes down to it. NULL nodes: only counts. */
static uint32_t build(const vocabulary *v, trie_node *node, uint32_t *path, uint32_t *deepest) {
    uint32_t count = 0, depth = 0;
    for (uint32_t i = 0; i < v->n_order; i++) {
        size_t n;
        const char *p = vocabulary_bytes(v, (int32_t)v->order[i], &n);
        uint32_t same = i ? common(v, v->order[i - 1], v->order[i]) : 0;
        while (depth > same) {
            depth--;
            if (node) node[path[depth]].end = count;
        }
        for (; depth < n; depth++, count++) {
            if (node) node[count] = (trie_node){ 0, depth ? path[depth - 1] : UINT32_MAX, i, 0, (uint16_t)(depth + 1), (uint8_t)p[depth] };
            if (node) path[depth] = count;
        }
        if (node) {
            trie_node *x = node + path[depth - 1];
            if (x->n++ == 0) x->first = i;
        }
        if (depth > *deepest) *deepest = depth;
    }
    while (depth--)
        if (node) node[path[depth]].end = count;
    return count;
}

static int build_trie(vocabulary *v, err *e) {
    uint32_t path[MAX_TOKEN];
    v->n_nodes = build(v, NULL, path, &v->depth);
    if (v->n_nodes > MAX_TRIE) return fail(e, "the vocabulary's tokens have over %d different beginnings", MAX_TRIE);
    v->node = malloc(((size_t)v->n_nodes + 1) * sizeof *v->node);
    if (!v->node) return fail_memory(e, (size_t)v->n_nodes * sizeof *v->node, "a vocabulary's trie");
    build(v, v->node, path, &v->depth);
    return 0;
}

static int finish(vocabulary **out, vocabulary *v, buf *text, err *e) {
    int rc = text->failed || text->n > UINT32_MAX / 2 ? fail_memory(e, text->n, "a vocabulary's text") : 0;
    buf_byte(text, 0);
    v->text = text->p;
    if (!rc) rc = sort_tokens(v, e);
    if (!rc) rc = build_trie(v, e);
    if (!rc) *out = v;
    else vocabulary_free(v);
    return rc;
}

static vocabulary *begin(int n, err *e) {
    vocabulary *v = calloc(1, sizeof *v);
    if (v) v->at = calloc((size_t)n + 1, sizeof *v->at);
    if (v && v->at) return v->n = n, v;
    vocabulary_free(v);
    fail_memory(e, (size_t)n * sizeof *v->at, "a vocabulary");
    return NULL;
}

int vocabulary_of(vocabulary **out, const char *const *piece, const size_t *len, int n, err *e) {
    buf text = { 0 };
    *out = NULL;
    vocabulary *v = begin(n, e);
    for (int i = 0; i < n && v; i++) {
        if (len[i] <= MAX_TOKEN) buf_add(&text, piece[i], len[i]);
        v->at[i + 1] = (uint32_t)text.n;
    }
    return v ? finish(out, v, &text, e) : -1;
}

/* ---- of a tokenizer ---- */

/* A token that decodes to the letter a: behind it a token has the bytes that it has within a text. */
static int32_t find_letter(const tokenizer *t, buf *bytes) {
    for (int32_t id = 0; id < tokenizer_size(t); id++) {
        bytes->n = 0;
        if (tokenizer_is_special(t, id) || tokenizer_decode_bytes(t, &id, 1, true, bytes, NULL)) continue;
        if (bytes->n == 1 && bytes->p[0] == 'a') return id;
    }
    return -1;
}

static int add_token(const tokenizer *t, int32_t letter, int32_t id, buf *bytes, buf *text, err *e) {
    int32_t pair[2] = { letter, id };
    size_t skip = letter >= 0;
    if (tokenizer_is_special(t, id) || id == tokenizer_unk(t)) return 0;
    bytes->n = 0;
    if (tokenizer_decode_bytes(t, pair + 1 - skip, 1 + skip, true, bytes, e)) return -1;
    if (bytes->n > skip && bytes->n - skip <= MAX_TOKEN) buf_add(text, bytes->p + skip, bytes->n - skip);
    return 0;
}

int vocabulary_new(vocabulary **out, const tokenizer *t, err *e) {
    buf text = { 0 }, bytes = { 0 };
    *out = NULL;
    vocabulary *v = begin(tokenizer_size(t), e);
    if (!v) return -1;
    int32_t letter = find_letter(t, &bytes);
    int rc = 0;
    for (int32_t id = 0; id < v->n && !rc; id++) {
        rc = add_token(t, letter, id, &bytes, &text, e);
        v->at[id + 1] = (uint32_t)text.n;
    }
    buf_free(&bytes);
    if (!rc) return finish(out, v, &text, e);
    buf_free(&text);
    vocabulary_free(v);
    return -1;
}
