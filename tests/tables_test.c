/* tables: what is only looked up lies in plain rows, and a run keeps none of it in memory. The checkpoint is gemma3n with its two
 * tables of embeddings 512 times as long: token id r of it is token id r % 256 of the fixture, so its logits must be the fixture's,
 * bit for bit, wherever in the tables the rows lie. */
#define _GNU_SOURCE
#include "tests/models.h"
#include "weights/layout.h"
#include "weights/safetensors.h"

static const char golden[] = "tests/fixtures/golden/gemma3n";
enum { N_VOCAB = 256, OWN = 240, TIMES = 512, BIG = N_VOCAB * TIMES };
static char untied[512]; /* the checkpoint's folder; its output matrix is one of its own */

/* ---- the checkpoint ---- */

/* How often the rows of a tensor are repeated; and its row r is row `from` of the fixture. */
static bool grows(const char *name) { return strstr(name, "embed_tokens") != NULL; }
static uint64_t source_row(const char *name, uint64_t r) {
    return !strstr(name, "per_layer") ? r % N_VOCAB : r % N_VOCAB < OWN ? r % N_VOCAB : 0; /* ids without a row take the first */
}

static void add_entry(buf *header, const char *name, uint64_t rows, const st_tensor *t, uint64_t *at) {
    uint64_t bytes = t->bytes / t->dims[0] * rows;
    buf_fmt(header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu", *at ? "," : "{", name, t->dtype, (unsigned long long)rows);
    if (t->n_dims == 2) buf_fmt(header, ",%llu", (unsigned long long)t->dims[1]);
    buf_fmt(header, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)*at, (unsigned long long)(*at + bytes));
    *at += bytes;
}

static void write_rows(FILE *f, const safetensors *st, const char *name, uint64_t rows, const st_tensor *t) {
    size_t n = (size_t)(t->bytes / t->dims[0]);
    const uint8_t *from = st->shards[t->shard].map.p + t->at;
    for (uint64_t r = 0; r < rows; r++)
        assert_int_equal(fwrite(from + (grows(name) ? source_row(name, r) : r) * n, 1, n, f), n);
}

static void write_weights(const char *folder) {
    safetensors st;
    err e = { 0 };
    char path[600];
    buf header = { 0 };
    uint64_t at = 0;
    must(safetensors_open(&st, golden, &e), &e);
    const st_tensor *embed = safetensors_find(&st, "model.embed_tokens.weight");
    for (size_t i = 0; i < st.n; i++)
        add_entry(&header, st.tensors[i].name, grows(st.tensors[i].name) ? BIG : st.tensors[i].dims[0], &st.tensors[i], &at);
    add_entry(&header, "lm_head.weight", BIG, embed, &at);
    buf_byte(&header, '}');
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    uint64_t n = header.n;
    assert_int_equal(fwrite(&n, 8, 1, f), 1);
    assert_int_equal(fwrite(header.p, 1, header.n, f), header.n);
    for (size_t i = 0; i < st.n; i++)
        write_rows(f, &st, st.tensors[i].name, grows(st.tensors[i].name) ? BIG : st.tensors[i].dims[0], &st.tensors[i]);
    write_rows(f, &st, "embed_tokens", BIG, embed);
    assert_int_equal(fclose(f), 0);
    buf_free(&header);
    safetensors_close(&st);
}

static int make_checkpoint(void **state) {
    (void)state;
    char command[2200];
    snprintf(untied, sizeof untied, "%s/long", work_dir);
    snprintf(command, sizeof command,
             "mkdir '%s' && sed -e 's/\"vocab_size\": 256/\"vocab_size\": %d/' -e 's/\"vocab_size_per_layer_input\": 240/"
             "\"vocab_size_per_layer_input\": %d, \"tie_word_embeddings\": false/' %s/config.json > '%s/config.json'",
             untied, BIG, BIG, golden, untied);
    assert_int_equal(system(command), 0);
    write_weights(untied);
    return 0;
}

/* ---- the checks ---- */

static uint64_t check_layouts(const char *path) {
    static const struct { const char *name; wlayout layout; } want[] = {
        { "embed", LAYOUT_ROWS }, { "per_layer_embed", LAYOUT_ROWS }, { "output", LAYOUT_P16 }, { "per_layer_proj", LAYOUT_P16 } };
    file f;
    err e = { 0 };
    uint64_t bytes = 0;
    must(file_open(&f, path, &e), &e);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const file_tensor *t = file_find(&f, want[i].name);
        if (!t || t->layout != want[i].layout) fail_msg("%s: layout of %s", path, want[i].name);
        bytes += strstr(want[i].name, "embed") ? t->bytes : 0;
    }
    file_close(&f);
    return bytes;
}

/* Bytes of a mapped file that are resident in this process; -1 where the system does not say. */
static int64_t resident_of(const char *path) {
    char line[1200];
    int64_t sum = 0;
    bool ours = false;
    FILE *f = fopen("/proc/self/smaps", "r");
    if (!f) return -1;
    while (fgets(line, sizeof line, f)) {
        unsigned long long from, to, kib;
        if (sscanf(line, "%llx-%llx ", &from, &to) == 2) ours = strstr(line, path) != NULL;
        else if (ours && sscanf(line, "Rss: %llu kB", &kib) == 1) sum += (int64_t)kib * 1024;
    }
    fclose(f);
    return sum;
}

/* The fixture's ids, spread over the long tables; every row of logits. */
static float *rows_of(engine *g, bool spread) {
    enum { N = 90 };
    int32_t tok[N];
    err e = { 0 };
    session *s = new_session(g);
    float *rows = alloc_aligned((size_t)N * (size_t)engine_about(g)->logits_ld * sizeof *rows);
    for (int i = 0; i < N; i++) tok[i] = (i * 7919 + 13) % N_VOCAB + (spread ? (i * 2741 + 99) % TIMES * N_VOCAB : 0);
    must(engine_step(g, &(step){ s, tok, 60, rows }, 1, &e), &e);
    for (int i = 60; i < N; i++)
        must(engine_step(g, &(step){ s, tok + i, 1, rows + (size_t)i * (size_t)engine_about(g)->logits_ld }, 1, &e), &e);
    session_free(s);
    return rows;
}

static void check_type(const char *type) {
    char path[800];
    snprintf(path, sizeof path, "%s", converted(golden, type));
    engine *small = open_or_fail(path, (engine_opts){ .threads = 1 });
    float *want = rows_of(small, false);
    snprintf(path, sizeof path, "%s", converted(untied, type));
    uint64_t tables = check_layouts(path);
    engine *g = open_or_fail(path, (engine_opts){ .threads = 2 });
    engine_memory m = engine_plan(g);
    float *rows = rows_of(g, true);
    int64_t resident = resident_of(path);
    print_message("%s: %.1f MB of tables in a file of %.1f MB, of which %.1f MB are resident after a run\n", type,
                  (double)tables / 1e6, (double)m.weights / 1e6, (double)resident / 1e6);
    for (size_t i = 0; i < 90; i++)
        assert_memory_equal(rows + i * (size_t)engine_about(g)->logits_ld, want + i * (size_t)engine_about(small)->logits_ld,
                            N_VOCAB * sizeof *rows);
    assert_true(m.looked_up == tables && m.looked_up_row < 4096);
    if (resident >= 0) assert_true((uint64_t)resident <= m.weights - tables + (1 << 20));
    free_aligned(want);
    free_aligned(rows);
    engine_close(small);
    engine_close(g);
}

static void test_rows(void **state) {
    (void)state;
    check_type("q8");
    check_type("bf16");
}

/* A matrix of products in plain rows would be computed with as if it were panels: it is refused. In bf16 both have one size. */
static void test_refusal(void **state) {
    (void)state;
    engine *g;
    err e = { 0 };
    buf bytes = { 0 };
    char path[800];
    snprintf(path, sizeof path, "%s", converted("tests/fixtures/golden/llama", "bf16"));
    must(read_file(path, 0, &bytes, &e), &e);
    file_header *h = (file_header *)(void *)bytes.p;
    file_tensor *t = (file_tensor *)(void *)(bytes.p + h->table_at);
    for (uint32_t i = 0; i < h->n_tensors; i++)
        if (strcmp(t[i].name, "layers.0.down") == 0) t[i].layout = LAYOUT_ROWS;
    h->meta_hash = meta_hash((const uint8_t *)bytes.p, h->data_at);
    snprintf(path, sizeof path, "%s/odd.bin", work_dir);
    FILE *f = fopen(path, "wb");
    assert_true(f && fwrite(bytes.p, 1, bytes.n, f) == bytes.n && fclose(f) == 0);
    assert_int_equal(engine_open(&g, &(engine_opts){ .path = path }, &e), -1);
    assert_true(strstr(e.msg, "layers.0.down") && strstr(e.msg, "plain rows"));
    buf_free(&bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test_setup(test_rows, make_checkpoint), cmocka_unit_test(test_refusal) };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
