/* Streaming attention: several tiles in turn, queries with windows of their own. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checkasm.h"
#include "tensor/dtype.h"

enum { ROUNDS = 150, QUERIES_MAX = 13 };

typedef struct queries {
    uint32_t n, dim;
    const float *q[64];
    pr_attn_state want[64], got[64];
    uint8_t lo[64], hi[64];
} queries;

static void make_states(queries *s) {
    size_t padded = (s->dim + 15) / 16 * 16;
    for (uint32_t i = 0; i < s->n; i++) {
        float *q = guard_alloc(s->dim * sizeof *q);
        random_floats(q, s->dim, FLOATS_PLAIN);
        s->q[i] = q;
        s->want[i] = (pr_attn_state){.m = -INFINITY, .acc = guard_alloc(padded * sizeof(float))};
        s->got[i] = (pr_attn_state){.m = -INFINITY, .acc = guard_alloc(padded * sizeof(float))};
        memset(s->want[i].acc, 0, padded * sizeof(float));
        memset(s->got[i].acc, 0, padded * sizeof(float));
    }
}

/* Like a causal mask and window, or wild. Returns the number of tokens that must be there. */
static uint32_t make_ranges(queries *s, int how) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t a = random_below(PR_KV_TOKENS), b = random_below(PR_KV_TOKENS);
        s->lo[i] = how == 0 ? 0 : how == 1 ? (uint8_t)(i < 31 ? i : 31) : (uint8_t)(a < b ? a : b);
        s->hi[i] = how == 0 ? (uint8_t)(i < 31 ? i + 1 : 32) : how == 3 ? 32 : (uint8_t)((a < b ? b : a) + 1);
        s->hi[i] = s->hi[i] <= s->lo[i] ? (uint8_t)(s->lo[i] + 1) : s->hi[i];
        most = s->hi[i] > most ? s->hi[i] : most;
    }
    return most;
}

static void update(const pr_kernels *k, const queries *s, pr_attn_state *states, const pr_attn_tile *tile) {
    k->attend(s->q, states, s->lo, s->hi, s->n, s->dim, tile);
}

static void compare_states(const queries *s, const char *what, int round) {
    size_t padded = (s->dim + 15) / 16 * 16;
    for (uint32_t i = 0; i < s->n; i++) {
        const pr_attn_state *want = &s->want[i], *got = &s->got[i];
        check_floats(&want->m, &got->m, 1, "%s: m of query %u of %u, dim %u, round %d", what, i, s->n, s->dim, round);
        check_floats(&want->l, &got->l, 1, "%s: l of query %u of %u, dim %u, round %d", what, i, s->n, s->dim, round);
        check_floats(want->acc, got->acc, padded, "%s: acc of query %u of %u, dim %u, lo %u, hi %u, round %d", what, i,
                     s->n, s->dim, s->lo[i], s->hi[i], round);
    }
}

/* A page's halves as they are, against the same decoded by the reference. Slots that nobody sees hold anything. */
static void check_f16(const pr_kernels *ref, const pr_kernels *k, int round) {
    queries s = {.n = 1 + random_below(QUERIES_MAX), .dim = 16 * (1 + random_below(9))};
    make_states(&s);
    for (int tile = 0; tile < 3; tile++) {
        uint32_t n = make_ranges(&s, (round + tile) % 4);
        size_t n_keys = (size_t)s.dim * PR_KV_TOKENS, n_values = (size_t)n * s.dim;
        uint16_t *keys = guard_alloc(n_keys * sizeof *keys), *values = guard_alloc(n_values * sizeof *values);
        float *k32 = guard_alloc(n_keys * sizeof *k32), *v32 = guard_alloc(n_values * sizeof *v32);
        float_kind kind = round % 7 == 0 ? (float_kind)random_below(FLOAT_KINDS) : FLOATS_PLAIN;
        random_floats(k32, n_keys, kind);
        random_floats(v32, n_values, kind);
        for (size_t i = 0; i < n_keys; i++) {
            keys[i] = i % PR_KV_TOKENS < n ? pr_f32_to_f16(k32[i]) : (uint16_t)random_below(65536);
        }
        for (size_t i = 0; i < n_values; i++) values[i] = pr_f32_to_f16(v32[i]);
        ref->kv_load_k[PR_KV_FORM_F16](keys, s.dim, n, k32);
        ref->kv_load_v[PR_KV_FORM_F16](values, s.dim, n, v32);
        update(ref, &s, s.want, &(pr_attn_tile){.k = k32, .v = v32});
        update(k, &s, s.got, &(pr_attn_tile){.k = keys, .v = values, .f16 = true});
        compare_states(&s, "f16", round);
    }
    guard_free_all();
}

static void check_round(const pr_kernels *ref, const pr_kernels *k, int round) {
    queries s = {.n = 1 + random_below(QUERIES_MAX), .dim = round % 2 ? 64 : 1 + random_below(140)};
    size_t padded = (s.dim + 15) / 16 * 16;
    make_states(&s);
    for (int tile = 0; tile < 3; tile++) {
        uint32_t n = make_ranges(&s, (round + tile) % 4);
        float *keys = guard_alloc((size_t)s.dim * PR_KV_TOKENS * sizeof(float));
        float *values = guard_alloc(n * padded * sizeof(float));
        random_floats(keys, (size_t)s.dim * PR_KV_TOKENS,
                      round % 7 == 0 ? (float_kind)random_below(FLOAT_KINDS) : FLOATS_PLAIN);
        random_floats(values, n * padded, round % 11 == 0 ? (float_kind)random_below(FLOAT_KINDS) : FLOATS_PLAIN);
        update(ref, &s, s.want, &(pr_attn_tile){.k = keys, .v = values});
        update(k, &s, s.got, &(pr_attn_tile){.k = keys, .v = values});
        compare_states(&s, "floats", round);
    }
    guard_free_all();
}

void check_attend(const pr_kernels *ref, const pr_kernels *k) {
    check_begin("attend", k);
    for (int round = 0; round < ROUNDS; round++) {
        check_round(ref, k, round);
        if (round % 3 == 0) check_f16(ref, k, round);
    }
    check_f16(ref, ref, 0);
    check_end();
}

/* ---- timing: contexts in pages of each form ---- */

enum { DIM = 64, TILES_MAX = 256 };

typedef struct bench_ctx {
    queries s;
    pr_kv_form form;
    uint32_t n_tiles;
    uint8_t *keys, *values; /* [n_tiles] parts */
    float *k, *v;
} bench_ctx;

static void run_attend(const pr_kernels *k, void *ctx, uint32_t part) {
    bench_ctx *b = ctx;
    size_t bytes = pr_kv_part_bytes(b->form, DIM);
    for (uint32_t i = 0; i < b->s.n; i++) {
        b->s.got[i].m = -INFINITY;
        b->s.got[i].l = 0;
    }
    for (uint32_t i = 0; i < b->n_tiles / part; i++) {
        if (b->form == PR_KV_FORM_F16 && b->s.n <= k->attend_f16_max) {
            update(k, &b->s, b->s.got,
                   &(pr_attn_tile){.k = b->keys + i * bytes, .v = b->values + i * bytes, .f16 = true});
            continue;
        }
        k->kv_load_k[b->form](b->keys + i * bytes, DIM, PR_KV_TOKENS, b->k);
        k->kv_load_v[b->form](b->values + i * bytes, DIM, PR_KV_TOKENS, b->v);
        update(k, &b->s, b->s.got, &(pr_attn_tile){.k = b->k, .v = b->v});
    }
}

static void fill_pages(bench_ctx *b) {
    const pr_kernels *k = pr_kernels_get(0);
    size_t bytes = pr_kv_part_bytes(b->form, DIM);
    random_floats(b->k, DIM, FLOATS_PLAIN);
    random_floats(b->v, DIM, FLOATS_PLAIN);
    for (uint32_t j = 0; j < b->n_tiles * PR_KV_TOKENS; j++) {
        k->kv_store_k[b->form](b->keys + j / PR_KV_TOKENS * bytes, DIM, j % PR_KV_TOKENS, b->k);
        k->kv_store_v[b->form](b->values + j / PR_KV_TOKENS * bytes, DIM, j % PR_KV_TOKENS, b->v);
    }
}

/* n_q queries share a page: those of one KV head, or a chunk of prefill. */
static void bench_one(pr_kv_form form, const char *form_name, uint32_t n_tokens, uint32_t n_q) {
    bench_ctx b = {.s = {.n = n_q, .dim = DIM}, .form = form, .n_tiles = n_tokens / PR_KV_TOKENS};
    size_t bytes = pr_kv_part_bytes(form, DIM) * b.n_tiles;
    char name[48];
    make_states(&b.s);
    memset(b.s.lo, 0, sizeof b.s.lo);
    memset(b.s.hi, PR_KV_TOKENS, sizeof b.s.hi);
    b.keys = guard_alloc(bytes);
    b.values = guard_alloc(bytes);
    b.k = guard_alloc(DIM * PR_KV_TOKENS * sizeof(float));
    b.v = guard_alloc(DIM * PR_KV_TOKENS * sizeof(float));
    fill_pages(&b);
    snprintf(name, sizeof name, "attend_%s.%ux64.%u", form_name, n_tokens, n_q);
    bench_case(name, run_attend, &b, n_q > 8 ? 8 : 1, 2.0 * (double)bytes, 2.0 * DIM * n_tokens * n_q);
    guard_free_all();
}

void bench_attend(void) {
    static const char *const names[] = {"f16", "q8", "q4"};
    static const uint32_t counts[] = {1, 3, 4, 6, 8, 64}, tokens[] = {2048, 4096, TILES_MAX * PR_KV_TOKENS};
    for (int form = 0; form < 3; form++) {
        for (int c = 0; c < 6; c++) bench_one((pr_kv_form)form, names[form], 2048, counts[c]);
        for (int t = 1; t < 3; t++) bench_one((pr_kv_form)form, names[form], tokens[t], 3);
    }
}
