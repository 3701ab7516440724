/* bench/model: measures. A row is a median over repeats: a prompt of so many tokens (pp), so many decode steps of some sequences at
 * once (tg), or one step that checks so many drafted tokens (verify), after so many tokens of context. It computes over made-up
 * token ids, so a file needs no tokenizer. Contexts are restored outside the clock, and every sequence of a batch has its own copy of
 * it, as sequences of different users would. Several subjects (files, numbers of threads) take turns: each repeat of a row is done
 * by all of them before the next, so that a noisy moment meets them alike.
 * What a row must at least read: all weights once a forward pass, the cache that its attention sees once a pass and sequence;
 * what it computes: its matrices, without attention. It must not know how a model computes. */
#define _GNU_SOURCE
#include "bench/model.h"
#include "runtime/saved.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/explain.h"

enum { MOST_PAIRS = 16 }; /* of a step that checks and a step of one token, in one repeat */
enum { READ_EVERY = 8 };  /* decode steps; then the weights are only read, once */

/* A subject's engine and what its rows need. */
typedef struct lane {
    bench_subject *subject;
    engine *g;
    session **s;  /* [sequences] */
    step *steps;  /* [sequences] */
    int32_t *tok; /* [positions + sequences] made-up ids */
    float *logits; /* [drafted tokens + 1][logits_ld] */
    char *saved;  /* the context of the rows under way, as session_save wrote it; NULL: not yet needed */
    size_t n_saved;
    double *seconds;       /* [repeats] */
    double *beside;        /* [repeats] of what takes turns with the row: seconds of a step of one token; a byte of the weights, only read */
    double *starts;        /* [2][repeats] of fresh processes: warm, cold */
    double kept;           /* the most that the system kept of the file when it should forget it */
    explain *x;            /* of the row under way; NULL: not asked for */
} lane;

struct bench {
    const bench_plan *plan;
    bench_report *report;
    lane lanes[BENCH_SUBJECTS];
    int n, positions, sequences; /* subjects; of context and of sessions that rows need */
    arena mem; /* of adapters' names */
};

static int largest(const bench_list *l) {
    int most = 0;
    for (int i = 0; i < l->n; i++) most = max_int(most, l->v[i]);
    return most;
}

/* ---- opening ---- */

static int refuse_context(const bench *b, int have, const char *whose, err *e) {
    const bench_plan *p = b->plan;
    char drafts[40] = "";
    if (largest(&p->drafts)) snprintf(drafts, sizeof drafts, " or --draft-n %d", largest(&p->drafts));
    return fail_code(e, ERR_CONTEXT, "--depth %d and then -p %d or -n %d%s need a context of %d, %s has %d: choose smaller ones%s",
                     largest(&p->depths), largest(&p->prompts), p->steps, drafts, b->positions, whose, have,
                     p->engine.ctx ? ", or a larger --ctx" : "");
}

/* Opens the engine with just the context that the rows need, or says that the model has less. */
static int open_engine(const bench *b, lane *l, err *e) {
    engine_opts o = b->plan->engine;
    o.path = l->subject->path;
    o.threads = l->subject->threads;
    o.max_sessions = b->sequences;
    if (o.ctx && o.ctx < b->positions) return refuse_context(b, o.ctx, "--ctx", e);
    if (!o.ctx) o.ctx = b->positions;
    if (engine_open(&l->g, &o, e) == 0) return 0;
    if (e->code != ERR_CONTEXT || b->plan->engine.ctx) return -1;
    err other = { 0 };
    o.ctx = o.max_sessions = 1;
    if (engine_open(&l->g, &o, &other)) return -1;
    *e = (err){ 0 };
    return refuse_context(b, engine_about(l->g)->model_ctx, "this model", e);
}

static int check_memory(const bench *b, err *e) {
    uint64_t need = 0, have = memory_available();
    for (int i = 0; i < b->n; i++) need += engine_kv_read_bytes(b->lanes[i].g, b->positions - 1); /* far from overflowing: one sequence each */
    if (mul_overflows(need, (uint64_t)b->sequences + (b->sequences > 1), &need) || need > have)
        return fail_code(e, ERR_MEMORY, "%d sequences of %d tokens need %.1f GB of cache, %.1f are free: lower --batch or --depth",
                         b->n * b->sequences, b->positions, (double)need / 1e9, (double)have / 1e9);
    return 0;
}

static int alloc_lane(const bench *b, lane *l, err *e) {
    size_t n_tok = (size_t)b->positions + (size_t)b->sequences, repeats = (size_t)b->plan->repeats;
    size_t n_logits = ((size_t)largest(&b->plan->drafts) + 1) * (size_t)l->subject->info->logits_ld;
    l->s = calloc((size_t)b->sequences, sizeof *l->s);
    l->steps = calloc((size_t)b->sequences, sizeof *l->steps);
    l->tok = calloc(n_tok, sizeof *l->tok);
    l->seconds = calloc(repeats, sizeof *l->seconds);
    l->beside = calloc(repeats, sizeof *l->beside);
    l->logits = b->plan->drafts.n ? alloc_aligned(n_logits * sizeof *l->logits) : NULL;
    if (!l->s || !l->steps || !l->tok || !l->seconds || !l->beside || (b->plan->drafts.n && !l->logits))
        return fail_memory(e, n_tok * sizeof *l->tok + n_logits * sizeof *l->logits, "tokens and logits");
    for (size_t t = 0; t < n_tok; t++) l->tok[t] = (int32_t)((t * 7919 + 13) % (size_t)l->subject->info->n_vocab);
    for (int k = 0; k < b->sequences; k++)
        if (session_new(&l->s[k], l->g, e)) return -1;
    return 0;
}

static int open_lanes(bench *b, err *e) {
    for (int i = 0; i < b->n; i++) {
        lane *l = &b->lanes[i];
        if (open_engine(b, l, e)) return -1;
        const engine_info *info = l->subject->info = engine_about(l->g);
        if (!info->has_decoder) return fail(e, "%s has no decoder: there is no next token to time", l->subject->path);
        if (info->adapter_warning) fprintf(stderr, "bench/model: warning: %s\n", info->adapter_warning);
    }
    if (check_memory(b, e)) return -1;
    for (int i = 0; i < b->n; i++)
        if (alloc_lane(b, &b->lanes[i], e)) return -1;
    return 0;
}

static void close_lane(lane *l, int sequences) {
    for (int k = 0; l->s && k < sequences; k++) session_free(l->s[k]);
    free(l->s);
    free(l->steps);
    free(l->tok);
    free(l->saved);
    free(l->seconds);
    free(l->beside);
    free(l->starts);
    free_aligned(l->logits);
    explain_free(l->x);
    engine_close(l->g);
}

void bench_close(bench *b) {
    if (!b) return;
    for (int i = 0; i < b->n; i++) close_lane(&b->lanes[i], b->sequences);
    buf_free(&b->report->explained);
    free(b->report->rows);
    arena_free(&b->mem);
    free(b);
}

/* ---- limits ---- */

static double cpu_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; } /* of all threads */

/* Before the rows and after them: the better of both is the limit. More repeats get more time. */
static int measure_limits(const bench *b, lane *l, err *e) {
    bench_subject *s = l->subject;
    double unit = 0.02 * min_int(b->plan->repeats, 10), weights = engine_read_rate(l->g, 5 * unit);
    if (weights > s->weights) s->weights = weights;
    pool *p;
    if (pool_new(&p, s->info->threads, e)) return -1;
    int rc = limits_read(p, kernels_get(), 5 * unit, &s->limits, e);
    double start = now_seconds(), cpu = cpu_seconds();
    if (!rc) limits_peaks(p, kernels_get(), unit, &s->limits);
    double got = (cpu_seconds() - cpu) / (now_seconds() - start) / s->info->threads;
    if (s->cpu_share == 0 || got < s->cpu_share) s->cpu_share = got;
    pool_free(p);
    return rc;
}

static int measure_all_limits(bench *b, err *e) {
    for (int i = 0; i < b->n; i++)
        if (measure_limits(b, &b->lanes[i], e)) return -1;
    return 0;
}

/* ---- contexts ---- */

static int save_context(lane *l, err *e) {
    FILE *f = open_memstream(&l->saved, &l->n_saved);
    if (!f) return fail(e, "copying a context failed: %s", strerror(errno));
    int rc = session_save(l->s[0], f, e);
    if (fclose(f) && !rc) rc = fail(e, "copying a context failed: %s", strerror(errno));
    return rc;
}

static int load_context(const lane *l, session *s, err *e) {
    FILE *f = fmemopen(l->saved, l->n_saved, "rb");
    if (!f) return fail(e, "copying a context failed: %s", strerror(errno));
    int rc = session_load(s, f, e);
    fclose(f);
    return rc;
}

static int begin_depth(const bench *b, lane *l, int depth, err *e) {
    free(l->saved);
    l->saved = NULL;
    for (int k = 1; k < b->sequences; k++) session_truncate(l->s[k], 0);
    if (depth) return session_sync(l->s[0], l->tok, depth, e);
    session_truncate(l->s[0], 0);
    return 0;
}

/* Session k holds depth tokens again. One that never did, or whose windows gave pages back, gets a copy of the first one's. */
static int restore(lane *l, int k, int depth, err *e) {
    if (session_truncate(l->s[k], depth) == depth) return 0;
    if (!l->saved && (session_sync(l->s[0], l->tok, depth, e) || save_context(l, e))) return -1;
    return load_context(l, l->s[k], e);
}

/* ---- one repeat of a row ---- */

static void begin_clock(lane *l, double *clock) {
    if (l->x) explain_begin(l->x);
    *clock -= now_seconds();
}

static void end_clock(lane *l, double *clock) {
    *clock += now_seconds();
    if (l->x) explain_end(l->x);
}

static int time_prompt(lane *l, const bench_row *row, int repeat, err *e) {
    if (restore(l, 0, row->depth, e)) return -1;
    begin_clock(l, &l->seconds[repeat]);
    int rc = engine_step(l->g, &(step){ l->s[0], l->tok + row->depth, row->size, NULL }, 1, e);
    end_clock(l, &l->seconds[repeat]);
    return rc;
}

static int decode_steps(lane *l, int batch, int first, int n, err *e) {
    int rc = 0;
    for (int at = first; at < first + n && !rc; at++) {
        for (int k = 0; k < batch; k++) l->steps[k] = (step){ l->s[k], l->tok + at + k, 1, NULL };
        rc = engine_step(l->g, l->steps, batch, e);
    }
    return rc;
}

/* Memory's speed changes within seconds on shared machines, so a lone sequence takes turns with reading the weights and nothing else. */
static int time_decode(lane *l, const bench_row *row, int repeat, err *e) {
    uint64_t read = 0;
    int rc = 0;
    for (int k = 0; k < row->batch && !rc; k++) rc = restore(l, k, row->depth, e);
    for (int at = 0; at < row->size && !rc; at += READ_EVERY) {
        begin_clock(l, &l->seconds[repeat]);
        rc = decode_steps(l, row->batch, at, min_int(READ_EVERY, row->size - at), e);
        end_clock(l, &l->seconds[repeat]);
        if (row->batch > 1) continue;
        l->beside[repeat] -= now_seconds();
        read += engine_read_weights(l->g);
        l->beside[repeat] += now_seconds();
    }
    if (read) l->beside[repeat] /= (double)read;
    return rc;
}

static int verify_pairs(const bench *b) { return max_int(1, min_int(b->plan->steps, MOST_PAIRS)); }

/* A step of one token and one that also checks drafted ones, with the logits of all, in turns. */
static int time_verify(const bench *b, lane *l, const bench_row *row, int repeat, err *e) {
    const int32_t *tok = l->tok + row->depth;
    for (int pair = 0, rc = 0; pair < verify_pairs(b); pair++) {
        if (restore(l, 0, row->depth, e)) return -1;
        l->beside[repeat] -= now_seconds();
        rc = engine_step(l->g, &(step){ l->s[0], tok, 1, NULL }, 1, e);
        l->beside[repeat] += now_seconds();
        if (rc || restore(l, 0, row->depth, e)) return -1;
        begin_clock(l, &l->seconds[repeat]);
        rc = engine_step(l->g, &(step){ l->s[0], tok, row->size + 1, l->logits }, 1, e);
        end_clock(l, &l->seconds[repeat]);
        if (rc) return -1;
    }
    l->beside[repeat] /= verify_pairs(b);
    l->seconds[repeat] /= verify_pairs(b);
    return 0;
}

static int time_once(const bench *b, lane *l, const bench_row *row, int repeat, err *e) {
    l->seconds[repeat] = l->beside[repeat] = 0;
    if (row->kind == ROW_VERIFY) return time_verify(b, l, row, repeat, e);
    return row->kind == ROW_DECODE ? time_decode(l, row, repeat, e) : time_prompt(l, row, repeat, e);
}

/* ---- what a row comes to ---- */

static int compare_seconds(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *t, int n) { /* sorts */
    qsort(t, (size_t)n, sizeof *t, compare_seconds);
    return n % 2 ? t[n / 2] : (t[n / 2 - 1] + t[n / 2]) / 2;
}

/* The median of a[i] / b[i]; the quotients go where the caller says. */
static double median_ratio(const double *a, const double *b, int n, double *quotients) {
    for (int i = 0; i < n; i++) quotients[i] = a[i] / b[i];
    return median(quotients, n);
}

static void summarise(double *t, int n, bench_row *row) {
    row->seconds = median(t, n);
    row->spread = row->seconds / t[0] - row->seconds / t[n - 1]; /* of the speeds */
}

/* Passes of at most max_rows tokens; only the last one computes logits, of one row. */
static void count_prompt(const lane *l, int size, int depth, bench_row *row) {
    const engine_info *i = l->subject->info;
    double body = (double)i->macs / (double)(i->macs + i->macs_output);
    row->bytes = (double)i->decode_bytes * (1 - body);
    for (int at = 0; at < size; at += i->max_rows)
        row->bytes += (double)i->decode_bytes * body +
                      (double)engine_kv_read_bytes(l->g, depth + min_int(at + i->max_rows, size) - 1);
    row->ops = 2 * ((double)i->macs * size + (double)i->macs_output);
}

static void count(const lane *l, bench_row *row) {
    const engine_info *i = l->subject->info;
    if (row->kind == ROW_WARM || row->kind == ROW_COLD) {
        count_prompt(l, BENCH_START_TOKENS, 0, row);
        row->tokens = 1;
    } else if (row->kind == ROW_PROMPT) {
        count_prompt(l, row->size, row->depth, row);
        row->tokens = row->size;
    } else if (row->kind == ROW_VERIFY) {
        row->tokens = row->size + 1;
        row->bytes = (double)i->decode_bytes + (double)engine_kv_read_bytes(l->g, row->depth + row->size);
        row->ops = 2 * (double)(i->macs + i->macs_output) * row->tokens;
    } else {
        row->bytes = 0;
        for (int at = 0; at < row->size; at++)
            row->bytes += (double)i->decode_bytes + (double)row->batch * (double)engine_kv_read_bytes(l->g, row->depth + at);
        row->tokens = (double)row->size * row->batch;
        row->ops = 2 * (double)(i->macs + i->macs_output) * row->tokens;
    }
}

static void explain_row(const bench *b, const lane *l, const bench_row *row, const char *name) {
    char what[200];
    explain_limits most = explain_measure(l->g);
    snprintf(what, sizeof what, "%s%s%s, depth %d, batch %d", b->n > 1 ? l->subject->path : "", b->n > 1 ? ", " : "", name, row->depth,
             row->batch);
    buf_str(&b->report->explained, "\n");
    explain_report(l->x, what, &most, &b->report->explained);
}

/* The rows of all subjects; t: each one's seconds by repeat. */
static int add_rows(bench *b, bench_row row, double *const t[], err *e) {
    int n = b->plan->repeats;
    double *quotients = calloc((size_t)n, sizeof *quotients);
    if (!quotients) return fail_memory(e, (size_t)n * sizeof *quotients, "ratios");
    bench_row *first = &b->report->rows[b->report->n_rows];
    for (int i = 0; i < b->n; i++) { /* before the seconds are sorted */
        row.subject = i;
        count(&b->lanes[i], &row);
        row.versus = median_ratio(t[0], t[i], n, quotients) * row.tokens / (i ? first->tokens : row.tokens);
        if (row.kind == ROW_COLD) row.kept = b->lanes[i].kept;
        if (row.kind == ROW_VERIFY) row.one_ratio = median_ratio(t[i], b->lanes[i].beside, n, quotients);
        if (row.kind == ROW_VERIFY) row.one = median(b->lanes[i].beside, n);
        if (row.kind == ROW_DECODE && row.batch == 1) row.read_share = row.bytes * median_ratio(b->lanes[i].beside, t[i], n, quotients);
        b->report->rows[b->report->n_rows++] = row;
    }
    for (int i = 0; i < b->n; i++) summarise(t[i], n, &first[i]);
    free(quotients);
    return 0;
}

static int measure_row(bench *b, bench_row row, err *e) {
    char name[32];
    double *t[BENCH_SUBJECTS];
    int rc = 0;
    bench_row_name(&row, name);
    if (isatty(2)) fprintf(stderr, "\r%-40s\r%s, depth %d, batch %d ", "", name, row.depth, row.batch);
    for (int i = 0; i < b->n && !rc; i++) {
        t[i] = b->lanes[i].seconds;
        if (b->plan->explain) rc = explain_new(&b->lanes[i].x, b->lanes[i].g, e);
    }
    for (int r = 0; r < b->plan->repeats && !rc; r++)
        for (int i = 0; i < b->n && !rc; i++) rc = time_once(b, &b->lanes[i], &row, r, e);
    if (!rc) rc = add_rows(b, row, t, e);
    for (int i = 0; i < b->n; i++) {
        if (!rc && b->lanes[i].x) explain_row(b, &b->lanes[i], &row, name);
        explain_free(b->lanes[i].x);
        b->lanes[i].x = NULL;
    }
    return rc;
}

static int measure_depth(bench *b, int depth, err *e) {
    const bench_plan *p = b->plan;
    for (int i = 0; i < b->n; i++)
        if (begin_depth(b, &b->lanes[i], depth, e)) return -1;
    for (int k = 0; k < p->prompts.n; k++)
        if (p->prompts.v[k] && measure_row(b, (bench_row){ .kind = ROW_PROMPT, .size = p->prompts.v[k], .depth = depth, .batch = 1 }, e)) return -1;
    for (int k = 0; k < p->batches.n && p->steps; k++)
        if (measure_row(b, (bench_row){ .kind = ROW_DECODE, .size = p->steps, .depth = depth, .batch = p->batches.v[k] }, e)) return -1;
    for (int k = 0; k < p->drafts.n; k++)
        if (measure_row(b, (bench_row){ .kind = ROW_VERIFY, .size = p->drafts.v[k], .depth = depth, .batch = 1 }, e)) return -1;
    return 0;
}

/* ---- fresh processes, before this one maps the files: what a process maps, the system does not forget ---- */

static int measure_starts(bench *b, err *e) {
    const bench_plan *p = b->plan;
    double ignored, kept;
    for (int r = -1; r < p->repeats; r++) /* the first time puts the file into memory */
        for (int i = 0; i < b->n; i++) {
            lane *l = &b->lanes[i];
            if (isatty(2)) fprintf(stderr, "\r%-40s\rfresh processes, %d of %d ", "", r + 1, p->repeats);
            if (r < 0) l->starts = calloc(2 * (size_t)p->repeats, sizeof *l->starts);
            if (!l->starts) return fail_memory(e, 2 * (size_t)p->repeats * sizeof *l->starts, "times");
            if (bench_time_start(p, l->subject, r < 0 ? &ignored : &l->starts[r], e)) return -1;
            if (r < 0) continue;
            if (bench_drop_file(l->subject->path, &kept, e)) return -1;
            if (kept > l->kept) l->kept = kept;
            if (bench_time_start(p, l->subject, &l->starts[p->repeats + r], e)) return -1;
        }
    return 0;
}

static int add_starts(bench *b, err *e) {
    double *t[BENCH_SUBJECTS];
    for (int cold = 0; cold < 2; cold++) {
        for (int i = 0; i < b->n; i++) t[i] = b->lanes[i].starts + cold * b->plan->repeats;
        if (add_rows(b, (bench_row){ .kind = cold ? ROW_COLD : ROW_WARM, .size = BENCH_START_TOKENS, .batch = 1 }, t, e)) return -1;
    }
    return 0;
}

/* ---- all of it ---- */

static void lay_out(bench *b) {
    const bench_plan *p = b->plan;
    bench_report *r = b->report;
    b->positions = largest(&p->depths) + max_int(max_int(largest(&p->prompts), p->steps), p->drafts.n ? largest(&p->drafts) + 1 : 0);
    b->positions = max_int(b->positions, p->start ? BENCH_START_TOKENS : 1);
    b->sequences = p->steps ? largest(&p->batches) : 1;
    b->n = r->n_subjects = p->n_files * p->threads.n;
    for (int i = 0; i < b->n; i++) {
        r->subjects[i].path = p->files[i / p->threads.n];
        r->subjects[i].threads = p->threads.v[i % p->threads.n];
        b->lanes[i].subject = &r->subjects[i];
    }
    r->many_files = p->n_files > 1;
    r->many_threads = p->threads.n > 1;
    r->exact = p->engine.exact;
    r->repeats = p->repeats;
    cpu_describe(r->cpu, sizeof r->cpu);
}

/* A pass of each size, outside the clock: the buffers of a forward pass are memory that was not yet touched. */
static int warm_up(const bench *b, lane *l, err *e) {
    int n = min_int(l->subject->info->max_rows, max_int(largest(&b->plan->prompts), largest(&b->plan->drafts)));
    if (n && session_sync(l->s[0], l->tok, n, e)) return -1;
    session_truncate(l->s[0], 0);
    return session_sync(l->s[0], l->tok, 1, e);
}

static int measure_all(bench *b, err *e) {
    const bench_plan *p = b->plan;
    size_t n_rows = (size_t)b->n * ((size_t)p->depths.n * (size_t)(p->prompts.n + p->batches.n + p->drafts.n) + 2);
    b->report->rows = calloc(n_rows, sizeof *b->report->rows);
    if (!b->report->rows) return fail_memory(e, n_rows * sizeof *b->report->rows, "rows");
    if ((p->start && measure_starts(b, e)) || open_lanes(b, e) || measure_all_limits(b, e)) return -1;
    for (int i = 0; i < b->n; i++)
        if (warm_up(b, &b->lanes[i], e)) return -1;
    for (int d = 0; d < p->depths.n; d++)
        if (measure_depth(b, p->depths.v[d], e)) return -1;
    if (p->start && add_starts(b, e)) return -1;
    return measure_all_limits(b, e);
}

int bench_measure(bench **out, const bench_plan *plan, bench_report *r, err *e) {
    bench *b = *out = calloc(1, sizeof *b);
    if (!b) return fail_memory(e, sizeof *b, "a bench");
    bench_plan *own = arena_alloc(&b->mem, sizeof *own);
    b->report = r;
    if (!own) return fail_memory(e, sizeof *own, "a plan");
    *own = *plan;
    b->plan = own;
    lay_out(b);
    if (engine_take_adapters(&own->engine, own->lora.p, own->lora.n, &b->mem, e)) return -1;
    int rc = measure_all(b, e);
    if (isatty(2)) fprintf(stderr, "\r%-40s\r", "");
    if (!rc) bench_report_finish(r);
    return rc;
}
