/* grammar_parse: GBNF to networks of states, and sets of characters. Not for others than grammar and schema. */
#ifndef QUERN_GRAMMAR_PARSE_H
#define QUERN_GRAMMAR_PARSE_H

#include "runtime/grammar_net.h"

int gbnf_parse(net *out, const char *text, size_t n, err *e); /* out: zeros; net_free in any case */

/* Sorts ranges and joins those that touch; how many are left. */
size_t char_ranges_order(char_range *r, size_t n);
/* All other characters, of ordered ranges; out has room for n + 1. */
size_t char_ranges_invert(const char_range *r, size_t n, char_range *out);

#endif
