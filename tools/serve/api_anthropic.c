/* api_anthropic: /v1/messages and its count of tokens, minimal: text in, text out. */
#include <stdlib.h>
#include <string.h>

#include "tools/serve/api.h"
#include "tools/serve/render.h"

static const sampling_defaults anthropic_defaults = { .temperature = 1, .top_p = 1, .max_tokens = -1 };

static void put_usage(int input, int output, int cached, buf *b) {
    buf_fmt(b, "\"usage\":{\"input_tokens\":%d,\"output_tokens\":%d,\"cache_read_input_tokens\":%d,\"cache_creation_input_tokens\":0}", input - cached, output, cached);
}

static void put_stop(const answer *a, buf *b) {
    bool word = a->end == END_STOP_STRING;
    buf_fmt(b, "\"stop_reason\":\"%s\",\"stop_sequence\":", word ? "stop_sequence" : a->end == END_LENGTH || a->end == END_CONTEXT || a->end == END_DEADLINE ? "max_tokens" : "end_turn");
    if (word && a->stop_string) put_quoted(b, a->stop_string);
    else buf_str(b, "null");
}

static void put_head(const request *q, buf *b) {
    buf_fmt(b, "{\"id\":\"msg_%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", q->id + 4);
    put_quoted(b, q->model_name);
}

static void whole(request *q, buf *b) {
    const answer *a = &q->answers[0];
    put_head(q, b);
    buf_str(b, ",\"content\":[{\"type\":\"text\",\"text\":");
    buf_json(b, a->text.p ? a->text.p : "", a->text.n);
    buf_str(b, "}],");
    put_stop(a, b);
    buf_byte(b, ',');
    put_usage(count_prompt(q), count_answers(q), q->timings.n_cached, b);
    put_timings(q, b);
    put_warnings(q, b);
    buf_byte(b, '}');
}

/* ---- streamed: named events ---- */

static void put_event(const char *name, buf *b, buf *out) {
    buf_fmt(out, "event: %s\n", name);
    put_data(out, b);
    buf_free(b);
}

static void begin(request *q, buf *out) {
    buf b = { 0 };
    buf_str(&b, "{\"type\":\"message_start\",\"message\":");
    put_head(q, &b);
    buf_str(&b, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,");
    put_usage(*(int *)q->own, 0, 0, &b);
    buf_str(&b, "}}");
    put_event("message_start", &b, out);
    buf_str(&b, "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}");
    put_event("content_block_start", &b, out);
    buf_str(&b, "{\"type\":\"ping\"}");
    put_event("ping", &b, out);
}

static void piece(request *q, const job_event *v, buf *out) {
    buf b = { 0 };
    (void)q;
    if (!v->n) return;
    buf_str(&b, "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":");
    buf_json(&b, v->text, v->n);
    buf_str(&b, "}}");
    put_event("content_block_delta", &b, out);
}

static void end(request *q, buf *out) {
    buf b = { 0 };
    buf_str(&b, "{\"type\":\"content_block_stop\",\"index\":0}");
    put_event("content_block_stop", &b, out);
    buf_str(&b, "{\"type\":\"message_delta\",\"delta\":{");
    put_stop(&q->answers[0], &b);
    buf_str(&b, "},");
    put_usage(count_prompt(q), count_answers(q), q->timings.n_cached, &b);
    put_timings(q, &b);
    put_warnings(q, &b);
    buf_byte(&b, '}');
    put_event("message_delta", &b, out);
    buf_str(&b, "{\"type\":\"message_stop\"}");
    put_event("message_stop", &b, out);
}

static void broken(request *q, buf *out) {
    buf b = { 0 };
    failure_body(q, failure_status(q), &b);
    put_event("error", &b, out);
}

static const renderer anthropic_renderer = { .stream_type = "text/event-stream; charset=utf-8", .begin = begin, .piece = piece, .end = end, .whole = whole, .broken = broken };

/* ---- requests ---- */

static int rendered(request *q, ids *out) {
    json *messages;
    const json *tools;
    const json *in = q->v[F_MESSAGES], *last = in ? in->child : NULL;
    while (last && last->next) last = last->next;
    if (json_is(json_get(last, "role"), "assistant")) request_warn(q, "messages: the last one is the assistant's: it is shown as a turn of its own, the answer does not continue it");
    if (messages_normalise(q, &(conversation_in){ .messages = in, .system = q->v[F_SYSTEM], .anthropic = true }, &messages)) return -1;
    return messages_tools(q, q->v[F_TOOLS], true, &tools) || request_chat(q, messages, tools, true, out) ? -1 : 0;
}

int anthropic_messages(request *q) {
    if (request_need(q, F_MESSAGES, "messages") || request_need(q, F_MAX_TOKENS, "max_tokens") || request_model(q) || request_job(q, JOB_GENERATE)) return -1;
    job *j = q->j;
    int *n_prompt = arena_alloc(&q->mem, sizeof *n_prompt);
    j->prompts = arena_alloc(&j->mem, sizeof *j->prompts);
    if (!n_prompt || !j->prompts) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    j->n_prompts = 1;
    j->turn_end = q->m->turn_end;
    if (rendered(q, &j->prompts[0]) || request_sampling(q, &anthropic_defaults) || request_context(q)) return -1;
    *n_prompt = (int)j->prompts[0].n;
    q->own = n_prompt;
    q->stream = request_flag(q, F_STREAM, false);
    return request_submit(q, &anthropic_renderer);
}

int anthropic_count(request *q) {
    ids v = { 0 };
    buf b = { 0 };
    if (request_need(q, F_MESSAGES, "messages") || request_model(q)) return -1;
    int rc = rendered(q, &v);
    buf_fmt(&b, "{\"input_tokens\":%zu", v.n);
    put_warnings(q, &b);
    buf_byte(&b, '}');
    ids_free(&v);
    if (!rc) rc = reply_json(q, 200, &b);
    buf_free(&b);
    return rc;
}
