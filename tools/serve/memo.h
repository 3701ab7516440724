/* memo: the answers of requests that were asked before, word for word (--response-cache). Results are deterministic, so an equal request to an
 * equal model has an equal answer; what is kept are the job's events, and the reply is written anew from them. The least recently used go. */
#ifndef QUERN_SERVE_MEMO_H
#define QUERN_SERVE_MEMO_H

#include "tools/serve/server.h"

struct memo;

struct memo *memo_new(size_t most_bytes); /* NULL: out of memory */
void memo_free(struct memo *m);

/* Before a job is submitted. True: the answer was there, the reply is given and q gone. */
bool memo_answers(request *q);
void memo_record(request *q, const job_event *v); /* every event of the job */
void memo_forget(request *q);                     /* when the request ends: what it has recorded and not given away */
void memo_about(struct memo *m, int64_t *hits, int64_t *bytes);

#endif
