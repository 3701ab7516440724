/* base: what every other part stands on. Errors, memory, byte buffers, JSON, hash, clock, UTF-8.
 * It knows nothing of models, tensors or tokens. */
#ifndef QUERN_BASE_H
#define QUERN_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define QUERN_VERSION "0.1.0"

#if defined(__GNUC__)
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define PRINTF_LIKE(fmt, args)
#endif

/* ---- errors: a function that can fail returns 0 or -1 and fills err once; the first message wins ---- */
typedef struct err {
    int code; /* 0: none */
    char msg[768];
} err;
enum { ERR_FAILED = 1, ERR_MEMORY, ERR_INPUT, ERR_CONTEXT };

int fail(err *e, const char *fmt, ...) PRINTF_LIKE(2, 3); /* always -1; e may be NULL */
int fail_code(err *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
int fail_memory(err *e, size_t bytes, const char *what); /* "out of memory: ..." */

/* ---- sizes: checked arithmetic for whatever comes from a file ---- */
static inline bool mul_overflows(uint64_t a, uint64_t b, uint64_t *out) { return __builtin_mul_overflow(a, b, out); }
static inline bool add_overflows(uint64_t a, uint64_t b, uint64_t *out) { return __builtin_add_overflow(a, b, out); }
static inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
static inline int min_int(int a, int b) { return a < b ? a : b; }
static inline int max_int(int a, int b) { return a > b ? a : b; }

/* ---- memory ---- */
void *alloc_aligned(size_t bytes); /* zeroed, 64-byte aligned, NULL when out of memory; free with free_aligned */
void free_aligned(void *p);

/* Debug builds (make DEBUG=1) abort when the thread that computes a forward pass allocates: all its memory is laid out before. */
#ifdef QUERN_DEBUG
void alloc_guard(bool on);
#else
static inline void alloc_guard(bool on) { (void)on; }
#endif

/* A chunked arena: many small objects with one life. Memory is zeroed. */
typedef struct arena {
    struct arena_chunk *head;
    size_t used, limit; /* bytes given out; limit 0: none */
} arena;
void *arena_alloc(arena *a, size_t bytes); /* 16-byte aligned; NULL when out of memory or past the limit */
char *arena_copy(arena *a, const char *s, size_t n); /* a NUL-terminated copy */
void arena_free(arena *a);

/* Carving: the same layout code runs twice, first with base NULL to learn the size, then over real memory. */
typedef struct carve {
    char *base;
    size_t used;
} carve;
void *carve_take(carve *c, size_t bytes); /* 64-byte aligned; NULL while measuring */

/* A growable byte buffer. When memory ends, `failed` is set and further appends do nothing: check once, at the end. */
typedef struct buf {
    char *p;
    size_t n, cap;
    bool failed;
} buf;
void buf_add(buf *b, const void *bytes, size_t n);
void buf_byte(buf *b, int byte);
void buf_str(buf *b, const char *s);
void buf_fmt(buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_u32(buf *b, uint32_t v); /* little-endian */
void buf_u64(buf *b, uint64_t v);
void buf_json(buf *b, const char *s, size_t n); /* a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD */
void buf_free(buf *b);

/* A run of bytes within a text. */
typedef struct text_range {
    size_t begin, end;
} text_range;

/* A growable list of token ids. */
typedef struct ids {
    int32_t *p;
    size_t n, cap;
    bool failed;
} ids;
void ids_add(ids *v, int32_t id);
void ids_free(ids *v);
int ids_parse(ids *v, const char *text, err *e); /* "1 2 3" or "1,2,3"; a word that is no id is an error */

/* Reads from a run of bytes; past the end it gives zeros and sets failed. */
typedef struct cursor {
    const uint8_t *p;
    size_t n, at;
    bool failed;
} cursor;
const void *cursor_take(cursor *c, size_t n); /* NULL past the end */
uint32_t cursor_u32(cursor *c);
uint64_t cursor_u64(cursor *c);

/* ---- JSON (RFC 8259): a tree in an arena. Depth is bounded, so hostile text cannot exhaust the stack. ---- */
enum { JSON_MAX_DEPTH = 128 };
typedef enum { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } json_type;
typedef struct json {
    json_type type;
    uint32_t n;        /* children, or bytes of s */
    uint32_t key_n;
    const char *key;   /* in an object: this member's name, NUL-terminated, unescaped UTF-8 */
    const char *s;     /* string: unescaped UTF-8, NUL-terminated; number: its text, NUL-terminated */
    struct json *child, *next;
} json;
int json_parse(arena *a, const char *text, size_t n, json **root, err *e); /* what is wrong, and at which byte */
const json *json_get(const json *object, const char *key); /* NULL where missing or not an object; the last of equal names */
bool json_is(const json *j, const char *text);             /* is it this string? */
int json_int(const json *j, int64_t *out);                 /* 0 if a whole number that fits */
int json_num(const json *j, double *out);                  /* 0 if a number */
const char *json_type_name(const json *j);                 /* "a string", ... for messages; "missing" for NULL */
void json_put(buf *out, const json *j);                    /* the tree as text, numbers as they were written */

/* ---- hash: XXH64 (Yann Collet's specification), of a whole run or in pieces ---- */
typedef struct hash64 {
    uint64_t lane[4], total;
    uint8_t rest[32];
    size_t n_rest;
} hash64;
void hash_begin(hash64 *h);
void hash_add(hash64 *h, const void *bytes, size_t n);
uint64_t hash_end(const hash64 *h);
uint64_t hash_bytes(const void *bytes, size_t n);

/* ---- clock ---- */
double now_seconds(void); /* monotonic */

/* ---- UTF-8 ---- */
/* One character at s (n > 0 bytes left): its code point and its length. Ill-formed bytes: returns -1, length 1. */
int32_t utf8_decode(const char *s, size_t n, int *len);
int utf8_encode(char out[4], uint32_t code_point);  /* 1 to 4 bytes; surrogates and > 10FFFF become U+FFFD */
size_t utf8_incomplete_tail(const char *s, size_t n); /* bytes at the end that begin a character without finishing it: 0 to 3 */

#endif
