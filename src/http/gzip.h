/*
 * gzip for replies: whether a client takes it, whether it is worth it, and doing it.
 *
 * Threads: all functions are thread-safe.
 */
#ifndef PRECIS_HTTP_GZIP_H
#define PRECIS_HTTP_GZIP_H

#include "base/status.h"

/* Does a client with this Accept-Encoding (NULL: none was sent) take gzip? What cannot be read means no (RFC 9110, 12.5.3). */
bool pr_http_gzip_accepted(const char *field);

/* Is a reply of this type (may be NULL) and length smaller afterwards by enough to matter? Text of 1 KiB and more; never an
 * event stream. */
bool pr_http_gzip_worth(const char *type, size_t len);

/* Compress at zlib's level 1, which costs about 10 ns a byte. *out for pr_free(). PR_ERR_NOMEM; PR_ERR_LIMIT: it would not
 * be smaller. */
pr_status pr_http_gzip(const void *data, size_t len, void **out, size_t *out_len);

#endif
