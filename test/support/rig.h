/*
 * Test support: a folder for model files, engines on them, random tokens, logits to compare with.
 *
 * Whatever goes wrong here fails the test that asked.
 */
#ifndef PRECIS_TEST_RIG_H
#define PRECIS_TEST_RIG_H

#include "precis.h"
#include "support/llama_gguf.h"

/* Group setup and teardown: a folder in TMPDIR, removed with everything in it. */
int rig_setup(void **state);
int rig_teardown(void **state);

/* folder/name; valid until four more were asked for. */
const char *rig_path(const char *name);
/* Write a model as folder/name. */
const char *rig_model(const llama_gguf *model, const char *name);

pr_engine *rig_open(const char *path, const pr_engine_opts *opts); /* opts may be NULL */
pr_session *rig_session(pr_engine *engine);
pr_session *rig_fork(const pr_session *session);
uint32_t rig_vocab(const pr_engine *engine);

/* The open fails with this status and a message that holds text. */
void rig_refuses(const char *path, const pr_engine_opts *opts, pr_status status, const char *text);

/* Feed tokens to a session in one step; logits of the last n_logits are in the engine. */
void rig_feed(pr_engine *engine, pr_session *session, const int32_t *tokens, uint32_t n, uint32_t n_logits);

/* Logits [n][n_vocab] of a fresh session fed with all tokens in one step; for pr_free(). */
float *rig_logits(pr_engine *engine, const int32_t *tokens, uint32_t n);

/* Random numbers that are the same everywhere. */
typedef struct rig_rng {
    uint64_t at;
} rig_rng;
uint32_t rig_below(rig_rng *rng, uint32_t n); /* 0 .. n-1 */
void rig_tokens(rig_rng *rng, int32_t *out, uint32_t n, uint32_t n_vocab);

#endif
