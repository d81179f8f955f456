/*
 * The tree of KV pages against a plain list of them.
 *
 * The list has, for each page that should be kept, all tokens from the beginning of the timeline to the page's end, its owner,
 * level, slot and when it was last used; every question is answered by looking at all of it. Random sequences that
 * often begin alike are begun, extended, kept and closed, pages evicted; then the tree must have found, kept, and let go of exactly what
 * the list says, each page must be held as often as somebody names it, and what a match hands out must be the rows that were
 * stored for those very tokens.
 */
#include "kv/radix.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "support/rig.h"

enum {
    SEQS = 5,
    TOKENS_MAX = 140,
    PAGES_MAX = (TOKENS_MAX + 31) / 32,
    POOL_PAGES = 20,
    OWNERS = 2,
    TEXTS = 8,
    LEVELS = 3
};

static const pr_kv_shape shape = {1, 1, 8, PR_KV_FORM_F16, PR_KV_FORM_F16};

typedef struct entry { /* a page that should be in the tree */
    bool used;
    uint32_t owner, n_tokens, slot;
    int32_t tokens[TOKENS_MAX];
    uint8_t level;
    uint64_t time;
} entry;

typedef struct live {
    bool open;
    pr_kv_seq seq;
    uint32_t owner;
    int32_t tokens[TOKENS_MAX];
    uint8_t level[PAGES_MAX];
} live;

typedef struct world {
    rig_rng rng;
    pr_kv_pool *pool;
    pr_radix *tree;
    entry entries[POOL_PAGES];
    live lives[SEQS];
    int32_t texts[TEXTS][TOKENS_MAX];
    uint64_t clock;
    uint32_t n_hits, n_parts, n_evicted, n_levels, n_covered, n_forced; /* what was met */
} world;

static const char owner_names[OWNERS];

/* ---- the list ----------------------------------------------------------- */

static uint32_t start_of(const entry *e) { return (e->n_tokens - 1) / 32 * 32; }

static uint32_t agree(const int32_t *a, uint32_t n_a, const int32_t *b, uint32_t n_b) {
    uint32_t i = 0;
    while (i < n_a && i < n_b && a[i] == b[i]) i++;
    return i;
}

static bool begins(const entry *e, uint32_t owner, const int32_t *tokens, uint32_t n) {
    return e->used && e->owner == owner && e->n_tokens >= n && agree(e->tokens, e->n_tokens, tokens, n) == n;
}

static entry *list_exact(world *w, uint32_t owner, const int32_t *tokens, uint32_t n) {
    for (entry *e = w->entries; e < w->entries + POOL_PAGES; e++)
        if (begins(e, owner, tokens, n) && e->n_tokens == n) return e;
    return NULL;
}

static entry *list_parent(world *w, const entry *e) {
    return start_of(e) ? list_exact(w, e->owner, e->tokens, start_of(e)) : NULL;
}

static bool list_leaf(world *w, const entry *of) {
    for (entry *e = w->entries; e < w->entries + POOL_PAGES; e++)
        if (e->used && list_parent(w, e) == of) return false;
    return true;
}

static uint32_t list_count(const world *w) {
    uint32_t n = 0;
    for (size_t i = 0; i < POOL_PAGES; i++) n += w->entries[i].used;
    return n;
}

static uint32_t named(const world *w, uint32_t slot) {
    uint32_t n = 0;
    for (size_t i = 0; i < SEQS; i++)
        for (uint32_t p = 0; p < w->lives[i].seq.n_pages; p++) n += w->lives[i].seq.pages[p] == slot;
    return n;
}

static void list_touch(world *w, entry *e) {
    for (; e; e = list_parent(w, e)) e->time = ++w->clock;
}

static uint32_t list_find(world *w, uint32_t owner, const int32_t *tokens, uint32_t n, uint8_t level) {
    uint32_t best = 0;
    for (entry *e = w->entries; e < w->entries + POOL_PAGES; e++) {
        uint32_t m = e->used && e->owner == owner ? agree(e->tokens, e->n_tokens, tokens, n) : 0;
        bool good = m > best && m > start_of(e);
        for (entry *at = e; good && at; at = list_parent(w, at)) good = at->level >= level;
        if (good) best = m;
    }
    return best;
}

static bool first_in_order(const entry *a, const entry *b) {
    uint32_t i = agree(a->tokens, a->n_tokens, b->tokens, b->n_tokens);
    return i == a->n_tokens || (i < b->n_tokens && a->tokens[i] < b->tokens[i]);
}

/* The entry that stands for the page ending at n; made if need be. */
static entry *list_keep(world *w, const live *l, uint32_t n, uint32_t slot, uint8_t level, uint32_t *n_added) {
    entry *covers = NULL, *e = list_exact(w, l->owner, l->tokens, n);
    uint32_t start = (n - 1) / 32 * 32;
    for (entry *c = w->entries; c < w->entries + POOL_PAGES; c++)
        if (begins(c, l->owner, l->tokens, n) && start_of(c) == start && c->level >= level &&
            (!covers || first_in_order(c, covers)))
            covers = c;
    if (covers) return covers;
    for (entry *c = w->entries; c < w->entries + POOL_PAGES; c++) {
        bool shorter = c->used && c->owner == l->owner && c->n_tokens < n && start_of(c) == start && c->level <= level;
        if (!shorter || agree(c->tokens, c->n_tokens, l->tokens, n) < c->n_tokens) continue;
        c->used = false;
        w->n_covered++;
    }
    if (e) w->n_levels++;
    for (entry *c = w->entries; !e; c++)
        if (!c->used) e = c;
    *e = (entry){.used = true, .owner = l->owner, .n_tokens = n, .slot = slot, .level = level};
    memcpy(e->tokens, l->tokens, n * sizeof *l->tokens);
    ++*n_added;
    return e;
}

static bool on_path(world *w, entry *e, entry *end) {
    for (; end; end = list_parent(w, end))
        if (end == e) return true;
    return false;
}

static bool list_leads_to_room(world *w, entry *e, entry *spared) {
    for (; e && !on_path(w, e, spared); e = list_parent(w, e))
        if (named(w, e->slot) == 0) return true;
    return false;
}

static uint32_t list_evict(world *w, uint32_t n_pages, entry *spared) {
    uint32_t n_freed = 0;
    while (n_freed < n_pages) {
        entry *oldest = NULL;
        for (entry *e = w->entries; e < w->entries + POOL_PAGES; e++)
            if (e->used && (!oldest || e->time < oldest->time) && list_leaf(w, e) && list_leads_to_room(w, e, spared))
                oldest = e;
        if (!oldest) break;
        oldest->used = false;
        w->n_evicted++;
        if (named(w, oldest->slot)) w->n_forced++;
        else n_freed++;
    }
    return n_freed;
}

/* ---- checks ------------------------------------------------------------- */

static void check_world(world *w) {
    uint32_t held[POOL_PAGES] = {0}, n_used = 0;
    for (entry *e = w->entries; e < w->entries + POOL_PAGES; e++) {
        if (!e->used) continue;
        held[e->slot]++;
        assert_true(start_of(e) == 0 || list_parent(w, e));
        assert_int_equal(pr_kv_page_level(w->pool, e->slot), e->level);
    }
    for (uint32_t s = 0; s < POOL_PAGES; s++) {
        assert_true(held[s] <= 1);
        held[s] += named(w, s);
        n_used += held[s] > 0;
        assert_int_equal(pr_kv_page_holders(w->pool, s), held[s]);
    }
    assert_int_equal(pr_kv_pool_pages_used(w->pool), n_used);
    assert_int_equal(pr_radix_pages(w->tree), list_count(w));
    for (uint32_t o = 0; o < OWNERS; o++) {
        bool any = false;
        for (size_t i = 0; i < POOL_PAGES; i++) any |= w->entries[i].used && w->entries[i].owner == o;
        assert_int_equal(pr_radix_has(w->tree, &owner_names[o]), any);
    }
}

/* What is stored for a position: made of its token and all before it, and of whose they are. */
static uint32_t row_of(const live *l, uint32_t pos) {
    uint32_t x = l->owner + 1;
    for (uint32_t i = 0; i <= pos; i++) x = (x ^ (uint32_t)l->tokens[i]) * 16777619u + i;
    return x;
}

static uint32_t *row_at(const live *l, uint32_t pos) {
    return (uint32_t *)pr_kv_tile_at(&l->seq, pos, 0, 0).k + pos % 32;
}

static void check_rows(const live *l) {
    for (uint32_t i = 0; i < l->seq.n_tokens; i++)
        if (*row_at(l, i) != row_of(l, i)) fail_msg("position %u of %u: another row", i, l->seq.n_tokens);
}

/* ---- random operations --------------------------------------------------- */

/* Tokens from position `from` on: as in a text that others have as well, then strange ones. */
static void some_tokens(world *w, int32_t *tokens, uint32_t from, uint32_t n) {
    const int32_t *text = w->texts[rig_below(&w->rng, TEXTS)];
    uint32_t same = rig_below(&w->rng, 4) ? n : rig_below(&w->rng, n + 1);
    for (uint32_t i = from; i < n; i++) tokens[i] = i < same ? text[i] : (int32_t)rig_below(&w->rng, 4);
}

static void do_begin(world *w, live *l) {
    pr_err err = {0};
    uint8_t level = (uint8_t)rig_below(&w->rng, LEVELS);
    uint32_t n = 1 + rig_below(&w->rng, TOKENS_MAX);
    *l = (live){.open = true, .owner = rig_below(&w->rng, OWNERS)};
    if (pr_kv_seq_init(&l->seq, w->pool, TOKENS_MAX, &err)) fail_msg("%s", err.text);
    some_tokens(w, l->tokens, 0, n);
    pr_radix_match match = pr_radix_find(w->tree, &owner_names[l->owner], l->tokens, n, level);
    uint32_t want = list_find(w, l->owner, l->tokens, n, level);
    assert_int_equal(match.n_tokens, want);
    w->n_hits += want > 0;
    w->n_parts += want % 32 > 0;
    if (rig_below(&w->rng, 4) == 0) {
        match = pr_radix_whole(match);
        want -= want % 32;
        assert_int_equal(match.n_tokens, want);
    }
    pr_radix_take(w->tree, &match, &l->seq);
    assert_int_equal(l->seq.n_tokens, want);
    assert_int_equal(l->seq.n_pages, (want + 31) / 32);
    check_rows(l);
    for (uint32_t p = 0; p < l->seq.n_pages; p++) {
        entry *e = w->entries;
        while (e < w->entries + POOL_PAGES && !(e->used && e->slot == l->seq.pages[p])) e++;
        assert_true(e < w->entries + POOL_PAGES && e->owner == l->owner && e->level >= level);
        l->level[p] = e->level;
        if (p + 1 == l->seq.n_pages) list_touch(w, e);
    }
}

static void do_evict(world *w, uint32_t n_pages) {
    const live *l = &w->lives[rig_below(&w->rng, SEQS)];
    pr_radix_match match = {0};
    entry *spared = NULL;
    if (l->open && rig_below(&w->rng, 2))
        match = pr_radix_find(w->tree, &owner_names[l->owner], l->tokens, TOKENS_MAX, 0);
    if (match.n_tokens) { /* which entry it ends in, a look at its pages tells */
        live look = {0};
        pr_err err = {0};
        if (pr_kv_seq_init(&look.seq, w->pool, TOKENS_MAX, &err)) fail_msg("%s", err.text);
        pr_radix_take(w->tree, &match, &look.seq);
        for (entry *e = w->entries; e < w->entries + POOL_PAGES; e++)
            if (e->used && e->slot == look.seq.pages[look.seq.n_pages - 1]) spared = e;
        list_touch(w, spared);
        pr_kv_seq_free(&look.seq);
    }
    uint32_t want = list_evict(w, n_pages, spared);
    assert_int_equal(pr_radix_evict(w->tree, n_pages, &match), want);
    if (spared)
        assert_int_equal(pr_radix_find(w->tree, &owner_names[l->owner], l->tokens, TOKENS_MAX, 0).n_tokens,
                         match.n_tokens);
}

static void do_append(world *w, live *l) {
    pr_err err = {0};
    uint32_t n = l->seq.n_tokens, more = 1 + rig_below(&w->rng, 60), last = n / 32;
    uint8_t level = (uint8_t)rig_below(&w->rng, LEVELS);
    if (more > TOKENS_MAX - n) more = TOKENS_MAX - n;
    if (more == 0) return;
    if (pr_kv_seq_reserve(&l->seq, more, &err)) {
        assert_int_equal(err.status, PR_ERR_LIMIT);
        do_evict(w, 1 + rig_below(&w->rng, 4));
        return;
    }
    some_tokens(w, l->tokens, n, n + more);
    for (uint32_t i = n; i < n + more; i++) *row_at(l, i) = row_of(l, i);
    pr_kv_seq_commit(&l->seq, more, level);
    for (uint32_t p = last; p < l->seq.n_pages; p++)
        if (p * 32 >= n || level < l->level[p]) l->level[p] = level;
}

static void do_keep(world *w, live *l) {
    uint32_t n = l->seq.n_tokens, n_added = 0;
    uint8_t level = 255;
    entry *end = NULL;
    if (rig_below(&w->rng, 2)) n -= n % 32;
    for (uint32_t at = 0; at < n; at += 32) {
        uint32_t p = at / 32;
        if (l->level[p] < level) level = l->level[p];
        end = list_keep(w, l, n - at < 32 ? n : at + 32, l->seq.pages[p], level, &n_added);
        if (end->slot == l->seq.pages[p]) l->level[p] = level;
    }
    list_touch(w, end);
    assert_int_equal(pr_radix_insert(w->tree, &owner_names[l->owner], &l->seq, l->tokens, n), n_added);
}

static void do_close(live *l) {
    check_rows(l);
    pr_kv_seq_free(&l->seq);
    *l = (live){0};
}

static void some_operation(world *w) {
    live *l = &w->lives[rig_below(&w->rng, SEQS)];
    uint32_t what = rig_below(&w->rng, 40);
    if (what == 0) {
        pr_radix_clear(w->tree);
        for (size_t i = 0; i < POOL_PAGES; i++) w->entries[i].used = false;
    } else if (what < 4) {
        do_evict(w, rig_below(&w->rng, 6));
    } else if (!l->open) {
        do_begin(w, l);
    } else if (what < 22) {
        do_append(w, l);
    } else if (what < 32) {
        do_keep(w, l);
    } else {
        do_close(l);
    }
}

static void random_world(uint64_t seed, world *w) {
    pr_err err = {0};
    *w = (world){.rng = {seed}};
    if (pr_kv_pool_open(&shape, POOL_PAGES * pr_kv_page_bytes(&shape), &w->pool, &err)) fail_msg("%s", err.text);
    if (pr_radix_open(w->pool, &w->tree, &err)) fail_msg("%s", err.text);
    for (int t = 0; t < TEXTS; t++) { /* each goes on from an earlier one */
        uint32_t same = t ? rig_below(&w->rng, TOKENS_MAX) : 0;
        if (t) memcpy(w->texts[t], w->texts[rig_below(&w->rng, (uint32_t)t)], sizeof w->texts[t]);
        for (uint32_t i = same; i < TOKENS_MAX; i++) w->texts[t][i] = (int32_t)rig_below(&w->rng, 4);
    }
    for (int i = 0; i < 1000; i++) {
        some_operation(w);
        check_world(w);
    }
    for (size_t i = 0; i < SEQS; i++)
        if (w->lives[i].open) do_close(&w->lives[i]);
    check_world(w);
    pr_radix_close(w->tree);
    assert_int_equal(pr_kv_pool_pages_used(w->pool), 0);
    pr_kv_pool_close(w->pool);
}

static void as_the_list_says(void **state) {
    (void)state;
    static world w;
    uint32_t hits = 0, parts = 0, evicted = 0, levels = 0, covered = 0, forced = 0;
    size_t held = pr_mem_total();
    for (uint64_t seed = 1; seed <= 40; seed++) {
        random_world(seed, &w);
        hits += w.n_hits;
        parts += w.n_parts;
        evicted += w.n_evicted;
        levels += w.n_levels;
        covered += w.n_covered;
        forced += w.n_forced;
        assert_int_equal(pr_mem_total(), held);
    }
    /* Each of these was met, or a part of this test tests nothing. */
    if (hits < 1000 || parts < 1000 || evicted < 1000 || levels < 100 || covered < 100 || forced < 20)
        fail_msg("%u hits, %u in part, %u evicted, %u better, %u covered, %u forced", hits, parts, evicted, levels,
                 covered, forced);
}

/* ---- single promises ------------------------------------------------------ */

typedef struct bed {
    pr_kv_pool *pool;
    pr_radix *tree;
} bed;

static const char key;

static bed open_bed(uint32_t n_pages) {
    bed b;
    pr_err err = {0};
    if (pr_kv_pool_open(&shape, n_pages * pr_kv_page_bytes(&shape), &b.pool, &err)) fail_msg("%s", err.text);
    if (pr_radix_open(b.pool, &b.tree, &err)) fail_msg("%s", err.text);
    return b;
}

static void close_bed(bed *b) {
    pr_radix_close(b->tree);
    pr_radix_close(NULL);
    pr_kv_pool_close(b->pool);
}

static pr_kv_seq sequence(bed *b, uint32_t n_tokens, uint8_t level) {
    pr_kv_seq seq;
    pr_err err = {0};
    if (pr_kv_seq_init(&seq, b->pool, 4096, &err) || pr_kv_seq_reserve(&seq, n_tokens, &err)) fail_msg("%s", err.text);
    pr_kv_seq_commit(&seq, n_tokens, level);
    return seq;
}

/* Made, kept and gone. */
static void keep(bed *b, const int32_t *tokens, uint32_t n_tokens, uint8_t level) {
    pr_kv_seq seq = sequence(b, n_tokens, level);
    pr_radix_insert(b->tree, &key, &seq, tokens, n_tokens);
    pr_kv_seq_free(&seq);
}

static uint32_t found(const bed *b, const int32_t *tokens, uint32_t n_tokens, uint8_t level) {
    return pr_radix_find(b->tree, &key, tokens, n_tokens, level).n_tokens;
}

static void count_up(int32_t *tokens, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) tokens[i] = (int32_t)i;
}

/* What rests on a low page is no better than that, whatever its own level and whatever takes the low one's place. */
static void a_page_is_no_better_than_what_it_rests_on(void **state) {
    (void)state;
    bed b = open_bed(16);
    pr_err err = {0};
    int32_t tokens[100];
    count_up(tokens, 100);
    pr_kv_seq seq = sequence(&b, 32, 0);
    assert_int_equal(pr_kv_seq_reserve(&seq, 68, &err), PR_OK);
    pr_kv_seq_commit(&seq, 68, 2);
    assert_int_equal(pr_radix_insert(b.tree, &key, &seq, tokens, 100), 4);
    pr_kv_seq_free(&seq);
    assert_int_equal(found(&b, tokens, 100, 0), 100);
    assert_int_equal(found(&b, tokens, 100, 1), 0);
    keep(&b, tokens, 50, 2); /* takes the first one's place; of the second it has only a beginning, but a better one */
    assert_int_equal(pr_radix_pages(b.tree), 5);
    assert_int_equal(found(&b, tokens, 100, 1), 50);
    assert_int_equal(found(&b, tokens, 100, 0), 100);
    keep(&b, tokens, 70, 1);
    assert_int_equal(found(&b, tokens, 100, 2), 50);
    assert_int_equal(found(&b, tokens, 100, 1), 70);
    keep(&b, tokens, 100, 2);
    assert_int_equal(pr_radix_pages(b.tree), 4);
    assert_int_equal(found(&b, tokens, 100, 2), 100);
    close_bed(&b);
}

/* Pages that running sequences use are not room; those above them that nobody uses are. */
static void room_above_a_page_in_use(void **state) {
    (void)state;
    bed b = open_bed(16);
    int32_t tokens[96], other[64];
    count_up(tokens, 96);
    count_up(other, 64);
    other[40] = 9;
    keep(&b, tokens, 32, 1);
    pr_kv_seq runs = sequence(&b, 96, 1); /* computed by itself: its first page is another than the kept one */
    assert_int_equal(pr_radix_insert(b.tree, &key, &runs, tokens, 96), 2);
    pr_kv_seq also = sequence(&b, 64, 1);
    assert_int_equal(pr_radix_insert(b.tree, &key, &also, other, 64), 1);
    assert_int_equal(pr_kv_pool_pages_used(b.pool), 6);
    pr_radix_match match = pr_radix_find(b.tree, &key, tokens, 96, 0);
    assert_int_equal(pr_radix_evict(b.tree, 1, &match), 0); /* the path is spared, and beside it is nothing to be had */
    assert_int_equal(pr_radix_pages(b.tree), 4);
    assert_int_equal(pr_radix_evict(b.tree, 5, NULL), 1);
    assert_int_equal(pr_radix_pages(b.tree), 0);
    assert_int_equal(pr_kv_pool_pages_used(b.pool), 5);
    assert_false(pr_radix_has(b.tree, &key));
    pr_kv_seq_free(&runs);
    pr_kv_seq_free(&also);
    close_bed(&b);
}

/* Thousands of prompts with one beginning, in no order: each is found, and the nearest one to what is not there. */
static void many_children(void **state) {
    (void)state;
    enum { MANY = 3000 };
    bed b = open_bed(MANY + 2);
    int32_t tokens[64];
    count_up(tokens, 64);
    for (uint32_t i = 0; i < MANY; i++) {
        tokens[32] = (int32_t)(i * 7919 % MANY);
        tokens[50] = tokens[32] * 2;
        keep(&b, tokens, 64, 1);
    }
    assert_int_equal(pr_radix_pages(b.tree), MANY + 1);
    uint64_t count = pr_mem_count();
    for (int32_t i = 0; i < MANY; i++) {
        tokens[32] = i;
        tokens[50] = 2 * i;
        assert_int_equal(found(&b, tokens, 64, 1), 64);
        assert_int_equal(found(&b, tokens, 63, 1), 63);
        tokens[50] = 2 * i + 1;
        assert_int_equal(found(&b, tokens, 64, 1), 50);
    }
    tokens[32] = -1;
    assert_int_equal(found(&b, tokens, 64, 1), 32);
    assert_int_equal(pr_mem_count(), count);
    assert_int_equal(pr_radix_evict(b.tree, MANY, NULL), MANY); /* the oldest leaves: all but what they hang on */
    assert_int_equal(found(&b, tokens, 64, 1), 32);
    close_bed(&b);
}

/* Whichever request fails, less is kept, and what is kept is whole. */
static void every_failing_request(void **state) {
    (void)state;
    size_t held = pr_mem_total();
    pr_err err = {0};
    int32_t tokens[120], other[120];
    count_up(tokens, 120);
    memcpy(other, tokens, sizeof other);
    other[70] = 1;
    bool through = false;
    for (int64_t after = 0; !through; after++) {
        assert_true(after < 100);
        bed b = open_bed(16);
        pr_kv_seq one = sequence(&b, 120, 1), two = sequence(&b, 120, 1);
        pr_mem_fail_after(after, after % 2);
        pr_radix *tree = NULL;
        pr_status st = pr_radix_open(b.pool, &tree, &err);
        uint32_t n = 0;
        if (!st) {
            n = pr_radix_insert(tree, &key, &one, tokens, 120);
            n += pr_radix_insert(tree, &key, &two, other, 120);
        }
        through = !pr_mem_failed();
        pr_mem_fail_after(-1, false);
        assert_int_equal(st, tree ? PR_OK : PR_ERR_NOMEM);
        if (through) assert_int_equal(n, 6);
        pr_kv_seq_free(&one);
        pr_kv_seq_free(&two);
        assert_int_equal(pr_kv_pool_pages_used(b.pool), n);
        if (tree) {
            assert_int_equal(pr_radix_pages(tree), n);
            assert_int_equal(pr_radix_has(tree, &key), n > 0);
            uint32_t in_both = pr_radix_find(tree, &key, tokens, 120, 1).n_tokens;
            assert_true(in_both <= 120 && (n == 0) == (in_both == 0));
            assert_int_equal(pr_radix_evict(tree, 100, NULL), n);
        }
        pr_radix_close(tree);
        close_bed(&b);
        assert_int_equal(pr_mem_total(), held);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_the_list_says),         cmocka_unit_test(a_page_is_no_better_than_what_it_rests_on),
        cmocka_unit_test(room_above_a_page_in_use), cmocka_unit_test(many_children),
        cmocka_unit_test(every_failing_request),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
