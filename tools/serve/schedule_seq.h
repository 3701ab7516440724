/* schedule_seq: one sequence of a job, from its prompt to its end. A part of the scheduler (schedule_parts.h). */
#ifndef QUERN_SERVE_SCHEDULE_SEQ_H
#define QUERN_SERVE_SCHEDULE_SEQ_H

#include "runtime/speculate.h"
#include "runtime/stop.h"
#include "tools/serve/schedule_draft.h"
#include "tools/serve/schedule_event.h"

struct lane;

enum { ECHO_ROWS = 32 };

typedef struct seq {
    job_state *js;
    struct lane *l;
    int prompt, choice, slot;
    int64_t order;           /* who came first */
    session *s;
    bool forked;             /* it began as a copy of another */
    ids tokens;              /* all that the session is to hold: prompt and answer; what it does not hold yet is due */
    int n_prompt, n_new;     /* of them */
    bool begun;              /* the prompt is through, the answer begins */
    int reported;            /* tokens of the prompt that PROGRESS or echo told of */
    sampler *sampler;
    sample_opts rules;
    constraint *constraint;  /* NULL: the answer is free */
    hash64 logits;           /* of a traced job */
    ends ends;
    detok d;
    stop_filter stop;
    buf text, out;
    double last_at;          /* when its last token came */
    int n_step;              /* tokens of this step; of a search steps instead */
    float *rows;             /* [ECHO_ROWS or 1 + SPECULATE_MOST][logits_ld]; NULL: only last rows are wanted */
    int32_t ahead[1 + SPECULATE_MOST]; /* the last token and proposals behind it */
    int n_ahead;
    speculate_pace pace;     /* of look-up */
    bool by_draft;           /* the draft proposed them, not look-up */
    seq_draft draft;
    beam_run *search;        /* a beam search that has begun */
    beam_opts beam;
    const step *beam_steps;
    int n_beam_steps;
    bool loads;              /* what the disk has of its prompt is on its way into its session: schedule_disk.c */
    bool reads;              /* its text is on its way through the layers: schedule_text.c */
    float *embedding;        /* [d_embed] of a text that is embedded; it has a session, and no slot */
    struct seq *next_text;
    bool over;
} seq;

seq *seq_new(struct lane *l, job_state *js, int unit, err *e);
void seq_free(seq *q);
/* After a step, or when a prompt was in the cache as a whole: picks tokens as far as there are logits. 0, or -1 and the job failed. */
int seq_advance(seq *q, double now);
void seq_ready(seq *q);           /* its session has what could be had of its prompt: it goes on from there. q may be gone afterwards */
void seq_cut(seq *q, job_end end); /* ends with what there is */
void seq_choice_end(job_state *js, int prompt, int choice, job_end end, const char *stop);
bool seq_decodes(const seq *q);   /* all but its last token is in its session: a step gives the next one */
void seq_propose(seq *q, int most);
int seq_echo(seq *q);             /* the tokens of its prompt that this step computed */
bool seq_take(seq *q, int32_t id, const job_event *probs, double now); /* into text and events; true: a stop string ended it */
void seq_rest(seq *q, bool stopped); /* the text that is left */
void seq_close(seq *q);           /* ended: gives back slot and session, and ends the unit */

#endif
