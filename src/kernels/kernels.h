/*
 * Kernels: the arithmetic, one struct of function pointers for each ISA.
 *
 * Every function is pure, single-threaded, allocates nothing and may be called
 * from any thread. The scalar implementation is the definition: the order of
 * every float operation is stated below, multiply-adds that are written fma()
 * are fused in every implementation, and SIMD bodies give the SAME BITS. (A
 * lane is a row, a token or one of 16 fixed partial sums, so no ISA needs an
 * order of its own.)
 *
 * Sums over a vector ("sum16"): 16 partial sums, element i goes to partial i
 * mod 16 in ascending order, then partials are added as a tree: p[i] += p[i+8],
 * p[i] += p[i+4], p[i] += p[i+2], p[0] + p[1].
 */
#ifndef PRECIS_KERNELS_KERNELS_H
#define PRECIS_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/pack.h"
#include "kernels/planes.h"

/* ISA bits, for --cpumask. Each implies what stands before it in its family. */
enum {
    PR_CPU_AVX2 = 1,   /* AVX2, FMA, F16C */
    PR_CPU_AVX512 = 2, /* AVX-512 F, BW, VL, DQ and VNNI */
    PR_CPU_AVXVNNI = 4 /* AVX2 and AVX-VNNI: small cores, and large ones without AVX-512 */
};
uint32_t pr_cpu_detect(void);

/*
 * An activation row quantized to 8 bits: blocks of 32 numbers.
 *   d = max|x| / 127, q = round to nearest even of x * (1/d), ds = d * (float)(sum of q).
 * A d below FLT_MIN (a block of zeros) makes d and all q 0. NaN counts as 0, infinities as +-FLT_MAX.
 */
typedef struct pr_qblock {
    float d;
    float ds;
    int32_t bias64; /* -64 * sum of q: where an integer sum over q * (weight + 64) starts */
    int32_t bias;   /* -128 * sum of q: and over q * (weight + 128) */
    int8_t q[PR_BLOCK];
} pr_qblock;
_Static_assert(sizeof(pr_qblock) == 48, "pr_qblock is 48 bytes");

/*
 * The same to 13 bits, for weights of 15 and a little (the fp16 level of nested planes).
 *   d = max|x| / 4064, q = round to nearest even of x * (1/d), else as above.
 * 4064 is the largest bound at which 32 products with |weight| <= 16512 cannot leave 32 bits. Of each four columns
 * 4i .. 4i + 3 the order is 0, 2, 1, 3: so do weights of 16 bits come out of their planes.
 */
enum { PR_Q13_MAX = 4064 };
typedef struct pr_qblock13 {
    float d;
    int16_t q[PR_BLOCK];
} pr_qblock13;
_Static_assert(sizeof(pr_qblock13) == 68, "pr_qblock13 is 68 bytes");

/*
 * Matrix times vectors over whole tiles: for t < n_tokens, r < n_tiles * 16:
 *   y[t * y_stride + r] = sum over columns of w[r][c] * x[t][c]
 * x rows are x_stride BYTES apart. y rows are y_stride floats apart, and have room for whole tiles.
 * One chain a row and token, from acc = 0, columns (blocks) ascending:
 *   float x, pack F32/F16/BF16:  acc = fma(w, x, acc)
 *   float x, pack Q8:            acc = fma(d * q, x, acc)       (d * q rounded to float)
 *   float x, pack Q4:            acc = fma(fma(d, q, m), x, acc)
 *   qblock x, pack Q8:           acc = fma((float)isum, wd * xd, acc),  isum = sum of wq * xq
 *   qblock x, pack Q4:           the same, then acc = fma(wm, x.ds, acc)
 */
typedef struct pr_mm_args {
    const uint8_t *tiles;
    size_t tile_stride; /* BYTES from one tile to the next, for a part of wider ones; 0: they follow one another */
    uint32_t n_tiles;
    uint32_t cols;
    const void *x;
    size_t x_stride;
    uint32_t n_tokens;
    float *y;
    size_t y_stride;
} pr_mm_args;
typedef void pr_mm_fn(const pr_mm_args *args);

/*
 * For speed: give a call an even number of tiles (4 or more when there are that many), all tokens of the step, and an
 * x_stride that is no multiple of 4096. Accumulators of long rows wait in y between slices of columns, so y is
 * written more than once.
 */

/* Tokens in a KV page, which is the tile of streaming attention. */
enum { PR_KV_TOKENS = 32 };

/* How keys or values stand in a KV page. F32 serves the exact path. */
typedef enum pr_kv_form { PR_KV_FORM_F16, PR_KV_FORM_Q8, PR_KV_FORM_Q4, PR_KV_FORM_F32 } pr_kv_form;
enum { PR_KV_FORM_COUNT = 4 };

/*
 * One KV page of one layer and one KV head is two parts, keys and values, each in a form of its own. Keys are transposed
 * (a lane is a token), values are not (a lane is a dimension):
 *   f16:  f16 k[head_dim][32]                         f16 v[32][head_dim]
 *   f32:  float k[head_dim][32]                       float v[32][head_dim]
 *   q8:   f16 d[32]; int8 k[head_dim][32]             f16 d[32]; int8 v[32][head_dim]             (a scale a token)
 *   q4:   f16 d[groups][32]; u8 k[pairs][32]          f16 d[32][groups]; u8 v[32][pairs]          (one for 32 numbers)
 * with groups = head_dim / 32 and pairs = head_dim / 2, both rounded up. A byte of q4 is numbers 2i (low nibble) and
 * 2i + 1 of one token, so tokens that different threads write share no byte.
 *
 * q8 numbers: d = max|x| / 127 as f16 (at most 65504), q = round to nearest even of x * (1/d) within +-127, 0 when d is
 * 0; NaN counts as 0, infinities as +-FLT_MAX. A decoded number is (float)q * d.
 * q4 numbers: the q8 numbers of each group of 32 are replaced by 16 levels, in the one of 8 stretches that loses least
 * (kernels/kv_q4.h). A decoded number is (float)level[nibble] * d.
 */
size_t pr_kv_part_bytes(pr_kv_form form, uint32_t head_dim);

/* Keys and values of few bits are stored rotated (hadamard below): no channel is then much larger than the others, which
 * is what costs most of the accuracy (docs/BENCHMARKS.md has the figures). Queries that meet rotated keys must be rotated
 * too, and a sum of rotated values is rotated back; the kernels that store and load know nothing of it. */
static inline bool pr_kv_rotated(pr_kv_form form) { return form == PR_KV_FORM_Q8 || form == PR_KV_FORM_Q4; }

/* Store one token's key or value, floats [head_dim], at slot j of a part. */
typedef void pr_kv_store_fn(void *part, uint32_t head_dim, uint32_t j, const float *x);
/* Decode slots 0..n-1 of a part: keys to [head_dim][32] (other slots zero), values to [n][head_dim rounded up to 16]
 * (padding zero). */
typedef void pr_kv_load_fn(const void *part, uint32_t head_dim, uint32_t n, float *out);

/*
 * Streaming (online-softmax) attention state of one query head, and its update
 * by one tile. q is already scaled. For the tokens lo <= j < hi of the tile:
 *   s[j]  = chain over d ascending of fma(q[d], k[d][j], s), others are left out
 *   m'    = max(m, max s);  c = exp(m - m');  p[j] = exp(s[j] - m')
 *   l     = l * c + sum16(p)   (absent tokens count 0; fma(l, c, sum))
 *   acc[d] = acc[d] * c, then for j ascending: acc[d] = fma(p[j], v[j][d], acc[d])
 * exp is pr_expf() below. Start: m = -INFINITY, l = 0, acc = 0. Result: acc[d] / l (as acc[d] * (1/l)).
 */
typedef struct pr_attn_state {
    float m, l;
    float *acc; /* [head_dim rounded up to 16], 64-byte aligned */
} pr_attn_state;

/*
 * The tile: keys [head_dim][32], values [32][head_dim rounded up to 16]; f16 or float, both of one kind. Only slots that
 * some query sees are used. A page's F16 and F32 parts are such tiles where head_dim is a multiple of 16; of others
 * kv_load makes one, which pays for F16 too where many queries share it.
 */
typedef struct pr_attn_tile {
    const void *k, *v;
    bool f16;
    const void *soon_k, *soon_v; /* of f16, what is worth asking memory for: the tile after it; NULL: nothing is */
} pr_attn_tile;

typedef struct pr_kernels {
    const char *name; /* "scalar", "avx2", "avxvnni", "avx512" */

    pr_mm_fn *mm_f32[PR_PACK_COUNT]; /* float activations */
    pr_mm_fn *mm_q8[PR_PACK_COUNT];  /* pr_qblock activations; NULL for F32, F16, BF16 */

    /* Nested weights by level (kernels/planes.h). */
    pr_plane_fn *planes_q[PR_PLANE_COUNT];   /* pr_qblock activations; of p16 pr_qblock13 */
    pr_plane_fn *planes_f32[PR_PLANE_COUNT]; /* float activations */

    /* n is a multiple of 32. */
    void (*quant)(const float *x, uint32_t n, pr_qblock *out);
    void (*quant13)(const float *x, uint32_t n, pr_qblock13 *out);

    /* y = x * (1 / sqrt(sum16(x*x) / n + eps)) * w; w NULL: all ones. The square is fma'd into its
     * partial; x * r is rounded before * w. y may be x. Any n. */
    void (*rmsnorm)(const float *x, const float *w, uint32_t n, float eps, float *y);

    /* Rotate pairs of one head: n_rot is even; cs is [n_rot/2][2] cos, sin. neox: pairs (i, i + n_rot/2), else (2i, 2i+1).
     * a' = fma(a, cos, -(b * sin)), b' = fma(b, cos, a * sin). In place. */
    void (*rope)(float *x, const float *cs, uint32_t n_rot, bool neox);

    /* y = silu(g) * u with silu(g) = g / (1 + exp(-g)). y may be g or u. */
    void (*silu_mul)(const float *g, const float *u, uint32_t n, float *y);
    void (*add)(const float *a, const float *b, uint32_t n, float *y); /* y may be a or b */
    void (*mul)(const float *a, const float *b, uint32_t n, float *y);
    void (*scale)(const float *a, float s, uint32_t n, float *y);
    /* In place: softmax of x[n]: max, exp(x - max), times 1 / sum16. NaN never is the maximum and counts as exp = 0. */
    void (*softmax)(float *x, uint32_t n);

    /* In place: the Walsh-Hadamard transform of x[n], normalized, so that it is its own inverse and changes no scalar
     * product. n is cut into powers of two, the largest first (80 = 64 + 16). In each: for h = 1, 2, 4, ... the pairs
     * (a, b) that are h apart become a + b, a - b; then all are multiplied by 1 / sqrt(size). Any n. */
    void (*hadamard)(float *x, uint32_t n);

    /* By pr_kv_form. */
    pr_kv_store_fn *kv_store_k[PR_KV_FORM_COUNT], *kv_store_v[PR_KV_FORM_COUNT];
    pr_kv_load_fn *kv_load_k[PR_KV_FORM_COUNT], *kv_load_v[PR_KV_FORM_COUNT];
    /* The update above for n_q queries, q[i] being [head_dim], all against one tile; each has its own lo[i] < hi[i]. */
    void (*attend)(const float *const *q, pr_attn_state *states, const uint8_t *lo, const uint8_t *hi, uint32_t n_q,
                   uint32_t head_dim, const pr_attn_tile *tile);
    /* How many queries may share a tile of f16 before it is faster to make floats of it first. */
    uint32_t attend_f16_max;
} pr_kernels;

/* The best table whose ISA is in both mask (0: anything) and this CPU. Immutable, static. */
const pr_kernels *pr_kernels_get(uint32_t mask);
/* The table of exactly one ISA (0: scalar) or NULL when this CPU or build lacks it: for tests. */
const pr_kernels *pr_kernels_of(uint32_t isa);

/*
 * exp for every kernel: x clamped to 88.7; 0 unless x >= -87.3 (so for NaN too); n = x * log2(e) rounded once to the
 * nearest integer, even on a tie; r = fma(-n, ln2_hi, x), then fma(-n, ln2_lo, r); a degree-6 polynomial in Horner form
 * by fma; n added to the exponent. At most 1 ulp (kernels/exp.h has the constants).
 */
float pr_expf(float x);

#endif
