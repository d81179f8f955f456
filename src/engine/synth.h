/*
 * Synthetic models: llama-style GGUF files with random weights, for benchmarks
 * and tests where only shape and speed matter.
 *
 * The same shape, type and seed give the same bytes on every machine. Any GGUF
 * reader can load the file: the vocabulary is a SentencePiece one with byte
 * tokens and made-up pieces.
 */
#ifndef PRECIS_ENGINE_SYNTH_H
#define PRECIS_ENGINE_SYNTH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/dtype.h"

typedef struct pr_synth_shape {
    const char *name; /* "1.1b" */
    uint32_t dim, n_layers, n_heads, n_kv_heads, head_dim, n_ff;
    uint32_t n_vocab; /* at least 356: special tokens, bytes and printable ASCII */
    bool tied;        /* no output.weight: the embedding is used twice */
    uint32_t context;
    float rope_theta;
} pr_synth_shape;

/* "25m" (for tests), "135m" (SmolLM2-135M), "1.1b" (TinyLlama) or "7b" (Llama 2); NULL when there is no such shape. */
const pr_synth_shape *pr_synth_shape_by_name(const char *name);

/*
 * Write a model; matrices in `type` (F32, F16, BF16, Q8_0, Q4_0, Q4_1), norms in F32. progress(arg, 0..1) may be
 * NULL. Memory: 10 MB whatever the shape. PR_ERR_ARG names the field of shape that cannot be.
 */
pr_status pr_synth_write(const char *path, const pr_synth_shape *shape, pr_dtype type, uint64_t seed,
                         void (*progress)(void *arg, double fraction), void *progress_arg, pr_err *err);

#endif
