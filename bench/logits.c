/*
 * The logits of chunks of tokens, for programs that measure against them.
 *
 *   build/release/bench/logits MODEL WINDOW < chunks > logits
 *
 * Standard input is 32-bit numbers: n, then n token ids, again and again. Each
 * chunk is fed to an empty session in --exact mode, as `precis eval` does it with
 * a reference; standard output gets n - 1 rows of the vocabulary's floats a chunk,
 * one for each token but the last, whose logits predict nothing that is known.
 * Byte order is the machine's. bench/quality.py is the user.
 */
#include <stdio.h>
#include <stdlib.h>

#include "precis.h"

enum { STEP_ROWS = 64, WINDOW_MAX = 1 << 20 };

static int fail(const char *text) {
    fprintf(stderr, "logits: %s\n", text);
    return 1;
}

static bool feed_chunk(pr_engine *engine, pr_session *session, size_t n_vocab, const int32_t *ids, uint32_t n,
                       pr_err *err) {
    if (pr_session_truncate(session, 0, err)) return false;
    for (uint32_t at = 0; at + 1 < n; at += STEP_ROWS) {
        uint32_t rows = n - 1 - at < STEP_ROWS ? n - 1 - at : STEP_ROWS;
        if (pr_engine_step(engine, &(pr_run){session, ids + at, rows, rows}, 1, err)) return false;
        for (uint32_t r = 0; r < rows; r++) {
            if (fwrite(pr_engine_logits(engine, r), sizeof(float), n_vocab, stdout) != n_vocab) return false;
        }
    }
    return true;
}

static bool feed_all(pr_engine *engine, pr_session *session, int32_t *ids, uint32_t window, pr_err *err) {
    pr_engine_info info;
    uint32_t n;
    pr_engine_describe(engine, &info);
    while (fread(&n, sizeof n, 1, stdin) == 1) {
        if (n > window || fread(ids, sizeof *ids, n, stdin) != n) return false;
        if (!feed_chunk(engine, session, info.n_vocab, ids, n, err)) return false;
    }
    return fflush(stdout) == 0;
}

int main(int argc, char **argv) {
    pr_err err = {0};
    pr_engine *engine = NULL;
    pr_session *session = NULL;
    if (argc != 3) return fail("usage: logits MODEL WINDOW < chunks > logits");
    unsigned long window = strtoul(argv[2], NULL, 10);
    if (window < 2 || window > WINDOW_MAX) return fail("WINDOW: 2 to 1048576 tokens");
    pr_engine_opts opts = {
        .exact = true, .context_max = (uint32_t)window, .batch_max = STEP_ROWS, .logits_max = STEP_ROWS};
    int32_t *ids = calloc(window, sizeof *ids);
    bool done = ids && !pr_engine_open(argv[1], &opts, &engine, &err) && !pr_session_open(engine, &session, &err) &&
                feed_all(engine, session, ids, (uint32_t)window, &err);
    pr_session_close(session);
    pr_engine_close(engine);
    free(ids);
    return done ? 0 : fail(err.status ? err.text : "a chunk or the output is cut off");
}
