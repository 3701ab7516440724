/* template_parse: tokens to a tree of nodes (Jinja's parser.py is the reference), the words of the template, and the errors of
 * a template that cannot be read. It knows which filters and tests there are, because a template that asks for others is refused
 * before any chat meets it; it must not know what any of them does. */
#include "tokenizer/template_lex.h"
#include "tokenizer/unicode.h"

struct open_macro { /* a macro or call block that is being read */
    struct signature *s;
    struct open_macro *outer;
};
typedef struct {
    struct lexer lex;
    struct template *t;
    struct token now, next;
    int depth;
    struct open_macro *macro;
    bool says_loop;  /* since the innermost for: `loop` was mentioned */
    int loops;       /* open for loops, for break and continue */
    int conditional; /* open if statements and expressions: an unknown filter in there fails only when it is reached */
    const struct node *unknown; /* the first filter or test that there is not, outside of them */
} parser;

static struct node *expression(parser *p, bool with_if);
static struct node *statements(parser *p, const char *const *ends);
static struct node *scoped(parser *p, const char *const *ends);

/* ---- tokens ---- */

static void advance(parser *p) {
    p->now = p->next;
    do p->next = lex_next(&p->lex);
    while (p->next.kind == T_DATA && !p->next.n);
}

static bool is_op(const parser *p, int op) { return p->now.kind == T_OP && p->now.op == op; }
static bool token_is(const struct token *t, const char *word) { return t->kind == T_NAME && t->n == strlen(word) && memcmp(t->p, word, t->n) == 0; }
static bool is_word(const parser *p, const char *word) { return token_is(&p->now, word); }
static bool skip_op(parser *p, int op) { return is_op(p, op) ? advance(p), true : false; }
static bool skip_word(parser *p, const char *word) { return is_word(p, word) ? advance(p), true : false; }

/* A token as a message shows it. */
static const char *shown(const struct token *t, char out[48]) {
    static const char *const two[] = { "//", "**", "==", "!=", ">=", "<=" };
    static const char *const kinds[] = { "the end of the template", "text", "{{", "}}", "{%", "%}", "", "a string", "a number", "a number" };
    if (t->kind == T_NAME) snprintf(out, 48, "\"%.*s\"", t->n < 40 ? (int)t->n : 40, t->p);
    else if (t->kind != T_OP) snprintf(out, 48, "%s", kinds[t->kind]);
    else if (t->op >= 256) snprintf(out, 48, "'%s'", two[t->op - 256]);
    else snprintf(out, 48, "'%c'", t->op);
    return out;
}

static _Noreturn void expected(const parser *p, const char *what) {
    char found[48];
    lex_fail(&p->lex, p->now.at, "expected %s, found %s", what, shown(&p->now, found));
}

static void need_op(parser *p, int op) {
    char what[4] = { '\'', (char)op, '\'', 0 };
    if (!skip_op(p, op)) expected(p, what);
}

static void need_word(parser *p, const char *word) {
    if (!skip_word(p, word)) expected(p, word);
}

static void need_tag_end(parser *p) {
    if (p->now.kind != T_TAG_END) expected(p, "%}");
    advance(p);
}

static void deeper(parser *p) {
    if (++p->depth > MAX_PARSE_DEPTH) lex_fail(&p->lex, p->now.at, "nested deeper than %d levels", MAX_PARSE_DEPTH);
}

/* ---- nodes and names ---- */

static struct node *node(parser *p, enum node_kind kind, size_t at) {
    struct node *n = lex_take(&p->lex, sizeof *n);
    n->kind = (uint8_t)kind;
    n->at = (uint32_t)at;
    return n;
}

static struct node *node2(parser *p, enum node_kind kind, size_t at, struct node *a, struct node *b) {
    struct node *n = node(p, kind, at);
    n->a = a;
    n->b = b;
    return n;
}

static size_t count_chars(const char *s, size_t n) {
    size_t chars = 0;
    for (size_t i = 0; i < n; i++) chars += ((uint8_t)s[i] & 0xc0) != 0x80;
    return chars;
}

static struct text *new_text(parser *p, const char *s, size_t n) {
    struct text *x = lex_take(&p->lex, sizeof *x);
    x->p = s;
    x->n = n;
    x->chars = count_chars(s, n);
    return x;
}

static struct name **bucket(const struct template *t, const char *p, size_t n) {
    return (struct name **)&t->names[hash_bytes(p, n) % N_BUCKETS];
}

struct name *template_name(const struct template *t, const char *p, size_t n) {
    struct name *x = *bucket(t, p, n);
    while (x && (x->text.n != n || memcmp(x->text.p, p, n) != 0)) x = x->next;
    return x;
}

static const struct name *intern(parser *p, const char *s, size_t n) {
    struct name *x = template_name(p->t, s, n), **b = bucket(p->t, s, n);
    if (x) return x;
    x = lex_take(&p->lex, sizeof *x);
    x->text = (struct text){ .p = s, .n = n, .chars = count_chars(s, n) };
    x->global = find_function(s, n);
    x->next = *b;
    return *b = x;
}

static const struct name *need_name(parser *p) {
    if (p->now.kind != T_NAME) expected(p, "a name");
    const struct name *x = intern(p, p->now.p, p->now.n);
    advance(p);
    return x;
}

static struct node *constant(parser *p, size_t at, value v) {
    struct node *n = node(p, N_CONST, at);
    n->constant = v;
    return n;
}

/* What a macro may use without declaring it: caller, varargs, kwargs. */
static void note_use(parser *p, const struct name *x) {
    if (x == p->t->n_loop) p->says_loop = true;
    for (struct open_macro *m = p->macro; m; m = m->outer) {
        m->s->uses_caller |= x == p->t->n_caller;
        m->s->uses_varargs |= x == p->t->n_varargs;
        m->s->uses_kwargs |= x == p->t->n_kwargs;
    }
}

/* ---- primary expressions ---- */

static bool starts_items(const struct token *t) { return !(t->kind == T_PRINT_END || t->kind == T_TAG_END || (t->kind == T_OP && t->op == ')')); }

/* With `explicit` brackets () is an empty tuple. One expression without a comma is itself. end_word: "in", or NULL. */
static struct node *tuple(parser *p, struct node *(*one)(parser *), const char *end_word, bool in_brackets) {
    size_t at = p->now.at;
    struct node *first = NULL, **tail = &first;
    bool comma = false;
    while (starts_items(&p->now) && !(end_word && is_word(p, end_word))) {
        *tail = one(p);
        tail = &(*tail)->next;
        if (!skip_op(p, ',')) break;
        comma = true;
    }
    if (first && !comma) return first;
    if (!first && !in_brackets) expected(p, "an expression");
    struct node *n = node(p, N_TUPLE, at);
    n->list = first;
    return n;
}

static struct node *full(parser *p) { return expression(p, true); }
static struct node *without_if(parser *p) { return expression(p, false); }

static struct node *list_literal(parser *p) {
    struct node *n = node(p, N_LIST, p->now.at), **tail = &n->list;
    need_op(p, '[');
    while (!is_op(p, ']')) {
        *tail = full(p);
        tail = &(*tail)->next;
        if (!is_op(p, ']')) need_op(p, ',');
    }
    advance(p);
    return n;
}

static struct node *dict_literal(parser *p) {
    struct node *n = node(p, N_DICT, p->now.at), **tail = &n->list;
    need_op(p, '{');
    while (!is_op(p, '}')) {
        struct node *key = full(p);
        need_op(p, ':');
        *tail = key;
        key->next = full(p);
        tail = &key->next->next;
        if (!is_op(p, '}')) need_op(p, ',');
    }
    advance(p);
    return n;
}

static struct node *string_literal(parser *p) {
    size_t at = p->now.at;
    const char *s = p->now.p;
    size_t n = p->now.n;
    for (advance(p); p->now.kind == T_STRING; advance(p)) { /* "a" "b" is "ab" */
        char *both = lex_take(&p->lex, n + p->now.n + 1);
        memcpy(both, s, n);
        memcpy(both + n, p->now.p, p->now.n);
        s = both;
        n += p->now.n;
    }
    return constant(p, at, (value){ V_STRING, { .s = new_text(p, s, n) } });
}

static struct node *word(parser *p) {
    size_t at = p->now.at;
    bool yes = is_word(p, "true") || is_word(p, "True"), no = is_word(p, "false") || is_word(p, "False");
    bool none = is_word(p, "none") || is_word(p, "None");
    const struct name *x = need_name(p);
    if (yes || no) return constant(p, at, (value){ V_BOOL, { .b = yes } });
    if (none) return constant(p, at, NONE);
    note_use(p, x);
    struct node *n = node(p, N_NAME, at);
    n->name = x;
    return n;
}

static struct node *primary(parser *p) {
    struct token t = p->now;
    if (t.kind == T_NAME) return word(p);
    if (t.kind == T_STRING) return string_literal(p);
    if (t.kind == T_INT) return advance(p), constant(p, t.at, (value){ V_INT, { .i = t.i } });
    if (t.kind == T_FLOAT) return advance(p), constant(p, t.at, (value){ V_FLOAT, { .f = t.f } });
    if (is_op(p, '[')) return list_literal(p);
    if (is_op(p, '{')) return dict_literal(p);
    if (!skip_op(p, '(')) expected(p, "an expression");
    struct node *n = tuple(p, full, NULL, true);
    need_op(p, ')');
    return n;
}

/* ---- subscripts, calls, filters, tests ---- */

static struct node *bound_of_slice(parser *p) { return is_op(p, ':') || is_op(p, ']') || is_op(p, ',') ? NULL : full(p); }

static struct node *subscript(parser *p, struct node *v) {
    size_t at = p->now.at;
    if (skip_op(p, '.')) {
        struct node *n = node2(p, N_GETATTR, at, v, NULL);
        if (p->now.kind == T_NAME) return n->attr = need_name(p), n;
        if (p->now.kind != T_INT) expected(p, "a name or a number");
        n->kind = N_GETITEM;
        n->b = constant(p, at, (value){ V_INT, { .i = p->now.i } });
        advance(p);
        return n;
    }
    need_op(p, '[');
    if (skip_op(p, ']')) return node2(p, N_GETITEM, at, v, node(p, N_TUPLE, at)); /* x[] is x[()] to Jinja */
    struct node *from = is_op(p, ':') ? NULL : full(p), *n = node2(p, N_GETITEM, at, v, from);
    if (is_op(p, ':')) {
        n->kind = N_SLICE;
        advance(p);
        n->c = bound_of_slice(p);
        if (skip_op(p, ':')) n->list = bound_of_slice(p);
    } else if (is_op(p, ',')) {
        struct node *key = node(p, N_TUPLE, at), **tail = &from->next;
        for (key->list = from, n->b = key; skip_op(p, ',') && !is_op(p, ']'); tail = &(*tail)->next) *tail = full(p);
    }
    need_op(p, ']');
    return n;
}

static struct args *arguments(parser *p) {
    struct args *a = lex_take(&p->lex, sizeof *a);
    struct node **list = &a->list, **keywords = &a->keywords;
    int n = 0;
    need_op(p, '(');
    for (; !is_op(p, ')'); n++) {
        if (n) need_op(p, ',');
        if (n && is_op(p, ')')) break;
        if (n > MAX_CALLS_ARGS) lex_fail(&p->lex, p->now.at, "more than %d arguments", MAX_CALLS_ARGS);
        bool star = is_op(p, '*'), stars = is_op(p, OP2_POW), key = p->now.kind == T_NAME && p->next.kind == T_OP && p->next.op == '=';
        if (a->star_star || (a->star && !stars && !key) || (!star && !stars && !key && a->keywords))
            expected(p, "')': arguments come as (a, name=b, *c, **d)");
        if (star || stars) {
            advance(p);
            *(star ? &a->star : &a->star_star) = full(p);
        } else if (key) {
            struct node *k = *keywords = node(p, N_KEYWORD, p->now.at);
            k->name = need_name(p);
            advance(p);
            k->a = full(p);
            keywords = &k->next;
        } else {
            *list = full(p);
            list = &(*list)->next;
        }
    }
    need_op(p, ')');
    return a;
}

static struct node *call(parser *p, struct node *f) {
    struct node *n = node2(p, N_CALL, p->now.at, f, NULL);
    n->args = arguments(p);
    return n;
}

/* An unknown name is an error, but in an if only when it is reached, as there: whether an if follows is known later. */
static void check_known(parser *p, struct node *n) {
    const char *s = n->attr->text.p, *why = n->kind == N_FILTER ? refused_filter(s, n->attr->text.n) : NULL;
    if (why) lex_fail(&p->lex, n->at, "the filter \"%.*s\" is not read here: %s", (int)n->attr->text.n, s, why);
    if (!n->known && !p->conditional && !p->unknown) p->unknown = n;
}

static void fail_unknown(const parser *p) {
    const struct text *s = p->unknown ? &p->unknown->attr->text : NULL;
    if (s)
        lex_fail(&p->lex, p->unknown->at, "there is no %s \"%.*s\"", p->unknown->kind == N_FILTER ? "filter" : "test",
                 s->n < 60 ? (int)s->n : 60, s->p);
}

/* A filter's or test's name. Dots may stand in it, but none that there is has one. */
static bool read_known_name(parser *p, struct node *n) {
    bool dotted = false;
    for (n->attr = need_name(p); is_op(p, '.'); dotted = true) {
        advance(p);
        need_name(p);
    }
    return !dotted;
}

static struct node *filter(parser *p, struct node *v) {
    struct node *n = node2(p, N_FILTER, p->now.at, v, NULL);
    if (read_known_name(p, n)) n->known = find_filter(n->attr->text.p, n->attr->text.n);
    check_known(p, n);
    n->args = is_op(p, '(') ? arguments(p) : lex_take(&p->lex, sizeof *n->args);
    return n;
}

/* a.b.c, a|b|c: each link is a level deeper for whoever walks the tree. */
static void count_link(const parser *p, int *links) {
    if (++*links > MAX_LINKS) lex_fail(&p->lex, p->now.at, "a chain of over %d links", MAX_LINKS);
}

static struct node *filters(parser *p, struct node *v) {
    for (int links = 0; skip_op(p, '|'); v = filter(p, v)) count_link(p, &links);
    return v;
}

static struct node *postfix(parser *p, struct node *v) {
    for (int links = 0;;) {
        count_link(p, &links);
        if (is_op(p, '.') || is_op(p, '[')) v = subscript(p, v);
        else if (is_op(p, '(')) v = call(p, v);
        else return v;
    }
}

static struct node *test(parser *p, struct node *v) {
    size_t at = p->now.at;
    need_word(p, "is");
    bool negated = skip_word(p, "not");
    struct node *n = node2(p, N_TEST, at, v, NULL);
    if (read_known_name(p, n)) n->known = find_test(n->attr->text.p, n->attr->text.n);
    check_known(p, n);
    bool value_follows = p->now.kind == T_NAME || p->now.kind == T_STRING || p->now.kind == T_INT || p->now.kind == T_FLOAT ||
                         is_op(p, '[') || is_op(p, '{');
    if (is_op(p, '(')) n->args = arguments(p);
    else {
        n->args = lex_take(&p->lex, sizeof *n->args);
        if (value_follows && is_word(p, "is")) expected(p, "one test: they cannot be chained");
        if (value_follows && !is_word(p, "else") && !is_word(p, "or") && !is_word(p, "and")) n->args->list = postfix(p, primary(p));
    }
    return negated ? node2(p, N_NOT, at, n, NULL) : n;
}

static struct node *filters_and_tests(parser *p, struct node *v) {
    for (int links = 0;;) {
        count_link(p, &links);
        if (is_op(p, '|')) v = filters(p, v);
        else if (is_word(p, "is")) v = test(p, v);
        else if (is_op(p, '(')) v = call(p, v);
        else return v;
    }
}

/* ---- operators, from the tightest to the loosest ---- */

static struct node *unary(parser *p, bool with_filters) {
    size_t at = p->now.at;
    struct node *n;
    deeper(p);
    if (skip_op(p, '-')) n = node2(p, N_NEG, at, unary(p, false), NULL);
    else if (skip_op(p, '+')) n = node2(p, N_POS, at, unary(p, false), NULL);
    else n = primary(p);
    n = postfix(p, n);
    p->depth--;
    return with_filters ? filters_and_tests(p, n) : n;
}

struct level { struct { int token; enum op op; } ops[4]; int n; };

/* a op b op c ...: one node with a list, so that long sums stay flat. */
static struct node *left_to_right(parser *p, const struct level *l, struct node *(*operand)(parser *)) {
    size_t at = p->now.at;
    struct node *first = operand(p), *n = NULL, **tail = NULL;
    for (;;) {
        int i = 0;
        while (i < l->n && !is_op(p, l->ops[i].token)) i++;
        if (i == l->n) return n ? n : first;
        if (!n) n = node2(p, N_BINARY, at, first, NULL), tail = &n->list;
        struct node *o = *tail = node(p, N_OPERAND, p->now.at);
        o->op = (uint8_t)l->ops[i].op;
        advance(p);
        o->a = operand(p);
        tail = &o->next;
    }
}

static struct node *filtered(parser *p) { return unary(p, true); }

static struct node *power(parser *p) {
    static const struct level l = { { { OP2_POW, OP_POW } }, 1 };
    return left_to_right(p, &l, filtered);
}

static struct node *product(parser *p) {
    static const struct level l = { { { '*', OP_MUL }, { '/', OP_DIV }, { OP2_FLOORDIV, OP_FLOORDIV }, { '%', OP_MOD } }, 4 };
    return left_to_right(p, &l, power);
}

static struct node *concatenation(parser *p) {
    size_t at = p->now.at;
    struct node *first = product(p), *n, **tail = &first->next;
    if (!is_op(p, '~')) return first;
    for (; skip_op(p, '~'); tail = &(*tail)->next) *tail = product(p);
    n = node(p, N_CONCAT, at);
    n->list = first;
    return n;
}

static struct node *sum(parser *p) {
    static const struct level l = { { { '+', OP_ADD }, { '-', OP_SUB } }, 2 };
    return left_to_right(p, &l, concatenation);
}

static bool compare_operator(parser *p, enum op *op) {
    static const struct level l = { { { OP2_EQ, OP_EQ }, { OP2_NE, OP_NE }, { OP2_GE, OP_GE }, { OP2_LE, OP_LE } }, 4 };
    for (int i = 0; i < l.n; i++)
        if (skip_op(p, l.ops[i].token)) return *op = l.ops[i].op, true;
    if (skip_op(p, '<')) return *op = OP_LT, true;
    if (skip_op(p, '>')) return *op = OP_GT, true;
    if (skip_word(p, "in")) return *op = OP_IN, true;
    if (!is_word(p, "not") || !token_is(&p->next, "in")) return false;
    advance(p);
    advance(p);
    return *op = OP_NOT_IN, true;
}

static struct node *comparison(parser *p) {
    size_t at = p->now.at;
    struct node *first = sum(p), *n, **tail;
    enum op op;
    if (!compare_operator(p, &op)) return first;
    n = node2(p, N_COMPARE, at, first, NULL);
    tail = &n->list;
    do {
        struct node *o = *tail = node(p, N_OPERAND, p->now.at);
        o->op = (uint8_t)op;
        o->a = sum(p);
        tail = &o->next;
    } while (compare_operator(p, &op));
    return n;
}

static struct node *negation(parser *p) {
    size_t at = p->now.at;
    if (!is_word(p, "not")) return comparison(p);
    deeper(p);
    advance(p);
    struct node *n = node2(p, N_NOT, at, negation(p), NULL);
    p->depth--;
    return n;
}

/* and, or: lists, so that long chains stay flat. */
static struct node *chain(parser *p, const char *between, enum node_kind kind, struct node *(*operand)(parser *)) {
    size_t at = p->now.at;
    struct node *first = operand(p), *n, **tail = &first->next;
    if (!is_word(p, between)) return first;
    for (; skip_word(p, between); tail = &(*tail)->next) *tail = operand(p);
    n = node(p, kind, at);
    n->list = first;
    return n;
}

static struct node *conjunction(parser *p) { return chain(p, "and", N_AND, negation); }
static struct node *disjunction(parser *p) { return chain(p, "or", N_OR, conjunction); }

/* a if b else c. Where an if may follow as a statement's own (for x in y if z), it is not read as this. */
static struct node *expression(parser *p, bool with_if) {
    deeper(p);
    const struct node *unknown = p->unknown;
    struct node *v = disjunction(p);
    while (with_if && is_word(p, "if")) {
        struct node *n = node(p, N_COND, p->now.at);
        p->unknown = unknown;
        advance(p);
        p->conditional++;
        n->b = disjunction(p);
        n->a = v;
        if (skip_word(p, "else")) n->c = expression(p, true);
        p->conditional--;
        v = n;
    }
    p->depth--;
    return v;
}

/* ---- statements ---- */

static struct node *target_part(parser *p) {
    size_t at = p->now.at;
    if (skip_op(p, '(')) { /* (a, b) */
        deeper(p);
        struct node *n = tuple(p, target_part, NULL, true);
        p->depth--;
        need_op(p, ')');
        return n;
    }
    for (const char *const *w = (const char *const[]){ "true", "True", "false", "False", "none", "None", NULL }; *w; w++)
        if (is_word(p, *w)) expected(p, "a name to assign to");
    struct node *n = node(p, N_NAME, at);
    n->name = need_name(p);
    if (is_op(p, '.')) {
        advance(p);
        n->kind = N_NSREF;
        n->attr = need_name(p);
    }
    return n;
}

static bool assigns_attribute(const struct node *target) {
    if (target->kind == N_NSREF) return true;
    for (const struct node *n = target->kind == N_TUPLE ? target->list : NULL; n; n = n->next)
        if (assigns_attribute(n)) return true;
    return false;
}

static struct node *target(parser *p, const char *end_word, bool with_attributes) {
    size_t at = p->now.at;
    struct node *n = tuple(p, target_part, end_word, false);
    if (!with_attributes && assigns_attribute(n)) lex_fail(&p->lex, at, "expected a name to assign to, found an attribute");
    return n;
}

static struct node *set_statement(parser *p, size_t at) {
    struct node *n = node2(p, N_SET, at, target(p, NULL, true), NULL);
    if (skip_op(p, '=')) return n->b = tuple(p, full, NULL, false), n;
    n->kind = N_SET_BLOCK;
    n->b = filters(p, NULL);
    n->body = scoped(p, (const char *const[]){ "endset", NULL });
    advance(p);
    return n;
}

static struct node *if_statement(parser *p, size_t at) {
    struct node *first = node(p, N_IF, at), *n = first;
    p->conditional++;
    for (;;) {
        n->a = tuple(p, without_if, NULL, false);
        n->body = statements(p, (const char *const[]){ "elif", "else", "endif", NULL });
        if (!is_word(p, "elif")) break;
        struct node *more = n->orelse = node(p, N_IF, p->now.at);
        advance(p);
        n = more;
    }
    if (skip_word(p, "else")) n->orelse = statements(p, (const char *const[]){ "endif", NULL });
    advance(p);
    p->conditional--;
    return first;
}

static struct node *for_statement(parser *p, size_t at) {
    struct node *n = node2(p, N_FOR, at, target(p, "in", false), NULL);
    need_word(p, "in");
    n->b = tuple(p, without_if, "recursive", false);
    bool outer = p->says_loop;
    if (skip_word(p, "if")) n->c = full(p);
    if (is_word(p, "recursive")) lex_fail(&p->lex, p->now.at, "recursive loops are not read here: use a macro that calls itself");
    outer |= p->says_loop;
    p->says_loop = false;
    p->loops++;
    n->body = scoped(p, (const char *const[]){ "endfor", "else", NULL });
    p->loops--;
    n->flag = p->says_loop;
    p->says_loop = outer | n->flag;
    if (skip_word(p, "else")) n->orelse = scoped(p, (const char *const[]){ "endfor", NULL });
    advance(p);
    return n;
}

static void signature(parser *p, struct signature *s) {
    struct node **tail = &s->params;
    bool defaults = false;
    need_op(p, '(');
    while (!is_op(p, ')')) {
        if (s->n_params++) need_op(p, ',');
        if (s->n_params > MAX_CALLS_ARGS) lex_fail(&p->lex, p->now.at, "more than %d parameters", MAX_CALLS_ARGS);
        struct node *n = *tail = node(p, N_NAME, p->now.at);
        n->name = need_name(p);
        if (skip_op(p, '=')) n->a = full(p), defaults = true;
        else if (defaults) expected(p, "a default: the parameter before has one");
        tail = &n->next;
    }
    advance(p);
}

/* The body of a macro or call block: a program of its own, whose loops and ifs are not those around it. */
static void macro_body(parser *p, struct node *n, struct signature *s, const char *end) {
    struct open_macro m = { s, p->macro };
    int loops = p->loops;
    p->macro = &m;
    p->loops = 0;
    n->macro = s;
    n->body = scoped(p, (const char *const[]){ end, NULL });
    advance(p);
    p->macro = m.outer;
    p->loops = loops;
}

static struct node *macro_statement(parser *p, size_t at) {
    struct node *n = node(p, N_MACRO, at);
    struct signature *s = lex_take(&p->lex, sizeof *s);
    n->name = need_name(p);
    signature(p, s);
    macro_body(p, n, s, "endmacro");
    return n;
}

static struct node *call_statement(parser *p, size_t at) {
    struct node *n = node(p, N_CALL_BLOCK, at);
    struct signature *s = lex_take(&p->lex, sizeof *s);
    if (is_op(p, '(')) signature(p, s);
    n->a = full(p);
    if (n->a->kind != N_CALL) lex_fail(&p->lex, at, "expected the call of a macro behind {%% call");
    macro_body(p, n, s, "endcall");
    return n;
}

static struct node *filter_statement(parser *p, size_t at) {
    struct node *n = node2(p, N_FILTER_BLOCK, at, NULL, filter(p, NULL));
    n->b = filters(p, n->b);
    n->body = scoped(p, (const char *const[]){ "endfilter", NULL });
    advance(p);
    return n;
}

static struct node *with_statement(parser *p, size_t at) {
    struct node *n = node(p, N_WITH, at), **tail = &n->list;
    while (p->now.kind != T_TAG_END) {
        if (n->list) need_op(p, ',');
        struct node *t = *tail = target_part(p);
        if (assigns_attribute(t)) lex_fail(&p->lex, t->at, "expected a name to assign to, found an attribute");
        need_op(p, '=');
        t->next = full(p);
        tail = &t->next->next;
    }
    n->body = scoped(p, (const char *const[]){ "endwith", NULL });
    advance(p);
    return n;
}

static struct node *generation_statement(parser *p, size_t at) {
    struct node *n = node(p, N_GENERATION, at);
    int loops = p->loops;
    p->loops = 0; /* a function of its own, there */
    n->body = scoped(p, (const char *const[]){ "endgeneration", NULL });
    p->loops = loops;
    advance(p);
    return n;
}

static struct node *print_statement(parser *p, size_t at) {
    struct node *first = NULL, **tail = &first;
    while (p->now.kind != T_TAG_END) {
        if (first) need_op(p, ',');
        *tail = node2(p, N_OUTPUT, at, full(p), NULL);
        tail = &(*tail)->next;
    }
    return first;
}

static struct node *leave_statement(parser *p, size_t at, enum node_kind kind) {
    if (!p->loops) lex_fail(&p->lex, at, "break and continue belong in a loop");
    return node(p, kind, at);
}

/* The statement behind {% and its first word, up to its %}. */
static struct node *statement(parser *p) {
    struct token t = p->now;
    static const char *const refused[] = { "include", "import", "from", "extends", "block", "autoescape", NULL };
    if (t.kind != T_NAME) expected(p, "the name of a tag");
    for (const char *const *w = refused; *w; w++)
        if (is_word(p, *w)) lex_fail(&p->lex, t.at, "the tag \"%s\" is not read in a chat template", *w);
    advance(p);
    if (token_is(&t, "set")) return set_statement(p, t.at);
    if (token_is(&t, "if")) return if_statement(p, t.at);
    if (token_is(&t, "for")) return for_statement(p, t.at);
    if (token_is(&t, "macro")) return macro_statement(p, t.at);
    if (token_is(&t, "call")) return call_statement(p, t.at);
    if (token_is(&t, "filter")) return filter_statement(p, t.at);
    if (token_is(&t, "with")) return with_statement(p, t.at);
    if (token_is(&t, "generation")) return generation_statement(p, t.at);
    if (token_is(&t, "print")) return print_statement(p, t.at);
    if (token_is(&t, "break")) return leave_statement(p, t.at, N_BREAK);
    if (token_is(&t, "continue")) return leave_statement(p, t.at, N_CONTINUE);
    char found[48];
    lex_fail(&p->lex, t.at, "an unknown tag %s", shown(&t, found));
}

/* Text, {{ }} and statements up to one of the ends, whose word is then the current token; ends NULL: up to the template's end. */
static struct node *contents(parser *p, const char *const *ends) {
    struct node *first = NULL, **tail = &first;
    for (; p->now.kind != T_EOF; tail = *tail ? &(*tail)->next : tail) {
        size_t at = p->now.at;
        if (p->now.kind == T_DATA) {
            *tail = node2(p, N_OUTPUT, at, constant(p, at, (value){ V_STRING, { .s = new_text(p, p->now.p, p->now.n) } }), NULL);
            advance(p);
        } else if (p->now.kind == T_PRINT_BEGIN) {
            advance(p);
            *tail = node2(p, N_OUTPUT, at, tuple(p, full, NULL, false), NULL);
            if (p->now.kind != T_PRINT_END) expected(p, "}}");
            advance(p);
        } else {
            advance(p); /* {% */
            for (const char *const *w = ends; w && *w; w++)
                if (is_word(p, *w)) return first;
            *tail = statement(p);
            while (*tail && (*tail)->next) tail = &(*tail)->next; /* print a, b */
            need_tag_end(p);
        }
    }
    if (ends) expected(p, ends[0]);
    return first;
}

static struct node *statements(parser *p, const char *const *ends) {
    deeper(p);
    skip_op(p, ':');
    need_tag_end(p);
    struct node *first = contents(p, ends);
    p->depth--;
    return first;
}

/* The body of what has variables of its own: whether it stands in an if does not matter to an unknown filter in there. */
static struct node *scoped(parser *p, const char *const *ends) {
    int outer = p->conditional;
    p->conditional = 0;
    struct node *first = statements(p, ends);
    p->conditional = outer;
    return first;
}

void parse_template(struct template *t, jmp_buf *leave, err *e) {
    parser p = { .lex = { .t = t, .line_starts = true, .fail = leave, .e = e }, .t = t };
    t->n_loop = intern(&p, "loop", 4);
    t->n_caller = intern(&p, "caller", 6);
    t->n_varargs = intern(&p, "varargs", 7);
    t->n_kwargs = intern(&p, "kwargs", 6);
    advance(&p);
    advance(&p);
    t->body = contents(&p, NULL);
    fail_unknown(&p);
}
