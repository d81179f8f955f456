/*
 * checkasm: command line, reporting and timing. See checkasm.h.
 *
 *   checkasm [--seed N]         check every table this machine can run
 *   checkasm --bench [FILTER]   time the functions whose NAME.ISA has FILTER in it
 *
 * The report is TAP-like: "ok NAME.ISA", "not ok NAME.ISA", "SKIPPED ISA ...".
 */
#include "checkasm.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/os.h"

static const struct {
    uint32_t isa;
    const char *name;
} isas[] = {{0, "scalar"}, {PR_CPU_AVX2, "avx2"}, {PR_CPU_AVXVNNI, "avxvnni"}, {PR_CPU_AVX512, "avx512"}};

enum { N_ISAS = sizeof isas / sizeof isas[0] };

static char current[64]; /* NAME.ISA under test */
static bool current_failed;
static int n_passed, n_failed;
static const char *bench_filter;

/* ---- random numbers ---- */

static uint64_t random_state;

void random_seed(uint64_t seed) { random_state = seed; }

uint32_t random_u32(void) { /* splitmix64 */
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

uint32_t random_below(uint32_t n) { return (uint32_t)((uint64_t)random_u32() * n >> 32); }

float random_float(void) {
    float sum = 0.0f;
    for (int i = 0; i < 4; i++) {
        sum += (float)random_u32() * 0x1p-32f - 0.5f;
    }
    return sum * 1.7320508f;
}

void random_bytes(void *out, size_t n) {
    for (uint8_t *p = out; n > 0; n--) {
        *p++ = (uint8_t)random_u32();
    }
}

void random_floats(float *out, size_t n, float_kind kind) {
    for (size_t i = 0; i < n; i++) {
        float x = random_float();
        switch (kind) {
        case FLOATS_PLAIN: break;
        case FLOATS_ZERO: x = 0.0f; break;
        case FLOATS_LARGE: x = x < 0 ? -3e38f : 3e38f; break;
        case FLOATS_TINY: x *= 1e-38f; break;
        case FLOATS_MIXED: x *= ldexpf(1.0f, (int)random_below(60) - 30); break;
        case FLOATS_BROKEN:
            if (random_below(8) == 0) {
                static const float broken[] = {NAN, INFINITY, -INFINITY};
                x = broken[random_below(3)];
            }
            break;
        case FLOAT_KINDS: break;
        }
        out[i] = x;
    }
}

/* ---- checking ---- */

void check_begin(const char *name, const pr_kernels *k) {
    snprintf(current, sizeof current, "%s.%s", name, k->name);
    current_failed = false;
}

void check_end(void) {
    printf("%s %s\n", current_failed ? "not ok" : "ok", current);
    fflush(stdout);
    n_failed += current_failed;
    n_passed += !current_failed;
    guard_free_all();
}

static void differ(size_t at, const char *fmt, va_list args) {
    if (!current_failed) {
        printf("# %s differs at %zu: ", current, at);
        vprintf(fmt, args);
        printf("\n");
    }
    current_failed = true;
}

static bool same_float(float a, float b) {
    uint32_t x, y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    return x == y || (isnan(a) && isnan(b));
}

bool check_floats(const float *want, const float *got, size_t n, const char *fmt, ...) {
    for (size_t i = 0; i < n; i++) {
        if (!same_float(want[i], got[i])) {
            va_list args;
            va_start(args, fmt);
            if (!current_failed) {
                printf("# want %a, got %a\n", (double)want[i], (double)got[i]);
            }
            differ(i, fmt, args);
            va_end(args);
            return false;
        }
    }
    return true;
}

bool check_bytes(const void *want, const void *got, size_t n, const char *fmt, ...) {
    const uint8_t *a = want, *b = got;
    for (size_t i = 0; i < n; i++) {
        if (a[i] != b[i]) {
            va_list args;
            va_start(args, fmt);
            differ(i, fmt, args);
            va_end(args);
            return false;
        }
    }
    return true;
}

static void say(const char *text) {
    if (write(STDOUT_FILENO, text, strlen(text)) < 0) {
        _exit(1);
    }
}

static void on_crash(int sig) {
    (void)sig;
    say("not ok ");
    say(current);
    say(" # crashed: a guard page was touched?\n");
    _exit(1);
}

/* ---- timing ---- */

/* This thread's processor time: what a busy neighbour takes away does not count. */
static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Nanoseconds of the fastest of some rounds. */
static double time_one(const pr_kernels *k, bench_fn *run, void *ctx, uint32_t part) {
    enum { ROUNDS = 25, SLOW_ROUNDS = 5 };
    double start = now_ns();
    run(k, ctx, part);
    double best = now_ns() - start + 1.0;
    int reps = best > 1e6 ? 1 : (int)(1e6 / best) + 1;
    int rounds = best > 1e8 ? SLOW_ROUNDS : ROUNDS;
    for (int r = 0; r < rounds; r++) {
        start = now_ns();
        for (int i = 0; i < reps; i++) {
            run(k, ctx, part);
        }
        double ns = (now_ns() - start) / reps;
        best = ns < best ? ns : best;
    }
    return best * part;
}

void bench_case(const char *name, bench_fn *run, void *ctx, uint32_t scalar_part, double bytes, double macs) {
    double scalar = 0.0;
    for (int i = 0; i < N_ISAS; i++) {
        const pr_kernels *k = pr_kernels_of(isas[i].isa);
        char full[64];
        snprintf(full, sizeof full, "%s.%s", name, isas[i].name);
        if (k == NULL || (bench_filter != NULL && strstr(full, bench_filter) == NULL)) {
            continue;
        }
        double ns = time_one(k, run, ctx, i == 0 ? scalar_part : 1);
        scalar = i == 0 ? ns : scalar;
        printf("%-29s %12.0f ns", full, ns);
        if (bytes > 0) {
            printf(" %7.1f GB/s", bytes / ns);
        } else {
            printf("            -");
        }
        if (macs > 0) {
            printf(" %7.1f GMAC/s", macs / ns);
        } else {
            printf("              -");
        }
        if (scalar > 0) {
            printf(" %7.1fx", scalar / ns);
        }
        printf("\n");
        fflush(stdout);
    }
}

/* What one thread can read: the roof of every memory-bound kernel. */
static void read_all(const pr_kernels *k, void *ctx, uint32_t part) {
    (void)k;
    (void)part;
    const uint64_t *p = ctx;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < (256u << 20) / sizeof *p; i += 8) {
        for (size_t j = 0; j < 8; j++) {
            sum[j] += p[i + j];
        }
    }
    volatile uint64_t sink = sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
    (void)sink;
}

static int bench(const char *filter) {
    bench_filter = filter;
    printf("# %s\n", pr_cpu_name());
    if (filter == NULL || strstr("read", filter) != NULL) {
        void *block = guard_alloc(256u << 20);
        double ns = time_one(pr_kernels_of(0), read_all, block, 1);
        printf("# one thread reads %.1f GB/s of memory\n", (256u << 20) / ns);
        guard_free_all();
    }
    bench_mm();
    bench_planes();
    bench_attend();
    bench_kv();
    bench_rows();
    return 0;
}

static int check(uint64_t seed) {
    const pr_kernels *ref = pr_kernels_of(0);
    printf("# seed %llu\n", (unsigned long long)seed);
    for (int i = 1; i < N_ISAS; i++) {
        const pr_kernels *k = pr_kernels_of(isas[i].isa);
        if (k == NULL) {
            printf("SKIPPED %s: not on this processor or not in this build\n", isas[i].name);
            continue;
        }
        random_seed(seed);
        check_mm(ref, k);
        check_planes(ref, k);
        if (isas[i].isa == PR_CPU_AVXVNNI) continue; /* the rest are AVX2's functions, and checked there */
        check_rows(ref, k);
        check_kv(ref, k);
        check_attend(ref, k);
    }
    printf("# %d passed, %d failed\n", n_passed, n_failed);
    return n_failed == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    uint64_t seed = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bench") == 0) {
            return bench(i + 1 < argc ? argv[i + 1] : NULL);
        }
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            seed = strtoull(argv[++i], NULL, 0);
            continue;
        }
        fprintf(stderr, "usage: checkasm [--seed N] | --bench [FILTER]\n");
        return 2;
    }
    signal(SIGSEGV, on_crash);
    signal(SIGBUS, on_crash);
    return check(seed);
}
