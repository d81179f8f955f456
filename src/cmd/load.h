/*
 * The flags of every command that loads a model, and loading with a progress bar.
 */
#ifndef PRECIS_CMD_LOAD_H
#define PRECIS_CMD_LOAD_H

#include "cmd/args.h"
#include "governor/settings.h"

enum { PR_LOAD_FLAGS = 11 };

typedef struct pr_load {
    pr_engine_opts opts;
    uint32_t threads;
    size_t memory; /* --memory: for the whole process; 0: no limit */
    bool serves;   /* set it before pr__load_check(): the model is loaded to be used, as the server does it */
    bool kv_given, memory_from_environment, environment_read;
    char chat_template[PR_SETTING_TEXT]; /* of PRECIS_TEMPLATE: opts.chat_template */
    pr_flag flags[PR_LOAD_FLAGS];
} pr_load;

/* Of a flag --cpumask, into a uint32_t: "avx2,avx512", "scalar", or the bits as a number. */
pr_status pr__parse_cpumask(void *out, const char *value, pr_err *err);

/* Zero the options and fill the flag table; the returned group points into load. */
pr_flag_group pr__load_flags(pr_load *load);

/* Hold the options against the file at path: --level and --weights-budget want an elastic model, and with --memory the
 * predicted peak must fit. When it does not and no level was given, the largest budget that does is put into
 * load->opts.weights_budget. PR_ERR_LIMIT has the numbers. Cheap when none of the three was given. */
pr_status pr__load_fit(pr_load *load, const char *path, pr_err *err);
/* True when --level, --weights-budget or --memory was given: a model that can move is wanted. */
bool pr__load_wants_elastic(const pr_load *load);

/* Resolve MODEL and open it with load->opts; a bar shows on a terminal while it loads. */
pr_status pr__load_open(pr_load *load, const char *model, pr_engine **out, pr_err *err);
/* The same for a path that is resolved already. */
pr_status pr__load_open_path(pr_load *load, const char *path, pr_engine **out, pr_err *err);

/* Flags that need no model: --threads into opts.n_threads, --level against --weights-budget; and for what no flag was given,
 * the server's settings of the environment: PRECIS_KV_CACHE_TYPE, and with `serves` PRECIS_CONTEXT_LENGTH, PRECIS_MEMORY and
 * PRECIS_TEMPLATE. Call it when load is used without pr__load_open(). */
pr_status pr__load_check(pr_load *load, pr_err *err);

#endif
