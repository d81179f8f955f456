/*
 * Stop strings: random texts over small alphabets, cut into random pieces,
 * against a search that has the whole text before it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/str.h"
#include "sample/stop.h"

static uint64_t rng_state = 99;

static uint32_t rnd(uint32_t below) {
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)((rng_state >> 32) % below);
}

static pr_stop *open_stop(const char *const *stops, size_t n) {
    pr_stop *stop = NULL;
    pr_err err = {0};
    assert_int_equal(pr_stop_open(stops, n, &stop, &err), PR_OK);
    return stop;
}

/* The text let through, growing; what a caller would write. */
static void collect(pr_str *all, const pr_stop_out *out) {
    pr_str_append(all, out->head, out->head_len);
    pr_str_append(all, out->body, out->body_len);
}

static void push(pr_stop *stop, const char *text, const char *want, bool hit) {
    pr_str all = {0};
    pr_stop_out out;
    pr_stop_push(stop, text, strlen(text), &out);
    collect(&all, &out);
    assert_string_equal(all.len ? all.data : "", want);
    assert_int_equal(out.hit, hit);
    pr_str_free(&all);
}

/* The end of the first stop string in text (its last byte soonest, then the longest); SIZE_MAX when there is none. */
static size_t naive_find(const char *text, size_t len, const char *const *stops, size_t n, size_t *which) {
    for (size_t end = 1; end <= len; end++) {
        size_t most = 0;
        for (size_t i = 0; i < n; i++) {
            size_t l = strlen(stops[i]);
            if (l <= end && l > most && memcmp(text + end - l, stops[i], l) == 0) {
                most = l;
                *which = i;
            }
        }
        if (most > 0) {
            return end;
        }
    }
    return SIZE_MAX;
}

/* The longest end of text that begins some stop string. */
static size_t naive_held(const char *text, size_t len, const char *const *stops, size_t n) {
    size_t most = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t l = strlen(stops[i]) - 1; l > most; l--) {
            if (l <= len && memcmp(text + len - l, stops[i], l) == 0) {
                most = l;
            }
        }
    }
    return most;
}

/* One text through the matcher; after each piece exactly what may be let through has been. */
static bool check_text(pr_stop *stop, const char *text, size_t len, const char *const *stops, size_t n) {
    size_t which = 0, end = naive_find(text, len, stops, n, &which), at = 0;
    pr_str all = {0};
    pr_stop_out out;
    bool hit = false;
    while (at < len && !hit) {
        size_t piece = rnd(7) ? rnd(4) : rnd(20);
        piece = piece < len - at ? piece : len - at;
        pr_stop_push(stop, text + at, piece, &out);
        at += piece;
        collect(&all, &out);
        hit = out.hit;
        assert_int_equal(hit, end <= at);
        size_t through = hit ? end - strlen(stops[which]) : at - naive_held(text, at, stops, n);
        assert_int_equal(all.len, through);
        assert_int_equal(pr_stop_held(stop), hit ? 0 : at - through);
        assert_true(through == 0 || memcmp(all.data, text, through) == 0);
        if (hit) {
            assert_int_equal(strlen(stops[out.which]), strlen(stops[which]));
            assert_string_equal(stops[out.which], stops[which]);
        }
    }
    pr_stop_finish(stop, &out);
    collect(&all, &out);
    assert_int_equal(out.hit, hit);
    if (!hit) {
        assert_int_equal(all.len, len);
        assert_true(len == 0 || memcmp(all.data, text, len) == 0);
    }
    pr_str_free(&all);
    return hit;
}

static void equals_a_search_of_the_whole_text(void **state) {
    (void)state;
    int hits = 0, misses = 0;
    for (int trial = 0; trial < 5000; trial++) {
        char text[64], strings[4][12];
        const char *stops[4];
        uint32_t letters = 1 + rnd(3);
        size_t n = rnd(5), len = rnd(64);
        for (size_t i = 0; i < n; i++) {
            size_t l = 1 + rnd(trial % 2 ? 11 : 4);
            for (size_t j = 0; j < l; j++) {
                strings[i][j] = (char)('a' + (int)rnd(letters));
            }
            strings[i][l] = '\0';
            stops[i] = strings[i];
        }
        pr_stop *stop = open_stop(stops, n);
        for (int again = 0; again < 2; again++) { /* finish leaves it as new */
            for (size_t j = 0; j < len; j++) {
                text[j] = (char)('a' + (int)rnd(letters));
            }
            if (check_text(stop, text, len, stops, n)) {
                hits++;
            } else {
                misses++;
            }
        }
        pr_stop_close(stop);
    }
    assert_true(hits > 1000 && misses > 1000);
    assert_int_equal(pr_mem_bytes(PR_TAG_SESSION), 0);
}

static void works_across_pieces(void **state) {
    (void)state;
    pr_stop *stop = open_stop((const char *[]){"</s>", "\nUser:"}, 2);
    push(stop, "Hello", "Hello", false);
    push(stop, " <", " ", false);
    push(stop, "/", "", false);
    push(stop, "b> x\nUs", "</b> x", false);
    push(stop, "", "", false);
    assert_int_equal(pr_stop_held(stop), 3);
    push(stop, "er", "", false);
    push(stop, ": hi", "", true);
    push(stop, "more", "", true); /* nothing after a hit */
    pr_stop_out out;
    pr_stop_push(stop, "x", 1, &out);
    assert_int_equal(out.which, 1);
    assert_int_equal(pr_stop_held(stop), 0);

    pr_stop_reset(stop);
    push(stop, "a\nUser", "a", false);
    pr_stop_reset(stop);
    push(stop, ":", ":", false); /* what was held is forgotten */
    push(stop, "</", "", false);
    pr_stop_finish(stop, &out);
    assert_int_equal(out.head_len + out.body_len, 2);
    assert_memory_equal(out.head, "</", 2);
    assert_false(out.hit);
    pr_stop_close(stop);
}

static void first_to_end_wins_then_the_longest(void **state) {
    (void)state;
    pr_stop *stop = open_stop((const char *[]){"abcd", "bc"}, 2);
    push(stop, "xabcd", "xa", true);
    pr_stop_close(stop);
    stop = open_stop((const char *[]){"c", "abc", "bc"}, 3);
    push(stop, "xab", "x", false);
    push(stop, "c", "", true);
    pr_stop_close(stop);
}

static void none_lets_everything_through(void **state) {
    (void)state;
    pr_stop *stop = open_stop(NULL, 0);
    push(stop, "anything", "anything", false);
    pr_stop_out out;
    pr_stop_push(stop, NULL, 0, &out);
    assert_int_equal(out.head_len + out.body_len, 0);
    pr_stop_finish(stop, &out);
    assert_int_equal(out.head_len + out.body_len, 0);
    pr_stop_close(stop);
    pr_stop_close(NULL);
}

static void characters_stay_whole(void **state) {
    (void)state;
    pr_stop *stop = open_stop((const char *[]){"\xe2\x82\xac!"}, 1); /* euro sign, exclamation mark */
    push(stop, "\xe2\x82\xac", "", false);
    push(stop, "\xe2\x82\xac", "\xe2\x82\xac", false);
    push(stop, "\xe2\x82\xad", "\xe2\x82\xac\xe2\x82\xad", false); /* shares two bytes with it */
    push(stop, "\xe2\x82\xac!", "", true);
    pr_stop_close(stop);
}

static void refuses_what_it_cannot_do(void **state) {
    (void)state;
    pr_stop *stop = (pr_stop *)&stop;
    pr_err err = {0};
    assert_int_equal(pr_stop_open((const char *[]){"a", ""}, 2, &stop, &err), PR_ERR_ARG);
    assert_null(stop);
    assert_non_null(strstr(err.text, "stop[1]"));
    assert_int_equal(pr_stop_open((const char *[]){NULL}, 1, &stop, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "stop[0]"));
    pr_mem_fail_after(0, false);
    assert_int_equal(pr_stop_open((const char *[]){"a"}, 1, &stop, &err), PR_ERR_NOMEM);
    pr_mem_fail_after(-1, false);
    assert_null(stop);
    assert_int_equal(pr_mem_bytes(PR_TAG_SESSION), 0);
}

static void a_push_allocates_nothing(void **state) {
    (void)state;
    pr_stop *stop = open_stop((const char *[]){"aab", "aaac"}, 2);
    uint64_t before = pr_mem_count();
    pr_stop_out out;
    size_t through = 0;
    for (int i = 0; i < 10000; i++) {
        pr_stop_push(stop, "a", 1, &out);
        through += out.head_len + out.body_len;
        assert_true(pr_stop_held(stop) <= 3);
    }
    assert_int_equal(through, 10000 - 3);
    assert_int_equal(pr_mem_count(), before);
    pr_stop_close(stop);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_a_search_of_the_whole_text),
        cmocka_unit_test(works_across_pieces),
        cmocka_unit_test(first_to_end_wins_then_the_longest),
        cmocka_unit_test(none_lets_everything_through),
        cmocka_unit_test(characters_stay_whole),
        cmocka_unit_test(refuses_what_it_cannot_do),
        cmocka_unit_test(a_push_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
