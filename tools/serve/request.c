/* request: from a checked body to a job: the model, the prompts as tokens, sampling, length, ends. What is the same for all dialects
 * stands here once. It must not know how any of them writes a reply. */
#include "tools/serve/request.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "runtime/speculate.h"
#include "tools/serve/memo.h"
#include "tools/serve/ping.h"

/* bytes of all trees at a time; of what one answer is kept with until its end */
static const size_t MOST_PARSED = (size_t)1 << 30, MOST_KEPT = (size_t)512 << 20;
enum { MOST_PROMPTS = 2048, MOST_STOPS = 64, MOST_STOP_BYTES = 4096, MOST_CHOICES = 4096 };

/* ---- failures and warnings ---- */

int request_fail(request *q, job_error code, const char *param, const char *fmt, ...) {
    if (q->failure.code) return -1;
    va_list args;
    va_start(args, fmt);
    vsnprintf(q->failure.msg, sizeof q->failure.msg, fmt, args);
    va_end(args);
    q->failure.code = code;
    if (!q->failure.phase) q->failure.phase = "parse";
    q->failure.param = param ? arena_copy(&q->mem, param, strlen(param)) : NULL;
    return -1;
}

int request_fail_status(request *q, int status, const char *code, const char *fmt, ...) {
    if (q->failure.code) return -1;
    va_list args;
    va_start(args, fmt);
    vsnprintf(q->failure.msg, sizeof q->failure.msg, fmt, args);
    va_end(args);
    q->failure.code = JOB_INVALID;
    q->failure.phase = "parse";
    q->status = status;
    q->code = code;
    return -1;
}

int request_fail_err(request *q, const char *param, const err *e) {
    return request_fail(q, e->code == ERR_MEMORY ? JOB_MEMORY : JOB_INVALID, param, "%s%s%s", param ? param : "", param ? ": " : "", e->msg);
}

int request_fail_server(request *q, const err *e) { return request_fail(q, e->code == ERR_MEMORY ? JOB_MEMORY : JOB_FAILED, NULL, "%s", e->msg); }

void request_warn(request *q, const char *fmt, ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    fields_warn(&q->report, "%s", text);
}

/* ---- the body ---- */

static int check_fields(request *q, uint32_t group, const json *object, const char *prefix) {
    if (!fields_check(group, object, prefix, q->s->strict, q->v, &q->report)) return 0;
    return request_fail(q, q->report.unsupported ? JOB_UNSUPPORTED : JOB_INVALID, q->report.param, "%s", q->report.msg);
}

/* A body of nothing but zeros and commas takes 40 times its size, for as long as its request waits: there is a bound for each, and one for all. */
static int parse_body(request *q, json **body) {
    err e = { 0 };
    q->mem.limit = ((size_t)64 << 20) + 8 * q->h->body_n;
    int rc = json_parse(&q->mem, q->h->body, q->h->body_n, body, &e);
    bool large = q->mem.limit - q->mem.used < q->h->body_n + 4096; /* else it was the machine that had no memory */
    q->mem.limit = 0;
    q->parsed = q->mem.used;
    size_t all = atomic_fetch_add(&q->s->parsed, q->parsed) + q->parsed;
    if (rc && e.code == ERR_MEMORY && large) return request_fail(q, JOB_INVALID, NULL, "the body holds too many values for one request");
    if (rc && e.code == ERR_MEMORY) return request_fail(q, JOB_MEMORY, NULL, "out of memory: the body");
    if (rc) return request_fail(q, JOB_INVALID, NULL, "the body is %s", e.msg);
    if (all > MOST_PARSED)
        return request_fail(q, JOB_MEMORY, NULL, "the bodies of all requests under way take %zu MB, the most is %zu: try again later",
                            all >> 20, MOST_PARSED >> 20);
    return 0;
}

int request_read(request *q) {
    json *body;
    const char *coding = exchange_header(q->x, "content-encoding");
    if (coding && strcasecmp(coding, "identity"))
        return request_fail_status(q, 415, "unsupported_encoding", "Content-Encoding: %.40s is not known here: send the body as it is", coding);
    q->report.warnings = &q->warnings;
    if (!q->h->body_n && q->where->fields == FIELDS_SLOT) return 0; /* erase has none */
    if (!q->h->body_n) return request_fail(q, JOB_INVALID, NULL, "missing request body: expected a JSON object");
    if (parse_body(q, &body)) return -1;
    if (body->type != JSON_OBJECT) return request_fail(q, JOB_INVALID, NULL, "the body is %s, expected a JSON object", json_type_name(body));
    q->body = body;
    if (check_fields(q, q->where->fields, body, "")) return -1;
    const json *options = q->v[F_OPTIONS];
    return options ? check_fields(q, FIELDS_OPTIONS, options, "options.") : 0;
}

bool request_flag(const request *q, field_key k, bool otherwise) { return q->v[k] ? q->v[k]->type == JSON_TRUE : otherwise; }

int64_t request_int(const request *q, field_key k, int64_t otherwise) {
    int64_t x;
    return q->v[k] && json_int(q->v[k], &x) == 0 ? x : otherwise;
}

double request_num(const request *q, field_key k, double otherwise) {
    double x;
    return q->v[k] && json_num(q->v[k], &x) == 0 ? x : otherwise;
}

const char *request_str(const request *q, field_key k, const char *otherwise) {
    return q->v[k] && q->v[k]->type == JSON_STRING ? q->v[k]->s : otherwise;
}

int request_need(request *q, field_key k, const char *name) {
    return q->v[k] ? 0 : request_fail(q, JOB_INVALID, name, "%s: a required field is missing", name);
}

/* "5m", "1h30m", "300s", "300ms", a number of seconds. */
static int parse_duration(const char *s, double *out) {
    static const struct { const char *unit; double seconds; } units[] = { { "ms", 1e-3 }, { "us", 1e-6 }, { "ns", 1e-9 },
                                                                          { "h", 3600 }, { "m", 60 }, { "s", 1 } };
    double sum = 0;
    bool minus = *s == '-';
    if (*s == '-' || *s == '+') s++;
    if (!*s) return -1;
    while (*s) {
        char *end;
        if (!strchr("0123456789.", *s)) return -1;
        double x = strtod(s, &end);
        if (end == s || !isfinite(x)) return -1;
        size_t u = 0, n = sizeof units / sizeof *units;
        while (*end && u < n && strncmp(end, units[u].unit, strlen(units[u].unit))) u++;
        if (u == n) return -1;
        sum += *end ? x * units[u].seconds : x;
        s = *end ? end + strlen(units[u].unit) : end;
    }
    *out = minus ? -sum : sum;
    return 0;
}

static int take_keep_alive(request *q) {
    const json *v = q->v[F_KEEP_ALIVE];
    q->keep_alive = NAN;
    if (!v) return 0;
    if (json_num(v, &q->keep_alive) == 0) return 0;
    if (v->type == JSON_STRING && parse_duration(v->s, &q->keep_alive) == 0) return 0;
    return request_fail(q, JOB_INVALID, "keep_alive", "keep_alive: expected \"5m\", \"300s\" or a number of seconds, found \"%.40s\"", v->s);
}

/* ---- the model ---- */

/* Is it this name, or name:latest? */
static bool asks_for(const char *asked, const char *name) {
    size_t n = strlen(name);
    return strncmp(asked, name, n) == 0 && (!asked[n] || strcmp(asked + n, ":latest") == 0);
}

const char *server_model_name(const server *s, const char *name) {
    for (int i = 0; name && i < s->n_aliases; i++)
        if (asks_for(name, s->aliases[i].name)) return s->aliases[i].model;
    return name;
}

/* What may stand in for it. */
static const fallback *fallback_of(const server *s, const char *name) {
    for (int i = 0; name && i < s->n_fallbacks; i++)
        if (asks_for(name, s->fallbacks[i].model)) return &s->fallbacks[i];
    return NULL;
}

static const char *hold_code(const err *e) {
    return e->code == MODELS_NOT_FOUND ? "model_not_found" : e->code == MODELS_NO_MEMORY || e->code == ERR_MEMORY ? "out_of_memory"
                                       : "cannot_be_opened";
}

/* The model, or the first of its fallbacks that can be had; e: why not the one asked for. (The queue is one for all models: that it is
 * full is no reason for another.) */
static int hold_or_fall_back(request *q, const char *name, err *e) {
    if (models_hold(q->s->models, name, &q->m, e) == 0) return 0;
    const fallback *f = fallback_of(q->s, name);
    for (int i = 0; f && i < f->n; i++) {
        err unused = { 0 };
        if (models_hold(q->s->models, server_model_name(q->s, f->others[i]), &q->m, &unused)) continue;
        snprintf(q->fell_from, sizeof q->fell_from, "%s", name);
        snprintf(q->fell_code, sizeof q->fell_code, "%s", hold_code(e));
        snprintf(q->fell_why, sizeof q->fell_why, "%.*s", (int)sizeof q->fell_why - 1, e->msg);
        snprintf(q->model_name, sizeof q->model_name, "%s", q->m->name);
        return 0;
    }
    q->m = NULL;
    return -1;
}

int request_model(request *q) {
    err e = { 0 };
    const char *asked = request_str(q, F_MODEL, NULL);
    snprintf(q->model_name, sizeof q->model_name, "%s", asked ? asked : "");
    if (take_keep_alive(q)) return -1;
    q->failure.phase = "load";
    double start = now_seconds();
    if (!q->m && hold_or_fall_back(q, server_model_name(q->s, asked), &e)) {
        if (e.code == MODELS_NOT_FOUND) return request_fail(q, JOB_MODEL_NOT_FOUND, "model", "model '%.200s' not found", asked ? asked : "");
        if (e.code == MODELS_NO_MODEL) return request_fail(q, JOB_INVALID, "model", "model %s", e.msg);
        return request_fail(q, e.code == MODELS_NO_MEMORY || e.code == ERR_MEMORY ? JOB_MEMORY : JOB_FAILED, "model", "%s", e.msg);
    }
    q->failure.phase = "parse";
    q->load_seconds = now_seconds() - start;
    if (!asked) snprintf(q->model_name, sizeof q->model_name, "%s", q->m->name);
    return 0;
}

int request_tokenizer(request *q) {
    if (q->m->tok) return 0;
    return request_fail(q, JOB_INVALID, "model", "model '%s' has no tokenizer: send token ids, or convert it again with a tokenizer", q->m->name);
}

/* ---- the job ---- */

/* How much may be proposed; and whether anybody does. */
static void take_draft(request *q) {
    int64_t most = request_int(q, F_DRAFT_MOST, -1);
    const model *m = q->j->m;
    q->j->draft_most = (int)(most > SPECULATE_MOST ? SPECULATE_MOST : most);
    if (most == 0) return;
    if (m->no_draft[0]) request_warn(q, "the draft '%s' of this model is not used, the answer is the same without: %s", m->draft_name, m->no_draft);
    else if (most > 0 && !m->draft && !q->j->lookup)
        request_warn(q, "%s: nothing proposes tokens for model '%s': it has no draft (serve --draft), and lookup is off",
                     q->dialect == DIALECT_OLLAMA ? "options.draft_num_predict" : "speculative.n_max", m->name);
}

int request_job(request *q, job_kind kind) {
    err e = { 0 };
    job *j = job_new();
    if (!j) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    q->j = j;
    if (models_hold(q->s->models, q->m->name, &j->m, &e)) { /* the job's own hold: it may outlive the request's */
        j->m = NULL;
        return request_fail(q, JOB_FAILED, "model", "%s", e.msg);
    }
    snprintf(j->id, sizeof j->id, "%s", q->id);
    const char *user = request_str(q, F_USER, q->user);
    j->kind = kind;
    job_defaults(j);
    j->cache_prompt = request_flag(q, F_CACHE_PROMPT, true);
    j->lookup = request_flag(q, F_LOOKUP, false);
    if (kind == JOB_GENERATE) take_draft(q);
    j->user = arena_copy(&j->mem, user, strlen(user));
    j->arrived = q->h->arrived;
    double timeout = request_num(q, F_TIMEOUT_MS, 0);
    if (timeout > 0) j->deadline = now_seconds() + timeout / 1e3;
    if (!j->user) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    j->keep_alive = q->keep_alive;
    j->load_seconds = q->load_seconds;
    return kind == JOB_LOAD ? 0 : request_adapters(q);
}

/* ---- prompts ---- */

int request_encode(request *q, const char *text, size_t n, int flags, ids *out) {
    err e = { 0 };
    if (request_tokenizer(q)) return -1;
    size_t before = out->n;
    if (tokenizer_encode(q->m->tok, text, n, flags, out, &e)) return request_fail_err(q, NULL, &e);
    if (out->failed) return request_fail(q, JOB_MEMORY, NULL, "out of memory for the prompt's tokens");
    int32_t bos = tokenizer_bos(q->m->tok);
    if ((flags & TOK_SPECIAL) && bos >= 0 && out->n >= before + 2 && out->p[before] == bos && out->p[before + 1] == bos) {
        memmove(out->p + before, out->p + before + 1, (out->n - before - 1) * sizeof *out->p); /* exactly one */
        out->n--;
        request_warn(q, "the prompt begins with the BOS token, which is added anyway: one of the two was dropped");
    }
    return 0;
}

static int take_id(request *q, const json *j, const char *name, ids *out) {
    int64_t id;
    if (json_int(j, &id)) return request_fail(q, JOB_INVALID, name, "%s: expected token ids, found %s", name, json_type_name(j));
    if (id < 0 || id >= q->m->info->n_vocab)
        return request_fail(q, JOB_INVALID, name, "%s: token id %lld is not in the vocabulary: expected 0 to %d",
                            name, (long long)id, q->m->info->n_vocab - 1);
    ids_add(out, (int32_t)id);
    return out->failed ? request_fail(q, JOB_MEMORY, NULL, "out of memory for the prompt's tokens") : 0;
}

/* One prompt: a string, or ids with, where mixed, strings between them. */
static int take_prompt(request *q, const json *v, const char *name, bool mixed, int flags, ids *out) {
    if (v->type == JSON_STRING) return request_encode(q, v->s, v->n, flags, out);
    if (v->type != JSON_ARRAY)
        return request_fail(q, JOB_INVALID, name, "%s: expected a string or an array of token ids, found %s", name, json_type_name(v));
    if (!v->n) return request_fail(q, JOB_INVALID, name, "%s: an empty list of token ids", name);
    for (const json *k = v->child; k; k = k->next) {
        bool text = mixed && k->type == JSON_STRING;
        if (text ? request_encode(q, k->s, k->n, k == v->child ? flags : flags & ~TOK_SPECIAL, out) : take_id(q, k, name, out)) return -1;
    }
    return 0;
}

static bool is_list_of_prompts(const json *v, bool mixed) {
    if (v->type != JSON_ARRAY || !v->n) return false;
    bool numbers = false;
    for (const json *k = v->child; k; k = k->next) numbers |= k->type == JSON_NUMBER;
    return mixed ? !numbers : v->child->type != JSON_NUMBER;
}

int request_prompts(request *q, const json *v, const char *name, bool mixed, int flags) {
    job *j = q->j;
    bool list = is_list_of_prompts(v, mixed);
    uint32_t n = list ? v->n : 1;
    if (v->type == JSON_ARRAY && !v->n) return request_fail(q, JOB_INVALID, name, "%s: an empty list", name);
    if (n > MOST_PROMPTS) return request_fail(q, JOB_INVALID, name, "%s: %u prompts, the most is %d", name, n, MOST_PROMPTS);
    j->prompts = arena_alloc(&j->mem, n * sizeof *j->prompts);
    if (!j->prompts) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    j->n_prompts = (int)n;
    int i = 0;
    if (!list) return take_prompt(q, v, name, mixed, flags, &j->prompts[0]);
    for (const json *k = v->child; k; k = k->next)
        if (take_prompt(q, k, name, mixed, flags, &j->prompts[i++])) return -1;
    return 0;
}

int request_context(request *q) {
    const engine_info *i = q->m->info;
    job *j = q->j;
    bool cut = j->kind == JOB_EMBED && request_flag(q, F_TRUNCATE, false);
    for (int p = 0; p < j->n_prompts; p++) {
        ids *v = &j->prompts[p];
        if (!v->n)
            return request_fail(q, JOB_INVALID, "prompt", "an empty prompt: this model adds no token of its own, so there is nothing to continue");
        if (v->n <= (size_t)i->ctx) continue;
        if (!cut) {
            request_fail(q, JOB_CONTEXT, NULL, "the prompt has %zu tokens, the context of model '%s' holds %d", v->n, q->m->name, i->ctx);
            q->failure.n_prompt = (int64_t)v->n;
            q->failure.n_ctx = i->ctx;
            return -1;
        }
        request_warn(q, "input %d was cut from %zu tokens to %d, as truncate:true asks", p, v->n, i->ctx);
        int32_t last = v->p[v->n - 1];
        v->n = (size_t)i->ctx;
        if (q->m->tok && tokenizer_is_special(q->m->tok, last)) v->p[v->n - 1] = last; /* the end that the tokenizer adds stays */
    }
    return 0;
}

/* ---- sampling ---- */

static int take_stops(request *q) {
    const json *v = q->v[F_STOP];
    job *j = q->j;
    if (!v) return 0;
    uint32_t n = v->type == JSON_STRING ? 1 : v->n;
    if (n > MOST_STOPS) return request_fail(q, JOB_INVALID, "stop", "stop: %u strings, the most is %d", n, MOST_STOPS);
    j->stops = arena_alloc(&j->mem, (n + 1) * sizeof *j->stops);
    if (!j->stops) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    for (const json *k = v->type == JSON_STRING ? v : v->child; k; k = v->type == JSON_STRING ? NULL : k->next) {
        if (k->type != JSON_STRING) return request_fail(q, JOB_INVALID, "stop", "stop: expected strings, found %s", json_type_name(k));
        if (k->n > MOST_STOP_BYTES || strlen(k->s) != k->n)
            return request_fail(q, JOB_INVALID, "stop", "stop: expected strings of 1 to %d bytes without NUL, found one of %u",
                                MOST_STOP_BYTES, k->n);
        if (!k->n) request_warn(q, "stop: an empty string stops nothing, ignored");
        else j->stops[j->n_stops++] = arena_copy(&j->mem, k->s, k->n);
    }
    return 0;
}

/* A bias, or false: never. */
static int take_bias_value(request *q, const json *v, float *out) {
    double x;
    if (v->type == JSON_FALSE) return *out = -INFINITY, 0;
    if (json_num(v, &x) || !isfinite(x))
        return request_fail(q, JOB_INVALID, "logit_bias", "logit_bias: expected a number from -100 to 100 or false, found %s", json_type_name(v));
    if (x < -100 || x > 100) return request_fail(q, JOB_INVALID, "logit_bias", "logit_bias: expected -100 to 100, found %g", x);
    *out = x == -100 ? -INFINITY : (float)x;
    return 0;
}

/* Which tokens: an id, or in text the id's digits, or (native) the tokens of the text. */
static int take_bias_ids(request *q, const char *text, size_t n, bool digits, ids *out) {
    char *end;
    long long id = n && strspn(text, "0123456789") == n ? strtoll(text, &end, 10) : -1;
    if (digits || id >= 0) {
        if (id < 0 || id >= q->m->info->n_vocab)
            return request_fail(q, JOB_INVALID, "logit_bias", "logit_bias: \"%.40s\" is no token id: expected 0 to %d",
                                text, q->m->info->n_vocab - 1);
        ids_add(out, (int32_t)id);
        return 0;
    }
    return request_encode(q, text, n, 0, out);
}

static int take_bias_pair(request *q, const json *k, ids *v, float *bias) {
    if (k->key) return take_bias_ids(q, k->key, k->key_n, q->dialect == DIALECT_OPENAI, v) || take_bias_value(q, k, bias);
    if (k->type != JSON_ARRAY || k->n != 2 || (k->child->type != JSON_NUMBER && k->child->type != JSON_STRING))
        return request_fail(q, JOB_INVALID, "logit_bias", "logit_bias: expected [id, bias] or [\"text\", bias], found %s", json_type_name(k));
    const json *who = k->child;
    return (who->type == JSON_NUMBER ? take_id(q, who, "logit_bias", v) : take_bias_ids(q, who->s, who->n, false, v)) ||
           take_bias_value(q, who->next, bias);
}

static int take_bias(request *q, sample_opts *s) {
    const json *v = q->v[F_LOGIT_BIAS];
    ids who = { 0 };
    if (!v || !v->n) return 0;
    if (v->n > 65536) return request_fail(q, JOB_INVALID, "logit_bias", "logit_bias: %u entries, the most is 65536", v->n);
    int rc = 0, cap = 0;
    logit_bias *list = NULL;
    for (const json *k = v->child; k && !rc; k = k->next) {
        float bias = 0;
        who.n = 0;
        rc = take_bias_pair(q, k, &who, &bias);
        if (!rc && s->n_bias + (int)who.n > cap) {
            cap = 2 * (s->n_bias + (int)who.n) + (int)(v->n < 1024 ? v->n : 1024);
            logit_bias *more = arena_alloc(&q->j->mem, (size_t)cap * sizeof *more);
            if (!more) rc = request_fail(q, JOB_MEMORY, NULL, "out of memory");
            else if (s->n_bias) memcpy(more, list, (size_t)s->n_bias * sizeof *more);
            list = more;
        }
        for (size_t i = 0; i < who.n && !rc; i++) list[s->n_bias++] = (logit_bias){ who.p[i], bias };
    }
    ids_free(&who);
    s->bias = list;
    return rc;
}

static uint64_t take_seed(const request *q, const sampling_defaults *d) {
    int64_t seed;
    if (!q->v[F_SEED] || json_int(q->v[F_SEED], &seed)) return sample_random_seed();
    if (d->seed_minus_one && (seed == -1 || seed == 0xffffffff)) return sample_random_seed();
    return (uint64_t)seed;
}

static void take_numbers(const request *q, const sampling_defaults *d, sample_opts *s) {
    const engine_info *i = q->m->info;
    s->temperature = (float)request_num(q, F_TEMPERATURE, i->temperature >= 0 ? (double)i->temperature : (double)d->temperature);
    s->top_k = (int)request_int(q, F_TOP_K, i->top_k >= 0 ? i->top_k : d->top_k);
    if (s->top_k < 0) s->top_k = 0;
    s->top_p = (float)request_num(q, F_TOP_P, i->top_p >= 0 ? (double)i->top_p : (double)d->top_p);
    s->min_p = (float)request_num(q, F_MIN_P, i->min_p >= 0 ? (double)i->min_p : (double)d->min_p);
    s->typical_p = (float)request_num(q, F_TYPICAL_P, 1);
    s->repeat_penalty = (float)request_num(q, F_REPEAT_PENALTY, i->repeat_penalty > 0 ? (double)i->repeat_penalty : 1);
    s->frequency_penalty = (float)request_num(q, F_FREQUENCY_PENALTY, 0);
    s->presence_penalty = (float)request_num(q, F_PRESENCE_PENALTY, 0);
    bool all = d->penalize_all && (s->frequency_penalty != 0 || s->presence_penalty != 0);
    s->repeat_last_n = (int)request_int(q, F_REPEAT_LAST_N, all ? -1 : 64);
    s->no_repeat_ngram = (int)request_int(q, F_NO_REPEAT_NGRAM, i->no_repeat_ngram);
    s->min_length = (int)request_int(q, F_MIN_LENGTH, s->min_length);
    s->seed = take_seed(q, d);
}

static int take_beams(request *q) {
    const engine_info *i = q->m->info;
    job *j = q->j;
    bool draws = q->v[F_TEMPERATURE] || q->v[F_TOP_K] || q->v[F_TOP_P] || q->v[F_MIN_P] || q->v[F_TYPICAL_P] || j->n > 1 || j->echo || j->logprobs;
    int own = draws || i->num_beams > i->max_sessions ? 1 : max_int(i->num_beams, 1);
    beam_opts *b = &j->beams;
    b->beams = (int)request_int(q, F_BEAMS, own);
    if (own == 1 && i->num_beams > 1 && !q->v[F_BEAMS])
        request_warn(q, "the checkpoint's own search with %d beams is off: the request or --slots does not allow for it", i->num_beams);
    b->length_penalty = (float)request_num(q, F_LENGTH_PENALTY, (double)b->length_penalty);
    const json *e = q->v[F_EARLY_STOPPING];
    if (e && e->type == JSON_STRING && !json_is(e, "never"))
        return request_fail(q, JOB_INVALID, "early_stopping", "early_stopping: expected true, false or \"never\", found \"%.40s\"", e->s);
    if (e) b->stopping = e->type == JSON_STRING ? BEAM_NEVER : e->type == JSON_TRUE ? BEAM_AT_ONCE : BEAM_WHILE_LIKELY;
    if (b->beams > i->max_sessions)
        return request_fail(q, JOB_INVALID, "num_beams", "num_beams: %d beams need as many slots, the server has %d (--slots)",
                            b->beams, i->max_sessions);
    if (b->beams > 1 && (j->n > 1 || j->echo || j->logprobs))
        return request_fail(q, JOB_INVALID, "num_beams", "num_beams: not together with n, echo or logprobs");
    if (b->beams == 1 && (q->v[F_LENGTH_PENALTY] || e))
        request_warn(q, "length_penalty and early_stopping belong to a beam search (num_beams 2 or more)");
    return 0;
}

static int take_length(request *q, const sampling_defaults *d) {
    job *j = q->j;
    int64_t n = request_int(q, F_MAX_TOKENS, d->max_tokens), other = request_int(q, F_MAX_COMPLETION_TOKENS, -1);
    if (n < 0 || (other >= 0 && other < n)) n = other >= 0 ? other : -1;
    if (n > INT32_MAX) n = INT32_MAX;
    j->max_tokens = (int)n;
    int64_t ctx = request_int(q, F_NUM_CTX, 0);
    if (ctx > q->m->info->ctx)
        return request_fail(q, JOB_INVALID, "options.num_ctx",
                            "options.num_ctx: asked for %lld positions, the server gives model '%s' %d (serve --ctx)", (long long)ctx,
                            q->m->name, q->m->info->ctx);
    return 0;
}

int request_sampling(request *q, const sampling_defaults *d) {
    err e = { 0 };
    job *j = q->j;
    j->ignore_eos = request_flag(q, F_IGNORE_EOS, false);
    j->n = (int)request_int(q, F_N, 1);
    if ((int64_t)j->n * j->n_prompts > MOST_CHOICES)
        return request_fail(q, JOB_INVALID, "n", "n: %d choices of %d prompts, the most is %d in all", j->n, j->n_prompts, MOST_CHOICES);
    if (!q->m->info->has_decoder)
        return request_fail(q, JOB_UNSUPPORTED, "model", "model '%s' is an encoder: it gives embeddings, it does not generate", q->m->name);
    take_numbers(q, d, &j->sample);
    if (take_length(q, d) || take_stops(q) || take_bias(q, &j->sample)) return -1;
    sample_opts known = j->sample;
    known.min_length = max_int(known.min_length, 0); /* -1: the checkpoint's, which counts the prompt */
    if (sample_check(&known, &e)) return request_fail_err(q, NULL, &e);
    return take_beams(q);
}

/* ---- on its way ---- */

/* On the I/O thread. The lock orders it against the last event: afterwards q->j is NULL and the job is nobody's to cancel. */
static void closed(void *arg) {
    request *q = arg;
    pthread_mutex_lock(&q->lock);
    q->gone = true;
    if (q->submitted && q->j) schedule_cancel(q->s->schedule, q->j);
    pthread_mutex_unlock(&q->lock);
}

int request_answers(request *q) {
    const job *j = q->j;
    if (q->answers) return 0;
    q->n_prompts = j->n_prompts ? j->n_prompts : 1;
    q->n_each = j->n;
    q->n_answers = q->n_prompts * q->n_each;
    q->logprobs = j->logprobs;
    q->answers = arena_alloc(&q->mem, (size_t)q->n_answers * sizeof *q->answers);
    return q->answers ? 0 : request_fail(q, JOB_MEMORY, NULL, "out of memory");
}

int request_submit(request *q, const renderer *r) {
    job *j = q->j;
    schedule *s = q->s->schedule;
    q->r = r;
    if (request_answers(q) || structured_apply(q)) return -1;
    q->mem.limit = q->mem.used + MOST_KEPT;
    j->take = reply_take;
    j->arg = q;
    j->traced = q->s->trace != NULL;
    if (memo_answers(q)) return 0;
    if (q->stream) pings_begin(q, request_num(q, F_PING, NAN));
    exchange_on_close(q->x, closed, q);
    job_failure f = { 0 };
    pthread_mutex_lock(&q->lock);
    int rc = schedule_submit(s, j, &f);
    q->submitted = !rc;
    if (!rc && q->gone) schedule_cancel(s, j);
    pthread_mutex_unlock(&q->lock); /* from here on q may be gone */
    if (!rc) return 0;
    exchange_on_close(q->x, NULL, NULL);
    pings_end(q);
    q->failure = f;
    if (!f.phase) q->failure.phase = "queue";
    return -1;
}
