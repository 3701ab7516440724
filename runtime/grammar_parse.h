/* grammar_parse: GBNF to networks of states, and sets of characters. Not for others than grammar and schema. */
#ifndef QUERN_GRAMMAR_PARSE_H
#define QUERN_GRAMMAR_PARSE_H

#include "runtime/grammar_net.h"

/* Rules that the text uses and does not define: fills in the rule of this name and returns 1; 0: nobody knows it; -1: an error. */
typedef struct gbnf_outside {
    int (*define)(void *arg, net *n, const char *name, uint32_t rule, err *e);
    void *arg;
} gbnf_outside;
int gbnf_parse(net *out, const char *text, size_t n, const gbnf_outside *outside, err *e); /* out: zeros; net_free in any case; outside may be NULL */

/* Sorts ranges and joins those that touch; how many are left. */
size_t char_ranges_order(char_range *r, size_t n);
/* All other characters, of ordered ranges; out has room for n + 1. */
size_t char_ranges_invert(const char_range *r, size_t n, char_range *out);

#endif
