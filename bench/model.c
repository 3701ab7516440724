/* bench/model: the speed of a model beside the limits of the machine, measured in the same run. This file is the command line: what
 * to measure, in which form it is written, or which two results are compared. */
#define _GNU_SOURCE
#include "bench/model.h"
#include "runtime/files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_BATCH = 1024, MAX_REPEATS = 1000, MAX_DRAFT = 256, MAX_SIZE = 1 << 28 };

typedef struct asked {
    bench_plan plan;
    const char *threads, *prompts, *depths, *batches, *drafts, *svg;
    bool json, csv, compare, first_token;
} asked;

/* ---- the command line ---- */

static int parse_list(const program *p, const char *name, const char *text, int least, int most, bench_list *out) {
    out->n = 0;
    for (const char *at = text;; at++) {
        char *end;
        errno = 0;
        long v = strtol(at, &end, 10);
        if (end == at || errno || (*end && *end != ','))
            return usage_error(p, "%s: expected whole numbers with commas between, found \"%s\"", name, text);
        if (v < least || v > most) return usage_error(p, "%s: expected %d to %d, found %ld", name, least, most, v);
        if (out->n == BENCH_LIST) return usage_error(p, "%s: at most %d numbers", name, BENCH_LIST);
        out->v[out->n++] = (int)v;
        at = end;
        if (!*at) return OPTIONS_GO_ON;
    }
}

static bool all_zero(const bench_list *l) {
    for (int i = 0; i < l->n; i++)
        if (l->v[i]) return false;
    return true;
}

static int compare_ints(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static int check_range(const program *p, const char *name, int v, int least, int most) {
    return v < least || v > most ? usage_error(p, "%s: expected %d to %d, found %d", name, least, most, v) : OPTIONS_GO_ON;
}

static int check_lists(const program *p, asked *a) {
    bench_plan *b = &a->plan;
    const struct {
        const char *name, *text;
        int least, most;
        bench_list *out;
    } lists[] = { { "-p", a->prompts, 0, MAX_SIZE, &b->prompts },
                  { "--depth", a->depths, 0, MAX_SIZE, &b->depths },
                  { "--batch", a->batches, 1, MAX_BATCH, &b->batches },
                  { "--threads", a->threads, 0, POOL_MAX, &b->threads },
                  { "--draft-n", a->drafts, 1, MAX_DRAFT, &b->drafts } };
    int rc = OPTIONS_GO_ON;
    for (size_t i = 0; i < sizeof lists / sizeof *lists && rc == OPTIONS_GO_ON; i++)
        if (lists[i].text) rc = parse_list(p, lists[i].name, lists[i].text, lists[i].least, lists[i].most, lists[i].out);
    return rc;
}

static int check(const program *p, asked *a) {
    bench_plan *b = &a->plan;
    int rc = check_lists(p, a);
    if (rc != OPTIONS_GO_ON) return rc;
    if (a->compare) {
        if (a->json || a->csv || a->svg || b->start) return usage_error(p, "--compare reads what --json wrote, and measures nothing");
        return b->n_files == 2 ? rc : usage_error(p, "--compare: expected two files that --json wrote, found %d", b->n_files);
    }
    if (b->n_files < 1) return usage_error(p, "expected a model file");
    if (a->first_token && (b->n_files > 1 || b->threads.n > 1)) return usage_error(p, "--first-token takes one file and one number of threads");
    if (b->n_files * b->threads.n > BENCH_SUBJECTS)
        return usage_error(p, "%d files with %d numbers of threads: at most %d of both together", b->n_files, b->threads.n, BENCH_SUBJECTS);
    if ((rc = check_range(p, "-n", b->steps, 0, MAX_SIZE)) != OPTIONS_GO_ON) return rc;
    if ((rc = check_range(p, "-r", b->repeats, 1, MAX_REPEATS)) != OPTIONS_GO_ON) return rc;
    if ((rc = check_range(p, "--ctx", b->engine.ctx, 0, MAX_SIZE)) != OPTIONS_GO_ON) return rc;
    if (b->explain && (a->json || a->csv)) return usage_error(p, "--explain is text: not with --json or --csv");
    if (a->json && a->csv) return usage_error(p, "--json and --csv exclude each other: both write to stdout");
    if (all_zero(&b->prompts) && !b->steps && !b->drafts.n && !b->start) return usage_error(p, "nothing to measure: -p and -n are both 0");
    qsort(b->depths.v, (size_t)b->depths.n, sizeof *b->depths.v, compare_ints); /* each goes on where the one before ended */
    return OPTIONS_GO_ON;
}

/* ---- output ---- */

static int write_all(FILE *f, const char *name, const buf *text, err *e) {
    if (text->failed) return fail_memory(e, text->cap, "the report");
    if (fwrite(text->p, 1, text->n, f) != text->n || fflush(f)) return fail(e, "%s: writing failed: %s", name, strerror(errno));
    return 0;
}

/* Next to the place and then renamed: an old picture stays until the new one is whole. */
static int write_svg(const bench_report *r, const char *path, err *e) {
    buf text = { 0 }, part = { 0 };
    bench_svg(r, &text);
    buf_fmt(&part, "%s.part", path);
    buf_byte(&part, 0);
    FILE *f = part.failed ? NULL : fopen(part.p, "wb");
    int rc = f ? write_all(f, path, &text, e) : fail(e, "%s: cannot be written: %s", path, strerror(errno));
    if (f && fclose(f) && !rc) rc = fail(e, "%s: writing failed: %s", path, strerror(errno));
    if (f && !rc && rename(part.p, path)) rc = fail(e, "%s: %s", path, strerror(errno));
    if (f && rc) remove(part.p);
    buf_free(&text);
    buf_free(&part);
    return rc;
}

/* Before the work: minutes of measuring should not end at a folder that is not there. */
static int check_svg(const char *path, err *e) {
    if (!path) return 0;
    const char *slash = strrchr(path, '/');
    buf dir = { 0 };
    if (slash) buf_add(&dir, path, (size_t)(slash - path) + 1);
    else buf_str(&dir, ".");
    buf_byte(&dir, 0);
    int rc = dir.failed || is_folder(path) || access(dir.p, W_OK)
                 ? fail(e, "%s: cannot be written: give a file in a folder that can be written to", path)
                 : 0;
    buf_free(&dir);
    return rc;
}

static int print_report(const asked *a, const bench_report *r, err *e) {
    buf text = { 0 };
    if (a->json) bench_json(r, &text);
    else if (a->csv) bench_csv(r, &text);
    else bench_text(r, &text);
    if (r->explained.n) buf_add(&text, r->explained.p, r->explained.n);
    int rc = write_all(stdout, "stdout", &text, e);
    buf_free(&text);
    return rc || !a->svg ? rc : write_svg(r, a->svg, e);
}

/* ---- what was asked for ---- */

static int compare(const asked *a, err *e) {
    buf text = { 0 };
    int rc = bench_compare(a->plan.files[0], a->plan.files[1], &text, e);
    if (!rc) rc = write_all(stdout, "stdout", &text, e);
    buf_free(&text);
    return rc;
}

static int first_token(asked *a, err *e) {
    arena mem = { 0 };
    engine_opts *o = &a->plan.engine;
    o->path = a->plan.files[0];
    o->threads = a->plan.threads.v[0];
    int rc = engine_take_adapters(o, a->plan.lora.p, a->plan.lora.n, &mem, e);
    if (!rc) rc = bench_first_token(o, BENCH_START_TOKENS, e);
    arena_free(&mem);
    return rc;
}

static int measure(const asked *a, err *e) {
    bench *b = NULL;
    bench_report r = { 0 };
    int rc = check_svg(a->svg, e) || bench_measure(&b, &a->plan, &r, e) || print_report(a, &r, e);
    bench_close(b);
    return rc;
}

static int start(asked *a) {
    err e = { 0 };
    int rc = a->compare ? compare(a, &e) : a->first_token ? first_token(a, &e) : measure(a, &e);
    if (rc) fprintf(stderr, "bench/model: %s\n", e.msg);
    return rc ? 1 : 0;
}

int main(int argc, char **argv) {
    asked a = { .plan = { .self = argv[0], .steps = 64, .repeats = 5 }, .threads = "0", .prompts = "512", .depths = "0", .batches = "1" };
    bench_plan *b = &a.plan;
    const option options[] = {
        { "--n-prompt", "-p", OPT_TEXT, &a.prompts, "N,...", "tokens of a prompt (512); 0: none", NULL },
        { "--n-gen", "-n", OPT_INT, &b->steps, "N", "decode steps (64); 0: none", NULL },
        { "--depth", "-d", OPT_TEXT, &a.depths, "N,...", "tokens of context before them (0)", NULL },
        { "--batch", "-b", OPT_TEXT, &a.batches, "N,...", "sequences that decode at once (1)", NULL },
        { "--draft-n", NULL, OPT_TEXT, &a.drafts, "N,...", "time also one step that checks N drafted tokens, in turns with a step of 1", NULL },
        { "--start", NULL, OPT_FLAG, &b->start, NULL,
          "time also fresh processes up to their first token: the file in memory (warm), and dropped from it (cold)", NULL },
        { "--repetitions", "-r", OPT_INT, &b->repeats, "N", "repeats of each row, of which the median counts (5)", NULL },
        { "--threads", "-t", OPT_TEXT, &a.threads, "N,...", "threads (physical cores this process may use); several take turns", NULL },
        { "--ctx", "-c", OPT_INT, &b->engine.ctx, "N", "positions of context (what the rows need)", NULL },
        { "--huge-pages", NULL, OPT_FLAG, &b->engine.huge_pages, NULL, "copy the file into memory on huge pages instead of mapping it", NULL },
        { "--lock", "--mlock", OPT_FLAG, &b->engine.lock, NULL, "read all weights at once and keep them in memory", NULL },
        { "--cache-type", NULL, OPT_TEXT, &b->engine.cache_type, "TYPE",
          "of the keys and values kept: f16, or q8, which takes half the memory (f16)", NULL },
        { "--lora", NULL, OPT_TEXTS, &b->lora, "FILE[:SCALE]", "with an adapter that convert made; may be given several times", NULL },
        { "--exact", NULL, OPT_FLAG, &b->engine.exact, NULL, "f32 activations and cache", NULL },
        { "--kernels", NULL, OPT_TEXT, &b->engine.kernels, "NAME", "kernel table ($QUERN_KERNELS, else the best for this CPU)", NULL },
        { "--explain", NULL, OPT_FLAG, &b->explain, NULL, "after the table: each row's time by step and layer, and what binds", NULL },
        { "--json", NULL, OPT_FLAG, &a.json, NULL, "one JSON object instead of the table", NULL },
        { "--csv", NULL, OPT_FLAG, &a.csv, NULL, "the rows with commas between", NULL },
        { "--svg", NULL, OPT_TEXT, &a.svg, "FILE", "also draw speed against context and batch, and a roofline", NULL },
        { "--compare", NULL, OPT_FLAG, &a.compare, NULL,
          "BEFORE.json AFTER.json instead of models: ratios, and whether they exceed the spread", NULL },
        { "--first-token", NULL, OPT_FLAG, &a.first_token, NULL, "what --start runs: print the first token after a prompt of 8, nothing else", NULL },
    };
    const program p = {
        "bench/model", "MODEL.bin ... [options]",
        "Prompt (pp) and decode (tg) speed of a model at several depths of context and batch sizes, and the share of what this\n"
        "machine allows, measured in the same run. GB/s counts the weights once a pass and the cache that is seen; Gop/s counts\n"
        "the matrices, without attention. Several files take turns, repeat by repeat: A B A B.",
        options, sizeof options / sizeof *options
    };
    int rc = options_parse(&p, argc, argv, b->files, BENCH_FILES, &b->n_files);
    if (rc == OPTIONS_GO_ON) rc = check(&p, &a);
    return rc == OPTIONS_GO_ON ? start(&a) : rc;
}
