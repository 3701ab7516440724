/* limits: measures the machine, not a model: how fast all threads together read memory, and how many dot products they do with
 * operands in registers. The loops are the kernel table's own probes, so that a limit is met with the same instructions as the
 * work that is compared with it. It must not know models, files or who asks. */
#define _GNU_SOURCE
#include "runtime/limits.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { TASKS_A_THREAD = 8 }; /* so that a thread which lost its core for a moment is helped out */

static const size_t LARGEST_BUFFER = (size_t)1 << 30, USUAL_BUFFER = (size_t)256 << 20, SMALLEST_BUFFER = (size_t)64 << 20,
                    HUGE_PAGE = (size_t)2 << 20;

/* ---- memory ---- */

/* The number after `label` at the beginning of a line of one of the system's files. */
static bool read_number(const char *path, const char *label, uint64_t *out) {
    char line[128], *end;
    bool found = false;
    FILE *f = fopen(path, "r");
    while (f && !found && fgets(line, sizeof line, f)) {
        if (strncmp(line, label, strlen(label))) continue;
        *out = strtoull(line + strlen(label), &end, 10);
        found = end != line + strlen(label); /* "max" is no number */
    }
    if (f) fclose(f);
    return found;
}

uint64_t memory_available(void) {
    uint64_t kib, most, used;
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    uint64_t bytes =
        pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size / 2 : (uint64_t)1 << 30; /* where nothing else is known */
    if (read_number("/proc/meminfo", "MemAvailable:", &kib)) bytes = kib * 1024;
    if (read_number("/sys/fs/cgroup/memory.max", "", &most) && read_number("/sys/fs/cgroup/memory.current", "", &used)) {
        uint64_t left = most > used ? most - used : 0;
        if (left < bytes) bytes = left;
    }
    return bytes;
}

/* Several times the caches of all threads, each of which may have one of its own: between 256 MiB and 1 GiB. */
static size_t buffer_bytes(int threads) {
    size_t want = LARGEST_BUFFER;
    uint64_t cache_kib, most = memory_available() / 4;
    if (read_number("/sys/devices/system/cpu/cpu0/cache/index3/size", "", &cache_kib) &&
        cache_kib * 1024 < LARGEST_BUFFER / 4 / (size_t)threads)
        want = 4 * (size_t)cache_kib * 1024 * (size_t)threads;
    if (want < USUAL_BUFFER) want = USUAL_BUFFER;
    if (want > most) want = (size_t)most;
    return want < SMALLEST_BUFFER ? SMALLEST_BUFFER : want;
}

typedef struct read_job {
    const kernels *k;
    char *buffer;
    size_t piece; /* bytes of a task, whole huge pages */
    _Atomic uint64_t sum;
} read_job;

/* By the pool itself, so that on a machine with several memories each thread's share lies in its own. */
static void touch_piece(void *arg, int task, int worker) {
    (void)worker;
    read_job *j = arg;
    memset(j->buffer + (size_t)task * j->piece, task + 1, j->piece);
}

static void read_piece(void *arg, int task, int worker) {
    (void)worker;
    read_job *j = arg;
    atomic_fetch_xor(&j->sum, j->k->probe_read(j->buffer + (size_t)task * j->piece, j->piece));
}

int limits_read(pool *p, const kernels *k, double seconds, limits *l, err *e) {
    int n_tasks = pool_size(p) * TASKS_A_THREAD;
    size_t piece = round_up(buffer_bytes(pool_size(p)) / (size_t)n_tasks, HUGE_PAGE), bytes = piece * (size_t)n_tasks;
    char *base = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return fail_memory(e, bytes, "the buffer that the read bandwidth is measured on");
    char *aligned = base + (HUGE_PAGE - (size_t)((uintptr_t)base % HUGE_PAGE)) % HUGE_PAGE;
#ifdef MADV_HUGEPAGE
    madvise(aligned, bytes, MADV_HUGEPAGE); /* where the system has them: the memory's limit, not that of its page tables */
#endif
    read_job j = { .k = k, .buffer = aligned, .piece = piece };
    pool_run(p, touch_piece, &j, n_tasks);
    double rate = pool_best_rate(p, read_piece, &j, n_tasks, (double)bytes, seconds, seconds / 5);
    if (rate > l->read) l->read = rate;
    l->buffer = bytes;
    munmap(base, bytes + HUGE_PAGE);
    return 0;
}

/* ---- dot products ---- */

typedef struct probe_job {
    double (*probe)(long reps);
    long reps;
} probe_job;

static void probe_task(void *arg, int task, int worker) {
    (void)task, (void)worker;
    const probe_job *j = arg;
    j->probe(j->reps);
}

/* Runs grow until they are much longer than a fork. */
static double best_probe(pool *p, double (*probe)(long reps), double seconds) {
    probe_job j = { .probe = probe, .reps = 1000 };
    double once, operations;
    do {
        j.reps *= 2;
        double start = now_seconds();
        operations = probe(j.reps);
        once = now_seconds() - start;
    } while (once < seconds / 50 && j.reps < 1L << 30);
    return pool_best_rate(p, probe_task, &j, pool_size(p), operations * pool_size(p), seconds, 0);
}

void limits_peaks(pool *p, const kernels *k, double seconds, limits *l) {
    const struct {
        double (*probe)(long reps);
        double *best;
    } peaks[] = { { k->probe_f32, &l->f32 }, { k->probe_int8, &l->int8 }, { k->probe_bf16, &l->bf16 } };
    for (int i = 0; i < 3; i++) {
        double rate = best_probe(p, peaks[i].probe, seconds);
        if (rate > *peaks[i].best) *peaks[i].best = rate;
    }
}
