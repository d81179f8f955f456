/* KV pages: the rotation, what is stored, and what is decoded from any bytes. */
#include <stdio.h>
#include <string.h>

#include "checkasm.h"

enum { ROUNDS = 200, DIM_MAX = 512 };

static const char *const form_names[PR_KV_FORM_COUNT] = {"f16", "q8", "q4", "f32"};

static uint32_t random_dim(void) {
    static const uint32_t usual[] = {8, 16, 48, 64, 80, 96, 128, 256, DIM_MAX};
    return random_below(2) ? usual[random_below(9)] : 1 + random_below(140);
}

static pr_kv_store_fn *store_of(const pr_kernels *k, pr_kv_form form, bool values) {
    return values ? k->kv_store_v[form] : k->kv_store_k[form];
}

static pr_kv_load_fn *load_of(const pr_kernels *k, pr_kv_form form, bool values) {
    return values ? k->kv_load_v[form] : k->kv_load_k[form];
}

static void check_hadamard(const pr_kernels *ref, const pr_kernels *k) {
    check_begin("hadamard", k);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t n = random_dim();
        float *want = guard_alloc(n * sizeof *want), *got = guard_alloc(n * sizeof *got);
        random_floats(want, n, (float_kind)(i % FLOAT_KINDS));
        memcpy(got, want, n * sizeof *want);
        ref->hadamard(want, n);
        k->hadamard(got, n);
        check_floats(want, got, n, "n %u, x %d", n, i % FLOAT_KINDS);
        guard_free_all();
    }
    check_end();
}

static void check_store(const pr_kernels *ref, const pr_kernels *k, pr_kv_form form, bool values) {
    char name[32];
    snprintf(name, sizeof name, "kv_store_%c_%s", values ? 'v' : 'k', form_names[form]);
    check_begin(name, k);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t dim = random_dim(), slot = random_below(PR_KV_TOKENS);
        size_t bytes = pr_kv_part_bytes(form, dim);
        uint8_t *want = guard_alloc(bytes), *got = guard_alloc(bytes);
        float *x = guard_alloc(dim * sizeof *x);
        random_floats(x, dim, (float_kind)(i % FLOAT_KINDS));
        store_of(ref, form, values)(want, dim, slot, x);
        store_of(k, form, values)(got, dim, slot, x);
        check_bytes(want, got, bytes, "dim %u, slot %u, x %d", dim, slot, i % FLOAT_KINDS);
        guard_free_all();
    }
    check_end();
}

static void check_load(const pr_kernels *ref, const pr_kernels *k, pr_kv_form form, bool values) {
    char name[32];
    snprintf(name, sizeof name, "kv_load_%c_%s", values ? 'v' : 'k', form_names[form]);
    check_begin(name, k);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t dim = random_dim(), n = i % 3 == 0 ? PR_KV_TOKENS : 1 + random_below(PR_KV_TOKENS);
        size_t floats = values ? (size_t)n * ((dim + 15) / 16 * 16) : (size_t)dim * PR_KV_TOKENS;
        uint8_t *part = guard_alloc(pr_kv_part_bytes(form, dim));
        random_bytes(part, pr_kv_part_bytes(form, dim));
        float *want = guard_alloc(floats * sizeof(float)), *got = guard_alloc(floats * sizeof(float));
        load_of(ref, form, values)(part, dim, n, want);
        load_of(k, form, values)(part, dim, n, got);
        check_floats(want, got, floats, "dim %u, n %u", dim, n);
        guard_free_all();
    }
    check_end();
}

void check_kv(const pr_kernels *ref, const pr_kernels *k) {
    check_hadamard(ref, k);
    for (int f = 0; f < PR_KV_FORM_COUNT; f++) {
        for (int values = 0; values < 2; values++) {
            check_store(ref, k, (pr_kv_form)f, values);
            check_load(ref, k, (pr_kv_form)f, values);
        }
    }
}

/* ---- timing: one full page, head_dim 64; rotated as in earnest ---- */

enum { DIM = 64 };

typedef struct bench_ctx {
    pr_kv_form form;
    uint8_t *keys, *values;
    float *k, *v, *row;
} bench_ctx;

static void run_store(const pr_kernels *k, void *ctx, uint32_t part) {
    (void)part;
    const bench_ctx *b = ctx;
    for (uint32_t j = 0; j < PR_KV_TOKENS; j++) {
        for (int values = 0; values < 2; values++) {
            memcpy(b->row, (values ? b->v : b->k) + (size_t)j * DIM, DIM * sizeof *b->row);
            if (pr_kv_rotated(b->form)) k->hadamard(b->row, DIM);
            store_of(k, b->form, values)(values ? b->values : b->keys, DIM, j, b->row);
        }
    }
}

static void run_load(const pr_kernels *k, void *ctx, uint32_t part) {
    (void)part;
    const bench_ctx *b = ctx;
    k->kv_load_k[b->form](b->keys, DIM, PR_KV_TOKENS, b->k);
    k->kv_load_v[b->form](b->values, DIM, PR_KV_TOKENS, b->v);
}

static void run_hadamard(const pr_kernels *k, void *ctx, uint32_t part) {
    (void)part;
    const bench_ctx *b = ctx;
    k->hadamard(b->row, DIM);
}

void bench_kv(void) {
    for (int f = 0; f < PR_KV_FORM_COUNT; f++) {
        size_t bytes = pr_kv_part_bytes((pr_kv_form)f, DIM);
        bench_ctx b = {.form = (pr_kv_form)f, .keys = guard_alloc(bytes), .values = guard_alloc(bytes)};
        char name[32];
        b.k = guard_alloc(DIM * PR_KV_TOKENS * sizeof(float));
        b.v = guard_alloc(DIM * PR_KV_TOKENS * sizeof(float));
        b.row = guard_alloc(DIM * sizeof(float));
        random_floats(b.k, (size_t)DIM * PR_KV_TOKENS, FLOATS_PLAIN);
        random_floats(b.v, (size_t)DIM * PR_KV_TOKENS, FLOATS_PLAIN);
        random_floats(b.row, DIM, FLOATS_PLAIN);
        if (f == 0) bench_case("hadamard.64", run_hadamard, &b, 1, 0, 0);
        snprintf(name, sizeof name, "kv_store_%s.64x32", form_names[f]);
        bench_case(name, run_store, &b, 1, 2 * (double)bytes, 0);
        snprintf(name, sizeof name, "kv_load_%s.64x32", form_names[f]);
        bench_case(name, run_load, &b, 1, 2 * (double)bytes, 0);
        guard_free_all();
    }
}
