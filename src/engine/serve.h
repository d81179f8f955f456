/*
 * What a scheduler needs of engines and sessions beside include/precis.h: steps below the model's level, and pages.
 *
 * Threads: as in precis.h; pr_engine_level() and the page counts from the stepping thread.
 */
#ifndef PRECIS_ENGINE_SERVE_H
#define PRECIS_ENGINE_SERVE_H

#include "precis.h"

/* The level that a step would run at now; fp16 for ordinary models. */
pr_level pr_engine_level(const pr_engine *engine);

/* A step at a level not above the model's own (else at that): the same planes, fewer of them read. */
pr_status pr_engine_step_at(pr_engine *engine, const pr_run *runs, size_t n_runs, pr_level level, pr_err *err);

/* KV pages: room for, and held by sessions; bytes and tokens of one. */
uint32_t pr_engine_pages_max(const pr_engine *engine);
uint32_t pr_engine_pages_used(const pr_engine *engine);
size_t pr_engine_page_bytes(const pr_engine *engine);
uint32_t pr_engine_page_tokens(void);
uint32_t pr_session_pages(const pr_session *session);

/* The lowest level that made any of the first n_tokens tokens; -1 for none. */
int pr_session_level(const pr_session *session, uint32_t n_tokens);

#endif
