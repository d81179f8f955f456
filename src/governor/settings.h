/*
 * Settings: what an operator may choose, by name.
 *
 * A setting is given by flag, environment variable or configuration file; the flag wins over the environment, the
 * environment over the file. An empty environment variable is as if it were not there. Every error names the setting and
 * where its value stood. docs/GOVERNOR.md lists them.
 *
 * The file: lines `NAME = value` of at most 190 bytes, NAME as in the environment or as the flag, in any case, comments
 * from # or ; at the start of a line, or after " ;". A section [precis] is allowed and means nothing; in a section [alerts]
 * each line is a rule and its name, `NAME = RULE`. What is unknown or written twice is an error.
 */
#ifndef PRECIS_GOVERNOR_SETTINGS_H
#define PRECIS_GOVERNOR_SETTINGS_H

#include "base/log_line.h"
#include "governor/policy.h"

enum { PR_SETTING_TEXT = 1024, PR_SETTING_COUNT = 30 };

typedef enum pr_setting_origin { PR_FROM_DEFAULT, PR_FROM_FILE, PR_FROM_ENVIRONMENT, PR_FROM_FLAG } pr_setting_origin;
const char *pr_setting_origin_name(pr_setting_origin origin); /* "default", "file", "environment", "flag" */

typedef struct pr_settings {
    double memory_comfortable, memory_moderate, memory_tight, memory_critical;
    uint32_t load_low, load_moderate, load_high;
    double dwell_seconds;
    uint64_t memory_bytes;       /* configured limit; 0: what the machine has */
    uint64_t max_model_cache_mb; /* 0: half the limit; see pr_settings_cache_bytes() */
    char host[PR_SETTING_TEXT];
    uint32_t port;                /* 0: any free one */
    char models[PR_SETTING_TEXT]; /* "": the user's own folder */
    double keep_alive_seconds;    /* an idle model stays so long; negative: for ever */
    uint32_t max_queue;
    uint32_t num_parallel;
    uint32_t drafts; /* 0: none */
    uint32_t context_length;
    pr_kv_types kv_cache_type;
    char chat_template
        [PR_SETTING_TEXT]; /* of models that bring none that is known; "": none. Whether it exists is not checked */
    uint64_t response_cache_mb;      /* decimal megabytes of kept answers; 0: none */
    uint32_t response_cache_entries; /* 0: none */
    double response_cache_ttl_seconds;
    uint32_t recent_cache; /* requests whose answers are kept whatever they asked for; 0: none */
    double recent_cache_ttl_seconds;
    char api_keys_file[PR_SETTING_TEXT]; /* "": none */
    char origins[PR_SETTING_TEXT];       /* allowed by CORS, with commas; "": none */
    pr_log_format log_format;
    char alerts[PR_SETTING_TEXT]; /* rules, see alert.h; "": none */
    char config[PR_SETTING_TEXT]; /* the file that was read; "": none. Not by file itself. */
    pr_setting_origin origin[PR_SETTING_COUNT];
} pr_settings;

typedef struct pr_setting_flag {
    const char *name; /* "port" */
    const char *value;
    const char *said; /* a shorter name that it was given by, for errors; NULL: name */
} pr_setting_flag;

/* Where to look. Zero-initialize for nothing but defaults. */
typedef struct pr_settings_input {
    const char *const *environment; /* "NAME=value", NULL at the end: environ; NULL: none */
    const pr_setting_flag *flags;
    size_t n_flags;
} pr_settings_input;

/* Defaults, the file of PRECIS_CONFIG (or --config) where there is one, the environment, the flags; then checks what depends
 * on each other. On error *out is not to be used. */
pr_status pr_settings_load(const pr_settings_input *in, pr_settings *out, pr_err *err);

/* One setting, which there is, from the environment alone: for commands that are no server. *given: it stood there. */
pr_status pr_setting_from_environment(const char *name, const char *const *environment, pr_settings *out, bool *given,
                                      pr_err *err);

/* Its parts, for tests and fuzzers: the text of a file (what: its name in errors) over what is in *out, and the check. */
void pr_settings_defaults(pr_settings *out);
pr_status pr_settings_parse(const char *text, size_t len, const char *what, pr_settings *out, pr_err *err);
pr_status pr_settings_check(const pr_settings *settings, pr_err *err);

/* Setting i of PR_SETTING_COUNT, for lists. Texts are static but for value. */
typedef struct pr_setting_info {
    const char *name, *flag, *help;
    pr_setting_origin origin;
    char value[PR_SETTING_TEXT]; /* as it could be written */
} pr_setting_info;
bool pr_settings_get(const pr_settings *settings, size_t i, pr_setting_info *out); /* false past the end */

/* What the policy needs of them. */
void pr_settings_governor(const pr_settings *settings, pr_gov_settings *out);
/* MAX_MODEL_CACHE_MB in bytes (decimal megabytes), for a limit. */
uint64_t pr_settings_cache_bytes(const pr_settings *settings, uint64_t limit_bytes);

#endif
