/* api_ollama_models: what Ollama's clients ask about models: version, tags, ps, show; pull, copy and delete as far as files that are here
 * allow; and a plain no, with its reason, to what this server does not do. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/serve/api.h"
#include "tools/serve/page.h"
#include "tools/serve/render.h"

/* Clients compare it (VS Code wants 0.6.4 or newer) to know which fields they may send; quern's own version stands beside it. */
static const char ollama_compatible[] = "0.12.6";

/* Clients of Ollama look for its sentence; a browser says that it wants HTML. */
int ollama_root(request *q) {
    const char *accept = exchange_header(q->x, "accept");
    if (accept && strstr(accept, "text/html")) return reply_text(q, 200, "text/html; charset=utf-8", PAGE_HEADERS, page_html, page_html_n);
    return reply_text(q, 200, "text/plain; charset=utf-8", "Vary: Accept\r\n", "Ollama is running", 17);
}

int ollama_version(request *q) {
    buf b = { 0 };
    buf_fmt(&b, "{\"version\":\"%s\",\"quern_version\":\"%s\"}", ollama_compatible, QUERN_VERSION);
    int rc = reply_json(q, 200, &b);
    buf_free(&b);
    return rc;
}

static void put_tagged(buf *b, const char *name) {
    buf full = { 0 };
    buf_fmt(&full, "%s%s", name, strchr(name, ':') ? "" : ":latest");
    buf_json(b, full.p ? full.p : "", full.n);
    buf_free(&full);
}

static double parameters_of(const engine_info *i) { return (double)(i->macs + i->macs_output); } /* a multiply-add a weight */

static void put_parameter_size(const engine_info *i, buf *b) {
    double n = parameters_of(i);
    if (n >= 1e9) buf_fmt(b, "\"%.1fB\"", n / 1e9);
    else buf_fmt(b, "\"%.1fM\"", n / 1e6);
}

static void put_details(const model *m, buf *b) {
    const engine_info *i = m->info;
    buf_str(b, ",\"details\":{\"parent_model\":\"\",\"format\":\"quern\",\"family\":");
    put_quoted(b, i ? i->family : "");
    buf_str(b, ",\"families\":[");
    put_quoted(b, i ? i->family : "");
    buf_str(b, "],\"parameter_size\":");
    if (i) put_parameter_size(i, b);
    else buf_str(b, "\"\"");
    buf_str(b, ",\"quantization_level\":");
    put_quoted(b, i ? i->type : "");
    if (i) buf_fmt(b, ",\"context_length\":%d,\"embedding_length\":%d", i->ctx, i->d_model);
    buf_byte(b, '}');
}

/* By what the template knows. */
static void put_capabilities(const model *m, bool fills, buf *b) {
    const engine_info *i = m->info;
    const char *comma = "";
    buf_str(b, ",\"capabilities\":[");
    if (i && i->has_decoder) buf_str(b, "\"completion\""), comma = ",";
    if (i && i->has_decoder && m->chat && m->calls) buf_fmt(b, "%s\"tools\"", comma);
    if (i && i->has_decoder && m->chat && m->think.open) buf_fmt(b, "%s\"thinking\"", comma);
    if (fills) buf_fmt(b, "%s\"insert\"", comma);
    if (i && !i->has_decoder) buf_fmt(b, "%s\"embedding\"", comma);
    buf_byte(b, ']');
}

static void put_entry(const model *m, buf *b) {
    buf_str(b, "{\"name\":");
    put_tagged(b, m->name);
    buf_str(b, ",\"model\":");
    put_tagged(b, m->name);
    buf_str(b, ",\"modified_at\":");
    put_time(b, m->modified, 0);
    buf_fmt(b, ",\"size\":%llu,\"digest\":\"%s\"", (unsigned long long)m->file_bytes, m->digest);
    put_details(m, b);
}

static int list_models(request *q, model **list, int *n) {
    err e = { 0 };
    return models_list(q->s->models, list, n, &e) ? request_fail_server(q, &e) : 0;
}

int ollama_tags(request *q) {
    model *list;
    int n;
    buf b = { 0 };
    if (list_models(q, &list, &n)) return -1;
    buf_str(&b, "{\"models\":[");
    for (int i = 0; i < n; i++) {
        err e = { 0 };
        bool open;
        model known;
        if (!list[i].info && !models_describe(q->s->models, list[i].name, &open, &known, &e)) list[i] = known; /* its header is read once */
        if (i) buf_byte(&b, ',');
        put_entry(&list[i], &b);
        buf_byte(&b, '}');
    }
    buf_str(&b, "]}");
    free(list);
    int rc = reply_json(q, 200, &b);
    buf_free(&b);
    return rc;
}

/* A model that stays for ever expires in the year 2318, as Ollama's do. */
static void put_expiry(const model *m, buf *b) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    double left = m->expires - now_seconds();
    if (!isfinite(left) || left > 9e9) put_time(b, 10982304000, 0);
    else {
        double at = (double)t.tv_nsec * 1e-9 + left, whole = floor(at);
        put_time(b, t.tv_sec + (int64_t)whole, (int64_t)((at - whole) * 1e9));
    }
}

int ollama_ps(request *q) {
    model *list;
    int n, shown = 0;
    buf b = { 0 };
    if (list_models(q, &list, &n)) return -1;
    buf_str(&b, "{\"models\":[");
    for (int i = 0; i < n; i++) {
        const model *m = &list[i];
        if (!model_is_open(m)) continue;
        if (shown++) buf_byte(&b, ',');
        put_entry(m, &b);
        buf_str(&b, ",\"expires_at\":");
        put_expiry(m, &b);
        buf_fmt(&b, ",\"size_vram\":0,\"memory\":%llu,\"context_length\":%d", (unsigned long long)m->memory, m->info ? m->info->ctx : 0);
        put_draft(m, &b);
        buf_byte(&b, '}');
    }
    buf_str(&b, "]}");
    free(list);
    int rc = reply_json(q, 200, &b);
    buf_free(&b);
    return rc;
}

/* ---- show ---- */

static void put_parameters(const engine_info *i, buf *b) {
    buf text = { 0 };
    buf_fmt(&text, "%-30s %d", "num_ctx", i->ctx);
    if (i->temperature >= 0) buf_fmt(&text, "\n%-30s %g", "temperature", (double)i->temperature);
    if (i->top_k >= 0) buf_fmt(&text, "\n%-30s %d", "top_k", i->top_k);
    if (i->top_p >= 0) buf_fmt(&text, "\n%-30s %g", "top_p", (double)i->top_p);
    if (i->min_p >= 0) buf_fmt(&text, "\n%-30s %g", "min_p", (double)i->min_p);
    if (i->repeat_penalty > 0) buf_fmt(&text, "\n%-30s %g", "repeat_penalty", (double)i->repeat_penalty);
    buf_json(b, text.p ? text.p : "", text.n);
    buf_free(&text);
}

static void put_key(buf *b, const char *family, const char *name, long long v) {
    buf key = { 0 };
    buf_fmt(&key, "%s.%s", family, name);
    buf_byte(b, ',');
    buf_json(b, key.p ? key.p : "", key.n);
    buf_fmt(b, ":%lld", v);
    buf_free(&key);
}

static void put_model_info(const model *m, buf *b) {
    const engine_info *i = m->info;
    buf_str(b, ",\"model_info\":{\"general.architecture\":");
    put_quoted(b, i->family);
    buf_str(b, ",\"general.basename\":");
    put_quoted(b, m->name);
    buf_fmt(b, ",\"general.parameter_count\":%.0f", parameters_of(i));
    /* A client's mistake: VS Code computes 0 tokens of room from exactly 4096. */
    put_key(b, i->family, "context_length", i->ctx == 4096 ? 4095 : i->ctx);
    put_key(b, i->family, "embedding_length", i->d_model);
    put_key(b, i->family, "block_count", i->n_layers);
    put_key(b, i->family, "attention.head_count", i->n_heads);
    put_key(b, i->family, "attention.head_count_kv", i->n_kv_heads);
    put_key(b, i->family, "vocab_size", i->n_vocab);
    if (m->tok) {
        buf_fmt(b, ",\"tokenizer.ggml.bos_token_id\":%d,\"tokenizer.ggml.eos_token_id\":%d", tokenizer_bos(m->tok), tokenizer_eos(m->tok));
    }
    buf_byte(b, '}');
}

int ollama_show(request *q) {
    size_t n = 0;
    buf b = { 0 };
    if (request_need(q, F_MODEL, "model") || request_model(q)) return -1;
    const model *m = q->m;
    const char *shape = m->tok ? tokenizer_template(m->tok, false, &n) : NULL;
    buf_str(&b, "{\"license\":\"\",\"modelfile\":");
    buf file = { 0 };
    buf_fmt(&file, "# quern has no Modelfile: the model is one file\nFROM %s\n", m->name);
    buf_json(&b, file.p ? file.p : "", file.n);
    buf_free(&file);
    buf_str(&b, ",\"parameters\":");
    put_parameters(m->info, &b);
    buf_str(&b, ",\"template\":");
    buf_json(&b, shape ? shape : "", n);
    buf_str(&b, ",\"system\":\"\",\"messages\":[]");
    put_details(m, &b);
    put_model_info(m, &b);
    put_capabilities(m, infill_known(m), &b);
    buf_fmt(&b, ",\"digest\":\"%s\",\"modified_at\":", m->digest);
    put_time(&b, m->modified, 0);
    put_warnings(q, &b);
    buf_byte(&b, '}');
    int rc = reply_json(q, 200, &b);
    buf_free(&b);
    return rc;
}

/* ---- files ---- */

static int describe(request *q, const char *name, model *m) {
    err e = { 0 };
    bool open;
    snprintf(q->model_name, sizeof q->model_name, "%s", name);
    /* elsewhere that is the first: not where files are changed */
    if (!*name) return request_fail(q, JOB_INVALID, "model", "expected the name of a model, found an empty one");
    if (!models_describe(q->s->models, server_model_name(q->s, name), &open, m, &e)) return 0;
    if (e.code == MODELS_NO_MODEL) return request_fail(q, JOB_INVALID, "model", "model %s", e.msg);
    return e.code == MODELS_NOT_FOUND ? request_fail(q, JOB_MODEL_NOT_FOUND, "model", "model '%.200s' not found", name) : request_fail_server(q, &e);
}

int ollama_not_here(request *q) {
    return request_fail_status(q, 501, "unsupported", "%.100s: not supported: models come from ./convert on the server's "
                                                      "machine, they are neither fetched nor built nor sent over HTTP", q->h->path);
}

int ollama_pull(request *q) {
    model m;
    const char *name = request_str(q, F_MODEL, "");
    if (request_need(q, F_MODEL, "model")) return -1;
    if (describe(q, name, &m)) {
        if (q->failure.code != JOB_MODEL_NOT_FOUND) return -1;
        q->failure = (job_failure){ 0 };
        return request_fail_status(q, 501, "unsupported",
                                   "pull: model '%.200s' is not here, and this server fetches nothing: convert a checkpoint into its folder", name);
    }
    static const char lines[] = "{\"status\":\"pulling manifest\"}\n{\"status\":\"success\"}\n", one[] = "{\"status\":\"success\"}";
    bool stream = request_flag(q, F_STREAM, true);
    return reply_text(q, 200, stream ? "application/x-ndjson" : "application/json; charset=utf-8", "", stream ? lines : one,
                      stream ? sizeof lines - 1 : sizeof one - 1);
}

static int files_allowed(request *q) {
    if (q->s->allow_delete) return 0;
    return request_fail_status(q, 403, "forbidden", "%.40s: files are not changed over HTTP: the server runs without --allow-delete", q->h->path);
}

int ollama_delete(request *q) {
    model m;
    if (request_need(q, F_MODEL, "model") || files_allowed(q) || describe(q, request_str(q, F_MODEL, ""), &m)) return -1;
    if (unlink(m.path)) return request_fail(q, JOB_FAILED, "model", "model '%.200s' could not be deleted: %s", m.name, strerror(errno));
    return reply_text(q, 200, "application/json; charset=utf-8", "", "", 0);
}

/* A name of a file beside the source: no path. */
static bool good_name(const char *s) {
    size_t n = strlen(s);
    return n && n < 200 && s[0] != '.' && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

int ollama_copy(request *q) {
    model m;
    if (request_need(q, F_SOURCE, "source") || request_need(q, F_DESTINATION, "destination") || files_allowed(q) ||
        describe(q, request_str(q, F_SOURCE, ""), &m))
        return -1;
    const char *to = request_str(q, F_DESTINATION, ""), *tag = strstr(to, ":latest"), *slash = strrchr(m.path, '/');
    char *name = arena_copy(&q->mem, to, tag ? (size_t)(tag - to) : strlen(to));
    if (!name || !good_name(name))
        return request_fail(q, JOB_INVALID, "destination",
                            "destination: expected a plain name of letters, digits, '.', '_' and '-', found \"%.60s\"", to);
    buf path = { 0 };
    buf_fmt(&path, "%.*s%s.bin", slash ? (int)(slash - m.path + 1) : 0, m.path, name);
    buf_byte(&path, 0);
    int rc = path.failed ? -1 : link(m.path, path.p); /* the same content under another name; it never replaces a file */
    int why = errno;
    buf_free(&path);
    if (rc)
        return request_fail(q, why == EEXIST ? JOB_INVALID : JOB_FAILED, "destination", "destination: \"%s\" could not be made: %s",
                            name, strerror(why));
    return reply_text(q, 200, "application/json; charset=utf-8", "", "", 0);
}
