/* calls: the formats of calls as data, and the grammars of calls (calls.h). It owns no text of an answer: calls_parse.c reads those. */
#include "tools/serve/calls.h"

#include <string.h>

/* The order counts: rows with more special signs come first, the plain one fits every template that mentions tools. */
const call_format call_formats[] = {
    { .name = "mistral-named", .signs = { "[TOOL_CALLS]", "[ARGS]" }, .open = "[TOOL_CALLS]", .body = BODY_NAMED, .arguments = "[ARGS]", .id_length = 9 },
    { .name = "mistral", .signs = { "[TOOL_CALLS]" }, .open = "[TOOL_CALLS]", .between = ",", .list = true, .body = BODY_JSON, .arguments = "arguments", .id_length = 9 },
    { .name = "phi", .signs = { "<|tool_call|>" }, .open = "<|tool_call|>", .close = "<|/tool_call|>", .between = ",", .list = true, .body = BODY_JSON, .arguments = "arguments" },
    { .name = "hermes", .signs = { "<tool_call>", "arguments" }, .open = "<tool_call>", .close = "</tool_call>", .body = BODY_JSON, .arguments = "arguments" },
    { .name = "gemma", .signs = { "tool_code" }, .open = "```tool_code", .close = "```", .between = "\n", .body = BODY_PYTHON },
    { .name = "pythonic", .signs = { "tools", "[func_name1(" }, .prefix = "<|python_start|>", .close = "<|python_end|>", .between = ",", .list = true, .body = BODY_PYTHON },
    { .name = "llama", .signs = { "tools", "\"parameters\"", "<|start_header_id|>" }, .prefix = "<|python_tag|>", .between = ";", .body = BODY_JSON, .arguments = "parameters", .one = true },
    { .name = "json", .signs = { "tools" }, .between = ",", .body = BODY_JSON, .arguments = "arguments" },
    { 0 },
};

const char *const call_markers[] = { "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<tool_call>", "</tool_call>", "<|tool_call|>", "<|/tool_call|>", "<|python_tag|>", "<|python_start|>",
                                     "<|python_end|>", "<think>", "</think>", "[THINK]", "[/THINK]", NULL };

static bool contains(const char *text, size_t n, const char *what) {
    size_t k = strlen(what);
    for (size_t i = 0; i + k <= n; i++)
        if (text[i] == *what && memcmp(text + i, what, k) == 0) return true;
    return false;
}

const call_format *call_format_of(const char *tmpl, size_t n) {
    for (const call_format *f = call_formats; f->name && tmpl; f++) {
        bool all = true;
        for (int i = 0; i < 3 && f->signs[i]; i++) all &= contains(tmpl, n, f->signs[i]);
        if (all) return f;
    }
    return NULL;
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

/* ---- trees as text ---- */

void json_put(buf *out, const json *j) {
    static const char *const words[] = { [JSON_NULL] = "null", [JSON_FALSE] = "false", [JSON_TRUE] = "true" };
    bool object = j->type == JSON_OBJECT;
    if (j->type == JSON_STRING) buf_json(out, j->s, j->n);
    else if (j->type == JSON_NUMBER) buf_str(out, j->s);
    else if (!object && j->type != JSON_ARRAY) buf_str(out, words[j->type]);
    else {
        buf_byte(out, object ? '{' : '[');
        for (const json *k = j->child; k; k = k->next) {
            if (k != j->child) buf_byte(out, ',');
            if (object) {
                buf_json(out, k->key, k->key_n);
                buf_byte(out, ':');
            }
            json_put(out, k); /* as deep as the parser let it be */
        }
        buf_byte(out, object ? '}' : ']');
    }
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
static int add_rule(writer *w, int of, const char *schema, size_t n) {
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
    s->rules[s->n_rules] = (schema_rule){ arena_copy(w->mem, name, strlen(name)), schema, n };
    if (!s->rules[s->n_rules].name) w->failed = true;
    s->of[s->n_rules] = of;
    return s->n_rules++;
}

/* {"name": "f", "arguments": ...} */
static void json_call(writer *w, int i) {
    const call_tool *t = &w->a->tools[i];
    buf *b = &w->text, name = { 0 }, key = { 0 };
    int rule = add_rule(w, i, t->schema, t->n);
    buf_json(&name, t->name, strlen(t->name));
    buf_byte(&name, 0);
    buf_fmt(&key, "\"%s\"", w->a->format->arguments);
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

/* One argument's schema, with the definitions that it may refer to. */
static const char *property_schema(writer *w, const json *parameters, const json *p, size_t *n) {
    static const char *const shared[] = { "$defs", "definitions" };
    buf b = { 0 };
    buf_byte(&b, '{');
    for (int i = 0; i < 2; i++)
        if (json_get(parameters, shared[i])) {
            buf_fmt(&b, "\"%s\":", shared[i]);
            json_put(&b, json_get(parameters, shared[i]));
            buf_byte(&b, ',');
        }
    buf_str(&b, "\"allOf\":[");
    json_put(&b, p);
    buf_str(&b, "]}");
    char *copy = b.failed ? NULL : arena_copy(w->mem, b.p, b.n);
    *n = b.n;
    w->failed |= !copy;
    buf_free(&b);
    return copy ? copy : "";
}

static bool is_required(const json *parameters, const json *p) {
    const json *list = json_get(parameters, "required");
    for (const json *k = list && list->type == JSON_ARRAY ? list->child : NULL; k; k = k->next)
        if (k->type == JSON_STRING && k->n == p->key_n && memcmp(k->s, p->key, k->n) == 0) return true;
    return false;
}

static bool is_name(const char *s) {
    for (const char *p = s; *p; p++)
        if (!(*p == '_' || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (p != s && *p >= '0' && *p <= '9'))) return false;
    return *s != 0;
}

/* name=value of one argument, in the rule's text. */
static void put_argument(writer *w, int i, const json *parameters, const json *p) {
    size_t n;
    const char *schema = property_schema(w, parameters, p, &n);
    char text[300];
    snprintf(text, sizeof text, "%.*s=", 280, p->key);
    put_literal(&w->text, text);
    buf_fmt(&w->text, "value-%d ", add_rule(w, i, schema, n));
}

/* f(a=1, b="x"): the required arguments in the schema's order, then any of the others in theirs. Values are written as JSON has them. */
static void python_call(writer *w, int i) {
    enum { MOST_OPTIONAL = 64 };
    const call_tool *t = &w->a->tools[i];
    const json *properties = json_get(t->parameters, "properties");
    char open[200];
    int n = 0;
    buf_fmt(&w->text, "call-%d ::= ", i);
    snprintf(open, sizeof open, "%.190s(", t->name);
    put_literal(&w->text, open);
    for (const json *p = properties ? properties->child : NULL; p; p = p->next) {
        if (!is_required(t->parameters, p)) continue;
        if (n++) put_literal(&w->text, ", ");
        put_argument(w, i, t->parameters, p);
    }
    int k = 0;
    for (const json *p = properties && n ? properties->child : NULL; p && k < MOST_OPTIONAL; p = p->next) { /* without a required one, none: it would need no comma */
        if (is_required(t->parameters, p) || !is_name(p->key)) continue;
        buf_str(&w->text, "( ");
        put_literal(&w->text, ", ");
        put_argument(w, i, t->parameters, p);
        buf_str(&w->text, ")? ");
        k++;
    }
    if (!n && properties && properties->child) { /* any one of them first, or nothing */
        buf_str(&w->text, "( ");
        for (const json *p = properties->child; p && k < MOST_OPTIONAL; p = p->next) {
            if (!is_name(p->key)) continue;
            if (k++) buf_str(&w->text, "| ");
            put_argument(w, i, t->parameters, p);
        }
        buf_str(&w->text, k ? ")? " : "\"\" ) ");
    }
    put_literal(&w->text, ")");
    buf_byte(&w->text, '\n');
}

static void named_call(writer *w, int i) {
    const call_tool *t = &w->a->tools[i];
    int rule = add_rule(w, i, t->schema, t->n);
    buf_fmt(&w->text, "call-%d ::= ", i);
    put_literal(&w->text, t->name);
    put_literal(&w->text, w->a->format->arguments);
    buf_fmt(&w->text, "value-%d\n", rule);
}

static void put_calls(writer *w) {
    static void (*const of_body[])(writer *w, int i) = { [BODY_JSON] = json_call, [BODY_PYTHON] = python_call, [BODY_NAMED] = named_call };
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
    if (f->open && f->body != BODY_NAMED) buf_str(b, "ws ");
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

/* Any character but these. */
static void put_others(buf *b, char x, char y) {
    buf_str(b, "[^");
    for (int i = 0; i < (x == y ? 1 : 2); i++) buf_fmt(b, strchr("[]^\\-", i ? y : x) ? "\\%c" : "%c", i ? y : x);
    buf_byte(b, ']');
}

/* Any text up to the first mark, and the mark: a rule for each of its beginnings, behind which the rest comes. The mark's first character
 * comes in it once only, so what does not go on with it begins it anew or is behind nothing. */
static void put_thought(writer *w) {
    const char *c = w->a->think.close;
    size_t n = strlen(c);
    buf *b = &w->text;
    buf_str(b, "thought ::= ");
    put_others(b, c[0], c[0]);
    buf_fmt(b, "* \"%c\" thought-1\n", c[0]);
    for (size_t k = 1; k < n; k++) {
        buf_fmt(b, "thought-%zu ::= ", k);
        put_others(b, c[0], c[k]);
        buf_fmt(b, " thought | \"%c\" thought-1 | \"%c\"", c[0], c[k]);
        if (k + 1 < n) buf_fmt(b, " thought-%zu", k + 1);
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
    if (a->n_tools && a->schema) buf_fmt(b, "( calls | value-%d )", add_rule(w, -1, a->schema, a->n_schema));
    else if (a->n_tools) buf_str(b, "calls");
    else buf_fmt(b, "value-%d", add_rule(w, -1, a->schema, a->n_schema));
    buf_str(b, "\nws ::= [ \\n]{0,8}\n");
    if (a->thinking != THINK_NONE) put_thought(w);
    if (a->n_tools) put_calls(w);
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
