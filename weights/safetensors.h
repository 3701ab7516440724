/* safetensors: reads the weights of a HuggingFace checkpoint, one file or many shards with their index. Nothing is copied:
 * files are mapped, and values become f32 where they are read. It knows no architecture. */
#ifndef QUERN_SAFETENSORS_H
#define QUERN_SAFETENSORS_H

#include "runtime/base.h"

enum { ST_MAX_DIMS = 8 };
typedef enum { ST_F32, ST_F64, ST_F16, ST_BF16, ST_OTHER } st_type; /* OTHER: known in size, not readable as numbers */

typedef struct st_tensor {
    const char *name, *dtype; /* as the file has them; borrowed until safetensors_close */
    st_type type;
    int n_dims, shard;
    uint64_t dims[ST_MAX_DIMS];
    uint64_t n, at, bytes;    /* elements; place in its shard's file */
} st_tensor;

typedef struct safetensors {
    arena mem;
    struct st_shard {
        const char *path;
        mapping map;
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

const st_tensor *safetensors_find(const safetensors *s, const char *name); /* NULL: not there */

/* out[n]: elements [first, first + n) of t in f32 (t->type is not OTHER; F64 is rounded). st_drop lets their pages go. */
void st_read(const safetensors *s, const st_tensor *t, uint64_t first, uint64_t n, float *out);
void st_drop(const safetensors *s, const st_tensor *t, uint64_t first, uint64_t n);

#endif
