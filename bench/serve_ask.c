/* serve_ask: what is settled before the load begins, one question at a time: which of the host's addresses takes connections, and
 * which models the server has. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "bench/serve.h"

enum { ASK_MS = 10000 };

int load_socket(const load_opts *o) {
    int fd = socket(o->address.ss_family, SOCK_STREAM, 0), one = 1;
    if (fd < 0) return -1;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) || (connect(fd, (const struct sockaddr *)&o->address, o->address_n) && errno != EINPROGRESS)) {
        int code = errno;
        close(fd);
        errno = code;
        return -1;
    }
    return fd;
}

static bool ready(int fd, short what) {
    struct pollfd p = { .fd = fd, .events = what };
    return poll(&p, 1, ASK_MS) == 1;
}

/* A connected socket, or -1 and errno. */
static int dial(const load_opts *o) {
    int code = 0, fd = load_socket(o);
    socklen_t n = sizeof code;
    if (fd < 0) return -1;
    if (!ready(fd, POLLOUT)) code = ETIMEDOUT;
    else getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &n);
    if (!code) return fd;
    close(fd);
    errno = code;
    return -1;
}

/* "localhost" has two addresses, and most servers listen on one. Where none answers the first is used, and the load shows it. */
int load_resolve(load_opts *o, err *e) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
    int rc = getaddrinfo(o->host, o->port, &hints, &list), fd;
    if (rc || !list) return fail(e, "%s: no such host: %s", o->host, gai_strerror(rc));
    for (const struct addrinfo *a = list; a; a = a->ai_next) {
        memcpy(&o->address, a->ai_addr, a->ai_addrlen);
        o->address_n = a->ai_addrlen;
        if (a == list && !a->ai_next) break;
        if ((fd = dial(o)) < 0) continue;
        close(fd);
        freeaddrinfo(list);
        return 0;
    }
    memcpy(&o->address, list->ai_addr, list->ai_addrlen);
    o->address_n = list->ai_addrlen;
    freeaddrinfo(list);
    return 0;
}

static int send_all(int fd, const buf *b, err *e) {
    for (size_t at = 0; at < b->n;) {
        ssize_t n = ready(fd, POLLOUT) ? send(fd, b->p + at, b->n - at, MSG_NOSIGNAL) : 0;
        if (n <= 0 && errno != EAGAIN) return fail(e, "sending: %s", n ? strerror(errno) : "timed out");
        if (n > 0) at += (size_t)n;
    }
    return 0;
}

static int ask(const load_opts *o, const char *path, reply *r, err *e) {
    buf b = { 0 };
    char piece[4096];
    int fd = dial(o);
    if (fd < 0) return fail(e, "http://%s:%s: %s: is the server running?", o->host, o->port, strerror(errno));
    buf_fmt(&b, "GET %s%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", o->base, path, o->host);
    if (o->key) buf_fmt(&b, "Authorization: Bearer %s\r\n", o->key);
    buf_str(&b, "\r\n");
    int rc = send_all(fd, &b, e);
    while (!rc && !r->complete && !r->kind) {
        ssize_t n = ready(fd, POLLIN) ? recv(fd, piece, sizeof piece, 0) : -1;
        if (n < 0) rc = fail(e, "%s: no reply within %d s", path, ASK_MS / 1000);
        else if (n) reply_feed(r, piece, (size_t)n);
        else reply_closed(r);
    }
    close(fd);
    buf_free(&b);
    if (!rc && r->kind) rc = fail(e, "%s: %s", path, r->message);
    return rc;
}

int load_first_model(load_opts *o, arena *a, err *e) {
    bool openai = o->api < API_OLLAMA_CHAT;
    const char *path = openai ? "/v1/models" : "/api/tags";
    json *j = NULL;
    reply r;
    reply_begin(&r, o->api, false);
    r.raw = true;
    int rc = ask(o, path, &r, e) || json_parse(a, r.body.p, r.body.n, &j, e) ? -1 : 0;
    const json *list = json_get(j, openai ? "data" : "models"), *first = list && list->type == JSON_ARRAY ? list->child : NULL;
    const json *name = json_get(first, openai ? "id" : "name");
    reply_free(&r);
    if (rc) return -1;
    if (!name || name->type != JSON_STRING) return fail(e, "%s: the server lists no model: name one with --model", path);
    o->model = name->s;
    return 0;
}
