/*
 * Weights of a graph: planning and parallel loading.
 *
 * Loading cuts every matrix into chunks of tiles; the threads of the team
 * claim chunks, read source rows into their own small scratch and pack them in
 * place. So the memory beside the packed weights is a few hundred kilobytes a
 * thread, whatever the model's size, and the disk is read while other chunks
 * are packed.
 *
 * Why packing at load and not mapping the file: the kernels want 16 rows
 * interleaved (kernels/pack.h), which no source format has.
 */
#include "graph/weights.h"

#include <stdatomic.h>

#include "store/convert.h"

enum { ALIGN = 64, CHUNK_BYTES = 1 << 20 };

/* A matrix is read whole in each step unless the only use is looking up token rows. */
static bool only_embedded(const pr_graph *g, pr_node_id id) {
    for (uint32_t i = 0; i < g->n_nodes; i++)
        for (uint32_t j = 0; j < g->nodes[i].n_in; j++)
            if (g->nodes[i].in[j] == id && g->nodes[i].op != PR_OP_EMBED) return false;
    return true;
}

static pr_status plan_one(pr_weights *w, const pr_graph *g, uint32_t i, bool exact, pr_err *err) {
    const pr_node *n = &g->nodes[i];
    size_t bytes;
    if (n->mat_rows) {
        pr_loss loss;
        pr_pack pack;
        pr_status st = pr_convert_plan(n->tensor->dtype, exact, &pack, &loss, err);
        if (st) {
            pr_err_context(err, "tensor %s", n->name);
            return st;
        }
        w->mats[i] = (pr_weight){.pack = pack, .rows = n->mat_rows, .cols = n->cols};
        w->n_params += (uint64_t)n->mat_rows * n->cols;
        if (pack == PR_PACK_PLANES) {
            const pr_plane_tensor *planes = n->tensor->planes;
            w->nested[i] = (pr_nested){NULL, planes->n_units, &planes->book, !only_embedded(g, (pr_node_id)i)};
            return PR_OK;
        }
        if (!pr_size_mul(pr_pack_tiles(n->mat_rows), pr_pack_tile_bytes(pack, n->cols), &bytes))
            return pr_fail(err, PR_ERR_LIMIT, "tensor %s is too large", n->name);
        if (!only_embedded(g, (pr_node_id)i)) w->read_bytes += bytes;
    } else {
        bytes = n->cols * sizeof(float);
        w->n_params += n->cols;
    }
    w->offsets[i] = w->bytes;
    if (!pr_size_add(w->bytes, pr_align_up(bytes, ALIGN), &w->bytes))
        return pr_fail(err, PR_ERR_LIMIT, "the model's weights are too large");
    return PR_OK;
}

pr_status pr_weights_plan(const pr_graph *g, bool exact, pr_weights *w, pr_err *err) {
    *w = (pr_weights){.n_nodes = g->n_nodes};
    w->mats = pr_calloc(PR_TAG_GRAPH, g->n_nodes, sizeof *w->mats);
    w->nested = pr_calloc(PR_TAG_GRAPH, g->n_nodes, sizeof *w->nested);
    w->vecs = pr_calloc(PR_TAG_GRAPH, g->n_nodes, sizeof *w->vecs);
    w->offsets = pr_calloc(PR_TAG_GRAPH, g->n_nodes, sizeof *w->offsets);
    pr_status st = PR_OK;
    if (!w->mats || !w->nested || !w->vecs || !w->offsets)
        st = pr_fail_nomem(err, "weight table", g->n_nodes * sizeof *w->mats);
    for (uint32_t i = 0; i < g->n_nodes && !st; i++)
        if (g->nodes[i].op == PR_OP_WEIGHT && !g->nodes[i].dead) st = plan_one(w, g, i, exact, err);
    if (st) pr_weights_free(w);
    return st;
}

void pr_weights_free(pr_weights *w) {
    if (w->base) pr_unmap(PR_TAG_WEIGHTS, w->base, w->bytes);
    pr_free(w->mats);
    pr_free(w->nested);
    pr_free(w->vecs);
    pr_free(w->offsets);
    *w = (pr_weights){0};
}

/* ---- loading ---------------------------------------------------------- */

typedef struct load_chunk {
    uint32_t node, tile0, n_tiles;
} load_chunk;

typedef struct loader {
    pr_weights *w;
    const pr_graph *g;
    const pr_model_file *file;
    pr_team *team;
    load_chunk *chunks;
    uint32_t n_chunks;
    uint8_t *scratch; /* [threads][scratch_bytes] */
    size_t scratch_bytes;
    _Atomic size_t done; /* chunks */
    _Atomic int failed;  /* pr_status of the first failure */
    pr_err *errs;        /* [threads] */
    void (*progress)(void *arg, double fraction);
    void *progress_arg;
} loader;

static void load_matrix_chunk(loader *l, const load_chunk *c, int thread) {
    const pr_node *n = &l->g->nodes[c->node];
    pr_weight *m = &l->w->mats[c->node];
    uint8_t *out = l->w->base + l->w->offsets[c->node] + c->tile0 * pr_pack_tile_bytes(m->pack, m->cols);
    pr_err *err = &l->errs[thread];
    pr_status st = pr_convert_tiles(l->file, n->tensor, m->pack, c->tile0, c->n_tiles, out,
                                    l->scratch + (size_t)thread * l->scratch_bytes, err);
    if (st) atomic_store(&l->failed, (int)st);
}

static void load_vector(loader *l, const load_chunk *c, int thread) {
    float *out = (float *)(void *)(l->w->base + l->w->offsets[c->node]);
    pr_status st = pr_convert_floats(l->file, l->g->nodes[c->node].tensor, out, &l->errs[thread]);
    if (st) atomic_store(&l->failed, (int)st);
}

static void load_body(void *ctx, uint32_t chunk, int thread) {
    loader *l = ctx;
    const load_chunk *c = &l->chunks[chunk];
    if (atomic_load(&l->failed)) return;
    if (c->n_tiles) load_matrix_chunk(l, c, thread);
    else load_vector(l, c, thread);
    size_t done = atomic_fetch_add(&l->done, 1) + 1;
    if (thread == 0 && l->progress) l->progress(l->progress_arg, (double)done / l->n_chunks);
}

static void load_thread(void *ctx, int thread) {
    loader *l = ctx;
    pr_team_for(l->team, thread, l->n_chunks, load_body, l);
}

/* Count (out NULL) or list the chunks of every weight. */
static uint32_t list_chunks(const pr_weights *w, const pr_graph *g, load_chunk *out) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *node = &g->nodes[i];
        if (node->op != PR_OP_WEIGHT || node->dead || w->mats[i].pack == PR_PACK_PLANES) continue;
        if (!node->mat_rows) {
            if (out) out[n] = (load_chunk){i, 0, 0};
            n++;
            continue;
        }
        uint32_t tiles = pr_pack_tiles(node->mat_rows);
        uint32_t step = (uint32_t)(CHUNK_BYTES / pr_pack_tile_bytes(w->mats[i].pack, node->cols));
        if (step < 1) step = 1;
        for (uint32_t t = 0; t < tiles; t += step, n++)
            if (out) out[n] = (load_chunk){i, t, t + step < tiles ? step : tiles - t};
    }
    return n;
}

static pr_status loader_open(loader *l, pr_err *err) {
    l->n_chunks = list_chunks(l->w, l->g, NULL);
    l->chunks = pr_calloc(PR_TAG_FILE, l->n_chunks ? l->n_chunks : 1, sizeof *l->chunks);
    for (uint32_t i = 0; i < l->g->n_nodes; i++) {
        const pr_node *n = &l->g->nodes[i];
        if (n->op != PR_OP_WEIGHT || n->dead || !n->mat_rows || n->tensor->planes) continue;
        size_t need = pr_align_up(pr_convert_scratch(n->tensor, l->w->mats[i].pack), ALIGN);
        if (need > l->scratch_bytes) l->scratch_bytes = need;
    }
    size_t threads = (size_t)pr_team_size(l->team), bytes;
    l->errs = pr_calloc(PR_TAG_FILE, threads, sizeof *l->errs);
    if (pr_size_mul(l->scratch_bytes, threads, &bytes)) l->scratch = pr_alloc(PR_TAG_FILE, bytes);
    if (!l->chunks || !l->errs || !l->scratch) return pr_fail_nomem(err, "loading buffers", l->scratch_bytes * threads);
    list_chunks(l->w, l->g, l->chunks);
    return PR_OK;
}

static void point_at_data(pr_weights *w, const pr_graph *g) {
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        if (g->nodes[i].op != PR_OP_WEIGHT || g->nodes[i].dead || g->nodes[i].tensor->planes) continue;
        uint8_t *data = w->base + w->offsets[i];
        if (g->nodes[i].mat_rows) w->mats[i].data = data;
        else w->vecs[i] = (const float *)(const void *)data;
    }
}

pr_status pr_weights_load(pr_weights *w, const pr_graph *g, const pr_model_file *file, pr_team *team,
                          void (*progress)(void *arg, double fraction), void *progress_arg, pr_err *err) {
    loader l = {.w = w, .g = g, .file = file, .team = team, .progress = progress, .progress_arg = progress_arg};
    w->base = pr_map(PR_TAG_WEIGHTS, w->bytes);
    if (!w->base) return pr_fail_nomem(err, "weights", w->bytes);
    pr_status st = loader_open(&l, err);
    if (!st) {
        pr_team_run(team, load_thread, &l);
        st = (pr_status)atomic_load(&l.failed);
        for (int t = pr_team_size(team) - 1; st && t >= 0; t--) { /* several may have failed: one is told */
            if (!l.errs[t].status) continue;
            st = l.errs[t].status;
            if (err) *err = l.errs[t];
        }
    }
    if (!st && progress) progress(progress_arg, 1); /* another thread may have been the last */
    if (!st) point_at_data(w, g);
    pr_free(l.chunks);
    pr_free(l.scratch);
    pr_free(l.errs);
    return st;
}

/* ---- nested matrices --------------------------------------------------- */

void pr_weights_bind(pr_weights *w, const pr_graph *g, const pr_plane_set *set, const pr_residency *r) {
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        if (w->mats[i].pack != PR_PACK_PLANES || !w->mats[i].rows) continue;
        uint32_t tensor = (uint32_t)(g->nodes[i].tensor->planes - set->tensors);
        w->nested[i].units = pr_residency_units(r, tensor, &w->nested[i].n_units);
    }
}

size_t pr_weights_nested_read_bytes(const pr_weights *w, const pr_graph *g, const pr_plane_set *set,
                                    uint32_t n_increments) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        if (!w->nested[i].read) continue;
        const pr_plane_tensor *t = g->nodes[i].tensor->planes;
        for (uint32_t u = t->unit0; u < t->unit0 + t->n_units; u++) bytes += pr_plane_unit_bytes(set, u, PR_PLANE_P2);
        for (uint32_t k = 0; k < n_increments; k++)
            if (&set->tensors[set->units[set->increments[k].unit].tensor] == t)
                bytes += pr_plane_unit_bytes(set, set->increments[k].unit, set->increments[k].plane);
    }
    return bytes;
}

/* ---- description ------------------------------------------------------ */

void pr_weights_types(const pr_graph *g, pr_str *out) {
    uint32_t counts[PR_DTYPE_COUNT] = {0};
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].op == PR_OP_WEIGHT && !g->nodes[i].dead) counts[g->nodes[i].tensor->dtype]++;
    for (int t = 0; t < PR_DTYPE_COUNT; t++)
        if (counts[t]) pr_str_printf(out, "%s%s %u", out->len ? ", " : "", pr_dtype_get((pr_dtype)t)->name, counts[t]);
}

void pr_weights_note(const pr_graph *g, bool exact, pr_str *out) {
    uint32_t counts[PR_DTYPE_COUNT] = {0};
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].op == PR_OP_WEIGHT && !g->nodes[i].dead && g->nodes[i].mat_rows)
            counts[g->nodes[i].tensor->dtype]++;
    for (int t = 0; t < PR_DTYPE_COUNT; t++) {
        pr_pack pack;
        pr_loss loss;
        if (!counts[t] || pr_convert_plan((pr_dtype)t, exact, &pack, &loss, NULL) || loss == PR_LOSS_NONE) continue;
        pr_str_printf(out, "%s%u %s tensors held as %s%s", out->len ? "; " : "", counts[t],
                      pr_dtype_get((pr_dtype)t)->name, pr_pack_name(pack),
                      loss == PR_LOSS_REPACK ? " (same values)" : " (rounded)");
    }
}
