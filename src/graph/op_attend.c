/*
 * Streaming attention over KV pages.
 *
 * A work item is one KV head, the query heads that share it, and some query
 * rows of one session. It walks the session's pages in order, decodes each
 * page's tile once, and updates the online-softmax state of every query with
 * it; nothing of size n x n ever exists.
 *
 * The context is taken in spans of 512 tokens, each with a state of its own,
 * and the spans' states are merged in ascending order. Which tokens a query
 * sees, and where spans and tiles begin, depends on positions alone, so the
 * result does not depend on how rows were batched. When a step has few rows and
 * few KV heads, each span becomes a work item, or a long context would keep one
 * thread busy and the others waiting (SmolLM2 has three KV heads); a second
 * instruction merges what they leave. The arithmetic is the same either way.
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
    float *q;           /* [queries][head_dim] */
    const float **qs;
    pr_attn_state *states, *totals; /* of the span at hand; of all spans so far */
    float *acc, *total_acc;         /* [queries][head_dim_padded] of those */
    uint8_t *lo, *hi;
} frame;

static size_t padded_dim(const pr_attr *a) { return pr_align_up(a->head_dim, 16); }

static size_t take(size_t *at, size_t bytes) {
    size_t here = *at;
    *at += pr_align_up(bytes, 64);
    return here;
}

/* Where the parts of a frame stand, in bytes from its base. */
typedef struct frame_layout {
    size_t k, v, row, q, acc, qs, states, lo, hi, bytes;
} frame_layout;

static frame_layout layout_of(const pr_attr *a) {
    size_t dim = a->head_dim, n = (size_t)pr__attend_rows(a) * group_of(a);
    frame_layout l = {0};
    l.k = take(&l.bytes, dim * PR_KV_TOKENS * sizeof(float));
    l.v = take(&l.bytes, padded_dim(a) * PR_KV_TOKENS * sizeof(float));
    l.row = take(&l.bytes, group_of(a) * dim * sizeof(float));
    l.q = take(&l.bytes, n * dim * sizeof(float));
    l.acc = take(&l.bytes, 2 * n * padded_dim(a) * sizeof(float));
    l.qs = take(&l.bytes, n * sizeof(float *));
    l.states = take(&l.bytes, 2 * n * sizeof(pr_attn_state));
    l.lo = take(&l.bytes, n);
    l.hi = take(&l.bytes, n);
    return l;
}

static frame frame_at(const pr_attr *a, uint8_t *base) {
    frame_layout l = layout_of(a);
    size_t n = (size_t)pr__attend_rows(a) * group_of(a);
    frame f = {
        .k = (float *)(void *)(base + l.k),
        .v = (float *)(void *)(base + l.v),
        .row = (float *)(void *)(base + l.row),
        .q = (float *)(void *)(base + l.q),
        .acc = (float *)(void *)(base + l.acc),
        .qs = (const float **)(void *)(base + l.qs),
        .states = (pr_attn_state *)(void *)(base + l.states),
        .lo = base + l.lo,
        .hi = base + l.hi,
    };
    f.total_acc = f.acc + n * padded_dim(a);
    f.totals = f.states + n;
    return f;
}

size_t pr__attend_scratch(const pr_attr *attr) { return layout_of(attr).bytes; }

static void start_queries(const pr_exec *e, const pr__instr *in, const pr__qrows *s, uint32_t kv_head, frame *f) {
    uint32_t dim = in->attr->head_dim, group = group_of(in->attr);
    bool rotated = pr_kv_rotated(pr_kv_seq_shape(s->run->seq)->k_form); /* then q must be, too */
    for (uint32_t i = 0; i < s->n_rows * group; i++) {
        const float *row = pr__row(&in->in[0], s->run->row + s->first + i / group);
        float *q = f->q + (size_t)i * dim;
        e->k->scale(row + (size_t)(kv_head * group + i % group) * dim, in->attr->factor, dim, q);
        if (rotated) e->k->hadamard(q, dim);
        f->qs[i] = q;
    }
}

static void start_states(const pr_attr *a, pr_attn_state *states, float *acc, uint32_t n) {
    memset(acc, 0, n * padded_dim(a) * sizeof *acc);
    for (uint32_t i = 0; i < n; i++)
        states[i] = (pr_attn_state){.m = -INFINITY, .l = 0, .acc = acc + i * padded_dim(a)};
}

/* total and part of one query become one. An empty part (nothing seen) changes nothing. */
static void merge(pr_attn_state *total, const pr_attn_state *part, uint32_t dim) {
    if (part->m == -INFINITY) return;
    float m = total->m > part->m ? total->m : part->m;
    float a = total->m == -INFINITY ? 0 : pr_expf(total->m - m), b = pr_expf(part->m - m);
    total->m = m;
    total->l = total->l * a + part->l * b;
    for (uint32_t d = 0; d < dim; d++) total->acc[d] = total->acc[d] * a + part->acc[d] * b;
}

/* First token that a query at position pos sees. */
static uint32_t window_start(uint32_t window, uint32_t pos) {
    return window && pos + 1 > window ? pos + 1 - window : 0;
}

/* Whether a page's tile needs no decoding for so many queries. */
static bool taken_as_it_is(const pr_kernels *k, const pr_kv_shape *shape, uint32_t n_queries) {
    if (shape->k_form != shape->v_form || shape->head_dim % 16 != 0) return false;
    return shape->k_form == PR_KV_FORM_F32 || (shape->k_form == PR_KV_FORM_F16 && n_queries <= k->attend_f16_max);
}

/* The page at base; the one at next is read after it. The queries that see some of its tokens are consecutive, since rows
 * are. */
static void attend_tile(const pr_exec *e, const pr__instr *in, const pr__qrows *s, uint32_t kv_head, uint32_t base,
                        uint32_t next, frame *f) {
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
    const pr_kv_shape *shape = pr_kv_seq_shape(s->run->seq);
    pr_kv_tile page = pr_kv_tile_at(s->run->seq, base, in->attr->layer, kv_head);
    pr_kv_tile soon = pr_kv_tile_at(s->run->seq, next, in->attr->layer, kv_head);
    pr_attn_tile tile = {page.k, page.v, shape->k_form == PR_KV_FORM_F16, soon.k, soon.v};
    if (!taken_as_it_is(e->k, shape, n)) {
        e->k->kv_load_k[shape->k_form](page.k, dim, hi_max, f->k);
        e->k->kv_load_v[shape->v_form](page.v, dim, hi_max, f->v);
        tile = (pr_attn_tile){.k = f->k, .v = f->v};
    }
    e->k->attend(f->qs + from, f->states + from, f->lo, f->hi, n, dim, &tile);
}

/* All pages of one span of the context that any of the rows sees, into f->states. */
static void attend_span(const pr_exec *e, const pr__instr *in, const pr__qrows *s, uint32_t kv_head, uint32_t span,
                        frame *f) {
    uint32_t first = s->run->pos + s->first, last = first + s->n_rows - 1;
    uint32_t from = span * PR__SPAN_TOKENS, to = from + PR__SPAN_TOKENS;
    uint32_t start = window_start(in->attr->window, first);
    if (start > from) from = start - start % PR_KV_TOKENS;
    if (to > last + 1) to = last + 1;
    start_states(in->attr, f->states, f->acc, s->n_rows * group_of(in->attr));
    for (uint32_t base = from, next; base < to; base = next) {
        next = base + PR_KV_TOKENS;
        attend_tile(e, in, s, kv_head, base, next <= last ? next : base, f);
    }
}

static void store_results(const pr_exec *e, const pr__instr *in, const pr__qrows *s, uint32_t kv_head, frame *f) {
    uint32_t dim = in->attr->head_dim, group = group_of(in->attr), width = group * dim;
    bool rotated = pr_kv_rotated(pr_kv_seq_shape(s->run->seq)->v_form);
    for (uint32_t r = 0; r < s->n_rows; r++) {
        uint32_t row = s->run->row + s->first + r;
        bool blocks = in->form != PR_FORM_F32;
        float *y = blocks ? f->row : pr__row(&in->out, row) + (size_t)kv_head * width;
        for (uint32_t h = 0; h < group; h++) {
            const pr_attn_state *st = &f->totals[r * group + h];
            e->k->scale(st->acc, 1.0F / st->l, dim, y + (size_t)h * dim);
            if (rotated) e->k->hadamard(y + (size_t)h * dim, dim);
        }
        if (blocks) pr__put_blocks(e, in, row, kv_head * width, y, width);
    }
}

static uint32_t spans_of(const pr__qrows *s) { return (s->run->pos + s->first + s->n_rows - 1) / PR__SPAN_TOKENS + 1; }

/* ---- one work item does all spans ---- */

static void attend_whole(const pr_exec *e, const pr__instr *in, uint32_t chunk, frame *f) {
    const pr__qrows *s = &e->qrows[chunk / in->attr->n_kv_heads];
    uint32_t kv_head = chunk % in->attr->n_kv_heads, n = s->n_rows * group_of(in->attr);
    start_queries(e, in, s, kv_head, f);
    start_states(in->attr, f->totals, f->total_acc, n);
    for (uint32_t span = 0; span < spans_of(s); span++) {
        attend_span(e, in, s, kv_head, span, f);
        for (uint32_t i = 0; i < n; i++) merge(&f->totals[i], &f->states[i], in->attr->head_dim);
    }
    store_results(e, in, s, kv_head, f);
}

/* ---- a work item is a span; merging is a loop of its own ---- */

size_t pr__attend_parts(const pr_attr *attr, uint32_t context_max) {
    size_t spans = context_max / PR__SPAN_TOKENS + 1, queries = (size_t)PR__SPLIT_ROWS_MAX * group_of(attr);
    return PR__SPLIT_ITEMS_MAX * spans * queries * (padded_dim(attr) + 16);
}

/* Where the state of one query of one item and span is left: m, l, then acc 64 bytes on. */
static float *part_at(const pr_exec *e, const pr__instr *in, uint32_t item, uint32_t span, uint32_t query) {
    size_t spans = e->opts.context_max / PR__SPAN_TOKENS + 1, queries = (size_t)PR__SPLIT_ROWS_MAX * group_of(in->attr);
    return e->parts + ((item * spans + span) * queries + query) * (padded_dim(in->attr) + 16);
}

static void attend_part(const pr_exec *e, const pr__instr *in, uint32_t chunk, frame *f) {
    uint32_t item = 0, span = chunk, heads = in->attr->n_kv_heads;
    for (; span >= spans_of(&e->qrows[item / heads]); item++) span -= spans_of(&e->qrows[item / heads]);
    const pr__qrows *s = &e->qrows[item / heads];
    start_queries(e, in, s, item % heads, f);
    attend_span(e, in, s, item % heads, span, f);
    for (uint32_t i = 0; i < s->n_rows * group_of(in->attr); i++) {
        float *part = part_at(e, in, item, span, i);
        part[0] = f->states[i].m;
        part[1] = f->states[i].l;
        memcpy(part + 16, f->states[i].acc, padded_dim(in->attr) * sizeof *part);
    }
}

void pr__op_merge(const pr_exec *e, const pr__instr *in, uint32_t chunk, int thread) {
    frame f = frame_at(in->attr, pr__scratch(e, thread));
    const pr__qrows *s = &e->qrows[chunk / in->attr->n_kv_heads];
    uint32_t n = s->n_rows * group_of(in->attr);
    start_states(in->attr, f.totals, f.total_acc, n);
    for (uint32_t span = 0; span < spans_of(s); span++) {
        for (uint32_t i = 0; i < n; i++) {
            float *part = part_at(e, in, chunk, span, i);
            pr_attn_state state = {.m = part[0], .l = part[1], .acc = part + 16};
            merge(&f.totals[i], &state, in->attr->head_dim);
        }
    }
    store_results(e, in, s, chunk % in->attr->n_kv_heads, &f);
}

/* ---- both ---- */

bool pr__attend_splits(const pr_exec *e, const pr__instr *in) {
    if (e->n_qrows * in->attr->n_kv_heads > PR__SPLIT_ITEMS_MAX) return false;
    bool longer = false;
    for (uint32_t i = 0; i < e->n_qrows; i++) {
        if (e->qrows[i].n_rows > PR__SPLIT_ROWS_MAX) return false;
        longer |= spans_of(&e->qrows[i]) > 1;
    }
    return longer;
}

uint32_t pr__attend_chunks(const pr_exec *e, const pr__instr *in) {
    if (!e->split) return e->n_qrows * in->attr->n_kv_heads;
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->n_qrows; i++) n += spans_of(&e->qrows[i]) * in->attr->n_kv_heads;
    return n;
}

void pr__op_attend(const pr_exec *e, const pr__instr *in, uint32_t chunk, int thread) {
    frame f = frame_at(in->attr, pr__scratch(e, thread));
    if (e->split) attend_part(e, in, chunk, &f);
    else attend_whole(e, in, chunk, &f);
}
