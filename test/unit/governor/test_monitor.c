#include "governor/monitor.h"

#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/os.h"

/* ---- machines of our own -------------------------------------------------- */

static char folder[64];

static int folder_make(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/precis-test-mon-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    pr__os_root(folder);
    return 0;
}

static int folder_remove(void **state) {
    (void)state;
    pr__os_root("");
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static const char *at(const char *path) {
    static char whole[512];
    snprintf(whole, sizeof whole, "%s%s", folder, path);
    return whole;
}

static void put(const char *path, const char *text) {
    char parent[512];
    snprintf(parent, sizeof parent, "%s", at(path));
    *strrchr(parent, '/') = '\0';
    assert_int_equal(pr_path_mkdirs(parent, NULL), PR_OK);
    FILE *f = fopen(at(path), "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    fclose(f);
}

/* 1000 MB, 600 of them available; 50 MB are ours. */
static void put_machine(void) {
    put("/proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 600000 kB\n");
    put("/proc/self/status", "Name:\tx\nVmHWM:\t 60000 kB\nVmRSS:\t 50000 kB\n");
    put("/proc/loadavg", "1.50 0.90 0.30 2/345 6789\n");
}

#define KB 1024ull

static pr_sample sample(const pr_monitor_opts *opts) {
    pr_monitor *m;
    pr_err err = {0};
    pr_sample s;
    assert_int_equal(pr_monitor_open(opts, &m, &err), PR_OK);
    uint64_t before = pr_mem_count();
    pr_monitor_sample(m, &s);
    assert_int_equal(pr_mem_count(), before);
    pr_monitor_close(m);
    assert_int_equal(s.available_bytes + s.used_bytes, s.limit_bytes);
    assert_true(s.used >= 0 && s.used <= 1);
    return s;
}

static pr_sample measure(void) {
    pr_monitor_opts opts = {0};
    return sample(&opts);
}

/* ---- memory ---------------------------------------------------------------- */

static void a_plain_machine(void **state) {
    (void)state;
    put_machine();
    pr_sample s = measure();
    assert_int_equal(s.limit_bytes, 1000000 * KB);
    assert_int_equal(s.available_bytes, 600000 * KB);
    assert_true(fabs(s.used - .4) < 1e-12);
    assert_int_equal(s.rss_bytes, 50000 * KB);
    assert_true(s.cpu_load == 1.5);
    assert_true(s.n_cpus >= 1);
    assert_true(s.pressure < 0);
    assert_false(s.scripted);
    size_t sum = 0;
    for (int i = 0; i < PR_TAG_COUNT; i++) sum += s.ledger[i];
    assert_int_equal(sum, s.ledger_bytes);
    assert_true(s.ledger[PR_TAG_MISC] > 0); /* the monitor itself */
}

static void a_configured_limit_counts_what_is_ours(void **state) {
    (void)state;
    put_machine();
    pr_monitor_opts opts = {.limit_bytes = 200000 * KB};
    pr_sample s = sample(&opts);
    assert_int_equal(s.limit_bytes, 200000 * KB);
    assert_int_equal(s.available_bytes, 150000 * KB);
    opts.limit_bytes = 40000 * KB; /* less than we hold already */
    s = sample(&opts);
    assert_int_equal(s.available_bytes, 0);
    assert_true(s.used == 1);
    opts.limit_bytes = 700000 * KB; /* the machine is the tighter one */
    s = sample(&opts);
    assert_int_equal(s.limit_bytes, 700000 * KB);
    assert_int_equal(s.available_bytes, 600000 * KB);
    opts.limit_bytes = 5000000 * KB;
    assert_int_equal(sample(&opts).limit_bytes, 1000000 * KB);
}

static void v2_with_nested_groups(void **state) {
    (void)state;
    put_machine();
    put("/proc/self/cgroup", "0::/outer/inner\n");
    put("/sys/fs/cgroup/outer/inner/memory.max", "max\n");
    put("/sys/fs/cgroup/outer/inner/memory.current", "999999999\n");
    put("/sys/fs/cgroup/outer/memory.max", "400000000\n");
    put("/sys/fs/cgroup/outer/memory.current", "350000000\n");
    put("/sys/fs/cgroup/outer/memory.stat", "anon 1\nfile 120000000\ninactive_file 100000000\nslab 5\n");
    pr_sample s = measure();
    assert_int_equal(s.limit_bytes, 400000000);
    assert_int_equal(s.available_bytes, 150000000); /* clean cache can go */
    put("/sys/fs/cgroup/outer/inner/memory.max", "380000000\n");
    put("/sys/fs/cgroup/outer/inner/memory.current", "300000000\n");
    s = measure(); /* the inner one leaves less */
    assert_int_equal(s.limit_bytes, 380000000);
    assert_int_equal(s.available_bytes, 80000000);
    put("/proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 1000 kB\n");
    s = measure(); /* and the machine still less */
    assert_int_equal(s.limit_bytes, 380000000);
    assert_int_equal(s.available_bytes, 1000 * KB);
    put("/sys/fs/cgroup/outer/inner/memory.current", "390000000\n"); /* over its limit */
    assert_int_equal(measure().available_bytes, 0);
}

static void v1(void **state) {
    (void)state;
    put_machine();
    put("/proc/self/cgroup", "7:cpu,cpuacct:/x\n4:memory:/docker/ab\n0::/y\n");
    put("/sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes", "200000000\n");
    put("/sys/fs/cgroup/memory/docker/ab/memory.usage_in_bytes", "120000000\n");
    put("/sys/fs/cgroup/memory/docker/ab/memory.stat", "inactive_file 1\ntotal_inactive_file 20000000\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "900000000\n");
    pr_sample s = measure();
    assert_int_equal(s.limit_bytes, 200000000);
    assert_int_equal(s.available_bytes, 100000000);
}

static void what_is_missing_or_odd_limits_nothing(void **state) {
    (void)state;
    put_machine();
    put("/proc/self/cgroup", "0::/a\n");
    put("/sys/fs/cgroup/a/memory.max", "300000000\n");
    pr_sample s = measure(); /* a limit without a usage: nothing used that we know of */
    assert_int_equal(s.limit_bytes, 300000000);
    assert_int_equal(s.available_bytes, 300000000);
    put("/sys/fs/cgroup/a/memory.current", "-5 apples\n");
    put("/sys/fs/cgroup/a/memory.stat", "inactive_file\ninactive_file x\n\n");
    assert_int_equal(measure().available_bytes, 300000000);
    put("/sys/fs/cgroup/a/memory.current", "1000\n");
    put("/sys/fs/cgroup/a/memory.stat", "inactive_file 99999999999999999999999\n");
    assert_int_equal(measure().available_bytes, 300000000);
    put("/sys/fs/cgroup/a/memory.max", "plenty\n");
    assert_int_equal(measure().limit_bytes, 1000000 * KB);
    put("/proc/loadavg", "heavy\n");
    put("/proc/pressure/memory", "some avg10=\n");
    put("/proc/self/status", "");
    s = measure();
    assert_true(s.cpu_load == 0 && s.pressure < 0 && s.rss_bytes == 0);
}

static void an_empty_system_still_gives_a_sample(void **state) {
    (void)state;
    pr_sample s = measure(); /* RAM comes from the C library then */
    assert_true(s.limit_bytes > 0);
    assert_true(s.pressure < 0);
}

static void this_machine(void **state) {
    (void)state;
    pr_sample s = measure();
    assert_true(s.limit_bytes > 1 << 20 && s.available_bytes > 0);
    assert_true(s.rss_bytes > 0);
    assert_true(s.time > 0);
}

/* ---- pressure --------------------------------------------------------------- */

#define PSI(some)                                                                                                      \
    "some avg10=" some " avg60=0.00 avg300=0.00 total=1\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=1\n"

static void pressure_is_the_highest(void **state) {
    (void)state;
    put_machine();
    put("/proc/self/cgroup", "0::/a/b\n");
    put("/proc/pressure/memory", PSI("12.50"));
    assert_true(measure().pressure == .125);
    put("/sys/fs/cgroup/a/b/memory.pressure", PSI("25.00"));
    assert_true(measure().pressure == .25);
    put("/sys/fs/cgroup/a/memory.pressure", PSI("50.00"));
    assert_true(measure().pressure == .5);
    put("/sys/fs/cgroup/a/memory.pressure", PSI("101"));
    put("/sys/fs/cgroup/a/b/memory.pressure", PSI("-3"));
    assert_true(measure().pressure == .125);
}

static void a_trigger_is_armed_at_the_nearest_group(void **state) {
    (void)state;
    put_machine();
    pr_monitor_opts opts = {.watch_pressure = true};
    pr_monitor *m;
    assert_int_equal(pr_monitor_open(&opts, &m, NULL), PR_OK);
    assert_int_equal(pr_monitor_fd(m), -1);
    pr_monitor_close(m);
    put("/proc/self/cgroup", "0::/a/b\n");
    put("/proc/pressure/memory", PSI("1.00"));
    put("/sys/fs/cgroup/a/memory.pressure", PSI("1.00"));
    assert_int_equal(pr_monitor_open(&opts, &m, NULL), PR_OK);
    assert_true(pr_monitor_fd(m) >= 0);
    char text[64] = {0};
    int fd = open(at("/sys/fs/cgroup/a/memory.pressure"), O_RDONLY);
    assert_true(read(fd, text, sizeof text - 1) > 0);
    close(fd);
    assert_string_equal(text, "some 150000 2000000");
    struct pollfd poller = {.fd = pr_monitor_fd(m), .events = POLLPRI};
    assert_int_equal(poll(&poller, 1, 0), 0);
    pr_monitor_close(m);
}

static void the_real_trigger_or_none(void **state) {
    (void)state;
    pr_monitor_opts opts = {.watch_pressure = true};
    pr_monitor *m;
    assert_int_equal(pr_monitor_open(&opts, &m, NULL), PR_OK);
    if (pr_monitor_fd(m) >= 0) {
        struct pollfd poller = {.fd = pr_monitor_fd(m), .events = POLLPRI};
        assert_true(poll(&poller, 1, 0) >= 0);
        assert_int_equal(poller.revents & (POLLERR | POLLNVAL), 0);
    } else {
        print_message("no memory pressure triggers here\n");
    }
    pr_monitor_close(m);
}

/* ---- memory source ------------------------------------------------------------ */

static void a_source_goes_over_everything(void **state) {
    (void)state;
    put_machine();
    put("/use", "0.48\n");
    char path[512];
    snprintf(path, sizeof path, "%s", at("/use"));
    pr_monitor_opts opts = {.memory_source = path, .limit_bytes = 500000 * KB};
    pr_monitor *m;
    pr_sample s;
    assert_int_equal(pr_monitor_open(&opts, &m, NULL), PR_OK);
    static const struct {
        const char *text;
        double used;
    } course[] = {{"0.48\n", .48},  {" 1.0 ", .48}, {"1", 1},      {"0.35\n\n", .35}, {"", .35},       {"half", .35},
                  {"0.5 0.6", .35}, {"-1", .35},    {"1.01", .35}, {"nan", .35},      {"0x.8p0", .35}, {"0", 0}};
    for (size_t i = 0; i < sizeof course / sizeof *course; i++) {
        put("/use", course[i].text);
        pr_monitor_sample(m, &s);
        assert_true(s.scripted);
        assert_int_equal(s.limit_bytes, 500000 * KB);
        if (fabs(s.used - course[i].used) > 1e-6) fail_msg("'%s' gives %g", course[i].text, s.used);
    }
    assert_int_equal(unlink(path), 0);
    pr_monitor_sample(m, &s);
    assert_true(s.used == 0);
    pr_monitor_close(m);
}

static void an_unusable_source_is_an_error(void **state) {
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s", at("/use"));
    pr_monitor_opts opts = {.memory_source = path};
    pr_monitor *m;
    pr_err err = {0};
    size_t before = pr_mem_total();
    assert_int_equal(pr_monitor_open(&opts, &m, &err), PR_ERR_ARG);
    assert_null(m);
    assert_non_null(strstr(err.text, "/use"));
    put("/use", "much");
    assert_int_equal(pr_monitor_open(&opts, &m, &err), PR_ERR_ARG);
    put("/use", "0.5");
    for (int i = 0; i < 2; i++) {
        pr_mem_fail_after(i, false);
        assert_int_equal(pr_monitor_open(&opts, &m, &err), PR_ERR_NOMEM);
    }
    pr_mem_fail_after(-1, false);
    pr_monitor_close(NULL);
    assert_int_equal(pr_mem_total(), before);
}

/* ---- threads -------------------------------------------------------------------- */

static void *sample_many(void *arg) {
    for (int i = 0; i < 200; i++) {
        pr_sample s;
        pr_monitor_sample(arg, &s);
        if (fabs(s.used - .25) > 1e-9 && fabs(s.used - .75) > 1e-9) return "neither";
    }
    return NULL;
}

static void many_threads(void **state) {
    (void)state;
    put_machine();
    put("/use", "0.25");
    char path[512];
    snprintf(path, sizeof path, "%s", at("/use"));
    pr_monitor_opts opts = {.memory_source = path};
    pr_monitor *m;
    assert_int_equal(pr_monitor_open(&opts, &m, NULL), PR_OK);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&threads[i], NULL, sample_many, m), 0);
    for (int i = 0; i < 100; i++) put("/use", i % 2 ? "0.25" : "0.75");
    for (int i = 0; i < 3; i++) {
        void *complaint;
        pthread_join(threads[i], &complaint);
        assert_null(complaint);
    }
    pr_monitor_close(m);
}

#define with_folder(test) cmocka_unit_test_setup_teardown(test, folder_make, folder_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_folder(a_plain_machine),
        with_folder(a_configured_limit_counts_what_is_ours),
        with_folder(v2_with_nested_groups),
        with_folder(v1),
        with_folder(what_is_missing_or_odd_limits_nothing),
        with_folder(an_empty_system_still_gives_a_sample),
        cmocka_unit_test(this_machine),
        with_folder(pressure_is_the_highest),
        with_folder(a_trigger_is_armed_at_the_nearest_group),
        cmocka_unit_test(the_real_trigger_or_none),
        with_folder(a_source_goes_over_everything),
        with_folder(an_unusable_source_is_an_error),
        with_folder(many_threads),
    };
    return cmocka_run_group_tests_name("monitor", tests, NULL, NULL);
}
