/*
 * The residual streams of all calibration tokens, between one range of layers and the next: [n_rows][cols] floats.
 *
 * In memory up to a bound, else in a file without a name, which goes away with the process.
 */
#ifndef PRECIS_COMPRESS_STREAMS_H
#define PRECIS_COMPRESS_STREAMS_H

#include "base/status.h"

typedef struct pr_streams {
    uint64_t n_rows;
    uint32_t cols;
    float *memory; /* NULL: in the file */
    int fd;        /* -1: none */
} pr_streams;

/* folder: where a file would be made. */
pr_status pr_streams_open(pr_streams *s, uint64_t n_rows, uint32_t cols, size_t bytes_max, const char *folder,
                          pr_err *err);
void pr_streams_close(pr_streams *s); /* an all-zero struct is allowed */

pr_status pr_streams_get(const pr_streams *s, uint64_t row, uint32_t n, float *out, pr_err *err);
pr_status pr_streams_put(pr_streams *s, uint64_t row, uint32_t n, const float *in, pr_err *err);

#endif
