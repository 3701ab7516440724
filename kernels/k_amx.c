/* k_amx: AVX-512 with VNNI and AMX (Sapphire Rapids and later). Matrices with int8 activations of 8 rows and more, and bf16 weights
 * of any number, go through the tile unit (tiles.inc.h), and so do 8 queries and more over an int8 cache (attention_tiles.inc.h);
 * everything else is as in k_avx512vnni.c. */
#include "kernels/v16_avx512.inc.h"

#include "kernels/dot_vnni512.inc.h"
#include "kernels/generic.inc.h"

#include "kernels/tiles_amx.inc.h"
#include "kernels/tiles.inc.h"
#include "kernels/attention_tiles.inc.h"

const kernels kernels_amx = KERNELS_WITH("amx", matmul_bf16_tiles, matmul_q8_tiles, matmul_q4_tiles, attention_tiles,
                                         probe_tiles_int8, probe_tiles_bf16);
