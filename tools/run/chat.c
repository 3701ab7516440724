/* chat: the chat template from the command line: --render, --show-prompt, and the prompt of --chat. Needs only the file's tokenizer. */
#include "runtime/files.h"
#include "tools/run/run.h"

#include <string.h>
#include <unistd.h>

int run_open_chat(const run_opts *o, const tokenizer *t, chat **c, err *e) {
    buf text = { 0 };
    err inner = { 0 };
    if (o->template_file && read_file(o->template_file, 0, &text, e)) return buf_free(&text), -1;
    int rc = chat_open(c, t, o->template_file ? text.p : NULL, text.n, &inner);
    buf_free(&text);
    return rc ? fail_code(e, inner.code, "%s: %s", o->template_file ? o->template_file : o->model, inner.msg) : 0;
}

/* ---- one turn: --system and the prompt ---- */

static json *message(arena *a, const char *role, const char *text, size_t n) {
    json *m = arena_alloc(a, sizeof *m), *r = arena_alloc(a, sizeof *r), *c = arena_alloc(a, sizeof *c);
    if (!m || !r || !c) return NULL;
    *r = (json){ .type = JSON_STRING, .key = "role", .key_n = 4, .s = role, .n = (uint32_t)strlen(role), .next = c };
    *c = (json){ .type = JSON_STRING, .key = "content", .key_n = 7, .s = text, .n = (uint32_t)n };
    *m = (json){ .type = JSON_OBJECT, .n = 2, .child = r };
    return m;
}

int run_chat_tokens(const run_opts *o, const tokenizer *t, const buf *prompt, buf *text, ids *out, err *e) {
    arena a = { 0 };
    chat *c = NULL;
    chat_prompt p = { 0 };
    json *user = message(&a, "user", prompt->p ? prompt->p : "", prompt->n), list = { .type = JSON_ARRAY, .n = 1, .child = user };
    json *system = o->system ? message(&a, "system", o->system, strlen(o->system)) : NULL;
    int rc = user && (system || !o->system) ? run_open_chat(o, t, &c, e) : fail_memory(e, sizeof *user, "a chat");
    if (!rc && prompt->n > UINT32_MAX) rc = fail_code(e, ERR_INPUT, "the prompt is over 4 GiB");
    if (!rc && system) {
        system->next = user;
        list.child = system;
        list.n = 2;
    }
    if (!rc) rc = chat_render(c, &(chat_request){ .messages = &list, .add_generation_prompt = true }, &p, e);
    if (!rc) rc = chat_encode(c, &p, o->parse_special, out, e);
    if (!rc && text) {
        text->n = 0;
        buf_add(text, p.text.p ? p.text.p : "", p.text.n);
        if (text->failed) rc = fail_memory(e, p.text.n, "a chat's text");
    }
    chat_prompt_free(&p);
    chat_close(c);
    arena_free(&a);
    return rc;
}

/* ---- --render ---- */

static int render_object(const chat *c, const json *j, chat_prompt *p, err *e) {
    const json *prompt = json_get(j, "add_generation_prompt");
    if (j->type != JSON_OBJECT) return fail_code(e, ERR_INPUT, "expected an object with \"messages\", found %s", json_type_name(j));
    if (prompt && prompt->type != JSON_TRUE && prompt->type != JSON_FALSE)
        return fail_code(e, ERR_INPUT, "add_generation_prompt: expected true or false, found %s", json_type_name(prompt));
    if (json_get(j, "continue_final_message")) return fail_code(e, ERR_INPUT, "continue_final_message is not read yet");
    chat_request q = { .messages = json_get(j, "messages"), .tools = json_get(j, "tools"), .documents = json_get(j, "documents"),
                       .kwargs = json_get(j, "kwargs"), .bos_token = json_get(j, "bos_token"), .eos_token = json_get(j, "eos_token"),
                       .add_generation_prompt = prompt && prompt->type == JSON_TRUE };
    return chat_render(c, &q, p, e);
}

struct rendering { const run_opts *o; chat *c; };

static void put_ids(const ids *v, const char *between, buf *out) {
    for (size_t i = 0; i < v->n; i++) buf_fmt(out, "%s%d", i ? between : "", v->p[i]);
}

/* One chat's text, or (--print-ids) its ids; as JSON for --jsonl. */
static int render_text(const struct rendering *r, const char *s, size_t n, buf *out, err *e) {
    arena a = { 0 };
    chat_prompt p = { 0 };
    ids v = { 0 };
    json *j;
    bool lines = r->o->jsonl;
    int rc = json_parse(&a, s, n, &j, e);
    if (!rc) rc = render_object(r->c, j, &p, e);
    if (!rc && r->o->print_ids) rc = chat_encode(r->c, &p, r->o->parse_special, &v, e);
    if (!rc && r->o->print_ids) {
        buf_str(out, lines ? "[" : "");
        put_ids(&v, lines ? "," : " ", out);
        buf_str(out, lines ? "]\n" : "\n");
    } else if (!rc && lines) {
        buf_json(out, p.text.p ? p.text.p : "", p.text.n);
        buf_byte(out, '\n');
    } else if (!rc) buf_add(out, p.text.p ? p.text.p : "", p.text.n);
    ids_free(&v);
    chat_prompt_free(&p);
    arena_free(&a);
    return rc;
}

/* A line that fails is a line too. */
static int render_line(void *arg, const char *s, size_t n, buf *out, err *e) {
    err inner = { 0 };
    (void)e;
    if (render_text(arg, s, n, out, &inner) == 0) return 0;
    buf_str(out, "{\"error\":");
    buf_json(out, inner.msg, strlen(inner.msg));
    buf_str(out, "}\n");
    return 0;
}

static int render_all(const run_opts *o, const tokenizer *t, err *e) {
    buf in = { 0 }, out = { 0 };
    struct rendering r = { o, NULL };
    err inner = { 0 };
    int rc = run_open_chat(o, t, &r.c, e);
    if (!rc) rc = strcmp(o->render, "-") == 0 ? read_stream(stdin, 0, &in, e) : read_file(o->render, 0, &in, e);
    if (!rc && o->jsonl) rc = run_lines(&in, render_line, &r, e);
    else if (!rc && render_text(&r, in.p, in.n, &out, &inner)) rc = fail_code(e, inner.code, "%s: %s", o->render, inner.msg);
    if (!rc && !o->jsonl && !o->print_ids && isatty(1)) buf_byte(&out, '\n');
    if (!rc) rc = run_put(&out, e);
    buf_free(&in);
    buf_free(&out);
    chat_close(r.c);
    return rc;
}

int run_render(const run_opts *o, err *e) { return run_with_tokenizer(o, !o->template_file || o->print_ids, render_all, e); }

/* ---- --show-prompt ---- */

int run_show(const tokenizer *t, const buf *text, const ids *tokens, err *e) {
    buf out = { 0 };
    if (!text->n && t && tokenizer_decode(t, tokens->p, tokens->n, false, &out, e)) return buf_free(&out), -1; /* of --ids */
    buf_add(&out, text->p ? text->p : "", text->n);
    buf_byte(&out, '\n');
    put_ids(tokens, " ", &out);
    buf_byte(&out, '\n');
    int rc = run_put(&out, e);
    buf_free(&out);
    return rc;
}

static int show_prompt(const run_opts *o, const tokenizer *t, err *e) {
    buf text = { 0 };
    ids tokens = { 0 };
    int rc = run_prompt_tokens(o, t, &text, &tokens, e);
    if (!rc) rc = run_show(t, &text, &tokens, e);
    buf_free(&text);
    ids_free(&tokens);
    return rc;
}

int run_show_prompt(const run_opts *o, err *e) { return run_with_tokenizer(o, !o->ids, show_prompt, e); }
