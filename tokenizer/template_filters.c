/* template_filters: the filters over single values, and the tests, as jinja2's filters.py and tests.py have them. Filters over
 * sequences are in template_sequences.c. It must not know nodes. */
#include <math.h>
#include <stdlib.h>

#include "tokenizer/template_sequences.h"
#include "tokenizer/unicode.h"

static bool given(value v) { return v.type != V_ABSENT; }
static value text_of(struct run *r, value v) { return to_string(r, v, true); } /* soft_str */
static bool is_number(value v) { return v.type == V_BOOL || v.type == V_INT || v.type == V_BIG || v.type == V_FLOAT; }

/* The method of this name on v, with these arguments. */
static value method(struct run *r, value v, const char *name, const value *arg, int n) {
    struct text word = { .p = name, .n = strlen(name) };
    const struct method_row *row = find_method(v, &word);
    struct call c = { (value *)arg, n, NULL, 0 };
    struct method m = { v, row };
    return call_value(r, (value){ V_METHOD, { .method = &m } }, &c);
}

/* ---- text ---- */

static value filter_upper(struct run *r, value v, const value *arg) { return (void)arg, method(r, text_of(r, v), "upper", NULL, 0); }
static value filter_lower(struct run *r, value v, const value *arg) { return (void)arg, method(r, text_of(r, v), "lower", NULL, 0); }
static value filter_capitalize(struct run *r, value v, const value *arg) { return (void)arg, method(r, text_of(r, v), "capitalize", NULL, 0); }
static value filter_trim(struct run *r, value v, const value *arg) { return method(r, text_of(r, v), "strip", arg, given(arg[0])); }
static value filter_string(struct run *r, value v, const value *arg) { return (void)arg, text_of(r, v); }
static value filter_escape(struct run *r, value v, const value *arg) { return (void)arg, escaped(r, v); }
static value filter_forceescape(struct run *r, value v, const value *arg) { return (void)arg, escaped(r, to_string(r, v, false)); }

static value filter_safe(struct run *r, value v, const value *arg) {
    (void)arg;
    struct text *s = to_string(r, v, true).s;
    v = string_part(r, s, 0, s->n);
    v.s->markup = true;
    return v;
}

static value filter_center(struct run *r, value v, const value *arg) {
    value width = given(arg[0]) ? arg[0] : int_value(80);
    return method(r, text_of(r, v), "center", &width, 1);
}

/* Words begin behind one of these; what they are split by. */
static bool word_border(uint32_t c) { return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || python_space(c); }

static value filter_title(struct run *r, value v, const value *arg) {
    struct text *s = text_of(r, v).s;
    struct sink k = { 0 };
    int len;
    (void)arg;
    for (size_t i = 0; i < s->n;) {
        size_t from = i;
        while (i < s->n && word_border(utf8_next(s->p + i, &len))) i += (size_t)len;
        sink_part(r, &k, s, from, i);
        if (i == s->n) break;
        from = i + (size_t)utf8_len(s->p[i]);
        sink_case(r, &k, s, i, from, CASE_UPPER);
        for (i = from; i < s->n && !word_border(utf8_next(s->p + i, &len));) i += (size_t)len;
        struct text rest = { .p = s->p + from, .n = i - from }; /* a word of its own, for the final sigma */
        rest.user = string_part(r, s, from, i).s->user, rest.n_user = string_part(r, s, from, i).s->n_user;
        sink_case(r, &k, &rest, 0, rest.n, CASE_LOWER);
    }
    return sink_value(r, &k);
}

static value filter_replace(struct run *r, value v, const value *arg) {
    value all[3] = { to_string(r, arg[0], false), to_string(r, arg[1], false), arg[2] };
    return method(r, to_string(r, v, false), "replace", all, given(arg[2]) && arg[2].type != V_NONE ? 3 : 2);
}

/* width, first, blank */
static value filter_indent(struct run *r, value v, const value *arg) {
    if (v.type == V_UNDEFINED) fail_undefined(r, v);
    want_text(r, v, "indent");
    value width = given(arg[0]) && arg[0].type == V_STRING ? arg[0] : binary(r, OP_MUL, string_of(r, " "), given(arg[0]) ? arg[0] : int_value(4));
    bool first = given(arg[1]) && truth(r, arg[1]), blank = given(arg[2]) && truth(r, arg[2]), markup = v.s->markup;
    if (markup) width.s = escaped(r, width).s;
    struct list lines = items_of(r, method(r, binary(r, OP_ADD, v, string_of(r, "\n")), "splitlines", NULL, 0));
    struct sink k = { 0 };
    if (first) sink_text(r, &k, width.s);
    for (size_t i = 0; i < lines.n; i++) {
        if (i) sink_str(r, &k, "\n");
        if (i && (blank || lines.p[i].s->n)) sink_text(r, &k, width.s);
        sink_text(r, &k, lines.p[i].s);
    }
    value out = sink_value(r, &k);
    out.s->markup = markup;
    return out;
}

/* length, killwords, end, leeway */
static value filter_truncate(struct run *r, value v, const value *arg) {
    int64_t length = given(arg[0]) ? want_int(r, arg[0], "truncate") : 255,
            leeway = given(arg[3]) && arg[3].type != V_NONE ? want_int(r, arg[3], "truncate") : 5;
    value end = given(arg[2]) ? arg[2] : string_of(r, "..."), sep[2] = { string_of(r, " "), int_value(1) };
    int64_t end_length = length_of(r, end);
    if (length < end_length || leeway < 0) run_fail(r, "expected length >= %lld and leeway >= 0", (long long)end_length);
    if (length_of(r, v) <= (length > INT64_MAX - leeway ? INT64_MAX : length + leeway)) return v;
    value cut = slice(r, v, NONE, int_value(length - end_length), NONE);
    if (!given(arg[1]) || !truth(r, arg[1])) cut = items_of(r, method(r, cut, "rsplit", sep, 2)).p[0];
    return binary(r, OP_ADD, cut, end);
}

static value filter_wordcount(struct run *r, value v, const value *arg) {
    struct text *s = text_of(r, v).s;
    int64_t n = 0;
    int len;
    bool inside = false;
    (void)arg;
    tick(r, s->n / 8);
    for (size_t i = 0; i < s->n; i += (size_t)len) {
        uint32_t c = utf8_next(s->p + i, &len);
        bool word = c == '_' ||
                    uni_in(c, 1u << UNI_LU | 1u << UNI_LL | 1u << UNI_LT | 1u << UNI_LM | 1u << UNI_LO | 1u << UNI_ND | 1u << UNI_NL | 1u << UNI_NO);
        n += word && !inside;
        inside = word;
    }
    return int_value(n);
}

static void quote_url(struct run *r, struct sink *k, value v, bool in_query) {
    struct text *s = to_string(r, v, false).s;
    for (size_t i = 0; i < s->n; i++) {
        char c = s->p[i], code[4];
        bool plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || strchr("_.-~", c) || (c == '/' && !in_query);
        if (plain && c) sink_part(r, k, s, i, i + 1);
        else if (c == ' ' && in_query) sink_add(r, k, "+", 1, text_user_at(s, i));
        else snprintf(code, sizeof code, "%%%02X", (unsigned char)c), sink_add(r, k, code, 3, text_user_at(s, i));
    }
    tick(r, s->n / 4);
}

static value filter_urlencode(struct run *r, value v, const value *arg) {
    struct sink k = { 0 };
    (void)arg;
    if (v.type == V_STRING || !is_iterable(v)) quote_url(r, &k, v, false);
    else {
        struct list l = items_of(r, v.type == V_DICT ? method(r, v, "items", NULL, 0) : v);
        for (size_t i = 0; i < l.n; i++) {
            struct list two = items_of(r, l.p[i]);
            if (two.n != 2) run_fail(r, "urlencode: expected pairs");
            if (i) sink_str(r, &k, "&");
            quote_url(r, &k, two.p[0], true);
            sink_str(r, &k, "=");
            quote_url(r, &k, two.p[1], true);
        }
    }
    return sink_value(r, &k);
}

/* "..."|format(a, b) or with names */
static value filter_format(struct run *r, value v, const struct call *c) {
    if (c->n && c->n_kw) run_fail(r, "can't handle positional and keyword arguments at the same time");
    struct dict *d = new_dict(r);
    for (int i = 0; i < c->n_kw; i++) dict_set(r, d, (value){ V_STRING, { .s = (struct text *)c->kw[i].name } }, c->kw[i].v);
    return percent_format(r, text_of(r, v), c->n_kw ? (value){ V_DICT, { .dict = d } } : list_value(r, V_TUPLE, c->p, (size_t)c->n));
}

/* ---- numbers ---- */

/* Python's int(text, base) and float(text) allow spaces around, a sign, and single underscores between digits. */
static bool clean_number(struct run *r, const struct text *s, buf *out, char plain[512]) {
    size_t from, to;
    text_strip(s, NULL, true, true, &from, &to);
    *out = (buf){ plain, 0, 512, false };
    if (from == to || to - from > 400) return false;
    for (size_t i = from; i < to; i++) {
        bool under = s->p[i] == '_';
        if (under && (i == from || i + 1 == to || strchr("_+-.", s->p[i - 1]) || strchr("_+-.", s->p[i + 1]))) return false;
        if (!under) buf_byte(out, s->p[i]);
    }
    return (void)r, strlen(plain) == out->n;
}

static bool parse_int(struct run *r, const struct text *s, int base, value *out) {
    char plain[512], *end;
    buf b;
    if (!clean_number(r, s, &b, plain)) return false;
    char *p = plain + (*plain == '+' || *plain == '-'), kind = p[0] == '0' ? p[1] | 32 : 0;
    int own = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 0;
    if (own && (base == 0 || base == own)) p += 2, base = own;
    else if (base == 0 && p[0] == '0' && strspn(p, "0") != strlen(p)) return false;
    if (base == 0) base = 10;
    if (!*p || strchr("+- \t", *p)) return false;
    int64_t i = 0;
    for (end = p; *end; end++) {
        int d = *end >= '0' && *end <= '9' ? *end - '0' : (*end | 32) >= 'a' && (*end | 32) <= 'z' ? (*end | 32) - 'a' + 10 : 99;
        if (d >= base) return false;
        if (__builtin_mul_overflow(i, base, &i) || __builtin_add_overflow(i, *plain == '-' ? -d : d, &i))
            run_limit(r, "a whole number beyond 64 bits");
    }
    *out = int_value(i);
    return true;
}

static bool parse_float(struct run *r, const struct text *s, double *out) {
    char plain[512], *end;
    buf b;
    if (!clean_number(r, s, &b, plain) || strpbrk(plain, "xXpP(")) return false;
    *out = strtod(plain, &end);
    return end != plain && !*end;
}

static bool float_of(struct run *r, value v, double *out) {
    if (v.type == V_UNDEFINED) fail_undefined(r, v);
    if (v.type == V_STRING || v.type == V_BIG) return parse_float(r, v.s, out);
    if (!is_number(v)) return false;
    *out = v.type == V_FLOAT ? v.f : v.type == V_INT ? (double)v.i : v.b;
    return true;
}

/* default, base */
static value filter_int(struct run *r, value v, const value *arg) {
    value out, otherwise = given(arg[0]) ? arg[0] : int_value(0);
    double f;
    int64_t base = given(arg[1]) ? want_int(r, arg[1], "int") : 10;
    if (v.type == V_UNDEFINED) fail_undefined(r, v);
    if (v.type == V_INT || v.type == V_BIG) return v;
    if (v.type == V_BOOL) return int_value(v.b);
    if (v.type == V_STRING && (base == 0 || (base >= 2 && base <= 36)) && parse_int(r, v.s, (int)base, &out)) return out;
    if (!float_of(r, v, &f) || f - f != 0) return otherwise;
    if (!(f > -9.2e18 && f < 9.2e18)) run_limit(r, "a whole number beyond 64 bits");
    return int_value((int64_t)f);
}

static value filter_float(struct run *r, value v, const value *arg) {
    double f;
    return float_of(r, v, &f) ? float_value(f) : given(arg[0]) ? arg[0] : float_value(0);
}

static value filter_abs(struct run *r, value v, const value *arg) {
    (void)arg;
    if (v.type == V_UNDEFINED) fail_undefined(r, v);
    if (!is_number(v)) run_fail(r, "bad operand type for abs(): '%s'", type_name(v));
    if (v.type == V_FLOAT) return float_value(fabs(v.f));
    bool minus = v.type == V_BIG || (v.type == V_INT && v.i < 0);
    return negative(r, v, minus);
}

/* round(x, n) as Python: the nearest decimal, halves to even, of x as it is. */
static value rounded(struct run *r, value v, int64_t places) {
    char s[700];
    if (v.type != V_FLOAT && places >= 0) return v.type == V_BOOL ? int_value(v.b) : v;
    if (v.type != V_FLOAT) {
        if (places < -18) return int_value(0);
        int64_t i = v.type == V_INT ? v.i : v.b, unit = 1;
        for (int64_t k = places; k < 0; k++) unit *= 10;
        int64_t rest = ((i % unit) + unit) % unit, low = i - rest;
        bool up = rest > unit - rest || (rest == unit - rest && (low / unit) % 2 != 0);
        return binary(r, OP_ADD, int_value(low), int_value(up ? unit : 0));
    }
    if (v.f - v.f != 0 || places > 300) return v;
    if (places < 0) {
        double unit = places < -308 ? HUGE_VAL : pow(10, (double)-places);
        return unit - unit != 0 ? float_value(copysign(0.0, v.f)) : float_value(nearbyint(v.f / unit) * unit);
    }
    snprintf(s, sizeof s, "%.*f", (int)places, v.f);
    return float_value(strtod(s, NULL));
}

/* precision, method */
static value filter_round(struct run *r, value v, const value *arg) {
    int64_t places = given(arg[0]) ? want_int(r, arg[0], "round") : 0;
    struct text *how = given(arg[1]) ? want_text(r, arg[1], "round") : string_of(r, "common").s;
    bool up = text_is(how, "ceil"), down = text_is(how, "floor");
    if (!up && !down && !text_is(how, "common")) run_fail(r, "method must be common, ceil or floor");
    if (v.type == V_UNDEFINED) fail_undefined(r, v);
    if (!is_number(v) || v.type == V_BIG) run_fail(r, "type %s doesn't define __round__ method", type_name(v));
    if (!up && !down) return rounded(r, v, places);
    if (places > 18 || places < -18) run_limit(r, "a precision of over 18");
    value unit = binary(r, OP_POW, int_value(10), int_value(places)), x = binary(r, OP_MUL, v, unit);
    double f = x.type == V_FLOAT ? x.f : x.type == V_INT ? (double)x.i : x.b;
    if (f - f != 0) run_fail(r, "cannot convert float infinity or NaN to integer");
    value whole = x.type == V_FLOAT ? float_value(up ? ceil(f) : floor(f)) : x;
    if (whole.type == V_FLOAT && fabs(whole.f) < 9e18) whole = int_value((int64_t)whole.f);
    return binary(r, OP_DIV, whole, unit);
}

/* ---- anything ---- */

static value filter_default(struct run *r, value v, const value *arg) {
    bool use = v.type == V_UNDEFINED || (given(arg[1]) && truth(r, arg[1]) && !truth(r, v));
    return !use ? v : given(arg[0]) ? arg[0] : string_of(r, "");
}

static value filter_attr(struct run *r, value v, const value *arg) {
    struct text *name = want_text(r, arg[0], "attr");
    if (v.type == V_UNDEFINED) fail_undefined(r, v);
    if (v.type == V_DICT && !find_method(v, name) && !unsafe_method(v, name)) return undefined_value(r, NULL, type_name(v), arg[0]);
    return get_attr(r, v, name);
}

static const struct filter filters[] = {
    { "abs", "", 0, filter_abs, NULL },
    { "attr", "name", 1, filter_attr, NULL },
    { "capitalize", "", 0, filter_capitalize, NULL },
    { "center", "width", 0, filter_center, NULL },
    { "d", "default_value boolean", 0, filter_default, NULL },
    { "default", "default_value boolean", 0, filter_default, NULL },
    { "e", "", 0, filter_escape, NULL },
    { "escape", "", 0, filter_escape, NULL },
    { "float", "default", 0, filter_float, NULL },
    { "forceescape", "", 0, filter_forceescape, NULL },
    { "format", NULL, 0, NULL, filter_format },
    { "indent", "width first blank", 0, filter_indent, NULL },
    { "int", "default base", 0, filter_int, NULL },
    { "lower", "", 0, filter_lower, NULL },
    { "replace", "old new count", 2, filter_replace, NULL },
    { "round", "precision method", 0, filter_round, NULL },
    { "safe", "", 0, filter_safe, NULL },
    { "string", "", 0, filter_string, NULL },
    { "title", "", 0, filter_title, NULL },
    { "tojson", "ensure_ascii indent separators sort_keys", 0, filter_tojson, NULL },
    { "trim", "chars", 0, filter_trim, NULL },
    { "truncate", "length killwords end leeway", 0, filter_truncate, NULL },
    { "upper", "", 0, filter_upper, NULL },
    { "urlencode", "", 0, filter_urlencode, NULL },
    { "wordcount", "", 0, filter_wordcount, NULL },
    { NULL, NULL, 0, NULL, NULL },
};

static bool is_name(const char *word, const char *name, size_t n) { return strlen(word) == n && memcmp(word, name, n) == 0; }

const struct filter *find_filter(const char *name, size_t n) {
    for (const struct filter *f = filters; f->name; f++)
        if (is_name(f->name, name, n)) return f;
    for (const struct filter *f = sequence_filters; f->name; f++)
        if (is_name(f->name, name, n)) return f;
    return NULL;
}

const char *refused_filter(const char *name, size_t n) {
    static const char *const words[] = { "filesizeformat", "pprint", "striptags", "urlize", "wordwrap", "xmlattr", NULL };
    for (const char *const *w = words; *w; w++)
        if (is_name(*w, name, n)) return "no known chat template needs it";
    return is_name("random", name, n) ? "a prompt must not be a matter of chance" : NULL;
}

/* ---- tests ---- */

static bool test_boolean(struct run *r, value v, const value *arg) { return (void)r, (void)arg, v.type == V_BOOL; }
static bool test_callable(struct run *r, value v, const value *arg) {
    return (void)r, (void)arg, v.type == V_UNDEFINED || v.type == V_MACRO || v.type == V_METHOD || v.type == V_FUNCTION ||
           v.type == V_JOINER || v.type == V_LOOP;
}
static bool test_defined(struct run *r, value v, const value *arg) { return (void)r, (void)arg, v.type != V_UNDEFINED; }
static bool test_undefined(struct run *r, value v, const value *arg) { return (void)r, (void)arg, v.type == V_UNDEFINED; }
static bool test_none(struct run *r, value v, const value *arg) { return (void)r, (void)arg, v.type == V_NONE; }
static bool test_true(struct run *r, value v, const value *arg) { return (void)r, (void)arg, v.type == V_BOOL && v.b; }
static bool test_false(struct run *r, value v, const value *arg) { return (void)r, (void)arg, v.type == V_BOOL && !v.b; }
static bool test_integer(struct run *r, value v, const value *arg) { return (void)r, (void)arg, v.type == V_INT || v.type == V_BIG; }
static bool test_float(struct run *r, value v, const value *arg) { return (void)r, (void)arg, v.type == V_FLOAT; }
static bool test_number(struct run *r, value v, const value *arg) { return (void)r, (void)arg, is_number(v); }
static bool test_string(struct run *r, value v, const value *arg) { return (void)r, (void)arg, v.type == V_STRING; }
static bool test_mapping(struct run *r, value v, const value *arg) { return (void)r, (void)arg, v.type == V_DICT; }
static bool test_iterable(struct run *r, value v, const value *arg) { return (void)r, (void)arg, is_iterable(v); }
static bool test_escaped(struct run *r, value v, const value *arg) { return (void)r, (void)arg, v.type == V_STRING && v.s->markup; }
static bool test_sequence(struct run *r, value v, const value *arg) {
    return (void)r, (void)arg, v.type == V_UNDEFINED || v.type == V_STRING || v.type == V_LIST || v.type == V_TUPLE ||
           v.type == V_DICT || v.type == V_RANGE;
}
static bool test_lower(struct run *r, value v, const value *arg) { return (void)arg, text_is_case(to_string(r, v, false).s, false); }
static bool test_upper(struct run *r, value v, const value *arg) { return (void)arg, text_is_case(to_string(r, v, false).s, true); }
static bool test_in(struct run *r, value v, const value *arg) { return contains(r, arg[0], v); }
static bool test_eq(struct run *r, value v, const value *arg) { return equal(r, v, arg[0]); }
static bool test_ne(struct run *r, value v, const value *arg) { return !equal(r, v, arg[0]); }
static bool test_lt(struct run *r, value v, const value *arg) { return order(r, v, arg[0], "<") < 0; }
static bool test_le(struct run *r, value v, const value *arg) { return order(r, v, arg[0], "<=") <= 0; }
static bool test_gt(struct run *r, value v, const value *arg) { return order(r, v, arg[0], ">") == 1; }
static bool test_ge(struct run *r, value v, const value *arg) {
    int c = order(r, v, arg[0], ">=");
    return c == 0 || c == 1;
}
static bool test_divisible(struct run *r, value v, const value *arg) { return equal(r, binary(r, OP_MOD, v, arg[0]), int_value(0)); }
static bool test_odd(struct run *r, value v, const value *arg) { return (void)arg, equal(r, binary(r, OP_MOD, v, int_value(2)), int_value(1)); }
static bool test_even(struct run *r, value v, const value *arg) { return (void)arg, equal(r, binary(r, OP_MOD, v, int_value(2)), int_value(0)); }

/* The same object: what there is only one of, and what shares its memory. */
static bool test_sameas(struct run *r, value v, const value *arg) {
    if (v.type != arg[0].type) return false;
    return v.type < V_FLOAT ? equal(r, v, arg[0]) : v.type != V_FLOAT && v.list == arg[0].list;
}

static bool test_filter(struct run *r, value v, const value *arg) { return (void)r, (void)arg, v.type == V_STRING && find_filter(v.s->p, v.s->n); }
static bool test_test(struct run *r, value v, const value *arg) { return (void)r, (void)arg, v.type == V_STRING && find_test(v.s->p, v.s->n); }

const struct test *find_test(const char *name, size_t n) {
    static const struct test tests[] = {
        { "boolean", "", test_boolean }, { "callable", "", test_callable }, { "defined", "", test_defined },
        { "divisibleby", "num", test_divisible }, { "eq", "other", test_eq }, { "equalto", "other", test_eq },
        { "escaped", "", test_escaped }, { "even", "", test_even }, { "false", "", test_false }, { "filter", "", test_filter },
        { "float", "", test_float }, { "ge", "other", test_ge }, { "greaterthan", "other", test_gt }, { "gt", "other", test_gt },
        { "in", "seq", test_in }, { "integer", "", test_integer }, { "iterable", "", test_iterable }, { "le", "other", test_le },
        { "lessthan", "other", test_lt }, { "lower", "", test_lower }, { "lt", "other", test_lt }, { "mapping", "", test_mapping },
        { "ne", "other", test_ne }, { "none", "", test_none }, { "number", "", test_number }, { "odd", "", test_odd },
        { "sameas", "other", test_sameas }, { "sequence", "", test_sequence }, { "string", "", test_string },
        { "test", "", test_test }, { "true", "", test_true }, { "undefined", "", test_undefined }, { "upper", "", test_upper },
        { "==", "other", test_eq }, { "!=", "other", test_ne }, { "<", "other", test_lt }, { "<=", "other", test_le },
        { ">", "other", test_gt }, { ">=", "other", test_ge },
    };
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (is_name(tests[i].name, name, n)) return tests + i;
    return NULL;
}
