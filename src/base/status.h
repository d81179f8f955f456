/*
 * Status and error text: the one way a failure travels.
 *
 * pr_status and pr_err are public types (precis.h). Inside, a failing function
 * ends with `return pr_fail(err, PR_ERR_..., "...")`, and its callers return
 * what they got without touching err again, or prefix it with pr_err_context().
 */
#ifndef PRECIS_BASE_STATUS_H
#define PRECIS_BASE_STATUS_H

#include "precis.h"

#define PR_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))

/* Write status and text into err (may be NULL) and return status. One line, no final newline. */
pr_status pr_fail(pr_err *err, pr_status status, const char *fmt, ...) PR_PRINTF(3, 4);

/* The same with ": strerror(errno)" appended and PR_ERR_IO, PR_ERR_NOTFOUND for ENOENT, PR_ERR_NOMEM for ENOMEM. */
pr_status pr_fail_errno(pr_err *err, const char *fmt, ...) PR_PRINTF(2, 3);

/* PR_ERR_NOMEM naming what could not be had. */
pr_status pr_fail_nomem(pr_err *err, const char *what, size_t bytes);

/* Put "context: " before the text of err (may be NULL). */
void pr_err_context(pr_err *err, const char *fmt, ...) PR_PRINTF(2, 3);

#endif
