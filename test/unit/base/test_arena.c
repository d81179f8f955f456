#include "base/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void objects_are_zeroed_aligned_and_apart(void **state) {
    (void)state;
    size_t before = pr_mem_total();
    pr_arena arena;
    pr_arena_init(&arena, PR_TAG_GRAPH);
    unsigned char *objects[400];
    size_t sizes[400];
    for (size_t i = 0; i < 400; i++) {
        sizes[i] = i % 50 == 49 ? 20000 + i : i * 7 % 300; /* some larger than any early chunk */
        objects[i] = pr_arena_alloc(&arena, sizes[i]);
        assert_non_null(objects[i]);
        assert_int_equal((uintptr_t)objects[i] % 16, 0);
        for (size_t at = 0; at < sizes[i]; at++) assert_int_equal(objects[i][at], 0);
        if (sizes[i]) memset(objects[i], (int)(i % 255) + 1, sizes[i]);
    }
    for (size_t i = 0; i < 400; i++) {
        for (size_t at = 0; at < sizes[i]; at++) assert_int_equal(objects[i][at], i % 255 + 1);
    }
    assert_true(pr_mem_bytes(PR_TAG_GRAPH) > 0);
    pr_arena_free(&arena);
    assert_int_equal(pr_mem_total(), before);
}

static void many_objects_make_few_requests(void **state) {
    (void)state;
    pr_arena arena;
    pr_arena_init(&arena, PR_TAG_VOCAB);
    uint64_t before = pr_mem_count();
    for (int i = 0; i < 100000; i++) assert_non_null(pr_arena_alloc(&arena, 32));
    assert_true(pr_mem_count() - before < 20);
    pr_arena_free(&arena);
}

static void a_large_object_does_not_waste_the_tail(void **state) {
    (void)state;
    pr_arena arena;
    pr_arena_init(&arena, PR_TAG_MISC);
    char *a = pr_arena_alloc(&arena, 16);
    assert_non_null(pr_arena_alloc(&arena, 1 << 20));
    char *b = pr_arena_alloc(&arena, 16);
    assert_ptr_equal(b, a + 16);
    pr_arena_free(&arena);
}

static void text_is_copied_and_formatted(void **state) {
    (void)state;
    pr_arena arena;
    pr_arena_init(&arena, PR_TAG_MISC);
    assert_string_equal(pr_arena_strndup(&arena, "layer norm", 5), "layer");
    assert_string_equal(pr_arena_strndup(&arena, NULL, 0), "");
    assert_string_equal(pr_arena_printf(&arena, "blk.%d.%s", 12, "attn_q"), "blk.12.attn_q");
    pr_arena_free(&arena);
}

static void overflow_and_starvation_give_null(void **state) {
    (void)state;
    pr_arena arena;
    pr_arena_init(&arena, PR_TAG_MISC);
    assert_null(pr_arena_alloc(&arena, SIZE_MAX));
    assert_null(pr_arena_alloc(&arena, SIZE_MAX - 20));
    assert_null(pr_arena_array(&arena, SIZE_MAX / 2, 4));
    assert_null(pr_arena_strndup(&arena, "", SIZE_MAX));
    pr_mem_fail_after(0, true);
    assert_null(pr_arena_alloc(&arena, 8));
    assert_null(pr_arena_printf(&arena, "%d", 1));
    pr_mem_fail_after(-1, false);
    assert_non_null(pr_arena_array(&arena, 10, 8));
    pr_arena_free(&arena);
    pr_arena_free(&arena); /* empty again */
    pr_arena zero = {0};
    pr_arena_free(&zero);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_are_zeroed_aligned_and_apart),   cmocka_unit_test(many_objects_make_few_requests),
        cmocka_unit_test(a_large_object_does_not_waste_the_tail), cmocka_unit_test(text_is_copied_and_formatted),
        cmocka_unit_test(overflow_and_starvation_give_null),
    };
    return cmocka_run_group_tests_name("arena", tests, NULL, NULL);
}
