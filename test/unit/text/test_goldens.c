/*
 * Goldens of tools/text-goldens.py: pieces of every pre-tokenizer pattern, as
 * Onigmo cuts them, and ids of small trained vocabularies, as the tokenizers
 * and sentencepiece packages give them, on texts made to be awkward.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/os.h"
#include "base/str.h"
#include "text/pretok.h"
#include "text/vocab.h"

#define LINES_MAX 200000

typedef struct golden {
    char *data;
    char **lines;
    size_t n;
} golden;

static golden read_golden(const char *name) {
    const char *folder = getenv("PRECIS_GOLDENS"); /* a larger set, made by hand */
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "test/goldens/text", name);
    golden g = {.lines = calloc(LINES_MAX, sizeof *g.lines)};
    size_t len;
    pr_err err = {0};
    if (pr_file_slurp(path, (size_t)1 << 28, &g.data, &len, &err)) fail_msg("%s", err.text);
    for (char *line = g.data, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = '\0';
        if (*line != '#') g.lines[g.n++] = line;
        assert_true(g.n < LINES_MAX);
    }
    return g;
}

static void free_golden(golden *g) {
    pr_free(g->data);
    free(g->lines);
}

/* Decode a word of hex digits in place ("-" is empty); *rest is what follows the next space. */
static pr_text_ref unhex(char *word, char **rest) {
    size_t n = strcspn(word, " ");
    *rest = word + n + (word[n] == ' ');
    pr_text_ref out = {word, 0};
    for (size_t i = 0; i + 1 < n; i += 2) {
        char digits[3] = {word[i], word[i + 1], 0};
        word[out.len++] = (char)strtol(digits, NULL, 16);
    }
    return out;
}

/* ---- pieces ---- */

typedef struct piece_check {
    const char *pre;
    pr_text_ref text;
    char *want; /* lengths still to come */
    size_t at;
} piece_check;

static pr_status check_piece(void *arg, const char *piece, size_t len, pr_err *err) {
    (void)err;
    piece_check *c = arg;
    size_t want = strtoul(c->want, &c->want, 10);
    assert_ptr_equal(piece, c->text.data + c->at);
    if (len != want)
        fail_msg("%s: \"%.*s\": at %zu a piece of %zu bytes, not %zu", c->pre, (int)c->text.len, c->text.data, c->at,
                 len, want);
    c->at += len;
    return PR_OK;
}

static size_t steps_of(const char *name, const pr__pre_step **steps) {
    const pr__pre_entry *entry = pr__pre_find(name);
    assert_non_null(entry);
    *steps = entry->steps;
    size_t n = 0;
    while (entry->steps[n].pattern) n++;
    return n;
}

static void test_pieces(void **state) {
    (void)state;
    golden g = read_golden("pretok.txt");
    pr_text_ref *texts = calloc(g.n, sizeof *texts);
    size_t n_texts = 0, i = 0, n_pre = 0;
    for (char *rest; i < g.n && strncmp(g.lines[i], "text ", 5) == 0; i++)
        texts[n_texts++] = unhex(g.lines[i] + 5, &rest);
    assert_true(n_texts > 10);
    while (i < g.n) {
        assert_memory_equal(g.lines[i], "pre ", 4);
        const char *name = g.lines[i++] + 4;
        const pr__pre_step *steps;
        size_t n_steps = steps_of(name, &steps);
        pr_pretok *p;
        pr_pretok_run *run;
        pr_err err = {0};
        if (pr__pretok_build(steps, n_steps, NULL, &p, &err)) fail_msg("%s", err.text);
        assert_int_equal(pr__pretok_run_open(p, &run, NULL), PR_OK);
        for (size_t k = 0; k < n_texts; k++, i++) {
            piece_check c = {.pre = name, .text = texts[k], .want = g.lines[i]};
            if (pr__pretok_split(run, texts[k].data, texts[k].len, check_piece, &c, &err)) fail_msg("%s", err.text);
            assert_int_equal(c.at, texts[k].len);
        }
        pr__pretok_run_close(run);
        pr__pretok_free(p);
        n_pre++;
    }
    assert_true(n_pre > 20);
    free(texts);
    free_golden(&g);
}

/* ---- ids ---- */

typedef struct vocab_lines {
    pr_text_ref *tokens, *merges;
    float *scores;
    uint8_t *attrs;
    char pre[32];
    unsigned flags; /* for pr_tokenize() */
    pr_vocab_spec spec;
} vocab_lines;

static void read_head(vocab_lines *v, const char *line) {
    bool merges = strstr(line, " spm_merges ") != NULL;
    v->spec.kind = strstr(line, " bpe ") ? PR_VOCAB_BPE : merges ? PR_VOCAB_SPM_MERGES : PR_VOCAB_SPM;
    v->spec.bos = v->spec.eos = v->spec.unk = v->spec.pad = v->spec.eot = -1;
    const char *pre = strstr(line, "pre=");
    if (pre) sscanf(pre, "pre=%31s", v->pre);
    v->spec.pre = v->pre;
    v->spec.ignore_merges = strstr(line, "ignore_merges") != NULL;
    v->spec.add_space_prefix = strstr(line, "space_prefix") != NULL;
    v->spec.escape_whitespaces = strstr(line, "escape") != NULL;
    v->spec.remove_extra_whitespaces = strstr(line, "squeeze") != NULL;
    if (strstr(line, "unk=0")) v->spec.unk = 0;
    if (strstr(line, "special")) v->flags = PR_TOKENIZE_SPECIAL;
}

/* Read one vocabulary from line *i on, up to its cases. */
static pr_vocab *read_vocab(golden *g, size_t *i, vocab_lines *v) {
    memset(v, 0, sizeof *v);
    v->tokens = calloc(g->n, sizeof *v->tokens);
    v->merges = calloc(g->n, sizeof *v->merges);
    v->scores = calloc(g->n, sizeof *v->scores);
    v->attrs = calloc(g->n, 1);
    read_head(v, g->lines[(*i)++]);
    for (; strncmp(g->lines[*i], "token ", 6) == 0; (*i)++) {
        char *rest;
        size_t n = v->spec.n_tokens++;
        v->tokens[n] = unhex(g->lines[*i] + 6, &rest);
        v->scores[n] = strtof(rest, &rest);
        v->attrs[n] = (uint8_t)strtoul(rest, NULL, 10);
    }
    for (; strncmp(g->lines[*i], "merge ", 6) == 0; (*i)++) {
        char *rest;
        pr_text_ref left = unhex(g->lines[*i] + 6, &rest), right = unhex(rest, &rest);
        char *joined = g->lines[*i] + 6;
        joined[left.len] = ' ';
        memmove(joined + left.len + 1, right.data, right.len);
        v->merges[v->spec.n_merges++] = (pr_text_ref){joined, left.len + 1 + right.len};
    }
    v->spec.tokens = v->tokens;
    v->spec.merges = v->merges;
    v->spec.scores = v->scores;
    v->spec.attrs = v->attrs;
    pr_vocab *vocab;
    pr_err err = {0};
    if (pr_vocab_build(&v->spec, &vocab, &err)) fail_msg("%s", err.text);
    return vocab;
}

static void check_ids(const pr_vocab *vocab, const vocab_lines *v, pr_text_ref text, const char *want) {
    static int32_t ids[4096];
    size_t n;
    pr_err err = {0};
    if (pr_tokenize(vocab, text.data, text.len, v->flags, ids, 4096, &n, &err)) fail_msg("%s", err.text);
    pr_str got = {0};
    for (size_t k = 0; k < n; k++) pr_str_printf(&got, k ? " %d" : "%d", (int)ids[k]);
    pr_str_puts(&got, "");
    if (strcmp(got.data ? got.data : "", want) != 0)
        fail_msg("kind %d, text \"%.*s\"\n  got %s\n want %s", (int)v->spec.kind, (int)text.len, text.data, got.data,
                 want);
    pr_str_free(&got);
}

static void test_ids(void **state) {
    (void)state;
    golden g = read_golden("vocab.txt");
    size_t n_vocabs = 0;
    for (size_t i = 0; i < g.n; n_vocabs++) {
        vocab_lines v;
        pr_vocab *vocab = read_vocab(&g, &i, &v);
        size_t n_cases = 0;
        for (; i < g.n && strncmp(g.lines[i], "case ", 5) == 0; i++, n_cases++) {
            char *want;
            pr_text_ref text = unhex(g.lines[i] + 5, &want);
            check_ids(vocab, &v, text, want);
        }
        assert_true(n_cases > 5);
        pr_vocab_free(vocab);
        free(v.tokens);
        free(v.merges);
        free(v.scores);
        free(v.attrs);
    }
    assert_int_equal(n_vocabs, 6);
    free_golden(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pieces), cmocka_unit_test(test_ids)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
