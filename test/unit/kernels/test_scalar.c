/*
 * The scalar kernels against plain arithmetic in double: checkasm holds every
 * other table to this one, so this one must be right by itself. Also the
 * choice of a table, pr_expf(), and what kernels.h promises of odd numbers.
 */
#include "kernels/kernels.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const pr_kernels *k;

static uint32_t seed = 777;

static float next_float(void) {
    seed = seed * 1664525u + 1013904223u;
    return (float)(int32_t)seed * 0x1p-31f;
}

static void fill(float *x, size_t n, float size) {
    for (size_t i = 0; i < n; i++) x[i] = next_float() * size;
}

static void assert_near(double want, double got, double tolerance) {
    if (!(fabs(want - got) <= tolerance)) {
        print_error("want %.9g, got %.9g\n", want, got);
        fail();
    }
}

static void test_dispatch(void **state) {
    (void)state;
    assert_ptr_equal(pr_kernels_of(0), k);
    assert_string_equal(k->name, "scalar");
    assert_ptr_equal(pr_kernels_get(1u << 31), k); /* a mask that leaves nothing else */
    assert_null(pr_kernels_of(1u << 31));
    uint32_t have = pr_cpu_detect();
    assert_int_equal(pr_kernels_of(PR_CPU_AVX2) != NULL, (have & PR_CPU_AVX2) != 0);
    assert_int_equal(pr_kernels_of(PR_CPU_AVX512) != NULL, (have & PR_CPU_AVX512) != 0);
    const pr_kernels *best = pr_kernels_get(0);
    const char *want = have & PR_CPU_AVX512 ? "avx512" : have & PR_CPU_AVX2 ? "avx2" : "scalar";
    assert_string_equal(best->name, want);
    if (have & PR_CPU_AVX2) assert_string_equal(pr_kernels_get(PR_CPU_AVX2)->name, "avx2");
}

static void test_exp(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 0x42b16667; i += 4999) {
        for (uint32_t sign = 0; sign < 2; sign++) {
            uint32_t bits = i | sign << 31;
            float x;
            memcpy(&x, &bits, sizeof x);
            if (x < -87.3f || x > 88.7f) continue;
            float want = (float)exp((double)x);
            assert_near(exp((double)x), (double)pr_expf(x), (double)(nextafterf(want, INFINITY) - want));
        }
    }
    assert_true(pr_expf(0.0f) == 1.0f);
    assert_true(pr_expf(-87.4f) == 0.0f && pr_expf(-INFINITY) == 0.0f && pr_expf(NAN) == 0.0f);
    assert_true(isfinite(pr_expf(INFINITY)) && pr_expf(1000.0f) == pr_expf(88.7f));
}

/* One matrix of each pack, 17 rows in 2 tiles, against pr_pack_row() and sums in double. */
enum { ROWS = 17, COLS = 96, TOKENS = 3 };

static void pack_matrix(pr_pack pack, uint8_t *data) {
    static float rows[32][COLS];
    const float *at[32];
    for (int r = 0; r < 32; r++) {
        fill(rows[r], COLS, 1.0f);
        at[r] = rows[r];
    }
    pr_pack_tile_f32(pack, at, 16, COLS, data);
    pr_pack_tile_f32(pack, at + 16, ROWS - 16, COLS, data + pr_pack_tile_bytes(pack, COLS));
}

static void test_matrix(void **state) {
    (void)state;
    static _Alignas(64) uint8_t data[2 * COLS * 64];
    static float x[TOKENS][COLS], y[TOKENS][40];
    static pr_qblock q[TOKENS][COLS / PR_BLOCK];
    fill(x[0], (size_t)TOKENS * COLS, 2.0f);
    for (int t = 0; t < TOKENS; t++) k->quant(x[t], COLS, q[t]);
    for (int q8 = 0; q8 < 2; q8++) {
        for (int pack = 0; pack < PR_PACK_PLANES; pack++) {
            pr_mm_fn *mm = (q8 ? k->mm_q8 : k->mm_f32)[pack];
            if (mm == NULL) {
                assert_true(q8 && pack < PR_PACK_Q8);
                continue;
            }
            pack_matrix((pr_pack)pack, data);
            memset(y, 0xff, sizeof y);
            pr_mm_args args = {.tiles = data,
                               .n_tiles = 2,
                               .cols = COLS,
                               .x = q8 ? (const void *)q : x,
                               .x_stride = q8 ? sizeof q[0] : sizeof x[0],
                               .n_tokens = TOKENS,
                               .y = y[0],
                               .y_stride = 40};
            mm(&args);
            pr_weight w = {(pr_pack)pack, ROWS, COLS, data};
            for (uint32_t r = 0; r < 32; r++) {
                float row[COLS];
                pr_pack_row(&w, r, row);
                for (int t = 0; t < TOKENS; t++) {
                    double sum = 0;
                    for (int c = 0; c < COLS; c++)
                        sum += (double)row[c] *
                               (q8 ? (double)q[t][c / 32].d * q[t][c / 32].q[c % 32] : (double)x[t][c]);
                    assert_near(sum, (double)y[t][r], 2e-5);
                }
            }
            for (int t = 0; t < TOKENS; t++) assert_true(isnan(y[t][32])); /* nothing past the tiles */
        }
    }
}

static void test_quant(void **state) {
    (void)state;
    float x[64];
    pr_qblock q[2];
    fill(x, 64, 3.0f);
    x[7] = -5.0f;
    k->quant(x, 64, q);
    assert_true(q[0].d == 5.0f / 127.0f && q[0].q[7] == -127);
    for (int b = 0; b < 2; b++) {
        int32_t sum = 0;
        for (int i = 0; i < 32; i++) {
            assert_near((double)x[32 * b + i], (double)q[b].d * q[b].q[i], (double)q[b].d * 0.5001);
            sum += q[b].q[i];
        }
        assert_int_equal(q[b].sum, sum);
        assert_int_equal(q[b].bias, -128 * sum);
        assert_true(q[b].ds == q[b].d * (float)sum);
    }
}

static void test_quant_broken(void **state) {
    (void)state;
    static const pr_qblock zero;
    float x[32] = {0};
    pr_qblock q;
    k->quant(x, 32, &q);
    assert_memory_equal(&q, &zero, sizeof q);
    x[3] = 1e-40f; /* too small for a scale */
    k->quant(x, 32, &q);
    assert_memory_equal(&q, &zero, sizeof q);
    x[3] = NAN;
    x[4] = 2.0f;
    k->quant(x, 32, &q);
    assert_true(q.d == 2.0f / 127.0f && q.q[3] == 0 && q.q[4] == 127);
    x[5] = -INFINITY;
    k->quant(x, 32, &q);
    assert_true(q.d == FLT_MAX / 127.0f && q.q[5] == -127 && q.q[4] == 0 && q.q[3] == 0);
}

static void test_rmsnorm(void **state) {
    (void)state;
    for (uint32_t n = 1; n < 70; n += 17) {
        float x[70], w[70], y[70];
        double sum = 0;
        fill(x, n, 4.0f);
        fill(w, n, 1.0f);
        for (uint32_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
        double r = 1.0 / sqrt(sum / n + 1e-5);
        k->rmsnorm(x, w, n, 1e-5f, y);
        for (uint32_t i = 0; i < n; i++) assert_near((double)x[i] * r * (double)w[i], (double)y[i], 1e-6);
        k->rmsnorm(x, NULL, n, 1e-5f, y);
        for (uint32_t i = 0; i < n; i++) assert_near((double)x[i] * r, (double)y[i], 1e-6);
    }
}

static void test_rope(void **state) {
    (void)state;
    enum { N = 12 };
    float cs[N], x[N], y[N];
    for (int i = 0; i < N / 2; i++) {
        cs[2 * i] = cosf((float)i + 0.3f);
        cs[2 * i + 1] = sinf((float)i + 0.3f);
    }
    for (int neox = 0; neox < 2; neox++) {
        fill(x, N, 2.0f);
        memcpy(y, x, sizeof y);
        k->rope(y, cs, N, neox);
        for (int i = 0; i < N / 2; i++) {
            int ia = neox ? i : 2 * i, ib = neox ? i + N / 2 : 2 * i + 1;
            double c = (double)cs[2 * i], s = (double)cs[2 * i + 1], a = (double)x[ia], b = (double)x[ib];
            assert_near(a * c - b * s, (double)y[ia], 1e-6);
            assert_near(b * c + a * s, (double)y[ib], 1e-6);
        }
    }
}

static void test_elements(void **state) {
    (void)state;
    enum { N = 37 };
    float a[N], b[N], y[N];
    fill(a, N, 9.0f);
    fill(b, N, 2.0f);
    k->silu_mul(a, b, N, y);
    for (int i = 0; i < N; i++) assert_near((double)a[i] / (1 + exp(-(double)a[i])) * (double)b[i], (double)y[i], 1e-5);
    k->add(a, b, N, y);
    for (int i = 0; i < N; i++) assert_true(y[i] == a[i] + b[i]);
    k->mul(a, b, N, y);
    for (int i = 0; i < N; i++) assert_true(y[i] == a[i] * b[i]);
    k->scale(a, 0.3f, N, y);
    for (int i = 0; i < N; i++) assert_true(y[i] == a[i] * 0.3f);
    memcpy(y, a, sizeof y);
    k->softmax(y, N);
    double max = -1e9, sum = 0;
    for (int i = 0; i < N; i++) max = fmax(max, (double)a[i]);
    for (int i = 0; i < N; i++) sum += exp((double)a[i] - max);
    for (int i = 0; i < N; i++) assert_near(exp((double)a[i] - max) / sum, (double)y[i], 1e-6);
}

/* Attention over 70 tokens in 3 pages with a window, against softmax(q K) V in double. */
enum { DIM = 24, CONTEXT = 70, PAGES = 3, V_DIM = 32 };

static void store(pr_kv_form form, void *tile, uint32_t j, const float *key, const float *value) {
    switch (form) {
    case PR_KV_FORM_F16: k->kv_store_f16(tile, DIM, j, key, value); break;
    case PR_KV_FORM_Q8: k->kv_store_q8(tile, DIM, j, key, value); break;
    case PR_KV_FORM_F32: pr_kv_store_f32(tile, DIM, j, key, value); break;
    }
}

static void load(pr_kv_form form, const void *tile, uint32_t n, float *keys, float *values) {
    switch (form) {
    case PR_KV_FORM_F16: k->kv_load_f16(tile, DIM, n, keys, values); break;
    case PR_KV_FORM_Q8: k->kv_load_q8(tile, DIM, n, keys, values); break;
    case PR_KV_FORM_F32: pr_kv_load_f32(tile, DIM, n, keys, values); break;
    }
}

static void check_attention(pr_kv_form form, double tolerance) {
    static float keys[CONTEXT][DIM], values[CONTEXT][DIM], q[DIM], tk[DIM * 32], tv[32 * V_DIM];
    static uint8_t pages[PAGES][DIM * 64 * 4];
    static _Alignas(64) float acc[V_DIM];
    const uint32_t first = 5; /* the window leaves these out */
    assert_true(pr_kv_tile_bytes(form, DIM) <= sizeof pages[0]);
    fill(keys[0], (size_t)CONTEXT * DIM, 1.0f);
    fill(values[0], (size_t)CONTEXT * DIM, 1.0f);
    fill(q, DIM, 1.0f);
    memset(pages, 0xff, sizeof pages); /* NaN where nothing was stored */
    memset(acc, 0, sizeof acc);
    for (uint32_t j = 0; j < CONTEXT; j++) store(form, pages[j / 32], j % 32, keys[j], values[j]);
    const float *queries[1] = {q};
    pr_attn_state s = {.m = -INFINITY, .l = 0, .acc = acc};
    for (uint32_t p = 0; p < PAGES; p++) {
        uint8_t lo = p == 0 ? first : 0, hi = p == PAGES - 1 ? CONTEXT - 32 * (PAGES - 1) : 32;
        load(form, pages[p], hi, tk, tv);
        for (int d = 0; d < DIM; d++)
            for (int j = hi; j < 32; j++) assert_true(tk[d * 32 + j] == 0.0f);
        for (int j = 0; j < hi; j++)
            for (int d = DIM; d < V_DIM; d++) assert_true(tv[j * V_DIM + d] == 0.0f);
        k->attend(queries, &s, &lo, &hi, 1, DIM, tk, tv);
    }
    double sum = 0, want[DIM] = {0};
    for (uint32_t j = first; j < CONTEXT; j++) {
        double score = 0;
        for (int d = 0; d < DIM; d++) score += (double)q[d] * (double)keys[j][d];
        sum += exp(score);
        for (int d = 0; d < DIM; d++) want[d] += exp(score) * (double)values[j][d];
    }
    for (int d = 0; d < DIM; d++) assert_near(want[d] / sum, (double)(acc[d] * (1.0f / s.l)), tolerance);
}

static void test_attention(void **state) {
    (void)state;
    check_attention(PR_KV_FORM_F32, 1e-6);
    check_attention(PR_KV_FORM_F16, 3e-4);
    check_attention(PR_KV_FORM_Q8, 5e-3);
}

static void test_tile_bytes(void **state) {
    (void)state;
    assert_int_equal(pr_kv_tile_bytes(PR_KV_FORM_F16, 64), 64 * 32 * 2 * 2);
    assert_int_equal(pr_kv_tile_bytes(PR_KV_FORM_Q8, 64), 128 + 64 * 32 * 2);
    assert_int_equal(pr_kv_tile_bytes(PR_KV_FORM_F32, 64), 64 * 32 * 2 * 4);
}

/* What a q8 page keeps of numbers that are none. */
static void test_kv_broken(void **state) {
    (void)state;
    static uint8_t tile[DIM * 64 + 128];
    static float tk[DIM * 32], tv[32 * V_DIM];
    float key[DIM] = {0}, value[DIM] = {0};
    key[0] = NAN;
    key[1] = 127.0f;
    value[2] = INFINITY;
    value[3] = 1.0f;
    k->kv_store_q8(tile, DIM, 0, key, value);
    k->kv_load_q8(tile, DIM, 1, tk, tv);
    assert_true(tk[0] == 0.0f && tk[32] == 127.0f && tk[64] == 0.0f);
    assert_true(tv[2] == 127.0f * 65504.0f && tv[3] == 0.0f);
}

static int setup(void **state) {
    (void)state;
    k = pr_kernels_of(0);
    return k == NULL;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dispatch),   cmocka_unit_test(test_exp),          cmocka_unit_test(test_matrix),
        cmocka_unit_test(test_quant),      cmocka_unit_test(test_quant_broken), cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_rope),       cmocka_unit_test(test_elements),     cmocka_unit_test(test_attention),
        cmocka_unit_test(test_tile_bytes), cmocka_unit_test(test_kv_broken),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
