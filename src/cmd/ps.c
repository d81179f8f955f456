/*
 * precis ps, precis stop: a look at servers that run here, and their end.
 *
 * Servers are found by their run files (cmd/runfile.h) and asked over HTTP, as anybody would.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/os.h"
#include "cmd/client.h"
#include "cmd/commands.h"
#include "cmd/runfile.h"
#include "cmd/term.h"
#include "cmd/text.h"

enum { SERVERS_MAX = 64, ANSWER_SECONDS = 10, TICK_NS = 50000000 };

typedef struct which {
    uint32_t port; /* 0: any */
    const char *key;
    bool health, json;
    pr_err err;
} which;

static size_t find_servers(const which *w, pr_running *out) {
    size_t n = pr__runfile_list(out, SERVERS_MAX), kept = 0;
    for (size_t i = 0; i < n; i++)
        if (!w->port || out[i].port == w->port) out[kept++] = out[i];
    return kept;
}

static pr_status none(which *w) {
    if (w->port) return pr_fail(&w->err, PR_ERR_NOTFOUND, "no server of this user runs on port %u", w->port);
    return pr_fail(&w->err, PR_ERR_NOTFOUND, "no server of this user runs here (`precis serve` starts one)");
}

/* ---- ps ---------------------------------------------------------------- */

static const char *text_in(const json_t *obj, const char *key) {
    const char *text = json_string_value(json_object_get(obj, key));
    return text ? text : "";
}

static long long int_in(const json_t *obj, const char *key) {
    return (long long)json_integer_value(json_object_get(obj, key));
}

static double number_in(const json_t *obj, const char *key) { return json_number_value(json_object_get(obj, key)); }

static void print_server(const pr_running *r, const json_t *status) {
    const json_t *requests = json_object_get(status, "requests"), *memory = json_object_get(status, "memory");
    const json_t *models = json_object_get(status, "current_models"), *m;
    size_t i;
    pr__cmd_line(stdout, "%s  process %ld, %lld running, %lld waiting, %.1f tokens/s lately, memory used %s", r->url,
                 r->pid, int_in(requests, "running"), int_in(requests, "queued"),
                 number_in(requests, "tokens_per_second"), text_in(memory, "used_percent"));
    if (json_array_size(models) == 0) printf("  no model is loaded\n");
    json_array_foreach(models, i, m) {
        char weights[32];
        pr_format_bytes(weights, sizeof weights, (size_t)int_in(m, "weight_bytes"));
        pr__cmd_line(stdout, "  %-40s %-8s %-5s %8s of weights  %lld request%s", text_in(m, "name"),
                     text_in(m, "status"), text_in(m, "level"), weights, int_in(m, "requests"),
                     int_in(m, "requests") == 1 ? "" : "s");
    }
}

/* Another server may have what one lacks, so all are asked. Failures but the last are told here. */
static pr_status show_servers(which *w) {
    pr_running servers[SERVERS_MAX];
    size_t n = find_servers(w, servers), n_shown = 0;
    pr_status st = n == 0 ? none(w) : PR_OK;
    if (w->json) printf("[");
    for (size_t i = 0; i < n; i++) {
        json_t *status = NULL;
        pr_err err = {0};
        pr_status one = pr__client_get(servers[i].url, "/api/v1/quantization/status", w->key, ANSWER_SECONDS, &status,
                                       &err);
        if (one) {
            if (st) (void)pr__cmd_fail(&w->err);
            w->err = err;
            st = one;
        } else if (w->json) {
            char *text = json_dumps(status, JSON_COMPACT);
            printf("%s{\"pid\":%ld,\"port\":%u,\"url\":\"%s\",\"status\":%s}", n_shown++ ? "," : "", servers[i].pid,
                   servers[i].port, servers[i].url, text ? text : "null");
            pr_free(text);
        } else {
            print_server(&servers[i], status);
        }
        json_decref(status);
    }
    if (w->json) printf("]\n");
    return st;
}

/* For health checks: no key, no word unless something is wrong. */
static pr_status check_health(which *w) {
    pr_running servers[SERVERS_MAX];
    size_t n = find_servers(w, servers);
    pr_status st = n == 0 ? none(w) : PR_OK;
    for (size_t i = 0; i < n && !st; i++) st = pr__client_health(servers[i].url, ANSWER_SECONDS, &w->err);
    return st;
}

/* ---- stop -------------------------------------------------------------- */

static bool runs(const pr_running *server) {
    pr_running now[SERVERS_MAX];
    size_t n = pr__runfile_list(now, SERVERS_MAX);
    for (size_t i = 0; i < n; i++)
        if (now[i].pid == server->pid) return true;
    return false;
}

static pr_status stop_server(which *w, const pr_running *server, double seconds) {
    double until = pr_now() + seconds;
    if (kill((pid_t)server->pid, SIGTERM) != 0) return pr_fail_errno(&w->err, "process %ld", server->pid);
    while (runs(server)) {
        if (pr_now() > until)
            return pr_fail(&w->err, PR_ERR_LIMIT, "%s still finishes requests after %.0f s (process %ld)", server->url,
                           seconds, server->pid);
        nanosleep(&(struct timespec){0, TICK_NS}, NULL);
    }
    printf("stopped %s\n", server->url);
    return PR_OK;
}

static pr_status stop_servers(which *w, double seconds) {
    pr_running servers[SERVERS_MAX];
    size_t n = find_servers(w, servers);
    while (n > 0 && !w->port && servers[n - 1].system) n--; /* the system's service is not meant unless it is named */
    if (n == 0) return none(w);
    if (n > 1 && !w->port) return pr_fail(&w->err, PR_ERR_ARG, "%zu servers run here: say which with --port", n);
    return stop_server(w, &servers[0], seconds);
}

/* ---- command lines ----------------------------------------------------- */

int pr__cmd_ps(int argc, const char **argv) {
    which w = {.key = getenv("PRECIS_API_KEY")};
    pr_args args;
    int code;
    const pr_flag flags[] = {
        {"port", 'p', PR_FLAG_U32, "N", "only the server on this port", &w.port, NULL, NULL},
        {"key", 0, PR_FLAG_TEXT, "KEY", "API key, where the server wants one (PRECIS_API_KEY)", &w.key, NULL, NULL},
        {"health", 0, PR_FLAG_BOOL, NULL, "only the exit code: does it answer (needs no key)", &w.health, NULL, NULL},
        {"json", 0, PR_FLAG_BOOL, NULL, "for scripts", &w.json, NULL, NULL},
    };
    const pr_flag_group groups[] = {{NULL, flags, sizeof flags / sizeof *flags, false}};
    const pr_usage usage = {"ps", "", "Servers that run here: models, levels, requests.\n", groups, 1, 0, 0};
    if (!pr__cmd_begin(&usage, argc, argv, &args, &code)) return code;
    pr_status st = w.health ? check_health(&w) : show_servers(&w);
    return st ? pr__cmd_fail(&w.err) : PR_EXIT_OK;
}

int pr__cmd_stop(int argc, const char **argv) {
    which w = {0};
    float seconds = 60;
    pr_args args;
    int code;
    const pr_flag flags[] = {
        {"port", 'p', PR_FLAG_U32, "N", "the server on this port", &w.port, NULL, NULL},
        {"wait", 0, PR_FLAG_F32, "S", "for requests at work to end (60)", &seconds, NULL, NULL},
    };
    const pr_flag_group groups[] = {{NULL, flags, sizeof flags / sizeof *flags, false}};
    const pr_usage usage = {"stop", "", "End a server: what it has begun is finished first.\n", groups, 1, 0, 0};
    if (pr__cmd_begin(&usage, argc, argv, &args, &code))
        code = stop_servers(&w, (double)seconds) ? pr__cmd_fail(&w.err) : PR_EXIT_OK;
    return code;
}
