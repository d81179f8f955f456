#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"

static json_t *parse(const char *text) {
    json_t *root = NULL;
    pr_err err = {0};
    if (pr_json_parse(text, strlen(text), "test", &root, &err) != PR_OK) fail_msg("%s", err.text);
    return root;
}

static void documents_are_in_the_ledger(void **state) {
    (void)state;
    size_t before = pr_mem_bytes(PR_TAG_JSON);
    json_t *root = parse("{\"a\": [1, 2, {\"b\": \"text\"}]}");
    assert_true(pr_mem_bytes(PR_TAG_JSON) > before);
    json_decref(root);
    assert_int_equal(pr_mem_bytes(PR_TAG_JSON), before);
}

static void errors_say_where(void **state) {
    (void)state;
    json_t *root = (json_t *)1;
    pr_err err = {0};
    const char *text = "{\n  \"a\": 1,\n  oops\n}";
    assert_int_equal(pr_json_parse(text, strlen(text), "config.json", &root, &err), PR_ERR_FORMAT);
    assert_null(root);
    assert_non_null(strstr(err.text, "config.json: line 3, column "));
    assert_int_equal(pr_json_parse("", 0, "empty", &root, &err), PR_ERR_FORMAT);
    assert_int_equal(pr_json_parse("{\"a\":1}x", 8, "tail", &root, &err), PR_ERR_FORMAT);
    assert_int_equal(pr_json_parse("\"\xff\"", 3, "bytes", &root, &err), PR_ERR_FORMAT);
    assert_int_equal(pr_json_parse("[\"\\u0000\"]", 10, "nul", &root, &err), PR_ERR_FORMAT);
    assert_non_null(strstr(err.text, "may not hold \\u0000"));
}

static void deep_nesting_is_refused(void **state) {
    (void)state;
    enum { DEPTH = 100000 };
    char *text = pr_alloc(PR_TAG_MISC, DEPTH);
    assert_non_null(text);
    memset(text, '[', DEPTH);
    json_t *root;
    pr_err err = {0};
    assert_int_equal(pr_json_parse(text, DEPTH, "deep", &root, &err), PR_ERR_FORMAT);
    pr_free(text);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    const char *text = "{\"model\": {\"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [\"a b\"]}, \"x\": 1.5}";
    size_t before = pr_mem_bytes(PR_TAG_JSON);
    for (int64_t n = 0;; n++) {
        json_t *root;
        pr_err err = {0};
        pr_mem_fail_after(n, false);
        pr_status status = pr_json_parse(text, strlen(text), "t", &root, &err);
        bool failed = pr_mem_failed();
        pr_mem_fail_after(-1, false);
        if (status == PR_OK) json_decref(root);
        else assert_int_equal(status, PR_ERR_NOMEM);
        assert_int_equal(pr_mem_bytes(PR_TAG_JSON), before);
        if (!failed) {
            assert_int_equal(status, PR_OK);
            assert_true(n > 10);
            return;
        }
    }
}

static void fields_are_typed(void **state) {
    (void)state;
    json_t *root = parse("{\"n\": 32, \"big\": 4294967295, \"over\": 4294967296, \"neg\": -1, \"f\": 1e-5, \"t\": true,"
                         " \"s\": \"llama\", \"null\": null}");
    pr_err err = {0};
    uint32_t n = 7;
    double f = 0.5;
    bool b = false;
    const char *s = "default";
    assert_int_equal(pr_json_u32(root, "n", &n, &err), PR_OK);
    assert_int_equal(n, 32);
    assert_int_equal(pr_json_u32(root, "big", &n, &err), PR_OK);
    assert_int_equal(n, UINT32_MAX);
    n = 7;
    assert_int_equal(pr_json_u32(root, "absent", &n, &err), PR_OK);
    assert_int_equal(pr_json_u32(root, "over", &n, &err), PR_ERR_FORMAT);
    assert_int_equal(pr_json_u32(root, "neg", &n, &err), PR_ERR_FORMAT);
    assert_int_equal(pr_json_u32(root, "f", &n, &err), PR_ERR_FORMAT);
    assert_int_equal(pr_json_u32(root, "null", &n, &err), PR_ERR_FORMAT);
    assert_non_null(strstr(err.text, "\"null\""));
    assert_int_equal(n, 7);
    assert_int_equal(pr_json_f64(root, "f", &f, &err), PR_OK);
    assert_true(f == 1e-5);
    assert_int_equal(pr_json_f64(root, "n", &f, &err), PR_OK);
    assert_true(f == 32);
    assert_int_equal(pr_json_f64(root, "s", &f, &err), PR_ERR_FORMAT);
    assert_int_equal(pr_json_bool(root, "t", &b, &err), PR_OK);
    assert_true(b);
    assert_int_equal(pr_json_bool(root, "n", &b, &err), PR_ERR_FORMAT);
    assert_int_equal(pr_json_str(root, "absent", &s, &err), PR_OK);
    assert_string_equal(s, "default");
    assert_int_equal(pr_json_str(root, "s", &s, &err), PR_OK);
    assert_string_equal(s, "llama");
    assert_int_equal(pr_json_str(root, "t", &s, &err), PR_ERR_FORMAT);
    json_decref(root);
}

static void files_are_bounded(void **state) {
    (void)state;
    char path[] = "/tmp/precis-test-json-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "{\"a\": 5}", 8), 8);
    close(fd);
    json_t *root;
    pr_err err = {0};
    uint32_t a = 0;
    assert_int_equal(pr_json_load(path, 8, &root, &err), PR_OK);
    assert_int_equal(pr_json_u32(root, "a", &a, &err), PR_OK);
    assert_int_equal(a, 5);
    json_decref(root);
    assert_int_equal(pr_json_load(path, 7, &root, &err), PR_ERR_LIMIT);
    assert_null(root);
    assert_non_null(strstr(err.text, path));
    unlink(path);
    assert_int_equal(pr_json_load(path, 7, &root, &err), PR_ERR_NOTFOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_are_in_the_ledger),
        cmocka_unit_test(errors_say_where),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(fields_are_typed),
        cmocka_unit_test(files_are_bounded),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
