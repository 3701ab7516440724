/* blocks: the quantised types of GGUF, as numbers. A block is 32 or 256 weights of one row: scales, then packed integers. It
 * knows no files. Private to weights/. */
#ifndef QUERN_BLOCKS_H
#define QUERN_BLOCKS_H

#include "weights/safetensors.h"

enum { BLOCK_MAX = 256 }; /* weights of the largest block */

/* Weights and bytes of a block of this type; every readable type has them (a plain one is a block of one weight). */
typedef struct block_type {
    const char *name; /* "Q4_K" */
    int weights, bytes;
} block_type;
const block_type *block_of(st_type type); /* NULL: ST_OTHER */

/* out[weights of the block]: bit for bit what the reference implementations (ggml's dequantize_row_*, the gguf package's
 * dequantize) give. Not for plain types. */
void block_read(st_type type, const uint8_t *block, float *out);

#endif
