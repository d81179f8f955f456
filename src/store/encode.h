/*
 * Encoding: from the numbers of a matrix to its planes. Pure: statistics come in as arguments.
 *
 * Given W[rows, cols] and the Gram matrix H = X^T X of the matrix's inputs (or its diagonal, or none: all columns count alike), find codes,
 * scales and tables such that each level is close to W under H, although the levels share their bits. GPTQ (Frantar et
 * al., arXiv:2210.17323) with two error states, one for the 2-bit level and one for the 4-bit level: a code i minimises
 * (1 - lambda) (t2 - s2 c2[i/4])^2 + lambda (t4 - s4 c4[i])^2, and each level's own error moves its own targets of later
 * columns. Then, group by group, scales are refitted by least squares and codes chosen again by coordinate descent.
 * p8 is the rest after c8[code], rounded with feedback of its own; p16 what is then left. Codes are only chosen from those
 * whose 16 steps of p8 reach the weight, and a group's s4 is raised until one does, so neither level clips.
 * docs/ELASTIC-EXPERIMENTS.md has the recipe.
 *
 * All rows of a matrix are worked on in parallel; the result does not depend on the number of threads.
 */
#ifndef PRECIS_STORE_ENCODE_H
#define PRECIS_STORE_ENCODE_H

#include "base/pool.h"
#include "kernels/kernels.h"
#include "kernels/planes.h"

typedef struct pr_encode_opts {
    float lambda;      /* weight of the 4-bit error in the choice of a code; 0 means 0.95 */
    float damp;        /* added to the diagonal of H, whose mean is 1; 0 means 0.1 */
    uint32_t n_polish; /* rounds of refit and descent: 6 is near the end of what they gain; fast: one */
    bool fast;         /* nearest codes and one refit of scales, no feedback: no more of H than its diagonal counts */
    uint32_t n_planes; /* 1..4 */
} pr_encode_opts;

/* What a row lost: [rows] each, may be NULL: e^T H e / cols with e = w - decoded and H normalised to mean diagonal 1; fast:
 * with nothing of H but its diagonal. */
typedef struct pr_encode_loss {
    float *row[PR_PLANE_COUNT];
} pr_encode_loss;

typedef struct pr_encode_job {
    const float *w;      /* [rows][cols], finite */
    uint32_t rows, cols; /* cols a multiple of 32 */
    const float *gram;   /* [cols][cols] symmetric, or NULL */
    const float *diag;   /* [cols], where gram is NULL: its diagonal; or NULL */
    pr_encode_opts opts;
    /* Results: */
    pr_plane_book book;
    uint8_t *plane[PR_PLANE_COUNT]; /* caller's buffers, n_planes of them: whole planes, [tiles][tile bytes] */
    pr_encode_loss loss;
} pr_encode_job;

/* Memory beside the job's: about 2 * cols^2 + (some 140 a thread, at least 4 times that) * cols floats. PR_ERR_NOMEM, PR_ERR_FORMAT (numbers that are not finite), PR_ERR_ARG. */
pr_status pr_encode(pr_encode_job *job, const pr_kernels *k, pr_team *team, pr_err *err);

#endif
