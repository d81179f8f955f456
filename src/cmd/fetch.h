/*
 * Fetching one file over http, https or from file://, so that it can be
 * interrupted at any moment and taken up again.
 */
#ifndef PRECIS_CMD_FETCH_H
#define PRECIS_CMD_FETCH_H

#include "base/status.h"

typedef struct pr_fetch_ask {
    const char *url;
    const char *path;       /* final name; its folder exists */
    const char *label;      /* for the progress bar */
    const char *bearer;     /* token for the host in url and no other; NULL: none */
    const char *sha256;     /* expected, or NULL */
    const char *magic;      /* first bytes the file must have, or NULL: anything */
    uint32_t retries;       /* after a failure that may pass: cut, busy, too slow */
    uint32_t stall_seconds; /* give up on a connection that brings nothing for so long */
} pr_fetch_ask;

typedef struct pr_fetch_got {
    uint64_t bytes;
    uint64_t resumed_at; /* bytes that were there already */
    bool checked;        /* a SHA-256, asked for or announced by the server, was right */
} pr_fetch_got;

/* On success ask->path is the whole file. On failure it is untouched; err says what to do, and whether a part is kept.
 * PR_ERR_CANCELLED after Ctrl-C. */
pr_status pr__fetch(const pr_fetch_ask *ask, pr_fetch_got *got, pr_err *err);

/* The last part of url's path, decoded, made fit to be a file name (no "/", no control characters, no leading dot),
 * into a pr_alloc()ed text. PR_ERR_ARG when nothing is left. */
pr_status pr__fetch_name(const char *url, char **out, pr_err *err);
/* The same cleaning for a name that is no URL. */
pr_status pr__fetch_clean_name(const char *name, char **out, pr_err *err);

#endif
