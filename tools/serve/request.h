/* request: what a handler of a path does with its request: read the body, hold the model, make the job and send it off; and the
 * ends of a request, good or bad. */
#ifndef QUERN_SERVE_REQUEST_H
#define QUERN_SERVE_REQUEST_H

#include "tools/serve/server.h"

/* Of a copy in a list: the time at which it will be closed says whether it is open. */
static inline bool model_is_open(const model *m) { return m->expires != 0; }

/* ---- request.c: from fields to a job ---- */
int request_fail(request *q, job_error code, const char *param, const char *fmt, ...) PRINTF_LIKE(4, 5); /* -1; the first wins */
int request_fail_status(request *q, int status, const char *code, const char *fmt, ...) PRINTF_LIKE(4, 5);
int request_fail_err(request *q, const char *param, const err *e); /* JOB_INVALID, or JOB_MEMORY */
int request_fail_server(request *q, const err *e); /* JOB_FAILED, or JOB_MEMORY: nothing that the client could mend */
void request_warn(request *q, const char *fmt, ...) PRINTF_LIKE(2, 3);
int request_read(request *q); /* the body: JSON, checked against the table; `options` too */
bool request_flag(const request *q, field_key k, bool otherwise);
int64_t request_int(const request *q, field_key k, int64_t otherwise);
double request_num(const request *q, field_key k, double otherwise);
const char *request_str(const request *q, field_key k, const char *otherwise);
int request_need(request *q, field_key k, const char *name);
int request_model(request *q);                       /* q->m of F_MODEL (or of NULL: the first) */
int request_tokenizer(request *q);                   /* fails where the model has none */
/* Text, ids, or lists of either: into the job. mixed: [str, id, ...] is one prompt. flags of tokenizer_encode. */
int request_prompts(request *q, const json *v, const char *name, bool mixed, int flags);
int request_encode(request *q, const char *text, size_t n, int flags, ids *out);
int request_job(request *q, job_kind kind);          /* q->j with what all jobs have; the model is held already */
/* Sampling, length, ends, beams, adapters: of the fields, else the checkpoint's, else these. Prompts are there. */
typedef struct sampling_defaults {
    float temperature, top_p, min_p;
    int top_k, max_tokens;
    bool seed_minus_one;  /* a seed of -1 (or 2^32 - 1) draws one */
    bool penalize_all;    /* all tokens are recent unless repeat_last_n is given */
} sampling_defaults;
int request_sampling(request *q, const sampling_defaults *d);
int request_adapters(request *q);                    /* api_lora.c: the job's, named by the request or put on the model; request_job does it */
int request_context(request *q); /* does every prompt fit? with truncate: cut, and said */
int request_answers(request *q);                     /* room for what the job will give; request_submit does it too */
int request_embed(request *q, const json *input, const char *name); /* an embedding's model, job and prompts */
int request_submit(request *q, const renderer *r); /* the last thing: q may be gone afterwards */

int structured_apply(request *q); /* structured.c: q->wish into the job and its answers; request_submit does it */

/* ---- reply.c ---- */
void reply_take(job *j, const job_event *v); /* job.take */
int reply_json(request *q, int status, const buf *body); /* a whole reply; ends the request: 0 */
int reply_text(request *q, int status, const char *type, const char *extra, const char *body, size_t n);
void reply_ping(request *q, double now);     /* if it has been silent for so long */
void reply_failure(request *q); /* q->failure in the dialect; ends the request */
void failure_body(const request *q, int status, buf *out); /* the error object alone */
/* Of what never became a request: the error in the dialect of a path (server_error). */
void failure_plain(dialect d, int status, const char *code, const char *message, buf *out);
int failure_status(const request *q);
void request_free(request *q); /* after exchange_end */
answer *request_answer(request *q, const job_event *v);
void reply_part(void *arg, const answer_part *p); /* reader_opts.take; arg: the answer */

#endif
