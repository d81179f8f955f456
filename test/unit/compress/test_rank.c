/*
 * Ranking: against a slow greedy that looks at every plane each time, on random damages; and the points it names.
 */
#include "compress/rank.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "support/rig.h"

enum { TENSORS = 3, UNITS = 12, INCREMENTS_MAX = UNITS * 3 };

typedef struct fixture {
    pr_plane_set set;
    pr_plane_tensor tensors[TENSORS];
    pr_plane_piece units[UNITS];
    pr_increment increments[INCREMENTS_MAX];
    float kl[INCREMENTS_MAX + 1];
    pr_damage damages[UNITS];
} fixture;

static void make(fixture *f, rig_rng *rng, bool convex) {
    *f = (fixture){.set = {.n_tensors = TENSORS, .n_units = UNITS, .n_planes = 4}};
    f->set.tensors = f->tensors;
    f->set.units = f->units;
    f->set.increments = f->increments;
    f->set.kl = f->kl;
    for (uint32_t i = 0; i < TENSORS; i++) {
        f->tensors[i] = (pr_plane_tensor){.cols = 32 * (1 + i), .rows = 4 * 16 * 3, .n_planes = 4 - (i == 1)};
        f->tensors[i].unit0 = i * 4;
        f->tensors[i].n_units = 4;
        f->set.n_increments += 4 * (f->tensors[i].n_planes - 1);
        f->set.n_weights += (uint64_t)f->tensors[i].cols * f->tensors[i].rows;
        for (uint32_t u = 0; u < 4; u++)
            f->units[i * 4 + u] = (pr_plane_piece){.tensor = i, .tile0 = u * 3, .n_tiles = 3};
    }
    for (uint32_t u = 0; u < UNITS; u++) {
        double d = 1 + rig_below(rng, 1000);
        for (int p = 0; p < PR_PLANE_COUNT; p++) {
            f->damages[u].at[p] = d / 1000;
            d /= convex ? 20 : 1 + rig_below(rng, 30);
        }
    }
}

static double gain(const fixture *f, uint32_t unit, uint32_t from, uint32_t to) {
    double bytes = 0;
    for (uint32_t p = from + 1; p <= to; p++) bytes += (double)pr_plane_unit_bytes(&f->set, unit, (pr_plane)p);
    return (f->damages[unit].at[from] - f->damages[unit].at[to]) / bytes;
}

/* Where every plane pays less than the one below it, the order is the greedy one. */
static void greedy(void **state) {
    (void)state;
    rig_rng rng = {5};
    for (int round = 0; round < 50; round++) {
        fixture f;
        pr_err err = {0};
        make(&f, &rng, true);
        assert_int_equal(pr_rank(&f.set, f.damages, &err), PR_OK);
        uint8_t level[UNITS] = {0};
        for (uint32_t i = 0; i < f.set.level_cursor[PR_PLANE_P8]; i++) {
            double best = -1;
            for (uint32_t u = 0; u < UNITS; u++)
                if (level[u] < PR_PLANE_P8 && gain(&f, u, level[u], level[u] + 1u) > best)
                    best = gain(&f, u, level[u], level[u] + 1u);
            const pr_increment *in = &f.increments[i];
            assert_true(gain(&f, in->unit, in->plane - 1u, in->plane) >= best * (1 - 1e-12));
            level[in->unit]++;
        }
    }
}

/* Whatever the damages: each plane once, after those below it, p16 last, the expected KL falls to what is left. */
static void valid(void **state) {
    (void)state;
    rig_rng rng = {6};
    for (int round = 0; round < 200; round++) {
        fixture f;
        pr_err err = {0};
        make(&f, &rng, false);
        assert_int_equal(pr_rank(&f.set, f.damages, &err), PR_OK);
        uint8_t level[UNITS] = {0};
        double first = 0, last = 0;
        for (uint32_t i = 0; i < f.set.n_increments; i++) {
            const pr_increment *in = &f.increments[i];
            assert_int_equal(in->plane, level[in->unit] + 1);
            level[in->unit]++;
            assert_true(i < f.set.level_cursor[PR_PLANE_P8] ? in->plane < PR_PLANE_P16 : in->plane == PR_PLANE_P16);
            assert_true(f.kl[i + 1] <= f.kl[i]);
        }
        for (uint32_t u = 0; u < UNITS; u++) {
            uint32_t top = f.tensors[f.units[u].tensor].n_planes - 1;
            assert_int_equal(level[u], top);
            first += f.damages[u].at[0];
            last += f.damages[u].at[top];
        }
        assert_true(fabs((double)f.kl[0] - first) < 1e-5 * first);
        assert_true(fabs((double)f.kl[f.set.n_increments] - last) < 1e-5 * first);
    }
}

static void levels(void **state) {
    (void)state;
    rig_rng rng = {7};
    fixture f;
    pr_err err = {0};
    make(&f, &rng, true);
    assert_int_equal(pr_rank(&f.set, f.damages, &err), PR_OK);
    const uint32_t *c = f.set.level_cursor;
    assert_true(c[0] <= c[1] && c[1] <= c[2] && c[2] <= c[3] && c[3] == f.set.n_increments);
    assert_true(c[0] == 0 || pr_rank_bits(&f.set, c[0]) <= 2.6);
    assert_true(pr_rank_bits(&f.set, c[0] + 1) > 2.6);
    assert_true(pr_rank_bits(&f.set, c[1]) <= 4.7 && pr_rank_bits(&f.set, c[1] + 1) > 4.7);
}

/* The expectation goes through what was measured, and never rises. */
static void bend(void **state) {
    (void)state;
    rig_rng rng = {8};
    fixture f;
    pr_err err = {0};
    make(&f, &rng, true);
    assert_int_equal(pr_rank(&f.set, f.damages, &err), PR_OK);
    uint32_t n = f.set.n_increments;
    const pr_anchor anchors[] = {{0, 3}, {5, 0.5}, {11, 0.4}, {n, 1e-6}};
    pr_rank_bend(&f.set, anchors, 4);
    for (size_t a = 0; a < 4; a++)
        assert_true(fabs((double)f.kl[anchors[a].n] - anchors[a].kl) <= 1e-5 * anchors[a].kl);
    for (uint32_t i = 0; i < n; i++) assert_true(f.kl[i + 1] <= f.kl[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy),
        cmocka_unit_test(valid),
        cmocka_unit_test(levels),
        cmocka_unit_test(bend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
