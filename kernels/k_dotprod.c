/* k_dotprod: aarch64 with the dot product extension (Cortex-A75, Neoverse N1, Apple and later); dot_sdot.inc.h says how. */
#include "kernels/v16_neon.inc.h"

#include "kernels/dot_sdot.inc.h"
#include "kernels/generic.inc.h"

const kernels kernels_dotprod = KERNELS("dotprod");
