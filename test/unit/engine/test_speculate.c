/*
 * The policy of speculation, played against machines with known costs: it must find what pays and leave what does not.
 */
#include "engine/speculate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "support/rig.h"

/* A machine and a text: seconds of a plain step, of a draft token with each arm, what a row adds; how often a draft is right; of
 * 10 tokens, how many have a lookup, and its arm. */
typedef struct machine {
    double plain, row, draft[PR__SPEC_ARMS], right[PR__SPEC_ARMS];
    uint32_t found;
    int lookup;
} machine;

enum { INT2 = 10, INT4 = 40, TOP = 100 };

static void begin(pr__spec *s, const uint64_t *bytes) {
    static const uint32_t cursors[] = {INT2, INT4};
    *s = (pr__spec){0};
    pr__spec_reset(s, TOP, cursors, bytes, 2, 100);
}

/* Tokens a second over n_tokens, relative to plain decoding. */
static double play(pr__spec *s, const machine *m, int asked, uint32_t n_tokens, uint64_t seed) {
    rig_rng rng = {seed};
    double seconds = 0;
    for (uint32_t made = 0; made < n_tokens;) {
        int lookup = rig_below(&rng, 10) < m->found ? m->lookup : -1;
        pr__spec_choice c = pr__spec_choose(s, asked, PR__SPEC_MAX, lookup);
        if (c.arm != lookup || c.k == 0)
            pr__spec_judge(s, lookup, lookup >= 0 && rig_below(&rng, 10000) < (uint32_t)(m->right[lookup] * 10000));
        if (c.k == 0) {
            pr__spec_plain(s, m->plain);
            seconds += m->plain;
            made++;
            continue;
        }
        int good = 0;
        while (good < c.k && rig_below(&rng, 10000) < (uint32_t)(m->right[c.arm] * 10000)) good++;
        int judged = good < c.k ? good + 1 : c.k;
        double draft = c.k * m->draft[c.arm], verify = m->plain + c.k * m->row;
        pr__spec_round(s, c, draft, verify, judged, good);
        seconds += draft + verify;
        made += (uint32_t)good + 1;
    }
    return n_tokens * m->plain / seconds;
}

static void test_what_pays_is_found(void **state) {
    (void)state;
    const machine m = {.plain = 10, .row = 0.3, .draft = {3, 5.5}, .right = {0.75, 0.9}};
    pr__spec s;
    begin(&s, (uint64_t[]){25, 50});
    play(&s, &m, -1, 200, 1);
    assert_true(play(&s, &m, -1, 4000, 2) > 1.33); /* the best choice, two drafts at int2, gives 1.39 */
}

static void test_what_does_not_pay_is_left(void **state) {
    (void)state;
    const machine m = {.plain = 10, .row = 1, .draft = {7, 9}, .right = {0.3, 0.5}};
    pr__spec s;
    begin(&s, (uint64_t[]){25, 50});
    assert_true(play(&s, &m, -1, 2000, 1) > 0.98);
}

static void test_a_change_is_noticed(void **state) {
    (void)state;
    const machine good = {.plain = 10, .row = 0.2, .draft = {3, 5}, .right = {0.9, 0.95}};
    const machine bad = {.plain = 10, .row = 2, .draft = {9, 9.5}, .right = {0.1, 0.2}};
    pr__spec s;
    begin(&s, (uint64_t[]){25, 50});
    assert_true(play(&s, &good, -1, 1000, 1) > 1.5);
    play(&s, &bad, -1, 200, 2);
    assert_true(play(&s, &bad, -1, 2000, 3) > 0.97);
    play(&s, &good, -1, 4000, 4); /* probes are far apart by now */
    assert_true(play(&s, &good, -1, 2000, 5) > 1.4);
}

/* Lookups of a text that repeats itself are used, with a machine that cannot draft by itself; wrong ones are left, and taken up
 * again when they come right, without a try. */
static void test_lookups(void **state) {
    (void)state;
    const int arm = PR__SPEC_LEVELS + 2;
    machine m = {.plain = 10, .row = 1, .found = 5, .lookup = arm};
    pr__spec s = {0};
    pr__spec_reset(&s, 0, NULL, NULL, 0, 0);
    m.right[arm] = 0.9;
    play(&s, &m, -1, 200, 1);
    assert_true(play(&s, &m, -1, 4000, 2) > 1.7);
    m.right[arm] = 0.02;
    play(&s, &m, -1, 200, 3);
    assert_true(play(&s, &m, -1, 4000, 4) > 0.99);
    m.right[arm] = 0.9;
    play(&s, &m, -1, 200, 5);
    assert_true(play(&s, &m, -1, 4000, 6) > 1.7);
    const machine busy = {.plain = 30, .row = 20, .found = 5, .lookup = arm, .right = {[PR__SPEC_LEVELS + 2] = 0.9}};
    play(&s, &busy, -1, 2000, 7); /* for a while everything is slow, rows most of all: that is not for ever */
    play(&s, &m, -1, 6000, 8);
    assert_true(play(&s, &m, -1, 4000, 9) > 1.7);
    pr__spec_reset(&s, TOP, (uint32_t[]){INT2}, (uint64_t[]){25}, 1, 100); /* what is known of lookups stays */
    assert_true(s.arms[arm].acceptance > 0.7 && s.n_levels == 1);
    assert_int_equal(pr__spec_choose(&s, 3, 8, -1).arm, 0);
}

/* Rows that cost more all at once: the number of drafts stops before. */
static void test_a_step_in_the_cost_of_rows(void **state) {
    (void)state;
    const int arm = PR__SPEC_LEVELS;
    pr__spec s = {0};
    pr__spec_reset(&s, 0, NULL, NULL, 0, 0);
    for (int i = 0; i < 500; i++) {
        pr__spec_choice c = pr__spec_choose(&s, -1, PR__SPEC_MAX, arm);
        double seconds = c.k < 4 ? 10 + 0.1 * c.k : 60;
        if (c.k == 0) {
            pr__spec_plain(&s, seconds);
            pr__spec_judge(&s, arm, true);
        } else {
            pr__spec_round(&s, c, 0, seconds, c.k, c.k);
        }
    }
    assert_int_equal(pr__spec_choose(&s, -1, PR__SPEC_MAX, arm).k, 3);
}

static void test_asked_is_done(void **state) {
    (void)state;
    pr__spec s;
    begin(&s, (uint64_t[]){25, 50});
    for (int i = 0; i < 50; i++) {
        pr__spec_choice c = pr__spec_choose(&s, 5, i % 8, -1);
        assert_int_equal(c.k, i % 8 < 5 ? i % 8 : 5);
        if (c.k) pr__spec_round(&s, c, 1, 1, c.k, 0);
    }
    assert_int_equal(pr__spec_choose(&s, 0, 8, PR__SPEC_LEVELS).k, 0);
    assert_int_equal(pr__spec_choose(&s, -1, 0, PR__SPEC_LEVELS).k, 0);
}

static void test_only_cheaper_levels_draft(void **state) {
    (void)state;
    pr__spec s;
    begin(&s, (uint64_t[]){25, 90});
    assert_int_equal(s.n_levels, 1);
    assert_int_equal(s.arms[0].cursor, INT2);
    begin(&s, (uint64_t[]){80, 90});
    assert_int_equal(s.n_levels, 0);
    assert_int_equal(pr__spec_choose(&s, 4, 8, -1).k, 0);
    pr__spec_reset(&s, INT2, (uint32_t[]){INT2, INT4}, (uint64_t[]){25, 50}, 2, 100); /* none is below */
    assert_int_equal(s.n_levels, 0);
}

/* Whatever is measured, choices stay in range and means are numbers. */
static void test_odd_measurements(void **state) {
    (void)state;
    rig_rng rng = {7};
    pr__spec s;
    begin(&s, (uint64_t[]){25, 50});
    for (int i = 0; i < 20000; i++) {
        int most = (int)rig_below(&rng, 20);
        int lookup = (int)rig_below(&rng, 2) ? -1 : PR__SPEC_LEVELS + (int)rig_below(&rng, PR__SPEC_LOOKUPS);
        pr__spec_choice c = pr__spec_choose(&s, (int)rig_below(&rng, 6) - 1, most, lookup);
        assert_true(c.k >= 0 && c.k <= most && c.k <= PR__SPEC_MAX && c.arm >= 0 && (c.arm < 2 || c.arm == lookup));
        pr__spec_judge(&s, lookup, i % 3);
        double a = rig_below(&rng, 3) ? rig_below(&rng, 100) * 1e-3 : 0, b = rig_below(&rng, 100) * 1e-3;
        if (c.k == 0) pr__spec_plain(&s, a);
        else pr__spec_round(&s, c, a, b, c.k, (int)rig_below(&rng, (uint32_t)c.k + 1));
        for (int k = 0; k < PR__SPEC_ARMS; k++)
            assert_true(s.arms[k].acceptance >= 0 && s.arms[k].acceptance <= 1 && isfinite(s.arms[k].draft_seconds));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_pays_is_found),
        cmocka_unit_test(test_what_does_not_pay_is_left),
        cmocka_unit_test(test_a_change_is_noticed),
        cmocka_unit_test(test_asked_is_done),
        cmocka_unit_test(test_lookups),
        cmocka_unit_test(test_a_step_in_the_cost_of_rows),
        cmocka_unit_test(test_only_cheaper_levels_draft),
        cmocka_unit_test(test_odd_measurements),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
