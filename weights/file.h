/* file: a quern model file: map, check, find (reading) and write. It knows no arithmetic and no architecture. */
#ifndef QUERN_FILE_H
#define QUERN_FILE_H

#include "kernels/quant.h"
#include "runtime/files.h"
#include "weights/format.h"

typedef struct file {
    mapping map;
    const file_header *header;
    const file_tensor *tensors; /* [n_tensors] */
    uint32_t n_tensors;
    char path[512];             /* for messages */
    struct name_index *index;   /* owned */
} file;

/* Maps and checks everything but the tensors' data hashes: header, hash, records, table bounds, overlap, overflow, alignment,
 * shape x type = bytes. A refusal says what was expected, what was found and what to do. */
int file_open(file *f, const char *path, err *e);
int file_open_copy(file *f, const char *path, err *e); /* read into memory of its own, on huge pages (map_copy) */
int file_lock(const file *f, err *e); /* all of it into memory, to stay there (mlock) */
void file_close(file *f);

const file_tensor *file_find(const file *f, const char *name); /* NULL: not there */
static inline const void *file_data(const file *f, const file_tensor *t) { return f->map.p + t->at; }
int file_verify(const file *f, err *e, void (*progress)(void *, uint64_t done, uint64_t total),
                void *arg); /* every tensor's hash */

/* Records. Each gives the count, or -1 if there is no such key of this type. */
int64_t record_i64(const file *f, const char *key, const int64_t **values);
int64_t record_f64(const file *f, const char *key, const double **values);
int64_t record_bytes(const file *f, const char *key, const char **bytes);
void record_add_i64(buf *b, const char *key, const int64_t *values, uint32_t n);
void record_add_f64(buf *b, const char *key, const double *values, uint32_t n);
void record_add_bytes(buf *b, const char *key, const void *bytes, size_t n);
/* Walks all records in order: at = 0 first; returns false at the end. */
typedef struct record {
    const char *key;
    size_t key_n;
    record_type type;
    uint32_t count;
    const void *values;
} record;
bool record_next(const file *f, size_t *at, record *out);

/* Writing: declare every tensor, begin, stream each tensor's bytes in the declared order, end. The file appears under its name
 * only at the end (a temporary file beside it is renamed); file_write_abort removes what there is. */
typedef struct file_writer file_writer;
int file_write_open(file_writer **w, const char *path, bool force, err *e); /* an existing file is an error unless force */
int file_write_tensor(file_writer *w, const char *name, wtype type, int n_dims, uint64_t n, uint64_t k,
                      err *e); /* declares; returns its index or -1 */
int file_write_plain(file_writer *w, int index, err *e); /* before begin: in plain rows, for a table that is only looked up */
int file_write_tied(file_writer *w, const char *name, int same_as, err *e);                      /* declares a second name */
int file_write_begin(file_writer *w, const buf *records, const void *tokenizer, size_t tokenizer_bytes,
                     err *e);                                                        /* checks the disk's room */
int file_write_data(file_writer *w, int index, const void *bytes, size_t n, err *e); /* the next bytes of tensor `index` */
int file_write_retype(file_writer *w, int index, wtype type, err *e); /* before the next tensor's data: its own begins anew */
void file_write_exponent(file_writer *w, int index, int exponent);
/* Before the end: completes the temporary file (tables, hashes), syncs it and reads all of it back, so that it can be opened by
 * the name that file_write_temporary gives. Afterwards only the records may still change, not their size. */
int file_write_settle(file_writer *w, err *e);
const char *file_write_temporary(const file_writer *w);
int file_write_records(file_writer *w, const buf *records, err *e);
int file_write_end(file_writer **w, err *e); /* settles where that was not done, and gives the file its name */
void file_write_abort(file_writer **w);
uint64_t file_write_total(const file_writer *w); /* bytes of the finished file */

/* A file in memory like the one that w writes (after file_write_begin): the same names, shapes and records, every tensor f32. Its
 * data is address space that reads as zero and takes memory where it is written; file_image_drop makes whole pages of bytes
 * [at, at + n) zero again and gives their memory back. file_close ends it. */
int file_write_image(const file_writer *w, file *f, err *e);
static inline void *file_image_data(const file *f, const file_tensor *t) { return (void *)(uintptr_t)(f->map.p + t->at); }
int file_image_drop(const file *f, uint64_t at, uint64_t n, err *e);

/* Gives back the memory of bytes [at, at + n) of a mapping; they are read again from the file when touched. */
void drop_pages(const mapping *m, uint64_t at, uint64_t n);
/* Touching a page of them is to bring in that page, not those around it. */
void lone_pages(const mapping *m, uint64_t at, uint64_t n);
bool lfs_pointer(const void *p, size_t n); /* a file that begins so is a git-LFS pointer, left where the file itself should be */

#endif
