/*
 * Writing metrics: both formats, byte by byte, and values that must not break a line.
 */
#include "api/prometheus.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static pr_str out;

static void check(const char *want) {
    assert_true(pr_str_ok(&out));
    assert_string_equal(out.data, want);
    pr_str_free(&out);
    out = (pr_str){0};
}

static void both_formats(void **state) {
    (void)state;
    pr_prom p = {.out = &out};
    pr_prom_one(&p, "x_total", PR_PROM_COUNTER, "Things.", 3);
    pr_prom_end(&p);
    check("# HELP x_total Things.\n# TYPE x_total counter\nx_total 3\n");
    p.open = true;
    pr_prom_one(&p, "x_total", PR_PROM_COUNTER, "Things.", 3);
    pr_prom_one(&p, "y_bytes", PR_PROM_GAUGE, "Bytes.", 25276514304.0);
    pr_prom_end(&p);
    check("# HELP x Things.\n# TYPE x counter\nx_total 3\n# HELP y_bytes Bytes.\n# TYPE y_bytes gauge\ny_bytes "
          "25276514304\n# EOF\n");
}

static void labels_are_escaped(void **state) {
    (void)state;
    pr_prom p = {.out = &out, .family = "x"};
    const pr_prom_label odd[] = {{"a", "q\"b\\n\nl"}, {"b", "\xc3\xa9\xff}"}};
    pr_prom_count(&p, odd, 2, UINT64_MAX);
    check("x{a=\"q\\\"b\\\\n\\nl\",b=\"\xc3\xa9\xef\xbf\xbd}\"} 18446744073709551615\n");
    pr_prom_number(&p, odd, 0, (double)NAN);
    pr_prom_number(&p, NULL, 0, -(double)INFINITY);
    pr_prom_number(&p, NULL, 0, 0.25);
    check("x NaN\nx -Inf\nx 0.25\n");
}

static void histograms_add_up(void **state) {
    (void)state;
    pr_prom p = {.out = &out, .family = "t"};
    pr_hist h = {0};
    pr_hist_view v = {0};
    const pr_prom_label model = {"model", "m"};
    pr_hist_add(&h, 0.3);
    pr_hist_add(&h, 2000);
    pr_hist_gather(&h, &v);
    pr_prom_histogram(&p, &model, 1, &v);
    assert_non_null(strstr(out.data, "t_bucket{model=\"m\",le=\"0.0001\"} 0\n"));
    assert_non_null(strstr(out.data, "t_bucket{model=\"m\",le=\"0.25\"} 0\nt_bucket{model=\"m\",le=\"0.5\"} 1\n"
                                     "t_bucket{model=\"m\",le=\"1.0\"} 1\n"));
    assert_non_null(strstr(out.data, "t_bucket{model=\"m\",le=\"1000.0\"} 1\nt_bucket{model=\"m\",le=\"+Inf\"} 2\n"
                                     "t_sum{model=\"m\"} 2000.3\nt_count{model=\"m\"} 2\n"));
    pr_str_free(&out);
    out = (pr_str){0};
    pr_prom_histogram(&p, NULL, 0, &v);
    assert_non_null(strstr(out.data, "t_bucket{le=\"+Inf\"} 2\nt_sum 2000.3\nt_count 2\n"));
    pr_str_free(&out);
    out = (pr_str){0};
}

static void what_a_client_takes(void **state) {
    (void)state;
    assert_false(pr_prom_wants_open(NULL));
    assert_false(pr_prom_wants_open("text/html, */*"));
    assert_true(pr_prom_wants_open("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"));
    assert_non_null(strstr(pr_prom_content_type(true), "application/openmetrics-text"));
    assert_non_null(strstr(pr_prom_content_type(false), "version=0.0.4"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_formats),
        cmocka_unit_test(labels_are_escaped),
        cmocka_unit_test(histograms_add_up),
        cmocka_unit_test(what_a_client_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
