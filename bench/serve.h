/* bench/serve: what its files share. serve.c reads the command line and writes the results; serve_ask.c finds the server and its
 * models; serve_loop.c decides when a request is sent and waits for sockets; serve_request.c makes prompts and bodies; serve_http.c
 * reads HTTP/1.1 replies and serve_events.c what stands in them; serve_figures.c counts; serve_report.c and serve_svg.c write. */
#ifndef QUERN_BENCH_SERVE_H
#define QUERN_BENCH_SERVE_H

#include <sys/socket.h>

#include "runtime/base.h"

/* ---- what is asked ---- */
typedef enum { API_CHAT, API_COMPLETIONS, API_OLLAMA_CHAT, API_OLLAMA_GENERATE, API_KINDS } api_kind;
typedef enum { SCENE_SHORT, SCENE_MEDIUM, SCENE_LONG, SCENE_TURNS, SCENE_MIXED, SCENES } scene;
extern const char *const api_names[API_KINDS], *const scene_names[SCENES];

typedef struct load_opts {
    const char *host, *port, *base; /* of http://host:port/base; base "" or "/prefix" */
    const char *model, *key;
    const char *more;               /* members of a JSON object that are added to each body, without the braces; "": none */
    const json *more_tree;          /* the same, parsed: what it names, we do not */
    api_kind api;
    scene scene;
    double rate;                    /* requests a second, open loop; 0: closed loop */
    int clients;                    /* closed loop */
    double duration, timeout;       /* seconds: in which requests begin; of one request */
    int requests;                   /* at most so many; 0: no such limit */
    int max_tokens, turns, shared;  /* shared: words that all prompts begin with */
    uint64_t seed;
    bool stream, fresh;             /* fresh: a connection for each request */
    struct sockaddr_storage address; /* load_resolve */
    socklen_t address_n;
} load_opts;

/* ---- prompts and bodies: the same for the same seed and number ---- */
typedef struct dialog {             /* one conversation: what was said so far */
    scene kind;                     /* one of the plain ones */
    uint64_t number;
    int turn;                       /* of the request to come, from 0 */
    buf said;                       /* chat: members of "messages"; else text */
} dialog;
uint64_t mix(uint64_t x);           /* a random-looking function of x (splitmix64) */
double uniform(uint64_t *state);    /* the next of a sequence in (0, 1) */
void dialog_begin(dialog *d, const load_opts *o, uint64_t number);
int dialog_turns(const dialog *d, const load_opts *o);
void dialog_request(dialog *d, const load_opts *o, buf *out); /* adds the user's next turn and writes a whole HTTP request */
void dialog_answer(dialog *d, const load_opts *o, const buf *text);
void dialog_free(dialog *d);

/* ---- errors by kind ---- */
typedef enum {
    LOAD_OK,
    LOAD_REFUSED,   /* nobody listens */
    LOAD_CONNECT,   /* no connection for another reason */
    LOAD_CLOSED,    /* the connection ended before the first byte of a reply */
    LOAD_STATUS,    /* the reply's status is not 2xx */
    LOAD_STREAM,    /* an error event in a reply */
    LOAD_TRUNCATED, /* the reply ended without its end: [DONE], "done": true, the last chunk, Content-Length */
    LOAD_TIMEOUT,
    LOAD_BROKEN,    /* not HTTP, not JSON, not a stream, no text where one must be */
    LOAD_UNFINISHED,/* interrupted while it ran: neither a success nor an error */
    LOAD_KINDS
} load_kind;
extern const char *const load_kind_names[LOAD_KINDS];

/* ---- one reply, fed with bytes in pieces of any size ---- */
typedef struct reply {
    api_kind api;
    bool stream, raw;               /* raw: the body is taken as it is */
    int status;
    bool head_done, complete, close, chunked, typed; /* complete: HTTP says so; typed: Content-Type is that of a stream */
    int64_t length, left;           /* Content-Length, -1: none; bytes of the body or chunk that are to come */
    int chunk_state;
    buf line;                       /* of the head, or a chunk's size */
    size_t head_bytes;
    buf body;                       /* what is no stream; the beginning of an error's */
    buf event_line, event_data;
    bool done;                      /* [DONE], or "done": true, or a whole body that was understood */
    int pieces;                     /* events with text, told by the caller's clock */
    int64_t tokens, prompt_tokens, cached; /* as the server counted; -1: it did not say */
    char reason[24];                /* finish_reason, done_reason */
    buf text;                       /* what was generated */
    load_kind kind;                 /* LOAD_OK until something is wrong */
    char message[240];
} reply;
void reply_begin(reply *r, api_kind api, bool stream);
void reply_feed(reply *r, const char *p, size_t n); /* stops at an error: kind */
void reply_closed(reply *r);        /* the peer closed: complete, or an error */
void reply_free(reply *r);
void reply_fail(reply *r, load_kind kind, const char *fmt, ...) PRINTF_LIKE(3, 4); /* the first wins */
void reply_body(reply *r, const char *p, size_t n); /* serve_events.c: bytes of the body */
void reply_end(reply *r);           /* serve_events.c: the body is whole */

/* ---- results ---- */
typedef struct samples {
    float *p;                       /* seconds */
    size_t n, cap;
    bool failed, sorted;
} samples;
void samples_add(samples *s, double seconds);
void samples_free(samples *s);
double samples_at(samples *s, double q); /* nearest rank; sorts; 0 without samples */
double samples_mean(const samples *s);

typedef struct second_row { int started, finished, failed; int64_t pieces; } second_row;

enum { MOST_SECONDS = 24 * 3600, MOST_STATUS = 600 };
typedef struct figures {
    samples first[SCENES], whole[SCENES], between, late; /* [SCENE_MIXED]: all of them */
    int64_t requests, retried, empty, kinds[LOAD_KINDS], status[MOST_STATUS];
    int64_t tokens, pieces, prompt_tokens, cached, uncounted; /* uncounted: good replies whose server told no number of tokens */
    int64_t by_reason[3];           /* stop, length, others */
    char example[LOAD_KINDS][240];  /* the first message of each kind */
    second_row *seconds;            /* [n_seconds] from the start */
    int n_seconds, cap_seconds;
    double elapsed, cpu;            /* until the last reply; this process' own processor time */
    int most_open;                  /* connections at once */
    bool interrupted, failed;       /* failed: memory ended */
} figures;
second_row *figures_second(figures *f, double since_start); /* never NULL */
void figures_reply(figures *f, const reply *r, scene kind, double first, double whole); /* first < 0: no text came */
void figures_free(figures *f);

int load_run(const load_opts *o, figures *f, err *e); /* serve_loop.c; fails only when it cannot start */
int load_resolve(load_opts *o, err *e); /* serve_ask.c: the address of host and port that takes connections */
int load_first_model(load_opts *o, arena *a, err *e); /* serve_ask.c: asks the server which models it has; fills o->model */
int load_socket(const load_opts *o); /* a socket that is being connected, not blocking; -1: errno */

void report_text(const load_opts *o, figures *f, buf *out);
void report_json(const load_opts *o, figures *f, buf *out);
void report_svg(const load_opts *o, figures *f, buf *out);

#endif
