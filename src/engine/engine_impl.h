/*
 * Inside the engine: shared by its files, seen by nobody else.
 */
#ifndef PRECIS_ENGINE_ENGINE_IMPL_H
#define PRECIS_ENGINE_ENGINE_IMPL_H

#include "engine/blueprint.h"
#include "kv/kv.h"
#include "text/chat.h"
#include "text/vocab.h"

struct pr_engine {
    struct pr_estimate blue;
    pr_exec *exec;
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
    uint64_t step_count; /* stamps sessions, to find one given twice */
};

struct pr_session {
    pr_engine *engine;
    pr_kv_seq kv;
    int32_t *history; /* [context_max] the tokens held, for penalties */
    uint64_t step_stamp;
};

#endif
