/* template_parts: the interpreter of chat templates from inside: expressions, statements, and the tables of filters, tests, methods
 * and functions. */
#ifndef QUERN_TOKENIZER_TEMPLATE_PARTS_H
#define QUERN_TOKENIZER_TEMPLATE_PARTS_H

#include "tokenizer/template_text.h"
#include "tokenizer/template_tree.h"

/* ---- variables ---- */
struct binding { const struct name *name; value v; struct binding *next; };
struct scope { const struct scope *parent; struct binding *first; };
struct macro {
    const struct node *node; /* N_MACRO, or N_CALL_BLOCK for a caller */
    struct scope *scope;     /* where it was defined */
};

/* ---- template_eval.c ---- */
struct keyword { const struct text *name; value v; };
struct call { value *p; int n; struct keyword *kw; int n_kw; };
value eval(struct run *r, struct scope *s, const struct node *n);
value binary(struct run *r, enum op op, value a, value b);
value negative(struct run *r, value v, bool minus);
value get_item(struct run *r, value v, value key); /* v[key], as the sandbox has it */
value get_attr(struct run *r, value v, const struct text *name);
value slice(struct run *r, value v, value from, value to, value step);
value call_value(struct run *r, value f, const struct call *c);
struct call *eval_args(struct run *r, struct scope *s, const struct args *a);
value apply_filter(struct run *r, struct scope *s, const struct node *n, value v);
/* Sorts arguments into out by a list of names such as "chars count"; a name before '/' cannot be given by name. */
void bind_args(struct run *r, const char *who, const char *params, int required, const struct call *c, value *out);

/* ---- template_exec.c ---- */
void exec(struct run *r, struct scope *s, const struct node *body);
value call_macro(struct run *r, const struct macro *m, const struct call *c, const value *caller);
value loop_cycle(struct run *r, value self, const struct call *c);
value loop_changed(struct run *r, value self, const struct call *c);

/* ---- filters, tests, methods, functions ---- */
struct filter {
    const char *name, *params;
    int required;
    value (*fn)(struct run *r, value v, const value *arg);
    value (*any)(struct run *r, value v, const struct call *c); /* instead, for those that hand their arguments on */
};
struct test {
    const char *name, *params;
    bool (*fn)(struct run *r, value v, const value *arg);
};
struct method_row {
    const char *name, *params;
    int required;
    value (*fn)(struct run *r, value self, const value *arg);
    value (*any)(struct run *r, value self, const struct call *c);
};
struct function {
    const char *name;
    value (*fn)(struct run *r, const struct call *c);
};
const struct filter *find_filter(const char *name, size_t n);
const struct test *find_test(const char *name, size_t n);
const char *refused_filter(const char *name, size_t n); /* Jinja has it, this interpreter does not: why; else NULL */
const struct function *find_function(const char *name, size_t n);
const struct method_row *find_method(value v, const struct text *name);
bool unsafe_method(value v, const struct text *name); /* it exists, and the sandbox forbids it */
value call_filter(struct run *r, const struct filter *f, value v, const struct call *c);
bool call_test(struct run *r, const struct test *t, value v, const struct call *c);
value percent_format(struct run *r, value format, value args);      /* "..." % args */
value brace_format(struct run *r, value self, const struct call *c); /* "...".format(...) */
value filter_tojson(struct run *r, value v, const value *arg);
value function_strftime(struct run *r, const struct call *c);
value sort_values(struct run *r, struct list items, const struct list *keys, bool reverse);

#endif
