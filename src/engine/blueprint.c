/*
 * Blueprint: options with their defaults, then file, graph, lowering, plan.
 *
 * The predicted peak is the sum of what the engine will hold when every KV
 * page is in use, plus what a process costs before it has a model.
 */
#include "engine/blueprint.h"

#include <string.h>

enum {
    CONTEXT_DEFAULT_MAX = 8192,
    BATCH_DEFAULT = 512,
    LOGITS_DEFAULT = 32,
    /* Program, libraries and stacks; the vocabulary with its place in the header, a token; the graph twice, a layer: measured, see
     * docs/BENCHMARKS.md. */
    PROCESS_BYTES = 10 << 20,
    VOCAB_BYTES_PER_TOKEN = 125,
    GRAPH_BYTES_PER_LAYER = 30 << 10,
    HUGE_BYTES = 2 << 20, /* planes are read into pages of that size */
};

static pr_status fill_opts(struct pr_estimate *b, const pr_engine_opts *opts, pr_err *err) {
    pr_engine_opts *o = &b->opts;
    if (opts) *o = *opts;
    uint32_t trained = b->desc.context_train;
    if (o->n_threads < 0 || o->n_threads > 1024)
        return pr_fail(err, PR_ERR_ARG, "threads must be between 1 and 1024, not %d", o->n_threads);
    if (o->nice < 0 || o->nice > 19) return pr_fail(err, PR_ERR_ARG, "nice must be between 0 and 19, not %d", o->nice);
    if (o->context_fit && o->context_max > trained) o->context_max = trained;
    if (o->context_max > trained)
        return pr_fail(err, PR_ERR_LIMIT, "a context of %u is more than the %u tokens this model was made for",
                       o->context_max, trained);
    if (o->n_threads == 0) o->n_threads = pr_cpu_allowed();
    if (o->context_max == 0) o->context_max = trained < CONTEXT_DEFAULT_MAX ? trained : CONTEXT_DEFAULT_MAX;
    if (o->batch_max == 0) o->batch_max = BATCH_DEFAULT;
    if (o->batch_max > 1 << 16) return pr_fail(err, PR_ERR_ARG, "a batch of %u is more than 65536", o->batch_max);
    if (o->logits_max == 0) o->logits_max = LOGITS_DEFAULT;
    if (o->logits_max > o->batch_max) o->logits_max = o->batch_max;
    b->exec = (pr_exec_opts){
        .kernels = pr_kernels_get(o->cpumask),
        .n_threads = o->n_threads,
        .rows_max = o->batch_max,
        .out_max = o->logits_max,
        .context_max = o->context_max,
        .exact = o->exact,
    };
    return PR_OK;
}

static pr_kv_form kv_form(pr_kv_type type, bool exact) {
    switch (type) {
    case PR_KV_F16: return exact ? PR_KV_FORM_F32 : PR_KV_FORM_F16;
    case PR_KV_Q8: return PR_KV_FORM_Q8;
    case PR_KV_Q4: return PR_KV_FORM_Q4;
    }
    return PR_KV_FORM_F32;
}

static void plan_kv(struct pr_estimate *b) {
    const pr_model_desc *d = &b->desc;
    b->kv = (pr_kv_shape){d->n_layers, d->n_kv_heads, d->head_dim, kv_form(b->opts.kv_type.k, b->opts.exact),
                          kv_form(b->opts.kv_type.v, b->opts.exact)};
    size_t page = pr_kv_page_bytes(&b->kv), pages = ((size_t)b->opts.context_max + PR_KV_TOKENS - 1) / PR_KV_TOKENS;
    if (b->opts.kv_contexts > 1) pages *= b->opts.kv_contexts;
    if (b->opts.kv_bytes_max) pages = b->opts.kv_bytes_max < page ? 1 : b->opts.kv_bytes_max / page;
    b->kv_bytes_max = pages * page;
}

static pr_status describe_weights(struct pr_estimate *b, pr_err *err) {
    pr_str types = {0}, note = {0};
    pr_weights_types(&b->graph, &types);
    pr_weights_note(&b->graph, b->opts.exact, &note);
    b->types = pr_str_take(&types);
    b->note = pr_str_take(&note);
    return b->types && b->note ? PR_OK : pr_fail_nomem(err, "description", 0);
}

pr_status pr__blueprint_init(struct pr_estimate *b, const char *path, const pr_engine_opts *opts, pr_err *err) {
    *b = (struct pr_estimate){0};
    pr_graph_init(&b->source);
    pr_graph_init(&b->graph);
    pr_status st = pr_model_file_open(path, &b->file, err);
    if (!st) st = pr_model_build(b->file, &b->desc, &b->source, err);
    if (!st) st = fill_opts(b, opts, err);
    if (!st) st = pr_graph_copy(&b->source, &b->graph, err);
    if (!st) st = pr_graph_lower(&b->graph, &(pr_lower_opts){b->opts.passes_off, b->opts.exact}, err);
    if (!st) st = pr_plan_make(&b->graph, b->exec.rows_max, b->exec.out_max, &b->plan, err);
    if (!st) st = pr_weights_plan(&b->graph, b->opts.exact, &b->weights, err);
    if (!st) st = pr__levels_plan(b, err);
    if (!st) st = describe_weights(b, err);
    if (st) pr__blueprint_free(b);
    else plan_kv(b);
    return st;
}

void pr__blueprint_free(struct pr_estimate *b) {
    pr_weights_free(&b->weights);
    pr_graph_free(&b->graph);
    pr_graph_free(&b->source);
    pr_model_file_close(b->file);
    pr_free(b->types);
    pr_free(b->note);
    pr_free(b->planes_at);
    *b = (struct pr_estimate){0};
}

/* ---- public ----------------------------------------------------------- */

pr_status pr_engine_estimate(const char *path, const pr_engine_opts *opts, pr_estimate **out, pr_err *err) {
    *out = NULL;
    pr_estimate *e = pr_calloc(PR_TAG_GRAPH, 1, sizeof *e);
    if (!e) return pr_fail_nomem(err, "estimate", sizeof *e);
    pr_status st = pr__blueprint_init(e, path, opts, err);
    if (st) pr_free(e);
    else *out = e;
    return st;
}

void pr_estimate_close(pr_estimate *estimate) {
    if (!estimate) return;
    pr__blueprint_free(estimate);
    pr_free(estimate);
}

static size_t other_bytes(const struct pr_estimate *b) {
    return (size_t)b->desc.n_vocab * VOCAB_BYTES_PER_TOKEN + (size_t)b->desc.n_layers * GRAPH_BYTES_PER_LAYER;
}

size_t pr__peak_bytes(const struct pr_estimate *b, uint32_t n) {
    size_t planes = b->planes ? pr_align_up(b->planes_at[n], HUGE_BYTES) : 0; /* the last page is whole in memory */
    return b->weights.bytes + planes + b->kv_bytes_max + pr_exec_bytes(&b->graph, &b->plan, &b->weights, &b->exec) +
           other_bytes(b) + PROCESS_BYTES;
}

void pr_estimate_describe(const pr_estimate *estimate, pr_engine_info *out) {
    const pr_model_desc *d = &estimate->desc;
    *out = (pr_engine_info){
        .path = pr_model_file_path(estimate->file),
        .arch = d->arch,
        .name = d->name,
        .weight_types = estimate->types,
        .note = estimate->note,
        .isa = estimate->exec.kernels->name,
        .chat_template = "",
        .n_params = estimate->weights.n_params,
        .n_layers = d->n_layers,
        .n_embd = d->n_embd,
        .n_heads = d->n_heads,
        .n_kv_heads = d->n_kv_heads,
        .head_dim = d->head_dim,
        .n_ff = d->n_ff,
        .n_vocab = d->n_vocab,
        .context_train = d->context_train,
        .context_max = estimate->opts.context_max,
        .batch_max = estimate->opts.batch_max,
        .logits_max = estimate->opts.logits_max,
        .n_threads = estimate->opts.n_threads,
        .file_bytes = pr_model_file_bytes(estimate->file),
        .weight_bytes = estimate->weights.bytes,
        .weight_bytes_read = estimate->weights.read_bytes,
        .kv_bytes_per_token = pr_kv_page_bytes(&estimate->kv) / PR_KV_TOKENS,
        .kv_bytes_max = estimate->kv_bytes_max,
        .scratch_bytes = pr_exec_bytes(&estimate->graph, &estimate->plan, &estimate->weights, &estimate->exec),
    };
    out->other_bytes = other_bytes(estimate);
    out->peak_bytes = pr__peak_bytes(estimate, estimate->cursor);
    if (estimate->planes) {
        out->weight_bytes += estimate->planes_at[estimate->cursor];
        out->weight_bytes_read += pr_weights_nested_read_bytes(&estimate->weights, &estimate->graph, estimate->planes,
                                                               estimate->cursor);
    }
}

pr_status pr_estimate_graph(const pr_estimate *estimate, char **text, pr_err *err) {
    pr_str s = {0};
    pr_str_printf(&s, "# as described: %u nodes\n", estimate->source.n_nodes);
    pr_graph_dump(&estimate->source, &s);
    pr_str_printf(&s, "\n# lowered: %u nodes, arena %zu B (%zu B alive at most), weights %zu B\n",
                  estimate->graph.n_nodes, estimate->plan.arena_bytes, estimate->plan.live_bytes_max,
                  estimate->weights.bytes);
    pr_graph_dump(&estimate->graph, &s);
    *text = pr_str_take(&s);
    return *text ? PR_OK : pr_fail_nomem(err, "graph text", 0);
}
