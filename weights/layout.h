/* layout: what reading (file.c) and writing (file_write.c) a model file share. Private to weights/. */
#ifndef QUERN_LAYOUT_H
#define QUERN_LAYOUT_H

#include "weights/file.h"

/* Stored bytes of a tensor; -1 for a shape that the format does not have. Vectors are f32 and padded to 64. */
int tensor_bytes(wtype type, wlayout layout, int n_dims, uint64_t n, uint64_t k, uint64_t *bytes);
bool tensor_name_valid(const char *name, size_t n); /* 1 to 71 printable ASCII characters without a space */

/* *want = *h with the places of the sections as the sizes of h make them; -1 on overflow. */
int meta_layout(const file_header *h, file_header *want);
uint64_t meta_hash(const uint8_t *p, size_t n); /* of [0, data_at), the hash's own field taken as 0 */

int file_index(file *f, err *e); /* builds the index of names over f->tensors, which are known to be right */

#endif
