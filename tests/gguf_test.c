/* gguf: values and blocks against the gguf package's own, models against the safetensors they were made of, bit for bit; tokenizers
 * against the reference's ids; keys that change the model honoured or refused; and damage: files cut, flipped and lying are refused
 * with one line, never a crash. tests/tools/make_gguf.py makes the fixtures. */
#define _GNU_SOURCE
#include <math.h>

#include "tests/models.h"
#include "tokenizer/build.h"
#include "tools/convert/plan.h"

#include "tests/gguf_write.h"

#define FIXTURES "tests/fixtures/gguf"

void warn(checkpoint *c, const char *fmt, ...) { /* main.c's, for the parts of the converter that are linked here */
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    buf_fmt(&c->warnings, "%s\n", line);
}

/* ---- types ---- */

static void check_type(const safetensors *s, const char *name, const float *want, uint64_t n) {
    const st_tensor *t = safetensors_find(s, name);
    float got[2048];
    if (!t || t->n != n) fail_msg("%s: not there, or not of %llu weights", name, (unsigned long long)n);
    assert_string_equal(t->dtype, name);
    assert_true(t->n_dims == 2 && t->dims[0] == 2 && t->dims[1] == n / 2);
    st_read(s, t, 0, n, got);
    if (memcmp(got, want, n * sizeof *got) != 0)
        for (uint64_t i = 0; i < n; i++)
            if (memcmp(&got[i], &want[i], sizeof *got) != 0)
                fail_msg("%s[%llu]: expected %a, found %a", name, (unsigned long long)i, want[i], got[i]);
    for (uint64_t first = 0, len = 1; first < n; first += len, len = len % 97 + 13) { /* runs that begin and end inside blocks */
        uint64_t take = n - first < len ? n - first : len;
        st_read(s, t, first, take, got);
        assert_memory_equal(got, want + first, take * sizeof *got);
    }
    st_drop(s, t, 1, n - 1);
}

static void test_types(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint64_t n;
    } types[] = { { "Q8_0", 192 },  { "Q4_0", 192 },  { "Q4_1", 192 }, { "Q5_0", 192 }, { "Q5_1", 192 }, { "Q4_K", 1536 },
                  { "Q5_K", 1536 }, { "Q6_K", 1536 }, { "F32", 192 },  { "F16", 192 },  { "BF16", 192 } };
    gguf g;
    safetensors s;
    err e = { 0 };
    size_t n, at = 0;
    float *want = read_floats(FIXTURES "/types.bin", &n);
    must(gguf_open(&g, &s, FIXTURES "/types.gguf", &e), &e);
    assert_int_equal(g.version, 3);
    for (size_t i = 0; i < sizeof types / sizeof *types; at += types[i++].n) check_type(&s, types[i].name, want + at, types[i].n);
    assert_int_equal(at, n);
    safetensors_close(&s);
    free(want);
}

static void test_values(void **state) {
    (void)state;
    static const struct {
        const char *key;
        int64_t x;
    } ints[] = { { "a.u8", 200 },           { "a.i8", -100 },         { "a.u16", 60000 }, { "a.i16", -30000 },
                 { "a.u32", 4000000000 },   { "a.i32", -2000000000 }, { "a.bool", 1 },    { "a.u64", 1ll << 40 },
                 { "a.i64", -(1ll << 40) }, { "a.ints", 1 } };
    gguf g;
    safetensors s;
    err e = { 0 };
    must(gguf_open(&g, &s, FIXTURES "/types.gguf", &e), &e);
    int64_t x;
    double d;
    const char *text;
    size_t n, at = 0;
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        assert_int_equal(gguf_int(gguf_find(&g, ints[i].key), 0, &x), 0);
        if (x != ints[i].x) fail_msg("%s: expected %lld, found %lld", ints[i].key, (long long)ints[i].x, (long long)x);
    }
    assert_true(gguf_num(gguf_find(&g, "a.f32"), 0, &d) == 0 && d == 0.1f);
    assert_true(gguf_num(gguf_find(&g, "a.f64"), 0, &d) == 0 && d == 0.1);
    assert_true(gguf_num(gguf_find(&g, "a.floats"), 1, &d) == 0 && d == 1.5);
    assert_true(gguf_num(gguf_find(&g, "a.ints"), 2, &d) == 0 && d == 3 && gguf_int(gguf_find(&g, "a.ints"), 3, &x) == -1);
    assert_int_equal(gguf_int(gguf_find(&g, "a.f32"), 0, &x), -1);
    assert_int_equal(gguf_int(gguf_find(&g, "a.string"), 0, &x), -1);
    assert_null(gguf_find(&g, "a.none"));
    assert_int_equal(gguf_text(gguf_find(&g, "a.string"), &text, &n), 0);
    assert_true(n == 3 && memcmp(text, "h\xc3\xa9", 3) == 0);
    assert_int_equal(gguf_text(gguf_find(&g, "a.strings"), &text, &n), -1);
    static const char *const words[] = { "x", "", "yz" };
    for (int i = 0; i < 3; i++) {
        assert_true(gguf_next(gguf_find(&g, "a.strings"), &at, &text, &n));
        assert_true(n == strlen(words[i]) && memcmp(text, words[i], n) == 0);
    }
    assert_false(gguf_next(gguf_find(&g, "a.strings"), &at, &text, &n));
    safetensors_close(&s);
}

/* What a tensor's head, transposed and plus mean, against the plain way of it. */
static void test_layouts(void **state) {
    (void)state;
    enum { ROWS = 8, K = 192 / 8 };
    gguf g;
    safetensors s;
    err e = { 0 };
    float plain[ROWS * K], got[ROWS * K], want[ROWS * K];
    must(gguf_open(&g, &s, FIXTURES "/types.gguf", &e), &e);
    static const char *const names[] = { "F32", "F16", "Q5_1" };
    for (int k = 0; k < 3; k++) {
        st_tensor t = *safetensors_find(&s, names[k]);
        t.dims[0] = ROWS, t.dims[1] = K;
        st_read(&s, &t, 0, t.n, plain);
        for (int kind = 0; kind < 2; kind++) {
            st_tensor u = t;
            if (kind) u.transposed = true, u.dims[0] = K, u.dims[1] = ROWS;
            else u.head = 4, u.plus = -1;
            for (int i = 0; i < ROWS * K; i++) {
                static const int stored[4] = { 0, 2, 1, 3 };
                int r = i / K, c = i % K;
                want[i] = kind ? plain[i % ROWS * K + i / ROWS] : plain[(r / 4 * 4 + stored[r % 4]) * K + c] - 1;
            }
            for (uint64_t first = 0, len = 5; first < t.n; first += len, len += 7) {
                uint64_t take = t.n - first < len ? t.n - first : len;
                st_read(&s, &u, first, take, got);
                assert_memory_equal(got, want + first, take * sizeof *got);
                st_drop(&s, &u, first, take);
            }
        }
    }
    safetensors_close(&s);
}

/* ---- whole models ---- */

/* A copy of a checkpoint whose matrices are rounded to f16; gives its folder. */
static const char *rounded(const char *folder) {
    static char out[400];
    char path[512];
    safetensors s;
    buf header = { 0 }, data = { 0 }, config = { 0 };
    err e = { 0 };
    snprintf(out, sizeof out, "%s/%s-f16", work_dir, strrchr(folder, '/') + 1);
    mkdir(out, 0755);
    must(safetensors_open(&s, folder, &e), &e);
    for (size_t i = 0; i < s.n; i++) {
        const st_tensor *t = &s.tensors[i];
        size_t from = data.n;
        for (uint64_t j = 0; j < t->n; j++) {
            float x;
            st_read(&s, t, j, 1, &x);
            uint16_t h = f32_to_f16(x);
            buf_add(&data, t->n_dims > 1 ? (void *)&h : (void *)&x, t->n_dims > 1 ? 2 : 4);
        }
        buf_fmt(&header, "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu", i ? ',' : '{', t->name, t->n_dims > 1 ? "F16" : "F32",
                (unsigned long long)t->dims[0]);
        if (t->n_dims > 1) buf_fmt(&header, ",%llu", (unsigned long long)t->dims[1]);
        buf_fmt(&header, "],\"data_offsets\":[%zu,%zu]}", from, data.n);
    }
    buf_byte(&header, '}');
    snprintf(path, sizeof path, "%s/model.safetensors", out);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    uint64_t n = header.n;
    fwrite(&n, 8, 1, f);
    fwrite(header.p, 1, header.n, f);
    fwrite(data.p, 1, data.n, f);
    assert_int_equal(fclose(f), 0);
    snprintf(path, sizeof path, "%s/config.json", folder);
    must(read_file(path, 0, &config, &e), &e);
    snprintf(path, sizeof path, "%s/config.json", out);
    f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(config.p, 1, config.n, f);
    assert_int_equal(fclose(f), 0);
    safetensors_close(&s);
    buf_free(&header);
    buf_free(&data);
    buf_free(&config);
    return out;
}

/* Logits of `n` tokens in f32; the caller frees them. */
static float *logits_of(const char *path, int n, size_t *count) {
    err e = { 0 };
    int32_t tokens[64];
    for (int i = 0; i < n; i++) tokens[i] = (i * 37 + 5) % 250;
    engine *g = open_or_fail(path, (engine_opts){ .exact = true });
    session *s = new_session(g);
    *count = (size_t)n * (size_t)engine_about(g)->logits_ld;
    float *rows = alloc_aligned(*count * sizeof *rows);
    must(engine_step(g, &(step){ s, tokens, n, rows }, 1, &e), &e);
    session_free(s);
    engine_close(g);
    return rows;
}

static void test_models(void **state) {
    (void)state;
    static const struct {
        const char *name, *type;
    } cases[] = { { "llama", "f32" },  { "llama3", "f32" }, { "qwen2", "f32" }, { "llama", "f16" },
                  { "llama3", "f16" }, { "qwen2", "f16" },  { "qwen3", "bf16" } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[256], golden[256];
        size_t n, n_want;
        snprintf(golden, sizeof golden, "tests/fixtures/golden/%s", cases[i].name);
        const char *source = strcmp(cases[i].type, "f16") == 0 ? rounded(golden) : golden;
        float *want = logits_of(converted(source, "f32"), 60, &n_want);
        snprintf(path, sizeof path, FIXTURES "/%s-%s.gguf", cases[i].name, cases[i].type);
        float *got = logits_of(converted(path, "f32"), 60, &n);
        assert_int_equal(n, n_want);
        double sum = 0;
        for (size_t j = 0; j < n; j++) sum += fabsf(got[j]);
        assert_true(sum > 1);
        if (memcmp(got, want, n * sizeof *got) != 0) fail_msg("%s: its logits are not those of %s", path, source);
        free_aligned(got);
        free_aligned(want);
    }
}

/* ---- in this process: metadata to config, plan and tokenizer ---- */

static char small_path[300];

static void write_small(const buf *image) {
    FILE *f = fopen(small_path, "wb");
    assert_non_null(f);
    fwrite(image->p, 1, image->n, f);
    assert_int_equal(fclose(f), 0);
}

/* All that convert does before it writes; every tensor is read. Leaves the checkpoint open. */
static int load(checkpoint *c, tokenizer **t, err *e) {
    plan p;
    *c = (checkpoint){ .folder = small_path };
    *t = NULL;
    if (gguf_load(c, small_path, false, e) || config_load(c, e) || plan_make(&p, c, W_F32, e)) return -1;
    plan_free(&p);
    float x[64];
    for (size_t i = 0; i < c->st.n; i++)
        for (uint64_t at = 0; at < c->st.tensors[i].n && c->st.tensors[i].type != ST_OTHER; at += 64) {
            uint64_t left = c->st.tensors[i].n - at;
            st_read(&c->st, &c->st.tensors[i], at, left < 64 ? left : 64, x);
        }
    return gguf_tokenizer(c, t, e);
}

static void unload(checkpoint *c, tokenizer *t) {
    if (t) tokenizer_free(t);
    safetensors_close(&c->st);
    buf_free(&c->warnings);
    arena_free(&c->mem);
}

/* Loads; a refusal must be one line that a person can read. */
static bool loads(err *e) {
    checkpoint c;
    tokenizer *t;
    *e = (err){ 0 };
    int rc = load(&c, &t, e);
    unload(&c, t);
    assert_true(!rc == !e->code);
    if (rc && (!*e->msg || !strncmp(e->msg, small_path, strlen(small_path)) == 0))
        fail_msg("refused without the file's name: \"%s\"", e->msg);
    for (const char *p = e->msg; *p; p++)
        if ((unsigned char)*p < ' ') fail_msg("not one line: %s", e->msg);
    return !rc;
}

static void small_model(buf *image) {
    gguf_out g = { 0 };
    small_shape(&g);
    small_vocabulary(&g, "gpt-2");
    small_tensors(&g);
    gguf_finish(&g, image);
}

static void test_small(void **state) {
    (void)state;
    buf image = { 0 };
    checkpoint c;
    tokenizer *t;
    err e = { 0 };
    ids v = { 0 };
    size_t n;
    small_model(&image);
    write_small(&image);
    must(load(&c, &t, &e), &e);
    assert_true(c.arch.n_layers == 1 && c.arch.d_model == 32 && c.arch.n_vocab == 16 && c.arch.head_dim == 16 &&
                c.arch.n_kv_heads == 2);
    assert_true(c.tied && c.arch.bos == 8 && c.arch.n_eos == 2 && c.arch.eos[0] == 9 && c.arch.eos[1] == 10);
    assert_true(c.arch.norm_eps == 1e-5f);
    assert_non_null(strstr(c.warnings.p, "quantized already"));
    assert_int_equal(tokenizer_encode(t, "abcab1<user> <s>", 16, TOK_SPECIAL | TOK_PARSE_SPECIAL, &v, &e), 0);
    static const int32_t want[] = { 8, 5, 3, 6, 10, 4, 8 };
    assert_int_equal(v.n, 7);
    assert_memory_equal(v.p, want, sizeof want);
    assert_true(tokenizer_bos(t) == 8 && tokenizer_eos(t) == 9);
    const char *template = tokenizer_template(t, false, &n);
    assert_true(n == 7 && memcmp(template, "{{ x }}", 7) == 0);
    ids_free(&v);
    unload(&c, t);
    buf_free(&image);
}

/* ---- rotation and other keys that change the model ---- */

static void with_keys(void (*add)(gguf_out *)) {
    gguf_out g = { 0 };
    buf image = { 0 };
    small_shape(&g);
    small_vocabulary(&g, "gpt-2");
    small_tensors(&g);
    add(&g);
    gguf_finish(&g, &image);
    write_small(&image);
    buf_free(&image);
}

static void add_nothing(gguf_out *g) { (void)g; }
static void add_linear(gguf_out *g) {
    put_string(g, "llama.rope.scaling.type", "linear");
    put_f32(g, "llama.rope.scaling.factor", 4);
}
static void add_old_linear(gguf_out *g) { put_f32(g, "llama.rope.scale_linear", 4); }
static void add_base(gguf_out *g) { put_f32(g, "llama.rope.freq_base", 500000); }
static void add_yarn(gguf_out *g) {
    put_string(g, "llama.rope.scaling.type", "yarn");
    put_f32(g, "llama.rope.scaling.factor", 4);
    put_u32(g, "llama.rope.scaling.original_context_length", 64);
}
static void add_yarn_factor(gguf_out *g) {
    add_yarn(g);
    put_f32(g, "llama.rope.scaling.attn_factor", 2);
}
static void add_freqs(gguf_out *g) { put_f32_tensor(g, "rope_freqs.weight", 8, 0); } /* 0.001 + i / 256 */
static void add_window(gguf_out *g) { put_u32(g, "llama.attention.sliding_window", 64); }
static void add_zeros(gguf_out *g) {
    put_f32(g, "llama.attention.clamp_kqv", 0);
    put_u32(g, "llama.expert_count", 0);
    put_bool(g, "llama.attention.causal", true);
}
static void add_odd(gguf_out *g) { put_u32(g, "llama.something_new", 1); }

static void opened(checkpoint *c, void (*add)(gguf_out *)) {
    tokenizer *t;
    err e = { 0 };
    with_keys(add);
    if (load(c, &t, &e)) fail_msg("%s", e.msg);
    tokenizer_free(t);
}

static void test_keys(void **state) {
    (void)state;
    checkpoint plain, c;
    opened(&plain, add_nothing);
    opened(&c, add_linear);
    for (int i = 0; i < 8; i++) assert_true(c.rope[0].inv_freq[i] == plain.rope[0].inv_freq[i] / 4);
    unload(&c, NULL);
    opened(&c, add_old_linear);
    for (int i = 0; i < 8; i++) assert_true(c.rope[0].inv_freq[i] == plain.rope[0].inv_freq[i] / 4);
    unload(&c, NULL);
    opened(&c, add_base);
    assert_true(c.rope[0].inv_freq[0] == 1 && fabs(c.rope[0].inv_freq[4] * sqrt(500000) - 1) < 1e-6);
    unload(&c, NULL);
    opened(&c, add_yarn);
    assert_true(c.rope[0].inv_freq[0] == 1 && c.rope[0].inv_freq[7] == plain.rope[0].inv_freq[7] / 4);
    assert_true(c.rope[0].factor == (float)(0.1 * log(4) + 1));
    unload(&c, NULL);
    opened(&c, add_yarn_factor);
    assert_true(fabs(c.rope[0].factor - 2 * (0.1 * log(4) + 1)) < 1e-6);
    unload(&c, NULL);
    opened(&c, add_freqs);
    for (int i = 0; i < 8; i++) {
        double want = plain.rope[0].inv_freq[i] / (i / 256.0 + 0.001f);
        if (!(fabs(c.rope[0].inv_freq[i] - want) < 1e-6 * want))
            fail_msg("factor %d: expected %g, found %g", i, want, c.rope[0].inv_freq[i]);
    }
    assert_true(c.rope[0].factor == 1);
    unload(&c, NULL);
    opened(&c, add_window);
    assert_true(strcmp(c.arch.family, "mistral") == 0 && c.arch.window[0] == 64);
    unload(&c, NULL);
    opened(&c, add_zeros);
    assert_string_equal(c.arch.family, "llama");
    unload(&c, NULL);
    opened(&c, add_odd);
    assert_non_null(strstr(c.warnings.p, "llama.something_new"));
    unload(&c, NULL);
    unload(&plain, NULL);
}

/* ---- refusals ---- */

static void bad_scaling(gguf_out *g) { put_string(g, "llama.rope.scaling.type", "spiral"); }
static void bad_longrope(gguf_out *g) { put_string(g, "llama.rope.scaling.type", "longrope"); }
static void bad_both(gguf_out *g) { add_freqs(g), add_linear(g); }
static void bad_yarn(gguf_out *g) { add_yarn(g), put_f32(g, "llama.rope.scaling.yarn_log_multiplier", 0.1f); }
static void bad_freqs(gguf_out *g) { put_f32_tensor(g, "rope_freqs.weight", 7, 0); }
static void bad_causal(gguf_out *g) { put_bool(g, "llama.attention.causal", false); }
static void bad_clamp(gguf_out *g) { put_f32(g, "llama.attention.clamp_kqv", 8); }
static void bad_scale(gguf_out *g) { put_f32(g, "llama.residual_scale", 0.5f); }
static void bad_value_length(gguf_out *g) {
    put_u32(g, "llama.attention.key_length", 16), put_u32(g, "llama.attention.value_length", 8);
}
static void bad_heads(gguf_out *g) {
    put_array(g, "llama.attention.head_count_kv", GGUF_U32, 2);
    buf_u32(&g->kv, 1), buf_u32(&g->kv, 2);
}
static void bad_type(gguf_out *g) { put_tensor(g, "blk.0.x.weight", 23, 32, 256, 32 * 136); }
static void bad_number(gguf_out *g) { put_tensor(g, "blk.0.x.weight", 99, 32, 32, 1024); }
static void bad_block(gguf_out *g) { put_tensor(g, "blk.0.x.weight", 12, 32, 32, 32 * 18); }
static void bad_split(gguf_out *g) { put_u32(g, "split.count", 3); }
static void bad_twice(gguf_out *g) { put_f32_tensor(g, "output_norm.weight", 32, 0); }
static void bad_key_twice(gguf_out *g) { put_u32(g, "llama.block_count", 1); }
static void bad_layer(gguf_out *g) { put_f32_tensor(g, "blk.7.attn_norm.weight", 32, 0); }
static void bad_alignment(gguf_out *g) { put_u32(g, "general.alignment", 24); }
static void bad_nesting(gguf_out *g) {
    put_array(g, "x", GGUF_ARRAY, 1);
    for (int i = 0; i < 100; i++) buf_u32(&g->kv, GGUF_ARRAY), buf_u64(&g->kv, 1);
    buf_u32(&g->kv, GGUF_U8), buf_u64(&g->kv, 1), buf_byte(&g->kv, 0);
}
static void bad_long_array(gguf_out *g) { put_array(g, "x", GGUF_U64, UINT64_MAX / 8 + 2); }
static void bad_long_string(gguf_out *g) {
    put_key(g, "x", GGUF_STRING);
    buf_u64(&g->kv, UINT64_MAX - 7);
}
static void bad_kind(gguf_out *g) { put_key(g, "x", GGUF_KINDS); }
static void bad_control(gguf_out *g) { put_u32(g, "a\nb", 1); }

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        void (*add)(gguf_out *);
        const char *why;
    } cases[] = { { bad_scaling, "\"spiral\" is not supported" },
                  { bad_longrope, "\"longrope\" is not supported" },
                  { bad_both, "together with" },
                  { bad_yarn, "yarn_log_multiplier" },
                  { bad_freqs, "rope_freqs.weight: expected 8" },
                  { bad_causal, "attention.causal" },
                  { bad_clamp, "clamp_kqv" },
                  { bad_scale, "residual_scale" },
                  { bad_value_length, "value_length" },
                  { bad_heads, "differs from layer" },
                  { bad_type, "type IQ4_XS is not read" },
                  { bad_number, "unknown type number 99" },
                  { bad_block, "no whole number of Q4_K blocks" },
                  { bad_split, "one of 3 parts" },
                  { bad_twice, "output_norm.weight is listed twice" },
                  { bad_key_twice, "llama.block_count is there twice" },
                  { bad_layer, "does not have: it has 1" },
                  { bad_alignment, "general.alignment" },
                  { bad_nesting, "too deep" },
                  { bad_long_array, "ends inside x" },
                  { bad_long_string, "ends inside x" },
                  { bad_kind, "no kind of value" },
                  { bad_control, "printable" } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        err e;
        with_keys(cases[i].add);
        if (loads(&e)) fail_msg("accepted: %s", cases[i].why);
        if (!strstr(e.msg, cases[i].why)) fail_msg("expected \"%s\", found \"%s\"", cases[i].why, e.msg);
    }
}

/* One place of a good file made another: the first `from` becomes `to`, of the same length. */
static void test_patches(void **state) {
    (void)state;
    static const struct {
        const char *from, *to;
        size_t n;
        const char *why;
    } cases[] = { { "GGUF\3", "GGUF\1", 5, "version 1" },
                  { "GGUF\3", "GGUF\4", 5, "version 4" },
                  { "GGUF\3\0\0\0", "GGUF\0\0\0\3", 8, "big-endian" },
                  { "GGUF", "GGML", 4, "no GGUF file" },
                  { "\5\0\0\0\0\0\0\0llama", "\5\0\0\0\0\0\0\0lloma", 13, "\"lloma\" is not known; known: llama, qwen2" },
                  { "gpt-2", "gpt-9", 5, "pre-tokenizer \"gpt-9\" is not known; known: gpt-2" },
                  { "gpt2", "rwkv", 4, "the model \"rwkv\"" },
                  { "embedding_length", "embedding_lenght", 16, "llama.embedding_length is missing" },
                  { "token_embd.weight", "token_embx.weight", 17, "has no matrix token_embd.weight" },
                  { "attn_output.weight", "attn_outpud.weight", 18, "o_proj.weight is missing" },
                  { "ab c", "ab z", 4, "merge 1" },
                  { "a b", "axb", 3, "not a pair" },
                  { "bos_token_id\4\0\0\0\10", "bos_token_id\4\0\0\0\22", 17, "BOS token has id 18" },
                  { "token_type\11\0\0\0\5\0\0\0\20", "token_type\11\0\0\0\5\0\0\0\17", 19, "" } };
    buf good = { 0 }, image = { 0 };
    err e;
    small_model(&good);
    write_small(&good);
    assert_true(loads(&e));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        image.n = 0;
        buf_add(&image, good.p, good.n);
        char *at = memmem(image.p, image.n, cases[i].from, cases[i].n);
        assert_non_null(at);
        memcpy(at, cases[i].to, cases[i].n);
        write_small(&image);
        if (loads(&e)) fail_msg("accepted: %s", cases[i].why);
        if (!strstr(e.msg, cases[i].why)) fail_msg("expected \"%s\", found \"%s\"", cases[i].why, e.msg);
    }
    buf_free(&image);
    buf_free(&good);
}

/* ---- damage ---- */

static void test_truncation(void **state) {
    (void)state;
    buf image = { 0 };
    err e;
    small_model(&image);
    for (size_t n = 0, whole = image.n; n < whole; n += n < 3200 ? 1 : 97) {
        image.n = n;
        write_small(&image);
        if (loads(&e)) fail_msg("accepted: the first %zu of %zu bytes", n, whole);
    }
    buf_free(&image);
}

static void test_flips(void **state) {
    (void)state;
    static const uint8_t masks[] = { 0x01, 0x80, 0xff, 0x20 };
    buf image = { 0 };
    err e;
    int refused = 0, n = 0;
    small_model(&image);
    for (size_t i = 0; i < 3000 && i < image.n; i++)
        for (size_t m = 0; m < sizeof masks; m++, n++) {
            image.p[i] ^= (char)masks[m];
            write_small(&image);
            refused += !loads(&e);
            image.p[i] ^= (char)masks[m];
        }
    print_message("%d of %d flips refused\n", refused, n);
    assert_true(refused > n / 3);
    buf_free(&image);
}

/* ---- tokenizers ---- */

static int type_of_piece(uint8_t flags) {
    return flags & PIECE_UNKNOWN   ? 2
           : flags & PIECE_SPECIAL ? 3
           : flags & PIECE_USER    ? 4
           : flags & PIECE_BYTE    ? 6
           : flags & PIECE_PRESENT ? 1
                                   : 5;
}

/* WordPiece: what begins a word is marked, what is inside has lost its ##. */
static void put_phantom(gguf_out *g, const struct piece *p) {
    buf text = { 0 };
    bool special = p->flags & PIECE_SPECIAL, inner = p->text.n > 2 && memcmp(p->text.p, "##", 2) == 0;
    if (!special && !inner) buf_str(&text, "\xe2\x96\x81");
    buf_add(&text, p->text.p + (inner && !special ? 2 : 0), p->text.n - (inner && !special ? 2 : 0));
    put_text(&g->kv, text.p, text.n);
    buf_free(&text);
}

/* The vocabulary of a tokenizer.json or tokenizer.model as llama.cpp's converter writes it. */
static void write_vocabulary(const char *source, const char *pre, int bos, int eos) {
    struct build b = { .unk = -1, .bos = -1, .eos = -1 };
    bool spm = strstr(source, ".model") != NULL, bert = strstr(source, "/bert/") != NULL;
    buf text = { 0 }, image = { 0 }, line = { 0 };
    gguf_out g = { 0 };
    json *root;
    err e = { 0 };
    must(read_file(source, 0, &text, &e), &e);
    if (spm) must(load_sentencepiece(&b, text.p, text.n, &e), &e);
    else must(json_parse(&b.mem, text.p, text.n, &root, &e) || load_json(&b, root, &e), &e);
    put_string(&g, "general.architecture", "llama");
    put_string(&g, "tokenizer.ggml.model", bert ? "bert" : b.model == MODEL_UNIGRAM ? "t5" : spm ? "llama" : "gpt2");
    put_string(&g, "tokenizer.ggml.pre", pre ? pre : "default");
    if (b.charsmap.n) {
        put_array(&g, "tokenizer.ggml.precompiled_charsmap", GGUF_U8, b.charsmap.n);
        buf_add(&g.kv, b.charsmap.p, b.charsmap.n);
    }
    put_array(&g, "tokenizer.ggml.tokens", GGUF_STRING, b.n_piece);
    for (size_t i = 0; i < b.n_piece; i++)
        if (bert) put_phantom(&g, &b.piece[i]);
        else put_text(&g.kv, b.piece[i].text.p, b.piece[i].text.n);
    put_array(&g, "tokenizer.ggml.token_type", GGUF_I32, b.n_piece);
    for (size_t i = 0; i < b.n_piece; i++) {
        bool added = false;
        for (size_t k = 0; k < b.n_added; k++) added |= b.added[k].id == (int32_t)i && !(b.added[k].flags & ADDED_SPECIAL);
        buf_u32(&g.kv, added ? 4 : (uint32_t)type_of_piece(b.piece[i].flags));
    }
    put_array(&g, spm ? "tokenizer.ggml.scores" : "tokenizer.ggml.merges", spm ? GGUF_F32 : GGUF_STRING,
              spm ? b.n_piece : b.n_merge);
    for (size_t i = 0; spm && i < b.n_piece; i++) {
        float score = (float)b.piece[i].score;
        buf_add(&g.kv, &score, sizeof score);
    }
    for (size_t i = 0; !spm && i < b.n_merge; i++) {
        struct slice l = b.piece[b.merge[i].left].text, r = b.piece[b.merge[i].right].text;
        line.n = 0;
        buf_add(&line, l.p, l.n);
        buf_byte(&line, ' ');
        buf_add(&line, r.p, r.n);
        put_text(&g.kv, line.p, line.n);
    }
    if (b.model == MODEL_UNIGRAM) put_bool(&g, "tokenizer.ggml.remove_extra_whitespaces", true);
    if (bos >= 0) put_u32(&g, "tokenizer.ggml.bos_token_id", (uint32_t)bos);
    if (eos >= 0) put_u32(&g, "tokenizer.ggml.eos_token_id", (uint32_t)eos);
    gguf_finish(&g, &image);
    write_small(&image);
    build_free(&b);
    buf_free(&text);
    buf_free(&image);
    buf_free(&line);
}

static void hex_bytes(const json *hex, buf *out) {
    for (uint32_t i = 0; i + 1 < hex->n; i += 2) {
        char pair[3] = { hex->s[i], hex->s[i + 1], 0 };
        buf_byte(out, (int)strtol(pair, NULL, 16));
    }
}

static bool check_line(const tokenizer *t, const json *j) {
    const json *text = json_get(j, "text"), *hex = json_get(j, "bytes_hex"), *special = json_get(j, "add_special"),
               *parse = json_get(j, "parse_special");
    buf bytes = { 0 };
    ids want = { 0 }, got = { 0 };
    err e = { 0 };
    if (hex) hex_bytes(hex, &bytes);
    else if (text) buf_add(&bytes, text->s, text->n);
    json_ids(json_get(j, "ids"), &want);
    int flags =
        (special && special->type == JSON_TRUE ? TOK_SPECIAL : 0) | (parse && parse->type == JSON_TRUE ? TOK_PARSE_SPECIAL : 0);
    must(tokenizer_encode(t, bytes.p ? bytes.p : "", bytes.n, flags, &got, &e), &e);
    bool same = got.n == want.n && (!got.n || memcmp(got.p, want.p, got.n * sizeof *got.p) == 0);
    if (!same) {
        print_message("\"%.200s\" %d:", bytes.p ? bytes.p : "", flags);
        for (size_t i = 0; i < got.n && i < 40; i++) print_message(" %d", got.p[i]);
        print_message(", expected");
        for (size_t i = 0; i < want.n && i < 40; i++) print_message(" %d", want.p[i]);
        print_message("\n");
    }
    ids_free(&want);
    ids_free(&got);
    buf_free(&bytes);
    return same;
}

static size_t check_cases(const char *folder, const char *vocabulary, const char *pre, int bos, int eos, const char *cases) {
    char path[600];
    checkpoint c = { .folder = small_path };
    tokenizer *t;
    buf text = { 0 };
    err e = { 0 };
    size_t wrong = 0, lines = 0;
    snprintf(path, sizeof path, "%s/%s", folder, vocabulary);
    write_vocabulary(path, pre, bos, eos);
    must(gguf_load(&c, small_path, true, &e) || gguf_tokenizer(&c, &t, &e), &e);
    snprintf(path, sizeof path, "%s/%s", folder, cases);
    must(read_file(path, 0, &text, &e), &e);
    for (char *line = strtok(text.p, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        arena a = { 0 };
        json *j;
        must(json_parse(&a, line, strlen(line), &j, &e), &e);
        wrong += !check_line(t, j);
        arena_free(&a);
    }
    print_message("%s: %zu of %zu equal\n", path, lines - wrong, lines);
    assert_true(lines > 100);
    buf_free(&text);
    unload(&c, t);
    return wrong;
}

static void test_tokenizers(void **state) {
    (void)state;
    const char *shared = getenv("QUERN_TOKENIZERS") ? getenv("QUERN_TOKENIZERS") : "../shared/tokenizers";
    char folder[512];
    size_t wrong = check_cases("tests/fixtures/tokenizers/gpt2", "tokenizer.json", "gpt-2", 50256, 50256, "cases.jsonl");
    wrong += check_cases("tests/fixtures/tokenizers/llama2", "tokenizer.model", NULL, 1, 2, "cases_sentencepiece.jsonl");
    wrong += check_cases("tests/fixtures/tokenizers/t5", "spiece.model", NULL, -1, -1, "cases_sentencepiece.jsonl");
    wrong += check_cases("tests/fixtures/tokenizers/bert", "tokenizer.json", NULL, -1, -1, "cases.jsonl");
    snprintf(folder, sizeof folder, "%s/llama3", shared);
    if (is_folder(folder)) wrong += check_cases(folder, "tokenizer.json", "llama-bpe", 128000, 128001, "cases.jsonl");
    else print_message("%s is not here: its cases are skipped\n", folder);
    snprintf(folder, sizeof folder, "%s/qwen2", shared);
    if (is_folder(folder)) wrong += check_cases(folder, "tokenizer.json", "qwen2", -1, 151643, "cases.jsonl");
    assert_int_equal(wrong, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_types),      cmocka_unit_test(test_values),
                                        cmocka_unit_test(test_layouts),    cmocka_unit_test(test_models),
                                        cmocka_unit_test(test_small),      cmocka_unit_test(test_keys),
                                        cmocka_unit_test(test_refusals),   cmocka_unit_test(test_patches),
                                        cmocka_unit_test(test_truncation), cmocka_unit_test(test_flips),
                                        cmocka_unit_test(test_tokenizers) };
    make_work_dir();
    snprintf(small_path, sizeof small_path, "%s/small.gguf", work_dir);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
