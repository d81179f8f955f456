/*
 * Nested planes times 8-bit blocks, AVX-VNNI.
 *
 * vpdpbusd adds four products of unsigned weights and signed activations to a
 * lane at once, where AVX2 needs three instructions for it and must keep sums
 * within 16 bits. One addition for every level therefore: 128, and sums start
 * from x.bias. Registers suffice for eight tokens.
 */
#include "kernels/avx2/planes.h"
#include "kernels/avxvnni/avxvnni.h"

#define PR__PLANE_TOKENS 8

PR_INLINE int more_of(pr_plane level) { return (void)level, 128; }

PR_INLINE __m256i start_of(pr_plane level, const pr_qblock *x) { return (void)level, _mm256_set1_epi32(x->bias); }

PR_INLINE void dot(pr_plane level, int tokens, const __m256i w[4], const uint8_t *x, size_t x_stride, size_t column,
                   __m256i isum[]) {
    (void)level;
    for (int f = 0; f < 4; f++) {
        for (int t = 0; t < tokens; t++) {
            __m256i q = broadcast_4(block_of(x, x_stride, t)->q + column + 4 * (size_t)f);
            isum[t] = _mm256_dpbusd_avx_epi32(isum[t], w[f], q);
        }
    }
}

#include "kernels/avx2/planes_q8.inc"

void pr__avxvnni_planes_int2_q8(const pr_plane_args *args) { planes_int2(args); }
void pr__avxvnni_planes_int4_q8(const pr_plane_args *args) { planes_int4(args); }
void pr__avxvnni_planes_int8_q8(const pr_plane_args *args) { planes_int8(args); }
