/* http_client: as much of an HTTP client as tests need: one request a connection, the reply whole and without its chunks. */
#ifndef QUERN_TEST_HTTP_CLIENT_H
#define QUERN_TEST_HTTP_CLIENT_H

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base.h"

typedef struct http_answer {
    int status;
    buf head, body; /* NUL behind both */
} http_answer;

static inline int http_dial(int port) { /* -1: nobody listens */
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) == 0) return fd;
    close(fd);
    return -1;
}

static inline void http_send(int fd, const char *method, const char *path, const char *body) {
    buf b = { 0 };
    buf_fmt(&b, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
            method, path, strlen(body), body);
    for (size_t at = 0; at < b.n;) {
        ssize_t n = send(fd, b.p + at, b.n - at, MSG_NOSIGNAL);
        if (n <= 0) break;
        at += (size_t)n;
    }
    buf_free(&b);
}

static inline void http_unchunk(const char *p, size_t n, buf *out) {
    for (size_t at = 0; at < n;) {
        char *end;
        size_t size = strtoul(p + at, &end, 16);
        at = (size_t)(end - p) + 2;
        if (!size || at + size > n) return;
        buf_add(out, p + at, size);
        at += size + 2;
    }
}

/* Until the server closes. 0, or -1: no reply. */
static inline int http_hear(int fd, http_answer *a) {
    buf in = { 0 };
    char piece[4096];
    ssize_t n;
    while ((n = recv(fd, piece, sizeof piece, 0)) > 0) buf_add(&in, piece, (size_t)n);
    buf_byte(&in, 0);
    in.n--;
    char *gap = strstr(in.p, "\r\n\r\n");
    *a = (http_answer){ 0 };
    if (gap) {
        buf_add(&a->head, in.p, (size_t)(gap - in.p));
        a->status = atoi(in.p + 9);
        size_t at = (size_t)(gap - in.p) + 4;
        buf_byte(&a->head, 0);
        if (strstr(a->head.p, "Transfer-Encoding: chunked")) http_unchunk(in.p + at, in.n - at, &a->body);
        else buf_add(&a->body, in.p + at, in.n - at);
        buf_byte(&a->body, 0);
        a->body.n--;
    }
    buf_free(&in);
    return gap ? 0 : -1;
}

static inline int http_ask(int port, const char *method, const char *path, const char *body, http_answer *a) {
    int fd = http_dial(port);
    *a = (http_answer){ 0 };
    if (fd < 0) return -1;
    http_send(fd, method, path, body);
    int rc = http_hear(fd, a);
    close(fd);
    return rc;
}

static inline void http_answer_free(http_answer *a) {
    buf_free(&a->head);
    buf_free(&a->body);
}

#endif
