/* chat: a conversation as text and as token ids, by the checkpoint's own template. What run and a server share.
 *
 *   chat_open(&c, tokenizer, NULL, 0, &e);
 *   chat_render(c, &(chat_request){ .messages = ..., .add_generation_prompt = true }, &p, &e);
 *   chat_encode(c, &p, false, &ids, &e);
 *
 * A template is never guessed: a checkpoint without one cannot chat. The rendered text begins with BOS if the template says so, and
 * only then: nothing is added to it (as transformers' apply_chat_template). */
#ifndef QUERN_CHAT_H
#define QUERN_CHAT_H

#include "tokenizer/template.h"
#include "tokenizer/tokenizer.h"

typedef struct chat chat;

/* text: this template instead of the tokenizer's; NULL: the tokenizer's own. t may be NULL if text is given: then chat_encode is not to be
 * called. Borrows t until chat_close. Several threads may render and encode with one chat at a time. */
int chat_open(chat **c, const tokenizer *t, const char *text, size_t n, err *e);
void chat_close(chat *c);

/* Borrowed while chat_render runs. messages: a non-empty array of objects; members that are null count as missing. What a template
 * sees besides: tools and documents (None where there are none), the tokenizer's bos_token, eos_token and unk_token. */
typedef struct chat_request {
    const json *messages, *tools, *documents; /* NULL or JSON null: none; else arrays of objects */
    const json *kwargs;                       /* an object of more variables: enable_thinking, date_string, ...; NULL: none */
    const json *bos_token, *eos_token;        /* strings instead of the tokenizer's, JSON null: undefined; NULL: the tokenizer's */
    bool add_generation_prompt;               /* end with the beginning of an answer */
    const struct tm *now;                     /* for templates that print the date; NULL: the local time */
} chat_request;

typedef struct chat_prompt {
    buf text;
    text_ranges user;       /* what of it came out of the request: no special token is read there */
    text_ranges generation; /* what stood in {% generation %} */
} chat_prompt;

/* err.code: ERR_TEMPLATE_REFUSED when the template itself refused the chat, ERR_TEMPLATE_LIMIT when it asked for too much, ERR_INPUT
 * when request or template are at fault. out is empty then. */
int chat_render(const chat *c, const chat_request *q, chat_prompt *out, err *e);
void chat_prompt_free(chat_prompt *p);

/* Appends the ids. Special tokens are those that the template wrote; in what came out of the request they stay text, unless
 * parse_special. (The role of a message counts as the template's if it is one of the usual roles: Phi-3 makes tokens of it.) */
int chat_encode(const chat *c, const chat_prompt *p, bool parse_special, ids *out, err *e);

/* Does the template put a special token at byte `at` of a rendered text? Its id; -1: no. user: as in chat_prompt. */
int32_t chat_special_at(const chat *c, const buf *text, size_t at, const text_ranges *user);
/* The token that the template puts behind a reply: it ends one, as the checkpoint's own ends of text do. -1: none. */
int32_t chat_turn_end(const chat *c);

#endif
