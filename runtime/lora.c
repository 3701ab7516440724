/* lora: binds adapter files to the matrices of a model (lora.h), as strictly as model.c binds tensors: an adapter that does not fit
 * is refused whole, before any matrix has it. It must not know how a product is computed, nor what PEFT is. */
#include "runtime/lora.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

struct lora_file {
    file f;
    struct lora_file *next;
};

static const char ending_a[] = ".lora_a", ending_b[] = ".lora_b";

/* ---- the matrix of a name ---- */

static bool same(const char *a, size_t n, const char *b) { return strlen(b) == n && memcmp(a, b, n) == 0; }

/* If *s begins with start and a number below limit: the number, and *s goes past them; else -1. */
static int take_number(const char **s, const char *start, int limit) {
    size_t n = strlen(start), digits;
    if (strncmp(*s, start, n) != 0 || !(digits = strspn(*s + n, "0123456789")) || digits > 7 ||
        (digits > 1 && (*s)[n] == '0'))
        return -1;
    int v = 0;
    for (size_t i = 0; i < digits; i++) v = 10 * v + ((*s)[n + i] - '0');
    if (v >= limit) return -1;
    *s += n + digits;
    return v;
}

static mat *mlp_matrix(mlp_weights *w, const char *name, size_t n) {
    return same(name, n, "gate_up") ? &w->gate_up : same(name, n, "up") ? &w->up : same(name, n, "down") ? &w->down : NULL;
}

static mat *layer_matrix(const model *m, layer *w, const char *name, size_t n) {
    static const struct {
        const char *name;
        size_t at;
    } parts[] = { { "qkv", offsetof(layer, qkv) },
                  { "attn_out", offsetof(layer, attn_out) },
                  { "cross_q", offsetof(layer, cross_q) },
                  { "cross_kv", offsetof(layer, cross_kv) },
                  { "cross_out", offsetof(layer, cross_out) },
                  { "router", offsetof(layer, router) },
                  { "shared_gate", offsetof(layer, shared_gate) },
                  { "laurel_left", offsetof(layer, laurel_left) },
                  { "laurel_right", offsetof(layer, laurel_right) },
                  { "per_layer_gate", offsetof(layer, per_layer_gate) },
                  { "per_layer_out", offsetof(layer, per_layer_out) },
                  { "altup_router", offsetof(layer, altup.router) },
                  { "altup_predict", offsetof(layer, altup.predict) },
                  { "altup_correct", offsetof(layer, altup.correct) } };
    const char *rest = name;
    int expert = w->experts ? take_number(&rest, "experts.", m->arch.n_experts) : -1;
    if (expert >= 0)
        return rest < name + n && *rest == '.' ? mlp_matrix(&w->experts[expert], rest + 1, n - (size_t)(rest + 1 - name)) : NULL;
    if (n > 7 && strncmp(name, "shared.", 7) == 0) return mlp_matrix(&w->shared, name + 7, n - 7);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (same(name, n, parts[i].name)) return (mat *)(void *)((char *)w + parts[i].at);
    return mlp_matrix(&w->mlp, name, n);
}

/* The matrix that the n bytes of name name; NULL: the model has none of this name that takes part in a product. */
static mat *find_matrix(model *m, const char *name, size_t n) {
    const char *rest = name;
    int i;
    mat *w = NULL;
    if ((i = take_number(&rest, "layers.", m->arch.n_layers)) >= 0 || (i = take_number(&rest, "enc.", m->arch.n_enc_layers)) >= 0) {
        layer *l = *name == 'e' ? &m->enc_layers[i] : &m->layers[i];
        if (rest < name + n && *rest == '.') w = layer_matrix(m, l, rest + 1, n - (size_t)(rest + 1 - name));
    } else if ((i = take_number(&rest, "stream_in.", m->arch.n_streams)) > 0) w = rest == name + n ? &m->stream_in[i] : NULL;
    else if ((i = take_number(&rest, "stream_out.", m->arch.n_streams)) > 0) w = rest == name + n ? &m->stream_out[i] : NULL;
    else if (same(name, n, "output")) w = &m->output;
    else if (same(name, n, "per_layer_proj")) w = &m->per_layer_proj;
    return w && w->data ? w : NULL;
}

/* ---- what the file says of itself ---- */

bool lora_is(const file *f) {
    const int64_t *v;
    return record_i64(f, LORA_KEY, &v) >= 0;
}

uint64_t lora_vectors_hash(const file *f) {
    hash64 h;
    hash_begin(&h);
    for (uint32_t i = 0; i < f->n_tensors; i++)
        if (f->tensors[i].n_dims == 1 && strncmp(f->tensors[i].name, "rope.", 5) != 0) hash_add(&h, &f->tensors[i].hash, 8);
    return hash_end(&h);
}

static int check_number(const file *f, const model *m, const char *key, int have, err *e) {
    const int64_t *v;
    if (record_i64(f, key, &v) != 1)
        return fail(e, "%s: damaged: the record %s is missing; convert the adapter again", f->path, key);
    if (*v == have) return 0;
    return fail(e, "%s: this adapter is for a model with %s %lld, %s has %d; convert it with --base CHECKPOINT of this model",
                f->path, key + sizeof LORA_BASE_KEY - 1, (long long)*v, m->file.path, have);
}

static bool known_record(const record *r) {
#define SAME(text, want) (same(r->key, r->key_n, text) && r->type == (want))
#define X(name) || SAME(LORA_BASE_KEY #name, REC_I64)
    if (SAME(LORA_KEY, REC_I64) || SAME(LORA_VECTORS_KEY, REC_I64) || SAME(LORA_NAME_KEY, REC_BYTES) LORA_BASE(X)) return true;
#undef X
#define X(text, want) || SAME(text, want)
    return (r->key_n > 5 && memcmp(r->key, "info.", 5) == 0) LORA_NUMBERS(X);
#undef X
#undef SAME
}

static int check_records(lora_set *s, const file *f, const model *m, err *e) {
    const int64_t *v;
    const char *name;
    size_t at = 0;
    record r;
    if (!lora_is(f))
        return fail(e, "%s: is a model, not an adapter; make one with convert ADAPTER_FOLDER --base CHECKPOINT", f->path);
    if (record_i64(f, LORA_KEY, &v) != 1 || *v != LORA_VERSION)
        return fail(e, "%s: an adapter of another version, this program reads version %d; convert it again", f->path, LORA_VERSION);
    while (record_next(f, &at, &r))
        if (!known_record(&r))
            return fail(e, "%s: adapter field %.*s is not known to this version: it was made by a newer convert; use a newer quern",
                        f->path, (int)r.key_n, r.key);
#define X(name) || check_number(f, m, LORA_BASE_KEY #name, m->arch.name, e)
    if (0 LORA_BASE(X)) return -1;
#undef X
    if (record_i64(f, LORA_VECTORS_KEY, &v) != 1)
        return fail(e, "%s: damaged: no record %s; convert it again", f->path, LORA_VECTORS_KEY);
    int64_t n = record_bytes(f, LORA_NAME_KEY, &name);
    if ((uint64_t)*v != lora_vectors_hash(&m->file) && !*s->warning)
        snprintf(s->warning, sizeof s->warning, "%.160s was made for other weights of this architecture%s%.*s", f->path,
                 n > 0 ? ": " : "", n > 0 ? (int)(n > 100 ? 100 : n) : 0, n > 0 ? name : "");
    return 0;
}

/* ---- tensors ---- */

typedef struct pair {
    mat *target;
    const file_tensor *a, *b;
} pair;

/* The matrix that tensor a, NAME.lora_a, belongs to, and its other half. */
static int check_pair(const file *f, model *m, const file_tensor *a, pair *out, err *e) {
    size_t n = strlen(a->name) - (sizeof ending_a - 1);
    char other[FORMAT_NAME + 8];
    snprintf(other, sizeof other, "%.*s%s", (int)n, a->name, ending_b);
    *out = (pair){ find_matrix(m, a->name, n), a, file_find(f, other) };
    if (!out->target)
        return fail(e, "%s: %.*s: %s has no such matrix; convert the adapter with --base CHECKPOINT of this model", f->path, (int)n,
                    a->name, m->file.path);
    if (!out->b) return fail(e, "%s: damaged: tensor %s without %s; convert the adapter again", f->path, a->name, other);
    const mat *w = out->target;
    bool fits = a->type == W_F32 && out->b->type == W_F32 && a->n_dims == 2 && out->b->n_dims == 2 && a->dims[0] > 0 &&
                a->dims[0] == out->b->dims[0] && a->dims[1] == (uint64_t)w->k && out->b->dims[1] == (uint64_t)w->n;
    if (fits) return 0;
    return fail(e, "%s: %.*s: expected f32 of [r][%d] and [r][%d], found [%llu][%llu] and [%llu][%llu]; convert the adapter again",
                f->path, (int)n, a->name, w->k, w->n, (unsigned long long)a->dims[0], (unsigned long long)a->dims[1],
                (unsigned long long)out->b->dims[0], (unsigned long long)out->b->dims[1]);
}

static bool ends_with(const char *name, const char *ending) {
    size_t n = strlen(name), k = strlen(ending);
    return n > k && strcmp(name + n - k, ending) == 0;
}

static int check_tensors(const file *f, model *m, pair *pairs, int *n_pairs, err *e) {
    for (uint32_t i = 0; i < f->n_tensors; i++) {
        const file_tensor *t = &f->tensors[i];
        char other[FORMAT_NAME + 8];
        if (ends_with(t->name, ending_a)) {
            if (check_pair(f, m, t, &pairs[(*n_pairs)++], e)) return -1;
            continue;
        }
        snprintf(other, sizeof other, "%.*s%s", (int)(strlen(t->name) - min_int((int)strlen(t->name), sizeof ending_b - 1)),
                 t->name, ending_a);
        if (!ends_with(t->name, ending_b) || !file_find(f, other))
            return fail(e, "%s: tensor %s has no place in an adapter: the file is damaged, or made by a newer convert", f->path,
                        t->name);
    }
    return *n_pairs ? 0 : fail(e, "%s: an adapter without any matrix; convert it again", f->path);
}

static void hang(lora_set *s, const file *f, const pair *p, float scale, lora *l) {
    int r = (int)p->a->dims[0];
    *l = (lora){ .a = { .data = file_data(f, p->a), .type = W_F32, .layout = LAYOUT_ROWS, .n = r, .k = p->target->k, .scale = 1 },
                 .b = file_data(f, p->b),
                 .ldb = round_up((size_t)p->target->n, GROUP),
                 .scale = scale };
    const lora **last = &p->target->lora;
    while (*last) last = (const lora **)(uintptr_t) & (*last)->next; /* those in the list are ours, in the arena */
    *last = l;
    s->max_rank = max_int(s->max_rank, r);
    s->bytes += p->a->bytes + p->b->bytes;
    s->macs += (uint64_t)r * ((uint64_t)p->target->k + (uint64_t)p->target->n);
}

static int use(lora_set *s, model *m, const file *f, float scale, err *e) {
    int n = 0;
    size_t most = f->n_tensors ? f->n_tensors : 1;
    pair *pairs = arena_alloc(&s->mem, most * sizeof *pairs);
    lora *list = arena_alloc(&s->mem, most * sizeof *list);
    if (!pairs || !list) return fail_memory(e, most * (sizeof *pairs + sizeof *list), "an adapter");
    if (check_records(s, f, m, e) || check_tensors(f, m, pairs, &n, e)) return -1;
    if (scale == 0) return 0;
    for (int i = 0; i < n; i++) hang(s, f, &pairs[i], scale, &list[i]);
    struct {
        uint64_t before, file;
        double scale;
    } key = { s->hash, f->header->meta_hash, (double)scale };
    s->hash = hash_bytes(&key, sizeof key);
    return 0;
}

int lora_open(lora_set *s, model *m, const char *path, float scale, err *e) {
    if (!isfinite(scale)) return fail(e, "%s: the scale of an adapter must be a finite number", path);
    struct lora_file *l = arena_alloc(&s->mem, sizeof *l);
    if (!l) return fail_memory(e, sizeof *l, "an adapter");
    if (file_open(&l->f, path, e)) return -1;
    l->next = s->files;
    s->files = l;
    s->n++;
    return use(s, m, &l->f, scale, e);
}

void lora_close(lora_set *s) {
    for (struct lora_file *l = s->files; l; l = l->next) file_close(&l->f);
    arena_free(&s->mem);
    *s = (lora_set){ 0 };
}
