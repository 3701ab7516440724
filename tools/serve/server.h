/* server: what the files between HTTP and the scheduler share: the server itself, its routes, and the one struct of a request that all
 * dialects fill. A request lives from its arrival until exchange_end; its job lies inside that time. */
#ifndef QUERN_SERVE_SERVER_H
#define QUERN_SERVE_SERVER_H

#include <pthread.h>

#include "tools/serve/calls.h"
#include "tools/serve/fields.h"
#include "tools/serve/http.h"
#include "tools/serve/schedule.h"

struct guard; /* guard.h */
struct metrics; /* metrics.h */
struct memo; /* memo.h */
struct pings; /* ping.h */
struct trace; /* trace.h */

typedef struct name_alias {
    const char *name, *model;
} name_alias;

/* When `model` cannot be had, these in order (--fallback). */
typedef struct fallback {
    const char *model, *others[8]; /* [n] */
    int n;
} fallback;

typedef struct server {
    models *models;
    schedule *schedule;
    http *http;
    struct guard *guard;
    struct metrics *metrics;
    struct memo *memo;          /* NULL: there is none; as with those below */
    struct pings *pings;
    struct trace *trace;
    disk *disk;
    const fallback *fallbacks;  /* [n_fallbacks] */
    int n_fallbacks;
    work *workers;
    const name_alias *aliases;  /* [n_aliases] */
    int n_aliases, n_slots;
    double keep_alive, started; /* seconds; started: now_seconds() */
    int64_t started_at;         /* seconds since 1970 */
    bool strict, allow_delete, quiet, log_json;
    atomic_bool draining;
    atomic_int next_id;
    uint64_t id_salt;           /* ids of two runs differ */
} server;

typedef struct request request;

typedef enum dialect { DIALECT_OPENAI, DIALECT_OLLAMA, DIALECT_ANTHROPIC, DIALECT_NATIVE } dialect;

typedef struct endpoint {
    const char *method, *path;      /* "/v1/models/" followed by '*': anything */
    dialect dialect;
    uint32_t fields;                /* 0: no body is read */
    int (*handle)(request *q);      /* 0: a reply was given or a job is on its way; -1: q->failure says why not */
    bool open;                      /* without a key too */
} endpoint;

extern const endpoint endpoints[];
extern const int endpoints_n;

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
    bool begun; /* something of it was sent */
    float *embedding;
    int n_embedding;
};

/* What an answer must look like, and how calls stand in it (structured.c). */
typedef struct wish {
    const char *field;      /* that asks for a structure; NULL: none does */
    const char *schema, *gbnf; /* JSON or GBNF text [n]: one of them */
    size_t n;
    const call_format *format; /* of the model's template; NULL: calls are not looked for */
    call_tool *tools;            /* [n_tools] */
    bool *strict;           /* [n_tools] the function's own strict */
    int n_tools, chosen;    /* chosen: the one that must be called; -1: any */
    bool required, parallel, chat;
    think_marks think;
    think_state thinking;
} wish;

struct request {
    server *s;
    exchange *x;
    const http_request *h;
    const endpoint *where;
    dialect dialect;
    const char *arg;            /* the path behind a route's '*' */
    const char *user;
    arena mem;
    const json *body, *v[F_COUNT];
    field_report report;
    buf warnings;               /* JSON strings with commas */
    job_failure failure;
    int status;                 /* of a failure; 0: by its code */
    const char *code;           /* likewise */
    const char *more_headers;   /* of a failure */
    char id[40], model_name[128];
    model *m;                   /* held until the request ends */
    double keep_alive, load_seconds; /* keep_alive: NAN: the default */
    int64_t created;            /* seconds since 1970 */

    job *j;                     /* NULL before it is made and once its last event came */
    pthread_mutex_t lock;       /* of j and gone */
    bool submitted, gone;       /* gone: the client closed */

    const renderer *r;
    bool stream, begun, headed; /* begun: something of the answer was sent; headed: headers were */
    bool cached;                /* the answer was there (memo.h) */
    struct memo_tape *tape;     /* its events, to be kept; NULL: they are not */
    double said, ping_seconds;  /* ping.h's: when something was last sent; under `lock` */
    struct request *next_stream, **at_stream;
    char fell_from[128], fell_code[32], fell_why[256]; /* another model stands in: for which, and why */
    answer *answers;            /* [n_answers] prompt-major */
    int n_answers, n_prompts, n_each;
    job_timings timings;
    buf text;                   /* the rendered prompt, where a reply shows it */
    wish wish;
    bool reads;                 /* answers are read for calls and thoughts */
    buf parts;                  /* of this event, in the dialect */
    bool include_usage, logprobs;
    int n_ended;                /* choices */
    bool keep_probs;            /* needed at the end */
    int n_sequence;             /* of events that are numbered */
    void *own;                  /* the dialect's, in mem */
    json spare;                 /* stands for what memory did not give */
};

/* ---- server.c: routes, keys, replies ---- */
void server_handle(void *arg, exchange *x);     /* http_opts.handle */
bool server_handle_now(void *arg, exchange *x); /* http_opts.handle_now */
const char *server_model_name(const server *s, const char *name); /* through the aliases */

#endif
