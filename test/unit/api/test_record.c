/*
 * Records: what is written is read again, whole or not at all.
 */
#include "api/record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static pr_str one_of_each(void) {
    pr_str r = {0};
    pr_lp_text lp = {0};
    pr_str_puts(&lp.tokens, "\"a\"");
    pr_str_puts(&lp.values, "-1");
    pr_str_puts(&lp.tops, "{}");
    pr_str_puts(&lp.offsets, "0");
    pr_record_token(&r, 3, PR_LEVEL_INT4, "hello", 5, NULL);
    pr_record_token(&r, 0, PR_LEVEL_FP16, "", 0, NULL);
    pr_record_token(&r, 15, PR_LEVEL_INT2, "a\0b", 3, &lp);
    pr_ending e = {"length", 5, PR_LEVEL_INT2, 1.5, 2.5, 3.5, true};
    pr_record_end(&r, 3, &e, &(pr_usage){10, 4, 7});
    e.finish = "capacity";
    pr_record_end(&r, 0, &e, &(pr_usage){0});
    pr_lp_text_free(&lp);
    assert_true(pr_str_ok(&r));
    return r;
}

static bool is(const pr_str *s, const char *text) { return s->len == strlen(text) && !memcmp(s->data, text, s->len); }

static void reads_what_was_written(void **state) {
    (void)state;
    pr_str r = one_of_each();
    pr_event e;
    size_t at = 0, n;
    assert_true((n = pr_record_next(r.data, r.len, &e)) > 0);
    assert_true(!e.ends && e.choice == 3 && e.level == PR_LEVEL_INT4 && !e.has_lp);
    assert_int_equal(e.len, 5);
    assert_memory_equal(e.text, "hello", 5);
    at += n;
    assert_true((n = pr_record_next(r.data + at, r.len - at, &e)) > 0);
    assert_true(e.choice == 0 && e.len == 0 && e.level == PR_LEVEL_FP16);
    at += n;
    assert_true((n = pr_record_next(r.data + at, r.len - at, &e)) > 0);
    assert_true(e.choice == 15 && e.len == 3 && e.has_lp && !memcmp(e.text, "a\0b", 3));
    assert_true(is(&e.lp.tokens, "\"a\"") && is(&e.lp.values, "-1") && is(&e.lp.tops, "{}") && is(&e.lp.offsets, "0"));
    at += n;
    assert_true((n = pr_record_next(r.data + at, r.len - at, &e)) > 0);
    assert_true(e.ends && e.choice == 3 && e.ending.timed_out && e.ending.levels_used == 5);
    assert_string_equal(e.ending.finish, "length");
    assert_int_equal(e.ending.level, PR_LEVEL_INT2);
    assert_true(e.ending.queue_seconds == 1.5 && e.ending.first_token_seconds == 2.5 && e.ending.total_seconds == 3.5);
    assert_true(e.share.prompt == 10 && e.share.cached == 4 && e.share.completion == 7);
    at += n;
    assert_true((n = pr_record_next(r.data + at, r.len - at, &e)) > 0);
    assert_string_equal(e.ending.finish, "capacity");
    at += n;
    assert_int_equal(at, r.len);
    assert_int_equal(pr_record_next(r.data + at, 0, &e), 0);
    pr_str_free(&r);
}

/* A record that is cut anywhere has the events before the cut, and no other. */
static void a_cut_one_ends_before_the_cut(void **state) {
    (void)state;
    pr_str r = one_of_each();
    size_t ends[8], n_ends = 0, at = 0;
    pr_event e;
    for (size_t n; (n = pr_record_next(r.data + at, r.len - at, &e)) > 0;) ends[n_ends++] = at += n;
    assert_int_equal(n_ends, 5);
    for (size_t cut = 0; cut <= r.len; cut++) {
        char *copy = pr_alloc(PR_TAG_MISC, cut); /* of that size, so that a sanitizer sees a byte too many */
        size_t read = 0, got = 0;
        if (cut) memcpy(copy, r.data, cut);
        for (size_t n; (n = pr_record_next(copy + read, cut - read, &e)) > 0; got++) read += n;
        size_t whole = 0;
        while (whole < n_ends && ends[whole] <= cut) whole++;
        assert_int_equal(got, whole);
        pr_free(copy);
    }
    pr_str_free(&r);
}

static void without_memory_it_says_so(void **state) {
    (void)state;
    for (int after = 0; after < 4; after++) {
        pr_str r = {0};
        pr_mem_fail_after(after, true);
        for (int i = 0; i < 200; i++) pr_record_token(&r, 0, PR_LEVEL_INT8, "some text", 9, NULL);
        pr_record_end(&r, 0, &(pr_ending){.finish = "stop"}, &(pr_usage){0});
        pr_mem_fail_after(-1, false);
        assert_false(pr_str_ok(&r));
        pr_str_free(&r);
    }
    pr_str r = {0};
    pr_lp_text lp = {.tops = {.failed = true}};
    pr_record_token(&r, 0, PR_LEVEL_INT8, "x", 1, &lp);
    assert_false(pr_str_ok(&r));
    pr_str_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_was_written),
        cmocka_unit_test(a_cut_one_ends_before_the_cut),
        cmocka_unit_test(without_memory_it_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
