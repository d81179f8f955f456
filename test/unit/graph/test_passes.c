/*
 * Lowering: each pass does what its comment says on the llama graph, and whatever passes run, the graph stays one.
 *
 * That no pass changes a logit is shown elsewhere (engine/test_same_bits.c); here it is counted that each of them does
 * something, or a pass that does nothing would look perfect there.
 */
#include "graph/passes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kernels/pack.h"
#include "model/model.h"
#include "support/elastic.h"

enum { LAYERS = 3, ALL_PASSES = 255 };

typedef struct lowered {
    pr_model_file *file;
    pr_model_desc desc;
    pr_graph g;
} lowered;

static void open_model(const char *path, lowered *l) {
    pr_err err = {0};
    *l = (lowered){0};
    pr_graph_init(&l->g);
    if (pr_model_file_open(path, &l->file, &err) || pr_model_build(l->file, &l->desc, &l->g, &err))
        fail_msg("%s: %s", path, err.text);
}

static void close_model(lowered *l) {
    pr_graph_free(&l->g);
    pr_model_file_close(l->file);
}

/* A model file lowered with only these passes. */
static void lower_file(const char *path, uint32_t passes, bool exact, lowered *l) {
    pr_err err = {0};
    open_model(path, l);
    if (pr_graph_lower(&l->g, &(pr_lower_opts){ALL_PASSES & ~passes, exact}, &err)) fail_msg("%s", err.text);
}

static void lower(const llama_gguf *m, uint32_t passes, lowered *l) {
    lower_file(rig_model(m, "m.gguf"), passes, false, l);
}

static uint32_t count(const pr_graph *g, pr_op op) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) n += g->nodes[i].op == op && !g->nodes[i].dead;
    return n;
}

static uint32_t count_form(const pr_graph *g, pr_op op, pr_form form) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) n += g->nodes[i].op == op && g->nodes[i].form == form;
    return n;
}

/* ---- one pass at a time -------------------------------------------------- */

static void without_passes_it_is_as_described(void **state) {
    (void)state;
    lowered l;
    lower(&(llama_gguf){0}, 0, &l);
    assert_int_equal(count(&l.g, PR_OP_MATMUL), 7 * LAYERS + 1);
    assert_int_equal(count(&l.g, PR_OP_NORM), 2 * LAYERS + 1);
    assert_int_equal(count(&l.g, PR_OP_ADD), 2 * LAYERS);
    assert_int_equal(count(&l.g, PR_OP_GATE), LAYERS);
    assert_int_equal(count(&l.g, PR_OP_ROPE), 2 * LAYERS);
    assert_int_equal(count(&l.g, PR_OP_ROWS), 1);
    assert_int_equal(count(&l.g, PR_OP_SLICE) + count(&l.g, PR_OP_QUANT), 0);
    close_model(&l);
}

static void fold_marks_what_no_step_changes(void **state) {
    (void)state;
    lowered l;
    lower(&(llama_gguf){.rope_divisors = true}, PR_PASS_FOLD, &l);
    uint32_t n_once = 0;
    for (uint32_t i = 0; i < l.g.n_nodes; i++) {
        n_once += l.g.nodes[i].once;
        if (l.g.nodes[i].once) assert_int_equal(l.g.nodes[i].op, PR_OP_DIV);
    }
    assert_int_equal(n_once, 1);
    close_model(&l);
}

static void fold_drops_scaling_by_one(void **state) {
    (void)state;
    const pr_tensor_info matrix = {.name = "embd", .n_dims = 2, .dims = {8, 20, 1, 1}};
    pr_graph g;
    pr_graph_init(&g);
    pr_node_id x = pr_g_embed(&g, pr_g_weight(&g, &matrix)), twice = pr_g_scale(&g, x, 2);
    pr_node_id sum = pr_g_add(&g, pr_g_scale(&g, twice, 1), twice);
    pr_g_output(&g, pr_g_scale(&g, sum, 1));
    assert_int_equal(pr_graph_lower(&g, &(pr_lower_opts){ALL_PASSES & ~(PR_PASS_FOLD | PR_PASS_DEAD), false}, NULL), 0);
    assert_int_equal(count(&g, PR_OP_SCALE), 1);
    assert_int_equal(g.nodes[g.output].op, PR_OP_ADD);
    assert_int_equal(g.nodes[g.output].in[0], g.nodes[g.output].in[1]);
    pr_graph_free(&g);
}

/* After the last attention everything is done for wanted rows only, and before it nothing is. */
static void rows_moves_up_to_the_last_attention(void **state) {
    (void)state;
    lowered l;
    lower(&(llama_gguf){0}, PR_PASS_ROWS, &l);
    bool below[256] = {0}; /* needs the last attention */
    assert_true(l.g.n_nodes <= 256);
    uint32_t n_rows = 0, n_below = 0;
    for (uint32_t i = 0; i < l.g.n_nodes; i++) {
        const pr_node *n = &l.g.nodes[i];
        if (n->dead) continue;
        below[i] = n->op == PR_OP_ATTEND && n->attr.layer == LAYERS - 1;
        for (uint32_t j = 0; j < n->n_in; j++) below[i] = below[i] || (n->in[j] >= 0 && below[n->in[j]]);
        n_rows += n->op == PR_OP_ROWS;
        if (n->op == PR_OP_ATTEND || n->op == PR_OP_ROWS) continue;
        n_below += below[i];
        assert_int_equal(below[i], n->rows == PR_ROWS_OUT);
    }
    assert_int_equal(n_rows, 2);      /* of the residual stream and of the attention */
    assert_int_equal(n_below, 5 + 5); /* o, add, norm, gate, up, silu, down, add, norm, output */
    close_model(&l);
}

static void gate_makes_three_into_one(void **state) {
    (void)state;
    lowered l;
    lower(&(llama_gguf){0}, PR_PASS_GATE | PR_PASS_DEAD, &l);
    assert_int_equal(count(&l.g, PR_OP_GATE), 0);
    assert_int_equal(count(&l.g, PR_OP_MATMUL), 6 * LAYERS + 1);
    uint32_t n_gated = 0;
    for (uint32_t i = 0; i < l.g.n_nodes; i++) {
        const pr_node *n = &l.g.nodes[i];
        if (!n->attr.gated) continue;
        n_gated++;
        assert_int_equal(n->attr.n_mats, 2);
        assert_int_equal(n->n_in, 3);
        assert_non_null(strstr(l.g.nodes[n->in[1]].name, "ffn_gate")); /* silu is of the first */
        assert_non_null(strstr(l.g.nodes[n->in[2]].name, "ffn_up"));
    }
    assert_int_equal(n_gated, LAYERS);
    close_model(&l);
    /* Biases are between product and silu, and two matrices that want different activations share none. */
    lower(&(llama_gguf){.ff_bias = true}, PR_PASS_GATE | PR_PASS_DEAD, &l);
    assert_int_equal(count(&l.g, PR_OP_GATE), LAYERS);
    close_model(&l);
    lower(&(llama_gguf){.type = PR_Q8_0, .other = "ffn_up", .other_type = PR_F16}, PR_PASS_GATE | PR_PASS_DEAD, &l);
    assert_int_equal(count(&l.g, PR_OP_GATE), LAYERS);
    close_model(&l);
    lower(&(llama_gguf){.type = PR_Q8_0, .other = "ffn_up", .other_type = PR_Q4_1}, PR_PASS_GATE | PR_PASS_DEAD, &l);
    assert_int_equal(count(&l.g, PR_OP_GATE), 0);
    close_model(&l);
}

/* Slices cover their matmul's result side by side, each starting on a whole tile. */
static void check_slices(const pr_graph *g) {
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *m = &g->nodes[i];
        if (m->op != PR_OP_MATMUL || m->attr.n_mats < 2 || m->attr.gated) continue;
        uint32_t at = 0;
        for (uint32_t k = 0; k < m->attr.n_mats; k++) {
            const pr_node *w = &g->nodes[m->in[1 + k]];
            uint32_t n_views = 0;
            for (uint32_t s = 0; s < g->n_nodes; s++) {
                const pr_node *v = &g->nodes[s];
                if (v->op != PR_OP_SLICE || v->in[0] != (pr_node_id)i || v->attr.first != at) continue;
                assert_int_equal(v->cols, w->mat_rows);
                n_views++;
            }
            assert_int_equal(n_views, 1);
            assert_int_equal(at % PR_TILE_ROWS, 0);
            at += w->mat_rows;
        }
        assert_int_equal(m->cols, at);
    }
}

static void qkv_makes_matmuls_of_one_input_into_one(void **state) {
    (void)state;
    const struct {
        llama_gguf m;
        uint32_t matmuls, slices; /* a layer */
        const char *why;
    } cases[] = {
        {{0}, 4, 5, "q k v; gate up"},
        {{.type = PR_Q8_0}, 4, 5, "all 8-bit"},
        {{.bias = true, .ff_bias = true}, 4, 5, "biases go along"},
        {{.type = PR_Q4_1, .other = "attn_v", .other_type = PR_Q8_0}, 4, 5, "Q4 and Q8 take the same activations"},
        {{.type = PR_Q8_0, .other = "attn_v", .other_type = PR_F32}, 5, 4, "v wants floats"},
        {{.type = PR_Q8_0, .other = "attn_k", .other_type = PR_F32}, 6, 2, "k wants floats and stands between"},
        {{.n_kv_heads = 1, .head_dim = 24}, 5, 4, "k ends inside a tile"},
        {{.n_heads = 1, .n_kv_heads = 1, .head_dim = 24}, 6, 2, "q and k do"},
        {{.n_ff = 100}, 5, 3, "gate does"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lowered l;
        lower(&cases[i].m, PR_PASS_QKV | PR_PASS_DEAD, &l);
        if (count(&l.g, PR_OP_MATMUL) != cases[i].matmuls * LAYERS + 1 ||
            count(&l.g, PR_OP_SLICE) != cases[i].slices * LAYERS)
            fail_msg("%s: %u matmuls, %u slices", cases[i].why, count(&l.g, PR_OP_MATMUL), count(&l.g, PR_OP_SLICE));
        check_slices(&l.g);
        close_model(&l);
    }
}

static void residual_adds_inside_the_matmul(void **state) {
    (void)state;
    lowered l;
    lower(&(llama_gguf){.bias = true}, PR_PASS_RESIDUAL | PR_PASS_DEAD, &l);
    assert_int_equal(count(&l.g, PR_OP_ADD), 0);
    assert_int_equal(count(&l.g, PR_OP_MATMUL), 7 * LAYERS + 1);
    uint32_t n_residual = 0;
    for (uint32_t i = 0; i < l.g.n_nodes; i++) {
        const pr_node *n = &l.g.nodes[i];
        if (!n->attr.residual) continue;
        n_residual++;
        assert_int_equal(n->n_in, 4); /* x, matrix, bias, stream */
        const pr_node *stream = &l.g.nodes[n->in[3]];
        assert_true(stream->op == PR_OP_EMBED || stream->attr.residual);
    }
    assert_int_equal(n_residual, 2 * LAYERS);
    close_model(&l);
}

static void layout_quantizes_each_input_once(void **state) {
    (void)state;
    lowered l;
    lower(&(llama_gguf){.type = PR_Q8_0}, PR_PASS_LAYOUT | PR_PASS_DEAD, &l);
    assert_int_equal(count(&l.g, PR_OP_QUANT), 4 * LAYERS + 1); /* two norms, attention, gate; output */
    for (uint32_t i = 0; i < l.g.n_nodes; i++) {
        const pr_node *n = &l.g.nodes[i];
        if (n->op == PR_OP_MATMUL) assert_int_equal(l.g.nodes[n->in[0]].form, PR_FORM_Q8);
    }
    close_model(&l);
    lower(&(llama_gguf){.type = PR_F16}, PR_PASS_LAYOUT | PR_PASS_DEAD, &l);
    assert_int_equal(count(&l.g, PR_OP_QUANT), 0);
    close_model(&l);
    lower_file(rig_model(&(llama_gguf){.type = PR_Q4_0}, "m.gguf"), PR_PASS_LAYOUT | PR_PASS_DEAD, true, &l);
    assert_int_equal(count(&l.g, PR_OP_QUANT), 0); /* exact */
    close_model(&l);
}

/* A level moves while a model runs: where the highest one reads 13 bits and the others 8, inputs are kept as both. */
static void layout_keeps_inputs_of_planes_in_both_forms(void **state) {
    (void)state;
    const uint32_t passes = PR_PASS_LAYOUT | PR_PASS_NORM | PR_PASS_DEAD;
    lowered l;
    const char *path = elastic_model(&(llama_gguf){.n_layers = LAYERS, .type = PR_F16}, "both.gguf");
    lower_file(path, PR_PASS_LAYOUT | PR_PASS_DEAD, false, &l);
    assert_int_equal(count_form(&l.g, PR_OP_QUANT, PR_FORM_BOTH), 4 * LAYERS + 1);
    assert_int_equal(count(&l.g, PR_OP_QUANT), 4 * LAYERS + 1);
    close_model(&l);
    lower_file(path, passes, false, &l); /* whoever makes the row makes both */
    assert_int_equal(count_form(&l.g, PR_OP_NORM, PR_FORM_BOTH), 2 * LAYERS);
    assert_int_equal(count_form(&l.g, PR_OP_GATE, PR_FORM_BOTH), LAYERS);
    assert_int_equal(count_form(&l.g, PR_OP_NORM, PR_FORM_Q8) + count_form(&l.g, PR_OP_QUANT, PR_FORM_Q8), 0);
    close_model(&l);
    lower_file(path, passes, true, &l); /* exact: floats */
    for (uint32_t i = 0; i < l.g.n_nodes; i++) assert_int_equal(l.g.nodes[i].form, PR_FORM_F32);
    close_model(&l);
    /* Three planes: no level reads 13 bits. */
    path = elastic_model(&(llama_gguf){.n_layers = LAYERS, .type = PR_Q8_0}, "eight.gguf");
    lower_file(path, passes, false, &l);
    assert_int_equal(count_form(&l.g, PR_OP_NORM, PR_FORM_Q8), 2 * LAYERS);
    for (uint32_t i = 0; i < l.g.n_nodes; i++) assert_int_not_equal(l.g.nodes[i].form, PR_FORM_BOTH);
    close_model(&l);
    /* One matrix of four planes is enough for an input that others share. */
    path = elastic_model(&(llama_gguf){.n_layers = LAYERS, .type = PR_Q8_0, .other = "attn_v", .other_type = PR_F16},
                         "v.gguf");
    lower_file(path, passes, false, &l);
    assert_int_equal(count_form(&l.g, PR_OP_NORM, PR_FORM_BOTH), LAYERS);
    assert_int_equal(count_form(&l.g, PR_OP_NORM, PR_FORM_Q8), LAYERS);
    close_model(&l);
}

static void norm_lets_the_maker_write_blocks(void **state) {
    (void)state;
    const uint32_t passes = PR_PASS_LAYOUT | PR_PASS_NORM | PR_PASS_DEAD;
    lowered l;
    lower(&(llama_gguf){.type = PR_Q8_0}, passes, &l);
    assert_int_equal(count(&l.g, PR_OP_QUANT), 1); /* of the selected rows: a copy makes no blocks */
    assert_int_equal(count_form(&l.g, PR_OP_NORM, PR_FORM_Q8), 2 * LAYERS);
    assert_int_equal(count_form(&l.g, PR_OP_ATTEND, PR_FORM_Q8), LAYERS);
    assert_int_equal(count_form(&l.g, PR_OP_GATE, PR_FORM_Q8), LAYERS);
    close_model(&l);
    lower(&(llama_gguf){.type = PR_Q8_0}, passes | PR_PASS_ROWS | PR_PASS_GATE, &l);
    assert_int_equal(count(&l.g, PR_OP_QUANT), 1); /* of the attention's selected rows */
    assert_int_equal(count_form(&l.g, PR_OP_NORM, PR_FORM_Q8), 2 * LAYERS + 1);
    assert_int_equal(count_form(&l.g, PR_OP_MATMUL, PR_FORM_Q8), LAYERS); /* the gated ones */
    close_model(&l);
    /* A norm that a float matmul reads too has to stay floats. */
    lower(&(llama_gguf){.type = PR_Q8_0, .other = "attn_v", .other_type = PR_F32}, passes, &l);
    assert_int_equal(count_form(&l.g, PR_OP_NORM, PR_FORM_Q8), LAYERS);
    close_model(&l);
    /* The heads of one KV head are no whole blocks. */
    lower(&(llama_gguf){.type = PR_Q8_0, .n_heads = 4, .n_kv_heads = 4, .head_dim = 24}, passes, &l);
    assert_int_equal(count_form(&l.g, PR_OP_ATTEND, PR_FORM_Q8), 0);
    close_model(&l);
}

static void dead_removes_what_nobody_reads(void **state) {
    (void)state;
    lowered with, without;
    const char *path = rig_model(&(llama_gguf){.type = PR_Q8_0}, "m.gguf");
    lower_file(path, ALL_PASSES, false, &with);
    lower_file(path, ALL_PASSES & ~PR_PASS_DEAD, false, &without);
    assert_true(count(&without.g, PR_OP_MATMUL) > count(&with.g, PR_OP_MATMUL));
    uint32_t *uses = pr_g_uses(&with.g);
    assert_non_null(uses);
    for (uint32_t i = 0; i < with.g.n_nodes; i++) assert_true(uses[i] > 0);
    close_model(&with);
    close_model(&without);
}

/* ---- all of them ------------------------------------------------------------ */

static void all_passes_leave_eleven_operations_a_layer(void **state) {
    (void)state;
    lowered l;
    lower(&(llama_gguf){.type = PR_Q4_1}, ALL_PASSES, &l);
    char got[512] = "";
    for (uint32_t i = 0; i < l.g.n_nodes; i++) {
        const pr_node *n = &l.g.nodes[i];
        if (n->op == PR_OP_WEIGHT || n->op == PR_OP_CONST) continue;
        size_t at = strlen(got);
        snprintf(got + at, sizeof got - at, "%s%s%s%s ", pr_op_name(n->op), n->attr.gated ? "*" : "",
                 n->attr.residual ? "+" : "", n->form == PR_FORM_Q8 ? "'" : "");
    }
    assert_int_equal(count(&l.g, PR_OP_MATMUL), 4 * LAYERS + 1);
    assert_int_equal(count(&l.g, PR_OP_QUANT), 1);
    const char *layer = "norm' matmul slice rope slice slice rope kv_write attend' matmul+ norm' matmul*' matmul+ ";
    if (!strstr(got, layer) &&
        !strstr(got, "norm' matmul slice rope slice rope slice kv_write attend' matmul+ norm' matmul*' matmul+ "))
        fail_msg("%s", got);
    close_model(&l);
}

/* What the executor relies on. */
static void check_graph(const pr_graph *g, uint32_t n_vocab, bool exact) {
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *n = &g->nodes[i];
        assert_false(n->dead);
        assert_in_range(n->n_in, n->op == PR_OP_WEIGHT || n->op == PR_OP_CONST ? 0 : 1, PR_INPUTS_MAX);
        for (uint32_t j = 0; j < n->n_in; j++) {
            if (n->in[j] == PR_NODE_NONE) {
                assert_true(n->op == PR_OP_MATMUL && n->attr.bias && j > n->attr.n_mats);
                continue;
            }
            assert_true(n->in[j] < (pr_node_id)i);
            const pr_node *from = &g->nodes[n->in[j]];
            if (from->op == PR_OP_WEIGHT || from->op == PR_OP_CONST || n->op == PR_OP_ROWS) continue;
            bool table = n->op == PR_OP_ROPE && j == 1;
            if (from->rows != PR_ROWS_ONE && !table) assert_int_equal(from->rows, n->rows);
            if (from->form != PR_FORM_F32) assert_true(n->op == PR_OP_MATMUL && j == 0);
        }
        if (n->form != PR_FORM_F32) assert_int_equal(n->cols % PR_BLOCK, 0);
        if (n->op == PR_OP_SLICE) assert_true(n->attr.first + n->cols <= g->nodes[n->in[0]].cols);
        if (n->op != PR_OP_MATMUL) continue;
        uint32_t n_in = 1u + n->attr.n_mats * (n->attr.bias ? 2u : 1u) + n->attr.residual, cols = 0;
        assert_int_equal(n->n_in, n_in);
        for (uint32_t m = 0; m < n->attr.n_mats; m++) {
            const pr_node *w = &g->nodes[n->in[1 + m]];
            bool q8 = pr_matrix_wants_q8(w->tensor, exact);
            assert_int_equal(w->cols, g->nodes[n->in[0]].cols);
            if (g->nodes[n->in[0]].form != PR_FORM_F32) assert_true(q8);
            assert_int_equal(q8, pr_matrix_wants_q8(g->nodes[n->in[1]].tensor, exact));
            cols += w->mat_rows;
        }
        assert_int_equal(n->cols, n->attr.gated ? cols / 2 : cols);
    }
    assert_int_equal(g->nodes[g->output].cols, n_vocab);
    assert_int_equal(g->nodes[g->output].rows, PR_ROWS_OUT);
    assert_int_equal(g->nodes[g->output].form, PR_FORM_F32);
}

static void every_combination_leaves_a_graph(void **state) {
    (void)state;
    const llama_gguf models[] = {
        {.n_layers = 2},
        {.n_layers = 2, .type = PR_Q8_0, .tied = true, .rope_divisors = true},
        {.n_layers = 2, .type = PR_Q4_1, .other = "attn_v", .other_type = PR_F16, .bias = true},
        {.n_layers = 1, .type = PR_Q8_0, .other = "ffn_up", .other_type = PR_F32, .ff_bias = true},
        {.n_layers = 2, .type = PR_Q8_0, .n_ff = 100, .n_heads = 4, .n_kv_heads = 4, .head_dim = 24},
    };
    for (size_t m = 0; m < 1 + sizeof models / sizeof *models; m++) {
        const char *path = m == 0 ? elastic_model(&models[2], "m.planes.gguf") : rig_model(&models[m - 1], "m.gguf");
        for (uint32_t passes = 0; passes <= ALL_PASSES; passes++) {
            lowered l;
            bool exact = passes % 3 == 0;
            lower_file(path, passes, exact, &l);
            check_graph(&l.g, l.desc.n_vocab, exact);
            close_model(&l);
        }
    }
}

static void every_failing_allocation(void **state) {
    (void)state;
    const char *path = rig_model(&(llama_gguf){.n_layers = 1, .type = PR_Q8_0, .rope_divisors = true}, "m.gguf");
    size_t held = pr_mem_total();
    bool through = false;
    for (int64_t after = 0; !through; after++) {
        lowered l;
        pr_err err = {0};
        open_model(path, &l);
        pr_mem_fail_after(after, after % 2);
        pr_status st = pr_graph_lower(&l.g, &(pr_lower_opts){0}, &err);
        through = !pr_mem_failed();
        pr_mem_fail_after(-1, false);
        assert_int_equal(st, through ? PR_OK : PR_ERR_NOMEM);
        assert_int_equal(err.status, st);
        close_model(&l);
        assert_int_equal(pr_mem_total(), held);
    }
}

static void passes_have_names(void **state) {
    (void)state;
    char names[128];
    uint32_t seen = 0, bit = 0;
    snprintf(names, sizeof names, "%s", pr_pass_names());
    for (char *save = NULL, *name = strtok_r(names, ", ", &save); name; name = strtok_r(NULL, ", ", &save)) {
        assert_true(pr_pass_by_name(name, &bit));
        assert_int_equal(seen & bit, 0);
        assert_int_equal(bit & (bit - 1), 0);
        seen |= bit;
    }
    assert_int_equal(seen, ALL_PASSES);
    assert_false(pr_pass_by_name("", &bit));
    assert_false(pr_pass_by_name("fol", &bit));
    assert_false(pr_pass_by_name("folds", &bit));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_passes_it_is_as_described),
        cmocka_unit_test(fold_marks_what_no_step_changes),
        cmocka_unit_test(fold_drops_scaling_by_one),
        cmocka_unit_test(rows_moves_up_to_the_last_attention),
        cmocka_unit_test(gate_makes_three_into_one),
        cmocka_unit_test(qkv_makes_matmuls_of_one_input_into_one),
        cmocka_unit_test(residual_adds_inside_the_matmul),
        cmocka_unit_test(layout_quantizes_each_input_once),
        cmocka_unit_test(layout_keeps_inputs_of_planes_in_both_forms),
        cmocka_unit_test(norm_lets_the_maker_write_blocks),
        cmocka_unit_test(dead_removes_what_nobody_reads),
        cmocka_unit_test(all_passes_leave_eleven_operations_a_layer),
        cmocka_unit_test(every_combination_leaves_a_graph),
        cmocka_unit_test(every_failing_allocation),
        cmocka_unit_test(passes_have_names),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
