/*
 * When memory or the disk says no: a status each time, nothing lost, nothing leaked.
 *
 * One life of an engine (open, session, a short answer, close) is lived over and over, each time with the next
 * request for memory refused, or the next read. Afterwards the ledger must be where it was before. A refusal that the
 * engine can do without may go unnoticed, but then the answer has to be the right one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/os.h"
#include "support/rig.h"

enum { TEXT_MAX = 512, N_TOKENS = 4 };

static const int32_t prompt[] = {1, 270, 281, 292, 303};
enum { N_PROMPT = sizeof prompt / sizeof *prompt };

static const llama_gguf small = {.dim = 32,
                                 .n_layers = 2,
                                 .n_heads = 2,
                                 .n_kv_heads = 1,
                                 .n_ff = 64,
                                 .type = PR_Q8_0,
                                 .bias = true,
                                 .rope_divisors = true,
                                 .context = 64};

typedef struct answer {
    char text[TEXT_MAX];
    size_t len;
    uint64_t count_first, count_last; /* pr_mem_count() at the first and the last piece of text */
} answer;

static bool take(void *arg, const char *text, size_t len) {
    answer *a = arg;
    assert_true(a->len + len < TEXT_MAX);
    memcpy(a->text + a->len, text, len);
    a->len += len;
    a->count_last = pr_mem_count();
    if (!a->count_first) a->count_first = a->count_last;
    return true;
}

/* Open, answer, close. */
static pr_status live(const char *path, int n_threads, uint32_t max_tokens, answer *a, pr_err *err) {
    *a = (answer){0};
    pr_engine *engine = NULL;
    pr_session *session = NULL;
    const pr_engine_opts opts = {.n_threads = n_threads, .batch_max = 3};
    const pr_generate_opts how = {.sample = {.temperature = 1, .top_k = 40, .top_p = 0.9f},
                                  .max_tokens = max_tokens,
                                  .ignore_end = true,
                                  .stop = (const char *const[]){"never", "ever"},
                                  .n_stop = 2,
                                  .on_text = take,
                                  .arg = a};
    pr_status st = pr_engine_open(path, &opts, &engine, err);
    if (!st) st = pr_session_open(engine, &session, err);
    if (!st) st = pr_session_generate(session, prompt, N_PROMPT, &how, NULL, err);
    if (st) assert_true(err->status == st && err->text[0] && !strchr(err->text, '\n'));
    pr_session_close(session);
    pr_engine_close(engine);
    return st;
}

/* ---- memory ------------------------------------------------------------------ */

static void every_allocation_fails_once(const char *path, int n_threads, bool sticky, int64_t step) {
    answer want, got;
    pr_err err = {0};
    assert_int_equal(live(path, n_threads, N_TOKENS, &want, &err), PR_OK);
    size_t held = pr_mem_total();
    bool through = false;
    int64_t n = 0;
    for (; !through; n += step) {
        err = (pr_err){0};
        pr_mem_fail_after(n, sticky);
        pr_status st = live(path, n_threads, N_TOKENS, &got, &err);
        through = !pr_mem_failed();
        pr_mem_fail_after(-1, false);
        if (st) assert_int_equal(st, PR_ERR_NOMEM);
        else assert_string_equal(got.text, want.text);
        if (through) assert_int_equal(st, PR_OK);
        if (pr_mem_total() != held) fail_msg("request %d refused: %zu bytes lost", (int)n, pr_mem_total() - held);
    }
    assert_true(n > 50); /* as many requests there are at least */
}

static void every_allocation(void **state) {
    (void)state;
    const char *path = rig_model(&small, "m.gguf");
    every_allocation_fails_once(path, 1, false, 1);
    every_allocation_fails_once(path, 1, true, 1);
}

static void every_allocation_with_threads(void **state) {
    (void)state;
    const char *path = rig_model(&small, "m.gguf");
    every_allocation_fails_once(path, 3, false, 5);
    every_allocation_fails_once(path, 3, true, 7);
}

/* A step that gets no page has changed no session. */
static void pages_that_are_refused(void **state) {
    (void)state;
    const int32_t tokens[40] = {1};
    pr_engine *e = rig_open(rig_model(&small, "m.gguf"), &(pr_engine_opts){.n_threads = 1, .kv_bytes_max = 1 << 20});
    pr_session *a = rig_session(e), *b = rig_session(e);
    rig_feed(e, a, tokens, 10, 1);
    pr_session *fork = rig_fork(a);
    const pr_run runs[] = {{b, tokens, 40, 1}, {fork, tokens, 40, 1}, {a, tokens, 5, 1}};
    pr_err err = {0};
    size_t kv = pr_mem_bytes(PR_TAG_KV);
    pr_status st = PR_ERR_NOMEM;
    int64_t n = 0;
    for (; st; n++) {
        pr_mem_fail_after(n, false);
        st = pr_engine_step(e, runs, 3, &err);
        bool failed = pr_mem_failed();
        pr_mem_fail_after(-1, false);
        assert_int_equal(st, failed ? PR_ERR_NOMEM : PR_OK);
        if (!st) break;
        assert_int_equal(pr_session_length(a), 10);
        assert_int_equal(pr_session_length(b), 0);
        assert_int_equal(pr_session_length(fork), 10);
        /* The fork may have got its own copy of the page it shares; nothing else. */
        assert_true(pr_mem_bytes(PR_TAG_KV) <= kv + (40u << 10));
    }
    assert_int_equal(n, 4); /* two pages for b, one more and the copy for the fork */
    pr_session_close(a);
    pr_session_close(b);
    pr_session_close(fork);
    pr_engine_close(e);
}

static void sessions_that_are_refused(void **state) {
    (void)state;
    const int32_t tokens[40] = {1};
    pr_engine *e = rig_open(rig_model(&small, "m.gguf"), &(pr_engine_opts){.n_threads = 1});
    pr_session *a = rig_session(e);
    rig_feed(e, a, tokens, 40, 1);
    size_t held = pr_mem_total();
    for (int64_t n = 0; n < 3; n++) {
        pr_session *s = NULL;
        pr_err err = {0};
        pr_mem_fail_after(n, false);
        assert_int_equal(pr_session_open(e, &s, &err), PR_ERR_NOMEM);
        assert_null(s);
        pr_mem_fail_after(n, false);
        assert_int_equal(pr_session_fork(a, &s, &err), PR_ERR_NOMEM);
        assert_null(s);
        pr_mem_fail_after(-1, false);
        assert_int_equal(pr_mem_total(), held);
    }
    pr_session_close(a);
    pr_engine_close(e);
}

/* ---- decode steps -------------------------------------------------------------- */

static void a_decode_step_allocates_nothing(void **state) {
    (void)state;
    const char *path = rig_model(&small, "m.gguf");
    for (int threads = 1; threads <= 2; threads++) {
        const pr_engine_opts opts = {.n_threads = threads, .context_max = 64, .kv_bytes_max = 1 << 20};
        pr_engine *e = rig_open(path, &opts);
        pr_session *s[3];
        pr_run runs[3];
        const int32_t token = 5;
        pr_err err = {0};
        for (int i = 0; i < 3; i++) {
            s[i] = rig_session(e);
            runs[i] = (pr_run){s[i], &token, 1, 1};
        }
        rig_feed(e, s[0], prompt, N_PROMPT, 1);
        uint64_t count = pr_mem_count();
        for (int i = 0; i < 100; i++) {
            if (i == 55) /* the context is not endless */
                for (int k = 0; k < 3; k++) assert_int_equal(pr_session_truncate(s[k], 3, &err), PR_OK);
            assert_int_equal(pr_engine_step(e, runs, 3, &err), PR_OK);
        }
        assert_int_equal(pr_mem_count(), count);
        for (int i = 0; i < 3; i++) pr_session_close(s[i]);
        pr_engine_close(e);
    }
}

static void generating_allocates_nothing_after_the_first_token(void **state) {
    (void)state;
    answer a;
    pr_err err = {0};
    assert_int_equal(live(rig_model(&small, "m.gguf"), 1, 50, &a, &err), PR_OK);
    assert_true(a.len > 50);
    assert_true(a.count_first > 0);
    assert_int_equal(a.count_last, a.count_first);
}

/* ---- the disk -------------------------------------------------------------------- */

static void short_reads(void **state) {
    (void)state;
    answer want, got;
    pr_err err = {0};
    const char *path = rig_model(&small, "m.gguf");
    assert_int_equal(live(path, 1, N_TOKENS, &want, &err), PR_OK);
    const int64_t most[] = {13, 1000, 4097};
    for (size_t i = 0; i < sizeof most / sizeof *most; i++) {
        pr_file_fault(most[i]);
        pr_status st = live(path, 1 + (int)i, N_TOKENS, &got, &err);
        pr_file_fault(0);
        assert_int_equal(st, PR_OK);
        assert_string_equal(got.text, want.text);
    }
}

static void every_read_fails(void **state) {
    (void)state;
    answer a;
    const char *path = rig_model(&small, "m.gguf");
    size_t held = pr_mem_total();
    for (int threads = 1; threads <= 3; threads += 2) {
        pr_status st = PR_ERR_IO;
        int64_t n = 1;
        for (; st; n++) {
            pr_err err = {0};
            assert_true(n < 1000);
            pr_file_fault(-n);
            st = live(path, threads, N_TOKENS, &a, &err);
            pr_file_fault(0);
            assert_true(st == PR_OK || st == PR_ERR_IO);
            if (st && !strstr(err.text, "m.gguf")) fail_msg("\"%s\" does not name the file", err.text);
            assert_int_equal(pr_mem_total(), held);
        }
        assert_true(n > 20); /* every tensor is a read at least */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation),
        cmocka_unit_test(every_allocation_with_threads),
        cmocka_unit_test(pages_that_are_refused),
        cmocka_unit_test(sessions_that_are_refused),
        cmocka_unit_test(a_decode_step_allocates_nothing),
        cmocka_unit_test(generating_allocates_nothing_after_the_first_token),
        cmocka_unit_test(short_reads),
        cmocka_unit_test(every_read_fails),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
