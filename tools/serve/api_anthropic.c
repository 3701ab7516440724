/* api_anthropic: /v1/messages and its count of tokens, minimal: text, thoughts and calls of tools; no pictures. */
#include <stdlib.h>
#include <string.h>

#include "tools/serve/api.h"
#include "tools/serve/render.h"

static const sampling_defaults anthropic_defaults = { .temperature = 1, .top_p = 1, .max_tokens = -1 };

static void put_usage(int input, int output, int cached, buf *b) {
    buf_fmt(b, "\"usage\":{\"input_tokens\":%d,\"output_tokens\":%d,\"cache_read_input_tokens\":%d,\"cache_creation_input_tokens\":0}",
            input - cached, output, cached);
}

typedef struct anthropic_reply {
    int n_prompt, index; /* of the block that is open, or comes next */
    enum { NO_BLOCK, TEXT_BLOCK, THINKING_BLOCK, CALL_BLOCK } open;
} anthropic_reply;

static void put_stop(const answer *a, buf *b) {
    bool word = a->end == END_STOP_STRING;
    bool cut = a->end == END_LENGTH || a->end == END_CONTEXT || a->end == END_DEADLINE;
    const char *reason = ends_with_calls(a) ? "tool_use" : word ? "stop_sequence" : cut ? "max_tokens" : "end_turn";
    buf_fmt(b, "\"stop_reason\":\"%s\",\"stop_sequence\":", reason);
    if (word && a->stop_string) put_quoted(b, a->stop_string);
    else buf_str(b, "null");
}

static void put_head(const request *q, buf *b) {
    buf_fmt(b, "{\"id\":\"msg_%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", q->id + 4);
    put_quoted(b, q->model_name);
}

static void put_call_head(const said_call *c, buf *b) {
    buf_fmt(b, "{\"type\":\"tool_use\",\"id\":\"%s\",\"name\":", c->id);
    put_quoted(b, c->name);
    buf_str(b, ",\"input\":");
}

/* Thoughts, text, calls: input is an object, so a call that was cut is left out (a warning says so). */
static void put_blocks(const answer *a, buf *b) {
    const char *comma = "";
    if (a->reasoning.n) {
        buf_str(b, "{\"type\":\"thinking\",\"thinking\":");
        buf_json(b, a->reasoning.p, a->reasoning.n);
        buf_str(b, ",\"signature\":\"\"}");
        comma = ",";
    }
    if (a->text.n || (!a->reasoning.n && !a->n_calls)) {
        buf_fmt(b, "%s{\"type\":\"text\",\"text\":", comma);
        buf_json(b, a->text.p ? a->text.p : "", a->text.n);
        buf_byte(b, '}');
        comma = ",";
    }
    for (int i = 0; i < a->n_calls - a->reader.cut; i++) {
        buf_str(b, comma);
        put_call_head(&a->calls[i], b);
        buf_add(b, a->calls[i].arguments.p, a->calls[i].arguments.n);
        buf_byte(b, '}');
        comma = ",";
    }
}

static void whole(request *q, buf *b) {
    const answer *a = &q->answers[0];
    put_head(q, b);
    buf_str(b, ",\"content\":[");
    put_blocks(a, b);
    buf_str(b, "],");
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
    const anthropic_reply *o = q->own;
    buf b = { 0 };
    buf_str(&b, "{\"type\":\"message_start\",\"message\":");
    put_head(q, &b);
    buf_str(&b, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,");
    put_usage(o->n_prompt, 0, 0, &b);
    buf_str(&b, "}}");
    put_event("message_start", &b, out);
    buf_str(&b, "{\"type\":\"ping\"}");
    put_event("ping", &b, out);
}

static void close_block(anthropic_reply *o, buf *out) {
    buf b = { 0 };
    if (o->open == NO_BLOCK) return;
    buf_fmt(&b, "{\"type\":\"content_block_stop\",\"index\":%d}", o->index++);
    put_event("content_block_stop", &b, out);
    o->open = NO_BLOCK;
}

static void open_block(anthropic_reply *o, int kind, const said_call *c, buf *out) {
    buf b = { 0 };
    if (o->open == (unsigned)kind && !c) return;
    close_block(o, out);
    buf_fmt(&b, "{\"type\":\"content_block_start\",\"index\":%d,\"content_block\":", o->index);
    if (c) put_call_head(c, &b);
    buf_str(&b, c ? "{}}}" : kind == TEXT_BLOCK ? "{\"type\":\"text\",\"text\":\"\"}}"
                  : "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}");
    put_event("content_block_start", &b, out);
    o->open = kind == TEXT_BLOCK ? TEXT_BLOCK : kind == CALL_BLOCK ? CALL_BLOCK : THINKING_BLOCK;
}

static void put_delta(const anthropic_reply *o, const char *s, size_t n, buf *out) {
    static const char *const types[][2] = { [TEXT_BLOCK] = { "text_delta", "text" }, [THINKING_BLOCK] = { "thinking_delta", "thinking" },
                                            [CALL_BLOCK] = { "input_json_delta", "partial_json" } };
    buf b = { 0 };
    buf_fmt(&b, "{\"type\":\"content_block_delta\",\"index\":%d,\"delta\":{\"type\":\"%s\",\"%s\":", o->index, types[o->open][0], types[o->open][1]);
    buf_json(&b, s, n);
    buf_str(&b, "}}");
    put_event("content_block_delta", &b, out);
}

static void piece(request *q, const job_event *v, buf *out) {
    if (!v->n) return;
    open_block(q->own, TEXT_BLOCK, NULL, out);
    put_delta(q->own, v->text, v->n, out);
}

static void part(request *q, answer *a, const answer_part *p, buf *out) {
    anthropic_reply *o = q->own;
    if (p->kind == PART_CALL_END) {
        close_block(o, out);
        return;
    }
    if (p->kind == PART_CALL) open_block(o, CALL_BLOCK, &a->calls[p->call], out);
    else {
        if (p->kind != PART_ARGUMENTS) open_block(o, p->kind == PART_TEXT ? TEXT_BLOCK : THINKING_BLOCK, NULL, out);
        put_delta(o, p->s, p->n, out);
    }
}

static void end(request *q, buf *out) {
    anthropic_reply *o = q->own;
    buf b = { 0 };
    if (o->open == NO_BLOCK && !o->index) open_block(o, TEXT_BLOCK, NULL, out);
    close_block(o, out);
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

static const renderer anthropic_renderer = { .stream_type = "text/event-stream; charset=utf-8", .begin = begin, .piece = piece,
                                             .part = part, .end = end, .whole = whole, .broken = broken };

/* ---- requests ---- */

static int rendered(request *q, ids *out) {
    json *messages;
    const json *tools;
    const json *in = q->v[F_MESSAGES], *last = in ? in->child : NULL;
    while (last && last->next) last = last->next;
    if (json_is(json_get(last, "role"), "assistant"))
        request_warn(q, "messages: the last one is the assistant's: it is shown as a turn of its own, the answer does not continue it");
    if (messages_normalise(q, &(conversation_in){ .messages = in, .system = q->v[F_SYSTEM], .anthropic = true }, &messages)) return -1;
    return messages_tools(q, q->v[F_TOOLS], true, &tools) || request_chat(q, messages, tools, true, out) ? -1 : 0;
}

int anthropic_messages(request *q) {
    if (request_need(q, F_MESSAGES, "messages") || request_need(q, F_MAX_TOKENS, "max_tokens") || request_model(q) || request_job(q, JOB_GENERATE))
        return -1;
    job *j = q->j;
    anthropic_reply *o = arena_alloc(&q->mem, sizeof *o);
    j->prompts = arena_alloc(&j->mem, sizeof *j->prompts);
    if (!o || !j->prompts) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    j->n_prompts = 1;
    j->turn_end = q->m->turn_end;
    if (rendered(q, &j->prompts[0]) || request_sampling(q, &anthropic_defaults) || request_context(q)) return -1;
    o->n_prompt = (int)j->prompts[0].n;
    q->own = o;
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
