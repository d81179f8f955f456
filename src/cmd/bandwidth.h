/*
 * How fast this machine reads memory: the ceiling of decoding.
 */
#ifndef PRECIS_CMD_BANDWIDTH_H
#define PRECIS_CMD_BANDWIDTH_H

#include "base/status.h"

/* Bytes a second that n_threads together read from a buffer far larger than the caches; takes about a second. Runs
 * in a child process, so that its memory is not counted in this one's peak; call it before any thread is started. */
pr_status pr__bandwidth_measure(int n_threads, double *bytes_per_second, pr_err *err);

#endif
