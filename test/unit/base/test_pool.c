#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/os.h"

enum { CHUNKS_MAX = 300, THREADS_MAX = 8 };

typedef struct job {
    pr_team *team;
    uint32_t n_chunks;
    int n_loops;
    atomic_int entered[THREADS_MAX];
    uint32_t done[CHUNKS_MAX]; /* plain: the team has to order every access */
    uint32_t sum;
    int wrong;
} job;

static pr_team *open_team(int n_threads) {
    pr_team *team = NULL;
    pr_err err = {0};
    if (pr_team_open(n_threads, 0, &team, &err) != PR_OK) fail_msg("%s", err.text);
    return team;
}

static void count_chunk(void *ctx, uint32_t chunk, int thread) {
    job *j = ctx;
    if (chunk >= j->n_chunks || thread < 0 || thread >= pr_team_size(j->team)) j->wrong++;
    j->done[chunk]++;
}

/* One chunk that reads what all the chunks of the loop before have written. */
static void sum_chunks(void *ctx, uint32_t chunk, int thread) {
    (void)chunk, (void)thread;
    job *j = ctx;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < j->n_chunks; i++) sum += j->done[i];
    j->sum = sum;
}

/* Many chunks that all read it. */
static void compare_sum(void *ctx, uint32_t chunk, int thread) {
    (void)thread;
    job *j = ctx;
    if (j->done[chunk] * j->n_chunks != j->sum) j->wrong++;
}

static void walk(void *ctx, int thread) {
    job *j = ctx;
    atomic_fetch_add(&j->entered[thread], 1);
    for (int i = 0; i < j->n_loops; i++) {
        pr_team_for(j->team, thread, j->n_chunks, count_chunk, j);
        pr_team_for(j->team, thread, 1, sum_chunks, j);
        pr_team_for(j->team, thread, 0, count_chunk, j);
        pr_team_for(j->team, thread, j->n_chunks, compare_sum, j);
    }
}

static void each_chunk_once_and_in_order_of_loops(void **state) {
    (void)state;
    const uint32_t sizes[] = {1, 2, 3, 16, 299};
    for (int n = 1; n <= 5; n++) {
        pr_team *team = open_team(n);
        assert_int_equal(pr_team_size(team), n);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            job j = {.team = team, .n_chunks = sizes[s], .n_loops = 50};
            for (int run = 0; run < 3; run++) pr_team_run(team, walk, &j);
            assert_int_equal(j.wrong, 0);
            for (uint32_t i = 0; i < j.n_chunks; i++) assert_int_equal(j.done[i], 150);
            for (int t = 0; t < n; t++) assert_int_equal(j.entered[t], 3);
        }
        pr_team_close(team);
    }
}

/* ---- threads that come late ---- */

typedef struct lag {
    pr_team *team;
    atomic_int loops_done; /* by thread 0 */
    atomic_int order;
    int seen[400];
    bool late_was_late;
} lag;

static void note(void *ctx, uint32_t chunk, int thread) {
    (void)chunk, (void)thread;
    lag *l = ctx;
    int i = atomic_fetch_add(&l->order, 1);
    l->seen[i]++;
}

/* The last thread holds back until thread 0 has gone through all the loops: they must not need it. */
static void walk_with_a_laggard(void *ctx, int thread) {
    lag *l = ctx;
    if (thread == pr_team_size(l->team) - 1) {
        while (atomic_load(&l->loops_done) < 100) usleep(100);
        l->late_was_late = true;
    }
    for (int i = 0; i < 100; i++) {
        pr_team_for(l->team, thread, 4, note, l);
        if (thread == 0) atomic_fetch_add(&l->loops_done, 1);
    }
}

static void loops_do_not_wait_for_a_thread_without_a_chunk(void **state) {
    (void)state;
    for (int n = 2; n <= 3; n++) {
        lag l = {.team = open_team(n)};
        pr_team_run(l.team, walk_with_a_laggard, &l);
        assert_true(l.late_was_late);
        assert_int_equal(atomic_load(&l.order), 400);
        for (int i = 0; i < 400; i++) assert_int_equal(l.seen[i], 1);
        pr_team_close(l.team);
    }
}

/* ---- parking ---- */

typedef struct slow {
    pr_team *team;
    atomic_int n;
} slow;

static void sleep_chunk(void *ctx, uint32_t chunk, int thread) {
    (void)thread;
    slow *s = ctx;
    if (chunk == 0) usleep(3000); /* far longer than any spin: the others park */
    atomic_fetch_add(&s->n, 1);
}

static void walk_slowly(void *ctx, int thread) {
    slow *s = ctx;
    for (int i = 0; i < 5; i++) pr_team_for(s->team, thread, 3, sleep_chunk, s);
}

static void parked_threads_wake(void **state) {
    (void)state;
    for (int n = 2; n <= 4; n++) {
        slow s = {.team = open_team(n)};
        for (int i = 0; i < 5; i++) {
            pr_team_run(s.team, walk_slowly, &s);
            usleep(1000); /* the workers park between runs too */
        }
        assert_int_equal(atomic_load(&s.n), 75);
        pr_team_close(s.team);
    }
}

/* A thread asleep in its chunk looks like one that lost its processor: it is fetched, the caller as well. */
static void the_caller_gets_its_processors_back(void **state) {
    (void)state;
    cpu_set_t before, after;
    slow s = {.team = open_team(2)};
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    for (int i = 0; i < 10; i++) {
        pr_team_run(s.team, walk_slowly, &s);
        assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
        assert_true(CPU_EQUAL(&before, &after));
    }
    pr_team_close(s.team);
}

/* ---- the rest ---- */

typedef struct niceness {
    int of[2];
} niceness;

static void get_nice(void *ctx, int thread) {
    niceness *n = ctx;
    n->of[thread] = getpriority(PRIO_PROCESS, (id_t)gettid());
}

static void workers_are_nice(void **state) {
    (void)state;
    pr_team *team;
    pr_err err = {0};
    int base = getpriority(PRIO_PROCESS, 0);
    assert_int_equal(pr_team_open(2, 10, &team, &err), PR_OK);
    niceness n;
    pr_team_run(team, get_nice, &n);
    assert_int_equal(n.of[0], base);
    assert_int_equal(n.of[1], base + 10 < 19 ? base + 10 : 19);
    pr_team_close(team);
}

typedef struct turn {
    struct { /* sched_attr, its first version */
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr;
    int before;
    long failed;
} turn;

static void *take_short_turns(void *arg) {
    turn *t = arg;
    pr_thread_nice(3);
    t->before = getpriority(PRIO_PROCESS, (id_t)gettid());
    pr_thread_prompt();
    t->failed = syscall(SYS_sched_getattr, gettid(), &t->attr, sizeof t->attr, 0);
    return NULL;
}

static void a_prompt_thread_keeps_its_share(void **state) {
    (void)state;
    turn t = {0};
    pthread_t thread;
    struct utsname system;
    assert_int_equal(pthread_create(&thread, NULL, take_short_turns, &t), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(t.failed, 0);
    assert_int_equal(t.attr.policy, SCHED_OTHER);
    assert_int_equal(t.attr.nice, t.before);
    assert_int_equal(uname(&system), 0);
    char *dot;
    unsigned long major = strtoul(system.release, &dot, 10), minor = strtoul(dot + 1, NULL, 10);
    assert_int_equal(*dot, '.');
    if (major > 6 || (major == 6 && minor >= 12)) assert_int_equal(t.attr.runtime, 100000);
}

static void opening_fails_cleanly(void **state) {
    (void)state;
    size_t before = pr_mem_total();
    pr_team *team = (pr_team *)1;
    pr_err err = {0};
    assert_int_equal(pr_team_open(0, 0, &team, &err), PR_ERR_ARG);
    assert_null(team);
    assert_int_equal(pr_team_open(1000000, 0, &team, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "1000000"));
    pr_mem_fail_after(0, true);
    assert_int_equal(pr_team_open(2, 0, &team, &err), PR_ERR_NOMEM);
    pr_mem_fail_after(-1, false);
    assert_int_equal(pr_mem_total(), before);
    pr_team_close(NULL);
}

static void opening_and_closing_at_once(void **state) {
    (void)state;
    size_t before = pr_mem_total();
    for (int i = 0; i < 50; i++) pr_team_close(open_team(1 + i % 4));
    assert_int_equal(pr_mem_total(), before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_caller_gets_its_processors_back), /* first: before another test could have lost one */
        cmocka_unit_test(each_chunk_once_and_in_order_of_loops),
        cmocka_unit_test(loops_do_not_wait_for_a_thread_without_a_chunk),
        cmocka_unit_test(parked_threads_wake),
        cmocka_unit_test(workers_are_nice),
        cmocka_unit_test(a_prompt_thread_keeps_its_share),
        cmocka_unit_test(opening_fails_cleanly),
        cmocka_unit_test(opening_and_closing_at_once),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
