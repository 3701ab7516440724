/* structured: what an answer must look like, and calls of tools: from the fields of all dialects to one grammar of the job, and to the
 * readers that find thoughts and calls in its answers. What cannot be kept is refused with the param and the place in it, never
 * accepted and ignored. */
#include "tools/serve/messages.h"

#include <string.h>

enum { MOST_TOOLS = 128 };

/* ---- formats ---- */

static int wish_text(request *q, const char *param, const char *gbnf, size_t n) {
    wish *w = &q->wish;
    if (w->field) return request_fail(q, JOB_INVALID, param, "%s: %s asks for a structure already: only one of them", param, w->field);
    w->field = param;
    w->gbnf = gbnf;
    w->n = n;
    return 0;
}

static int wish_schema(request *q, const char *param, const json *schema) {
    buf b = { 0 };
    if (wish_text(q, param, NULL, 0)) return -1;
    json_put(&b, schema);
    q->wish.schema = b.failed ? NULL : arena_copy(&q->mem, b.p, b.n);
    q->wish.n = b.n;
    buf_free(&b);
    return q->wish.schema ? 0 : request_fail(q, JOB_MEMORY, NULL, "out of memory");
}

static int wish_object(request *q, const char *param) {
    static const char any[] = "{\"type\":\"object\"}";
    if (wish_text(q, param, NULL, 0)) return -1;
    q->wish.schema = any;
    q->wish.n = sizeof any - 1;
    return 0;
}

/* strict: as OpenAI has it, no object of the schema may be open. where: its JSON pointer, grown and cut back. */
static int check_closed(request *q, const char *param, const json *s, buf *where) {
    size_t n = where->n;
    if (s->type != JSON_OBJECT && s->type != JSON_ARRAY) return 0;
    const json *type = json_get(s, "type"), *more = json_get(s, "additionalProperties"), *properties = json_get(s, "properties");
    bool object = json_is(type, "object") || (properties && properties->type == JSON_OBJECT && !type);
    if (s->type == JSON_OBJECT && object && (!more || more->type != JSON_FALSE)) {
        buf_byte(where, 0);
        return request_fail(q, JOB_INVALID, param, "%s: JSON schema: %s: with strict:true 'additionalProperties' "
                                                   "is required to be supplied and to be false", param, where->p);
    }
    int i = 0;
    for (const json *k = s->child; k; k = k->next, i++) {
        if (k->key && (strcmp(k->key, "enum") == 0 || strcmp(k->key, "const") == 0 || strcmp(k->key, "default") == 0 ||
                       strcmp(k->key, "examples") == 0))
            continue;
        if (k->key) schema_pointer_add(where, k->key, k->key_n);
        else buf_fmt(where, "/%d", i);
        bool names = k == properties || (k->key && (strcmp(k->key, "$defs") == 0 || strcmp(k->key, "definitions") == 0));
        for (const json *p = names && k->type == JSON_OBJECT ? k->child : NULL; p; p = p->next) { /* a property may be called "type" */
            size_t m = where->n;
            schema_pointer_add(where, p->key, p->key_n);
            if (check_closed(q, param, p, where)) return -1;
            where->n = m;
        }
        if (!names && check_closed(q, param, k, where)) return -1;
        where->n = n;
    }
    return 0;
}

static int check_strict(request *q, const char *param, const json *schema, const json *strict) {
    if (strict && strict->type != JSON_TRUE && strict->type != JSON_FALSE && strict->type != JSON_NULL)
        return request_fail(q, JOB_INVALID, param, "%s: strict: expected true or false, found %s", param, json_type_name(strict));
    if (!strict || strict->type != JSON_TRUE || !schema) return 0;
    buf where = { 0 };
    buf_byte(&where, '#');
    int rc = check_closed(q, param, schema, &where);
    buf_free(&where);
    return rc;
}

/* {"type": "text" | "json_object" | "json_schema" | "grammar"}: of chat completions the schema lies within "json_schema",
 * of responses beside type. */
static int take_format(request *q, const json *v, const char *param) {
    const json *type = json_get(v, "type"), *inner = json_get(v, "json_schema"), *holder = inner && inner->type == JSON_OBJECT ? inner : v;
    const json *schema = json_get(holder, "schema"), *text = json_get(v, "grammar");
    bool own = json_is(type, "json_schema");
    char name[64];
    if (!v || !v->n || json_is(type, "text")) return 0;
    if (!type || type->type != JSON_STRING) return request_fail(q, JOB_INVALID, param, "%s: expected an object with a \"type\"", param);
    snprintf(name, sizeof name, "%s%s.schema", param, holder == inner ? ".json_schema" : "");
    const char *where = arena_copy(&q->mem, name, strlen(name));
    if (!where) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    if (json_is(type, "grammar") && text && text->type == JSON_STRING) return wish_text(q, param, text->s, text->n);
    if (!own && !json_is(type, "json_object"))
        return request_fail(q, JOB_INVALID, param, "%s: type \"%.40s\" is not known: expected text, json_object or json_schema", param, type->s);
    if (own && (!schema || schema->type == JSON_NULL)) return request_fail(q, JOB_INVALID, where, "%s: expected a JSON schema, found nothing", where);
    if (!schema || schema->type == JSON_NULL) return wish_object(q, param);
    if (schema->type != JSON_OBJECT && schema->type != JSON_TRUE && schema->type != JSON_FALSE)
        return request_fail(q, JOB_INVALID, where, "%s: expected a JSON schema, found %s", where, json_type_name(schema));
    return check_strict(q, where, schema, json_get(holder, "strict")) ? -1 : wish_schema(q, where, schema);
}

int structured_take(request *q) {
    const json *text = q->v[F_TEXT], *format = q->v[F_FORMAT], *grammar_text = q->v[F_GRAMMAR], *schema = q->v[F_JSON_SCHEMA];
    if (take_format(q, q->v[F_RESPONSE_FORMAT], "response_format")) return -1;
    if (text && take_format(q, json_get(text, "format"), "text.format")) return -1;
    if (format && format->type == JSON_STRING && format->n) {
        if (!json_is(format, "json"))
            return request_fail(q, JOB_INVALID, "format", "format: expected \"json\" or a JSON schema, found \"%.40s\"", format->s);
        if (wish_object(q, "format")) return -1;
    }
    if (format && format->type == JSON_OBJECT && wish_schema(q, "format", format)) return -1;
    if (schema && wish_schema(q, "json_schema", schema)) return -1;
    return grammar_text && grammar_text->n ? wish_text(q, "grammar", grammar_text->s, grammar_text->n) : 0;
}

/* ---- tools ---- */

/* A function's parameters as the schema of an object. */
static int take_tool(request *q, const json *t, int i) {
    wish *w = &q->wish;
    const json *f = json_get(t, "function"), *own = f && f->type == JSON_OBJECT ? f : t, *parameters = json_get(own, "parameters"),
               *strict = json_get(own, "strict");
    if (!strict) strict = json_get(t, "strict");
    call_tool *out = &w->tools[i];
    char param[64];
    buf b = { 0 };
    snprintf(param, sizeof param, "tools[%d].function.parameters", i);
    if (parameters && parameters->type == JSON_NULL) parameters = NULL;
    if (parameters && parameters->type != JSON_OBJECT)
        return request_fail(q, JOB_INVALID, param, "%s: expected a JSON schema, found %s", param, json_type_name(parameters));
    if (check_strict(q, param, parameters, strict)) return -1;
    w->strict[i] = strict && strict->type == JSON_TRUE;
    json *object = tree_new(q, JSON_OBJECT); /* arguments are an object, whether it says so or not */
    if (parameters) object->child = parameters->child, object->n = parameters->n;
    if (!parameters || !json_get(parameters, "type")) {
        json *type = tree_str(q, "object", 6);
        type->key = "type";
        type->key_n = 4;
        type->next = object->child;
        object->child = type;
    }
    json_put(&b, object);
    const json *name = json_get(own, "name");
    *out = (call_tool){ .name = name->s, .schema = b.failed ? NULL : arena_copy(&q->mem, b.p, b.n), .n = b.n, .parameters = parameters };
    buf_free(&b);
    if (q->failure.code || !out->schema) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    return strlen(out->name) == name->n ? 0 : request_fail(q, JOB_INVALID, "tools", "tools[%d]: a function's name holds a NUL", i);
}

static int take_tools(request *q, const json *tools) {
    wish *w = &q->wish;
    int i = 0;
    if (tools->n > MOST_TOOLS) return request_fail(q, JOB_INVALID, "tools", "tools: %u functions, the most is %d", tools->n, MOST_TOOLS);
    w->tools = arena_alloc(&q->mem, tools->n * sizeof *w->tools);
    w->strict = arena_alloc(&q->mem, tools->n * sizeof *w->strict);
    if (!w->tools || !w->strict) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    for (const json *t = tools->child; t; t = t->next, i++)
        if (take_tool(q, t, i)) return -1;
    w->n_tools = i;
    return 0;
}

/* "auto", "required", {"type": "function", "function": {"name"}}, {"type": "function", "name"},
 * and Anthropic's {"type": "auto" | "any" | "tool", "name"}. */
static int take_choice(request *q, const json *choice) {
    wish *w = &q->wish;
    const json *type = choice && choice->type == JSON_OBJECT ? json_get(choice, "type") : choice, *f = json_get(choice, "function");
    const json *name = json_get(f ? f : choice, "name");
    w->chosen = -1;
    if (!choice || json_is(type, "auto")) return 0;
    w->required = true;
    if (json_is(type, "required") || json_is(type, "any")) return 0;
    if (!json_is(type, "function") && !json_is(type, "tool"))
        return request_fail(q, JOB_INVALID, "tool_choice", "tool_choice: expected none, auto, required or a function, found \"%.40s\"",
                            type && type->type == JSON_STRING ? type->s : json_type_name(type));
    if (!name || name->type != JSON_STRING)
        return request_fail(q, JOB_INVALID, "tool_choice", "tool_choice: expected the name of a function, found %s", json_type_name(name));
    for (int i = 0; i < w->n_tools; i++)
        if (json_is(name, w->tools[i].name)) return w->chosen = i, 0;
    return request_fail(q, JOB_INVALID, "tool_choice", "tool_choice: \"%.60s\" is not among the tools", name->s);
}

static bool flag(const json *v) { return v && v->type == JSON_TRUE; }

int structured_tools(request *q, const json **tools) {
    wish *w = &q->wish;
    const json *choice = q->v[F_TOOL_CHOICE];
    const json *type = choice && choice->type == JSON_OBJECT ? json_get(choice, "type") : choice;
    if (json_is(type, "none")) *tools = NULL;
    if (!*tools || !(*tools)->n) {
        *tools = NULL;
        if (!choice || json_is(type, "none") || json_is(type, "auto")) return 0;
        return request_fail(q, JOB_INVALID, "tool_choice", "tool_choice: there are no tools to choose from");
    }
    if (take_tools(q, *tools) || take_choice(q, choice)) return -1;
    w->parallel = (!q->v[F_PARALLEL] || flag(q->v[F_PARALLEL])) && !flag(json_get(choice, "disable_parallel_tool_use"));
    w->format = q->m->calls;
    if (w->format) return 0;
    if (w->required)
        return request_fail(q, JOB_UNSUPPORTED, "tool_choice",
                            "tool_choice: the chat template of model '%s' does not know tools: a call cannot be asked for", q->m->name);
    request_warn(q, "tools: the chat template of model '%s' does not know tools: the model does not see them", q->m->name);
    return 0;
}

/* ---- into the job ---- */

/* Markers that are special tokens of the model are text in its answers: otherwise nobody could read them. */
static int show_markers(request *q) {
    job *j = q->j;
    const tokenizer *t = q->m->tok;
    size_t n = 0;
    while (call_markers[n]) n++;
    int32_t *shown = arena_alloc(&j->mem, n * sizeof *shown);
    if (!shown) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    for (size_t i = 0; i < n; i++) {
        int32_t id = tokenizer_id(t, call_markers[i], strlen(call_markers[i]));
        if (id >= 0 && tokenizer_is_special(t, id)) shown[j->n_shown++] = id;
    }
    j->shown = shown;
    return 0;
}

/* Where a call's grammar begins in a text that is free before it. */
static int make_triggers(request *q) {
    const wish *w = &q->wish;
    const call_format *f = w->format;
    constraint_opts *c = &q->j->constraint;
    grammar_trigger *t = arena_alloc(&q->j->mem, ((size_t)w->n_tools + 2) * sizeof *t);
    if (!t) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    c->triggers = t;
    if (f->open) t[c->n_triggers++] = (grammar_trigger){ f->open, false };
    else if (f->prefix) t[c->n_triggers++] = (grammar_trigger){ f->prefix, true };
    if (!f->open && f->body == BODY_JSON) t[c->n_triggers++] = (grammar_trigger){ "{\"name\":", true };
    for (int i = 0; i < w->n_tools && !f->open && f->body == BODY_PYTHON; i++) {
        char text[300];
        snprintf(text, sizeof text, "[%.280s(", w->tools[i].name);
        const char *copy = arena_copy(&q->j->mem, text, strlen(text));
        if (!copy) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
        t[c->n_triggers++] = (grammar_trigger){ copy, true };
    }
    c->think_open = w->think.open;
    c->think_close = w->think.close;
    c->thinking = w->thinking == THINK_OPEN;
    return 0;
}

/* What of tool t (-1: of the answer) cannot be kept. Where calls are free to come or not a warning is enough. */
static int cannot_keep(request *q, int t, bool needed, const err *e) {
    const wish *w = &q->wish;
    char param[64];
    snprintf(param, sizeof param, "%s", w->field ? w->field : "tools");
    if (t >= 0) snprintf(param, sizeof param, "tools[%d].function.parameters", w->chosen >= 0 ? w->chosen : t);
    if (needed || e->code == ERR_MEMORY || (t >= 0 && w->strict[w->chosen >= 0 ? w->chosen : t])) return request_fail_err(q, param, e);
    request_warn(q, "%s: %s: calls are not constrained", param, e->msg);
    return 0;
}

/* The grammar, from the model's cache. An error says which param it is of. */
static int hold_grammar(request *q, const grammar_ask *ask, const int *of, bool needed) {
    err e = { 0 };
    int which;
    if (grammars_hold(q->m->grammars, ask, &q->j->grammar, &which, &e) == 0) return 0;
    q->j->grammar = NULL;
    return cannot_keep(q, which >= 0 && of ? of[which] : -1, needed, &e);
}

/* Can the model's format of calls keep what the tools' schemas say? 1, 0: it has been said, -1. */
static int format_keeps(request *q, const shape_ask *a, bool needed) {
    char keyword[64];
    err e = { 0 };
    for (int i = 0; i < a->n_tools; i++) {
        if (!call_refuses(a->format, &a->tools[i], keyword)) continue;
        if (strcmp(keyword, "name") == 0)
            fail_code(&e, ERR_INPUT, "the name \"%.60s\" cannot be written in calls of this model, only letters, digits, _, - and . can",
                      a->tools[i].name);
        else fail_code(&e, ERR_INPUT, "JSON schema, #/%s: `%s` cannot be enforced in calls of this model, which write arguments one by one",
                       keyword, keyword);
        return cannot_keep(q, i, needed, &e) ? -1 : 0;
    }
    return 1;
}

static int constrain_by_shape(request *q, bool lazily, const char *const *markers) {
    wish *w = &q->wish;
    shape_ask a = { .think = w->think, .thinking = lazily ? THINK_NONE : w->thinking, .parallel = w->parallel };
    if (w->format) a.format = w->format, a.tools = w->tools, a.n_tools = w->n_tools;
    if (w->format && w->chosen >= 0) a.tools = &w->tools[w->chosen], a.n_tools = 1;
    if (!w->required && w->schema) a.schema = w->schema, a.n_schema = w->n;
    int keeps = format_keeps(q, &a, !lazily);
    if (keeps <= 0) return keeps;
    call_shape *s = shape_make(&q->mem, &a);
    if (!s) return request_fail(q, JOB_MEMORY, NULL, "out of memory");
    grammar_ask ask = { .gbnf = s->gbnf, .n = s->n, .rules = s->rules, .n_rules = s->n_rules, .markers = markers };
    if (hold_grammar(q, &ask, s->of, !lazily)) return -1;
    return lazily && q->j->grammar ? make_triggers(q) : 0;
}

static int constrain(request *q, const char *const *markers) {
    wish *w = &q->wish;
    bool calls = w->format && w->n_tools;
    if (!w->field && !calls) return 0;
    if (w->required && w->field) return request_fail(q, JOB_INVALID, w->field, "%s: an answer cannot be a call of a tool and keep to it", w->field);
    if (q->j->beams.beams > 1) {
        if (w->field || w->required)
            return request_fail(q, JOB_INVALID, "num_beams", "num_beams: a beam search takes no structure: %s needs num_beams 1",
                                w->field ? w->field : "tool_choice");
        return 0; /* calls are read, not constrained */
    }
    if (w->gbnf) return hold_grammar(q, &(grammar_ask){ .gbnf = w->gbnf, .n = w->n }, NULL, true);
    schema_rule only = { .name = "value", .schema = w->schema, .n = w->n };
    if (!calls && w->thinking == THINK_NONE) return hold_grammar(q, &(grammar_ask){ .rules = &only, .n_rules = 1 }, NULL, true);
    return constrain_by_shape(q, calls && !w->required && !w->schema, markers);
}

static void begin_readers(request *q) {
    const wish *w = &q->wish;
    reader_opts o = { .format = w->format, .tools = w->tools, .n_tools = w->n_tools, .think = w->think, .thinking = w->thinking, .take = reply_part };
    for (int i = 0; i < q->n_answers; i++) {
        o.arg = &q->answers[i];
        q->answers[i].q = q;
        reader_begin(&q->answers[i].reader, &o);
    }
}

int structured_apply(request *q) {
    wish *w = &q->wish;
    job *j = q->j;
    if (j->kind != JOB_GENERATE) return 0;
    if (w->chat) w->think = q->m->think;
    if (w->chat && !w->think.open && q->v[F_THINK] && q->v[F_THINK]->type != JSON_FALSE)
        request_warn(q, "think: the chat template of model '%s' knows no thinking", q->m->name);
    w->thinking = think_state_of(w->think, q->text.p, q->text.n);
    q->reads = w->format || w->think.open;
    if (q->reads) {
        if (show_markers(q)) return -1;
        begin_readers(q);
    }
    return constrain(q, j->n_shown ? call_markers : NULL);
}
