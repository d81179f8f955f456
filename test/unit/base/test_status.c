#include "base/status.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void names_every_status(void **state) {
    (void)state;
    assert_string_equal(pr_status_name(PR_OK), "ok");
    assert_string_equal(pr_status_name(PR_ERR_NOMEM), "out of memory");
    for (int i = PR_OK; i <= PR_ERR_CANCELLED; i++) {
        assert_string_not_equal(pr_status_name((pr_status)i), "unknown status");
        for (int j = PR_OK; j < i; j++) {
            assert_string_not_equal(pr_status_name((pr_status)i), pr_status_name((pr_status)j));
        }
    }
    assert_string_equal(pr_status_name((pr_status)999), "unknown status");
}

static void fail_writes_one_line(void **state) {
    (void)state;
    pr_err err = {0};
    assert_int_equal(pr_fail(&err, PR_ERR_FORMAT, "tensor %s: %d rows", "a\nb\x1b[2J", 3), PR_ERR_FORMAT);
    assert_int_equal(err.status, PR_ERR_FORMAT);
    assert_string_equal(err.text, "tensor a\\nb\\x1b[2J: 3 rows");
    pr_fail(&err, PR_ERR_FORMAT, "%s",
            "\xc2\x9b"
            "2J \xff gr\xc3\xbc\xc3\x9f");
    assert_string_equal(err.text, "\\u009b2J \\xff gr\xc3\xbc\xc3\x9f");
    errno = ENOENT;
    pr_fail_errno(&err, "%s",
                  "a\x1b"
                  "b");
    pr_err_context(&err, "%s", "c\nd");
    assert_string_equal(err.text, "c\\nd: a\\x1b"
                                  "b: No such file or directory");
    assert_int_equal(pr_fail(NULL, PR_ERR_ARG, "nobody listens"), PR_ERR_ARG);
}

static void long_text_is_cut_and_terminated(void **state) {
    (void)state;
    char text[2000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    pr_err err;
    memset(&err, 0xff, sizeof err);
    pr_fail(&err, PR_ERR_ARG, "%s", text);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    pr_err_context(&err, "%s", text);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
}

static void errno_chooses_the_status(void **state) {
    (void)state;
    pr_err err = {0};
    errno = ENOENT;
    assert_int_equal(pr_fail_errno(&err, "%s", "x.gguf"), PR_ERR_NOTFOUND);
    assert_string_equal(err.text, "x.gguf: No such file or directory");
    errno = ENOMEM;
    assert_int_equal(pr_fail_errno(&err, "map"), PR_ERR_NOMEM);
    errno = EACCES;
    assert_int_equal(pr_fail_errno(&err, "open"), PR_ERR_IO);
    errno = EIO;
    assert_int_equal(pr_fail_errno(NULL, "open"), PR_ERR_IO);
}

static void context_goes_in_front(void **state) {
    (void)state;
    pr_err err = {0};
    pr_fail(&err, PR_ERR_LIMIT, "too long");
    pr_err_context(&err, "config.json: layer %d", 7);
    assert_int_equal(err.status, PR_ERR_LIMIT);
    assert_string_equal(err.text, "config.json: layer 7: too long");
    pr_err_context(NULL, "nobody");
}

static void nomem_names_the_thing(void **state) {
    (void)state;
    pr_err err = {0};
    assert_int_equal(pr_fail_nomem(&err, "KV pool", 4096), PR_ERR_NOMEM);
    assert_string_equal(err.text, "out of memory: KV pool (4096 bytes)");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_every_status),
        cmocka_unit_test(fail_writes_one_line),
        cmocka_unit_test(long_text_is_cut_and_terminated),
        cmocka_unit_test(errno_chooses_the_status),
        cmocka_unit_test(context_goes_in_front),
        cmocka_unit_test(nomem_names_the_thing),
    };
    return cmocka_run_group_tests_name("status", tests, NULL, NULL);
}
