/*
 * Memory plan: a checker that plays the schedule on a board of cells.
 *
 * The board has a cell for each four bytes of the arena. An operation that makes a value writes (value, row, column)
 * into the cells of its place; one that reads a value wants exactly that in the cells it reads. So a value that was
 * overwritten while somebody still needs it is found however it came about, without trusting the planner's own idea of
 * who is alive. Operations that do not work element by element must not write where they read, since their work items
 * run at the same time. Random graphs go where llama does not.
 */
#include "graph/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "graph/passes.h"
#include "kernels/kernels.h"
#include "model/model.h"
#include "support/rig.h"

enum { ALL_PASSES = 255, EMPTY = -1 };

typedef struct cell {
    int32_t value; /* node that made it, slices resolved; EMPTY */
    uint32_t row, col;
} cell;

typedef struct board {
    const pr_graph *g;
    const pr_plan *plan;
    uint32_t rows_max, out_max;
    cell *cells;
    size_t n_cells;
    char *found; /* what is wrong, for the caller; "" */
} board;

static bool placed(const pr_node *n) {
    return n->op != PR_OP_WEIGHT && n->op != PR_OP_CONST && n->op != PR_OP_KV_WRITE && !n->once;
}

static uint32_t row_count(const board *b, const pr_node *n) {
    return n->rows == PR_ROWS_TOKENS ? b->rows_max : n->rows == PR_ROWS_OUT ? b->out_max : 1;
}

static uint32_t cells_of_row(const pr_node *n) {
    uint32_t blocks = n->cols / PR_BLOCK, q8 = blocks * (uint32_t)(sizeof(pr_qblock) / 4);
    if (n->form == PR_FORM_F32) return n->cols;
    return n->form == PR_FORM_Q8 ? q8 : (q8 + 15) / 16 * 16 + blocks * (uint32_t)(sizeof(pr_qblock13) / 4);
}

static size_t cell_at(const board *b, pr_node_id id, uint32_t row, uint32_t col) {
    const pr_place *p = &b->plan->places[id];
    return (p->offset + row * p->stride) / 4 + col;
}

static void complain(board *b, const char *what, pr_node_id by, pr_node_id about) {
    if (*b->found) return;
    snprintf(b->found, 256, "%s: node %d (%s), about node %d (%s)", what, by, pr_op_name(b->g->nodes[by].op), about,
             pr_op_name(b->g->nodes[about].op));
}

/* The cells of value id hold what it is made of. */
static void read_value(board *b, pr_node_id by, pr_node_id id) {
    const pr_node *n = &b->g->nodes[id];
    if (!placed(n)) return;
    pr_node_id of = id;
    uint32_t first = 0;
    for (; b->g->nodes[of].op == PR_OP_SLICE; of = b->g->nodes[of].in[0]) first += b->g->nodes[of].attr.first;
    for (uint32_t r = 0; r < row_count(b, n); r++) {
        for (uint32_t c = 0; c < cells_of_row(n); c++) {
            size_t i = cell_at(b, id, r, c);
            const cell *at = &b->cells[i < b->n_cells ? i : b->n_cells]; /* one more cell, always empty */
            if (at->value != of || at->row != r || at->col != first + c) complain(b, "overwritten before read", by, id);
        }
    }
}

static void write_value(board *b, pr_node_id id) {
    const pr_node *n = &b->g->nodes[id];
    uint32_t width = cells_of_row(n);
    bool tiles = n->op == PR_OP_MATMUL && !n->attr.gated &&
                 !n->attr.residual; /* the product is stored in whole tiles */
    uint32_t whole = tiles ? (width + PR_TILE_ROWS - 1) / PR_TILE_ROWS * PR_TILE_ROWS : width;
    if (b->plan->places[id].offset % 64 || b->plan->places[id].stride % 64) complain(b, "not aligned", id, id);
    for (uint32_t r = 0; r < row_count(b, n); r++) {
        for (uint32_t c = 0; c < whole; c++) {
            size_t at = cell_at(b, id, r, c);
            if (at >= b->n_cells) {
                complain(b, "outside the arena", id, id);
                return;
            }
            b->cells[at] = (cell){c < width ? id : EMPTY, r, c};
        }
    }
}

/* Byte ranges as first to last row; rows in between belong to the value too. */
static bool touch(const board *b, pr_node_id x, pr_node_id y) {
    const pr_node *n = &b->g->nodes[x], *m = &b->g->nodes[y];
    size_t x0 = cell_at(b, x, 0, 0), x1 = cell_at(b, x, row_count(b, n) - 1, cells_of_row(n));
    size_t y0 = cell_at(b, y, 0, 0), y1 = cell_at(b, y, row_count(b, m) - 1, cells_of_row(m));
    if (x1 <= y0 || y1 <= x0) return false;
    /* Slices of one value interleave row by row: they touch only if their columns do. */
    size_t stride = b->plan->places[x].stride / 4;
    if (b->plan->places[y].stride / 4 != stride || n->rows != m->rows) return true;
    size_t cx = x0 % stride, cy = y0 % stride, base = x0 > y0 ? x0 - y0 : y0 - x0;
    if (base >= stride) return true;
    return cx < cy ? cx + cells_of_row(n) > cy : cy + cells_of_row(m) > cx;
}

static bool same_place(const board *b, pr_node_id x, pr_node_id y) {
    const pr_place *p = &b->plan->places[x], *q = &b->plan->places[y];
    return p->offset == q->offset && p->stride == q->stride && b->g->nodes[x].cols == b->g->nodes[y].cols &&
           b->g->nodes[x].form == b->g->nodes[y].form;
}

/* Where node id may write: apart from what it reads, or exactly over what it reads element by element. */
static void check_hazards(board *b, pr_node_id id) {
    const pr_node *n = &b->g->nodes[id];
    for (uint32_t j = 0; j < n->n_in; j++) {
        if (n->in[j] == PR_NODE_NONE || !placed(&b->g->nodes[n->in[j]])) continue;
        bool element = n->op == PR_OP_ADD || n->op == PR_OP_GATE || n->op == PR_OP_SCALE || n->op == PR_OP_DIV ||
                       (n->op == PR_OP_ROPE && j == 0) ||
                       (n->op == PR_OP_MATMUL && n->attr.residual && j == n->n_in - 1);
        if (!touch(b, id, n->in[j])) continue;
        if (!element || !same_place(b, id, n->in[j])) complain(b, "writes where it reads", id, n->in[j]);
    }
}

/* The last node that reads value v itself or through slices. */
static uint32_t last_reader(const pr_graph *g, uint32_t v) {
    uint32_t last = (pr_node_id)v == g->output ? g->n_nodes : v;
    for (uint32_t k = v + 1; k < g->n_nodes; k++) {
        for (uint32_t j = 0; j < g->nodes[k].n_in; j++) {
            pr_node_id in = g->nodes[k].in[j];
            while (in >= 0 && g->nodes[in].op == PR_OP_SLICE) in = g->nodes[in].in[0];
            if (in == (pr_node_id)v && k > last) last = k;
        }
    }
    return last;
}

typedef struct range {
    size_t from, to;
} range;

static int by_start(const void *a, const void *b) {
    const range *x = a, *y = b;
    return x->from < y->from ? -1 : x->from > y->from;
}

/* The most bytes that hold something which is still read, over all nodes. */
static size_t most_alive(const board *b) {
    const pr_graph *g = b->g;
    size_t most = 0;
    uint32_t *last = pr_calloc(PR_TAG_MISC, g->n_nodes, sizeof *last);
    range *ranges = pr_calloc(PR_TAG_MISC, g->n_nodes, sizeof *ranges);
    assert_true(last && ranges);
    for (uint32_t v = 0; v < g->n_nodes; v++) last[v] = last_reader(g, v);
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        size_t n = 0, alive = 0, end = 0;
        for (uint32_t v = 0; v <= i; v++) {
            if (!placed(&g->nodes[v]) || g->nodes[v].op == PR_OP_SLICE || last[v] < i) continue;
            const pr_place *p = &b->plan->places[v];
            size_t rows = row_count(b, &g->nodes[v]);
            ranges[n++] = (range){p->offset, p->offset + p->stride * (rows - 1) + pr_node_row_bytes(&g->nodes[v])};
        }
        qsort(ranges, n, sizeof *ranges, by_start);
        for (size_t k = 0; k < n; k++) { /* an input and the result over it are the same bytes */
            size_t from = ranges[k].from > end ? ranges[k].from : end;
            if (ranges[k].to > from) alive += ranges[k].to - from;
            if (ranges[k].to > end) end = ranges[k].to;
        }
        if (alive > most) most = alive;
    }
    pr_free(last);
    pr_free(ranges);
    return most;
}

/* "" when the plan is good. */
static const char *check_plan(const pr_graph *g, const pr_plan *plan, uint32_t rows_max, uint32_t out_max,
                              size_t *alive_max) {
    static char found[256];
    found[0] = '\0';
    board b = {.g = g, .plan = plan, .rows_max = rows_max, .out_max = out_max, .found = found};
    b.n_cells = plan->arena_bytes / 4;
    b.cells = pr_calloc(PR_TAG_MISC, b.n_cells + 1, sizeof *b.cells);
    assert_non_null(b.cells);
    for (size_t i = 0; i <= b.n_cells; i++) b.cells[i].value = EMPTY;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *n = &g->nodes[i];
        if (n->op == PR_OP_SLICE || n->once) continue;
        for (uint32_t j = 0; j < n->n_in; j++)
            if (n->in[j] != PR_NODE_NONE) read_value(&b, (pr_node_id)i, n->in[j]);
        if (!placed(n)) continue;
        if (!plan->places[i].in_arena) complain(&b, "has no place", (pr_node_id)i, (pr_node_id)i);
        check_hazards(&b, (pr_node_id)i);
        write_value(&b, (pr_node_id)i);
    }
    read_value(&b, g->output, g->output);
    *alive_max = *found ? 0 : most_alive(&b);
    pr_free(b.cells);
    return found;
}

/* ---- llama ---------------------------------------------------------------- */

typedef struct planned {
    pr_model_file *file;
    pr_graph g;
    pr_plan plan;
} planned;

static void plan_model(const char *path, uint32_t passes, uint32_t rows_max, uint32_t out_max, planned *p) {
    pr_err err = {0};
    pr_model_desc desc;
    *p = (planned){0};
    pr_graph_init(&p->g);
    if (pr_model_file_open(path, &p->file, &err) || pr_model_build(p->file, &desc, &p->g, &err) ||
        pr_graph_lower(&p->g, &(pr_lower_opts){ALL_PASSES & ~passes, false}, &err) ||
        pr_plan_make(&p->g, rows_max, out_max, &p->plan, &err))
        fail_msg("%s", err.text);
}

static void planned_free(planned *p) {
    pr_graph_free(&p->g);
    pr_model_file_close(p->file);
}

static const llama_gguf models[] = {
    {.n_layers = 2},
    {.n_layers = 2, .type = PR_Q8_0, .tied = true, .rope_divisors = true},
    {.n_layers = 2, .type = PR_Q4_1, .other = "attn_v", .other_type = PR_F16, .bias = true, .ff_bias = true},
    {.n_layers = 2, .type = PR_Q8_0, .n_ff = 256, .n_heads = 8, .n_kv_heads = 1},
    {.n_layers = 1, .type = PR_F16, .n_ff = 100, .n_heads = 3, .n_kv_heads = 1, .head_dim = 24},
};
enum { N_MODELS = sizeof models / sizeof *models };
static const llama_gguf shape_of_135m = {
    .dim = 576, .n_layers = 2, .n_heads = 9, .n_kv_heads = 3, .n_ff = 1536, .type = PR_Q4_1, .tied = true};

static void no_value_is_overwritten_while_it_is_needed(void **state) {
    (void)state;
    const uint32_t sizes[][2] = {{1, 1}, {3, 2}, {4, 4}};
    for (size_t m = 0; m < N_MODELS; m++) {
        const char *path = rig_model(&models[m], "m.gguf");
        for (uint32_t passes = 0; passes <= ALL_PASSES; passes++) {
            const uint32_t *size = sizes[passes % 3];
            size_t alive;
            planned p;
            plan_model(path, passes, size[0], size[1], &p);
            const char *wrong = check_plan(&p.g, &p.plan, size[0], size[1], &alive);
            if (*wrong) fail_msg("model %zu, passes %u, %u rows: %s", m, passes, size[0], wrong);
            planned_free(&p);
        }
    }
}

/* The arena against the bound as the planner sees it, and as the checker counts it. Steps of a few rows need next to
 * nothing, and padding decides there. */
static void the_arena_is_close_to_the_bound(void **state) {
    (void)state;
    const uint32_t sizes[][2] = {{64, 32}, {512, 32}};
    double worst = 0, worst_counted = 0;
    for (size_t m = 0; m <= N_MODELS; m++) {
        const char *path = rig_model(m < N_MODELS ? &models[m] : &shape_of_135m, "m.gguf");
        for (uint32_t mask = 0; mask <= 8; mask++) { /* all passes, then each of them off */
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                size_t counted;
                planned p;
                plan_model(path, mask ? ALL_PASSES & ~(1u << (mask - 1)) : ALL_PASSES, sizes[s][0], sizes[s][1], &p);
                assert_string_equal(check_plan(&p.g, &p.plan, sizes[s][0], sizes[s][1], &counted), "");
                assert_true(counted <= p.plan.live_bytes_max);
                assert_true(p.plan.live_bytes_max <= p.plan.arena_bytes);
                double ratio = (double)p.plan.arena_bytes / (double)p.plan.live_bytes_max;
                double far = (double)p.plan.arena_bytes / (double)counted;
                if (ratio > worst) worst = ratio;
                if (far > worst_counted) worst_counted = far;
                planned_free(&p);
            }
        }
    }
    print_message("  arena at most %.3f of what is alive at once (%.3f of what is still read)\n", worst, worst_counted);
    assert_true(worst <= 1.1);
    assert_true(worst_counted <= 1.1);
}

/* ---- random graphs ------------------------------------------------------------ */

/* Any of the values with this many columns, or NONE. */
static pr_node_id pick(rig_rng *rng, const pr_graph *g, uint32_t cols) {
    pr_node_id found = PR_NODE_NONE;
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *node = &g->nodes[i];
        bool fits = node->rows == PR_ROWS_TOKENS && (cols ? node->cols == cols : node->cols > 0) && placed(node);
        if (fits && node->op != PR_OP_ROPE_TABLE && rig_below(rng, ++n) == 0) found = (pr_node_id)i;
    }
    return found;
}

static const pr_tensor_info *random_matrix(rig_rng *rng, pr_graph *g, uint32_t cols, uint32_t rows) {
    pr_tensor_info *t = pr_arena_alloc(&g->arena, sizeof *t);
    assert_non_null(t);
    *t = (pr_tensor_info){.name = "w", .n_dims = 2, .dims = {cols, rows, 1, 1}};
    t->dtype = rig_below(rng, 2) ? PR_Q8_0 : PR_F16;
    return t;
}

static void random_node(rig_rng *rng, pr_graph *g, pr_node_id table) {
    static const uint32_t widths[] = {32, 32, 64, 96, 24, 160};
    pr_node_id a = pick(rng, g, 0), b = pick(rng, g, g->nodes[a].cols);
    uint32_t cols = g->nodes[a].cols, rows = widths[rig_below(rng, 6)];
    switch (rig_below(rng, 8)) {
    case 0: pr_g_add(g, a, b); break;
    case 1: pr_g_gate(g, a, b); break;
    case 2: pr_g_scale(g, a, 2); break;
    case 3: pr_g_rope(g, a, table, 8, false); break;
    case 4:
        if (cols % 32 == 0)
            pr_g_attend(g, a, pr_g_kv_write(g, pick(rng, g, 32), pick(rng, g, 32), 0, 16), cols / 16, 1, 0);
        break;
    default: /* often enough several of one input */
        if (cols % 32 == 0) pr_g_matmul(g, a, pr_g_weight(g, random_matrix(rng, g, cols, rows)), PR_NODE_NONE);
    }
}

static void random_graph(rig_rng *rng, pr_graph *g) {
    const float freqs[4] = {1, 0.5f, 0.25f, 0.125f};
    pr_node_id table = pr_g_rope_table(g, pr_g_const(g, NULL, freqs, 4), 1);
    pr_g_embed(g, pr_g_weight(g, random_matrix(rng, g, 32, 50)));
    uint32_t n = 5 + rig_below(rng, 40);
    for (uint32_t i = 0; i < n; i++) random_node(rng, g, table);
    pr_g_output(g, pr_g_rows(g, pick(rng, g, 0)));
}

static void random_graphs(void **state) {
    (void)state;
    uint32_t n_in_place = 0;
    double worst = 0;
    for (uint64_t seed = 1; seed <= 400; seed++) {
        rig_rng rng = {seed};
        pr_err err = {0};
        pr_graph g;
        pr_plan plan;
        size_t alive;
        pr_graph_init(&g);
        random_graph(&rng, &g);
        if (pr_graph_check(&g, &err)) fail_msg("seed %d: %s", (int)seed, err.text);
        uint32_t off = rig_below(&rng, 2) ? 0 : rig_below(&rng, ALL_PASSES + 1), rows = 1 + rig_below(&rng, 6);
        if (pr_graph_lower(&g, &(pr_lower_opts){off, false}, &err) || pr_plan_make(&g, rows, 2, &plan, &err))
            fail_msg("%s", err.text);
        const char *wrong = check_plan(&g, &plan, rows, 2, &alive);
        if (*wrong) fail_msg("seed %d, passes off %u: %s", (int)seed, off, wrong);
        double ratio = (double)plan.arena_bytes / (double)plan.live_bytes_max;
        if (ratio > worst) worst = ratio;
        for (uint32_t i = 0; i < g.n_nodes; i++) {
            for (uint32_t j = 0; j < g.nodes[i].n_in; j++) {
                pr_node_id in = g.nodes[i].in[j];
                n_in_place += g.nodes[i].op != PR_OP_SLICE && placed(&g.nodes[i]) && in >= 0 && placed(&g.nodes[in]) &&
                              plan.places[i].offset == plan.places[in].offset;
            }
        }
        pr_graph_free(&g);
    }
    print_message("  random graphs: arena at most %.3f of what is alive; %u results in place\n", worst, n_in_place);
    assert_true(n_in_place > 400); /* or nothing dangerous was tried */
    assert_true(worst <= 1.5);
}

/* ---- the checker and the rest ------------------------------------------------ */

/* Move one value onto another: if both are alive together, the checker must see it. */
static void the_checker_finds_bad_plans(void **state) {
    (void)state;
    const char *path = rig_model(&models[1], "m.gguf");
    uint32_t n_tried = 0, n_found = 0;
    size_t alive;
    planned p;
    plan_model(path, ALL_PASSES, 5, 2, &p);
    for (uint32_t i = 0; i < p.g.n_nodes; i++) {
        for (uint32_t j = 0; j < p.g.nodes[i].n_in; j++) {
            pr_node_id in = p.g.nodes[i].in[j];
            bool movable = in >= 0 && placed(&p.g.nodes[i]) && placed(&p.g.nodes[in]) &&
                           p.g.nodes[i].op != PR_OP_SLICE && p.plan.places[i].offset != p.plan.places[in].offset;
            if (!movable) continue;
            pr_place kept = p.plan.places[i];
            p.plan.places[i].offset = p.plan.places[in].offset;
            n_tried++;
            n_found += *check_plan(&p.g, &p.plan, 5, 2, &alive) != '\0';
            p.plan.places[i] = kept;
        }
    }
    assert_true(n_tried > 10);
    assert_int_equal(n_found, n_tried);
    p.plan.places[p.g.output].offset += 4;
    assert_true(*check_plan(&p.g, &p.plan, 5, 2, &alive));
    planned_free(&p);
}

/* Views of a value that others read, or overwrite, as a whole: passes make no such graph today. */
static void slices_beside_their_value(void **state) {
    (void)state;
    for (int form = 0; form < 4; form++) {
        const pr_tensor_info embd = {.name = "embd", .n_dims = 2, .dims = {64, 50, 1, 1}};
        pr_graph g;
        pr_plan plan;
        size_t alive;
        pr_graph_init(&g);
        pr_node_id x = pr_g_embed(&g, pr_g_weight(&g, &embd));
        pr_node view = {.op = PR_OP_SLICE, .rows = PR_ROWS_TOKENS, .cols = 32, .n_in = 1, .in = {x}};
        pr_node_id left = pr_g_append(&g, &view);
        view.attr.first = 32;
        pr_node_id right = pr_g_append(&g, &view), part, whole;
        if (form % 2) { /* the whole is read after a part could have been overwritten */
            part = pr_g_scale(&g, left, 2);
            whole = pr_g_scale(&g, x, 3);
        } else { /* a part is read after the whole could have been */
            whole = pr_g_scale(&g, x, 3);
            part = pr_g_scale(&g, left, 2);
        }
        part = pr_g_add(&g, part, form < 2 ? right : part);
        view.in[0] = whole;
        pr_g_output(&g, pr_g_rows(&g, pr_g_add(&g, part, pr_g_append(&g, &view))));
        assert_int_equal(pr_plan_make(&g, 3, 2, &plan, NULL), PR_OK);
        assert_string_equal(check_plan(&g, &plan, 3, 2, &alive), "");
        pr_graph_free(&g);
    }
}

/* What fold computes once has memory of its own. */
static void once_values_lie_apart(void **state) {
    (void)state;
    planned p;
    plan_model(rig_model(&models[1], "m.gguf"), ALL_PASSES, 5, 2, &p);
    uint32_t n_once = 0;
    for (uint32_t i = 0; i < p.g.n_nodes; i++) {
        if (!p.g.nodes[i].once) continue;
        n_once++;
        assert_false(p.plan.places[i].in_arena);
        assert_true(p.plan.places[i].offset + pr_node_row_bytes(&p.g.nodes[i]) <= p.plan.once_bytes);
    }
    assert_int_equal(n_once, 1);
    planned_free(&p);
}

static void every_failing_allocation(void **state) {
    (void)state;
    const char *path = rig_model(&models[0], "m.gguf");
    bool through = false;
    for (int64_t after = 0; !through; after++) {
        planned p;
        pr_plan plan;
        pr_err err = {0};
        plan_model(path, ALL_PASSES, 1, 1, &p);
        pr_mem_fail_after(after, false);
        pr_status st = pr_plan_make(&p.g, 4, 2, &plan, &err);
        through = !pr_mem_failed();
        pr_mem_fail_after(-1, false);
        assert_int_equal(st, through ? PR_OK : PR_ERR_NOMEM);
        planned_free(&p);
        assert_true(after < 50);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_value_is_overwritten_while_it_is_needed),
        cmocka_unit_test(the_arena_is_close_to_the_bound),
        cmocka_unit_test(random_graphs),
        cmocka_unit_test(slices_beside_their_value),
        cmocka_unit_test(the_checker_finds_bad_plans),
        cmocka_unit_test(once_values_lie_apart),
        cmocka_unit_test(every_failing_allocation),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
