/*
 * Run files: how `precis ps` and `precis stop` find a running server.
 *
 * A server writes serve-PORT.json into $XDG_RUNTIME_DIR/precis, or the folder "run" beside the model folder, and holds a
 * lock on it while it lives: a file whose lock can be had belongs to nobody, whatever process has that number by now.
 * The system's own service has its file in /run/precis, where everybody looks who may read it.
 */
#ifndef PRECIS_CMD_RUNFILE_H
#define PRECIS_CMD_RUNFILE_H

#include "base/status.h"

typedef struct pr_runfile pr_runfile;

pr_status pr__runfile_write(const char *url, uint16_t port, pr_runfile **out, pr_err *err);
void pr__runfile_remove(pr_runfile *file); /* NULL allowed */

typedef struct pr_running {
    long pid;
    uint16_t port;
    bool system; /* the system's service */
    char url[288];
} pr_running;

/* Servers that run, into out[max], this user's first; files that nobody holds are removed. Returns how many. */
size_t pr__runfile_list(pr_running *out, size_t max);

#endif
