/*
 * Executor: from graph and plan to a flat schedule, and the walk over it.
 *
 * All threads walk the schedule together. Each instruction is a loop over work
 * items that the threads claim; instructions of a single work item that follow
 * each other (a norm and its neighbours, when one token is decoded) are run by
 * one thread in a row, so that they cost one barrier together.
 *
 * Why not a task graph with dependencies: a decoder is a chain. A barrier a
 * link is cheaper than bookkeeping, as long as there are few links; the fusion
 * passes see to that.
 */
#include "graph/exec.h"

#include <string.h>

#include "graph/exec_impl.h"

enum { ALIGN = 64 };

/* ---- opening ---------------------------------------------------------- */

static bool does_work(const pr_node *n) {
    return n->op != PR_OP_CONST && n->op != PR_OP_WEIGHT && n->op != PR_OP_SLICE && !n->dead;
}

static bool matmul_wants_q8(const pr_weights *w, const pr_node *n, const pr_exec_opts *opts) {
    pr_pack pack = n->op == PR_OP_MATMUL ? w->mats[n->in[1]].pack : PR_PACK_F32;
    return !opts->exact && (pack == PR_PACK_PLANES || opts->kernels->mm_q8[pack] != NULL);
}

/* A matmul over 8-bit weights whose input the layout pass left as floats converts it itself. */
static bool converts_input(const pr_graph *g, const pr_weights *w, const pr_node *n, const pr_exec_opts *opts) {
    return matmul_wants_q8(w, n, opts) && g->nodes[n->in[0]].form == PR_FORM_F32;
}

/* Rows of form BOTH: what any reader may want. */
static size_t converted_stride(uint32_t cols) {
    return pr_align_up(pr_node_row_bytes(&(pr_node){.form = PR_FORM_BOTH, .cols = cols}), ALIGN);
}

/* Bytes of the shared buffer for inputs that matmuls convert themselves. */
static size_t converted_bytes(const pr_graph *g, const pr_weights *w, const pr_exec_opts *opts) {
    size_t most = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *n = &g->nodes[i];
        if (n->dead || !converts_input(g, w, n, opts)) continue;
        size_t bytes = converted_stride(g->nodes[n->in[0]].cols) * opts->rows_max;
        if (bytes > most) most = bytes;
    }
    return most;
}

static void fill_matmul(pr__instr *in, const pr_weights *w, const pr_node *n) {
    for (uint32_t m = 0; m < n->attr.n_mats; m++) {
        in->mats[m] = &w->mats[n->in[1 + m]];
        in->nested[m] = &w->nested[n->in[1 + m]];
        in->mat_bytes += pr_pack_tiles(in->mats[m]->rows) * pr_pack_tile_bytes(in->mats[m]->pack, in->mats[m]->cols);
        pr_node_id bias = n->attr.bias ? n->in[1 + n->attr.n_mats + m] : PR_NODE_NONE;
        if (bias != PR_NODE_NONE) in->bias[m] = w->vecs[bias];
    }
}

static size_t instr_scratch(const pr_weights *w, const pr_node *n, uint32_t rows_max) {
    if (n->op == PR_OP_KV_WRITE) return n->attr.head_dim * sizeof(float); /* a rotated row */
    if (n->op == PR_OP_ATTEND) return pr__attend_scratch(&n->attr);
    if (n->op == PR_OP_NORM || n->op == PR_OP_GATE) return n->cols * sizeof(float);
    if (n->op != PR_OP_MATMUL) return 0;
    pr__instr in = {.attr = &n->attr};
    fill_matmul(&in, w, n);
    return pr__matmul_scratch(&in, rows_max);
}

static size_t scratch_bytes(const pr_graph *g, const pr_weights *w, uint32_t rows_max) {
    size_t most = ALIGN;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        if (!does_work(&g->nodes[i])) continue;
        size_t bytes = instr_scratch(w, &g->nodes[i], rows_max);
        if (bytes > most) most = bytes;
    }
    return pr_align_up(most, ALIGN);
}

/* Bytes of the states that attention's spans leave for merging. */
static size_t parts_bytes(const pr_graph *g, const pr_exec_opts *opts) {
    size_t most = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *n = &g->nodes[i];
        if (n->op != PR_OP_ATTEND || n->dead || n->attr.n_kv_heads > PR__SPLIT_ITEMS_MAX) continue;
        size_t bytes = pr__attend_parts(&n->attr, opts->context_max) * sizeof(float);
        if (bytes > most) most = bytes;
    }
    return pr_align_up(most, ALIGN);
}

size_t pr_exec_bytes(const pr_graph *g, const pr_plan *plan, const pr_weights *w, const pr_exec_opts *opts) {
    return pr_align_up(plan->arena_bytes, ALIGN) + pr_align_up(plan->once_bytes, ALIGN) + converted_bytes(g, w, opts) +
           parts_bytes(g, opts) + scratch_bytes(g, w, opts->rows_max) * (size_t)opts->n_threads;
}

/* Where the value of node id stands. */
static pr__rows rows_of(const pr_exec *e, const pr_plan *plan, pr_node_id id) {
    const pr_node *n = &e->g->nodes[id];
    if (n->op == PR_OP_CONST || n->op == PR_OP_WEIGHT) {
        const float *data = n->op == PR_OP_CONST ? n->data : e->w->vecs[id];
        return (pr__rows){(uint8_t *)(uintptr_t)data, 0};
    }
    const pr_place *p = &plan->places[id];
    size_t base = p->in_arena ? p->offset : pr_align_up(plan->arena_bytes, ALIGN) + p->offset;
    return (pr__rows){e->memory + base, n->rows == PR_ROWS_ONE ? 0 : p->stride};
}

static pr__instr instr_of(const pr_exec *e, const pr_plan *plan, pr_node_id id) {
    const pr_node *n = &e->g->nodes[id];
    pr__instr in = {.op = n->op, .rows = n->rows, .form = n->form, .cols = n->cols, .attr = &n->attr, .node = id};
    if (n->op != PR_OP_KV_WRITE) in.out = rows_of(e, plan, id);
    for (uint32_t j = 0; j < 2 && j < n->n_in; j++) {
        pr_node_id from = n->in[j];
        bool value = e->g->nodes[from].op != PR_OP_KV_WRITE && !e->w->mats[from].rows;
        if (value) in.in[j] = rows_of(e, plan, from);
    }
    if (n->op == PR_OP_EMBED) {
        in.mats[0] = &e->w->mats[n->in[0]];
        in.nested[0] = &e->w->nested[n->in[0]];
    }
    if (n->op == PR_OP_MATMUL) {
        fill_matmul(&in, e->w, n);
        in.q8 = matmul_wants_q8(e->w, n, &e->opts);
        if (n->attr.residual) in.residual = rows_of(e, plan, n->in[n->n_in - 1]);
    }
    return in;
}

/* Append the instruction of node id, and before it the conversion of its input if it does that itself. */
static void schedule(pr_exec *e, const pr_plan *plan, pr_node_id id, uint8_t *converted) {
    const pr_node *n = &e->g->nodes[id];
    pr__instr in = instr_of(e, plan, id);
    if (converts_input(e->g, e->w, n, &e->opts)) {
        uint32_t cols = e->g->nodes[n->in[0]].cols;
        pr__instr quant = {
            .op = PR_OP_QUANT, .rows = n->rows, .form = PR_FORM_BOTH, .cols = cols, .attr = &n->attr, .node = id};
        quant.in[0] = in.in[0];
        quant.out = (pr__rows){converted, converted_stride(cols)};
        e->instrs[e->n_instrs++] = quant;
        in.in[0] = quant.out;
    }
    e->instrs[e->n_instrs++] = in;
    if (n->op == PR_OP_ATTEND) {
        in.merge = true;
        e->instrs[e->n_instrs++] = in;
    }
}

static void run_once(pr_exec *e, const pr_plan *plan) {
    for (uint32_t i = 0; i < e->g->n_nodes; i++) {
        if (!e->g->nodes[i].once || !does_work(&e->g->nodes[i])) continue;
        pr__instr in = instr_of(e, plan, (pr_node_id)i);
        pr__op_rows(e, &in, 0, 0);
    }
}

static pr_status exec_memory(pr_exec *e, const pr_plan *plan, pr_err *err) {
    uint32_t rows = e->opts.rows_max, most = e->g->n_nodes * 2;
    e->memory_bytes = pr_exec_bytes(e->g, plan, e->w, &e->opts);
    e->scratch_bytes = scratch_bytes(e->g, e->w, rows);
    e->memory = pr_map(PR_TAG_SCRATCH, e->memory_bytes);
    e->instrs = pr_calloc(PR_TAG_GRAPH, most, sizeof *e->instrs);
    e->n_chunks = pr_calloc(PR_TAG_GRAPH, most, sizeof *e->n_chunks);
    e->positions = pr_calloc(PR_TAG_SCRATCH, rows, sizeof *e->positions);
    e->run_of = pr_calloc(PR_TAG_SCRATCH, rows, sizeof *e->run_of);
    e->qrows = pr_calloc(PR_TAG_SCRATCH, rows, sizeof *e->qrows);
    if (!e->memory || !e->instrs || !e->n_chunks || !e->positions || !e->run_of || !e->qrows)
        return pr_fail_nomem(err, "activations", e->memory_bytes);
    e->scratch = e->memory + e->memory_bytes - e->scratch_bytes * (size_t)e->opts.n_threads;
    e->parts = (float *)(void *)(e->scratch - parts_bytes(e->g, &e->opts));
    return PR_OK;
}

pr_status pr_exec_open(const pr_graph *g, const pr_plan *plan, const pr_weights *w, const pr_exec_opts *opts,
                       pr_exec **out, pr_err *err) {
    *out = NULL;
    pr_exec *e = pr_calloc(PR_TAG_GRAPH, 1, sizeof *e);
    if (!e) return pr_fail_nomem(err, "executor", sizeof *e);
    e->g = g;
    e->plan = plan;
    e->w = w;
    e->k = opts->kernels;
    e->opts = *opts;
    pr_status st = exec_memory(e, plan, err);
    if (st) {
        pr_exec_close(e);
        return st;
    }
    uint8_t *converted = e->memory + pr_align_up(plan->arena_bytes, ALIGN) + pr_align_up(plan->once_bytes, ALIGN);
    run_once(e, plan);
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (does_work(&g->nodes[i]) && !g->nodes[i].once) schedule(e, plan, (pr_node_id)i, converted);
    e->output = rows_of(e, plan, g->output);
    *out = e;
    return PR_OK;
}

void pr_exec_close(pr_exec *exec) {
    if (!exec) return;
    pr_unmap(PR_TAG_SCRATCH, exec->memory, exec->memory_bytes);
    pr_free(exec->instrs);
    pr_free(exec->n_chunks);
    pr_free(exec->positions);
    pr_free(exec->run_of);
    pr_free(exec->qrows);
    pr_free(exec);
}

const float *pr_exec_output(const pr_exec *exec, uint32_t i) { return pr__row(&exec->output, i); }

/* ---- a step ----------------------------------------------------------- */

static void bind_rows(pr_exec *e) {
    for (uint32_t r = 0; r < e->step->n_runs; r++) {
        const pr_exec_run *run = &e->step->runs[r];
        for (uint32_t i = 0; i < run->n_rows; i++) {
            e->positions[run->row + i] = run->pos + i;
            e->run_of[run->row + i] = run;
        }
    }
}

static void bind_qrows(pr_exec *e, uint32_t rows_each) {
    e->n_qrows = 0;
    for (uint32_t r = 0; r < e->step->n_runs; r++) {
        const pr_exec_run *run = &e->step->runs[r];
        for (uint32_t at = 0; at < run->n_rows; at += rows_each) {
            uint32_t n = run->n_rows - at < rows_each ? run->n_rows - at : rows_each;
            e->qrows[e->n_qrows++] = (pr__qrows){run, at, n};
        }
    }
}

uint32_t pr__exec_count(pr_exec *e, const pr__instr *in) {
    uint32_t rows = pr__row_count(e, in);
    if (rows == 0) return 0;
    if (in->op == PR_OP_MATMUL) return pr__matmul_chunks(in, rows);
    if (in->op == PR_OP_ATTEND && in->merge) return e->split ? e->n_qrows * in->attr->n_kv_heads : 0;
    if (in->op == PR_OP_ATTEND) {
        bind_qrows(e, pr__attend_rows(in->attr)); /* the same for every layer of a model */
        e->split = pr__attend_splits(e, in);
        return pr__attend_chunks(e, in);
    }
    return (rows + PR__ROWS_PER_CHUNK - 1) / PR__ROWS_PER_CHUNK;
}

void pr__exec_chunk(const pr_exec *e, const pr__instr *in, uint32_t chunk, int thread) {
    if (in->op == PR_OP_MATMUL) pr__op_matmul(e, in, chunk, thread);
    else if (in->merge) pr__op_merge(e, in, chunk, thread);
    else if (in->op == PR_OP_ATTEND) pr__op_attend(e, in, chunk, thread);
    else pr__op_rows(e, in, chunk, thread);
}

typedef struct loop_ctx {
    pr_exec *e;
    uint32_t from, to; /* instructions */
} loop_ctx;

static void body_parallel(void *ctx, uint32_t chunk, int thread) {
    const loop_ctx *c = ctx;
    pr__exec_chunk(c->e, &c->e->instrs[c->from], chunk, thread);
}

static void body_serial(void *ctx, uint32_t chunk, int thread) {
    const loop_ctx *c = ctx;
    (void)chunk;
    for (uint32_t i = c->from; i < c->to; i++)
        if (c->e->n_chunks[i]) pr__exec_chunk(c->e, &c->e->instrs[i], 0, thread);
}

static void walk(void *ctx, int thread) {
    pr_exec *e = ctx;
    for (uint32_t i = 0; i < e->n_instrs;) {
        uint32_t j = i;
        while (j < e->n_instrs && e->n_chunks[j] <= 1) j++;
        if (j > i) {
            loop_ctx c = {e, i, j};
            pr_team_for(e->team, thread, 1, body_serial, &c);
            i = j;
        } else {
            loop_ctx c = {e, i, i + 1};
            pr_team_for(e->team, thread, e->n_chunks[i], body_parallel, &c);
            i++;
        }
    }
}

void pr__exec_bind(pr_exec *e, pr_team *team, const pr_exec_step *step) {
    e->step = step;
    e->team = team;
    bind_rows(e);
}

void pr_exec_step_run(pr_exec *exec, pr_team *team, const pr_exec_step *step) {
    pr__exec_bind(exec, team, step);
    for (uint32_t i = 0; i < exec->n_instrs; i++) exec->n_chunks[i] = pr__exec_count(exec, &exec->instrs[i]);
    pr_team_run(team, walk, exec);
}
