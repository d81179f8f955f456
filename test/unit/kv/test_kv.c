/*
 * KV pages against a model of them.
 *
 * The model knows, for each sequence, the stamp that was written at every position, and for each page who shares it. A
 * stamp is a token's keys and values, stored by the kernels. Random operations are done to both; then every page must
 * read as if only its own stamps had been stored, whatever forks and truncations happened in between and however many
 * numbers share a byte, and pages in use, levels and the ledger must be what the model says, to the byte.
 */
#include "kv/kv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "support/rig.h"

enum {
    SEQS = 6,
    TOKENS_MAX = 200,
    PAGES_MAX = (TOKENS_MAX + 31) / 32,
    POOL_PAGES = 17,
    LAYERS = 2,
    HEADS = 3,
    DIM = 35
};

static const pr_kv_shape shape = {LAYERS, HEADS, DIM, PR_KV_FORM_F16, PR_KV_FORM_F16};
static const pr_kv_shape shapes[] = {{LAYERS, HEADS, DIM, PR_KV_FORM_F16, PR_KV_FORM_F16},
                                     {LAYERS, HEADS, DIM, PR_KV_FORM_Q4, PR_KV_FORM_Q4},
                                     {LAYERS, HEADS, DIM, PR_KV_FORM_Q8, PR_KV_FORM_Q4},
                                     {LAYERS, HEADS, DIM, PR_KV_FORM_Q4, PR_KV_FORM_F32}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static const pr_kernels *kernels;

typedef struct model_page {
    uint32_t n_refs;
    uint8_t level;
} model_page;

typedef struct model_seq {
    bool open;
    pr_kv_seq seq;
    uint32_t stamps[PAGES_MAX * 32];
    uint32_t n_tokens, n_pages;
    model_page *pages[PAGES_MAX];
} model_seq;

typedef struct world {
    rig_rng rng;
    const pr_kv_shape *shape;
    pr_kv_pool *pool;
    model_page pages[POOL_PAGES]; /* n_refs 0: free */
    uint32_t n_used;
    model_seq seqs[SEQS];
    uint32_t stamp;
    size_t pool_bytes; /* in the ledger, without pages and tables */
    uint32_t n_limits; /* refused reserves */
} world;

/* ---- the model --------------------------------------------------------- */

static uint32_t pages_of(uint32_t n_tokens) { return (n_tokens + 31) / 32; }

static model_page *model_take(world *w) {
    for (size_t i = 0; i < POOL_PAGES; i++) {
        if (w->pages[i].n_refs) continue;
        w->pages[i] = (model_page){1, 255};
        w->n_used++;
        return &w->pages[i];
    }
    fail_msg("the model has no page left");
    return NULL;
}

static void model_drop(world *w, model_page *page) {
    assert_true(page->n_refs > 0);
    if (--page->n_refs == 0) w->n_used--;
}

static void model_shrink(world *w, model_seq *s, uint32_t n_pages) {
    while (s->n_pages > n_pages) model_drop(w, s->pages[--s->n_pages]);
}

/* What a reserve must answer; on success it is done to the model. */
static pr_status model_reserve(world *w, model_seq *s, uint32_t n_new) {
    uint32_t want = pages_of(s->n_tokens + n_new), last = s->n_tokens / 32;
    if (want > PAGES_MAX) return PR_ERR_LIMIT;
    bool copy = n_new > 0 && last < s->n_pages && s->pages[last]->n_refs > 1;
    uint32_t more = want > s->n_pages ? want - s->n_pages : 0;
    if (more + copy > POOL_PAGES - w->n_used) return PR_ERR_LIMIT;
    while (s->n_pages < want) s->pages[s->n_pages++] = model_take(w);
    if (copy) {
        model_page *page = model_take(w);
        page->level = s->pages[last]->level;
        model_drop(w, s->pages[last]);
        s->pages[last] = page;
    }
    return PR_OK;
}

/* ---- stamps ------------------------------------------------------------ */

/* The keys (side 0) or values that a stamp is, in one tile. */
static void stamp_row(uint32_t stamp, uint32_t tile, uint32_t side, float row[DIM]) {
    uint32_t x = (stamp + 2 * tile + side) * 2654435761u;
    for (int i = 0; i < DIM; i++, x = x * 1664525u + 1013904223u) row[i] = (float)(int32_t)x * 0x1p-31f;
}

static void store_stamp(const pr_kv_shape *of, pr_kv_tile tile, uint32_t slot, uint32_t stamp, uint32_t t) {
    float row[DIM];
    stamp_row(stamp, t, 0, row);
    kernels->kv_store_k[of->k_form](tile.k, DIM, slot, row);
    stamp_row(stamp, t, 1, row);
    kernels->kv_store_v[of->v_form](tile.v, DIM, slot, row);
}

/* A stamp lies in every tile of its position's page. */
static void write_stamp(const pr_kv_seq *seq, uint32_t pos, uint32_t stamp) {
    for (uint32_t t = 0; t < LAYERS * HEADS; t++)
        store_stamp(pr_kv_seq_shape(seq), pr_kv_tile_at(seq, pos, t / HEADS, t % HEADS), pos % 32, stamp, t);
}

/* What n tokens of a tile read as. */
static void read_tile(const pr_kv_shape *of, pr_kv_tile tile, uint32_t n, float k[DIM * 32], float v[48 * 32]) {
    kernels->kv_load_k[of->k_form](tile.k, DIM, n, k);
    kernels->kv_load_v[of->v_form](tile.v, DIM, n, v);
}

static void check_tile(const model_seq *s, uint32_t first, uint32_t n, uint32_t t) {
    static _Alignas(64) uint8_t part[2][DIM * 32 * 4];
    static float want_k[DIM * 32], got_k[DIM * 32], want_v[48 * 32], got_v[48 * 32];
    const pr_kv_shape *of = pr_kv_seq_shape(&s->seq);
    pr_kv_tile alone = {part[0], part[1]};
    for (uint32_t j = 0; j < n; j++) store_stamp(of, alone, j, s->stamps[first + j], t);
    read_tile(of, alone, n, want_k, want_v);
    read_tile(of, pr_kv_tile_at(&s->seq, first, t / HEADS, t % HEADS), n, got_k, got_v);
    if (memcmp(want_k, got_k, sizeof want_k) || memcmp(want_v, got_v, sizeof(float) * 48 * n))
        fail_msg("positions %u to %u, tile %u: not what was stored", first, first + n, t);
}

/* One tile of each page, another each time. */
static void check_stamps(rig_rng *rng, const model_seq *s) {
    for (uint32_t first = 0; first < s->n_tokens; first += 32) {
        uint32_t n = s->n_tokens - first < 32 ? s->n_tokens - first : 32;
        check_tile(s, first, n, rig_below(rng, LAYERS * HEADS));
    }
}

static void check_world(world *w, bool all_stamps) {
    size_t bytes = w->pool_bytes + w->n_used * pr_kv_page_bytes(w->shape);
    for (size_t i = 0; i < SEQS; i++) {
        const model_seq *s = &w->seqs[i];
        if (!s->open) continue;
        bytes += PAGES_MAX * sizeof(uint32_t);
        assert_int_equal(s->seq.n_tokens, s->n_tokens);
        assert_int_equal(s->seq.n_pages, s->n_pages);
        for (uint32_t p = 0; p < s->n_pages; p++) {
            assert_int_equal(pr_kv_page_level(w->pool, s->seq.pages[p]), s->pages[p]->level);
            assert_int_equal(pr_kv_page_holders(w->pool, s->seq.pages[p]), s->pages[p]->n_refs);
        }
        uint32_t last = s->n_tokens / 32;
        assert_int_equal(pr_kv_seq_copies(&s->seq), last < s->n_pages && s->pages[last]->n_refs > 1);
        if (all_stamps) check_stamps(&w->rng, s);
    }
    assert_int_equal(pr_kv_pool_pages_used(w->pool), w->n_used);
    assert_int_equal(pr_mem_bytes(PR_TAG_KV), bytes);
}

/* ---- random operations -------------------------------------------------- */

static void do_open(world *w, model_seq *s) {
    pr_err err = {0};
    *s = (model_seq){.open = true};
    if (pr_kv_seq_init(&s->seq, w->pool, TOKENS_MAX, &err)) fail_msg("%s", err.text);
}

static void do_close(world *w, model_seq *s) {
    pr_kv_seq_free(&s->seq);
    model_shrink(w, s, 0);
    *s = (model_seq){0};
}

static void do_fork(world *w, const model_seq *from, model_seq *to) {
    do_open(w, to);
    pr_kv_seq_fork(&from->seq, &to->seq);
    memcpy(to->stamps, from->stamps, sizeof to->stamps);
    to->n_tokens = from->n_tokens;
    to->n_pages = pages_of(from->n_tokens);
    for (uint32_t p = 0; p < to->n_pages; p++) {
        to->pages[p] = from->pages[p];
        to->pages[p]->n_refs++;
    }
}

/* Reserve and, most often, write and commit; a refusal must come exactly when the model refuses. */
static void do_append(world *w, model_seq *s) {
    uint32_t n = rig_below(&w->rng, rig_below(&w->rng, 3) ? 20 : 90);
    uint8_t level = (uint8_t)rig_below(&w->rng, 5);
    pr_err err = {0};
    pr_status want = model_reserve(w, s, n), st = pr_kv_seq_reserve(&s->seq, n, &err);
    assert_int_equal(st, want);
    assert_int_equal(err.status, want);
    if (st) w->n_limits++;
    if (st || rig_below(&w->rng, 6) == 0) return; /* a step that was given up */
    for (uint32_t i = 0; i < n; i++) {
        s->stamps[s->n_tokens + i] = w->stamp += 100;
        write_stamp(&s->seq, s->n_tokens + i, w->stamp);
    }
    pr_kv_seq_commit(&s->seq, n, level);
    for (uint32_t p = s->n_tokens / 32; p < pages_of(s->n_tokens + n); p++)
        if (level < s->pages[p]->level) s->pages[p]->level = level;
    s->n_tokens += n;
}

static void do_truncate(world *w, model_seq *s) {
    uint32_t n = rig_below(&w->rng, s->n_tokens + 10);
    pr_kv_seq_truncate(&s->seq, n);
    if (n < s->n_tokens) s->n_tokens = n;
    model_shrink(w, s, pages_of(s->n_tokens));
}

static void random_world(uint64_t seed, uint32_t *n_limits) {
    static world w;
    w = (world){.rng = {seed}, .shape = &shapes[seed % N_SHAPES]};
    pr_err err = {0};
    size_t held = pr_mem_bytes(PR_TAG_KV);
    assert_int_equal(held, 0);
    if (pr_kv_pool_open(w.shape, POOL_PAGES * pr_kv_page_bytes(w.shape), &w.pool, &err)) fail_msg("%s", err.text);
    assert_int_equal(pr_kv_pool_pages(w.pool), POOL_PAGES);
    w.pool_bytes = pr_mem_bytes(PR_TAG_KV);
    for (int i = 0; i < 400; i++) {
        model_seq *s = &w.seqs[rig_below(&w.rng, SEQS)], *other = &w.seqs[rig_below(&w.rng, SEQS)];
        uint32_t what = rig_below(&w.rng, 16);
        if (!s->open) do_open(&w, s);
        else if (what < 9) do_append(&w, s);
        else if (what < 12) do_truncate(&w, s);
        else if (what < 13) do_close(&w, s);
        else if (other->open) do_close(&w, other);
        else do_fork(&w, s, other);
        check_world(&w, i % 20 == 0);
    }
    check_world(&w, true);
    for (size_t i = 0; i < SEQS; i++)
        if (w.seqs[i].open) do_close(&w, &w.seqs[i]);
    check_world(&w, true);
    assert_int_equal(w.n_used, 0);
    pr_kv_pool_close(w.pool);
    assert_int_equal(pr_mem_bytes(PR_TAG_KV), 0);
    *n_limits += w.n_limits;
}

static void as_the_model_says(void **state) {
    (void)state;
    uint32_t n_limits = 0;
    for (uint64_t seed = 1; seed <= 30; seed++) random_world(seed, &n_limits);
    assert_true(n_limits > 30); /* the full pool was met, or half of this test tests nothing */
}

/* ---- single promises ----------------------------------------------------- */

static pr_kv_pool *open_pool(const pr_kv_shape *of, size_t bytes) {
    pr_err err = {0};
    pr_kv_pool *pool = NULL;
    if (pr_kv_pool_open(of, bytes, &pool, &err)) fail_msg("%s", err.text);
    return pool;
}

static void a_pool_has_the_pages_that_fit_and_at_least_one(void **state) {
    (void)state;
    size_t page = pr_kv_page_bytes(&shape);
    assert_int_equal(page % 4096, 0);
    assert_true(page >= LAYERS * HEADS * 2 * pr_kv_part_bytes(PR_KV_FORM_F16, DIM));
    const struct {
        size_t bytes;
        uint32_t pages;
    } cases[] = {{0, 1}, {1, 1}, {page, 1}, {2 * page - 1, 1}, {2 * page, 2}, {100 * page + 7, 100}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pr_kv_pool *pool = open_pool(&shape, cases[i].bytes);
        assert_int_equal(pr_kv_pool_pages(pool), cases[i].pages);
        assert_int_equal(pr_kv_pool_pages_used(pool), 0);
        pr_kv_pool_close(pool);
    }
    pr_kv_pool_close(NULL);
}

/* Every tile of every page has bytes of its own. */
static void tiles_do_not_overlap(void **state) {
    (void)state;
    const pr_kv_shape odd[] = {{3, 2, 16, PR_KV_FORM_F16, PR_KV_FORM_F16},
                               {2, 5, 24, PR_KV_FORM_Q8, PR_KV_FORM_Q8},
                               {2, 3, 33, PR_KV_FORM_Q4, PR_KV_FORM_F32},
                               {2, 2, 17, PR_KV_FORM_Q8, PR_KV_FORM_Q4},
                               {1, 1, 1, PR_KV_FORM_F32, PR_KV_FORM_Q4}};
    pr_err err = {0};
    for (size_t k = 0; k < sizeof odd / sizeof *odd; k++) {
        const pr_kv_shape *of = &odd[k];
        const size_t bytes[2] = {pr_kv_part_bytes(of->k_form, of->head_dim),
                                 pr_kv_part_bytes(of->v_form, of->head_dim)};
        pr_kv_pool *pool = open_pool(of, 3 * pr_kv_page_bytes(of));
        pr_kv_seq seq;
        assert_int_equal(pr_kv_seq_init(&seq, pool, 96, &err), PR_OK);
        assert_memory_equal(pr_kv_seq_shape(&seq), of, sizeof *of);
        assert_int_equal(pr_kv_seq_reserve(&seq, 96, &err), PR_OK);
        for (int pass = 0; pass < 2; pass++) {
            uint8_t mark = 1;
            for (uint32_t p = 0; p < 3; p++) {
                for (uint32_t t = 0; t < 2 * of->n_layers * of->n_kv_heads; t++, mark++) {
                    pr_kv_tile tile = pr_kv_tile_at(&seq, p * 32 + (uint32_t)pass * 31, t / 2 / of->n_kv_heads,
                                                    t / 2 % of->n_kv_heads);
                    uint8_t *at = t % 2 ? tile.v : tile.k;
                    assert_int_equal((uintptr_t)at % 32, 0);
                    if (pass == 0) memset(at, mark, bytes[t % 2]);
                    for (size_t i = 0; i < bytes[t % 2]; i++) assert_int_equal(at[i], mark);
                }
            }
        }
        pr_kv_seq_free(&seq);
        pr_kv_pool_close(pool);
    }
}

static void a_refused_reserve_changes_nothing(void **state) {
    (void)state;
    pr_err err = {0};
    pr_kv_pool *pool = open_pool(&shape, 3 * pr_kv_page_bytes(&shape));
    pr_kv_seq a, b;
    assert_int_equal(pr_kv_seq_init(&a, pool, 320, &err), PR_OK);
    assert_int_equal(pr_kv_seq_init(&b, pool, 64, &err), PR_OK);
    assert_int_equal(pr_kv_seq_reserve(&a, 40, &err), PR_OK);
    pr_kv_seq_commit(&a, 40, 3);
    assert_int_equal(pr_kv_seq_reserve(&a, 57, &err), PR_ERR_LIMIT); /* a fourth page */
    assert_non_null(strstr(err.text, "3 pages"));
    assert_int_equal(a.n_tokens, 40);
    assert_int_equal(a.n_pages, 2);
    assert_int_equal(pr_kv_pool_pages_used(pool), 2);
    assert_int_equal(pr_kv_seq_reserve(&b, 65, &err), PR_ERR_LIMIT); /* over its own bound */
    assert_non_null(strstr(err.text, "64 tokens"));
    /* A fork that wants a copy of the shared page and one more: only one is left. */
    pr_kv_seq_fork(&a, &b);
    assert_int_equal(pr_kv_seq_reserve(&b, 24, &err), PR_OK);
    assert_int_equal(pr_kv_pool_pages_used(pool), 3);
    assert_int_equal(pr_kv_seq_reserve(&a, 25, &err), PR_ERR_LIMIT);
    assert_int_equal(a.n_pages, 2);
    pr_kv_seq_free(&b);
    assert_int_equal(pr_kv_seq_reserve(&a, 25, &err), PR_OK);
    pr_kv_seq_free(&a);
    pr_kv_seq_free(&a); /* all zero now */
    pr_kv_pool_close(pool);
}

/* Whichever request fails, the status says so and the sequence holds what it held. */
static void every_failing_request(void **state) {
    (void)state;
    pr_err err = {0};
    size_t held = pr_mem_total();
    bool through = false;
    for (int64_t after = 0; !through; after++) {
        assert_true(after < 100);
        pr_kv_pool *pool = NULL;
        pr_kv_seq a = {0}, b = {0};
        pr_mem_fail_after(after, false);
        pr_status st = pr_kv_pool_open(&shape, 8 * pr_kv_page_bytes(&shape), &pool, &err);
        if (!st) st = pr_kv_seq_init(&a, pool, TOKENS_MAX, &err);
        if (!st) st = pr_kv_seq_init(&b, pool, TOKENS_MAX, &err);
        if (!st) st = pr_kv_seq_reserve(&a, 70, &err);
        if (!st) pr_kv_seq_commit(&a, 70, 0);
        if (!st) pr_kv_seq_fork(&a, &b);
        uint32_t n_used = pool ? pr_kv_pool_pages_used(pool) : 0;
        if (!st && (st = pr_kv_seq_reserve(&b, 40, &err)) != PR_OK) {
            assert_int_equal(pr_kv_pool_pages_used(pool), n_used);
            assert_int_equal(b.n_pages, 3);
        }
        through = !pr_mem_failed();
        assert_int_equal(st, through ? PR_OK : PR_ERR_NOMEM);
        pr_mem_fail_after(-1, false);
        pr_kv_seq_free(&a);
        pr_kv_seq_free(&b);
        if (pool) assert_int_equal(pr_kv_pool_pages_used(pool), 0);
        pr_kv_pool_close(pool);
        assert_int_equal(pr_mem_total(), held);
    }
}

/* Taking pages is no request to the system: a decode step may do it. */
static void pages_are_no_allocations(void **state) {
    (void)state;
    pr_err err = {0};
    pr_kv_pool *pool = open_pool(&shape, 4 * pr_kv_page_bytes(&shape));
    pr_kv_seq seq;
    assert_int_equal(pr_kv_seq_init(&seq, pool, 128, &err), PR_OK);
    uint64_t count = pr_mem_count();
    for (int i = 0; i < 128; i++) {
        assert_int_equal(pr_kv_seq_reserve(&seq, 1, &err), PR_OK);
        pr_kv_seq_commit(&seq, 1, 0);
    }
    assert_int_equal(pr_mem_count(), count);
    pr_kv_seq_free(&seq);
    pr_kv_pool_close(pool);
}

/* Bounds near 2^32 are bounds, not wrapped ones. */
static void the_largest_sequence(void **state) {
    (void)state;
    pr_err err = {0};
    pr_kv_pool *pool = open_pool(&shape, 2 * pr_kv_page_bytes(&shape));
    pr_kv_seq seq = {0};
    pr_status st = pr_kv_seq_init(&seq, pool, UINT32_MAX, &err); /* half a gigabyte of table, if the system allows */
    if (st == PR_OK) {
        assert_int_equal(seq.pages_max, 1u << 27);
        assert_int_equal(pr_kv_seq_reserve(&seq, 64, &err), PR_OK);
        assert_int_equal(pr_kv_seq_reserve(&seq, UINT32_MAX, &err), PR_ERR_LIMIT);
        assert_int_equal(pr_kv_pool_pages_used(pool), 2);
    } else {
        assert_int_equal(st, PR_ERR_NOMEM);
    }
    pr_kv_seq_free(&seq);
    pr_kv_pool_close(pool);
}

int main(void) {
    kernels = pr_kernels_get(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_the_model_says),     cmocka_unit_test(a_pool_has_the_pages_that_fit_and_at_least_one),
        cmocka_unit_test(tiles_do_not_overlap),  cmocka_unit_test(a_refused_reserve_changes_nothing),
        cmocka_unit_test(every_failing_request), cmocka_unit_test(pages_are_no_allocations),
        cmocka_unit_test(the_largest_sequence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
