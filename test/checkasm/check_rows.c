/* Row operations: quant, rmsnorm, rope, the element-wise ones, softmax. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checkasm.h"

enum { N_MAX = 300, ROUNDS = 400 };

/* A guarded copy. */
static float *copy_of(const float *x, size_t n) {
    float *y = guard_alloc(n * sizeof *y);
    memcpy(y, x, n * sizeof *y);
    return y;
}

static float *floats_of(uint32_t n, float_kind kind) {
    float *x = guard_alloc(n * sizeof *x);
    random_floats(x, n, kind);
    return x;
}

static float_kind kind_of(int round) { return (float_kind)(round % FLOAT_KINDS); }

/* A quantizer of a table, whatever its blocks. */
typedef void quantizer(const pr_kernels *k, const float *x, uint32_t n, void *out);
static void quant8(const pr_kernels *k, const float *x, uint32_t n, void *out) { k->quant(x, n, out); }
static void quant13(const pr_kernels *k, const float *x, uint32_t n, void *out) { k->quant13(x, n, out); }

static void check_quant(const char *name, quantizer *quant, size_t block, const pr_kernels *ref, const pr_kernels *k) {
    check_begin(name, k);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t n = PR_BLOCK * (1 + random_below(9)), bytes = n / PR_BLOCK * (uint32_t)block;
        const float *x = floats_of(n, kind_of(i));
        void *want = guard_alloc(bytes), *got = guard_alloc(bytes);
        quant(ref, x, n, want);
        quant(k, x, n, got);
        check_bytes(want, got, bytes, "n %u, x %d", n, i % FLOAT_KINDS);
        guard_free_all();
    }
    check_end();
}

static void check_rmsnorm(const pr_kernels *ref, const pr_kernels *k) {
    check_begin("rmsnorm", k);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t n = 1 + random_below(N_MAX);
        float *x = floats_of(n, kind_of(i)), *want = copy_of(x, n), *got = copy_of(x, n);
        const float *w = i % 3 == 0 ? NULL : floats_of(n, FLOATS_PLAIN);
        ref->rmsnorm(x, w, n, 1e-5f, want);
        bool in_place = i % 2 == 0;
        k->rmsnorm(in_place ? got : x, w, n, 1e-5f, got);
        check_floats(want, got, n, "n %u, x %d", n, i % FLOAT_KINDS);
        guard_free_all();
    }
    check_end();
}

static void check_rope(const pr_kernels *ref, const pr_kernels *k) {
    check_begin("rope", k);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t n = 2 + 2 * random_below(80);
        float *want = floats_of(n, kind_of(i)), *got = copy_of(want, n);
        const float *cs = floats_of(n, FLOATS_PLAIN);
        ref->rope(want, cs, n, i % 2 == 0);
        k->rope(got, cs, n, i % 2 == 0);
        check_floats(want, got, n, "n %u, x %d, neox %d", n, i % FLOAT_KINDS, i % 2 == 0);
        guard_free_all();
    }
    check_end();
}

static void check_softmax(const pr_kernels *ref, const pr_kernels *k) {
    check_begin("softmax", k);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t n = 1 + random_below(N_MAX);
        float *want = floats_of(n, kind_of(i));
        for (uint32_t c = 0; c < n; c++) {
            want[c] *= 20.0f;
        }
        float *got = copy_of(want, n);
        ref->softmax(want, n);
        k->softmax(got, n);
        check_floats(want, got, n, "n %u, x %d", n, i % FLOAT_KINDS);
        guard_free_all();
    }
    check_end();
}

typedef void map_fn(const float *a, const float *b, uint32_t n, float *y);

static void check_map(const char *name, map_fn *ref, map_fn *fn, const pr_kernels *k) {
    check_begin(name, k);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t n = 1 + random_below(N_MAX);
        float *a = floats_of(n, kind_of(i)), *b = floats_of(n, FLOATS_PLAIN), *want = copy_of(a, n);
        for (uint32_t c = 0; c < n && kind_of(i) == FLOATS_MIXED; c++) {
            a[c] = random_float() * 60.0f; /* the range in which silu does something */
        }
        ref(a, b, n, want);
        float *got = i % 3 == 0 ? copy_of(a, n) : i % 3 == 1 ? copy_of(b, n) : copy_of(want, n);
        fn(i % 3 == 0 ? got : a, i % 3 == 1 ? got : b, n, got);
        check_floats(want, got, n, "n %u, a %d", n, i % FLOAT_KINDS);
        guard_free_all();
    }
    check_end();
}

static void check_scale(const pr_kernels *ref, const pr_kernels *k) {
    check_begin("scale", k);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t n = 1 + random_below(N_MAX);
        float s = random_float(), *a = floats_of(n, kind_of(i)), *want = copy_of(a, n), *got = copy_of(a, n);
        ref->scale(a, s, n, want);
        k->scale(i % 2 ? a : got, s, n, got);
        check_floats(want, got, n, "n %u, a %d", n, i % FLOAT_KINDS);
        guard_free_all();
    }
    check_end();
}

void check_rows(const pr_kernels *ref, const pr_kernels *k) {
    check_quant("quant", quant8, sizeof(pr_qblock), ref, k);
    check_quant("quant13", quant13, sizeof(pr_qblock13), ref, k);
    check_rmsnorm(ref, k);
    check_rope(ref, k);
    check_softmax(ref, k);
    check_map("silu_mul", ref->silu_mul, k->silu_mul, k);
    check_map("add", ref->add, k->add, k);
    check_map("mul", ref->mul, k->mul, k);
    check_scale(ref, k);
}

/* ---- timing: one row of 2048 ---- */

enum { N_BENCH = 2048 };

typedef struct bench_ctx {
    float *a, *b, *y;
    pr_qblock *q;
    pr_qblock13 *q13;
} bench_ctx;

static void run_quant(const pr_kernels *k, void *ctx, uint32_t part) {
    (void)part;
    const bench_ctx *b = ctx;
    k->quant(b->a, N_BENCH, b->q);
}

static void run_quant13(const pr_kernels *k, void *ctx, uint32_t part) {
    (void)part;
    const bench_ctx *b = ctx;
    k->quant13(b->a, N_BENCH, b->q13);
}

static void run_rmsnorm(const pr_kernels *k, void *ctx, uint32_t part) {
    (void)part;
    const bench_ctx *b = ctx;
    k->rmsnorm(b->a, b->b, N_BENCH, 1e-5f, b->y);
}

static void run_rope(const pr_kernels *k, void *ctx, uint32_t part) {
    (void)part;
    const bench_ctx *b = ctx;
    for (uint32_t h = 0; h < N_BENCH / 64; h++) {
        k->rope(b->y + (size_t)64 * h, b->b, 64, false);
    }
}

static void run_rope_neox(const pr_kernels *k, void *ctx, uint32_t part) {
    (void)part;
    const bench_ctx *b = ctx;
    for (uint32_t h = 0; h < N_BENCH / 64; h++) {
        k->rope(b->y + (size_t)64 * h, b->b, 64, true);
    }
}

static void run_silu_mul(const pr_kernels *k, void *ctx, uint32_t part) {
    (void)part;
    const bench_ctx *b = ctx;
    k->silu_mul(b->a, b->b, N_BENCH, b->y);
}

static void run_add(const pr_kernels *k, void *ctx, uint32_t part) {
    (void)part;
    const bench_ctx *b = ctx;
    k->add(b->a, b->b, N_BENCH, b->y);
}

static void run_softmax(const pr_kernels *k, void *ctx, uint32_t part) {
    (void)part;
    const bench_ctx *b = ctx;
    k->softmax(b->a, N_BENCH);
}

void bench_rows(void) {
    bench_ctx b = {.a = floats_of(N_BENCH, FLOATS_PLAIN),
                   .b = floats_of(N_BENCH, FLOATS_ZERO),
                   .y = floats_of(N_BENCH, FLOATS_PLAIN),
                   .q = guard_alloc(N_BENCH / PR_BLOCK * sizeof(pr_qblock)),
                   .q13 = guard_alloc(N_BENCH / PR_BLOCK * sizeof(pr_qblock13))};
    for (int i = 0; i < N_BENCH; i += 2) {
        b.b[i] = 1.0f; /* no rotation: the vector must not drift off while it is timed */
    }
    const double bytes = N_BENCH * sizeof(float);
    bench_case("quant.2048", run_quant, &b, 1, bytes, 0);
    bench_case("quant13.2048", run_quant13, &b, 1, bytes, 0);
    bench_case("rmsnorm.2048", run_rmsnorm, &b, 1, bytes, 0);
    bench_case("rope.2048", run_rope, &b, 1, bytes, 0);
    bench_case("rope_neox.2048", run_rope_neox, &b, 1, bytes, 0);
    bench_case("silu_mul.2048", run_silu_mul, &b, 1, 2 * bytes, 0);
    bench_case("add.2048", run_add, &b, 1, 2 * bytes, 0);
    bench_case("softmax.2048", run_softmax, &b, 1, bytes, 0);
    guard_free_all();
}
