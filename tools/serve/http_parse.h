/* http_parse: HTTP/1.1 requests out of bytes (RFC 9112), in pieces of any size; the outcome does not depend on how they were cut. Strict:
 * whatever two servers could understand in two ways is refused. It knows no socket, no clock and no thread. */
#ifndef QUERN_SERVE_HTTP_PARSE_H
#define QUERN_SERVE_HTTP_PARSE_H

#include "tools/serve/http.h"

typedef struct http_limits {
    size_t target, header, body; /* bytes: of the request's target, of its whole head (and of its trailers), of its body */
    int headers;                 /* lines */
} http_limits;

typedef enum parse_stage { PARSE_HEAD, PARSE_BODY, PARSE_WHOLE, PARSE_BAD } parse_stage;

typedef struct http_parser {
    http_limits limits;
    parse_stage stage;
    http_request request;     /* method to headers from PARSE_BODY on; body with PARSE_WHOLE */
    bool http10, keep_alive;  /* from PARSE_BODY on; keep_alive: the client would send another request */
    bool expects;             /* Expect: 100-continue */
    /* PARSE_BAD: what to answer before the connection is closed. */
    int status;
    const char *code;
    char message[160];
    /* its own */
    int step, blank_lines;
    buf head, line, body;     /* head: the lines up to the body, cut into strings; line: of a chunk's size or a trailer */
    buf spots;                /* where names and values begin in head */
    size_t line_at, left, trailers, extensions;
    size_t target_at;
    http_header *headers;
} http_parser;

/* Takes bytes up to the end of the request and returns how many it took: all of them unless the stage is PARSE_WHOLE or PARSE_BAD. A parser of
 * zeros with limits filled in is ready. */
size_t parser_feed(http_parser *p, const char *bytes, size_t n);
bool parser_has_begun(const http_parser *p); /* has it bytes of a request that is not whole? */
/* The path at any stage, of a request that was refused, too: as it was sent, without the query; shortened to n - 1 bytes; "" if it has not come. */
void parser_path(const http_parser *p, char *out, size_t n);
bool parser_is_head(const http_parser *p); /* likewise: is it a HEAD request? */
const char *parser_header(const http_parser *p, const char *name); /* the first of this name; NULL: none */
/* Is this word in a header that is a list, "a, b"? Case does not count. */
bool parser_header_has(const http_parser *p, const char *name, const char *word);
void parser_reset(http_parser *p); /* for the next request; keeps little memory */
void parser_free(http_parser *p);

#endif
