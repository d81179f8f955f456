/*
 * Measuring.
 *
 * KL(p || q) = sum p (log p - log q) = (sum p x - log Z_p) - (sum p y - log Z_q) for logits x of the source and y of the
 * model. The first half is known once and for all; what is left a row is a dot product and one log Z. Both Z come out of
 * the same vector softmax, so that what it rounds falls out of the difference.
 *
 * One matrix alone is held against the untouched plane file, not against the source: what all the others lose at their
 * best would drown what a matrix loses at 4 bits. The first two thirds of each probe and every STRIDE-th position of
 * them are enough for that, and it is what most of the time goes into.
 */
#include "compress/measure.h"

#include <math.h>
#include <string.h>

#include "base/os.h"
#include "graph/exec_range.h"
#include "graph/passes.h"
#include "model/model.h"
#include "store/residency.h"

enum { PARTS = 8, STRIDE = 2 };

static const double ROOM = 0.6; /* of the memory that is free: planes may take so much */

/* Tokens that a run reads: the same number of each probe, one probe after the other. */
typedef struct reading {
    int32_t *tokens; /* [n_rows] */
    uint32_t n_rows;
    pr_exec_run runs[PR_PROBES_MAX];
} reading;

struct pr_measure {
    pr_model_file *file;
    const pr_plane_set *set;
    pr_model_desc desc;
    pr_graph g;
    pr_plan plan;
    pr_weights w;
    pr_exec *exec;
    pr_residency *residency;
    pr_kv_pool *pool;
    pr_kv_seq seqs[PR_PROBES_MAX];
    reading all, part; /* part: what one matrix alone is measured on */
    pr_calibration *cal;
    const pr_kernels *k;
    pr_team *team;
    pr_plane top;
    float *own; /* [part.n_rows / STRIDE][n_vocab] probabilities of the untouched plane file at every STRIDE-th row */
    double *own_source; /* [part.n_rows / STRIDE] its sum p log p */
    float *streams;     /* [n_layers][part.n_rows][n_embd]: what goes into each layer; that of layer 0 is unused */
    uint32_t *out_rows; /* [all.n_rows] */
    double *source;     /* [all.n_rows] sum p log p */
    double *kl;         /* [all.n_rows] of the last run */
    float *scratch;     /* [threads][n_vocab] */
};

/* ---- one row ---------------------------------------------------------------- */

static double dot(const float *a, const float *b, uint32_t n) {
    double part[PARTS] = {0}, sum = 0;
    uint32_t i = 0;
    for (; i + PARTS <= n; i += PARTS)
        for (uint32_t j = 0; j < PARTS; j++) part[j] += (double)a[i + j] * (double)b[i + j];
    for (; i < n; i++) sum += (double)a[i] * (double)b[i];
    for (uint32_t j = 0; j < PARTS; j++) sum += part[j];
    return sum;
}

/* log of the sum of exp(x); p becomes the softmax of x. */
static double log_sum(const pr_kernels *k, const float *x, uint32_t n, float *p) {
    uint32_t best = 0;
    memmove(p, x, n * sizeof *p);
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    double max = (double)x[best];
    k->softmax(p, n);
    return max - log((double)p[best]);
}

static void look_at_source(void *ctx, uint32_t row, int thread) {
    pr_measure *m = ctx;
    uint32_t n = m->desc.n_vocab;
    float *x = m->cal->probe_logits + (size_t)row * n, *p = m->scratch + (size_t)thread * n;
    double z = log_sum(m->k, x, n, p);
    m->source[row] = dot(p, x, n) - z;
    memcpy(x, p, n * sizeof *x);
}

static void look_at_own(void *ctx, uint32_t i, int thread) {
    pr_measure *m = ctx;
    uint32_t n = m->desc.n_vocab;
    const float *x = pr_exec_output(m->exec, i);
    float *p = m->own + (size_t)i * n;
    (void)thread;
    double z = log_sum(m->k, x, n, p);
    m->own_source[i] = dot(p, x, n) - z;
}

/* A run's row i against row i of p, which has sum p log p in source. */
typedef struct looker {
    pr_measure *m;
    uint32_t n;
    const float *p;
    const double *source;
} looker;

static void look_at_row(void *ctx, uint32_t i, int thread) {
    const looker *l = ctx;
    pr_measure *m = l->m;
    uint32_t n = m->desc.n_vocab;
    const float *y = pr_exec_output(m->exec, i);
    double cross = dot(l->p + (size_t)i * n, y, n) - log_sum(m->k, y, n, m->scratch + (size_t)thread * n);
    double kl = l->source[i] - cross;
    m->kl[i] = kl < 0 ? 0 : kl; /* equal rows differ by rounding */
}

static void source_thread(void *ctx, int thread) {
    pr_measure *m = ctx;
    pr_team_for(m->team, thread, m->all.n_rows, look_at_source, m);
}

static void own_thread(void *ctx, int thread) {
    pr_measure *m = ctx;
    pr_team_for(m->team, thread, m->part.n_rows / STRIDE, look_at_own, m);
}

static void row_thread(void *ctx, int thread) {
    looker *l = ctx;
    pr_team_for(l->m->team, thread, l->n, look_at_row, l);
}

/* ---- runs -------------------------------------------------------------------- */

static float *stream_of(const pr_measure *m, uint32_t layer) {
    return m->streams + (size_t)layer * m->part.n_rows * m->desc.n_embd;
}

static pr_status run_layers(pr_measure *m, const reading *of, uint32_t from, uint32_t to, uint32_t n_out, float *hidden,
                            pr_err *err) {
    const pr_exec_step step = {.n_tokens = of->n_rows,
                               .n_out = n_out,
                               .tokens = of->tokens,
                               .out_rows = m->out_rows,
                               .runs = of->runs,
                               .n_runs = m->cal->n_probes,
                               .view = PR_VIEW_MAIN};
    const pr_exec_range range = {from, to, hidden, NULL};
    pr_residency_step_begin(m->residency);
    pr_status st = pr_exec_range_run(m->exec, m->team, &step, &range, err);
    pr_residency_step_end(m->residency);
    return st;
}

/* From a layer to the logits of every stride-th row. */
static pr_status run_to_logits(pr_measure *m, const reading *of, uint32_t from, uint32_t stride, pr_err *err) {
    uint32_t n = of->n_rows / stride;
    for (uint32_t i = 0; i < n; i++) m->out_rows[i] = i * stride + stride - 1;
    return run_layers(m, of, from, m->desc.n_layers, n, stream_of(m, from), err);
}

static double mean_kl(looker *l) {
    double sum = 0;
    pr_team_run(l->m->team, row_thread, l);
    for (uint32_t i = 0; i < l->n; i++) sum += l->m->kl[i];
    return sum / l->n;
}

/* The streams between the layers of the untouched model, and what it says. */
static pr_status run_untouched(pr_measure *m, pr_err *err) {
    size_t bytes = (size_t)m->part.n_rows * m->desc.n_embd * sizeof(float);
    uint32_t last = m->desc.n_layers - 1;
    pr_status st = PR_OK;
    for (uint32_t layer = 0; layer < last && !st; layer++) {
        float *out = stream_of(m, layer + 1);
        if (layer > 0) memcpy(out, stream_of(m, layer), bytes);
        st = run_layers(m, &m->part, layer, layer + 1, 0, out, err);
    }
    if (!st) st = run_to_logits(m, &m->part, last, STRIDE, err);
    if (!st) pr_team_run(m->team, own_thread, m);
    return st;
}

static void cap_matrix(pr_measure *m, uint32_t tensor, pr_plane level) {
    const pr_plane_tensor *t = &m->set->tensors[tensor];
    for (uint32_t u = t->unit0; u < t->unit0 + t->n_units; u++) pr_residency_cap(m->residency, u, level);
}

pr_status pr_measure_matrix(pr_measure *m, uint32_t tensor, pr_plane level, uint32_t from, double *kl, pr_err *err) {
    looker l = {m, m->part.n_rows / STRIDE, m->own, m->own_source};
    cap_matrix(m, tensor, level);
    pr_status st = run_to_logits(m, &m->part, from, STRIDE, err);
    if (!st) *kl = mean_kl(&l);
    cap_matrix(m, tensor, PR_PLANE_P16);
    return st;
}

pr_status pr_measure_units(pr_measure *m, const uint8_t *level, double *kl, pr_err *err) {
    looker l = {m, m->all.n_rows, m->cal->probe_logits, m->source};
    for (uint32_t u = 0; u < m->set->n_units; u++) pr_residency_cap(m->residency, u, (pr_plane)level[u]);
    pr_status st = run_to_logits(m, &m->all, 0, 1, err);
    if (!st) *kl = mean_kl(&l);
    for (uint32_t u = 0; u < m->set->n_units; u++) pr_residency_cap(m->residency, u, PR_PLANE_P16);
    return st;
}

pr_plane pr_measure_top(const pr_measure *m) { return m->top; }

uint32_t pr_measure_rows(const pr_measure *m) { return m->part.n_rows; }

/* ---- opening --------------------------------------------------------------- */

static pr_status open_model(pr_measure *m, const char *path, pr_err *err) {
    pr_graph source;
    pr_graph_init(&source);
    pr_status st = pr_model_file_open(path, &m->file, err);
    if (!st) st = pr_model_build(m->file, &m->desc, &source, err);
    if (!st) st = pr_graph_copy(&source, &m->g, err);
    if (!st) st = pr_graph_lower(&m->g, &(pr_lower_opts){PR_PASS_ROWS, true}, err);
    if (!st) st = pr_plan_make(&m->g, m->all.n_rows, m->all.n_rows, &m->plan, err);
    if (!st) st = pr_weights_plan(&m->g, true, &m->w, err);
    if (!st) m->set = pr_model_file_planes(m->file);
    pr_graph_free(&source);
    return st;
}

/* As many planes as leave most of the memory free. */
static pr_status open_planes(pr_measure *m, pr_plane most, pr_err *err) {
    pr_status st = pr_residency_open(m->file, &m->residency, err);
    if (st) return st;
    double room = ROOM * (double)pr_ram_available();
    m->top = (pr_plane)(m->set->n_planes - 1);
    if (most < m->top) m->top = most;
    uint32_t cursor = m->set->level_cursor[m->top];
    if ((double)pr_residency_bytes_at(m->residency, cursor) > room && m->top == PR_PLANE_P16) {
        cursor = m->set->level_cursor[PR_PLANE_P8];
        m->top = PR_PLANE_P8;
    }
    if ((double)pr_residency_bytes_at(m->residency, cursor) > room)
        return pr_fail(err, PR_ERR_LIMIT, "not enough memory to measure a model of this size");
    st = pr_residency_load(m->residency, cursor, m->team, NULL, NULL, err);
    if (!st) pr_weights_bind(&m->w, &m->g, m->set, m->residency);
    if (!st) st = pr_weights_load(&m->w, &m->g, m->file, m->team, NULL, NULL, err);
    return st;
}

static pr_status open_exec(pr_measure *m, pr_err *err) {
    const pr_exec_opts opts = {.kernels = m->k,
                               .n_threads = pr_team_size(m->team),
                               .rows_max = m->all.n_rows,
                               .out_max = m->all.n_rows,
                               .context_max = m->cal->probe_len,
                               .exact = true};
    const pr_kv_shape shape = {m->desc.n_layers, m->desc.n_kv_heads, m->desc.head_dim, PR_KV_FORM_F32, PR_KV_FORM_F32};
    uint32_t len = m->cal->probe_len, pages = (len + PR_KV_TOKENS - 1) / PR_KV_TOKENS * m->cal->n_probes;
    pr_status st = pr_exec_open(&m->g, &m->plan, &m->w, &opts, &m->exec, err);
    if (!st) st = pr_kv_pool_open(&shape, pages * pr_kv_page_bytes(&shape), &m->pool, err);
    for (uint32_t i = 0; i < m->cal->n_probes && !st; i++) {
        st = pr_kv_seq_init(&m->seqs[i], m->pool, len, err);
        if (!st) st = pr_kv_seq_reserve(&m->seqs[i], len, err);
        uint32_t some = m->part.n_rows / m->cal->n_probes;
        m->all.runs[i] = (pr_exec_run){&m->seqs[i], i * len, len, 0};
        m->part.runs[i] = (pr_exec_run){&m->seqs[i], i * some, some, 0};
        memcpy(m->part.tokens + (size_t)i * some, m->all.tokens + (size_t)i * len, some * sizeof *m->part.tokens);
    }
    return st;
}

static pr_status open_buffers(pr_measure *m, pr_err *err) {
    size_t threads = (size_t)pr_team_size(m->team), n_rows = m->all.n_rows, n_part = m->part.n_rows;
    size_t stream = n_part * m->desc.n_embd * sizeof(float);
    m->part.tokens = pr_calloc(PR_TAG_SCRATCH, n_part, sizeof *m->part.tokens);
    m->own = pr_alloc(PR_TAG_SCRATCH, n_part / STRIDE * m->desc.n_vocab * sizeof *m->own);
    m->own_source = pr_calloc(PR_TAG_SCRATCH, n_part, sizeof *m->own_source);
    m->streams = pr_alloc(PR_TAG_SCRATCH, stream * m->desc.n_layers);
    m->out_rows = pr_calloc(PR_TAG_SCRATCH, n_rows, sizeof *m->out_rows);
    m->source = pr_calloc(PR_TAG_SCRATCH, n_rows, sizeof *m->source);
    m->kl = pr_calloc(PR_TAG_SCRATCH, n_rows, sizeof *m->kl);
    m->scratch = pr_alloc(PR_TAG_SCRATCH, threads * m->desc.n_vocab * sizeof *m->scratch);
    bool got = m->part.tokens && m->own && m->own_source && m->streams && m->out_rows && m->source && m->kl;
    if (got && m->scratch) return PR_OK;
    return pr_fail_nomem(err, "buffers for measuring", stream * m->desc.n_layers);
}

pr_status pr_measure_open(const char *path, pr_calibration *cal, pr_plane most, const pr_kernels *k, pr_team *team,
                          pr_measure **out, pr_err *err) {
    *out = NULL;
    pr_measure *m = pr_calloc(PR_TAG_SCRATCH, 1, sizeof *m);
    if (!m) return pr_fail_nomem(err, "measuring", sizeof *m);
    m->cal = cal;
    m->k = k;
    m->team = team;
    m->all.n_rows = cal->n_probes * cal->probe_len;
    m->all.tokens = cal->probe_tokens;
    m->part.n_rows = cal->n_probes * ((2 * cal->probe_len + 2) / 3);
    pr_graph_init(&m->g);
    pr_status st = open_model(m, path, err);
    if (!st) st = open_buffers(m, err);
    if (!st) st = open_planes(m, most, err);
    if (!st) st = open_exec(m, err);
    if (!st) pr_team_run(team, source_thread, m);
    if (!st && most > PR_PLANE_P4) st = run_untouched(m, err);
    if (st) pr_measure_close(m);
    else *out = m;
    return st;
}

void pr_measure_close(pr_measure *m) {
    if (!m) return;
    pr_exec_close(m->exec);
    for (uint32_t i = 0; i < PR_PROBES_MAX; i++) pr_kv_seq_free(&m->seqs[i]);
    pr_kv_pool_close(m->pool);
    pr_residency_close(m->residency);
    pr_weights_free(&m->w);
    pr_graph_free(&m->g);
    pr_model_file_close(m->file);
    pr_free(m->part.tokens);
    pr_free(m->own);
    pr_free(m->own_source);
    pr_free(m->streams);
    pr_free(m->out_rows);
    pr_free(m->source);
    pr_free(m->kl);
    pr_free(m->scratch);
    pr_free(m);
}
