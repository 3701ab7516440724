/* convert: every fixture's tensors come out as they are in the checkpoint, every damaged checkpoint is refused with one line
 * that says why, and what the fixtures lack is made here: tiny checkpoints written by the test itself. */
#define _GNU_SOURCE
#include "runtime/arch.h"
#include "weights/file.h"
#include "weights/safetensors.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/test.h"

static char work[256], out[300], log_path[300], made[300];
static char said[16384]; /* what the last convert wrote on stderr */

static const char *bin_dir(void) { return getenv("QUERN_BIN") ? getenv("QUERN_BIN") : "."; }

/* Runs convert on a folder; options as a shell reads them. Returns the exit status and fills `said`. */
static int convert(const char *from, const char *options) {
    char command[2048];
    snprintf(command, sizeof command, "%s/convert '%s' -o '%s' %s 2>'%s'", bin_dir(), from, out, options, log_path);
    int status = system(command);
    FILE *f = fopen(log_path, "rb");
    assert_non_null(f);
    size_t n = fread(said, 1, sizeof said - 1, f);
    said[n] = 0;
    fclose(f);
    if (!WIFEXITED(status)) fail_msg("convert %s: died: %s", from, said);
    return WEXITSTATUS(status);
}

static void must_convert(const char *from, const char *options) {
    unlink(out);
    if (convert(from, options)) fail_msg("convert %s %s: %s", from, options, said);
}

static int entries(const char *folder) {
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *f; (f = readdir(d));) n += f->d_name[0] != '.';
    closedir(d);
    return n;
}

/* One line, status 1, nothing left behind; one of the words, separated by |, is in it. */
static void must_refuse(const char *from, const char *options, const char *words) {
    unlink(out);
    int status = convert(from, options), lines = 0;
    for (const char *p = said; *p; p++) lines += *p == '\n';
    if (status != 1) fail_msg("%s %s: expected a refusal, found status %d: %s", from, options, status, said);
    if (lines != 1 || strncmp(said, "convert: ", 9) != 0) fail_msg("%s: expected one line, found: %s", from, said);
    bool found = false;
    char list[512], *rest = list;
    snprintf(list, sizeof list, "%s", words);
    for (char *word; (word = strsep(&rest, "|"));) { /* the path is not what is meant */
        char *after = strstr(said, from);
        found |= strcasestr(after ? after + strlen(from) : said, word) != NULL;
    }
    if (!found) fail_msg("%s: expected one of %s, found: %s", from, words, said);
    if (access(out, F_OK) == 0) fail_msg("%s: left an output", from);
}

/* ---- fixtures: damaged checkpoints ---- */

static void data_of(const char *from, buf *data) {
    file f;
    err e = { 0 };
    must_convert(from, "--type f32");
    assert_int_equal(file_open(&f, out, &e), 0);
    for (uint32_t i = 0; i < f.n_tensors; i++) buf_add(data, &f.tensors[i], sizeof f.tensors[i]);
    buf_add(data, f.map.p + f.header->data_at, f.map.n - f.header->data_at);
    file_close(&f);
}

static void test_bad(void **state) {
    (void)state;
    buf text = { 0 };
    err e = { 0 };
    int cases = 0;
    assert_int_equal(read_file("tests/fixtures/bad/cases.tsv", 0, &text, &e), 0);
    char *rest = text.p;
    for (char *line; (line = strsep(&rest, "\n")) && *line; cases++) {
        char *name = strsep(&line, "\t"), *expect = strsep(&line, "\t"), *mention = strsep(&line, "\t"), path[512];
        snprintf(path, sizeof path, "tests/fixtures/bad/%s", name);
        if (strcmp(expect, "convert") == 0) must_convert(path, "");
        else must_refuse(path, "", mention);
    }
    assert_true(cases >= 66);
    unlink(out);
    assert_int_equal(entries(work), 1); /* the log: no temporary file either */
    buf_free(&text);
    buf one = { 0 }, two = { 0 };
    data_of("tests/fixtures/bad/valid", &one);
    data_of("tests/fixtures/bad/valid_odd_header", &two);
    assert_non_null(strstr(said, "some.other.tensor"));
    assert_int_equal(one.n, two.n);
    assert_memory_equal(one.p, two.p, one.n);
    buf_free(&one);
    buf_free(&two);
}

/* ---- fixtures: sound checkpoints, tensor by tensor ---- */

typedef struct source {
    const char *pattern;
    int rows; /* of the checkpoint's tensor */
} source;

/* Row r of an output made of parts, each padded to 16, one after the other or 16 rows in turn: into x[k]; false: padding. */
static bool source_row(const safetensors *st, const source *parts, int n_parts, bool interleaved, int layer, int r, int k,
                       float *x) {
    int p = 0;
    if (interleaved) p = r / 16 % n_parts, r = r / 16 / n_parts * 16 + r % 16;
    else
        while (n_parts > 1 && r >= (parts[p].rows + 15) / 16 * 16) r -= (parts[p++].rows + 15) / 16 * 16;
    if (r >= parts[p].rows) return false;
    char name[200], number[16];
    snprintf(number, sizeof number, "%d", layer);
    const char *hole = strchr(parts[p].pattern, '#');
    if (hole) snprintf(name, sizeof name, "%.*s%s%s", (int)(hole - parts[p].pattern), parts[p].pattern, number, hole + 1);
    else snprintf(name, sizeof name, "%s", parts[p].pattern);
    const st_tensor *t = safetensors_find(st, name);
    if (!t) fail_msg("no tensor %s", name);
    st_read(st, t, (uint64_t)r * (uint64_t)k, (uint64_t)k, x);
    return true;
}

/* Rows r to r + 16 of a matrix in either layout. */
static void unpack16(const file_tensor *t, const char *data, int r, int k, float *rows) {
    size_t one = plain_row_bytes((wtype)t->type, k), padded = round_up((size_t)k, 64);
    if (t->layout == LAYOUT_P16)
        unpack_panel((wtype)t->type, data + (size_t)r / 16 * panel_bytes((wtype)t->type, k), k, t->exponent, rows);
    for (size_t i = 0; t->layout == LAYOUT_ROWS && i < 16; i++)
        unpack_plain_row((wtype)t->type, data + ((size_t)r + i) * one, k, t->exponent, rows + i * padded);
}

static double limit_of(wtype t) { return t == W_Q4 ? 0.13 : t == W_Q8 ? 0.008 : t == W_BF16 ? 0.003 : 0; }

static void check_output(const file *f, const safetensors *st, const char *name, const source *parts, int n_parts, bool interleaved,
                         int layer, int n, int k) {
    const file_tensor *t = file_find(f, name);
    if (!t) fail_msg("no tensor %s", name);
    bool vector = k == 1;
    if (t->dims[0] != (uint64_t)n || t->dims[1] != (vector ? 0 : (uint64_t)k)) fail_msg("%s: shape", name);
    size_t padded = vector ? 1 : round_up((size_t)k, 64);
    float *rows = alloc_aligned(16 * padded * 4), *want = alloc_aligned(padded * 4);
    double error = 0, power = 0;
    for (int r = 0; r < (int)round_up((size_t)n, vector ? 64 : 16); r++) {
        if (vector) rows[0] = ((const float *)file_data(f, t))[r];
        else if (r % 16 == 0)
            unpack16(t, (const char *)file_data(f, t), r, k, rows);
        const float *have = vector ? rows : rows + (size_t)(r % 16) * padded;
        memset(want, 0, padded * 4);
        if (r < n && !source_row(st, parts, n_parts, interleaved, layer, r, k, want)) memset(want, 0, padded * 4);
        if (t->type == W_F32 && memcmp(want, have, padded * 4) != 0) fail_msg("%s: row %d is not the checkpoint's", name, r);
        for (size_t i = 0; i < padded; i++) {
            double d = (double)want[i] - (double)have[i];
            if (want[i] == 0 && i >= (size_t)k && have[i] != 0) fail_msg("%s: padding of row %d is not zero", name, r);
            error += d * d;
            power += (double)want[i] * (double)want[i];
        }
    }
    if (!(error <= limit_of((wtype)t->type) * limit_of((wtype)t->type) * power))
        fail_msg("%s: relative error %g", name, sqrt(error / power));
    free_aligned(rows);
    free_aligned(want);
}

static void check_layer(const file *f, const safetensors *st, const arch *a, int l) {
    char name[80];
    int q = a->n_heads * a->head_dim, kv = a->n_kv_heads * a->head_dim, qp = (q + 15) / 16 * 16, kp = (kv + 15) / 16 * 16;
#define NAME(x) (snprintf(name, sizeof name, "layers.%d." x, l), name)
#define P "model.layers.#."
    check_output(f, st, NAME("attn_norm"), (source[]){ { P "input_layernorm.weight", a->d_model } }, 1, false, l, a->d_model, 1);
    check_output(f, st, NAME("mlp_norm"), (source[]){ { P "post_attention_layernorm.weight", a->d_model } }, 1, false, l,
                 a->d_model, 1);
    source w[] = { { P "self_attn.q_proj.weight", q }, { P "self_attn.k_proj.weight", kv }, { P "self_attn.v_proj.weight", kv } };
    check_output(f, st, NAME("qkv"), w, 3, false, l, qp + 2 * kp, a->d_model);
    source b[] = { { P "self_attn.q_proj.bias", q }, { P "self_attn.k_proj.bias", kv }, { P "self_attn.v_proj.bias", kv } };
    if (safetensors_find(st, "model.layers.0.self_attn.q_proj.bias"))
        check_output(f, st, NAME("qkv_bias"), b, 3, false, l, qp + 2 * kp, 1);
    else assert_null(file_find(f, NAME("qkv_bias")));
    if (safetensors_find(st, "model.layers.0.self_attn.q_norm.weight")) {
        check_output(f, st, NAME("q_norm"), (source[]){ { P "self_attn.q_norm.weight", a->head_dim } }, 1, false, l, a->head_dim,
                     1);
        check_output(f, st, NAME("k_norm"), (source[]){ { P "self_attn.k_norm.weight", a->head_dim } }, 1, false, l, a->head_dim,
                     1);
    }
    check_output(f, st, NAME("attn_out"), (source[]){ { P "self_attn.o_proj.weight", a->d_model } }, 1, false, l, a->d_model, q);
    source g[] = { { P "mlp.gate_proj.weight", a->d_ff }, { P "mlp.up_proj.weight", a->d_ff } };
    check_output(f, st, NAME("gate_up"), g, 2, true, l, 2 * ((a->d_ff + 15) / 16 * 16), a->d_model);
    check_output(f, st, NAME("down"), (source[]){ { P "mlp.down_proj.weight", a->d_model } }, 1, false, l, a->d_model, a->d_ff);
#undef P
#undef NAME
}

static void check_model(const char *from, bool tied) {
    file f;
    safetensors st;
    arch a;
    arena mem = { 0 };
    err e = { 0 };
    if (safetensors_open(&st, from, &e) || file_open(&f, out, &e) || arch_read(&a, &f, &mem, &e)) fail_msg("%s", e.msg);
    check_output(&f, &st, "embed", (source[]){ { "model.embed_tokens.weight", a.n_vocab } }, 1, false, 0, a.n_vocab, a.d_model);
    for (int l = 0; l < a.n_layers; l++) check_layer(&f, &st, &a, l);
    check_output(&f, &st, "final_norm", (source[]){ { "model.norm.weight", a.d_model } }, 1, false, 0, a.d_model, 1);
    const char *head = tied ? "model.embed_tokens.weight" : "lm_head.weight";
    check_output(&f, &st, "output", (source[]){ { head, a.n_vocab } }, 1, false, 0, a.n_vocab, a.d_model);
    assert_true((file_find(&f, "output")->at == file_find(&f, "embed")->at) == tied);
    file_close(&f);
    safetensors_close(&st);
    arena_free(&mem);
}

static void test_golden(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bool tied;
    } cases[] = { { "llama", false },   { "llama3", true }, { "llama_sharded", false }, { "llama_v5", false },
                  { "mistral", false }, { "qwen2", true },  { "qwen3", true } };
    static const char *const types[] = { "f32", "bf16", "q8", "q4" };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t t = 0; t < 4; t++) {
            char path[200], options[64];
            snprintf(path, sizeof path, "tests/fixtures/golden/%s", cases[i].name);
            snprintf(options, sizeof options, "--type %s -t %d", types[t], 1 + (int)(i + t) % 3);
            must_convert(path, options);
            check_model(path, cases[i].tied);
            bool f16 = strcmp(cases[i].name, "llama_sharded") == 0 || strcmp(cases[i].name, "llama") == 0;
            if (strcmp(types[t], "bf16") == 0) assert_true((strstr(said, "not bf16") != NULL) == f16);
        }
}

/* ---- checkpoints made here ---- */

typedef struct made_tensor {
    char name[100];
    int rows, cols; /* cols 0: a vector */
} made_tensor;

static made_tensor tensors[64];
static int n_tensors;

static void tensor(const char *name, int rows, int cols) {
    snprintf(tensors[n_tensors].name, sizeof tensors[0].name, "%s", name);
    tensors[n_tensors].rows = rows;
    tensors[n_tensors++].cols = cols;
}

/* The tensors of a llama with one layer of one head: width d, head_dim hd. */
static void tiny_llama(const char *prefix, int d, int hd) {
    static const struct { const char *name; int rows, cols;
    } all[] = { /* -1: d, -2: hd */
                { "embed_tokens.weight", 32, -1 },
                { "layers.0.input_layernorm.weight", -1, 0 },
                { "layers.0.self_attn.q_proj.weight", -2, -1 },
                { "layers.0.self_attn.k_proj.weight", -2, -1 },
                { "layers.0.self_attn.v_proj.weight", -2, -1 },
                { "layers.0.self_attn.o_proj.weight", -1, -2 },
                { "layers.0.post_attention_layernorm.weight", -1, 0 },
                { "layers.0.mlp.gate_proj.weight", 24, -1 },
                { "layers.0.mlp.up_proj.weight", 24, -1 },
                { "layers.0.mlp.down_proj.weight", -1, 24 },
                { "norm.weight", -1, 0 }
    };
    n_tensors = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char name[100];
        snprintf(name, sizeof name, "%s%s", prefix, all[i].name);
        tensor(name,
               all[i].rows == -1   ? d
               : all[i].rows == -2 ? hd
                                   : all[i].rows,
               all[i].cols == -1   ? d
               : all[i].cols == -2 ? hd
                                   : all[i].cols);
    }
}

static float value(int tensor_index, size_t i) {
    return (float)((int)((i * 2654435761u + (size_t)tensor_index * 97) >> 7 & 255) - 128) / 100.0f;
}

static void put_file(const char *name, const void *bytes, size_t n) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", made, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static void put_text(const char *name, const char *text) { put_file(name, text, strlen(text)); }

/* Writes the tensors as F32 (change: what to do to tensor i's values before). */
static void put_weights(void (*change)(int i, float *x, size_t n)) {
    buf header = { 0 }, data = { 0 }, whole = { 0 };
    buf_str(&header, "{");
    for (int i = 0; i < n_tensors; i++) {
        size_t n = (size_t)tensors[i].rows * (size_t)(tensors[i].cols ? tensors[i].cols : 1), at = data.n;
        float *x = calloc(n, sizeof *x);
        for (size_t j = 0; j < n; j++) x[j] = value(i, j);
        if (change) change(i, x, n);
        buf_add(&data, x, n * sizeof *x);
        free(x);
        buf_fmt(&header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%d", i ? "," : "", tensors[i].name, tensors[i].rows);
        if (tensors[i].cols) buf_fmt(&header, ",%d", tensors[i].cols);
        buf_fmt(&header, "],\"data_offsets\":[%zu,%zu]}", at, data.n);
    }
    buf_str(&header, "}");
    buf_u64(&whole, header.n);
    buf_add(&whole, header.p, header.n);
    buf_add(&whole, data.p, data.n);
    put_file("model.safetensors", whole.p, whole.n);
    buf_free(&header);
    buf_free(&data);
    buf_free(&whole);
}

/* config.json of tiny_llama; more: further members, each with a comma before it. */
static void put_config(const char *type, const char *class_name, int d, int hd, const char *more) {
    char text[8192];
    snprintf(text, sizeof text,
             "{\"model_type\":\"%s\",\"architectures\":[\"%s\"],\"hidden_size\":%d,\"head_dim\":%d,\"num_attention_heads\":1,"
             "\"num_hidden_layers\":1,\"intermediate_size\":24,\"vocab_size\":32,\"tie_word_embeddings\":true%s}",
             type, class_name, d, hd, more);
    put_text("config.json", text);
}

static void llama_config(const char *more) { put_config("llama", "LlamaForCausalLM", 16, 8, more); }

static void open_made(file *f, arch *a, arena *mem) {
    err e = { 0 };
    if (file_open(f, out, &e) || arch_read(a, f, mem, &e)) fail_msg("%s", e.msg);
}

static void close_made(file *f, arena *mem) {
    file_close(f);
    arena_free(mem);
}

static void test_names(void **state) {
    (void)state;
    file f;
    arch a;
    arena mem = { 0 };
    static const char *const prefixes[] = { "", "language_model.model." };
    for (size_t i = 0; i < 2; i++) {
        tiny_llama(prefixes[i], 16, 8);
        put_weights(NULL);
        llama_config("");
        must_convert(made, "");
    }
    tiny_llama("model.", 16, 8); /* biases: by the keys of config.json, and only those */
    tensor("model.layers.0.self_attn.q_proj.bias", 8, 0);
    tensor("model.layers.0.self_attn.k_proj.bias", 8, 0);
    tensor("model.layers.0.self_attn.v_proj.bias", 8, 0);
    tensor("model.layers.0.self_attn.o_proj.bias", 16, 0);
    tensor("model.layers.0.mlp.gate_proj.bias", 24, 0);
    tensor("model.layers.0.mlp.up_proj.bias", 24, 0);
    tensor("model.layers.0.mlp.down_proj.bias", 16, 0);
    put_weights(NULL);
    llama_config(",\"attention_bias\":true,\"mlp_bias\":true");
    must_convert(made, "");
    assert_null(strstr(said, "not used"));
    open_made(&f, &a, &mem);
    const file_tensor *t = file_find(&f, "layers.0.qkv_bias");
    assert_true(t && t->dims[0] == 48);
    const float *x = file_data(&f, t);
    for (size_t i = 0; i < 64; i++) assert_true(x[i] == (i < 48 && i % 16 < 8 ? value(11 + (int)i / 16, i % 16) : 0));
    t = file_find(&f, "layers.0.gate_up_bias");
    assert_true(t && t->dims[0] == 64);
    x = file_data(&f, t);
    for (size_t i = 0; i < 64; i++) { /* 16 of gate, 16 of up, 8 of gate and padding, 8 of up and padding */
        size_t row = i / 32 * 16 + i % 16;
        assert_true(x[i] == (row < 24 ? value(15 + (int)(i / 16 % 2), row) : 0));
    }
    assert_non_null(file_find(&f, "layers.0.down_bias"));
    close_made(&f, &mem);
    llama_config(""); /* not meant by config.json: said */
    must_convert(made, "");
    assert_non_null(strstr(said, "model.layers.0.self_attn.q_proj.bias"));
    llama_config(",\"attention_bias\":true,\"mlp_bias\":true");
    n_tensors--;
    put_weights(NULL);
    must_refuse(made, "", "model.layers.0.mlp.down_proj.bias is missing");
}

static void same_as_embedding(int i, float *x, size_t n) {
    for (size_t j = 0; i == 11 && j < n; j++) x[j] = value(0, j);
}

static void test_tied(void **state) {
    (void)state;
    file f;
    arch a;
    arena mem = { 0 };
    tiny_llama("model.", 16, 8);
    tensor("lm_head.weight", 32, 16);
    llama_config("");
    put_weights(same_as_embedding); /* stored twice, but the same: tied, and nothing to say */
    must_convert(made, "");
    assert_null(strstr(said, "lm_head"));
    open_made(&f, &a, &mem);
    assert_true(file_find(&f, "output")->at == file_find(&f, "embed")->at);
    close_made(&f, &mem);
    put_weights(NULL); /* another matrix: it is the output, and that is said */
    must_convert(made, "");
    assert_non_null(strstr(said, "lm_head.weight"));
    open_made(&f, &a, &mem);
    assert_true(file_find(&f, "output")->at != file_find(&f, "embed")->at);
    close_made(&f, &mem);
}

static void outliers(int i, float *x, size_t n) {
    for (size_t j = 0; i == 7 && j < n; j++) x[j] = j % 64 == 5 ? 30.0f : j % 64 < 32 ? 0.9f : 1.1f;
}

static void test_types(void **state) {
    (void)state;
    file f;
    arch a;
    arena mem = { 0 };
    tiny_llama("model.", 64, 16);
    put_config("llama", "LlamaForCausalLM", 64, 16, "");
    put_weights(outliers); /* gate_proj: one weight of 30 in each group flattens the others at 4 bits */
    must_convert(made, "--type q4 -v");
    assert_non_null(strstr(said, "layers.0.gate_up: q4 would lose"));
    open_made(&f, &a, &mem);
    assert_int_equal(file_find(&f, "layers.0.gate_up")->type, W_Q8);
    assert_int_equal(file_find(&f, "layers.0.down")->type, W_Q4);
    err e = { 0 };
    assert_int_equal(file_verify(&f, &e, NULL, NULL), 0);
    close_made(&f, &mem);
    assert_int_equal(convert(made, "--type q5"), 2);
    assert_int_equal(convert(made, "--banana"), 2);
    assert_int_equal(convert(made, "-t 0x"), 2);
}

static void test_config(void **state) {
    (void)state;
    file f;
    arch a;
    arena mem = { 0 };
    tiny_llama("model.", 16, 8);
    put_weights(NULL);
    llama_config(",\"eos_token_id\":[3,4],\"bos_token_id\":1,\"hidden_act\":\"gelu_pytorch_tanh\",\"rms_norm_eps\":1e-3");
    put_text("generation_config.json",
             "{\"eos_token_id\":[4,5,99],\"temperature\":0.6,\"top_k\":20,\"top_p\":0.9,\"repetition_penalty\":1.05,"
             "\"do_sample\":true,\"num_beams\":4,\"length_penalty\":-0.5,\"early_stopping\":\"never\",\"min_length\":56,"
             "\"no_repeat_ngram_size\":3,\"min_new_tokens\":null}");
    must_convert(made, "");
    assert_non_null(strstr(said, "eos_token_id 99"));
    open_made(&f, &a, &mem);
    assert_true(a.n_eos == 3 && a.eos[0] == 4 && a.eos[1] == 5 && a.eos[2] == 3 && a.bos == 1 && a.act == 1 && a.norm_eps == 1e-3f);
    assert_true(a.temperature == 0.6f && a.top_k == 20 && a.top_p == 0.9f && a.repeat_penalty == 1.05f && a.min_p < 0);
    assert_true(a.num_beams == 4 && a.length_penalty == -0.5f && a.early_stopping == 2 && a.min_length == 56 &&
                a.no_repeat_ngram_size == 3 && a.min_new_tokens == 0);
    assert_true(strcmp(a.name, "made") == 0 && strcmp(a.family, "llama") == 0 && a.attn_scale == (float)(1 / sqrt(8)));
    close_made(&f, &mem);
    llama_config("");
    must_convert(made, "");
    open_made(&f, &a, &mem); /* what a silent config.json means */
    assert_true(a.norm_eps == 1e-6f && a.act == 0 && a.n_ctx == 2048 && a.n_kv_heads == 1);
    close_made(&f, &mem);
    put_text("generation_config.json", "{\"temperature\":\"hot\"}");
    must_refuse(made, "", "temperature");
    put_text("generation_config.json", "{\"early_stopping\":\"soon\"}");
    must_refuse(made, "", "early_stopping");
    put_text("generation_config.json", "{\"num_beams\":2.5}");
    must_refuse(made, "", "num_beams");
    put_text("generation_config.json", "{\"min_length\":12,\"early_stopping\":true}");
    must_convert(made, "");
    open_made(&f, &a, &mem);
    assert_true(a.num_beams == 1 && a.length_penalty == 1 && a.early_stopping == 1 && a.min_length == 12 && a.temperature < 0);
    close_made(&f, &mem);
    char path[400];
    snprintf(path, sizeof path, "%s/generation_config.json", made);
    unlink(path);
    llama_config(",\"quantization_config\":{\"quant_method\":\"awq\"}");
    must_refuse(made, "", "awq");
    put_config("llama", "LlamaForSequenceClassification", 16, 8, "");
    must_refuse(made, "", "LlamaForSequenceClassification");
}

static void expect_window(const char *type, const char *class_name, const char *more, int window) {
    file f;
    arch a;
    arena mem = { 0 };
    put_config(type, class_name, 16, 8, more);
    must_convert(made, "");
    open_made(&f, &a, &mem);
    if (a.window[0] != window) fail_msg("%s%s: expected a window of %d, found %d", type, more, window, a.window[0]);
    close_made(&f, &mem);
}

static void test_windows(void **state) {
    (void)state;
    tiny_llama("model.", 16, 8);
    put_weights(NULL);
    expect_window("mistral", "MistralForCausalLM", "", 4096); /* transformers' default */
    expect_window("mistral", "MistralForCausalLM", ",\"sliding_window\":null", 0);
    expect_window("mistral", "MistralForCausalLM", ",\"sliding_window\":7", 7);
    tensor("model.layers.0.self_attn.q_proj.bias", 8, 0);
    tensor("model.layers.0.self_attn.k_proj.bias", 8, 0);
    tensor("model.layers.0.self_attn.v_proj.bias", 8, 0);
    put_weights(NULL);
    expect_window("qwen2", "Qwen2ForCausalLM", ",\"sliding_window\":7,\"max_window_layers\":0", 0);
    expect_window("qwen2", "Qwen2ForCausalLM", ",\"sliding_window\":7,\"max_window_layers\":0,\"use_sliding_window\":true", 7);
    expect_window("qwen2", "Qwen2ForCausalLM", ",\"sliding_window\":7,\"max_window_layers\":1,\"use_sliding_window\":true", 0);
    expect_window("qwen2", "Qwen2ForCausalLM",
                  ",\"sliding_window\":7,\"use_sliding_window\":true,\"layer_types\":[\"sliding_attention\"]", 7);
    expect_window("qwen2", "Qwen2ForCausalLM",
                  ",\"sliding_window\":7,\"use_sliding_window\":true,\"layer_types\":[\"full_attention\"]", 0);
    put_config("qwen2", "Qwen2ForCausalLM", 16, 8, ",\"layer_types\":[\"banana\"]");
    must_refuse(made, "", "layer_types");
}

/* ---- RoPE, against transformers' own functions: tests/tools/make_rope.py ---- */

static void compare_table(const char *what, const float *have, uint64_t n, const json *want) {
    if (n != want->n) fail_msg("%s: %d frequencies, expected %u", what, (int)n, want->n);
    int i = 0;
    for (const json *j = want->child; j; j = j->next, i++) {
        double x;
        assert_int_equal(json_num(j, &x), 0);
        if (!(fabs(have[i] - x) <= 3e-7 * fabs(x)))
            fail_msg("%s: frequency %d is %.9g, expected %.9g", what, i, (double)have[i], x);
    }
}

/* The text of a case's "config" object, without its braces. */
static void config_text(const char *fixture, const char *name, char *text, size_t size) {
    const char *at = strstr(fixture, name), *from = strchr(strstr(at, "\"config\""), '{') + 1, *end = from;
    for (int depth = 1; depth; end++) depth += (*end == '{') - (*end == '}');
    snprintf(text, size, ",%.*s", (int)(end - 1 - from), from);
    if (strspn(text, ", \n") == strlen(text)) *text = 0;
}

static void test_rope(void **state) {
    (void)state;
    buf text = { 0 };
    arena tree = { 0 };
    json *root;
    err e = { 0 };
    assert_int_equal(read_file("tests/fixtures/rope.json", 0, &text, &e), 0);
    assert_int_equal(json_parse(&tree, text.p, text.n, &root, &e), 0);
    for (const json *c = root->child; c; c = c->next) {
        int64_t hd = 0, positions = 0, n_ctx = 0, ctx = 0;
        double factor = 0;
        char more[4096], quoted[100];
        file f;
        arch a;
        arena mem = { 0 };
        assert_true(!json_int(json_get(c, "head_dim"), &hd) && !json_int(json_get(c, "max_position_embeddings"), &positions) &&
                    !json_int(json_get(c, "n_ctx"), &n_ctx) && !json_int(json_get(c, "rope_ctx"), &ctx) &&
                    !json_num(json_get(c, "factor"), &factor));
        const char *name = json_get(c, "name")->s;
        snprintf(quoted, sizeof quoted, "\"%s\"", name);
        config_text(text.p, quoted, more, sizeof more);
        size_t n = strlen(more);
        snprintf(more + n, sizeof more - n, ",\"max_position_embeddings\":%d", (int)positions);
        tiny_llama("model.", 16, (int)hd);
        put_weights(NULL);
        put_config("llama", "LlamaForCausalLM", 16, (int)hd, more);
        must_convert(made, "");
        open_made(&f, &a, &mem);
        const file_tensor *t = file_find(&f, "rope.0"), *far = file_find(&f, "rope.0.long");
        compare_table(name, file_data(&f, t), t->dims[0], json_get(c, "inv_freq"));
        assert_true((far != NULL) == (json_get(c, "inv_long")->type == JSON_ARRAY));
        if (far) compare_table(name, file_data(&f, far), far->dims[0], json_get(c, "inv_long"));
        if (a.rope_ctx != ctx || a.n_ctx != n_ctx || fabs(a.rope_factor[0] - factor) > 1e-6 ||
            fabs(a.rope_factor_long[0] - factor) > 1e-6)
            fail_msg("%s: rope_ctx %d, n_ctx %d, factor %g", name, a.rope_ctx, a.n_ctx, (double)a.rope_factor[0]);
        close_made(&f, &mem);
    }
    buf_free(&text);
    arena_free(&tree);
}

/* ---- files that are not what they seem, and outputs ---- */

static void test_files(void **state) {
    (void)state;
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 99\n";
    tiny_llama("model.", 16, 8);
    put_weights(NULL);
    llama_config("");
    char path[400];
    static const char *const names[] = { "tokenizer.json", "tokenizer.model", "model.safetensors", "config.json" };
    for (size_t i = 0; i < 4; i++) {
        put_text(names[i], pointer);
        must_refuse(made, "", "git-lfs");
        snprintf(path, sizeof path, "%s/%s", made, names[i]);
        unlink(path);
        put_weights(NULL);
        llama_config("");
    }
    must_refuse("no/such/folder", "", "does not exist");
    put_text("model.gguf", "GGUF");
    snprintf(path, sizeof path, "%s/model.gguf", made);
    must_refuse(path, "", "GGUF");
    unlink(path);
    put_text("pytorch_model.bin", "x");
    snprintf(path, sizeof path, "%s/pytorch_model.bin", made);
    must_refuse(path, "", "safetensors");
    unlink(path);
    must_refuse(made, "--vocab-only", "tokenizer");
    must_convert(made, "");
    assert_int_equal(convert(made, ""), 1); /* there already */
    assert_non_null(strstr(said, "--force"));
    assert_int_equal(convert(made, "--force"), 0);
    char full[300];
    snprintf(full, sizeof full, "%s", out);
    snprintf(out, sizeof out, "%s/no/folder.bin", work);
    must_refuse(made, "", "No such file");
    snprintf(out, sizeof out, "%s", full);
    /* the demo checkpoint, with its tokenizer; and that alone */
    must_convert("weights/pip-stories", "--type q4");
    file f;
    err e = { 0 };
    assert_int_equal(file_open(&f, out, &e), 0);
    assert_true(f.header->tokenizer_bytes > 1000);
    file_close(&f);
    must_convert("weights/pip-stories", "--vocab-only");
    assert_int_equal(file_open(&f, out, &e), 0);
    assert_true(f.header->tokenizer_bytes > 1000 && f.n_tensors == 0);
    file_close(&f);
}

/* Runs inspect on the output; fills `said` with both streams. */
static int inspect(const char *options) {
    char command[1024];
    snprintf(command, sizeof command, "%s/inspect '%s' %s >'%s' 2>&1", bin_dir(), out, options, log_path);
    int status = system(command);
    buf text = { 0 };
    err e = { 0 };
    assert_int_equal(read_file(log_path, sizeof said - 1, &text, &e), 0);
    memcpy(said, text.p, text.n + 1);
    buf_free(&text);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_inspect(void **state) {
    (void)state;
    must_convert("weights/pip-stories", "--type q4");
    assert_int_equal(inspect("--tensors --verify"), 0);
    static const char *const shown[] = { "n_layers          6", "pip-stories", "tokenizer", "layers.5.down",
                                         "[256][768]",          "is embed",    "verified" };
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        if (!strstr(said, shown[i])) fail_msg("inspect does not show \"%s\":\n%s", shown[i], said);
    int fd = open(out, O_RDWR);
    assert_int_equal(pwrite(fd, "banana", 6, (3 << 20) + 77), 6);
    assert_int_equal(inspect(""), 0); /* data is read by --verify only */
    assert_int_equal(inspect("--verify"), 1);
    assert_non_null(strstr(said, "damaged"));
    assert_int_equal(pwrite(fd, "banana", 6, 300), 6);
    close(fd);
    assert_int_equal(inspect(""), 1);
    assert_true(strncmp(said, "inspect: ", 9) == 0);
}

/* Ctrl-C in the middle: status 130, and neither the file nor its temporary stays. */
static void test_interrupt(void **state) {
    (void)state;
    unlink(out);
    tiny_llama("model.", 512, 8);
    tensors[0].rows = 32000;
    put_weights(NULL);
    put_config("llama", "LlamaForCausalLM", 512, 8, ",\"vocab_size\":32000");
    char program[400];
    snprintf(program, sizeof program, "%s/convert", bin_dir());
    int before = entries(work);
    pid_t child = fork();
    if (child == 0) {
        int fd = open(log_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(fd, 2);
        execl(program, "convert", made, "-o", out, "--type", "q4", "-t", "1", (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 2000 && entries(work) == before; i++) usleep(1000); /* the temporary file is there */
    kill(child, SIGINT);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 130);
    assert_int_equal(entries(work), before);
}

static int begin(void **state) {
    (void)state;
    snprintf(work, sizeof work, "%s/quern-convert-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!mkdtemp(work)) return -1;
    snprintf(out, sizeof out, "%s/model.bin", work);
    snprintf(log_path, sizeof log_path, "%s/log", work);
    return 0;
}

/* Where made checkpoints lie; made late, so that test_bad finds the folder empty but for the log. */
static int begin_made(void **state) {
    (void)state;
    snprintf(made, sizeof made, "%s/made", work);
    mkdir(made, 0700);
    return 0;
}

static int end(void **state) {
    (void)state;
    char command[400];
    snprintf(command, sizeof command, "rm -rf '%s'", work);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_bad),
                                        cmocka_unit_test(test_golden),
                                        cmocka_unit_test_setup(test_names, begin_made),
                                        cmocka_unit_test_setup(test_tied, begin_made),
                                        cmocka_unit_test_setup(test_types, begin_made),
                                        cmocka_unit_test_setup(test_config, begin_made),
                                        cmocka_unit_test_setup(test_windows, begin_made),
                                        cmocka_unit_test_setup(test_rope, begin_made),
                                        cmocka_unit_test_setup(test_files, begin_made),
                                        cmocka_unit_test_setup(test_inspect, begin_made),
                                        cmocka_unit_test_setup(test_interrupt, begin_made) };
    return cmocka_run_group_tests(tests, begin, end);
}
