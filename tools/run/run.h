/* run: what its files share. */
#ifndef QUERN_RUN_H
#define QUERN_RUN_H

#include <stdatomic.h>

#include "runtime/engine.h"
#include "runtime/options.h"
#include "runtime/sample.h"
#include "tokenizer/tokenizer.h"

typedef struct run_opts {
    const char *model, *prompt, *prompt_file, *ids, *dump_logits, *decoder_ids, *pooling;
    int n_predict;
    engine_opts engine;
    sample_opts sample;
    bool temperature_given, top_k_given, top_p_given, min_p_given, repeat_given, seed_given; /* else the checkpoint's own */
    texts stop, lora;
    bool ignore_eos, print_ids, verbose, parse_special, no_echo;
    bool tokenize, detokenize, jsonl, no_special, embed;
} run_opts;

extern atomic_bool run_stop; /* set by Ctrl-C */

int run_generate(const run_opts *o, err *e); /* 0, -1, or 130 after Ctrl-C */
int run_embed(const run_opts *o, err *e);    /* --embed */
int run_vocab(const run_opts *o, err *e);    /* --tokenize, --detokenize */

/* The tokens of --ids, or of the prompt's text by the tokenizer's rule; text, where it is not NULL, receives the text. */
int run_prompt_tokens(const run_opts *o, const tokenizer *t, buf *text, ids *out, err *e);
/* The prompt's bytes from -p, -f or stdin. */
int run_prompt_text(const run_opts *o, buf *text, err *e);

#endif
