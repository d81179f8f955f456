/*
 * Command-line flags, declared as a table.
 *
 * A command describes its flags once; parsing, --help and error messages all
 * come from that description. `--flag value` and `--flag=value` are the same,
 * `-n 5` and `-n5` too, `--` ends the flags, a single `-` is an argument.
 */
#ifndef PRECIS_CMD_ARGS_H
#define PRECIS_CMD_ARGS_H

#include "base/status.h"

enum { PR__THREADS_MAX = 256 }; /* of --threads */

typedef enum pr_flag_kind {
    PR_FLAG_BOOL, /* bool: present or not */
    PR_FLAG_U32,
    PR_FLAG_U64,
    PR_FLAG_F32,
    PR_FLAG_TEXT,  /* const char *, borrowed from argv */
    PR_FLAG_TEXTS, /* pr_flag_texts: may be repeated */
    PR_FLAG_CALL   /* parse(out, value) decides; may be repeated */
} pr_flag_kind;

/* What a repeatable flag collects; data is pr_free()d by the command. */
typedef struct pr_flag_texts {
    const char **data;
    size_t n;
} pr_flag_texts;

typedef struct pr_flag {
    const char *name; /* "max-tokens" */
    char letter;      /* 'n', or 0 */
    pr_flag_kind kind;
    const char *value; /* what --help calls the value: "N"; NULL for PR_FLAG_BOOL */
    const char *help;  /* a few words; NULL leaves the flag out of --help */
    void *out;         /* where the value goes; what stands there is the default */
    pr_status (*parse)(void *out, const char *value, pr_err *err); /* PR_FLAG_CALL */
    bool *given;                                                   /* set when the flag was written; may be NULL */
} pr_flag;

/* Flags that belong together in --help: a line each, or run together in a paragraph. */
typedef struct pr_flag_group {
    const char *title;
    const pr_flag *flags;
    size_t n;
    bool paragraph;
} pr_flag_group;

typedef struct pr_usage {
    const char *name;     /* "run" */
    const char *synopsis; /* "MODEL [PROMPT]" */
    const char *about;    /* lines of at most 80 columns */
    const pr_flag_group *groups;
    size_t n_groups;
    int args_min, args_max;
} pr_usage;

typedef struct pr_args {
    const char **arg; /* [n] what is not a flag, moved to the front of argv */
    int n;
    bool help; /* --help or -h was written: nothing else was checked after it */
} pr_args;

/* Parse argv[0..argc), which begins after the command's name; argv is reordered.
 * PR_ERR_ARG names the flag at fault, with the nearest known one. */
pr_status pr__args_parse(const pr_usage *usage, int argc, const char **argv, pr_args *out, pr_err *err);

/* --help on stdout: fits 80 columns and, for every command, 24 lines. */
void pr__args_help(const pr_usage *usage);

/* Of names[0..n) the one most like text, or NULL when none is near. */
const char *pr__args_nearest(const char *text, const char *const *names, size_t n);

#endif
