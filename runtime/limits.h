/* limits: what this machine can do at most, so that a speed has a ceiling to be held against. */
#ifndef QUERN_LIMITS_H
#define QUERN_LIMITS_H

#include "kernels/kernels.h"
#include "runtime/pool.h"

typedef struct limits {
    double read;            /* bytes a second from memory: a buffer much larger than the caches */
    double f32, int8, bf16; /* operations a second of the table's own dot products, 2 a multiply-add */
    size_t buffer;          /* bytes of that buffer */
} limits;

/* Both measure on all threads of the pool with the functions of table k for about so many seconds (limits_peaks: for each of
 * its three), take the best rate that held, and keep the better of that and what *l held: begin with zeros, and call again
 * later in the same run to catch a quieter moment. limits_read needs memory: at most a gigabyte, and a quarter of what is free. */
int limits_read(pool *p, const kernels *k, double seconds, limits *l, err *e);
void limits_peaks(pool *p, const kernels *k, double seconds, limits *l);

uint64_t memory_available(void); /* bytes that this process may still take without swapping, as far as the system says */

#endif
