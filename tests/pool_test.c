/* pool: every task exactly once, whatever the threads, the number of tasks and the pauses between jobs. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <unistd.h>
#include "runtime/pool.h"
#include "tests/test.h"

enum { MOST = 70000 };
static _Atomic int seen[MOST];
static _Atomic int inside[POOL_MAX];

static void mark(void *arg, int task, int worker) {
    if (atomic_fetch_add(&inside[worker], 1) != 0) abort(); /* one task at a time on each worker */
    atomic_fetch_add(&seen[task], *(int *)arg);
    atomic_fetch_sub(&inside[worker], 1);
}

static void run_and_check(pool *p, int n, int value) {
    for (int i = 0; i < n; i++) atomic_store(&seen[i], 0);
    pool_run(p, mark, &value, n);
    for (int i = 0; i < n; i++) assert_int_equal(atomic_load(&seen[i]), value);
}

static void test_every_task_once(void **state) {
    (void)state;
    static const int threads[] = { 1, 2, 3, 7 };
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        pool *p;
        err e = { 0 };
        assert_int_equal(pool_new(&p, threads[t], &e), 0);
        assert_int_equal(pool_size(p), threads[t]);
        for (int round = 0; round < 2000; round++) run_and_check(p, round % 40, round + 1);
        run_and_check(p, MOST, 5); /* more than the slots' 16 bits can count */
        for (int round = 0; round < 20; round++) { /* long enough that workers park */
            usleep(300);
            run_and_check(p, 9, round + 1);
        }
        pool_free(p);
    }
}

static void slow(void *arg, int task, int worker) {
    (void)worker;
    if (task == 0) usleep(2000); /* the caller, or whoever has this one, is late: the rest is stolen, and the caller parks */
    atomic_fetch_add((_Atomic int *)arg, 1);
}

static void test_uneven(void **state) {
    (void)state;
    pool *p;
    err e = { 0 };
    assert_int_equal(pool_new(&p, 4, &e), 0);
    for (int i = 0; i < 50; i++) {
        _Atomic int n = 0;
        pool_run(p, slow, &n, 16);
        assert_int_equal(atomic_load(&n), 16);
    }
    pool_free(p);
}

typedef struct stall {
    int late; /* worker that is late at its first task; -1: none */
    bool was; /* late once already */
    _Atomic int tasks[2]; /* by worker */
} stall;

static void work_or_stall(void *arg, int task, int worker) {
    stall *s = arg;
    (void)task;
    atomic_fetch_add(&s->tasks[worker], 1);
    if (worker == s->late && !s->was) s->was = true, usleep(4000);
    for (double end = now_seconds() + 5e-6; now_seconds() < end;) {}
}

/* What another program on its core does to a worker, or to the caller: the jobs after it are the caller's alone, and later not. */
static void test_stall(void **state) {
    (void)state;
    pool *p;
    err e = { 0 };
    assert_int_equal(pool_new(&p, 2, &e), 0);
    for (int late = 0; late < 2; late++) {
        int alone = 0; /* of 8, so that other work on the machine decides neither way */
        for (int tries = 0; tries < 8 && alone < 5; tries++) {
            stall s = { .late = late };
            for (int i = 0; i < 10000 && !s.was; i++) pool_run(p, work_or_stall, &s, 16);
            s.late = -1;
            atomic_store(&s.tasks[1], 0);
            for (int i = 0; i < 20; i++) pool_run(p, work_or_stall, &s, 16);
            alone += s.was && atomic_load(&s.tasks[1]) == 0;
            double end = now_seconds() + 60; /* a rest lasts a third of a second at most */
            while (atomic_load(&s.tasks[1]) == 0 && now_seconds() < end) pool_run(p, work_or_stall, &s, 16);
            assert_true(atomic_load(&s.tasks[1]) > 0);
        }
        assert_true(alone >= 5);
    }
    pool_free(p);
}

static void test_threads(void **state) {
    (void)state;
    char reason[192];
    int n = pool_default_threads(reason, sizeof reason);
    assert_true(n >= 1 && n <= POOL_MAX);
    assert_true(strstr(reason, "thread") != NULL);
    pool *p;
    err e = { 0 };
    assert_int_equal(pool_new(&p, 0, &e), -1);
    assert_true(strstr(e.msg, "found 0") != NULL);
    e.code = 0;
    assert_int_equal(pool_new(&p, POOL_MAX + 1, &e), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_every_task_once), cmocka_unit_test(test_uneven), cmocka_unit_test(test_stall),
                                        cmocka_unit_test(test_threads) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
