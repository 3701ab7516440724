/* template_format: text out of a format: "..." % values and "...".format(values). Python's rules; widths and precisions are bounded,
 * because a template could ask for a gigabyte of spaces. */
#include <math.h>
#include <stdlib.h>

#include "tokenizer/template_parts.h"
#include "tokenizer/unicode.h"

enum { MAX_WIDTH = 10000, MAX_PRECISION = 300 };

struct spec { /* [[fill]align][sign][#][0][width][,][.precision][type] */
    struct text *fill; /* one character */
    char align, sign, type, comma;
    bool alternate;
    int width, precision; /* -1: not given */
};

static bool digit(char c) { return c >= '0' && c <= '9'; }

static int small_number(struct run *r, const char **p, const char *end, int most) {
    int n = 0;
    while (*p < end && digit(**p)) {
        n = n * 10 + *(*p)++ - '0';
        if (n > most) run_limit(r, "a width or precision of over %d", most);
    }
    return n;
}

/* body, padded as the spec says; a number keeps its sign before zeros. sign: bytes of body that are sign or prefix. */
static void pad(struct run *r, struct sink *k, const struct spec *s, struct text *body, size_t sign, char otherwise) {
    int64_t room = s->width - (int64_t)text_chars(body);
    char align = s->align ? s->align : otherwise;
    if (room < 0) room = 0;
    int64_t left = align == '>' ? room : align == '^' ? room / 2 : 0;
    for (int64_t i = 0; i < left; i++) sink_text(r, k, s->fill);
    sink_part(r, k, body, 0, align == '=' ? sign : body->n);
    for (int64_t i = 0; align == '=' && i < room; i++) sink_text(r, k, s->fill);
    if (align == '=') sink_part(r, k, body, sign, body->n);
    for (int64_t i = left; align != '=' && i < room; i++) sink_text(r, k, s->fill);
}

/* ---- numbers ---- */

/* Digits of |i| in a base, and what stands before them. */
static void int_digits(struct run *r, struct sink *k, int64_t i, const struct spec *s) {
    char digits[72], *p = digits + sizeof digits;
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i, base = s->type == 'x' || s->type == 'X' ? 16 : s->type == 'o' ? 8 : s->type == 'b' ? 2 : 10;
    int n = 0;
    *--p = 0;
    do {
        if (s->comma && n && n % 3 == 0) *--p = s->comma;
        *--p = (s->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[u % base];
        n++;
    } while (u /= base);
    sink_str(r, k, i < 0 ? "-" : s->sign == '+' ? "+" : s->sign == ' ' ? " " : "");
    if (s->alternate && base != 10) sink_add(r, k, (char[]){ '0', s->type }, 2, false);
    for (int zeros = s->precision - n; zeros > 0; zeros--) sink_str(r, k, "0"); /* %05.3d */
    sink_str(r, k, p);
}

static void group_thousands(char *s, size_t cap, char comma) {
    size_t n = strlen(s), whole = strspn(s, "0123456789");
    for (size_t at = whole; comma && at > 3 && n + 1 < cap; n++) {
        at -= 3;
        memmove(s + at + 1, s + at, n - at + 1);
        s[at] = comma;
    }
}

static void float_digits(struct run *r, struct sink *k, double x, const struct spec *s) {
    char digits[MAX_PRECISION + 400], type = s->type == '%' ? 'f' : s->type | 32;
    int precision = s->precision >= 0 ? s->precision : 6;
    bool minus = signbit(x) && x == x;
    if (s->alternate) run_fail(r, "the flag # of a float's format is not read");
    if (s->type == '%') x *= 100;
    x = fabs(x);
    if (x - x != 0) strcpy(digits, x == x ? "inf" : "nan");
    else if (!s->type && s->precision < 0) format_double(x, digits);
    else if (type == 'f') snprintf(digits, sizeof digits, "%.*f", precision, x);
    else if (type == 'e') snprintf(digits, sizeof digits, "%.*e", precision, x);
    else {
        snprintf(digits, sizeof digits, "%.*g", precision, x);
        if (!s->type && !strpbrk(digits, ".e")) strcat(digits, ".0");
    }
    for (char *p = digits; s->type >= 'A' && s->type <= 'Z' && *p; p++) *p -= *p >= 'a' && *p <= 'z' ? 32 : 0;
    group_thousands(digits, sizeof digits, s->comma);
    sink_str(r, k, minus ? "-" : s->sign == '+' ? "+" : s->sign == ' ' ? " " : "");
    sink_str(r, k, digits);
    if (s->type == '%') sink_str(r, k, "%");
}

/* How many bytes at the front are a sign and a prefix such as 0x. */
static size_t front_of(const struct text *s) {
    size_t n = s->n && strchr("+- ", s->p[0]);
    return n + (s->n > n + 1 && s->p[n] == '0' && (s->p[n + 1] | 32) - 'a' < 26 && s->p[n + 1] > '9' ? 2 : 0);
}

static void put_number(struct run *r, struct sink *k, value v, const struct spec *s) {
    struct sink own = { 0 };
    bool is_float = v.type == V_FLOAT || (s->type && strchr("eEfFgG%", s->type));
    if (is_float) float_digits(r, &own, v.type == V_FLOAT ? v.f : v.type == V_INT ? (double)v.i : v.b, s);
    else if (s->type == 'c') sink_char(r, &own, (uint32_t)(v.type == V_INT ? v.i : v.b), false);
    else int_digits(r, &own, v.type == V_INT ? v.i : v.b, s);
    struct text *body = sink_value(r, &own).s;
    pad(r, k, s, body, front_of(body), s->type == 'c' ? '<' : '>');
}

static void put_text(struct run *r, struct sink *k, value v, const struct spec *s) {
    struct text *body = v.s;
    if (s->precision >= 0) body = slice(r, v, NONE, int_value(s->precision), NONE).s;
    pad(r, k, s, body, 0, '<');
}

/* ---- "..." % values ---- */

struct percent {
    struct text *format;
    value args;
    size_t next;
    bool used_mapping;
};

static value next_arg(struct run *r, struct percent *f) {
    if (f->args.type == V_TUPLE && f->next < f->args.list->n) return f->args.list->p[f->next++];
    if (f->args.type != V_TUPLE && f->next++ == 0) return f->args;
    run_fail(r, "not enough arguments for format string");
}

static int star(struct run *r, struct percent *f, const char **p, int most) {
    ++*p;
    int64_t n = want_int(r, next_arg(r, f), "the * of a format");
    if (n > most || n < -most) run_limit(r, "a width or precision of over %d", most);
    return (int)n;
}

/* "(name)": the value of that key. */
static value named_arg(struct run *r, struct percent *f, const char **p, const char *end) {
    const char *from = ++*p;
    for (int open = 1; *p < end; ++*p) {
        open += (**p == '(') - (**p == ')');
        if (!open) break;
    }
    if (*p == end) run_fail(r, "incomplete format key");
    if (f->args.type != V_DICT) run_fail(r, "format requires a mapping");
    value key = string_part(r, f->format, (size_t)(from - f->format->p), (size_t)(*p - f->format->p));
    const struct pair *found = dict_find(r, f->args.dict, key);
    if (!found) run_fail(r, "the format's key '%.*s' is not there", (int)(key.s->n < 60 ? key.s->n : 60), key.s->p);
    ++*p;
    f->used_mapping = true;
    return found->v;
}

static value whole_of(struct run *r, value v, char type) {
    if (v.type == V_FLOAT && (type == 'd' || type == 'i' || type == 'u') && fabs(v.f) < 9.2e18) return int_value((int64_t)v.f);
    if (v.type != V_INT && v.type != V_BOOL) run_fail(r, "%%%c format: a real number is required, not %s", type, type_name(v));
    return v;
}

static void put_percent(struct run *r, struct sink *k, value v, struct spec *s, bool markup) {
    if (strchr("diu", s->type)) put_number(r, k, whole_of(r, v, s->type), s);
    else if (strchr("xXo", s->type)) s->precision = s->precision < 0 ? 0 : s->precision, put_number(r, k, whole_of(r, v, s->type), s);
    else if (strchr("eEfFgG", s->type)) {
        if (v.type != V_FLOAT) v = float_value((double)want_int(r, v, "must be real number"));
        put_number(r, k, v, s);
    } else if (s->type == 'c' && v.type != V_STRING) {
        int64_t c = want_int(r, v, "%c requires int or char");
        if (c < 0 || c > 0x10ffff) run_fail(r, "%%c arg not in range(0x110000)");
        put_number(r, k, v, s);
    } else {
        struct sink own = { 0 };
        if (s->type == 'c' && text_chars(v.s) != 1) run_fail(r, "%%c requires int or char");
        if (s->type == 's' || s->type == 'c') put_str(r, &own, v);
        else put_repr(r, &own, v);
        value text = s->type == 's' && v.type == V_STRING ? v : sink_value(r, &own);
        put_text(r, k, markup ? escaped(r, text) : text, s);
    }
}

/* One conversion; *p stands behind its '%'. */
static void convert(struct run *r, struct percent *f, struct sink *k, const char **p, const char *end) {
    struct spec s = { .fill = string_of(r, " ").s, .align = '>', .precision = -1 };
    value v = { V_ABSENT, { 0 } };
    if (*p < end && **p == '(') v = named_arg(r, f, p, end);
    bool zero = false, left = false;
    for (; *p < end && **p && strchr("-+ #0", **p); ++*p) {
        left |= **p == '-';
        zero |= **p == '0';
        s.alternate |= **p == '#';
        if (**p == '+' || (**p == ' ' && !s.sign)) s.sign = **p;
    }
    s.width = *p < end && **p == '*' ? star(r, f, p, MAX_WIDTH) : small_number(r, p, end, MAX_WIDTH);
    if (s.width < 0) left = true, s.width = -s.width;
    if (*p < end && **p == '.') {
        ++*p;
        s.precision = *p < end && **p == '*' ? star(r, f, p, MAX_PRECISION) : small_number(r, p, end, MAX_PRECISION);
        if (s.precision < 0) s.precision = 0;
    }
    while (*p < end && **p && strchr("hlL", **p)) ++*p;
    if (*p == end) run_fail(r, "incomplete format");
    s.type = *(*p)++;
    if (s.type == '%') {
        sink_str(r, k, "%");
        return;
    }
    if (!s.type || !strchr("diuxXoeEfFgGcsra", s.type)) run_fail(r, "unsupported format character in a %% format");
    if (zero && strchr("diuxXoeEfFgG", s.type)) s.fill = string_of(r, "0").s, s.align = '=';
    if (left) s.fill = string_of(r, " ").s, s.align = '<';
    put_percent(r, k, v.type == V_ABSENT ? next_arg(r, f) : v, &s, f->format->markup);
}

value percent_format(struct run *r, value format, value args) {
    struct percent f = { .format = format.s, .args = args };
    struct sink k = { 0 };
    const char *p = format.s->p, *end = p + format.s->n;
    while (p < end) {
        const char *percent = memchr(p, '%', (size_t)(end - p));
        if (!percent) percent = end;
        sink_part(r, &k, format.s, (size_t)(p - format.s->p), (size_t)(percent - format.s->p));
        tick(r, 1);
        p = percent + 1;
        if (percent < end) convert(r, &f, &k, &p, end);
    }
    bool left = args.type == V_TUPLE ? f.next < args.list->n : !f.next && !f.used_mapping && args.type != V_DICT &&
                args.type != V_LIST && args.type != V_UNDEFINED;
    if (left) run_fail(r, "not all arguments converted during string formatting");
    value v = sink_value(r, &k);
    v.s->markup = format.s->markup;
    return v;
}

/* ---- "...".format(values) ---- */

static bool is_align(char c) { return c && strchr("<>=^", c) != NULL; }

static void read_spec(struct run *r, struct text *t, struct spec *s) {
    const char *p = t->p, *end = p + t->n;
    size_t first = t->n ? (size_t)utf8_len(*p) : 0;
    *s = (struct spec){ .fill = string_of(r, " ").s, .precision = -1 };
    if (first < t->n && is_align(p[first])) {
        s->fill = string_part(r, t, 0, first).s;
        s->align = p[first];
        p += first + 1;
    } else if (p < end && is_align(*p)) s->align = *p++;
    if (p < end && strchr("+- ", *p)) s->sign = *p++;
    if (p < end && *p == '#') s->alternate = true, p++;
    if (p < end && *p == '0') {
        if (!s->align) s->fill = string_of(r, "0").s, s->align = '0';
        p++;
    }
    s->width = small_number(r, &p, end, MAX_WIDTH);
    if (p < end && (*p == ',' || *p == '_')) s->comma = *p++;
    if (p < end && *p == '.') {
        p++;
        if (p == end || !digit(*p)) run_fail(r, "Format specifier missing precision");
        s->precision = small_number(r, &p, end, MAX_PRECISION);
    }
    if (p < end) s->type = *p++;
    if (p < end) run_fail(r, "Invalid format specifier");
}

static void put_formatted(struct run *r, struct sink *k, value v, struct text *spec) {
    struct spec s;
    if (!spec->n) {
        put_str(r, k, v);
        return;
    }
    read_spec(r, spec, &s);
    bool zeros = s.align == '0', number = v.type == V_INT || v.type == V_BOOL || v.type == V_FLOAT;
    if (zeros) s.align = number ? '=' : '<';
    if (v.type == V_STRING) {
        if ((s.type && s.type != 's') || s.sign || s.alternate || s.comma || (s.align == '='))
            run_fail(r, "Unknown format code for object of type 'str'");
        put_text(r, k, v, &s);
        return;
    }
    if (!number) run_fail(r, "unsupported format string passed to %s.__format__", type_name(v));
    if (!strchr(v.type == V_FLOAT ? "eEfFgGn%" : "bcdoxXneEfFgG%", s.type))
        run_fail(r, "Unknown format code '%c' for object of type '%s'", s.type, type_name(v));
    if (v.type != V_FLOAT && s.precision >= 0 && !(s.type && strchr("eEfFgG%", s.type)))
        run_fail(r, "Precision not allowed in integer format specifier");
    if (s.type == 'n') s.type = v.type == V_FLOAT ? 'g' : 'd';
    put_number(r, k, v, &s);
}

struct braces {
    struct text *format;
    const struct call *c;
    int next; /* of automatic numbers; -1 once they are given */
};

static value field_start(struct run *r, struct braces *f, const struct text *name) {
    int64_t i = 0;
    bool numeric = true;
    for (size_t k = 0; k < name->n; k++) {
        numeric &= digit(name->p[k]);
        i = numeric && i < 100000 ? i * 10 + (name->p[k] - '0') : i;
    }
    if (!numeric) {
        for (int k = 0; k < f->c->n_kw; k++)
            if (f->c->kw[k].name->n == name->n && memcmp(f->c->kw[k].name->p, name->p, name->n) == 0) return f->c->kw[k].v;
        run_fail(r, "the format's field '%.*s' is not there", (int)(name->n < 60 ? name->n : 60), name->p);
    }
    if (!name->n && f->next >= 0) i = f->next++;
    else if (!name->n || f->next > 0) run_fail(r, "cannot switch between automatic and manual field numbering");
    else f->next = -1;
    if (i >= f->c->n) run_fail(r, "Replacement index %lld out of range for positional args tuple", (long long)i);
    return f->c->p[i];
}

/* name.attr[key]...; from, to: its bytes in the format. */
static value field_value(struct run *r, struct braces *f, size_t from, size_t to) {
    const char *s = f->format->p;
    size_t at = from;
    while (at < to && s[at] != '.' && s[at] != '[') at++;
    value v = field_start(r, f, string_part(r, f->format, from, at).s);
    while (at < to) {
        bool bracket = s[at] == '[', numeric = true;
        size_t begin = ++at;
        for (; at < to && (bracket ? s[at] != ']' : s[at] != '.' && s[at] != '['); at++) numeric &= digit(s[at]);
        if (at == begin || (bracket && at == to)) run_fail(r, "Empty attribute in format string");
        value key = string_part(r, f->format, begin, at);
        if (bracket && numeric && at - begin < 10) key = int_value(strtol(s + begin, NULL, 10));
        v = bracket ? get_item(r, v, key) : get_attr(r, v, key.s);
        at += bracket;
    }
    return v;
}

/* A field, from behind its '{' to its '}'. */
static void put_field(struct run *r, struct braces *f, struct sink *k, size_t from, size_t to) {
    const char *s = f->format->p;
    size_t end = from;
    int open = 0;
    char conversion = 0;
    while (end < to && (open || (s[end] != '!' && s[end] != ':'))) open += (s[end] == '[') - (s[end] == ']' && open), end++;
    value v = field_value(r, f, from, end);
    if (end < to && s[end] == '!') {
        conversion = end + 1 < to ? s[end + 1] : 0;
        end += 2;
        if (end < to && s[end] != ':') run_fail(r, "expected ':' after conversion specifier");
    }
    struct sink own = { 0 };
    if (conversion == 'r' || conversion == 's') {
        conversion == 'r' ? put_repr(r, &own, v) : put_str(r, &own, v);
        v = sink_value(r, &own);
    } else if (conversion || end > to) run_fail(r, "Unknown conversion specifier in a format");
    struct text *spec = string_part(r, f->format, end < to ? end + 1 : to, to).s;
    if (spec->n && memchr(spec->p, '{', spec->n)) run_fail(r, "a field inside a field of a format is not read");
    struct sink out = { 0 };
    put_formatted(r, &out, v, spec);
    if (f->format->markup && !(v.type == V_STRING && v.s->markup)) sink_text(r, k, escaped(r, sink_value(r, &out)).s);
    else sink_text(r, k, sink_value(r, &out).s);
}

value brace_format(struct run *r, value self, const struct call *c) {
    struct braces f = { self.s, c, 0 };
    struct sink k = { 0 };
    const char *s = self.s->p;
    size_t n = self.s->n;
    for (size_t i = 0, end; i < n; i = end) {
        end = i + 1;
        tick(r, 1);
        if (s[i] != '{' && s[i] != '}') {
            while (end < n && s[end] != '{' && s[end] != '}') end++;
            sink_part(r, &k, self.s, i, end);
        } else if (end < n && s[end] == s[i]) sink_part(r, &k, self.s, i, end++);
        else if (s[i] == '}') run_fail(r, "Single '}' encountered in format string");
        else {
            int open = 1;
            while (end < n && (open += (s[end] == '{') - (s[end] == '}'))) end++;
            if (end == n) run_fail(r, "expected '}' before end of string");
            put_field(r, &f, &k, i + 1, end++);
        }
    }
    value v = sink_value(r, &k);
    v.s->markup = self.s->markup;
    return v;
}
