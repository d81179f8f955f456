/*
 * Decoding, encoding and packing of tensors: against goldens of an independent implementation, and
 * packed tiles against decoded rows.
 */
#include "blob.h"

#include <math.h>

#include "base/mem.h"
#include "quant_goldens.h"
#include "store/convert.h"
#include "store/gguf_write.h"
#include "store/quantize.h"

static char folder[256], path[300];

static int make_folder(void **state) {
    (void)state;
    temp_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/m.gguf", folder);
    return 0;
}

static int drop_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

/* Hex text to bytes; returns their number. */
static size_t unhex(const char *hex, void *out) {
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
        ((uint8_t *)out)[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return n;
}

static void decodes_as_the_reference(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof decode_goldens / sizeof *decode_goldens; i++) {
        const golden *g = &decode_goldens[i];
        uint8_t blocks[512 + 1];
        float want[256], got[256];
        size_t bytes = unhex(g->blocks, blocks + 1); /* at an odd address */
        size_t n = unhex(g->numbers, want) / sizeof(float);
        const pr_dtype_info *type = pr_dtype_get(g->dtype);
        assert_int_equal(bytes / type->block_bytes * type->block_elems, n);
        pr_dequant(g->dtype, blocks + 1, n, got);
        for (size_t j = 0; j < n; j++) {
            if (memcmp(&want[j], &got[j], sizeof(float)) != 0 && !(want[j] == 0 && got[j] == 0)) {
                fail_msg("%s[%zu]: %.9g, not %.9g", type->name, j, (double)got[j], (double)want[j]);
            }
        }
    }
}

static void encodes_as_the_reference(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof encode_goldens / sizeof *encode_goldens; i++) {
        const golden *g = &encode_goldens[i];
        uint8_t want[256], got[256] = {0};
        float numbers[96];
        size_t n = unhex(g->numbers, numbers) / sizeof(float), bytes = unhex(g->blocks, want);
        assert_true(pr_quantize_takes(g->dtype));
        pr_quantize(g->dtype, numbers, n, got);
        for (size_t j = 0; j < bytes; j++) {
            if (want[j] != got[j])
                fail_msg("%s byte %zu: %u, not %u", pr_dtype_get(g->dtype)->name, j, got[j], want[j]);
        }
    }
}

static void rounds_halves_away_from_zero(void **state) {
    (void)state;
    float numbers[32] = {127, 0.5f, -0.5f, 1.5f, -2.5f, 0x1.fffffep-2f, -0x1.fffffep-2f, 126.5f, -126.5f, 2.4999998f};
    static const int8_t codes[10] = {127, 1, -1, 2, -3, 0, 0, 127, -127, 2}; /* the scale is 1 */
    int8_t out[34];
    pr_quantize(PR_Q8_0, numbers, 32, out);
    assert_memory_equal(out + 2, codes, sizeof codes);
    pr_quantize_q8_0_near(numbers, 32, out);
    assert_memory_equal(out + 2, codes, sizeof codes);
}

static void encodes_what_is_no_number(void **state) {
    (void)state;
    static const pr_dtype types[] = {PR_Q8_0, PR_Q4_0, PR_Q4_1};
    float numbers[32] = {NAN, INFINITY, -INFINITY, 1, -1}, tiny[32] = {0x1p-140f, -0x1.63p-17f};
    uint8_t out[34];
    for (size_t i = 0; i < 3; i++) {
        pr_quantize(types[i], numbers, 32, out);
        pr_quantize(types[i], tiny, 32, out);
    }
    pr_quantize_q8_0_near(numbers, 32, out);
    pr_quantize_q8_0_near(tiny, 32, out);
    assert_int_equal((int8_t)out[3], -127);
    assert_false(pr_quantize_takes(PR_Q4_K));
    assert_false(pr_quantize_takes(PR_I32));
}

static void widens_plain_types(void **state) {
    (void)state;
    float out[4];
    const int8_t i8[] = {-128, 127, 0, -1};
    const int16_t i16[] = {-32768, 32767, 0, -1};
    const int32_t i32[] = {-100000, 100000, 0, -1};
    const int64_t i64[] = {-100000, 1 << 20, 0, -1};
    const double f64[] = {0.5, -2, 1e300, 3};
    const uint16_t f16[] = {0x3c00, 0xc000, 0x0001, 0x7c00}, bf16[] = {0x3f80, 0xc000, 0x0001, 0x7f80};
    pr_dequant(PR_I8, i8, 4, out);
    assert_true(out[0] == -128 && out[1] == 127 && out[3] == -1);
    pr_dequant(PR_I16, i16, 4, out);
    assert_true(out[0] == -32768 && out[1] == 32767 && out[3] == -1);
    pr_dequant(PR_I32, i32, 4, out);
    assert_true(out[0] == -100000 && out[3] == -1);
    pr_dequant(PR_I64, i64, 4, out);
    assert_true(out[0] == -100000 && out[1] == 1 << 20 && out[3] == -1);
    pr_dequant(PR_F64, f64, 4, out);
    assert_true(out[0] == 0.5f && isinf(out[2]) && out[3] == 3);
    pr_dequant(PR_F16, f16, 4, out);
    assert_true(out[0] == 1 && out[1] == -2 && out[2] == 0x1p-24f && isinf(out[3]));
    pr_dequant(PR_BF16, bf16, 4, out);
    assert_true(out[0] == 1 && out[1] == -2 && isinf(out[3]));
}

static void plans_every_type(void **state) {
    (void)state;
    static const struct {
        pr_dtype src;
        pr_pack pack;
        pr_loss loss;
    } plans[] = {
        {PR_F32, PR_PACK_F32, PR_LOSS_NONE},   {PR_F16, PR_PACK_F16, PR_LOSS_NONE},
        {PR_BF16, PR_PACK_BF16, PR_LOSS_NONE}, {PR_Q8_0, PR_PACK_Q8, PR_LOSS_NONE},
        {PR_Q4_1, PR_PACK_Q4, PR_LOSS_NONE},   {PR_Q4_0, PR_PACK_Q4, PR_LOSS_REPACK},
        {PR_Q5_0, PR_PACK_Q8, PR_LOSS_REPACK}, {PR_IQ4_NL, PR_PACK_Q8, PR_LOSS_REPACK},
        {PR_Q4_K, PR_PACK_Q4, PR_LOSS_ROUND},  {PR_IQ4_XS, PR_PACK_Q8, PR_LOSS_ROUND},
        {PR_Q5_1, PR_PACK_Q8, PR_LOSS_ROUND},  {PR_Q2_K, PR_PACK_Q8, PR_LOSS_ROUND},
        {PR_Q3_K, PR_PACK_Q8, PR_LOSS_ROUND},  {PR_Q5_K, PR_PACK_Q8, PR_LOSS_ROUND},
        {PR_Q6_K, PR_PACK_Q8, PR_LOSS_ROUND},
    };
    static const pr_dtype none[] = {PR_F64, PR_I8, PR_I16, PR_I32, PR_I64};
    pr_pack pack;
    pr_loss loss;
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        assert_int_equal(pr_convert_plan(plans[i].src, false, &pack, &loss, NULL), PR_OK);
        assert_int_equal(pack, plans[i].pack);
        assert_int_equal(loss, plans[i].loss);
        assert_int_equal(pr_convert_plan(plans[i].src, true, &pack, &loss, NULL), PR_OK);
        assert_int_equal(pack, plans[i].loss == PR_LOSS_ROUND ? PR_PACK_F32 : plans[i].pack);
        assert_int_not_equal(loss, PR_LOSS_ROUND);
    }
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        pr_err err = {0};
        assert_int_equal(pr_convert_plan(none[i], false, &pack, &loss, &err), PR_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.text, pr_dtype_get(none[i])->name));
    }
}

/* ---- tiles ---- */

enum { COLS = 512, ROWS = 37 };

static uint64_t counter;

static uint32_t draw(void) {
    uint64_t x = counter++ * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 31) * 0xd6e8feb86659fd93u;
    return (uint32_t)(x >> 32);
}

static void put_half(uint8_t *at, float v) {
    uint16_t h = pr_f32_to_f16(v);
    memcpy(at, &h, 2);
}

/* Random rows of a type: any codes, scales of a sane size. */
static void random_rows(pr_dtype dtype, uint8_t *out, size_t bytes) {
    static const struct {
        pr_dtype dtype;
        int scales[2];
    } places[] = {
        {PR_Q4_0, {0, -1}}, {PR_Q4_1, {0, 2}},    {PR_Q5_0, {0, -1}},   {PR_Q5_1, {0, 2}},
        {PR_Q8_0, {0, -1}}, {PR_IQ4_NL, {0, -1}}, {PR_Q2_K, {80, 82}},  {PR_Q3_K, {108, -1}},
        {PR_Q4_K, {0, 2}},  {PR_Q5_K, {0, 2}},    {PR_Q6_K, {208, -1}}, {PR_IQ4_XS, {0, -1}},
    };
    const pr_dtype_info *type = pr_dtype_get(dtype);
    for (size_t i = 0; i < bytes; i++) out[i] = (uint8_t)draw();
    for (size_t k = 0; k < sizeof places / sizeof *places; k++) {
        for (size_t b = 0; places[k].dtype == dtype && b < bytes; b += type->block_bytes) {
            for (int s = 0; s < 2; s++) {
                if (places[k].scales[s] >= 0)
                    put_half(out + b + places[k].scales[s], ((float)(draw() % 2001) - 1000) * 1e-5f);
            }
        }
    }
    if (type->block_elems > 1) return;
    for (size_t i = 0; i * type->block_bytes < bytes; i++) {
        float v = ((float)(draw() % 2001) - 1000) * 1e-3f;
        pr_quantize(dtype, &v, 1, out + i * type->block_bytes);
    }
}

static pr_model_file *write_and_open(pr_dtype dtype, const uint8_t *rows, size_t bytes) {
    pr_gguf_writer *w;
    pr_model_file *f;
    pr_err err = {0};
    const uint64_t dims[2] = {COLS, ROWS}, first[1] = {3};
    const float head[3] = {1, 2, 3};
    assert_int_equal(pr_gguf_create(path, 32, &w, &err), PR_OK);
    pr_gguf_tensor(w, "before", PR_F32, 1, first);
    pr_gguf_tensor(w, "matrix", dtype, 2, dims);
    assert_int_equal(pr_gguf_data(w, head, sizeof head, &err), PR_OK);
    assert_int_equal(pr_gguf_data(w, rows, bytes, &err), PR_OK);
    assert_int_equal(pr_gguf_finish(w, &err), PR_OK);
    if (pr_model_file_open(path, &f, &err) != PR_OK) fail_msg("%s", err.text);
    return f;
}

/* How far a packed number may be from the decoded one. block: the 32 decoded numbers around it. */
static float allowed(pr_dtype dtype, pr_loss loss, const float *block) {
    float top = 0;
    if (loss != PR_LOSS_ROUND) return 0;
    for (int i = 0; i < 32; i++) top = fmaxf(top, fabsf(block[i]));
    if (dtype == PR_IQ4_XS) return top * 0x1p-11f;
    if (dtype == PR_Q4_K) return 0.01f * 63 * 16 * 0x1p-11f; /* scale times 15 and minimum, each half an ulp off */
    return top * (0.5f / 127) * 1.01f;
}

static void check_tiles(const pr_model_file *f, pr_dtype dtype, bool exact, const uint8_t *rows, size_t row_bytes) {
    const pr_tensor_info *t = pr_model_file_find(f, "matrix");
    pr_pack pack;
    pr_loss loss;
    pr_err err = {0};
    assert_int_equal(pr_convert_plan(dtype, exact, &pack, &loss, &err), PR_OK);
    size_t tile_bytes = pr_pack_tile_bytes(pack, COLS), n_tiles = pr_pack_tiles(ROWS);
    uint8_t *tiles = aligned_alloc(64, n_tiles * tile_bytes);
    void *scratch = aligned_alloc(64, pr_align_up(pr_convert_scratch(t, pack), 64));
    /* in two calls, the last tile first */
    assert_int_equal(pr_convert_tiles(f, t, pack, 2, 1, tiles + 2 * tile_bytes, scratch, &err), PR_OK);
    assert_int_equal(pr_convert_tiles(f, t, pack, 0, 2, tiles, scratch, &err), PR_OK);
    pr_weight w = {.pack = pack, .rows = ROWS, .cols = COLS, .data = tiles};
    for (uint32_t r = 0; r < ROWS; r++) {
        float want[COLS], got[COLS];
        pr_dequant(dtype, rows + r * row_bytes, COLS, want);
        pr_pack_row(&w, r, got);
        for (int c = 0; c < COLS; c++) {
            float limit = allowed(dtype, loss, want + c / 32 * 32);
            if (!(fabsf(want[c] - got[c]) <= limit)) {
                fail_msg("%s as %s, row %u, column %d: %.9g, not %.9g", pr_dtype_get(dtype)->name, pr_pack_name(pack),
                         r, c, (double)got[c], (double)want[c]);
            }
        }
    }
    assert_int_equal(pr_convert_tiles(f, t, pack, 3, 1, tiles, scratch, &err), PR_ERR_ARG);
    free(tiles);
    free(scratch);
}

static void packs_what_it_decodes(void **state) {
    (void)state;
    static const pr_dtype types[] = {PR_F32,  PR_F16,  PR_BF16, PR_Q4_0, PR_Q4_1, PR_Q5_0,   PR_Q5_1,  PR_Q8_0,
                                     PR_Q2_K, PR_Q3_K, PR_Q4_K, PR_Q5_K, PR_Q6_K, PR_IQ4_NL, PR_IQ4_XS};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        uint64_t row_bytes;
        assert_true(pr_dtype_row_bytes(types[i], COLS, &row_bytes));
        uint8_t *rows = malloc(ROWS * row_bytes);
        random_rows(types[i], rows, ROWS * row_bytes);
        pr_model_file *f = write_and_open(types[i], rows, ROWS * row_bytes);
        check_tiles(f, types[i], false, rows, row_bytes);
        check_tiles(f, types[i], true, rows, row_bytes);

        float *floats = malloc(ROWS * COLS * sizeof *floats), *row = malloc(ROWS * COLS * sizeof *row);
        pr_err err = {0};
        assert_int_equal(pr_convert_floats(f, pr_model_file_find(f, "matrix"), floats, &err), PR_OK);
        pr_dequant(types[i], rows, ROWS * COLS, row);
        assert_memory_equal(floats, row, ROWS * COLS * sizeof *row);
        free(row);
        free(floats);
        free(rows);
        pr_model_file_close(f);
    }
}

static void refuses_what_cannot_be_packed(void **state) {
    (void)state;
    static const uint64_t dims[3] = {33, 2, 2};
    static const float data[33 * 4];
    pr_gguf_writer *w;
    pr_model_file *f;
    pr_err err = {0};
    char out[4096], scratch[16384];
    assert_int_equal(pr_gguf_create(path, 32, &w, &err), PR_OK);
    pr_gguf_tensor(w, "cube", PR_F32, 3, dims);
    pr_gguf_tensor(w, "odd", PR_F32, 2, dims);
    assert_int_equal(pr_gguf_data(w, data, sizeof data, &err), PR_OK);
    assert_int_equal(pr_gguf_data(w, data, sizeof data / 2, &err), PR_OK);
    assert_int_equal(pr_gguf_finish(w, &err), PR_OK);
    assert_int_equal(pr_model_file_open(path, &f, &err), PR_OK);
    const pr_tensor_info *cube = pr_model_file_find(f, "cube"), *odd = pr_model_file_find(f, "odd");
    assert_int_equal(pr_convert_tiles(f, cube, PR_PACK_F32, 0, 1, out, scratch, &err), PR_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "'cube'"));
    assert_int_equal(pr_convert_tiles(f, odd, PR_PACK_Q8, 0, 1, out, scratch, &err), PR_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "'odd'"));
    assert_int_equal(pr_convert_tiles(f, odd, PR_PACK_F32, 0, 1, out, scratch, &err), PR_OK);
    pr_model_file_close(f);
}

static void reports_read_errors_and_no_memory(void **state) {
    (void)state;
    uint8_t *rows = calloc(ROWS, COLS * 4);
    pr_model_file *f = write_and_open(PR_F32, rows, ROWS * COLS * 4);
    const pr_tensor_info *t = pr_model_file_find(f, "matrix");
    pr_err err = {0};
    float *out = malloc(ROWS * COLS * sizeof *out);
    void *tile = malloc(pr_pack_tile_bytes(PR_PACK_F32, COLS)), *scratch = malloc(pr_convert_scratch(t, PR_PACK_F32));
    size_t before = pr_mem_total();
    assert_int_equal(truncate(path, 2000), 0); /* behind our back */
    assert_int_equal(pr_convert_tiles(f, t, PR_PACK_F32, 0, 1, tile, scratch, &err), PR_ERR_FORMAT);
    assert_non_null(strstr(err.text, "'matrix'"));
    assert_int_equal(pr_convert_floats(f, t, out, &err), PR_ERR_FORMAT);
    pr_mem_fail_after(0, false);
    assert_int_equal(pr_convert_floats(f, t, out, &err), PR_ERR_NOMEM);
    pr_mem_fail_after(-1, false);
    assert_int_equal(pr_mem_total(), before);
    pr_model_file_close(f);
    free(tile);
    free(scratch);
    free(out);
    free(rows);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_as_the_reference),
        cmocka_unit_test(encodes_as_the_reference),
        cmocka_unit_test(rounds_halves_away_from_zero),
        cmocka_unit_test(encodes_what_is_no_number),
        cmocka_unit_test(widens_plain_types),
        cmocka_unit_test(plans_every_type),
        cmocka_unit_test(packs_what_it_decodes),
        cmocka_unit_test(refuses_what_cannot_be_packed),
        cmocka_unit_test(reports_read_errors_and_no_memory),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
