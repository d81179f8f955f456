/*
 * precis serve: a server that stays.
 *
 * Thin: settings and the list of models are found here, everything else is src/api. What it is asked and what it does is
 * written to standard error, a line each (base/log_line.h); where to reach it, to standard output.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "api/api.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/os.h"
#include "cmd/catalogue.h"
#include "cmd/client.h"
#include "cmd/commands.h"
#include "cmd/elastic.h"
#include "cmd/load.h"
#include "cmd/runfile.h"
#include "cmd/term.h"
#include "text/chat.h"

enum { MODELS_MAX = 64, TICK_NS = 100000000, HEALTH_SECONDS_MAX = 5 };

static const double grace_default = 30;

typedef struct serve {
    const char *value[PR_SETTING_COUNT];   /* of a setting's flag; NULL: not given */
    const char *shorter[PR_SETTING_COUNT]; /* of its shorter flag */
    pr_setting_flag flags[2 * PR_SETTING_COUNT];
    pr_settings settings;
    const char *memory_source;
    size_t weights_budget;
    uint32_t threads, cpumask;
    float grace, total, park;
    bool preload, serial, quiet;
    pr_catalogue *catalogue;
    pr_api *api;
    pr_runfile *runfile;
    char url[PR_SETTING_TEXT + 32];
    pr_err err;
} serve;

/* ---- settings ---------------------------------------------------------- */

/* The shorter flag of a setting, NULL where there is none. */
static const char *shorter_of(const char *flag) {
    static const char *const pairs[][2] = {
        {"num-parallel", "parallel"}, {"context-length", "context"}, {"kv-cache-type", "kv"},
        {"api-keys-file", "keys"},    {"origins", "origin"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (!strcmp(flag, pairs[i][0])) return pairs[i][1];
    return NULL;
}

/* The flags that were given, by their settings' names. */
static pr_status load_settings(serve *s) {
    pr_settings names;
    pr_setting_info info;
    size_t n = 0;
    pr_settings_defaults(&names);
    for (size_t i = 0; i < PR_SETTING_COUNT && pr_settings_get(&names, i, &info); i++) {
        if (s->value[i]) s->flags[n++] = (pr_setting_flag){info.flag, s->value[i], NULL};
        if (s->shorter[i]) s->flags[n++] = (pr_setting_flag){info.flag, s->shorter[i], shorter_of(info.flag)};
    }
    pr_settings_input in = {(const char *const *)environ, s->flags, n};
    pr_status st = pr_settings_load(&in, &s->settings, &s->err);
    const char *template = s->settings.chat_template;
    if (!st && template[0] && !pr_chat_by_name(template))
        st = pr_fail(&s->err, PR_ERR_ARG, "--template, or PRECIS_TEMPLATE: %.64s is not known; there are: %s", template,
                     pr_chat_names());
    if (!st && s->settings.models[0] && setenv("PRECIS_MODELS", s->settings.models, 1) != 0)
        st = pr_fail_nomem(&s->err, "the environment", 0);
    return st;
}

/* Settings whose flag is said elsewhere in --help, some by a shorter name, or only on the man page. */
static bool is_said(const char *flag) {
    static const char *const said[] = {
        "host",
        "port",
        "num-parallel",
        "drafts",
        "context-length",
        "kv-cache-type",
        "api-keys-file",
        "origins",
        "memory",
        "response-cache-entries",
        "response-cache-ttl",
        "recent-cache-ttl",
        "memory-comfortable",
        "memory-moderate",
        "memory-tight",
        "memory-critical",
        "load-low",
        "load-moderate",
        "load-high",
    };
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        if (!strcmp(flag, said[i])) return true;
    return false;
}

/* A flag for each setting, named as the setting is. */
static size_t setting_flags(serve *s, pr_flag *out, pr_setting_info *infos) {
    pr_settings names;
    size_t n = 0;
    pr_settings_defaults(&names);
    for (size_t i = 0; i < PR_SETTING_COUNT && pr_settings_get(&names, i, &infos[i]); i++) {
        const char *flag = infos[i].flag;
        if (!strcmp(flag, "host") || !strcmp(flag, "port") || !strcmp(flag, "memory")) continue;
        out[n++] = (pr_flag){flag, 0,   PR_FLAG_TEXT, "X", is_said(flag) ? NULL : infos[i].value, (void *)&s->value[i],
                             NULL, NULL};
    }
    return n;
}

/* Where a flag's value goes: that of a setting of this name, or the shorter one of a setting. */
static const char **value_of(serve *s, const char *flag) {
    pr_settings names;
    pr_setting_info info;
    pr_settings_defaults(&names);
    for (size_t i = 0; i < PR_SETTING_COUNT && pr_settings_get(&names, i, &info); i++) {
        const char *shorter = shorter_of(info.flag);
        if (!strcmp(info.flag, flag)) return &s->value[i];
        if (shorter && !strcmp(shorter, flag)) return &s->shorter[i];
    }
    return NULL;
}

/* ---- the log ----------------------------------------------------------- */

/* arg: the format. */
static void on_log(void *arg, pr_log_level level, const char *line) {
    const pr_log_format *format = arg;
    struct timespec now;
    pr_str out = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    pr_log_line(&out, *format, &now, level, line);
    if (pr_str_ok(&out) && write(STDERR_FILENO, out.data, out.len) < 0) return; /* nobody reads it: so be it */
    pr_str_free(&out);
}

/* ---- serving ----------------------------------------------------------- */

static void print_greeting(const serve *s) {
    char name[PR_API_MODEL_NAME] = "";
    pr_api_models models = pr__catalogue_models(s->catalogue);
    const char *key = s->settings.api_keys_file[0] ? " -H 'Authorization: Bearer YOUR-KEY'" : "";
    bool any = models.find(models.arg, "", name);
    printf("precis serves on %s\n\n"
           "Chat: open %s/ in a browser. Or ask by hand:\n\n"
           "  curl %s/v1/chat/completions%s -d '{\"model\": \"%s\", \"messages\": [{\"role\": \"user\", \"content\": "
           "\"Why is the sky blue?\"}]}'\n\n"
           "To stop: Ctrl-C here, or `precis stop`.\n",
           s->url, s->url, s->url, key, any ? name : "MODEL");
    if (!any) printf("There is no model yet: `precis pull smollm2` fetches one.\n");
    fflush(stdout);
}

static pr_status open_api(serve *s) {
    pr_api_opts opts = {
        .settings = &s->settings,
        .models = pr__catalogue_models(s->catalogue),
        .memory_source = s->memory_source,
        .n_threads = (int)s->threads,
        .cpumask = s->cpumask,
        .serial = s->serial,
        .weights_budget = s->weights_budget,
        .total_seconds = (double)s->total,
        .park_seconds = (double)s->park,
    };
    bool colon = strchr(s->settings.host, ':') != NULL;
    pr_status st = pr_api_open(&opts, &s->api, &s->err);
    if (st) return st;
    snprintf(s->url, sizeof s->url, "http://%s%s%s:%u", colon ? "[" : "", s->settings.host, colon ? "]" : "",
             pr_api_port(s->api));
    pr_err err = {0};
    if (pr__runfile_write(s->url, pr_api_port(s->api), &s->runfile, &err) != PR_OK)
        pr_log(PR_LOG_WARN, "ps and stop will not find this server by themselves: %s", err.text);
    return PR_OK;
}

static pr_status preload(serve *s, const pr_args *args) {
    pr_status st = s->preload && args->n == 0 ? pr_api_preload(s->api, "", &s->err) : PR_OK;
    for (int i = 0; s->preload && i < args->n && !st; i++) {
        const char *slash = strrchr(args->arg[i], '/');
        st = pr_api_preload(s->api, slash ? slash + 1 : args->arg[i], &s->err);
    }
    return st;
}

/* ---- its life ---------------------------------------------------------- */

/* SIGHUP. */
static void reload(serve *s) {
    pr_err err = {0};
    pr_notify("RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)(pr_now_ns() / 1000));
    if (pr_api_reload(s->api, &err) != PR_OK) pr_log(PR_LOG_ERROR, "not read again: %s", err.text);
    pr_notify("READY=1");
}

/* A service manager takes us for alive only while requests are answered: so one is made. */
static void prove_alive(serve *s, double every, double *proved_at) {
    pr_err err = {0};
    double seconds = every < HEALTH_SECONDS_MAX ? every : HEALTH_SECONDS_MAX;
    if (every <= 0 || pr_now() - *proved_at < every) return;
    *proved_at = pr_now();
    if (pr__client_health(s->url, seconds, &err) == PR_OK) pr_notify("WATCHDOG=1");
    else pr_log(PR_LOG_WARN, "no answer to itself: %s", err.text);
}

static void live(serve *s) {
    double every = pr_notify_watchdog_seconds() / 3, proved_at = pr_now();
    pr_notify("READY=1\nMAINPID=%ld\nSTATUS=serves on %.200s", (long)getpid(), s->url);
    while (!*pr__interrupt()) {
        nanosleep(&(struct timespec){0, TICK_NS}, NULL);
        if (pr__hangup_take()) reload(s);
        prove_alive(s, every, &proved_at);
    }
    pr_notify("STOPPING=1\nSTATUS=finishes what it has begun, for at most %.0f s", (double)s->grace);
}

static void begin_log(serve *s) {
    pr_log_format *format = &s->settings.log_format;
    if (*format == PR_LOG_AUTO) *format = isatty(STDERR_FILENO) ? PR_LOG_TEXT : PR_LOG_JSON;
    pr_log_set(on_log, format, s->quiet ? PR_LOG_WARN : PR_LOG_INFO);
}

static pr_status run_server(serve *s, const pr_args *args) {
    pr_status st = load_settings(s);
    if (!st) begin_log(s);
    if (!st && s->threads > PR__THREADS_MAX)
        st = pr_fail(&s->err, PR_ERR_ARG, "--threads: %u is more than %d", s->threads, PR__THREADS_MAX);
    if (!st && s->grace < 0) st = pr_fail(&s->err, PR_ERR_ARG, "--grace: seconds cannot be negative");
    if (!st && s->park < 0) st = pr_fail(&s->err, PR_ERR_ARG, "--park: seconds cannot be negative");
    if (!st && s->total < 0) st = pr_fail(&s->err, PR_ERR_ARG, "--total: seconds cannot be negative");
    if (!st) st = pr__catalogue_open(args->arg, (size_t)args->n, &s->catalogue, &s->err);
    if (!st) st = open_api(s);
    if (!st) st = preload(s, args);
    if (st) return st;
    print_greeting(s);
    live(s);
    printf("precis finishes what it has begun, for at most %.0f s; once more ends it at once\n", (double)s->grace);
    fflush(stdout);
    pr_api_stop(s->api, (double)s->grace);
    pr__interrupt_clear();
    printf("precis has stopped\n");
    return PR_OK;
}

static int serve_models(serve *s, const pr_args *args) {
    pr__hangup_asks();
    pr_status st = run_server(s, args);
    pr_api_close(s->api);
    pr__runfile_remove(s->runfile);
    pr__catalogue_close(s->catalogue);
    pr_log_set(NULL, NULL, PR_LOG_INFO);
    return st ? pr__cmd_fail(&s->err) : PR_EXIT_OK;
}

int pr__cmd_serve(int argc, const char **argv) {
    serve s = {.grace = (float)grace_default};
    pr_args args;
    int code;
    pr_flag settings[PR_SETTING_COUNT];
    pr_setting_info infos[PR_SETTING_COUNT];
    const pr_flag general[] = {
        {"host", 0, PR_FLAG_TEXT, "ADDRESS", "127.0.0.1; another only with --keys", (void *)value_of(&s, "host"), NULL,
         NULL},
        {"port", 'p', PR_FLAG_TEXT, "N", "8000; 0: any free one", (void *)value_of(&s, "port"), NULL, NULL},
        {"preload", 0, PR_FLAG_BOOL, NULL, "load the models now, not when they are first asked for", &s.preload, NULL,
         NULL},
        {"memory", 0, PR_FLAG_TEXT, "SIZE", "what this program may use (all there is)", (void *)value_of(&s, "memory"),
         NULL, NULL},
        {"weights-budget", 0, PR_FLAG_CALL, "SIZE", "weights of an elastic model may take (all there is)",
         &s.weights_budget, pr__parse_size, NULL},
        {"parallel", 0, PR_FLAG_TEXT, "N", "requests that run at once (8)", (void *)value_of(&s, "parallel"), NULL,
         NULL},
        {"context", 'c', PR_FLAG_TEXT, "N", "tokens of a request (2048)", (void *)value_of(&s, "context"), NULL, NULL},
        {"kv", 0, PR_FLAG_TEXT, "TYPE", "f16, q8, q4, or KEYS,VALUES", (void *)value_of(&s, "kv"), NULL, NULL},
        {"keys", 0, PR_FLAG_TEXT, "FILE", "API keys", (void *)value_of(&s, "keys"), NULL, NULL},
        {"origin", 0, PR_FLAG_TEXT, "LIST", "web pages that may ask from elsewhere", (void *)value_of(&s, "origin"),
         NULL, NULL},
        {"serial", 0, PR_FLAG_BOOL, NULL, "one request at a time", &s.serial, NULL, NULL},
        {"total", 0, PR_FLAG_F32, "S", "a request may take so long (0: no limit)", &s.total, NULL, NULL},
        {"park", 0, PR_FLAG_F32, "S", "and stand still for a level that cannot be had (30)", &s.park, NULL, NULL},
        {"grace", 0, PR_FLAG_F32, "S", "time for requests to end when it is stopped (30)", &s.grace, NULL, NULL},
        {"threads", 't', PR_FLAG_U32, "N", "what affinity and quota allow", &s.threads, NULL, NULL},
        {"cpumask", 0, PR_FLAG_CALL, "LIST", NULL, &s.cpumask, pr__parse_cpumask, NULL},
        {"memory-source", 0, PR_FLAG_TEXT, "FILE", "memory used, 0 to 1, is read from here: for tests",
         &s.memory_source, NULL, NULL},
        {"quiet", 'q', PR_FLAG_BOOL, NULL, "log warnings only", &s.quiet, NULL, NULL},
    };
    const pr_flag_group groups[] = {
        {NULL, general, sizeof general / sizeof *general, false},
        {"Settings, also by environment", settings, setting_flags(&s, settings, infos), true},
    };
    const pr_usage usage = {
        "serve", "[MODEL...]", "Serve models over HTTP: those named, or all in the model folder.\n", groups, 2,
        0,       MODELS_MAX,
    };
    if (pr__cmd_begin(&usage, argc, argv, &args, &code)) code = serve_models(&s, &args);
    return code;
}
