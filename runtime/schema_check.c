/* schema_check: what a schema's keywords say, one by one, and whether a value is valid: values that a schema lists (enum, const) are tried
 * against the rest of it. It must not know grammars. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/schema.h"
#include "runtime/schema_parts.h"

/* ---- where: JSON pointers for messages ---- */

void schema_pointer_add(buf *b, const char *key, size_t n) {
    buf_byte(b, '/');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)key[i];
        if (c == '~' || c == '/') buf_str(b, c == '~' ? "~0" : "~1");
        else if (c < 0x20 || c == 0x7f || c == '%') buf_fmt(b, "%%%02X", c); /* a message is one line */
        else buf_byte(b, c);
    }
}

static bool find_place(const json *at, const json *wanted, buf *b) {
    if (at == wanted) return true;
    size_t n = b->n;
    uint32_t i = 0;
    for (const json *k = at->child; k && (at->type == JSON_ARRAY || at->type == JSON_OBJECT); k = k->next, i++) {
        if (at->type == JSON_ARRAY) buf_fmt(b, "/%u", i);
        else schema_pointer_add(b, k->key, k->key_n);
        if (find_place(k, wanted, b)) return true; /* as deep as JSON_MAX_DEPTH */
        b->n = n;
    }
    return false;
}

int schema_bad(schema_doc *d, const json *at, const char *keyword, const char *fmt, ...) {
    buf b = { 0 };
    char what[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    buf_byte(&b, '#');
    find_place(d->root, at, &b);
    if (keyword) buf_fmt(&b, "/%s", keyword);
    fail_code(d->e, ERR_INPUT, "JSON schema, %.*s: %s", (int)(b.n < 200 ? b.n : 200), b.p ? b.p : "#", what);
    buf_free(&b);
    return -1;
}

/* ---- keywords ---- */

static bool in_list(const json *key, const char *const *list) {
    for (; *list; list++)
        if (strlen(*list) == key->key_n && memcmp(*list, key->key, key->key_n) == 0) return true;
    return false;
}

static bool is_key(const json *j, const char *key) { return strlen(key) == j->key_n && memcmp(j->key, key, j->key_n) == 0; }

/* Keywords of s that ask for nothing as they stand here. */
static bool asks_nothing(const json *s, const json *j) {
    bool off = j->type == JSON_FALSE, on = j->type == JSON_TRUE || (j->type == JSON_OBJECT && j->n == 0);
    int64_t most;
    const json *items = json_get(s, "maxItems");
    if (is_key(j, "uniqueItems")) return off || (j->type == JSON_TRUE && items && json_int(items, &most) == 0 && most <= 1);
    if (is_key(j, "not")) return off;
    /* all of them are */
    if (is_key(j, "propertyNames") && j->type == JSON_OBJECT && j->n == 1 && json_is(json_get(j, "type"), "string")) return true;
    if (is_key(j, "unevaluatedProperties") || is_key(j, "unevaluatedItems") || is_key(j, "propertyNames")) return on;
    if (is_key(j, "patternProperties") || is_key(j, "dependentRequired") || is_key(j, "dependentSchemas") || is_key(j, "dependencies"))
        return j->type == JSON_OBJECT && j->n == 0;
    return false;
}

int schema_keywords(schema_doc *d, const json *s) {
    static const char *const kept[] = { "type", "enum", "const", "properties", "additionalProperties", "required", "minProperties",
                                        "maxProperties", "items", "prefixItems", "minItems", "maxItems", "minLength", "maxLength",
                                        "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
                                        "multipleOf", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions", "nullable", NULL };
    static const char *const notes[] = { "title", "description", "default", "examples", "example", "deprecated", "readOnly",
                                         "writeOnly", "$schema", "$id", "$comment", "$anchor", "$vocabulary", "contentMediaType",
                                         "contentEncoding", "contentSchema", "discriminator", "propertyOrdering", "strict", NULL };
    if (s->type == JSON_TRUE || s->type == JSON_FALSE) return 0;
    if (s->type != JSON_OBJECT) return schema_bad(d, s, NULL, "expected a schema (an object, true or false), found %s", json_type_name(s));
    for (const json *j = s->child; j; j = j->next) {
        if (in_list(j, kept) || in_list(j, notes) || asks_nothing(s, j)) continue;
        if (j->key_n > 2 && memcmp(j->key, "x-", 2) == 0) continue;
        return schema_bad(d, j, NULL, "`%.60s` cannot be enforced", j->key);
    }
    const json *dialect = json_get(s, "$schema");
    if (dialect && (dialect->type != JSON_STRING || !strstr(dialect->s, "json-schema.org/")))
        return schema_bad(d, s, "$schema", "a dialect that is not json-schema.org's cannot be kept");
    if (s != d->root && json_get(s, "$id")) return schema_bad(d, s, "$id", "a schema with a base of its own within another cannot be kept");
    return 0;
}

static int kind_of(schema_doc *d, const json *s, const json *t) {
    static const struct { const char *name; int kinds; } all[] = { { "null", KIND_NULL }, { "boolean", KIND_BOOL },
                                                                   { "integer", KIND_INT }, { "number", KIND_INT | KIND_FRACTION },
                                                                   { "string", KIND_STRING }, { "array", KIND_ARRAY }, { "object", KIND_OBJECT } };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (json_is(t, all[i].name)) return all[i].kinds;
    return schema_bad(d, s, "type", "expected null, boolean, integer, number, string, array, object or a list of these, found %s",
                      t->type == JSON_STRING ? t->s : json_type_name(t));
}

int schema_kinds(schema_doc *d, const json *s, int *kinds) {
    const json *t = json_get(s, "type");
    *kinds = KIND_ANY;
    if (!t) return 0;
    *kinds = 0;
    if (t->type != JSON_ARRAY) {
        int k = kind_of(d, s, t);
        if (k < 0) return -1;
        *kinds = k;
    }
    for (const json *j = t->child; j && t->type == JSON_ARRAY; j = j->next) {
        int k = kind_of(d, s, j);
        if (k < 0) return -1;
        *kinds |= k;
    }
    const json *nullable = json_get(s, "nullable");
    if (nullable && nullable->type == JSON_TRUE) *kinds |= KIND_NULL;
    return 0;
}

/* One step of a JSON pointer, with its escapes undone. */
static int pointer_word(const char **p, char *out, size_t room) {
    size_t n = 0;
    for (; **p && **p != '/'; (*p)++) {
        char c = **p;
        unsigned byte;
        if (c == '%' && sscanf(*p + 1, "%2x", &byte) == 1 && (*p)[1] && (*p)[2]) c = (char)byte, *p += 2;
        if (c == '~' && ((*p)[1] == '0' || (*p)[1] == '1')) c = (*p)[1] == '0' ? '~' : '/', (*p)++;
        if (n + 1 == room) return -1;
        out[n++] = c;
    }
    out[n] = 0;
    return (int)n;
}

const json *schema_at(const json *at, const char *p) {
    while (*p == '/' && at) {
        char word[512];
        p++;
        if (pointer_word(&p, word, sizeof word) < 0) return NULL;
        const json *k = at->type == JSON_ARRAY ? at->child : NULL;
        for (unsigned long i = strtoul(word, NULL, 10); k && i; i--) k = k->next;
        at = at->type == JSON_OBJECT ? json_get(at, word) : word[0] >= '0' && word[0] <= '9' ? k : NULL;
    }
    return at;
}

int schema_resolve(schema_doc *d, const json *s, const json **target) {
    const json *ref = json_get(s, "$ref");
    if (ref->type != JSON_STRING) return schema_bad(d, s, "$ref", "expected a string, found %s", json_type_name(ref));
    const char *p = ref->s;
    if (p[0] != '#' || (p[1] && p[1] != '/'))
        return schema_bad(d, s, "$ref", "\"%.100s\": only references within the schema (#/...) can be followed", p);
    *target = schema_at(d->root, p + 1);
    return *target ? 0 : schema_bad(d, s, "$ref", "\"%.100s\" leads nowhere", ref->s);
}

int schema_count(schema_doc *d, const json *s, const char *keyword, uint32_t *v) {
    const json *j = json_get(s, keyword);
    int64_t i;
    if (!j) return 0;
    if (json_int(j, &i) || i < 0)
        return schema_bad(d, s, keyword, "expected a whole number from 0, found %s", j->type == JSON_NUMBER ? j->s : json_type_name(j));
    *v = i > INT32_MAX ? INT32_MAX : (uint32_t)i;
    return 0;
}

/* A limit's value; 1 where it is there. */
static int limit(schema_doc *d, const json *s, const char *keyword, decimal *v) {
    const json *j = json_get(s, keyword);
    if (!j) return 0;
    if (j->type != JSON_NUMBER) return schema_bad(d, s, keyword, "expected a number, found %s", json_type_name(j));
    return decimal_parse(v, j->s) ? schema_bad(d, s, keyword, "a number of over %d digits cannot be kept", MAX_DIGITS) : 1;
}

static int multiple_of(schema_doc *d, const json *s, number_limits *l) {
    decimal v;
    int rc = limit(d, s, "multipleOf", &v);
    if (rc <= 0) return rc;
    if (v.sign < 0 || !v.n) return schema_bad(d, s, "multipleOf", "expected a number above 0");
    int64_t m;
    if (!decimal_whole(&v) || json_int(json_get(s, "multipleOf"), &m) || m > 1000)
        return schema_bad(d, s, "multipleOf", "only whole numbers up to 1000 can be kept");
    uint32_t a = l->multiple ? l->multiple : 1, b = (uint32_t)m, x = a, y = b;
    while (y) {
        uint32_t r = x % y;
        x = y;
        y = r;
    }
    if ((uint64_t)a / x * b > 1000) return schema_bad(d, s, "multipleOf", "the multiples of both %u and %u cannot be kept", a, b);
    l->multiple = a / x * b;
    l->whole = true;
    return 0;
}

int schema_number(schema_doc *d, const json *s, number_limits *l) {
    static const struct { const char *name; bool low, open; } limits[] = { { "minimum", true, false }, { "exclusiveMinimum", true, true },
                                                                           { "maximum", false, false }, { "exclusiveMaximum", false, true } };
    for (int i = 0; i < 4; i++) {
        decimal v;
        int rc = limit(d, s, limits[i].name, &v);
        if (rc < 0) return -1;
        if (rc && limits[i].low) number_low(l, &v, limits[i].open);
        else if (rc) number_high(l, &v, limits[i].open);
    }
    return multiple_of(d, s, l);
}

/* ---- values ---- */

bool json_equal(const json *a, const json *b) {
    if (a->type != b->type) return false;
    if (a->type == JSON_NUMBER) {
        decimal x, y;
        return !decimal_parse(&x, a->s) && !decimal_parse(&y, b->s) ? decimal_compare(&x, &y) == 0 : strcmp(a->s, b->s) == 0;
    }
    if (a->type == JSON_STRING) return a->n == b->n && (a->n == 0 || memcmp(a->s, b->s, a->n) == 0);
    if (a->type != JSON_ARRAY && a->type != JSON_OBJECT) return true;
    if (a->n != b->n) return false;
    const json *y = b->child;
    for (const json *x = a->child; x; x = x->next, y = y ? y->next : NULL) {
        const json *other = y;
        if (a->type == JSON_OBJECT)
            for (other = b->child; other && (other->key_n != x->key_n || memcmp(other->key, x->key, x->key_n) != 0);) other = other->next;
        if (!other || !json_equal(x, other)) return false;
    }
    return true;
}

static int kind_of_value(const json *v) {
    decimal d;
    switch (v->type) {
    case JSON_NULL: return KIND_NULL;
    case JSON_FALSE:
    case JSON_TRUE: return KIND_BOOL;
    case JSON_NUMBER: return decimal_parse(&d, v->s) == 0 && decimal_whole(&d) ? KIND_INT : KIND_FRACTION;
    case JSON_STRING: return KIND_STRING;
    case JSON_ARRAY: return KIND_ARRAY;
    default: return KIND_OBJECT;
    }
}

static int valid_number(schema_doc *d, const json *v, const json *s) {
    number_limits *l = calloc(1, sizeof *l);
    decimal x;
    if (!l) return fail_memory(d->e, sizeof *l, "a schema");
    int rc = schema_number(d, s, l) ? -1 : 1;
    if (rc == 1 && decimal_parse(&x, v->s)) rc = schema_bad(d, s, NULL, "a value of over %d digits", MAX_DIGITS);
    if (rc == 1 && l->has_low && (decimal_compare(&x, &l->low) < (l->low_open ? 1 : 0))) rc = 0;
    if (rc == 1 && l->has_high && (decimal_compare(&x, &l->high) > (l->high_open ? -1 : 0))) rc = 0;
    if (rc == 1 && l->multiple && (!decimal_whole(&x) || decimal_modulo(&x, l->multiple))) rc = 0;
    free(l);
    return rc;
}

static int matches(schema_doc *d, const json *v, const json *s, const char *keyword, const char *pattern, size_t n) {
    char_nfa a;
    err inner = { 0 };
    int rc = char_nfa_parse(&a, pattern, n, &inner) ? schema_bad(d, s, keyword, "%s", inner.msg) : string_matches(&a, v->s, v->n);
    char_nfa_free(&a);
    return rc;
}

static int valid_string(schema_doc *d, const json *v, const json *s) {
    uint32_t min = 0, max = NET_NONE, n = 0;
    if (schema_count(d, s, "minLength", &min) || schema_count(d, s, "maxLength", &max)) return -1;
    for (uint32_t i = 0; i < v->n; i++) n += ((uint8_t)v->s[i] & 0xc0) != 0x80;
    if (n < min || n > max) return 0;
    const json *p = json_get(s, "pattern"), *f = json_get(s, "format");
    int rc = 1;
    if (p && p->type == JSON_STRING) rc = matches(d, v, s, "pattern", p->s, p->n);
    const char *format = f && f->type == JSON_STRING ? format_pattern(f->s) : NULL;
    if (rc == 1 && f && !format) return schema_bad(d, s, "format", "this format cannot be enforced");
    return rc == 1 && format ? matches(d, v, s, "format", format, strlen(format)) : rc;
}

static int valid_array(schema_doc *d, const json *v, const json *s, int depth) {
    uint32_t min = 0, max = NET_NONE;
    const json *prefix = json_get(s, "prefixItems"), *items = json_get(s, "items"), *p = prefix ? prefix->child : NULL;
    if (schema_count(d, s, "minItems", &min) || schema_count(d, s, "maxItems", &max)) return -1;
    if (v->n < min || v->n > max) return 0;
    int rc = 1;
    for (const json *x = v->child; x && rc == 1; x = x->next) {
        if (p) rc = schema_valid(d, x, p, depth + 1), p = p->next;
        else if (items) rc = schema_valid(d, x, items, depth + 1);
    }
    return rc;
}

/* The member of an object by a key of any bytes. */
static const json *member(const json *object, const json *key) {
    for (const json *j = object && object->type == JSON_OBJECT ? object->child : NULL; j; j = j->next)
        if (j->key_n == key->key_n && memcmp(j->key, key->key, j->key_n) == 0) return j;
    return NULL;
}

static int valid_object(schema_doc *d, const json *v, const json *s, int depth) {
    const json *properties = json_get(s, "properties"), *other = json_get(s, "additionalProperties"), *required = json_get(s, "required");
    uint32_t min = 0, max = NET_NONE;
    if (schema_count(d, s, "minProperties", &min) || schema_count(d, s, "maxProperties", &max)) return -1;
    if (v->n < min || v->n > max) return 0;
    int rc = 1;
    for (const json *x = v->child; x && rc == 1; x = x->next) {
        const json *p = member(properties, x);
        if (p || other) rc = schema_valid(d, x, p ? p : other, depth + 1);
    }
    for (const json *r = required && required->type == JSON_ARRAY ? required->child : NULL; r && rc == 1; r = r->next)
        if (r->type == JSON_STRING) rc = member(v, &(json){ .key = r->s, .key_n = r->n }) != NULL;
    return rc;
}

static int valid_choices(schema_doc *d, const json *v, const json *s, int depth) {
    static const char *const names[] = { "allOf", "anyOf", "oneOf" };
    for (int k = 0; k < 3; k++) {
        const json *list = json_get(s, names[k]);
        uint32_t n = 0;
        for (const json *x = list ? list->child : NULL; x; x = x->next) {
            int rc = schema_valid(d, v, x, depth + 1);
            if (rc < 0) return -1;
            n += (uint32_t)rc;
        }
        if (list && (k == 0 ? n != list->n : k == 1 ? n == 0 : n != 1)) return 0;
    }
    return 1;
}

static int valid_listed(schema_doc *d, const json *v, const json *s) {
    const json *list = json_get(s, "enum"), *one = json_get(s, "const");
    int kinds;
    if (schema_kinds(d, s, &kinds)) return -1;
    if (!(kinds & kind_of_value(v)) || (one && !json_equal(v, one))) return 0;
    for (const json *x = list ? list->child : NULL; x; x = x->next)
        if (json_equal(v, x)) return 1;
    return !list;
}

int schema_valid_alone(schema_doc *d, const json *v, const json *s, int depth) {
    int rc = valid_listed(d, v, s);
    if (rc == 1 && v->type == JSON_NUMBER) rc = valid_number(d, v, s);
    if (rc == 1 && v->type == JSON_STRING) rc = valid_string(d, v, s);
    if (rc == 1 && v->type == JSON_ARRAY) rc = valid_array(d, v, s, depth);
    return rc == 1 && v->type == JSON_OBJECT ? valid_object(d, v, s, depth) : rc;
}

int schema_valid(schema_doc *d, const json *v, const json *s, int depth) {
    if (schema_keywords(d, s)) return -1;
    if (s->type != JSON_OBJECT) return s->type == JSON_TRUE;
    if (depth > 200) return schema_bad(d, s, NULL, "it refers to itself without end");
    const json *target;
    int rc = 1;
    if (json_get(s, "$ref")) rc = schema_resolve(d, s, &target) ? -1 : schema_valid(d, v, target, depth + 1);
    if (rc == 1) rc = schema_valid_alone(d, v, s, depth);
    return rc == 1 ? valid_choices(d, v, s, depth) : rc;
}
