/*
 * Graph IR: building refuses what does not fit and says what, copies stand alone, sorting keeps every meaning.
 */
#include "graph/ir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "support/rig.h"

/* ---- tensors without a file ---- */

static const pr_tensor_info *tensor(const char *name, uint64_t cols, uint64_t rows) {
    static pr_tensor_info made[32];
    static unsigned next;
    pr_tensor_info *t = &made[next++ % 32];
    *t = (pr_tensor_info){.name = name, .dtype = PR_F32, .n_dims = rows ? 2 : 1, .dims = {cols, rows ? rows : 1, 1, 1}};
    t->bytes = cols * t->dims[1] * sizeof(float);
    return t;
}

static pr_node_id vector(pr_graph *g, const char *name, uint64_t n) { return pr_g_weight(g, tensor(name, n, 0)); }

static pr_node_id matrix(pr_graph *g, const char *name, uint64_t cols, uint64_t rows) {
    return pr_g_weight(g, tensor(name, cols, rows));
}

/* ---- shape errors ---- */

typedef struct parts {
    pr_graph g;
    pr_node_id x;     /* [tokens x 8] */
    pr_node_id table; /* 4 rotary dimensions */
} parts;

static parts parts_open(void) {
    parts p;
    pr_graph_init(&p.g);
    p.x = pr_g_embed(&p.g, matrix(&p.g, "embd", 8, 20));
    const float freqs[2] = {1, 0.1f};
    p.table = pr_g_rope_table(&p.g, pr_g_const(&p.g, "freqs", freqs, 2), 1);
    p.g.layer_now = 7;
    assert_true(p.x >= 0 && p.table >= 0);
    return p;
}

static pr_node_id long_norm(parts *p) { return pr_g_norm(&p->g, p->x, vector(&p->g, "norm.w", 9), 0); }

static pr_node_id matrix_norm(parts *p) { return pr_g_norm(&p->g, p->x, matrix(&p->g, "norm.m", 8, 2), 0); }

static pr_node_id wide_matmul(parts *p) {
    return pr_g_matmul(&p->g, p->x, matrix(&p->g, "wide.w", 12, 3), PR_NODE_NONE);
}

static pr_node_id vector_matmul(parts *p) { return pr_g_matmul(&p->g, p->x, vector(&p->g, "vec.w", 8), PR_NODE_NONE); }

static pr_node_id long_bias(parts *p) {
    return pr_g_matmul(&p->g, p->x, matrix(&p->g, "q.w", 8, 3), vector(&p->g, "q.bias", 4));
}

static pr_node_id matrix_bias(parts *p) {
    return pr_g_matmul(&p->g, p->x, matrix(&p->g, "q.w", 8, 3), matrix(&p->g, "m.bias", 3, 1));
}

static pr_node_id vector_embed(parts *p) { return pr_g_embed(&p->g, vector(&p->g, "embd.v", 8)); }

static pr_node_id deep_weight(parts *p) {
    static pr_tensor_info t = {.name = "deep.w", .n_dims = 3, .dims = {2, 2, 2, 1}};
    return pr_g_weight(&p->g, &t);
}

static pr_node_id vast_weight(parts *p) { return matrix(&p->g, "vast.w", 8, (uint64_t)1 << 31); }

static pr_node_id odd_heads(parts *p) { return pr_g_rope(&p->g, p->x, p->table, 5, false); }

static pr_node_id small_heads(parts *p) { return pr_g_rope(&p->g, p->x, p->table, 2, false); }

static pr_node_id no_heads(parts *p) { return pr_g_rope(&p->g, p->x, p->table, 0, false); }

static pr_node_id unlike_kv(parts *p) {
    pr_node_id v = pr_g_matmul(&p->g, p->x, matrix(&p->g, "v.w", 8, 4), PR_NODE_NONE);
    return pr_g_kv_write(&p->g, p->x, v, 0, 4);
}

static pr_node_id odd_kv(parts *p) { return pr_g_kv_write(&p->g, p->x, p->x, 0, 3); }

static pr_node_id unlike_heads(parts *p) { /* 3 query heads on 2 key heads */
    pr_node_id q = pr_g_matmul(&p->g, p->x, matrix(&p->g, "q.w", 8, 12), PR_NODE_NONE);
    return pr_g_attend(&p->g, q, pr_g_kv_write(&p->g, p->x, p->x, 0, 4), 3, 1, 0);
}

static pr_node_id unlike_query(parts *p) {
    return pr_g_attend(&p->g, p->x, pr_g_kv_write(&p->g, p->x, p->x, 0, 4), 4, 1, 0);
}

static pr_node_id unlike_sum(parts *p) {
    return pr_g_add(&p->g, p->x, pr_g_matmul(&p->g, p->x, matrix(&p->g, "o.w", 8, 4), PR_NODE_NONE));
}

static pr_node_id matrix_divisor(parts *p) { /* a file's rope_freqs.weight with two dimensions */
    const float freqs[2] = {1, 0.1f};
    return pr_g_div(&p->g, pr_g_const(&p->g, "freqs", freqs, 2), matrix(&p->g, "rope_freqs.weight", 2, 1));
}

static pr_node_id matrix_sum(parts *p) { return pr_g_add(&p->g, matrix(&p->g, "m.w", 8, 2), p->x); }

static pr_node_id unlike_gate(parts *p) {
    pr_node_id up = pr_g_matmul(&p->g, p->x, matrix(&p->g, "up.w", 8, 6), PR_NODE_NONE);
    return pr_g_gate(&p->g, pr_g_matmul(&p->g, p->x, matrix(&p->g, "gate.w", 8, 5), PR_NODE_NONE), up);
}

static void shape_errors_name_what_does_not_fit(void **state) {
    (void)state;
    const struct {
        pr_node_id (*build)(parts *p);
        pr_status status;
        const char *says[3];
    } cases[] = {
        {long_norm, PR_ERR_FORMAT, {"norm.w", "9", "8"}},
        {matrix_norm, PR_ERR_FORMAT, {"norm.m", "matrix"}},
        {wide_matmul, PR_ERR_FORMAT, {"wide.w", "12", "8"}},
        {vector_matmul, PR_ERR_FORMAT, {"vec.w", "not a matrix"}},
        {long_bias, PR_ERR_FORMAT, {"q.bias", "4", "3"}},
        {matrix_bias, PR_ERR_FORMAT, {"m.bias", "matrix"}},
        {vector_embed, PR_ERR_FORMAT, {"embd.v", "not a matrix"}},
        {deep_weight, PR_ERR_UNSUPPORTED, {"deep.w", "two dimensions"}},
        {vast_weight, PR_ERR_UNSUPPORTED, {"vast.w", "too large"}},
        {odd_heads, PR_ERR_FORMAT, {"4 rotary", "heads of 5"}},
        {small_heads, PR_ERR_FORMAT, {"4 rotary", "heads of 2"}},
        {no_heads, PR_ERR_FORMAT, {"heads of 0"}},
        {unlike_kv, PR_ERR_FORMAT, {"keys of 8", "values of 4"}},
        {odd_kv, PR_ERR_FORMAT, {"heads of 3"}},
        {unlike_heads, PR_ERR_FORMAT, {"3 query heads", "2 key heads of 4"}},
        {unlike_query, PR_ERR_FORMAT, {"4 query heads", "8 columns"}},
        {unlike_sum, PR_ERR_FORMAT, {"matmul", "4", "8"}},
        {matrix_divisor, PR_ERR_FORMAT, {"rope_freqs.weight", "matrix"}},
        {matrix_sum, PR_ERR_FORMAT, {"m.w", "matrix"}},
        {unlike_gate, PR_ERR_FORMAT, {"6", "5"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        parts p = parts_open();
        pr_err err = {0};
        assert_int_equal(cases[i].build(&p), PR_NODE_NONE);
        assert_int_equal(pr_graph_check(&p.g, &err), cases[i].status);
        assert_int_equal(err.status, cases[i].status);
        assert_non_null(strstr(err.text, "layer 7"));
        for (size_t k = 0; k < 3 && cases[i].says[k]; k++)
            if (!strstr(err.text, cases[i].says[k]))
                fail_msg("case %zu: \"%s\" lacks %s", i, err.text, cases[i].says[k]);
        pr_graph_free(&p.g);
    }
}

static void the_first_error_stays_and_nothing_follows_it(void **state) {
    (void)state;
    parts p = parts_open();
    pr_graph *g = &p.g;
    pr_node_id bad = wide_matmul(&p);
    uint32_t n = g->n_nodes;
    pr_err first = g->err;
    /* Every builder accepts what a failed one returned, in each place. */
    const pr_node_id none[] = {
        pr_g_weight(g, NULL),
        pr_g_embed(g, bad),
        pr_g_rope_table(g, bad, 1),
        pr_g_norm(g, bad, p.x, 0),
        pr_g_norm(g, p.x, bad, 0),
        pr_g_matmul(g, bad, p.x, PR_NODE_NONE),
        pr_g_matmul(g, p.x, bad, PR_NODE_NONE),
        pr_g_rope(g, bad, p.table, 4, true),
        pr_g_rope(g, p.x, bad, 4, true),
        pr_g_kv_write(g, bad, p.x, 0, 4),
        pr_g_kv_write(g, p.x, bad, 0, 4),
        pr_g_attend(g, bad, p.x, 2, 1, 0),
        pr_g_attend(g, p.x, bad, 2, 1, 0),
        pr_g_gate(g, bad, p.x),
        pr_g_gate(g, p.x, bad),
        pr_g_add(g, bad, p.x),
        pr_g_div(g, p.x, bad),
        pr_g_scale(g, bad, 2),
        pr_g_rows(g, bad),
    };
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) assert_int_equal(none[i], PR_NODE_NONE);
    assert_int_equal(g->n_nodes, n);
    (void)long_norm(&p); /* a second error */
    assert_string_equal(g->err.text, first.text);
    pr_graph_free(g);
}

static void a_graph_wants_an_output(void **state) {
    (void)state;
    pr_err err = {0};
    parts p = parts_open();
    assert_int_equal(pr_graph_check(&p.g, &err), PR_ERR_FORMAT);
    pr_g_output(&p.g, p.x);
    assert_int_equal(pr_graph_check(&p.g, &err), PR_OK);
    pr_graph_free(&p.g);
}

/* ---- a whole small layer ---- */

static void build_layer(pr_graph *g) {
    const float freqs[2] = {1, 0.1f};
    const pr_tensor_info *embd = tensor("embd", 8, 20);
    pr_node_id x = pr_g_embed(g, pr_g_weight(g, embd));
    pr_node_id table = pr_g_rope_table(g, pr_g_const(g, "freqs", freqs, 2), 1);
    pr_node_id h = pr_g_norm(g, x, vector(g, "norm", 8), 1e-5f);
    pr_node_id q = pr_g_matmul(g, h, matrix(g, "q", 8, 8), vector(g, "q.bias", 8));
    pr_node_id k = pr_g_matmul(g, h, matrix(g, "k", 8, 4), PR_NODE_NONE);
    pr_node_id v = pr_g_matmul(g, h, matrix(g, "v", 8, 4), PR_NODE_NONE);
    pr_node_id kv = pr_g_kv_write(g, pr_g_rope(g, k, table, 4, false), v, 0, 4);
    pr_node_id a = pr_g_attend(g, pr_g_rope(g, q, table, 4, false), kv, 2, 0.5f, 0);
    x = pr_g_add(g, x, pr_g_scale(g, pr_g_matmul(g, a, matrix(g, "o", 8, 8), PR_NODE_NONE), 0.25f));
    pr_g_output(g, pr_g_matmul(g, pr_g_rows(g, x), pr_g_weight(g, embd), PR_NODE_NONE));
}

static char *dump(const pr_graph *g) {
    pr_str s = {0};
    pr_graph_dump(g, &s);
    char *text = pr_str_take(&s);
    assert_non_null(text);
    return text;
}

static void shapes_are_inferred(void **state) {
    (void)state;
    pr_graph g;
    pr_graph_init(&g);
    build_layer(&g);
    assert_int_equal(pr_graph_check(&g, NULL), PR_OK);
    char *text = dump(&g);
    const char *const lines[] = {
        "embed[tokens x 8] embd(f32 20x8, 640 B)  ; 32 B a row\n",
        "const[1 x 2] freqs  ;",
        "rope_table[tokens x 4]",
        "norm[tokens x 8]",
        "q(f32 8x8, 256 B) q.bias",
        "matmul[tokens x 4]",
        "kv_write[tokens x 0]",
        "attend[tokens x 8]",
        "scale[tokens x 8]",
        " by 0.25",
        "rows[wanted x 8]",
        "matmul[wanted x 20]",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(text, lines[i])) fail_msg("no \"%s\" in:\n%s", lines[i], text);
    uint32_t n_lines = 0, n_weights = 0;
    for (const char *c = text; *c; c++) n_lines += *c == '\n';
    for (uint32_t i = 0; i < g.n_nodes; i++) n_weights += g.nodes[i].op == PR_OP_WEIGHT;
    assert_int_equal(n_weights, 7); /* the tied matrix once */
    assert_int_equal(n_lines, g.n_nodes - n_weights);
    pr_free(text);
    pr_graph_free(&g);
}

static void a_copy_stands_alone(void **state) {
    (void)state;
    size_t held = pr_mem_total();
    pr_graph g, copy;
    pr_graph_init(&g);
    pr_graph_init(&copy);
    build_layer(&g);
    char *want = dump(&g);
    assert_int_equal(pr_graph_copy(&g, &copy, NULL), PR_OK);
    for (uint32_t i = 0; i < g.n_nodes; i++) g.nodes[i].op = PR_OP_SCALE;
    pr_graph_free(&g);
    char *got = dump(&copy);
    assert_string_equal(got, want);
    for (uint32_t i = 0; i < copy.n_nodes; i++) {
        if (copy.nodes[i].op != PR_OP_CONST) continue;
        assert_true(copy.nodes[i].data[0] == 1 && copy.nodes[i].data[1] == 0.1f);
    }
    /* It can go on growing. */
    assert_true(pr_g_scale(&copy, copy.output, 2) == (pr_node_id)copy.n_nodes - 1);
    pr_free(want);
    pr_free(got);
    pr_graph_free(&copy);
    pr_graph_free(&copy);
    assert_int_equal(pr_mem_total(), held);
}

static void every_failing_allocation(void **state) {
    (void)state;
    size_t held = pr_mem_total();
    bool through = false;
    for (int64_t after = 0; !through; after++) {
        assert_true(after < 200);
        pr_graph g, copy;
        pr_err err = {0};
        pr_graph_init(&g);
        pr_graph_init(&copy);
        pr_mem_fail_after(after, after % 2);
        build_layer(&g);
        pr_status st = pr_graph_check(&g, &err);
        if (!st) st = pr_graph_copy(&g, &copy, &err);
        if (!st) st = pr_g_sort(&copy, &err);
        if (!st && !pr_g_uses(&copy)) st = PR_ERR_NOMEM;
        through = !pr_mem_failed();
        pr_mem_fail_after(-1, false);
        if (through) assert_int_equal(st, PR_OK);
        else assert_int_equal(st, PR_ERR_NOMEM);
        pr_graph_free(&g);
        pr_graph_free(&copy);
        assert_int_equal(pr_mem_total(), held);
    }
}

/* ---- what passes use ---- */

static void uses_and_replace(void **state) {
    (void)state;
    pr_graph g;
    pr_graph_init(&g);
    pr_node_id x = pr_g_embed(&g, matrix(&g, "embd", 8, 20));
    pr_node_id a = pr_g_scale(&g, x, 2), b = pr_g_add(&g, a, a), c = pr_g_add(&g, b, x);
    pr_g_output(&g, c);
    uint32_t *uses = pr_g_uses(&g);
    assert_non_null(uses);
    assert_int_equal(uses[x], 2);
    assert_int_equal(uses[a], 2);
    assert_int_equal(uses[b], 1);
    assert_int_equal(uses[c], 1); /* as the output */
    pr_node_id wrap = pr_g_scale(&g, a, 3);
    pr_g_replace(&g, a, wrap); /* its own input stays */
    assert_int_equal(g.nodes[wrap].in[0], a);
    assert_int_equal(g.nodes[b].in[0], wrap);
    assert_int_equal(g.nodes[b].in[1], wrap);
    pr_g_replace(&g, c, b);
    assert_int_equal(g.output, b);
    g.nodes[c].dead = true;
    uses = pr_g_uses(&g);
    assert_non_null(uses);
    assert_int_equal(uses[x], 1); /* dead nodes use nothing */
    pr_graph_free(&g);
}

enum { RANDOM_NODES = 40 };

/* Nodes that add earlier ones, appended in a shuffled order; node i is known by its factor. */
static void shuffled_graph(rig_rng *rng, pr_graph *g, uint32_t in[RANDOM_NODES][2], pr_node_id at[RANDOM_NODES]) {
    pr_node_id x = pr_g_embed(g, matrix(g, "embd", 8, 20));
    uint32_t order[RANDOM_NODES];
    for (uint32_t i = 0; i < RANDOM_NODES; i++) {
        uint32_t k = rig_below(rng, i + 1);
        order[i] = order[k];
        order[k] = i;
        in[i][0] = i ? rig_below(rng, i) : UINT32_MAX;
        in[i][1] = i ? rig_below(rng, i) : UINT32_MAX;
    }
    for (uint32_t i = 0; i < RANDOM_NODES; i++) {
        at[order[i]] = pr_g_add(g, x, x);
        g->nodes[at[order[i]]].attr.factor = (float)order[i];
        g->nodes[at[order[i]]].dead = order[i] % 5 == 4;
    }
    for (uint32_t i = 1; i < RANDOM_NODES; i++)
        for (uint32_t j = 0; j < 2; j++) g->nodes[at[i]].in[j] = at[in[i][j]];
    pr_g_output(g, at[RANDOM_NODES - 2]);
}

static void sorting_keeps_every_meaning(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        rig_rng rng = {seed};
        pr_graph g;
        uint32_t in[RANDOM_NODES][2];
        pr_node_id at[RANDOM_NODES];
        bool seen[RANDOM_NODES] = {0}, wanted[RANDOM_NODES] = {0};
        pr_graph_init(&g);
        shuffled_graph(&rng, &g, in, at);
        for (uint32_t i = RANDOM_NODES; i-- > 0;) { /* live ones, and what they read though it was called dead */
            wanted[i] = wanted[i] || i % 5 != 4;
            for (uint32_t j = 0; j < 2 && i > 0 && wanted[i]; j++) wanted[in[i][j]] = true;
        }
        assert_int_equal(pr_g_sort(&g, NULL), PR_OK);
        for (uint32_t n = 0; n < g.n_nodes; n++) {
            const pr_node *node = &g.nodes[n];
            if (node->op != PR_OP_ADD) continue;
            uint32_t i = (uint32_t)node->attr.factor;
            assert_false(seen[i]);
            seen[i] = true;
            for (uint32_t j = 0; j < 2; j++) {
                assert_true(node->in[j] < (pr_node_id)n);
                const pr_node *from = &g.nodes[node->in[j]];
                assert_int_equal(from->op, i ? PR_OP_ADD : PR_OP_EMBED);
                if (i) assert_int_equal((uint32_t)from->attr.factor, in[i][j]);
            }
        }
        assert_memory_equal(seen, wanted, sizeof seen);
        assert_int_equal((uint32_t)g.nodes[g.output].attr.factor, RANDOM_NODES - 2);
        pr_graph_free(&g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shape_errors_name_what_does_not_fit),
        cmocka_unit_test(the_first_error_stays_and_nothing_follows_it),
        cmocka_unit_test(a_graph_wants_an_output),
        cmocka_unit_test(shapes_are_inferred),
        cmocka_unit_test(a_copy_stands_alone),
        cmocka_unit_test(every_failing_allocation),
        cmocka_unit_test(uses_and_replace),
        cmocka_unit_test(sorting_keeps_every_meaning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
