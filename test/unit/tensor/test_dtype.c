/*
 * Data types: sizes against the published block layouts, look-ups both ways,
 * and half precision over every half there is.
 */
#include "tensor/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static void test_sizes(void **state) {
    (void)state;
    static const struct {
        pr_dtype dtype;
        uint32_t ggml_id;
        uint64_t n, bytes;
    } want[] = {
        {PR_F32, 0, 3, 12},      {PR_F16, 1, 3, 6},       {PR_BF16, 30, 3, 6},     {PR_F64, 28, 2, 16},
        {PR_I8, 24, 5, 5},       {PR_I16, 25, 5, 10},     {PR_I32, 26, 5, 20},     {PR_I64, 27, 5, 40},
        {PR_Q4_0, 2, 64, 36},    {PR_Q4_1, 3, 64, 40},    {PR_Q5_0, 6, 64, 44},    {PR_Q5_1, 7, 64, 48},
        {PR_Q8_0, 8, 64, 68},    {PR_Q2_K, 10, 512, 168}, {PR_Q3_K, 11, 512, 220}, {PR_Q4_K, 12, 512, 288},
        {PR_Q5_K, 13, 512, 352}, {PR_Q6_K, 14, 512, 420}, {PR_IQ4_NL, 20, 64, 36}, {PR_IQ4_XS, 23, 512, 272},
    };
    assert_int_equal(sizeof want / sizeof want[0], PR_PLANES); /* which is the last and has no number in GGUF */
    assert_int_equal(PR_PLANES + 1, PR_DTYPE_COUNT);
    for (size_t i = 0; i < PR_PLANES; i++) {
        uint64_t bytes = 0;
        pr_dtype by_id = PR_DTYPE_COUNT, by_name = PR_DTYPE_COUNT;
        assert_true(pr_dtype_row_bytes(want[i].dtype, want[i].n, &bytes));
        assert_int_equal(bytes, want[i].bytes);
        assert_true(pr_dtype_by_ggml(want[i].ggml_id, &by_id));
        assert_int_equal(by_id, want[i].dtype);
        assert_true(pr_dtype_by_name(pr_dtype_get(want[i].dtype)->name, &by_name));
        assert_int_equal(by_name, want[i].dtype);
    }
}

static void test_refused(void **state) {
    (void)state;
    uint64_t bytes;
    pr_dtype dtype;
    assert_false(pr_dtype_row_bytes(PR_Q8_0, 33, &bytes));
    assert_false(pr_dtype_row_bytes(PR_Q6_K, 128, &bytes));
    assert_false(pr_dtype_row_bytes(PR_F32, UINT64_MAX / 2, &bytes));
    assert_false(pr_dtype_row_bytes(PR_Q8_0, UINT64_MAX / 32 * 32, &bytes));
    assert_true(pr_dtype_row_bytes(PR_Q4_K, 0, &bytes));
    assert_int_equal(bytes, 0);
    assert_false(pr_dtype_by_ggml(9, &dtype)); /* q8_1 is no file type */
    assert_false(pr_dtype_by_ggml(UINT32_MAX, &dtype));
    assert_false(pr_dtype_by_name("q4", &dtype));
    assert_false(pr_dtype_by_name("", &dtype));
}

/* The value of a half by its definition. */
static double value_of(uint16_t h) {
    int exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    double x = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    return h & 0x8000 ? -x : x;
}

static void test_every_half(void **state) {
    (void)state;
    for (uint32_t h = 0; h <= 0xffff; h++) {
        float f = pr_f16_to_f32((uint16_t)h);
        if ((h & 0x7c00) == 0x7c00) {
            assert_int_equal(isnan(f) != 0, (h & 0x3ff) != 0);
            assert_int_equal(signbit(f) != 0, h >> 15);
            uint16_t quiet = (uint16_t)(isnan(f) ? h | 0x200 : h);
            assert_int_equal(pr_f32_to_f16(f), quiet);
        } else {
            assert_int_equal(bits_of(f), bits_of((float)value_of((uint16_t)h)));
            assert_int_equal(pr_f32_to_f16(f), h);
        }
    }
}

/* Around each half and each midpoint: the nearest one wins, the even one at a tie. */
static void test_half_rounds_to_even(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float lo = pr_f16_to_f32((uint16_t)h), hi = pr_f16_to_f32((uint16_t)(h + 1));
        float mid = lo + (hi - lo) / 2;
        uint16_t even = (uint16_t)(h % 2 == 0 ? h : h + 1);
        assert_int_equal(pr_f32_to_f16(mid), even);
        assert_int_equal(pr_f32_to_f16(-mid), even | 0x8000);
        assert_int_equal(pr_f32_to_f16(nextafterf(mid, 0.0f)), h);
        assert_int_equal(pr_f32_to_f16(nextafterf(mid, INFINITY)), h + 1);
    }
    assert_int_equal(pr_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(pr_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(pr_f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(pr_f32_to_f16(-3e38f), 0xfc00);
    assert_int_equal(pr_f32_to_f16(1e-30f), 0);
    assert_int_equal(pr_f32_to_f16(float_of(1)), 0);
}

static void test_bf16(void **state) {
    (void)state;
    for (uint32_t b = 0; b <= 0xffff; b++) {
        float f = pr_bf16_to_f32((uint16_t)b);
        assert_int_equal(pr_f32_to_bf16(f), isnan(f) ? b | 0x40 : b);
    }
    assert_int_equal(pr_f32_to_bf16(float_of(0x3f808000)), 0x3f80); /* a tie goes to the even one */
    assert_int_equal(pr_f32_to_bf16(float_of(0x3f818000)), 0x3f82);
    assert_int_equal(pr_f32_to_bf16(float_of(0x3f808001)), 0x3f81);
    assert_int_equal(pr_f32_to_bf16(float_of(0x7f7fffff)), 0x7f80);
    assert_true(isnan(pr_bf16_to_f32(pr_f32_to_bf16(float_of(0x7f800001)))));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_every_half), cmocka_unit_test(test_half_rounds_to_even),
        cmocka_unit_test(test_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
