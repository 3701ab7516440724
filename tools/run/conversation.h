/* conversation: what was said, and the token ids that stand for it.
 *
 * Each turn the whole conversation goes through the model's chat template. Of the text that comes out only what is new is made into
 * ids: a reply stays the ids it was generated as, which its text, tokenized again, might not give. The border between old and
 * new is where a special token begins, because no token reaches over it; where there is none, all is tokenized again.
 *
 * A saved conversation is one file, little-endian: "QUERNCHT", u32 1, u32 0, u64 bytes of the JSON, u64 their XXH64, the JSON, and
 * what session_save writes. The JSON is {"messages":[{"role":,"content":},...],"text":,"tokens":n,"marks":[[bytes,ids],...]}. */
#ifndef QUERN_CONVERSATION_H
#define QUERN_CONVERSATION_H

#include "runtime/chat.h"
#include "runtime/saved.h"

typedef struct message {
    const char *role; /* "system", "user" or "assistant" */
    buf text;
} message;

typedef struct mark { /* text[0 .. bytes) is tokens[0 .. ids) */
    size_t bytes, ids;
} mark;

typedef struct rendering {
    buf text;
    ids tokens;
    buf marks;  /* of struct mark, rising; the last covers all tokens of a prompt */
    bool apart; /* a token of the reply left no text: no marks from there on */
} rendering;

typedef struct conversation {
    const tokenizer *tok;    /* borrowed */
    const chat *shape;       /* borrowed */
    bool parse_special;      /* special tokens that somebody types are special */
    message *m;              /* [n] */
    int n, cap;
    rendering now, next;     /* what the session holds or will; the prompt that conversation_prompt made */
} conversation;

void conversation_free(conversation *c);
int conversation_add(conversation *c, const char *role, const char *text, size_t n, err *e);
void conversation_drop(conversation *c);  /* the last message */
void conversation_clear(conversation *c); /* all but the system's message, and the ids */
int conversation_system(conversation *c, const char *text, size_t n, err *e); /* in the place of the old one; n 0: none */
const char *conversation_role(const conversation *c, int i); /* of message i, "" where there is none */

/* All messages as the template has them; prompt: with the beginning of a reply. On failure out is empty. */
int conversation_render(const conversation *c, bool prompt, chat_prompt *out, err *e);
/* Fills next with the prompt of a reply. Nothing else changes until conversation_begin says that a session holds it. */
int conversation_prompt(conversation *c, err *e);
void conversation_begin(conversation *c);
/* A token of the reply and the text that became certain with it; whole: no text is held back. */
void conversation_token(conversation *c, int32_t id, const char *text, size_t n, bool whole);
/* Cuts now back to what the messages still say, so that nothing of what was taken back stays in it, and to at most so many tokens. */
void conversation_settle(conversation *c, size_t most);
void conversation_put(const conversation *c, buf *out); /* "messages":[...] */

/* The special token that the template puts behind a reply; -1: it puts none. */
int32_t conversation_turn_end(const conversation *c);

/* One whole file or none; another kind of file is not overwritten. The session is brought to what the messages say. */
int conversation_save(conversation *c, session *s, const engine_info *about, const char *path, err *e);
/* On failure c is as it was, and s may be empty. */
int conversation_load(conversation *c, session *s, const engine_info *about, const char *path, err *e);
/* The JSON of a saved conversation, in the place of what c says; *n_tokens: how many the session has to hold. */
int conversation_read(conversation *c, const char *json_text, size_t n, size_t *n_tokens, err *e);

#endif
