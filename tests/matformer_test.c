/* matformer: a slice that convert takes out of a checkpoint is the model that the recipe of Google's MatFormer Lab makes of it.
 * tests/tools/make_matformer.py made both by that recipe: a tiny E4B, and two slices as checkpoints of their own with the logits that
 * the reference computes from them (golden_test compares those). Here the file of a slice must be the file of that checkpoint. */
#define _GNU_SOURCE
#include <sys/wait.h>
#include "tests/models.h"
#include "weights/file.h"

static const char big[] = "tests/fixtures/matformer/e4b";
static const struct {
    const char *small, *spec;
} slices[] = {
    { "tests/fixtures/golden/gemma3n_e2b", "e2b" },
    { "tests/fixtures/golden/gemma3n_e2b", "ff=16:skip=20-24" },
    { "tests/fixtures/golden/gemma3n_e2b", "skip=[20, 21, 22, 23, 24]:ff=[2 * 8, 1_6x29]" }, /* as the Lab's table writes it */
    { "tests/fixtures/golden/gemma3n_mixed", "ff=16x2,32,24,32,8,17,32x2,16x3,30,32:skip=2-13,25-33" },
};

/* Converts a checkpoint with these options; the exit status, and in *said what it printed. */
static int convert(const char *from, const char *options, const char *to, buf *said) {
    char command[2600], log[512];
    err e = { 0 };
    snprintf(log, sizeof log, "%s/log", work_dir);
    snprintf(command, sizeof command, "rm -f '%s'; '%s/convert' '%s' -o '%s' %s 2>'%s'", to, bin_dir(), from, to, options, log);
    int status = system(command);
    said->n = 0;
    must(read_file(log, 0, said, &e), &e);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool same_key(const record *r, const char *key) { return r->key_n == strlen(key) && memcmp(r->key, key, r->key_n) == 0; }

/* All records of one file but its name, which are all that it has. */
static void same_records(const file *a, const file *b) {
    size_t at = 0, at2 = 0;
    record x, y;
    while (record_next(a, &at, &x)) {
        if (same_key(&x, "info.matformer")) continue;
        assert_true(record_next(b, &at2, &y));
        size_t bytes = (size_t)x.count * (x.type == REC_BYTES ? 1 : 8);
        bool same = x.key_n == y.key_n && memcmp(x.key, y.key, x.key_n) == 0 && x.type == y.type && x.count == y.count &&
                    memcmp(x.values, y.values, bytes) == 0;
        if (!same && !same_key(&x, "name")) fail_msg("record %.*s differs", (int)x.key_n, x.key);
    }
    assert_false(record_next(b, &at2, &y));
}

static void same_tensors(const file *a, const file *b) {
    assert_int_equal(a->n_tensors, b->n_tensors);
    for (uint32_t i = 0; i < a->n_tensors; i++) {
        const file_tensor *x = &a->tensors[i], *y = &b->tensors[i];
        if (strcmp(x->name, y->name) || x->type != y->type || x->layout != y->layout || x->exponent != y->exponent ||
            x->dims[0] != y->dims[0] || x->dims[1] != y->dims[1] || x->hash != y->hash)
            fail_msg("tensor %u: %s differs from %s", i, x->name, y->name);
    }
}

/* Logits of a prompt, to the bit. */
static void same_logits(const char *one, const char *two) {
    enum { N = 60 };
    const char *const paths[] = { one, two };
    float *rows[2];
    int32_t tok[N];
    size_t bytes = 0;
    err e = { 0 };
    for (int i = 0; i < N; i++) tok[i] = (i * 7919 + 13) % 128;
    for (int i = 0; i < 2; i++) {
        engine *g = open_or_fail(paths[i], (engine_opts){ .threads = 1 });
        session *s = new_session(g);
        bytes = (size_t)N * (size_t)engine_about(g)->logits_ld * sizeof(float);
        rows[i] = alloc_aligned(bytes);
        must(engine_step(g, &(step){ s, tok, N, rows[i] }, 1, &e), &e);
        session_free(s);
        engine_close(g);
    }
    assert_memory_equal(rows[0], rows[1], bytes);
    free_aligned(rows[0]);
    free_aligned(rows[1]);
}

static void test_slices(void **state) {
    (void)state;
    static const char *const types[] = { "f32", "bf16", "q8", "q4" };
    for (size_t i = 0; i < sizeof slices / sizeof *slices; i++)
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            char path[600], small[800], options[300];
            file a, b;
            err e = { 0 };
            buf said = { 0 };
            snprintf(path, sizeof path, "%s/slice.bin", work_dir);
            snprintf(options, sizeof options, "--type %s --matformer '%s'", types[t], slices[i].spec);
            if (convert(big, options, path, &said)) fail_msg("%s: %s", slices[i].spec, said.p);
            assert_true(strstr(said.p, "of its 35 layers") && !strstr(said.p, "has no place"));
            snprintf(small, sizeof small, "%s", converted(slices[i].small, types[t]));
            must(file_open(&a, path, &e), &e);
            must(file_open(&b, small, &e), &e);
            same_records(&a, &b);
            same_tensors(&a, &b);
            file_close(&a);
            file_close(&b);
            same_logits(path, small);
            buf_free(&said);
        }
}

/* Without widths the layers keep theirs; a width of the model's own takes all of it. */
static void test_whole(void **state) {
    (void)state;
    char path[600], whole[800];
    file a, b;
    err e = { 0 };
    buf said = { 0 };
    snprintf(path, sizeof path, "%s/slice.bin", work_dir);
    snprintf(whole, sizeof whole, "%s", converted(big, "q8"));
    assert_int_equal(convert(big, "--matformer ff=32", path, &said), 0);
    must(file_open(&a, path, &e), &e);
    must(file_open(&b, whole, &e), &e);
    same_records(&a, &b);
    same_tensors(&a, &b);
    file_close(&a);
    assert_int_equal(convert(big, "--matformer skip=34", path, &said), 0);
    must(file_open(&a, path, &e), &e);
    const file_tensor *down = file_find(&a, "layers.33.down");
    assert_true(down && down->hash == file_find(&b, "layers.33.down")->hash && !file_find(&a, "layers.34.down"));
    file_close(&a);
    file_close(&b);
    buf_free(&said);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct { const char *from, *options, *mention; int status; } cases[] = {
        { "tests/fixtures/golden/llama", "--matformer e2b", "llama", 1 },
        { "tests/fixtures/golden/gemma3", "--matformer ff=8", "gemma3_text", 1 },
        { "tests/fixtures/golden/gemma3n", "--matformer e2b", "35", 1 },
        { big, "--matformer ff=33", "layer 0's MLP has 32 units", 1 },
        { big, "--matformer ff=16x29:skip=20-24", "29 layers", 1 },
        { big, "--matformer ff=16,16", "35 layers", 1 },
        { big, "--matformer skip=35", "layer 35", 1 },
        { big, "--matformer skip=0-34", "all 35", 1 },
        { big, "--matformer skip=18", "cannot skip layer 18: layer 20 reads", 1 },
        { big, "--matformer skip=19", "cannot skip layer 19: layer 24 reads", 1 },
        { big, "--matformer E2B", "E2B", 2 },
        { big, "--matformer ff=", "ff=", 2 },
        { big, "--matformer ff=16x", "16x", 2 },
        { big, "--matformer ff=0", "ff=0", 2 },
        { big, "--matformer ff=99999999999", "99999999999", 2 },
        { big, "--matformer ff=16x99999", "16x99999", 2 },
        { big, "--matformer ff=4194304*4194304", "4194304*4194304", 2 },
        { big, "--matformer skip=24-20", "24-20", 2 },
        { big, "--matformer skip=1:banana", "banana", 2 },
        { big, "--matformer skip=9999", "9999", 2 },
        { big, "--matformer ''", "e2b", 2 },
        { big, "--matformer e2b --vocab-only", "--vocab-only", 2 },
        { big, "--matformer e2b --merge x", "--merge", 2 },
        { "tests/fixtures/golden/lora_llama", "--base tests/fixtures/golden/llama --matformer e2b", "--matformer", 2 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[600];
        buf said = { 0 };
        snprintf(path, sizeof path, "%s/refused.bin", work_dir);
        int status = convert(cases[i].from, cases[i].options, path, &said), lines = 0;
        for (size_t n = 0; n < said.n; n++) lines += said.p[n] == '\n';
        if (status != cases[i].status || lines != 1 || access(path, F_OK) == 0 || !strstr(said.p, cases[i].mention))
            fail_msg("%s %s: status %d, said: %s", cases[i].from, cases[i].options, status, said.p);
        buf_free(&said);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_slices), cmocka_unit_test(test_whole), cmocka_unit_test(test_refusals) };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
