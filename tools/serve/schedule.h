/* schedule: one inference thread that works on all jobs. Each step takes every decoding sequence and pieces of prompts up to a budget of
 * tokens, which follows the measured speed so that a long prompt delays nobody's next token by more than `max_delay`. Users
 * share the steps fairly. The queue is bounded. One job's trouble never touches another's. It knows no HTTP, no JSON, no dialect. */
#ifndef QUERN_SERVE_SCHEDULE_H
#define QUERN_SERVE_SCHEDULE_H

#include "tools/serve/disk.h"
#include "tools/serve/job.h"
#include "tools/serve/work.h"

typedef struct schedule schedule;

typedef struct schedule_opts {
    models *models;
    work *workers;          /* events are given to jobs there, */
    work *events;           /* and here those of answers that come in pieces: nothing else may be in their way. NULL: as the others */
    disk *disk;             /* where sessions are kept too; NULL: nowhere */
    int max_queue;          /* jobs that wait; 0: 512 */
    int slots;              /* sequences at a time of one model: its engine's max_sessions */
    double max_delay;       /* seconds by which prompts may delay a token of others; 0: 0.1 */
    double default_timeout; /* seconds; 0: none */
} schedule_opts;

int schedule_start(schedule **s, const schedule_opts *o, err *e);
/* From any thread. On failure nothing was taken and f says why (queue_full, shutting_down). The job is the scheduler's until its last event. */
int schedule_submit(schedule *s, job *j, job_failure *f);
void schedule_cancel(schedule *s, job *j); /* from any thread, before its last event has been taken; it still gets one */
void schedule_drain(schedule *s, double seconds); /* no new jobs; what is not done by then ends with END_SHUTDOWN or JOB_SHUTTING_DOWN */
void schedule_stop(schedule *s);

/* Figures for /metrics, /slots and logs. */
enum { HISTOGRAM_BUCKETS = 24 };
typedef struct histogram {
    int64_t count[HISTOGRAM_BUCKETS + 1]; /* up to bound[i]; the last: above all */
    double sum;
    int64_t n;
} histogram;
extern const double histogram_bounds[HISTOGRAM_BUCKETS]; /* seconds, 0.001 to 600 */

typedef struct schedule_figures {
    int64_t jobs_done[12];   /* by job_error */
    int64_t prompt_tokens, cached_tokens, decoded_tokens, steps, busy_sequences; /* busy_sequences: summed over the steps */
    int64_t drafts, drafted, accepted; /* proposals, of look-up and drafts; their tokens; those kept */
    double prompt_seconds, decode_seconds;
    int queued, active, slots;
    histogram first_token, between_tokens, whole, queue;
} schedule_figures;
void schedule_about(schedule *s, schedule_figures *f);

typedef struct slot_about {
    int id, n_ctx, n_prompt, n_prompt_done, n_decoded, n_remain;
    bool busy;
    char job[40], model[64];
} slot_about;
int schedule_slots(schedule *s, slot_about *out, int most); /* returns how many there are */

#endif
