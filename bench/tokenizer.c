/* bench/tokenizer: how fast the tokenizers of model files encode: a text as prompts come (20 kB at a time), and hostile inputs at
 * two sizes, where the time a byte must not grow with the size. It knows tokenizers and nothing of models; files made by convert
 * --vocab-only do. One thread; each figure is the best of several runs. bench/tokenizer MODEL.bin... [--text FILE] [--json] */
#include "runtime/engine.h"
#include "runtime/files.h"
#include "runtime/options.h"
#include "tokenizer/tokenizer.h"

#include <string.h>
#include <time.h>

enum { MAX_MODELS = 32, CHUNK = 20000, SMALL = 1 << 16, LARGE = 1 << 20 };

typedef struct bench {
    const char *text_path;
    float seconds; /* for each figure */
    bool json, first_row;
    buf text;
} bench;

typedef struct subject {
    const char *path;
    engine *g;
    tokenizer *t;
} subject;

/* Seconds of processor time for one pass over the bytes in portions; ids are made and thrown away. Negative: failed. */
static double one_pass(const tokenizer *t, const char *s, size_t n, size_t portion, size_t *n_ids, err *e) {
    ids v = { 0 };
    clock_t begin = clock();
    int rc = 0;
    *n_ids = 0;
    for (size_t at = 0; at < n && !rc; at += portion) {
        v.n = 0;
        rc = tokenizer_encode(t, s + at, n - at < portion ? n - at : portion, 0, &v, e);
        *n_ids += v.n;
    }
    double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    ids_free(&v);
    return rc ? -1 : seconds;
}

/* The best of several passes, as many as fit into the time, three at least (of what takes long: one). */
static double best_pass(const bench *b, const tokenizer *t, const char *s, size_t n, size_t portion, size_t *n_ids, err *e) {
    double best = -1, begin = now_seconds();
    for (int i = 0; i < 1000; i++) {
        double spent = now_seconds() - begin, one;
        if (i && spent > (double)b->seconds * (i < 3 ? 4 : 1)) break;
        if ((one = one_pass(t, s, n, portion, n_ids, e)) < 0) return -1;
        if (best < 0 || one < best) best = one;
    }
    return best;
}

/* ---- hostile inputs: one unit again and again ---- */

static const struct {
    const char *name, *unit;
} hostile[] = { { "one letter", "a" },
                { "spaces", " " },
                { "newlines", "\n" },
                { "digits", "7" },
                { "punctuation", "!" },
                { "one ideograph", "\xe6\xbc\xa2" },
                { "combining marks", "\xcc\x81\xcc\x96" },
                { "emoji with joiners", "\xf0\x9f\x91\xa9\xe2\x80\x8d" },
                { "U+2581", "\xe2\x96\x81" },
                { "ill-formed bytes", "\xff" },
                { "letters, no spaces", NULL },
                { "beginning of a special token", NULL } };
enum { N_HOSTILE = sizeof hostile / sizeof *hostile };

static void fill(buf *out, const tokenizer *t, int which, size_t n) {
    char unit[64];
    size_t len = 0;
    out->n = 0;
    if (hostile[which].unit) len = (size_t)snprintf(unit, sizeof unit, "%s", hostile[which].unit);
    else if (which == N_HOSTILE - 1) {
        for (int32_t id = 0; id < tokenizer_size(t) && !len; id++) {
            size_t k;
            const char *piece = tokenizer_is_special(t, id) ? tokenizer_piece(t, id, &k) : NULL;
            if (piece && k > 2 && k < sizeof unit) memcpy(unit, piece, len = k - 1);
        }
    } else {
        uint32_t seed = 1;
        while (out->n < n) buf_byte(out, 'a' + (int)((seed = seed * 1664525u + 1013904223u) >> 16) % 26);
    }
    if (!len) unit[0] = 'x', len = 1;
    while (out->n + len <= n) buf_add(out, unit, len);
}

/* ---- rows ---- */

static void begin_row(bench *b) {
    if (b->json) printf("%s\n  ", b->first_row ? "" : ",");
    b->first_row = false;
}

static void print_name(const bench *b, const char *path) {
    buf name = { 0 };
    if (b->json) buf_json(&name, path, strlen(path));
    if (name.p) printf("{\"model\":%s,", name.p);
    buf_free(&name);
}

static int english_row(bench *b, const subject *s, err *e) {
    size_t n_ids;
    double seconds = best_pass(b, s->t, b->text.p, b->text.n, CHUNK, &n_ids, e);
    if (seconds < 0) return -1;
    double mb = (double)b->text.n / 1e6;
    begin_row(b);
    print_name(b, s->path);
    if (b->json) printf("\"test\":\"text\",\"bytes\":%zu,\"ids\":%zu,\"mb_per_s\":%.3f}", b->text.n, n_ids, mb / seconds);
    else
        printf("%s\n  text, 20 kB at a time      %8.2f MB/s   (%.2f MB, %zu ids)\n  %-30s %12s %12s %8s\n", s->path, mb / seconds,
               mb, n_ids, "hostile input", "64 kB ns/B", "1 MB ns/B", "ratio");
    return 0;
}

static int hostile_row(bench *b, const subject *s, int which, err *e) {
    static const size_t sizes[2] = { SMALL, LARGE };
    double ns[2];
    buf text = { 0 };
    for (int i = 0; i < 2; i++) {
        size_t n_ids;
        fill(&text, s->t, which, sizes[i]);
        double seconds = text.failed ? -1 : best_pass(b, s->t, text.p, text.n, text.n, &n_ids, e);
        ns[i] = seconds * 1e9 / (double)(text.n ? text.n : 1);
        if (seconds < 0) return buf_free(&text), fail_memory(e, sizes[i], "a text");
    }
    buf_free(&text);
    begin_row(b);
    print_name(b, s->path);
    if (b->json)
        printf("\"test\":\"%s\",\"ns_per_byte_64k\":%.3f,\"ns_per_byte_1m\":%.3f,\"ratio\":%.3f}", hostile[which].name, ns[0],
               ns[1], ns[1] / ns[0]);
    else printf("  %-30s %12.1f %12.1f %8.2f\n", hostile[which].name, ns[0], ns[1], ns[1] / ns[0]);
    fflush(stdout);
    return 0;
}

static int measure(bench *b, const char *path, err *e) {
    subject s = { .path = path };
    if (engine_open(&s.g, &(engine_opts){ .path = path, .vocab_only = true }, e)) return -1;
    const engine_info *i = engine_about(s.g);
    int rc = i->tokenizer_bytes ? tokenizer_open(&s.t, i->tokenizer, i->tokenizer_bytes, e) : fail(e, "%s has no tokenizer", path);
    if (!rc) rc = english_row(b, &s, e);
    for (int k = 0; k < N_HOSTILE && !rc; k++) rc = hostile_row(b, &s, k, e);
    tokenizer_free(s.t);
    engine_close(s.g);
    return rc;
}

int main(int argc, char **argv) {
    bench b = { .text_path = "README.md", .seconds = 1, .first_row = true };
    const option options[] = {
        { "--text", NULL, OPT_TEXT, &b.text_path, "FILE", "the text to encode, some hundred kB of it or more (README.md)", NULL },
        { "--seconds", NULL, OPT_FLOAT, &b.seconds, "S", "time for each figure (1)", NULL },
        { "--json", NULL, OPT_FLAG, &b.json, NULL, "one JSON object instead of the tables", NULL },
    };
    const program p = { "bench/tokenizer", "MODEL.bin... [options]",
                        "Speed of the tokenizers of model files, on one thread: a text, 20 kB at a time, and hostile inputs of 64 "
                        "kB and 1 MB, whose\n"
                        "ratio of time a byte shows whether work is linear.",
                        options, sizeof options / sizeof *options };
    const char *models[MAX_MODELS];
    int n_models, rc = options_parse(&p, argc, argv, models, MAX_MODELS, &n_models);
    if (rc == OPTIONS_GO_ON && !n_models) rc = usage_error(&p, "give at least one model file");
    if (rc != OPTIONS_GO_ON) return rc;
    err e = { 0 };
    rc = read_file(b.text_path, 0, &b.text, &e);
    if (!rc && !b.text.n) rc = fail(&e, "%s is empty", b.text_path);
    if (!rc && b.json) printf("{\"rows\":[");
    for (int i = 0; i < n_models && !rc; i++) rc = measure(&b, models[i], &e);
    if (!rc && b.json) printf("\n]}\n");
    buf_free(&b.text);
    if (rc) fprintf(stderr, "bench/tokenizer: %s\n", e.msg);
    return rc ? 1 : 0;
}
