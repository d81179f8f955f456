/*
 * Fuzz: from the bytes of a GGUF file to logits.
 *
 * Whatever a file claims, it is either refused with a message or becomes an engine that runs: built, lowered with some
 * passes off, planned, loaded, and stepped with every token it says it has room for. The first byte of the input chooses
 * the passes, the second the rest; what follows is the file.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "precis.h"

enum { CONTEXT = 40, BATCH = 7 };

static void require(int truth) {
    if (!truth) abort();
}

/* Steps of the first and the last tokens, in one batch and alone; a refusal is an answer, too. */
static void run(pr_engine *engine) {
    pr_engine_info info;
    pr_session *a = NULL, *b = NULL;
    pr_err err = {0};
    pr_engine_describe(engine, &info);
    int32_t last = (int32_t)info.n_vocab - 1, tokens[BATCH] = {0, last, 0, 0, last, last, 0};
    require(pr_session_open(engine, &a, &err) == PR_OK && pr_session_open(engine, &b, &err) == PR_OK);
    for (int i = 0; i < 6; i++) {
        const pr_run runs[] = {{a, tokens, 5, 1}, {b, tokens + 5, 2, 2}};
        pr_status status = pr_engine_step(engine, runs, 2, &err);
        require(status == PR_OK || status == PR_ERR_LIMIT);
        require((status == PR_OK) == (pr_engine_logits(engine, 2) != NULL) || i > 0);
    }
    require(pr_engine_step(engine, &(pr_run){a, (const int32_t[]){last + 1}, 1, 1}, 1, &err) != PR_OK);
    pr_session_close(a);
    pr_session_close(b);
}

static void open_and_run(const char *path, const pr_engine_opts *opts) {
    pr_estimate *estimate = NULL;
    pr_engine *engine = NULL;
    pr_engine_info before, after;
    pr_err err = {0};
    char *text = NULL;
    pr_status status = pr_engine_estimate(path, opts, &estimate, &err);
    require((status == PR_OK) == (estimate != NULL) && (status == PR_OK) == (err.text[0] == '\0'));
    if (!estimate) return;
    pr_estimate_describe(estimate, &before);
    require(pr_estimate_graph(estimate, &text, &err) == PR_OK);
    pr_text_free(text);
    if (pr_engine_open(path, opts, &engine, &err) == PR_OK) {
        pr_engine_describe(engine, &after);
        require(after.weight_bytes == before.weight_bytes && after.scratch_bytes == before.scratch_bytes);
        run(engine);
        pr_engine_close(engine);
    }
    pr_estimate_close(estimate);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[32];
    if (size < 2) return 0;
    const pr_engine_opts opts = {
        .n_threads = 1,
        .batch_max = BATCH,
        .context_max = data[1] & 1 ? CONTEXT : 0,
        .kv_type = {data[1] & 2 ? PR_KV_Q8 : PR_KV_F16, data[1] & 8 ? PR_KV_Q4 : PR_KV_F16},
        .exact = (data[1] & 4) != 0,
        .kv_bytes_max = (size_t)1 << 20,
        .passes_off = data[0],
    };
    int fd = memfd_create("fuzz", 0);
    require(fd >= 0 && write(fd, data + 2, size - 2) == (ssize_t)(size - 2));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    size_t held = pr_mem_total();
    open_and_run(path, &opts);
    require(pr_mem_total() == held);
    close(fd);
    return 0;
}
