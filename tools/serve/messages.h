/* messages: conversations of all dialects in the one shape that templates know; and structured: what an answer must look like. */
#ifndef QUERN_SERVE_MESSAGES_H
#define QUERN_SERVE_MESSAGES_H

#include "tools/serve/request.h"

typedef struct conversation_in {
    const json *messages, *tools, *system; /* of the body */
    const char *system_text;               /* before them; NULL: none */
    bool anthropic;                        /* blocks: tool_use, tool_result */
} conversation_in;
int messages_normalise(request *q, const conversation_in *in, json **out);
json *messages_of_text(request *q, const char *system, const char *user, size_t user_n);
int messages_of_items(request *q, const json *input, const char *instructions, json **out); /* responses */
int messages_tools(request *q, const json *tools, bool anthropic, const json **out); /* as templates want them; NULL: none */
int request_chat(request *q, const json *messages, const json *tools, bool generation, ids *out); /* rendered (q->text) and encoded */
json *tree_new(request *q, json_type type);
void tree_add(json *parent, const char *key, json *child);
json *tree_str(request *q, const char *s, size_t n);

/* ---- structured.c: what an answer must look like ---- */
int structured_take(request *q); /* response_format, format, text.format, grammar, json_schema into q->wish */
int structured_tools(request *q, const json **tools); /* tools and tool_choice into q->wish; *tools NULL afterwards: hidden */

#endif
