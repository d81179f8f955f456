/*
 * A ring of moments. Times may be equal, or go back when somebody sets the clock: they are given out as they came.
 */
#include "api/history.h"

#include <pthread.h>

#include "base/mem.h"

struct pr__history {
    pthread_mutex_t lock;
    size_t n; /* ever added */
    pr__moment ring[PR__HISTORY_MAX];
};

pr_status pr__history_open(pr__history **out, pr_err *err) {
    pr__history *h = *out = pr_calloc(PR_TAG_HTTP, 1, sizeof *h);
    if (!h) return pr_fail_nomem(err, "history", sizeof *h);
    pthread_mutex_init(&h->lock, NULL);
    return PR_OK;
}

void pr__history_close(pr__history *h) {
    if (!h) return;
    pthread_mutex_destroy(&h->lock);
    pr_free(h);
}

void pr__history_add(pr__history *h, const pr__moment *moment) {
    pthread_mutex_lock(&h->lock);
    h->ring[h->n++ % PR__HISTORY_MAX] = *moment;
    pthread_mutex_unlock(&h->lock);
}

size_t pr__history_read(pr__history *h, double after, pr__moment *out) {
    size_t n = 0;
    pthread_mutex_lock(&h->lock);
    for (size_t i = h->n > PR__HISTORY_MAX ? h->n - PR__HISTORY_MAX : 0; i < h->n; i++) {
        const pr__moment *m = &h->ring[i % PR__HISTORY_MAX];
        if (m->time > after) out[n++] = *m;
    }
    pthread_mutex_unlock(&h->lock);
    return n;
}
