/* quant: the two weight layouts and the four types; pack and unpack, the reference that every kernel is tested against.
 *
 * A panel is 16 output rows. Along the inputs it has groups of 64 (k padded with zeros). A quantised panel holds first its
 * scales, [group][16 rows] f16, padded to a multiple of 64 bytes, then its data, group after group:
 *   q4    512 bytes: [8 quads][16 rows][4 bytes]; byte b of quad j holds input 4j+b in its low nibble and input 32+4j+b in
 *                    its high nibble; value = nibble - 8
 *   q8   1024 bytes: [16 quads][16 rows][4 bytes]; byte b of quad j is input 4j+b, signed, -127 to 127
 *   bf16 2048 bytes: [32 pairs][16 rows][2]; no scales
 *   f32  no panels:  plain rows of pad64(k) floats
 * Plain rows are for tables that are only looked up, so that a row is read by touching its own bytes alone. A plain row is laid
 * out as a panel of one row: its scales, [group] f16, padded to 64 bytes, then its groups of 32 (q4), 64 (q8), 128 (bf16) or
 * 256 (f32) bytes. A weight's value does not depend on the layout.
 * Rows are padded to 16. A tensor has one exponent e: real scale = f16 scale * 2^e.
 * This file knows no files and no SIMD. */
#ifndef QUERN_QUANT_H
#define QUERN_QUANT_H

#include "kernels/kernels.h"

const char *wtype_name(wtype t);             /* "f32", "bf16", "q8", "q4" */
int wtype_parse(const char *name, wtype *t); /* -1 if unknown */

/* Bytes of one panel (16 rows) of k inputs, of one plain row, and of a whole [n][k] matrix; 0 and -1 on overflow or a size over
 * 2^62. ..._scale_bytes: where the data begin. */
size_t panel_bytes(wtype t, int k);
size_t panel_scale_bytes(wtype t, int k);
size_t plain_row_bytes(wtype t, int k);
size_t plain_row_scale_bytes(wtype t, int k);
int matrix_bytes(wtype t, wlayout layout, uint64_t n, uint64_t k, uint64_t *bytes);

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float x); /* nearest, ties to even; overflow gives infinity */
float bf16_to_f32(uint16_t b);
uint16_t f32_to_bf16(float x); /* nearest, ties to even */

/* The exponent e that brings the tensor's largest group scale into f16's upper normal range, from its largest |w|. */
int quant_exponent(wtype t, float amax);

/* Packs 16 rows [16][pad64(k)] into a panel. importance: [pad64(k)] weights of the squared error of each input, or NULL.
 * For q8 and q4 the scale of each group is searched for the least (weighted) squared error. Adds to *error and *power the
 * squared error and the squared weights (NULL: not wanted), for q8 and q4 weighted likewise. */
void pack_panel(wtype t, const float *rows, int k, int exponent, const float *importance, void *panel, double *error,
    double *power);

/* The inverse: a panel to [16][pad64(k)] floats. */
void unpack_panel(wtype t, const void *panel, int k, int exponent, float *rows);

/* The same for one plain row, [pad64(k)]: the same scales, integers and errors as in a panel. */
void pack_plain_row(wtype t, const float *row, int k, int exponent, const float *importance, void *packed, double *error,
    double *power);
void unpack_plain_row(wtype t, const void *packed, int k, int exponent, float *row);

#endif
