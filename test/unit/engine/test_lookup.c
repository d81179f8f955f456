/*
 * Prompt lookup: the longest and latest earlier occurrence, against the definition, and drafts that go on in circles.
 */
#include "engine/lookup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "support/rig.h"

/* By the letter: every place, every length. */
static pr__lookup slow(const int32_t *tokens, uint32_t n) {
    pr__lookup best = {0, 0};
    for (uint32_t length = PR__LOOKUP_LEAST; length <= PR__LOOKUP_MOST; length++)
        for (uint32_t next = length; next < n; next++)
            if (n > length && !memcmp(tokens + next - length, tokens + n - length, length * sizeof *tokens))
                best = (pr__lookup){length, next};
    return best;
}

static void test_against_the_definition(void **state) {
    (void)state;
    rig_rng rng = {3};
    int32_t tokens[64];
    for (int round = 0; round < 20000; round++) {
        uint32_t n = rig_below(&rng, 64), words = 1 + rig_below(&rng, 5);
        for (uint32_t i = 0; i < n; i++) tokens[i] = (int32_t)rig_below(&rng, words);
        pr__lookup want = slow(tokens, n), got = pr__lookup_find(tokens, n);
        assert_int_equal(got.length, want.length);
        assert_int_equal(got.next, want.next);
        assert_true(got.length == 0 || (got.next >= got.length && got.next < n));
    }
}

static void test_drafts(void **state) {
    (void)state;
    const int32_t text[] = {1, 2, 3, 4, 5, 1, 2, 3}, circle[] = {9, 7, 8, 7, 8};
    int32_t drafts[7];
    pr__lookup at = pr__lookup_find(text, 8);
    assert_int_equal(at.length, 3);
    pr__lookup_drafts(text, 8, at, drafts, 7);
    assert_memory_equal(drafts, ((int32_t[]){4, 5, 1, 2, 3, 4, 5}), sizeof drafts);
    at = pr__lookup_find(circle, 5);
    pr__lookup_drafts(circle, 5, at, drafts, 5);
    assert_memory_equal(drafts, ((int32_t[]){7, 8, 7, 8, 7}), 5 * sizeof *drafts);
    assert_int_equal(pr__lookup_find(text, 5).length, 0);
    assert_int_equal(pr__lookup_find(text, 0).length, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_the_definition),
        cmocka_unit_test(test_drafts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
