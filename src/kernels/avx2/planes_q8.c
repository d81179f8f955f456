/*
 * Nested planes times 8-bit blocks, AVX2.
 *
 * maddubs wants one side unsigned and its sums within 16 bits:
 *   int2   c2 + 16 is 0..32, so four products of pairs sum up (32 * 127 * 2 * 4 = 32512) before one madd
 *   int4   c4 + 64 is 0..128, where one is the limit (128 * 127 * 2 = 32512)
 *   int8   has no room for that, so the sign moves over to the activation, as for pack Q8; where many tokens share a panel,
 *          both sides become words: moving signs is work for each product, widening is not
 */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/planes_words.h"

#define PR__PLANE_TOKENS 6

PR_INLINE int more_of(pr_plane level) { return level == PR_PLANE_P2 ? 16 : level == PR_PLANE_P4 ? 64 : 0; }

/* Where the sum of a block begins: -more_of(level) times the sum of its numbers. */
PR_INLINE __m256i start_of(pr_plane level, const pr_qblock *x) {
    if (level == PR_PLANE_P8) {
        return _mm256_setzero_si256();
    }
    __m256i start = _mm256_set1_epi32(x->bias64);
    return level == PR_PLANE_P2 ? _mm256_srai_epi32(start, 2) : start;
}

/* Add 16 columns of 8 rows times each token's numbers q[16] from column `column` of its block. */
PR_INLINE void dot(pr_plane level, int tokens, const __m256i w[4], const uint8_t *x, size_t x_stride, size_t column,
                   __m256i isum[]) {
    const __m256i ones = _mm256_set1_epi16(1);
    if (level == PR_PLANE_P2) {
        for (int t = 0; t < tokens; t++) {
            const int8_t *q = block_of(x, x_stride, t)->q + column;
            __m256i s0 = _mm256_add_epi16(_mm256_maddubs_epi16(w[0], broadcast_4(q)),
                                          _mm256_maddubs_epi16(w[1], broadcast_4(q + 4)));
            __m256i s1 = _mm256_add_epi16(_mm256_maddubs_epi16(w[2], broadcast_4(q + 8)),
                                          _mm256_maddubs_epi16(w[3], broadcast_4(q + 12)));
            isum[t] = _mm256_add_epi32(isum[t], _mm256_madd_epi16(_mm256_add_epi16(s0, s1), ones));
        }
        return;
    }
    for (int f = 0; f < 4; f++) {
        __m256i magnitude = level == PR_PLANE_P4 ? w[f] : _mm256_abs_epi8(w[f]);
        for (int t = 0; t < tokens; t++) {
            __m256i q = broadcast_4(block_of(x, x_stride, t)->q + column + 4 * f);
            q = level == PR_PLANE_P4 ? q : _mm256_sign_epi8(q, w[f]);
            isum[t] = _mm256_add_epi32(isum[t], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, q), ones));
        }
    }
}

#include "kernels/avx2/planes_q8.inc"

void pr__avx2_planes_int2_q8(const pr_plane_args *args) { planes_int2(args); }
void pr__avx2_planes_int4_q8(const pr_plane_args *args) { planes_int4(args); }

/* ---- int8 by words ---- */

/* A panel of words: of four columns 0 and 1 in one register, 2 and 3 in the next. */
static void decode_words(const pr__plane_span *s, uint32_t i, uint8_t *panel) {
    const plane_tables tables = plane_tables_of(PR_PLANE_P8, s->book, 0);
    const __m256i dwords = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
    /* Bytes 0 and 1, 2 and 3 of a dword to the upper halves of its words. */
    const __m256i pick[2] = {_mm256_add_epi8(_mm256_set1_epi32(0x01800080), dwords),
                             _mm256_add_epi8(_mm256_set1_epi32(0x03800280), dwords)};
    for (size_t b = 0; b < s->n_blocks; b++, panel += WORDS_BLOCK) {
        for (size_t half = 0; half < 2; half++) {
            _mm256_store_ps((float *)(void *)(panel + 32 * half), plane_scales(&s->at[i], b, half));
            for (size_t g = 0; g < 2; g++) {
                __m256i bytes[4];
                plane_bytes(PR_PLANE_P8, &tables, &s->at[i], b, g, half, bytes);
                for (size_t f = 0; f < 4; f++) {
                    for (size_t pair = 0; pair < 2; pair++) {
                        __m256i words = _mm256_srai_epi16(_mm256_shuffle_epi8(bytes[f], pick[pair]), 8);
                        uint8_t *out = panel + 64 + 128 * (4 * g + f) + 64 * pair + 32 * half;
                        _mm256_store_si256((__m256i *)(void *)out, words);
                    }
                }
            }
        }
    }
}

static void widen(const pr_qblock *x, pr_qblock13 *out) {
    out->d = x->d;
    for (int i = 0; i < 2; i++) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(x->q + 16 * i));
        _mm256_storeu_si256((__m256i *)(void *)(out->q + 16 * i), _mm256_cvtepi8_epi16(bytes));
    }
}

static void span_int8_words(const pr__mm_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    enum { BLOCKS = PR__PLANE_PANEL_BYTES / WORDS_BLOCK / WORDS_TILES };
    pr_qblock13 x[WORDS_TOKENS][BLOCKS]; /* clearing it costs 8% */
    pr__mm_span wide = *s;
    wide.x = opaque_at(x);
    wide.x_stride = sizeof x[0];
    for (uint32_t t = 0; t < n_tokens; t++) {
        const pr_qblock *from = block_of(s->x, s->x_stride, (int)t);
        for (uint32_t b = 0; b < wide.n_units; b++) {
            widen(from + b, &x[t][b]);
        }
    }
    span_words(PR_PLANE_P8, &wide, n_tiles, n_tokens);
}

void pr__avx2_planes_int8_q8(const pr_plane_args *args) {
    enum { TOKENS_WORDS = 12 }; /* of fewer, making words takes longer than it saves */
    static const pr__plane_plan plan = {
        .level = PR_PLANE_P8,
        .x_block = sizeof(pr_qblock),
        .panel_tiles = WORDS_TILES, /* and no direct: there are never so few tokens */
        .panel_tokens = WORDS_TOKENS,
        .panel_block = WORDS_BLOCK,
        .decode = decode_words,
        .span = span_int8_words,
        .finish = plane_finish,
    };
    if (args->n_tokens < TOKENS_WORDS) planes_int8(args);
    else pr__planes_walk(args, &plan);
}
