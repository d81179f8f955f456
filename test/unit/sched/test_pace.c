#include "sched/pace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void near(double is, double wanted) {
    if (is < wanted * 0.9 || is > wanted * 1.1) fail_msg("%g, not %g", is, wanted);
}

static double truth(uint32_t decoding, uint32_t prompt) { return 5e-3 + 0.5e-3 * decoding + 0.3e-3 * prompt; }

static void learns_the_line(void **state) {
    (void)state;
    pr__pace p = {0};
    assert_true(pr__pace_seconds(&p, 3) <= 0);
    assert_int_equal(pr__pace_prompt_rows(&p, 1e-3, 96), 96);
    for (uint32_t i = 0; i < 60; i++) {
        uint32_t d = 1 + i % 8, n = i % 7 == 0 && i > 20 ? 16 + i : 0;
        pr__pace_note(&p, d, n, truth(d, n) * (i % 2 ? 1.03 : 0.97));
    }
    for (uint32_t d = 1; d <= 8; d++) near(pr__pace_seconds(&p, d), truth(d, 0));
    uint32_t rows = pr__pace_prompt_rows(&p, 6e-3, 96);
    assert_true(rows >= 15 && rows <= 25);
    assert_int_equal(pr__pace_prompt_rows(&p, 1, 96), 96);
    assert_int_equal(pr__pace_prompt_rows(&p, -1, 96), 0);
}

static void follows_what_changes(void **state) {
    (void)state;
    pr__pace p = {0};
    for (uint32_t i = 0; i < 100; i++) pr__pace_note(&p, 1 + i % 8, 0, truth(1 + i % 8, 0));
    for (uint32_t i = 0; i < 200; i++) pr__pace_note(&p, 1 + i % 8, 0, 2 * truth(1 + i % 8, 0));
    near(pr__pace_seconds(&p, 8), 2 * truth(8, 0));
}

/* A full machine does the same step for minutes: what fewer rows take is not forgotten, and follows its speed. */
static void remembers_what_does_not_vary(void **state) {
    (void)state;
    pr__pace p = {0};
    for (uint32_t i = 0; i < 400; i++)
        pr__pace_note(&p, 1 + i % 8, i % 5 ? 0 : i % 40, truth(1 + i % 8, i % 5 ? 0 : i % 40));
    for (uint32_t i = 0; i < 5000; i++) pr__pace_note(&p, 8, 4, truth(8, 4) * (i % 2 ? 1.1 : 0.9));
    near(pr__pace_seconds(&p, 2), truth(2, 0));
    for (uint32_t i = 0; i < 5000; i++) pr__pace_note(&p, 8, 4, 2 * truth(8, 4));
    near(pr__pace_seconds(&p, 8), 2 * truth(8, 0));
    if (pr__pace_seconds(&p, 2) > 1.8 * truth(8, 0)) fail_msg("as slow as eight: %g", pr__pace_seconds(&p, 2));
}

static void says_what_it_has_seen(void **state) {
    (void)state;
    pr__pace p = {0};
    for (uint32_t i = 0; i < 50; i++) pr__pace_note(&p, 1, 0, 4e-3);
    near(pr__pace_seconds(&p, 1), 4e-3);
    assert_true(pr__pace_seconds(&p, 8) > 4e-3); /* a guess, until there was one */
    p = (pr__pace){0};
    for (uint32_t i = 0; i < 50; i++)
        pr__pace_note(&p, 1 + i % 4, 0, 1e-3 * (1 + i % 4) * (1 + i % 4)); /* no line at all */
    assert_true(pr__pace_seconds(&p, 1) >= 0 && pr__pace_seconds(&p, 4) > pr__pace_seconds(&p, 2));
    p = (pr__pace){0};
    for (uint32_t i = 0; i < 400; i++) pr__pace_note(&p, 1 + i % 8, 0, truth(1 + i % 8, 0));
    pr__pace_note(&p, 3, 0, 60); /* the process was stopped */
    pr__pace_note(&p, 3, 0, 0);
    pr__pace_note(&p, 0, 100, 9);
    assert_true(pr__pace_seconds(&p, 3) < 1.5 * truth(3, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(learns_the_line),
        cmocka_unit_test(follows_what_changes),
        cmocka_unit_test(remembers_what_does_not_vary),
        cmocka_unit_test(says_what_it_has_seen),
    };
    return cmocka_run_group_tests_name("pace", tests, NULL, NULL);
}
