/*
 * Rotary embedding frequencies and their long-context scalings.
 */
#ifndef PRECIS_MODEL_ROPE_H
#define PRECIS_MODEL_ROPE_H

#include "graph/ir.h"

typedef enum pr_rope_scaling { PR_ROPE_PLAIN, PR_ROPE_LINEAR, PR_ROPE_LLAMA3, PR_ROPE_YARN } pr_rope_scaling;

typedef struct pr_rope {
    uint32_t n_rot; /* numbers rotated in each head; even */
    float base;     /* theta */
    pr_rope_scaling scaling;
    float factor;               /* how much longer than trained */
    float context_original;     /* tokens the model was first trained for */
    float low_freq, high_freq;  /* llama3 */
    float beta_fast, beta_slow; /* yarn */
    float attention_factor;     /* yarn: of cos and sin; 0: 1 + ln(factor) / 10 */
    float attention_scale;      /* yarn: times that one */
} pr_rope;

/* The constant node of n_rot/2 inverse frequencies; *table_factor is what cos and sin are multiplied with. */
pr_node_id pr_rope_freqs(pr_graph *g, const pr_rope *rope, float *table_factor);

#endif
