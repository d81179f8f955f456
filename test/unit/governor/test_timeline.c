#include "governor/timeline.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"

static pr_timeline *open_ring(uint32_t capacity) {
    pr_timeline *t;
    pr_err err = {0};
    assert_int_equal(pr_timeline_open(capacity, &t, &err), PR_OK);
    return t;
}

static uint64_t add(pr_timeline *t, uint32_t cursor) {
    pr_timeline_entry e = {.time = cursor, .from = PR_LEVEL_FP16, .to = PR_LEVEL_INT4, .cursor = cursor};
    snprintf(e.model, sizeof e.model, "model %u", cursor);
    snprintf(e.reason, sizeof e.reason, "because of %u", cursor);
    return pr_timeline_append(t, &e);
}

static void reads_in_order(void **state) {
    (void)state;
    pr_timeline *t = open_ring(8);
    pr_timeline_entry out[8];
    uint64_t missed = 9;
    assert_int_equal(pr_timeline_last(t), 0);
    assert_int_equal(pr_timeline_read(t, 0, out, 8, &missed), 0);
    assert_int_equal(missed, 0);
    for (uint32_t i = 1; i <= 5; i++) assert_int_equal(add(t, i), i);
    assert_int_equal(pr_timeline_read(t, 0, out, 2, &missed), 2);
    assert_int_equal(pr_timeline_read(t, 2, out + 2, 8, NULL), 3);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(out[i].seq, i + 1);
        assert_int_equal(out[i].cursor, i + 1);
        assert_int_equal(out[i].to, PR_LEVEL_INT4);
    }
    assert_string_equal(out[4].model, "model 5");
    assert_string_equal(out[4].reason, "because of 5");
    assert_int_equal(pr_timeline_read(t, 5, out, 8, &missed), 0);
    assert_int_equal(pr_timeline_read(t, 99, out, 8, &missed), 0);
    assert_int_equal(missed, 0);
    assert_int_equal(pr_timeline_last(t), 5);
    pr_timeline_close(t);
}

static void wraps_around(void **state) {
    (void)state;
    for (uint32_t capacity = 1; capacity <= 5; capacity++) {
        pr_timeline *t = open_ring(capacity);
        pr_timeline_entry out[8];
        for (uint32_t i = 1; i <= 23; i++) {
            add(t, i);
            uint64_t missed, held = i < capacity ? i : capacity;
            assert_int_equal(pr_timeline_read(t, 0, out, 8, &missed), held);
            assert_int_equal(missed, i - held);
            assert_int_equal(out[0].seq, i - held + 1);
            assert_int_equal(out[held - 1].seq, i);
            assert_int_equal(out[held - 1].cursor, i);
        }
        pr_timeline_close(t);
    }
}

static void long_texts_are_cut_at_a_character(void **state) {
    (void)state;
    pr_timeline *t = open_ring(2);
    pr_timeline_entry e = {.seq = 77}, out;
    memset(e.model, 'm', sizeof e.model);
    for (size_t i = 0; i + 1 < sizeof e.reason; i += 2) memcpy(e.reason + i, "\xc3\xa9", 2);
    e.reason[sizeof e.reason - 1] = '\xc3';
    assert_int_equal(pr_timeline_append(t, &e), 1);
    assert_int_equal(pr_timeline_read(t, 0, &out, 1, NULL), 1);
    assert_int_equal(out.seq, 1);
    assert_int_equal(strlen(out.model), sizeof out.model - 1);
    assert_int_equal(strlen(out.reason), sizeof out.reason - 1);
    e.reason[0] = 'x';
    memmove(e.reason + 1, out.reason, sizeof e.reason - 1); /* now a character straddles the end */
    e.reason[sizeof e.reason - 1] = '\xc3';
    pr_timeline_append(t, &e);
    assert_int_equal(pr_timeline_read(t, 1, &out, 1, NULL), 1);
    assert_int_equal(strlen(out.reason), sizeof out.reason - 2);
    pr_timeline_close(t);
}

static void out_of_memory(void **state) {
    (void)state;
    size_t before = pr_mem_total();
    pr_timeline *t;
    pr_err err = {0};
    for (int i = 0; i < 2; i++) {
        pr_mem_fail_after(i, false);
        assert_int_equal(pr_timeline_open(4, &t, &err), PR_ERR_NOMEM);
        assert_null(t);
    }
    pr_mem_fail_after(-1, false);
    assert_int_equal(pr_timeline_open(0, &t, &err), PR_ERR_ARG);
    pr_timeline_close(NULL);
    assert_int_equal(pr_mem_total(), before);
}

/* ---- threads ------------------------------------------------------------- */

enum { WRITERS = 3, EACH = 3000 };

static atomic_int writers_left;

static void *write_many(void *arg) {
    for (uint32_t i = 0; i < EACH; i++) add(arg, i);
    atomic_fetch_sub(&writers_left, 1);
    return NULL;
}

static void *read_all(void *arg) {
    static _Thread_local pr_timeline_entry out[16];
    uint64_t after = 0, missed, read = 0, lost = 0;
    for (bool last = false; !last;) {
        last = atomic_load(&writers_left) == 0; /* then one more time */
        size_t n;
        while ((n = pr_timeline_read(arg, after, out, 16, &missed)) > 0) {
            lost += missed;
            read += n;
            for (size_t i = 0; i < n; i++) {
                if (out[i].seq != after + missed + 1 + i) return "out of order";
                char want[32];
                snprintf(want, sizeof want, "because of %u", out[i].cursor);
                if (strcmp(out[i].reason, want) != 0) return "torn";
            }
            after = out[n - 1].seq;
        }
    }
    return read + lost == (uint64_t)WRITERS * EACH ? NULL : "incomplete";
}

static void many_threads(void **state) {
    (void)state;
    pr_timeline *t = open_ring(64);
    pthread_t writers[WRITERS], readers[2];
    atomic_store(&writers_left, WRITERS);
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&readers[i], NULL, read_all, t), 0);
    for (int i = 0; i < WRITERS; i++) assert_int_equal(pthread_create(&writers[i], NULL, write_many, t), 0);
    for (int i = 0; i < WRITERS; i++) pthread_join(writers[i], NULL);
    for (int i = 0; i < 2; i++) {
        void *complaint;
        pthread_join(readers[i], &complaint);
        if (complaint) fail_msg("%s", (const char *)complaint);
    }
    assert_int_equal(pr_timeline_last(t), (uint64_t)WRITERS * EACH);
    pr_timeline_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_in_order),
        cmocka_unit_test(wraps_around),
        cmocka_unit_test(long_texts_are_cut_at_a_character),
        cmocka_unit_test(out_of_memory),
        cmocka_unit_test(many_threads),
    };
    return cmocka_run_group_tests_name("timeline", tests, NULL, NULL);
}
