/* api_responses: OpenAI's /v1/responses, minimal: thoughts, a message of text, calls of functions; nothing stored. The order
 * of a stream's events is the one that openai-python's accumulator accepts. */
#include <string.h>

#include "tools/serve/api.h"
#include "tools/serve/render.h"

static const sampling_defaults responses_defaults = { .temperature = 1, .top_p = 1, .max_tokens = -1 };

static bool was_limited(const answer *a) { return a->end == END_LENGTH || a->end == END_CONTEXT || a->end == END_DEADLINE; }

/* Items of the output in their order: thoughts, the message, calls. In a stream they get their index when they begin. */
enum { ITEM_NONE, ITEM_THOUGHT, ITEM_MESSAGE, ITEM_CALL };
typedef struct responses_reply {
    int index, open;    /* of the item that is open, or comes next */
    size_t from;        /* of the answer's text: where the open message begins (text may come again behind a call) */
} responses_reply;

static const char *item_status(const request *q) { return was_limited(&q->answers[0]) ? "incomplete" : "completed"; }

static const char *behind(const buf *b, size_t n) { return n < b->n ? b->p + n : ""; }

static void put_text_part(const char *text, size_t n, buf *b) {
    buf_str(b, "{\"type\":\"output_text\",\"text\":");
    buf_json(b, n ? text : "", n);
    buf_str(b, ",\"annotations\":[],\"logprobs\":[]}");
}

static void put_message(const request *q, const char *status, bool with_text, buf *b) {
    const answer *a = &q->answers[0];
    buf_fmt(b, "{\"type\":\"message\",\"id\":\"msg_%s\",\"role\":\"assistant\",\"status\":\"%s\",\"content\":[", q->id + 4, status);
    const responses_reply *o = q->own;
    size_t from = o->open == ITEM_MESSAGE ? o->from : 0;
    if (with_text) put_text_part(behind(&a->text, from), a->text.n - from, b);
    buf_str(b, "]}");
}

static void put_thought(const request *q, bool done, buf *b) {
    const answer *a = &q->answers[0];
    buf_fmt(b, "{\"type\":\"reasoning\",\"id\":\"rs_%s\",\"summary\":[],\"content\":[", q->id + 4);
    if (done) {
        buf_str(b, "{\"type\":\"reasoning_text\",\"text\":");
        buf_json(b, a->reasoning.p, a->reasoning.n);
        buf_byte(b, '}');
    }
    buf_str(b, "]}");
}

static void put_call(const request *q, int i, const char *status, bool done, buf *b) {
    const said_call *c = &q->answers[0].calls[i];
    buf_fmt(b, "{\"type\":\"function_call\",\"id\":\"fc_%s_%d\",\"call_id\":\"%s\",\"name\":", q->id + 4, i, c->id);
    put_quoted(b, c->name);
    buf_str(b, ",\"arguments\":");
    buf_json(b, done && c->arguments.p ? c->arguments.p : "", done ? c->arguments.n : 0);
    buf_fmt(b, ",\"status\":\"%s\"}", status);
}

static void put_items(const request *q, buf *b) {
    const answer *a = &q->answers[0];
    const char *comma = "";
    if (a->reasoning.n) put_thought(q, true, b), comma = ",";
    if (a->text.n || (!a->reasoning.n && !a->n_calls)) {
        buf_str(b, comma);
        put_message(q, item_status(q), true, b);
        comma = ",";
    }
    for (int i = 0; i < a->n_calls; i++, comma = ",") {
        buf_str(b, comma);
        put_call(q, i, item_status(q), true, b);
    }
}

static void put_usage(const request *q, buf *b) {
    int input = count_prompt(q), output = count_answers(q);
    buf_fmt(b, ",\"usage\":{\"input_tokens\":%d,\"input_tokens_details\":{\"cached_tokens\":%d},\"output_tokens\":%d,"
               "\"output_tokens_details\":{\"reasoning_tokens\":%d},\"total_tokens\":%d}", input,
            q->timings.n_cached, output, count_reasoning(q), input + output);
}

static void put_given(const request *q, field_key k, const char *otherwise, buf *b) {
    if (q->v[k]) json_put(b, q->v[k]);
    else buf_str(b, otherwise);
}

static void put_echo(const request *q, buf *b) { /* of the request: tools and how they are chosen */
    const json *format = json_get(q->v[F_TEXT], "format");
    buf_fmt(b, ",\"parallel_tool_calls\":%s,\"tool_choice\":", request_flag(q, F_PARALLEL, true) ? "true" : "false");
    put_given(q, F_TOOL_CHOICE, "\"auto\"", b);
    buf_str(b, ",\"tools\":");
    put_given(q, F_TOOLS, "[]", b);
    buf_str(b, ",\"instructions\":");
    put_given(q, F_INSTRUCTIONS, "null", b);
    buf_str(b, ",\"error\":null,\"metadata\":{},\"store\":false,\"text\":{\"format\":");
    if (format) json_put(b, format);
    else buf_str(b, "{\"type\":\"text\"}");
    buf_byte(b, '}');
}

static void put_response(const request *q, bool done, buf *b) {
    bool cut = done && was_limited(&q->answers[0]);
    buf_fmt(b, "{\"id\":\"resp_%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"incomplete_details\":%s,\"model\":",
            q->id + 4, (long long)q->created,
            !done ? "in_progress" : cut ? "incomplete" : "completed", cut ? "{\"reason\":\"max_output_tokens\"}" : "null");
    put_quoted(b, q->model_name);
    buf_str(b, ",\"output\":[");
    if (done) put_items(q, b);
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

static void put_item(const request *q, int kind, int call, bool done, buf *b) {
    const char *status = done ? item_status(q) : "in_progress";
    if (kind == ITEM_THOUGHT) put_thought(q, done, b);
    else if (kind == ITEM_MESSAGE) put_message(q, status, done, b);
    else put_call(q, call, status, done, b);
}

static void put_item_event(request *q, const char *type, int kind, int call, bool done, buf *out) {
    const responses_reply *o = q->own;
    buf b = { 0 };
    begin_event(q, type, &b);
    buf_fmt(&b, ",\"output_index\":%d,\"item\":", o->index);
    put_item(q, kind, call, done, &b);
    end_event(type, &b, out);
}

static void put_item_head(request *q, const char *type, int kind, int call, buf *b) {
    const responses_reply *o = q->own;
    begin_event(q, type, b);
    if (kind == ITEM_CALL) buf_fmt(b, ",\"item_id\":\"fc_%s_%d\",\"output_index\":%d", q->id + 4, call, o->index);
    else buf_fmt(b, ",\"item_id\":\"%s_%s\",\"output_index\":%d,\"content_index\":0", kind == ITEM_THOUGHT ? "rs" : "msg", q->id + 4, o->index);
}

/* An event of a piece, or of the whole, of an item's text. */
static void put_piece_event(request *q, const char *type, int kind, int call, const char *member, const char *s, size_t n, buf *out) {
    buf b = { 0 };
    put_item_head(q, type, kind, call, &b);
    if (kind == ITEM_MESSAGE) buf_str(&b, ",\"logprobs\":[]");
    buf_fmt(&b, ",\"%s\":", member);
    buf_json(&b, s ? s : "", n);
    if (kind == ITEM_CALL && strcmp(member, "arguments") == 0) {
        buf_str(&b, ",\"name\":");
        put_quoted(&b, q->answers[0].calls[call].name);
    }
    end_event(type, &b, out);
}

static void put_part_event(request *q, const char *type, bool done, buf *out) {
    buf b = { 0 };
    put_item_head(q, type, ITEM_MESSAGE, 0, &b);
    buf_str(&b, ",\"part\":");
    const answer *a = &q->answers[0];
    const responses_reply *o = q->own;
    put_text_part(behind(&a->text, o->from), done ? a->text.n - o->from : 0, &b);
    end_event(type, &b, out);
}

static void close_item(request *q, buf *out) {
    responses_reply *o = q->own;
    const answer *a = &q->answers[0];
    int call = a->n_calls - 1;
    if (o->open == ITEM_NONE) return;
    if (o->open == ITEM_THOUGHT) put_piece_event(q, "response.reasoning_text.done", ITEM_THOUGHT, 0, "text", a->reasoning.p, a->reasoning.n, out);
    if (o->open == ITEM_MESSAGE) {
        put_piece_event(q, "response.output_text.done", ITEM_MESSAGE, 0, "text", behind(&a->text, o->from), a->text.n - o->from, out);
        put_part_event(q, "response.content_part.done", true, out);
    }
    if (o->open == ITEM_CALL)
        put_piece_event(q, "response.function_call_arguments.done", ITEM_CALL, call, "arguments", a->calls[call].arguments.p,
                        a->calls[call].arguments.n, out);
    put_item_event(q, "response.output_item.done", o->open, call, true, out);
    o->open = ITEM_NONE;
    o->index++;
}

static void open_item(request *q, int kind, int call, size_t n_text, buf *out) {
    responses_reply *o = q->own;
    if (o->open == kind && kind != ITEM_CALL) return;
    close_item(q, out);
    o->from = q->answers[0].text.n - n_text;
    put_item_event(q, "response.output_item.added", kind, call, false, out);
    o->open = kind;
    if (kind == ITEM_MESSAGE) put_part_event(q, "response.content_part.added", false, out);
}

static void begin(request *q, buf *out) {
    put_whole_event(q, "response.created", false, out);
    put_whole_event(q, "response.in_progress", false, out);
}

static void piece(request *q, const job_event *v, buf *out) {
    if (!v->n) return;
    open_item(q, ITEM_MESSAGE, 0, v->n, out);
    put_piece_event(q, "response.output_text.delta", ITEM_MESSAGE, 0, "delta", v->text, v->n, out);
}

static void part(request *q, answer *a, const answer_part *p, buf *out) {
    static const struct { int item; const char *delta; } kinds[] = { [PART_TEXT] = { ITEM_MESSAGE, "response.output_text.delta" },
                                                                     [PART_REASONING] = { ITEM_THOUGHT, "response.reasoning_text.delta" },
                                                                     [PART_ARGUMENTS] = { ITEM_CALL, "response.function_call_arguments.delta" } };
    responses_reply *o = q->own;
    (void)a;
    if (p->kind == PART_CALL_END) close_item(q, out);
    else if (p->kind == PART_CALL) open_item(q, ITEM_CALL, p->call, 0, out);
    else {
        if (o->open != kinds[p->kind].item) open_item(q, kinds[p->kind].item, p->call, p->kind == PART_TEXT ? p->n : 0, out);
        put_piece_event(q, kinds[p->kind].delta, kinds[p->kind].item, p->call, "delta", p->s, p->n, out);
    }
}

static void end(request *q, buf *out) {
    responses_reply *o = q->own;
    const char *last = was_limited(&q->answers[0]) ? "response.incomplete" : "response.completed";
    if (o->open == ITEM_NONE && !o->index) open_item(q, ITEM_MESSAGE, 0, 0, out);
    close_item(q, out);
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

static const renderer responses_renderer = { .stream_type = "text/event-stream; charset=utf-8", .begin = begin, .piece = piece,
                                             .part = part, .end = end, .whole = whole, .broken = broken };

int responses_create(request *q) {
    json *messages;
    const json *tools;
    if (request_need(q, F_INPUT, "input")) return -1;
    if (request_flag(q, F_STORE, false)) return request_fail(q, JOB_UNSUPPORTED, "store", "store: nothing is stored: send false or leave it out");
    if (request_model(q) || request_job(q, JOB_GENERATE) || messages_of_items(q, q->v[F_INPUT], request_str(q, F_INSTRUCTIONS, NULL), &messages))
        return -1;
    job *j = q->j;
    if (!(q->own = arena_alloc(&q->mem, sizeof(responses_reply)))) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    j->prompts = arena_alloc(&j->mem, sizeof *j->prompts);
    if (!j->prompts) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    j->n_prompts = 1;
    j->turn_end = q->m->turn_end;
    if (messages_tools(q, q->v[F_TOOLS], false, &tools) || structured_take(q) || request_chat(q, messages, tools, true, &j->prompts[0])) return -1;
    if (request_sampling(q, &responses_defaults) || request_context(q)) return -1;
    q->stream = request_flag(q, F_STREAM, false);
    return request_submit(q, &responses_renderer);
}
