/*
 * Tokenizers on vocabularies small enough to reason about: what each rule does,
 * what happens at the edges, and that every allocation may fail.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/str.h"
#include "support/sanitized.h"
#include "text/internal.h"

#define MARK      "\xe2\x96\x81"
#define N_LETTERS 256

/* A vocabulary under construction: texts are kept in a pool. */
typedef struct maker {
    pr_vocab_spec spec;
    pr_text_ref tokens[600], merges[64];
    float scores[600];
    uint8_t attrs[600];
    char pool[16384];
    size_t used;
} maker;

static pr_text_ref keep(maker *m, const char *text, size_t len) {
    char *at = m->pool + m->used;
    assert_true(m->used + len < sizeof m->pool);
    memcpy(at, text, len);
    m->used += len;
    return (pr_text_ref){at, len};
}

static int32_t token(maker *m, const char *text, float score, uint8_t attr) {
    size_t id = m->spec.n_tokens++;
    m->tokens[id] = keep(m, text, strlen(text));
    m->scores[id] = score;
    m->attrs[id] = attr;
    return (int32_t)id;
}

static void merge(maker *m, const char *pair) { m->merges[m->spec.n_merges++] = keep(m, pair, strlen(pair)); }

static void start(maker *m, pr_vocab_kind kind) {
    memset(m, 0, sizeof *m);
    m->spec = (pr_vocab_spec){.kind = kind,
                              .tokens = m->tokens,
                              .merges = m->merges,
                              .scores = m->scores,
                              .attrs = m->attrs,
                              .bos = -1,
                              .eos = -1,
                              .unk = -1,
                              .pad = -1,
                              .eot = -1,
                              .escape_whitespaces = true};
}

/* The 256 letters (id = byte), then a few merged tokens and special ones. */
enum { HE = N_LETTERS, LL, HELL, HELLO, SPACE_A, BOS, EOS, EOT_LONG, USER, STRIP };

static void start_bpe(maker *m, const char *pre) {
    start(m, PR_VOCAB_BPE);
    m->spec.pre = pre;
    for (int b = 0; b < N_LETTERS; b++) {
        char letter[3] = {0};
        pr__alphabet_encode((unsigned char)b, letter);
        assert_int_equal(token(m, letter, 0, 0), b);
    }
    assert_int_equal(token(m, "he", 0, 0), HE);
    token(m, "ll", 0, 0);
    token(m, "hell", 0, 0);
    token(m, "hello", 0, 0);
    token(m,
          "\xc4\xa0"
          "a",
          0, 0); /* the letter of the space, then a */
    m->spec.bos = token(m, "<s>", 0, PR_TOKEN_CONTROL);
    m->spec.eos = token(m, "<e>", 0, PR_TOKEN_CONTROL);
    token(m, "<e><long>", 0, PR_TOKEN_CONTROL);
    token(m, "<user>", 0, PR_TOKEN_USER_DEFINED);
    token(m, "<strip>", 0, PR_TOKEN_CONTROL | PR_TOKEN_LSTRIP | PR_TOKEN_RSTRIP);
    merge(m, "l l");
    merge(m, "h e");
    merge(m, "he ll");
    merge(m, "hell o");
    merge(m, "\xc4\xa0 a");
    merge(m, "no token"); /* left out */
}

static pr_vocab *build(const maker *m) {
    pr_vocab *v = NULL;
    pr_err err = {0};
    if (pr_vocab_build(&m->spec, &v, &err)) fail_msg("%s", err.text);
    return v;
}

static void expect_len(const pr_vocab *v, const char *text, size_t len, unsigned flags, const char *want) {
    int32_t ids[256];
    size_t n;
    pr_err err = {0};
    if (pr_tokenize(v, text, len, flags, ids, 256, &n, &err)) fail_msg("%s", err.text);
    pr_str got = {0};
    pr_str_puts(&got, "");
    for (size_t i = 0; i < n; i++) pr_str_printf(&got, i ? " %d" : "%d", (int)ids[i]);
    assert_string_equal(got.data ? got.data : "", want);
    pr_str_free(&got);
}

static void expect(const pr_vocab *v, const char *text, unsigned flags, const char *want) {
    expect_len(v, text, strlen(text), flags, want);
}

static maker m; /* too large for the stack of a test */

/* ---- byte-level BPE ---- */

static void test_bpe_merges_by_rank(void **state) {
    (void)state;
    start_bpe(&m, "gpt-2");
    pr_vocab *v = build(&m);
    expect(v, "", 0, "");
    expect(v, "hello", 0, "259");
    expect(v, "hellx", 0, "258 120");
    expect(v, "llll", 0, "257 257");
    expect(v, "lllll", 0, "257 257 108"); /* the leftmost of equals first */
    expect(v, "helo", 0, "256 108 111");
    expect(v, "x a", 0, "120 260");
    expect(v, "x  a", 0, "120 32 260"); /* the first space is a word of its own */
    pr_vocab_free(v);
}

static void test_ignore_merges(void **state) {
    (void)state;
    start_bpe(&m, "gpt-2");
    int32_t word = token(&m, "zebra", 0, 0); /* no merge makes it */
    token(&m, "quagga", 0, PR_TOKEN_CONTROL);
    pr_vocab *v = build(&m);
    expect(v, "zebra", 0, "122 101 98 114 97");
    pr_vocab_free(v);
    m.spec.ignore_merges = true;
    v = build(&m);
    char want[16];
    snprintf(want, sizeof want, "%d", (int)word);
    expect(v, "zebra", 0, want);
    expect(v, "zebras", 0, "122 101 98 114 97 115");
    expect(v, "quagga", 0, "113 117 97 103 103 97"); /* a control token is never text */
    pr_vocab_free(v);
    m.spec.ignore_merges = false;
    m.spec.pre = "llama-bpe"; /* implies it */
    v = build(&m);
    expect(v, "zebra", 0, want);
    pr_vocab_free(v);
}

static void test_missing_letters(void **state) {
    (void)state;
    start_bpe(&m, "gpt-2");
    m.tokens['z'] = (pr_text_ref){"", 0};
    pr_vocab *v = build(&m);
    int32_t ids[8];
    size_t n;
    pr_err err = {0};
    assert_int_equal(pr_tokenize(v, "hez", 3, 0, ids, 8, &n, &err), PR_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "0x7a"));
    pr_vocab_free(v);
}

/* ---- special tokens ---- */

static void test_special_tokens(void **state) {
    (void)state;
    start_bpe(&m, "gpt-2");
    pr_vocab *v = build(&m);
    unsigned special = PR_TOKENIZE_SPECIAL;
    expect(v, "<s>", special, "261");
    expect(v, "<s>", 0, "60 115 62");
    expect(v, "he<e>he", special, "256 262 256");
    expect(v, "<e><long>", special, "263"); /* the longest */
    expect(v, "<e><lon", special, "262 60 108 111 110");
    expect(v, "<user>he<e>", 0, "264 256 60 101 62"); /* user-defined ones always */
    expect(v, "<s><s>", special, "261 261");
    expect(v, "<", special, "60");
    expect(v, "<<s>", special, "60 261");
    expect(v, "he \t<strip>\n he", special, "256 265 256");
    expect(v, " <strip> ", special, "265");
    expect(v, " <strip> ", 0, "32 60 115 116 114 105 112 62 32");
    pr_vocab_free(v);
}

static void test_bos_eos_and_room(void **state) {
    (void)state;
    start_bpe(&m, "gpt-2");
    m.spec.add_bos = m.spec.add_eos = true;
    pr_vocab *v = build(&m);
    assert_true(pr_vocab_add_bos(v));
    expect(v, "hello", PR_TOKENIZE_BOS, "261 259 262");
    expect(v, "", PR_TOKENIZE_BOS, "261 262");
    expect(v, "hello", 0, "259");
    int32_t ids[4] = {-7, -7, -7, -7};
    size_t n;
    pr_err err = {0};
    assert_int_equal(pr_tokenize(v, "hello", 5, PR_TOKENIZE_BOS, ids, 2, &n, &err), PR_ERR_LIMIT);
    assert_int_equal(n, 3);
    assert_int_equal(ids[1], 259);
    assert_int_equal(ids[2], -7);
    assert_int_equal(pr_tokenize(v, "hello", 5, 0, NULL, 0, &n, &err), PR_ERR_LIMIT);
    assert_int_equal(n, 1);
    pr_vocab_free(v);
    m.spec.bos = m.spec.eos = -1; /* nothing to add */
    v = build(&m);
    assert_false(pr_vocab_add_bos(v));
    expect(v, "hello", PR_TOKENIZE_BOS, "259");
    pr_vocab_free(v);
}

static void test_end_tokens(void **state) {
    (void)state;
    start_bpe(&m, "gpt-2");
    int32_t end = token(&m, "<|end|>", 0, PR_TOKEN_CONTROL);
    int32_t im_end = token(&m, "<|im_end|>", 0, PR_TOKEN_CONTROL);
    int32_t not_control = token(&m, "<|eot_id|>", 0, PR_TOKEN_USER_DEFINED);
    int32_t eot = token(&m, "<turn>", 0, 0);
    m.spec.eot = eot;
    pr_vocab *v = build(&m);
    assert_true(pr_vocab_is_end(v, EOS));
    assert_true(pr_vocab_is_end(v, end));
    assert_true(pr_vocab_is_end(v, im_end));
    assert_true(pr_vocab_is_end(v, eot));
    assert_false(pr_vocab_is_end(v, not_control));
    assert_false(pr_vocab_is_end(v, BOS));
    assert_false(pr_vocab_is_end(v, 'a'));
    assert_false(pr_vocab_is_end(v, -1));
    assert_false(pr_vocab_is_end(v, 100000));
    pr_vocab_free(v);
    token(&m, "<|return|>", 0, PR_TOKEN_CONTROL);
    token(&m, "<|call|>", 0, PR_TOKEN_CONTROL);
    v = build(&m);
    assert_false(pr_vocab_is_end(v, end)); /* it only closes a message there */
    pr_vocab_free(v);
}

/* ---- pieces and streaming ---- */

static void test_pieces(void **state) {
    (void)state;
    start_bpe(&m, "gpt-2");
    pr_vocab *v = build(&m);
    size_t len;
    for (int b = 0; b < N_LETTERS; b++) {
        const char *piece = pr_vocab_piece(v, b, false, &len);
        assert_int_equal(len, 1);
        assert_int_equal((unsigned char)piece[0], b);
    }
    assert_memory_equal(pr_vocab_piece(v, SPACE_A, false, &len), " a", 2);
    assert_non_null(pr_vocab_piece(v, BOS, false, &len));
    assert_int_equal(len, 0);
    assert_memory_equal(pr_vocab_piece(v, BOS, true, &len), "<s>", 3);
    assert_int_equal(len, 3);
    assert_null(pr_vocab_piece(v, -1, true, &len));
    assert_null(pr_vocab_piece(v, (int32_t)pr_vocab_size(v), true, &len));
    assert_memory_equal(pr_vocab_token(v, SPACE_A, &len),
                        "\xc4\xa0"
                        "a",
                        3);
    assert_int_equal(len, 3);
    assert_int_equal(pr_vocab_find(v, "hello", 5), HELLO);
    assert_int_equal(pr_vocab_find(v, "hallo", 5), -1);
    assert_int_equal(pr_vocab_find(v, "", 0), -1);
    pr_vocab_free(v);
}

/* Push the bytes one token each; after every push the output so far must be whole characters. */
static void expect_stream(const pr_vocab *v, const char *bytes, size_t n, const char *want) {
    pr_detok d;
    pr_detok_init(&d, v, true, false);
    char out[256];
    size_t len = 0, written;
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(pr_detok_push(&d, (unsigned char)bytes[i], out + len, 16, &written, NULL), PR_OK);
        len += written;
        assert_int_equal(pr_utf8_complete(out, len), len);
        for (size_t at = 0; at < len;) {
            int32_t cp;
            at += pr_utf8_decode(out + at, len - at, &cp);
            assert_true(cp >= 0);
        }
    }
    len += pr_detok_finish(&d, out + len);
    assert_int_equal(pr_detok_finish(&d, out + len), 0);
    out[len] = '\0';
    assert_string_equal(out, want);
}

#define BAD "\xef\xbf\xbd"

static void test_streaming(void **state) {
    (void)state;
    start_bpe(&m, "gpt-2");
    pr_vocab *v = build(&m);
    expect_stream(v, "a\xc3\xa9\xe2\x82\xac\xf0\x9f\xa6\x99z", 11, "a\xc3\xa9\xe2\x82\xac\xf0\x9f\xa6\x99z");
    expect_stream(v, "\xf0\x9f\xa6", 3, BAD);                /* ends too early */
    expect_stream(v, "\xf0\x9f\xa6x", 4, BAD "x");           /* goes on wrongly */
    expect_stream(v, "\xf0\x9f\xc3\xa9", 4, BAD "\xc3\xa9"); /* a new character begins */
    expect_stream(v, "\x80\xff\xc0y", 4, BAD BAD BAD "y");
    expect_stream(v, "\xed\xa0\x80", 3, BAD BAD BAD); /* a surrogate: no second byte fits */
    expect_stream(v, "\xf4\x90\x80\x80", 4, BAD BAD BAD BAD);
    expect_stream(v, "\xe0\x80", 2, BAD BAD);

    pr_detok d;
    pr_detok_init(&d, v, true, false);
    char out[16];
    size_t len;
    pr_err err = {0};
    assert_int_equal(pr_detok_push(&d, HELLO, out, 4, &len, &err), PR_ERR_LIMIT);
    assert_int_equal(pr_detok_push(&d, HELLO, out, 5, &len, &err), PR_OK); /* nothing was lost */
    assert_memory_equal(out, "hello", 5);
    assert_int_equal(pr_detok_push(&d, -3, out, 16, &len, &err), PR_ERR_ARG);
    assert_int_equal(pr_detok_push(&d, BOS, out, 16, &len, &err), PR_OK);
    assert_int_equal(len, 0);
    pr_detok_init(&d, v, true, true);
    assert_int_equal(pr_detok_push(&d, BOS, out, 16, &len, &err), PR_OK);
    assert_int_equal(len, 3);
    pr_vocab_free(v);
}

/* Any bytes come back, whatever the pre-tokenizer; and so do they streamed, but for what is not UTF-8. */
static void test_any_bytes(void **state) {
    (void)state;
    static const char *const pres[] = {"default", "gpt-2",    "llama-bpe", "deepseek-llm",
                                       "gpt-4o",  "tiny_aya", "superbpe"};
    static const char text[] = "he\xff\xfe hello\x80 \xf0\x9f\xa6\x99\xf0\x9f 12345\xed\xa0\x80 <s>\0hello\xc3";
    for (size_t p = 0; p < sizeof pres / sizeof *pres; p++) {
        start_bpe(&m, pres[p]);
        pr_vocab *v = build(&m);
        int32_t ids[128];
        size_t n, len, at = 0;
        assert_int_equal(pr_tokenize(v, text, sizeof text - 1, 0, ids, 128, &n, NULL), PR_OK);
        for (size_t i = 0; i < n; i++) {
            const char *piece = pr_vocab_piece(v, ids[i], true, &len);
            assert_memory_equal(piece, text + at, len);
            at += len;
        }
        assert_int_equal(at, sizeof text - 1);
        pr_vocab_free(v);
    }
    start_bpe(&m, "gpt-2");
    pr_vocab *v = build(&m);
    expect_len(v, "l\xffl\xc3ll", 6, 0, "108 255 108 195 257"); /* a bad byte is a word of its own */
    pr_vocab_free(v);
}

/* ---- SentencePiece ---- */

static void start_spm(maker *mk, pr_vocab_kind kind) {
    start(mk, kind);
    mk->spec.unk = token(mk, "<unk>", 0, PR_TOKEN_UNKNOWN);
    mk->spec.bos = token(mk, "<s>", 0, PR_TOKEN_CONTROL);
    mk->spec.eos = token(mk, "</s>", 0, PR_TOKEN_CONTROL);
    token(mk, MARK, -1, 0);     /* 3 */
    token(mk, "a", -2, 0);      /* 4 */
    token(mk, "b", -3, 0);      /* 5 */
    token(mk, "ab", -4, 0);     /* 6 */
    token(mk, MARK "a", -5, 0); /* 7 */
    token(mk, "bb", -6, 0);     /* 8 */
    token(mk, "s", -7, 0);      /* 9 */
    token(mk, "<", -7, 0);      /* 10 */
    token(mk, ">", -7, 0);      /* 11 */
    token(mk, "<s", -1, 0);     /* 12 */
    mk->spec.add_space_prefix = true;
}

static void test_spm_scores(void **state) {
    (void)state;
    start_spm(&m, PR_VOCAB_SPM);
    pr_vocab *v = build(&m);
    expect(v, "", 0, "");
    expect(v, "ab", 0, "3 6"); /* ab scores more than _a */
    expect(v, "a", 0, "7");
    expect(v, " a", 0, "3 7");
    expect(v, "bbb", 0, "3 8 5"); /* leftmost of equals */
    expect(v, "abb", 0, "3 6 5");
    expect(v, "a<s>b", 0, "7 12 11 5");                          /* a control token is never made of text */
    expect(v, "a<s>b</s>a", PR_TOKENIZE_SPECIAL, "7 1 3 5 2 7"); /* a prefix after each special token */
    expect(v, "a<s>", PR_TOKENIZE_SPECIAL, "7 1");
    expect(v, "xyb\xc3\xa9", 0, "3 0 5 0"); /* unknown characters: one token a run */
    pr_vocab_free(v);
    m.spec.add_space_prefix = false;
    v = build(&m);
    expect(v, "ab a", 0, "6 7");
    pr_vocab_free(v);
    m.spec.unk = -1;
    v = build(&m);
    int32_t ids[8];
    size_t n;
    pr_err err = {0};
    assert_int_equal(pr_tokenize(v, "ax", 2, 0, ids, 8, &n, &err), PR_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "\"x\""));
    pr_vocab_free(v);
}

static void test_spm_bytes(void **state) {
    (void)state;
    start_spm(&m, PR_VOCAB_SPM);
    int32_t first = -1;
    for (int b = 0; b < 256; b++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        int32_t id = token(&m, text, 0, PR_TOKEN_BYTE);
        if (b == 0) first = id;
    }
    pr_vocab *v = build(&m);
    char want[64];
    snprintf(want, sizeof want, "7 %d %d 5 %d", first + 0xc3, first + 0xa9, first + 0xff);
    expect(v,
           "a\xc3\xa9"
           "b\xff",
           0, want);
    snprintf(want, sizeof want, "3 10 %d %d %d %d 11", first + '0', first + 'x', first + '4', first + '1');
    expect(v, "<0x41>", 0, want); /* text that looks like a byte token is text */
    size_t len;
    assert_int_equal(pr_vocab_piece(v, first + 0xa9, false, &len)[0], '\xa9');
    assert_int_equal(len, 1);
    pr_detok d;
    pr_detok_init(&d, v, true, false);
    char out[64];
    size_t n = 0;
    const int32_t ids[] = {1, 7, first + 0xc3, first + 0xa9, 7, 3};
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(pr_detok_push(&d, ids[i], out + n, 32, &len, NULL), PR_OK);
        n += len;
    }
    assert_int_equal(n, 6);
    assert_memory_equal(out, "a\xc3\xa9 a ", 6); /* the first piece loses its space, the others do not */
    pr_vocab_free(v);
}

static void test_spm_extra_spaces(void **state) {
    (void)state;
    start_spm(&m, PR_VOCAB_SPM);
    m.spec.remove_extra_whitespaces = true;
    pr_vocab *v = build(&m);
    expect(v, "  a   a ", 0, "7 7");
    expect(v, "   ", 0, "");
    pr_vocab_free(v);
    m.spec.remove_extra_whitespaces = false;
    v = build(&m);
    expect(v, "  a   a ", 0, "3 3 7 3 3 7 3");
    pr_vocab_free(v);
}

/* Tokens that hold a mark behind another character keep the text from being cut there. */
static void test_spm_tokens_over_marks(void **state) {
    (void)state;
    start_spm(&m, PR_VOCAB_SPM);
    m.spec.add_space_prefix = false;
    int32_t over = token(&m, "b" MARK, -.5F, 0), longer = token(&m, "b" MARK "a", -.4F, 0);
    int32_t marks = token(&m, MARK MARK, -.3F, 0);
    pr_vocab *v = build(&m);
    char want[64];
    snprintf(want, sizeof want, "%d", longer);
    expect(v, "b a", 0, want);
    snprintf(want, sizeof want, "4 3 6 %d", marks); /* no token holds a mark behind an a: cut there */
    expect(v, "a ab  ", 0, want);
    snprintf(want, sizeof want, "%d 5", over);
    expect(v, "b b", 0, want);
    pr_vocab_free(v);
}

static void test_spm_merges(void **state) {
    (void)state;
    start_spm(&m, PR_VOCAB_SPM_MERGES);
    merge(&m, MARK " a");
    merge(&m, "a b");
    merge(&m, "b b");
    pr_vocab *v = build(&m);
    expect(v, "ab", 0, "7 5"); /* by rank, not by score */
    expect(v, "bab", 0, "3 5 6");
    expect(v, "xyab", 0, "3 0 6");
    pr_vocab_free(v);
    const char *const patterns[] = {"b+"};
    m.spec.pre_patterns = patterns;
    m.spec.n_pre_patterns = 1;
    v = build(&m);
    expect(v, "abbab", 0, "7 8 4 5");
    pr_vocab_free(v);
}

/* ---- patterns ---- */

static void test_explicit_patterns(void **state) {
    (void)state;
    start_bpe(&m, "no such thing");
    const char *const patterns[] = {"[0-9]", "\\s"};
    m.spec.pre_patterns = patterns;
    m.spec.n_pre_patterns = 2;
    pr_vocab *v = build(&m);
    expect(v, "hello1hello ll l", 0, "259 49 259 32 257 32 108");
    expect(v, "x a", 0, "120 32 97"); /* "_a" is cut apart */
    pr_vocab_free(v);
}

static void expect_no_build(pr_status status, const char *says) {
    pr_vocab *v;
    pr_err err = {0};
    assert_int_equal(pr_vocab_build(&m.spec, &v, &err), status);
    assert_null(v);
    if (!strstr(err.text, says)) fail_msg("\"%s\" does not say \"%s\"", err.text, says);
}

static void test_refusals(void **state) {
    (void)state;
    start_bpe(&m, "no such thing");
    expect_no_build(PR_ERR_UNSUPPORTED, "\"no such thing\"");
    static const char *const bad[] = {"a(b", "[a&&b]", "[a[^b]]", "\\p{NoSuchProperty}", "[abc", "a\\", "\\Cx"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        m.spec.pre_patterns = &bad[i];
        m.spec.n_pre_patterns = 1;
        expect_no_build(PR_ERR_UNSUPPORTED, bad[i]);
    }
    start_bpe(&m, NULL);
    merge(&m, "nospace");
    expect_no_build(PR_ERR_FORMAT, "merge 6 ");
    start_bpe(&m, NULL);
    m.spec.bos = 5000;
    expect_no_build(PR_ERR_FORMAT, "bos token is 5000");
    start(&m, PR_VOCAB_SPM);
    expect_no_build(PR_ERR_FORMAT, "no tokens");
}

static void expect_translation(const char *pattern, const char *want) {
    char *got;
    assert_int_equal(pr__pattern_translate(pattern, &got, NULL), PR_OK);
    assert_string_equal(got, want);
    pr_free(got);
}

static void test_translation(void **state) {
    (void)state;
    expect_translation("a\\s+[^\\s\\S]", "a\\p{White_Space}+[^\\p{White_Space}\\P{White_Space}]");
    expect_translation("\\p{Han}\\p{L}[\\P{^Han}]", "\\p{sc:Han}\\p{L}[\\P{^sc:Han}]");
    expect_translation("[a[bc]]d", "[abc]d");
    expect_translation("[]a][[:alpha:]\\]]", "[]a][[:alpha:]\\]]");
    expect_translation("\\u00e9\\[\\\\s", "\\x{00e9}\\[\\\\s");
}

/* A pattern that cannot be matched in bounded time or memory refuses the text, not the process. */
static void test_hostile_patterns(void **state) {
    (void)state;
    size_t len = 200000;
    char *text = malloc(len);
    static const char *const patterns[] = {"(?:(?:a|b)*c)+", "(a+)+$", "(?:(a)|(b))*+", "((a|b)(?1)?)"};
    start_bpe(&m, NULL);
    m.spec.n_pre_patterns = 1;
    for (size_t p = 0; p < 4; p++) {
        m.spec.pre_patterns = &patterns[p];
        pr_vocab *v = build(&m);
        memset(text, 'a', len);
        text[len - 1] = 'x';
        size_t n;
        pr_err err = {0};
        pr_status status = pr_tokenize(v, text, p == 1 ? 60 : len, 0, NULL, 0, &n, &err);
        if (p == 1) text[59] = 'x', status = pr_tokenize(v, text, 60, 0, NULL, 0, &n, &err);
        assert_int_equal(status, PR_ERR_LIMIT); /* no room for ids, or given up */
        assert_true(n > 0 || strstr(err.text, "gives up"));
        pr_vocab_free(v);
    }
    free(text);
}

/* ---- size ---- */

static void expect_size(const pr_vocab *v, const char *text, size_t len, size_t n_want) {
    size_t n;
    pr_err err = {0};
    if (pr_tokenize(v, text, len, 0, NULL, 0, &n, &err) != PR_ERR_LIMIT || !n) fail_msg("%s", err.text);
    if (n_want) assert_int_equal(n, n_want);
}

static void test_megabyte_words(void **state) {
    (void)state;
    size_t len = TEST_SANITIZED ? 1 << 17 : 1 << 20;
    char *text = malloc(len);
    for (size_t i = 0; i < len; i++) text[i] = "hello"[i % 5];
    start_bpe(&m, "gpt-2");
    pr_vocab *v = build(&m);
    expect_size(v, text, len, len / 5 + 1); /* the last letter is left over */
    memset(text, 'l', len);
    expect_size(v, text, len, len / 2);
    pr_vocab_free(v);
    start_spm(&m, PR_VOCAB_SPM);
    v = build(&m);
    memset(text, 'b', len);
    expect_size(v, text, len, len / 2 + 1);
    memset(text, ' ', len);
    expect_size(v, text, len, len + 1);
    pr_vocab_free(v);
    free(text);
}

/* No pre-tokenizer takes quadratic time: texts that make look-aheads and repeats run far for nothing. */
static void test_long_runs(void **state) {
    (void)state;
    static const char *const units[] = {" ", "\t",           "1",  "A", "a ",       "\xcc\x81", " \n",
                                        "'", "\xe3\x80\x80", "1a", "!", "A\xcc\x81"};
    size_t n_pre, len = TEST_SANITIZED ? 20000 : 300000;
    const pr__pre_entry *pre = pr__pre_all(&n_pre);
    char *text = malloc(len + 8);
    for (size_t p = 0; p < n_pre; p++) {
        if (p > 0 && pre[p].steps == pre[p - 1].steps) continue;
        start_bpe(&m, pre[p].name);
        pr_vocab *v = build(&m);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            size_t n = 0, unit = strlen(units[u]);
            for (; n < len; n += unit) memcpy(text + n, units[u], unit);
            memcpy(text + n, "7", 1);
            expect_size(v, text, n + 1, 0);
        }
        pr_vocab_free(v);
    }
    free(text);
}

/* ---- threads ---- */

static void *tokenize_often(void *arg) {
    const pr_vocab *v = arg;
    static const char text[] = "hello there, llama 12345 <s> \xf0\x9f\xa6\x99\xff";
    int32_t first[64], ids[64];
    size_t n_first, n;
    if (pr_tokenize(v, text, sizeof text - 1, PR_TOKENIZE_SPECIAL, first, 64, &n_first, NULL)) return NULL;
    for (int i = 0; i < 500; i++) {
        if (pr_tokenize(v, text, sizeof text - 1, PR_TOKENIZE_SPECIAL, ids, 64, &n, NULL)) return NULL;
        if (n != n_first || memcmp(ids, first, n * sizeof *ids) != 0) return NULL;
    }
    return arg;
}

static void test_threads_share_a_vocabulary(void **state) {
    (void)state;
    start_bpe(&m, "llama-bpe");
    pr_vocab *v = build(&m);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, tokenize_often, v), 0);
    for (size_t i = 0; i < 4; i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_ptr_equal(result, v);
    }
    pr_vocab_free(v);
}

/* ---- memory ---- */

/* Build and tokenize with the n-th allocation failing, for every n; nothing may leak or crash. */
static void fail_in_turn(const pr_vocab_spec *spec, bool sticky) {
    static const char text[] = "hello <s> ab\xff<user> 12 xyz";
    size_t before = pr_mem_total(), n_right = 0;
    for (int64_t n = 0;; n++) {
        pr_mem_fail_after(n, sticky);
        pr_vocab *v = NULL;
        int32_t ids[64];
        size_t n_ids;
        pr_err err = {0};
        pr_status status = pr_vocab_build(spec, &v, &err);
        if (!status) status = pr_tokenize(v, text, sizeof text - 1, PR_TOKENIZE_SPECIAL, ids, 64, &n_ids, &err);
        bool failed = pr_mem_failed();
        pr_mem_fail_after(-1, false);
        pr_vocab_free(v);
        assert_int_equal(pr_mem_total(), before);
        if (!failed) {
            assert_int_equal(status, PR_OK);
            assert_true(n > 2);
            if (n_right) assert_int_equal(n_ids, n_right);
            return;
        }
        if (!sticky && !status) { /* the JIT was refused its memory: matching was interpreted */
            n_right = n_ids;
            continue;
        }
        assert_int_equal(status, PR_ERR_NOMEM);
        assert_int_equal(err.status, PR_ERR_NOMEM);
    }
}

static void test_out_of_memory(void **state) {
    (void)state;
    start_bpe(&m, "llama-bpe");
    fail_in_turn(&m.spec, true);
    fail_in_turn(&m.spec, false);
    start_spm(&m, PR_VOCAB_SPM);
    fail_in_turn(&m.spec, true);
    const char *const patterns[] = {"a+", "b"};
    start_spm(&m, PR_VOCAB_SPM_MERGES);
    m.spec.pre_patterns = patterns;
    m.spec.n_pre_patterns = 2;
    fail_in_turn(&m.spec, true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bpe_merges_by_rank),
        cmocka_unit_test(test_ignore_merges),
        cmocka_unit_test(test_missing_letters),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_bos_eos_and_room),
        cmocka_unit_test(test_end_tokens),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_streaming),
        cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_spm_scores),
        cmocka_unit_test(test_spm_bytes),
        cmocka_unit_test(test_spm_extra_spaces),
        cmocka_unit_test(test_spm_tokens_over_marks),
        cmocka_unit_test(test_spm_merges),
        cmocka_unit_test(test_explicit_patterns),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_translation),
        cmocka_unit_test(test_hostile_patterns),
        cmocka_unit_test(test_megabyte_words),
        cmocka_unit_test(test_long_runs),
        cmocka_unit_test(test_threads_share_a_vocabulary),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
