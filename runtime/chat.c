/* chat: what transformers does to a conversation before and after its template. Owns the two compiled templates of a checkpoint
 * and the variables a template sees. It must not know models, engines or HTTP. */
#include "runtime/chat.h"

#include <stdlib.h>
#include <string.h>

struct chat {
    const tokenizer *t;
    template *plain, *tools; /* tools: NULL: the same */
    arena mem;
    json *special;           /* bos_token, ...: strings of the tokenizer */
};

/* ---- JSON objects out of parts ---- */

static json *new_json(arena *a, json_type type, err *e) {
    json *j = arena_alloc(a, sizeof *j);
    if (j) j->type = type;
    else fail_memory(e, sizeof *j, "a chat");
    return j;
}

/* Appends a copy of v; its children are shared. key NULL: v's own. */
static int add(arena *a, json *to, const char *key, const json *v, err *e) {
    json *j = new_json(a, v->type, e), **tail = &to->child;
    if (!j) return -1;
    *j = *v;
    j->next = NULL;
    if (key) j->key = key, j->key_n = (uint32_t)strlen(key);
    while (*tail) tail = &(*tail)->next;
    *tail = j;
    to->n++;
    return 0;
}

/* ---- opening ---- */

static int add_token(chat *c, const char *name, int32_t id, err *e) {
    json v = { .type = JSON_STRING };
    size_t n;
    const char *s = id >= 0 ? tokenizer_piece(c->t, id, &n) : NULL;
    if (!s) return 0;
    if (!(v.s = arena_copy(&c->mem, s, n))) return fail_memory(e, n, "a token's name");
    v.n = (uint32_t)n;
    return add(&c->mem, c->special, name, &v, e);
}

static int open_templates(chat *c, const char *text, size_t n, err *e) {
    size_t n_tools = 0;
    const char *tools = text || !c->t ? NULL : tokenizer_template(c->t, true, &n_tools);
    if (!text && c->t) text = tokenizer_template(c->t, false, &n);
    if (!text && !tools)
        return fail(e, "the checkpoint has no chat template, so how it chats is not known: give one (--template FILE), or use the plain text");
    if (text && template_compile(&c->plain, text, n, e)) return -1;
    return tools && tools != text ? template_compile(&c->tools, tools, n_tools, e) : 0;
}

int chat_open(chat **out, const tokenizer *t, const char *text, size_t n, err *e) {
    chat *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) return fail_memory(e, sizeof *c, "a chat");
    c->t = t;
    c->special = new_json(&c->mem, JSON_OBJECT, e);
    int rc = c->special ? open_templates(c, text, n, e) : -1;
    if (!rc && t)
        rc = add_token(c, "bos_token", tokenizer_bos(t), e) || add_token(c, "eos_token", tokenizer_eos(t), e) ||
             add_token(c, "unk_token", tokenizer_unk(t), e) ? -1 : 0;
    if (rc) chat_close(c);
    else *out = c;
    return rc;
}

void chat_close(chat *c) {
    if (!c) return;
    template_free(c->plain);
    template_free(c->tools);
    arena_free(&c->mem);
    free(c);
}

/* ---- what a template sees ---- */

static bool is_none(const json *j) { return !j || j->type == JSON_NULL; }

static int check_objects(const json *list, const char *name, err *e) {
    size_t i = 0;
    if (is_none(list)) return 0;
    if (list->type != JSON_ARRAY) return fail_code(e, ERR_INPUT, "%s: expected an array of objects, found %s", name, json_type_name(list));
    for (const json *j = list->child; j; j = j->next, i++)
        if (j->type != JSON_OBJECT) return fail_code(e, ERR_INPUT, "%s[%zu]: expected an object, found %s", name, i, json_type_name(j));
    return 0;
}

static int check_request(const chat_request *q, err *e) {
    if (is_none(q->messages) || (q->messages->type == JSON_ARRAY && !q->messages->n))
        return fail_code(e, ERR_INPUT, "messages: expected at least one message");
    if (check_objects(q->messages, "messages", e) || check_objects(q->tools, "tools", e) || check_objects(q->documents, "documents", e)) return -1;
    if (!is_none(q->kwargs) && q->kwargs->type != JSON_OBJECT)
        return fail_code(e, ERR_INPUT, "kwargs: expected an object, found %s", json_type_name(q->kwargs));
    return 0;
}

/* With calls templates ask whether there is a content: null says no. */
static bool says_none(const json *message, const json *member) {
    return member->key_n == 7 && memcmp(member->key, "content", 7) == 0 && json_get(message, "tool_calls");
}

/* A message without its other null members; reasoning is there under the names that old and new templates look for. */
static int add_message(arena *a, json *list, const json *message, err *e) {
    static const char *const names[] = { "reasoning_content", "thinking", "reasoning" };
    const json *reasoning = NULL;
    json *m = new_json(a, JSON_OBJECT, e);
    if (!m) return -1;
    for (int i = 0; i < 3 && is_none(reasoning); i++) reasoning = json_get(message, names[i]);
    if (is_none(reasoning)) reasoning = NULL;
    if (reasoning && is_none(json_get(message, "thinking")) && add(a, m, "thinking", reasoning, e)) return -1;
    for (const json *j = message->child; j; j = j->next)
        if ((j->type != JSON_NULL || says_none(message, j)) && !(reasoning && j->key_n == 17 && memcmp(j->key, "reasoning_content", 17) == 0) &&
            add(a, m, NULL, j, e))
            return -1;
    if (reasoning && add(a, m, "reasoning_content", reasoning, e)) return -1;
    return add(a, list, NULL, m, e);
}

static int make_vars(arena *a, const chat_request *q, json *vars, err *e) {
    const json none = { .type = JSON_NULL }, prompt = { .type = q->add_generation_prompt ? JSON_TRUE : JSON_FALSE };
    json *messages = new_json(a, JSON_ARRAY, e);
    if (!messages) return -1;
    for (const json *j = is_none(q->kwargs) ? NULL : q->kwargs->child; j; j = j->next)
        if (add(a, vars, NULL, j, e)) return -1;
    for (const json *j = q->messages->child; j; j = j->next)
        if (add_message(a, messages, j, e)) return -1;
    return add(a, vars, "messages", messages, e) || add(a, vars, "tools", is_none(q->tools) ? &none : q->tools, e) ||
                   add(a, vars, "documents", is_none(q->documents) ? &none : q->documents, e) || add(a, vars, "add_generation_prompt", &prompt, e)
               ? -1
               : 0;
}

/* The tokenizer's special tokens, or those of the request. */
static int make_trusted(const chat *c, arena *a, const chat_request *q, json *trusted, err *e) {
    const struct { const char *name; const json *instead; } own[] = { { "bos_token", q->bos_token }, { "eos_token", q->eos_token } };
    for (const json *j = c->special->child; j; j = j->next) {
        bool replaced = false;
        for (int i = 0; i < 2; i++) replaced |= own[i].instead && strcmp(j->key, own[i].name) == 0;
        if (!replaced && add(a, trusted, NULL, j, e)) return -1;
    }
    for (int i = 0; i < 2; i++) {
        const json *j = own[i].instead;
        if (j && j->type != JSON_NULL && j->type != JSON_STRING)
            return fail_code(e, ERR_INPUT, "%s: expected a string, found %s", own[i].name, json_type_name(j));
        if (!is_none(j) && add(a, trusted, own[i].name, j, e)) return -1;
    }
    return 0;
}

/* A role is one of a few words that every client sends, and some templates make tokens of it; any other string is the user's. */
static bool is_user(const json *string) {
    static const char *const roles[] = { "system", "user", "assistant", "tool", "developer", "function", "ipython", "model", "observation" };
    if (string->key_n != 4 || memcmp(string->key, "role", 4) != 0) return true;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (json_is(string, roles[i])) return false;
    return true;
}

int chat_render(const chat *c, const chat_request *q, chat_prompt *out, err *e) {
    arena a = { 0 };
    json *vars = new_json(&a, JSON_OBJECT, e), *trusted = new_json(&a, JSON_OBJECT, e);
    const template *t = !is_none(q->tools) && c->tools ? c->tools : c->plain;
    *out = (chat_prompt){ 0 };
    int rc = vars && trusted ? check_request(q, e) : -1;
    if (!rc && !t) rc = fail_code(e, ERR_INPUT, "the checkpoint has a chat template for chats with tools only, and this one has none");
    if (!rc) rc = make_vars(&a, q, vars, e) || make_trusted(c, &a, q, trusted, e) ? -1 : 0;
    template_opts o = { .trusted = trusted, .is_user = is_user, .now = q->now };
    if (!rc) rc = template_render_with(t, vars, &o, &out->text, &out->user, &out->generation, e);
    if (rc) chat_prompt_free(out);
    arena_free(&a);
    return rc;
}

void chat_prompt_free(chat_prompt *p) {
    buf_free(&p->text);
    text_ranges_free(&p->user);
    text_ranges_free(&p->generation);
}

int chat_encode(const chat *c, const chat_prompt *p, bool parse_special, ids *out, err *e) {
    return tokenizer_encode_parts(c->t, p->text.p ? p->text.p : "", p->text.n, TOK_PARSE_SPECIAL, p->user.p, parse_special ? 0 : p->user.n, out, e);
}

/* ---- the end of a turn ---- */

static bool of_user(const text_ranges *user, size_t from, size_t to) {
    for (size_t i = 0; i < user->n; i++)
        if (user->p[i].begin < to && from < user->p[i].end) return true;
    return false;
}

int32_t chat_special_at(const chat *c, const buf *text, size_t at, const text_ranges *user) {
    enum { LONGEST = 256 }; /* bytes of a special token */
    ids v = { 0 };
    err unused = { 0 };
    size_t left = text->n - at, n = 0;
    int32_t id = -1;
    if (tokenizer_encode(c->t, text->p + at, left < LONGEST ? left : LONGEST, TOK_PARSE_SPECIAL, &v, &unused) == 0 && v.n) id = v.p[0];
    ids_free(&v);
    const char *piece = id >= 0 && tokenizer_is_special(c->t, id) ? tokenizer_piece(c->t, id, &n) : NULL;
    return piece && n && n <= left && memcmp(piece, text->p + at, n) == 0 && !of_user(user, at, at + n) ? id : -1;
}

int32_t chat_turn_end(const chat *c) {
    static const char reply[] = "Quern.", sample[] = "[{\"role\":\"user\",\"content\":\"?\"},{\"role\":\"assistant\",\"content\":\"Quern.\"}]";
    chat_prompt p = { 0 };
    arena mem = { 0 };
    err unused = { 0 };
    json *messages;
    int32_t id = -1;
    if (c->t && json_parse(&mem, sample, sizeof sample - 1, &messages, &unused) == 0 &&
        chat_render(c, &(chat_request){ .messages = messages }, &p, &unused) == 0 && p.text.n) {
        const char *at = strstr(p.text.p, reply), *from = at ? at + sizeof reply - 1 : NULL;
        while (from && (*from == ' ' || *from == '\n')) from++;
        if (from && *from) id = chat_special_at(c, &p.text, (size_t)(from - p.text.p), &p.user);
    }
    chat_prompt_free(&p);
    arena_free(&mem);
    return id;
}
