/* sincos: the sine and cosine of rotary angles, the same bits on every machine, unlike libm's.
 * It owns two polynomials in double; it knows nothing of positions or frequencies. */
#include "kernels/kernels.h"

#include <math.h>

/* x = n pi/2 + r with |r| <= pi/4 (a little more at the border): the first fma is exact, since n has at most 30 bits and the
 * high part of pi/2 cancels; the second brings the next 53 bits of pi/2. Then Taylor series, whose first missing term is below
 * 1e-16.
 * The results round to f32 once: within 1 ulp wherever they exceed 1e-9 or so. */
void sincos_exact(double x, float *sin_out, float *cos_out) {
    const double magic = 0x1.8p52; /* adding it rounds to an integer */
    double n = (x * 0x1.45f306dc9c883p-1 + magic) - magic;
    double r = fma(-n, 0x1.1a62633145c07p-54, fma(-n, 0x1.921fb54442d18p+0, x)), z = r * r;
    double s = -1.0 / 1307674368000.0;
    s = s * z + 1.0 / 6227020800.0;
    s = s * z - 1.0 / 39916800.0;
    s = s * z + 1.0 / 362880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    s = r + r * (z * s);
    double c = 1.0 / 20922789888000.0;
    c = c * z - 1.0 / 87178291200.0;
    c = c * z + 1.0 / 479001600.0;
    c = c * z - 1.0 / 3628800.0;
    c = c * z + 1.0 / 40320.0;
    c = c * z - 1.0 / 720.0;
    c = c * z + 1.0 / 24.0;
    c = c * z - 0.5;
    c = 1.0 + z * c;
    long quarter = (long)n & 3;
    double sine = quarter & 1 ? c : s, cosine = quarter & 1 ? s : c;
    *sin_out = (float)(quarter & 2 ? -sine : sine);
    *cos_out = (float)(quarter == 1 || quarter == 2 ? -cosine : cosine);
}
