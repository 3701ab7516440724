/* load_gguf: a tokenizer out of what a GGUF file's metadata say of it (tokenizer.ggml.*), handed over as plain numbers and texts:
 * this header knows no files. */
#ifndef QUERN_TOKENIZER_LOAD_GGUF_H
#define QUERN_TOKENIZER_LOAD_GGUF_H

#include "tokenizer/tokenizer.h"

typedef struct gguf_string {
    const char *p; /* n bytes, any bytes, no NUL behind */
    size_t n;
} gguf_string;

typedef struct gguf_vocabulary {
    gguf_string model, pre;  /* tokenizer.ggml.model: "gpt2", "llama", "t5" or "bert"; .pre: which words; p NULL: the file does not say */
    const gguf_string *token, *merge;
    const double *score;     /* [n_tokens], or NULL */
    const uint8_t *type;     /* [n_tokens]: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; NULL: all normal */
    size_t n_tokens, n_merges;
    int64_t bos, eos, unk, cls, sep; /* -1: the file does not say */
    gguf_string charsmap;    /* of SentencePiece, the bytes of precompiled_charsmap; p NULL: none */
    int add_bos, add_eos, add_space_prefix, collapse_spaces; /* 0, 1; -1: the file does not say */
    gguf_string chat_template, tool_template;
} gguf_vocabulary;

/* Everything is copied. A model or a pre-tokenizer that is not known is refused by its name. */
int tokenizer_from_gguf(tokenizer **t, const gguf_vocabulary *v, err *e);

#endif
