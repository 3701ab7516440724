/* proxy: X-Forwarded-For (proxy.h). Each proxy writes its own client behind what it was sent: so the list is read from its end, as far as those
 * who wrote are trusted, and no further: what stands before is the client's own invention. Addresses are compared as 16 bytes, and
 * given back in one spelling, so that nobody is two. It must not know what a client's address is good for. */
#define _GNU_SOURCE
#include "tools/serve/proxy.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

/* 1.2.3.4 or 1:2::3 as 16 bytes; how many bits the family's own address has before it begins: 96 or 0; -1: neither. */
static int read_address(const char *s, unsigned char out[16]) {
    struct in_addr four;
    memcpy(out, "\0\0\0\0\0\0\0\0\0\0\377\377", 12);
    if (inet_pton(AF_INET, s, &four) == 1) return memcpy(out + 12, &four, 4), 96;
    struct in6_addr six;
    if (inet_pton(AF_INET6, s, &six) != 1) return -1;
    memcpy(out, &six, 16);
    return 0;
}

static void write_address(const unsigned char a[16], char out[PROXY_ADDRESS]) {
    bool four = memcmp(a, "\0\0\0\0\0\0\0\0\0\0\377\377", 12) == 0;
    if (!inet_ntop(four ? AF_INET : AF_INET6, four ? a + 12 : a, out, PROXY_ADDRESS)) snprintf(out, PROXY_ADDRESS, "?");
}

static int add_one(proxies *v, const char *s, size_t n, err *e) {
    char text[64];
    snprintf(text, sizeof text, "%.*s", (int)(n < 63 ? n : 63), s);
    if (v->n == PROXY_MOST) return fail(e, "more than %d proxies", PROXY_MOST);
    char *slash = strchr(text, '/'), *end;
    if (slash) *slash = 0;
    int before = n < 63 ? read_address(text, v->p[v->n].address) : -1;
    long bits = slash ? strtol(slash + 1, &end, 10) : 128 - before;
    bool good = before >= 0 && (!slash || (slash[1] >= '0' && slash[1] <= '9' && !*end)) && bits <= 128 - before;
    if (!good)
        return fail(e, "expected an address such as 10.0.0.1, or a net such as 10.0.0.0/8 or fd00::/8, found \"%.*s\"", (int)(n < 60 ? n : 60), s);
    v->p[v->n++].bits = before + (int)bits;
    return 0;
}

int proxies_add(proxies *v, const char *list, err *e) {
    for (;;) {
        size_t n = strcspn(list, ",");
        if (add_one(v, list, n, e)) return -1;
        if (!list[n]) return 0;
        list += n + 1;
    }
}

static bool agree(const unsigned char *a, const unsigned char *b, int bits) {
    int whole = bits / 8, rest = bits % 8;
    return memcmp(a, b, (size_t)whole) == 0 && (!rest || !((a[whole] ^ b[whole]) >> (8 - rest)));
}

static bool trusted(const proxies *v, const unsigned char a[16]) {
    for (int i = 0; i < v->n; i++)
        if (agree(a, v->p[i].address, v->p[i].bits)) return true;
    return false;
}

/* An entry: an address, alone or, as some proxies write it, with a port: 1.2.3.4:5 or [1:2::3]:5. */
static int read_entry(const char *s, size_t n, unsigned char out[16]) {
    char text[64], *port = NULL;
    if (!n || n >= sizeof text) return -1;
    memcpy(text, s, n);
    text[n] = 0;
    char *host = text, *close = *text == '[' ? strchr(text, ']') : NULL;
    if (*text == '[' && !close) return -1;
    if (close) {
        host = text + 1;
        *close = 0;
        if (close[1] && close[1] != ':') return -1;
        if (close[1]) port = close + 2;
        if (!strchr(host, ':')) return -1;
    } else if ((port = strchr(text, ':')) && !strchr(port + 1, ':')) {
        *port++ = 0;
    } else port = NULL;
    if (port && (!*port || strlen(port) > 5 || strspn(port, "0123456789") != strlen(port))) return -1;
    return read_address(host, out) < 0 ? -1 : 0;
}

/* The entries of one header, from its end. 0: the client was found, 1: all so far are trusted, -1: malformed. */
static int walk(const proxies *v, const char *value, unsigned char client[16], char bad[64]) {
    for (size_t end = strlen(value);;) {
        size_t from = end, to = end;
        while (from && value[from - 1] != ',') from--;
        end = from;
        while (from < to && strchr(" \t", value[from])) from++;
        while (to > from && strchr(" \t", value[to - 1])) to--;
        if (read_entry(value + from, to - from, client)) return snprintf(bad, 64, "%.*s", (int)(to - from < 60 ? to - from : 60), value + from), -1;
        if (!trusted(v, client)) return 0;
        if (!end) return 1;
        end--; /* the comma */
    }
}

forwarded proxies_client(const proxies *v, const http_request *r, char client[PROXY_ADDRESS], char bad[64]) {
    unsigned char a[16];
    bool said = false;
    snprintf(client, PROXY_ADDRESS, "%s", r->peer ? r->peer : "");
    if (!v->n || read_address(client, a) < 0 || !trusted(v, a)) return FORWARDED_NOT;
    for (int i = r->n_headers; i-- > 0;) { /* several are one list, in their order */
        if (strcmp(r->headers[i].name, "x-forwarded-for")) continue;
        said = true;
        int found = walk(v, r->headers[i].value, a, bad);
        if (found < 0) return FORWARDED_BAD;
        if (!found) break;
    }
    if (!said) return FORWARDED_NOT;
    write_address(a, client);
    return FORWARDED_CLIENT;
}
