#include "governor/guard.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { A = PR_GUARD_ALERT, C = PR_GUARD_CLEAR_CACHES, E = PR_GUARD_EMERGENCY };

static pr_guard_decision ask(pr_guard *guard, double used) {
    pr_guard_settings set;
    pr_guard_decision d;
    pr_guard_defaults(&set);
    pr_guard_decide(&set, guard, used, &d);
    assert_true(strlen(d.reason) > 0 && strlen(d.reason) < PR_GUARD_REASON - 1);
    assert_int_equal(d.in_force, guard->in_force);
    assert_int_equal(d.due & ~d.in_force, 0);
    assert_int_equal(d.started & d.ended, 0);
    assert_true(d.in_force == 0 || d.in_force == A || d.in_force == (A | C) || d.in_force == (A | C | E));
    return d;
}

static void thresholds(void **state) {
    (void)state;
    static const struct {
        double used;
        unsigned bits;
    } at[] = {{0, 0},       {.80, 0},           {.8001, A},       {.90, A}, {.9001, A | C},
              {.95, A | C}, {.9501, A | C | E}, {1.5, A | C | E}, {-1, 0},  {(double)NAN, A | C | E}};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        pr_guard guard = {0};
        pr_guard_decision d = ask(&guard, at[i].used);
        assert_int_equal(d.in_force, at[i].bits);
        assert_int_equal(d.started, at[i].bits);
        assert_int_equal(d.due, at[i].bits);
    }
}

static void a_course(void **state) {
    (void)state;
    static const struct {
        double used;
        unsigned in_force, started, ended, due;
        const char *reason;
    } course[] = {
        {.50, 0, 0, 0, 0, "all clear: memory 50.0%"},
        {.82, A, A, 0, A, "alert: memory 82.0%"},
        {.79, A, 0, 0, 0, "alert: memory 79.0%"},
        {.97, A | C | E, C | E, 0, A | C | E, "emergency: memory 97.0%"},
        {.92, A | C | E, 0, 0, A | C, "emergency: memory 92.0%"},
        {.89, A | C, 0, E, A, "down to caches cleared: memory 89.0%"},
        {.84, A, 0, C, A, "down to alert: memory 84.0%"},
        {.76, A, 0, 0, 0, "alert: memory 76.0%"},
        {.74, 0, 0, A, 0, "all clear: memory 74.0%"},
    };
    pr_guard guard = {0};
    for (size_t i = 0; i < sizeof course / sizeof *course; i++) {
        pr_guard_decision d = ask(&guard, course[i].used);
        assert_int_equal(d.in_force, course[i].in_force);
        assert_int_equal(d.started, course[i].started);
        assert_int_equal(d.ended, course[i].ended);
        assert_int_equal(d.due, course[i].due);
        assert_string_equal(d.reason, course[i].reason);
    }
}

/* Trembling by less than the margin around any use changes things at most once. */
static void no_flapping(void **state) {
    (void)state;
    for (int middle = 50; middle <= 110; middle++) {
        pr_guard guard = {0};
        int changes = 0;
        for (int i = 0; i < 200; i++) {
            pr_guard_decision d = ask(&guard, middle * .01 + (i % 2 ? .024 : -.024));
            changes += i > 1 && (d.started || d.ended);
        }
        assert_int_equal(changes, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thresholds),
        cmocka_unit_test(a_course),
        cmocka_unit_test(no_flapping),
    };
    return cmocka_run_group_tests_name("guard", tests, NULL, NULL);
}
