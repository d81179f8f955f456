/*
 * Histograms: where values go, what quantiles are worth, and that coarser ones hold the same.
 */
#include "base/histogram.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static pr_hist hist;

static pr_hist_view view_of(const double *values, size_t n) {
    pr_hist_view v = {0};
    memset(&hist, 0, sizeof hist);
    for (size_t i = 0; i < n; i++) pr_hist_add(&hist, values[i]);
    pr_hist_gather(&hist, &v);
    return v;
}

static void bounds_rise_and_hold_their_values(void **state) {
    (void)state;
    assert_true(isinf(pr_hist_bound(PR_HIST_BUCKETS - 1)));
    for (size_t b = 0; b + 1 < PR_HIST_BUCKETS; b++) {
        assert_true(pr_hist_bound(b) < pr_hist_bound(b + 1));
        const double at[] = {pr_hist_bound(b), pr_hist_bound(b) * 1.0001};
        pr_hist_view v = view_of(at, 2);
        assert_int_equal(v.count[b], 1); /* the bound belongs to its bucket */
        assert_int_equal(v.count[b + 1], 1);
    }
}

static void odd_values_go_to_the_ends(void **state) {
    (void)state;
    const double odd[] = {-1, 0, (double)NAN, -(double)INFINITY, (double)INFINITY, 1e30};
    pr_hist_view v = view_of(odd, 6);
    assert_int_equal(v.n, 6);
    assert_int_equal(v.count[0], 4);
    assert_int_equal(v.count[PR_HIST_BUCKETS - 1], 2);
}

static void quantiles_are_near(void **state) {
    (void)state;
    pr_hist_view v = {0};
    memset(&hist, 0, sizeof hist);
    for (int i = 1; i <= 10000; i++) pr_hist_add(&hist, i * 1e-4); /* evenly up to 1 s */
    pr_hist_gather(&hist, &v);
    assert_int_equal(v.n, 10000);
    assert_true(fabs(v.seconds - 5000.5) < 1e-3);
    for (int i = 1; i < 20; i++) assert_true(fabs(pr_hist_quantile(&v, i * 0.05) / (i * 0.05) - 1) < 0.03);
    assert_true(fabs(pr_hist_quantile(&v, 1) - 1) < 1e-9);
    const double alone[] = {0.037};
    v = view_of(alone, 1);
    for (int i = 0; i <= 2; i++) {
        double x = pr_hist_quantile(&v, i * 0.5);
        assert_true(x >= 0.03 && x <= 0.04); /* within its bucket */
    }
    const double above[] = {5000, 6000};
    v = view_of(above, 2);
    assert_true(pr_hist_quantile(&v, 0.5) >= 999);
    v = view_of(NULL, 0);
    assert_true(isnan(pr_hist_quantile(&v, 0.5)));
}

static void the_coarse_one_holds_the_same(void **state) {
    (void)state;
    double values[500], bound = 0, last_bound = 0;
    uint64_t at_most = 0, last = 0, seed = 1;
    for (int i = 0; i < 500; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        values[i] = pow(10, (double)(seed >> 40) / (1 << 24) * 9 - 5);
    }
    pr_hist_view v = view_of(values, 500);
    size_t n = 0;
    for (; pr_hist_coarse(&v, n, &bound, &at_most); n++) {
        uint64_t expected = 0;
        for (int i = 0; i < 500; i++) expected += values[i] <= bound;
        assert_int_equal(at_most, expected);
        assert_true(bound > last_bound && at_most >= last);
        last_bound = bound;
        last = at_most;
    }
    assert_int_equal(n, 23); /* 100 us to 1000 s, three a decade, and all */
    assert_true(isinf(last_bound));
    assert_int_equal(last, 500);
}

static void *add_many(void *arg) {
    (void)arg;
    for (int i = 0; i < 20000; i++) pr_hist_add(&hist, (i % 100) * 1e-3);
    return NULL;
}

static void threads_lose_nothing(void **state) {
    (void)state;
    pthread_t threads[4];
    pr_hist_view v = {0};
    memset(&hist, 0, sizeof hist);
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, add_many, NULL), 0);
    pr_hist_gather(&hist, &v); /* while it is written */
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    v = (pr_hist_view){0};
    pr_hist_gather(&hist, &v);
    assert_int_equal(v.n, 80000);
    assert_true(fabs(v.seconds - 80000 * 0.0495) < 0.1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bounds_rise_and_hold_their_values),
        cmocka_unit_test(odd_values_go_to_the_ends),
        cmocka_unit_test(quantiles_are_near),
        cmocka_unit_test(the_coarse_one_holds_the_same),
        cmocka_unit_test(threads_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
