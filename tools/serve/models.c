/* models: the files a server has and the engines of those that are open (models.h). It owns engines, tokenizers, templates and who holds
 * them. Its one idea: opening a model is a mapping, so a model is opened to learn what it takes, and closed again before a weight is
 * read if that is too much. It must not know what is computed with an engine, nor who asks.
 *
 * One lock for all of it, but not while a model is opened or closed: that may take a second, and others' models are there. An entry says then
 * what is done with it, and who wants it waits for that; the one who opens it does so for all of them, and its failure is theirs too. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/speculate.h"
#include "tools/serve/fault.h"
#include "tools/serve/models_parts.h"

static int take_draft(models *v, const model_draft *d, err *e);

int models_open(models **out, const models_opts *o, err *e) {
    models *v = calloc(1, sizeof *v);
    *out = NULL;
    if (!v) return fail_memory(e, sizeof *v, "the models");
    v->o = *o;
    v->end = &v->first;
    v->loras_end = &v->loras;
    pthread_mutex_init(&v->lock, NULL);
    pthread_cond_init(&v->changed, NULL);
    v->paths = arena_alloc(&v->mem, (size_t)max_int(o->n_paths, 1) * sizeof *v->paths);
    int rc = v->paths ? 0 : fail_memory(e, (size_t)o->n_paths * sizeof *v->paths, "the models' paths");
    for (int i = 0; i < o->n_paths && !rc; i++)
        if (!(v->paths[i] = arena_copy(&v->mem, o->paths[i], strlen(o->paths[i])))) rc = fail_memory(e, strlen(o->paths[i]), "a path");
    if (!rc) rc = models_scan(v, true, e);
    for (int i = 0; i < o->n_drafts && !rc; i++) rc = take_draft(v, &o->drafts[i], e);
    if (rc) return models_close(v), -1;
    *out = v;
    return 0;
}

/* ---- opening and closing one ---- */

/* What is to be closed, taken out of m: nobody finds it any more. */
static void close_parts(model *m) {
    if (m->work_free) m->work_free(m->work);
    grammars_free(m->grammars);
    chat_close(m->chat);
    tokenizer_free(m->tok);
    engine_close(m->engine);
    engine_close(m->draft);
}

static void forget_parts(entry *x) {
    model *m = &x->m;
    m->work = NULL;
    m->work_free = NULL;
    m->grammars = NULL;
    m->chat = NULL;
    m->tok = NULL;
    m->engine = m->draft = NULL;
    m->draft_memory = 0;
    m->no_draft[0] = 0;
    m->info = x->info;
}

/* Gives the lock up meanwhile. */
void models_close_entry(models *v, entry *x) {
    model old = x->m;
    forget_parts(x);
    x->state = ENTRY_CLOSES;
    pthread_mutex_unlock(&v->lock);
    close_parts(&old);
    pthread_mutex_lock(&v->lock);
    x->state = ENTRY_RESTS;
    pthread_cond_broadcast(&v->changed);
}

void models_close(models *v) {
    if (!v) return;
    for (entry *x = v->first, *next; x; x = next) {
        next = x->next;
        close_parts(&x->m);
        arena_free(&x->mem);
        free(x->defaults);
        free(x);
    }
    arena_free(&v->mem);
    pthread_cond_destroy(&v->changed);
    pthread_mutex_destroy(&v->lock);
    free(v);
}

static const char *copy_text(arena *a, const char *s) { return s ? arena_copy(a, s, strlen(s)) : NULL; }

static bool is_known(const entry *x) { return x->info && x->known_modified == x->m.modified; }

/* Keeps what an engine said of itself, for when it is closed. Others may still read what was known of the file before it changed: that stays
 * until models_close. (With adapters, nobody asks for it.) */
static void learn(models *v, entry *x, const engine *g) {
    arena *a = &v->mem;
    if (!x->base && is_known(x)) return;
    snprintf(x->m.digest, sizeof x->m.digest, "%016llx", (unsigned long long)engine_about(g)->hash);
    if (x->base) return;
    engine_info *i = arena_alloc(a, sizeof *i);
    if (!i) return;
    *i = *engine_about(g);
    i->name = copy_text(a, i->name);
    i->family = copy_text(a, i->family);
    i->kernels = copy_text(a, i->kernels);
    i->type = copy_text(a, i->type);
    i->adapter_warning = copy_text(a, i->adapter_warning);
    int *eos = arena_alloc(a, (size_t)max_int(i->n_eos, 1) * sizeof *eos);
    for (int k = 0; eos && k < i->n_eos; k++) eos[k] = i->eos[k];
    i->eos = eos;
    if (!eos) i->n_eos = 0;
    i->tokenizer = NULL;
    if (!i->name || !i->family || !i->kernels || !i->type) return;
    x->info = i;
    x->known_modified = x->m.modified;
}

static const entry *base_of(const entry *x) { return x->base ? x->base : x; }

/* What g takes by its plan. The mapping of a file that another model has open already, with other adapters or none, or as a draft, is
 * counted once. */
static uint64_t plan_bytes(const models *v, const entry *x, const char *path, const engine *g) {
    engine_memory p = engine_plan(g);
    uint64_t all = p.weights + p.kv + p.scratch + p.tables;
    for (const entry *y = v->first; y; y = y->next)
        if (y != x && y->m.engine && (strcmp(y->m.path, path) == 0 || (y->m.draft && strcmp(base_of(y)->draft_path, path) == 0)))
            return all - engine_about(g)->file_bytes;
    return all;
}

static uint64_t sum_open(const models *v, bool held_only) {
    uint64_t sum = 0;
    for (const entry *x = v->first; x; x = x->next)
        if ((x->m.engine && (x->refs || !held_only)) || (x->state == ENTRY_CLOSES && !held_only)) sum += x->m.memory;
    return sum;
}

static entry *longest_unused(const models *v) {
    entry *oldest = NULL;
    for (entry *x = v->first; x; x = x->next)
        if (x->m.engine && !x->refs && (!oldest || x->used < oldest->used)) oldest = x;
    return oldest;
}

/* Closes what nobody holds, longest unused first, until `need` bytes fit; nothing is closed if that would not help. */
static int make_room(models *v, const entry *for_whom, uint64_t need, uint64_t bound, err *e) {
    while (sum_open(v, false) + need > bound) {
        uint64_t held = sum_open(v, true);
        if (held + need > bound)
            return fail_code(e, MODELS_NO_MEMORY, "model '%s' needs %.1f MB, the bound for all open models is %.1f "
                                                  "MB%s: use a smaller context, fewer slots, or allow more memory",
                             for_whom->m.name, (double)need / 1e6, (double)bound / 1e6, held ? ", and models in use hold a part of it" : "");
        entry *oldest = longest_unused(v);
        if (oldest) models_close_entry(v, oldest);
        else pthread_cond_wait(&v->changed, &v->lock); /* what is held fits: the others are being closed */
    }
    return 0;
}

static engine_opts opts_of(const models *v, const entry *x) {
    engine_opts o = v->o.engine;
    o.path = x->m.path;
    o.ctx_at_most = true; /* one --ctx for models of all sizes */
    if (x->m.n_adapters) o.adapters = x->m.adapters, o.n_adapters = x->m.n_adapters;
    return o;
}

/* The engine that proposes for g: the same settings and as many positions, or its own if these are fewer. */
static int open_draft(const models *v, const entry *x, const engine *g, engine **draft, err *e) {
    engine_opts o = v->o.engine;
    err first = { 0 };
    o.path = base_of(x)->draft_path;
    o.adapters = NULL;
    o.n_adapters = 0;
    o.ctx = engine_about(g)->ctx;
    o.max_sessions = engine_about(g)->max_sessions;
    o.threads = engine_about(g)->threads;
    int rc = engine_open(draft, &o, &first);
    o.ctx = 0;
    if (rc && (first.code != ERR_CONTEXT || engine_open(draft, &o, e))) return fail_code(e, first.code, "%s", first.msg);
    if (speculate_check(engine_about(g), engine_about(*draft), e) == 0) return 0;
    engine_close(*draft);
    return -1;
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
        if (why.code == ERR_MEMORY) return fail_code(e, ERR_MEMORY, "%s", why.msg); /* that passes: it is no model without a template */
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
    models_look(x, &st);
    const char *name = strrchr(x->m.path, '/');
    name = name ? name + 1 : x->m.path;
    if (x->kind == KIND_ADAPTER)
        return fail_code(e, MODELS_NO_MODEL, "'%s' is a LoRA adapter, no model: ask for its model, "
                                             "and name it there: \"lora\": [{\"name\": \"%.*s\", \"scale\": 1}]", x->m.name,
                         (int)adapter_name_length(name), name);
    if (x->kind == KIND_TOKENIZER)
        return fail_code(e, MODELS_NO_MODEL, "'%s' holds a tokenizer alone, no model: it was made with convert "
                                             "--vocab-only; convert the checkpoint without it", x->m.name);
    return 0;
}

/* ---- opening: an engine and its draft by themselves, their place in memory under the lock, then the texts ---- */

typedef struct opened {
    model m;              /* engine, draft and what belongs to them; texts */
    uint64_t need, bound; /* of the engine alone */
} opened;

/* A model without its draft gives the same answers: where the draft cannot be had it is left out, and no_draft says why. */
static int open_engines(const models *v, const entry *x, int threads, opened *o, err *e) {
    engine_opts opts = opts_of(v, x);
    err why = { 0 };
    if (threads) opts.threads = threads;
    if (engine_open(&o->m.engine, &opts, e)) return o->m.engine = NULL, -1;
    o->m.draft_name = base_of(x)->m.draft_name;
    if (!o->m.draft_name || open_draft(v, x, o->m.engine, &o->m.draft, &why) == 0) return 0;
    o->m.draft = NULL;
    snprintf(o->m.no_draft, sizeof o->m.no_draft, "%.*s", (int)sizeof o->m.no_draft - 1, why.msg);
    return 0;
}

/* What they take, under the lock; a draft that does not fit beside its model is handed back, to be closed. */
static engine *plan(const models *v, const entry *x, opened *o, bool bounded) {
    engine *g = o->m.engine, *draft = o->m.draft;
    const engine_info *i = engine_about(g);
    o->bound = !bounded ? UINT64_MAX : v->o.memory ? v->o.memory : engine_plan(g).machine;
    o->need = o->m.memory = plan_bytes(v, x, x->m.path, g);
    if (!draft) return NULL;
    uint64_t rows = (uint64_t)i->max_sessions * (1 + SPECULATE_MOST) * (uint64_t)i->logits_ld * sizeof(float); /* of logits, to check proposals by */
    o->m.draft_memory = plan_bytes(v, x, base_of(x)->draft_path, draft) + rows;
    o->m.memory += o->m.draft_memory;
    if (!bounded || sum_open(v, true) + o->m.memory <= o->bound) return NULL;
    snprintf(o->m.no_draft, sizeof o->m.no_draft, "it needs %.1f MB beside the model's %.1f MB, the bound for all open models is %.1f MB",
             (double)o->m.draft_memory / 1e6, (double)o->need / 1e6, (double)o->bound / 1e6);
    o->m.memory = o->need;
    o->m.draft_memory = 0;
    o->m.draft = NULL;
    return draft;
}

/* The engines are there, and there is room for them: counted from here on. */
static void take_engines(entry *x, const opened *o) {
    x->m.engine = o->m.engine;
    x->m.draft = o->m.draft;
    x->m.draft_name = o->m.draft_name;
    x->m.draft_memory = o->m.draft_memory;
    x->m.memory = o->m.memory;
    memcpy(x->m.no_draft, o->m.no_draft, sizeof x->m.no_draft);
}

static void take_texts(entry *x, const model *from) {
    x->m.tok = from->tok;
    x->m.chat = from->chat;
    x->m.grammars = from->grammars;
    x->m.calls = from->calls;
    x->m.wants = from->wants;
    x->m.think = from->think;
    x->m.turn_end = from->turn_end;
    memcpy(x->m.no_chat, from->no_chat, sizeof x->m.no_chat);
}

/* Tells one state of the draft's file from another; 0: it is not there. */
static int64_t draft_stamp(const entry *x) {
    const char *path = base_of(x)->draft_path;
    struct stat st;
    return !path || stat(path, &st) ? 0 : (int64_t)st.st_mtime * 1000003 + (int64_t)st.st_size;
}

/* With the lock at the beginning and at the end; -1: what there is of o is to be closed. */
static int open_steps(models *v, entry *x, opened *o, err *e) {
    int faults = fault_count();
    if (look(x, e)) return -1;
    int64_t modified = x->m.modified, stamp = draft_stamp(x);
    uint64_t bytes = x->m.file_bytes;
    pthread_mutex_unlock(&v->lock);
    int rc = open_engines(v, x, 0, o, e);
    pthread_mutex_lock(&v->lock);
    if (rc) return -1;
    engine *left_out = plan(v, x, o, true);
    rc = make_room(v, x, o->m.memory, o->bound, e);
    if (!rc) take_engines(x, o);
    pthread_mutex_unlock(&v->lock);
    engine_close(left_out);
    if (!rc) rc = open_texts(&o->m, e);
    if (!rc && fault_count() != faults) rc = fail(e, "%s: became shorter while it was opened", x->m.path);
    pthread_mutex_lock(&v->lock);
    if (rc) return -1;
    take_texts(x, &o->m);
    x->spoilt = false;
    x->opened_modified = modified;
    x->opened_bytes = bytes;
    x->draft_stamp = stamp;
    return 0;
}

static int open_entry(models *v, entry *x, err *e) {
    double start = now_seconds();
    opened o = { .m.turn_end = -1 };
    err why = { 0 };
    x->state = ENTRY_OPENS;
    x->attempt++;
    int rc = open_steps(v, x, &o, &why);
    if (rc) {
        if (x->m.engine) x->state = ENTRY_CLOSES; /* it counts until it is closed */
        forget_parts(x);
        pthread_mutex_unlock(&v->lock);
        close_parts(&o.m);
        pthread_mutex_lock(&v->lock);
        fail_code(e, why.code, "%s", why.msg);
    } else {
        learn(v, x, x->m.engine);
        x->m.info = engine_about(x->m.engine);
        x->m.load_seconds = now_seconds() - start;
    }
    x->why = why;
    x->state = ENTRY_RESTS;
    pthread_cond_broadcast(&v->changed);
    return rc;
}

/* ---- holding ---- */

static double expiry(const entry *x) { return x->keep_alive < 0 ? INFINITY : now_seconds() + x->keep_alive; }

static bool draft_replaced(const entry *x) {
    int64_t now = draft_stamp(x);
    return now && now != x->draft_stamp;
}

/* A file that was replaced is opened anew once nobody works with the old one; one that is open stays so when its name is gone. */
static bool is_replaced(entry *x) {
    err unused = { 0 };
    return look(x, &unused) == 0 && (x->m.modified != x->opened_modified || x->m.file_bytes != x->opened_bytes || draft_replaced(x));
}

/* While somebody else opens or closes it. -1: it was being opened, and that failed. */
static int wait_for(models *v, entry *x, err *e) {
    uint64_t attempt = x->attempt;
    bool opens = x->state == ENTRY_OPENS;
    while (x->state != ENTRY_RESTS && x->attempt == attempt) pthread_cond_wait(&v->changed, &v->lock);
    return opens && x->attempt == attempt && x->why.code ? fail_code(e, x->why.code, "%s", x->why.msg) : 0;
}

/* Counted among its holders from the beginning: what is waited for is not closed before it is used. */
int models_hold_entry(models *v, entry *x, err *e) {
    int rc = 0;
    x->refs++;
    while (!rc && (x->state != ENTRY_RESTS || !x->m.engine || x->refs == 1)) {
        if (x->state != ENTRY_RESTS) rc = wait_for(v, x, e);
        else if (!x->m.engine) rc = open_entry(v, x, e);
        else if (x->spoilt || is_replaced(x)) models_close_entry(v, x);
        else break;
    }
    if (!rc && x->spoilt) rc = fail(e, "model '%s': its file became shorter while it was in use; it is opened anew in a moment", x->m.name);
    if (rc) return x->refs--, -1;
    x->used = ++v->clock;
    x->m.expires = expiry(x);
    return 0;
}

static void unhold(models *v, entry *x) {
    x->used = ++v->clock;
    x->m.expires = expiry(x);
    if (--x->refs == 0 && (x->keep_alive == 0 || x->spoilt)) models_close_entry(v, x);
}

static entry *find(const models *v, const char *name) {
    if (!name || !*name) {
        for (entry *x = v->first; x; x = x->next)
            if (is_listed(x)) return x;
        return NULL;
    }
    size_t n = strlen(name);
    entry *x = models_find_name(v, name, n);
    if (!x && has_ending(name, ":latest")) x = models_find_name(v, name, n -= 7);
    if (!x && n > 4 && memcmp(name + n - 4, ".bin", 4) == 0) x = models_find_name(v, name, n - 4);
    return x && (!x->gone || x->m.engine) ? x : NULL;
}

static int not_found(const models *v, const char *name, err *e) {
    buf there = { 0 };
    for (const entry *x = v->first; x && there.n < 300; x = x->next)
        if (is_listed(x)) buf_fmt(&there, "%s%s", there.n ? ", " : "", x->m.name);
    fail_code(e, MODELS_NOT_FOUND, "model '%.200s' not found; there %s%.*s", name && *name ? name : "(the first)",
              there.n ? "is: " : "are no models", (int)there.n, there.n ? there.p : "");
    buf_free(&there);
    return -1;
}

/* By its name; looked for on the disk once more before it is given up. */
static entry *find_or_scan(models *v, const char *name, err *e) {
    err unused = { 0 };
    entry *x = find(v, name);
    if (!x) models_scan(v, false, &unused), x = find(v, name);
    if (!x) not_found(v, name, e);
    return x;
}

int models_hold(models *v, const char *name, model **m, err *e) {
    *m = NULL;
    pthread_mutex_lock(&v->lock);
    entry *x = find_or_scan(v, name, e);
    int rc = x ? models_hold_entry(v, x, e) : -1;
    if (!rc) *m = &x->m;
    pthread_mutex_unlock(&v->lock);
    return rc;
}

void models_release(models *v, model *m, double keep_alive) {
    entry *x = m->state;
    pthread_mutex_lock(&v->lock);
    x->keep_alive = isnan(keep_alive) ? v->o.keep_alive : keep_alive;
    unhold(v, x);
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
    unhold(v, m->state);
    pthread_mutex_unlock(&v->lock);
}

void models_spoil(model *m) {
    pthread_mutex_lock(&m->owner->lock);
    m->state->spoilt = true;
    pthread_mutex_unlock(&m->owner->lock);
}

void models_set_work(model *m, void *work, void (*work_free)(void *work)) {
    pthread_mutex_lock(&m->owner->lock);
    m->work = work;
    m->work_free = work_free;
    pthread_mutex_unlock(&m->owner->lock);
}

/* ---- drafts ---- */

static entry *find_by_either(const models *v, const char *text) {
    entry *x = find(v, text);
    return x ? x : models_find_path(v, text);
}

static int no_such_model(const models *v, const model_draft *d, err *e) {
    int n = 0;
    err why = { 0 };
    if (d->model) return not_found(v, d->model, &why), fail_code(e, MODELS_NOT_FOUND, "draft %s=%s: %s", d->model, d->draft, why.msg);
    for (const entry *x = v->first; x; x = x->next) n += is_listed(x);
    return fail_code(e, ERR_INPUT, "draft %s: for which of the %d models? Say MODEL=%s", d->draft, n, d->draft);
}

/* Opens both for a moment: what is wrong with the draft is said at the start, not with the first request. */
static int check_draft(const models *v, const entry *x, err *e) {
    engine *g, *draft;
    err why = { 0 };
    engine_opts o = opts_of(v, x);
    o.threads = 1;
    if (engine_open(&g, &o, e)) return -1;
    const engine_info *i = engine_about(g);
    int rc = 0;
    if (!i->has_decoder || i->has_encoder)
        rc = fail_code(e, ERR_INPUT, "model '%s' takes no draft: only a model that continues text does, this is an encoder%s",
                       x->m.name, i->has_decoder ? "-decoder model" : "");
    else if (open_draft(v, x, g, &draft, &why)) rc = fail_code(e, why.code, "the draft of model '%s': %s", x->m.name, why.msg);
    else engine_close(draft);
    engine_close(g);
    return rc;
}

static entry *only_one(const models *v) {
    entry *one = NULL;
    for (entry *x = v->first; x; x = x->next) {
        if (is_listed(x) && one) return NULL;
        if (is_listed(x)) one = x;
    }
    return one;
}

static int take_draft(models *v, const model_draft *d, err *e) {
    entry *x = d->model ? find_by_either(v, d->model) : only_one(v), *y = find_by_either(v, d->draft);
    struct stat st;
    if (!x) return no_such_model(v, d, e);
    if (x->draft_path) return fail_code(e, ERR_INPUT, "model '%s' has two drafts, %s and %s: one can propose", x->m.name, x->m.draft_name, d->draft);
    if (x == y) return fail_code(e, ERR_INPUT, "model '%s' cannot be its own draft: that would save nothing", x->m.name);
    if (!y && (stat(d->draft, &st) || !S_ISREG(st.st_mode)))
        return fail_code(e, MODELS_NOT_FOUND, "draft '%s' of model '%s': expected the name of a model here, or a file that ./convert wrote",
                         d->draft, x->m.name);
    const char *path = y ? y->m.path : d->draft, *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    x->draft_path = arena_copy(&x->mem, path, strlen(path));
    x->m.draft_name = y ? y->m.name : arena_copy(&x->mem, base, strlen(base) - (has_ending(base, ".bin") ? 4 : 0));
    if (!x->draft_path || !x->m.draft_name) return fail_memory(e, strlen(path), "a draft's name");
    return check_draft(v, x, e);
}

/* ---- lists ---- */

static bool is_open(const entry *x) { return x->m.engine && x->state == ENTRY_RESTS; }

static model copy_of(const entry *x) {
    model m = x->m;
    m.engine = NULL;
    m.draft = NULL;
    m.tok = NULL;
    m.grammars = NULL;
    m.chat = NULL;
    m.work = NULL;
    m.work_free = NULL;
    m.info = is_known(x) ? x->info : NULL;
    if (!m.info) m.digest[0] = 0;
    if (!is_open(x)) m.expires = 0;
    return m;
}

int models_list(models *v, model **list, int *n, err *e) {
    err unused = { 0 };
    int count = 0;
    pthread_mutex_lock(&v->lock);
    models_scan(v, false, &unused);
    for (const entry *x = v->first; x; x = x->next) count += is_listed(x);
    *n = 0;
    *list = calloc((size_t)max_int(count, 1), sizeof **list);
    for (const entry *x = v->first; x && *list; x = x->next)
        if (is_listed(x)) (*list)[(*n)++] = copy_of(x);
    pthread_mutex_unlock(&v->lock);
    return *list ? 0 : fail_memory(e, (size_t)count * sizeof **list, "a list of models");
}

/* Opened for a moment, beside whatever is done with it, as it would be for a request: context and memory are those that a request would meet. */
static int study(models *v, entry *x, err *e) {
    opened o = { .m.turn_end = -1 };
    if (look(x, e)) return -1;
    if (is_known(x)) return 0;
    int64_t modified = x->m.modified;
    pthread_mutex_unlock(&v->lock);
    int rc = open_engines(v, x, 1, &o, e) ? -1 : open_texts(&o.m, e);
    pthread_mutex_lock(&v->lock);
    if (o.m.engine && x->m.modified == modified) {
        plan(v, x, &o, false);
        learn(v, x, o.m.engine);
        if (!x->m.engine && x->state == ENTRY_RESTS) {
            x->m.memory = o.m.memory;
            x->m.draft_name = o.m.draft_name;
        }
    }
    pthread_mutex_unlock(&v->lock);
    close_parts(&o.m);
    pthread_mutex_lock(&v->lock);
    return rc;
}

int models_describe(models *v, const char *name, bool *open, model *copy, err *e) {
    pthread_mutex_lock(&v->lock);
    entry *x = find_or_scan(v, name, e);
    int rc = !x ? -1 : is_open(x) ? 0 : study(v, x, e);
    if (!rc) {
        *open = is_open(x);
        *copy = copy_of(x);
    }
    pthread_mutex_unlock(&v->lock);
    return rc;
}

void models_expire(models *v, double now) {
    pthread_mutex_lock(&v->lock);
    for (entry *x = v->first; x; x = x->next)
        if (x->m.engine && !x->refs && now >= x->m.expires) models_close_entry(v, x);
    pthread_mutex_unlock(&v->lock);
}

uint64_t models_bytes(models *v, uint64_t *bound) {
    pthread_mutex_lock(&v->lock);
    uint64_t sum = sum_open(v, false);
    *bound = v->o.memory;
    pthread_mutex_unlock(&v->lock);
    return sum;
}
