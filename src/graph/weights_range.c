/*
 * Loading weights by layers.
 *
 * Each matrix has a mapping of its own, made when it is wanted and gone when it is not: unlike parts of one large mapping,
 * that needs no care for what shares a page. Reading is cut into work items as in weights.c, so the disk is read while
 * tiles are packed.
 */
#include "graph/weights_range.h"

#include <stdatomic.h>

#include "graph/exec_range.h"
#include "store/convert.h"

enum { ALIGN = 64, CHUNK_BYTES = 1 << 20 };

static bool is_matrix(const pr_weights *w, const pr_graph *g, uint32_t i) {
    return g->nodes[i].op == PR_OP_WEIGHT && !g->nodes[i].dead && w->mats[i].rows > 0;
}

static size_t matrix_bytes(const pr_weight *m) { return pr_pack_tiles(m->rows) * pr_pack_tile_bytes(m->pack, m->cols); }

static void drop(pr_weight *m) {
    pr_unmap(PR_TAG_WEIGHTS, (void *)(uintptr_t)m->data, matrix_bytes(m));
    m->data = NULL;
}

pr_status pr_weights_begin(pr_weights *w, const pr_graph *g, const pr_model_file *file, pr_err *err) {
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *n = &g->nodes[i];
        if (n->op != PR_OP_WEIGHT || n->dead || is_matrix(w, g, i)) continue;
        float *data = pr_alloc(PR_TAG_WEIGHTS, n->cols * sizeof *data);
        pr_status st = data ? pr_convert_floats(file, n->tensor, data, err)
                            : pr_fail_nomem(err, n->name, n->cols * sizeof *data);
        w->vecs[i] = data;
        if (!st) continue;
        pr_weights_end(w, g);
        return st;
    }
    return PR_OK;
}

void pr_weights_end(pr_weights *w, const pr_graph *g) {
    for (uint32_t i = 0; i < w->n_nodes; i++) {
        if (is_matrix(w, g, i) && w->mats[i].data) drop(&w->mats[i]);
        pr_free((void *)(uintptr_t)w->vecs[i]);
        w->vecs[i] = NULL;
    }
}

/* ---- reading ------------------------------------------------------------ */

typedef struct reader {
    const pr_weights *w;
    const pr_graph *g;
    const pr_model_file *file;
    pr_team *team;
    uint32_t node;
    uint8_t *data;
    uint32_t tiles_each, n_chunks;
    uint8_t *scratch;
    size_t scratch_bytes; /* a thread */
    _Atomic int failed;   /* pr_status of the first failure */
    pr_err *errs;         /* [threads] */
} reader;

static void read_body(void *ctx, uint32_t chunk, int thread) {
    reader *r = ctx;
    const pr_weight *m = &r->w->mats[r->node];
    uint32_t tiles = pr_pack_tiles(m->rows), first = chunk * r->tiles_each;
    uint32_t n = tiles - first < r->tiles_each ? tiles - first : r->tiles_each;
    if (atomic_load(&r->failed)) return;
    pr_status st = pr_convert_tiles(r->file, r->g->nodes[r->node].tensor, m->pack, first, n,
                                    r->data + first * pr_pack_tile_bytes(m->pack, m->cols),
                                    r->scratch + (size_t)thread * r->scratch_bytes, &r->errs[thread]);
    if (st) atomic_store(&r->failed, (int)st);
}

static void read_thread(void *ctx, int thread) {
    reader *r = ctx;
    pr_team_for(r->team, thread, r->n_chunks, read_body, r);
}

static pr_status read_matrix(pr_weights *w, const pr_graph *g, uint32_t node, const pr_model_file *file, pr_team *team,
                             pr_err *err) {
    const pr_tensor_info *t = g->nodes[node].tensor;
    pr_weight *m = &w->mats[node];
    size_t threads = (size_t)pr_team_size(team), bytes = matrix_bytes(m);
    reader r = {.w = w, .g = g, .file = file, .team = team, .node = node};
    r.tiles_each = (uint32_t)(CHUNK_BYTES / pr_pack_tile_bytes(m->pack, m->cols));
    if (r.tiles_each < 1) r.tiles_each = 1;
    r.n_chunks = (pr_pack_tiles(m->rows) + r.tiles_each - 1) / r.tiles_each;
    r.scratch_bytes = pr_align_up(pr_convert_scratch(t, m->pack), ALIGN);
    r.scratch = pr_alloc(PR_TAG_FILE, r.scratch_bytes * threads);
    r.errs = pr_calloc(PR_TAG_FILE, threads, sizeof *r.errs);
    r.data = pr_map(PR_TAG_WEIGHTS, bytes);
    pr_status st = r.scratch && r.errs && r.data ? PR_OK : pr_fail_nomem(err, t->name, bytes);
    if (!st) {
        pr_team_run(team, read_thread, &r);
        st = (pr_status)atomic_load(&r.failed);
        for (int i = (int)threads - 1; st && i >= 0; i--) { /* several may have failed: one is told */
            if (!r.errs[i].status) continue;
            st = r.errs[i].status;
            if (err) *err = r.errs[i];
        }
    }
    if (!st) m->data = r.data;
    else if (r.data) pr_unmap(PR_TAG_WEIGHTS, r.data, bytes);
    pr_free(r.scratch);
    pr_free(r.errs);
    return st;
}

static bool wanted(const pr_graph *g, uint32_t matrix, uint32_t from, uint32_t to) {
    for (uint32_t i = 0; i < g->n_nodes && from < to; i++)
        for (uint32_t j = 0; j < g->nodes[i].n_in; j++)
            if (g->nodes[i].in[j] == (pr_node_id)matrix && pr_graph_in_range(g, (pr_node_id)i, from, to)) return true;
    return false;
}

pr_status pr_weights_hold(pr_weights *w, const pr_graph *g, const pr_model_file *file, pr_team *team, uint32_t from,
                          uint32_t to, pr_err *err) {
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (is_matrix(w, g, i) && w->mats[i].data && !wanted(g, i, from, to)) drop(&w->mats[i]);
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        if (!is_matrix(w, g, i) || w->mats[i].data || !wanted(g, i, from, to)) continue;
        pr_status st = read_matrix(w, g, i, file, team, err);
        if (st) return st;
    }
    return PR_OK;
}
