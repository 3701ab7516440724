/* run: what its files share. */
#ifndef QUERN_RUN_H
#define QUERN_RUN_H

#include <stdatomic.h>

#include "runtime/chat.h"
#include "runtime/choice.h"
#include "runtime/engine.h"
#include "runtime/options.h"
#include "runtime/sample.h"
#include "tokenizer/tokenizer.h"

typedef struct run_opts {
    const char *model, *prompt, *prompt_file, *ids, *dump_logits, *decoder_ids, *pooling, *system, *template_file, *draft;
    const char *early_stopping;
    int n_predict, beams;
    float length_penalty;
    engine_opts engine;
    sample_opts sample;
    /* else the checkpoint's own */
    bool temperature_given, top_k_given, top_p_given, min_p_given, typical_given, repeat_given, seed_given, sessions_given;
    bool beams_given, length_penalty_given, no_repeat_given, min_length_given, n_given;
    texts stop, lora;
    bool ignore_eos, print_ids, verbose, parse_special, no_echo;
    bool tokenize, detokenize, jsonl, no_special, embed, plan, chat, show_prompt, lookup, explain;
    const char *render, *replay;
    const char *grammar, *json_schema; /* what an answer may be */
    bool json;
} run_opts;

extern atomic_bool run_stop; /* set by Ctrl-C */

int run_generate(const run_opts *o, err *e); /* 0, -1, or 130 after Ctrl-C */
int run_talk(const run_opts *o, err *e);     /* a chat of many turns: 0, -1, or 130 after Ctrl-C */
int run_plan(const run_opts *o, err *e);     /* --plan */
int run_embed(const run_opts *o, err *e);    /* --embed */
int run_vocab(const run_opts *o, err *e);    /* --tokenize, --detokenize */
int run_render(const run_opts *o, err *e);   /* --render */
int run_replay(const run_opts *o, err *e);   /* --replay: 0, or -1 at the first difference */
int run_show_prompt(const run_opts *o, err *e); /* --show-prompt with -n 0: nothing is computed */

/* ---- beams.c ---- */

/* How to search: o.beams 1: not at all, tokens are drawn one by one by o.rules. */
typedef struct run_search {
    beam_opts o;
    ends ends; /* the text's: the model's, the tokenizer's, and what run_search_end adds */
} run_search;

/* sampling: resolved already, its own part of the rules; n_prompt: tokens that the session will hold. x stays where it is. */
int run_search_options(run_search *x, const run_opts *o, const engine_info *i, const tokenizer *t, const sample_opts *sampling, int n_prompt, err *e);
void run_search_end(run_search *x, int32_t id); /* this one ends the text too; -1: none */
int run_early_stopping(const char *text); /* a beam_stopping, or -1 */
bool run_draws(const run_opts *o);        /* does the command line say how to choose one token? Then the checkpoint's own beams are off */
int run_sessions(const run_opts *o);      /* engine_opts.max_sessions */

typedef struct run_found {
    ids tokens;      /* the caller frees */
    int steps;
    const char *end; /* why it ended */
} run_found;
/* The best answer after what s holds; when interrupted, the best so far. */
int run_search_tokens(const run_search *x, const run_opts *o, engine *g, session *s, const detok *after_prompt, run_found *found, err *e);

/* The tokens of --ids, or of the prompt's text by the tokenizer's rule or (--chat) the chat template; text, where it is not NULL,
 * receives the text that they stand for. */
int run_prompt_tokens(const run_opts *o, const tokenizer *t, buf *text, ids *out, err *e);
/* The prompt's bytes from -p, -f or stdin. */
int run_prompt_text(const run_opts *o, buf *text, err *e);

/* The file's tokenizer alone; needed: a file without one is an error, else it is NULL then. */
int run_with_tokenizer(const run_opts *o, bool needed, int (*use)(const run_opts *o, const tokenizer *t, err *e), err *e);
/* Every line of in that is not empty, through `line`, which appends to out; out goes to stdout. */
int run_lines(const buf *in, int (*line)(void *arg, const char *s, size_t n, buf *out, err *e), void *arg, err *e);
int run_put(buf *b, err *e); /* to stdout; b is empty then */

/* The template of --template, or the checkpoint's. */
int run_open_chat(const run_opts *o, const tokenizer *t, chat **c, err *e);
/* --chat: the prompt as one turn, after --system, through the template. */
int run_chat_tokens(const run_opts *o, const tokenizer *t, const buf *prompt, buf *text, ids *out, err *e);
/* --show-prompt: the text and its ids, each on a line of its own. */
int run_show(const tokenizer *t, const buf *text, const ids *tokens, err *e);

#endif
