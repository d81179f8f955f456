/*
 * Waking many at once.
 *
 * To resume a connection wakes the server's thread, and that goes at once, before whoever woke it: eight texts of a step, one
 * after the other, were eight times there and back, often only to wait for a lock. So while a thread holds, what it wakes is put on a
 * list; at the end one connection is resumed, and the server's thread, awake then, resumes the rest itself before it looks at that
 * one. Where that one is closed instead it does so, too; and the watch looks now and then.
 *
 * A request on a list is suspended for the library and for nobody else, and the list holds a reference.
 */
#include <time.h>

#include "http/server_impl.h"

static _Thread_local struct {
    bool on;
    pr_http_req *first;
} held;

bool pr__wake_later(pr_http_req *req) {
    if (!held.on) return false;
    req->refs++;
    atomic_fetch_add(&req->server->n_waking, 1);
    req->wake_next = held.first;
    held.first = req;
    return true;
}

static void resume(pr_http_req *req) {
    pr_http_server *s = req->server;
    pthread_mutex_lock(&req->lock);
    if (req->con) MHD_resume_connection(req->con);
    pthread_mutex_unlock(&req->lock);
    pr_http_req_unref(req);
    atomic_fetch_sub(&s->n_waking, 1); /* the last touch: it may be stopping */
}

void pr__http_wake_all(pr_http_server *s) {
    if (!atomic_load(&s->waking)) return;
    for (pr_http_req *req = atomic_exchange(&s->waking, NULL), *next; req; req = next) {
        next = req->wake_next;
        resume(req);
    }
}

void pr__http_wake_stop(pr_http_server *s) {
    const struct timespec nap = {.tv_nsec = 1000000};
    while (atomic_load(&s->n_waking)) {
        pr__http_wake_all(s);
        nanosleep(&nap, NULL);
    }
}

static void push(pr_http_req *req) {
    pr_http_server *s = req->server;
    req->wake_next = atomic_load(&s->waking);
    while (!atomic_compare_exchange_weak(&s->waking, &req->wake_next, req)) continue;
}

void pr_http_hold(void) { held.on = true; }

void pr_http_release(void) {
    pr_http_req *first = held.first, *next;
    held.on = false;
    held.first = NULL;
    if (!first) return;
    for (pr_http_req *req = first->wake_next; req; req = next) {
        next = req->wake_next;
        if (req->server == first->server) push(req);
        else resume(req);
    }
    resume(first);
}
