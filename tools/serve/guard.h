/* guard: who may ask, and how often: keys, and requests a minute of each key or address. */
#ifndef QUERN_SERVE_GUARD_H
#define QUERN_SERVE_GUARD_H

#include "runtime/base.h"

typedef struct guard guard;

/* keys [n] borrowed; n 0: none needed. rate: requests a minute; 0: any number. */
int guard_new(guard **g, const char *const *keys, int n, int rate, err *e);
void guard_free(guard *g);

/* Which key is it? Its number, or -1. Every comparison takes the same time whatever it finds. */
int guard_key(const guard *g, const char *key, size_t n);
bool guard_needs_key(const guard *g);
/* May `who` ask now? If not, *wait is when. */
bool guard_allows(guard *g, const char *who, double now, double *wait);

#endif
