/*
 * Calibration, layer by layer.
 *
 * For each layer: read its weights, run all chunks through it with a tap on every matmul, add up the Gram matrices,
 * give the weights back, hand the Gram matrices over. Matrices that share an input (q, k and v; gate and up) share one.
 *
 * The pass that drops rows whose logits nobody wants is off: the last layer's matrices are to see all rows as the others do.
 */
#include "compress/calibrate.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "compress/calibration_text.h"
#include "compress/gram.h"
#include "compress/streams.h"
#include "engine/vocab_load.h"
#include "graph/exec_range.h"
#include "graph/passes.h"
#include "graph/weights_range.h"
#include "model/model.h"

enum {
    CHUNK_DEFAULT = 512,
    TOKENS_DEFAULT = 16384,
    ROWS_LOOKED_AT = 64, /* of a chunk: rows whose logits are computed, unless it is a probe */
    TOKENS_MIN = 64,
    LOGITS_BYTES = 64 << 20, /* of the logits of a chunk, and of all probes */
    INPUTS_MAX = 8,          /* different inputs of matmuls in a layer */
    VOCAB_PART = 1024,       /* words of the vocabulary in a work item */
    ALIGN = 64
};

static const size_t STREAM_BYTES = (size_t)1 << 30;

/* One chunk of the text: tokens first .. first + n of all. */
typedef struct chunk {
    uint32_t first, n;
    int probe; /* which one; -1: none */
} chunk;

/* An input of matmuls and what is summed of it. */
typedef struct input {
    pr_node_id value, first_matmul;
    pr_gram gram;
} input;

typedef struct calibrator {
    const pr_model_file *file;
    pr_calibrate_opts o;
    pr_calibration *out;
    pr_model_desc desc;
    pr_graph source, g;
    pr_plan plan;
    pr_weights w;
    pr_exec *exec;
    pr_kv_pool *pool;
    pr_kv_seq seq;
    int32_t *tokens;
    uint32_t n_tokens, chunk_max, out_max;
    chunk *chunks;
    uint32_t n_chunks;
    pr_streams streams;
    float *hidden;      /* [chunk_max][n_embd] */
    uint32_t *out_rows; /* [out_max] */
    double *log_sums;   /* [out_max] */
    uint64_t n_looked;  /* rows whose logits were looked at */
    uint64_t n_scored;  /* of them, with a token that follows */
    double nll;
    input inputs[INPUTS_MAX]; /* of this layer */
    uint32_t n_inputs;
    uint8_t *scratch;
} calibrator;

/* ---- text ----------------------------------------------------------------- */

static pr_status cut_text(calibrator *c, const int32_t *ids, uint32_t n_ids, const int32_t *bos, uint32_t n_bos,
                          pr_err *err) {
    uint32_t body = c->chunk_max - n_bos, n = (n_ids + body - 1) / body;
    assert(ids != NULL);
    c->tokens = pr_calloc(PR_TAG_SCRATCH, n_ids + (size_t)n * n_bos, sizeof *c->tokens);
    c->chunks = pr_calloc(PR_TAG_SCRATCH, n, sizeof *c->chunks);
    if (!c->tokens || !c->chunks) return pr_fail_nomem(err, "the tokens of the calibration text", n_ids * sizeof *ids);
    for (uint32_t at = 0; at < n_ids; at += body) {
        uint32_t len = n_ids - at < body ? n_ids - at : body;
        if (c->n_chunks > 0 && len < TOKENS_MIN / 2) break; /* a rest that has hardly a context */
        c->chunks[c->n_chunks++] = (chunk){c->n_tokens, n_bos + len, -1};
        memcpy(c->tokens + c->n_tokens, bos, n_bos * sizeof *bos);
        memcpy(c->tokens + c->n_tokens + n_bos, ids + at, len * sizeof *ids);
        c->n_tokens += n_bos + len;
    }
    return PR_OK;
}

static pr_status check_tokens(const calibrator *c, const int32_t *ids, size_t n, pr_err *err) {
    if (n < TOKENS_MIN || n > 1 << 24)
        return pr_fail(err, PR_ERR_ARG, "a calibration text of %zu tokens is too %s", n,
                       n < TOKENS_MIN ? "short: at least 64 are needed" : "long");
    if (c->chunk_max < TOKENS_MIN / 2)
        return pr_fail(err, PR_ERR_UNSUPPORTED, "a context of %u tokens is too short to calibrate in", c->chunk_max);
    assert(ids != NULL);
    for (size_t i = 0; i < n; i++)
        if ((uint32_t)ids[i] >= c->desc.n_vocab)
            return pr_fail(err, PR_ERR_FORMAT, "the tokenizer has token %d, the model %u of them", ids[i],
                           c->desc.n_vocab);
    return PR_OK;
}

static pr_status tokenize(calibrator *c, const pr_vocab *vocab, pr_err *err) {
    const char *text = c->o.text ? c->o.text : (const char *)pr__calibration_text;
    size_t len = c->o.text ? c->o.text_len : pr__calibration_text_len, n_bos = 0, n = 0;
    size_t n_max = c->o.n_tokens_max ? c->o.n_tokens_max : TOKENS_DEFAULT;
    int32_t bos[8], *ids = NULL;
    pr_status st = pr_tokenize(vocab, "", 0, PR_TOKENIZE_BOS, bos, 8, &n_bos, err);
    if (!st) st = pr_tokenize(vocab, text, len, PR_TOKENIZE_SPECIAL, NULL, 0, &n, err); /* how many? */
    if (st == PR_ERR_LIMIT && n > 0) {
        ids = pr_calloc(PR_TAG_SCRATCH, n, sizeof *ids);
        st = ids ? pr_tokenize(vocab, text, len, PR_TOKENIZE_SPECIAL, ids, n, &n, err)
                 : pr_fail_nomem(err, "the tokens of the calibration text", n * sizeof *ids);
    }
    if (!st && n > n_max) n = n_max;
    if (!st) st = check_tokens(c, ids, n, err);
    if (!st) st = cut_text(c, ids, (uint32_t)n, bos, (uint32_t)n_bos, err);
    pr_free(ids);
    return st;
}

/* Some chunks, spread over the text, whose first tokens are kept with their logits. */
static pr_status choose_probes(calibrator *c, pr_err *err) {
    pr_calibration *out = c->out;
    size_t row = (size_t)c->desc.n_vocab * sizeof(float), rows = LOGITS_BYTES / row;
    uint32_t n = c->n_chunks < 3 ? 1 : 3;
    out->n_probes = n;
    out->probe_len = c->o.probe_max && c->o.probe_max < c->out_max ? c->o.probe_max : c->out_max;
    if (out->probe_len > rows / n) out->probe_len = rows / n < 16 ? 16 : (uint32_t)(rows / n);
    for (uint32_t i = 0; i < n; i++) {
        chunk *at = &c->chunks[(2 * i + 1) * c->n_chunks / (2 * n)];
        at->probe = (int)i;
        if (at->n < out->probe_len) out->probe_len = at->n;
    }
    size_t n_rows = (size_t)n * out->probe_len;
    out->probe_tokens = pr_calloc(PR_TAG_SCRATCH, n_rows, sizeof *out->probe_tokens);
    out->probe_logits = pr_alloc(PR_TAG_SCRATCH, n_rows * row);
    if (!out->probe_tokens || !out->probe_logits) return pr_fail_nomem(err, "the logits of probes", n_rows * row);
    for (uint32_t i = 0; i < c->n_chunks; i++)
        if (c->chunks[i].probe >= 0)
            memcpy(out->probe_tokens + (size_t)c->chunks[i].probe * out->probe_len, c->tokens + c->chunks[i].first,
                   out->probe_len * sizeof *c->tokens);
    return PR_OK;
}

static pr_status count_tokens(calibrator *c, pr_err *err) {
    pr_calibration *out = c->out;
    out->n_vocab = c->desc.n_vocab;
    out->n_tokens = c->n_tokens;
    out->frequency = pr_calloc(PR_TAG_SCRATCH, out->n_vocab, sizeof *out->frequency);
    out->probability = pr_calloc(PR_TAG_SCRATCH, out->n_vocab, sizeof *out->probability);
    if (!out->frequency || !out->probability) return pr_fail_nomem(err, "token counts", out->n_vocab * sizeof(double));
    for (uint32_t i = 0; i < c->n_tokens; i++) out->frequency[c->tokens[i]] += 1.0 / c->n_tokens;
    return PR_OK;
}

/* ---- opening --------------------------------------------------------------- */

static pr_status open_text(calibrator *c, pr_err *err) {
    pr_vocab *vocab = NULL;
    char *jinja = NULL;
    pr_status st = pr__vocab_load(c->file, NULL, &vocab, &jinja, err);
    if (!st) st = tokenize(c, vocab, err);
    if (!st) st = choose_probes(c, err);
    if (!st) st = count_tokens(c, err);
    pr_vocab_free(vocab);
    pr_free(jinja);
    return st;
}

static pr_status check_cuts(const calibrator *c, pr_err *err) {
    for (uint32_t layer = 1; layer < c->desc.n_layers; layer++) {
        pr_node_id id;
        pr_status st = pr_graph_boundary(&c->g, layer, &id, err);
        if (st) return st;
        if (c->g.nodes[id].cols != c->desc.n_embd)
            return pr_fail(err, PR_ERR_UNSUPPORTED, "the stream before layer %u is not as wide as the model", layer);
    }
    return PR_OK;
}

static pr_status open_graph(calibrator *c, pr_err *err) {
    pr_status st = pr_model_build(c->file, &c->desc, &c->source, err);
    if (!st) st = pr_graph_copy(&c->source, &c->g, err);
    if (!st) st = pr_graph_lower(&c->g, &(pr_lower_opts){PR_PASS_ROWS, true}, err);
    if (!st) st = check_cuts(c, err);
    if (st) return st;
    c->chunk_max = c->o.chunk_max ? c->o.chunk_max : CHUNK_DEFAULT;
    if (c->chunk_max > c->desc.context_train) c->chunk_max = c->desc.context_train;
    size_t rows = LOGITS_BYTES / (c->desc.n_vocab * sizeof(float));
    c->out_max = rows < c->chunk_max ? (uint32_t)rows : c->chunk_max;
    if (c->out_max < 16) c->out_max = 16 < c->chunk_max ? 16 : c->chunk_max; /* the vocabulary is huge */
    st = pr_plan_make(&c->g, c->chunk_max, c->out_max, &c->plan, err);
    if (!st) st = pr_weights_plan(&c->g, true, &c->w, err);
    return st;
}

static pr_status open_buffers(calibrator *c, pr_err *err) {
    size_t threads = (size_t)pr_team_size(c->o.team), row = c->desc.n_embd * sizeof(float);
    c->hidden = pr_alloc(PR_TAG_SCRATCH, c->chunk_max * row);
    c->out_rows = pr_calloc(PR_TAG_SCRATCH, c->out_max, sizeof *c->out_rows);
    c->log_sums = pr_calloc(PR_TAG_SCRATCH, c->out_max, sizeof *c->log_sums);
    c->scratch = pr_map(PR_TAG_SCRATCH, threads * pr_gram_scratch(c->chunk_max));
    if (!c->hidden || !c->out_rows || !c->log_sums || !c->scratch)
        return pr_fail_nomem(err, "buffers of the calibration", c->chunk_max * row);
    size_t bytes_max = c->o.stream_bytes ? c->o.stream_bytes : STREAM_BYTES;
    return pr_streams_open(&c->streams, c->n_tokens, c->desc.n_embd, bytes_max, c->o.folder ? c->o.folder : "/tmp",
                           err);
}

static pr_status open_exec(calibrator *c, pr_err *err) {
    const pr_exec_opts opts = {.kernels = c->o.kernels,
                               .n_threads = pr_team_size(c->o.team),
                               .rows_max = c->chunk_max,
                               .out_max = c->out_max,
                               .context_max = c->chunk_max,
                               .exact = true};
    const pr_kv_shape shape = {c->desc.n_layers, c->desc.n_kv_heads, c->desc.head_dim, PR_KV_FORM_F32, PR_KV_FORM_F32};
    size_t pages = (c->chunk_max + PR_KV_TOKENS - 1) / PR_KV_TOKENS;
    pr_status st = pr_weights_begin(&c->w, &c->g, c->file, err);
    if (!st) st = pr_exec_open(&c->g, &c->plan, &c->w, &opts, &c->exec, err);
    if (!st) st = pr_kv_pool_open(&shape, pages * pr_kv_page_bytes(&shape), &c->pool, err);
    if (!st) st = pr_kv_seq_init(&c->seq, c->pool, c->chunk_max, err);
    return st;
}

static void drop_inputs(calibrator *c) {
    for (uint32_t i = 0; i < c->n_inputs; i++) pr_gram_free(&c->inputs[i].gram);
    c->n_inputs = 0;
}

static void close_all(calibrator *c) {
    drop_inputs(c);
    pr_exec_close(c->exec);
    pr_kv_seq_free(&c->seq);
    pr_kv_pool_close(c->pool);
    pr_weights_end(&c->w, &c->g);
    pr_weights_free(&c->w);
    pr_graph_free(&c->g);
    pr_graph_free(&c->source);
    pr_streams_close(&c->streams);
    if (c->scratch)
        pr_unmap(PR_TAG_SCRATCH, c->scratch, (size_t)pr_team_size(c->o.team) * pr_gram_scratch(c->chunk_max));
    pr_free(c->tokens);
    pr_free(c->chunks);
    pr_free(c->hidden);
    pr_free(c->out_rows);
    pr_free(c->log_sums);
}

/* ---- inputs of a layer -------------------------------------------------------- */

static bool matmul_of(const calibrator *c, uint32_t id, uint32_t layer) {
    return c->g.nodes[id].op == PR_OP_MATMUL && pr_graph_in_range(&c->g, (pr_node_id)id, layer, layer + 1);
}

static input *input_of(calibrator *c, pr_node_id value) {
    for (uint32_t i = 0; i < c->n_inputs; i++)
        if (c->inputs[i].value == value) return &c->inputs[i];
    return NULL;
}

static pr_status list_inputs(calibrator *c, uint32_t layer, pr_err *err) {
    for (uint32_t i = 0; i < c->g.n_nodes; i++) {
        pr_node_id value = c->g.nodes[i].in[0];
        if (!matmul_of(c, i, layer) || input_of(c, value)) continue;
        if (c->n_inputs == INPUTS_MAX)
            return pr_fail(err, PR_ERR_UNSUPPORTED, "layer %u has more than %d inputs of matrices", layer, INPUTS_MAX);
        input *in = &c->inputs[c->n_inputs];
        *in = (input){.value = value, .first_matmul = (pr_node_id)i};
        pr_status st = pr_gram_init(&in->gram, c->g.nodes[value].cols, c->chunk_max, c->o.diagonal, err);
        if (st) return st;
        c->n_inputs++;
    }
    return PR_OK;
}

static uint32_t tap_chunks(void *arg, pr_node_id matmul) {
    calibrator *c = arg;
    input *in = input_of(c, c->g.nodes[matmul].in[0]);
    return in && in->first_matmul == matmul ? pr_gram_take_chunks(&in->gram) : 0;
}

static void tap_body(void *arg, pr_node_id matmul, uint32_t part, const float *x, size_t stride, uint32_t n_rows,
                     int thread) {
    calibrator *c = arg;
    (void)thread;
    pr_gram_take(&input_of(c, c->g.nodes[matmul].in[0])->gram, part, x, stride, n_rows);
}

/* ---- logits ---------------------------------------------------------------- */

typedef struct looker {
    calibrator *c;
    uint32_t n; /* rows of logits */
} looker;

static void sum_row(void *ctx, uint32_t row, int thread) {
    const looker *l = ctx;
    (void)thread;
    const float *x = pr_exec_output(l->c->exec, row);
    uint32_t n = l->c->desc.n_vocab;
    float max = x[0];
    double sum = 0;
    for (uint32_t i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
    for (uint32_t i = 0; i < n; i++) sum += (double)pr_expf(x[i] - max);
    l->c->log_sums[row] = (double)max + log(sum);
}

static void add_probabilities(void *ctx, uint32_t part, int thread) {
    const looker *l = ctx;
    (void)thread;
    uint32_t first = part * VOCAB_PART, n = l->c->desc.n_vocab, end = first + VOCAB_PART < n ? first + VOCAB_PART : n;
    for (uint32_t row = 0; row < l->n; row++) {
        const float *x = pr_exec_output(l->c->exec, row);
        for (uint32_t i = first; i < end; i++)
            l->c->out->probability[i] += (double)pr_expf((float)((double)x[i] - l->c->log_sums[row]));
    }
}

static void look_thread(void *ctx, int thread) {
    looker *l = ctx;
    uint32_t parts = (l->c->desc.n_vocab + VOCAB_PART - 1) / VOCAB_PART;
    pr_team_for(l->c->o.team, thread, l->n, sum_row, l);
    pr_team_for(l->c->o.team, thread, parts, add_probabilities, l);
}

static pr_status look_at_logits(calibrator *c, const chunk *at, uint32_t n_out, pr_err *err) {
    looker l = {c, n_out};
    const int32_t *tokens = c->tokens + at->first;
    pr_team_run(c->o.team, look_thread, &l);
    for (uint32_t i = 0; i < n_out; i++) {
        uint32_t row = c->out_rows[i];
        if (!isfinite(c->log_sums[i]))
            return pr_fail(err, PR_ERR_FORMAT, "the logits are not finite numbers: the model's weights are damaged");
        if (row + 1 < at->n) c->nll += c->log_sums[i] - (double)pr_exec_output(c->exec, i)[tokens[row + 1]];
        c->n_scored += row + 1 < at->n;
    }
    c->n_looked += n_out;
    if (at->probe < 0) return PR_OK;
    size_t n_vocab = c->desc.n_vocab, len = c->out->probe_len;
    for (uint32_t i = 0; i < len; i++)
        memcpy(c->out->probe_logits + ((size_t)at->probe * len + i) * n_vocab, pr_exec_output(c->exec, i),
               n_vocab * sizeof(float));
    return PR_OK;
}

/* Rows whose logits are wanted: a probe's first ones, else some from everywhere. */
static uint32_t choose_rows(calibrator *c, const chunk *at) {
    uint32_t n = c->out_max < ROWS_LOOKED_AT ? c->out_max : ROWS_LOOKED_AT;
    if (n > at->n) n = at->n;
    if (at->probe >= 0) n = c->out->probe_len;
    for (uint32_t i = 0; i < n; i++) c->out_rows[i] = at->probe >= 0 ? i : (uint32_t)((uint64_t)i * at->n / n);
    return n;
}

/* ---- running ----------------------------------------------------------------- */

static pr_status run_chunk(calibrator *c, const chunk *at, uint32_t layer, pr_err *err) {
    bool first = layer == 0, last = layer + 1 == c->desc.n_layers;
    const pr_exec_tap tap = {c, tap_chunks, tap_body};
    const pr_exec_range range = {layer, layer + 1, c->hidden, &tap};
    const pr_exec_run run = {&c->seq, 0, at->n, 0};
    const pr_exec_step step = {.n_tokens = at->n,
                               .n_out = last ? choose_rows(c, at) : 0,
                               .tokens = c->tokens + at->first,
                               .out_rows = c->out_rows,
                               .runs = &run,
                               .n_runs = 1};
    if (c->o.cancel && *c->o.cancel) return pr_fail(err, PR_ERR_CANCELLED, "stopped");
    pr_kv_seq_truncate(&c->seq, 0);
    pr_status st = pr_kv_seq_reserve(&c->seq, at->n, err);
    if (!st && !first) st = pr_streams_get(&c->streams, at->first, at->n, c->hidden, err);
    if (!st) st = pr_exec_range_run(c->exec, c->o.team, &step, &range, err);
    if (!st && !last) st = pr_streams_put(&c->streams, at->first, at->n, c->hidden, err);
    if (!st && last) st = look_at_logits(c, at, step.n_out, err);
    if (st) return st;
    pr_gram grams[INPUTS_MAX];
    for (uint32_t i = 0; i < c->n_inputs; i++) grams[i] = c->inputs[i].gram;
    pr_gram_add(grams, c->n_inputs, c->o.kernels, c->o.team, c->scratch);
    for (uint32_t i = 0; i < c->n_inputs; i++) c->inputs[i].gram = grams[i];
    return PR_OK;
}

static pr_status hand_over(calibrator *c, uint32_t layer, pr_calibrated_fn *fn, void *arg, pr_err *err) {
    pr_status st = PR_OK;
    for (uint32_t i = 0; i < c->n_inputs; i++) pr_gram_finish(&c->inputs[i].gram);
    for (uint32_t i = 0; i < c->g.n_nodes && !st; i++) {
        const pr_node *n = &c->g.nodes[i];
        if (!matmul_of(c, i, layer)) continue;
        const pr_gram *gram = &input_of(c, n->in[0])->gram;
        for (uint32_t m = 1; m <= n->attr.n_mats && !st; m++) {
            const pr_calibrated matrix = {.tensor = c->g.nodes[n->in[m]].tensor,
                                          .gram = c->o.diagonal ? NULL : gram->sum,
                                          .diagonal = c->o.diagonal ? gram->sum : NULL,
                                          .cols = gram->cols,
                                          .n_rows = gram->n_total,
                                          .head = (pr_node_id)i == c->g.output};
            st = fn(arg, &matrix, err);
        }
    }
    drop_inputs(c);
    return st;
}

static pr_status run_layer(calibrator *c, uint32_t layer, pr_calibrated_fn *fn, void *arg, pr_err *err) {
    uint32_t n_layers = c->desc.n_layers;
    pr_status st = pr_weights_hold(&c->w, &c->g, c->file, c->o.team, layer, layer + 1, err);
    if (!st) st = list_inputs(c, layer, err);
    for (uint32_t i = 0; i < c->n_chunks && !st; i++) {
        st = run_chunk(c, &c->chunks[i], layer, err);
        if (!st && c->o.progress) c->o.progress(c->o.progress_arg, (layer + (i + 1.0) / c->n_chunks) / n_layers);
    }
    if (!st) st = pr_weights_hold(&c->w, &c->g, c->file, c->o.team, 0, 0, err);
    return st ? st : hand_over(c, layer, fn, arg, err);
}

pr_status pr_calibrate(const pr_model_file *file, const pr_calibrate_opts *opts, pr_calibrated_fn *fn, void *arg,
                       pr_calibration *out, pr_err *err) {
    calibrator c = {.file = file, .o = *opts, .out = out};
    *out = (pr_calibration){0};
    pr_graph_init(&c.source);
    pr_graph_init(&c.g);
    pr_status st = open_graph(&c, err);
    if (!st) st = open_text(&c, err);
    if (!st) st = open_buffers(&c, err);
    if (!st) st = open_exec(&c, err);
    for (uint32_t layer = 0; layer < c.desc.n_layers && !st; layer++) st = run_layer(&c, layer, fn, arg, err);
    for (uint32_t i = 0; i < out->n_vocab && !st; i++) out->probability[i] /= (double)c.n_looked;
    if (!st && c.n_scored) out->nll = c.nll / (double)c.n_scored;
    close_all(&c);
    if (st) pr_calibration_free(out);
    return st;
}

void pr_calibration_free(pr_calibration *c) {
    pr_free(c->frequency);
    pr_free(c->probability);
    pr_free(c->probe_tokens);
    pr_free(c->probe_logits);
    *c = (pr_calibration){0};
}
