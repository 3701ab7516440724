/* job: one request for a model, from the dialect that parsed it to the events its reply is made of. The dialects (api_*.c) fill it,
 * the scheduler works on it. It knows no HTTP and no JSON.
 *
 *   job_new(&j, &e); ... fill j ...; schedule_submit(s, j, &e);
 *
 * From then on events come, in order, through j->take, on a worker, one call at a time; the last one has `last` set, and the
 * receiver may free the job then. */
#ifndef QUERN_SERVE_JOB_H
#define QUERN_SERVE_JOB_H

#include <stdatomic.h>

#include "runtime/choice.h"
#include "runtime/engine.h"
#include "runtime/sample.h"
#include "tools/serve/constrain.h"
#include "tools/serve/models.h"

typedef enum job_kind { JOB_GENERATE, JOB_EMBED, JOB_LOAD, JOB_SLOT } job_kind; /* JOB_LOAD: nothing is computed, the model is there afterwards */

/* Stable names of what can go wrong: `code` of every dialect's error object. */
typedef enum job_error {
    JOB_OK, JOB_INVALID, JOB_CONTEXT, JOB_MODEL_NOT_FOUND, JOB_QUEUE_FULL, JOB_DEADLINE, JOB_CANCELLED, JOB_MEMORY, JOB_SHUTTING_DOWN,
    JOB_UNSUPPORTED, JOB_NOT_FINITE, JOB_FAILED
} job_error;
const char *job_error_name(job_error e); /* "invalid_request", "context_length_exceeded", "model_not_found", "queue_full", "deadline", "cancelled",
                                            "out_of_memory", "shutting_down", "unsupported", "not_finite", "internal_error" */

typedef struct job_failure {
    job_error code;
    char msg[768];
    const char *phase;          /* "parse", "load", "queue", "prompt", "decode" */
    const char *param;          /* the field at fault; NULL: none */
    int64_t n_prompt, n_ctx;    /* of JOB_CONTEXT */
    double retry_after;         /* seconds; of JOB_QUEUE_FULL */
} job_failure;

/* Why an answer ended. */
typedef enum job_end { END_NONE, END_EOS, END_STOP_STRING, END_LENGTH, END_CONTEXT, END_DEADLINE, END_CANCELLED, END_GRAMMAR, END_SHUTDOWN } job_end;

typedef struct job_token_prob {
    int32_t id;
    float logprob;
} job_token_prob;

typedef struct job_timings {    /* seconds; tokens */
    double queued, load, prompt, decode, first_token, total;
    int n_prompt, n_cached, n_encoder; /* n_cached: of the prompts' tokens, those that a cache had */
    int n_decoded;              /* of all choices */
    int n_drafts, n_drafted, n_accepted; /* proposals; their tokens; those of them that were kept */
} job_timings;

/* JOB_SLOT: what was last worked on in a slot is copied out, put in, or forgotten. */
typedef enum slot_what { SLOT_SAVE, SLOT_RESTORE, SLOT_ERASE } slot_what;
typedef struct slot_action {
    slot_what what;
    int slot, n_tokens;         /* n_tokens: of them; the scheduler's answer */
    buf bytes;                  /* what session_save writes: of SAVE the scheduler's answer, of RESTORE given */
    double seconds;             /* that it took */
} slot_action;

typedef enum event_kind { EVENT_STARTED, EVENT_PROGRESS, EVENT_PIECE, EVENT_CHOICE_END, EVENT_EMBEDDING, EVENT_END, EVENT_FAILED } event_kind;

typedef struct job_event {
    event_kind kind;
    bool last;                  /* EVENT_END and EVENT_FAILED are */
    int prompt, choice;         /* of PIECE, CHOICE_END, EMBEDDING */
    /* PIECE: one token of the answer and the text that became certain with it, maybe none. Whole characters, no stop string. */
    const char *text;
    size_t n;
    int32_t id;                 /* -1: the text that is left at the end */
    float logprob;              /* of id; NaN when not asked for */
    const job_token_prob *top;  /* [n_top] likeliest first */
    int n_top;
    bool of_prompt;             /* echo: a token of the prompt */
    bool constrained;           /* a grammar holds from here on */
    job_end end;                /* CHOICE_END */
    const char *stop_string;    /* of END_STOP_STRING */
    uint64_t logits;            /* CHOICE_END of a traced job: hash of all logits that a token was picked from, in order; 0: of a search */
    const float *embedding;     /* [n_embedding] */
    int n_embedding;
    int done, total;            /* PROGRESS: tokens of the prompt */
    job_timings timings;        /* END, FAILED: of the whole */
    const job_failure *failure; /* FAILED */
} job_event;

typedef struct job {
    arena mem;                  /* of whatever the fields point to */
    job_kind kind;
    char id[40];                /* "req-..." of logs */
    model *m;                   /* held; job_free releases it */
    double keep_alive;          /* how long it stays open after this job, as models_release takes it; job_new: NAN */
    double load_seconds;        /* what holding it took, for timings.load */
    const char *user;           /* fairness: steps are shared among users first */
    ids *prompts;               /* [n_prompts] */
    int n_prompts, n;           /* choices of each prompt */
    int max_tokens;             /* -1: until the context is full */
    sample_opts sample;         /* seed is drawn already; choice c of prompt p takes seed + c */
    bool ignore_eos, echo, logprobs, cache_prompt, lookup, progress;
    int draft_most;             /* tokens of a proposal, of look-up and draft; 0: none; -1: as many as pay */
    char draft_error[200];      /* the scheduler's answer: its draft failed and was switched off; read it with the last event */
    bool traced;                /* its logits are hashed */
    int n_top;                  /* alternatives of each token's log-probability */
    const char **stops;
    int n_stops;
    int32_t turn_end;           /* ends an answer as the checkpoint's own ends do; -1: none */
    beam_opts beams;            /* beams.beams > 1: a search, its answer comes at the end */
    kept_grammar *grammar;      /* what the answer must match; NULL: anything; put back with the job */
    constraint_opts constraint; /* from where on; its grammar is the one above */
    const int32_t *shown;       /* [n_shown] special tokens that are text in this answer */
    int n_shown;
    const model_adapter *adapters;
    int n_adapters;
    slot_action *slot;          /* of JOB_SLOT; whose it is frees it, after the last event */
    int pooling;                /* of JOB_EMBED; 0: the checkpoint's own */
    double deadline;            /* now_seconds(); 0: none */
    double arrived;
    void (*take)(struct job *j, const job_event *v);
    void *arg;
    atomic_bool cancelled;      /* job_cancel: seen between two layers, and while queued */
    struct job_state *state;    /* the scheduler's, and how job_free frees it */
    void (*state_free)(struct job_state *state);
} job;

job *job_new(void); /* NULL: out of memory */
void job_free(job *j);
/* Sampling and search as the checkpoint of j->m asks for them, else the defaults of ./run; n 1, no limit of tokens. What a request
 * says is written over it; a request that says how one token is chosen sets beams.beams = 1, as ./run does (run_draws). The ends of
 * text need not be given: they are the checkpoint's, the tokenizer's and turn_end. sample.min_length -1: the checkpoint's own.
 * beams.max_new and beams.rules are the scheduler's. */
void job_defaults(job *j);
int pooling_named(const char *name); /* first (or cls), mean, last: as engine_info numbers them; -1: none of them */
const char *pooling_name(int pooling);

#endif
