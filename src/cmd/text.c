/*
 * Text in and out.
 *
 * JSON is written by appending to one string: the objects here have a dozen
 * fields, and a tree that is built to be printed once would be more code than
 * the commas it saves. A comma is due when the last character is neither an
 * opening bracket nor the colon of a key; that is all the state there is.
 * Numbers never pass through the locale.
 */
#include "cmd/text.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

char *pr__format_count(char *buf, size_t len, uint64_t n) {
    if (n == 0) snprintf(buf, len, "-");
    else if (n < 1000) snprintf(buf, len, "%u", (unsigned)n);
    else if (n < 1000000) snprintf(buf, len, "%uk", (unsigned)((n + 500) / 1000));
    else if (n < 1000000000) snprintf(buf, len, "%u.%uM", (unsigned)(n / 1000000), (unsigned)(n / 100000 % 10));
    else snprintf(buf, len, "%u.%02uB", (unsigned)(n / 1000000000), (unsigned)(n / 10000000 % 100));
    return buf;
}

void pr__json_open(pr_str *s) { pr_str_puts(s, "{"); }

void pr__json_close(pr_str *s) { pr_str_puts(s, "}"); }

void pr__json_key(pr_str *s, const char *key) {
    if (s->len > 0 && s->data[s->len - 1] != '{') pr_str_puts(s, ", ");
    pr_str_json(s, key, strlen(key));
    pr_str_puts(s, ": ");
}

void pr__json_text(pr_str *s, const char *key, const char *text) {
    pr__json_key(s, key);
    pr_str_json(s, text, strlen(text));
}

void pr__json_u64(pr_str *s, const char *key, uint64_t n) {
    pr__json_key(s, key);
    pr_str_printf(s, "%llu", (unsigned long long)n);
}

void pr__json_f64(pr_str *s, const char *key, double x) {
    pr__json_key(s, key);
    if (isfinite(x)) pr_str_printf(s, "%.9g", x);
    else pr_str_puts(s, "null");
}

void pr__json_bool(pr_str *s, const char *key, bool b) {
    pr__json_key(s, key);
    pr_str_puts(s, b ? "true" : "false");
}

int pr__text_columns(const char *text) {
    size_t len = strlen(text);
    int columns = 0;
    for (size_t i = 0; i < len;) {
        int32_t cp;
        i += pr_utf8_decode(text + i, len - i, &cp);
        int width = cp < 0 ? 0 : wcwidth((wchar_t)cp);
        columns += width > 0 ? width : 0;
    }
    return columns;
}

void pr__text_pad(pr_str *s, const char *text, int columns) {
    int left = columns - pr__text_columns(text);
    pr_str_puts(s, text);
    if (left > 0) pr_str_printf(s, "%*s", left, "");
}

pr_status pr__text_stdin(size_t bytes_max, char **out, size_t *len, pr_err *err) {
    char buf[16384];
    pr_str s = {0};
    *out = NULL;
    for (;;) {
        ssize_t n = read(STDIN_FILENO, buf, sizeof buf);
        if (n == 0) break;
        if (n < 0) {
            pr_str_free(&s);
            if (errno == EINTR) return pr_fail(err, PR_ERR_CANCELLED, "stopped");
            return pr_fail_errno(err, "standard input");
        }
        pr_str_append(&s, buf, (size_t)n);
        if (s.len > bytes_max || !pr_str_ok(&s)) break;
    }
    size_t size = s.len;
    if (size > bytes_max) {
        pr_str_free(&s);
        return pr_fail(err, PR_ERR_LIMIT, "standard input: more than %zu bytes", bytes_max);
    }
    *out = pr_str_take(&s);
    *len = size;
    return *out ? PR_OK : pr_fail_nomem(err, "standard input", size);
}

pr_status pr__text_check(const char *what, const char *text, size_t len, pr_err *err) {
    for (size_t i = 0; i < len;) {
        int32_t cp;
        size_t n = pr_utf8_decode(text + i, len - i, &cp);
        if (cp < 0)
            return pr_fail(err, PR_ERR_ARG, "%s is not valid UTF-8: byte 0x%02x at %zu", what,
                           (unsigned)(unsigned char)text[i], i);
        if (cp == 0) return pr_fail(err, PR_ERR_ARG, "%s holds a zero byte at %zu", what, i);
        i += n;
    }
    return PR_OK;
}
