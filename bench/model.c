/* bench/model: the speed of a model beside the limits of the machine, measured in the same run.
 * A row is a median over repeats: a prompt of so many tokens (pp), or so many decode steps of some sequences at once (tg),
 * after so many tokens of context. It computes over made-up token ids, so a file needs no tokenizer. Contexts are restored
 * outside the clock, and every sequence of a batch has its own copy of it, as sequences of different users would.
 * What a row must at least read: all weights once a forward pass, the cache that its attention sees once a pass and sequence;
 * what it computes: its matrices, without attention. It must not know how a model computes. */
#define _GNU_SOURCE
#include "bench/model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/explain.h"
#include "runtime/options.h"

enum { MAX_LIST = 32, MAX_BATCH = 1024, MAX_REPEATS = 1000, MAX_SIZE = 1 << 28 };

typedef struct list {
    int v[MAX_LIST], n;
} list;

typedef struct bench {
    engine_opts engine_opts;
    texts lora;
    arena mem; /* of adapters' names */
    list prompts, depths, batches;
    int steps, repeats;
    bool json, csv, explain;
    const char *svg;
    int positions; /* of context that a session needs */
    engine *g;
    session **s; /* [largest batch] */
    int n_sessions;
    int32_t *tok; /* [positions + sequences] made-up ids */
    char *saved;  /* the context of the rows under way, as session_save wrote it; NULL: not yet needed */
    size_t n_saved;
    double *seconds; /* [repeats] */
    explain *x;      /* of the row under way; NULL: not asked for */
    buf explained;   /* what they said */
    bench_report report;
} bench;

/* ---- the command line ---- */

static int parse_list(const program *p, const char *name, const char *text, int least, int most, list *out) {
    out->n = 0;
    for (const char *at = text;; at++) {
        char *end;
        errno = 0;
        long v = strtol(at, &end, 10);
        if (end == at || errno || (*end && *end != ','))
            return usage_error(p, "%s: expected whole numbers with commas between, found \"%s\"", name, text);
        if (v < least || v > most) return usage_error(p, "%s: expected %d to %d, found %ld", name, least, most, v);
        if (out->n == MAX_LIST) return usage_error(p, "%s: at most %d numbers", name, MAX_LIST);
        out->v[out->n++] = (int)v;
        at = end;
        if (!*at) return OPTIONS_GO_ON;
    }
}

static int largest(const list *l) {
    int most = 0;
    for (int i = 0; i < l->n; i++) most = max_int(most, l->v[i]);
    return most;
}

static int compare_ints(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static int check_range(const program *p, const char *name, int v, int least, int most) {
    return v < least || v > most ? usage_error(p, "%s: expected %d to %d, found %d", name, least, most, v) : OPTIONS_GO_ON;
}

static int check(const program *p, bench *b, int n_words, const char *prompts, const char *depths, const char *batches) {
    int rc = OPTIONS_GO_ON;
    if (n_words != 1) return usage_error(p, "expected a model file");
    if ((rc = parse_list(p, "-p", prompts, 0, MAX_SIZE, &b->prompts)) != OPTIONS_GO_ON) return rc;
    if ((rc = parse_list(p, "--depth", depths, 0, MAX_SIZE, &b->depths)) != OPTIONS_GO_ON) return rc;
    if ((rc = parse_list(p, "--batch", batches, 1, MAX_BATCH, &b->batches)) != OPTIONS_GO_ON) return rc;
    if ((rc = check_range(p, "-n", b->steps, 0, MAX_SIZE)) != OPTIONS_GO_ON) return rc;
    if ((rc = check_range(p, "-r", b->repeats, 1, MAX_REPEATS)) != OPTIONS_GO_ON) return rc;
    if ((rc = check_range(p, "--threads", b->engine_opts.threads, 0, POOL_MAX)) != OPTIONS_GO_ON) return rc;
    if ((rc = check_range(p, "--ctx", b->engine_opts.ctx, 0, MAX_SIZE)) != OPTIONS_GO_ON) return rc;
    if (b->explain && (b->json || b->csv)) return usage_error(p, "--explain is text: not with --json or --csv");
    if (b->json && b->csv) return usage_error(p, "--json and --csv exclude each other: both write to stdout");
    if (!largest(&b->prompts) && !b->steps) return usage_error(p, "nothing to measure: -p and -n are both 0");
    qsort(b->depths.v, (size_t)b->depths.n, sizeof *b->depths.v, compare_ints); /* each goes on where the one before ended */
    b->positions = largest(&b->depths) + max_int(largest(&b->prompts), b->steps);
    return OPTIONS_GO_ON;
}

/* ---- opening ---- */

static int refuse_context(const bench *b, int have, const char *whose, err *e) {
    return fail_code(e, ERR_CONTEXT, "--depth %d and then -p %d or -n %d need a context of %d, %s has %d: choose smaller ones%s",
                     largest(&b->depths), largest(&b->prompts), b->steps, b->positions, whose, have,
                     b->engine_opts.ctx ? ", or a larger --ctx" : "");
}

/* Opens the engine with just the context that the rows need, or says that the model has less. */
static int open_engine(bench *b, err *e) {
    if (engine_take_adapters(&b->engine_opts, b->lora.p, b->lora.n, &b->mem, e)) return -1;
    engine_opts o = b->engine_opts;
    if (o.ctx && o.ctx < b->positions) return refuse_context(b, o.ctx, "--ctx", e);
    o.max_sessions = b->steps ? largest(&b->batches) : 1;
    if (!o.ctx) o.ctx = b->positions;
    if (engine_open(&b->g, &o, e) == 0) return 0;
    if (e->code != ERR_CONTEXT || b->engine_opts.ctx) return -1;
    err other = { 0 };
    o.ctx = o.max_sessions = 1;
    if (engine_open(&b->g, &o, &other)) return -1;
    *e = (err){ 0 };
    return refuse_context(b, engine_about(b->g)->model_ctx, "this model", e);
}

static int check_memory(const bench *b, err *e) {
    uint64_t need = 0, have = memory_available();
    uint64_t sequence = engine_kv_read_bytes(b->g, b->positions - 1);
    if (mul_overflows(sequence, (uint64_t)b->n_sessions + (b->n_sessions > 1), &need) || need > have)
        return fail_code(e, ERR_MEMORY, "%d sequences of %d tokens need %.1f GB of cache, %.1f are free: lower --batch or --depth",
                         b->n_sessions, b->positions, (double)need / 1e9, (double)have / 1e9);
    return 0;
}

static int open_all(bench *b, err *e) {
    if (open_engine(b, e)) return -1;
    const engine_info *i = b->report.info = engine_about(b->g);
    b->n_sessions = b->steps ? largest(&b->batches) : 1;
    if (check_memory(b, e)) return -1;
    size_t n_tok = (size_t)b->positions + (size_t)b->n_sessions;
    size_t n_rows = (size_t)b->depths.n * (size_t)(b->prompts.n + b->batches.n);
    b->s = calloc((size_t)b->n_sessions, sizeof *b->s);
    b->tok = calloc(n_tok, sizeof *b->tok);
    b->seconds = calloc((size_t)b->repeats, sizeof *b->seconds);
    b->report.rows = calloc(n_rows, sizeof *b->report.rows);
    if (!b->s || !b->tok || !b->seconds || !b->report.rows) return fail_memory(e, n_tok * sizeof *b->tok, "the list of tokens");
    for (size_t t = 0; t < n_tok; t++) b->tok[t] = (int32_t)((t * 7919 + 13) % (size_t)i->n_vocab);
    for (int k = 0; k < b->n_sessions; k++)
        if (session_new(&b->s[k], b->g, e)) return -1;
    cpu_describe(b->report.cpu, sizeof b->report.cpu);
    if (i->adapter_warning) fprintf(stderr, "bench/model: warning: %s\n", i->adapter_warning);
    b->report.exact = b->engine_opts.exact;
    b->report.repeats = b->repeats;
    return 0;
}

static void close_all(bench *b) {
    for (int k = 0; b->s && k < b->n_sessions; k++) session_free(b->s[k]);
    free(b->s);
    free(b->tok);
    free(b->saved);
    free(b->seconds);
    buf_free(&b->explained);
    free(b->report.rows);
    engine_close(b->g);
    arena_free(&b->mem);
}

/* ---- limits ---- */

static double cpu_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; } /* of all threads */

/* Before the rows and after them: the better of both is the limit. More repeats get more time. */
static int measure_limits(bench *b, err *e) {
    double unit = 0.02 * min_int(b->repeats, 10), weights = engine_read_rate(b->g, 5 * unit);
    if (weights > b->report.weights) b->report.weights = weights;
    pool *p;
    if (pool_new(&p, b->report.info->threads, e)) return -1;
    int rc = limits_read(p, kernels_get(), 5 * unit, &b->report.limits, e);
    double start = now_seconds(), cpu = cpu_seconds();
    if (!rc) limits_peaks(p, kernels_get(), unit, &b->report.limits);
    double got = (cpu_seconds() - cpu) / (now_seconds() - start) / b->report.info->threads;
    if (b->report.cpu_share == 0 || got < b->report.cpu_share) b->report.cpu_share = got;
    pool_free(p);
    return rc;
}

/* ---- contexts ---- */

static int save_context(bench *b, err *e) {
    FILE *f = open_memstream(&b->saved, &b->n_saved);
    if (!f) return fail(e, "copying a context failed: %s", strerror(errno));
    int rc = session_save(b->s[0], f, e);
    if (fclose(f) && !rc) rc = fail(e, "copying a context failed: %s", strerror(errno));
    return rc;
}

static int load_context(bench *b, session *s, err *e) {
    FILE *f = fmemopen(b->saved, b->n_saved, "rb");
    if (!f) return fail(e, "copying a context failed: %s", strerror(errno));
    int rc = session_load(s, f, e);
    fclose(f);
    return rc;
}

static int begin_depth(bench *b, int depth, err *e) {
    free(b->saved);
    b->saved = NULL;
    for (int k = 1; k < b->n_sessions; k++) session_truncate(b->s[k], 0);
    if (depth) return session_sync(b->s[0], b->tok, depth, e);
    session_truncate(b->s[0], 0);
    return 0;
}

/* Session k holds depth tokens again. One that never did, or whose windows gave pages back, gets a copy of the first one's. */
static int restore(bench *b, int k, int depth, err *e) {
    if (session_truncate(b->s[k], depth) == depth) return 0;
    if (!b->saved && (session_sync(b->s[0], b->tok, depth, e) || save_context(b, e))) return -1;
    return load_context(b, b->s[k], e);
}

/* ---- rows ---- */

static int compare_seconds(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void summarise(bench *b, bench_row *row) {
    double *t = b->seconds;
    int n = b->repeats;
    qsort(t, (size_t)n, sizeof *t, compare_seconds);
    row->seconds = n % 2 ? t[n / 2] : (t[n / 2 - 1] + t[n / 2]) / 2;
    row->spread = row->seconds / t[0] - row->seconds / t[n - 1]; /* of the speeds */
}

static void begin_clock(bench *b, int repeat) {
    if (b->x) explain_begin(b->x);
    b->seconds[repeat] = now_seconds();
}

static void end_clock(bench *b, int repeat) {
    b->seconds[repeat] = now_seconds() - b->seconds[repeat];
    if (b->x) explain_end(b->x);
}

static int time_prompt(bench *b, bench_row *row, err *e) {
    const engine_info *i = b->report.info;
    for (int r = 0; r < b->repeats; r++) {
        if (restore(b, 0, row->depth, e)) return -1;
        begin_clock(b, r);
        if (engine_step(b->g, &(step){ b->s[0], b->tok + row->depth, row->size, NULL }, 1, e)) return -1;
        end_clock(b, r);
    }
    /* Passes of at most max_rows tokens; only the last one computes logits, of one row. */
    double body = (double)i->macs / (double)(i->macs + i->macs_output);
    row->bytes = (double)i->decode_bytes * (1 - body);
    for (int at = 0; at < row->size; at += i->max_rows)
        row->bytes += (double)i->decode_bytes * body +
                      (double)engine_kv_read_bytes(b->g, row->depth + min_int(at + i->max_rows, row->size) - 1);
    row->tokens = row->size;
    row->ops = 2 * ((double)i->macs * row->size + (double)i->macs_output);
    return 0;
}

static int decode_steps(bench *b, const bench_row *row, step *steps, err *e) {
    for (int at = 0; at < row->size; at++) {
        for (int k = 0; k < row->batch; k++) steps[k] = (step){ b->s[k], b->tok + at + k, 1, NULL };
        if (engine_step(b->g, steps, row->batch, e)) return -1;
    }
    return 0;
}

static int time_decode(bench *b, bench_row *row, err *e) {
    const engine_info *i = b->report.info;
    step *steps = calloc((size_t)row->batch, sizeof *steps);
    int rc = steps ? 0 : fail_memory(e, (size_t)row->batch * sizeof *steps, "the steps of a batch");
    for (int r = 0; r < b->repeats && !rc; r++) {
        for (int k = 0; k < row->batch && !rc; k++) rc = restore(b, k, row->depth, e);
        begin_clock(b, r);
        if (!rc) rc = decode_steps(b, row, steps, e);
        end_clock(b, r);
    }
    free(steps);
    row->bytes = 0;
    for (int at = 0; at < row->size; at++)
        row->bytes += (double)i->decode_bytes + (double)row->batch * (double)engine_kv_read_bytes(b->g, row->depth + at);
    row->tokens = (double)row->size * row->batch;
    row->ops = 2 * (double)(i->macs + i->macs_output) * row->tokens;
    return rc;
}

static void explain_row(bench *b, const bench_row *row, const char *name) {
    char what[80];
    explain_limits l = explain_measure(b->g);
    snprintf(what, sizeof what, "%s, depth %d, batch %d", name, row->depth, row->batch);
    buf_str(&b->explained, "\n");
    explain_report(b->x, what, &l, &b->explained);
}

static int measure_row(bench *b, bench_row row, err *e) {
    char name[32];
    bench_row_name(&row, name);
    if (isatty(2)) fprintf(stderr, "\r%-40s\r%s, depth %d, batch %d ", "", name, row.depth, row.batch);
    if (b->explain && explain_new(&b->x, b->g, e)) return -1;
    int rc = row.decode ? time_decode(b, &row, e) : time_prompt(b, &row, e);
    if (!rc) {
        summarise(b, &row);
        b->report.rows[b->report.n_rows++] = row;
        if (b->x) explain_row(b, &row, name);
    }
    explain_free(b->x);
    b->x = NULL;
    return rc;
}

static int measure_rows(bench *b, err *e) {
    for (int d = 0; d < b->depths.n; d++) {
        int depth = b->depths.v[d];
        if (begin_depth(b, depth, e)) return -1;
        for (int p = 0; p < b->prompts.n; p++)
            if (b->prompts.v[p] && measure_row(b, (bench_row){ .size = b->prompts.v[p], .depth = depth, .batch = 1 }, e)) return -1;
        for (int k = 0; k < b->batches.n && b->steps; k++)
            if (measure_row(b, (bench_row){ .decode = true, .size = b->steps, .depth = depth, .batch = b->batches.v[k] }, e))
                return -1;
    }
    return 0;
}

/* A pass of each size, outside the clock: the buffers of a forward pass are memory that was not yet touched. */
static int warm_up(bench *b, err *e) {
    int n = min_int(b->report.info->max_rows, largest(&b->prompts));
    if (n && session_sync(b->s[0], b->tok, n, e)) return -1;
    session_truncate(b->s[0], 0);
    return session_sync(b->s[0], b->tok, 1, e);
}

static int measure(bench *b, err *e) {
    if (measure_limits(b, e) || warm_up(b, e) || measure_rows(b, e) || measure_limits(b, e)) return -1;
    if (isatty(2)) fprintf(stderr, "\r%-40s\r", "");
    bench_report_finish(&b->report);
    return 0;
}

/* ---- output ---- */

static int write_all(FILE *f, const char *name, const buf *text, err *e) {
    if (text->failed) return fail_memory(e, text->cap, "the report");
    if (fwrite(text->p, 1, text->n, f) != text->n || fflush(f)) return fail(e, "%s: writing failed: %s", name, strerror(errno));
    return 0;
}

/* Next to the place and then renamed: an old picture stays until the new one is whole. */
static int write_svg(const bench *b, err *e) {
    buf text = { 0 }, part = { 0 };
    bench_svg(&b->report, &text);
    buf_fmt(&part, "%s.part", b->svg);
    buf_byte(&part, 0);
    FILE *f = part.failed ? NULL : fopen(part.p, "wb");
    int rc = f ? write_all(f, b->svg, &text, e) : fail(e, "%s: cannot be written: %s", b->svg, strerror(errno));
    if (f && fclose(f) && !rc) rc = fail(e, "%s: writing failed: %s", b->svg, strerror(errno));
    if (f && !rc && rename(part.p, b->svg)) rc = fail(e, "%s: %s", b->svg, strerror(errno));
    if (f && rc) remove(part.p);
    buf_free(&text);
    buf_free(&part);
    return rc;
}

/* Before the work: minutes of measuring should not end at a folder that is not there. */
static int check_svg(const bench *b, err *e) {
    if (!b->svg) return 0;
    const char *slash = strrchr(b->svg, '/');
    buf dir = { 0 };
    if (slash) buf_add(&dir, b->svg, (size_t)(slash - b->svg) + 1);
    else buf_str(&dir, ".");
    buf_byte(&dir, 0);
    int rc = dir.failed || is_folder(b->svg) || access(dir.p, W_OK)
                 ? fail(e, "%s: cannot be written: give a file in a folder that can be written to", b->svg)
                 : 0;
    buf_free(&dir);
    return rc;
}

static int print_report(const bench *b, err *e) {
    buf text = { 0 };
    if (b->json) bench_json(&b->report, &text);
    else if (b->csv) bench_csv(&b->report, &text);
    else bench_text(&b->report, &text);
    if (b->explained.n) buf_add(&text, b->explained.p, b->explained.n);
    int rc = write_all(stdout, "stdout", &text, e);
    buf_free(&text);
    return rc || !b->svg ? rc : write_svg(b, e);
}

int main(int argc, char **argv) {
    bench b = { .steps = 64, .repeats = 5 };
    const char *prompts = "512", *depths = "0", *batches = "1";
    const option options[] = {
        { "--n-prompt", "-p", OPT_TEXT, &prompts, "N,...", "tokens of a prompt (512); 0: none", NULL },
        { "--n-gen", "-n", OPT_INT, &b.steps, "N", "decode steps (64); 0: none", NULL },
        { "--depth", "-d", OPT_TEXT, &depths, "N,...", "tokens of context before them (0)", NULL },
        { "--batch", "-b", OPT_TEXT, &batches, "N,...", "sequences that decode at once (1)", NULL },
        { "--repetitions", "-r", OPT_INT, &b.repeats, "N", "repeats of each row, of which the median counts (5)", NULL },
        { "--threads", "-t", OPT_INT, &b.engine_opts.threads, "N", "threads (physical cores this process may use)", NULL },
        { "--ctx", "-c", OPT_INT, &b.engine_opts.ctx, "N", "positions of context (what the rows need)", NULL },
        { "--huge-pages", NULL, OPT_FLAG, &b.engine_opts.huge_pages, NULL, "copy the file into memory on huge pages instead of mapping it", NULL },
        { "--lock", "--mlock", OPT_FLAG, &b.engine_opts.lock, NULL, "read all weights at once and keep them in memory", NULL },
        { "--cache-type", NULL, OPT_TEXT, &b.engine_opts.cache_type, "TYPE", "of the keys and values kept: f16, or q8, which takes half the memory (f16)", NULL },
        { "--lora", NULL, OPT_TEXTS, &b.lora, "FILE[:SCALE]", "with an adapter that convert made; may be given several times", NULL },
        { "--exact", NULL, OPT_FLAG, &b.engine_opts.exact, NULL, "f32 activations and cache", NULL },
        { "--kernels", NULL, OPT_TEXT, &b.engine_opts.kernels, "NAME", "kernel table ($QUERN_KERNELS, else the best for this CPU)",
          NULL },
        { "--explain", NULL, OPT_FLAG, &b.explain, NULL, "after the table: each row's time by step and layer, and what binds", NULL },
        { "--json", NULL, OPT_FLAG, &b.json, NULL, "one JSON object instead of the table", NULL },
        { "--csv", NULL, OPT_FLAG, &b.csv, NULL, "the rows with commas between", NULL },
        { "--svg", NULL, OPT_TEXT, &b.svg, "FILE", "also draw speed against context and the shares of the limit", NULL },
    };
    const program p = {
        "bench/model", "MODEL.bin [options]",
        "Prompt (pp) and decode (tg) speed of a model at several depths of context and batch sizes, and the share of what this\n"
        "machine allows, measured in the same run. GB/s counts the weights once a pass and the cache that is seen; Gop/s counts\n"
        "the matrices, without attention.",
        options, sizeof options / sizeof *options
    };
    int n_words, rc = options_parse(&p, argc, argv, &b.engine_opts.path, 1, &n_words);
    if (rc == OPTIONS_GO_ON) rc = check(&p, &b, n_words, prompts, depths, batches);
    if (rc != OPTIONS_GO_ON) return rc;
    err e = { 0 };
    rc = check_svg(&b, &e) || open_all(&b, &e) || measure(&b, &e) || print_report(&b, &e);
    close_all(&b);
    if (rc) fprintf(stderr, "bench/model: %s\n", e.msg);
    return rc ? 1 : 0;
}
