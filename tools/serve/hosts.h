/* hosts: the names that a server answers to, and whose pages may ask it. A page of the web whose name resolves to 127.0.0.1 (DNS
 * rebinding) is, to its browser, of the same origin as a server there, and could use it as its own; but the browser says in Host
 * which name it went by. */
#ifndef QUERN_SERVE_HOSTS_H
#define QUERN_SERVE_HOSTS_H

#include "runtime/base.h"

enum { HOSTS_MOST = 64, HOST_NAME = 254 }; /* 254: the longest name of DNS, and its end */

typedef struct hosts {
    bool checked;                      /* else every name passes */
    bool any;                          /* "*" was added */
    char name[HOSTS_MOST][HOST_NAME];  /* [n] lower case */
    int n;
} hosts;

/* Adds "llm.example.org,other": names without scheme and port, or "*" for all. */
int hosts_add(hosts *v, const char *list, err *e);
void hosts_add_own(hosts *v); /* this machine's */
/* host: a Host header, with or without a port; NULL: none was sent. */
bool hosts_allow(const hosts *v, const char *host);
/* origin: an Origin header: may a page from there ask, by itself? Pages of the place that `host` (as above) says, of this machine or one of the
 * names, and of installed applications may. No other: a page of any site can send a POST as text/plain, which no browser asks about first. */
bool hosts_allow_origin(const hosts *v, const char *origin, const char *host);

#endif
