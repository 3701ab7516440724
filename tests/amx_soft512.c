/* The amx table with tiles in plain C and the rest as in k_amx.c: for a CPU with AVX-512 VNNI and without AMX. */
#if defined(__x86_64__)
#include "kernels/v16_avx512.inc.h"

#include "kernels/dot_vnni512.inc.h"
#include "kernels/generic.inc.h"

#include "tests/tiles_soft.h"
#include "kernels/tiles.inc.h"
#include "kernels/attention_tiles.inc.h"

extern const kernels amx_soft512;
const kernels amx_soft512 = KERNELS_WITH("amx-soft512", matmul_bf16_tiles, matmul_q8_tiles, matmul_q4_tiles, attention_tiles,
                                         probe_tiles_int8, probe_tiles_bf16);
#else
extern int amx_soft512_empty;
#endif
