/*
 * Metrics: windows over what was counted, with a clock of the test's own, and the bound on names.
 */
#include "api/metrics.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/os.h"

static pr__metrics *m;

static int open_metrics(void **state) {
    (void)state;
    return pr__metrics_open(&m, NULL) == PR_OK ? 0 : -1;
}

static int close_metrics(void **state) {
    (void)state;
    pr__metrics_close(m);
    return 0;
}

static void windows_forget(void **state) {
    (void)state;
    pr__summary s;
    pr__model_metrics *a = pr__metrics_model(m, "a"), *b = pr__metrics_model(m, "b");
    double t = pr_now();
    assert_ptr_equal(pr__metrics_model(m, "a"), a);
    for (int i = 0; i < 60; i++) { /* five minutes: slow ones first, then quick ones */
        pr__metrics_tick(m, t + i * PR__WINDOW_STEP);
        pr__metrics_latency(a, PR__LATENCY_END_TO_END, i < 30 ? 2.0 : 0.01);
        pr__metrics_latency(b, PR__LATENCY_NEXT_TOKEN, 0.001);
        pr__metrics_answered(m, i < 3);
        pr__metrics_cached(m, (uint64_t)i * 10, (uint64_t)(i < 30 ? 0 : i - 29) * 5);
    }
    double now = t + 60 * PR__WINDOW_STEP;
    pr__metrics_summary(m, 0, now, &s);
    assert_int_equal(s.latency[PR__LATENCY_END_TO_END].n, 60);
    assert_int_equal(s.answers, 57);
    assert_true(fabs(s.error_rate - 0.05) < 1e-9);
    assert_true(s.latency[PR__LATENCY_END_TO_END].p95 > 1.5);
    pr__metrics_summary(m, 60, now, &s);
    assert_true(fabs(s.seconds - 60) < 1e-6);
    assert_int_equal(s.latency[PR__LATENCY_END_TO_END].n, 12);
    assert_true(s.latency[PR__LATENCY_END_TO_END].p99 <= 0.0101);
    assert_true(fabs(s.latency[PR__LATENCY_END_TO_END].mean - 0.01) < 1e-6);
    assert_true(fabs(s.tokens_per_second - 0.2) < 1e-9);
    assert_int_equal(s.failures, 0);
    assert_true(fabs(s.cache_hit_rate - 0.5) < 1e-9);
    assert_true(isnan(s.prefix_hit_rate));
    assert_true(s.error_rate == 0);
    assert_true(s.rss_peak >= 1 << 20);
    for (int i = 60; i < 200; i++) pr__metrics_tick(m, t + i * PR__WINDOW_STEP); /* nothing happens: the ring wraps */
    pr__metrics_summary(m, PR__WINDOW_MAX, t + 200 * PR__WINDOW_STEP, &s);
    assert_int_equal(s.latency[PR__LATENCY_END_TO_END].n, 0);
    assert_true(isnan(s.latency[PR__LATENCY_END_TO_END].p50) && isnan(s.error_rate));
}

static void a_window_longer_than_the_server_runs(void **state) {
    (void)state;
    pr__summary s;
    pr__metrics_answered(m, false);
    double now = pr_now() + 3;
    pr__metrics_tick(m, now - 1);
    pr__metrics_summary(m, 60, now, &s);
    assert_int_equal(s.answers, 1);
    assert_true(s.seconds >= 3 && s.seconds < 60);
}

static void names_are_bounded(void **state) {
    (void)state;
    pr__model_view v;
    char name[32];
    pr__counted one = {PR__OUTCOME_LENGTH, 10, 4, 3};
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "model-%d", i);
        pr__metrics_count(pr__metrics_model(m, name), &one);
    }
    size_t n = 0;
    uint64_t ended = 0;
    for (; pr__metrics_view(m, n, &v); n++) ended += v.outcome[PR__OUTCOME_LENGTH];
    assert_int_equal(n, PR__METRIC_MODELS_MAX + 1);
    assert_int_equal(ended, 100);
    pr__metrics_view(m, PR__METRIC_MODELS_MAX, &v);
    assert_string_equal(v.name, "other");
    assert_int_equal(v.generated, 3 * (100 - PR__METRIC_MODELS_MAX));
    pr__metrics_view(m, 5, &v);
    assert_string_equal(v.name, "model-5");
    assert_int_equal(v.prompt, 10);
    assert_int_equal(v.cached, 4);
}

static void moves_by_cause(void **state) {
    (void)state;
    pr__process_view v;
    pr_timeline_entry e = {
        .from = PR_LEVEL_INT8, .to = PR_LEVEL_INT4, .cause = PR_GOV_MEMORY, .bytes = -1000, .seconds = 0.5};
    pr__metrics_moved(m, &e);
    pr__metrics_moved(m, &e);
    e = (pr_timeline_entry){
        .from = PR_LEVEL_INT4, .to = PR_LEVEL_INT8, .cause = PR_GOV_CALM, .bytes = 700, .seconds = 2};
    pr__metrics_moved(m, &e);
    e.failed = true;
    pr__metrics_moved(m, &e);
    pr__metrics_loaded(m, 1.5);
    pr__metrics_process(m, &v);
    assert_int_equal(v.down[PR_GOV_MEMORY].n, 2);
    assert_int_equal(v.down[PR_GOV_MEMORY].bytes, 2000);
    assert_true(fabs(v.down[PR_GOV_MEMORY].seconds - 1) < 1e-6);
    assert_int_equal(v.up[PR_GOV_CALM].n, 1);
    assert_int_equal(v.up[PR_GOV_CALM].bytes, 700);
    assert_int_equal(v.moves_failed, 1);
    assert_int_equal(v.loads, 1);
    assert_true(fabs(v.load_seconds - 1.5) < 1e-6);
}

static void recording_allocates_nothing(void **state) {
    (void)state;
    pr__model_metrics *model = pr__metrics_model(m, "a");
    pr__counted one = {PR__OUTCOME_STOP, 1, 0, 1};
    size_t before = pr_mem_count();
    for (int i = 0; i < 1000; i++) pr__metrics_latency(model, PR__LATENCY_NEXT_TOKEN, i * 1e-4);
    pr__metrics_count(model, &one);
    pr__metrics_tick(m, pr_now());
    assert_int_equal(pr_mem_count(), before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(windows_forget, open_metrics, close_metrics),
        cmocka_unit_test_setup_teardown(a_window_longer_than_the_server_runs, open_metrics, close_metrics),
        cmocka_unit_test_setup_teardown(names_are_bounded, open_metrics, close_metrics),
        cmocka_unit_test_setup_teardown(moves_by_cause, open_metrics, close_metrics),
        cmocka_unit_test_setup_teardown(recording_allocates_nothing, open_metrics, close_metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
