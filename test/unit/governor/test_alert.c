/*
 * Alerts: what may be written and what may not, and how they stand as time goes by.
 */
#include "governor/alert.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static pr_alert_rule rules[PR_ALERTS_MAX];
static size_t n_rules;

static void parse(const char *text) {
    pr_err err = {0};
    pr_status st = pr_alert_parse(text, strlen(text), "--alerts", rules, &n_rules, &err);
    if (st) print_message("%s: %s\n", text, err.text);
    assert_int_equal(st, PR_OK);
}

static void rules_are_read(void **state) {
    (void)state;
    parse("latency_p95 > 50ms");
    assert_int_equal(n_rules, 1);
    assert_string_equal(rules[0].name, "latency_p95");
    assert_string_equal(rules[0].text, "latency_p95 > 50ms");
    assert_int_equal(rules[0].metric, PR_ALERT_LATENCY + 1);
    assert_false(rules[0].below || rules[0].equal);
    assert_true(fabs(rules[0].threshold - 0.05) < 1e-12 && rules[0].hold == 0);
    parse("  big:memory_peak>=100MB   for\t2m ,level<int4, level < fp16,error_rate > 5%, kv_used>0.9 for 90,"
          "a.b-c_1 : queue_length >= 10 , tokens_per_second < 2.5");
    assert_int_equal(n_rules, 7);
    assert_string_equal(rules[0].name, "big");
    assert_string_equal(rules[0].text, "memory_peak>=100MB for 2m");
    assert_true(rules[0].equal && rules[0].threshold == 1e8 && rules[0].hold == 120);
    assert_true(rules[1].below && rules[1].threshold == PR_LEVEL_INT4);
    assert_string_equal(rules[1].name, "level");
    assert_string_equal(rules[2].name, "level_2");
    assert_true(fabs(rules[3].threshold - 0.05) < 1e-12);
    assert_true(rules[4].hold == 90);
    assert_string_equal(rules[5].name, "a.b-c_1");
    assert_true(rules[6].threshold == 2.5);
    parse("");
    assert_int_equal(n_rules, 0);
    parse("   ");
    assert_int_equal(n_rules, 0);
}

static void every_metric_can_be_asked_for(void **state) {
    static const char *const values[] = {"20ms", "1GB", "50%", "3", "int8"};
    (void)state;
    for (int i = 0; i < PR_ALERT_METRICS; i++) {
        char text[96];
        pr_alert_metric metric = (pr_alert_metric)i;
        snprintf(text, sizeof text, "%s < %s", pr_alert_metric_name(metric), values[pr_alert_metric_unit(metric)]);
        parse(text);
        assert_int_equal(rules[0].metric, i);
    }
}

static void mistakes_are_named(void **state) {
    static const struct {
        const char *text, *why;
    } wrong[] = {
        {"latency > 50ms", "--alerts: rule 1, column 1: there is no metric \"latency\""},
        {"memory_used > 90%, oops", "rule 2, column 20: there is no metric \"oops\""},
        {"latency_p95", "rule 1, column 12: after the metric comes"},
        {"latency_p95 = 3", "column 13: after the metric comes"},
        {"latency_p95 > fast", "column 15: \"fast\" is not a time such as"},
        {"latency_p95 > -1s", "\"-1s\" is not a time"},
        {"latency_p95 >", "\"\" is not a time"},
        {"memory_peak > 3cows", "is not a size"},
        {"error_rate > 110%", "is not a share"},
        {"error_rate > 2", "is not a share"},
        {"level < int3", "is not int2, int4"},
        {"queue_length > many", "is not a number"},
        {"queue_length > 1 until 2", "column 18: \"until\" instead of \"for\""},
        {"queue_length > 1 for ever", "column 22: \"ever\" is not a time"},
        {"queue_length > 1 for", "\"\" is not a time"},
        {"queue_length > 1 for 3s 4s", "column 25: a rule ends here"},
        {"queue_length > 1;level < int4", "column 17: a rule ends here"},
        {"queue_length > 1,", "rule 2, column 18: nothing follows"},
        {"a: level < int4, a: level < fp16", "rule 2, column 18: the name \"a\" is taken"},
        {"a%b: level < int4", "a name is 1 to 64"},
        {": level < int4", "a name is 1 to 64"},
        {"a: ", "a metric is missing"},
        {", level < int4", "a metric is missing"},
        {"level\n< int4", "after the metric comes"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        pr_err err = {0};
        assert_int_equal(pr_alert_parse(wrong[i].text, strlen(wrong[i].text), "--alerts", rules, &n_rules, &err),
                         PR_ERR_ARG);
        if (!strstr(err.text, wrong[i].why)) print_message("%s: %s\n", wrong[i].text, err.text);
        assert_non_null(strstr(err.text, wrong[i].why));
    }
    char many[2048];
    size_t len = 0;
    for (int i = 0; i <= PR_ALERTS_MAX; i++)
        len += (size_t)snprintf(many + len, sizeof many - len, "%skv_used > 1%%", i ? "," : "");
    pr_err err = {0};
    assert_int_equal(pr_alert_parse(many, strlen(many), "x", rules, &n_rules, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "more than 32 rules"));
}

/* ---- how they stand ---- */

static pr_alert alert;

static void begin(const char *rule) {
    parse(rule);
    alert = (pr_alert){.rule = rules[0]};
}

/* A value at a time, and the state that it leads to; a change is told exactly when the state is another one. */
static void at(double now, double value, pr_alert_state want) {
    pr_alert_state before = alert.state;
    bool told = pr_alert_step(&alert, value, now);
    if (alert.state != want) print_message("at %g: %s\n", now, pr_alert_state_name(alert.state));
    assert_int_equal(alert.state, want);
    assert_int_equal(told, before != want);
}

static void fires_at_once_without_a_time(void **state) {
    (void)state;
    begin("queue_length > 10");
    at(0, 10, PR_ALERT_INACTIVE);
    at(1, 11, PR_ALERT_FIRING);
    at(2, 10, PR_ALERT_FIRING); /* not left by the margin */
    at(3, 9.6, PR_ALERT_FIRING);
    at(4, 9.5, PR_ALERT_RESOLVED);
    at(5, 10, PR_ALERT_RESOLVED);
    at(5 + PR_ALERT_REMEMBERED, 9, PR_ALERT_INACTIVE);
    at(600, 20, PR_ALERT_FIRING);
    assert_int_equal(alert.fired, 2);
    at(601, (double)NAN, PR_ALERT_RESOLVED); /* nothing to measure is well */
    at(602, 11, PR_ALERT_FIRING);
    assert_int_equal(alert.fired, 3);
}

static void waits_both_ways(void **state) {
    (void)state;
    begin("latency_p95 > 50ms for 30s");
    at(0, 0.04, PR_ALERT_INACTIVE);
    at(10, 0.06, PR_ALERT_PENDING);
    at(39, 0.06, PR_ALERT_PENDING);
    at(39.5, 0.05, PR_ALERT_INACTIVE); /* begins again */
    at(40, 0.06, PR_ALERT_PENDING);
    at(69.9, 0.06, PR_ALERT_PENDING);
    at(70, 0.06, PR_ALERT_FIRING);
    at(80, 0.02, PR_ALERT_FIRING);
    at(109, 0.02, PR_ALERT_FIRING);
    at(109.5, 0.049, PR_ALERT_FIRING); /* not by the margin: begins again */
    at(110, 0.02, PR_ALERT_FIRING);
    at(139, 0.02, PR_ALERT_FIRING);
    at(140, 0.02, PR_ALERT_RESOLVED);
    at(150, 0.06, PR_ALERT_PENDING);
    at(155, (double)NAN, PR_ALERT_INACTIVE);
    assert_int_equal(alert.fired, 1);
}

static void below_and_with_the_threshold(void **state) {
    (void)state;
    begin("level < int4");
    at(0, (double)NAN, PR_ALERT_INACTIVE);
    at(1, PR_LEVEL_INT4, PR_ALERT_INACTIVE);
    at(2, PR_LEVEL_INT2, PR_ALERT_FIRING);
    at(3, PR_LEVEL_INT4, PR_ALERT_RESOLVED); /* levels have no margin */
    begin("cache_hit_rate <= 20%");
    at(0, 0.21, PR_ALERT_INACTIVE);
    at(1, 0.2, PR_ALERT_FIRING);
    at(2, 0.205, PR_ALERT_FIRING);
    at(3, 0.2101, PR_ALERT_RESOLVED);
    begin("error_rate > 0%");
    at(0, 0, PR_ALERT_INACTIVE);
    at(1, 0.01, PR_ALERT_FIRING);
    at(2, 0, PR_ALERT_RESOLVED);
    begin("requests_running >= 0");
    at(0, 0, PR_ALERT_FIRING);
}

/* However a value moves, an alert changes between firing and not at most once in its time. */
static void never_flaps(void **state) {
    uint64_t seed = 7;
    (void)state;
    for (int trace = 0; trace < 200; trace++) {
        double fired_at = -1e9, ended_at = -1e9;
        begin("memory_used > 80% for 10s");
        for (int t = 0; t < 500; t++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            double value = (seed >> 60) == 0 ? (double)NAN : 0.7 + 0.2 * (double)(seed >> 40) / (1 << 24);
            if (trace % 2) value = sin(t / 5.0) * 0.2 + 0.8;
            pr_alert_state before = alert.state;
            pr_alert_step(&alert, value, t);
            if (alert.state == PR_ALERT_FIRING && before != PR_ALERT_FIRING) {
                assert_true(t - ended_at >= 10);
                fired_at = t;
            }
            if (before == PR_ALERT_FIRING && alert.state != PR_ALERT_FIRING) {
                assert_true(t - fired_at >= 10);
                ended_at = t;
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_are_read),     cmocka_unit_test(every_metric_can_be_asked_for),
        cmocka_unit_test(mistakes_are_named), cmocka_unit_test(fires_at_once_without_a_time),
        cmocka_unit_test(waits_both_ways),    cmocka_unit_test(below_and_with_the_threshold),
        cmocka_unit_test(never_flaps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
