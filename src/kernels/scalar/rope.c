/* Rotary position embedding of one head, scalar. */
#include <math.h>

#include "kernels/scalar/scalar.h"

void pr__scalar_rope(float *x, const float *cs, uint32_t n_rot, bool neox) {
    uint32_t n = n_rot / 2;
    for (uint32_t i = 0; i < n; i++) {
        float *pa = neox ? x + i : x + 2 * i;
        float *pb = neox ? x + n + i : x + 2 * i + 1;
        float a = *pa, b = *pb, cos = cs[2 * i], sin = cs[2 * i + 1];
        *pa = fmaf(a, cos, -(b * sin));
        *pb = fmaf(b, cos, a * sin);
    }
}
