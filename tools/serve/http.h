/* http: HTTP/1.1 for many connections on one thread (epoll or kqueue). It knows requests and replies as bytes, and nothing of models,
 * JSON or dialects. Requests are handled on the workers (work.h); a reply may be written from any thread, whole or in pieces, and
 * nobody who writes ever waits for a client: what a slow one has not taken stays in its connection's buffer.
 *
 *   http_listen(&h, &(http_opts){ .host = "127.0.0.1", .port = 8080, .handle = on_request }, &e);
 *   http_run(h, &e);                       until http_stop: the calling thread is the I/O thread
 */
#ifndef QUERN_SERVE_HTTP_H
#define QUERN_SERVE_HTTP_H

#include "runtime/base.h"

typedef struct http http;
typedef struct exchange exchange; /* one request and its reply */

typedef struct http_header {
    const char *name, *value; /* name in lower case; value without the blanks around it */
} http_header;

typedef struct http_request {
    const char *method, *path, *query; /* path is percent-decoded; query as it stands, "" where there is none */
    const http_header *headers;
    int n_headers;
    const char *body;                  /* [body_n], NUL behind it; chunked bodies are put together */
    size_t body_n;
    const char *peer;                  /* the client's address, without its port */
    double arrived;                    /* now_seconds() when its first byte came */
} http_request;

typedef struct http_opts {
    const char *host;
    int port;                          /* 0: the system chooses one (http_port) */
    int max_connections;               /* 0: 1024, fewer if the limit of open files is lower */
    size_t max_header, max_body;       /* bytes; 0: 64 KiB, 32 MiB */
    double header_timeout, body_timeout, idle_timeout, write_timeout; /* seconds without progress; 0: 10, 30, 75, 60 */
    const char *cors;                  /* Access-Control-Allow-Origin; NULL: no CORS headers */
    void (*handle)(void *arg, exchange *x); /* on a worker, once a request is whole; must lead to exchange_end, there or later */
    /* On the I/O thread: answers without the workers, so that health never waits; false: the workers take it. May be NULL. */
    bool (*handle_now)(void *arg, exchange *x);
    /* The JSON of what is answered without `handle` (too large, too slow, malformed ...), as the clients of that path expect their errors. path: not
     * decoded, shortened, "" while it had not come. On any thread; NULL: {"error":{"code","message","type"}}. */
    void (*error_body)(void *arg, const char *path, int status, const char *code, const char *message, buf *out);
    void *arg;
    struct work *workers;
    /* take the requests that is_light (on the I/O thread) names: no heavy one is in their way; NULL: there are none */
    struct work *light;
    bool (*is_light)(void *arg, const http_request *r);
} http_opts;

int http_listen(http **h, const http_opts *o, err *e);
int http_port(const http *h);
bool http_is_loopback(const http *h);  /* is its address one that only this machine reaches? */
int http_run(http *h, err *e);
void http_stop(http *h);               /* from any thread or a signal handler: accepts no more; returns from http_run when all exchanges have ended */
void http_free(http *h);

typedef struct http_counts {
    int64_t accepted, requests, refused, bytes_in, bytes_out;
    int open, active;                  /* connections; exchanges that have not ended */
} http_counts;
http_counts http_about(const http *h);

/* ---- one exchange ---- */
const http_request *exchange_request(const exchange *x); /* borrowed until exchange_end */
const char *exchange_header(const exchange *x, const char *name); /* lower case; NULL: not sent */

/* A whole reply: status, headers, body, end. extra: more header lines, "Retry-After: 1\r\n", or "". */
void exchange_reply(exchange *x, int status, const char *type, const char *extra, const char *body, size_t n);
/* A reply in pieces (chunked; to HTTP/1.0 clients until the connection closes). */
void exchange_begin(exchange *x, int status, const char *type, const char *extra);
void exchange_write(exchange *x, const char *bytes, size_t n); /* copied; nothing happens once the client is gone */
void exchange_end(exchange *x);        /* the last call: x is gone afterwards */

/* Called on the I/O thread as soon as the client's closing is seen (at once if it has closed already): cancels what works for it. Never called
 * after exchange_end has returned. NULL takes it back. */
void exchange_on_close(exchange *x, void (*closed)(void *arg), void *arg);
bool exchange_is_closed(const exchange *x);
size_t exchange_pending(const exchange *x); /* bytes the client has not taken yet */

#endif
