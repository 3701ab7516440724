/* base: errors, memory, buffers, hash, clock, UTF-8 and files (JSON is json.c).
 * It owns no state: everything lives in the caller's structs. It must not know models, tensors or tokens. */
#define _GNU_SOURCE
#include "runtime/base.h"
#include "runtime/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- errors ---- */

PRINTF_LIKE(3, 0) static void fail_va(err *e, int code, const char *fmt, va_list args) {
    if (!e || e->code) return;
    e->code = code;
    vsnprintf(e->msg, sizeof e->msg, fmt, args);
    for (char *p = e->msg; *p; p++)
        if ((unsigned char)*p < ' ') *p = ' '; /* names come from files: an error stays one line */
}

int fail(err *e, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fail_va(e, ERR_FAILED, fmt, args);
    va_end(args);
    return -1;
}

int fail_code(err *e, int code, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fail_va(e, code, fmt, args);
    va_end(args);
    return -1;
}

int fail_memory(err *e, size_t bytes, const char *what) {
    return fail_code(e, ERR_MEMORY, "out of memory: %s needs %zu bytes", what, bytes);
}

/* ---- memory ---- */

void *alloc_aligned(size_t bytes) {
    if (bytes > SIZE_MAX - 64) return NULL;
    size_t whole = round_up(bytes ? bytes : 1, 64);
    void *p = NULL;
    if (posix_memalign(&p, 64, whole)) return NULL;
    return memset(p, 0, whole);
}

void free_aligned(void *p) { free(p); }

struct arena_chunk {
    struct arena_chunk *next;
    size_t used, cap;
    _Alignas(16) char data[];
};

void *arena_alloc(arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = round_up(bytes ? bytes : 1, 16);
    if (a->limit && bytes > a->limit - a->used) return NULL;
    struct arena_chunk *c = a->head;
    if (!c || c->cap - c->used < bytes) {
        size_t cap = c ? c->cap * 2 : 4096;
        if (cap > (4u << 20)) cap = 4u << 20;
        if (cap < bytes) cap = bytes;
        c = calloc(1, sizeof *c + cap);
        if (!c) return NULL;
        c->cap = cap;
        c->next = a->head;
        a->head = c;
    }
    void *p = c->data + c->used;
    c->used += bytes;
    a->used += bytes;
    return p;
}

char *arena_copy(arena *a, const char *s, size_t n) {
    char *p = n < SIZE_MAX ? arena_alloc(a, n + 1) : NULL;
    return p ? memcpy(p, s, n) : NULL;
}

void arena_free(arena *a) {
    for (struct arena_chunk *c = a->head, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    a->head = NULL;
    a->used = 0;
}

void *carve_take(carve *c, size_t bytes) {
    void *p = c->base ? c->base + c->used : NULL;
    c->used += round_up(bytes, 64);
    return p;
}

/* ---- buffers ---- */

static bool buf_room(buf *b, size_t n) {
    if (b->failed) return false;
    if (n < b->cap - b->n) return true; /* one byte to spare: a NUL stands beyond the end */
    size_t cap = b->cap ? b->cap : 64;
    while (cap <= b->n || cap - b->n <= n) {
        if (cap > SIZE_MAX / 2) return !(b->failed = true);
        cap *= 2;
    }
    char *p = realloc(b->p, cap);
    if (!p) return !(b->failed = true);
    b->p = p;
    b->cap = cap;
    return true;
}

void buf_add(buf *b, const void *bytes, size_t n) {
    if (!buf_room(b, n)) return;
    if (n) memcpy(b->p + b->n, bytes, n);
    b->n += n;
    b->p[b->n] = 0;
}

void buf_byte(buf *b, int byte) {
    char c = (char)byte;
    buf_add(b, &c, 1);
}

void buf_str(buf *b, const char *s) { buf_add(b, s, strlen(s)); }

void buf_fmt(buf *b, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    if (n < 0) b->failed = true;
    else if (buf_room(b, (size_t)n)) {
        vsnprintf(b->p + b->n, (size_t)n + 1, fmt, again);
        b->n += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

void buf_u32(buf *b, uint32_t v) {
    uint8_t x[4] = { (uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24) };
    buf_add(b, x, 4);
}

void buf_u64(buf *b, uint64_t v) {
    buf_u32(b, (uint32_t)v);
    buf_u32(b, (uint32_t)(v >> 32));
}

void buf_json(buf *b, const char *s, size_t n) {
    buf_byte(b, '"');
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i];
        int len;
        if (c == '"' || c == '\\') buf_fmt(b, "\\%c", c), i++;
        else if (c == '\n') buf_str(b, "\\n"), i++;
        else if (c < ' ' || c == 0x7f) buf_fmt(b, "\\u%04x", c), i++;
        else if (utf8_decode(s + i, n - i, &len) < 0) buf_str(b, "\xef\xbf\xbd"), i++;
        else buf_add(b, s + i, (size_t)len), i += (size_t)len;
    }
    buf_byte(b, '"');
}

void buf_free(buf *b) {
    free(b->p);
    *b = (buf){ 0 };
}

void ids_add(ids *v, int32_t id) {
    if (v->failed) return;
    if (v->n == v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 64;
        int32_t *p = cap > SIZE_MAX / sizeof *p ? NULL : realloc(v->p, cap * sizeof *p);
        if (!p) {
            v->failed = true;
            return;
        }
        v->p = p;
        v->cap = cap;
    }
    v->p[v->n++] = id;
}

void ids_free(ids *v) {
    free(v->p);
    *v = (ids){ 0 };
}

int ids_parse(ids *v, const char *text, err *e) {
    for (const char *p = text; *p;) {
        size_t gap = strspn(p, " ,\t\r\n");
        p += gap;
        if (!*p) break;
        char *end;
        errno = 0;
        long id = strtol(p, &end, 10);
        if (end == p || errno || id < 0 || id > INT32_MAX || !strchr(" ,\t\r\n", *end))
            return fail_code(e, ERR_INPUT, "token ids: expected whole numbers from 0, found \"%.*s\"", (int)strcspn(p, " ,\t\r\n") % 40, p);
        ids_add(v, (int32_t)id);
        p = end;
    }
    return v->failed ? fail_memory(e, v->cap * 8, "a list of token ids") : 0;
}

const void *cursor_take(cursor *c, size_t n) {
    if (c->failed || n > c->n - c->at) {
        c->failed = true;
        return NULL;
    }
    const void *p = c->p + c->at;
    c->at += n;
    return p;
}

uint32_t cursor_u32(cursor *c) {
    const uint8_t *p = cursor_take(c, 4);
    return p ? (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24 : 0;
}

uint64_t cursor_u64(cursor *c) {
    uint64_t low = cursor_u32(c);
    return low | (uint64_t)cursor_u32(c) << 32;
}

/* ---- hash: XXH64 ---- */

#define P1 0x9E3779B185EBCA87ull
#define P2 0xC2B2AE3D27D4EB4Full
#define P3 0x165667B19E3779F9ull
#define P4 0x85EBCA77C2B2AE63ull
#define P5 0x27D4EB2F165667C5ull

static uint64_t rotl(uint64_t x, int r) { return x << r | x >> (64 - r); }
static uint64_t hash_round(uint64_t lane, uint64_t in) { return rotl(lane + in * P2, 31) * P1; }

static uint64_t load_u64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v; /* every supported machine is little-endian */
}

void hash_begin(hash64 *h) {
    *h = (hash64){ .lane = { P1 + P2, P2, 0, 0 - P1 } };
}

static void hash_stripe(hash64 *h, const uint8_t *p) {
    for (int i = 0; i < 4; i++) h->lane[i] = hash_round(h->lane[i], load_u64(p + 8 * i));
}

void hash_add(hash64 *h, const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    h->total += n;
    if (h->n_rest) {
        size_t take = 32 - h->n_rest < n ? 32 - h->n_rest : n;
        memcpy(h->rest + h->n_rest, p, take);
        h->n_rest += take;
        p += take;
        n -= take;
        if (h->n_rest < 32) return;
        hash_stripe(h, h->rest);
        h->n_rest = 0;
    }
    for (; n >= 32; p += 32, n -= 32) hash_stripe(h, p);
    if (n) memcpy(h->rest, p, n);
    h->n_rest = n;
}

uint64_t hash_end(const hash64 *h) {
    uint64_t x = h->lane[2] + P5;
    if (h->total >= 32) {
        x = rotl(h->lane[0], 1) + rotl(h->lane[1], 7) + rotl(h->lane[2], 12) + rotl(h->lane[3], 18);
        for (int i = 0; i < 4; i++) x = (x ^ hash_round(0, h->lane[i])) * P1 + P4;
    }
    x += h->total;
    const uint8_t *p = h->rest, *end = p + h->n_rest;
    for (; end - p >= 8; p += 8) x = rotl(x ^ hash_round(0, load_u64(p)), 27) * P1 + P4;
    if (end - p >= 4) {
        uint32_t v;
        memcpy(&v, p, 4);
        x = rotl(x ^ v * P1, 23) * P2 + P3;
        p += 4;
    }
    for (; p < end; p++) x = rotl(x ^ *p * P5, 11) * P1;
    x = (x ^ x >> 33) * P2;
    x = (x ^ x >> 29) * P3;
    return x ^ x >> 32;
}

uint64_t hash_bytes(const void *bytes, size_t n) {
    hash64 h;
    hash_begin(&h);
    hash_add(&h, bytes, n);
    return hash_end(&h);
}

/* ---- clock ---- */

double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- UTF-8 (Unicode 15, table 3-7: the well-formed byte sequences) ---- */

int32_t utf8_decode(const char *s, size_t n, int *len) {
    const uint8_t *p = (const uint8_t *)s;
    uint8_t a = p[0];
    *len = 1;
    if (a < 0x80) return a;
    int more = a >= 0xc2 && a <= 0xdf ? 1 : a >= 0xe0 && a <= 0xef ? 2 : a >= 0xf0 && a <= 0xf4 ? 3 : 0;
    if (!more || n <= (size_t)more) return -1;
    uint8_t low = a == 0xe0 ? 0xa0 : a == 0xf0 ? 0x90 : 0x80, high = a == 0xed ? 0x9f : a == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < low || p[1] > high) return -1;
    int32_t c = a & (0x3f >> more);
    for (int i = 1; i <= more; i++) {
        if ((p[i] & 0xc0) != 0x80) return -1;
        c = c << 6 | (p[i] & 0x3f);
    }
    *len = more + 1;
    return c;
}

int utf8_encode(char out[4], uint32_t c) {
    if (c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) c = 0xfffd;
    if (c < 0x80) return out[0] = (char)c, 1;
    int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | c);
    return n;
}

size_t utf8_incomplete_tail(const char *s, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        uint8_t c = (uint8_t)s[n - back];
        if ((c & 0xc0) == 0x80) continue;
        size_t need = c >= 0xc2 && c <= 0xdf ? 2 : c >= 0xe0 && c <= 0xef ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 1;
        if (need <= back) return 0;
        /* what is there must be able to become a character: complete it with the least and the greatest byte */
        char low[4] = { 0 }, high[4] = { 0 };
        memcpy(low, s + n - back, back);
        memcpy(high, s + n - back, back);
        for (size_t i = back; i < need; i++) {
            low[i] = i == 1 && c == 0xe0 ? (char)0xa0 : i == 1 && c == 0xf0 ? (char)0x90 : (char)0x80;
            high[i] = (char)0x80;
        }
        int len;
        return utf8_decode(low, need, &len) >= 0 || utf8_decode(high, need, &len) >= 0 ? back : 0;
    }
    return 0;
}

/* ---- files ---- */

int read_stream(FILE *f, size_t limit, buf *out, err *e) {
    char chunk[1 << 16];
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;) {
        buf_add(out, chunk, n);
        if (limit && out->n > limit) return fail_code(e, ERR_INPUT, "more than %zu bytes of input", limit);
    }
    if (ferror(f)) return fail(e, "reading failed: %s", strerror(errno));
    buf_add(out, "", 0);
    return out->failed ? fail_memory(e, out->n, "reading a file") : 0;
}

int read_file(const char *path, size_t limit, buf *out, err *e) {
    if (is_folder(path)) return fail(e, "%s: is a folder, expected a file", path);
    FILE *f = fopen(path, "rb");
    if (!f) return fail(e, "%s: %s", path, strerror(errno));
    err inner = { 0 };
    int rc = read_stream(f, limit, out, &inner);
    fclose(f);
    return rc ? fail_code(e, inner.code, "%s: %s", path, inner.msg) : 0;
}

FILE *open_regular(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (fd < 0) return NULL;
    FILE *f = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? fdopen(fd, "rb") : NULL;
    if (!f) close(fd);
    return f;
}

int map_file(const char *path, mapping *m, err *e) {
    *m = (mapping){ 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would be waited for */
    if (fd < 0) return fail(e, "%s: %s", path, strerror(errno));
    struct stat st;
    int rc = 0;
    if (fstat(fd, &st)) rc = fail(e, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode)) rc = fail(e, "%s: not a regular file", path);
    else if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) rc = fail_code(e, errno == ENOMEM ? ERR_MEMORY : ERR_FAILED, "%s: cannot be mapped: %s", path, strerror(errno));
        else *m = (mapping){ p, (size_t)st.st_size, false };
    }
    close(fd);
    return rc;
}

void map_in_order(const mapping *m) {
#ifdef MADV_SEQUENTIAL
    if (m->p) madvise((void *)(uintptr_t)m->p, m->n, MADV_SEQUENTIAL);
#else
    (void)m;
#endif
}

int map_copy(mapping *m, err *e) {
    enum { HUGE = 2 << 20 };
    if (!m->p || m->n > SIZE_MAX - 2 * HUGE) return 0;
    size_t n = round_up(m->n, HUGE);
    char *p = mmap(NULL, n + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return fail_memory(e, n, "a copy of the file on huge pages");
    size_t before = (HUGE - (uintptr_t)p % HUGE) % HUGE;
    if (before) munmap(p, before);
    if (HUGE - before) munmap(p + before + n, HUGE - before);
    p += before;
#ifdef MADV_HUGEPAGE
    madvise(p, n, MADV_HUGEPAGE); /* refused where the system has none: then it is a plain copy */
#endif
    memcpy(p, m->p, m->n);
    mprotect(p, n, PROT_READ);
    munmap((void *)(uintptr_t)m->p, m->n);
    *m = (mapping){ (uint8_t *)p, m->n, true };
    return 0;
}

void unmap_file(mapping *m) {
    if (m->p) munmap((void *)(uintptr_t)m->p, m->copied ? round_up(m->n, 2 << 20) : m->n);
    *m = (mapping){ 0 };
}

bool has_ending(const char *name, const char *ending) {
    size_t n = strlen(name), k = strlen(ending);
    return n > k && strcmp(name + n - k, ending) == 0;
}

char *path_join(arena *a, const char *dir, const char *name) {
    size_t n = strlen(dir), k = strlen(name);
    bool slash = n && dir[n - 1] != '/';
    char *p = arena_alloc(a, n + k + 2);
    if (p) sprintf(p, "%s%s%s", dir, slash ? "/" : "", name);
    return p;
}

bool file_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

uint64_t file_bytes(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
}

bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int parse_scaled(arena *mem, const char *text, const char **path, float *scale, err *e) {
    const char *colon = file_exists(text) ? NULL : strrchr(text, ':');
    char *end = NULL;
    *scale = colon ? strtof(colon + 1, &end) : 1;
    if (colon && (end == colon + 1 || *end || *scale - *scale != 0))
        return fail(e, "%s: does not exist; expected FILE or FILE:SCALE, a finite number", text);
    *path = arena_copy(mem, text, colon ? (size_t)(colon - text) : strlen(text));
    return *path ? 0 : fail_memory(e, strlen(text), "a path");
}
