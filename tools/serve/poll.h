/* poll: which of many sockets can be read or written, or have been closed by their peers. epoll on Linux, kqueue on BSD and macOS. */
#ifndef QUERN_SERVE_POLL_H
#define QUERN_SERVE_POLL_H

#include "runtime/base.h"

enum {
    POLL_READ = 1,   /* bytes, or their end, can be read */
    POLL_WRITE = 2,
    POLL_HANGUP = 4, /* the peer will write no more: it has closed, or shut down its writing side; bytes may be unread still */
    POLL_BROKEN = 8  /* reset, or closed both ways: nothing will come or go. Always watched */
};

typedef struct poller poller;
typedef struct poll_event {
    void *arg;
    unsigned what;
} poll_event;

int poll_new(poller **p, err *e);
void poll_free(poller *p);
/* From now on these are watched (they are reported as long as they hold), instead of `before`; before 0: fd is new to the poller. */
int poll_watch(poller *p, int fd, unsigned before, unsigned now, void *arg);
void poll_drop(poller *p, int fd); /* to be called before fd is closed */
/* Waits up to so many seconds (INFINITY: for ever) and returns how many events there are; 0 also for a signal; -1: errno. kqueue may give
 * two for one fd. */
int poll_wait(poller *p, poll_event *out, int most, double seconds);

#endif
