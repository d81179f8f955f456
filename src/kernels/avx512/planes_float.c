/*
 * Nested planes times float vectors, AVX-512: every level.
 *
 * A dword lane of decoded bytes is four columns of a row; each is widened to
 * a dword, made a float and scaled. At fp16 two columns at a time become 16-bit
 * integers first (plane_words).
 *
 * Up to 4 tokens use a column where it is made. More share a panel of floats,
 * which the body of pack F32 multiplies.
 */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/planes.h"

enum { TOKENS_FEW = 4, TOKENS = 12 };

/* Four columns of bytes as floats. */
PR_INLINE void floats_of_bytes(__m512i bytes, __m512 out[4]) {
    for (unsigned j = 0; j < 4; j++) {
        out[j] = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(bytes, 24 - 8 * j), 24));
    }
}

/* Four columns of (byte * k16 + low) as floats. The lower half of a dword v is 2^23 + 2^15 + v in a float's fraction. */
PR_INLINE void floats_of_words(const pickers *p, __m512i bytes, __m512i low, __m512 out[4]) {
    const __m512i half = _mm512_set1_epi32(0xffff), bits = _mm512_set1_epi32(0x4b008000);
    const __m512 offset = _mm512_set1_ps(0x1p23f + 0x1p15f);
    enum { XOR_AND = 0x78 /* the first ^ (the second & the third) */ };
    __m512i words[2];
    plane_words(p, bytes, low, words);
    for (int odd = 0; odd < 2; odd++) {
        __m512 lower = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(bits, words[odd], half, XOR_AND));
        out[odd] = _mm512_sub_ps(lower, offset);
        out[2 + odd] = _mm512_cvtepi32_ps(_mm512_srai_epi32(words[odd], 16));
    }
}

/* Four columns of block b, scaled; bytes: what plane_bytes() made of them. */
PR_INLINE void plane_floats(pr_plane level, const pickers *p, const pr__plane_run *run, size_t b, size_t field,
                            __m512i bytes, __m512 scale, __m512 out[4]) {
    if (level == PR_PLANE_P16) {
        floats_of_words(p, bytes, plane_low(run, b, field), out);
    } else {
        floats_of_bytes(bytes, out);
    }
    for (int j = 0; j < 4; j++) {
        out[j] = _mm512_mul_ps(out[j], scale);
    }
}

PR_INLINE void direct_of(pr_plane level, int tiles, int tokens, const pr__plane_span *s) {
    const plane_tables tables = plane_tables_of(level, s->book, 0);
    const pickers p = pickers_of(s->book);
    __m512 acc[PR__PLANE_TILES][TOKENS_FEW], rows[PR__PLANE_TILES];
    for (int i = 0; i < tiles; i++) {
        rows[i] = plane_rows(s, (uint32_t)i);
        for (int t = 0; t < tokens; t++) {
            const float *y = s->y + (size_t)t * s->y_stride + i * PR_TILE_ROWS;
            acc[i][t] = s->first ? _mm512_setzero_ps() : _mm512_loadu_ps(y);
        }
    }
    const uint8_t *x = s->x;
    for (size_t b = 0; b < s->n_blocks; b++) {
        for (int i = 0; i < tiles; i++) {
            plane_prefetch(level, &s->soon[i], b);
        }
        for (size_t g = 0; g < 2; g++, x += 16 * sizeof(float)) {
            __m512i bytes[PR__PLANE_TILES][4];
            __m512 scale[PR__PLANE_TILES];
            for (int i = 0; i < tiles; i++) {
                scale[i] = _mm512_mul_ps(plane_scales(&s->at[i], b), rows[i]);
                plane_bytes(level, &tables, &s->at[i], b, g, bytes[i]);
            }
            for (size_t f = 0; f < 4; f++) {
                for (int i = 0; i < tiles; i++) {
                    __m512 w[4];
                    plane_floats(level, &p, &s->at[i], b, 4 * g + f, bytes[i][f], scale[i], w);
                    for (size_t c = 0; c < 4; c++) {
                        for (int t = 0; t < tokens; t++) {
                            const uint8_t *xc = x + (size_t)t * s->x_stride + (4 * f + c) * sizeof(float);
                            acc[i][t] = _mm512_fmadd_ps(w[c], _mm512_castsi512_ps(broadcast_4(xc)), acc[i][t]);
                        }
                    }
                }
            }
        }
    }
    for (int i = 0; i < tiles; i++) {
        for (int t = 0; t < tokens; t++) {
            _mm512_storeu_ps(s->y + (size_t)t * s->y_stride + i * PR_TILE_ROWS, acc[i][t]);
        }
    }
}

PR_INLINE void direct_tiles(pr_plane level, int tiles, const pr__plane_span *s, uint32_t n_tokens) {
    switch (n_tokens) {
    case 1: direct_of(level, tiles, 1, s); break;
    case 2: direct_of(level, tiles, 2, s); break;
    case 3: direct_of(level, tiles, 3, s); break;
    case 4: direct_of(level, tiles, 4, s); break;
    }
}

PR_INLINE void direct(pr_plane level, const pr__plane_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    if (n_tiles == 2) {
        direct_tiles(level, 2, s, n_tokens);
    } else {
        direct_tiles(level, 1, s, n_tokens);
    }
}

PR_INLINE void decode(pr_plane level, const pr__plane_span *s, uint32_t i, uint8_t *panel) {
    const plane_tables tables = plane_tables_of(level, s->book, 0);
    const pickers p = pickers_of(s->book);
    const __m512 rows = plane_rows(s, i);
    for (size_t b = 0; b < s->n_blocks; b++) {
        __m512 scale = _mm512_mul_ps(plane_scales(&s->at[i], b), rows);
        plane_prefetch(level, &s->soon[i], b);
        for (size_t g = 0; g < 2; g++) {
            __m512i bytes[4];
            plane_bytes(level, &tables, &s->at[i], b, g, bytes);
            for (size_t f = 0; f < 4; f++) {
                __m512 w[4];
                plane_floats(level, &p, &s->at[i], b, 4 * g + f, bytes[f], scale, w);
                for (size_t c = 0; c < 4; c++, panel += 64) {
                    _mm512_store_ps(panel, w[c]);
                }
            }
        }
    }
}

static void direct_int2(const pr__plane_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    direct(PR_PLANE_P2, s, n_tiles, n_tokens);
}

static void direct_int4(const pr__plane_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    direct(PR_PLANE_P4, s, n_tiles, n_tokens);
}

static void direct_int8(const pr__plane_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    direct(PR_PLANE_P8, s, n_tiles, n_tokens);
}

static void direct_fp16(const pr__plane_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    direct(PR_PLANE_P16, s, n_tiles, n_tokens);
}

static void decode_int2(const pr__plane_span *s, uint32_t i, uint8_t *panel) { decode(PR_PLANE_P2, s, i, panel); }

static void decode_int4(const pr__plane_span *s, uint32_t i, uint8_t *panel) { decode(PR_PLANE_P4, s, i, panel); }

static void decode_int8(const pr__plane_span *s, uint32_t i, uint8_t *panel) { decode(PR_PLANE_P8, s, i, panel); }

static void decode_fp16(const pr__plane_span *s, uint32_t i, uint8_t *panel) { decode(PR_PLANE_P16, s, i, panel); }

static void walk(const pr_plane_args *args, pr_plane level, pr__plane_span_fn *direct_fn,
                 pr__plane_decode_fn *decode_fn) {
    const pr__plane_plan plan = {
        .level = level,
        .x_block = PR_BLOCK * sizeof(float),
        .tiles = 2,
        .tokens = TOKENS_FEW,
        .direct = direct_fn,
        .panel_tiles = 2,
        .panel_tokens = TOKENS,
        .panel_block = PR_BLOCK * PR_TILE_ROWS * sizeof(float),
        .decode = decode_fn,
        .span = pr__avx512_span_f32,
    };
    pr__planes_walk(args, &plan);
}

void pr__avx512_planes_int2(const pr_plane_args *args) { walk(args, PR_PLANE_P2, direct_int2, decode_int2); }

void pr__avx512_planes_int4(const pr_plane_args *args) { walk(args, PR_PLANE_P4, direct_int4, decode_int4); }

void pr__avx512_planes_int8(const pr_plane_args *args) { walk(args, PR_PLANE_P8, direct_int8, decode_int8); }

void pr__avx512_planes_fp16(const pr_plane_args *args) { walk(args, PR_PLANE_P16, direct_fp16, decode_fp16); }
