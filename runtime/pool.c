/* pool: threads that fork and join in well under a microsecond, and sleep when there is nothing to do.
 *
 * A job's tasks are dealt out in contiguous ranges, one slot a worker. A slot is one atomic word: the job's number, the next
 * task and the end of the range. Taking a task is a compare-and-swap on that word, so a worker that comes late, with an old
 * job's number, can take nothing of a newer job; and a task that was taken keeps its job alive until it is counted. Idle
 * workers spin for some 30 microseconds, then park on a condition variable: spinning without a bound costs milliseconds
 * when a spinner loses its core.
 * Where another program wants a core, a worker, or the caller, is stopped in the middle of a task for a slice of the scheduler's, and all
 * wait for it. With jobs of microseconds that costs more than a worker brings, so after such a stall one fewer is used for a while.
 * It must not know what the tasks are. */
#define _GNU_SOURCE
#include "runtime/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef QUERN_OPENMP
#include <omp.h>

struct pool {
    int n;
};

int pool_new(pool **out, int n_threads, err *e) {
    *out = NULL;
    if (n_threads < 1 || n_threads > POOL_MAX) return fail(e, "threads: expected 1 to %d, found %d", POOL_MAX, n_threads);
    *out = calloc(1, sizeof **out);
    if (!*out) return fail_memory(e, sizeof **out, "the thread pool");
    (*out)->n = n_threads;
    return 0;
}

void pool_free(pool *p) { free(p); }

void pool_run(pool *p, pool_fn *fn, void *arg, int n_tasks) {
#pragma omp parallel for schedule(static) num_threads(p->n)
    for (int i = 0; i < n_tasks; i++) fn(arg, i, omp_get_thread_num());
}
#else

static const double SPIN_SECONDS = 30e-6;
/* A stall: a wait this long, and so many times as long as the work of the one who waits. Rests double while they end in stalls. */
static const double STALL_SECONDS = 200e-6, SHORTEST_REST = 10e-3, LONGEST_REST = 320e-3;
enum { STALL_RATIO = 8 };
enum { MAX_TASKS = 65535 }; /* what a slot's 16-bit fields can count */

typedef struct slot {
    _Alignas(64) _Atomic uint64_t word; /* job << 32 | next << 16 | end */
    _Alignas(64) _Atomic double out;    /* when the worker last found no task left, */
    _Atomic uint32_t out_of;            /* and of which job; written after out */
} slot;

struct pool {
    int n;
    pool_fn *fn; /* of the job under way */
    void *arg;
    _Alignas(64) _Atomic uint32_t job;
    _Alignas(64) _Atomic int left; /* tasks not yet done */
    _Alignas(64) _Atomic int parked;
    _Atomic bool caller_parked, stop;
    _Atomic int active; /* workers in use: 0 .. active - 1; only the caller changes it */
    double rest, rest_until; /* the caller's: seconds of the latest rest, and the time it ends */
    pthread_mutex_t lock;
    pthread_cond_t work, done, called;
    pthread_t *thread; /* [n - 1] */
    slot *slots;       /* [n] */
};

typedef struct worker {
    pool *p;
    int id;
} worker;

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int take_task(slot *s, uint32_t job) {
    uint64_t v = atomic_load_explicit(&s->word, memory_order_acquire);
    for (;;) {
        int next = (int)(v >> 16 & 0xffff), end = (int)(v & 0xffff);
        if ((uint32_t)(v >> 32) != job || next >= end) return -1;
        if (atomic_compare_exchange_weak_explicit(&s->word, &v, v + (1u << 16), memory_order_acq_rel, memory_order_acquire)) return next;
    }
}

/* Does what there is of a job: the own range first, then the others'. */
static void work_on(pool *p, uint32_t job, int id) {
    for (int i = 0; i < p->n; i++) {
        slot *s = &p->slots[(id + i) % p->n];
        for (int task; (task = take_task(s, job)) >= 0;) {
            p->fn(p->arg, task, id);
            if (atomic_fetch_sub_explicit(&p->left, 1, memory_order_seq_cst) == 1 && atomic_load(&p->caller_parked)) {
                pthread_mutex_lock(&p->lock);
                pthread_cond_signal(&p->done);
                pthread_mutex_unlock(&p->lock);
            }
        }
    }
}

/* Waits for a job other than old, spinning for a bounded time: is there one? */
static bool spin_while_job(pool *p, uint32_t old) {
    double end = 0;
    for (int i = 0;; i++) {
        if (atomic_load_explicit(&p->job, memory_order_acquire) != old) return true;
        relax();
        if (i % 64 == 63) {
            double t = now_seconds();
            if (end == 0) end = t + SPIN_SECONDS;
            else if (t > end) return false;
        }
    }
}

/* Until the worker is among those in use. It is not counted as parked: no job has to wake it. */
static void rest_worker(pool *p, int id) {
    pthread_mutex_lock(&p->lock);
    while (id >= atomic_load(&p->active) && !atomic_load(&p->stop)) pthread_cond_wait(&p->called, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static void set_active(pool *p, int n) {
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->active, n);
    pthread_cond_broadcast(&p->called);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg) {
    worker w = *(worker *)arg;
    free(arg);
    pool *p = w.p;
    for (uint32_t seen = 0;;) {
        if (!spin_while_job(p, seen)) {
            pthread_mutex_lock(&p->lock);
            atomic_fetch_add(&p->parked, 1);
            while (atomic_load(&p->job) == seen) pthread_cond_wait(&p->work, &p->lock);
            atomic_fetch_sub(&p->parked, 1);
            pthread_mutex_unlock(&p->lock);
        }
        seen = atomic_load_explicit(&p->job, memory_order_acquire);
        if (atomic_load(&p->stop)) return NULL;
        if (w.id < atomic_load(&p->active)) {
            work_on(p, seen, w.id);
            atomic_store_explicit(&p->slots[w.id].out, now_seconds(), memory_order_relaxed);
            atomic_store_explicit(&p->slots[w.id].out_of, seen, memory_order_release);
        } else rest_worker(p, w.id);
    }
}

static void publish(pool *p, uint32_t job) {
    atomic_store_explicit(&p->job, job, memory_order_seq_cst);
    if (atomic_load(&p->parked)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->lock);
    }
}

int pool_new(pool **out, int n_threads, err *e) {
    *out = NULL;
    if (n_threads < 1 || n_threads > POOL_MAX) return fail(e, "threads: expected 1 to %d, found %d", POOL_MAX, n_threads);
    pool *p = alloc_aligned(sizeof *p);
    if (!p) return fail_memory(e, sizeof *p, "the thread pool");
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    pthread_cond_init(&p->called, NULL);
    atomic_store(&p->active, n_threads);
    p->rest = p->rest_until = 0;
    p->n = 1; /* grows with every thread that starts, so that pool_free ends just those */
    p->slots = alloc_aligned((size_t)n_threads * sizeof *p->slots);
    p->thread = calloc((size_t)n_threads, sizeof *p->thread);
    *out = p;
    if (!p->slots || !p->thread) {
        pool_free(p);
        *out = NULL;
        return fail_memory(e, (size_t)n_threads * sizeof *p->slots, "the thread pool");
    }
    for (int i = 1; i < n_threads; i++, p->n++) {
        worker *w = malloc(sizeof *w);
        if (w) *w = (worker){ p, i };
        if (!w || pthread_create(&p->thread[i - 1], NULL, worker_main, w)) {
            free(w);
            pool_free(p);
            *out = NULL;
            return fail_code(e, ERR_MEMORY, "thread %d of %d cannot be started: too many threads or too little memory; use fewer (-t)",
                             i + 1, n_threads);
        }
    }
    return 0;
}

void pool_free(pool *p) {
    if (!p) return;
    atomic_store(&p->stop, true);
    set_active(p, p->n);
    publish(p, atomic_load(&p->job) + 1);
    for (int i = 1; i < p->n; i++) pthread_join(p->thread[i - 1], NULL);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->called);
    pthread_mutex_destroy(&p->lock);
    free_aligned(p->slots);
    free(p->thread);
    free_aligned(p);
}

/* A worker kept everyone waiting: one fewer from now on, for longer if the latest rest was just over. */
static void stalled(pool *p, double now) {
    p->rest = now < p->rest_until + p->rest ? 2 * p->rest : SHORTEST_REST;
    if (p->rest > LONGEST_REST) p->rest = LONGEST_REST;
    p->rest_until = now + p->rest;
    set_active(p, max_int(1, atomic_load(&p->active) - 1));
}

/* Did a worker wait for the caller, which ended last? One that ends now has not yet said so. */
static void check_caller(pool *p, double start, double now) {
    for (int i = 1; i < p->n; i++) {
        if (atomic_load_explicit(&p->slots[i].out_of, memory_order_acquire) != atomic_load_explicit(&p->job, memory_order_relaxed)) continue;
        double out = atomic_load_explicit(&p->slots[i].out, memory_order_relaxed);
        if (out < start || now - out < STALL_SECONDS || now - out < STALL_RATIO * (out - start)) continue;
        stalled(p, now);
        return;
    }
}

/* start: when the caller began its own part of the job. */
static void join(pool *p, double start) {
    double end = 0, own = now_seconds();
    if (own - start > STALL_SECONDS) check_caller(p, start, own);
    for (int i = 0; atomic_load_explicit(&p->left, memory_order_acquire); i++) {
        relax();
        if (i % 64 != 63) continue;
        double t = now_seconds();
        if (end == 0) end = t + SPIN_SECONDS;
        if (t < end) continue;
        pthread_mutex_lock(&p->lock);
        atomic_store(&p->caller_parked, true);
        while (atomic_load(&p->left)) pthread_cond_wait(&p->done, &p->lock);
        atomic_store(&p->caller_parked, false);
        pthread_mutex_unlock(&p->lock);
        double now = now_seconds();
        if (now - own > STALL_SECONDS && now - own > STALL_RATIO * (own - start)) stalled(p, now);
    }
}

static void run_some(pool *p, pool_fn *fn, void *arg, int n_tasks) {
    double start = now_seconds();
    if (p->rest_until != 0 && start > p->rest_until && atomic_load(&p->active) < p->n) set_active(p, p->n);
    int active = atomic_load(&p->active);
    uint32_t job = atomic_load_explicit(&p->job, memory_order_relaxed) + 1;
    p->fn = fn;
    p->arg = arg;
    atomic_store_explicit(&p->left, n_tasks, memory_order_relaxed);
    for (int i = 0; i < active; i++) {
        uint64_t begin = (uint64_t)n_tasks * (uint64_t)i / (uint64_t)active, end = (uint64_t)n_tasks * ((uint64_t)i + 1) / (uint64_t)active;
        atomic_store_explicit(&p->slots[i].word, (uint64_t)job << 32 | begin << 16 | end, memory_order_release);
    }
    publish(p, job);
    work_on(p, job, 0);
    join(p, start);
}

typedef struct shifted {
    pool_fn *fn;
    void *arg;
    int first;
} shifted;

static void run_shifted(void *arg, int task, int id) {
    shifted *s = arg;
    s->fn(s->arg, s->first + task, id);
}

void pool_run(pool *p, pool_fn *fn, void *arg, int n_tasks) {
    if (p->n == 1 || n_tasks <= 1) {
        for (int i = 0; i < n_tasks; i++) fn(arg, i, 0);
        return;
    }
    for (int first = 0; first < n_tasks; first += MAX_TASKS) {
        shifted s = { fn, arg, first };
        int n = min_int(n_tasks - first, MAX_TASKS);
        if (n_tasks <= MAX_TASKS) run_some(p, fn, arg, n);
        else run_some(p, run_shifted, &s, n);
    }
}
#endif

int pool_size(const pool *p) { return p->n; }

double pool_best_rate(pool *p, pool_fn *fn, void *arg, int n_tasks, double amount, double seconds, double hold) {
    double begin = now_seconds(), start = begin, sum = 0, best = 0;
    for (double now = begin; now - begin < seconds || best == 0;) {
        pool_run(p, fn, arg, n_tasks);
        now = now_seconds();
        sum += amount;
        if (now - start < hold || now == start) continue;
        if (sum / (now - start) > best) best = sum / (now - start);
        sum = 0;
        start = now;
    }
    return best;
}

/* ---- how many threads ---- */

#ifdef __linux__
static long read_long(const char *path, long otherwise) {
    FILE *f = fopen(path, "r");
    long v;
    if (!f) return otherwise;
    if (fscanf(f, "%ld", &v) != 1) v = otherwise;
    fclose(f);
    return v;
}

/* Physical cores among the CPUs of the set: pairs of package and core, each counted once. */
static int physical_cores(const cpu_set_t *set) {
    long seen[CPU_SETSIZE];
    int n = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, set)) continue;
        char path[128];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/core_id", cpu);
        long core = read_long(path, -1 - cpu); /* unknown: a core of its own */
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/physical_package_id", cpu);
        long key = core < 0 ? core : read_long(path, 0) << 20 | core;
        int i = 0;
        while (i < n && seen[i] != key) i++;
        if (i == n) seen[n++] = key;
    }
    return n;
}

/* CPUs that one cpu.max (cgroup v2) allows; 0: no limit. */
static double cpu_max(const char *path) {
    FILE *f = fopen(path, "r");
    char quota[32];
    double period = 0, cpus = 0;
    if (!f) return 0;
    if (fscanf(f, "%31s %lf", quota, &period) == 2 && strcmp(quota, "max") && period > 0) cpus = strtod(quota, NULL) / period;
    fclose(f);
    return cpus;
}

/* The tightest quota from this process's cgroup up to the root; 0: none. */
static double cgroup_cpus(void) {
    double best = 0;
    char line[4096], path[4352];
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4)) continue;
        char *dir = line + 3;
        dir[strcspn(dir, "\n")] = 0;
        for (char *slash; (slash = strrchr(dir, '/')); *slash = 0) {
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", strcmp(dir, "/") ? dir : "");
            double c = cpu_max(path);
            if (c > 0 && (best == 0 || c < best)) best = c;
        }
    }
    if (f) fclose(f);
    double root = cpu_max("/sys/fs/cgroup/cpu.max");
    if (root > 0 && (best == 0 || root < best)) best = root;
    long quota = read_long("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", -1), period = read_long("/sys/fs/cgroup/cpu/cpu.cfs_period_us", 0);
    if (quota > 0 && period > 0 && (best == 0 || (double)quota / (double)period < best)) best = (double)quota / (double)period;
    return best;
}

int pool_default_threads(char *reason, size_t n) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set)) CPU_SET(0, &set);
    int affinity = CPU_COUNT(&set), cores = physical_cores(&set);
    double quota = cgroup_cpus();
    int whole = quota > 0 ? (int)quota + (quota - (int)quota >= 0.5) : 0; /* 1.5 CPUs carry 2 threads, 1.2 carry 1 */
    if (quota > 0 && whole < 1) whole = 1;
    int threads = min_int(max_int(cores, 1), POOL_MAX);
    if (whole && whole < threads) threads = whole;
    char limit[64] = "no cgroup quota";
    if (quota > 0) snprintf(limit, sizeof limit, "cgroup quota %.2f", quota);
    snprintf(reason, n, "%d thread%s: %d CPUs in the affinity mask, %d physical cores, %s", threads, threads == 1 ? "" : "s", affinity, cores, limit);
    return threads;
}
#else
int pool_default_threads(char *reason, size_t n) {
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    int threads = cpus < 1 ? 1 : cpus > POOL_MAX ? POOL_MAX : (int)cpus;
    snprintf(reason, n, "%d threads: CPUs online", threads);
    return threads;
}
#endif
