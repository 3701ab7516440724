/* answer: what a reply is made of: the choices of a request as they grow, how a dialect writes them, and what they must look like. */
#ifndef QUERN_SERVE_ANSWER_H
#define QUERN_SERVE_ANSWER_H

#include "tools/serve/calls.h"
#include "tools/serve/job.h"

typedef struct request request; /* server.h */
typedef struct answer answer;

/* How a dialect writes what a job gives. NULL: it writes nothing there. Streams append whole events to out. */
typedef struct renderer {
    const char *stream_type;
    void (*begin)(request *q, buf *out);
    void (*progress)(request *q, const job_event *v, buf *out);
    void (*piece)(request *q, const job_event *v, buf *out);
    void (*part)(request *q, answer *a, const answer_part *p, buf *out); /* of an answer that is read (q->reads), in place of piece's text */
    void (*ping)(request *q, buf *out);    /* a sign of life in a long silence; NULL: a comment */
    void (*choice_end)(request *q, const job_event *v, buf *out);
    void (*end)(request *q, buf *out);
    void (*whole)(request *q, buf *out);   /* the body of a reply that is not streamed */
    void (*broken)(request *q, buf *out);  /* in a stream that has begun: the error */
    void (*free)(request *q);              /* what q->own owns */
} renderer;

typedef struct token_prob {
    int32_t id;
    float logprob;
    int n_top;
    bool of_prompt;
    const job_token_prob *top; /* [n_top] */
} token_prob;

typedef struct said_call { /* a call in an answer */
    char id[40];
    const char *name;
    buf arguments;          /* JSON text */
} said_call;

struct answer { /* one choice */
    request *q;
    buf text, reasoning;
    answer_reader reader;   /* of q->reads */
    said_call *calls;       /* [n_calls], grown in powers of two */
    int n_calls, n_reasoning; /* calls; tokens */
    ids tokens;
    token_prob *probs;      /* [n_probs], grown in powers of two */
    int n_probs;
    int n_tokens;           /* of the answer, without the prompt's */
    double sum_logprob;
    job_end end;
    uint64_t logits;        /* job_event.logits */
    const char *stop_string;
    size_t offset;          /* characters so far, of logprobs.text_offset */
    bool begun;             /* something of it was sent */
    float *embedding;
    int n_embedding;
};

/* What an answer must look like, and how calls stand in it (structured.c). */
typedef struct wish {
    const char *field;      /* that asks for a structure; NULL: none does */
    const char *schema, *gbnf; /* JSON or GBNF text [n]: one of them */
    size_t n;
    const call_format *format; /* of the model's template; NULL: calls are not looked for */
    call_tool *tools;       /* [n_tools] */
    bool *strict;           /* [n_tools] the function's own strict */
    int n_tools, chosen;    /* chosen: the one that must be called; -1: any */
    bool required, parallel, chat;
    think_marks think;
    think_state thinking;
} wish;

#endif
