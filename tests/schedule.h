/* schedule: what the tests of the server's inference side share: a queue for events, answers that collect them, a server without HTTP, and
 * the same answer from a plain session. */
#ifndef QUERN_TEST_SCHEDULE_H
#define QUERN_TEST_SCHEDULE_H

#include <math.h>
#include <pthread.h>
#include <time.h>

#include "runtime/beam.h"
#include "runtime/stop.h"
#include "runtime/saved.h"
#include "tests/models.h"
#include "tools/serve/prefix.h"
#include "tools/serve/schedule.h"

#define DEMO "weights/pip-stories"
#define GOLDEN "tests/fixtures/golden/"

/* ---- a queue for events ---- */

struct work {
    pthread_t thread[2];
    pthread_mutex_t lock;
    pthread_cond_t more;
    work_task *first, **end;
    bool quit;
};

static inline void *work_run(void *arg) {
    work *w = arg;
    for (;;) {
        pthread_mutex_lock(&w->lock);
        while (!w->first && !w->quit) pthread_cond_wait(&w->more, &w->lock);
        work_task *t = w->first;
        if (t && !(w->first = t->next)) w->end = &w->first;
        pthread_mutex_unlock(&w->lock);
        if (!t) return NULL;
        t->run(t);
    }
}

int work_start(work **out, int threads, err *e) {
    work *w = calloc(1, sizeof *w);
    (void)threads;
    (void)e;
    w->end = &w->first;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    for (int i = 0; i < 2; i++)
        if (pthread_create(&w->thread[i], NULL, work_run, w)) abort();
    *out = w;
    return 0;
}

void work_post(work *w, work_task *t) {
    pthread_mutex_lock(&w->lock);
    t->next = NULL;
    *w->end = t;
    w->end = &t->next;
    pthread_cond_signal(&w->more);
    pthread_mutex_unlock(&w->lock);
}

void work_stop(work *w) {
    pthread_mutex_lock(&w->lock);
    w->quit = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < 2; i++) pthread_join(w->thread[i], NULL);
    free(w);
}

/* ---- time ---- */

/* With SCHEDULE_CLOCK nothing takes time but steps, and each as long as the test says: what the scheduler decides by measured times it then
 * decides the same on a machine that is busy, or stops for a minute. (--wrap=now_seconds. Engines have one thread: others would wait for each
 * other by that clock.) */
#ifdef SCHEDULE_CLOCK
enum { ENGINE_THREADS = 1 };
static _Atomic int64_t clock_us = 1000000;
double __wrap_now_seconds(void);
double __wrap_now_seconds(void) { return (double)atomic_load(&clock_us) * 1e-6; }
static inline void pass(long us) { atomic_fetch_add(&clock_us, us); }
#else
enum { ENGINE_THREADS = 2 };
static inline void pass(long us) {
    if (us > 0) nanosleep(&(struct timespec){ us / 1000000, us % 1000000 * 1000 }, NULL);
}
#endif

/* ---- steps that fail, and slow ones ---- */

static atomic_int fail_batches, step_delay_ms, row_delay_us; /* so many steps of several sequences fail for want of memory */
static atomic_int fail_token = -1;             /* and every step with this token */
static atomic_int most_rows;                   /* tokens of the largest step so far */
static struct { _Atomic(engine *) g; atomic_int step_us, row_us; } slowed[2]; /* steps of an engine take so much longer */
static struct { _Atomic(engine *) g; atomic_int after; } failing;        /* and fail, but for the first so many */
static struct { _Atomic(engine *) g; atomic_int steps, tokens, most; } watched;
/* of texts; between two steps; the fail_at-th from now on fails */
static struct { atomic_int n, in_a_row, most_in_a_row, delay_ms, fail_at; } pieces;
int __real_engine_step(engine *g, const step *steps, int n_steps, err *e);
int __wrap_engine_step(engine *g, const step *steps, int n_steps, err *e);

int __real_session_piece(session *s, int most, double *did, err *e);
int __wrap_session_piece(session *s, int most, double *did, err *e);

int __wrap_session_piece(session *s, int most, double *did, err *e) {
    int row = atomic_fetch_add(&pieces.in_a_row, 1) + 1, ms = atomic_load(&pieces.delay_ms);
    atomic_fetch_add(&pieces.n, 1);
    if (row > atomic_load(&pieces.most_in_a_row)) atomic_store(&pieces.most_in_a_row, row);
    if (ms) nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000l }, NULL);
    if (atomic_load(&pieces.fail_at) > 0 && atomic_fetch_sub(&pieces.fail_at, 1) == 1)
        return fail_code(e, ERR_MEMORY, "out of memory: as the test wants it");
    return __real_session_piece(s, most, did, e);
}

/* What comes from the disk, in pieces of so many bytes, each of which takes so long. */
static struct { atomic_int n, bytes, delay_ms; } loads;
int __real_session_load_piece(session *s, size_t most, err *e);
int __wrap_session_load_piece(session *s, size_t most, err *e);
int __wrap_session_load_piece(session *s, size_t most, err *e) {
    int ms = atomic_load(&loads.delay_ms), bytes = atomic_load(&loads.bytes);
    atomic_fetch_add(&loads.n, 1);
    pass(ms * 1000l);
    return __real_session_load_piece(s, bytes ? (size_t)bytes : most, e);
}

static inline int of_one_engine(engine *g, int rows, err *e) {
    if (g == atomic_load(&watched.g)) {
        atomic_fetch_add(&watched.steps, 1);
        atomic_fetch_add(&watched.tokens, rows);
        if (rows > atomic_load(&watched.most)) atomic_store(&watched.most, rows);
    }
    for (int i = 0; i < 2; i++) {
        if (g != atomic_load(&slowed[i].g)) continue;
        pass(atomic_load(&slowed[i].step_us) + (long)rows * atomic_load(&slowed[i].row_us));
    }
    if (g == atomic_load(&failing.g) && atomic_fetch_sub(&failing.after, 1) <= 0)
        return fail_code(e, ERR_MEMORY, "out of memory: as the test wants it");
    return 0;
}

int __wrap_engine_step(engine *g, const step *steps, int n_steps, err *e) {
    int rows = 0, bad = atomic_load(&fail_token);
    atomic_store(&pieces.in_a_row, 0);
    for (int i = 0; i < n_steps; i++) {
        rows += steps[i].n;
        for (int k = 0; k < steps[i].n; k++)
            if (steps[i].tok[k] == bad) return fail_code(e, ERR_MEMORY, "out of memory: as the test wants it");
    }
    if (n_steps > 1 && atomic_load(&fail_batches) > 0) {
        atomic_fetch_sub(&fail_batches, 1);
        return fail_code(e, ERR_MEMORY, "out of memory: as the test wants it");
    }
    if (of_one_engine(g, rows, e)) return -1;
    if (rows > atomic_load(&most_rows)) atomic_store(&most_rows, rows);
    pass(atomic_load(&step_delay_ms) * 1000l);
    pass((long)rows * atomic_load(&row_delay_us));
#ifdef SCHEDULE_CLOCK
    pass(200 + 10l * rows);
#endif
    return __real_engine_step(g, steps, n_steps, e);
}

/* ---- answers ---- */

enum { CHOICES = 6, MOST = 1100 };

typedef struct choice {
    int32_t id[MOST];
    float logprob[MOST];
    job_token_prob top[MOST];
    int n, n_prompt;      /* tokens; those of the prompt before them */
    buf text;
    job_end end;
    char stop[40];
    float embedding[600];
    int n_embedding;
} choice;

typedef struct answer {
    choice c[CHOICES];
    int n_choices;        /* of each prompt */
    bool started, done, crossed, failed;
    int in_take, n_pieces, n_progress, ended;
    double ended_at;
    job_failure failure;
    job_timings t;
    char draft_error[200];
    int slow_ms;
} answer;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int n_ended;

static inline void take_piece(choice *c, const job_event *v) {
    if (v->id >= 0 && c->n < MOST) {
        c->logprob[c->n] = v->logprob;
        if (v->n_top) c->top[c->n] = v->top[0];
        c->id[c->n++] = v->id;
    }
    c->n_prompt += v->of_prompt;
    buf_add(&c->text, v->text, v->n);
}

static inline void take(job *j, const job_event *v) {
    answer *a = j->arg;
    pthread_mutex_lock(&lock);
    choice *c = &a->c[(v->prompt * a->n_choices + v->choice) % CHOICES];
    a->crossed |= a->in_take++ > 0 || a->done;
    pthread_mutex_unlock(&lock);
    if (a->slow_ms) nanosleep(&(struct timespec){ .tv_nsec = a->slow_ms * 1000000l }, NULL);
    pthread_mutex_lock(&lock);
    a->in_take--;
    if (v->kind == EVENT_STARTED) a->started = true;
    if (v->kind == EVENT_PROGRESS) a->n_progress++;
    if (v->kind == EVENT_PIECE) take_piece(c, v), a->n_pieces++;
    if (v->kind == EVENT_CHOICE_END) {
        c->end = v->end;
        snprintf(c->stop, sizeof c->stop, "%s", v->stop_string ? v->stop_string : "");
    }
    if (v->kind == EVENT_EMBEDDING) memcpy(c->embedding, v->embedding, (size_t)v->n_embedding * sizeof(float)), c->n_embedding = v->n_embedding;
    if (v->last) {
        a->t = v->timings;
        memcpy(a->draft_error, j->draft_error, sizeof a->draft_error);
        a->failed = v->kind == EVENT_FAILED;
        if (a->failed) a->failure = *v->failure;
        a->ended = ++n_ended;
        a->ended_at = now_seconds();
        job_free(j);
        a->done = true;
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static inline void wait_for(const bool *what) {
    pthread_mutex_lock(&lock);
    while (!*what) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static inline void wait_pieces(const answer *a, int n) {
    pthread_mutex_lock(&lock);
    while (a->n_pieces < n && !a->done) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static inline void wait_done(answer *a) {
    wait_for(&a->done);
    if (a->crossed) fail_msg("two events of one job at a time, or one after the last");
}

static inline answer *new_answer(int n_choices) {
    answer *a = calloc(1, sizeof *a);
    a->n_choices = n_choices;
    return a;
}

static inline void free_answer(answer *a) {
    for (int i = 0; i < CHOICES; i++) buf_free(&a->c[i].text);
    free(a);
}

/* ---- a server without HTTP ---- */

typedef struct server {
    models *v;
    work *w;
    schedule *s;
} server;

static inline server begin_opts(const char *const *paths, int n_paths, models_opts mo, schedule_opts so) {
    server x;
    err e = { 0 };
    mo.paths = paths;
    mo.n_paths = n_paths;
    mo.engine.threads = ENGINE_THREADS;
    if (!mo.keep_alive) mo.keep_alive = 300;
    must(models_open(&x.v, &mo, &e), &e);
    must(work_start(&x.w, 2, &e), &e);
    so.models = x.v;
    so.workers = x.w;
    must(schedule_start(&x.s, &so, &e), &e);
    return x;
}

static inline server begin(const char *path, int slots, int sessions) {
    return begin_opts(&path, 1, (models_opts){ .engine.max_sessions = sessions }, (schedule_opts){ .slots = slots });
}

static inline void end(server *x) {
    schedule_stop(x->s);
    work_stop(x->w);
    models_close(x->v);
}

static inline job *new_job_of(server *x, const char *model_name, answer *a, int n_prompts) {
    err e = { 0 };
    job *j = job_new();
    must(models_hold(x->v, model_name, &j->m, &e), &e);
    j->prompts = arena_alloc(&j->mem, (size_t)n_prompts * sizeof *j->prompts);
    j->n_prompts = n_prompts;
    j->n = a->n_choices;
    j->take = take;
    j->arg = a;
    return j;
}

static inline void give_text(job *j, int p, const char *text) {
    err e = { 0 };
    must(tokenizer_encode(j->m->tok, text, strlen(text), TOK_SPECIAL, &j->prompts[p], &e), &e);
}

static inline void give_ids(job *j, int p, int n, int seed) {
    int32_t tok[MOST];
    make_text(tok, n, j->m->info->n_vocab, seed);
    for (int i = 0; i < n; i++) ids_add(&j->prompts[p], tok[i]);
}

static inline job *new_job(server *x, answer *a, const char *text) {
    job *j = new_job_of(x, NULL, a, 1);
    if (text) give_text(j, 0, text);
    return j;
}

static inline void submit(server *x, job *j) {
    job_failure f = { 0 };
    if (schedule_submit(x->s, j, &f)) fail_msg("%s: %s", job_error_name(f.code), f.msg);
}

static inline void refused(server *x, job *j, job_error code, const char *part) {
    job_failure f = { 0 };
    assert_int_equal(schedule_submit(x->s, j, &f), -1);
    if (f.code != code || !strstr(f.msg, part)) fail_msg("%s: %s", job_error_name(f.code), f.msg);
    job_free(j);
}

/* ---- the same without the scheduler ---- */

/* One session of ./run, and what it has picked so far. */
typedef struct one {
    engine *g;
    const engine_info *i;
    session *s;
    tokenizer *t;
    sampler *p;
    detok d;
    ids tok;
    int32_t eos[8];
    int n_eos;
} one;

static inline one one_open(const char *path, const job *j, int prompt, int add_seed, buf *unused) {
    one x = { .g = open_or_fail(path, (engine_opts){ .threads = 1, .ctx = j->m->info->ctx }) };
    sample_opts o = j->sample;
    const ids *text = &j->prompts[prompt];
    err e = { 0 };
    x.i = engine_about(x.g);
    x.s = new_session(x.g);
    if (x.i->tokenizer_bytes) must(tokenizer_open(&x.t, x.i->tokenizer, x.i->tokenizer_bytes, &e), &e);
    for (int k = 0; k < x.i->n_eos && !j->ignore_eos; k++) x.eos[x.n_eos++] = x.i->eos[k];
    o.seed += (uint64_t)add_seed;
    o.eos = x.eos;
    o.n_eos = x.n_eos;
    if (x.i->has_encoder) {
        must(session_encode(x.s, text->p, (int)text->n, NULL, &e), &e);
        ids_add(&x.tok, x.i->decoder_start);
    } else for (size_t k = 0; k < text->n; k++) ids_add(&x.tok, text->p[k]);
    must(sampler_new(&x.p, &o, x.i->n_vocab, &e), &e);
    detok_begin(&x.d, x.t, true);
    for (size_t k = 0; k < x.tok.n; k++) {
        sampler_accept(x.p, x.tok.p[k]);
        if (x.t) detok_token(&x.d, x.tok.p[k], unused);
    }
    sampler_begin(x.p);
    return x;
}

static inline void one_close(one *x) {
    sampler_free(x->p);
    ids_free(&x->tok);
    session_free(x->s);
    tokenizer_free(x->t);
    engine_close(x->g);
}

/* The next token, -1 at an end of text. */
static inline int32_t one_pick(one *x, choice *c) {
    err e = { 0 };
    must(session_sync(x->s, x->tok.p, (int)x->tok.n, &e), &e);
    const float *logits = session_logits(x->s);
    int32_t id = sampler_pick(x->p, logits);
    for (int k = 0; k < x->n_eos; k++)
        if (x->eos[k] == id) return -1;
    c->logprob[c->n] = (float)((double)logits[id] - sample_logsumexp(logits, x->i->n_vocab));
    c->id[c->n++] = id;
    sampler_accept(x->p, id);
    ids_add(&x->tok, id);
    return id;
}

/* What ./run does with one session. */
static inline void plain(const char *path, const job *j, int prompt, int add_seed, choice *c) {
    buf text = { 0 };
    stop_filter stop = { .stops = j->stops, .n = j->n_stops };
    one x = one_open(path, j, prompt, add_seed, &text);
    text.n = 0;
    for (c->n = 0, c->end = END_NONE; !c->end && c->n < MOST;) {
        int32_t id = c->n == j->max_tokens ? -2 : x.tok.n > (size_t)x.i->ctx ? -3 : one_pick(&x, c);
        if (id < 0) c->end = id == -1 ? END_EOS : id == -2 ? END_LENGTH : END_CONTEXT;
        if (id < 0) break;
        if (x.t) detok_token(&x.d, id, &text);
        if (stop_feed(&stop, text.p, text.n, &c->text)) c->end = END_STOP_STRING;
        text.n = 0;
    }
    if (c->end != END_STOP_STRING && x.t) {
        detok_end(&x.d, &text);
        if (!stop_feed(&stop, text.p, text.n, &c->text)) stop_end(&stop, &c->text);
    }
    buf_free(&text);
    stop_free(&stop);
    one_close(&x);
}

static inline void same_choice(const char *what, const choice *a, const choice *b) {
    if (a->n != b->n) fail_msg("%s: %d tokens, expected %d", what, a->n, b->n);
    if (memcmp(a->id, b->id, (size_t)a->n * sizeof *a->id)) fail_msg("%s: other tokens", what);
    if (memcmp(a->logprob, b->logprob, (size_t)a->n * sizeof(float))) fail_msg("%s: other log-probabilities", what);
    if (a->text.n != b->text.n || (a->text.n && memcmp(a->text.p, b->text.p, a->text.n)))
        fail_msg("%s: \"%.*s\", expected \"%.*s\"", what, (int)a->text.n, a->text.p, (int)b->text.n, b->text.p);
    if (a->end != b->end) fail_msg("%s: ended for reason %d, expected %d", what, a->end, b->end);
}

#endif
