/* api_openai: /v1/models, /v1/chat/completions, /v1/completions and /v1/embeddings as OpenAI's clients expect them, with quern's additions
 * beside: timings, warnings and, in every choice, `ended`: the exact reason. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/serve/api.h"
#include "tools/serve/render.h"

typedef struct openai_reply {
    bool chat;
    char id[48];
    const char *object, *chunk;
    int n;          /* choices that are shown of each prompt: best_of draws more */
    int n_top;
    int last;       /* the choice that ended last: its end is sent with the figures of the whole */
    bool legacy_hidden; /* best_of needs log-probabilities that were not asked for */
} openai_reply;

static const sampling_defaults chat_defaults = { .temperature = 1, .top_p = 1, .max_tokens = -1, .penalize_all = true };
static const sampling_defaults completion_defaults = { .temperature = 1, .top_p = 1, .max_tokens = 16, .penalize_all = true };

/* ---- models ---- */

static void put_model(buf *b, const char *name, int64_t created) {
    buf_str(b, "{\"id\":");
    put_quoted(b, name);
    buf_fmt(b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"quern\"}", (long long)created);
}

int openai_models(request *q) {
    err e = { 0 };
    model *list;
    int n;
    buf b = { 0 };
    if (models_list(q->s->models, &list, &n, &e)) return request_fail_server(q, &e);
    buf_str(&b, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < n; i++) {
        if (i) buf_byte(&b, ',');
        put_model(&b, list[i].name, list[i].modified);
    }
    for (int i = 0; i < q->s->n_aliases; i++) {
        if (n || i) buf_byte(&b, ',');
        put_model(&b, q->s->aliases[i].name, q->s->started_at);
    }
    buf_str(&b, "]}");
    free(list);
    int rc = reply_json(q, 200, &b);
    buf_free(&b);
    return rc;
}

int openai_model(request *q) {
    err e = { 0 };
    model m;
    bool open;
    buf b = { 0 };
    snprintf(q->model_name, sizeof q->model_name, "%s", q->arg);
    if (models_describe(q->s->models, server_model_name(q->s, q->arg), &open, &m, &e))
        return e.code == MODELS_NOT_FOUND ? request_fail(q, JOB_MODEL_NOT_FOUND, "model", "model '%.200s' not found", q->arg)
             : e.code == MODELS_NO_MODEL  ? request_fail(q, JOB_MODEL_NOT_FOUND, "model", "model %s", e.msg) : request_fail_server(q, &e);
    put_model(&b, q->arg, m.modified);
    int rc = reply_json(q, 200, &b);
    buf_free(&b);
    return rc;
}

/* ---- what chat and completions share in their replies ---- */

static const char *finish_reason(const answer *a) {
    if (ends_with_calls(a)) return "tool_calls";
    return a->end == END_LENGTH || a->end == END_CONTEXT || a->end == END_DEADLINE ? "length" : "stop";
}

static void put_head(const request *q, const char *object, buf *b) {
    const openai_reply *o = q->own;
    buf_fmt(b, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", o->id, object, (long long)q->created);
    put_quoted(b, q->model_name);
    buf_str(b, ",\"system_fingerprint\":");
    put_fingerprint(q, b);
}

static void put_usage(const request *q, buf *b) {
    int prompt = count_prompt(q), answers = count_answers(q);
    buf_fmt(b, ",\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,\"prompt_tokens_details\":{\"cached_tokens\":%d},"
               "\"completion_tokens_details\":{\"reasoning_tokens\":%d}}", prompt, answers, prompt + answers,
               q->timings.n_cached, count_reasoning(q));
}

static size_t count_chars(const char *s, size_t n) {
    size_t chars = 0;
    for (size_t i = 0; i < n; i++) chars += ((unsigned char)s[i] & 0xc0) != 0x80;
    return chars;
}

static void put_token_text(const request *q, int32_t id, buf *b) {
    buf bytes = { 0 };
    put_token_bytes(q, id, &bytes);
    buf_json(b, bytes.p ? bytes.p : "", bytes.n);
    buf_free(&bytes);
}

/* {token: logprob}: the alternatives, and the token itself. */
static void put_alternatives(const request *q, const token_prob *p, buf *b) {
    bool there = false;
    buf_byte(b, '{');
    for (int i = 0; i < p->n_top; i++) {
        if (i) buf_byte(b, ',');
        put_token_text(q, p->top[i].id, b);
        buf_byte(b, ':');
        put_logprob(b, p->top[i].logprob);
        there |= p->top[i].id == p->id;
    }
    if (!there && isfinite(p->logprob)) {
        if (p->n_top) buf_byte(b, ',');
        put_token_text(q, p->id, b);
        buf_byte(b, ':');
        put_logprob(b, p->logprob);
    }
    buf_byte(b, '}');
}

/* The older shape: four lists side by side. */
static void put_legacy_logprobs(const request *q, answer *a, const token_prob *p, int n, buf *b) {
    const openai_reply *o = q->own;
    buf offsets = { 0 };
    buf_str(b, "{\"tokens\":[");
    for (int i = 0; i < n; i++) {
        buf bytes = { 0 };
        put_token_bytes(q, p[i].id, &bytes);
        if (i) buf_byte(b, ',');
        buf_json(b, bytes.p ? bytes.p : "", bytes.n);
        buf_fmt(&offsets, "%s%zu", i ? "," : "", a->offset);
        a->offset += count_chars(bytes.p, bytes.n);
        buf_free(&bytes);
    }
    buf_str(b, "],\"token_logprobs\":[");
    for (int i = 0; i < n; i++) {
        if (i) buf_byte(b, ',');
        put_logprob(b, p[i].logprob);
    }
    buf_str(b, "],\"top_logprobs\":");
    if (!o->n_top) buf_str(b, "null");
    for (int i = 0; i < n && o->n_top; i++) {
        buf_byte(b, i ? ',' : '[');
        if (isnan(p[i].logprob)) buf_str(b, "null"); /* the first token of a prompt has none before it */
        else put_alternatives(q, &p[i], b);
    }
    if (o->n_top) buf_str(b, n ? "]" : "[]");
    buf_str(b, ",\"text_offset\":[");
    if (offsets.n) buf_add(b, offsets.p, offsets.n);
    buf_str(b, "]}");
    buf_free(&offsets);
}

static void put_logprobs(const request *q, answer *a, const token_prob *p, int n, buf *b) {
    const openai_reply *o = q->own;
    buf_str(b, ",\"logprobs\":");
    if (!q->logprobs || o->legacy_hidden) buf_str(b, "null");
    else if (!o->chat) put_legacy_logprobs(q, a, p, n, b);
    else {
        buf_str(b, "{\"content\":[");
        for (int i = 0; i < n; i++) {
            if (i) buf_byte(b, ',');
            put_chat_logprob(q, &p[i], b);
        }
        buf_str(b, "],\"refusal\":null}");
    }
}

static void put_finish(const answer *a, buf *b) {
    buf_fmt(b, ",\"finish_reason\":\"%s\",\"ended\":\"%s\"", finish_reason(a), end_name(a->end));
    if (a->stop_string) {
        buf_str(b, ",\"stop_string\":");
        put_quoted(b, a->stop_string);
    }
}

/* ---- whole ---- */

static void put_call(const said_call *c, buf *b) {
    buf_fmt(b, "{\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", c->id);
    put_quoted(b, c->name);
    buf_str(b, ",\"arguments\":");
    buf_json(b, c->arguments.p ? c->arguments.p : "", c->arguments.n);
    buf_str(b, "}}");
}

/* What a message has beside its content. */
static void put_rest(const answer *a, buf *b) {
    if (a->reasoning.n) {
        buf_str(b, ",\"reasoning_content\":");
        buf_json(b, a->reasoning.p, a->reasoning.n);
    }
    for (int i = 0; i < a->n_calls; i++) {
        buf_str(b, i ? "," : ",\"tool_calls\":[");
        put_call(&a->calls[i], b);
    }
    if (a->n_calls) buf_byte(b, ']');
    buf_str(b, ",\"refusal\":null}");
}

static void put_choice(request *q, answer *a, int index, buf *b) {
    const openai_reply *o = q->own;
    buf_fmt(b, "%s{\"index\":%d,", index ? "," : "", index);
    buf_str(b, o->chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    if (a->n_calls && !a->text.n) buf_str(b, "null");
    else buf_json(b, a->text.p ? a->text.p : "", a->text.n);
    if (o->chat) put_rest(a, b);
    put_logprobs(q, a, a->probs, a->n_probs, b);
    put_finish(a, b);
    buf_byte(b, '}');
}

static double likelihood(const answer *a) { return a->n_tokens ? a->sum_logprob / a->n_tokens : -INFINITY; }

/* best_of: the likeliest a token first; of equals the earlier draw. */
static void rank(request *q, int prompt) {
    answer *a = q->answers + (size_t)prompt * (size_t)q->n_each;
    const openai_reply *o = q->own;
    for (int i = 0; i < o->n && o->n < q->n_each; i++) {
        int best = i;
        for (int k = i + 1; k < q->n_each; k++)
            if (likelihood(&a[k]) > likelihood(&a[best])) best = k;
        answer t = a[best];
        memmove(&a[i + 1], &a[i], (size_t)(best - i) * sizeof *a);
        a[i] = t;
    }
}

static void whole(request *q, buf *b) {
    const openai_reply *o = q->own;
    int index = 0;
    put_head(q, o->object, b);
    buf_str(b, ",\"choices\":[");
    for (int p = 0; p < q->n_prompts; p++) {
        rank(q, p);
        for (int c = 0; c < o->n; c++) put_choice(q, &q->answers[p * q->n_each + c], index++, b);
    }
    buf_byte(b, ']');
    put_usage(q, b);
    put_timings(q, b);
    put_warnings(q, b);
    buf_byte(b, '}');
}

/* ---- streamed ---- */

static void begin_choice(const request *q, int index, buf *b) {
    const openai_reply *o = q->own;
    put_head(q, o->chunk, b);
    buf_fmt(b, ",\"choices\":[{\"index\":%d,", index);
}

static void end_chunk(const request *q, buf *b, buf *out) {
    if (q->include_usage) buf_str(b, ",\"usage\":null");
    buf_byte(b, '}');
    put_data(out, b);
    buf_free(b);
}

static void begin_chat(request *q, buf *out) {
    const openai_reply *o = q->own;
    for (int i = 0; i < q->n_answers && o->chat; i++) {
        buf b = { 0 };
        begin_choice(q, i, &b);
        buf_str(&b, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]");
        end_chunk(q, &b, out);
    }
}

static void piece(request *q, const job_event *v, buf *out) {
    const openai_reply *o = q->own;
    answer *a = request_answer(q, v);
    token_prob p = event_prob(v);
    int n = v->id >= 0 && q->logprobs ? 1 : 0;
    buf b = { 0 };
    if (!a || (!v->n && !n)) return; /* its text is not certain yet */
    begin_choice(q, (int)(a - q->answers), &b);
    buf_str(&b, o->chat ? "\"delta\":{\"content\":" : "\"text\":");
    buf_json(&b, v->text ? v->text : "", v->n);
    if (o->chat) buf_byte(&b, '}');
    put_logprobs(q, a, &p, n, &b);
    buf_str(&b, ",\"finish_reason\":null}]");
    end_chunk(q, &b, out);
}

static void put_call_delta(const answer *a, const answer_part *p, buf *b) {
    buf_fmt(b, "\"tool_calls\":[{\"index\":%d", p->call);
    if (p->kind == PART_CALL) {
        buf_fmt(b, ",\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", a->calls[p->call].id);
        put_quoted(b, a->calls[p->call].name);
        buf_str(b, ",\"arguments\":\"\"}}]");
    } else {
        buf_str(b, ",\"function\":{\"arguments\":");
        buf_json(b, p->s, p->n);
        buf_str(b, "}}]");
    }
}

static void part(request *q, answer *a, const answer_part *p, buf *out) {
    buf b = { 0 };
    if (p->kind == PART_CALL_END) return;
    begin_choice(q, (int)(a - q->answers), &b);
    buf_str(&b, "\"delta\":{");
    if (p->kind == PART_TEXT || p->kind == PART_REASONING) {
        buf_str(&b, p->kind == PART_TEXT ? "\"content\":" : "\"reasoning_content\":");
        buf_json(&b, p->s, p->n);
    } else put_call_delta(a, p, &b);
    buf_str(&b, "},\"logprobs\":null,\"finish_reason\":null}]");
    end_chunk(q, &b, out);
}

static void put_end_choice(request *q, answer *a, bool final, buf *out) {
    const openai_reply *o = q->own;
    buf b = { 0 };
    begin_choice(q, (int)(a - q->answers), &b);
    buf_str(&b, o->chat ? "\"delta\":{}" : "\"text\":\"\"");
    buf_str(&b, ",\"logprobs\":null");
    put_finish(a, &b);
    buf_str(&b, "}]");
    if (final) { /* what the end of all brings: no chunk of its own, whose empty choices many clients do not expect */
        put_timings(q, &b);
        put_warnings(q, &b);
    }
    end_chunk(q, &b, out);
}

static void choice_end(request *q, const job_event *v, buf *out) {
    answer *a = request_answer(q, v);
    if (a && v->end != END_SHUTDOWN && q->n_ended < q->n_answers) put_end_choice(q, a, false, out);
    else if (a) ((openai_reply *)q->own)->last = (int)(a - q->answers);
}

static void end(request *q, buf *out) {
    const openai_reply *o = q->own;
    put_end_choice(q, &q->answers[o->last], true, out);
    if (q->include_usage) {
        buf b = { 0 };
        put_head(q, o->chunk, &b);
        buf_str(&b, ",\"choices\":[]");
        put_usage(q, &b);
        put_timings(q, &b);
        buf_byte(&b, '}');
        put_data(out, &b);
        buf_free(&b);
    }
    buf_str(out, "data: [DONE]\n\n");
}

/* A stream that only ends is taken for complete: the error is said, then the end. */
static void broken(request *q, buf *out) {
    buf b = { 0 };
    failure_body(q, failure_status(q), &b);
    put_data(out, &b);
    buf_str(out, "data: [DONE]\n\n");
    buf_free(&b);
}

static const renderer openai_renderer = { .stream_type = "text/event-stream; charset=utf-8", .begin = begin_chat, .piece = piece,
                                          .part = part, .choice_end = choice_end, .end = end, .whole = whole, .broken = broken };

/* ---- requests ---- */

static int make_reply(request *q, bool chats) {
    openai_reply *o = arena_alloc(&q->mem, sizeof *o);
    if (!o) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    o->chat = chats;
    snprintf(o->id, sizeof o->id, "%s-%s", chats ? "chatcmpl" : "cmpl", q->id + 4);
    o->object = chats ? "chat.completion" : "text_completion";
    o->chunk = chats ? "chat.completion.chunk" : "text_completion";
    q->own = o;
    q->stream = request_flag(q, F_STREAM, false);
    q->keep_probs = !q->stream;
    const json *so = q->v[F_STREAM_OPTIONS], *usage = so ? json_get(so, "include_usage") : NULL;
    if (usage && usage->type != JSON_TRUE && usage->type != JSON_FALSE && usage->type != JSON_NULL)
        return request_fail(q, JOB_INVALID, "stream_options.include_usage",
                            "stream_options.include_usage: expected true or false, found %s", json_type_name(usage));
    q->include_usage = q->stream && usage && usage->type == JSON_TRUE;
    return 0;
}

static int take_modalities(request *q) {
    const json *v = q->v[F_MODALITIES];
    for (const json *k = v ? v->child : NULL; k; k = k->next)
        if (!json_is(k, "text")) return request_fail(q, JOB_UNSUPPORTED, "modalities", "modalities: only \"text\" is supported");
    return 0;
}

int openai_chat(request *q) {
    json *messages;
    const json *tools;
    job *j;
    if (request_need(q, F_MESSAGES, "messages") || request_model(q) || make_reply(q, true) || take_modalities(q)) return -1;
    if (request_flag(q, F_STORE, false)) request_warn(q, "store: nothing is stored");
    if (messages_normalise(q, &(conversation_in){ .messages = q->v[F_MESSAGES] }, &messages)) return -1;
    if (messages_tools(q, q->v[F_TOOLS], false, &tools) || structured_take(q) || request_job(q, JOB_GENERATE)) return -1;
    j = q->j;
    j->prompts = arena_alloc(&j->mem, sizeof *j->prompts);
    if (!j->prompts) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    j->n_prompts = 1;
    j->turn_end = q->m->turn_end;
    if (request_chat(q, messages, tools, true, &j->prompts[0])) return -1;
    j->logprobs = request_flag(q, F_LOGPROBS, false);
    j->n_top = (int)request_int(q, F_TOP_LOGPROBS, 0);
    if (j->n_top && !j->logprobs) return request_fail(q, JOB_INVALID, "top_logprobs", "top_logprobs: needs logprobs:true");
    if (request_sampling(q, &chat_defaults) || request_context(q)) return -1;
    ((openai_reply *)q->own)->n = j->n;
    return request_submit(q, &openai_renderer);
}

static int take_best_of(request *q, openai_reply *o) {
    job *j = q->j;
    int best_of = (int)request_int(q, F_BEST_OF, j->n);
    o->n = j->n;
    if (best_of == j->n) return 0;
    if (best_of < j->n) return request_fail(q, JOB_INVALID, "best_of", "best_of: expected at least n (%d), found %d", j->n, best_of);
    if (q->stream) return request_fail(q, JOB_INVALID, "best_of", "best_of: which answers are the best is known at the end only: not with stream");
    if ((int64_t)best_of * j->n_prompts > 4096)
        return request_fail(q, JOB_INVALID, "best_of", "best_of: %d draws of %d prompts, the most is 4096 in all", best_of, j->n_prompts);
    if (j->beams.beams > 1) return request_fail(q, JOB_INVALID, "best_of", "best_of: not together with num_beams");
    j->n = best_of;
    return 0;
}

/* Offsets of an answer without its prompt begin behind it, as OpenAI's do. */
static void begin_offsets(request *q, const ids *prompts, bool echo) {
    err e = { 0 };
    for (int i = 0; i < q->n_answers && !echo && q->m->tok; i++) {
        const ids *v = &prompts[i / q->n_each];
        buf text = { 0 };
        if (tokenizer_decode(q->m->tok, v->p, v->n, true, &text, &e) == 0) q->answers[i].offset = count_chars(text.p, text.n);
        buf_free(&text);
    }
}

static int completion_prompt(request *q, int flags) {
    job *j = q->j;
    const json *v = q->v[F_PROMPT];
    const char *suffix = request_str(q, F_SUFFIX, "");
    if (!*suffix) return request_prompts(q, v, "prompt", false, flags);
    if (v->type != JSON_STRING) return request_fail(q, JOB_INVALID, "prompt", "prompt: with a suffix expected a string, found %s", json_type_name(v));
    j->prompts = arena_alloc(&j->mem, sizeof *j->prompts);
    if (!j->prompts) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    j->n_prompts = 1;
    return infill_prompt(q, v->s, v->n, suffix, strlen(suffix), &j->prompts[0]);
}

int openai_completions(request *q) {
    int flags = TOK_SPECIAL | (request_flag(q, F_PARSE_SPECIAL, false) ? TOK_PARSE_SPECIAL : 0);
    if (request_need(q, F_PROMPT, "prompt") || request_model(q) || make_reply(q, false) || structured_take(q) || request_job(q, JOB_GENERATE))
        return -1;
    if (completion_prompt(q, flags)) return -1;
    job *j = q->j;
    openai_reply *o = q->own;
    j->echo = request_flag(q, F_ECHO, false);
    o->n_top = j->n_top = (int)request_int(q, F_LOGPROBS, 0);
    bool best = request_int(q, F_BEST_OF, 1) > request_int(q, F_N, 1);
    j->logprobs = q->v[F_LOGPROBS] != NULL || best;
    if (request_sampling(q, &completion_defaults) || request_context(q) || take_best_of(q, o)) return -1;
    o->legacy_hidden = !q->v[F_LOGPROBS];
    if (request_answers(q)) return -1;
    if (j->logprobs) begin_offsets(q, j->prompts, j->echo);
    return request_submit(q, &openai_renderer);
}

/* ---- embeddings ---- */

static void put_base64(const unsigned char *p, size_t n, buf *b) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        unsigned v = (unsigned)p[i] << 16 | (i + 1 < n ? (unsigned)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
        char four[4] = { digits[v >> 18], digits[v >> 12 & 63], i + 1 < n ? digits[v >> 6 & 63] : '=', i + 2 < n ? digits[v & 63] : '=' };
        buf_add(b, four, 4);
    }
}

void put_embedding(buf *b, const float *x, int n) {
    buf_byte(b, '[');
    for (int i = 0; i < n; i++) buf_fmt(b, "%s%.9g", i ? "," : "", (double)x[i]);
    buf_byte(b, ']');
}

static void put_embedding_base64(buf *b, const float *x, int n) {
    buf bytes = { 0 };
    for (int i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], 4);
        buf_u32(&bytes, u);
    }
    buf_byte(b, '"');
    put_base64((const unsigned char *)bytes.p, bytes.n, b);
    buf_byte(b, '"');
    b->failed |= bytes.failed;
    buf_free(&bytes);
}

static void whole_embeddings(request *q, buf *b) {
    int d = (int)request_int(q, F_DIMENSIONS, INT32_MAX);
    bool base64 = json_is(q->v[F_ENCODING], "base64");
    buf_str(b, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < q->n_answers; i++) {
        answer *a = &q->answers[i];
        cut_embedding(a, d);
        buf_fmt(b, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", i ? "," : "", i);
        (base64 ? put_embedding_base64 : put_embedding)(b, a->embedding, a->n_embedding);
        buf_byte(b, '}');
    }
    buf_str(b, "],\"model\":");
    put_quoted(b, q->model_name);
    buf_fmt(b, ",\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d}", count_prompt(q), count_prompt(q));
    put_timings(q, b);
    put_warnings(q, b);
    buf_byte(b, '}');
}

static const renderer embeddings_renderer = { .whole = whole_embeddings };

/* The request's, else the checkpoint's, else --pooling's, which the reply says: it is a guess about the model, if its user's. */
static int take_pooling(request *q) {
    const char *asked = request_str(q, F_POOLING, NULL);
    if (asked && (q->j->pooling = pooling_named(asked)) < 0)
        return request_fail(q, JOB_INVALID, "pooling", "pooling: expected first, mean or last, found \"%.40s\"", asked);
    if (asked || q->m->info->pooling || !q->s->pooling) return 0;
    q->j->pooling = q->s->pooling;
    request_warn(q, "the checkpoint of '%s' does not say how its hidden states become an embedding: pooled by %s, as serve --pooling says",
                 q->m->name, pooling_name(q->s->pooling));
    return 0;
}

int request_embed(request *q, const json *input, const char *name) {
    if (request_model(q) || request_job(q, JOB_EMBED) || take_pooling(q) || request_prompts(q, input, name, false, TOK_SPECIAL)) return -1;
    int64_t d = request_int(q, F_DIMENSIONS, q->m->info->d_embed);
    if (d > q->m->info->d_embed)
        return request_fail(q, JOB_INVALID, "dimensions", "dimensions: model '%s' gives %d, found %lld", q->m->name,
                            q->m->info->d_embed, (long long)d);
    return request_context(q);
}

/* The first so many, scaled to length 1 again. */
void cut_embedding(answer *a, int d) {
    double sum = 0;
    if (d >= a->n_embedding) return;
    for (int i = 0; i < d; i++) sum += (double)a->embedding[i] * (double)a->embedding[i];
    double by = sum > 0 ? 1 / sqrt(sum) : 1;
    for (int i = 0; i < d; i++) a->embedding[i] = (float)((double)a->embedding[i] * by);
    a->n_embedding = d;
}

int openai_embeddings(request *q) {
    const char *format = request_str(q, F_ENCODING, "float");
    if (strcmp(format, "float") && strcmp(format, "base64"))
        return request_fail(q, JOB_INVALID, "encoding_format", "encoding_format: expected \"float\" or \"base64\", found \"%.40s\"", format);
    if (request_need(q, F_INPUT, "input") || request_embed(q, q->v[F_INPUT], "input")) return -1;
    return request_submit(q, &embeddings_renderer);
}
