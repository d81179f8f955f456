/*
 * Sessions and steps.
 *
 * A step checks everything, then reserves pages for every session, then
 * computes, then commits: until the commit no session has changed, so a step
 * that is refused leaves nothing behind.
 */
#include <string.h>

#include "engine/engine_impl.h"
#include "engine/serve.h"

pr_status pr_session_open(pr_engine *engine, pr_session **out, pr_err *err) {
    *out = NULL;
    pr_session *s = pr_calloc(PR_TAG_SESSION, 1, sizeof *s);
    if (!s) return pr_fail_nomem(err, "session", sizeof *s);
    s->engine = engine;
    uint32_t context = engine->blue.opts.context_max;
    s->history = pr_calloc(PR_TAG_SESSION, context, sizeof *s->history);
    pr_status st = s->history ? PR_OK : pr_fail_nomem(err, "session history", context * sizeof *s->history);
    if (!st) st = pr_kv_seq_init(&s->kv, engine->kv, context, err);
    if (st) pr_session_close(s);
    else *out = s;
    return st;
}

void pr_session_close(pr_session *session) {
    if (!session) return;
    pr_kv_seq_free(&session->kv);
    pr_free(session->history);
    pr_free(session);
}

pr_status pr_session_fork(const pr_session *session, pr_session **out, pr_err *err) {
    pr_status st = pr_session_open(session->engine, out, err);
    if (st) return st;
    pr_kv_seq_fork(&session->kv, &(*out)->kv);
    memcpy((*out)->history, session->history, session->kv.n_tokens * sizeof *session->history);
    return PR_OK;
}

pr_status pr_session_truncate(pr_session *session, uint32_t n_tokens, pr_err *err) {
    if (n_tokens > session->kv.n_tokens)
        return pr_fail(err, PR_ERR_ARG, "cannot truncate a session of %u tokens to %u", session->kv.n_tokens, n_tokens);
    pr_kv_seq_truncate(&session->kv, n_tokens);
    return PR_OK;
}

uint32_t pr_session_length(const pr_session *session) { return session->kv.n_tokens; }

const int32_t *pr_session_tokens(const pr_session *session) { return session->history; }

const int32_t *pr_session_tokens_and(pr_session *session, int32_t next) {
    if (session->kv.n_tokens >= session->engine->blue.opts.context_max) return NULL;
    session->history[session->kv.n_tokens] = next;
    return session->history;
}

/* ---- steps ------------------------------------------------------------ */

static pr_status check_run(const pr_engine *e, const pr_run *run, pr_err *err) {
    const pr_engine_opts *o = &e->blue.opts;
    if (!run->session || run->session->engine != e)
        return pr_fail(err, PR_ERR_ARG, "a run without a session of this engine");
    if (run->session->step_stamp == e->step_count)
        return pr_fail(err, PR_ERR_ARG, "a session is given twice in one step");
    if (run->n_tokens == 0 || run->n_logits > run->n_tokens)
        return pr_fail(err, PR_ERR_ARG, "a run of %u tokens cannot give %u rows of logits", run->n_tokens,
                       run->n_logits);
    uint32_t length = run->session->kv.n_tokens;
    if (run->n_tokens > o->context_max - length)
        return pr_fail(err, PR_ERR_LIMIT, "the context is full: %u tokens and %u more, of %u", length, run->n_tokens,
                       o->context_max);
    for (uint32_t i = 0; i < run->n_tokens; i++)
        if (run->tokens[i] < 0 || (uint32_t)run->tokens[i] >= e->blue.desc.n_vocab)
            return pr_fail(err, PR_ERR_ARG, "token %d is not in the vocabulary of %u", run->tokens[i],
                           e->blue.desc.n_vocab);
    return PR_OK;
}

/* Lay the runs out as rows of one step. */
static pr_status bind(pr_engine *e, const pr_run *runs, size_t n_runs, pr_exec_step *step, pr_err *err) {
    const pr_engine_opts *o = &e->blue.opts;
    uint32_t rows = 0, outs = 0;
    e->step_count++;
    if (n_runs == 0) return pr_fail(err, PR_ERR_ARG, "a step needs at least one run");
    for (size_t r = 0; r < n_runs; r++) {
        pr_status st = check_run(e, &runs[r], err);
        if (st) return st;
        runs[r].session->step_stamp = e->step_count;
        if (runs[r].n_tokens > o->batch_max - rows)
            return pr_fail(err, PR_ERR_LIMIT, "a step takes at most %u tokens", o->batch_max);
        if (runs[r].n_logits > o->logits_max - outs)
            return pr_fail(err, PR_ERR_LIMIT, "a step gives at most %u rows of logits", o->logits_max);
        memcpy(e->tokens + rows, runs[r].tokens, runs[r].n_tokens * sizeof *e->tokens);
        e->runs[r] = (pr_exec_run){&runs[r].session->kv, rows, runs[r].n_tokens, runs[r].session->kv.n_tokens};
        rows += runs[r].n_tokens;
        for (uint32_t i = runs[r].n_logits; i > 0; i--) e->out_rows[outs++] = rows - i;
    }
    *step = (pr_exec_step){rows, outs, e->tokens, e->out_rows, e->runs, (uint32_t)n_runs, PR_VIEW_MAIN};
    return PR_OK;
}

static pr_status reserve(const pr_run *runs, size_t n_runs, pr_err *err) {
    for (size_t r = 0; r < n_runs; r++) {
        pr_status st = pr_kv_seq_reserve(&runs[r].session->kv, runs[r].n_tokens, err);
        if (!st) continue;
        for (size_t k = 0; k < r; k++) pr_kv_seq_truncate(&runs[k].session->kv, runs[k].session->kv.n_tokens);
        return st;
    }
    return PR_OK;
}

/* The cursor of the next step; lowering holds from it on. */
static uint32_t next_cursor(const pr_engine *e) {
    pr_residency_state now;
    pr_residency_state_get(e->residency, &now);
    return now.target < now.cursor ? now.target : now.cursor;
}

pr_level pr_engine_level(const pr_engine *engine) {
    if (!engine->residency) return PR_LEVEL_FP16; /* an ordinary model computes at one level only */
    return pr__levels_at(&engine->blue, next_cursor(engine));
}

bool pr_engine_level_exact(const pr_engine *engine) {
    return !engine->residency || pr__levels_cursor(&engine->blue, pr_engine_level(engine)) == next_cursor(engine);
}

bool pr_engine_moving(const pr_engine *engine) {
    pr_residency_state now = {0};
    if (engine->residency) pr_residency_state_get(engine->residency, &now);
    return now.moving;
}

bool pr_engine_cursors(const pr_engine *engine, uint32_t *next, uint32_t level_cursor[PR_LEVELS]) {
    if (!engine->residency) return false;
    *next = next_cursor(engine);
    for (int l = 0; l < PR_LEVELS; l++) level_cursor[l] = pr__levels_cursor(&engine->blue, (pr_level)l);
    return true;
}

/* Of a step that has begun: its cursor stands still. */
static void note_step(pr_engine *e, int view) {
    e->step_level = PR_LEVEL_FP16;
    e->step_cursor = 0;
    if (!e->residency) return;
    pr_residency_state now;
    pr_residency_state_get(e->residency, &now);
    e->step_level = pr__levels_at(&e->blue, now.cursor);
    e->step_cursor = view == PR_VIEW_DRAFT && e->draft_cursor < now.cursor ? e->draft_cursor : now.cursor;
}

pr_status pr__engine_step(pr_engine *engine, const pr_run *runs, size_t n_runs, int view, uint8_t tag, pr_err *err) {
    pr_exec_step step;
    pr_status st = bind(engine, runs, n_runs, &step, err);
    if (!st) st = reserve(runs, n_runs, err);
    if (st) return st;
    step.view = view;
    if (engine->residency) pr_residency_step_begin(engine->residency);
    note_step(engine, view);
    if (tag != UINT8_MAX && tag > engine->step_level) tag = (uint8_t)engine->step_level;
    if (tag < engine->step_level) engine->step_level = (pr_level)tag;
    pr_exec_step_run(engine->exec, engine->team, &step);
    if (engine->residency) pr_residency_step_end(engine->residency);
    for (size_t r = 0; r < n_runs; r++) {
        pr_session *s = runs[r].session;
        memcpy(s->history + s->kv.n_tokens, runs[r].tokens, runs[r].n_tokens * sizeof *s->history);
        pr_kv_seq_commit(&s->kv, runs[r].n_tokens, tag);
    }
    engine->n_out = step.n_out;
    return PR_OK;
}

pr_status pr_engine_step(pr_engine *engine, const pr_run *runs, size_t n_runs, pr_err *err) {
    return pr__engine_step(engine, runs, n_runs, PR_VIEW_MAIN, PR_LEVEL_FP16, err);
}

pr_status pr_engine_step_at(pr_engine *engine, const pr_run *runs, size_t n_runs, pr_level level, pr_err *err) {
    if (!engine->residency) return pr_engine_step(engine, runs, n_runs, err);
    /* Also where the model stands there just now: it may go on rising before the step begins. */
    uint32_t cursor = pr__levels_cursor(&engine->blue, level);
    if (engine->draft_cursor != cursor) pr__engine_draft(engine, cursor);
    return pr__engine_step(engine, runs, n_runs, PR_VIEW_DRAFT, (uint8_t)level, err);
}

pr_level pr_engine_step_level(const pr_engine *engine) { return engine->step_level; }

uint32_t pr_engine_step_cursor(const pr_engine *engine) { return engine->step_cursor; }

/* ---- pages ------------------------------------------------------------ */

uint32_t pr_engine_pages_max(const pr_engine *engine) { return pr_kv_pool_pages(engine->kv); }

uint32_t pr_engine_pages_used(const pr_engine *engine) { return pr_kv_pool_pages_used(engine->kv); }

size_t pr_engine_page_bytes(const pr_engine *engine) { return pr_kv_page_bytes(&engine->blue.kv); }

pr_kv_pool *pr_engine_pool(const pr_engine *engine) { return engine->kv; }

const pr_kv_seq *pr_session_kv(const pr_session *session) { return &session->kv; }

void pr_session_adopt(pr_session *session, pr_radix *tree, const pr_radix_match *match, const int32_t *tokens) {
    pr_radix_take(tree, match, &session->kv);
    memcpy(session->history, tokens, match->n_tokens * sizeof *session->history);
}

const float *pr_engine_logits(const pr_engine *engine, size_t row) {
    return row < engine->n_out ? pr_exec_output(engine->exec, (uint32_t)row) : NULL;
}

pr_status pr_session_prefill(pr_session *session, const int32_t *tokens, size_t n_tokens, const volatile int *cancel,
                             pr_err *err) {
    const pr_engine_opts *o = &session->engine->blue.opts;
    if (n_tokens > o->context_max - session->kv.n_tokens)
        return pr_fail(err, PR_ERR_LIMIT, "a prompt of %zu tokens does not fit: the context is %u tokens, %u are used",
                       n_tokens, o->context_max, session->kv.n_tokens);
    for (size_t at = 0; at < n_tokens;) {
        if (cancel && *cancel) return pr_fail(err, PR_ERR_CANCELLED, "cancelled");
        uint32_t n = n_tokens - at < o->batch_max ? (uint32_t)(n_tokens - at) : o->batch_max;
        bool last = at + n == n_tokens;
        pr_status st = pr_engine_step(session->engine, &(pr_run){session, tokens + at, n, last ? 1 : 0}, 1, err);
        if (st) return st;
        at += n;
    }
    return PR_OK;
}
