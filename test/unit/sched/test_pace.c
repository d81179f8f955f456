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

static void flat_where_nothing_varies(void **state) {
    (void)state;
    pr__pace p = {0};
    for (uint32_t i = 0; i < 50; i++) pr__pace_note(&p, 1, 0, 4e-3);
    near(pr__pace_seconds(&p, 1), 4e-3);
    near(pr__pace_seconds(&p, 8), 4e-3);
    p = (pr__pace){0};
    for (uint32_t i = 0; i < 50; i++)
        pr__pace_note(&p, 1 + i % 4, 0, 1e-3 * (1 + i % 4) * (1 + i % 4)); /* no line at all */
    assert_true(pr__pace_seconds(&p, 1) >= 0 && pr__pace_seconds(&p, 4) > pr__pace_seconds(&p, 2));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(learns_the_line),
        cmocka_unit_test(follows_what_changes),
        cmocka_unit_test(flat_where_nothing_varies),
    };
    return cmocka_run_group_tests_name("pace", tests, NULL, NULL);
}
