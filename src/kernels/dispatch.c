/*
 * Dispatch: which table of kernels this processor runs.
 *
 * One table an instruction set, each complete: an ISA that has no body of its
 * own for some operation names the function of the ISA below it, so a caller
 * never asks "is this one there". Adding an ISA is a row in isas[] and a
 * folder. The choice is made by asking the processor AND the system: a wide
 * register that the system does not save is not usable, whatever cpuid says.
 */
#include "kernels/tables.h"

#if defined(__x86_64__)

#include <cpuid.h>

/* XCR0: which register state the system saves and restores. */
static uint64_t saved_state(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

uint32_t pr_cpu_detect(void) {
    enum { YMM_STATE = 0x06, ZMM_STATE = 0xe6 };
    const uint32_t leaf1 = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
    const uint32_t leaf7 = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & leaf1) != leaf1) {
        return 0;
    }
    uint64_t saved = saved_state();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & bit_AVX2) == 0 || (saved & YMM_STATE) != YMM_STATE) {
        return 0;
    }
    uint32_t have = PR_CPU_AVX2;
    if ((b & leaf7) == leaf7 && (c & bit_AVX512VNNI) != 0 && (saved & ZMM_STATE) == ZMM_STATE) {
        have |= PR_CPU_AVX512;
    }
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & bit_AVXVNNI) != 0) {
        have |= PR_CPU_AVXVNNI;
    }
    return have;
}

#else

uint32_t pr_cpu_detect(void) { return 0; }

#endif

/* From the plainest to the best. */
static const struct {
    uint32_t isa;
    const pr_kernels *table;
} isas[] = {
    {0, &pr__kernels_scalar},
#if defined(__x86_64__)
    {PR_CPU_AVX2, &pr__kernels_avx2},
    {PR_CPU_AVXVNNI, &pr__kernels_avxvnni},
    {PR_CPU_AVX512, &pr__kernels_avx512},
#endif
};

enum { N_ISAS = sizeof isas / sizeof isas[0] };

const pr_kernels *pr_kernels_get(uint32_t mask) {
    uint32_t have = pr_cpu_detect() & (mask == 0 ? UINT32_MAX : mask);
    const pr_kernels *best = isas[0].table;
    for (int i = 1; i < N_ISAS; i++) {
        best = (have & isas[i].isa) != 0 ? isas[i].table : best;
    }
    return best;
}

const pr_kernels *pr_kernels_of(uint32_t isa) {
    uint32_t have = pr_cpu_detect();
    for (int i = 0; i < N_ISAS; i++) {
        if (isas[i].isa == isa) {
            return isa == 0 || (have & isa) != 0 ? isas[i].table : NULL;
        }
    }
    return NULL;
}
