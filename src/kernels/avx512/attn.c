/*
 * Streaming attention, AVX-512: one tile into the states of many queries. As
 * in AVX2, with two registers for the 32 tokens of a query's scores, four for
 * 64 dimensions of its sum, and up to 6 queries together.
 */
#include <math.h>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

enum { QUERIES = 6 };

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

/* 16 numbers of a tile. */
PR_INLINE __m512 numbers(const void *p, size_t at, bool f16) {
    return f16 ? load_f16((const uint16_t *)p + at) : _mm512_loadu_ps((const float *)p + at);
}

/* From scores to p, and the state's m and l. */
PR_INLINE void settle(group *g, int i, pr_attn_state *state, __m512 s0, __m512 s1) {
    uint32_t there = (uint32_t)((1ull << g->hi[i]) - (1ull << g->lo[i]));
    __mmask16 t0 = (__mmask16)there, t1 = (__mmask16)(there >> 16);
    __m512 max = _mm512_set1_ps(state->m);
    max = _mm512_mask_max_ps(max, t0, s0, max); /* a NaN never becomes the maximum */
    max = _mm512_mask_max_ps(max, t1, s1, max);
    float m = max_of(max);
    __m512 ms = _mm512_set1_ps(m);
    __m512 p0 = _mm512_maskz_mov_ps(t0, exp_ps(_mm512_sub_ps(s0, ms)));
    __m512 p1 = _mm512_maskz_mov_ps(t1, exp_ps(_mm512_sub_ps(s1, ms)));
    _mm512_storeu_ps(g->p[i], p0);
    _mm512_storeu_ps(g->p[i] + 16, p1);
    g->c[i] = _mm512_cvtss_f32(exp_ps(_mm512_set1_ps(state->m - m)));
    state->l = fmaf(state->l, g->c[i], sum16(_mm512_add_ps(p0, p1)));
    state->m = m;
}

PR_INLINE void scores(int n_q, bool f16, const float *const *q, uint32_t head_dim, const void *k, pr_attn_state *states,
                      group *g) {
    __m512 s[QUERIES][2];
    for (int i = 0; i < n_q; i++) {
        s[i][0] = s[i][1] = _mm512_setzero_ps();
    }
    for (size_t d = 0; d < head_dim; d++) {
        if (f16) prefetch(g->soon_k + d * sizeof(uint16_t[PR_KV_TOKENS]), sizeof(uint16_t[PR_KV_TOKENS]));
        __m512 k0 = numbers(k, d * PR_KV_TOKENS, f16), k1 = numbers(k, d * PR_KV_TOKENS + 16, f16);
        for (int i = 0; i < n_q; i++) {
            __m512 x = _mm512_set1_ps(q[i][d]);
            s[i][0] = _mm512_fmadd_ps(x, k0, s[i][0]);
            s[i][1] = _mm512_fmadd_ps(x, k1, s[i][1]);
        }
    }
    for (int i = 0; i < n_q; i++) {
        settle(g, i, states + i, s[i][0], s[i][1]);
    }
}

/* Tokens j0 .. j1 into 16 * n_v dimensions from dim of queries first .. first + n_q. */
PR_INLINE void values_dims(int n_q, int n_v, bool f16, const group *g, int first, size_t dim, uint32_t j0,
                           uint32_t j1) {
    __m512 acc[QUERIES][4];
    for (int i = 0; i < n_q; i++) {
        __m512 c = _mm512_set1_ps(g->c[first + i]);
        for (int n = 0; n < n_v; n++) {
            acc[i][n] = _mm512_mul_ps(_mm512_load_ps(g->acc[first + i] + dim + 16 * n), c);
        }
    }
    for (size_t j = j0; j < j1; j++) {
        if (f16) prefetch(g->soon_v + (j * g->v_dim + dim) * sizeof(uint16_t), 16 * (size_t)n_v * sizeof(uint16_t));
        __m512 row[4];
        for (int n = 0; n < n_v; n++) {
            row[n] = numbers(g->v, j * g->v_dim + dim + 16 * (size_t)n, f16);
        }
        for (int i = 0; i < n_q; i++) {
            __m512 p = _mm512_set1_ps(g->p[first + i][j]);
            for (int n = 0; n < n_v; n++) {
                acc[i][n] = _mm512_fmadd_ps(p, row[n], acc[i][n]);
            }
        }
    }
    for (int i = 0; i < n_q; i++) {
        for (int n = 0; n < n_v; n++) {
            _mm512_store_ps(g->acc[first + i] + dim + 16 * n, acc[i][n]);
        }
    }
}

/* The accumulators are scaled by c on the way, which becomes 1: the next part of the same tile must not do it again. */
PR_INLINE void values_part(int n_q, bool f16, group *g, int first, uint32_t j0, uint32_t j1) {
    size_t dim = 0;
    for (; dim + 64 <= g->v_dim; dim += 64) {
        values_dims(n_q, 4, f16, g, first, dim, j0, j1);
    }
    for (; dim < g->v_dim; dim += 16) {
        values_dims(n_q, 1, f16, g, first, dim, j0, j1);
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
    while (n_q > 0) { /* 8 queries as 4 + 4, not 6 + 2 */
        uint32_t groups = (n_q + QUERIES - 1) / QUERIES, n = (n_q + groups - 1) / groups;
        switch (n) {
        case 1: attend_group(1, q, states, lo, hi, head_dim, tile, f16); break;
        case 2: attend_group(2, q, states, lo, hi, head_dim, tile, f16); break;
        case 3: attend_group(3, q, states, lo, hi, head_dim, tile, f16); break;
        case 4: attend_group(4, q, states, lo, hi, head_dim, tile, f16); break;
        case 5: attend_group(5, q, states, lo, hi, head_dim, tile, f16); break;
        case 6: attend_group(6, q, states, lo, hi, head_dim, tile, f16); break;
        }
        q += n;
        states += n;
        lo += n;
        hi += n;
        n_q -= n;
    }
}

void pr__avx512_attend(const float *const *q, pr_attn_state *states, const uint8_t *lo, const uint8_t *hi, uint32_t n_q,
                       uint32_t head_dim, const pr_attn_tile *tile) {
    if (tile->f16) attend_all(q, states, lo, hi, n_q, head_dim, tile, true);
    else attend_all(q, states, lo, hi, n_q, head_dim, tile, false);
}
