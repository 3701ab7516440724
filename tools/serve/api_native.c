/* api_native: llama-server's own paths about tokens, templates, slots and the server itself; api_completion.c has its completions. */
#include <string.h>

#include "runtime/chat.h"
#include "tools/serve/api.h"
#include "tools/serve/metrics.h"
#include "tools/serve/render.h"

static int reply_and_free(request *q, buf *b) {
    int rc = reply_json(q, 200, b);
    buf_free(b);
    return rc;
}

int native_health(request *q) {
    buf b = { 0 };
    if (atomic_load(&q->s->draining)) return request_fail(q, JOB_SHUTTING_DOWN, NULL, "the server shuts down");
    buf_str(&b, "{\"status\":\"ok\"}");
    return reply_and_free(q, &b);
}

/* ---- tokens ---- */

static void put_piece(const request *q, int32_t id, buf *b) {
    buf bytes = { 0 };
    size_t i = 0;
    int len;
    put_token_bytes(q, id, &bytes);
    while (i < bytes.n && utf8_decode(bytes.p + i, bytes.n - i, &len) >= 0) i += (size_t)len;
    buf_fmt(b, "{\"id\":%d,\"piece\":", id);
    if (i == bytes.n) buf_json(b, bytes.p ? bytes.p : "", bytes.n);
    else { /* part of a character */
        for (i = 0; i < bytes.n; i++) buf_fmt(b, "%c%d", i ? ',' : '[', (unsigned char)bytes.p[i]);
        buf_byte(b, ']');
    }
    buf_byte(b, '}');
    buf_free(&bytes);
}

int native_tokenize(request *q) {
    ids v = { 0 };
    buf b = { 0 };
    const json *text = q->v[F_CONTENT];
    int flags = (request_flag(q, F_ADD_SPECIAL, false) ? TOK_SPECIAL : 0) | (request_flag(q, F_PARSE_SPECIAL, true) ? TOK_PARSE_SPECIAL : 0);
    if (request_model(q)) return -1;
    int rc = request_encode(q, text ? text->s : "", text ? text->n : 0, flags, &v);
    buf_str(&b, "{\"tokens\":[");
    for (size_t i = 0; i < v.n && !rc; i++) {
        if (i) buf_byte(&b, ',');
        if (request_flag(q, F_WITH_PIECES, false)) put_piece(q, v.p[i], &b);
        else buf_fmt(&b, "%d", v.p[i]);
    }
    buf_byte(&b, ']');
    put_warnings(q, &b);
    buf_byte(&b, '}');
    ids_free(&v);
    if (!rc) return reply_and_free(q, &b);
    buf_free(&b);
    return rc;
}

static int take_ids(request *q, const json *list, ids *v) {
    int64_t id;
    for (const json *k = list ? list->child : NULL; k; k = k->next) {
        if (json_int(k, &id) || id < 0 || id >= tokenizer_size(q->m->tok))
            return request_fail(q, JOB_INVALID, "tokens", "tokens: expected ids from 0 to %d, found %s",
                                tokenizer_size(q->m->tok) - 1, k->type == JSON_NUMBER ? k->s : json_type_name(k));
        ids_add(v, (int32_t)id);
    }
    return v->failed ? request_fail(q, JOB_MEMORY, NULL, "out of memory") : 0;
}

int native_detokenize(request *q) {
    err e = { 0 };
    ids v = { 0 };
    buf text = { 0 }, b = { 0 };
    if (request_model(q) || request_tokenizer(q)) return -1;
    int rc = take_ids(q, q->v[F_TOKENS], &v);
    if (!rc && tokenizer_decode(q->m->tok, v.p, v.n, false, &text, &e)) rc = request_fail_err(q, "tokens", &e);
    buf_str(&b, "{\"content\":");
    buf_json(&b, text.p ? text.p : "", text.n);
    put_warnings(q, &b);
    buf_byte(&b, '}');
    ids_free(&v);
    buf_free(&text);
    if (!rc) return reply_and_free(q, &b);
    buf_free(&b);
    return rc;
}

int native_template(request *q) {
    json *messages;
    const json *tools;
    buf b = { 0 };
    if (request_need(q, F_MESSAGES, "messages") || request_model(q)) return -1;
    if (messages_normalise(q, &(conversation_in){ .messages = q->v[F_MESSAGES] }, &messages) || messages_tools(q, q->v[F_TOOLS], false, &tools))
        return -1;
    if (request_chat(q, messages, tools, request_flag(q, F_ADD_GENERATION, true), NULL)) return -1;
    buf_str(&b, "{\"prompt\":");
    buf_json(&b, q->text.p ? q->text.p : "", q->text.n);
    put_warnings(q, &b);
    buf_byte(&b, '}');
    return reply_and_free(q, &b);
}

/* ---- the server ---- */

void model_of_query(request *q) {
    const char *at = strstr(q->h->query, "model=");
    if (!at || (at != q->h->query && at[-1] != '&')) return;
    q->v[F_MODEL] = tree_str(q, at + 6, strcspn(at + 6, "&"));
}

static void put_special(const request *q, int32_t id, buf *b) {
    size_t n = 0;
    const char *piece = q->m->tok && id >= 0 ? tokenizer_piece(q->m->tok, id, &n) : NULL;
    buf_json(b, piece ? piece : "", piece ? n : 0);
}

static void put_defaults(const engine_info *i, buf *b) {
    buf_fmt(b, "{\"n_ctx\":%d,\"params\":{\"n_predict\":-1,\"temperature\":%g,\"top_k\":%d,\"top_p\":%g,\"min_p\":%g,"
               "\"repeat_penalty\":%g,\"repeat_last_n\":64,"
               "\"presence_penalty\":0,\"frequency_penalty\":0,\"typical_p\":1,\"stop\":[],\"stream\":false}}",
            i->ctx, i->temperature >= 0 ? (double)i->temperature : 0.8, i->top_k >= 0 ? i->top_k : 40, i->top_p >= 0 ? (double)i->top_p : 0.95,
            i->min_p >= 0 ? (double)i->min_p : 0.05, i->repeat_penalty > 0 ? (double)i->repeat_penalty : 1.0);
}

int native_props(request *q) {
    size_t n = 0;
    buf b = { 0 };
    model_of_query(q);
    if (request_model(q)) return -1;
    const model *m = q->m;
    const char *shape = m->tok ? tokenizer_template(m->tok, false, &n) : NULL;
    buf_str(&b, "{\"default_generation_settings\":");
    put_defaults(m->info, &b);
    buf_fmt(&b, ",\"total_slots\":%d,\"model_alias\":", q->s->n_slots);
    put_quoted(&b, m->name);
    buf_str(&b, ",\"model_path\":");
    put_quoted(&b, m->path);
    buf_str(&b, ",\"chat_template\":");
    buf_json(&b, shape ? shape : "", n);
    buf_fmt(&b, ",\"chat_template_caps\":{\"supports_chat\":%s},\"modalities\":{\"vision\":false,\"audio\":false},"
                "\"build_info\":\"quern %s\",\"is_sleeping\":false,\"bos_token\":",
            m->chat ? "true" : "false", QUERN_VERSION);
    put_special(q, m->tok ? tokenizer_bos(m->tok) : -1, &b);
    buf_str(&b, ",\"eos_token\":");
    put_special(q, m->tok ? tokenizer_eos(m->tok) : -1, &b);
    buf_fmt(&b, ",\"n_vocab\":%d,\"kernels\":\"%s\",\"threads\":%d,\"system_fingerprint\":", m->info->n_vocab, m->info->kernels, m->info->threads);
    put_fingerprint(q, &b);
    put_draft(m, &b);
    buf_byte(&b, '}');
    return reply_and_free(q, &b);
}

static void put_slot(const slot_about *v, buf *b) {
    buf_fmt(b, "{\"id\":%d,\"n_ctx\":%d,\"is_processing\":%s,\"id_task\":", v->id, v->n_ctx, v->busy ? "true" : "false");
    put_quoted(b, v->job);
    buf_str(b, ",\"model\":");
    put_quoted(b, v->model);
    buf_fmt(b, ",\"n_prompt_tokens\":%d,\"n_prompt_tokens_processed\":%d,\"params\":{},\"next_token\":[{\"has_next_token\":%s,"
               "\"has_new_line\":false,\"n_remain\":%d,\"n_decoded\":%d}]}",
            v->n_prompt, v->n_prompt_done, v->busy ? "true" : "false", v->n_remain, v->n_decoded);
}

int native_slots(request *q) {
    enum { MOST = 1024 };
    slot_about *v = arena_alloc(&q->mem, MOST * sizeof *v);
    buf b = { 0 };
    bool free_one = false;
    if (!v) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    int n = min_int(schedule_slots(q->s->schedule, v, MOST), MOST);
    buf_byte(&b, '[');
    for (int i = 0; i < n; i++) {
        if (i) buf_byte(&b, ',');
        put_slot(&v[i], &b);
        free_one |= !v[i].busy;
    }
    buf_byte(&b, ']');
    if (!free_one && n && strstr(q->h->query, "fail_on_no_slot=1")) {
        buf_free(&b);
        return request_fail_status(q, 503, "no_slot", "no slot available");
    }
    return reply_and_free(q, &b);
}

int native_metrics(request *q) {
    char extra[64];
    buf b = { 0 };
    metrics_text(q->s, &b);
    snprintf(extra, sizeof extra, "Process-Start-Time-Unix: %lld\r\n", (long long)q->s->started_at);
    int rc = b.failed ? request_fail(q, JOB_MEMORY, NULL, "out of memory")
                      : reply_text(q, 200, "text/plain; version=0.0.4; charset=utf-8", extra, b.p, b.n);
    buf_free(&b);
    return rc;
}
