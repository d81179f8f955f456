/*
 * What the two ways of evaluating share: the models, and the text in chunks.
 *
 * The text is tokenized once, as text (special tokens written in it are not recognised), and cut to its first N tokens.
 * It is fed in chunks of `window` tokens, each to an empty session; a model that wants a token at the start of a text gets
 * it in every chunk, as one of the `window`. Every position of a chunk but its first is scored.
 */
#ifndef PRECIS_CMD_EVAL_H
#define PRECIS_CMD_EVAL_H

#include "base/str.h"
#include "cmd/budgets.h"
#include "cmd/load.h"
#include "cmd/score.h"

enum { PR_EVAL_ROWS = 64, PR_EVAL_BOS_MAX = 8 }; /* rows of one step */

typedef struct pr_eval_model {
    pr_engine *engine; /* NULL: there is none */
    pr_engine_info info;
    pr_session *session;
    pr_tally tally;
} pr_eval_model;

typedef struct pr_eval {
    pr_load load;
    const char *text_name, *reference_name, *svg_name;
    bool reference_exact, window_given, json;
    bool levels, budgets_given;
    pr_budgets budgets;
    uint32_t n_tokens_max, window;
    pr_eval_model under_test, reference;
    int32_t bos[PR_EVAL_BOS_MAX];
    size_t n_bos;
    int32_t *ids; /* [n_ids] the text */
    size_t n_ids;
    int32_t *chunk; /* [window] */
    pr_err err;
} pr_eval;

/* Tokens [*at, ...) of the text as the next chunk in e->chunk, *at moved past them; its length, 0 at the end. A chunk of
 * one token scores nothing. */
size_t pr__eval_chunk(pr_eval *e, size_t *at);
/* No more positions than this are scored. */
size_t pr__eval_scored_max(const pr_eval *e);

/* Feed a part of a chunk, all rows of logits wanted. Nothing happens without an engine. */
pr_status pr__eval_feed(const pr_eval_model *m, const int32_t *ids, uint32_t n, pr_err *err);
/* Empty the session. */
pr_status pr__eval_restart(const pr_eval_model *m, pr_err *err);

/* All levels and budgets of an elastic model (--levels). */
pr_status pr__eval_levels(pr_eval *e, pr_str *out);

#endif
