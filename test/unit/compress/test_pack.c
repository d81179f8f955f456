/*
 * Packing: what comes out opens, holds the source's numbers at each level as near as that level can, keeps everything else
 * to the byte, and appears whole or not at all.
 */
#include "compress/pack.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/os.h"
#include "store/convert.h"
#include "store/planes.h"
#include "support/rig.h"
#include "support/sanitized.h"
#include "support/synth_model.h"

static const char text[] =
    "ab cd ef gh. A fox that could not keep a secret told the crow where the cheese was; the crow told the fox, and "
    "all of "
    "them were surprised: 1 + 1 = 2, 12 * 12 = 144. What else? Nothing else, said the fox, and closed the door.";

static const pr_pack_opts fast = {.fast = true, .n_threads = 2, .unit_bytes = 256};
static const pr_pack_opts calibrated = {
    .text = text, .text_len = sizeof text - 1, .n_threads = 2, .unit_bytes = 256, .n_tokens_max = 96};

static void must(pr_status st, const pr_err *err) {
    if (st) fail_msg("%s", err->text);
}

/* A path that stays (rig_path() has room for four). */
static const char *stays(const char *path, char buf[300]) {
    assert_true(snprintf(buf, 300, "%s", path) < 300);
    return buf;
}

static pr_pack_report pack(const char *source, const char *out, const pr_pack_opts *opts) {
    pr_err err = {0};
    pr_pack_report report;
    must(pr_pack_model(source, out, opts, &report, &err), &err);
    return report;
}

/* ---- numbers ---- */

/* Mean square of w - decoded over that of w, of one matrix at one level. */
static double relative_error(const pr_model_file *packed, const pr_plane_set *set, uint32_t i, pr_plane level,
                             const float *w) {
    const pr_plane_tensor *t = &set->tensors[i];
    pr_err err = {0};
    double error = 0, norm = 0;
    float *row = pr_alloc(PR_TAG_MISC, t->cols * sizeof *row);
    assert_non_null(row);
    for (uint32_t u = t->unit0; u < t->unit0 + t->n_units; u++) {
        uint8_t *plane[PR_PLANE_COUNT] = {NULL};
        for (uint32_t p = 0; p <= (uint32_t)level; p++) {
            plane[p] = pr_alloc(PR_TAG_MISC, (size_t)pr_plane_unit_bytes(set, u, (pr_plane)p));
            assert_non_null(plane[p]);
            must(pr_plane_unit_read(packed, u, (pr_plane)p, plane[p], &err), &err);
        }
        uint32_t first = set->units[u].tile0 * PR_TILE_ROWS, end = first + set->units[u].n_tiles * PR_TILE_ROWS;
        for (uint32_t r = first; r < end && r < t->rows; r++) {
            const uint8_t *tile[PR_PLANE_COUNT] = {NULL};
            for (uint32_t p = 0; p <= (uint32_t)level; p++)
                tile[p] = plane[p] + (r - first) / PR_TILE_ROWS * pr_plane_tile_bytes((pr_plane)p, t->cols);
            pr_plane_row(tile, level, &t->book, t->cols, r % PR_TILE_ROWS, row);
            for (uint32_t c = 0; c < t->cols; c++) {
                double x = (double)w[(size_t)r * t->cols + c], e = x - (double)row[c];
                error += e * e;
                norm += x * x;
            }
        }
        for (uint32_t p = 0; p < PR_PLANE_COUNT; p++) pr_free(plane[p]);
    }
    pr_free(row);
    return error / norm;
}

static void check_matrices(const pr_model_file *source, const pr_model_file *packed, bool is_fast) {
    static const double most[PR_PLANE_COUNT] = {0.3, 0.03, 5e-4, 2e-8};
    const pr_plane_set *set = pr_model_file_planes(packed);
    pr_err err = {0};
    for (uint32_t i = 0; i < set->n_tensors; i++) {
        const pr_plane_tensor *t = &set->tensors[i];
        float *w = pr_alloc(PR_TAG_MISC, (size_t)t->rows * t->cols * sizeof *w);
        assert_non_null(w);
        must(pr_convert_floats(source, pr_model_file_find(source, t->name), w, &err), &err);
        for (uint32_t p = 0; p < t->n_planes; p++) {
            double e = relative_error(packed, set, i, (pr_plane)p, w);
            if (!(e <= most[p] * (is_fast ? 1 : 2)))
                fail_msg("%s at %s: relative error %g", t->name, pr_plane_name((pr_plane)p), e);
        }
        pr_free(w);
    }
}

/* ---- everything else ---- */

static void check_kept(const pr_model_file *source, const pr_model_file *packed) {
    const pr_plane_set *set = pr_model_file_planes(packed);
    pr_err err = {0};
    for (size_t i = 0; i < pr_model_file_n_tensors(source); i++) {
        const pr_tensor_info *a = pr_model_file_tensor(source, i), *b = pr_model_file_find(packed, a->name);
        assert_non_null(b);
        if (b->planes) continue;
        assert_int_equal(a->dtype, b->dtype);
        assert_int_equal(a->bytes, b->bytes);
        uint8_t *x = pr_alloc(PR_TAG_MISC, (size_t)a->bytes), *y = pr_alloc(PR_TAG_MISC, (size_t)a->bytes);
        assert_true(x && y);
        must(pr_model_file_read(source, a, 0, x, (size_t)a->bytes, &err), &err);
        must(pr_model_file_read(packed, b, 0, y, (size_t)a->bytes, &err), &err);
        assert_memory_equal(x, y, (size_t)a->bytes);
        pr_free(x);
        pr_free(y);
    }
    for (size_t i = 0; i < pr_model_file_n_meta(source); i++) {
        const char *key = pr_model_file_meta_key(source, i);
        char a[256], b[256];
        assert_non_null(pr_model_file_meta(packed, key));
        pr_meta_format(pr_model_file_meta(source, key), a, sizeof a);
        pr_meta_format(pr_model_file_meta(packed, key), b, sizeof b);
        assert_string_equal(a, b);
    }
    assert_true(set->n_increments > 10);
}

static void check_report(const pr_pack_report *r, const pr_plane_set *set, const char *out) {
    struct stat st;
    assert_int_equal(stat(out, &st), 0);
    assert_int_equal(r->file_bytes, st.st_size);
    assert_int_equal(r->n_matrices, set->n_tensors);
    assert_int_equal(r->n_units, set->n_units);
    assert_int_equal(r->n_increments, set->n_increments);
    assert_int_equal(r->kl_measured ? r->n_measured : 0, set->n_measured);
    assert_true(!r->kl_measured || r->n_measured > 0);
    assert_int_equal(r->measured_to, set->measured_to);
    assert_true(r->kl_measured || r->measured_to == 0);
    for (int l = 0; l < PR_PLANE_COUNT; l++) {
        assert_int_equal(r->level_cursor[l], set->level_cursor[l]);
        assert_true(l == 0 || r->level_kl[l] <= r->level_kl[l - 1]);
    }
}

/* ---- models ---- */

static const struct {
    const char *name;
    llama_gguf model;
    uint32_t n_planes, n_matrices;
    bool note;
} variants[] = {
    {"f16", {.n_layers = 2, .type = PR_F16, .n_vocab = 320}, 4, 2 * 7 + 2, false},
    {"tied, biases",
     {.n_layers = 3, .type = PR_BF16, .tied = true, .bias = true, .ff_bias = true},
     4,
     3 * 7 + 1,
     false},
    {"odd sizes", {.n_layers = 2, .n_ff = 100, .n_vocab = 301}, 4, 2 * 6 + 2, false},
    {"q8_0", {.n_layers = 2, .type = PR_Q8_0, .tied = true}, 3, 2 * 7 + 1, true},
    {"q4_1 and f16", {.n_layers = 2, .type = PR_Q4_1, .other = "attn_v", .other_type = PR_F16}, 4, 2 * 7 + 2, true},
};

static void models(void **state) {
    (void)state;
    size_t held = pr_mem_total();
    for (size_t i = 0; i < 2 * sizeof variants / sizeof *variants; i++) {
        size_t v = i / 2;
        bool is_fast = i % 2;
        pr_err err = {0};
        pr_model_file *source, *packed;
        const char *path = rig_model(&variants[v].model, "m.gguf"), *out = rig_path("out.gguf");
        pr_pack_report r = pack(path, out, is_fast ? &fast : &calibrated);
        must(pr_model_file_open(path, &source, &err), &err);
        must(pr_model_file_open(out, &packed, &err), &err);
        assert_non_null(pr_model_file_planes(packed));
        assert_int_equal(r.n_planes, variants[v].n_planes);
        assert_int_equal(r.n_matrices, variants[v].n_matrices);
        assert_int_equal(r.note[0] != 0, variants[v].note);
        assert_true(r.kl_measured);
        if (is_fast) assert_in_range(r.n_measured, 1, 3); /* int2 and int4 may be the least there is */
        else assert_int_equal(r.n_measured, r.n_matrices);
        assert_int_equal(
            r.measured_to,
            r.level_cursor[is_fast ? PR_PLANE_P4 : PR_PLANE_P16]); /* the top and what is above it are one */
        check_report(&r, pr_model_file_planes(packed), out);
        check_kept(source, packed);
        check_matrices(source, packed, is_fast);
        pr_model_file_close(source);
        pr_model_file_close(packed);
    }
    assert_int_equal(pr_mem_total(), held);
}

/* How far b's logits are from those of a with --exact: root mean square, relative to a's. */
static double apart(const char *a, const char *b, const pr_engine_opts *of_b) {
    int32_t tokens[24];
    rig_rng rng = {1};
    const pr_engine_opts exact = {.n_threads = 2, .exact = true, .logits_max = 32};
    pr_engine *x = rig_open(a, &exact), *y = rig_open(b, of_b);
    uint32_t n_vocab = rig_vocab(x);
    assert_int_equal(n_vocab, rig_vocab(y));
    rig_tokens(&rng, tokens, 24, n_vocab);
    float *p = rig_logits(x, tokens, 24), *q = rig_logits(y, tokens, 24);
    double error = 0, norm = 0;
    for (uint32_t i = 0; i < 24 * n_vocab; i++) {
        double d = (double)p[i] - (double)q[i];
        error += d * d;
        norm += (double)p[i] * (double)p[i];
    }
    pr_free(p);
    pr_free(q);
    pr_engine_close(x);
    pr_engine_close(y);
    return sqrt(error / norm);
}

/*
 * What all planes may differ by. A weight is off by half a step of p16 at most, evenly spread: a step is about 2^-13.4 of the
 * group's largest weight (c8 reaches 85 steps of p8, k16 is 128), which makes 6e-5 of the weights' root mean square where they
 * are spread evenly, and 1.2e-4 for the few matrices with k16 = 64. Matrices err independently, and each passes its
 * own relative error on, so that n of them make sqrt(n) times one's. It has to be relative: a tied embedding of the tiny
 * models has numbers 4 times those of a head, so the logits are 4 times as large, and so is what they differ by.
 */
static double all_planes_max(uint32_t n_matrices) { return 1e-4 * sqrt(n_matrices); }

/* All planes give the source's logits, and fewer of them ever worse ones. */
static void engine(void **state) {
    (void)state;
    char kept[2][300];
    const char *path = stays(rig_model(&variants[0].model, "m.gguf"), kept[0]);
    const char *out = stays(rig_path("out.gguf"), kept[1]);
    pr_pack_report r = pack(path, out, &calibrated);
    double last = 0;
    for (int l = PR_LEVEL_FP16; l >= PR_LEVEL_INT2; l--) {
        const pr_engine_opts opts = {
            .n_threads = 2, .exact = true, .logits_max = 32, .level_given = true, .level = (pr_level)l};
        double d = apart(path, out, &opts);
        if (l == PR_LEVEL_FP16) assert_true(d < all_planes_max(r.n_matrices));
        if (l == PR_LEVEL_INT8) assert_true(d < 0.04);
        assert_true(d > last);
        last = d;
    }
}

/* A safetensors folder becomes one file that says the same. */
static void safetensors(void **state) {
    (void)state;
    for (size_t i = 0; i < pr_tiny_n_specs; i++) {
        if (pr_tiny_specs[i].dim % 32) continue; /* nothing of it could be packed */
        pr_err err = {0};
        char dir[300], name[600];
        stays(rig_path("folder"), dir);
        assert_int_equal(mkdir(dir, 0700), 0);
        must(pr_tiny_write_safetensors(&pr_tiny_specs[i], PR_F16, dir, &err), &err);
        char kept[300];
        const char *out = stays(rig_path("out.gguf"), kept);
        pr_pack_report r = pack(dir, out, &fast);
        assert_int_equal(r.n_planes, 4);
        const pr_engine_opts opts = {.n_threads = 2, .exact = true, .logits_max = 32};
        double d = apart(dir, out, &opts);
        if (!(d < all_planes_max(r.n_matrices))) fail_msg("%s: logits differ by %g", pr_tiny_specs[i].name, d);
        int32_t a[256], b[256];
        size_t n = 0, m = 0;
        pr_engine *x = rig_open(dir, &opts), *y = rig_open(out, &opts);
        must(pr_engine_tokenize(x, text, 50, PR_TOKENIZE_BOS, a, 256, &n, &err), &err);
        must(pr_engine_tokenize(y, text, 50, PR_TOKENIZE_BOS, b, 256, &m, &err), &err);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, n * sizeof *a);
        pr_engine_close(x);
        pr_engine_close(y);
        DIR *folder = opendir(dir);
        assert_non_null(folder);
        for (struct dirent *e = readdir(folder); e; e = readdir(folder)) {
            snprintf(name, sizeof name, "%s/%s", dir, e->d_name);
            if (e->d_name[0] != '.') unlink(name);
        }
        closedir(folder);
        rmdir(dir);
    }
}

/* The file does not depend on the number of threads. */
static void threads(void **state) {
    (void)state;
    char *a = NULL, *b = NULL;
    size_t n = 0, m = 0;
    pr_err err = {0};
    char kept[300];
    const char *path = stays(rig_model(&variants[1].model, "m.gguf"), kept);
    for (int is_fast = 0; is_fast < 2; is_fast++) {
        pr_pack_opts opts = is_fast ? fast : calibrated;
        opts.n_threads = 1;
        pack(path, rig_path("a.gguf"), &opts);
        opts.n_threads = 3;
        pack(path, rig_path("b.gguf"), &opts);
        must(pr_file_slurp(rig_path("a.gguf"), 1 << 24, &a, &n, &err), &err);
        must(pr_file_slurp(rig_path("b.gguf"), 1 << 24, &b, &m, &err), &err);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, n);
        pr_free(a);
        pr_free(b);
    }
}

/* ---- refusals and failures ---- */

static void refused(const char *source, const char *out, const pr_pack_opts *opts, pr_status status, const char *what) {
    pr_err err = {0};
    pr_pack_report report;
    size_t held = pr_mem_total();
    pr_status st = pr_pack_model(source, out, opts, &report, &err);
    if (st != status || !strstr(err.text, what))
        fail_msg("status %d, \"%s\" instead of %d, \"%s\"", st, err.text, status, what);
    assert_int_equal(pr_mem_total(), held);
}

static uint32_t files_there(void) {
    char folder[512];
    uint32_t n = 0;
    snprintf(folder, sizeof folder, "%s", rig_path(""));
    DIR *d = opendir(folder);
    assert_non_null(d);
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

typedef struct stopper {
    volatile int stop;
    double at;
} stopper;

static void stop_at(void *arg, const char *stage, double fraction) {
    stopper *s = arg;
    assert_non_null(stage);
    assert_true(fraction >= 0 && fraction <= 1.0001);
    if (fraction >= s->at) s->stop = 1;
}

static void refusals(void **state) {
    (void)state;
    char kept[2][300];
    const char *path = stays(rig_model(&variants[0].model, "m.gguf"), kept[0]);
    const char *out = stays(rig_path("out.gguf"), kept[1]);
    refused(path, path, &fast, PR_ERR_ARG, "source itself");
    refused(rig_path("none.gguf"), out, &fast, PR_ERR_NOTFOUND, "none.gguf");
    refused(path, rig_path("no/such/folder.gguf"), &fast, PR_ERR_NOTFOUND, "no/such");
    pack(path, out, &fast);
    refused(out, rig_path("again.gguf"), &fast, PR_ERR_ARG, "packed already");
    pr_pack_opts brief = calibrated;
    brief.text_len = 10;
    refused(path, out, &brief, PR_ERR_ARG, "too short");
    pr_model_file *still;
    pr_err err = {0};
    must(pr_model_file_open(out, &still, &err), &err);
    pr_model_file_close(still);
}

/* Stopped anywhere, what was there before is there still, and nothing else. */
static void cancelled(void **state) {
    (void)state;
    char kept[2][300];
    const char *path = stays(rig_model(&variants[0].model, "m.gguf"), kept[0]);
    const char *out = stays(rig_path("out.gguf"), kept[1]);
    FILE *f = fopen(out, "w");
    assert_non_null(f);
    fputs("before", f);
    fclose(f);
    uint32_t there = files_there();
    for (int i = 0; i < 10; i++) {
        stopper s = {0, i / 10.0};
        pr_pack_opts opts = i % 2 ? fast : calibrated;
        opts.cancel = &s.stop;
        opts.progress = stop_at;
        opts.progress_arg = &s;
        refused(path, out, &opts, PR_ERR_CANCELLED, "stopped");
        char *was = NULL;
        size_t n;
        must(pr_file_slurp(out, 100, &was, &n, &(pr_err){0}), &(pr_err){0});
        assert_string_equal(was, "before");
        pr_free(was);
        assert_int_equal(files_there(), there);
    }
}

static void every_allocation(const pr_pack_opts *opts, int64_t step) {
    char kept[2][300];
    const llama_gguf least = {.dim = 32, .n_layers = 2, .n_heads = 2, .n_ff = 64, .type = PR_F16};
    const char *path = stays(rig_model(&least, "m.gguf"), kept[0]);
    const char *out = stays(rig_path("never.gguf"), kept[1]);
    size_t held = pr_mem_total();
    unlink(out);
    uint32_t there = files_there();
    bool through = false;
    for (int64_t n = 0; !through; n += step) {
        pr_err err = {0};
        pr_pack_report report;
        pr_mem_fail_after(n, true);
        pr_status st = pr_pack_model(path, out, opts, &report, &err);
        through = !pr_mem_failed();
        pr_mem_fail_after(-1, false);
        if (st) {
            if (st != PR_ERR_NOMEM) fail_msg("request %d refused: \"%s\"", (int)n, err.text);
            assert_int_equal(files_there(), there);
        } else {
            assert_true(through);
            unlink(out);
        }
        if (pr_mem_total() != held)
            fail_msg("request %d refused: %zd bytes lost", (int)n, (ssize_t)(pr_mem_total() - held));
    }
}

static void allocations(void **state) {
    (void)state;
    every_allocation(&fast, TEST_SANITIZED ? 7 : 1);
    pr_pack_opts opts = calibrated;
    opts.n_threads = 1;
    every_allocation(&opts, TEST_SANITIZED ? 97 : 13);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models),      cmocka_unit_test(engine),   cmocka_unit_test(safetensors),
        cmocka_unit_test(threads),     cmocka_unit_test(refusals), cmocka_unit_test(cancelled),
        cmocka_unit_test(allocations),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
