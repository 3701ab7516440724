/* safetensors: the format is 8 bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, the data
 * (huggingface/safetensors). Files come from strangers: every number is checked against the file before it is used. It owns
 * the mappings. It must not know what tensors are for. */
#include "weights/safetensors.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "weights/blocks.h"
#include "weights/file.h"

enum { MAX_SHARDS = 4096, INDEX_LIMIT = 64 << 20 };
static const uint64_t header_limit = 100000000; /* that of the reference implementation */

#define ULL(x) ((unsigned long long)(x))

static const struct {
    const char *name;
    st_type type;
    int bits;
} dtypes[] = { { "F32", ST_F32, 32 },      { "F64", ST_F64, 64 },      { "F16", ST_F16, 16 },      { "BF16", ST_BF16, 16 },
               { "I64", ST_OTHER, 64 },    { "I32", ST_OTHER, 32 },    { "I16", ST_OTHER, 16 },    { "I8", ST_OTHER, 8 },
               { "U64", ST_OTHER, 64 },    { "U32", ST_OTHER, 32 },    { "U16", ST_OTHER, 16 },    { "U8", ST_OTHER, 8 },
               { "BOOL", ST_OTHER, 8 },    { "F8_E4M3", ST_OTHER, 8 }, { "F8_E5M2", ST_OTHER, 8 }, { "F8_E8M0", ST_OTHER, 8 },
               { "F6_E2M3", ST_OTHER, 6 }, { "F6_E3M2", ST_OTHER, 6 }, { "F4", ST_OTHER, 4 },      { "C64", ST_OTHER, 64 } };

/* ---- one entry of a header ---- */

static int whole_number(const json *j, uint64_t *out) {
    int64_t v;
    if (!j || json_int(j, &v) || v < 0) return -1;
    return *out = (uint64_t)v, 0;
}

static int parse_dtype(st_tensor *t, const json *entry, int *bits, const char *path, err *e) {
    const json *dtype = json_get(entry, "dtype");
    if (!dtype || dtype->type != JSON_STRING)
        return fail(e, "%s: tensor %s: dtype: expected a string, found %s", path, t->name, json_type_name(dtype));
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (json_is(dtype, dtypes[i].name)) {
            t->dtype = dtypes[i].name;
            t->type = dtypes[i].type;
            return *bits = dtypes[i].bits, 0;
        }
    return fail(e, "%s: tensor %s: unknown dtype \"%.40s\"", path, t->name, dtype->s);
}

static int parse_shape(st_tensor *t, const json *entry, const char *path, err *e) {
    const json *shape = json_get(entry, "shape");
    if (!shape || shape->type != JSON_ARRAY)
        return fail(e, "%s: tensor %s: shape: expected a list, found %s", path, t->name, json_type_name(shape));
    if (shape->n > ST_MAX_DIMS)
        return fail(e, "%s: tensor %s: shape has %u dimensions, expected at most %d", path, t->name, shape->n, ST_MAX_DIMS);
    t->n = 1;
    for (const json *d = shape->child; d; d = d->next) {
        uint64_t *dim = &t->dims[t->n_dims++];
        if (whole_number(d, dim))
            return fail(e, "%s: tensor %s: shape: expected whole numbers from 0, found %.40s", path, t->name,
                        d->s ? d->s : json_type_name(d));
        if (mul_overflows(t->n, *dim, &t->n))
            return fail(e, "%s: tensor %s: the product of its shape overflows 64 bits", path, t->name);
    }
    return 0;
}

/* Offsets count from the end of the header; data is the number of bytes there. */
static int parse_offsets(st_tensor *t, const json *entry, int bits, uint64_t data_at, uint64_t data, const char *path, err *e) {
    const json *offsets = json_get(entry, "data_offsets");
    uint64_t from, to, size;
    if (!offsets || offsets->type != JSON_ARRAY || offsets->n != 2 || whole_number(offsets->child, &from) ||
        whole_number(offsets->child->next, &to))
        return fail(e, "%s: tensor %s: data_offsets: expected two whole numbers", path, t->name);
    if (from > to)
        return fail(e, "%s: tensor %s: its data ends at %llu, before it begins at %llu", path, t->name, ULL(to), ULL(from));
    if (to > data)
        return fail(e,
                    "%s: tensor %s: its data ends at byte %llu, beyond the end of the file's data at %llu: the file is truncated "
                    "or damaged; fetch it again",
                    path, t->name, ULL(to), ULL(data));
    if (mul_overflows(t->n, (uint64_t)bits, &size) || size % 8 || size / 8 != to - from)
        return fail(e, "%s: tensor %s: its shape and dtype %s make %llu bytes, its data has %llu", path, t->name, t->dtype,
                    ULL(size / 8), ULL(to - from));
    t->at = data_at + from;
    t->bytes = to - from;
    return 0;
}

static st_tensor *new_tensor(safetensors *s, err *e) {
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 256;
        st_tensor *p = realloc(s->tensors, cap * sizeof *p);
        if (!p) return fail_memory(e, cap * sizeof *p, "the list of tensors"), NULL;
        s->tensors = p;
        s->cap = cap;
    }
    st_tensor *t = &s->tensors[s->n++];
    *t = (st_tensor){ .shard = s->n_shards - 1 };
    return t;
}

/* ---- one file ---- */

static int by_place(const void *a, const void *b) {
    const st_tensor *x = a, *y = b;
    return x->at != y->at ? x->at < y->at ? -1 : 1 : x->bytes != y->bytes ? x->bytes < y->bytes ? -1 : 1 : 0;
}

static int by_name(const void *a, const void *b) { return strcmp(((const st_tensor *)a)->name, ((const st_tensor *)b)->name); }

/* Sorts the tensors from `first` on by name; no two may be alike. */
static int sort_names(safetensors *s, size_t first, err *e) {
    if (s->n > first) qsort(s->tensors + first, s->n - first, sizeof *s->tensors, by_name);
    for (size_t i = first + 1; i < s->n; i++)
        if (strcmp(s->tensors[i].name, s->tensors[i - 1].name) == 0) {
            const char *a = s->shards[s->tensors[i - 1].shard].path, *b = s->shards[s->tensors[i].shard].path;
            return a == b ? fail(e, "%s: tensor %s is listed twice", a, s->tensors[i].name)
                          : fail(e, "tensor %s is listed twice: in %s and in %s", s->tensors[i].name, a, b);
        }
    return 0;
}

/* The data must be covered by its tensors, each byte once, as the format demands. */
static int check_cover(const safetensors *s, size_t first, uint64_t data_at, const char *path, err *e) {
    if (s->n > first) qsort(s->tensors + first, s->n - first, sizeof *s->tensors, by_place);
    uint64_t at = data_at, end = s->shards[s->n_shards - 1].map.n;
    const char *before = "the header";
    for (size_t i = first; i < s->n; i++) {
        const st_tensor *t = &s->tensors[i];
        if (t->at < at) return fail(e, "%s: tensor %s and %s overlap in the file", path, t->name, before);
        if (t->at > at)
            return fail(e, "%s: %llu bytes between %s and tensor %s belong to no tensor", path, ULL(t->at - at), before, t->name);
        at = t->at + t->bytes;
        before = t->name;
    }
    return at == end ? 0 : fail(e, "%s: %llu bytes after tensor %s belong to no tensor", path, ULL(end - at), before);
}

static int parse_header(safetensors *s, const json *root, uint64_t data_at, const char *path, err *e) {
    uint64_t data = s->shards[s->n_shards - 1].map.n - data_at;
    size_t first = s->n;
    for (const json *entry = root->child; entry; entry = entry->next) {
        if (strcmp(entry->key, "__metadata__") == 0) continue;
        if (entry->key_n != strlen(entry->key) || !entry->key_n)
            return fail(e, "%s: header: malformed tensor name \"%.80s\"", path, entry->key);
        if (entry->type != JSON_OBJECT)
            return fail(e, "%s: header: tensor %s: expected an object, found %s", path, entry->key, json_type_name(entry));
        st_tensor *t = new_tensor(s, e);
        int bits = 0;
        if (!t) return -1;
        t->name = entry->key;
        if (parse_dtype(t, entry, &bits, path, e) || parse_shape(t, entry, path, e) ||
            parse_offsets(t, entry, bits, data_at, data, path, e))
            return -1;
    }
    return sort_names(s, first, e) || check_cover(s, first, data_at, path, e) ? -1 : 0;
}

static int open_shard(safetensors *s, const char *path, err *e) {
    struct st_shard *shard = &s->shards[s->n_shards];
    if (map_file(path, &shard->map, e)) return -1;
    shard->path = path;
    s->n_shards++;
    const uint8_t *p = shard->map.p;
    size_t n = shard->map.n;
    if (lfs_pointer(p, n)) return fail(e, "%s: is a git-LFS pointer, not the file itself; fetch it with `git lfs pull`", path);
    if (n < 8) return fail(e, "%s: too short: %zu bytes, expected a safetensors file; fetch it again", path, n);
    cursor c = { p, n, 0, false };
    uint64_t length = cursor_u64(&c);
    if (length > n - 8 || length > header_limit)
        return fail(e,
                    "%s: its header claims %llu bytes, the file has %zu after the length (at most %llu are read): truncated, or "
                    "not a safetensors file",
                    path, ULL(length), n - 8, ULL(header_limit));
    json *root;
    err inner = { 0 };
    if (json_parse(&s->mem, (const char *)p + 8, (size_t)length, &root, &inner))
        return fail_code(e, inner.code, "%s: header: %s", path, inner.msg);
    if (root->type != JSON_OBJECT) return fail(e, "%s: header: expected a JSON object, found %s", path, json_type_name(root));
    return parse_header(s, root, 8 + length, path, e);
}

/* ---- shards and their index ---- */

/* "a.safetensors" or "sub/a.safetensors", never a way out of the folder. */
static bool inside_folder(const char *name) {
    if (!*name || *name == '/') return false;
    for (const char *p = name; p; p = strchr(p, '/')) {
        p += *p == '/';
        if (p[0] == '.' && p[1] == '.' && (p[2] == '/' || !p[2])) return false;
    }
    return true;
}

static int shard_index(const safetensors *s, const char *path) {
    for (int i = 0; i < s->n_shards; i++)
        if (strcmp(s->shards[i].path, path) == 0) return i;
    return -1;
}

/* Opens each file that weight_map names, once. */
static int open_shards(safetensors *s, const char *folder, const char *index, const json *map, err *e) {
    for (const json *entry = map->child; entry; entry = entry->next) {
        if (entry->type != JSON_STRING)
            return fail(e, "%s: weight_map: %s: expected a file name, found %s", index, entry->key, json_type_name(entry));
        if (entry->n != strlen(entry->s) || !inside_folder(entry->s))
            return fail(e, "%s: weight_map: %s: the file \"%.200s\" is outside the checkpoint's folder", index, entry->key,
                        entry->s);
        char *path = path_join(&s->mem, folder, entry->s);
        if (!path) return fail_memory(e, entry->n, "a path");
        if (shard_index(s, path) >= 0) continue;
        if (s->n_shards == MAX_SHARDS) return fail(e, "%s: more than %d shards", index, MAX_SHARDS);
        if (!file_exists(path)) return fail(e, "%s: is missing; %s names it: fetch the whole checkpoint", path, index);
        if (open_shard(s, path, e)) return -1;
    }
    return 0;
}

static int open_index(safetensors *s, const char *folder, const char *index, err *e) {
    buf text = { 0 };
    json *root = NULL;
    err inner = { 0 };
    int rc = read_file(index, INDEX_LIMIT, &text, e);
    if (!rc && lfs_pointer(text.p, text.n))
        rc = fail(e, "%s: is a git-LFS pointer, not the file itself; fetch it with `git lfs pull`", index);
    if (!rc && json_parse(&s->mem, text.p, text.n, &root, &inner)) rc = fail_code(e, inner.code, "%s: %s", index, inner.msg);
    buf_free(&text);
    if (rc) return rc;
    const json *map = json_get(root, "weight_map");
    if (!map || map->type != JSON_OBJECT || !map->n)
        return fail(e, "%s: weight_map: expected an object of tensor names and files, found %s", index, json_type_name(map));
    if (open_shards(s, folder, index, map, e) || sort_names(s, 0, e)) return -1;
    for (const json *entry = map->child; entry; entry = entry->next) {
        const st_tensor *t = safetensors_find(s, entry->key);
        char *path = path_join(&s->mem, folder, entry->s);
        if (!path) return fail_memory(e, entry->n, "a path");
        if (!t || strcmp(s->shards[t->shard].path, path) != 0)
            return fail(e, "%s: lacks tensor %s, which %s says it holds", path, entry->key, index);
    }
    return 0;
}

/* ---- the folder ---- */

/* Says what lies there instead of safetensors. */
static int refuse_folder(const char *folder, err *e) {
    DIR *d = opendir(folder);
    char pickled[256] = "", gguf[256] = "", other[256] = "";
    for (struct dirent *f; d && (f = readdir(d));) {
        const char *name = f->d_name;
        bool pickle = (has_ending(name, ".bin") && strncmp(name, "pytorch_model", 13) == 0) || has_ending(name, ".pth") ||
                      has_ending(name, ".pt") || has_ending(name, ".ckpt");
        if (pickle) snprintf(pickled, sizeof pickled, "%s", name);
        else if (has_ending(name, ".gguf")) snprintf(gguf, sizeof gguf, "%s", name);
        else if (has_ending(name, ".safetensors")) snprintf(other, sizeof other, "%s", name);
    }
    if (d) closedir(d);
    if (*other)
        return fail(
            e, "%s: no model.safetensors or model.safetensors.index.json, only %s; fetch the checkpoint in the HuggingFace layout",
            folder, other);
    if (*pickled)
        return fail(e,
                    "%s: its weights are pickled (%s); convert them to safetensors first (load them with transformers and "
                    "save_pretrained, which writes model.safetensors)",
                    folder, pickled);
    if (*gguf)
        return fail(e, "%s: no safetensors here, but a GGUF file: give that file itself, %s/%s", folder, folder, gguf);
    return fail(
        e,
        "%s: no model.safetensors or model.safetensors.index.json here; expected a HuggingFace checkpoint with safetensors weights",
        folder);
}

int safetensors_open(safetensors *s, const char *folder, err *e) {
    *s = (safetensors){ 0 };
    char *one = path_join(&s->mem, folder, "model.safetensors"),
         *index = path_join(&s->mem, folder, "model.safetensors.index.json");
    s->shards = calloc(MAX_SHARDS, sizeof *s->shards);
    int rc;
    if (!one || !index || !s->shards) rc = fail_memory(e, MAX_SHARDS * sizeof *s->shards, "the list of shards");
    else if (file_exists(one)) rc = open_shard(s, one, e) || sort_names(s, 0, e) ? -1 : 0;
    else if (file_exists(index)) rc = open_index(s, folder, index, e);
    else rc = refuse_folder(folder, e);
    if (rc) safetensors_close(s);
    return rc;
}

int safetensors_open_file(safetensors *s, const char *path, err *e) {
    *s = (safetensors){ .shards = calloc(1, sizeof *s->shards) };
    char *copy = arena_copy(&s->mem, path, strlen(path));
    int rc = s->shards && copy ? open_shard(s, copy, e) || sort_names(s, 0, e) : fail_memory(e, strlen(path), "a list of one shard");
    if (rc) safetensors_close(s);
    return rc ? -1 : 0;
}

void safetensors_close(safetensors *s) {
    for (int i = 0; i < s->n_shards; i++)
        if (!s->shards[i].borrowed) unmap_file(&s->shards[i].map);
    free(s->shards);
    free(s->tensors);
    arena_free(&s->mem);
    *s = (safetensors){ 0 };
}

int safetensors_sort(safetensors *s, err *e) { return sort_names(s, 0, e); }

/* The number of from's shard in s, as a borrowed one where it is not there yet; -1: no memory. */
static int borrow_shard(safetensors *s, const struct st_shard *shard, err *e) {
    for (int i = 0; i < s->n_shards; i++)
        if (s->shards[i].map.p == shard->map.p) return i;
    size_t bytes = ((size_t)s->n_shards + 1) * sizeof *s->shards;
    struct st_shard *list = realloc(s->shards, bytes);
    if (!list) return fail_memory(e, bytes, "a list of files");
    s->shards = list;
    list[s->n_shards] = *shard;
    list[s->n_shards].borrowed = true;
    return s->n_shards++;
}

int safetensors_put(safetensors *s, const char *name, const safetensors *from, const st_tensor *t, err *e) {
    st_tensor put = *t;
    const st_tensor *old = safetensors_find(s, name);
    put.name = name;
    if ((put.shard = borrow_shard(s, &from->shards[t->shard], e)) < 0) return -1;
    if (old) return s->tensors[old - s->tensors] = put, 0;
    st_tensor *more = new_tensor(s, e);
    if (!more) return -1;
    *more = put;
    return safetensors_sort(s, e);
}

const st_tensor *safetensors_find(const safetensors *s, const char *name) {
    st_tensor key = { .name = name };
    return s->n ? bsearch(&key, s->tensors, s->n, sizeof key, by_name) : NULL;
}

/* ---- values: files give no alignment, so each is copied out ---- */

static void read_halves(st_type type, const uint8_t *p, uint64_t n, float *out) {
    for (uint64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + i * 2, sizeof h);
        if (type == ST_F16) out[i] = f16_to_f32(h);
        else {
            uint32_t wide = (uint32_t)h << 16; /* bf16_to_f32, where the compiler can see it: nearly every checkpoint passes here */
            memcpy(&out[i], &wide, sizeof wide);
        }
    }
}

/* A run may begin and end inside a block. */
static void read_blocks(st_type type, const uint8_t *p, uint64_t first, uint64_t n, float *out) {
    const block_type *b = block_of(type);
    uint64_t size = (uint64_t)b->weights;
    float part[BLOCK_MAX];
    while (n) {
        const uint8_t *block = p + first / size * (uint64_t)b->bytes;
        uint64_t skip = first % size, take = size - skip < n ? size - skip : n;
        if (take == size) block_read(type, block, out);
        else {
            block_read(type, block, part);
            memcpy(out, part + skip, take * sizeof *out);
        }
        first += take;
        out += take;
        n -= take;
    }
}

/* Elements as they lie in the file. */
static void read_run(const safetensors *s, const st_tensor *t, uint64_t first, uint64_t n, float *out) {
    const uint8_t *p = s->shards[t->shard].map.p + t->at;
    switch (t->type) {
    case ST_F32:
        if (n) memcpy(out, p + first * 4, n * 4);
        break;
    case ST_F64:
        for (uint64_t i = 0; i < n; i++) {
            double x;
            memcpy(&x, p + (first + i) * 8, sizeof x);
            out[i] = (float)x;
        }
        break;
    case ST_F16:
    case ST_BF16: read_halves(t->type, p + first * 2, n, out); break;
    default: read_blocks(t->type, p, first, n, out);
    }
}

static uint64_t row_length(const st_tensor *t) { return t->n_dims > 1 ? t->n / t->dims[0] : 1; }

/* Where a file of queries, keys and values has a row of the groups of them. */
static uint64_t stored_group_row(const st_tensor *t, uint64_t row) {
    uint64_t hd = t->head, group = t->group, step = (group + 2) * hd, g = row / step, in = row % step, n = t->dims[0] / step;
    if (in < group * hd) return g * group * hd + in;
    return (group * n + (in < (group + 1) * hd ? 0 : n) + g) * hd + in % hd;
}

/* Where the file has row `row` of what is wanted. */
static uint64_t stored_row(const st_tensor *t, uint64_t row) {
    if (t->group) return stored_group_row(t, row);
    uint64_t in = row % t->head, half = t->head / 2;
    return row - in + in % half * 2 + in / half;
}

void st_read(const safetensors *s, const st_tensor *t, uint64_t first, uint64_t n, float *out) {
    uint64_t k = t->n ? row_length(t) : 1;
    if (t->transposed)
        for (uint64_t i = first; i < first + n; i++) read_run(s, t, i % k * t->dims[0] + i / k, 1, out + (i - first));
    else if (t->head)
        for (uint64_t at = first, take; at < first + n; at += take) {
            take = k - at % k < first + n - at ? k - at % k : first + n - at;
            read_run(s, t, stored_row(t, at / k) * k + at % k, take, out + (at - first));
        }
    else read_run(s, t, first, n, out);
    if (t->plus != 0)
        for (uint64_t i = 0; i < n; i++) out[i] += t->plus;
}

void st_drop(const safetensors *s, const st_tensor *t, uint64_t first, uint64_t n) {
    const block_type *b = block_of(t->type);
    uint64_t end = first + n;
    if (!b || !n || ((t->transposed || t->group) && n < t->n)) return; /* a column is on every page, a group's rows are far apart */
    if (t->head && !t->group) { /* whole heads */
        uint64_t step = t->head * row_length(t);
        first -= first % step;
        end = (end + step - 1) / step * step;
    }
    uint64_t size = (uint64_t)b->weights, bytes = (uint64_t)b->bytes;
    uint64_t from = first / size * bytes, to = (end + size - 1) / size * bytes;
    drop_pages(&s->shards[t->shard].map, t->at + from, (to < t->bytes ? to : t->bytes) - from);
}
