/*
 * Measuring what a level does: the KL divergence of a plane file from its source, on the probes of a calibration.
 *
 * The file is opened with exact activations, so that nothing but weights differs. One matrix at a time is then read at a
 * lower level: everything before its layer stays as it was, so a run begins at that layer with the streams of the
 * untouched model (graph/exec_range.h).
 */
#ifndef PRECIS_COMPRESS_MEASURE_H
#define PRECIS_COMPRESS_MEASURE_H

#include "base/pool.h"
#include "compress/calibrate.h"
#include "kernels/planes.h"
#include "store/planes.h"

typedef struct pr_measure pr_measure;

/*
 * path: a plane file, finished or not; cal is borrowed and its probe_logits are turned into probabilities. most: P4, for
 * units only, or P16. Loads the planes up to p8, and p16 where that leaves most of the memory free, or those of int4.
 * PR_ERR_LIMIT when not even so much does.
 */
pr_status pr_measure_open(const char *path, pr_calibration *cal, pr_plane most, const pr_kernels *k, pr_team *team,
                          pr_measure **out, pr_err *err);
void pr_measure_close(pr_measure *m); /* NULL is allowed */

/* The highest plane that is loaded. */
pr_plane pr_measure_top(const pr_measure *m);

/* Tokens that the measurement of one matrix reads. */
uint32_t pr_measure_rows(const pr_measure *m);

/* Mean KL(plane file as it is || with matrix `tensor` read at most at `level`), in a run that begins at layer `from`, the
 * first that uses the matrix. */
pr_status pr_measure_matrix(pr_measure *m, uint32_t tensor, pr_plane level, uint32_t from, double *kl, pr_err *err);

/* Mean KL(source || model) with each unit at level[unit] (number in the file). */
pr_status pr_measure_units(pr_measure *m, const uint8_t *level, double *kl, pr_err *err);

#endif
