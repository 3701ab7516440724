/* prefix: the kept sessions of an engine (prefix.h). A list: there are as many as the engine has sessions, a few dozen, and a search
 * compares tokens, which is nothing beside computing one. */
#include "tools/serve/prefix.h"

#include <stdlib.h>
#include <string.h>

int prefix_init(prefix_cache *c, int cap, err *e) {
    *c = (prefix_cache){ .cap = cap, .kept = calloc((size_t)max_int(cap, 1), sizeof *c->kept) };
    return c->kept ? 0 : fail_memory(e, (size_t)cap * sizeof *c->kept, "the prefix cache");
}

void prefix_free(prefix_cache *c) {
    for (int i = 0; i < c->n; i++) session_free(c->kept[i].s);
    free(c->kept);
    *c = (prefix_cache){ 0 };
}

int prefix_common(const session *s, const int32_t *tok, int n) {
    const int32_t *have = session_tokens(s);
    int most = min_int(session_len(s), n), same = 0;
    while (same < most && have[same] == tok[same]) same++;
    return same;
}

enum { SHORTEST = 4 }; /* tokens: less is not worth a session */

int prefix_find(prefix_cache *c, const int32_t *tok, int n, int *same) {
    int best = -1;
    *same = 0;
    for (int i = 0; i < c->n; i++) {
        int k = prefix_common(c->kept[i].s, tok, n);
        if (k > *same) *same = k, best = i;
    }
    if (*same >= SHORTEST) c->kept[best].used = ++c->clock; /* BOS alone is in common with every prompt */
    return best;
}

session *prefix_take(prefix_cache *c, int i) {
    session *s = c->kept[i].s;
    memmove(c->kept + i, c->kept + i + 1, (size_t)(--c->n - i) * sizeof *c->kept);
    return s;
}

int prefix_spare(const prefix_cache *c) { return c->n - (c->pinned != NULL); }

session *prefix_take_oldest(prefix_cache *c, const session *but) {
    int oldest = -1;
    for (int i = 0; i < c->n; i++)
        if (c->kept[i].s != but && c->kept[i].s != c->pinned && (oldest < 0 || c->kept[i].used < c->kept[oldest].used)) oldest = i;
    return oldest < 0 ? NULL : prefix_take(c, oldest);
}

int prefix_keep(prefix_cache *c, session *s) {
    int n = session_len(s);
    if (n < SHORTEST) { /* not as the beginning of another either: what is asked of that one is not about this */
        session_free(s);
        return -1;
    }
    for (int i = 0; i < c->n; i++) {
        int have = session_len(c->kept[i].s), same = prefix_common(c->kept[i].s, session_tokens(s), n);
        if (same == n) { /* the beginning of that one */
            c->kept[i].used = ++c->clock;
            session_free(s);
            return i;
        }
        if (same == have && c->kept[i].s != c->pinned) session_free(prefix_take(c, i--));
    }
    if (c->n == c->cap) session_free(prefix_take_oldest(c, NULL));
    if (c->n == c->cap) {
        session_free(s);
        return -1;
    }
    c->kept[c->n] = (prefix_entry){ .s = s, .used = ++c->clock, .slot = -1 };
    return c->n++;
}
