/*
 * Packing: from any model file to a plane file (store/planes.h), which holds every precision at once.
 *
 * Calibrated, the model reads a text first (compress/calibrate.h), each matrix is encoded for what it is multiplied with
 * (store/encode.h), and then it is measured what each matrix is worth (compress/measure.h). Fast, it reads no more than tells
 * how much each column counts: nearest codes, an order by kind of matrix, and only the levels are measured.
 *
 * The file appears under its name when it is whole. Memory: the packed weights and floats of a layer, its Gram matrices,
 * and what the encoder needs; for measuring, the model's planes up to p8, if there is room.
 */
#ifndef PRECIS_COMPRESS_PACK_H
#define PRECIS_COMPRESS_PACK_H

#include "base/status.h"
#include "kernels/planes.h"

typedef struct pr_pack_opts {
    const char *text; /* to calibrate with; NULL: the built-in one */
    size_t text_len;
    const char *text_name; /* as the file will say it; NULL: "built-in" */
    bool fast;
    int n_threads; /* 0: what affinity and the CPU quota allow */
    int nice;
    uint32_t cpumask;      /* ISA bits allowed; 0: all */
    uint32_t n_tokens_max; /* of the text; 0: 16384, fast: 512 */
    double measure_work;   /* multiply-adds, about; 0: 16e12, below 0: nothing is measured */
    uint64_t unit_bytes;   /* of p2 in a unit; 0: a 400th of all, 16 KiB to 8 MiB */
    const volatile int *cancel;
    void (*progress)(void *arg, const char *stage, double fraction); /* fraction of the whole; may be NULL */
    void *progress_arg;
} pr_pack_opts;

typedef struct pr_pack_report {
    uint64_t source_bytes, file_bytes;
    uint64_t n_weights; /* in packed matrices */
    uint32_t n_matrices, n_kept, n_units, n_increments, n_planes;
    uint32_t level_cursor[PR_PLANE_COUNT];
    double level_bits[PR_PLANE_COUNT]; /* a weight */
    double level_kl[PR_PLANE_COUNT];
    bool kl_measured;     /* against the source; else a guess by the table */
    uint32_t n_measured;  /* matrices that were measured one by one; fast: levels */
    uint32_t measured_to; /* increments up to which the KL rests on that; beyond it is extrapolated */
    uint64_t n_tokens;    /* calibrated with */
    double nll;           /* of the text, a token, in nats */
    double seconds_encode, seconds_measure, seconds;
    char note[256]; /* for people: what should be known about this source; "" if nothing */
} pr_pack_report;

/* PR_ERR_ARG when out is the source, or the source is packed already; PR_ERR_CANCELLED. Whatever fails, nothing is left
 * behind and what stood at `out` still stands there. */
pr_status pr_pack_model(const char *source, const char *out, const pr_pack_opts *opts, pr_pack_report *report,
                        pr_err *err);

#endif
