/* serve_loop: decides when each request begins, and waits for all sockets in one poll loop. It owns connections, deadlines and the
 * clock. Its one idea: a request's time begins when it was due. In an open loop that is the moment that the seed chose, whether or
 * not a connection, this program or the server was ready then; a slow server cannot make the questions come slower and so hide the
 * waiting ("coordinated omission", Gil Tene). In a closed loop a client asks when its last answer has come, as a person would, and
 * is due then. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "bench/serve.h"

static const double PAUSE = 0.1; /* seconds that a client of the closed loop waits after an error, lest it only count refusals */
enum { SPARE_FILES = 32, MOST_OPEN = 60000, READS = 4, READ_BYTES = 64 << 10 };

typedef struct slot {
    int fd;                     /* -1: none */
    bool active, connecting, reused, again; /* a request runs; on a connection that served before; was sent a second time */
    bool talking;               /* `d` has a turn to come */
    double due, deadline, first, last, resume;
    dialog d;
    buf out;
    size_t sent;
    reply r;
} slot;

typedef struct loop {
    const load_opts *o;
    figures *f;
    slot **slots;
    struct pollfd *polled;
    int n, most, open;
    double start, arrival;      /* the next one's, open loop */
    uint64_t random, dialogs;
    int begun;
    char *piece;                /* [READ_BYTES] */
} loop;

static volatile sig_atomic_t interrupted;
static void on_interrupt(int sig) { (void)sig, interrupted = 1; }

static bool may_begin(const loop *l, double due) {
    const load_opts *o = l->o;
    return !interrupted && (!o->requests || l->begun < o->requests) && (o->duration <= 0 || due < l->start + o->duration);
}

/* ---- connections ---- */

static void drop(loop *l, slot *s) {
    if (s->fd < 0) return;
    close(s->fd);
    s->fd = -1;
    l->open--;
}

static void fail_connect(slot *s, int code) { reply_fail(&s->r, code == ECONNREFUSED ? LOAD_REFUSED : LOAD_CONNECT, "%s", strerror(code)); }

static void connect_slot(loop *l, slot *s) {
    s->reused = s->fd >= 0;
    if (s->reused) return;
    s->fd = load_socket(l->o);
    s->connecting = true;
    if (s->fd < 0) {
        fail_connect(s, errno);
        return;
    }
    l->open++;
    l->f->most_open = max_int(l->f->most_open, l->open);
}

/* ---- one request ---- */

static void begin(loop *l, slot *s, double due) {
    double now = now_seconds();
    reply_free(&s->r);
    reply_begin(&s->r, l->o->api, l->o->stream);
    s->out.n = 0;
    dialog_request(&s->d, l->o, &s->out);
    s->sent = 0;
    s->active = true;
    s->again = s->connecting = false;
    s->due = due;
    s->deadline = now + l->o->timeout;
    s->first = s->last = -1;
    l->begun++;
    samples_add(&l->f->late, now - due);
    figures_second(l->f, due - l->start)->started++;
    if (s->out.failed) reply_fail(&s->r, LOAD_BROKEN, "out of memory");
    else connect_slot(l, s);
}

static void end(loop *l, slot *s) {
    double now = now_seconds();
    reply *r = &s->r;
    bool good = r->kind == LOAD_OK;
    second_row *row = figures_second(l->f, now - l->start);
    figures_reply(l->f, r, s->d.kind, s->first < 0 ? -1 : s->first - s->due, now - s->due);
    if (r->kind == LOAD_TIMEOUT && s->last >= 0) samples_add(&l->f->between, now - s->last);
    row->finished += good;
    row->failed += !good && r->kind != LOAD_UNFINISHED;
    s->active = false;
    s->resume = good ? now : now + PAUSE;
    if (!r->complete || r->close || l->o->fresh || s->sent != s->out.n) drop(l, s);
    if (good) dialog_answer(&s->d, l->o, &r->text);
    s->talking = good && s->d.turn < dialog_turns(&s->d, l->o);
    l->f->elapsed = now - l->start;
}

/* A kept connection that the server closed just when it was used again: any client asks once more. */
static bool ask_again(loop *l, slot *s) {
    if (s->r.kind != LOAD_CLOSED || !s->reused || s->again) return false;
    l->f->retried++;
    drop(l, s);
    reply_free(&s->r);
    reply_begin(&s->r, l->o->api, l->o->stream);
    s->sent = 0;
    s->again = true;
    connect_slot(l, s);
    return true;
}

static void send_some(slot *s) {
    int code = 0;
    socklen_t size = sizeof code;
    if (s->connecting) {
        getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &code, &size);
        if (code) {
            fail_connect(s, code);
            return;
        }
        s->connecting = false;
    }
    ssize_t n = send(s->fd, s->out.p + s->sent, s->out.n - s->sent, MSG_NOSIGNAL);
    if (n > 0) s->sent += (size_t)n;
    else if (n < 0 && errno != EAGAIN && errno != EINTR) s->sent = s->out.n + 1; /* a reply may be there all the same: reading tells */
}

static void take(loop *l, slot *s, const char *p, size_t n) {
    double now = now_seconds();
    int before = s->r.pieces;
    reply_feed(&s->r, p, n);
    int new = s->r.pieces - before;
    if (!new) return;
    figures_second(l->f, now - l->start)->pieces += new;
    if (s->first < 0) s->first = now;
    else samples_add(&l->f->between, now - s->last);
    for (int i = 1; i < new; i++) samples_add(&l->f->between, 0); /* came together */
    s->last = now;
}

static void read_some(loop *l, slot *s) {
    for (int i = 0; i < READS && !s->r.kind && !s->r.complete; i++) {
        ssize_t n = recv(s->fd, l->piece, READ_BYTES, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n > 0) take(l, s, l->piece, (size_t)n);
        else reply_closed(&s->r);
    }
}

static void serve_slot(loop *l, slot *s, short what) {
    if (!s->active) { /* an idle connection has nothing to say but its end */
        if (what) drop(l, s);
        return;
    }
    if (s->connecting && what & (POLLERR | POLLHUP)) send_some(s);
    else if (what & POLLOUT && s->sent < s->out.n) send_some(s);
    if (!s->connecting && !s->r.kind && what & (POLLIN | POLLHUP | POLLERR)) read_some(l, s);
}

static void check_time(slot *s, double now) {
    if (!s->active || s->r.kind || s->r.complete) return;
    if (interrupted) reply_fail(&s->r, LOAD_UNFINISHED, "interrupted");
    else if (now > s->deadline)
        reply_fail(&s->r, LOAD_TIMEOUT, "%s", s->connecting ? "no connection in time" : s->r.done ? "the end came, but not that of the reply" :
                   s->r.pieces ? "no end in time" : "no text in time");
}

/* ---- when requests begin ---- */

static slot *add_slot(loop *l) {
    if (l->n == l->most) return NULL;
    slot *s = calloc(1, sizeof *s);
    if (!s) {
        l->f->failed = true;
        return NULL;
    }
    s->fd = -1;
    return l->slots[l->n++] = s;
}

/* One that is free, rather with a connection than without. */
static slot *free_slot(loop *l) {
    slot *found = NULL;
    for (int i = 0; i < l->n; i++) {
        slot *s = l->slots[i];
        if (s->active || s->talking) continue;
        if (s->fd >= 0) return s;
        found = s;
    }
    return found ? found : add_slot(l);
}

static void begin_dialog(loop *l, slot *s, double due) {
    dialog_begin(&s->d, l->o, l->dialogs++);
    begin(l, s, due);
}

static void begin_due(loop *l, double now) {
    for (int i = 0; i < l->n; i++) { /* conversations go on, clients of the closed loop ask anew */
        slot *s = l->slots[i];
        if (s->active || s->resume > now) continue;
        if (s->talking && !may_begin(l, s->resume)) s->talking = false;
        else if (s->talking) begin(l, s, s->resume);
        else if (l->o->rate <= 0 && may_begin(l, now)) begin_dialog(l, s, fmax(s->resume, l->start));
    }
    while (l->o->rate > 0 && l->arrival <= now && may_begin(l, l->arrival)) {
        slot *s = free_slot(l);
        if (!s) return; /* it waits, and the waiting is counted */
        begin_dialog(l, s, l->arrival);
        l->arrival += -log(uniform(&l->random)) / l->o->rate;
    }
}

/* ---- waiting ---- */

/* When something is to be done though no socket has news; busy: anything is still to come. */
static double next_time(const loop *l, bool *busy) {
    bool open_loop = l->o->rate > 0, more = may_begin(l, open_loop ? l->arrival : now_seconds());
    double t = INFINITY;
    *busy = more;
    for (int i = 0; i < l->n; i++) {
        const slot *s = l->slots[i];
        *busy |= s->active || s->talking;
        if (s->active && (s->r.kind || s->r.complete)) t = 0;
        if (s->active) t = fmin(t, s->deadline);
        else if (s->talking || (more && !open_loop)) t = fmin(t, s->resume);
    }
    if (open_loop && more) t = fmin(t, l->n < l->most ? l->arrival : t);
    return t;
}

static void wait_sockets(loop *l, double until) {
    for (int i = 0; i < l->n; i++) {
        const slot *s = l->slots[i];
        l->polled[i] = (struct pollfd){ .fd = s->fd, .events = POLLIN };
        if (s->active && (s->connecting || s->sent < s->out.n)) l->polled[i].events |= POLLOUT;
    }
    double wait = fmax(0, fmin(until - now_seconds(), 1));
#ifdef __linux__
    struct timespec t = { .tv_sec = (time_t)wait, .tv_nsec = (long)((wait - floor(wait)) * 1e9) };
    int n = ppoll(l->polled, (nfds_t)l->n, &t, NULL);
#else
    int n = poll(l->polled, (nfds_t)l->n, (int)(wait * 1000));
#endif
    if (n <= 0)
        for (int i = 0; i < l->n; i++) l->polled[i].revents = 0;
}

static void run(loop *l) {
    bool busy = true;
    for (;;) {
        begin_due(l, now_seconds());
        double until = next_time(l, &busy);
        if (!busy) return;
        int n = l->n;
        wait_sockets(l, until);
        double now = now_seconds();
        for (int i = 0; i < n; i++) {
            slot *s = l->slots[i];
            if (l->polled[i].revents) serve_slot(l, s, l->polled[i].revents);
            check_time(s, now);
            if (s->active && (s->r.kind || s->r.complete) && !ask_again(l, s)) end(l, s);
        }
    }
}

/* ---- start and end ---- */

static int open_limit(void) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r)) return 256;
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
    getrlimit(RLIMIT_NOFILE, &r);
    return r.rlim_cur > MOST_OPEN ? MOST_OPEN : (int)r.rlim_cur - SPARE_FILES;
}

static double cpu_seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void close_loop(loop *l) {
    for (int i = 0; i < l->n; i++) {
        slot *s = l->slots[i];
        drop(l, s);
        dialog_free(&s->d);
        reply_free(&s->r);
        buf_free(&s->out);
        free(s);
    }
    free(l->slots);
    free(l->polled);
    free(l->piece);
}

int load_run(const load_opts *o, figures *f, err *e) {
    loop l = { .o = o, .f = f, .most = open_limit(), .random = mix(o->seed ^ 0x6f70656e) };
    struct sigaction act = { .sa_handler = on_interrupt, .sa_flags = SA_RESETHAND };
    if (o->rate <= 0 && o->clients > l.most) return fail(e, "--clients: %d connections, but at most %d files may be open (ulimit -n)",
            o->clients, l.most);
    l.slots = calloc((size_t)l.most, sizeof *l.slots);
    l.polled = calloc((size_t)l.most, sizeof *l.polled);
    l.piece = malloc(READ_BYTES);
    bool bad = !l.slots || !l.polled || !l.piece;
    for (int i = 0; !bad && o->rate <= 0 && i < o->clients; i++) bad = !add_slot(&l);
    if (!bad) {
        sigaction(SIGINT, &act, NULL);
        sigaction(SIGTERM, &act, NULL);
        double cpu = cpu_seconds();
        l.start = now_seconds();
        l.arrival = o->rate > 0 ? l.start - log(uniform(&l.random)) / o->rate : 0;
        run(&l);
        f->cpu = cpu_seconds() - cpu;
        f->interrupted = interrupted;
    }
    close_loop(&l);
    if (bad || f->failed) return fail(e, "out of memory");
    return 0;
}
