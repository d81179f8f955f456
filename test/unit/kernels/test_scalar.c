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

#include "kernels/kv_q4.h"

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
    assert_int_equal(pr_kernels_of(PR_CPU_AVXVNNI) != NULL, (have & PR_CPU_AVXVNNI) != 0);
    assert_int_equal(pr_kernels_of(PR_CPU_AVX512) != NULL, (have & PR_CPU_AVX512) != 0);
    const pr_kernels *best = pr_kernels_get(0);
    const char *want = have & PR_CPU_AVX512    ? "avx512"
                       : have & PR_CPU_AVXVNNI ? "avxvnni"
                       : have & PR_CPU_AVX2    ? "avx2"
                                               : "scalar";
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
        assert_int_equal(q[b].bias64, -64 * sum);
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

/* Keys and queries are rotated, which must change nothing but the rounding. */
static void check_attention(pr_kv_form k_form, pr_kv_form v_form, double tolerance) {
    static float keys[CONTEXT][DIM], values[CONTEXT][DIM], q[DIM], tk[DIM * 32], tv[32 * V_DIM];
    static uint8_t pages[PAGES][2][DIM * 32 * 4];
    float key[DIM], query[DIM];
    static _Alignas(64) float acc[V_DIM];
    const uint32_t first = 5; /* the window leaves these out */
    fill(keys[0], (size_t)CONTEXT * DIM, 1.0f);
    fill(values[0], (size_t)CONTEXT * DIM, 1.0f);
    fill(q, DIM, 1.0f);
    memset(pages, 0xff, sizeof pages); /* NaN where nothing was stored */
    memset(acc, 0, sizeof acc);
    for (uint32_t j = 0; j < CONTEXT; j++) {
        memcpy(key, keys[j], sizeof key);
        k->hadamard(key, DIM);
        k->kv_store_k[k_form](pages[j / 32][0], DIM, j % 32, key);
        k->kv_store_v[v_form](pages[j / 32][1], DIM, j % 32, values[j]);
    }
    memcpy(query, q, sizeof query);
    k->hadamard(query, DIM);
    const float *queries[1] = {query};
    pr_attn_state s = {.m = -INFINITY, .l = 0, .acc = acc};
    for (uint32_t p = 0; p < PAGES; p++) {
        uint8_t lo = p == 0 ? first : 0, hi = p == PAGES - 1 ? CONTEXT - 32 * (PAGES - 1) : 32;
        k->kv_load_k[k_form](pages[p][0], DIM, hi, tk);
        k->kv_load_v[v_form](pages[p][1], DIM, hi, tv);
        for (int d = 0; d < DIM; d++)
            for (int j = hi; j < 32; j++) assert_true(tk[d * 32 + j] == 0.0f);
        for (int j = 0; j < hi; j++)
            for (int d = DIM; d < V_DIM; d++) assert_true(tv[j * V_DIM + d] == 0.0f);
        k->attend(queries, &s, &lo, &hi, 1, DIM, &(pr_attn_tile){.k = tk, .v = tv});
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
    check_attention(PR_KV_FORM_F32, PR_KV_FORM_F32, 1e-6);
    check_attention(PR_KV_FORM_F16, PR_KV_FORM_F16, 3e-4);
    check_attention(PR_KV_FORM_Q8, PR_KV_FORM_Q8, 5e-3);
    check_attention(PR_KV_FORM_Q4, PR_KV_FORM_F32, 0.08);
    check_attention(PR_KV_FORM_F32, PR_KV_FORM_Q4, 0.08);
}

static void test_part_bytes(void **state) {
    (void)state;
    assert_int_equal(pr_kv_part_bytes(PR_KV_FORM_F16, 64), 64 * 32 * 2);
    assert_int_equal(pr_kv_part_bytes(PR_KV_FORM_Q8, 64), 64 + 64 * 32);
    assert_int_equal(pr_kv_part_bytes(PR_KV_FORM_Q4, 64), 2 * 64 + 32 * 32); /* 4.5 bits a number */
    assert_int_equal(pr_kv_part_bytes(PR_KV_FORM_Q4, 33), 2 * 64 + 17 * 32);
    assert_int_equal(pr_kv_part_bytes(PR_KV_FORM_F32, 64), 64 * 32 * 4);
}

/* What 8-bit pages keep of numbers that are none. */
static void test_kv_broken(void **state) {
    (void)state;
    static uint8_t keys[DIM * 32 + 64], values[DIM * 32 + 64];
    static float tk[DIM * 32], tv[32 * V_DIM];
    float key[DIM] = {0}, value[DIM] = {0};
    key[0] = NAN;
    key[1] = 127.0f;
    value[2] = INFINITY;
    value[3] = 1.0f;
    k->kv_store_k[PR_KV_FORM_Q8](keys, DIM, 0, key);
    k->kv_store_v[PR_KV_FORM_Q8](values, DIM, 0, value);
    k->kv_load_k[PR_KV_FORM_Q8](keys, DIM, 1, tk);
    k->kv_load_v[PR_KV_FORM_Q8](values, DIM, 1, tv);
    assert_true(tk[0] == 0.0f && tk[32] == 127.0f && tk[64] == 0.0f);
    assert_true(tv[2] == 127.0f * 65504.0f && tv[3] == 0.0f);
}

/* The tables of stretches are what kv_q4.h says they are, and the 16 levels are used as well as it says. */
static void test_q4_levels(void **state) {
    (void)state;
    enum { GROUPS = 2000 };
    for (int s = 0; s < PR__Q4_STRETCHES; s++) {
        for (int i = 0; i < PR__Q4_HALF; i++) {
            int level = pr__q4_levels[PR__Q4_HALF + i];
            assert_int_equal(pr__q4_levels[PR__Q4_HALF - 1 - i], -level);
            assert_int_equal(pr__q4_stretched[s][i], (level * (40 + 3 * s) + 25) / 50);
            if (i == PR__Q4_HALF - 1) continue;
            int over = (pr__q4_stretched[s][i] + pr__q4_stretched[s][i + 1]) / 2;
            assert_int_equal(pr__q4_over[s][i], over < 127 ? over : 127);
        }
    }
    static float x[32], back[32];
    static uint8_t part[32 * 32];
    double error = 0, power = 0;
    for (int g = 0; g < GROUPS; g++) {
        for (int i = 0; i < 32; i++) { /* a sum of 12 is about normal */
            x[i] = 0;
            for (int n = 0; n < 12; n++) x[i] += next_float();
        }
        k->kv_store_v[PR_KV_FORM_Q4](part, 32, 0, x);
        k->kv_load_v[PR_KV_FORM_Q4](part, 32, 1, back);
        for (int i = 0; i < 32; i++) error += pow((double)(back[i] - x[i]), 2), power += pow((double)x[i], 2);
    }
    assert_near(0.0060, error / power, 0.0003);
}

/* Twice is nothing, lengths stay, and one number spreads evenly over its block. */
static void test_hadamard(void **state) {
    (void)state;
    for (uint32_t n = 1; n <= 130; n++) {
        float x[130], y[130];
        double xx = 0, yy = 0;
        fill(x, n, 1.0f);
        memcpy(y, x, sizeof y);
        k->hadamard(y, n);
        for (uint32_t i = 0; i < n; i++) xx += pow((double)x[i], 2), yy += pow((double)y[i], 2);
        assert_near(xx, yy, 1e-5 * xx);
        k->hadamard(y, n);
        for (uint32_t i = 0; i < n; i++) assert_near((double)x[i], (double)y[i], 1e-6);
    }
    float one[80] = {[3] = 8.0f, [70] = 4.0f};
    k->hadamard(one, 80);
    for (int i = 0; i < 80; i++) assert_near(1.0, fabs((double)one[i]), 0);
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
        cmocka_unit_test(test_part_bytes), cmocka_unit_test(test_kv_broken),    cmocka_unit_test(test_q4_levels),
        cmocka_unit_test(test_hadamard),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
