/*
 * Streaming attention over KV pages.
 *
 * A work item is one KV head, the query heads that share it, and some query
 * rows of one session. It walks the session's pages in order, decodes each
 * page's tile once, and updates the online-softmax state of every query with
 * it; nothing of size n x n ever exists. Which tokens a query sees depends on
 * its position alone, and tiles are aligned to positions, so the result does
 * not depend on how the rows were batched.
 */
#include <math.h>
#include <string.h>

#include "graph/exec_impl.h"

enum { QUERIES_MAX = 64 };

static uint32_t group_of(const pr_attr *a) { return a->n_heads / a->n_kv_heads; }

uint32_t pr__attend_rows(const pr_attr *attr) {
    uint32_t n = QUERIES_MAX / group_of(attr);
    return n < 1 ? 1 : n;
}

/* What a work item keeps in its thread's scratch. */
typedef struct frame {
    float *k, *v, *row; /* decoded tile; one row of results */
    float *q, *acc;     /* [queries][head_dim], [queries][head_dim_padded] */
    const float **qs;
    pr_attn_state *states;
    uint8_t *lo, *hi;
} frame;

static size_t take(size_t *at, size_t bytes) {
    size_t here = *at;
    *at += pr_align_up(bytes, 64);
    return here;
}

/* Lay the frame out at base; returns its size. With base NULL only the size matters. */
static size_t frame_at(const pr_attr *a, uint8_t *base, frame *f) {
    size_t dim = a->head_dim, padded = pr_align_up(dim, 16), n = (size_t)pr__attend_rows(a) * group_of(a), at = 0;
    size_t k = take(&at, dim * PR_KV_TOKENS * sizeof(float));
    size_t v = take(&at, padded * PR_KV_TOKENS * sizeof(float));
    size_t row = take(&at, group_of(a) * dim * sizeof(float));
    size_t q = take(&at, n * dim * sizeof(float));
    size_t acc = take(&at, n * padded * sizeof(float));
    size_t qs = take(&at, n * sizeof(float *));
    size_t states = take(&at, n * sizeof(pr_attn_state));
    size_t lo = take(&at, n), hi = take(&at, n);
    if (!base) return at;
    *f = (frame){
        .k = (float *)(void *)(base + k),
        .v = (float *)(void *)(base + v),
        .row = (float *)(void *)(base + row),
        .q = (float *)(void *)(base + q),
        .acc = (float *)(void *)(base + acc),
        .qs = (const float **)(void *)(base + qs),
        .states = (pr_attn_state *)(void *)(base + states),
        .lo = base + lo,
        .hi = base + hi,
    };
    return at;
}

size_t pr__attend_scratch(const pr_attr *attr) { return frame_at(attr, NULL, NULL); }

static void start_queries(const pr_exec *e, const pr__instr *in, const pr__span *s, uint32_t kv_head, frame *f) {
    uint32_t dim = in->attr->head_dim, group = group_of(in->attr);
    size_t padded = pr_align_up(dim, 16);
    for (uint32_t i = 0; i < s->n_rows * group; i++) {
        const float *row = pr__row(&in->in[0], s->run->row + s->first + i / group);
        float *q = f->q + (size_t)i * dim;
        e->k->scale(row + (size_t)(kv_head * group + i % group) * dim, in->attr->factor, dim, q);
        f->qs[i] = q;
        f->states[i] = (pr_attn_state){.m = -INFINITY, .l = 0, .acc = f->acc + i * padded};
        memset(f->states[i].acc, 0, padded * sizeof(float));
    }
}

/* First token that a query at position pos sees. */
static uint32_t window_start(uint32_t window, uint32_t pos) { return window && pos + 1 > window ? pos + 1 - window : 0; }

/* One page: the queries that see some of its tokens are consecutive, since rows are. */
static void attend_tile(const pr_exec *e, const pr__instr *in, const pr__span *s, uint32_t kv_head, uint32_t base, frame *f) {
    uint32_t group = group_of(in->attr), dim = in->attr->head_dim, pos0 = s->run->pos + s->first;
    uint32_t from = UINT32_MAX, n = 0, hi_max = 0;
    for (uint32_t r = 0; r < s->n_rows; r++) {
        uint32_t pos = pos0 + r, start = window_start(in->attr->window, pos);
        uint32_t lo = start > base ? start - base : 0, hi = pos + 1 > base ? pos + 1 - base : 0;
        if (hi > PR_KV_TOKENS) hi = PR_KV_TOKENS;
        if (lo >= hi) continue;
        if (from == UINT32_MAX) from = r * group;
        if (hi > hi_max) hi_max = hi;
        memset(f->lo + n, (int)lo, group);
        memset(f->hi + n, (int)hi, group);
        n += group;
    }
    if (n == 0) return;
    const void *tile = pr_kv_tile(s->run->seq, base, in->attr->layer, kv_head);
    (pr_kv_seq_q8(s->run->seq) ? e->k->kv_load_q8 : e->k->kv_load_f16)(tile, dim, hi_max, f->k, f->v);
    e->k->attend(f->qs + from, f->states + from, f->lo, f->hi, n, dim, f->k, f->v);
}

static void store_results(const pr_exec *e, const pr__instr *in, const pr__span *s, uint32_t kv_head, frame *f) {
    uint32_t dim = in->attr->head_dim, group = group_of(in->attr), width = group * dim;
    for (uint32_t r = 0; r < s->n_rows; r++) {
        float *out = pr__row(&in->out, s->run->row + s->first + r);
        bool blocks = in->form == PR_FORM_Q8;
        float *y = blocks ? f->row : out + (size_t)kv_head * width;
        for (uint32_t h = 0; h < group; h++) {
            const pr_attn_state *st = &f->states[r * group + h];
            e->k->scale(st->acc, 1.0F / st->l, dim, y + (size_t)h * dim);
        }
        if (blocks) e->k->quant(y, width, (pr_qblock *)(void *)out + (size_t)kv_head * width / PR_BLOCK);
    }
}

void pr__op_attend(const pr_exec *e, const pr__instr *in, uint32_t chunk, int thread) {
    const pr__span *s = &e->spans[chunk / in->attr->n_kv_heads];
    uint32_t kv_head = chunk % in->attr->n_kv_heads;
    frame f = {0};
    frame_at(in->attr, pr__scratch(e, thread), &f);
    start_queries(e, in, s, kv_head, &f);
    uint32_t first = s->run->pos + s->first, last = first + s->n_rows - 1;
    uint32_t tile = window_start(in->attr->window, first) / PR_KV_TOKENS;
    for (; tile <= last / PR_KV_TOKENS; tile++) attend_tile(e, in, s, kv_head, tile * PR_KV_TOKENS, &f);
    store_results(e, in, s, kv_head, &f);
}
