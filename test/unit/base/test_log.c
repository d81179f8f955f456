#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

typedef struct heard {
    int n;
    pr_log_level level;
    char line[256];
    size_t len;
} heard;

static void listen(void *arg, pr_log_level level, const char *line) {
    heard *h = arg;
    h->n++;
    h->level = level;
    snprintf(h->line, sizeof h->line, "%s", line);
    h->len = strlen(line);
}

static void silent_by_default_and_again_at_the_end(void **state) {
    (void)state;
    heard h = {0};
    pr_log(PR_LOG_ERROR, "nobody hears this");
    pr_log_set(listen, &h, PR_LOG_DEBUG);
    pr_log_set(NULL, NULL, PR_LOG_DEBUG);
    pr_log(PR_LOG_ERROR, "nor this");
    assert_int_equal(h.n, 0);
}

static void lines_from_the_least_level_up(void **state) {
    (void)state;
    heard h = {0};
    pr_log_set(listen, &h, PR_LOG_INFO);
    pr_log(PR_LOG_DEBUG, "too quiet");
    assert_int_equal(h.n, 0);
    pr_log(PR_LOG_INFO, "loaded %d tensors", 271);
    assert_int_equal(h.n, 1);
    assert_int_equal(h.level, PR_LOG_INFO);
    assert_string_equal(h.line, "loaded 271 tensors");
    pr_log(PR_LOG_ERROR, "gone");
    assert_int_equal(h.n, 2);
    assert_int_equal(h.level, PR_LOG_ERROR);
    pr_log_set(NULL, NULL, PR_LOG_DEBUG);
}

static void a_long_line_is_whole(void **state) {
    (void)state;
    heard h = {0};
    char text[5000];
    memset(text, 'y', sizeof text);
    text[sizeof text - 1] = '\0';
    pr_log_set(listen, &h, PR_LOG_DEBUG);
    pr_log(PR_LOG_WARN, "%s", text);
    assert_int_equal(h.n, 1);
    assert_int_equal(h.len, sizeof text - 1);
    pr_log_set(NULL, NULL, PR_LOG_DEBUG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(silent_by_default_and_again_at_the_end),
        cmocka_unit_test(lines_from_the_least_level_up),
        cmocka_unit_test(a_long_line_is_whole),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
