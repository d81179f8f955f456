/*
 * Streaming attention, scalar: one tile of up to 32 tokens into the running
 * state of each query (kernels.h has the recurrence). Tokens outside [lo, hi)
 * are skipped, not multiplied by zero: what lies there may be anything, and 0
 * times anything is not 0.
 */
#include <math.h>

#include "kernels/scalar/scalar.h"
#include "tensor/dtype.h"

static float number(const pr_attn_tile *tile, const void *part, size_t i) {
    return tile->f16 ? pr_f16_to_f32(((const uint16_t *)part)[i]) : ((const float *)part)[i];
}

static void attend_one(const float *q, pr_attn_state *state, uint32_t lo, uint32_t hi, uint32_t head_dim,
                       const pr_attn_tile *tile) {
    float p[PR_KV_TOKENS] = {0}, sums[16];
    float max = state->m;
    size_t v_dim = (head_dim + 15) / 16 * 16;
    for (uint32_t j = lo; j < hi; j++) {
        for (size_t d = 0; d < head_dim; d++) {
            p[j] = fmaf(q[d], number(tile, tile->k, d * PR_KV_TOKENS + j), p[j]);
        }
        max = p[j] > max ? p[j] : max;
    }
    float c = pr_expf(state->m - max);
    for (uint32_t j = lo; j < hi; j++) {
        p[j] = pr_expf(p[j] - max);
    }
    for (int i = 0; i < 16; i++) {
        sums[i] = p[i] + p[i + 16];
    }
    state->l = fmaf(state->l, c, pr__sum16_tree(sums));
    state->m = max;
    for (size_t d = 0; d < v_dim; d++) {
        float acc = state->acc[d] * c;
        for (size_t j = lo; j < hi; j++) {
            acc = fmaf(p[j], number(tile, tile->v, j * v_dim + d), acc);
        }
        state->acc[d] = acc;
    }
}

void pr__scalar_attend(const float *const *q, pr_attn_state *states, const uint8_t *lo, const uint8_t *hi, uint32_t n_q,
                       uint32_t head_dim, const pr_attn_tile *tile) {
    for (uint32_t i = 0; i < n_q; i++) {
        attend_one(q[i], states + i, lo[i], hi[i], head_dim, tile);
    }
}
