/*
 * The history: what is added is read in order, once, and the oldest goes.
 */
#include "api/history.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "base/mem.h"

static pr__history *h;
static pr__moment got[PR__HISTORY_MAX];

static int setup(void **state) {
    pr_err err = {0};
    (void)state;
    return pr__history_open(&h, &err) == PR_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    pr__history_close(h);
    h = NULL;
    return pr_mem_total() == 0 ? 0 : -1;
}

static void add(uint32_t n, uint32_t from) {
    for (uint32_t i = 0; i < n; i++) pr__history_add(h, &(pr__moment){.time = 100.0 + from + i, .running = from + i});
}

static void moments_come_in_order(void **state) {
    (void)state;
    assert_int_equal(pr__history_read(h, 0, got), 0);
    add(3, 0);
    assert_int_equal(pr__history_read(h, 0, got), 3);
    for (uint32_t i = 0; i < 3; i++) assert_int_equal(got[i].running, i);
    assert_int_equal(pr__history_read(h, 101, got), 1);
    assert_int_equal(got[0].running, 2);
    assert_int_equal(pr__history_read(h, 102, got), 0);
}

static void the_oldest_goes(void **state) {
    (void)state;
    add(PR__HISTORY_MAX + 10, 0);
    assert_int_equal(pr__history_read(h, 0, got), PR__HISTORY_MAX);
    assert_int_equal(got[0].running, 10);
    assert_int_equal(got[PR__HISTORY_MAX - 1].running, PR__HISTORY_MAX + 9);
}

static void a_clock_that_goes_back_loses_nothing(void **state) {
    (void)state;
    add(2, 50);
    add(2, 0);
    assert_int_equal(pr__history_read(h, 0, got), 4);
    assert_int_equal(got[2].running, 0);
}

static void memory_may_run_out(void **state) {
    (void)state;
    pr__history *none;
    pr_err err = {0};
    pr_mem_fail_after(0, true);
    assert_int_equal(pr__history_open(&none, &err), PR_ERR_NOMEM);
    pr_mem_fail_after(-1, false);
    assert_null(none);
    pr__history_close(none);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(moments_come_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(the_oldest_goes, setup, teardown),
        cmocka_unit_test_setup_teardown(a_clock_that_goes_back_loses_nothing, setup, teardown),
        cmocka_unit_test(memory_may_run_out),
    };
    return cmocka_run_group_tests_name("history", tests, NULL, NULL);
}
