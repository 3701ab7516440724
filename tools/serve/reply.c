/* reply: a job's events into bytes for the client, through the renderer of the dialect: whole or as a stream. And failures, before a
 * reply has begun and in the middle of one. It owns the end of a request: who gives the reply frees it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/serve/log.h"
#include "tools/serve/memo.h"
#include "tools/serve/metrics.h"
#include "tools/serve/ping.h"
#include "tools/serve/render.h"
#include "tools/serve/trace.h"

/* ---- the end of a request ---- */

static void free_answer(answer *a) {
    for (int i = 0; i < a->n_calls; i++) buf_free(&a->calls[i].arguments);
    free(a->calls);
    reader_free(&a->reader);
    buf_free(&a->text);
    buf_free(&a->reasoning);
}

void request_free(request *q) {
    for (int i = 0; i < q->n_answers && q->answers; i++) {
        free_answer(&q->answers[i]);
        ids_free(&q->answers[i].tokens);
        free(q->answers[i].probs);
        free(q->answers[i].embedding);
    }
    if (q->r && q->r->free) q->r->free(q);
    memo_forget(q);
    if (q->j) job_free(q->j);
    if (q->m) models_release(q->s->models, q->m, q->keep_alive);
    buf_free(&q->warnings);
    buf_free(&q->text);
    buf_free(&q->parts);
    pthread_mutex_destroy(&q->lock);
    atomic_fetch_sub(&q->s->parsed, q->parsed);
    arena_free(&q->mem);
    free(q);
}

/* Whatever is kept of a request is written before its exchange ends: path and address are borrowed from it. */
static void account(request *q, int status, size_t bytes) {
    metrics_request(q->s->metrics, status, now_seconds() - q->h->arrived);
    log_request(q, status, bytes);
}

int reply_text(request *q, int status, const char *type, const char *extra, const char *body, size_t n) {
    account(q, status, n);
    exchange_reply(q->x, status, type, extra ? extra : "", body, n);
    request_free(q);
    return 0;
}

int reply_json(request *q, int status, const buf *body) {
    if (body->failed) return request_fail(q, JOB_MEMORY, NULL, "out of memory for the reply");
    return reply_text(q, status, "application/json; charset=utf-8", "", body->p, body->n);
}

/* ---- failures ---- */

int failure_status(const request *q) {
    static const short by_code[] = { [JOB_OK] = 200, [JOB_INVALID] = 400, [JOB_CONTEXT] = 400, [JOB_MODEL_NOT_FOUND] = 404,
                                     [JOB_QUEUE_FULL] = 503, [JOB_DEADLINE] = 504, [JOB_CANCELLED] = 499, [JOB_MEMORY] = 503,
                                     [JOB_SHUTTING_DOWN] = 503, [JOB_UNSUPPORTED] = 400, [JOB_NOT_FINITE] = 500,
                                     [JOB_FAILED] = 500 };
    if (q->status) return q->status;
    return q->failure.code >= 0 && (size_t)q->failure.code < sizeof by_code / sizeof *by_code ? by_code[q->failure.code] : 500;
}

static const char *failure_code(const request *q) { return q->code ? q->code : job_error_name(q->failure.code ? q->failure.code : JOB_FAILED); }

static const char *openai_type(int status) {
    return status == 401 ? "authentication_error" : status == 403 ? "permission_error" : status == 429 ? "rate_limit_error"
         : status >= 500 ? "server_error" : "invalid_request_error";
}

static const char *anthropic_type(int status) {
    return status == 401 ? "authentication_error" : status == 403 ? "permission_error" : status == 404 ? "not_found_error"
         : status == 413 ? "request_too_large" : status == 429 ? "rate_limit_error" : status == 503 ? "overloaded_error"
         : status >= 500 ? "api_error" : "invalid_request_error";
}

static const char *native_type(const request *q, int status) {
    if (q->failure.code == JOB_CONTEXT) return "exceed_context_size_error";
    return status == 401 ? "authentication_error" : status == 403 ? "permission_error" : status == 404 ? "not_found_error"
         : status == 429 ? "rate_limit_error" : status == 501 ? "not_supported_error" : status == 503 ? "unavailable_error"
         : status >= 500 ? "server_error" : "invalid_request_error";
}

/* What quern adds to every dialect's error: the stable code aside, where it happened, to whom, and when. */
static void put_failure_facts(const request *q, buf *b) {
    buf_str(b, ",\"phase\":");
    put_quoted(b, q->failure.phase ? q->failure.phase : "parse");
    if (q->model_name[0]) {
        buf_str(b, ",\"model\":");
        put_quoted(b, q->model_name);
    }
    if (q->h) {
        buf_fmt(b, ",\"elapsed_ms\":%.1f,\"request_id\":", (now_seconds() - q->h->arrived) * 1e3);
        put_quoted(b, q->id);
    }
    if (q->failure.code == JOB_CONTEXT)
        buf_fmt(b, ",\"n_prompt_tokens\":%lld,\"n_ctx\":%lld", (long long)q->failure.n_prompt, (long long)q->failure.n_ctx);
}

static void put_param(const request *q, buf *b) {
    if (q->failure.param) put_quoted(b, q->failure.param);
    else buf_str(b, "null");
}

static void put_message(const request *q, const char *type, buf *b) {
    buf_str(b, "\"message\":");
    put_quoted(b, q->failure.msg[0] ? q->failure.msg : "the request failed");
    buf_fmt(b, ",\"type\":\"%s\"", type);
}

void failure_body(const request *q, int status, buf *b) {
    const char *code = failure_code(q);
    switch (q->dialect) {
    case DIALECT_OLLAMA:
        buf_str(b, "{\"error\":");
        put_quoted(b, q->failure.msg[0] ? q->failure.msg : "the request failed");
        buf_fmt(b, ",\"code\":\"%s\",\"param\":", code);
        put_param(q, b);
        break;
    case DIALECT_ANTHROPIC:
        buf_str(b, "{\"type\":\"error\",\"error\":{");
        put_message(q, anthropic_type(status), b);
        buf_fmt(b, ",\"code\":\"%s\",\"param\":", code);
        put_param(q, b);
        buf_byte(b, '}');
        break;
    case DIALECT_NATIVE:
        buf_str(b, "{\"error\":{");
        put_message(q, native_type(q, status), b);
        buf_fmt(b, ",\"code\":%d,\"name\":\"%s\",\"param\":", status, code);
        put_param(q, b);
        break;
    case DIALECT_OPENAI:
        buf_str(b, "{\"error\":{");
        put_message(q, openai_type(status), b);
        buf_fmt(b, ",\"code\":\"%s\",\"param\":", code);
        put_param(q, b);
        break;
    }
    put_failure_facts(q, b);
    buf_str(b, q->dialect == DIALECT_OPENAI || q->dialect == DIALECT_NATIVE ? "}}" : "}");
}

void failure_plain(dialect d, int status, const char *code, const char *message, buf *out) {
    request q = { .dialect = d, .status = status, .code = code };
    snprintf(q.failure.msg, sizeof q.failure.msg, "%s", message);
    failure_body(&q, status, out);
}

void reply_failure(request *q) {
    int status = failure_status(q);
    char extra[256] = "";
    buf body = { 0 };
    failure_body(q, status, &body);
    if (q->more_headers) snprintf(extra, sizeof extra, "%s", q->more_headers);
    else if (status == 503) {
        double wait = q->failure.retry_after > 0 ? q->failure.retry_after : 1;
        snprintf(extra, sizeof extra, "Retry-After: %.0f\r\nRetry-After-Ms: %.0f\r\n", ceil(wait), wait * 1e3);
    }
    if (body.failed) reply_text(q, 503, "application/json", "Retry-After: 1\r\n", "{\"error\":\"out of memory\"}", 25);
    else reply_text(q, status, "application/json; charset=utf-8", extra, body.p, body.n);
    buf_free(&body);
}

/* ---- what events bring ---- */

answer *request_answer(request *q, const job_event *v) {
    int i = v->prompt * q->n_each + v->choice;
    return i >= 0 && i < q->n_answers ? &q->answers[i] : NULL;
}

static void keep_prob(request *q, answer *a, const job_event *v) {
    if ((a->n_probs & (a->n_probs - 1)) == 0) {
        token_prob *more = realloc(a->probs, (size_t)(a->n_probs ? 2 * a->n_probs : 1) * sizeof *more);
        if (!more) { a->text.failed = true; return; }
        a->probs = more;
    }
    token_prob p = event_prob(v);
    job_token_prob *top = p.n_top ? arena_alloc(&q->mem, (size_t)p.n_top * sizeof *top) : NULL;
    if (p.n_top && !top) { a->text.failed = true; return; }
    if (top) memcpy(top, v->top, (size_t)p.n_top * sizeof *top);
    p.top = top;
    a->probs[a->n_probs++] = p;
}

/* An id of its own, of as many characters as the template wants. */
static void make_call_id(const answer *a, int length, said_call *c) {
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    const request *q = a->q;
    char text[120];
    size_t at = 0, n = length ? (size_t)length : 24;
    snprintf(text, sizeof text, "%s %llx %td %d", q->id, (unsigned long long)q->s->id_salt, a - q->answers, a->n_calls);
    if (!length) at = (size_t)snprintf(c->id, sizeof c->id, "call_");
    uint64_t x = hash_bytes(text, strlen(text));
    for (size_t i = 0; i < n && at + 1 < sizeof c->id; i++, x = i % 8 ? x / 36 : hash_bytes(&x, sizeof x)) c->id[at++] = digits[x % 36];
    c->id[at] = 0;
}

static void begin_call(answer *a, const answer_part *p) {
    if ((a->n_calls & (a->n_calls - 1)) == 0) {
        said_call *more = realloc(a->calls, (size_t)(a->n_calls ? 2 * a->n_calls : 1) * sizeof *more);
        if (!more) { a->text.failed = true; return; }
        a->calls = more;
    }
    said_call *c = &a->calls[a->n_calls];
    *c = (said_call){ .name = arena_copy(&a->q->mem, p->s, p->n) };
    if (!c->name) { a->text.failed = true; return; }
    make_call_id(a, a->q->wish.format ? a->q->wish.format->id_length : 0, c);
    a->n_calls++;
}

void reply_part(void *arg, const answer_part *p) {
    answer *a = arg;
    if (a->text.failed) return;
    if (p->kind == PART_TEXT) buf_add(&a->text, p->s, p->n);
    if (p->kind == PART_REASONING) buf_add(&a->reasoning, p->s, p->n);
    if (p->kind == PART_CALL) begin_call(a, p);
    if (p->kind == PART_ARGUMENTS && p->call < a->n_calls) buf_add(&a->calls[p->call].arguments, p->s, p->n);
    if (a->q->stream && a->q->r->part && !a->text.failed) a->q->r->part(a->q, a, p, &a->q->parts);
}

static void read_piece(answer *a, const job_event *v) {
    bool thought = reader_thinks(&a->reader);
    reader_feed(&a->reader, v->text, v->n, v->constrained);
    if (v->id >= 0 && (thought || reader_thinks(&a->reader))) a->n_reasoning++;
}

static void take_piece(request *q, const job_event *v) {
    answer *a = request_answer(q, v);
    if (!a) return;
    if (q->reads) read_piece(a, v);
    else buf_add(&a->text, v->text, v->n);
    if (v->id < 0) return;
    if (!v->of_prompt) {
        ids_add(&a->tokens, v->id);
        a->n_tokens++;
        if (isfinite(v->logprob)) a->sum_logprob += (double)v->logprob;
    }
    if (q->logprobs && q->keep_probs) keep_prob(q, a, v);
}

static void take_choice_end(request *q, const job_event *v) {
    answer *a = request_answer(q, v);
    if (!a) return;
    a->end = v->end;
    a->logits = v->logits;
    q->n_ended++;
    if (q->reads) {
        reader_end(&a->reader);
        if (a->reader.malformed) request_warn(q, "tools: a call in the answer cannot be read: it is left in the text");
        if (a->reader.unknown) request_warn(q, "tools: the answer calls a function that is not among the tools: it is left in the text");
        if (a->reader.cut) request_warn(q, "tools: the answer was cut within a call: its arguments are not whole");
    }
    a->stop_string = v->stop_string ? arena_copy(&q->mem, v->stop_string, strlen(v->stop_string)) : NULL;
}

static void take_embedding(request *q, const job_event *v) {
    answer *a = request_answer(q, v);
    if (!a || v->n_embedding <= 0) return;
    free(a->embedding);
    a->embedding = malloc((size_t)v->n_embedding * sizeof(float));
    if (!a->embedding) { a->text.failed = true; return; }
    memcpy(a->embedding, v->embedding, (size_t)v->n_embedding * sizeof(float));
    a->n_embedding = v->n_embedding;
}

static void take(request *q, const job_event *v) {
    switch (v->kind) {
    case EVENT_PIECE: take_piece(q, v); break;
    case EVENT_CHOICE_END: take_choice_end(q, v); break;
    case EVENT_EMBEDDING: take_embedding(q, v); break;
    case EVENT_END: case EVENT_FAILED: q->timings = v->timings; break;
    default: break;
    }
}

/* ---- streams ---- */

#define CACHED "X-Quern-Cached: true\r\n"

/* Under the lock. */
static void send_bytes(request *q, const buf *out) {
    if (!q->headed)
        exchange_begin(q->x, 200, q->r->stream_type, q->cached ? CACHED "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
                                                               : "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n");
    q->headed = true;
    exchange_write(q->x, out->p, out->n);
    q->said = now_seconds();
}

static void send(request *q, const buf *out) {
    if (!out->n) return;
    pthread_mutex_lock(&q->lock);
    q->begun = true;
    send_bytes(q, out);
    pthread_mutex_unlock(&q->lock);
}

/* A failure that comes after it can have no status of its own any more: such a silence is long. */
void reply_ping(request *q, double now) {
    buf out = { 0 };
    pthread_mutex_lock(&q->lock);
    if (now - q->said >= q->ping_seconds) {
        if (q->r->ping) q->r->ping(q, &out);
        else buf_str(&out, ":\n\n");
        if (!out.failed && out.n) send_bytes(q, &out);
    }
    pthread_mutex_unlock(&q->lock);
    buf_free(&out);
}

/* Of an answer that is read only what stands beside its text: the text itself comes in parts. */
static void put_piece(request *q, const job_event *v, buf *out) {
    job_event bare = *v;
    if (q->reads && !v->of_prompt) bare.text = "", bare.n = 0;
    q->r->piece(q, &bare, out);
}

/* Headers wait for the first piece: what fails before has a status of its own. */
static void stream_event(request *q, const job_event *v) {
    const renderer *r = q->r;
    buf out = { 0 };
    bool content = v->kind == EVENT_PIECE || v->kind == EVENT_CHOICE_END || v->kind == EVENT_END || (v->kind == EVENT_PROGRESS && r->progress);
    if (content && !q->begun && r->begin) r->begin(q, &out);
    if (v->kind == EVENT_PIECE && r->piece) put_piece(q, v, &out);
    buf_add(&out, q->parts.p, q->parts.n);
    out.failed |= q->parts.failed;
    q->parts.n = 0;
    if (v->kind == EVENT_PROGRESS && r->progress) r->progress(q, v, &out);
    if (v->kind == EVENT_CHOICE_END && r->choice_end) r->choice_end(q, v, &out);
    if (v->kind == EVENT_END && r->end) r->end(q, &out);
    if (out.failed) { /* what is missing must not look complete */
        request_fail(q, JOB_MEMORY, NULL, "out of memory for the reply");
        out.failed = false;
    }
    send(q, &out);
    buf_free(&out);
}

static void end_stream(request *q) {
    account(q, q->failure.code ? failure_status(q) : 200, 0);
    exchange_end(q->x);
    request_free(q);
}

/* ---- the last event ---- */

static bool was_cut(const request *q) {
    for (int i = 0; i < q->n_answers; i++)
        if (q->answers[i].end == END_SHUTDOWN) return true;
    return false;
}

static bool lacks_memory(const request *q) {
    for (int i = 0; i < q->n_answers; i++)
        if (q->answers[i].text.failed || q->answers[i].tokens.failed || q->answers[i].reasoning.failed || q->answers[i].reader.held.failed)
            return true;
    return false;
}

static void take_failure(request *q, const job_event *v) {
    if (v->kind == EVENT_FAILED) {
        q->failure = v->failure ? *v->failure : (job_failure){ .code = JOB_FAILED, .msg = "the job failed", .phase = "decode" };
        if (q->failure.param) q->failure.param = arena_copy(&q->mem, q->failure.param, strlen(q->failure.param));
    } else if (was_cut(q)) request_fail(q, JOB_SHUTTING_DOWN, NULL, "the server shuts down: the answer was cut");
    else if (lacks_memory(q)) request_fail(q, JOB_MEMORY, NULL, "out of memory for the reply");
    if (q->failure.code && !q->failure.phase) q->failure.phase = "decode";
}

static void finish_whole(request *q) {
    buf out = { 0 };
    if (!q->failure.code) q->r->whole(q, &out);
    if (q->failure.code || out.failed) {
        if (out.failed) request_fail(q, JOB_MEMORY, NULL, "out of memory for the reply");
        reply_failure(q);
    } else reply_text(q, 200, "application/json; charset=utf-8", q->cached ? CACHED : "", out.p, out.n);
    buf_free(&out);
}

static void finish_stream(request *q, const job_event *v) {
    buf out = { 0 };
    pings_end(q); /* from here on nobody else writes */
    if (!q->failure.code) stream_event(q, v);
    if (!q->headed && q->failure.code) {
        reply_failure(q);
        return;
    }
    if (q->failure.code) {
        q->r->broken(q, &out);
        send(q, &out);
        buf_free(&out);
    }
    end_stream(q);
}

void reply_take(job *j, const job_event *v) {
    request *q = j->arg;
    pthread_mutex_lock(&q->lock); /* also waits until the submission has returned */
    if (v->last) q->j = NULL;     /* from here on nobody cancels it */
    pthread_mutex_unlock(&q->lock);
    memo_record(q, v);
    take(q, v);
    if (!v->last) {
        if (q->stream) stream_event(q, v);
        return;
    }
    metrics_job(q->s->metrics, q, v);
    take_failure(q, v);
    if (q->s->trace && !q->cached) trace_job(q->s->trace, q, j);
    if (j->draft_error[0]) request_warn(q, "the draft of this model was switched off for this answer, which is the same without: %s", j->draft_error);
    bool stream = q->stream;
    job_event last = *v; /* v may lie in the job */
    job_free(j);
    if (stream) finish_stream(q, &last);
    else finish_whole(q);
}
