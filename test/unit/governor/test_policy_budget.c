#include "governor/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define GB 1000000000ull

/* 1, 2, 4, 8 GB on a machine of 10 GB, of which others use a part. */
static pr_gov_snapshot machine(double others, uint32_t requests) {
    pr_gov_snapshot s = {.limit_bytes = 10 * GB, .top = PR_LEVEL_FP16, .running = requests, .down_seconds = 1e9};
    static const uint64_t bytes[] = {1 * GB, 2 * GB, 4 * GB, 8 * GB};
    memcpy(s.level_bytes, bytes, sizeof bytes);
    s.used_bytes = (uint64_t)(others * 10e9);
    return s;
}

static pr_gov_snapshot loaded(double others, uint32_t requests, pr_level level, uint64_t bytes) {
    pr_gov_snapshot s = machine(others, requests);
    s.loaded = true;
    s.level = level;
    s.weight_bytes = bytes;
    s.used_bytes += bytes;
    return s;
}

static pr_gov_decision decide(const pr_gov_snapshot *s) {
    pr_gov_settings set;
    pr_gov_decision d;
    pr_gov_defaults(&set);
    pr_gov_decide(&set, s, &d);
    return d;
}

static void is_at(const pr_gov_snapshot *s, pr_level level, double gb) {
    pr_gov_decision d = decide(s);
    double apart = (double)d.weight_bytes - gb * 1e9;
    if (d.level != level || apart > 2 || apart < -2)
        fail_msg("%s: %llu bytes", d.reason, (unsigned long long)d.weight_bytes);
}

static void at_load_up_to_the_line(void **state) {
    (void)state;
    pr_gov_snapshot s = machine(.3, 1);
    is_at(&s, PR_LEVEL_INT4, 3); /* int8 is granted below .60 */
    assert_true(decide(&s).use < .60);
    s = machine(.3, 3);
    is_at(&s, PR_LEVEL_INT4, 2); /* to three requests below .40 */
    s = machine(.3, 6);
    is_at(&s, PR_LEVEL_INT4, 2); /* to six never */
    s = machine(.60, 12);
    is_at(&s, PR_LEVEL_INT2, 1.5); /* int4 is, below .75 */
    s = machine(.70, 1);
    is_at(&s, PR_LEVEL_INT2, 1.5); /* to others below .85 */
    s = machine(0, 1);
    is_at(&s, PR_LEVEL_INT8, 4);
    s = machine(-0., 0);
    s.level_bytes[PR_LEVEL_INT8] = 3 * GB;
    is_at(&s, PR_LEVEL_INT8, 4); /* below .40 */
    s = machine(.1, 0);
    s.level_bytes[PR_LEVEL_FP16] = 5 * GB / 2;
    s.level_bytes[PR_LEVEL_INT8] = 9 * GB / 4;
    is_at(&s, PR_LEVEL_FP16, 2.5); /* the top is the top */
    s = machine(.3, 1);
    s.request_bytes = GB / 2;
    is_at(&s, PR_LEVEL_INT4, 2.5);
}

static void priorities(void **state) {
    (void)state;
    pr_gov_snapshot s = machine(.3, 1);
    s.priority = PR_PRIORITY_SPEED;
    is_at(&s, PR_LEVEL_INT2, 1); /* fewer bytes are what it is about */
    s.priority = PR_PRIORITY_QUALITY;
    is_at(&s, PR_LEVEL_INT8, 4);
    s = machine(.5, 1);
    s.priority = PR_PRIORITY_QUALITY;
    is_at(&s, PR_LEVEL_INT4, 3.5); /* int8 would be .90: up to critical */
}

static void gives_way_by_the_byte(void **state) {
    (void)state;
    pr_gov_snapshot s = loaded(.3, 1, PR_LEVEL_INT4, 3 * GB - 1);
    assert_false(decide(&s).moves);
    s.used_bytes += GB / 20; /* noise of half a percent */
    assert_false(decide(&s).moves);
    s.used_bytes += GB / 5;
    pr_gov_decision d = decide(&s);
    assert_true(d.moves && !d.changed && d.direction < 0);
    assert_int_equal(d.cause, PR_GOV_MEMORY);
    assert_in_range(d.freed_bytes, GB / 4 - 2, GB / 4 + 2);
    assert_string_equal(d.reason, "down within int4: memory 62%, 1 request; frees 250 MB; 60% then");
    s = loaded(.3, 8, PR_LEVEL_INT4, 3 * GB - 1);
    assert_false(decide(&s).moves); /* load alone lowers nothing */
    s.used_bytes += GB / 20;
    is_at(&s, PR_LEVEL_INT4, 2); /* it decides how far memory lowers */
    s = loaded(.3, 1, PR_LEVEL_INT4, 3 * GB - 1);
    s.request_bytes = 27 * GB / 10; /* a request that would bring it past critical */
    d = decide(&s);
    assert_true(d.moves && d.level == PR_LEVEL_INT4 && d.cause == PR_GOV_REQUEST && d.weight_bytes == 2 * GB);
    s = loaded(.84, 1, PR_LEVEL_INT4, 3 * GB - 1); /* a level and more at once */
    is_at(&s, PR_LEVEL_INT2, 1);
    s = loaded(.45, 1, PR_LEVEL_INT8, 4 * GB); /* only what it must */
    is_at(&s, PR_LEVEL_INT2 + 1, 2);
    s = loaded(.25, 1, PR_LEVEL_INT8, 4 * GB);
    d = decide(&s);
    assert_true(d.level == PR_LEVEL_INT4 && d.freed_bytes > GB / 2 - 2 && d.freed_bytes < GB / 2 + 2);
}

static void takes_what_there_is_after_a_calm_time(void **state) {
    (void)state;
    pr_gov_snapshot s = loaded(.25, 1, PR_LEVEL_INT4, 14 * GB / 10 + GB / 10);
    s.level_bytes[PR_LEVEL_INT4] = s.weight_bytes; /* use .40 */
    s.used_bytes -= 1;
    s.calm_seconds = 29;
    assert_false(decide(&s).moves);
    s.calm_seconds = 30;
    pr_gov_decision d = decide(&s);
    assert_true(d.moves && !d.changed && d.direction > 0 && d.cause == PR_GOV_CALM && d.use < .60);
    assert_in_range(d.weight_bytes, 35 * GB / 10 - 2, 35 * GB / 10);
    pr_gov_settings set;
    pr_gov_clock clock = {0};
    pr_gov_defaults(&set);
    pr_gov_clock_read(&clock, &set, 100, &s);
    pr_gov_clock_decided(&clock, 120, &d);
    pr_gov_clock_read(&clock, &set, 125, &s);
    assert_true(s.calm_seconds == 5);
    s.calm_seconds = 100;
    s.down_seconds = 29;
    assert_false(decide(&s).moves);
    s.down_seconds = 30;
    s.queued = 1;
    assert_false(decide(&s).moves);
    s = loaded(.1, 0, PR_LEVEL_INT4, 2 * GB); /* a whole level first, and just that */
    s.calm_seconds = 30;
    is_at(&s, PR_LEVEL_INT8, 4);
}

static void a_cap_holds(void **state) {
    (void)state;
    pr_gov_snapshot s = machine(.1, 1);
    s.weight_bytes_max = 3 * GB;
    is_at(&s, PR_LEVEL_INT4, 3);
    s.projected = true; /* where memory would grant more, the cap is what is left */
    is_at(&s, PR_LEVEL_INT4, 3);
    s = loaded(.1, 1, PR_LEVEL_INT8, 4 * GB);
    s.weight_bytes_max = 3 * GB;
    pr_gov_decision d = decide(&s);
    assert_true(d.level == PR_LEVEL_INT4 && d.weight_bytes == 3 * GB);
    assert_non_null(strstr(d.reason, "weights may take 3.0 GB"));
    s = loaded(.1, 1, PR_LEVEL_INT4, 3 * GB);
    s.weight_bytes_max = 3 * GB - 1000; /* to the byte */
    is_at(&s, PR_LEVEL_INT4, 2.999999);
    s = loaded(.1, 1, PR_LEVEL_INT2, GB); /* by hand: up at once, and down */
    s.weight_bytes_max = 3 * GB;
    assert_false(decide(&s).moves);
    s.cap_given = true;
    is_at(&s, PR_LEVEL_INT4, 3);
    assert_int_equal(decide(&s).cause, PR_GOV_FORCE);
    s = loaded(.1, 3, PR_LEVEL_FP16, 8 * GB);
    s.weight_bytes_max = 5 * GB;
    s.cap_given = true;
    is_at(&s, PR_LEVEL_INT4, 3); /* no more than what the table grants */
    s = loaded(.3, 1, PR_LEVEL_INT4, 3 * GB);
    s.weight_bytes_max = 9 * GB / 10;
    s.weight_bytes_min = 8 * GB / 10;
    is_at(&s, PR_LEVEL_INT2, .9);
    s.weight_bytes_max = 1;
    is_at(&s, PR_LEVEL_INT2, .8);
}

static void the_least_where_nothing_fits(void **state) {
    (void)state;
    pr_gov_snapshot s = loaded(.86, 1, PR_LEVEL_INT2, GB);
    s.weight_bytes_min = 8 * GB / 10;
    pr_gov_decision d = decide(&s);
    assert_true(d.moves && !d.changed && d.direction < 0 && d.weight_bytes == 8 * GB / 10);
    s = loaded(.86, 1, PR_LEVEL_INT2, 8 * GB / 10);
    s.weight_bytes_min = 8 * GB / 10;
    assert_false(decide(&s).moves);
    s = loaded(.80, 1, PR_LEVEL_INT2, 8 * GB / 10); /* fits again; no hurry */
    s.weight_bytes_min = 8 * GB / 10;
    assert_false(decide(&s).moves);
}

static void by_hand_and_in_an_emergency_a_level_is_itself(void **state) {
    (void)state;
    pr_gov_snapshot s = loaded(.3, 1, PR_LEVEL_INT4, 3 * GB - 1);
    s.force_given = true;
    s.force = PR_LEVEL_INT4;
    pr_gov_decision d = decide(&s);
    assert_true(d.moves && !d.changed && d.weight_bytes == 2 * GB && d.cause == PR_GOV_FORCE);
    s.emergency = true;
    d = decide(&s);
    assert_true(d.moves && d.level == PR_LEVEL_INT2 && d.weight_bytes == GB && d.cause == PR_GOV_MEMORY);
    assert_non_null(strstr(d.reason, "emergency"));
    s = loaded(.97, 1, PR_LEVEL_INT2, GB);
    s.weight_bytes_min = 8 * GB / 10;
    s.emergency = true;
    assert_int_equal(decide(&s).weight_bytes, 8 * GB / 10);
}

static void more_use_never_means_more_bytes(void **state) {
    (void)state;
    for (uint32_t n = 0; n <= 12; n++) {
        uint64_t last = UINT64_MAX;
        for (int permille = 0; permille <= 1100; permille++) {
            pr_gov_snapshot s = machine(permille / 1000., n);
            pr_gov_decision d = decide(&s);
            assert_true(d.weight_bytes <= last);
            last = d.weight_bytes;
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(at_load_up_to_the_line),
        cmocka_unit_test(priorities),
        cmocka_unit_test(gives_way_by_the_byte),
        cmocka_unit_test(takes_what_there_is_after_a_calm_time),
        cmocka_unit_test(a_cap_holds),
        cmocka_unit_test(the_least_where_nothing_fits),
        cmocka_unit_test(by_hand_and_in_an_emergency_a_level_is_itself),
        cmocka_unit_test(more_use_never_means_more_bytes),
    };
    return cmocka_run_group_tests_name("policy budget", tests, NULL, NULL);
}
