#include "http/sse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void check_data(const char *json, const char *want) {
    pr_str s = {0};
    pr_sse_data(&s, json, strlen(json));
    assert_string_equal(s.data, want);
    pr_str_free(&s);
}

static void frames_data(void **state) {
    (void)state;
    check_data("{\"a\":1}", "data: {\"a\":1}\n\n");
    check_data("", "data: \n\n");
    check_data("a\nb", "data: a\ndata: b\n\n");
    check_data("a\n", "data: a\ndata: \n\n");
}

static void frames_deltas(void **state) {
    (void)state;
    pr_str s = {0}, head = {0}, tail = {0};
    pr_str_puts(&head, "{\"delta\":{\"content\":");
    pr_str_puts(&tail, "}}");
    pr_sse_delta(&s, &head, "a\n\"\\\x01\xe2\x80\xa8\xff!", 10, &tail);
    pr_sse_done(&s);
    assert_true(pr_str_ok(&s));
    assert_string_equal(s.data, "data: {\"delta\":{\"content\":\"a\\n\\\"\\\\\\u0001\\u2028\xef\xbf\xbd!\"}}\n\n"
                                "data: [DONE]\n\n");
    pr_str_free(&s);
    pr_str_free(&head);
    pr_str_free(&tail);
}

/* Every byte at every place of the eight that are looked at together. */
static void escapes_the_same_at_every_place(void **state) {
    (void)state;
    for (int byte = 0; byte < 256; byte++) {
        char one = (char)byte;
        pr_str want = {0};
        pr_str_json(&want, &one, 1);
        for (size_t at = 0; at < 17; at++) {
            char text[17];
            memset(text, 'x', sizeof text);
            text[at] = one;
            pr_str got = {0};
            pr_str_json(&got, text, sizeof text);
            assert_int_equal(got.len, 16 + want.len);
            assert_memory_equal(got.data + 1 + at, want.data + 1, want.len - 2);
            assert_int_equal(got.data[got.len - 2], at == 16 ? want.data[want.len - 2] : 'x');
            pr_str_free(&got);
        }
        pr_str_free(&want);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_data),
        cmocka_unit_test(frames_deltas),
        cmocka_unit_test(escapes_the_same_at_every_place),
    };
    return cmocka_run_group_tests_name("sse", tests, NULL, NULL);
}
