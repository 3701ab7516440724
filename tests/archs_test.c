/* archs: every architecture of llama.cpp that convert reads. Each fixture says how a GGUF file is made of a golden checkpoint: its
 * metadata byte for byte as the gguf package wrote them, its tensors by the checkpoint's and what llama.cpp's converter does with
 * them. The file is made here, in F32 and in F16, and must convert to a model of the same bits as the checkpoint does.
 * tests/tools/golden_to_gguf.py makes the fixtures. */
#define _GNU_SOURCE
#include <dirent.h>
#include <math.h>

#include "kernels/quant.h"
#include "tests/models.h"
#include "weights/safetensors.h"

#include "tests/gguf_write.h"

#define FIXTURES "tests/fixtures/gguf/archs"
enum { PATH = 400 };

typedef struct recipe {
    char name[100], golden[200];
    bool half; /* matrices are F16 */
    arena mem;
    const json *root;
    safetensors st;
} recipe;

static void write_file(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static bool is_half(const recipe *r, const char *name, int n_dims) { return r->half && n_dims > 1 && !strstr(name, "norm"); }

static void add_values(buf *out, const float *x, uint64_t n, bool half) {
    for (uint64_t i = 0; i < n; i++) {
        uint16_t h = f32_to_f16(x[i]);
        buf_add(out, half ? (const void *)&h : (const void *)&x[i], half ? 2 : 4);
    }
}

/* ---- the checkpoint, its matrices rounded as the file has them ---- */

static void write_checkpoint(const recipe *r, const char *folder) {
    char command[PATH * 5], path[PATH + 40];
    buf head = { 0 }, data = { 0 }, all = { 0 };
    snprintf(command, sizeof command, "rm -rf '%s' && cp -r '%s' '%s' && rm -f '%s'/*.safetensors*", folder, r->golden, folder, folder);
    assert_int_equal(system(command), 0);
    for (size_t i = 0; i < r->st.n; i++) {
        const st_tensor *t = &r->st.tensors[i];
        bool half = is_half(r, t->name, t->n_dims);
        size_t from = data.n;
        if (t->type == ST_OTHER) continue;
        float *x = alloc_aligned((size_t)t->n * sizeof *x);
        st_read(&r->st, t, 0, t->n, x);
        add_values(&data, x, t->n, half);
        free_aligned(x);
        buf_fmt(&head, "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[", head.n ? ',' : '{', t->name, half ? "F16" : "F32");
        for (int d = 0; d < t->n_dims; d++) buf_fmt(&head, "%s%llu", d ? "," : "", (unsigned long long)t->dims[d]);
        buf_fmt(&head, "],\"data_offsets\":[%zu,%zu]}", from, data.n);
    }
    buf_byte(&head, '}');
    buf_u64(&all, head.n);
    buf_add(&all, head.p, head.n);
    buf_add(&all, data.p, data.n);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    write_file(path, all.p, all.n);
    const json *config = json_get(r->root, "config");
    snprintf(path, sizeof path, "%s/config.json", folder);
    write_file(path, config->s, config->n);
    buf_free(&head);
    buf_free(&data);
    buf_free(&all);
}

/* ---- the GGUF file ---- */

static uint64_t whole(const json *j, int at) {
    int64_t x = -1;
    for (j = j->child; at && j; at--) j = j->next;
    assert_true(j && json_int(j, &x) == 0 && x >= 0);
    return (uint64_t)x;
}

/* Where row i of the file's queries, keys and values stands among the checkpoint's groups: for each key and value its queries, its
 * key, its value. */
static uint64_t grouped_row(uint64_t i, uint64_t heads, uint64_t kv, uint64_t hd) {
    uint64_t group = heads / kv, h = i / hd;
    if (h < heads) return (h / group * (group + 2) + h % group) * hd + i % hd;
    h -= heads;
    return (h % kv * (group + 2) + group + h / kv) * hd + i % hd;
}

/* out[n]: a tensor of the checkpoint, [rows][k], after the operation. */
static void operate(const json *op, const float *x, uint64_t rows, uint64_t k, float *out) {
    const json *name = op->child;
    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t j = 0; j < k; j++) {
            uint64_t from = i;
            if (json_is(name, "interleave")) {
                uint64_t hd = rows / whole(op, 1), in = i % hd;
                from = i - in + in % 2 * (hd / 2) + in / 2;
            }
            if (json_is(name, "ungroup")) from = grouped_row(i, whole(op, 1), whole(op, 2), rows / (whole(op, 1) + 2 * whole(op, 2)));
            float v = json_is(name, "turn") ? x[j * rows + i] : x[from * k + j];
            out[i * k + j] = json_is(name, "plus") ? v + (float)whole(op, 1) : v;
        }
}

static float *build(const recipe *r, const json *op, const json *sources, uint64_t n, const json *dims) {
    float *out = alloc_aligned((size_t)n * sizeof *out), *x = alloc_aligned((size_t)n * sizeof *x);
    uint64_t at = 0, k = 1, stack = sources->n > 1;
    if (json_is(op->child, "values"))
        for (const json *j = op->child->next; j; j = j->next, at++) {
            double v;
            assert_int_equal(json_num(j, &v), 0);
            out[at] = (float)v;
        }
    for (uint64_t d = 1 + stack; d < dims->n; d++) k *= whole(dims, (int)d);
    for (const json *j = sources->child; j; j = j->next) {
        const st_tensor *t = safetensors_find(&r->st, j->s);
        if (!t) fail_msg("%s has no %s", r->golden, j->s);
        st_read(&r->st, t, 0, t->n, x);
        assert_true(at + t->n <= n);
        operate(op, x, t->n / k, k, out + at);
        at += t->n;
    }
    assert_int_equal(at, n);
    free_aligned(x);
    return out;
}

static void put(const recipe *r, gguf_out *g, const json *entry) {
    const json *name = entry->child, *dims = name->next, *op = dims->next;
    uint64_t n = 1;
    bool half = is_half(r, name->s, (int)dims->n);
    for (uint32_t d = 0; d < dims->n; d++) n *= whole(dims, (int)d);
    float *x = build(r, op, op->next, n, dims);
    put_text(&g->table, name->s, name->n);
    buf_u32(&g->table, dims->n);
    for (uint32_t d = dims->n; d-- > 0;) buf_u64(&g->table, whole(dims, (int)d));
    buf_u32(&g->table, half);
    buf_u64(&g->table, g->data.n);
    add_values(&g->data, x, n, half);
    while (g->data.n % 32) buf_byte(&g->data, 0);
    g->n_tensors++;
    free_aligned(x);
}

static void write_gguf(const recipe *r, const char *path) {
    const json *kv = json_get(r->root, "kv");
    int64_t n_kv = 0;
    gguf_out g = { 0 };
    buf image = { 0 };
    assert_true(kv && json_int(json_get(r->root, "n_kv"), &n_kv) == 0);
    for (uint32_t i = 0; i + 1 < kv->n; i += 2) {
        const char pair[3] = { kv->s[i], kv->s[i + 1], 0 };
        buf_byte(&g.kv, (int)strtol(pair, NULL, 16));
    }
    g.n_kv = (uint64_t)n_kv;
    for (const json *j = json_get(r->root, "tensors")->child; j; j = j->next) put(r, &g, j);
    gguf_finish(&g, &image);
    write_file(path, image.p, image.n);
    buf_free(&image);
}

/* ---- the comparison ---- */

/* Logits of 40 tokens, or the embedding where there is no decoder; the caller frees. */
static float *results(const char *path, size_t *n) {
    enum { N = 40 };
    int32_t tok[N];
    err e = { 0 };
    for (int i = 0; i < N; i++) tok[i] = (i * 37 + 5) % 120;
    engine *g = open_or_fail(path, (engine_opts){ .exact = true, .threads = 1 });
    const engine_info *i = engine_about(g);
    session *s = new_session(g);
    *n = i->has_decoder ? N * (size_t)i->logits_ld : (size_t)i->d_embed;
    float *out = alloc_aligned(*n * sizeof *out);
    if (!i->has_decoder) must(session_embed(s, tok, N, 0, out, &e), &e);
    if (i->has_decoder && i->has_encoder) must(session_encode(s, tok, N, NULL, &e), &e);
    if (i->has_decoder) must(engine_step(g, &(step){ s, tok, N, out }, 1, &e), &e);
    session_free(s);
    engine_close(g);
    return out;
}

/* gemma3n: the package's quantile of the normal distribution is in f32, the last bit of a gate's limit may differ. */
static void check(const recipe *r, double limit) {
    char folder[PATH], file_path[PATH], model[800];
    size_t n, n_want;
    double worst = 0, size = 0;
    snprintf(folder, sizeof folder, "%s/%s-%d", work_dir, r->name, r->half);
    snprintf(file_path, sizeof file_path, "%s/%s-%d.gguf", work_dir, r->name, r->half);
    write_checkpoint(r, folder);
    write_gguf(r, file_path);
    snprintf(model, sizeof model, "%s", converted(folder, "f32"));
    float *want = results(model, &n_want);
    snprintf(model, sizeof model, "%s", converted(file_path, "f32"));
    float *have = results(model, &n);
    assert_int_equal(n, n_want);
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)have[i] - want[i]);
        if (!(d <= worst)) worst = d;
        size = fmax(size, fabs(want[i]));
    }
    print_message("%-12s %s  %s%.1e\n", r->name, r->half ? "f16" : "f32", worst == 0 ? "the same, off by " : "off by ", worst);
    if (!(size > 0.1) || !(worst <= limit * size)) fail_msg("%s: off by %g", file_path, worst);
    free_aligned(want);
    free_aligned(have);
}

static void test_archs(void **state) {
    (void)state;
    DIR *d = opendir(FIXTURES);
    int n = 0;
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d));) {
        char path[PATH];
        recipe r = { 0 };
        buf text = { 0 };
        json *root;
        err e = { 0 };
        const char *dot = strrchr(f->d_name, '.');
        if (!dot || strcmp(dot, ".json") != 0) continue;
        snprintf(r.name, sizeof r.name, "%.*s", (int)min_int((int)(dot - f->d_name), 90), f->d_name);
        snprintf(r.golden, sizeof r.golden, "tests/fixtures/golden/%s", r.name);
        snprintf(path, sizeof path, FIXTURES "/%s", f->d_name);
        must(read_file(path, 0, &text, &e), &e);
        must(json_parse(&r.mem, text.p, text.n, &root, &e), &e);
        r.root = root;
        must(safetensors_open(&r.st, r.golden, &e), &e);
        for (int half = 0; half < 2; half++, n++) {
            r.half = half;
            check(&r, strncmp(r.name, "gemma3n", 7) == 0 ? 1e-4 : 0);
        }
        safetensors_close(&r.st);
        arena_free(&r.mem);
        buf_free(&text);
    }
    closedir(d);
    assert_true(n >= 54);
}

/* ---- a folder with GGUF files alone ---- */

static int sh(buf *said, const char *fmt, ...) PRINTF_LIKE(2, 3);
static int sh(buf *said, const char *fmt, ...) {
    char line[3 * PATH], command[5 * PATH], log[PATH];
    err e = { 0 };
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    snprintf(log, sizeof log, "%s/said", work_dir);
    snprintf(command, sizeof command, "( %s ) 2>'%s'", line, log);
    int rc = system(command);
    said->n = 0;
    must(read_file(log, 0, said, &e), &e);
    return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

static void test_folder(void **state) {
    (void)state;
    static const char small[] = "tests/fixtures/gguf/qwen2-f16.gguf";
    buf said = { 0 };
    const char *bin = bin_dir();
    assert_int_equal(sh(&said, "mkdir -p '%s/one' '%s/two' && cp %s '%s/one' && cp %s '%s/two/b.gguf' && cp %s '%s/two/a.gguf'", work_dir,
                        work_dir, small, work_dir, small, work_dir, small, work_dir), 0);
    if (sh(&said, "%s/convert '%s/one' -o '%s/one.bin'", bin, work_dir, work_dir)) fail_msg("%s", said.p);
    if (sh(&said, "%s/convert '%s/one' --vocab-only -o '%s/vocab.bin'", bin, work_dir, work_dir)) fail_msg("%s", said.p);
    assert_int_equal(sh(&said, "%s/convert '%s/two' -o '%s/two.bin'", bin, work_dir, work_dir), 1);
    if (!strstr(said.p, "holds 2 GGUF files, a.gguf and b.gguf")) fail_msg("%s", said.p);
    assert_int_equal(sh(&said, "mkdir '%s/none'; %s/convert '%s/none' -o '%s/none.bin'", work_dir, bin, work_dir, work_dir), 1);
    if (!strstr(said.p, "config.json")) fail_msg("%s", said.p);
    buf_free(&said);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_archs), cmocka_unit_test(test_folder) };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
