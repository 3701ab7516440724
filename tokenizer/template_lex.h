/* template_lex: a template's text as tokens. */
#ifndef QUERN_TOKENIZER_TEMPLATE_LEX_H
#define QUERN_TOKENIZER_TEMPLATE_LEX_H

#include "tokenizer/template_parts.h"

enum token_kind { T_EOF, T_DATA, T_PRINT_BEGIN, T_PRINT_END, T_TAG_BEGIN, T_TAG_END, T_NAME, T_STRING, T_INT, T_FLOAT, T_OP };
/* Operators of two characters; those of one stand for themselves. */
enum { OP2_FLOORDIV = 256, OP2_POW, OP2_EQ, OP2_NE, OP2_GE, OP2_LE };

struct token {
    enum token_kind kind;
    int op;          /* T_OP */
    size_t at;       /* in the source */
    const char *p;   /* T_NAME, T_DATA: the bytes; T_STRING: what it stands for */
    size_t n;
    int64_t i;       /* T_INT */
    double f;        /* T_FLOAT */
};
enum { MAX_BRACKETS = 200 };
struct lexer {
    struct template *t; /* source, and the arena for strings */
    size_t at;
    enum { LEX_TEXT, LEX_PRINT, LEX_TAG } state;
    bool begins;        /* `at` stands on the tag's opening */
    bool line_starts;   /* the last thing read ended a line: what Jinja calls line_starting */
    char open[MAX_BRACKETS];
    int n_open;
    jmp_buf *fail;
    err *e;
};
struct token lex_next(struct lexer *x);
_Noreturn void lex_fail(const struct lexer *x, size_t at, const char *fmt, ...) PRINTF_LIKE(3, 4);
void *lex_take(struct lexer *x, size_t bytes);

#endif
