/* speculate: several tokens for one reading of the weights. Some ids are proposed cheaply, computed together in one step, and kept
 * as far as they are what the sampler picks anyway (Leviathan et al. 2023; Saxena 2023 for proposals from the prompt).
 * Exact: a token is always picked from the model's own logits, which are the same bits for one row and for many; so the ids
 * are those of decoding without it, greedy or drawn, and only the time differs. */
#ifndef QUERN_SPECULATE_H
#define QUERN_SPECULATE_H

#include "runtime/engine.h"

enum { SPECULATE_MOST = 16 };

typedef struct speculate_opts {
    bool lookup;   /* proposals: what followed the last few tokens where they came before */
    engine *draft; /* proposals: greedy decoding of a smaller model with the same ids; borrowed; NULL: none */
} speculate_opts;

typedef struct speculation speculation;

/* May `draft` propose for `model`? Its ids must be the same ones, and it must generate. 0, or -1 and why not. */
int speculate_check(const engine_info *model, const engine_info *draft, err *e);

/* For session s, whose tokens are picked one after the other. Without lookup and draft it does plain steps. A draft that
 * speculate_check turns away is refused. */
int speculation_new(speculation **p, engine *g, session *s, const speculate_opts *o, err *e);
void speculation_free(speculation *p);

/* Takes the token that was picked from the session's, or the last returned, logits. Returns the logits [n_vocab] after it, valid until the
 * next call; NULL on failure. */
const float *speculation_next(speculation *p, int32_t id, err *e);

/* The session holds exactly the tokens taken so far, none that was only proposed. */
void speculation_end(speculation *p);

typedef struct speculation_figures {
    int64_t steps;              /* forward passes of the model */
    int64_t proposed, accepted; /* tokens */
    int64_t draft_steps;        /* forward passes of the draft */
} speculation_figures;
speculation_figures speculation_about(const speculation *p);

/* How many tokens to propose, and whether any, by what became of the latest proposals. */
typedef struct speculate_pace {
    int length;                 /* of the next one */
    int tried;                  /* since the last pause */
    int pause, next_pause;      /* times without any that are left; how long the next pause will be */
    double gain;                /* accepted tokens a proposal, of the latest ones */
} speculate_pace;
/* A step of a few rows costs little more than one of one row, so half a token of gain pays for a look-up; a draft has its own cost. */
#define SPECULATE_LOOKUP_PAYS 0.5
#define SPECULATE_DRAFT_PAYS 1.0
speculate_pace speculate_pace_begin(void);
int speculate_pace_next(speculate_pace *p, int room); /* up to `room` tokens; 0 while there is none, and in a pause, which is shorter then */
void speculate_pace_learn(speculate_pace *p, int proposed, int accepted, double pays);

/* `most` ids that followed the latest earlier place of the longest run, of 2 to 4 tokens, with which tok[0 .. n) ends; where the text ends
 * sooner, it goes round from that place on. Returns how many: 0 where there is no such place. */
int speculate_lookup(const int32_t *tok, int n, int32_t *out, int most);

#endif
