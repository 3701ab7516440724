/* Events on their way from the scheduler to whoever writes the answers: in order, one at a time, and never behind the workers' heavy tasks.
 * Without a model and without a clock: what must not wait is shown by blocking everybody who could be waited for. */
#include "tests/test.h"
#include "tools/serve/schedule_parts.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

/* ---- workers that are busy for as long as the test wants ---- */

enum { HEAVY = 3 };
static work_task busy[HEAVY];
static int n_busy;
static bool go_on;

static void be_busy(work_task *t) {
    (void)t;
    pthread_mutex_lock(&lock);
    n_busy++;
    pthread_cond_broadcast(&changed);
    while (!go_on) pthread_cond_wait(&changed, &lock);
    n_busy--;
    pthread_mutex_unlock(&lock);
}

static void block(work *w) {
    go_on = false;
    for (int i = 0; i < HEAVY; i++) {
        busy[i].run = be_busy;
        work_post(w, &busy[i]);
    }
    pthread_mutex_lock(&lock);
    while (n_busy < HEAVY) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void unblock(void) {
    pthread_mutex_lock(&lock);
    go_on = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* ---- answers ---- */

typedef struct answer {
    job j;
    job_state *js;
    int next, in_take;       /* the event that is due, by its id */
    bool wrong, done;
} answer;

static void take(job *j, const job_event *v) {
    answer *a = j->arg;
    pthread_mutex_lock(&lock);
    a->wrong |= a->in_take++ > 0 || a->done || (!v->last && (v->id != a->next++ || v->n != 1 || v->text[0] != 'a' + v->id % 26));
    pthread_mutex_unlock(&lock);
    pthread_mutex_lock(&lock); /* the others' turn, if they wanted one */
    a->in_take--;
    a->done |= v->last;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static engine_info info;
static model one = { .info = &info };

static answer *answer_new(schedule *s, job_kind kind) {
    answer *a = calloc(1, sizeof *a);
    assert_non_null(a);
    a->j = (job){ .kind = kind, .m = &one, .n = 1, .beams.beams = 1, .take = take, .arg = a };
    a->js = state_new(s, &a->j);
    assert_non_null(a->js);
    return a;
}

static void say(answer *a, int id) {
    char c = (char)('a' + id % 26);
    post(a->js, &(job_event){ .kind = EVENT_PIECE, .id = id, .text = &c, .n = 1 });
}

static void wait_done(const answer *a) {
    pthread_mutex_lock(&lock);
    while (!a->done) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void answer_free(answer *a, int n) {
    assert_false(a->wrong);
    assert_int_equal(a->next, n);
    assert_false(a->js->lost);
    state_free(a->js);
    free(a);
}

/* ---- tests ---- */

typedef struct place {
    work *workers, *events;
} place;

static place open_place(schedule *s, int threads) {
    place p;
    err e = { 0 };
    if (work_start(&p.workers, HEAVY, &e) || work_start(&p.events, threads, &e)) fail_msg("%s", e.msg);
    *s = (schedule){ .o = { .workers = p.workers, .events = p.events } };
    return p;
}

static void close_place(place p) {
    work_stop(p.workers); /* what is queued is run */
    work_stop(p.events);
}

/* An answer from its first piece to its end while every other worker is busy and more of their work is queued. */
static void test_never_behind_heavy_work(void **state) {
    (void)state;
    static schedule s;
    place p = open_place(&s, 1);
    answer *a = answer_new(&s, JOB_GENERATE), *vectors = answer_new(&s, JOB_EMBED);
    assert_ptr_equal(a->js->workers, p.events); /* else this test would wait for ever */
    block(p.workers);
    say(vectors, 0);
    post_last(vectors->js, NULL);
    for (int i = 0; i < 1000; i++) say(a, i);
    post_last(a->js, NULL);
    wait_done(a);
    answer_free(a, 1000);
    assert_int_equal(n_busy, HEAVY);
    assert_false(vectors->done); /* what can be megabytes is with the others, in its turn */
    unblock();
    wait_done(vectors);
    close_place(p);
    answer_free(vectors, 1);
}

/* Many answers at a time through several workers: each in its order, one event at a time. */
static void test_order(void **state) {
    (void)state;
    enum { N = 40, EVENTS = 500 };
    static schedule s;
    place p = open_place(&s, 3);
    answer *a[N];
    for (int k = 0; k < N; k++) a[k] = answer_new(&s, k % 4 ? JOB_GENERATE : k % 8 ? JOB_LOAD : JOB_EMBED);
    for (int i = 0; i < EVENTS; i++)
        for (int k = 0; k < N; k++) say(a[k], i);
    for (int k = 0; k < N; k++) post_last(a[k]->js, NULL);
    for (int k = 0; k < N; k++) wait_done(a[k]);
    close_place(p);
    for (int k = 0; k < N; k++) answer_free(a[k], EVENTS);
}

/* Without workers of their own they go the way of all. */
static void test_one_queue(void **state) {
    (void)state;
    static schedule s;
    place p = open_place(&s, 1);
    s.o.events = NULL;
    answer *a = answer_new(&s, JOB_GENERATE);
    assert_ptr_equal(a->js->workers, p.workers);
    for (int i = 0; i < 100; i++) say(a, i);
    post_last(a->js, &(job_failure){ .code = JOB_FAILED });
    wait_done(a);
    close_place(p);
    answer_free(a, 100);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_never_behind_heavy_work), cmocka_unit_test(test_order),
                                        cmocka_unit_test(test_one_queue) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
