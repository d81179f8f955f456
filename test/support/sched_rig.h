/*
 * Test support: a scheduler with registry, scripted monitor and timeline, and requests whose replies are collected.
 *
 * Callbacks run on the scheduler's threads, so they collect and count; what went wrong there is in `reply.faults`.
 */
#ifndef PRECIS_TEST_SCHED_RIG_H
#define PRECIS_TEST_SCHED_RIG_H

#include "sched/sched.h"
#include "support/elastic.h"

enum { SCHED_RIG_TEXT = 1 << 14, SCHED_RIG_PROMPT = 512 };

typedef struct sched_rig {
    pr_registry *registry;
    pr_monitor *monitor;
    pr_timeline *timeline;
    pr_sched *sched;
    atomic_int n_moved, n_loaded, faults;
} sched_rig;

/* Zero is "as it is by default". The memory source says 0.1; its limit is `limit_bytes`, 0: 256 MiB. */
typedef struct sched_rig_opts {
    pr_sched_opts sched; /* registry, monitor, timeline, moved are the rig's */
    pr_engine_opts engine;
    size_t bytes_max, limit_bytes;
    double dwell_seconds, keep_alive_seconds;
    bool with_policy; /* first levels by policy */
} sched_rig_opts;

/* PR_OK or what refused. */
pr_status sched_rig_try(sched_rig *rig, const sched_rig_opts *opts, pr_err *err);
void sched_rig_open(sched_rig *rig, const sched_rig_opts *opts);
void sched_rig_close(sched_rig *rig); /* also when half open */
void sched_rig_memory(double used);   /* what the memory source says */

typedef struct reply {
    /* To be filled in: */
    pr_job job; /* prepare, callbacks and arg are the rig's */
    int32_t prompt[SCHED_RIG_PROMPT];
    size_t n_prompt;
    atomic_long token_ms; /* slept for each token */
    long prepare_ms;
    pr_status prepare_fails;
    uint32_t hold_at; /* let nobody go on from this token until `go` */
    atomic_int go;
    pr_sched *steps_of; /* whose steps are counted at its tokens; NULL: nobody's */
    /* Collected: */
    pr_job_id id;
    char text[SCHED_RIG_TEXT];
    size_t len;
    uint32_t n_tokens;
    int32_t last;
    pr_job_done done;
    atomic_int n_done, n_seen, faults, position, n_positions; /* n_seen: tokens so far */
    double started, first_at, ended;
    uint64_t first_step, last_step;
} reply;

/* Greedy? No: temperature 1, top_k 40, with this seed; goes past end tokens. */
void reply_init(reply *r, const char *model, const char *key, uint32_t max_tokens, uint64_t seed);
void reply_prompt(reply *r, uint64_t seed, size_t n);
pr_status reply_try(sched_rig *rig, reply *r, pr_err *err);
void reply_submit(sched_rig *rig, reply *r);
/* Until its on_done has come; fails the test after three minutes. */
void reply_wait(reply *r);
void reply_wait_tokens(reply *r, int n);
/* What pr_session_generate() says to it, at a level (< 0: the top). For pr_free(). */
char *reply_alone(const char *path, const pr_engine_opts *opts, int level, const reply *r);

void nap_ms(long ms);

#endif
