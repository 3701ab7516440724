/* serve_events: what a reply's body means in the dialects of OpenAI and Ollama: events of a stream (server-sent events, or a JSON
 * object a line), or one object. It takes the text, the server's own counts and the end, and finds errors and missing ends, which
 * clients of these APIs do not notice by themselves. It knows nothing of HTTP and time. */
#include <string.h>

#include "bench/serve.h"

enum { MOST_EVENT = 4 << 20, MOST_BODY = 64 << 20, MOST_ERROR = 8 << 10 };

static const char *text_of(const json *object, const char *key, size_t *n) {
    const json *j = json_get(object, key);
    if (!j || j->type != JSON_STRING) return NULL;
    *n = j->n;
    return j->s;
}

/* The text of an answer, its reasoning and tool calls; whether there is any of it. */
static bool take_text(reply *r, const json *j) {
    static const char *const keys[] = { "content", "text", "response", "reasoning_content", "reasoning", "thinking", "refusal" };
    bool any = false;
    size_t n = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *s = text_of(j, keys[i], &n);
        if (!s || !n) continue;
        any = true;
        if (i < 3) buf_add(&r->text, s, n); /* only the answer itself goes back into a conversation */
    }
    const json *calls = json_get(j, "tool_calls");
    return any || (calls && calls->type == JSON_ARRAY && calls->n);
}

static void take_reason(reply *r, const json *object, const char *key) {
    size_t n;
    const char *s = text_of(object, key, &n);
    if (s) snprintf(r->reason, sizeof r->reason, "%s", s);
}

static void take_openai(reply *r, const json *j) {
    const json *choices = json_get(j, "choices"), *usage = json_get(j, "usage");
    const json *choice = choices && choices->type == JSON_ARRAY ? choices->child : NULL;
    const json *part = r->api == API_COMPLETIONS ? choice : json_get(choice, r->stream ? "delta" : "message");
    if (!choices || choices->type != JSON_ARRAY) {
        reply_fail(r, LOAD_BROKEN, "choices: expected an array, found %s", json_type_name(choices));
        return;
    }
    if (take_text(r, part)) r->pieces++;
    take_reason(r, choice, "finish_reason");
    json_int(json_get(usage, "completion_tokens"), &r->tokens);
    json_int(json_get(usage, "prompt_tokens"), &r->prompt_tokens);
    json_int(json_get(json_get(usage, "prompt_tokens_details"), "cached_tokens"), &r->cached);
    if (!r->stream && !part) reply_fail(r, LOAD_BROKEN, "choices: no answer in them");
    else if (!r->stream) r->done = true;
}

static void take_ollama(reply *r, const json *j) {
    const json *done = json_get(j, "done"), *message = json_get(j, "message");
    if (r->api == API_OLLAMA_CHAT && (!message || message->type != JSON_OBJECT))
        reply_fail(r, LOAD_BROKEN, "message: expected an object, found %s", json_type_name(message));
    else if (r->done) reply_fail(r, LOAD_BROKEN, "a line after the one that says \"done\": true");
    else if (!done || (done->type != JSON_TRUE && done->type != JSON_FALSE)) reply_fail(r, LOAD_BROKEN,
            "done: expected true or false, found %s", json_type_name(done));
    if (r->kind) return;
    if (take_text(r, r->api == API_OLLAMA_CHAT ? message : j)) r->pieces++;
    r->done = done->type == JSON_TRUE;
    if (!r->done) return;
    take_reason(r, j, "done_reason");
    json_int(json_get(j, "eval_count"), &r->tokens);
    json_int(json_get(j, "prompt_eval_count"), &r->prompt_tokens);
}

/* {"error": "..."} of Ollama, {"error": {"message": ...}} of the others; NULL: none. */
static const char *error_of(const json *j) {
    const json *error = json_get(j, "error"), *message = json_get(error, "message");
    if (!error || error->type == JSON_NULL) return NULL;
    if (message && message->type == JSON_STRING) return message->s;
    return error->type == JSON_STRING ? error->s : "an error without a message";
}

static void take_event(reply *r, const char *p, size_t n) {
    arena a = { 0 };
    json *j;
    err e = { 0 };
    const char *error;
    if (json_parse(&a, p, n, &j, &e) || j->type != JSON_OBJECT) reply_fail(r, LOAD_BROKEN, "expected a JSON object, found \"%.60s\"", n ? p : "");
    else if ((error = error_of(j)) != NULL) reply_fail(r, LOAD_STREAM, "%s", error);
    else if (r->api < API_OLLAMA_CHAT) take_openai(r, j);
    else take_ollama(r, j);
    arena_free(&a);
}

/* A line of server-sent events; an empty one ends an event. */
static void sse_line(reply *r, const char *s, size_t n) {
    buf *data = &r->event_data;
    if (n >= 5 && !memcmp(s, "data:", 5)) {
        size_t skip = n > 5 && s[5] == ' ' ? 6 : 5;
        if (data->n) buf_byte(data, '\n');
        buf_add(data, s + skip, n - skip);
    }
    if (n || !data->n || data->failed) return;
    buf_byte(data, 0);
    if (!strncmp(data->p, "[DONE]", 6)) r->done = true;
    else if (!r->done) take_event(r, data->p, data->n - 1); /* behind [DONE] clients read no further */
    data->n = 0;
}

static void stream_line(reply *r) {
    buf *line = &r->event_line;
    size_t n = line->n;
    if (n && line->p[n - 1] == '\r') n--;
    line->n = n;
    buf_byte(line, 0);
    if (line->failed) reply_fail(r, LOAD_BROKEN, "out of memory");
    else if (r->api < API_OLLAMA_CHAT) sse_line(r, line->p, n);
    else if (!n) reply_fail(r, LOAD_BROKEN, "an empty line, which ollama-python does not bear");
    else take_event(r, line->p, n);
    line->n = 0;
}

void reply_body(reply *r, const char *p, size_t n) {
    bool good = r->status < 300;
    if (!r->stream || !good) {
        size_t most = good ? MOST_BODY : MOST_ERROR;
        if (r->body.n + n > most && good) reply_fail(r, LOAD_BROKEN, "a reply of more than %d bytes", MOST_BODY);
        buf_add(&r->body, p, n < most - r->body.n ? n : most - r->body.n);
        return;
    }
    while (n && !r->kind) {
        const char *lf = memchr(p, '\n', n);
        size_t used = lf ? (size_t)(lf - p) : n;
        buf_add(&r->event_line, p, used);
        if (r->event_line.n + r->event_data.n > MOST_EVENT) reply_fail(r, LOAD_BROKEN, "an event of more than %d bytes", MOST_EVENT);
        if (lf) stream_line(r);
        used += lf != NULL;
        p += used;
        n -= used;
    }
}

static void refused(reply *r) {
    arena a = { 0 };
    json *j = NULL;
    err e = { 0 };
    const char *text = NULL;
    if (r->body.p && !json_parse(&a, r->body.p, r->body.n, &j, &e)) text = error_of(j);
    reply_fail(r, LOAD_STATUS, "%d: %.*s", r->status, text ? 200 : (int)(r->body.n < 200 ? r->body.n : 200),
            text ? text : r->body.p ? r->body.p : "");
    arena_free(&a);
}

void reply_end(reply *r) {
    if (r->kind) return;
    if (r->status >= 300) {
        bool close = r->close; /* the reply itself is whole: the connection can go on */
        refused(r);
        r->close = close;
        return;
    }
    if (r->raw) return;
    if (!r->stream) {
        take_event(r, r->body.p, r->body.n);
        if (!r->kind && !r->done) reply_fail(r, LOAD_TRUNCATED, "a whole reply that says \"done\": false");
        return;
    }
    if (r->event_line.n && r->api >= API_OLLAMA_CHAT) stream_line(r); /* the last line may lack its end */
    if (!r->done) reply_fail(r, LOAD_TRUNCATED, "the stream ended without %s, after %d pieces of text",
            r->api < API_OLLAMA_CHAT ? "[DONE]" : "\"done\": true", r->pieces);
}
