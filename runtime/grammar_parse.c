/* grammar_parse: GBNF, as llama.cpp's users write it (its grammars/README.md), to networks of states. Repetitions and groups are read
 * into a small tree first, because what is repeated is written out as often. It must not know how a grammar is run. */
#include "runtime/grammar_parse.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/grammar.h"

typedef enum { NODE_SEQUENCE, NODE_CHOICE, NODE_LITERAL, NODE_CLASS, NODE_CALL, NODE_REPEAT } node_kind;

typedef struct node {
    node_kind kind;
    struct node *child, *next; /* next: in a sequence or a choice */
    const char *s;             /* literal */
    uint32_t n;                /* bytes, or ranges */
    char_range *ranges;
    uint32_t rule, min, max;   /* max NET_NONE: any number */
} node;

typedef struct parser {
    net *out;
    arena mem;
    const char *s;
    size_t n, at;
    int depth;
    uint32_t *table, table_size; /* names of rules, by hash: rule + 1 */
    size_t *used_at;             /* [rules] where each was named first */
    size_t cap_used;
    err *e;
} parser;

/* ---- errors ---- */

static int bad_at(parser *p, size_t at, const char *what) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at && i < p->n; i++) {
        column = p->s[i] == '\n' ? 1 : column + 1;
        line += p->s[i] == '\n';
    }
    return fail_code(p->e, ERR_INPUT, "grammar, line %zu, column %zu: %s", line, column, what);
}

static int bad(parser *p, const char *what) { return bad_at(p, p->at, what); }

static int no_memory(parser *p) { return fail_memory(p->e, p->mem.used, "a grammar"); }

/* ---- words ---- */

static char peek(const parser *p) { return p->at < p->n ? p->s[p->at] : 0; }

static bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_'; }

static void skip_space(parser *p, bool lines) {
    for (; p->at < p->n; p->at++) {
        char c = p->s[p->at];
        if (c == '#')
            while (p->at + 1 < p->n && p->s[p->at + 1] != '\n' && p->s[p->at + 1] != '\r') p->at++;
        else if (c != ' ' && c != '\t' && (!lines || (c != '\n' && c != '\r'))) return;
    }
}

/* The rule of a name, made where it is new. */
static int find_rule(parser *p, const char *s, size_t n, uint32_t *rule) {
    if (p->out->n_rules * 2 + 8 > p->table_size) {
        uint32_t size = p->table_size ? 2 * p->table_size : 64, *t = calloc(size, sizeof *t);
        if (!t) return no_memory(p);
        for (uint32_t r = 0; r < p->out->n_rules; r++) {
            uint64_t h = hash_bytes(p->out->rule[r].name, strlen(p->out->rule[r].name));
            while (t[h & (size - 1)]) h++;
            t[h & (size - 1)] = r + 1;
        }
        free(p->table);
        p->table = t;
        p->table_size = size;
    }
    uint64_t h = hash_bytes(s, n);
    for (; p->table[h & (p->table_size - 1)]; h++) {
        *rule = p->table[h & (p->table_size - 1)] - 1;
        if (strlen(p->out->rule[*rule].name) == n && memcmp(p->out->rule[*rule].name, s, n) == 0) return 0;
    }
    *rule = net_add_rule(p->out, s, n);
    if (p->out->failed || p->out->too_large) return net_finish(p->out, 0, p->e);
    p->table[h & (p->table_size - 1)] = *rule + 1;
    if (*rule >= p->cap_used) {
        size_t cap = 2 * (size_t)*rule + 64, *more = realloc(p->used_at, cap * sizeof *more);
        if (!more) return no_memory(p);
        p->used_at = more;
        p->cap_used = cap;
    }
    p->used_at[*rule] = (size_t)(s - p->s);
    return 0;
}

static int parse_name(parser *p, uint32_t *rule) {
    size_t from = p->at;
    while (is_word(peek(p))) p->at++;
    if (p->at == from) return bad(p, "expected a rule's name");
    if (p->at - from > 200) return bad_at(p, from, "a name of over 200 characters");
    return find_rule(p, p->s + from, p->at - from, rule);
}

/* ---- characters ---- */

static int parse_hex(parser *p, int digits, uint32_t *c) {
    *c = 0;
    for (int i = 0; i < digits; i++, p->at++) {
        char d = peek(p);
        int v = d >= '0' && d <= '9' ? d - '0' : d >= 'a' && d <= 'f' ? d - 'a' + 10 : d >= 'A' && d <= 'F' ? d - 'A' + 10 : -1;
        if (v < 0)
            return bad(p, digits == 2 ? "\\x needs two hexadecimal digits" : digits == 4 ? "\\u needs four hexadecimal digits"
                                      : "\\U needs eight hexadecimal digits");
        *c = *c << 4 | (uint32_t)v;
    }
    if (*c > 0x10ffff || (*c >= 0xd800 && *c <= 0xdfff)) return bad(p, "an escape beyond Unicode's characters");
    return 0;
}

/* One character, escaped or not. */
static int parse_char(parser *p, uint32_t *c) {
    static const char from[] = "tnr\\\"[]-^'/", to[] = "\t\n\r\\\"[]-^'/";
    int len;
    if (peek(p) != '\\') {
        int32_t v = utf8_decode(p->s + p->at, p->n - p->at, &len);
        if (v < 0) return bad(p, "bytes that are not UTF-8");
        p->at += (size_t)len;
        return *c = (uint32_t)v, 0;
    }
    p->at++;
    char k = peek(p);
    const char *f = k ? strchr(from, k) : NULL;
    if (f) return p->at++, *c = (uint8_t)to[f - from], 0;
    if (k != 'x' && k != 'u' && k != 'U')
        return p->at--, bad(p, "an unknown escape; known are \\n \\r \\t \\\\ \\\" \\[ \\] \\xNN \\uNNNN \\UNNNNNNNN");
    p->at++;
    return parse_hex(p, k == 'x' ? 2 : k == 'u' ? 4 : 8, c);
}

static node *new_node(parser *p, node_kind kind) {
    node *x = arena_alloc(&p->mem, sizeof *x);
    if (x) x->kind = kind;
    else no_memory(p);
    return x;
}

static int parse_literal(parser *p, node **out) {
    buf text = { 0 };
    size_t from = p->at++;
    int rc = 0;
    while (!rc && peek(p) != '"') {
        uint32_t c;
        char bytes[4];
        if (p->at >= p->n || peek(p) == '\n') rc = bad_at(p, from, "a literal without its closing quote");
        else if (!(rc = parse_char(p, &c))) buf_add(&text, bytes, (size_t)utf8_encode(bytes, c));
    }
    p->at++;
    if (!rc && !(*out = new_node(p, NODE_LITERAL))) rc = -1;
    if (!rc) {
        (*out)->n = (uint32_t)text.n;
        (*out)->s = arena_copy(&p->mem, text.p ? text.p : "", text.n);
        if (!(*out)->s || text.failed) rc = no_memory(p);
    }
    buf_free(&text);
    return rc;
}

static int by_low(const void *a, const void *b) {
    const char_range *x = a, *y = b;
    return (x->lo > y->lo) - (x->lo < y->lo);
}

size_t char_ranges_order(char_range *r, size_t n) {
    size_t kept = 0;
    qsort(r, n, sizeof *r, by_low);
    for (size_t i = 0; i < n; i++) {
        if (kept && r[i].lo <= r[kept - 1].hi + 1) {
            if (r[i].hi > r[kept - 1].hi) r[kept - 1].hi = r[i].hi;
        } else r[kept++] = r[i];
    }
    return kept;
}

size_t char_ranges_invert(const char_range *r, size_t n, char_range *out) {
    uint32_t from = 0;
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (r[i].lo > from) out[k++] = (char_range){ from, r[i].lo - 1 };
        from = r[i].hi + 1;
    }
    if (from <= 0x10ffff) out[k++] = (char_range){ from, 0x10ffff };
    return k;
}

static int set_class(parser *p, node *x, buf *ranges, bool negated) {
    size_t n = ranges->n / sizeof(char_range);
    if (ranges->failed) return no_memory(p);
    char_range *sorted = arena_alloc(&p->mem, (n + 1) * sizeof *sorted), *inverse = arena_alloc(&p->mem, (n + 1) * sizeof *sorted);
    if (!sorted || !inverse) return no_memory(p);
    if (n) memcpy(sorted, ranges->p, ranges->n);
    n = char_ranges_order(sorted, n);
    if (negated) n = char_ranges_invert(sorted, n, inverse);
    x->ranges = negated ? inverse : sorted;
    x->n = (uint32_t)n;
    return 0;
}

static int parse_class(parser *p, node **out) {
    buf ranges = { 0 };
    size_t from = p->at++;
    bool negated = peek(p) == '^';
    int rc = 0;
    p->at += negated;
    while (!rc && peek(p) != ']') {
        char_range r;
        if (p->at >= p->n || peek(p) == '\n') rc = bad_at(p, from, "a class without its closing bracket");
        else rc = parse_char(p, &r.lo);
        if (rc) break;
        r.hi = r.lo;
        if (peek(p) == '-' && p->at + 1 < p->n && p->s[p->at + 1] != ']') {
            p->at++;
            if ((rc = parse_char(p, &r.hi))) break;
            if (r.hi < r.lo) rc = bad_at(p, from, "a range whose end lies before its beginning");
        }
        buf_add(&ranges, &r, sizeof r);
    }
    p->at++;
    if (!rc && !ranges.n && !negated) rc = bad_at(p, from, "an empty class, which no character can match");
    if (!rc && !(*out = new_node(p, NODE_CLASS))) rc = -1;
    if (!rc) rc = set_class(p, *out, &ranges, negated);
    if (!rc && (*out)->n == 0) rc = bad_at(p, from, "a class that no character can match");
    buf_free(&ranges);
    return rc;
}

/* ---- expressions ---- */

static int parse_choice(parser *p, bool nested, node **out);

static int parse_count(parser *p, uint32_t *v) {
    size_t from = p->at;
    for (*v = 0; peek(p) >= '0' && peek(p) <= '9'; p->at++) {
        *v = *v * 10 + (uint32_t)(peek(p) - '0');
        if (*v > GRAMMAR_MAX_STATES) return bad_at(p, from, "a repetition of over 262144 times");
    }
    return p->at == from ? bad(p, "expected a number of times, as in {2} or {2,5}") : 0;
}

/* {m}, {m,}, {m,n}, {,n}; the brace is next. */
static int parse_braces(parser *p, uint32_t *min, uint32_t *max) {
    size_t from = p->at++;
    skip_space(p, false);
    *min = 0;
    if (peek(p) != ',' && parse_count(p, min)) return -1;
    *max = *min;
    skip_space(p, false);
    if (peek(p) == ',') {
        p->at++;
        skip_space(p, false);
        *max = NET_NONE;
        if (peek(p) != '}' && parse_count(p, max)) return -1;
        skip_space(p, false);
    }
    if (peek(p) != '}') return bad(p, "expected } behind a number of times");
    p->at++;
    return *max < *min ? bad_at(p, from, "the most times are fewer than the least") : 0;
}

/* Repetitions behind x; several in a row work from the inside out. */
static int parse_repeats(parser *p, bool nested, node **x) {
    for (int layers = 0;; layers++) {
        skip_space(p, nested);
        char c = peek(p);
        uint32_t min = c == '+', max = c == '?' ? 1 : NET_NONE;
        if (c != '*' && c != '+' && c != '?' && c != '{') return 0;
        if (layers == 100) return bad(p, "over 100 repetitions of a repetition");
        if (c == '{') {
            if (parse_braces(p, &min, &max)) return -1;
        } else p->at++;
        node *r = new_node(p, NODE_REPEAT);
        if (!r) return -1;
        r->child = *x;
        r->min = min;
        r->max = max;
        *x = r;
    }
}

static int parse_group(parser *p, node **x) {
    size_t from = p->at++;
    if (p->depth == GRAMMAR_MAX_GROUPS) return bad_at(p, from, "groups nested deeper than 500 levels");
    p->depth++;
    skip_space(p, true);
    if (parse_choice(p, true, x)) return -1;
    p->depth--;
    if (peek(p) != ')') return bad_at(p, from, "a group without its closing parenthesis");
    p->at++;
    return 0;
}

static int parse_element(parser *p, node **x) {
    char c = peek(p);
    if (c == '"') return parse_literal(p, x);
    if (c == '[') return parse_class(p, x);
    if (c == '(') return parse_group(p, x);
    if (c == '<') return bad(p, "tokens by name (<...>) are not supported: a grammar here is over text");
    if (c == '.') {
        p->at++;
        buf none = { 0 };
        return (*x = new_node(p, NODE_CLASS)) ? set_class(p, *x, &none, true) : -1;
    }
    if (!(*x = new_node(p, NODE_CALL))) return -1;
    return parse_name(p, &(*x)->rule);
}

/* Does another rule begin here? A name with ::= behind it. */
static bool at_rule(const parser *p) {
    size_t i = p->at;
    while (i < p->n && is_word(p->s[i])) i++;
    while (i < p->n && (p->s[i] == ' ' || p->s[i] == '\t')) i++;
    return p->n - i >= 3 && memcmp(p->s + i, "::=", 3) == 0;
}

static int parse_sequence(parser *p, bool nested, node **out) {
    node *seq = *out = new_node(p, NODE_SEQUENCE), **last = seq ? &seq->child : NULL;
    while (seq) {
        char c = peek(p);
        if (!(is_word(c) || c == '"' || c == '[' || c == '(' || c == '.' || c == '<') || at_rule(p)) return 0;
        node *x = NULL;
        if (parse_element(p, &x) || parse_repeats(p, nested, &x)) return -1;
        *last = x;
        last = &x->next;
    }
    return -1;
}

static int parse_choice(parser *p, bool nested, node **out) {
    node *choice = *out = new_node(p, NODE_CHOICE), **last = choice ? &choice->child : NULL;
    while (choice) {
        node *x;
        if (parse_sequence(p, nested, &x)) return -1;
        *last = x;
        last = &x->next;
        size_t stop = p->at;
        skip_space(p, true); /* an alternative may stand on a line of its own */
        if (peek(p) != '|') return nested ? 0 : (p->at = stop, 0);
        p->at++;
        skip_space(p, true);
    }
    return -1;
}

/* ---- to states ---- */

static uint32_t emit(net *n, const node *x, uint32_t from);

static bool broken(const net *n) { return n->failed || n->too_large; }

static uint32_t emit_repeat(net *n, const node *x, uint32_t from) {
    uint32_t rule = n->state[from].rule, end = net_add_state(n, rule);
    for (uint32_t i = 0; i < x->min && !broken(n); i++) from = emit(n, x->child, from);
    if (broken(n)) return 0;
    if (x->max == NET_NONE) {
        uint32_t loop = net_add_state(n, rule);
        net_empty(n, from, loop);
        uint32_t back = broken(n) ? 0 : emit(n, x->child, loop);
        net_empty(n, back, loop);
        net_empty(n, loop, end);
        return end;
    }
    for (uint32_t i = x->min; i < x->max && !broken(n); i++) {
        net_empty(n, from, end);
        from = emit(n, x->child, from);
    }
    net_empty(n, from, end);
    return end;
}

static uint32_t emit_choice(net *n, const node *x, uint32_t from) {
    if (x->child && !x->child->next) return emit(n, x->child, from);
    uint32_t rule = n->state[from].rule, end = net_add_state(n, rule);
    for (const node *c = x->child; c && !broken(n); c = c->next) {
        uint32_t begin = net_add_state(n, rule); /* its own: what repeats in one must not lead into another */
        net_empty(n, from, begin);
        if (!broken(n)) net_empty(n, emit(n, c, begin), end);
    }
    return end;
}

/* The states of x behind `from`; the last of them. Depth is bounded by that of groups and repetitions. */
static uint32_t emit(net *n, const node *x, uint32_t from) {
    uint32_t to = from;
    if (broken(n)) return 0;
    switch (x->kind) {
    case NODE_SEQUENCE:
        for (const node *c = x->child; c && !broken(n); c = c->next) to = emit(n, c, to);
        return to;
    case NODE_CHOICE: return emit_choice(n, x, from);
    case NODE_REPEAT: return emit_repeat(n, x, from);
    case NODE_LITERAL: return net_literal(n, from, x->s, x->n);
    case NODE_CALL:
        to = net_add_state(n, n->state[from].rule);
        net_call(n, from, x->rule, to);
        return to;
    case NODE_CLASS:
        to = net_add_state(n, n->state[from].rule);
        net_chars(n, from, x->ranges, x->n, to);
        return to;
    }
    return to;
}

/* ---- rules ---- */

static int parse_rule(parser *p) {
    uint32_t rule;
    size_t from = p->at;
    node *x;
    if (parse_name(p, &rule)) return -1;
    skip_space(p, false);
    if (p->n - p->at < 3 || memcmp(p->s + p->at, "::=", 3) != 0) return bad(p, "expected ::= behind the rule's name");
    p->at += 3;
    if (p->out->rule[rule].defined) return bad_at(p, from, "this rule has been defined before");
    p->out->rule[rule].defined = true;
    skip_space(p, true);
    p->depth = 0;
    if (parse_choice(p, false, &x)) return -1;
    skip_space(p, false);
    if (p->at < p->n && peek(p) != '\n' && peek(p) != '\r' && !at_rule(p))
        return bad(p, peek(p) == ')' ? "a closing parenthesis without its opening one" : "expected an element, | or the end of the line");
    uint32_t end = emit(p->out, x, p->out->rule[rule].start);
    if (!broken(p->out)) net_empty(p->out, end, p->out->rule[rule].end);
    arena_free(&p->mem);
    p->mem = (arena){ .limit = 512 << 20 };
    return broken(p->out) ? net_finish(p->out, 0, p->e) : 0;
}

static int define_outside(parser *p, const gbnf_outside *o, uint32_t rule) {
    int rc = o ? o->define(o->arg, p->out, p->out->rule[rule].name, rule, p->e) : 0;
    if (rc < 0) return -1;
    if (broken(p->out)) return net_finish(p->out, 0, p->e);
    if (rc) p->out->rule[rule].defined = true;
    return 0;
}

static int parse_rules(parser *p, const gbnf_outside *outside, uint32_t *root) {
    skip_space(p, true);
    if (p->at == p->n) return fail_code(p->e, ERR_INPUT, "grammar: it is empty; expected rules such as root ::= \"yes\" | \"no\"");
    while (p->at < p->n) {
        if (parse_rule(p)) return -1;
        skip_space(p, true);
    }
    for (uint32_t r = 0, n = p->out->n_rules; r < n; r++) {
        if (!p->out->rule[r].defined && define_outside(p, outside, r)) return -1;
        if (p->out->rule[r].defined) continue;
        char what[160];
        snprintf(what, sizeof what, "the rule \"%.100s\" is used here, but nothing defines it", p->out->rule[r].name);
        return bad_at(p, p->used_at[r], what);
    }
    if (find_rule(p, "root", 4, root)) return -1;
    return p->out->rule[*root].defined ? 0 : fail_code(p->e, ERR_INPUT, "grammar: there is no rule \"root\", with which every grammar begins");
}

int gbnf_parse(net *out, const char *text, size_t n, const gbnf_outside *outside, err *e) {
    parser p = { .out = out, .mem = { .limit = 512 << 20 }, .s = text, .n = n, .e = e };
    uint32_t root = 0;
    out->space = out->text = NET_NONE;
    int rc = n > GRAMMAR_MAX_TEXT ? fail_code(e, ERR_INPUT, "the grammar has %zu bytes, the most is %d", n, GRAMMAR_MAX_TEXT)
                                  : parse_rules(&p, outside, &root);
    if (!rc) rc = net_finish(out, root, e);
    arena_free(&p.mem);
    free(p.table);
    free(p.used_at);
    return rc;
}
