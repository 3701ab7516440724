/* template_value: what templates compute with: Python's None, booleans, numbers, strings, lists, dicts and their kin, with Python's
 * truth, equality, order, length, str() and repr(). Also JSON into values. It must not know nodes, filters or methods. */
#include <math.h>
#include <stdlib.h>

#include "tokenizer/template_parts.h"
#include "tokenizer/unicode.h"

value bool_value(bool b) { return (value){ V_BOOL, { .b = b } }; }
value int_value(int64_t i) { return (value){ V_INT, { .i = i } }; }
value float_value(double f) { return (value){ V_FLOAT, { .f = f } }; }

value list_value(struct run *r, value_type type, const value *p, size_t n) {
    struct list *l = take(r, sizeof *l);
    *l = (struct list){ p, n };
    return (value){ type, { .list = l } };
}

value undefined_value(struct run *r, const char *hint, const char *of, value name) {
    struct undefined *u = take(r, sizeof *u);
    *u = (struct undefined){ hint, of, name };
    return (value){ V_UNDEFINED, { .undefined = u } };
}

const char *type_name(value v) {
    static const char *const names[] = { "", "Undefined", "NoneType", "bool", "int", "int", "float", "str", "list", "tuple", "dict", "",
                                         "range", "generator", "Namespace", "LoopContext", "Macro", "builtin_function_or_method", "function",
                                         "Cycler", "Joiner" };
    static const char *const views[] = { "dict_keys", "dict_values", "dict_items" };
    if (v.type == V_STRING && v.s->markup) return "Markup";
    return v.type == V_VIEW ? views[v.view->which] : names[v.type];
}

_Noreturn void fail_undefined(struct run *r, value v) {
    const struct undefined *u = v.undefined;
    struct sink k = { 0 };
    if (u->hint) run_fail(r, "%s", u->hint);
    bool word = u->name.type == V_STRING;
    if (!u->of) {
        put_str(r, &k, u->name);
        run_fail(r, "'%.*s' is undefined", k.n < 100 ? (int)k.n : 100, k.p ? k.p : "");
    }
    put_repr(r, &k, u->name);
    run_fail(r, "%s%s object%s has no %s %.*s", word ? "'" : "", u->of, word ? "'" : "", word ? "attribute" : "element",
             k.n < 100 ? (int)k.n : 100, k.p);
}

/* ---- dicts ---- */

static bool is_number(value v) { return v.type == V_BOOL || v.type == V_INT || v.type == V_FLOAT; }
static int64_t whole_number(value v) { return v.type == V_INT ? v.i : v.b; } /* of an int or a bool */
static bool whole_double(double f) { return f >= -9223372036854775808.0 && f < 9223372036854775808.0 && f == floor(f); }

/* Equal values have equal hashes: 1, 1.0 and True are one key. */
static uint64_t hash_of(struct run *r, value v) {
    if (v.type == V_UNDEFINED || v.type == V_NONE) return (uint64_t)v.type;
    if (v.type == V_STRING || v.type == V_BIG) return hash_bytes(v.s->p, v.s->n);
    if (v.type == V_FLOAT && !whole_double(v.f)) return hash_bytes(&v.f, sizeof v.f);
    if (is_number(v)) {
        int64_t i = v.type == V_FLOAT ? (int64_t)v.f : whole_number(v);
        return hash_bytes(&i, sizeof i);
    }
    if (v.type != V_TUPLE) run_fail(r, "unhashable type: '%s'", type_name(v));
    uint64_t h = 7;
    enter(r);
    for (size_t i = 0; i < v.list->n; i++) h = (h ^ hash_of(r, v.list->p[i])) * 0x9E3779B97F4A7C15ull;
    r->depth--;
    tick(r, v.list->n);
    return h ^ h >> 29;
}

struct dict *new_dict(struct run *r) { return take(r, sizeof(struct dict)); }

enum { FEW = 8 };

static void index_dict(struct run *r, struct dict *d) {
    d->n_slots = d->cap * 2;
    d->slot = take(r, d->n_slots * sizeof *d->slot);
    for (uint32_t i = 0; i < d->n; i++) {
        uint32_t at = (uint32_t)(hash_of(r, d->p[i].key) % d->n_slots);
        while (d->slot[at]) at = at + 1 == d->n_slots ? 0 : at + 1;
        d->slot[at] = i + 1;
    }
}

const struct pair *dict_find(struct run *r, const struct dict *d, value key) {
    if (!d->slot) {
        if (key.type != V_STRING) hash_of(r, key); /* may it be a key at all? */
        for (uint32_t i = 0; i < d->n; i++)
            if (equal(r, d->p[i].key, key)) return d->p + i;
        return NULL;
    }
    uint64_t h = hash_of(r, key);
    for (uint32_t at = (uint32_t)(h % d->n_slots), steps = 0; d->slot[at]; at = at + 1 == d->n_slots ? 0 : at + 1) {
        if (++steps % 8 == 0) tick(r, 1);
        if (equal(r, d->p[d->slot[at] - 1].key, key)) return d->p + (d->slot[at] - 1);
    }
    return NULL;
}

void dict_set(struct run *r, struct dict *d, value key, value v) {
    struct pair *old = (struct pair *)dict_find(r, d, key);
    if (old) {
        old->v = v;
        return;
    }
    if (d->n == d->cap) {
        if (d->cap > UINT32_MAX / 4) run_limit(r, "a dict of over a billion entries");
        uint32_t cap = d->cap ? d->cap * 2 : 4;
        struct pair *p = take(r, cap * sizeof *p);
        if (d->n) memcpy(p, d->p, d->n * sizeof *p);
        d->p = p;
        d->cap = cap;
        if (cap > FEW) index_dict(r, d);
    }
    d->p[d->n] = (struct pair){ key, v };
    if (d->slot) {
        uint32_t at = (uint32_t)(hash_of(r, key) % d->n_slots);
        while (d->slot[at]) at = at + 1 == d->n_slots ? 0 : at + 1;
        d->slot[at] = d->n + 1;
    }
    d->n++;
}

/* ---- truth, length, items ---- */

static int64_t range_length(const struct range *g) {
    if (g->step > 0 ? g->start >= g->stop : g->start <= g->stop) return 0;
    return g->step > 0 ? (g->stop - g->start - 1) / g->step + 1 : (g->start - g->stop - 1) / -g->step + 1;
}

bool has_length(value v) { return v.type == V_UNDEFINED || v.type == V_STRING || (v.type >= V_LIST && v.type <= V_RANGE) || v.type == V_LOOP; }

int64_t length_of(struct run *r, value v) {
    switch (v.type) {
    case V_UNDEFINED: return 0;
    case V_STRING: return (int64_t)text_chars(v.s);
    case V_LIST:
    case V_TUPLE: return (int64_t)v.list->n;
    case V_DICT: return v.dict->n;
    case V_VIEW: return v.view->dict->n;
    case V_RANGE: return range_length(v.range);
    case V_LOOP: return loop_attr(r, v.loop, &(struct text){ .p = "length", .n = 6 }).i;
    default: run_fail(r, "object of type '%s' has no len()", type_name(v));
    }
}

bool truth(struct run *r, value v) {
    switch (v.type) {
    case V_ABSENT:
    case V_UNDEFINED:
    case V_NONE: return false;
    case V_BOOL: return v.b;
    case V_INT: return v.i != 0;
    case V_FLOAT: return v.f != 0;
    default: return !has_length(v) || length_of(r, v) != 0;
    }
}

bool is_iterable(value v) { return has_length(v) || v.type == V_ITER; }

static struct list characters(struct run *r, struct text *s) {
    size_t n = text_chars(s), at = 0;
    value *p = take(r, n * sizeof *p);
    for (size_t i = 0; i < n; i++) {
        size_t len = (size_t)utf8_len(s->p[at]);
        p[i] = string_part(r, s, at, at + len);
        at += len;
    }
    tick(r, n);
    return (struct list){ p, n };
}

static struct list dict_items(struct run *r, const struct dict *d, int which) {
    value *p = take(r, d->n * sizeof *p);
    for (uint32_t i = 0; i < d->n; i++) {
        if (which == VIEW_ITEMS) {
            value *two = take(r, 2 * sizeof *two);
            two[0] = d->p[i].key;
            two[1] = d->p[i].v;
            p[i] = list_value(r, V_TUPLE, two, 2);
        } else p[i] = which == VIEW_KEYS ? d->p[i].key : d->p[i].v;
    }
    tick(r, d->n);
    return (struct list){ p, d->n };
}

static struct list range_items(struct run *r, const struct range *g) {
    size_t n = (size_t)range_length(g);
    value *p = take(r, n * sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = int_value(g->start + (int64_t)i * g->step);
    tick(r, n);
    return (struct list){ p, n };
}

/* What is left of it; nothing is left afterwards. */
static struct list iter_items(struct run *r, struct iter *it) {
    if (it->make) {
        struct list (*make)(struct run *, struct iter *) = it->make;
        it->make = NULL;
        it->items = make(r, it);
    }
    if (it->at == it->items.n) return (struct list){ NULL, 0 };
    struct list left = { it->items.p + it->at, it->items.n - it->at };
    it->at = it->items.n;
    return left;
}

struct list items_of(struct run *r, value v) {
    switch (v.type) {
    case V_UNDEFINED: return (struct list){ NULL, 0 };
    case V_STRING: return characters(r, v.s);
    case V_LIST:
    case V_TUPLE: return *v.list;
    case V_DICT: return dict_items(r, v.dict, VIEW_KEYS);
    case V_VIEW: return dict_items(r, v.view->dict, v.view->which);
    case V_RANGE: return range_items(r, v.range);
    case V_ITER: return iter_items(r, v.iter);
    default: run_fail(r, "'%s' object is not iterable", type_name(v));
    }
}

bool contains(struct run *r, value container, value v) {
    if (container.type == V_STRING) {
        if (v.type == V_UNDEFINED) fail_undefined(r, v);
        if (v.type != V_STRING) run_fail(r, "'in <string>' requires string as left operand, not %s", type_name(v));
        tick(r, container.s->n / 64);
        return text_find(container.s, v.s, 0) != SIZE_MAX;
    }
    if (container.type == V_DICT || (container.type == V_VIEW && container.view->which == VIEW_KEYS))
        return dict_find(r, container.type == V_DICT ? container.dict : container.view->dict, v) != NULL;
    if (!is_iterable(container)) run_fail(r, "argument of type '%s' is not iterable", type_name(container));
    struct list l = items_of(r, container);
    tick(r, l.n);
    for (size_t i = 0; i < l.n; i++)
        if (equal(r, l.p[i], v)) return true;
    return false;
}

/* ---- equality and order ---- */

static bool lists_equal(struct run *r, const struct list *a, const struct list *b) {
    bool same = a->n == b->n;
    enter(r);
    for (size_t i = 0; same && i < a->n; i++) same = equal(r, a->p[i], b->p[i]);
    r->depth--;
    return same;
}

static bool dicts_equal(struct run *r, const struct dict *a, const struct dict *b) {
    bool same = a->n == b->n;
    enter(r);
    for (uint32_t i = 0; same && i < a->n; i++) {
        const struct pair *p = dict_find(r, b, a->p[i].key);
        same = p && equal(r, a->p[i].v, p->v);
    }
    r->depth--;
    return same;
}

/* An int against a float, exactly: <0, 0, >0; 2 for NaN. */
static int order_mixed(int64_t i, double f) {
    if (f != f) return 2;
    if (f >= 9223372036854775808.0) return -1;
    if (f < -9223372036854775808.0) return 1;
    int64_t whole = (int64_t)f;
    if (i != whole) return i < whole ? -1 : 1;
    double rest = f - (double)whole;
    return rest > 0 ? -1 : rest < 0;
}

static int order_numbers(value a, value b) {
    if (a.type == V_FLOAT && b.type == V_FLOAT) return a.f < b.f ? -1 : a.f > b.f ? 1 : a.f == b.f ? 0 : 2;
    if (b.type == V_FLOAT) return order_mixed(whole_number(a), b.f);
    if (a.type == V_FLOAT) {
        int c = order_mixed(whole_number(b), a.f);
        return c == 2 ? 2 : -c;
    }
    int64_t i = whole_number(a), k = whole_number(b);
    return (i > k) - (i < k);
}

static int order_bytes(const struct text *a, const struct text *b) {
    size_t n = a->n < b->n ? a->n : b->n;
    int c = n ? memcmp(a->p, b->p, n) : 0;
    return c ? (c > 0) - (c < 0) : (a->n > b->n) - (a->n < b->n);
}

static bool is_numeric(value v) { return is_number(v) || v.type == V_BIG; }

/* One of them is beyond 64 bits. */
static int order_big(value a, value b) {
    if (a.type != V_BIG) return -order_big(b, a);
    bool negative = a.s->p[0] == '-';
    if (b.type == V_FLOAT) {
        double x = strtod(a.s->p, NULL);
        return b.f != b.f ? 2 : x < b.f ? -1 : x > b.f;
    }
    if (b.type != V_BIG || negative != (b.s->p[0] == '-')) return negative ? -1 : 1;
    int c = a.s->n != b.s->n ? (a.s->n > b.s->n ? 1 : -1) : order_bytes(a.s, b.s);
    return negative ? -c : c;
}

bool equal(struct run *r, value a, value b) {
    tick(r, 1);
    if (is_number(a) && is_number(b)) return order_numbers(a, b) == 0;
    if (is_numeric(a) && is_numeric(b)) return order_big(a, b) == 0;
    if (a.type != b.type) return false;
    switch (a.type) {
    case V_UNDEFINED:
    case V_NONE: return true;
    case V_STRING: return a.s->n == b.s->n && (a.s->p == b.s->p || memcmp(a.s->p, b.s->p, a.s->n) == 0);
    case V_LIST:
    case V_TUPLE: return lists_equal(r, a.list, b.list);
    case V_DICT: return dicts_equal(r, a.dict, b.dict);
    case V_RANGE: {
        struct list x = range_items(r, a.range), y = range_items(r, b.range);
        return lists_equal(r, &x, &y);
    }
    case V_VIEW:
        if (a.view->which == VIEW_KEYS && b.view->which == VIEW_KEYS && a.view->dict->n == b.view->dict->n) {
            for (uint32_t i = 0; i < a.view->dict->n; i++)
                if (!dict_find(r, b.view->dict, a.view->dict->p[i].key)) return false;
            return true;
        }
        return a.view == b.view;
    case V_METHOD: return a.method->row == b.method->row && equal(r, a.method->self, b.method->self);
    default: return a.list == b.list; /* the same object */
    }
}

int order(struct run *r, value a, value b, const char *op) {
    tick(r, 1);
    if (a.type == V_UNDEFINED) fail_undefined(r, a);
    if (b.type == V_UNDEFINED) fail_undefined(r, b);
    if (is_number(a) && is_number(b)) return order_numbers(a, b);
    if (is_numeric(a) && is_numeric(b)) return order_big(a, b);
    if (a.type == V_STRING && b.type == V_STRING) return order_bytes(a.s, b.s);
    if (a.type != b.type || (a.type != V_LIST && a.type != V_TUPLE))
        run_fail(r, "'%s' not supported between instances of '%s' and '%s'", op, type_name(a), type_name(b));
    size_t n = a.list->n < b.list->n ? a.list->n : b.list->n, i = 0;
    while (i < n && equal(r, a.list->p[i], b.list->p[i])) i++;
    if (i == n) return (a.list->n > b.list->n) - (a.list->n < b.list->n);
    enter(r);
    int c = order(r, a.list->p[i], b.list->p[i], op);
    r->depth--;
    return c;
}

/* ---- str and repr ---- */

/* The shortest digits that read back as x, in Python's shape. */
void format_double(double x, char out[40]) {
    char digits[40];
    if (x != x || x - x != 0) {
        strcpy(out, x != x ? "nan" : x > 0 ? "inf" : "-inf");
        return;
    }
    int p = 1;
    for (snprintf(digits, sizeof digits, "%.*e", p - 1, x); p < 17 && strtod(digits, NULL) != x; p++) snprintf(digits, sizeof digits, "%.*e", p, x);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent >= -4 && exponent < 16) {
        snprintf(out, 40, "%.*f", p - 1 - exponent > 1 ? p - 1 - exponent : 1, x);
        return;
    }
    *strchr(digits, 'e') = 0;
    snprintf(out, 40, "%.24se%c%02u", digits, exponent < 0 ? '-' : '+', (unsigned)abs(exponent) % 1000);
}

static bool printable(uint32_t c) {
    return c == ' ' ||
           !uni_in(c, 1u << UNI_CC | 1u << UNI_CF | 1u << UNI_CS | 1u << UNI_CO | 1u << UNI_CN | 1u << UNI_ZL | 1u << UNI_ZP | 1u << UNI_ZS);
}

static void repr_text(struct run *r, struct sink *k, const struct text *s) {
    bool single = s->n && memchr(s->p, '\'', s->n), two = s->n && memchr(s->p, '"', s->n);
    char quote = single && !two ? '"' : '\'', code[16];
    int len;
    if (s->markup) sink_str(r, k, "Markup(");
    sink_add(r, k, &quote, 1, false);
    for (size_t i = 0; i < s->n; i += (size_t)len) {
        uint32_t c = utf8_next(s->p + i, &len);
        const char *short_form = c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : c == '\\' ? "\\\\" : NULL;
        if (c == (uint32_t)quote) short_form = "\\'";
        if (short_form) sink_add(r, k, short_form, 2, text_user_at(s, i));
        else if (printable(c)) sink_part(r, k, s, i, i + (size_t)len);
        else {
            snprintf(code, sizeof code, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)c);
            sink_add(r, k, code, strlen(code), text_user_at(s, i));
        }
    }
    sink_add(r, k, &quote, 1, false);
    if (s->markup) sink_str(r, k, ")");
}

static void repr_list(struct run *r, struct sink *k, struct list l, const char *open, const char *close) {
    enter(r);
    sink_str(r, k, open);
    for (size_t i = 0; i < l.n; i++) {
        if (i) sink_str(r, k, ", ");
        put_repr(r, k, l.p[i]);
    }
    if (*close == ')' && l.n == 1 && open[0] == '(') sink_str(r, k, ","); /* (1,) */
    sink_str(r, k, close);
    r->depth--;
}

static void repr_dict(struct run *r, struct sink *k, const struct dict *d) {
    enter(r);
    sink_str(r, k, "{");
    for (uint32_t i = 0; i < d->n; i++) {
        if (i) sink_str(r, k, ", ");
        put_repr(r, k, d->p[i].key);
        sink_str(r, k, ": ");
        put_repr(r, k, d->p[i].v);
    }
    sink_str(r, k, "}");
    r->depth--;
}

static void repr_loop(struct run *r, struct sink *k, struct loop *l) {
    int64_t at = loop_attr(r, l, &(struct text){ .p = "index", .n = 5 }).i, n = loop_attr(r, l, &(struct text){ .p = "length", .n = 6 }).i;
    sink_fmt(r, k, "<LoopContext %lld/%lld>", (long long)at, (long long)n);
}

static void repr_object(struct run *r, struct sink *k, value v) {
    static const char *const views[] = { "dict_keys([", "dict_values([", "dict_items([" };
    switch (v.type) {
    case V_VIEW: repr_list(r, k, items_of(r, v), views[v.view->which], "])"); return;
    case V_RANGE:
        sink_fmt(r, k, "range(%lld, %lld", (long long)v.range->start, (long long)v.range->stop);
        if (v.range->step != 1) sink_fmt(r, k, ", %lld", (long long)v.range->step);
        sink_str(r, k, ")");
        return;
    case V_NAMESPACE:
        sink_str(r, k, "<Namespace ");
        repr_dict(r, k, v.dict);
        sink_str(r, k, ">");
        return;
    case V_LOOP: repr_loop(r, k, v.loop); return;
    case V_MACRO:
        if (v.macro->node->kind == N_CALL_BLOCK) sink_str(r, k, "<Macro anonymous>");
        else {
            sink_str(r, k, "<Macro ");
            repr_text(r, k, &v.macro->node->name->text);
            sink_str(r, k, ">");
        }
        return;
    default: run_fail(r, "a %s is shown as text, which has none%s", type_name(v),
                      v.type == V_ITER ? " (it wants |list or |join)" : v.type == V_METHOD ? " (a call's brackets are missing?)" : "");
    }
}

void put_repr(struct run *r, struct sink *k, value v) {
    char number_text[40];
    tick(r, 1);
    switch (v.type) {
    case V_UNDEFINED: sink_str(r, k, "Undefined"); return;
    case V_NONE: sink_str(r, k, "None"); return;
    case V_BOOL: sink_str(r, k, v.b ? "True" : "False"); return;
    case V_INT: sink_fmt(r, k, "%lld", (long long)v.i); return;
    case V_BIG: sink_text(r, k, v.s); return;
    case V_FLOAT:
        format_double(v.f, number_text);
        sink_str(r, k, number_text);
        return;
    case V_STRING: repr_text(r, k, v.s); return;
    case V_LIST: repr_list(r, k, *v.list, "[", "]"); return;
    case V_TUPLE: repr_list(r, k, *v.list, "(", ")"); return;
    case V_DICT: repr_dict(r, k, v.dict); return;
    default: repr_object(r, k, v);
    }
}

void put_str(struct run *r, struct sink *k, value v) {
    if (v.type == V_STRING) sink_text(r, k, v.s);
    else if (v.type != V_UNDEFINED) put_repr(r, k, v);
}

value to_string(struct run *r, value v, bool keep_markup) {
    struct sink k = { 0 };
    if (v.type == V_STRING && (keep_markup || !v.s->markup)) return v;
    if (v.type == V_STRING) return string_part(r, v.s, 0, v.s->n);
    put_str(r, &k, v);
    return sink_value(r, &k);
}

int64_t want_int(struct run *r, value v, const char *what) {
    if (v.type == V_UNDEFINED) fail_undefined(r, v);
    if (v.type == V_BOOL) return v.b;
    if (v.type != V_INT) run_fail(r, "%s: expected a whole number, found '%s'", what, type_name(v));
    return v.i;
}

struct text *want_text(struct run *r, value v, const char *what) {
    if (v.type == V_UNDEFINED) fail_undefined(r, v);
    if (v.type != V_STRING) run_fail(r, "%s: expected a string, found '%s'", what, type_name(v));
    return v.s;
}

/* ---- JSON ---- */

static value json_number(struct run *r, const json *j) {
    int64_t i;
    if (strpbrk(j->s, ".eE")) return float_value(strtod(j->s, NULL));
    if (json_int(j, &i) == 0) return int_value(i);
    value v = string_of(r, j->s);
    v.type = V_BIG;
    return v;
}

static value json_text(struct run *r, const char *p, size_t n, bool user) {
    struct text *s = take(r, sizeof *s);
    *s = (struct text){ .p = p, .n = n, .chars = SIZE_MAX };
    if (user && n) {
        text_range *all = take(r, sizeof *all);
        *all = (text_range){ 0, n };
        s->user = all;
        s->n_user = 1;
    }
    return (value){ V_STRING, { .s = s } };
}

/* j's depth is bounded by the parser of JSON. */
value value_of_json(struct run *r, const json *j, bool user) {
    tick(r, 1);
    switch (j->type) {
    case JSON_NULL: return NONE;
    case JSON_FALSE:
    case JSON_TRUE: return bool_value(j->type == JSON_TRUE);
    case JSON_NUMBER: return json_number(r, j);
    case JSON_STRING: return json_text(r, j->s, j->n, user && (!r->o.is_user || r->o.is_user(j)));
    case JSON_ARRAY: {
        value *p = take(r, j->n * sizeof *p);
        size_t n = 0;
        for (const json *k = j->child; k; k = k->next) p[n++] = value_of_json(r, k, user);
        return list_value(r, V_LIST, p, n);
    }
    case JSON_OBJECT: break;
    }
    struct dict *d = new_dict(r);
    for (const json *k = j->child; k; k = k->next) dict_set(r, d, json_text(r, k->key, k->key_n, user), value_of_json(r, k, user));
    return (value){ V_DICT, { .dict = d } };
}
