/* render: pieces of JSON that the replies of several dialects are made of. */
#ifndef QUERN_SERVE_RENDER_H
#define QUERN_SERVE_RENDER_H

#include "tools/serve/request.h"

void put_quoted(buf *b, const char *s);
void put_warnings(const request *q, buf *b);  /* ,"warnings":[...] where there are any; and cached, fallback */
void put_timings(const request *q, buf *b);   /* ,"timings":{...} as llama-server names them */
void put_token(const request *q, int32_t id, buf *b);   /* "token":"...","bytes":[...] */
void put_token_bytes(const request *q, int32_t id, buf *b); /* its bytes as they are */
void put_chat_logprob(const request *q, const token_prob *p, buf *b); /* {token, logprob, bytes, top_logprobs} */
void put_logprob(buf *b, float x);
void put_fingerprint(const request *q, buf *b); /* "fp_..." with quotes */
void put_draft(const model *m, buf *b); /* ,"draft":{...} of a model that has one */
void put_time(buf *b, int64_t seconds, int64_t nanoseconds); /* RFC 3339 with 9 digits, quoted */
const char *end_name(job_end end); /* "eos", "length", ...: `ended` of every dialect */
token_prob event_prob(const job_event *v); /* top: borrowed from the event */
void put_data(buf *out, const buf *object);   /* data: ...\n\n */
void put_embedding(buf *b, const float *x, int n); /* x [n] as a JSON array */
void cut_embedding(answer *a, int d); /* to its first d elements, and to length 1 again; all or more: as it is */
int count_prompt(const request *q);    /* tokens of all prompts, an encoder's input too */
int count_answers(const request *q);   /* tokens of all choices */
int count_reasoning(const request *q); /* those of them that are thought */
bool ends_with_calls(const answer *a); /* it ended by itself, and calls tools */

#endif
