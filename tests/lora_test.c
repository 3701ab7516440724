/* lora: adapters applied and merged against the reference (PEFT), and against checkpoints whose weights were changed by hand; the
 * promises of sameness with adapters; and what is refused: adapters that do not fit their base, settings that are not plain LoRA,
 * files that do not fit their model, saved sessions of other adapters. */
#define _GNU_SOURCE
#include <math.h>
#include "runtime/sample.h"
#include "runtime/saved.h"
#include "weights/file.h"
#include "weights/safetensors.h"
#include "tests/models.h"

enum { TEXT = 40, PATH = 800 };
#define LLAMA "tests/fixtures/golden/llama"
#define GOLDEN "tests/fixtures/golden/lora_llama"

static char golden_adapter[PATH]; /* of the reference's adapter */

/* ---- conversions ---- */

/* Runs convert with these arguments; its status. What it says is in `said`. */
static char said[4096];
static int convert(const char *fmt, ...) PRINTF_LIKE(1, 2);
static int convert(const char *fmt, ...) {
    char args[3 * PATH], command[4 * PATH + 400], log[PATH];
    va_list list;
    va_start(list, fmt);
    vsnprintf(args, sizeof args, fmt, list);
    va_end(list);
    snprintf(log, sizeof log, "%s/log", work_dir);
    snprintf(command, sizeof command, "%s/convert %s 2>'%s'", bin_dir(), args, log);
    int rc = system(command);
    buf text = { 0 };
    err e = { 0 };
    must(read_file(log, 0, &text, &e), &e);
    snprintf(said, sizeof said, "%s", text.p ? text.p : "");
    buf_free(&text);
    return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

static void must_convert(int rc) {
    if (rc) fail_msg("convert: status %d: %s", rc, said);
}

static char *in_work(char *out, const char *name) {
    snprintf(out, PATH, "%s/%s", work_dir, name);
    return out;
}

static void write_text(const char *folder, const char *name, const char *bytes, size_t n) {
    char path[PATH + 100];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void copy_file(const char *from, const char *to, const char *name) {
    char path[PATH + 100];
    buf b = { 0 };
    err e = { 0 };
    snprintf(path, sizeof path, "%s/%s", from, name);
    must(read_file(path, 0, &b, &e), &e);
    write_text(to, name, b.p, b.n);
    buf_free(&b);
}

/* ---- what models compute ---- */

/* All rows of logits of a text in pieces of `piece` tokens (0: at once), or the hidden states of an encoder alone: [n][*ld]. */
static float *rows_of(engine *g, const int32_t *tok, int n, int piece, size_t *ld) {
    const engine_info *i = engine_about(g);
    *ld = i->has_decoder ? (size_t)i->logits_ld : round_up((size_t)i->d_model, GROUP);
    float *rows = alloc_aligned((size_t)n * *ld * sizeof *rows);
    session *s = new_session(g);
    err e = { 0 };
    if (i->has_encoder) must(session_encode(s, tok, n, i->has_decoder ? NULL : rows, &e), &e);
    for (int at = 0, take; at < n && i->has_decoder; at += take) {
        take = piece && piece < n - at ? piece : n - at;
        must(engine_step(g, &(step){ s, tok + at, take, rows + (size_t)at * *ld }, 1, &e), &e);
    }
    session_free(s);
    return rows;
}

static float *rows_with(const char *path, engine_opts o, int piece, size_t *n) {
    engine *g = open_or_fail(path, o);
    int32_t tok[TEXT];
    size_t ld;
    make_text(tok, TEXT, engine_about(g)->n_vocab, 1);
    float *rows = rows_of(g, tok, TEXT, piece, &ld);
    *n = TEXT * ld;
    assert_true(isfinite(rows[0]));
    engine_close(g);
    return rows;
}

static double difference(const float *a, const float *b, size_t n) {
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

static engine_opts with(engine_opts o, const adapter *list, int n) {
    o.adapters = list;
    o.n_adapters = n;
    return o;
}

static const engine_opts exact = { .exact = true, .threads = 1 };

/* ---- the reference ---- */

static json *read_json(arena *mem, const char *path) {
    buf text = { 0 };
    json *j;
    err e = { 0 };
    must(read_file(path, 0, &text, &e), &e);
    must(json_parse(mem, text.p, text.n, &j, &e), &e);
    buf_free(&text);
    return j;
}

static void check_reference(const char *what, const char *path, engine_opts o) {
    arena mem = { 0 };
    const json *j = read_json(&mem, GOLDEN "/expected.json");
    ids tokens = { 0 }, greedy = { 0 };
    double tolerance;
    size_t n_want, n_last, ld;
    err e = { 0 };
    float *want = read_floats(GOLDEN "/logits.bin", &n_want), *last = read_floats(GOLDEN "/last_logits.bin", &n_last);
    json_ids(json_get(j, "tokens"), &tokens);
    json_ids(json_get(j, "greedy"), &greedy);
    assert_int_equal(json_num(json_get(j, "tolerance"), &tolerance), 0);
    engine *g = open_or_fail(path, o);
    assert_int_equal(n_want, tokens.n * n_last);
    float *rows = rows_of(g, tokens.p, (int)tokens.n, 0, &ld);
    double worst = 0;
    for (size_t r = 0; r < tokens.n; r++) worst = fmax(worst, difference(rows + r * ld, want + r * n_last, n_last));
    session *s = new_session(g);
    must(session_sync(s, tokens.p, (int)tokens.n, &e), &e);
    for (size_t t = 0; t < greedy.n; t++) {
        int32_t id = sample_argmax(session_logits(s), (int)n_last);
        if (id != greedy.p[t]) fail_msg("%s: greedy token %zu: expected %d, found %d", what, t, greedy.p[t], id);
        if (t + 1 < greedy.n) must(engine_step(g, &(step){ s, &id, 1, NULL }, 1, &e), &e);
    }
    double worst_last = difference(session_logits(s), last, n_last);
    print_message("%-10s largest difference %.2e (last step %.2e), tolerance %.2e\n", what, worst, worst_last, tolerance);
    assert_true(worst <= tolerance && worst_last <= tolerance);
    free_aligned(rows);
    free(want);
    free(last);
    ids_free(&tokens);
    ids_free(&greedy);
    session_free(s);
    engine_close(g);
    arena_free(&mem);
}

static void test_reference(void **state) {
    (void)state;
    char merged[PATH];
    check_reference("applied", converted(LLAMA, "f32"), with(exact, &(adapter){ golden_adapter, 1 }, 1));
    must_convert(convert("%s --merge %s -o '%s' --type f32", LLAMA, GOLDEN, in_work(merged, "merged.bin")));
    check_reference("merged", merged, exact);
    const adapter halves[] = { { golden_adapter, 0.25f }, { golden_adapter, 0.75f } };
    check_reference("in two", converted(LLAMA, "f32"), with(exact, halves, 2));
    must_convert(convert("%s --merge %s:0.25 --merge %s:0.75 -o '%s' --type f32 --force", LLAMA, GOLDEN, GOLDEN, merged));
    check_reference("merged two", merged, exact);
}

/* Scale 0 is the base, to the bit; another scale is not; one adapter taken away again is nearly the base. */
static void test_scales(void **state) {
    (void)state;
    static const char *const types[] = { "f32", "q8", "q4" };
    for (int t = 0; t < 3; t++) {
        char path[PATH];
        size_t n;
        snprintf(path, sizeof path, "%s", converted(LLAMA, types[t]));
        const adapter none = { golden_adapter, 0 }, half = { golden_adapter, 0.5f },
                      both[] = { { golden_adapter, 0.5f }, { golden_adapter, -0.5f } };
        engine_opts o = { .threads = 1 };
        float *base = rows_with(path, o, 0, &n), *zero = rows_with(path, with(o, &none, 1), 0, &n),
              *some = rows_with(path, with(o, &half, 1), 0, &n);
        assert_memory_equal(base, zero, n * sizeof *base);
        assert_true(difference(base, some, n) > 0.1);
        float *back = rows_with(path, with(exact, both, 2), 0, &n), *plain = rows_with(path, exact, 0, &n);
        assert_true(difference(plain, back, n) < 1e-4);
        free_aligned(base);
        free_aligned(zero);
        free_aligned(some);
        free_aligned(back);
        free_aligned(plain);
    }
}

/* ---- sameness ---- */

static void same(const char *what, const float *a, const float *b, size_t n) {
    if (memcmp(a, b, n * sizeof *a)) fail_msg("%s: the logits differ", what);
}

/* The text among two others, in steps of other lengths. */
static void check_batch(const char *path, engine_opts o, const float *want) {
    enum { N = 3 };
    o.max_sessions = N;
    o.threads = 2;
    engine *g = open_or_fail(path, o);
    size_t ld = (size_t)engine_about(g)->logits_ld;
    float *rows = alloc_aligned(TEXT * ld * sizeof *rows);
    session *s[N];
    int32_t tok[N][TEXT];
    int at[N] = { 0 };
    for (int k = 0; k < N; k++) {
        s[k] = new_session(g);
        make_text(tok[k], TEXT, engine_about(g)->n_vocab, k);
    }
    for (int round = 0; at[1] < TEXT; round++) {
        step steps[N];
        int n = 0;
        err e = { 0 };
        for (int k = 0; k < N; k++) {
            int take = min_int(1 + (round * 5 + k * 3) % 9, TEXT - at[k]);
            if (take) steps[n++] = (step){ s[k], tok[k] + at[k], take, k == 1 ? rows + (size_t)at[1] * ld : NULL };
            at[k] += take;
        }
        must(engine_step(g, steps, n, &e), &e);
    }
    same("in a batch", rows, want, TEXT * ld);
    for (int k = 0; k < N; k++) session_free(s[k]);
    engine_close(g);
    free_aligned(rows);
}

static void check_same(const char *path, engine_opts o, bool tables) {
    size_t n;
    o.threads = 1;
    float *want = rows_with(path, o, 0, &n);
    for (int threads = 1; threads <= 2; threads++)
        for (int p = 0; p < 3; p++) {
            o.threads = threads;
            float *rows = rows_with(path, o, p == 0 ? 1 : p == 1 ? 7 : 0, &n);
            same(threads == 1 ? "in pieces" : "on two threads", rows, want, n);
            free_aligned(rows);
        }
    check_batch(path, o, want);
    for (const kernels *const *k = kernels_all(); *k && tables; k++) {
        if (!kernels_usable(*k)) continue;
        o.kernels = (*k)->name;
        float *rows = rows_with(path, o, 0, &n);
        same((*k)->name, rows, want, n);
        free_aligned(rows);
    }
    free_aligned(want);
    err e = { 0 };
    must(kernels_init(NULL, &e), &e);
}

static void test_sameness(void **state) {
    (void)state;
    static const char *const types[] = { "f32", "q8", "q4", "bf16" };
    const adapter list[] = { { golden_adapter, 0.7f }, { golden_adapter, -0.3f } };
    for (int t = 0; t < 4; t++)
        for (int x = 0; x < 2; x++) {
            char path[PATH];
            snprintf(path, sizeof path, "%s", converted(LLAMA, types[t]));
            check_same(path, with((engine_opts){ .exact = x }, list, 2), strcmp(types[t], "bf16") != 0);
        }
}

/* All ranks at once are the same bits as one add after the other: what the engine's definition says. */
static void test_kernel(void **state) {
    (void)state;
    enum { M = 7, R = 9, WIDE = 256 };
    static float x[M * WIDE], y[R * WIDE], want[M * WIDE], s[M * 16], got[M * WIDE];
    for (int i = 0; i < M * WIDE; i++) x[i] = (float)((i * 7919) % 997) / 100 - 5;
    for (int i = 0; i < R * WIDE; i++) y[i] = (float)((i * 104729) % 991) / 100 - 5;
    for (int i = 0; i < M * 16; i++) s[i] = (float)((i * 31) % 101) / 30 - 1;
    for (const kernels *const *k = kernels_all(); *k; k++)
        for (int m = 1; m <= M && kernels_usable(*k); m++)
            for (int n = 16; n <= WIDE; n += 48) {
                memcpy(want, x, sizeof x);
                memcpy(got, x, sizeof x);
                for (int i = 0; i < m; i++)
                    for (int r = 0; r < R; r++) (*k)->add(want + i * WIDE, y + r * WIDE, s[i * 16 + r], n);
                (*k)->add_ranks(got, WIDE, m, y, WIDE, s, 16, R, n);
                same((*k)->name, got, want, M * WIDE);
            }
}

/* ---- saved sessions ---- */

static int load_with(const char *path, const adapter *list, int n, char *bytes, size_t size, err *e) {
    engine *g = open_or_fail(path, with((engine_opts){ .threads = 1 }, list, n));
    session *s = new_session(g);
    FILE *f = fmemopen(bytes, size, "rb");
    int rc = session_load(s, f, e);
    assert_int_equal(session_len(s), rc ? 0 : TEXT);
    fclose(f);
    session_free(s);
    engine_close(g);
    return rc;
}

static void test_sessions(void **state) {
    (void)state;
    char path[PATH], *bytes;
    size_t size;
    int32_t tok[TEXT];
    const adapter a = { golden_adapter, 1 }, other = { golden_adapter, 0.5f }, two[] = { a, other }, turned[] = { other, a },
                  more[] = { a, { golden_adapter, 0 } };
    const struct {
        const adapter *list;
        int n;
        bool fits;
    } loads[] = { { two, 2, true }, { NULL, 0, false }, { &a, 1, false }, { turned, 2, false } };
    snprintf(path, sizeof path, "%s", converted(LLAMA, "q8"));
    engine *g = open_or_fail(path, with((engine_opts){ .threads = 1 }, two, 2));
    session *s = new_session(g);
    err e = { 0 };
    make_text(tok, TEXT, engine_about(g)->n_vocab, 1);
    must(session_sync(s, tok, TEXT, &e), &e);
    FILE *f = open_memstream(&bytes, &size);
    must(session_save(s, f, &e), &e);
    fclose(f);
    session_free(s);
    engine_close(g);
    for (size_t i = 0; i < sizeof loads / sizeof *loads; i++) {
        e = (err){ 0 };
        int rc = load_with(path, loads[i].list, loads[i].n, bytes, size, &e);
        assert_int_equal(rc == 0, loads[i].fits);
        if (rc && !strstr(e.msg, "adapters")) fail_msg("%s", e.msg);
    }
    free(bytes);
    g = open_or_fail(path, with((engine_opts){ .threads = 1 }, &a, 1));
    s = new_session(g);
    e = (err){ 0 };
    must(session_sync(s, tok, TEXT, &e), &e);
    f = open_memstream(&bytes, &size);
    must(session_save(s, f, &e), &e);
    fclose(f);
    session_free(s);
    engine_close(g);
    must(load_with(path, more, 2, bytes, size, &e), &e); /* an adapter at scale 0 is none */
    free(bytes);
}

/* ---- checkpoints changed by hand ---- */

typedef struct out_tensor {
    char name[200];
    uint64_t n, k; /* k 0: a vector */
    float *x;
} out_tensor;

typedef struct out_file {
    out_tensor *t;
    int n;
} out_file;

static uint32_t seed = 12345;
static float noise(void) {
    seed = seed * 1664525 + 1013904223;
    return ((float)(seed >> 8) / (1 << 24) - 0.5f) * 0.2f;
}

static float *add_tensor(out_file *f, const char *name, const char *suffix, uint64_t n, uint64_t k) {
    f->t = realloc(f->t, ((size_t)f->n + 1) * sizeof *f->t);
    assert_non_null(f->t);
    out_tensor *t = &f->t[f->n++];
    *t = (out_tensor){ .n = n, .k = k, .x = alloc_aligned((n * (k ? k : 1) + 1) * sizeof(float)) };
    snprintf(t->name, sizeof t->name, "%s%s", name, suffix);
    return t->x;
}

static void write_tensors(out_file *f, const char *folder, const char *name) {
    buf head = { 0 }, all = { 0 };
    uint64_t at = 0;
    for (int i = 0; i < f->n; i++) {
        const out_tensor *t = &f->t[i];
        uint64_t bytes = t->n * (t->k ? t->k : 1) * 4;
        buf_fmt(&head, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%llu", i ? "," : "{", t->name, (unsigned long long)t->n);
        if (t->k) buf_fmt(&head, ",%llu", (unsigned long long)t->k);
        buf_fmt(&head, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)(at + bytes));
        at += bytes;
    }
    buf_str(&head, "}");
    buf_u64(&all, head.n);
    buf_add(&all, head.p, head.n);
    for (int i = 0; i < f->n; i++) buf_add(&all, f->t[i].x, f->t[i].n * (f->t[i].k ? f->t[i].k : 1) * 4);
    write_text(folder, name, all.p, all.n);
    for (int i = 0; i < f->n; i++) free_aligned(f->t[i].x);
    free(f->t);
    buf_free(&head);
    buf_free(&all);
}

static bool is_table(const char *name) {
    static const char *const tables[] = { "embed", "wte.", "wpe.", "shared.weight", "relative_attention_bias" };
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (strstr(name, tables[i])) return true;
    return false;
}

/* An adapter for the matrix w [outputs][inputs] (turned: [inputs][outputs]) of alpha 2 r, and the matrix with it. */
static void adapt(out_file *adapter_file, const char *weight_name, float *w, uint64_t outputs, uint64_t inputs, bool turned,
                  uint64_t r) {
    char module[256];
    snprintf(module, sizeof module, "base_model.model.%.*s", (int)(strlen(weight_name) - 7), weight_name); /* without ".weight" */
    float *a = add_tensor(adapter_file, module, ".lora_A.weight", r, inputs),
          *b = add_tensor(adapter_file, module, ".lora_B.weight", outputs, r);
    for (uint64_t i = 0; i < r * inputs; i++) a[i] = noise();
    for (uint64_t i = 0; i < r * outputs; i++) b[i] = noise();
    for (uint64_t o = 0; o < outputs; o++)
        for (uint64_t i = 0; i < inputs; i++) {
            double sum = 0;
            for (uint64_t j = 0; j < r; j++) sum += (double)b[o * r + j] * (double)a[j * inputs + i];
            w[turned ? i * outputs + o : o * inputs + i] += (float)(2 * sum);
        }
}

static const char plain_config[] = "{\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":6,\"bias\":\"none\"}";

/* Makes `changed`, the checkpoint with an adapter in every matrix, and `lora`, that adapter. tied: the output matrix is the
 * embedding, and gets an adapter of its own. */
static void make_changed(const char *base, const char *changed, const char *lora, const char *tied) {
    safetensors st;
    err e = { 0 };
    out_file weights = { 0 }, adapters = { 0 };
    must(safetensors_open(&st, base, &e), &e);
    for (size_t i = 0; i < st.n; i++) {
        const st_tensor *t = &st.tensors[i];
        if (t->n_dims > 2 || t->type == ST_OTHER) continue;
        float *x = add_tensor(&weights, t->name, "", t->dims[0], t->n_dims == 2 ? t->dims[1] : 0);
        st_read(&st, t, 0, t->n, x);
        bool turned = strstr(base, "gpt2") && strstr(t->name, ".c_");
        if (t->n_dims == 2 && !is_table(t->name)) adapt(&adapters, t->name, x, t->dims[turned], t->dims[!turned], turned, 3);
        if (!tied || strcmp(t->name, tied) != 0) continue;
        x = add_tensor(&weights, "lm_head.weight", "", t->dims[0], t->dims[1]);
        st_read(&st, t, 0, t->n, x);
        adapt(&adapters, "lm_head.weight", x, t->dims[0], t->dims[1], false, 3);
    }
    safetensors_close(&st);
    write_tensors(&weights, changed, "model.safetensors");
    write_tensors(&adapters, lora, "adapter_model.safetensors");
    write_text(lora, "adapter_config.json", plain_config, strlen(plain_config));
    copy_file(base, changed, "config.json");
}

static void check_family(const char *name, const char *tied) {
    char base[PATH], changed[PATH], lora[PATH], out[4][PATH + 8];
    size_t n;
    snprintf(base, sizeof base, "tests/fixtures/golden/%s", name);
    assert_non_null(mkdtemp(in_work(changed, "changed-XXXXXX")));
    assert_non_null(mkdtemp(in_work(lora, "lora-XXXXXX")));
    make_changed(base, changed, lora, tied);
    for (int i = 0; i < 4; i++) snprintf(out[i], sizeof out[i], "%s/%d.bin", changed, i);
    must_convert(convert("%s -o '%s' --type f32", base, out[0]));
    must_convert(convert("'%s' -o '%s' --type f32", changed, out[1]));
    must_convert(convert("%s --merge '%s' -o '%s' --type f32", base, lora, out[2]));
    must_convert(convert("'%s' --base %s -o '%s'", lora, base, out[3]));
    float *plain = rows_with(out[0], exact, 0, &n), *want = rows_with(out[1], exact, 0, &n),
          *merged = rows_with(out[2], exact, 0, &n);
    float *applied = rows_with(out[0], with(exact, &(adapter){ out[3], 1 }, 1), 0, &n);
    double d_merged = difference(merged, want, n), d_applied = difference(applied, want, n), d_plain = difference(plain, want, n);
    print_message("%-10s merged %.1e, applied %.1e, without %.1e\n", name, d_merged, d_applied, d_plain);
    assert_true(d_plain > 0.02 && d_merged < 1e-4 * fmax(d_plain, 1) && d_applied < 1e-4 * fmax(d_plain, 1));
    free_aligned(plain);
    free_aligned(want);
    free_aligned(merged);
    free_aligned(applied);
}

static void test_families(void **state) {
    (void)state;
    static const struct {
        const char *name, *tied;
    } cases[] = { { "llama", NULL },
                  { "phi3", NULL },
                  { "gpt2", "transformer.wte.weight" },
                  { "gpt_neox", NULL },
                  { "mixtral", NULL },
                  { "qwen3_moe", NULL },
                  { "gemma2", "model.embed_tokens.weight" },
                  { "gemma3n", NULL },
                  { "olmo2", NULL },
                  { "t5_v11", NULL },
                  { "bert", NULL } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_family(cases[i].name, cases[i].tied);
}

/* ---- refusals of the converter ---- */

/* Converts a folder that must be refused: one line that mentions `mention`, and no file. */
static void refused(const char *folder, const char *mention) {
    char out[PATH];
    in_work(out, "refused.bin");
    int rc = convert("'%s' --base tests/fixtures/bad/valid -o '%s'", folder, out);
    const char *end = strchr(said, '\n');
    if (rc != 1 || !end || end[1] || !strstr(said, mention))
        fail_msg("%s: status %d, expected 1 and a line with %s: %s", folder, rc, mention, said);
    assert_int_equal(access(out, F_OK), -1);
}

static void test_bad(void **state) {
    (void)state;
    static const struct {
        const char *name, *mention;
    } cases[] = { { "lora_wrong_shape", "up_proj" },
                  { "lora_rank_mismatch", "rank" },
                  { "lora_half_missing", "up_proj" },
                  { "lora_unknown_module", "banana_proj" },
                  { "lora_layer_beyond_base", "layers.7" } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[PATH], out[PATH];
        snprintf(path, sizeof path, "tests/fixtures/bad/%s", cases[i].name);
        refused(path, cases[i].mention);
        assert_int_equal(convert("%s -o '%s'", path, in_work(out, "refused.bin")), 1); /* the base by base_model_name_or_path */
        assert_non_null(strstr(said, cases[i].mention));
        assert_int_equal(convert("tests/fixtures/bad/valid --merge %s -o '%s'", path, out), 1);
        assert_non_null(strstr(said, cases[i].mention));
        assert_int_equal(access(out, F_OK), -1);
    }
}

/* The golden adapter's tensors under another configuration. */
static const char *with_config(const char *config) {
    static char folder[PATH];
    assert_non_null(mkdtemp(in_work(folder, "config-XXXXXX")));
    copy_file(GOLDEN, folder, "adapter_model.safetensors");
    write_text(folder, "adapter_config.json", config, strlen(config));
    return folder;
}

static void test_configs(void **state) {
    (void)state;
    static const struct {
        const char *config, *mention;
    } bad[] = { { "[]", "adapter_config.json" },
                { "{", "adapter_config.json" },
                { "{\"r\":4}", "peft_type" },
                { "{\"peft_type\":\"IA3\"}", "IA3" },
                { "{\"peft_type\":\"LORA\",\"r\":4,\"use_dora\":true}", "DoRA" },
                { "{\"peft_type\":\"LORA\",\"r\":4,\"bias\":\"all\"}", "bias" },
                { "{\"peft_type\":\"LORA\",\"r\":4,\"trainable_token_indices\":[1]}", "trainable_token_indices" },
                { "{\"peft_type\":\"LORA\",\"r\":4,\"init_lora_weights\":\"pissa\"}", "pissa" },
                { "{\"peft_type\":\"LORA\",\"r\":4,\"use_marvel\":{\"x\":1}}", "use_marvel" },
                { "{\"peft_type\":\"LORA\",\"r\":0}", "r: " },
                { "{\"peft_type\":\"LORA\",\"r\":\"4\"}", "r: " },
                { "{\"peft_type\":\"LORA\",\"r\":1e99}", "r: " },
                { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":\"x\"}", "lora_alpha" },
                { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":1e999}", "lora_alpha" },
                { "{\"peft_type\":\"LORA\",\"r\":4,\"rank_pattern\":[1]}", "rank_pattern" },
                { "{\"peft_type\":\"LORA\",\"r\":4,\"rank_pattern\":{\"q_proj\":9}}", "q_proj" },
                { "{\"peft_type\":\"LORA\",\"r\":4,\"rank_pattern\":{\"q_proj(\":4}}", "q_proj(" },
                { "{\"peft_type\":\"LORA\",\"r\":4,\"alpha_pattern\":{\"\\\\d+\":4}}", "\\d+" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refused(with_config(bad[i].config), bad[i].mention);
}

/* Three ways to write the same adapter, and one that is not: alpha, rank-stabilised, by patterns. */
static void test_scale_settings(void **state) {
    (void)state;
    static const struct {
        const char *config;
        bool equal;
    } ways[] = {
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":6,\"use_rslora\":true}", true },
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":1,\"alpha_pattern\":{\"(self_attn|mlp)\\\\..*_proj\":12}}", true },
        { "{\"peft_type\":\"LORA\",\"r\":7,\"lora_alpha\":12,\"rank_pattern\":{\"layers.0.*\":4,\"^model.layers.[12].*\":4}}",
          true },
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":12,\"alpha_pattern\":{\"^q_proj\":1,\"_proj\":1}}",
          true }, /* these name nothing */
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":12,\"alpha_pattern\":{\"q_proj\":13}}", false }
    };
    size_t n;
    float *want = rows_with(converted(LLAMA, "f32"), with(exact, &(adapter){ golden_adapter, 1 }, 1), 0, &n);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        char out[PATH];
        in_work(out, "way.bin");
        must_convert(convert("'%s' --base %s -o '%s' --force", with_config(ways[i].config), LLAMA, out));
        float *rows = rows_with(converted(LLAMA, "f32"), with(exact, &(adapter){ out, 1 }, 1), 0, &n);
        if ((memcmp(rows, want, n * sizeof *rows) == 0) != ways[i].equal)
            fail_msg("%s: expected %s results", ways[i].config, ways[i].equal ? "equal" : "other");
        free_aligned(rows);
    }
    free_aligned(want);
}

/* Tensors that are no plain LoRA, and values that are no numbers. */
static void test_tensors(void **state) {
    (void)state;
    static const struct {
        const char *a, *b, *mention;
    } cases[] = { { "base_model.model.lm_head.weight", NULL, "is it this adapter's base?" },
                  { "base_model.model.model.embed_tokens.lora_embedding_A", NULL, "embedding" },
                  { "base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector", NULL, "DoRA" },
                  { ".lora_A.weight", NULL, "lora_A" },
                  { "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight", NULL, "up_proj" },
                  { "base_model.model.model.embed_tokens.lora_A.weight", "base_model.model.model.embed_tokens.lora_B.weight",
                    "embed_tokens" },
                  { "base_model.model.model.norm.lora_A.weight", "base_model.model.model.norm.lora_B.weight", "norm" },
                  { "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
                    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", "NaN" } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char folder[PATH];
        out_file f = { 0 };
        assert_non_null(mkdtemp(in_work(folder, "tensors-XXXXXX")));
        add_tensor(&f, cases[i].a, "", 3, 16)[5] = NAN;
        if (cases[i].b) add_tensor(&f, cases[i].b, "", strstr(cases[i].b, "embed") ? 32 : 16, 3);
        write_tensors(&f, folder, "adapter_model.safetensors");
        write_text(folder, "adapter_config.json", plain_config, strlen(plain_config));
        refused(folder, cases[i].mention);
    }
    char folder[PATH];
    out_file none = { 0 };
    assert_non_null(mkdtemp(in_work(folder, "tensors-XXXXXX")));
    write_text(folder, "adapter_config.json", plain_config, strlen(plain_config));
    refused(folder, "adapter_model.safetensors");
    write_text(folder, "adapter_model.bin", "PK", 2);
    refused(folder, "pickled");
    add_tensor(&none, "base_model.model.x.lora_A.weight", "", 0, 0);
    write_tensors(&none, folder, "adapter_model.safetensors");
    refused(folder, "x.lora_A");
    assert_int_equal(convert("%s -o '%s/x' --base tests/fixtures/bad/valid --vocab-only", GOLDEN, work_dir), 2);
    assert_int_equal(convert("%s -o '%s/x' --base no/such/folder", GOLDEN, work_dir), 1);
    assert_non_null(strstr(said, "no/such/folder"));
}

/* ---- refusals of the engine ---- */

static void not_opened(const char *model, const char *path, const char *mention) {
    engine *g;
    err e = { 0 };
    engine_opts o = with((engine_opts){ .path = model, .threads = 1 }, &(adapter){ path, 1 }, 1);
    if (engine_open(&g, &o, &e) == 0 || !strstr(e.msg, mention))
        fail_msg("%s with %s: expected an error with %s, found %s", model, path, mention, e.msg);
}

/* A copy of the golden adapter's file with one thing wrong, well sealed. */
typedef struct edit {
    const char *mention, *record, *rename_from, *rename_to, *drop, *shape;
} edit;

static void write_edited(const char *out, const edit *x) {
    file f;
    file_writer *w;
    buf records = { 0 };
    err e = { 0 };
    record r;
    size_t at = 0;
    must(file_open(&f, golden_adapter, &e), &e);
    while (record_next(&f, &at, &r)) {
        char key[80];
        int64_t changed = 77;
        snprintf(key, sizeof key, "%.*s", (int)r.key_n, r.key);
        if (x->drop && strcmp(key, x->drop) == 0) continue;
        if (r.type == REC_I64)
            record_add_i64(&records, key, x->record && strcmp(key, x->record) == 0 ? &changed : r.values, r.count);
        else if (r.type == REC_F64) record_add_f64(&records, key, r.values, r.count);
        else record_add_bytes(&records, key, r.values, r.count);
    }
    int64_t one = 1;
    if (x->record && strncmp(x->record, "new.", 4) == 0) record_add_i64(&records, x->record, &one, 1);
    must(file_write_open(&w, out, true, &e), &e);
    for (uint32_t i = 0; i < f.n_tensors; i++) {
        const file_tensor *t = &f.tensors[i];
        if (x->drop && strcmp(t->name, x->drop) == 0) continue;
        const char *name = x->rename_from && strcmp(t->name, x->rename_from) == 0 ? x->rename_to : t->name;
        uint64_t k = x->shape && strcmp(t->name, x->shape) == 0 ? t->dims[1] - 1 : t->dims[1];
        if (file_write_tensor(w, name, W_F32, 2, t->dims[0], k, &e) < 0) fail_msg("%s", e.msg);
    }
    must(file_write_begin(w, &records, NULL, 0, &e), &e);
    for (uint32_t i = 0, n = 0; i < f.n_tensors; i++) {
        if (x->drop && strcmp(f.tensors[i].name, x->drop) == 0) continue;
        uint64_t bytes;
        assert_int_equal(matrix_bytes(W_F32, LAYOUT_ROWS, f.tensors[i].dims[0],
                                      f.tensors[i].dims[1] - (x->shape && strcmp(f.tensors[i].name, x->shape) == 0), &bytes),
                         0);
        must(file_write_data(w, (int)n++, file_data(&f, &f.tensors[i]), bytes, &e), &e);
    }
    must(file_write_end(&w, &e), &e);
    buf_free(&records);
    file_close(&f);
}

static void test_engine_refusals(void **state) {
    (void)state;
    static const edit edits[] = {
        { .mention = "version", .record = "adapter" },
        { .mention = "new.thing", .record = "new.thing" },
        { .mention = "d_model 77", .record = "base.d_model" },
        { .mention = "base.d_ff", .drop = "base.d_ff" },
        { .mention = "model, not an adapter", .drop = "adapter" },
        { .mention = "base.vectors", .drop = "base.vectors" },
        { .mention = "layers.1.down.lora_a", .drop = "layers.1.down.lora_b" },
        { .mention = "layers.1.down.lora_b", .drop = "layers.1.down.lora_a" },
        { .mention = "layers.1.down: expected", .shape = "layers.1.down.lora_a" },
        { .mention = "layers.1.qkv: expected", .shape = "layers.1.qkv.lora_b" },
        { .mention = "layers.9.down", .rename_from = "layers.1.down.lora_a", .rename_to = "layers.9.down.lora_a" },
        { .mention = "embed", .rename_from = "layers.1.down.lora_a", .rename_to = "embed.lora_a" },
        { .mention = "experts.0.down", .rename_from = "layers.1.down.lora_a", .rename_to = "layers.1.experts.0.down.lora_a" },
        { .mention = "some.thing", .rename_from = "layers.1.down.lora_a", .rename_to = "some.thing" }
    };
    char model[PATH], other[PATH], out[PATH];
    engine *g;
    err e = { 0 };
    snprintf(model, sizeof model, "%s", converted(LLAMA, "q8"));
    snprintf(other, sizeof other, "%s", converted("tests/fixtures/golden/llama3", "q8"));
    not_opened(model, "no/such.bin", "no/such.bin");
    not_opened(model, other, "is a model, not an adapter");
    not_opened(other, golden_adapter, golden_adapter);
    assert_int_equal(engine_open(&g, &(engine_opts){ .path = golden_adapter }, &e), -1);
    assert_non_null(strstr(e.msg, "is an adapter"));
    e = (err){ 0 };
    engine_opts o = with((engine_opts){ .path = model }, &(adapter){ golden_adapter, NAN }, 1);
    assert_int_equal(engine_open(&g, &o, &e), -1);
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        write_edited(in_work(out, "edited.bin"), &edits[i]);
        not_opened(model, out, edits[i].mention);
    }
    write_edited(out, &(edit){ .record = "base.vectors" }); /* other weights of the same architecture: said, not refused */
    g = open_or_fail(model, with((engine_opts){ .threads = 1 }, &(adapter){ out, 1 }, 1));
    assert_non_null(strstr(engine_about(g)->adapter_warning, "other weights"));
    engine_close(g);
    g = open_or_fail(model, with((engine_opts){ .threads = 1 }, &(adapter){ golden_adapter, 1 }, 1));
    assert_null(engine_about(g)->adapter_warning);
    assert_int_equal(engine_about(g)->n_adapters, 1);
    engine_close(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference), cmocka_unit_test(test_scales),         cmocka_unit_test(test_sameness),
        cmocka_unit_test(test_kernel),    cmocka_unit_test(test_sessions),       cmocka_unit_test(test_families),
        cmocka_unit_test(test_bad),       cmocka_unit_test(test_configs),        cmocka_unit_test(test_scale_settings),
        cmocka_unit_test(test_tensors),   cmocka_unit_test(test_engine_refusals)
    };
    make_work_dir();
    in_work(golden_adapter, "golden.bin");
    int rc = convert("%s -o '%s'", GOLDEN, golden_adapter); /* the base by base_model_name_or_path */
    if (rc) fprintf(stderr, "%s", said);
    else rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
