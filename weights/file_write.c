/* file_write: writes a model file as a stream, tensor after tensor. It owns the temporary file beside the target, which gets
 * the target's name only when it is whole and on the disk. It must not know what the tensors are for.
 * Offsets are given out when a tensor's first bytes arrive, so that a tensor may still change its type until then. */
#define _GNU_SOURCE
#include "weights/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

typedef struct row {
    file_tensor t;
    int same_as; /* a tied tensor's owner, or -1 */
    bool plain;  /* plain rows, whatever its type */
} row;

struct file_writer {
    char *path, *temporary;
    int fd; /* -1: none */
    bool force, begun, settled;
    row *rows;
    int n_rows, cap_rows;
    uint8_t *head;         /* [0, data_at): records and tokenizer, header and table at the end */
    file_header header;
    uint64_t next;         /* where the tensor being written begins */
    int current;           /* its index */
    uint64_t written;      /* bytes of it so far */
    hash64 hash;
};

/* ---- records ---- */

static void add_record(buf *b, const char *key, record_type type, const void *values, size_t count, size_t size) {
    size_t n = strlen(key);
    if (!tensor_name_valid(key, n) || count > UINT32_MAX || b->n % 8) {
        b->failed = true;
        return;
    }
    uint8_t head[4] = { (uint8_t)n, (uint8_t)(n >> 8), (uint8_t)type, 0 };
    static const uint8_t zeros[8];
    buf_add(b, head, sizeof head);
    buf_u32(b, (uint32_t)count);
    buf_add(b, key, n);
    buf_add(b, zeros, round_up(n, 8) - n);
    buf_add(b, values, count * size);
    buf_add(b, zeros, round_up(count * size, 8) - count * size);
}

void record_add_i64(buf *b, const char *key, const int64_t *values, uint32_t n) {
    add_record(b, key, REC_I64, values, n, sizeof *values);
}
void record_add_f64(buf *b, const char *key, const double *values, uint32_t n) {
    add_record(b, key, REC_F64, values, n, sizeof *values);
}
void record_add_bytes(buf *b, const char *key, const void *bytes, size_t n) { add_record(b, key, REC_BYTES, bytes, n, 1); }

/* ---- the temporary file ---- */

static int target_free(const char *path, bool force, err *e) {
    struct stat st;
    if (stat(path, &st)) return errno == ENOENT ? 0 : fail(e, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return fail(e, "%s: is not a regular file; choose another output", path);
    return force ? 0 : fail(e, "%s: exists already; choose another output, or --force to replace it", path);
}

static int make_temporary(file_writer *w, err *e) {
    size_t n = strlen(w->path) + 48;
    if (!(w->temporary = calloc(1, n))) return fail_memory(e, n, "a file name");
    for (int i = 0; i < 1000; i++) {
        snprintf(w->temporary, n, "%s.%ld-%d.tmp", w->path, (long)getpid(), i);
        w->fd = open(w->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w->fd >= 0) return 0;
        if (errno != EEXIST) break;
    }
    fail(e, "%s: cannot be created: %s", w->temporary, strerror(errno));
    free(w->temporary);
    w->temporary = NULL;
    return -1;
}

int file_write_open(file_writer **out, const char *path, bool force, err *e) {
    *out = NULL;
    if (target_free(path, force, e)) return -1;
    file_writer *w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(path))) {
        free(w);
        return fail_memory(e, sizeof *w, "a file writer");
    }
    w->fd = -1;
    w->force = force;
    if (make_temporary(w, e)) return file_write_abort(&w), -1;
    *out = w;
    return 0;
}

void file_write_abort(file_writer **w) {
    if (!*w) return;
    if ((*w)->fd >= 0) close((*w)->fd);
    if ((*w)->temporary) unlink((*w)->temporary);
    free((*w)->temporary);
    free((*w)->path);
    free((*w)->rows);
    free((*w)->head);
    free(*w);
    *w = NULL;
}

/* ---- declarations ---- */

static int declare(file_writer *w, const char *name, int same_as, err *e) {
    if (w->begun) return fail(e, "%s: tensor %s declared after the data began", w->path, name);
    if (!tensor_name_valid(name, strlen(name)))
        return fail(e, "%s: tensor %.80s: expected a name of 1 to %d printable characters", w->path, name, FORMAT_NAME - 1);
    for (int i = 0; i < w->n_rows; i++)
        if (strcmp(w->rows[i].t.name, name) == 0) return fail(e, "%s: tensor %s declared twice", w->path, name);
    if (w->n_rows == w->cap_rows) {
        int cap = w->cap_rows ? 2 * w->cap_rows : 64;
        row *rows = cap > INT32_MAX / 256 ? NULL : realloc(w->rows, (size_t)cap * sizeof *rows);
        if (!rows) return fail_memory(e, (size_t)cap * sizeof *rows, "the tensor table");
        w->rows = rows;
        w->cap_rows = cap;
    }
    w->rows[w->n_rows] = (row){ .same_as = same_as };
    memcpy(w->rows[w->n_rows].t.name, name, strlen(name));
    return w->n_rows++;
}

static int set_type(file_writer *w, row *r, wtype type, err *e) {
    file_tensor *t = &r->t;
    wlayout layout = type == W_F32 || r->plain ? LAYOUT_ROWS : LAYOUT_P16;
    if (tensor_bytes(type, layout, t->n_dims, t->dims[0], t->dims[1], &t->bytes))
        return fail(e, "%s: tensor %s: the format has no %s [%llu][%llu]", w->path, t->name, wtype_name(type),
                    (unsigned long long)t->dims[0], (unsigned long long)t->dims[1]);
    t->type = (uint8_t)type;
    t->layout = (uint8_t)layout;
    return 0;
}

int file_write_tensor(file_writer *w, const char *name, wtype type, int n_dims, uint64_t n, uint64_t k, err *e) {
    int i = declare(w, name, -1, e);
    if (i < 0) return -1;
    file_tensor *t = &w->rows[i].t;
    t->n_dims = (uint8_t)n_dims;
    t->dims[0] = n;
    t->dims[1] = k;
    return set_type(w, &w->rows[i], type, e) ? -1 : i;
}

int file_write_plain(file_writer *w, int index, err *e) {
    if (w->begun || index < 0 || index >= w->n_rows || w->rows[index].same_as >= 0)
        return fail(e, "%s: tensor %d cannot change its layout any more", w->path, index);
    w->rows[index].plain = true;
    return set_type(w, &w->rows[index], (wtype)w->rows[index].t.type, e);
}

int file_write_tied(file_writer *w, const char *name, int same_as, err *e) {
    if (same_as < 0 || same_as >= w->n_rows || w->rows[same_as].same_as >= 0)
        return fail(e, "%s: tensor %s is tied to none", w->path, name);
    return declare(w, name, same_as, e);
}

int file_write_retype(file_writer *w, int index, wtype type, err *e) {
    if (index < w->current || index >= w->n_rows || w->rows[index].same_as >= 0)
        return fail(e, "%s: tensor %d cannot change its type any more", w->path, index);
    if (index == w->current) {
        w->written = 0;
        hash_begin(&w->hash);
    }
    w->rows[index].t.exponent = 0;
    return set_type(w, &w->rows[index], type, e);
}

void file_write_exponent(file_writer *w, int index, int exponent) { w->rows[index].t.exponent = (int8_t)exponent; }

/* ---- data ---- */

static int write_at(const file_writer *w, const void *bytes, size_t n, uint64_t at, err *e) {
    const char *p = bytes;
    while (n) {
        ssize_t done = pwrite(w->fd, p, n, (off_t)at);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return fail(e, "%s: writing failed: %s", w->path, done ? strerror(errno) : "nothing was written");
        p += done;
        at += (uint64_t)done;
        n -= (size_t)done;
    }
    return 0;
}

uint64_t file_write_total(const file_writer *w) {
    uint64_t sum = w->header.data_at;
    for (int i = 0; i < w->n_rows; i++) sum += w->rows[i].same_as < 0 ? w->rows[i].t.bytes : 0;
    return sum;
}

static int check_room(const file_writer *w, err *e) {
    struct statvfs v;
    if (fstatvfs(w->fd, &v)) return 0; /* unknown: the writing itself will tell */
    double room = (double)v.f_bavail * (double)v.f_frsize, need = (double)file_write_total(w);
    return need <= room ? 0
                        : fail(e, "%s: needs %.1f MB, the disk has %.1f MB free; make room or choose another output", w->path,
                               need / 1e6, room / 1e6);
}

/* The next tensor that owns data: tied ones are passed over. */
static int after(const file_writer *w, int index) {
    do index++;
    while (index < w->n_rows && w->rows[index].same_as >= 0);
    return index;
}

static void start_tensor(file_writer *w, int index) {
    w->current = index;
    w->written = 0;
    hash_begin(&w->hash);
}

/* Closes the current tensor if it is whole. That happens when the next one begins: until then it may be written anew. */
static bool finish_tensor(file_writer *w) {
    file_tensor *t = &w->rows[w->current].t;
    if (w->written < t->bytes) return false;
    t->hash = hash_end(&w->hash);
    w->next += t->bytes;
    start_tensor(w, after(w, w->current));
    return true;
}

int file_write_begin(file_writer *w, const buf *records, const void *tokenizer, size_t tokenizer_bytes, err *e) {
    if (records->failed) return fail_memory(e, records->cap, "the architecture's records");
    file_header h = { .version = FORMAT_VERSION,
                      .header_bytes = sizeof h,
                      .records_bytes = records->n,
                      .tokenizer_bytes = tokenizer_bytes,
                      .n_tensors = (uint32_t)w->n_rows,
                      .row_bytes = sizeof(file_tensor) };
    memcpy(h.magic, QUERN_MAGIC, sizeof h.magic);
    if (meta_layout(&h, &w->header)) return fail(e, "%s: a tokenizer of %zu bytes does not fit", w->path, tokenizer_bytes);
    if (!(w->head = calloc(1, w->header.data_at))) return fail_memory(e, w->header.data_at, "the file's head");
    if (records->n) memcpy(w->head + w->header.records_at, records->p, records->n);
    if (tokenizer_bytes) memcpy(w->head + w->header.tokenizer_at, tokenizer, tokenizer_bytes);
    w->next = w->header.data_at;
    w->begun = true;
    start_tensor(w, after(w, -1));
    return check_room(w, e);
}

int file_write_data(file_writer *w, int index, const void *bytes, size_t n, err *e) {
    if (w->begun && index != w->current && w->current < w->n_rows && index == after(w, w->current)) finish_tensor(w);
    if (!w->begun || index != w->current || index >= w->n_rows)
        return fail(e, "%s: tensor %d is not the one to be written now", w->path, index);
    file_tensor *t = &w->rows[index].t;
    if (n > t->bytes - w->written)
        return fail(e, "%s: tensor %s: more data than its %llu bytes", w->path, t->name, (unsigned long long)t->bytes);
    t->at = w->next;
    if (write_at(w, bytes, n, t->at + w->written, e)) return -1;
    hash_add(&w->hash, bytes, n);
    w->written += n;
    return 0;
}

/* ---- the end ---- */

static void fill_head(file_writer *w) {
    w->header.file_bytes = w->next;
    memcpy(w->head, &w->header, sizeof w->header);
    for (int i = 0; i < w->n_rows; i++) {
        file_tensor t = w->rows[i].t;
        if (w->rows[i].same_as >= 0) {
            t = w->rows[w->rows[i].same_as].t;
            memcpy(t.name, w->rows[i].t.name, sizeof t.name);
        }
        memcpy(w->head + w->header.table_at + (size_t)i * sizeof t, &t, sizeof t);
    }
    w->header.meta_hash = meta_hash(w->head, w->header.data_at);
    memcpy(w->head, &w->header, sizeof w->header);
}

/* Reads the file back, or only its head: what takes the target's name has been seen to open and to have the right hashes. */
static int verify(const file_writer *w, bool data, err *e) {
    file f;
    err inner = { 0 };
    int rc = file_open(&f, w->temporary, &inner);
    if (rc == 0) {
        rc = data ? file_verify(&f, &inner, NULL, NULL) : 0;
        file_close(&f);
    }
    return rc ? fail_code(e, inner.code, "%s: what was written does not read back: %s", w->path, inner.msg) : 0;
}

/* A rename is on the disk when its folder is. A file system that cannot sync a folder is not an error. */
static void sync_folder(const char *path) {
    char *copy = strdup(path), *slash = copy ? strrchr(copy, '/') : NULL;
    if (slash) slash[slash == copy] = 0;
    int fd = copy ? open(slash ? copy : ".", O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        (void)!fsync(fd);
        close(fd);
    }
    free(copy);
}

static int write_head(file_writer *w, err *e) {
    fill_head(w);
    if (write_at(w, w->head, w->header.data_at, 0, e)) return -1;
    /* what a tensor written again at a smaller type left behind goes */
    return ftruncate(w->fd, (off_t)w->next) || fsync(w->fd) ? fail(e, "%s: writing failed: %s", w->path, strerror(errno)) : 0;
}

int file_write_settle(file_writer *w, err *e) {
    if (w->begun && w->current < w->n_rows) finish_tensor(w);
    if (!w->begun || w->current < w->n_rows)
        return fail(e, "%s: tensor %s was not written", w->path, w->begun ? w->rows[w->current].t.name : "data");
    if (write_head(w, e) || verify(w, true, e)) return -1;
    w->settled = true;
    return 0;
}

const char *file_write_temporary(const file_writer *w) { return w->temporary; }

int file_write_records(file_writer *w, const buf *records, err *e) {
    if (records->failed) return fail_memory(e, records->cap, "the file's records");
    if (!w->settled || records->n != w->header.records_bytes)
        return fail(e, "%s: records of %zu bytes cannot take the place of %llu", w->path, records->n,
                    (unsigned long long)w->header.records_bytes);
    memcpy(w->head + w->header.records_at, records->p, records->n);
    return write_head(w, e) || verify(w, false, e) ? -1 : 0;
}

static int finish(file_writer *w, err *e) {
    if (!w->settled && file_write_settle(w, e)) return -1;
    int fd = w->fd;
    w->fd = -1;
    if (close(fd)) return fail(e, "%s: writing failed: %s", w->path, strerror(errno));
    if (target_free(w->path, w->force, e)) return -1;
    if (rename(w->temporary, w->path)) return fail(e, "%s: cannot be renamed to %s: %s", w->temporary, w->path, strerror(errno));
    free(w->temporary);
    w->temporary = NULL;
    sync_folder(w->path);
    return 0;
}

int file_write_end(file_writer **w, err *e) {
    int rc = finish(*w, e);
    file_write_abort(w);
    return rc;
}

/* ---- the image ---- */

static int fill_image(const file_writer *w, file *f, uint8_t *base, uint64_t bytes, err *e) {
    file_header h = w->header;
    file_tensor *rows = (file_tensor *)(void *)(base + h.table_at);
    uint64_t next = h.data_at;
    memcpy(base, w->head, h.table_at);
    h.file_bytes = bytes;
    memcpy(base, &h, sizeof h);
    for (int i = 0; i < w->n_rows; i++) {
        int from = w->rows[i].same_as < 0 ? i : w->rows[i].same_as;
        file_tensor t = w->rows[from].t;
        memcpy(t.name, w->rows[i].t.name, sizeof t.name);
        t.type = W_F32, t.layout = LAYOUT_ROWS, t.exponent = 0;
        if (tensor_bytes(W_F32, LAYOUT_ROWS, t.n_dims, t.dims[0], t.dims[1], &t.bytes))
            return fail(e, "%s: tensor %s is too large as f32", w->path, t.name);
        t.at = from == i ? next : rows[from].at;
        if (from == i) next += t.bytes;
        rows[i] = t;
    }
    f->header = (const file_header *)(const void *)base;
    f->tensors = rows;
    f->n_tensors = (uint32_t)w->n_rows;
    return file_index(f, e);
}

int file_write_image(const file_writer *w, file *f, err *e) {
    uint64_t bytes = w->header.data_at, one;
    *f = (file){ 0 };
    snprintf(f->path, sizeof f->path, "%s", w->path);
    for (int i = 0; i < w->n_rows; i++)
        if (w->rows[i].same_as < 0 && (tensor_bytes(W_F32, LAYOUT_ROWS, w->rows[i].t.n_dims, w->rows[i].t.dims[0], w->rows[i].t.dims[1], &one) ||
                                       add_overflows(bytes, one, &bytes) || bytes > SIZE_MAX / 2))
            return fail(e, "%s: tensor %s is too large as f32", w->path, w->rows[i].t.name);
    void *base = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return fail_code(e, ERR_MEMORY, "out of memory: %.1f GB of address space for the model in f32", (double)bytes / 1e9);
    f->map = (mapping){ base, (size_t)bytes, false };
    if (fill_image(w, f, base, bytes, e) == 0) return 0;
    file_close(f);
    return -1;
}

int file_image_drop(const file *f, uint64_t at, uint64_t n, err *e) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), first = round_up(at, page), end = (at + n) / page * page;
    if (end <= first) return 0;
    void *p = (void *)(uintptr_t)(f->map.p + first);
    void *fresh = mmap(p, (size_t)(end - first), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return fresh == p ? 0 : fail_code(e, ERR_MEMORY, "memory could not be given back: %s", strerror(errno));
}
