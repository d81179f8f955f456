/*
 * Architectures: the list, and what their files share.
 *
 * A model file says what it is in one place: general.architecture in GGUF,
 * model_type in config.json. Everything is read under two names, so that one
 * architecture file serves both kinds.
 */
#include "model/model.h"

#include <stdio.h>
#include <string.h>

static const pr_arch *const archs[] = {&pr__arch_llama};

const char *pr_model_arch_name(const pr_model_file *file) {
    bool gguf = pr_model_file_kind(file) == PR_FILE_GGUF;
    const char *name = NULL;
    return pr_meta_str(file, gguf ? "general.architecture" : "model_type", &name, NULL) ? NULL : name;
}

/* What the engine relies on: pages have room for n_kv_heads heads of head_dim in each layer, tokens are below n_vocab. */
static pr_status check_desc(const pr_model_desc *d, const pr_graph *g, pr_err *err) {
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *n = &g->nodes[i];
        const pr_attr *a = &n->attr;
        if (n->op == PR_OP_KV_WRITE &&
            (a->n_kv_heads != d->n_kv_heads || a->head_dim != d->head_dim || a->layer >= d->n_layers))
            return pr_fail(err, PR_ERR_FORMAT, "layer %u has %u KV heads of %u where the model says %u of %u", a->layer,
                           a->n_kv_heads, a->head_dim, d->n_kv_heads, d->head_dim);
        const pr_node *matrix = n->op == PR_OP_EMBED ? &g->nodes[n->in[0]] : NULL;
        if (matrix && matrix->mat_rows < d->n_vocab)
            return pr_fail(err, PR_ERR_FORMAT, "tensor %s has %u rows for a vocabulary of %u", matrix->name,
                           matrix->mat_rows, d->n_vocab);
    }
    return PR_OK;
}

pr_status pr_model_build(const pr_model_file *file, pr_model_desc *desc, pr_graph *g, pr_err *err) {
    const char *name = pr_model_arch_name(file);
    if (!name)
        return pr_fail(err, PR_ERR_FORMAT, "%s does not say its architecture (general.architecture or model_type)",
                       pr_model_file_path(file));
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        if (!archs[i]->matches(file)) continue;
        *desc = (pr_model_desc){.arch = archs[i]->name, .name = ""};
        pr_status st = archs[i]->build(file, desc, g, err);
        if (!st) st = pr_graph_check(g, err);
        return st ? st : check_desc(desc, g, err);
    }
    return pr_fail(err, PR_ERR_UNSUPPORTED, "architecture %s is not supported (llama, mistral are)", name);
}

/* ---- helpers ---------------------------------------------------------- */

static const char *key_of(const pr_model_file *file, pr_names n) {
    return pr_model_file_kind(file) == PR_FILE_GGUF ? n.gguf : n.hf;
}

/* names[layer] into buf. */
static void expand(char *buf, size_t len, const char *pattern, uint32_t layer) {
    const char *at = strstr(pattern, "%u");
    if (!at) (void)snprintf(buf, len, "%s", pattern);
    else (void)snprintf(buf, len, "%.*s%u%s", (int)(at - pattern), pattern, layer, at + 2);
}

pr_node_id pr_model_weight(const pr_model_file *file, pr_graph *g, pr_names names, uint32_t layer, bool optional) {
    const char *pattern = key_of(file, names);
    char name[128] = "";
    if (pattern) expand(name, sizeof name, pattern, layer);
    const pr_tensor_info *t = pattern ? pr_model_file_find(file, name) : NULL;
    if (t) return pr_g_weight(g, t);
    if (!optional && !g->err.status)
        (void)pr_fail(&g->err, PR_ERR_FORMAT, "%s lacks the tensor %s", pr_model_file_path(file), name);
    return PR_NODE_NONE;
}

/* True when the key is there; a required one that is not becomes the graph's error. */
static bool present(const pr_model_file *file, pr_graph *g, const char *key, bool required) {
    if (key && pr_model_file_meta(file, key)) return true;
    if (required && !g->err.status)
        (void)pr_fail(&g->err, PR_ERR_FORMAT, "%s lacks the key %s", pr_model_file_path(file), key ? key : "?");
    return false;
}

uint32_t pr_model_u32(const pr_model_file *file, pr_graph *g, pr_names keys, bool required, uint32_t fallback) {
    const char *key = key_of(file, keys);
    uint32_t v = fallback;
    if (present(file, g, key, required)) (void)pr_meta_u32(file, key, &v, g->err.status ? NULL : &g->err);
    return v;
}

float pr_model_f32(const pr_model_file *file, pr_graph *g, pr_names keys, bool required, float fallback) {
    const char *key = key_of(file, keys);
    float v = fallback;
    if (present(file, g, key, required)) (void)pr_meta_f32(file, key, &v, g->err.status ? NULL : &g->err);
    return v;
}

const char *pr_model_str(const pr_model_file *file, pr_graph *g, pr_names keys) {
    const char *key = key_of(file, keys), *v = NULL;
    if (present(file, g, key, false)) (void)pr_meta_str(file, key, &v, g->err.status ? NULL : &g->err);
    return v;
}
