/* template: a checkpoint's own chat template, rendered as HuggingFace's transformers does (Jinja2 in its immutable sandbox, with
 * trim_blocks and lstrip_blocks; https://jinja.palletsprojects.com/en/stable/templates). A template is a program that came with
 * a file: it sees the data it is given and nothing else, and its steps, depth, memory and output are bounded.
 *
 *   template_compile(&t, text, n, &e);                 once
 *   template_render(t, vars, &out, &e);                for each chat; from several threads at once if need be
 *   template_free(t);
 *
 * It knows no tokens and no models; runtime/chat.h makes ids of a chat. */
#ifndef QUERN_TOKENIZER_TEMPLATE_H
#define QUERN_TOKENIZER_TEMPLATE_H

#include <time.h>

#include "runtime/base.h"

typedef struct template template;

/* err.code of a rendering that failed. What is left, a template that breaks over this chat (it adds a list to a string, say, or
 * asks an undefined variable for an attribute), has ERR_INPUT. */
enum { ERR_TEMPLATE_REFUSED = 200, /* the template itself refused the chat: raise_exception, with its message */
       ERR_TEMPLATE_LIMIT };       /* too many steps, too deep, too much memory or output */

/* text is copied. Names the line and column of what it cannot read. */
int template_compile(template **t, const char *text, size_t n, err *e);
void template_free(template *t);

typedef struct text_ranges { /* of the rendered text: rising, apart from one another */
    text_range *p;
    size_t n, cap;
    bool failed;
} text_ranges;
void text_ranges_free(text_ranges *r);

typedef struct template_opts {
    const json *trusted;  /* more names the template sees, of which no part counts as a user's: bos_token, ...; NULL: none. vars go first */
    bool (*is_user)(const json *string); /* is this string of vars (its key, if it has one, stands in it) a user's? NULL: all are */
    const struct tm *now; /* what strftime_now tells; NULL: the local time */
    uint64_t max_steps;   /* a step is a node of the program or 64 bytes of text; 0: 50 million */
    size_t max_memory;    /* bytes; 0: 256 MiB and 32 times the size of vars' texts */
    size_t max_output;    /* bytes; 0: 64 MiB */
} template_opts;

/* vars: NULL, or a JSON object of the names that the template sees (messages, tools, documents, add_generation_prompt, bos_token, ...).
 * Appends the text to out; on failure out is as before. */
int template_render(const template *t, const json *vars, buf *out, err *e);
/* The same with options (o may be NULL). user, if not NULL, receives what of the rendered text came out of the strings and keys
 * of vars, wherever the template carried them: through concatenation, slices, filters and methods. generation, if not NULL,
 * receives what stood in {% generation %} blocks: the assistant's words. Both count from the beginning of what was appended. */
int template_render_with(const template *t, const json *vars, const template_opts *o, buf *out, text_ranges *user, text_ranges *generation, err *e);

#endif
