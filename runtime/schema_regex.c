/* schema_regex: patterns (ECMA-262's, the part that is regular) as automata over characters. What Python's re and ECMA's engines read
 * differently is narrowed to what both accept: \d, \w and \s are ASCII's, their negations stay within ASCII, "." is no line end of
 * either. It must not know JSON. */
#include <stdlib.h>
#include <string.h>

#include "runtime/grammar_parse.h"
#include "runtime/schema_parts.h"

enum { MAX_NFA = 20000, MAX_DEPTH = 100, MAX_TIMES = 5000 };

typedef struct parser {
    char_nfa *a;
    const char *s;
    size_t n, at;
    int depth;
    err *e;
} parser;

static int bad(parser *p, const char *what) { return fail_code(p->e, ERR_INPUT, "%s, at byte %zu of the pattern", what, p->at); }

static char peek(const parser *p) { return p->at < p->n ? p->s[p->at] : 0; }

static bool take(parser *p, const char *word) {
    size_t n = strlen(word);
    if (p->n - p->at < n || memcmp(p->s + p->at, word, n) != 0) return false;
    p->at += n;
    return true;
}

/* ---- building ---- */

static uint32_t new_state(char_nfa *a) { return a->n_states++; }

static void add_arc(char_nfa *a, uint8_t kind, uint32_t from, uint32_t to, uint32_t first, uint32_t n) {
    if (a->n_arcs == a->cap_arcs) {
        uint32_t cap = a->cap_arcs ? 2 * a->cap_arcs : 64;
        regex_arc *p = realloc(a->arc, cap * sizeof *p);
        if (!p) {
            a->failed = true;
            return;
        }
        a->arc = p;
        a->cap_arcs = cap;
    }
    a->arc[a->n_arcs++] = (regex_arc){ from, to, first, n, kind };
}

static void empty(char_nfa *a, uint32_t from, uint32_t to) { add_arc(a, REGEX_EMPTY, from, to, 0, 0); }

static void chars(char_nfa *a, uint32_t from, uint32_t to, const char_range *r, size_t n) {
    if (a->cap_ranges - a->n_ranges < n) {
        uint32_t cap = 2 * (a->cap_ranges + (uint32_t)n) + 64;
        char_range *p = realloc(a->range, cap * sizeof *p);
        if (!p) {
            a->failed = true;
            return;
        }
        a->range = p;
        a->cap_ranges = cap;
    }
    if (n) memcpy(a->range + a->n_ranges, r, n * sizeof *r);
    add_arc(a, REGEX_CHARS, from, to, a->n_ranges, (uint32_t)n);
    a->n_ranges += (uint32_t)n;
}

/* ---- characters and classes ---- */

enum { MAX_RANGES = 512 };
typedef struct class {
    char_range r[MAX_RANGES];
    size_t n;
    bool ascii; /* a shorthand is in it: its negation stays within ASCII */
    bool space; /* \s is in it: its negation leaves out what Python calls space as well */
} class;

static int add_range(parser *p, class *c, uint32_t lo, uint32_t hi) {
    if (c->n == MAX_RANGES / 2) return bad(p, "a class of over 256 ranges");
    c->r[c->n++] = (char_range){ lo, hi };
    return 0;
}

static int add_shorthand(parser *p, class *c, char what) {
    static const char_range digit[] = { { '0', '9' } }, word[] = { { '0', '9' }, { 'A', 'Z' }, { '_', '_' }, { 'a', 'z' } },
                            space[] = { { 9, 13 }, { ' ', ' ' } };
    static const char_range not_digit[] = { { 0, 47 }, { 58, 127 } }, not_word[] = { { 0, 47 }, { 58, 64 }, { 91, 94 }, { 96, 96 }, { 123, 127 } };
    static const char_range not_space[] = { { 0, 8 }, { 14, 27 }, { 33, 127 } }; /* Python's spaces have 28 to 31 as well */
    static const struct { char name; const char_range *r; size_t n; } all[] = { { 'd', digit, 1 }, { 'w', word, 4 }, { 's', space, 2 },
                                                                                { 'D', not_digit, 2 }, { 'W', not_word, 5 }, { 'S', not_space, 3 } };
    for (size_t i = 0; i < 6; i++)
        for (size_t k = 0; all[i].name == what && k < all[i].n; k++)
            if (add_range(p, c, all[i].r[k].lo, all[i].r[k].hi)) return -1;
    c->ascii = true;
    c->space |= what == 's';
    return 0;
}

static int parse_hex(parser *p, int digits, uint32_t *c) {
    *c = 0;
    for (int i = 0; i < digits; i++, p->at++) {
        char d = peek(p);
        int v = d >= '0' && d <= '9' ? d - '0' : d >= 'a' && d <= 'f' ? d - 'a' + 10 : d >= 'A' && d <= 'F' ? d - 'A' + 10 : -1;
        if (v < 0) return bad(p, "an escape without its hexadecimal digits");
        *c = *c << 4 | (uint32_t)v;
    }
    return *c >= 0xd800 && *c <= 0xdfff ? bad(p, "surrogates cannot be kept: write the character itself") : 0;
}

/* Behind a backslash: a character, or a shorthand (*kind its letter). */
static int parse_escape(parser *p, uint32_t *c, char *kind, bool in_class) {
    static const char from[] = "tnvfr0", to[] = "\t\n\v\f\r\0";
    char k = peek(p);
    *kind = 0;
    if (k && strchr("dDwWsS", k)) return p->at++, *kind = k, 0;
    const char *f = k ? strchr(from, k) : NULL;
    if (f && !(k == '0' && p->at + 1 < p->n && p->s[p->at + 1] >= '0' && p->s[p->at + 1] <= '9')) return p->at++, *c = (uint8_t)to[f - from], 0;
    if (k == 'x') return p->at++, parse_hex(p, 2, c);
    if (k == 'u') return p->at++, parse_hex(p, 4, c);
    if (k == 'b' && in_class) return p->at++, *c = 8, 0;
    if (k == 'p' || k == 'P') return bad(p, "Unicode classes (\\p) cannot be kept");
    if (k == 'b' || k == 'B') return bad(p, "word boundaries cannot be kept");
    if ((k >= '0' && k <= '9') || k == 'k') return bad(p, "back references cannot be kept");
    if (!k || (k >= 'a' && k <= 'z') || (k >= 'A' && k <= 'Z') || (k & 0x80)) return bad(p, "an unknown escape");
    return p->at++, *c = (uint8_t)k, 0;
}

static int parse_char(parser *p, uint32_t *c, char *kind, bool in_class) {
    int len;
    *kind = 0;
    if (peek(p) == '\\') return p->at++, parse_escape(p, c, kind, in_class);
    int32_t v = utf8_decode(p->s + p->at, p->n - p->at, &len);
    if (v < 0) return bad(p, "bytes that are not UTF-8");
    p->at += (size_t)len;
    return *c = (uint32_t)v, 0;
}

static void invert(class *c) {
    char_range out[MAX_RANGES + 1];
    size_t n = char_ranges_invert(c->r, c->n, out), kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (c->ascii && out[i].lo > 127) continue;
        if (c->ascii && out[i].hi > 127) out[i].hi = 127;
        c->r[kept++] = out[i];
    }
    c->n = kept;
}

/* The opening bracket has been taken. */
static int parse_class(parser *p, class *c) {
    bool negated = take(p, "^");
    *c = (class){ .n = 0 };
    while (peek(p) != ']') {
        uint32_t lo, hi;
        char kind;
        if (p->at >= p->n) return bad(p, "a class without its closing bracket");
        if (parse_char(p, &lo, &kind, true)) return -1;
        if (kind) {
            if (add_shorthand(p, c, kind)) return -1;
            continue;
        }
        hi = lo;
        if (peek(p) == '-' && p->at + 1 < p->n && p->s[p->at + 1] != ']') {
            p->at++;
            if (parse_char(p, &hi, &kind, true)) return -1;
            if (kind || hi < lo) return bad(p, "a range that is none");
        }
        if (add_range(p, c, lo, hi)) return -1;
    }
    p->at++;
    if (negated && c->space && add_range(p, c, 28, 31)) return -1;
    c->n = char_ranges_order(c->r, c->n);
    if (negated) invert(c);
    return 0;
}

/* ---- expressions: each takes a state and gives the one behind ---- */

static int parse_choice(parser *p, uint32_t from, uint32_t *to);

static int parse_group(parser *p, uint32_t from, uint32_t *to) {
    if (take(p, "?")) {
        if (peek(p) == '=' || peek(p) == '!' || (peek(p) == '<' && p->at + 1 < p->n && (p->s[p->at + 1] == '=' || p->s[p->at + 1] == '!')))
            return bad(p, "look-ahead and look-behind cannot be kept");
        if (take(p, "<")) {
            while (p->at < p->n && peek(p) != '>') p->at++;
            p->at++;
        } else if (!take(p, ":")) return bad(p, "an unknown kind of group");
    }
    if (++p->depth > MAX_DEPTH) return bad(p, "groups nested deeper than 100 levels");
    if (parse_choice(p, from, to)) return -1;
    p->depth--;
    return take(p, ")") ? 0 : bad(p, "a group without its closing parenthesis");
}

static int parse_atom(parser *p, uint32_t from, uint32_t *to) {
    class c = { .n = 0 };
    uint32_t v;
    char kind = 0;
    if (p->a->n_states > MAX_NFA || p->a->failed) return bad(p, "a pattern that is too large");
    if (take(p, "(")) return parse_group(p, from, to);
    *to = new_state(p->a);
    if (take(p, "^")) return add_arc(p->a, REGEX_START, from, *to, 0, 0), 0;
    if (take(p, "$")) return add_arc(p->a, REGEX_END, from, *to, 0, 0), 0;
    if (take(p, ".")) {
        static const char_range not_line[] = { { 0, 9 }, { 11, 12 }, { 14, 0x2027 }, { 0x202a, 0x10ffff } };
        return chars(p->a, from, *to, not_line, 4), 0;
    }
    if (take(p, "[")) {
        if (parse_class(p, &c)) return -1;
        return chars(p->a, from, *to, c.r, c.n), 0;
    }
    if (peek(p) && strchr("*+?{}])", peek(p)))
        return bad(p, peek(p) == ')' ? "a closing parenthesis without its opening one"
                                     : "a sign of repetition with nothing to repeat, or one that needs a backslash");
    if (parse_char(p, &v, &kind, false)) return -1;
    if (kind) {
        if (add_shorthand(p, &c, kind)) return -1;
    } else c.r[c.n++] = (char_range){ v, v };
    return chars(p->a, from, *to, c.r, c.n), 0;
}

static int parse_number(parser *p, uint32_t *v) {
    size_t from = p->at;
    for (*v = 0; peek(p) >= '0' && peek(p) <= '9'; p->at++)
        if ((*v = *v * 10 + (uint32_t)(peek(p) - '0')) > MAX_TIMES) return bad(p, "a repetition of over 5000 times");
    return p->at == from ? bad(p, "a brace that is no repetition needs a backslash") : 0;
}

/* Is a repetition next? */
static int parse_times(parser *p, uint32_t *min, uint32_t *max) {
    *min = *max = 1;
    if (take(p, "*")) *min = 0, *max = NET_NONE;
    else if (take(p, "+")) *max = NET_NONE;
    else if (take(p, "?")) *min = 0;
    else if (take(p, "{")) {
        if (parse_number(p, min)) return -1;
        *max = *min;
        if (take(p, ",")) {
            *max = NET_NONE;
            if (peek(p) != '}' && parse_number(p, max)) return -1;
        }
        if (!take(p, "}") || *max < *min) return bad(p, "a malformed repetition");
    } else return 0;
    take(p, "?"); /* which of the matches is found does not matter */
    return 0;
}

/* The atom at `at` once more. */
static int again(parser *p, size_t at, uint32_t from, uint32_t *to) {
    size_t behind = p->at;
    p->at = at;
    int rc = parse_atom(p, from, to);
    p->at = behind;
    return rc;
}

static int parse_repeated(parser *p, uint32_t from, uint32_t *to) {
    size_t at = p->at;
    uint32_t begin = new_state(p->a), end, min, max;
    if (parse_atom(p, begin, &end) || parse_times(p, &min, &max)) return -1;
    if (min == 1 && max == 1) return empty(p->a, from, begin), *to = end, 0;
    if (max == 0) return *to = from, 0; /* what was read leads nowhere */
    uint32_t behind = new_state(p->a);
    empty(p->a, from, begin);
    if (min == 0) empty(p->a, from, behind);
    for (uint32_t i = 1; i < min || (max != NET_NONE && i < max); i++) {
        if (i >= min) empty(p->a, end, behind);
        if (again(p, at, end, &end)) return -1;
    }
    empty(p->a, end, behind);
    if (max == NET_NONE) {
        uint32_t loop = new_state(p->a), back;
        empty(p->a, end, loop);
        if (again(p, at, loop, &back)) return -1;
        empty(p->a, back, loop);
        empty(p->a, back, behind);
    }
    return *to = behind, 0;
}

static int parse_choice(parser *p, uint32_t from, uint32_t *to) {
    *to = new_state(p->a);
    do {
        uint32_t at = from;
        while (p->at < p->n && peek(p) != '|' && peek(p) != ')')
            if (parse_repeated(p, at, &at)) return -1;
        empty(p->a, at, *to);
    } while (take(p, "|"));
    return 0;
}

/* Arcs in the order of their states. */
static void sort_arcs(char_nfa *a) {
    uint32_t *first = calloc(a->n_states + 2, sizeof *first);
    regex_arc *to = malloc((a->n_arcs + 1) * sizeof *to);
    if (first && to) {
        for (uint32_t i = 0; i < a->n_arcs; i++) first[a->arc[i].from + 2]++;
        for (uint32_t s = 2; s < a->n_states + 2; s++) first[s] += first[s - 1];
        for (uint32_t i = 0; i < a->n_arcs; i++) to[first[a->arc[i].from + 1]++] = a->arc[i];
        free(a->arc);
        a->arc = to;
        a->first = first;
        return;
    }
    free(first);
    free(to);
    a->failed = true;
}

int char_nfa_parse(char_nfa *a, const char *pattern, size_t n, err *e) {
    static const char_range any = { 0, 0x10ffff };
    *a = (char_nfa){ 0 };
    parser p = { .a = a, .s = pattern, .n = n, .e = e };
    uint32_t begin, end;
    a->start = new_state(a);
    begin = new_state(a);
    chars(a, a->start, a->start, &any, 1); /* what lies before it, and behind */
    empty(a, a->start, begin);
    if (parse_choice(&p, begin, &end)) return -1;
    if (p.at < n) return bad(&p, "a closing parenthesis without its opening one");
    a->match = new_state(a);
    empty(a, end, a->match);
    chars(a, a->match, a->match, &any, 1);
    sort_arcs(a);
    return a->failed ? fail_memory(e, a->n_arcs * sizeof *a->arc, "a pattern") : 0;
}

void char_nfa_free(char_nfa *a) {
    free(a->arc);
    free(a->range);
    free(a->first);
    *a = (char_nfa){ 0 };
}

/* ---- formats ---- */

#define D "[0-9]"
#define DATE "(?:(?:000[1-9]|00[1-9]" D "|0[1-9]" D D "|[1-9]" D D D ")-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]" D "|3[01])" \
    "|(?:0[469]|11)-(?:0[1-9]|[12]" D "|30)|02-(?:0[1-9]|1" D "|2[0-8]))" \
    "|(?:" D D "(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29)"
#define TIME "(?:[01]" D "|2[0-3]):[0-5]" D ":[0-5]" D "(?:\\." D "{1,6})?(?:Z|[+-](?:[01]" D "|2[0-3]):[0-5]" D ")"
#define OCTET "(?:25[0-5]|2[0-4]" D "|1" D D "|[1-9]?" D ")"
#define HEX4 "[0-9a-fA-F]{1,4}"

const char *format_pattern(const char *format) {
    static const struct { const char *name, *pattern; } formats[] = {
        { "date", "^" DATE "$" },
        { "time", "^" TIME "$" },
        { "date-time", "^" DATE "T" TIME "$" },
        { "uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$" },
        { "email", "^[A-Za-z0-9_+-]{1,20}(?:\\.[A-Za-z0-9_+-]{1,20}){0,2}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
                   "(?:\\.[A-Za-z](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?){1,3}$" },
        { "ipv4", "^" OCTET "(?:\\." OCTET "){3}$" },
        { "ipv6", "^(?:(?:" HEX4 ":){7}" HEX4 "|(?:" HEX4 ":){1,6}:" HEX4 "|(?:" HEX4 ":){1,5}(?::" HEX4 "){2}"
                  "|(?:" HEX4 ":){1,4}(?::" HEX4 "){2,3}|(?:" HEX4 ":){1,3}(?::" HEX4 "){2,4}"
                  "|(?:" HEX4 ":){1,2}(?::" HEX4 "){2,5}|" HEX4 ":(?::" HEX4 "){2,6}|:(?::" HEX4 "){1,7}|(?:" HEX4 ":){1,7}:|::)$" },
        { "uri", "^[a-z][a-z0-9+.-]{1,15}://[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
                 "(?:\\.[A-Za-z](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?){0,3}(?::[1-9]" D "{0,3})?"
                 "(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]*)*(?:\\?[A-Za-z0-9._~!$&'()*+,;=:@/?-]*)?"
                 "(?:#[A-Za-z0-9._~!$&'()*+,;=:@/?-]*)?$" },
        { "hostname", "^[A-Za-z](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?(?:\\.[A-Za-z](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?){0,3}$" },
    };
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(formats[i].name, format) == 0) return formats[i].pattern;
    return NULL;
}
