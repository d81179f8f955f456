/*
 * Row-wise operations: each row is worked on alone, a few rows a work item.
 */
#include <math.h>
#include <string.h>

#include "graph/exec_impl.h"

static void embed(const pr_exec *e, const pr__instr *in, uint32_t row) {
    uint32_t token = (uint32_t)e->step->tokens[row];
    if (in->mats[0]->pack == PR_PACK_PLANES)
        pr__planes_row(e, in->mats[0], in->nested[0], token, pr__row(&in->out, row));
    else pr_pack_row(in->mats[0], token, pr__row(&in->out, row));
}

/* cos and sin of position * frequency, as floats: what the models were trained with. */
static void rope_table(const pr_exec *e, const pr__instr *in, uint32_t row) {
    const float *freq = pr__row(&in->in[0], 0);
    float *out = pr__row(&in->out, row), pos = (float)e->positions[row];
    for (uint32_t i = 0; i < in->cols / 2; i++) {
        float angle = pos * freq[i];
        out[2 * i] = cosf(angle) * in->attr->factor;
        out[2 * i + 1] = sinf(angle) * in->attr->factor;
    }
}

void pr__put_blocks(const pr_exec *e, const pr__instr *in, uint32_t row, uint32_t first, const float *x, uint32_t n) {
    uint8_t *at = (uint8_t *)pr__row(&in->out, row);
    e->k->quant(x, n, (pr_qblock *)(void *)at + first / PR_BLOCK);
    if (in->form == PR_FORM_BOTH)
        e->k->quant13(x, n, (pr_qblock13 *)(void *)(at + pr_form_blocks_bytes(in->cols)) + first / PR_BLOCK);
}

/* Where a row of the result is made as floats: in the result, or, when that is of blocks, in scratch. */
static float *row_floats(const pr_exec *e, const pr__instr *in, uint32_t row, int thread) {
    return in->form == PR_FORM_F32 ? pr__row(&in->out, row) : (float *)(void *)pr__scratch(e, thread);
}

static void norm(const pr_exec *e, const pr__instr *in, uint32_t row, int thread) {
    float *y = row_floats(e, in, row, thread);
    e->k->rmsnorm(pr__row(&in->in[0], row), pr__row(&in->in[1], 0), in->cols, in->attr->eps, y);
    if (in->form != PR_FORM_F32) pr__put_blocks(e, in, row, 0, y, in->cols);
}

static void gate(const pr_exec *e, const pr__instr *in, uint32_t row, int thread) {
    float *y = row_floats(e, in, row, thread);
    e->k->silu_mul(pr__row(&in->in[0], row), pr__row(&in->in[1], row), in->cols, y);
    if (in->form != PR_FORM_F32) pr__put_blocks(e, in, row, 0, y, in->cols);
}

static void rope(const pr_exec *e, const pr__instr *in, uint32_t row) {
    float *y = pr__row(&in->out, row);
    const float *x = pr__row(&in->in[0], row), *table = pr__row(&in->in[1], row);
    if (y != x) memcpy(y, x, in->cols * sizeof *y);
    for (uint32_t h = 0; h < in->attr->n_heads; h++)
        e->k->rope(y + (size_t)h * in->attr->head_dim, table, in->attr->n_rot, in->attr->neox);
}

/* A key or value as its form wants it: itself, or rotated in scratch. */
static const float *kv_row(const pr_exec *e, pr_kv_form form, const float *x, uint32_t dim, int thread) {
    float *rotated = (float *)(void *)pr__scratch(e, thread);
    if (!pr_kv_rotated(form)) return x;
    memcpy(rotated, x, dim * sizeof *x);
    e->k->hadamard(rotated, dim);
    return rotated;
}

static void kv_write(const pr_exec *e, const pr__instr *in, uint32_t row, int thread) {
    const pr_exec_run *run = e->run_of[row];
    const pr_kv_shape *shape = pr_kv_seq_shape(run->seq);
    uint32_t pos = e->positions[row], dim = in->attr->head_dim;
    const float *k = pr__row(&in->in[0], row), *v = pr__row(&in->in[1], row);
    for (uint32_t h = 0; h < in->attr->n_kv_heads; h++, k += dim, v += dim) {
        pr_kv_tile tile = pr_kv_tile_at(run->seq, pos, in->attr->layer, h);
        e->k->kv_store_k[shape->k_form](tile.k, dim, pos % PR_KV_TOKENS, kv_row(e, shape->k_form, k, dim, thread));
        e->k->kv_store_v[shape->v_form](tile.v, dim, pos % PR_KV_TOKENS, kv_row(e, shape->v_form, v, dim, thread));
    }
}

static void divide(const pr__instr *in, uint32_t row) {
    const float *a = pr__row(&in->in[0], row), *b = pr__row(&in->in[1], row);
    float *y = pr__row(&in->out, row);
    for (uint32_t i = 0; i < in->cols; i++) y[i] = a[i] / b[i];
}

static void one_row(const pr_exec *e, const pr__instr *in, uint32_t row, int thread) {
    switch (in->op) {
    case PR_OP_EMBED: embed(e, in, row); return;
    case PR_OP_ROPE_TABLE: rope_table(e, in, row); return;
    case PR_OP_NORM: norm(e, in, row, thread); return;
    case PR_OP_ROPE: rope(e, in, row); return;
    case PR_OP_KV_WRITE: kv_write(e, in, row, thread); return;
    case PR_OP_GATE: gate(e, in, row, thread); return;
    case PR_OP_DIV: divide(in, row); return;
    case PR_OP_ADD:
        e->k->add(pr__row(&in->in[0], row), pr__row(&in->in[1], row), in->cols, pr__row(&in->out, row));
        return;
    case PR_OP_SCALE: e->k->scale(pr__row(&in->in[0], row), in->attr->factor, in->cols, pr__row(&in->out, row)); return;
    case PR_OP_ROWS:
        memcpy(pr__row(&in->out, row), pr__row(&in->in[0], e->step->out_rows[row]), in->cols * sizeof(float));
        return;
    case PR_OP_QUANT: pr__put_blocks(e, in, row, 0, pr__row(&in->in[0], row), in->cols); return;
    case PR_OP_CONST:
    case PR_OP_WEIGHT:
    case PR_OP_MATMUL:
    case PR_OP_ATTEND:
    case PR_OP_SLICE:
    case PR_OP_COUNT: return;
    }
}

void pr__op_rows(const pr_exec *e, const pr__instr *in, uint32_t chunk, int thread) {
    uint32_t n = pr__row_count(e, in), first = chunk * PR__ROWS_PER_CHUNK;
    uint32_t end = first + PR__ROWS_PER_CHUNK < n ? first + PR__ROWS_PER_CHUNK : n;
    for (uint32_t row = first; row < end; row++) one_row(e, in, row, thread);
}
