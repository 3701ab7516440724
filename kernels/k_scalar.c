/* k_scalar: the table of plain C, the reference that every other table must equal to the bit, for any CPU. The dot product of
 * a group here is the sum that the layout describes; the others find the same integer faster. */
#include "kernels/v16_scalar.inc.h"

typedef struct q4_acc { int32_t v[16]; } q4_acc;
typedef q4_acc q8_acc;
typedef b64 q8_weights;

INLINE q4_acc q4_start(int32_t sum) { q4_acc a; for (int i = 0; i < 16; i++) a.v[i] = -8 * sum; return a; }
INLINE q4_acc q4_step(q4_acc a, b64 w, x4 low, x4 high) {
    for (int i = 0; i < 16; i++)
        for (int c = 0; c < 4; c++) a.v[i] += (w.b[4 * i + c] & 15) * low.b[c] + (w.b[4 * i + c] >> 4) * high.b[c];
    return a;
}
INLINE q4_acc q4_join(q4_acc a, q4_acc b) { for (int i = 0; i < 16; i++) a.v[i] += b.v[i]; return a; }
INLINE v16 q4_end(q4_acc a, int32_t sum) { (void)sum; v16 r; for (int i = 0; i < 16; i++) r.v[i] = (float)a.v[i]; return r; }

INLINE q8_acc q8_start(int32_t sum) { (void)sum; return (q8_acc){ { 0 } }; }
INLINE q8_weights q8_prepare(b64 w) { return w; }
INLINE q8_acc q8_step(q8_acc a, q8_weights w, x4 x) {
    for (int i = 0; i < 16; i++)
        for (int c = 0; c < 4; c++) a.v[i] += (int8_t)w.b[4 * i + c] * x.b[c];
    return a;
}
INLINE q8_acc q8_step_positive(q8_acc a, b64 w, x4 x) { return q8_step(a, w, x); }
INLINE q8_acc q8_join(q8_acc a, q8_acc b) { return q4_join(a, b); }
INLINE v16 q8_end(q8_acc a) { return q4_end(a, 0); }

#include "kernels/generic.inc.h"

const kernels kernels_scalar = KERNELS("scalar");
