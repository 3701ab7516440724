/* render: pieces of JSON that the replies of several dialects are made of (render.h). It must not know which dialect. */
#define _GNU_SOURCE
#include "tools/serve/render.h"

#include <math.h>
#include <string.h>
#include <time.h>

void put_quoted(buf *b, const char *s) { buf_json(b, s, strlen(s)); }

/* What stands beside the warnings in every dialect: that the answer was there already, that another model gave it. */
static void put_circumstances(const request *q, buf *b) {
    if (q->cached) buf_str(b, ",\"cached\":true");
    if (!q->fell_from[0]) return;
    buf_str(b, ",\"fallback\":{\"asked\":");
    put_quoted(b, q->fell_from);
    buf_str(b, ",\"used\":");
    put_quoted(b, q->m->name);
    buf_fmt(b, ",\"code\":\"%s\",\"why\":", q->fell_code);
    put_quoted(b, q->fell_why);
    buf_byte(b, '}');
}

void put_warnings(const request *q, buf *b) {
    put_circumstances(q, b);
    if (!q->warnings.n || q->warnings.failed) return;
    buf_str(b, ",\"warnings\":[");
    buf_add(b, q->warnings.p, q->warnings.n);
    buf_byte(b, ']');
}

static double rate(double n, double seconds) { return n > 0 && seconds > 0 ? n / seconds : 0; }

/* llama-server's names and meaning: prompt_n counts what was computed, cache_n what was not; the first token is the prompt's. */
void put_timings(const request *q, buf *b) {
    const job_timings *t = &q->timings;
    int computed = t->n_prompt - t->n_cached, steps = t->n_decoded > 1 ? t->n_decoded - 1 : 0;
    buf_fmt(b, ",\"timings\":{\"cache_n\":%d,\"prompt_n\":%d,\"prompt_ms\":%.3f,\"prompt_per_token_ms\":%.3f,\"prompt_per_second\":%.3f",
            t->n_cached, computed, t->prompt * 1e3, computed > 0 ? t->prompt * 1e3 / computed : 0, rate(computed, t->prompt));
    buf_fmt(b, ",\"predicted_n\":%d,\"predicted_ms\":%.3f,\"predicted_per_token_ms\":%.3f,\"predicted_per_second\":%.3f",
            t->n_decoded, t->decode * 1e3, steps ? t->decode * 1e3 / steps : 0, rate(steps, t->decode));
    if (t->n_drafted) buf_fmt(b, ",\"draft_n\":%d,\"draft_n_accepted\":%d", t->n_drafted, t->n_accepted);
    buf_fmt(b, ",\"queue_ms\":%.3f,\"load_ms\":%.3f,\"first_token_ms\":%.3f,\"total_ms\":%.3f}", t->queued * 1e3,
            t->load * 1e3, t->first_token * 1e3, t->total * 1e3);
}

/* The bytes of one token within a text: twice the token less once, because a decoder may drop a space at the beginning. */
void put_token_bytes(const request *q, int32_t id, buf *b) {
    int32_t pair[2] = { id, id };
    buf one = { 0 }, two = { 0 };
    err e = { 0 };
    if (q->m->tok && tokenizer_decode_bytes(q->m->tok, pair, 1, false, &one, &e) == 0 &&
        tokenizer_decode_bytes(q->m->tok, pair, 2, false, &two, &e) == 0 && two.n >= one.n)
        buf_add(b, two.p + one.n, two.n - one.n);
    buf_free(&one);
    buf_free(&two);
}

void put_token(const request *q, int32_t id, buf *b) {
    buf bytes = { 0 };
    put_token_bytes(q, id, &bytes);
    buf_str(b, "\"token\":");
    buf_json(b, bytes.p ? bytes.p : "", bytes.n);
    buf_str(b, ",\"bytes\":[");
    for (size_t i = 0; i < bytes.n; i++) buf_fmt(b, "%s%d", i ? "," : "", (unsigned char)bytes.p[i]);
    buf_byte(b, ']');
    buf_free(&bytes);
}

void put_logprob(buf *b, float x) {
    if (isfinite(x)) buf_fmt(b, "%.9g", (double)x);
    else buf_str(b, isnan(x) ? "null" : "-9999.0"); /* JSON has no infinity; OpenAI's number for it */
}

void put_chat_logprob(const request *q, const token_prob *p, buf *b) {
    buf_byte(b, '{');
    put_token(q, p->id, b);
    buf_str(b, ",\"logprob\":");
    put_logprob(b, p->logprob);
    buf_str(b, ",\"top_logprobs\":[");
    for (int i = 0; i < p->n_top; i++) {
        buf_str(b, i ? ",{" : "{");
        put_token(q, p->top[i].id, b);
        buf_str(b, ",\"logprob\":");
        put_logprob(b, p->top[i].logprob);
        buf_byte(b, '}');
    }
    buf_str(b, "]}");
}

/* Of an open model: the one that proposes for it, or why it does not. */
void put_draft(const model *m, buf *b) {
    if (!m->draft_name) return;
    buf_str(b, ",\"draft\":{\"name\":");
    put_quoted(b, m->draft_name);
    if (m->no_draft[0]) {
        buf_str(b, ",\"error\":");
        put_quoted(b, m->no_draft);
    } else buf_fmt(b, ",\"memory\":%llu", (unsigned long long)m->draft_memory);
    buf_byte(b, '}');
}

/* Names the model's content, its adapters and this build: equal fingerprints and seeds give equal answers. */
void put_fingerprint(const request *q, buf *b) {
    char text[128];
    const engine_info *i = q->m->info;
    snprintf(text, sizeof text, "%s %s %s %d", QUERN_VERSION, q->m->digest, i ? i->kernels : "", i ? i->exact : 0);
    uint64_t hash = hash_bytes(text, strlen(text)) ^ (q->adapters ? hash_bytes(q->adapters, strlen(q->adapters)) : 0);
    buf_fmt(b, "\"fp_%012llx\"", (unsigned long long)(hash & 0xffffffffffffULL));
}

void put_time(buf *b, int64_t seconds, int64_t nanoseconds) {
    time_t t = (time_t)seconds;
    struct tm tm;
    gmtime_r(&t, &tm);
    buf_fmt(b, "\"%04d-%02d-%02dT%02d:%02d:%02d.%09lldZ\"", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
            tm.tm_min, tm.tm_sec, (long long)nanoseconds);
}

const char *end_name(job_end end) {
    static const char *const names[] = { "none", "eos", "stop_string", "length", "context_full", "deadline", "cancelled",
                                         "grammar", "shutting_down" };
    return (size_t)end < sizeof names / sizeof *names ? names[end] : "none";
}

token_prob event_prob(const job_event *v) {
    return (token_prob){ .id = v->id, .logprob = v->logprob, .n_top = v->n_top, .of_prompt = v->of_prompt, .top = v->top };
}

void put_data(buf *out, const buf *object) {
    buf_str(out, "data: ");
    buf_add(out, object->p, object->n);
    buf_str(out, "\n\n");
    out->failed |= object->failed;
}

int count_prompt(const request *q) { return q->timings.n_prompt; } /* of an encoder's input too */

int count_answers(const request *q) { return q->timings.n_decoded; }

int count_reasoning(const request *q) {
    int n = 0;
    for (int i = 0; i < q->n_answers; i++) n += q->answers[i].n_reasoning;
    return n;
}

bool ends_with_calls(const answer *a) {
    return a->n_calls && !a->reader.cut && a->end != END_LENGTH && a->end != END_CONTEXT && a->end != END_DEADLINE;
}
