/* calls_parse: an answer's text read back as it comes: what was thought, text, calls of tools (calls.h). It owns what is not decided yet: the
 * beginning of what may be a marker, a call that is not whole. Its one idea: nothing is given out that might have to be taken back,
 * so a reply that is streamed and one that is not are the same. A call that cannot be read is text. */
#define _GNU_SOURCE /* memmem */
#include <string.h>

#include "tools/serve/calls.h"

void reader_begin(answer_reader *r, const reader_opts *o) {
    *r = (answer_reader){ .o = *o, .state = o->thinking == THINK_OPEN ? READ_THINK : READ_BEGIN, .trim = o->thinking == THINK_OPEN };
}

void reader_free(answer_reader *r) { buf_free(&r->held); }

bool reader_thinks(const answer_reader *r) { return r->state == READ_THINK; }

static void give(answer_reader *r, part_kind kind, const char *s, size_t n) {
    answer_part p = { .kind = kind, .call = max_int(r->n_calls - 1, 0), .s = s, .n = n };
    if (n || kind == PART_CALL || kind == PART_CALL_END) r->o.take(r->o.arg, &p);
}

static void drop(answer_reader *r, size_t n) {
    memmove(r->held.p, r->held.p + n, r->held.n - n);
    r->held.n -= n;
    r->looked = 0;
}

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

static size_t space(const char *s, size_t n, size_t at) {
    while (at < n && is_space(s[at])) at++;
    return at;
}

/* Does the text begin with it? 1, 0, or -1: as far as it goes. */
static int begins(const char *s, size_t n, const char *what) {
    size_t k = strlen(what);
    if (memcmp(s, what, n < k ? n : k)) return 0;
    return n < k ? -1 : 1;
}

static size_t find(const char *s, size_t n, const char *what) {
    const char *at = n ? memmem(s, n, what, strlen(what)) : NULL;
    return at ? (size_t)(at - s) : SIZE_MAX;
}

/* The end of the text that is certain: what may begin a marker is not, nor the space before it. */
static size_t certain(const char *s, size_t n, const char *marker) {
    size_t end = n;
    for (size_t i = marker ? n > strlen(marker) ? n - strlen(marker) : 0 : n; i < n && end == n; i++)
        if (begins(s + i, n - i, marker)) end = i;
    while (end && is_space(s[end - 1])) end--;
    return end;
}

static size_t skip_trim(answer_reader *r) {
    size_t at = r->trim ? space(r->held.p, r->held.n, 0) : 0;
    if (at < r->held.n) r->trim = false;
    return at;
}

/* ---- values in JSON and in Python ---- */

/* The end of a JSON value at `at`, by its brackets and quotes alone: 1, 0: it is not whole, -1: there is none. A word or a number ends with what
 * follows it. */
static int json_end(const char *s, size_t n, size_t at, size_t *end) {
    int depth = 0;
    bool text = false;
    if (at >= n) return 0;
    if (!strchr("{[\"-0123456789tfn", s[at])) return -1;
    for (size_t i = at; i < n; i++) {
        char c = s[i];
        if (text) {
            if (c == '\\') i++;
            else if (c == '"') text = false;
            else continue;
            if (!text && !depth) return *end = i + 1, 1;
        } else if (c == '"') text = true;
        else if (c == '{' || c == '[') depth++;
        else if (c == '}' || c == ']' || c == ',' || is_space(c)) {
            if (depth && (c == '}' || c == ']') && !--depth) return *end = i + 1, 1;
            if (!depth) return *end = i, 1;
        }
    }
    return 0;
}

typedef struct python { /* an expression of constants, on its way to JSON */
    const char *s;
    size_t n, at;
    buf *out;
    int depth;
    const char *quote; /* stands around text as it is; keys need none then; NULL: no such thing */
} python;

static int python_value(python *p);

static int python_peek(python *p) {
    p->at = space(p->s, p->n, p->at);
    return p->at < p->n ? (unsigned char)p->s[p->at] : -1;
}

static int python_escape(python *p, buf *text) {
    static const char from[] = "ntrbf0\\'\"/", to[] = "\n\t\r\b\f\0\\'\"/";
    char c = p->s[p->at++];
    const char *k = memchr(from, c, sizeof from - 1);
    unsigned v = 0;
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : 0;
    if (c == '\n') return 1;
    if (k) return buf_byte(text, to[k - from]), 1;
    if (!digits) return buf_byte(text, '\\'), buf_byte(text, c), 1; /* Python keeps what it does not know */
    for (int i = 0; i < digits; i++, p->at++) {
        if (p->at >= p->n) return 0;
        const char *hex = "0123456789abcdef", *d = strchr(hex, p->s[p->at] | ((p->s[p->at] & 0x40) ? 0x20 : 0));
        if (!d || !*d) return -1;
        v = 16 * v + (unsigned)(d - hex);
    }
    char utf8[4];
    buf_add(text, utf8, (size_t)utf8_encode(utf8, v));
    return 1;
}

static int python_string(python *p) {
    char quote = p->s[p->at++];
    buf text = { 0 };
    int rc = 0;
    while (p->at < p->n) {
        char c = p->s[p->at++];
        if (c == quote) { rc = 1; break; }
        if (c != '\\') buf_byte(&text, c);
        else if (p->at >= p->n || (rc = python_escape(p, &text)) <= 0) break;
        rc = 0;
    }
    if (rc == 1) buf_json(p->out, text.p ? text.p : "", text.n);
    p->out->failed |= text.failed;
    buf_free(&text);
    return rc;
}

/* Text as it is, between two marks. */
static int quoted_text(python *p) {
    size_t from = p->at + strlen(p->quote), end = find(p->s + from, p->n - from, p->quote);
    if (end == SIZE_MAX) return 0;
    buf_json(p->out, p->s + from, end);
    p->at = from + end + strlen(p->quote);
    return 1;
}

/* A key of an object, and the colon. */
static int python_key(python *p) {
    int c = python_peek(p), rc = p->quote ? begins(p->s + p->at, p->n - p->at, p->quote) : 0;
    if (rc < 0) return 0;
    if (rc) rc = quoted_text(p);
    else if (c == '"' || c == '\'') rc = python_string(p);
    else {
        size_t from = p->at;
        while (p->quote && p->at < p->n && !strchr(":,{}[]<>\"'\n", p->s[p->at])) p->at++;
        if (p->quote && p->at == p->n) return 0;
        rc = p->at > from ? 1 : -1;
        buf_json(p->out, p->s + from, p->at - from);
    }
    if (rc <= 0) return rc;
    c = python_peek(p);
    if (c != ':') return c < 0 ? 0 : -1;
    p->at++;
    buf_byte(p->out, ':');
    return 1;
}

static int python_list(python *p, char close) {
    bool first = true, object = close == '}';
    buf_byte(p->out, object ? '{' : '[');
    for (p->at++;; first = false) {
        int c = python_peek(p), rc;
        if (c < 0) return 0;
        if (c == close) break;
        if (!first) {
            if (c != ',') return -1;
            p->at++;
            c = python_peek(p);
            if (c < 0) return 0;
            if (c == close) break;
            buf_byte(p->out, ',');
        }
        if (object && (rc = python_key(p)) <= 0) return rc;
        if ((rc = python_value(p)) <= 0) return rc;
    }
    p->at++;
    buf_byte(p->out, object ? '}' : ']');
    return 1;
}

/* True, None, 12, -0.5e3: up to what cannot belong to it. */
static int python_word(python *p) {
    static const char *const words[][2] = { { "True", "true" }, { "False", "false" }, { "None", "null" }, { "true", "true" },
                                            { "false", "false" }, { "null", "null" } };
    size_t from = p->at;
    while (p->at < p->n && !is_space(p->s[p->at]) && !strchr(",)]}:", p->s[p->at])) p->at++;
    if (p->at == p->n) return 0;
    size_t n = p->at - from;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strlen(words[i][0]) == n && memcmp(words[i][0], p->s + from, n) == 0) return buf_str(p->out, words[i][1]), 1;
    arena a = { .limit = 4096 };
    json *j;
    int rc = n && n < 400 && json_parse(&a, p->s + from, n, &j, NULL) == 0 && j->type == JSON_NUMBER ? 1 : -1;
    if (rc == 1) buf_add(p->out, p->s + from, n);
    arena_free(&a);
    return rc;
}

static int python_value(python *p) {
    int c = python_peek(p), rc;
    if (c < 0) return 0;
    if (p->quote && (rc = begins(p->s + p->at, p->n - p->at, p->quote))) return rc < 0 ? 0 : quoted_text(p);
    if (c == '"' || c == '\'') return python_string(p);
    if (c != '[' && c != '{' && c != '(') return python_word(p);
    if (++p->depth > JSON_MAX_DEPTH / 2) return -1;
    rc = python_list(p, c == '[' ? ']' : c == '{' ? '}' : ')');
    p->depth--;
    return rc;
}

static bool name_char(char c, bool first) {
    return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (!first && ((c >= '0' && c <= '9') || c == '.' || c == '-'));
}

static size_t name_end(const char *s, size_t n, size_t at) {
    for (bool first = true; at < n && name_char(s[at], first); at++) first = false;
    return at;
}

/* ---- one call ---- */

typedef struct call {
    char name[256];
    buf arguments;  /* JSON */
    size_t begin, end; /* of the arguments in the held text, of a call that is not whole: begin SIZE_MAX: they have not begun */
} call;

static bool known(const answer_reader *r, const char *name) {
    for (int i = 0; i < r->o.n_tools; i++)
        if (strcmp(r->o.tools[i].name, name) == 0) return true;
    return false;
}

static bool take_name(call *c, const char *s, size_t n) {
    if (!n || n >= sizeof c->name || memchr(s, 0, n)) return false;
    memcpy(c->name, s, n);
    c->name[n] = 0;
    return true;
}

/* name and arguments of an object that is whole. */
static int call_of_tree(call *c, const json *j) {
    static const char *const keys[] = { "arguments", "parameters", "args", "input" };
    const json *f = json_get(j, "function"), *name, *v = NULL;
    if (f && f->type == JSON_OBJECT) j = f;
    name = json_get(j, "name");
    if (!name) name = f;
    for (size_t i = 0; i < 4 && !v; i++) v = json_get(j, keys[i]);
    if (!name || name->type != JSON_STRING || !take_name(c, name->s, name->n)) return -1;
    if (!v || v->type == JSON_NULL) buf_str(&c->arguments, "{}");
    else if (v->type == JSON_OBJECT) json_put(&c->arguments, v);
    else if (v->type == JSON_STRING) { /* an object's text, as OpenAI has it */
        arena a = { .limit = 64 << 20 };
        json *inner;
        int rc = json_parse(&a, v->s, v->n, &inner, NULL) == 0 && inner->type == JSON_OBJECT ? 0 : -1;
        if (!rc) buf_add(&c->arguments, v->s, v->n);
        arena_free(&a);
        return rc;
    } else return -1;
    return 0;
}

/* {"name" : "f" , "arguments" : ... as a grammar writes it, so far: name and begin. */
static void call_begun(const answer_reader *r, call *c, const char *s, size_t n, size_t at) {
    size_t end;
    char key[64];
    int m = snprintf(key, sizeof key, "\"%s\"", r->o.format->key);
    if (at >= n || s[at] != '{') return;
    at = space(s, n, at + 1);
    if (at >= n || begins(s + at, n - at, "\"name\"") != 1) return;
    at = space(s, n, at + 6);
    if (at >= n || s[at] != ':') return;
    at = space(s, n, at + 1);
    if (at >= n || json_end(s, n, at, &end) != 1 || end - at < 2) return;
    arena a = { .limit = 4096 };
    json *name;
    bool good = json_parse(&a, s + at, end - at, &name, NULL) == 0 && name->type == JSON_STRING && take_name(c, name->s, name->n);
    arena_free(&a);
    at = space(s, n, end);
    if (!good || at >= n || s[at] != ',') return;
    at = space(s, n, at + 1);
    if (at >= n || begins(s + at, n - at, key) != 1) return;
    at = space(s, n, at + (size_t)m);
    if (at >= n || s[at] != ':') return;
    at = space(s, n, at + 1);
    if (at < n && s[at] == '{') c->begin = at;
}

/* At held text `at`: 1: a whole call ends at *end; 0: not yet; -1: it is none. */
static int json_call(const answer_reader *r, call *c, size_t at, size_t *end) {
    const char *s = r->held.p;
    size_t n = r->held.n;
    if (at < n && s[at] != '{') return -1;
    int rc = json_end(s, n, at, end);
    if (rc == 0) call_begun(r, c, s, n, at);
    if (rc <= 0) return rc;
    arena a = { .limit = ((size_t)1 << 20) + 64 * (*end - at) };
    json *j;
    rc = json_parse(&a, s + at, *end - at, &j, NULL) == 0 && j->type == JSON_OBJECT && call_of_tree(c, j) == 0 ? 1 : -1;
    arena_free(&a);
    return rc;
}

static int named_call(const answer_reader *r, call *c, size_t at, size_t *end) {
    const char *s = r->held.p, *before = r->o.format->before;
    size_t n = r->held.n;
    int rc = before ? begins(s + at, n - at, before) : 1;
    if (rc <= 0) return rc ? 0 : -1;
    if (before) at += strlen(before);
    size_t stop = name_end(s, n, at);
    if (stop == n) return 0;
    if (!take_name(c, s + at, stop - at)) return -1;
    rc = begins(s + stop, n - stop, "[CALL_ID]");
    if (rc < 0) return 0;
    if (rc) stop = name_end(s, n, space(s, n, stop + 9));
    if (rc && find(s + stop, n - stop, r->o.format->mark) != 0 && stop < n && s[stop] != '[') { /* an id may begin with a digit */
        while (stop < n && s[stop] != '[') stop++;
    }
    rc = begins(s + stop, n - stop, r->o.format->mark);
    if (rc <= 0) return rc ? 0 : -1;
    at = space(s, n, stop + strlen(r->o.format->mark));
    if (at == n) return 0;
    if (s[at] != '{') return -1;
    rc = json_end(s, n, at, end);
    if (rc == 0) c->begin = at;
    if (rc <= 0) return rc;
    arena a = { .limit = ((size_t)1 << 20) + 64 * (*end - at) };
    json *j;
    rc = json_parse(&a, s + at, *end - at, &j, NULL) == 0 && j->type == JSON_OBJECT ? 1 : -1;
    if (rc == 1) buf_add(&c->arguments, s + at, *end - at);
    arena_free(&a);
    return rc;
}

/* Whole objects only: too deep, or not text. */
static int sound_object(const buf *b) {
    arena a = { .limit = ((size_t)1 << 20) + 64 * b->n };
    json *j;
    int rc = !b->failed && json_parse(&a, b->p, b->n, &j, NULL) == 0 && j->type == JSON_OBJECT ? 1 : -1;
    arena_free(&a);
    return rc;
}

static int python_call(const answer_reader *r, call *c, size_t at, size_t *end) {
    python p = { .s = r->held.p, .n = r->held.n, .out = &c->arguments };
    size_t stop = name_end(p.s, p.n, at);
    if (stop == p.n) return 0;
    if (p.s[stop] != '(' || !take_name(c, p.s + at, stop - at)) return -1;
    p.at = stop + 1;
    buf_byte(p.out, '{');
    for (bool first = true;; first = false) {
        int ch = python_peek(&p), rc;
        if (ch < 0) return 0;
        if (ch == ')') break;
        if (!first) {
            if (ch != ',') return -1;
            p.at++;
            if ((ch = python_peek(&p)) < 0) return 0;
            if (ch == ')') break;
            buf_byte(p.out, ',');
        }
        size_t from = p.at;
        p.at = name_end(p.s, p.n, from);
        if (p.at == p.n) return 0;
        if (p.at == from) return -1;
        buf_json(p.out, p.s + from, p.at - from);
        if ((ch = python_peek(&p)) < 0) return 0;
        if (ch != '=') return -1;
        p.at++;
        buf_byte(p.out, ':');
        if ((rc = python_value(&p)) <= 0) return rc;
    }
    buf_byte(p.out, '}');
    *end = p.at + 1;
    return sound_object(p.out);
}

static int braces_call(const answer_reader *r, call *c, size_t at, size_t *end) {
    python p = { .s = r->held.p, .n = r->held.n, .out = &c->arguments, .quote = r->o.format->quote };
    int rc = begins(p.s + at, p.n - at, "call:");
    if (rc <= 0) return rc ? 0 : -1;
    at += strlen("call:");
    p.at = name_end(p.s, p.n, at);
    if (p.at == p.n) return 0;
    if (p.s[p.at] != '{' || !take_name(c, p.s + at, p.at - at)) return -1;
    if ((rc = python_list(&p, '}')) <= 0) return rc;
    *end = p.at;
    return sound_object(p.out);
}

/* The value of one parameter: text where its schema knows nothing else, JSON or what Python calls it where it is that, else text. */
static void xml_value(buf *out, const json *parameters, const json *schema, const char *s, size_t n) {
    int kinds = value_kinds(parameters, schema), rc = -1;
    static const char *const words[][2] = { { "True", "true" }, { "False", "false" }, { "None", "null" } };
    for (size_t i = 0; i < 3 && kinds != VALUE_TEXT; i++)
        if (strlen(words[i][0]) == n && memcmp(words[i][0], s, n) == 0) return buf_str(out, words[i][1]);
    if (kinds != VALUE_TEXT) {
        arena a = { .limit = ((size_t)1 << 20) + 64 * n };
        json *j;
        rc = json_parse(&a, s, n, &j, NULL);
        if (!rc) json_put(out, j);
        arena_free(&a);
    }
    if (rc) buf_json(out, s, n);
}

/* Where the value behind <parameter=a> stands, and what follows </parameter>: the line end before the value and the one behind it are not
 * the value's; an empty one may have one for both. 1, or 0: it is not whole. */
static int xml_extent(const char *s, size_t n, size_t *value, size_t *length, size_t *end) {
    const char *close = "\n</parameter>";
    int rc = *value < n ? begins(s + *value, n - *value, close) : -1;
    if (rc > 0) { /* nothing, or a text that begins like an end? What follows says it */
        size_t next = space(s, n, *value + strlen(close));
        int more = begins(s + next, n - next, "<parameter="), done = begins(s + next, n - next, "</function>");
        rc = more > 0 || done > 0 ? 1 : more < 0 || done < 0 ? -1 : 0;
    }
    if (rc < 0) return 0;
    if (rc == 0 && s[*value] == '\n') ++*value;
    else if (rc == 0) close++;
    *length = find(s + *value, n - *value, close);
    *end = *value + *length + strlen(close);
    return *length != SIZE_MAX;
}

static const json *schema_of(const answer_reader *r, const char *name, const char *key, size_t n, const json **parameters) {
    const json *found = NULL;
    *parameters = NULL;
    for (int i = 0; i < r->o.n_tools; i++)
        if (strcmp(r->o.tools[i].name, name) == 0) *parameters = r->o.tools[i].parameters;
    const json *all = json_get(*parameters, "properties");
    for (const json *k = all && all->type == JSON_OBJECT ? all->child : NULL; k; k = k->next)
        if (k->key_n == n && memcmp(k->key, key, n) == 0) found = k;
    return found;
}

/* a>, a value, </parameter>. 1, 0, -1; *at is moved behind it. */
static int xml_parameter(const answer_reader *r, call *c, size_t *at) {
    const char *key = r->held.p + *at;
    size_t n = r->held.n, key_n = find(key, n - *at, ">"), length, end;
    if (key_n == SIZE_MAX) return n - *at > 300 ? -1 : 0;
    if (!key_n || memchr(key, '\n', key_n)) return -1;
    size_t value = *at + key_n + 1;
    if (!xml_extent(r->held.p, n, &value, &length, &end)) return 0;
    const json *parameters, *schema = schema_of(r, c->name, key, key_n, &parameters);
    if (c->arguments.n > 1) buf_byte(&c->arguments, ',');
    buf_json(&c->arguments, key, key_n);
    buf_byte(&c->arguments, ':');
    xml_value(&c->arguments, parameters, schema, r->held.p + value, length);
    *at = end;
    return 1;
}

static int xml_call(const answer_reader *r, call *c, size_t at, size_t *end) {
    static const char *const open = "<function=", *const close = "</function>", *const parameter = "<parameter=";
    const char *s = r->held.p;
    size_t n = r->held.n;
    int rc = begins(s + at, n - at, open);
    if (rc <= 0) return rc ? 0 : -1;
    at += strlen(open);
    size_t stop = name_end(s, n, at);
    if (stop == n) return 0;
    if (s[stop] != '>' || !take_name(c, s + at, stop - at)) return -1;
    buf_byte(&c->arguments, '{');
    for (at = stop + 1;;) {
        at = space(s, n, at);
        if ((rc = begins(s + at, n - at, close))) break;
        rc = begins(s + at, n - at, parameter);
        if (rc < 0) return 0;
        if (!rc) return at < n ? -1 : 0;
        at += strlen(parameter);
        if ((rc = xml_parameter(r, c, &at)) <= 0) return rc;
    }
    if (rc < 0) return 0;
    buf_byte(&c->arguments, '}');
    *end = at + strlen(close);
    return sound_object(&c->arguments);
}

/* ---- calls ---- */

/* What was held is text after all, its first n bytes at least: they may hold what would begin a call again. */
static void as_text(answer_reader *r, size_t n) {
    if (r->opened || r->o.format->open || r->o.format->list) r->malformed |= !r->unknown;
    give(r, PART_TEXT, r->held.p, n);
    drop(r, n);
    r->started = true;
    r->opened = r->after = false;
    r->state = READ_TEXT;
}

static void begin_call(answer_reader *r, const char *name) {
    r->n_calls++;
    r->started = true;
    give(r, PART_CALL, name, strlen(name));
}

/* The next call of what is held. true: something was done, and there may be more to do. */
static bool next_call(answer_reader *r, size_t at) {
    static int (*const of_body[])(const answer_reader *r, call *c, size_t at, size_t *end) = {
        [BODY_JSON] = json_call, [BODY_PYTHON] = python_call, [BODY_NAMED] = named_call, [BODY_XML] = xml_call, [BODY_BRACES] = braces_call };
    call c = { .begin = SIZE_MAX };
    size_t end = 0;
    bool more = false;
    int rc = of_body[r->o.format->body](r, &c, at, &end);
    bool here = rc == 1 || (rc == 0 && r->exact && c.begin != SIZE_MAX);
    if (here && !known(r, c.name)) {
        r->unknown = true;
        rc = -1;
        here = false;
    }
    if (rc < 0 && r->exact && (r->o.format->open || r->n_calls)) { /* as in behind_call: the grammar allows nothing else */
        drop(r, r->held.n);
    } else if (rc < 0) {
        as_text(r, at < r->held.n ? at + 1 : r->held.n);
        more = true;
    } else if (here) {
        begin_call(r, c.name);
        if (rc == 1) {
            give(r, PART_ARGUMENTS, c.arguments.p, c.arguments.n);
            give(r, PART_CALL_END, "", 0);
            drop(r, end);
            r->after = true;
            r->rest = r->o.format->behind;
        } else {
            drop(r, c.begin);
            r->state = READ_ARGUMENTS;
            r->depth = 0;
            r->in_string = r->escaped = false;
        }
        r->opened = more = true;
    }
    buf_free(&c.arguments);
    return more;
}

/* Arguments as they come, under a grammar: to the brace that closes them; what closes the call is left. */
static bool read_arguments(answer_reader *r) {
    size_t i = 0;
    bool whole = false;
    for (; i < r->held.n && !whole; i++) {
        char c = r->held.p[i];
        if (r->escaped) r->escaped = false;
        else if (r->in_string && c == '\\') r->escaped = true;
        else if (c == '"') r->in_string = !r->in_string;
        else if (!r->in_string && (c == '{' || c == '[')) r->depth++;
        else if (!r->in_string && (c == '}' || c == ']')) whole = --r->depth == 0;
    }
    give(r, PART_ARGUMENTS, r->held.p, i);
    drop(r, i);
    if (!whole) return false;
    give(r, PART_CALL_END, "", 0);
    r->state = READ_CALLS;
    r->after = true;
    r->rest = r->o.format->body == BODY_JSON ? "}" : r->o.format->behind; /* still to come */
    return true;
}

static bool end_calls(answer_reader *r, size_t at) {
    drop(r, at);
    r->state = READ_TEXT;
    r->opened = r->after = false;
    r->trim = true;
    return true;
}

/* Behind a call: another one, or the end of them. */
static bool behind_call(answer_reader *r) {
    const call_format *f = r->o.format;
    const char *s = r->held.p;
    size_t n = r->held.n, at = space(s, n, 0);
    if (at == n) return false;
    if (r->rest) {
        const char *rest = r->rest + (is_space(*r->rest) ? 1 : 0); /* space has been passed */
        int rc = begins(s + at, n - at, rest);
        if (rc < 0) return false;
        r->rest = NULL;
        if (rc) return drop(r, at + strlen(rest)), true;
    }
    bool bare = f->open == NULL && !f->list;
    if (f->list && s[at] == ']') {
        int rc = f->close ? begins(s + space(s, n, at + 1), n - space(s, n, at + 1), f->close) : 0;
        return rc < 0 ? false : end_calls(r, rc ? space(s, n, at + 1) + strlen(f->close) : at + 1);
    }
    if (f->before) { /* calls of a list that have marks of their own */
        int rc = begins(s + at, n - at, f->before);
        if (rc) return rc < 0 ? false : (drop(r, at), r->after = false, true);
    } else if (f->between && (s[at] == f->between[0] || (is_space(f->between[0]) && name_char(s[at], true)))) {
        drop(r, is_space(f->between[0]) ? at : at + 1);
        r->after = false;
        return true;
    }
    if (bare && s[at] == '{') return drop(r, at), r->after = false, true;
    int rc = f->close ? begins(s + at, n - at, f->close) : 0;
    if (rc < 0) return false;
    if (!rc && f->close && r->exact) return drop(r, n), false; /* a part of a character, of an answer that was cut */
    return end_calls(r, rc ? at + strlen(f->close) : at);
}

/* Is there anything new that could end a call? */
static bool may_end(answer_reader *r) {
    size_t from = r->looked;
    r->looked = r->held.n;
    if (from < 64 || r->exact) return true;
    for (size_t i = from; i < r->held.n; i++)
        if (strchr("})]>", r->held.p[i])) return true;
    return false;
}

/* From a call's opening on. */
static bool read_calls(answer_reader *r) {
    const call_format *f = r->o.format;
    const char *s = r->held.p;
    size_t n = r->held.n, at;
    if (r->after) return behind_call(r);
    if (!n || !may_end(r)) return false;
    at = space(s, n, 0);
    if (!r->opened) {
        const char *open = f->open ? f->open : f->prefix;
        int rc = open ? begins(s + at, n - at, open) : 0;
        if (rc < 0) return false;
        if (rc) at = space(s, n, at + strlen(open));
        if (f->list && at < n && s[at] == '[') at = space(s, n, at + 1);
        else if (f->list && at < n && !(f->body == BODY_JSON && s[at] == '{')) return as_text(r, rc ? strlen(open) : 1), true;
    }
    return at < n ? next_call(r, at) : false;
}

/* ---- text ---- */

/* May the answer be a call without an opening? 1, 0, or -1: it is not known yet. */
static int bare_call(const answer_reader *r, const char *s, size_t n) {
    const call_format *f = r->o.format;
    if (!f || f->open) return 0;
    int rc = f->prefix ? begins(s, n, f->prefix) : 0;
    if (rc) return rc;
    size_t at = 0;
    if (f->list) {
        if (s[0] != '[') return 0;
        at = space(s, n, 1);
        size_t end = name_end(s, n, at);
        return end == n ? -1 : f->body == BODY_PYTHON ? end > at && s[end] == '(' : s[at] == '{';
    }
    if (s[at] != '{') return 0;
    at = space(s, n, at + 1);
    if (at == n) return -1;
    static const char *const keys[] = { "\"name\"", "\"function\"", "\"type\"", "\"id\"", "\"parameters\"", "\"arguments\"" };
    for (size_t i = 0; i < 6; i++)
        if ((rc = begins(s + at, n - at, keys[i]))) return rc;
    return 0;
}

/* The answer's first text decides: thought, a call, text. */
static bool read_begin(answer_reader *r) {
    size_t at = space(r->held.p, r->held.n, 0);
    const char *s = r->held.p + at;
    size_t n = r->held.n - at;
    if (!n) return false;
    int rc = r->o.thinking == THINK_MAY ? begins(s, n, r->o.think.open) : 0;
    if (rc < 0) return false;
    if (rc) {
        drop(r, at + strlen(r->o.think.open));
        r->o.thinking = THINK_NONE;
        r->state = READ_THINK;
        return r->trim = true;
    }
    rc = bare_call(r, s, n);
    if (rc < 0) return false;
    r->state = rc ? READ_CALLS : READ_TEXT;
    return true;
}

static bool read_think(answer_reader *r) {
    size_t from = skip_trim(r), at = find(r->held.p, r->held.n, r->o.think.close), end = at == SIZE_MAX ? r->held.n : at;
    if (from > end) from = end; /* nothing was thought */
    size_t sure = at == SIZE_MAX ? certain(r->held.p, end, r->o.think.close) : certain(r->held.p, end, NULL);
    if (sure < from) sure = from;
    give(r, PART_REASONING, r->held.p + from, sure - from);
    if (at == SIZE_MAX) return drop(r, sure), false;
    drop(r, at + strlen(r->o.think.close));
    r->state = READ_BEGIN;
    r->o.thinking = THINK_NONE;
    return r->trim = true;
}

static bool read_text(answer_reader *r) {
    const char *open = r->o.format ? r->o.format->open : NULL;
    size_t from = skip_trim(r), at = open ? find(r->held.p, r->held.n, open) : SIZE_MAX;
    size_t sure = at == SIZE_MAX ? certain(r->held.p, r->held.n, open) : certain(r->held.p, at, NULL);
    if (sure < from) sure = from;
    give(r, PART_TEXT, r->held.p + from, sure - from);
    r->started |= sure > from;
    if (at == SIZE_MAX) return drop(r, sure), false;
    drop(r, at); /* the space before a call is no text */
    r->state = READ_CALLS;
    return true;
}

static bool step(answer_reader *r) {
    static bool (*const of_state[])(answer_reader *r) = { [READ_BEGIN] = read_begin, [READ_THINK] = read_think, [READ_TEXT] = read_text,
                                                          [READ_CALLS] = read_calls, [READ_ARGUMENTS] = read_arguments };
    return of_state[r->state](r);
}

void reader_feed(answer_reader *r, const char *s, size_t n, bool exact) {
    r->exact |= exact; /* what a decoder held back to the end comes later, and is of the same call */
    if (!n) return;
    buf_add(&r->held, s, n);
    if (r->held.failed) return;
    while (r->held.n && step(r)) continue;
}

/* Text or thoughts that waited for a marker; space behind thoughts and calls is dropped. */
static void give_rest(answer_reader *r) {
    bool thought = r->state == READ_THINK;
    size_t from = skip_trim(r), n = r->held.n;
    while ((thought || r->n_calls) && n > from && is_space(r->held.p[n - 1])) n--;
    if (n > from) give(r, thought ? PART_REASONING : PART_TEXT, r->held.p + from, n - from);
}

void reader_end(answer_reader *r) {
    bool exact = r->exact;
    if (r->held.failed) return;
    r->exact = false;
    if (exact && (r->state == READ_CALLS || r->n_calls)) r->held.n = 0; /* the beginning of a call that was cut: its name is not known */
    while (r->held.n) { /* what waited for more text is decided without it */
        r->looked = 0;
        if (step(r)) continue;
        if (r->state == READ_BEGIN) r->state = READ_TEXT;
        else if (r->state == READ_CALLS && !r->after) as_text(r, r->held.n);
        else break;
    }
    if (r->state == READ_ARGUMENTS) {
        r->cut = true;
        give(r, PART_CALL_END, "", 0);
    }
    if (r->held.n && (r->state == READ_THINK || r->state == READ_TEXT)) give_rest(r);
    r->held.n = 0;
}
