/*
 * API keys: who may ask, and how much.
 *
 * A keys file has one key a line, "#" comments and blank lines aside:
 *     NAME SHA256HEX [rpm=N] [concurrent=N]
 * NAME is 1 to 64 letters, digits, '.', '_' and '-', used in logs; SHA256HEX is the hash of the key itself, as
 * `printf %s KEY | sha256sum` prints it: the file does not hold what opens the door. rpm: requests a minute, as a token
 * bucket that holds a minute's worth; concurrent: requests at the same time. Without them there is no limit.
 *
 * Threads: everything here is thread-safe, except that pr_keys_close() must come last.
 */
#ifndef PRECIS_HTTP_KEYS_H
#define PRECIS_HTTP_KEYS_H

#include "base/status.h"

typedef struct pr_keys pr_keys;
typedef struct pr_key pr_key; /* owned by its pr_keys */

/* Parse text; what names the source in errors. PR_ERR_FORMAT names the line. A file without any key is refused. */
pr_status pr_keys_parse(const char *text, size_t len, const char *what, pr_keys **out, pr_err *err);
pr_status pr_keys_load(const char *path, pr_keys **out, pr_err *err);
void pr_keys_close(pr_keys *keys);
size_t pr_keys_count(pr_keys *keys);

/* Read the file again: keys that are new in it open from now on, keys that are not in it any more do not, what runs goes
 * on. On an error everything stays as it was. */
pr_status pr_keys_reload(pr_keys *keys, const char *path, pr_err *err);

/* The key whose secret this is, or NULL. Hashes the token and compares it with every entry, all in constant time. */
pr_key *pr_keys_find(pr_keys *keys, const char *token, size_t len);
const char *pr_key_name(const pr_key *key);

/* Take one request at time `now` (seconds, monotonic) and a place among those at the same time: true, to be followed by
 * pr_key_release(). Otherwise false, nothing taken, and *retry_after is when to try again, in whole seconds >= 1. */
bool pr_key_admit(pr_key *key, double now, uint32_t *retry_after);
void pr_key_release(pr_key *key);

#endif
