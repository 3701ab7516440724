/* http_conn: what http.c (the I/O thread) and http_exchange.c (everybody who answers) share. Nobody else includes this.
 *
 * A connection belongs to the I/O thread, except for what `lock` guards: there, writers leave bytes and marks, put the connection on the
 * list of those that need a look, and wake the I/O thread if the list was empty. The lock is never held over a system call or a callback. */
#ifndef QUERN_SERVE_HTTP_CONN_H
#define QUERN_SERVE_HTTP_CONN_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>

#include "tools/serve/http_parse.h"
#include "tools/serve/poll.h"
#include "tools/serve/work.h"

typedef enum conn_stage {
    CONN_READ,   /* waits for a request or reads one */
    CONN_ANSWER, /* one is being answered (x), or the last bytes of an answer are on their way (x NULL) */
    CONN_LINGER  /* all is said: reads until the client closes, for a moment; closing earlier could destroy what it has not read yet */
} conn_stage;

struct exchange {
    work_task task; /* first */
    struct conn *c;
    atomic_bool closed;
    /* guarded by the connection's lock */
    bool begun, ended, streams, chunked, keep_alive;
    bool silent;    /* HEAD, 204: a head without a body */
    bool calling;   /* on_close is running */
    void (*on_close)(void *arg);
    void *on_close_arg;
};

typedef struct conn {
    struct http *h;
    struct conn *prev, *next;  /* of all; next also of the dead */
    int fd;                    /* -1: closed, but its exchange has not ended */
    conn_stage stage;
    unsigned watched;
    char peer[INET6_ADDRSTRLEN];
    http_parser parser;
    size_t held;               /* what http.held counts for it */
    buf rest;                  /* read, and not yet parsed: requests that wait for the one before */
    size_t rest_at;
    buf sending;               /* taken from out; sent .. n */
    size_t sent;
    double began;              /* when the request's first byte came */
    double read_until, linger_until, blocked_since, deadline;
    double idle_since;         /* no byte of a request has come since it was accepted, or since the last answer was sent */
    size_t body_seen;          /* bytes of the body when read_until was last moved */
    bool hangup;               /* the client writes no more */
    bool closing;              /* after what is sent now */
    bool continued, refused;   /* refused: beyond the most connections, only here to be told so */
    exchange *x;

    pthread_mutex_t lock;
    pthread_cond_t called;     /* on_close has returned */
    buf out;
    bool marked, overrun;      /* marked: it is, or is about to be, on the list; overrun: the client lags behind without measure */
    struct conn *next_marked;
    atomic_size_t pending;     /* bytes in out and sending */
} conn;

struct http {
    http_opts o;
    char *cors;
    int listener, port, wake[2];
    poller *poller;
    pthread_t io_thread;
    conn *first, *dead;
    int refused, most_refused; /* connections beyond the most, being told so */
    size_t held;               /* bytes of all requests' bodies */
    double now, next_check, accept_again;
    bool stopping, loopback;
    char *scratch;
    _Atomic(conn *) marked;
    atomic_int posting;        /* who is between something that may end http_run (a connection put on the list, a stop) and the end of waking */
    atomic_bool stop;
    atomic_int open, active;
    _Atomic int64_t accepted, requests, turned_away, bytes_in, bytes_out;
};

typedef struct reply_head {
    int status;
    const char *type, *extra;
    bool chunked, keep_alive, http10;
    bool sized;                /* n is the body's length */
    size_t n;
} reply_head;
void reply_add_head(buf *b, const http *h, const reply_head *r);
/* For the path of what p has read so far. */
void reply_add_error(buf *b, const http *h, const http_parser *p, int status, const char *code, const char *message);

void http_wake(http *h);
bool exchange_preflight(exchange *x); /* answers an OPTIONS request of CORS */

#endif
