/* server: what the files between HTTP and the scheduler share: the server itself, its routes, and the one struct of a request that all
 * dialects fill. A request lives from its arrival until exchange_end; its job lies inside that time. */
#ifndef QUERN_SERVE_SERVER_H
#define QUERN_SERVE_SERVER_H

#include <pthread.h>
#include <stdatomic.h>

#include "tools/serve/answer.h"
#include "tools/serve/fields.h"
#include "tools/serve/hosts.h"
#include "tools/serve/http.h"
#include "tools/serve/proxy.h"
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
    hosts hosts;                /* the names it answers to */
    const char *cors;           /* the origin whose pages may ask, "*": all; NULL: none but hosts_allow_origin's */
    proxies proxies;            /* whose X-Forwarded-For is believed */
    struct metrics *metrics;
    struct memo *memo;          /* NULL: there is none; as with those below */
    struct pings *pings;
    struct trace *trace;
    disk *disk;
    const fallback *fallbacks;  /* [n_fallbacks] */
    int n_fallbacks;
    work *workers, *light;      /* light: requests that server_is_light names */
    work *events;               /* those of the scheduler that are on their way to a client, and nothing else */
    const name_alias *aliases;  /* [n_aliases] */
    int n_aliases, n_slots;
    int pooling;                /* of models whose checkpoint says none; 0: none */
    double keep_alive, started; /* seconds; started: now_seconds() */
    int64_t started_at;         /* seconds since 1970 */
    bool strict, allow_delete, quiet, log_json;
    atomic_bool draining;
    atomic_int next_id;
    atomic_size_t parsed;       /* bytes of the trees of all bodies under way */
    uint64_t id_salt;           /* ids of two runs differ */
} server;

typedef enum dialect { DIALECT_OPENAI, DIALECT_OLLAMA, DIALECT_ANTHROPIC, DIALECT_NATIVE } dialect;

typedef struct endpoint {
    const char *method, *path;      /* "/v1/models/" followed by '*': anything */
    dialect dialect;
    uint32_t fields;                /* 0: no body is read */
    int (*handle)(request *q);      /* 0: a reply was given or a job is on its way; -1: q->failure says why not */
    bool open;                      /* without a key too */
    bool light;                     /* a matter of a millisecond: no model is opened, nothing tokenised or rendered */
} endpoint;

extern const endpoint endpoints[];
extern const int endpoints_n;

struct request {
    server *s;
    exchange *x;
    const http_request *h;
    const endpoint *where;
    dialect dialect;
    const char *arg;            /* the path behind a route's '*' */
    const char *user;
    char client[PROXY_ADDRESS]; /* who asks: the peer, or for whom a trusted proxy asks */
    arena mem;
    size_t parsed;              /* what of server.parsed is its own */
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
    const char *adapters;       /* the job's, as JSON; NULL: none */
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
bool server_is_light(void *arg, const http_request *h); /* http_opts.is_light */
void server_error(void *arg, const char *path, int status, const char *code, const char *message, buf *out); /* http_opts.error_body */
const char *server_model_name(const server *s, const char *name); /* through the aliases */

#endif
