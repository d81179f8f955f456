/*
 * Nested planes times 8-bit blocks, AVX-512 VNNI.
 *
 * Tables hold every value with 128 added, so that dpbusd takes weights of all
 * levels as unsigned bytes, and sums start from x.bias as those of pack Q8 do.
 * Up to 8 tokens decode in registers; more share a panel of decoded bytes with
 * float scales, which is then multiplied as pack Q8 is.
 */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/blocks.h"
#include "kernels/avx512/planes.h"

enum { TOKENS_FEW = 8, TOKENS = 6, W_BLOCK = 64 + 512, X_BLOCK = sizeof(pr_qblock) };

PR_INLINE void direct_of(pr_plane level, int tokens, const pr__plane_span *s) {
    const plane_tables tables = plane_tables_of(level, s->book, 0x80);
    const pr__plane_run at = s->at[0], soon = s->soon[0];
    __m512 acc[TOKENS_FEW];
    for (int t = 0; t < tokens; t++) {
        acc[t] = s->first ? _mm512_setzero_ps() : _mm512_loadu_ps(s->y + (size_t)t * s->y_stride);
    }
    const uint8_t *x = s->x;
    for (size_t b = 0; b < s->n_blocks; b++, x += X_BLOCK) {
        __m512i isum[TOKENS_FEW];
        plane_prefetch(level, &soon, b);
        for (int t = 0; t < tokens; t++) {
            isum[t] = _mm512_set1_epi32(q8_at(x, s->x_stride, t)->bias);
        }
        for (size_t g = 0; g < 2; g++) {
            __m512i w[4];
            plane_bytes(level, &tables, &at, b, g, w);
            for (int t = 0; t < tokens; t++) {
                const int8_t *q = q8_at(x, s->x_stride, t)->q + 16 * g;
                for (int f = 0; f < 4; f++) {
                    isum[t] = _mm512_dpbusd_epi32(isum[t], w[f], broadcast_4(q + 4 * f));
                }
            }
        }
        __m512 scales = plane_scales(&at, b);
        for (int t = 0; t < tokens; t++) {
            acc[t] = add_scaled(acc[t], isum[t], scales, q8_at(x, s->x_stride, t)->d);
        }
    }
    __m512 rows = plane_rows(s, 0);
    for (int t = 0; t < tokens; t++) {
        _mm512_storeu_ps(s->y + (size_t)t * s->y_stride, s->last ? _mm512_mul_ps(acc[t], rows) : acc[t]);
    }
}

PR_INLINE void direct(pr_plane level, const pr__plane_span *s, uint32_t n_tokens) {
    switch (n_tokens) {
    case 1: direct_of(level, 1, s); break;
    case 2: direct_of(level, 2, s); break;
    case 3: direct_of(level, 3, s); break;
    case 4: direct_of(level, 4, s); break;
    case 5: direct_of(level, 5, s); break;
    case 6: direct_of(level, 6, s); break;
    case 7: direct_of(level, 7, s); break;
    case 8: direct_of(level, 8, s); break;
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

/* ---- by panel: for each block float scales[16], then u8 [8][16][4] ---- */

PR_INLINE void decode(pr_plane level, const pr__plane_span *s, uint32_t i, uint8_t *panel) {
    const plane_tables tables = plane_tables_of(level, s->book, 0x80);
    for (size_t b = 0; b < s->n_blocks; b++, panel += W_BLOCK) {
        _mm512_store_ps(panel, plane_scales(&s->at[i], b));
        for (size_t g = 0; g < 2; g++) {
            __m512i w[4];
            plane_bytes(level, &tables, &s->at[i], b, g, w);
            for (size_t f = 0; f < 4; f++) {
                _mm512_store_si512(panel + 64 + 64 * (4 * g + f), w[f]);
            }
        }
    }
}

static void decode_int2(const pr__plane_span *s, uint32_t i, uint8_t *panel) { decode(PR_PLANE_P2, s, i, panel); }

static void decode_int4(const pr__plane_span *s, uint32_t i, uint8_t *panel) { decode(PR_PLANE_P4, s, i, panel); }

static void decode_int8(const pr__plane_span *s, uint32_t i, uint8_t *panel) { decode(PR_PLANE_P8, s, i, panel); }

/* Of the next run, which has planes as far as the level reads. */
PR_INLINE void ask_ahead(int tiles, const pr__mm_span *s, const uint8_t *w, uint32_t b) {
    (void)w;
    for (int i = 0; i < tiles && s->soon; i++) {
        const uint8_t *const *plane = s->soon[i].plane;
        plane_prefetch(plane[PR_PLANE_P8]   ? PR_PLANE_P8
                       : plane[PR_PLANE_P4] ? PR_PLANE_P4
                                            : PR_PLANE_P2,
                       &s->soon[i], b);
    }
}

PR_INLINE void products(int tiles, int tokens, const pr__mm_span *s, const uint8_t *w, const uint8_t *x,
                        __m512i (*isum)[BLOCK_TOKENS]) {
    start_biased(tiles, tokens, s, x, isum);
    for (int g = 0; g < 8; g++) {
        __m512i wg[PR__PLANE_TILES];
        for (int i = 0; i < tiles; i++) {
            wg[i] = _mm512_load_si512(w + (size_t)i * s->w_stride + 64 + 64 * g);
        }
        add_dots(tiles, tokens, s, x, g, wg, isum);
    }
}

PR_INLINE void add(int tiles, int tokens, const pr__mm_span *s, const uint8_t *w, const uint8_t *x,
                   __m512i (*isum)[BLOCK_TOKENS], __m512 (*acc)[BLOCK_TOKENS]) {
    for (int i = 0; i < tiles; i++) {
        __m512 scales = _mm512_load_ps(w + (size_t)i * s->w_stride);
        for (int t = 0; t < tokens; t++) {
            acc[i][t] = add_scaled(acc[i][t], isum[i][t], scales, q8_at(x, s->x_stride, t)->d);
        }
    }
}

#include "kernels/avx512/blocks.inc"

static void walk(const pr_plane_args *args, pr_plane level, pr__plane_span_fn *direct_fn,
                 pr__plane_decode_fn *decode_fn) {
    const pr__plane_plan plan = {
        .level = level,
        .x_block = X_BLOCK,
        .tiles = 1,
        .tokens = TOKENS_FEW,
        .direct = direct_fn,
        .panel_tiles = 2,
        .panel_tokens = TOKENS,
        .panel_block = W_BLOCK,
        .decode = decode_fn,
        .span = span,
        .finish = plane_finish,
    };
    pr__planes_walk(args, &plan);
}

void pr__avx512_planes_int2_q8(const pr_plane_args *args) { walk(args, PR_PLANE_P2, direct_int2, decode_int2); }

void pr__avx512_planes_int4_q8(const pr_plane_args *args) { walk(args, PR_PLANE_P4, direct_int4, decode_int4); }

void pr__avx512_planes_int8_q8(const pr_plane_args *args) { walk(args, PR_PLANE_P8, direct_int8, decode_int8); }
