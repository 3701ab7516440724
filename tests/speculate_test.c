/* Speculation changes the time, never a token: every way of proposing gives the ids of plain decoding, greedy or drawn. */
#define _GNU_SOURCE
#include <string.h>
#include "runtime/sample.h"
#include "runtime/speculate.h"
#include "tests/models.h"

enum { PROMPT = 60, ANSWER = 90 };

/* A prompt that repeats itself: 12 tokens five times. */
static void repeated_prompt(int32_t *tok, int n_vocab) {
    make_text(tok, 12, n_vocab, 21);
    for (int i = 12; i < PROMPT; i++) tok[i] = tok[i - 12];
}

typedef struct answer {
    int n; /* ANSWER, or what the model has positions for */
    int32_t id[ANSWER];
    speculation_figures figures;
} answer;

static answer decode(engine *g, const speculate_opts *how, sample_opts rules) {
    const engine_info *i = engine_about(g);
    int32_t prompt[PROMPT];
    session *s = new_session(g);
    sampler *draw;
    speculation *p;
    answer a = { .n = min_int(ANSWER, i->ctx - PROMPT) };
    err e = { 0 };
    repeated_prompt(prompt, i->n_vocab);
    must(sampler_new(&draw, &rules, i->n_vocab, &e), &e);
    if (i->has_encoder) must(session_encode(s, prompt, PROMPT, NULL, &e), &e);
    must(session_sync(s, prompt, PROMPT, &e), &e);
    must(speculation_new(&p, g, s, how, &e), &e);
    const float *logits = session_logits(s);
    for (int n = 0; n < a.n; n++) {
        a.id[n] = sampler_pick(draw, logits);
        assert_true(a.id[n] >= 0);
        sampler_accept(draw, a.id[n]);
        logits = speculation_next(p, a.id[n], &e);
        must(logits ? 0 : -1, &e);
    }
    a.figures = speculation_about(p);
    speculation_end(p);
    assert_int_equal(session_len(s), PROMPT + a.n);
    assert_memory_equal(session_tokens(s) + PROMPT, a.id, (size_t)a.n * sizeof *a.id);
    speculation_free(p);
    sampler_free(draw);
    session_free(s);
    return a;
}

static sample_opts rules_of(float temperature) {
    sample_opts o = sample_defaults();
    o.temperature = temperature;
    o.seed = 7;
    return o;
}

static const char *const models[] = { "weights/pip-stories", "tests/fixtures/golden/gemma3", "tests/fixtures/golden/mistral",
                                      "tests/fixtures/golden/t5" };

static void same_answers(engine *g, const speculate_opts *how, const char *what, speculation_figures *total) {
    for (int t = 0; t < 2; t++) {
        sample_opts rules = rules_of(t ? 0.7f : 0);
        answer plain = decode(g, &(speculate_opts){ 0 }, rules), got = decode(g, how, rules);
        for (int i = 0; i < plain.n; i++)
            if (plain.id[i] != got.id[i]) fail_msg("%s, %s: token %d is %d, %d without", engine_about(g)->name, what, i, got.id[i], plain.id[i]);
        assert_int_equal(plain.figures.steps, plain.n);
        assert_true(got.figures.steps + got.figures.accepted == plain.n);
        total->accepted += got.figures.accepted;
        total->proposed += got.figures.proposed;
    }
}

static void test_lookup(void **state) {
    (void)state;
    speculation_figures total = { 0 };
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        engine *g = open_or_fail(converted(models[m], "q8"), (engine_opts){ .threads = 2, .max_sessions = 2 });
        same_answers(g, &(speculate_opts){ .lookup = true }, "lookup", &total);
        engine_close(g);
    }
    assert_true(total.accepted > 20 && total.accepted < total.proposed);
}

/* The model itself in another type proposes for q8: much is right, and what is not costs no token. A draft whose context ends earlier stops
 * proposing. */
static void test_draft(void **state) {
    (void)state;
    for (size_t m = 0; m < 3; m++) {
        char path[800];
        speculation_figures total = { 0 };
        snprintf(path, sizeof path, "%s", converted(models[m], "q8"));
        engine *g = open_or_fail(path, (engine_opts){ .threads = 1, .max_sessions = 2 });
        engine *draft = open_or_fail(converted(models[m], m ? "f32" : "q4"), (engine_opts){ .threads = 1, .ctx = m ? 0 : 120 });
        same_answers(g, &(speculate_opts){ .draft = draft }, "draft", &total);
        same_answers(g, &(speculate_opts){ .draft = draft, .lookup = true }, "both", &total);
        if (total.accepted <= 10) fail_msg("%s: %d of %d accepted", models[m], (int)total.accepted, (int)total.proposed);
        engine_close(draft);
        engine_close(g);
    }
}

static void test_find(void **state) {
    (void)state;
    static const int32_t tok[] = { 1, 2, 3, 4, 9, 2, 3, 5, 8, 1, 2, 3 };
    int32_t out[8];
    assert_int_equal(speculate_lookup(tok, 12, out, 8), 8); /* 1 2 3 came before: longer than the later 2 3 */
    assert_memory_equal(out, tok + 3, sizeof out);
    assert_int_equal(speculate_lookup(tok, 12, out, 2), 2);
    assert_int_equal(speculate_lookup(tok + 4, 8, out, 8), 8); /* only 2 3, five tokens ago: then round again */
    assert_memory_equal(out, tok + 7, 5 * sizeof *tok);
    assert_memory_equal(out + 5, tok + 7, 3 * sizeof *tok);
    assert_int_equal(speculate_lookup(tok, 5, out, 8), 0);
    assert_int_equal(speculate_lookup(tok, 0, out, 8), 0);
    assert_int_equal(speculate_lookup(tok, 1, out, 8), 0);
    static const int32_t same[] = { 6, 6, 6 };
    assert_int_equal(speculate_lookup(same, 3, out, 8), 8);
    for (int i = 0; i < 8; i++) assert_int_equal(out[i], 6);
    assert_int_equal(speculate_lookup(same, 3, out, 0), 0);
}

/* Whole proposals grow, cut ones shrink to what was kept, and those that bring nothing pause, longer each time, until one brings something. */
static void test_pace(void **state) {
    (void)state;
    speculate_pace p = speculate_pace_begin();
    assert_int_equal(speculate_pace_next(&p, 100), 8);
    assert_int_equal(speculate_pace_next(&p, 3), 3);
    assert_int_equal(speculate_pace_next(&p, 0), 0);
    for (int k = 0; k < 4; k++) speculate_pace_learn(&p, p.length, p.length, SPECULATE_LOOKUP_PAYS);
    assert_int_equal(speculate_pace_next(&p, 100), SPECULATE_MOST);
    speculate_pace_learn(&p, 16, 5, SPECULATE_LOOKUP_PAYS);
    assert_int_equal(speculate_pace_next(&p, 100), 7);
    speculate_pace_learn(&p, 0, 0, SPECULATE_LOOKUP_PAYS); /* none was made: nothing is learned */
    assert_int_equal(p.tried, 5);
    p = speculate_pace_begin();
    for (int pause = 32; pause <= 1024; pause *= 2) {
        for (int k = 0; k < 8; k++) {
            assert_int_equal(speculate_pace_next(&p, 100) > 0, 1);
            speculate_pace_learn(&p, 4, 0, SPECULATE_LOOKUP_PAYS);
        }
        for (int k = 0; k < pause; k++) {
            assert_int_equal(speculate_pace_next(&p, 100), 0);
            assert_int_equal(speculate_pace_next(&p, 0), 0); /* no room is no time */
        }
    }
    speculate_pace_learn(&p, 4, 3, SPECULATE_LOOKUP_PAYS);
    assert_int_equal(p.next_pause, 32);
    for (int draft = 0; draft < 2; draft++) { /* 0.75 tokens a proposal pay for a look-up, not for a draft */
        p = speculate_pace_begin();
        for (int k = 0; k < 8; k++) speculate_pace_learn(&p, 4, k % 4 ? 1 : 0, draft ? SPECULATE_DRAFT_PAYS : SPECULATE_LOOKUP_PAYS);
        assert_int_equal(p.pause, draft ? 32 : 0);
    }
}

static void test_refusals(void **state) {
    (void)state;
    char path[800];
    err e = { 0 };
    speculation *p;
    snprintf(path, sizeof path, "%s", converted(models[0], "q8"));
    engine *g = open_or_fail(path, (engine_opts){ .threads = 1 }), *other = open_or_fail(converted(models[1], "q8"), (engine_opts){ .threads = 1 });
    session *s = new_session(g);
    assert_int_equal(speculation_new(&p, g, s, &(speculate_opts){ .draft = other }, &e), -1);
    assert_non_null(strstr(e.msg, "tokenizers differ"));
    session_free(s);
    engine_close(other);
    engine_close(g);
}

/* What a family's models differ in, a chat model and its base say, is no reason to refuse a draft; what changes an id's meaning is, and is named. */
static void test_same_ids(void **state) {
    (void)state;
    static const struct {
        const char *edit, *why; /* NULL: it may propose */
    } cases[] = {
        { "sed -i 's/| trim//g' tokenizer_config.json", NULL },
        { "sed -i '/chat_template/d' tokenizer_config.json", NULL },
        { "sed -i 's/\"eos_token\": \"<|end|>\"/\"eos_token\": \"<|eos|>\"/' tokenizer_config.json", NULL },
        { "sed -i 's/\"zzle\": 2122,/\"zzle\": 2575,/; s/dragon\": 2575,/dragon\": 2122,/' tokenizer.json",
          "tokenizers differ: token 2122 is \"zzle\" and \"\xc4\xa0" "dragon\";" },
        { "sed -i '13s/true/false/' tokenizer.json", "tokenizers differ: token 0 is special in one of them;" },
        { "sed -i '4258,4261{H;d};4265G' tokenizer.json", "tokenizers differ: their merges differ, first in that of tokens " },
        { "sed -i 's/\"Isolated\"/\"Removed\"/' tokenizer.json", "tokenizers differ: rule 1 of their splitting into words is " },
        { "rm tokenizer.json tokenizer_config.json", "tokenizers differ: only one of them has a tokenizer;" },
    };
    char path[800], folder[300], command[1200];
    snprintf(path, sizeof path, "%s", converted(models[0], "q4"));
    engine *g = open_or_fail(path, (engine_opts){ .threads = 1 });
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        err e = { 0 };
        snprintf(folder, sizeof folder, "%s/varied-%zu", work_dir, i);
        snprintf(command, sizeof command, "mkdir '%s' && cp weights/pip-stories/*.json weights/pip-stories/*.safetensors '%s' && cd '%s' && %s",
                 folder, folder, folder, cases[i].edit);
        if (system(command)) fail_msg("%s", command);
        engine *draft = open_or_fail(converted(folder, "q4"), (engine_opts){ .threads = 1 });
        int rc = speculate_check(engine_about(g), engine_about(draft), &e);
        if (rc && !cases[i].why) fail_msg("%s: %s", cases[i].edit, e.msg);
        if (cases[i].why && (!rc || !strstr(e.msg, cases[i].why)))
            fail_msg("%s: \"%s\", expected \"%s\"", cases[i].edit, rc ? e.msg : "taken", cases[i].why);
        engine_close(draft);
    }
    engine_close(g);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_lookup), cmocka_unit_test(test_draft), cmocka_unit_test(test_find),
                                        cmocka_unit_test(test_pace), cmocka_unit_test(test_refusals), cmocka_unit_test(test_same_ids) };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
