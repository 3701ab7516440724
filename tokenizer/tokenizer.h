/* tokenizer: text to ids and back, as the checkpoint's own rules say. It knows nothing of models or files of weights.
 *
 *   tokenizer *t; tokenizer_load(&t, "checkpoint", NULL, &e)       the converter: from tokenizer.json, tokenizer.model, ...
 *   tokenizer_write(t, &blob)                                      into the model file
 *   tokenizer_open(&t, blob, n, &e)                                run, serve: borrowed from the mapping until tokenizer_free
 */
#ifndef QUERN_TOKENIZER_H
#define QUERN_TOKENIZER_H

#include "runtime/base.h"

typedef struct tokenizer tokenizer;

/* From a checkpoint folder, or (file not NULL) from that file. In a folder the first of these counts: tokenizer.json, tekken.json,
 * tokenizer.model (SentencePiece, or Llama 3's ranks), spiece.model, qwen.tiktoken, vocab.json with merges.txt, vocab.txt. The
 * folder's tokenizer_config.json adds the chat template and the names of special tokens; for all but tokenizer.json also
 * special_tokens_map.json, added_tokens.json and config.json count. A folder without any tokenizer: *t = NULL and 0. */
int tokenizer_load(tokenizer **t, const char *folder, const char *file, err *e);
int tokenizer_write(const tokenizer *t, buf *blob);
int tokenizer_open(tokenizer **t, const void *blob, size_t n, err *e); /* checks every length: a blob may come from anyone */
void tokenizer_free(tokenizer *t);

enum { TOK_SPECIAL = 1,        /* add BOS/EOS/... by the tokenizer's own rule */
       TOK_PARSE_SPECIAL = 2 };/* special tokens written in the text become their ids; else they are text */

/* Appends the ids of n bytes of text. Any bytes are allowed (ill-formed UTF-8 counts as U+FFFD, a byte at a time). No limit on
 * the length; memory linear in it, time n log n at worst. Fails only when out of memory, or when the file's own pattern
 * backtracks without end. Safe to call from several threads at once. */
int tokenizer_encode(const tokenizer *t, const char *text, size_t n, int flags, ids *out, err *e);

/* The same for a text of which some parts, rising and apart from one another, are a user's: a special token counts only where no
 * byte of it lies in one of them. The text must be UTF-8. */
int tokenizer_encode_parts(const tokenizer *t, const char *text, size_t n, int flags, const text_range *user, size_t n_user, ids *out, err *e);

/* Appends the text of n ids. skip_special leaves special tokens out. Gives valid UTF-8: ill-formed bytes become U+FFFD. */
int tokenizer_decode(const tokenizer *t, const int32_t *id, size_t n, bool skip_special, buf *out, err *e);

/* The same bytes before that: what the ids stand for, whole characters or not. */
int tokenizer_decode_bytes(const tokenizer *t, const int32_t *id, size_t n, bool skip_special, buf *out, err *e);

/* Decoding as tokens arrive: the pieces together are the decode of all of them; a character is given out only when whole. */
typedef struct detok {
    const tokenizer *t;
    bool skip_special, started;
    bool broken;   /* inside a run of byte tokens that is no UTF-8 */
    int stripped;  /* characters dropped at the beginning, as far as the rules ask for it */
    char held[64]; /* an unfinished character, or what the next token may still change: a longer run of byte tokens is final */
    size_t n_held;
} detok;
void detok_begin(detok *d, const tokenizer *t, bool skip_special);
void detok_token(detok *d, int32_t id, buf *out); /* appends what is certain by now */
void detok_end(detok *d, buf *out);               /* the rest: unfinished bytes become U+FFFD */

int tokenizer_size(const tokenizer *t); /* ids are 0 .. size - 1 */
int32_t tokenizer_bos(const tokenizer *t); /* -1: none */
int32_t tokenizer_eos(const tokenizer *t);
int32_t tokenizer_id(const tokenizer *t, const char *piece, size_t n); /* of a vocabulary entry as it is written there; -1 */
const char *tokenizer_piece(const tokenizer *t, int32_t id, size_t *n); /* the entry as written; borrowed until tokenizer_free */
bool tokenizer_is_special(const tokenizer *t, int32_t id);
int32_t tokenizer_unk(const tokenizer *t);
/* The chat template, NULL if the checkpoint has none. tools: the one for chats with tools, where the checkpoint has one of its own. */
const char *tokenizer_template(const tokenizer *t, bool tools, size_t *n);
/* Do the tokenizers of two model files mean the same by every id, and make the same ids of every text? n 0: the file has none. 0, or -1 and the
 * first difference, as a part of a sentence. The chat template, decoding, and which ids are BOS and EOS may differ. */
int tokenizer_same_ids(const void *a, size_t n_a, const void *b, size_t n_b, err *e);
void tokenizer_print(const tokenizer *t, FILE *out); /* for inspect */

#endif
