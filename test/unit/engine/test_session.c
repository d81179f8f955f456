/*
 * Engines, sessions and steps from outside: what is refused, that a refusal changes nothing, and what the messages name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kv/kv.h"
#include "support/rig.h"

enum { CONTEXT = 100, BATCH = 48, LOGITS = 8, N_VOCAB = 309 };

typedef struct fixture {
    pr_engine *engine;
    pr_session *a, *b;
} fixture;

static fixture setup(void) {
    const pr_engine_opts opts = {
        .n_threads = 1, .context_max = CONTEXT, .batch_max = BATCH, .logits_max = LOGITS, .kv_bytes_max = 1 << 20};
    fixture f = {.engine = rig_open(rig_model(&(llama_gguf){.n_layers = 1}, "m.gguf"), &opts)};
    f.a = rig_session(f.engine);
    f.b = rig_session(f.engine);
    return f;
}

static void teardown(fixture *f) {
    pr_session_close(f->a);
    pr_session_close(f->b);
    pr_engine_close(f->engine);
}

static const int32_t some[2 * CONTEXT] = {5, 6, 7, 8, 300, 1, 0, 308};

/* ---- steps ----------------------------------------------------------------- */

/* A step that is refused: as it says, and nothing has changed. */
static void refused(fixture *f, const pr_run *runs, size_t n_runs, pr_status status, const char *says) {
    uint32_t a = pr_session_length(f->a), b = pr_session_length(f->b);
    size_t kv = pr_mem_bytes(PR_TAG_KV);
    pr_err err = {0};
    pr_status st = pr_engine_step(f->engine, runs, n_runs, &err);
    if (st != status || err.status != status || !strstr(err.text, says))
        fail_msg("status %d, \"%s\" where %d, \"%s\" was expected", (int)st, err.text, (int)status, says);
    assert_int_equal(pr_engine_step(f->engine, runs, n_runs, NULL), status); /* err may be NULL */
    assert_int_equal(pr_session_length(f->a), a);
    assert_int_equal(pr_session_length(f->b), b);
    assert_int_equal(pr_mem_bytes(PR_TAG_KV), kv);
}

static void steps_that_are_refused(void **state) {
    (void)state;
    fixture f = setup(), other = setup();
    const int32_t negative[] = {5, -1}, large[] = {N_VOCAB}, huge[] = {INT32_MAX};
    rig_feed(f.engine, f.a, some, 10, 1);
    float kept[N_VOCAB];
    memcpy(kept, pr_engine_logits(f.engine, 0), sizeof kept);
    refused(&f, NULL, 0, PR_ERR_ARG, "at least one");
    refused(&f, &(pr_run){NULL, some, 1, 1}, 1, PR_ERR_ARG, "without a session");
    refused(&f, &(pr_run){other.a, some, 1, 1}, 1, PR_ERR_ARG, "session of this engine");
    refused(&f, &(pr_run){f.a, some, 0, 0}, 1, PR_ERR_ARG, "0 tokens");
    refused(&f, &(pr_run){f.a, some, 3, 4}, 1, PR_ERR_ARG, "3 tokens cannot give 4");
    refused(&f, &(pr_run){f.a, negative, 2, 1}, 1, PR_ERR_ARG, "token -1");
    refused(&f, &(pr_run){f.a, large, 1, 1}, 1, PR_ERR_ARG, "token 309");
    refused(&f, &(pr_run){f.a, huge, 1, 1}, 1, PR_ERR_ARG, "token 2147483647");
    refused(&f, &(pr_run){f.a, some, BATCH + 1, 1}, 1, PR_ERR_LIMIT, "at most 48 tokens");
    refused(&f, &(pr_run){f.b, some, 2 * CONTEXT, 1}, 1, PR_ERR_LIMIT, "context is full");
    refused(&f, &(pr_run){f.b, some, UINT32_MAX, 1}, 1, PR_ERR_LIMIT, "context is full");
    refused(&f, (pr_run[]){{f.b, some, 5, 1}, {f.a, some, CONTEXT - 9, 1}}, 2, PR_ERR_LIMIT,
            "10 tokens and 91 more, of 100");
    refused(&f, (pr_run[]){{f.b, some, 5, 1}, {f.a, some, BATCH - 4, 1}}, 2, PR_ERR_LIMIT, "at most 48 tokens");
    refused(&f, (pr_run[]){{f.b, some, 5, 5}, {f.a, some, 5, 4}}, 2, PR_ERR_LIMIT, "at most 8 rows");
    refused(&f, (pr_run[]){{f.a, some, 2, 1}, {f.b, some, 2, 1}, {f.a, some, 2, 1}}, 3, PR_ERR_ARG, "twice");
    refused(&f, (pr_run[]){{f.b, some, 2, 1}, {f.a, large, 1, 1}}, 2, PR_ERR_ARG, "token 309");
    /* What the last good step gave is still there, and a session refused once is not refused for it again. */
    assert_memory_equal(pr_engine_logits(f.engine, 0), kept, sizeof kept);
    assert_null(pr_engine_logits(f.engine, 1));
    pr_err err = {0};
    assert_int_equal(pr_engine_step(f.engine, (pr_run[]){{f.a, some, 2, 1}, {f.b, some, 2, 1}}, 2, &err), PR_OK);
    teardown(&f);
    teardown(&other);
}

static void steps_to_the_brim(void **state) {
    (void)state;
    fixture f = setup();
    pr_err err = {0};
    /* batch_max tokens and logits_max rows at once */
    assert_int_equal(pr_engine_step(f.engine, (pr_run[]){{f.a, some, 40, 6}, {f.b, some, 8, 2}}, 2, &err), PR_OK);
    assert_non_null(pr_engine_logits(f.engine, 7));
    assert_null(pr_engine_logits(f.engine, 8));
    /* no rows at all */
    rig_feed(f.engine, f.a, some, 40, 0);
    assert_null(pr_engine_logits(f.engine, 0));
    /* exactly the context */
    rig_feed(f.engine, f.a, some, 20, 1);
    assert_int_equal(pr_session_length(f.a), CONTEXT);
    refused(&f, &(pr_run){f.a, some, 1, 1}, 1, PR_ERR_LIMIT, "context is full");
    assert_memory_equal(pr_session_tokens(f.a) + 80, some, 20 * sizeof *some);
    teardown(&f);
}

/* More sessions than pages: refused whole, and what fits still works. */
static void a_pool_that_is_full(void **state) {
    (void)state;
    const pr_kv_shape shape = {1, 2, 16, PR_KV_FORM_F16, PR_KV_FORM_F16};
    const pr_engine_opts opts = {
        .n_threads = 1, .context_max = CONTEXT, .batch_max = 200, .kv_bytes_max = 3 * pr_kv_page_bytes(&shape)};
    fixture f = {.engine = rig_open(rig_model(&(llama_gguf){.n_layers = 1}, "m.gguf"), &opts)};
    f.a = rig_session(f.engine);
    f.b = rig_session(f.engine);
    refused(&f, &(pr_run){f.a, some, 97, 1}, 1, PR_ERR_LIMIT, "KV memory is full: 3 pages");
    refused(&f, (pr_run[]){{f.a, some, 64, 1}, {f.b, some, 33, 1}}, 2, PR_ERR_LIMIT, "KV memory is full");
    rig_feed(f.engine, f.a, some, 70, 1);
    refused(&f, &(pr_run){f.b, some, 1, 1}, 1, PR_ERR_LIMIT, "KV memory is full");
    refused(&f, (pr_run[]){{f.a, some, 5, 1}, {f.b, some, 1, 1}}, 2, PR_ERR_LIMIT, "KV memory is full");
    /* A fork costs nothing until it writes. */
    pr_session *fork = rig_fork(f.a);
    refused(&f, &(pr_run){fork, some, 1, 1}, 1, PR_ERR_LIMIT, "KV memory is full");
    assert_int_equal(pr_session_truncate(fork, 64, NULL), PR_OK);
    refused(&f, &(pr_run){fork, some, 1, 1}, 1, PR_ERR_LIMIT, "KV memory is full");
    pr_session_close(fork);
    /* Giving pages back makes room. */
    assert_int_equal(pr_session_truncate(f.a, 64, NULL), PR_OK);
    rig_feed(f.engine, f.b, some, 32, 1);
    teardown(&f);
}

/* kv_bytes_max is a bound, however small. */
static void the_kv_bound(void **state) {
    (void)state;
    const pr_kv_shape shape = {1, 2, 16, PR_KV_FORM_F16, PR_KV_FORM_F16};
    const size_t page = pr_kv_page_bytes(&shape);
    const struct {
        size_t asked, given;
    } cases[] = {{0, 4 * page}, {1, page}, {page - 1, page}, {page, page}, {page + 1, page}, {9 * page + 5, 9 * page}};
    const char *path = rig_model(&(llama_gguf){.n_layers = 1}, "m.gguf");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pr_engine_info info;
        pr_engine *e = rig_open(path, &(pr_engine_opts){.context_max = CONTEXT, .kv_bytes_max = cases[i].asked});
        pr_engine_describe(e, &info);
        assert_int_equal(info.kv_bytes_max, cases[i].given);
        pr_engine_close(e);
    }
}

/* ---- sessions ------------------------------------------------------------------ */

static void truncating(void **state) {
    (void)state;
    fixture f = setup();
    pr_err err = {0};
    rig_feed(f.engine, f.a, some, 40, 1);
    assert_int_equal(pr_session_truncate(f.a, 41, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "40 tokens to 41"));
    assert_int_equal(pr_session_length(f.a), 40);
    assert_int_equal(pr_session_truncate(f.a, 40, &err), PR_OK);
    assert_int_equal(pr_session_truncate(f.a, 0, &err), PR_OK);
    assert_int_equal(pr_session_length(f.a), 0);
    rig_feed(f.engine, f.a, some, 40, 1);
    teardown(&f);
}

static void prefilling(void **state) {
    (void)state;
    fixture f = setup();
    pr_err err = {0};
    int cancel = 0;
    float want[N_VOCAB];
    assert_int_equal(pr_session_prefill(f.a, some, 90, NULL, &err), PR_OK); /* 48 and 42 */
    assert_int_equal(pr_session_length(f.a), 90);
    memcpy(want, pr_engine_logits(f.engine, 0), sizeof want);
    assert_null(pr_engine_logits(f.engine, 1));
    for (uint32_t at = 0; at < 90; at += 30) rig_feed(f.engine, f.b, some + at, 30, 1);
    assert_memory_equal(pr_engine_logits(f.engine, 0), want, sizeof want);
    assert_int_equal(pr_session_prefill(f.a, some, 11, NULL, &err), PR_ERR_LIMIT);
    assert_non_null(strstr(err.text, "prompt of 11 tokens"));
    assert_int_equal(pr_session_prefill(f.a, some, 0, NULL, &err), PR_OK);
    assert_int_equal(pr_session_length(f.a), 90);
    assert_int_equal(pr_session_prefill(f.a, some, 10, &cancel, &err), PR_OK);
    cancel = 1;
    assert_int_equal(pr_session_truncate(f.a, 0, &err), PR_OK);
    assert_int_equal(pr_session_prefill(f.a, some, 10, &cancel, &err), PR_ERR_CANCELLED);
    assert_int_equal(pr_session_length(f.a), 0);
    teardown(&f);
}

static void nothing_may_be_closed(void **state) {
    (void)state;
    pr_engine_close(NULL);
    pr_session_close(NULL);
    pr_estimate_close(NULL);
    pr_text_free(NULL);
}

/* ---- opening --------------------------------------------------------------------- */

static void options_out_of_range(void **state) {
    (void)state;
    const char *path = rig_model(&(llama_gguf){.n_layers = 1, .context = 200}, "m.gguf");
    const struct {
        pr_engine_opts opts;
        pr_status status;
        const char *says;
    } cases[] = {
        {{.n_threads = -1}, PR_ERR_ARG, "threads must be between 1 and 1024, not -1"},
        {{.n_threads = 1025}, PR_ERR_ARG, "threads"},
        {{.nice = -1}, PR_ERR_ARG, "nice"},
        {{.nice = 20}, PR_ERR_ARG, "nice"},
        {{.context_max = 201}, PR_ERR_LIMIT, "context of 201"},
        {{.context_max = UINT32_MAX}, PR_ERR_LIMIT, "context"},
        {{.batch_max = (1 << 16) + 1}, PR_ERR_ARG, "batch of 65537"},
        {{.batch_max = UINT32_MAX}, PR_ERR_ARG, "batch"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        rig_refuses(path, &cases[i].opts, cases[i].status, cases[i].says);
}

static void options_by_default(void **state) {
    (void)state;
    pr_engine_info info;
    pr_engine *e = rig_open(rig_model(&(llama_gguf){.n_layers = 1, .context = 200}, "m.gguf"), NULL);
    pr_engine_describe(e, &info);
    assert_true(info.n_threads >= 1);
    assert_int_equal(info.context_max, 200);
    assert_int_equal(info.batch_max, 512);
    assert_int_equal(info.logits_max, 32);
    pr_engine_close(e);
    e = rig_open(rig_model(&(llama_gguf){.n_layers = 1, .context = 1 << 20}, "m.gguf"),
                 &(pr_engine_opts){.batch_max = 4});
    pr_engine_describe(e, &info);
    assert_int_equal(info.context_train, 1 << 20);
    assert_int_equal(info.context_max, 8192);
    assert_int_equal(info.logits_max, 4); /* no more rows than tokens */
    pr_engine_close(e);
}

static void files_that_are_no_models(void **state) {
    (void)state;
    static const unsigned char jpeg[] = {0xff, 0xd8, 0xff, 0xe0, 0, 16, 'J', 'F', 'I', 'F', 0, 1, 1, 0, 0, 1};
    const char *path = rig_path("m.gguf");
    rig_refuses(rig_path("absent.gguf"), NULL, PR_ERR_NOTFOUND, "absent.gguf");
    for (int i = 0; i < 2; i++) {
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        if (i) assert_int_equal(fwrite(jpeg, 1, sizeof jpeg, f), sizeof jpeg);
        fclose(f);
        rig_refuses(path, NULL, PR_ERR_FORMAT, "m.gguf");
    }
    llama_gguf_write(&(llama_gguf){.n_layers = 1}, path);
    assert_int_equal(truncate(path, 60000), 0);
    rig_refuses(path, NULL, PR_ERR_FORMAT, "m.gguf");
}

static void models_that_are_refused(void **state) {
    (void)state;
    const struct {
        llama_gguf m;
        pr_status status;
        const char *says;
    } cases[] = {
        {{.arch = "gpt2"}, PR_ERR_UNSUPPORTED, "gpt2"},
        {{.lie = "llama.expert_count", .lie_value = 8}, PR_ERR_UNSUPPORTED, "mixture-of-experts"},
        {{.without = "blk.0.ffn_up.weight"}, PR_ERR_FORMAT, "blk.0.ffn_up.weight"},
        {{.bent = "blk.0.attn_k.weight", .bent_cols = 63, .bent_rows = 32}, PR_ERR_FORMAT, "blk.0.attn_k.weight"},
        {{.n_kv_heads = 4, .lie = "llama.attention.head_count_kv", .lie_value = 1}, PR_ERR_FORMAT, "4 KV heads"},
        {{.bent = "output.weight", .bent_cols = 64, .bent_rows = 400}, PR_ERR_FORMAT, "vocabulary of 400"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        llama_gguf m = cases[i].m;
        m.n_layers = 1;
        rig_refuses(rig_model(&m, "m.gguf"), NULL, cases[i].status, cases[i].says);
    }
}

/* A vocabulary that is larger or smaller than the matrices is no reason to read past them. */
static void padded_vocabularies(void **state) {
    (void)state;
    pr_err err = {0};
    int32_t ids[64];
    size_t n = 0;
    /* 320 rows for 309 tokens */
    llama_gguf m = {.n_layers = 1, .tied = true, .bent = "token_embd.weight", .bent_cols = 64, .bent_rows = 320};
    pr_engine *e = rig_open(rig_model(&m, "m.gguf"), &(pr_engine_opts){.n_threads = 1});
    pr_session *s = rig_session(e);
    assert_int_equal(rig_vocab(e), 320);
    rig_feed(e, s, (const int32_t[]){319}, 1, 1);
    assert_null(pr_engine_piece(e, 319, true, &n));
    pr_session_close(s);
    pr_engine_close(e);
    /* 280 rows for 309 tokens: words have none */
    m.bent_rows = 280;
    e = rig_open(rig_model(&m, "m.gguf"), &(pr_engine_opts){.n_threads = 1});
    s = rig_session(e);
    assert_int_equal(pr_engine_tokenize(e, "ba", 2, 0, ids, 64, &n, &err), PR_OK);
    pr_status st = pr_engine_step(e, &(pr_run){s, (const int32_t[]){300}, 1, 1}, 1, &err);
    assert_int_equal(st, PR_ERR_ARG);
    assert_non_null(strstr(err.text, "300"));
    pr_session_close(s);
    pr_engine_close(e);
}

/* ---- chat ------------------------------------------------------------------------- */

static void templates_that_are_not_known(void **state) {
    (void)state;
    pr_err err = {0};
    char *text = NULL;
    const pr_message hello = {"user", "hello"};
    llama_gguf m = {.n_layers = 1, .chat_template = "{{ frobnicate(messages) }}"};
    pr_engine *e = rig_open(rig_model(&m, "m.gguf"), &(pr_engine_opts){.n_threads = 1});
    pr_engine_info info;
    pr_engine_describe(e, &info);
    assert_string_equal(info.chat_template, "");
    assert_int_equal(pr_engine_chat(e, NULL, &hello, 1, true, &text, &err), PR_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "--template"));
    assert_non_null(strstr(err.text, "does not know"));
    assert_int_equal(pr_engine_chat(e, "frob", &hello, 1, true, &text, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "PRECIS_TEMPLATE: frob"));
    assert_non_null(strstr(err.text, "chatml"));
    assert_int_equal(pr_engine_chat(e, "chatml", &hello, 1, true, &text, &err), PR_OK);
    assert_non_null(strstr(text, "hello"));
    pr_text_free(text);
    pr_engine_close(e);
    e = rig_open(rig_model(&m, "m.gguf"), &(pr_engine_opts){.n_threads = 1, .chat_template = "zephyr"});
    assert_int_equal(pr_engine_chat(e, NULL, &hello, 1, true, &text, &err), PR_OK);
    assert_non_null(strstr(text, "<|user|>"));
    pr_text_free(text);
    pr_engine_describe(e, &info);
    assert_string_equal(info.chat_template, "zephyr");
    pr_engine_close(e);
    e = NULL;
    assert_int_equal(
        pr_engine_open(rig_model(&m, "m.gguf"), &(pr_engine_opts){.n_threads = 1, .chat_template = "frob"}, &e, &err),
        PR_ERR_ARG);
    assert_null(e);
    assert_non_null(strstr(err.text, "frob"));
    m.chat_template = NULL;
    e = rig_open(rig_model(&m, "m.gguf"), &(pr_engine_opts){.n_threads = 1});
    assert_int_equal(pr_engine_chat(e, NULL, &hello, 1, true, &text, &err), PR_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "no chat template"));
    pr_engine_close(e);
}

/* ---- progress ----------------------------------------------------------------------- */

typedef struct seen {
    double last;
    int n;
    bool wrong;
} seen;

static void note(void *arg, double fraction) {
    seen *s = arg;
    s->wrong = s->wrong || !(fraction >= s->last && fraction <= 1);
    s->last = fraction;
    s->n++;
}

static void progress_goes_from_0_to_1(void **state) {
    (void)state;
    const char *path = rig_model(&(llama_gguf){0}, "m.gguf");
    for (int threads = 1; threads <= 3; threads++) {
        seen s = {0};
        pr_engine_close(rig_open(path, &(pr_engine_opts){.n_threads = threads, .progress = note, .progress_arg = &s}));
        assert_false(s.wrong);
        assert_true(s.n > 0);
        assert_true(s.last == 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_that_are_refused),
        cmocka_unit_test(steps_to_the_brim),
        cmocka_unit_test(a_pool_that_is_full),
        cmocka_unit_test(the_kv_bound),
        cmocka_unit_test(truncating),
        cmocka_unit_test(prefilling),
        cmocka_unit_test(nothing_may_be_closed),
        cmocka_unit_test(options_out_of_range),
        cmocka_unit_test(options_by_default),
        cmocka_unit_test(files_that_are_no_models),
        cmocka_unit_test(models_that_are_refused),
        cmocka_unit_test(padded_vocabularies),
        cmocka_unit_test(templates_that_are_not_known),
        cmocka_unit_test(progress_goes_from_0_to_1),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
