/*
 * Generation from outside: what ends it, what comes out, what the session holds afterwards.
 *
 * Models are random, so texts are noise; what is checked is that the noise is the same noise wherever it has to be. Most
 * tests forbid the byte tokens by a bias, which leaves words of two letters, some with an umlaut.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/str.h"
#include "engine/answer.h"
#include "support/rig.h"
#include "support/vocab_gguf.h"

enum { CONTEXT = 120, N_VOCAB = 309, TEXT_MAX = 4096, N_NO_BYTES = LLAMA_GGUF_FIRST_WORD };

static const int32_t prompt[] = {1, 270, 281, 292, 303};
enum { N_PROMPT = sizeof prompt / sizeof *prompt };

/* Everything but words. */
static pr_logit_bias no_bytes[N_NO_BYTES];

static int setup(void **state) {
    for (int32_t i = 0; i < N_NO_BYTES; i++) no_bytes[i] = (pr_logit_bias){i, -INFINITY};
    return rig_setup(state);
}

static pr_engine *engine_of(int n_threads) {
    const pr_engine_opts opts = {
        .n_threads = n_threads, .context_max = CONTEXT, .batch_max = 32, .kv_bytes_max = 1 << 20};
    return rig_open(rig_model(&(llama_gguf){.n_layers = 2, .type = PR_Q8_0}, "m.gguf"), &opts);
}

typedef struct answer {
    char text[TEXT_MAX];
    size_t len;
    int n_calls;
    bool broken;    /* a piece that is not whole characters */
    int stop_after; /* calls; 0: never */
    volatile int *cancel;
    pr_generate_stats stats;
    int32_t tokens[CONTEXT]; /* fed, after the prompt */
    uint32_t n_tokens;
} answer;

static bool whole_characters(const char *text, size_t len) {
    for (size_t at = 0; at < len;) {
        int32_t cp;
        at += pr_utf8_decode(text + at, len - at, &cp);
        if (cp < 0) return false;
    }
    return true;
}

static bool take(void *arg, const char *text, size_t len) {
    answer *a = arg;
    assert_true(len > 0 && a->len + len < TEXT_MAX);
    a->broken = a->broken || !whole_characters(text, len);
    memcpy(a->text + a->len, text, len);
    a->len += len;
    a->n_calls++;
    if (a->cancel && a->n_calls == a->stop_after) *a->cancel = 1;
    else if (a->n_calls == a->stop_after) return false;
    return true;
}

/* One answer of a fresh session. */
static pr_status ask(pr_engine *e, pr_generate_opts opts, answer *a, pr_err *err) {
    opts.on_text = take;
    opts.arg = a;
    opts.cancel = a->cancel;
    pr_session *s = rig_session(e);
    pr_status st = pr_session_generate(s, prompt, N_PROMPT, &opts, &a->stats, err);
    assert_false(a->broken);
    a->n_tokens = pr_session_length(s) > N_PROMPT ? pr_session_length(s) - N_PROMPT : 0;
    memcpy(a->tokens, pr_session_tokens(s) + N_PROMPT, a->n_tokens * sizeof *a->tokens);
    pr_session_close(s);
    return st;
}

static answer *answer_to(pr_engine *e, pr_generate_opts opts) {
    static answer kept[4];
    static unsigned next;
    answer *a = &kept[next++ % 4];
    pr_err err = {0};
    *a = (answer){0};
    if (ask(e, opts, a, &err)) fail_msg("%s", err.text);
    return a;
}

static pr_generate_opts words(uint32_t max_tokens) {
    return (pr_generate_opts){.sample = {.bias = no_bytes, .n_bias = N_NO_BYTES}, .max_tokens = max_tokens};
}

/* ---- the same answer --------------------------------------------------------- */

static void greedy_takes_the_highest_logit(void **state) {
    (void)state;
    pr_engine *e = engine_of(1);
    answer *a = answer_to(e, (pr_generate_opts){.max_tokens = 30, .ignore_end = true});
    assert_int_equal(a->stats.finish, PR_FINISH_LENGTH);
    assert_int_equal(a->stats.n_generated, 30);
    assert_int_equal(a->n_tokens, 29); /* the last one is not fed */
    pr_session *s = rig_session(e);
    rig_feed(e, s, prompt, N_PROMPT, 1);
    for (uint32_t i = 0; i < a->n_tokens; i++) {
        const float *logits = pr_engine_logits(e, 0);
        int32_t best = 0;
        for (int32_t k = 1; k < N_VOCAB; k++)
            if (logits[k] > logits[best]) best = k;
        assert_int_equal(a->tokens[i], best);
        rig_feed(e, s, &best, 1, 1);
    }
    pr_session_close(s);
    pr_engine_close(e);
}

static void the_text_is_that_of_the_tokens(void **state) {
    (void)state;
    pr_engine *e = engine_of(1);
    answer *a = answer_to(e, words(41));
    char text[TEXT_MAX] = "";
    size_t len = 0, n;
    for (uint32_t i = 0; i < a->n_tokens; i++, len += n) {
        const char *piece = pr_engine_piece(e, a->tokens[i], false, &n);
        memcpy(text + len, piece, n);
    }
    assert_true(a->len > len); /* and the last one, which was not fed */
    assert_memory_equal(a->text, text, len);
    pr_engine_close(e);
}

static void seeds_give_the_same_text_on_any_number_of_threads(void **state) {
    (void)state;
    answer first[5], again;
    pr_engine *e = engine_of(1);
    for (uint64_t seed = 0; seed < 5; seed++) {
        pr_generate_opts opts = words(40);
        pr_sample_defaults(&opts.sample);
        opts.sample.bias = no_bytes;
        opts.sample.n_bias = N_NO_BYTES;
        opts.sample.seed = seed;
        first[seed] = *answer_to(e, opts);
        again = *answer_to(e, opts);
        assert_int_equal(again.len, first[seed].len);
        assert_memory_equal(again.text, first[seed].text, again.len);
        for (uint64_t k = 0; k < seed; k++) assert_string_not_equal(first[k].text, first[seed].text);
    }
    pr_engine_close(e);
    e = engine_of(2);
    for (uint64_t seed = 0; seed < 5; seed++) {
        pr_generate_opts opts = words(40);
        pr_sample_defaults(&opts.sample);
        opts.sample.bias = no_bytes;
        opts.sample.n_bias = N_NO_BYTES;
        opts.sample.seed = seed;
        assert_string_equal(answer_to(e, opts)->text, first[seed].text);
    }
    pr_engine_close(e);
}

/* An ordinary model drafts from what followed the same words before: same text, same end, same tokens in the session. With four
 * words to choose from everything has been said before. */
static void drafts_from_the_text_change_nothing(void **state) {
    (void)state;
    enum { FEW = 4 };
    pr_logit_bias bias[N_VOCAB - FEW];
    for (int32_t i = 0; i < N_VOCAB - FEW; i++) bias[i] = (pr_logit_bias){i, -INFINITY};
    pr_engine *e = engine_of(2);
    for (uint64_t seed = 0; seed < 4; seed++) {
        for (int longest = 0; longest < 60; longest += 17) { /* 0: until the context is full */
            pr_generate_opts opts = {.max_tokens = (uint32_t)longest};
            pr_sample_defaults(&opts.sample);
            opts.sample.bias = bias;
            opts.sample.n_bias = N_VOCAB - FEW;
            opts.sample.seed = seed;
            if (seed == 0) opts.sample.temperature = 0;
            answer plain = *answer_to(e, opts);
            assert_int_equal(plain.stats.n_drafted, 0);
            for (int speculate = PR_SPECULATE_AUTO; speculate <= PR_SPECULATE_MAX; speculate += 1 + speculate / 2) {
                opts.speculate = speculate;
                answer *drafted = answer_to(e, opts);
                assert_string_equal(drafted->text, plain.text);
                assert_int_equal(drafted->stats.finish, plain.stats.finish);
                assert_int_equal(drafted->stats.n_generated, plain.stats.n_generated);
                assert_int_equal(drafted->n_tokens, plain.n_tokens);
                assert_memory_equal(drafted->tokens, plain.tokens, plain.n_tokens * sizeof *plain.tokens);
                assert_true(drafted->stats.n_accepted <= drafted->stats.n_drafted);
                assert_true(speculate != 0 || drafted->stats.n_drafted == 0);
                assert_true(speculate <= 0 || longest != 0 || drafted->stats.n_accepted > 0);
            }
        }
    }
    pr_engine_close(e);
}

/* An answer in two halves, the second from where the first stands. */
static void a_session_goes_on_where_it_stands(void **state) {
    (void)state;
    pr_engine *e = engine_of(1);
    answer whole = *answer_to(e, words(40));
    answer half = {0};
    pr_generate_opts opts = words(20);
    opts.on_text = take;
    opts.arg = &half;
    pr_session *s = rig_session(e);
    assert_int_equal(pr_session_generate(s, prompt, N_PROMPT, &opts, NULL, NULL), PR_OK);
    assert_int_equal(pr_session_length(s), N_PROMPT + 19);
    assert_int_equal(pr_session_generate(s, &whole.tokens[19], 1, &opts, &half.stats, NULL), PR_OK);
    assert_int_equal(half.stats.n_prompt, 1);
    assert_string_equal(half.text, whole.text);
    pr_session_close(s);
    pr_engine_close(e);
}

/* ---- ends -------------------------------------------------------------------------- */

static void max_tokens_and_the_context(void **state) {
    (void)state;
    pr_engine *e = engine_of(1);
    for (uint32_t max = 1; max < 4; max++) {
        answer *a = answer_to(e, words(max));
        assert_int_equal(a->stats.finish, PR_FINISH_LENGTH);
        assert_int_equal(a->stats.n_generated, max);
        assert_int_equal(a->stats.n_prompt, N_PROMPT);
        assert_int_equal(a->n_tokens, max - 1);
        assert_true(a->len >= 2 * max);
    }
    answer *a = answer_to(e, words(0));
    assert_int_equal(a->stats.finish, PR_FINISH_LENGTH);
    assert_int_equal(a->n_tokens, CONTEXT - N_PROMPT);
    assert_int_equal(a->stats.n_generated, CONTEXT - N_PROMPT + 1);
    a = answer_to(e, words(100000));
    assert_int_equal(a->stats.n_generated, CONTEXT - N_PROMPT + 1);
    pr_engine_close(e);
}

static void prompts_that_cannot_be(void **state) {
    (void)state;
    static const int32_t endless[CONTEXT + 1] = {1};
    pr_engine *e = engine_of(1);
    pr_session *s = rig_session(e);
    pr_generate_opts opts = words(5);
    pr_generate_stats stats;
    pr_err err = {0};
    assert_int_equal(pr_session_generate(s, prompt, 0, &opts, &stats, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "prompt is empty"));
    assert_int_equal(pr_session_generate(s, endless, CONTEXT + 1, &opts, &stats, &err), PR_ERR_LIMIT);
    assert_non_null(strstr(err.text, "prompt of 121 tokens"));
    assert_non_null(strstr(err.text, "120"));
    assert_int_equal(stats.n_prompt, 0);
    const int32_t bad[] = {1, N_VOCAB};
    assert_int_equal(pr_session_generate(s, bad, 2, &opts, &stats, &err), PR_ERR_ARG);
    assert_int_equal(pr_session_length(s), 0);
    /* A prompt that fills the context still gets its one token. */
    assert_int_equal(pr_session_generate(s, endless, CONTEXT, &opts, &stats, &err), PR_OK);
    assert_int_equal(stats.n_generated, 1);
    assert_int_equal(stats.finish, PR_FINISH_LENGTH);
    assert_int_equal(pr_session_generate(s, prompt, 1, &opts, &stats, &err), PR_ERR_LIMIT);
    pr_session_close(s);
    pr_engine_close(e);
}

static void parameters_that_cannot_be(void **state) {
    (void)state;
    pr_engine *e = engine_of(1);
    pr_session *s = rig_session(e);
    pr_err err = {0};
    const pr_logit_bias far = {N_VOCAB, 1};
    const struct {
        pr_generate_opts opts;
        const char *says;
    } cases[] = {
        {{.sample = {.temperature = -1}}, "temperature"},
        {{.sample = {.top_p = 2}}, "top_p"},
        {{.sample = {.bias = &far, .n_bias = 1}}, "309"},
        {{.stop = (const char *const[]){""}, .n_stop = 1}, "stop"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(pr_session_generate(s, prompt, N_PROMPT, &cases[i].opts, NULL, &err), PR_ERR_ARG);
        if (!strstr(err.text, cases[i].says)) fail_msg("\"%s\" lacks %s", err.text, cases[i].says);
        assert_int_equal(pr_session_length(s), 0);
    }
    pr_session_close(s);
    pr_engine_close(e);
}

static void end_tokens(void **state) {
    (void)state;
    pr_engine *e = engine_of(1);
    const pr_logit_bias end = {LLAMA_GGUF_EOS, 1000};
    pr_generate_opts opts = {.sample = {.bias = &end, .n_bias = 1}, .max_tokens = 6};
    assert_true(pr_engine_is_end(e, LLAMA_GGUF_EOS));
    answer *a = answer_to(e, opts);
    assert_int_equal(a->stats.finish, PR_FINISH_STOP);
    assert_int_equal(a->stats.n_generated, 1);
    assert_int_equal(a->len, 0);
    assert_int_equal(a->n_tokens, 0);
    opts.ignore_end = true;
    a = answer_to(e, opts);
    assert_int_equal(a->stats.finish, PR_FINISH_LENGTH);
    assert_int_equal(a->stats.n_generated, 6);
    assert_int_equal(a->len, 0); /* a control token is no text */
    pr_engine_close(e);
}

/* The text up to the stop string, whichever piece of the text that is and however tokens cut it. */
static void stop_strings_across_tokens(void **state) {
    (void)state;
    pr_engine *e = engine_of(1);
    answer whole = *answer_to(e, words(60));
    rig_rng rng = {5};
    uint32_t n_inside = 0;
    for (int i = 0; i < 60; i++) {
        char stop[16];
        size_t len = 1 + rig_below(&rng, 12), at = rig_below(&rng, (uint32_t)(whole.len - len));
        while ((whole.text[at] & 0xc0) == 0x80) at--; /* stop strings are text, too */
        while ((whole.text[at + len] & 0xc0) == 0x80) len--;
        if (len == 0) continue;
        memcpy(stop, whole.text + at, len);
        stop[len] = '\0';
        size_t first = (size_t)(strstr(whole.text, stop) - whole.text);
        pr_generate_opts opts = words(60);
        opts.stop = (const char *const[]){"never in there", stop};
        opts.n_stop = 2;
        answer *a = answer_to(e, opts);
        assert_int_equal(a->stats.finish, PR_FINISH_STOP);
        if (a->len != first || memcmp(a->text, whole.text, first) != 0)
            fail_msg("stop \"%s\": \"%s\" of \"%s\"", stop, a->text, whole.text);
        n_inside += a->stats.n_generated < 60;
    }
    assert_true(n_inside > 30);
    /* What only looks like the beginning of one is not lost at the end. */
    char almost[8];
    snprintf(almost, sizeof almost, "%c%c", whole.text[whole.len - 1], '!');
    pr_generate_opts opts = words(60);
    opts.stop = (const char *const[]){almost};
    opts.n_stop = 1;
    answer *a = answer_to(e, opts);
    assert_int_equal(a->stats.finish, PR_FINISH_LENGTH);
    assert_string_equal(a->text, whole.text);
    pr_engine_close(e);
}

static void cancelling(void **state) {
    (void)state;
    pr_engine *e = engine_of(1);
    volatile int cancel = 1;
    pr_err err = {0};
    answer a = {.cancel = &cancel};
    assert_int_equal(ask(e, words(40), &a, &err), PR_OK); /* before the first chunk */
    assert_int_equal(a.stats.finish, PR_FINISH_CANCELLED);
    assert_int_equal(a.stats.n_prompt, 0);
    assert_int_equal(a.stats.n_generated, 0);
    assert_int_equal(a.len, 0);
    /* Between two chunks: the session's own first token is what says so, since it is there after the first. */
    static const int32_t longer[70] = {1};
    pr_session *s = rig_session(e);
    pr_generate_opts opts = words(5);
    pr_generate_stats stats;
    opts.cancel = pr_session_tokens(s);
    assert_int_equal(*opts.cancel, 0);
    assert_int_equal(pr_session_generate(s, longer, 70, &opts, &stats, &err), PR_OK);
    assert_int_equal(stats.finish, PR_FINISH_CANCELLED);
    assert_int_equal(stats.n_prompt, 32);
    assert_int_equal(pr_session_length(s), 32);
    pr_session_close(s);
    cancel = 0;
    a = (answer){.cancel = &cancel, .stop_after = 7};
    assert_int_equal(ask(e, words(40), &a, &err), PR_OK); /* between two tokens */
    assert_int_equal(a.stats.finish, PR_FINISH_CANCELLED);
    assert_int_equal(a.n_calls, 7);
    assert_int_equal(a.stats.n_generated, 7);
    a = (answer){.stop_after = 9};
    assert_int_equal(ask(e, words(40), &a, &err), PR_OK); /* by the receiver */
    assert_int_equal(a.stats.finish, PR_FINISH_CANCELLED);
    assert_int_equal(a.n_calls, 9);
    pr_engine_close(e);
}

/* The pool is too small for what was asked: an error, and a session that holds what was fed. */
static void kv_memory_that_runs_out(void **state) {
    (void)state;
    const pr_engine_opts opts = {.n_threads = 1, .context_max = CONTEXT, .batch_max = 32, .kv_bytes_max = 1};
    pr_engine *e = rig_open(rig_model(&(llama_gguf){.n_layers = 1}, "m.gguf"), &opts);
    static const int32_t longer[40] = {1};
    pr_session *s = rig_session(e);
    pr_generate_opts ask_words = words(0);
    pr_generate_stats stats;
    pr_err err = {0};
    assert_int_equal(pr_session_generate(s, prompt, N_PROMPT, &ask_words, &stats, &err), PR_ERR_LIMIT);
    assert_non_null(strstr(err.text, "KV memory is full"));
    assert_int_equal(pr_session_length(s), 32);
    assert_int_equal(stats.n_prompt, N_PROMPT);
    assert_int_equal(stats.n_generated, 32 - N_PROMPT + 1);
    assert_int_equal(pr_session_truncate(s, 0, &err), PR_OK);
    assert_int_equal(pr_session_generate(s, longer, 40, &ask_words, &stats, &err), PR_ERR_LIMIT);
    assert_int_equal(stats.n_prompt, 32); /* the first chunk */
    assert_int_equal(pr_session_length(s), 32);
    pr_session_close(s);
    pr_engine_close(e);
}

/* ---- text ------------------------------------------------------------------------------ */

/* Byte tokens in any order: only whole characters come out, and none too few. */
static void only_whole_characters_come_out(void **state) {
    (void)state;
    pr_engine *e = engine_of(1);
    uint32_t n_wide = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        pr_generate_opts opts = {.sample = {.temperature = 3, .seed = seed}, .max_tokens = 100, .ignore_end = true};
        answer *a = answer_to(e, opts);
        assert_true(whole_characters(a->text, a->len));
        for (size_t i = 0; i < a->len; i++) n_wide += (a->text[i] & 0xc0) == 0xc0;
    }
    assert_true(n_wide > 100);
    pr_engine_close(e);
}

/* Rows of the output matrix beyond the vocabulary are never sampled. */
static void padding_is_never_sampled(void **state) {
    (void)state;
    const llama_gguf m = {
        .n_layers = 1, .tied = true, .bent = "token_embd.weight", .bent_cols = 64, .bent_rows = 2 * N_VOCAB};
    pr_engine *e = rig_open(rig_model(&m, "m.gguf"), &(pr_engine_opts){.n_threads = 1, .context_max = CONTEXT});
    answer *a = answer_to(e, (pr_generate_opts){.sample = {.temperature = 10}, .ignore_end = true});
    assert_int_equal(a->n_tokens, CONTEXT - N_PROMPT);
    for (uint32_t i = 0; i < a->n_tokens; i++) assert_in_range(a->tokens[i], 0, N_VOCAB - 1);
    pr_engine_close(e);
}

enum { N_MANY = 5 };

/* Sessions with the prompt's beginnings, each with an answer of its own seed, stepped once. */
static void begin_many(pr_engine *e, const pr_generate_opts opts[N_MANY], pr_session *s[N_MANY], pr_answer *a[N_MANY]) {
    static pr_generate_stats stats[N_MANY];
    pr_run runs[N_MANY];
    pr_err err = {0};
    memset(stats, 0, sizeof stats);
    for (uint32_t i = 0; i < N_MANY; i++) {
        s[i] = rig_session(e);
        assert_int_equal(pr_answer_open(s[i], &opts[i], &stats[i], &a[i], &err), PR_OK);
        runs[i] = (pr_run){s[i], prompt, 1 + i, 1};
    }
    assert_int_equal(pr_engine_step(e, runs, N_MANY, &err), PR_OK);
}

static void end_many(pr_engine *e, pr_session *s[N_MANY], pr_answer *a[N_MANY]) {
    for (size_t i = 0; i < N_MANY; i++) {
        pr_answer_close(a[i]);
        pr_session_close(s[i]);
    }
    pr_engine_close(e);
}

static void many_are_drawn_as_each_alone(void **state) {
    (void)state;
    pr_generate_opts opts[N_MANY];
    pr_session *s[N_MANY];
    pr_answer *a[N_MANY];
    int32_t want, got;
    pr_err err = {0};
    for (uint64_t i = 0; i < N_MANY; i++) {
        opts[i] = words(40);
        pr_sample_defaults(&opts[i].sample);
        opts[i].sample.temperature = (float)i;
        opts[i].sample.seed = 7 * i;
    }
    pr_engine *e = engine_of(3);
    begin_many(e, opts, s, a);
    pr_answers_draw(a, N_MANY);
    for (uint32_t i = 0; i < N_MANY; i++) {
        assert_int_equal(pr_answer_sample(a[i], i, 1 + i, 0, &want, &err), PR_OK);
        assert_int_equal(pr_answer_next(a[i], N_MANY, 1 + i, &got, &err), PR_OK); /* no such row: it is not looked at */
        assert_int_equal(got, want);
    }
    end_many(e, s, a);
}

/* Weights that are not numbers are an error, not an answer of arbitrary tokens. */
static void damaged_weights_are_told(void **state) {
    (void)state;
    const char *path = rig_model(&(llama_gguf){.n_layers = 2, .type = PR_F32}, "damaged.gguf");
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long size = ftell(f), from = size / 2 / 4 * 4;
    assert_int_equal(fseek(f, from, SEEK_SET), 0);
    for (long at = from; at < size; at += 4) assert_int_equal(fwrite(&(float){NAN}, 4, 1, f), 1);
    assert_int_equal(fclose(f), 0);
    pr_engine *e = rig_open(path, &(pr_engine_opts){.n_threads = 1, .context_max = CONTEXT, .kv_contexts = N_MANY});
    pr_session *s;
    pr_err err = {0};
    assert_int_equal(pr_session_open(e, &s, &err), PR_OK);
    pr_generate_opts opts = {.max_tokens = 4};
    assert_int_equal(pr_session_generate(s, prompt, N_PROMPT, &opts, NULL, &err), PR_ERR_FORMAT);
    assert_non_null(strstr(err.text, "not finite"));
    pr_session_close(s);
    const pr_generate_opts many[N_MANY] = {opts, opts, opts, opts, opts};
    pr_session *sessions[N_MANY];
    pr_answer *answers[N_MANY];
    int32_t token;
    begin_many(e, many, sessions, answers);
    pr_answers_draw(answers, N_MANY);
    for (size_t i = 0; i < N_MANY; i++) {
        err = (pr_err){0};
        assert_int_equal(pr_answer_next(answers[i], i, 1, &token, &err), PR_ERR_FORMAT);
        assert_non_null(strstr(err.text, "not finite"));
    }
    end_many(e, sessions, answers);
}

static void times_are_told(void **state) {
    (void)state;
    pr_engine *e = engine_of(1);
    const pr_generate_stats *s = &answer_to(e, words(10))->stats;
    assert_true(s->prefill_seconds > 0);
    assert_true(s->first_token_seconds >= s->prefill_seconds);
    assert_true(s->decode_seconds > 0);
    pr_engine_close(e);
}

static void a_trained_model_tells_a_story(void **state) {
    (void)state;
    char path[512];
    int32_t ids[64];
    size_t n = 0;
    pr_err err = {0};
    if (!test_data_path("models/stories260K/stories260K-f32.gguf", path, sizeof path)) {
        print_message("SKIPPED no %s\n", path);
        skip();
    }
    static const char opening[] = "Once upon a time";
    pr_engine *e = rig_open(path, &(pr_engine_opts){.n_threads = 2});
    if (pr_engine_tokenize(e, opening, strlen(opening), PR_TOKENIZE_BOS, ids, 64, &n, &err)) fail_msg("%s", err.text);
    answer a = {0};
    pr_generate_opts opts = {.max_tokens = 30, .on_text = take, .arg = &a};
    pr_session *s = rig_session(e);
    if (pr_session_generate(s, ids, n, &opts, &a.stats, &err)) fail_msg("%s", err.text);
    if (!strstr(a.text, ", there was a ")) fail_msg("\"%s\"", a.text);
    pr_session_close(s);
    pr_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_highest_logit),
        cmocka_unit_test(the_text_is_that_of_the_tokens),
        cmocka_unit_test(seeds_give_the_same_text_on_any_number_of_threads),
        cmocka_unit_test(drafts_from_the_text_change_nothing),
        cmocka_unit_test(a_session_goes_on_where_it_stands),
        cmocka_unit_test(max_tokens_and_the_context),
        cmocka_unit_test(prompts_that_cannot_be),
        cmocka_unit_test(parameters_that_cannot_be),
        cmocka_unit_test(end_tokens),
        cmocka_unit_test(stop_strings_across_tokens),
        cmocka_unit_test(cancelling),
        cmocka_unit_test(kv_memory_that_runs_out),
        cmocka_unit_test(only_whole_characters_come_out),
        cmocka_unit_test(padding_is_never_sampled),
        cmocka_unit_test(many_are_drawn_as_each_alone),
        cmocka_unit_test(damaged_weights_are_told),
        cmocka_unit_test(times_are_told),
        cmocka_unit_test(a_trained_model_tells_a_story),
    };
    return cmocka_run_group_tests(tests, setup, rig_teardown);
}
