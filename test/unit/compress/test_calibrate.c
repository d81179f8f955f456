/*
 * Calibration: Gram matrices against plain sums in double, any number of threads, streams in a file or in memory, and
 * what is counted of tokens and logits.
 */
#include "compress/calibrate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "compress/gram.h"
#include "compress/streams.h"
#include "store/convert.h"
#include "support/rig.h"

static void must(pr_status st, const pr_err *err) {
    if (st) fail_msg("%s", err->text);
}

/* ---- Gram matrices ---- */

/* x: 3 batches of rows; widths around what is cut into strips and tiles. */
static void gram_of(uint32_t cols, int n_threads) {
    enum { ROWS_MAX = 37, BATCHES = 3 };
    static const uint32_t rows[BATCHES] = {37, 1, 18};
    pr_err err = {0};
    rig_rng rng = {cols};
    pr_team *team;
    pr_gram gram, diagonal;
    size_t stride = cols + 5, n_sum = (size_t)cols * cols;
    must(pr_team_open(n_threads, 0, &team, &err), &err);
    must(pr_gram_init(&gram, cols, ROWS_MAX, false, &err), &err);
    must(pr_gram_init(&diagonal, cols, ROWS_MAX, true, &err), &err);
    float *x = pr_calloc(PR_TAG_MISC, ROWS_MAX * stride, sizeof *x);
    double *want = pr_calloc(PR_TAG_MISC, n_sum, sizeof *want);
    uint8_t *scratch = pr_map(PR_TAG_MISC, (size_t)n_threads * pr_gram_scratch(ROWS_MAX));
    assert_true(x && want && scratch);
    for (uint32_t b = 0; b < BATCHES; b++) {
        for (size_t i = 0; i < ROWS_MAX * stride; i++) x[i] = (float)rig_below(&rng, 2001) / 1000 - 1;
        for (uint32_t p = 0; p < pr_gram_take_chunks(&gram); p++) {
            pr_gram_take(&gram, p, x, stride, rows[b]);
            pr_gram_take(&diagonal, p, x, stride, rows[b]);
        }
        pr_gram both[] = {gram, diagonal};
        pr_gram_add(both, 2, pr_kernels_get(0), team, scratch);
        gram = both[0];
        diagonal = both[1];
        for (uint32_t r = 0; r < rows[b]; r++)
            for (size_t i = 0; i < cols; i++)
                for (size_t j = 0; j < cols; j++)
                    want[i * cols + j] += (double)x[r * stride + i] * (double)x[r * stride + j];
    }
    pr_gram_finish(&gram);
    pr_gram_finish(&diagonal);
    assert_int_equal(gram.n_total, 37 + 1 + 18);
    assert_int_equal(diagonal.n_total, 37 + 1 + 18);
    for (size_t i = 0; i < n_sum; i++)
        if (!(fabs((double)gram.sum[i] - want[i]) < 1e-4)) fail_msg("%u columns: element %zu", cols, i);
    for (uint32_t i = 0; i < cols; i++) assert_true(fabs((double)diagonal.sum[i] - want[(size_t)i * cols + i]) < 1e-4);
    pr_unmap(PR_TAG_MISC, scratch, (size_t)n_threads * pr_gram_scratch(ROWS_MAX));
    pr_free(x);
    pr_free(want);
    pr_gram_free(&gram);
    pr_gram_free(&diagonal);
    pr_team_close(team);
}

static void grams(void **state) {
    (void)state;
    static const uint32_t cols[] = {16, 32, 47, 128, 129, 160, 300};
    size_t held = pr_mem_total();
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) gram_of(cols[i], i % 2 ? 3 : 1);
    assert_int_equal(pr_mem_total(), held);
}

/* ---- streams ---- */

static void streams(void **state) {
    (void)state;
    pr_err err = {0};
    for (int in_file = 0; in_file < 2; in_file++) {
        pr_streams s;
        float a[3 * 8], b[3 * 8] = {0};
        must(pr_streams_open(&s, 20, 8, in_file ? 0 : 1 << 20, "/tmp", &err), &err);
        assert_int_equal(s.memory == NULL, in_file);
        for (int i = 0; i < 24; i++) a[i] = (float)i;
        must(pr_streams_put(&s, 17, 3, a, &err), &err);
        must(pr_streams_put(&s, 2, 3, b, &err), &err);
        must(pr_streams_get(&s, 17, 3, b, &err), &err);
        assert_memory_equal(a, b, sizeof a);
        pr_streams_close(&s);
    }
    pr_streams none;
    assert_int_equal(pr_streams_open(&none, 20, 8, 0, "/no/such/folder", &err), PR_ERR_NOTFOUND);
    pr_streams_close(&none);
}

/* ---- the whole ---- */

static const char text[] =
    "ab cd ef gh. A fox that could not keep a secret told the crow where the cheese was; the crow told the fox, and "
    "all of "
    "them were surprised: 1 + 1 = 2, 12 * 12 = 144. What else? Nothing else, said the fox, and closed the door.";

enum { MATRICES_MAX = 32, COLS_MAX = 96 };

typedef struct kept {
    char name[MATRICES_MAX][48];
    float *gram[MATRICES_MAX];
    uint32_t cols[MATRICES_MAX];
    uint64_t n_rows[MATRICES_MAX];
    uint32_t n;
} kept;

static pr_status keep(void *arg, const pr_calibrated *m, pr_err *err) {
    kept *k = arg;
    (void)err;
    assert_true(k->n < MATRICES_MAX && m->cols <= COLS_MAX);
    size_t bytes = (size_t)m->cols * m->cols * sizeof(float);
    k->gram[k->n] = pr_alloc(PR_TAG_MISC, bytes);
    assert_non_null(k->gram[k->n]);
    memcpy(k->gram[k->n], m->gram, bytes);
    snprintf(k->name[k->n], sizeof k->name[0], "%s", m->tensor->name);
    k->cols[k->n] = m->cols;
    k->n_rows[k->n] = m->n_rows;
    assert_int_equal(m->head, strcmp(m->tensor->name, "output.weight") == 0);
    k->n++;
    return PR_OK;
}

static void drop(kept *k) {
    for (uint32_t i = 0; i < k->n; i++) pr_free(k->gram[i]);
    *k = (kept){0};
}

static void calibrate(const char *path, int n_threads, size_t stream_bytes, kept *k, pr_calibration *c) {
    pr_err err = {0};
    pr_model_file *file;
    pr_team *team;
    must(pr_model_file_open(path, &file, &err), &err);
    must(pr_team_open(n_threads, 0, &team, &err), &err);
    const pr_calibrate_opts opts = {.text = text,
                                    .text_len = sizeof text - 1,
                                    .kernels = pr_kernels_get(0),
                                    .team = team,
                                    .chunk_max = 40,
                                    .stream_bytes = stream_bytes,
                                    .folder = "/tmp"};
    must(pr_calibrate(file, &opts, keep, k, c, &err), &err);
    pr_team_close(team);
    pr_model_file_close(file);
}

/* The inputs of layer 0's q: the norm of the embedding of every token, all in double. */
static void check_first(const char *path, const kept *k, const pr_calibration *c) {
    pr_err err = {0};
    pr_model_file *file;
    must(pr_model_file_open(path, &file, &err), &err);
    const pr_tensor_info *e = pr_model_file_find(file, "token_embd.weight"),
                         *n = pr_model_file_find(file, "blk.0.attn_norm.weight");
    uint32_t dim = (uint32_t)e->dims[0], rows = (uint32_t)e->dims[1];
    float *embedding = pr_alloc(PR_TAG_MISC, (size_t)dim * rows * sizeof(float)), norm[COLS_MAX];
    assert_non_null(embedding);
    must(pr_convert_floats(file, e, embedding, &err), &err);
    must(pr_convert_floats(file, n, norm, &err), &err);
    static double want[COLS_MAX * COLS_MAX];
    memset(want, 0, sizeof want);
    for (uint32_t id = 0; id < c->n_vocab; id++) {
        double times = round(c->frequency[id] * (double)c->n_tokens), squares = 0, x[COLS_MAX];
        for (uint32_t i = 0; i < dim; i++) squares += (double)embedding[id * dim + i] * (double)embedding[id * dim + i];
        for (uint32_t i = 0; i < dim; i++)
            x[i] = (double)embedding[id * dim + i] / sqrt(squares / dim + 1e-5) * (double)norm[i];
        for (uint32_t i = 0; i < dim; i++)
            for (uint32_t j = 0; j < dim; j++) want[i * dim + j] += times * x[i] * x[j];
    }
    assert_string_equal(k->name[0], "blk.0.attn_q.weight");
    for (uint32_t i = 0; i < dim * dim; i++)
        if (!(fabs((double)k->gram[0][i] - want[i]) < 1e-3))
            fail_msg("element %u: %g for %g", i, (double)k->gram[0][i], want[i]);
    pr_free(embedding);
    pr_model_file_close(file);
}

static void check_counts(const kept *k, const pr_calibration *c) {
    double f = 0, p = 0;
    for (uint32_t i = 0; i < c->n_vocab; i++) {
        f += c->frequency[i];
        p += c->probability[i];
    }
    assert_true(fabs(f - 1) < 1e-9 && fabs(p - 1) < 1e-4);
    assert_true(c->nll > 3 && c->nll < 12);
    assert_int_equal(c->n_probes, 3);
    assert_true(c->probe_len > 8 && c->probe_len <= 40);
    assert_int_equal(k->n, 2 * 7 + 1);
    for (uint32_t i = 0; i + 1 < k->n; i++) assert_int_equal(k->n_rows[i], c->n_tokens);
    for (uint32_t m = 0; m < k->n; m++)
        for (uint32_t i = 0; i < k->cols[m]; i++) {
            assert_true(k->gram[m][i * k->cols[m] + i] > 0);
            for (uint32_t j = 0; j < i; j++)
                assert_true(memcmp(&k->gram[m][i * k->cols[m] + j], &k->gram[m][j * k->cols[m] + i], sizeof(float)) ==
                            0);
        }
    assert_memory_equal(k->gram[0], k->gram[1], sizeof(float) * k->cols[0] * k->cols[0]); /* q and k read the same */
    assert_memory_not_equal(k->gram[0], k->gram[4], sizeof(float) * k->cols[0]);
}

static void model(void **state) {
    (void)state;
    size_t held = pr_mem_total();
    const llama_gguf spec = {.n_layers = 2, .type = PR_F16, .n_vocab = 320};
    const char *path = rig_model(&spec, "m.gguf");
    kept a = {0}, b = {0};
    pr_calibration c, d;
    calibrate(path, 1, 1 << 30, &a, &c);
    check_first(path, &a, &c);
    check_counts(&a, &c);
    calibrate(path, 3, 1, &b, &d);
    assert_int_equal(a.n, b.n);
    for (uint32_t i = 0; i < a.n; i++) {
        assert_string_equal(a.name[i], b.name[i]);
        assert_memory_equal(a.gram[i], b.gram[i], sizeof(float) * a.cols[i] * a.cols[i]);
    }
    assert_memory_equal(c.probability, d.probability, c.n_vocab * sizeof *c.probability);
    assert_memory_equal(c.probe_logits, d.probe_logits, sizeof(float) * c.n_probes * c.probe_len * c.n_vocab);
    pr_calibration_free(&c);
    pr_calibration_free(&d);
    drop(&a);
    drop(&b);
    assert_int_equal(pr_mem_total(), held);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grams),
        cmocka_unit_test(streams),
        cmocka_unit_test(model),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
