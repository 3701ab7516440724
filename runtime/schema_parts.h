/* schema_parts: what the schema's files share. Not for others. */
#ifndef QUERN_SCHEMA_PARTS_H
#define QUERN_SCHEMA_PARTS_H

#include "runtime/grammar_net.h"

/* ---- numbers (schema_number.c) ---- */
enum { MAX_DIGITS = 400 };
typedef struct decimal { /* sign * 0.d1 d2 ... * 10^point, without zeros at either end; 0: no digits */
    int sign, n, point;
    char digit[MAX_DIGITS];
} decimal;
typedef struct number_limits {
    decimal low, high;
    bool has_low, has_high, low_open, high_open; /* open: the limit itself is not allowed */
    bool whole;
    uint32_t multiple; /* 0: none */
} number_limits;
int decimal_parse(decimal *d, const char *text); /* -1: over MAX_DIGITS */
int decimal_compare(const decimal *a, const decimal *b);
bool decimal_whole(const decimal *d);
uint32_t decimal_modulo(const decimal *d, uint32_t m); /* of a whole one's absolute value */
void number_low(number_limits *l, const decimal *d, bool open);
void number_high(number_limits *l, const decimal *d, bool open);
const char *number_emit(net *n, uint32_t from, uint32_t to, const number_limits *l); /* NULL, or why it cannot be kept */

/* ---- strings (schema_string.c, schema_regex.c) ---- */
typedef struct regex_arc {
    uint32_t from, to, first, n; /* ranges */
    uint8_t kind;
} regex_arc;
enum { REGEX_EMPTY, REGEX_CHARS, REGEX_START, REGEX_END };
typedef struct char_nfa {
    regex_arc *arc;
    char_range *range;
    uint32_t n_arcs, cap_arcs, n_ranges, cap_ranges, n_states, start, match;
    uint32_t *first; /* [n_states + 1] arcs by state */
    bool failed;
} char_nfa;
/* An ECMA-262 pattern, found anywhere in a text unless anchored. The error says what cannot be kept. */
int char_nfa_parse(char_nfa *a, const char *pattern, size_t n, err *e);
void char_nfa_free(char_nfa *a);
const char *format_pattern(const char *format); /* NULL: none that can be kept */

enum { MAX_PATTERNS = 8 };
typedef struct string_limits {
    uint32_t min, max; /* characters; max NET_NONE: none */
    char_nfa pattern[MAX_PATTERNS];
    int n_patterns;
    bool raw; /* written as it is, without quotes and escapes */
} string_limits;
int string_emit(net *n, uint32_t from, uint32_t to, const string_limits *l, err *e); /* with its quotes */
bool string_is_raw(const char *s, size_t n); /* has only characters that raw strings may have */
bool string_matches(const char_nfa *a, const char *s, size_t n);
void json_text(buf *b, const char *s, size_t n); /* as json_text_step has it, without quotes */

/* ---- keywords and validation (schema_check.c) ---- */
typedef struct schema_doc {
    arena mem;
    json *root;
    err *e;
} schema_doc;
enum { KIND_NULL = 1, KIND_BOOL = 2, KIND_INT = 4, KIND_FRACTION = 8, KIND_STRING = 16, KIND_ARRAY = 32, KIND_OBJECT = 64, KIND_ANY = 127 };
int schema_bad(schema_doc *d, const json *at, const char *keyword, const char *fmt, ...) PRINTF_LIKE(4, 5);
int schema_keywords(schema_doc *d, const json *s);              /* are all of a schema's keywords ones that can be kept? */
int schema_kinds(schema_doc *d, const json *s, int *kinds);     /* its type, and nullable */
int schema_resolve(schema_doc *d, const json *s, const json **target); /* its $ref */
int schema_count(schema_doc *d, const json *s, const char *keyword, uint32_t *v); /* a whole number from 0; left alone where missing */
int schema_number(schema_doc *d, const json *s, number_limits *l);
bool json_equal(const json *a, const json *b);
/* Is the value valid? 1, 0, or -1 on failure. */
int schema_valid_alone(schema_doc *d, const json *value, const json *schema, int depth); /* without $ref, allOf, anyOf and oneOf of its own */
int schema_valid(schema_doc *d, const json *value, const json *schema, int depth);

#endif
