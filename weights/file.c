/* file: a quern model file, mapped and checked to the byte before anything trusts it, and written as a stream. It owns the
 * layout that FORMAT.md describes. It must not know arithmetic, architectures or tokenizers: records are typed values under a
 * key, a tensor is a name, a shape and a run of bytes. The writer is file_write.c.
 * The one idea: there is exactly one layout for a given content (sections and tensors in order, without gaps), so that a check
 * is a comparison with what the layout must be, and nothing can overlap or hide. */
#define _GNU_SOURCE
#include "weights/file.h"
#include "weights/layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MAX_RECORDS = 4096 };

#define ULL(x) ((unsigned long long)(x))

/* ---- what reading and writing share ---- */

int tensor_bytes(wtype type, wlayout layout, int n_dims, uint64_t n, uint64_t k, uint64_t *bytes) {
    *bytes = 0;
    if ((unsigned)type >= W_COUNT || n < 1 || n > INT32_MAX - FORMAT_TENSOR_ALIGN) return -1;
    if (n_dims == 1) return type == W_F32 && k == 0 ? *bytes = round_up(n, GROUP) * sizeof(float), 0 : -1;
    if (n_dims != 2 || k < 1 || k > INT32_MAX - FORMAT_TENSOR_ALIGN) return -1;
    return matrix_bytes(type, layout, n, k, bytes);
}

bool tensor_name_valid(const char *name, size_t n) {
    if (n < 1 || n >= FORMAT_NAME) return false;
    for (size_t i = 0; i < n; i++)
        if (name[i] <= ' ' || name[i] > '~') return false;
    return true;
}

int meta_layout(const file_header *h, file_header *want) {
    *want = *h;
    want->records_at = sizeof *h;
    uint64_t end, rows;
    if (add_overflows(want->records_at, h->records_bytes, &end) || end > INT64_MAX) return -1;
    want->tokenizer_at = round_up(end, FORMAT_TENSOR_ALIGN);
    if (add_overflows(want->tokenizer_at, h->tokenizer_bytes, &end) || end > INT64_MAX) return -1;
    want->table_at = round_up(end, FORMAT_TENSOR_ALIGN);
    if (mul_overflows(h->n_tensors, sizeof(file_tensor), &rows) || add_overflows(want->table_at, rows, &end) || end > INT64_MAX)
        return -1;
    want->data_at = round_up(end, FORMAT_DATA_ALIGN);
    return 0;
}

uint64_t meta_hash(const uint8_t *p, size_t n) {
    static const uint64_t zero;
    size_t at = offsetof(file_header, meta_hash), after = at + sizeof zero;
    hash64 h;
    hash_begin(&h);
    hash_add(&h, p, at);
    hash_add(&h, &zero, sizeof zero);
    hash_add(&h, p + after, n - after);
    return hash_end(&h);
}

static void advise(const mapping *m, uint64_t at, uint64_t n, int advice) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), first = at / page * page;
    if (m->p && n && at < m->n && !m->copied) madvise((void *)(uintptr_t)(m->p + first), (size_t)(at + n - first), advice);
}

void drop_pages(const mapping *m, uint64_t at, uint64_t n) { advise(m, at, n, MADV_DONTNEED); }

void lone_pages(const mapping *m, uint64_t at, uint64_t n) {
    advise(m, at, n, MADV_RANDOM);
#ifdef MADV_NOHUGEPAGE
    advise(m, at, n, MADV_NOHUGEPAGE); /* else a touched byte maps 2 MiB of what the file's cache holds in one piece */
#endif
}

bool lfs_pointer(const void *p, size_t n) {
    static const char start[] = "version https://git-lfs";
    return n >= sizeof start - 1 && memcmp(p, start, sizeof start - 1) == 0;
}

/* ---- opening: the header ---- */

static bool all_zero(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i]) return false;
    return true;
}

static int refuse_magic(const file *f, err *e) {
    const uint8_t *p = f->map.p;
    if (memcmp(p, "GGUF", 4) == 0)
        return fail(e, "%s: is a GGUF file, expected a quern model file; make one from the checkpoint's folder with convert",
                    f->path);
    if (lfs_pointer(p, f->map.n))
        return fail(e, "%s: is a git-LFS pointer, not the file itself; fetch it with `git lfs pull`", f->path);
    if (memcmp(p, QUERN_MAGIC, 8) == 0)
        return fail(e, "%s: cut short: it has %zu bytes; copy it again or convert again", f->path, f->map.n);
    if (memcmp(p, QUERN_MAGIC, 6) == 0)
        return fail(e, "%s: its first bytes were changed, as a transfer in text mode does; copy it in binary mode or convert again",
                    f->path);
    return fail(e, "%s: is not a quern model file (its first bytes are not \\x7fQUERN); make one with convert", f->path);
}

static int check_header(const file *f, err *e) {
    const file_header *h = f->header;
    if (memcmp(h->magic, QUERN_MAGIC, sizeof h->magic) != 0) return refuse_magic(f, e);
    if (h->version < FORMAT_OLDEST || h->version > FORMAT_VERSION)
        return fail(e, "%s: format version %u, this program reads versions %d to %d; convert again with the convert of this version",
                    f->path, h->version, FORMAT_OLDEST, FORMAT_VERSION);
    if (h->header_bytes != sizeof *h || h->row_bytes != sizeof(file_tensor))
        return fail(e, "%s: damaged: header of %u bytes and table rows of %u, expected %zu and %zu; convert again", f->path,
                    h->header_bytes, h->row_bytes, sizeof *h, sizeof(file_tensor));
    if (h->file_bytes != f->map.n)
        return fail(e, "%s: %s: expected %llu bytes, found %zu; copy it again or convert again", f->path,
                    f->map.n < h->file_bytes ? "cut short" : "too long", ULL(h->file_bytes), f->map.n);
    file_header want;
    if (meta_layout(h, &want) || memcmp(h, &want, sizeof want) != 0 || h->data_at > f->map.n)
        return fail(e, "%s: damaged: the places of its sections contradict their sizes (data at %llu of %zu bytes); convert again",
                    f->path, ULL(h->data_at), f->map.n);
    uint64_t hash = meta_hash(f->map.p, h->data_at);
    if (hash != h->meta_hash)
        return fail(e,
                    "%s: damaged: the hash of its header and tables is %016llx, expected %016llx; copy it again or convert again",
                    f->path, ULL(hash), ULL(h->meta_hash));
    if (!all_zero(h->reserved, sizeof h->reserved))
        return fail(e, "%s: damaged: reserved bytes of the header are not zero; convert again", f->path);
    return 0;
}

/* ---- records ---- */

/* Takes the record at *at out of n bytes; 0, or -1 where its bytes are not as they must be. */
static int take_record(const uint8_t *p, size_t n, size_t *at, record *out) {
    if (n - *at < 8) return -1;
    const uint8_t *head = p + *at;
    *out = (record){ .key = (const char *)head + 8, .key_n = (size_t)head[0] | (size_t)head[1] << 8, .type = (record_type)head[2] };
    memcpy(&out->count, head + 4, sizeof out->count);
    if (head[3] || !tensor_name_valid(out->key, n - *at - 8 < out->key_n ? 0 : out->key_n)) return -1;
    if (out->type != REC_I64 && out->type != REC_F64 && out->type != REC_BYTES) return -1;
    size_t key_end = *at + 8 + out->key_n, values = round_up(key_end, 8);
    uint64_t bytes = (uint64_t)out->count * (out->type == REC_BYTES ? 1 : 8);
    if (values > n || bytes > n - values || round_up(bytes, 8) > n - values) return -1;
    out->values = p + values;
    *at = values + round_up(bytes, 8);
    return all_zero(p + key_end, values - key_end) && all_zero(p + values + bytes, *at - values - bytes) ? 0 : -1;
}

bool record_next(const file *f, size_t *at, record *out) {
    return *at < f->header->records_bytes && take_record(f->map.p + f->header->records_at, f->header->records_bytes, at, out) == 0;
}

static const record *find_record(const file *f, const char *key, size_t key_n, size_t end, record *r) {
    for (size_t at = 0; at < end && record_next(f, &at, r);)
        if (r->key_n == key_n && memcmp(r->key, key, key_n) == 0) return r;
    return NULL;
}

static int check_records(const file *f, err *e) {
    const uint8_t *p = f->map.p + f->header->records_at;
    size_t n = f->header->records_bytes;
    int count = 0;
    record r, other;
    for (size_t at = 0, start = 0; at < n; start = at) {
        if (take_record(p, n, &at, &r))
            return fail(e, "%s: damaged: malformed record at byte %llu; convert again", f->path,
                        ULL(f->header->records_at + start));
        if (++count > MAX_RECORDS) return fail(e, "%s: damaged: more than %d records; convert again", f->path, MAX_RECORDS);
        if (find_record(f, r.key, r.key_n, start, &other))
            return fail(e, "%s: damaged: two records %.*s; convert again", f->path, (int)r.key_n, r.key);
    }
    return 0;
}

static int64_t typed_record(const file *f, const char *key, record_type type, const void **values) {
    record r;
    *values = NULL;
    if (!find_record(f, key, strlen(key), f->header->records_bytes, &r) || r.type != type) return -1;
    *values = r.values;
    return r.count;
}

int64_t record_i64(const file *f, const char *key, const int64_t **values) {
    return typed_record(f, key, REC_I64, (const void **)values);
}
int64_t record_f64(const file *f, const char *key, const double **values) {
    return typed_record(f, key, REC_F64, (const void **)values);
}
int64_t record_bytes(const file *f, const char *key, const char **bytes) {
    return typed_record(f, key, REC_BYTES, (const void **)bytes);
}

/* ---- the tensor table ---- */

struct name_index {
    uint32_t mask;
    uint32_t slot[]; /* row + 1, 0: free; open addressing, at most half full */
};

/* The slot where name is, or where it would be put. */
static uint32_t *index_slot(const file *f, const char *name) {
    struct name_index *x = f->index;
    uint32_t i = (uint32_t)hash_bytes(name, strlen(name)) & x->mask;
    while (x->slot[i] && strcmp(f->tensors[x->slot[i] - 1].name, name) != 0) i = (i + 1) & x->mask;
    return &x->slot[i];
}

static int index_new(file *f, err *e) {
    size_t slots = 16;
    while (slots / 2 < f->n_tensors) slots *= 2;
    size_t bytes = sizeof(struct name_index) + slots * sizeof(uint32_t);
    if (!(f->index = calloc(1, bytes))) return fail_memory(e, bytes, "the index of tensor names");
    f->index->mask = (uint32_t)(slots - 1);
    return 0;
}

int file_index(file *f, err *e) {
    if (index_new(f, e)) return -1;
    for (uint32_t i = 0; i < f->n_tensors; i++) *index_slot(f, f->tensors[i].name) = i + 1;
    return 0;
}

const file_tensor *file_find(const file *f, const char *name) {
    uint32_t row = *index_slot(f, name);
    return row ? &f->tensors[row - 1] : NULL;
}

/* f32 is always plain rows. Of other types there were none before version 2. */
static bool layout_fits(const file_tensor *t, uint32_t version) {
    return t->layout == (t->type == W_F32 ? LAYOUT_ROWS : LAYOUT_P16) || (t->layout == LAYOUT_ROWS && version >= 2);
}

/* What a row says by itself: name, type, shape, size. Returns what is wrong, or NULL. */
static const char *row_fault(const file_tensor *t, uint32_t version) {
    size_t n = strnlen(t->name, sizeof t->name);
    uint64_t bytes;
    if (!tensor_name_valid(t->name, n) || !all_zero((const uint8_t *)t->name + n, sizeof t->name - n)) return "malformed name";
    if (t->type >= W_COUNT) return "unknown type";
    if (!layout_fits(t, version)) return "layout and type do not belong together";
    if (t->n_dims != 1 && t->n_dims != 2) return "expected 1 or 2 dimensions";
    if (t->reserved || t->reserved2) return "reserved bytes are not zero";
    if (t->type == W_F32 || t->type == W_BF16 ? t->exponent != 0 : t->exponent < -126) return "exponent out of range";
    if (tensor_bytes((wtype)t->type, (wlayout)t->layout, t->n_dims, t->dims[0], t->dims[1], &bytes)) return "impossible shape";
    if (t->bytes != bytes) return "shape and type contradict the size";
    if (t->at % FORMAT_TENSOR_ALIGN) return "data is not aligned";
    return NULL;
}

/* Earlier rows own increasing, adjacent ranges: the one that begins at `at`, or NULL. */
static const file_tensor *row_at(const file *f, uint32_t before, uint64_t at) {
    for (uint32_t i = 0; i < before; i++)
        if (f->tensors[i].at == at) return &f->tensors[i];
    return NULL;
}

static bool same_content(const file_tensor *a, const file_tensor *b) {
    return a && a->type == b->type && a->layout == b->layout && a->n_dims == b->n_dims && a->exponent == b->exponent && a->dims[0] == b->dims[0] &&
           a->dims[1] == b->dims[1] && a->bytes == b->bytes && a->hash == b->hash;
}

static int check_table(file *f, err *e) {
    uint64_t next = f->header->data_at;
    uint32_t tied = 0;
    if (index_new(f, e)) return -1;
    for (uint32_t i = 0; i < f->n_tensors; i++) {
        const file_tensor *t = &f->tensors[i];
        const char *fault = row_fault(t, f->header->version);
        if (fault)
            return fail(e, "%s: damaged: tensor %u (%.*s): %s (type %u, [%llu][%llu], %llu bytes at %llu); convert again", f->path,
                        i, FORMAT_NAME - 1, t->name, fault, t->type, ULL(t->dims[0]), ULL(t->dims[1]), ULL(t->bytes), ULL(t->at));
        uint32_t *slot = index_slot(f, t->name);
        if (*slot) return fail(e, "%s: damaged: two tensors are named %s; convert again", f->path, t->name);
        *slot = i + 1;
        if (t->at == next) {
            if (add_overflows(next, t->bytes, &next) || next > f->map.n)
                return fail(e, "%s: damaged: the data of %s (%llu bytes at %llu) passes the end of the file (%zu); convert again",
                            f->path, t->name, ULL(t->bytes), ULL(t->at), f->map.n);
        } else if (++tied > MAX_RECORDS || !same_content(row_at(f, i, t->at), t)) {
            return fail(e,
                        "%s: damaged: the data of %s is at %llu, expected %llu (after the tensor before it) or the data of an "
                        "equal tensor; convert again",
                        f->path, t->name, ULL(t->at), ULL(next));
        }
    }
    if (next != f->map.n)
        return fail(e, "%s: damaged: its tensors end at %llu, the file at %zu; convert again", f->path, ULL(next), f->map.n);
    return 0;
}

/* ---- open, close, verify ---- */

static int open_as(file *f, const char *path, bool copy, err *e) {
    *f = (file){ 0 };
    snprintf(f->path, sizeof f->path, "%s", path);
    if (map_file(path, &f->map, e)) return -1;
    if (copy && map_copy(&f->map, e)) {
        file_close(f);
        return -1;
    }
    f->header = (const file_header *)(const void *)f->map.p;
    int rc = 0;
    if (f->map.n < sizeof *f->header)
        rc = f->map.n >= 23 ? refuse_magic(f, e)
                            : fail(e, "%s: is not a quern model file: it has %zu bytes, expected at least %zu; convert again", path,
                                   f->map.n, sizeof *f->header);
    if (!rc) rc = check_header(f, e);
    if (!rc) {
        f->tensors = (const file_tensor *)(const void *)(f->map.p + f->header->table_at);
        f->n_tensors = f->header->n_tensors;
        rc = check_records(f, e) || check_table(f, e) ? -1 : 0;
    }
    if (rc) file_close(f);
    return rc;
}

int file_open(file *f, const char *path, err *e) { return open_as(f, path, false, e); }
int file_open_copy(file *f, const char *path, err *e) { return open_as(f, path, true, e); }

int file_lock(const file *f, err *e) {
    struct rlimit most = { 0 };
    if (!f->map.p || mlock(f->map.p, f->map.n) == 0) return 0;
    int why = errno;
    if ((why == ENOMEM || why == EPERM) && getrlimit(RLIMIT_MEMLOCK, &most) == 0 && most.rlim_cur != RLIM_INFINITY && most.rlim_cur < f->map.n)
        return fail(e, "%s: cannot be locked in memory: it has %.1f MB, this process may lock %.1f MB; raise the "
                       "limit (ulimit -l, or LimitMEMLOCK= of a service), or leave --lock out",
                    f->path, (double)f->map.n / 1e6, (double)most.rlim_cur / 1e6);
    return fail(e, "%s: its %.1f MB cannot be locked in memory: %s", f->path, (double)f->map.n / 1e6, strerror(why));
}

void file_close(file *f) {
    free(f->index);
    unmap_file(&f->map);
    *f = (file){ 0 };
}

int file_verify(const file *f, err *e, void (*progress)(void *, uint64_t done, uint64_t total), void *arg) {
    const uint64_t piece = 8 << 20;
    uint64_t start = f->header->data_at, total = f->map.n - start;
    for (uint32_t i = 0; i < f->n_tensors; i++) {
        const file_tensor *t = &f->tensors[i];
        if (t->at != start) continue; /* tied: its bytes were read under its first name */
        hash64 h;
        hash_begin(&h);
        for (uint64_t done = 0, n; done < t->bytes; done += n) {
            n = t->bytes - done < piece ? t->bytes - done : piece;
            hash_add(&h, f->map.p + t->at + done, n);
            drop_pages(&f->map, t->at + done, n);
            if (progress) progress(arg, t->at + done + n - f->header->data_at, total);
        }
        if (hash_end(&h) != t->hash)
            return fail(e,
                        "%s: damaged: the data of tensor %s has the hash %016llx, expected %016llx; copy it again or convert again",
                        f->path, t->name, ULL(hash_end(&h)), ULL(t->hash));
        start += t->bytes;
    }
    return 0;
}
