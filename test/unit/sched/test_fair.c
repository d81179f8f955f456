/*
 * Turns: the same number of rows for every key, however many jobs it has, whenever it comes.
 */
#include "sched/fair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "support/rig.h"

enum { KEYS = 8, JOBS = 64 };

typedef struct world {
    pr__fair queue;
    pr__share shares[KEYS];
    uint64_t got[KEYS], last[JOBS];
    int key[JOBS]; /* of a job */
    size_t n;
    uint64_t step;
} world;

static void add(world *w, int key, int jobs) {
    while (jobs-- > 0) w->key[w->n++] = key;
}

/* A step of decoding; bit k of keys: key k wants rows. */
static size_t decode(world *w, size_t most, unsigned keys) {
    pr__turn turns[JOBS];
    size_t order[JOBS], n = 0, job[JOBS];
    w->step++;
    for (size_t i = 0; i < w->n; i++) {
        if (!(keys & 1u << w->key[i])) continue;
        job[n] = i;
        turns[n++] = (pr__turn){&w->shares[w->key[i]], w->last[i], 1, false};
    }
    size_t picked = pr__fair_pick(&w->queue, turns, n, most, (uint32_t)most, order);
    for (size_t i = 0; i < picked; i++) {
        w->got[w->key[job[order[i]]]]++;
        w->last[job[order[i]]] = w->step;
    }
    return picked;
}

static void near(uint64_t a, uint64_t b, uint64_t by) { assert_true(a <= b + by && b <= a + by); }

static void as_many_rows_for_few_jobs_as_for_many(void **state) {
    (void)state;
    world w = {0};
    add(&w, 0, 20);
    add(&w, 1, 4);
    for (int i = 0; i < 1000; i++) assert_int_equal(decode(&w, 8, 3), 8);
    near(w.got[0], w.got[1], 1);
    /* One that has a single job gets a row of every step: more it cannot take. */
    w = (world){0};
    add(&w, 0, 20);
    add(&w, 1, 1);
    for (int i = 0; i < 1000; i++) decode(&w, 8, 3);
    assert_int_equal(w.got[1], 1000);
    assert_int_equal(w.got[0], 7000);
}

static void every_job_of_a_key_has_its_turn(void **state) {
    (void)state;
    world w = {0};
    add(&w, 0, 20);
    for (int i = 0; i < 100; i++) {
        decode(&w, 3, 1);
        for (size_t j = 0; j < w.n && w.step > 7; j++) assert_true(w.step - w.last[j] <= 7);
    }
}

static void coming_late_or_back_is_neither_credit_nor_penalty(void **state) {
    (void)state;
    world w = {0};
    add(&w, 0, 8);
    add(&w, 1, 8);
    for (int i = 0; i < 1000; i++) decode(&w, 4, 1); /* alone */
    memset(w.got, 0, sizeof w.got);
    for (int i = 0; i < 100; i++) decode(&w, 4, 3);
    near(w.got[0], w.got[1], 4);
    for (int i = 0; i < 1000; i++) decode(&w, 4, 2); /* the other one alone: 0 is parked */
    memset(w.got, 0, sizeof w.got);
    for (int i = 0; i < 100; i++) decode(&w, 4, 3);
    near(w.got[0], w.got[1], 4);
    for (int i = 0; i < 10; i++) assert_int_equal(decode(&w, 4, 0), 0);
    add(&w, 2, 8);
    memset(w.got, 0, sizeof w.got);
    for (int i = 0; i < 300; i++) decode(&w, 4, 7);
    near(w.got[0], w.got[2], 4);
    near(w.got[1], w.got[2], 4);
}

static void rows_are_bounded_and_the_last_is_cut(void **state) {
    (void)state;
    pr__fair q = {0};
    pr__share a = {0}, b = {0};
    size_t order[3];
    pr__turn turns[3] = {{&a, 5, 100, false}, {&a, 4, 30, false}, {&b, 9, 50, false}};
    assert_int_equal(pr__fair_pick(&q, turns, 3, 8, 96, order), 3);
    assert_int_equal(order[0], 1); /* the first asked of key a */
    assert_int_equal(order[1], 2); /* then b has had less */
    assert_int_equal(order[2], 0);
    assert_int_equal(turns[0].rows, 16);
    assert_int_equal(a.served, 46);
    assert_int_equal(b.served, 50);
    pr__turn again[2] = {{&a, 5, 84, false}, {&b, 9, 1, false}};
    assert_int_equal(pr__fair_pick(&q, again, 2, 1, 96, order), 1); /* one turn at most */
    assert_int_equal(order[0], 0);
    assert_int_equal(pr__fair_pick(&q, again, 0, 1, 96, order), 0);
    pr__turn none[1] = {{&a, 1, 5, false}};
    assert_int_equal(pr__fair_pick(&q, none, 1, 1, 0, order), 0);
}

/* Whatever comes and goes: bounds hold, and keys that always want something get the same. */
static void at_random(void **state) {
    (void)state;
    rig_rng rng = {11};
    for (int round = 0; round < 50; round++) {
        world w = {0};
        for (int k = 0; k < 6; k++) add(&w, k, 1 + (int)rig_below(&rng, 10));
        add(&w, 6, 8);
        add(&w, 7, 8);
        for (int i = 0; i < 400; i++) {
            size_t most = 1 + rig_below(&rng, 6);
            assert_true(decode(&w, most, 0xc0u | rig_below(&rng, 64)) == most);
        }
        near(w.got[6], w.got[7], 6);
    }
}

static void batches_by_weight(void **state) {
    (void)state;
    pr__stride s = {0};
    int n[PR__BATCHES] = {0};
    const double weights[PR__BATCHES] = {0.25, 0, 0.25, 0, 1.5};
    for (int i = 0; i < 800; i++) n[pr__fair_batch(&s, weights)]++;
    assert_int_equal(n[0], 100);
    assert_int_equal(n[2], 100);
    assert_int_equal(n[4], 600);
    /* One that comes later does not catch up. */
    const double later[PR__BATCHES] = {0, 1, 0, 0, 1};
    memset(n, 0, sizeof n);
    for (int i = 0; i < 100; i++) n[pr__fair_batch(&s, later)]++;
    assert_true(n[1] >= 49 && n[1] <= 51);
    assert_int_equal(pr__fair_batch(&s, (double[PR__BATCHES]){0}), -1);
    assert_int_equal(pr__fair_batch(&s, (double[PR__BATCHES]){0, 0, 0, 0.5, 0}), 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_many_rows_for_few_jobs_as_for_many),
        cmocka_unit_test(every_job_of_a_key_has_its_turn),
        cmocka_unit_test(coming_late_or_back_is_neither_credit_nor_penalty),
        cmocka_unit_test(rows_are_bounded_and_the_last_is_cut),
        cmocka_unit_test(at_random),
        cmocka_unit_test(batches_by_weight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
