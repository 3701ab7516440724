/* regex_code: the compiled form of a pattern, shared by the compiler (regex_compile.c) and the matcher (regex.c). */
#ifndef QUERN_REGEX_CODE_H
#define QUERN_REGEX_CODE_H

#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

enum {
    RE_CHAR,   /* the character x */
    RE_SET,    /* one character of a set */
    RE_LOOP,   /* min to max characters of a set */
    RE_SPLIT,  /* go on here, or else at pc + x (lazy: the other way round) */
    RE_JUMP,   /* to pc + x */
    RE_LOOK,   /* body up to its RE_MATCH matches here (mode: RE_NOT: does not; RE_ATOMIC: and is consumed); then pc + x */
    RE_BEHIND, /* the character before is in a set (RE_NOT: is not, or there is none) */
    RE_LINE_START,
    RE_LINE_END,
    RE_TEXT_START,
    RE_TEXT_END,
    RE_LAST_END,
    RE_WORD_EDGE,
    RE_MATCH
};
enum { RE_GREEDY, RE_LAZY, RE_POSSESSIVE, RE_NOT, RE_ATOMIC };
enum { RE_MAX_CODE = 1 << 15, RE_MAX_DEPTH = 50, RE_MAX_REPEAT = 1000, RE_ALTERNATIVES = 32 };

struct re_ins {
    uint8_t op, mode;
    uint16_t set;
    int32_t x;
    uint32_t min, max; /* max UINT32_MAX: any number */
};

struct re_range {
    uint32_t first, last;
};

/* A set of characters: ASCII by table; the rest by category, property, ranges and inner classes. */
struct re_set {
    uint8_t ascii[128];
    uint32_t categories; /* bits by general category */
    uint8_t any, none;   /* member if it has one of these property bits, or lacks one of those */
    bool negated;        /* of the rest; ascii[] has it applied */
    struct re_range *range;
    uint16_t *inner; /* sets */
    size_t n_range, n_inner;
};

struct regex {
    arena mem;
    struct re_ins *code;
    struct re_set *sets;
    size_t n_code, n_sets;
    uint32_t first[129];            /* alternatives that can begin with this ASCII character; [128]: with any other */
    int32_t start[RE_ALTERNATIVES]; /* where each alternative begins */
    int n_start;
    bool may_be_empty;
    const char *literal; /* the pattern is this text; NULL: it is not that simple */
    size_t n_literal;
};

bool re_set_has(const struct regex *r, const struct re_set *s, uint32_t c);

#endif
