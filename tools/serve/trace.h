/* trace: every job as a line of JSON in a file (--trace): all that decided its answer, the answer's ids, and a hash of the logits each was picked
 * from. `./run MODEL.bin --replay FILE` computes it again and compares. Prompts and answers stand in it: mind who may read it. */
#ifndef QUERN_SERVE_TRACE_H
#define QUERN_SERVE_TRACE_H

#include "tools/serve/server.h"

struct trace;

int trace_open(struct trace **t, const char *path, err *e); /* appends */
void trace_close(struct trace *t);
void trace_job(struct trace *t, const request *q, const job *j); /* after its last event, before it is freed */

#endif
