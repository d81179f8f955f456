/*
 * From planes to bytes, AVX2. Internal to kernels/avx2/.
 *
 * A byte of p2 and one of p4 hold the codes of four columns, two bits here and
 * two bits there. Masks and shifts put two whole codes of 4 bits into a byte,
 * for all 32 bytes at once; a code is then an index that vpshufb takes. At
 * int2 a nibble of p2 is two weights as it stands, so it is looked up in two
 * tables that each care for one half of it.
 */
#ifndef PRECIS_KERNELS_AVX2_PLANES_H
#define PRECIS_KERNELS_AVX2_PLANES_H

#include "kernels/avx2/simd.h"
#include "kernels/planes_walk.h"

/* What codes mean, 16 bytes twice. At int2: by the lower and by the upper half of a nibble; else [0] only. */
typedef struct plane_tables {
    __m256i by[2];
} plane_tables;

/* Every value comes out `more` larger. */
PR_INLINE plane_tables plane_tables_of(pr_plane level, const pr_plane_book *book, int more) {
    const __m256i add = _mm256_set1_epi8((char)more);
    if (level == PR_PLANE_P2) {
        const __m256i upper = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3));
        __m256i c2 = _mm256_add_epi8(broadcast_4(book->c2), add);
        return (plane_tables){{c2, _mm256_shuffle_epi8(c2, upper)}};
    }
    const void *c = level == PR_PLANE_P4 ? book->c4 : book->c8;
    __m256i table = _mm256_add_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(c)), add);
    return (plane_tables){{table, table}};
}

PR_INLINE __m256i load_bytes(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }

/* Group g (0, 1) of 16 columns of block b, 8 rows: in out[f] a dword lane has columns 16g + 4f .. + 3 of its row. */
PR_INLINE void plane_bytes(pr_plane level, const plane_tables *t, const pr__plane_run *run, size_t b, size_t g,
                           size_t half, __m256i out[4]) {
    const __m256i nibble = _mm256_set1_epi8(15), m33 = _mm256_set1_epi8(0x33);
    __m256i hi = load_bytes(run->plane[PR_PLANE_P2] + b * PR__P2_BLOCK + 64 * g + 32 * half);
    if (level == PR_PLANE_P2) {
        __m256i low = _mm256_and_si256(hi, nibble), high = _mm256_and_si256(_mm256_srli_epi16(hi, 4), nibble);
        out[0] = _mm256_shuffle_epi8(t->by[0], low);
        out[1] = _mm256_shuffle_epi8(t->by[1], low);
        out[2] = _mm256_shuffle_epi8(t->by[0], high);
        out[3] = _mm256_shuffle_epi8(t->by[1], high);
        return;
    }
    __m256i lo = load_bytes(run->plane[PR_PLANE_P4] + b * PR__P4_BLOCK + 64 * g + 32 * half);
    __m256i hi33 = _mm256_and_si256(hi, m33), lo33 = _mm256_and_si256(lo, m33);
    __m256i even = _mm256_or_si256(_mm256_slli_epi16(hi33, 2), lo33); /* fields 0 and 2 */
    __m256i odd = _mm256_or_si256(_mm256_srli_epi16(_mm256_xor_si256(lo, lo33), 2), _mm256_xor_si256(hi, hi33));
    out[0] = _mm256_shuffle_epi8(t->by[0], _mm256_and_si256(even, nibble));
    out[1] = _mm256_shuffle_epi8(t->by[0], _mm256_and_si256(odd, nibble));
    out[2] = _mm256_shuffle_epi8(t->by[0], _mm256_and_si256(_mm256_srli_epi16(even, 4), nibble));
    out[3] = _mm256_shuffle_epi8(t->by[0], _mm256_and_si256(_mm256_srli_epi16(odd, 4), nibble));
    if (level == PR_PLANE_P4) {
        return;
    }
    for (size_t h = 0; h < 2; h++) {
        __m256i both = load_bytes(run->plane[PR_PLANE_P8] + b * PR__P8_BLOCK + 64 * (2 * g + h) + 32 * half);
        out[2 * h] = _mm256_add_epi8(out[2 * h], _mm256_and_si256(both, nibble));
        out[2 * h + 1] = _mm256_add_epi8(out[2 * h + 1], _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble));
    }
}

/* Block of token t, of the column that x is at. */
PR_INLINE const pr_qblock *block_of(const uint8_t *x, size_t x_stride, int t) {
    return (const pr_qblock *)(const void *)(x + (size_t)t * x_stride);
}

/* The scales of a group of 8 rows. */
PR_INLINE __m256 plane_scales(const pr__plane_run *run, size_t b, size_t half) {
    __m128i u8 = _mm_loadl_epi64((const __m128i *)(const void *)(run->scales + b * PR_TILE_ROWS + 8 * half));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(u8));
}

/* What the sums of 8 rows of tile i meet at the end. */
PR_INLINE __m256 plane_rows(const pr__plane_span *s, uint32_t i, size_t half) {
    return _mm256_mul_ps(load_f16(s->rows[i] + 16 * half), _mm256_set1_ps(s->factor));
}

/* A pr__plane_finish_fn. In plain C this was a twentieth of a step of eight tokens where rows are short. */
static inline void plane_finish(const pr__plane_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    for (uint32_t i = 0; i < n_tiles; i++) {
        for (size_t half = 0; half < 2; half++) {
            __m256 rows = plane_rows(s, i, half);
            float *y = s->y + (size_t)i * PR_TILE_ROWS + 8 * half;
            for (uint32_t t = 0; t < n_tokens; t++, y += s->y_stride) {
                _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_loadu_ps(y), rows));
            }
        }
    }
}

/* Constants for the integers of fp16, which have 16 bits: maddubs of the even and of the odd bytes by k16, of the even
 * ones by 1. */
typedef struct pickers {
    __m256i k16[2], one;
} pickers;

PR_INLINE pickers pickers_of(const pr_plane_book *book) {
    short k16 = (short)book->k16;
    return (pickers){.k16 = {_mm256_set1_epi16(k16), _mm256_set1_epi16((short)(k16 << 8))},
                     .one = _mm256_set1_epi16(1)};
}

/* byte * k16 + low of four columns a dword: [0] has columns 0 and 2, [1] has 1 and 3. */
PR_INLINE void plane_words(const pickers *p, __m256i bytes, __m256i low, __m256i out[2]) {
    out[0] = _mm256_add_epi16(_mm256_maddubs_epi16(p->k16[0], bytes), _mm256_maddubs_epi16(p->one, low));
    out[1] = _mm256_add_epi16(_mm256_maddubs_epi16(p->k16[1], bytes), _mm256_srai_epi16(low, 8));
}

/* The bytes of p16 of a field of 4 columns of block b, 8 rows. */
PR_INLINE __m256i plane_low(const pr__plane_run *run, size_t b, size_t field, size_t half) {
    return load_bytes(run->plane[PR_PLANE_P16] + b * PR__P16_BLOCK + 64 * field + 32 * half);
}

/* Ask for n bytes at p, which may lie outside of any object. To the second-level cache: there are too few slots for lines
 * on their way to the first one (24 on Zen 4) to keep memory busy, and streams this short do not get help by hardware. */
PR_INLINE void ask(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i += 64) {
        _mm_prefetch((const char *)p + i, _MM_HINT_T1);
    }
}

/* Ask for block b of a level. */
PR_INLINE void plane_prefetch(pr_plane level, const pr__plane_run *run, size_t b) {
    if (b % 4 == 0) {
        ask(run->scales + b * PR_TILE_ROWS, 64);
    }
    ask(run->plane[PR_PLANE_P2] + b * PR__P2_BLOCK, PR__P2_BLOCK);
    if (level >= PR_PLANE_P4) {
        ask(run->plane[PR_PLANE_P4] + b * PR__P4_BLOCK, PR__P4_BLOCK);
    }
    if (level >= PR_PLANE_P8) {
        ask(run->plane[PR_PLANE_P8] + b * PR__P8_BLOCK, PR__P8_BLOCK);
    }
    if (level >= PR_PLANE_P16) {
        ask(run->plane[PR_PLANE_P16] + b * PR__P16_BLOCK, PR__P16_BLOCK);
    }
}

#endif
