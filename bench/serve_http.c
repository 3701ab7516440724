/* serve_http: reads an HTTP/1.1 reply from bytes that come in pieces of any size: status, headers, a body that is chunked, of a
 * given length, or ends with the connection. It knows nothing of sockets and clocks, and nothing of what the body means
 * (serve_events.c). What a well-made server would not send is an error here, not something to be forgiven: this program exists to
 * notice it. RFC 9112. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bench/serve.h"

enum { CHUNK_SIZE, CHUNK_DATA, CHUNK_END, CHUNK_TRAILER };
enum { MOST_HEAD = 64 << 10, MOST_LINE = 16 << 10 };

void reply_begin(reply *r, api_kind api, bool stream) {
    *r = (reply){ .api = api, .stream = stream, .length = -1, .tokens = -1, .prompt_tokens = -1, .cached = -1 };
}

void reply_free(reply *r) {
    buf_free(&r->line);
    buf_free(&r->body);
    buf_free(&r->event_line);
    buf_free(&r->event_data);
    buf_free(&r->text);
}

void reply_fail(reply *r, load_kind kind, const char *fmt, ...) {
    va_list args;
    if (r->kind) return;
    r->kind = kind;
    r->close = true;
    va_start(args, fmt);
    vsnprintf(r->message, sizeof r->message, fmt, args);
    va_end(args);
}

static bool has_word(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *p = list; *p;) {
        p += strspn(p, ", \t");
        size_t m = strcspn(p, ", \t;");
        if (m == n && !strncasecmp(p, word, n)) return true;
        p += strcspn(p, ",");
    }
    return false;
}

static void status_line(reply *r, const char *s) {
    if (strncmp(s, "HTTP/1.", 7) || (s[7] != '0' && s[7] != '1') || s[8] != ' ') {
        reply_fail(r, LOAD_BROKEN, "expected \"HTTP/1.1 STATUS\", found \"%.60s\"", s);
        return;
    }
    char *end;
    long status = strtol(s + 9, &end, 10);
    if (end != s + 12 || status < 100 || status >= MOST_STATUS) reply_fail(r, LOAD_BROKEN, "expected a status of three digits, found \"%.60s\"", s);
    else r->status = (int)status;
    r->close = s[7] == '0';
}

static void header(reply *r, char *s) {
    char *colon = strchr(s, ':'), *end;
    if (!colon) {
        reply_fail(r, LOAD_BROKEN, "a header without a colon: \"%.60s\"", s);
        return;
    }
    *colon = 0;
    const char *value = colon + 1 + strspn(colon + 1, " \t");
    if (!strcasecmp(s, "Content-Length")) {
        r->length = strtoll(value, &end, 10);
        if (end == value || *end || r->length < 0) reply_fail(r, LOAD_BROKEN, "Content-Length: expected a number, found \"%.60s\"", value);
    } else if (!strcasecmp(s, "Transfer-Encoding")) {
        r->chunked = has_word(value, "chunked");
    } else if (!strcasecmp(s, "Connection")) {
        r->close = has_word(value, "close") || (r->close && !has_word(value, "keep-alive"));
    } else if (!strcasecmp(s, "Content-Type")) {
        r->typed = !strncasecmp(value, r->api < API_OLLAMA_CHAT ? "text/event-stream" : "application/x-ndjson", 17);
    }
}

static void finish(reply *r) {
    r->complete = true;
    reply_end(r);
}

static void head_end(reply *r) {
    if (r->status < 200) { /* 100 Continue: the reply itself is to come */
        r->status = 0;
        return;
    }
    r->head_done = true;
    if (r->status < 300 && r->stream && !r->typed)
        reply_fail(r, LOAD_BROKEN, "a stream was asked for, the reply is of another type");
    else if (r->status == 204 || r->status == 304 || (!r->chunked && r->length == 0)) finish(r);
    else r->left = r->chunked ? 0 : r->length;
}

/* One line without its end. Chunk extensions and trailers are read over. */
static void take_line(reply *r, char *s) {
    if (!r->head_done) {
        if (!r->status) status_line(r, s);
        else if (*s) header(r, s);
        else head_end(r);
    } else if (r->chunk_state == CHUNK_SIZE) {
        char *end;
        unsigned long long size = strtoull(s, &end, 16);
        if (end == s || size > 1ull << 40 || (*end && *end != ';' && *end != ' ')) reply_fail(r, LOAD_BROKEN,
                "expected the size of a chunk, found \"%.60s\"", s);
        r->left = (int64_t)size;
        r->chunk_state = size ? CHUNK_DATA : CHUNK_TRAILER;
    } else if (r->chunk_state == CHUNK_END) {
        if (*s) reply_fail(r, LOAD_BROKEN, "a chunk is longer than its size says");
        r->chunk_state = CHUNK_SIZE;
    } else if (!*s) {
        finish(r);
    }
}

/* Bytes up to a line's end. Returns how many were used. */
static size_t feed_line(reply *r, const char *p, size_t n) {
    const char *lf = memchr(p, '\n', n);
    size_t used = lf ? (size_t)(lf - p) + 1 : n;
    buf_add(&r->line, p, used);
    if (!r->head_done) r->head_bytes += used;
    if (r->line.n > MOST_LINE || r->head_bytes > MOST_HEAD) reply_fail(r, LOAD_BROKEN, "a head of the reply that does not end");
    if (!lf || r->kind) return used;
    size_t end = r->line.n - 1;
    if (end && r->line.p[end - 1] == '\r') end--;
    if (r->line.failed) reply_fail(r, LOAD_BROKEN, "out of memory");
    else r->line.p[end] = 0;
    r->line.n = 0;
    if (!r->kind) take_line(r, r->line.p);
    return used;
}

static size_t feed_body(reply *r, const char *p, size_t n) {
    bool to_close = !r->chunked && r->length < 0;
    size_t used = to_close || (int64_t)n < r->left ? n : (size_t)r->left;
    reply_body(r, p, used);
    if (to_close) return used;
    r->left -= (int64_t)used;
    if (!r->left && r->chunked) r->chunk_state = CHUNK_END;
    else if (!r->left) finish(r);
    return used;
}

void reply_feed(reply *r, const char *p, size_t n) {
    while (n && !r->kind && !r->complete) {
        bool line = !r->head_done || (r->chunked && r->chunk_state != CHUNK_DATA);
        size_t used = line ? feed_line(r, p, n) : feed_body(r, p, n);
        p += used;
        n -= used;
    }
    if (n) r->close = true; /* more than was asked for: no request may follow on this connection */
}

void reply_closed(reply *r) {
    if (r->complete || r->kind) return;
    if (!r->status && !r->line.n) reply_fail(r, LOAD_CLOSED, "the connection was closed before a reply");
    else if (r->head_done && !r->chunked && r->length < 0) finish(r);
    else reply_fail(r, LOAD_TRUNCATED, "the connection was closed within the reply, after %d pieces of text", r->pieces);
    r->close = true;
}
