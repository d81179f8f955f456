/*
 * Running some of the layers.
 *
 * The schedule is walked as always, with the instructions of other layers left out. Values of the arena keep their places,
 * which the planner gave them for the whole schedule: what is read in a range but made before it is the boundary alone, so
 * nothing else has to survive from one range to the next. The stream is copied in just before the first instruction of
 * the range proper, because what precedes it (the rope table and what it is made of) may use the same bytes in passing.
 *
 * Why not a graph for each range: a cut graph is another graph, with another plan, and "the same bits" would be a
 * property of two lowerings instead of one.
 */
#include "graph/exec_range.h"

#include <assert.h>
#include <string.h>

#include "graph/exec_impl.h"

/* Depends on positions alone, or on nothing. */
static bool of_every_range(const pr_node *n) { return n->rows == PR_ROWS_ONE || n->op == PR_OP_ROPE_TABLE; }

bool pr_graph_in_range(const pr_graph *g, pr_node_id id, uint32_t from, uint32_t to) {
    const pr_node *n = &g->nodes[id];
    return !n->dead && (of_every_range(n) || (n->attr.layer >= from && n->attr.layer < to));
}

pr_status pr_graph_boundary(const pr_graph *g, uint32_t layer, pr_node_id *out, pr_err *err) {
    pr_node_id found = PR_NODE_NONE;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *n = &g->nodes[i];
        if (n->dead || of_every_range(n) || n->attr.layer < layer) continue;
        for (uint32_t j = 0; j < n->n_in; j++) {
            const pr_node *in = n->in[j] == PR_NODE_NONE ? n : &g->nodes[n->in[j]];
            if (of_every_range(in) || in->op == PR_OP_KV_WRITE || in->attr.layer >= layer) continue;
            bool stream = in->rows == PR_ROWS_TOKENS && in->form == PR_FORM_F32;
            if (!stream || (found != PR_NODE_NONE && found != n->in[j]))
                return pr_fail(err, PR_ERR_UNSUPPORTED, "the model cannot be cut before layer %u", layer);
            found = n->in[j];
        }
    }
    if (found == PR_NODE_NONE) return pr_fail(err, PR_ERR_UNSUPPORTED, "the model has no layer %u", layer);
    *out = found;
    return PR_OK;
}

/* ---- the walk ---------------------------------------------------------- */

typedef struct walker {
    pr_exec *e;
    const pr_exec_range *range;
    pr__rows in, out; /* the boundaries; base NULL: none */
    uint32_t in_cols, out_cols;
} walker;

typedef struct loop_ctx {
    const walker *w;
    const pr__instr *in;
} loop_ctx;

static void body_instr(void *ctx, uint32_t chunk, int thread) {
    const loop_ctx *c = ctx;
    pr__exec_chunk(c->w->e, c->in, chunk, thread);
}

static void body_tap(void *ctx, uint32_t chunk, int thread) {
    const loop_ctx *c = ctx;
    const pr_exec_tap *tap = c->w->range->tap;
    const pr__rows *x = &c->in->in[0];
    tap->body(tap->arg, c->in->node, chunk, pr__row(x, 0), x->stride / sizeof(float), pr__row_count(c->w->e, c->in),
              thread);
}

static void body_copy_in(void *ctx, uint32_t chunk, int thread) {
    const walker *w = ctx;
    (void)thread;
    memcpy(pr__row(&w->in, chunk), w->range->hidden + (size_t)chunk * w->in_cols, w->in_cols * sizeof(float));
}

static void body_copy_out(void *ctx, uint32_t chunk, int thread) {
    const walker *w = ctx;
    (void)thread;
    memcpy(w->range->hidden + (size_t)chunk * w->out_cols, pr__row(&w->out, chunk), w->out_cols * sizeof(float));
}

static void walk(void *ctx, int thread) {
    walker *w = ctx;
    pr_exec *e = w->e;
    const pr_exec_tap *tap = w->range->tap;
    bool inside = w->in.base == NULL;
    for (uint32_t i = 0; i < e->n_instrs; i++) {
        const pr__instr *in = &e->instrs[i];
        if (!e->n_chunks[i]) continue;
        if (!inside && !of_every_range(&e->g->nodes[in->node])) {
            pr_team_for(e->team, thread, e->step->n_tokens, body_copy_in, w);
            inside = true;
        }
        loop_ctx c = {w, in};
        uint32_t seen = tap && in->op == PR_OP_MATMUL && !in->q8 ? tap->n_chunks(tap->arg, in->node) : 0;
        if (seen) pr_team_for(e->team, thread, seen, body_tap, &c);
        pr_team_for(e->team, thread, e->n_chunks[i], body_instr, &c);
    }
    if (w->out.base) pr_team_for(e->team, thread, e->step->n_tokens, body_copy_out, w);
}

/* Where the boundary before `layer` stands. */
static pr_status find_boundary(const pr_exec *e, uint32_t layer, pr__rows *rows, uint32_t *cols, pr_err *err) {
    pr_node_id id = PR_NODE_NONE;
    pr_status st = pr_graph_boundary(e->g, layer, &id, err);
    if (st) return st;
    const pr_place *p = &e->plan->places[id];
    assert(p->in_arena);
    *rows = (pr__rows){e->memory + p->offset, p->stride};
    *cols = e->g->nodes[id].cols;
    return PR_OK;
}

pr_status pr_exec_range_run(pr_exec *exec, pr_team *team, const pr_exec_step *step, const pr_exec_range *range,
                            pr_err *err) {
    walker w = {.e = exec, .range = range};
    pr_status st = PR_OK;
    assert(range->from < range->to && range->to <= exec->g->n_layers);
    if (range->from > 0) st = find_boundary(exec, range->from, &w.in, &w.in_cols, err);
    if (!st && range->to < exec->g->n_layers) st = find_boundary(exec, range->to, &w.out, &w.out_cols, err);
    if (st) return st;
    pr__exec_bind(exec, team, step);
    for (uint32_t i = 0; i < exec->n_instrs; i++) {
        bool runs = pr_graph_in_range(exec->g, exec->instrs[i].node, range->from, range->to);
        exec->n_chunks[i] = runs ? pr__exec_count(exec, &exec->instrs[i]) : 0;
    }
    pr_team_run(team, walk, &w);
    return PR_OK;
}
