/* schedule_text: texts to embed and those that encoders read go through the layers in pieces, and other sequences get their tokens in between.
 * Counted in pieces and steps, not in seconds. */
#define _GNU_SOURCE
#include "tests/schedule.h"

enum { BERT_LAYERS = 3, T5_PIECES = 4 }; /* of the fixtures; T5: two layers of the encoder, two of the decoder */

static void forget_pieces(void) {
    atomic_store(&pieces.n, 0);
    atomic_store(&pieces.in_a_row, 0);
    atomic_store(&pieces.most_in_a_row, 0);
    atomic_store(&pieces.delay_ms, 0);
    atomic_store(&pieces.fail_at, 0);
}

static server begin_two(const char *first, const char *second, double max_delay, int sessions) {
    static char path[2][800];
    const char *const paths[] = { path[0], path[1] };
    snprintf(path[0], sizeof path[0], "%s", first);
    snprintf(path[1], sizeof path[1], "%s", second ? second : "");
    forget_pieces();
    return begin_opts(paths, second ? 2 : 1, (models_opts){ .engine.max_sessions = sessions },
                      (schedule_opts){ .slots = sessions, .max_delay = max_delay });
}

/* A job with so many texts to embed, of n tokens each. */
static job *texts(server *x, const char *model_name, answer *a, int n_texts, int n) {
    job *j = new_job_of(x, model_name, a, n_texts);
    j->kind = JOB_EMBED;
    j->pooling = 2;
    for (int p = 0; p < n_texts; p++) give_ids(j, p, n, p);
    return j;
}

static bool is_done(const answer *a) {
    pthread_mutex_lock(&lock);
    bool done = a->done;
    pthread_mutex_unlock(&lock);
    return done;
}

/* The same in one go, after all that was counted. */
static void same_embeddings(const char *path, const answer *a, int n_texts, int n) {
    engine *g = open_or_fail(path, (engine_opts){ .threads = 1 });
    session *s = new_session(g);
    int32_t tok[MOST];
    float want[600];
    err e = { 0 };
    if (a->failed) fail_msg("%s", a->failure.msg);
    for (int p = 0; p < n_texts; p++) {
        make_text(tok, n, engine_about(g)->n_vocab, p);
        must(session_embed(s, tok, n, 2, want, &e), &e);
        assert_int_equal(a->c[p].n_embedding, engine_about(g)->d_embed);
        assert_memory_equal(a->c[p].embedding, want, (size_t)a->c[p].n_embedding * sizeof(float));
    }
    session_free(s);
    engine_close(g);
}

static job *stream_of(server *x, const char *model_name, answer *a) {
    job *j = new_job_of(x, model_name, a, 1);
    give_ids(j, 0, 12, 3);
    j->ignore_eos = true;
    submit(x, j);
    wait_pieces(a, 3);
    return j;
}

static void end_stream(server *x, job *j, answer *a) {
    schedule_cancel(x->s, j);
    wait_done(a);
    if (a->failed) fail_msg("%s", a->failure.msg);
    free_answer(a);
}

/* While another streams: texts of one model in so many pieces, no two of them between two of its tokens, or with time enough all at once. */
static void check_turns(const char *streams, const char *embeds, bool hurry, int n, int least, int most) {
    char stream_path[800], path[800];
    snprintf(stream_path, sizeof stream_path, "%s", streams);
    snprintf(path, sizeof path, "%s", embeds);
    server x = begin_two(stream_path, strcmp(stream_path, path) ? path : NULL, hurry ? 1e-9 : 60, 3);
    const char *names[] = { strrchr(stream_path, '/') + 1, strrchr(path, '/') + 1 };
    char name[2][100];
    for (int k = 0; k < 2; k++) snprintf(name[k], sizeof name[k], "%.*s", (int)strlen(names[k]) - 4, names[k]);
    answer *a = new_answer(1), *b = new_answer(1);
    job *j = stream_of(&x, name[0], a);
    atomic_store(&pieces.most_in_a_row, 0);
    atomic_store(&pieces.n, 0);
    submit(&x, texts(&x, name[1], b, 2, n));
    wait_done(b);
    int row = atomic_load(&pieces.most_in_a_row), all = atomic_load(&pieces.n);
    end_stream(&x, j, a);
    end(&x);
    if (hurry && row != 1) fail_msg("%s: %d pieces between two tokens of another", name[1], row);
    if (!hurry && row < most / 2) fail_msg("%s: at most %d pieces in a step that had time for all", name[1], row);
    if (all < least || all > most) fail_msg("%s: %d pieces, expected %d to %d", name[1], all, least, most);
    same_embeddings(path, b, 2, n);
    free_answer(b);
}

static void test_turns(void **state) {
    (void)state;
    char demo[800], bert[800], t5[800];
    snprintf(demo, sizeof demo, "%s", converted(DEMO, "q8"));
    snprintf(bert, sizeof bert, "%s", converted(GOLDEN "bert", "f32"));
    snprintf(t5, sizeof t5, "%s", converted(GOLDEN "t5", "f32"));
    check_turns(demo, bert, true, 40, 2 * BERT_LAYERS, 2 * BERT_LAYERS);
    check_turns(demo, bert, false, 40, 2 * BERT_LAYERS, 2 * BERT_LAYERS);
    check_turns(t5, t5, true, 40, 4, 4); /* of an embedding the encoder's layers alone */
    check_turns(demo, demo, true, 200, 2 * 200 / 64, 2 * 200 / 8); /* along the text, as prompts are cut */
}

/* An encoder's text while another sequence of the model gets its tokens: both are what they are alone. */
static void test_encoder_between_tokens(void **state) {
    (void)state;
    const char *path = converted(GOLDEN "t5", "f32");
    server x = begin_two(path, NULL, 1e-9, 4);
    answer *a[3];
    choice want[3] = { { .n = 0 } };
    for (int k = 0; k < 3; k++) {
        job *j = new_job(&x, a[k] = new_answer(1), NULL);
        give_ids(j, 0, 20 + 30 * k, k);
        j->sample.temperature = 1;
        j->max_tokens = k ? 10 : 60;
        j->ignore_eos = j->logprobs = true;
        plain(path, j, 0, 0, &want[k]);
        if (k == 0) forget_pieces();
        submit(&x, j);
        if (k == 0) wait_pieces(a[0], 1);
        if (k == 0) assert_int_equal(atomic_load(&pieces.n), T5_PIECES);
    }
    for (int k = 0; k < 3; k++) {
        wait_done(a[k]);
        same_choice("t5, read in pieces", &a[k]->c[0], &want[k]);
        buf_free(&want[k].text);
        free_answer(a[k]);
    }
    end(&x);
}

/* One user's many texts, then one of another: it comes next, not last, and in the middle of one of the others. */
static void test_fairness(void **state) {
    (void)state;
    server x = begin_two(converted(GOLDEN "bert", "f32"), NULL, 1e-9, 2);
    answer *many = new_answer(1), *few = new_answer(1);
    job *j = texts(&x, NULL, many, 60, 60), *k = texts(&x, NULL, few, 1, 20);
    j->user = "greedy";
    k->user = "modest";
    atomic_store(&pieces.delay_ms, 5);
    submit(&x, j);
    while (atomic_load(&pieces.n) < 4) usleep(1000);
    int before = atomic_load(&pieces.n);
    submit(&x, k);
    wait_done(few);
    int took = atomic_load(&pieces.n) - before;
    if (took > 3 * BERT_LAYERS) fail_msg("%d pieces until the text of another user was through", took);
    assert_false(is_done(many));
    atomic_store(&pieces.delay_ms, 0);
    wait_done(many);
    assert_int_equal(atomic_load(&pieces.n), 61 * BERT_LAYERS);
    free_answer(many);
    free_answer(few);
    end(&x);
}

/* Beside a long text, and beside a long prompt, the short text of another user does not wait for the end. */
static void test_short_beside_long(void **state) {
    (void)state;
    for (int prompt = 0; prompt < 2; prompt++) {
        server x = begin_two(converted(DEMO, "q8"), NULL, 1e-9, 3);
        answer *a = new_answer(1), *b = new_answer(1);
        job *j = prompt ? new_job(&x, a, NULL) : texts(&x, NULL, a, 1, 900), *k = texts(&x, NULL, b, 1, 30);
        if (prompt) give_ids(j, 0, 900, 1);
        j->user = "long";
        j->progress = true;
        j->max_tokens = 1;
        k->user = "short";
        atomic_store(&pieces.delay_ms, 2);
        atomic_store(&step_delay_ms, 2);
        submit(&x, j);
        for (bool begun = false; !begun; usleep(1000)) {
            pthread_mutex_lock(&lock);
            begun = atomic_load(&pieces.n) >= 2 || a->n_progress;
            pthread_mutex_unlock(&lock);
        }
        submit(&x, k);
        wait_done(b);
        if (is_done(a)) fail_msg("a text of 30 tokens came after a %s of 900", prompt ? "prompt" : "text");
        atomic_store(&step_delay_ms, 0);
        atomic_store(&pieces.delay_ms, 0);
        wait_done(a);
        assert_false(a->failed || b->failed);
        free_answer(a);
        free_answer(b);
        end(&x);
    }
}

/* Where texts and sequences share one session, neither waits for all of the others; and a prompt shares steps with a text. */
static void test_one_session(void **state) {
    (void)state;
    for (int sessions = 1; sessions <= 3; sessions += 2) {
        const char *path = converted(DEMO, "q8");
        server x = begin_two(path, NULL, 1e-9, sessions);
        answer *a = new_answer(1), *b[2] = { new_answer(1), new_answer(1) };
        atomic_store(&pieces.delay_ms, 1);
        job *t = texts(&x, NULL, a, 40, 60);
        t->user = "texts";
        submit(&x, t);
        while (atomic_load(&pieces.n) < 3) usleep(1000);
        for (int k = 0; k < 2; k++) {
            job *j = new_job(&x, b[k], NULL);
            give_ids(j, 0, 100, k);
            j->user = k ? "texts" : "prompts";
            j->ignore_eos = true;
            j->max_tokens = 5;
            submit(&x, j);
        }
        for (int k = 0; k < 2; k++) {
            wait_done(b[k]);
            if (is_done(a)) fail_msg("%d sessions: a prompt came after all of 40 texts", sessions);
            assert_int_equal(b[k]->c[0].n, 5);
            free_answer(b[k]);
        }
        atomic_store(&pieces.delay_ms, 0);
        wait_done(a);
        free_answer(a);
        end(&x);
    }
}

/* Texts have sessions that a search needs all of: it waits for them, is not refused, and does not come after all that other users have. */
static void test_search_beside_texts(void **state) {
    (void)state;
    for (int beams = 2; beams <= 4; beams++) {
        server x = begin_two(converted(DEMO, "q8"), NULL, 1e-9, 4);
        answer *a[3], *b = new_answer(1);
        static const char *const users[] = { "a", "b", "c" };
        job *j = new_job(&x, b, NULL);
        atomic_store(&pieces.delay_ms, 1);
        for (int k = 0; k < 3; k++) {
            job *t = texts(&x, NULL, a[k] = new_answer(1), 40, 60);
            t->user = users[k];
            submit(&x, t);
        }
        while (atomic_load(&pieces.n) < 5) usleep(1000);
        give_ids(j, 0, 12, 4);
        j->user = "search";
        j->beams.beams = beams;
        j->max_tokens = 5;
        submit(&x, j);
        wait_done(b);
        if (b->failed) fail_msg("%d beams: %s", beams, b->failure.msg);
        if (is_done(a[0]) || is_done(a[1]) || is_done(a[2])) fail_msg("%d beams came after all of a user's 40 texts", beams);
        assert_true(b->c[0].n > 0);
        atomic_store(&pieces.delay_ms, 0);
        for (int k = 0; k < 3; k++) {
            wait_done(a[k]);
            assert_false(a[k]->failed);
            free_answer(a[k]);
        }
        free_answer(b);
        end(&x);
    }
}

/* Cancelled or too late in the middle of a text: no further layer, and its session is free for the next. */
static void check_cut(const char *path, bool embeds, bool cancel) {
    server x = begin_two(path, NULL, 0, 1);
    answer *a = new_answer(1), *b = new_answer(1);
    job *j = embeds ? texts(&x, NULL, a, 1, 50) : new_job(&x, a, NULL);
    if (!embeds) give_ids(j, 0, 50, 1);
    if (!cancel) j->deadline = now_seconds() + 0.1;
    atomic_store(&pieces.delay_ms, 80); /* more than one has no room in a step */
    submit(&x, j);
    while (atomic_load(&pieces.n) < 1) usleep(1000);
    if (cancel) schedule_cancel(x.s, j);
    wait_done(a);
    assert_true(a->failed);
    assert_int_equal(a->failure.code, cancel ? JOB_CANCELLED : JOB_DEADLINE);
    assert_string_equal(a->failure.phase, "prompt");
    int n = atomic_load(&pieces.n);
    if (n > 2) fail_msg("%d layers, expected 1 or 2", n);
    atomic_store(&pieces.delay_ms, 0);
    submit(&x, texts(&x, NULL, b, 1, 30));
    wait_done(b);
    end(&x);
    same_embeddings(path, b, 1, 30);
    free_answer(a);
    free_answer(b);
}

static void test_cut_between_layers(void **state) {
    (void)state;
    char bert[800], t5[800];
    snprintf(bert, sizeof bert, "%s", converted(GOLDEN "bert", "f32"));
    snprintf(t5, sizeof t5, "%s", converted(GOLDEN "t5", "f32"));
    for (int cancel = 0; cancel < 2; cancel++) {
        check_cut(bert, true, cancel);
        check_cut(t5, false, cancel);
    }
}

/* A piece that fails takes its job along, and nothing else. */
static void test_one_fails(void **state) {
    (void)state;
    char path[800];
    snprintf(path, sizeof path, "%s", converted(GOLDEN "t5", "f32"));
    server x = begin_two(path, NULL, 1e-9, 4);
    answer *a[3], *s = new_answer(1);
    job *stream = stream_of(&x, NULL, s);
    int n_failed = 0;
    atomic_store(&pieces.delay_ms, 2);
    atomic_store(&pieces.fail_at, 4);
    static const char *const users[] = { "a", "b", "c" };
    for (int k = 0; k < 3; k++) {
        job *j = texts(&x, NULL, a[k] = new_answer(1), 2, 30);
        j->user = users[k];
        submit(&x, j);
    }
    for (int k = 0; k < 3; k++) wait_done(a[k]);
    end_stream(&x, stream, s);
    end(&x);
    for (int k = 0; k < 3; k++) {
        n_failed += a[k]->failed;
        if (a[k]->failed) assert_int_equal(a[k]->failure.code, JOB_MEMORY);
        else same_embeddings(path, a[k], 2, 30);
        free_answer(a[k]);
    }
    assert_int_equal(n_failed, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_turns), cmocka_unit_test(test_encoder_between_tokens),
                                        cmocka_unit_test(test_fairness), cmocka_unit_test(test_one_session),
                                        cmocka_unit_test(test_cut_between_layers), cmocka_unit_test(test_one_fails),
                                        cmocka_unit_test(test_short_beside_long), cmocka_unit_test(test_search_beside_texts) };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
