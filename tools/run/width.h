/* width: how many columns of a terminal a character takes, and where one character ends. */
#ifndef QUERN_WIDTH_H
#define QUERN_WIDTH_H

#include "runtime/base.h"

/* 0: combining marks and invisible characters; 2: East Asian wide ones and emoji (Unicode Standard Annex 11); else 1. */
int char_width(uint32_t c);

/* What a person calls a character: a code point with the marks on it, and what a zero width joiner joins. s is well-formed UTF-8. */
size_t char_end(const char *s, size_t n, size_t at);   /* where the character at `at` ends; n at the end */
size_t char_start(const char *s, size_t n, size_t at); /* where the character before `at` begins; 0 at the beginning */

#endif
