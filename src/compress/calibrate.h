/*
 * Calibration: what the matrices of a model are multiplied with when it reads a text.
 *
 * The text is cut into chunks, each beginning with the model's start token if it wants one, and all of them go through
 * the model layer by layer with exact activations: the weights of one layer are in memory at a time (graph/weights_range.h),
 * the residual streams of all tokens wait (compress/streams.h). For every matrix the Gram matrix of its inputs comes out
 * (compress/gram.h), or its diagonal, and is handed over when its layer is done. At the end there are also: how often each token occurred,
 * the probability that the model gave it on average, and the logits of a few short texts ("probes") to compare with.
 *
 * The results do not depend on the number of threads.
 */
#ifndef PRECIS_COMPRESS_CALIBRATE_H
#define PRECIS_COMPRESS_CALIBRATE_H

#include "base/pool.h"
#include "kernels/kernels.h"
#include "store/model_file.h"

typedef struct pr_calibrate_opts {
    const char *text; /* NULL: the built-in text */
    size_t text_len;
    const pr_kernels *kernels;
    pr_team *team;
    uint32_t chunk_max;                           /* tokens of a chunk; 0: 512. At most the model's context */
    uint32_t n_tokens_max;                        /* of the text; 0: 16384 */
    uint32_t probe_max;                           /* tokens of a probe; 0: what 64 MB of logits hold */
    bool diagonal;                                /* of the Gram matrices their diagonals only */
    size_t stream_bytes;                          /* streams above this go to a file; 0: 1 GiB */
    const char *folder;                           /* for that file */
    const volatile int *cancel;                   /* looked at between chunks; may be NULL */
    void (*progress)(void *arg, double fraction); /* of the calibration; may be NULL */
    void *progress_arg;
} pr_calibrate_opts;

/* A matrix and its inputs. gram: [cols][cols], symmetric, the sum over n_rows rows; or diagonal: [cols] of it, the other is
 * NULL. Valid during the call. */
typedef struct pr_calibrated {
    const pr_tensor_info *tensor;
    const float *gram, *diagonal;
    uint32_t cols;
    uint64_t n_rows;
    bool head; /* its result is the logits */
} pr_calibrated;

/* Called layer by layer, in the order in which a layer uses its matrices; the team is free to be used. */
typedef pr_status pr_calibrated_fn(void *arg, const pr_calibrated *matrix, pr_err *err);

enum { PR_PROBES_MAX = 4 };

typedef struct pr_calibration {
    uint32_t n_vocab;
    double *frequency;   /* [n_vocab] share of the tokens fed */
    double *probability; /* [n_vocab] mean of what the model predicts */
    double nll;          /* mean of -log p(next token), over the rows whose logits were computed */
    uint64_t n_tokens;   /* fed, start tokens counted */
    uint32_t n_probes, probe_len;
    int32_t *probe_tokens; /* [n_probes][probe_len] */
    float *probe_logits;   /* [n_probes][probe_len][n_vocab] */
} pr_calibration;

/* PR_ERR_ARG for a text that is too short (64 tokens), PR_ERR_UNSUPPORTED for a model that cannot be cut between layers. */
pr_status pr_calibrate(const pr_model_file *file, const pr_calibrate_opts *opts, pr_calibrated_fn *fn, void *arg,
                       pr_calibration *out, pr_err *err);
void pr_calibration_free(pr_calibration *c); /* an all-zero struct is allowed */

#endif
