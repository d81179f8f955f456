/*
 * Levels: forced and least ones, memory that shrinks under streams, moves by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/os.h"
#include "support/sched_rig.h"

enum { LONG = 2000, LIMIT = 256 << 20 };

static const pr_engine_opts engine = {.context_max = 2048, .kv_bytes_max = 32 << 20};
static reply replies[16];

static int setup(void **state) {
    if (rig_setup(state)) return -1;
    const llama_gguf m = {
        .dim = 128, .n_layers = 2, .n_heads = 2, .n_kv_heads = 1, .n_ff = 256, .context = 2048, .type = PR_F16};
    elastic_model(&m, "e.gguf");
    const llama_gguf plain = {.dim = 32, .n_layers = 1, .n_heads = 2, .n_kv_heads = 1, .n_ff = 64, .context = 2048};
    rig_model(&plain, "a.gguf");
    return 0;
}

static pr_elastic_info elastic(const sched_rig *rig) {
    pr_model_info info = {0};
    assert_int_equal(pr_registry_list(rig->registry, &info, 1), 1);
    return info.elastic;
}

/* Until the model stands at a level, its memory given back; fails after a while. */
static void wait_level(const sched_rig *rig, pr_level level) {
    pr_elastic_info e = elastic(rig);
    for (int i = 0; i < 10000; i++) {
        if (e.level == level && e.target == e.cursor && e.cursor == e.level_cursor[level] &&
            e.bytes == e.level_bytes[level])
            return;
        nap_ms(1);
        e = elastic(rig);
    }
    fail_msg("stands at %s, not at %s", pr_level_name(e.level), pr_level_name(level));
}

static void begin(sched_rig *rig, reply *r, const char *key, uint32_t n, uint64_t seed) {
    reply_init(r, "e.gguf", key, n, seed);
    reply_submit(rig, r);
}

static void same_as_at(const reply *r, int level) {
    char *alone = reply_alone(rig_path("e.gguf"), &engine, level, r);
    assert_string_equal(r->text, alone);
    pr_free(alone);
}

/* ---- requests against the level ------------------------------------------------- */

static void forced_levels_run_apart(void **state) {
    (void)state;
    sched_rig rig;
    sched_rig_open(&rig, &(sched_rig_opts){.engine = engine});
    for (int i = 0; i < 10; i++) {
        reply_init(&replies[i], "e.gguf", i % 2 ? "x" : "y", 60, 10 + (uint64_t)i);
        replies[i].job.force_given = i % 5 < 4;
        replies[i].job.force = (pr_level)(i % 5 < 4 ? i % 5 : 0);
    }
    for (int i = 0; i < 10; i++) reply_submit(&rig, &replies[i]);
    for (int i = 0; i < 10; i++) {
        int level = i % 5 < 4 ? i % 5 : -1;
        reply_wait(&replies[i]);
        assert_int_equal(replies[i].done.finish, PR_JOB_LENGTH);
        same_as_at(&replies[i], level);
        assert_int_equal(replies[i].done.levels_used, 1u << (level < 0 ? PR_LEVEL_FP16 : level));
    }
    sched_rig_close(&rig);
}

/* Between two levels: forced means exactly, the rest gets all that is in memory. */
static void forced_under_a_budget(void **state) {
    (void)state;
    sched_rig rig;
    pr_err err = {0};
    sched_rig_open(&rig, &(sched_rig_opts){.engine = engine});
    begin(&rig, &replies[0], "", 10, 1);
    reply_wait(&replies[0]);
    pr_elastic_info e = elastic(&rig);
    size_t budget = (e.level_bytes[PR_LEVEL_INT4] + e.level_bytes[PR_LEVEL_INT8]) / 2;
    assert_int_equal(pr_sched_move(rig.sched, "e.gguf", 0, e.bytes_min - 1, &err), PR_ERR_LIMIT);
    assert_int_equal(pr_sched_move(rig.sched, "e.gguf", 0, budget, &err), PR_OK);
    for (int i = 0; i < 5000 && !(e.target == e.cursor && e.bytes <= budget); i++) nap_ms(1), e = elastic(&rig);
    assert_true(e.level == PR_LEVEL_INT4 && e.cursor > e.level_cursor[PR_LEVEL_INT4]);
    reply_init(&replies[1], "e.gguf", "", 60, 2);
    replies[1].job.force_given = true;
    replies[1].job.force = PR_LEVEL_INT4;
    reply_submit(&rig, &replies[1]);
    begin(&rig, &replies[2], "", 60, 2);
    for (int i = 1; i < 3; i++) reply_wait(&replies[i]);
    same_as_at(&replies[1], PR_LEVEL_INT4);
    pr_engine_opts o = engine;
    o.weights_budget = budget;
    char *alone = reply_alone(rig_path("e.gguf"), &o, -1, &replies[2]);
    assert_string_equal(replies[2].text, alone);
    pr_free(alone);
    sched_rig_close(&rig);
}

/* Forcing and floors are nothing to a model with one precision. */
static void an_ordinary_model_has_no_levels(void **state) {
    (void)state;
    sched_rig rig;
    pr_err err = {0};
    sched_rig_open(&rig, &(sched_rig_opts){.engine = engine});
    for (int i = 0; i < 3; i++) {
        reply_init(&replies[i], "a.gguf", "", 30, 3);
        replies[i].job.force_given = i == 1;
        replies[i].job.floor_given = i == 2;
        replies[i].job.floor = PR_LEVEL_FP16;
        reply_submit(&rig, &replies[i]);
    }
    for (int i = 0; i < 3; i++) reply_wait(&replies[i]);
    for (int i = 0; i < 3; i++) assert_string_equal(replies[i].text, replies[0].text);
    assert_int_equal(pr_sched_move(rig.sched, "a.gguf", PR_LEVEL_INT4, 0, &err), PR_ERR_UNSUPPORTED);
    assert_int_equal(pr_sched_move(rig.sched, "e.gguf", PR_LEVEL_INT4, 0, &err), PR_ERR_NOTFOUND);
    sched_rig_close(&rig);
}

static void prefixes_of_a_lower_level(void **state) {
    (void)state;
    sched_rig rig;
    pr_err err = {0};
    sched_rig_open(&rig, &(sched_rig_opts){.engine = engine});
    begin(&rig, &replies[0], "k", 5, 40);
    reply_wait(&replies[0]);
    assert_int_equal(pr_sched_move(rig.sched, "e.gguf", PR_LEVEL_INT4, 0, &err), PR_OK);
    wait_level(&rig, PR_LEVEL_INT4);
    const struct {
        bool force, any;
        pr_level level;
        uint64_t prompt;
        bool reused;
    } cases[] = {
        {true, false, PR_LEVEL_INT2, 30, false}, /* pages of int2 */
        {false, false, 0, 30, false},            /* not for int4 */
        {false, false, 0, 30, true},             /* that one's own are */
        {true, false, PR_LEVEL_INT2, 35, false},
        {false, true, 0, 35, true},
        {true, false, PR_LEVEL_INT2, 30, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        reply_init(&replies[0], "e.gguf", "k", 5, 1);
        reply_prompt(&replies[0], cases[i].prompt, 40);
        replies[0].job.force_given = cases[i].force;
        replies[0].job.force = cases[i].level;
        replies[0].job.reuse_any = cases[i].any;
        reply_submit(&rig, &replies[0]);
        reply_wait(&replies[0]);
        if (replies[0].done.n_cached != (cases[i].reused ? 39u : 0u))
            fail_msg("case %zu: %u", i, replies[0].done.n_cached);
    }
    sched_rig_close(&rig);
}

/* ---- floors ------------------------------------------------------------------- */

static void a_floor_that_cannot_be_met(void **state) {
    (void)state;
    sched_rig rig;
    sched_rig_open(&rig, &(sched_rig_opts){.sched = {.park_seconds = 0.4}, .engine = engine, .dwell_seconds = 0.2});
    reply_init(&replies[0], "e.gguf", "", LONG, 1);
    replies[0].token_ms = 1;
    replies[0].job.floor_given = true;
    replies[0].job.floor = PR_LEVEL_INT8;
    reply_submit(&rig, &replies[0]);
    reply_wait_tokens(&replies[0], 10);
    sched_rig_memory(0.97); /* nothing fits: bytes go over floors */
    wait_level(&rig, PR_LEVEL_INT2);
    reply_wait(&replies[0]);
    assert_int_equal(replies[0].done.finish, PR_JOB_CAPACITY);
    assert_true(replies[0].n_tokens < LONG && replies[0].n_tokens >= 10);
    assert_int_equal(replies[0].done.levels_used & ~(1u << PR_LEVEL_FP16 | 1u << PR_LEVEL_INT8), 0);
    sched_rig_memory(0.88);
    nap_ms(300);
    reply_submit(&rig, (reply_init(&replies[1], "e.gguf", "", 10, 1), replies[1].job.floor_given = true,
                        replies[1].job.floor = PR_LEVEL_INT8, &replies[1]));
    reply_wait(&replies[1]);
    assert_int_equal(replies[1].done.finish, PR_JOB_ERROR);
    assert_int_equal(replies[1].done.err.status, PR_ERR_LIMIT);
    assert_true(strstr(replies[1].done.err.text, "min_quantization") && replies[1].done.retry_after > 0);
    sched_rig_close(&rig);
}

/* Parked, then there is room again: it goes on, and its text is whole. */
static void a_parked_stream_goes_on(void **state) {
    (void)state;
    sched_rig rig;
    const sched_rig_opts o = {
        .sched = {.park_seconds = 20, .stall_seconds = 0.3}, .engine = engine, .dwell_seconds = 0.1};
    sched_rig_open(&rig, &o);
    reply_init(&replies[0], "e.gguf", "", 300, 1);
    replies[0].token_ms = 1;
    replies[0].job.floor_given = true;
    replies[0].job.floor = PR_LEVEL_FP16;
    reply_submit(&rig, &replies[0]);
    reply_wait_tokens(&replies[0], 10);
    sched_rig_memory(0.97);
    wait_level(&rig, PR_LEVEL_INT2);
    pr_sched_stats stats;
    pr_sched_stats_get(rig.sched, &stats);
    for (int i = 0; i < 2000 && !stats.n_parked; i++) nap_ms(1), pr_sched_stats_get(rig.sched, &stats);
    assert_int_equal(stats.n_parked, 1);
    nap_ms(500); /* parked is not stalled */
    assert_int_equal(replies[0].n_done, 0);
    sched_rig_memory(0.2);
    reply_wait(&replies[0]);
    assert_int_equal(replies[0].done.finish, PR_JOB_LENGTH);
    assert_int_equal(replies[0].done.levels_used, 1u << PR_LEVEL_FP16);
    same_as_at(&replies[0], -1);
    sched_rig_close(&rig);
}

/* ---- squeeze ------------------------------------------------------------------ */

/* Requests 1, 3, 8, 3, 0 while memory goes .35, .48, .68, .90, .35. Two bits are below the floor of so small a model unless
 * every request says that it does not mind. */
static void streams_live_through_a_squeeze(void **state) {
    (void)state;
    sched_rig rig;
    size_t held = pr_mem_total();
    const sched_rig_opts o = {.engine = engine, .dwell_seconds = 0.5, .with_policy = true};
    sched_rig_open(&rig, &o);
    for (int i = 0; i < 8; i++) {
        reply_init(&replies[i], "e.gguf", i % 2 ? "x" : "y", i < 3 ? LONG : 200, 1 + (uint64_t)i);
        replies[i].token_ms = 1;
        replies[i].job.floor_given = true;
    }
    sched_rig_memory(0.35);
    reply_submit(&rig, &replies[0]);
    reply_wait_tokens(&replies[0], 5);
    wait_level(&rig, PR_LEVEL_FP16);
    sched_rig_memory(0.48);
    for (int i = 1; i < 3; i++) reply_submit(&rig, &replies[i]);
    for (int i = 1; i < 3; i++) reply_wait_tokens(&replies[i], 5);
    nap_ms(500);
    wait_level(&rig, PR_LEVEL_FP16); /* stays */
    size_t weights = pr_mem_bytes(PR_TAG_WEIGHTS);
    for (int i = 3; i < 8; i++) reply_submit(&rig, &replies[i]);
    sched_rig_memory(0.68);
    wait_level(&rig, PR_LEVEL_INT4);
    pr_elastic_info e = elastic(&rig);
    assert_int_equal(weights - pr_mem_bytes(PR_TAG_WEIGHTS),
                     e.level_bytes[PR_LEVEL_FP16] - e.level_bytes[PR_LEVEL_INT4]);
    for (int i = 3; i < 8; i++) reply_wait(&replies[i]);
    sched_rig_memory(0.90);
    wait_level(&rig, PR_LEVEL_INT2);
    assert_int_equal(weights - pr_mem_bytes(PR_TAG_WEIGHTS),
                     e.level_bytes[PR_LEVEL_FP16] - e.level_bytes[PR_LEVEL_INT2]);
    for (int i = 0; i < 3; i++) replies[i].token_ms = 0;
    for (int i = 0; i < 3; i++) reply_wait(&replies[i]);
    sched_rig_memory(0.35);
    wait_level(&rig, PR_LEVEL_FP16); /* step by step */
    for (int i = 0; i < 8; i++) {
        assert_int_equal(replies[i].done.finish, PR_JOB_LENGTH);
        assert_int_equal(replies[i].n_tokens, i < 3 ? LONG : 200);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(replies[i].done.levels_used, 1u << PR_LEVEL_FP16 | 1u << PR_LEVEL_INT4 | 1u << PR_LEVEL_INT2);
    nap_ms(300); /* the last move is told */
    pr_timeline_entry entries[16];
    size_t n = pr_timeline_read(rig.timeline, 0, entries, 16, NULL);
    const pr_level levels[] = {PR_LEVEL_FP16, PR_LEVEL_INT4, PR_LEVEL_INT2,
                               PR_LEVEL_INT4, PR_LEVEL_INT8, PR_LEVEL_FP16};
    assert_int_equal(n, 5);
    assert_int_equal(rig.n_moved, 5);
    assert_int_equal(rig.faults, 0);
    for (size_t i = 0; i < n; i++) {
        const pr_timeline_entry *t = &entries[i];
        assert_int_equal(t->from, levels[i]);
        assert_int_equal(t->to, levels[i + 1]);
        assert_int_equal(t->cursor, e.level_cursor[t->to]);
        assert_int_equal(t->bytes, (int64_t)e.level_bytes[t->to] - (int64_t)e.level_bytes[t->from]);
        assert_string_equal(t->model, "e.gguf");
        assert_true(t->seconds >= 0 && t->seconds < 5 && t->time > 1e9 &&
                    strstr(t->reason, t->to < t->from ? "down" : "up"));
    }
    sched_rig_close(&rig);
    assert_int_equal(pr_mem_total(), held);
}

/* A request that does not fit now waits; when there is room it runs. */
static void requests_wait_for_memory(void **state) {
    (void)state;
    sched_rig rig;
    sched_rig_open(&rig, &(sched_rig_opts){.engine = engine});
    sched_rig_memory(0.949);
    nap_ms(300);
    begin(&rig, &replies[0], "", 10, 1); /* a few pages */
    reply_wait(&replies[0]);
    assert_int_equal(replies[0].done.finish, PR_JOB_LENGTH);
    begin(&rig, &replies[1], "", LONG, 1); /* more than what is left: 0.1% of 256 MiB */
    nap_ms(300);
    begin(&rig, &replies[2], "", 10, 1); /* nobody passes it */
    nap_ms(100);
    assert_true(replies[1].n_seen == 0 && replies[2].n_seen == 0 && replies[2].position == 2);
    sched_rig_memory(0.5);
    for (int i = 1; i < 3; i++) reply_wait(&replies[i]);
    for (int i = 1; i < 3; i++) assert_int_equal(replies[i].done.finish, PR_JOB_LENGTH);
    sched_rig_close(&rig);
}

/* ---- by hand ------------------------------------------------------------------ */

static void moved_by_hand_and_back(void **state) {
    (void)state;
    sched_rig rig;
    pr_err err = {0};
    sched_rig_open(&rig, &(sched_rig_opts){.engine = engine, .dwell_seconds = 0.2});
    reply_init(&replies[0], "e.gguf", "", LONG, 1);
    replies[0].token_ms = 1;
    reply_submit(&rig, &replies[0]);
    reply_wait_tokens(&replies[0], 5);
    assert_int_equal(pr_sched_move(rig.sched, "e.gguf", PR_LEVEL_INT4, 0, &err), PR_OK);
    wait_level(&rig, PR_LEVEL_INT4);
    nap_ms(500);
    wait_level(&rig, PR_LEVEL_INT4); /* calm, and yet */
    assert_int_equal(pr_sched_move(rig.sched, "e.gguf", PR_LEVEL_INT8, 0, &err), PR_OK);
    wait_level(&rig, PR_LEVEL_INT8);
    sched_rig_memory(0.97); /* bytes go over it */
    wait_level(&rig, PR_LEVEL_INT2);
    sched_rig_memory(0.3);
    wait_level(&rig, PR_LEVEL_INT8); /* and give it back */
    assert_int_equal(pr_sched_auto(rig.sched, "e.gguf", &err), PR_OK);
    wait_level(&rig, PR_LEVEL_FP16);
    assert_int_equal(pr_sched_auto(rig.sched, "none", &err), PR_ERR_NOTFOUND);
    pr_sched_cancel(rig.sched, replies[0].id);
    reply_wait(&replies[0]);
    sched_rig_close(&rig);
}

/* Nobody has ever asked it anything, and yet it gives way and comes back. */
static void a_model_without_requests_is_governed(void **state) {
    (void)state;
    sched_rig rig;
    pr_err err = {0};
    pr_model *m = NULL;
    sched_rig_open(&rig, &(sched_rig_opts){.engine = engine, .dwell_seconds = 0.2});
    assert_int_equal(pr_registry_acquire(rig.registry, "e.gguf", NULL, &m, &err), PR_OK);
    pr_registry_release(m);
    sched_rig_memory(0.9);
    wait_level(&rig, PR_LEVEL_INT4);
    sched_rig_memory(0.1);
    wait_level(&rig, PR_LEVEL_FP16);
    assert_int_equal(pr_sched_move(rig.sched, "e.gguf", PR_LEVEL_INT8, 0, &err), PR_OK);
    wait_level(&rig, PR_LEVEL_INT8);
    pr_model_info info = {0};
    pr_registry_list(rig.registry, &info, 1);
    assert_true(info.access_count == 1 && info.n_held == 0); /* looking after it is no use */
    assert_int_equal(pr_registry_sweep(rig.registry, true), 1);
    assert_int_equal(pr_sched_move(rig.sched, "e.gguf", PR_LEVEL_INT4, 0, &err), PR_ERR_NOTFOUND);
    sched_rig_close(&rig);
}

/* Goes over a level set by hand, and gives it back; a stream with a floor waits for that. */
static void an_emergency_goes_over_everything(void **state) {
    (void)state;
    sched_rig rig;
    pr_err err = {0};
    sched_rig_open(&rig, &(sched_rig_opts){.engine = engine, .dwell_seconds = 0.2});
    reply_init(&replies[0], "e.gguf", "", 300, 1);
    replies[0].token_ms = 1;
    replies[0].job.floor_given = true;
    replies[0].job.floor = PR_LEVEL_INT8;
    reply_submit(&rig, &replies[0]);
    reply_wait_tokens(&replies[0], 5);
    assert_int_equal(pr_sched_move(rig.sched, "e.gguf", PR_LEVEL_INT8, 0, &err), PR_OK);
    wait_level(&rig, PR_LEVEL_INT8);
    pr_sched_emergency(rig.sched, true);
    wait_level(&rig, PR_LEVEL_INT2);
    nap_ms(500);
    wait_level(&rig, PR_LEVEL_INT2);
    pr_sched_stats stats;
    pr_sched_stats_get(rig.sched, &stats);
    assert_int_equal(stats.n_parked, 1);
    pr_sched_emergency(rig.sched, false);
    wait_level(&rig, PR_LEVEL_INT8);
    reply_wait(&replies[0]);
    assert_int_equal(replies[0].done.finish, PR_JOB_LENGTH);
    assert_int_equal(replies[0].done.levels_used & 1u << PR_LEVEL_INT2, 0);
    sched_rig_close(&rig);
}

/* MAX_MODEL_CACHE_MB holds for raises, too. */
static void the_cap_holds(void **state) {
    (void)state;
    sched_rig rig;
    sched_rig_open(&rig, &(sched_rig_opts){.engine = engine, .dwell_seconds = 0.1});
    begin(&rig, &replies[0], "", 10, 1);
    reply_wait(&replies[0]);
    pr_elastic_info e = elastic(&rig);
    size_t fixed = pr_registry_bytes(rig.registry) - e.bytes;
    pr_registry_set_bytes_max(rig.registry, fixed + e.level_bytes[PR_LEVEL_INT8]);
    wait_level(&rig, PR_LEVEL_INT8);
    nap_ms(500);
    wait_level(&rig, PR_LEVEL_INT8);
    pr_registry_set_bytes_max(rig.registry, 1 << 30);
    wait_level(&rig, PR_LEVEL_FP16);
    sched_rig_close(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forced_levels_run_apart),
        cmocka_unit_test(forced_under_a_budget),
        cmocka_unit_test(an_ordinary_model_has_no_levels),
        cmocka_unit_test(prefixes_of_a_lower_level),
        cmocka_unit_test(a_floor_that_cannot_be_met),
        cmocka_unit_test(a_parked_stream_goes_on),
        cmocka_unit_test(streams_live_through_a_squeeze),
        cmocka_unit_test(requests_wait_for_memory),
        cmocka_unit_test(moved_by_hand_and_back),
        cmocka_unit_test(a_model_without_requests_is_governed),
        cmocka_unit_test(an_emergency_goes_over_everything),
        cmocka_unit_test(the_cap_holds),
    };
    return cmocka_run_group_tests(tests, setup, rig_teardown);
}
