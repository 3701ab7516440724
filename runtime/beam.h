/* beam: beam search. N hypotheses are extended together, one engine_step a token for all of them; the best of all their
 * continuations live on, and those that end are kept by their score. The same sequences as transformers' generate(num_beams=N,
 * do_sample=False) (GenerationMixin._beam_search), whose names the options have. It knows no text. */
#ifndef QUERN_BEAM_H
#define QUERN_BEAM_H

#include "runtime/engine.h"
#include "runtime/sample.h"

enum { BEAM_MOST = 256 };

/* When N hypotheses have ended: does the search go on? */
typedef enum beam_stopping {
    BEAM_WHILE_LIKELY, /* transformers' false: while the best live one, were it as long as it is now, would beat the worst ended one */
    BEAM_AT_ONCE,      /* true: no */
    BEAM_NEVER         /* "never": while any live one can still beat it, at any length that max_new allows */
} beam_stopping;

typedef struct beam_opts {
    int beams;              /* N, 1 to BEAM_MOST; the engine's max_sessions must allow for as many */
    float length_penalty;   /* score: the sum of the tokens' log-probabilities / length ^ this, the end of text counted */
    beam_stopping stopping;
    int max_new;            /* most tokens of an answer; the context must have room for all but the last */
    sample_opts rules;      /* its eos end a hypothesis; what looks back (sample.h) holds, on log-probabilities; nothing is drawn */
    bool (*ends)(void *arg, const int32_t *answer, int n); /* does answer[0 .. n) end for another reason? n >= 1; NULL: none does */
    void *arg;
} beam_opts;

typedef struct hypothesis {
    ids tokens;      /* without the end of text */
    int32_t eos;     /* the id that ended it; -1: ends() or max_new did */
    double score;
} hypothesis;

typedef struct beam_result {
    hypothesis *best; /* [n] best first, at most N */
    int n, steps;     /* steps: calls of engine_step */
} beam_result;

/* Searches from s, which holds the prompt (of an encoder-decoder model: its encoder's input, and the decoder's beginning) and has
 * its logits. Afterwards s holds some hypothesis: session_sync makes of it what comes next. When the engine is told to stop
 * (ERR_STOPPED), r has what there was by then. The caller frees r, whatever is returned. */
int beam_search(engine *g, session *s, const beam_opts *o, beam_result *r, err *e);
void beam_result_free(beam_result *r);

/* The same in steps, for who computes many searches and other sequences together: while beam_next returns 1, the steps [*n] are to be
 * computed, together with anything else; 0: the search is over, -1: it failed. o is borrowed until beam_end. */
typedef struct beam_run beam_run;
int beam_begin(beam_run **b, engine *g, session *s, const beam_opts *o, err *e);
int beam_next(beam_run *b, const step **steps, int *n, err *e);
/* The result, as beam_search gives it, and b is gone. cut: the search was not over: its live hypotheses count as ended. r NULL: not wanted. */
int beam_end(beam_run *b, bool cut, beam_result *r, err *e);

#endif
