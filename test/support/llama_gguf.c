/*
 * Small llama models as GGUF (see llama_gguf.h).
 *
 * Tensors are listed once in a table and walked twice, to describe and to write. Weights are a hash of tensor, index
 * and seed, uniform with the variance that keeps activations of order one, so logits differ from token to token.
 */
#include "support/llama_gguf.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "store/gguf_write.h"
#include "store/quantize.h"

enum { TENSORS_MAX = 256, COLS_MAX = 4096 };

typedef struct tensor {
    char name[48];
    uint32_t cols, rows; /* rows 0: a vector */
    float mean, spread;
    pr_dtype type;
} tensor;

typedef struct writer {
    llama_gguf m;
    pr_gguf_writer *w;
    tensor tensors[TENSORS_MAX];
    uint32_t n_tensors;
} writer;

static void or_default(uint32_t *v, uint32_t fallback) {
    if (*v == 0) *v = fallback;
}

static bool is_out(const writer *w, const char *name) { return w->m.without && strcmp(w->m.without, name) == 0; }

/* ---- tensors ---- */

static pr_dtype type_of(const llama_gguf *m, const tensor *t) {
    pr_dtype type = m->other && strstr(t->name, m->other) ? m->other_type : m->type;
    return t->rows == 0 || t->cols % pr_dtype_get(type)->block_elems ? PR_F32 : type;
}

static void list(writer *w, uint32_t layer, const char *name, uint32_t cols, uint32_t rows, float mean, float spread) {
    assert_true(w->n_tensors < TENSORS_MAX);
    tensor *t = &w->tensors[w->n_tensors];
    *t = (tensor){.cols = cols, .rows = rows, .mean = mean, .spread = spread};
    if (layer == UINT32_MAX) snprintf(t->name, sizeof t->name, "%s", name);
    else snprintf(t->name, sizeof t->name, "blk.%u.%s", layer, name);
    if (is_out(w, t->name)) return;
    if (w->m.bent && strcmp(t->name, w->m.bent) == 0) {
        t->cols = w->m.bent_cols;
        t->rows = w->m.bent_rows;
    }
    assert_true(t->cols <= COLS_MAX);
    t->type = type_of(&w->m, t);
    w->n_tensors++;
}

static void list_linear(writer *w, uint32_t layer, const char *name, uint32_t cols, uint32_t rows) {
    char full[32];
    snprintf(full, sizeof full, "%s.weight", name);
    list(w, layer, full, cols, rows, 0, 1.7f / sqrtf((float)cols));
    snprintf(full, sizeof full, "%s.bias", name);
    bool gated = strstr(name, "gate") || strstr(name, "up");
    if (gated ? w->m.ff_bias : w->m.bias) list(w, layer, full, rows, 0, 0, 0.5f);
}

static void list_tensors(writer *w) {
    const llama_gguf *m = &w->m;
    uint32_t q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim, no_layer = UINT32_MAX;
    list(w, no_layer, "token_embd.weight", m->dim, m->n_vocab, 0, 1);
    if (m->rope_divisors) list(w, no_layer, "rope_freqs.weight", m->head_dim / 2, 0, 2, 1);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        list(w, i, "attn_norm.weight", m->dim, 0, 1, 0.2f);
        list_linear(w, i, "attn_q", m->dim, q);
        list_linear(w, i, "attn_k", m->dim, kv);
        list_linear(w, i, "attn_v", m->dim, kv);
        list_linear(w, i, "attn_output", q, m->dim);
        list(w, i, "ffn_norm.weight", m->dim, 0, 1, 0.2f);
        list_linear(w, i, "ffn_gate", m->dim, m->n_ff);
        list_linear(w, i, "ffn_up", m->dim, m->n_ff);
        list_linear(w, i, "ffn_down", m->n_ff, m->dim);
    }
    list(w, no_layer, "output_norm.weight", m->dim, 0, 1, 0.2f);
    if (!m->tied) list(w, no_layer, "output.weight", m->dim, m->n_vocab, 0, 1.7f / sqrtf((float)m->dim));
}

/* -1..1 */
static float noise(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)(z >> 40) * 0x1p-23f - 1.0f;
}

static void write_tensor(writer *w, uint32_t index) {
    const tensor *t = &w->tensors[index];
    float row[COLS_MAX];
    unsigned char out[COLS_MAX * sizeof(float)];
    uint64_t bytes = 0, seed = w->m.seed * 1000 + index;
    assert_true(pr_dtype_row_bytes(t->type, t->cols, &bytes));
    pr_err err = {0};
    for (uint32_t r = 0; r < (t->rows ? t->rows : 1); r++) {
        for (uint32_t c = 0; c < t->cols; c++)
            row[c] = t->mean + t->spread * noise(seed << 20, (uint64_t)r * t->cols + c);
        pr_quantize(t->type, row, t->cols, out);
        if (pr_gguf_data(w->w, out, (size_t)bytes, &err)) fail_msg("%s", err.text);
    }
}

/* ---- metadata ---- */

static void meta_u32(const writer *w, const char *key, uint32_t v) {
    bool lie = w->m.lie && strcmp(w->m.lie, key) == 0;
    if (!is_out(w, key)) pr_gguf_meta_u32(w->w, key, lie ? w->m.lie_value : v);
}

static void describe_model(const writer *w) {
    const llama_gguf *m = &w->m;
    const struct {
        const char *key;
        uint32_t v;
    } numbers[] = {
        {"llama.context_length", m->context},
        {"llama.embedding_length", m->dim},
        {"llama.block_count", m->n_layers},
        {"llama.feed_forward_length", m->n_ff},
        {"llama.attention.head_count", m->n_heads},
        {"llama.attention.head_count_kv", m->n_kv_heads},
        {"llama.attention.key_length", m->head_dim},
        {"llama.rope.dimension_count", m->head_dim},
        {"llama.attention.sliding_window", m->window},
    };
    if (!is_out(w, "general.architecture")) pr_gguf_meta_str(w->w, "general.architecture", m->arch ? m->arch : "llama");
    pr_gguf_meta_str(w->w, "general.name", "small");
    bool lied = !m->lie;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        meta_u32(w, numbers[i].key, numbers[i].v);
        lied = lied || strcmp(m->lie, numbers[i].key) == 0;
    }
    if (!lied) pr_gguf_meta_u32(w->w, m->lie, m->lie_value);
    if (m->text_key) pr_gguf_meta_str(w->w, m->text_key, m->text);
    if (!is_out(w, "llama.attention.layer_norm_rms_epsilon"))
        pr_gguf_meta_f32(w->w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
}

/* <unk> <s> </s>, 256 bytes, then words of two letters, every third with a space before it, some with an umlaut. */
static void token_text(uint32_t id, char out[16]) {
    static const char *const special[] = {"<unk>", "<s>", "</s>"};
    if (id < LLAMA_GGUF_FIRST_BYTE) {
        snprintf(out, 16, "%s", special[id]);
    } else if (id < LLAMA_GGUF_FIRST_WORD) {
        snprintf(out, 16, "<0x%02X>", (unsigned)(id - LLAMA_GGUF_FIRST_BYTE));
    } else {
        uint32_t i = id - LLAMA_GGUF_FIRST_WORD;
        const char *first = i % 7 == 0 ? "\xc3\xbc" : "";
        snprintf(out, 16, "%s%s%c%c", i % 3 == 0 ? "\xe2\x96\x81" : "", first, (char)('a' + i / 20 % 20),
                 (char)('a' + i % 20));
    }
}

static void describe_vocab(const writer *w) {
    enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6 };
    uint32_t n = w->m.n_vocab;
    char(*text)[16] = pr_calloc(PR_TAG_MISC, n, sizeof *text);
    const char **tokens = pr_calloc(PR_TAG_MISC, n, sizeof *tokens);
    float *scores = pr_calloc(PR_TAG_MISC, n, sizeof *scores);
    int32_t *types = pr_calloc(PR_TAG_MISC, n, sizeof *types);
    assert_true(text && tokens && scores && types);
    for (uint32_t i = 0; i < n; i++) {
        token_text(i, text[i]);
        tokens[i] = text[i];
        scores[i] = -(float)i;
        types[i] = i == 0 ? UNKNOWN : i < LLAMA_GGUF_FIRST_BYTE ? CONTROL : i < LLAMA_GGUF_FIRST_WORD ? BYTE : NORMAL;
    }
    pr_gguf_meta_str(w->w, "tokenizer.ggml.model", "llama");
    pr_gguf_meta_strs(w->w, "tokenizer.ggml.tokens", tokens, n);
    pr_gguf_meta_f32s(w->w, "tokenizer.ggml.scores", scores, n);
    pr_gguf_meta_i32s(w->w, "tokenizer.ggml.token_type", types, n);
    pr_gguf_meta_u32(w->w, "tokenizer.ggml.bos_token_id", LLAMA_GGUF_BOS);
    pr_gguf_meta_u32(w->w, "tokenizer.ggml.eos_token_id", LLAMA_GGUF_EOS);
    if (w->m.chat_template) pr_gguf_meta_str(w->w, "tokenizer.chat_template", w->m.chat_template);
    pr_free(text);
    pr_free(tokens);
    pr_free(scores);
    pr_free(types);
}

void llama_gguf_write(const llama_gguf *model, const char *path) {
    static writer w; /* tests write one at a time */
    pr_err err = {0};
    w = (writer){.m = *model};
    or_default(&w.m.dim, 64);
    or_default(&w.m.n_layers, 3);
    or_default(&w.m.n_heads, 4);
    or_default(&w.m.n_kv_heads, 2);
    or_default(&w.m.head_dim, w.m.dim / w.m.n_heads);
    or_default(&w.m.n_ff, 96);
    or_default(&w.m.n_vocab, 309);
    or_default(&w.m.context, 256);
    if (pr_gguf_create(path, 32, &w.w, &err)) fail_msg("%s", err.text);
    describe_model(&w);
    describe_vocab(&w);
    list_tensors(&w);
    for (uint32_t i = 0; i < w.n_tensors; i++) {
        const tensor *t = &w.tensors[i];
        pr_gguf_tensor(w.w, t->name, t->type, t->rows ? 2 : 1, (uint64_t[]){t->cols, t->rows});
    }
    for (uint32_t i = 0; i < w.n_tensors; i++) write_tensor(&w, i);
    if (pr_gguf_finish(w.w, &err)) fail_msg("%s", err.text);
}
