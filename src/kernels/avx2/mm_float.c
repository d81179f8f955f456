/*
 * Matrix times float vectors, AVX2: every pack.
 *
 * A tile's column of 16 rows is two registers; each row's chain is one fused
 * multiply-add a column, four cycles long, so at least eight chains must run
 * side by side: up to 6 tokens of one tile, or fewer tokens of 2 or 4 tiles.
 *
 * F16 and BF16 are widened on the fly while all tokens fit one span, where
 * memory is the limit. For longer prompts, and for Q8 and Q4 always, a slice
 * is first widened to floats on the stack and used by all tokens.
 */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"
#include "kernels/mm_walk.h"

enum { TOKENS = 6, SLICE = 256 };

PR_INLINE __m256 load_w(pr_pack pack, const uint8_t *column, int half) {
    if (pack == PR_PACK_F16) {
        return load_f16(column + half * 16);
    }
    if (pack == PR_PACK_BF16) {
        return load_bf16(column + half * 16);
    }
    return _mm256_loadu_ps((const float *)(const void *)column + half * 8);
}

PR_INLINE void span_of(pr_pack pack, int tiles, int tokens, const pr__mm_span *s) {
    const size_t column = pack == PR_PACK_F32 ? 64 : 32;
    __m256 acc[4][TOKENS][2];
    for (int i = 0; i < tiles; i++) {
        for (int t = 0; t < tokens; t++) {
            const float *y = s->y + (size_t)t * s->y_stride + i * PR_TILE_ROWS;
            acc[i][t][0] = s->first ? _mm256_setzero_ps() : _mm256_loadu_ps(y);
            acc[i][t][1] = s->first ? _mm256_setzero_ps() : _mm256_loadu_ps(y + 8);
        }
    }
    for (size_t c = 0; c < s->n_units; c++) {
        for (int i = 0; i < tiles; i++) {
            const uint8_t *at = s->w + (size_t)i * s->w_stride + c * column;
            prefetch(at + s->ahead, 1);
            __m256 w0 = load_w(pack, at, 0), w1 = load_w(pack, at, 1);
            for (int t = 0; t < tokens; t++) {
                __m256 x = _mm256_broadcast_ss((const float *)(const void *)(s->x + (size_t)t * s->x_stride) + c);
                acc[i][t][0] = _mm256_fmadd_ps(w0, x, acc[i][t][0]);
                acc[i][t][1] = _mm256_fmadd_ps(w1, x, acc[i][t][1]);
            }
        }
    }
    for (int i = 0; i < tiles; i++) {
        for (int t = 0; t < tokens; t++) {
            float *y = s->y + (size_t)t * s->y_stride + i * PR_TILE_ROWS;
            _mm256_storeu_ps(y, acc[i][t][0]);
            _mm256_storeu_ps(y + 8, acc[i][t][1]);
        }
    }
}

/* Tiles that give n_tokens at least eight chains. */
static uint32_t tiles_for(uint32_t n_tokens) { return n_tokens == 1 ? 4 : n_tokens <= 3 ? 2 : 1; }

PR_INLINE void span_any(pr_pack pack, const pr__mm_span *span, uint32_t n_tiles, uint32_t n_tokens) {
    if (n_tiles > 1 && n_tiles == tiles_for(n_tokens)) {
        switch (n_tokens) {
        case 1: span_of(pack, 4, 1, span); break;
        case 2: span_of(pack, 2, 2, span); break;
        case 3: span_of(pack, 2, 3, span); break;
        }
        return;
    }
    pr__mm_span s = *span;
    for (uint32_t i = 0; i < n_tiles; i++, s.w += s.w_stride, s.y += PR_TILE_ROWS) {
        switch (n_tokens) {
        case 1: span_of(pack, 1, 1, &s); break;
        case 2: span_of(pack, 1, 2, &s); break;
        case 3: span_of(pack, 1, 3, &s); break;
        case 4: span_of(pack, 1, 4, &s); break;
        case 5: span_of(pack, 1, 5, &s); break;
        case 6: span_of(pack, 1, 6, &s); break;
        }
    }
}

void pr__avx2_span_f32(const pr__mm_span *span, uint32_t n_tiles, uint32_t n_tokens) {
    span_any(PR_PACK_F32, span, n_tiles, n_tokens);
}

static void span_f16(const pr__mm_span *span, uint32_t n_tiles, uint32_t n_tokens) {
    span_any(PR_PACK_F16, span, n_tiles, n_tokens);
}

static void span_bf16(const pr__mm_span *span, uint32_t n_tiles, uint32_t n_tokens) {
    span_any(PR_PACK_BF16, span, n_tiles, n_tokens);
}

static void decode_f16(const uint8_t *w, uint32_t n, size_t ahead, float *panel) {
    for (size_t i = 0; i < (size_t)n * PR_TILE_ROWS; i += 8) {
        prefetch(w + ahead + 2 * i, 1);
        _mm256_store_ps(panel + i, load_f16(w + 2 * i));
    }
}

static void decode_bf16(const uint8_t *w, uint32_t n, size_t ahead, float *panel) {
    for (size_t i = 0; i < (size_t)n * PR_TILE_ROWS; i += 8) {
        prefetch(w + ahead + 2 * i, 1);
        _mm256_store_ps(panel + i, load_bf16(w + 2 * i));
    }
}

/* 8 rows at a time: a dword lane holds 4 columns of a row. */
static void decode_q8(const uint8_t *w, uint32_t n, size_t ahead, float *panel) {
    for (uint32_t b = 0; b < n; b++, w += PR_Q8_BLOCK_BYTES, panel += PR_BLOCK * PR_TILE_ROWS) {
        prefetch(w + ahead, PR_Q8_BLOCK_BYTES);
        for (int half = 0; half < 2; half++) {
            __m256 d = load_f16(w + 16 * half);
            for (int g = 0; g < 8; g++) {
                __m256i q = _mm256_loadu_si256((const __m256i *)(const void *)(w + 32 + 64 * g + 32 * half));
                float *out = panel + 64 * g + 8 * half;
                for (int j = 0; j < 4; j++) {
                    __m256i one = _mm256_srai_epi32(_mm256_slli_epi32(q, 24 - 8 * j), 24);
                    _mm256_store_ps(out + 16 * j, _mm256_mul_ps(d, _mm256_cvtepi32_ps(one)));
                }
            }
        }
    }
}

static void decode_q4(const uint8_t *w, uint32_t n, size_t ahead, float *panel) {
    const __m256i nibble = _mm256_set1_epi32(15);
    for (uint32_t b = 0; b < n; b++, w += PR_Q4_BLOCK_BYTES, panel += PR_BLOCK * PR_TILE_ROWS) {
        prefetch(w + ahead, PR_Q4_BLOCK_BYTES);
        for (int half = 0; half < 2; half++) {
            __m256 d = load_f16(w + 16 * half), m = load_f16(w + 32 + 16 * half);
            for (int g = 0; g < 4; g++) {
                __m256i q = _mm256_loadu_si256((const __m256i *)(const void *)(w + 64 + 64 * g + 32 * half));
                float *out = panel + 64 * g + 8 * half;
                for (int j = 0; j < 4; j++) {
                    __m256i lo = _mm256_and_si256(_mm256_srli_epi32(q, 8 * j), nibble);
                    __m256i hi = _mm256_and_si256(_mm256_srli_epi32(q, 8 * j + 4), nibble);
                    _mm256_store_ps(out + 16 * j, _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(lo), m));
                    _mm256_store_ps(out + 256 + 16 * j, _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(hi), m));
                }
            }
        }
    }
}

/* Widened weights go one tile at a time, so the panel stays within the first-level cache. */
static void walk_panel(const pr_mm_args *args, uint32_t unit_cols, uint32_t w_unit, pr__mm_decode_fn *decode) {
    pr__mm_plan plan = {
        .unit_cols = unit_cols,
        .w_unit = w_unit,
        .x_unit = 4 * unit_cols,
        .slice = SLICE / unit_cols,
        .tiles = args->n_tokens <= 3 ? 2 : 1,
        .tokens = TOKENS,
        .span = pr__avx2_span_f32,
        .decode = decode,
    };
    pr__mm_walk(args, &plan);
}

static void walk_direct(const pr_mm_args *args, uint32_t w_unit, pr__mm_span_fn *span) {
    pr__mm_plan plan = {
        .unit_cols = 1,
        .w_unit = w_unit,
        .x_unit = 4,
        .slice = SLICE,
        .tiles = tiles_for(args->n_tokens),
        .tokens = TOKENS,
        .span = span,
    };
    pr__mm_walk(args, &plan);
}

void pr__avx2_mm_f32(const pr_mm_args *args) { walk_direct(args, 64, pr__avx2_span_f32); }

void pr__avx2_mm_f16(const pr_mm_args *args) {
    if (args->n_tokens <= TOKENS) {
        walk_direct(args, 32, span_f16);
    } else {
        walk_panel(args, 1, 32, decode_f16);
    }
}

void pr__avx2_mm_bf16(const pr_mm_args *args) {
    if (args->n_tokens <= TOKENS) {
        walk_direct(args, 32, span_bf16);
    } else {
        walk_panel(args, 1, 32, decode_bf16);
    }
}

void pr__avx2_mm_q8(const pr_mm_args *args) { walk_panel(args, PR_BLOCK, PR_Q8_BLOCK_BYTES, decode_q8); }

void pr__avx2_mm_q4(const pr_mm_args *args) { walk_panel(args, PR_BLOCK, PR_Q4_BLOCK_BYTES, decode_q4); }
