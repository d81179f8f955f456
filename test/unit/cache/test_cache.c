/*
 * The cache: what it gives, what it drops and when, in the ledger and from many threads; and the keys.
 */
#include "cache/cache.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static pr_cache_key key_of(uint64_t n) {
    pr_cache_hash h;
    pr_cache_key key;
    pr_cache_hash_begin(&h);
    pr_cache_hash_u64(&h, n);
    assert_true(pr_cache_hash_end(&h, &key));
    return key;
}

static pr_cache *open_cache(size_t bytes, uint32_t entries, double ttl) {
    pr_cache *c;
    pr_err err = {0};
    assert_int_equal(pr_cache_open(&(pr_cache_opts){bytes, entries, ttl}, &c, &err), PR_OK);
    return c;
}

/* Put a text of n bytes that says which key it is of. */
static bool put(pr_cache *c, uint64_t n, size_t len, double now) {
    char *text = pr_calloc(PR_TAG_MISC, 1, len);
    pr_cache_key key = key_of(n);
    if (len >= sizeof n) memcpy(text, &n, sizeof n);
    pr_blob *b = pr_blob_new(text, len);
    assert_non_null(b);
    bool kept = pr_cache_put(c, &key, b, now);
    pr_blob_unref(b);
    pr_free(text);
    return kept;
}

static bool has(pr_cache *c, uint64_t n, double now) {
    pr_cache_key key = key_of(n);
    size_t len;
    pr_blob *b = pr_cache_get(c, &key, now, INFINITY, NULL);
    if (b && pr_blob_data(b, &len)) assert_memory_equal(pr_blob_data(b, &len), &n, sizeof n);
    pr_blob_unref(b);
    return b != NULL;
}

static pr_cache_stats stats_of(pr_cache *c) {
    pr_cache_stats s;
    pr_cache_stats_get(c, &s);
    return s;
}

static void gives_what_was_put(void **state) {
    (void)state;
    size_t before = pr_mem_bytes(PR_TAG_CACHE);
    pr_cache *c = open_cache(1 << 20, 8, 60);
    pr_cache_key key = key_of(1);
    double age = -1;
    assert_false(has(c, 1, 0));
    assert_true(put(c, 1, 100, 10));
    pr_blob *b = pr_cache_get(c, &key, 14, INFINITY, &age);
    assert_non_null(b);
    assert_float_equal(age, 4, 1e-9);
    size_t len;
    pr_blob_data(b, &len);
    assert_int_equal(len, 100);
    pr_blob_unref(b);
    assert_null(pr_cache_get(c, &key, 14, 3, NULL)); /* too old for who asks, and kept for others */
    assert_true(has(c, 1, 14));
    pr_cache_stats s = stats_of(c);
    assert_int_equal(s.hits, 2);
    assert_int_equal(s.misses, 2);
    assert_int_equal(s.insertions, 1);
    assert_int_equal(s.entries, 1);
    assert_in_range(s.bytes, 100, 300);
    assert_true(pr_mem_bytes(PR_TAG_CACHE) > before + s.bytes); /* all slots are counted, used or not */
    pr_cache_close(c);
    assert_int_equal(pr_mem_bytes(PR_TAG_CACHE), before);
}

static void a_blob_outlives_its_entry(void **state) {
    (void)state;
    pr_cache *c = open_cache(1 << 20, 8, 60);
    pr_cache_key key = key_of(7);
    assert_true(put(c, 7, 64, 0));
    pr_blob *b = pr_cache_get(c, &key, 0, INFINITY, NULL);
    assert_true(pr_cache_clear(c) > 64);
    assert_false(has(c, 7, 0));
    pr_cache_close(c);
    size_t len;
    uint64_t n = 7;
    assert_memory_equal(pr_blob_data(b, &len), &n, sizeof n);
    pr_blob_unref(b);
}

static void the_least_recently_used_goes(void **state) {
    (void)state;
    pr_cache *c = open_cache(1 << 20, 3, 60);
    for (uint64_t n = 1; n <= 3; n++) put(c, n, 16, 0);
    assert_true(has(c, 1, 0)); /* used: 2 is the oldest now */
    put(c, 4, 16, 0);
    assert_false(has(c, 2, 0));
    assert_true(has(c, 3, 0) && has(c, 1, 0) && has(c, 4, 0));
    put(c, 3, 16, 0); /* takes its own place */
    put(c, 5, 16, 0);
    assert_false(has(c, 1, 0));
    assert_int_equal(stats_of(c).evictions, 2);
    assert_int_equal(stats_of(c).entries, 3);
    pr_cache_close(c);
}

static void bytes_bound_it(void **state) {
    (void)state;
    pr_cache *c = open_cache(10000, 1000, 60);
    for (uint64_t n = 1; n <= 100; n++) {
        assert_true(put(c, n, 900, 0));
        assert_true(stats_of(c).bytes <= 10000);
        assert_true(has(c, n, 0));
    }
    assert_in_range(stats_of(c).entries, 8, 11);
    assert_false(put(c, 200, 20000, 0)); /* never */
    assert_false(put(c, 201, 5000, 0));  /* not at the price of half of the others */
    assert_true(has(c, 100, 0));
    assert_false(put(c, 100, 20000, 0)); /* what it had is out of date all the same */
    assert_false(has(c, 100, 0));
    assert_int_equal(stats_of(c).refused, 3);
    pr_cache_clear(c);
    assert_int_equal(stats_of(c).bytes, 0);
    assert_true(put(c, 201, 5000, 0)); /* nobody has to go for it */
    pr_cache_close(c);
}

static void time_bounds_it(void **state) {
    (void)state;
    pr_cache *c = open_cache(1 << 20, 8, 60);
    put(c, 1, 16, 100);
    put(c, 2, 16, 130);
    assert_true(has(c, 1, 159.9));
    assert_false(has(c, 1, 160)); /* being used has not made it younger */
    assert_int_equal(stats_of(c).expired, 1);
    assert_true(pr_cache_sweep(c, 189) == 0);
    assert_true(pr_cache_sweep(c, 190) > 0);
    assert_int_equal(stats_of(c).expired, 2);
    assert_int_equal(stats_of(c).entries, 0);
    pr_cache_close(c);
}

static void without_room_it_keeps_nothing(void **state) {
    (void)state;
    const pr_cache_opts none[] = {{0, 8, 60}, {1000, 0, 60}};
    for (int i = 0; i < 2; i++) {
        pr_cache *c = open_cache(none[i].bytes_max, none[i].entries_max, 60);
        assert_false(put(c, 1, 16, 0));
        assert_false(has(c, 1, 0));
        assert_int_equal(pr_cache_clear(c), 0);
        pr_cache_close(c);
    }
    pr_cache *c;
    pr_err err = {0};
    assert_int_equal(pr_cache_open(&(pr_cache_opts){1, UINT32_MAX, 60}, &c, &err), PR_ERR_LIMIT);
}

static void lives_without_memory(void **state) {
    (void)state;
    pr_cache *c;
    pr_err err = {0};
    size_t before = pr_mem_total();
    for (int n = 0; n < 3; n++) {
        pr_mem_fail_after(n, false);
        assert_int_equal(pr_cache_open(&(pr_cache_opts){1000, 8, 60}, &c, &err), PR_ERR_NOMEM);
        assert_int_equal(pr_mem_total(), before);
    }
    pr_mem_fail_after(0, false);
    assert_null(pr_blob_new("x", 1));
    pr_mem_fail_after(-1, false);
    c = open_cache(1 << 20, 8, 60);
    pr_blob *b = pr_blob_new("12345678", 8);
    pr_cache_key key = key_of(1);
    pr_mem_fail_after(0, true); /* nothing of it allocates */
    assert_true(pr_cache_put(c, &key, b, 0));
    pr_blob *again = pr_cache_get(c, &key, 0, INFINITY, NULL);
    pr_mem_fail_after(-1, false);
    assert_ptr_equal(again, b);
    pr_blob_unref(again);
    pr_blob_unref(b);
    pr_cache_close(c);
}

/* Against a list that is searched from end to end. */
static void agrees_with_a_plain_list(void **state) {
    enum { ENTRIES = 16, KEYS = 40, STEPS = 20000 };
    (void)state;
    pr_cache *c = open_cache(1 << 20, ENTRIES, 50);
    struct {
        uint64_t key;
        double put_at;
    } list[ENTRIES + 1]; /* newest first */
    int n = 0;
    srand(1);
    for (int step = 0; step < STEPS; step++) {
        uint64_t key = (uint64_t)rand() % KEYS;
        double now = step / 8.0;
        int at = 0;
        while (at < n && list[at].key != key) at++;
        bool known = at < n && now - list[at].put_at < 50;
        double put_at = known ? list[at].put_at : now;
        bool puts = rand() % 3 == 0;
        if (puts) put(c, key, 32, now);
        else assert_int_equal(has(c, key, now), known);
        if (at < n) memmove(&list[at], &list[at + 1], (size_t)(--n - at) * sizeof *list);
        if (!puts && !known) continue;
        memmove(&list[1], &list[0], (size_t)n * sizeof *list);
        list[0].key = key;
        list[0].put_at = puts ? now : put_at;
        if (n < ENTRIES) n++;
        if (rand() % 1000 == 0) pr_cache_clear(c), n = 0;
        assert_int_equal(stats_of(c).entries, n);
    }
    pr_cache_close(c);
}

/* ---- many threads ------------------------------------------------------ */

static void *worker(void *arg) {
    pr_cache *c = arg;
    unsigned seed = (unsigned)(uintptr_t)&seed;
    for (int i = 0; i < 3000; i++) {
        uint64_t n = (uint64_t)rand_r(&seed) % 30;
        pr_cache_key key = key_of(n);
        size_t len;
        pr_blob *b = pr_cache_get(c, &key, i / 100.0, INFINITY, NULL);
        if (b && (pr_blob_data(b, &len) == NULL || memcmp(pr_blob_data(b, &len), &n, sizeof n) != 0)) return c;
        if (!b) {
            b = pr_blob_new(&n, sizeof n);
            pr_cache_put(c, &key, b, i / 100.0);
        }
        pr_blob_unref(b);
        if (i % 500 == 0) pr_cache_clear(c);
        if (i % 300 == 0) pr_cache_sweep(c, i / 100.0);
    }
    return NULL;
}

static void many_threads_at_once(void **state) {
    enum { THREADS = 4 };
    (void)state;
    pthread_t threads[THREADS];
    size_t before = pr_mem_bytes(PR_TAG_CACHE);
    pr_cache *c = open_cache(1 << 20, 16, 10);
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, worker, c), 0);
    for (int i = 0; i < THREADS; i++) {
        void *bad;
        pthread_join(threads[i], &bad);
        assert_null(bad);
    }
    pr_cache_stats s = stats_of(c);
    assert_int_equal(s.hits + s.misses, THREADS * 3000);
    assert_true(s.entries + s.evictions + s.expired + s.cleared <= s.insertions); /* the rest took a key's place */
    assert_int_equal(s.refused, 0);
    pr_cache_close(c);
    assert_int_equal(pr_mem_bytes(PR_TAG_CACHE), before);
}

/* ---- keys -------------------------------------------------------------- */

static pr_cache_key two(const char *a, const char *b) {
    pr_cache_hash h;
    pr_cache_key key;
    pr_cache_hash_begin(&h);
    pr_cache_hash_text(&h, a);
    pr_cache_hash_text(&h, b);
    assert_true(pr_cache_hash_end(&h, &key));
    return key;
}

static void keys_tell_borders_apart(void **state) {
    (void)state;
    const char *const pairs[][2] = {{"ab", "c"}, {"a", "bc"}, {"abc", ""}, {"", "abc"}, {"abc", NULL}, {NULL, "abc"}};
    enum { N = sizeof pairs / sizeof *pairs };
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            pr_cache_key a = two(pairs[i][0], pairs[i][1]), b = two(pairs[j][0], pairs[j][1]);
            assert_int_equal(memcmp(&a, &b, sizeof a) == 0, i == j);
        }
    }
    /* It is SHA-256: of the length 8, then 0, eight bytes each. */
    static const pr_cache_key zero = {{0x85, 0xb7, 0x24, 0xe3, 0xf6, 0xe2, 0xdd, 0x26, 0x48, 0xa6, 0x96,
                                       0x59, 0x5e, 0xb6, 0x37, 0xb2, 0x34, 0xdc, 0xec, 0xc5, 0xcb, 0x77,
                                       0x0a, 0x5a, 0xfb, 0xf0, 0x92, 0x63, 0x41, 0xeb, 0xdf, 0xb4}};
    pr_cache_key key = key_of(0);
    assert_memory_equal(&key, &zero, sizeof key);
}

static void numbers_are_keys_too(void **state) {
    (void)state;
    pr_cache_hash h;
    pr_cache_key k[3];
    const float x[] = {0.0F, -0.0F, 0.7F};
    for (int i = 0; i < 3; i++) {
        pr_cache_hash_begin(&h);
        pr_cache_hash_f32(&h, x[i]);
        assert_true(pr_cache_hash_end(&h, &k[i]));
    }
    assert_memory_equal(&k[0], &k[1], sizeof *k);
    assert_memory_not_equal(&k[0], &k[2], sizeof *k);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_what_was_put),
        cmocka_unit_test(a_blob_outlives_its_entry),
        cmocka_unit_test(the_least_recently_used_goes),
        cmocka_unit_test(bytes_bound_it),
        cmocka_unit_test(time_bounds_it),
        cmocka_unit_test(without_room_it_keeps_nothing),
        cmocka_unit_test(lives_without_memory),
        cmocka_unit_test(agrees_with_a_plain_list),
        cmocka_unit_test(many_threads_at_once),
        cmocka_unit_test(keys_tell_borders_apart),
        cmocka_unit_test(numbers_are_keys_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
