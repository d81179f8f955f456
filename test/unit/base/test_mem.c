#include "base/mem.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define MIB ((size_t)1 << 20)

static int injection_off(void **state) {
    (void)state;
    pr_mem_fail_after(-1, false);
    return 0;
}

static void ledger_follows_each_tag(void **state) {
    (void)state;
    size_t kv = pr_mem_bytes(PR_TAG_KV), total = pr_mem_total();
    char *a = pr_alloc(PR_TAG_KV, 100);
    assert_non_null(a);
    assert_int_equal((uintptr_t)a % 16, 0);
    assert_int_equal(pr_mem_bytes(PR_TAG_KV), kv + 100);
    a = pr_realloc(PR_TAG_MISC, a, 1000); /* keeps its tag */
    assert_int_equal(pr_mem_bytes(PR_TAG_KV), kv + 1000);
    a = pr_realloc(PR_TAG_KV, a, 10);
    assert_int_equal(pr_mem_bytes(PR_TAG_KV), kv + 10);
    assert_int_equal(pr_mem_total(), total + 10);
    pr_free(a);
    pr_free(NULL);
    assert_int_equal(pr_mem_bytes(PR_TAG_KV), kv);
    assert_int_equal(pr_mem_total(), total);
}

static void realloc_keeps_the_contents(void **state) {
    (void)state;
    unsigned char *p = NULL;
    for (size_t n = 1; n < 5000; n = n * 3 + 1) {
        p = pr_realloc(PR_TAG_MISC, p, n);
        assert_non_null(p);
        for (size_t i = 0; i < n / 3; i++) assert_int_equal(p[i], i % 251);
        for (size_t i = 0; i < n; i++) p[i] = (unsigned char)(i % 251);
    }
    pr_free(p);
}

static void calloc_zeroes(void **state) {
    (void)state;
    char *p = pr_calloc(PR_TAG_MISC, 33, 31);
    assert_non_null(p);
    for (size_t i = 0; i < 33 * 31; i++) assert_int_equal(p[i], 0);
    pr_free(p);
}

static void zero_bytes_are_a_block(void **state) {
    (void)state;
    void *a = pr_alloc(PR_TAG_MISC, 0), *b = pr_alloc(PR_TAG_MISC, 0);
    assert_non_null(a);
    assert_non_null(b);
    assert_ptr_not_equal(a, b);
    pr_free(a);
    pr_free(b);
}

static void overflow_is_refused(void **state) {
    (void)state;
    size_t n = 0, total = pr_mem_total();
    assert_null(pr_alloc(PR_TAG_MISC, SIZE_MAX));
    assert_null(pr_alloc(PR_TAG_MISC, SIZE_MAX - 15));
    assert_null(pr_calloc(PR_TAG_MISC, SIZE_MAX / 2, 3));
    assert_null(pr_realloc_array(PR_TAG_MISC, NULL, SIZE_MAX / 4, 8));
    assert_null(pr_map(PR_TAG_MISC, SIZE_MAX));
    assert_null(pr_map(PR_TAG_MISC, SIZE_MAX - MIB));
    assert_false(pr_size_mul(SIZE_MAX, 2, &n));
    assert_false(pr_size_add(SIZE_MAX, 1, &n));
    assert_true(pr_size_mul(6, 7, &n));
    assert_int_equal(n, 42);
    assert_true(pr_size_add(SIZE_MAX - 1, 1, &n));
    assert_true(n == SIZE_MAX);
    assert_int_equal(pr_mem_total(), total);
}

static void peak_is_the_highest(void **state) {
    (void)state;
    pr_mem_peak_reset();
    size_t start = pr_mem_total();
    assert_int_equal(pr_mem_peak(), start);
    void *a = pr_alloc(PR_TAG_MISC, 1000), *b = pr_alloc(PR_TAG_MISC, 500);
    pr_free(a);
    void *c = pr_alloc(PR_TAG_MISC, 200);
    assert_int_equal(pr_mem_peak(), start + 1500);
    pr_free(b);
    pr_free(c);
    assert_int_equal(pr_mem_peak(), start + 1500);
}

static void strings_are_copied(void **state) {
    (void)state;
    char *a = pr_strdup(PR_TAG_MISC, "hello"), *b = pr_strndup(PR_TAG_MISC, "hello", 2);
    char *c = pr_strndup(PR_TAG_MISC, NULL, 0);
    assert_string_equal(a, "hello");
    assert_string_equal(b, "he");
    assert_string_equal(c, "");
    pr_free(a);
    pr_free(b);
    pr_free(c);
}

static void mappings_are_aligned_zeroed_and_counted(void **state) {
    (void)state;
    size_t before = pr_mem_bytes(PR_TAG_WEIGHTS);
    const size_t sizes[] = {0, 1, 4096, 5000, 2 * MIB - 1, 2 * MIB, 5 * MIB + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *p = pr_map(PR_TAG_WEIGHTS, sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % (sizes[i] >= 2 * MIB ? 2 * MIB : 4096), 0);
        assert_true(pr_mem_bytes(PR_TAG_WEIGHTS) - before >= sizes[i]);
        for (size_t at = 0; at < sizes[i]; at += 1021) assert_int_equal(p[at], 0);
        if (sizes[i]) memset(p, 1, sizes[i]);
        pr_unmap(PR_TAG_WEIGHTS, p, sizes[i]);
        assert_int_equal(pr_mem_bytes(PR_TAG_WEIGHTS), before);
    }
    pr_unmap(PR_TAG_WEIGHTS, NULL, 100);
}

static void released_pages_read_as_zero(void **state) {
    (void)state;
    size_t bytes = 4 * MIB;
    unsigned char *p = pr_map(PR_TAG_WEIGHTS, bytes);
    assert_non_null(p);
    memset(p, 7, bytes);
    size_t held = pr_mem_bytes(PR_TAG_WEIGHTS);
    pr_map_release(p + 100, 3 * 4096); /* only whole pages inside: 4096..12288 */
    assert_int_equal(pr_mem_bytes(PR_TAG_WEIGHTS), held);
    assert_int_equal(p[4095], 7);
    assert_int_equal(p[4096], 0);
    assert_int_equal(p[3 * 4096 - 1], 0);
    assert_int_equal(p[3 * 4096], 7);
    pr_map_release(p + 1, 4096); /* no whole page inside */
    assert_int_equal(p[1], 7);
    pr_unmap(PR_TAG_WEIGHTS, p, bytes);
}

static void reserve_counts_only_what_is_committed(void **state) {
    (void)state;
    size_t before = pr_mem_bytes(PR_TAG_KV);
    unsigned char *p = pr_reserve(64 * MIB), *huge = pr_reserve_huge(5 * MIB);
    assert_non_null(p);
    assert_non_null(huge);
    assert_int_equal((uintptr_t)huge % (2 * MIB), 0);
    huge[5 * MIB - 1] = 1;
    pr_map_release(huge + 3 * MIB, 2 * MIB);
    assert_int_equal(huge[5 * MIB - 1], 0);
    pr_unreserve(huge, 5 * MIB);
    assert_int_equal(pr_mem_bytes(PR_TAG_KV), before);
    uint64_t requests = pr_mem_count();
    assert_true(pr_commit(PR_TAG_KV, MIB));
    assert_int_equal(pr_mem_count(), requests);
    assert_int_equal(pr_mem_bytes(PR_TAG_KV), before + MIB);
    memset(p, 3, MIB);
    pr_decommit(PR_TAG_KV, p, MIB);
    assert_int_equal(p[0], 0);
    assert_int_equal(pr_mem_bytes(PR_TAG_KV), before);
    pr_unreserve(p, 64 * MIB);
    pr_mem_fail_after(0, false);
    assert_null(pr_reserve_huge(5 * MIB));
    pr_mem_fail_after(0, false);
    assert_false(pr_commit(PR_TAG_KV, MIB));
    assert_int_equal(pr_mem_bytes(PR_TAG_KV), before);
}

static void the_nth_request_fails(void **state) {
    (void)state;
    pr_mem_fail_after(2, false);
    void *a = pr_alloc(PR_TAG_MISC, 8), *b = pr_map(PR_TAG_MISC, 8);
    assert_non_null(a);
    assert_non_null(b);
    assert_false(pr_mem_failed());
    assert_null(pr_realloc(PR_TAG_MISC, a, 16));
    assert_true(pr_mem_failed());
    a = pr_realloc(PR_TAG_MISC, a, 16);
    assert_non_null(a);
    pr_free(a);
    pr_unmap(PR_TAG_MISC, b, 8);

    pr_mem_fail_after(0, true);
    assert_null(pr_calloc(PR_TAG_MISC, 1, 1));
    assert_null(pr_map(PR_TAG_MISC, 1));
    assert_null(pr_strdup(PR_TAG_MISC, ""));
    pr_mem_fail_after(-1, true);
    assert_false(pr_mem_failed());
    a = pr_alloc(PR_TAG_MISC, 1);
    assert_non_null(a);
    pr_free(a);
}

static void requests_are_counted(void **state) {
    (void)state;
    uint64_t before = pr_mem_count();
    void *p = pr_alloc(PR_TAG_MISC, 1);
    p = pr_realloc(PR_TAG_MISC, p, 2);
    void *m = pr_map(PR_TAG_MISC, 1);
    pr_free(p);
    pr_unmap(PR_TAG_MISC, m, 1);
    assert_int_equal(pr_mem_count() - before, 3);
}

static void *hammer(void *arg) {
    (void)arg;
    for (size_t i = 0; i < 2000; i++) {
        void *p = pr_alloc(PR_TAG_GRAPH, i);
        p = pr_realloc(PR_TAG_GRAPH, p, 2 * i + 1);
        pr_free(p);
    }
    return NULL;
}

static void threads_leave_a_balanced_ledger(void **state) {
    (void)state;
    size_t before = pr_mem_bytes(PR_TAG_GRAPH);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, hammer, NULL), 0);
    for (size_t i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    assert_int_equal(pr_mem_bytes(PR_TAG_GRAPH), before);
}

static void tags_have_names(void **state) {
    (void)state;
    for (int i = 0; i < PR_TAG_COUNT; i++) assert_string_not_equal(pr_tag_name((pr_tag)i), "unknown");
    assert_string_equal(pr_tag_name(PR_TAG_KV), "kv");
    assert_string_equal(pr_tag_name(PR_TAG_COUNT), "unknown");
}

static void align_up_rounds(void **state) {
    (void)state;
    assert_int_equal(pr_align_up(0, 64), 0);
    assert_int_equal(pr_align_up(1, 64), 64);
    assert_int_equal(pr_align_up(64, 64), 64);
    assert_int_equal(pr_align_up(10, 3), 12);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ledger_follows_each_tag),
        cmocka_unit_test(realloc_keeps_the_contents),
        cmocka_unit_test(calloc_zeroes),
        cmocka_unit_test(zero_bytes_are_a_block),
        cmocka_unit_test(overflow_is_refused),
        cmocka_unit_test(peak_is_the_highest),
        cmocka_unit_test(strings_are_copied),
        cmocka_unit_test(mappings_are_aligned_zeroed_and_counted),
        cmocka_unit_test(released_pages_read_as_zero),
        cmocka_unit_test_teardown(reserve_counts_only_what_is_committed, injection_off),
        cmocka_unit_test_teardown(the_nth_request_fails, injection_off),
        cmocka_unit_test(requests_are_counted),
        cmocka_unit_test(threads_leave_a_balanced_ledger),
        cmocka_unit_test(tags_have_names),
        cmocka_unit_test(align_up_rounds),
    };
    return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
