/*
 * Memory plan: liveness, then greedy placement, largest value first.
 *
 * A buffer is a value and everything that lives in its bytes: its slices, and
 * results written in its place. Its life runs from the node that makes it to
 * the last node that reads any of it. Buffers are placed in order of size at
 * the lowest offset that is free during their whole life; for graphs of this
 * shape that lands within a few percent of the bound (a test holds it to 1.1).
 *
 * Why not one pool with a free list at run time: the order is static, so the
 * answer is too, and a step then allocates nothing.
 */
#include "graph/plan.h"

#include <stdlib.h>

enum { ALIGN = 64 };

typedef struct buffer {
    pr_node_id root;      /* the node that names this buffer */
    uint32_t first, last; /* nodes between which it is alive, both included */
    size_t bytes, offset;
} buffer;

typedef struct planner {
    pr_graph *g;
    pr_plan *plan;
    uint32_t rows_max, out_max;
    pr_node_id *root; /* [n_nodes] node whose buffer holds this value; itself if its own */
    uint32_t *last;   /* [n_nodes] of roots: last reader of anything in the buffer */
    buffer *buffers;
    uint32_t n_buffers;
} planner;

/* Padded so that rows are whole cache lines, and not a power of two apart: a column of rows would share cache sets. */
static size_t row_stride(const pr_node *n) {
    size_t bytes = pr_align_up(pr_node_row_bytes(n), ALIGN);
    return n->rows != PR_ROWS_ONE && bytes % 1024 == 0 ? bytes + ALIGN : bytes;
}

static bool has_value(const pr_node *n) {
    return n->op != PR_OP_WEIGHT && n->op != PR_OP_CONST && n->op != PR_OP_KV_WRITE;
}

static size_t value_bytes(const planner *p, const pr_node *n) {
    uint32_t rows = n->rows == PR_ROWS_TOKENS ? p->rows_max : n->rows == PR_ROWS_OUT ? p->out_max : 1;
    return row_stride(n) * rows;
}

/* The input that this operation could overwrite element by element, or PR_NODE_NONE. */
static pr_node_id overwrites(const pr_graph *g, const pr_node *n) {
    pr_node_id in = PR_NODE_NONE;
    if (n->op == PR_OP_ROPE || n->op == PR_OP_ADD || n->op == PR_OP_GATE || n->op == PR_OP_SCALE) in = n->in[0];
    if (n->op == PR_OP_MATMUL && n->attr.residual) in = n->in[n->n_in - 1];
    if (in == PR_NODE_NONE) return in;
    const pr_node *from = &g->nodes[in];
    bool fits = has_value(from) && from->rows == n->rows && from->form == n->form && from->cols == n->cols &&
                !from->once;
    return fits ? in : PR_NODE_NONE;
}

/* Last node that reads each value, through slices of it too. Readers come after what they read: walk backwards. */
static void last_readers(const pr_graph *g, uint32_t *reach) {
    for (uint32_t i = g->n_nodes; i-- > 0;) {
        const pr_node *n = &g->nodes[i];
        uint32_t until = n->op == PR_OP_SLICE && reach[i] > i ? reach[i] : i;
        for (uint32_t j = 0; j < n->n_in; j++)
            if (n->in[j] != PR_NODE_NONE && until > reach[n->in[j]]) reach[n->in[j]] = until;
    }
    reach[g->output] = g->n_nodes;
}

/* True when nobody but slices reads node id itself. */
static bool read_by_slices_only(const pr_graph *g, pr_node_id id) {
    for (uint32_t i = 0; i < g->n_nodes; i++)
        for (uint32_t j = 0; j < g->nodes[i].n_in; j++)
            if (g->nodes[i].in[j] == id && g->nodes[i].op != PR_OP_SLICE) return false;
    return true;
}

/* May node i write its result over its input `in`? Only as the last reader of those bytes. */
static bool in_place(const planner *p, uint32_t i, pr_node_id in, const uint32_t *reach) {
    const pr_node *n = &p->g->nodes[i], *from = &p->g->nodes[in];
    if (reach[in] != i) return false;
    if (n->op == PR_OP_MATMUL && p->root[n->in[0]] == p->root[in]) return false; /* not element by element in x */
    return from->op != PR_OP_SLICE || read_by_slices_only(p->g, from->in[0]);    /* slices do not overlap each other */
}

static pr_status share(planner *p, pr_err *err) {
    pr_graph *g = p->g;
    uint32_t *reach = pr_arena_array(&g->arena, g->n_nodes, sizeof *reach);
    if (!reach) return pr_fail_nomem(err, "memory plan", g->n_nodes * sizeof *reach);
    last_readers(g, reach);
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *n = &g->nodes[i];
        pr_node_id in = n->op == PR_OP_SLICE ? n->in[0] : overwrites(g, n);
        bool shares = in != PR_NODE_NONE && (n->op == PR_OP_SLICE || in_place(p, i, in, reach));
        p->root[i] = shares ? p->root[in] : (pr_node_id)i;
        uint32_t until = reach[i] > i ? reach[i] : i;
        if (until > p->last[p->root[i]]) p->last[p->root[i]] = until;
    }
    return PR_OK;
}

static void collect(planner *p) {
    for (uint32_t i = 0; i < p->g->n_nodes; i++) {
        const pr_node *n = &p->g->nodes[i];
        if (!has_value(n) || n->once || p->root[i] != (pr_node_id)i) continue;
        p->buffers[p->n_buffers++] = (buffer){
            .root = (pr_node_id)i, .first = i, .last = p->last[i], .bytes = value_bytes(p, n)};
    }
}

static int by_size(const void *a, const void *b) {
    const buffer *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return x->first < y->first ? -1 : 1;
}

/* Lowest offset at which buffer k fits between those placed before it and alive with it. */
static size_t lowest_offset(const planner *p, uint32_t k) {
    const buffer *b = &p->buffers[k];
    size_t at = 0;
    bool moved = true;
    while (moved) {
        moved = false;
        for (uint32_t i = 0; i < k; i++) {
            const buffer *o = &p->buffers[i];
            bool together = o->first <= b->last && b->first <= o->last;
            if (!together || at + b->bytes <= o->offset || o->offset + o->bytes <= at) continue;
            at = o->offset + o->bytes;
            moved = true;
        }
    }
    return at;
}

static void place_all(planner *p) {
    qsort(p->buffers, p->n_buffers, sizeof *p->buffers, by_size);
    for (uint32_t k = 0; k < p->n_buffers; k++) {
        buffer *b = &p->buffers[k];
        b->offset = lowest_offset(p, k);
        if (b->offset + b->bytes > p->plan->arena_bytes) p->plan->arena_bytes = b->offset + b->bytes;
        p->plan->places[b->root].offset = b->offset;
    }
    for (uint32_t i = 0; i < p->g->n_nodes; i++) {
        size_t live = 0;
        for (uint32_t k = 0; k < p->n_buffers; k++)
            if (p->buffers[k].first <= i && i <= p->buffers[k].last) live += p->buffers[k].bytes;
        if (live > p->plan->live_bytes_max) p->plan->live_bytes_max = live;
    }
}

/* Places of everything, once the roots have theirs. Inputs come first, so a view finds its parent done. */
static void resolve(planner *p) {
    pr_graph *g = p->g;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *n = &g->nodes[i];
        pr_place *place = &p->plan->places[i];
        if (!has_value(n)) continue;
        if (n->once) {
            *place = (pr_place){.offset = p->plan->once_bytes, .stride = row_stride(n)};
            p->plan->once_bytes += pr_align_up(value_bytes(p, n), ALIGN);
            continue;
        }
        place->in_arena = true;
        place->stride = row_stride(n);
        if (n->op == PR_OP_SLICE) {
            const pr_place *from = &p->plan->places[n->in[0]];
            *place = (pr_place){true, from->offset + n->attr.first * sizeof(float), from->stride};
        } else if (p->root[i] != (pr_node_id)i) {
            *place = p->plan->places[overwrites(g, n)];
        }
    }
}

pr_status pr_plan_make(pr_graph *g, uint32_t rows_max, uint32_t out_max, pr_plan *plan, pr_err *err) {
    *plan = (pr_plan){.places = pr_arena_array(&g->arena, g->n_nodes, sizeof *plan->places)};
    planner p = {.g = g, .plan = plan, .rows_max = rows_max, .out_max = out_max};
    p.root = pr_arena_array(&g->arena, g->n_nodes, sizeof *p.root);
    p.last = pr_arena_array(&g->arena, g->n_nodes, sizeof *p.last);
    p.buffers = pr_arena_array(&g->arena, g->n_nodes, sizeof *p.buffers);
    if (!plan->places || !p.root || !p.last || !p.buffers)
        return pr_fail_nomem(err, "memory plan", g->n_nodes * sizeof(pr_place));
    pr_status st = share(&p, err);
    if (st) return st;
    collect(&p);
    place_all(&p);
    resolve(&p);
    return PR_OK;
}
