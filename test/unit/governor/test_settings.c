#include "governor/settings.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"

static pr_settings s;
static pr_err err;

static pr_status parse(const char *text) {
    pr_settings_defaults(&s);
    return pr_settings_parse(text, strlen(text), "test.conf", &s, &err);
}

static size_t index_of(const char *name) {
    pr_setting_info info;
    for (size_t i = 0; pr_settings_get(&s, i, &info); i++) {
        if (strcmp(info.name, name) == 0) return i;
    }
    fail_msg("no setting %s", name);
    return 0;
}

static const char *value_of(const char *name) {
    static pr_setting_info info;
    assert_true(pr_settings_get(&s, index_of(name), &info));
    return info.value;
}

static pr_setting_origin origin_of(const char *name) { return s.origin[index_of(name)]; }

/* ---- defaults --------------------------------------------------------------- */

static void defaults(void **state) {
    (void)state;
    static const char *const want[][2] = {{"QUANTIZE_MEMORY_COMFORTABLE", "0.4"},
                                          {"QUANTIZE_MEMORY_MODERATE", "0.6"},
                                          {"QUANTIZE_MEMORY_TIGHT", "0.75"},
                                          {"QUANTIZE_MEMORY_CRITICAL", "0.85"},
                                          {"QUANTIZE_LOAD_LOW", "2"},
                                          {"QUANTIZE_LOAD_MODERATE", "5"},
                                          {"QUANTIZE_LOAD_HIGH", "10"},
                                          {"QUANTIZE_DWELL_SECONDS", "30"},
                                          {"MAX_MODEL_CACHE_MB", "8000"},
                                          {"PRECIS_MEMORY", "0"},
                                          {"PRECIS_HOST", "127.0.0.1"},
                                          {"PRECIS_PORT", "8000"},
                                          {"PRECIS_MODELS", ""},
                                          {"PRECIS_KEEP_ALIVE", "300"},
                                          {"PRECIS_CONTEXT_LENGTH", "2048"},
                                          {"PRECIS_KV_CACHE_TYPE", "f16"},
                                          {"PRECIS_TEMPLATE", ""},
                                          {"PRECIS_API_KEYS_FILE", ""},
                                          {"PRECIS_ORIGINS", ""}};
    pr_settings_input nothing = {0};
    assert_int_equal(pr_settings_load(&nothing, &s, &err), PR_OK);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) assert_string_equal(value_of(want[i][0]), want[i][1]);
    pr_setting_info info;
    size_t n = 0;
    for (; pr_settings_get(&s, n, &info); n++) {
        assert_int_equal(info.origin, PR_FROM_DEFAULT);
        assert_true(strlen(info.help) > 5 && strlen(info.flag) > 2);
        assert_null(strchr(info.flag, '_'));
    }
    assert_int_equal(n, PR_SETTING_COUNT);
    pr_gov_settings gov, usual;
    pr_settings_governor(&s, &gov);
    pr_gov_defaults(&usual);
    assert_true(gov.memory_comfortable == usual.memory_comfortable && gov.memory_moderate == usual.memory_moderate);
    assert_true(gov.memory_tight == usual.memory_tight && gov.memory_critical == usual.memory_critical);
    assert_true(gov.memory_full == usual.memory_full && gov.materiality == usual.materiality);
    assert_true(gov.load_low == usual.load_low && gov.load_moderate == usual.load_moderate);
    assert_true(gov.load_high == usual.load_high && gov.dwell_seconds == usual.dwell_seconds);
    assert_int_equal(pr_settings_cache_bytes(&s, 1000), 8000000000);
    s.max_model_cache_mb = 0;
    assert_int_equal(pr_settings_cache_bytes(&s, 1000), 500);
}

/* ---- precedence -------------------------------------------------------------- */

static void put(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    fclose(f);
}

static void flag_over_environment_over_file(void **state) {
    (void)state;
    char path[] = "/tmp/precis-test-conf-XXXXXX", config[64], again[64];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    put(path, "# ours\n[precis]\nport = 1000\nPRECIS_MAX_QUEUE = 11 ; few\nquantize_load_high: 20\n"
              "Keep-Alive = 1h\nmemory = 4G\n");
    snprintf(config, sizeof config, "PRECIS_CONFIG=%s", path);
    const char *const environment[] = {
        "PATH=/bin", config, "PRECIS_PORT=2000", "PRECIS_PORTS=9", "PRECIS_HOST=::1", "PRECIS_KEEP_ALIVE=", NULL};
    const pr_setting_flag flags[] = {{"port", "3000", NULL}, {"load-low", "1", NULL}};
    pr_settings_input in = {.environment = environment};
    assert_int_equal(pr_settings_load(&in, &s, &err), PR_OK);
    assert_int_equal(s.port, 2000);
    assert_int_equal(origin_of("PRECIS_PORT"), PR_FROM_ENVIRONMENT);
    assert_int_equal(s.max_queue, 11);
    assert_int_equal(origin_of("PRECIS_MAX_QUEUE"), PR_FROM_FILE);
    assert_int_equal(s.load_high, 20);
    assert_true(s.keep_alive_seconds == 3600); /* an empty variable is none */
    assert_int_equal(s.memory_bytes, 4000000000);
    assert_string_equal(s.host, "::1");
    assert_string_equal(s.config, path);
    in.flags = flags;
    in.n_flags = 2;
    assert_int_equal(pr_settings_load(&in, &s, &err), PR_OK);
    assert_int_equal(s.port, 3000);
    assert_int_equal(origin_of("PRECIS_PORT"), PR_FROM_FLAG);
    assert_int_equal(s.load_low, 1);
    assert_string_equal(pr_setting_origin_name(origin_of("PRECIS_HOST")), "environment");
    snprintf(again, sizeof again, "%s.other", path);
    put(again, "port = 4000\n");
    const pr_setting_flag other[] = {{"config", again, NULL}};
    in = (pr_settings_input){.environment = &environment[3], .flags = other, .n_flags = 1};
    assert_int_equal(pr_settings_load(&in, &s, &err), PR_OK);
    assert_int_equal(s.port, 4000);
    assert_int_equal(origin_of("PRECIS_CONFIG"), PR_FROM_FLAG);
    unlink(again);
    assert_int_equal(pr_settings_load(&in, &s, &err), PR_ERR_NOTFOUND);
    assert_non_null(strstr(err.text, again));
    unlink(path);
}

/* One setting, for commands that are no server: others may be wrong. */
static void one_from_the_environment(void **state) {
    (void)state;
    const char *const environment[] = {"PRECIS_PORT=none", "PRECIS_KV_CACHE_TYPE=q8",
                                       "PRECIS_MEMORY=", "PRECIS_CONTEXT_LENGTH=1", NULL};
    bool given = false;
    pr_settings_defaults(&s);
    assert_int_equal(pr_setting_from_environment("PRECIS_KV_CACHE_TYPE", environment, &s, &given, &err), PR_OK);
    assert_true(given && s.kv_cache_type.k == PR_KV_Q8);
    assert_int_equal(pr_setting_from_environment("PRECIS_MEMORY", environment, &s, &given, &err), PR_OK);
    assert_false(given); /* an empty variable is none */
    assert_int_equal(pr_setting_from_environment("PRECIS_TEMPLATE", environment, &s, &given, &err), PR_OK);
    assert_false(given);
    assert_int_equal(pr_setting_from_environment("PRECIS_CONTEXT_LENGTH", environment, &s, &given, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "PRECIS_CONTEXT_LENGTH"));
    assert_false(given);
    assert_int_equal(pr_setting_from_environment("PRECIS_KV_CACHE_TYPE", NULL, &s, &given, &err), PR_OK);
}

/* ---- values ------------------------------------------------------------------- */

static void good_values(void **state) {
    (void)state;
    static const char *const good[][3] = {{"port", "0", "0"},
                                          {"port", "65535", "65535"},
                                          {"memory-comfortable", "1e-3", "0.001"},
                                          {"memory-critical", "0.95", "0.95"},
                                          {"memory-tight", "0.7000000001", "0.7000000001"},
                                          {"keep-alive", "-1", "-1"},
                                          {"keep-alive", "90s", "90"},
                                          {"keep-alive", "1.5m", "90"},
                                          {"keep-alive", "0", "0"},
                                          {"dwell", "2h", "7200"},
                                          {"memory", "1GiB", "1073741824"},
                                          {"max-model-cache-mb", "0", "0"},
                                          {"kv-cache-type", "q8", "q8"},
                                          {"kv-cache-type", "q4,q4", "q4"},
                                          {"kv-cache-type", "q8,q4", "q8,q4"},
                                          {"origins", "https://a.b,https://c", "https://a.b,https://c"},
                                          {"host", "::", "::"}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        pr_setting_flag flag = {good[i][0], good[i][1], NULL};
        pr_settings_input in = {.flags = &flag, .n_flags = 1};
        if (pr_settings_load(&in, &s, &err) != PR_OK) fail_msg("%s", err.text);
        pr_setting_info info;
        for (size_t n = 0; pr_settings_get(&s, n, &info); n++) {
            if (strcmp(info.flag, good[i][0]) != 0) continue;
            assert_string_equal(info.value, good[i][2]);
            assert_int_equal(info.origin, PR_FROM_FLAG);
        }
    }
}

static void bad_values(void **state) {
    (void)state;
    static const char *const bad[][2] = {{"port", "65536"},
                                         {"port", "-1"},
                                         {"port", "80 "},
                                         {"port", "http"},
                                         {"port", ""},
                                         {"load-low", "0"},
                                         {"load-high", "1.5"},
                                         {"memory-comfortable", "0"},
                                         {"memory-tight", "1.1"},
                                         {"memory-tight", "40%"},
                                         {"memory-tight", "nan"},
                                         {"memory-critical", "0.96"},
                                         {"keep-alive", "-2"},
                                         {"keep-alive", "s"},
                                         {"keep-alive", "5 m"},
                                         {"keep-alive", "1d"},
                                         {"dwell", "-1"},
                                         {"dwell", "inf"},
                                         {"memory", "4X"},
                                         {"memory", "-1"},
                                         {"host", ""},
                                         {"kv-cache-type", "f32"},
                                         {"kv-cache-type", "q8,"},
                                         {"kv-cache-type", "q8,q4,q4"},
                                         {"kv-cache-type", "q8 ,q4"},
                                         {"context-length", "15"},
                                         {"num-parallel", "0"},
                                         {"num-parallel", "1025"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pr_setting_flag flag = {bad[i][0], bad[i][1], NULL};
        pr_settings_input in = {.flags = &flag, .n_flags = 1};
        char start[64];
        snprintf(start, sizeof start, "--%s: '%s' is not ", bad[i][0], bad[i][1]);
        if (pr_settings_load(&in, &s, &err) != PR_ERR_ARG) fail_msg("%s %s is taken", bad[i][0], bad[i][1]);
        assert_int_equal(strncmp(err.text, start, strlen(start)), 0);
        assert_true(strlen(err.text) > strlen(start));
    }
    pr_setting_flag lines = {"host", "a\nb", NULL};
    pr_settings_input two = {.flags = &lines, .n_flags = 1};
    assert_int_equal(pr_settings_load(&two, &s, &err), PR_ERR_ARG);
    assert_null(strchr(err.text, '\n'));
    char lengthy[PR_SETTING_TEXT + 1];
    memset(lengthy, 'x', sizeof lengthy - 1);
    lengthy[sizeof lengthy - 1] = '\0';
    pr_setting_flag flag = {"models", lengthy, NULL};
    pr_settings_input in = {.flags = &flag, .n_flags = 1};
    assert_int_equal(pr_settings_load(&in, &s, &err), PR_ERR_ARG);
    flag.value = lengthy + 1;
    assert_int_equal(pr_settings_load(&in, &s, &err), PR_OK);
    flag.name = "prot";
    assert_int_equal(pr_settings_load(&in, &s, &err), PR_ERR_ARG);
    assert_string_equal(err.text, "--prot: unknown setting");
    const char *const environment[] = {"QUANTIZE_LOAD_HIGH=ten", NULL};
    in = (pr_settings_input){.environment = environment};
    assert_int_equal(pr_settings_load(&in, &s, &err), PR_ERR_ARG);
    assert_string_equal(err.text, "QUANTIZE_LOAD_HIGH in the environment: 'ten' is not a number from 1 to 1000000");
}

static void what_depends_on_each_other(void **state) {
    (void)state;
    const char *const environment[] = {"QUANTIZE_MEMORY_TIGHT=.5", NULL};
    pr_settings_input in = {.environment = environment};
    assert_int_equal(pr_settings_load(&in, &s, &err), PR_ERR_ARG);
    assert_string_equal(err.text, "QUANTIZE_MEMORY_TIGHT (0.5, environment) must be above QUANTIZE_MEMORY_MODERATE "
                                  "(0.6, default)");
    pr_setting_flag flag = {.name = "load-moderate", .value = "11"};
    in = (pr_settings_input){.flags = &flag, .n_flags = 1};
    assert_int_equal(pr_settings_load(&in, &s, &err), PR_ERR_ARG);
    assert_string_equal(err.text,
                        "QUANTIZE_LOAD_HIGH (10, default) must not be below QUANTIZE_LOAD_MODERATE (11, flag)");
    flag = (pr_setting_flag){.name = "load-low", .value = "x", .said = "low"};
    assert_int_equal(pr_settings_load(&in, &s, &err), PR_ERR_ARG);
    assert_int_equal(strncmp(err.text, "--low: 'x'", 10), 0); /* by the name that it was given by */
    flag = (pr_setting_flag){.name = "load-low", .value = "6"};
    assert_int_equal(pr_settings_load(&in, &s, &err), PR_ERR_ARG);
    assert_non_null(
        strstr(err.text, "QUANTIZE_LOAD_MODERATE (5, default) must not be below QUANTIZE_LOAD_LOW (6, flag)"));
    pr_settings_defaults(&s);
    s.memory_comfortable = s.memory_moderate;
    assert_int_equal(pr_settings_check(&s, &err), PR_ERR_ARG);
    pr_settings_defaults(&s);
    s.memory_critical = s.memory_tight;
    assert_int_equal(pr_settings_check(&s, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "QUANTIZE_MEMORY_CRITICAL"));
}

/* ---- file ---------------------------------------------------------------------- */

static void files_at_fault(void **state) {
    (void)state;
    static const struct {
        const char *text;
        pr_status status;
        const char *says;
    } files[] = {
        {"", PR_OK, ""},
        {"\n# nothing\n; at all\n[precis]\n", PR_OK, ""},
        {"\xef\xbb\xbfport = 1\n", PR_OK, ""},
        {"port = 1\r\nhost = a\r\n", PR_OK, ""},
        {"port = 1", PR_OK, ""},
        {"origins =\n", PR_OK, ""},
        {"prot = 1\n", PR_ERR_ARG, "test.conf: unknown setting 'prot'"},
        {"[server]\nport = 1\n", PR_ERR_ARG, "test.conf: unknown section [server]"},
        {"port = 1\nPRECIS_PORT = 2\n", PR_ERR_ARG, "test.conf: PRECIS_PORT stands there twice"},
        {"port = 1\n 2\n", PR_ERR_ARG, "test.conf: PRECIS_PORT stands there twice"},
        {"port =\n", PR_ERR_ARG, "test.conf: PRECIS_PORT: '' is not a number from 0 to 65535"},
        {"port = 1\n\nnonsense\nport = x\n", PR_ERR_ARG, "twice"},
        {"port = 1\n\nnonsense\n", PR_ERR_FORMAT, "test.conf: line 3 is not NAME = value"},
        {"[precis\n", PR_ERR_FORMAT, "test.conf: line 1 is not NAME = value"},
        {"config = x\n", PR_ERR_ARG, "test.conf: PRECIS_CONFIG cannot stand in a file"},
        {"load-high = no\nport = no\n", PR_ERR_ARG, "test.conf: QUANTIZE_LOAD_HIGH: 'no' is not"}, /* the first */
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        err.text[0] = '\0';
        if (parse(files[i].text) != files[i].status) fail_msg("'%s': %s", files[i].text, err.text);
        if (!strstr(err.text, files[i].says)) fail_msg("'%s': %s", files[i].text, err.text);
    }
    pr_settings_defaults(&s);
    assert_int_equal(pr_settings_parse("port\0 = 1\n", 10, "test.conf", &s, &err), PR_ERR_FORMAT);
    assert_string_equal(err.text, "test.conf: line 1 holds a zero byte");
}

/* Rules of a section become one text, which flag and environment go over; both ways at once are refused. */
static void alerts_in_a_section(void **state) {
    (void)state;
    char big[2048] = "[alerts]\n";
    size_t len = strlen(big);
    pr_settings_defaults(&s);
    assert_int_equal(
        parse("port = 1\n[alerts]\nslow = latency_p95 > 50ms for 30s\nbig=memory_peak > 100MB ; ours\n[precis]\n"
              "max-queue = 3\n"),
        PR_OK);
    assert_string_equal(s.alerts, "slow: latency_p95 > 50ms for 30s, big: memory_peak > 100MB");
    assert_int_equal(origin_of("PRECIS_ALERTS"), PR_FROM_FILE);
    assert_int_equal(s.max_queue, 3);
    assert_int_equal(pr_settings_check(&s, &err), PR_OK);
    assert_int_equal(parse("[alerts]\nodd = latency > 3\n"), PR_OK);
    assert_int_equal(pr_settings_check(&s, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "PRECIS_ALERTS (file): rule 1, column 6: there is no metric"));
    assert_int_equal(parse("[alerts]\na = kv_used > 1%\n[precis]\nalerts = level < int4\n"), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "not both"));
    for (int i = 0; i < 40; i++)
        len += (size_t)snprintf(big + len, sizeof big - len, "rule-%d = tokens_per_second < 1000\n", i);
    assert_int_equal(parse(big), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "alert rule-"));
}

static void lines_are_never_cut(void **state) {
    (void)state;
    for (size_t len = 180; len < 420; len++) {
        char text[512];
        int head = snprintf(text, sizeof text, "port = 7\n");
        size_t at = (size_t)head;
        at += (size_t)snprintf(text + at, sizeof text - at, "origins = ");
        memset(text + at, 'x', (size_t)head + len - at);
        snprintf(text + head + len, sizeof text - (size_t)head - len, len % 2 ? "\nhost = h\n" : "");
        pr_status status = parse(text);
        assert_int_equal(status, len <= 190 ? PR_OK : PR_ERR_FORMAT);
        if (status == PR_OK) assert_int_equal(strlen(s.origins), len - strlen("origins = "));
        else assert_string_equal(err.text, "test.conf: line 2 is longer than 190 bytes");
    }
}

static void out_of_memory(void **state) {
    (void)state;
    size_t before = pr_mem_total();
    pr_mem_fail_after(0, false);
    assert_int_equal(parse("port = 1\n"), PR_ERR_NOMEM);
    pr_mem_fail_after(-1, false);
    assert_int_equal(pr_mem_total(), before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(flag_over_environment_over_file),
        cmocka_unit_test(one_from_the_environment),
        cmocka_unit_test(good_values),
        cmocka_unit_test(bad_values),
        cmocka_unit_test(what_depends_on_each_other),
        cmocka_unit_test(files_at_fault),
        cmocka_unit_test(alerts_in_a_section),
        cmocka_unit_test(lines_are_never_cut),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests_name("settings", tests, NULL, NULL);
}
