/*
 * The flags of every command that loads a model, and loading with a progress bar.
 */
#ifndef PRECIS_CMD_LOAD_H
#define PRECIS_CMD_LOAD_H

#include "cmd/args.h"

enum { PR_LOAD_FLAGS = 7 };

typedef struct pr_load {
    pr_engine_opts opts;
    uint32_t threads;
    pr_flag flags[PR_LOAD_FLAGS];
} pr_load;

/* Zero the options and fill the flag table; the returned group points into load. */
pr_flag_group pr__load_flags(pr_load *load);

/* Resolve MODEL and open it with load->opts; a bar shows on a terminal while it loads. */
pr_status pr__load_open(pr_load *load, const char *model, pr_engine **out, pr_err *err);

/* pr_engine_opts.n_threads from --threads: call it when load is used without pr__load_open(). */
pr_status pr__load_check(pr_load *load, pr_err *err);

#endif
