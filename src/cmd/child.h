/*
 * Running another program and reading what it says.
 */
#ifndef PRECIS_CMD_CHILD_H
#define PRECIS_CMD_CHILD_H

#include "base/status.h"
#include "base/str.h"

typedef struct pr_child_result {
    int code;    /* exit code; 128 + signal when a signal ended it */
    pr_str said; /* stdout and stderr together, the last 64 kB; pr_str_free() it */
} pr_child_result;

/* Run argv (argv[0] is looked up in PATH, NULL ends the list) with its input closed, and wait. env, when not NULL,
 * is one "NAME=value" put into its environment. tick, when not NULL, is called about five times a second. After
 * Ctrl-C the program is ended and the answer is PR_ERR_CANCELLED. PR_ERR_NOTFOUND when there is no such program. */
pr_status pr__child_run(const char *const *argv, const char *env, void (*tick)(void *arg), void *arg,
                        pr_child_result *out, pr_err *err);

/* Start the program at path with argv in a session of its own at the lowest priority, its input closed, its output appended to out_fd, which it
 * inherits and holds until it ends; do not wait. It goes on when we end. */
pr_status pr__child_detach(const char *path, const char *const *argv, int out_fd, pr_err *err);

#endif
