/* api_lora: which adapters a request is answered with: those it names, else those that POST /lora-adapters has put on its model for all who
 * name none. A request's list is settled once, before it is queued; what is put on a model later is for later requests. It must not know how
 * an adapter is applied. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/serve/api.h"
#include "tools/serve/log.h"
#include "tools/serve/render.h"

enum { MOST_ADAPTERS = 16 };

typedef struct adapter_files {
    lora_file *p; /* [n] */
    int n;
} adapter_files;

/* By llama-server's number. There, one without a scale is switched off; here that is asked back. */
static int take_id(request *q, const char *at, const json *k, const adapter_files *files, const char **name) {
    int64_t id;
    const json *v = json_get(k, "id");
    if (json_int(v, &id) || id < 0 || id >= files->n)
        return request_fail(q, JOB_INVALID, at, "%s: id %.40s: expected 0 to %d, as GET /lora-adapters lists them (%d adapters are there)", at,
                            v->type == JSON_NUMBER ? v->s : json_type_name(v), files->n - 1, files->n);
    if (!json_get(k, "scale"))
        return request_fail(q, JOB_INVALID, at, "%s: id %lld: its scale is missing: expected {\"id\": %lld, \"scale\": 1}",
                            at, (long long)id, (long long)id);
    *name = files->p[id].name;
    return 0;
}

static int take_name(request *q, const char *at, const json *k, const char **name) {
    const json *v = json_get(k, "name");
    if (!v || v->type != JSON_STRING || !v->n)
        return request_fail(q, JOB_INVALID, at, "%s: expected [{\"name\": \"...\", \"scale\": 1}] or [{\"id\": 0, \"scale\": 1}]", at);
    if (strchr(v->s, '/') || v->s[0] == '.' || strlen(v->s) != v->n)
        return request_fail(q, JOB_INVALID, at, "%s: \"%.60s\" is no file name", at, v->s);
    *name = v->s;
    return 0;
}

static int take_one(request *q, const char *at, const json *k, const adapter_files *files, model_adapter *out) {
    const json *scale = json_get(k, "scale");
    double x = 1;
    if (json_get(k, "id") ? take_id(q, at, k, files, &out->name) : take_name(q, at, k, &out->name)) return -1;
    if (scale && (json_num(scale, &x) || !(fabs(x) <= 1000)))
        return request_fail(q, JOB_INVALID, at, "%s: scale of \"%.60s\": expected -1000 to 1000", at, out->name);
    out->scale = (float)x;
    return 0;
}

/* Its name, or that of its file. */
static bool is_there(const adapter_files *files, const char *name) {
    size_t n = adapter_name_length(name);
    for (int i = 0; i < files->n; i++)
        if (strlen(files->p[i].name) == n && memcmp(files->p[i].name, name, n) == 0) return true;
    return false;
}

/* The list without what is switched off by a scale of 0. Its names live as long as the body, and those of files as long as the server. */
static int take_list(request *q, const char *at, const json *v, const adapter_files *files, model_adapter list[MOST_ADAPTERS], int *n) {
    *n = 0;
    if (v->n > MOST_ADAPTERS) return request_fail(q, JOB_INVALID, at, "%s: %u adapters, the most is %d", at, v->n, MOST_ADAPTERS);
    const char *named[MOST_ADAPTERS];
    int n_named = 0;
    for (const json *k = v->child; k; k = k->next) {
        model_adapter a = { 0 };
        if (take_one(q, at, k, files, &a)) return -1;
        for (int i = 0; i < n_named; i++)
            if (strcmp(named[i], a.name) == 0) return request_fail(q, JOB_INVALID, at, "%s: \"%.60s\" is named twice", at, a.name);
        named[n_named++] = a.name;
        if (a.scale != 0) list[(*n)++] = a;
        else if (!is_there(files, a.name))
            return request_fail(q, JOB_INVALID, at, "%s: adapter '%.200s' not found: expected a file %.200s.lora beside the models",
                                at, a.name, a.name);
    }
    return 0;
}

/* Does it take a look at the disk to read it? For ids; and for what is switched off: nobody else would notice that there is no such file. */
static bool needs_files(const json *v) {
    bool needs = false;
    double scale;
    for (const json *k = v->child; k; k = k->next) {
        const json *x = json_get(k, "scale");
        needs |= json_get(k, "id") || (x && json_num(x, &scale) == 0 && (float)scale == 0);
    }
    return needs;
}

/* v as a list. */
static int read_list(request *q, const char *at, const json *v, model_adapter list[MOST_ADAPTERS], int *n) {
    err e = { 0 };
    adapter_files files = { 0 };
    if (needs_files(v) && models_adapters(q->s->models, &files.p, &files.n, &e)) return request_fail(q, JOB_MEMORY, NULL, "%s", e.msg);
    int rc = take_list(q, at, v, &files, list, n);
    free(files.p);
    return rc;
}

/* As JSON, for replies. */
static int keep_text(request *q, const model_adapter *list, int n) {
    buf b = { 0 };
    for (int i = 0; i < n; i++) {
        buf_str(&b, i ? ",{\"name\":" : "[{\"name\":");
        put_quoted(&b, list[i].name);
        buf_fmt(&b, ",\"scale\":%.9g}", (double)list[i].scale);
    }
    if (n) buf_byte(&b, ']');
    q->adapters = n && !b.failed ? arena_copy(&q->mem, b.p, b.n) : NULL;
    buf_free(&b);
    return n && !q->adapters ? request_fail(q, JOB_MEMORY, NULL, "out of memory") : 0;
}

static int keep_list(request *q, const model_adapter *list, int n) {
    job *j = q->j;
    model_adapter *own = arena_alloc(&j->mem, (size_t)max_int(n, 1) * sizeof *own);
    if (!own) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    for (int i = 0; i < n; i++) {
        own[i] = (model_adapter){ arena_copy(&j->mem, list[i].name, strlen(list[i].name)), list[i].scale };
        if (!own[i].name) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    }
    j->adapters = own;
    j->n_adapters = n;
    return keep_text(q, list, n);
}

int request_adapters(request *q) {
    err e = { 0 };
    model_adapter list[MOST_ADAPTERS], *defaults = NULL;
    int n;
    if (q->v[F_LORA]) return read_list(q, "lora", q->v[F_LORA], list, &n) || keep_list(q, list, n) ? -1 : 0;
    if (models_default_adapters(q->s->models, q->m, &defaults, &n, &e)) return request_fail(q, JOB_MEMORY, NULL, "%s", e.msg);
    int rc = keep_list(q, defaults, n);
    free(defaults);
    return rc;
}

/* ---- /lora-adapters ---- */

static double scale_of(const model_adapter *list, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (strcmp(list[i].name, name) == 0) return (double)list[i].scale;
    return 0;
}

static int list_adapters(request *q) {
    err e = { 0 };
    adapter_files files = { 0 };
    model_adapter *defaults = NULL;
    int n_defaults;
    buf b = { 0 };
    if (models_adapters(q->s->models, &files.p, &files.n, &e)) return request_fail(q, JOB_FAILED, NULL, "%s", e.msg);
    if (models_default_adapters(q->s->models, q->m, &defaults, &n_defaults, &e)) return free(files.p), request_fail(q, JOB_FAILED, NULL, "%s", e.msg);
    buf_byte(&b, '[');
    for (int i = 0; i < files.n; i++) {
        buf_fmt(&b, "%s{\"id\":%d,\"name\":", i ? "," : "", i);
        put_quoted(&b, files.p[i].name);
        buf_str(&b, ",\"path\":");
        put_quoted(&b, files.p[i].path);
        buf_fmt(&b, ",\"scale\":%g}", scale_of(defaults, n_defaults, files.p[i].name));
    }
    buf_byte(&b, ']');
    free(files.p);
    free(defaults);
    int rc = b.failed ? request_fail(q, JOB_MEMORY, NULL, "out of memory") : reply_json(q, 200, &b);
    buf_free(&b);
    return rc;
}

/* Would they fit? Opening tells, and what is open then serves the next request. */
static int try_adapters(request *q, const model_adapter *list, int n) {
    err e = { 0 };
    model *m;
    if (!n) return 0;
    if (models_hold_adapted(q->s->models, q->m, list, n, &m, &e) == 0) return models_release(q->s->models, m, NAN), 0;
    bool memory = e.code == MODELS_NO_MEMORY || e.code == ERR_MEMORY;
    return request_fail(q, memory ? JOB_MEMORY : JOB_INVALID, "lora-adapters", "lora-adapters: %s", e.msg);
}

static void log_adapters(const request *q, const model_adapter *list, int n) {
    buf b = { 0 };
    for (int i = 0; i < n; i++) buf_fmt(&b, "%s%s times %g", i ? ", " : "", list[i].name, (double)list[i].scale);
    log_line(q->s, "adapters of model %s for requests that name none: %s", q->m->name, n && !b.failed ? b.p : "none");
    buf_free(&b);
}

static int set_adapters(request *q) {
    err e = { 0 };
    json *body;
    model_adapter list[MOST_ADAPTERS];
    int n;
    if (!q->h->body_n) return request_fail(q, JOB_INVALID, NULL, "missing request body: expected [{\"id\": 0, \"scale\": 1}]");
    q->mem.limit = ((size_t)1 << 20) + 8 * q->h->body_n;
    if (json_parse(&q->mem, q->h->body, q->h->body_n, &body, &e))
        return request_fail(q, JOB_INVALID, NULL, "the body is %s", e.code == ERR_MEMORY ? "too large for a list of adapters" : e.msg);
    q->mem.limit = 0;
    if (body->type != JSON_ARRAY)
        return request_fail(q, JOB_INVALID, NULL, "the body is %s, expected [{\"id\": 0, \"scale\": 1}]", json_type_name(body));
    if (read_list(q, "lora-adapters", body, list, &n) || try_adapters(q, list, n)) return -1;
    if (models_set_default_adapters(q->s->models, q->m, list, n, &e))
        return request_fail(q, e.code == MODELS_NOT_FOUND ? JOB_INVALID : JOB_MEMORY, "lora-adapters", "%s", e.msg);
    log_adapters(q, list, n);
    return reply_text(q, 200, "application/json", "", "{\"success\":true}", 16);
}

int native_lora(request *q) {
    model_of_query(q);
    if (request_model(q)) return -1;
    return strcmp(q->h->method, "POST") == 0 ? set_adapters(q) : list_adapters(q);
}
