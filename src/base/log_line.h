/*
 * Lines of a log: from what was logged to bytes, for machines or for people. Pure.
 *
 * What is logged is a message, or a JSON object {"event":..., ...} of one level. For machines it becomes an object with the
 * time and the log level before it. For people it becomes `TIME LEVEL EVENT key=value ...`.
 *
 * Whatever was logged, the result is one line, and without a byte that a terminal would obey; a text of someone else's cannot look
 * like a field or a line of ours, since in JSON it is a string and in text it is quoted unless it is a plain word.
 */
#ifndef PRECIS_BASE_LOG_LINE_H
#define PRECIS_BASE_LOG_LINE_H

#include <time.h>

#include "base/log.h"
#include "base/str.h"

typedef enum pr_log_format { PR_LOG_AUTO, PR_LOG_JSON, PR_LOG_TEXT } pr_log_format; /* auto: text on a terminal */
const char *pr_log_format_name(pr_log_format format);                               /* "auto", "json", "text" */
bool pr_log_format_by_name(const char *name, pr_log_format *out);

/* Append a line with its end. format: JSON or TEXT. when: since 1970. */
void pr_log_line(pr_str *out, pr_log_format format, const struct timespec *when, pr_log_level level,
                 const char *logged);

#endif
