/*
 * Synthetic models: loadable, the same for the same seed, with numbers of the right size.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <math.h>

#include "base/mem.h"
#include "engine/synth.h"
#include "engine/vocab_load.h"
#include "store/convert.h"

static char folder[256], path[300], other[300];

static int make_folder(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/precis-test-XXXXXX", base && *base ? base : "/tmp");
    snprintf(path, sizeof path, "%s/m.gguf", mkdtemp(folder));
    snprintf(other, sizeof other, "%s/n.gguf", folder);
    return 0;
}

static int drop_folder(void **state) {
    (void)state;
    unlink(path);
    unlink(other);
    return rmdir(folder);
}

static const pr_synth_shape small = {.name = "small",
                                     .dim = 64,
                                     .n_layers = 2,
                                     .n_heads = 4,
                                     .n_kv_heads = 2,
                                     .head_dim = 32,
                                     .n_ff = 96,
                                     .n_vocab = 2000,
                                     .context = 128,
                                     .rope_theta = 10000};

static pr_model_file *made(const pr_synth_shape *shape, pr_dtype type, uint64_t seed) {
    pr_model_file *f;
    pr_err err = {0};
    unlink(path);
    if (pr_synth_write(path, shape, type, seed, NULL, NULL, &err) != PR_OK) fail_msg("%s", err.text);
    if (pr_model_file_open(path, &f, &err) != PR_OK) fail_msg("%s", err.text);
    return f;
}

static void knows_shapes_by_name(void **state) {
    (void)state;
    assert_int_equal(pr_synth_shape_by_name("135m")->dim, 576);
    assert_true(pr_synth_shape_by_name("135m")->tied);
    assert_int_equal(pr_synth_shape_by_name("1.1b")->n_layers, 22);
    assert_int_equal(pr_synth_shape_by_name("7b")->n_ff, 11008);
    assert_null(pr_synth_shape_by_name("13b"));
}

/* Mean 0 and deviation 1/sqrt(columns), norms around 1. */
static void check_numbers(const pr_model_file *f) {
    for (size_t i = 0; i < pr_model_file_n_tensors(f); i++) {
        const pr_tensor_info *t = pr_model_file_tensor(f, i);
        size_t n = (size_t)(t->dims[0] * t->dims[1]);
        bool norm = t->n_dims == 1;
        float *x = malloc(n * sizeof *x);
        double sum = 0, squares = 0, scale = norm ? 0.02 : 1 / sqrt((double)t->dims[0]);
        assert_int_equal(pr_convert_floats(f, t, x, NULL), PR_OK);
        for (size_t k = 0; k < n; k++) {
            sum += (double)x[k];
            squares += (double)x[k] * (double)x[k];
        }
        double mean = sum / (double)n, deviation = sqrt(squares / (double)n - mean * mean);
        assert_true(fabs(mean - (norm ? 1 : 0)) < scale * 0.5);
        assert_true(deviation > scale * 0.7 && deviation < scale * 1.3);
        free(x);
    }
}

static void writes_every_type(void **state) {
    (void)state;
    static const pr_dtype types[] = {PR_F32, PR_F16, PR_BF16, PR_Q8_0, PR_Q4_0, PR_Q4_1};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        pr_model_file *f = made(&small, types[i], 1);
        uint32_t heads = 0;
        assert_int_equal(pr_model_file_n_tensors(f), 3 + 2 * 9);
        assert_int_equal(pr_model_file_find(f, "blk.1.ffn_down.weight")->dtype, types[i]);
        assert_int_equal(pr_model_file_find(f, "blk.1.ffn_down.weight")->dims[0], 96);
        assert_int_equal(pr_model_file_find(f, "blk.0.attn_output.weight")->dims[0], 128);
        assert_int_equal(pr_model_file_find(f, "blk.0.attn_k.weight")->dims[1], 64);
        assert_int_equal(pr_model_file_find(f, "output_norm.weight")->dtype, PR_F32);
        assert_int_equal(pr_meta_u32(f, "llama.attention.head_count_kv", &heads, NULL), PR_OK);
        assert_int_equal(heads, 2);
        check_numbers(f);
        pr_model_file_close(f);
    }
}

static void tied_models_have_no_output(void **state) {
    (void)state;
    pr_synth_shape shape = small;
    shape.tied = true;
    pr_model_file *f = made(&shape, PR_Q8_0, 1);
    assert_null(pr_model_file_find(f, "output.weight"));
    assert_non_null(pr_model_file_find(f, "token_embd.weight"));
    pr_model_file_close(f);
}

static char *slurp(const char *from, size_t *len) {
    char *data;
    assert_int_equal(pr_file_slurp(from, 1 << 24, &data, len, NULL), PR_OK);
    return data;
}

static void depends_on_the_seed_only(void **state) {
    (void)state;
    size_t n[3];
    char *data[3];
    for (int i = 0; i < 3; i++) {
        unlink(other);
        assert_int_equal(pr_synth_write(other, &small, PR_Q4_1, i == 2 ? 8 : 7, NULL, NULL, NULL), PR_OK);
        data[i] = slurp(other, &n[i]);
    }
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(data[0], data[1], n[0]);
    assert_int_equal(n[0], n[2]);
    assert_memory_not_equal(data[0], data[2], n[0]);
    for (int i = 0; i < 3; i++) pr_free(data[i]);
}

static void vocabulary_tokenizes(void **state) {
    (void)state;
    pr_model_file *f = made(&small, PR_Q8_0, 1);
    pr_vocab *v;
    char *chat_template;
    pr_err err = {0};
    int32_t ids[64];
    size_t n;
    static const char text[] = "hello, World! na\xc3\xafve";
    if (pr__vocab_load(f, NULL, &v, &chat_template, &err) != PR_OK) fail_msg("%s", err.text);
    assert_int_equal(pr_vocab_size(v), 2000);
    assert_int_equal(pr_tokenize(v, text, strlen(text), PR_TOKENIZE_BOS, ids, 64, &n, &err), PR_OK);
    assert_int_equal(ids[0], 1);
    char back[128];
    size_t len = 0;
    for (size_t i = 1; i < n; i++) {
        size_t piece_len;
        const char *piece = pr_vocab_piece(v, ids[i], false, &piece_len);
        memcpy(back + len, piece, piece_len);
        len += piece_len;
    }
    back[len] = '\0';
    assert_string_equal(back + 1, text); /* after the space before the first word */
    for (int32_t i = 0; i < 2000; i++) { /* no piece occurs twice */
        const char *token = pr_vocab_token(v, i, &n);
        assert_int_equal(pr_vocab_find(v, token, n), i);
    }
    pr_vocab_free(v);
    pr_model_file_close(f);
}

static void on_progress(void *arg, double fraction) {
    double *last = arg;
    assert_true(fraction >= *last && fraction <= 1);
    *last = fraction;
}

static void tells_its_progress(void **state) {
    (void)state;
    double last = 0;
    unlink(other);
    assert_int_equal(pr_synth_write(other, &small, PR_F16, 1, on_progress, &last, NULL), PR_OK);
    assert_true(last == 1);
}

static void refuses_impossible_shapes(void **state) {
    (void)state;
    pr_err err = {0};
    pr_synth_shape s = small;
    unlink(other);
    s.n_ff = 100;
    assert_int_equal(pr_synth_write(other, &s, PR_Q8_0, 1, NULL, NULL, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "n_ff"));
    s = small, s.n_vocab = 300;
    assert_int_equal(pr_synth_write(other, &s, PR_F32, 1, NULL, NULL, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "n_vocab"));
    s = small, s.n_kv_heads = 5;
    assert_int_equal(pr_synth_write(other, &s, PR_F32, 1, NULL, NULL, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "n_kv_heads"));
    s = small, s.dim = 0;
    assert_int_equal(pr_synth_write(other, &s, PR_F32, 1, NULL, NULL, &err), PR_ERR_ARG);
    assert_int_equal(pr_synth_write(other, &small, PR_Q4_K, 1, NULL, NULL, &err), PR_ERR_UNSUPPORTED);
    assert_int_not_equal(access(other, F_OK), 0);
}

static void memory_is_small_and_given_back(void **state) {
    (void)state;
    size_t before = pr_mem_total();
    pr_err err = {0};
    pr_synth_shape shape = small;
    shape.n_vocab = 32000;
    unlink(other);
    pr_mem_peak_reset();
    assert_int_equal(pr_synth_write(other, &shape, PR_F16, 1, NULL, NULL, &err), PR_OK);
    assert_true(pr_mem_peak() - before < 12 << 20);
    assert_int_equal(pr_mem_total(), before);
    for (int64_t n = 0; n < 2000; n = n < 40 ? n + 1 : n * 2) { /* early ones, and some of those for pieces */
        unlink(other);
        pr_mem_fail_after(n, false);
        pr_status status = pr_synth_write(other, &small, PR_F16, 1, NULL, NULL, &err);
        bool failed = pr_mem_failed();
        pr_mem_fail_after(-1, false);
        assert_int_equal(status, failed ? PR_ERR_NOMEM : PR_OK);
        assert_int_equal(pr_mem_total(), before);
        if (!failed) break;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(knows_shapes_by_name),       cmocka_unit_test(writes_every_type),
        cmocka_unit_test(tied_models_have_no_output), cmocka_unit_test(depends_on_the_seed_only),
        cmocka_unit_test(vocabulary_tokenizes),       cmocka_unit_test(tells_its_progress),
        cmocka_unit_test(refuses_impossible_shapes),  cmocka_unit_test(memory_is_small_and_given_back),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
