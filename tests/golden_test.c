/* golden: every fixture of the reference (transformers, float32) reproduced: logits of every prompt position within the case's
 * tolerance, the 32 greedy tokens, and the logits that chose the last of them; and the demo model's greedy texts. */
#define _GNU_SOURCE
#include <dirent.h>
#include <math.h>
#include "runtime/sample.h"
#include "tests/models.h"

static double largest_difference(const float *a, size_t lda, const float *b, size_t rows, size_t n) {
    double worst = 0;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++) {
            double d = fabs((double)a[i * lda + j] - b[i * n + j]);
            if (!(d <= worst)) worst = d; /* a NaN is the worst */
        }
    return worst;
}

static void check_case(const char *dir) {
    char path[600];
    buf text = { 0 };
    arena a = { 0 };
    json *j;
    err e = { 0 };
    ids tokens = { 0 }, greedy = { 0 };
    double tolerance;
    size_t n_want, n_last;
    snprintf(path, sizeof path, "%s/expected.json", dir);
    must(read_file(path, 0, &text, &e), &e);
    must(json_parse(&a, text.p, text.n, &j, &e), &e);
    json_ids(json_get(j, "tokens"), &tokens);
    json_ids(json_get(j, "greedy"), &greedy);
    assert_int_equal(json_num(json_get(j, "tolerance"), &tolerance), 0);
    snprintf(path, sizeof path, "%s/logits.bin", dir);
    float *want = read_floats(path, &n_want);
    snprintf(path, sizeof path, "%s/last_logits.bin", dir);
    float *last = read_floats(path, &n_last);

    engine *g = open_or_fail(converted(dir, "f32"), (engine_opts){ .exact = true });
    const engine_info *i = engine_about(g);
    assert_int_equal(n_last, i->n_vocab);
    assert_int_equal(n_want, tokens.n * (size_t)i->n_vocab);
    session *s = new_session(g);
    float *rows = alloc_aligned(tokens.n * (size_t)i->logits_ld * sizeof *rows);
    must(engine_step(g, &(step){ s, tokens.p, (int)tokens.n, rows }, 1, &e), &e);
    double worst = largest_difference(rows, (size_t)i->logits_ld, want, tokens.n, (size_t)i->n_vocab);
    for (size_t t = 0; t < greedy.n; t++) {
        int32_t id = sample_argmax(session_logits(s), i->n_vocab);
        if (id != greedy.p[t]) fail_msg("%s: greedy token %zu: expected %d, found %d", dir, t, greedy.p[t], id);
        if (t == greedy.n - 1) break;
        must(engine_step(g, &(step){ s, &id, 1, NULL }, 1, &e), &e);
    }
    double worst_last = largest_difference(session_logits(s), 0, last, 1, n_last);
    print_message("%-40s largest difference %.2e (last step %.2e), tolerance %.2e\n", dir, worst, worst_last, tolerance);
    if (!(worst <= tolerance && worst_last <= tolerance)) fail_msg("%s: off by %g, %g; tolerance %g", dir, worst, worst_last, tolerance);
    free_aligned(rows);
    session_free(s);
    engine_close(g);
    free(want);
    free(last);
    ids_free(&tokens);
    ids_free(&greedy);
    arena_free(&a);
    buf_free(&text);
}

static void test_cases(void **state) {
    (void)state;
    DIR *d = opendir("tests/fixtures/golden");
    int n = 0;
    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d));) {
        char path[512];
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "tests/fixtures/golden/%s", entry->d_name);
        check_case(path);
        n++;
    }
    closedir(d);
    assert_true(n >= 7);
}

/* Each line of the demo's expected continuations: equal up to the first step whose margin is below 1e-3. */
static void check_demo_line(engine *g, session *s, const json *j) {
    err e = { 0 };
    ids prompt = { 0 }, want = { 0 };
    double margin, margin_stop;
    int64_t stop = -1;
    json_ids(json_get(j, "prompt_ids"), &prompt);
    json_ids(json_get(j, "ids"), &want);
    assert_int_equal(json_num(json_get(j, "min_margin"), &margin), 0);
    assert_int_equal(json_num(json_get(j, "min_margin_to_stop"), &margin_stop), 0);
    size_t n = want.n;
    if (margin <= 1e-3) n = margin_stop > 1e-3 && !json_int(json_get(j, "stop"), &stop) ? (size_t)stop : 0;
    must(session_sync(s, prompt.p, (int)prompt.n, &e), &e);
    for (size_t t = 0; t < n; t++) {
        int32_t id = sample_argmax(session_logits(s), engine_about(g)->n_vocab);
        if (id != want.p[t]) fail_msg("demo: token %zu: expected %d, found %d", t, want.p[t], id);
        must(engine_step(g, &(step){ s, &id, 1, NULL }, 1, &e), &e);
    }
    ids_free(&prompt);
    ids_free(&want);
}

static void test_demo(void **state) {
    (void)state;
    buf text = { 0 };
    err e = { 0 };
    must(read_file("tests/fixtures/demo_expected.jsonl", 0, &text, &e), &e);
    engine *g = open_or_fail(converted("weights/pip-stories", "f32"), (engine_opts){ .exact = true });
    session *s = new_session(g);
    int lines = 0;
    for (char *line = strtok(text.p, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        arena a = { 0 };
        json *j;
        must(json_parse(&a, line, strlen(line), &j, &e), &e);
        check_demo_line(g, s, j);
        arena_free(&a);
    }
    assert_int_equal(lines, 20);
    session_free(s);
    engine_close(g);
    buf_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_cases), cmocka_unit_test(test_demo) };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
