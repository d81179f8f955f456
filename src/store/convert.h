/*
 * Source tensors to packed tiles.
 *
 * F32, F16, BF16, Q8_0, Q4_1 and Q4_0 are packed without change of value; IQ4_NL and
 * Q5_0 fit Q8 exactly too. Q4_K keeps its codes in Q4 and IQ4_XS in Q8, with the
 * scales of sub-blocks rounded to halves. The other types are decoded and rounded to Q8
 * (in exact mode all rounded ones are kept as decoded, in F32). Work goes tile by
 * tile, so the memory needed is one tile of source rows and floats per thread.
 * PR_PLANES is planned here (as PR_PACK_PLANES), but read by store/residency.h: nothing else below takes it.
 */
#ifndef PRECIS_STORE_CONVERT_H
#define PRECIS_STORE_CONVERT_H

#include "kernels/pack.h"
#include "store/model_file.h"

typedef enum pr_loss {
    PR_LOSS_NONE,   /* the same values */
    PR_LOSS_REPACK, /* the same values, another container (Q4_0 as Q4, IQ4_NL as Q8) */
    PR_LOSS_ROUND   /* numbers or scales are rounded */
} pr_loss;

/* How a matrix of this type is executed. PR_ERR_UNSUPPORTED for integer and F64 types. */
pr_status pr_convert_plan(pr_dtype src, bool exact, pr_pack *pack, pr_loss *loss, pr_err *err);

/* Decode n numbers (whole blocks) of any float or block type. src may be unaligned. */
void pr_dequant(pr_dtype dtype, const void *src, uint64_t n, float *out);

/* Bytes of scratch, 64-byte aligned, that pr_convert_tiles() wants for this tensor. */
size_t pr_convert_scratch(const pr_tensor_info *t, pr_pack pack);

/* Read tiles tile0 .. tile0+n_tiles of the 2-D tensor t (rows dims[1]) and pack them to out. Thread-safe with
 * separate scratch. */
pr_status pr_convert_tiles(const pr_model_file *file, const pr_tensor_info *t, pr_pack pack, uint32_t tile0,
                           uint32_t n_tiles, void *out, void *scratch, pr_err *err);

/* A whole tensor as floats (norms, biases): out[number of elements]. */
pr_status pr_convert_floats(const pr_model_file *file, const pr_tensor_info *t, float *out, pr_err *err);

#endif
