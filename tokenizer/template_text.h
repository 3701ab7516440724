/* template_text: strings of chat templates (template_value.h): text that grows, and what of it is the caller's data; looking and cutting by
 * characters. */
#ifndef QUERN_TOKENIZER_TEMPLATE_TEXT_H
#define QUERN_TOKENIZER_TEMPLATE_TEXT_H

#include "tokenizer/template_value.h"

void sink_add(struct run *r, struct sink *k, const char *p, size_t n, bool user);
void sink_str(struct run *r, struct sink *k, const char *s);
void sink_fmt(struct run *r, struct sink *k, const char *fmt, ...) PRINTF_LIKE(3, 4);
void sink_part(struct run *r, struct sink *k, const struct text *s, size_t from, size_t to);
void sink_text(struct run *r, struct sink *k, const struct text *s);
void sink_char(struct run *r, struct sink *k, uint32_t c, bool user);
void mark(struct run *r, struct marks *m, size_t begin, size_t end);
value sink_value(struct run *r, const struct sink *k); /* a string of what is in it */
value string_of(struct run *r, const char *s);         /* s lives as long as the rendering */
value string_part(struct run *r, const struct text *s, size_t from, size_t to); /* bytes; shares them */
size_t text_chars(struct text *s);
size_t text_byte(struct text *s, size_t character); /* where the character begins */
bool text_user_at(const struct text *s, size_t byte);
size_t text_find(const struct text *s, const struct text *what, size_t from); /* SIZE_MAX: not there */
bool text_is(const struct text *s, const char *literal);
bool text_is_case(const struct text *s, bool upper); /* str.isupper, str.islower */
bool python_space(uint32_t c);
void text_strip(const struct text *s, const struct text *chars, bool left, bool right, size_t *from, size_t *to); /* chars NULL: space */
value escaped(struct run *r, value v); /* Markup */
enum text_case { CASE_UPPER, CASE_LOWER, CASE_TITLE_FIRST };
void sink_case(struct run *r, struct sink *k, const struct text *s, size_t from, size_t to, enum text_case how);

#endif
