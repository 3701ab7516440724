/* Models are opened and closed outside the lock that names and lists need: who asks for others, or for a list, does not wait for it; who asks
 * for the same one shares the opening, and its failure; and what is open stays within the memory that it may take. */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "tests/models.h"
#include "tools/serve/models.h"

/* ---- openings that the test holds up ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t go;
    const char *slow; /* files with this in their path wait at the door */
    bool fails;       /* and are damaged then */
    int waiting, openings;
} door = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, false, 0, 0 };

int __real_engine_open(engine **g, const engine_opts *o, err *e);
int __wrap_engine_open(engine **g, const engine_opts *o, err *e);
int __wrap_engine_open(engine **g, const engine_opts *o, err *e) {
    pthread_mutex_lock(&door.lock);
    bool slow = door.slow && strstr(o->path, door.slow);
    if (slow) door.openings++, door.waiting++, pthread_cond_broadcast(&door.go);
    while (slow && door.slow) pthread_cond_wait(&door.go, &door.lock);
    if (slow) door.waiting--;
    bool bad = slow && door.fails;
    pthread_mutex_unlock(&door.lock);
    return bad ? fail_code(e, ERR_FAILED, "%s: damaged, as the test wants it", o->path) : __real_engine_open(g, o, e);
}

static void shut(const char *slow) {
    pthread_mutex_lock(&door.lock);
    door.slow = slow;
    door.openings = 0;
    pthread_mutex_unlock(&door.lock);
}

static void await_at_door(int n) {
    pthread_mutex_lock(&door.lock);
    while (door.waiting < n) pthread_cond_wait(&door.go, &door.lock);
    pthread_mutex_unlock(&door.lock);
}

static void unlock_door(bool fails) {
    pthread_mutex_lock(&door.lock);
    door.slow = NULL;
    door.fails = fails;
    pthread_cond_broadcast(&door.go);
    pthread_mutex_unlock(&door.lock);
}

/* ---- who asks ---- */

typedef struct asker {
    pthread_t thread;
    models *v;
    const char *name;
    model *m;
    int rc;
    err e;
} asker;

static void *ask(void *arg) {
    asker *a = arg;
    a->rc = models_hold(a->v, a->name, &a->m, &a->e);
    return NULL;
}

static void begin_asking(asker *a, models *v, const char *name) {
    *a = (asker){ .v = v, .name = name };
    assert_int_equal(pthread_create(&a->thread, NULL, ask, a), 0);
}

static char shelf[300];

static models *open_shelf(uint64_t memory) {
    models *v;
    err e = { 0 };
    const char *path = shelf;
    must(models_open(&v, &(models_opts){ .paths = &path, .n_paths = 1, .keep_alive = 100, .memory = memory, .engine.threads = 1,
                                         .engine.max_sessions = 2 }, &e), &e);
    return v;
}

static int set_up(void **state) {
    (void)state;
    make_work_dir();
    snprintf(shelf, sizeof shelf, "%s/shelf", work_dir);
    run_command("mkdir '%s'", shelf);
    run_command("cp '%s' '%s/quick.bin'", converted("weights/pip-stories", "q8"), shelf);
    run_command("cp '%s' '%s/slow.bin'", converted("tests/fixtures/golden/llama", "f32"), shelf);
    run_command("cp '%s' '%s/third.bin'", converted("tests/fixtures/golden/gemma3", "q8"), shelf);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    remove_work_dir();
    return 0;
}

/* While one is opened, everything else answers; three askers open it once. */
static void test_others_do_not_wait(void **state) {
    (void)state;
    models *v = open_shelf(0);
    model *m, *list, copy;
    asker a[3];
    err e = { 0 };
    bool open;
    int n;
    uint64_t bound;
    must(models_describe(v, "slow", &open, &copy, &e), &e);
    shut("slow.bin");
    begin_asking(&a[0], v, "slow");
    await_at_door(1);
    alarm(20); /* what waits for the door waits for ever */
    for (int round = 0; round < 2; round++) { /* opened now, then there */
        must(models_hold(v, "quick", &m, &e), &e);
        assert_non_null(m->tok);
        models_release(v, m, NAN);
    }
    must(models_list(v, &list, &n, &e), &e);
    assert_int_equal(n, 3);
    for (int i = 0; i < n; i++) assert_true((list[i].expires != 0) == (strcmp(list[i].name, "quick") == 0));
    free(list);
    must(models_describe(v, "slow", &open, &copy, &e), &e); /* known from before */
    assert_false(open);
    assert_non_null(copy.info);
    must(models_describe(v, "third", &open, &copy, &e), &e);
    assert_true(models_bytes(v, &bound) > 0);
    models_expire(v, now_seconds() + 1000);
    begin_asking(&a[1], v, "slow");
    begin_asking(&a[2], v, "slow:latest");
    usleep(100000);
    assert_int_equal(door.openings, 1);
    unlock_door(false);
    for (int i = 0; i < 3; i++) pthread_join(a[i].thread, NULL);
    alarm(0);
    for (int i = 0; i < 3; i++) {
        must(a[i].rc, &a[i].e);
        assert_ptr_equal(a[i].m, a[0].m);
    }
    assert_int_equal(door.openings, 1);
    for (int i = 0; i < 3; i++) { /* each of them holds it */
        assert_non_null(a[i].m->engine);
        models_release(v, a[i].m, 0);
    }
    must(models_describe(v, "slow", &open, &copy, &e), &e);
    assert_false(open);
    models_close(v);
}

/* A failure is that of all who waited; the next one tries again. */
static void test_shared_failure(void **state) {
    (void)state;
    models *v = open_shelf(0);
    asker a[3];
    shut("slow.bin");
    begin_asking(&a[0], v, "slow");
    await_at_door(1);
    for (int i = 1; i < 3; i++) begin_asking(&a[i], v, "slow");
    usleep(200000);
    unlock_door(true);
    for (int i = 0; i < 3; i++) {
        pthread_join(a[i].thread, NULL);
        assert_int_equal(a[i].rc, -1);
        if (!strstr(a[i].e.msg, "damaged, as the test wants it")) fail_msg("%s", a[i].e.msg);
    }
    assert_int_equal(door.openings, 1);
    begin_asking(&a[0], v, "slow");
    pthread_join(a[0].thread, NULL);
    must(a[0].rc, &a[0].e);
    models_release(v, a[0].m, 0);
    models_close(v);
}

/* Two that do not fit together, opened at the same time: one has it, the other hears why not; what is idle makes room. */
static void test_no_room_for_both(void **state) {
    (void)state;
    models *v = open_shelf(0);
    model one, two, *m;
    err e = { 0 };
    bool open;
    uint64_t bound;
    must(models_describe(v, "slow", &open, &one, &e), &e);
    must(models_describe(v, "third", &open, &two, &e), &e);
    models_close(v);
    v = open_shelf(one.memory + two.memory - 1);
    asker a[2];
    shut("shelf/");
    begin_asking(&a[0], v, "slow");
    begin_asking(&a[1], v, "third");
    await_at_door(2);
    unlock_door(false);
    for (int i = 0; i < 2; i++) pthread_join(a[i].thread, NULL);
    assert_int_equal((a[0].rc == 0) + (a[1].rc == 0), 1);
    asker *lucky = a[0].rc ? &a[1] : &a[0], *other = a[0].rc ? &a[0] : &a[1];
    assert_int_equal(other->e.code, MODELS_NO_MEMORY);
    assert_true(models_bytes(v, &bound) <= bound);
    models_release(v, lucky->m, NAN);
    must(models_hold(v, other->name, &m, &e), &e);
    assert_int_equal(models_bytes(v, &bound), m->memory);
    models_release(v, m, NAN);
    models_close(v);
}

/* ---- many at once ---- */

enum { CROWD = 6, ROUNDS = 60 };
static atomic_bool crowd_over;
static atomic_int no_memory;

static void *come_and_go(void *arg) {
    asker *a = arg;
    static const char *const names[] = { "quick", "slow", "third" };
    unsigned seed = (unsigned)(uintptr_t)a->name;
    for (int i = 0; i < ROUNDS && !a->rc; i++) {
        err e = { 0 };
        model *m;
        seed = seed * 1103515245 + 12345;
        if (models_hold(a->v, names[(seed >> 16) % 3], &m, &e)) {
            if (e.code != MODELS_NO_MEMORY) a->rc = -1, a->e = e;
            atomic_fetch_add(&no_memory, 1);
            continue;
        }
        if (!m->engine || !m->info || m->info != engine_about(m->engine) || (m->tok && tokenizer_size(m->tok) < 1))
            a->rc = fail_code(&a->e, ERR_FAILED, "what is held is not whole");
        models_release(a->v, m, seed & 1 << 20 ? 0 : NAN);
    }
    return NULL;
}

static void *look_around(void *arg) {
    asker *a = arg;
    while (!atomic_load(&crowd_over) && !a->rc) {
        model *list;
        int n;
        uint64_t bound;
        if (models_list(a->v, &list, &n, &a->e)) return a->rc = -1, NULL;
        for (int i = 0; i < n; i++)
            if (list[i].info && list[i].info->n_vocab < 1) a->rc = fail_code(&a->e, ERR_FAILED, "a model of no tokens");
        free(list);
        if (models_bytes(a->v, &bound) > bound) a->rc = fail_code(&a->e, ERR_FAILED, "more than may be is open");
        models_expire(a->v, now_seconds() + 1000);
    }
    return NULL;
}

static void test_crowd(void **state) {
    (void)state;
    models *v = open_shelf(0);
    model one, two;
    err e = { 0 };
    bool open;
    asker a[CROWD + 1];
    must(models_describe(v, "quick", &open, &one, &e), &e);
    must(models_describe(v, "third", &open, &two, &e), &e);
    models_close(v);
    v = open_shelf(one.memory + two.memory - 1);
    atomic_store(&crowd_over, false);
    for (int i = 0; i <= CROWD; i++) {
        a[i] = (asker){ .v = v, .name = (const char *)(uintptr_t)(unsigned)(i * 7919 + 1) };
        assert_int_equal(pthread_create(&a[i].thread, NULL, i < CROWD ? come_and_go : look_around, &a[i]), 0);
    }
    for (int i = 0; i <= CROWD; i++) {
        if (i == CROWD) atomic_store(&crowd_over, true);
        pthread_join(a[i].thread, NULL);
        must(a[i].rc, &a[i].e);
    }
    if (atomic_load(&no_memory) == CROWD * ROUNDS) fail_msg("nobody got a model");
    uint64_t bound;
    models_expire(v, now_seconds() + 1000);
    assert_int_equal(models_bytes(v, &bound), 0);
    models_close(v);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_others_do_not_wait), cmocka_unit_test(test_shared_failure),
                                        cmocka_unit_test(test_no_room_for_both), cmocka_unit_test(test_crowd) };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
