/* stop: holds text back while it could still become a stop string (stop.h). It must not know tokens. */
#define _GNU_SOURCE /* memmem */
#include "runtime/stop.h"

#include <string.h>

/* Where the first stop string begins in held, or SIZE_MAX. */
static size_t first_match(const stop_filter *s, int *which) {
    size_t best = SIZE_MAX;
    for (int i = 0; i < s->n; i++) {
        const char *at = memmem(s->held.p, s->held.n, s->stops[i], strlen(s->stops[i]));
        if (at && (size_t)(at - s->held.p) < best) best = (size_t)(at - s->held.p), *which = i;
    }
    return best;
}

/* Length of the longest end of held that begins a stop string. */
static size_t possible_tail(const stop_filter *s) {
    size_t best = 0;
    for (int i = 0; i < s->n; i++) {
        size_t len = strlen(s->stops[i]);
        for (size_t k = len - 1 < s->held.n ? len - 1 : s->held.n; k > best; k--)
            if (memcmp(s->held.p + s->held.n - k, s->stops[i], k) == 0) best = k;
    }
    return best;
}

bool stop_feed(stop_filter *s, const char *text, size_t n, buf *out) {
    if (s->n == 0) return buf_add(out, text, n), false;
    buf_add(&s->held, text, n);
    if (!s->held.n) return false;
    size_t at = first_match(s, &s->found), give = at != SIZE_MAX ? at : s->held.n - possible_tail(s);
    buf_add(out, s->held.p, give);
    if (at != SIZE_MAX) {
        s->held.n = 0;
        return true;
    }
    memmove(s->held.p, s->held.p + give, s->held.n - give);
    s->held.n -= give;
    return false;
}

void stop_end(stop_filter *s, buf *out) {
    buf_add(out, s->held.p, s->held.n);
    s->held.n = 0;
}

void stop_free(stop_filter *s) { buf_free(&s->held); }
