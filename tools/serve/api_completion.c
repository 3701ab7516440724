/* api_completion: llama-server's /completion and /infill. */
#include <stdlib.h>
#include <string.h>

#include "tools/serve/api.h"
#include "tools/serve/render.h"

typedef struct native_reply {
    buf *prompt;    /* [n_prompts] their text, special tokens shown */
    int *n_prompt;  /* [n_prompts] */
    sample_opts sample;
    int max_tokens, n_probs, n_stops, n_ctx;
    bool ignore_eos, return_tokens;
    const char **stops;
    int last;
} native_reply;

static const sampling_defaults native_defaults = { .temperature = 0.8f, .top_p = 0.95f, .min_p = 0.05f, .top_k = 40,
                                                   .max_tokens = -1, .seed_minus_one = true };

/* ---- replies ---- */

static void put_probability(const request *q, const token_prob *p, buf *b) {
    buf_fmt(b, "{\"id\":%d,", p->id);
    put_token(q, p->id, b);
    buf_str(b, ",\"logprob\":");
    put_logprob(b, p->logprob);
    buf_str(b, ",\"top_logprobs\":[");
    for (int i = 0; i < p->n_top; i++) {
        buf_fmt(b, "%s{\"id\":%d,", i ? "," : "", p->top[i].id);
        put_token(q, p->top[i].id, b);
        buf_str(b, ",\"logprob\":");
        put_logprob(b, p->top[i].logprob);
        buf_byte(b, '}');
    }
    buf_str(b, "]}");
}

static void put_probabilities(const request *q, const token_prob *p, int n, buf *b) {
    buf_str(b, ",\"completion_probabilities\":[");
    for (int i = 0; i < n; i++) {
        if (i) buf_byte(b, ',');
        put_probability(q, &p[i], b);
    }
    buf_byte(b, ']');
}

static void put_settings(const request *q, buf *b) {
    const native_reply *o = q->own;
    const sample_opts *s = &o->sample;
    buf_fmt(b, ",\"generation_settings\":{\"n_ctx\":%d,\"n_predict\":%d,\"seed\":%llu,\"temperature\":%g,\"top_k\":%d,"
               "\"top_p\":%g,\"min_p\":%g,\"typical_p\":%g", o->n_ctx, o->max_tokens,
            (unsigned long long)s->seed, (double)s->temperature, s->top_k, (double)s->top_p, (double)s->min_p, (double)s->typical_p);
    buf_fmt(b, ",\"repeat_last_n\":%d,\"repeat_penalty\":%g,\"presence_penalty\":%g,\"frequency_penalty\":%g,\"ignore_eos\":%s,"
               "\"n_probs\":%d,\"stream\":%s,\"stop\":[", s->repeat_last_n,
            (double)s->repeat_penalty, (double)s->presence_penalty, (double)s->frequency_penalty, o->ignore_eos ? "true" : "false",
            o->n_probs, q->stream ? "true" : "false");
    for (int i = 0; i < o->n_stops; i++) {
        if (i) buf_byte(b, ',');
        put_quoted(b, o->stops[i]);
    }
    buf_str(b, "],\"lora\":");
    buf_str(b, q->adapters ? q->adapters : "[]");
    buf_byte(b, '}');
}

static const char *stop_type(job_end e) {
    return e == END_EOS ? "eos" : e == END_STOP_STRING || e == END_GRAMMAR ? "word"
                        : e == END_LENGTH || e == END_CONTEXT || e == END_DEADLINE ? "limit" : "none";
}

static void put_ids(const ids *v, buf *b) {
    for (size_t i = 0; i < v->n; i++) buf_fmt(b, "%s%d", i ? "," : "", v->p[i]);
}

/* One choice's last object; in a stream its content was sent before. */
static void put_result(const request *q, const answer *a, bool with_content, buf *b) {
    const native_reply *o = q->own;
    int i = (int)(a - q->answers), p = i / q->n_each;
    buf_fmt(b, "{\"index\":%d,\"content\":", i);
    buf_json(b, with_content && a->text.p ? a->text.p : "", with_content ? a->text.n : 0);
    buf_str(b, ",\"tokens\":[");
    if (with_content && o->return_tokens) put_ids(&a->tokens, b);
    buf_str(b, "],\"id_slot\":-1,\"stop\":true,\"model\":");
    put_quoted(b, q->model_name);
    buf_fmt(b, ",\"tokens_predicted\":%d,\"tokens_evaluated\":%d,\"tokens_cached\":%d", a->n_tokens, o->n_prompt[p], o->n_prompt[p] + a->n_tokens);
    put_settings(q, b);
    buf_str(b, ",\"prompt\":");
    buf_json(b, o->prompt[p].p ? o->prompt[p].p : "", o->prompt[p].n);
    buf_fmt(b, ",\"has_new_line\":%s,\"truncated\":false,\"stop_type\":\"%s\",\"ended\":\"%s\",\"stopping_word\":",
            a->text.n && memchr(a->text.p, '\n', a->text.n) ? "true" : "false",
            stop_type(a->end), end_name(a->end));
    put_quoted(b, a->stop_string ? a->stop_string : "");
    if (with_content && q->logprobs) put_probabilities(q, a->probs, a->n_probs, b);
    put_timings(q, b);
    buf_str(b, ",\"system_fingerprint\":");
    put_fingerprint(q, b);
    put_warnings(q, b);
    buf_byte(b, '}');
}

static void free_prompts(request *q) {
    native_reply *o = q->own;
    for (int i = 0; i < q->n_prompts; i++) buf_free(&o->prompt[i]);
}

static void whole(request *q, buf *b) {
    bool list = q->n_answers > 1;
    if (list) buf_byte(b, '[');
    for (int i = 0; i < q->n_answers; i++) {
        if (i) buf_byte(b, ',');
        put_result(q, &q->answers[i], true, b);
    }
    if (list) buf_byte(b, ']');
}

static void piece(request *q, const job_event *v, buf *out) {
    const answer *a = request_answer(q, v);
    const native_reply *o = q->own;
    token_prob p = event_prob(v);
    bool probs = q->logprobs && v->id >= 0;
    buf b = { 0 };
    if (!a || (!v->n && !probs && v->id < 0)) return;
    int i = (int)(a - q->answers);
    buf_fmt(&b, "{\"index\":%d,\"content\":", i);
    buf_json(&b, v->text ? v->text : "", v->n);
    buf_str(&b, ",\"tokens\":[");
    if (v->id >= 0) buf_fmt(&b, "%d", v->id);
    buf_fmt(&b, "],\"stop\":false,\"id_slot\":-1,\"tokens_predicted\":%d,\"tokens_evaluated\":%d", a->n_tokens, o->n_prompt[i / q->n_each]);
    if (probs) put_probabilities(q, &p, 1, &b);
    buf_byte(&b, '}');
    put_data(out, &b);
    buf_free(&b);
}

static void progress(request *q, const job_event *v, buf *out) {
    buf b = { 0 };
    if (!request_flag(q, F_RETURN_PROGRESS, false)) return;
    buf_fmt(&b, "{\"index\":%d,\"content\":\"\",\"tokens\":[],\"stop\":false,\"prompt_progress\":{\"total\":%d,"
                "\"cache\":%d,\"processed\":%d,\"time_ms\":%.0f}}", v->prompt * q->n_each, v->total,
            v->timings.n_cached, v->done, (now_seconds() - q->h->arrived) * 1e3);
    put_data(out, &b);
    buf_free(&b);
}

static void put_last(request *q, int i, buf *out) {
    buf b = { 0 };
    put_result(q, &q->answers[i], false, &b);
    put_data(out, &b);
    buf_free(&b);
}

static void choice_end(request *q, const job_event *v, buf *out) {
    const answer *a = request_answer(q, v);
    if (!a || v->end == END_SHUTDOWN) return;
    if (q->n_ended < q->n_answers) put_last(q, (int)(a - q->answers), out);
    else ((native_reply *)q->own)->last = (int)(a - q->answers);
}

static void end(request *q, buf *out) { put_last(q, ((native_reply *)q->own)->last, out); }

static void broken(request *q, buf *out) {
    buf b = { 0 };
    failure_body(q, failure_status(q), &b);
    put_data(out, &b);
    buf_free(&b);
}

static const renderer native_renderer = { .stream_type = "text/event-stream; charset=utf-8", .progress = progress,
                                          .piece = piece, .choice_end = choice_end, .end = end, .whole = whole,
                                          .broken = broken, .free = free_prompts };

/* ---- requests ---- */

static int remember(request *q) {
    err e = { 0 };
    job *j = q->j;
    native_reply *o = arena_alloc(&q->mem, sizeof *o);
    if (o) o->prompt = arena_alloc(&q->mem, (size_t)j->n_prompts * sizeof *o->prompt);
    if (o) o->n_prompt = arena_alloc(&q->mem, (size_t)j->n_prompts * sizeof *o->n_prompt);
    if (o) o->stops = arena_alloc(&q->mem, ((size_t)j->n_stops + 1) * sizeof *o->stops);
    if (!o || !o->prompt || !o->n_prompt || !o->stops) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    for (int i = 0; i < j->n_stops; i++) o->stops[i] = arena_copy(&q->mem, j->stops[i], strlen(j->stops[i]));
    o->sample = j->sample;
    o->max_tokens = j->max_tokens;
    o->n_probs = j->n_top;
    o->n_stops = j->n_stops;
    o->n_ctx = q->m->info->ctx;
    o->ignore_eos = j->ignore_eos;
    o->return_tokens = request_flag(q, F_RETURN_TOKENS, false);
    q->own = o;
    q->r = &native_renderer; /* it frees the texts, whatever comes */
    q->n_prompts = j->n_prompts;
    for (int i = 0; i < j->n_prompts; i++) {
        o->n_prompt[i] = (int)j->prompts[i].n;
        if (q->m->tok && tokenizer_decode(q->m->tok, j->prompts[i].p, j->prompts[i].n, false, &o->prompt[i], &e))
            return request_fail_err(q, "prompt", &e);
    }
    return 0;
}

static int generate(request *q) {
    job *j = q->j;
    q->stream = request_flag(q, F_STREAM, false);
    q->keep_probs = !q->stream;
    j->n_top = (int)request_int(q, F_TOP_LOGPROBS, 0);
    j->logprobs = j->n_top > 0;
    j->progress = q->stream && request_flag(q, F_RETURN_PROGRESS, false);
    if (structured_take(q) || request_sampling(q, &native_defaults) || request_context(q) || remember(q)) return -1;
    return request_submit(q, &native_renderer);
}

static int flags_of(const request *q) { return TOK_SPECIAL | (request_flag(q, F_PARSE_SPECIAL, true) ? TOK_PARSE_SPECIAL : 0); }

int native_completion(request *q) {
    if (request_need(q, F_PROMPT, "prompt") || request_model(q) || request_job(q, JOB_GENERATE)) return -1;
    if (request_prompts(q, q->v[F_PROMPT], "prompt", true, flags_of(q))) return -1;
    return generate(q);
}

/* The texts of input_extra, each behind its name, before what stands before the gap. */
static int put_extra(request *q, buf *out) {
    const json *v = q->v[F_INPUT_EXTRA];
    for (const json *k = v ? v->child : NULL; k; k = k->next) {
        const json *text = json_get(k, "text"), *name = json_get(k, "filename");
        if (!text || text->type != JSON_STRING)
            return request_fail(q, JOB_INVALID, "input_extra", "input_extra: expected [{\"filename\": \"...\", \"text\": \"...\"}]");
        if (name && name->type == JSON_STRING) buf_fmt(out, "%s\n", name->s);
        buf_add(out, text->s, text->n);
        buf_byte(out, '\n');
    }
    return 0;
}

int native_infill(request *q) {
    const json *prefix = q->v[F_INPUT_PREFIX], *suffix = q->v[F_INPUT_SUFFIX], *prompt = q->v[F_PROMPT];
    buf before = { 0 };
    if (request_model(q) || request_job(q, JOB_GENERATE)) return -1;
    job *j = q->j;
    j->prompts = arena_alloc(&j->mem, sizeof *j->prompts);
    if (!j->prompts) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    j->n_prompts = 1;
    if (prompt && prompt->type != JSON_STRING)
        return request_fail(q, JOB_INVALID, "prompt", "prompt: expected a string, found %s", json_type_name(prompt));
    int rc = put_extra(q, &before);
    if (!rc && prefix) buf_add(&before, prefix->s, prefix->n);
    if (!rc) rc = infill_prompt(q, before.p ? before.p : "", before.n, suffix ? suffix->s : "", suffix ? suffix->n : 0, &j->prompts[0]);
    if (!rc && prompt) rc = request_encode(q, prompt->s, prompt->n, 0, &j->prompts[0]); /* the answer's beginning */
    buf_free(&before);
    return rc ? rc : generate(q);
}
