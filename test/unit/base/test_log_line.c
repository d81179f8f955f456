/*
 * Lines of a log: both formats, and texts that try to be more than a text.
 */
#include "base/log_line.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"

static const struct timespec when = {1790000000, 7 * 1000000};
#define TIME "2026-09-21T14:13:20.007Z"

static void check(pr_log_format format, pr_log_level level, const char *logged, const char *want) {
    pr_str s = {0};
    pr_log_line(&s, format, &when, level, logged);
    assert_true(pr_str_ok(&s));
    assert_string_equal(s.data, want);
    pr_str_free(&s);
}

static void for_machines(void **state) {
    (void)state;
    check(PR_LOG_JSON, PR_LOG_INFO, "{\"event\":\"x\",\"n\":1}",
          "{\"time\":\"" TIME "\",\"log\":\"info\",\"event\":\"x\",\"n\":1}\n");
    check(PR_LOG_JSON, PR_LOG_WARN, "a \"b\"\nc",
          "{\"time\":\"" TIME "\",\"log\":\"warn\",\"message\":\"a \\\"b\\\"\\nc\"}\n");
    check(PR_LOG_JSON, PR_LOG_ERROR, "{not json",
          "{\"time\":\"" TIME "\",\"log\":\"error\",\"message\":\"{not json\"}\n");
}

static void for_people(void **state) {
    (void)state;
    check(PR_LOG_TEXT, PR_LOG_INFO,
          "{\"event\":\"request\",\"path\":\"/v1/models/"
          "{model*}\",\"status\":200,\"seconds\":0.029410,\"key\":\"\",\"gone\":false,"
          "\"route\":null,\"levels\":[\"int4\"],\"why\":\"two words\"}",
          TIME " info  request path=/v1/models/{model*} status=200 seconds=0.02941 gone=false levels=[\"int4\"] "
               "why=\"two words\"\n");
    check(PR_LOG_TEXT, PR_LOG_WARN, "plain", TIME " warn  \"plain\"\n");
}

/* Every byte in every place: one line, printable, and in JSON the very text again. */
static void nothing_gets_out(void **state) {
    (void)state;
    for (int c = 1; c < 256; c++) {
        char text[] = {'a', (char)c, '\x9b', '\xc2', '\x85', '\xe2', '\x80', '\xae', '"', ' ', 'x', '=', '1', '\0'};
        pr_str logged = {0}, s = {0};
        json_t *doc = NULL;
        pr_str_puts(&logged, "{\"event\":\"request\",\"path\":");
        pr_str_json(&logged, text, strlen(text));
        pr_str_puts(&logged, "}");
        pr_log_line(&s, PR_LOG_TEXT, &when, PR_LOG_INFO, logged.data);
        for (size_t i = 0; i + 1 < s.len; i++) assert_true(s.data[i] >= ' ' && s.data[i] < 127);
        assert_int_equal(s.data[s.len - 1], '\n');
        assert_non_null(strstr(s.data, "\\\" x=1\"")); /* within the quotes: not a field of its own */
        pr_str_clear(&s);
        pr_log_line(&s, PR_LOG_JSON, &when, PR_LOG_INFO, logged.data);
        assert_ptr_equal(strchr(s.data, '\n'), s.data + s.len - 1);
        assert_int_equal(pr_json_parse(s.data, s.len, "line", &doc, NULL), PR_OK);
        assert_string_equal(json_string_value(json_object_get(doc, "event")), "request");
        json_decref(doc);
        pr_str_clear(&s);
        pr_log_line(&s, PR_LOG_TEXT, &when, PR_LOG_INFO, text); /* a message */
        for (size_t i = 0; i + 1 < s.len; i++) assert_true(s.data[i] >= ' ' && s.data[i] < 127);
        pr_str_free(&logged);
        pr_str_free(&s);
    }
}

static void formats_have_names(void **state) {
    (void)state;
    pr_log_format f = PR_LOG_AUTO;
    assert_true(pr_log_format_by_name("text", &f) && f == PR_LOG_TEXT);
    assert_true(pr_log_format_by_name(pr_log_format_name(PR_LOG_JSON), &f) && f == PR_LOG_JSON);
    assert_false(pr_log_format_by_name("xml", &f));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(for_machines),
        cmocka_unit_test(for_people),
        cmocka_unit_test(nothing_gets_out),
        cmocka_unit_test(formats_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
