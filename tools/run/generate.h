/* generate: one run of the model, as a prompt and a chat need it: opened files, a session, tokens in and text out. */
#ifndef QUERN_GENERATE_H
#define QUERN_GENERATE_H

#include "runtime/explain.h"
#include "runtime/speculate.h"
#include "runtime/stop.h"
#include "tools/run/constrain.h"

typedef struct generation {
    const run_opts *o;
    engine *g, *draft;   /* draft: proposes tokens; NULL: none does */
    const engine_info *info;
    tokenizer *tok;      /* NULL: the file has none */
    session *s;
    sampler *sampler;
    constraint limits;   /* --grammar and its like */
    run_search search;
    uint64_t seed;
    ids tokens;          /* the prompt, then what was generated */
    size_t n_prompt, n_encoded; /* n_encoded: tokens the encoder read */
    double prompt_seconds, decode_seconds;
    int n_decoded;       /* tokens, or steps of a beam search */
    speculation_figures spent; /* on them: forward passes, proposals */
    explain *explain[2]; /* of the prompt, of the answer; NULL: not asked for */
    const char *end;     /* why it ended, for -v */
    int32_t turn_end;    /* ends a reply as the checkpoint's own ends do; -1: none */
    buf *reply;          /* receives what is written; NULL: nobody asks */
    void (*taken)(void *arg, int32_t id, const char *text, size_t n, bool whole); /* after each token: the bytes that became certain; */
    void *taken_arg;     /* whole: none are held back. NULL: nobody asks */
} generation;

int generation_open(generation *r, const run_opts *o, err *e); /* r->o .. r->s; on failure too generation_close */
void generation_close(generation *r);
/* A new sampler with the seed given; the options of the command line, else the checkpoint's, else the defaults. */
int generation_sampler(generation *r, uint64_t seed, err *e);
/* From r->tokens, which the session may hold in part: the prompt, then text on stdout as it becomes certain, until an end. */
int generation_run(generation *r, err *e);
/* The share of the decode's time: "decode 12 tokens, 80.1 tok/s, ..."; nothing where no token was decoded. */
void generation_print_decode(const generation *r);

#endif
