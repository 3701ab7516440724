/* models_adapters: a model's file with adapters in it is an entry of its own (models_parts.h); here is which adapters there are, which of such
 * entries a request gets, and how few of them stay open. It must not know how an adapter is applied. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/serve/models_parts.h"

enum { MOST_IDLE_ADAPTED = 8 };

static const char *lora_path(models *v, const char *name) {
    size_t n = adapter_name_length(name);
    for (const lora_entry *k = v->loras; k; k = k->next)
        if (strlen(k->f.name) == n && memcmp(k->f.name, name, n) == 0) return k->f.path;
    return NULL;
}

static bool same_adapters(const entry *x, const adapter *a, int n) {
    if (x->m.n_adapters != n) return false;
    for (int i = 0; i < n; i++)
        if (x->m.adapters[i].scale != a[i].scale || strcmp(x->m.adapters[i].path, a[i].path)) return false;
    return true;
}

/* Every scale is an engine of its own, with threads and a cache: few of those that nobody holds stay open. */
static void close_idle_adapted(models *v) {
    for (;;) {
        entry *oldest = NULL;
        int n = 0;
        for (entry *x = v->first; x; x = x->next) {
            if (!x->base || !x->m.engine || x->refs) continue;
            n++;
            if (!oldest || x->used < oldest->used) oldest = x;
        }
        if (n < MOST_IDLE_ADAPTED) return;
        models_close_entry(v, oldest);
    }
}

/* An entry for other adapters: one that is closed anew, so that requests with ever other scales leave no trail; else a new one. */
static entry *entry_for_adapters(models *v, err *e) {
    for (entry *x = v->first; x; x = x->next)
        if (x->base && !x->m.engine && !x->refs && x->state == ENTRY_RESTS) {
            arena_free(&x->mem);
            return x;
        }
    entry *x = models_new_entry(v, e);
    if (x) models_append(v, x);
    return x;
}

static entry *find_adapted(const models *v, const entry *base, const adapter *a, int n) {
    for (entry *x = v->first; x; x = x->next)
        if (x->base == base && same_adapters(x, a, n)) return x;
    return NULL;
}

/* The request's adapters by path, appended to those that all models of this server have. */
static int resolve(models *v, arena *mem, const model_adapter *from, int n, adapter **out, err *e) {
    int own = v->o.engine.n_adapters;
    adapter *a = arena_alloc(mem, (size_t)(own + n) * sizeof *a);
    err unused = { 0 };
    if (!a) return fail_memory(e, (size_t)(own + n) * sizeof *a, "adapters");
    for (int i = 0; i < own; i++) a[i] = v->o.engine.adapters[i];
    for (int i = 0; i < n; i++) {
        const char *path = lora_path(v, from[i].name);
        if (!path) models_scan(v, false, &unused), path = lora_path(v, from[i].name);
        if (!path)
            return fail_code(e, MODELS_NOT_FOUND, "adapter '%.200s' not found: expected a file %.200s.lora beside the models",
                             from[i].name, from[i].name);
        if (!isfinite(from[i].scale)) return fail_code(e, ERR_INPUT, "adapter '%.200s': its scale is no number", from[i].name);
        a[own + i] = (adapter){ path, from[i].scale };
    }
    *out = a;
    return 0;
}

static int hold_adapted(models *v, entry *base, const model_adapter *from, int n, model **m, err *e) {
    arena mem = { 0 };
    adapter *a;
    if (resolve(v, &mem, from, n, &a, e)) return arena_free(&mem), -1;
    int all = v->o.engine.n_adapters + n;
    entry *x = find_adapted(v, base, a, all);
    if (!x) {
        if (!(x = entry_for_adapters(v, e))) return arena_free(&mem), -1;
        x->mem = mem;
        x->base = base;
        x->m.name = base->m.name;
        x->m.path = base->m.path;
        x->m.adapters = a;
        x->m.n_adapters = all;
        x->keep_alive = v->o.keep_alive;
    } else arena_free(&mem);
    x->refs++; /* it stays what it is meanwhile */
    if (!x->m.engine) close_idle_adapted(v);
    x->refs--;
    int rc = models_hold_entry(v, x, e);
    if (!rc) *m = &x->m;
    return rc;
}

int models_hold_adapted(models *v, model *m, const model_adapter *adapters, int n, model **adapted, err *e) {
    *adapted = NULL;
    pthread_mutex_lock(&v->lock);
    int rc = n ? hold_adapted(v, m->state->base ? m->state->base : m->state, adapters, n, adapted, e) : models_hold_entry(v, m->state, e);
    if (!rc && !n) *adapted = m;
    pthread_mutex_unlock(&v->lock);
    return rc;
}

int models_adapters(models *v, lora_file **list, int *n, err *e) {
    err unused = { 0 };
    int count = 0;
    pthread_mutex_lock(&v->lock);
    models_scan(v, false, &unused);
    for (const lora_entry *k = v->loras; k; k = k->next) count++;
    *n = 0;
    *list = calloc((size_t)max_int(count, 1), sizeof **list);
    for (const lora_entry *k = v->loras; k && *list; k = k->next) (*list)[(*n)++] = k->f;
    pthread_mutex_unlock(&v->lock);
    return *list ? 0 : fail_memory(e, (size_t)count * sizeof **list, "a list of adapters");
}

/* The name as the list of files has it, which stays. */
static const char *lasting_name(const models *v, const char *name) {
    size_t n = adapter_name_length(name);
    for (const lora_entry *k = v->loras; k; k = k->next)
        if (strlen(k->f.name) == n && memcmp(k->f.name, name, n) == 0) return k->f.name;
    return NULL;
}

int models_set_default_adapters(models *v, model *m, const model_adapter *list, int n, err *e) {
    entry *x = m->state->base ? m->state->base : m->state;
    model_adapter *own = malloc((size_t)max_int(n, 1) * sizeof *own);
    if (!own) return fail_memory(e, (size_t)n * sizeof *own, "a model's adapters");
    int rc = 0;
    pthread_mutex_lock(&v->lock);
    for (int i = 0; i < n && !rc; i++) {
        own[i] = (model_adapter){ lasting_name(v, list[i].name), list[i].scale };
        if (!own[i].name)
            rc = fail_code(e, MODELS_NOT_FOUND, "adapter '%.200s' not found: expected a file %.200s.lora beside the models",
                           list[i].name, list[i].name);
    }
    model_adapter *old = rc ? own : x->defaults;
    if (!rc) x->defaults = own, x->n_defaults = n;
    pthread_mutex_unlock(&v->lock);
    free(old);
    return rc;
}

int models_default_adapters(models *v, const model *m, model_adapter **list, int *n, err *e) {
    const entry *x = m->state->base ? m->state->base : m->state;
    pthread_mutex_lock(&v->lock);
    *n = x->n_defaults;
    *list = malloc((size_t)max_int(*n, 1) * sizeof **list);
    for (int i = 0; i < *n && *list; i++) (*list)[i] = x->defaults[i];
    pthread_mutex_unlock(&v->lock);
    return *list ? 0 : fail_memory(e, sizeof **list, "a list of adapters");
}
