/*
 * SHA-256 of files.
 */
#ifndef PRECIS_CMD_DIGEST_H
#define PRECIS_CMD_DIGEST_H

#include "base/status.h"

enum { PR_SHA256_HEX = 65 }; /* with its terminator */

/* Lower-case hex of a file's SHA-256; a progress bar shows when it takes long. PR_ERR_CANCELLED after Ctrl-C. */
pr_status pr__sha256_file(const char *path, char hex[PR_SHA256_HEX], pr_err *err);

/* True for exactly 64 hex digits. */
bool pr__sha256_is(const char *text, size_t len);

/* PR_ERR_FORMAT, naming both sums, when the file's is not `wanted` (any case). */
pr_status pr__sha256_check(const char *path, const char *wanted, pr_err *err);

#endif
