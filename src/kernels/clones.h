/*
 * PR_CLONES before a function: the compiler makes one more body of it for AVX2 and one for AVX-512, and the loader takes the
 * widest that the processor runs. For plain loops that the vectorizer handles: without -ffast-math and with
 * -ffp-contract=off every body gives the same bits, so this is a matter of speed alone. What must be written by hand is a
 * kernel. Nothing where compiler or libc cannot, nor under a sanitizer, whose runtime starts after the loader.
 */
#ifndef PRECIS_KERNELS_CLONES_H
#define PRECIS_KERNELS_CLONES_H

#if defined(PR_HAVE_IFUNC) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && defined(__OPTIMIZE__) &&   \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define PR_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define PR_CLONES
#endif

#endif
