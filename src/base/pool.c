/*
 * Thread team: threads that walk one schedule together.
 *
 * A loop is over when its chunks are done, not when every thread has been
 * there. All of a loop's state is one 64-bit ticket {loop number, next chunk}:
 * a thread claims a chunk by compare-and-swap, the thread that finishes the last
 * one moves the ticket to the next loop. A thread that comes late, because the
 * system gave its processor to somebody else, finds the ticket past its own
 * loop number and just walks on until it has caught up. So a lost processor
 * costs its share of the work plus at most the one chunk it was taken away with.
 * The obvious alternative, static shares and a barrier that counts threads,
 * stops everybody at every loop until the preempted thread is back.
 *
 * Waiting is a short spin, then a futex. The spin covers the usual imbalance of
 * one chunk; the park frees the processor, on which the system can then run the
 * very thread that is waited for.
 *
 * Threads are not pinned one by one: a pinned thread cannot be moved away from a
 * busy neighbour. On machines with cores of different strength the workers are
 * bound to the set of strong ones.
 *
 * Invariants: ticket.epoch only grows; done belongs to the loop of the ticket;
 * a claim never succeeds for a loop other than the claimer's own.
 */
#include "base/pool.h"

#include <errno.h>
#include <hwloc.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "base/mem.h"
#include "base/os.h"

#ifdef __linux__
#include <linux/futex.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum {
    THREADS_MAX = 1024,
    SPIN_RUN_NS = 40 * 1000,  /* for the next run, or for its end */
    SPIN_LOOP_NS = 15 * 1000, /* for the chunks that others still hold */
    PAUSES_PER_LOOK = 4,
    LOOKS_PER_CLOCK = 8,
};

/* ---- gate: wait until something that others change has happened ---- */

/* Who changes the state opens the gate afterwards; who waits looks at the state
 * after having announced itself. All of it sequentially consistent, so one of
 * the two always sees the other. */
typedef struct gate {
    _Alignas(64) atomic_uint turn;
    atomic_uint parked;
#ifndef __linux__
    pthread_mutex_t lock;
    pthread_cond_t cond;
#endif
} gate;

#ifdef __linux__

static bool gate_init(gate *g) {
    atomic_init(&g->turn, 0);
    atomic_init(&g->parked, 0);
    return true;
}

static void gate_destroy(gate *g) { (void)g; }

/* Sleep unless the gate has been opened since turn was seen. */
static void gate_sleep(gate *g, unsigned turn) { syscall(SYS_futex, &g->turn, FUTEX_WAIT_PRIVATE, turn, NULL, NULL, 0); }

static void gate_open(gate *g) {
    if (atomic_load(&g->parked) == 0) return;
    atomic_fetch_add(&g->turn, 1);
    syscall(SYS_futex, &g->turn, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

#else

static bool gate_init(gate *g) {
    atomic_init(&g->turn, 0);
    atomic_init(&g->parked, 0);
    if (pthread_mutex_init(&g->lock, NULL) != 0) return false;
    if (pthread_cond_init(&g->cond, NULL) == 0) return true;
    pthread_mutex_destroy(&g->lock);
    return false;
}

static void gate_destroy(gate *g) {
    pthread_cond_destroy(&g->cond);
    pthread_mutex_destroy(&g->lock);
}

static void gate_sleep(gate *g, unsigned turn) {
    pthread_mutex_lock(&g->lock);
    while (atomic_load(&g->turn) == turn) pthread_cond_wait(&g->cond, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void gate_open(gate *g) {
    if (atomic_load(&g->parked) == 0) return;
    pthread_mutex_lock(&g->lock);
    atomic_fetch_add(&g->turn, 1);
    pthread_cond_broadcast(&g->cond);
    pthread_mutex_unlock(&g->lock);
}

#endif

/* ---- team ---- */

typedef struct worker {
    _Alignas(64) uint32_t epoch; /* loops this thread has left behind; its own */
    int index;
    pr_team *team;
    pthread_t thread;
} worker;

struct pr_team {
    /* the loop */
    _Alignas(64) atomic_uint_least64_t ticket; /* loop number << 32 | next chunk */
    _Alignas(64) atomic_uint_least32_t done;   /* finished chunks of that loop */
    gate loop_gate;                            /* a loop or a run is over */
    /* the run */
    _Alignas(64) atomic_uint run; /* number of the current run */
    atomic_int inside;            /* workers that have not returned from it */
    gate run_gate;                /* a run has begun */
    void (*fn)(void *ctx, int thread);
    void *ctx;
    bool stop;
    /* constant */
    int size, n_started, nice;
    hwloc_topology_t topology; /* NULL: no binding */
    hwloc_bitmap_t cpus;
    worker *workers; /* [size], 0 is the caller */
};

static void spin_pause(void) {
    for (int i = 0; i < PAUSES_PER_LOOK; i++) {
#if __has_builtin(__builtin_ia32_pause)
        __builtin_ia32_pause();
#else
        atomic_signal_fence(memory_order_seq_cst);
#endif
    }
}

/* Wait until over(team, arg) holds: spin for spin_ns, then park at g. */
static void wait_until(pr_team *team, gate *g, uint64_t spin_ns, bool (*over)(pr_team *team, uint32_t arg), uint32_t arg) {
    uint64_t start = 0;
    do {
        for (int i = 0; i < LOOKS_PER_CLOCK; i++) {
            if (over(team, arg)) return;
            spin_pause();
        }
        if (!start) start = pr_now_ns();
    } while (pr_now_ns() - start < spin_ns);
    for (;;) {
        unsigned turn = atomic_load(&g->turn);
        atomic_fetch_add(&g->parked, 1);
        bool is_over = over(team, arg);
        if (!is_over) gate_sleep(g, turn);
        atomic_fetch_sub(&g->parked, 1);
        if (is_over) return;
    }
}

/* ---- loops ---- */

static uint32_t epoch_of(uint64_t ticket) { return (uint32_t)(ticket >> 32); }

static bool loop_over(pr_team *team, uint32_t epoch) { return epoch_of(atomic_load(&team->ticket)) != epoch; }

/* The next chunk of loop epoch, or false when there is none left for anybody. */
static bool claim(pr_team *team, uint32_t epoch, uint32_t n_chunks, uint32_t *chunk) {
    uint64_t ticket = atomic_load_explicit(&team->ticket, memory_order_acquire);
    do {
        *chunk = (uint32_t)ticket;
        if (epoch_of(ticket) != epoch || *chunk >= n_chunks) return false;
    } while (!atomic_compare_exchange_weak_explicit(&team->ticket, &ticket, ticket + 1, memory_order_acquire,
                                                    memory_order_acquire));
    return true;
}

void pr_team_for(pr_team *team, int thread, uint32_t n_chunks, void (*body)(void *ctx, uint32_t chunk, int thread), void *ctx) {
    if (team->size == 1) {
        for (uint32_t chunk = 0; chunk < n_chunks; chunk++) body(ctx, chunk, thread);
        return;
    }
    if (n_chunks == 0) return;
    uint32_t epoch = team->workers[thread].epoch++;
    uint32_t mine = 0, chunk;
    while (claim(team, epoch, n_chunks, &chunk)) {
        body(ctx, chunk, thread);
        mine++;
    }
    if (mine && atomic_fetch_add(&team->done, mine) + mine == n_chunks) {
        atomic_store_explicit(&team->done, 0, memory_order_relaxed); /* published by the ticket */
        atomic_store(&team->ticket, (uint64_t)(epoch + 1) << 32);
        gate_open(&team->loop_gate);
        return;
    }
    wait_until(team, &team->loop_gate, SPIN_LOOP_NS, loop_over, epoch);
}

/* ---- runs ---- */

static bool run_begun(pr_team *team, uint32_t last) { return atomic_load(&team->run) != last; }

static bool run_over(pr_team *team, uint32_t unused) {
    (void)unused;
    return atomic_load(&team->inside) == 0;
}

void pr_team_run(pr_team *team, void (*fn)(void *ctx, int thread), void *ctx) {
    if (team->size == 1) {
        fn(ctx, 0);
        return;
    }
    team->fn = fn;
    team->ctx = ctx;
    atomic_store(&team->inside, team->size - 1);
    atomic_fetch_add(&team->run, 1);
    gate_open(&team->run_gate);
    fn(ctx, 0);
    wait_until(team, &team->loop_gate, SPIN_RUN_NS, run_over, 0);
}

/* The workers are helpers of the calling thread: they run on the strong cores and, if asked, behind others. */
static void settle(const pr_team *team) {
    if (team->topology) hwloc_set_cpubind(team->topology, team->cpus, HWLOC_CPUBIND_THREAD);
#ifdef __linux__
    if (team->nice > 0) setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), team->nice);
#endif
}

static void *worker_main(void *arg) {
    worker *self = arg;
    pr_team *team = self->team;
    settle(team);
    for (uint32_t seen = 0;; seen++) {
        wait_until(team, &team->run_gate, SPIN_RUN_NS, run_begun, seen);
        if (team->stop) return NULL;
        team->fn(team->ctx, self->index);
        if (atomic_fetch_sub(&team->inside, 1) == 1) gate_open(&team->loop_gate);
    }
}

/* ---- opening and closing ---- */

/* Where cores differ: the strongest kinds that together hold every thread. Best effort, no failure. */
static void choose_cpus(pr_team *team) {
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0) return;
    int kinds = hwloc_topology_load(topology) == 0 ? hwloc_cpukinds_get_nr(topology, 0) : 0;
    hwloc_bitmap_t chosen = hwloc_bitmap_alloc(), kind = hwloc_bitmap_alloc(), allowed = hwloc_bitmap_alloc();
    bool useful = kinds > 1 && chosen && kind && allowed;
    if (useful && hwloc_get_cpubind(topology, allowed, HWLOC_CPUBIND_THREAD) != 0) useful = false;
    for (int i = kinds - 1; useful && i >= 0 && hwloc_bitmap_weight(chosen) < team->size; i--) {
        int efficiency = -1; /* kinds are ranked, the strongest last; -1: the ranking is not known */
        if (hwloc_cpukinds_get_info(topology, (unsigned)i, kind, &efficiency, NULL, NULL, 0) != 0) useful = false;
        if (efficiency < 0) useful = false;
        hwloc_bitmap_and(kind, kind, allowed);
        hwloc_bitmap_or(chosen, chosen, kind);
    }
    hwloc_bitmap_free(kind);
    hwloc_bitmap_free(allowed);
    if (useful && hwloc_bitmap_weight(chosen) >= team->size) {
        team->topology = topology;
        team->cpus = chosen;
        return;
    }
    hwloc_bitmap_free(chosen);
    hwloc_topology_destroy(topology);
}

static size_t team_bytes(int size) { return sizeof(pr_team) + (size_t)size * sizeof(worker); }

pr_status pr_team_open(int n_threads, int nice, pr_team **out, pr_err *err) {
    *out = NULL;
    if (n_threads < 1 || n_threads > THREADS_MAX) {
        return pr_fail(err, PR_ERR_ARG, "threads: %d is not in 1..%d", n_threads, (int)THREADS_MAX);
    }
    size_t bytes = team_bytes(n_threads);
    pr_team *team = pr_map(PR_TAG_MISC, bytes); /* a mapping: the 64-byte alignment */
    if (!team) return pr_fail_nomem(err, "thread team", bytes);
    team->size = n_threads;
    team->nice = nice;
    team->workers = (worker *)(team + 1);
    team->n_started = 1; /* the caller */
    if (!gate_init(&team->run_gate)) goto fail_gates;
    if (!gate_init(&team->loop_gate)) {
        gate_destroy(&team->run_gate);
        goto fail_gates;
    }
    if (n_threads > 1) choose_cpus(team);
    for (; team->n_started < n_threads; team->n_started++) {
        worker *w = &team->workers[team->n_started];
        w->index = team->n_started;
        w->team = team;
        int code = pthread_create(&w->thread, NULL, worker_main, w);
        if (code != 0) {
            pr_fail(err, PR_ERR_IO, "threads: could start %d of %d: %s", team->n_started, n_threads, strerror(code));
            pr_team_close(team);
            return PR_ERR_IO;
        }
    }
    *out = team;
    return PR_OK;
fail_gates:
    pr_unmap(PR_TAG_MISC, team, bytes);
    return pr_fail(err, PR_ERR_IO, "threads: cannot make a lock");
}

void pr_team_close(pr_team *team) {
    if (!team) return;
    team->stop = true;
    atomic_fetch_add(&team->run, 1);
    gate_open(&team->run_gate);
    for (int i = 1; i < team->n_started; i++) pthread_join(team->workers[i].thread, NULL);
    gate_destroy(&team->run_gate);
    gate_destroy(&team->loop_gate);
    if (team->topology) {
        hwloc_bitmap_free(team->cpus);
        hwloc_topology_destroy(team->topology);
    }
    pr_unmap(PR_TAG_MISC, team, team_bytes(team->size));
}

int pr_team_size(const pr_team *team) { return team->size; }
