/* regex: the regular expressions that tokenizers are written in, over code points of well-formed UTF-8. Perl's order of
 * preference (the first alternative that matches), Oniguruma's names. What is not supported is refused by name. */
#ifndef QUERN_REGEX_H
#define QUERN_REGEX_H

#include "runtime/base.h"

typedef struct regex regex;

/* Work space of one thread. `steps` is the work left: each step is an instruction or a retreat of the matcher. */
struct regex_work {
    uint64_t steps;
    struct regex_retreat *stack;
    size_t n, cap;
    bool failed; /* out of memory */
};
void regex_work_free(struct regex_work *w);

int regex_compile(regex **out, const char *pattern, size_t n, err *e);
int regex_literal(regex **out, const char *text, size_t n, err *e); /* matches exactly this text; n > 0 */
void regex_free(regex *r);
bool regex_may_be_empty(const regex *r); /* can it match no character at all? Such matches are not found */

/* The leftmost match of at least one character in s[from .. n): 1 and its place; 0: none; -1: out of steps or memory. */
int regex_find(const regex *r, const char *s, size_t n, size_t from, size_t *start, size_t *end, struct regex_work *w);

#endif
