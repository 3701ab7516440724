/* lora: binds adapter files to the tensors of a model (lora.h), as strictly as model.c binds tensors: an adapter that does not fit
 * is refused whole, before any tensor has it. It must not know how a product is computed, nor what PEFT is. */
#include "runtime/lora.h"

#include <math.h>
#include <string.h>

struct lora_file {
    file f;
    struct lora_file *next;
};

static const char ending_a[] = ".lora_a", ending_b[] = ".lora_b";

static bool same(const char *a, size_t n, const char *b) { return strlen(b) == n && memcmp(a, b, n) == 0; }

/* What became of the tensor of this name; NULL: the model has none, or nothing can take its place. */
static const tensor_place *find_place(const model *m, const char *name, const file_tensor **t) {
    *t = file_find(&m->file, name);
    const tensor_place *p = *t ? &m->places[*t - m->file.tensors] : NULL;
    return p && (p->matrix || p->vector) ? p : NULL;
}

static bool looked_up(const model *m, const mat *w) { return w == &m->embed || w == &m->pos_embed || w == &m->per_layer_embed; }

/* The matrix that the n bytes of name name; NULL: the model has none of this name that takes part in a product. */
static mat *find_matrix(model *m, const char *name, size_t n) {
    char full[FORMAT_NAME];
    const file_tensor *t;
    snprintf(full, sizeof full, "%.*s", (int)n, name);
    const tensor_place *p = find_place(m, full, &t);
    mat *w = p ? p->matrix : NULL;
    return w && looked_up(m, w) ? NULL : w;
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

/* A tensor of the model's own name, to be taken in its place. */
static int check_whole(const file *f, const model *m, const file_tensor *t, err *e) {
    const file_tensor *old;
    const tensor_place *p = find_place(m, t->name, &old);
    if (!p)
        return fail(e, "%s: tensor %s: %s has none that it could take the place of; convert the adapter with --base CHECKPOINT of "
                       "this model, or use a newer quern", f->path, t->name, m->file.path);
    if (p->matrix && !looked_up(m, p->matrix) && t->type != W_F32 && t->layout != LAYOUT_P16)
        return fail(e, "%s: tensor %s: expected panels, found plain rows, which are for tables that are looked up; convert the adapter again",
                    f->path, t->name);
    if (t->n_dims == old->n_dims && t->dims[0] == old->dims[0] && t->dims[1] == old->dims[1]) return 0;
    return fail(e, "%s: tensor %s: expected [%llu][%llu] as in %s, found [%llu][%llu]; convert the adapter again", f->path, t->name,
                    (unsigned long long)old->dims[0], (unsigned long long)old->dims[1], m->file.path, (unsigned long long)t->dims[0],
                    (unsigned long long)t->dims[1]);
}

static int check_tensors(const file *f, model *m, pair *pairs, int *n_pairs, err *e) {
    if (!f->n_tensors) return fail(e, "%s: an adapter without any matrix; convert it again", f->path);
    for (uint32_t i = 0; i < f->n_tensors; i++) {
        const file_tensor *t = &f->tensors[i];
        char other[FORMAT_NAME + 8];
        if (has_ending(t->name, ending_a)) {
            if (check_pair(f, m, t, &pairs[(*n_pairs)++], e)) return -1;
            continue;
        }
        snprintf(other, sizeof other, "%.*s%s", (int)(strlen(t->name) - min_int((int)strlen(t->name), sizeof ending_b - 1)),
                 t->name, ending_a);
        if (!(has_ending(t->name, ending_b) && file_find(f, other)) && check_whole(f, m, t, e)) return -1;
    }
    return 0;
}

static int check_twice(const file *f, const model *m, err *e) {
    for (uint32_t i = 0; i < f->n_tensors; i++) {
        const file_tensor *old;
        const tensor_place *p = find_place(m, f->tensors[i].name, &old);
        if (p && (p->matrix ? p->matrix->data : *p->vector) != file_data(&m->file, old))
            return fail(e, "%s: tensor %s: another adapter has replaced it already: of adapters with the same whole modules use one",
                        f->path, old->name);
    }
    return 0;
}

/* The tensors of the model's own names take their places. A vector's type is f32 in any file. */
static void put_whole(const file *f, model *m) {
    for (uint32_t i = 0; i < f->n_tensors; i++) {
        const file_tensor *t = &f->tensors[i], *old;
        const tensor_place *p = find_place(m, t->name, &old);
        if (!p) continue;
        if (p->vector) *p->vector = file_data(f, t);
        else {
            p->matrix->data = file_data(f, t);
            p->matrix->type = t->type;
            p->matrix->layout = t->layout;
            p->matrix->scale = ldexpf(1, t->exponent);
        }
    }
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
    int ranks = 0;
    for (const lora *all = p->target->lora; all; all = all->next) ranks += (int)round_up((size_t)all->a.n, PANEL);
    s->max_ranks = max_int(s->max_ranks, ranks);
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
    if (check_twice(f, m, e)) return -1;
    put_whole(f, m);
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
    s->file_bytes += l->f.header->file_bytes;
    s->n++;
    return use(s, m, &l->f, scale, e);
}

bool lora_maps(const lora_set *s, const void *p) {
    bool has = false;
    for (const struct lora_file *l = s->files; l; l = l->next) has |= mapping_has(&l->f.map, p);
    return has;
}

void lora_close(lora_set *s) {
    for (struct lora_file *l = s->files; l; l = l->next) file_close(&l->f);
    arena_free(&s->mem);
    *s = (lora_set){ 0 };
}
