/* gguf: reads GGUF files, version 2 and 3 (the specification is ggml's docs/gguf.md). Nothing is copied but names: the file is
 * mapped, its metadata are found by key, its tensors stand in the same structure as those of safetensors. It knows no
 * architecture: keys and names are the file's own. */
#ifndef QUERN_GGUF_H
#define QUERN_GGUF_H

#include "weights/safetensors.h"

typedef enum {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64,
    GGUF_F64, GGUF_KINDS
} gguf_kind;

typedef struct gguf_value {
    const char *key;      /* NUL-terminated */
    gguf_kind kind, item; /* item: what an array holds, else kind again */
    uint64_t n;           /* items of the array, else 1 */
    const uint8_t *at;    /* the first item, in the mapping; its lengths were checked */
    size_t bytes;         /* of all items */
} gguf_value;

typedef struct gguf {
    const char *path;
    const gguf_value *values; /* [n_values], by key */
    size_t n_values;
    uint32_t version;
} gguf;

/* Maps and checks the file: s gets the mapping as its only shard and the tensors under the names that GGUF gives them, dims
 * outermost first as safetensors has them. What g points to lives until safetensors_close(s). Every length is checked against
 * the bytes left, every tensor against the file; an error names the file, the key or tensor, what was expected and found. */
int gguf_open(gguf *g, safetensors *s, const char *path, err *e);
bool gguf_magic(const char *path); /* does the file begin as a GGUF file does? */

const gguf_value *gguf_find(const gguf *g, const char *key); /* NULL: not there */
/* One value, or one item of an array: 0 where it is of a kind that fits, -1 where not. Whole numbers of any kind fit an integer
 * that holds them. Strings are borrowed from the mapping: n bytes, no NUL behind. */
int gguf_int(const gguf_value *v, uint64_t item, int64_t *out);
int gguf_num(const gguf_value *v, uint64_t item, double *out);
int gguf_text(const gguf_value *v, const char **text, size_t *n); /* a single string */
/* Strings of an array, in order: *at = 0 first; false at the end, or if it is not an array of strings. */
bool gguf_next(const gguf_value *v, size_t *at, const char **text, size_t *n);
const char *gguf_kind_name(const gguf_value *v); /* for messages; "missing" for NULL */

#endif
