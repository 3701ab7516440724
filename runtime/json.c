/* json: text to a tree (RFC 8259), without recursion.
 * The open containers stand on an explicit stack of JSON_MAX_DEPTH, so no text can exhaust the machine's.
 * Strings are unescaped into the arena; a lone surrogate escape becomes U+FFFD; raw bytes must be UTF-8.
 * It must not know what any document means. */
#include "runtime/base.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    arena *a;
    const char *s;
    size_t n, at;
    err *e;
} parser;

static int bad(parser *p, const char *what) {
    size_t line = 1;
    for (size_t i = 0; i < p->at && i < p->n; i++) line += p->s[i] == '\n';
    return fail_code(p->e, ERR_INPUT, "not JSON: %s at byte %zu (line %zu)", what, p->at, line);
}

static void skip_space(parser *p) {
    while (p->at < p->n && (p->s[p->at] == ' ' || p->s[p->at] == '\t' || p->s[p->at] == '\n' || p->s[p->at] == '\r')) p->at++;
}

static int hex4(const char *s) {
    int v = 0;
    for (int i = 0; i < 4; i++) {
        char c = s[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return -1;
        v = v << 4 | d;
    }
    return v;
}

/* One \u escape, or two that make a pair; at stands behind "\u". */
static int parse_unicode(parser *p, char out[4], int *len) {
    int c = p->n - p->at >= 4 ? hex4(p->s + p->at) : -1;
    if (c < 0) return bad(p, "a \\u without four hexadecimal digits");
    p->at += 4;
    if (c >= 0xd800 && c <= 0xdbff && p->n - p->at >= 6 && p->s[p->at] == '\\' && p->s[p->at + 1] == 'u') {
        int low = hex4(p->s + p->at + 2);
        if (low >= 0xdc00 && low <= 0xdfff) {
            c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
            p->at += 6;
        }
    }
    *len = utf8_encode(out, (uint32_t)c);
    return 0;
}

static int parse_escape(parser *p, char out[4], int *len) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (p->at >= p->n) return bad(p, "text ends inside a string");
    char c = p->s[p->at++];
    if (c == 'u') return parse_unicode(p, out, len);
    const char *f = c ? strchr(from, c) : NULL;
    if (!f) return bad(p, "an unknown escape in a string");
    out[0] = to[f - from];
    *len = 1;
    return 0;
}

/* A string; at stands on its opening quote. Its bytes never grow by unescaping, so the raw length bounds it. */
static int parse_string(parser *p, const char **out, uint32_t *out_n) {
    size_t start = ++p->at, end = start;
    while (end < p->n && p->s[end] != '"') end += p->s[end] == '\\' ? 2 : 1;
    if (end >= p->n) return bad(p, "text ends inside a string");
    if (end - start > UINT32_MAX) return bad(p, "a string over 4 GiB");
    char *s = arena_alloc(p->a, end - start + 1);
    if (!s) return fail_memory(p->e, end - start, "a JSON string");
    size_t n = 0;
    while (p->at < end) {
        unsigned char c = (unsigned char)p->s[p->at];
        char bytes[4];
        int len;
        if (c == '\\') {
            p->at++;
            if (parse_escape(p, bytes, &len)) return -1;
            memcpy(s + n, bytes, (size_t)len);
        } else {
            if (c < ' ') return bad(p, "a control character in a string");
            if (utf8_decode(p->s + p->at, p->n - p->at, &len) < 0) return bad(p, "bytes that are not UTF-8");
            memcpy(s + n, p->s + p->at, (size_t)len);
            p->at += (size_t)len;
        }
        n += (size_t)len;
    }
    p->at = end + 1;
    *out = s;
    *out_n = (uint32_t)n;
    return 0;
}

static bool digits(parser *p) {
    size_t start = p->at;
    while (p->at < p->n && p->s[p->at] >= '0' && p->s[p->at] <= '9') p->at++;
    return p->at > start;
}

static int parse_number(parser *p, json *j) {
    size_t start = p->at;
    if (p->s[p->at] == '-') p->at++;
    bool zero = p->at < p->n && p->s[p->at] == '0';
    if (!digits(p) || (zero && p->at - start > (p->s[start] == '-' ? 2u : 1u))) return bad(p, "a malformed number");
    if (p->at < p->n && p->s[p->at] == '.') {
        p->at++;
        if (!digits(p)) return bad(p, "a malformed number");
    }
    if (p->at < p->n && (p->s[p->at] == 'e' || p->s[p->at] == 'E')) {
        p->at++;
        if (p->at < p->n && (p->s[p->at] == '+' || p->s[p->at] == '-')) p->at++;
        if (!digits(p)) return bad(p, "a malformed number");
    }
    if (p->at - start > 4096) return bad(p, "a number of over 4096 characters");
    j->type = JSON_NUMBER;
    j->n = (uint32_t)(p->at - start);
    j->s = arena_copy(p->a, p->s + start, p->at - start);
    return j->s ? 0 : fail_memory(p->e, j->n, "a JSON number");
}

static int parse_literal(parser *p, json *j) {
    static const struct { const char *text; json_type type; } words[] = { { "null", JSON_NULL }, { "false", JSON_FALSE }, { "true", JSON_TRUE } };
    for (size_t i = 0; i < 3; i++) {
        size_t n = strlen(words[i].text);
        if (p->n - p->at >= n && memcmp(p->s + p->at, words[i].text, n) == 0) {
            p->at += n;
            j->type = words[i].type;
            return 0;
        }
    }
    return bad(p, "an unexpected character");
}

static int parse_key(parser *p, json *j) {
    if (p->at >= p->n || p->s[p->at] != '"') return bad(p, "expected a name in quotes");
    if (parse_string(p, &j->key, &j->key_n)) return -1;
    skip_space(p);
    if (p->at >= p->n || p->s[p->at] != ':') return bad(p, "expected ':'");
    p->at++;
    skip_space(p);
    return 0;
}

/* A value's beginning: all of it, or the opening bracket of a container. */
static int parse_value(parser *p, json *j) {
    if (p->at >= p->n) return bad(p, "text ends where a value is expected");
    char c = p->s[p->at];
    if (c == '{' || c == '[') {
        p->at++;
        j->type = c == '{' ? JSON_OBJECT : JSON_ARRAY;
        return 0;
    }
    if (c == '"') {
        j->type = JSON_STRING;
        return parse_string(p, &j->s, &j->n);
    }
    return c == '-' || (c >= '0' && c <= '9') ? parse_number(p, j) : parse_literal(p, j);
}

/* Closes containers while brackets close; then steps over the comma. Returns the depth left. */
static int close_containers(parser *p, json **open, int depth, bool *done) {
    for (*done = false;;) {
        skip_space(p);
        if (!depth) return *done = true, 0;
        char c = p->at < p->n ? p->s[p->at] : 0;
        char end = open[depth - 1]->type == JSON_OBJECT ? '}' : ']';
        if (c == ',' && open[depth - 1]->n) return p->at++, depth;
        if (c != end) {
            if (c && !open[depth - 1]->n) return depth; /* the first child follows */
            return bad(p, p->at >= p->n ? "text ends inside an object or array" : "expected ',' or a closing bracket");
        }
        p->at++;
        depth--;
    }
}

int json_parse(arena *a, const char *text, size_t n, json **root, err *e) {
    parser p = { a, text, n, 0, e };
    json *open[JSON_MAX_DEPTH], *last[JSON_MAX_DEPTH]; /* open containers, and the last child of each */
    int depth = 0;
    *root = NULL;
    skip_space(&p);
    for (bool done = false; !done;) {
        json *j = arena_alloc(a, sizeof *j);
        if (!j) return fail_memory(e, sizeof *j, "JSON");
        skip_space(&p);
        if (depth && open[depth - 1]->type == JSON_OBJECT && parse_key(&p, j)) return -1;
        if (parse_value(&p, j)) return -1;
        if (depth) {
            json *parent = open[depth - 1];
            if (parent->n++) last[depth - 1]->next = j;
            else parent->child = j;
            last[depth - 1] = j;
        } else *root = j;
        if (j->type == JSON_OBJECT || j->type == JSON_ARRAY) {
            if (depth == JSON_MAX_DEPTH) return bad(&p, "nested deeper than 128 levels");
            open[depth++] = j;
        }
        depth = close_containers(&p, open, depth, &done);
        if (depth < 0) return -1;
    }
    return p.at < n ? bad(&p, "more text after the value") : 0;
}

const json *json_get(const json *object, const char *key) {
    const json *found = NULL;
    if (!object || object->type != JSON_OBJECT) return NULL;
    size_t n = strlen(key);
    for (const json *j = object->child; j; j = j->next)
        if (j->key_n == n && memcmp(j->key, key, n) == 0) found = j;
    return found;
}

bool json_is(const json *j, const char *text) {
    return j && j->type == JSON_STRING && j->n == strlen(text) && memcmp(j->s, text, j->n) == 0;
}

int json_int(const json *j, int64_t *out) {
    if (!j || j->type != JSON_NUMBER) return -1;
    if (strpbrk(j->s, ".eE")) { /* 1e3 and 8.0 are whole too */
        double x = strtod(j->s, NULL);
        if (!(x >= -9007199254740992.0 && x <= 9007199254740992.0) || x != (double)(int64_t)x) return -1;
        *out = (int64_t)x;
        return 0;
    }
    errno = 0;
    long long v = strtoll(j->s, NULL, 10);
    if (errno) return -1;
    *out = v;
    return 0;
}

int json_num(const json *j, double *out) {
    if (!j || j->type != JSON_NUMBER) return -1;
    *out = strtod(j->s, NULL);
    return 0;
}

const char *json_type_name(const json *j) {
    static const char *const names[] = { "null", "false", "true", "a number", "a string", "an array", "an object" };
    return j ? names[j->type] : "missing";
}

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
