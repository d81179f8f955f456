/*
 * Streaming attention, AVX2: one tile into the states of many queries.
 *
 * Up to 3 queries go together, so that twelve chains hide the latency of the
 * fma and each number of K and V is loaded once for all of them. Scores: four
 * registers a query hold the 32 tokens, and the chain runs over dimensions.
 * Values: four registers a query hold 32 dimensions, and the chain runs over
 * tokens. Queries at the edge of the causal mask see different tokens of the
 * tile: those that all of them see are walked together, the rest one by one.
 */
#include <math.h>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

enum { QUERIES = 3 };

/* What the queries of a group need between the two halves. */
typedef struct group {
    float p[QUERIES][PR_KV_TOKENS]; /* exp(s - m'), 0 where absent */
    float c[QUERIES];               /* exp(m - m') */
    float *acc[QUERIES];
    uint32_t lo[QUERIES], hi[QUERIES];
    const void *v;
    const uint8_t *soon_k, *soon_v;
    size_t v_dim;
} group;

/* 8 numbers of a tile. */
PR_INLINE __m256 numbers(const void *p, size_t at, bool f16) {
    return f16 ? load_f16((const uint16_t *)p + at) : _mm256_loadu_ps((const float *)p + at);
}

/* From scores to p, and the state's m and l. */
PR_INLINE void settle(group *g, int i, pr_attn_state *state, const __m256 s[4]) {
    __m256 there[4], max = _mm256_set1_ps(state->m), p[4];
    for (int n = 0; n < 4; n++) {
        __m256i slot = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(8 * n));
        __m256i below_hi = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)g->hi[i]), slot);
        __m256i below_lo = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)g->lo[i]), slot);
        there[n] = _mm256_castsi256_ps(_mm256_andnot_si256(below_lo, below_hi));
        max = _mm256_max_ps(_mm256_blendv_ps(max, s[n], there[n]), max); /* a NaN never becomes the maximum */
    }
    float m = max_of(max);
    for (int n = 0; n < 4; n++) {
        p[n] = _mm256_and_ps(exp_ps(_mm256_sub_ps(s[n], _mm256_set1_ps(m))), there[n]);
        _mm256_storeu_ps(g->p[i] + 8 * n, p[n]);
    }
    float sum = sum16(_mm256_add_ps(p[0], p[2]), _mm256_add_ps(p[1], p[3]));
    g->c[i] = _mm256_cvtss_f32(exp_ps(_mm256_set1_ps(state->m - m)));
    state->l = fmaf(state->l, g->c[i], sum);
    state->m = m;
}

PR_INLINE void scores(int n_q, bool f16, const float *const *q, uint32_t head_dim, const void *k, pr_attn_state *states,
                      group *g) {
    __m256 s[QUERIES][4];
    for (int i = 0; i < n_q; i++) {
        for (int n = 0; n < 4; n++) {
            s[i][n] = _mm256_setzero_ps();
        }
    }
    for (size_t d = 0; d < head_dim; d++) {
        if (f16) prefetch(g->soon_k + d * sizeof(uint16_t[PR_KV_TOKENS]), sizeof(uint16_t[PR_KV_TOKENS]));
        __m256 x[QUERIES];
        for (int i = 0; i < n_q; i++) {
            x[i] = _mm256_broadcast_ss(q[i] + d);
        }
        for (int n = 0; n < 4; n++) {
            __m256 keys = numbers(k, d * PR_KV_TOKENS + 8 * (size_t)n, f16);
            for (int i = 0; i < n_q; i++) {
                s[i][n] = _mm256_fmadd_ps(x[i], keys, s[i][n]);
            }
        }
    }
    for (int i = 0; i < n_q; i++) {
        settle(g, i, states + i, s[i]);
    }
}

/* Tokens j0 .. j1 into 8 * n_v dimensions from dim of queries first .. first + n_q. */
PR_INLINE void values_dims(int n_q, int n_v, bool f16, const group *g, int first, size_t dim, uint32_t j0,
                           uint32_t j1) {
    __m256 acc[QUERIES][4];
    for (int i = 0; i < n_q; i++) {
        __m256 c = _mm256_set1_ps(g->c[first + i]);
        for (int n = 0; n < n_v; n++) {
            acc[i][n] = _mm256_mul_ps(_mm256_load_ps(g->acc[first + i] + dim + 8 * n), c);
        }
    }
    for (size_t j = j0; j < j1; j++) {
        if (f16) prefetch(g->soon_v + (j * g->v_dim + dim) * sizeof(uint16_t), 8 * (size_t)n_v * sizeof(uint16_t));
        __m256 p[QUERIES];
        for (int i = 0; i < n_q; i++) {
            p[i] = _mm256_broadcast_ss(g->p[first + i] + j);
        }
        for (int n = 0; n < n_v; n++) {
            __m256 x = numbers(g->v, j * g->v_dim + dim + 8 * (size_t)n, f16);
            for (int i = 0; i < n_q; i++) {
                acc[i][n] = _mm256_fmadd_ps(p[i], x, acc[i][n]);
            }
        }
    }
    for (int i = 0; i < n_q; i++) {
        for (int n = 0; n < n_v; n++) {
            _mm256_store_ps(g->acc[first + i] + dim + 8 * n, acc[i][n]);
        }
    }
}

/* The accumulators are scaled by c on the way, which becomes 1: the next part of the same tile must not do it again. */
PR_INLINE void values_part(int n_q, bool f16, group *g, int first, uint32_t j0, uint32_t j1) {
    size_t dim = 0;
    for (; dim + 32 <= g->v_dim; dim += 32) {
        values_dims(n_q, 4, f16, g, first, dim, j0, j1);
    }
    if (dim < g->v_dim) {
        values_dims(n_q, 2, f16, g, first, dim, j0, j1);
    }
    for (int i = 0; i < n_q; i++) {
        g->c[first + i] = 1.0f;
    }
}

PR_INLINE void values(int n_q, bool f16, group *g) {
    uint32_t lo = g->lo[0], hi = g->hi[0]; /* what all of them see */
    for (int i = 1; i < n_q; i++) {
        lo = g->lo[i] > lo ? g->lo[i] : lo;
        hi = g->hi[i] < hi ? g->hi[i] : hi;
    }
    if (lo >= hi) {
        for (int i = 0; i < n_q; i++) {
            values_part(1, f16, g, i, g->lo[i], g->hi[i]);
        }
        return;
    }
    for (int i = 0; i < n_q; i++) {
        if (g->lo[i] < lo) {
            values_part(1, f16, g, i, g->lo[i], lo);
        }
    }
    values_part(n_q, f16, g, 0, lo, hi);
    for (int i = 0; i < n_q; i++) {
        if (g->hi[i] > hi) {
            values_part(1, f16, g, i, hi, g->hi[i]);
        }
    }
}

PR_INLINE void attend_group(int n_q, const float *const *q, pr_attn_state *states, const uint8_t *lo, const uint8_t *hi,
                            uint32_t head_dim, const pr_attn_tile *tile, bool f16) {
    group g;
    g.v = tile->v;
    g.soon_k = tile->soon_k ? tile->soon_k : tile->k;
    g.soon_v = tile->soon_v ? tile->soon_v : tile->v;
    g.v_dim = (head_dim + 15) / 16 * 16;
    for (int i = 0; i < n_q; i++) {
        g.acc[i] = states[i].acc;
        g.lo[i] = lo[i];
        g.hi[i] = hi[i];
    }
    scores(n_q, f16, q, head_dim, tile->k, states, &g);
    values(n_q, f16, &g);
}

PR_INLINE void attend_all(const float *const *q, pr_attn_state *states, const uint8_t *lo, const uint8_t *hi,
                          uint32_t n_q, uint32_t head_dim, const pr_attn_tile *tile, bool f16) {
    uint32_t i = 0;
    for (; i + 3 <= n_q; i += 3) {
        attend_group(3, q + i, states + i, lo + i, hi + i, head_dim, tile, f16);
    }
    switch (n_q - i) {
    case 1: attend_group(1, q + i, states + i, lo + i, hi + i, head_dim, tile, f16); break;
    case 2: attend_group(2, q + i, states + i, lo + i, hi + i, head_dim, tile, f16); break;
    }
}

void pr__avx2_attend(const float *const *q, pr_attn_state *states, const uint8_t *lo, const uint8_t *hi, uint32_t n_q,
                     uint32_t head_dim, const pr_attn_tile *tile) {
    if (tile->f16) attend_all(q, states, lo, hi, n_q, head_dim, tile, true);
    else attend_all(q, states, lo, hi, n_q, head_dim, tile, false);
}
