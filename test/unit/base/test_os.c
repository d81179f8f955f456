#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"

/* ---- a folder of our own ---- */

static char folder[64];

static int folder_make(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/precis-test-os-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int folder_remove(void **state) {
    (void)state;
    pr__os_root("");
    pr_file_fault(0);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

/* Write text into folder/path, making the folders on the way. */
static void put(const char *path, const char *text) {
    char whole[512], parent[512];
    snprintf(whole, sizeof whole, "%s%s", folder, path);
    snprintf(parent, sizeof parent, "%s", whole);
    *strrchr(parent, '/') = '\0';
    assert_int_equal(pr_path_mkdirs(parent, NULL), PR_OK);
    FILE *f = fopen(whole, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    fclose(f);
}

static const char *at(const char *path) {
    static char whole[512];
    snprintf(whole, sizeof whole, "%s%s", folder, path);
    return whole;
}

/* ---- files ---- */

static void time_goes_on(void **state) {
    (void)state;
    uint64_t a = pr_now_ns();
    double s = pr_now();
    uint64_t b = pr_now_ns();
    assert_true(a > 0 && b >= a);
    assert_true(s >= (double)a * 1e-9 - 1e-3 && s <= (double)b * 1e-9 + 1e-3);
}

static void reads_where_told(void **state) {
    (void)state;
    put("/data", "0123456789");
    pr_file file;
    pr_err err = {0};
    char buf[16] = {0};
    assert_int_equal(pr_file_open(at("/data"), &file, &err), PR_OK);
    assert_int_equal(file.size, 10);
    assert_int_equal(pr_file_read(&file, 3, buf, 4, &err), PR_OK);
    assert_string_equal(buf, "3456");
    assert_int_equal(pr_file_read(&file, 10, buf, 0, &err), PR_OK);
    assert_int_equal(pr_file_read(&file, 8, buf, 3, &err), PR_ERR_FORMAT);
    assert_non_null(strstr(err.text, "truncated"));
    assert_int_equal(pr_file_read(&file, UINT64_MAX, buf, 1, &err), PR_ERR_FORMAT);
    assert_int_equal(pr_file_read(&file, INT64_MAX, buf, 2, &err), PR_ERR_FORMAT);
    pr_file_willneed(&file, 0, 10);
    pr_file_dontneed(&file, 0, 10);
    pr_file_close(&file);
    pr_file_close(&file);
    assert_int_equal(file.fd, -1);
}

static void opens_regular_files_only(void **state) {
    (void)state;
    pr_file file;
    pr_err err = {0};
    assert_int_equal(pr_file_open(at("/none"), &file, &err), PR_ERR_NOTFOUND);
    assert_non_null(strstr(err.text, "/none"));
    assert_int_equal(file.fd, -1);
    assert_int_equal(pr_file_open(folder, &file, &err), PR_ERR_ARG);
    assert_int_equal(mkfifo(at("/fifo"), 0600), 0);
    assert_int_equal(pr_file_open(at("/fifo"), &file, &err), PR_ERR_ARG); /* and does not hang */
    assert_int_equal(pr_file_open("/dev/null", &file, &err), PR_ERR_ARG);
}

static void short_reads_are_continued(void **state) {
    (void)state;
    put("/data", "0123456789");
    char *text;
    size_t len;
    pr_err err = {0};
    for (int64_t n = 1; n <= 11; n++) {
        pr_file_fault(n);
        assert_int_equal(pr_file_slurp(at("/data"), 100, &text, &len, &err), PR_OK);
        assert_int_equal(len, 10);
        assert_string_equal(text, "0123456789");
        pr_free(text);
    }
}

static void a_changed_file_is_noticed(void **state) {
    (void)state;
    put("/data", "0123456789");
    pr_file file;
    struct stat st;
    assert_int_equal(pr_file_open(at("/data"), &file, NULL), PR_OK);
    assert_false(pr_file_changed(&file));
    assert_int_equal(stat(at("/data"), &st), 0);
    const struct timespec times[2] = {st.st_atim, {st.st_mtim.tv_sec, st.st_mtim.tv_nsec ^ 1}};
    assert_int_equal(utimensat(AT_FDCWD, at("/data"), times, 0), 0);
    assert_true(pr_file_changed(&file));
    pr_file_close(&file);
    assert_int_equal(pr_file_open(at("/data"), &file, NULL), PR_OK);
    assert_false(pr_file_changed(&file));
    assert_int_equal(stat(at("/data"), &st), 0);
    assert_int_equal(truncate(at("/data"), 9), 0);
    const struct timespec same[2] = {st.st_atim, st.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, at("/data"), same, 0), 0);
    assert_true(pr_file_changed(&file));
    pr_file_close(&file);
    assert_true(pr_file_changed(&file)); /* closed: whatever it was, it cannot be vouched for */
}

static void a_dying_disk_is_reported(void **state) {
    (void)state;
    put("/data", "0123456789");
    pr_file file;
    pr_err err = {0};
    char buf[4];
    assert_int_equal(pr_file_open(at("/data"), &file, &err), PR_OK);
    pr_file_fault(-2);
    assert_int_equal(pr_file_read(&file, 0, buf, 4, &err), PR_OK);
    assert_int_equal(pr_file_read(&file, 0, buf, 4, &err), PR_OK);
    assert_int_equal(pr_file_read(&file, 0, buf, 4, &err), PR_ERR_IO);
    assert_int_equal(pr_file_read(&file, 0, buf, 4, &err), PR_ERR_IO);
    pr_file_fault(0);
    assert_int_equal(pr_file_read(&file, 0, buf, 4, &err), PR_OK);
    pr_file_close(&file);
}

static void slurp_is_bounded(void **state) {
    (void)state;
    put("/data", "0123456789");
    put("/empty", "");
    size_t before = pr_mem_total(), len;
    char *text;
    pr_err err = {0};
    assert_int_equal(pr_file_slurp(at("/data"), 10, &text, &len, &err), PR_OK);
    pr_free(text);
    assert_int_equal(pr_file_slurp(at("/data"), 9, &text, &len, &err), PR_ERR_LIMIT);
    assert_null(text);
    assert_int_equal(pr_file_slurp(at("/empty"), 0, &text, &len, &err), PR_OK);
    assert_string_equal(text, "");
    pr_free(text);
    pr_mem_fail_after(0, false);
    assert_int_equal(pr_file_slurp(at("/data"), 10, &text, &len, &err), PR_ERR_NOMEM);
    pr_mem_fail_after(-1, false);
    pr_file_fault(-1);
    assert_int_equal(pr_file_slurp(at("/data"), 10, &text, &len, &err), PR_OK);
    pr_free(text);
    assert_int_equal(pr_file_slurp(at("/data"), 10, &text, &len, &err), PR_ERR_IO);
    assert_non_null(strstr(err.text, "/data: "));
    assert_int_equal(pr_mem_total(), before);
}

static void makes_folders(void **state) {
    (void)state;
    pr_err err = {0};
    assert_int_equal(pr_path_mkdirs(at("/a/b/c/"), &err), PR_OK);
    assert_int_equal(pr_path_mkdirs(at("/a/b/c"), &err), PR_OK);
    assert_true(pr_path_is_dir(at("/a/b/c")));
    assert_true(pr_path_exists(at("/a/b")));
    assert_false(pr_path_exists(at("/a/x")));
    put("/a/file", "");
    assert_true(pr_path_exists(at("/a/file")));
    assert_false(pr_path_is_dir(at("/a/file")));
    assert_int_equal(pr_path_mkdirs(at("/a/file/deep"), &err), PR_ERR_IO);
    assert_non_null(strstr(err.text, "/a/file"));
    assert_int_equal(symlink("nowhere", at("/a/dangling")), 0);
    assert_int_equal(pr_path_mkdirs(at("/a/dangling"), &err), PR_ERR_IO);
    assert_non_null(strstr(err.text, strerror(EEXIST))); /* why it was not made, not that it is not there */
    assert_int_equal(pr_path_mtime_ns(at("/a/dangling")), 0);
    assert_true(pr_path_mtime_ns(at("/a/file")) > 0);
    unlink(at("/a/dangling"));
    assert_int_equal(pr_path_mkdirs("", &err), PR_ERR_ARG);
    pr_mem_fail_after(0, false);
    assert_int_equal(pr_path_mkdirs(at("/z"), &err), PR_ERR_NOMEM);
    pr_mem_fail_after(-1, false);
    assert_true(pr_disk_free(folder) > 0);
    assert_int_equal(pr_disk_free(at("/nowhere")), 0);
}

/* ---- machines ---- */

static void this_machine_makes_sense(void **state) {
    (void)state;
    assert_true(pr_ram_total() > 1 << 20);
    assert_true(pr_ram_available() > 0 && pr_ram_available() <= pr_ram_total());
    assert_true(pr_memory_limit() > 0 && pr_memory_limit() <= pr_ram_total());
    assert_true(pr_rss_bytes() > 0);
    assert_true(pr_rss_peak_bytes() > 0);
    assert_true(pr_cpu_allowed() >= 1);
    assert_true(pr_cpu_quota() >= 0);
    assert_true(strlen(pr_cpu_name()) > 0);
}

#define MEMINFO "MemTotal:       16000000 kB\nMemFree:  1 kB\nMemAvailable:    8000000 kB\n"

static void ram_from_meminfo(void **state) {
    (void)state;
    put("/proc/meminfo", MEMINFO);
    put("/proc/self/status", "Name:\tx\nVmHWM:\t    300 kB\nVmRSS:\t    200 kB\n");
    pr__os_root(folder);
    assert_int_equal(pr_ram_total(), 16000000ull * 1024);
    assert_int_equal(pr_ram_available(), 8000000ull * 1024);
    assert_int_equal(pr_memory_limit(), 16000000ull * 1024); /* no groups at all */
    assert_int_equal(pr_rss_bytes(), 200 * 1024);
    assert_int_equal(pr_rss_peak_bytes(), 300 * 1024);
    assert_true(pr_cpu_quota() == 0);
}

static void v2_takes_the_smallest_of_all_ancestors(void **state) {
    (void)state;
    put("/proc/meminfo", MEMINFO);
    put("/proc/self/cgroup", "0::/app.slice/precis.service\n");
    put("/sys/fs/cgroup/app.slice/precis.service/memory.max", "max\n");
    put("/sys/fs/cgroup/app.slice/precis.service/cpu.max", "150000 100000\n");
    put("/sys/fs/cgroup/app.slice/memory.max", "1073741824\n");
    put("/sys/fs/cgroup/app.slice/cpu.max", "max 100000\n");
    pr__os_root(folder);
    assert_int_equal(pr_memory_limit(), 1073741824);
    assert_true(pr_cpu_quota() == 1.5);
    assert_true(pr_cpu_allowed() <= 2);
    put("/sys/fs/cgroup/app.slice/precis.service/memory.high", "1000000000\n");
    assert_int_equal(pr_memory_limit(), 1000000000);
    put("/sys/fs/cgroup/app.slice/precis.service/memory.max", "536870912\n");
    put("/sys/fs/cgroup/app.slice/cpu.max", "50000 100000\n");
    assert_int_equal(pr_memory_limit(), 536870912);
    assert_true(pr_cpu_quota() == 0.5);
    assert_int_equal(pr_cpu_allowed(), 1);
}

static void v2_in_a_container_is_the_mount_itself(void **state) {
    (void)state;
    put("/proc/meminfo", MEMINFO);
    put("/proc/self/cgroup", "0::/\n");
    put("/sys/fs/cgroup/memory.max", "90000000\n");
    put("/sys/fs/cgroup/cpu.max", "25000 100000\n");
    pr__os_root(folder);
    assert_int_equal(pr_memory_limit(), 90000000);
    assert_true(pr_cpu_quota() == 0.25);
}

static void v1_has_a_tree_a_controller(void **state) {
    (void)state;
    put("/proc/meminfo", MEMINFO);
    put("/proc/self/cgroup",
        "12:cpuset:/other\n5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n1:name=systemd:/\n0::/x\n");
    put("/sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes", "2000000000\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/cpu/docker/ab/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu/docker/ab/cpu.cfs_period_us", "100000\n");
    put("/sys/fs/cgroup/cpu/docker/cpu.cfs_quota_us", "200000\n");
    put("/sys/fs/cgroup/cpu/docker/cpu.cfs_period_us", "100000\n");
    pr__os_root(folder);
    assert_int_equal(pr_memory_limit(), 2000000000);
    assert_true(pr_cpu_quota() == 2.0);
}

static void v1_whose_path_is_not_in_the_mount(void **state) {
    (void)state;
    put("/proc/meminfo", MEMINFO);
    put("/proc/self/cgroup", "4:memory:/docker/0123456789\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "700000000\n");
    pr__os_root(folder);
    assert_int_equal(pr_memory_limit(), 700000000);
}

static void odd_files_limit_nothing(void **state) {
    (void)state;
    put("/proc/meminfo", MEMINFO);
    put("/proc/self/cgroup", "garbage\n\n0:\n0::\n::::\n0::/../..\n");
    put("/sys/fs/cgroup/memory.max", "lots\n");
    put("/sys/fs/cgroup/cpu.max", "\n");
    pr__os_root(folder);
    assert_int_equal(pr_memory_limit(), 16000000ull * 1024);
    assert_true(pr_cpu_quota() == 0);
    put("/sys/fs/cgroup/cpu.max", "1000 0\n");
    assert_true(pr_cpu_quota() == 0);
}

static void descriptors_are_allowed_but_not_beyond_the_limit(void **state) {
    (void)state;
    struct rlimit before, after;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    struct rlimit low = {.rlim_cur = 100, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    assert_int_equal(pr_files_allow(50), 100); /* never lowered */
    assert_int_equal(pr_files_allow(120), 120);
    assert_int_equal(pr_files_allow(UINT64_MAX - 1), before.rlim_max);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &after), 0);
    assert_int_equal(after.rlim_cur, before.rlim_max);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

#define with_folder(test) cmocka_unit_test_setup_teardown(test, folder_make, folder_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_goes_on),
        with_folder(reads_where_told),
        with_folder(opens_regular_files_only),
        with_folder(short_reads_are_continued),
        with_folder(a_changed_file_is_noticed),
        with_folder(a_dying_disk_is_reported),
        with_folder(slurp_is_bounded),
        with_folder(makes_folders),
        cmocka_unit_test(this_machine_makes_sense),
        cmocka_unit_test(descriptors_are_allowed_but_not_beyond_the_limit),
        with_folder(ram_from_meminfo),
        with_folder(v2_takes_the_smallest_of_all_ancestors),
        with_folder(v2_in_a_container_is_the_mount_itself),
        with_folder(v1_has_a_tree_a_controller),
        with_folder(v1_whose_path_is_not_in_the_mount),
        with_folder(odd_files_limit_nothing),
    };
    return cmocka_run_group_tests_name("os", tests, NULL, NULL);
}
