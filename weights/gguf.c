/* gguf: a GGUF file is "GGUF", a version, two counts, the metadata (key, kind, value), the tensor table (name, dims innermost
 * first, type, offset), and from the next multiple of the alignment the data. Files come from strangers: every length is checked
 * against what is left before it is used, arrays in arrays only to a small depth. It must not know what keys or tensors mean, but
 * for general.alignment and the split.* that say that a file is a part of one. */
#include "weights/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "weights/blocks.h"
#include "weights/file.h"

enum { MAX_KEY = 65535, MAX_NAME = 255, MAX_DIMS = 4, MAX_NESTING = 4, DEFAULT_ALIGNMENT = 32, MAX_ALIGNMENT = 1 << 20 };

#define ULL(x) ((unsigned long long)(x))

typedef struct reader {
    gguf *g;
    safetensors *s;
    cursor c;
    err *e;
} reader;

static const struct {
    const char *name;
    int bytes; /* 0: not of one size */
} kinds[GGUF_KINDS] = { { "a u8", 1 },   { "an i8", 1 },  { "a u16", 2 },  { "an i16", 2 },   { "a u32", 4 },
                        { "an i32", 4 }, { "an f32", 4 }, { "a bool", 1 }, { "a string", 0 }, { "an array", 0 },
                        { "a u64", 8 },  { "an i64", 8 }, { "an f64", 8 } };

/* The numbers of ggml's types. What has no st_type is known by name only. */
static const struct {
    uint32_t number;
    const char *name;
    st_type type;
    int bytes;
} types[] = {
    { 0, "F32", ST_F32, 4 },        { 1, "F16", ST_F16, 2 },       { 2, "Q4_0", ST_Q4_0, 0 },      { 3, "Q4_1", ST_Q4_1, 0 },
    { 6, "Q5_0", ST_Q5_0, 0 },      { 7, "Q5_1", ST_Q5_1, 0 },     { 8, "Q8_0", ST_Q8_0, 0 },      { 9, "Q8_1", ST_OTHER, 0 },
    { 10, "Q2_K", ST_OTHER, 0 },    { 11, "Q3_K", ST_OTHER, 0 },   { 12, "Q4_K", ST_Q4_K, 0 },     { 13, "Q5_K", ST_Q5_K, 0 },
    { 14, "Q6_K", ST_Q6_K, 0 },     { 15, "Q8_K", ST_OTHER, 0 },   { 16, "IQ2_XXS", ST_OTHER, 0 }, { 17, "IQ2_XS", ST_OTHER, 0 },
    { 18, "IQ3_XXS", ST_OTHER, 0 }, { 19, "IQ1_S", ST_OTHER, 0 },  { 20, "IQ4_NL", ST_OTHER, 0 },  { 21, "IQ3_S", ST_OTHER, 0 },
    { 22, "IQ2_S", ST_OTHER, 0 },   { 23, "IQ4_XS", ST_OTHER, 0 }, { 24, "I8", ST_OTHER, 1 },      { 25, "I16", ST_OTHER, 2 },
    { 26, "I32", ST_OTHER, 4 },     { 27, "I64", ST_OTHER, 8 },    { 28, "F64", ST_F64, 8 },       { 29, "IQ1_M", ST_OTHER, 0 },
    { 30, "BF16", ST_BF16, 2 },     { 34, "TQ1_0", ST_OTHER, 0 },  { 35, "TQ2_0", ST_OTHER, 0 },   { 39, "MXFP4", ST_OTHER, 0 },
    { 40, "NVFP4", ST_OTHER, 0 },   { 41, "Q1_0", ST_OTHER, 0 }
};

static int cut(const reader *r, const char *where) {
    return fail(r->e, "%s: ends inside %s, at byte %zu of %zu: truncated or damaged; fetch it again", r->g->path, where, r->c.at,
                r->c.n);
}

/* A string: u64 length, bytes. */
static const char *take_string(reader *r, size_t *n) {
    uint64_t length = cursor_u64(&r->c);
    if (length > r->c.n - r->c.at) r->c.failed = true;
    if (r->c.failed) return NULL;
    *n = (size_t)length;
    return cursor_take(&r->c, *n);
}

static bool printable(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)p[i] <= ' ' || p[i] == 0x7f) return false;
    return true;
}

/* A name as a C string in the arena; NULL with an error. */
static const char *take_name(reader *r, size_t most, const char *what) {
    size_t n = 0;
    const char *p = take_string(r, &n);
    if (!p) return cut(r, what), NULL;
    if (!n || n > most || !printable(p, n))
        return fail(r->e, "%s: %s of %zu bytes: expected 1 to %zu printable ones: the file is damaged; fetch it again", r->g->path,
                    what, n, most),
               NULL;
    char *copy = arena_copy(&r->s->mem, p, n);
    if (!copy) fail_memory(r->e, n, what);
    return copy;
}

/* ---- metadata ---- */

static int bad_kind(const reader *r, const char *key, uint32_t kind) {
    return fail(r->e, "%s: key %.100s: %u is no kind of value that GGUF has", r->g->path, key, kind);
}

/* Walks over n values of a kind. */
static int skip_values(reader *r, const char *key, uint32_t kind, uint64_t n, int depth) {
    size_t length;
    if (kind >= GGUF_KINDS) return bad_kind(r, key, kind);
    if (kinds[kind].bytes) {
        if (n > (r->c.n - r->c.at) / (uint64_t)kinds[kind].bytes) r->c.failed = true;
        else cursor_take(&r->c, (size_t)n * (size_t)kinds[kind].bytes);
        return r->c.failed ? cut(r, key) : 0;
    }
    if (depth > MAX_NESTING) return fail(r->e, "%s: key %.100s: arrays within arrays are too deep", r->g->path, key);
    for (uint64_t i = 0; i < n; i++) {
        if (kind == GGUF_STRING) {
            if (!take_string(r, &length)) return cut(r, key);
            continue;
        }
        uint32_t item = cursor_u32(&r->c);
        uint64_t items = cursor_u64(&r->c);
        if (r->c.failed) return cut(r, key);
        if (skip_values(r, key, item, items, depth + 1)) return -1;
    }
    return 0;
}

static int read_value(reader *r, gguf_value *v) {
    v->key = take_name(r, MAX_KEY, "a key of the metadata");
    if (!v->key) return -1;
    uint32_t kind = cursor_u32(&r->c), item = kind;
    uint64_t n = 1;
    if (kind == GGUF_ARRAY) {
        item = cursor_u32(&r->c);
        n = cursor_u64(&r->c);
    }
    if (r->c.failed) return cut(r, v->key);
    if (kind >= GGUF_KINDS || item >= GGUF_KINDS) return bad_kind(r, v->key, kind >= GGUF_KINDS ? kind : item);
    v->kind = (gguf_kind)kind;
    v->item = (gguf_kind)item;
    v->n = n;
    v->at = r->c.p + r->c.at;
    if (skip_values(r, v->key, item, n, kind == GGUF_ARRAY)) return -1;
    v->bytes = (size_t)(r->c.p + r->c.at - v->at);
    return 0;
}

static int by_key(const void *a, const void *b) { return strcmp(((const gguf_value *)a)->key, ((const gguf_value *)b)->key); }

static int read_values(reader *r, uint64_t n) {
    if (n > (r->c.n - r->c.at) / 13) /* the least that a key and its value take */
        return fail(r->e,
                    "%s: claims %llu keys of metadata, more than its %zu bytes can hold: truncated or damaged; fetch it again",
                    r->g->path, ULL(n), r->c.n);
    gguf_value *list = arena_alloc(&r->s->mem, (size_t)(n + 1) * sizeof *list);
    if (!list) return fail_memory(r->e, (size_t)(n + 1) * sizeof *list, "the metadata of a GGUF file");
    for (uint64_t i = 0; i < n; i++)
        if (read_value(r, &list[i])) return -1;
    qsort(list, (size_t)n, sizeof *list, by_key);
    for (uint64_t i = 1; i < n; i++)
        if (strcmp(list[i].key, list[i - 1].key) == 0) return fail(r->e, "%s: key %.100s is there twice", r->g->path, list[i].key);
    r->g->values = list;
    r->g->n_values = (size_t)n;
    return 0;
}

/* ---- tensors ---- */

static int read_type(const reader *r, st_tensor *t, uint32_t number, int *block, int *bytes) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (types[i].number != number) continue;
        const block_type *b = block_of(types[i].type);
        if (!b && !types[i].bytes)
            return fail(r->e,
                        "%s: tensor %s: type %s is not read; known: F32, F16, BF16, F64, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, "
                        "Q6_K: take a file of one of these, or the original checkpoint",
                        r->g->path, t->name, types[i].name);
        t->type = types[i].type;
        t->dtype = types[i].name;
        *block = b ? b->weights : 1;
        *bytes = b ? b->bytes : types[i].bytes;
        return 0;
    }
    return fail(r->e, "%s: tensor %s: unknown type number %u", r->g->path, t->name, number);
}

/* Name, dims, type; *offset counts from the beginning of the data. */
static int read_tensor(reader *r, st_tensor *t) {
    int block = 1, bytes = 0;
    t->name = take_name(r, MAX_NAME, "a tensor's name");
    if (!t->name) return -1;
    uint32_t n_dims = cursor_u32(&r->c);
    if (r->c.failed) return cut(r, t->name);
    if (n_dims < 1 || n_dims > MAX_DIMS)
        return fail(r->e, "%s: tensor %s: has %u dimensions, expected 1 to %d", r->g->path, t->name, n_dims, MAX_DIMS);
    t->n_dims = (int)n_dims;
    t->n = 1;
    for (uint32_t i = n_dims; i-- > 0;) { /* innermost first */
        t->dims[i] = cursor_u64(&r->c);
        if (!r->c.failed && (t->dims[i] == 0 || t->dims[i] > INT64_MAX || mul_overflows(t->n, t->dims[i], &t->n)))
            return fail(r->e, "%s: tensor %s: a dimension of %llu: expected at least 1, and a product within 64 bits", r->g->path,
                        t->name, ULL(t->dims[i]));
    }
    uint32_t type = cursor_u32(&r->c);
    t->at = cursor_u64(&r->c);
    if (r->c.failed) return cut(r, t->name);
    if (read_type(r, t, type, &block, &bytes)) return -1;
    if (t->dims[n_dims - 1] % (uint64_t)block)
        return fail(r->e, "%s: tensor %s: rows of %llu weights are no whole number of %s blocks of %d", r->g->path, t->name,
                    ULL(t->dims[n_dims - 1]), t->dtype, block);
    if (mul_overflows(t->n / (uint64_t)block, (uint64_t)bytes, &t->bytes))
        return fail(r->e, "%s: tensor %s: its size overflows 64 bits", r->g->path, t->name);
    return 0;
}

static int read_tensors(reader *r, uint64_t n) {
    if (n > (r->c.n - r->c.at) / 33) /* the least that a name, one dimension, type and offset take */
        return fail(r->e, "%s: claims %llu tensors, more than its %zu bytes can hold: truncated or damaged; fetch it again",
                    r->g->path, ULL(n), r->c.n);
    r->s->tensors = calloc((size_t)n + 1, sizeof *r->s->tensors);
    if (!r->s->tensors) return fail_memory(r->e, (size_t)n * sizeof *r->s->tensors, "the list of tensors");
    r->s->cap = (size_t)n + 1;
    for (uint64_t i = 0; i < n; i++) {
        if (read_tensor(r, &r->s->tensors[i])) return -1;
        r->s->n++;
    }
    return 0;
}

static int by_place(const void *a, const void *b) {
    const st_tensor *x = a, *y = b;
    return x->at != y->at ? x->at < y->at ? -1 : 1 : 0;
}

/* Offsets to places in the file; each tensor inside it, aligned, none over another. */
static int place_tensors(reader *r, uint64_t alignment) {
    uint64_t data = round_up(r->c.at, alignment), end = data;
    const char *before = "the header";
    for (size_t i = 0; i < r->s->n; i++) {
        st_tensor *t = &r->s->tensors[i];
        uint64_t last;
        if (t->at % alignment)
            return fail(r->e, "%s: tensor %s: its data begin at %llu, which is no multiple of the alignment, %llu", r->g->path,
                        t->name, ULL(t->at), ULL(alignment));
        if (add_overflows(t->at, data, &t->at) || add_overflows(t->at, t->bytes, &last) || last > r->c.n)
            return fail(
                r->e,
                "%s: tensor %s: its %llu bytes of data end beyond the end of the file (%zu bytes): truncated or damaged; fetch "
                "it again",
                r->g->path, t->name, ULL(t->bytes), r->c.n);
    }
    qsort(r->s->tensors, r->s->n, sizeof *r->s->tensors, by_place);
    for (size_t i = 0; i < r->s->n; i++) {
        const st_tensor *t = &r->s->tensors[i];
        if (t->at < end) return fail(r->e, "%s: tensor %s and %s overlap in the file", r->g->path, t->name, before);
        end = t->at + t->bytes;
        before = t->name;
    }
    return safetensors_sort(r->s, r->e);
}

/* ---- the file ---- */

static int check_parts(const reader *r) {
    int64_t parts;
    if (gguf_int(gguf_find(r->g, "split.count"), 0, &parts) || parts <= 1) return 0;
    return fail(r->e, "%s: is one of %lld parts of a model; join them first (llama-gguf-split --merge)", r->g->path,
                (long long)parts);
}

static int read_alignment(const reader *r, uint64_t *alignment) {
    const gguf_value *v = gguf_find(r->g, "general.alignment");
    int64_t x = DEFAULT_ALIGNMENT;
    if (v && (gguf_int(v, 0, &x) || x < 1 || x > MAX_ALIGNMENT || (x & (x - 1))))
        return fail(r->e, "%s: general.alignment: expected a power of two up to %d, found %lld", r->g->path, MAX_ALIGNMENT,
                    (long long)x);
    *alignment = (uint64_t)x;
    return 0;
}

static int read_all(reader *r) {
    const char *path = r->g->path;
    if (lfs_pointer(r->c.p, r->c.n))
        return fail(r->e, "%s: is a git-LFS pointer, not the file itself; fetch it with `git lfs pull`", path);
    const void *magic = cursor_take(&r->c, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0) return fail(r->e, "%s: is no GGUF file: it does not begin with \"GGUF\"", path);
    r->g->version = cursor_u32(&r->c);
    if (!r->c.failed && r->g->version && !(r->g->version & 0xffff))
        return fail(r->e, "%s: is a big-endian GGUF file; take the little-endian one", path);
    if (!r->c.failed && r->g->version != 2 && r->g->version != 3)
        return fail(r->e, "%s: GGUF version %u is not read; expected 2 or 3: fetch a newer file", path, r->g->version);
    uint64_t n_tensors = cursor_u64(&r->c), n_values = cursor_u64(&r->c), alignment = DEFAULT_ALIGNMENT;
    if (r->c.failed) return cut(r, "the GGUF header");
    return read_values(r, n_values) || check_parts(r) || read_alignment(r, &alignment) || read_tensors(r, n_tensors) ||
                   place_tensors(r, alignment)
               ? -1
               : 0;
}

int gguf_open(gguf *g, safetensors *s, const char *path, err *e) {
    *g = (gguf){ .path = path };
    *s = (safetensors){ .shards = calloc(1, sizeof *s->shards) };
    if (!s->shards) return fail_memory(e, sizeof *s->shards, "a GGUF file");
    int rc = map_file(path, &s->shards->map, e);
    if (!rc) {
        s->n_shards = 1;
        s->shards->path = g->path = arena_copy(&s->mem, path, strlen(path));
        reader r = { g, s, { s->shards->map.p, s->shards->map.n, 0, false }, e };
        rc = g->path ? read_all(&r) : fail_memory(e, strlen(path), "a path");
    }
    if (rc) {
        safetensors_close(s);
        *g = (gguf){ 0 };
    }
    return rc;
}

bool gguf_magic(const char *path) {
    char start[4];
    FILE *f = open_regular(path);
    bool yes = f && fread(start, 1, sizeof start, f) == sizeof start && memcmp(start, "GGUF", sizeof start) == 0;
    if (f) fclose(f);
    return yes;
}

/* ---- values ---- */

const gguf_value *gguf_find(const gguf *g, const char *key) {
    gguf_value wanted = { .key = key };
    return g->n_values ? bsearch(&wanted, g->values, g->n_values, sizeof wanted, by_key) : NULL;
}

static uint64_t little(const uint8_t *p, int bytes) {
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

int gguf_int(const gguf_value *v, uint64_t item, int64_t *out) {
    if (!v || item >= v->n || !kinds[v->item].bytes) return -1;
    int bytes = kinds[v->item].bytes;
    uint64_t u = little(v->at + item * (uint64_t)bytes, bytes);
    switch (v->item) {
    case GGUF_I8:
        *out = (int8_t)u;
        return 0;
    case GGUF_I16:
        *out = (int16_t)u;
        return 0;
    case GGUF_I32:
        *out = (int32_t)u;
        return 0;
    case GGUF_I64:
        *out = (int64_t)u;
        return 0;
    case GGUF_BOOL:
        *out = u != 0;
        return 0;
    case GGUF_F32:
    case GGUF_F64:
        return -1;
    default:
        *out = (int64_t)u;
        return u > INT64_MAX ? -1 : 0;
    }
}

int gguf_num(const gguf_value *v, uint64_t item, double *out) {
    int64_t whole;
    if (!v || item >= v->n) return -1;
    if (v->item == GGUF_F32) {
        float x;
        memcpy(&x, v->at + item * sizeof x, sizeof x);
        return *out = x, 0;
    }
    if (v->item == GGUF_F64) return memcpy(out, v->at + item * sizeof *out, sizeof *out), 0;
    if (gguf_int(v, item, &whole)) return -1;
    return *out = (double)whole, 0;
}

int gguf_text(const gguf_value *v, const char **text, size_t *n) {
    if (!v || v->kind != GGUF_STRING) return -1;
    *text = (const char *)v->at + 8;
    *n = v->bytes - 8;
    return 0;
}

bool gguf_next(const gguf_value *v, size_t *at, const char **text, size_t *n) {
    if (!v || v->kind != GGUF_ARRAY || v->item != GGUF_STRING || *at >= v->bytes) return false;
    *n = (size_t)little(v->at + *at, 8);
    *text = (const char *)v->at + *at + 8;
    *at += 8 + *n;
    return true;
}

const char *gguf_kind_name(const gguf_value *v) { return v ? kinds[v->kind].name : "missing"; }
