/* schedule_draft: what a draft model proposes for the sequences of a lane, and whether that pays. A part of the scheduler (schedule_parts.h). */
#ifndef QUERN_SERVE_SCHEDULE_DRAFT_H
#define QUERN_SERVE_SCHEDULE_DRAFT_H

#include "runtime/engine.h"

struct lane;
struct seq;

/* What a sequence has of its model's draft. */
typedef struct seq_draft {
    int session;             /* in the lane's drafts; -1: none */
    int same;                /* tokens that this session is known to share with the sequence */
    int pause, next_pause;   /* steps without proposals, and after how many the draft has another chance */
    double kept, tried;      /* of the latest proposals: tokens kept, and tokens that were looked at */
    int limit;               /* tokens of the next proposal, at most */
    double chance;           /* that one of them is kept */
    bool off;                /* it failed */
} seq_draft;

/* How long steps take by their tokens: 1, 2, up to 4, 8, 16 ... 64, more. */
enum { TIME_CLASSES = 8 };
typedef struct step_times {
    double seconds[TIME_CLASSES]; /* 0: not known */
} step_times;

/* Sessions of a model's draft, one for each slot; those without a sequence are kept for whoever begins as they do. */
typedef struct draft_session {
    session *s;              /* NULL: not made yet */
    const struct seq *q;     /* whose it is; NULL: nobody's */
    int64_t used;
} draft_session;

/* A lane's: of a model with a draft. */
typedef struct drafts {
    draft_session *kept;     /* [n_slots]; NULL: the model has no draft */
    struct seq **who;        /* [n_slots] who may get proposals in this step */
    step *steps;             /* [n_slots] of the draft, and whose they are, and where their sessions stood */
    struct seq **whose;
    int *lens;
    double last_seconds;     /* that they took; 0: they failed */
    int window;              /* positions that its shortest window sees; 0: it has none */
    int64_t clock;
    step_times model, draft; /* of steps without prompts */
    double per_token;        /* seconds a token of the draft's prompts */
    int last_piece;          /* tokens of them, the last time */
    double kept_tokens, tried; /* of all sequences, as in seq */
    int idle, next_idle;     /* steps since any proposal; how many before all is tried anew */
    int busy;                /* steps with proposals, one after the other */
    double spent;            /* seconds of this step on proposals */
} drafts;

int drafts_init(struct lane *l, err *e);
void drafts_free(struct lane *l);
void drafts_propose(struct lane *l, int n_decode, int rows); /* for sequences that decode and have no proposal yet; rows: tokens of the step so far */
void drafts_follow(struct lane *l, double room); /* the draft reads what it has to know of prompts, for about so many seconds */
void drafts_time(struct lane *l, int rows, double seconds); /* a step without prompts took so long */
void drafts_learn(struct seq *q, int accepted);
void drafts_let_go(struct seq *q);

#endif
