/*
 * Architectures: from a model file to a graph.
 *
 * One file an architecture. It recognises its files, reads the
 * hyperparameters, and describes the computation with the pr_g_* calls of
 * graph/ir.h; it computes nothing. To add one: write model/NAME.c, add it to
 * the list in model.c (docs/NEW-MODEL.md).
 */
#ifndef PRECIS_MODEL_MODEL_H
#define PRECIS_MODEL_MODEL_H

#include "graph/ir.h"
#include "store/model_file.h"

/* What every architecture can say about itself, for planning and for people. */
typedef struct pr_model_desc {
    const char *arch; /* static */
    const char *name; /* from the file, "" if none */
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
    uint32_t context_train;
    uint32_t window; /* sliding attention window; 0: none */
} pr_model_desc;

typedef struct pr_arch {
    const char *name;
    bool (*matches)(const pr_model_file *file);
    /* Fill desc and g (initialized, empty). Errors name the key or tensor. */
    pr_status (*build)(const pr_model_file *file, pr_model_desc *desc, pr_graph *g, pr_err *err);
} pr_arch;

/* The architecture of a file, built. PR_ERR_UNSUPPORTED names what the file says it is. */
pr_status pr_model_build(const pr_model_file *file, pr_model_desc *desc, pr_graph *g, pr_err *err);

extern const pr_arch pr__arch_llama;

/* The file's own word for its architecture: "llama", "gpt2", ... or NULL. */
const char *pr_model_arch_name(const pr_model_file *file);

/* ---- helpers for architecture files ---- */

/* Tensors, by GGUF or by safetensors name, whichever the file has. */
typedef struct pr_names {
    const char *gguf, *hf; /* "%u" stands for the layer; hf NULL: none */
} pr_names;

/* The weight node of a tensor. Absent: an error naming it, or PR_NODE_NONE when optional. */
pr_node_id pr_model_weight(const pr_model_file *file, pr_graph *g, pr_names names, uint32_t layer, bool optional);

/* A required or optional number under either key; sets g->err when it is required and absent, or of a wrong type. */
uint32_t pr_model_u32(const pr_model_file *file, pr_graph *g, pr_names keys, bool required, uint32_t fallback);
float pr_model_f32(const pr_model_file *file, pr_graph *g, pr_names keys, bool required, float fallback);
const char *pr_model_str(const pr_model_file *file, pr_graph *g, pr_names keys); /* NULL if absent */

#endif
