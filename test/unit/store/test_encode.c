/*
 * The encoder: planes say what the formulas say, every level is near its weights under H, and odd matrices come through.
 *
 * Decoding is written out here once more, from the text of kernels/planes.h and by element, so that it shares nothing with
 * src/kernels/planes.c. Errors are measured in double. Inputs of the matrices are correlated, as those of models are.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "store/encode.h"

static uint64_t seed;

static double uniform(void) { /* splitmix64 */
    uint64_t z = seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static double normal(void) {
    double u = uniform();
    return sqrt(-2 * log(u > 0 ? u : 0x1p-53)) * cos(6.283185307179586 * uniform());
}

/* ---- a job and its results ------------------------------------------------------ */

typedef struct rig {
    pr_encode_job job;
    float *w, *gram;
    size_t bytes[PR_PLANE_COUNT];
} rig;

static float *floats(size_t n) {
    float *v = test_calloc(n, sizeof *v);
    assert_non_null(v);
    return v;
}

/* Normal weights; the Gram matrix of inputs that are a few common ones mixed, and some noise. */
static void open_rig(rig *g, uint32_t rows, uint32_t cols, bool with_gram) {
    *g = (rig){.job = {.rows = rows, .cols = cols, .opts = {.n_planes = PR_PLANE_COUNT, .n_polish = 2}}};
    seed = rows * 1000 + cols;
    g->w = floats((size_t)rows * cols);
    for (size_t i = 0; i < (size_t)rows * cols; i++) g->w[i] = (float)(0.04 * normal());
    g->job.w = g->w;
    if (with_gram) {
        uint32_t common = cols / 4;
        float *mix = floats((size_t)common * cols);
        for (size_t i = 0; i < (size_t)common * cols; i++) mix[i] = (float)(normal() / sqrt(1 + (double)(i / cols)));
        g->gram = floats((size_t)cols * cols);
        for (uint32_t m = 0; m < common; m++)
            for (uint32_t i = 0; i < cols; i++)
                for (uint32_t j = 0; j < cols; j++)
                    g->gram[i * cols + j] += 100 * mix[m * cols + i] * mix[m * cols + j];
        for (uint32_t i = 0; i < cols; i++) g->gram[i * cols + i] += 20;
        test_free(mix);
        g->job.gram = g->gram;
    }
    for (int p = 0; p < PR_PLANE_COUNT; p++) {
        g->bytes[p] = pr_pack_tiles(rows) * pr_plane_tile_bytes((pr_plane)p, cols);
        g->job.plane[p] = test_malloc(g->bytes[p]);
        memset(g->job.plane[p], 0xa5, g->bytes[p]);
        g->job.loss.row[p] = floats(rows);
    }
}

static void close_rig(rig *g) {
    for (int p = 0; p < PR_PLANE_COUNT; p++) {
        test_free(g->job.plane[p]);
        test_free(g->job.loss.row[p]);
    }
    test_free(g->w);
    if (g->gram) test_free(g->gram);
}

static pr_status encode_with(rig *g, int threads, pr_err *err) {
    pr_team *team;
    assert_int_equal(pr_team_open(threads, 0, &team, err), PR_OK);
    pr_status st = pr_encode(&g->job, pr_kernels_get(0), team, err);
    pr_team_close(team);
    return st;
}

static void encode(rig *g) {
    pr_err err = {0};
    if (encode_with(g, 1, &err)) fail_msg("%s", err.text);
    assert_true(pr_plane_book_ok(&g->job.book));
}

/* Weight [r, c] at a level, by the letter of kernels/planes.h. */
static float decoded(const rig *g, int level, uint32_t r, uint32_t c) {
    const pr_plane_book *k = &g->job.book;
    uint32_t cols = g->job.cols, nb = cols / 32, lane = r % 16, in = c % 32;
    const uint8_t *tile[PR_PLANE_COUNT];
    for (int p = 0; p < PR_PLANE_COUNT; p++)
        tile[p] = g->job.plane[p] + r / 16 * pr_plane_tile_bytes((pr_plane)p, cols);
    size_t at = ((c / 32 * 2 + in / 16) * 16 + lane) * 4 + in % 4, scale = nb * 128 + c / 32 * 16 + lane;
    int a = tile[0][at] >> (in % 16 / 4 * 2) & 3;
    uint16_t half;
    memcpy(&half, tile[0] + nb * 128 + nb * 16 + lane * 2, 2);
    float row = pr_f16_to_f32(half);
    if (level == 0) return (float)k->c2[a] * ((float)tile[0][scale] * (row * k->f2));
    int code = 4 * a + (tile[1][at] >> (in % 16 / 4 * 2) & 3);
    float u = (float)tile[1][scale];
    if (level == 1) return (float)k->c4[code] * (u * (row * k->f4));
    int v = k->c8[code] + (tile[2][((c / 32 * 4 + in / 8) * 16 + lane) * 4 + in % 4] >> (in % 8 / 4 * 4) & 15);
    if (level == 2) return (float)v * (u * (row * k->f8));
    int b = (int8_t)tile[3][((c / 32 * 8 + in / 4) * 16 + lane) * 4 + in % 4];
    return (float)(v * k->k16 + b) * (u * (row * (k->f8 / (float)k->k16)));
}

/* Errors of a level over all rows: plain, and under H (or the identity), both over the sum of w^2. What the encoder tells is under
 * H, or with `fast` under its diagonal. */
static double error_of(const rig *g, int level, double *under_h) {
    uint32_t rows = g->job.rows, cols = g->job.cols;
    double plain = 0, weighed = 0, power = 0, mean = 0;
    double *e = test_malloc(cols * sizeof *e);
    for (uint32_t i = 0; i < cols; i++) mean += g->gram ? (double)g->gram[i * cols + i] / cols : 1.0 / cols;
    for (uint32_t r = 0; r < rows; r++) {
        double row = 0, own = 0;
        for (uint32_t c = 0; c < cols; c++) {
            double w = (double)g->w[r * cols + c];
            e[c] = (double)decoded(g, level, r, c) - w;
            power += w * w;
            plain += e[c] * e[c];
        }
        for (uint32_t i = 0; i < cols; i++) {
            if (!g->gram) row += e[i] * e[i];
            for (uint32_t j = 0; j < cols && g->gram; j++) row += e[i] * (double)g->gram[i * cols + j] / mean * e[j];
            if (g->gram) own += e[i] * (double)g->gram[i * cols + i] / mean * e[i];
        }
        weighed += row;
        double told = (double)g->job.loss.row[level][r] * cols, want = g->gram && g->job.opts.fast ? own : row;
        if (fabs(told - want) > 1e-3 * want + 1e-6 * power)
            fail_msg("level %d row %u: loss %g, told %g", level, r, want, told);
    }
    test_free(e);
    *under_h = power > 0 ? weighed / power : 0;
    return power > 0 ? plain / power : 0;
}

static void decode_as_kernels_do(const rig *g) {
    float *out = floats(g->job.cols);
    for (int level = 0; level < (int)g->job.opts.n_planes; level++)
        for (uint32_t r = 0; r < g->job.rows; r++) {
            const uint8_t *tile[PR_PLANE_COUNT];
            for (int p = 0; p < PR_PLANE_COUNT; p++)
                tile[p] = g->job.plane[p] + r / 16 * pr_plane_tile_bytes((pr_plane)p, g->job.cols);
            pr_plane_row(tile, (pr_plane)level, &g->job.book, g->job.cols, r % 16, out);
            for (uint32_t c = 0; c < g->job.cols; c++) {
                float w = decoded(g, level, r, c);
                assert_true(isfinite(w));
                assert_memory_equal(&out[c], &w, sizeof w);
            }
        }
    test_free(out);
}

/* ---- errors --------------------------------------------------------------------- */

/* Most of the plain error, in dB below the weights, of each level. */
static void within(rig *g, const double least_db[PR_PLANE_COUNT]) {
    encode(g);
    decode_as_kernels_do(g);
    for (int level = 0; level < (int)g->job.opts.n_planes; level++) {
        double h, db = -10 * log10(error_of(g, level, &h));
        if (db < least_db[level]) fail_msg("level %d: %.2f dB, %.2f wanted", level, db, least_db[level]);
    }
}

static void each_level_is_near(void **state) {
    (void)state;
    rig g;
    open_rig(&g, 96, 128, false);
    within(&g, (const double[]){9, 21, 39, 68});
    g.job.opts.fast = true;
    within(&g, (const double[]){9, 21, 39, 68});
    close_rig(&g);
    open_rig(&g, 96, 128, true);
    within(&g, (const double[]){7, 18, 36, 70});
    g.job.opts.fast = true;
    within(&g, (const double[]){9, 21, 39, 68});
    close_rig(&g);
}

static void feedback_beats_nearest(void **state) {
    (void)state;
    rig g;
    double nearest[PR_PLANE_COUNT], plain[PR_PLANE_COUNT], polished[PR_PLANE_COUNT];
    open_rig(&g, 200, 256, true);
    g.job.opts.fast = true;
    encode(&g);
    for (int p = 0; p < PR_PLANE_COUNT; p++) error_of(&g, p, &nearest[p]);
    g.job.opts = (pr_encode_opts){.n_planes = PR_PLANE_COUNT};
    encode(&g);
    for (int p = 0; p < PR_PLANE_COUNT; p++) error_of(&g, p, &plain[p]);
    g.job.opts.n_polish = 4;
    encode(&g);
    for (int p = 0; p < PR_PLANE_COUNT; p++) error_of(&g, p, &polished[p]);
    assert_true(plain[1] < 0.7 * nearest[1]);
    assert_true(plain[2] < 0.7 * nearest[2]);
    for (int p = 0; p < 2; p++) assert_true(polished[p] < 0.8 * plain[p] && polished[p] < 0.5 * nearest[p]);
    close_rig(&g);
}

/* Rounds of descent come from the left and from the right in turn and hand half of their sums on: whichever was the last, what
 * is told is what was lost (error_of), and more rounds do not make it worse. */
static void rounds_in_turn(void **state) {
    (void)state;
    rig g;
    double before[2] = {INFINITY, INFINITY}, first[2];
    open_rig(&g, 160, 256, true);
    for (uint32_t n = 0; n <= 6; n++) {
        g.job.opts.n_polish = n;
        encode(&g);
        for (int p = 0; p < 2; p++) {
            double h;
            error_of(&g, p, &h);
            if (!(h < 1.03 * before[p])) fail_msg("level %d after %u rounds: %g, was %g", p, n, h, before[p]);
            before[p] = h;
            if (n == 0) first[p] = h;
        }
    }
    for (int p = 0; p < 2; p++) assert_true(before[p] < 0.7 * first[p]);
    close_rig(&g);
}

/* The sum of diag e^2 at a level. */
static double loss_under(const rig *g, const float *diag, int level) {
    double sum = 0;
    for (uint32_t r = 0; r < g->job.rows; r++)
        for (uint32_t c = 0; c < g->job.cols; c++) {
            double e = (double)decoded(g, level, r, c) - (double)g->w[r * g->job.cols + c];
            sum += (double)diag[c] * e * e;
        }
    return sum;
}

/* Nearest codes look at H's diagonal: more where it is large, and whether it comes by itself or with the rest. */
static void diagonal_is_enough_for_nearest(void **state) {
    (void)state;
    enum { COLS = 256 };
    rig a, b, blind;
    float diag[COLS];
    open_rig(&a, 200, COLS, true);
    open_rig(&b, 200, COLS, false);
    open_rig(&blind, 200, COLS, false);
    for (uint32_t i = 0; i < COLS; i++) diag[i] = a.gram[i * COLS + i] *= i % 8 ? 1 : 40;
    memcpy(b.w, a.w, 200 * COLS * sizeof *a.w);
    memcpy(blind.w, a.w, 200 * COLS * sizeof *a.w);
    b.job.diag = diag;
    a.job.opts.fast = b.job.opts.fast = blind.job.opts.fast = true;
    encode(&a);
    encode(&b);
    encode(&blind);
    for (int p = 0; p < PR_PLANE_COUNT; p++) {
        assert_memory_equal(a.job.plane[p], b.job.plane[p], a.bytes[p]);
        assert_memory_equal(a.job.loss.row[p], b.job.loss.row[p], 200 * sizeof(float));
    }
    for (int p = 0; p < 2; p++) assert_true(loss_under(&a, diag, p) < 0.9 * loss_under(&blind, diag, p));
    close_rig(&a);
    close_rig(&b);
    close_rig(&blind);
}

/* Lambda moves quality from one level to the other. */
static void lambda_weighs_the_levels(void **state) {
    (void)state;
    rig g;
    double two[2], four[2];
    open_rig(&g, 64, 128, true);
    for (int i = 0; i < 2; i++) {
        g.job.opts.lambda = i ? 0.99f : 0.5f;
        encode(&g);
        error_of(&g, 0, &two[i]);
        error_of(&g, 1, &four[i]);
    }
    assert_true(two[0] < two[1]);
    assert_true(four[0] > four[1]);
    close_rig(&g);
}

/* ---- threads, planes ------------------------------------------------------------- */

static void threads_change_nothing(void **state) {
    (void)state;
    rig a, b;
    pr_err err = {0};
    for (int mode = 0; mode < 3; mode++) {
        open_rig(&a, 150, 96, mode != 1);
        a.job.opts.fast = mode == 2;
        encode(&a);
        for (int threads = 2; threads <= 3; threads++) {
            open_rig(&b, 150, 96, mode != 1);
            b.job.opts.fast = mode == 2;
            assert_int_equal(encode_with(&b, threads, &err), PR_OK);
            for (int p = 0; p < PR_PLANE_COUNT; p++) {
                assert_memory_equal(a.job.plane[p], b.job.plane[p], a.bytes[p]);
                assert_memory_equal(a.job.loss.row[p], b.job.loss.row[p], 150 * sizeof(float));
            }
            assert_memory_equal(a.job.book.c8, b.job.book.c8, 16);
            assert_true(a.job.book.f8 == b.job.book.f8 && a.job.book.f4 == b.job.book.f4);
            close_rig(&b);
        }
        close_rig(&a);
    }
}

static void fewer_planes(void **state) {
    (void)state;
    rig g;
    for (uint32_t n = 1; n <= PR_PLANE_COUNT; n++) {
        open_rig(&g, 33, 64, true);
        g.job.opts.n_planes = n;
        for (int p = (int)n; p < PR_PLANE_COUNT; p++) {
            test_free(g.job.plane[p]);
            g.job.plane[p] = NULL;
        }
        encode(&g);
        for (int p = 0; p < PR_PLANE_COUNT; p++)
            if (p >= (int)n) g.job.plane[p] = test_calloc(1, g.bytes[p]); /* for decoding, and for close_rig() */
        double h, error[PR_PLANE_COUNT];
        for (int p = 0; p < (int)n; p++) error[p] = error_of(&g, p, &h);
        for (int p = 1; p < (int)n; p++) assert_true(error[p] < 0.2 * error[p - 1]);
        assert_true(error[0] < 0.25);
        close_rig(&g);
    }
}

/* The loss changes nothing else, and what is not asked for is not touched. */
static void losses_are_optional(void **state) {
    (void)state;
    rig a, b;
    for (int fast = 0; fast < 2; fast++) {
        open_rig(&a, 40, 64, true);
        open_rig(&b, 40, 64, true);
        a.job.opts.fast = b.job.opts.fast = fast;
        float *kept[PR_PLANE_COUNT];
        for (int p = 0; p < PR_PLANE_COUNT; p++) {
            kept[p] = b.job.loss.row[p];
            b.job.loss.row[p] = NULL;
        }
        encode(&a);
        encode(&b);
        for (int p = 0; p < PR_PLANE_COUNT; p++) {
            assert_memory_equal(a.job.plane[p], b.job.plane[p], a.bytes[p]);
            b.job.loss.row[p] = kept[p];
        }
        close_rig(&a);
        close_rig(&b);
    }
}

/* ---- odd matrices ----------------------------------------------------------------- */

/* Sizes: rows that fill no tile, one group of columns, one row, more rows than the sample. */
static void odd_sizes(void **state) {
    (void)state;
    const uint32_t sizes[][2] = {{1, 32}, {17, 32}, {31, 96}, {33, 32}, {300, 32}, {5, 1024}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int mode = 0; mode < 3; mode++) {
            rig g;
            open_rig(&g, sizes[i][0], sizes[i][1], mode > 0);
            g.job.opts.fast = mode == 2;
            within(&g, (const double[]){4, 14, 28, 55});
            for (uint32_t r = g.job.rows; r % 16; r++) /* rows past the end are zeros in every plane */
                for (uint32_t c = 0; c < g.job.cols; c++)
                    for (int p = 0; p < PR_PLANE_COUNT; p++) assert_true(decoded(&g, p, r, c) == 0.0f);
            close_rig(&g);
        }
}

static void zeros_stay_zeros(void **state) {
    (void)state;
    for (int mode = 0; mode < 3; mode++) {
        rig g;
        open_rig(&g, 70, 96, mode > 0);
        g.job.opts.fast = mode == 2;
        for (uint32_t r = 0; r < 70; r++)
            for (uint32_t c = 0; c < 96; c++)
                if (r % 7 == 3 || (r % 2 && c / 32 == 1)) g.w[r * 96 + c] = 0;
        within(&g, (const double[]){6, 16, 30, 60});
        for (uint32_t r = 0; r < 70; r++)
            for (uint32_t c = 0; c < 96; c++)
                for (int p = 0; p < PR_PLANE_COUNT; p++)
                    if (r % 7 == 3 || (r % 2 && c / 32 == 1)) assert_true(decoded(&g, p, r, c) == 0.0f);
        memset(g.w, 0, 70 * 96 * sizeof *g.w);
        encode(&g);
        for (int p = 0; p < PR_PLANE_COUNT; p++)
            for (uint32_t i = 0; i < 70 * 96; i++) assert_true(decoded(&g, p, i / 96, i % 96) == 0.0f);
        close_rig(&g);
    }
}

/* Rows and groups of one value, signs alternating or not; a ramp. */
static void plain_patterns(void **state) {
    (void)state;
    for (int mode = 0; mode < 3; mode++) {
        rig g;
        open_rig(&g, 64, 64, mode > 0);
        g.job.opts.fast = mode == 2;
        for (uint32_t r = 0; r < 64; r++)
            for (uint32_t c = 0; c < 64; c++)
                g.w[r * 64 + c] = (r % 3 == 0            ? 1.0f
                                   : r % 3 == 1 && c % 2 ? -0.5f
                                                         : (float)c / 64) *
                                  (r % 2 ? 1 : -0.01f);
        within(&g, (const double[]){6, 14, 28, 55});
        close_rig(&g);
    }
}

/* A weight far beyond its group keeps its value at int8 and above. */
static void outliers_are_reached(void **state) {
    (void)state;
    for (int mode = 0; mode < 3; mode++) {
        rig g;
        open_rig(&g, 96, 128, mode > 0);
        g.job.opts.fast = mode == 2;
        for (uint32_t r = 0; r < 96; r++) g.w[r * 128 + r] = (r % 2 ? -1 : 1) * (r < 32 ? 0.3f : r < 64 ? 2.0f : 40.0f);
        within(&g, (const double[]){1, 8, 24, 50}); /* 2 bits and no zero among them: one in 32 is the worst there is */
        for (uint32_t r = 0; r < 96; r++) {
            float w = g.w[r * 128 + r];
            assert_true(fabsf(decoded(&g, 2, r, r) - w) < 0.03f * fabsf(w));
            assert_true(fabsf(decoded(&g, 3, r, r) - w) < 0.001f * fabsf(w));
        }
        close_rig(&g);
    }
}

static void any_magnitude(void **state) {
    (void)state;
    const float sizes[] = {1e-30f, 1e-12f, 1e12f, 1e36f};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int mode = 0; mode < 2; mode++) {
            rig g;
            open_rig(&g, 40, 64, mode);
            for (int p = 0; p < PR_PLANE_COUNT; p++) { /* squares of these are no floats: no loss */
                test_free(g.job.loss.row[p]);
                g.job.loss.row[p] = NULL;
            }
            for (uint32_t k = 0; k < 40 * 64; k++) g.w[k] *= sizes[i];
            for (uint32_t k = 0; k < 64 * 64 && g.gram; k++) g.gram[k] *= i % 2 ? 1e-20f : 1e20f;
            encode(&g);
            decode_as_kernels_do(&g);
            double lost[PR_PLANE_COUNT] = {0}, power = 0;
            for (uint32_t k = 0; k < 40 * 64; k++) {
                double unit = (double)sizes[i], w = (double)g.w[k] / unit;
                power += w * w;
                for (int p = 0; p < PR_PLANE_COUNT; p++)
                    lost[p] += pow((double)decoded(&g, p, k / 64, k % 64) / unit - w, 2);
            }
            const double most[PR_PLANE_COUNT] = {0.25, 0.02, 1e-3, 1e-6};
            for (int p = 0; p < PR_PLANE_COUNT; p++) {
                assert_true(lost[p] < most[p] * power);
                g.job.loss.row[p] = floats(1);
            }
            close_rig(&g);
        }
}

/* Rows that differ by six orders of magnitude: each is near its own weights. */
static void rows_of_all_sizes(void **state) {
    (void)state;
    rig g;
    open_rig(&g, 64, 64, true);
    for (uint32_t r = 0; r < 64; r++)
        for (uint32_t c = 0; c < 64; c++) g.w[r * 64 + c] *= powf(10, (float)(r % 7) - 3);
    encode(&g);
    for (uint32_t r = 0; r < 64; r++) {
        double lost[PR_PLANE_COUNT] = {0}, power = 0;
        for (uint32_t c = 0; c < 64; c++) {
            double w = (double)g.w[r * 64 + c];
            power += w * w;
            for (int p = 0; p < PR_PLANE_COUNT; p++) lost[p] += pow((double)decoded(&g, p, r, c) - w, 2);
        }
        assert_true(lost[0] < 0.35 * power && lost[1] < 0.04 * power && lost[2] < 2e-3 * power &&
                    lost[3] < 1e-5 * power);
    }
    close_rig(&g);
}

/* Inputs that hardly span the columns, that are all zeros, or one of which is. */
static void odd_inputs(void **state) {
    (void)state;
    rig g;
    for (int mode = 0; mode < 3; mode++) {
        open_rig(&g, 48, 96, true);
        for (uint32_t i = 0; i < 96; i++)
            for (uint32_t j = 0; j < 96; j++) {
                float *at = &g.gram[i * 96 + j];
                if (mode == 0) *at = 1;
                else if (mode == 1) *at = 0;
                else if (i == 5 || j == 5) *at = 0;
            }
        pr_err err = {0};
        assert_int_equal(encode_with(&g, 1, &err), PR_OK);
        decode_as_kernels_do(&g);
        close_rig(&g);
    }
}

/* ---- refusals ----------------------------------------------------------------------- */

static void refused(rig *g, pr_status want, const char *naming) {
    pr_err err = {0};
    assert_int_equal(encode_with(g, 2, &err), want);
    if (!strstr(err.text, naming)) fail_msg("\"%s\" does not name %s", err.text, naming);
}

static void refusals(void **state) {
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    rig g;
    open_rig(&g, 70, 64, true);
    for (int i = 0; i < 3; i++) {
        float w = g.w[67 * 64 + 13], h = g.gram[40 * 64 + 3];
        g.w[67 * 64 + 13] = bad[i];
        refused(&g, PR_ERR_FORMAT, "weight [67, 13]");
        g.w[67 * 64 + 13] = w;
        g.gram[40 * 64 + 3] = bad[i];
        refused(&g, PR_ERR_FORMAT, "gram [40, 3]");
        g.gram[40 * 64 + 3] = h;
    }
    float h = g.gram[0];
    g.gram[0] = -1;
    refused(&g, PR_ERR_FORMAT, "gram [0, 0]");
    g.gram[0] = h;
    const pr_encode_job good = g.job;
    float diag[64] = {0};
    g.job.gram = NULL;
    g.job.diag = diag;
    for (int i = 0; i < 4; i++) {
        diag[5] = i < 3 ? bad[i] : -1;
        refused(&g, PR_ERR_FORMAT, "diag [5]");
    }
    g.job = good;
    g.job.cols = 63;
    refused(&g, PR_ERR_ARG, "63 columns");
    g.job = good;
    g.job.rows = 0;
    refused(&g, PR_ERR_ARG, "0 rows");
    g.job = good;
    g.job.opts.n_planes = 5;
    refused(&g, PR_ERR_ARG, "n_planes");
    g.job.opts.n_planes = 0;
    refused(&g, PR_ERR_ARG, "n_planes");
    g.job = good;
    g.job.opts.lambda = 1.5f;
    refused(&g, PR_ERR_ARG, "lambda");
    g.job = good;
    g.job.opts.damp = NAN;
    refused(&g, PR_ERR_ARG, "damp");
    g.job = good;
    close_rig(&g);
}

static void every_allocation_fails_once(void **state) {
    (void)state;
    rig want, g;
    open_rig(&want, 70, 64, true);
    encode(&want);
    size_t held = pr_mem_total();
    for (int threads = 1; threads <= 2; threads++)
        for (int sticky = 0; sticky < 2; sticky++) {
            bool through = false;
            int64_t n = 0;
            for (; !through; n++) {
                pr_team *team;
                pr_err err = {0};
                open_rig(&g, 70, 64, true);
                assert_int_equal(pr_team_open(threads, 0, &team, &err), PR_OK);
                size_t with_team = pr_mem_total();
                pr_mem_fail_after(n, sticky);
                pr_status st = pr_encode(&g.job, pr_kernels_get(0), team, &err);
                through = !pr_mem_failed();
                pr_mem_fail_after(-1, false);
                assert_int_equal(pr_mem_total(), with_team);
                assert_int_equal(st, through ? PR_OK : PR_ERR_NOMEM);
                if (st) assert_true(err.status == st && err.text[0] && !strchr(err.text, '\n'));
                for (int p = 0; p < PR_PLANE_COUNT && !st; p++)
                    assert_memory_equal(g.job.plane[p], want.job.plane[p], g.bytes[p]);
                pr_team_close(team);
                close_rig(&g);
            }
            assert_true(n > 10);
        }
    assert_int_equal(pr_mem_total(), held);
    close_rig(&want);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_level_is_near),
        cmocka_unit_test(feedback_beats_nearest),
        cmocka_unit_test(rounds_in_turn),
        cmocka_unit_test(diagonal_is_enough_for_nearest),
        cmocka_unit_test(lambda_weighs_the_levels),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(fewer_planes),
        cmocka_unit_test(losses_are_optional),
        cmocka_unit_test(odd_sizes),
        cmocka_unit_test(zeros_stay_zeros),
        cmocka_unit_test(plain_patterns),
        cmocka_unit_test(outliers_are_reached),
        cmocka_unit_test(any_magnitude),
        cmocka_unit_test(rows_of_all_sizes),
        cmocka_unit_test(odd_inputs),
        cmocka_unit_test(refusals),
        cmocka_unit_test(every_allocation_fails_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
