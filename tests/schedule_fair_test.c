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

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_fairness), cmocka_unit_test(test_all_slots) };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
