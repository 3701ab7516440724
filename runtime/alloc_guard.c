/* alloc_guard: in debug builds, every allocation of the program passes through here (the linker wraps malloc and its kin) and
 * aborts while the guard is up on this thread. Release builds have nothing of this. */
#ifdef QUERN_DEBUG
#include "runtime/base.h"

#include <stdlib.h>

static _Thread_local bool guarded;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t each);
void *__real_realloc(void *p, size_t n);
int __real_posix_memalign(void **p, size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t each);
void *__wrap_realloc(void *p, size_t n);
int __wrap_posix_memalign(void **p, size_t align, size_t n);

void alloc_guard(bool on) { guarded = on; }

static void check(size_t n) {
    if (!guarded) return;
    guarded = false; /* printing may allocate */
    fprintf(stderr, "an allocation of %zu bytes inside a forward pass\n", n);
    abort();
}

void *__wrap_malloc(size_t n) { return check(n), __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t each) { return check(n * each), __real_calloc(n, each); }
void *__wrap_realloc(void *p, size_t n) { return check(n), __real_realloc(p, n); }
int __wrap_posix_memalign(void **p, size_t align, size_t n) { return check(n), __real_posix_memalign(p, align, n); }
#else
typedef int alloc_guard_is_for_debug_builds;
#endif
