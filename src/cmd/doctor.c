/*
 * precis doctor: what this machine offers, and what stands in the way.
 *
 * Every line is a fact with a verdict: good, worth knowing, or broken. Only
 * broken things make the command fail.
 */
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "cmd/bandwidth.h"
#include "cmd/commands.h"
#include "cmd/models.h"
#include "cmd/term.h"
#include "cmd/text.h"
#include "cmd/wheel.h"
#include "kernels/kernels.h"

typedef enum verdict { GOOD, NOTE, BAD } verdict;

typedef struct doctor {
    bool json;
    int n_bad;
    pr_str out;
} doctor;

static const char *verdict_name(verdict v) {
    switch (v) {
    case GOOD: return "good";
    case NOTE: return "note";
    case BAD: return "bad";
    }
    return "";
}

static const char *verdict_mark(verdict v) {
    bool utf8 = pr__term_utf8();
    switch (v) {
    case GOOD: return utf8 ? "✓" : "+";
    case NOTE: return "!";
    case BAD: return utf8 ? "✗" : "x";
    }
    return "";
}

static void tell(doctor *d, verdict v, const char *what, const char *fmt, ...) PR_PRINTF(4, 5);
static void tell(doctor *d, verdict v, const char *what, const char *fmt, ...) {
    pr_str text = {0};
    va_list args;
    va_start(args, fmt);
    pr_str_vprintf(&text, fmt, args);
    va_end(args);
    const char *told = pr_str_ok(&text) ? text.data : "out of memory";
    d->n_bad += v == BAD;
    if (!d->json) {
        pr_str_printf(&d->out, "%s %-12s%s\n", verdict_mark(v), what, told);
    } else {
        pr__json_key(&d->out, what);
        pr__json_open(&d->out);
        pr__json_text(&d->out, "verdict", verdict_name(v));
        pr__json_text(&d->out, "text", told);
        pr__json_close(&d->out);
    }
    pr_str_free(&text);
}

static void look_at_processor(doctor *d) {
    pr_str isa = {0};
    const pr_kernels *best = pr_kernels_get(0);
    static const uint32_t sets[] = {PR_CPU_AVX2, PR_CPU_AVX512};
    tell(d, GOOD, "processor", "%s", pr_cpu_name());
    pr_str_puts(&isa, "scalar");
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        const pr_kernels *k = pr_kernels_of(sets[i]);
        if (k) pr_str_printf(&isa, ", %s", k->name);
    }
    bool plain = !strcmp(best->name, "scalar");
    tell(d, plain ? NOTE : GOOD, "kernels", "%s; %s is used%s", pr_str_ok(&isa) ? isa.data : "?", best->name,
         plain ? ": this processor has no AVX2, answers will be slow" : "");
    pr_str_free(&isa);
}

static void look_at_threads(doctor *d) {
    cpu_set_t set;
    int allowed = pr_cpu_allowed(), affine = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : allowed;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    double quota = pr_cpu_quota();
    if (quota > 0 && quota < affine) {
        tell(d, NOTE, "threads", "%d: the cgroup's CPU quota is %.2f of %ld processors", allowed, quota, online);
    } else if (affine < online) {
        tell(d, NOTE, "threads", "%d: affinity allows %d of %ld processors", allowed, affine, online);
    } else {
        tell(d, GOOD, "threads", "%d, all there are", allowed);
    }
}

static void look_at_memory(doctor *d) {
    char a[32], b[32], c[32];
    uint64_t total = pr_ram_total(), free_now = pr_ram_available(), limit = pr_memory_limit();
    tell(d, GOOD, "memory", "%s, %s available", pr_format_bytes(a, sizeof a, total),
         pr_format_bytes(b, sizeof b, free_now));
    if (limit < total) {
        tell(d, limit < (UINT64_C(1) << 30) ? NOTE : GOOD, "limit", "%s by cgroup",
             pr_format_bytes(c, sizeof c, limit));
    } else {
        tell(d, GOOD, "limit", "none below the memory itself");
    }
}

/* The setting in brackets: "always [madvise] never". */
static void look_at_huge_pages(doctor *d) {
    char line[100] = "";
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    bool read = f && fgets(line, sizeof line, f);
    if (f) fclose(f);
    char *from = strchr(line, '['), *to = from ? strchr(from, ']') : NULL;
    if (!read || !to) {
        tell(d, NOTE, "huge pages", "not known; without them reading weights is a few percent slower");
        return;
    }
    *to = '\0';
    bool never = !strcmp(from + 1, "never");
    tell(d, never ? NOTE : GOOD, "huge pages", "%s%s", from + 1,
         never ? ": reading weights is a few percent slower; as root: echo madvise > "
                 "/sys/kernel/mm/transparent_hugepage/enabled"
               : "");
}

/* The nearest folder above path that exists: where a download would end up. */
static void existing_part(char *path) {
    while (path[0] && !pr_path_exists(path)) {
        char *slash = strrchr(path, '/');
        if (!slash || slash == path) {
            snprintf(path, 2, "%s", slash ? "/" : ".");
            return;
        }
        *slash = '\0';
    }
}

static void look_at_folder(doctor *d) {
    char *dir = NULL, size[32];
    pr_err err = {0};
    pr_model_names names = {0};
    if (pr__models_dir(&dir, &err) != PR_OK || pr__models_names(dir, &names, &err) != PR_OK) {
        tell(d, BAD, "models", "%s", err.text);
        pr_free(dir);
        return;
    }
    char *there = pr_strdup(PR_TAG_MISC, dir);
    if (there) existing_part(there);
    bool writable = there && access(there, W_OK | X_OK) == 0;
    uint64_t left = there ? pr_disk_free(there) : 0;
    pr_format_bytes(size, sizeof size, left);
    if (!writable) tell(d, BAD, "models", "%s cannot be written: set PRECIS_MODELS to a folder that can", dir);
    else if (names.n == 0) tell(d, NOTE, "models", "none yet in %s (%s free): precis pull smollm2", dir, size);
    else tell(d, left < 1000000000 ? NOTE : GOOD, "models", "%zu in %s, %s free", names.n, dir, size);
    pr__models_names_free(&names);
    pr_free(there);
    pr_free(dir);
}

static void look_at_pip(doctor *d) {
    pr_str said = {0};
    bool pip = pr__wheel_pip(&said);
    const char *text = said.data ? said.data : "";
    if (pip) tell(d, GOOD, "pip", "%s", text);
    else tell(d, NOTE, "pip", "%s: `precis pull smollm2` needs it (Debian: apt install python3-pip)", text);
    pr_str_free(&said);
}

static void look_at_bandwidth(doctor *d) {
    double rate = 0;
    char text[32];
    pr_err err = {0};
    int n = pr_cpu_allowed();
    if (pr__bandwidth_measure(n, &rate, &err) != PR_OK) {
        tell(d, NOTE, "reading", "%s", err.text);
        return;
    }
    tell(d, GOOD, "reading",
         "%s a second from memory with %d threads: at most %.0f tokens a second for each GB of weights",
         pr_format_bytes(text, sizeof text, (uint64_t)rate), n, rate / 1e9);
}

int pr__cmd_doctor(int argc, const char **argv) {
    doctor d = {0};
    pr_args args;
    int code;
    const pr_flag flags[] = {{"json", 0, PR_FLAG_BOOL, NULL, "for scripts", &d.json, NULL, NULL}};
    const pr_flag_group group = {NULL, flags, 1, false};
    const pr_usage usage = {
        "doctor",
        "",
        "What this machine offers, and what stands in the way. Takes about a second;\n"
        "the exit code is 1 when something is broken.\n",
        &group,
        1,
        0,
        0,
    };
    if (!pr__cmd_begin(&usage, argc, argv, &args, &code)) return code;
    if (d.json) pr__json_open(&d.out);
    look_at_bandwidth(&d); /* first: it forks, and wants the machine for itself */
    look_at_processor(&d);
    look_at_threads(&d);
    look_at_memory(&d);
    look_at_huge_pages(&d);
    look_at_folder(&d);
    look_at_pip(&d);
    if (d.json) {
        pr__json_close(&d.out);
        pr_str_puts(&d.out, "\n");
    }
    int n_bad = d.n_bad;
    code = pr__cmd_print(&d.out);
    return code == PR_EXIT_OK && n_bad ? PR_EXIT_FAIL : code;
}
