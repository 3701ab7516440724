/* template_lex: a template's text as tokens (Jinja's lexer.py is the reference, with trim_blocks and lstrip_blocks on). It owns
 * what happens to white space around tags, and the escapes of strings. It must not know what tokens mean. */
#include "tokenizer/template_lex.h"

#include <stdarg.h>
#include <stdlib.h>

#include "tokenizer/unicode.h"

_Noreturn void lex_fail(const struct lexer *x, size_t at, const char *fmt, ...) {
    char what[256];
    unsigned line, column;
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    template_place(x->t, at, &line, &column);
    fail_code(x->e, ERR_INPUT, "the chat template, line %u, column %u: %s", line, column, what);
    longjmp(*x->fail, 1);
}

void *lex_take(struct lexer *x, size_t bytes) {
    void *p = arena_alloc(&x->t->mem, bytes);
    if (p) return p;
    fail_code(x->e, ERR_MEMORY, "the chat template: out of memory");
    longjmp(*x->fail, 1);
}

/* ---- text between tags ---- */

static bool here(const struct lexer *x, size_t at, const char *s) {
    size_t n = strlen(s);
    return x->t->n - at >= n && memcmp(x->t->source + at, s, n) == 0;
}

static size_t skip_space(const struct lexer *x, size_t at) {
    int len;
    while (at < x->t->n && python_space(utf8_next(x->t->source + at, &len))) at += (size_t)len;
    return at;
}

/* "{%", an optional sign, and this word, and the end of the tag: 0 if not, else where the tag's end begins. */
static size_t tag_of_word(const struct lexer *x, size_t at, const char *word, bool plus) {
    if (!here(x, at, "{%")) return 0;
    at += 2;
    if (here(x, at, "-") || here(x, at, "+")) at++;
    at = skip_space(x, at);
    if (!here(x, at, word)) return 0;
    at = skip_space(x, at + strlen(word));
    return here(x, at, "%}") || here(x, at, "-%}") || (plus && here(x, at, "+%}")) ? at : 0;
}

/* Behind the end of a tag or comment: "-" takes all white space behind it, nothing takes one line break, "+" none. */
static void end_tag(struct lexer *x, size_t at, const char *mark, bool trim) {
    char sign = here(x, at, mark) ? 0 : x->t->source[at++];
    size_t end = at + strlen(mark);
    x->at = sign == '-' ? skip_space(x, end) : !sign && trim && here(x, end, "\n") ? end + 1 : end;
    x->line_starts = x->t->source[x->at - 1] == '\n';
}

/* The bytes from..to, without the white space that the tag behind them takes away. */
static struct token data_before(const struct lexer *x, size_t from, size_t to, char sign, bool print) {
    struct token t = { .kind = T_DATA, .at = from, .p = x->t->source + from, .n = to - from };
    struct text s = { .p = t.p, .n = t.n };
    size_t begin, end;
    if (sign == '-') text_strip(&s, NULL, false, true, &begin, &t.n);
    else if (sign != '+' && !print) {
        size_t line = t.n;
        while (line && t.p[line - 1] != '\n') line--;
        s.p += line;
        s.n -= line;
        text_strip(&s, NULL, false, true, &begin, &end);
        if ((line || x->line_starts) && !end) t.n = line;
    }
    return t;
}

static void skip_comment(struct lexer *x, size_t begin) {
    size_t from = begin + 2 + (here(x, begin + 2, "-") || here(x, begin + 2, "+"));
    for (size_t i = from; i < x->t->n; i++) {
        if (!here(x, i, "#}")) continue;
        end_tag(x, i > from && (x->t->source[i - 1] == '-' || x->t->source[i - 1] == '+') ? i - 1 : i, "#}", true);
        return;
    }
    lex_fail(x, begin, "a comment without its end #}");
}

static struct token raw_block(struct lexer *x, size_t begin, size_t end) {
    end_tag(x, end, "%}", false);
    for (size_t i = x->at; i < x->t->n; i++) {
        size_t close = tag_of_word(x, i, "endraw", true);
        if (!close) continue;
        struct token t = data_before(x, x->at, i, x->t->source[i + 2], false);
        end_tag(x, close, "%}", true);
        return t;
    }
    lex_fail(x, begin, "{%% raw %%} without its {%% endraw %%}");
}

/* Text up to the next tag. What begins there is read next: `at` stands on it, or behind a comment. */
static struct token lex_text(struct lexer *x) {
    const char *s = x->t->source;
    for (size_t i = x->at; i + 1 < x->t->n; i++) {
        if (s[i] != '{' || (s[i + 1] != '{' && s[i + 1] != '%' && s[i + 1] != '#')) continue;
        struct token t = data_before(x, x->at, i, i + 2 < x->t->n ? s[i + 2] : 0, s[i + 1] == '{');
        size_t raw = tag_of_word(x, i, "raw", false);
        if (s[i + 1] == '#') skip_comment(x, i);
        else if (raw && t.n == 0) return raw_block(x, i, raw);
        else if (raw) x->at = i; /* the text first; nothing of it is left to strip when the tag is met again */
        else {
            x->state = s[i + 1] == '{' ? LEX_PRINT : LEX_TAG;
            x->begins = true;
            x->at = i;
        }
        return t;
    }
    struct token t = { .kind = x->at < x->t->n ? T_DATA : T_EOF, .at = x->at, .p = s + x->at, .n = x->t->n - x->at };
    x->at = x->t->n;
    return t;
}

/* ---- inside tags ---- */

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* One escape as Python's unicode-escape reads it; s stands behind the backslash. Returns how much it took. */
static size_t unescape(struct lexer *x, const char *s, size_t n, buf *out, size_t at) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *f = n && s[0] ? strchr(from, s[0]) : NULL;
    if (f) return buf_byte(out, to[f - from]), 1;
    if (n && s[0] == '\n') return 1;
    uint32_t c = 0;
    if (n && s[0] >= '0' && s[0] <= '7') {
        size_t k = 0;
        for (; k < 3 && k < n && s[k] >= '0' && s[k] <= '7'; k++) c = c * 8 + (uint32_t)(s[k] - '0');
        return buf_char(out, c), k;
    }
    size_t digits = !n ? 0 : s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : s[0] == 'U' ? 8 : 0;
    if (n && s[0] == 'N') lex_fail(x, at, "a character by its name (\\N{...}) is not read here; use \\uXXXX");
    if (!digits) return buf_byte(out, '\\'), 0;
    for (size_t k = 1; k <= digits; k++) {
        int d = k < n ? hex_digit(s[k]) : -1;
        if (d < 0) lex_fail(x, at, "an escape \\%c without its %zu hexadecimal digits", s[0], digits);
        c = c << 4 | (uint32_t)d;
    }
    if (c > 0x10ffff) lex_fail(x, at, "an escape beyond U+10FFFF");
    buf_char(out, c);
    return digits + 1;
}

static struct token lex_string(struct lexer *x) {
    const char *s = x->t->source;
    struct token t = { .kind = T_STRING, .at = x->at };
    size_t end = x->at + 1;
    bool escapes = false;
    for (; end < x->t->n && s[end] != s[x->at]; end++)
        if (s[end] == '\\') escapes = true, end++;
    if (end >= x->t->n) lex_fail(x, x->at, "a string without its closing %c", s[x->at]);
    t.p = s + x->at + 1;
    t.n = end - x->at - 1;
    if (escapes) {
        char *p = lex_take(x, t.n + 1); /* every escape is at least as long as its character, but \ooo that gives two bytes of 4 */
        buf out = { p, 0, t.n + 1, false };
        for (size_t i = 0; i < t.n;) {
            if (t.p[i] == '\\') i += 1 + unescape(x, t.p + i + 1, t.n - i - 1, &out, x->at + 1 + i);
            else buf_byte(&out, t.p[i++]);
        }
        t.p = p;
        t.n = out.n;
    }
    x->at = end + 1;
    return t;
}

static bool word_char(uint32_t c) { return c == '_' || (c < 0x80 ? (c >= '0' && c <= '9') || (c | 32) - 'a' < 26u : uni_of(c) & UNI_WORD); }

static struct token lex_name(struct lexer *x) {
    struct token t = { .kind = T_NAME, .at = x->at, .p = x->t->source + x->at };
    int len;
    while (x->at < x->t->n && word_char(utf8_next(x->t->source + x->at, &len))) x->at += (size_t)len;
    t.n = x->t->source + x->at - t.p;
    return t;
}

/* Digits with single underscores between them; returns their end. */
static size_t digits_end(const struct lexer *x, size_t at, int base) {
    for (size_t i = at; i < x->t->n; i++) {
        char c = x->t->source[i];
        int d = hex_digit(c);
        if (d >= 0 && d < base) at = i + 1;
        else if (c != '_' || at != i) break;
    }
    return at;
}

static size_t float_end(const struct lexer *x, size_t whole) {
    const char *s = x->t->source;
    size_t at = whole, end = whole;
    if (x->at && s[x->at - 1] == '.') return whole; /* the 0 of a.0.b */
    if (here(x, at, ".") && digits_end(x, at + 1, 10) > at + 1) end = at = digits_end(x, at + 1, 10);
    if (here(x, at, "e") || here(x, at, "E")) {
        size_t d = at + 1 + (here(x, at + 1, "+") || here(x, at + 1, "-"));
        if (digits_end(x, d, 10) > d) end = digits_end(x, d, 10);
    }
    return end;
}

static struct token lex_number(struct lexer *x) {
    const char *s = x->t->source;
    struct token t = { .kind = T_INT, .at = x->at };
    int base = 10;
    char kind = s[x->at] == '0' && x->at + 1 < x->t->n ? s[x->at + 1] | 32 : 0, plain[320];
    size_t digits = x->at, end = digits_end(x, digits, 10), n = 0, number = float_end(x, end);
    if (number > end) t.kind = T_FLOAT, end = number;
    else if (kind == 'x' || kind == 'o' || kind == 'b') {
        base = kind == 'x' ? 16 : kind == 'o' ? 8 : 2;
        digits += 2 + here(x, digits + 2, "_");
        size_t last = digits_end(x, digits, base);
        if (last > digits) end = last;
        else base = 10, digits = x->at;
    } else if (s[digits] == '0') { /* 007 is three numbers to Jinja, and an error to its parser */
        end = digits + 1;
        while (here(x, end, "0") || here(x, end, "_0")) end += here(x, end, "0") ? 1 : 2;
    }
    for (size_t i = digits; i < end && n < sizeof plain - 1; i++)
        if (s[i] != '_') plain[n++] = s[i];
    plain[n] = 0;
    if (end - digits >= sizeof plain) lex_fail(x, x->at, "a number of over %zu digits", sizeof plain - 1);
    x->at = end;
    if (t.kind == T_FLOAT) return t.f = strtod(plain, NULL), t;
    for (size_t i = 0; i < n; i++)
        if (__builtin_mul_overflow(t.i, base, &t.i) || __builtin_add_overflow(t.i, hex_digit(plain[i]), &t.i))
            lex_fail(x, t.at, "a whole number beyond 64 bits");
    return t;
}

static struct token lex_operator(struct lexer *x) {
    static const struct { const char *p; int op; } two[] = { { "//", OP2_FLOORDIV }, { "**", OP2_POW }, { "==", OP2_EQ },
                                                           { "!=", OP2_NE }, { ">=", OP2_GE }, { "<=", OP2_LE } };
    struct token t = { .kind = T_OP, .at = x->at };
    char c = x->t->source[x->at];
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (here(x, x->at, two[i].p)) return x->at += 2, t.op = two[i].op, t;
    if (!c || !strchr("+-/*%~[](){}><=.:|,;", c)) lex_fail(x, x->at, "an unexpected character");
    if (strchr("([{", c)) {
        if (x->n_open == MAX_BRACKETS) lex_fail(x, x->at, "more than %d open brackets", MAX_BRACKETS);
        x->open[x->n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (strchr(")]}", c) && (!x->n_open || x->open[--x->n_open] != c)) lex_fail(x, x->at, "an unexpected '%c'", c);
    x->at++;
    t.op = c;
    return t;
}

static bool at_end_of_tag(struct lexer *x, struct token *t) {
    const char *mark = x->state == LEX_PRINT ? "}}" : "%}";
    char sign = x->at < x->t->n ? x->t->source[x->at] : 0;
    bool signed_end = (sign == '-' || (sign == '+' && x->state == LEX_TAG)) && here(x, x->at + 1, mark);
    if (x->n_open || (!signed_end && !here(x, x->at, mark))) return false;
    *t = (struct token){ .kind = x->state == LEX_PRINT ? T_PRINT_END : T_TAG_END, .at = x->at };
    end_tag(x, x->at, mark, x->state == LEX_TAG);
    x->state = LEX_TEXT;
    return true;
}

static struct token lex_inside(struct lexer *x) {
    struct token t;
    if (at_end_of_tag(x, &t)) return t;
    size_t at = skip_space(x, x->at);
    if (at > x->at) return x->at = at, lex_inside(x);
    if (x->at >= x->t->n) lex_fail(x, x->at, "the template ends inside a tag");
    char c = x->t->source[x->at];
    int len;
    if (c >= '0' && c <= '9') return lex_number(x);
    if (c == '"' || c == '\'') return lex_string(x);
    return word_char(utf8_next(x->t->source + x->at, &len)) ? lex_name(x) : lex_operator(x);
}

struct token lex_next(struct lexer *x) {
    if (x->state == LEX_TEXT) return lex_text(x);
    if (!x->begins) return lex_inside(x);
    struct token t = { .kind = x->state == LEX_PRINT ? T_PRINT_BEGIN : T_TAG_BEGIN, .at = x->at };
    x->begins = false;
    x->at += 2;
    x->at += here(x, x->at, "-") || here(x, x->at, "+");
    return t;
}
