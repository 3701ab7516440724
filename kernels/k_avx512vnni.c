/* k_avx512vnni: AVX-512 with VNNI (Ice Lake, Zen 4 and later); dot_vnni512.inc.h says how. */
#include "kernels/v16_avx512.inc.h"

#include "kernels/dot_vnni512.inc.h"
#include "kernels/generic.inc.h"

const kernels kernels_avx512vnni = KERNELS("avx512vnni");
