/* calls: how families of models write calls of tools and what they think, as data: the format is found by what the
 * model's template contains, never by a model's name. calls.c makes the grammar of calls, calls_parse.c reads an answer
 * back, piece by piece. Neither knows HTTP or a dialect.
 *
 *   const call_format *f = call_format_of(template, n);  think_marks t = think_marks_of(template, n);
 *   answer_reader r; reader_begin(&r, &opts);  reader_feed(&r, text, n, exact); ...; reader_end(&r);  reader_free(&r);
 */
#ifndef QUERN_SERVE_CALLS_H
#define QUERN_SERVE_CALLS_H

#include "runtime/schema.h"

typedef enum call_body {
    BODY_JSON,   /* {"name": "f", "arguments": {...}} */
    BODY_PYTHON, /* f(a=1, b="x") */
    BODY_NAMED,  /* f[ARGS]{...} */
    BODY_XML,    /* <function=f><parameter=a>\n1\n</parameter></function> */
    BODY_BRACES  /* call:f{a:1,b:<escape>x<escape>} */
} call_body;

typedef struct call_format {
    const char *name;
    const char *signs[3];        /* a template that contains all of them is of this format; the first row that fits counts */
    const char *open, *close;    /* around a call, or around a list of them; open NULL: a call is the first text of an answer; close may be NULL */
    const char *prefix;          /* may stand before a call that is the first text */
    const char *between;         /* calls of one list; NULL: each call has its own open and close */
    bool list;                   /* [ ... ] around them */
    call_body body;
    const char *key;             /* BODY_JSON: of the arguments */
    const char *mark;            /* BODY_NAMED: stands before the arguments */
    const char *quote;           /* BODY_BRACES: around strings */
    const char *before, *behind; /* around each call of a list, of BODY_NAMED */
    bool one;                    /* the template refuses more than one call in a turn */
    int id_length;               /* 0: any */
} call_format;

extern const call_format call_formats[]; /* up to a name NULL */
extern const char *const call_markers[]; /* texts of special tokens that formats are made of, up to a NULL */
const call_format *call_format_of(const char *tmpl, size_t n); /* NULL: the template does not know tools */

/* How a template reads a message with calls, where it is not as most do. */
typedef struct template_wants {
    bool text_arguments; /* it puts arguments between other text: they are to be JSON text, not an object */
    bool null_content;   /* it asks whether there is a content: with calls alone there is none, not an empty one */
} template_wants;
template_wants template_wants_of(const char *tmpl, size_t n);

typedef struct think_marks {
    const char *open, *close; /* NULL: the template knows none */
} think_marks;
think_marks think_marks_of(const char *tmpl, size_t n);
typedef enum think_state { THINK_NONE, THINK_MAY, THINK_OPEN } think_state; /* at the beginning of an answer */
think_state think_state_of(think_marks m, const char *prompt, size_t n); /* by what the rendered prompt ends with */

/* ---- grammars ---- */

typedef struct call_tool {
    const char *name, *schema; /* JSON text of the arguments' schema, an object's */
    size_t n;
    const json *parameters;    /* the same, as it came; NULL: none */
} call_tool;

typedef struct shape_ask {
    const call_format *format; /* with tools */
    const call_tool *tools;    /* [n_tools] those that may be called */
    int n_tools;
    bool parallel;
    const char *schema;        /* an answer of this schema [n_schema] may stand in place of calls, or alone; NULL: none */
    size_t n_schema;
    think_marks think;
    think_state thinking;
} shape_ask;

/* A grammar in GBNF and the schemas that it uses, in the arena. of[i]: the tool that rules[i] belongs to, -1: the answer. NULL: out of memory. */
typedef struct call_shape {
    const char *gbnf;
    size_t n;
    schema_rule *rules;
    int *of;
    int n_rules;
} call_shape;
call_shape *shape_make(arena *mem, const shape_ask *a);
/* Formats that write arguments one by one keep what their schema says of each, not of the object: true where it says more, with the keyword. */
bool call_refuses(const call_format *f, const call_tool *t, char keyword[64]);
/* What the values of a schema within parameters can be, as far as it is easily seen: of text alone a format writes the text itself. */
enum { VALUE_TEXT = 1, VALUE_OTHER = 2 };
int value_kinds(const json *parameters, const json *schema);

/* ---- reading (calls_parse.c) ---- */

typedef enum part_kind { PART_TEXT, PART_REASONING, PART_CALL, PART_ARGUMENTS, PART_CALL_END } part_kind;
typedef struct answer_part {
    part_kind kind;
    int call;       /* from 0: of CALL, ARGUMENTS, CALL_END */
    const char *s;  /* [n] text, the name of a CALL, a piece of its arguments' JSON text */
    size_t n;
} answer_part;

typedef struct reader_opts { /* borrowed */
    const call_format *format; /* NULL: no calls are looked for */
    const call_tool *tools;    /* [n_tools] others are no calls */
    int n_tools;
    think_marks think;
    think_state thinking;
    void (*take)(void *arg, const answer_part *p);
    void *arg;
} reader_opts;

typedef enum reader_state { READ_BEGIN, READ_THINK, READ_TEXT, READ_CALLS, READ_ARGUMENTS } reader_state;
typedef struct answer_reader {
    reader_opts o;
    reader_state state;
    buf held;          /* what is not decided yet */
    size_t looked;     /* of it, without finding a call's end */
    bool started;      /* text of the answer, or a call, came */
    bool opened, after; /* in a list of calls; behind a call */
    const char *rest;  /* what still belongs to the last call; NULL: nothing */
    bool trim;         /* space is dropped until text comes */
    bool exact;        /* a grammar holds: what comes is what it should be */
    int depth;         /* of arguments as they come */
    bool in_string, escaped;
    int n_calls;
    bool malformed, unknown, cut; /* what was met: for warnings; cut: the last call has a part of its arguments only */
} answer_reader;
void reader_begin(answer_reader *r, const reader_opts *o);
void reader_feed(answer_reader *r, const char *s, size_t n, bool exact); /* the next piece of the answer; exact: a grammar holds for it */
void reader_end(answer_reader *r); /* the answer is over: what was not decided is text, or a call that was cut */
void reader_free(answer_reader *r);
bool reader_thinks(const answer_reader *r); /* is what comes next thought? */

#endif
