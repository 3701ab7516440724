/* bench/serve against a server of the test's own, whose model names say what it does: streams in odd pieces, errors of every kind,
 * slowness that is known. A figure that the server can count itself must be the one that is reported. And the reading of replies by
 * itself, cut at every byte. */
#define _GNU_SOURCE
#include <ctype.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include "bench/serve.h"
#include "tests/models.h"

/* ---- a server ---- */

static int port, listener;
static atomic_int connections, requests, bad_requests, fewest_words, most_words, turns_seen[8], failures_due;
static atomic_ullong bodies; /* sum of hashes: whatever the order */

#define ANSWER "Zwei \"Bücher\"\n<tab>\t." /* what the good models say, in these pieces */
static const char *const pieces[] = { "Zwei", " \\\"B", "ü", "cher\\\"\\n", "<tab>\\t." };
enum { PIECES = 5, TOKENS = 7, PROMPT = 321, CACHED = 3 };

typedef struct peer {
    int fd, served;
    buf in;
    char path[64], model[64];
    json *body;
    arena a;
    const char *head;
} peer;

/* All of it, in pieces whose size the text decides: mostly one to five bytes a packet. */
static void say(peer *c, const char *s, size_t n) {
    size_t take = 1;
    for (size_t i = 0; i < n; i += take) {
        take = 1 + (size_t)(unsigned char)s[i] % 5;
        if (n > 600) take = 100;
        if (take > n - i) take = n - i;
        if (send(c->fd, s + i, take, MSG_NOSIGNAL) < 0) return;
    }
}

static void say_text(peer *c, const char *s) { say(c, s, strlen(s)); }

/* Chunks that end anywhere, also in a character; with an extension now and then. */
static void chunks(peer *c, const char *s) {
    buf b = { 0 };
    size_t n = strlen(s), take;
    for (size_t i = 0; i < n; i += take) {
        take = 1 + (i * 7 + n) % 23;
        if (take > n - i) take = n - i;
        buf_fmt(&b, "%zX%s\r\n", take, i % 3 ? "" : ";x=1");
        buf_add(&b, s + i, take);
        buf_str(&b, "\r\n");
    }
    say(c, b.p, b.n);
    buf_free(&b);
}

static bool is_ollama(const peer *c) { return strncmp(c->path, "/api/", 5) == 0; }

static void head(peer *c, const char *more) {
    char text[300];
    snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nDate: x\r\ncontent-type:  %s\r\n%s\r\n", is_ollama(c)
            ? "application/x-ndjson; charset=utf-8" : "text/event-stream; charset=utf-8", more);
    say_text(c, text);
}

static void event(peer *c, buf *b, const char *piece) {
    if (strcmp(c->path, "/v1/chat/completions") == 0)
        buf_fmt(b, ": a comment\r\nevent: message\r\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},\r\ndata: "
                "\"finish_reason\":null}],\"usage\":null}\r\n\r\n", piece);
    else if (strcmp(c->path, "/v1/completions") == 0) buf_fmt(b, "data:{\"choices\":[{\"text\":\"%s\"}]}\n\n", piece);
    else if (strcmp(c->path, "/api/chat") == 0) buf_fmt(b,
            "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"done\":false}\n", piece);
    else buf_fmt(b, "{\"model\":\"m\",\"response\":\"%s\",\"done\":false}\r\n", piece);
}

static void last_event(peer *c, buf *b) {
    if (!is_ollama(c))
        buf_fmt(b, "data: {\"choices\":[{\"delta\":{},\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\n"
                   "data: {\"choices\":[],\"usage\":{\"completion_tokens\":%d,\"prompt_tokens\":%d,"
                           "\"prompt_tokens_details\":{\"cached_tokens\":%d}}}\n\ndata: [DONE]\n\n", TOKENS, PROMPT, CACHED);
    else buf_fmt(b, "{\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"response\":\"\",\"done\":true,\"done_reason\":\"length\","
            "\"prompt_eval_count\":%d,\"eval_count\":%d}\n", PROMPT, TOKENS);
}

/* A whole good stream; pause: milliseconds before each piece. */
static void stream(peer *c, int pause) {
    buf b = { 0 };
    head(c, "Transfer-Encoding: chunked\r\n");
    for (int i = 0; i < PIECES; i++) {
        b.n = 0;
        if (pause) usleep((useconds_t)pause * 1000);
        event(c, &b, pieces[i]);
        buf_byte(&b, 0);
        chunks(c, b.p);
    }
    b.n = 0;
    last_event(c, &b);
    buf_byte(&b, 0);
    chunks(c, b.p);
    say_text(c, "0\r\nTrailer: x\r\n\r\n");
    buf_free(&b);
}

static void whole(peer *c) {
    char body[600], text[800];
    if (!is_ollama(c))
        snprintf(body, sizeof body, "{\"choices\":[{\"text\":\"one\",\"message\":{\"content\":\"one\"},\"finish_reason\":\"length\"}],"
                "\"usage\":{\"completion_tokens\":%d,\"prompt_tokens\":%d}}", TOKENS, PROMPT);
    else snprintf(body, sizeof body,
            "{\"message\":{\"content\":\"one\"},\"response\":\"one\",\"done\":true,\"done_reason\":\"stop\",\"eval_count\":%d}", TOKENS);
    snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    say_text(c, text);
}

static void start_stream(peer *c) { /* one piece, and no end */
    buf b = { 0 };
    head(c, "Transfer-Encoding: chunked\r\n");
    event(c, &b, "One");
    buf_byte(&b, 0);
    chunks(c, b.p);
    buf_free(&b);
}

static void failing(peer *c) {
    const char *m = c->model;
    if (!strcmp(m, "status")) say_text(c,
            "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 48\r\n\r\n{\"error\":{\"message\":\"queue full\",\"code\":\"busy\"}}");
    else if (!strcmp(m, "teapot")) say_text(c, "HTTP/1.1 418 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nshi\r\n0\r\n\r\n");
    else if (!strcmp(m, "error")) start_stream(c), chunks(c, is_ollama(c) ? "{\"error\":\"out of luck\"}\n"
            : "data: {\"error\":{\"message\":\"out of luck\"}}\n\ndata: [DONE]\n\n"), say_text(c, "0\r\n\r\n");
    else if (!strcmp(m, "no-end")) start_stream(c), say_text(c, "0\r\n\r\n");
    else if (!strcmp(m, "cut")) start_stream(c), say_text(c, "40\r\ndata: {");
    else if (!strcmp(m, "cut-head")) say_text(c, "HTTP/1.1 200 OK\r\nConte");
    else if (!strcmp(m, "silent")) sleep(2);
    else if (!strcmp(m, "stuck")) start_stream(c), sleep(2);
    else if (!strcmp(m, "no-http")) say_text(c, "SSH-2.0-x\r\n\r\n");
    else if (!strcmp(m, "bad-chunk")) start_stream(c), say_text(c, "xyz\r\n");
    else if (!strcmp(m, "bad-json")) start_stream(c), chunks(c, is_ollama(c) ? "{\"done\":fals}\n" : "data: {\"choices\":[}\n\n"),
            say_text(c, "0\r\n\r\n");
    else if (!strcmp(m, "no-choices")) start_stream(c), chunks(c, is_ollama(c) ? "{\"x\":1}\n" : "data: {\"x\":1}\n\n"), say_text(c, "0\r\n\r\n");
    else if (!strcmp(m, "blank")) start_stream(c), chunks(c, "\n"), say_text(c, "0\r\n\r\n");
    else if (!strcmp(m, "html")) say_text(c, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\n<p>");
}

static int count_words(const char *s) {
    int n = 0;
    for (bool in = false; *s; s++) {
        bool letter = isalpha((unsigned char)*s) != 0;
        n += letter && !in;
        in = letter;
    }
    return n;
}

static void mark(atomic_int *a, int v, bool most) {
    for (int old = *a; (most ? v > old : v < old) && !atomic_compare_exchange_weak(a, &old, v);) continue;
}

/* Notes the last user's turn, and whether the conversation is what was really said. */
static void check_prompt(peer *c) {
    const json *messages = json_get(c->body, "messages"), *prompt = json_get(c->body, "prompt"), *m = messages ? messages->child : NULL;
    int turn = 0;
    for (; m && m->next; m = m->next->next, turn++)
        if (!json_is(json_get(m, "role"), "user") || !json_is(json_get(m->next, "role"), "assistant") || !json_is(json_get(m->next,
                "content"), ANSWER)) bad_requests++;
    if (m) prompt = json_get(m, "content");
    if (!prompt || prompt->type != JSON_STRING || (messages && !m)) bad_requests++;
    else if (messages) atomic_fetch_add(&turns_seen[min_int(turn, 7)], 1);
    if (!prompt || turn) return;
    mark(&fewest_words, count_words(prompt->s), false);
    mark(&most_words, count_words(prompt->s), true);
}

static void models(peer *c) {
    bool key = strstr(c->head, "Authorization: Bearer secret\r\n") != NULL;
    const char *body = is_ollama(c) ? "{\"models\":[{\"name\":\"good\"},{\"name\":\"x\"}]}" : "{\"data\":[{\"id\":\"good\"}]}";
    char text[300];
    snprintf(text, sizeof text, "HTTP/1.1 %s\r\nConnection: close\r\n\r\n%s", key ? "200 OK" : "401 No", key ? body
            : "{\"error\":{\"message\":\"a key is needed\"}}");
    say_text(c, text);
}

/* Returns whether the connection goes on. */
static bool answer(peer *c) {
    const char *m = c->model;
    const json *streamed = json_get(c->body, "stream");
    if (!strcmp(c->path, "/v1/models") || !strcmp(c->path, "/api/tags")) return models(c), false;
    requests++;
    bodies += hash_bytes(c->in.p, c->in.n);
    check_prompt(c);
    if (!strcmp(m, "second-closes") && c->served) return false;
    if (!strcmp(m, "closes")) return false;
    if (!strcmp(m, "one-of-three") && atomic_fetch_add(&failures_due, 1) % 3 == 0) return false;
    if (!strncmp(m, "slow", 4)) stream(c, atoi(m + 4));
    else if (!strcmp(m, "to-close")) head(c, "Connection: close\r\n"), say_text(c,
            "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\ndata: [DONE]\n\n");
    else if (!strcmp(m, "continue")) say_text(c, "HTTP/1.1 100 Continue\r\n\r\n"), stream(c, 0);
    else if (!strcmp(m, "seven")) (json_get(c->body, "max_tokens") && json_get(c->body, "ignore_eos") && strstr(strstr(c->in.p,
            "max_tokens") + 1, "max_tokens") == NULL) ? stream(c, 0) : (void)0;
    else if (strcmp(m, "good") && strcmp(m, "second-closes") && strcmp(m, "one-of-three") && strcmp(m, "<&\"good")) failing(c);
    else if (streamed && streamed->type == JSON_FALSE) whole(c);
    else stream(c, 0);
    return strcmp(m, "to-close") && (!strcmp(m, "good") || !strcmp(m, "second-closes") || !strncmp(m, "slow", 4) || !strcmp(m, "status"));
}

/* One request into c->in, NUL behind it; false: the client closed. */
static bool hear(peer *c) {
    char piece[4096], *end = NULL;
    size_t need = 0;
    const char *length;
    c->in.n = 0;
    while (!end || c->in.n < need) {
        ssize_t n = recv(c->fd, piece, sizeof piece, 0);
        if (n <= 0) return false;
        buf_add(&c->in, piece, (size_t)n);
        buf_byte(&c->in, 0);
        c->in.n--;
        if (!end && (end = strstr(c->in.p, "\r\n\r\n")) != NULL) need = (size_t)(end - c->in.p) + 4 + (size_t)((length = strstr(c->in.p,
                "Content-Length: ")) ? atoi(length + 16) : 0);
        if (end) end = strstr(c->in.p, "\r\n\r\n");
    }
    arena_free(&c->a);
    c->a = (arena){ 0 };
    c->body = NULL;
    c->head = arena_copy(&c->a, c->in.p, (size_t)(end - c->in.p) + 2);
    if (sscanf(c->in.p, "%*s %63s", c->path) != 1) bad_requests++;
    if (end[4] && json_parse(&c->a, end + 4, strlen(end + 4), &c->body, NULL)) bad_requests++;
    const json *model = json_get(c->body, "model");
    snprintf(c->model, sizeof c->model, "%s", model && model->type == JSON_STRING ? model->s : "");
    return true;
}

static void *attend(void *arg) {
    peer c = { .fd = (int)(intptr_t)arg };
    int one = 1;
    setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (; hear(&c) && answer(&c); c.served++) continue;
    shutdown(c.fd, SHUT_WR);
    char rest[64];
    while (recv(c.fd, rest, sizeof rest, 0) > 0) continue; /* no reset before the client has read everything */
    close(c.fd);
    buf_free(&c.in);
    arena_free(&c.a);
    return NULL;
}

static void *accept_all(void *arg) {
    (void)arg;
    for (int fd; (fd = accept(listener, NULL, NULL)) >= 0;) {
        pthread_t t;
        connections++;
        if (pthread_create(&t, NULL, attend, (void *)(intptr_t)fd)) abort();
        pthread_detach(t);
    }
    return NULL;
}

static int listen_somewhere(int *number) {
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 512) || getsockname(fd, (struct sockaddr *)&a, &n)) abort();
    *number = ntohs(a.sin_port);
    return fd;
}

/* ---- running bench/serve ---- */

typedef struct result { int status; char *out, *err_text; arena a; json *j; } result;

static char *written(const char *name) {
    char path[512];
    buf b = { 0 };
    err e = { 0 };
    snprintf(path, sizeof path, "%s/%s", work_dir, name);
    must(read_file(path, 0, &b, &e), &e);
    return b.p;
}

static result bench(const char *before, int to, const char *options) {
    char command[2400];
    result r = { 0 };
    connections = requests = bad_requests = most_words = failures_due = 0;
    fewest_words = 1 << 30;
    for (int i = 0; i < 8; i++) turns_seen[i] = 0;
    bodies = 0;
    snprintf(command, sizeof command, "%s '%s/bench/serve' http://127.0.0.1:%d %s >'%s/out' 2>'%s/err'", before, bin_dir(), to, options,
            work_dir, work_dir);
    int status = system(command);
    r.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    r.out = written("out");
    r.err_text = written("err");
    if (*r.out == '{') json_parse(&r.a, r.out, strlen(r.out), &r.j, NULL);
    return r;
}

/* With --json, and a status. */
static result load(const char *options, int status) {
    char all[1200];
    snprintf(all, sizeof all, "--json %s", options);
    result r = bench("", port, all);
    if (r.status != status || !r.j) fail_msg("bench/serve %s: expected status %d and JSON, found %d: %s%s", options, status, r.status,
            r.err_text, r.out);
    assert_int_equal(bad_requests, 0);
    return r;
}

static void done(result *r) {
    free(r->out);
    free(r->err_text);
    arena_free(&r->a);
}

static double at(const result *r, const char *path) { /* "whole_ms.p50" */
    char part[64];
    const json *j = r->j;
    for (const char *p = path; j && *p;) {
        size_t n = strcspn(p, ".");
        snprintf(part, sizeof part, "%.*s", (int)n, p);
        j = json_get(j, part);
        p += n + (p[n] == '.');
    }
    double v;
    if (json_num(j, &v)) fail_msg("%s: expected a number, found %s in %s", path, json_type_name(j), r->out);
    return v;
}

static void is(const result *r, const char *path, double want) {
    if (at(r, path) != want) fail_msg("%s: expected %g, found %g in %s", path, want, at(r, path), r->out);
}

/* ---- tests of the whole program ---- */

static void streams(void **state) {
    (void)state;
    for (int i = 0; i < API_KINDS; i++) {
        char options[200];
        snprintf(options, sizeof options, "-m good -n 12 -c 3 --api %s", api_names[i]);
        result r = load(options, 0);
        is(&r, "requests", 12);
        is(&r, "good", 12);
        is(&r, "failed", 0);
        is(&r, "pieces", 12 * PIECES);
        is(&r, "tokens", 12 * TOKENS);
        is(&r, "prompt_tokens", 12 * PROMPT);
        is(&r, "cached_tokens", i < API_OLLAMA_CHAT ? 12 * CACHED : 0);
        is(&r, i < API_OLLAMA_CHAT ? "finish.stop" : "finish.length", 12);
        is(&r, "first_token_ms.n", 12);
        is(&r, "between_tokens_ms.n", 12 * (PIECES - 1));
        is(&r, "answers_without_count", 0);
        assert_int_equal(requests, 12);
        assert_int_equal(connections, 3); /* kept */
        done(&r);
        snprintf(options, sizeof options, "-m good -n 5 --no-stream --api %s", api_names[i]);
        r = load(options, 0);
        is(&r, "good", 5);
        is(&r, "tokens", 5 * TOKENS);
        is(&r, "between_tokens_ms.n", 0);
        done(&r);
    }
}

static void other_ends(void **state) {
    (void)state;
    result r = load("-m to-close -n 2", 0);
    is(&r, "good", 2);
    is(&r, "tokens", 2); /* its pieces: it counts none */
    is(&r, "answers_without_count", 2);
    done(&r);
    r = load("-m continue -n 2", 0);
    is(&r, "good", 2);
    done(&r);
    r = load("-m good -n 6 --fresh", 0);
    is(&r, "good", 6);
    assert_int_equal(connections, 6);
    done(&r);
}

static void error_kinds(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        { "status", "status", "queue full" },     { "teapot", "status", "418: shi" },        { "error", "stream_error", "out of luck" },
        { "no-end", "truncated", "without" },     { "cut", "truncated", "1 pieces" },        { "cut-head", "truncated", "closed" },
        { "closes", "closed", "before a reply" }, { "silent", "timeout", "no text" },        { "stuck", "timeout", "no end" },
        { "no-http", "broken", "SSH" },           { "bad-chunk", "broken", "xyz" },          { "bad-json", "broken", "JSON" },
        { "no-choices", "broken", "expected" },   { "html", "broken", "another type" },
    };
    for (size_t i = 0; i < 2 * sizeof cases / sizeof *cases; i++) {
        const char *const *c = cases[i / 2];
        char options[200], path[64];
        snprintf(options, sizeof options, "-m %s -n 2 -c 2 --timeout 0.3 --api %s", c[0], i % 2 ? "ollama-chat" : "openai-chat");
        result r = load(options, 1);
        snprintf(path, sizeof path, "errors.%s", c[1]);
        is(&r, path, 2);
        is(&r, "failed", 2);
        is(&r, "good", 0);
        const json *message = json_get(json_get(r.j, "first_messages"), c[1]);
        if (!message || !strstr(message->s, c[2])) fail_msg("%s: expected \"%s\" in %s", c[0], c[2], r.out);
        assert_non_null(strstr(r.err_text, "every request failed"));
        done(&r);
    }
    result r = load("-m status -n 3", 1);
    is(&r, "status.503", 3);
    assert_int_equal(connections, 1); /* a refusal does not cost the connection */
    done(&r);
    r = load("-m blank -n 1 --api ollama-generate", 1);
    is(&r, "errors.broken", 1);
    done(&r);
    r = load("-m silent -n 2 -c 2 --timeout 0.3", 1);
    is(&r, "whole_ms.n", 2); /* the slowest are not left out */
    assert_true(at(&r, "first_token_ms.p50") >= 299);
    done(&r);
}

static void refused_and_some(void **state) {
    (void)state;
    int closed_port;
    close(listen_somewhere(&closed_port));
    result r = bench("", closed_port, "--json -m good -n 3");
    assert_int_equal(r.status, 1);
    is(&r, "errors.refused", 3);
    done(&r);
    r = bench("", closed_port, "");
    assert_int_equal(r.status, 1);
    assert_non_null(strstr(r.err_text, "is the server running?"));
    done(&r);
    r = load("-m one-of-three -n 9", 0); /* some fail: the status stays 0, the count tells */
    is(&r, "errors.closed", 3);
    is(&r, "good", 6);
    assert_int_equal(requests, 9);
    done(&r);
    r = load("-m second-closes -n 6", 0); /* a kept connection that is dead: asked again on a fresh one, once */
    is(&r, "good", 6);
    is(&r, "failed", 0);
    is(&r, "retried", 5);
    assert_int_equal(requests, 11);
    done(&r);
}

static void times(void **state) {
    (void)state;
    result r = load("-m slow40 -n 4 -c 4", 0);
    assert_true(at(&r, "first_token_ms.p50") >= 40 && at(&r, "first_token_ms.p50") < 1000);
    assert_true(at(&r, "between_tokens_ms.p50") >= 35 && at(&r, "between_tokens_ms.p50") < 1000);
    assert_true(at(&r, "whole_ms.p50") >= 40 * PIECES && at(&r, "whole_ms.p50") >= at(&r, "first_token_ms.p50"));
    is(&r, "between_tokens_ms.n", 4 * (PIECES - 1));
    assert_true(at(&r, "elapsed_s") >= 0.04 * PIECES);
    done(&r);
}

/* Eight connections may be open, forty questions are due within 40 ms, an answer takes 50 ms: the last wait for four others' answers, and
 * that is what it took them, though the server saw none take longer than 50 ms. */
static void waiting_counts(void **state) {
    (void)state;
    result r = bench("ulimit -n 40;", port, "--json -m slow10 -n 40 -r 1000");
    assert_int_equal(r.status, 0);
    is(&r, "good", 40);
    assert_true(at(&r, "most_connections") <= 8);
    assert_true(at(&r, "late_ms.max") > 120);
    assert_true(at(&r, "whole_ms.max") > 200);
    assert_true(at(&r, "first_token_ms.p95") > 120);
    done(&r);
    r = load("-m slow10 -n 40 -r 1000", 0);
    assert_true(at(&r, "most_connections") > 20); /* without that limit they do not wait for one another */
    done(&r);
}

static void same_seed_same_load(void **state) {
    (void)state;
    result r = load("-m good -r 200 -d 1 -s mixed", 0);
    double n = at(&r, "requests");
    unsigned long long sum = bodies;
    assert_true(n > 120 && n < 500); /* conversations go on within the second */
    done(&r);
    r = load("-m good -r 100 -d 1", 0);
    n = at(&r, "requests");
    assert_true(n > 60 && n < 140);
    sum = bodies;
    done(&r);
    r = load("-m good -r 100 -d 1", 0);
    is(&r, "requests", n);
    assert_true(bodies == sum);
    done(&r);
    r = load("-m good -r 100 -d 1 --seed 2", 0);
    assert_true(bodies != sum);
    done(&r);
}

static void scenarios(void **state) {
    (void)state;
    static const struct { const char *options; int low, high; } cases[] = { { "-s short", 50, 100 }, { "-s medium", 200, 500 }, { "-s long",
            1000, 1200 }, { "-s short --shared 500", 550, 600 }, { "-s short --api ollama-generate", 50, 100 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char options[200];
        snprintf(options, sizeof options, "-m good -n 40 -c 8 %s", cases[i].options);
        result r = load(options, 0);
        if (fewest_words < cases[i].low || most_words > cases[i].high
                || most_words - fewest_words < (cases[i].high - cases[i].low) / 2) fail_msg("%s: %d to %d words", options, fewest_words,
                most_words);
        done(&r);
    }
    result r = load("-m good -n 12 -c 1 -s multi-turn --turns 3", 0);
    is(&r, "scenarios.multi-turn.whole_ms.n", 12);
    for (int i = 0; i < 4; i++) assert_int_equal(turns_seen[i], i < 3 ? 4 : 0);
    done(&r);
    r = load("-m good -n 400 -c 8 -s mixed --api ollama-chat", 0);
    assert_true(at(&r, "scenarios.short.whole_ms.n") > at(&r, "scenarios.medium.whole_ms.n") && at(&r, "scenarios.long.whole_ms.n") > 5
            && at(&r, "scenarios.multi-turn.whole_ms.n") > 20);
    done(&r);
    r = load("-m seven -n 1 --body ' {\"max_tokens\":7, \"ignore_eos\":true } '", 0);
    is(&r, "good", 1);
    done(&r);
}

static void asks_for_models(void **state) {
    (void)state;
    result r = load("-n 1 --api-key secret", 0);
    assert_true(json_is(json_get(r.j, "model"), "good"));
    done(&r);
    r = load("-n 1 --api-key secret --api ollama-chat", 0);
    assert_true(json_is(json_get(r.j, "model"), "good"));
    done(&r);
    r = bench("", port, "-n 1");
    assert_int_equal(r.status, 1);
    assert_non_null(strstr(r.err_text, "a key is needed"));
    done(&r);
}

static void pictures(void **state) {
    (void)state;
    char options[600];
    snprintf(options, sizeof options, "-m '<&\"good' -n 5 -c 2 --svg '%s/load.svg'", work_dir);
    result r = bench("", port, options);
    assert_int_equal(r.status, 0);
    assert_true(strstr(r.out, "first token") && strstr(r.out, "5 good, 0 failed"));
    char *svg = written("load.svg");
    assert_int_equal(strncmp(svg, "<svg", 4), 0);
    assert_string_equal(svg + strlen(svg) - 7, "</svg>\n");
    assert_true(strstr(svg, "&#60;&#38;&#34;good") && strstr(svg, "between tokens") && !strstr(svg, "nan") && !strstr(svg, "inf"));
    free(svg);
    done(&r);
    snprintf(options, sizeof options, "-m closes -n 2 --json --svg '%s/load.svg'", work_dir); /* a picture of nothing but errors */
    r = bench("", port, options);
    svg = written("load.svg");
    assert_true(r.status == 1 && strstr(svg, "2 failed") && !strstr(svg, "nan") && !strstr(svg, "inf"));
    free(svg);
    done(&r);
}

static void interrupted(void **state) {
    (void)state;
    char command[900];
    snprintf(command, sizeof command,
            "'%s/bench/serve' http://127.0.0.1:%d --json -m slow100 -c 2 -d 30 >'%s/out' 2>'%s/err' & p=$!; sleep 0.9; kill -TERM $p; wait "
                    "$p", bin_dir(), port, work_dir, work_dir);
    int status = system(command);
    result r = { .out = written("out"), .err_text = written("err") };
    assert_int_equal(WEXITSTATUS(status), 130);
    assert_int_equal(json_parse(&r.a, r.out, strlen(r.out), &r.j, NULL), 0);
    is(&r, "unfinished", 2);
    is(&r, "failed", 0);
    assert_true(at(&r, "good") >= 2 && at(&r, "elapsed_s") < 20);
    done(&r);
}

static void usage(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        { "--api grpc", "ollama-generate" }, { "--scenario huge", "multi-turn" }, { "-r 5 -c 5", "--rate" },       { "-c 0", "--clients" },
        { "--body '[1]'", "an array" },      { "--body '{'", "--body" },          { "--turns 0", "--turns" },      { "--max-tokens 0",
                "--max-tokens" },
        { "-r -1", "--rate" },               { "-d 0", "--duration" },            { "--timeout 0", "--timeout" },  { "--api-key 'a b'",
                "--api-key" },
        { "-n -1", "--requests" },           { "--shared -1", "--shared" },       { "http://another", "another" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        result r = bench("", port, cases[i][0]);
        if (r.status != 2 || *r.out || !strstr(r.err_text, cases[i][1])) fail_msg("%s: status %d: %s", cases[i][0], r.status, r.err_text);
        done(&r);
    }
    static const char *const urls[] = { "https://h:1", "ftp://h:1", "http://", "http://h:x", "http://h:99999", "'http://h:1/a b'", "http://[::1" };
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        char command[600];
        snprintf(command, sizeof command, "'%s/bench/serve' %s -n 1 >/dev/null 2>&1", bin_dir(), urls[i]);
        int status = system(command);
        if (WEXITSTATUS(status) != 2) fail_msg("%s: expected status 2, found %d", urls[i], WEXITSTATUS(status));
    }
    result r = bench("", port, "--svg /no/such/folder/x.svg -m good -n 1");
    assert_true(r.status == 1 && strstr(r.err_text, "/no/such/folder") && requests == 0);
    done(&r);
}

/* ---- the reading of replies ---- */

#define CHUNK(n, text) n "\r\n" text "\r\n"
static const char sse[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    CHUNK("2d", "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}") CHUNK("6", "\n\ndata") CHUNK("a", ": [DONE]\n\n") "0\r\n\r\n";

static void cut_anywhere(void **state) {
    (void)state;
    size_t n = sizeof sse - 1;
    for (size_t cut = 0; cut <= n; cut++) {
        reply r;
        reply_begin(&r, API_CHAT, true);
        reply_feed(&r, sse, cut);
        reply_feed(&r, sse + cut, n - cut);
        if (r.kind || !r.complete || !r.done || r.pieces != 1 || r.close || r.text.n != 1) fail_msg("cut at %zu: kind %s: %s", cut,
                load_kind_names[r.kind], r.message);
        reply_free(&r);
        reply_begin(&r, API_CHAT, true); /* and what ends there is not whole */
        reply_feed(&r, sse, cut);
        reply_closed(&r);
        if (cut < n && r.kind != (cut ? LOAD_TRUNCATED : LOAD_CLOSED)) fail_msg("ended at %zu: kind %s", cut, load_kind_names[r.kind]);
        reply_free(&r);
    }
}

static void hostile(void **state) {
    (void)state;
    uint64_t random = 5;
    for (int round = 0; round < 20000; round++) { /* bytes changed at random: any verdict, no crash, nothing without end */
        char text[sizeof sse];
        reply r;
        memcpy(text, sse, sizeof sse);
        for (int i = 0; i < 3; i++) text[(size_t)(uniform(&random) * (sizeof sse - 1))] = (char)(uniform(&random) * 256);
        reply_begin(&r, (api_kind)(round % API_KINDS), round % 3 != 0);
        reply_feed(&r, text, sizeof sse - 1);
        reply_closed(&r);
        assert_true(r.kind || r.complete);
        reply_free(&r);
    }
    reply r;
    char line[1000];
    memset(line, 'x', sizeof line);
    reply_begin(&r, API_CHAT, true);
    reply_feed(&r, "HTTP/1.1 200 OK\r\n", 17);
    for (int i = 0; i < 100; i++) reply_feed(&r, line, sizeof line);
    assert_int_equal(r.kind, LOAD_BROKEN);
    reply_free(&r);
}

static void percentiles(void **state) {
    (void)state;
    samples s = { 0 };
    assert_true(samples_at(&s, 0.5) == 0);
    for (int i = 100; i >= 1; i--) samples_add(&s, i);
    assert_true(samples_at(&s, 0.5) == 50 && samples_at(&s, 0.95) == 95 && samples_at(&s, 0.99) == 99 && samples_at(&s, 1) == 100
            && samples_at(&s, 0) == 1);
    assert_true(fabs(samples_mean(&s) - 50.5) < 1e-9);
    samples_free(&s);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_anywhere), cmocka_unit_test(hostile), cmocka_unit_test(percentiles), cmocka_unit_test(streams),
                cmocka_unit_test(other_ends),
        cmocka_unit_test(error_kinds), cmocka_unit_test(refused_and_some), cmocka_unit_test(times), cmocka_unit_test(waiting_counts),
        cmocka_unit_test(same_seed_same_load), cmocka_unit_test(scenarios), cmocka_unit_test(asks_for_models), cmocka_unit_test(pictures),
        cmocka_unit_test(interrupted), cmocka_unit_test(usage),
    };
    pthread_t t;
    signal(SIGPIPE, SIG_IGN);
    unsetenv("QUERN_API_KEY");
    make_work_dir();
    listener = listen_somewhere(&port);
    if (pthread_create(&t, NULL, accept_all, NULL)) abort();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return failed;
}
