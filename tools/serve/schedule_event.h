/* schedule_event: a job's state within the scheduler, and its events on their way to the workers. */
#ifndef QUERN_SERVE_SCHEDULE_EVENT_H
#define QUERN_SERVE_SCHEDULE_EVENT_H

#include <pthread.h>

#include "tools/serve/schedule.h"

/* Whose job it is: users share the steps first. There while it has jobs. */
typedef struct user {
    char *name;
    double served;  /* tokens computed; who joins begins with the least of those there, so that nobody saves up */
    int n_jobs, n_active; /* jobs not ended; sequences that have a slot */
    struct user *next;
} user;

typedef struct posted {
    job_event v;
    job_failure failure;
    struct posted *next;
    _Alignas(8) char data[]; /* what v points to */
} posted;

/* A job from schedule_submit to its last event. */
typedef struct job_state {
    work_task task;          /* first: its address is this one's */
    job *j;
    schedule *s;             /* the inference thread's use only */
    work *workers;
    pthread_mutex_t lock;    /* of the events: */
    posted *first, *last;    /* not given out yet */
    bool running;            /* the task is with the workers */
    posted *final;           /* the last event's memory: it can always be sent */
    bool lost;               /* there was no memory for an event: the job fails */
    struct job_state *next;  /* in its lane, or on its way there */
    struct lane *lane;
    user *u;
    int n_units, next_unit, n_ended; /* a unit: one sequence, one search or one text to embed; prompt-major */
    int width;               /* slots a unit takes */
    bool *ready;             /* [n_prompts] the prompt has been through: its other choices may begin */
    struct disk_fetch *fetch; /* what the disk has of its prompt; NULL: nothing */
    bool looked;             /* on the disk */
    bool started;
    double submitted, started_at, first_at, prompt_at;
    job_timings t;
} job_state;

job_state *state_new(schedule *s, job *j);
void state_free(job_state *js);
void post(job_state *js, const job_event *v);
/* The last event: afterwards the job may be gone. EVENT_END with f NULL. */
void post_last(job_state *js, const job_failure *f);

#endif
