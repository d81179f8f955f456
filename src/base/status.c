/*
 * Failures as values.
 *
 * A failing function writes one line into its caller's pr_err and returns the
 * status; nothing is stored elsewhere, so there is no thread-local "last error"
 * to go stale and no allocation that could itself fail. Text that comes from
 * outside (file names, tensor names, JSON) ends up in these lines, so they are
 * made safe for people: a line stays a line, and a terminal stays sane.
 */
#include "base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

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

static void write_line(pr_err *err, const char *fmt, va_list args) {
    char text[sizeof err->text];
    vsnprintf(text, sizeof text, fmt, args);
    text[pr_utf8_complete(text, strlen(text))] = '\0'; /* where a character was cut */
    pr_text_safe(err->text, sizeof err->text, text);
}

pr_status pr_fail(pr_err *err, pr_status status, const char *fmt, ...) {
    if (!err) return status;
    va_list args;
    va_start(args, fmt);
    write_line(err, fmt, args);
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
    write_line(err, fmt, args);
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
    write_line(err, fmt, args);
    va_end(args);
    size_t len = strlen(err->text);
    snprintf(err->text + len, sizeof err->text - len, ": %s", old);
}
