/*
 * Part file: a download that is not complete yet.
 *
 * NAME.part holds the bytes so far and NAME.part.json what they are part of:
 * the address and the server's mark of the version (ETag, Last-Modified). The
 * file takes its final name in one rename, when it is whole and synced. A lock
 * keeps a second process away.
 */
#ifndef PRECIS_CMD_PART_H
#define PRECIS_CMD_PART_H

#include "base/status.h"

typedef struct pr_part {
    char *final_path, *path, *note_path;
    int fd;            /* -1: closed */
    uint64_t size;     /* bytes so far */
    char etag[256];    /* a strong one, with its quotes, or "" */
    char modified[64]; /* Last-Modified, or "" */
} pr_part;

/* Open or create, and lock. What is there is kept when its note says that it comes from `source`, with an etag or a
 * date to resume by; otherwise the part starts empty. On failure *part holds nothing. */
pr_status pr__part_open(pr_part *part, const char *final_path, const char *source, pr_err *err);

/* Start again from nothing. */
pr_status pr__part_reset(pr_part *part, pr_err *err);

/* Write the note: etag and modified as they stand in part. */
pr_status pr__part_note(const pr_part *part, const char *source, pr_err *err);

/* Append. A full disk is PR_ERR_IO with a text that says what is kept; what was written before stays. */
pr_status pr__part_write(pr_part *part, const void *data, size_t len, pr_err *err);

/* Sync, rename to the final name, remove the note. The part is closed. */
pr_status pr__part_finish(pr_part *part, pr_err *err);

/* Close; with `remove` the part and its note are deleted. Accepts a closed part. */
void pr__part_close(pr_part *part, bool remove);

/* fsync the folder that holds path, so that a rename in it survives a power cut. Failure is not an error. */
void pr__sync_folder(const char *path);

#endif
