/* api_responses: OpenAI's /v1/responses, minimal: one message of text, nothing stored. The order of a stream's events is the one that
 * openai-python's accumulator accepts. */
#include <stdlib.h>
#include <string.h>

#include "tools/serve/api.h"
#include "tools/serve/render.h"

static const sampling_defaults responses_defaults = { .temperature = 1, .top_p = 1, .max_tokens = -1 };

static bool was_limited(const answer *a) { return a->end == END_LENGTH || a->end == END_CONTEXT || a->end == END_DEADLINE; }

static void put_message(const request *q, const char *status, bool with_text, buf *b) {
    const answer *a = &q->answers[0];
    buf_fmt(b, "{\"type\":\"message\",\"id\":\"msg_%s\",\"role\":\"assistant\",\"status\":\"%s\",\"content\":[", q->id + 4, status);
    if (with_text) {
        buf_str(b, "{\"type\":\"output_text\",\"text\":");
        buf_json(b, a->text.p ? a->text.p : "", a->text.n);
        buf_str(b, ",\"annotations\":[],\"logprobs\":[]}");
    }
    buf_str(b, "]}");
}

static void put_usage(const request *q, buf *b) {
    int input = count_prompt(q), output = count_answers(q);
    buf_fmt(b, ",\"usage\":{\"input_tokens\":%d,\"input_tokens_details\":{\"cached_tokens\":%d},\"output_tokens\":%d,\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":%d}", input,
            q->timings.n_cached, output, input + output);
}

static void put_echo(const request *q, buf *b) { /* of the request: tools and how they are chosen */
    const char *choice = request_str(q, F_TOOL_CHOICE, "auto");
    buf_str(b, ",\"parallel_tool_calls\":false,\"tool_choice\":");
    put_quoted(b, choice);
    buf_str(b, ",\"tools\":[],\"instructions\":");
    if (q->v[F_INSTRUCTIONS]) put_quoted(b, request_str(q, F_INSTRUCTIONS, ""));
    else buf_str(b, "null");
    buf_str(b, ",\"error\":null,\"metadata\":{},\"store\":false,\"text\":{\"format\":{\"type\":\"text\"}}");
}

static void put_response(const request *q, bool done, buf *b) {
    bool cut = done && was_limited(&q->answers[0]);
    buf_fmt(b, "{\"id\":\"resp_%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"incomplete_details\":%s,\"model\":", q->id + 4, (long long)q->created,
            !done ? "in_progress" : cut ? "incomplete" : "completed", cut ? "{\"reason\":\"max_output_tokens\"}" : "null");
    put_quoted(b, q->model_name);
    buf_str(b, ",\"output\":[");
    if (done) put_message(q, cut ? "incomplete" : "completed", true, b);
    buf_byte(b, ']');
    put_echo(q, b);
    if (done) {
        put_usage(q, b);
        buf_str(b, ",\"system_fingerprint\":");
        put_fingerprint(q, b);
        buf_fmt(b, ",\"ended\":\"%s\"", end_name(q->answers[0].end));
        put_timings(q, b);
        put_warnings(q, b);
    } else buf_str(b, ",\"usage\":null");
    buf_byte(b, '}');
}

static void whole(request *q, buf *b) { put_response(q, true, b); }

/* ---- streamed ---- */

static void begin_event(request *q, const char *type, buf *b) { buf_fmt(b, "{\"type\":\"%s\",\"sequence_number\":%d", type, q->n_sequence++); }

static void end_event(const char *type, buf *b, buf *out) {
    buf_byte(b, '}');
    buf_fmt(out, "event: %s\n", type);
    put_data(out, b);
    buf_free(b);
}

static void put_whole_event(request *q, const char *type, bool done, buf *out) {
    buf b = { 0 };
    begin_event(q, type, &b);
    buf_str(&b, ",\"response\":");
    put_response(q, done, &b);
    end_event(type, &b, out);
}

static void put_item_event(request *q, const char *type, bool done, buf *out) {
    buf b = { 0 };
    begin_event(q, type, &b);
    buf_str(&b, ",\"output_index\":0,\"item\":");
    put_message(q, !done ? "in_progress" : was_limited(&q->answers[0]) ? "incomplete" : "completed", done, &b);
    end_event(type, &b, out);
}

static void put_part_head(request *q, const char *type, buf *b) {
    begin_event(q, type, b);
    buf_fmt(b, ",\"item_id\":\"msg_%s\",\"output_index\":0,\"content_index\":0", q->id + 4);
}

static void put_part_event(request *q, const char *type, bool done, buf *out) {
    const answer *a = &q->answers[0];
    buf b = { 0 };
    put_part_head(q, type, &b);
    buf_str(&b, ",\"part\":{\"type\":\"output_text\",\"text\":");
    buf_json(&b, done && a->text.p ? a->text.p : "", done ? a->text.n : 0);
    buf_str(&b, ",\"annotations\":[],\"logprobs\":[]}");
    end_event(type, &b, out);
}

static void begin(request *q, buf *out) {
    put_whole_event(q, "response.created", false, out);
    put_whole_event(q, "response.in_progress", false, out);
    put_item_event(q, "response.output_item.added", false, out);
    put_part_event(q, "response.content_part.added", false, out);
}

static void piece(request *q, const job_event *v, buf *out) {
    buf b = { 0 };
    if (!v->n) return;
    put_part_head(q, "response.output_text.delta", &b);
    buf_str(&b, ",\"logprobs\":[],\"delta\":");
    buf_json(&b, v->text, v->n);
    end_event("response.output_text.delta", &b, out);
}

static void end(request *q, buf *out) {
    const answer *a = &q->answers[0];
    const char *last = was_limited(a) ? "response.incomplete" : "response.completed";
    buf b = { 0 };
    put_part_head(q, "response.output_text.done", &b);
    buf_str(&b, ",\"logprobs\":[],\"text\":");
    buf_json(&b, a->text.p ? a->text.p : "", a->text.n);
    end_event("response.output_text.done", &b, out);
    put_part_event(q, "response.content_part.done", true, out);
    put_item_event(q, "response.output_item.done", true, out);
    put_whole_event(q, last, true, out);
}

static void broken(request *q, buf *out) {
    buf b = { 0 };
    begin_event(q, "error", &b);
    buf_fmt(&b, ",\"code\":\"%s\",\"message\":", q->code ? q->code : job_error_name(q->failure.code));
    put_quoted(&b, q->failure.msg);
    buf_str(&b, ",\"param\":null");
    end_event("error", &b, out);
}

static const renderer responses_renderer = { .stream_type = "text/event-stream; charset=utf-8", .begin = begin, .piece = piece, .end = end, .whole = whole, .broken = broken };

int responses_create(request *q) {
    json *messages;
    const json *tools;
    if (request_need(q, F_INPUT, "input")) return -1;
    if (request_flag(q, F_STORE, false)) return request_fail(q, JOB_UNSUPPORTED, "store", "store: nothing is stored: send false or leave it out");
    if (request_model(q) || request_job(q, JOB_GENERATE) || messages_of_items(q, q->v[F_INPUT], request_str(q, F_INSTRUCTIONS, NULL), &messages)) return -1;
    job *j = q->j;
    j->prompts = arena_alloc(&j->mem, sizeof *j->prompts);
    if (!j->prompts) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    j->n_prompts = 1;
    j->turn_end = q->m->turn_end;
    if (messages_tools(q, q->v[F_TOOLS], false, &tools) || structured_take(q) || request_chat(q, messages, tools, true, &j->prompts[0])) return -1;
    if (request_sampling(q, &responses_defaults) || request_context(q)) return -1;
    q->stream = request_flag(q, F_STREAM, false);
    return request_submit(q, &responses_renderer);
}
