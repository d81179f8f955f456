/*
 * The scheduler: the same text in any company, places in the queue, limits of time, leaving in every state, fair shares.
 */
#include "sched/sched.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/os.h"
#include "support/sanitized.h"
#include "support/sched_rig.h"

enum { MANY = 8, GREEDY = 20 };

static const llama_gguf small = {.dim = 32, .n_layers = 2, .n_heads = 2, .n_kv_heads = 1, .n_ff = 64, .context = 2048};

static int setup(void **state) {
    if (rig_setup(state)) return -1;
    llama_gguf m = small;
    rig_model(&m, "a.gguf");
    m.seed = 7;
    rig_model(&m, "b.gguf");
    rig_model(&m, "c.gguf");
    return 0;
}

static reply replies[64];

static void same_text(const reply *r, const char *model, const pr_engine_opts *opts) {
    char *alone = reply_alone(rig_path(model), opts, -1, r);
    assert_string_equal(r->text, alone);
    pr_free(alone);
}

static const pr_engine_opts plain = {.context_max = 256};

/* ---- text -------------------------------------------------------------------- */

static void one_is_as_alone(void **state) {
    (void)state;
    sched_rig rig;
    size_t held = pr_mem_total();
    sched_rig_open(&rig, &(sched_rig_opts){0});
    reply *r = replies;
    const char *const stops[] = {"zz", "a"};
    const pr_logit_bias bias[] = {{270, 5}};
    for (int i = 0; i < 4; i++) {
        reply_init(r, "a.gguf", i % 2 ? "k" : NULL, i == 3 ? 0 : 40, 5 + (uint64_t)i);
        r->job.generate.sample.repetition_penalty = 1.2f;
        r->job.want_logits = true;
        if (i == 1) r->job.generate.stop = stops, r->job.generate.n_stop = 2;
        if (i == 2) r->job.generate.sample.bias = bias, r->job.generate.sample.n_bias = 1;
        reply_submit(&rig, r);
        reply_wait(r);
        same_text(r, "a.gguf", &plain);
        assert_int_equal(r->done.finish, i == 1 ? PR_JOB_STOP : PR_JOB_LENGTH);
        assert_int_equal(r->done.n_generated, r->n_tokens);
        assert_int_equal(r->done.n_prompt, r->n_prompt);
        assert_int_equal(r->done.levels_used, 1u << PR_LEVEL_FP16);
        assert_true(r->done.total_seconds >= r->done.first_token_seconds && r->done.queue_seconds >= 0);
        if (i == 3) assert_int_equal(r->n_tokens + r->n_prompt, 257); /* until the context is full */
    }
    assert_true(r->done.load_seconds == 0);
    sched_rig_close(&rig);
    assert_int_equal(pr_mem_total(), held);
}

/* Prompts of all lengths, fed in small chunks, several of them the same; some end early. */
static void many_are_as_alone(void **state) {
    (void)state;
    sched_rig rig;
    sched_rig_open(&rig, &(sched_rig_opts){.sched = {.prefill_chunk = 7, .parallel = 5}, .engine = {.batch_max = 24}});
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < MANY; i++) {
            reply *r = &replies[i];
            reply_init(r, "a.gguf", i % 3 ? "x" : "y", 10 + 7 * (uint32_t)i, 100 + (uint64_t)i);
            reply_prompt(r, i < 3 ? 1 : (uint64_t)i, i < 3 ? 70 : 1 + (size_t)i * 17); /* three share a prompt */
            reply_submit(&rig, r);
        }
        for (int i = 0; i < MANY; i++) {
            reply_wait(&replies[i]);
            assert_int_equal(replies[i].done.finish, PR_JOB_LENGTH);
            same_text(&replies[i], "a.gguf", &plain);
        }
    }
    pr_sched_stats stats;
    pr_sched_stats_get(rig.sched, &stats);
    assert_int_equal(stats.n_done, 2 * MANY);
    assert_true(stats.n_running + stats.n_queued + stats.n_parked == 0 && stats.tokens_cached > 0);
    assert_true(stats.kv_bytes > 0 && stats.prefix_bytes <= stats.kv_bytes && stats.kv_bytes <= stats.kv_bytes_max);
    assert_true(stats.tokens_per_second > 0);
    pr_sched_drop_prefixes(rig.sched);
    for (int i = 0; i < 1000 && stats.prefix_bytes; i++) nap_ms(1), pr_sched_stats_get(rig.sched, &stats);
    assert_int_equal(stats.prefix_bytes, 0);
    sched_rig_close(&rig);
}

/* Drafts change no text, whatever ends it and whoever comes in between; somebody who runs alone has some. With four words to
 * choose from everything has been said before. */
static void drafts_change_nothing(void **state) {
    (void)state;
    enum { WORDS = 309, FEW = 4 };
    static pr_logit_bias bias[WORDS - FEW];
    for (int32_t i = 0; i < WORDS - FEW; i++) bias[i] = (pr_logit_bias){i, -INFINITY};
    sched_rig rig;
    pr_sched_stats stats;
    size_t held = pr_mem_total();
    sched_rig_open(&rig, &(sched_rig_opts){0});
    const char *const stops[] = {"zz", "a"};
    for (int i = 0; i < 12; i++) {
        int n = i < 6 ? 1 : 3; /* alone, then in company that comes and goes */
        for (int k = 0; k < n; k++) {
            reply *r = &replies[k];
            reply_init(r, "a.gguf", k ? "k" : NULL, i % 3 == 2 && k == 0 ? 0 : 30 + 25 * (uint32_t)k, 50 + (uint64_t)i);
            reply_prompt(r, 5 + (uint64_t)k, 20);
            r->job.generate.sample.bias = bias;
            r->job.generate.sample.n_bias = WORDS - FEW;
            r->job.want_logits = i % 2;
            if (i == 4) r->job.generate.stop = stops, r->job.generate.n_stop = 2;
            reply_submit(&rig, r);
        }
        for (int k = 0; k < n; k++) {
            reply *r = &replies[k];
            reply_wait(r);
            same_text(r, "a.gguf", &plain);
            assert_int_equal(r->done.n_generated, r->n_tokens);
            if (r->job.generate.max_tokens == 0) assert_int_equal(r->n_tokens + r->n_prompt, 257);
            else if (i != 4) assert_int_equal(r->n_tokens, r->job.generate.max_tokens);
        }
    }
    pr_sched_stats_get(rig.sched, &stats);
    assert_true(stats.tokens_accepted > 0 && stats.tokens_accepted <= stats.tokens_drafted);
    reply_init(replies, "a.gguf", "k", 0, 99); /* gone in the middle */
    replies->job.generate.sample.bias = bias;
    replies->job.generate.sample.n_bias = WORDS - FEW;
    replies->token_ms = 2;
    reply_submit(&rig, replies);
    reply_wait_tokens(replies, 20);
    pr_sched_cancel(rig.sched, replies->id);
    reply_wait(replies);
    assert_int_equal(replies->done.finish, PR_JOB_CANCELLED);
    sched_rig_close(&rig);
    assert_int_equal(pr_mem_total(), held);
}

static void two_models_at_once(void **state) {
    (void)state;
    sched_rig rig;
    sched_rig_open(&rig, &(sched_rig_opts){0});
    for (int i = 0; i < MANY; i++) {
        reply_init(&replies[i], i % 2 ? "a.gguf" : "b.gguf", "", 60, 3 + (uint64_t)i);
        reply_submit(&rig, &replies[i]);
    }
    for (int i = 0; i < MANY; i++) {
        reply_wait(&replies[i]);
        same_text(&replies[i], replies[i].job.model, &plain);
    }
    assert_int_equal(rig.n_loaded, 2);
    sched_rig_close(&rig);
}

/* ---- prefixes ---------------------------------------------------------------- */

static uint32_t cached(sched_rig *rig, reply *r, const char *key, uint64_t seed, size_t n_prompt) {
    reply_init(r, "a.gguf", key, 20, seed);
    reply_prompt(r, 77, n_prompt);
    reply_submit(rig, r);
    reply_wait(r);
    assert_int_equal(r->done.finish, PR_JOB_LENGTH);
    same_text(r, "a.gguf", &plain);
    return r->done.n_cached;
}

static void a_prefix_is_used_again(void **state) {
    (void)state;
    sched_rig rig;
    sched_rig_open(&rig, &(sched_rig_opts){0});
    reply *r = replies;
    assert_int_equal(cached(&rig, r, "k", 1, 100), 0);
    assert_int_equal(cached(&rig, r, "k", 2, 100), 99); /* never the whole prompt: its last row gives the first token */
    assert_int_equal(cached(&rig, r, "k", 3, 150), 100); /* what the first one's prompt and this one's share */
    assert_int_equal(cached(&rig, r, "k", 4, 60), 59);
    assert_int_equal(cached(&rig, r, "other", 5, 100), 0); /* somebody else's */
    assert_int_equal(cached(&rig, r, "k", 6, 10), 0);      /* not worth it */
    sched_rig_close(&rig);
    sched_rig_open(&rig, &(sched_rig_opts){.sched = {.prefix_off = true}});
    for (int i = 0; i < 2; i++) assert_int_equal(cached(&rig, r, "k", 1, 100), 0);
    sched_rig_close(&rig);
}

static void begin(sched_rig *rig, reply *r, const char *key, uint32_t max_tokens, size_t n_prompt, long token_ms) {
    reply_init(r, "a.gguf", key, max_tokens, (uint64_t)(r - replies) + 1);
    r->token_ms = token_ms;
    reply_prompt(r, 77, n_prompt);
    reply_submit(rig, r);
}

/* Who comes while the first one decodes has the whole pages of its prompt; what begins alike is held once. */
static void a_prompt_is_shared_while_it_runs(void **state) {
    (void)state;
    sched_rig rig;
    pr_sched_stats stats;
    sched_rig_open(&rig, &(sched_rig_opts){0});
    begin(&rig, &replies[0], "k", 150, 100, 10);
    reply_wait_tokens(&replies[0], 1);
    begin(&rig, &replies[1], "k", 20, 100, 0);
    begin(&rig, &replies[2], "other", 20, 100, 0);
    for (int i = 1; i < 3; i++) reply_wait(&replies[i]);
    assert_int_equal(replies[0].n_done, 0);
    replies[0].token_ms = 0;
    reply_wait(&replies[0]);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(replies[i].done.n_cached, i == 1 ? 96 : 0);
        same_text(&replies[i], "a.gguf", &plain);
    }
    const uint32_t pages = 8 + 1 +
                           4; /* 249 tokens; of the second one's 119 what is not in them; 119 of the other key */
    pr_sched_stats_get(rig.sched, &stats);
    for (int i = 0; i < 5000 && stats.kv_bytes != stats.prefix_bytes; i++) /* a session is closed after its last word */
        nap_ms(1), pr_sched_stats_get(rig.sched, &stats);
    assert_int_equal(stats.kv_bytes, stats.prefix_bytes);
    assert_int_equal(stats.prefix_pages, pages);
    assert_int_equal(stats.prefix_bytes % pages, 0);
    assert_int_equal(stats.prefix.kept - stats.prefix.evicted, pages);
    assert_true(stats.prefix.hits == 1 && stats.prefix.misses == 2 && stats.prefix.dropped == 0);
    sched_rig_close(&rig);
}

static size_t bytes_per_token(void) {
    pr_engine_info info;
    pr_engine *e = rig_open(rig_path("a.gguf"), &(pr_engine_opts){.n_threads = 1});
    pr_engine_describe(e, &info);
    pr_engine_close(e);
    return info.kv_bytes_per_token;
}

/* Where memory leaves room for two and a half pages, a request that may take four has two of those that are only kept. */
static void kept_pages_give_way_to_memory(void **state) {
    (void)state;
    sched_rig rig;
    pr_sched_stats before, after;
    reply *r = replies;
    sched_rig_open(&rig, &(sched_rig_opts){.limit_bytes = bytes_per_token() * 32 * 25000});
    assert_int_equal(cached(&rig, r, "k", 1, 100), 0);
    pr_sched_stats_get(rig.sched, &before);
    assert_int_equal(before.prefix_pages, 4);
    sched_rig_memory(0.9499); /* full is 0.95 */
    nap_ms(500);
    assert_int_equal(cached(&rig, r, "other", 2, 100), 0);
    assert_true(r->done.queue_seconds < 20); /* else its time in the queue is over after 30 */
    pr_sched_stats_get(rig.sched, &after);
    assert_true(after.prefix.evicted >= before.prefix.evicted + 2);
    sched_rig_close(&rig);
}

/* Two that would not fit beside each other do when they share. */
static void shared_pages_are_counted_once(void **state) {
    (void)state;
    sched_rig rig;
    const pr_engine_opts tight = {.context_max = 256, .kv_bytes_max = bytes_per_token() * 32 * 6};
    sched_rig_open(&rig, &(sched_rig_opts){.engine = tight});
    begin(&rig, &replies[0], "k", 60, 96, 20); /* 5 pages */
    reply_wait_tokens(&replies[0], 1);
    begin(&rig, &replies[1], "k", 1, 96, 0); /* 3, of which 2 are there */
    reply_wait(&replies[1]);
    assert_int_equal(replies[0].n_done, 0);
    assert_int_equal(replies[1].done.n_cached, 95);
    begin(&rig, &replies[2], "other", 1, 96, 0); /* 3: waits */
    replies[0].token_ms = 0;
    for (int i = 0; i < 3; i += 2) reply_wait(&replies[i]);
    assert_true(replies[2].first_at >= replies[0].ended);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(replies[i].done.finish, PR_JOB_LENGTH);
        same_text(&replies[i], "a.gguf", &plain);
    }
    sched_rig_close(&rig);
}

/* A pool of few pages: kept ones give way, requests wait for each other, all come through. */
static void pages_are_short(void **state) {
    (void)state;
    sched_rig rig;
    pr_engine_opts tight = {.context_max = 128, .kv_bytes_max = bytes_per_token() * 32 * 6};
    sched_rig_open(&rig, &(sched_rig_opts){.engine = tight});
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 12; i++) {
            reply_init(&replies[i], "a.gguf", i % 2 ? "x" : "y", i % 3 ? 10 : 0, (uint64_t)(round * 5 + i % 4 + 1));
            reply_prompt(&replies[i], (uint64_t)(i % 4), 20 + (size_t)i * 7);
            reply_submit(&rig, &replies[i]);
        }
        for (int i = 0; i < 12; i++) {
            reply_wait(&replies[i]);
            if (replies[i].done.finish != PR_JOB_LENGTH) fail_msg("%s", replies[i].done.err.text);
            same_text(&replies[i], "a.gguf", &(pr_engine_opts){.context_max = 128});
        }
    }
    sched_rig_close(&rig);
    /* Less than a context: an answer ends where the pages do, a prompt that is longer is refused. */
    tight.kv_bytes_max = bytes_per_token() * 32 * 2;
    sched_rig_open(&rig, &(sched_rig_opts){.engine = tight});
    reply_init(&replies[0], "a.gguf", "", 0, 1);
    reply_init(&replies[1], "a.gguf", "", 0, 1);
    reply_prompt(&replies[1], 1, 65);
    for (int i = 0; i < 2; i++) reply_submit(&rig, &replies[i]);
    for (int i = 0; i < 2; i++) reply_wait(&replies[i]);
    assert_int_equal(replies[0].done.finish, PR_JOB_LENGTH);
    assert_int_equal(replies[0].n_tokens, 65 - replies[0].n_prompt);
    assert_int_equal(replies[1].done.err.status, PR_ERR_ARG);
    sched_rig_close(&rig);
}

/* ---- queue ------------------------------------------------------------------- */

static void the_queue_is_bounded(void **state) {
    (void)state;
    sched_rig rig;
    pr_err err = {0};
    sched_rig_open(&rig, &(sched_rig_opts){.sched = {.queue_max = 3, .serial = true}});
    reply_init(&replies[0], "a.gguf", "k", 4, 1);
    replies[0].hold_at = 1;
    reply_submit(&rig, &replies[0]);
    reply_wait_tokens(&replies[0], 1);
    for (int i = 1; i < 4; i++) {
        reply_init(&replies[i], "a.gguf", "k", 4, 1);
        reply_submit(&rig, &replies[i]);
    }
    reply_init(&replies[4], "a.gguf", "k", 4, 1);
    for (int i = 0; i < 3; i++) {
        nap_ms(20);
        assert_int_equal(reply_try(&rig, &replies[4], &err), PR_ERR_LIMIT);
    }
    assert_non_null(strstr(err.text, "queue is full"));
    replies[0].go = 1;
    for (int i = 0; i < 4; i++) reply_wait(&replies[i]);
    for (int i = 1; i < 4; i++) {
        assert_true(replies[i].n_positions > 0);
        if (i > 1) assert_true(replies[i].started <= replies[i - 1].ended && replies[i].ended > replies[i - 1].ended);
        assert_string_equal(replies[i].text, replies[0].text);
    }
    assert_int_equal(replies[4].n_done, 0);
    sched_rig_close(&rig);
}

static void bad_jobs(void **state) {
    (void)state;
    sched_rig rig;
    pr_err err = {0};
    pr_job_id id = 0;
    sched_rig_open(&rig, &(sched_rig_opts){0});
    assert_int_equal(pr_sched_submit(rig.sched, &(pr_job){.model = "a.gguf"}, &id, &err), PR_ERR_ARG);
    for (int i = 0; i < 6; i++) reply_init(&replies[i], i == 0 ? "none.gguf" : "a.gguf", "", 30, 1);
    replies[1].prepare_fails = PR_ERR_UNSUPPORTED;
    replies[2].n_prompt = 0;
    reply_prompt(&replies[3], 1, 256);
    replies[3].job.generate.max_tokens = 5;
    replies[4].job.generate.sample.temperature = -1;
    replies[5].prompt[2] = 5000;
    reply_init(&replies[6], "a.gguf", "", 30, 9);
    for (int i = 0; i < 7; i++) reply_submit(&rig, &replies[i]);
    for (int i = 0; i < 7; i++) reply_wait(&replies[i]);
    for (int i = 0; i < 6; i++) assert_true(replies[i].done.finish == PR_JOB_ERROR && replies[i].done.err.text[0]);
    assert_int_equal(replies[0].done.err.status, PR_ERR_NOTFOUND);
    assert_int_equal(replies[1].done.err.status, PR_ERR_UNSUPPORTED);
    for (int i = 3; i < 6; i++) assert_int_equal(replies[i].done.err.status, PR_ERR_ARG);
    assert_int_equal(replies[6].done.finish, PR_JOB_LENGTH); /* in one step with bad ones */
    same_text(&replies[6], "a.gguf", &plain);
    pr_sched_cancel(rig.sched, replies[6].id); /* long gone */
    pr_sched_cancel(rig.sched, 12345);
    sched_rig_close(&rig);
}

/* ---- leaving ----------------------------------------------------------------- */

static void cancelled_in_every_state(void **state) {
    (void)state;
    sched_rig rig;
    sched_rig_open(&rig, &(sched_rig_opts){.sched = {.serial = true}});
    for (int i = 0; i < 4; i++) reply_init(&replies[i], "a.gguf", "", 200, 1 + (uint64_t)i);
    replies[0].token_ms = 2;
    reply_submit(&rig, &replies[0]); /* running */
    reply_wait_tokens(&replies[0], 3);
    replies[1].prepare_ms = 100;
    reply_submit(&rig, &replies[1]); /* preparing */
    nap_ms(20);
    reply_submit(&rig, &replies[2]); /* queued */
    pr_sched_cancel(rig.sched, replies[2].id);
    reply_wait(&replies[2]);
    pr_sched_cancel(rig.sched, replies[1].id);
    reply_wait(&replies[1]);
    reply_submit(&rig, &replies[3]); /* prepared */
    nap_ms(80);
    pr_sched_cancel(rig.sched, replies[3].id);
    reply_wait(&replies[3]);
    assert_int_equal(replies[0].n_done, 0);
    double start = pr_now();
    pr_sched_cancel(rig.sched, replies[0].id);
    reply_wait(&replies[0]);
    assert_true(replies[0].ended - start < (TEST_SANITIZED ? 1 : 0.1));
    for (int i = 0; i < 4; i++) assert_int_equal(replies[i].done.finish, PR_JOB_CANCELLED);
    pr_sched_stats stats;
    pr_sched_stats_get(rig.sched, &stats);
    assert_int_equal(stats.n_cancelled, 4);
    sched_rig_close(&rig);
}

static void drained_with_jobs_in_every_state(void **state) {
    (void)state;
    sched_rig rig;
    pr_err err = {0};
    size_t held = pr_mem_total();
    for (int round = 0; round < 6; round++) {
        sched_rig_open(&rig, &(sched_rig_opts){.sched = {.sessions_max = 2}});
        for (int i = 0; i < MANY; i++) {
            reply_init(&replies[i], i % 3 ? "a.gguf" : "b.gguf", "", 200, 1 + (uint64_t)i);
            replies[i].token_ms = 1;
            replies[i].prepare_ms = i % 2 * 3;
            reply_submit(&rig, &replies[i]);
        }
        nap_ms(round * 7);
        if (round % 2) {
            pr_sched_drain(rig.sched, round == 1 ? 60 : 0.01);
            assert_int_equal(reply_try(&rig, &replies[MANY], &err), PR_ERR_LIMIT);
            for (int i = 0; i < MANY; i++) assert_int_equal(replies[i].n_done, 1);
        }
        sched_rig_close(&rig);
        for (int i = 0; i < MANY; i++) {
            assert_int_equal(replies[i].n_done, 1);
            assert_int_equal(replies[i].faults, 0);
            bool whole = round == 1;
            assert_true(!whole || replies[i].done.finish == PR_JOB_LENGTH);
            assert_true(whole || replies[i].done.finish == PR_JOB_CANCELLED || replies[i].done.finish == PR_JOB_LENGTH);
        }
        assert_int_equal(pr_mem_total(), held);
    }
}

/* ---- time -------------------------------------------------------------------- */

static void limits_of_time(void **state) {
    (void)state;
    sched_rig rig;
    sched_rig_open(&rig, &(sched_rig_opts){.sched = {.serial = true, .queue_seconds = 0.2, .total_seconds = 2}});
    for (int i = 0; i < 2; i++) reply_init(&replies[i], "a.gguf", "", 0, 1);
    replies[0].token_ms = 20;
    reply_submit(&rig, &replies[0]);
    reply_wait_tokens(&replies[0], 1);
    reply_submit(&rig, &replies[1]);
    reply_wait(&replies[1]);
    assert_int_equal(replies[1].done.finish, PR_JOB_ERROR); /* its turn did not come */
    assert_int_equal(replies[1].done.err.status, PR_ERR_LIMIT);
    assert_true(replies[1].done.retry_after >= 1);
    assert_int_equal(replies[0].n_done, 0);
    reply_wait(&replies[0]);
    assert_int_equal(replies[0].done.finish, PR_JOB_TIMEOUT);
    assert_true(replies[0].len > 0 && replies[0].done.n_generated == replies[0].n_tokens);
    assert_true(replies[0].done.total_seconds >= 2 && replies[0].done.total_seconds < 20);
    sched_rig_close(&rig);
    /* Steps so slow that prompts stand still: another's callback takes its time. */
    sched_rig_open(&rig, &(sched_rig_opts){.sched = {.first_token_seconds = 0.15, .prefill_chunk = 1}});
    for (int i = 0; i < 2; i++) reply_init(&replies[i], "a.gguf", i ? "x" : "y", 100, 1);
    replies[0].token_ms = 20;
    reply_submit(&rig, &replies[0]);
    reply_wait_tokens(&replies[0], 1);
    reply_prompt(&replies[1], 1, 200);
    reply_submit(&rig, &replies[1]);
    reply_wait(&replies[1]);
    assert_int_equal(replies[1].done.finish, PR_JOB_TIMEOUT);
    assert_int_equal(replies[1].n_tokens, 0);
    sched_rig_close(&rig);
}

/* A model that waits for room: those who wait for it leave when they like, or when the time is up. */
static void loads_that_take_too_long(void **state) {
    (void)state;
    sched_rig rig;
    pr_model_info info;
    sched_rig_open(&rig, &(sched_rig_opts){0});
    reply_init(&replies[0], "a.gguf", "", 3, 1);
    reply_submit(&rig, &replies[0]);
    reply_wait(&replies[0]);
    pr_registry_list(rig.registry, &info, 1);
    sched_rig_close(&rig);
    sched_rig_open(&rig, &(sched_rig_opts){.sched = {.load_seconds = 2}, .bytes_max = info.bytes * 3 / 2});
    for (int i = 0; i < 5; i++) reply_init(&replies[i], i ? "b.gguf" : "a.gguf", "", i ? 5 : 0, 1);
    replies[0].hold_at = 2;
    reply_submit(&rig, &replies[0]);
    reply_wait_tokens(&replies[0], 2);
    nap_ms(10); /* the stepping thread stands in a callback: let it stand, but not for long */
    replies[0].go = 1;
    replies[0].token_ms = 20; /* to the end of its context: over twice the limit */
    for (int i = 1; i < 4; i++) reply_submit(&rig, &replies[i]);
    nap_ms(100);
    pr_sched_cancel(rig.sched, replies[1].id);
    reply_wait(&replies[1]);
    assert_int_equal(replies[1].done.finish, PR_JOB_CANCELLED);
    for (int i = 2; i < 4; i++) {
        reply_wait(&replies[i]);
        assert_int_equal(replies[i].done.finish, PR_JOB_ERROR);
        assert_int_equal(replies[i].done.err.status, PR_ERR_LIMIT);
        assert_non_null(strstr(replies[i].done.err.text, "loaded"));
    }
    reply_submit(&rig, &replies[4]); /* tries again; a drains, ends, goes */
    replies[0].token_ms = 0;
    reply_wait(&replies[0]);
    assert_int_equal(replies[0].done.finish, PR_JOB_LENGTH);
    reply_wait(&replies[4]);
    assert_int_equal(replies[4].done.finish, PR_JOB_LENGTH);
    assert_true(replies[4].done.load_seconds > 0);
    assert_int_equal(pr_registry_list(rig.registry, NULL, 0), 1);
    sched_rig_close(&rig);
}

/* The governor looks at idle models, but that is no use. */
static void idle_models_go(void **state) {
    (void)state;
    sched_rig rig;
    sched_rig_open(&rig, &(sched_rig_opts){.keep_alive_seconds = 0.3});
    reply_init(&replies[0], "a.gguf", "", 40, 1);
    reply_submit(&rig, &replies[0]);
    reply_wait(&replies[0]);
    nap_ms(500);
    assert_int_equal(pr_registry_sweep(rig.registry, false), 1); /* its kept prefix goes with it */
    assert_int_equal(pr_registry_list(rig.registry, NULL, 0), 0);
    reply_init(&replies[0], "a.gguf", "", 40, 1);
    reply_submit(&rig, &replies[0]);
    reply_wait(&replies[0]);
    assert_int_equal(rig.n_loaded, 2);
    sched_rig_close(&rig);
}

/* ---- shares ------------------------------------------------------------------ */

/* A key with twenty streams beside one with four, four rows a step: as many tokens for each. */
static void a_greedy_key_gets_its_share(void **state) {
    (void)state;
    sched_rig rig;
    const pr_engine_opts engine = {.context_max = 2048, .kv_bytes_max = 64 << 20};
    sched_rig_open(&rig, &(sched_rig_opts){.sched = {.parallel = 4}, .engine = engine});
    for (int i = 0; i < GREEDY + 4; i++) {
        reply_init(&replies[i], "a.gguf", i < GREEDY ? "greedy" : "modest", 2000, 1);
        reply_submit(&rig, &replies[i]);
    }
    for (int i = GREEDY; i < GREEDY + 4; i++) reply_wait_tokens(&replies[i], 1);
    long before[2] = {0}, after[2] = {0};
    for (int i = 0; i < GREEDY + 4; i++) before[i >= GREEDY] += replies[i].n_seen;
    reply_wait_tokens(&replies[GREEDY], 150);
    for (int i = 0; i < GREEDY + 4; i++) after[i >= GREEDY] += replies[i].n_seen;
    long greedy = after[0] - before[0], modest = after[1] - before[1];
    if (labs(greedy - modest) > modest / 5 + 20)
        fail_msg("%ld tokens for twenty streams, %ld for four", greedy, modest);
    for (int i = 0; i < GREEDY + 4; i++) pr_sched_cancel(rig.sched, replies[i].id);
    for (int i = 0; i < GREEDY + 4; i++) reply_wait(&replies[i]);
    sched_rig_close(&rig);
}

/* All places but the last few are taken by one key: another one begins at once. */
static void a_place_is_kept_for_others(void **state) {
    (void)state;
    sched_rig rig;
    const pr_engine_opts engine = {.context_max = 2048, .kv_bytes_max = 64 << 20};
    sched_rig_open(&rig, &(sched_rig_opts){.sched = {.sessions_max = 8}, .engine = engine});
    for (int i = 0; i < 10; i++) {
        reply_init(&replies[i], "a.gguf", "greedy", 2000, 1);
        replies[i].token_ms = 1;
        reply_submit(&rig, &replies[i]);
    }
    for (int i = 0; i < 7; i++) reply_wait_tokens(&replies[i], 1);
    reply_init(&replies[10], "a.gguf", "modest", 5, 1);
    reply_submit(&rig, &replies[10]);
    reply_wait(&replies[10]);
    assert_true(replies[7].n_seen == 0 && replies[10].done.finish == PR_JOB_LENGTH);
    for (int i = 0; i < 10; i++) pr_sched_cancel(rig.sched, replies[i].id);
    for (int i = 0; i < 10; i++) reply_wait(&replies[i]);
    sched_rig_close(&rig);
}

/* A prompt is not paid for by standing still afterwards, and a single stream has a row in every step. */
static void a_single_stream_is_never_left_out(void **state) {
    (void)state;
    sched_rig rig;
    const pr_engine_opts engine = {.context_max = 2048, .kv_bytes_max = 64 << 20};
    sched_rig_open(&rig, &(sched_rig_opts){.sched = {.parallel = 4}, .engine = engine});
    for (int i = 0; i <= GREEDY; i++) {
        reply_init(&replies[i], "a.gguf", i < GREEDY ? "greedy" : "modest", i < GREEDY ? 2000 : 200, 1);
        if (i == GREEDY) reply_prompt(&replies[i], 1, 500);
    }
    for (int i = 0; i < GREEDY; i++) reply_submit(&rig, &replies[i]);
    for (int i = 0; i < GREEDY; i++) reply_wait_tokens(&replies[i], 1);
    replies[GREEDY].steps_of = rig.sched;
    reply_submit(&rig, &replies[GREEDY]);
    reply_wait(&replies[GREEDY]);
    assert_int_equal(replies[GREEDY].done.finish, PR_JOB_LENGTH);
    assert_true(replies[GREEDY].last_step - replies[GREEDY].first_step < 205); /* for 199 tokens */
    for (int i = 0; i < GREEDY; i++) pr_sched_cancel(rig.sched, replies[i].id);
    for (int i = 0; i < GREEDY; i++) reply_wait(&replies[i]);
    sched_rig_close(&rig);
}

static void a_steady_state_allocates_nothing(void **state) {
    (void)state;
    sched_rig rig;
    sched_rig_open(&rig, &(sched_rig_opts){0});
    for (int i = 0; i < 4; i++) {
        reply_init(&replies[i], "a.gguf", "", 200, 1 + (uint64_t)i);
        replies[i].token_ms = 1;
        reply_submit(&rig, &replies[i]);
    }
    for (int i = 0; i < 4; i++) reply_wait_tokens(&replies[i], 20);
    uint64_t before = pr_mem_count();
    for (int i = 0; i < 4; i++) reply_wait_tokens(&replies[i], 120);
    assert_int_equal(pr_mem_count(), before);
    for (int i = 0; i < 4; i++) reply_wait(&replies[i]);
    sched_rig_close(&rig);
}

/* ---- faults ------------------------------------------------------------------ */

static void every_allocation_fails_once(void **state) {
    (void)state;
    size_t held = pr_mem_total();
    bool through = false;
    int64_t step = TEST_SANITIZED ? 7 : 1, n = 0;
    sched_rig warm;
    sched_rig_open(&warm, &(sched_rig_opts){0});
    sched_rig_close(&warm);
    for (; !through; n += step) {
        sched_rig rig;
        pr_err err = {0};
        bool in[3] = {false};
        for (int i = 0; i < 3; i++) reply_init(&replies[i], "a.gguf", i % 2 ? "x" : "y", 6, 1 + (uint64_t)i);
        pr_mem_fail_after(n, n % 2);
        pr_status st = sched_rig_try(&rig, &(sched_rig_opts){0}, &err);
        for (int i = 0; !st && i < 3; i++) {
            pr_status sub = reply_try(&rig, &replies[i], &err);
            in[i] = sub == PR_OK;
            assert_true(sub == PR_OK || sub == PR_ERR_NOMEM);
        }
        for (int i = 0; i < 3; i++) {
            if (!in[i]) continue;
            reply_wait(&replies[i]);
            const pr_job_done *d = &replies[i].done;
            assert_true(d->finish == PR_JOB_LENGTH || d->finish == PR_JOB_ERROR);
            if (d->finish == PR_JOB_ERROR) assert_int_equal(d->err.status, PR_ERR_NOMEM);
        }
        through = !pr_mem_failed();
        pr_mem_fail_after(-1, false);
        assert_true(st == PR_OK || st == PR_ERR_NOMEM);
        sched_rig_close(&rig);
        if (pr_mem_total() != held) fail_msg("request %d refused: %zd bytes lost", (int)n, pr_mem_total() - held);
    }
    assert_true(n > 100);
}

/* Many come and go, of three models of which two fit, from several keys, some cancelled: nothing is lost or told twice. */
static void at_random(void **state) {
    (void)state;
    sched_rig rig;
    pr_model_info info;
    rig_rng rng = {5};
    size_t held = pr_mem_total();
    sched_rig_open(&rig, &(sched_rig_opts){0});
    reply_init(&replies[0], "a.gguf", "", 3, 1);
    reply_submit(&rig, &replies[0]);
    reply_wait(&replies[0]);
    pr_registry_list(rig.registry, &info, 1);
    sched_rig_close(&rig);
    sched_rig_open(&rig, &(sched_rig_opts){.sched = {.sessions_max = 12}, .bytes_max = info.bytes * 5 / 2});
    enum { AT_ONCE = 24 };
    bool begun[AT_ONCE] = {false};
    for (int i = 0; i < (TEST_SANITIZED ? 150 : 400); i++) {
        int at = (int)rig_below(&rng, AT_ONCE);
        reply *r = &replies[at];
        if (begun[at]) {
            if (rig_below(&rng, 3) == 0) pr_sched_cancel(rig.sched, r->id);
            reply_wait(r);
            if (r->done.finish == PR_JOB_ERROR) fail_msg("%s", r->done.err.text);
        }
        static const char *const models[] = {"a.gguf", "b.gguf", "c.gguf"}, *const keys[] = {"x", "y", "z", "w"};
        reply_init(r, models[rig_below(&rng, 3)], keys[rig_below(&rng, 4)], 1 + rig_below(&rng, 60),
                   rig_below(&rng, 9));
        reply_submit(&rig, r);
        begun[at] = true;
        if (rig_below(&rng, 20) == 0) pr_registry_sweep(rig.registry, true);
        if (rig_below(&rng, 20) == 0) pr_sched_drop_prefixes(rig.sched);
    }
    sched_rig_close(&rig);
    for (int i = 0; i < AT_ONCE; i++) assert_true(!begun[i] || (replies[i].n_done == 1 && replies[i].faults == 0));
    assert_int_equal(pr_mem_total(), held);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_is_as_alone),
        cmocka_unit_test(many_are_as_alone),
        cmocka_unit_test(drafts_change_nothing),
        cmocka_unit_test(two_models_at_once),
        cmocka_unit_test(a_prefix_is_used_again),
        cmocka_unit_test(a_prompt_is_shared_while_it_runs),
        cmocka_unit_test(shared_pages_are_counted_once),
        cmocka_unit_test(kept_pages_give_way_to_memory),
        cmocka_unit_test(pages_are_short),
        cmocka_unit_test(the_queue_is_bounded),
        cmocka_unit_test(bad_jobs),
        cmocka_unit_test(cancelled_in_every_state),
        cmocka_unit_test(drained_with_jobs_in_every_state),
        cmocka_unit_test(limits_of_time),
        cmocka_unit_test(loads_that_take_too_long),
        cmocka_unit_test(idle_models_go),
        cmocka_unit_test(a_greedy_key_gets_its_share),
        cmocka_unit_test(a_place_is_kept_for_others),
        cmocka_unit_test(a_single_stream_is_never_left_out),
        cmocka_unit_test(a_steady_state_allocates_nothing),
        cmocka_unit_test(every_allocation_fails_once),
        cmocka_unit_test(at_random),
    };
    return cmocka_run_group_tests(tests, setup, rig_teardown);
}
