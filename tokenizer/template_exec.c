/* template_exec: statements: output, variables and their scopes, loops, macros, blocks. A for loop's body, a macro and a block have
 * variables of their own; an if has not (Jinja's rules). It must not know values from inside. */
#include "tokenizer/template_parts.h"

/* ---- variables ---- */

static void set_variable(struct run *r, struct scope *s, const struct name *x, value v) {
    struct binding *b = s->first;
    while (b && b->name != x) b = b->next;
    if (!b) {
        b = take(r, sizeof *b);
        *b = (struct binding){ x, NONE, s->first };
        s->first = b;
    }
    b->v = v;
}

static void set_attribute(struct run *r, struct scope *s, const struct node *target, value v) {
    struct node name = { .kind = N_NAME, .at = target->at, .name = target->name };
    value of = eval(r, s, &name);
    const struct text *attr = &target->attr->text;
    if (of.type != V_NAMESPACE) run_fail(r, "cannot assign attribute on non-namespace object");
    if (attr->p[0] == '_') run_fail(r, "a namespace's attribute may not begin with an underscore");
    dict_set(r, of.dict, (value){ V_STRING, { .s = (struct text *)attr } }, v);
}

static void assign(struct run *r, struct scope *s, const struct node *target, value v) {
    r->at = target->at;
    if (target->kind == N_NAME) {
        set_variable(r, s, target->name, v);
        return;
    }
    if (target->kind == N_NSREF) {
        set_attribute(r, s, target, v);
        return;
    }
    struct list l = items_of(r, v);
    size_t n = 0;
    for (const struct node *x = target->list; x; x = x->next) n++;
    if (l.n < n) run_fail(r, "not enough values to unpack (expected %zu, got %zu)", n, l.n);
    if (l.n > n) run_fail(r, "too many values to unpack (expected %zu)", n);
    for (const struct node *x = target->list; x; x = x->next) assign(r, s, x, *l.p++);
}

/* ---- loops ---- */

struct loop {
    struct list source;      /* what is looped over, before the filter */
    size_t at;               /* how far the source is read */
    struct scope *scope;     /* around the loop: for the filter */
    const struct node *node; /* N_FOR */
    value *got;              /* what passed the filter, as far as it was asked for */
    size_t n_got;
    size_t index0;
    value changed;           /* loop.changed: the last arguments, V_ABSENT before */
};

/* Is there an i-th item? The filter runs only as far as needed, because what it sees may change with the loop's body. */
static bool loop_has(struct run *r, struct loop *l, size_t i) {
    while (l->n_got <= i && l->at < l->source.n) {
        value v = l->source.p[l->at++];
        if (l->node->c) {
            struct scope inner = { l->scope, NULL };
            int leaving = r->leave;
            assign(r, &inner, l->node->a, v);
            bool pass = truth(r, eval(r, &inner, l->node->c));
            r->leave = leaving;
            if (!pass) continue;
        }
        l->got[l->n_got++] = v;
    }
    return i < l->n_got;
}

static int64_t loop_length(struct run *r, struct loop *l) {
    loop_has(r, l, SIZE_MAX);
    return (int64_t)l->n_got;
}

value loop_attr(struct run *r, struct loop *l, const struct text *name) {
    int64_t i = (int64_t)l->index0;
    if (text_is(name, "index")) return int_value(i + 1);
    if (text_is(name, "index0")) return int_value(i);
    if (text_is(name, "first")) return bool_value(i == 0);
    if (text_is(name, "last")) return bool_value(!loop_has(r, l, l->index0 + 1));
    if (text_is(name, "length")) return int_value(loop_length(r, l));
    if (text_is(name, "revindex")) return int_value(loop_length(r, l) - i);
    if (text_is(name, "revindex0")) return int_value(loop_length(r, l) - i - 1);
    if (text_is(name, "depth")) return int_value(1);
    if (text_is(name, "depth0")) return int_value(0);
    if (text_is(name, "previtem")) return i ? l->got[i - 1] : undefined_value(r, "there is no previous item", NULL, NONE);
    if (text_is(name, "nextitem")) return loop_has(r, l, l->index0 + 1) ? l->got[i + 1] : undefined_value(r, "there is no next item", NULL, NONE);
    return (value){ V_ABSENT, { 0 } };
}

value loop_cycle(struct run *r, value self, const struct call *c) {
    if (!c->n) run_fail(r, "no items for cycling given");
    if (c->n_kw) run_fail(r, "cycle: got an unexpected keyword argument");
    return c->p[self.loop->index0 % (size_t)c->n];
}

value loop_changed(struct run *r, value self, const struct call *c) {
    value now = list_value(r, V_TUPLE, c->p, (size_t)c->n);
    bool same = self.loop->changed.type != V_ABSENT && equal(r, self.loop->changed, now);
    self.loop->changed = now;
    return bool_value(!same);
}

static void exec_for(struct run *r, struct scope *s, const struct node *n) {
    struct loop *l = take(r, sizeof *l);
    *l = (struct loop){ .source = items_of(r, eval(r, s, n->b)), .scope = s, .node = n };
    l->got = take(r, l->source.n * sizeof *l->got);
    for (; loop_has(r, l, l->index0); l->index0++) {
        struct scope *inner = take(r, sizeof *inner);
        inner->parent = s;
        if (n->flag) set_variable(r, inner, r->t->n_loop, (value){ V_LOOP, { .loop = l } });
        assign(r, inner, n->a, l->got[l->index0]);
        exec(r, inner, n->body);
        int leaving = r->leave;
        r->leave = 0;
        if (leaving == N_BREAK) return;
    }
    if (l->index0) return;
    struct scope *inner = take(r, sizeof *inner);
    inner->parent = s;
    exec(r, inner, n->orelse);
}

/* ---- macros ---- */

/* Statements into a string of their own. */
static value captured(struct run *r, struct scope *s, const struct node *body) {
    struct sink own = { 0 }, *outer = r->out;
    r->out = &own;
    exec(r, s, body);
    r->out = outer;
    return sink_value(r, &own);
}

static const struct keyword *keyword_of(const struct call *c, const struct name *x) {
    for (int i = 0; i < c->n_kw; i++)
        if (c->kw[i].name->n == x->text.n && memcmp(c->kw[i].name->p, x->text.p, x->text.n) == 0) return c->kw + i;
    return NULL;
}

static bool is_param(const struct signature *g, const struct text *name) {
    for (const struct node *p = g->params; p; p = p->next)
        if (p->name->text.n == name->n && memcmp(p->name->text.p, name->p, name->n) == 0) return true;
    return false;
}

/* What the parameters did not take: varargs and kwargs where the body asks for them, else an error. */
static void bind_rest(struct run *r, struct scope *s, const struct signature *g, const struct call *c) {
    struct dict *d = new_dict(r);
    int extra = c->n > g->n_params ? c->n - g->n_params : 0;
    for (int i = 0; i < c->n_kw; i++) {
        if (is_param(g, c->kw[i].name) || text_is(c->kw[i].name, "caller")) continue;
        if (!g->uses_kwargs)
            run_fail(r, "the macro takes no keyword argument '%.*s'", (int)(c->kw[i].name->n < 60 ? c->kw[i].name->n : 60), c->kw[i].name->p);
        dict_set(r, d, (value){ V_STRING, { .s = (struct text *)c->kw[i].name } }, c->kw[i].v);
    }
    if (extra && !g->uses_varargs) run_fail(r, "the macro takes not more than %d argument(s)", g->n_params);
    if (g->uses_kwargs) set_variable(r, s, r->t->n_kwargs, (value){ V_DICT, { .dict = d } });
    if (g->uses_varargs) set_variable(r, s, r->t->n_varargs, list_value(r, V_TUPLE, c->p + (c->n - extra), (size_t)extra));
}

static void bind_caller(struct run *r, struct scope *s, const struct signature *g, const struct call *c, const value *caller) {
    const struct keyword *k = keyword_of(c, r->t->n_caller);
    if (g->uses_caller) set_variable(r, s, r->t->n_caller, caller ? *caller : k ? k->v : undefined_value(r, "No caller defined", NULL, NONE));
    else if (caller || k) run_fail(r, "the macro does not call its caller: it cannot be used in a call block");
}

value call_macro(struct run *r, const struct macro *m, const struct call *c, const value *caller) {
    const struct signature *g = m->node->macro;
    struct scope *s = take(r, sizeof *s);
    int i = 0;
    enter(r);
    s->parent = m->scope;
    for (const struct node *p = g->params; p; p = p->next, i++) {
        const struct keyword *k = keyword_of(c, p->name);
        if (k && i < c->n)
            run_fail(r, "the macro got multiple values for argument '%.*s'", (int)(p->name->text.n < 60 ? p->name->text.n : 60), p->name->text.p);
        value v = i < c->n ? c->p[i] : k ? k->v : p->a ? eval(r, s, p->a) : undefined_value(r, "a parameter was not provided", NULL, NONE);
        set_variable(r, s, p->name, v);
    }
    bind_caller(r, s, g, c, caller);
    bind_rest(r, s, g, c);
    int leaving = r->leave;
    r->leave = 0;
    value v = captured(r, s, m->node->body);
    r->leave = leaving;
    r->depth--;
    return v;
}

static value new_macro(struct run *r, struct scope *s, const struct node *n) {
    struct macro *m = take(r, sizeof *m);
    *m = (struct macro){ n, s };
    return (value){ V_MACRO, { .macro = m } };
}

static void exec_call(struct run *r, struct scope *s, const struct node *n) {
    value caller = new_macro(r, s, n), f = eval(r, s, n->a->a);
    struct call *c = eval_args(r, s, n->a->args);
    r->at = n->at;
    if (f.type == V_UNDEFINED) fail_undefined(r, f);
    if (f.type != V_MACRO) run_fail(r, "a call block calls a '%s', expected a macro", type_name(f));
    put_str(r, r->out, call_macro(r, f.macro, c, &caller));
}

/* ---- statements ---- */

static value filtered(struct run *r, struct scope *s, const struct node *filter, value v) {
    if (!filter) return v;
    enter(r);
    if (filter->a) v = filtered(r, s, filter->a, v);
    v = apply_filter(r, s, filter, v);
    r->depth--;
    return v;
}

static void exec_generation(struct run *r, struct scope *s, const struct node *n) {
    size_t begin = r->out->n;
    exec(r, s, n->body);
    if (r->out == r->page && r->out->n > begin) mark(r, &r->generation, begin, r->out->n);
}

static void exec_output(struct run *r, struct scope *s, const struct node *n) {
    value v = eval(r, s, n->a);
    put_str(r, r->out, v);
    if (r->out->n > r->o.max_output) run_limit(r, "%zu MiB of output", r->o.max_output >> 20);
}

static void exec_if(struct run *r, struct scope *s, const struct node *n) {
    while (n) {
        bool yes = truth(r, eval(r, s, n->a));
        bool elif = !yes && n->orelse && n->orelse->kind == N_IF && !n->orelse->next;
        if (!elif) {
            exec(r, s, yes ? n->body : n->orelse);
            return;
        }
        n = n->orelse;
    }
}

/* Statements with variables of their own. */
static void exec_scoped(struct run *r, struct scope *s, const struct node *n) {
    struct scope *inner = take(r, sizeof *inner);
    inner->parent = s;
    for (const struct node *t = n->kind == N_WITH ? n->list : NULL; t; t = t->next->next) assign(r, inner, t, eval(r, s, t->next));
    if (n->kind == N_WITH) exec(r, inner, n->body);
    else if (n->kind == N_GENERATION) exec_generation(r, inner, n);
    else {
        value v = captured(r, inner, n->body);
        if (r->leave) return; /* a break or continue in there: as if it had not begun */
        v = filtered(r, inner, n->b, v);
        if (n->kind == N_FILTER_BLOCK) put_str(r, r->out, v);
        else assign(r, s, n->a, v);
    }
}

static void exec_one(struct run *r, struct scope *s, const struct node *n) {
    switch (n->kind) {
    case N_OUTPUT: exec_output(r, s, n); return;
    case N_SET: assign(r, s, n->a, eval(r, s, n->b)); return;
    case N_IF: exec_if(r, s, n); return;
    case N_FOR: exec_for(r, s, n); return;
    case N_MACRO: set_variable(r, s, n->name, new_macro(r, s, n)); return;
    case N_CALL_BLOCK: exec_call(r, s, n); return;
    case N_BREAK:
    case N_CONTINUE: r->leave = n->kind; return;
    default: exec_scoped(r, s, n);
    }
}

void exec(struct run *r, struct scope *s, const struct node *body) {
    if (!body) return;
    enter(r);
    for (const struct node *n = body; n && !r->leave; n = n->next) {
        tick(r, 1);
        r->at = n->at;
        exec_one(r, s, n);
    }
    r->depth--;
}
