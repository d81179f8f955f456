/*
 * Asking a running server something, over HTTP as anybody would.
 */
#ifndef PRECIS_CMD_CLIENT_H
#define PRECIS_CMD_CLIENT_H

#include "base/json.h"
#include "base/status.h"

/* GET url/path within `seconds`, straight and never through a proxy; *out is parsed JSON (json_decref() it), NULL on error.
 * key: NULL for none. PR_ERR_ARG: it wants a key; PR_ERR_IO: it cannot be reached, or answers something else than 200. */
pr_status pr__client_get(const char *url, const char *path, const char *key, double seconds, json_t **out, pr_err *err);

/* Ask for /health, which every server answers, to anybody, whatever it is busy with. */
pr_status pr__client_health(const char *url, double seconds, pr_err *err);

#endif
