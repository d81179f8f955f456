/*
 * The conformance vectors of test data/vocab: NAME.inp holds texts, NAME.out
 * the ids that the model's own tokenizer gives for each. Every NAME with a
 * vocabulary must match exactly, and turn back into its text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/os.h"
#include "base/str.h"
#include "support/vocab_gguf.h"
#include "text/pretok.h"

static const char separator[] = "\n__ggml_vocab_test__\n";

static char *slurp(const char *name, const char *suffix) {
    char file[128], buf[512];
    snprintf(file, sizeof file, "vocab/%s.%s", name, suffix);
    const char *path = test_data_path(file, buf, sizeof buf);
    char *text = NULL;
    size_t len;
    pr_err err = {0};
    if (path) assert_int_equal(pr_file_slurp(path, 1 << 24, &text, &len, &err), PR_OK);
    return text;
}

static void format_ids(pr_str *out, const int32_t *ids, size_t n) {
    pr_str_clear(out);
    for (size_t i = 0; i < n; i++) pr_str_printf(out, " %d", (int)ids[i]);
}

static void check_detok(const pr_vocab *v, const int32_t *ids, size_t n, const char *text, size_t len) {
    pr_str got = {0};
    pr_detok d;
    pr_detok_init(&d, v, true, false);
    size_t cap = pr_vocab_piece_max(v) + 8;
    char *out = malloc(cap);
    for (size_t i = 0; i < n; i++) {
        size_t written;
        assert_int_equal(pr_detok_push(&d, ids[i], out, cap, &written, NULL), PR_OK);
        pr_str_append(&got, out, written);
    }
    assert_int_equal(pr_detok_finish(&d, out), 0);
    assert_int_equal(got.len, len);
    if (len) assert_memory_equal(got.data, text, len);
    pr_str_free(&got);
    free(out);
}

static void check_case(const pr_vocab *v, const char *text, size_t len, const char *expected, size_t expected_len) {
    int32_t ids[2048];
    size_t n;
    pr_err err = {0};
    if (pr_tokenize(v, text, len, 0, ids, 2048, &n, &err)) fail_msg("%s", err.text);
    pr_str got = {0};
    format_ids(&got, ids, n);
    pr_str_puts(&got, "");
    if (got.len != expected_len || (got.len && memcmp(got.data, expected, got.len) != 0))
        fail_msg("text \"%.*s\"\n  got %s\n want %.*s", (int)len, text, got.data ? got.data : "", (int)expected_len,
                 expected);
    pr_str_free(&got);
    check_detok(v, ids, n, text, len);
}

static void conform(const char *name) {
    char file[128], buf[512];
    snprintf(file, sizeof file, "vocab/%s.gguf", name);
    const char *path = test_data_path(file, buf, sizeof buf);
    if (!path) {
        print_message("SKIPPED no test data %s\n", file);
        skip();
    }
    vocab_gguf g;
    pr_vocab *v;
    pr_err err = {0};
    if (vocab_gguf_load(path, &g, &err) || pr_vocab_build(&g.spec, &v, &err)) fail_msg("%s", err.text);
    vocab_gguf_free(&g); /* the vocabulary keeps nothing of it */
    char *texts = slurp(name, "inp"), *lines = slurp(name, "out");
    assert_non_null(texts);
    assert_non_null(lines);
    size_t n_cases = 0;
    for (char *text = texts, *line = lines; *text; n_cases++) { /* a separator follows every text */
        char *end = strstr(text, separator), *line_end = strchr(line, '\n');
        assert_non_null(end);
        assert_non_null(line_end);
        check_case(v, text, (size_t)(end - text), line, (size_t)(line_end - line));
        text = end + sizeof separator - 1;
        line = line_end + 1;
    }
    assert_int_equal(n_cases, 46);
    pr_free(texts);
    pr_free(lines);
    pr_vocab_free(v);
}

static void test_gpt2(void **state) {
    (void)state;
    conform("gpt-2");
}

static void test_falcon(void **state) {
    (void)state;
    conform("falcon");
}

static void test_starcoder(void **state) {
    (void)state;
    conform("starcoder");
}

static void test_llama_spm(void **state) {
    (void)state;
    conform("llama-spm");
}

static void test_phi3(void **state) {
    (void)state;
    conform("phi-3");
}

/* ---- llama-bpe: vectors without a vocabulary ---- */

typedef struct words {
    pr_text_ref word[2048];
    size_t n;
} words;

static pr_status add_word(void *arg, const char *piece, size_t len, pr_err *err) {
    (void)err;
    words *w = arg;
    w->word[w->n++] = (pr_text_ref){piece, len};
    return PR_OK;
}

static bool same(pr_text_ref a, pr_text_ref b) { return a.len == b.len && memcmp(a.data, b.data, a.len) == 0; }

/* A word never takes less than one token; where a text has as many tokens as words, each word is one token, and the
 * same token in every text. */
static void test_llama_bpe_words(void **state) {
    (void)state;
    char *texts = slurp("llama-bpe", "inp"), *lines = slurp("llama-bpe", "out");
    if (!texts || !lines) {
        print_message("SKIPPED no test data vocab/llama-bpe\n");
        skip();
    }
    const pr__pre_entry *entry = pr__pre_find("llama-bpe");
    pr_pretok *p;
    pr_pretok_run *run;
    assert_int_equal(pr__pretok_build(entry->steps, 1, NULL, &p, NULL), PR_OK);
    assert_int_equal(pr__pretok_run_open(p, &run, NULL), PR_OK);
    static pr_text_ref known[130000];
    size_t n_whole = 0;
    for (char *text = texts, *line = lines; *text;) {
        static words w;
        char *end = strstr(text, separator), *line_end = strchr(line, '\n');
        *line_end = '\0';
        w.n = 0;
        assert_int_equal(pr__pretok_split(run, text, (size_t)(end - text), add_word, &w, NULL), PR_OK);
        long ids[2048];
        size_t n_ids = 0;
        for (char *at = line, *next; ids[n_ids] = strtol(at, &next, 10), next != at; at = next) n_ids++;
        assert_true(n_ids >= w.n);
        for (size_t i = 0; n_ids == w.n && i < w.n; i++) {
            pr_text_ref *k = &known[ids[i]];
            if (!k->data) *k = w.word[i], n_whole++;
            assert_true(same(*k, w.word[i]));
        }
        text = end + sizeof separator - 1;
        line = line_end + 1;
    }
    assert_true(n_whole > 20);
    pr__pretok_run_close(run);
    pr__pretok_free(p);
    pr_free(texts);
    pr_free(lines);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2),      cmocka_unit_test(test_falcon), cmocka_unit_test(test_starcoder),
        cmocka_unit_test(test_llama_spm), cmocka_unit_test(test_phi3),   cmocka_unit_test(test_llama_bpe_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
