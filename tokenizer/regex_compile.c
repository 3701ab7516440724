/* regex_compile: a pattern to code, in one pass without a tree.
 * Its one idea: all jumps are relative, so a finished piece of code can be moved (to put a SPLIT before it) or copied (to repeat
 * it). Patterns come from files: depth, size and repetition are bounded, and what is not supported is refused by its name. */
#include "tokenizer/regex_code.h"

#include <stdlib.h>
#include <string.h>

struct parser {
    regex *r;
    const char *s;
    size_t n, at;
    size_t cap_code, cap_sets;
    int depth;
    bool icase;
    err *e;
};

static int refuse(struct parser *p, const char *what) {
    return fail_code(p->e, ERR_INPUT, "regular expression: %s at byte %zu of \"%.*s\"", what, p->at, (int)(p->n < 200 ? p->n : 200),
                     p->s);
}

static int out_of_memory(struct parser *p) { return fail_memory(p->e, p->n, "a regular expression"); }

/* ---- code ---- */

static int emit(struct parser *p, struct re_ins i) {
    regex *r = p->r;
    if (r->n_code >= RE_MAX_CODE) return refuse(p, "too large when its repetitions are written out");
    if (r->n_code == p->cap_code) {
        size_t cap = p->cap_code * 2;
        struct re_ins *c = realloc(r->code, cap * sizeof *c);
        if (!c) return out_of_memory(p);
        r->code = c;
        p->cap_code = cap;
    }
    r->code[r->n_code++] = i;
    return 0;
}

static int insert(struct parser *p, size_t at, struct re_ins i) {
    if (emit(p, i)) return -1;
    memmove(p->r->code + at + 1, p->r->code + at, (p->r->n_code - 1 - at) * sizeof i);
    p->r->code[at] = i;
    return 0;
}

/* ---- sets ---- */

static struct re_set *set_new(struct parser *p, uint16_t *index) {
    regex *r = p->r;
    if (r->n_sets == p->cap_sets) {
        size_t cap = p->cap_sets * 2;
        struct re_set *s = cap > UINT16_MAX ? NULL : realloc(r->sets, cap * sizeof *s);
        if (!s) return out_of_memory(p), NULL;
        r->sets = s;
        p->cap_sets = cap;
    }
    *index = (uint16_t)r->n_sets;
    r->sets[r->n_sets] = (struct re_set){ 0 };
    return r->sets + r->n_sets++;
}

static int set_range(struct parser *p, uint16_t index, uint32_t first, uint32_t last) {
    struct re_set *s = p->r->sets + index;
    for (uint32_t c = first; c <= last && c < 128; c++) s->ascii[c] = 1;
    if (last < 128) return 0;
    if ((s->n_range & (s->n_range - 1)) == 0) { /* grows at powers of two */
        struct re_range *more = arena_alloc(&p->r->mem, (s->n_range ? s->n_range * 2 : 1) * sizeof *more);
        if (!more) return out_of_memory(p);
        if (s->n_range) memcpy(more, s->range, s->n_range * sizeof *more);
        s->range = more;
    }
    s->range[s->n_range++] = (struct re_range){ first < 128 ? 128 : first, last };
    return 0;
}

/* A character and, where case does not matter, its other forms (simple folding; U+017F and U+212A fold to s and k). */
static int set_char(struct parser *p, uint16_t index, uint32_t c) {
    if (set_range(p, index, c, c)) return -1;
    if (!p->icase) return 0;
    int n;
    const uint32_t *lower = uni_lower_of(c, &n);
    uint32_t base = lower && n == 1 ? lower[0] : c == 0x17f ? 's' : c;
    if (base != c && set_range(p, index, base, base)) return -1;
    if (base == 's' && set_range(p, index, 0x17f, 0x17f)) return -1;
    for (int i = 0; i < uni_lower_n; i++)
        if (uni_lower[i].n == 1 && uni_pool[uni_lower[i].at] == base && set_range(p, index, uni_lower[i].from, uni_lower[i].from))
            return -1;
    return 0;
}

static int set_span(struct parser *p, uint16_t index, uint32_t first, uint32_t last) {
    if (!p->icase) return set_range(p, index, first, last);
    if (last - first > 0x400) return refuse(p, "a range of over 1024 characters without regard to case is not supported");
    for (uint32_t c = first; c <= last; c++)
        if (set_char(p, index, c)) return -1;
    return 0;
}

static void set_categories(struct re_set *s, uint32_t categories) {
    s->categories |= categories;
    for (uint32_t c = 0; c < 128; c++) s->ascii[c] |= (uint8_t)uni_in(c, categories);
}

static void set_property(struct re_set *s, uint8_t bit, bool negated) {
    if (negated) s->none |= bit;
    else s->any |= bit;
    for (uint32_t c = 0; c < 128; c++) s->ascii[c] |= (uint8_t)(!!(uni_of(c) & bit) != negated);
}

static void set_negate(struct re_set *s) {
    s->negated = !s->negated;
    for (int c = 0; c < 128; c++) s->ascii[c] = !s->ascii[c];
}

static int set_inner(struct parser *p, uint16_t index, uint16_t inner) {
    struct re_set *s = p->r->sets + index, *in = p->r->sets + inner;
    uint16_t *more = arena_alloc(&p->r->mem, (s->n_inner + 1) * sizeof *more);
    if (!more) return out_of_memory(p);
    if (s->n_inner) memcpy(more, s->inner, s->n_inner * sizeof *more);
    s->inner = more;
    s->inner[s->n_inner++] = inner;
    for (int c = 0; c < 128; c++) s->ascii[c] |= in->ascii[c];
    return 0;
}

/* The categories of a name such as L, Lu or Letter; 0: unknown. */
static uint32_t categories_of(const char *name, size_t n) {
    static const char codes[] = "LuLlLtLmLoMnMcMeNdNlNoPcPdPsPePiPfPoSmScSkSoZsZlZpCcCfCsCoCn";
    static const char *const words[][2] = { { "Letter", "L" },
                                            { "Mark", "M" },
                                            { "Number", "N" },
                                            { "Punctuation", "P" },
                                            { "Punct", "P" },
                                            { "Symbol", "S" },
                                            { "Separator", "Z" },
                                            { "Other", "C" },
                                            { "Uppercase_Letter", "Lu" },
                                            { "Lowercase_Letter", "Ll" },
                                            { "Decimal_Number", "Nd" },
                                            { "Digit", "Nd" } };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strlen(words[i][0]) == n && memcmp(words[i][0], name, n) == 0) name = words[i][1], n = strlen(name);
    uint32_t mask = 0;
    for (int k = 0; k < UNI_CATEGORIES && (n == 1 || n == 2); k++)
        if (codes[2 * k] == name[0] && (n == 1 || codes[2 * k + 1] == name[1])) mask |= 1u << k;
    return mask;
}

static int parse_property(struct parser *p, uint16_t index, bool negated) {
    size_t end = p->at;
    if (end >= p->n || p->s[end] != '{') return refuse(p, "\\p without {name}");
    while (end < p->n && p->s[end] != '}') end++;
    if (end == p->n) return refuse(p, "\\p without {name}");
    const char *name = p->s + p->at + 1;
    size_t n = (size_t)(p->s + end - name);
    if (n && *name == '^') name++, n--, negated = !negated;
    uint32_t mask = categories_of(name, n);
    if (!mask) return refuse(p, "an unknown or unsupported property name in \\p{...}");
    p->at = end + 1;
    set_categories(p->r->sets + index, negated ? ~mask & ((1u << UNI_CATEGORIES) - 1) : mask);
    return 0;
}

static int parse_hex(struct parser *p, size_t least, size_t most, uint32_t *out) {
    size_t k = 0;
    for (*out = 0; k < most && p->at < p->n; k++, p->at++) {
        char c = p->s[p->at];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) break;
        *out = *out << 4 | (uint32_t)d;
    }
    return k < least || *out > 0x10ffff ? refuse(p, "a malformed hexadecimal escape") : 0;
}

/* \w: outside of a class Oniguruma counts the superscripts and fractions of Latin-1 as word characters too (and so do \b and \B).
 */
static int set_word(struct parser *p, uint16_t index, bool in_class) {
    set_property(p->r->sets + index, UNI_WORD, false);
    if (in_class) return 0;
    return set_range(p, index, 0xb2, 0xb3) || set_range(p, index, 0xb9, 0xb9) || set_range(p, index, 0xbc, 0xbe) ? -1 : 0;
}

/* After a backslash: 1 and a character, or 0 and a class added to the set. */
static int parse_escape(struct parser *p, uint16_t index, bool in_class, uint32_t *out) {
    static const char from[] = "tnrfvae", to[] = "\t\n\r\f\v\a\x1b";
    if (p->at >= p->n) return refuse(p, "a backslash at the end");
    char c = p->s[p->at++];
    const char *f = strchr(from, c);
    struct re_set *s = p->r->sets + index;
    if (c && f) return *out = (uint32_t)to[f - from], 1;
    switch (c) {
    case 'p':
        return parse_property(p, index, false);
    case 'P':
        return parse_property(p, index, true);
    case 's':
    case 'S':
        return set_property(s, UNI_SPACE, c == 'S'), 0;
    case 'd':
        set_categories(s, 1u << UNI_ND);
        return 0;
    case 'D':
        set_categories(s, ~(1u << UNI_ND) & ((1u << UNI_CATEGORIES) - 1));
        return 0;
    case 'w':
        return set_word(p, index, in_class);
    case 'W': {
        uint16_t inner;
        if (!set_new(p, &inner) || set_word(p, inner, in_class)) return -1;
        set_negate(p->r->sets + inner);
        return set_inner(p, index, inner);
    }
    case 'u':
        return parse_hex(p, 4, 4, out) ? -1 : 1;
    case 'x':
        if (p->at < p->n && p->s[p->at] == '{') {
            p->at++;
            if (parse_hex(p, 1, 8, out)) return -1;
            if (p->at >= p->n || p->s[p->at++] != '}') return refuse(p, "\\x{ without }");
            return 1;
        }
        return parse_hex(p, 1, 2, out) ? -1 : 1;
    default:
        break;
    }
    bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (word) return p->at--, refuse(p, "an unsupported escape");
    int len;
    *out = utf8_next(p->s + --p->at, &len);
    p->at += (size_t)len;
    return 1;
}

/* One character of a class, or 0 for a class within it that was added. */
static int class_item(struct parser *p, uint16_t index, uint32_t *out) {
    int len;
    if (p->s[p->at] == '\\') {
        p->at++;
        if (p->at < p->n && p->s[p->at] == 'b') return p->at++, *out = '\b', 1;
        return parse_escape(p, index, true, out);
    }
    *out = utf8_next(p->s + p->at, &len);
    p->at += (size_t)len;
    return 1;
}

/* A class; at stands behind its '['. */
static int parse_class(struct parser *p, uint16_t *index) {
    if (!set_new(p, index)) return -1;
    if (++p->depth > RE_MAX_DEPTH) return refuse(p, "nested too deeply");
    bool negated = p->at < p->n && p->s[p->at] == '^';
    p->at += negated;
    for (bool first = true;; first = false) {
        if (p->at >= p->n) return refuse(p, "[ without ]");
        char c = p->s[p->at];
        uint32_t low, high;
        if (c == ']' && !first) break;
        if (c == '&' && p->at + 1 < p->n && p->s[p->at + 1] == '&') return refuse(p, "&& in a class is not supported");
        if (c == '[') {
            uint16_t inner;
            p->at++;
            if (p->at < p->n && p->s[p->at] == ':') return refuse(p, "a POSIX class is not supported");
            if (parse_class(p, &inner) || set_inner(p, *index, inner)) return -1;
            continue;
        }
        int one = class_item(p, *index, &low);
        if (one < 0) return -1;
        if (!one) continue;
        high = low;
        if (p->at + 1 < p->n && p->s[p->at] == '-' && p->s[p->at + 1] != ']') {
            p->at++;
            if (p->s[p->at] == '[' || class_item(p, *index, &high) != 1 || high < low) return refuse(p, "a malformed range");
        }
        if (set_span(p, *index, low, high)) return -1;
    }
    p->at++;
    p->depth--;
    if (negated) set_negate(p->r->sets + *index);
    return 0;
}

/* ---- atoms, repetition, alternatives. `least` is the least number of characters the piece matches: 0 or 1 stands for more ---- */

static int parse_alternatives(struct parser *p, int *least, bool top);

static int emit_char(struct parser *p, uint32_t c) {
    if (!p->icase) return emit(p, (struct re_ins){ .op = RE_CHAR, .x = (int32_t)c });
    uint16_t index;
    if (!set_new(p, &index) || set_char(p, index, c)) return -1;
    return emit(p, (struct re_ins){ .op = RE_SET, .set = index });
}

static int close_group(struct parser *p) {
    if (p->at >= p->n || p->s[p->at] != ')') return refuse(p, "( without )");
    p->at++;
    return 0;
}

static int parse_ahead(struct parser *p, int mode, int *least) {
    size_t start = p->r->n_code;
    int inner;
    if (emit(p, (struct re_ins){ .op = RE_LOOK, .mode = (uint8_t)mode }) || parse_alternatives(p, &inner, false) || close_group(p))
        return -1;
    if (emit(p, (struct re_ins){ .op = RE_MATCH })) return -1;
    p->r->code[start].x = (int32_t)(p->r->n_code - start);
    *least = mode == RE_ATOMIC ? inner : 0;
    return 0;
}

static int parse_behind(struct parser *p, int mode) {
    size_t start = p->r->n_code;
    int inner;
    if (parse_alternatives(p, &inner, false) || close_group(p)) return -1;
    struct re_ins *body = p->r->code + start;
    uint16_t index;
    if (p->r->n_code != start + 1 || (body->op != RE_SET && body->op != RE_CHAR))
        return refuse(p, "a look-behind of anything but one character is not supported");
    if (body->op == RE_CHAR) {
        uint32_t c = (uint32_t)body->x;
        if (!set_new(p, &index) || set_range(p, index, c, c)) return -1;
        p->r->code[start].set = index;
    }
    p->r->code[start].op = RE_BEHIND;
    p->r->code[start].mode = (uint8_t)mode;
    return 0;
}

static bool starts(struct parser *p, const char *what) {
    size_t n = strlen(what);
    if (p->n - p->at < n || memcmp(p->s + p->at, what, n) != 0) return false;
    p->at += n;
    return true;
}

/* A group; at stands behind its '('. */
static int parse_group(struct parser *p, int *least) {
    bool icase = p->icase;
    *least = 0;
    if (starts(p, "?=")) return parse_ahead(p, RE_GREEDY, least);
    if (starts(p, "?!")) return parse_ahead(p, RE_NOT, least);
    if (starts(p, "?>")) return parse_ahead(p, RE_ATOMIC, least);
    if (starts(p, "?<=")) return parse_behind(p, RE_GREEDY);
    if (starts(p, "?<!")) return parse_behind(p, RE_NOT);
    if (starts(p, "?i)")) return p->icase = true, 0; /* to the end of the enclosing group */
    if (starts(p, "?i:")) p->icase = true;
    else if (starts(p, "?-i:")) p->icase = false;
    else if (!starts(p, "?:") && p->at < p->n && p->s[p->at] == '?') return refuse(p, "an unsupported kind of group");
    if (parse_alternatives(p, least, false)) return -1;
    p->icase = icase;
    return close_group(p);
}

static int parse_edge(struct parser *p, char c) {
    int op = c == 'A' ? RE_TEXT_START : c == 'z' ? RE_TEXT_END : c == 'Z' ? RE_LAST_END : RE_WORD_EDGE;
    p->at += 2;
    return emit(p, (struct re_ins){ .op = (uint8_t)op, .mode = c == 'B' ? RE_NOT : RE_GREEDY });
}

static int parse_atom(struct parser *p, int *least) {
    char c = p->s[p->at];
    uint16_t index;
    uint32_t one;
    int len;
    *least = 1;
    if (c == '(') {
        p->at++;
        if (++p->depth > RE_MAX_DEPTH) return refuse(p, "nested too deeply");
        int rc = parse_group(p, least);
        p->depth--;
        return rc;
    }
    if (c == '[') {
        p->at++;
        return parse_class(p, &index) ? -1 : emit(p, (struct re_ins){ .op = RE_SET, .set = index });
    }
    if (c == '^' || c == '$') {
        *least = 0;
        p->at++;
        return emit(p, (struct re_ins){ .op = c == '^' ? RE_LINE_START : RE_LINE_END });
    }
    if (c == '\\' && p->at + 1 < p->n && strchr("AzZbB", p->s[p->at + 1])) return *least = 0, parse_edge(p, p->s[p->at + 1]);
    if (strchr("*+?", c)) return refuse(p, "nothing to repeat");
    if (c == '\\' || c == '.') {
        p->at++;
        if (!set_new(p, &index)) return -1;
        int kind =
            c == '\\' ? parse_escape(p, index, false, &one) : (set_range(p, index, '\n', '\n'), set_negate(p->r->sets + index), 0);
        if (kind == 1) p->r->n_sets--; /* a plain character: its set is not needed */
        return kind < 0 ? -1 : kind ? emit_char(p, one) : emit(p, (struct re_ins){ .op = RE_SET, .set = index });
    }
    one = utf8_next(p->s + p->at, &len);
    p->at += (size_t)len;
    return emit_char(p, one);
}

static bool parse_count(struct parser *p, uint32_t *out) {
    size_t start = p->at;
    for (*out = 0; p->at < p->n && p->s[p->at] >= '0' && p->s[p->at] <= '9'; p->at++)
        if (*out <= RE_MAX_REPEAT) *out = *out * 10 + (uint32_t)(p->s[p->at] - '0');
    return p->at > start;
}

/* A quantifier at `at`: 1 and its bounds and mode; 0: there is none. A brace that is no interval is a character. */
static int parse_quantifier(struct parser *p, uint32_t *min, uint32_t *max, int *mode) {
    char c = p->at < p->n ? p->s[p->at] : 0;
    size_t start = p->at;
    if (!c || !strchr("*+?{", c)) return 0;
    p->at++;
    *min = c == '+';
    *max = c == '?' ? 1 : UINT32_MAX;
    if (c == '{') {
        bool low = parse_count(p, min), comma = p->at < p->n && p->s[p->at] == ',';
        p->at += comma;
        bool high = comma && parse_count(p, max);
        if (!low) *min = 0;
        if (!high) *max = comma ? UINT32_MAX : *min;
        if ((!low && !high) || p->at >= p->n || p->s[p->at] != '}') return p->at = start, 0;
        p->at++;
        if (*min > RE_MAX_REPEAT || (*max != UINT32_MAX && *max > RE_MAX_REPEAT) || *max < *min)
            return refuse(p, "a repetition out of order or over 1000");
    }
    *mode = RE_GREEDY;
    char next = p->at < p->n ? p->s[p->at] : 0;
    if (c == '{' && next && strchr("+?*", next)) return refuse(p, "a quantifier behind {m,n} is not supported");
    if (next == '?') *mode = RE_LAZY;
    if (next == '+') *mode = RE_POSSESSIVE;
    p->at += *mode != RE_GREEDY;
    if (p->at < p->n && strchr("*+?", p->s[p->at])) return refuse(p, "a quantifier of a quantifier is not supported");
    return 1;
}

static int copy_code(struct parser *p, const struct re_ins *body, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (emit(p, body[i])) return -1;
    return 0;
}

/* Repeats the piece at code[start ..] by writing it out: min times, then as an option or a loop. */
static int repeat_piece(struct parser *p, size_t start, uint32_t min, uint32_t max, int mode) {
    size_t n = p->r->n_code - start;
    struct re_ins *body = malloc((n ? n : 1) * sizeof *body);
    if (!body) return out_of_memory(p);
    if (n) memcpy(body, p->r->code + start, n * sizeof *body);
    p->r->n_code = start;
    int rc = 0;
    uint8_t m = mode == RE_LAZY ? RE_LAZY : RE_GREEDY;
    if (mode == RE_POSSESSIVE) rc = emit(p, (struct re_ins){ .op = RE_LOOK, .mode = RE_ATOMIC });
    for (uint32_t i = 0; i < min && !rc; i++) rc = copy_code(p, body, n);
    if (max == UINT32_MAX && !rc) {
        rc = emit(p, (struct re_ins){ .op = RE_SPLIT, .mode = m, .x = (int32_t)n + 2 });
        if (!rc) rc = copy_code(p, body, n);
        if (!rc) rc = emit(p, (struct re_ins){ .op = RE_JUMP, .x = -(int32_t)n - 1 });
    }
    for (uint32_t left = max == UINT32_MAX ? 0 : max - min; left && !rc; left--) { /* x{0,3} is (x(x(x)?)?)? */
        rc = emit(p, (struct re_ins){ .op = RE_SPLIT, .mode = m, .x = (int32_t)((n + 1) * left) });
        if (!rc) rc = copy_code(p, body, n);
    }
    if (mode == RE_POSSESSIVE && !rc) {
        rc = emit(p, (struct re_ins){ .op = RE_MATCH });
        p->r->code[start].x = (int32_t)(p->r->n_code - start);
    }
    free(body);
    return rc;
}

static int parse_repeated(struct parser *p, int *least) {
    size_t start = p->r->n_code;
    uint32_t min, max;
    int mode = RE_GREEDY;
    if (parse_atom(p, least)) return -1;
    int some = parse_quantifier(p, &min, &max, &mode);
    if (some <= 0) return some;
    struct re_ins *only = p->r->code + start;
    bool single = p->r->n_code == start + 1 && (only->op == RE_SET || only->op == RE_CHAR);
    if (!single && !*least) return refuse(p, "a repetition of what may be empty is not supported");
    if (!min) *least = 0;
    if (!single) return repeat_piece(p, start, min, max, mode);
    if (only->op == RE_CHAR) {
        uint16_t index;
        uint32_t c = (uint32_t)only->x;
        if (!set_new(p, &index) || set_range(p, index, c, c)) return -1;
        p->r->code[start].set = index;
    }
    p->r->code[start] =
        (struct re_ins){ .op = RE_LOOP, .mode = (uint8_t)mode, .set = p->r->code[start].set, .min = min, .max = max };
    return 0;
}

static int parse_sequence(struct parser *p, int *least) {
    *least = 0;
    while (p->at < p->n && p->s[p->at] != '|' && p->s[p->at] != ')') {
        int one;
        if (parse_repeated(p, &one)) return -1;
        *least |= one;
    }
    return 0;
}

/* a|b|c: SPLIT a JUMP, SPLIT b JUMP, c; the jumps are chained through x until the end is known. */
static int parse_alternatives(struct parser *p, int *least, bool top) {
    regex *r = p->r;
    bool icase = p->icase;
    size_t jump = 0; /* the last jump, plus 1 */
    *least = 1;
    for (bool more = true; more;) {
        size_t start = r->n_code;
        int one;
        if (parse_sequence(p, &one)) return -1;
        *least &= one;
        more = p->at < p->n && p->s[p->at] == '|';
        if (more) {
            p->at++;
            if (insert(p, start, (struct re_ins){ .op = RE_SPLIT, .x = (int32_t)(r->n_code - start) + 2 })) return -1;
            if (emit(p, (struct re_ins){ .op = RE_JUMP, .x = (int32_t)jump })) return -1;
            jump = r->n_code;
        }
        if (top && r->n_start <= RE_ALTERNATIVES) {
            if (r->n_start < RE_ALTERNATIVES) r->start[r->n_start] = (int32_t)(start + more);
            r->n_start++;
        }
    }
    while (jump) {
        size_t next = (size_t)r->code[jump - 1].x;
        r->code[jump - 1].x = (int32_t)(r->n_code - (jump - 1));
        jump = next;
    }
    p->icase = icase;
    return 0;
}

/* ---- which alternatives can begin with a character ---- */

static void add_first(regex *r, int32_t pc, uint32_t bit, int *budget) {
    for (; (*budget)-- > 0; pc++) {
        const struct re_ins *i = r->code + pc;
        const struct re_set *s = r->sets + i->set;
        switch (i->op) {
        case RE_CHAR:
            r->first[i->x < 128 ? i->x : 128] |= bit;
            return;
        case RE_SET:
        case RE_LOOP:
            for (int c = 0; c < 128; c++) r->first[c] |= s->ascii[c] ? bit : 0;
            r->first[128] |= s->negated || s->categories || s->any || s->none || s->n_range || s->n_inner ? bit : 0;
            if (i->op == RE_SET || i->min) return;
            break;
        case RE_SPLIT:
            add_first(r, pc + i->x, bit, budget);
            break;
        case RE_JUMP:
            pc += i->x - 1;
            break;
        case RE_LOOK:
            if (i->mode == RE_ATOMIC) *budget = 0; /* its body is not followed: anything may begin it */
            pc += i->x - 1;
            break;
        case RE_MATCH:
            *budget = 0;
            break;
        default:
            break;
        }
    }
    for (int c = 0; c <= 128; c++) r->first[c] |= bit;
}

static void find_first(regex *r) {
    if (r->n_start > RE_ALTERNATIVES) r->n_start = 1, r->start[0] = 0; /* too many to tell apart: all from the beginning */
    for (int i = 0; i < r->n_start; i++) {
        int budget = 64;
        add_first(r, r->start[i], 1u << i, &budget);
    }
}

/* Room for code and sets before there are any: places in them are counted from the start, which so is never NULL. */
static int parser_begin(struct parser *p) {
    p->r->code = calloc(p->cap_code = 64, sizeof *p->r->code);
    p->r->sets = calloc(p->cap_sets = 16, sizeof *p->r->sets);
    return p->r->code && p->r->sets ? 0 : out_of_memory(p);
}

int regex_compile(regex **out, const char *pattern, size_t n, err *e) {
    *out = NULL;
    struct parser p = { .r = calloc(1, sizeof(regex)), .s = pattern, .n = n, .e = e };
    if (!p.r) return fail_memory(e, sizeof(regex), "a regular expression");
    int least, rc = 0;
    if (n > 65536) rc = fail_code(e, ERR_INPUT, "regular expression: over 65536 bytes");
    else if (!utf8_valid(pattern, n) || memchr(pattern, 0, n)) rc = fail_code(e, ERR_INPUT, "regular expression: not UTF-8 text");
    if (!rc) rc = parser_begin(&p);
    if (!rc) rc = parse_alternatives(&p, &least, true);
    if (!rc && p.at < n) rc = refuse(&p, ") without (");
    if (!rc) rc = emit(&p, (struct re_ins){ .op = RE_MATCH });
    if (rc) return regex_free(p.r), -1;
    find_first(p.r);
    p.r->may_be_empty = !least;
    *out = p.r;
    return 0;
}

int regex_literal(regex **out, const char *text, size_t n, err *e) {
    regex *r = *out = calloc(1, sizeof *r);
    if (r) r->literal = arena_copy(&r->mem, text, r->n_literal = n);
    if (r && r->literal) return 0;
    regex_free(r);
    *out = NULL;
    return fail_memory(e, n, "a pattern");
}

bool regex_may_be_empty(const regex *r) { return r->may_be_empty; }

void regex_free(regex *r) {
    if (!r) return;
    free(r->code);
    free(r->sets);
    arena_free(&r->mem);
    free(r);
}
