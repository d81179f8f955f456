/*
 * Engines for tests (see rig.h).
 */
#include "support/rig.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"

static char folder[256];

int rig_setup(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/precis-test-XXXXXX", base && *base ? base : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

int rig_teardown(void **state) {
    (void)state;
    DIR *d = opendir(folder);
    if (!d) return -1;
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        if (e->d_name[0] != '.') unlink(rig_path(e->d_name));
    }
    closedir(d);
    return rmdir(folder);
}

const char *rig_path(const char *name) {
    static char paths[4][512];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

const char *rig_model(const llama_gguf *model, const char *name) {
    const char *path = rig_path(name);
    llama_gguf_write(model, path);
    return path;
}

pr_engine *rig_open(const char *path, const pr_engine_opts *opts) {
    pr_err err = {0};
    pr_engine *engine = NULL;
    if (pr_engine_open(path, opts, &engine, &err)) fail_msg("%s: %s", path, err.text);
    return engine;
}

pr_session *rig_session(pr_engine *engine) {
    pr_err err = {0};
    pr_session *session = NULL;
    if (pr_session_open(engine, &session, &err)) fail_msg("%s", err.text);
    return session;
}

pr_session *rig_fork(const pr_session *session) {
    pr_err err = {0};
    pr_session *fork = NULL;
    if (pr_session_fork(session, &fork, &err)) fail_msg("%s", err.text);
    return fork;
}

uint32_t rig_vocab(const pr_engine *engine) {
    pr_engine_info info;
    pr_engine_describe(engine, &info);
    return info.n_vocab;
}

void rig_refuses(const char *path, const pr_engine_opts *opts, pr_status status, const char *text) {
    pr_err err = {0};
    pr_engine *engine = NULL;
    size_t held = pr_mem_total();
    pr_status st = pr_engine_open(path, opts, &engine, &err);
    if (st == PR_OK) fail_msg("%s was opened; \"%s\" was expected", path, text);
    assert_null(engine);
    if (st != status || err.status != status || !strstr(err.text, text))
        fail_msg("%s: status %d, \"%s\" instead of %d, \"%s\"", path, (int)st, err.text, (int)status, text);
    assert_null(strchr(err.text, '\n'));
    assert_int_equal(pr_mem_total(), held);
}

void rig_feed(pr_engine *engine, pr_session *session, const int32_t *tokens, uint32_t n, uint32_t n_logits) {
    pr_err err = {0};
    if (pr_engine_step(engine, &(pr_run){session, tokens, n, n_logits}, 1, &err)) fail_msg("%s", err.text);
}

float *rig_logits(pr_engine *engine, const int32_t *tokens, uint32_t n) {
    size_t n_vocab = rig_vocab(engine);
    float *out = pr_calloc(PR_TAG_MISC, n * n_vocab, sizeof *out);
    assert_non_null(out);
    pr_session *s = rig_session(engine);
    rig_feed(engine, s, tokens, n, n);
    for (uint32_t i = 0; i < n; i++) memcpy(out + i * n_vocab, pr_engine_logits(engine, i), n_vocab * sizeof *out);
    pr_session_close(s);
    return out;
}

uint32_t rig_below(rig_rng *rng, uint32_t n) {
    uint64_t z = rng->at += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)(((z ^ z >> 31) >> 32) * n >> 32);
}

void rig_tokens(rig_rng *rng, int32_t *out, uint32_t n, uint32_t n_vocab) {
    for (uint32_t i = 0; i < n; i++) out[i] = (int32_t)rig_below(rng, n_vocab);
}
