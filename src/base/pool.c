/*
 * Thread team: threads that walk one schedule together.
 *
 * A loop is over when its chunks are done, not when every thread has been
 * there. All of a loop's state is one 64-bit ticket {loop number, next chunk}:
 * a thread claims a chunk by compare-and-swap, the thread that finishes the last
 * one moves the ticket to the next loop. A thread that comes late, because the
 * system gave its processor to somebody else, finds the ticket past its own
 * loop number and just walks on until it has caught up. The obvious alternative,
 * static shares and a barrier that counts threads, stops everybody at every loop
 * until the preempted thread is back.
 *
 * One thing still stops everybody: a thread taken off its processor in the
 * middle of a chunk. Who waits for it longer than a short spin, and sees that its
 * CPU clock stands still, fetches it: moves it to the waiter's own processor and
 * sleeps. It finishes there what it holds, and goes home; or is sent home by the
 * waiter, who has displaced it the moment that the wait is over, and would keep it
 * from going for a whole time slice.
 *
 * Home is a thread's own share of the processors, apart from all the others'.
 * Without homes the system soon leaves two threads of the team on one processor
 * and a busy neighbour alone on the other, which counts as balanced. On machines
 * with cores of different strength the homes are among the strong ones. The
 * calling thread belongs to somebody else: it is bound only during a run, and only
 * for a while after a thread has lost its processor. bench/pool measures all this.
 *
 * Invariants: the ticket's loop number only grows; done belongs to the loop of
 * the ticket; a claim never succeeds for a loop other than the claimer's own. Who
 * fetches a worker does so during a run and sends it home before that run ends
 * for itself, so nobody moves a thread that may have been joined.
 */
#include "base/pool.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/os.h"

#ifdef __linux__
#include <hwloc.h>
#include <hwloc/glibc-sched.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum {
    THREADS_MAX = 1024,
    SPIN_RUN_NS = 40 * 1000,         /* a worker, for the next run */
    SPIN_LOOP_NS = 15 * 1000,        /* for what the others still do */
    SPIN_WATCH_NS = 10 * 1000,       /* and on, while watching whether they do it */
    PARK_NS = 1000 * 1000,           /* then asleep, watching again this often */
    CROWDED_NS = 1000 * 1000 * 1000, /* how long a lost processor is remembered */
    PAUSES_PER_LOOK = 4,
    LOOKS_PER_CLOCK = 8,
};

/* Where a thread is: the low bits of its stage; the number of its run is above. */
enum { STAGE_WALKING, STAGE_CLAIMING, STAGE_DONE, STAGE_BITS = 2 };

/* Whether a thread may be fetched: only from home. The caller is gone between runs. */
enum { AT_HOME, BEING_MOVED, AWAY, GONE };

/* Wakes who waits. Who changes the state opens the gate afterwards; who waits looks at the state after having said
 * that it parks. All of it is sequentially consistent, so one of the two always sees the other. */
typedef struct gate {
    _Alignas(64) atomic_uint turn;
    atomic_uint parked;
#ifndef __linux__
    pthread_mutex_t lock;
    pthread_cond_t cond;
#endif
} gate;

typedef struct worker {
    _Alignas(64) atomic_uint stage;
    atomic_int where;
    uint32_t run, epoch; /* its own count of runs and loops */
    int index;
    pr_team *team;
    pthread_t thread;
    atomic_int clock; /* clockid_t: CPU time of the thread */
    atomic_int home;  /* which of the team's */
} worker;

struct pr_team {
    /* the loop */
    _Alignas(64) atomic_uint_least64_t ticket; /* loop number << 32 | next chunk */
    _Alignas(64) atomic_uint_least32_t done;   /* finished chunks of that loop */
    gate loop_gate;                            /* a loop or a run is over */
    /* the run */
    _Alignas(64) atomic_uint run; /* its number */
    atomic_int inside;            /* workers that have not returned from it */
    gate run_gate;                /* a run has begun */
    void (*fn)(void *ctx, int thread);
    void *ctx;
    bool stop;
    /* constant */
    int size, n_started, nice;
    bool has_homes;
    worker *workers; /* [size], 0 is the caller */
#ifdef __linux__
    cpu_set_t *homes;                    /* [size], disjoint */
    atomic_uint_least64_t crowded_until; /* by pr_now_ns(): others want the processors, too */
#endif
};

/* ---- the system: sleeping, and where threads run ---- */

#ifdef __linux__

static bool gate_init(gate *g) {
    atomic_init(&g->turn, 0);
    atomic_init(&g->parked, 0);
    return true;
}

static void gate_destroy(gate *g) { (void)g; }

/* Sleep unless the gate has been opened since turn was read; at most ns, if not 0. */
static void gate_sleep(gate *g, unsigned turn, long ns) {
    struct timespec most = {.tv_nsec = ns};
    syscall(SYS_futex, &g->turn, FUTEX_WAIT_PRIVATE, turn, ns ? &most : NULL, NULL, 0);
}

static void gate_wake(gate *g) {
    atomic_fetch_add(&g->turn, 1);
    syscall(SYS_futex, &g->turn, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static uint64_t cpu_time_ns(const worker *other) {
    struct timespec t;
    if (clock_gettime((clockid_t)atomic_load_explicit(&other->clock, memory_order_relaxed), &t) != 0) return 0;
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void start_clock(worker *w) {
    clockid_t clock;
    if (pthread_getcpuclockid(w->thread, &clock) == 0)
        atomic_store_explicit(&w->clock, (int)clock, memory_order_relaxed);
}

/* thread is w's own; w->thread is not known yet when it starts. */
static void bind_home(worker *w, pthread_t thread) {
    int home;
    do {
        home = atomic_load(&w->home);
        pthread_setaffinity_np(thread, sizeof(cpu_set_t), &w->team->homes[home]);
    } while (atomic_load(&w->home) != home); /* exchanged meanwhile */
}

static void go_home(worker *self) {
    atomic_store(&self->where, AT_HOME);
    bind_home(self, pthread_self());
}

/* Whoever was fetched and has not gone home itself. */
static void send_home(pr_team *team) {
    for (int i = 0; i < team->size; i++) {
        worker *w = &team->workers[i];
        int away = AWAY;
        if (!atomic_compare_exchange_strong(&w->where, &away, BEING_MOVED)) continue;
        bind_home(w, w->thread);
        atomic_store(&w->where, AT_HOME);
    }
}

/* Move another thread to the processor this one runs on. */
static void fetch(worker *other) {
    int at_home = AT_HOME;
    atomic_store(&other->team->crowded_until, pr_now_ns() + CROWDED_NS);
    if (!atomic_compare_exchange_strong(&other->where, &at_home, BEING_MOVED)) return;
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET((size_t)sched_getcpu(), &here);
    pthread_setaffinity_np(other->thread, sizeof here, &here);
    atomic_store(&other->where, AWAY); /* only now: it must not go home before it has left */
}

/* A move that is under way has to be over before it is undone. Who was fetched often displaces the fetcher in the middle of
 * it: let that run. */
static int where_at_rest(worker *self) {
    int where;
    while ((where = atomic_load(&self->where)) == BEING_MOVED) sched_yield();
    return where;
}

/* The strongest kinds of core that together have room for the team; all processors where there is one kind. */
static void keep_strong_cores(hwloc_topology_t topology, int size) {
    hwloc_bitmap_t strong = hwloc_bitmap_alloc(), kind = hwloc_bitmap_alloc();
    int kinds = strong && kind ? hwloc_cpukinds_get_nr(topology, 0) : 0;
    for (int i = kinds - 1; i >= 0 && hwloc_bitmap_weight(strong) < size; i--) {
        int efficiency; /* kinds are ranked by it, the strongest last; -1: no ranking known */
        if (hwloc_cpukinds_get_info(topology, (unsigned)i, kind, &efficiency, NULL, NULL, 0) != 0 || efficiency < 0)
            break;
        hwloc_bitmap_or(strong, strong, kind);
    }
    if (kinds > 1 && hwloc_bitmap_weight(strong) >= size) hwloc_topology_restrict(topology, strong, 0);
    hwloc_bitmap_free(strong);
    hwloc_bitmap_free(kind);
}

/* Deal the processors out, whole cores first. False, and nobody is bound, when there are not enough. */
static bool deal_homes(hwloc_topology_t topology, pr_team *team) {
    hwloc_bitmap_t sets[THREADS_MAX], taken = hwloc_bitmap_alloc();
    hwloc_obj_t root = hwloc_get_root_obj(topology);
    bool apart = taken && hwloc_bitmap_weight(hwloc_topology_get_topology_cpuset(topology)) >= team->size;
    if (apart && hwloc_distrib(topology, &root, 1, sets, (unsigned)team->size, INT_MAX, 0) == 0) {
        for (int i = 0; i < team->size; i++) {
            cpu_set_t *home = &team->homes[i];
            atomic_store(&team->workers[i].home, i);
            if (hwloc_bitmap_intersects(taken, sets[i]) || hwloc_bitmap_last(sets[i]) >= CPU_SETSIZE) apart = false;
            if (hwloc_cpuset_to_glibc_sched_affinity(topology, sets[i], home, sizeof *home) != 0) apart = false;
            hwloc_bitmap_or(taken, taken, sets[i]);
            hwloc_bitmap_free(sets[i]);
        }
    } else {
        apart = false;
    }
    hwloc_bitmap_free(taken);
    return apart;
}

/* Best effort: a team without homes works, only less well beside a busy neighbour. */
static bool find_homes(pr_team *team) {
    hwloc_topology_t topology;
    if (!pr_path_is_dir("/sys/devices/system/cpu/cpu0/topology")) return false; /* hwloc would complain on stderr */
    if (hwloc_topology_init(&topology) != 0) return false;
    hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
    bool found = allowed && hwloc_topology_load(topology) == 0;
    if (found && hwloc_get_cpubind(topology, allowed, HWLOC_CPUBIND_THREAD) != 0) found = false;
    if (found && hwloc_topology_restrict(topology, allowed, 0) != 0) found = false;
    if (found) {
        keep_strong_cores(topology, team->size);
        found = deal_homes(topology, team);
    }
    hwloc_bitmap_free(allowed);
    hwloc_topology_destroy(topology);
    return found;
}

/* In crowded times the caller is bound to its home during a run, and may go wherever it could before afterwards. Not
 * always: it takes 4 us, twenty times what starting a run does. */
typedef struct caller_place {
    bool bound;
    cpu_set_t before;
} caller_place;

/* The caller's home is where it is: the thread that has lived there gets the caller's. Else the caller could wait there
 * for its processor, and everybody for the caller. */
static void take_home_here(pr_team *team) {
    worker *self = &team->workers[0];
    size_t cpu = (size_t)sched_getcpu();
    int mine = atomic_load(&self->home);
    for (int i = 1; i < team->size; i++) {
        worker *other = &team->workers[i];
        int theirs = atomic_load(&other->home);
        if (!CPU_ISSET(cpu, &team->homes[theirs])) continue;
        atomic_store(&self->home, theirs);
        atomic_store(&other->home, mine);
        pthread_setaffinity_np(other->thread, sizeof(cpu_set_t), &team->homes[mine]);
        return;
    }
}

static void caller_enter(pr_team *team, caller_place *place) {
    worker *self = &team->workers[0];
    place->bound = false;
    if (!team->has_homes) return;
    self->thread = pthread_self();
    start_clock(self);
    take_home_here(team);
    if (atomic_load(&team->crowded_until) < pr_now_ns()) return;
    place->bound = sched_getaffinity(0, sizeof place->before, &place->before) == 0;
    if (place->bound) go_home(self);
}

static void caller_leave(worker *self, const caller_place *place) {
    if (!place->bound) return;
    for (int where = where_at_rest(self); !atomic_compare_exchange_weak(&self->where, &where, GONE);) {
        where = where_at_rest(self);
    }
    sched_setaffinity(0, sizeof place->before, &place->before);
}

#else /* plain POSIX: sleeping by condition variable, no homes */

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

static void gate_sleep(gate *g, unsigned turn, long ns) {
    (void)ns; /* only who can fetch has to wake up and look around */
    pthread_mutex_lock(&g->lock);
    while (atomic_load(&g->turn) == turn) pthread_cond_wait(&g->cond, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void gate_wake(gate *g) {
    pthread_mutex_lock(&g->lock);
    atomic_fetch_add(&g->turn, 1);
    pthread_cond_broadcast(&g->cond);
    pthread_mutex_unlock(&g->lock);
}

static uint64_t cpu_time_ns(const worker *other) { return (uint64_t)other->index; }
static void start_clock(worker *w) { (void)w; }
static void bind_home(worker *w, pthread_t thread) { (void)w, (void)thread; }
static void go_home(worker *self) { (void)self; }
static void fetch(worker *other) { (void)other; }
static void send_home(pr_team *team) { (void)team; }
static int where_at_rest(worker *self) { return (void)self, AT_HOME; }
static bool find_homes(pr_team *team) { return (void)team, false; }

typedef int caller_place;
static void caller_enter(pr_team *team, caller_place *place) { *place = team->size; }
static void caller_leave(worker *self, const caller_place *place) { (void)self, (void)place; }

#endif

/* ---- waiting ---- */

typedef struct wait {
    gate *gate;
    uint64_t spin_ns;
    bool (*over)(pr_team *team, uint32_t arg);
    bool (*awaited)(const worker *other, uint32_t arg); /* is it this thread that we wait for? */
    uint32_t arg;
} wait;

static void gate_open(gate *g) {
    if (atomic_load(&g->parked) != 0) gate_wake(g);
}

static void spin_pause(void) {
    for (int i = 0; i < PAUSES_PER_LOOK; i++) {
#if __has_builtin(__builtin_ia32_pause)
        __builtin_ia32_pause();
#else
        atomic_signal_fence(memory_order_seq_cst);
#endif
    }
}

/* True as soon as the wait is over, false after ns. */
static bool spin(pr_team *team, const wait *w, uint64_t ns) {
    uint64_t start = 0;
    do {
        for (int i = 0; i < LOOKS_PER_CLOCK; i++) {
            if (w->over(team, w->arg)) return true;
            spin_pause();
        }
        if (!start) start = pr_now_ns();
    } while (pr_now_ns() - start < ns);
    return false;
}

/* Fetch those that we wait for and that do not run. False when we wait for no thread in particular. */
static bool watch(pr_team *team, int thread, const wait *w) {
    bool any = false;
    for (int i = 0; i < team->size; i++) {
        worker *other = &team->workers[i];
        if (i == thread || !w->awaited(other, w->arg)) continue;
        any = true;
        uint64_t before = cpu_time_ns(other);
        if (spin(team, w, SPIN_WATCH_NS)) break;
        if (cpu_time_ns(other) == before && w->awaited(other, w->arg)) fetch(other);
    }
    return any;
}

static void wait_until(pr_team *team, int thread, const wait *w) {
    if (spin(team, w, w->spin_ns)) return;
    for (bool over = false; !over;) {
        bool any = team->has_homes && watch(team, thread, w);
        unsigned turn = atomic_load(&w->gate->turn);
        atomic_fetch_add(&w->gate->parked, 1);
        if (!w->over(team, w->arg)) gate_sleep(w->gate, turn, any ? PARK_NS : 0);
        atomic_fetch_sub(&w->gate->parked, 1);
        over = w->over(team, w->arg);
    }
    if (team->has_homes) send_home(team);
}

static void set_stage(worker *self, unsigned stage) {
    atomic_store_explicit(&self->stage, self->run << STAGE_BITS | stage, memory_order_relaxed);
}

static void end_absence(worker *self) {
    if (atomic_load_explicit(&self->where, memory_order_relaxed) == AT_HOME) return;
    int where = where_at_rest(self);
    if (where == AWAY && atomic_compare_exchange_strong(&self->where, &where, AT_HOME)) bind_home(self, pthread_self());
}

/* ---- loops ---- */

static uint32_t epoch_of(uint64_t ticket) { return (uint32_t)(ticket >> 32); }

static bool loop_over(pr_team *team, uint32_t epoch) { return epoch_of(atomic_load(&team->ticket)) != epoch; }

static bool has_chunk(const worker *other, uint32_t unused) {
    (void)unused;
    unsigned stage = atomic_load_explicit(&other->stage, memory_order_relaxed);
    return (stage & ((1u << STAGE_BITS) - 1)) == STAGE_CLAIMING;
}

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

void pr_team_for(pr_team *team, int thread, uint32_t n_chunks, void (*body)(void *ctx, uint32_t chunk, int thread),
                 void *ctx) {
    if (team->size == 1) {
        for (uint32_t chunk = 0; chunk < n_chunks; chunk++) body(ctx, chunk, thread);
        return;
    }
    if (n_chunks == 0) return;
    worker *self = &team->workers[thread];
    uint32_t epoch = self->epoch++;
    uint32_t mine = 0, chunk;
    set_stage(self, STAGE_CLAIMING);
    while (claim(team, epoch, n_chunks, &chunk)) {
        body(ctx, chunk, thread);
        mine++;
    }
    set_stage(self, STAGE_WALKING);
    bool last = mine && atomic_fetch_add(&team->done, mine) + mine == n_chunks;
    if (last) {
        atomic_store_explicit(&team->done, 0, memory_order_relaxed); /* published by the ticket */
        atomic_store(&team->ticket, (uint64_t)(epoch + 1) << 32);
        gate_open(&team->loop_gate);
    }
    if (mine) end_absence(self); /* else it is catching up, where it was fetched to */
    if (last) return;
    wait_until(team, thread, &(wait){&team->loop_gate, SPIN_LOOP_NS, loop_over, has_chunk, epoch});
}

/* ---- runs ---- */

static bool run_begun(pr_team *team, uint32_t run) { return atomic_load(&team->run) == run; }

static bool run_over(pr_team *team, uint32_t unused) {
    (void)unused;
    return atomic_load(&team->inside) == 0;
}

static bool not_back(const worker *other, uint32_t run) {
    return atomic_load_explicit(&other->stage, memory_order_relaxed) != (run << STAGE_BITS | STAGE_DONE);
}

/* The next run begins after this one, which ends when the caller is through. While other workers are not, it may well
 * be asleep, waiting for them. */
static bool caller_not_back(const worker *other, uint32_t next) {
    return other->index == 0 && atomic_load(&other->team->inside) == 0 && not_back(other, next - 1);
}

void pr_team_run(pr_team *team, void (*fn)(void *ctx, int thread), void *ctx) {
    if (team->size == 1) {
        fn(ctx, 0);
        return;
    }
    worker *self = &team->workers[0];
    caller_place place;
    caller_enter(team, &place);
    self->run++;
    set_stage(self, STAGE_WALKING);
    team->fn = fn;
    team->ctx = ctx;
    atomic_store(&team->inside, team->size - 1);
    atomic_store(&team->run, self->run);
    gate_open(&team->run_gate);
    fn(ctx, 0);
    wait_until(team, 0, &(wait){&team->loop_gate, SPIN_LOOP_NS, run_over, not_back, self->run});
    set_stage(self, STAGE_DONE);
    caller_leave(self, &place);
}

static void *worker_main(void *arg) {
    worker *self = arg;
    pr_team *team = self->team;
    if (team->has_homes) go_home(self);
    if (team->nice > 0) pr_thread_nice(team->nice);
    for (;;) {
        self->run++;
        wait_until(team, self->index, &(wait){&team->run_gate, SPIN_RUN_NS, run_begun, caller_not_back, self->run});
        if (team->stop) return NULL;
        team->fn(team->ctx, self->index);
        set_stage(self, STAGE_DONE);
        if (atomic_fetch_sub(&team->inside, 1) == 1) gate_open(&team->loop_gate);
        end_absence(self);
    }
}

/* ---- opening and closing ---- */

/* The team, its workers, their homes. */
static size_t team_bytes(int size) {
    size_t each = sizeof(worker);
#ifdef __linux__
    each += sizeof(cpu_set_t);
#endif
    return sizeof(pr_team) + (size_t)size * each;
}

/* n_started counts those that pr_team_close() has to join. */
static pr_status start_workers(pr_team *team, pr_err *err) {
    for (; team->n_started < team->size; team->n_started++) {
        worker *w = &team->workers[team->n_started];
        w->index = team->n_started;
        w->team = team;
        int code = pthread_create(&w->thread, NULL, worker_main, w);
        if (code != 0) {
            return pr_fail(err, PR_ERR_IO, "threads: could start %d of %d: %s", team->n_started, team->size,
                           strerror(code));
        }
        start_clock(w);
    }
    return PR_OK;
}

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
#ifdef __linux__
    team->homes = (cpu_set_t *)(team->workers + n_threads);
#endif
    team->workers[0].team = team;
    team->n_started = 1; /* the caller */
    set_stage(&team->workers[0], STAGE_DONE);
    atomic_store(&team->workers[0].where, GONE);
    bool gates = gate_init(&team->run_gate);
    if (gates && !gate_init(&team->loop_gate)) {
        gate_destroy(&team->run_gate);
        gates = false;
    }
    if (!gates) {
        pr_unmap(PR_TAG_MISC, team, bytes);
        return pr_fail(err, PR_ERR_IO, "threads: cannot make a lock");
    }
    team->has_homes = n_threads > 1 && find_homes(team);
    pr_status status = start_workers(team, err);
    if (status != PR_OK) {
        pr_team_close(team);
        return status;
    }
    *out = team;
    return PR_OK;
}

void pr_team_close(pr_team *team) {
    if (!team) return;
    team->stop = true;
    atomic_fetch_add(&team->run, 1);
    gate_open(&team->run_gate);
    for (int i = 1; i < team->n_started; i++) pthread_join(team->workers[i].thread, NULL);
    gate_destroy(&team->run_gate);
    gate_destroy(&team->loop_gate);
    pr_unmap(PR_TAG_MISC, team, team_bytes(team->size));
}

int pr_team_size(const pr_team *team) { return team->size; }
