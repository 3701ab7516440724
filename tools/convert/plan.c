/* plan: the checkpoint's tensors, by the family's table, to the list of tensors that the file gets. It owns names and shapes:
 * each tensor that is needed is found and has the shape that config.json means, each that is there is used or accounted for.
 * It must not read values, except to see whether a tied matrix is what it is tied to. */
#include <stdlib.h>
#include <string.h>

#include "tools/convert/convert.h"

enum { NAME_SIZE = 256 };

typedef struct planner {
    plan *p;
    checkpoint *c;
    wtype type;
    const char *prefix; /* what {m} is */
    bool *used;         /* [st.n] */
    err *e;
} planner;

/* Writes pattern with {m} and {l} filled in. */
static void expand(char *out, size_t size, const char *pattern, const char *prefix, int l) {
    size_t at = 0;
    out[0] = 0;
    while (*pattern && at + 1 < size) {
        int n;
        if (strncmp(pattern, "{m}", 3) == 0) n = snprintf(out + at, size - at, "%s", prefix), pattern += 3;
        else if (strncmp(pattern, "{l}", 3) == 0) n = snprintf(out + at, size - at, "%d", l), pattern += 3;
        else n = snprintf(out + at, size - at, "%c", *pattern++);
        at += (size_t)n;
    }
}

static void find_prefix(planner *b) {
    const family *f = b->c->family;
    b->prefix = f->prefixes[0];
    for (size_t i = 0; i < sizeof f->prefixes / sizeof *f->prefixes && f->prefixes[i]; i++) {
        char name[NAME_SIZE];
        expand(name, sizeof name, f->weights[0].part[0].source, f->prefixes[i], 0);
        if (safetensors_find(&b->c->st, name)) {
            b->prefix = f->prefixes[i];
            return;
        }
    }
}

/* ---- one tensor of the checkpoint ---- */

static void shape_text(const st_tensor *t, char *out, size_t size) {
    size_t at = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < t->n_dims && at < size; i++) at += (size_t)snprintf(out + at, size - at, "%s%llu", i ? ", " : "", (unsigned long long)t->dims[i]);
    if (at < size) snprintf(out + at, size - at, "]");
}

static const st_tensor *need(planner *b, const char *name, dim_kind rows, dim_kind k) {
    const checkpoint *c = b->c;
    const st_tensor *t = safetensors_find(&c->st, name);
    int n = dim_value(&c->arch, rows), inner = dim_value(&c->arch, k);
    char expected[64], found[256];
    if (k == DIM_NONE) snprintf(expected, sizeof expected, "[%d]", n);
    else snprintf(expected, sizeof expected, "[%d, %d]", n, inner);
    if (!t) return fail(b->e, "%s: tensor %s is missing, expected of shape %s", c->folder, name, expected), NULL;
    const char *path = c->st.shards[t->shard].path;
    shape_text(t, found, sizeof found);
    bool fits = t->n_dims == (k == DIM_NONE ? 1 : 2) && t->dims[0] == (uint64_t)n && (k == DIM_NONE || t->dims[1] == (uint64_t)inner);
    if (!fits) return fail(b->e, "%s: tensor %s: expected shape %s by config.json, found %s", path, name, expected, found), NULL;
    if (t->type == ST_OTHER) return fail(b->e, "%s: tensor %s: dtype %s is not one for weights; expected F32, F16, BF16 or F64", path, name, t->dtype), NULL;
    b->used[t - c->st.tensors] = true;
    return t;
}

/* ---- one tensor of the file ---- */

static output *new_output(planner *b) {
    plan *p = b->p;
    if (p->n == p->cap) {
        int cap = p->cap ? 2 * p->cap : 256;
        output *list = realloc(p->outputs, (size_t)cap * sizeof *list);
        if (!list) return fail_memory(b->e, (size_t)cap * sizeof *list, "the plan"), NULL;
        p->outputs = list;
        p->cap = cap;
    }
    p->outputs[p->n] = (output){ 0 };
    return &p->outputs[p->n++];
}

static int add_output(planner *b, const weight *w, int l) {
    output *o = new_output(b);
    if (!o) return -1;
    expand(o->name, sizeof o->name, w->name, b->prefix, l);
    o->vector = w->k == DIM_NONE;
    o->interleaved = w->flags & INTERLEAVED;
    o->type = o->vector ? W_F32 : b->type;
    o->k = (uint32_t)dim_value(&b->c->arch, w->k);
    while (o->n_parts < MAX_PARTS && w->part[o->n_parts].source) o->n_parts++;
    uint64_t rows = 0;
    for (int i = 0; i < o->n_parts; i++) {
        char name[NAME_SIZE];
        source_rows *part = &o->part[i];
        expand(name, sizeof name, w->part[i].source, b->prefix, l);
        if (!(part->t = need(b, name, w->part[i].rows, w->k))) return -1;
        part->rows = (uint32_t)part->t->dims[0];
        part->padded = o->n_parts > 1 ? (uint32_t)round_up(part->rows, PANEL) : part->rows;
        rows += part->padded;
    }
    if (rows > INT32_MAX / 2) return fail(b->e, "%s: tensor %s: %llu rows are too many", b->c->folder, o->name, (unsigned long long)rows);
    o->n = (uint32_t)rows;
    return 0;
}

/* ---- the output matrix that is the embedding ---- */

static bool same_values(const safetensors *st, const st_tensor *a, const st_tensor *b) {
    const uint64_t piece = 4 << 20;
    if (a->type != b->type || a->bytes != b->bytes) return false;
    for (uint64_t at = 0; at < a->bytes; at += piece) {
        uint64_t n = a->bytes - at < piece ? a->bytes - at : piece;
        bool same = memcmp(st->shards[a->shard].map.p + a->at + at, st->shards[b->shard].map.p + b->at + at, n) == 0;
        drop_pages(&st->shards[a->shard].map, a->at + at, n);
        drop_pages(&st->shards[b->shard].map, b->at + at, n);
        if (!same) return false;
    }
    return true;
}

/* A checkpoint that ties them may still hold the output matrix. transformers 5 then takes it if it differs. */
static int add_tied(planner *b, const weight *w) {
    checkpoint *c = b->c;
    char name[NAME_SIZE];
    expand(name, sizeof name, w->part[0].source, b->prefix, 0);
    const st_tensor *t = safetensors_find(&c->st, name), *embed = b->p->outputs[b->p->embed].part[0].t;
    if (t && !same_values(&c->st, t, embed)) {
        warn(c, "config.json ties %s to the embedding, but the two differ: written as two matrices", name);
        c->tied = false;
        return add_output(b, w, 0);
    }
    if (t) b->used[t - c->st.tensors] = true;
    b->p->tied = true;
    return 0;
}

/* ---- all of them ---- */

static bool wanted(const planner *b, const weight *w) { return !w->when || config_true(b->c, w->when); }

static int add_all(planner *b) {
    const weight *w = b->c->family->weights;
    while (w->name) {
        const weight *end = w;
        int layers = 1;
        if (strstr(w->name, "{l}")) {
            while (end->name && strstr(end->name, "{l}")) end++;
            layers = b->c->arch.n_layers;
        } else end++;
        for (int l = 0; l < layers; l++)
            for (const weight *x = w; x < end; x++) {
                if (!wanted(b, x)) continue;
                if ((x->flags & TIED) && b->c->tied ? add_tied(b, x) : add_output(b, x, l)) return -1;
                if (strcmp(x->name, "embed") == 0) b->p->embed = b->p->n - 1;
            }
        w = end;
    }
    return 0;
}

/* What a layer's names begin with: the table's first pattern with {l}, up to there ("model.layers."). */
static void layer_start(const planner *b, char *out, size_t size) {
    const weight *w = b->c->family->weights;
    while (!strstr(w->part[0].source, "{l}")) w++;
    char pattern[NAME_SIZE];
    snprintf(pattern, sizeof pattern, "%.*s", (int)(strstr(w->part[0].source, "{l}") - w->part[0].source), w->part[0].source);
    expand(out, size, pattern, b->prefix, 0);
}

/* The layer's number where name begins as the family's layers do; else -1. */
static int64_t layer_of(const planner *b, const char *name) {
    char start[NAME_SIZE];
    layer_start(b, start, sizeof start);
    size_t n = strlen(start), digits;
    if (strncmp(name, start, n) != 0 || !(digits = strspn(name + n, "0123456789")) || digits > 9 || name[n + digits] != '.') return -1;
    return strtol(name + n, NULL, 10);
}

static bool unneeded(const planner *b, const char *name) {
    int64_t l = layer_of(b, name);
    for (const char *const *pattern = b->c->family->unneeded; *pattern; pattern++) {
        char known[NAME_SIZE];
        expand(known, sizeof known, *pattern, b->prefix, l < 0 ? 0 : (int)l);
        if (strcmp(name, known) == 0) return true;
    }
    return false;
}

static int account(planner *b) {
    checkpoint *c = b->c;
    for (size_t i = 0; i < c->st.n; i++) {
        const st_tensor *t = &c->st.tensors[i];
        int64_t l = layer_of(b, t->name);
        if (b->used[i]) continue;
        if (l >= c->arch.n_layers)
            return fail(b->e, "%s: tensor %.200s belongs to a layer that config.json does not have: num_hidden_layers is %d", c->st.shards[t->shard].path, t->name, c->arch.n_layers);
        char shape[256];
        shape_text(t, shape, sizeof shape);
        if (!unneeded(b, t->name)) warn(c, "tensor %.200s %s has no place in a %s model and is not used", t->name, shape, c->family->model_type);
    }
    return 0;
}

/* A layer that is not there is better named by its number than by its first tensor. */
static int check_layers(planner *b) {
    const checkpoint *c = b->c;
    int64_t last = -1;
    char start[NAME_SIZE];
    layer_start(b, start, sizeof start);
    for (size_t i = 0; i < c->st.n; i++) {
        int64_t l = layer_of(b, c->st.tensors[i].name);
        last = l > last ? l : last;
    }
    if (last >= 0 && last + 1 < c->arch.n_layers)
        return fail(b->e, "%s: num_hidden_layers is %d, but the checkpoint's last layer is %s%lld; expected %s%lld too", c->config_path, c->arch.n_layers, start,
                    (long long)last, start, (long long)last + 1);
    return 0;
}

int plan_make(plan *p, checkpoint *c, wtype type, err *e) {
    *p = (plan){ .embed = -1 };
    planner b = { p, c, type, NULL, calloc(c->st.n ? c->st.n : 1, sizeof(bool)), e };
    if (!b.used) return fail_memory(e, c->st.n, "the plan");
    find_prefix(&b);
    int rc = check_layers(&b) || add_all(&b) || account(&b) ? -1 : 0;
    free(b.used);
    if (rc) plan_free(p);
    return rc;
}

void plan_free(plan *p) {
    free(p->outputs);
    *p = (plan){ .embed = -1 };
}
