/*
 * Llama and its relatives: Llama 2 and 3, Mistral, SmolLM2, TinyLlama.
 *
 * Touvron et al., arXiv:2302.13971 and arXiv:2307.09288; Jiang et al.,
 * arXiv:2310.06825 (sliding window). With x the residual stream, for each layer:
 *
 *   h = norm(x)                      RMS norm with weight
 *   q, k, v = h Wq, h Wk, h Wv       fewer heads in k and v (GQA)
 *   q, k = rope(q), rope(k)
 *   x = x + attend(q, k, v) Wo       softmax(q k / sqrt(d)) v, causal
 *   h = norm(x)
 *   x = x + (silu(h Wgate) * (h Wup)) Wdown
 *
 * and logits = norm(x) Wout, where Wout may be the token embedding (tied).
 *
 * The two kinds of file differ in one way that is not a name: GGUF stores the
 * rows of Wq and Wk permuted, so that the pairs that rotate together are
 * neighbours; safetensors keep them half a head apart ("neox"), and so does a GGUF file that was packed from them and says
 * precis.rope.neox.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/model.h"
#include "model/rope.h"

typedef struct llama {
    const pr_model_file *file;
    pr_graph *g;
    pr_model_desc *d;
    float eps;
    bool neox;
    pr_node_id table; /* cos and sin of this step's positions */
} llama;

static bool matches(const pr_model_file *file) {
    const char *name = pr_model_arch_name(file);
    return name && (strcmp(name, "llama") == 0 || strcmp(name, "mistral") == 0);
}

static pr_status read_shape(llama *m, pr_err *err) {
    const pr_model_file *f = m->file;
    pr_graph *g = m->g;
    pr_model_desc *d = m->d;
    d->n_layers = pr_model_u32(f, g, (pr_names){"llama.block_count", "num_hidden_layers"}, true, 0);
    d->n_embd = pr_model_u32(f, g, (pr_names){"llama.embedding_length", "hidden_size"}, true, 0);
    d->n_ff = pr_model_u32(f, g, (pr_names){"llama.feed_forward_length", "intermediate_size"}, true, 0);
    d->n_heads = pr_model_u32(f, g, (pr_names){"llama.attention.head_count", "num_attention_heads"}, true, 0);
    d->n_kv_heads = pr_model_u32(f, g, (pr_names){"llama.attention.head_count_kv", "num_key_value_heads"}, false,
                                 d->n_heads);
    d->head_dim = pr_model_u32(f, g, (pr_names){"llama.attention.key_length", "head_dim"}, false,
                               d->n_heads ? d->n_embd / d->n_heads : 0);
    d->context_train = pr_model_u32(f, g, (pr_names){"llama.context_length", "max_position_embeddings"}, true, 0);
    d->window = pr_model_u32(f, g, (pr_names){"llama.attention.sliding_window", "sliding_window"}, false, 0);
    m->eps = pr_model_f32(f, g, (pr_names){"llama.attention.layer_norm_rms_epsilon", "rms_norm_eps"}, true, 0);
    const char *name = pr_model_str(f, g, (pr_names){"general.name", "_name_or_path"});
    if (name) d->name = name;
    if (g->err.status) return pr_graph_check(g, err);
    if (pr_model_u32(f, g, (pr_names){"llama.expert_count", "num_local_experts"}, false, 0) > 0)
        return pr_fail(err, PR_ERR_UNSUPPORTED, "mixture-of-experts models are not supported");
    bool sane = d->n_layers >= 1 && d->n_layers <= 1024 && d->n_embd >= 1 && d->n_embd <= 1 << 17 && d->n_heads >= 1 &&
                d->n_heads <= 1024 && d->n_kv_heads >= 1 && d->n_heads % d->n_kv_heads == 0 && d->head_dim >= 1 &&
                d->head_dim <= 512 && d->n_ff >= 1 && d->n_ff <= 1 << 20 && d->context_train >= 1;
    if (!sane)
        return pr_fail(
            err, PR_ERR_FORMAT,
            "impossible shape: %u layers, width %u, %u heads, %u KV heads of %u, feed-forward %u, context %u",
            d->n_layers, d->n_embd, d->n_heads, d->n_kv_heads, d->head_dim, d->n_ff, d->context_train);
    if (!(m->eps >= 0 && m->eps < 1))
        return pr_fail(err, PR_ERR_FORMAT, "an RMS norm epsilon of %g is impossible: it is between 0 and 1",
                       (double)m->eps);
    return PR_OK;
}

/* Newer config.json files keep theta and scaling together as rope_parameters. */
static const char *hf_rope_key(const llama *m, char *buf, size_t len, const char *field) {
    bool newer = pr_model_file_meta(m->file, "rope_parameters.rope_theta") ||
                 pr_model_file_meta(m->file, "rope_parameters.rope_type");
    (void)snprintf(buf, len, "%s.%s", newer ? "rope_parameters" : "rope_scaling", field);
    return buf;
}

static float rope_number(llama *m, const char *gguf, const char *field, bool required, float fallback) {
    char key[64];
    return pr_model_f32(m->file, m->g, (pr_names){gguf, hf_rope_key(m, key, sizeof key, field)}, required, fallback);
}

static pr_status rope_scaling(llama *m, pr_rope *r, pr_err *err) {
    char key[64];
    const char *type = pr_model_str(
        m->file, m->g, (pr_names){"llama.rope.scaling.type", hf_rope_key(m, key, sizeof key, "rope_type")});
    if (!type) type = pr_model_str(m->file, m->g, (pr_names){NULL, "rope_scaling.type"});
    /* "dynamic" changes nothing within the trained context, and precis stays within it. */
    if (!type || strcmp(type, "none") == 0 || strcmp(type, "default") == 0 || strcmp(type, "dynamic") == 0)
        return PR_OK;
    if (strcmp(type, "linear") == 0) r->scaling = PR_ROPE_LINEAR;
    else if (strcmp(type, "llama3") == 0) r->scaling = PR_ROPE_LLAMA3;
    else if (strcmp(type, "yarn") == 0) r->scaling = PR_ROPE_YARN;
    else
        return pr_fail(err, PR_ERR_UNSUPPORTED, "RoPE scaling \"%s\" is not supported (linear, llama3, yarn are)",
                       type);
    r->factor = rope_number(m, "llama.rope.scaling.factor", "factor", true, 1);
    r->context_original = rope_number(m, "llama.rope.scaling.original_context_length",
                                      "original_max_position_embeddings", false, (float)m->d->context_train);
    r->low_freq = rope_number(m, "precis.rope.low_freq_factor", "low_freq_factor", false, 1);
    r->high_freq = rope_number(m, "precis.rope.high_freq_factor", "high_freq_factor", false, 4);
    r->beta_fast = rope_number(m, "llama.rope.scaling.yarn_beta_fast", "beta_fast", false, 32);
    r->beta_slow = rope_number(m, "llama.rope.scaling.yarn_beta_slow", "beta_slow", false, 1);
    r->attention_factor = rope_number(m, "precis.rope.attention_factor", "attention_factor", false, 0);
    r->attention_scale = rope_number(m, "llama.rope.scaling.attn_factor", "attn_factor", false, 1);
    return PR_OK;
}

/* The cos and sin table every layer shares; its frequencies may be divided by factors from the file. */
static pr_status describe_rope(llama *m, pr_err *err) {
    pr_rope r = {.factor = 1};
    r.n_rot = pr_model_u32(m->file, m->g, (pr_names){"llama.rope.dimension_count", NULL}, false, m->d->head_dim);
    float partial = pr_model_f32(m->file, m->g, (pr_names){NULL, "partial_rotary_factor"}, false, 1);
    if (partial > 0 && partial < 1) r.n_rot = (uint32_t)((float)m->d->head_dim * partial);
    float base = pr_model_f32(m->file, m->g, (pr_names){NULL, "rope_parameters.rope_theta"}, false, 10000);
    r.base = pr_model_f32(m->file, m->g, (pr_names){"llama.rope.freq_base", "rope_theta"}, false, base);
    pr_status st = rope_scaling(m, &r, err);
    if (st) return st;
    float factor;
    pr_node_id freqs = pr_rope_freqs(m->g, &r, &factor);
    pr_node_id divisors = pr_model_weight(m->file, m->g, (pr_names){"rope_freqs.weight", NULL}, 0, true);
    if (divisors != PR_NODE_NONE) freqs = pr_g_div(m->g, freqs, divisors);
    m->table = pr_g_rope_table(m->g, freqs, factor);
    return PR_OK;
}

static pr_node_id weight(const llama *m, const char *gguf, const char *hf, uint32_t layer) {
    return pr_model_weight(m->file, m->g, (pr_names){gguf, hf}, layer, false);
}

static pr_node_id bias(const llama *m, const char *gguf, const char *hf, uint32_t layer) {
    return pr_model_weight(m->file, m->g, (pr_names){gguf, hf}, layer, true);
}

static pr_node_id attention(const llama *m, pr_node_id h, uint32_t i) {
    const pr_model_desc *d = m->d;
    pr_graph *g = m->g;
    pr_node_id q = pr_g_matmul(g, h, weight(m, "blk.%u.attn_q.weight", "model.layers.%u.self_attn.q_proj.weight", i),
                               bias(m, "blk.%u.attn_q.bias", "model.layers.%u.self_attn.q_proj.bias", i));
    pr_node_id k = pr_g_matmul(g, h, weight(m, "blk.%u.attn_k.weight", "model.layers.%u.self_attn.k_proj.weight", i),
                               bias(m, "blk.%u.attn_k.bias", "model.layers.%u.self_attn.k_proj.bias", i));
    pr_node_id v = pr_g_matmul(g, h, weight(m, "blk.%u.attn_v.weight", "model.layers.%u.self_attn.v_proj.weight", i),
                               bias(m, "blk.%u.attn_v.bias", "model.layers.%u.self_attn.v_proj.bias", i));
    q = pr_g_rope(g, q, m->table, d->head_dim, m->neox);
    k = pr_g_rope(g, k, m->table, d->head_dim, m->neox);
    pr_node_id kv = pr_g_kv_write(g, k, v, i, d->head_dim);
    pr_node_id a = pr_g_attend(g, q, kv, d->n_heads, 1.0F / sqrtf((float)d->head_dim), d->window);
    return pr_g_matmul(g, a, weight(m, "blk.%u.attn_output.weight", "model.layers.%u.self_attn.o_proj.weight", i),
                       bias(m, "blk.%u.attn_output.bias", "model.layers.%u.self_attn.o_proj.bias", i));
}

static pr_node_id feed_forward(const llama *m, pr_node_id h, uint32_t i) {
    pr_graph *g = m->g;
    pr_node_id gate = pr_g_matmul(g, h, weight(m, "blk.%u.ffn_gate.weight", "model.layers.%u.mlp.gate_proj.weight", i),
                                  bias(m, "blk.%u.ffn_gate.bias", "model.layers.%u.mlp.gate_proj.bias", i));
    pr_node_id up = pr_g_matmul(g, h, weight(m, "blk.%u.ffn_up.weight", "model.layers.%u.mlp.up_proj.weight", i),
                                bias(m, "blk.%u.ffn_up.bias", "model.layers.%u.mlp.up_proj.bias", i));
    pr_node_id down = weight(m, "blk.%u.ffn_down.weight", "model.layers.%u.mlp.down_proj.weight", i);
    return pr_g_matmul(g, pr_g_gate(g, gate, up), down,
                       bias(m, "blk.%u.ffn_down.bias", "model.layers.%u.mlp.down_proj.bias", i));
}

static pr_status build(const pr_model_file *file, pr_model_desc *d, pr_graph *g, pr_err *err) {
    llama m = {.file = file, .g = g, .d = d, .neox = pr_model_file_kind(file) == PR_FILE_SAFETENSORS};
    pr_status st = read_shape(&m, err);
    if (!st) st = pr_meta_bool(file, "precis.rope.neox", &m.neox, err);
    if (!st) st = describe_rope(&m, err);
    if (st) return st;
    g->n_layers = d->n_layers;
    /* Tied models have one of the two matrices, most often the embedding. */
    pr_node_id out = pr_model_weight(file, g, (pr_names){"output.weight", "lm_head.weight"}, 0, true);
    pr_names names = {"token_embd.weight", "model.embed_tokens.weight"};
    pr_node_id embedding = pr_model_weight(file, g, names, 0, out != PR_NODE_NONE);
    if (embedding == PR_NODE_NONE) embedding = out;
    pr_node_id x = pr_g_embed(g, embedding);
    for (uint32_t i = 0; i < d->n_layers; i++) {
        g->layer_now = i;
        pr_node_id norm = weight(&m, "blk.%u.attn_norm.weight", "model.layers.%u.input_layernorm.weight", i);
        x = pr_g_add(g, x, attention(&m, pr_g_norm(g, x, norm, m.eps), i));
        norm = weight(&m, "blk.%u.ffn_norm.weight", "model.layers.%u.post_attention_layernorm.weight", i);
        x = pr_g_add(g, x, feed_forward(&m, pr_g_norm(g, x, norm, m.eps), i));
    }
    x = pr_g_norm(g, x, weight(&m, "output_norm.weight", "model.norm.weight", 0), m.eps);
    pr_node_id logits = pr_g_matmul(g, pr_g_rows(g, x), out == PR_NODE_NONE ? embedding : out, PR_NODE_NONE);
    pr_g_output(g, logits);
    st = pr_graph_check(g, err);
    if (st) return st;
    d->n_vocab = g->nodes[logits].cols;
    if (g->nodes[embedding].cols != d->n_embd)
        return pr_fail(err, PR_ERR_FORMAT, "token embedding is %u wide where the model says %u",
                       g->nodes[embedding].cols, d->n_embd);
    return PR_OK;
}

const pr_arch pr__arch_llama = {"llama", matches, build};
