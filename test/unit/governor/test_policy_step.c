#include "governor/policy.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define GB 1000000000ull

static const pr_level I2 = PR_LEVEL_INT2, I4 = PR_LEVEL_INT4, I8 = PR_LEVEL_INT8, F16 = PR_LEVEL_FP16;

/* ---- sessions ----------------------------------------------------------- */

static pr_gov_session floor_of(pr_level level) { return (pr_gov_session){.floor_given = true, .floor = level}; }
static pr_gov_session forced(pr_level level) { return (pr_gov_session){.force_given = true, .force = level}; }

static void a_floor_raises_the_step(void **state) {
    (void)state;
    pr_gov_levels at = {.level = I4, .resident = I8, .allowed = F16, .top = F16};
    pr_gov_session s[] = {{0}, floor_of(I8), floor_of(I2), forced(I2), forced(F16), floor_of(F16)};
    pr_gov_verdict v[6];
    pr_gov_plan plan;
    pr_gov_plan_step(&at, s, 6, v, &plan);
    assert_int_equal(plan.step, I8);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(v[i].kind, PR_GOV_RUN);
        assert_int_equal(v[i].level, I8);
    }
    assert_int_equal(v[3].kind, PR_GOV_RUN);
    assert_int_equal(v[3].level, I2); /* exactly */
    assert_int_equal(v[4].kind, PR_GOV_WAIT);
    assert_int_equal(v[5].kind, PR_GOV_WAIT);
    assert_true(plan.raise);
    assert_int_equal(plan.raise_to, F16);
    at.allowed = I4;
    pr_gov_plan_step(&at, s, 6, v, &plan);
    assert_int_equal(plan.step, I8); /* what is in memory may be used */
    assert_int_equal(v[4].kind, PR_GOV_PARK);
    assert_int_equal(v[5].kind, PR_GOV_PARK);
    assert_int_equal(v[5].level, F16);
    assert_false(plan.raise);
}

static void nobody_runs_at_the_models_level(void **state) {
    (void)state;
    pr_gov_levels at = {.level = I8, .resident = I4, .allowed = I8, .top = F16};
    pr_gov_plan plan;
    pr_gov_plan_step(&at, NULL, 0, NULL, &plan);
    assert_int_equal(plan.step, I4); /* being raised: what is there */
    assert_false(plan.raise);
}

static void above_the_top_means_the_top(void **state) {
    (void)state;
    pr_gov_levels at = {.level = F16, .resident = F16, .allowed = F16, .top = I4};
    pr_gov_session s[] = {floor_of(F16), forced(I8)};
    pr_gov_verdict v[2];
    pr_gov_plan plan;
    pr_gov_plan_step(&at, s, 2, v, &plan);
    assert_int_equal(plan.step, I4);
    assert_int_equal(v[0].level, I4);
    assert_int_equal(v[1].kind, PR_GOV_RUN);
    assert_int_equal(v[1].level, I4);
}

/* Every combination of three sessions: nobody below its floor, nobody parked without need. */
static void every_combination(void **state) {
    (void)state;
    for (int rest = 0; rest < 4 * 4 * 4 * 4 * 729; rest++) {
        pr_gov_levels at = {(pr_level)(rest % 4), (pr_level)(rest / 4 % 4), (pr_level)(rest / 16 % 4),
                            (pr_level)(rest / 64 % 4)};
        pr_gov_session s[3] = {{0}};
        pr_gov_verdict v[3];
        pr_gov_plan plan;
        int code = rest / 256;
        for (int i = 0; i < 3; i++, code /= 9) {
            int c = code % 9;
            if (c > 4) s[i] = forced((pr_level)(c - 5));
            else if (c > 0) s[i] = floor_of((pr_level)(c - 1));
        }
        pr_gov_plan_step(&at, s, 3, v, &plan);
        assert_true(plan.step <= at.top && plan.step <= at.resident);
        for (int i = 0; i < 3; i++) {
            pr_level want = s[i].force_given ? s[i].force : s[i].floor_given ? s[i].floor : PR_LEVEL_INT2;
            if (want > at.top) want = at.top;
            if (v[i].kind == PR_GOV_RUN) {
                assert_true(want <= at.resident);
                assert_int_equal(v[i].level, s[i].force_given ? want : plan.step);
                assert_true(v[i].level >= want);
            } else {
                assert_true(want > at.resident && want > PR_LEVEL_INT2);
                assert_int_equal(v[i].level, want);
                assert_int_equal(v[i].kind, want > at.allowed ? PR_GOV_PARK : PR_GOV_WAIT);
            }
        }
    }
}

static void admission(void **state) {
    (void)state;
    pr_gov_levels at = {.level = I4, .resident = I4, .allowed = I8, .top = F16};
    char reason[PR_GOV_REASON];
    pr_gov_session s = floor_of(I8);
    assert_true(pr_gov_admits(&at, &s, reason));
    assert_string_equal(reason, "");
    s = floor_of(F16);
    assert_false(pr_gov_admits(&at, &s, reason));
    assert_string_equal(reason, "min_quantization fp16 cannot be met: memory allows int8 now");
    s = forced(F16);
    assert_false(pr_gov_admits(&at, &s, reason));
    assert_non_null(strstr(reason, "force_quantization fp16"));
    s = (pr_gov_session){0};
    assert_true(pr_gov_admits(&at, &s, reason));
}

/* ---- calculate ----------------------------------------------------------- */

static void calculate(void **state) {
    (void)state;
    pr_gov_settings set;
    pr_gov_defaults(&set);
    pr_gov_snapshot here = {.limit_bytes = 16 * GB, .used_bytes = 4 * GB};
    pr_gov_estimate e;
    pr_gov_calculate(&set, &here, 7 * GB, PR_PRIORITY_BALANCED, &e); /* 4.5 bits: 3.94 GB, half of the limit in all */
    assert_int_equal(e.level, I4);
    assert_string_equal(e.precision, "4-bit");
    assert_string_equal(e.compression_ratio, "3.6x");
    assert_true(fabs(e.estimated_memory_gb - 3.9375) < 1e-9);
    assert_true(strlen(e.reason) > 0);
    pr_gov_calculate(&set, &here, 500000000, PR_PRIORITY_BALANCED, &e);
    assert_int_equal(e.level, F16);
    assert_string_equal(e.precision, "16-bit");
    assert_string_equal(e.compression_ratio, "1.0x");
    pr_gov_calculate(&set, &here, 1100000000, PR_PRIORITY_SPEED, &e);
    assert_int_equal(e.level, I8);
    assert_string_equal(e.compression_ratio, "1.8x");
    pr_gov_calculate(&set, &here, 70 * GB, PR_PRIORITY_QUALITY, &e);
    assert_int_equal(e.level, I2);
    assert_string_equal(e.precision, "2-bit");
    assert_string_equal(e.compression_ratio, "7.1x");
    pr_gov_calculate(&set, &here, UINT64_MAX, PR_PRIORITY_QUALITY, &e);
    assert_int_equal(e.level, I2);
    pr_gov_calculate(&set, &here, 0, PR_PRIORITY_BALANCED, &e);
    assert_int_equal(e.level, F16);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_floor_raises_the_step),
        cmocka_unit_test(nobody_runs_at_the_models_level),
        cmocka_unit_test(above_the_top_means_the_top),
        cmocka_unit_test(every_combination),
        cmocka_unit_test(admission),
        cmocka_unit_test(calculate),
    };
    return cmocka_run_group_tests_name("policy_step", tests, NULL, NULL);
}
