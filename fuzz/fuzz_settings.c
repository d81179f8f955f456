/*
 * Fuzz: the configuration file.
 *
 * What a file sets must be listed as a value that means the same when it is given as a flag, and nothing that the bounds
 * forbid may get in.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "governor/settings.h"

static void require(int truth) {
    if (!truth) {
        abort();
    }
}

static void check_bounds(const pr_settings *s) {
    require(s->memory_comfortable > 0 && s->memory_critical <= 0.95);
    require(s->load_low >= 1 && s->load_high <= 1000000);
    require(s->port <= 65535 && s->num_parallel >= 1 && s->num_parallel <= 1024);
    require(s->keep_alive_seconds == -1 || s->keep_alive_seconds >= 0);
    require(s->dwell_seconds >= 0);
    require(s->host[0] != '\0' && memchr(s->host, '\0', sizeof s->host) != NULL);
    require(s->config[0] == '\0');
}

static void check_listing(const pr_settings *s) {
    static pr_setting_info info[PR_SETTING_COUNT];
    pr_setting_flag flags[PR_SETTING_COUNT];
    size_t n = 0;
    for (size_t i = 0; pr_settings_get(s, i, &info[i]); i++) {
        if (info[i].origin == PR_FROM_FILE) {
            flags[n++] = (pr_setting_flag){.name = info[i].flag, .value = info[i].value};
        }
    }
    static pr_settings again;
    pr_settings_input in = {.flags = flags, .n_flags = n};
    require(pr_settings_load(&in, &again, NULL) == PR_OK);
    for (size_t i = 0; i < PR_SETTING_COUNT; i++) {
        pr_setting_info other;
        require(pr_settings_get(&again, i, &other));
        require(strcmp(info[i].value, other.value) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static pr_settings s;
    pr_err err = {0};
    pr_settings_defaults(&s);
    if (pr_settings_parse((const char *)data, size, "fuzz.conf", &s, &err) != PR_OK) {
        require(err.text[0] != '\0');
        return 0;
    }
    check_bounds(&s);
    if (pr_settings_check(&s, &err) == PR_OK) {
        check_listing(&s);
    }
    return 0;
}
