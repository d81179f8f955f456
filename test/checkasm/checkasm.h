/*
 * checkasm: holds every kernel of every instruction set against the scalar
 * one, bit for bit, and times them.
 *
 * Buffers end at a page that may not be touched, so a read or write past the
 * end crashes (with the name of the function on the screen); outputs are
 * compared with all their gaps, so a write between rows shows as well.
 */
#ifndef PRECIS_CHECKASM_H
#define PRECIS_CHECKASM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

/* ---- memory ---- */

/* bytes that end at a forbidden page; filled with a pattern; begins on `align` when bytes is a multiple of it. */
void *guard_alloc(size_t bytes);
void guard_free_all(void);

/* ---- random numbers: a seed gives the same ones everywhere ---- */
void random_seed(uint64_t seed);
uint32_t random_u32(void);
uint32_t random_below(uint32_t n); /* 0..n-1 */
float random_float(void);          /* about normal, sigma 1 */
void random_bytes(void *out, size_t n);

/* What a buffer of floats holds; every kernel meets every kind. */
typedef enum float_kind {
    FLOATS_PLAIN,
    FLOATS_ZERO,
    FLOATS_LARGE,
    FLOATS_TINY,
    FLOATS_MIXED,
    FLOATS_BROKEN,
    FLOAT_KINDS
} float_kind;
void random_floats(float *out, size_t n, float_kind kind);

/* ---- checking ---- */

/* Start and finish the checks of one function of the table under test; finish prints the line "ok name.isa". */
void check_begin(const char *name, const pr_kernels *k);
void check_end(void);
/* Compare floats by bits (NaN equals NaN), or bytes; text tells the case when they differ. */
bool check_floats(const float *want, const float *got, size_t n, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
bool check_bytes(const void *want, const void *got, size_t n, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* ---- timing ---- */

/* Do the work, or about 1/part of it. */
typedef void bench_fn(const pr_kernels *k, void *ctx, uint32_t part);
/* Time run() with every table, the scalar one doing 1/scalar_part; bytes and macs of one run, 0: do not tell. */
void bench_case(const char *name, bench_fn *run, void *ctx, uint32_t scalar_part, double bytes, double macs);

/* ---- the groups, one a file ---- */
void check_mm(const pr_kernels *ref, const pr_kernels *k);
void check_planes(const pr_kernels *ref, const pr_kernels *k);
void check_rows(const pr_kernels *ref, const pr_kernels *k);
void check_kv(const pr_kernels *ref, const pr_kernels *k);
void check_attend(const pr_kernels *ref, const pr_kernels *k);
void bench_mm(void);
void bench_planes(void);
void bench_rows(void);
void bench_kv(void);
void bench_attend(void);

#endif
