/* server: from an exchange to the handler of its path: routes, keys, rates, and the beginning of a request's life. It must not know
 * what any path means. */
#define _GNU_SOURCE
#include "tools/serve/request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "tools/serve/api.h"
#include "tools/serve/guard.h"
#include "tools/serve/log.h"

const endpoint endpoints[] = {
    { "GET", "/health", DIALECT_NATIVE, 0, native_health, true, true },
    { "GET", "/v1/health", DIALECT_NATIVE, 0, native_health, true, true },
    { "GET", "/", DIALECT_OLLAMA, 0, ollama_root, true, true },
    { "GET", "/v1/models", DIALECT_OPENAI, 0, openai_models, false, true },
    { "GET", "/models", DIALECT_OPENAI, 0, openai_models, false, true },
    { "GET", "/v1/models/*", DIALECT_OPENAI, 0, openai_model, false, true },
    { "POST", "/v1/chat/completions", DIALECT_OPENAI, FIELDS_CHAT, openai_chat, false, false },
    { "POST", "/chat/completions", DIALECT_OPENAI, FIELDS_CHAT, openai_chat, false, false },
    { "POST", "/v1/completions", DIALECT_OPENAI, FIELDS_COMPLETIONS, openai_completions, false, false },
    { "POST", "/v1/embeddings", DIALECT_OPENAI, FIELDS_EMBEDDINGS, openai_embeddings, false, false },
    { "POST", "/v1/responses", DIALECT_OPENAI, FIELDS_RESPONSES, responses_create, false, false },
    { "POST", "/v1/messages", DIALECT_ANTHROPIC, FIELDS_MESSAGES, anthropic_messages, false, false },
    { "POST", "/v1/messages/count_tokens", DIALECT_ANTHROPIC, FIELDS_COUNT_TOKENS, anthropic_count, false, false },
    { "GET", "/api/version", DIALECT_OLLAMA, 0, ollama_version, true, true },
    { "GET", "/api/tags", DIALECT_OLLAMA, 0, ollama_tags, false, true },
    { "GET", "/api/ps", DIALECT_OLLAMA, 0, ollama_ps, false, true },
    { "POST", "/api/show", DIALECT_OLLAMA, FIELDS_SHOW, ollama_show, false, false },
    { "POST", "/api/generate", DIALECT_OLLAMA, FIELDS_GENERATE, ollama_generate, false, false },
    { "POST", "/api/chat", DIALECT_OLLAMA, FIELDS_OLLAMA_CHAT, ollama_chat, false, false },
    { "POST", "/api/embed", DIALECT_OLLAMA, FIELDS_EMBED, ollama_embed, false, false },
    { "POST", "/api/embeddings", DIALECT_OLLAMA, FIELDS_OLD_EMBEDDINGS, ollama_old_embeddings, false, false },
    { "POST", "/api/pull", DIALECT_OLLAMA, FIELDS_NAMED, ollama_pull, false, false },
    { "POST", "/api/push", DIALECT_OLLAMA, 0, ollama_not_here, false, true },
    { "POST", "/api/create", DIALECT_OLLAMA, 0, ollama_not_here, false, true },
    { "POST", "/api/blobs/*", DIALECT_OLLAMA, 0, ollama_not_here, false, true },
    { "GET", "/api/blobs/*", DIALECT_OLLAMA, 0, ollama_not_here, false, true },
    { "POST", "/api/copy", DIALECT_OLLAMA, FIELDS_COPY, ollama_copy, false, false },
    { "DELETE", "/api/delete", DIALECT_OLLAMA, FIELDS_NAMED, ollama_delete, false, false },
    { "GET", "/props", DIALECT_NATIVE, 0, native_props, false, false },
    { "GET", "/slots", DIALECT_NATIVE, 0, native_slots, false, true },
    { "POST", "/slots/*", DIALECT_NATIVE, FIELDS_SLOT, native_slot_action, false, false },
    { "POST", "/completion", DIALECT_NATIVE, FIELDS_COMPLETION, native_completion, false, false },
    { "POST", "/completions", DIALECT_NATIVE, FIELDS_COMPLETION, native_completion, false, false },
    { "POST", "/infill", DIALECT_NATIVE, FIELDS_INFILL | FIELDS_COMPLETION, native_infill, false, false },
    { "POST", "/tokenize", DIALECT_NATIVE, FIELDS_TOKENIZE, native_tokenize, false, false },
    { "POST", "/detokenize", DIALECT_NATIVE, FIELDS_DETOKENIZE, native_detokenize, false, false },
    { "POST", "/apply-template", DIALECT_NATIVE, FIELDS_TEMPLATE, native_template, false, false },
    { "GET", "/lora-adapters", DIALECT_NATIVE, 0, native_lora, false, false },
    { "POST", "/lora-adapters", DIALECT_NATIVE, 0, native_lora, false, false },
    { "GET", "/metrics", DIALECT_NATIVE, 0, native_metrics, false, true },
};
const int endpoints_n = (int)(sizeof endpoints / sizeof *endpoints);

/* ---- routes ---- */

static bool path_fits(const char *pattern, const char *path, const char **arg) {
    size_t n = strlen(pattern);
    if (pattern[n - 1] != '*') {
        if (strncmp(pattern, path, n)) return false;
        return !path[n] || (n > 1 && path[n] == '/' && !path[n + 1]); /* a slash at the end is forgiven */
    }
    if (strncmp(pattern, path, n - 1) || !path[n - 1]) return false;
    *arg = path + n - 1;
    return true;
}

static bool method_fits(const char *wanted, const char *method) {
    return strcmp(wanted, method) == 0 || (strcmp(wanted, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

/* The route; NULL: none. allow: the methods of the path, "" where it is unknown. */
static const endpoint *route(const char *method, const char *path, const char **arg, char allow[64]) {
    allow[0] = 0;
    for (int i = 0; i < endpoints_n; i++) {
        const endpoint *p = &endpoints[i];
        if (!path_fits(p->path, path, arg)) continue;
        if (method_fits(p->method, method)) return p;
        size_t n = strlen(allow);
        if (!strstr(allow, p->method)) snprintf(allow + n, 64 - n, "%s%s%s", n ? ", " : "", p->method, strcmp(p->method, "GET") ? "" : ", HEAD");
    }
    return NULL;
}

static dialect dialect_of(const char *path) {
    if (strncmp(path, "/api/", 5) == 0 || strcmp(path, "/") == 0) return DIALECT_OLLAMA;
    if (strncmp(path, "/v1/messages", 12) == 0) return DIALECT_ANTHROPIC;
    return strncmp(path, "/v1", 3) == 0 ? DIALECT_OPENAI : DIALECT_NATIVE;
}

/* ---- the beginning of a request ---- */

/* Rates and shares of the steps are the client's, not its proxy's. */
static void name_client(request *q) {
    char bad[64];
    if (proxies_client(&q->s->proxies, q->h, q->client, bad) == FORWARDED_BAD)
        log_line(q->s, "%s: X-Forwarded-For from the trusted proxy %s: expected addresses, found \"%s\": it counts as the proxy's own request",
                 q->id, q->h->peer, bad);
    q->user = q->client;
}

static request *request_new(server *s, exchange *x) {
    request *q = calloc(1, sizeof *q);
    if (!q || pthread_mutex_init(&q->lock, NULL)) {
        free(q);
        return NULL;
    }
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    q->s = s;
    q->x = x;
    q->h = exchange_request(x);
    q->created = t.tv_sec;
    q->keep_alive = NAN;
    q->dialect = dialect_of(q->h->path);
    snprintf(q->id, sizeof q->id, "req-%012llx%06x", (unsigned long long)(s->id_salt & 0xffffffffffffULL),
             (unsigned)atomic_fetch_add(&s->next_id, 1) & 0xffffff);
    name_client(q);
    return q;
}

/* ---- keys and rates ---- */

static const char *sent_key(const request *q) {
    const char *bearer = exchange_header(q->x, "authorization");
    if (bearer && strncasecmp(bearer, "Bearer ", 7) == 0) {
        bearer += 7;
        while (*bearer == ' ') bearer++;
        return bearer;
    }
    return exchange_header(q->x, "x-api-key");
}

static int check_key(request *q) {
    struct guard *g = q->s->guard;
    if (!guard_needs_key(g) || q->where->open) return 0;
    const char *key = sent_key(q);
    int which = key ? guard_key(g, key, strlen(key)) : -1;
    if (which < 0) {
        q->more_headers = "WWW-Authenticate: Bearer\r\n";
        return request_fail_status(q, 401, "invalid_api_key", key ? "Invalid API Key" : "an API key is needed: Authorization: Bearer KEY");
    }
    char *user = arena_alloc(&q->mem, 24);
    if (!user) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    snprintf(user, 24, "key-%d", which);
    q->user = user;
    return 0;
}

static int check_rate(request *q) {
    double wait = 0;
    if (q->where->open || guard_allows(q->s->guard, q->user, now_seconds(), &wait)) return 0;
    char *text = arena_alloc(&q->mem, 96);
    if (text) snprintf(text, 96, "Retry-After: %.0f\r\nRetry-After-Ms: %.0f\r\n", ceil(wait), ceil(wait * 1e3));
    q->more_headers = text;
    return request_fail_status(q, 429, "rate_limit_exceeded", "too many requests: try again in %.1f s", wait);
}

/* ---- names ---- */

/* /health is for everybody, as with llama-server: those who ask it (a proxy's checks, Kubernetes' probes) send whatever Host they like, and it says
 * nothing but "ok". /metrics tells what the server does and for how many: there the name counts, as Ollama has it for all its paths; who
 * scrapes by address (Prometheus' targets are host:port) or by a name that is allowed sees it. */
static int check_host(request *q) {
    const char *host = exchange_header(q->x, "host");
    if ((q->where && q->where->handle == native_health) || hosts_allow(&q->s->hosts, host)) return 0;
    return request_fail_status(q, 403, "host_not_allowed", "the name \"%.*s\" is none that this server answers to, so that "
                                                           "no web page can use it in secret: serve --allow-host NAME allows one",
                               (int)strcspn(host, ":") > 100 ? 100 : (int)strcspn(host, ":"), host);
}

/* What pages of other sites send is refused before anything is done for it. Where keys are needed, a page that has one may come from anywhere. */
static int check_origin(request *q) {
    const char *origin = exchange_header(q->x, "origin"), *cors = q->s->cors;
    if (!origin || guard_needs_key(q->s->guard) || (q->where && q->where->handle == native_health)) return 0;
    if (cors && (strcmp(cors, "*") == 0 || strcasecmp(cors, origin) == 0)) return 0;
    if (hosts_allow_origin(&q->s->hosts, origin, exchange_header(q->x, "host"))) return 0;
    return request_fail_status(q, 403, "origin_not_allowed", "a page of \"%.100s\" may not use this server, so that no web "
                                                             "page can do so in secret: serve --cors ORIGIN allows one", origin);
}

/* ---- handling ---- */

static int not_found(request *q, const char *allow) {
    if (!*allow) return request_fail_status(q, 404, "not_found", "there is no path %.200s here", q->h->path);
    char *text = arena_alloc(&q->mem, 96);
    if (text) snprintf(text, 96, "Allow: %s\r\n", allow);
    q->more_headers = text;
    return request_fail_status(q, 405, "method_not_allowed", "%.20s is not a method of %.200s: expected %s", q->h->method, q->h->path, allow);
}

static int handle(request *q) {
    char allow[64];
    q->where = route(q->h->method, q->h->path, &q->arg, allow);
    if (check_host(q) || check_origin(q)) return -1;
    if (!q->where) {
        /* OPTIONS: of the server as a whole */
        if (strcmp(q->h->path, "*") == 0) return reply_text(q, 204, NULL, "Allow: GET, HEAD, POST, DELETE, OPTIONS\r\n", "", 0);
        if (*allow && strcmp(q->h->method, "OPTIONS") == 0) {
            char extra[96];
            snprintf(extra, sizeof extra, "Allow: %s, OPTIONS\r\n", allow);
            return reply_text(q, 204, NULL, extra, "", 0);
        }
        return not_found(q, allow);
    }
    q->dialect = q->where->dialect;
    if (check_key(q) || check_rate(q)) return -1;
    if (q->where->fields && request_read(q)) return -1;
    return q->where->handle(q);
}

/* A path that never came counts as one of OpenAI's: its shape is the one that most clients read. */
void server_error(void *arg, const char *path, int status, const char *code, const char *message, buf *out) {
    (void)arg;
    failure_plain(*path ? dialect_of(path) : DIALECT_OPENAI, status, code, message, out);
}

void server_handle(void *arg, exchange *x) {
    request *q = request_new(arg, x);
    if (!q) {
        buf body = { 0 };
        server_error(arg, exchange_request(x)->path, 503, "out_of_memory", "out of memory", &body);
        exchange_reply(x, 503, "application/json", "Retry-After: 1\r\n", body.failed ? "{}" : body.p, body.failed ? 2 : body.n);
        buf_free(&body);
        return;
    }
    if (handle(q)) reply_failure(q);
}

/* Nor is what has no path, or no such method. */
bool server_is_light(void *arg, const http_request *h) {
    const char *unused;
    char allow[64];
    (void)arg;
    const endpoint *p = route(h->method, h->path, &unused, allow);
    return !p || p->light;
}

/* Health is answered where nothing can be in its way. */
bool server_handle_now(void *arg, exchange *x) {
    const http_request *h = exchange_request(x);
    server *s = arg;
    if (!method_fits("GET", h->method) || (strcmp(h->path, "/health") && strcmp(h->path, "/v1/health"))) return false;
    static const char ok[] = "{\"status\":\"ok\"}";
    static const char not_ready[] = "{\"error\":{\"code\":503,\"message\":\"the server shuts down\",\"type\":\"unavailable_error\","
                                    "\"name\":\"shutting_down\"}}";
    if (atomic_load(&s->draining)) exchange_reply(x, 503, "application/json", "Retry-After: 5\r\n", not_ready, sizeof not_ready - 1);
    else exchange_reply(x, 200, "application/json; charset=utf-8", "", ok, sizeof ok - 1);
    return true;
}
