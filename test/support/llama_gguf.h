/*
 * Test support: small llama models as GGUF, of any matrix type, whole or broken on purpose.
 *
 * synth_model.h writes models that an independent reference knows; these here need no reference, only variety: mixed
 * and block types, sizes that are no multiple of anything, a tensor left out or bent, a key that lies.
 */
#ifndef PRECIS_TEST_LLAMA_GGUF_H
#define PRECIS_TEST_LLAMA_GGUF_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/dtype.h"

/* A zero (or NULL, or false) means the value given in the comment. */
typedef struct llama_gguf {
    uint32_t dim;        /* 64 */
    uint32_t n_layers;   /* 3 */
    uint32_t n_heads;    /* 4 */
    uint32_t n_kv_heads; /* 2 */
    uint32_t head_dim;   /* dim / n_heads */
    uint32_t n_ff;       /* 96 */
    uint32_t n_vocab;    /* 309: 3 special tokens, 256 bytes, then words of two letters */
    uint32_t context;    /* 256 */
    uint32_t window;     /* no sliding window */
    pr_dtype type;       /* of matrices; F32 where rows are not whole blocks of it */
    const char *other;   /* tensors whose name contains this ... */
    pr_dtype other_type; /* ... are of this type */
    bool tied, rope_divisors;
    bool bias;    /* for q, k, v, attn_output and ffn_down */
    bool ff_bias; /* for ffn_gate and ffn_up */
    uint64_t seed;
    const char *chat_template;
    /* What is wrong with it: */
    const char *arch;              /* "llama" */
    const char *lie;               /* this u32 key ... */
    uint32_t lie_value;            /* ... says this (added when the file would not have it) */
    const char *text_key, *text;   /* this key says this string */
    const char *without;           /* this tensor or key is left out */
    const char *bent;              /* this tensor ... */
    uint32_t bent_cols, bent_rows; /* ... has this shape (rows 0: a vector) */
} llama_gguf;

enum { LLAMA_GGUF_FIRST_BYTE = 3, LLAMA_GGUF_FIRST_WORD = 259, LLAMA_GGUF_BOS = 1, LLAMA_GGUF_EOS = 2 };

/* Fails the test when it cannot. */
void llama_gguf_write(const llama_gguf *model, const char *path);

#endif
