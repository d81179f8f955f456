/*
 * Gram matrices: H = X^T X of the inputs of a matrix, summed over all rows that it is fed; or its diagonal alone.
 *
 * Rows come in batches (the rows of a step). A batch is first turned into columns (pr_gram_take, in parallel pieces, as the
 * body of a tap), then multiplied with itself (pr_gram_add). Within a batch the sum over rows is one chain of fused
 * multiply-adds in order, batches are added in order: the result does not depend on the number of threads. A diagonal needs no
 * more than the taking.
 */
#ifndef PRECIS_COMPRESS_GRAM_H
#define PRECIS_COMPRESS_GRAM_H

#include "base/pool.h"
#include "kernels/kernels.h"

typedef struct pr_gram {
    uint32_t cols, rows_max; /* rows_max: of a batch */
    float *sum;              /* [cols][cols]; the upper triangle until pr_gram_finish(). Diagonal: [cols] */
    float *columns;          /* [cols rounded up to 16][stride] the batch, transposed. Diagonal: NULL */
    size_t stride;           /* floats */
    uint32_t n_rows;         /* of the batch; 0: none is waiting */
    uint64_t n_total;        /* rows summed */
} pr_gram;

pr_status pr_gram_init(pr_gram *gram, uint32_t cols, uint32_t rows_max, bool diagonal, pr_err *err);
void pr_gram_free(pr_gram *gram); /* an all-zero struct is allowed */
void pr_gram_clear(pr_gram *gram);

/* Pieces of a batch; piece `chunk` of x: [n_rows][cols], rows x_stride floats apart, 1 <= n_rows <= rows_max. */
uint32_t pr_gram_take_chunks(const pr_gram *gram);
void pr_gram_take(pr_gram *gram, uint32_t chunk, const float *x, size_t x_stride, uint32_t n_rows);

/* Bytes of scratch a thread needs for grams of these rows. */
size_t pr_gram_scratch(uint32_t rows_max);
/* Add the waiting batches of grams[n]; scratch: [team size][pr_gram_scratch], 64-byte aligned. */
void pr_gram_add(pr_gram *grams, size_t n, const pr_kernels *k, pr_team *team, uint8_t *scratch);

/* Both triangles of sum are whole afterwards. */
void pr_gram_finish(pr_gram *gram);

#endif
