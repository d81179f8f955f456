/*
 * Layer ranges: a step run a few layers at a time gives the bits of the whole step, whatever the model, the passes and the
 * cuts, with the weights of one range in memory; and a tap sees what every matrix is multiplied with.
 */
#include "graph/exec_range.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "graph/passes.h"
#include "graph/weights_range.h"
#include "model/model.h"
#include "support/rig.h"

enum { ROWS = 24, OUTS = 6, THREADS = 3, FIRST = 17, SECOND = 9 };

/* A model ready to run, whole or by ranges. */
typedef struct runner {
    pr_model_file *file;
    pr_model_desc desc;
    pr_graph g;
    pr_plan plan;
    pr_weights w;
    pr_exec *exec;
    pr_team *team;
    pr_kv_pool *pool;
    pr_kv_seq seq;
    bool ranges;
} runner;

static void must(pr_status st, const pr_err *err) {
    if (st) fail_msg("%s", err->text);
}

static void runner_open(runner *r, const char *path, uint32_t passes_off, bool exact, bool ranges) {
    pr_err err = {0};
    *r = (runner){.ranges = ranges};
    pr_graph_init(&r->g);
    must(pr_model_file_open(path, &r->file, &err), &err);
    must(pr_model_build(r->file, &r->desc, &r->g, &err), &err);
    must(pr_graph_lower(&r->g, &(pr_lower_opts){passes_off, exact}, &err), &err);
    must(pr_plan_make(&r->g, ROWS, OUTS, &r->plan, &err), &err);
    must(pr_weights_plan(&r->g, exact, &r->w, &err), &err);
    must(pr_team_open(THREADS, 0, &r->team, &err), &err);
    if (ranges) must(pr_weights_begin(&r->w, &r->g, r->file, &err), &err);
    else must(pr_weights_load(&r->w, &r->g, r->file, r->team, NULL, NULL, &err), &err);
    const pr_exec_opts opts = {pr_kernels_get(0), THREADS, ROWS, OUTS, 64, exact};
    must(pr_exec_open(&r->g, &r->plan, &r->w, &opts, &r->exec, &err), &err);
    const pr_kv_shape shape = {r->desc.n_layers, r->desc.n_kv_heads, r->desc.head_dim, PR_KV_FORM_F32, PR_KV_FORM_F32};
    must(pr_kv_pool_open(&shape, 4 * pr_kv_page_bytes(&shape), &r->pool, &err), &err);
    must(pr_kv_seq_init(&r->seq, r->pool, 64, &err), &err);
}

static void runner_close(runner *r) {
    pr_exec_close(r->exec);
    pr_kv_seq_free(&r->seq);
    pr_kv_pool_close(r->pool);
    if (r->ranges) pr_weights_end(&r->w, &r->g);
    pr_weights_free(&r->w);
    pr_team_close(r->team);
    pr_graph_free(&r->g);
    pr_model_file_close(r->file);
}

/* A step of n tokens; cuts[n_cuts] are the ends of the ranges, none: the whole step. Logits [OUTS][n_vocab] to out. */
static void run_step(runner *r, const int32_t *tokens, uint32_t n, const uint32_t *cuts, uint32_t n_cuts,
                     const pr_exec_tap *tap, float *out) {
    pr_err err = {0};
    uint32_t outs[OUTS];
    for (uint32_t i = 0; i < OUTS; i++) outs[i] = i * (n - 1) / (OUTS - 1);
    must(pr_kv_seq_reserve(&r->seq, n, &err), &err);
    const pr_exec_run run = {&r->seq, 0, n, r->seq.n_tokens};
    const pr_exec_step step = {
        .n_tokens = n, .n_out = OUTS, .tokens = tokens, .out_rows = outs, .runs = &run, .n_runs = 1};
    float *hidden = pr_calloc(PR_TAG_MISC, (size_t)n * r->desc.n_embd, sizeof *hidden);
    assert_non_null(hidden);
    for (uint32_t c = 0, from = 0; c < n_cuts; from = cuts[c++]) {
        must(pr_weights_hold(&r->w, &r->g, r->file, r->team, from, cuts[c], &err), &err);
        const pr_exec_range range = {from, cuts[c], hidden, tap};
        must(pr_exec_range_run(r->exec, r->team, &step, &range, &err), &err);
    }
    if (!n_cuts) pr_exec_step_run(r->exec, r->team, &step);
    pr_kv_seq_commit(&r->seq, n, 0);
    for (uint32_t i = 0; i < OUTS; i++)
        memcpy(out + (size_t)i * r->desc.n_vocab, pr_exec_output(r->exec, i), r->desc.n_vocab * sizeof *out);
    pr_free(hidden);
}

static const llama_gguf models[] = {
    {.n_layers = 4, .n_ff = 92, .n_vocab = 301, .head_dim = 18},
    {.n_layers = 4, .type = PR_F16, .bias = true, .ff_bias = true, .tied = true},
    {.n_layers = 4, .type = PR_Q8_0, .window = 11, .n_vocab = 311, .rope_divisors = true},
    {.n_layers = 4, .type = PR_Q4_1, .other = "attn_v", .other_type = PR_Q8_0, .tied = true},
};

static const uint32_t cuts_of[][4] = {{4}, {1, 2, 3, 4}, {2, 4}, {3, 4}, {1, 4}};
enum { N_CUTS = sizeof cuts_of / sizeof *cuts_of };

static uint32_t n_cuts_of(const uint32_t *cuts) {
    uint32_t n = 1;
    while (cuts[n - 1] != 4) n++;
    return n;
}

static void same_bits(const char *path, uint32_t passes_off, bool exact) {
    runner whole, parts;
    rig_rng rng = {7};
    int32_t tokens[FIRST + SECOND];
    runner_open(&whole, path, passes_off, exact, false);
    runner_open(&parts, path, passes_off, exact, true);
    size_t n_vocab = whole.desc.n_vocab, bytes = OUTS * n_vocab * sizeof(float);
    float *a = pr_alloc(PR_TAG_MISC, 2 * bytes), *b = pr_alloc(PR_TAG_MISC, 2 * bytes);
    assert_true(a && b);
    rig_tokens(&rng, tokens, FIRST + SECOND, whole.desc.n_vocab);
    run_step(&whole, tokens, FIRST, NULL, 0, NULL, a);
    run_step(&whole, tokens + FIRST, SECOND, NULL, 0, NULL, a + OUTS * n_vocab);
    for (uint32_t c = 0; c < N_CUTS; c++) {
        uint32_t n = n_cuts_of(cuts_of[c]);
        memset(b, 0, 2 * bytes);
        pr_kv_seq_truncate(&parts.seq, 0);
        run_step(&parts, tokens, FIRST, cuts_of[c], n, NULL, b);
        run_step(&parts, tokens + FIRST, SECOND, cuts_of[c], n, NULL, b + OUTS * n_vocab);
        if (memcmp(a, b, 2 * bytes) != 0)
            fail_msg("passes off %u, exact %d, cuts %u: other logits", passes_off, exact, c);
    }
    pr_free(a);
    pr_free(b);
    runner_close(&whole);
    runner_close(&parts);
}

static void ranges_are_the_step(void **state) {
    (void)state;
    static const uint32_t off[] = {0,
                                   255,
                                   PR_PASS_ROWS,
                                   PR_PASS_RESIDUAL | PR_PASS_FOLD,
                                   PR_PASS_QKV | PR_PASS_DEAD,
                                   PR_PASS_NORM,
                                   PR_PASS_LAYOUT | PR_PASS_GATE};
    size_t held = pr_mem_total();
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        const char *path = rig_model(&models[m], "m.gguf");
        for (size_t p = 0; p < sizeof off / sizeof *off; p++) {
            same_bits(path, off[p], true);
            same_bits(path, off[p], false);
        }
    }
    assert_int_equal(pr_mem_total(), held);
}

/* Layers of weights come and go. */
static void one_layer_is_held(void **state) {
    (void)state;
    pr_err err = {0};
    runner r;
    runner_open(&r, rig_model(&models[1], "m.gguf"), 0, true, true);
    size_t vectors = pr_mem_bytes(PR_TAG_WEIGHTS), layer[4];
    for (uint32_t i = 0; i < 4; i++) {
        must(pr_weights_hold(&r.w, &r.g, r.file, r.team, i, i + 1, &err), &err);
        layer[i] = pr_mem_bytes(PR_TAG_WEIGHTS) - vectors;
    }
    assert_int_equal(layer[1], layer[2]);
    assert_int_equal(layer[0], layer[3]); /* tied: both hold the embedding */
    assert_true(layer[0] > layer[1]);
    must(pr_weights_hold(&r.w, &r.g, r.file, r.team, 0, 4, &err), &err);
    assert_int_equal(pr_mem_bytes(PR_TAG_WEIGHTS) - vectors, layer[0] + layer[1] + layer[2] + layer[1]);
    must(pr_weights_hold(&r.w, &r.g, r.file, r.team, 1, 1, &err), &err);
    assert_int_equal(pr_mem_bytes(PR_TAG_WEIGHTS), vectors);
    runner_close(&r);
}

/* A tap that keeps the rows it sees, and counts how often. */
typedef struct keeper {
    const pr_graph *g;
    float *rows[256]; /* by node of the first matrix */
    uint32_t n_rows[256];
    uint32_t chunks_of_row; /* the rows are taken in so many pieces */
} keeper;

static uint32_t keep_chunks(void *arg, pr_node_id matmul) {
    const keeper *k = arg;
    return k->g->nodes[matmul].in[1] == k->g->nodes[k->g->output].in[1] ? 0 : k->chunks_of_row;
}

static void keep_body(void *arg, pr_node_id matmul, uint32_t chunk, const float *x, size_t stride, uint32_t n_rows,
                      int thread) {
    keeper *k = arg;
    (void)thread;
    const pr_node *n = &k->g->nodes[matmul];
    uint32_t cols = k->g->nodes[n->in[0]].cols, from = chunk * cols / k->chunks_of_row;
    uint32_t end = (chunk + 1) * cols / k->chunks_of_row;
    for (uint32_t r = 0; r < n_rows; r++)
        memcpy(k->rows[n->in[1]] + (size_t)r * cols + from, x + r * stride + from, (end - from) * sizeof *x);
    if (chunk == 0) k->n_rows[n->in[1]] = n_rows;
}

/* What the tap saw of the norm before q in layer 1 is the norm of the stream that comes out of layer 0. */
static void tap_sees_inputs(void **state) {
    (void)state;
    static float rows[256][ROWS * 128], hidden[ROWS * 64], want[64];
    pr_err err = {0};
    runner r;
    int32_t tokens[FIRST];
    rig_rng rng = {3};
    runner_open(&r, rig_model(&models[1], "m.gguf"), PR_PASS_ROWS, true, true);
    rig_tokens(&rng, tokens, FIRST, r.desc.n_vocab);
    keeper k = {.g = &r.g, .chunks_of_row = 5};
    assert_true(r.g.n_nodes <= 256);
    for (size_t i = 0; i < 256; i++) k.rows[i] = rows[i];
    const pr_exec_tap tap = {&k, keep_chunks, keep_body};
    const uint32_t outs[] = {0};
    must(pr_kv_seq_reserve(&r.seq, FIRST, &err), &err);
    const pr_exec_run run = {&r.seq, 0, FIRST, 0};
    const pr_exec_step step = {
        .n_tokens = FIRST, .n_out = 1, .tokens = tokens, .out_rows = outs, .runs = &run, .n_runs = 1};
    for (uint32_t layer = 0; layer < 4; layer++) {
        const pr_exec_range range = {layer, layer + 1, hidden, &tap};
        must(pr_weights_hold(&r.w, &r.g, r.file, r.team, layer, layer + 1, &err), &err);
        if (layer == 1) memcpy(rows[255], hidden, sizeof hidden);
        must(pr_exec_range_run(r.exec, r.team, &step, &range, &err), &err);
    }
    uint32_t seen = 0;
    for (uint32_t i = 0; i < r.g.n_nodes; i++) {
        const pr_node *n = &r.g.nodes[i];
        if (n->op != PR_OP_MATMUL || (pr_node_id)i == r.g.output) continue;
        assert_int_equal(k.n_rows[n->in[1]], FIRST);
        seen++;
        const pr_node *norm = &r.g.nodes[n->in[0]];
        if (norm->op != PR_OP_NORM || strcmp(r.g.nodes[norm->in[1]].name, "blk.1.attn_norm.weight") != 0) continue;
        for (uint32_t t = 0; t < FIRST; t++) {
            pr_kernels_get(0)->rmsnorm(rows[255] + t * 64, r.w.vecs[norm->in[1]], 64, norm->attr.eps, want);
            assert_memory_equal(want, rows[n->in[1]] + t * 64, sizeof want);
        }
    }
    assert_int_equal(seen, 4 * 4); /* q, k and v; attn_output; gate and up; down */
    runner_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_are_the_step),
        cmocka_unit_test(one_layer_is_held),
        cmocka_unit_test(tap_sees_inputs),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
