/*
 * A scheduler for tests (see sched_rig.h).
 */
#include "support/sched_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/os.h"
#include "base/str.h"

static const double patience = 180;

static char folder[512];

void nap_ms(long ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }

/* ---- rig --------------------------------------------------------------------- */

static pr_status resolve(void *arg, const char *name, char **path, pr_err *err) {
    (void)arg;
    char text[sizeof folder + 64];
    snprintf(text, sizeof text, "%s/%.40s", folder, name);
    *path = pr_strdup(PR_TAG_MISC, text);
    return *path ? PR_OK : pr_fail_nomem(err, "path", strlen(text));
}

static void event(void *arg, const char *model, const char *what, double seconds, size_t bytes) {
    sched_rig *rig = arg;
    (void)model, (void)seconds, (void)bytes;
    if (strcmp(what, "loaded") == 0) rig->n_loaded++;
}

static void moved(void *arg, const pr_timeline_entry *entry) {
    sched_rig *rig = arg;
    pr_sched_stats stats;
    rig->n_moved++;
    if (!entry->reason[0] || !entry->model[0]) rig->faults++;
    pr_sched_stats_get(rig->sched, &stats); /* called without the lock */
}

static uint32_t waiting(void *arg, const pr_model *model) {
    const sched_rig *rig = arg;
    return pr_sched_model_waiting(rig->sched, model);
}

static void opened(void *arg, const pr_model *model) {
    const sched_rig *rig = arg;
    pr_sched_model_opened(rig->sched, model);
}

static void closing(void *arg, const pr_model *model, const char *why) {
    (void)why;
    sched_rig *rig = arg;
    if (rig->sched) pr_sched_model_closing(rig->sched, model);
}

void sched_rig_memory(double used) {
    char path[sizeof folder + 16], fresh[sizeof folder + 16];
    snprintf(path, sizeof path, "%s/memory", folder);
    snprintf(fresh, sizeof fresh, "%s/memory.new", folder);
    FILE *f = fopen(fresh, "w");
    assert_true(f && fprintf(f, "%.4f\n", used) > 0 && fclose(f) == 0 && rename(fresh, path) == 0);
}

static pr_sched_opts sched_opts(sched_rig *rig, const sched_rig_opts *o, const pr_gov_settings *gov) {
    pr_sched_opts s = o->sched;
    s.drafts = PR_SPECULATE_MAX; /* as served: no test may notice */
    s.registry = rig->registry;
    s.gov = *gov;
    s.monitor = rig->monitor;
    s.timeline = rig->timeline;
    s.moved = moved;
    s.moved_arg = rig;
    return s;
}

pr_status sched_rig_try(sched_rig *rig, const sched_rig_opts *o, pr_err *err) {
    static pr_gov_settings gov;
    char source[sizeof folder + 16];
    *rig = (sched_rig){0};
    snprintf(source, sizeof source, "%s/memory", folder);
    pr_gov_defaults(&gov);
    gov.materiality = 1e-5; /* the models are tiny */
    if (o->dwell_seconds > 0) gov.dwell_seconds = o->dwell_seconds;
    const pr_monitor_opts m = {.limit_bytes = o->limit_bytes ? o->limit_bytes : 256 << 20, .memory_source = source};
    pr_status st = pr_monitor_open(&m, &rig->monitor, err);
    if (!st) st = pr_timeline_open(64, &rig->timeline, err);
    pr_registry_opts r = {.engine = o->engine,
                          .bytes_max = o->bytes_max ? o->bytes_max : 1 << 30,
                          .keep_alive_seconds = o->keep_alive_seconds,
                          .monitor = rig->monitor,
                          .gov = o->with_policy ? &gov : NULL,
                          .resolve = resolve,
                          .event = event,
                          .event_arg = rig};
    if (r.engine.n_threads == 0) r.engine.n_threads = 1;
    if (r.engine.context_max == 0) r.engine.context_max = 256;
    if (r.engine.kv_bytes_max == 0) r.engine.kv_bytes_max = 8 << 20;
    if (!st) st = pr_registry_open(&r, &rig->registry, err);
    if (st) return st;
    pr_registry_watched_by(rig->registry, &(pr_registry_watch){waiting, opened, closing, rig});
    const pr_sched_opts s = sched_opts(rig, o, &gov);
    return pr_sched_open(&s, &rig->sched, err);
}

void sched_rig_open(sched_rig *rig, const sched_rig_opts *opts) {
    pr_err err = {0};
    snprintf(folder, sizeof folder, "%s", rig_path("."));
    sched_rig_memory(0.1);
    if (sched_rig_try(rig, opts, &err)) fail_msg("%s", err.text);
}

void sched_rig_close(sched_rig *rig) {
    pr_sched_close(rig->sched);
    rig->sched = NULL;
    pr_registry_close(rig->registry);
    pr_timeline_close(rig->timeline);
    pr_monitor_close(rig->monitor);
}

/* ---- replies ----------------------------------------------------------------- */

static pr_status prepare(void *arg, const pr_engine *engine, int32_t **ids, size_t *n_ids, pr_err *err) {
    reply *r = arg;
    (void)engine;
    if (r->prepare_ms) nap_ms(r->prepare_ms);
    if (r->prepare_fails) return pr_fail(err, r->prepare_fails, "as it was told to");
    *ids = pr_alloc(PR_TAG_SESSION, r->n_prompt * sizeof **ids);
    if (!*ids) return pr_fail_nomem(err, "prompt", r->n_prompt * sizeof **ids);
    memcpy(*ids, r->prompt, r->n_prompt * sizeof **ids);
    *n_ids = r->n_prompt;
    return PR_OK;
}

static void on_token(void *arg, const pr_job_token *token) {
    reply *r = arg;
    if (r->n_done || r->len + token->len >= sizeof r->text) r->faults++;
    else memcpy(r->text + r->len, token->text, token->len);
    r->len += token->len;
    if (token->token >= 0) r->n_tokens++;
    if (r->first_at == 0) r->first_at = pr_now();
    if (token->token >= 0 && r->job.want_logits && (!token->logits || token->n_vocab == 0)) r->faults++;
    r->last = token->token;
    if (r->steps_of) {
        pr_sched_stats stats;
        pr_sched_stats_get(r->steps_of, &stats);
        r->last_step = stats.steps;
        if (r->n_tokens <= 1) r->first_step = stats.steps;
    }
    if (r->token_ms) nap_ms(r->token_ms);
    if (token->token >= 0) r->n_seen++;
    while (r->hold_at && r->n_tokens >= r->hold_at && !r->go) nap_ms(1);
}

static void on_done(void *arg, const pr_job_done *done) {
    reply *r = arg;
    r->done = *done;
    r->ended = pr_now();
    r->n_done++;
}

static void on_queue(void *arg, uint32_t position, double seconds) {
    reply *r = arg;
    if (r->n_done || position == 0 || seconds < 0) r->faults++;
    r->position = (int)position;
    r->n_positions++;
}

void reply_init(reply *r, const char *model, const char *key, uint32_t max_tokens, uint64_t seed) {
    memset(r, 0, sizeof *r);
    r->job = (pr_job){.model = model,
                      .key = key,
                      .prepare = prepare,
                      .generate = {.sample = {.temperature = 1, .top_k = 40, .top_p = 0.95f, .seed = seed},
                                   .max_tokens = max_tokens,
                                   .ignore_end = true},
                      .priority = PR_PRIORITY_BALANCED,
                      .on_token = on_token,
                      .on_done = on_done,
                      .on_queue = on_queue,
                      .arg = r};
    reply_prompt(r, seed, 5 + seed % 40);
}

void reply_prompt(reply *r, uint64_t seed, size_t n) {
    rig_rng rng = {seed};
    assert_true(n <= SCHED_RIG_PROMPT);
    r->n_prompt = n;
    rig_tokens(&rng, r->prompt, (uint32_t)n, 309);
}

pr_status reply_try(sched_rig *rig, reply *r, pr_err *err) {
    r->started = pr_now();
    return pr_sched_submit(rig->sched, &r->job, &r->id, err);
}

void reply_submit(sched_rig *rig, reply *r) {
    pr_err err = {0};
    if (reply_try(rig, r, &err)) fail_msg("%s", err.text);
}

void reply_wait(reply *r) {
    double until = pr_now() + patience;
    while (!r->n_done && pr_now() < until) nap_ms(1);
    if (r->n_done != 1) fail_msg("on_done came %d times", r->n_done);
    assert_int_equal(r->faults, 0);
    r->text[r->len] = '\0';
}

void reply_wait_tokens(reply *r, int n) {
    double until = pr_now() + patience;
    while (r->n_seen < n && !r->n_done && pr_now() < until) nap_ms(1);
    if (r->n_seen < n) fail_msg("%d tokens came, not %d: %s", r->n_seen, n, r->done.err.text);
}

static bool collect(void *arg, const char *text, size_t len) {
    pr_str_append(arg, text, len);
    return true;
}

char *reply_alone(const char *path, const pr_engine_opts *opts, int level, const reply *r) {
    pr_str text = {0};
    pr_err err = {0};
    pr_engine_opts o = *opts;
    o.n_threads = 1;
    o.level_given = level >= 0;
    o.level = level >= 0 ? (pr_level)level : PR_LEVEL_FP16;
    pr_engine *e = rig_open(path, &o);
    pr_session *s = rig_session(e);
    pr_generate_opts g = r->job.generate;
    g.on_text = collect;
    g.arg = &text;
    if (pr_session_generate(s, r->prompt, r->n_prompt, &g, NULL, &err)) fail_msg("%s", err.text);
    pr_session_close(s);
    pr_engine_close(e);
    char *out = pr_str_take(&text);
    return out ? out : pr_strdup(PR_TAG_MISC, "");
}
