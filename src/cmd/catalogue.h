/*
 * The models a server offers: those it was given, or all that are in the model folder.
 *
 * A model goes by the name of its file without ".gguf". A companion (NAME.planes.gguf) is not a model of its own: it is
 * what is opened when NAME is asked for, since a server wants models that move. Names from clients are looked up here and
 * never become paths.
 *
 * Threads: everything but open and close is thread-safe.
 */
#ifndef PRECIS_CMD_CATALOGUE_H
#define PRECIS_CMD_CATALOGUE_H

#include "api/api.h"

typedef struct pr_catalogue pr_catalogue;

/* given: [n] as on a command line; none: the folder, looked at again when a name is not known. PR_ERR_NOTFOUND names the
 * one that cannot be found. */
pr_status pr__catalogue_open(const char *const *given, size_t n, pr_catalogue **out, pr_err *err);
void pr__catalogue_close(pr_catalogue *c);
/* The same, as the API asks for it. */
pr_api_models pr__catalogue_models(pr_catalogue *c);
/* The file that would be opened for a name; *path for pr_free(). */
pr_status pr__catalogue_path(pr_catalogue *c, const char *name, char **path, pr_err *err);

#endif
