/* schedule: the inference thread and what others see of it (schedule.h). It owns the queue, the users and the figures. The thread takes
 * new jobs, ends those that are cancelled or too late, gives each model with jobs one step, and begins again. It must not know
 * HTTP, JSON or any dialect, and it never waits for a receiver. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/serve/schedule_parts.h"

const double histogram_bounds[HISTOGRAM_BUCKETS] = { 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
                                                     0.5,   0.75,  1,     2,    5,    10,   20,   30,    60,  120,  300, 600 };

void count_histogram(histogram *h, double seconds) {
    int i = 0;
    while (i < HISTOGRAM_BUCKETS && seconds > histogram_bounds[i]) i++;
    h->count[i]++;
    h->sum += seconds;
    h->n++;
}

/* ---- from other threads ---- */

/* When it may be worth trying again: half of the queue will have been worked off. */
static double retry_after(const schedule *s) {
    double seconds = (s->n_queued / 2.0 + 1) * s->mean_job / max_int(s->n_slots, 1);
    return seconds < 1 ? 1 : seconds > 120 ? 120 : seconds;
}

static int enqueue(schedule *s, job_state *js, job_failure *f) {
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    if (s->draining) rc = failed(f, JOB_SHUTTING_DOWN, "queue", NULL, "the server is shutting down");
    else if (s->n_queued >= s->o.max_queue) {
        rc = failed(f, JOB_QUEUE_FULL, "queue", NULL, "the queue is full: %d requests wait already, the most is %d; try again in %.0f s",
                    s->n_queued, s->o.max_queue, retry_after(s));
        f->retry_after = retry_after(s);
    } else {
        *s->inbox_end = js;
        s->inbox_end = &js->next;
        s->n_queued++;
        s->n_jobs++;
        pthread_cond_signal(&s->wake);
    }
    if (rc) s->figures.jobs_done[f->code]++; /* it never was a job, and is asked for as one */
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int schedule_submit(schedule *s, job *j, job_failure *f) {
    if (schedule_check(s, j, f)) return -1;
    if (!j->arrived) j->arrived = now_seconds();
    if (!j->deadline && s->o.default_timeout > 0) j->deadline = j->arrived + s->o.default_timeout;
    job_state *js = state_new(s, j);
    if (!js) return failed(f, JOB_MEMORY, "queue", NULL, "out of memory: a job's state");
    j->state = js;
    j->state_free = state_free;
    if (enqueue(s, js, f) == 0) return 0;
    j->state = NULL;
    state_free(js);
    return -1;
}

void schedule_cancel(schedule *s, job *j) {
    atomic_store(&j->cancelled, true);
    pthread_mutex_lock(&s->lock);
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

static struct timespec after(double seconds) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    if (seconds > 1e6) seconds = 1e6;
    t.tv_sec += (time_t)seconds;
    t.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
    return t;
}

void schedule_drain(schedule *s, double seconds) {
    struct timespec until = after(seconds);
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    while (s->n_jobs && pthread_cond_timedwait(&s->idle, &s->lock, &until) == 0) continue;
    s->cutting = true;
    pthread_cond_signal(&s->wake);
    while (s->n_jobs) pthread_cond_wait(&s->idle, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

void schedule_about(schedule *s, schedule_figures *f) {
    pthread_mutex_lock(&s->lock);
    *f = s->figures;
    f->queued = s->n_queued;
    f->active = s->n_active;
    f->slots = s->n_slots;
    pthread_mutex_unlock(&s->lock);
}

int schedule_slots(schedule *s, slot_about *out, int most) {
    pthread_mutex_lock(&s->lock);
    int n = s->n_slots;
    for (int i = 0; i < n && i < most; i++) out[i] = s->slots[i];
    pthread_mutex_unlock(&s->lock);
    return n;
}

/* ---- a job's beginning and end ---- */

void job_started(job_state *js) {
    schedule *s = js->s;
    js->started = true;
    js->started_at = now_seconds();
    js->t.queued = js->started_at - js->submitted;
    pthread_mutex_lock(&s->lock);
    s->n_queued--;
    s->n_active++;
    count_histogram(&s->figures.queue, js->t.queued);
    pthread_mutex_unlock(&s->lock);
    post(js, &(job_event){ .kind = EVENT_STARTED, .id = -1, .total = js->t.n_prompt });
}

static void take_times(job_state *js, double now) {
    job_timings *t = &js->t;
    t->total = now - js->j->arrived;
    if (js->first_at) t->first_token = js->first_at - js->j->arrived;
    if (!js->started) t->queued = now - js->submitted;
    else t->prompt = (js->prompt_at ? js->prompt_at : now) - js->started_at;
    if (js->prompt_at) t->decode = now - js->prompt_at;
}

static void leave_lane(job_state *js) {
    lane *l = js->lane;
    if (!l) return;
    job_state **at = &l->first;
    while (*at != js) at = &(*at)->next;
    *at = js->next;
    if (l->end == &js->next) l->end = at;
}

static void leave_user(schedule *s, user *u) {
    if (!u || --u->n_jobs) return;
    user **at = &s->users;
    while (*at != u) at = &(*at)->next;
    *at = u->next;
    free(u->name);
    free(u);
}

void job_end_all(job_state *js, const job_failure *f, job_error why) {
    schedule *s = js->s;
    double now = now_seconds();
    take_times(js, now);
    lane_let_go(js);
    leave_lane(js);
    leave_user(s, js->u);
    pthread_mutex_lock(&s->lock);
    if (!js->started) s->n_queued--;
    else s->n_active--, s->mean_job = s->mean_job > 0 ? 0.9 * s->mean_job + 0.1 * (now - js->started_at) : now - js->started_at;
    s->figures.jobs_done[why]++;
    s->figures.cached_tokens += js->t.n_cached;
    s->figures.drafts += js->t.n_drafts;
    s->figures.drafted += js->t.n_drafted;
    s->figures.accepted += js->t.n_accepted;
    count_histogram(&s->figures.whole, js->t.total);
    pthread_mutex_unlock(&s->lock);
    post_last(js, f); /* js and its job may be gone */
    pthread_mutex_lock(&s->lock);
    if (--s->n_jobs == 0) pthread_cond_broadcast(&s->idle);
    pthread_mutex_unlock(&s->lock);
}

/* ---- the thread ---- */

static user *user_of(schedule *s, const char *name) {
    double least = 0;
    if (!name) name = "";
    for (user *u = s->users; u; u = u->next) {
        if (strcmp(u->name, name) == 0) return u;
        if (u == s->users || u->served < least) least = u->served;
    }
    user *u = calloc(1, sizeof *u);
    char *own = strdup(name);
    if (!u || !own) return free(u), free(own), NULL;
    *u = (user){ .name = own, .served = least, .next = s->users };
    return s->users = u;
}

/* Users that take turns share the server, for a minute from the last time. */
static void note_user(schedule *s, const user *u) {
    char name[sizeof s->last_user];
    snprintf(name, sizeof name, "=%s", u->name);
    if (s->last_user[0] && strcmp(name, s->last_user)) s->shared_until = now_seconds() + 60;
    memcpy(s->last_user, name, sizeof name);
}

static void list_lane(schedule *s, lane *l) {
    if (l->listed) return;
    models_retain(l->m);
    l->listed = true;
    l->next = s->lanes;
    s->lanes = l;
    s->n_lanes++;
}

static void take_job(schedule *s, job_state *js) {
    err e = { 0 };
    js->next = NULL;
    js->u = user_of(s, js->j->user);
    if (js->u) js->u->n_jobs++, note_user(s, js->u);
    lane *l = js->u ? lane_of(s, js->j->m, &e) : NULL;
    if (!l) {
        job_fail(js, JOB_MEMORY, "queue", "%s", e.code ? e.msg : "out of memory: a user's share");
        return;
    }
    js->lane = l;
    list_lane(s, l);
    *l->end = js;
    l->end = &js->next;
    if (js->n_units) return;
    job_started(js);
    if (js->j->kind == JOB_SLOT) {
        slot_run(l, js);
        return;
    }
    job_end_all(js, NULL, JOB_OK); /* the model is there: that was all */
}

/* Waits for something to do; what came. */
static job_state *wait_for_jobs(schedule *s, bool *cutting, bool *quit) {
    pthread_mutex_lock(&s->lock);
    if (!s->inbox && !s->lanes && !s->quit) {
        struct timespec until = after(1);
        pthread_cond_timedwait(&s->wake, &s->lock, &until);
    }
    job_state *jobs = s->inbox;
    s->inbox = NULL;
    s->inbox_end = &s->inbox;
    *cutting = s->cutting;
    *quit = s->quit;
    pthread_mutex_unlock(&s->lock);
    return jobs;
}

static void cut_jobs(lane *l, bool cutting) {
    double now = now_seconds();
    for (job_state *js = l->first, *next; js; js = next) {
        next = js->next;
        const job *j = js->j;
        if (cutting) job_cut(js, END_SHUTDOWN);
        else if (atomic_load(&j->cancelled)) job_cut(js, END_CANCELLED);
        else if (j->deadline > 0 && now >= j->deadline) job_cut(js, END_DEADLINE);
    }
}

/* Lanes without jobs go, once what they keep is on the disk, too; their models may then be closed. */
static void drop_lanes(schedule *s) {
    for (lane **at = &s->lanes; *at;) {
        lane *l = *at;
        if (l->first || lane_saving(l)) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        l->listed = false;
        s->n_lanes--;
        models_drop(l->m);
    }
}

static void show_slot(slot_about *a, const lane *l, int k, int id) {
    const seq *q = l->slot[k];
    *a = (slot_about){ .id = id, .n_ctx = l->m->info->ctx, .busy = q != NULL };
    snprintf(a->model, sizeof a->model, "%s", l->m->name);
    if (!q) return;
    int max = q->js->j->max_tokens, room = l->m->info->ctx - (int)q->tokens.n + 1;
    snprintf(a->job, sizeof a->job, "%s", q->js->j->id);
    a->n_prompt = q->n_prompt;
    a->n_prompt_done = min_int(session_len(q->s), q->n_prompt);
    a->n_decoded = q->n_new;
    a->n_remain = max < 0 ? room : min_int(max - q->n_new, room);
}

/* What others see of the slots: of the models with jobs; without any, the bare slots. */
static void publish(schedule *s) {
    int n = 0;
    for (const lane *l = s->lanes; l; l = l->next) n += l->n_slots;
    if (!n) n = max_int(s->o.slots, 1);
    pthread_mutex_lock(&s->lock);
    if (n > s->cap_slots) {
        slot_about *more = realloc(s->slots, (size_t)n * sizeof *more);
        if (more) s->slots = more, s->cap_slots = n;
        n = s->cap_slots;
    }
    s->n_slots = n;
    int id = 0;
    for (const lane *l = s->lanes; l; l = l->next)
        for (int k = 0; k < l->n_slots && id < n; k++, id++) show_slot(&s->slots[id], l, k, id);
    for (; id < n; id++) s->slots[id] = (slot_about){ .id = id };
    pthread_mutex_unlock(&s->lock);
}

static void *run(void *arg) {
    schedule *s = arg;
    for (bool cutting, quit;;) {
        job_state *jobs = wait_for_jobs(s, &cutting, &quit);
        for (job_state *next; jobs; jobs = next) {
            next = jobs->next;
            take_job(s, jobs);
        }
        if (quit && !s->lanes) return NULL;
        bool worked = false;
        for (lane *l = s->lanes; l; l = l->next) {
            cut_jobs(l, cutting);
            lane_saving(l);
            lane_admit(l);
            publish(s);
            worked |= lane_step(l);
        }
        drop_lanes(s);
        publish(s);
        if (now_seconds() - s->expired > 1) models_expire(s->o.models, s->expired = now_seconds());
        if (!worked && s->lanes) nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL); /* jobs, and nothing that could go on: not for long */
    }
}

int schedule_start(schedule **out, const schedule_opts *o, err *e) {
    schedule *s = calloc(1, sizeof *s);
    pthread_condattr_t clock;
    *out = NULL;
    if (!s) return fail_memory(e, sizeof *s, "the scheduler");
    s->o = *o;
    if (!s->o.max_queue) s->o.max_queue = 512;
    if (!(s->o.max_delay > 0)) s->o.max_delay = 0.1;
    s->inbox_end = &s->inbox;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &clock);
    pthread_cond_init(&s->idle, &clock);
    pthread_condattr_destroy(&clock);
    publish(s);
    int rc = pthread_create(&s->thread, NULL, run, s);
    if (rc) {
        free(s->slots);
        free(s);
        return fail(e, "starting the inference thread failed: %s", strerror(rc));
    }
    *out = s;
    return 0;
}

void schedule_stop(schedule *s) {
    if (!s) return;
    schedule_drain(s, 0);
    pthread_mutex_lock(&s->lock);
    s->quit = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->idle);
    free(s->slots);
    free(s);
}
