/*
 * Nested planes times 8-bit blocks with 8 lanes: what the AVX2 and the
 * AVX-VNNI body share. Internal to kernels/.
 *
 * The includer defines before, because the instructions for it differ:
 *   PR__PLANE_TOKENS     tokens at once from a panel: 6 or 8
 *   more_of(level)       what is added to weights, so that their bytes are as the instructions want them
 *   start_of(level, x)   where the sum of a block begins, to take that out again: -more_of(level) times the sum of its q
 *   dot(...)             adds 16 columns of 8 rows times each token's q[16] from a column of its block
 *
 * Eight rows at a time: the other eight are decoded when these are done, which
 * leaves registers for the sums of several tokens.
 */
#ifndef PRECIS_KERNELS_AVX2_PLANES_Q8_H
#define PRECIS_KERNELS_AVX2_PLANES_Q8_H

#include "kernels/avx2/planes.h"

enum { TOKENS_FEW = 4, TOKENS = PR__PLANE_TOKENS, PANEL_BLOCK = 64 + 512 };

PR_INLINE void direct_of(pr_plane level, int tokens, const pr__plane_span *s) {
    const plane_tables tables = plane_tables_of(level, s->book, more_of(level));
    const pr__plane_run at = s->at[0], soon = s->soon[0];
    __m256 acc[TOKENS_FEW][2];
    for (int t = 0; t < tokens; t++) {
        for (int half = 0; half < 2; half++) {
            const float *y = s->y + (size_t)t * s->y_stride + 8 * half;
            acc[t][half] = s->first ? _mm256_setzero_ps() : _mm256_loadu_ps(y);
        }
    }
    const uint8_t *x = s->x;
    for (size_t b = 0; b < s->n_blocks; b++, x += sizeof(pr_qblock)) {
        plane_prefetch(level, &soon, b);
        __m256i isum[2][TOKENS_FEW], w[4];
        for (int t = 0; t < tokens; t++) {
            isum[0][t] = isum[1][t] = start_of(level, block_of(x, s->x_stride, t));
        }
        for (size_t g = 0; g < 2; g++) {
            for (size_t half = 0; half < 2; half++) {
                plane_bytes(level, &tables, &at, b, g, half, w);
                dot(level, tokens, w, x, s->x_stride, 16 * g, isum[half]);
            }
        }
        for (size_t half = 0; half < 2; half++) {
            __m256 scales = plane_scales(&at, b, half);
            for (int t = 0; t < tokens; t++) {
                __m256 scale = _mm256_mul_ps(scales, _mm256_broadcast_ss(&block_of(x, s->x_stride, t)->d));
                acc[t][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum[half][t]), scale, acc[t][half]);
            }
        }
    }
    for (int half = 0; half < 2; half++) {
        __m256 rows = _mm256_mul_ps(load_f16(s->rows[0] + 16 * half), _mm256_set1_ps(s->factor));
        for (int t = 0; t < tokens; t++) {
            __m256 sum = s->last ? _mm256_mul_ps(acc[t][half], rows) : acc[t][half];
            _mm256_storeu_ps(s->y + (size_t)t * s->y_stride + 8 * half, sum);
        }
    }
}

PR_INLINE void direct(pr_plane level, const pr__plane_span *s, uint32_t n_tokens) {
    switch (n_tokens) {
    case 1: direct_of(level, 1, s); break;
    case 2: direct_of(level, 2, s); break;
    case 3: direct_of(level, 3, s); break;
    case 4: direct_of(level, 4, s); break;
    }
}

/* One tile each: the plan asks for no more. */
static void direct_int2(const pr__plane_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    (void)n_tiles;
    direct(PR_PLANE_P2, s, n_tokens);
}

static void direct_int4(const pr__plane_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    (void)n_tiles;
    direct(PR_PLANE_P4, s, n_tokens);
}

static void direct_int8(const pr__plane_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    (void)n_tiles;
    direct(PR_PLANE_P8, s, n_tokens);
}

/* ---- by panel: for each block float scales[16], then bytes [2 halves][8][8 rows][4] ---- */

PR_INLINE void decode(pr_plane level, const pr__plane_span *s, uint32_t i, uint8_t *panel) {
    const plane_tables tables = plane_tables_of(level, s->book, more_of(level));
    for (size_t b = 0; b < s->n_blocks; b++, panel += PANEL_BLOCK) {
        for (size_t half = 0; half < 2; half++) {
            _mm256_store_ps((float *)(void *)(panel + 32 * half), plane_scales(&s->at[i], b, half));
            for (size_t g = 0; g < 2; g++) {
                __m256i w[4];
                plane_bytes(level, &tables, &s->at[i], b, g, half, w);
                for (size_t f = 0; f < 4; f++) {
                    _mm256_store_si256((__m256i *)(void *)(panel + 64 + 256 * half + 32 * (4 * g + f)), w[f]);
                }
            }
        }
    }
}

static void decode_int2(const pr__plane_span *s, uint32_t i, uint8_t *panel) { decode(PR_PLANE_P2, s, i, panel); }

static void decode_int4(const pr__plane_span *s, uint32_t i, uint8_t *panel) { decode(PR_PLANE_P4, s, i, panel); }

static void decode_int8(const pr__plane_span *s, uint32_t i, uint8_t *panel) { decode(PR_PLANE_P8, s, i, panel); }

PR_INLINE void span_of(pr_plane level, int tokens, const pr__mm_span *s) {
    __m256 acc[TOKENS][2];
    for (int t = 0; t < tokens; t++) {
        const float *y = s->y + (size_t)t * s->y_stride;
        acc[t][0] = s->first ? _mm256_setzero_ps() : _mm256_loadu_ps(y);
        acc[t][1] = s->first ? _mm256_setzero_ps() : _mm256_loadu_ps(y + 8);
    }
    const uint8_t *panel = s->w, *x = s->x;
    for (uint32_t b = 0; b < s->n_units; b++, panel += PANEL_BLOCK, x += sizeof(pr_qblock)) {
        if (s->soon) plane_prefetch(level, s->soon, b);
        for (int half = 0; half < 2; half++) {
            __m256i isum[TOKENS];
            for (int t = 0; t < tokens; t++) {
                isum[t] = start_of(level, block_of(x, s->x_stride, t));
            }
            for (size_t g = 0, groups = (size_t)opaque(2); g < groups; g++) {
                __m256i w[4];
                for (size_t f = 0; f < 4; f++) {
                    w[f] = load_bytes(panel + 64 + 256 * half + 32 * (4 * g + f));
                }
                dot(level, tokens, w, x, s->x_stride, 16 * g, isum);
            }
            __m256 scales = _mm256_load_ps((const float *)(const void *)panel + 8 * half);
            for (int t = 0; t < tokens; t++) {
                __m256 scale = _mm256_mul_ps(scales, _mm256_broadcast_ss(&block_of(x, s->x_stride, t)->d));
                acc[t][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum[t]), scale, acc[t][half]);
            }
        }
    }
    for (int t = 0; t < tokens; t++) {
        float *y = s->y + (size_t)t * s->y_stride;
        _mm256_storeu_ps(y, acc[t][0]);
        _mm256_storeu_ps(y + 8, acc[t][1]);
    }
}

PR_INLINE void span(pr_plane level, const pr__mm_span *s, uint32_t n_tokens) {
    switch (n_tokens) {
    case 1: span_of(level, 1, s); break;
    case 2: span_of(level, 2, s); break;
    case 3: span_of(level, 3, s); break;
    case 4: span_of(level, 4, s); break;
    case 5: span_of(level, 5, s); break;
    case 6: span_of(level, 6, s); break;
#if PR__PLANE_TOKENS > 6
    case 7: span_of(level, 7, s); break;
    case 8: span_of(level, 8, s); break;
#endif
    }
}

static void span_int2(const pr__mm_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    (void)n_tiles;
    span(PR_PLANE_P2, s, n_tokens);
}

static void span_int4(const pr__mm_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    (void)n_tiles;
    span(PR_PLANE_P4, s, n_tokens);
}

static void span_int8(const pr__mm_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    (void)n_tiles;
    span(PR_PLANE_P8, s, n_tokens);
}

/* In plain C this was a twentieth of a step of eight tokens where rows are short. */
static void finish(const pr__plane_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    for (uint32_t i = 0; i < n_tiles; i++) {
        for (size_t half = 0; half < 2; half++) {
            __m256 rows = _mm256_mul_ps(load_f16(s->rows[i] + 16 * half), _mm256_set1_ps(s->factor));
            float *y = s->y + (size_t)i * PR_TILE_ROWS + 8 * half;
            for (uint32_t t = 0; t < n_tokens; t++, y += s->y_stride) {
                _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_loadu_ps(y), rows));
            }
        }
    }
}

static void walk(const pr_plane_args *args, pr__plane_plan plan) {
    plan.q8 = true;
    plan.finish = finish;
    plan.tiles = plan.panel_tiles = 1;
    plan.tokens = TOKENS_FEW;
    plan.panel_tokens = TOKENS;
    plan.panel_block = PANEL_BLOCK;
    pr__planes_walk(args, &plan);
}

static void planes_int2(const pr_plane_args *args) {
    walk(args, (pr__plane_plan){.level = PR_PLANE_P2, .direct = direct_int2, .decode = decode_int2, .span = span_int2});
}

static void planes_int4(const pr_plane_args *args) {
    walk(args, (pr__plane_plan){.level = PR_PLANE_P4, .direct = direct_int4, .decode = decode_int4, .span = span_int4});
}

static void planes_int8(const pr_plane_args *args) {
    walk(args, (pr__plane_plan){.level = PR_PLANE_P8, .direct = direct_int8, .decode = decode_int8, .span = span_int8});
}

#endif
