/* Drafts of the server's models: whatever proposes, answers are those of the model alone, and no trouble of a draft is an answer's. What pays is
 * proposed, what does not is not. (Steps of an engine are made slow, to say which of two pays: by the test's own clock.) */
#define _GNU_SOURCE
#define SCHEDULE_CLOCK
#include "runtime/sample.h"
#include "tests/schedule.h"
#include "tests/unrelated_model.h"

/* converted has one text; these stay. */
static const char *kept_path(const char *path) {
    static char paths[16][800];
    static int n;
    for (int i = 0; i < n; i++)
        if (strcmp(paths[i], path) == 0) return paths[i];
    assert_true(n < 16);
    return memcpy(paths[n++], path, strlen(path) + 1);
}

static server begin_drafted(const char *path, const char *draft, int slots, double max_delay) {
    return begin_opts(&path, 1, (models_opts){ .engine.max_sessions = slots + 2, .drafts = &(model_draft){ NULL, draft }, .n_drafts = 1 },
                      (schedule_opts){ .slots = slots, .max_delay = max_delay });
}

/* The model's steps take long, whatever is in them: proposals pay, if they are any good. */
static void make_slow(const job *j, int step_us, int row_us) {
    assert_non_null(j->m->draft);
    atomic_store(&slowed[0].step_us, step_us);
    atomic_store(&slowed[0].row_us, row_us);
    atomic_store(&slowed[0].g, j->m->engine);
    atomic_store(&watched.steps, 0);
    atomic_store(&watched.tokens, 0);
    atomic_store(&watched.most, 0);
    atomic_store(&watched.g, j->m->draft);
}

static void make_quick(void) {
    atomic_store(&slowed[0].g, NULL);
    atomic_store(&slowed[1].g, NULL);
    atomic_store(&failing.g, NULL);
    atomic_store(&watched.g, NULL);
}

/* ---- the same answers ---- */

static const char *const stop_words[] = { " the", "Pip" };
static const logit_bias bias[] = { { 200, 3 }, { 210, -INFINITY } };

static job *job_of(server *x, answer *a, int k, bool text) {
    static const char *const texts[] = { "Once upon a time", "The dog said", "Once upon a time there was a little girl who",
                                         "Pip", "One day, in the forest," };
    job *j = new_job(x, a, text ? texts[k % 5] : NULL);
    if (!text) give_ids(j, 0, 5 + k * 17 % 60, k % 6);
    j->sample.seed = (uint64_t)k;
    j->sample.temperature = k % 3 == 1 ? 0.9f : 0;
    if (k % 4 == 1) j->sample.repeat_penalty = 1.2f;
    if (k % 5 == 3) j->sample.min_length = 30;
    if (k % 6 == 4) j->stops = (const char **)(uintptr_t)stop_words, j->n_stops = 2;
    if (k % 7 == 5) j->sample.bias = bias, j->sample.n_bias = 2;
    j->max_tokens = k == 9 ? 1 : k == 10 ? 2 : 25 + k * 3;
    j->ignore_eos = k % 2;
    j->logprobs = true;
    j->n_top = k % 3;
    j->lookup = k % 5 == 2;
    j->draft_most = k % 8 == 6 ? 2 : -1;
    j->user = k % 2 ? "even" : "odd";
    return j;
}

static void check_same(const char *path, const char *draft, bool text, bool good) {
    enum { N = 16 };
    choice *want = calloc(N, sizeof *want);
    server x = begin_drafted(path, draft, 5, 0);
    int64_t accepted = 0, drafted = 0;
    for (int round = 0; round < 3; round++) { /* alone, together, together from the cache and with steps that fail */
        answer *a[N];
        for (int k = 0; k < N; k++) {
            job *j = job_of(&x, a[k] = new_answer(1), k, text);
            if (round == 0) plain(path, j, 0, 0, &want[k]), make_slow(j, 3000, 0);
            if (round == 2 && k == 5) atomic_store(&fail_batches, 6);
            submit(&x, j);
            if (round == 0) wait_done(a[k]);
        }
        for (int k = 0; k < N; k++) {
            static const char *const names[] = { "alone", "together", "together, with steps that fail" };
            wait_done(a[k]);
            if (a[k]->failed) fail_msg("%d: %s", k, a[k]->failure.msg);
            same_choice(names[round], &a[k]->c[0], &want[k]);
            assert_true(a[k]->t.n_accepted <= a[k]->t.n_drafted && a[k]->t.n_drafts <= a[k]->t.n_drafted);
            if (!(k % 5 == 2)) accepted += a[k]->t.n_accepted, drafted += a[k]->t.n_drafted;
            if (k == 9) assert_int_equal(a[k]->t.n_drafted, 0);
            free_answer(a[k]);
        }
        assert_int_equal(atomic_load(&fail_batches), 0);
    }
    make_quick();
    if (good ? accepted < 300 : drafted < 10) fail_msg("%d of %d proposed tokens were kept", (int)accepted, (int)drafted);
    schedule_figures f;
    schedule_about(x.s, &f);
    assert_true(f.drafts > 0 && f.drafts <= f.drafted);
    end(&x);
    for (int k = 0; k < N; k++) buf_free(&want[k].text);
    free(want);
}

static void test_same_answers(void **state) {
    (void)state;
    const char *q8 = kept_path(converted(DEMO, "q8")), *gemma = kept_path(converted(GOLDEN "gemma3", "q8")),
               *mistral = kept_path(converted(GOLDEN "mistral", "q8"));
    check_same(q8, kept_path(converted(DEMO, "q4")), true, true);
    check_same(q8, kept_path(unrelated_model()), true, false);
    check_same(gemma, kept_path(converted(GOLDEN "gemma3", "f32")), false, true); /* windows */
    check_same(mistral, kept_path(converted(GOLDEN "mistral", "f32")), false, true);
}

/* Choices, an echo, a grammar, and a search beside them. */
static void test_kinds(void **state) {
    (void)state;
    const char *path = kept_path(converted(DEMO, "q8"));
    server x = begin_drafted(path, kept_path(converted(DEMO, "q4")), 6, 0);
    static const char gbnf[] = "root ::= ([a-z ]{1,12} \",\"){4,9} \"end\"";
    answer *a[2][4];
    for (int drafts = 0; drafts < 2; drafts++) {
        static const int n[] = { 3, 1, 1, 2 };
        for (int k = 0; k < 4; k++) {
            job *j = new_job(&x, a[drafts][k] = new_answer(n[k]), "Once upon a time");
            err e = { 0 };
            int which;
            make_slow(j, 3000, 0);
            j->sample.seed = 5;
            j->max_tokens = 60;
            j->draft_most = drafts ? -1 : 0;
            j->logprobs = k < 3;
            j->echo = k == 1;
            if (k == 2) must(grammars_hold(j->m->grammars, &(grammar_ask){ .gbnf = gbnf, .n = sizeof gbnf - 1 }, &j->grammar, &which, &e), &e);
            if (k == 3) j->beams.beams = 2;
            submit(&x, j);
        }
        for (int k = 0; k < 4; k++) {
            wait_done(a[drafts][k]);
            if (a[drafts][k]->failed) fail_msg("%s", a[drafts][k]->failure.msg);
            assert_int_equal(a[drafts][k]->t.n_drafted > 0, drafts && k != 3);
        }
    }
    make_quick();
    for (int k = 0; k < 4; k++) {
        for (int c = 0; c < a[0][k]->n_choices && k < 3; c++)
            for (int i = 0; i < 2; i++) a[i][k]->c[c].logprob[0] = k == 1 ? 0 : a[i][k]->c[c].logprob[0]; /* an echo's first token has none */
        for (int c = 0; c < a[0][k]->n_choices && k < 3; c++) same_choice("with a draft", &a[1][k]->c[c], &a[0][k]->c[c]);
        for (int c = 0; c < 2 && k == 3; c++) assert_int_equal(a[0][k]->c[c].n, a[1][k]->c[c].n);
        free_answer(a[0][k]);
        free_answer(a[1][k]);
    }
    end(&x);
}

/* Who goes while drafts propose takes nothing with him. */
static void test_cancel(void **state) {
    (void)state;
    const char *path = kept_path(converted(DEMO, "q8"));
    server x = begin_drafted(path, kept_path(converted(DEMO, "q4")), 4, 0);
    enum { N = 12 };
    answer *a[N];
    job *j[N];
    choice want[N] = { { .n = 0 } };
    for (int k = 0; k < N; k++) {
        j[k] = new_job(&x, a[k] = new_answer(1), "Once upon a time");
        j[k]->sample.seed = (uint64_t)k % 3;
        j[k]->max_tokens = 60;
        j[k]->logprobs = true;
        j[k]->cache_prompt = k % 4 != 1;
        if (k % 3) plain(path, j[k], 0, 0, &want[k]);
        make_slow(j[k], 2000, 0);
        submit(&x, j[k]);
    }
    for (int k = 0; k < N; k += 3) {
        wait_pieces(a[k], 6);
        if (!a[k]->done) schedule_cancel(x.s, j[k]);
    }
    for (int k = 0; k < N; k++) {
        wait_done(a[k]);
        if (k % 3) same_choice("beside one that went", &a[k]->c[0], &want[k]);
        buf_free(&want[k].text);
        free_answer(a[k]);
    }
    make_quick();
    end(&x);
}

/* ---- trouble ---- */

/* The draft fails in the middle: the answer is whole, and says so; the next one has a draft again. */
static void test_draft_fails(void **state) {
    (void)state;
    const char *path = kept_path(converted(DEMO, "q8"));
    for (int round = 0; round < 3; round++) { /* in the middle, from the beginning, not at all */
        server x = begin_drafted(path, kept_path(converted(DEMO, "q4")), 4, 0);
        answer *a[3];
        choice want[3] = { { .n = 0 } };
        for (int k = 0; k < 3; k++) {
            job *j = new_job(&x, a[k] = new_answer(1), "Once upon a time");
            j->sample.seed = (uint64_t)(k + 3 * round);
            j->ignore_eos = j->logprobs = true;
            j->max_tokens = 50;
            plain(path, j, 0, 0, &want[k]);
            make_slow(j, 8000, 0);
            if (k == 0 && round < 2) atomic_store(&failing.after, round ? 0 : 4), atomic_store(&failing.g, j->m->draft);
            submit(&x, j);
        }
        for (int k = 0; k < 3; k++) {
            wait_done(a[k]);
            if (a[k]->failed) fail_msg("%s", a[k]->failure.msg);
            same_choice("a draft that fails", &a[k]->c[0], &want[k]);
            if (round < 2) assert_non_null(strstr(a[k]->draft_error, "as the test wants it"));
            else assert_string_equal(a[k]->draft_error, "");
            if (round != 0 || k == 0) assert_int_equal(a[k]->t.n_drafted > 0, round != 1);
            buf_free(&want[k].text);
            free_answer(a[k]);
        }
        make_quick();
        end(&x);
    }
}

/* ---- what pays ---- */

/* An answer of n tokens; how many were proposed. */
static int proposals(server *x, const char *text, int step_us, int row_us, int draft_us, job_timings *t) {
    answer *a = new_answer(1);
    job *j = new_job(x, a, text);
    j->ignore_eos = true;
    j->sample.temperature = 0;
    j->max_tokens = 200;
    j->cache_prompt = false;
    make_slow(j, step_us, row_us);
    atomic_store(&slowed[1].step_us, draft_us);
    atomic_store(&slowed[1].row_us, 0);
    atomic_store(&slowed[1].g, j->m->draft);
    submit(x, j);
    wait_done(a);
    *t = a->t;
    free_answer(a);
    return t->n_drafted;
}

static void test_pays(void **state) {
    (void)state;
    const char *q8 = kept_path(converted(DEMO, "q8"));
    job_timings t;
    server x = begin_drafted(q8, kept_path(converted(DEMO, "q4")), 2, 0);
    proposals(&x, "Once upon a time", 5000, 0, 0, &t); /* a step costs the same with 16 tokens: nearly all come from proposals */
    if (t.n_accepted < 100) fail_msg("%d of %d proposed tokens kept, 100 wanted", t.n_accepted, t.n_drafted);
    end(&x);
    x = begin_drafted(q8, kept_path(converted(DEMO, "q4")), 2, 0);
    proposals(&x, "Once upon a time", 0, 5000, 4000, &t); /* every token costs as much, and so does its proposal: some are tried, then none */
    if (t.n_drafted > 60) fail_msg("%d tokens were proposed though they cost what they bring", t.n_drafted);
    end(&x);
    x = begin_drafted(q8, kept_path(unrelated_model()), 2, 0);
    proposals(&x, "Once upon a time", 5000, 0, 0, &t);
    if (t.n_drafted > 60) fail_msg("%d tokens were proposed by a draft that knows nothing, %d kept", t.n_drafted, t.n_accepted);
    make_quick();
    end(&x);
}

/* A draft that was of no use for one answer is not asked for the next one, whose prompt it has not read: it is behind from the beginning. After a
 * rest it has another chance, reads what it missed, and from then on guesses well. */
static void test_another_chance(void **state) {
    (void)state;
    server x = begin_drafted(kept_path(converted(DEMO, "q8")), kept_path(converted(DEMO, "q4")), 2, 0);
    answer *a = new_answer(1), *b = new_answer(1);
    job *j = new_job(&x, a, "Once upon a time");
    logit_bias odd = { 1037, 1000 }; /* always the same token, which no draft would say */
    j->sample.bias = &odd;
    j->sample.n_bias = 1;
    j->ignore_eos = true;
    j->max_tokens = 110;
    make_slow(j, 4000, 0);
    atomic_store(&slowed[1].step_us, 2000); /* guesses that are right one time in two do not pay */
    atomic_store(&slowed[1].row_us, 0);
    atomic_store(&slowed[1].g, j->m->draft);
    submit(&x, j);
    wait_done(a);
    if (!a->t.n_drafted || a->t.n_drafted > 60 || a->t.n_accepted) fail_msg("%d tokens were proposed, %d kept", a->t.n_drafted, a->t.n_accepted);
    int read = atomic_load(&watched.tokens);
    j = new_job(&x, b, "The little girl lived in the forest with her mother. One day she went out to play with her dog and found a "
                       "big red ball. She was very happy and ran home to show it to her mother. Her mother smiled and said that "
                       "they could play with the ball in the garden after lunch, if the dog wanted to play, too.");
    assert_true(j->prompts[0].n > 64);
    j->ignore_eos = true;
    j->sample.temperature = 0;
    j->max_tokens = 400;
    submit(&x, j);
    wait_done(b);
    if (b->t.n_accepted < 100)
        fail_msg("%d of %d proposed tokens kept, the draft read %d tokens", b->t.n_accepted, b->t.n_drafted, atomic_load(&watched.tokens) - read);
    make_quick();
    free_answer(a);
    free_answer(b);
    end(&x);
}

/* A text of n tokens that anybody could go on with. */
static void give_long(job *j, int n) {
    static char text[40000];
    for (size_t at = 0; at + 100 < sizeof text;)
        at += (size_t)snprintf(text + at, sizeof text - at, "Once upon a time there was a little dog. The dog was happy. ");
    give_text(j, 0, text);
    assert_true(j->prompts[0].n > (size_t)n);
    j->prompts[0].n = (size_t)n;
    j->ignore_eos = true;
    j->sample.temperature = 0;
}

/* The next turn of a conversation a draft reads from where it was. */
static void test_next_turn(void **state) {
    (void)state;
    server x = begin_drafted(kept_path(converted(DEMO, "q8")), kept_path(converted(DEMO, "q4")), 2, 0.1);
    answer *a = new_answer(1), *b = new_answer(1);
    job *j = new_job(&x, a, NULL), *next = new_job(&x, b, NULL);
    give_long(j, 700);
    j->max_tokens = 150;
    give_long(next, 700);
    make_slow(j, 4000, 0);
    submit(&x, j);
    wait_done(a);
    int tokens = atomic_load(&watched.tokens);
    if (!a->t.n_drafted || tokens < 700) fail_msg("%d proposed, the draft read %d tokens", a->t.n_drafted, tokens);
    for (int i = 0; i < 100; i++) ids_add(&next->prompts[0], a->c[0].id[i]);
    next->max_tokens = 50;
    submit(&x, next);
    wait_done(b);
    if (memcmp(b->c[0].id, a->c[0].id + 100, 50 * sizeof(int32_t))) fail_msg("other tokens than before");
    if (atomic_load(&watched.tokens) - tokens > 400)
        fail_msg("the draft read %d tokens of a conversation that it knew", atomic_load(&watched.tokens) - tokens);
    make_quick();
    free_answer(a);
    free_answer(b);
    end(&x);
}

/* A slow draft reads a long prompt while another decodes: in pieces of 0.06 s, half a millisecond a token. */
static void test_pieces(void **state) {
    (void)state;
    server x = begin_drafted(kept_path(converted(DEMO, "q8")), kept_path(converted(DEMO, "q4")), 2, 0.1);
    answer *a[2] = { new_answer(1), new_answer(1) };
    for (int k = 0; k < 2; k++) {
        job *j = new_job(&x, a[k], NULL);
        give_long(j, k ? 600 : 10);
        j->max_tokens = k ? 200 : 300;
        make_slow(j, 10000, 0);
        atomic_store(&slowed[1].step_us, 0);
        atomic_store(&slowed[1].row_us, 500);
        atomic_store(&slowed[1].g, j->m->draft);
        submit(&x, j);
        wait_pieces(a[k], 2);
    }
    for (int k = 0; k < 2; k++) wait_done(a[k]), free_answer(a[k]);
    if (atomic_load(&watched.tokens) < 600) fail_msg("the draft read %d tokens", atomic_load(&watched.tokens));
    if (atomic_load(&watched.most) > 130) fail_msg("a draft read %d tokens at once", atomic_load(&watched.most));
    make_quick();
    end(&x);
}

/* ---- files ---- */

static void refused_draft(const char *folder, const char *model_name, const char *draft, const char *part) {
    models *v;
    err e = { 0 };
    models_opts o = { .paths = &folder, .n_paths = 1, .engine.max_sessions = 2, .engine.threads = 1,
                      .drafts = &(model_draft){ model_name, draft }, .n_drafts = 1 };
    if (models_open(&v, &o, &e) == 0) fail_msg("%s=%s was taken", model_name ? model_name : "", draft);
    if (!strstr(e.msg, part)) fail_msg("%s=%s: \"%s\", expected \"%s\"", model_name ? model_name : "", draft, e.msg, part);
}

static models *open_pair(const char *folder, uint64_t memory) {
    models *v;
    err e = { 0 };
    models_opts o = { .paths = &folder, .n_paths = 1, .keep_alive = 100, .memory = memory, .engine.max_sessions = 2, .engine.threads = 1,
                      .drafts = &(model_draft){ "big", "small" }, .n_drafts = 1 };
    must(models_open(&v, &o, &e), &e);
    return v;
}

static void test_refusals(void **state) {
    (void)state;
    char folder[300];
    snprintf(folder, sizeof folder, "%s/pair", work_dir);
    run_command("mkdir -p '%s' && cp '%s' '%s/big.bin'", folder, converted(DEMO, "q8"), folder);
    run_command("cp '%s' '%s/small.bin'", converted(DEMO, "q4"), folder);
    run_command("cp '%s' '%s/other.bin'", converted(GOLDEN "llama", "q8"), folder);
    run_command("cp '%s' '%s/bert.bin'", converted(GOLDEN "bert", "f32"), folder);
    run_command("cp '%s' '%s/t5.bin'", converted(GOLDEN "t5", "f32"), folder);
    refused_draft(folder, "big", "other", "tokenizers differ");
    refused_draft(folder, "big", "bert", "encoder");
    refused_draft(folder, "t5", "small", "takes no draft");
    refused_draft(folder, "big", "big", "cannot be its own draft");
    refused_draft(folder, "nothing", "small", "'nothing' not found; there is: ");
    refused_draft(folder, "big", "nothing.bin", "expected the name of a model here, or a file");
    refused_draft(folder, "big", folder, "expected the name of a model here, or a file");
    refused_draft(folder, NULL, "small", "for which of the 5 models?");
}

static void test_files(void **state) {
    (void)state;
    char folder[300], text[400];
    err e = { 0 };
    bool open;
    model *m, copy, alone;
    uint64_t bound;
    snprintf(folder, sizeof folder, "%s/pair", work_dir); /* of test_refusals */
    models *v = open_pair(folder, 0); /* opened, counted and closed together */
    must(models_hold(v, "big", &m, &e), &e);
    assert_non_null(m->draft);
    assert_string_equal(m->draft_name, "small");
    assert_int_equal(models_bytes(v, &bound), m->memory);
    uint64_t both = m->memory, draft = m->draft_memory;
    assert_true(draft > 1000000 && draft < both);
    models_release(v, m, 0);
    assert_int_equal(models_bytes(v, &bound), 0);
    must(models_describe(v, "big", &open, &copy, &e), &e);
    assert_false(open);
    assert_true(copy.memory == both && copy.info->n_vocab == 4096);
    must(models_describe(v, "small", &open, &alone, &e), &e);
    assert_null(alone.draft_name);
    models_close(v);

    v = open_pair(folder, both - 1); /* no room for both: the model alone, and why */
    must(models_hold(v, "big", &m, &e), &e);
    assert_null(m->draft);
    if (!strstr(m->no_draft, "the bound for all open models is")) fail_msg("%s", m->no_draft);
    assert_int_equal(m->memory, both - draft);
    models_release(v, m, NAN);
    snprintf(text, sizeof text, "%s/small.bin", folder);
    assert_int_equal(truncate(text, 1000), 0); /* damaged meanwhile; the one that is open stays */
    must(models_hold(v, "big", &m, &e), &e);
    models_release(v, m, 0);
    must(models_hold(v, "big", &m, &e), &e);
    if (m->draft || !strstr(m->no_draft, "small.bin")) fail_msg("%s", m->no_draft);
    models_release(v, m, NAN);
    run_command("cp '%s' '%s/small.bin'", converted(DEMO, "q4"), folder);
    models_close(v);
    v = open_pair(folder, 0);
    must(models_hold(v, "big", &m, &e), &e);
    models_release(v, m, NAN);
    assert_int_equal(truncate(text, 1000), 0); /* replaced while it is open and nobody works with it: opened anew */
    must(models_hold(v, "big", &m, &e), &e);
    assert_null(m->draft);
    models_release(v, m, NAN);
    models_close(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_answers), cmocka_unit_test(test_kinds), cmocka_unit_test(test_cancel), cmocka_unit_test(test_draft_fails),
        cmocka_unit_test(test_pays), cmocka_unit_test(test_another_chance), cmocka_unit_test(test_next_turn),
        cmocka_unit_test(test_pieces), cmocka_unit_test(test_refusals), cmocka_unit_test(test_files),
    };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
