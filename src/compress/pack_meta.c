/*
 * The source's own keys in a plane file.
 *
 * A GGUF source's go over as they stand. A safetensors folder becomes a GGUF file, so config.json is written as the keys
 * that llama files have, the few numbers that those lack as precis.rope.*, and the tokenizer as the text of its JSON files,
 * which the loader of vocabularies (engine/vocab_load.c) takes from there: to rewrite a tokenizer.json as GGUF arrays
 * would be a second reader of it, and a second meaning.
 */
#include <string.h>

#include "base/os.h"
#include "base/str.h"
#include "compress/pack_impl.h"
#include "engine/vocab_load.h"

enum { TEXT_MAX = 128 << 20 };

static pr_status copy_gguf(pr_gguf_writer *w, const pr_model_file *file) {
    for (size_t i = 0; i < pr_model_file_n_meta(file); i++) pr_gguf_meta_copy(w, file, pr_model_file_meta_key(file, i));
    return PR_OK;
}

/* ---- config.json -------------------------------------------------------------- */

/* The first of two keys that config.json has. */
static const char *either(const pr_model_file *file, const char *a, const char *b) {
    return pr_model_file_meta(file, a) || !b ? a : b;
}

static pr_status put_f32(pr_gguf_writer *w, const pr_model_file *file, const char *from, const char *to, pr_err *err) {
    float v = 0;
    if (!pr_model_file_meta(file, from)) return PR_OK;
    pr_status st = pr_meta_f32(file, from, &v, err);
    if (!st) pr_gguf_meta_f32(w, to, v);
    return st;
}

static pr_status put_rope(pr_gguf_writer *w, const pr_model_file *file, pr_err *err) {
    static const char *const numbers[][2] = {
        {"factor", "llama.rope.scaling.factor"},
        {"original_max_position_embeddings", "llama.rope.scaling.original_context_length"},
        {"beta_fast", "llama.rope.scaling.yarn_beta_fast"},
        {"beta_slow", "llama.rope.scaling.yarn_beta_slow"},
        {"attn_factor", "llama.rope.scaling.attn_factor"},
        {"low_freq_factor", "precis.rope.low_freq_factor"},
        {"high_freq_factor", "precis.rope.high_freq_factor"},
        {"attention_factor", "precis.rope.attention_factor"},
    };
    bool newer = pr_model_file_meta(file, "rope_parameters.rope_theta") ||
                 pr_model_file_meta(file, "rope_parameters.rope_type");
    const char *group = newer ? "rope_parameters" : "rope_scaling", *type = NULL;
    char key[64];
    snprintf(key, sizeof key, "%s.rope_type", group);
    pr_status st = pr_meta_str(file, either(file, key, "rope_scaling.type"), &type, err);
    if (!st && type) pr_gguf_meta_str(w, "llama.rope.scaling.type", type);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers && !st && type; i++) {
        snprintf(key, sizeof key, "%s.%s", group, numbers[i][0]);
        st = put_f32(w, file, key, numbers[i][1], err);
    }
    if (!st)
        st = put_f32(w, file, either(file, "rope_theta", "rope_parameters.rope_theta"), "llama.rope.freq_base", err);
    return st;
}

static pr_status put_shape(pr_gguf_writer *w, const pr_model_file *file, const pr_model_desc *d, pr_err *err) {
    float partial = 1;
    pr_status st = pr_meta_f32(file, "partial_rotary_factor", &partial, err);
    if (st) return st;
    uint32_t n_rot = partial > 0 && partial < 1 ? (uint32_t)((float)d->head_dim * partial) : d->head_dim;
    pr_gguf_meta_str(w, "general.architecture", "llama");
    if (*d->name) pr_gguf_meta_str(w, "general.name", d->name);
    pr_gguf_meta_u32(w, "llama.context_length", d->context_train);
    pr_gguf_meta_u32(w, "llama.embedding_length", d->n_embd);
    pr_gguf_meta_u32(w, "llama.block_count", d->n_layers);
    pr_gguf_meta_u32(w, "llama.feed_forward_length", d->n_ff);
    pr_gguf_meta_u32(w, "llama.attention.head_count", d->n_heads);
    pr_gguf_meta_u32(w, "llama.attention.head_count_kv", d->n_kv_heads);
    pr_gguf_meta_u32(w, "llama.attention.key_length", d->head_dim);
    pr_gguf_meta_u32(w, "llama.rope.dimension_count", n_rot);
    if (d->window) pr_gguf_meta_u32(w, "llama.attention.sliding_window", d->window);
    pr_gguf_meta_bool(w, "precis.rope.neox", true);
    return put_f32(w, file, "rms_norm_eps", "llama.attention.layer_norm_rms_epsilon", err);
}

/* ---- the tokenizer -------------------------------------------------------------- */

/* A file beside the model as the text of a key; one that is not there is left out. */
static pr_status put_text(pr_gguf_writer *w, const pr_model_file *file, const char *name, const char *key,
                          pr_err *err) {
    pr_str path = {0};
    char *text = NULL;
    size_t len;
    pr_str_printf(&path, "%s/%s", pr_model_file_dir(file), name);
    pr_status st = pr_str_ok(&path) ? PR_OK : pr_fail_nomem(err, "a path", path.len);
    if (!st && pr_path_exists(path.data)) st = pr_file_slurp(path.data, TEXT_MAX, &text, &len, err);
    if (!st && text) pr_gguf_meta_str(w, key, text);
    pr_free(text);
    pr_str_free(&path);
    return st;
}

/* An id, or the first of a list of them. */
static void put_id(pr_gguf_writer *w, const pr_model_file *file, const char *from, const char *to) {
    const pr_meta *m = pr_model_file_meta(file, from);
    int64_t first = -1;
    uint32_t id = UINT32_MAX;
    if (m && pr_meta_kind(m) == PR_META_ARRAY && pr_meta_at_i64(m, 0, &first) && first >= 0) id = (uint32_t)first;
    else if (m && pr_meta_kind(m) != PR_META_ARRAY) (void)pr_meta_u32(file, from, &id, NULL);
    if (id != UINT32_MAX) pr_gguf_meta_u32(w, to, id);
}

static pr_status put_tokenizer(pr_gguf_writer *w, const pr_model_file *file, pr_err *err) {
    pr_vocab *vocab = NULL;
    char *jinja = NULL;
    pr_status st = pr__vocab_load(file, NULL, &vocab, &jinja, err);
    if (!st && jinja) pr_gguf_meta_str(w, "tokenizer.chat_template", jinja);
    pr_vocab_free(vocab);
    pr_free(jinja);
    if (!st) st = put_text(w, file, "tokenizer.json", "precis.tokenizer.json", err);
    if (!st) st = put_text(w, file, "tokenizer_config.json", "precis.tokenizer.config", err);
    if (!st) st = put_text(w, file, "special_tokens_map.json", "precis.tokenizer.special_map", err);
    put_id(w, file, "bos_token_id", "tokenizer.ggml.bos_token_id");
    put_id(w, file, "eos_token_id", "tokenizer.ggml.eos_token_id");
    return st;
}

pr_status pr__pack_meta(pr_gguf_writer *w, const pr_model_file *file, const pr_model_desc *desc, pr_err *err) {
    if (pr_model_file_kind(file) == PR_FILE_GGUF) return copy_gguf(w, file);
    pr_status st = put_shape(w, file, desc, err);
    if (!st) st = put_rope(w, file, err);
    return st ? st : put_tokenizer(w, file, err);
}
