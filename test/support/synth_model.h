/*
 * Tiny models for golden tests: one of each variant of the llama family, written to disk on the spot.
 *
 * No weights are committed. A weight is a pure function of its tensor's name and its index (below), so this file and
 * tools/goldens/logits.py make the same model, one to be read by precis, one to be run by an independent
 * implementation whose logits are committed in test/goldens/logits/.
 *
 * The generator: seed = FNV-1a 64 of the tensor's safetensors name; element i (row-major, as safetensors stores it) is
 * k = splitmix64(seed, i) / 2^32 mod 255 - 127, an integer in -127..127. A matrix or bias holds k * 2^-shift; a norm holds
 * (96 + (k + 128) / 4) / 128. All of them have at most 8 significant bits, so F32, F16, BF16 and (for matrices) Q8_0
 * files hold exactly the same numbers, and one golden serves them all.
 *
 * GGUF files follow llama.cpp's conversion: tensors named blk.N.attn_q.weight, and the rows of q and k reordered
 * within each head from halves (i, i + head_dim/2) to pairs (2i, 2i + 1).
 */
#ifndef PRECIS_TEST_SYNTH_MODEL_H
#define PRECIS_TEST_SYNTH_MODEL_H

#include "base/status.h"
#include "tensor/dtype.h"

typedef enum pr_tiny_rope {
    PR_TINY_ROPE_PLAIN,
    PR_TINY_ROPE_LINEAR,
    PR_TINY_ROPE_LLAMA3,
    PR_TINY_ROPE_YARN
} pr_tiny_rope;

/* How config.json writes the rope scaling: three habits that real files have. */
typedef enum pr_tiny_style {
    PR_TINY_STYLE_USUAL,     /* rope_theta, rope_scaling {rope_type, ...} */
    PR_TINY_STYLE_OLD,       /* rope_theta, rope_scaling {type, ...} */
    PR_TINY_STYLE_PARAMETERS /* rope_parameters {rope_theta, rope_type, ...}: transformers 5 */
} pr_tiny_style;

/* A zero (or NULL, or false) means what plain Llama 2 has, in the sizes given here. */
typedef struct pr_tiny_spec {
    const char *name;    /* also the golden's file name */
    bool mistral;        /* model_type in config.json; GGUF calls both llama */
    uint32_t dim;        /* 64 */
    uint32_t n_layers;   /* 2 */
    uint32_t n_heads;    /* 4 */
    uint32_t n_kv_heads; /* n_heads */
    uint32_t head_dim;   /* dim / n_heads */
    uint32_t n_ff;       /* 160 */
    uint32_t n_vocab;    /* 288 */
    uint32_t window;     /* sliding window; none */
    double eps;          /* 1e-5 */
    double theta;        /* 1e4 */
    bool tied, attn_bias, mlp_bias;
    int embed_shift; /* 6 */
    pr_tiny_rope rope;
    pr_tiny_style style;
    double rope_factor;
    uint32_t rope_context;        /* original context of llama3 and yarn */
    double rope_low, rope_high;   /* llama3: low_freq_factor, high_freq_factor; yarn: beta_slow, beta_fast */
    double rope_attention_factor; /* yarn: what cos and sin are multiplied with */
} pr_tiny_spec;

extern const pr_tiny_spec pr_tiny_specs[];
extern const size_t pr_tiny_n_specs;

/* Matrices are stored as `matrices` (PR_F32, PR_F16, PR_BF16 or PR_Q8_0), norms and biases as F32. */
pr_status pr_tiny_write_gguf(const pr_tiny_spec *spec, pr_dtype matrices, const char *path, pr_err *err);
/* Writes config.json, tokenizer.json and model.safetensors into an existing folder; dtype is PR_F32, PR_F16 or PR_BF16. */
pr_status pr_tiny_write_safetensors(const pr_tiny_spec *spec, pr_dtype dtype, const char *dir, pr_err *err);

#endif
