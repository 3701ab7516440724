/* matformer: the smaller models inside a MatFormer checkpoint (Devvrit et al. 2023; Gemma 3n E4B). A slice keeps the first units of
 * each layer's MLP and leaves some layers out: it needs no training, and is what Google's MatFormer Lab makes. It owns what
 * --matformer says and what that means for the architecture; which rows and columns are taken is plan.c's. It must not know
 * tensors. A kept layer stays what it was: its window, its sparsity, whose keys and values it reads; so layers that others read
 * from stay. */
#include "tools/convert/families.h"

#include <string.h>

/* ---- the text ---- */

typedef struct text {
    const char *at;
} text;

/* What Google's table of slices writes besides: [2_048 * 4, 2_048 * 4]. */
static char peek(text *t) {
    while (*t->at && strchr(" []", *t->at)) t->at++;
    return *t->at;
}

static bool take(text *t, char c) {
    if (peek(t) != c) return false;
    t->at++;
    return true;
}

/* A whole number from 0, "2048" or "2_048"; -1: none here, or more than any layer has. */
static int number(text *t) {
    int n = 0, digits = 0;
    peek(t);
    for (; (*t->at >= '0' && *t->at <= '9') || (digits && *t->at == '_'); t->at++) {
        if (*t->at == '_') continue;
        n = 10 * n + (*t->at - '0');
        digits++;
        if (n > MATFORMER_MAX_FF) return -1;
    }
    return digits ? n : -1;
}

/* W, W*F, each with xN for N layers. */
static int take_width(matformer *m, text *t) {
    int width = number(t), count = 1;
    if (width >= 0 && take(t, '*')) {
        int factor = number(t);
        width = factor < 0 || (int64_t)width * factor > MATFORMER_MAX_FF ? -1 : width * factor;
    }
    bool many = width >= 0 && take(t, 'x');
    if (many) count = number(t);
    if (width < 1 || count < 1 || m->n_ff + count > MATFORMER_MAX_LAYERS) return -1;
    m->one_width = m->n_ff == 0 && !many;
    for (int i = 0; i < count; i++) m->ff[m->n_ff++] = width;
    return 0;
}

/* L, or L-M with M included. */
static int take_skip(matformer *m, text *t) {
    int first = number(t), last = first >= 0 && take(t, '-') ? number(t) : first;
    if (first < 0 || last < first || last >= MATFORMER_MAX_LAYERS) return -1;
    for (int l = first; l <= last; l++) m->skip[l] = true;
    return 0;
}

static int take_list(matformer *m, text *t, int (*item)(matformer *, text *)) {
    do
        if (item(m, t)) return -1;
    while (take(t, ',') && peek(t) && peek(t) != ':');
    return 0;
}

int matformer_parse(matformer *m, const char *spec, err *e) {
    text t = { spec };
    *m = (matformer){ .spec = spec, .e2b = strcmp(spec, "e2b") == 0 };
    bool ok = m->e2b;
    do {
        if (m->e2b) break;
        bool ff = strncmp(t.at, "ff=", 3) == 0, skip = strncmp(t.at, "skip=", 5) == 0;
        if (!(ok = ff || skip)) break;
        t.at += ff ? 3 : 5;
        ok = take_list(m, &t, ff ? take_width : take_skip) == 0;
    } while (ok && take(&t, ':'));
    if (ok && (m->e2b || !peek(&t))) return 0;
    return fail(e, "--matformer: expected e2b, or ff=WIDTH[xLAYERS],... and skip=LAYER[-LAYER],... with a colon between, found %.100s",
                spec);
}

/* ---- the architecture ---- */

static int own_width(const arch *a, int l) { return a->ff[l] ? a->ff[l] : a->d_ff; }

/* E2B, as Google publishes it: without the fifth block of five layers, and half of each MLP. */
static int resolve_e2b(const checkpoint *c, matformer *m, err *e) {
    const arch *a = &c->arch;
    bool even = a->d_ff % 2 == 0;
    for (int l = 0; l < a->n_layers; l++) even = even && own_width(a, l) == a->d_ff;
    if (a->n_layers != 35 || !even)
        return fail(e, "%s: --matformer e2b: expected the 35 equal layers of E4B, found %d%s; say the slice with ff= and skip=",
                    c->config_path, a->n_layers, even ? "" : " with different MLPs");
    for (int l = 20; l < 25; l++) m->skip[l] = true;
    m->ff[m->n_ff++] = a->d_ff / 2;
    m->one_width = true;
    return 0;
}

/* The layers that stay, in c->slice; how many, or -1. */
static int keep_layers(checkpoint *c, const matformer *m, err *e) {
    int n = c->arch.n_layers, kept = 0;
    size_t bytes = (size_t)n * sizeof(int);
    c->slice = (taken_part){ .n_layers = n, .layer = arena_alloc(&c->mem, bytes), .ff = arena_alloc(&c->mem, bytes) };
    if (!c->slice.layer || !c->slice.ff) return fail_memory(e, 2 * bytes, "layers");
    for (int l = n; l < MATFORMER_MAX_LAYERS; l++)
        if (m->skip[l]) return fail(e, "%s: --matformer: cannot skip layer %d: the model's last is %d", c->config_path, l, n - 1);
    for (int l = 0; l < n; l++)
        if (!m->skip[l]) c->slice.layer[kept++] = l;
    if (kept == 0) return fail(e, "%s: --matformer: all %d layers are skipped; keep some", c->config_path, n);
    if (m->n_ff && !(m->one_width && m->n_ff == 1) && m->n_ff != kept)
        return fail(e, "%s: --matformer: widths of %d layers, expected one width, or one for each of the %d layers that are kept",
                    c->config_path, m->n_ff, kept);
    return kept;
}

/* Where a kept layer's keys and values are now. */
static int new_owner(const checkpoint *c, int kept, int l, int *owner, err *e) {
    int old = c->arch.kv_layer[l];
    *owner = old;
    if (old < 0) return 0;
    for (int i = 0; i < kept; i++)
        if (c->slice.layer[i] == old) return *owner = i, 0;
    return fail(e, "%s: --matformer: cannot skip layer %d: layer %d reads its keys and values", c->config_path, old, l);
}

/* Layer i of the slice, in the place of the architecture's i-th: no later one has read less than its own. */
static int move_layer(checkpoint *c, const matformer *m, int kept, int i, err *e) {
    arch *a = &c->arch;
    int l = c->slice.layer[i], own = own_width(a, l), want = m->n_ff == 0 ? own : m->ff[m->one_width ? 0 : i], owner;
    if (want > own)
        return fail(e, "%s: --matformer: layer %d's MLP has %d units, cannot take %d of them", c->config_path, l, own, want);
    if (new_owner(c, kept, l, &owner, e)) return -1;
    c->slice.ff[i] = own;
    a->ff[i] = want;
    a->window[i] = a->window[l];
    a->rope[i] = a->rope[l];
    a->sparsity[i] = a->sparsity[l];
    a->kv_layer[i] = owner;
    return 0;
}

int matformer_apply(checkpoint *c, matformer *m, err *e) {
    arch *a = &c->arch;
    if (!c->family->matformer)
        return fail(e, "%s: --matformer: %s is no MatFormer: it has no smaller model inside; only gemma3n has", c->config_path,
                    c->family->model_type);
    if (m->e2b && resolve_e2b(c, m, e)) return -1;
    int kept = keep_layers(c, m, e);
    if (kept < 0) return -1;
    for (int i = 0; i < kept; i++)
        if (move_layer(c, m, kept, i, e)) return -1;
    a->n_layers = kept;
    widths_settle(a);
    err inner = { 0 };
    return arch_check(a, &inner) ? fail(e, "%s: --matformer: %s", c->config_path, inner.msg) : 0;
}
