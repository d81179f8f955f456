/*
 * From a model file to a graph: what is read, and every way in which a file can be wrong.
 *
 * Files are hostile. Whatever a key or tensor claims, building must end in a graph whose sizes agree with each other or
 * in one line that names the key or tensor; logits of good files are the goldens' business.
 */
#include "model/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "model/rope.h"
#include "support/rig.h"
#include "support/synth_model.h"

typedef struct built {
    pr_model_file *file;
    pr_model_desc desc;
    pr_graph g;
} built;

static void built_free(built *b) {
    pr_graph_free(&b->g);
    pr_model_file_close(b->file);
}

static pr_status build(const char *path, built *b, pr_err *err) {
    *b = (built){0};
    pr_graph_init(&b->g);
    pr_status st = pr_model_file_open(path, &b->file, err);
    return st ? st : pr_model_build(b->file, &b->desc, &b->g, err);
}

static void accept(const llama_gguf *m, built *b) {
    pr_err err = {0};
    if (build(rig_model(m, "m.gguf"), b, &err)) fail_msg("%s", err.text);
}

static void refuse_path(const char *path, pr_status status, const char *says) {
    size_t held = pr_mem_total();
    built b;
    pr_err err = {0};
    pr_status st = build(path, &b, &err);
    built_free(&b);
    if (st != status || err.status != status || !strstr(err.text, says))
        fail_msg("status %d, \"%s\" where %d, \"%s\" was expected", (int)st, err.text, (int)status, says);
    assert_int_equal(pr_mem_total(), held);
}

static void refuse(const llama_gguf *m, pr_status status, const char *says) {
    refuse_path(rig_model(m, "m.gguf"), status, says);
}

static uint32_t count(const pr_graph *g, pr_op op) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) n += g->nodes[i].op == op;
    return n;
}

/* ---- what a good file becomes -------------------------------------------- */

static void the_description_is_the_file_s(void **state) {
    (void)state;
    built b;
    accept(&(llama_gguf){.head_dim = 24, .n_ff = 100, .n_vocab = 333, .context = 777, .window = 40}, &b);
    const pr_model_desc *d = &b.desc;
    assert_string_equal(d->arch, "llama");
    assert_string_equal(d->name, "small");
    assert_int_equal(d->n_layers, 3);
    assert_int_equal(d->n_embd, 64);
    assert_int_equal(d->n_heads, 4);
    assert_int_equal(d->n_kv_heads, 2);
    assert_int_equal(d->head_dim, 24);
    assert_int_equal(d->n_ff, 100);
    assert_int_equal(d->n_vocab, 333);
    assert_int_equal(d->context_train, 777);
    assert_int_equal(d->window, 40);
    assert_int_equal(b.g.n_layers, 3);
    assert_int_equal(count(&b.g, PR_OP_ATTEND), 3);
    assert_int_equal(count(&b.g, PR_OP_MATMUL), 3 * 7 + 1);
    assert_int_equal(count(&b.g, PR_OP_WEIGHT), 3 * 9 + 3);
    for (uint32_t i = 0; i < b.g.n_nodes; i++) {
        const pr_node *n = &b.g.nodes[i];
        if (n->op != PR_OP_ATTEND) continue;
        assert_int_equal(n->attr.window, 40);
        assert_true(fabsf(n->attr.factor - 1 / sqrtf(24)) < 1e-7f);
    }
    assert_int_equal(b.g.nodes[b.g.output].cols, 333);
    assert_int_equal(b.g.nodes[b.g.output].rows, PR_ROWS_OUT);
    built_free(&b);
}

static void variants_are_described(void **state) {
    (void)state;
    built b;
    accept(&(llama_gguf){.tied = true}, &b);
    assert_int_equal(count(&b.g, PR_OP_WEIGHT), 3 * 9 + 2);
    built_free(&b);
    accept(&(llama_gguf){.without = "token_embd.weight"}, &b); /* tied the other way round */
    assert_int_equal(count(&b.g, PR_OP_WEIGHT), 3 * 9 + 2);
    assert_int_equal(count(&b.g, PR_OP_EMBED), 1);
    built_free(&b);
    accept(&(llama_gguf){.bias = true, .ff_bias = true}, &b);
    assert_int_equal(count(&b.g, PR_OP_WEIGHT), 3 * 16 + 3);
    built_free(&b);
    accept(&(llama_gguf){.rope_divisors = true}, &b);
    assert_int_equal(count(&b.g, PR_OP_DIV), 1);
    built_free(&b);
    accept(&(llama_gguf){.without = "llama.attention.head_count_kv", .n_kv_heads = 4}, &b);
    assert_int_equal(b.desc.n_kv_heads, 4);
    built_free(&b);
    accept(&(llama_gguf){.without = "llama.attention.key_length"}, &b);
    assert_int_equal(b.desc.head_dim, 16);
    built_free(&b);
    accept(&(llama_gguf){.lie = "llama.rope.dimension_count", .lie_value = 8}, &b);
    for (uint32_t i = 0; i < b.g.n_nodes; i++)
        if (b.g.nodes[i].op == PR_OP_ROPE) assert_int_equal(b.g.nodes[i].attr.n_rot, 8);
    built_free(&b);
    /* More rows in the embedding than the output has: padding, which no token reaches. */
    accept(&(llama_gguf){.bent = "token_embd.weight", .bent_cols = 64, .bent_rows = 320}, &b);
    assert_int_equal(b.desc.n_vocab, 309);
    built_free(&b);
}

/* ---- what is refused ------------------------------------------------------ */

static void what_is_not_llama(void **state) {
    (void)state;
    refuse(&(llama_gguf){.arch = "gpt2"}, PR_ERR_UNSUPPORTED, "gpt2");
    refuse(&(llama_gguf){.without = "general.architecture"}, PR_ERR_FORMAT, "general.architecture");
    refuse(&(llama_gguf){.lie = "llama.expert_count", .lie_value = 8}, PR_ERR_UNSUPPORTED, "mixture-of-experts");
    refuse(&(llama_gguf){.text_key = "llama.rope.scaling.type", .text = "sideways"}, PR_ERR_UNSUPPORTED, "sideways");
    refuse(&(llama_gguf){.text_key = "llama.rope.scaling.type", .text = "linear"}, PR_ERR_FORMAT,
           "llama.rope.scaling.factor");
}

static void missing_and_mistyped_keys(void **state) {
    (void)state;
    static const char *const keys[] = {
        "llama.block_count",          "llama.embedding_length", "llama.feed_forward_length",
        "llama.attention.head_count", "llama.context_length",   "llama.attention.layer_norm_rms_epsilon",
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        refuse(&(llama_gguf){.without = keys[i]}, PR_ERR_FORMAT, keys[i]);
        refuse(&(llama_gguf){.without = keys[i], .text_key = keys[i], .text = "3"}, PR_ERR_FORMAT, keys[i]);
    }
    static const char *const optional[] = {"llama.attention.head_count_kv", "llama.attention.key_length",
                                           "llama.rope.dimension_count", "llama.attention.sliding_window"};
    for (size_t i = 0; i < sizeof optional / sizeof *optional; i++)
        refuse(&(llama_gguf){.without = optional[i], .text_key = optional[i], .text = "3"}, PR_ERR_FORMAT, optional[i]);
}

static void impossible_numbers(void **state) {
    (void)state;
    static const struct {
        const char *key;
        uint32_t value;
        const char *says;
    } cases[] = {
        {"llama.block_count", 0, "0 layers"},
        {"llama.block_count", 1025, "1025 layers"},
        {"llama.block_count", UINT32_MAX, "layers"},
        {"llama.block_count", 4, "blk.3.attn_norm.weight"},
        {"llama.embedding_length", 0, "width 0"},
        {"llama.embedding_length", 63, "63"},
        {"llama.embedding_length", UINT32_MAX, "width"},
        {"llama.attention.head_count", 0, "0 heads"},
        {"llama.attention.head_count", 2, "2 query heads"},
        {"llama.attention.head_count", 8, "8 query heads"},
        {"llama.attention.head_count", 5, "5 heads"},
        {"llama.attention.head_count_kv", 0, "0 KV heads"},
        {"llama.attention.head_count_kv", 1, "layer 0 has 2 KV heads of 16 where the model says 1 of 16"},
        {"llama.attention.head_count_kv", 4, "layer 0 has 2 KV heads of 16 where the model says 4 of 16"},
        {"llama.attention.head_count_kv", 3, "3 KV heads"},
        {"llama.attention.key_length", 0, "of 0"},
        {"llama.attention.key_length", 513, "of 513"},
        {"llama.attention.key_length", 48, "heads of 48"},
        {"llama.attention.key_length", 32, "heads"},
        {"llama.feed_forward_length", 0, "feed-forward 0"},
        {"llama.context_length", 0, "context 0"},
        {"llama.rope.dimension_count", 0, "0 dimensions"},
        {"llama.rope.dimension_count", 15, "15 dimensions"},
        {"llama.rope.dimension_count", 18, "18 rotary"},
        {"llama.rope.dimension_count", 1u << 20, "dimensions"},
        {"llama.rope.dimension_count", UINT32_MAX, "dimensions"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse(&(llama_gguf){.lie = cases[i].key, .lie_value = cases[i].value}, PR_ERR_FORMAT, cases[i].says);
}

static void missing_tensors(void **state) {
    (void)state;
    static const char *const names[] = {
        "blk.0.attn_norm.weight",   "blk.1.attn_q.weight",   "blk.2.attn_k.weight",   "blk.0.attn_v.weight",
        "blk.1.attn_output.weight", "blk.2.ffn_norm.weight", "blk.0.ffn_gate.weight", "blk.1.ffn_up.weight",
        "blk.2.ffn_down.weight",    "output_norm.weight",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        refuse(&(llama_gguf){.without = names[i]}, PR_ERR_FORMAT, names[i]);
    refuse(&(llama_gguf){.without = "token_embd.weight", .tied = true}, PR_ERR_FORMAT, "token_embd.weight");
}

static void tensors_of_a_wrong_shape(void **state) {
    (void)state;
    static const struct {
        const char *tensor;
        uint32_t cols, rows;
        const char *says;
    } cases[] = {
        {"token_embd.weight", 32, 309, "32"},
        {"token_embd.weight", 64, 308, "token_embd.weight has 308 rows for a vocabulary of 309"},
        {"token_embd.weight", 64, 0, "token_embd.weight"},
        {"blk.1.attn_norm.weight", 63, 0, "blk.1.attn_norm.weight"},
        {"blk.1.attn_norm.weight", 64, 1, "blk.1.attn_norm.weight"},
        {"blk.1.attn_q.weight", 63, 64, "blk.1.attn_q.weight"},
        {"blk.1.attn_q.weight", 64, 0, "blk.1.attn_q.weight"},
        {"blk.1.attn_q.weight", 64, 48, "layer 1: 4 query heads in 48 columns"},
        {"blk.1.attn_q.weight", 64, 50, "layer 1"},
        {"blk.1.attn_k.weight", 64, 48, "layer 1: keys of 48"},
        {"blk.1.attn_k.weight", 64, 31, "layer 1"},
        {"blk.1.attn_v.weight", 64, 64, "layer 1: keys of 32 and values of 64"},
        {"blk.1.attn_output.weight", 32, 64, "blk.1.attn_output.weight"},
        {"blk.1.attn_output.weight", 64, 65, "layer 1"},
        {"blk.1.ffn_gate.weight", 64, 95, "layer 1"},
        {"blk.1.ffn_up.weight", 64, 97, "layer 1"},
        {"blk.1.ffn_down.weight", 97, 64, "blk.1.ffn_down.weight"},
        {"blk.1.ffn_down.weight", 96, 63, "layer 1"},
        {"output_norm.weight", 1, 0, "output_norm.weight"},
        {"output.weight", 65, 309, "output.weight"},
        {"output.weight", 64, 0, "output.weight"},
        {"output.weight", 64, 310, "vocabulary of 310"},
        {"rope_freqs.weight", 7, 0, "rope_freqs.weight"},
        {"rope_freqs.weight", 8, 1, "rope_freqs.weight"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        llama_gguf m = {.rope_divisors = true, .bent = cases[i].tensor};
        m.bent_cols = cases[i].cols;
        m.bent_rows = cases[i].rows;
        refuse(&m, PR_ERR_FORMAT, cases[i].says);
    }
    refuse(&(llama_gguf){.bias = true, .bent = "blk.2.attn_k.bias", .bent_cols = 31}, PR_ERR_FORMAT,
           "blk.2.attn_k.bias");
}

/* All layers must have the heads that pages have room for, not only the first. */
static void layers_with_more_kv_heads(void **state) {
    (void)state;
    built b;
    pr_err err = {0};
    accept(&(llama_gguf){.n_kv_heads = 4}, &b);
    built_free(&b);
    /* One layer of 4 KV heads (keys and values agree) in a model of 2. */
    llama_gguf m = {.bent = "blk.2.attn_k.weight", .bent_cols = 64, .bent_rows = 64};
    refuse(&m, PR_ERR_FORMAT, "layer 2");
    m = (llama_gguf){.n_kv_heads = 4, .lie = "llama.attention.head_count_kv", .lie_value = 2};
    pr_status st = build(rig_model(&m, "m.gguf"), &b, &err);
    assert_int_equal(st, PR_ERR_FORMAT);
    assert_non_null(strstr(err.text, "4 KV heads"));
    built_free(&b);
}

static void every_failing_allocation(void **state) {
    (void)state;
    const char *path = rig_model(&(llama_gguf){.n_layers = 2, .rope_divisors = true, .bias = true}, "m.gguf");
    size_t held = pr_mem_total();
    bool through = false;
    for (int64_t after = 0; !through; after++) {
        built b;
        pr_err err = {0};
        pr_mem_fail_after(after, after % 2);
        pr_status st = build(path, &b, &err);
        through = !pr_mem_failed();
        pr_mem_fail_after(-1, false);
        built_free(&b);
        assert_int_equal(st, through ? PR_OK : PR_ERR_NOMEM);
        assert_int_equal(err.status, st);
        assert_int_equal(pr_mem_total(), held);
    }
}

/* ---- config.json ----------------------------------------------------------- */

/* Write a model as a folder and put `to` in place of `from` in its config.json. */
static void folder_with(const char *from, const char *to) {
    static char text[8192], changed[8192];
    pr_err err = {0};
    if (pr_tiny_write_safetensors(&pr_tiny_specs[1], PR_F32, rig_path(""), &err)) fail_msg("%s", err.text);
    FILE *f = fopen(rig_path("config.json"), "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    char *at = strstr(text, from);
    if (!at) fail_msg("config.json has no %s", from);
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    f = fopen(rig_path("config.json"), "w");
    assert_non_null(f);
    fputs(changed, f);
    fclose(f);
}

static void folders_name_their_own_keys(void **state) {
    (void)state;
    built b;
    pr_err err = {0};
    folder_with("\"num_hidden_layers\"", "\"num_hidden_layers\"");
    if (build(rig_path(""), &b, &err)) fail_msg("%s", err.text);
    assert_int_equal(b.desc.n_kv_heads, 2);
    built_free(&b);
    static const char *const keys[] = {"num_hidden_layers",   "hidden_size",  "intermediate_size",
                                       "num_attention_heads", "rms_norm_eps", "max_position_embeddings"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char quoted[64];
        snprintf(quoted, sizeof quoted, "\"%s\"", keys[i]);
        folder_with(quoted, "\"elsewhere\"");
        refuse_path(rig_path(""), PR_ERR_FORMAT, keys[i]);
    }
    folder_with("\"rms_norm_eps\"", "\"rms_norm_eps\": 1.5, \"was\"");
    refuse_path(rig_path(""), PR_ERR_FORMAT, "epsilon of 1.5");
    folder_with("\"llama\"", "\"frobnicator\"");
    refuse_path(rig_path(""), PR_ERR_UNSUPPORTED, "frobnicator");
    folder_with("\"model_type\"", "\"elsewhere\"");
    refuse_path(rig_path(""), PR_ERR_FORMAT, "model_type");
    folder_with("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    refuse_path(rig_path(""), PR_ERR_FORMAT, "model.layers.2.input_layernorm.weight");
    unlink(rig_path("config.json"));
    refuse_path(rig_path(""), PR_ERR_NOTFOUND, "config.json");
}

/* ---- rotary frequencies ------------------------------------------------------ */

static const float *freqs_of(pr_graph *g, const pr_rope *r, float *factor) {
    pr_node_id id = pr_rope_freqs(g, r, factor);
    assert_true(id != PR_NODE_NONE);
    assert_int_equal(g->nodes[id].cols, r->n_rot / 2);
    return g->nodes[id].data;
}

static void about(double got, double want) {
    if (!(fabs(got - want) <= 1e-6 * fabs(want))) fail_msg("%.9g instead of %.9g", got, want);
}

static void rope_scalings(void **state) {
    (void)state;
    pr_graph g;
    float factor;
    pr_graph_init(&g);
    pr_rope r = {.n_rot = 64, .base = 10000, .factor = 4, .context_original = 2048, .attention_scale = 1};
    const float *plain = freqs_of(&g, &r, &factor);
    about(factor, 1);
    for (int i = 0; i < 32; i++) about(plain[i], pow(10000, -i / 32.0));
    r.scaling = PR_ROPE_LINEAR;
    const float *linear = freqs_of(&g, &r, &factor);
    about(factor, 1);
    for (int i = 0; i < 32; i++) about(linear[i], pow(10000, -i / 32.0) / 4);
    /* Both of the careful ones keep what turns often within the original context and stretch what hardly turns. */
    r.scaling = PR_ROPE_LLAMA3;
    r.low_freq = 1;
    r.high_freq = 4;
    const float *llama3 = freqs_of(&g, &r, &factor);
    about(factor, 1);
    about(llama3[0], plain[0]);
    about(llama3[31], (double)plain[31] / 4);
    r.scaling = PR_ROPE_YARN;
    r.beta_fast = 32;
    r.beta_slow = 1;
    const float *yarn = freqs_of(&g, &r, &factor);
    about(factor, 1 + 0.1 * log(4));
    about(yarn[0], plain[0]);
    about(yarn[31], (double)plain[31] / 4);
    for (int i = 1; i < 32; i++) {
        assert_true(llama3[i] < llama3[i - 1] && llama3[i] <= plain[i] &&
                    (double)llama3[i] * 4.0001 >= (double)plain[i]);
        assert_true(yarn[i] < yarn[i - 1] && yarn[i] <= plain[i] && (double)yarn[i] * 4.0001 >= (double)plain[i]);
    }
    r.attention_factor = 0.5f;
    (void)freqs_of(&g, &r, &factor);
    about(factor, 0.5);
    assert_int_equal(g.err.status, PR_OK);
    pr_graph_free(&g);
}

static void impossible_ropes(void **state) {
    (void)state;
    const pr_rope bad[] = {
        {.n_rot = 0, .base = 10000, .factor = 1},
        {.n_rot = 7, .base = 10000, .factor = 1},
        {.n_rot = 2048, .base = 10000, .factor = 1},
        {.n_rot = 8, .base = 0, .factor = 1},
        {.n_rot = 8, .base = -1, .factor = 1},
        {.n_rot = 8, .base = NAN, .factor = 1},
        {.n_rot = 8, .base = 10000, .factor = 0},
        {.n_rot = 8, .base = 10000, .factor = NAN},
        {.n_rot = 8,
         .base = 1,
         .factor = 2,
         .scaling = PR_ROPE_YARN,
         .context_original = 64,
         .beta_fast = 1e9F,
         .beta_slow = -1},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pr_graph g;
        float factor;
        pr_graph_init(&g);
        assert_int_equal(pr_rope_freqs(&g, &bad[i], &factor), PR_NODE_NONE);
        assert_int_equal(g.err.status, PR_ERR_FORMAT);
        pr_graph_free(&g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_description_is_the_file_s),
        cmocka_unit_test(variants_are_described),
        cmocka_unit_test(what_is_not_llama),
        cmocka_unit_test(missing_and_mistyped_keys),
        cmocka_unit_test(impossible_numbers),
        cmocka_unit_test(missing_tensors),
        cmocka_unit_test(tensors_of_a_wrong_shape),
        cmocka_unit_test(layers_with_more_kv_heads),
        cmocka_unit_test(every_failing_allocation),
        cmocka_unit_test(folders_name_their_own_keys),
        cmocka_unit_test(rope_scalings),
        cmocka_unit_test(impossible_ropes),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
