/* schedule_parts: what the files of the scheduler share (schedule.h is what others see).
 *
 *   schedule.c         submitting, the thread, draining, figures
 *   schedule_check.c   what is refused before it is queued
 *   schedule_event.c   events on their way to the workers
 *   schedule_lane.c    one open model: who gets a slot, sessions, the prefix cache
 *   schedule_step.c    one step of a lane: what goes into it, and what becomes of it
 *   schedule_seq.c     one sequence: from its prompt to its end
 *   schedule_draft.c   what a draft model proposes, for whom, and whether that pays
 *   schedule_search.c  beam searches
 *   schedule_text.c    embeddings and the texts of encoders: one of their pieces at a time
 *   schedule_disk.c    sessions to and from the disk; what a client does with slots
 *
 * Everything but submitting and events belongs to the inference thread alone. */
#ifndef QUERN_SERVE_SCHEDULE_PARTS_H
#define QUERN_SERVE_SCHEDULE_PARTS_H

#include "tools/serve/prefix.h"
#include "tools/serve/schedule_seq.h"

/* One open model with jobs or kept sessions. It hangs on the model (model.work). */
typedef struct lane {
    schedule *s;
    model *m;
    job_state *first, **end; /* its jobs in the order they came */
    seq **slot;              /* [n_slots] NULL: free */
    int n_slots, n_used;     /* a search uses more than one */
    seq *texts;              /* those that are embedded: of each user one */
    bool text_last;          /* the last that was begun was one of them */
    int id;                  /* for slots' numbers */
    prefix_cache kept;
    uint64_t key;            /* of what the disk has of this engine */
    int n_fetches;           /* files of its jobs in memory, or on their way there */
    int n_sessions, max_sessions; /* in use and kept, and those that a search may still take */
    step *steps;             /* [n_slots + widths] of this step */
    seq **whose;             /* [the same] */
    int cap_steps;
    float *row;              /* [n_vocab] logits that a grammar masks: the model's own stay as they are */
    double base, per_token;  /* seconds of a step without prompts; more, a token of a prompt; 0: not known yet */
    int last_budget;
    int faults;              /* fault_count() when it was last asked */
    bool hurt;               /* pages of the file were missing: nothing more is computed with it */
    drafts drafts;
    bool listed;             /* in the schedule's list: it has jobs, and the model is held */
    struct lane *next;
} lane;

struct schedule {
    schedule_opts o;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake, idle; /* for the thread; for those who wait until all is done */
    /* under the lock: */
    job_state *inbox, **inbox_end;
    int n_queued, n_active;    /* jobs not started; started */
    int n_jobs;                /* those whose last event is not on its way yet */
    bool draining, cutting, quit;
    schedule_figures figures;
    slot_about *slots;
    int n_slots, cap_slots;
    double mean_job;           /* seconds that a job takes, for retry_after */
    /* the inference thread's: */
    lane *lanes;
    user *users;
    char last_user[64];        /* of the latest job; empty: none came */
    double shared_until;       /* while users take turns: see choose */
    int n_lanes;
    int64_t order;
    double expired;            /* when models were last looked at */
};

/* ---- schedule_check.c ---- */
int schedule_check(const schedule *s, job *j, job_failure *f);
int failed(job_failure *f, job_error code, const char *phase, const char *param, const char *fmt, ...) PRINTF_LIKE(5, 6); /* -1 */
int lane_slots(const schedule *s, const model *m);

/* ---- schedule.c ---- */
void count_histogram(histogram *h, double seconds);
void job_started(job_state *js);
/* Takes the job off its lane, counts it and sends its last event. f NULL: it went well, or was cut with a part of its answer,
 * for the reason `why`. */
void job_end_all(job_state *js, const job_failure *f, job_error why);

/* ---- schedule_lane.c ---- */
lane *lane_of(schedule *s, model *m, err *e); /* NULL on failure */
void lane_admit(lane *l);
int lane_session(lane *l, seq *q, const int32_t *tok, int n, bool only_own, err *e); /* q->s, with as much of tok as is there */
int lane_new_session(lane *l, session **s, err *e); /* one to fill, whatever it holds */
void lane_settle(seq *q, int same);        /* of what its session holds so many tokens are its own */
void lane_give_back(lane *l, session *s, bool keep, int slot);
void job_fail(job_state *js, job_error code, const char *phase, const char *fmt, ...) PRINTF_LIKE(4, 5);
void job_fail_err(job_state *js, const char *phase, const err *e);
bool lane_sound(lane *l, err *e);         /* is what was just computed of the file as it was opened? */
void job_cut(job_state *js, job_end end); /* cancelled, too late, shutting down */
void unit_ended(job_state *js);           /* its unit is done: the job too, if it was the last */

/* ---- schedule_step.c ---- */
bool lane_step(lane *l); /* false: nothing to compute */
int lane_budget(const lane *l, double room); /* tokens of prompts that so many seconds have room for */
void lane_learn(lane *l, int tokens, double seconds); /* what so many tokens of prompts took */

/* ---- schedule_search.c ---- */
int search_advance(seq *q);       /* after a step: 0, or -1 and the job failed */
void search_finish(seq *q, job_end end); /* END_NONE: it is over by itself */

/* ---- schedule_disk.c ---- */
enum { ERR_BUSY = 400 };
bool lane_saving(lane *l);        /* after a step: what is kept goes to the disk, one after the other; true: there is more to come */
/* May js begin? false: what the disk has of its prompt is still being read. */
bool lane_fetched(lane *l, job_state *js);
/* Begins to fill s with what the disk has, if that begins with more than `least` tokens of the prompt. 1: it has begun, lane_load goes on with
 * it; 0: s is as it was; -1: it is empty. */
int lane_from_disk(lane *l, seq *q, session *s, int least);
bool lane_loads(const lane *l);          /* is a sequence there whose session is being filled? */
void lane_load(lane *l, double room);    /* pieces of it, for about so many seconds, and at least one */
void lane_let_go(job_state *js);
void slot_run(lane *l, job_state *js); /* a JOB_SLOT from its beginning to its end */

#endif
