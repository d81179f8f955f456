/*
 * Failures as values.
 *
 * A failing function writes one line into its caller's pr_err and returns the
 * status; nothing is stored elsewhere, so there is no thread-local "last error"
 * to go stale and no allocation that could itself fail. Text that comes from
 * outside (file names, tensor names, JSON) ends up in these lines, so control
 * characters are replaced: a line stays a line, and a terminal stays sane.
 */
#include "base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *pr_status_name(pr_status status) {
    switch (status) {
    case PR_OK: return "ok";
    case PR_ERR_ARG: return "bad argument";
    case PR_ERR_NOMEM: return "out of memory";
    case PR_ERR_IO: return "input/output error";
    case PR_ERR_FORMAT: return "malformed data";
    case PR_ERR_UNSUPPORTED: return "unsupported";
    case PR_ERR_LIMIT: return "over a limit";
    case PR_ERR_NOTFOUND: return "not found";
    case PR_ERR_CANCELLED: return "cancelled";
    }
    return "unknown status";
}

/* Bytes from 0x80 up are left alone: they are UTF-8, or the reader's problem. */
static void clean_line(char *text) {
    for (char *c = text; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = ' ';
    }
}

static void append_format(pr_err *err, size_t at, const char *fmt, va_list args) {
    if (at < sizeof err->text) vsnprintf(err->text + at, sizeof err->text - at, fmt, args);
    clean_line(err->text);
}

pr_status pr_fail(pr_err *err, pr_status status, const char *fmt, ...) {
    if (!err) return status;
    va_list args;
    va_start(args, fmt);
    append_format(err, 0, fmt, args);
    va_end(args);
    err->status = status;
    return status;
}

static pr_status status_of_errno(int code) {
    if (code == ENOENT) return PR_ERR_NOTFOUND;
    if (code == ENOMEM) return PR_ERR_NOMEM;
    return PR_ERR_IO;
}

pr_status pr_fail_errno(pr_err *err, const char *fmt, ...) {
    int code = errno;
    pr_status status = status_of_errno(code);
    if (!err) return status;
    va_list args;
    va_start(args, fmt);
    append_format(err, 0, fmt, args);
    va_end(args);
    size_t len = strlen(err->text);
    snprintf(err->text + len, sizeof err->text - len, ": %s", strerror(code));
    err->status = status;
    return status;
}

pr_status pr_fail_nomem(pr_err *err, const char *what, size_t bytes) {
    return pr_fail(err, PR_ERR_NOMEM, "out of memory: %s (%zu bytes)", what, bytes);
}

void pr_err_context(pr_err *err, const char *fmt, ...) {
    if (!err) return;
    char old[sizeof err->text];
    memcpy(old, err->text, sizeof old);
    va_list args;
    va_start(args, fmt);
    append_format(err, 0, fmt, args);
    va_end(args);
    size_t len = strlen(err->text);
    snprintf(err->text + len, sizeof err->text - len, ": %s", old);
}
