/*
 * Fuzz target: any bytes through small vocabularies of every kind.
 *
 * Byte-level vocabularies, one for each family of pre-tokenizer patterns, must
 * give every input back byte for byte, and show it alike however it is cut into
 * tokens. The SentencePiece ones must at least keep their promises about room
 * and memory.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/internal.h"

#define IDS_MAX 65536
#define N_BPE   (sizeof pres / sizeof *pres)

static const char *const pres[] = {
    "default",      "gpt-2",       "smollm",   "falcon",     "llama-bpe",  "qwen2",    "gpt-4o",    "tekken", "kimi-k2",
    "deepseek-llm", "deepseek-v3", "tiny_aya", "exaone-moe", "bailingmoe", "superbpe", "poro-chat", "jais-2",
};

static pr_vocab *bpe[N_BPE], *spm, *spm_merges;

static void check(int ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "fuzz_tokenize: %s\n", what);
    abort();
}

static pr_text_ref ref(const char *text) { return (pr_text_ref){text, strlen(text)}; }

static pr_vocab *build(const pr_vocab_spec *spec) {
    pr_vocab *v;
    pr_err err = {0};
    if (pr_vocab_build(spec, &v, &err)) check(0, err.text);
    return v;
}

static void build_bpe(void) {
    static char letters[256][4];
    static pr_text_ref tokens[300];
    static uint8_t attrs[300];
    static const char *const words[] = {"th", "the", "\xc4\xa0t",        "\xc4\xa0the",
                                        "in", "12",  "\xc3\xa2\xc4\xa2", "\xc4\xa0\xc4\xa0"};
    static const char *const merges[] = {"t h", "th e", "\xc4\xa0 t",        "\xc4\xa0t he",     "\xc4\xa0 the",
                                         "i n", "1 2",  "\xc3\xa2 \xc4\xa2", "\xc4\xa0 \xc4\xa0"};
    pr_text_ref merge_refs[sizeof merges / sizeof *merges];
    size_t n = 0;
    for (; n < 256; n++) tokens[n] = (pr_text_ref){letters[n], pr__alphabet_encode((unsigned char)n, letters[n])};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) tokens[n++] = ref(words[i]);
    attrs[n] = PR_TOKEN_CONTROL;
    tokens[n++] = ref("<s>");
    attrs[n] = PR_TOKEN_CONTROL;
    tokens[n++] = ref("<s><long>");
    attrs[n] = PR_TOKEN_USER_DEFINED;
    tokens[n++] = ref("<user>");
    attrs[n] = PR_TOKEN_USER_DEFINED;
    tokens[n++] = ref("   ");
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) merge_refs[i] = ref(merges[i]);
    pr_vocab_spec spec = {.kind = PR_VOCAB_BPE,
                          .n_tokens = n,
                          .tokens = tokens,
                          .attrs = attrs,
                          .merges = merge_refs,
                          .n_merges = sizeof merges / sizeof *merges,
                          .bos = 264,
                          .eos = -1,
                          .unk = -1,
                          .pad = -1,
                          .eot = -1,
                          .add_bos = true};
    for (size_t i = 0; i < N_BPE; i++) {
        spec.pre = pres[i];
        bpe[i] = build(&spec);
    }
}

static void build_spm(void) {
    /* U+2581 written out: joined strings in a list look like a forgotten comma */
    static const char *const words[] = {"<unk>",
                                        "<s>",
                                        "</s>",
                                        "\xe2\x96\x81",
                                        "t",
                                        "h",
                                        "e",
                                        "\xe2\x96\x81t",
                                        "th",
                                        "the",
                                        "\xe2\x96\x81the",
                                        "e\xe2\x96\x81",
                                        "\xe2\x96\x81\xe2\x96\x81",
                                        "\xc3\xa9"};
    static const char *const merges[] = {"t h", "th e", "\xe2\x96\x81 t", "\xe2\x96\x81 the", "e \xe2\x96\x81"};
    enum { N_WORDS = sizeof words / sizeof *words, N_MERGES = sizeof merges / sizeof *merges };
    static char bytes[256][8];
    pr_text_ref tokens[N_WORDS + 256], merge_refs[N_MERGES];
    uint8_t attrs[N_WORDS + 256] = {PR_TOKEN_UNKNOWN, PR_TOKEN_CONTROL, PR_TOKEN_CONTROL};
    float scores[N_WORDS + 256] = {0};
    for (size_t i = 0; i < N_WORDS; i++) {
        tokens[i] = ref(words[i]);
        scores[i] = -(float)(i * 7 % 5);
    }
    for (size_t b = 0; b < 256; b++) {
        snprintf(bytes[b], sizeof bytes[b], "<0x%02X>", (unsigned)b);
        tokens[N_WORDS + b] = ref(bytes[b]);
    }
    for (size_t i = 0; i < N_MERGES; i++) merge_refs[i] = ref(merges[i]);
    pr_vocab_spec spec = {.kind = PR_VOCAB_SPM,
                          .n_tokens = N_WORDS + 256,
                          .tokens = tokens,
                          .attrs = attrs,
                          .scores = scores,
                          .merges = merge_refs,
                          .n_merges = N_MERGES,
                          .bos = 1,
                          .eos = 2,
                          .unk = 0,
                          .pad = -1,
                          .eot = -1,
                          .add_space_prefix = true,
                          .escape_whitespaces = true};
    spm = build(&spec);
    spec.kind = PR_VOCAB_SPM_MERGES;
    spec.n_tokens = N_WORDS; /* without bytes: unknown characters */
    spm_merges = build(&spec);
}

/* Push every id; the whole output must be valid UTF-8. Returns its length. */
static size_t stream(const pr_vocab *v, const int32_t *ids, size_t n, char *out, size_t cap) {
    pr_detok d;
    pr_detok_init(&d, v, true, true);
    size_t len = 0, room = pr_vocab_piece_max(v) + 8;
    for (size_t i = 0; i < n; i++) {
        size_t written;
        check(cap - len >= room, "output too long");
        check(pr_detok_push(&d, ids[i], out + len, room, &written, NULL) == PR_OK, "pr_detok_push fails");
        len += written;
    }
    return len + pr_detok_finish(&d, out + len);
}

static size_t tokenize(const pr_vocab *v, const char *text, size_t len, unsigned flags, int32_t *ids) {
    size_t n, again;
    pr_err err = {0};
    if (pr_tokenize(v, text, len, flags, ids, IDS_MAX, &n, &err)) check(0, err.text);
    pr_status status = pr_tokenize(v, text, len, flags, NULL, 0, &again, NULL);
    check(again == n && status == (n ? PR_ERR_LIMIT : PR_OK), "counts differ");
    for (size_t i = 0; i < n; i++) check(ids[i] >= 0 && (size_t)ids[i] < pr_vocab_size(v), "an id out of range");
    return n;
}

static void check_bpe(const pr_vocab *v, const char *text, size_t len, unsigned flags) {
    static int32_t ids[IDS_MAX];
    static char out[IDS_MAX * 4], want[IDS_MAX * 4];
    size_t n = tokenize(v, text, len, flags, ids), at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t piece_len;
        const char *piece = pr_vocab_piece(v, ids[i], true, &piece_len);
        check(at + piece_len <= len && memcmp(text + at, piece, piece_len) == 0, "the text does not come back");
        at += piece_len;
    }
    check(at == len, "the text comes back shorter");
    static int32_t bytes[IDS_MAX];
    for (size_t i = 0; i < len; i++) bytes[i] = (unsigned char)text[i];
    size_t by_token = stream(v, ids, n, out, sizeof out), by_byte = stream(v, bytes, len, want, sizeof want);
    check(by_token == by_byte && memcmp(out, want, by_byte) == 0, "shown otherwise when cut otherwise");
}

/* Patterns come from model files: turning one into PCRE2's dialect must end well for any text. */
static void translate(const char *text, size_t len) {
    char *pattern = pr_strndup(PR_TAG_MISC, text, len), *out = NULL;
    pr_err err = {0};
    pr_status status = pr__pattern_translate(pattern, &out, &err);
    check(status == (out ? PR_OK : PR_ERR_UNSUPPORTED), "a pattern is neither translated nor refused");
    pr_free(pattern);
    pr_free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int32_t ids[IDS_MAX];
    static char out[IDS_MAX * 8];
    if (!spm) {
        build_bpe();
        build_spm();
    }
    if (size < 1 || size > 4096) return 0;
    const char *text = (const char *)data + 1;
    unsigned flags = data[0] & 1 ? PR_TOKENIZE_SPECIAL : 0;
    size_t held = pr_mem_total();
    check_bpe(bpe[(data[0] >> 1) % N_BPE], text, size - 1, flags);
    stream(spm, ids, tokenize(spm, text, size - 1, flags | PR_TOKENIZE_BOS, ids), out, sizeof out);
    stream(spm_merges, ids, tokenize(spm_merges, text, size - 1, flags, ids), out, sizeof out);
    translate(text, size - 1);
    check(pr_mem_total() == held, "memory is left over");
    return 0;
}
