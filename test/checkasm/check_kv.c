/* KV pages: what is stored, and what is decoded from any bytes. */
#include <stdio.h>
#include <string.h>

#include "checkasm.h"

enum { ROUNDS = 200, DIM_MAX = 512 };

static uint32_t random_dim(void) {
    static const uint32_t usual[] = {8, 16, 48, 64, 80, 96, 128, 256, DIM_MAX};
    return random_below(2) ? usual[random_below(9)] : 1 + random_below(140);
}

static pr_kv_form form_of(bool q8) { return q8 ? PR_KV_FORM_Q8 : PR_KV_FORM_F16; }

static void check_store(const pr_kernels *ref, const pr_kernels *k, bool q8) {
    check_begin(q8 ? "kv_store_q8" : "kv_store_f16", k);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t dim = random_dim(), slot = random_below(PR_KV_TOKENS);
        size_t bytes = pr_kv_tile_bytes(form_of(q8), dim);
        uint8_t *want = guard_alloc(bytes), *got = guard_alloc(bytes);
        float *key = guard_alloc(dim * sizeof *key), *value = guard_alloc(dim * sizeof *value);
        random_floats(key, dim, (float_kind)(i % FLOAT_KINDS));
        random_floats(value, dim, (float_kind)random_below(FLOAT_KINDS));
        (q8 ? ref->kv_store_q8 : ref->kv_store_f16)(want, dim, slot, key, value);
        (q8 ? k->kv_store_q8 : k->kv_store_f16)(got, dim, slot, key, value);
        check_bytes(want, got, bytes, "dim %u, slot %u, x %d", dim, slot, i % FLOAT_KINDS);
        guard_free_all();
    }
    check_end();
}

static void check_load(const pr_kernels *ref, const pr_kernels *k, bool q8) {
    check_begin(q8 ? "kv_load_q8" : "kv_load_f16", k);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t dim = random_dim(), n = i % 3 == 0 ? PR_KV_TOKENS : 1 + random_below(PR_KV_TOKENS);
        size_t v_floats = (size_t)n * ((dim + 15) / 16 * 16), k_floats = (size_t)dim * PR_KV_TOKENS;
        uint8_t *tile = guard_alloc(pr_kv_tile_bytes(form_of(q8), dim));
        random_bytes(tile, pr_kv_tile_bytes(form_of(q8), dim));
        float *want_k = guard_alloc(k_floats * sizeof(float)), *got_k = guard_alloc(k_floats * sizeof(float));
        float *want_v = guard_alloc(v_floats * sizeof(float)), *got_v = guard_alloc(v_floats * sizeof(float));
        (q8 ? ref->kv_load_q8 : ref->kv_load_f16)(tile, dim, n, want_k, want_v);
        (q8 ? k->kv_load_q8 : k->kv_load_f16)(tile, dim, n, got_k, got_v);
        check_floats(want_k, got_k, k_floats, "keys, dim %u, n %u", dim, n);
        check_floats(want_v, got_v, v_floats, "values, dim %u, n %u", dim, n);
        guard_free_all();
    }
    check_end();
}

void check_kv(const pr_kernels *ref, const pr_kernels *k) {
    for (int q8 = 0; q8 < 2; q8++) {
        check_store(ref, k, q8);
        check_load(ref, k, q8);
    }
}

/* ---- timing: one full tile, head_dim 64 ---- */

enum { DIM = 64 };

typedef struct bench_ctx {
    bool q8;
    uint8_t *tile;
    float *k, *v;
} bench_ctx;

static void run_store(const pr_kernels *k, void *ctx, uint32_t part) {
    (void)part;
    const bench_ctx *b = ctx;
    for (uint32_t j = 0; j < PR_KV_TOKENS; j++) {
        (b->q8 ? k->kv_store_q8 : k->kv_store_f16)(b->tile, DIM, j, b->k, b->v);
    }
}

static void run_load(const pr_kernels *k, void *ctx, uint32_t part) {
    (void)part;
    const bench_ctx *b = ctx;
    (b->q8 ? k->kv_load_q8 : k->kv_load_f16)(b->tile, DIM, PR_KV_TOKENS, b->k, b->v);
}

void bench_kv(void) {
    for (int q8 = 0; q8 < 2; q8++) {
        bench_ctx b = {.q8 = q8, .tile = guard_alloc(pr_kv_tile_bytes(form_of(q8), DIM))};
        b.k = guard_alloc(DIM * PR_KV_TOKENS * sizeof(float));
        b.v = guard_alloc(DIM * PR_KV_TOKENS * sizeof(float));
        random_floats(b.k, (size_t)DIM * PR_KV_TOKENS, FLOATS_PLAIN);
        random_floats(b.v, (size_t)DIM * PR_KV_TOKENS, FLOATS_PLAIN);
        double bytes = (double)pr_kv_tile_bytes(form_of(q8), DIM);
        bench_case(q8 ? "kv_store_q8.64x32" : "kv_store_f16.64x32", run_store, &b, 1, bytes, 0);
        bench_case(q8 ? "kv_load_q8.64x32" : "kv_load_f16.64x32", run_load, &b, 1, bytes, 0);
        guard_free_all();
    }
}
