/*
 * Tiny models of every variant, generated from names (see synth_model.h).
 *
 * One table of tensors serves both file formats: it is listed once per model, then walked twice, first to describe the
 * tensors, then to write their rows. A row is generated when it is written, and because a weight depends only on its
 * index, GGUF's other row order costs one function (source_row) and no second buffer.
 */
#include "support/synth_model.h"

#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/str.h"
#include "store/gguf_write.h"

enum { CONTEXT = 256, N_BYTE_TOKENS = 256, FIRST_BYTE_TOKEN = 3, MATRIX_SHIFT = 9, HEAD_SHIFT = 8, BIAS_SHIFT = 8 };

const pr_tiny_spec pr_tiny_specs[] = {
    {.name = "llama2"},
    {.name = "gqa", .n_kv_heads = 2},
    {.name = "mqa", .n_heads = 8, .n_kv_heads = 1},
    {.name = "tied", .n_kv_heads = 2, .tied = true},
    {.name = "head-dim", .n_kv_heads = 2, .head_dim = 24},
    {.name = "bias", .n_kv_heads = 2, .attn_bias = true, .mlp_bias = true},
    {.name = "odd-sizes", .dim = 72, .n_layers = 3, .n_heads = 6, .n_kv_heads = 3, .n_ff = 172, .n_vocab = 293},
    {.name = "rms-eps", .n_kv_heads = 2, .eps = 1e-6, .embed_shift = 16},
    {.name = "rope-theta", .n_kv_heads = 2, .theta = 5e5},
    {.name = "rope-linear", .n_kv_heads = 2, .rope = PR_TINY_ROPE_LINEAR, .style = PR_TINY_STYLE_OLD, .rope_factor = 4},
    {.name = "rope-llama3",
     .n_kv_heads = 2,
     .rope = PR_TINY_ROPE_LLAMA3,
     .rope_factor = 8,
     .rope_context = 32,
     .rope_low = 1,
     .rope_high = 4},
    {.name = "rope-yarn", .n_kv_heads = 2, .rope = PR_TINY_ROPE_YARN, .rope_factor = 4, .rope_context = 64},
    {.name = "rope-yarn-tuned",
     .n_kv_heads = 2,
     .rope = PR_TINY_ROPE_YARN,
     .rope_factor = 4,
     .rope_context = 256,
     .rope_low = 2,
     .rope_high = 8,
     .rope_attention_factor = 0.8},
    {.name = "rope-parameters",
     .n_kv_heads = 2,
     .theta = 5e5,
     .tied = true,
     .rope = PR_TINY_ROPE_LLAMA3,
     .style = PR_TINY_STYLE_PARAMETERS,
     .rope_factor = 32,
     .rope_context = 64,
     .rope_low = 1,
     .rope_high = 4},
    {.name = "mistral", .mistral = true, .n_kv_heads = 2, .theta = 1e6},
    {.name = "mistral-window", .mistral = true, .n_kv_heads = 2, .window = 16},
};
const size_t pr_tiny_n_specs = sizeof pr_tiny_specs / sizeof pr_tiny_specs[0];

static pr_tiny_spec with_defaults(const pr_tiny_spec *given) {
    pr_tiny_spec s = *given;
    if (!s.dim) s.dim = 64;
    if (!s.n_layers) s.n_layers = 2;
    if (!s.n_heads) s.n_heads = 4;
    if (!s.n_kv_heads) s.n_kv_heads = s.n_heads;
    if (!s.head_dim) s.head_dim = s.dim / s.n_heads;
    if (!s.n_ff) s.n_ff = 160;
    if (!s.n_vocab) s.n_vocab = 288;
    if (!s.embed_shift) s.embed_shift = 6;
    if (s.eps <= 0) s.eps = 1e-5;
    if (s.theta <= 0) s.theta = 1e4;
    return s;
}

/* ---- the numbers ------------------------------------------------------ */

static uint64_t name_seed(const char *name) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return h;
}

/* -127..127 */
static int weight_int(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (int)((z >> 32) % 255) - 127;
}

/* ---- the tensors ------------------------------------------------------ */

typedef struct tensor {
    char hf[80], gguf[80];
    uint32_t rows, cols; /* rows 1 and vector set: one dimension */
    bool vector, norm;
    int shift;
    uint32_t permute_dim; /* head_dim when GGUF reorders the rows, else 0 */
} tensor;

enum { LAYER_TENSORS = 16, MODEL_TENSORS = 3 };

typedef struct tensor_list {
    tensor *at;
    size_t n;
} tensor_list;

static tensor *add(tensor_list *list, int layer, const char *hf, const char *gguf, uint32_t rows, uint32_t cols,
                   int shift) {
    tensor *t = &list->at[list->n++];
    *t = (tensor){.rows = rows, .cols = cols, .shift = shift};
    if (layer < 0) {
        snprintf(t->hf, sizeof t->hf, "%s", hf);
        snprintf(t->gguf, sizeof t->gguf, "%s", gguf);
    } else {
        snprintf(t->hf, sizeof t->hf, "model.layers.%d.%s", layer, hf);
        snprintf(t->gguf, sizeof t->gguf, "blk.%d.%s", layer, gguf);
    }
    return t;
}

static void add_norm(tensor_list *list, int layer, const char *hf, const char *gguf, uint32_t n) {
    tensor *t = add(list, layer, hf, gguf, 1, n, 0);
    t->vector = true;
    t->norm = true;
}

/* A projection and, when the model has them, its bias. */
static void add_linear(tensor_list *list, int layer, const char *hf, const char *gguf, uint32_t rows, uint32_t cols,
                       bool bias, uint32_t permute_dim) {
    char hf_name[48], gguf_name[32];
    snprintf(hf_name, sizeof hf_name, "%s.weight", hf);
    snprintf(gguf_name, sizeof gguf_name, "%s.weight", gguf);
    add(list, layer, hf_name, gguf_name, rows, cols, MATRIX_SHIFT)->permute_dim = permute_dim;
    if (!bias) return;
    snprintf(hf_name, sizeof hf_name, "%s.bias", hf);
    snprintf(gguf_name, sizeof gguf_name, "%s.bias", gguf);
    tensor *t = add(list, layer, hf_name, gguf_name, 1, rows, BIAS_SHIFT);
    t->vector = true;
    t->permute_dim = permute_dim;
}

static pr_status list_tensors(const pr_tiny_spec *s, tensor_list *list, pr_err *err) {
    *list = (tensor_list){0};
    list->at = pr_calloc(PR_TAG_MISC, s->n_layers * LAYER_TENSORS + MODEL_TENSORS, sizeof *list->at);
    if (!list->at) return pr_fail(err, PR_ERR_NOMEM, "tiny model %s: out of memory", s->name);
    const uint32_t n_q = s->n_heads * s->head_dim, n_kv = s->n_kv_heads * s->head_dim;
    add(list, -1, "model.embed_tokens.weight", "token_embd.weight", s->n_vocab, s->dim, s->embed_shift);
    for (int i = 0; i < (int)s->n_layers; i++) {
        add_norm(list, i, "input_layernorm.weight", "attn_norm.weight", s->dim);
        add_linear(list, i, "self_attn.q_proj", "attn_q", n_q, s->dim, s->attn_bias, s->head_dim);
        add_linear(list, i, "self_attn.k_proj", "attn_k", n_kv, s->dim, s->attn_bias, s->head_dim);
        add_linear(list, i, "self_attn.v_proj", "attn_v", n_kv, s->dim, s->attn_bias, 0);
        add_linear(list, i, "self_attn.o_proj", "attn_output", s->dim, n_q, s->attn_bias, 0);
        add_norm(list, i, "post_attention_layernorm.weight", "ffn_norm.weight", s->dim);
        add_linear(list, i, "mlp.gate_proj", "ffn_gate", s->n_ff, s->dim, s->mlp_bias, 0);
        add_linear(list, i, "mlp.up_proj", "ffn_up", s->n_ff, s->dim, s->mlp_bias, 0);
        add_linear(list, i, "mlp.down_proj", "ffn_down", s->dim, s->n_ff, s->mlp_bias, 0);
    }
    add_norm(list, -1, "model.norm.weight", "output_norm.weight", s->dim);
    if (!s->tied) add(list, -1, "lm_head.weight", "output.weight", s->n_vocab, s->dim, HEAD_SHIFT);
    return PR_OK;
}

/* Which row of the safetensors tensor stands at row r of the GGUF one. */
static uint32_t source_row(uint32_t r, uint32_t head_dim) {
    if (head_dim == 0) return r;
    const uint32_t in_head = r % head_dim;
    return r - in_head + in_head / 2 + in_head % 2 * (head_dim / 2);
}

static float value_at(const tensor *t, uint64_t seed, uint64_t i) {
    const int k = weight_int(seed, i);
    return t->norm ? (float)(96 + (k + 128) / 4) / 128.0f : ldexpf((float)k, -t->shift);
}

/* Encode row `row` (of the file being written: a vector's elements are permuted like rows) into out; returns its bytes. */
static size_t encode_row(const tensor *t, uint32_t row, uint32_t permute_dim, pr_dtype dtype, unsigned char *out) {
    const uint64_t seed = name_seed(t->hf);
    const uint64_t first = t->vector ? 0 : (uint64_t)source_row(row, permute_dim) * t->cols;
    unsigned char *p = out;
    for (uint32_t c = 0; c < t->cols; c++) {
        const uint64_t i = t->vector ? source_row(c, permute_dim) : first + c;
        const float v = value_at(t, seed, i);
        if (dtype == PR_F32) {
            memcpy(p, &v, sizeof v);
            p += sizeof v;
        } else if (dtype == PR_Q8_0) {
            if (c % 32 == 0) {
                const uint16_t d = pr_f32_to_f16(ldexpf(1.0f, -t->shift));
                memcpy(p, &d, sizeof d);
                p += sizeof d;
            }
            *p++ = (unsigned char)weight_int(seed, i);
        } else {
            const uint16_t h = dtype == PR_F16 ? pr_f32_to_f16(v) : pr_f32_to_bf16(v);
            memcpy(p, &h, sizeof h);
            p += sizeof h;
        }
    }
    return (size_t)(p - out);
}

static size_t row_bytes_max(const tensor_list *list) {
    size_t max = 0;
    for (size_t i = 0; i < list->n; i++) {
        if (list->at[i].cols > max) max = list->at[i].cols;
    }
    return max * sizeof(float);
}

/* ---- the vocabulary ---------------------------------------------------- */

/* <unk> <s> </s>, 256 bytes, then words that no text contains. */
static void token_text(uint32_t id, char out[16]) {
    static const char *const special[] = {"<unk>", "<s>", "</s>"};
    if (id < FIRST_BYTE_TOKEN) {
        snprintf(out, 16, "%s", special[id]);
    } else if (id < FIRST_BYTE_TOKEN + N_BYTE_TOKENS) {
        snprintf(out, 16, "<0x%02X>", (unsigned)(id - FIRST_BYTE_TOKEN));
    } else {
        snprintf(out, 16, "word%u", (unsigned)id);
    }
}

/* ---- GGUF -------------------------------------------------------------- */

static pr_status meta_vocab(const pr_tiny_spec *s, pr_gguf_writer *w, pr_err *err) {
    pr_status st = PR_OK;
    char(*text)[16] = pr_calloc(PR_TAG_MISC, s->n_vocab, sizeof *text);
    const char **tokens = pr_calloc(PR_TAG_MISC, s->n_vocab, sizeof *tokens);
    float *scores = pr_calloc(PR_TAG_MISC, s->n_vocab, sizeof *scores);
    int32_t *types = pr_calloc(PR_TAG_MISC, s->n_vocab, sizeof *types);
    if (!text || !tokens || !scores || !types) {
        st = pr_fail(err, PR_ERR_NOMEM, "tiny model %s: out of memory", s->name);
        goto done;
    }
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        token_text(i, text[i]);
        tokens[i] = text[i];
        scores[i] = i < FIRST_BYTE_TOKEN + N_BYTE_TOKENS ? 0.0f : -(float)i;
        /* GGUF: 1 normal, 2 unknown, 3 control, 6 byte */
        types[i] = i == 0 ? 2 : i < FIRST_BYTE_TOKEN ? 3 : i < FIRST_BYTE_TOKEN + N_BYTE_TOKENS ? 6 : 1;
    }
    pr_gguf_meta_str(w, "tokenizer.ggml.model", "llama");
    pr_gguf_meta_strs(w, "tokenizer.ggml.tokens", tokens, s->n_vocab);
    pr_gguf_meta_f32s(w, "tokenizer.ggml.scores", scores, s->n_vocab);
    pr_gguf_meta_i32s(w, "tokenizer.ggml.token_type", types, s->n_vocab);
    pr_gguf_meta_u32(w, "tokenizer.ggml.bos_token_id", 1);
    pr_gguf_meta_u32(w, "tokenizer.ggml.eos_token_id", 2);
    pr_gguf_meta_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    pr_gguf_meta_bool(w, "tokenizer.ggml.add_bos_token", true);
done:
    pr_free(text);
    pr_free(tokens);
    pr_free(scores);
    pr_free(types);
    return st;
}

static void meta_rope(const pr_tiny_spec *s, pr_gguf_writer *w) {
    pr_gguf_meta_u32(w, "llama.rope.dimension_count", s->head_dim);
    pr_gguf_meta_f32(w, "llama.rope.freq_base", (float)s->theta);
    if (s->rope == PR_TINY_ROPE_LINEAR || s->rope == PR_TINY_ROPE_YARN) {
        pr_gguf_meta_str(w, "llama.rope.scaling.type", s->rope == PR_TINY_ROPE_LINEAR ? "linear" : "yarn");
        pr_gguf_meta_f32(w, "llama.rope.scaling.factor", (float)s->rope_factor);
    }
    if (s->rope != PR_TINY_ROPE_YARN) return;
    pr_gguf_meta_u32(w, "llama.rope.scaling.original_context_length", s->rope_context);
    if (s->rope_low > 0) pr_gguf_meta_f32(w, "llama.rope.scaling.yarn_beta_slow", (float)s->rope_low);
    if (s->rope_high > 0) pr_gguf_meta_f32(w, "llama.rope.scaling.yarn_beta_fast", (float)s->rope_high);
    /* GGUF's factor multiplies the formula's default, config.json's replaces it. */
    if (s->rope_attention_factor > 0) {
        pr_gguf_meta_f32(w, "llama.rope.scaling.attn_factor",
                         (float)(s->rope_attention_factor / (1.0 + 0.1 * log(s->rope_factor))));
    }
}

static void meta_model(const pr_tiny_spec *s, pr_gguf_writer *w) {
    pr_gguf_meta_str(w, "general.architecture", "llama");
    pr_gguf_meta_str(w, "general.name", s->name);
    pr_gguf_meta_u32(w, "llama.context_length", CONTEXT);
    pr_gguf_meta_u32(w, "llama.embedding_length", s->dim);
    pr_gguf_meta_u32(w, "llama.block_count", s->n_layers);
    pr_gguf_meta_u32(w, "llama.feed_forward_length", s->n_ff);
    pr_gguf_meta_u32(w, "llama.attention.head_count", s->n_heads);
    if (s->n_kv_heads != s->n_heads) pr_gguf_meta_u32(w, "llama.attention.head_count_kv", s->n_kv_heads);
    if (s->head_dim * s->n_heads != s->dim) {
        pr_gguf_meta_u32(w, "llama.attention.key_length", s->head_dim);
        pr_gguf_meta_u32(w, "llama.attention.value_length", s->head_dim);
    }
    if (s->window) pr_gguf_meta_u32(w, "llama.attention.sliding_window", s->window);
    pr_gguf_meta_f32(w, "llama.attention.layer_norm_rms_epsilon", (float)s->eps);
    pr_gguf_meta_u32(w, "llama.vocab_size", s->n_vocab);
    meta_rope(s, w);
}

/* Llama 3 scaling has no keys in GGUF: each frequency's divisor is stored as a tensor. */
static void llama3_divisors(const pr_tiny_spec *s, float *out) {
    for (uint32_t i = 0; i < s->head_dim / 2; i++) {
        const double wavelen = 2.0 * M_PI * pow(s->theta, 2.0 * i / s->head_dim);
        const double turns = s->rope_context / wavelen; /* within the original context */
        const double smooth = fmin(fmax((turns - s->rope_low) / (s->rope_high - s->rope_low), 0.0), 1.0);
        out[i] = (float)(1.0 / ((1.0 - smooth) / s->rope_factor + smooth));
    }
}

static pr_status write_gguf_rows(const tensor_list *list, pr_dtype matrices, unsigned char *row, pr_gguf_writer *w,
                                 pr_err *err) {
    for (size_t i = 0; i < list->n; i++) {
        const tensor *t = &list->at[i];
        for (uint32_t r = 0; r < t->rows; r++) {
            const size_t n = encode_row(t, r, t->permute_dim, t->vector ? PR_F32 : matrices, row);
            const pr_status st = pr_gguf_data(w, row, n, err);
            if (st != PR_OK) return st;
        }
    }
    return PR_OK;
}

pr_status pr_tiny_write_gguf(const pr_tiny_spec *given, pr_dtype matrices, const char *path, pr_err *err) {
    const pr_tiny_spec spec_full = with_defaults(given), *spec = &spec_full;
    tensor_list list;
    unsigned char *row = NULL;
    float divisors[64];
    pr_gguf_writer *w = NULL;
    pr_status st = list_tensors(spec, &list, err);
    if (st != PR_OK) return st;
    row = pr_alloc(PR_TAG_MISC, row_bytes_max(&list));
    if (!row) {
        st = pr_fail(err, PR_ERR_NOMEM, "tiny model %s: out of memory", spec->name);
        goto fail;
    }
    if ((st = pr_gguf_create(path, 32, &w, err)) != PR_OK) goto fail;
    meta_model(spec, w);
    if ((st = meta_vocab(spec, w, err)) != PR_OK) goto fail;
    if (spec->rope == PR_TINY_ROPE_LLAMA3) {
        pr_gguf_tensor(w, "rope_freqs.weight", PR_F32, 1, (const uint64_t[]){spec->head_dim / 2});
    }
    for (size_t i = 0; i < list.n; i++) {
        const tensor *t = &list.at[i];
        pr_gguf_tensor(w, t->gguf, t->vector ? PR_F32 : matrices, t->vector ? 1 : 2,
                       (const uint64_t[]){t->cols, t->rows});
    }
    if (spec->rope == PR_TINY_ROPE_LLAMA3) {
        llama3_divisors(spec, divisors);
        if ((st = pr_gguf_data(w, divisors, spec->head_dim / 2 * sizeof divisors[0], err)) != PR_OK) goto fail;
    }
    if ((st = write_gguf_rows(&list, matrices, row, w, err)) != PR_OK) goto fail;
    st = pr_gguf_finish(w, err);
    w = NULL;
fail:
    pr_gguf_abort(w);
    pr_free(row);
    pr_free(list.at);
    return st;
}

/* ---- safetensors ------------------------------------------------------- */

static pr_status save(const char *dir, const char *name, const pr_str *head, const pr_str *body, pr_err *err) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (!pr_str_ok(head) || !pr_str_ok(body)) return pr_fail(err, PR_ERR_NOMEM, "%s: out of memory", path);
    FILE *f = fopen(path, "wb");
    if (!f) return pr_fail(err, PR_ERR_IO, "%s: cannot create", path);
    const bool wrote = fwrite(head->data, 1, head->len, f) == head->len &&
                       (body->len == 0 || fwrite(body->data, 1, body->len, f) == body->len);
    return fclose(f) == 0 && wrote ? PR_OK : pr_fail(err, PR_ERR_IO, "%s: cannot write", path);
}

static void config_rope(const pr_tiny_spec *s, pr_str *out) {
    static const char *const names[] = {"default", "linear", "llama3", "yarn"};
    const bool parameters = s->style == PR_TINY_STYLE_PARAMETERS;
    if (!parameters) pr_str_printf(out, ",\n  \"rope_theta\": %.1f", s->theta);
    if (s->rope == PR_TINY_ROPE_PLAIN) {
        pr_str_puts(out, ",\n  \"rope_scaling\": null");
        return;
    }
    pr_str_printf(out, ",\n  \"%s\": {\"%s\": \"%s\", \"factor\": %.1f",
                  parameters ? "rope_parameters" : "rope_scaling", s->style == PR_TINY_STYLE_OLD ? "type" : "rope_type",
                  names[s->rope], s->rope_factor);
    if (parameters) pr_str_printf(out, ", \"rope_theta\": %.1f", s->theta);
    if (s->rope_context) pr_str_printf(out, ", \"original_max_position_embeddings\": %u", s->rope_context);
    const bool llama3 = s->rope == PR_TINY_ROPE_LLAMA3;
    if (s->rope_low > 0) pr_str_printf(out, ", \"%s\": %.1f", llama3 ? "low_freq_factor" : "beta_slow", s->rope_low);
    if (s->rope_high > 0) pr_str_printf(out, ", \"%s\": %.1f", llama3 ? "high_freq_factor" : "beta_fast", s->rope_high);
    if (s->rope_attention_factor > 0) pr_str_printf(out, ", \"attention_factor\": %.3f", s->rope_attention_factor);
    pr_str_puts(out, "}");
}

static void config_json(const pr_tiny_spec *s, pr_dtype dtype, pr_str *out) {
    const char *torch_name = dtype == PR_F32 ? "float32" : dtype == PR_F16 ? "float16" : "bfloat16";
    pr_str_printf(out, "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\",\n",
                  s->mistral ? "MistralForCausalLM" : "LlamaForCausalLM", s->mistral ? "mistral" : "llama");
    pr_str_printf(out, "  \"hidden_size\": %u,\n  \"num_hidden_layers\": %u,\n  \"num_attention_heads\": %u,\n", s->dim,
                  s->n_layers, s->n_heads);
    if (s->n_kv_heads != s->n_heads) pr_str_printf(out, "  \"num_key_value_heads\": %u,\n", s->n_kv_heads);
    if (s->head_dim * s->n_heads != s->dim) pr_str_printf(out, "  \"head_dim\": %u,\n", s->head_dim);
    if (s->window) {
        pr_str_printf(out, "  \"sliding_window\": %u,\n", s->window);
    } else if (s->mistral) {
        pr_str_puts(out, "  \"sliding_window\": null,\n");
    }
    if (s->attn_bias) pr_str_puts(out, "  \"attention_bias\": true,\n");
    if (s->mlp_bias) pr_str_puts(out, "  \"mlp_bias\": true,\n");
    pr_str_printf(out, "  \"intermediate_size\": %u,\n  \"vocab_size\": %u,\n  \"max_position_embeddings\": %d,\n",
                  s->n_ff, s->n_vocab, CONTEXT);
    pr_str_printf(out, "  \"hidden_act\": \"silu\",\n  \"rms_norm_eps\": %.1e,\n  \"tie_word_embeddings\": %s,\n",
                  s->eps, s->tied ? "true" : "false");
    pr_str_printf(out, "  \"bos_token_id\": 1,\n  \"eos_token_id\": 2,\n  \"torch_dtype\": \"%s\"", torch_name);
    config_rope(s, out);
    pr_str_puts(out, "\n}\n");
}

static void tokenizer_json(const pr_tiny_spec *s, pr_str *out) {
    char text[16];
    pr_str_puts(out, "{\n \"version\": \"1.0\",\n \"added_tokens\": [");
    for (uint32_t i = 0; i < FIRST_BYTE_TOKEN; i++) {
        token_text(i, text);
        pr_str_printf(
            out,
            "%s{\"id\": %u, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
            "\"normalized\": false, \"special\": true}",
            i ? ", " : "", i, text);
    }
    pr_str_puts(out,
                "],\n \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": "
                "\"\\u2581\"}, {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\\u2581\"}]},\n"
                " \"pre_tokenizer\": null,\n \"post_processor\": null,\n \"decoder\": null,\n"
                " \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": \"<unk>\", \"fuse_unk\": true, "
                "\"byte_fallback\": true,\n  \"vocab\": {");
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        token_text(i, text);
        pr_str_printf(out, "%s\"%s\": %u", i ? ", " : "", text, i);
    }
    pr_str_puts(out, "},\n  \"merges\": []}\n}\n");
}

/* The header of model.safetensors: its length in 8 bytes, then JSON padded with spaces to a multiple of 8. */
static void safetensors_header(const tensor_list *list, pr_dtype dtype, pr_str *json, pr_str *out) {
    const char *name = dtype == PR_F32 ? "F32" : dtype == PR_F16 ? "F16" : "BF16";
    const size_t size = dtype == PR_F32 ? 4 : 2;
    size_t at = 0;
    pr_str_puts(json, "{\"__metadata__\": {\"format\": \"pt\"}");
    for (size_t i = 0; i < list->n; i++) {
        const tensor *t = &list->at[i];
        const size_t end = at + (size_t)t->rows * t->cols * size;
        pr_str_printf(json, ", \"%s\": {\"dtype\": \"%s\", \"shape\": [", t->hf, name);
        if (!t->vector) pr_str_printf(json, "%u, ", t->rows);
        pr_str_printf(json, "%u], \"data_offsets\": [%zu, %zu]}", t->cols, at, end);
        at = end;
    }
    pr_str_puts(json, "}");
    while (pr_str_ok(json) && json->len % 8) pr_str_puts(json, " ");
    const uint64_t len = json->len;
    pr_str_append(out, (const char *)&len, sizeof len);
    pr_str_append(out, json->data, json->len);
}

pr_status pr_tiny_write_safetensors(const pr_tiny_spec *given, pr_dtype dtype, const char *dir, pr_err *err) {
    const pr_tiny_spec spec_full = with_defaults(given), *spec = &spec_full;
    pr_str config = {0}, tokenizer = {0}, json = {0}, head = {0}, body = {0};
    const pr_str nothing = {0};
    unsigned char *row = NULL;
    tensor_list list;
    pr_status st = list_tensors(spec, &list, err);
    if (st != PR_OK) return st;
    row = pr_alloc(PR_TAG_MISC, row_bytes_max(&list));
    if (!row) {
        st = pr_fail(err, PR_ERR_NOMEM, "tiny model %s: out of memory", spec->name);
        goto fail;
    }
    config_json(spec, dtype, &config);
    tokenizer_json(spec, &tokenizer);
    safetensors_header(&list, dtype, &json, &head);
    for (size_t i = 0; i < list.n; i++) {
        for (uint32_t r = 0; r < list.at[i].rows; r++) {
            pr_str_append(&body, (const char *)row, encode_row(&list.at[i], r, 0, dtype, row));
        }
    }
    if ((st = save(dir, "config.json", &config, &nothing, err)) != PR_OK) goto fail;
    if ((st = save(dir, "tokenizer.json", &tokenizer, &nothing, err)) != PR_OK) goto fail;
    st = save(dir, "model.safetensors", &head, &body, err);
fail:
    pr_str_free(&config);
    pr_str_free(&tokenizer);
    pr_str_free(&json);
    pr_str_free(&head);
    pr_str_free(&body);
    pr_free(row);
    pr_free(list.at);
    return st;
}
