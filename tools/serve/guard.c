/* guard: keys compared in constant time, and a bucket of tokens for each who asks (a key's number or an address). The table of buckets
 * is bounded: when it is full, the one that was quiet longest makes room, which can only be to its owner's advantage. */
#include "tools/serve/guard.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 4096, NEAR = 16 };

struct bucket {
    uint64_t who;   /* hash; 0: free */
    double left, at; /* requests left at that time */
};

struct guard {
    const char *const *keys;
    int n, rate;
    uint64_t salt;
    pthread_mutex_t lock;
    struct bucket bucket[BUCKETS];
};

int guard_new(guard **out, const char *const *keys, int n, int rate, err *e) {
    guard *g = calloc(1, sizeof *g);
    *out = g;
    if (!g) return fail_memory(e, sizeof *g, "keys and rates");
    g->keys = keys;
    g->n = n;
    g->rate = rate;
    g->salt = (uint64_t)(now_seconds() * 1e9) ^ (uint64_t)(uintptr_t)g;
    if (!pthread_mutex_init(&g->lock, NULL)) return 0;
    free(g);
    *out = NULL;
    return fail(e, "a mutex could not be made");
}

void guard_free(guard *g) {
    if (!g) return;
    pthread_mutex_destroy(&g->lock);
    free(g);
}

bool guard_needs_key(const guard *g) { return g->n > 0; }

/* Reads all of what was sent, and as much of the key, whether they agree or not. */
static bool equal(const char *key, const char *sent, size_t n) {
    size_t key_n = strlen(key);
    volatile unsigned char differ = (unsigned char)(key_n != n);
    for (size_t i = 0; i < n; i++) differ = (unsigned char)(differ | (unsigned char)(key[key_n ? i % key_n : 0] ^ sent[i]));
    return !differ;
}

int guard_key(const guard *g, const char *key, size_t n) {
    int found = -1;
    for (int i = 0; i < g->n; i++)
        if (equal(g->keys[i], key, n)) found = i;
    return found;
}

static struct bucket *find(guard *g, uint64_t who) {
    struct bucket *oldest = NULL;
    for (size_t i = 0; i < NEAR; i++) {
        struct bucket *b = &g->bucket[(who + i) % BUCKETS];
        if (b->who == who) return b;
        if (!oldest || b->at < oldest->at) oldest = b;
    }
    *oldest = (struct bucket){ .who = who, .left = g->rate };
    return oldest;
}

bool guard_allows(guard *g, const char *who, double now, double *wait) {
    if (!g->rate) return true;
    uint64_t h = hash_bytes(who, strlen(who)) ^ g->salt;
    pthread_mutex_lock(&g->lock);
    struct bucket *b = find(g, h ? h : 1);
    double per_second = g->rate / 60.0;
    if (b->at > 0) b->left += (now - b->at) * per_second;
    if (b->left > g->rate) b->left = g->rate;
    b->at = now;
    bool may = b->left >= 1;
    if (may) b->left -= 1;
    else *wait = (1 - b->left) / per_second;
    pthread_mutex_unlock(&g->lock);
    return may;
}
