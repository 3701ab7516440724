/* beam: the hypotheses and scores of transformers' beam search on the golden checkpoints (tests/tools/beams_reference.py writes
 * the cases); one beam is greedy; threads, batches and the state of the cache change no bit; pages come back. */
#define _GNU_SOURCE
#include <math.h>
#include "runtime/beam.h"
#include "tests/models.h"

static sample_opts no_rules(void) {
    sample_opts o = sample_defaults();
    o.repeat_last_n = -1;
    return o;
}

static beam_opts plain(int beams, int max_new) { return (beam_opts){ .beams = beams, .length_penalty = 1, .max_new = max_new, .rules = no_rules() }; }

static session *prompt_session(engine *g, const ids *tokens) {
    session *s = new_session(g);
    err e = { 0 };
    const engine_info *i = engine_about(g);
    if (i->has_encoder) {
        must(session_encode(s, tokens->p, (int)tokens->n, NULL, &e), &e);
        must(session_sync(s, &(int32_t){ i->decoder_start }, 1, &e), &e);
    } else must(session_sync(s, tokens->p, (int)tokens->n, &e), &e);
    return s;
}

static beam_result search(engine *g, const ids *tokens, const beam_opts *o) {
    session *s = prompt_session(g, tokens);
    beam_result r;
    err e = { 0 };
    must(beam_search(g, s, o, &r, &e), &e);
    session_free(s);
    assert_int_equal(engine_kv_bytes(g), 0);
    return r;
}

/* ---- the reference's ---- */

typedef struct beam_case {
    ids tokens, eos;
    beam_opts o;
    const json *j;
} beam_case;

static double number(const json *j, const char *key, double otherwise) {
    double x = otherwise;
    if (json_get(j, key)) assert_int_equal(json_num(json_get(j, key), &x), 0);
    return x;
}

static beam_case read_case(const json *j) {
    beam_case c = { .j = j, .o = plain((int)number(j, "num_beams", 0), (int)number(j, "max_new_tokens", 0)) };
    json_ids(json_get(j, "tokens"), &c.tokens);
    json_ids(json_get(j, "eos_token_id"), &c.eos);
    c.o.length_penalty = (float)number(j, "length_penalty", 1);
    const json *early = json_get(j, "early_stopping");
    if (early) c.o.stopping = json_is(early, "never") ? BEAM_NEVER : early->type == JSON_TRUE ? BEAM_AT_ONCE : BEAM_WHILE_LIKELY;
    c.o.rules.no_repeat_ngram = (int)number(j, "no_repeat_ngram_size", 0);
    c.o.rules.min_length = (int)number(j, "min_new_tokens", 0);
    c.o.rules.repeat_penalty = (float)number(j, "repetition_penalty", 1);
    c.o.rules.eos = c.eos.p;
    c.o.rules.n_eos = (int)c.eos.n;
    return c;
}

static void check_case(int line, const beam_case *c, const beam_result *r) {
    const json *list = json_get(c->j, "hypotheses"), *score = json_get(c->j, "scores")->child;
    assert_int_equal(list->n, c->o.beams);
    if (r->n != c->o.beams) fail_msg("line %d: %d hypotheses, expected %d", line, r->n, c->o.beams);
    int k = 0;
    for (const json *j = list->child; j; j = j->next, score = score->next, k++) {
        ids want = { 0 }, *found = &r->best[k].tokens;
        double x;
        json_ids(j, &want);
        if (r->best[k].eos >= 0) ids_add(found, r->best[k].eos);
        bool same = found->n == want.n;
        for (size_t i = 0; same && i < want.n; i++) same = found->p[i] == want.p[i];
        if (!same) fail_msg("line %d: hypothesis %d of %zu tokens is not the reference's of %zu", line, k, found->n, want.n);
        assert_int_equal(json_num(score, &x), 0);
        if (!(fabs(r->best[k].score - x) <= 2e-5 * fmax(1, fabs(x))))
            fail_msg("line %d: hypothesis %d: score %.7f, expected %.7f", line, k, r->best[k].score, x);
        ids_free(&want);
    }
}

static void test_reference(void **state) {
    (void)state;
    buf text = { 0 };
    err e = { 0 };
    engine *g = NULL;
    char opened[64] = "";
    int lines = 0, models = 0;
    must(read_file("tests/fixtures/beams.jsonl", 0, &text, &e), &e);
    for (char *line = strtok(text.p, "\n"); line; line = strtok(NULL, "\n")) {
        arena a = { 0 };
        json *j;
        must(json_parse(&a, line, strlen(line), &j, &e), &e);
        const char *name = json_get(j, "model")->s;
        if (strcmp(name, opened) != 0) {
            char path[200];
            snprintf(opened, sizeof opened, "%s", name);
            snprintf(path, sizeof path, "tests/fixtures/golden/%s", name);
            engine_close(g);
            g = open_or_fail(converted(path, "f32"), (engine_opts){ .exact = true, .max_sessions = 8 });
            models++;
        }
        beam_case c = read_case(j);
        beam_result r = search(g, &c.tokens, &c.o);
        check_case(++lines, &c, &r);
        beam_result_free(&r);
        ids_free(&c.tokens);
        ids_free(&c.eos);
        arena_free(&a);
    }
    print_message("%d searches of %d models\n", lines, models);
    assert_true(lines > 200 && models == 6);
    engine_close(g);
    buf_free(&text);
}

/* ---- what must not matter ---- */

static ids story(void) {
    ids v = { 0 };
    err e = { 0 };
    must(ids_parse(&v, "0 559 560 265 452", &e), &e); /* the demo's "Once upon a time" */
    return v;
}

static void expect_same(const beam_result *a, const beam_result *b) {
    assert_int_equal(a->n, b->n);
    for (int i = 0; i < a->n; i++) {
        assert_true(a->best[i].score == b->best[i].score && a->best[i].eos == b->best[i].eos);
        assert_int_equal(a->best[i].tokens.n, b->best[i].tokens.n);
        assert_memory_equal(a->best[i].tokens.p, b->best[i].tokens.p, a->best[i].tokens.n * sizeof(int32_t));
    }
}

static void test_one_beam_is_greedy(void **state) {
    (void)state;
    engine *g = open_or_fail(converted("weights/pip-stories", "q8"), (engine_opts){ 0 });
    ids tokens = story();
    const engine_info *i = engine_about(g);
    sampler *sample;
    err e = { 0 };
    beam_opts o = plain(1, 300);
    o.rules.no_repeat_ngram = 4;
    o.rules.min_length = 150;
    o.rules.eos = i->eos;
    o.rules.n_eos = i->n_eos;
    beam_result r = search(g, &tokens, &o);
    o.rules.temperature = 0;
    must(sampler_new(&sample, &o.rules, i->n_vocab, &e), &e);
    session *s = prompt_session(g, &tokens);
    for (size_t t = 0; t < tokens.n; t++) sampler_accept(sample, tokens.p[t]);
    sampler_begin(sample);
    const ids *found = &r.best[0].tokens;
    assert_true(r.n == 1 && found->n >= 150);
    for (size_t t = 0; t < found->n; t++) {
        int32_t id = sampler_pick(sample, session_logits(s));
        if (id != found->p[t]) fail_msg("token %zu: greedy %d, one beam %d", t, id, found->p[t]);
        sampler_accept(sample, id);
        must(engine_step(g, &(step){ s, &id, 1, NULL }, 1, &e), &e);
    }
    assert_int_equal(sampler_pick(sample, session_logits(s)), r.best[0].eos);
    assert_true(r.best[0].eos >= 0);
    sampler_free(sample);
    session_free(s);
    beam_result_free(&r);
    ids_free(&tokens);
    engine_close(g);
}

/* Long enough to cross pages; q4 and q8 with quantised activations, as users run it. */
static void test_same_bits(void **state) {
    (void)state;
    static const char *const types[] = { "q8", "q4" };
    ids tokens = story();
    for (size_t t = 0; t < 2; t++) {
        engine *g = open_or_fail(converted("weights/pip-stories", types[t]), (engine_opts){ .threads = 1, .max_sessions = 5, .ctx = 256 });
        beam_opts o = plain(4, 150);
        beam_result one = search(g, &tokens, &o), again = search(g, &tokens, &o);
        assert_int_equal(one.best[0].tokens.n, 150);
        assert_int_equal(one.steps, 149);
        expect_same(&one, &again);
        engine_close(g);
        g = open_or_fail(converted("weights/pip-stories", types[t]), (engine_opts){ .threads = 2, .max_sessions = 4, .ctx = 192, .max_rows = 4 });
        beam_result two = search(g, &tokens, &o);
        expect_same(&one, &two);
        engine_close(g);
        beam_result_free(&one);
        beam_result_free(&again);
        beam_result_free(&two);
    }
    ids_free(&tokens);
}

/* A hypothesis' score is what the model gives for its tokens when they are computed alone; past pages' borders, windows too. */
static void test_scores(void **state) {
    (void)state;
    static const struct {
        const char *path;
        int max_new;
    } models[] = { { "weights/pip-stories", 150 }, { "tests/fixtures/golden/mistral", 110 }, { "tests/fixtures/golden/t5_v11", 70 } };
    ids tokens = { 0 };
    err e = { 0 };
    must(ids_parse(&tokens, "7 59 60 65 45", &e), &e);
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        engine *g = open_or_fail(converted(models[m].path, "q8"), (engine_opts){ .max_sessions = 4, .ctx = m ? 128 : 256 });
        beam_opts o = plain(4, models[m].max_new);
        o.length_penalty = 0;
        o.rules.no_repeat_ngram = 3;
        beam_result r = search(g, &tokens, &o);
        for (int k = 0; k < r.n; k++) {
            session *s = prompt_session(g, &tokens);
            double sum = 0;
            for (size_t i = 0; i < r.best[k].tokens.n; i++) {
                int32_t id = r.best[k].tokens.p[i];
                sum += (double)(float)sample_logprob(session_logits(s), engine_about(g)->n_vocab, id);
                must(engine_step(g, &(step){ s, &id, 1, NULL }, 1, &e), &e);
            }
            assert_true(sum == r.best[k].score);
            assert_true(k == 0 || r.best[k].score <= r.best[k - 1].score);
            session_free(s);
        }
        beam_result_free(&r);
        engine_close(g);
    }
    ids_free(&tokens);
}

/* Copies share pages, the encoder's too: a fork takes no memory. */
static void test_shared(void **state) {
    (void)state;
    static const char *const paths[] = { "tests/fixtures/golden/llama", "tests/fixtures/golden/t5" };
    ids tokens = { 0 };
    err e = { 0 };
    must(ids_parse(&tokens, "5 6 7", &e), &e);
    for (size_t m = 0; m < 2; m++) {
        engine *g = open_or_fail(converted(paths[m], "f32"), (engine_opts){ .max_sessions = 2 });
        session *s = prompt_session(g, &tokens), *copy = new_session(g);
        size_t before = engine_kv_bytes(g);
        must(session_fork(copy, s, &e), &e);
        assert_true(before > 0 && engine_kv_bytes(g) == before);
        session_free(s);
        session_free(copy);
        engine_close(g);
    }
    ids_free(&tokens);
}

/* ---- other ends ---- */

static bool ends_at_265(void *arg, const int32_t *answer, int n) {
    ++*(int *)arg;
    return answer[n - 1] == 265;
}

/* A reason of the caller's ends hypotheses as an end of text does, but for the token, which stays. */
static void test_other_ends(void **state) {
    (void)state;
    ids tokens = story();
    engine *g = open_or_fail(converted("weights/pip-stories", "q8"), (engine_opts){ .max_sessions = 3, .ctx = 256 });
    beam_opts by_id = plain(3, 120), by_call = by_id;
    int calls = 0;
    by_id.rules.eos = (const int32_t[]){ 265 };
    by_id.rules.n_eos = 1;
    by_call.ends = ends_at_265;
    by_call.arg = &calls;
    beam_result a = search(g, &tokens, &by_id), b = search(g, &tokens, &by_call);
    assert_true(calls > 0 && a.best[0].eos == 265 && b.best[0].eos == -1);
    for (int i = 0; i < a.n; i++)
        if (a.best[i].eos >= 0) ids_add(&a.best[i].tokens, 265), a.best[i].eos = -1;
    expect_same(&a, &b);
    beam_result_free(&a);
    beam_result_free(&b);
    ids_free(&tokens);
    engine_close(g);
}

typedef struct countdown {
    int passes;
    atomic_bool stop;
} countdown;

static void stop_at_zero(void *arg, const char *name, int layer, const float *x, int m, size_t ld, int n) {
    countdown *c = arg;
    (void)x, (void)m, (void)ld, (void)n;
    if (layer == 0 && strcmp(name, "attn_norm") == 0 && --c->passes == 0) atomic_store(&c->stop, true);
}

/* Told to stop in the middle, it says so and has what there was; the engine and the session go on as if nothing had been. */
static void test_stopped(void **state) {
    (void)state;
    ids tokens = story();
    err e = { 0 };
    countdown c = { 21, false };
    engine *g = open_or_fail(converted("weights/pip-stories", "q8"), (engine_opts){ .max_sessions = 4, .ctx = 256 });
    beam_opts o = plain(4, 120), short_one = plain(4, 20);
    beam_result whole = search(g, &tokens, &short_one), r;
    session *s = prompt_session(g, &tokens);
    engine_set_stop(g, &c.stop);
    engine_set_tap(g, stop_at_zero, &c);
    assert_int_equal(beam_search(g, s, &o, &r, &e), -1);
    assert_int_equal(e.code, ERR_STOPPED);
    engine_set_tap(g, NULL, NULL);
    assert_int_equal(r.steps, 20);
    assert_int_equal(r.best[0].tokens.n, 21);
    beam_result_free(&r);
    atomic_store(&c.stop, false);
    e.code = 0;
    must(session_sync(s, tokens.p, (int)tokens.n, &e), &e);
    must(beam_search(g, s, &short_one, &r, &e), &e);
    expect_same(&whole, &r);
    session_free(s);
    assert_int_equal(engine_kv_bytes(g), 0);
    beam_result_free(&r);
    beam_result_free(&whole);
    ids_free(&tokens);
    engine_close(g);
}

/* ---- refusals ---- */

static void expect_refusal(engine *g, session *s, beam_opts o, const char *mention) {
    err e = { 0 };
    beam_result r;
    assert_int_equal(beam_search(g, s, &o, &r, &e), -1);
    if (!strstr(e.msg, mention)) fail_msg("expected a message with \"%s\", found: %s", mention, e.msg);
    beam_result_free(&r);
}

static void test_refusals(void **state) {
    (void)state;
    engine *g = open_or_fail(converted("tests/fixtures/golden/llama", "f32"), (engine_opts){ .max_sessions = 2 });
    ids tokens = { 0 };
    err e = { 0 };
    beam_opts o = plain(2, 10);
    session *s = new_session(g);
    expect_refusal(g, s, o, "prompt");
    session_free(s);
    must(ids_parse(&tokens, "5 6 7", &e), &e);
    s = prompt_session(g, &tokens);
    expect_refusal(g, s, plain(0, 10), "beams");
    expect_refusal(g, s, plain(BEAM_MOST + 1, 10), "beams");
    expect_refusal(g, s, plain(2, 0), "at least 1");
    o.length_penalty = NAN;
    expect_refusal(g, s, o, "length-penalty");
    o = plain(2, 10);
    o.rules.min_length = -1;
    expect_refusal(g, s, o, "min-length");
    expect_refusal(g, s, plain(3, 10), "sessions");
    must(session_sync(s, tokens.p, (int)tokens.n, &e), &e);
    expect_refusal(g, s, plain(2, 1000), "context_length_exceeded");
    must(session_sync(s, tokens.p, (int)tokens.n, &e), &e);
    session_free(s);
    engine_close(g);
    /* six tokens are allowed, each of them once */
    g = open_or_fail(converted("weights/pip-stories", "q8"), (engine_opts){ .max_sessions = 2, .ctx = 64 });
    logit_bias *bias = calloc(4096, sizeof *bias);
    for (int i = 0; i < 4096; i++) bias[i] = (logit_bias){ i, i < 4090 ? -INFINITY : 0 };
    o = plain(2, 60);
    o.rules.bias = bias;
    o.rules.n_bias = 4096;
    o.rules.no_repeat_ngram = 1;
    s = prompt_session(g, &tokens);
    expect_refusal(g, s, o, "after 9 tokens no token is left");
    free(bias);
    session_free(s);
    engine_close(g);
    ids_free(&tokens);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_reference), cmocka_unit_test(test_one_beam_is_greedy), cmocka_unit_test(test_same_bits),
                                        cmocka_unit_test(test_scores),    cmocka_unit_test(test_other_ends),         cmocka_unit_test(test_stopped),
                                        cmocka_unit_test(test_refusals),  cmocka_unit_test(test_shared) };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
