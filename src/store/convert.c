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

typedef void (*dequant_fn)(const uint8_t *src, uint64_t n, float *out);
typedef void (*repack_fn)(const uint8_t *src, uint64_t n, uint8_t *dst);

static dequant_fn dequant_of(pr_dtype dtype) {
    switch (dtype) {
    case PR_Q4_0: return pr__dequant_q4_0;
    case PR_Q4_1: return pr__dequant_q4_1;
    case PR_Q5_0: return pr__dequant_q5_0;
    case PR_Q5_1: return pr__dequant_q5_1;
    case PR_Q8_0: return pr__dequant_q8_0;
    case PR_Q2_K: return pr__dequant_q2_k;
    case PR_Q3_K: return pr__dequant_q3_k;
    case PR_Q4_K: return pr__dequant_q4_k;
    case PR_Q5_K: return pr__dequant_q5_k;
    case PR_Q6_K: return pr__dequant_q6_k;
    case PR_IQ4_NL: return pr__dequant_iq4_nl;
    case PR_IQ4_XS: return pr__dequant_iq4_xs;
    case PR_F32: case PR_F16: case PR_BF16: case PR_F64: case PR_I8: case PR_I16: case PR_I32: case PR_I64:
    case PR_DTYPE_COUNT: break;
    }
    return NULL;
}

/* How blocks of src become blocks of *to, when their codes fit; NULL otherwise. */
static repack_fn repack_of(pr_dtype src, pr_dtype *to) {
    *to = src == PR_Q4_K ? PR_Q4_1 : PR_Q8_0;
    return src == PR_Q5_0     ? pr__repack_q5_0
           : src == PR_IQ4_NL ? pr__repack_iq4_nl
           : src == PR_IQ4_XS ? pr__repack_iq4_xs
           : src == PR_Q4_K   ? pr__repack_q4_k
                              : NULL;
}

pr_status pr_convert_plan(pr_dtype src, bool exact, pr_pack *pack, pr_loss *loss, pr_err *err) {
    pr_pack p = PR_PACK_F32;
    pr_loss l = PR_LOSS_NONE;
    switch (src) {
    case PR_F32: break;
    case PR_F16: p = PR_PACK_F16; break;
    case PR_BF16: p = PR_PACK_BF16; break;
    case PR_Q8_0: p = PR_PACK_Q8; break;
    case PR_Q4_1: p = PR_PACK_Q4; break;
    case PR_Q4_0: p = PR_PACK_Q4, l = PR_LOSS_REPACK; break;
    case PR_Q5_0: case PR_IQ4_NL: p = PR_PACK_Q8, l = PR_LOSS_REPACK; break;
    case PR_Q4_K: p = PR_PACK_Q4, l = PR_LOSS_ROUND; break;
    case PR_Q5_1: case PR_Q2_K: case PR_Q3_K: case PR_Q5_K: case PR_Q6_K: case PR_IQ4_XS:
        p = PR_PACK_Q8, l = PR_LOSS_ROUND;
        break;
    case PR_F64: case PR_I8: case PR_I16: case PR_I32: case PR_I64: case PR_DTYPE_COUNT:
        return pr_fail(err, PR_ERR_UNSUPPORTED, "matrices of type %s cannot be executed", pr_dtype_get(src)->name);
    }
    if (l == PR_LOSS_ROUND && exact) p = PR_PACK_F32, l = PR_LOSS_REPACK;
    *pack = p;
    *loss = l;
    return PR_OK;
}

/* Numbers that are stored one by one: out[i] = load(src + i * width). */
static void widen(pr_dtype dtype, const uint8_t *src, uint64_t n, float *out) {
    size_t width = pr_dtype_get(dtype)->block_bytes;
    for (uint64_t i = 0; i < n; i++, src += width) {
        uint16_t h;
        double d;
        int64_t v = 0;
        switch (dtype) {
        case PR_F16: memcpy(&h, src, 2); out[i] = pr_f16_to_f32(h); break;
        case PR_BF16: memcpy(&h, src, 2); out[i] = pr_bf16_to_f32(h); break;
        case PR_F64: memcpy(&d, src, 8); out[i] = (float)d; break;
        case PR_I8: case PR_I16: case PR_I32: case PR_I64:
            memcpy(&v, src, width);
            out[i] = (float)((int64_t)((uint64_t)v << (64 - 8 * width)) >> (64 - 8 * width));
            break;
        case PR_F32: case PR_Q4_0: case PR_Q4_1: case PR_Q5_0: case PR_Q5_1: case PR_Q8_0: case PR_Q2_K: case PR_Q3_K:
        case PR_Q4_K: case PR_Q5_K: case PR_Q6_K: case PR_IQ4_NL: case PR_IQ4_XS: case PR_DTYPE_COUNT: return;
        }
    }
}

void pr_dequant(pr_dtype dtype, const void *src, uint64_t n, float *out) {
    dequant_fn block = dequant_of(dtype);
    if (block) block(src, n, out);
    else if (dtype == PR_F32) memcpy(out, src, (size_t)n * sizeof *out);
    else widen(dtype, src, n, out);
}

/* One row of t in the file, and what it becomes before it is packed. */
typedef struct row_plan {
    uint64_t file_bytes;
    uint64_t mid_bytes; /* 0: packed as it is */
    repack_fn repack;   /* NULL: decoded to floats, when mid_bytes > 0 */
    pr_dtype mid_dtype; /* of the repacked row */
} row_plan;

static row_plan plan_row(const pr_tensor_info *t, pr_pack pack) {
    row_plan p = {.mid_dtype = t->dtype};
    pr_dtype_row_bytes(t->dtype, t->dims[0], &p.file_bytes);
    if (pr_pack_takes(pack, t->dtype)) return p;
    pr_dtype mid;
    repack_fn repack = repack_of(t->dtype, &mid);
    if (repack && pr_pack_takes(pack, mid)) {
        p.repack = repack;
        p.mid_dtype = mid;
        pr_dtype_row_bytes(mid, t->dims[0], &p.mid_bytes);
    } else {
        p.mid_bytes = t->dims[0] * sizeof(float);
    }
    return p;
}

size_t pr_convert_scratch(const pr_tensor_info *t, pr_pack pack) {
    row_plan p = plan_row(t, pack);
    return pr_align_up((size_t)p.file_bytes * PR_TILE_ROWS, 64) + (size_t)p.mid_bytes * PR_TILE_ROWS;
}

/* Rows of one tile stand in the file layout at src; pack them. mid: room for the rows in between. */
static void pack_rows(const row_plan *p, const pr_tensor_info *t, pr_pack pack, const uint8_t *src, uint8_t *mid, uint32_t n_rows,
                      void *tile) {
    uint32_t cols = (uint32_t)t->dims[0];
    const void *rows[PR_TILE_ROWS] = {0};
    const float *floats[PR_TILE_ROWS] = {0};
    for (uint32_t i = 0; i < n_rows; i++, src += p->file_bytes, mid += p->mid_bytes) {
        rows[i] = p->mid_bytes ? mid : src;
        floats[i] = (const float *)(const void *)mid;
        if (p->repack) p->repack(src, cols, mid);
        else if (p->mid_bytes) pr_dequant(t->dtype, src, cols, (float *)(void *)mid);
    }
    if (p->mid_bytes && !p->repack) pr_pack_tile_f32(pack, floats, n_rows, cols, tile);
    else pr_pack_tile(pack, p->mid_dtype, rows, n_rows, cols, tile);
}

pr_status pr_convert_tiles(const pr_model_file *file, const pr_tensor_info *t, pr_pack pack, uint32_t tile0,
                           uint32_t n_tiles, void *out, void *scratch, pr_err *err) {
    uint64_t cols = t->dims[0], rows = t->dims[1];
    bool blocks = pack == PR_PACK_Q8 || pack == PR_PACK_Q4;
    if (t->dims[2] != 1 || t->dims[3] != 1 || cols > UINT32_MAX || rows > UINT32_MAX || (blocks && cols % PR_BLOCK != 0)) {
        return pr_fail(err, PR_ERR_UNSUPPORTED, "tensor '%s' is no matrix that can be packed as %s", t->name, pr_pack_name(pack));
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
    uint64_t n_blocks = t->bytes / type->block_bytes, step = CHUNK / type->block_bytes;
    void *chunk = pr_alloc(PR_TAG_FILE, CHUNK);
    if (!chunk) return pr_fail_nomem(err, t->name, CHUNK);
    pr_status status = PR_OK;
    for (uint64_t at = 0; at < n_blocks && status == PR_OK; at += step) {
        uint64_t n = n_blocks - at < step ? n_blocks - at : step;
        status = pr_model_file_read(file, t, at * type->block_bytes, chunk, (size_t)(n * type->block_bytes), err);
        if (status == PR_OK) pr_dequant(t->dtype, chunk, n * type->block_elems, out + at * type->block_elems);
    }
    pr_free(chunk);
    return status;
}
