/* bench/serve: how a server of language models behaves under load: any address that speaks OpenAI's or Ollama's API. This file is
 * the command line and the writing of results; what happens between stands in serve_loop.c. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/serve.h"
#include "runtime/options.h"

enum { NO_DURATION = 0, DEFAULT_SECONDS = 10, EXIT_INTERRUPTED = 130 };

typedef struct asked {
    load_opts o;
    const char *url, *api, *scene, *more, *svg;
    float rate, duration, timeout;
    bool whole, json, clients_given, duration_given;
    arena a;
    figures f;
} asked;

static int find(const char *const *names, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

static int name_error(const program *p, const char *name, const char *const *names, int n, const char *found) {
    buf b = { 0 };
    for (int i = 0; i < n; i++) buf_fmt(&b, "%s%s", i ? ", " : "", names[i]);
    buf_byte(&b, 0);
    int rc = usage_error(p, "%s: expected one of %s, found \"%s\"", name, b.failed ? "" : b.p, found);
    buf_free(&b);
    return rc;
}

static bool plain(const char *s) { /* fit for a line of HTTP */
    for (; *s; s++)
        if ((unsigned char)*s <= ' ' || *s == 127) return false;
    return true;
}

/* http://host[:port][/base], host perhaps [::1]. */
static int take_url(const program *p, asked *q) {
    const char *s = q->url, *host, *end;
    if (strncmp(s, "https://", 8) == 0) return usage_error(p, "%s: TLS is not spoken here; ask the server behind the proxy, by http://", s);
    if (strncmp(s, "http://", 7) == 0) s += 7;
    else if (strstr(s, "://")) return usage_error(p, "expected http://HOST:PORT, found \"%s\"", s);
    host = *s == '[' ? s + 1 : s;
    end = host + strcspn(host, *s == '[' ? "]" : ":/");
    q->o.host = arena_copy(&q->a, host, (size_t)(end - host));
    if (*s == '[' && *end++ != ']') return usage_error(p, "expected http://HOST:PORT, found \"%s\"", q->url);
    const char *port = *end == ':' ? end + 1 : "80";
    size_t n = strcspn(port, "/");
    q->o.port = arena_copy(&q->a, port, n);
    const char *base = *end == ':' ? port + n : end;
    n = strlen(base);
    while (n && base[n - 1] == '/') n--;
    if (n >= 3 && !strncmp(base + n - 3, "/v1", 3)) n -= 3; /* as base_url of OpenAI's clients has it */
    q->o.base = arena_copy(&q->a, base, n);
    if (!q->o.host || !q->o.port || !q->o.base) return fprintf(stderr, "bench/serve: out of memory\n"), 1;
    if (!*q->o.host || !plain(q->url) || !*q->o.port || strspn(q->o.port, "0123456789") != strlen(q->o.port) || atol(q->o.port) > 65535
            || (*base && *base != '/'))
        return usage_error(p, "expected http://HOST:PORT, found \"%s\"", q->url);
    return OPTIONS_GO_ON;
}

static int take_more(const program *p, asked *q) {
    json *j;
    err e = { 0 };
    q->o.more = "";
    if (!q->more) return OPTIONS_GO_ON;
    if (json_parse(&q->a, q->more, strlen(q->more), &j, &e)) return usage_error(p, "--body: %s", e.msg);
    if (j->type != JSON_OBJECT) return usage_error(p, "--body: expected a JSON object, found %s", json_type_name(j));
    const char *open = strchr(q->more, '{') + 1, *close = strrchr(q->more, '}');
    q->o.more_tree = j;
    if (j->n) q->o.more = arena_copy(&q->a, open, (size_t)(close - open));
    return q->o.more ? OPTIONS_GO_ON : (fprintf(stderr, "bench/serve: out of memory\n"), 1);
}

static int check_numbers(const program *p, const asked *q) {
    const load_opts *o = &q->o;
    if (q->rate < 0 || !isfinite(q->rate) || q->rate > 1e6f) return usage_error(p, "--rate: expected requests a second, found %g", (double)q->rate);
    if (q->rate > 0 && q->clients_given) return usage_error(p, "--rate is the open loop, --clients the closed one: choose one of them");
    if (o->clients < 1) return usage_error(p, "--clients: expected at least 1, found %d", o->clients);
    if (o->requests < 0) return usage_error(p, "--requests: expected no negative number, found %d", o->requests);
    if (q->duration_given && !(q->duration > 0)) return usage_error(p, "--duration: expected seconds, more than 0");
    if (!(q->timeout > 0)) return usage_error(p, "--timeout: expected seconds, more than 0");
    if (o->max_tokens < 1) return usage_error(p, "--max-tokens: expected at least 1, found %d", o->max_tokens);
    if (o->turns < 1 || o->turns > 60) return usage_error(p, "--turns: expected 1 to 60, found %d", o->turns);
    if (o->shared < 0 || o->shared > 1000000) return usage_error(p, "--shared: expected 0 to 1000000 words, found %d", o->shared);
    if (o->key && !plain(o->key)) return usage_error(p, "--api-key: a blank or control character in it");
    return OPTIONS_GO_ON;
}

static int check(const program *p, asked *q, int n_words) {
    load_opts *o = &q->o;
    if (n_words < 1) return usage_error(p, "expected the server's address");
    int api = find(api_names, API_KINDS, q->api), kind = find(scene_names, SCENES, q->scene);
    if (api < 0) return name_error(p, "--api", api_names, API_KINDS, q->api);
    if (kind < 0) return name_error(p, "--scenario", scene_names, SCENES, q->scene);
    if (!o->key) o->key = getenv("QUERN_API_KEY");
    if (o->key && !*o->key) o->key = NULL;
    o->api = (api_kind)api;
    o->scene = (scene)kind;
    o->rate = (double)q->rate;
    o->timeout = (double)q->timeout;
    o->duration = q->duration_given ? (double)q->duration : o->requests ? NO_DURATION : DEFAULT_SECONDS;
    o->stream = !q->whole;
    int rc = check_numbers(p, q);
    if (rc == OPTIONS_GO_ON) rc = take_url(p, q);
    return rc == OPTIONS_GO_ON ? take_more(p, q) : rc;
}

static int write_out(FILE *f, const char *name, void (*report)(const load_opts *, figures *, buf *), asked *q, err *e) {
    buf b = { 0 };
    report(&q->o, &q->f, &b);
    bool bad = b.failed || fwrite(b.p, 1, b.n, f) != b.n || fflush(f);
    buf_free(&b);
    return bad ? fail(e, "%s could not be written", name) : 0;
}

/* The picture is written beside its place and put there whole; the file is opened before minutes are spent on measuring. */
static int open_svg(asked *q, FILE **f, char part[4096], err *e) {
    *f = NULL;
    if (!q->svg) return 0;
    int n = snprintf(part, 4096, "%s.part", q->svg);
    if (n < 4096) *f = fopen(part, "wb");
    return *f ? 0 : fail(e, "%s.part: %s", q->svg, n < 4096 ? strerror(errno) : "too long a path");
}

static int close_svg(asked *q, FILE *f, const char *part, int rc, err *e) {
    if (!f) return rc;
    if (!rc) rc = write_out(f, q->svg, report_svg, q, e);
    if (fclose(f) && !rc) rc = fail(e, "%s: %s", part, strerror(errno));
    if (!rc && rename(part, q->svg)) rc = fail(e, "%s: %s", q->svg, strerror(errno));
    if (rc) remove(part);
    return rc;
}

static int measure(asked *q, err *e) {
    FILE *svg;
    char part[4096];
    if (open_svg(q, &svg, part, e)) return -1;
    int rc = load_resolve(&q->o, e);
    if (!rc && !q->o.model) rc = load_first_model(&q->o, &q->a, e);
    if (!rc) rc = load_run(&q->o, &q->f, e);
    if (!rc) rc = write_out(stdout, "standard output", q->json ? report_json : report_text, q, e);
    return close_svg(q, svg, part, rc, e);
}

static int status(const asked *q) {
    if (q->f.interrupted) return EXIT_INTERRUPTED;
    if (q->f.kinds[LOAD_OK]) return 0;
    fprintf(stderr, "bench/serve: %s\n", q->f.requests ? "every request failed" : "no request was due in this time");
    return 1;
}

static int run(const program *p, asked *q, int n_words) {
    err e = { 0 };
    int rc = check(p, q, n_words);
    if (rc == OPTIONS_GO_ON) {
        rc = measure(q, &e) ? 1 : status(q);
        if (e.code) fprintf(stderr, "bench/serve: %s\n", e.msg);
    }
    figures_free(&q->f);
    arena_free(&q->a);
    return rc;
}

int main(int argc, char **argv) {
    static asked q = { .o = { .clients = 1, .max_tokens = 64, .turns = 4, .seed = 1 }, .api = "openai-chat", .scene = "short", .timeout = 120 };
    const option options[] = {
        { "--api", NULL, OPT_TEXT, &q.api, "NAME", "openai-chat (default), openai-completions, ollama-chat or ollama-generate", NULL },
        { "--model", "-m", OPT_TEXT, &q.o.model, "NAME", "model to ask (the first that the server lists)", NULL },
        { "--api-key", NULL, OPT_TEXT, &q.o.key, "KEY", "sent as Authorization: Bearer KEY; also $QUERN_API_KEY", NULL },
        { "--scenario", "-s", OPT_TEXT, &q.scene, "NAME",
                "short: prompts of 50-100 words (default), medium: 200-500, long: 1000-1200, multi-turn, or mixed: 50, 30, 10 and 10 %", NULL },
        { "--clients", "-c", OPT_INT, &q.o.clients, "N", "closed loop: so many ask, and ask again when their answer has come (1)",
                &q.clients_given },
        { "--rate", "-r", OPT_FLOAT, &q.rate, "N",
                "open loop: so many requests (conversations) begin a second, at random times, however slow the server is", NULL },
        { "--duration", "-d", OPT_FLOAT, &q.duration, "SECONDS", "in which requests begin (10); those that run are waited for", &q.duration_given },
        { "--requests", "-n", OPT_INT, &q.o.requests, "N", "at most so many requests; alone, without a limit of time", NULL },
        { "--max-tokens", NULL, OPT_INT, &q.o.max_tokens, "N", "tokens of an answer (64)", NULL },
        { "--turns", NULL, OPT_INT, &q.o.turns, "N", "questions of a conversation (4)", NULL },
        { "--shared", NULL, OPT_INT, &q.o.shared, "WORDS", "that all conversations begin with, as with one system prompt (0)", NULL },
        { "--body", NULL, OPT_TEXT, &q.more, "JSON", "an object whose members are added to each request, such as '{\"ignore_eos\":true}'", NULL },
        { "--no-stream", NULL, OPT_FLAG, &q.whole, NULL, "ask for whole answers", NULL },
        { "--fresh", NULL, OPT_FLAG, &q.o.fresh, NULL, "a connection for each request", NULL },
        { "--timeout", NULL, OPT_FLOAT, &q.timeout, "SECONDS", "that a request may take (120)", NULL },
        { "--seed", NULL, OPT_SEED, &q.o.seed, "N", "of prompts, times and the requests' own seeds (1)", NULL },
        { "--json", NULL, OPT_FLAG, &q.json, NULL, "one JSON object instead of the table", NULL },
        { "--svg", NULL, OPT_TEXT, &q.svg, "FILE", "also draw speed over time and the distribution of times", NULL },
    };
    const program p = { "bench/serve", "http://HOST:PORT [options]",
                        "Load on a server that speaks OpenAI's or Ollama's API: time to the first token, between tokens, of whole answers,\n"
                        "and errors by kind. Times count from the moment a request was due, waiting included. Status 1 if no request succeeded.",
                        options, sizeof options / sizeof *options };
    int n_words, rc = options_parse(&p, argc, argv, &q.url, 1, &n_words);
    return rc == OPTIONS_GO_ON ? run(&p, &q, n_words) : rc;
}
