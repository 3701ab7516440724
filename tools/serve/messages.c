/* messages: the conversations of all dialects, brought to the one shape that chat templates know: role, content as text, reasoning,
 * tool_calls with arguments as objects, tool results. What cannot be shown to the model is refused by name, never dropped in silence. */
#include "tools/serve/messages.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/chat.h"

enum { MOST_MESSAGES = 10000 };

/* ---- trees ---- */

json *tree_new(request *q, json_type type) {
    json *j = arena_alloc(&q->mem, sizeof *j);
    if (!j) { /* nobody has to check: the failure is seen before the tree is used */
        request_fail(q, JOB_MEMORY, NULL, "out of memory");
        j = &q->spare;
        memset(j, 0, sizeof *j);
    }
    j->type = type;
    return j;
}

json *tree_str(request *q, const char *s, size_t n) {
    json *j = tree_new(q, JSON_STRING);
    j->s = arena_copy(&q->mem, s, n);
    if (!j->s) request_fail(q, JOB_MEMORY, NULL, "out of memory");
    j->n = j->s ? (uint32_t)n : 0;
    return j;
}

void tree_add(json *parent, const char *key, json *child) {
    json **at = &parent->child;
    while (*at && *at != child) at = &(*at)->next;
    if (*at || parent == child) return; /* the spare node, once more */
    *at = child;
    parent->n++;
    if (!key) return;
    child->key = key;
    child->key_n = (uint32_t)strlen(key);
}

/* A copy of the node, children shared, under another name and without its neighbours. */
static json *tree_share(request *q, const json *j) {
    json *copy = tree_new(q, j->type);
    *copy = *j;
    copy->next = NULL;
    copy->key = NULL;
    copy->key_n = 0;
    return copy;
}

static void set_str(request *q, json *m, const char *key, const json *v) {
    if (v && v->type == JSON_STRING) tree_add(m, key, tree_share(q, v));
}

/* ---- one message ---- */

typedef struct reader {
    request *q;
    json *out, *last;  /* the list so far, and its end */
    const json *asked; /* its last message with calls */
    uint64_t answered; /* those that have a result */
    int made;          /* ids */
    char where[48];    /* "messages[3]" */
    bool anthropic;
} reader;

static int wrong(reader *r, const char *member, const char *expected, const json *found) {
    return request_fail(r->q, JOB_INVALID, r->where, "%s%s%s: expected %s, found %s", r->where, member[0] ? "." : "",
                        member, expected, json_type_name(found));
}

static void name_result(reader *r, json *m);

static void append(reader *r, json *m) {
    name_result(r, m);
    if (json_get(m, "tool_calls")) r->asked = m, r->answered = 0;
    if (r->last) r->last->next = m;
    else r->out->child = m;
    r->last = m;
    r->out->n++;
}

static json *begin_message(reader *r, const char *role) {
    json *m = tree_new(r->q, JSON_OBJECT);
    tree_add(m, "role", tree_str(r->q, role, strlen(role)));
    return m;
}

static bool present(const json *j) { return j && j->type != JSON_NULL; }

static bool is_text_part(const json *type) {
    return json_is(type, "text") || json_is(type, "input_text") || json_is(type, "output_text") || json_is(type, "refusal");
}

/* Text of a content: a string, or parts joined by line ends. */
static int content_text(reader *r, const json *content, buf *out) {
    int i = 0;
    if (!present(content)) return 0;
    if (content->type == JSON_STRING) return buf_add(out, content->s, content->n), 0;
    if (content->type != JSON_ARRAY) return wrong(r, "content", "a string or an array of parts", content);
    bool first = true;
    for (const json *k = content->child; k; k = k->next, i++) {
        const json *type = json_get(k, "type"), *text = json_get(k, json_is(type, "refusal") ? "refusal" : "text");
        if (k->type == JSON_STRING) text = k;
        else if (k->type != JSON_OBJECT) return wrong(r, "content", "parts that are objects", k);
        else if (type && !is_text_part(type))
            return request_fail(r->q, JOB_UNSUPPORTED, r->where,
                                "%s.content[%d]: a part of type %.40s is not supported: this model reads text only", r->where, i,
                                type->type == JSON_STRING ? type->s : json_type_name(type));
        if (!text || text->type != JSON_STRING) return wrong(r, "content", "parts with a \"text\" that is a string", text);
        if (!first) buf_byte(out, '\n');
        buf_add(out, text->s, text->n);
        first = false;
    }
    return 0;
}

static int add_content(reader *r, json *m, const json *content) {
    buf text = { 0 };
    int rc = content_text(r, content, &text);
    if (!rc && text.failed) rc = request_fail(r->q, JOB_MEMORY, NULL, "out of memory");
    if (!rc) tree_add(m, "content", tree_str(r->q, text.p ? text.p : "", text.n));
    buf_free(&text);
    return rc;
}

/* An object as a string of JSON. */
static json *arguments_text(request *q, const json *v) {
    buf b = { 0 };
    json_put(&b, v);
    if (b.failed) request_fail(q, JOB_MEMORY, NULL, "out of memory");
    json *text = tree_str(q, b.p ? b.p : "", b.n);
    buf_free(&b);
    return text;
}

/* Most templates write arguments as JSON themselves: they want the object, not OpenAI's string of it. */
static json *arguments_of(reader *r, const json *v) {
    err e = { 0 };
    json *tree;
    if (r->q->m && r->q->m->wants.text_arguments) {
        if (present(v) && v->type == JSON_STRING) return tree_share(r->q, v);
        return present(v) ? arguments_text(r->q, v) : tree_str(r->q, "{}", 2);
    }
    if (!present(v)) return tree_new(r->q, JSON_OBJECT);
    if (v->type == JSON_STRING && json_parse(&r->q->mem, v->s, v->n, &tree, &e) == 0 && tree->type == JSON_OBJECT) return tree;
    return tree_share(r->q, v);
}

static int check_call(reader *r, const json *name) {
    return name && name->type == JSON_STRING && name->n ? 0 : wrong(r, "name", "the name of the function that was called", name);
}

static json *make_call(reader *r, const json *id, const json *name, const json *arguments) {
    json *call = tree_new(r->q, JSON_OBJECT), *function = tree_new(r->q, JSON_OBJECT);
    char made[32];
    snprintf(made, sizeof made, "call%05d", ++r->made % 100000);
    /* the template insists on one */
    if (!present(id) && r->q->m && r->q->m->calls && r->q->m->calls->id_length == (int)strlen(made))
        tree_add(call, "id", tree_str(r->q, made, strlen(made)));
    set_str(r->q, call, "id", id);
    tree_add(call, "type", tree_str(r->q, "function", 8));
    set_str(r->q, function, "name", name);
    tree_add(function, "arguments", arguments_of(r, arguments));
    tree_add(call, "function", function);
    return call;
}

/* With calls, an empty content is none where the template asks for that. */
static void no_content(reader *r, json *m) {
    for (json *k = m->child; k; k = k->next)
        if (r->q->m && r->q->m->wants.null_content && k->key && strcmp(k->key, "content") == 0 && !k->n) k->type = JSON_NULL;
}

/* A result and its call know each other by an id or by the function's name: templates want both, and no dialect sends both. Results
 * without an id are of the first call of their name that has none yet. */
static void name_result(reader *r, json *m) {
    const json *id = json_get(m, "tool_call_id"), *name = json_get(m, "name"), *calls = json_get(r->asked, "tool_calls");
    int i = 0;
    if (!json_is(json_get(m, "role"), "tool") || (id && name)) return;
    for (const json *c = calls ? calls->child : NULL; c && i < 64; c = c->next, i++) {
        const json *its_id = json_get(c, "id"), *its_name = json_get(json_get(c, "function"), "name");
        bool same = id ? its_id && json_is(id, its_id->s) : !(r->answered >> i & 1) && (!name || (its_name && json_is(name, its_name->s)));
        if (!same) continue;
        if (!name) set_str(r->q, m, "name", its_name);
        if (!id) set_str(r->q, m, "tool_call_id", its_id);
        r->answered |= UINT64_C(1) << i;
        return;
    }
}

static int add_calls(reader *r, json *m, const json *calls) {
    if (!present(calls) || !calls->n) return 0;
    if (calls->type != JSON_ARRAY) return wrong(r, "tool_calls", "an array", calls);
    no_content(r, m);
    json *list = tree_new(r->q, JSON_ARRAY), **at = &list->child;
    for (const json *k = calls->child; k; k = k->next) {
        const json *f = json_get(k, "function"), *name = json_get(f, "name");
        if (!name || name->type != JSON_STRING) return wrong(r, "tool_calls", "objects with a function that has a name", name);
        *at = make_call(r, json_get(k, "id"), name, json_get(f, "arguments"));
        at = &(*at)->next;
        list->n++;
    }
    tree_add(m, "tool_calls", list);
    return 0;
}

static const char *role_of(reader *r, const json *in) {
    static const char *const roles[][2] = { { "system", "system" }, { "developer", "system" }, { "user", "user" },
                                            { "assistant", "assistant" }, { "tool", "tool" }, { "function", "tool" } };
    const json *role = json_get(in, "role");
    if (!role || role->type != JSON_STRING) return wrong(r, "role", "a string", role), NULL;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (json_is(role, roles[i][0])) return roles[i][1];
    request_fail(r->q, JOB_INVALID, r->where, "%s.role: expected system, developer, user, assistant or tool, found \"%.40s\"", r->where, role->s);
    return NULL;
}

static bool known_member(const json *k) {
    static const char *const names[] = { "role", "content", "name", "tool_calls", "tool_call_id", "tool_name", "reasoning_content",
                                         "reasoning", "thinking", "images", "refusal", "function_call", "audio", "annotations",
                                         "type", "id", "status" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(k->key, names[i]) == 0) return true;
    return false;
}

static int check_members(reader *r, const json *in) {
    const json *images = json_get(in, "images"), *old = json_get(in, "function_call");
    if (images && images->type == JSON_ARRAY && images->n)
        return request_fail(r->q, JOB_UNSUPPORTED, r->where, "%s.images: images are not supported: this model reads text only", r->where);
    if (present(old)) return request_fail(r->q, JOB_UNSUPPORTED, r->where, "%s.function_call: not supported: use tool_calls", r->where);
    for (const json *k = in->child; k; k = k->next) {
        if (k->type == JSON_NULL || known_member(k)) continue;
        if (r->q->s->strict)
            return request_fail(r->q, JOB_INVALID, r->where, "%s.%.60s: unknown field; the server runs with --strict", r->where, k->key);
        request_warn(r->q, "%s.%.60s: unknown field, ignored", r->where, k->key);
    }
    return 0;
}

static int take_message(reader *r, const json *in) {
    if (in->type != JSON_OBJECT) return wrong(r, "", "an object", in);
    const char *role = role_of(r, in);
    if (!role || check_members(r, in)) return -1;
    json *m = begin_message(r, role);
    if (add_content(r, m, json_get(in, "content"))) return -1;
    const json *thought = json_get(in, "reasoning_content");
    if (!present(thought)) thought = json_get(in, "reasoning");
    if (!present(thought)) thought = json_get(in, "thinking");
    set_str(r->q, m, "reasoning_content", thought);
    set_str(r->q, m, "thinking", thought);
    const json *name = json_get(in, "name");
    set_str(r->q, m, "name", present(name) ? name : json_get(in, "tool_name"));
    set_str(r->q, m, "tool_call_id", json_get(in, "tool_call_id"));
    if (add_calls(r, m, json_get(in, "tool_calls"))) return -1;
    append(r, m);
    return 0;
}

/* ---- Anthropic's blocks ---- */

/* A user's blocks: tool results become messages of their own, before the text. */
static int take_tool_result(reader *r, const json *block) {
    json *m = begin_message(r, "tool");
    if (add_content(r, m, json_get(block, "content"))) return -1;
    set_str(r->q, m, "tool_call_id", json_get(block, "tool_use_id"));
    append(r, m);
    return 0;
}

static int take_blocks(reader *r, const json *in, const char *role) {
    json *text = tree_new(r->q, JSON_ARRAY), *calls = tree_new(r->q, JSON_ARRAY);
    json **text_at = &text->child, **call_at = &calls->child;
    for (const json *k = json_get(in, "content")->child; k; k = k->next) {
        const json *type = json_get(k, "type");
        if (json_is(type, "tool_result")) {
            if (take_tool_result(r, k)) return -1;
        } else if (json_is(type, "tool_use")) {
            if (check_call(r, json_get(k, "name"))) return -1;
            *call_at = make_call(r, json_get(k, "id"), json_get(k, "name"), json_get(k, "input"));
            call_at = &(*call_at)->next;
            calls->n++;
        } else if (!json_is(type, "thinking") && !json_is(type, "redacted_thinking")) {
            *text_at = tree_share(r->q, k);
            text_at = &(*text_at)->next;
            text->n++;
        }
    }
    if (!text->n && !calls->n) return 0;
    json *m = begin_message(r, role);
    if (add_content(r, m, text)) return -1;
    if (calls->n) {
        tree_add(m, "tool_calls", calls);
        no_content(r, m);
    }
    append(r, m);
    return 0;
}

static int take_any(reader *r, const json *in) {
    const json *content = json_get(in, "content");
    if (!r->anthropic || !content || content->type != JSON_ARRAY) return take_message(r, in);
    const char *role = role_of(r, in);
    return role ? take_blocks(r, in, role) : -1;
}

/* ---- whole conversations ---- */

static reader begin(request *q, bool anthropic) {
    return (reader){ .q = q, .out = tree_new(q, JSON_ARRAY), .anthropic = anthropic, .where = "system" };
}

static void system_text(reader *r, const char *text) {
    if (!text || !*text) return;
    json *m = begin_message(r, "system");
    tree_add(m, "content", tree_str(r->q, text, strlen(text)));
    append(r, m);
}

int messages_normalise(request *q, const conversation_in *in, json **out) {
    reader r = begin(q, in->anthropic);
    int i = 0;
    if (!in->messages || in->messages->type != JSON_ARRAY || !in->messages->n)
        return request_fail(q, JOB_INVALID, "messages", "messages: expected an array with at least one message, found %s",
                            in->messages && in->messages->type == JSON_ARRAY ? "an empty one" : json_type_name(in->messages));
    if (in->messages->n > MOST_MESSAGES)
        return request_fail(q, JOB_INVALID, "messages", "messages: %u messages, the most is %d", in->messages->n, MOST_MESSAGES);
    system_text(&r, in->system_text);
    if (present(in->system) && in->system->n) {
        json *m = begin_message(&r, "system");
        if (add_content(&r, m, in->system)) return -1;
        append(&r, m);
    }
    for (const json *k = in->messages->child; k; k = k->next, i++) {
        snprintf(r.where, sizeof r.where, "messages[%d]", i);
        if (take_any(&r, k)) return -1;
    }
    *out = r.out;
    return 0;
}

json *messages_of_text(request *q, const char *system, const char *user, size_t user_n) {
    reader r = begin(q, false);
    system_text(&r, system);
    json *m = begin_message(&r, "user");
    tree_add(m, "content", tree_str(q, user, user_n));
    append(&r, m);
    return r.out;
}

/* OpenAI's responses: text, or a list of items. */
static int take_item(reader *r, const json *k) {
    const json *type = json_get(k, "type");
    if (!type || json_is(type, "message")) return take_message(r, k);
    if (json_is(type, "function_call")) {
        if (check_call(r, json_get(k, "name"))) return -1;
        json *m = begin_message(r, "assistant"), *calls = tree_new(r->q, JSON_ARRAY);
        tree_add(m, "content", tree_str(r->q, "", 0));
        no_content(r, m);
        tree_add(calls, NULL, make_call(r, json_get(k, "call_id"), json_get(k, "name"), json_get(k, "arguments")));
        tree_add(m, "tool_calls", calls);
        append(r, m);
        return 0;
    }
    if (json_is(type, "function_call_output")) {
        json *m = begin_message(r, "tool");
        if (add_content(r, m, json_get(k, "output"))) return -1;
        set_str(r->q, m, "tool_call_id", json_get(k, "call_id"));
        append(r, m);
        return 0;
    }
    if (json_is(type, "reasoning")) return 0; /* what an earlier answer thought is not shown again */
    return request_fail(r->q, JOB_UNSUPPORTED, r->where, "%s: an item of type %.40s is not supported", r->where,
                        type->type == JSON_STRING ? type->s : json_type_name(type));
}

int messages_of_items(request *q, const json *input, const char *instructions, json **out) {
    reader r = begin(q, false);
    int i = 0;
    system_text(&r, instructions);
    if (input->type == JSON_STRING) {
        json *m = begin_message(&r, "user");
        tree_add(m, "content", tree_share(q, input));
        append(&r, m);
    } else if (input->n > MOST_MESSAGES) return request_fail(q, JOB_INVALID, "input", "input: %u items, the most is %d", input->n, MOST_MESSAGES);
    for (const json *k = input->type == JSON_ARRAY ? input->child : NULL; k; k = k->next, i++) {
        snprintf(r.where, sizeof r.where, "input[%d]", i);
        if (k->type != JSON_OBJECT) return wrong(&r, "", "an object", k);
        if (take_item(&r, k)) return -1;
    }
    *out = r.out;
    return r.out->n ? 0 : request_fail(q, JOB_INVALID, "input", "input: expected text or at least one item");
}

/* ---- tools ---- */

static json *make_tool(request *q, const json *name, const json *description, const json *parameters) {
    json *tool = tree_new(q, JSON_OBJECT), *f = tree_new(q, JSON_OBJECT);
    tree_add(tool, "type", tree_str(q, "function", 8));
    set_str(q, f, "name", name);
    set_str(q, f, "description", description);
    if (present(parameters)) tree_add(f, "parameters", tree_share(q, parameters));
    tree_add(tool, "function", f);
    return tool;
}

int messages_tools(request *q, const json *tools, bool anthropic, const json **out) {
    *out = NULL;
    if (!tools || !tools->n) return structured_tools(q, out);
    json *list = tree_new(q, JSON_ARRAY), **at = &list->child;
    int i = 0;
    for (const json *k = tools->child; k; k = k->next, i++) {
        const json *type = json_get(k, "type"), *f = json_get(k, "function"), *name = json_get(f ? f : k, "name");
        if (!anthropic && type && !json_is(type, "function"))
            return request_fail(q, JOB_UNSUPPORTED, "tools", "tools[%d]: a tool of type %.40s is not supported, only \"function\"",
                                i, type->type == JSON_STRING ? type->s : "?");
        if (!name || name->type != JSON_STRING || !name->n) return request_fail(q, JOB_INVALID, "tools", "tools[%d]: a function needs a name", i);
        if (f) *at = tree_share(q, k); /* as templates know it */
        else *at = make_tool(q, name, json_get(k, "description"), json_get(k, anthropic ? "input_schema" : "parameters"));
        at = &(*at)->next;
        list->n++;
    }
    *out = list;
    return structured_tools(q, out);
}

/* ---- through the template ---- */

static const json *template_kwargs(request *q) {
    json *v = tree_new(q, JSON_OBJECT), **at = &v->child;
    const json *own = q->v[F_TEMPLATE_KWARGS], *effort = q->v[F_EFFORT], *think = q->v[F_THINK];
    for (const json *k = own ? own->child : NULL; k; k = k->next, v->n++) {
        *at = tree_new(q, k->type);
        **at = *k;
        (*at)->next = NULL;
        at = &(*at)->next;
    }
    if (q->failure.code) return NULL;
    if (effort) tree_add(v, "reasoning_effort", tree_share(q, effort));
    if (think && think->type == JSON_STRING) tree_add(v, "reasoning_effort", tree_share(q, think));
    if (think) tree_add(v, "enable_thinking", tree_new(q, think->type == JSON_FALSE ? JSON_FALSE : JSON_TRUE));
    return v->n ? v : NULL;
}

int request_chat(request *q, const json *messages, const json *tools, bool generation, ids *out) {
    err e = { 0 };
    chat_prompt p = { 0 };
    if (request_tokenizer(q)) return -1;
    if (!q->m->chat)
        return request_fail(q, JOB_INVALID, "model", "model '%s' has no chat template (%.160s): use a completion with a prompt of your own",
                            q->m->name, q->m->no_chat);
    const json *kwargs = template_kwargs(q);
    if (q->failure.code) return -1;
    chat_request c = { .messages = messages, .tools = tools, .kwargs = kwargs, .add_generation_prompt = generation };
    int rc = chat_render(q->m->chat, &c, &p, &e);
    if (!rc && out) rc = chat_encode(q->m->chat, &p, false, out, &e);
    q->wish.chat = true;
    if (rc) rc = request_fail(q, e.code == ERR_MEMORY ? JOB_MEMORY : JOB_INVALID, "messages", "%s", e.msg);
    else buf_add(&q->text, p.text.p, p.text.n);
    chat_prompt_free(&p);
    return rc;
}
