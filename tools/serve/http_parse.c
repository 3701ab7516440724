/* http_parse: requests out of bytes (http_parse.h). Everything but bodies comes in lines that end in CR LF: bytes are gathered up to the
 * end of a line, forbidden ones noticed as they come, then the line is understood as a whole. What is refused, and why: a bare CR or
 * LF, a NUL, a folded line, a blank before a colon, Content-Length twice or beside Transfer-Encoding: each of them lets a proxy and a
 * server disagree where a request ends (request smuggling). It must not know sockets, time or threads. */
#define _GNU_SOURCE
#include "tools/serve/http_parse.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { STEP_REQUEST, STEP_HEADERS, STEP_BODY, STEP_CHUNK_SIZE, STEP_CHUNK, STEP_CHUNK_END, STEP_TRAILERS };
enum { MOST_BLANK_LINES = 4, MOST_METHOD = 32, MOST_CHUNK_LINE = 1024, KEEP_BYTES = 4096 };

typedef struct spot {
    size_t name, value; /* offsets in head */
} spot;

PRINTF_LIKE(4, 5) static void refuse(http_parser *p, int status, const char *code, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(p->message, sizeof p->message, fmt, args);
    va_end(args);
    p->stage = PARSE_BAD;
    p->status = status;
    p->code = code;
    p->keep_alive = false;
}

static void malformed(http_parser *p, const char *what) { refuse(p, 400, "malformed_request", "malformed request: %s", what); }

static void no_memory(http_parser *p) { refuse(p, 503, "out_of_memory", "out of memory while the request was read; try again later"); }

/* ---- characters ---- */

static bool is_token(const char *s, size_t n) { /* RFC 9110: tchar */
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!plain && (!c || !strchr("!#$%&'*+-.^_`|~", c))) return false;
    }
    return n > 0;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

/* ---- lines ---- */

typedef enum line_end { LINE_MORE, LINE_WHOLE, LINE_BAD, LINE_LONG } line_end;

/* Adds bytes to the line that begins at b->p[start], at most until it is whole (its CR LF are in b) or b would have more than `limit` bytes. */
static line_end take_line(http_parser *p, buf *b, size_t start, size_t limit, const char *s, size_t n, size_t *used) {
    bool cr = b->n > start && b->p[b->n - 1] == '\r';
    const char *bad = NULL;
    line_end end = LINE_MORE;
    size_t i = 0;
    while (i < n && end == LINE_MORE) {
        unsigned char c = (unsigned char)s[i];
        if (b->n + i >= limit) end = LINE_LONG;
        else if (cr && c != '\n') bad = "a CR without LF";
        else if (cr) end = LINE_WHOLE;
        else if (c == '\n') bad = "a line that ends in LF alone; expected CR LF";
        else if (c == '\r') cr = true;
        else if (c == 0) bad = "a NUL byte";
        else if ((c < ' ' && c != '\t') || c == 0x7f) bad = "a control character";
        if (bad) end = LINE_BAD;
        i++;
    }
    *used = i;
    buf_add(b, s, end == LINE_LONG || end == LINE_BAD ? i - 1 : i);
    if (bad) malformed(p, bad);
    else if (b->failed) no_memory(p);
    return p->stage == PARSE_BAD ? LINE_BAD : end;
}

/* ---- the request line ---- */

/* Decodes %XX in place. A NUL would cut the path for whoever reads it as a C string. */
static bool percent_decode(http_parser *p, char *s) {
    char *to = s;
    for (; *s; s++, to++) {
        *to = *s;
        if (*s != '%') continue;
        int high = hex_digit(s[1]), low = high < 0 ? -1 : hex_digit(s[2]);
        if (low < 0) return malformed(p, "% in the path without two hexadecimal digits"), false;
        if (high + low == 0) return malformed(p, "%00 in the path"), false;
        *to = (char)(high << 4 | low);
        s += 2;
    }
    *to = 0;
    return true;
}

/* The target as a path and a query: "/path?query", "http://host/path?query", or "*" for OPTIONS. */
static void understand_target(http_parser *p, char *target) {
    http_request *r = &p->request;
    r->query = "";
    if (strcmp(target, "*") == 0 && strcmp(r->method, "OPTIONS") == 0) {
        r->path = target;
        return;
    }
    size_t scheme = strncasecmp(target, "http://", 7) == 0 ? 7 : strncasecmp(target, "https://", 8) == 0 ? 8 : 0;
    if (strchr(target, '#')) return malformed(p, "a # in the request's target");
    char *query = strchr(target, '?');
    if (query) *query++ = 0, r->query = query;
    if (scheme) {
        char *path = strchr(target + scheme, '/');
        if (path) target = path;
        else r->path = "/";
        if (!path) return;
    }
    if (*target != '/') return malformed(p, "a request's target that does not begin with /");
    if (percent_decode(p, target)) r->path = target;
}

static void understand_version(http_parser *p, const char *v) {
    bool shape = strncmp(v, "HTTP/", 5) == 0 && v[5] >= '0' && v[5] <= '9' && v[6] == '.' && v[7] >= '0' && v[7] <= '9' && !v[8];
    if (!shape) return malformed(p, "expected METHOD TARGET HTTP/1.1 in the first line");
    if (v[5] != '1') return refuse(p, 505, "version_not_supported", "%s is not spoken here; expected HTTP/1.1 or HTTP/1.0", v);
    p->http10 = v[7] == '0';
}

static void request_line(http_parser *p, char *line, size_t n) {
    char *target = memchr(line, ' ', n), *version = target ? memchr(target + 1, ' ', n - (size_t)(target + 1 - line)) : NULL;
    if (!version) return malformed(p, "expected METHOD TARGET HTTP/1.1 in the first line");
    *target++ = 0;
    *version++ = 0;
    if (!is_token(line, strlen(line)) || !*target) return malformed(p, "expected METHOD TARGET HTTP/1.1 in the first line");
    if (strlen(line) > MOST_METHOD) return refuse(p, 501, "method_not_supported", "a method of %zu characters is not known here", strlen(line));
    if (memchr(target, '\t', strlen(target))) return malformed(p, "a tab in the request's target");
    understand_version(p, version);
    if (p->stage == PARSE_BAD) return;
    if (strlen(target) > p->limits.target)
        return refuse(p, 414, "target_too_long", "the request's target has %zu bytes, the most is %zu", strlen(target), p->limits.target);
    p->target_at = (size_t)(target - p->head.p); /* understood with the whole head, when it moves no more */
}

/* ---- header lines ---- */

static bool check_field(http_parser *p, const char *line, size_t n, size_t *name_n) {
    const char *colon = memchr(line, ':', n);
    *name_n = colon ? (size_t)(colon - line) : 0;
    if (is_blank(line[0])) malformed(p, "a header that is folded over several lines");
    else if (!colon) malformed(p, "a header line without a colon");
    else if (*name_n && is_blank(colon[-1])) malformed(p, "a blank between a header's name and its colon");
    else if (!is_token(line, *name_n)) malformed(p, "a header's name with characters that a name cannot have");
    return p->stage != PARSE_BAD;
}

static void header_line(http_parser *p, char *line, size_t n) {
    size_t name_n;
    if (!check_field(p, line, n, &name_n)) return;
    if (p->request.n_headers == p->limits.headers)
        return refuse(p, 431, "headers_too_large", "more than %d header lines", p->limits.headers);
    for (size_t i = 0; i < name_n; i++)
        if (line[i] >= 'A' && line[i] <= 'Z') line[i] = (char)(line[i] - 'A' + 'a');
    char *value = line + name_n + 1, *end = line + n;
    while (value < end && is_blank(*value)) value++;
    while (end > value && is_blank(end[-1])) end--;
    line[name_n] = *end = 0; /* at the latest the CR */
    spot at = { (size_t)(line - p->head.p), (size_t)(value - p->head.p) };
    buf_add(&p->spots, &at, sizeof at);
    if (p->spots.failed) no_memory(p);
    p->request.n_headers++;
}

/* The first line in head is cut by NULs into method, target and version as soon as it is understood, and by blanks before that. */
static size_t word_end(const http_parser *p, size_t at) {
    while (at < p->head.n && p->head.p[at] && !strchr(" \t\r\n", p->head.p[at])) at++;
    return at;
}

bool parser_is_head(const http_parser *p) {
    size_t end = word_end(p, 0);
    return end < p->head.n && end == 4 && memcmp(p->head.p, "HEAD", 4) == 0;
}

void parser_path(const http_parser *p, char *out, size_t n) {
    size_t at = word_end(p, 0) + 1;
    *out = 0;
    if (at >= p->head.n) return;
    const char *s = p->head.p + at;
    size_t left = word_end(p, at) - at,
           scheme = left > 7 && strncasecmp(s, "http://", 7) == 0 ? 7 : left > 8 && strncasecmp(s, "https://", 8) == 0 ? 8 : 0;
    if (scheme) { /* past the name of the host */
        const char *path = memchr(s + scheme, '/', left - scheme);
        left = path ? left - (size_t)(path - s) : 0;
        s = path ? path : "";
    }
    size_t i = 0;
    while (i < left && i + 1 < n && s[i] != '?') out[i] = s[i], i++;
    out[i] = 0;
}

const char *parser_header(const http_parser *p, const char *name) {
    for (int i = 0; i < p->request.n_headers && p->headers; i++)
        if (strcmp(p->headers[i].name, name) == 0) return p->headers[i].value;
    return NULL;
}

bool parser_header_has(const http_parser *p, const char *name, const char *word) {
    size_t n = strlen(word);
    for (int i = 0; i < p->request.n_headers && p->headers; i++) {
        if (strcmp(p->headers[i].name, name) != 0) continue;
        for (const char *s = p->headers[i].value; *s;) {
            s += strspn(s, ", \t");
            size_t found = strcspn(s, ", \t");
            if (found == n && strncasecmp(s, word, n) == 0) return true;
            s += found;
        }
    }
    return false;
}

static int count_headers(const http_parser *p, const char *name) {
    int n = 0;
    for (int i = 0; i < p->request.n_headers; i++) n += strcmp(p->headers[i].name, name) == 0;
    return n;
}

/* ---- the head as a whole: how long is the body? ---- */

static void content_length(http_parser *p, const char *text) {
    uint64_t n = 0;
    bool huge = false;
    for (const char *s = text; *s; s++) {
        if (*s < '0' || *s > '9') return malformed(p, "a Content-Length that is not a number");
        huge |= mul_overflows(n, 10, &n) || add_overflows(n, (uint64_t)(*s - '0'), &n);
    }
    if (!*text) return malformed(p, "a Content-Length that is not a number");
    if (huge || n > p->limits.body)
        return refuse(p, 413, "body_too_large", "a body of %.20s bytes, the most is %zu", text, p->limits.body);
    p->left = (size_t)n;
    p->step = STEP_BODY;
}

static void framing(http_parser *p) {
    const char *coding = parser_header(p, "transfer-encoding"), *length = parser_header(p, "content-length");
    if (coding && length) return malformed(p, "both Content-Length and Transfer-Encoding");
    if (count_headers(p, "content-length") > 1) return malformed(p, "several Content-Length headers");
    if (count_headers(p, "transfer-encoding") > 1) return malformed(p, "several Transfer-Encoding headers");
    if (coding && p->http10) return malformed(p, "Transfer-Encoding with HTTP/1.0");
    if (coding && strcasecmp(coding, "chunked") != 0)
        return refuse(p, 501, "transfer_encoding_not_supported", "Transfer-Encoding: %.60s is not known here; expected chunked", coding);
    p->left = 0;
    p->step = coding ? STEP_CHUNK_SIZE : STEP_BODY;
    if (length) content_length(p, length);
}

static void end_of_head(http_parser *p) {
    http_request *r = &p->request;
    p->headers = malloc((size_t)r->n_headers * sizeof *p->headers + 1);
    if (!p->headers) return no_memory(p);
    for (int i = 0; i < r->n_headers; i++) {
        const spot *at = (const spot *)(const void *)p->spots.p + i;
        p->headers[i] = (http_header){ p->head.p + at->name, p->head.p + at->value };
    }
    r->headers = p->headers;
    r->method = p->head.p;
    understand_target(p, p->head.p + p->target_at);
    if (p->stage == PARSE_BAD) return;
    int hosts = count_headers(p, "host");
    if (hosts > 1 || (hosts == 0 && !p->http10)) return malformed(p, hosts ? "several Host headers" : "no Host header");
    framing(p);
    if (p->stage == PARSE_BAD) return;
    const char *expect = parser_header(p, "expect");
    p->expects = expect && !p->http10 && strcasecmp(expect, "100-continue") == 0;
    if (expect && !p->http10 && !p->expects)
        return refuse(p, 417, "expectation_failed", "Expect: %.60s is not known here; expected 100-continue", expect);
    bool closes = parser_header_has(p, "connection", "close");
    p->keep_alive = !closes && (!p->http10 || parser_header_has(p, "connection", "keep-alive"));
    p->stage = PARSE_BODY;
}

/* ---- steps: each takes some bytes and says how many ---- */

static void too_long(http_parser *p) {
    if (p->step == STEP_REQUEST)
        refuse(p, 414, "target_too_long", "the request's target is too long, the most is %zu bytes", p->limits.target);
    else refuse(p, 431, "headers_too_large", "the request's headers are too large, the most is %zu bytes", p->limits.header);
}

static size_t head_lines(http_parser *p, const char *s, size_t n) {
    size_t used, first = p->limits.target + MOST_METHOD + 32, limit = p->limits.header;
    if (p->step == STEP_REQUEST && first < limit) limit = first;
    line_end end = take_line(p, &p->head, p->line_at, limit, s, n, &used);
    if (end == LINE_LONG) too_long(p);
    if (end != LINE_WHOLE) return used;
    size_t length = p->head.n - 2 - p->line_at;
    char *line = p->head.p + p->line_at;
    line[length] = 0;
    p->line_at = p->head.n;
    if (p->step == STEP_REQUEST && !length) { /* RFC 9112, 2.2: blank lines ahead of a request are passed over */
        if (++p->blank_lines > MOST_BLANK_LINES) malformed(p, "blank lines where a request was expected");
        p->head.n = p->line_at = 0;
    } else if (p->step == STEP_REQUEST) {
        request_line(p, line, length);
        p->step = STEP_HEADERS;
    } else if (length) {
        header_line(p, line, length);
    } else {
        end_of_head(p);
    }
    return used;
}

static size_t body_bytes(http_parser *p, const char *s, size_t n) {
    if (n > p->left) n = p->left;
    buf_add(&p->body, s, n);
    if (p->body.failed) no_memory(p);
    p->left -= n;
    return n;
}

static void chunk_size(http_parser *p, const char *line) {
    uint64_t size = 0;
    int digits = 0;
    for (; hex_digit(line[digits]) >= 0; digits++) {
        if (size >> 60) return malformed(p, "a chunk's size that no number holds");
        size = size << 4 | (uint64_t)hex_digit(line[digits]);
    }
    const char *rest = line + digits + strspn(line + digits, " \t");
    if (!digits || (*rest != ';' && rest != line + digits) || (*rest && *rest != ';'))
        return malformed(p, "a chunk's size that is not a hexadecimal number");
    p->extensions += strlen(rest);
    if (p->extensions > p->limits.header) return malformed(p, "too many chunk extensions");
    if (size > p->limits.body - p->body.n)
        return refuse(p, 413, "body_too_large", "a body of more than %zu bytes, which is the most", p->limits.body);
    p->left = (size_t)size;
    p->step = size ? STEP_CHUNK : STEP_TRAILERS;
}

/* A line of a chunked body: a chunk's size, the CR LF behind a chunk, a trailer. Trailers are checked and forgotten. */
static size_t chunk_lines(http_parser *p, const char *s, size_t n) {
    size_t used, name_n, limit = p->step == STEP_CHUNK_END ? 2 : p->step == STEP_CHUNK_SIZE ? MOST_CHUNK_LINE : p->limits.header - p->trailers;
    line_end end = take_line(p, &p->line, 0, limit, s, n, &used);
    if (end == LINE_LONG && p->step == STEP_TRAILERS) too_long(p);
    else if (end == LINE_LONG) malformed(p, p->step == STEP_CHUNK_END ? "a chunk longer than its size" : "a chunk's size with a very long line");
    if (end != LINE_WHOLE) return used;
    size_t length = p->line.n - 2;
    p->line.p[length] = 0;
    if (p->step == STEP_CHUNK_SIZE) {
        chunk_size(p, p->line.p);
    } else if (p->step == STEP_CHUNK_END) {
        if (length) malformed(p, "a chunk longer than its size");
        p->step = STEP_CHUNK_SIZE;
    } else {
        p->trailers += p->line.n;
        if (!length) p->stage = PARSE_WHOLE;
        else check_field(p, p->line.p, length, &name_n);
    }
    p->line.n = 0;
    return used;
}

static size_t step(http_parser *p, const char *s, size_t n) {
    size_t used;
    switch (p->step) {
    case STEP_REQUEST:
    case STEP_HEADERS: return head_lines(p, s, n);
    case STEP_BODY: return body_bytes(p, s, n);
    case STEP_CHUNK:
        used = body_bytes(p, s, n);
        if (!p->left) p->step = STEP_CHUNK_END;
        return used;
    default: return chunk_lines(p, s, n);
    }
}

size_t parser_feed(http_parser *p, const char *bytes, size_t n) {
    size_t at = 0;
    while (at < n && p->stage < PARSE_WHOLE) {
        at += step(p, bytes + at, n - at);
        if (p->stage == PARSE_BODY && p->step == STEP_BODY && !p->left) p->stage = PARSE_WHOLE;
    }
    if (p->stage == PARSE_WHOLE) {
        p->request.body = p->body.n ? p->body.p : "";
        p->request.body_n = p->body.n;
    }
    return at;
}

bool parser_has_begun(const http_parser *p) { return p->stage != PARSE_WHOLE && (p->head.n > 0 || p->step != STEP_REQUEST); }

/* ---- memory ---- */

static void empty(buf *b) {
    if (b->cap > KEEP_BYTES || b->failed) buf_free(b);
    b->n = 0;
    b->failed = false;
}

void parser_reset(http_parser *p) {
    buf keep[4] = { p->head, p->line, p->body, p->spots };
    for (int i = 0; i < 4; i++) empty(&keep[i]);
    free(p->headers);
    *p = (http_parser){ .limits = p->limits, .head = keep[0], .line = keep[1], .body = keep[2], .spots = keep[3] };
}

void parser_free(http_parser *p) {
    buf_free(&p->head);
    buf_free(&p->line);
    buf_free(&p->body);
    buf_free(&p->spots);
    free(p->headers);
    p->headers = NULL;
}
