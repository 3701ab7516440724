/* schedule: the server's inference side, without HTTP: a reply among others is the reply alone, and that of a plain session, bit for bit;
 * cancelling, deadlines, limits and shutting down end what they should and nothing else; users share; models come and go. */
#define _GNU_SOURCE
#include "tests/schedule.h"
#include "weights/file.h"

/* ---- the same bits ---- */

/* A job of 21 that differ in length, sampling and what they ask for. */
static job *job_of_many(server *x, answer *a, int k, bool text) {
    static const char *const texts[] = { "Once upon a time", "The dog said", "Once upon a time there was a little girl who",
                                         "Pip", "One day, in the forest," };
    job *j = new_job(x, a, text ? texts[k % 5] : NULL);
    if (!text) give_ids(j, 0, 5 + k * 7 % 90, k % 6);
    j->sample.seed = (uint64_t)k;
    j->sample.temperature = k % 3 ? 0.9f : 0;
    if (k % 4 == 1) j->sample.repeat_penalty = 1.2f;
    j->max_tokens = 20 + k * 3;
    j->logprobs = true;
    j->n_top = k % 3;
    j->lookup = k % 5 == 2;
    j->user = k % 2 ? "even" : "odd";
    return j;
}

static void check_many(const char *path, bool text) {
    enum { N = 21 };
    choice *want = calloc(N, sizeof *want);
    server x = begin(path, 8, 12);
    for (int k = 0; k < N; k++) { /* alone, each from nothing */
        answer *a = new_answer(1);
        job *j = job_of_many(&x, a, k, text);
        j->cache_prompt = false;
        plain(path, j, 0, 0, &want[k]);
        submit(&x, j);
        wait_done(a);
        same_choice("alone", &a->c[0], &want[k]);
        if (k % 3) assert_int_equal(a->c[0].top[0].id >= 0, 1);
        free_answer(a);
    }
    for (int round = 0; round < 2; round++) { /* together: the second time from the cache; and with steps that fail as a whole */
        answer *a[N];
        if (round) atomic_store(&fail_batches, 6);
        for (int k = 0; k < N; k++) submit(&x, job_of_many(&x, a[k] = new_answer(1), k, text));
        for (int k = 0; k < N; k++) {
            wait_done(a[k]);
            if (a[k]->failed) fail_msg("%s", a[k]->failure.msg);
            same_choice(round ? "together, again" : "together", &a[k]->c[0], &want[k]);
            free_answer(a[k]);
        }
        if (round) assert_int_equal(atomic_load(&fail_batches), 0);
    }
    schedule_figures f;
    schedule_about(x.s, &f);
    assert_int_equal(f.jobs_done[JOB_OK], 3 * N);
    assert_int_equal(f.active + f.queued, 0);
    assert_true(f.drafted > 0 && f.busy_sequences > f.steps && f.whole.n == 3 * N);
    end(&x);
    for (int k = 0; k < N; k++) buf_free(&want[k].text);
    free(want);
}

static void test_alone_and_among(void **state) {
    (void)state;
    check_many(converted(DEMO, "q8"), true);
    check_many(converted(GOLDEN "mistral", "f32"), false);
    check_many(converted(GOLDEN "gemma3", "f32"), false);
}

/* ---- the prefix cache ---- */

static void check_prefix(const char *path, int n) {
    server x = begin(path, 2, 6);
    choice want = { .n = 0 };
    for (int k = 0; k < 4; k++) { /* cold, the same, with more behind it, from a prompt that differs in its middle */
        answer *a = new_answer(1);
        job *j = new_job(&x, a, NULL);
        give_ids(j, 0, n, 1);
        if (k == 2) ids_add(&j->prompts[0], 7);
        if (k == 3) j->prompts[0].p[n / 2] = 3;
        j->ignore_eos = true;
        j->sample.temperature = 0;
        j->max_tokens = 12;
        j->logprobs = true;
        buf_free(&want.text);
        want = (choice){ .n = 0 };
        plain(path, j, 0, 0, &want);
        int n_prompt = (int)j->prompts[0].n;
        submit(&x, j);
        wait_done(a);
        same_choice("prefix", &a->c[0], &want);
        assert_int_equal(a->t.n_prompt, n_prompt);
        bool window = strstr(path, "mistral") || strstr(path, "gemma3");
        if (k == 0) assert_int_equal(a->t.n_cached, 0);
        if (k == 1 && !window) assert_int_equal(a->t.n_cached, n - 1);
        if (k == 2 && !window) assert_int_equal(a->t.n_cached, n);
        if (k == 3 && !window) assert_int_equal(a->t.n_cached, n / 2);
        free_answer(a);
    }
    buf_free(&want.text);
    end(&x);
}

static void test_prefix(void **state) {
    (void)state;
    check_prefix(converted(DEMO, "q8"), 300);
    check_prefix(converted(GOLDEN "mistral", "f32"), 90);
    check_prefix(converted(GOLDEN "gemma3", "f32"), 90);
}

/* The list by itself: what is superfluous goes, and what was not used for the longest time. */
static void test_prefix_cache(void **state) {
    (void)state;
    engine *g = open_or_fail(converted(GOLDEN "llama", "f32"), (engine_opts){ .threads = 1, .max_sessions = 6 });
    prefix_cache c;
    err e = { 0 };
    int32_t tok[3][20];
    int same;
    must(prefix_init(&c, 2, &e), &e);
    for (int k = 0; k < 3; k++) {
        make_text(tok[k], 20, engine_about(g)->n_vocab, k + 1);
        session *s = new_session(g), *beginning = new_session(g);
        must(session_sync(beginning, tok[k], 10, &e), &e);
        must(session_sync(s, tok[k], 20, &e), &e);
        prefix_keep(&c, beginning);
        prefix_keep(&c, s); /* makes the other superfluous */
        assert_int_equal(c.n, min_int(k + 1, 2));
        assert_int_equal(session_len(c.kept[c.n - 1].s), 20);
    }
    assert_int_equal(prefix_find(&c, tok[0], 20, &same), -1); /* the oldest is gone */
    int i = prefix_find(&c, tok[1], 15, &same);
    assert_true(i >= 0 && same == 15);
    session *empty = new_session(g), *first = new_session(g);
    must(session_sync(first, tok[1], 1, &e), &e);
    assert_int_equal(prefix_keep(&c, empty), -1); /* neither is the beginning of one that is kept: that stays its slot's */
    assert_int_equal(prefix_keep(&c, first), -1);
    assert_int_equal(c.n, 2);
    session *oldest = prefix_take_oldest(&c, NULL);
    assert_memory_equal(session_tokens(oldest), tok[2], sizeof tok[2]); /* tok[1] was used since */
    session_free(oldest);
    prefix_free(&c);
    engine_close(g);
}

/* ---- choices, prompts, text ---- */

static void test_choices(void **state) {
    (void)state;
    const char *path = converted(DEMO, "q8");
    static const char *const texts[] = { "Once upon a time there was", "The cat" };
    for (int cache = 0; cache < 2; cache++) {
        server x = begin(path, cache ? 2 : 8, 8);
        answer *a = new_answer(3);
        job *j = new_job_of(&x, NULL, a, 2);
        choice want[6] = { { .n = 0 } };
        for (int p = 0; p < 2; p++) give_text(j, p, texts[p]);
        j->sample.seed = 77;
        j->max_tokens = 30;
        j->logprobs = true;
        j->cache_prompt = cache;
        for (int k = 0; k < 6; k++) plain(path, j, k / 3, k % 3, &want[k]);
        int n_prompt = (int)(j->prompts[0].n + j->prompts[1].n);
        submit(&x, j);
        wait_done(a);
        for (int k = 0; k < 6; k++) {
            same_choice("choice", &a->c[k], &want[k]);
            buf_free(&want[k].text);
        }
        assert_int_equal(a->t.n_prompt, n_prompt);
        assert_true(a->t.total >= a->t.prompt + a->t.decode && a->t.decode > 0);
        free_answer(a);
        end(&x);
    }
}

static void test_stops(void **state) {
    (void)state;
    const char *path = converted(DEMO, "q8"), *stops[] = { "nowhere to be found", ". " };
    server x = begin(path, 4, 4);
    answer *a = new_answer(1);
    job *j = new_job(&x, a, "Once upon a time");
    choice want = { .n = 0 };
    j->sample.temperature = 0;
    j->max_tokens = 200;
    j->logprobs = true;
    j->stops = stops;
    j->n_stops = 2;
    plain(path, j, 0, 0, &want);
    assert_int_equal(want.end, END_STOP_STRING);
    submit(&x, j);
    wait_done(a);
    same_choice("stop", &a->c[0], &want);
    assert_string_equal(a->c[0].stop, ". ");
    assert_null(memmem(a->c[0].text.p, a->c[0].text.n, ". ", 2));
    buf_free(&want.text);
    free_answer(a);
    end(&x);
}

/* The prompt's own log-probabilities are those of the rows that a plain step gives. */
static void test_echo(void **state) {
    (void)state;
    server x = begin(converted(DEMO, "q8"), 4, 4);
    for (int k = 0; k < 2; k++) { /* the second time the cache could have it */
        answer *a = new_answer(1);
        job *j = new_job(&x, a, NULL);
        err e = { 0 };
        int32_t tok[100];
        give_ids(j, 0, 100, 3);
        memcpy(tok, j->prompts[0].p, sizeof tok);
        j->echo = j->logprobs = true;
        j->n_top = 2;
        j->max_tokens = k ? 3 : 0;
        submit(&x, j);
        wait_done(a);
        assert_int_equal(a->c[0].n_prompt, 100);
        assert_int_equal(a->c[0].n, k ? 103 : 100);
        assert_int_equal(a->c[0].end, END_LENGTH);
        engine *g = open_or_fail(converted(DEMO, "q8"), (engine_opts){ .threads = 1 });
        const engine_info *i = engine_about(g);
        session *s = new_session(g);
        float *rows = alloc_aligned(100 * (size_t)i->logits_ld * sizeof *rows);
        must(engine_step(g, &(step){ s, tok, 100, rows }, 1, &e), &e);
        assert_true(isnan(a->c[0].logprob[0]));
        for (int p = 1; p < 100; p++) {
            const float *row = rows + (size_t)(p - 1) * (size_t)i->logits_ld;
            float want = (float)((double)row[tok[p]] - sample_logsumexp(row, i->n_vocab));
            assert_int_equal(a->c[0].id[p], tok[p]);
            if (memcmp(&want, &a->c[0].logprob[p], sizeof want))
                fail_msg("position %d: %g, expected %g", p, (double)a->c[0].logprob[p], (double)want);
            assert_int_equal(a->c[0].top[p].id, sample_argmax(row, i->n_vocab));
        }
        free_aligned(rows);
        session_free(s);
        engine_close(g);
        free_answer(a);
    }
    end(&x);
}

/* ---- encoders, searches, embeddings ---- */

static void test_encoder_decoder(void **state) {
    (void)state;
    const char *path = converted(GOLDEN "t5", "f32");
    server x = begin(path, 6, 6);
    answer *a[4];
    choice want[4] = { { .n = 0 } };
    job *j[3];
    for (int k = 0; k < 3; k++) {
        a[k] = new_answer(k == 2 ? 2 : 1);
        j[k] = new_job(&x, a[k], NULL);
        give_ids(j[k], 0, 20 + k, k);
        j[k]->sample.temperature = 1;
        j[k]->max_tokens = 15;
        j[k]->ignore_eos = j[k]->logprobs = true;
        plain(path, j[k], 0, 0, &want[k]);
        if (k == 2) plain(path, j[k], 0, 1, &want[3]);
    }
    atomic_store(&step_delay_ms, 5);
    for (int k = 0; k < 3; k++) submit(&x, j[k]); /* together: what one encoder read is not the other's */
    for (int k = 0; k < 3; k++) {
        wait_done(a[k]);
        if (a[k]->failed) fail_msg("%s", a[k]->failure.msg);
        same_choice("t5", &a[k]->c[0], &want[k]);
        assert_int_equal(a[k]->t.n_encoder, 20 + k);
    }
    atomic_store(&step_delay_ms, 0);
    same_choice("t5, second choice", &a[2]->c[1], &want[3]);
    for (int k = 0; k < 4; k++) buf_free(&want[k].text);
    for (int k = 0; k < 3; k++) free_answer(a[k]);
    end(&x);
}

static void check_search(const char *path, bool text) {
    server x = begin(path, 6, 8);
    answer *a = new_answer(2), *other = new_answer(1);
    err e = { 0 };
    job *j = new_job(&x, a, text ? "Once upon a time" : NULL), *o = new_job(&x, other, text ? "The dog" : NULL);
    if (!text) give_ids(j, 0, 12, 4), give_ids(o, 0, 12, 5);
    j->max_tokens = 12;
    j->beams.beams = 4;
    o->max_tokens = 30;
    engine *g = open_or_fail(path, (engine_opts){ .threads = 1, .max_sessions = 4 });
    session *s = new_session(g);
    const engine_info *i = engine_about(g);
    int32_t start = i->decoder_start;
    if (i->has_encoder) must(session_encode(s, j->prompts[0].p, (int)j->prompts[0].n, NULL, &e), &e);
    if (i->has_encoder) must(session_sync(s, &start, 1, &e), &e);
    else must(session_sync(s, j->prompts[0].p, (int)j->prompts[0].n, &e), &e);
    beam_opts b = j->beams;
    beam_result r;
    b.rules = j->sample;
    b.rules.eos = i->eos;
    b.rules.n_eos = i->n_eos;
    b.max_new = 12;
    must(beam_search(g, s, &b, &r, &e), &e);
    submit(&x, o);
    submit(&x, j);
    wait_done(a);
    wait_done(other);
    if (a->failed) fail_msg("%s", a->failure.msg);
    for (int c = 0; c < 2; c++) {
        assert_int_equal(a->c[c].n, r.best[c].tokens.n);
        assert_memory_equal(a->c[c].id, r.best[c].tokens.p, r.best[c].tokens.n * sizeof(int32_t));
        assert_int_equal(a->c[c].end, r.best[c].eos >= 0 ? END_EOS : END_LENGTH);
    }
    beam_result_free(&r);
    session_free(s);
    engine_close(g);
    job *many = new_job(&x, a, NULL);
    give_ids(many, 0, 5, 1);
    many->beams.beams = 7;
    refused(&x, many, JOB_INVALID, "7 beams need as many slots, this server has 6");
    free_answer(a);
    free_answer(other);
    end(&x);
}

static void test_searches(void **state) {
    (void)state;
    check_search(converted(GOLDEN "t5", "f32"), false);
    check_search(converted(DEMO, "q8"), true);
}

static void test_embeddings(void **state) {
    (void)state;
    const char *path = converted(GOLDEN "bert", "f32");
    server x = begin(path, 2, 3);
    answer *a = new_answer(1);
    job *j = new_job_of(&x, NULL, a, 3);
    float want[3][600];
    engine *g = open_or_fail(path, (engine_opts){ .threads = 1 });
    session *s = new_session(g);
    err e = { 0 };
    j->kind = JOB_EMBED;
    for (int p = 0; p < 3; p++) {
        give_ids(j, p, 5 + 9 * p, p);
        must(session_embed(s, j->prompts[p].p, (int)j->prompts[p].n, 0, want[p], &e), &e);
    }
    submit(&x, j);
    wait_done(a);
    if (a->failed) fail_msg("%s", a->failure.msg);
    for (int p = 0; p < 3; p++) {
        assert_int_equal(a->c[p].n_embedding, engine_about(g)->d_embed);
        assert_memory_equal(a->c[p].embedding, want[p], (size_t)a->c[p].n_embedding * sizeof(float));
    }
    assert_int_equal(a->t.n_prompt, 5 + 14 + 23);
    schedule_figures f;
    schedule_about(x.s, &f);
    assert_int_equal(f.prompt_tokens, 5 + 14 + 23);
    session_free(s);
    engine_close(g);
    job *k = new_job(&x, a, NULL);
    give_ids(k, 0, 5, 1);
    refused(&x, k, JOB_UNSUPPORTED, "is an encoder");
    free_answer(a);
    end(&x);
}

/* ---- limits ---- */

static void test_refusals(void **state) {
    (void)state;
    server x = begin(converted(DEMO, "q8"), 2, 2);
    answer *a = new_answer(1);
    job *j = new_job(&x, a, NULL);
    job_failure f = { 0 };
    give_ids(j, 0, 1025 > MOST ? MOST : 1025, 1);
    assert_int_equal(schedule_submit(x.s, j, &f), -1);
    assert_int_equal(f.code, JOB_CONTEXT);
    assert_int_equal(f.n_prompt, 1025);
    assert_int_equal(f.n_ctx, 1024);
    assert_non_null(strstr(f.msg, "1025"));
    assert_non_null(strstr(f.msg, "1024"));
    job_free(j);
    refused(&x, new_job(&x, a, NULL), JOB_INVALID, "an empty prompt");
    j = new_job(&x, a, "Once");
    ids_add(&j->prompts[0], 4096);
    refused(&x, j, JOB_INVALID, "token id 4096");
    j = new_job(&x, a, "Once");
    j->sample.temperature = -1;
    refused(&x, j, JOB_INVALID, "temperature");
    j = new_job(&x, a, "Once");
    j->max_tokens = -512;
    refused(&x, j, JOB_INVALID, "-512");
    j = new_job(&x, a, "Once");
    j->kind = JOB_EMBED;
    refused(&x, j, JOB_UNSUPPORTED, "embedding");
    j = new_job(&x, a, NULL); /* all of the context: one token comes out */
    give_ids(j, 0, 1024, 1);
    submit(&x, j);
    wait_done(a);
    assert_int_equal(a->c[0].n, 1);
    assert_int_equal(a->c[0].end, END_CONTEXT);
    free_answer(a);
    a = new_answer(1);
    j = new_job(&x, a, "Once"); /* every token is forbidden: this job fails, nothing else */
    logit_bias bias[4096];
    for (int i = 0; i < 4096; i++) bias[i] = (logit_bias){ i, -INFINITY };
    j->sample.bias = bias;
    j->sample.n_bias = 4096;
    submit(&x, j);
    wait_done(a);
    assert_int_equal(a->failure.code, JOB_INVALID);
    free_answer(a);
    end(&x);
}

/* One long job in the only slot; ends when it is cancelled. */
static job *occupy(server *x, answer *a) {
    job *j = new_job(x, a, "Once upon a time");
    j->ignore_eos = true;
    submit(x, j);
    wait_pieces(a, 3);
    return j;
}

static void test_queue_full(void **state) {
    (void)state;
    const char *path = converted(DEMO, "q8");
    server x = begin_opts(&path, 1, (models_opts){ .engine.max_sessions = 1 }, (schedule_opts){ .slots = 1, .max_queue = 2 });
    answer *a[3], *b = new_answer(1);
    atomic_store(&step_delay_ms, 5);
    for (int k = 0; k < 3; k++) a[k] = new_answer(1);
    job *first = occupy(&x, a[0]);
    for (int k = 1; k < 3; k++) {
        job *j = new_job(&x, a[k], "The dog");
        j->max_tokens = 3;
        submit(&x, j);
    }
    job *j = new_job(&x, b, "The dog");
    job_failure f = { 0 };
    assert_int_equal(schedule_submit(x.s, j, &f), -1);
    assert_int_equal(f.code, JOB_QUEUE_FULL);
    assert_true(f.retry_after >= 1 && f.retry_after <= 120);
    job_free(j);
    schedule_figures about;
    schedule_about(x.s, &about);
    assert_int_equal(about.queued, 2);
    assert_int_equal(about.jobs_done[JOB_QUEUE_FULL], 1);
    assert_int_equal(about.active, 1);
    slot_about slot[4];
    assert_int_equal(schedule_slots(x.s, slot, 4), 1);
    assert_true(slot[0].busy && slot[0].n_decoded > 0 && slot[0].n_ctx == 1024);
    schedule_cancel(x.s, first);
    for (int k = 0; k < 3; k++) {
        wait_done(a[k]);
        assert_int_equal(a[k]->c[0].end, k ? END_LENGTH : END_CANCELLED);
        free_answer(a[k]);
    }
    atomic_store(&step_delay_ms, 0);
    free_answer(b);
    end(&x);
}

static void test_cancel(void **state) {
    (void)state;
    server x = begin(converted(DEMO, "q8"), 1, 2);
    answer *a[3];
    for (int k = 0; k < 3; k++) a[k] = new_answer(1);
    atomic_store(&step_delay_ms, 20);
    job *decoding = occupy(&x, a[0]), *queued = new_job(&x, a[1], "The dog");
    submit(&x, queued);
    double at = now_seconds();
    schedule_cancel(x.s, queued); /* while another computes */
    wait_done(a[1]);
    assert_int_equal(a[1]->failure.code, JOB_CANCELLED);
    assert_string_equal(a[1]->failure.phase, "queue");
    if (a[1]->ended_at - at > 1) fail_msg("cancelled in the queue: %g s", a[1]->ended_at - at);
    at = now_seconds();
    schedule_cancel(x.s, decoding);
    wait_done(a[0]);
    assert_int_equal(a[0]->c[0].end, END_CANCELLED);
    assert_false(a[0]->failed);
    assert_true(a[0]->c[0].n > 0 && a[0]->t.n_decoded == a[0]->c[0].n);
    if (a[0]->ended_at - at > 1) fail_msg("cancelled in decoding: %g s", a[0]->ended_at - at);
    job *prompt = new_job(&x, a[2], NULL);
    give_ids(prompt, 0, 1000, 1);
    prompt->progress = true;
    submit(&x, prompt);
    pthread_mutex_lock(&lock);
    while (!a[2]->n_progress) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    schedule_cancel(x.s, prompt);
    wait_done(a[2]);
    assert_true(a[2]->failed);
    assert_string_equal(a[2]->failure.phase, "prompt");
    assert_int_equal(a[2]->n_pieces, 0);
    atomic_store(&step_delay_ms, 0);
    for (int k = 0; k < 3; k++) free_answer(a[k]);
    schedule_figures f;
    schedule_about(x.s, &f);
    assert_int_equal(f.jobs_done[JOB_CANCELLED], 3);
    end(&x);
}

static void test_deadline(void **state) {
    (void)state;
    server x = begin(converted(DEMO, "q8"), 1, 2);
    answer *a = new_answer(1), *b = new_answer(1);
    atomic_store(&step_delay_ms, 10);
    job *j = new_job(&x, a, "Once upon a time"), *k = new_job(&x, b, "The dog");
    j->ignore_eos = true;
    j->deadline = now_seconds() + 0.5;
    k->deadline = now_seconds() + 0.25; /* the slot is not free by then */
    submit(&x, j);
    submit(&x, k);
    wait_done(a);
    wait_done(b);
    assert_false(a->failed);
    assert_int_equal(a->c[0].end, END_DEADLINE);
    assert_true(a->c[0].n > 0 && a->c[0].n < 900 && a->c[0].text.n > 0);
    assert_int_equal(b->failure.code, JOB_DEADLINE);
    assert_string_equal(b->failure.phase, "queue");
    atomic_store(&step_delay_ms, 0);
    free_answer(a);
    free_answer(b);
    end(&x);
}

/* A step that fails for one sequence fails that job alone; the others' answers are the same. */
static void test_one_fails(void **state) {
    (void)state;
    const char *path = converted(DEMO, "q8");
    server x = begin(path, 8, 8);
    answer *a[4];
    choice want[4] = { { .n = 0 } };
    for (int k = 0; k < 4; k++) {
        job *j = new_job(&x, a[k] = new_answer(1), "Once upon a time");
        j->sample.seed = (uint64_t)k + 10;
        j->max_tokens = 40;
        j->logprobs = true;
        if (k == 2) ids_add(&j->prompts[0], 4000);
        plain(path, j, 0, 0, &want[k]);
        for (int i = 0; i < want[k].n; i++) assert_int_not_equal(want[k].id[i], 4000);
        atomic_store(&fail_token, 4000);
        submit(&x, j);
        if (k < 3) atomic_store(&fail_token, k == 2 ? 4000 : -1);
        if (k == 1) continue;
    }
    for (int k = 0; k < 4; k++) {
        wait_done(a[k]);
        if (k == 2) assert_int_equal(a[k]->failure.code, JOB_MEMORY);
        else same_choice("beside one that fails", &a[k]->c[0], &want[k]);
        free_answer(a[k]);
        buf_free(&want[k].text);
    }
    atomic_store(&fail_token, -1);
    end(&x);
}

/* A model file with NaNs where the embeddings of tokens 16 to 31 were. */
static void damage(const char *from, const char *to) {
    static float bad[16 * 1024];
    run_command("cp '%s' '%s'", from, to);
    file f;
    err e = { 0 };
    must(file_open(&f, to, &e), &e);
    const file_tensor *t = file_find(&f, "embed");
    size_t n = 16 * round_up((size_t)t->dims[1], 64);
    assert_true(n <= sizeof bad / sizeof *bad);
    for (size_t i = 0; i < n; i++) bad[i] = NAN;
    FILE *out = fopen(to, "r+b");
    assert_int_equal(fseek(out, (long)(t->at + n * sizeof *bad), SEEK_SET), 0);
    assert_int_equal(fwrite(bad, sizeof *bad, n, out), n);
    fclose(out);
    file_close(&f);
}

/* NaNs in one sequence: that job fails, and says so; what it computed is not kept; the others never see it. */
static void test_not_finite(void **state) {
    (void)state;
    const char *path = converted(GOLDEN "mistral", "f32");
    char bad[400];
    snprintf(bad, sizeof bad, "%s/nan.bin", work_dir);
    damage(path, bad);
    server x = begin(bad, 8, 8);
    answer *a[5];
    choice want[5] = { { .n = 0 } };
    logit_bias no[16];
    for (int k = 0; k < 16; k++) no[k] = (logit_bias){ 16 + k, -INFINITY };
    for (int k = 0; k < 5; k++) {
        job *j = new_job(&x, a[k] = new_answer(1), NULL);
        for (int i = 0; i < 40; i++) ids_add(&j->prompts[0], 40 + (i * 7 + k) % 50);
        j->sample.temperature = 0;
        j->sample.bias = no;
        j->sample.n_bias = 16;
        j->ignore_eos = j->logprobs = true;
        j->max_tokens = 20;
        if (k != 3) plain(path, j, 0, 0, &want[k]);
        else j->prompts[0].p[30] = 20;
        if (k == 3) j->echo = true;
        submit(&x, j);
    }
    for (int k = 0; k < 5; k++) {
        wait_done(a[k]);
        if (k == 3) {
            assert_int_equal(a[k]->failure.code, JOB_NOT_FINITE);
            assert_string_equal(a[k]->failure.phase, "prompt");
        } else same_choice("beside a NaN", &a[k]->c[0], &want[k]);
        buf_free(&want[k].text);
        free_answer(a[k]);
    }
    end(&x);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { QUICK_ROWS = 1 }; /* no model is quick there */
#else
enum { QUICK_ROWS = 67 };
#endif

/* The pieces of a prompt follow the speed: of a slow model they are short, of a quick one long. */
static void test_pieces(void **state) {
    (void)state;
    for (int slow = 1; slow >= 0; slow--) {
        server x = begin(converted(DEMO, "q8"), 4, 4);
        answer *a = new_answer(1), *b = new_answer(1);
        atomic_store(&row_delay_us, slow ? 2000 : 0);
        atomic_store(&most_rows, 0);
        job *first = occupy(&x, a), *j = new_job(&x, b, NULL);
        give_ids(j, 0, 900, 5);
        j->max_tokens = 2;
        submit(&x, j);
        wait_done(b);
        schedule_cancel(x.s, first);
        wait_done(a);
        int rows = atomic_load(&most_rows);
        /* 0.2 s are 100 rows */
        if (slow ? rows > 66 : rows < QUICK_ROWS) fail_msg("%d rows in the largest step of a %s model", rows, slow ? "slow" : "quick");
        atomic_store(&row_delay_us, 0);
        free_answer(a);
        free_answer(b);
        end(&x);
    }
}

/* The tokens of ./run with the same seed, sampled as the checkpoint says. */
static void test_as_run(void **state) {
    (void)state;
    const char *path = converted(DEMO, "q8");
    server x = begin(path, 4, 4);
    for (int seed = 1; seed < 4; seed++) {
        answer *a = new_answer(1);
        job *j = new_job(&x, a, "Once upon a time");
        buf out = { 0 };
        ids want = { 0 };
        err e = { 0 };
        run_command("%s/run '%s' -p 'Once upon a time' -n 60 --seed %d --print-ids >'%s/ids' 2>/dev/null", bin_dir(), path, seed, work_dir);
        char file_name[300];
        snprintf(file_name, sizeof file_name, "%s/ids", work_dir);
        must(read_file(file_name, 0, &out, &e), &e);
        must(ids_parse(&want, out.p, &e), &e);
        job_defaults(j);
        j->sample.seed = (uint64_t)seed;
        j->max_tokens = 60;
        submit(&x, j);
        wait_done(a);
        assert_int_equal(a->c[0].n, want.n);
        assert_memory_equal(a->c[0].id, want.p, want.n * sizeof *want.p);
        ids_free(&want);
        buf_free(&out);
        free_answer(a);
    }
    end(&x);
}

static void test_drain(void **state) {
    (void)state;
    server x = begin(converted(DEMO, "q8"), 1, 1);
    answer *a = new_answer(1), *b = new_answer(1), *c = new_answer(1);
    atomic_store(&step_delay_ms, 20);
    occupy(&x, a);
    submit(&x, new_job(&x, b, "The dog"));
    schedule_drain(x.s, 0.05);
    wait_done(a);
    wait_done(b);
    assert_int_equal(a->c[0].end, END_SHUTDOWN);
    assert_int_equal(b->failure.code, JOB_SHUTTING_DOWN);
    refused(&x, new_job(&x, c, "The dog"), JOB_SHUTTING_DOWN, "shutting down");
    atomic_store(&step_delay_ms, 0);
    free_answer(a);
    free_answer(b);
    free_answer(c);
    end(&x);
}

/* A receiver that sleeps holds up nobody but itself. */
static void test_slow_receiver(void **state) {
    (void)state;
    server x = begin(converted(DEMO, "q8"), 4, 4);
    answer *slow = new_answer(1), *quick = new_answer(1);
    slow->slow_ms = 5;
    job *j = new_job(&x, slow, "Once upon a time"), *k = new_job(&x, quick, "Once upon a time");
    j->max_tokens = k->max_tokens = 100;
    j->ignore_eos = k->ignore_eos = true;
    submit(&x, j);
    submit(&x, k);
    wait_done(quick);
    assert_false(slow->done);
    wait_done(slow);
    assert_int_equal(slow->c[0].n, 100);
    assert_true(slow->t.total < slow->ended_at);
    free_answer(slow);
    free_answer(quick);
    end(&x);
}

/* ---- models ---- */

static void check_open(models *v, const char *name, bool want) {
    bool open;
    model copy;
    err e = { 0 };
    must(models_describe(v, name, &open, &copy, &e), &e);
    if (open != want) fail_msg("%s is %s", name, open ? "open" : "closed");
    assert_non_null(copy.info);
    assert_int_equal(strlen(copy.digest), 16);
}

static models *open_models(models_opts o, const char *folder) {
    models *v;
    err e = { 0 };
    o.paths = &folder;
    o.n_paths = 1;
    o.engine.threads = 1;
    must(models_open(&v, &o, &e), &e);
    return v;
}

static void test_models(void **state) {
    (void)state;
    char folder[300];
    snprintf(folder, sizeof folder, "%s/models", work_dir);
    run_command("mkdir -p '%s'", folder);
    run_command("cp '%s' '%s/one.bin'", converted(DEMO, "q8"), folder);
    run_command("cp '%s' '%s/two.bin'", converted(GOLDEN "llama", "f32"), folder);
    run_command("head -c 5000 '%s' >'%s/broken.bin'", converted(DEMO, "q8"), folder);
    err e = { 0 };
    models *v = open_models((models_opts){ .keep_alive = 100 }, folder);
    model *m, *again, *list;
    int n;
    must(models_list(v, &list, &n, &e), &e);
    assert_int_equal(n, 3);
    assert_null(list[1].info);
    free(list);
    must(models_hold(v, "one:latest", &m, &e), &e);
    must(models_hold(v, "one.bin", &again, &e), &e);
    assert_ptr_equal(m, again);
    assert_non_null(m->tok);
    assert_int_equal(models_hold(v, "three", &again, &e), -1);
    assert_int_equal(e.code, MODELS_NOT_FOUND);
    assert_non_null(strstr(e.msg, "broken, one, two"));
    e = (err){ 0 };
    assert_int_equal(models_hold(v, "broken", &again, &e), -1);
    assert_true(e.code != 0 && e.code != MODELS_NOT_FOUND);
    e = (err){ 0 };
    run_command("cp '%s/two.bin' '%s/three.bin'", folder, folder); /* found without a restart */
    must(models_hold(v, "three", &again, &e), &e);
    models_release(v, again, 0); /* closed at once */
    check_open(v, "three", false);
    run_command("rm '%s/three.bin'", folder);
    assert_int_equal(models_hold(v, "three", &again, &e), -1);
    assert_int_equal(e.code, MODELS_NOT_FOUND);
    models_release(v, m, NAN);
    models_release(v, m, NAN);
    models_expire(v, now_seconds() + 99);
    check_open(v, "one", true);
    models_expire(v, now_seconds() + 101);
    check_open(v, "one", false);
    e = (err){ 0 };
    must(models_hold(v, "one", &m, &e), &e);
    models_release(v, m, -1);
    models_expire(v, now_seconds() + 1e9);
    check_open(v, "one", true);
    models_close(v);
}

static void test_models_memory(void **state) {
    (void)state;
    char folder[300];
    err e = { 0 };
    model *first, *second;
    bool open;
    snprintf(folder, sizeof folder, "%s/models", work_dir);
    models *v = open_models((models_opts){ .keep_alive = 100 }, folder);
    model a, b;
    must(models_describe(v, "one", &open, &a, &e), &e);
    must(models_describe(v, "two", &open, &b, &e), &e);
    models_close(v);
    v = open_models((models_opts){ .keep_alive = 100, .memory = a.memory + b.memory - 1 }, folder);
    must(models_hold(v, "one", &first, &e), &e);
    assert_int_equal(models_hold(v, "two", &second, &e), -1); /* what is held is not closed */
    assert_int_equal(e.code, MODELS_NO_MEMORY);
    assert_non_null(strstr(e.msg, "models in use"));
    models_release(v, first, NAN);
    e = (err){ 0 };
    must(models_hold(v, "two", &second, &e), &e);
    check_open(v, "one", false);
    models_release(v, second, NAN);
    models_close(v);
    run_command("cp '%s/two.bin' '%s/four.bin'", folder, folder);
    v = open_models((models_opts){ .keep_alive = 100, .memory = a.memory + 2 * b.memory - 1 }, folder);
    static const char *const order[] = { "one", "two", "one", "four" };
    for (int k = 0; k < 4; k++) {
        must(models_hold(v, order[k], &first, &e), &e);
        models_release(v, first, NAN);
    }
    check_open(v, "two", false); /* the one that was not used for the longest time */
    check_open(v, "one", true);
    models_close(v);
    run_command("rm '%s/four.bin'", folder);
    v = open_models((models_opts){ .keep_alive = 100, .memory = a.memory / 2 }, folder);
    e = (err){ 0 };
    assert_int_equal(models_hold(v, "one", &first, &e), -1);
    assert_int_equal(e.code, MODELS_NO_MEMORY);
    models_close(v);
}

/* Adapters of a request: the logits of an engine that was opened with them; the model without them beside it. */
static void test_adapters(void **state) {
    (void)state;
    char folder[300], adapter_path[400], base[400];
    snprintf(folder, sizeof folder, "%s/adapted", work_dir);
    snprintf(adapter_path, sizeof adapter_path, "%s/tuned.lora", folder);
    snprintf(base, sizeof base, "%s/base.bin", folder);
    run_command("mkdir -p '%s'", folder);
    run_command("cp '%s' '%s/base.bin'", converted(GOLDEN "llama", "f32"), folder);
    run_command("%s/convert " GOLDEN "lora_llama --base " GOLDEN "llama -o '%s' 2>/dev/null", bin_dir(), adapter_path);
    const char *paths[] = { folder };
    server x = begin_opts(paths, 1, (models_opts){ .engine.max_sessions = 3 }, (schedule_opts){ .slots = 3 });
    answer *a[3];
    choice want[2] = { { .n = 0 } };
    static const model_adapter tuned = { "tuned", 1.5f }, missing = { "missing", 1 };
    for (int k = 0; k < 3; k++) {
        job *j = new_job(&x, a[k] = new_answer(1), NULL);
        give_ids(j, 0, 30, 2);
        j->sample.temperature = 0;
        j->ignore_eos = j->logprobs = true;
        j->max_tokens = 10;
        if (k == 0) plain(base, j, 0, 0, &want[0]);
        if (k == 1) j->adapters = &tuned, j->n_adapters = 1;
        submit(&x, j);
        wait_done(a[k]);
        if (a[k]->failed) fail_msg("%s", a[k]->failure.msg);
    }
    same_choice("without adapters", &a[0]->c[0], &want[0]);
    same_choice("without adapters, after", &a[2]->c[0], &want[0]);
    assert_memory_not_equal(a[1]->c[0].logprob, want[0].logprob, 10 * sizeof(float));
    assert_int_equal(a[1]->t.n_cached, 0); /* the other engine's pages are not its */
    assert_int_equal(a[2]->t.n_cached, 29);
    engine *g = open_or_fail(base, (engine_opts){ .threads = 1, .adapters = &(adapter){ adapter_path, 1.5f }, .n_adapters = 1 });
    session *s = new_session(g);
    int32_t tok[30];
    err e = { 0 };
    make_text(tok, 30, engine_about(g)->n_vocab, 2);
    must(session_sync(s, tok, 30, &e), &e);
    assert_int_equal(a[1]->c[0].id[0], sample_argmax(session_logits(s), engine_about(g)->n_vocab));
    float first = (float)((double)session_logits(s)[a[1]->c[0].id[0]] - sample_logsumexp(session_logits(s), engine_about(g)->n_vocab));
    assert_memory_equal(&first, &a[1]->c[0].logprob[0], sizeof first);
    session_free(s);
    engine_close(g);
    job *j = new_job(&x, a[0], NULL);
    give_ids(j, 0, 5, 2);
    j->adapters = &missing;
    j->n_adapters = 1;
    refused(&x, j, JOB_INVALID, "'missing' not found");
    for (int k = 0; k < 3; k++) free_answer(a[k]);
    buf_free(&want[0].text);
    end(&x);
}

/* Every scale is an engine: those that nobody holds do not pile up. */
static void test_many_scales(void **state) {
    (void)state;
    char folder[300];
    err e = { 0 };
    models *v;
    model *base, *m;
    uint64_t bound, each = 0;
    snprintf(folder, sizeof folder, "%s/scales", work_dir);
    run_command("mkdir -p '%s'", folder);
    run_command("cp '%s' '%s/base.bin'", converted(GOLDEN "llama", "f32"), folder);
    run_command("%s/convert " GOLDEN "lora_llama --base " GOLDEN "llama -o '%s/tuned.lora' 2>/dev/null", bin_dir(), folder);
    must(models_open(&v, &(models_opts){ .paths = (const char *const[]){ folder }, .n_paths = 1, .keep_alive = -1, .engine.threads = 1 }, &e), &e);
    must(models_hold(v, "base", &base, &e), &e);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 30; i++) {
            must(models_hold_adapted(v, base, &(model_adapter){ "tuned", 1 + (float)i }, 1, &m, &e), &e);
            each = m->memory;
            models_release(v, m, NAN);
        }
    assert_true(models_bytes(v, &bound) <= base->memory + 8 * each);
    models_release(v, base, NAN);
    models_close(v);
}

/* Two models at once; keep_alive 0 closes one while the other works; JOB_LOAD. */
static void test_two_models(void **state) {
    (void)state;
    char folder[300];
    snprintf(folder, sizeof folder, "%s/models", work_dir);
    const char *paths[] = { folder };
    server x = begin_opts(paths, 1, (models_opts){ .engine.max_sessions = 4 }, (schedule_opts){ .slots = 3 });
    for (int round = 0; round < 3; round++) {
        answer *a[6];
        for (int k = 0; k < 6; k++) {
            a[k] = new_answer(1);
            job *j = new_job_of(&x, k % 2 ? "two" : "one", a[k], 1);
            give_ids(j, 0, 20, k);
            j->max_tokens = 20;
            j->ignore_eos = true;
            j->keep_alive = k % 2 ? 0 : NAN;
            submit(&x, j);
        }
        for (int k = 0; k < 6; k++) {
            wait_done(a[k]);
            if (a[k]->failed) fail_msg("%s", a[k]->failure.msg);
            assert_int_equal(a[k]->c[0].n, 20);
            free_answer(a[k]);
        }
    }
    answer *a = new_answer(1);
    job *j = new_job_of(&x, "two", a, 1);
    j->kind = JOB_LOAD;
    submit(&x, j);
    wait_done(a);
    assert_false(a->failed);
    check_open(x.v, "two", true);
    check_open(x.v, "one", true);
    free_answer(a);
    end(&x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone_and_among), cmocka_unit_test(test_prefix),          cmocka_unit_test(test_prefix_cache),
        cmocka_unit_test(test_choices),         cmocka_unit_test(test_stops),           cmocka_unit_test(test_echo),
        cmocka_unit_test(test_encoder_decoder), cmocka_unit_test(test_searches),        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_refusals),        cmocka_unit_test(test_queue_full),      cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_deadline),        cmocka_unit_test(test_one_fails),
        cmocka_unit_test(test_not_finite),      cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_as_run),          cmocka_unit_test(test_drain),           cmocka_unit_test(test_slow_receiver),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_models_memory),   cmocka_unit_test(test_adapters), cmocka_unit_test(test_many_scales),
        cmocka_unit_test(test_two_models),
    };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
