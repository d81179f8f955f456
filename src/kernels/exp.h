/*
 * The constants of pr_expf(), shared by every instruction set so that all
 * give the same bits.
 *
 * exp(x) = 2^n * P(r) with r = x - n ln 2, |r| <= 0.347. P is the minimax
 * polynomial of degree 6 for the relative error among those that start with
 * 1 + r (found by Remez exchange; error 3.1e-9 before rounding).
 *
 * n comes from one fma with 1.5 * 2^23: the sum has no room for a fraction, so
 * the addition itself rounds to nearest even and leaves n in the low bits.
 */
#ifndef PRECIS_KERNELS_EXP_H
#define PRECIS_KERNELS_EXP_H

static const float pr__exp_lo = -87.3f;
static const float pr__exp_hi = 88.7f;
static const float pr__exp_magic = 0x1.8p23f;
static const float pr__exp_log2e = 0x1.715476p+0f;
static const float pr__exp_ln2_hi = 0x1.62e43p-1f;
static const float pr__exp_ln2_lo = -0x1.05c61p-29f;
static const float pr__exp_c2 = 0x1.fffffcp-2f;
static const float pr__exp_c3 = 0x1.555492p-3f;
static const float pr__exp_c4 = 0x1.5558f2p-5f;
static const float pr__exp_c5 = 0x1.123ap-7f;
static const float pr__exp_c6 = 0x1.6a2402p-10f;

#endif
