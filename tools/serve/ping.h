/* ping: a sign of life in a stream that has been silent for long, so that nobody between server and client takes it for dead: a comment in
 * server-sent events, what the dialect says elsewhere. */
#ifndef QUERN_SERVE_PING_H
#define QUERN_SERVE_PING_H

#include "tools/serve/server.h"

struct pings;
struct pings *pings_new(double seconds); /* between two signs where a request sets nothing; 0: none. NULL: out of memory */
void pings_free(struct pings *p);
void pings_begin(request *q, double seconds); /* NAN: the server's own; 0 or less: none for this one */
void pings_end(request *q);                   /* before its exchange ends; may be called more than once */
void pings_tick(struct pings *p);             /* now and then, from any thread */

#endif
