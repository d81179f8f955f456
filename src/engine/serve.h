/*
 * What a scheduler needs of engines and sessions beside include/precis.h: steps below the model's level, pages, and sessions that
 * begin with pages of others.
 *
 * Threads: as in precis.h; pr_engine_level() and the page counts from the stepping thread.
 */
#ifndef PRECIS_ENGINE_SERVE_H
#define PRECIS_ENGINE_SERVE_H

#include "base/os.h"
#include "kv/radix.h"
#include "precis.h"

/* The level that the next step runs at if nobody moves the model before it; fp16 for ordinary models. */
pr_level pr_engine_level(const pr_engine *engine);
/* Whether it has all of that level's increments and no more. True for ordinary models. */
bool pr_engine_level_exact(const pr_engine *engine);
/* Whether a move is under way, memory to be given back included. */
bool pr_engine_moving(const pr_engine *engine);

/* A step at exactly a level, where the model has more: the same planes, fewer of them read. Where it has less, it is a step at what
 * there is; for ordinary models it is pr_engine_step(). */
pr_status pr_engine_step_at(pr_engine *engine, const pr_run *runs, size_t n_runs, pr_level level, pr_err *err);

/* The tokens that a session holds, and behind them one that is not fed yet; until the next step. NULL when the context is full. */
const int32_t *pr_session_tokens_and(pr_session *session, int32_t next);

/* What the last step ran at: the level of its pages. */
pr_level pr_engine_step_level(const pr_engine *engine);

/* Where an elastic model stands: increments that the next step uses, and those of each level. False, and nothing is written,
 * for ordinary models. Any thread. */
bool pr_engine_cursors(const pr_engine *engine, uint32_t *next, uint32_t level_cursor[PR_LEVELS]);
/* Increments that the last step used; 0 for ordinary models. */
uint32_t pr_engine_step_cursor(const pr_engine *engine);

/* Of the file that it was loaded from, as it is now; false where more than one file makes the model. */
bool pr_engine_file(const pr_engine *engine, pr_file_identity *out);

/* KV pages: room for, and in use; bytes of one. */
uint32_t pr_engine_pages_max(const pr_engine *engine);
uint32_t pr_engine_pages_used(const pr_engine *engine);
size_t pr_engine_page_bytes(const pr_engine *engine);

/* For a tree over them (kv/radix.h), closed before the engine: where they come from, and those that a session holds. */
pr_kv_pool *pr_engine_pool(const pr_engine *engine);
const pr_kv_seq *pr_session_kv(const pr_session *session);
/* An empty session begins with what the tree has of these tokens. Cannot fail. */
void pr_session_adopt(pr_session *session, pr_radix *tree, const pr_radix_match *match, const int32_t *tokens);

#endif
