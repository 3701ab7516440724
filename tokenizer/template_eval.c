/* template_eval: expressions: names, operators, subscripts, calls. Python's arithmetic on 64-bit numbers; what it would compute
 * beyond them is a limit. Attributes are data's own: a list's or dict's methods that templates may use, and a dict's entries. */
#include <math.h>

#include "tokenizer/template_parts.h"

/* ---- arithmetic ---- */

static bool is_number(value v) { return v.type == V_BOOL || v.type == V_INT || v.type == V_FLOAT; }
static double number(value v) { return v.type == V_FLOAT ? v.f : v.type == V_INT ? (double)v.i : v.b; }
static int64_t whole(value v) { return v.type == V_INT ? v.i : v.b; }

static const char *const op_signs[] = { "+", "-", "*", "/", "//", "%", "** or pow()", "==", "!=", "<", "<=", ">", ">=", "in", "not in" };

static _Noreturn void beyond(struct run *r) { run_limit(r, "a whole number beyond 64 bits"); }
static _Noreturn void by_zero(struct run *r) { run_fail(r, "division by zero"); }

/* i to the power n, n >= 0. */
static int64_t int_power(struct run *r, int64_t i, int64_t n) {
    int64_t result = 1;
    while (n) {
        if ((n & 1) && __builtin_mul_overflow(result, i, &result)) beyond(r);
        n >>= 1;
        if (n && __builtin_mul_overflow(i, i, &i)) beyond(r);
    }
    return result;
}

static value int_arithmetic(struct run *r, enum op op, int64_t a, int64_t b) {
    int64_t c = 0;
    bool over = false;
    switch (op) {
    case OP_ADD: over = __builtin_add_overflow(a, b, &c); break;
    case OP_SUB: over = __builtin_sub_overflow(a, b, &c); break;
    case OP_MUL: over = __builtin_mul_overflow(a, b, &c); break;
    case OP_POW:
        if (b < 0 && a == 0) run_fail(r, "0.0 cannot be raised to a negative power");
        if (b < 0) return float_value(pow((double)a, (double)b));
        c = a == 0 || a == 1 ? (b ? a : 1) : a == -1 ? (b & 1 ? -1 : 1) : int_power(r, a, b);
        break;
    default: /* towards minus infinity, as Python's */
        if (b == 0) by_zero(r);
        if (op == OP_DIV) return float_value((double)a / (double)b);
        if (b == -1) {
            over = op == OP_FLOORDIV && a == INT64_MIN;
            c = op == OP_FLOORDIV && !over ? -a : 0;
        } else c = op == OP_FLOORDIV ? a / b - (a % b != 0 && (a < 0) != (b < 0)) : a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0);
    }
    if (over) beyond(r);
    return int_value(c);
}

static value float_arithmetic(struct run *r, enum op op, double a, double b) {
    if (b == 0 && (op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD)) by_zero(r);
    double mod;
    switch (op) {
    case OP_ADD: return float_value(a + b);
    case OP_SUB: return float_value(a - b);
    case OP_MUL: return float_value(a * b);
    case OP_DIV: return float_value(a / b);
    case OP_POW:
        if (a == 0 && b < 0) run_fail(r, "0.0 cannot be raised to a negative power");
        if (a < 0 && b != floor(b) && a - a == 0 && b - b == 0) run_fail(r, "a negative number to a broken power is complex");
        if (isinf(pow(a, b)) && !isinf(a) && !isinf(b)) run_fail(r, "a float beyond its range");
        return float_value(pow(a, b));
    default:
        mod = fmod(a, b);
        if (mod != 0 && (b < 0) != (mod < 0)) mod += b;
        else if (mod == 0) mod = copysign(0.0, b);
        if (op == OP_MOD) return float_value(mod);
        double div = (a - mod) / b, floored = floor(div);
        return float_value(div == 0 ? copysign(0.0, a / b) : div - floored > 0.5 ? floored + 1 : floored);
    }
}

/* ---- + and * of strings and lists ---- */

static value join_lists(struct run *r, value a, value b) {
    value *p = take(r, (a.list->n + b.list->n) * sizeof *p);
    if (a.list->n) memcpy(p, a.list->p, a.list->n * sizeof *p);
    if (b.list->n) memcpy(p + a.list->n, b.list->p, b.list->n * sizeof *p);
    tick(r, a.list->n + b.list->n);
    return list_value(r, a.type, p, a.list->n + b.list->n);
}

static value join_strings(struct run *r, value a, value b) {
    struct sink k = { 0 };
    bool markup = a.s->markup || b.s->markup;
    if (markup) {
        a = escaped(r, a);
        b = escaped(r, b);
    }
    sink_text(r, &k, a.s);
    sink_text(r, &k, b.s);
    value v = sink_value(r, &k);
    v.s->markup = markup;
    return v;
}

static value repeat(struct run *r, value v, int64_t times) {
    if (times < 0) times = 0;
    size_t n = v.type == V_STRING ? v.s->n : v.list->n, all;
    if (__builtin_mul_overflow(n, (size_t)times, &all) || all > SIZE_MAX / 64) run_limit(r, "something repeated %lld times", (long long)times);
    if (v.type != V_STRING) {
        value *p = take(r, all * sizeof *p);
        tick(r, all);
        for (size_t i = 0; n && i < all; i++) p[i] = v.list->p[i % n];
        return list_value(r, v.type, p, all);
    }
    struct sink k = { 0 };
    if (all > r->o.max_memory) run_limit(r, "a text of %zu bytes", all);
    for (int64_t i = 0; n && i < times; i++) {
        tick(r, 1);
        sink_text(r, &k, v.s);
    }
    value out = sink_value(r, &k);
    out.s->markup = v.s->markup;
    return out;
}

static bool repeatable(value v) { return v.type == V_STRING || v.type == V_LIST || v.type == V_TUPLE; }

value binary(struct run *r, enum op op, value a, value b) {
    tick(r, 1);
    if (op == OP_MOD && a.type == V_STRING) return percent_format(r, a, b);
    if (a.type == V_UNDEFINED) fail_undefined(r, a);
    if (b.type == V_UNDEFINED) fail_undefined(r, b);
    if (is_number(a) && is_number(b))
        return a.type == V_FLOAT || b.type == V_FLOAT ? float_arithmetic(r, op, number(a), number(b)) : int_arithmetic(r, op, whole(a), whole(b));
    if (a.type == V_BIG || b.type == V_BIG) beyond(r);
    if (op == OP_ADD && a.type == V_STRING && b.type == V_STRING) return join_strings(r, a, b);
    if (op == OP_ADD && a.type == b.type && (a.type == V_LIST || a.type == V_TUPLE)) return join_lists(r, a, b);
    if (op == OP_ADD && repeatable(a)) run_fail(r, "can only concatenate %s (not \"%s\") to %s", type_name(a), type_name(b), type_name(a));
    if (op == OP_MUL && repeatable(a) && (b.type == V_INT || b.type == V_BOOL)) return repeat(r, a, whole(b));
    if (op == OP_MUL && repeatable(b) && (a.type == V_INT || a.type == V_BOOL)) return repeat(r, b, whole(a));
    run_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'", op_signs[op], type_name(a), type_name(b));
}

value negative(struct run *r, value v, bool minus) {
    if (v.type == V_UNDEFINED) fail_undefined(r, v);
    if (v.type == V_BIG) beyond(r);
    if (!is_number(v)) run_fail(r, "bad operand type for unary %c: '%s'", minus ? '-' : '+', type_name(v));
    if (v.type == V_FLOAT) return float_value(minus ? -v.f : v.f);
    return minus ? int_arithmetic(r, OP_SUB, 0, whole(v)) : int_value(whole(v));
}

static bool compare(struct run *r, enum op op, value a, value b) {
    if (op == OP_EQ || op == OP_NE) return equal(r, a, b) == (op == OP_EQ);
    if (op == OP_IN || op == OP_NOT_IN) return contains(r, b, a) == (op == OP_IN);
    int c = order(r, a, b, op_signs[op]);
    return op == OP_LT ? c < 0 : op == OP_LE ? c <= 0 : op == OP_GT ? c == 1 : c == 0 || c == 1;
}

/* ---- subscripts ---- */

/* An index or key into a sequence or mapping; false: there is none such. */
static bool item(struct run *r, value v, value key, value *out) {
    if (v.type == V_DICT) {
        const struct pair *p = key.type == V_LIST || key.type == V_DICT ? NULL : dict_find(r, v.dict, key);
        if (p) *out = p->v;
        return p != NULL;
    }
    if (v.type == V_LOOP || v.type == V_NAMESPACE || (key.type != V_INT && key.type != V_BOOL)) return false;
    if (v.type != V_STRING && v.type != V_LIST && v.type != V_TUPLE && v.type != V_RANGE) return false;
    int64_t i = whole(key), n = length_of(r, v);
    if (i < 0) i += n;
    if (i < 0 || i >= n) return false;
    if (v.type == V_STRING) {
        size_t at = text_byte(v.s, (size_t)i);
        *out = string_part(r, v.s, at, text_byte(v.s, (size_t)i + 1));
        out->s->markup = v.s->markup;
        tick(r, v.s->n / 64);
    } else *out = v.type == V_RANGE ? int_value(v.range->start + i * v.range->step) : v.list->p[i];
    return true;
}

/* An attribute that Python's object of this kind has; false: none. */
static bool attribute(struct run *r, value v, const struct text *name, value *out) {
    if (v.type == V_LOOP && (*out = loop_attr(r, v.loop, name)).type != V_ABSENT) return true;
    if (v.type == V_NAMESPACE) {
        const struct pair *p = dict_find(r, v.dict, (value){ V_STRING, { .s = (struct text *)name } });
        if (p) *out = p->v;
        return p != NULL;
    }
    if (v.type == V_CYCLER && text_is(name, "current")) return *out = v.cycler->items.p[v.cycler->at], true;
    if (v.type == V_MACRO && text_is(name, "name") && v.macro->node->kind == N_MACRO)
        return *out = (value){ V_STRING, { .s = (struct text *)&v.macro->node->name->text } }, true;
    if (unsafe_method(v, name)) {
        struct sink k = { 0 };
        sink_fmt(r, &k, "access to attribute '%.*s' of '%s' object is unsafe", (int)(name->n < 60 ? name->n : 60), name->p, type_name(v));
        sink_add(r, &k, "", 1, false);
        *out = undefined_value(r, k.p, NULL, NONE);
        return true;
    }
    const struct method_row *row = find_method(v, name);
    if (!row) return false;
    struct method *m = take(r, sizeof *m);
    *m = (struct method){ v, row };
    return *out = (value){ V_METHOD, { .method = m } }, true;
}

static value lacks(struct run *r, value v, value name) { return undefined_value(r, NULL, type_name(v), name); }

value get_item(struct run *r, value v, value key) {
    value out;
    if (v.type == V_UNDEFINED) fail_undefined(r, v);
    if (item(r, v, key, &out)) return out;
    if (key.type == V_STRING && attribute(r, v, key.s, &out)) return out;
    return lacks(r, v, key);
}

value get_attr(struct run *r, value v, const struct text *name) {
    value out, key = { V_STRING, { .s = (struct text *)name } };
    if (v.type == V_UNDEFINED) fail_undefined(r, v);
    if (attribute(r, v, name, &out) || item(r, v, key, &out)) return out;
    return lacks(r, v, key);
}

static int64_t bound(struct run *r, value v, int64_t otherwise, int64_t n, int64_t step) {
    if (v.type == V_NONE) return otherwise;
    if (v.type == V_UNDEFINED) fail_undefined(r, v);
    if (v.type != V_INT && v.type != V_BOOL) run_fail(r, "slice indices must be integers or None or have an __index__ method");
    int64_t i = whole(v);
    if (i < 0) i = i < -n ? -1 : i + n;
    if (i < 0) return step < 0 ? -1 : 0;
    return i < n ? i : step < 0 ? n - 1 : n;
}

static value slice_string(struct run *r, struct text *s, int64_t at, int64_t count, int64_t step) {
    value v;
    if (count == 0) v = string_of(r, "");
    else if (step == 1) v = string_part(r, s, text_byte(s, (size_t)at), text_byte(s, (size_t)(at + count)));
    else {
        struct sink k = { 0 };
        struct list chars = items_of(r, (value){ V_STRING, { .s = s } });
        for (int64_t i = 0; i < count; i++) sink_text(r, &k, chars.p[at + i * step].s);
        v = sink_value(r, &k);
    }
    v.s->markup = s->markup;
    tick(r, s->n / 64);
    return v;
}

value slice(struct run *r, value v, value from, value to, value step) {
    if (v.type == V_UNDEFINED) fail_undefined(r, v);
    if (v.type != V_STRING && v.type != V_LIST && v.type != V_TUPLE && v.type != V_RANGE)
        run_fail(r, v.type == V_DICT ? "unhashable type: 'slice'%s" : "'%s' object is not subscriptable", v.type == V_DICT ? "" : type_name(v));
    int64_t by = step.type == V_NONE ? 1 : want_int(r, step, "a slice's step"), n = length_of(r, v);
    if (by == 0) run_fail(r, "slice step cannot be zero");
    if (by < -n - 1) by = -n - 1;
    if (by > n + 1) by = n + 1;
    int64_t a = bound(r, from, by < 0 ? n - 1 : 0, n, by), b = bound(r, to, by < 0 ? -1 : n, n, by);
    int64_t count = by > 0 ? (a < b ? (b - a - 1) / by + 1 : 0) : a > b ? (a - b - 1) / -by + 1 : 0;
    if (v.type == V_STRING) return slice_string(r, v.s, a, count, by);
    struct list l = items_of(r, v);
    value_type type = v.type == V_TUPLE ? V_TUPLE : V_LIST;
    if (by == 1 || count == 0) return list_value(r, type, count ? l.p + a : NULL, (size_t)count);
    value *p = take(r, (size_t)count * sizeof *p);
    for (int64_t i = 0; i < count; i++) p[i] = l.p[a + i * by];
    tick(r, (size_t)count);
    return list_value(r, type, p, (size_t)count);
}

/* ---- calls ---- */

static void add_star(struct run *r, struct call *c, value v, int cap) {
    if (v.type == V_UNDEFINED || !is_iterable(v)) run_fail(r, "argument after * must be an iterable, not %s", type_name(v));
    struct list l = items_of(r, v);
    if (l.n > (size_t)(cap - c->n)) run_limit(r, "a call with over %d arguments", cap);
    for (size_t i = 0; i < l.n; i++) c->p[c->n++] = l.p[i];
}

static void add_keyword(struct run *r, struct call *c, const struct text *name, value v) {
    if (c->n_kw == MAX_CALLS_ARGS) run_limit(r, "a call with over %d arguments", MAX_CALLS_ARGS);
    for (int i = 0; i < c->n_kw; i++)
        if (c->kw[i].name->n == name->n && memcmp(c->kw[i].name->p, name->p, name->n) == 0) run_fail(r, "an argument is given twice by name");
    c->kw[c->n_kw++] = (struct keyword){ name, v };
}

struct call *eval_args(struct run *r, struct scope *s, const struct args *a) {
    struct call *c = take(r, sizeof *c);
    int n = 0, n_kw = 0, cap = a->star ? MAX_CALLS_ARGS : 0, cap_kw = a->star_star ? MAX_CALLS_ARGS : 0;
    for (const struct node *x = a->list; x; x = x->next) n++;
    for (const struct node *x = a->keywords; x; x = x->next) n_kw++;
    c->p = take(r, (size_t)(cap ? cap : n) * sizeof *c->p);
    c->kw = take(r, (size_t)(cap_kw ? cap_kw : n_kw) * sizeof *c->kw);
    for (const struct node *x = a->list; x; x = x->next) {
        if (cap && c->n == cap) run_limit(r, "a call with over %d arguments", cap);
        c->p[c->n++] = eval(r, s, x);
    }
    if (a->star) add_star(r, c, eval(r, s, a->star), cap);
    for (const struct node *x = a->keywords; x; x = x->next) add_keyword(r, c, &x->name->text, eval(r, s, x->a));
    if (a->star_star) {
        value v = eval(r, s, a->star_star);
        if (v.type != V_DICT) run_fail(r, "argument after ** must be a mapping, not %s", type_name(v));
        for (uint32_t i = 0; i < v.dict->n; i++) add_keyword(r, c, want_text(r, v.dict->p[i].key, "keywords"), v.dict->p[i].v);
    }
    return c;
}

/* The next word of "a b c"; its length in *n, 0 at the end. A '/' stands alone. */
static const char *next_word(const char *p, size_t *n) {
    p += *n;
    p += *p == ' ';
    *n = strcspn(p, " ");
    return p;
}

void bind_args(struct run *r, const char *who, const char *params, int required, const struct call *c, value *out) {
    int i = 0, by_name = 0;
    bool named = strchr(params, '/') == NULL;
    size_t n = 0;
    for (const char *p = next_word(params, &n); n; p = next_word(p, &n)) {
        if (*p == '/') {
            named = true;
            continue;
        }
        out[i] = i < c->n ? c->p[i] : (value){ V_ABSENT, { 0 } };
        for (int k = 0; named && k < c->n_kw; k++) {
            if (c->kw[k].name->n != n || memcmp(c->kw[k].name->p, p, n) != 0) continue;
            if (i < c->n) run_fail(r, "%s: got multiple values for argument '%.*s'", who, (int)n, p);
            out[i] = c->kw[k].v;
            by_name++;
        }
        if (i < required && out[i].type == V_ABSENT) run_fail(r, "%s: missing a required argument: '%.*s'", who, (int)n, p);
        i++;
    }
    if (c->n > i) run_fail(r, "%s: takes at most %d argument%s (%d given)", who, i, i == 1 ? "" : "s", c->n);
    if (by_name < c->n_kw) run_fail(r, "%s: got an unexpected keyword argument", who);
}

value call_value(struct run *r, value f, const struct call *c) {
    value arg[MAX_PARAMS];
    switch (f.type) {
    case V_UNDEFINED: fail_undefined(r, f);
    case V_MACRO: return call_macro(r, f.macro, c, NULL);
    case V_FUNCTION: return f.function->fn(r, c);
    case V_METHOD:
        if (f.method->row->any) return f.method->row->any(r, f.method->self, c);
        bind_args(r, f.method->row->name, f.method->row->params, f.method->row->required, c, arg);
        return f.method->row->fn(r, f.method->self, arg);
    case V_JOINER: {
        value first = string_of(r, "");
        return f.cycler->at++ ? f.cycler->items.p[0] : first;
    }
    default: run_fail(r, "'%s' object is not callable", type_name(f));
    }
}

value call_filter(struct run *r, const struct filter *f, value v, const struct call *c) {
    value arg[MAX_PARAMS];
    tick(r, 1);
    if (f->any) return f->any(r, v, c);
    bind_args(r, f->name, f->params, f->required, c, arg);
    return f->fn(r, v, arg);
}

bool call_test(struct run *r, const struct test *t, value v, const struct call *c) {
    value arg[MAX_PARAMS];
    int required = t->params[0] != 0;
    tick(r, 1);
    bind_args(r, t->name, t->params, required, c, arg);
    return t->fn(r, v, arg);
}

/* ---- names ---- */

static value variable(struct run *r, const struct scope *s, const struct name *x) {
    for (; s; s = s->parent)
        for (const struct binding *b = s->first; b; b = b->next)
            if (b->name == x) return b->v;
    if (x->global) return (value){ V_FUNCTION, { .function = x->global } };
    return undefined_value(r, NULL, NULL, (value){ V_STRING, { .s = (struct text *)&x->text } });
}

/* ---- expressions ---- */

static value literal(struct run *r, struct scope *s, const struct node *n) {
    size_t count = 0;
    if (n->kind == N_DICT) {
        struct dict *d = new_dict(r);
        for (const struct node *k = n->list; k; k = k->next->next) {
            value key = eval(r, s, k); /* in this order, as Python */
            dict_set(r, d, key, eval(r, s, k->next));
        }
        return (value){ V_DICT, { .dict = d } };
    }
    for (const struct node *x = n->list; x; x = x->next) count++;
    value *p = take(r, count * sizeof *p), *end = p;
    for (const struct node *x = n->list; x; x = x->next) *end++ = eval(r, s, x);
    return list_value(r, n->kind == N_LIST ? V_LIST : V_TUPLE, p, count);
}

static value concatenation(struct run *r, struct scope *s, const struct node *n) {
    struct sink k = { 0 };
    for (const struct node *x = n->list; x; x = x->next) put_str(r, &k, eval(r, s, x));
    return sink_value(r, &k);
}

static value chain(struct run *r, struct scope *s, const struct node *n) {
    value v = eval(r, s, n->list);
    for (const struct node *x = n->list->next; x && truth(r, v) == (n->kind == N_AND); x = x->next) v = eval(r, s, x);
    return v;
}

static value arithmetic(struct run *r, struct scope *s, const struct node *n) {
    value v = eval(r, s, n->a);
    for (const struct node *o = n->list; o; o = o->next) {
        value right = eval(r, s, o->a);
        r->at = o->at;
        v = binary(r, o->op, v, right);
    }
    return v;
}

static value comparison(struct run *r, struct scope *s, const struct node *n) {
    value left = eval(r, s, n->a);
    for (const struct node *o = n->list; o; o = o->next) {
        value right = eval(r, s, o->a);
        r->at = o->at;
        if (!compare(r, o->op, left, right)) return bool_value(false);
        left = right;
    }
    return bool_value(true);
}

static value conditional(struct run *r, struct scope *s, const struct node *n) {
    if (truth(r, eval(r, s, n->b))) return eval(r, s, n->a);
    if (n->c) return eval(r, s, n->c);
    return undefined_value(r, "the inline if-expression evaluated to false and no else section was defined", NULL, NONE);
}

static value call_node(struct run *r, struct scope *s, const struct node *n) {
    value f = eval(r, s, n->a);
    struct call *c = eval_args(r, s, n->args);
    r->at = n->at;
    return call_value(r, f, c);
}

value apply_filter(struct run *r, struct scope *s, const struct node *n, value v) {
    struct call *c = eval_args(r, s, n->args);
    r->at = n->at;
    if (!n->known) run_fail(r, "there is no filter \"%.*s\"", (int)(n->attr->text.n < 60 ? n->attr->text.n : 60), n->attr->text.p);
    return call_filter(r, n->known, v, c);
}

static value test_node(struct run *r, struct scope *s, const struct node *n) {
    value v = eval(r, s, n->a);
    struct call *c = eval_args(r, s, n->args);
    r->at = n->at;
    if (!n->known) run_fail(r, "there is no test \"%.*s\"", (int)(n->attr->text.n < 60 ? n->attr->text.n : 60), n->attr->text.p);
    return bool_value(call_test(r, n->known, v, c));
}

static value slice_node(struct run *r, struct scope *s, const struct node *n) {
    value v = eval(r, s, n->a), from = n->b ? eval(r, s, n->b) : NONE, to = n->c ? eval(r, s, n->c) : NONE;
    value step = n->list ? eval(r, s, n->list) : NONE;
    r->at = n->at;
    return slice(r, v, from, to, step);
}

static value item_node(struct run *r, struct scope *s, const struct node *n) {
    value v = eval(r, s, n->a), key = eval(r, s, n->b);
    r->at = n->at;
    return get_item(r, v, key);
}

static value attr_node(struct run *r, struct scope *s, const struct node *n) {
    value v = eval(r, s, n->a);
    r->at = n->at;
    return get_attr(r, v, &n->attr->text);
}

static value eval_kind(struct run *r, struct scope *s, const struct node *n) {
    switch (n->kind) {
    case N_TUPLE:
    case N_LIST:
    case N_DICT: return literal(r, s, n);
    case N_AND:
    case N_OR: return chain(r, s, n);
    case N_NOT: return bool_value(!truth(r, eval(r, s, n->a)));
    case N_NEG:
    case N_POS: return negative(r, eval(r, s, n->a), n->kind == N_NEG);
    case N_BINARY: return arithmetic(r, s, n);
    case N_CONCAT: return concatenation(r, s, n);
    case N_COMPARE: return comparison(r, s, n);
    case N_COND: return conditional(r, s, n);
    case N_GETATTR: return attr_node(r, s, n);
    case N_GETITEM: return item_node(r, s, n);
    case N_SLICE: return slice_node(r, s, n);
    case N_CALL: return call_node(r, s, n);
    case N_FILTER: return apply_filter(r, s, n, eval(r, s, n->a));
    default: return test_node(r, s, n);
    }
}

value eval(struct run *r, struct scope *s, const struct node *n) {
    tick(r, 1);
    r->at = n->at;
    if (n->kind == N_CONST) return n->constant;
    if (n->kind == N_NAME) return variable(r, s, n->name);
    enter(r);
    value v = eval_kind(r, s, n);
    r->depth--;
    return v;
}
