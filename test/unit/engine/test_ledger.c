/*
 * What an estimate says before loading, what the engine says after it, and what the ledger holds: the same numbers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kv/kv.h"
#include "support/rig.h"

enum { STEP_BYTES = 64 }; /* more than the step's tables take for a token */

static pr_estimate *estimate(const char *path, const pr_engine_opts *opts) {
    pr_err err = {0};
    pr_estimate *out = NULL;
    if (pr_engine_estimate(path, opts, &out, &err)) fail_msg("%s", err.text);
    return out;
}

static void same_description(const pr_engine_info *a, const pr_engine_info *b) {
    assert_string_equal(a->path, b->path);
    assert_string_equal(a->arch, b->arch);
    assert_string_equal(a->name, b->name);
    assert_string_equal(a->weight_types, b->weight_types);
    assert_string_equal(a->note, b->note);
    assert_string_equal(a->isa, b->isa);
    assert_int_equal(a->n_params, b->n_params);
    assert_int_equal(a->n_layers, b->n_layers);
    assert_int_equal(a->n_embd, b->n_embd);
    assert_int_equal(a->n_heads, b->n_heads);
    assert_int_equal(a->n_kv_heads, b->n_kv_heads);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->n_ff, b->n_ff);
    assert_int_equal(a->n_vocab, b->n_vocab);
    assert_int_equal(a->context_train, b->context_train);
    assert_int_equal(a->context_max, b->context_max);
    assert_int_equal(a->batch_max, b->batch_max);
    assert_int_equal(a->logits_max, b->logits_max);
    assert_int_equal(a->n_threads, b->n_threads);
    assert_int_equal(a->file_bytes, b->file_bytes);
    assert_int_equal(a->weight_bytes, b->weight_bytes);
    assert_int_equal(a->weight_bytes_read, b->weight_bytes_read);
    assert_int_equal(a->kv_bytes_per_token, b->kv_bytes_per_token);
    assert_int_equal(a->kv_bytes_max, b->kv_bytes_max);
    assert_int_equal(a->scratch_bytes, b->scratch_bytes);
    assert_int_equal(a->peak_bytes, b->peak_bytes);
}

static size_t whole_pages(size_t bytes) { return pr_align_up(bytes, (size_t)sysconf(_SC_PAGESIZE)); }

static void the_same_numbers_three_times(void **state) {
    (void)state;
    const pr_engine_opts opts[] = {
        {.n_threads = 1},
        {.n_threads = 3, .batch_max = 100, .logits_max = 7, .context_max = 64},
        {.n_threads = 2, .exact = true, .kv_type = {PR_KV_Q8, PR_KV_F16}, .kv_bytes_max = 100000},
        {.n_threads = 1, .exact = true, .passes_off = 255},
        {.n_threads = 1, .kv_type = {PR_KV_Q8, PR_KV_Q4}, .passes_off = 32, .batch_max = 1},
    };
    const llama_gguf models[] = {
        {.n_layers = 2, .type = PR_Q4_1, .tied = true},
        {.n_layers = 2, .type = PR_Q8_0, .other = "attn_v", .other_type = PR_F32, .bias = true, .rope_divisors = true},
        {.n_layers = 1, .type = PR_F16, .n_ff = 100, .n_vocab = 333},
    };
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        const char *path = rig_model(&models[m], "m.gguf");
        for (size_t o = 0; o < sizeof opts / sizeof *opts; o++) {
            pr_engine_info before, after;
            size_t weights = pr_mem_bytes(PR_TAG_WEIGHTS), scratch = pr_mem_bytes(PR_TAG_SCRATCH);
            pr_estimate *est = estimate(path, &opts[o]);
            pr_estimate_describe(est, &before);
            assert_int_equal(pr_mem_bytes(PR_TAG_WEIGHTS), weights); /* nothing is loaded for an estimate */
            assert_int_equal(pr_mem_bytes(PR_TAG_SCRATCH), scratch);
            pr_engine *e = rig_open(path, &opts[o]);
            pr_engine_describe(e, &after);
            same_description(&before, &after);
            assert_int_equal(pr_mem_bytes(PR_TAG_WEIGHTS) - weights, whole_pages(after.weight_bytes));
            scratch = pr_mem_bytes(PR_TAG_SCRATCH) - scratch;
            assert_true(scratch >= whole_pages(after.scratch_bytes));
            assert_true(scratch <= whole_pages(after.scratch_bytes) + after.batch_max * STEP_BYTES);
            pr_engine_close(e);
            pr_estimate_close(est);
        }
    }
}

/* Fill the pool: it takes what was promised, page by page, and not a byte more. */
static void kv_pages_as_promised(void **state) {
    (void)state;
    static const int32_t tokens[256];
    const pr_kv_types types[] = {
        {PR_KV_F16, PR_KV_F16}, {PR_KV_Q8, PR_KV_Q8}, {PR_KV_Q8, PR_KV_Q4}, {PR_KV_Q4, PR_KV_Q4}};
    size_t per_token[4];
    const char *path = rig_model(&(llama_gguf){.n_layers = 6, .head_dim = 32}, "m.gguf");
    for (size_t t = 0; t < 4; t++) {
        pr_engine_info info;
        pr_engine *e = rig_open(path, &(pr_engine_opts){.n_threads = 1, .context_max = 200, .kv_type = types[t]});
        pr_engine_describe(e, &info);
        per_token[t] = info.kv_bytes_per_token;
        pr_session *s = rig_session(e);
        size_t base = pr_mem_bytes(PR_TAG_KV);
        for (uint32_t at = 0; at < 200; at += 25) {
            rig_feed(e, s, tokens, 25, 1);
            assert_int_equal(pr_mem_bytes(PR_TAG_KV) - base, (at + 25 + 31) / 32 * 32 * info.kv_bytes_per_token);
        }
        assert_int_equal(pr_mem_bytes(PR_TAG_KV) - base, info.kv_bytes_max);
        pr_session_close(s);
        assert_true(pr_mem_bytes(PR_TAG_KV) < base);
        pr_engine_close(e);
        assert_int_equal(pr_mem_bytes(PR_TAG_KV), 0);
    }
    /* K and V, 6 layers, 2 heads of 32 numbers; pages are whole pages of the system, 128 bytes a token. */
    const size_t bytes[] = {2 * 6 * 2 * 64, 2 * 6 * 2 * 34, 6 * 2 * (34 + 18), 2 * 6 * 2 * 18};
    for (size_t t = 0; t < 4; t++) assert_int_equal(per_token[t], pr_align_up(bytes[t], 128));
}

static void parameters_and_bytes_read(void **state) {
    (void)state;
    pr_engine_info tied, untied;
    pr_estimate *a = estimate(rig_model(&(llama_gguf){.tied = true, .type = PR_F16}, "a.gguf"), NULL);
    pr_estimate *b = estimate(rig_model(&(llama_gguf){.type = PR_F16}, "b.gguf"), NULL);
    pr_estimate_describe(a, &tied);
    pr_estimate_describe(b, &untied);
    const uint64_t layer = 64 * 2 + 64 * 64 * 2 + 64 * 32 * 2 + 64 * 96 * 3;
    assert_int_equal(tied.n_params, 309 * 64 + 3 * layer + 64);
    assert_int_equal(untied.n_params, tied.n_params + 309 * 64);
    /* An embedding that is only looked up is not read by a step; rows are padded to whole tiles. */
    assert_int_equal(untied.weight_bytes_read, tied.weight_bytes_read);
    assert_int_equal(untied.weight_bytes - tied.weight_bytes, 320 * 64 * 2);
    assert_true(tied.weight_bytes_read <= tied.weight_bytes);
    assert_string_equal(tied.weight_types, "f32 7, f16 22");
    assert_string_equal(tied.note, "");
    pr_estimate_close(a);
    pr_estimate_close(b);
}

static void notes_say_what_is_converted(void **state) {
    (void)state;
    pr_engine_info info;
    pr_estimate *e = estimate(rig_model(&(llama_gguf){.type = PR_Q4_0}, "m.gguf"), NULL);
    pr_estimate_describe(e, &info);
    assert_string_equal(info.note, "23 q4_0 tensors held as q4 (same values)");
    pr_estimate_close(e);
}

/* The scratch of a thread and of a token is counted for each of them. */
static void more_threads_and_tokens_cost_more(void **state) {
    (void)state;
    const char *path = rig_model(&(llama_gguf){.type = PR_Q8_0}, "m.gguf");
    size_t bytes[4];
    const pr_engine_opts opts[] = {
        {.n_threads = 1}, {.n_threads = 2}, {.n_threads = 3}, {.n_threads = 1, .batch_max = 1024}};
    for (size_t i = 0; i < 4; i++) {
        pr_engine_info info;
        pr_estimate *e = estimate(path, &opts[i]);
        pr_estimate_describe(e, &info);
        bytes[i] = info.scratch_bytes;
        pr_estimate_close(e);
    }
    assert_true(bytes[1] > bytes[0]);
    assert_int_equal(bytes[2] - bytes[1], bytes[1] - bytes[0]);
    assert_true(bytes[3] > bytes[0] * 3 / 2);
}

static void graphs_as_text(void **state) {
    (void)state;
    size_t held = pr_mem_total();
    char *text = NULL;
    pr_err err = {0};
    pr_estimate *e = estimate(rig_model(&(llama_gguf){.type = PR_Q8_0}, "m.gguf"), NULL);
    assert_int_equal(pr_estimate_graph(e, &text, &err), PR_OK);
    const char *lowered = strstr(text, "# lowered: ");
    assert_true(strstr(text, "# as described: ") == text);
    assert_non_null(lowered);
    assert_non_null(strstr(lowered, "gated"));
    assert_non_null(strstr(lowered, "+residual"));
    assert_non_null(strstr(lowered, " B alive at most"));
    assert_true(strstr(text, "gated") > lowered);
    pr_text_free(text);
    pr_estimate_close(e);
    assert_int_equal(pr_mem_total(), held);
}

static void estimates_fail_as_opening_does(void **state) {
    (void)state;
    pr_err err = {0};
    pr_estimate *e = NULL;
    size_t held = pr_mem_total();
    const char *path = rig_model(&(llama_gguf){.without = "blk.1.ffn_up.weight"}, "m.gguf");
    assert_int_equal(pr_engine_estimate(path, NULL, &e, &err), PR_ERR_FORMAT);
    assert_null(e);
    assert_non_null(strstr(err.text, "blk.1.ffn_up.weight"));
    path = rig_model(&(llama_gguf){.n_layers = 1, .type = PR_Q8_0}, "m.gguf");
    bool through = false;
    for (int64_t n = 0; !through; n++) {
        pr_mem_fail_after(n, n % 2);
        pr_status st = pr_engine_estimate(path, NULL, &e, &err);
        through = !pr_mem_failed();
        pr_mem_fail_after(-1, false);
        assert_true(st == PR_ERR_NOMEM || (st == PR_OK && e));
        pr_estimate_close(e);
        assert_int_equal(pr_mem_total(), held);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_numbers_three_times),      cmocka_unit_test(kv_pages_as_promised),
        cmocka_unit_test(parameters_and_bytes_read),         cmocka_unit_test(notes_say_what_is_converted),
        cmocka_unit_test(more_threads_and_tokens_cost_more), cmocka_unit_test(graphs_as_text),
        cmocka_unit_test(estimates_fail_as_opening_does),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
