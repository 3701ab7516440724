/* files: reading, mapping and naming files; the ground floor, as base.h. It knows nothing of what is in them. */
#ifndef QUERN_FILES_H
#define QUERN_FILES_H

#include "runtime/base.h"

FILE *open_regular(const char *path); /* to read; NULL if it cannot be opened, or is a pipe, device or folder: nothing is waited for */
int read_file(const char *path, size_t limit, buf *out, err *e); /* whole, NUL-terminated beyond n; limit 0: none */
int read_stream(FILE *f, size_t limit, buf *out, err *e);
typedef struct mapping {
    const uint8_t *p; /* NULL for an empty file */
    size_t n;
    bool copied;      /* map_copy was here: its pages are memory of this process, not the file's */
} mapping;
int map_file(const char *path, mapping *m, err *e); /* read-only; unmap_file ends the borrow of every pointer into it */
/* Puts a copy into memory of its own in the mapping's place, on huge pages as far as the system gives them (2 MiB each: fewer misses of the
 * page tables' cache). Before anyone has a pointer into it. */
int map_copy(mapping *m, err *e);
/* For a file larger than memory, which every pass reads anew from front to back: asks the system to read far ahead. By itself it takes
 * so many misses for random access and fetches page by page. */
void map_in_order(const mapping *m);
void unmap_file(mapping *m);
static inline bool mapping_has(const mapping *m, const void *p) { return m->p && (uintptr_t)p - (uintptr_t)m->p < m->n; }
bool has_ending(const char *name, const char *ending); /* "a.bin", ".bin"; something must stand before it */
char *path_join(arena *a, const char *dir, const char *name);
bool file_exists(const char *path);
bool is_folder(const char *path);
uint64_t file_bytes(const char *path); /* 0 for what is no file */
/* PATH or PATH:SCALE; a path that is there as it stands is one, whatever its name. Without SCALE: 1. */
int parse_scaled(arena *mem, const char *text, const char **path, float *scale, err *e);

#endif
