/* work: the workers' queue (work.h). A list with a lock and a condition variable: most tasks are milliseconds, so nothing cleverer pays. It owns
 * its threads and no task; what a task does is its own business. */
#define _GNU_SOURCE
#include "tools/serve/work.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_THREADS = 256 };

struct work {
    pthread_mutex_t lock;
    pthread_cond_t some;
    work_task *first, **end; /* *end: where the next task is hung */
    bool stop;
    int n;
    pthread_t thread[]; /* [n] */
};

static void *worker(void *arg) {
    work *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        work_task *t = w->first;
        if (t) {
            w->first = t->next;
            if (!w->first) w->end = &w->first;
            pthread_mutex_unlock(&w->lock);
            t->run(t); /* t may be gone afterwards */
            pthread_mutex_lock(&w->lock);
        } else if (w->stop) {
            break;
        } else {
            pthread_cond_wait(&w->some, &w->lock);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Signals are for the thread that started the workers: theirs stay blocked, and those of threads that they start. But for what an instruction of
 * their own brings about: blocked, that would end the program at once. */
static int start_threads(work *w, int threads, err *e) {
    sigset_t all, before;
    static const int own[] = { SIGBUS, SIGSEGV, SIGFPE, SIGILL };
    sigfillset(&all);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&all, own[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    while (w->n < threads && !error) {
        error = pthread_create(&w->thread[w->n], NULL, worker, w);
        if (!error) w->n++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error ? fail(e, "worker %d of %d cannot be started: %s", w->n + 1, threads, strerror(error)) : 0;
}

int work_start(work **out, int threads, err *e) {
    *out = NULL;
    if (threads < 1 || threads > MOST_THREADS) return fail(e, "workers: expected 1 to %d, found %d", MOST_THREADS, threads);
    size_t bytes = sizeof(work) + (size_t)threads * sizeof(pthread_t);
    work *w = calloc(1, bytes);
    if (!w) return fail_memory(e, bytes, "the workers");
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->some, NULL);
    w->end = &w->first;
    if (start_threads(w, threads, e)) return work_stop(w), -1;
    *out = w;
    return 0;
}

void work_post(work *w, work_task *t) {
    t->next = NULL;
    pthread_mutex_lock(&w->lock);
    *w->end = t;
    w->end = &t->next;
    pthread_cond_signal(&w->some); /* under the lock: once it is given up, work_stop may run to its end */
    pthread_mutex_unlock(&w->lock);
}

void work_stop(work *w) {
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->some);
    pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < w->n; i++) pthread_join(w->thread[i], NULL);
    pthread_cond_destroy(&w->some);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
