/*
 * Vocabularies out of model files: GGUF metadata and tokenizer.json, with their defaults and their faults.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/str.h"
#include "engine/vocab_json.h"
#include "engine/vocab_load.h"
#include "store/gguf_write.h"

static char folder[256], path[300];

static int make_folder(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/precis-test-XXXXXX", base && *base ? base : "/tmp");
    snprintf(path, sizeof path, "%s/m.gguf", mkdtemp(folder));
    return 0;
}

static int drop_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static bool shared_path(char *out, size_t len, const char *name) {
    const char *base = getenv("PRECIS_TEST_DATA");
    snprintf(out, len, "%s/%s", base && *base ? base : "../shared/data", name);
    if (access(out, R_OK) == 0) return true;
    printf("SKIPPED no %s\n", out);
    return false;
}

/* ids as "1 2 3" */
static const char *ids_of(const pr_vocab *v, const char *text, unsigned flags) {
    static char shown[8192];
    int32_t ids[1024];
    size_t n, at = 0;
    pr_err err = {0};
    if (pr_tokenize(v, text, strlen(text), flags, ids, 1024, &n, &err) != PR_OK) fail_msg("%s", err.text);
    shown[0] = '\0';
    for (size_t i = 0; i < n; i++) at += (size_t)snprintf(shown + at, sizeof shown - at, "%s%d", i ? " " : "", ids[i]);
    return shown;
}

/* ---- GGUF ---- */

enum { N = 12 };
static const char *const spm_tokens[N] = {
    "<unk>", "<s>", "</s>", "<0x0A>", "\xe2\x96\x81", "a", "b", "\xe2\x96\x81\x61", "ab", "<x>", "<y>", "c"};
static const float spm_scores[N] = {0, 0, 0, 0, -4, -5, -6, -1, -2, 0, 0, -9};
static const int32_t spm_types[N] = {2, 3, 3, 6, 1, 1, 1, 1, 1, 4, 5, 0};
static const char *const bpe_tokens[4] = {"a", "b", "ab", "<e>"};
static const int32_t bpe_types[4] = {1, 1, 1, 3};
static const char *const bpe_merges[1] = {"a b"};

typedef void (*extra_fn)(pr_gguf_writer *w);

/* A file with a good vocabulary, plus what extra adds. */
static pr_model_file *vocab_file(bool spm, extra_fn extra) {
    pr_gguf_writer *w;
    pr_model_file *f;
    pr_err err = {0};
    unlink(path);
    assert_int_equal(pr_gguf_create(path, 32, &w, &err), PR_OK);
    pr_gguf_meta_str(w, "tokenizer.ggml.model", spm ? "llama" : "gpt2");
    pr_gguf_meta_strs(w, "tokenizer.ggml.tokens", spm ? spm_tokens : bpe_tokens, spm ? N : 4);
    pr_gguf_meta_i32s(w, "tokenizer.ggml.token_type", spm ? spm_types : bpe_types, spm ? N : 4);
    if (spm) pr_gguf_meta_f32s(w, "tokenizer.ggml.scores", spm_scores, N);
    else pr_gguf_meta_strs(w, "tokenizer.ggml.merges", bpe_merges, 1);
    if (extra) extra(w);
    assert_int_equal(pr_gguf_finish(w, &err), PR_OK);
    if (pr_model_file_open(path, &f, &err) != PR_OK) fail_msg("%s", err.text);
    return f;
}

static pr_vocab *loaded(const pr_model_file *f, char **chat_template) {
    pr_vocab *v;
    pr_err err = {0};
    if (pr__vocab_load(f, NULL, &v, chat_template, &err) != PR_OK) fail_msg("%s", err.text);
    return v;
}

static void spm_has_the_usual_defaults(void **state) {
    (void)state;
    char *chat_template;
    pr_model_file *f = vocab_file(true, NULL);
    pr_vocab *v = loaded(f, &chat_template);
    assert_null(chat_template);
    assert_int_equal(pr_vocab_size(v), N);
    assert_int_equal(pr_vocab_bos(v), 1);
    assert_int_equal(pr_vocab_eos(v), 2);
    assert_true(pr_vocab_add_bos(v));
    assert_string_equal(ids_of(v, "ab", PR_TOKENIZE_BOS), "1 7 6"); /* a space before it, and the better score first */
    assert_string_equal(ids_of(v, "a\n<x>", 0), "7 3 9");
    pr_vocab_free(v);
    pr_model_file_close(f);
}

static void say_everything(pr_gguf_writer *w) {
    pr_gguf_meta_u32(w, "tokenizer.ggml.bos_token_id", 9);
    pr_gguf_meta_u32(w, "tokenizer.ggml.eos_token_id", 1);
    pr_gguf_meta_u32(w, "tokenizer.ggml.padding_token_id", UINT32_MAX);
    pr_gguf_meta_bool(w, "tokenizer.ggml.add_bos_token", false);
    pr_gguf_meta_bool(w, "tokenizer.ggml.add_space_prefix", false);
    pr_gguf_meta_str(w, "tokenizer.chat_template", "{{ messages }}");
}

static void spm_obeys_the_file(void **state) {
    (void)state;
    char *chat_template;
    pr_model_file *f = vocab_file(true, say_everything);
    pr_vocab *v = loaded(f, &chat_template);
    assert_string_equal(chat_template, "{{ messages }}");
    assert_int_equal(pr_vocab_bos(v), 9);
    assert_int_equal(pr_vocab_eos(v), 1);
    assert_false(pr_vocab_add_bos(v));
    assert_string_equal(ids_of(v, "ab", PR_TOKENIZE_BOS), "8");
    pr_free(chat_template);
    pr_vocab_free(v);
    pr_model_file_close(f);
}

static void say_llama3(pr_gguf_writer *w) {
    pr_gguf_meta_str(w, "tokenizer.ggml.pre", "llama-bpe");
    pr_gguf_meta_u32(w, "tokenizer.ggml.bos_token_id", 3);
}

static void bpe_defaults_follow_the_pre_tokenizer(void **state) {
    (void)state;
    char *chat_template;
    pr_model_file *f = vocab_file(false, NULL);
    pr_vocab *v = loaded(f, &chat_template);
    assert_int_equal(pr_vocab_bos(v), -1);
    assert_int_equal(pr_vocab_eos(v), -1);
    assert_string_equal(ids_of(v, "aab", PR_TOKENIZE_BOS), "0 2");
    pr_vocab_free(v);
    pr_model_file_close(f);
    f = vocab_file(false, say_llama3);
    v = loaded(f, &chat_template);
    assert_true(pr_vocab_add_bos(v));
    assert_string_equal(ids_of(v, "ab", PR_TOKENIZE_BOS), "3 2");
    pr_vocab_free(v);
    pr_model_file_close(f);
}

static void say_phi3(pr_gguf_writer *w) { pr_gguf_meta_str(w, "general.name", "My Phi-3 mini"); }

static void phi3_tokens_swallow_spaces(void **state) {
    (void)state;
    char *chat_template;
    pr_model_file *f = vocab_file(true, say_phi3);
    pr_vocab *v = loaded(f, &chat_template);
    assert_string_equal(ids_of(v, "<x>  </s> \n<s> a", PR_TOKENIZE_SPECIAL), "9 2 1 4 7");
    pr_vocab_free(v);
    pr_model_file_close(f);
}

static void add_bad_bos(pr_gguf_writer *w) { pr_gguf_meta_u32(w, "tokenizer.ggml.bos_token_id", N); }
static void add_text_bos(pr_gguf_writer *w) { pr_gguf_meta_str(w, "tokenizer.ggml.bos_token_id", "1"); }
static void add_text_flag(pr_gguf_writer *w) { pr_gguf_meta_str(w, "tokenizer.ggml.add_bos_token", "yes"); }
static void add_bad_template(pr_gguf_writer *w) { pr_gguf_meta_u32(w, "tokenizer.chat_template", 1); }

/* Only these keys. */
static void only(extra_fn write, pr_status want, const char *words) {
    pr_gguf_writer *w;
    pr_model_file *f;
    pr_vocab *v;
    char *chat_template;
    pr_err err = {0};
    unlink(path);
    assert_int_equal(pr_gguf_create(path, 32, &w, NULL), PR_OK);
    write(w);
    assert_int_equal(pr_gguf_finish(w, NULL), PR_OK);
    assert_int_equal(pr_model_file_open(path, &f, &err), PR_OK);
    pr_status status = pr__vocab_load(f, NULL, &v, &chat_template, &err);
    if (status != want || !strstr(err.text, words)) {
        fail_msg("wanted %s with \"%s\", got %s: %s", pr_status_name(want), words, pr_status_name(status), err.text);
    }
    assert_null(v);
    assert_null(chat_template);
    pr_model_file_close(f);
}

static void no_model(pr_gguf_writer *w) { pr_gguf_meta_u32(w, "n", 1); }
static void bert_model(pr_gguf_writer *w) { pr_gguf_meta_str(w, "tokenizer.ggml.model", "bert"); }
static void no_tokens(pr_gguf_writer *w) { pr_gguf_meta_str(w, "tokenizer.ggml.model", "llama"); }
static void number_tokens(pr_gguf_writer *w) {
    no_tokens(w);
    pr_gguf_meta_i32s(w, "tokenizer.ggml.tokens", spm_types, 3);
}
static void few_scores(pr_gguf_writer *w) {
    no_tokens(w);
    pr_gguf_meta_strs(w, "tokenizer.ggml.tokens", spm_tokens, N);
    pr_gguf_meta_f32s(w, "tokenizer.ggml.scores", spm_scores, N - 1);
}
static void text_scores(pr_gguf_writer *w) {
    no_tokens(w);
    pr_gguf_meta_strs(w, "tokenizer.ggml.tokens", spm_tokens, N);
    pr_gguf_meta_strs(w, "tokenizer.ggml.scores", spm_tokens, N);
}
static void bad_type(pr_gguf_writer *w) {
    static const int32_t types[2] = {1, 7};
    no_tokens(w);
    pr_gguf_meta_strs(w, "tokenizer.ggml.tokens", spm_tokens, 2);
    pr_gguf_meta_i32s(w, "tokenizer.ggml.token_type", types, 2);
}
static void no_merges(pr_gguf_writer *w) {
    pr_gguf_meta_str(w, "tokenizer.ggml.model", "gpt2");
    pr_gguf_meta_strs(w, "tokenizer.ggml.tokens", bpe_tokens, 4);
}
static void strange_pre(pr_gguf_writer *w) {
    no_merges(w);
    pr_gguf_meta_strs(w, "tokenizer.ggml.merges", bpe_merges, 1);
    pr_gguf_meta_str(w, "tokenizer.ggml.pre", "never-heard-of");
}

static void refused_with(extra_fn extra, const char *words) {
    pr_vocab *v;
    char *chat_template;
    pr_err err = {0};
    pr_model_file *f = vocab_file(true, extra);
    assert_int_equal(pr__vocab_load(f, NULL, &v, &chat_template, &err), PR_ERR_FORMAT);
    if (!strstr(err.text, words)) fail_msg("wanted \"%s\", got: %s", words, err.text);
    assert_null(v);
    assert_null(chat_template);
    pr_model_file_close(f);
}

static void refuses_bad_gguf_vocabularies(void **state) {
    (void)state;
    size_t before = pr_mem_total();
    only(no_model, PR_ERR_FORMAT, "no tokenizer");
    only(bert_model, PR_ERR_UNSUPPORTED, "\"bert\"");
    only(no_tokens, PR_ERR_FORMAT, "tokenizer.ggml.tokens is missing");
    only(number_tokens, PR_ERR_FORMAT, "tokenizer.ggml.tokens must be an array of strings");
    only(few_scores, PR_ERR_FORMAT, "tokenizer.ggml.scores has 11 elements for 12 tokens");
    only(text_scores, PR_ERR_FORMAT, "tokenizer.ggml.scores[0]");
    only(bad_type, PR_ERR_FORMAT, "tokenizer.ggml.token_type[1]");
    only(no_merges, PR_ERR_FORMAT, "tokenizer.ggml.merges is missing");
    only(strange_pre, PR_ERR_UNSUPPORTED, "never-heard-of");
    refused_with(add_bad_bos, "tokenizer.ggml.bos_token_id is 12, but there are 12 tokens");
    refused_with(add_text_bos, "tokenizer.ggml.bos_token_id");
    refused_with(add_text_flag, "tokenizer.ggml.add_bos_token");
    refused_with(add_bad_template, "tokenizer.chat_template");
    assert_int_equal(pr_mem_total(), before);
}

/* ---- tokenizer.json ---- */

#define VOCAB                                                                                                          \
    "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\xc4\xa0\":3,\"\xc4\xa0"                                                    \
    "a\":4}"
#define BYTE_LEVEL                                                                                                     \
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"decoder\":{\"type\":\"ByteLevel\"}"
#define MODEL "\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a b\",\"\xc4\xa0 a\"]}"

static pr_status from_json(const char *tokenizer, const char *config, pr_vocab **v, pr_err *err) {
    json_t *t = NULL, *c = NULL;
    pr_status status = pr_json_parse(tokenizer, strlen(tokenizer), "tokenizer", &t, err);
    if (status == PR_OK && config) status = pr_json_parse(config, strlen(config), "config", &c, err);
    pr__vocab_json in = {.tokenizer = t, .config = c, .bos_id = -1, .eos_id = 5};
    *v = NULL;
    if (status == PR_OK) status = pr__vocab_from_json(&in, v, err);
    json_decref(t);
    json_decref(c);
    return status;
}

static pr_vocab *json_vocab(const char *tokenizer, const char *config) {
    pr_vocab *v;
    pr_err err = {0};
    if (from_json(tokenizer, config, &v, &err) != PR_OK) fail_msg("%s", err.text);
    return v;
}

static void reads_byte_level_bpe(void **state) {
    (void)state;
    pr_vocab *v = json_vocab("{" BYTE_LEVEL "," MODEL "}", NULL);
    assert_string_equal(ids_of(v, "ab ab", 0), "2 3 2");
    assert_int_equal(pr_vocab_bos(v), -1);
    pr_vocab_free(v);
    /* merges as pairs, added tokens, BOS by template, EOS by tokenizer_config.json */
    v = json_vocab("{\"added_tokens\":[{\"id\":5,\"content\":\"<s>\",\"special\":true},{\"id\":6,\"content\":\"<u>\","
                   "\"special\":false,\"rstrip\":true}]," BYTE_LEVEL ",\"model\":{" VOCAB
                   ",\"merges\":[[\"a\",\"b\"]]},"
                   "\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":"
                   "\"TemplateProcessing\","
                   "\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}]}]}}",
                   "{\"eos_token\":{\"content\":\"<u>\"},\"bos_token\":null}");
    assert_int_equal(pr_vocab_bos(v), 5);
    assert_int_equal(pr_vocab_eos(v), 6);
    assert_true(pr_vocab_add_bos(v));
    assert_string_equal(ids_of(v, "ab<u>  b", PR_TOKENIZE_BOS), "5 2 6 1");
    pr_vocab_free(v);
}

static void templates_name_bos_and_eos(void **state) {
    (void)state;
    const char *tokenizer =
        "{\"added_tokens\":[{\"id\":5,\"content\":\"<s>\",\"special\":true}]," BYTE_LEVEL "," MODEL
        ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"
        "{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"b\"}}]}}";
    pr_vocab *v = json_vocab(tokenizer, "{\"bos_token\":\"a\"}");
    pr_err err = {0};
    assert_string_equal(ids_of(v, "a", PR_TOKENIZE_BOS), "5 0 1");
    assert_int_equal(pr_vocab_bos(v), 5);
    assert_int_equal(pr_vocab_eos(v), 1);
    pr_vocab_free(v);
    assert_int_equal(from_json(tokenizer, "{\"eos_token\":\"a\"}", &v, &err), PR_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "post_processor that adds \"b\""));
}

static void obeys_add_bos_of_the_config(void **state) {
    (void)state;
    const char *tokenizer = "{\"added_tokens\":[{\"id\":5,\"content\":\"<s>\",\"special\":true}]," BYTE_LEVEL "," MODEL
                            "}";
    pr_vocab *v = json_vocab(tokenizer, "{\"bos_token\":\"<s>\",\"add_bos_token\":true}");
    assert_true(pr_vocab_add_bos(v));
    assert_int_equal(pr_vocab_eos(v), 5); /* of config.json */
    pr_vocab_free(v);
    v = json_vocab(tokenizer, "{\"bos_token\":\"<s>\"}");
    assert_false(pr_vocab_add_bos(v));
    pr_vocab_free(v);
}

static void applies_splits_in_order(void **state) {
    (void)state;
    pr_vocab *v = json_vocab(
        "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
        "{\"type\":\"Split\",\"pattern\":{\"String\":\"b.\"},\"behavior\":\"Isolated\"},"
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Removed\",\"invert\":true},"
        "{\"type\":\"Digits\",\"individual_digits\":true},"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"aa\":3,\".\":4,\"1\":5,\"11\":6},"
        "\"merges\":[\"a b\",\"a a\",\"1 1\"]}}",
        NULL);
    assert_string_equal(ids_of(v, "aab11", 0), "0 0 1 5 5");
    pr_vocab_free(v);
    v = json_vocab(
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}," MODEL "}", NULL);
    assert_string_equal(ids_of(v, "b ab", 0), "1 3 2"); /* one piece */
    pr_vocab_free(v);
}

#define SPM_MODEL                                                                                                      \
    "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,\"<0x0A>\":1,"  \
    "\"\xe2\x96\x81\":2,\"a\":3,\"\xe2\x96\x81"                                                                        \
    "a\":4},\"merges\":[\"\xe2\x96\x81 a\"]}"

static void reads_sentencepiece_like_bpe(void **state) {
    (void)state;
    static const char *const prefixed[] = {
        "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},{"
        "\"type\":\"Replace\","
        "\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]},\"pre_tokenizer\":null," SPM_MODEL "}",
        "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"first\","
        "\"split\":true}," SPM_MODEL "}",
        "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\"}," SPM_MODEL "}",
    };
    static const char *const plain[] = {
        "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" "
        "\"},\"content\":\"\xe2\x96\x81\"},\"pre_tokenizer\":{\"type\":"
        "\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"MergedWithPrevious\"}," SPM_MODEL "}",
        "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"never\"}"
        "," SPM_MODEL "}",
    };
    for (size_t i = 0; i < 3; i++) {
        pr_vocab *v = json_vocab(prefixed[i], NULL);
        assert_string_equal(ids_of(v, "a a\n", 0), "4 4 1");
        pr_vocab_free(v);
    }
    for (size_t i = 0; i < 2; i++) {
        pr_vocab *v = json_vocab(plain[i], NULL);
        assert_string_equal(ids_of(v, "a a\n", 0), "3 4 1");
        pr_vocab_free(v);
    }
}

static const struct {
    const char *json;
    pr_status status;
    const char *words;
} refused_pipelines[] = {
    {"{}", PR_ERR_FORMAT, "model is missing"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", PR_ERR_UNSUPPORTED, "model type \"Unigram\""},
    {"{\"model\":{\"type\":\"WordPiece\"}}", PR_ERR_UNSUPPORTED, "model type \"WordPiece\""},
    {"{\"model\":{\"vocab\":{\"a\":0}}}", PR_ERR_UNSUPPORTED, "model type \"(none)\""},
    {"{" BYTE_LEVEL ",\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\"}}", PR_ERR_UNSUPPORTED,
     "end_of_word_suffix"},
    {"{" BYTE_LEVEL ",\"model\":{\"type\":\"BPE\",\"merges\":[]}}", PR_ERR_FORMAT, "model.vocab is missing"},
    {"{" BYTE_LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", PR_ERR_FORMAT, "model.merges is missing"},
    {"{" BYTE_LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", PR_ERR_FORMAT, "no tokens"},
    {"{" BYTE_LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":2},\"merges\":[]}}", PR_ERR_FORMAT,
     "\"b\" has no id from 0 to 1"},
    {"{" BYTE_LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", PR_ERR_FORMAT,
     "\"a\" has no id"},
    {"{" BYTE_LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":9223372036854775807},\"merges\":[]}}", PR_ERR_FORMAT,
     "\"a\" has no id"},
    {"{" BYTE_LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"x\"},\"merges\":[]}}", PR_ERR_FORMAT,
     "\"a\" has no id"},
    {"{" BYTE_LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", PR_ERR_FORMAT,
     "have the same id 0"},
    {"{\"added_tokens\":[{\"id\":0,\"content\":\"a\"},{\"id\":2,\"content\":\"c\"}]," BYTE_LEVEL
     ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}",
     PR_ERR_FORMAT, "no token has the id 1"},
    {"{\"added_tokens\":[{\"id\":9,\"content\":\"c\"}]," BYTE_LEVEL "," MODEL "}", PR_ERR_FORMAT,
     "\"c\" has no id from 0 to 5"},
    {"{\"added_tokens\":[{\"id\":5}]," BYTE_LEVEL "," MODEL "}", PR_ERR_FORMAT, "added_tokens[0] has no content"},
    {"{\"added_tokens\":7," BYTE_LEVEL "," MODEL "}", PR_ERR_FORMAT, "added_tokens must be a list"},
    {"{" BYTE_LEVEL ",\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[[\"a\"]]}}", PR_ERR_FORMAT, "model.merges[0]"},
    {"{" BYTE_LEVEL ",\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[[\"a b\",\"a\"]]}}", PR_ERR_UNSUPPORTED,
     "model.merges[0]"},
    {"{" BYTE_LEVEL ",\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[3]}}", PR_ERR_FORMAT, "model.merges[0]"},
    {"{\"normalizer\":{\"type\":\"Lowercase\"}," BYTE_LEVEL "," MODEL "}", PR_ERR_UNSUPPORTED,
     "normalizer \"Lowercase\""},
    {"{\"pre_tokenizer\":{\"type\":\"ByteLevel\"}," MODEL "}", PR_ERR_UNSUPPORTED, "add_prefix_space"},
    {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Whitespace\"}]},\"decoder\":{"
     "\"type\":\"ByteLevel\"}," MODEL "}",
     PR_ERR_UNSUPPORTED, "pre_tokenizer \"Whitespace\""},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"MergedWithNext\"},"
     "\"decoder\":{\"type\":\"ByteLevel\"}," MODEL "}",
     PR_ERR_UNSUPPORTED, "behavior \"MergedWithNext\""},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"},\"decoder\":{"
     "\"type\":\"ByteLevel\"}," MODEL "}",
     PR_ERR_UNSUPPORTED, ""},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\"},\"decoder\":{\"type\":\"ByteLevel\"}," MODEL
     "}",
     PR_ERR_FORMAT, "Split without pattern"},
    {"{" MODEL "}", PR_ERR_UNSUPPORTED, "neither ByteLevel nor"},
    {"{\"pre_tokenizer\":{\"type\":\"Digits\"}," SPM_MODEL "}", PR_ERR_UNSUPPORTED, "pre_tokenizer \"Digits\""},
#define TEMPLATE(items)                                                                                                \
    "{\"added_tokens\":[{\"id\":5,\"content\":\"<s>\"}],\"post_processor\":{\"type\":\"TemplateProcessing\","          \
    "\"single\":[" items "]}," BYTE_LEVEL "," MODEL "}"
#define SPECIAL(text) "{\"SpecialToken\":{\"id\":\"" text "\"}}"
    {TEMPLATE(SPECIAL("<x>")), PR_ERR_FORMAT, "post_processor adds \"<x>\""},
    {TEMPLATE(SPECIAL("<s>") "," SPECIAL("a")), PR_ERR_UNSUPPORTED, "post_processor that adds \"a\""},
    {TEMPLATE("{\"Sequence\":{}}," SPECIAL("a") "," SPECIAL("a")), PR_ERR_UNSUPPORTED,
     "post_processor that adds \"a\""},
#undef SPECIAL
#undef TEMPLATE
    {"{\"post_processor\":{\"type\":\"BertProcessing\"}," BYTE_LEVEL "," MODEL "}", PR_ERR_UNSUPPORTED,
     "post_processor \"BertProcessing\""},
};

/* Pipelines as an independent implementation runs them: test/goldens/tokenizers/, by tools/goldens/pipelines.py. */
static void runs_pipelines_as_the_reference(void **state) {
    (void)state;
    static const char *const names[] = {"gpt2",    "llama3", "removed", "deepseek", "falcon",
                                        "strings", "whole",  "prepend", "gemma",    "metaspace"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char file_path[64];
        json_t *golden;
        pr_vocab *v;
        pr_err err = {0};
        snprintf(file_path, sizeof file_path, "test/goldens/tokenizers/%s.json", names[i]);
        if (pr_json_load(file_path, 1 << 20, &golden, &err) != PR_OK) fail_msg("%s", err.text);
        pr__vocab_json in = {.tokenizer = json_object_get(golden, "tokenizer"), .bos_id = -1, .eos_id = -1};
        if (pr__vocab_from_json(&in, &v, &err) != PR_OK) fail_msg("%s: %s", names[i], err.text);
        const json_t *texts = json_object_get(golden, "texts"), *all_ids = json_object_get(golden, "ids");
        assert_true(json_array_size(texts) > 5);
        for (size_t k = 0; k < json_array_size(texts); k++) {
            const json_t *ids = json_array_get(all_ids, k);
            const char *text = json_string_value(json_array_get(texts, k));
            pr_str want = {0};
            pr_str_puts(&want, "");
            for (size_t j = 0; j < json_array_size(ids); j++) {
                pr_str_printf(&want, "%s%lld", j ? " " : "", (long long)json_integer_value(json_array_get(ids, j)));
            }
            const char *got = ids_of(v, text, 0);
            if (strcmp(got, want.len ? want.data : "") != 0) {
                fail_msg("%s, \"%s\": %s, not %s", names[i], text, got, want.data);
            }
            pr_str_free(&want);
        }
        pr_vocab_free(v);
        json_decref(golden);
    }
}

static void refuses_other_pipelines(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refused_pipelines / sizeof *refused_pipelines; i++) {
        pr_vocab *v;
        pr_err err = {0};
        size_t before = pr_mem_total();
        pr_status status = from_json(refused_pipelines[i].json, NULL, &v, &err);
        if (status != refused_pipelines[i].status || !strstr(err.text, refused_pipelines[i].words)) {
            fail_msg("case %zu wanted %s with \"%s\", got %s: %s", i, pr_status_name(refused_pipelines[i].status),
                     refused_pipelines[i].words, pr_status_name(status), err.text);
        }
        assert_null(v);
        assert_int_equal(pr_mem_total(), before);
    }
}

static void deep_sequences_are_refused(void **state) {
    (void)state;
    pr_str s = {0};
    pr_vocab *v;
    pr_err err = {0};
    pr_str_puts(&s, "{\"normalizer\":");
    for (int i = 0; i < 20; i++) pr_str_puts(&s, "{\"type\":\"Sequence\",\"normalizers\":[");
    for (int i = 0; i < 20; i++) pr_str_puts(&s, "]}");
    pr_str_puts(&s, "," BYTE_LEVEL "," MODEL "}");
    assert_int_equal(from_json(s.data, NULL, &v, &err), PR_ERR_LIMIT);
    pr_str_free(&s);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    pr_model_file *f = vocab_file(true, say_everything);
    for (int what = 0; what < 2; what++) {
        for (int64_t n = 0;; n++) {
            pr_vocab *v = NULL;
            char *chat_template = NULL;
            pr_err err = {0};
            size_t before = pr_mem_total();
            pr_mem_fail_after(n, false);
            pr_status status = what ? from_json("{" BYTE_LEVEL "," MODEL "}", "{\"a\":1}", &v, &err)
                                    : pr__vocab_load(f, NULL, &v, &chat_template, &err);
            bool failed = pr_mem_failed();
            pr_mem_fail_after(-1, false);
            pr_vocab_free(v);
            pr_free(chat_template);
            assert_int_equal(pr_mem_total(), before);
            if (status != PR_OK && status != PR_ERR_NOMEM) fail_msg("allocation %lld: %s", (long long)n, err.text);
            if (!failed) {
                assert_int_equal(status, PR_OK);
                break;
            }
            assert_true(n < 2000);
        }
    }
    pr_model_file_close(f);
}

/* ---- real vocabularies ---- */

/* The conformance vectors of a vocabulary: texts between marks in .inp, their ids line by line in .out. */
static void check_vectors(const char *name) {
    static const char mark[] = "\n__ggml_vocab_test__\n";
    char file_path[64], *inp, *out, *chat_template;
    size_t len;
    pr_model_file *f;
    pr_err err = {0};
    snprintf(file_path, sizeof file_path, "vocab/%s.gguf", name);
    char full[512], side[560];
    if (!shared_path(full, sizeof full, file_path)) skip();
    if (pr_model_file_open(full, &f, &err) != PR_OK) fail_msg("%s", err.text);
    pr_vocab *v = loaded(f, &chat_template);
    full[strlen(full) - 5] = '\0';
    snprintf(side, sizeof side, "%s.inp", full);
    assert_int_equal(pr_file_slurp(side, 1 << 20, &inp, &len, &err), PR_OK);
    snprintf(side, sizeof side, "%s.out", full);
    assert_int_equal(pr_file_slurp(side, 1 << 20, &out, &len, &err), PR_OK);
    char *text = inp, *line = out;
    int n_texts = 0;
    for (char *next; text && *line; text = next, n_texts++) {
        char *end = strstr(text, mark), *line_end = strchr(line, '\n');
        next = end ? end + strlen(mark) : NULL;
        if (end) *end = '\0';
        if (line_end) *line_end = '\0';
        while (*line == ' ') line++;
        char *tail = line + strlen(line);
        while (tail > line && tail[-1] == ' ') *--tail = '\0';
        const char *got = ids_of(v, text, 0);
        if (strcmp(got, line) != 0) fail_msg("%s, text %d \"%s\": %s, not %s", name, n_texts, text, got, line);
        line = line_end ? line_end + 1 : tail;
    }
    assert_true(n_texts > 30);
    pr_free(inp);
    pr_free(out);
    pr_free(chat_template);
    pr_vocab_free(v);
    pr_model_file_close(f);
}

static void agrees_with_conformance_vectors(void **state) {
    (void)state;
    static const char *const names[] = {"falcon", "gpt-2", "llama-spm", "phi-3", "starcoder"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_vectors(names[i]);
}

static void folder_and_gguf_agree(void **state) {
    (void)state;
    static const char *const texts[] = {"Once upon a time, there was a little girl.", "\"No!\" said Tim.\n\nThe end",
                                        "caf\xc3\xa9 42"};
    char st_path[512], gguf_path[512], *none;
    pr_model_file *st, *gguf;
    pr_err err = {0};
    if (!shared_path(st_path, sizeof st_path, "models/tinystories-656k")) skip();
    if (!shared_path(gguf_path, sizeof gguf_path, "models/tinystories-656k/tinystories-656k-f32.gguf")) skip();
    if (pr_model_file_open(st_path, &st, &err) != PR_OK) fail_msg("%s", err.text);
    if (pr_model_file_open(gguf_path, &gguf, &err) != PR_OK) fail_msg("%s", err.text);
    pr_vocab *a = loaded(st, &none), *b = loaded(gguf, &none);
    assert_int_equal(pr_vocab_size(a), pr_vocab_size(b));
    assert_int_equal(pr_vocab_bos(a), pr_vocab_bos(b));
    assert_int_equal(pr_vocab_eos(a), pr_vocab_eos(b));
    for (size_t i = 0; i < 2; i++) {
        char want[8192];
        snprintf(want, sizeof want, "%s", ids_of(a, texts[i], PR_TOKENIZE_BOS));
        assert_string_equal(ids_of(b, texts[i], PR_TOKENIZE_BOS), want);
    }
    pr_vocab_free(a);
    pr_vocab_free(b);
    pr_model_file_close(st);
    pr_model_file_close(gguf);
}

static void folder_without_tokenizer_is_refused(void **state) {
    (void)state;
    char config[300], tensors[300], *chat_template;
    pr_model_file *f;
    pr_vocab *v;
    pr_err err = {0};
    snprintf(config, sizeof config, "%s/config.json", folder);
    snprintf(tensors, sizeof tensors, "%s/model.safetensors", folder);
    FILE *file = fopen(config, "wb");
    fputs("{}", file);
    fclose(file);
    file = fopen(tensors, "wb");
    fwrite("\2\0\0\0\0\0\0\0{}", 1, 10, file);
    fclose(file);
    assert_int_equal(pr_model_file_open(folder, &f, &err), PR_OK);
    assert_int_equal(pr__vocab_load(f, NULL, &v, &chat_template, &err), PR_ERR_NOTFOUND);
    assert_non_null(strstr(err.text, "tokenizer.json is missing"));
    pr_model_file_close(f);
    unlink(config);
    unlink(tensors);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spm_has_the_usual_defaults),
        cmocka_unit_test(spm_obeys_the_file),
        cmocka_unit_test(bpe_defaults_follow_the_pre_tokenizer),
        cmocka_unit_test(phi3_tokens_swallow_spaces),
        cmocka_unit_test(refuses_bad_gguf_vocabularies),
        cmocka_unit_test(reads_byte_level_bpe),
        cmocka_unit_test(templates_name_bos_and_eos),
        cmocka_unit_test(obeys_add_bos_of_the_config),
        cmocka_unit_test(applies_splits_in_order),
        cmocka_unit_test(reads_sentencepiece_like_bpe),
        cmocka_unit_test(runs_pipelines_as_the_reference),
        cmocka_unit_test(refuses_other_pipelines),
        cmocka_unit_test(deep_sequences_are_refused),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(agrees_with_conformance_vectors),
        cmocka_unit_test(folder_and_gguf_agree),
        cmocka_unit_test(folder_without_tokenizer_is_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
