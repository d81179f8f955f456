/*
 * Inside the engine: shared by its files, seen by nobody else.
 */
#ifndef PRECIS_ENGINE_ENGINE_IMPL_H
#define PRECIS_ENGINE_ENGINE_IMPL_H

#include "engine/blueprint.h"
#include "engine/speculate.h"
#include "kv/kv.h"
#include "text/chat.h"
#include "text/vocab.h"

struct pr_engine {
    struct pr_estimate blue;
    pr_exec *exec;
    pr_residency *residency; /* NULL: an ordinary model */
    uint32_t draft_cursor;   /* levels of PR_VIEW_DRAFT */
    pr__spec spec;
    pr_team *team;
    pr_kv_pool *kv;
    pr_vocab *vocab;
    const pr_chat_template *chat; /* recognised, or NULL */
    bool has_template;            /* the file carries one, known or not */
    /* The step being bound: */
    int32_t *tokens;     /* [batch_max] */
    uint32_t *out_rows;  /* [logits_max] */
    pr_exec_run *runs;   /* [batch_max] */
    uint32_t n_out;      /* rows of the last step */
    pr_level step_level; /* what it ran at */
    uint32_t step_cursor;
    uint64_t step_count; /* stamps sessions, to find one given twice */
};

/* One step, its nested matrices read at the levels of a view (PR_VIEW_*). KV pages are tagged with the level it ran at, at most
 * `tag`; UINT8_MAX: with none, for rows that will be forgotten and written again. */
pr_status pr__engine_step(pr_engine *engine, const pr_run *runs, size_t n_runs, int view, uint8_t tag, pr_err *err);
/* Levels of PR_VIEW_DRAFT from the next step on: those of the first n increments. */
void pr__engine_draft(pr_engine *engine, uint32_t n);

struct pr_session {
    pr_engine *engine;
    pr_kv_seq kv;
    int32_t *history; /* [context_max] the tokens held, for penalties */
    uint64_t step_stamp;
};

#endif
