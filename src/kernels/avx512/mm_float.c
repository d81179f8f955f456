/*
 * Matrix times float vectors, AVX-512: every pack.
 *
 * A tile's column of 16 rows is one register, and each row's chain one fused
 * multiply-add a column. Two tiles by up to 12 tokens make 24 chains in 24
 * registers, and 14 loads for 24 multiply-adds, so that the multipliers are
 * the limit. Widening on the fly and in panels is shared out as in AVX2.
 */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"
#include "kernels/mm_walk.h"

enum { TOKENS = 12, SLICE = 256 };

PR_INLINE __m512 load_w(pr_pack pack, const uint8_t *column) {
    if (pack == PR_PACK_F16) {
        return load_f16(column);
    }
    if (pack == PR_PACK_BF16) {
        return load_bf16(column);
    }
    return _mm512_loadu_ps(column);
}

PR_INLINE void span_of(pr_pack pack, int tiles, int tokens, const pr__mm_span *s) {
    const size_t column = pack == PR_PACK_F32 ? 64 : 32;
    __m512 acc[2][TOKENS];
    for (int i = 0; i < tiles; i++) {
        for (int t = 0; t < tokens; t++) {
            const float *y = s->y + (size_t)t * s->y_stride + i * PR_TILE_ROWS;
            acc[i][t] = s->first ? _mm512_setzero_ps() : _mm512_loadu_ps(y);
        }
    }
    const uint8_t *w = s->w, *x = s->x;
    for (uint32_t c = 0; c < s->n_units; c++, w += column, x += sizeof(float)) {
        __m512 wc[2];
        for (int i = 0; i < tiles; i++) {
            prefetch(w + (size_t)i * s->w_stride + s->ahead, 1);
            wc[i] = load_w(pack, w + (size_t)i * s->w_stride);
        }
        for (int t = 0; t < tokens; t++) {
            __m512 xc = _mm512_castsi512_ps(broadcast_4(x + (size_t)t * s->x_stride));
            for (int i = 0; i < tiles; i++) {
                acc[i][t] = _mm512_fmadd_ps(wc[i], xc, acc[i][t]);
            }
        }
    }
    for (int i = 0; i < tiles; i++) {
        for (int t = 0; t < tokens; t++) {
            _mm512_storeu_ps(s->y + (size_t)t * s->y_stride + i * PR_TILE_ROWS, acc[i][t]);
        }
    }
}

PR_INLINE void span_tiles(pr_pack pack, int tiles, const pr__mm_span *s, uint32_t n_tokens) {
    switch (n_tokens) {
    case 1: span_of(pack, tiles, 1, s); break;
    case 2: span_of(pack, tiles, 2, s); break;
    case 3: span_of(pack, tiles, 3, s); break;
    case 4: span_of(pack, tiles, 4, s); break;
    case 5: span_of(pack, tiles, 5, s); break;
    case 6: span_of(pack, tiles, 6, s); break;
    case 7: span_of(pack, tiles, 7, s); break;
    case 8: span_of(pack, tiles, 8, s); break;
    case 9: span_of(pack, tiles, 9, s); break;
    case 10: span_of(pack, tiles, 10, s); break;
    case 11: span_of(pack, tiles, 11, s); break;
    case 12: span_of(pack, tiles, 12, s); break;
    }
}

PR_INLINE void span_any(pr_pack pack, const pr__mm_span *span, uint32_t n_tiles, uint32_t n_tokens) {
    if (n_tiles == 2) {
        span_tiles(pack, 2, span, n_tokens);
    } else {
        span_tiles(pack, 1, span, n_tokens);
    }
}

void pr__avx512_span_f32(const pr__mm_span *span, uint32_t n_tiles, uint32_t n_tokens) {
    span_any(PR_PACK_F32, span, n_tiles, n_tokens);
}

static void span_f16(const pr__mm_span *span, uint32_t n_tiles, uint32_t n_tokens) {
    span_any(PR_PACK_F16, span, n_tiles, n_tokens);
}

static void span_bf16(const pr__mm_span *span, uint32_t n_tiles, uint32_t n_tokens) {
    span_any(PR_PACK_BF16, span, n_tiles, n_tokens);
}

static void decode_f16(const uint8_t *w, uint32_t n, size_t ahead, float *panel) {
    for (size_t c = 0; c < n; c++, w += 32, panel += PR_TILE_ROWS) {
        prefetch(w + ahead, 1);
        _mm512_store_ps(panel, load_f16(w));
    }
}

static void decode_bf16(const uint8_t *w, uint32_t n, size_t ahead, float *panel) {
    for (size_t c = 0; c < n; c++, w += 32, panel += PR_TILE_ROWS) {
        prefetch(w + ahead, 1);
        _mm512_store_ps(panel, load_bf16(w));
    }
}

/* A dword lane holds 4 columns of a row. */
static void decode_q8(const uint8_t *w, uint32_t n, size_t ahead, float *panel) {
    for (uint32_t b = 0; b < n; b++, w += PR_Q8_BLOCK_BYTES) {
        prefetch(w + ahead, PR_Q8_BLOCK_BYTES);
        __m512 d = load_f16(w);
        for (int g = 0; g < 8; g++) {
            __m512i q = _mm512_loadu_si512(w + 32 + 64 * g);
            for (unsigned j = 0; j < 4; j++, panel += PR_TILE_ROWS) {
                __m512i one = _mm512_srai_epi32(_mm512_slli_epi32(q, 24 - 8 * j), 24);
                _mm512_store_ps(panel, _mm512_mul_ps(d, _mm512_cvtepi32_ps(one)));
            }
        }
    }
}

static void decode_q4(const uint8_t *w, uint32_t n, size_t ahead, float *panel) {
    const __m512i nibble = _mm512_set1_epi32(15);
    for (uint32_t b = 0; b < n; b++, w += PR_Q4_BLOCK_BYTES, panel += 16 * PR_TILE_ROWS) {
        prefetch(w + ahead, PR_Q4_BLOCK_BYTES);
        __m512 d = load_f16(w), m = load_f16(w + 32);
        for (int g = 0; g < 4; g++) {
            __m512i q = _mm512_loadu_si512(w + 64 + 64 * g);
            for (unsigned j = 0; j < 4; j++, panel += PR_TILE_ROWS) {
                __m512i lo = _mm512_and_si512(_mm512_srli_epi32(q, 8 * j), nibble);
                __m512i hi = _mm512_and_si512(_mm512_srli_epi32(q, 8 * j + 4), nibble);
                _mm512_store_ps(panel, _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(lo), m));
                _mm512_store_ps(panel + 16 * PR_TILE_ROWS, _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(hi), m));
            }
        }
    }
}

static void walk_panel(const pr_mm_args *args, uint32_t unit_cols, uint32_t w_unit, pr__mm_decode_fn *decode) {
    pr__mm_plan plan = {
        .unit_cols = unit_cols,
        .w_unit = w_unit,
        .x_unit = 4 * unit_cols,
        .slice = SLICE / unit_cols,
        .tiles = 2,
        .tokens = TOKENS,
        .span = pr__avx512_span_f32,
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
        .tiles = 2,
        .tokens = TOKENS,
        .span = span,
    };
    pr__mm_walk(args, &plan);
}

void pr__avx512_mm_f32(const pr_mm_args *args) { walk_direct(args, 64, pr__avx512_span_f32); }

void pr__avx512_mm_f16(const pr_mm_args *args) {
    if (args->n_tokens <= TOKENS) {
        walk_direct(args, 32, span_f16);
    } else {
        walk_panel(args, 1, 32, decode_f16);
    }
}

void pr__avx512_mm_bf16(const pr_mm_args *args) {
    if (args->n_tokens <= TOKENS) {
        walk_direct(args, 32, span_bf16);
    } else {
        walk_panel(args, 1, 32, decode_bf16);
    }
}

void pr__avx512_mm_q8(const pr_mm_args *args) { walk_panel(args, PR_BLOCK, PR_Q8_BLOCK_BYTES, decode_q8); }

void pr__avx512_mm_q4(const pr_mm_args *args) { walk_panel(args, PR_BLOCK, PR_Q4_BLOCK_BYTES, decode_q4); }
