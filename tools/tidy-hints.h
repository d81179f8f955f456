/*
 * Read in front of every file that clang-tidy looks at, and by nothing else: its
 * analyzer sees one file at a time, so it has to be told that a failure is never
 * PR_OK.
 */
#include "base/status.h"

#define pr_fail(err, status, ...)       ((void)(pr_fail)((err), (status), __VA_ARGS__), (status))
#define pr_fail_errno(...)              ((void)(pr_fail_errno)(__VA_ARGS__), PR_ERR_IO)
#define pr_fail_nomem(err, what, bytes) ((void)(pr_fail_nomem)((err), (what), (bytes)), PR_ERR_NOMEM)
