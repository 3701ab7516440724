/* ping: streams and when they were last heard of (ping.h). A list of the requests that stream; whoever has the time calls pings_tick. What
 * is written goes through reply.c, under the request's lock, so that it never falls into the middle of an event. */
#include "tools/serve/ping.h"

#include <math.h>
#include <stdlib.h>

#include "tools/serve/request.h"

struct pings {
    pthread_mutex_t lock; /* before any request's */
    double seconds;
    request *first;
};

struct pings *pings_new(double seconds) {
    struct pings *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    pthread_mutex_init(&p->lock, NULL);
    p->seconds = seconds;
    return p;
}

void pings_free(struct pings *p) {
    if (!p) return;
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void pings_begin(request *q, double seconds) {
    struct pings *p = q->s->pings;
    if (!p) return;
    if (isnan(seconds)) seconds = p->seconds;
    if (!(seconds > 0)) return;
    pthread_mutex_lock(&p->lock);
    q->ping_seconds = seconds;
    q->said = now_seconds();
    q->next_stream = p->first;
    q->at_stream = &p->first;
    if (p->first) p->first->at_stream = &q->next_stream;
    p->first = q;
    pthread_mutex_unlock(&p->lock);
}

void pings_end(request *q) {
    struct pings *p = q->s->pings;
    if (!p || !(q->ping_seconds > 0)) return;
    pthread_mutex_lock(&p->lock);
    *q->at_stream = q->next_stream;
    if (q->next_stream) q->next_stream->at_stream = q->at_stream;
    q->ping_seconds = 0;
    pthread_mutex_unlock(&p->lock);
}

void pings_tick(struct pings *p) {
    double now = now_seconds();
    pthread_mutex_lock(&p->lock);
    for (request *q = p->first; q; q = q->next_stream) reply_ping(q, now);
    pthread_mutex_unlock(&p->lock);
}
