/*
 * Log: format a line, hand it to the program's sink.
 *
 * The library has no opinion on where lines go, so there is exactly one sink
 * and no sink at first. It is called under a lock: lines never interleave, and
 * after pr_log_set() has returned the old sink is not called any more (so a
 * sink must not log). The level is read without the lock, which makes a line
 * that nobody wants cost one load.
 */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/str.h"

#define LINE_BYTES   2048 /* longer ones are allocated */
#define LEVEL_SILENT ((int)PR_LOG_ERROR + 1)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pr_log_sink the_sink;
static void *the_arg;
static atomic_int level_min = LEVEL_SILENT;

void pr_log_set(pr_log_sink sink, void *arg, pr_log_level min) {
    pthread_mutex_lock(&lock);
    the_sink = sink;
    the_arg = arg;
    atomic_store(&level_min, sink ? (int)min : LEVEL_SILENT);
    pthread_mutex_unlock(&lock);
}

bool pr_log_wants(pr_log_level level) { return (int)level >= atomic_load_explicit(&level_min, memory_order_relaxed); }

void pr_log(pr_log_level level, const char *fmt, ...) {
    if (!pr_log_wants(level)) return;
    char line[LINE_BYTES];
    pr_str more = {0};
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (len >= LINE_BYTES) { /* an object that was cut would be none */
        va_start(args, fmt);
        pr_str_vprintf(&more, fmt, args);
        va_end(args);
    }
    const char *whole = more.len && pr_str_ok(&more) ? more.data : line;
    pthread_mutex_lock(&lock);
    if (the_sink && (int)level >= atomic_load(&level_min)) the_sink(the_arg, level, whole);
    pthread_mutex_unlock(&lock);
    pr_str_free(&more);
}
