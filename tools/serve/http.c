/* http: the I/O thread (http.h): it accepts, reads, parses, sends, and keeps the time, for all connections. It owns every socket, and every
 * connection but the few fields that writers leave their bytes in (http_conn.h). It must not know what requests are about.
 *
 * A client's closing. A client that closes its socket and one that only shuts down its writing side (and waits for its answer) look the same
 * at first: the end of what it sends. So: while a stream is on its way, that end is taken as closing, as most servers do: whoever reads a
 * stream keeps its socket whole. Before an answer has begun, it gets "100 Continue", which HTTP/1.1 allows at any time: a closed socket
 * answers it with a reset, which is seen at once, and whoever still listens passes over it. (HTTP/1.0 knows no such thing: there the answer
 * is worked out and sent.) A client that had shut its side down before its request was read gets its stream, too. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tools/serve/http_conn.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* SO_NOSIGPIPE there */
#endif

enum {
    MOST_TARGET = 8192, MOST_HEADERS = 128,
    MOST_REFUSED = 64,       /* connections beyond the most that are told so; the others are closed */
    SPARE_FILES = 64,        /* open files that others need: models, logs */
    SCRATCH = 64 << 10, SEND_MOST = 256 << 10, SEND_TURN = 1 << 20, KEEP_BUFFER = 4 << 10,
    BODY_PROGRESS = 4096,    /* bytes that count as progress */
    BODY_TURNS = 20,         /* a body may take so many body_timeouts in all */
    BODIES_AT_ONCE = 8       /* times max_body: memory of all requests' bodies */
};
static const double LINGER = 2, LINGER_STOPPING = 0.2, ACCEPT_PAUSE = 0.1;
static const double IDLE_LEAST = 1; /* seconds; who was quiet for less may be about to ask */

/* ---- sockets ---- */

static bool set_up(int fd) {
    int on = 1, flags = fcntl(fd, F_GETFL);
    bool ok = flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
#ifdef SO_NOSIGPIPE
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#else
    (void)on;
#endif
    return ok;
}

/* A client that vanished without a word is noticed after two minutes. */
static void set_up_client(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
#if defined(TCP_KEEPIDLE) && defined(TCP_KEEPINTVL) && defined(TCP_KEEPCNT)
    int idle = 60, every = 15, times = 4;
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
#endif
}

static int listen_at(const struct addrinfo *a) {
    int on = 1, fd = socket(a->ai_family, SOCK_STREAM, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (set_up(fd) && bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 1024) == 0) return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static bool is_loopback(const struct sockaddr_storage *a) {
    const struct in6_addr *six = &((const struct sockaddr_in6 *)a)->sin6_addr;
    if (a->ss_family == AF_INET) return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
    return a->ss_family == AF_INET6 && (IN6_IS_ADDR_LOOPBACK(six) || (IN6_IS_ADDR_V4MAPPED(six) && six->s6_addr[12] == 127));
}

/* The first address of the host that can be listened at; IPv4 before IPv6, as clients of "localhost" expect. */
static int open_listener(http *h, const char *host, int port, err *e) {
    char service[16];
    struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV }, *all = NULL;
    if (port < 0 || port > 65535) return fail(e, "port: expected 0 to 65535, found %d", port);
    snprintf(service, sizeof service, "%d", port);
    int error = getaddrinfo(host, service, &hints, &all);
    if (error) return fail(e, "%s: no such host: %s", host, gai_strerror(error));
    for (int pass = 0; pass < 2 && h->listener < 0; pass++)
        for (const struct addrinfo *a = all; a && h->listener < 0; a = a->ai_next)
            if ((a->ai_family == AF_INET) == (pass == 0)) h->listener = listen_at(a);
    error = errno;
    freeaddrinfo(all);
    if (h->listener < 0) {
        const char *advice = error == EADDRINUSE ? "; another program listens there: stop it or choose another port" : "";
        return fail(e, "%s:%d cannot be listened at: %s%s", host, port, strerror(error), advice);
    }
    struct sockaddr_storage at;
    socklen_t n = sizeof at;
    if (getsockname(h->listener, (struct sockaddr *)&at, &n)) return fail(e, "%s:%d: %s", host, port, strerror(errno));
    h->loopback = is_loopback(&at);
    h->port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port : ((struct sockaddr_in *)&at)->sin_port);
    return 0;
}

/* ---- deadlines: the list of connections is only walked when one could be over ---- */

static void set_deadline(conn *c) {
    double d = c->stage == CONN_READ ? c->read_until : c->stage == CONN_LINGER ? c->linger_until : INFINITY;
    if (c->sent < c->sending.n) d = fmin(d, c->blocked_since + c->h->o.write_timeout);
    c->deadline = d;
    if (d < c->h->next_check) c->h->next_check = d;
}

static void watch(conn *c) {
    unsigned want = POLL_BROKEN;
    if (c->stage != CONN_ANSWER) want |= POLL_READ;
    else if (!c->hangup) want |= POLL_HANGUP;
    if (c->sent < c->sending.n) want |= POLL_WRITE;
    if (c->stage == CONN_READ && !c->hangup) want |= POLL_HANGUP;
    if (want == c->watched) return;
    poll_watch(c->h->poller, c->fd, c->watched, want, c);
    c->watched = want;
}

/* ---- the end of a connection ---- */

/* Nobody knows it any more: its memory is given back when this round's events have all been served. */
static void bury(conn *c) {
    http *h = c->h;
    if (c->prev) c->prev->next = c->next;
    else h->first = c->next;
    if (c->next) c->next->prev = c->prev;
    c->next = h->dead;
    h->dead = c;
}

static void free_dead(http *h) {
    for (conn *c; (c = h->dead);) {
        h->dead = c->next;
        h->held -= c->held;
        parser_free(&c->parser);
        buf_free(&c->rest);
        buf_free(&c->sending);
        buf_free(&c->out);
        pthread_cond_destroy(&c->called);
        pthread_mutex_destroy(&c->lock);
        free(c);
    }
}

/* Tells whoever works for this client that it has gone. From here on writers leave nothing. */
static void tell_closed(conn *c) {
    exchange *x = c->x;
    pthread_mutex_lock(&c->lock);
    atomic_store(&x->closed, true);
    buf_free(&c->out);
    void (*closed)(void *) = x->ended ? NULL : x->on_close;
    void *arg = x->on_close_arg;
    x->on_close = NULL;
    x->calling = closed != NULL;
    atomic_store(&c->pending, 0);
    pthread_mutex_unlock(&c->lock);
    if (!closed) return;
    closed(arg);
    pthread_mutex_lock(&c->lock); /* x lives: only this thread frees it */
    x->calling = false;
    pthread_cond_broadcast(&c->called);
    pthread_mutex_unlock(&c->lock);
}

static void close_conn(conn *c) {
    http *h = c->h;
    if (c->fd < 0) return;
    poll_drop(h->poller, c->fd);
    close(c->fd);
    c->fd = -1;
    c->deadline = INFINITY;
    atomic_fetch_sub(&h->open, 1);
    h->refused -= c->refused;
    if (h->accept_again < INFINITY) h->accept_again = h->now; /* a file is free again */
    buf_free(&c->sending);
    buf_free(&c->rest);
    c->sent = 0;
    if (c->x) tell_closed(c);
    else bury(c);
}

/* ---- sending ---- */

/* Takes what writers have left; false: memory ran out, an answer has a hole. */
static bool take_out(conn *c) {
    buf empty = c->sending;
    empty.n = 0;
    if (empty.cap > KEEP_BUFFER) buf_free(&empty);
    pthread_mutex_lock(&c->lock);
    c->sending = c->out;
    c->out = empty;
    pthread_mutex_unlock(&c->lock);
    c->sent = 0;
    return !c->sending.failed;
}

/* Sends what there is until the socket takes no more; false: the connection is broken. */
static bool flush(conn *c) {
    size_t turn = 0;
    for (;;) {
        if (c->sent == c->sending.n && !take_out(c)) return false;
        if (!c->sending.n || turn >= SEND_TURN) return true; /* others' turn; what is left makes the socket be watched */
        bool fresh = c->sent == 0 && turn == 0 && !(c->watched & POLL_WRITE);
        size_t left = c->sending.n - c->sent;
        ssize_t n = send(c->fd, c->sending.p + c->sent, left < SEND_MOST ? left : SEND_MOST, MSG_NOSIGNAL);
        if (n > 0 || fresh) c->blocked_since = c->h->now;
        if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ENOBUFS;
        c->sent += (size_t)n;
        turn += (size_t)n;
        atomic_fetch_sub(&c->pending, (size_t)n);
        atomic_fetch_add(&c->h->bytes_out, n);
    }
}

static void add_out(conn *c, const char *bytes, size_t n) {
    pthread_mutex_lock(&c->lock);
    buf_add(&c->out, bytes, n);
    pthread_mutex_unlock(&c->lock);
    atomic_fetch_add(&c->pending, n);
}

static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

static void count_body(conn *c) {
    c->h->held += c->parser.body.cap - c->held;
    c->held = c->parser.body.cap;
}

/* Answers what was no request, on this thread, and closes after it. */
static void refuse(conn *c, int status, const char *code, const char *message) {
    buf reply = { 0 };
    reply_add_error(&reply, c->h, &c->parser, status, code, message);
    if (!reply.failed) add_out(c, reply.p, reply.n);
    buf_free(&reply);
    atomic_fetch_add(&c->h->turned_away, 1);
    c->stage = CONN_ANSWER;
    c->closing = true;
    buf_free(&c->parser.body);
    count_body(c);
}

/* ---- requests ---- */

static void handle(work_task *t) {
    exchange *x = (exchange *)t;
    const http_opts *o = &x->c->h->o;
    o->handle(o->arg, x);
}

/* The client writes no more: has it closed? See above. */
static void probe(conn *c) {
    bool said = false;
    pthread_mutex_lock(&c->lock);
    if (c->x && !c->x->begun && !c->parser.http10) {
        buf_add(&c->out, go_on, sizeof go_on - 1);
        said = true;
    }
    pthread_mutex_unlock(&c->lock);
    if (said) atomic_fetch_add(&c->pending, sizeof go_on - 1);
}

static void dispatch(conn *c) {
    http *h = c->h;
    exchange *x = calloc(1, sizeof *x);
    if (!x) return refuse(c, 503, "out_of_memory", "out of memory while the request was read; try again later");
    x->c = c;
    c->x = x;
    c->stage = CONN_ANSWER;
    c->parser.request.peer = c->peer;
    c->parser.request.arrived = c->began;
    atomic_fetch_add(&h->active, 1);
    atomic_fetch_add(&h->requests, 1);
    if (exchange_preflight(x)) return;
    if (h->o.handle_now && h->o.handle_now(h->o.arg, x)) return;
    if (c->hangup) probe(c);
    x->task.run = handle;
    bool light = h->o.light && h->o.is_light(h->o.arg, &c->parser.request);
    work_post(light ? h->o.light : h->o.workers, &x->task);
}

/* How long what is still missing of a request may take. The head as a whole: a client that sends a byte a second does not hold on. */
static void set_read_deadline(conn *c, bool was_body) {
    const http_opts *o = &c->h->o;
    double now = c->h->now, most = c->began + o->header_timeout + BODY_TURNS * o->body_timeout;
    if (c->parser.stage == PARSE_HEAD) {
        if (parser_has_begun(&c->parser)) c->read_until = c->began + o->header_timeout;
    } else if (!was_body || c->parser.body.n - c->body_seen >= BODY_PROGRESS) {
        c->body_seen = c->parser.body.n;
        c->read_until = fmin(now + o->body_timeout, most);
    }
}

/* Parses some bytes and does what follows from them; returns how many it took. */
static size_t parse(conn *c, const char *bytes, size_t n) {
    http *h = c->h;
    http_parser *p = &c->parser;
    bool was_body = p->stage == PARSE_BODY;
    if (!parser_has_begun(p)) c->began = h->now;
    size_t used = parser_feed(p, bytes, n);
    count_body(c);
    if (p->stage == PARSE_BAD) {
        refuse(c, p->status, p->code, p->message);
    } else if (h->held > BODIES_AT_ONCE * h->o.max_body) {
        refuse(c, 503, "too_many_bodies", "the bodies of all requests under way take too much memory; try again later");
    } else if (p->stage == PARSE_WHOLE) {
        dispatch(c);
    } else {
        if (p->stage == PARSE_BODY && p->expects && !p->body.n && !c->continued) {
            c->continued = true;
            add_out(c, go_on, sizeof go_on - 1);
        }
        set_read_deadline(c, was_body);
    }
    return used;
}

static void read_some(conn *c) {
    http *h = c->h;
    ssize_t n = recv(c->fd, h->scratch, SCRATCH, 0);
    if (n < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) close_conn(c);
        return;
    }
    atomic_fetch_add(&h->bytes_in, n);
    if (c->stage == CONN_LINGER) {
        if (!n) close_conn(c);
    } else if (n) {
        size_t used = parse(c, h->scratch, (size_t)n);
        if (c->x && used < (size_t)n) buf_add(&c->rest, h->scratch + used, (size_t)n - used);
    } else if (parser_has_begun(&c->parser)) {
        refuse(c, 400, "malformed_request", "malformed request: the connection was closed in the middle of it");
    } else {
        close_conn(c);
    }
}

/* The reply is sent: on to the next request, part of which may have come already. */
static void next_request(conn *c) {
    parser_reset(&c->parser);
    count_body(c);
    c->continued = false;
    c->stage = CONN_READ;
    c->read_until = c->h->now + c->h->o.idle_timeout;
    c->idle_since = c->h->now;
    if (c->rest.failed) c->closing = true, c->stage = CONN_ANSWER;
    if (c->stage == CONN_READ && c->rest_at < c->rest.n) c->rest_at += parse(c, c->rest.p + c->rest_at, c->rest.n - c->rest_at);
    if (c->rest_at < c->rest.n) return;
    buf_free(&c->rest);
    c->rest_at = 0;
}

static void linger(conn *c) {
    shutdown(c->fd, SHUT_WR);
    c->stage = CONN_LINGER;
    c->linger_until = c->h->now + (c->h->stopping ? LINGER_STOPPING : LINGER);
}

/* Does all that can be done for a connection now, then says what to wait for. */
static void pump(conn *c) {
    while (c->fd >= 0) {
        if (!flush(c)) {
            close_conn(c);
        } else if (c->stage == CONN_ANSWER && !c->x && c->sent == c->sending.n) {
            if (c->closing) linger(c);
            else next_request(c);
            continue;
        }
        break;
    }
    if (c->fd < 0) return;
    watch(c);
    set_deadline(c);
}

/* ---- what happens ---- */

static void end_exchange(conn *c) {
    c->closing |= !c->x->keep_alive || c->h->stopping;
    free(c->x);
    c->x = NULL;
    atomic_fetch_sub(&c->h->active, 1);
    if (c->fd < 0) bury(c);
}

/* Whatever writers have left since the last time, one connection after another. */
static void serve_marked(http *h) {
    for (conn *c = atomic_exchange(&h->marked, NULL), *next; c; c = next) {
        next = c->next_marked;
        pthread_mutex_lock(&c->lock);
        c->marked = false;
        bool ended = c->x && c->x->ended, overrun = c->overrun;
        pthread_mutex_unlock(&c->lock);
        if (ended) end_exchange(c);
        else if (c->fd < 0) tell_closed(c);
        if (overrun) close_conn(c);
        if (c->fd >= 0) pump(c);
    }
}

static void hang_up(conn *c) {
    if (c->hangup) return;
    c->hangup = true;
    if (c->stage != CONN_ANSWER || !c->x) return;
    pthread_mutex_lock(&c->lock);
    bool streams = c->x->begun && !c->x->ended;
    pthread_mutex_unlock(&c->lock);
    if (streams) close_conn(c);
    else probe(c);
}

static void serve_event(conn *c, unsigned what) {
    if (c->fd < 0) return; /* closed earlier in this round */
    if (what & POLL_BROKEN) return close_conn(c);
    if (c->stage == CONN_ANSWER) {
        if (what & POLL_HANGUP) hang_up(c);
    } else {
        if (what & POLL_HANGUP) c->hangup = true;
        if (what & POLL_READ) read_some(c);
    }
    if (c->fd >= 0) pump(c);
}

static void expire(conn *c) {
    const http_opts *o = &c->h->o;
    bool blocked = c->sent < c->sending.n && c->h->now >= c->blocked_since + o->write_timeout;
    if (blocked || c->stage != CONN_READ || !parser_has_begun(&c->parser)) return close_conn(c);
    bool body = c->parser.stage == PARSE_BODY;
    char message[120];
    snprintf(message, sizeof message, "the request's %s did not come within %g seconds", body ? "body" : "head",
             body ? o->body_timeout : o->header_timeout);
    refuse(c, 408, "request_timeout", message);
    pump(c);
}

static void check_deadlines(http *h) {
    h->next_check = INFINITY;
    double next = INFINITY;
    for (conn *c = h->first, *after; c; c = after) {
        after = c->next;
        if (c->fd >= 0 && c->deadline <= h->now) expire(c);
        if (c->fd >= 0) next = fmin(next, c->deadline);
    }
    h->next_check = next;
}

/* ---- accepting ---- */

static void name_peer(char *out, size_t n, const struct sockaddr_storage *a) {
    const void *address = a->ss_family == AF_INET6 ? (const void *)&((const struct sockaddr_in6 *)a)->sin6_addr
                                                   : (const void *)&((const struct sockaddr_in *)a)->sin_addr;
    if (!inet_ntop(a->ss_family, address, out, (socklen_t)n)) snprintf(out, n, "?");
    if (strncmp(out, "::ffff:", 7) == 0 && strchr(out, '.')) memmove(out, out + 7, strlen(out + 7) + 1);
}

static conn *new_conn(http *h, int fd, const struct sockaddr_storage *from) {
    conn *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    *c = (conn){ .h = h, .fd = fd, .next = h->first, .watched = POLL_BROKEN | POLL_READ | POLL_HANGUP };
    c->parser.limits = (http_limits){ MOST_TARGET, h->o.max_header, h->o.max_body, MOST_HEADERS };
    c->read_until = h->now + h->o.header_timeout;
    c->idle_since = h->now;
    name_peer(c->peer, sizeof c->peer, from);
    if (poll_watch(h->poller, fd, 0, c->watched, c)) return free(c), NULL;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->called, NULL);
    if (h->first) h->first->prev = c;
    h->first = c;
    atomic_fetch_add(&h->open, 1);
    return c;
}

/* Waits for a request of which nothing has come: closing it now loses nothing, as its client must expect of a kept connection. */
static bool is_idle(const conn *c) {
    char byte;
    if (c->fd < 0 || c->stage != CONN_READ || c->hangup || parser_has_begun(&c->parser) || c->h->now - c->idle_since < IDLE_LEAST) return false;
    return recv(c->fd, &byte, 1, MSG_PEEK) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK); /* what came this moment counts */
}

/* Closes the connection that was idle longest, for a client that wants something now; false: all are busy. */
static bool make_room(http *h) {
    conn *longest = NULL;
    for (conn *c = h->first; c; c = c->next)
        if ((!longest || c->idle_since < longest->idle_since) && is_idle(c)) longest = c;
    if (longest) close_conn(longest);
    return longest != NULL;
}

static void welcome(http *h, int fd, const struct sockaddr_storage *from) {
    atomic_fetch_add(&h->accepted, 1);
    bool full = atomic_load(&h->open) - h->refused >= h->o.max_connections && !make_room(h);
    conn *c = NULL;
    if (set_up(fd) && !(full && h->refused >= h->most_refused)) {
        set_up_client(fd);
        c = new_conn(h, fd, from);
    }
    if (!c) {
        atomic_fetch_add(&h->turned_away, 1);
        close(fd);
        return;
    }
    if (full) {
        char message[120];
        snprintf(message, sizeof message, "%d connections are open, which is the most; try again later", h->o.max_connections);
        c->refused = true;
        h->refused++;
        refuse(c, 503, "too_many_connections", message);
    }
    pump(c);
}

/* When files run out, the waiting connection would be reported for ever: look away until one has been closed, or for a moment. */
static void listen_again(http *h, bool on) {
    const unsigned look = POLL_BROKEN | POLL_READ;
    bool paused = h->accept_again < INFINITY;
    if (on == paused) poll_watch(h->poller, h->listener, on ? POLL_BROKEN : look, on ? look : POLL_BROKEN, &h->listener);
    h->accept_again = on ? INFINITY : h->now + ACCEPT_PAUSE;
}

static void accept_some(http *h) {
    for (int i = 0; i < 64; i++) {
        struct sockaddr_storage from;
        socklen_t n = sizeof from;
        int fd = accept(h->listener, (struct sockaddr *)&from, &n);
        if (fd >= 0) welcome(h, fd, &from);
        else if (errno == EAGAIN || errno == EWOULDBLOCK) return;
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            if (!make_room(h)) return listen_again(h, false);
        }
        /* everything else is that one connection's trouble */
    }
}

/* ---- the thread ---- */

static void begin_stop(http *h) {
    accept_some(h); /* who has connected before the stop has a right to an answer */
    h->stopping = true;
    poll_drop(h->poller, h->listener);
    close(h->listener);
    h->listener = -1;
    h->accept_again = INFINITY;
    for (conn *c = h->first, *next; c; c = next) {
        next = c->next;
        if (c->fd >= 0 && c->stage == CONN_READ) read_some(c); /* what came until now counts */
        if (c->fd < 0) continue;
        if (c->stage == CONN_LINGER) {
            c->linger_until = fmin(c->linger_until, h->now + LINGER_STOPPING);
        } else if (c->stage == CONN_ANSWER) {
            c->closing = true;
        } else if (parser_has_begun(&c->parser)) {
            refuse(c, 503, "shutting_down", "the server is shutting down");
        } else {
            close_conn(c);
        }
        if (c->fd >= 0) pump(c);
    }
}

static void serve_events(http *h, const poll_event *event, int n) {
    for (int i = 0; i < n; i++) {
        if (event[i].arg == &h->wake) {
            char some[64];
            while (read(h->wake[0], some, sizeof some) == (ssize_t)sizeof some) {}
        } else if (event[i].arg == &h->listener) {
            if (h->listener >= 0) accept_some(h);
        } else {
            serve_event(event[i].arg, event[i].what);
        }
    }
}

int http_run(http *h, err *e) {
    poll_event event[128];
    h->io_thread = pthread_self();
    while (!h->stopping || atomic_load(&h->open) || atomic_load(&h->active)) {
        double until = fmin(h->next_check, h->accept_again);
        int n = poll_wait(h->poller, event, 128, atomic_load(&h->marked) ? 0 : until - now_seconds());
        if (n < 0) return fail(e, "the sockets cannot be watched: %s", strerror(errno));
        h->now = now_seconds();
        if (atomic_load(&h->stop) && !h->stopping) begin_stop(h);
        serve_events(h, event, n);
        serve_marked(h);
        if (h->now >= h->next_check) check_deadlines(h);
        if (h->listener >= 0 && h->now >= h->accept_again) listen_again(h, true);
        free_dead(h);
    }
    return 0;
}

void http_wake(http *h) {
    int saved = errno;
    if (write(h->wake[1], "", 1) < 0) {} /* full: it will wake anyway */
    errno = saved;
}

/* http_run may return, and http_free be called, as soon as `stop` is seen: that waits for the wake. */
void http_stop(http *h) {
    atomic_fetch_add(&h->posting, 1);
    atomic_store(&h->stop, true);
    http_wake(h);
    atomic_fetch_sub(&h->posting, 1);
}

/* ---- making and freeing ---- */

static void fill_defaults(http *h) {
    http_opts *o = &h->o;
    struct rlimit files;
    if (o->max_connections <= 0) o->max_connections = 1024;
    h->most_refused = MOST_REFUSED;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY) {
        long quarter = (long)files.rlim_cur / 4, spare = quarter < SPARE_FILES ? quarter : SPARE_FILES;
        if (quarter < h->most_refused) h->most_refused = (int)quarter;
        long room = (long)files.rlim_cur - spare - h->most_refused;
        if (room < o->max_connections) o->max_connections = room < 4 ? 4 : (int)room;
    }
    if (!o->host || !*o->host) o->host = "127.0.0.1";
    if (!o->max_header) o->max_header = 64 << 10;
    if (!o->max_body) o->max_body = 32 << 20;
    if (o->header_timeout <= 0) o->header_timeout = 10;
    if (o->body_timeout <= 0) o->body_timeout = 30;
    if (o->idle_timeout <= 0) o->idle_timeout = 75;
    if (o->write_timeout <= 0) o->write_timeout = 60;
}

static int open_all(http *h, err *e) {
    h->scratch = malloc(SCRATCH);
    if (!h->scratch) return fail_memory(e, SCRATCH, "reading requests");
    if (h->o.cors && *h->o.cors) {
        for (const char *s = h->o.cors; *s; s++)
            if (*s < ' ' || *s > '~') return fail(e, "CORS: expected an origin such as https://example.org, or *, found other characters");
        h->cors = strdup(h->o.cors);
        if (!h->cors) return fail_memory(e, strlen(h->o.cors), "CORS");
    }
    if (open_listener(h, h->o.host, h->o.port, e) || poll_new(&h->poller, e)) return -1;
    if (pipe(h->wake)) return fail(e, "no pipe can be made: %s", strerror(errno));
    if (!set_up(h->wake[0]) || !set_up(h->wake[1]) || poll_watch(h->poller, h->wake[0], 0, POLL_BROKEN | POLL_READ, &h->wake) ||
        poll_watch(h->poller, h->listener, 0, POLL_BROKEN | POLL_READ, &h->listener))
        return fail(e, "the sockets cannot be watched: %s", strerror(errno));
    return 0;
}

int http_listen(http **out, const http_opts *o, err *e) {
    *out = NULL;
    http *h = calloc(1, sizeof *h);
    if (!h) return fail_memory(e, sizeof *h, "the HTTP server");
    *h = (http){ .o = *o, .listener = -1, .wake = { -1, -1 }, .now = now_seconds(), .next_check = INFINITY, .accept_again = INFINITY };
    fill_defaults(h);
    if (open_all(h, e)) return http_free(h), -1;
    h->o.host = h->o.cors = NULL; /* the caller's; not needed any more */
    *out = h;
    return 0;
}

int http_port(const http *h) { return h->port; }
bool http_is_loopback(const http *h) { return h->loopback; }

void http_free(http *h) {
    if (!h) return;
    while (atomic_load(&h->posting)) sched_yield(); /* the last few instructions of a writer, or of who stops it */
    while (h->first) {
        conn *c = h->first;
        if (c->fd >= 0) close(c->fd);
        free(c->x);
        bury(c);
    }
    free_dead(h);
    for (int i = 0; i < 2; i++)
        if (h->wake[i] >= 0) close(h->wake[i]);
    if (h->listener >= 0) close(h->listener);
    poll_free(h->poller);
    free(h->scratch);
    free(h->cors);
    free(h);
}

http_counts http_about(const http *h) {
    return (http_counts){ .accepted = h->accepted, .requests = h->requests, .refused = h->turned_away, .bytes_in = h->bytes_in,
                          .bytes_out = h->bytes_out, .open = h->open, .active = h->active };
}
