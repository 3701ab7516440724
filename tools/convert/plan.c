/* plan: the checkpoint's tensors, by the family's table, to the list of tensors that the file gets. It owns names and shapes:
 * each tensor that is needed is found and has the shape that config.json means, each that is there is used or accounted for.
 * It must not read values, except to see whether a tied matrix is what it is tied to. */
#include <stdlib.h>
#include <string.h>

#include "tools/convert/families.h"
#include "tools/convert/plan.h"
#include "tools/convert/lora.h"

enum { NAME_SIZE = 256 };

typedef struct planner {
    plan *p;
    checkpoint *c;
    wtype type;
    const char *prefix; /* what {m} is */
    bool *used;         /* [st.n] */
    err *e;
} planner;

void pattern_expand(char *out, size_t size, const char *pattern, const char *prefix, int l, int i) {
    const struct {
        const char *mark;
        int value;
    } numbers[] = { { "{l}", l }, { "{e}", i }, { "{h}", i }, { "{s}", i }, { "{s-1}", i - 1 } };
    size_t at = 0;
    out[0] = 0;
    while (*pattern && at + 1 < size) {
        size_t known = 0, mark = 0;
        while (known < sizeof numbers / sizeof *numbers &&
               strncmp(pattern, numbers[known].mark, mark = strlen(numbers[known].mark)) != 0)
            known++;
        int n;
        if (known < sizeof numbers / sizeof *numbers)
            n = snprintf(out + at, size - at, "%d", numbers[known].value), pattern += mark;
        else if (strncmp(pattern, "{m}", 3) == 0) n = snprintf(out + at, size - at, "%s", prefix), pattern += 3;
        else n = snprintf(out + at, size - at, "%c", *pattern++);
        at += (size_t)n;
    }
}

/* The embedding, the first row of every family, and the prefix under which it is there. */
static const st_tensor *find_embedding(const checkpoint *c, const char **prefix) {
    const family *f = c->family;
    for (size_t i = 0; i < sizeof f->prefixes / sizeof *f->prefixes && f->prefixes[i]; i++) {
        char name[NAME_SIZE];
        pattern_expand(name, sizeof name, f->weights[0].part[0].source, f->prefixes[i], 0, 0);
        const st_tensor *t = safetensors_find(&c->st, name);
        if (t) return *prefix = f->prefixes[i], t;
    }
    return *prefix = f->prefixes[0], NULL;
}

const st_tensor *plan_embedding(const checkpoint *c) {
    const char *prefix;
    return find_embedding(c, &prefix);
}

/* ---- one tensor of the checkpoint ---- */

static void shape_text(const st_tensor *t, char *out, size_t size) {
    size_t at = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < t->n_dims && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%llu", i ? ", " : "", (unsigned long long)t->dims[i]);
    if (at < size) snprintf(out + at, size - at, "]");
}

/* A tensor by its name, or by the one that checkpoints from TensorFlow's days have: as transformers does. */
static const st_tensor *find(const checkpoint *c, const char *name) {
    static const char *const older[][2] = { { "LayerNorm.weight", "LayerNorm.gamma" }, { "LayerNorm.bias", "LayerNorm.beta" } };
    const st_tensor *t = safetensors_find(&c->st, name);
    for (size_t i = 0; i < sizeof older / sizeof *older && !t; i++) {
        size_t n = strlen(name), end = strlen(older[i][0]);
        char other[NAME_SIZE + 8];
        if (n < end || strcmp(name + n - end, older[i][0]) != 0) continue;
        snprintf(other, sizeof other, "%.*s%s", (int)(n - end), name, older[i][1]);
        t = safetensors_find(&c->st, other);
    }
    return t;
}

/* The checkpoint's number of a layer of the file. */
static int source_layer(const checkpoint *c, int l) { return c->slice.n_layers ? c->slice.layer[l] : l; }

/* The tensor `name`, of shape [rows][k] in layer l, or [rows] where k is DIM_NONE (FLAT: rows of heads); TRANSPOSED: [k][rows]. */
static const st_tensor *need(planner *b, const char *name, dim_kind rows, dim_kind k, int flags, int l) {
    const checkpoint *c = b->c;
    const st_tensor *t = find(c, name);
    int n = dim_source(c, rows, l), inner = dim_source(c, k, l);
    if (flags & TRANSPOSED) n = inner, inner = dim_source(c, rows, l);
    bool vector = k == DIM_NONE && !(flags & FLAT);
    if (flags & FLAT) n /= c->arch.head_dim, inner = c->arch.head_dim;
    char expected[64], found[256];
    if (vector) snprintf(expected, sizeof expected, "[%d]", n);
    else snprintf(expected, sizeof expected, "[%d, %d]", n, inner);
    if (!t) return fail(b->e, "%s: tensor %s is missing, expected of shape %s", c->folder, name, expected), NULL;
    const char *path = c->st.shards[t->shard].path;
    shape_text(t, found, sizeof found);
    bool fits =
        t->n_dims == (vector ? 1 : 2) && t->dims[0] == (uint64_t)n && (vector || t->dims[1] == (uint64_t)inner);
    if (!fits) return fail(b->e, "%s: tensor %s: expected shape %s by config.json, found %s", path, name, expected, found), NULL;
    if (t->type == ST_OTHER)
        return fail(b->e, "%s: tensor %s: dtype %s is not one for weights; expected F32, F16, BF16 or F64", path, name, t->dtype),
               NULL;
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

static int add_values(output *o, uint64_t n, uint64_t k, float *values) {
    if (!values) return -1;
    o->values = values;
    o->n = (uint32_t)n;
    o->k = o->k_source = o->k_chunk = (uint32_t)k;
    return 0;
}

static float *ones(planner *b, int n) {
    float *x = arena_alloc(&b->c->mem, (size_t)n * sizeof *x);
    if (!x) return fail_memory(b->e, (size_t)n * sizeof *x, "a vector"), NULL;
    for (int i = 0; i < n; i++) x[i] = 1;
    return x;
}

/* A vector of what each head has in a tensor of its own. */
static int add_heads(planner *b, output *o, const weight *w, int l) {
    checkpoint *c = b->c;
    int n = dim_value(c, w->part[0].rows, l), hd = c->arch.head_dim;
    float *x = arena_alloc(&c->mem, (size_t)n * sizeof *x);
    if (!x) return fail_memory(b->e, (size_t)n * sizeof *x, "a vector");
    for (int h = 0; h < n / hd; h++) {
        char name[NAME_SIZE];
        pattern_expand(name, sizeof name, w->part[0].source, b->prefix, source_layer(c, l), h);
        const st_tensor *t = need(b, name, DIM_HEAD, DIM_NONE, 0, l);
        if (!t) return -1;
        st_read(&c->st, t, 0, (uint64_t)hd, x + h * hd);
        if (!o->of || whole_is(c, t)) o->of = t;
    }
    return add_values(o, (uint64_t)n, 1, x);
}

/* Outputs that are computed here and now: small ones. */
static int add_computed(planner *b, output *o, const weight *w, int l) {
    checkpoint *c = b->c;
    int n = dim_value(c, w->part[0].rows, 0);
    if (w->flags & ONES) return add_values(o, (uint64_t)n, 1, ones(b, n));
    if (w->flags & BY_HEAD) return add_heads(b, o, w, l);
    char name[NAME_SIZE];
    pattern_expand(name, sizeof name, w->part[0].source, b->prefix, 0, 0);
    const st_tensor *t = need(b, name, w->part[0].rows, w->k, 0, 0);
    if (!t) return -1;
    o->of = t;
    return add_values(o, (uint64_t)c->arch.n_heads, 2 * (uint64_t)c->max_distance + 1,
                      relative_biases(c, t, w->flags & BIAS_BOTH, b->e));
}

/* Of rows or inputs of all layers side by side a slice takes those of its own. */
static const int *blocks_of(const checkpoint *c, dim_kind d) {
    return c->slice.n_layers && d == DIM_ALL_PER_LAYER ? c->slice.layer : NULL;
}

/* Which rows of its source a part takes. */
static void take_rows(const planner *b, const weight *w, int i, int l, source_rows *part) {
    const arch *a = &b->c->arch;
    uint32_t hd = (uint32_t)a->head_dim, group = (uint32_t)(a->n_heads / a->n_kv_heads);
    part->rows = (uint32_t)dim_value(b->c, w->part[i].rows, l);
    part->first = w->part[i].first == DIM_NONE ? 0 : (uint32_t)dim_value(b->c, w->part[i].first, l);
    part->chunk = part->rows;
    if ((part->blocks = blocks_of(b->c, w->part[i].rows))) part->chunk = part->stride = (uint32_t)a->d_per_layer;
    if (!(w->flags & HEADWISE)) return;
    part->stride = (group + 2) * hd;
    part->chunk = i == 0 ? group * hd : hd;
    part->first = i == 0 ? 0 : (group + (uint32_t)i - 1) * hd;
}

static int add_parts(planner *b, output *o, const weight *w, int l, int i) {
    uint64_t rows = 0;
    int n = 0;
    while (n < MAX_PARTS && w->part[n].source) n++;
    o->n_parts = w->flags & ADD_FIRST ? 1 : n;
    for (int p = 0; p < n; p++) {
        char name[NAME_SIZE];
        source_rows *part = &o->part[p];
        pattern_expand(name, sizeof name, w->part[p].source, b->prefix, source_layer(b->c, l), i);
        const st_tensor *t =
            need(b, name, w->part[p].whole == DIM_NONE ? w->part[p].rows : w->part[p].whole, w->k, w->flags, l);
        if (!t) return -1;
        if (p >= o->n_parts) {
            o->added = t;
            break;
        }
        take_rows(b, w, p, l, part);
        part->t = t;
        part->padded = o->n_parts > 1 || (w->flags & PADDED) ? (uint32_t)round_up(part->rows, PANEL) : part->rows;
        rows += part->padded;
    }
    if (rows > INT32_MAX / 2)
        return fail(b->e, "%s: tensor %s: %llu rows are too many", b->c->folder, o->name, (unsigned long long)rows);
    o->n = (uint32_t)rows;
    return 0;
}

static int add_output(planner *b, const weight *w, int l, int i) {
    output *o = new_output(b);
    if (!o) return -1;
    pattern_expand(o->name, sizeof o->name, w->name, b->prefix, l, i);
    o->vector = w->k == DIM_NONE;
    o->interleaved = w->flags & INTERLEAVED;
    o->columns = w->flags & TRANSPOSED;
    o->looked_up = w->flags & LOOKED_UP;
    o->pairs = w->flags & PAIRS ? (uint32_t)b->c->arch.head_dim : 0;
    o->type = o->vector || (w->flags & EXACT) ? W_F32 : b->type;
    o->k = (uint32_t)dim_value(b->c, w->k, l);
    o->k_source = (uint32_t)dim_source(b->c, w->k, l);
    o->k_blocks = blocks_of(b->c, w->k);
    o->k_chunk = o->k_blocks ? (uint32_t)b->c->arch.d_per_layer : o->k;
    o->scale = w->flags & OVER_WIDTH ? (float)(1 / (double)b->c->arch.d_model) : 1;
    o->offset = w->flags & PLUS_ONE ? 1 : 0;
    return w->flags & (ONES | BY_HEAD | BIAS_BOTH | BIAS_BACK) ? add_computed(b, o, w, l) : add_parts(b, o, w, l, i);
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
    pattern_expand(name, sizeof name, w->part[0].source, b->prefix, 0, 0);
    const st_tensor *t = safetensors_find(&c->st, name), *embed = b->p->outputs[b->p->embed].part[0].t;
    if (t && !same_values(&c->st, t, embed)) {
        warn(c, "config.json ties %s to the embedding, but the two differ: written as two matrices", name);
        c->tied = false;
        return add_output(b, w, 0, 0);
    }
    if (t) b->used[t - c->st.tensors] = true;
    b->p->tied = true;
    return 0;
}

/* ---- all of them ---- */

/* "key": true in config.json; "!key": not true; "+key": not false. */
static bool holds(const checkpoint *c, const char *when) {
    if (!when) return true;
    if (*when == '!') return !config_true(c, when + 1);
    const json *j = *when == '+' ? json_get(c->config, when + 1) : NULL;
    return *when == '+' ? !j || j->type != JSON_FALSE : config_true(c, when);
}

static bool wanted(const planner *b, const weight *w, int l) {
    const checkpoint *c = b->c;
    bool in_layer = strstr(w->name, "{l}") && l < c->arch.n_layers;
    bool own_kv = !in_layer || c->arch.kv_layer[l] < 0,
         experts = in_layer && c->arch.n_experts > 0 && (!c->mixture || c->mixture[l]);
    int f = w->flags;
    if ((f & IF_OWN_KV && !own_kv) || (f & IF_OTHER_KV && own_kv) || (f & IF_EXPERTS && !experts) || (f & IF_DENSE && experts))
        return false;
    if ((f & IF_GATED && !c->gated) || (f & IF_UNGATED && c->gated)) return false;
    if ((f & IF_TWO_NORMS && !c->two_norms) || (f & IF_ONE_NORM && c->two_norms)) return false;
    if ((f & IF_PARALLEL && !c->arch.parallel) || (f & IF_SERIAL && c->arch.parallel)) return false;
    return holds(c, w->when);
}

/* Rows of the table that are repeated together follow one another: returns the end of those from w on that have this mark, and
 * whose names begin alike up to it. */
static const weight *run_of(const weight *w, const char *mark) {
    size_t n = (size_t)(strstr(w->name, mark) - w->name);
    const weight *end = w;
    while (end->name && strstr(end->name, mark) && strncmp(end->name, w->name, n) == 0) end++;
    return end;
}

static int add_one(planner *b, const weight *w, int l, int i) {
    if (!wanted(b, w, l)) return 0;
    if ((w->flags & TIED) && b->c->tied ? add_tied(b, w) : add_output(b, w, l, i)) return -1;
    if (strcmp(w->name, "embed") == 0) b->p->embed = b->p->n - 1;
    return 0;
}

/* The rows [w, end) of one layer, or of none: those of experts for each expert, those of streams for each stream. */
static int add_rows(planner *b, const weight *w, const weight *end, int l) {
    const arch *a = &b->c->arch;
    while (w < end) {
        bool experts = strstr(w->name, "{e}") != NULL, streams = strstr(w->name, "{s}") != NULL;
        const weight *last = experts ? run_of(w, "{e}") : w + 1;
        for (int i = streams ? 1 : 0; i < (experts ? a->n_experts : streams ? a->n_streams : 1); i++)
            for (const weight *x = w; x < last; x++)
                if (add_one(b, x, l, i)) return -1;
        w = last;
    }
    return 0;
}

static int stack_layers(const checkpoint *c, const weight *w) {
    return strncmp(w->name, "enc.", 4) == 0 ? c->arch.n_enc_layers : c->arch.n_layers;
}

static int add_all(planner *b) {
    const weight *w = b->c->family->weights;
    while (w->name) {
        bool layered = strstr(w->name, "{l}") != NULL;
        const weight *end = layered ? run_of(w, "{l}") : w + 1;
        for (int l = 0; l < (layered ? stack_layers(b->c, w) : 1); l++)
            if (add_rows(b, w, end, l)) return -1;
        w = end;
    }
    return 0;
}

/* Layers of the stack in the checkpoint. */
static int stored_layers(const checkpoint *c, const weight *w) {
    return c->slice.n_layers && strncmp(w->name, "enc.", 4) != 0 ? c->slice.n_layers : stack_layers(c, w);
}

/* A layer of the checkpoint that its slice leaves out. */
static bool left_out(const checkpoint *c, int64_t l) {
    bool kept = !c->slice.n_layers || l < 0;
    for (int i = 0; i < c->arch.n_layers && !kept; i++) kept = c->slice.layer[i] == l;
    return !kept;
}

/* dense.I of n rows, or its bias; *n: what the next one takes. */
static int add_dense_part(planner *b, const st_tensor *t, int i, bool bias, uint64_t *n) {
    char found[256];
    uint64_t k = bias ? 1 : *n;
    shape_text(t, found, sizeof found);
    if (t->n_dims != 2 - bias || t->type == ST_OTHER || t->dims[0] < 1 || t->dims[0] > 1 << 20 || t->dims[!bias] != *n)
        return fail(b->e, "%s: linear.%s: expected %llu %s, found %s of %s", b->c->st.shards[t->shard].path, bias ? "bias" : "weight",
                    (unsigned long long)*n, bias ? "values" : "columns", found, t->dtype);
    output *o = new_output(b);
    if (!o) return -1;
    uint32_t rows = (uint32_t)t->dims[0];
    *o = (output){ .type = bias ? W_F32 : b->type, .vector = bias, .n = rows, .k = (uint32_t)k, .k_source = (uint32_t)k,
                   .k_chunk = (uint32_t)k, .scale = 1, .n_parts = 1 };
    o->part[0] = (source_rows){ .t = t, .rows = rows, .padded = rows, .chunk = rows };
    snprintf(o->name, sizeof o->name, "dense.%d%s", i, bias ? "_bias" : "");
    b->used[t - b->c->st.tensors] = true;
    *n = rows;
    return 0;
}

/* The matrices behind pooling: each takes what the one before gives. */
static int add_dense(planner *b) {
    uint64_t n = (uint64_t)b->c->arch.d_model;
    for (int i = 0; i < b->c->n_dense; i++)
        for (int bias = 0; bias < 2; bias++) {
            char name[NAME_SIZE];
            snprintf(name, sizeof name, "dense.%d.%s", i, bias ? "bias" : "weight");
            const st_tensor *t = safetensors_find(&b->c->st, name);
            if (t && add_dense_part(b, t, i, bias, &n)) return -1;
        }
    return 0;
}

/* What the names of a stack's layers begin with: its first pattern with {l}, up to there ("model.layers."). The next stack's
 * first row, or NULL past the last. */
static const weight *stack_start(const planner *b, const weight *w, char *out, size_t size) {
    while (w->name && !(strstr(w->name, "{l}") && w->part[0].source && strstr(w->part[0].source, "{l}"))) w++;
    if (!w->name) return NULL;
    char pattern[NAME_SIZE];
    snprintf(pattern, sizeof pattern, "%.*s", (int)(strstr(w->part[0].source, "{l}") - w->part[0].source), w->part[0].source);
    pattern_expand(out, size, pattern, b->prefix, 0, 0);
    return w;
}

/* The layer's number where name begins as those of this stack do; else -1. */
static int64_t layer_in(const char *start, const char *name) {
    size_t n = strlen(start), digits;
    if (strncmp(name, start, n) != 0 || !(digits = strspn(name + n, "0123456789")) || digits > 9 || name[n + digits] != '.')
        return -1;
    return strtol(name + n, NULL, 10);
}

/* The layer that a name belongs to, and how many its stack has; -1: none. */
static int64_t layer_of(const planner *b, const char *name, int *n_layers) {
    char start[NAME_SIZE];
    for (const weight *w = b->c->family->weights; (w = stack_start(b, w, start, sizeof start)); w = run_of(w, "{l}")) {
        int64_t l = layer_in(start, name);
        *n_layers = stored_layers(b->c, w);
        if (l >= 0) return l;
    }
    return -1;
}

/* The key of config.json that counts the layers of w's stack. */
static const char *layers_key(const checkpoint *c, const weight *w) {
    size_t at = strncmp(w->name, "enc.", 4) == 0 ? offsetof(arch, n_enc_layers) : offsetof(arch, n_layers);
    const config_key *k = c->family->keys;
    while (k->key && k->at != at) k++;
    return k->key ? k->key : "the number of layers";
}

static bool unneeded(const planner *b, const char *name) {
    int n_layers;
    int64_t l = layer_of(b, name, &n_layers);
    for (const char *const *pattern = b->c->family->unneeded; *pattern; pattern++) {
        char known[NAME_SIZE];
        pattern_expand(known, sizeof known, *pattern, b->prefix, l < 0 ? 0 : (int)l, 0);
        if (strcmp(name, known) == 0) return true;
    }
    return false;
}

/* Counts the tensors of the model's other parts, and says once what is left aside. */
static void account_aside(planner *b) {
    checkpoint *c = b->c;
    for (const char *const *start = c->family->aside; start && *start; start++) {
        uint64_t bytes = 0;
        int n = 0;
        for (size_t i = 0; i < c->st.n; i++)
            if (!b->used[i] && strncmp(c->st.tensors[i].name, *start, strlen(*start)) == 0) {
                b->used[i] = true;
                bytes += c->st.tensors[i].bytes;
                n++;
            }
        if (n) warn(c, "%s* (%d tensors, %.1f MB) is left aside: only the text model is converted", *start, n, (double)bytes / 1e6);
    }
}

static int account(planner *b) {
    checkpoint *c = b->c;
    account_aside(b);
    for (size_t i = 0; i < c->st.n; i++) {
        const st_tensor *t = &c->st.tensors[i];
        int n_layers = 0;
        int64_t l = layer_of(b, t->name, &n_layers);
        if (b->used[i]) continue;
        if (l >= n_layers && l >= 0)
            return fail(b->e, "%s: tensor %.200s belongs to a layer that config.json does not have: it has %d",
                        c->st.shards[t->shard].path, t->name, n_layers);
        if (left_out(c, l)) continue;
        char shape[256];
        shape_text(t, shape, sizeof shape);
        if (!unneeded(b, t->name))
            warn(c, "tensor %.200s %s has no place in a %s model and is not used", t->name, shape, c->family->model_type);
    }
    return 0;
}

/* A layer that is not there is better named by its number than by its first tensor. */
static int check_layers(planner *b) {
    const checkpoint *c = b->c;
    char start[NAME_SIZE];
    for (const weight *w = c->family->weights; (w = stack_start(b, w, start, sizeof start)); w = run_of(w, "{l}")) {
        int64_t last = -1;
        int n_layers = stored_layers(c, w);
        for (size_t i = 0; i < c->st.n; i++) {
            int64_t l = layer_in(start, c->st.tensors[i].name);
            last = l > last ? l : last;
        }
        if (last >= 0 && last + 1 < n_layers)
            return fail(b->e, "%s: %s is %d, but the checkpoint's last layer is %s%lld; expected %s%lld too", c->config_path,
                        layers_key(c, w), n_layers, start, (long long)last, start, (long long)last + 1);
    }
    return 0;
}

int plan_make(plan *p, checkpoint *c, wtype type, err *e) {
    *p = (plan){ .embed = -1, .type = type };
    planner b = { p, c, type, NULL, calloc(c->st.n ? c->st.n : 1, sizeof(bool)), e };
    if (!b.used) return fail_memory(e, c->st.n, "the plan");
    find_embedding(c, &b.prefix);
    int rc = check_layers(&b) || add_all(&b) || add_dense(&b) || account(&b) ? -1 : 0;
    if (!rc && p->embed >= 0) p->outputs[p->embed].looked_up = !p->tied;
    free(b.used);
    if (rc) plan_free(p);
    return rc;
}

void plan_free(plan *p) {
    free(p->outputs);
    *p = (plan){ .embed = -1 };
}

wlayout output_layout(const output *o) { return o->looked_up || o->type == W_F32 ? LAYOUT_ROWS : LAYOUT_P16; }

int plan_untie(plan *p, err *e) {
    output *list = realloc(p->outputs, ((size_t)p->n + 1) * sizeof *list);
    if (!list) return fail_memory(e, ((size_t)p->n + 1) * sizeof *list, "the plan");
    p->outputs = list;
    p->cap = p->n + 1;
    list[p->n] = list[p->embed];
    snprintf(list[p->n++].name, sizeof list->name, "output");
    list[p->embed].looked_up = true;
    p->tied = false;
    return 0;
}
