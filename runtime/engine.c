/* engine: owns the model, the pool of threads, the cache's pages and the scratch of one batch; a session owns its tokens,
 * its page table and its last logits. It cuts work into forward passes of at most max_rows tokens. It must not know what
 * text is, how tokens are chosen, or who asks. */
#define _GNU_SOURCE
#include "runtime/saved.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/forward.h"
#include "runtime/limits.h"
#include "runtime/lora.h"

struct engine {
    model model;
    lora_set lora;
    pool *pool;
    kv_pool kv, enc_kv; /* enc_kv: group 0 the encoder's layers, 1 the decoder's cross attention */
    forward_ctx f;
    void *scratch;
    size_t scratch_bytes;
    span *spans;       /* [max_sessions] */
    float *logits;     /* [max_sessions][logits_ld] last rows; contiguous, so that a batch reads the output matrix once */
    bool *row_used;    /* [max_sessions] */
    const session *at_hand; /* whose text's rows f describes; NULL: a step's */
    int max_sessions;
    engine_info info;
};

/* A text of which hidden states are wanted, between two of its pieces. */
typedef struct text_pass {
    const int32_t *tok; /* NULL: there is none */
    int n, done;        /* its tokens; those through, or layers where it is read both ways */
    int pooling;        /* 0: the decoder will read it, no embedding is wanted */
    float *x;           /* [n][d_ld] of all rows, between two layers: the engine's own is overwritten by other sessions' steps */
    double *sum;        /* [d_model] of the rows so far, for the embedding */
    float *hidden, *out;
} text_pass;

/* Before a saved session's tokens, logits, pages and hash. */
typedef struct session_header {
    char magic[8];
    uint64_t model;     /* the model file's meta hash: another model's cache would be nonsense */
    uint64_t adapters;  /* and so would that of other adapters, or of the same at another scale */
    uint32_t kv_type, len, vocab_ld, has_logits, enc_len, reserved;
} session_header;
_Static_assert(sizeof(session_header) == 48, "session header");

typedef struct loading { /* of a session that is read in pieces: where it is */
    FILE *f;
    hash64 h;
    session_header head;
    int group, page;    /* group n_groups: of the encoder's */
} loading;

struct session {
    engine *g;
    kv_seq kv, enc;
    text_pass text;
    ids tokens;        /* what the pages hold */
    int row;           /* its row of the engine's logits */
    bool has_logits;
    loading load;
};

enum { DEFAULT_ROWS = 256, MAX_OWN_SESSIONS = 256 }; /* a file may name any number of beams */

/* ---- opening ---- */

static uint64_t memory_bytes(void) {
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    uint64_t bytes = pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 1ull << 32;
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "r");
    unsigned long long limit;
    if (f && fscanf(f, "%llu", &limit) == 1 && limit < bytes) bytes = limit;
    if (f) fclose(f);
    return bytes;
}

/* The context: what was asked for, else the model's own where its cache fits in a quarter of memory. */
static int choose_ctx(engine *g, const engine_opts *o, err *e) {
    engine_info *i = &g->info;
    int own = g->model.arch.n_ctx;
    i->model_ctx = own;
    if (o->ctx < 0) return fail(e, "--ctx: expected at least 1, found %d", o->ctx);
    if (o->ctx > own && !o->ctx_at_most)
        return fail_code(e, ERR_CONTEXT, "--ctx %d is more than this model's %d positions", o->ctx, own);
    if (o->ctx) {
        i->ctx = min_int(o->ctx, own);
        snprintf(i->ctx_reason, sizeof i->ctx_reason, "context %d, as asked, of the model's %d", i->ctx, own);
        return 0;
    }
    uint64_t per_position = i->kv_bytes_position * (uint64_t)g->max_sessions, room = memory_bytes() / 4 / (per_position ? per_position : 1);
    i->ctx = room >= (uint64_t)own ? own : max_int((int)(room / KV_PAGE * KV_PAGE), KV_PAGE);
    if (i->ctx < own)
        snprintf(i->ctx_reason, sizeof i->ctx_reason, "context %d of the model's %d: the cache gets a quarter of the memory; choose with --ctx",
                 i->ctx, own);
    else snprintf(i->ctx_reason, sizeof i->ctx_reason, "context %d, the model's own", own);
    return 0;
}

static int choose_kv_type(const arch *a, const engine_opts *o, kv_type *type, err *e) {
    bool q8 = o->cache_type && strcmp(o->cache_type, "q8") == 0;
    *type = o->exact ? KV_F32 : q8 ? KV_Q8 : KV_F16;
    if (q8 && a->head_dim > ATTN_Q8_MOST)
        return fail_code(e, ERR_INPUT, "--cache-type q8: takes heads of at most %d, this model's are %d wide; use f16", ATTN_Q8_MOST, a->head_dim);
    return 0;
}

static int open_kv(engine *g, const engine_opts *o, err *e) {
    const model *m = &g->model;
    g->kv = (kv_pool){ .n_groups = m->n_kv_groups, .n_kv_heads = m->arch.n_kv_heads, .head_dim = m->arch.head_dim };
    if (choose_kv_type(&m->arch, o, &g->kv.type, e)) return -1;
    for (int i = 0; i < m->n_kv_groups; i++) {
        g->kv.group[i].window = m->kv_group[i].window;
        g->kv.group[i].n_layers = m->kv_group[i].n_layers;
        g->info.kv_bytes_position += (uint64_t)m->kv_group[i].n_layers * (uint64_t)m->arch.n_kv_heads *
                                     kv_position_bytes(g->kv.type, m->arch.head_dim);
    }
    if (choose_ctx(g, o, e)) return -1;
    if (m->arch.n_enc_layers) { /* an encoder's text goes through in one pass */
        g->f.max_rows = max_int(g->f.max_rows, g->info.ctx);
        g->enc_kv = (kv_pool){ .n_groups = m->arch.n_layers ? 2 : 1, .n_kv_heads = m->arch.n_kv_heads,
                               .head_dim = m->arch.head_dim, .type = g->kv.type,
                               .group = { { .n_layers = m->arch.n_enc_layers }, { .n_layers = m->arch.n_layers } } };
        if (kv_pool_init(&g->enc_kv, g->max_sessions, g->info.ctx, g->f.max_rows, e)) return -1;
    }
    return kv_pool_init(&g->kv, g->max_sessions, g->info.ctx, g->f.max_rows, e);
}

static int open_scratch(engine *g, err *e) {
    carve c = { 0 };
    int rows = g->f.max_rows;
    forward_layout(&g->f, &c, rows, g->info.ctx);
    g->info.logits_ld = (int)g->f.vocab_ld;
    size_t logits = (size_t)g->max_sessions * g->f.vocab_ld * sizeof(float);
    g->scratch_bytes = c.used + logits;
    /* Anonymous pages are zero, and cost nothing until touched: a decode step uses the first row of each buffer only. */
    void *base = mmap(NULL, g->scratch_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return fail_memory(e, g->scratch_bytes, "the buffers of a forward pass");
    g->scratch = base;
    c = (carve){ base, 0 };
    forward_layout(&g->f, &c, rows, g->info.ctx);
    g->logits = carve_take(&c, logits);
    g->spans = calloc((size_t)g->max_sessions, sizeof *g->spans);
    g->row_used = calloc((size_t)g->max_sessions, sizeof *g->row_used);
    return g->spans && g->row_used ? 0 : fail_memory(e, (size_t)g->max_sessions * sizeof *g->spans, "the sessions' table");
}

static void fill_tokenizer(engine *g) {
    const file *f = &g->model.file;
    g->info.tokenizer = f->map.p + f->header->tokenizer_at;
    g->info.tokenizer_bytes = f->header->tokenizer_bytes;
    g->info.file_bytes = f->header->file_bytes;
    g->info.hash = f->header->meta_hash;
}

static void fill_info(engine *g) {
    engine_info *i = &g->info;
    const arch *a = &g->model.arch;
    fill_tokenizer(g);
    i->name = a->name;
    i->family = a->family;
    i->kernels = g->f.ops.k->name;
    i->type = wtype_name((wtype)(a->n_layers ? g->model.layers : g->model.enc_layers)[0].qkv.type);
    i->max_rows = g->f.max_rows;
    i->max_sessions = g->max_sessions;
    i->threads = pool_size(g->pool);
    i->n_vocab = a->n_vocab;
    i->n_layers = a->n_layers;
    i->n_heads = a->n_heads;
    i->n_kv_heads = a->n_kv_heads;
    i->d_model = a->d_model;
    i->d_embed = g->model.n_dense ? g->model.dense[g->model.n_dense - 1].n : a->d_model;
    i->has_encoder = a->n_enc_layers > 0;
    i->has_decoder = a->n_layers > 0;
    i->decoder_start = a->decoder_start;
    i->pooling = a->pooling;
    i->bos = a->bos;
    i->eos = a->eos;
    i->n_eos = a->n_eos;
    i->temperature = a->temperature;
    i->top_p = a->top_p;
    i->min_p = a->min_p;
    i->repeat_penalty = a->repeat_penalty;
    i->top_k = a->top_k;
    i->num_beams = a->num_beams;
    i->no_repeat_ngram = a->no_repeat_ngram_size;
    i->min_length = a->min_length;
    i->min_new_tokens = a->min_new_tokens;
    i->early_stopping = a->early_stopping;
    i->length_penalty = a->length_penalty;
    i->decode_bytes = model_decode_bytes(&g->model);
    i->macs = model_macs(&g->model, false);
    i->macs_output = model_macs(&g->model, true) - i->macs;
    i->n_adapters = g->lora.n;
    i->adapter_bytes = g->lora.bytes;
    i->adapter_warning = *g->lora.warning ? g->lora.warning : NULL;
    i->decode_bytes += g->lora.bytes;
    i->macs += g->lora.macs;
}

int engine_take_adapters(engine_opts *o, const char *const *texts, int n, arena *mem, err *e) {
    adapter *list = arena_alloc(mem, (size_t)n * sizeof *list);
    if (!list) return fail_memory(e, (size_t)n * sizeof *list, "adapters");
    for (int i = 0; i < n; i++)
        if (parse_scaled(mem, texts[i], &list[i].path, &list[i].scale, e)) return -1;
    o->adapters = list;
    o->n_adapters = n;
    return 0;
}

static int open_adapters(engine *g, const engine_opts *o, err *e) {
    for (int i = 0; i < o->n_adapters; i++)
        if (lora_open(&g->lora, &g->model, o->adapters[i].path, o->adapters[i].scale, e)) return -1;
    g->f.ops.max_ranks = g->lora.max_ranks;
    return 0;
}

static int open_vocab(engine *g, const char *path, err *e) {
    if (file_open(&g->model.file, path, e)) return -1;
    fill_tokenizer(g);
    return 0;
}

/* A copy that does not fit would push out of memory what others need, and this process with it: refused before it is read. */
static int open_model(engine *g, const engine_opts *o, err *e) {
    uint64_t bytes = file_bytes(o->path), left = memory_available();
    if (o->huge_pages && bytes > left)
        return fail_code(e, ERR_MEMORY, "%s: has %.1f MB, %.1f MB of memory are available: it cannot be copied "
                                        "to huge pages; leave --huge-pages out, the mapping reads what it needs",
                         o->path, (double)bytes / 1e6, (double)left / 1e6);
    if (model_open(&g->model, o->path, o->huge_pages, e)) return -1;
    if (bytes > left) map_in_order(&g->model.file.map);
    return o->lock ? file_lock(&g->model.file, e) : 0;
}

int engine_check(const engine_opts *o, err *e) {
    bool known = !o->cache_type || strcmp(o->cache_type, "q8") == 0 || strcmp(o->cache_type, "f16") == 0;
    if (o->threads < 0 || o->threads > POOL_MAX) return fail_code(e, ERR_INPUT, "threads: expected 1 to %d, found %d", POOL_MAX, o->threads);
    if (!known) return fail_code(e, ERR_INPUT, "--cache-type: expected f16 or q8, found \"%.40s\"", o->cache_type);
    if (o->cache_type && o->exact)
        return fail_code(e, ERR_INPUT, "--cache-type %s: --exact keeps its cache in f32; leave one of them out", o->cache_type);
    return kernels_init(o->kernels, e);
}

int engine_open(engine **out, const engine_opts *o, err *e) {
    engine *g = calloc(1, sizeof *g);
    *out = NULL;
    if (!g) return fail_memory(e, sizeof *g, "an engine");
    if (o->vocab_only) {
        if (open_vocab(g, o->path, e)) goto failed;
        *out = g;
        return 0;
    }
    if (engine_check(o, e)) goto failed;
    int threads = o->threads ? o->threads : pool_default_threads(g->info.threads_reason, sizeof g->info.threads_reason);
    if (o->threads) snprintf(g->info.threads_reason, sizeof g->info.threads_reason, "%d thread%s, as asked", threads, threads == 1 ? "" : "s");
    if (open_model(g, o, e) || pool_new(&g->pool, threads, e)) goto failed;
    g->max_sessions = max_int(o->max_sessions < 0 ? min_int(g->model.arch.num_beams, MAX_OWN_SESSIONS) : o->max_sessions, 1);
    g->f.max_rows = max_int(o->max_rows ? o->max_rows : DEFAULT_ROWS, g->max_sessions);
    g->f.model = &g->model;
    g->info.exact = o->exact;
    g->f.ops = (exec){ .k = kernels_get(), .pool = g->pool, .exact = o->exact };
    if (open_adapters(g, o, e) || open_kv(g, o, e)) goto failed;
    g->info.rope_long = model_choose_ropes(&g->model, g->info.ctx);
    if (model_expand_biases(&g->model, g->info.ctx, e) || open_scratch(g, e)) goto failed;
    fill_info(g);
    *out = g;
    return 0;
failed:
    engine_close(g);
    return -1;
}

void engine_close(engine *g) {
    if (!g) return;
    if (g->scratch) munmap(g->scratch, g->scratch_bytes);
    free(g->spans);
    free(g->row_used);
    kv_pool_free(&g->kv);
    kv_pool_free(&g->enc_kv);
    pool_free(g->pool);
    lora_close(&g->lora);
    model_close(&g->model);
    free(g);
}

const engine_info *engine_about(const engine *g) { return &g->info; }

bool engine_maps(const engine *g, const void *p) { return mapping_has(&g->model.file.map, p) || lora_maps(&g->lora, p); }

static void add_pool(const kv_pool *p, engine_memory *m) {
    for (int i = 0; i < p->n_groups; i++) {
        m->kv += (uint64_t)p->group[i].n_pages * p->group[i].page_bytes;
        m->tables += (uint64_t)p->group[i].n_pages * (sizeof *p->group[i].refs + sizeof *p->group[i].free_page + sizeof(void *));
    }
}

engine_memory engine_plan(const engine *g) {
    engine_memory m = { .weights = g->info.file_bytes + g->lora.file_bytes, .kv_position = g->info.kv_bytes_position, .scratch = g->scratch_bytes,
                        .machine = memory_bytes(), .kv_type = kv_type_name(g->kv.type) };
    m.looked_up = model_table_bytes(&g->model, &m.looked_up_row);
    add_pool(&g->kv, &m);
    add_pool(&g->enc_kv, &m);
    if (g->info.has_encoder) m.scratch += (uint64_t)g->max_sessions * (uint64_t)g->info.ctx * g->f.d_ld * sizeof(float);
    m.tables += g->model.mem.used;
    return m;
}

size_t engine_kv_bytes(const engine *g) { return kv_pool_bytes_used(&g->kv) + kv_pool_bytes_used(&g->enc_kv); }

uint64_t engine_kv_read_bytes(const engine *g, int pos) {
    const arch *a = &g->model.arch;
    uint64_t positions = 0; /* of all layers */
    for (int l = 0; l < a->n_layers; l++) positions += (uint64_t)(pos + 1 - kv_first(a->window[l], pos));
    return positions * (uint64_t)a->n_kv_heads * kv_position_bytes(g->kv.type, a->head_dim);
}

void engine_set_stop(engine *g, atomic_bool *stop) { g->f.stop = stop; }

void engine_set_tap(engine *g, tap_fn *tap, void *arg) {
    g->f.tap = tap;
    g->f.tap_arg = arg;
}

/* ---- the limit ---- */

typedef struct read_task {
    const engine *g;
    int n_tasks;
    _Atomic uint64_t bytes, sum;
} read_task;

static void read_share(const read_task *t, const mat *w, int task, uint64_t *bytes, uint64_t *sum) {
    uint64_t all = 0;
    if (!w->data || matrix_bytes((wtype)w->type, (wlayout)w->layout, (uint64_t)w->n, (uint64_t)w->k, &all)) return;
    size_t from = (size_t)(all * (uint64_t)task / (uint64_t)t->n_tasks) / 256 * 256,
           to = (size_t)(all * ((uint64_t)task + 1) / (uint64_t)t->n_tasks) / 256 * 256;
    *sum ^= t->g->f.ops.k->probe_read((const char *)w->data + from, to - from);
    *bytes += to - from;
}

static void read_weights(void *arg, int task, int worker) {
    (void)worker;
    read_task *t = arg;
    const model *m = &t->g->model;
    uint64_t bytes = 0, sum = 0;
    for (int l = 0; l < m->arch.n_layers; l++) {
        const layer *w = &m->layers[l];
        const mlp_weights *mlp = w->experts ? w->experts : &w->mlp; /* of a mixture, as many experts as a token uses */
        const mat *const mats[] = { &w->qkv, &w->attn_out, &w->shared.gate_up, &w->shared.up, &w->shared.down };
        for (size_t i = 0; i < sizeof mats / sizeof *mats; i++) read_share(t, mats[i], task, &bytes, &sum);
        for (int i = 0; i < (w->experts ? m->arch.n_used : 1); i++) {
            read_share(t, &mlp[i].gate_up, task, &bytes, &sum);
            read_share(t, &mlp[i].up, task, &bytes, &sum);
            read_share(t, &mlp[i].down, task, &bytes, &sum);
        }
    }
    read_share(t, &m->output, task, &bytes, &sum);
    atomic_fetch_add(&t->bytes, bytes);
    atomic_fetch_xor(&t->sum, sum);
}

uint64_t engine_read_weights(engine *g) {
    read_task t = { .g = g, .n_tasks = pool_size(g->pool) };
    pool_run(g->pool, read_weights, &t, t.n_tasks);
    return atomic_load(&t.bytes);
}

double engine_read_rate(engine *g, double seconds) {
    read_task t = { .g = g, .n_tasks = pool_size(g->pool) };
    double bytes = (double)engine_read_weights(g); /* from the disk, if need be */
    return pool_best_rate(g->pool, read_weights, &t, t.n_tasks, bytes, seconds, seconds / 5);
}

int engine_memory_rate(engine *g, double seconds, double *bytes_per_second, err *e) {
    limits l = { 0 };
    if (limits_read(g->pool, g->f.ops.k, seconds, &l, e)) return -1;
    *bytes_per_second = l.read;
    return 0;
}

void engine_work(const engine *g, uint64_t *bytes, uint64_t *macs) {
    *bytes = g->f.ops.bytes;
    *macs = g->f.ops.macs;
}

engine_peaks engine_measure_peaks(engine *g, double seconds) {
    limits l = { 0 };
    limits_peaks(g->pool, g->f.ops.k, seconds / 3, &l);
    return (engine_peaks){ l.f32, l.int8, l.bf16 };
}

/* ---- sessions ---- */

int session_new(session **out, engine *g, err *e) {
    *out = NULL;
    int row = 0;
    while (row < g->max_sessions && g->row_used[row]) row++;
    if (row == g->max_sessions) return fail(e, "all %d sessions of this engine are in use", g->max_sessions);
    session *s = calloc(1, sizeof *s);
    if (!s) return fail_memory(e, sizeof *s, "a session");
    if (kv_seq_init(&s->kv, &g->kv, g->info.ctx, e) || kv_seq_init(&s->enc, &g->enc_kv, g->info.ctx, e)) {
        kv_seq_free(&s->kv);
        free(s);
        return -1;
    }
    s->g = g;
    s->row = row;
    g->row_used[row] = true;
    *out = s;
    return 0;
}

/* Its text is done, or given up. */
static void end_text(session *s) {
    free_aligned(s->text.x);
    s->text = (text_pass){ 0 };
    if (s->g->at_hand == s) s->g->at_hand = NULL;
}

void session_free(session *s) {
    if (!s) return;
    end_text(s);
    s->g->row_used[s->row] = false;
    kv_seq_free(&s->kv);
    kv_seq_free(&s->enc);
    ids_free(&s->tokens);
    free(s);
}

int session_len(const session *s) { return s->kv.len; }
const int32_t *session_tokens(const session *s) { return s->tokens.p; }
static float *logits_row(const session *s) { return s->g->logits + (size_t)s->row * s->g->f.vocab_ld; }
const float *session_logits(const session *s) { return s->has_logits ? logits_row(s) : NULL; }

int session_truncate(session *s, int n) {
    if (n >= s->kv.len) return s->kv.len;
    s->tokens.n = (size_t)kv_truncate(&s->kv, max_int(n, 0));
    s->has_logits = false;
    return s->kv.len;
}

/* n tokens after len others: do they fit, and are they tokens? */
static int check_tokens(const engine *g, const int32_t *tok, int n, int len, err *e) {
    if (n > g->info.ctx - len)
        return fail_code(e, ERR_CONTEXT, "context_length_exceeded: %d tokens are needed, the context holds %d (the model's own is %d)",
                         len + n, g->info.ctx, g->info.model_ctx);
    for (int i = 0; i < n; i++)
        if (tok[i] < 0 || tok[i] >= g->info.n_vocab)
            return fail_code(e, ERR_INPUT, "token id %d at position %d: this model's ids are 0 to %d", tok[i], len + i, g->info.n_vocab - 1);
    return 0;
}

static int check_step(const engine *g, const step *st, err *e) {
    if (!g->info.has_decoder) return fail(e, "%s is an encoder: it gives embeddings, it does not generate", g->info.name);
    if (g->info.has_encoder && st->s->enc.len == 0)
        return fail_code(e, ERR_INPUT, "%s is an encoder and decoder: the encoder's input comes first", g->info.name);
    return check_tokens(g, st->tok, st->n, st->s->kv.len, e);
}

/* The spans of one forward pass: from each step what is left of it, up to max_rows tokens; done[i] counts its tokens so far.
 * Steps that only want their last row and have it in this pass write to the session's own row. */
static int next_pass(engine *g, const step *steps, const int *done, int n_steps, span *spans, int *which) {
    int n_spans = 0, rows = 0;
    for (int i = 0; i < n_steps && rows < g->f.max_rows; i++) {
        int left = steps[i].n - done[i], n = min_int(left, g->f.max_rows - rows);
        if (!n) continue;
        span *sp = &spans[n_spans];
        *sp = (span){ .seq = &steps[i].s->kv, .tok = steps[i].tok + done[i], .n = n, .cross = g->info.has_encoder ? &steps[i].s->enc : NULL };
        if (steps[i].logits) {
            sp->out = OUT_ALL;
            sp->dst = steps[i].logits + (size_t)done[i] * g->f.vocab_ld;
        } else if (n == left) {
            sp->out = OUT_LAST;
            sp->dst = logits_row(steps[i].s);
        }
        which[n_spans++] = i;
        rows += n;
    }
    return n_spans;
}

static void undo(const step *steps, const int *before, int n_steps) {
    for (int i = 0; i < n_steps; i++) {
        steps[i].s->tokens.n = (size_t)before[i];
        session_truncate(steps[i].s, before[i]);
        steps[i].s->tokens.n = (size_t)steps[i].s->kv.len;
    }
}

static int run_passes(engine *g, const step *steps, int *done, int *which, int n_steps, err *e) {
    g->at_hand = NULL;
    for (int n_spans; (n_spans = next_pass(g, steps, done, n_steps, g->spans, which)) > 0;) {
        for (int i = 0; i < n_spans; i++)
            if (kv_reserve(g->spans[i].seq, g->spans[i].n, e)) return -1;
        if (!forward(&g->f, g->spans, n_spans)) return fail_code(e, ERR_STOPPED, "stopped");
        for (int i = 0; i < n_spans; i++) done[which[i]] += g->spans[i].n;
    }
    return 0;
}

static void finish_step(const engine *g, const step *st) {
    session *s = st->s;
    if (st->n == 0) return;
    if (st->logits) memcpy(logits_row(s), st->logits + (size_t)(st->n - 1) * g->f.vocab_ld, g->f.vocab_ld * sizeof(float));
    s->has_logits = true;
}

int engine_step(engine *g, const step *steps, int n_steps, err *e) {
    enum { SMALL = 64 };
    int few[3 * SMALL], *mem = n_steps <= SMALL ? few : malloc(3 * (size_t)n_steps * sizeof *mem), rc = 0;
    if (!mem) return fail_memory(e, 3 * (size_t)n_steps * sizeof *mem, "a step");
    int *done = mem, *which = mem + n_steps, *before = mem + 2 * n_steps;
    for (int i = 0; i < n_steps; i++) {
        done[i] = 0;
        before[i] = steps[i].s->kv.len;
        if (!rc) rc = check_step(g, &steps[i], e);
    }
    for (int i = 0; i < n_steps && !rc; i++) {
        session *s = steps[i].s;
        for (int j = 0; j < steps[i].n; j++) ids_add(&s->tokens, steps[i].tok[j]);
        if (s->tokens.failed) {
            s->tokens.failed = false;
            rc = fail_memory(e, s->tokens.cap * 8, "a session's tokens");
        }
    }
    if (!rc) rc = run_passes(g, steps, done, which, n_steps, e);
    if (rc) undo(steps, before, n_steps);
    else
        for (int i = 0; i < n_steps; i++) finish_step(g, &steps[i]);
    if (mem != few) free(mem);
    return rc;
}

int session_sync(session *s, const int32_t *tok, int n, err *e) {
    int same = 0;
    if (n < 1) return fail_code(e, ERR_INPUT, "an empty prompt: at least one token is needed");
    while (same < n && same < s->kv.len && s->tokens.p[same] == tok[same]) same++;
    if (same == n && s->kv.len == n && s->has_logits) return 0;
    if (same == n) same--; /* its logits are wanted: compute the last token once more, to the same bits */
    if (n > s->g->info.ctx) return check_step(s->g, &(step){ s, tok + s->kv.len, n - s->kv.len, NULL }, e); /* before anything is forgotten */
    same = session_truncate(s, same);
    return engine_step(s->g, &(step){ s, tok + same, n - same, NULL }, 1, e);
}

/* ---- texts whose hidden states are wanted ---- */

/* Nothing held, and nothing reserved. */
static void empty_session(session *s) {
    end_text(s);
    session_truncate(s, 0);
    kv_truncate(&s->enc, 0);
    for (int i = 0; i < s->g->kv.n_groups; i++) kv_drop_group(&s->kv, i);
    for (int i = 0; i < s->g->enc_kv.n_groups; i++) kv_drop_group(&s->enc, i);
}

static int begin_text(session *s, const text_pass *t, err *e) {
    engine *g = s->g;
    size_t x = g->info.has_encoder ? (size_t)t->n * g->f.d_ld * sizeof(float) : 0, sum = round_up((size_t)g->info.d_model, GROUP) * sizeof(double);
    if (t->n < 1) return fail_code(e, ERR_INPUT, "an empty text: at least one token is needed");
    if (check_tokens(g, t->tok, t->n, 0, e)) return -1;
    empty_session(s);
    float *mem = alloc_aligned(x + sum);
    if (!mem) return fail_memory(e, x + sum, "a text between two layers");
    memset(mem, 0, x + sum);
    s->text = *t;
    s->text.x = mem;
    s->text.sum = (double *)(void *)((char *)mem + x);
    if (!g->info.has_encoder || kv_reserve(&s->enc, t->n, e) == 0) return 0;
    empty_session(s);
    return -1;
}

int session_encode_begin(session *s, const int32_t *tok, int n, float *hidden, err *e) {
    if (!s->g->info.has_encoder) return fail(e, "%s has no encoder", s->g->info.name);
    return begin_text(s, &(text_pass){ .tok = tok, .n = n, .hidden = hidden }, e);
}

int session_embed_begin(session *s, const int32_t *tok, int n, int pooling, float *out, err *e) {
    const engine_info *i = &s->g->info;
    if (pooling == 0) pooling = i->pooling;
    if (pooling == 0)
        return fail_code(e, ERR_INPUT, "%s does not say how its hidden states become an embedding: choose with --pooling first, mean or last",
                         i->name);
    return begin_text(s, &(text_pass){ .tok = tok, .n = n, .pooling = pooling, .out = out }, e);
}

/* What becomes of an encoder's output. */
static void use_hidden(session *s, const float *hidden) {
    const engine *g = s->g;
    text_pass *t = &s->text;
    size_t bytes = (size_t)t->n * g->f.d_ld * sizeof *hidden;
    if (t->pooling) ops_pool(t->sum, hidden, g->f.d_ld, 0, t->n, g->info.d_model, t->pooling);
    if (t->hidden) memcpy(t->hidden, hidden, bytes);
    if (hidden != t->x) memcpy(t->x, hidden, bytes); /* for the decoder's layers */
}

/* The next layer of the encoder over all rows; behind its last, keys and values for the decoder's next layer. */
static bool encoder_piece(session *s, int n_layers) {
    forward_ctx *f = &s->g->f;
    text_pass *t = &s->text;
    float *own = f->x;
    bool went = true;
    if (s->g->at_hand != s) forward_take(f, &(span){ .seq = &s->enc, .tok = t->tok, .n = t->n }, true);
    s->g->at_hand = s;
    f->x = t->x;
    if (t->done == 0) forward_enter(f);
    if (t->done < n_layers) went = forward_layer(f, t->done);
    else forward_cross(f, t->x, t->done - n_layers);
    if (went && t->done == n_layers - 1) use_hidden(s, forward_leave(f));
    f->x = own;
    t->done += went;
    return went;
}

/* The next n tokens of a text that is read from left to right, through all layers. */
static bool decoder_piece(session *s, int n) {
    forward_ctx *f = &s->g->f;
    text_pass *t = &s->text;
    s->g->at_hand = NULL;
    forward_take(f, &(span){ .seq = &s->kv, .tok = t->tok + t->done, .n = n }, false);
    forward_enter(f);
    for (int l = 0; l < s->g->info.n_layers; l++)
        if (!forward_layer(f, l)) return false;
    ops_pool(t->sum, forward_leave(f), f->d_ld, t->done, n, s->g->info.d_model, t->pooling);
    kv_advance(&s->kv, n);
    t->done += n;
    return true;
}

/* out[d_embed]: the pooled hidden state, through the matrices behind, at the end scaled to length 1 where the model says so. */
static int give_embedding(session *s, err *e) {
    engine *g = s->g;
    const model *m = &g->model;
    const text_pass *t = &s->text;
    int n = t->pooling == 2 ? t->n : 1, d = m->arch.d_model;
    size_t wide = round_up((size_t)d, GROUP);
    for (int i = 0; i < m->n_dense; i++) wide = wide > (size_t)m->dense[i].n ? wide : round_up((size_t)m->dense[i].n, GROUP);
    if (!m->n_dense) return ops_pooled(t->sum, n, d, m->arch.normalize, t->out), 0;
    double *sum = alloc_aligned(wide * sizeof *sum + 2 * wide * sizeof(float));
    if (!sum) return fail_memory(e, wide * sizeof *sum + 2 * wide * sizeof(float), "an embedding");
    float *x = (float *)(sum + wide), *y = x + wide;
    memset(x, 0, wide * sizeof *x);
    ops_pooled(t->sum, n, d, false, x);
    for (int i = 0; i < m->n_dense; i++) {
        float *from = i % 2 ? y : x, *to = i % 2 ? x : y;
        memset(to, 0, wide * sizeof *to);
        acts in = ops_rows(from, wide, 1, m->dense[i].k);
        ops_matmul(&g->f.ops, &m->dense[i], &in, to, wide);
        d = m->dense[i].n;
        if (m->arch.dense_tanh >> i & 1) g->f.ops.k->softcap(to, 1, d); /* cap 1: tanh */
        if (i == m->n_dense - 1) ops_pool(sum, to, wide, 0, 1, d, 1);
    }
    ops_pooled(sum, 1, d, m->arch.normalize, t->out);
    free_aligned(sum);
    return 0;
}

/* Of an encoder: what its decoder reads stays, and nothing of an embedding's text. */
static int finish_text(session *s, err *e) {
    int n = s->text.n, rc = s->text.pooling ? give_embedding(s, e) : 0;
    bool keep = s->text.pooling == 0;
    if (!keep || rc) return empty_session(s), rc;
    end_text(s);
    kv_advance(&s->enc, n);
    kv_drop_group(&s->enc, 0); /* only the encoder's own layers read it */
    return 0;
}

int session_piece(session *s, int most, double *did, err *e) {
    const engine_info *i = &s->g->info;
    text_pass *t = &s->text;
    int layers = s->g->model.arch.n_enc_layers, all = i->has_encoder ? layers + (t->pooling ? 0 : i->n_layers) : t->n;
    int n = i->has_encoder ? 1 : min_int(min_int(max_int(most, 1), all - t->done), i->max_rows);
    *did = 0;
    if (!t->tok) return fail(e, "no text has been begun in this session");
    if (!i->has_encoder && kv_reserve(&s->kv, n, e)) return empty_session(s), -1;
    alloc_guard(true);
    bool went = i->has_encoder ? encoder_piece(s, layers) : decoder_piece(s, n);
    alloc_guard(false);
    if (!went) return empty_session(s), fail_code(e, ERR_STOPPED, "stopped");
    *did = (double)n * t->n / all;
    return t->done < all ? 1 : finish_text(s, e);
}

static int whole_text(session *s, err *e) {
    double did;
    int rc;
    while ((rc = session_piece(s, s->g->info.max_rows, &did, e)) > 0) continue;
    return rc;
}

int session_encode(session *s, const int32_t *tok, int n, float *hidden, err *e) {
    return session_encode_begin(s, tok, n, hidden, e) ? -1 : whole_text(s, e);
}

int session_embed(session *s, const int32_t *tok, int n, int pooling, float *out, err *e) {
    return session_embed_begin(s, tok, n, pooling, out, e) ? -1 : whole_text(s, e);
}

int session_fork(session *dst, const session *src, err *e) {
    if (dst == src) return 0;
    ids copy = { 0 };
    for (int i = 0; i < src->kv.len; i++) ids_add(&copy, src->tokens.p[i]);
    int rc = copy.failed ? fail_memory(e, (size_t)src->kv.len * 4, "a forked session") : 0;
    if (rc || kv_fork(&dst->kv, &src->kv, e) || kv_fork(&dst->enc, &src->enc, e)) return ids_free(&copy), -1;
    ids_free(&dst->tokens);
    dst->tokens = copy;
    dst->has_logits = src->has_logits;
    if (src->has_logits) memcpy(logits_row(dst), logits_row(src), src->g->f.vocab_ld * sizeof(float));
    return 0;
}

/* ---- saving: header, tokens, logits, pages, hash of all ---- */

static session_header header_of(const session *s) {
    return (session_header){ .magic = "QUERNSES", .model = s->g->model.file.header->meta_hash, .adapters = s->g->lora.hash,
                             .kv_type = (uint32_t)s->g->kv.type, .len = (uint32_t)s->kv.len,
                             .vocab_ld = (uint32_t)s->g->f.vocab_ld, .has_logits = s->has_logits, .enc_len = (uint32_t)s->enc.len };
}

uint64_t engine_cache_key(const engine *g) {
    uint64_t parts[] = { g->model.file.header->meta_hash, g->lora.hash, (uint64_t)g->kv.type, g->f.vocab_ld };
    return hash_bytes(parts, sizeof parts);
}

static int put(FILE *f, hash64 *h, const void *p, size_t n, err *e) {
    hash_add(h, p, n);
    return n == 0 || fwrite(p, 1, n, f) == n ? 0 : fail(e, "saving the session failed: %s", strerror(errno));
}

static int get(FILE *f, hash64 *h, void *p, size_t n, err *e) {
    if (n && fread(p, 1, n, f) != n) return fail(e, "the saved session is cut short");
    hash_add(h, p, n);
    return 0;
}

int session_save(const session *s, FILE *f, err *e) {
    hash64 h;
    hash_begin(&h);
    session_header head = header_of(s);
    if (put(f, &h, &head, sizeof head, e) || put(f, &h, s->tokens.p, (size_t)head.len * 4, e)) return -1;
    if (s->has_logits && put(f, &h, logits_row(s), s->g->f.vocab_ld * sizeof(float), e)) return -1;
    for (int i = 0; i < s->g->kv.n_groups; i++)
        if (kv_save(&s->kv, i, f, &h, e)) return -1;
    if (s->enc.len && kv_save(&s->enc, 1, f, &h, e)) return -1;
    uint64_t sum = hash_end(&h);
    if (put(f, &h, &sum, sizeof sum, e)) return -1;
    return fflush(f) ? fail(e, "saving the session failed: %s", strerror(errno)) : 0;
}

/* What a head says, against this session. */
static int check_head(const session *s, session_header head, err *e) {
    session_header want = header_of(s);
    if (memcmp(head.magic, want.magic, 8)) return fail(e, "not a saved session");
    if (head.model != want.model) return fail(e, "the session was saved with another model");
    if (head.adapters != want.adapters)
        return fail(e, "the session was saved with %s adapters; open the model with the adapters, order and scales it was saved with",
                    head.adapters == 0 ? "no" : want.adapters == 0 ? "LoRA" : "other");
    if (head.kv_type > KV_Q8) return fail(e, "the saved session is damaged");
    if (head.kv_type != want.kv_type)
        return fail(e, "the session was saved with a cache of %s, this one is of %s: open the model %s",
                    kv_type_name((kv_type)head.kv_type), kv_type_name(s->g->kv.type),
                    head.kv_type == KV_F32 ? "with --exact" : head.kv_type == KV_Q8 ? "with --cache-type q8"
                                           : "without --exact and with --cache-type f16");
    if (head.vocab_ld != want.vocab_ld || head.has_logits > 1 || head.reserved || (head.enc_len && !s->g->info.has_encoder))
        return fail(e, "the saved session is damaged");
    if (head.len > (uint32_t)s->g->info.ctx || head.enc_len > (uint32_t)s->g->info.ctx)
        return fail_code(e, ERR_CONTEXT, "the saved session holds %u tokens, the context %d; use a larger --ctx",
                         head.len > head.enc_len ? head.len : head.enc_len, s->g->info.ctx);
    return 0;
}

static int load_front(session *s, err *e) {
    loading *l = &s->load;
    if (get(l->f, &l->h, &l->head, sizeof l->head, e) || check_head(s, l->head, e)) return -1;
    for (uint32_t i = 0; i < l->head.len; i++) {
        int32_t id;
        if (get(l->f, &l->h, &id, sizeof id, e)) return -1;
        ids_add(&s->tokens, id);
    }
    if (s->tokens.failed) return fail_memory(e, (size_t)l->head.len * 4, "a session's tokens");
    return l->head.has_logits ? get(l->f, &l->h, logits_row(s), s->g->f.vocab_ld * sizeof(float), e) : 0;
}

static int load_end(session *s, err *e) {
    loading *l = &s->load;
    uint64_t sum, found = hash_end(&l->h);
    if (get(l->f, &l->h, &sum, sizeof sum, e)) return -1;
    if (sum != found) return fail(e, "the saved session is damaged: its hash does not match");
    s->kv.len = (int)l->head.len;
    s->enc.len = (int)l->head.enc_len;
    s->has_logits = l->head.has_logits;
    return 0;
}

/* Back to an empty session: a half loaded one is none. */
static void forget_load(session *s) {
    int ctx = s->g->info.ctx;
    err again = { 0 };
    kv_seq_free(&s->kv);
    kv_seq_free(&s->enc);
    s->tokens.n = 0;
    s->tokens.failed = false;
    if (kv_seq_init(&s->kv, &s->g->kv, ctx, &again) || kv_seq_init(&s->enc, &s->g->enc_kv, ctx, &again)) s->kv.cap = 0;
}

int session_load_begin(session *s, FILE *f, err *e) {
    session_truncate(s, 0);
    kv_truncate(&s->enc, 0);
    s->has_logits = false;
    s->tokens.n = 0;
    s->load = (loading){ .f = f };
    hash_begin(&s->load.h);
    if (load_front(s, e) == 0) return 0;
    return forget_load(s), -1;
}

int session_load_piece(session *s, size_t most, err *e) {
    loading *l = &s->load;
    int n_groups = s->g->kv.n_groups, rc = 0;
    for (size_t bytes = 0; rc == 0 && l->group <= n_groups && bytes < most;) {
        bool enc = l->group == n_groups;
        int len = (int)(enc ? l->head.enc_len : l->head.len);
        rc = len ? kv_load(enc ? &s->enc : &s->kv, enc ? 1 : l->group, len, &l->page, most - bytes, l->f, &l->h, &bytes, e) : 1;
        if (rc == 1) l->group++, l->page = 0, rc = 0;
    }
    if (rc == 0 && l->group <= n_groups) return 1;
    if (rc == 0 && load_end(s, e) == 0) return 0;
    return forget_load(s), -1;
}

int session_load(session *s, FILE *f, err *e) {
    int rc = session_load_begin(s, f, e) ? -1 : 1;
    while (rc == 1) rc = session_load_piece(s, SIZE_MAX, e);
    return rc;
}
