/* prefix: sessions of one engine whose work is done, kept because a later prompt may begin as they do. Their pages are the cache: a new
 * prompt forks from the longest match and forgets what differs. One engine is one file with its adapters and type of cache, so
 * nothing of another model can match. It knows sessions, not jobs; the thread that computes alone uses it. */
#ifndef QUERN_SERVE_PREFIX_H
#define QUERN_SERVE_PREFIX_H

#include "runtime/engine.h"

typedef struct prefix_entry {
    session *s;
    uint64_t used; /* the clock of its last use */
    int slot;      /* where it was worked on; -1: nowhere */
    bool seen;     /* whoever writes it elsewhere has looked at it */
} prefix_entry;

typedef struct prefix_cache {
    prefix_entry *kept; /* [n] of at most cap, all there is room for in the engine */
    int n, cap;
    uint64_t clock;
    const session *pinned; /* being copied by another thread: it stays as it is, and here */
} prefix_cache;

int prefix_init(prefix_cache *c, int cap, err *e);
void prefix_free(prefix_cache *c); /* and the sessions in it */

int prefix_common(const session *s, const int32_t *tok, int n); /* tokens with which both begin */
/* The kept session with the longest common prefix, marked as used; -1: none has any. */
int prefix_find(prefix_cache *c, const int32_t *tok, int n, int *same);
/* Takes s. What it makes superfluous (sessions that are beginnings of it) is freed; if it is itself the beginning of a kept one, it is.
 * The entry that has its tokens now; -1: it was not worth keeping. */
int prefix_keep(prefix_cache *c, session *s);
session *prefix_take(prefix_cache *c, int i); /* out of the cache: the caller's now */
int prefix_spare(const prefix_cache *c); /* sessions that could be taken: all but the pinned one */
/* The one that was not used for the longest time, apart from `but` and the pinned one; NULL: there is none. */
session *prefix_take_oldest(prefix_cache *c, const session *but);

#endif
