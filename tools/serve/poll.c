/* poll: readiness of sockets (poll.h), the one place that knows which system this is. Level-triggered on both: an event that was not
 * fully served comes again. It must not know what the sockets are for. */
#define _GNU_SOURCE
#include "tools/serve/poll.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_EVENTS = 256 };

#if defined(__linux__) && !defined(POLL_KQUEUE) /* make test-kqueue sets it, to try the other half here */
#include <sys/epoll.h>

struct poller {
    int fd;
    struct epoll_event event[MOST_EVENTS];
};

static int open_poller(void) { return epoll_create1(EPOLL_CLOEXEC); }

int poll_watch(poller *p, int fd, unsigned before, unsigned now, void *arg) {
    struct epoll_event v = { .data.ptr = arg };
    if (now & POLL_READ) v.events |= EPOLLIN;
    if (now & POLL_WRITE) v.events |= EPOLLOUT;
    if (now & POLL_HANGUP) v.events |= EPOLLRDHUP;
    return epoll_ctl(p->fd, before ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &v);
}

void poll_drop(poller *p, int fd) {
    struct epoll_event ignored = { 0 };
    epoll_ctl(p->fd, EPOLL_CTL_DEL, fd, &ignored);
}

int poll_wait(poller *p, poll_event *out, int most, double seconds) {
    int ms = seconds >= 3600 ? 3600000 : seconds <= 0 ? 0 : (int)ceil(seconds * 1000);
    int n = epoll_wait(p->fd, p->event, min_int(most, MOST_EVENTS), ms);
    if (n < 0) return errno == EINTR ? 0 : -1;
    for (int i = 0; i < n; i++) {
        uint32_t v = p->event[i].events;
        out[i] = (poll_event){ .arg = p->event[i].data.ptr };
        if (v & EPOLLIN) out[i].what |= POLL_READ;
        if (v & EPOLLOUT) out[i].what |= POLL_WRITE;
        if (v & EPOLLRDHUP) out[i].what |= POLL_HANGUP;
        if (v & (EPOLLHUP | EPOLLERR)) out[i].what |= POLL_BROKEN;
    }
    return n;
}

#else
#include <sys/types.h>
#include <sys/event.h>
#include <sys/time.h>

struct poller {
    int fd;
    struct kevent event[MOST_EVENTS];
};

static int open_poller(void) { return kqueue(); }

/* The end of what a peer writes, and a reset, show on the filter for reading. So there always is one: who wants no bytes asks for more of them
 * than there can be, and to be told of each change once (a system that lets a full buffer count as enough would tell it for ever). */
static void ask_read(struct kevent *change, int fd, bool bytes, void *arg) {
    EV_SET(change, fd, EVFILT_READ, bytes ? EV_ADD : EV_ADD | EV_CLEAR, bytes ? 0 : NOTE_LOWAT, bytes ? 0 : INT_MAX, arg);
}

int poll_watch(poller *p, int fd, unsigned before, unsigned now, void *arg) {
    struct kevent change[3];
    int n = 0;
    bool other = (before & POLL_READ) != (now & POLL_READ);
    if (before && other) EV_SET(&change[n++], fd, EVFILT_READ, EV_DELETE, 0, 0, arg); /* libkqueue cannot change a filter */
    if (!before || other) ask_read(&change[n++], fd, now & POLL_READ, arg);
    if (now & ~before & POLL_WRITE) EV_SET(&change[n++], fd, EVFILT_WRITE, EV_ADD, 0, 0, arg);
    if (before & ~now & POLL_WRITE) EV_SET(&change[n++], fd, EVFILT_WRITE, EV_DELETE, 0, 0, arg);
    return n ? kevent(p->fd, change, n, NULL, 0, NULL) : 0;
}

void poll_drop(poller *p, int fd) {
    for (int i = 0; i < 2; i++) {
        struct kevent change;
        EV_SET(&change, fd, i ? EVFILT_WRITE : EVFILT_READ, EV_DELETE, 0, 0, NULL);
        kevent(p->fd, &change, 1, NULL, 0, NULL); /* fails where there was none */
    }
}

int poll_wait(poller *p, poll_event *out, int most, double seconds) {
    double wait = seconds >= 3600 ? 3600 : seconds <= 0 ? 0 : seconds;
    struct timespec t = { .tv_sec = (time_t)wait, .tv_nsec = (long)((wait - floor(wait)) * 1e9) };
    int n = kevent(p->fd, NULL, 0, p->event, min_int(most, MOST_EVENTS), &t);
    if (n < 0) return errno == EINTR ? 0 : -1;
    for (int i = 0; i < n; i++) {
        const struct kevent *v = &p->event[i];
        out[i] = (poll_event){ .arg = (void *)v->udata };
        if (v->filter == EVFILT_READ) out[i].what |= POLL_READ;
        bool reset = v->fflags && v->fflags != NOTE_LOWAT; /* an error's number; libkqueue gives back what was asked */
        if (v->filter == EVFILT_READ && v->flags & EV_EOF) out[i].what |= reset ? POLL_BROKEN : POLL_HANGUP;
        if (v->filter == EVFILT_WRITE) out[i].what |= v->flags & EV_EOF ? POLL_BROKEN : POLL_WRITE;
    }
    return n;
}
#endif

int poll_new(poller **out, err *e) {
    *out = calloc(1, sizeof **out);
    if (!*out) return fail_memory(e, sizeof **out, "the list of sockets");
    (*out)->fd = open_poller();
    if ((*out)->fd >= 0) return 0;
    fail(e, "the sockets cannot be watched: %s", strerror(errno));
    free(*out);
    *out = NULL;
    return -1;
}

void poll_free(poller *p) {
    if (!p) return;
    close(p->fd);
    free(p);
}
