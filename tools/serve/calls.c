/* calls: the formats of calls as data, and the grammars of calls (calls.h). It owns no text of an answer: calls_parse.c reads those. */
#define _GNU_SOURCE /* memmem */
#include "tools/serve/calls.h"

#include <string.h>

#define BAR "\xef\xbd\x9c" /* a wide one */
#define LOW "\xe2\x96\x81" /* a block at the foot of the line */
#define CALLS_BEGIN "<" BAR "tool" LOW "calls" LOW "begin" BAR ">"
#define CALLS_END "<" BAR "tool" LOW "calls" LOW "end" BAR ">"
#define CALL_BEGIN "<" BAR "tool" LOW "call" LOW "begin" BAR ">"
#define CALL_END "<" BAR "tool" LOW "call" LOW "end" BAR ">"
#define CALL_SEP "<" BAR "tool" LOW "sep" BAR ">"

/* The order counts: rows with more special signs come first, the plain one fits every template that mentions tools. */
const call_format call_formats[] = {
    { .name = "mistral-named", .signs = { "[TOOL_CALLS]", "[ARGS]" }, .open = "[TOOL_CALLS]", .body = BODY_NAMED, .mark = "[ARGS]", .id_length = 9 },
    { .name = "mistral", .signs = { "[TOOL_CALLS]" }, .open = "[TOOL_CALLS]", .between = ",", .list = true, .body = BODY_JSON,
      .key = "arguments", .id_length = 9 },
    { .name = "phi", .signs = { "<|tool_call|>" }, .open = "<|tool_call|>", .close = "<|/tool_call|>", .between = ",",
      .list = true, .body = BODY_JSON, .key = "arguments" },
    { .name = "deepseek", .signs = { CALLS_BEGIN, "```json" }, .open = CALLS_BEGIN, .close = CALLS_END, .between = "\n",
      .body = BODY_NAMED, .before = CALL_BEGIN "function" CALL_SEP,
      .mark = "\n```json\n", .behind = "\n```" CALL_END },
    { .name = "deepseek-3.1", .signs = { CALLS_BEGIN }, .open = CALLS_BEGIN, .close = CALLS_END, .between = "", .body = BODY_NAMED,
      .before = CALL_BEGIN, .mark = CALL_SEP, .behind = CALL_END },
    { .name = "function-gemma", .signs = { "<start_function_call>" }, .open = "<start_function_call>",
      .close = "<end_function_call>", .body = BODY_BRACES, .quote = "<escape>" },
    { .name = "gemma4", .signs = { "<|tool_call>", "<tool_call|>" }, .open = "<|tool_call>", .close = "<tool_call|>",
      .body = BODY_BRACES, .quote = "<|\"|>" },
    { .name = "xml", .signs = { "<tool_call>", "<function=", "<parameter=" }, .open = "<tool_call>", .close = "</tool_call>", .body = BODY_XML },
    { .name = "hermes", .signs = { "<tool_call>", "arguments" }, .open = "<tool_call>", .close = "</tool_call>",
      .body = BODY_JSON, .key = "arguments" },
    { .name = "gemma", .signs = { "tool_code" }, .open = "```tool_code", .close = "```", .between = "\n", .body = BODY_PYTHON },
    { .name = "pythonic", .signs = { "tools", "[func_name1(" }, .prefix = "<|python_start|>", .close = "<|python_end|>",
      .between = ",", .list = true, .body = BODY_PYTHON },
    { .name = "llama", .signs = { "tools", "\"parameters\"", "<|start_header_id|>" }, .prefix = "<|python_tag|>",
      .between = ";", .body = BODY_JSON, .key = "parameters", .one = true },
    { .name = "json", .signs = { "tools" }, .between = ",", .body = BODY_JSON, .key = "arguments" },
    { 0 },
};

const char *const call_markers[] = { "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<tool_call>", "</tool_call>", "<|tool_call|>",
                                     "<|/tool_call|>", "<|python_tag|>", "<|python_start|>", "<|python_end|>", CALLS_BEGIN,
                                     CALLS_END, CALL_BEGIN, CALL_END, CALL_SEP, "<start_function_call>", "<end_function_call>",
                                     "<escape>", "<|tool_call>", "<tool_call|>", "<|\"|>", "<think>", "</think>", "[THINK]",
                                     "[/THINK]", NULL };

#define XML_END "\n</parameter>"

static bool contains(const char *text, size_t n, const char *what) { return n && memmem(text, n, what, strlen(what)); }

const call_format *call_format_of(const char *tmpl, size_t n) {
    for (const call_format *f = call_formats; f->name && tmpl; f++) {
        bool all = true;
        for (int i = 0; i < 3 && f->signs[i]; i++) all &= contains(tmpl, n, f->signs[i]);
        if (all) return f;
    }
    return NULL;
}

template_wants template_wants_of(const char *tmpl, size_t n) {
    static const char *const text[] = { "['arguments'] +", "[\"arguments\"] +", ".arguments +" },
                      *const null[] = { "['content'] is none", "['content'] is not none", ".content is none", ".content is not none" };
    template_wants w = { false, false };
    for (size_t i = 0; i < sizeof text / sizeof *text && tmpl; i++) w.text_arguments |= contains(tmpl, n, text[i]);
    for (size_t i = 0; i < sizeof null / sizeof *null && tmpl; i++) w.null_content |= contains(tmpl, n, null[i]);
    return w;
}

think_marks think_marks_of(const char *tmpl, size_t n) {
    static const think_marks known[] = { { "<think>", "</think>" }, { "[THINK]", "[/THINK]" } };
    for (size_t i = 0; i < sizeof known / sizeof *known && tmpl; i++)
        if (contains(tmpl, n, known[i].close)) return known[i];
    return (think_marks){ 0 };
}

static bool ends_with(const char *s, size_t n, const char *end) {
    size_t k = strlen(end);
    return n >= k && memcmp(s + n - k, end, k) == 0;
}

think_state think_state_of(think_marks m, const char *prompt, size_t n) {
    if (!m.open) return THINK_NONE;
    while (n && (prompt[n - 1] == '\n' || prompt[n - 1] == ' ')) n--;
    return ends_with(prompt, n, m.open) ? THINK_OPEN : ends_with(prompt, n, m.close) ? THINK_NONE : THINK_MAY;
}

/* ---- grammars ---- */

typedef struct writer {
    arena *mem;
    const shape_ask *a;
    call_shape *s;
    buf text;
    int cap;
    bool failed;
} writer;

static void put_literal(buf *b, const char *s) {
    buf_byte(b, '"');
    for (; *s; s++) {
        if (*s == '\n') buf_str(b, "\\n");
        else if (*s == '"' || *s == '\\') buf_fmt(b, "\\%c", *s);
        else if ((unsigned char)*s < 0x20) buf_fmt(b, "\\x%02x", (unsigned char)*s);
        else buf_byte(b, *s);
    }
    buf_str(b, "\" ");
}

/* A rule that is a schema's value; its number. */
static int add_rule(writer *w, int of, schema_rule r) {
    call_shape *s = w->s;
    if (s->n_rules == w->cap) {
        int cap = 2 * w->cap + 16;
        schema_rule *rules = arena_alloc(w->mem, (size_t)cap * sizeof *rules);
        int *ofs = arena_alloc(w->mem, (size_t)cap * sizeof *ofs);
        if (!rules || !ofs) return w->failed = true, 0;
        if (s->n_rules) {
            memcpy(rules, s->rules, (size_t)s->n_rules * sizeof *rules);
            memcpy(ofs, s->of, (size_t)s->n_rules * sizeof *ofs);
        }
        s->rules = rules;
        s->of = ofs;
        w->cap = cap;
    }
    char name[24];
    snprintf(name, sizeof name, "value-%d", s->n_rules);
    r.name = arena_copy(w->mem, name, strlen(name));
    s->rules[s->n_rules] = r;
    if (!s->rules[s->n_rules].name) w->failed = true;
    s->of[s->n_rules] = of;
    return s->n_rules++;
}

static int arguments_rule(writer *w, int i) { return add_rule(w, i, (schema_rule){ .schema = w->a->tools[i].schema, .n = w->a->tools[i].n }); }

/* {"name": "f", "arguments": ...} */
static void json_call(writer *w, int i) {
    const call_tool *t = &w->a->tools[i];
    buf *b = &w->text, name = { 0 }, key = { 0 };
    int rule = arguments_rule(w, i);
    buf_json(&name, t->name, strlen(t->name));
    buf_byte(&name, 0);
    buf_fmt(&key, "\"%s\"", w->a->format->key);
    buf_byte(&key, 0);
    buf_fmt(b, "call-%d ::= \"{\" ws \"\\\"name\\\"\" ws \":\" ws ", i);
    if (name.p) put_literal(b, name.p);
    buf_str(b, "ws \",\" ws ");
    if (key.p) put_literal(b, key.p);
    buf_fmt(b, "ws \":\" ws value-%d ws \"}\"\n", rule);
    w->failed |= name.failed || key.failed;
    buf_free(&name);
    buf_free(&key);
}

static bool names(const json *list, const char *key, size_t n) {
    for (const json *k = list && list->type == JSON_ARRAY ? list->child : NULL; k; k = k->next)
        if (k->type == JSON_STRING && k->n == n && memcmp(k->s, key, n) == 0) return true;
    return false;
}

/* Can an argument of this name be written? */
static bool is_name(call_body body, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool letter = c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'),
             plain = letter || (i && ((c >= '0' && c <= '9') || c == '-' || c == '.'));
        if (body == BODY_PYTHON ? !plain : c < 0x20 || strchr("<>\"'\\", c) || (body == BODY_BRACES && strchr(":,{}[] ", c))) return false;
    }
    return n && n < 200;
}

bool call_refuses(const call_format *f, const call_tool *t, char keyword[64]) {
    static const char *const kept[] = { "type", "properties", "required", "additionalProperties", "$defs", "definitions",
                                        "title", "description", "default", "examples", "$schema", "$comment", "strict" };
    snprintf(keyword, 64, "name");
    if (f->body != BODY_JSON && !is_name(BODY_PYTHON, t->name, strlen(t->name))) return true;
    if (f->body == BODY_JSON || f->body == BODY_NAMED) return false;
    for (const json *k = t->parameters ? t->parameters->child : NULL; k; k = k->next) {
        bool known = k->key_n > 2 && memcmp(k->key, "x-", 2) == 0;
        for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) known |= strcmp(kept[i], k->key) == 0;
        snprintf(keyword, 64, "%.60s", k->key);
        if (!known) return true;
    }
    const json *required = json_get(t->parameters, "required");
    snprintf(keyword, 64, "required");
    for (const json *k = required && required->type == JSON_ARRAY ? required->child : NULL; k; k = k->next)
        if (k->type != JSON_STRING || !is_name(f->body, k->s, k->n)) return true;
    return false;
}

static int kinds_of(const json *root, const json *s, int *budget) {
    int kinds = VALUE_TEXT | VALUE_OTHER, any = 0;
    if (!s || s->type != JSON_OBJECT || --*budget < 0) return kinds;
    const json *type = json_get(s, "type"), *one = json_get(s, "const"), *list = json_get(s, "enum"), *ref = json_get(s, "$ref");
    const json *choice[] = { json_get(s, "anyOf"), json_get(s, "oneOf") }, *all = json_get(s, "allOf");
    for (const json *k = type && type->type == JSON_ARRAY ? type->child : type; k; k = type->type == JSON_ARRAY ? k->next : NULL)
        any |= json_is(k, "string") ? VALUE_TEXT : VALUE_OTHER;
    if (type) kinds = any | (json_get(s, "nullable") ? VALUE_OTHER : 0);
    any = 0;
    for (const json *k = list ? list->child : NULL; k; k = k->next) any |= k->type == JSON_STRING ? VALUE_TEXT : VALUE_OTHER;
    if (list) kinds &= any;
    if (one) kinds &= one->type == JSON_STRING ? VALUE_TEXT : VALUE_OTHER;
    if (ref && ref->type == JSON_STRING && ref->s[0] == '#') kinds &= kinds_of(root, schema_at(root, ref->s + 1), budget);
    for (int i = 0; i < 2; i++) {
        any = 0;
        for (const json *k = choice[i] ? choice[i]->child : NULL; k; k = k->next) any |= kinds_of(root, k, budget);
        if (choice[i]) kinds &= any;
    }
    for (const json *k = all ? all->child : NULL; k; k = k->next) kinds &= kinds_of(root, k, budget);
    return kinds;
}

int value_kinds(const json *parameters, const json *schema) {
    int budget = 400; /* schemas, however they refer to one another */
    return kinds_of(parameters, schema, &budget);
}

/* ---- arguments one by one ---- */

typedef struct argument {
    const char *key, *at; /* at: its schema's place; NULL: any value */
    size_t n;
    const json *schema;
    bool required;
} argument;

/* How a body writes them: what stands before the name, between name and value, behind the value and between two; around text as it is. */
typedef struct one_by_one {
    const char *open, *close, *before, *middle, *behind, *between;
    const char *quote, *end; /* text: quote, and end behind it, which is a rule's as well ("until"); NULL: all values are JSON */
    const char *json_end;    /* behind other values */
} one_by_one;

/* Strings about which nothing more is said. */
static bool any_text(const json *s) {
    static const char *const said[] = { "enum", "const", "minLength", "maxLength", "pattern", "format", "anyOf", "oneOf", "allOf", "$ref" };
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        if (json_get(s, said[i])) return false;
    return json_is(json_get(s, "type"), "string");
}

static void put_argument(writer *w, int i, const one_by_one *o, const argument *x) {
    const call_tool *t = &w->a->tools[i];
    buf *b = &w->text, name = { 0 };
    bool text = o->quote && value_kinds(t->parameters, x->schema) == VALUE_TEXT, any = text && any_text(x->schema);
    schema_rule r = { .schema = t->schema, .n = t->n, .at = x->at, .raw = text };
    if (!x->at) r.schema = "{}", r.n = 2;
    buf_fmt(&name, "%s%.*s%s%s", o->before, (int)x->n, x->key, o->middle, text ? o->quote : "");
    buf_byte(&name, 0);
    w->failed |= name.failed;
    if (name.p) put_literal(b, name.p);
    if (any) buf_str(b, "until ");
    else buf_fmt(b, "value-%d ", add_rule(w, i, r));
    if (text ? !any : *o->json_end) put_literal(b, text ? o->end : o->json_end);
    if (*o->behind) put_literal(b, o->behind);
    buf_free(&name);
}

/* Those of a schema's properties and of its required names that can be written: in its order, [n]. */
static argument *list_arguments(writer *w, const call_tool *t, int *n) {
    const json *properties = json_get(t->parameters, "properties"), *required = json_get(t->parameters, "required");
    bool object = properties && properties->type == JSON_OBJECT, list = required && required->type == JSON_ARRAY;
    argument *a = arena_alloc(w->mem, ((object ? properties->n : 0) + (list ? required->n : 0) + (size_t)1) * sizeof *a);
    *n = 0;
    if (!a) return w->failed = true, NULL;
    for (const json *p = object ? properties->child : NULL; p; p = p->next) {
        buf at = { 0 };
        if (json_get(properties, p->key) != p || !is_name(w->a->format->body, p->key, p->key_n)) continue;
        buf_str(&at, "/properties");
        schema_pointer_add(&at, p->key, p->key_n);
        a[*n] = (argument){ .key = p->key, .n = p->key_n, .schema = p, .at = at.p ? arena_copy(w->mem, at.p, at.n) : NULL,
                            .required = names(required, p->key, p->key_n) };
        w->failed |= at.failed || !a[(*n)++].at;
        buf_free(&at);
    }
    for (const json *k = list ? required->child : NULL; k; k = k->next) {
        bool there = k->type != JSON_STRING || (object && json_get(properties, k->s));
        for (int i = 0; i < *n && !there; i++) there = a[i].n == k->n && memcmp(a[i].key, k->s, k->n) == 0;
        if (!there) a[(*n)++] = (argument){ .key = k->s, .n = k->n, .required = true };
    }
    return a;
}

/* The required arguments in the schema's order, then any of the others in theirs. Where a separator stands between and nothing is required,
 * one of them at most: no rule says then which is the first. */
static void put_arguments(writer *w, int i, const one_by_one *o) {
    enum { MOST_OPTIONAL = 64 };
    int n, before = 0, k = 0;
    const argument *a = list_arguments(w, &w->a->tools[i], &n);
    buf *b = &w->text;
    put_literal(b, o->open);
    for (int x = 0; x < n && a; x++) {
        if (!a[x].required) continue;
        if (before++ && *o->between) put_literal(b, o->between);
        put_argument(w, i, o, &a[x]);
    }
    bool either = !before && *o->between;
    for (int x = 0; x < n && a && k < MOST_OPTIONAL; x++) {
        if (a[x].required) continue;
        buf_str(b, either && k ? "| " : "( ");
        if (!either && *o->between) put_literal(b, o->between);
        put_argument(w, i, o, &a[x]);
        if (!either) buf_str(b, ")? ");
        k++;
    }
    if (either && k) buf_str(b, ")? ");
    put_literal(b, o->close);
    buf_byte(b, '\n');
}

/* f(a=1, b="x"). Values are written as JSON has them. */
static void python_call(writer *w, int i) {
    char open[300];
    snprintf(open, sizeof open, "%.280s(", w->a->tools[i].name);
    buf_fmt(&w->text, "call-%d ::= ", i);
    put_arguments(w, i, &(one_by_one){ open, ")", "", "=", "", ", ", NULL, NULL, "" });
}

static void xml_call(writer *w, int i) {
    char open[300];
    snprintf(open, sizeof open, "<function=%.280s>\n", w->a->tools[i].name);
    buf_fmt(&w->text, "call-%d ::= ", i);
    put_arguments(w, i, &(one_by_one){ open, "</function>", "<parameter=", ">\n", "\n", "", "", XML_END, XML_END });
}

static void braces_call(writer *w, int i) {
    const char *quote = w->a->format->quote;
    char open[300];
    snprintf(open, sizeof open, "call:%.280s{", w->a->tools[i].name);
    buf_fmt(&w->text, "call-%d ::= ", i);
    put_arguments(w, i, &(one_by_one){ open, "}", "", ":", "", ",", quote, quote, "" });
}

/* ---- calls ---- */

static void named_call(writer *w, int i) {
    const call_format *f = w->a->format;
    buf_fmt(&w->text, "call-%d ::= ", i);
    if (f->before) put_literal(&w->text, f->before);
    put_literal(&w->text, w->a->tools[i].name);
    put_literal(&w->text, f->mark);
    buf_fmt(&w->text, "value-%d ", arguments_rule(w, i));
    if (f->behind) put_literal(&w->text, f->behind);
    buf_byte(&w->text, '\n');
}

static void put_calls(writer *w) {
    static void (*const of_body[])(writer *w, int i) = { [BODY_JSON] = json_call, [BODY_PYTHON] = python_call, [BODY_NAMED] = named_call,
                                                               [BODY_XML] = xml_call, [BODY_BRACES] = braces_call };
    const call_format *f = w->a->format;
    buf *b = &w->text;
    bool many = w->a->parallel && !f->one;
    buf_str(b, "calls ::= ");
    if (!f->between) buf_str(b, many ? "one ( ws one )*\none ::= " : "one\none ::= ");
    if (f->prefix) {
        buf_str(b, "( ");
        put_literal(b, f->prefix);
        buf_str(b, "ws )? ");
    }
    if (f->open) put_literal(b, f->open);
    if (f->open && f->body != BODY_NAMED && f->body != BODY_BRACES) buf_str(b, "ws ");
    if (f->list) put_literal(b, "[");
    buf_str(b, "call ");
    if (many && f->between) {
        buf_str(b, "( ");
        put_literal(b, f->between);
        buf_str(b, "ws call )* ");
    }
    if (f->list) put_literal(b, "]");
    if (f->close) {
        buf_str(b, f->open ? "ws " : "( ws ");
        put_literal(b, f->close);
        if (!f->open) buf_str(b, ")? ");
    }
    buf_str(b, "\ncall ::= ");
    for (int i = 0; i < w->a->n_tools; i++) buf_fmt(b, "%scall-%d", i ? " | " : "", i);
    buf_byte(b, '\n');
    for (int i = 0; i < w->a->n_tools; i++) of_body[f->body](w, i);
}

/* A character in a class or in a literal. */
static void put_char(buf *b, char c, const char *escaped) {
    if (c == '\n') buf_str(b, "\\n");
    else buf_fmt(b, strchr(escaped, c) ? "\\%c" : "%c", c);
}

/* Any character but these. */
static void put_others(buf *b, char x, char y) {
    buf_str(b, "[^");
    put_char(b, x, "[]^\\-");
    if (x != y) put_char(b, y, "[]^\\-");
    buf_byte(b, ']');
}

static void put_one(buf *b, char c) {
    buf_byte(b, '"');
    put_char(b, c, "\"\\");
    buf_byte(b, '"');
}

/* Any text up to the first mark, and the mark: a rule for each of its beginnings, behind which the rest comes. The mark's first character
 * comes in it once only, so what does not go on with it begins it anew or is behind nothing. */
static void put_until(buf *b, const char *rule, const char *mark) {
    size_t n = strlen(mark);
    buf_fmt(b, "%s ::= ", rule);
    put_others(b, mark[0], mark[0]);
    buf_str(b, "* ");
    put_one(b, mark[0]);
    buf_fmt(b, " %s-1\n", rule);
    for (size_t k = 1; k < n; k++) {
        buf_fmt(b, "%s-%zu ::= ", rule, k);
        put_others(b, mark[0], mark[k]);
        buf_fmt(b, " %s | ", rule);
        put_one(b, mark[0]);
        buf_fmt(b, " %s-1 | ", rule);
        put_one(b, mark[k]);
        if (k + 1 < n) buf_fmt(b, " %s-%zu", rule, k + 1);
        buf_byte(b, '\n');
    }
}

static void put_root(writer *w) {
    const shape_ask *a = w->a;
    buf *b = &w->text;
    buf_str(b, "root ::= ");
    if (a->thinking == THINK_MAY) {
        buf_str(b, "( ");
        put_literal(b, a->think.open);
        buf_str(b, "thought ws )? ");
    }
    if (a->thinking == THINK_OPEN) buf_str(b, "thought ws ");
    if (a->n_tools && a->schema) buf_fmt(b, "( calls | value-%d )", add_rule(w, -1, (schema_rule){ .schema = a->schema, .n = a->n_schema }));
    else if (a->n_tools) buf_str(b, "calls");
    else buf_fmt(b, "value-%d", add_rule(w, -1, (schema_rule){ .schema = a->schema, .n = a->n_schema }));
    buf_str(b, "\nws ::= [ \\n]{0,8}\n");
    if (a->thinking != THINK_NONE) put_until(b, "thought", a->think.close);
    if (a->n_tools) put_calls(w);
    if (a->n_tools && a->format->body == BODY_XML) put_until(b, "until", XML_END);
    if (a->n_tools && a->format->body == BODY_BRACES) put_until(b, "until", a->format->quote);
}

call_shape *shape_make(arena *mem, const shape_ask *a) {
    writer w = { .mem = mem, .a = a, .s = arena_alloc(mem, sizeof *w.s) };
    if (!w.s) return NULL;
    put_root(&w);
    bool failed = w.failed || w.text.failed;
    w.s->n = w.text.n;
    w.s->gbnf = failed ? NULL : arena_copy(mem, w.text.p, w.text.n);
    buf_free(&w.text);
    return w.s->gbnf ? w.s : NULL;
}
