/* api_ollama: Ollama's paths that generate and embed. Streams are one JSON object a line and never hold an empty one. The paths about
 * models are in api_ollama_models.c. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/serve/api.h"
#include "tools/serve/render.h"

typedef struct ollama_reply {
    bool chats;
    const char *load_reason; /* of a request without a prompt: "load", "unload" */
    ids prompt;              /* generate's `context`: what the answer followed */
} ollama_reply;

static const sampling_defaults ollama_defaults = { .temperature = 0.8f, .top_p = 0.9f, .top_k = 40, .max_tokens = -1, .seed_minus_one = true };

/* ---- replies ---- */

static void put_now(buf *b) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    put_time(b, t.tv_sec, t.tv_nsec);
}

static void begin_line(const request *q, buf *b) {
    buf_str(b, "{\"model\":");
    put_quoted(b, q->model_name);
    buf_str(b, ",\"created_at\":");
    put_now(b);
}

/* JSON without the line ends that may stand between its parts: a reply is one line. */
static void put_line(buf *b, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) buf_byte(b, s[i] == '\n' || s[i] == '\r' ? ' ' : s[i]); /* within its strings they are escaped */
}

/* Arguments are an object here: a call that was cut has none, and is left out (a warning says so). */
static void put_calls(const answer *a, int from, int to, buf *b) {
    bool first = true;
    for (int i = from; i < to; i++) {
        const said_call *c = &a->calls[i];
        if (i == a->n_calls - 1 && a->reader.cut) break;
        buf_fmt(b, "%s{\"id\":\"%s\",\"function\":{\"index\":%d,\"name\":", first ? ",\"tool_calls\":[" : ",", c->id, i);
        put_quoted(b, c->name);
        buf_str(b, ",\"arguments\":");
        put_line(b, c->arguments.n ? c->arguments.p : "{}", c->arguments.n ? c->arguments.n : 2);
        buf_str(b, "}}");
        first = false;
    }
    if (!first) buf_byte(b, ']');
}

static void put_message(const request *q, const buf *text, const buf *thought, const answer *a, int from, int to, buf *b) {
    const ollama_reply *o = q->own;
    buf_str(b, o->chats ? ",\"message\":{\"role\":\"assistant\",\"content\":" : ",\"response\":");
    buf_json(b, text->p ? text->p : "", text->n);
    if (thought->n) {
        buf_str(b, ",\"thinking\":");
        buf_json(b, thought->p, thought->n);
    }
    if (a) put_calls(a, from, to, b);
    if (o->chats) buf_byte(b, '}');
}

static void put_text(const request *q, const char *text, size_t n, buf *b) {
    buf none = { 0 };
    if (!n) put_message(q, &none, &none, NULL, 0, 0, b);
    else {
        buf copy = { 0 };
        buf_add(&copy, text, n);
        put_message(q, &copy, &none, NULL, 0, 0, b);
        b->failed |= copy.failed;
        buf_free(&copy);
    }
}

static void put_probs(const request *q, const token_prob *p, int n, buf *b) {
    buf_str(b, ",\"logprobs\":[");
    for (int i = 0; i < n; i++) {
        if (i) buf_byte(b, ',');
        put_chat_logprob(q, &p[i], b);
    }
    buf_byte(b, ']');
}

static long long ns(double seconds) { return seconds > 0 ? (long long)ceil(seconds * 1e9) : 1; } /* never 0: Ollama leaves that out */

static const char *done_reason(const request *q) {
    const ollama_reply *o = q->own;
    job_end e = q->n_answers ? q->answers[0].end : END_NONE;
    if (o->load_reason) return o->load_reason;
    return e == END_LENGTH || e == END_CONTEXT || e == END_DEADLINE ? "length" : "stop";
}

static void put_context(const request *q, buf *b) {
    const ollama_reply *o = q->own;
    if (o->chats || o->load_reason || !q->n_answers) return;
    buf_str(b, ",\"context\":[");
    for (size_t i = 0; i < o->prompt.n; i++) buf_fmt(b, "%s%d", i ? "," : "", o->prompt.p[i]);
    for (size_t i = 0; i < q->answers[0].tokens.n; i++) buf_fmt(b, "%s%d", i || o->prompt.n ? "," : "", q->answers[0].tokens.p[i]);
    buf_byte(b, ']');
}

static void put_done(const request *q, buf *b) {
    const ollama_reply *o = q->own;
    const job_timings *t = &q->timings;
    double total = now_seconds() - q->h->arrived;
    buf_fmt(b, ",\"done\":true,\"done_reason\":\"%s\"", done_reason(q));
    put_context(q, b);
    buf_fmt(b, ",\"total_duration\":%lld,\"load_duration\":%lld", ns(total), ns(t->load));
    if (!o->load_reason) {
        buf_fmt(b, ",\"prompt_eval_count\":%d,\"prompt_eval_duration\":%lld,\"eval_count\":%d,\"eval_duration\":%lld,\"prompt_cached_count\":%d",
                count_prompt(q), ns(t->prompt), t->n_decoded, ns(t->decode), t->n_cached);
        if (q->n_answers) buf_fmt(b, ",\"ended\":\"%s\"", end_name(q->answers[0].end));
        put_timings(q, b);
    }
    buf_str(b, ",\"system_fingerprint\":");
    put_fingerprint(q, b);
    put_warnings(q, b);
    buf_byte(b, '}');
}

static void whole(request *q, buf *b) {
    answer *a = q->n_answers ? &q->answers[0] : NULL;
    begin_line(q, b);
    if (a) put_message(q, &a->text, &a->reasoning, a, 0, a->n_calls, b);
    else put_text(q, "", 0, b);
    if (q->logprobs && a) put_probs(q, a->probs, a->n_probs, b);
    put_done(q, b);
}

static void piece(request *q, const job_event *v, buf *out) {
    token_prob p = event_prob(v);
    bool probs = v->id >= 0 && q->logprobs;
    if (!v->n && !probs) return;
    begin_line(q, out);
    put_text(q, v->text, v->n, out);
    if (probs) put_probs(q, &p, 1, out);
    buf_str(out, ",\"done\":false}\n");
}

static void part(request *q, answer *a, const answer_part *p, buf *out) {
    buf text = { 0 }, none = { 0 };
    bool call = p->kind == PART_CALL_END;
    if (p->kind == PART_CALL || p->kind == PART_ARGUMENTS || (call && a->reader.cut)) return; /* calls are sent whole */
    if (!call) buf_add(&text, p->s, p->n);
    begin_line(q, out);
    put_message(q, p->kind == PART_TEXT ? &text : &none, p->kind == PART_REASONING ? &text : &none, call ? a : NULL, p->call, p->call + 1, out);
    buf_str(out, ",\"done\":false}\n");
    out->failed |= text.failed;
    buf_free(&text);
}

/* An empty line would end a client: a whole object says nothing. */
static void ping(request *q, buf *out) {
    begin_line(q, out);
    put_text(q, "", 0, out);
    buf_str(out, ",\"done\":false}\n");
}

static void end(request *q, buf *out) {
    begin_line(q, out);
    put_text(q, "", 0, out);
    put_done(q, out);
    buf_byte(out, '\n');
}

static void broken(request *q, buf *out) {
    failure_body(q, failure_status(q), out);
    buf_byte(out, '\n');
}

static const renderer ollama_renderer = { .stream_type = "application/x-ndjson", .piece = piece, .part = part, .ping = ping,
                                          .end = end, .whole = whole, .broken = broken };

/* ---- requests ---- */

static int make_reply(request *q, bool chats) {
    ollama_reply *o = arena_alloc(&q->mem, sizeof *o);
    if (!o) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    o->chats = chats;
    q->own = o;
    q->stream = request_flag(q, F_STREAM, true);
    q->keep_probs = !q->stream;
    if (request_flag(q, F_TRUNCATE, false)) request_warn(q, "truncate: messages are never dropped; what does not fit is refused");
    if (request_flag(q, F_SHIFT, false)) request_warn(q, "shift: a full context ends the answer");
    const json *images = q->v[F_IMAGES];
    if (images && images->n) return request_fail(q, JOB_UNSUPPORTED, "images", "images: not supported: this model reads text only");
    const json *think = q->v[F_THINK];
    if (think && think->type == JSON_STRING && !json_is(think, "low") && !json_is(think, "medium") && !json_is(think, "high") &&
        !json_is(think, "max"))
        return request_fail(q, JOB_INVALID, "think", "think: expected true, false, \"low\", \"medium\", \"high\" or \"max\", found \"%.40s\"",
                            think->s);
    return structured_take(q);
}

/* No prompt: the model is loaded, or with keep_alive 0 given back. */
static int only_load(request *q) {
    ollama_reply *o = q->own;
    o->load_reason = q->keep_alive == 0 ? "unload" : "load";
    if (request_job(q, JOB_LOAD)) return -1;
    return request_submit(q, &ollama_renderer);
}

static int render_only(request *q) {
    buf b = { 0 };
    begin_line(q, &b);
    put_text(q, "", 0, &b);
    buf_str(&b, ",\"done\":true,\"_debug_info\":{\"rendered_template\":");
    buf_json(&b, q->text.p ? q->text.p : "", q->text.n);
    buf_str(&b, ",\"image_count\":0}");
    put_warnings(q, &b);
    buf_byte(&b, '}');
    int rc = reply_json(q, 200, &b);
    buf_free(&b);
    return rc;
}

static int make_job(request *q) {
    job *j;
    if (request_job(q, JOB_GENERATE)) return -1;
    j = q->j;
    j->prompts = arena_alloc(&j->mem, sizeof *j->prompts);
    if (!j->prompts) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    j->n_prompts = 1;
    j->logprobs = request_flag(q, F_LOGPROBS, false);
    j->n_top = (int)request_int(q, F_TOP_LOGPROBS, 0);
    if (j->n_top && !j->logprobs) return request_fail(q, JOB_INVALID, "top_logprobs", "top_logprobs: needs logprobs:true");
    return 0;
}

int ollama_chat(request *q) {
    json *messages;
    const json *tools, *in = q->v[F_MESSAGES];
    if (request_need(q, F_MODEL, "model") || make_reply(q, true) || request_model(q)) return -1;
    if (!in || !in->n) return only_load(q);
    if (messages_normalise(q, &(conversation_in){ .messages = in }, &messages) || messages_tools(q, q->v[F_TOOLS], false, &tools) || make_job(q))
        return -1;
    q->j->turn_end = q->m->turn_end;
    if (request_chat(q, messages, tools, true, &q->j->prompts[0])) return -1;
    if (request_flag(q, F_DEBUG_RENDER, false)) return render_only(q);
    if (request_sampling(q, &ollama_defaults) || request_context(q)) return -1;
    return request_submit(q, &ollama_renderer);
}

/* generate's prompt: raw text, text around a gap, or one turn through the template, behind the context of an earlier reply. */
static int take_prompt(request *q, ids *out) {
    const json *prompt = q->v[F_PROMPT], *context = q->v[F_CONTEXT];
    const char *system = request_str(q, F_SYSTEM, NULL), *suffix = request_str(q, F_SUFFIX, "");
    bool raw = request_flag(q, F_RAW, false);
    int64_t id;
    for (const json *k = context ? context->child : NULL; k; k = k->next) {
        if (json_int(k, &id) || id < 0 || id >= q->m->info->n_vocab)
            return request_fail(q, JOB_INVALID, "context", "context: expected token ids from 0 to %d, found %s",
                                q->m->info->n_vocab - 1, k->type == JSON_NUMBER ? k->s : json_type_name(k));
        ids_add(out, (int32_t)id);
    }
    if (*suffix) return infill_prompt(q, prompt->s, prompt->n, suffix, strlen(suffix), out);
    if (!raw && q->m->chat) {
        q->j->turn_end = q->m->turn_end;
        return request_chat(q, messages_of_text(q, system, prompt->s, prompt->n), NULL, true, out);
    }
    if (!raw) request_warn(q, "model '%s' has no chat template: the prompt is continued as text", q->m->name);
    if (!raw && system) return request_fail(q, JOB_INVALID, "system", "system: model '%s' has no chat template that could show it", q->m->name);
    buf_add(&q->text, prompt->s, prompt->n);
    return request_encode(q, prompt->s, prompt->n, (out->n ? 0 : TOK_SPECIAL) | (raw ? TOK_PARSE_SPECIAL : 0), out);
}

int ollama_generate(request *q) {
    const json *prompt = q->v[F_PROMPT];
    if (request_need(q, F_MODEL, "model") || make_reply(q, false) || request_model(q)) return -1;
    if (!prompt || !prompt->n) return only_load(q);
    if (make_job(q) || take_prompt(q, &q->j->prompts[0])) return -1;
    if (request_flag(q, F_DEBUG_RENDER, false)) return render_only(q);
    if (request_sampling(q, &ollama_defaults) || request_context(q)) return -1;
    ollama_reply *o = q->own;
    const ids *v = &q->j->prompts[0];
    int32_t *copy = arena_alloc(&q->mem, v->n * sizeof *copy);
    if (!copy) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    memcpy(copy, v->p, v->n * sizeof *copy);
    o->prompt = (ids){ .p = copy, .n = v->n };
    return request_submit(q, &ollama_renderer);
}

/* ---- embeddings ---- */

static void whole_embed(request *q, buf *b) {
    int d = (int)request_int(q, F_DIMENSIONS, INT32_MAX);
    buf_str(b, "{\"model\":");
    put_quoted(b, q->model_name);
    buf_str(b, ",\"embeddings\":[");
    for (int i = 0; i < q->n_answers; i++) {
        if (i) buf_byte(b, ',');
        cut_embedding(&q->answers[i], d);
        put_embedding(b, q->answers[i].embedding, q->answers[i].n_embedding);
    }
    buf_fmt(b, "],\"total_duration\":%lld,\"load_duration\":%lld,\"prompt_eval_count\":%d", ns(now_seconds() - q->h->arrived),
            ns(q->timings.load), count_prompt(q));
    put_timings(q, b);
    put_warnings(q, b);
    buf_byte(b, '}');
}

static void whole_old(request *q, buf *b) {
    buf_str(b, "{\"embedding\":");
    put_embedding(b, q->answers[0].embedding, q->answers[0].n_embedding);
    put_warnings(q, b);
    buf_byte(b, '}');
}

static void whole_empty(request *q, buf *b) {
    buf_str(b, "{\"model\":");
    put_quoted(b, q->model_name);
    buf_fmt(b, ",\"embeddings\":[],\"total_duration\":%lld,\"load_duration\":%lld,\"prompt_eval_count\":0}",
            ns(now_seconds() - q->h->arrived), ns(q->timings.load));
}

static const renderer embed_renderer = { .whole = whole_embed }, old_renderer = { .whole = whole_old }, empty_renderer = { .whole = whole_empty };

int ollama_embed(request *q) {
    const json *input = q->v[F_INPUT];
    if (request_need(q, F_MODEL, "model")) return -1;
    if (!input || !input->n) return request_model(q) || request_job(q, JOB_LOAD) ? -1 : request_submit(q, &empty_renderer);
    for (const json *k = input->type == JSON_ARRAY ? input->child : NULL; k; k = k->next)
        if (k->type != JSON_STRING)
            return request_fail(q, JOB_INVALID, "input", "input: expected a string or an array of strings, found %s in it", json_type_name(k));
    return request_embed(q, input, "input") ? -1 : request_submit(q, &embed_renderer);
}

int ollama_old_embeddings(request *q) {
    if (request_need(q, F_MODEL, "model") || request_need(q, F_PROMPT, "prompt") || request_embed(q, q->v[F_PROMPT], "prompt")) return -1;
    return request_submit(q, &old_renderer);
}
