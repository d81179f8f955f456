/*
 * Timeline: a ring behind one lock. Decisions are rare, so nothing cleverer is needed.
 */
#include "governor/timeline.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "base/str.h"

struct pr_timeline {
    pthread_mutex_t lock;
    uint32_t capacity;
    uint64_t last;           /* number of the newest entry */
    pr_timeline_entry *ring; /* [capacity] entry `seq` stands at seq % capacity */
};

pr_status pr_timeline_open(uint32_t capacity, pr_timeline **out, pr_err *err) {
    *out = NULL;
    if (capacity == 0) return pr_fail(err, PR_ERR_ARG, "timeline: no entries");
    pr_timeline *t = pr_calloc(PR_TAG_MISC, 1, sizeof *t);
    if (!t) return pr_fail_nomem(err, "timeline", sizeof *t);
    t->ring = pr_calloc(PR_TAG_MISC, capacity, sizeof *t->ring);
    if (!t->ring) {
        pr_free(t);
        return pr_fail_nomem(err, "timeline", capacity * sizeof *t->ring);
    }
    t->capacity = capacity;
    pthread_mutex_init(&t->lock, NULL);
    *out = t;
    return PR_OK;
}

const char *pr_timeline_kind_name(pr_timeline_kind kind) {
    switch (kind) {
    case PR_TIMELINE_MOVE: return "move";
    case PR_TIMELINE_LOAD: return "load";
    case PR_TIMELINE_CLOSE: break;
    }
    return "close";
}

void pr_timeline_close(pr_timeline *t) {
    if (!t) return;
    pthread_mutex_destroy(&t->lock);
    pr_free(t->ring);
    pr_free(t);
}

/* Terminate a text that may fill its array; half a character at the end goes. */
static void terminate(char *text, size_t size) {
    size_t len = strnlen(text, size);
    if (len == size) len = pr_utf8_complete(text, size - 1);
    text[len] = '\0';
}

uint64_t pr_timeline_append(pr_timeline *t, const pr_timeline_entry *entry) {
    pr_timeline_entry copy = *entry;
    terminate(copy.model, sizeof copy.model);
    terminate(copy.reason, sizeof copy.reason);
    pthread_mutex_lock(&t->lock);
    copy.seq = ++t->last;
    t->ring[copy.seq % t->capacity] = copy;
    pthread_mutex_unlock(&t->lock);
    return copy.seq;
}

size_t pr_timeline_read(pr_timeline *t, uint64_t after, pr_timeline_entry *out, size_t max, uint64_t *missed) {
    pthread_mutex_lock(&t->lock);
    uint64_t held = t->last < t->capacity ? t->last : t->capacity,
             oldest = t->last - held; /* held: oldest + 1 .. last */
    uint64_t from = after > oldest ? after : oldest;
    size_t n = 0;
    for (uint64_t seq = from + 1; seq <= t->last && n < max; seq++) out[n++] = t->ring[seq % t->capacity];
    pthread_mutex_unlock(&t->lock);
    if (missed) *missed = from - after;
    return n;
}

uint64_t pr_timeline_last(pr_timeline *t) {
    pthread_mutex_lock(&t->lock);
    uint64_t last = t->last;
    pthread_mutex_unlock(&t->lock);
    return last;
}
