/* pool: the only place with threads. A fork is one release store; a join counts tasks; the caller is worker 0. */
#ifndef QUERN_POOL_H
#define QUERN_POOL_H

#include "runtime/base.h"

typedef struct pool pool;
typedef void pool_fn(void *arg, int task, int worker); /* worker: 0 .. pool_size - 1, each at most once at a time */

int pool_new(pool **p, int n_threads, err *e); /* n_threads 1 to POOL_MAX, the caller included */
void pool_free(pool *p);
int pool_size(const pool *p);

/* Runs fn(arg, 0 .. n_tasks - 1, worker) on the workers and returns when all are done. Each worker begins with its own contiguous range,
 * so that the same task tends to meet the same cache, then steals. Fewer workers take part for a while after one was kept from its core
 * by another program. Not re-entrant; one caller at a time. */
void pool_run(pool *p, pool_fn *fn, void *arg, int n_tasks);

/* Runs it again and again for about so many seconds: the best rate, in `amount` (of one run) a second, that held for at least
 * `hold` seconds. What swings with its surroundings wants a hold, else a lucky moment is taken for a limit; what can only be
 * disturbed wants none. */
double pool_best_rate(pool *p, pool_fn *fn, void *arg, int n_tasks, double amount, double seconds, double hold);

enum { POOL_MAX = 256 };

/* min(affinity, physical cores, cgroup quota), at least 1; reason gets one line that says how it came about. */
int pool_default_threads(char *reason, size_t n);

#endif
