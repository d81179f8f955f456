/*
 * From planes to bytes, AVX-512. Internal to kernels/avx512/.
 *
 * A byte of p2 and one of p4 hold the codes of four columns, two bits here and
 * two bits there. One shift and one select (vpternlog) put two whole codes of
 * 4 bits into a byte, for all 64 bytes at once; a code is then an index that
 * vpshufb takes. At int2 a nibble of p2 is two weights as it stands, so it is
 * looked up in two tables that each care for one half of it.
 */
#ifndef PRECIS_KERNELS_AVX512_PLANES_H
#define PRECIS_KERNELS_AVX512_PLANES_H

#include "kernels/avx512/simd.h"
#include "kernels/planes_walk.h"

/* What codes mean, 16 bytes four times over. At int2: by the lower and by the upper half of a nibble; else [0] only. */
typedef struct plane_tables {
    __m512i by[2];
} plane_tables;

/* With 0x80 as flip, bytes come out unsigned, 128 too large. */
PR_INLINE plane_tables plane_tables_of(pr_plane level, const pr_plane_book *book, int flip) {
    const __m512i flips = _mm512_set1_epi8((char)flip);
    if (level == PR_PLANE_P2) {
        const __m512i upper = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3));
        __m512i c2 = _mm512_xor_si512(broadcast_4(book->c2), flips);
        return (plane_tables){{c2, _mm512_shuffle_epi8(c2, upper)}};
    }
    const void *c = level == PR_PLANE_P4 ? book->c4 : book->c8;
    __m512i table = _mm512_xor_si512(_mm512_broadcast_i32x4(_mm_loadu_si128(c)), flips);
    return (plane_tables){{table, table}};
}

/* Group g (0, 1) of 16 columns of block b: in out[f] a dword lane has columns 16g + 4f .. + 3 of its row. */
PR_INLINE void plane_bytes(pr_plane level, const plane_tables *t, const pr__plane_run *run, size_t b, size_t g,
                           __m512i out[4]) {
    const __m512i nibble = _mm512_set1_epi8(15), m33 = _mm512_set1_epi8(0x33);
    __m512i hi = _mm512_loadu_si512(run->plane[PR_PLANE_P2] + b * PR__P2_BLOCK + 64 * g);
    if (level == PR_PLANE_P2) {
        __m512i low = _mm512_and_si512(hi, nibble), high = _mm512_and_si512(_mm512_srli_epi16(hi, 4), nibble);
        out[0] = _mm512_shuffle_epi8(t->by[0], low);
        out[1] = _mm512_shuffle_epi8(t->by[1], low);
        out[2] = _mm512_shuffle_epi8(t->by[0], high);
        out[3] = _mm512_shuffle_epi8(t->by[1], high);
        return;
    }
    __m512i lo = _mm512_loadu_si512(run->plane[PR_PLANE_P4] + b * PR__P4_BLOCK + 64 * g);
    enum { SELECT = 0xca /* bits of the second where the first is set, else of the third */ };
    __m512i even = _mm512_ternarylogic_epi32(m33, lo, _mm512_slli_epi16(hi, 2), SELECT); /* fields 0 and 2 */
    __m512i odd = _mm512_ternarylogic_epi32(m33, _mm512_srli_epi16(lo, 2), hi, SELECT);  /* fields 1 and 3 */
    out[0] = _mm512_shuffle_epi8(t->by[0], _mm512_and_si512(even, nibble));
    out[1] = _mm512_shuffle_epi8(t->by[0], _mm512_and_si512(odd, nibble));
    out[2] = _mm512_shuffle_epi8(t->by[0], _mm512_and_si512(_mm512_srli_epi16(even, 4), nibble));
    out[3] = _mm512_shuffle_epi8(t->by[0], _mm512_and_si512(_mm512_srli_epi16(odd, 4), nibble));
    if (level == PR_PLANE_P4) {
        return;
    }
    for (size_t h = 0; h < 2; h++) {
        __m512i both = _mm512_loadu_si512(run->plane[PR_PLANE_P8] + b * PR__P8_BLOCK + 64 * (2 * g + h));
        out[2 * h] = _mm512_add_epi8(out[2 * h], _mm512_and_si512(both, nibble));
        out[2 * h + 1] = _mm512_add_epi8(out[2 * h + 1], _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble));
    }
}

/* The scales of a group of 16 rows. */
PR_INLINE __m512 plane_scales(const pr__plane_run *run, size_t b) {
    __m128i u8 = _mm_loadu_si128((const __m128i *)(const void *)(run->scales + b * PR_TILE_ROWS));
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(u8));
}

/* What the sums of tile i meet at the end. */
PR_INLINE __m512 plane_rows(const pr__plane_span *s, uint32_t i) {
    return _mm512_mul_ps(load_f16(s->rows[i]), _mm512_set1_ps(s->factor));
}

/* A pr__plane_finish_fn. */
static inline void plane_finish(const pr__plane_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    for (uint32_t i = 0; i < n_tiles; i++) {
        __m512 rows = plane_rows(s, i);
        float *y = s->y + (size_t)i * PR_TILE_ROWS;
        for (uint32_t t = 0; t < n_tokens; t++, y += s->y_stride) {
            _mm512_storeu_ps(y, _mm512_mul_ps(_mm512_loadu_ps(y), rows));
        }
    }
}

/* Constants of maddubs for the integers of fp16, which have 16 bits: of the even and of the odd columns. */
typedef struct pickers {
    __m512i k16[2], one[2];
} pickers;

PR_INLINE pickers pickers_of(const pr_plane_book *book) {
    short k16 = (short)book->k16;
    return (pickers){.k16 = {_mm512_set1_epi16(k16), _mm512_set1_epi16((short)(k16 << 8))},
                     .one = {_mm512_set1_epi16(1), _mm512_set1_epi16(1 << 8)}};
}

/* byte * k16 + low of four columns a dword: [0] has columns 0 and 2, [1] has 1 and 3. */
PR_INLINE void plane_words(const pickers *p, __m512i bytes, __m512i low, __m512i out[2]) {
    for (int odd = 0; odd < 2; odd++) {
        out[odd] = _mm512_add_epi16(_mm512_maddubs_epi16(p->k16[odd], bytes), _mm512_maddubs_epi16(p->one[odd], low));
    }
}

/* The bytes of p16 of a field of 4 columns of block b. */
PR_INLINE __m512i plane_low(const pr__plane_run *run, size_t b, size_t field) {
    return _mm512_loadu_si512(run->plane[PR_PLANE_P16] + b * PR__P16_BLOCK + 64 * field);
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
