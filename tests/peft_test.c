/* peft: adapters with whole modules (modules_to_save) against PEFT's own logits, applied and merged, alone and scaled; and what of
 * them is refused. tests/tools/make_peft.py makes the fixtures. */
#define _GNU_SOURCE
#include <math.h>
#include "weights/file.h"
#include "weights/safetensors.h"
#include "tests/models.h"

enum { PATH = 800 };
#define FIXTURES "tests/fixtures/peft/"
#define GOLDEN "tests/fixtures/golden/"

static const struct {
    const char *name, *base;
} cases[] = { { "whole", "llama" },      { "tied_embed", "llama3" }, { "tied_head", "llama3" },
              { "tied_both", "llama3" }, { "lora_head", "llama" },   { "turned", "gpt2" } };
enum { N_CASES = sizeof cases / sizeof *cases };

static char said[4096];

static int convert(const char *fmt, ...) PRINTF_LIKE(1, 2);
static int convert(const char *fmt, ...) {
    char args[3 * PATH], command[4 * PATH + 400], log[PATH];
    buf text = { 0 };
    err e = { 0 };
    va_list list;
    va_start(list, fmt);
    vsnprintf(args, sizeof args, fmt, list);
    va_end(list);
    snprintf(log, sizeof log, "%s/log", work_dir);
    snprintf(command, sizeof command, "%s/convert --force %s 2>'%s'", bin_dir(), args, log);
    int rc = system(command);
    must(read_file(log, 0, &text, &e), &e);
    snprintf(said, sizeof said, "%s", text.p ? text.p : "");
    buf_free(&text);
    return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

static void must_convert(int rc) {
    if (rc) fail_msg("convert: status %d: %s", rc, said);
}

static void must_refuse(int rc, const char *mention) {
    const char *end = strchr(said, '\n');
    if (rc != 1 || !end || end[1] || !strstr(said, mention))
        fail_msg("status %d, expected 1 and one line with \"%s\": %s", rc, mention, said);
}

static char *in_work(char *out, const char *name) {
    snprintf(out, PATH, "%s/%s", work_dir, name);
    return out;
}

static void case_tokens(const char *base, ids *tokens, double *tolerance) {
    char path[PATH];
    arena mem = { 0 };
    buf text = { 0 };
    json *j;
    err e = { 0 };
    snprintf(path, sizeof path, GOLDEN "%s/expected.json", base);
    must(read_file(path, 0, &text, &e), &e);
    must(json_parse(&mem, text.p, text.n, &j, &e), &e);
    json_ids(json_get(j, "tokens"), tokens);
    assert_int_equal(json_num(json_get(j, "tolerance"), tolerance), 0);
    buf_free(&text);
    arena_free(&mem);
}

/* Logits of the tokens, in pieces of so many (0: at once); NULL and *e: the engine does not open. The caller frees. */
static float *logits_of(const char *model, const adapter *list, int n, const ids *tokens, bool exact, int piece, size_t *ld, err *e) {
    engine *g;
    engine_opts o = { .path = model, .threads = 1 + (piece & 1), .exact = exact, .adapters = list, .n_adapters = n };
    if (engine_open(&g, &o, e)) return NULL;
    session *s = new_session(g);
    *ld = (size_t)engine_about(g)->logits_ld;
    float *rows = alloc_aligned(tokens->n * *ld * sizeof *rows);
    for (int at = 0, take; at < (int)tokens->n; at += take) {
        take = piece && piece < (int)tokens->n - at ? piece : (int)tokens->n - at;
        must(engine_step(g, &(step){ s, tokens->p + at, take, rows + (size_t)at * *ld }, 1, e), e);
    }
    session_free(s);
    engine_close(g);
    return rows;
}

/* The largest difference from a file of the case. */
static double off(const char *name, const char *expected, const float *rows, size_t ld, size_t n_rows) {
    char path[PATH];
    size_t n;
    double worst = 0;
    snprintf(path, sizeof path, FIXTURES "%s/%s", name, expected);
    float *want = read_floats(path, &n);
    assert_int_equal(n % n_rows, 0);
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)rows[i / (n / n_rows) * ld + i % (n / n_rows)] - want[i]);
        if (!(d <= worst)) worst = d;
    }
    free(want);
    return worst;
}

static void check(const char *what, const char *name, const char *expected, const char *model, const adapter *list, int n, const ids *tokens,
                  double limit) {
    size_t ld;
    err e = { 0 };
    float *rows = logits_of(model, list, n, tokens, true, 0, &ld, &e);
    if (!rows) fail_msg("%s: %s", name, e.msg);
    double d = off(name, expected, rows, ld, tokens->n);
    print_message("%-10s %-8s %-10s off by %.1e, limit %.1e\n", name, expected, what, d, limit);
    assert_true(d <= limit);
    free_aligned(rows);
}

static void check_case(const char *name, const char *base) {
    char folder[300], model[PATH], lora[PATH], merged[PATH];
    ids tokens = { 0 };
    double tolerance;
    snprintf(folder, sizeof folder, GOLDEN "%s", base);
    snprintf(model, sizeof model, "%s", converted(folder, "f32"));
    case_tokens(base, &tokens, &tolerance);
    must_convert(convert(FIXTURES "%s -o '%s' --type f32", name, in_work(lora, "adapter.bin")));
    check("applied", name, "logits.bin", model, &(adapter){ lora, 1 }, 1, &tokens, tolerance);
    check("applied", name, "half.bin", model, &(adapter){ lora, 0.5f }, 1, &tokens, tolerance);
    must_convert(convert("%s --merge " FIXTURES "%s -o '%s' --type f32", folder, name, in_work(merged, "merged.bin")));
    check("merged", name, "logits.bin", merged, NULL, 0, &tokens, tolerance);
    must_convert(convert("%s --merge " FIXTURES "%s:0.5 -o '%s' --type f32", folder, name, merged));
    check("merged", name, "half.bin", merged, NULL, 0, &tokens, tolerance);
    must_convert(convert(FIXTURES "%s -o '%s'", name, lora)); /* q8, and a model of it: near */
    snprintf(model, sizeof model, "%s", converted(folder, "q8"));
    check("q8", name, "logits.bin", model, &(adapter){ lora, 1 }, 1, &tokens, 0.5);
    ids_free(&tokens);
}

static void test_reference(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++) check_case(cases[i].name, cases[i].base);
}

/* A tied file keeps its one matrix where both are saved alike; a merged one that is untied has two. */
static void test_tied(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bool tied;
    } files[] = { { "tied_both", true }, { "tied_embed", false }, { "tied_head", false } };
    for (int i = 0; i < 3; i++) {
        char path[PATH];
        file f;
        err e = { 0 };
        must_convert(convert(GOLDEN "llama3 --merge " FIXTURES "%s -o '%s'", files[i].name, in_work(path, "merged.bin")));
        must(file_open(&f, path, &e), &e);
        assert_int_equal(file_find(&f, "embed")->at == file_find(&f, "output")->at, files[i].tied);
        file_close(&f);
        must_convert(convert(FIXTURES "%s -o '%s'", files[i].name, in_work(path, "adapter.bin")));
        must(file_open(&f, path, &e), &e);
        assert_int_equal(file_find(&f, "embed") != NULL, i != 2);
        assert_int_equal(file_find(&f, "output") != NULL, i != 1);
        if (i == 0) assert_true(file_find(&f, "embed")->at == file_find(&f, "output")->at);
        file_close(&f);
    }
}

/* The same bits however it is cut, for files of several types; scale 0 leaves the whole tensors away too. */
static void test_sameness(void **state) {
    (void)state;
    static const char *const types[] = { "f32", "q8", "q4", "bf16" };
    ids tokens = { 0 };
    double tolerance;
    case_tokens("llama", &tokens, &tolerance);
    for (int t = 0; t < 4; t++) {
        char model[PATH], lora[PATH];
        size_t ld;
        err e = { 0 };
        snprintf(model, sizeof model, "%s", converted(GOLDEN "llama", types[t]));
        must_convert(convert(FIXTURES "whole -o '%s' --type %s", in_work(lora, "adapter.bin"), types[3 - t]));
        float *want = logits_of(model, &(adapter){ lora, 1 }, 1, &tokens, false, 0, &ld, &e);
        for (int piece = 1; piece < 8; piece += 3) {
            float *rows = logits_of(model, &(adapter){ lora, 1 }, 1, &tokens, false, piece, &ld, &e);
            assert_memory_equal(rows, want, tokens.n * ld * sizeof *rows);
            free_aligned(rows);
        }
        float *none = logits_of(model, &(adapter){ lora, 0 }, 1, &tokens, false, 0, &ld, &e),
              *plain = logits_of(model, NULL, 0, &tokens, false, 0, &ld, &e);
        assert_memory_equal(none, plain, tokens.n * ld * sizeof *none);
        assert_true(memcmp(want, plain, tokens.n * ld * sizeof *want) != 0);
        free_aligned(want);
        free_aligned(none);
        free_aligned(plain);
    }
    ids_free(&tokens);
}

/* ---- refusals ---- */

static void test_twice(void **state) {
    (void)state;
    char one[PATH], two[PATH], out[PATH], model[PATH];
    ids tokens = { 0 };
    double tolerance;
    size_t ld;
    err e = { 0 };
    case_tokens("llama3", &tokens, &tolerance);
    snprintf(model, sizeof model, "%s", converted(GOLDEN "llama3", "f32"));
    must_convert(convert(FIXTURES "tied_embed -o '%s'", in_work(one, "one.bin")));
    must_convert(convert(FIXTURES "tied_both -o '%s'", in_work(two, "two.bin")));
    const adapter list[] = { { one, 1 }, { two, 1 } }, away[] = { { one, 1 }, { two, 0 } };
    assert_null(logits_of(model, list, 2, &tokens, true, 0, &ld, &e));
    if (!strstr(e.msg, "two.bin: tensor embed: another adapter")) fail_msg("%s", e.msg);
    e = (err){ 0 };
    float *rows = logits_of(model, away, 2, &tokens, true, 0, &ld, &e);
    if (!rows) fail_msg("%s", e.msg);
    free_aligned(rows);
    must_refuse(convert(GOLDEN "llama3 --merge " FIXTURES "tied_embed --merge " FIXTURES "tied_both -o '%s'", in_work(out, "no.bin")),
                "model.embed_tokens.weight is replaced by");
    must_convert(convert(GOLDEN "llama3 --merge " FIXTURES "tied_embed --merge " FIXTURES "tied_head -o '%s'", out));
    must_refuse(convert("tests/fixtures/golden/lora_llama -o '%s' --type q4", out), "modules_to_save");
    must_refuse(convert(FIXTURES "whole --base " GOLDEN "llama3 -o '%s'", out), "is it this adapter's base?");
    ids_free(&tokens);
}

/* An adapter of one tensor, of n x k ones (k 0: a vector), for the golden model llama3, whose output matrix is its embedding. */
static const char *with_tensor(const char *name, const char *dtype, const char *listed, int n, int k) {
    static char folder[PATH];
    char path[PATH + 40];
    buf text = { 0 };
    size_t count = (size_t)n * (size_t)(k ? k : 1), size = strcmp(dtype, "F32") == 0 ? 4 : 1;
    assert_non_null(mkdtemp(in_work(folder, "made-XXXXXX")));
    buf_fmt(&text, "{\"base_model.model.%s\":{\"dtype\":\"%s\",\"shape\":[%d", name, dtype, n);
    if (k) buf_fmt(&text, ",%d", k);
    buf_fmt(&text, "],\"data_offsets\":[0,%zu]}}", count * size);
    uint64_t header = text.n;
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(&header, 8, 1, f);
    fwrite(text.p, 1, text.n, f);
    const float one = 1;
    for (size_t i = 0; i < count; i++) fwrite(&one, 1, size, f);
    assert_int_equal(fclose(f), 0);
    snprintf(path, sizeof path, "%s/adapter_config.json", folder);
    f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "{\"peft_type\":\"LORA\",\"r\":4,\"modules_to_save\":[%s]}", listed);
    assert_int_equal(fclose(f), 0);
    buf_free(&text);
    return folder;
}

static void test_tensors(void **state) {
    (void)state;
    static const struct {
        const char *name, *dtype, *listed;
        int n, k;
        const char *mention; /* NULL: it converts */
    } tensors[] = {
        { "model.norm.weight", "F32", "\"norm\"", 64, 0, NULL },
        { "model.norm.modules_to_save.weight", "F32", "\"norm\"", 64, 0, NULL },
        { "model.norm.modules_to_save.default.weight", "F32", "\"norm\"", 64, 0, NULL },
        { "norm.weight", "F32", "\"norm\"", 64, 0, NULL }, /* of the model without its head */
        { "lm_head.weight", "F32", "\"lm_head\"", 320, 64, NULL },
        { "lm_head.weight", "F32", "", 320, 64, "modules_to_save does not name" },
        { "model.embed_tokens.base_layer.weight", "F32", "", 320, 64, "modules_to_save does not name" },
        { "lm_head.weight", "F32", "\"lm_head\"", 321, 64, "resize_token_embeddings" },
        { "model.norm.weight", "F32", "\"norm\"", 65, 0, "expected shape [64] by the base, found [65]" },
        { "model.norm.weight", "F32", "\"norm\"", 1, 64, "expected shape [64] by the base, found [1, 64]" },
        { "model.norm.weight", "U8", "\"norm\"", 64, 0, "dtype U8" },
        { "model.norm.bias", "F32", "\"norm\"", 64, 0, "has no tensor model.norm.bias" },
        { "score.weight", "F32", "\"score\"", 2, 64, "has no tensor score.weight" },
        { "model.layers.0.mlp.down_proj.lora_magnitude_vector", "F32", "", 64, 0, "DoRA" },
        { "model.embed_tokens.lora_embedding_A", "F32", "", 4, 320, "LoRA on an embedding" },
        { "model.embed_tokens.token_adapter.trainable_tokens_delta", "F32", "", 2, 64, "trained tokens" },
    };
    char out[PATH];
    in_work(out, "made.bin");
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        const char *folder = with_tensor(tensors[i].name, tensors[i].dtype, tensors[i].listed, tensors[i].n, tensors[i].k);
        for (int merge = 0; merge < 2; merge++) {
            int rc = merge ? convert(GOLDEN "llama3 --merge '%s' -o '%s'", folder, out)
                           : convert("'%s' --base " GOLDEN "llama3 -o '%s'", folder, out);
            if (tensors[i].mention) must_refuse(rc, tensors[i].mention);
            else must_convert(rc);
        }
    }
    must_convert(convert("'%s' --base " GOLDEN "llama3 -o '%s'", with_tensor("model.norm.weight", "F32", "\"lm_head\"", 64, 0), out));
    assert_non_null(strstr(said, "modules_to_save names lm_head, but"));
    must_refuse(convert("'%s' --base " GOLDEN "t5 -o '%s'", with_tensor("shared.weight", "F32", "\"shared\"", 256, 64), out), "share theirs");
    static const char bias[] = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    const char *folder = with_tensor(bias, "F32", "\"relative_attention_bias\"", 32, 4);
    must_convert(convert(GOLDEN "t5 --merge '%s' -o '%s'", folder, out));
    must_refuse(convert("'%s' --base " GOLDEN "t5 -o '%s'", folder, out), "--merge");
}

/* An adapter file for another shape of model, with the same numbers: the engine says which tensor. */
static void test_engine(void **state) {
    (void)state;
    char lora[PATH], out[PATH], model[PATH];
    file f;
    err e = { 0 };
    snprintf(model, sizeof model, "%s", converted(GOLDEN "llama3", "f32"));
    must_convert(convert(FIXTURES "tied_embed -o '%s' --type f32", in_work(lora, "adapter.bin")));
    for (int kind = 0; kind < 3; kind++) {
        file_writer *w;
        buf records = { 0 };
        must(file_open(&f, lora, &e), &e);
        const file_tensor *t = file_find(&f, "embed");
        buf_add(&records, f.map.p + f.header->records_at, f.header->records_bytes);
        must(file_write_open(&w, in_work(out, "edited.bin"), true, &e), &e);
        uint64_t rows = t->dims[0] - (kind == 1), bytes = rows * 64 * 4;
        bytes = round_up(rows, PANEL) * 64 * 4;
        assert_true(file_write_tensor(w, kind == 2 ? "rope.0" : "embed", W_F32, 2, rows, 64, &e) == 0);
        must(file_write_begin(w, &records, NULL, 0, &e), &e);
        must(file_write_data(w, 0, file_data(&f, t), bytes, &e), &e);
        must(file_write_end(&w, &e), &e);
        engine *g;
        engine_opts o = { .path = model, .threads = 1, .adapters = &(adapter){ out, 1 }, .n_adapters = 1 };
        int rc = engine_open(&g, &o, &e);
        assert_int_equal(rc, kind ? -1 : 0);
        if (rc && !strstr(e.msg, kind == 1 ? "tensor embed: expected [320][64]" : "tensor rope.0: ")) fail_msg("%s", e.msg);
        if (!rc) engine_close(g);
        e = (err){ 0 };
        file_close(&f);
        buf_free(&records);
    }
}

/* ---- quality and bench/model ---- */

/* A number of the JSON that a program prints. */
static double figure(const char *key, const char *fmt, ...) PRINTF_LIKE(2, 3);
static double figure(const char *key, const char *fmt, ...) {
    char command[4 * PATH];
    buf text = { 0 };
    arena mem = { 0 };
    json *j;
    err e = { 0 };
    double x = NAN;
    va_list list;
    va_start(list, fmt);
    vsnprintf(command, sizeof command, fmt, list);
    va_end(list);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    must(read_stream(f, 0, &text, &e), &e);
    if (pclose(f)) fail_msg("%s: failed", command);
    must(json_parse(&mem, text.p, text.n, &j, &e), &e);
    assert_int_equal(json_num(json_get(j, key), &x), 0);
    buf_free(&text);
    arena_free(&mem);
    return x;
}

static void test_programs(void **state) {
    (void)state;
    char model[PATH], lora[PATH], command[4 * PATH];
    const char *bin = bin_dir();
    snprintf(model, sizeof model, "%s", converted("weights/pip-stories", "q8"));
    must_convert(convert("'%s' --base weights/pip-stories -o '%s'", with_tensor("model.norm.weight", "F32", "\"norm\"", 256, 0),
                         in_work(lora, "norm.bin")));
    snprintf(command, sizeof command, "%s/quality '%s' README.md --ctx 64 --json", bin, model);
    double plain = figure("perplexity", "%s", command), with = figure("perplexity", "%s --lora '%s'", command, lora),
           away = figure("perplexity", "%s --lora '%s':0", command, lora);
    assert_true(plain == away && fabs(with - plain) > 0.01 * plain);
    assert_true(figure("ref_perplexity", "%s --lora '%s' --ref '%s'", command, lora, model) == plain);
    assert_true(figure("ref_perplexity", "%s --ref '%s' --ref-lora '%s'", command, model, lora) == with);
    assert_true(figure("kl", "%s --lora '%s' --ref '%s' --ref-lora '%s'", command, lora, model, lora) == 0);
    snprintf(command, sizeof command, "%s/bench/model '%s' -p 8 -n 2 -r 1 --json", bin, converted(GOLDEN "llama", "q8"));
    double bytes = figure("decode_bytes", "%s", command);
    must_convert(convert("tests/fixtures/golden/lora_llama -o '%s'", lora));
    assert_true(figure("adapters", "%s", command) == 0 && figure("adapters", "%s --lora '%s':0.5", command, lora) == 1);
    assert_true(figure("decode_bytes", "%s --lora '%s'", command, lora) == bytes + figure("adapter_bytes", "%s --lora '%s'", command, lora));
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_reference), cmocka_unit_test(test_tied),     cmocka_unit_test(test_sameness),
                                        cmocka_unit_test(test_twice),     cmocka_unit_test(test_tensors), cmocka_unit_test(test_engine),
                                        cmocka_unit_test(test_programs) };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
