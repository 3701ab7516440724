/* template_functions: what every template can call without having defined it: range, dict, namespace, cycler, joiner,
 * raise_exception, strftime_now. It must not know nodes. */
#include "tokenizer/template_parts.h"

enum { MAX_RANGE = 100000 }; /* Jinja's sandbox allows no longer ones */

static value function_range(struct run *r, const struct call *c) {
    if (c->n_kw) run_fail(r, "range() takes no keyword arguments");
    if (c->n < 1 || c->n > 3) run_fail(r, "range expected 1 to 3 arguments, got %d", c->n);
    int64_t a[3] = { 0, 0, 1 };
    for (int i = 0; i < c->n; i++) a[c->n == 1 ? 1 : i] = want_int(r, c->p[i], "range");
    if (a[2] == 0) run_fail(r, "range() arg 3 must not be zero");
    for (int i = 0; i < 3; i++)
        if (a[i] > INT64_MAX / 4 || a[i] < INT64_MIN / 4) run_limit(r, "a range up to %lld", (long long)a[i]);
    struct range *g = take(r, sizeof *g);
    *g = (struct range){ a[0], a[1], a[2] };
    value v = { V_RANGE, { .range = g } };
    if (length_of(r, v) > MAX_RANGE) run_limit(r, "a range of over %d numbers", MAX_RANGE);
    return v;
}

/* A mapping, or pairs, then names: Python's dict(...). */
static struct dict *dict_of(struct run *r, const struct call *c) {
    struct dict *d = new_dict(r);
    if (c->n > 1) run_fail(r, "dict expected at most 1 argument, got %d", c->n);
    if (c->n && c->p[0].type == V_UNDEFINED) fail_undefined(r, c->p[0]);
    if (c->n && c->p[0].type == V_DICT)
        for (uint32_t i = 0; i < c->p[0].dict->n; i++) dict_set(r, d, c->p[0].dict->p[i].key, c->p[0].dict->p[i].v);
    else if (c->n) {
        struct list l = items_of(r, c->p[0]);
        for (size_t i = 0; i < l.n; i++) {
            struct list two = items_of(r, l.p[i]);
            if (two.n != 2) run_fail(r, "dictionary update sequence element #%zu has length %zu; 2 is required", i, two.n);
            dict_set(r, d, two.p[0], two.p[1]);
        }
    }
    for (int i = 0; i < c->n_kw; i++) dict_set(r, d, (value){ V_STRING, { .s = (struct text *)c->kw[i].name } }, c->kw[i].v);
    return d;
}

static value function_dict(struct run *r, const struct call *c) { return (value){ V_DICT, { .dict = dict_of(r, c) } }; }

static value function_namespace(struct run *r, const struct call *c) {
    struct dict *d = dict_of(r, c);
    for (uint32_t i = 0; i < d->n; i++)
        if (d->p[i].key.type == V_STRING && d->p[i].key.s->n && d->p[i].key.s->p[0] == '_')
            run_fail(r, "a namespace's attribute may not begin with an underscore");
    return (value){ V_NAMESPACE, { .dict = d } };
}

static value function_cycler(struct run *r, const struct call *c) {
    struct cycler *y = take(r, sizeof *y);
    if (!c->n || c->n_kw) run_fail(r, "cycler: at least one item has to be provided");
    y->items = (struct list){ c->p, (size_t)c->n };
    return (value){ V_CYCLER, { .cycler = y } };
}

static value function_joiner(struct run *r, const struct call *c) {
    struct cycler *y = take(r, sizeof *y);
    value *sep = take(r, sizeof *sep);
    bind_args(r, "joiner", "sep", 0, c, sep);
    if (sep->type == V_ABSENT) *sep = string_of(r, ", ");
    y->items = (struct list){ sep, 1 };
    return (value){ V_JOINER, { .cycler = y } };
}

static value function_raise(struct run *r, const struct call *c) {
    value arg[1];
    bind_args(r, "raise_exception", "message", 1, c, arg);
    struct text *s = to_string(r, arg[0], true).s;
    fail_code(r->e, ERR_TEMPLATE_REFUSED, "the chat template refuses this chat: %.*s", (int)(s->n < 500 ? s->n : 500), s->p);
    longjmp(r->fail, 1);
}

const struct function *find_function(const char *name, size_t n) {
    static const struct function functions[] = {
        { "range", function_range },     { "dict", function_dict },     { "namespace", function_namespace },
        { "cycler", function_cycler },   { "joiner", function_joiner }, { "raise_exception", function_raise },
        { "strftime_now", function_strftime },
    };
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (strlen(functions[i].name) == n && memcmp(functions[i].name, name, n) == 0) return functions + i;
    return NULL;
}
