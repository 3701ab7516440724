/* k_scalar: the table of plain C, the reference that every other table must equal to the bit, for any CPU. The dot product of
 * a group here is the sum that the layout describes; the others find the same integer faster. */
#include "kernels/v16_scalar.inc.h"

#include "kernels/dot_scalar.inc.h"
#include "kernels/generic.inc.h"

const kernels kernels_scalar = KERNELS("scalar");
