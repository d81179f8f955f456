/*
 * Nested planes times float vectors, AVX2: every level.
 *
 * A dword lane of decoded bytes is four columns of a row; each is widened to
 * a dword, made a float and scaled. At fp16 two columns at a time become 16-bit
 * integers first (plane_words).
 *
 * Up to 4 tokens use a column where it is made. A row's chain is a fused
 * multiply-add a column, four cycles long, and the processor does not see far
 * enough ahead to find a second chain behind the 64 cycles of 16 columns. So
 * both halves of a tile go side by side, field by field of four columns; the
 * bytes of a block, more than there are registers, wait in memory. More tokens
 * share a panel of floats, which the body of pack F32 multiplies.
 */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/planes.h"

enum { TOKENS_FEW = 4, TOKENS = 6 };

/* Four columns of bytes as floats. */
PR_INLINE void floats_of_bytes(__m256i bytes, __m256 out[4]) {
    for (int j = 0; j < 4; j++) {
        out[j] = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(bytes, 24 - 8 * j), 24));
    }
}

/* Four columns of (byte * k16 + low) as floats. */
PR_INLINE void floats_of_words(const pickers *p, __m256i bytes, __m256i low, __m256 out[4]) {
    const __m256i first = _mm256_set1_epi32(1); /* the lower word of a dword, by madd */
    __m256i words[2];
    plane_words(p, bytes, low, words);
    for (int odd = 0; odd < 2; odd++) {
        out[odd] = _mm256_cvtepi32_ps(_mm256_madd_epi16(words[odd], first));
        out[2 + odd] = _mm256_cvtepi32_ps(_mm256_srai_epi32(words[odd], 16));
    }
}

/* Four columns of block b, 8 rows, scaled; bytes: what plane_bytes() made of them. */
PR_INLINE void plane_floats(pr_plane level, const pickers *p, const pr__plane_run *run, size_t b, size_t field,
                            size_t half, __m256i bytes, __m256 scale, __m256 out[4]) {
    if (level == PR_PLANE_P16) {
        floats_of_words(p, bytes, plane_low(run, b, field, half), out);
    } else {
        floats_of_bytes(bytes, out);
    }
    for (int j = 0; j < 4; j++) {
        out[j] = _mm256_mul_ps(out[j], scale);
    }
}

/* Block b of a tile as bytes: [field of 4 columns][half]. */
PR_INLINE void block_bytes(pr_plane level, const plane_tables *tables, const pr__plane_run *run, size_t b,
                           __m256i out[8][2]) {
    for (size_t g = 0; g < 2; g++) {
        for (size_t half = 0; half < 2; half++) {
            __m256i bytes[4];
            plane_bytes(level, tables, run, b, g, half, bytes);
            for (size_t f = 0; f < 4; f++) {
                out[4 * g + f][half] = bytes[f];
            }
        }
    }
}

/* A field of a tile times all tokens: 4 columns, from x on. */
PR_INLINE void field_of(int tokens, const __m256 w[2][4], const uint8_t *x, size_t x_stride,
                        __m256 acc[2][TOKENS_FEW]) {
    for (size_t c = 0; c < 4; c++) {
        for (int t = 0; t < tokens; t++) {
            const uint8_t *xc = x + (size_t)t * x_stride + c * sizeof(float);
            __m256 column = _mm256_broadcast_ss((const float *)(const void *)xc);
            acc[0][t] = _mm256_fmadd_ps(w[0][c], column, acc[0][t]);
            acc[1][t] = _mm256_fmadd_ps(w[1][c], column, acc[1][t]);
        }
    }
}

PR_INLINE void direct_of(pr_plane level, int tokens, const pr__plane_span *s) {
    const plane_tables tables = plane_tables_of(level, s->book, 0);
    const pickers p = pickers_of(s->book);
    const pr__plane_run at = s->at[0], soon = s->soon[0];
    const __m256 rows[2] = {plane_rows(s, 0, 0), plane_rows(s, 0, 1)};
    __m256 acc[2][TOKENS_FEW];
    for (int half = 0; half < 2; half++) {
        for (int t = 0; t < tokens; t++) {
            const float *y = s->y + (size_t)t * s->y_stride + 8 * half;
            acc[half][t] = s->first ? _mm256_setzero_ps() : _mm256_loadu_ps(y);
        }
    }
    const uint8_t *x = s->x;
    for (size_t b = 0; b < s->n_blocks; b++) {
        __m256i bytes[8][2];
        __m256 scale[2];
        plane_prefetch(level, &soon, b);
        block_bytes(level, &tables, &at, b, bytes);
        for (size_t half = 0; half < 2; half++) {
            scale[half] = _mm256_mul_ps(plane_scales(&at, b, half), rows[half]);
        }
        for (size_t f = 0, fields = (size_t)opaque(8); f < fields; f++, x += 4 * sizeof(float)) {
            if (tokens == 2) { /* gcc would keep two of the sums in memory, and a chain waits 8 cycles for that */
                in_registers(&acc[0][0], &acc[1][0]);
                in_registers(&acc[0][1], &acc[1][1]);
            }
            __m256 w[2][4];
            plane_floats(level, &p, &at, b, f, 0, bytes[f][0], scale[0], w[0]);
            plane_floats(level, &p, &at, b, f, 1, bytes[f][1], scale[1], w[1]);
            field_of(tokens, w, x, s->x_stride, acc);
        }
    }
    for (int half = 0; half < 2; half++) {
        for (int t = 0; t < tokens; t++) {
            _mm256_storeu_ps(s->y + (size_t)t * s->y_stride + 8 * half, acc[half][t]);
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

PR_INLINE void decode(pr_plane level, const pr__plane_span *s, uint32_t i, uint8_t *panel) {
    const plane_tables tables = plane_tables_of(level, s->book, 0);
    const pickers p = pickers_of(s->book);
    const __m256 rows[2] = {plane_rows(s, i, 0), plane_rows(s, i, 1)};
    float *out = (float *)(void *)panel;
    for (size_t b = 0; b < s->n_blocks; b++, out += PR_BLOCK * PR_TILE_ROWS) {
        plane_prefetch(level, &s->soon[i], b);
        for (size_t half = 0; half < 2; half++) {
            __m256 scale = _mm256_mul_ps(plane_scales(&s->at[i], b, half), rows[half]);
            for (size_t g = 0; g < 2; g++) {
                __m256i bytes[4];
                plane_bytes(level, &tables, &s->at[i], b, g, half, bytes);
                for (size_t f = 0; f < 4; f++) {
                    __m256 w[4];
                    plane_floats(level, &p, &s->at[i], b, 4 * g + f, half, bytes[f], scale, w);
                    for (size_t c = 0; c < 4; c++) {
                        _mm256_store_ps(out + (16 * g + 4 * f + c) * PR_TILE_ROWS + 8 * half, w[c]);
                    }
                }
            }
        }
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

static void direct_fp16(const pr__plane_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    (void)n_tiles;
    direct(PR_PLANE_P16, s, n_tokens);
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
        .tiles = 1,
        .tokens = TOKENS_FEW,
        .direct = direct_fn,
        .panel_tiles = 1, /* what the body of pack F32 is quick at with so many tokens */
        .panel_tokens = TOKENS,
        .panel_block = PR_BLOCK * PR_TILE_ROWS * sizeof(float),
        .decode = decode_fn,
        .span = pr__avx2_span_f32,
    };
    pr__planes_walk(args, &plan);
}

void pr__avx2_planes_int2(const pr_plane_args *args) { walk(args, PR_PLANE_P2, direct_int2, decode_int2); }

void pr__avx2_planes_int4(const pr_plane_args *args) { walk(args, PR_PLANE_P4, direct_int4, decode_int4); }

void pr__avx2_planes_int8(const pr_plane_args *args) { walk(args, PR_PLANE_P8, direct_int8, decode_int8); }

void pr__avx2_planes_fp16(const pr_plane_args *args) { walk(args, PR_PLANE_P16, direct_fp16, decode_fp16); }
