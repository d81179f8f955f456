/*
 * Log: lines to a sink that the program chooses; silent by default, so that
 * the library never prints. Thread-safe.
 */
#ifndef PRECIS_BASE_LOG_H
#define PRECIS_BASE_LOG_H

#include "base/status.h"

typedef enum pr_log_level { PR_LOG_DEBUG, PR_LOG_INFO, PR_LOG_WARN, PR_LOG_ERROR } pr_log_level;

typedef void (*pr_log_sink)(void *arg, pr_log_level level, const char *line);

void pr_log_set(pr_log_sink sink, void *arg, pr_log_level min); /* sink NULL: silence */
bool pr_log_wants(pr_log_level level);                          /* would a line of this level reach anybody? */
void pr_log(pr_log_level level, const char *fmt, ...) PR_PRINTF(2, 3);

#endif
