/* template_value: the values of chat templates, and the state of one rendering.
 *
 * Values are Python's as far as templates meet them, and immutable as there (the sandbox forbids changing lists and dicts); only
 * namespaces change. Everything a rendering makes lies in one arena with a limit. Whatever goes wrong leaves by longjmp to
 * template_render: no function between checks for failure, and none owns anything that would have to be freed. */
#ifndef QUERN_TOKENIZER_TEMPLATE_VALUE_H
#define QUERN_TOKENIZER_TEMPLATE_VALUE_H

#include <setjmp.h>
#include <string.h>

#include "tokenizer/template.h"

struct run;
struct iter;

/* ---- values ---- */

typedef enum {
    V_ABSENT, /* an argument that was not given; never seen by a template */
    V_UNDEFINED, V_NONE, V_BOOL, V_INT,
    V_BIG,    /* a whole number beyond 64 bits: text, kept as written; it can be shown and compared, not computed with */
    V_FLOAT, V_STRING, V_LIST, V_TUPLE, V_DICT, V_VIEW, V_RANGE, V_ITER, V_NAMESPACE, V_LOOP, V_MACRO, V_METHOD, V_FUNCTION,
    V_CYCLER, V_JOINER
} value_type;

struct text { /* UTF-8 */
    const char *p;
    size_t n, chars;        /* bytes; characters, SIZE_MAX: not counted yet (never so in the program, which threads share) */
    const text_range *user; /* [n_user] bytes that came from the caller's data */
    size_t n_user;
    bool markup;            /* "safe" or escaped already: what is joined to it gets escaped (Jinja's Markup) */
};
typedef struct value {
    value_type type;
    union {
        bool b;
        int64_t i;
        double f;
        struct text *s;
        const struct list *list;
        struct dict *dict; /* V_DICT, V_NAMESPACE */
        const struct undefined *undefined;
        const struct view *view;
        const struct range *range;
        struct iter *iter;
        struct loop *loop;
        const struct macro *macro;
        const struct method *method;
        const struct function *function;
        struct cycler *cycler; /* V_CYCLER, V_JOINER */
    };
} value;

struct list { const value *p; size_t n; };
struct pair { value key, v; };
struct dict { /* in the order of insertion; slot: open addressing, index + 1, once there are more than a few */
    struct pair *p;
    uint32_t n, cap, n_slots, *slot;
};
struct undefined { /* why, for the message when it is used */
    const char *hint, *of; /* a whole message; or the type of what lacks it, NULL: it is a variable */
    value name;
};
enum { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS };
struct view { const struct dict *dict; int which; };
struct range { int64_t start, stop, step; };
struct iter { /* what filters such as map and select give: made when first asked for, and read only once */
    struct list (*make)(struct run *r, struct iter *it); /* NULL: items are there */
    value source;
    const struct call *call;
    int how;
    struct list items;
    size_t at;
};
struct method { value self; const struct method_row *row; };
struct cycler { struct list items; size_t at; };

static const value NONE = { V_NONE, { 0 } };

/* ---- one rendering ---- */

struct marks { text_range *p; size_t n, cap; }; /* ranges that grow, in the rendering's arena */
struct sink { /* text that grows, with its user's part */
    char *p;
    size_t n, cap;
    struct marks user;
};
struct run {
    arena mem;
    err *e;
    jmp_buf fail;
    const struct template *t;
    template_opts o;
    uint64_t steps;
    int depth;
    uint32_t at; /* the node in work */
    struct sink *out;
    struct sink *page; /* where out goes in the end */
    struct marks generation; /* of the page: blocks outside macros */
    bool done; /* it came to its end */
    int leave; /* 0, N_BREAK, N_CONTINUE: statements end until their loop */
};
enum { MAX_DEPTH = 400, MAX_PARSE_DEPTH = 100, MAX_LINKS = 150, MAX_CALLS_ARGS = 255, MAX_PARAMS = 6 };

_Noreturn void run_fail(struct run *r, const char *fmt, ...) PRINTF_LIKE(2, 3);  /* the template breaks over this chat */
_Noreturn void run_limit(struct run *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
void *take(struct run *r, size_t bytes); /* zeroed; never NULL */
void tick(struct run *r, size_t steps);
void enter(struct run *r); /* one level deeper; leave by r->depth-- */

value bool_value(bool b);
value int_value(int64_t i);
value float_value(double f);
value list_value(struct run *r, value_type type, const value *p, size_t n); /* V_LIST or V_TUPLE; p is kept */
value undefined_value(struct run *r, const char *hint, const char *of, value name);
const char *type_name(value v);  /* Python's */
bool truth(struct run *r, value v);
bool equal(struct run *r, value a, value b);
int order(struct run *r, value a, value b, const char *op); /* <0, 0, >0; 2: not comparable to anything (NaN); fails for unlike types */
struct dict *new_dict(struct run *r);
void dict_set(struct run *r, struct dict *d, value key, value v);
const struct pair *dict_find(struct run *r, const struct dict *d, value key); /* NULL: not there; fails for keys that cannot be hashed */
struct list items_of(struct run *r, value v);  /* of anything that can be iterated; fails for the rest */
bool is_iterable(value v);
bool has_length(value v);
int64_t length_of(struct run *r, value v); /* Python's len() */
bool contains(struct run *r, value container, value v);
void put_str(struct run *r, struct sink *k, value v);  /* str(v) */
void put_repr(struct run *r, struct sink *k, value v);
value to_string(struct run *r, value v, bool keep_markup);
int64_t want_int(struct run *r, value v, const char *what);
struct text *want_text(struct run *r, value v, const char *what);
_Noreturn void fail_undefined(struct run *r, value v);
value value_of_json(struct run *r, const json *j, bool user);
void format_double(double x, char out[40]); /* repr */
value loop_attr(struct run *r, struct loop *l, const struct text *name);

#endif
