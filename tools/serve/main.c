/* serve: the command line, and the life of the server: everything is opened here, in order, and closed the other way round. A thread of
 * its own waits for signals: the first drains, the second ends. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/options.h"
#include "tools/serve/fault.h"
#include "tools/serve/guard.h"
#include "tools/serve/log.h"
#include "tools/serve/memo.h"
#include "tools/serve/metrics.h"
#include "tools/serve/ping.h"
#include "tools/serve/server.h"
#include "tools/serve/trace.h"

enum { MOST_MODELS = 256, MOST_KEYS = 1024, DRAIN_SECONDS = 30 };
/* Requests are read, tokenised and their grammars compiled by the ones; answers go out through the others: two, since the end of one answer may
 * close a model or render megabytes. Lists and figures have their own as well: two, since a file that nobody asked for before is looked into. */
enum { WORKERS = 3, EVENT_WORKERS = 2, LIGHT_WORKERS = 2 };

typedef struct serve_opts {
    const char *models[MOST_MODELS];
    int n_models;
    const char *host, *memory, *keep_alive, *cors, *key_file, *log, *cache_type, *kernels, *kv_dir, *kv_disk, *response_cache, *trace, *pooling;
    int ping, port, ctx, threads, slots, queue, rate, max_connections, drain;
    float timeout, max_delay;
    texts keys, aliases, fallbacks, proxies, drafts, names;
    bool strict, allow_delete, exact, help_fields, markdown, drain_given;
} serve_opts;

typedef struct life {
    serve_opts *o;
    server s;
    const char *keys[MOST_KEYS];
    int n_keys;
    name_alias alias[32];
    fallback fallbacks[32];
    char *fallback_text[32];
    model_draft drafts[64];
    char *draft_text[32];
    int n_drafts, n_draft_texts;
    uint64_t kv_disk, response_cache;
    buf key_text;        /* of --api-key-file */
    pthread_t keeper;
    atomic_bool stopping; /* the keeper shall end */
    uint64_t memory;
} life;

/* ---- what the command line says ---- */

static int parse_bytes(const char *text, uint64_t *out) {
    char *end;
    double x = strtod(text, &end);
    static const char units[] = "KMGT";
    const char *u = *end ? strchr(units, *end & ~32) : NULL;
    if (end == text || !(x >= 0) || x > 1e15 || (*end && (!u || (end[1] && strcmp(end + 1, "B") && strcmp(end + 1, "iB"))))) return -1;
    for (const char *k = units; u && k <= u; k++) x *= 1024;
    *out = (uint64_t)x;
    return 0;
}

static int parse_time(const char *text, double *out) {
    char *end;
    double x = strtod(text, &end);
    double unit = !*end || !strcmp(end, "s") ? 1 : !strcmp(end, "m") ? 60 : !strcmp(end, "h") ? 3600 : NAN;
    if (end == text || !isfinite(x * unit)) return -1;
    *out = x * unit;
    return 0;
}

static int take_alias(const program *p, life *l, const char *text) {
    char *copy = strdup(text), *equals = copy ? strchr(copy, '=') : NULL;
    if (!copy) return fprintf(stderr, "serve: out of memory\n"), 1;
    if (!equals || equals == copy || !equals[1]) {
        free(copy);
        return usage_error(p, "--alias: expected NAME=MODEL, found \"%s\"", text);
    }
    *equals = 0;
    l->alias[l->s.n_aliases++] = (name_alias){ copy, equals + 1 };
    return OPTIONS_GO_ON;
}

/* "a=b,c": for a, b; then c. */
static int take_fallback(const program *p, life *l, const char *text) {
    char *copy = strdup(text), *rest = NULL, *equals = copy ? strchr(copy, '=') : NULL;
    if (!copy) return fprintf(stderr, "serve: out of memory\n"), 1;
    l->fallback_text[l->s.n_fallbacks] = copy;
    fallback *f = &l->fallbacks[l->s.n_fallbacks++];
    if (!equals || equals == copy || !equals[1]) return usage_error(p, "--fallback: expected MODEL=OTHER,ANOTHER, found \"%s\"", text);
    *equals = 0;
    f->model = copy;
    for (char *name = strtok_r(equals + 1, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        if (f->n == (int)(sizeof f->others / sizeof *f->others)) return usage_error(p, "--fallback: more than %d models for \"%s\"", f->n, copy);
        f->others[f->n++] = name;
    }
    return OPTIONS_GO_ON;
}

/* "a=b,c=d": b proposes for a, d for c. "b": for the only model. */
static int take_drafts(const program *p, life *l, const char *text) {
    enum { MOST = sizeof l->drafts / sizeof *l->drafts };
    char *copy = strdup(text), *rest = NULL;
    if (!copy) return fprintf(stderr, "serve: out of memory\n"), 1;
    l->draft_text[l->n_draft_texts++] = copy;
    if (!strchr(copy, '=') && *copy && l->n_drafts < MOST) {
        l->drafts[l->n_drafts++] = (model_draft){ NULL, copy };
        return OPTIONS_GO_ON;
    }
    char *item = strtok_r(copy, ",", &rest);
    if (!item) return usage_error(p, "--draft: expected MODEL=DRAFT, or the DRAFT of the only model, found nothing");
    for (; item; item = strtok_r(NULL, ",", &rest)) {
        char *equals = strchr(item, '=');
        if (!equals || equals == item || !equals[1]) return usage_error(p, "--draft: expected MODEL=DRAFT,MODEL=DRAFT, found \"%s\"", text);
        if (l->n_drafts == MOST) return usage_error(p, "--draft: more than %d drafts", MOST);
        *equals = 0;
        l->drafts[l->n_drafts++] = (model_draft){ item, equals + 1 };
    }
    return OPTIONS_GO_ON;
}

/* Sizes of caches, who stands in for whom, and who proposes. */
static int check_caches(const program *p, life *l) {
    const serve_opts *o = l->o;
    if (parse_bytes(o->kv_disk, &l->kv_disk)) return usage_error(p, "--kv-disk: expected bytes such as 8G, found \"%s\"", o->kv_disk);
    if (o->response_cache && parse_bytes(o->response_cache, &l->response_cache))
        return usage_error(p, "--response-cache: expected bytes such as 64M, found \"%s\"", o->response_cache);
    for (int i = 0; i < o->fallbacks.n; i++) {
        int rc = take_fallback(p, l, o->fallbacks.p[i]);
        if (rc != OPTIONS_GO_ON) return rc;
    }
    for (int i = 0; i < o->drafts.n; i++) {
        int rc = take_drafts(p, l, o->drafts.p[i]);
        if (rc != OPTIONS_GO_ON) return rc;
    }
    return OPTIONS_GO_ON;
}

/* Could a header bring it? */
static bool is_key(const char *key) {
    size_t n = strlen(key);
    for (const char *s = key; *s; s++)
        if ((*s & 0xe0) == 0 || *s == 127) return false;
    return n && key[0] != ' ' && key[n - 1] != ' ';
}

/* A key a line; '#' begins a comment. */
static int read_keys(life *l, err *e) {
    char *line, *rest = NULL;
    if (!l->o->key_file) return 0;
    if (read_file(l->o->key_file, 1 << 20, &l->key_text, e)) return -1;
    for (line = strtok_r(l->key_text.p, "\r\n", &rest); line; line = strtok_r(NULL, "\r\n", &rest)) {
        line += strspn(line, " \t");
        size_t n = strlen(line);
        while (n && (line[n - 1] == ' ' || line[n - 1] == '\t')) line[--n] = 0;
        if (!n || *line == '#') continue;
        if (!is_key(line)) return fail(e, "%s: a key with control characters: no header can bring it", l->o->key_file);
        if (l->n_keys == MOST_KEYS) return fail(e, "%s: more than %d keys", l->o->key_file, MOST_KEYS);
        l->keys[l->n_keys++] = line;
    }
    return l->n_keys ? 0 : fail(e, "%s: no key in it: the server would be closed to all, or open to all", l->o->key_file);
}

/* What a browser sends as Origin: scheme, name and port, no more. With any other text no page could ever ask. */
static bool is_origin(const char *s) {
    const char *rest = strstr(s, "://");
    return !strcmp(s, "*") || !strcmp(s, "null") || (rest && rest > s && rest[3] && !strpbrk(rest + 3, "/, ") && !strpbrk(s, ", "));
}

static int check(const program *p, life *l) {
    const serve_opts *o = l->o;
    const char *key = getenv("QUERN_API_KEY");
    if (!o->n_models) return usage_error(p, "expected model files or folders");
    if (o->port < 0 || o->port > 65535) return usage_error(p, "--port: expected 0 to 65535, found %d", o->port);
    if (o->slots < 1 || o->slots > 1024) return usage_error(p, "--slots: expected 1 to 1024, found %d", o->slots);
    if (o->rate < 0 || o->queue < 0 || o->timeout < 0 || o->ctx < 0 || o->threads < 0)
        return usage_error(p, "--rate, --queue, --timeout, --ctx and --threads: expected no negative number");
    if (o->drain < 0 || o->max_connections < 0 || o->ping < 0 || o->max_delay < 0)
        return usage_error(p, "--drain, --max-connections, --sse-ping-interval and --max-delay: expected no negative number");
    if (o->cache_type && strcmp(o->cache_type, "f16") && strcmp(o->cache_type, "q8"))
        return usage_error(p, "--cache-type: expected f16 or q8, found \"%s\"", o->cache_type);
    if (o->memory && parse_bytes(o->memory, &l->memory)) return usage_error(p, "--memory: expected bytes such as 8G, found \"%s\"", o->memory);
    if (parse_time(o->keep_alive, &l->s.keep_alive)) return usage_error(p, "--keep-alive: expected a time such as 5m, found \"%s\"", o->keep_alive);
    if (strcmp(o->log, "text") && strcmp(o->log, "json") && strcmp(o->log, "none"))
        return usage_error(p, "--log: expected text, json or none, found \"%s\"", o->log);
    for (int i = 0; i < o->aliases.n; i++) {
        int rc = take_alias(p, l, o->aliases.p[i]);
        if (rc != OPTIONS_GO_ON) return rc;
    }
    for (int i = 0; i < o->keys.n; i++) {
        if (!*o->keys.p[i]) return usage_error(p, "--api-key: an empty key");
        if (!is_key(o->keys.p[i])) return usage_error(p, "--api-key: a key with blanks around it or control characters: no header can bring it");
        l->keys[l->n_keys++] = o->keys.p[i];
    }
    if (key && *key && !is_key(key))
        return usage_error(p, "QUERN_API_KEY: a key with blanks around it or control characters: no header can bring it");
    if (key && *key) l->keys[l->n_keys++] = key;
    if (o->cors && !is_origin(o->cors))
        return usage_error(p, "--cors: expected an origin such as https://example.org or http://localhost:3000, or *, found \"%s\"", o->cors);
    if (o->pooling && (l->s.pooling = pooling_named(o->pooling)) < 0)
        return usage_error(p, "--pooling: expected first, mean or last, found \"%s\"", o->pooling);
    for (int i = 0; i < o->proxies.n; i++) {
        err e = { 0 };
        if (proxies_add(&l->s.proxies, o->proxies.p[i], &e)) return usage_error(p, "--trust-proxy: %s", e.msg);
    }
    for (int i = 0; i < o->names.n; i++) {
        err e = { 0 };
        if (hosts_add(&l->s.hosts, o->names.p[i], &e)) return usage_error(p, "--allow-host: %s", e.msg);
    }
    return check_caches(p, l);
}

/* ---- signals ---- */

static void *drain(void *arg) {
    life *l = arg;
    schedule_drain(l->s.schedule, l->o->drain);
    http_stop(l->s.http);
    return NULL;
}

static void begin_drain(life *l, int sig) {
    pthread_t t;
    atomic_store(&l->s.draining, true);
    log_line(&l->s, "%s: no new requests; what runs has %d s to end (again: end at once)",
             sig == SIGINT ? "interrupted" : sig == SIGHUP ? "hung up" : "terminated", l->o->drain);
    if (pthread_create(&t, NULL, drain, l)) drain(l);
    else pthread_detach(t);
}

/* What ends the server. A hang-up does unless whoever started it said otherwise (nohup). */
static void ending_signals(sigset_t *set) {
    struct sigaction now;
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    if (sigaction(SIGHUP, NULL, &now) || now.sa_handler != SIG_IGN) sigaddset(set, SIGHUP);
}

/* Signals, and once a second the models whose time is over and the streams that are silent. */
static void *keep(void *arg) {
    life *l = arg;
    sigset_t set;
    ending_signals(&set);
    for (;;) {
        int sig = sigtimedwait(&set, NULL, &(struct timespec){ .tv_sec = 1 });
        if (atomic_load(&l->stopping)) break;
        if (sig > 0 && atomic_load(&l->s.draining)) {
            log_line(&l->s, "a second signal: ended at once");
            _exit(128 + sig);
        }
        if (sig > 0) begin_drain(l, sig);
        else {
            models_expire(l->s.models, now_seconds());
            pings_tick(l->s.pings);
        }
    }
    return NULL;
}

static void block_signals(void) {
    sigset_t set;
    ending_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* of all threads that come */
    signal(SIGPIPE, SIG_IGN);
#ifdef SIGXFSZ
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of its writer */
#endif
}

/* ---- start and end ---- */

static void log_disk(void *arg, const char *line) { log_line(arg, "%s", line); }

static int open_caches(life *l, err *e) {
    server *s = &l->s;
    s->metrics = metrics_new();
    s->pings = pings_new(l->o->ping);
    if (!s->metrics || !s->pings || (l->response_cache && !(s->memo = memo_new((size_t)l->response_cache)))) return fail(e, "out of memory");
    if (l->o->kv_dir && disk_open(&s->disk, l->o->kv_dir, l->kv_disk, log_disk, s, e)) return -1;
    return l->o->trace ? trace_open(&s->trace, l->o->trace, e) : 0;
}

/* Names are checked where a web page could do what its visitor may: at addresses of this machine alone, without keys (a page has none). And
 * wherever names were given. */
static void check_names(life *l) {
    hosts *v = &l->s.hosts;
    err unused = { 0 };
    v->checked = !v->any && (v->n || (http_is_loopback(l->s.http) && !l->n_keys));
    hosts_add_own(v);
    hosts_add(v, l->o->host, &unused); /* an address passes anyway */
}

static int open_all(life *l, err *e) {
    serve_opts *o = l->o;
    server *s = &l->s;
    for (int i = 0; i < l->n_drafts; i++)
        l->drafts[i] = (model_draft){ server_model_name(s, l->drafts[i].model), server_model_name(s, l->drafts[i].draft) };
    models_opts m = { .paths = o->models, .n_paths = o->n_models, .memory = l->memory, .keep_alive = s->keep_alive,
                      .drafts = l->drafts, .n_drafts = l->n_drafts,
                      .engine = { .kernels = o->kernels, .threads = o->threads, .ctx = o->ctx, .max_sessions = o->slots,
                                  .cache_type = o->cache_type, .exact = o->exact } };
    if (engine_check(&m.engine, e) || read_keys(l, e) || guard_new(&s->guard, l->keys, l->n_keys, o->rate, e)) return -1;
    if (open_caches(l, e) || models_open(&s->models, &m, e) || work_start(&s->workers, WORKERS, e) ||
        work_start(&s->light, LIGHT_WORKERS, e) || work_start(&s->events, EVENT_WORKERS, e))
        return -1;
    schedule_opts c = { .models = s->models, .workers = s->workers, .events = s->events, .disk = s->disk, .max_queue = o->queue,
                        .slots = o->slots, .max_delay = (double)o->max_delay, .default_timeout = (double)o->timeout };
    if (schedule_start(&s->schedule, &c, e)) return -1;
    http_opts h = { .host = o->host, .port = o->port, .max_connections = o->max_connections, .cors = o->cors,
                    .handle = server_handle, .handle_now = server_handle_now, .error_body = server_error, .arg = s,
                    .workers = s->workers, .light = s->light, .is_light = server_is_light };
    if (http_listen(&s->http, &h, e)) return -1;
    check_names(l);
    return 0;
}

static void close_all(life *l) {
    server *s = &l->s;
    schedule_stop(s->schedule);
    if (s->http) http_free(s->http);
    work_stop(s->workers);
    work_stop(s->light);
    work_stop(s->events);
    models_close(s->models);
    disk_close(s->disk);
    trace_close(s->trace);
    memo_free(s->memo);
    pings_free(s->pings);
    metrics_free(s->metrics);
    guard_free(s->guard);
    for (int i = 0; i < s->n_aliases; i++) free((char *)(uintptr_t)l->alias[i].name);
    for (int i = 0; i < s->n_fallbacks; i++) free(l->fallback_text[i]);
    for (int i = 0; i < l->n_draft_texts; i++) free(l->draft_text[i]);
    buf_free(&l->key_text);
}

/* A name that leads nowhere may be a slip, or a model that is not there yet: it is said, and no more. */
static void check_named(const server *s, const char *from, const char *name) {
    err e = { 0 };
    bool open;
    model unused;
    if (models_describe(s->models, server_model_name(s, name), &open, &unused, &e) && (e.code == MODELS_NOT_FOUND || e.code == MODELS_NO_MODEL))
        log_line(s, "%s: %s", from, e.msg);
}

static void check_other_names(const life *l) {
    const server *s = &l->s;
    for (int i = 0; i < s->n_aliases; i++) check_named(s, "--alias", l->alias[i].model);
    for (int i = 0; i < s->n_fallbacks; i++)
        for (int k = 0; k < l->fallbacks[i].n; k++) check_named(s, "--fallback", l->fallbacks[i].others[k]);
}

/* How many there are. What is wrong with the first one is said now: with a bad option it is wrong with all of them. */
static int check_models(const server *s, int ctx) {
    err e = { 0 };
    model *list, first;
    int n;
    bool open;
    if (models_list(s->models, &list, &n, &e)) return 0;
    if (n && models_describe(s->models, list[0].name, &open, &first, &e)) log_line(s, "model '%s' cannot be opened: %s", list[0].name, e.msg);
    else if (n && first.info && first.info->ctx < ctx)
        log_line(s, "model '%s': context %d, its own: --ctx %d is more", list[0].name, first.info->ctx, ctx);
    free(list);
    return n;
}

static int run(life *l, err *e) {
    server *s = &l->s;
    int n;
    if (open_all(l, e)) return -1;
    if (!(n = check_models(s, l->o->ctx))) return fail(e, "no model file found: expected .bin files, as ./convert writes them");
    check_other_names(l);
    if (pthread_create(&l->keeper, NULL, keep, l)) return fail(e, "a thread could not be started: %s", strerror(errno));
    const char *host = l->o->host;
    log_line(s, "listening on http://%s%s%s:%d, %d model%s, %d slots%s", strchr(host, ':') ? "[" : "", host,
             strchr(host, ':') ? "]" : "", http_port(s->http), n, n == 1 ? "" : "s",
             s->n_slots, l->n_keys ? ", keys needed" : "");
    int rc = http_run(s->http, e);
    atomic_store(&l->stopping, true);
    pthread_kill(l->keeper, SIGTERM); /* it waits for one */
    pthread_join(l->keeper, NULL);
    return rc;
}

static int serve(serve_opts *o, const program *p) {
    static life l; /* large; one */
    err e = { 0 };
    l.o = o;
    int rc = check(p, &l);
    if (rc != OPTIONS_GO_ON) return rc;
    l.s.aliases = l.alias;
    l.s.fallbacks = l.fallbacks;
    l.s.n_slots = o->slots;
    l.s.cors = o->cors;
    l.s.strict = o->strict;
    l.s.allow_delete = o->allow_delete;
    l.s.log_json = strcmp(o->log, "json") == 0;
    l.s.quiet = strcmp(o->log, "none") == 0;
    l.s.started = now_seconds();
    l.s.started_at = (int64_t)time(NULL);
    l.s.id_salt = hash_bytes(&l.s.started, sizeof l.s.started) ^ (uint64_t)getpid();
    block_signals();
    fault_begin();
    rc = run(&l, &e);
    close_all(&l);
    if (rc) fprintf(stderr, "serve: %s\n", e.msg);
    return rc ? 1 : 0;
}

static int print(void (*write_out)(buf *out)) {
    buf b = { 0 };
    write_out(&b);
    bool bad = b.failed || fwrite(b.p, 1, b.n, stdout) != b.n || fflush(stdout);
    buf_free(&b);
    return bad ? 1 : 0;
}

static const char about[] = "Serves models over HTTP: the APIs of OpenAI, Ollama and llama-server, and Anthropic's messages. "
                            "TLS is a proxy's work. SIGTERM drains.";

int main(int argc, char **argv) {
    serve_opts o = { .host = "127.0.0.1", .port = 8080, .slots = 8, .keep_alive = "5m", .log = "text", .drain = DRAIN_SECONDS,
                     .kv_disk = "8G", .ping = 30 };
    const option options[] = {
        { "--host", NULL, OPT_TEXT, &o.host, "ADDRESS", "address to listen on (127.0.0.1: this machine only; 0.0.0.0: all)", NULL },
        { "--port", NULL, OPT_INT, &o.port, "N", "port (8080); 0: the system chooses one, and it is printed", NULL },
        { "--ctx", "-c", OPT_INT, &o.ctx, "N", "positions of a sequence, at most the model's own (the model's own, "
                                               "if the cache of all slots fits in a quarter of memory)", NULL },
        { "--threads", "-t", OPT_INT, &o.threads, "N", "threads that compute (physical cores, within the cgroup's quota)", NULL },
        { "--slots", NULL, OPT_INT, &o.slots, "N", "sequences at a time (8); others wait", NULL },
        { "--queue", NULL, OPT_INT, &o.queue, "N", "requests that may wait (512); more get 503 and Retry-After", NULL },
        { "--timeout", NULL, OPT_FLOAT, &o.timeout, "SECONDS", "deadline of a request that sets none (0: none)", NULL },
        { "--max-delay", NULL, OPT_FLOAT, &o.max_delay, "SECONDS", "by which prompts may delay the next token of others (0.1)", NULL },
        { "--memory", NULL, OPT_TEXT, &o.memory, "BYTES", "of all open models, such as 8G (the machine's); least recently used first out", NULL },
        { "--keep-alive", NULL, OPT_TEXT, &o.keep_alive, "TIME", "how long an unused model stays open (5m); negative: for ever", NULL },
        { "--cache-type", NULL, OPT_TEXT, &o.cache_type, "TYPE", "f16 (default) or q8", NULL },
        { "--kv-dir", NULL, OPT_TEXT, &o.kv_dir, "FOLDER",
          "keeps what prompts cost on disk, too: a restart is warm, a long prefix is not computed twice", NULL },
        { "--kv-disk", NULL, OPT_TEXT, &o.kv_disk, "BYTES", "the most that --kv-dir may take (8G); least recently used first out", NULL },
        { "--response-cache", NULL, OPT_TEXT, &o.response_cache, "BYTES",
          "gives equal requests with a seed or temperature 0 their answer again, and says so (off)", NULL },
        { "--pooling", NULL, OPT_TEXT, &o.pooling, "KIND",
          "embeddings of models whose checkpoint does not say how: first (cls), mean or last; the reply says so (they are refused)", NULL },
        { "--kernels", NULL, OPT_TEXT, &o.kernels, "NAME", "table of kernels (the best of this CPU)", NULL },
        { "--exact", NULL, OPT_FLAG, &o.exact, NULL, "f32 activations and cache", NULL },
        { "--alias", NULL, OPT_TEXTS, &o.aliases, "NAME=MODEL", "another name of a model; may be given several times", NULL },
        { "--fallback", NULL, OPT_TEXTS, &o.fallbacks, "MODEL=OTHER,...",
          "stand in, in this order, when MODEL is missing, damaged or too large; the reply says so", NULL },
        { "--draft", NULL, OPT_TEXTS, &o.drafts, "MODEL=DRAFT,...",
          "a smaller model of the same tokens, or its file, proposes: the same answers, sooner; DRAFT alone: for the only model", NULL },
        { "--api-key", NULL, OPT_TEXTS, &o.keys, "KEY", "clients must send it (Authorization: Bearer KEY, X-Api-Key); also $QUERN_API_KEY", NULL },
        { "--api-key-file", NULL, OPT_TEXT, &o.key_file, "FILE", "keys, one a line", NULL },
        { "--rate", NULL, OPT_INT, &o.rate, "N", "requests a minute of a key or address (0: any number)", NULL },
        { "--trust-proxy", NULL, OPT_TEXTS, &o.proxies, "ADDRESS,...",
          "proxies (addresses, or nets such as 10.0.0.0/8) whose X-Forwarded-For says who asks: for --rate, fair shares and the log", NULL },
        { "--allow-host", NULL, OPT_TEXTS, &o.names, "NAME,...",
          "names that clients may use for this server, * for any. On 127.0.0.1 without keys only localhost, addresses, "
          "this machine's name and --host pass, else any", NULL },
        { "--cors", NULL, OPT_TEXT, &o.cors, "ORIGIN",
          "lets pages of this origin ask, and read the answers; * for all. Without keys pages of other sites get 403; "
          "those of this machine and of --allow-host may ask", NULL },
        { "--max-connections", NULL, OPT_INT, &o.max_connections, "N", "open connections (1024)", NULL },
        { "--strict", NULL, OPT_FLAG, &o.strict, NULL, "unknown fields and fields without effect are errors, not warnings", NULL },
        { "--allow-delete", NULL, OPT_FLAG, &o.allow_delete, NULL, "/api/delete and /api/copy may change files", NULL },
        { "--drain", NULL, OPT_INT, &o.drain, "SECONDS", "that running requests have after SIGTERM (30)", NULL },
        { "--sse-ping-interval", NULL, OPT_INT, &o.ping, "SECONDS", "a sign of life in a stream that is silent for so long (30); 0: none", NULL },
        { "--trace", NULL, OPT_TEXT, &o.trace, "FILE",
          "appends every request's ids, sampling and answer: run --replay computes them again (prompts stand in it)", NULL },
        { "--log", NULL, OPT_TEXT, &o.log, "KIND", "text, json or none: a line a request on stderr", NULL },
        { "--help-fields", NULL, OPT_FLAG, &o.help_fields, NULL, "every field of every request, and what happens with it", NULL },
        { "--api-markdown", NULL, OPT_FLAG, &o.markdown, NULL, "the same as docs/api.md has it", NULL },
    };
    const program p = { "serve", "MODEL.bin|FOLDER ... [options]", about, options, sizeof options / sizeof *options };
    int rc = options_parse(&p, argc, argv, o.models, MOST_MODELS, &o.n_models);
    if (rc != OPTIONS_GO_ON) return rc;
    if (o.help_fields) return print(fields_help);
    if (o.markdown) return print(fields_markdown);
    return serve(&o, &p);
}
