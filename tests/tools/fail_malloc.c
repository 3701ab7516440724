/* fail_malloc: a library for LD_PRELOAD under which one allocation in $FAIL_EVERY fails, as soon as the file $FAIL_FROM is there (a program's start
 * is not of interest). Which ones is a matter of their number: runs differ as threads do. Used by mixed_load.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

static void *(*real_malloc)(size_t n), *(*real_calloc)(size_t k, size_t n), *(*real_realloc)(void *p, size_t n);
static char early[1 << 16]; /* what dlsym itself asks for */
static size_t early_n;
static atomic_ulong count;
static atomic_bool on;

__attribute__((constructor)) static void find(void) {
    *(void **)&real_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&real_malloc = dlsym(RTLD_NEXT, "malloc");
    *(void **)&real_realloc = dlsym(RTLD_NEXT, "realloc");
}

static int fails(void) {
    const char *every = getenv("FAIL_EVERY"), *from = getenv("FAIL_FROM");
    if (!every || !from || (!atomic_load(&on) && access(from, F_OK))) return 0;
    atomic_store(&on, 1);
    unsigned long k = (atomic_fetch_add(&count, 1) * 2654435761UL >> 7) % strtoul(every, NULL, 10);
    if (!k) errno = ENOMEM;
    return !k;
}

void *malloc(size_t n) {
    if (!real_malloc) find();
    return fails() ? NULL : real_malloc(n);
}

void *calloc(size_t k, size_t n) {
    if (real_calloc) return fails() ? NULL : real_calloc(k, n);
    void *p = early + early_n;
    early_n += (k * n + 15) & ~(size_t)15;
    return early_n <= sizeof early ? p : NULL;
}

void *realloc(void *p, size_t n) {
    if (!real_realloc) find();
    return fails() ? NULL : real_realloc(p, n);
}
