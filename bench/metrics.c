/*
 * What metrics cost: a token's record, as the decode path makes it, from one thread and from several on one model.
 *
 *   build/release/bench/metrics [SECONDS]
 *
 * A record is a look at the clock and one addition to a histogram. A line for each number of threads: nanoseconds of processor
 * a record, and what a scrape's gathering and a window's summary take meanwhile, in microseconds of the clock.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "api/metrics.h"
#include "base/os.h"
#include "base/str.h"

enum { THREADS_MAX = 4, BATCH = 1000 };

static pr__model_metrics *model;
static atomic_bool ends;

typedef struct worker {
    pthread_t thread;
    uint64_t n;
    double seconds; /* of processor */
} worker;

static void *record(void *arg) {
    worker *w = arg;
    double at = pr_now();
    while (!atomic_load(&ends)) {
        for (int i = 0; i < BATCH; i++) {
            double now = pr_now();
            pr__metrics_latency(model, PR__LATENCY_NEXT_TOKEN, now - at);
            at = now;
        }
        w->n += BATCH;
    }
    struct timespec cpu = {0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    w->seconds = (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9;
    return NULL;
}

/* Microseconds a call of each kind of reading. */
static void read_all(pr__metrics *m, double until, double *view_us, double *summary_us) {
    static pr__model_view view;
    pr__summary summary;
    double view_seconds = 0, summary_seconds = 0;
    uint64_t n = 0;
    for (double now; (now = pr_now()) < until; n++) {
        pr__metrics_view(m, 0, &view);
        double between = pr_now();
        pr__metrics_summary(m, PR__WINDOW_MAX, now, &summary);
        view_seconds += between - now;
        summary_seconds += pr_now() - between;
    }
    *view_us = view_seconds / (double)n * 1e6;
    *summary_us = summary_seconds / (double)n * 1e6;
}

int main(int argc, char **argv) {
    double seconds = 1;
    if (argc > 1 && !pr_parse_f64(argv[1], &seconds)) return 2;
    pr__metrics *m;
    pr_err err = {0};
    if (pr__metrics_open(&m, &err)) {
        fprintf(stderr, "metrics: %s\n", err.text);
        return 1;
    }
    model = pr__metrics_model(m, "bench");
    printf("threads  ns/record  us/view  us/summary\n");
    for (int threads = 1; threads <= THREADS_MAX; threads *= 2) {
        worker workers[THREADS_MAX] = {0};
        double view_us = 0, summary_us = 0, until = pr_now() + seconds, all = 0, cpu = 0;
        atomic_store(&ends, false);
        for (int t = 0; t < threads; t++)
            if (pthread_create(&workers[t].thread, NULL, record, &workers[t])) return 1;
        read_all(m, until, &view_us, &summary_us);
        atomic_store(&ends, true);
        for (int t = 0; t < threads; t++) {
            pthread_join(workers[t].thread, NULL);
            all += (double)workers[t].n;
            cpu += workers[t].seconds;
        }
        printf("%7d  %9.1f  %7.1f  %10.1f\n", threads, cpu / all * 1e9, view_us, summary_us);
    }
    pr__metrics_close(m);
    return 0;
}
