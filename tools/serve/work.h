/* work: a few threads that take tasks from one queue: parsing, tokenising, rendering. Tasks must not wait for the model. A task may take half a
 * second (a prompt of megabytes): what cannot wait for that has a queue of its own. */
#ifndef QUERN_SERVE_WORK_H
#define QUERN_SERVE_WORK_H

#include "runtime/base.h"

typedef struct work work;

/* A task is part of what it works on: posting allocates nothing and cannot fail. */
typedef struct work_task {
    void (*run)(struct work_task *t);
    struct work_task *next; /* the queue's own */
} work_task;

int work_start(work **w, int threads, err *e);
void work_post(work *w, work_task *t);  /* from any thread; t belongs to the queue until run is called */
void work_stop(work *w);                /* runs what is queued, joins the threads, frees w */

#endif
