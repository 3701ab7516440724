/* schedule_fair: how users share the slots: one that is alone has all of them, of several none shuts out the others. */
#define _GNU_SOURCE
#include "tests/schedule.h"

/* Twenty jobs of a user that is alone get all slots. */
static void test_all_slots(void **state) {
    (void)state;
    server x = begin(converted(DEMO, "q8"), 4, 4);
    answer *a[20];
    atomic_store(&step_delay_ms, 2);
    for (int k = 0; k < 20; k++) {
        job *j = new_job(&x, a[k] = new_answer(1), "The dog");
        j->ignore_eos = true;
        j->max_tokens = 40;
        j->user = "alone";
        submit(&x, j);
    }
    for (int k = 0; k < 20; k++) wait_done(a[k]);
    schedule_figures f;
    schedule_about(x.s, &f);
    if (f.busy_sequences < 35 * f.steps / 10) fail_msg("%.2f sequences a step, expected nearly 4", (double)f.busy_sequences / (double)f.steps);
    atomic_store(&step_delay_ms, 0);
    for (int k = 0; k < 20; k++) free_answer(a[k]);
    end(&x);
}

/* One user's twenty jobs, then one of another: it is not the last, nor do their prompts come first. */
static void check_fairness(int slots) {
    server x = begin(converted(DEMO, "q8"), slots, slots);
    answer *first = new_answer(1); /* two users were there lately */
    job *f = new_job(&x, first, "The dog");
    f->max_tokens = 1;
    f->user = "modest";
    submit(&x, f);
    wait_done(first);
    free_answer(first);
    answer *a[20], *b = new_answer(1);
    atomic_store(&step_delay_ms, 2);
    for (int k = 0; k < 20; k++) {
        job *j = new_job(&x, a[k] = new_answer(1), NULL);
        give_ids(j, 0, 200, k);
        j->cache_prompt = false;
        j->ignore_eos = true;
        j->max_tokens = 40;
        j->user = "greedy";
        submit(&x, j);
    }
    wait_pieces(a[0], 1);
    job *j = new_job(&x, b, "The dog");
    j->max_tokens = 20;
    j->ignore_eos = true;
    j->user = "modest";
    submit(&x, j);
    wait_done(b);
    for (int k = 0; k < 20; k++) wait_done(a[k]);
    int before = 0;
    for (int k = 0; k < 20; k++) before += a[k]->ended < b->ended;
    if (before > slots) fail_msg("%d of 20 jobs of another user came first", before);
    atomic_store(&step_delay_ms, 0);
    for (int k = 0; k < 20; k++) free_answer(a[k]);
    free_answer(b);
    end(&x);
}

static void test_fairness(void **state) {
    (void)state;
    check_fairness(4); /* one slot is kept for who has none */
    check_fairness(3); /* none is: the next that is free */
}

static job *long_prompt(server *x, answer *a, const char *user) {
    job *j = new_job(x, a, NULL);
    give_ids(j, 0, 900, 3);
    j->sample.temperature = 0;
    j->ignore_eos = true;
    j->max_tokens = 8;
    j->user = user;
    return j;
}

static server begin_with_disk(const char *path, disk **d) {
    char folder[400];
    err e = { 0 };
    snprintf(folder, sizeof folder, "%s/kv", work_dir);
    must(disk_open(d, folder, 1 << 30, NULL, NULL, &e), &e);
    return begin_opts(&path, 1, (models_opts){ .engine.max_sessions = 3 }, (schedule_opts){ .slots = 3, .disk = *d });
}

/* A long session comes from the disk, slowly, while another user's answer is on its way: tokens of that one come in between. What is loaded gives the
 * answer that was given before; who goes while it is loaded, or a file that turns out to be damaged, breaks nothing. */
static void test_loading(void **state) {
    (void)state;
    const char *path = converted(DEMO, "q8");
    disk *d;
    server x = begin_with_disk(path, &d);
    answer *first = new_answer(1), *again = new_answer(1), *other = new_answer(1), *gone = new_answer(1), *last = new_answer(1);
    submit(&x, long_prompt(&x, first, "a"));
    wait_done(first);
    while (disk_about(d).saved < 1) usleep(1000);
    end(&x);
    disk_close(d);
    x = begin_with_disk(path, &d);
    atomic_store(&loads.bytes, 30000);
    atomic_store(&loads.delay_ms, 40);
    job *j = new_job(&x, other, "The dog");
    j->ignore_eos = true;
    j->max_tokens = 900;
    j->user = "b";
    submit(&x, j);
    wait_pieces(other, 3);
    int before = other->n_pieces, n = atomic_load(&loads.n);
    submit(&x, long_prompt(&x, again, "a"));
    wait_pieces(again, 1);
    n = atomic_load(&loads.n) - n;
    if (n < 10 || other->n_pieces - before < n - 2)
        fail_msg("%d tokens of another answer beside %d pieces of a session", other->n_pieces - before, n);
    wait_done(again);
    assert_int_equal(again->t.n_cached >= 890, 1);
    same_choice("from the disk", &again->c[0], &first->c[0]);
    end(&x);
    assert_true(other->done);
    disk_close(d);
    x = begin_with_disk(path, &d);
    n = atomic_load(&loads.n);
    j = long_prompt(&x, gone, "a");
    submit(&x, j);
    while (atomic_load(&loads.n) < n + 3) usleep(1000);
    schedule_cancel(x.s, j);
    wait_done(gone);
    assert_int_equal(gone->failure.code, JOB_CANCELLED);
    atomic_store(&loads.delay_ms, 0);
    char command[700];
    snprintf(command, sizeof command, "for f in '%s'/kv/*.kv; do printf X | dd of=\"$f\" bs=1 seek=200000 conv=notrunc 2>/dev/null; done", work_dir);
    assert_int_equal(system(command), 0);
    submit(&x, long_prompt(&x, last, "a"));
    wait_done(last);
    same_choice("after damage", &last->c[0], &first->c[0]);
    assert_int_equal(last->t.n_cached, 0);
    assert_int_equal(disk_about(d).damaged, 1);
    end(&x);
    disk_close(d);
    atomic_store(&loads.bytes, 0);
    answer *all[] = { first, again, other, gone, last };
    for (int i = 0; i < 5; i++) free_answer(all[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_fairness), cmocka_unit_test(test_all_slots), cmocka_unit_test(test_loading) };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
