/*
 * Inside the encoder (encode.c, encode_hess.c, encode_rows.c): what its files share.
 *
 * Rows are worked on 32 at a time, a lane each, and everything about them stands with the lanes innermost: [column][lane].
 * That is how the compiler turns plain loops into SIMD, and it is half of what pr_kernels.mm_f32 wants: errors stand as
 * its packed tiles of 16 rows, and a product of them with 32 columns of H comes out as [column][lane] again.
 */
#ifndef PRECIS_STORE_ENCODE_IMPL_H
#define PRECIS_STORE_ENCODE_IMPL_H

#include "store/encode.h"

enum {
    PR__LANES = 32, /* rows of a block of rows */
    PR__PAIR = 64,  /* two errors of each: lanes 0..31 and 32..63 */
    PR__TILES = PR__LANES / PR_TILE_ROWS
};

/* body(ctx, chunk, thread) for chunk < n on all threads of the team. */
void pr__encode_loop(pr_team *team, uint32_t n, void (*body)(void *ctx, uint32_t chunk, int thread), void *ctx);

/* y[n_x][y_stride] = x[n_x][stride] times the tiles: pr_mm_args for floats, n_x columns' sums for all lanes of the tiles.
 * tile_stride: floats between tiles; 0: they follow one another. */
void pr__encode_product(const pr_kernels *k, const float *tiles, size_t tile_stride, uint32_t n_tiles, uint32_t cols,
                        const float *x, size_t stride, uint32_t n_x, float *y, size_t y_stride);

/* ---- the inputs (encode_hess.c) ---- */

/*
 * H = gram / mean(diag gram) + damp * I, and its factor: H = R R^T with R upper, R = N diag(sqrt(pivot)), N with ones on
 * its diagonal. Then e H e^T is the sum over columns k of pivot[k] (e[k] + sum over j < k of e[j] N[j][k])^2: what
 * feedback minimises column by column, with no inverse of H anywhere.
 */
typedef struct pr__hess {
    uint32_t cols;
    size_t stride; /* floats between rows of h and n */
    float damp;
    float *h;     /* [cols][stride], NULL: only the diagonal is known */
    float *n;     /* [cols][stride], n[k][j] = N[j][k] for j < k, the rest is undefined. NULL: no feedback wanted */
    float *diag;  /* [cols] of H */
    float *pivot; /* [cols]; diag where n is NULL */
    size_t bytes; /* of h and of n, each */
} pr__hess;

/* full: make h and n, where gram is given. Without it diag counts, without that either all columns alike. Errors name the element. */
pr_status pr__hess_open(pr__hess *hess, const float *gram, const float *diag, uint32_t cols, float damp, bool full,
                        const pr_kernels *k, pr_team *team, pr_err *err);
void pr__hess_close(pr__hess *hess); /* an all-zero struct is allowed */

/* ---- rows (encode_rows.c) ---- */

/* The book while it is worked on: values in units of a group's scale (s2, s4 below). */
typedef struct pr__book {
    float c2[4], c4[16];
    float sigma2, sigma4; /* the scale of a group with deviation 1, about */
    bool reach;           /* c8 and fine are known: codes are chosen so that their nibbles reach the weight */
    float fine;           /* step of p8 in units of s4: w = s4 * fine * (c8 + n) */
    float c8[16];
    float rest_max; /* the most that p16 can carry, in steps of p8 */
} pr__book;

/* Columns on which side of a block: what rows->side is about. */
typedef enum pr__side { PR__NO_SIDE, PR__BEFORE, PR__AFTER } pr__side;

/* 32 rows. nb = cols / 32 groups. */
typedef struct pr__rows {
    uint32_t n_rows; /* live lanes, the others are zeros */
    float *w;        /* [cols][32] */
    float *d;        /* [2][2 tiles][cols][16]: decoded - w. Of levels p2 and p4, later of p8 and p16 */
    float *side;     /* [cols][64]: what the errors in d of the columns on one side of a column's block do to it: d H */
    pr__side known;  /* which side, after a round of descent; none after what else changes d */
    uint8_t *code, *n;                              /* [cols][32] */
    int8_t *b;                                      /* [cols][32] */
    float *s2, *s4, *s8;                            /* [nb][32]: unit of c2, c4 and c8 + n */
    float *floor4;                                  /* [nb][32]: least s4 with which p8 reaches all of the group */
    float quantum2[PR__LANES], quantum4[PR__LANES]; /* s2 and s4 are 1..255 of them; 0: any number */
    uint16_t row[PR__LANES];
    uint8_t *line; /* [3 * cols + 2 * nb]: one row on its way out */
    float *memory;
    size_t bytes;
} pr__rows;

typedef struct pr__pass {
    const pr_kernels *k;
    const pr__hess *hess;
    const pr__book *book;
    bool full; /* all of H counts, else its diagonal */
    float lambda;
    uint32_t n_factors; /* steps of scale searches */
} pr__pass;

/* What came of pr__rows_refine(). */
typedef struct pr__refined {
    double error; /* e H e^T over groups that are not held up by their floor */
    uint64_t n;   /* weights of those */
    uint64_t
        beyond[4]; /* of those: left over is more than 129/128, 129/64, 129/32, 129/16 steps, 2 over what p16 carries */
} pr__refined;

pr_status pr__rows_open(pr__rows *rows, uint32_t cols, pr_err *err);
void pr__rows_close(pr__rows *rows);

/* Lane i becomes row index[i] of w, times unit. Scales are free afterwards. */
void pr__rows_load(pr__rows *rows, const float *w, uint32_t cols, const uint32_t *index, uint32_t n_rows, float unit);
void pr__rows_floor(pr__rows *rows, const pr__pass *pass);  /* floor4 by the book */
void pr__rows_search(pr__rows *rows, const pr__pass *pass); /* s2, s4 for w as it is */
void pr__rows_round(pr__rows *rows, uint32_t cols);         /* s2, s4 to their quanta */
void pr__rows_feedback(pr__rows *rows,
                       const pr__pass *pass); /* codes with feedback; s2, s4 anew for what is to be met */
/* One round of refit of scales and choice of codes: from the left first, then from the right, and so on. (Always from the left
 * where only the diagonal counts.) */
void pr__rows_descend(pr__rows *rows, const pr__pass *pass);
/* p8 with feedback and p16: n, b; d becomes their errors. s8 is given. */
void pr__rows_refine(pr__rows *rows, const pr__pass *pass, float k16, pr__refined *out);
/* The sum of e H e^T without damping, lane by lane, of either error in d. */
void pr__rows_loss(const pr__rows *rows, const pr__pass *pass, double out[2][PR__LANES]);

/* ---- the whole (encode.c), and its book (encode_book.c) ---- */

typedef struct pr__encoder {
    pr_encode_job *job;
    const pr_kernels *k;
    pr_team *team;
    pr_encode_opts opts; /* with defaults filled in */
    pr__hess hess;
    pr__book book;
    pr__pass pass;
    float unit;     /* w is taken times this power of two, which makes the largest |w| 0.5 to 1 */
    float *top;     /* [rows] largest |w|; NaN or infinite if one of them is */
    pr__rows *rows; /* [n_rows]: one a thread, and as many as the sample needs */
    uint32_t n_rows;
    uint32_t *sample; /* [n_sample] rows that the book is made from */
    uint32_t n_sample;
} pr__encoder;

enum { PR__SAMPLE_MAX = 128 };

/* Find e->book, and job->book, from the sample. */
pr_status pr__book_make(pr__encoder *e, pr_err *err);

#endif
