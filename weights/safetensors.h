/* safetensors: reads the weights of a HuggingFace checkpoint, one file or many shards with their index. Nothing is copied:
 * files are mapped, and values become f32 where they are read. GGUF files (gguf.h) fill the same structure, so that what reads
 * weights does not care where they lie. It knows no architecture. */
#ifndef QUERN_SAFETENSORS_H
#define QUERN_SAFETENSORS_H

#include "runtime/base.h"
#include "runtime/files.h"

enum { ST_MAX_DIMS = 8 };
typedef enum {
    ST_F32, ST_F64, ST_F16, ST_BF16,
    ST_Q8_0, ST_Q4_0, ST_Q4_1, ST_Q5_0, ST_Q5_1, ST_Q4_K, ST_Q5_K, ST_Q6_K, /* GGUF's blocks of 32 or 256 weights of a row */
    ST_OTHER /* known in size, not readable as numbers */
} st_type;

typedef struct st_tensor {
    const char *name, *dtype; /* as the file has them; borrowed until safetensors_close */
    st_type type;
    int n_dims, shard;
    uint64_t dims[ST_MAX_DIMS];
    uint64_t n, at, bytes;    /* elements; place in its shard's file */
    /* How the file differs from what is wanted of it; zero: not at all. */
    uint32_t head;            /* so many rows are a head whose halves the file interleaves: 0, head/2, 1, head/2 + 1, ... */
    uint32_t group;           /* not 0: the file has all queries, all keys, all values; wanted are, for each key and value, so many
                                 heads of queries, then its key, its value */
    bool transposed;          /* dims are the wanted ones, the file has [dims[1]][dims[0]] */
    float plus;               /* is added to each value */
} st_tensor;

typedef struct safetensors {
    arena mem;
    struct st_shard {
        const char *path;
        mapping map;
        bool borrowed; /* by safetensors_put */
    } *shards;
    int n_shards;
    st_tensor *tensors; /* [n], sorted by name */
    size_t n, cap;
} safetensors;

/* Opens model.safetensors of the folder, else the shards that model.safetensors.index.json names. Checks every header against
 * its file to the byte: names, dtypes, shapes, offsets without overlap or gap. An error names the file, the tensor, what was
 * expected and found. */
int safetensors_open(safetensors *s, const char *folder, err *e);
int safetensors_open_file(safetensors *s, const char *path, err *e); /* one file, of any name */
void safetensors_close(safetensors *s);

/* Puts t, a tensor of from (which may be s), in the place of the tensor of that name, or beside the others. The name and from's files
 * are borrowed: from is closed after s. Pointers to tensors of s are none any more. */
int safetensors_put(safetensors *s, const char *name, const safetensors *from, const st_tensor *t, err *e);
int safetensors_sort(safetensors *s, err *e); /* by name, once tensors were renamed; two alike are an error */
const st_tensor *safetensors_find(const safetensors *s, const char *name); /* NULL: not there */

/* out[n]: elements [first, first + n) of t in f32 (t->type is not OTHER; F64 is rounded), as t's dims order them. st_drop
 * lets their pages go. */
void st_read(const safetensors *s, const st_tensor *t, uint64_t first, uint64_t n, float *out);
void st_drop(const safetensors *s, const st_tensor *t, uint64_t first, uint64_t n);

#endif
