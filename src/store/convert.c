/*
 * From the types of files to the packed tiles of the kernels.
 *
 * There are three ways into a tile. Types that the kernels execute as they are go to
 * pr_pack_tile() untouched. Types whose codes fit a kernel type are brought
 * into that type's blocks first, which keeps their codes (dequant.h). The rest is
 * decoded to floats and rounded to Q8, or kept as floats in exact mode. A
 * tile's rows stand together in the file, so each tile is one read into
 * scratch, and conversion needs no memory beyond it however large the tensor is.
 *
 * Q4_K and IQ4_XS take the second way although it rounds the scale of each
 * sub-block to a half (2^-11 relative): rounding the decoded numbers to Q8 would
 * cost more bytes and lose more.
 */
#include "store/convert.h"

#include <inttypes.h>

#include "base/mem.h"
#include "store/dequant.h"
#include "store/quantize.h"

/* What becomes of a type. */
typedef struct way {
    void (*decode)(const uint8_t *src, uint64_t n, float *out);
    void (*repack)(const uint8_t *src, uint64_t n, uint8_t *dst); /* into blocks of repacked; NULL: none */
    pr_dtype repacked;
    bool runs; /* matrices of it can be executed, as: */
    pr_pack pack;
    pr_loss loss;
} way;

static const way ways[PR_DTYPE_COUNT] = {
    [PR_F32] = {.decode = pr__dequant_f32, .runs = true, .pack = PR_PACK_F32},
    [PR_F16] = {.decode = pr__dequant_f16, .runs = true, .pack = PR_PACK_F16},
    [PR_BF16] = {.decode = pr__dequant_bf16, .runs = true, .pack = PR_PACK_BF16},
    [PR_F64] = {.decode = pr__dequant_f64},
    [PR_I8] = {.decode = pr__dequant_i8},
    [PR_I16] = {.decode = pr__dequant_i16},
    [PR_I32] = {.decode = pr__dequant_i32},
    [PR_I64] = {.decode = pr__dequant_i64},
    [PR_Q8_0] = {pr__dequant_q8_0, NULL, PR_Q8_0, true, PR_PACK_Q8, PR_LOSS_NONE},
    [PR_Q4_1] = {pr__dequant_q4_1, NULL, PR_Q4_1, true, PR_PACK_Q4, PR_LOSS_NONE},
    [PR_Q4_0] = {pr__dequant_q4_0, NULL, PR_Q4_0, true, PR_PACK_Q4, PR_LOSS_REPACK},
    [PR_Q5_0] = {pr__dequant_q5_0, pr__repack_q5_0, PR_Q8_0, true, PR_PACK_Q8, PR_LOSS_REPACK},
    [PR_IQ4_NL] = {pr__dequant_iq4_nl, pr__repack_iq4_nl, PR_Q8_0, true, PR_PACK_Q8, PR_LOSS_REPACK},
    [PR_IQ4_XS] = {pr__dequant_iq4_xs, pr__repack_iq4_xs, PR_Q8_0, true, PR_PACK_Q8, PR_LOSS_ROUND},
    [PR_Q4_K] = {pr__dequant_q4_k, pr__repack_q4_k, PR_Q4_1, true, PR_PACK_Q4, PR_LOSS_ROUND},
    [PR_Q5_1] = {pr__dequant_q5_1, NULL, PR_Q5_1, true, PR_PACK_Q8, PR_LOSS_ROUND},
    [PR_Q2_K] = {pr__dequant_q2_k, NULL, PR_Q2_K, true, PR_PACK_Q8, PR_LOSS_ROUND},
    [PR_Q3_K] = {pr__dequant_q3_k, NULL, PR_Q3_K, true, PR_PACK_Q8, PR_LOSS_ROUND},
    [PR_Q5_K] = {pr__dequant_q5_k, NULL, PR_Q5_K, true, PR_PACK_Q8, PR_LOSS_ROUND},
    [PR_PLANES] = {.runs = true, .pack = PR_PACK_PLANES},
    [PR_Q6_K] = {pr__dequant_q6_k, NULL, PR_Q6_K, true, PR_PACK_Q8, PR_LOSS_ROUND},
};

pr_status pr_convert_plan(pr_dtype src, bool exact, pr_pack *pack, pr_loss *loss, pr_err *err) {
    const way *w = &ways[src];
    if (!w->runs) {
        return pr_fail(err, PR_ERR_UNSUPPORTED, "matrices of type %s cannot be executed", pr_dtype_get(src)->name);
    }
    bool keep = exact && w->loss == PR_LOSS_ROUND;
    *pack = keep ? PR_PACK_F32 : w->pack;
    *loss = keep ? PR_LOSS_REPACK : w->loss;
    return PR_OK;
}

void pr_dequant(pr_dtype dtype, const void *src, uint64_t n, float *out) { ways[dtype].decode(src, n, out); }

/* What is done to a row before it is packed. */
typedef enum step { STEP_NONE, STEP_REPACK, STEP_ROUND, STEP_DECODE } step;

typedef struct row_plan {
    step step;
    uint64_t file_bytes; /* of a row in the file */
    uint64_t mid_bytes;  /* after the step; 0: there is none */
    pr_dtype mid;        /* its type then */
} row_plan;

static row_plan plan_row(const pr_tensor_info *t, pr_pack pack) {
    const way *w = &ways[t->dtype];
    row_plan p = {.step = STEP_DECODE, .mid = PR_F32};
    if (pr_pack_takes(pack, t->dtype)) {
        p.step = STEP_NONE;
        p.mid = t->dtype;
    } else if (w->repack && pr_pack_takes(pack, w->repacked)) {
        p.step = STEP_REPACK;
        p.mid = w->repacked;
    } else if (pack == PR_PACK_Q8) {
        p.step = STEP_ROUND;
        p.mid = PR_Q8_0;
    }
    pr_dtype_row_bytes(t->dtype, t->dims[0], &p.file_bytes);
    if (p.step != STEP_NONE) pr_dtype_row_bytes(p.mid, t->dims[0], &p.mid_bytes);
    return p;
}

size_t pr_convert_scratch(const pr_tensor_info *t, pr_pack pack) {
    row_plan p = plan_row(t, pack);
    return pr_align_up((size_t)p.file_bytes * PR_TILE_ROWS, 64) + (size_t)p.mid_bytes * PR_TILE_ROWS;
}

/* Decode n numbers, whole blocks, and round them to Q8_0, piece by piece so that the floats stay in the cache. */
static void round_row(pr_dtype dtype, const uint8_t *src, uint64_t n, uint8_t *dst) {
    enum { PIECE = 256 };
    float numbers[PIECE];
    uint64_t src_bytes = 0, dst_bytes = 0;
    pr_dtype_row_bytes(dtype, PIECE, &src_bytes);
    pr_dtype_row_bytes(PR_Q8_0, PIECE, &dst_bytes);
    for (; n; src += src_bytes, dst += dst_bytes) {
        uint64_t piece = n < PIECE ? n : PIECE;
        pr_dequant(dtype, src, piece, numbers);
        pr_quantize_q8_0_near(numbers, piece, dst);
        n -= piece;
    }
}

/* Rows of one tile stand in the file layout at src; pack them. mid: room for the rows in between. */
static void pack_rows(const row_plan *p, const pr_tensor_info *t, pr_pack pack, const uint8_t *src, uint8_t *mid,
                      uint32_t n_rows, void *tile) {
    uint32_t cols = (uint32_t)t->dims[0];
    const void *rows[PR_TILE_ROWS] = {0};
    const float *floats[PR_TILE_ROWS] = {0};
    for (uint32_t i = 0; i < n_rows; i++, src += p->file_bytes, mid += p->mid_bytes) {
        rows[i] = p->step == STEP_NONE ? src : mid;
        floats[i] = (const float *)(const void *)mid;
        switch (p->step) {
        case STEP_NONE: break;
        case STEP_REPACK: ways[t->dtype].repack(src, cols, mid); break;
        case STEP_ROUND: round_row(t->dtype, src, cols, mid); break;
        case STEP_DECODE: pr_dequant(t->dtype, src, cols, (float *)(void *)mid); break;
        }
    }
    if (p->step == STEP_DECODE) pr_pack_tile_f32(pack, floats, n_rows, cols, tile);
    else pr_pack_tile(pack, p->mid, rows, n_rows, cols, tile);
}

pr_status pr_convert_tiles(const pr_model_file *file, const pr_tensor_info *t, pr_pack pack, uint32_t tile0,
                           uint32_t n_tiles, void *out, void *scratch, pr_err *err) {
    uint64_t cols = t->dims[0], rows = t->dims[1];
    bool blocks = pack == PR_PACK_Q8 || pack == PR_PACK_Q4;
    if (t->dims[2] != 1 || t->dims[3] != 1 || cols > UINT32_MAX || rows > UINT32_MAX ||
        (blocks && cols % PR_BLOCK != 0)) {
        return pr_fail(err, PR_ERR_UNSUPPORTED, "tensor '%s' is no matrix that can be packed as %s", t->name,
                       pr_pack_name(pack));
    }
    if ((uint64_t)tile0 + n_tiles > pr_pack_tiles((uint32_t)rows)) {
        return pr_fail(err, PR_ERR_ARG, "tensor '%s' has no tile %u", t->name, tile0 + n_tiles - 1);
    }
    row_plan p = plan_row(t, pack);
    uint8_t *src = scratch, *mid = src + pr_align_up((size_t)p.file_bytes * PR_TILE_ROWS, 64);
    size_t tile_bytes = pr_pack_tile_bytes(pack, (uint32_t)cols);
    for (uint32_t i = 0; i < n_tiles; i++) {
        uint64_t row = (uint64_t)(tile0 + i) * PR_TILE_ROWS;
        uint32_t n_rows = rows - row < PR_TILE_ROWS ? (uint32_t)(rows - row) : PR_TILE_ROWS;
        pr_status status = pr_model_file_read(file, t, row * p.file_bytes, src, (size_t)p.file_bytes * n_rows, err);
        if (status != PR_OK) return status;
        pack_rows(&p, t, pack, src, mid, n_rows, (uint8_t *)out + i * tile_bytes);
    }
    return PR_OK;
}

pr_status pr_convert_floats(const pr_model_file *file, const pr_tensor_info *t, float *out, pr_err *err) {
    enum { CHUNK = 1 << 16 };
    const pr_dtype_info *type = pr_dtype_get(t->dtype);
    if (!ways[t->dtype].decode) {
        return pr_fail(err, PR_ERR_UNSUPPORTED, "tensor '%s' of type %s has no numbers of its own", t->name,
                       type->name);
    }
    uint64_t n_blocks = t->bytes / type->block_bytes, per_chunk = CHUNK / type->block_bytes;
    void *chunk = pr_alloc(PR_TAG_FILE, CHUNK);
    if (!chunk) return pr_fail_nomem(err, t->name, CHUNK);
    pr_status status = PR_OK;
    for (uint64_t at = 0; at < n_blocks && status == PR_OK; at += per_chunk) {
        uint64_t n = n_blocks - at < per_chunk ? n_blocks - at : per_chunk;
        status = pr_model_file_read(file, t, at * type->block_bytes, chunk, (size_t)(n * type->block_bytes), err);
        if (status == PR_OK) pr_dequant(t->dtype, chunk, n * type->block_elems, out + at * type->block_elems);
    }
    pr_free(chunk);
    return status;
}
