/* hosts: is a Host header one of ours, an Origin header one of a page that may ask (hosts.h)? An address passes whichever it is:
 * who stands in a browser's address line by its address has no name that could be made to resolve to another. localhost and what
 * ends in .localhost pass: browsers resolve them themselves (RFC 6761). A missing or empty Host passes: no browser sends one. It
 * must not know when names are checked, nor what is asked for. */
#define _GNU_SOURCE
#include "tools/serve/hosts.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* Letters, digits, '-' and '_' in labels between dots. A dot at the end says the same name. */
static bool copy_name(const char *s, size_t n, char out[HOST_NAME]) {
    if (n && s[n - 1] == '.') n--;
    if (!n || n >= HOST_NAME) return false;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (c >= 'A' && c <= 'Z') c = (char)(c - 'A' + 'a');
        bool dot = c == '.' && i && s[i - 1] != '.';
        if (!dot && !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-' && c != '_') return false;
        out[i] = c;
    }
    out[n] = 0;
    return true;
}

static int add_one(hosts *v, const char *s, size_t n, err *e) {
    if (n == 1 && *s == '*') return v->any = true, 0;
    if (v->n == HOSTS_MOST) return fail(e, "more than %d names", HOSTS_MOST);
    if (!copy_name(s, n, v->name[v->n]))
        return fail(e, "expected a name such as llm.example.org, without scheme and port, or *, found \"%.*s\"", (int)(n < 80 ? n : 80), s);
    v->n++;
    return 0;
}

int hosts_add(hosts *v, const char *list, err *e) {
    for (;;) {
        size_t n = strcspn(list, ",");
        if (add_one(v, list, n, e)) return -1;
        if (!list[n]) return 0;
        list += n + 1;
    }
}

void hosts_add_own(hosts *v) {
    char own[256] = "";
    err unused = { 0 };
    if (gethostname(own, sizeof own - 1) == 0 && *own) add_one(v, own, strlen(own), &unused);
}

/* 1.2.3.4, and the other spellings that browsers and curl take for an address (127.1). */
static bool is_ipv4(const char *s) {
    struct in_addr a;
    return strspn(s, "0123456789abcdefxABCDEFX.") == strlen(s) && inet_aton(s, &a);
}

static bool is_ipv6(const char *s, size_t n) {
    struct in6_addr a;
    char text[INET6_ADDRSTRLEN] = "";
    const char *zone = memchr(s, '%', n);
    if (zone) n = (size_t)(zone - s);
    if (n >= sizeof text) return false;
    memcpy(text, s, n);
    return inet_pton(AF_INET6, text, &a) == 1;
}

static bool is_port(const char *s) { return strspn(s, "0123456789") == strlen(s); }

static bool is_local(const char *name) {
    size_t n = strlen(name);
    return strcmp(name, "localhost") == 0 || (n > 10 && strcmp(name + n - 10, ".localhost") == 0);
}

bool hosts_allow(const hosts *v, const char *host) {
    char name[HOST_NAME];
    if (!v->checked || !host || !*host) return true;
    if (*host == '[') {
        const char *close = strchr(host, ']');
        return close && (!close[1] || (close[1] == ':' && is_port(close + 2))) && is_ipv6(host + 1, (size_t)(close - host - 1));
    }
    size_t n = strcspn(host, ":");
    if (host[n] && strchr(host + n + 1, ':')) return is_ipv6(host, strlen(host));
    if ((host[n] && !is_port(host + n + 1)) || !copy_name(host, n, name)) return false;
    if (is_ipv4(name) || is_local(name)) return true;
    for (int i = 0; i < v->n; i++)
        if (strcmp(name, v->name[i]) == 0) return true;
    return false;
}

/* ---- origins ---- */

/* "Name:80" and "name" are the same place of http. */
static bool same_place(const char *a, const char *b, const char *usual_port) {
    size_t n = strlen(a), m = strlen(b), k = strlen(usual_port);
    if (n > k && strcmp(a + n - k, usual_port) == 0) n -= k;
    if (m > k && strcmp(b + m - k, usual_port) == 0) m -= k;
    return n && n == m && strncasecmp(a, b, n) == 0;
}

static bool of_application(const char *origin) {
    static const char *const schemes[] = { "app://", "file://", "tauri://", "vscode-file://", "vscode-webview://" }; /* as Ollama has it */
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
        if (strncasecmp(origin, schemes[i], strlen(schemes[i])) == 0) return true;
    return false;
}

static bool is_this_machine(const hosts *v, const char *place) {
    char name[HOST_NAME];
    struct in_addr a;
    size_t n = strcspn(place, ":");
    if (strncmp(place, "[::1]", 5) == 0) return !place[5] || (place[5] == ':' && is_port(place + 6));
    if ((place[n] && !is_port(place + n + 1)) || !copy_name(place, n, name)) return false;
    if (is_local(name)) return true;
    if (inet_pton(AF_INET, name, &a) == 1 && (ntohl(a.s_addr) >> 24 == 127 || a.s_addr == 0)) return true;
    for (int i = 0; i < v->n; i++)
        if (strcmp(name, v->name[i]) == 0) return true;
    return false;
}

bool hosts_allow_origin(const hosts *v, const char *origin, const char *host) {
    bool plain = strncasecmp(origin, "http://", 7) == 0, tls = strncasecmp(origin, "https://", 8) == 0;
    if (!plain && !tls) return of_application(origin);
    const char *place = origin + (plain ? 7 : 8);
    return is_this_machine(v, place) || (host && same_place(place, host, plain ? ":80" : ":443"));
}
