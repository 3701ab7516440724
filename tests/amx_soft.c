/* The amx table with tiles in plain C and everything else in plain C: runs on any CPU. */
#include "kernels/v16_scalar.inc.h"

#include "kernels/dot_scalar.inc.h"
#include "kernels/generic.inc.h"

#include "tests/tiles_soft.h"
#include "kernels/tiles.inc.h"
#include "kernels/attention_tiles.inc.h"

extern const kernels amx_soft;
const kernels amx_soft = KERNELS_WITH("amx-soft", matmul_bf16_tiles, matmul_q8_tiles, matmul_q4_tiles, attention_tiles,
                                      probe_tiles_int8, probe_tiles_bf16);

/* No tile is configured: a kernel that leaves its tiles makes every context switch save them. */
bool amx_soft_released(void);
bool amx_soft_released(void) { return !soft.configured; }
