/*
 * Inside the packer: shared by pack.c, pack_plan.c and pack_meta.c.
 */
#ifndef PRECIS_COMPRESS_PACK_IMPL_H
#define PRECIS_COMPRESS_PACK_IMPL_H

#include "base/arena.h"
#include "compress/calibrate.h"
#include "compress/pack.h"
#include "compress/rank.h"
#include "model/model.h"
#include "store/gguf_write.h"
#include "store/planes.h"

/* A matrix of the plan; its number is that in the set. */
typedef struct pr__matrix {
    const pr_tensor_info *source;
    uint32_t layer;   /* first layer that uses it */
    const char *kind; /* its name without the layer: "attn_q.weight" */
    bool embedding, head;
    bool done;
    float *loss[PR_PLANE_COUNT];   /* [rows] each, from the encoder */
    double norm;                   /* sum of squares of its numbers / cols: what losses are held against */
    size_t tensor[PR_PLANE_COUNT]; /* numbers in the file being written */
} pr__matrix;

typedef struct pr__kept { /* a tensor that goes over as it is */
    const pr_tensor_info *source;
    const char *name;
} pr__kept;

/* What becomes of each tensor of a source. */
typedef struct pr__pack_plan {
    pr_arena arena;
    pr_plane_set set;     /* arrays in the arena */
    pr__matrix *matrices; /* [set.n_tensors] */
    pr__kept *kept;
    uint32_t n_kept;
} pr__pack_plan;

/* g: the model as described (not lowered). Errors name the tensor. */
pr_status pr__pack_plan_make(const pr_model_file *file, const pr_graph *g, uint64_t unit_bytes, pr__pack_plan *plan,
                             pr_err *err);
void pr__pack_plan_free(pr__pack_plan *plan); /* an all-zero struct is allowed */

/* The name a tensor has in GGUF files; NULL when there is none (a tensor that the model does not use). */
const char *pr__pack_name(const pr_model_file *file, pr_arena *arena, const char *name);

/* The source's own keys: as they are, or config.json and tokenizer.json as GGUF keys. */
pr_status pr__pack_meta(pr_gguf_writer *w, const pr_model_file *file, const pr_model_desc *desc, pr_err *err);

#endif
