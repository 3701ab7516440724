/* models: the files a server has and the engines of those that are open (models.h). It owns names, engines, tokenizers, templates and who holds
 * them. Its one idea: opening a model is a mapping, so a model is opened to learn what it takes, and closed again before a weight is
 * read if that is too much. It must not know what is computed with an engine, nor who asks. One lock for everything: opening takes
 * milliseconds, and nobody computes under it. */
#define _GNU_SOURCE
#include "tools/serve/models.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* One file, or a file with adapters. Entries live until models_close: pointers to models stay good. */
typedef struct model_state {
    model m;
    arena mem;               /* name, path, adapters */
    int refs;
    double keep_alive;
    uint64_t used;           /* the clock of its last use */
    bool gone;               /* the file was not there when it was last looked for */
    int64_t opened_modified; /* of the file that is open */
    uint64_t opened_bytes;
    engine_info info;        /* a copy, once it was open; its texts in info_mem */
    arena info_mem;
    bool known;
    int64_t known_modified;
    struct model_state *base; /* of a model with adapters: the one without; NULL: it is one without */
    struct model_state *next;
} entry;

typedef struct lora_file {
    char *name, *path;
    struct lora_file *next;
} lora_file;

struct models {
    models_opts o;
    arena mem;
    const char **paths;
    entry *first, **end;
    lora_file *loras;
    uint64_t clock;
    pthread_mutex_t lock;
};

/* ---- files ---- */

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n > k && strcmp(s + n - k, end) == 0;
}

static entry *find_name(const models *v, const char *name, size_t n) {
    for (entry *x = v->first; x; x = x->next)
        if (!x->base && strlen(x->m.name) == n && memcmp(x->m.name, name, n) == 0) return x;
    return NULL;
}

static entry *find_path(const models *v, const char *path) {
    for (entry *x = v->first; x; x = x->next)
        if (!x->base && strcmp(x->m.path, path) == 0) return x;
    return NULL;
}

/* The file's name without its ending; where that is taken, with its folder's name before it, then a number behind. */
static char *choose_name(const models *v, arena *a, const char *path) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path, *folder = base;
    size_t n = strlen(base) - (ends_with(base, ".bin") ? 4 : 0);
    if (!find_name(v, base, n)) return arena_copy(a, base, n);
    if (slash)
        for (folder = slash; folder > path && folder[-1] != '/';) folder--;
    n += (size_t)(base - folder);
    for (int i = 1; i < 1000; i++) {
        buf text = { 0 };
        buf_add(&text, folder, n);
        if (i > 1) buf_fmt(&text, "-%d", i);
        char *name = text.failed || find_name(v, text.p, text.n) ? NULL : arena_copy(a, text.p, text.n);
        buf_free(&text);
        if (name) return name;
    }
    return NULL;
}

static entry *new_entry(models *v, err *e) {
    entry *x = calloc(1, sizeof *x);
    if (!x) return fail_memory(e, sizeof *x, "a model's entry"), NULL;
    x->m.state = x;
    x->m.owner = v;
    x->m.turn_end = -1;
    x->keep_alive = v->o.keep_alive;
    return x;
}

static void append(models *v, entry *x) {
    *v->end = x;
    v->end = &x->next;
}

static void drop_new(entry *x) {
    arena_free(&x->mem);
    free(x);
}

static int add_model(models *v, const char *path, const struct stat *st, err *e) {
    entry *x = find_path(v, path);
    if (!x) {
        if (!(x = new_entry(v, e))) return -1;
        x->m.path = arena_copy(&x->mem, path, strlen(path));
        x->m.name = choose_name(v, &x->mem, path);
        if (!x->m.path || !x->m.name) return drop_new(x), fail_memory(e, strlen(path), "a model's name");
        append(v, x);
    }
    x->gone = false;
    x->m.file_bytes = (uint64_t)st->st_size;
    x->m.modified = (int64_t)st->st_mtime;
    return 0;
}

static int add_lora(models *v, const char *path, err *e) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t n = strlen(base) - 5;
    for (const lora_file *f = v->loras; f; f = f->next)
        if (strcmp(f->path, path) == 0 || (strlen(f->name) == n && memcmp(f->name, base, n) == 0)) return 0; /* the first of a name counts */
    lora_file *f = arena_alloc(&v->mem, sizeof *f);
    if (f) f->name = arena_copy(&v->mem, base, n), f->path = arena_copy(&v->mem, path, strlen(path));
    if (!f || !f->name || !f->path) return fail_memory(e, strlen(path), "an adapter's name");
    f->next = v->loras;
    v->loras = f;
    return 0;
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

static int scan_folder(models *v, const char *folder, err *e) {
    struct dirent **list;
    int n = scandir(folder, &list, NULL, by_name), rc = 0;
    if (n < 0) return fail(e, "%s: %s", folder, strerror(errno));
    for (int i = 0; i < n; i++) {
        const char *name = list[i]->d_name;
        arena mem = { 0 };
        struct stat st;
        char *path = ends_with(name, ".bin") || ends_with(name, ".lora") ? path_join(&mem, folder, name) : NULL;
        if (!rc && path && name[0] != '.' && stat(path, &st) == 0 && S_ISREG(st.st_mode))
            rc = ends_with(name, ".bin") ? add_model(v, path, &st, e) : add_lora(v, path, e);
        arena_free(&mem);
        free(list[i]);
    }
    free(list);
    return rc;
}

/* All paths once more: new files get entries, those that are not there any more are marked. */
static int scan(models *v, bool first, err *e) {
    for (entry *x = v->first; x; x = x->next) x->gone = !x->base;
    for (int i = 0; i < v->o.n_paths; i++) {
        struct stat st;
        if (stat(v->paths[i], &st)) {
            if (first) return fail(e, "%s: %s", v->paths[i], strerror(errno));
        } else if (S_ISDIR(st.st_mode)) {
            if (scan_folder(v, v->paths[i], e)) return -1;
        } else if (ends_with(v->paths[i], ".lora")) {
            if (add_lora(v, v->paths[i], e)) return -1;
        } else if (add_model(v, v->paths[i], &st, e)) return -1;
    }
    return 0;
}

int models_open(models **out, const models_opts *o, err *e) {
    models *v = calloc(1, sizeof *v);
    *out = NULL;
    if (!v) return fail_memory(e, sizeof *v, "the models");
    v->o = *o;
    v->end = &v->first;
    pthread_mutex_init(&v->lock, NULL);
    v->paths = arena_alloc(&v->mem, (size_t)max_int(o->n_paths, 1) * sizeof *v->paths);
    int rc = v->paths ? 0 : fail_memory(e, (size_t)o->n_paths * sizeof *v->paths, "the models' paths");
    for (int i = 0; i < o->n_paths && !rc; i++)
        if (!(v->paths[i] = arena_copy(&v->mem, o->paths[i], strlen(o->paths[i])))) rc = fail_memory(e, strlen(o->paths[i]), "a path");
    if (!rc) rc = scan(v, true, e);
    if (rc) return models_close(v), -1;
    *out = v;
    return 0;
}

/* ---- opening and closing one ---- */

static void close_entry(entry *x) {
    if (x->m.work_free) x->m.work_free(x->m.work);
    x->m.work = NULL;
    x->m.work_free = NULL;
    grammars_free(x->m.grammars);
    chat_close(x->m.chat);
    tokenizer_free(x->m.tok);
    x->m.grammars = NULL;
    engine_close(x->m.engine);
    x->m.chat = NULL;
    x->m.tok = NULL;
    x->m.engine = NULL;
    x->m.info = x->known ? &x->info : NULL;
}

void models_close(models *v) {
    if (!v) return;
    for (entry *x = v->first, *next; x; x = next) {
        next = x->next;
        close_entry(x);
        arena_free(&x->info_mem);
        arena_free(&x->mem);
        free(x);
    }
    arena_free(&v->mem);
    pthread_mutex_destroy(&v->lock);
    free(v);
}

static const char *copy_text(arena *a, const char *s) { return s ? arena_copy(a, s, strlen(s)) : NULL; }

/* Keeps what an engine said of itself, for when it is closed. */
static void learn(entry *x, const engine *g) {
    arena *a = &x->info_mem;
    engine_info i = *engine_about(g);
    arena_free(a);
    i.name = copy_text(a, i.name);
    i.family = copy_text(a, i.family);
    i.kernels = copy_text(a, i.kernels);
    i.type = copy_text(a, i.type);
    i.adapter_warning = copy_text(a, i.adapter_warning);
    int *eos = arena_alloc(a, (size_t)max_int(i.n_eos, 1) * sizeof *eos);
    for (int k = 0; eos && k < i.n_eos; k++) eos[k] = i.eos[k];
    i.eos = eos;
    if (!eos) i.n_eos = 0;
    i.tokenizer = NULL;
    snprintf(x->m.digest, sizeof x->m.digest, "%016llx", (unsigned long long)i.hash);
    x->info = i;
    x->known = i.name && i.family && i.kernels && i.type;
    x->known_modified = x->m.modified;
}

/* What it takes by its plan. The mapping of a file that is open already, with other adapters or none, is counted once. */
static uint64_t plan_bytes(const models *v, const entry *x, const engine *g) {
    engine_memory p = engine_plan(g);
    uint64_t all = p.weights + p.kv + p.scratch + p.tables;
    for (const entry *y = v->first; y; y = y->next)
        if (y != x && y->m.engine && strcmp(y->m.path, x->m.path) == 0) return all - engine_about(g)->file_bytes;
    return all;
}

static uint64_t sum_open(const models *v, bool held_only) {
    uint64_t sum = 0;
    for (const entry *x = v->first; x; x = x->next)
        if (x->m.engine && (x->refs || !held_only)) sum += x->m.memory;
    return sum;
}

/* Closes what nobody holds, longest unused first, until `need` bytes fit; nothing is closed if that would not help. */
static int make_room(models *v, const entry *for_whom, uint64_t need, uint64_t bound, err *e) {
    uint64_t held = sum_open(v, true);
    if (held + need > bound)
        return fail_code(e, MODELS_NO_MEMORY, "model '%s' needs %.1f MB, the bound for all open models is %.1f MB%s: use a smaller context, fewer slots, or allow more memory",
                         for_whom->m.name, (double)need / 1e6, (double)bound / 1e6, held ? ", and models in use hold a part of it" : "");
    while (sum_open(v, false) + need > bound) {
        entry *oldest = NULL;
        for (entry *x = v->first; x; x = x->next)
            if (x->m.engine && !x->refs && (!oldest || x->used < oldest->used)) oldest = x;
        close_entry(oldest); /* there is one: what is held fits */
    }
    return 0;
}

static engine_opts opts_of(const models *v, const entry *x) {
    engine_opts o = v->o.engine;
    o.path = x->m.path;
    if (x->m.n_adapters) o.adapters = x->m.adapters, o.n_adapters = x->m.n_adapters;
    return o;
}

static int open_texts(model *m, err *e) {
    const engine_info *i = engine_about(m->engine);
    err why = { 0 };
    m->turn_end = -1;
    m->no_chat[0] = 0;
    if (i->tokenizer_bytes && tokenizer_open(&m->tok, i->tokenizer, i->tokenizer_bytes, e)) return -1;
    if (!(m->grammars = grammars_new(m->tok))) return fail_memory(e, sizeof *m, "a model's grammars");
    if (!i->tokenizer_bytes) return snprintf(m->no_chat, sizeof m->no_chat, "the file has no tokenizer: only token ids can be given"), 0;
    if (chat_open(&m->chat, m->tok, NULL, 0, &why)) {
        m->chat = NULL;
        snprintf(m->no_chat, sizeof m->no_chat, "%.*s", (int)sizeof m->no_chat - 1, why.msg);
        return 0;
    }
    m->turn_end = chat_turn_end(m->chat);
    size_t n = 0, n_tools = 0;
    const char *plain = tokenizer_template(m->tok, false, &n), *tools = tokenizer_template(m->tok, true, &n_tools);
    m->calls = call_format_of(tools, n_tools);
    m->wants = template_wants_of(tools, n_tools);
    m->think = think_marks_of(plain, n);
    return 0;
}

/* The file as it is now; an error names the model as the request did. */
static int look(entry *x, err *e) {
    struct stat st;
    if (stat(x->m.path, &st)) {
        x->gone = true;
        return fail_code(e, MODELS_NOT_FOUND, "model '%s': its file is not there any more (%s: %s)", x->m.name, x->m.path, strerror(errno));
    }
    x->m.file_bytes = (uint64_t)st.st_size;
    x->m.modified = (int64_t)st.st_mtime;
    return 0;
}

static int open_entry(models *v, entry *x, err *e) {
    double start = now_seconds();
    engine *g;
    engine_opts o = opts_of(v, x);
    if (look(x, e)) return -1;
    if (engine_open(&g, &o, e)) return -1;
    uint64_t need = plan_bytes(v, x, g), bound = v->o.memory ? v->o.memory : engine_plan(g).machine;
    if (make_room(v, x, need, bound, e)) return engine_close(g), -1;
    x->m.engine = g;
    if (open_texts(&x->m, e)) return close_entry(x), -1;
    x->opened_modified = x->m.modified;
    x->opened_bytes = x->m.file_bytes;
    learn(x, g);
    x->m.info = engine_about(g);
    x->m.memory = need;
    x->m.load_seconds = now_seconds() - start;
    return 0;
}

/* ---- holding ---- */

static double expiry(const entry *x) { return x->keep_alive < 0 ? INFINITY : now_seconds() + x->keep_alive; }

static int hold(models *v, entry *x, err *e) {
    /* A file that was replaced is opened anew once nobody works with the old one; one that is open stays so when its name is gone. */
    err unused = { 0 };
    if (x->m.engine && !x->refs && look(x, &unused) == 0 && (x->m.modified != x->opened_modified || x->m.file_bytes != x->opened_bytes)) close_entry(x);
    if (!x->m.engine && open_entry(v, x, e)) return -1;
    x->refs++;
    x->used = ++v->clock;
    x->m.expires = expiry(x);
    return 0;
}

static void unhold(entry *x) {
    x->used = ++x->m.owner->clock;
    x->m.expires = expiry(x);
    if (--x->refs == 0 && x->keep_alive == 0) close_entry(x);
}

static entry *find(models *v, const char *name) {
    if (!name || !*name) {
        for (entry *x = v->first; x; x = x->next)
            if (!x->base && !x->gone) return x;
        return NULL;
    }
    size_t n = strlen(name);
    entry *x = find_name(v, name, n);
    if (!x && ends_with(name, ":latest")) x = find_name(v, name, n -= 7);
    if (!x && n > 4 && memcmp(name + n - 4, ".bin", 4) == 0) x = find_name(v, name, n - 4);
    return x && (!x->gone || x->m.engine) ? x : NULL;
}

static int not_found(const models *v, const char *name, err *e) {
    buf there = { 0 };
    for (const entry *x = v->first; x && there.n < 300; x = x->next)
        if (!x->base && !x->gone) buf_fmt(&there, "%s%s", there.n ? ", " : "", x->m.name);
    fail_code(e, MODELS_NOT_FOUND, "model '%.200s' not found; there %s%.*s", name && *name ? name : "(the first)", there.n ? "is: " : "are no models", (int)there.n, there.n ? there.p : "");
    buf_free(&there);
    return -1;
}

/* By its name; looked for on the disk once more before it is given up. */
static entry *find_or_scan(models *v, const char *name, err *e) {
    err unused = { 0 };
    entry *x = find(v, name);
    if (!x) scan(v, false, &unused), x = find(v, name);
    if (!x) not_found(v, name, e);
    return x;
}

int models_hold(models *v, const char *name, model **m, err *e) {
    *m = NULL;
    pthread_mutex_lock(&v->lock);
    entry *x = find_or_scan(v, name, e);
    int rc = x ? hold(v, x, e) : -1;
    if (!rc) *m = &x->m;
    pthread_mutex_unlock(&v->lock);
    return rc;
}

void models_release(models *v, model *m, double keep_alive) {
    entry *x = m->state;
    pthread_mutex_lock(&v->lock);
    x->keep_alive = isnan(keep_alive) ? v->o.keep_alive : keep_alive;
    unhold(x);
    pthread_mutex_unlock(&v->lock);
}

void models_retain(model *m) {
    pthread_mutex_lock(&m->owner->lock);
    m->state->refs++;
    pthread_mutex_unlock(&m->owner->lock);
}

void models_drop(model *m) {
    models *v = m->owner;
    pthread_mutex_lock(&v->lock);
    unhold(m->state);
    pthread_mutex_unlock(&v->lock);
}

void models_set_work(model *m, void *work, void (*work_free)(void *work)) {
    pthread_mutex_lock(&m->owner->lock);
    m->work = work;
    m->work_free = work_free;
    pthread_mutex_unlock(&m->owner->lock);
}

/* ---- adapters ---- */

static const char *lora_path(models *v, const char *name) {
    size_t n = strlen(name) - (ends_with(name, ".lora") ? 5 : 0);
    for (const lora_file *f = v->loras; f; f = f->next)
        if (strlen(f->name) == n && memcmp(f->name, name, n) == 0) return f->path;
    return NULL;
}

static bool same_adapters(const entry *x, const adapter *a, int n) {
    if (x->m.n_adapters != n) return false;
    for (int i = 0; i < n; i++)
        if (x->m.adapters[i].scale != a[i].scale || strcmp(x->m.adapters[i].path, a[i].path)) return false;
    return true;
}

/* An entry for other adapters: one that is closed anew, so that requests with ever other scales leave no trail; else a new one. */
static entry *entry_for_adapters(models *v, err *e) {
    for (entry *x = v->first; x; x = x->next)
        if (x->base && !x->m.engine && !x->refs) {
            arena_free(&x->mem);
            arena_free(&x->info_mem);
            x->known = false;
            return x;
        }
    entry *x = new_entry(v, e);
    if (x) append(v, x);
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
        if (!path) scan(v, false, &unused), path = lora_path(v, from[i].name);
        if (!path) return fail_code(e, MODELS_NOT_FOUND, "adapter '%.200s' not found: expected a file %.200s.lora beside the models", from[i].name, from[i].name);
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
    int rc = hold(v, x, e);
    if (!rc) *m = &x->m;
    return rc;
}

int models_hold_adapted(models *v, model *m, const model_adapter *adapters, int n, model **adapted, err *e) {
    *adapted = NULL;
    pthread_mutex_lock(&v->lock);
    int rc = n ? hold_adapted(v, m->state->base ? m->state->base : m->state, adapters, n, adapted, e) : hold(v, m->state, e);
    if (!rc && !n) *adapted = m;
    pthread_mutex_unlock(&v->lock);
    return rc;
}

int models_adapters(models *v, const char ***names, int *n, err *e) {
    err unused = { 0 };
    int count = 0, i = 0;
    pthread_mutex_lock(&v->lock);
    scan(v, false, &unused);
    for (const lora_file *f = v->loras; f; f = f->next) count++;
    *n = 0;
    *names = calloc((size_t)max_int(count, 1), sizeof **names);
    for (const lora_file *f = v->loras; f && *names; f = f->next) (*names)[i++] = f->name;
    if (*names) *n = count;
    pthread_mutex_unlock(&v->lock);
    return *names ? 0 : fail_memory(e, (size_t)count * sizeof **names, "a list of adapters");
}

/* ---- lists ---- */

static model copy_of(const entry *x) {
    model m = x->m;
    m.engine = NULL;
    m.tok = NULL;
    m.grammars = NULL;
    m.chat = NULL;
    m.work = NULL;
    m.work_free = NULL;
    m.info = x->known && x->known_modified == x->m.modified ? &x->info : NULL;
    if (!m.info) m.digest[0] = 0;
    if (!x->m.engine) m.expires = 0;
    return m;
}

int models_list(models *v, model **list, int *n, err *e) {
    err unused = { 0 };
    int count = 0;
    pthread_mutex_lock(&v->lock);
    scan(v, false, &unused);
    for (const entry *x = v->first; x; x = x->next) count += !x->base && !x->gone;
    *n = 0;
    *list = calloc((size_t)max_int(count, 1), sizeof **list);
    for (const entry *x = v->first; x && *list; x = x->next)
        if (!x->base && !x->gone) (*list)[(*n)++] = copy_of(x);
    pthread_mutex_unlock(&v->lock);
    return *list ? 0 : fail_memory(e, (size_t)count * sizeof **list, "a list of models");
}

/* Opened for a moment, as it would be for a request: context and memory are those that a request would meet. */
static int study(models *v, entry *x, err *e) {
    engine *g;
    engine_opts o = opts_of(v, x);
    o.threads = 1;
    if (look(x, e) || (x->known && x->known_modified == x->m.modified)) return x->gone ? -1 : 0;
    if (engine_open(&g, &o, e)) return -1;
    x->m.engine = g;
    int rc = open_texts(&x->m, e);
    learn(x, g);
    x->m.memory = plan_bytes(v, x, g);
    close_entry(x);
    return rc;
}

int models_describe(models *v, const char *name, bool *open, model *copy, err *e) {
    pthread_mutex_lock(&v->lock);
    entry *x = find_or_scan(v, name, e);
    int rc = !x ? -1 : x->m.engine ? 0 : study(v, x, e);
    if (!rc) {
        *open = x->m.engine != NULL;
        *copy = copy_of(x);
    }
    pthread_mutex_unlock(&v->lock);
    return rc;
}

void models_expire(models *v, double now) {
    pthread_mutex_lock(&v->lock);
    for (entry *x = v->first; x; x = x->next)
        if (x->m.engine && !x->refs && now >= x->m.expires) close_entry(x);
    pthread_mutex_unlock(&v->lock);
}

uint64_t models_bytes(models *v, uint64_t *bound) {
    pthread_mutex_lock(&v->lock);
    uint64_t sum = sum_open(v, false);
    *bound = v->o.memory;
    pthread_mutex_unlock(&v->lock);
    return sum;
}
