/* log: one line a request, written at once so that lines of many threads do not mix. No prompt and no answer ever stands in it. */
#define _GNU_SOURCE
#include "tools/serve/log.h"

#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/serve/render.h"

static void write_line(buf *b) {
    buf_byte(b, '\n');
    if (!b->failed && write(2, b->p, b->n) < 0) return; /* nobody reads the log: nothing to be done about it */
}

static void put_now(buf *b) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    buf line = { 0 };
    put_time(&line, t.tv_sec, t.tv_nsec);
    if (!line.failed) buf_add(b, line.p + 1, line.n - 2); /* without its quotes */
    buf_free(&line);
}

static void json_line(const request *q, int status, size_t bytes, buf *b) {
    const job_timings *t = &q->timings;
    buf_str(b, "{\"time\":\"");
    put_now(b);
    buf_str(b, "\",\"id\":");
    put_quoted(b, q->id);
    buf_str(b, ",\"peer\":");
    put_quoted(b, q->h->peer ? q->h->peer : "");
    buf_str(b, ",\"client\":");
    put_quoted(b, q->client);
    buf_str(b, ",\"method\":");
    put_quoted(b, q->h->method);
    buf_str(b, ",\"path\":");
    put_quoted(b, q->h->path);
    buf_str(b, ",\"model\":");
    put_quoted(b, q->model_name);
    buf_fmt(b, ",\"status\":%d,\"seconds\":%.6f,\"bytes\":%zu,\"stream\":%s", status, now_seconds() - q->h->arrived,
            bytes, q->begun ? "true" : "false");
    buf_fmt(b, ",\"prompt_tokens\":%d,\"cached_tokens\":%d,\"completion_tokens\":%d,\"queue_seconds\":%.6f,\"first_token_seconds\":%.6f",
            count_prompt(q), t->n_cached, t->n_decoded, t->queued, t->first_token);
    if (q->n_answers) buf_fmt(b, ",\"end\":\"%s\"", end_name(q->answers[0].end));
    if (q->failure.code) {
        buf_fmt(b, ",\"error\":\"%s\",\"phase\":\"%s\",\"message\":", q->code ? q->code : job_error_name(q->failure.code),
                q->failure.phase ? q->failure.phase : "");
        put_quoted(b, q->failure.msg);
    }
    buf_byte(b, '}');
}

/* A client chooses its path and model name: no control character of them reaches a terminal. */
static void put_plain(buf *b, const char *s) {
    for (; *s; s++) buf_byte(b, (unsigned char)*s < ' ' || *s == 127 ? '?' : *s);
}

static void text_line(const request *q, int status, buf *b) {
    const job_timings *t = &q->timings;
    put_now(b);
    buf_fmt(b, " %s %s ", q->id, q->client[0] ? q->client : "-");
    if (q->h->peer && strcmp(q->client, q->h->peer)) buf_fmt(b, "by %s ", q->h->peer);
    buf_fmt(b, "%s ", q->h->method);
    put_plain(b, q->h->path);
    buf_fmt(b, " %d %.1f ms", status, (now_seconds() - q->h->arrived) * 1e3);
    if (q->model_name[0]) {
        buf_str(b, " model ");
        put_plain(b, q->model_name);
    }
    if (count_prompt(q)) buf_fmt(b, " prompt %d (%d cached) answer %d", count_prompt(q), t->n_cached, t->n_decoded);
    if (q->n_answers && !q->failure.code) buf_fmt(b, " %s", end_name(q->answers[0].end));
    if (t->n_decoded > 1 && t->decode > 0) buf_fmt(b, " %.1f tok/s", (t->n_decoded - 1) / t->decode);
    if (q->failure.code) {
        buf_fmt(b, " %s: ", q->code ? q->code : job_error_name(q->failure.code));
        put_plain(b, q->failure.msg);
    }
}

void log_request(const request *q, int status, size_t bytes) {
    buf b = { 0 };
    if (q->s->quiet) return;
    if (q->s->log_json) json_line(q, status, bytes, &b);
    else text_line(q, status, &b);
    write_line(&b);
    buf_free(&b);
}

void log_line(const server *s, const char *fmt, ...) {
    char text[1024];
    buf b = { 0 };
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (s->log_json) {
        buf_str(&b, "{\"time\":\"");
        put_now(&b);
        buf_str(&b, "\",\"message\":");
        put_quoted(&b, text);
        buf_byte(&b, '}');
    } else buf_fmt(&b, "serve: %s", text);
    write_line(&b);
    buf_free(&b);
}
