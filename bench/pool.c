/*
 * What the thread team costs, and what it keeps beside a busy neighbour.
 *
 *   build/release/bench/pool [threads [microseconds of work in a loop]]
 *
 * First the time of an empty loop and an empty run. Then steps of 240 loops in
 * 16 chunks each, alone and beside a process that never sleeps, in turns; the
 * median of each, and how much processor time the team got, from which the fair
 * share follows: 0.75 of two processors for two threads beside one process of
 * the same group, 0.67 beside one of another.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/os.h"
#include "base/pool.h"

enum { LOOPS = 240, CHUNKS = 16, ROUNDS = 7, EMPTY_LOOPS = 20000, THREADS_MAX = 256 };
static const double round_seconds = 0.5;

typedef struct bench {
    pr_team *team;
    uint32_t n_loops, n_chunks;
    long work;                    /* rounds of arithmetic a chunk */
    double cpu[THREADS_MAX];      /* seconds */
    double sink[THREADS_MAX * 8]; /* a cache line each */
} bench;

static void chunk(void *ctx, uint32_t index, int thread) {
    bench *b = ctx;
    double x = index;
    for (long i = 0; i < b->work; i++) x = x * 0.999 + 1;
    b->sink[thread * 8] = x;
}

static void step(void *ctx, int thread) {
    bench *b = ctx;
    for (uint32_t i = 0; i < b->n_loops; i++) pr_team_for(b->team, thread, b->n_chunks, chunk, b);
}

static void read_cpu(void *ctx, int thread) {
    bench *b = ctx;
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    b->cpu[thread] = (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double team_cpu(bench *b) {
    double sum = 0;
    pr_team_run(b->team, read_cpu, b);
    for (int i = 0; i < pr_team_size(b->team); i++) sum += b->cpu[i];
    return sum;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values) {
    qsort(values, ROUNDS, sizeof *values, by_value);
    return values[ROUNDS / 2];
}

static void bench_empty(bench *b) {
    static const uint32_t chunks[] = {1, 2, 16};
    double ns[ROUNDS];
    b->work = 0;
    b->n_loops = EMPTY_LOOPS;
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        b->n_chunks = chunks[i];
        for (int r = 0; r < ROUNDS; r++) {
            double start = pr_now();
            pr_team_run(b->team, step, b);
            ns[r] = (pr_now() - start) / EMPTY_LOOPS * 1e9;
        }
        printf("empty loop, %2u chunks  %7.0f ns\n", chunks[i], median(ns));
    }
    b->n_loops = 0;
    for (int r = 0; r < ROUNDS; r++) {
        double start = pr_now();
        for (int i = 0; i < 1000; i++) pr_team_run(b->team, step, b);
        ns[r] = (pr_now() - start) * 1e6;
    }
    printf("empty run              %7.0f ns\n", median(ns));
}

/* Arithmetic that makes a loop last so long when each thread does its part. */
static long calibrate(bench *b, double loop_us) {
    const long trial = 100000;
    double best = 1;
    for (int i = 0; i < 30; i++) {
        b->work = trial;
        double start = pr_now();
        chunk(b, 0, 0);
        double took = pr_now() - start;
        if (took < best) best = took;
    }
    return (long)(loop_us * 1e-6 * pr_team_size(b->team) / CHUNKS / (best / (double)trial));
}

/* Steps a second; *cpus is the processor time the team got for it. */
static double steps_a_second(bench *b, double *cpus) {
    double cpu = team_cpu(b), start = pr_now(), now = start;
    int n = 0;
    for (; now - start < round_seconds; now = pr_now(), n++) pr_team_run(b->team, step, b);
    *cpus = (team_cpu(b) - cpu) / (now - start);
    return n / (now - start);
}

static pid_t start_neighbour(void) {
    pid_t child = fork();
    if (child == 0) {
        for (volatile unsigned i = 0;; i++) {
        }
    }
    usleep(200 * 1000); /* until the system has placed it */
    return child;
}

static void bench_crowded(bench *b) {
    double alone[ROUNDS], beside[ROUNDS], cpus_alone[ROUNDS], cpus_beside[ROUNDS];
    for (int r = 0; r < ROUNDS; r++) {
        alone[r] = steps_a_second(b, &cpus_alone[r]);
        pid_t neighbour = start_neighbour();
        beside[r] = steps_a_second(b, &cpus_beside[r]);
        if (neighbour > 0) {
            kill(neighbour, SIGKILL);
            waitpid(neighbour, NULL, 0);
        }
    }
    double ratio = median(beside) / median(alone), cpus = median(cpus_beside) / median(cpus_alone);
    printf("alone                  %7.1f steps/s on %.2f processors\n", alone[ROUNDS / 2], cpus_alone[ROUNDS / 2]);
    printf("beside a busy process  %7.1f steps/s on %.2f processors\n", beside[ROUNDS / 2], cpus_beside[ROUNDS / 2]);
    printf("kept                   %7.2f of the speed, with %.2f of the processor time\n", ratio, cpus);
}

int main(int argc, char **argv) {
    int n_threads = argc > 1 ? (int)strtol(argv[1], NULL, 10) : pr_cpu_allowed();
    double loop_us = argc > 2 ? strtod(argv[2], NULL) : 10;
    static bench b;
    pr_err err = {0};
    if (n_threads > THREADS_MAX) n_threads = THREADS_MAX;
    if (pr_team_open(n_threads, 0, &b.team, &err) != PR_OK) {
        fprintf(stderr, "bench/pool: %s\n", err.text);
        return 1;
    }
    printf("%d threads, loops of %g us\n", n_threads, loop_us);
    bench_empty(&b);
    b.work = calibrate(&b, loop_us);
    b.n_loops = LOOPS;
    b.n_chunks = CHUNKS;
    bench_crowded(&b);
    pr_team_close(b.team);
    return 0;
}
