/* golden: every fixture of the reference (transformers, float32) reproduced: logits of every prompt position within the case's
 * tolerance, the 32 greedy tokens, and the logits that chose the last of them; an encoder's hidden states, embeddings; and the
 * demo model's greedy texts. */
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

/* A case's expected.json and what it expects. */
typedef struct golden {
    const char *dir, *kind;
    arena mem;
    json *j;
    double tolerance, std;
} golden;

static golden read_golden(const char *dir) {
    golden c = { .dir = dir };
    char path[600];
    buf text = { 0 };
    err e = { 0 };
    snprintf(path, sizeof path, "%s/expected.json", dir);
    must(read_file(path, 0, &text, &e), &e);
    must(json_parse(&c.mem, text.p, text.n, &c.j, &e), &e);
    buf_free(&text);
    assert_int_equal(json_num(json_get(c.j, "tolerance"), &c.tolerance), 0);
    assert_int_equal(json_num(json_get(c.j, "std"), &c.std), 0);
    c.kind = json_get(c.j, "kind")->s;
    return c;
}

/* A file of the case, which must have n floats. */
static float *read_expected(const golden *c, const char *name, size_t n) {
    char path[600];
    size_t found;
    snprintf(path, sizeof path, "%s/%s", c->dir, name);
    float *x = read_floats(path, &found);
    if (found != n) fail_msg("%s: %zu floats, expected %zu", path, found, n);
    return x;
}

static double deviation(const float *x, size_t n) {
    double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    for (size_t i = 0; i < n; i++) square += (x[i] - sum / (double)n) * (x[i] - sum / (double)n);
    return sqrt(square / (double)n);
}

/* Rows against a file of the case: within the tolerance, of logits as it stands, else as that share of the file's own deviation. */
static void check_rows(const golden *c, const char *name, const float *rows, size_t ld, size_t n_rows, size_t n) {
    float *want = read_expected(c, name, n_rows * n);
    double worst = largest_difference(rows, ld, want, n_rows, n);
    double limit = strstr(name, "logits") ? c->tolerance : c->tolerance / c->std * deviation(want, n_rows * n);
    print_message("%-36s %-16s off by %.2e: %.4f of the tolerance\n", c->dir, name, worst, worst / limit);
    if (!(worst <= limit)) fail_msg("%s: %s: off by %g; tolerance %g", c->dir, name, worst, limit);
    free(want);
}

/* Logits of the given tokens in one step, then those of each greedy token, which must be the reference's; 33 of them with a start.
 */
static void check_decoder(const golden *c, engine *g, session *s, const ids *tokens, session *greedy_from) {
    const engine_info *i = engine_about(g);
    ids greedy = { 0 };
    err e = { 0 };
    float *rows = alloc_aligned(tokens->n * (size_t)i->logits_ld * sizeof *rows);
    must(engine_step(g, &(step){ s, tokens->p, (int)tokens->n, rows }, 1, &e), &e);
    check_rows(c, "logits.bin", rows, (size_t)i->logits_ld, tokens->n, (size_t)i->n_vocab);
    json_ids(json_get(c->j, "greedy"), &greedy);
    for (size_t t = 0; t < greedy.n; t++) {
        int32_t id = sample_argmax(session_logits(greedy_from), i->n_vocab);
        if (id != greedy.p[t]) fail_msg("%s: greedy token %zu: expected %d, found %d", c->dir, t, greedy.p[t], id);
        if (t == greedy.n - 1) break;
        must(engine_step(g, &(step){ greedy_from, &id, 1, NULL }, 1, &e), &e);
    }
    assert_int_equal(greedy.n, 32);
    check_rows(c, "last_logits.bin", session_logits(greedy_from), 0, 1, (size_t)i->n_vocab);
    free_aligned(rows);
    ids_free(&greedy);
}

/* The context is what the case needs: which of longrope's tables holds depends on it. */
static engine *open_case(const golden *c, size_t ctx) {
    return open_or_fail(converted(c->dir, "f32"), (engine_opts){ .exact = true, .max_sessions = 2, .ctx = (int)ctx });
}

static void check_causal(const golden *c) {
    ids tokens = { 0 };
    json_ids(json_get(c->j, "tokens"), &tokens);
    engine *g = open_case(c, tokens.n + 31);
    session *s = new_session(g);
    check_decoder(c, g, s, &tokens, s);
    session_free(s);
    engine_close(g);
    ids_free(&tokens);
}

static void check_seq2seq(const golden *c) {
    ids text = { 0 }, tokens = { 0 };
    err e = { 0 };
    json_ids(json_get(c->j, "encoder_tokens"), &text);
    json_ids(json_get(c->j, "decoder_tokens"), &tokens);
    engine *g = open_case(c, text.n > 32 ? text.n : 32);
    const engine_info *i = engine_about(g);
    size_t ld = round_up((size_t)i->d_model, 64);
    float *hidden = alloc_aligned(text.n * ld * sizeof *hidden);
    session *s = new_session(g), *t = new_session(g);
    assert_true(i->has_encoder && i->has_decoder);
    assert_int_equal(engine_step(g, &(step){ s, tokens.p, 1, NULL }, 1, &e), -1); /* no encoder's input yet */
    e.code = 0;
    must(session_encode(s, text.p, (int)text.n, hidden, &e), &e);
    check_rows(c, "encoder.bin", hidden, ld, text.n, (size_t)i->d_model);
    must(session_encode(t, text.p, (int)text.n, NULL, &e), &e);
    must(engine_step(g, &(step){ t, &(int32_t){ i->decoder_start }, 1, NULL }, 1, &e), &e);
    check_decoder(c, g, s, &tokens, t);
    session_free(s);
    session_free(t);
    engine_close(g);
    free_aligned(hidden);
    ids_free(&text);
    ids_free(&tokens);
}

static double cosine(const float *a, const float *b, size_t n) {
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return ab / sqrt(aa * bb);
}

static void check_embedding(const golden *c) {
    const json *texts = json_get(c->j, "texts");
    size_t all = 0, longest = 0;
    for (const json *t = texts->child; t; t = t->next) all += t->n, longest = t->n > longest ? t->n : longest;
    engine *g = open_case(c, longest);
    const engine_info *i = engine_about(g);
    size_t d = (size_t)i->d_embed, ld = round_up((size_t)i->d_model, 64), at = 0, n = 0;
    float *hidden = alloc_aligned(all * ld * sizeof *hidden), *embedding = alloc_aligned(texts->n * d * sizeof *embedding);
    float *want = read_expected(c, "embedding.bin", texts->n * d);
    session *s = new_session(g);
    err e = { 0 };
    assert_true(i->has_encoder && !i->has_decoder);
    for (const json *t = texts->child; t; t = t->next, n++) {
        ids tokens = { 0 };
        json_ids(t, &tokens);
        must(session_encode(s, tokens.p, (int)tokens.n, hidden + at * ld, &e), &e);
        must(session_embed(s, tokens.p, (int)tokens.n, 0, embedding + n * d, &e), &e);
        assert_true(cosine(embedding + n * d, want + n * d, d) >= 1 - 1e-6);
        at += tokens.n;
        ids_free(&tokens);
    }
    check_rows(c, "hidden.bin", hidden, ld, all, (size_t)i->d_model);
    check_rows(c, "embedding.bin", embedding, d, texts->n, d);
    session_free(s);
    engine_close(g);
    free_aligned(hidden);
    free_aligned(embedding);
    free(want);
}

static void check_case(const char *dir) {
    static const struct {
        const char *kind;
        void (*check)(const golden *);
    } kinds[] = { { "causal", check_causal }, { "seq2seq", check_seq2seq }, { "embedding", check_embedding } };
    golden c = read_golden(dir);
    size_t k = 0;
    if (strcmp(c.kind, "lora") == 0) { /* an adapter: lora_test */
        arena_free(&c.mem);
        return;
    }
    while (k < sizeof kinds / sizeof *kinds && strcmp(kinds[k].kind, c.kind) != 0) k++;
    if (k == sizeof kinds / sizeof *kinds) fail_msg("%s: kind %s is not known", dir, c.kind);
    kinds[k].check(&c);
    arena_free(&c.mem);
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
        if (getenv("QUERN_GOLDEN") && strcmp(getenv("QUERN_GOLDEN"), entry->d_name) != 0) continue;
        check_case(path);
        n++;
    }
    closedir(d);
    assert_true(n >= 46 || getenv("QUERN_GOLDEN"));
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
