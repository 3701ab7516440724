/* template_tree: a chat template as the parser leaves it: a tree of nodes and the words in it. */
#ifndef QUERN_TOKENIZER_TEMPLATE_TREE_H
#define QUERN_TOKENIZER_TEMPLATE_TREE_H

#include "tokenizer/template_value.h"

struct name { /* one for each word of the template: compared by address */
    struct text text;
    const struct function *global; /* a function every template sees; NULL: none of this name */
    struct name *next;
};
enum node_kind {
    /* expressions; a, b, c and list as said */
    N_CONST, N_NAME, N_TUPLE /* list */, N_LIST, N_DICT /* list: key, value, key, ... */, N_AND, N_OR, N_NOT, N_NEG, N_POS,
    N_BINARY /* a, list of N_OPERAND */, N_CONCAT /* list */, N_COMPARE /* a, list of N_OPERAND */, N_OPERAND /* op, a */,
    N_COND /* a if b else c */, N_GETATTR, N_GETITEM /* a[b] */, N_SLICE /* a[b:c:list] */, N_CALL, N_FILTER, N_TEST, N_KEYWORD,
    /* what is assigned to: N_NAME, N_TUPLE, or a namespace's attribute: name, attr */
    N_NSREF,
    /* statements; body and orelse are lists */
    N_OUTPUT /* a */, N_SET /* target a, b */, N_SET_BLOCK /* target a, filter b */, N_IF, N_FOR /* a in b if c */, N_MACRO,
    N_CALL_BLOCK /* a: the call */, N_FILTER_BLOCK /* b */, N_WITH /* list: target, value, target, ... */, N_GENERATION,
    N_BREAK, N_CONTINUE
};
enum op { OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_POW, OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_IN, OP_NOT_IN };
struct node {
    uint8_t kind, op;
    bool flag;   /* N_FOR: its body mentions loop */
    uint32_t at; /* in the source: for messages */
    struct node *next;
    struct node *a, *b, *c, *list, *body, *orelse;
    const struct name *name, *attr;
    union {
        value constant;
        struct args *args;             /* N_CALL, N_FILTER, N_TEST */
        const struct signature *macro; /* N_MACRO, N_CALL_BLOCK */
    };
    const void *known; /* N_FILTER: struct filter; N_TEST: struct test; NULL: no such */
};
struct args { struct node *list, *keywords, *star, *star_star; };
struct signature {
    struct node *params; /* N_NAME, with its default in a or NULL */
    int n_params;
    bool uses_caller, uses_varargs, uses_kwargs;
};
enum { N_BUCKETS = 256 };
struct template {
    arena mem;
    const char *source;
    size_t n;
    struct node *body;
    struct name *names[N_BUCKETS];
    const struct name *n_loop, *n_caller, *n_varargs, *n_kwargs;
};
struct name *template_name(const struct template *t, const char *p, size_t n); /* NULL: the template never says it */
void template_place(const struct template *t, size_t at, unsigned *line, unsigned *column);
void parse_template(struct template *t, jmp_buf *fail, err *e); /* fills body; leaves by longjmp */

#endif
