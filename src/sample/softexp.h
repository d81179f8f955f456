/*
 * exp for softmax: the same bits with every C library.
 *
 * A seed must replay the same text after a system upgrade, and libm may change
 * its last bit at any release; + - * and conversions may not. The argument of a
 * softmax is never positive, which makes the function short.
 */
#ifndef PRECIS_SAMPLE_SOFTEXP_H
#define PRECIS_SAMPLE_SOFTEXP_H

#include <stdint.h>
#include <string.h>

/* e^x for x <= 0, within 1e-14 of the value; 0 below -708 (where a double would go subnormal) and for -INFINITY.
 *
 * x = k ln 2 + r with |r| <= ln 2 / 2, so e^x = 2^k e^r, and e^r is its Taylor series to r^11 (remainder
 * r^12/12! < 7e-15), summed in pairs so that the multiplications overlap. ln 2 comes in two parts, the first short
 * enough that k times it is exact. */
static inline double pr__softexp(double x) {
    if (!(x >= -708.0)) {
        return 0.0;
    }
    int64_t k = (int64_t)(x * 0x1.71547652b82fep0 - 0.5); /* rounds to nearest, as x <= 0 */
    double r = x - (double)k * 0x1.62e42feep-1 - (double)k * 0x1.a39ef35793c76p-33;
    double r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
    double a = (1.0 + r) + r2 * (1.0 / 2 + r * (1.0 / 6));
    double b = (1.0 / 24 + r * (1.0 / 120)) + r2 * (1.0 / 720 + r * (1.0 / 5040));
    double c = (1.0 / 40320 + r * (1.0 / 362880)) + r2 * (1.0 / 3628800 + r * (1.0 / 39916800));
    double e = a + r4 * b + r8 * c;
    uint64_t bits = (uint64_t)(k + 1023) << 52; /* 2^k: k >= -1022, a normal number */
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return e * scale;
}

#endif
