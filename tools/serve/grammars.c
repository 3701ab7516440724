/* grammars: a model's vocabulary and its compiled grammars (grammars.h). It owns both; an entry that is held outlives its place in the
 * cache. It must not know what a grammar is for. */
#include "tools/serve/grammars.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct kept_grammar {
    grammars *owner;
    buf key;             /* all that it was made of */
    uint64_t hash, used;
    const vocabulary *v;
    grammar *g;
    int refs;            /* holders, and the cache's own */
};

struct grammars {
    const tokenizer *t;
    pthread_mutex_t lock;       /* of the cache; never held for long, since whoever computes gives grammars back */
    pthread_mutex_t making;     /* of vocabularies */
    vocabulary *plain, *marked; /* marked: special tokens that are markers have their text */
    kept_grammar *kept[GRAMMARS_KEPT];
    int n_kept;
    uint64_t clock;
};

grammars *grammars_new(const tokenizer *t) {
    grammars *g = calloc(1, sizeof *g);
    if (!g) return NULL;
    g->t = t;
    pthread_mutex_init(&g->lock, NULL);
    pthread_mutex_init(&g->making, NULL);
    return g;
}

static void drop(kept_grammar *k) {
    if (--k->refs > 0) return;
    grammar_free(k->g);
    buf_free(&k->key);
    free(k);
}

void grammars_free(grammars *g) {
    if (!g) return;
    for (int i = 0; i < g->n_kept; i++) drop(g->kept[i]);
    vocabulary_free(g->plain);
    vocabulary_free(g->marked);
    pthread_mutex_destroy(&g->lock);
    pthread_mutex_destroy(&g->making);
    free(g);
}

/* ---- vocabularies ---- */

static bool is_marker(const char *piece, size_t n, const char *const *markers) {
    for (; *markers; markers++)
        if (strlen(*markers) == n && memcmp(*markers, piece, n) == 0) return true;
    return false;
}

static int make_marked(grammars *g, const char *const *markers, err *e) {
    int n = tokenizer_size(g->t);
    const char **piece = calloc((size_t)n + 1, sizeof *piece);
    size_t *len = calloc((size_t)n + 1, sizeof *len);
    int rc = piece && len ? 0 : fail_memory(e, (size_t)n * sizeof *piece, "a vocabulary");
    for (int32_t id = 0; id < n && !rc; id++) {
        piece[id] = vocabulary_bytes(g->plain, id, &len[id]);
        if (len[id] || !tokenizer_is_special(g->t, id)) continue;
        size_t k = 0;
        const char *text = tokenizer_piece(g->t, id, &k);
        if (text && is_marker(text, k, markers)) piece[id] = text, len[id] = k;
    }
    if (!rc) rc = vocabulary_of(&g->marked, piece, len, n, e);
    free(piece);
    free(len);
    return rc;
}

static int find_vocabulary(grammars *g, const char *const *markers, const vocabulary **v, err *e) {
    if (!g->t) return fail_code(e, ERR_INPUT, "the model has no tokenizer, and a grammar needs the text of each token");
    if (!g->plain && vocabulary_new(&g->plain, g->t, e)) return -1;
    if (markers && !g->marked && make_marked(g, markers, e)) return -1;
    *v = markers ? g->marked : g->plain;
    return 0;
}

/* ---- grammars ---- */

static void key_of(const grammar_ask *a, buf *key) {
    buf_byte(key, a->markers ? 'm' : 'p');
    buf_byte(key, a->gbnf ? 'g' : 's');
    buf_u64(key, a->gbnf ? a->n : 0);
    if (a->gbnf) buf_add(key, a->gbnf, a->n);
    for (int i = 0; i < a->n_rules; i++) {
        const schema_rule *r = &a->rules[i];
        bool same = i && r->schema == a->rules[i - 1].schema; /* another place of it */
        buf_str(key, r->name);
        buf_byte(key, 0);
        buf_byte(key, r->raw ? 'r' : 'j');
        if (r->at) buf_str(key, r->at);
        buf_byte(key, 0);
        buf_byte(key, same);
        if (same) continue;
        buf_u64(key, r->n);
        buf_add(key, r->schema, r->n);
    }
}

static kept_grammar *find(grammars *g, const buf *key, uint64_t hash) {
    for (int i = 0; i < g->n_kept; i++) {
        kept_grammar *k = g->kept[i];
        if (k->hash == hash && k->key.n == key->n && memcmp(k->key.p, key->p, key->n) == 0) return k;
    }
    return NULL;
}

static void hold(grammars *g, kept_grammar *k) {
    k->refs++;
    k->used = ++g->clock;
}

/* Into the cache, in the place of the one that was not used for longest if it is full. */
static void list(grammars *g, kept_grammar *k) {
    int at = g->n_kept;
    if (k->key.n > GRAMMARS_KEPT_TEXT) return;
    if (at == GRAMMARS_KEPT) {
        at = 0;
        for (int i = 1; i < GRAMMARS_KEPT; i++)
            if (g->kept[i]->used < g->kept[at]->used) at = i;
        drop(g->kept[at]);
    } else g->n_kept++;
    g->kept[at] = k;
    k->refs++;
}

static int compile(kept_grammar *k, const grammar_ask *a, int *which, err *e) {
    if (a->gbnf) return schema_compile_within(&k->g, k->v, a->gbnf, a->n, a->rules, a->n_rules, which, e);
    *which = 0;
    return schema_compile(&k->g, k->v, a->rules[0].schema, a->rules[0].n, e);
}

/* Compiling takes place outside the lock: a big grammar of one request delays no other's. */
int grammars_hold(grammars *g, const grammar_ask *a, kept_grammar **out, int *which, err *e) {
    kept_grammar *k = calloc(1, sizeof *k), *there;
    *which = -1;
    if (!k) return fail_memory(e, sizeof *k, "a grammar");
    *k = (kept_grammar){ .owner = g, .refs = 1 };
    key_of(a, &k->key);
    int rc = k->key.failed ? fail_memory(e, a->n, "a grammar's text") : 0;
    if (!rc) k->hash = hash_bytes(k->key.p, k->key.n);
    pthread_mutex_lock(&g->making);
    if (!rc) rc = find_vocabulary(g, a->markers, &k->v, e);
    pthread_mutex_unlock(&g->making);
    pthread_mutex_lock(&g->lock);
    there = rc ? NULL : find(g, &k->key, k->hash);
    if (there) hold(g, there);
    pthread_mutex_unlock(&g->lock);
    if (!rc && !there) rc = compile(k, a, which, e);
    if (rc || there) drop(k);
    if (rc) return -1;
    if (!there) {
        pthread_mutex_lock(&g->lock);
        k->used = ++g->clock;
        if (!find(g, &k->key, k->hash)) list(g, k);
        pthread_mutex_unlock(&g->lock);
    }
    *out = there ? there : k;
    return 0;
}

void grammars_put(kept_grammar *k) {
    if (!k) return;
    grammars *g = k->owner;
    pthread_mutex_lock(&g->lock);
    drop(k);
    pthread_mutex_unlock(&g->lock);
}

grammar *kept_grammar_of(const kept_grammar *k) { return k->g; }

const vocabulary *kept_vocabulary_of(const kept_grammar *k) { return k->v; }

int grammars_count(grammars *g) {
    pthread_mutex_lock(&g->lock);
    int n = g->n_kept;
    pthread_mutex_unlock(&g->lock);
    return n;
}
