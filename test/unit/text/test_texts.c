/* Texts of models made ready once: shared, bounded, cleared, and never wrong (texts.c). */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "text/texts.h"

static pr_texts *open_texts(void) {
    pr_texts *t = NULL;
    assert_int_equal(pr_texts_open(&t, NULL), PR_OK);
    return t;
}

static pr_texts_stats stats_of(pr_texts *t) {
    pr_texts_stats s;
    pr_texts_stats_get(t, &s);
    return s;
}

static pr__pattern *pattern_of(pr_texts *t, const char *text) {
    pr__pattern *p = NULL;
    pr_err err = {0};
    if (pr__texts_pattern(t, text, &p, &err)) fail_msg("%s", err.text);
    assert_non_null(p);
    return p;
}

static pr_status count_piece(void *arg, const char *piece, size_t len, pr_err *err) {
    (void)piece, (void)len, (void)err;
    ++*(size_t *)arg;
    return PR_OK;
}

/* How many pieces a pre-tokenizer of one pattern cuts a text into. */
static size_t pieces_of(const pr_pretok *p, const char *text) {
    pr_pretok_run *run = NULL;
    size_t n = 0;
    assert_int_equal(pr__pretok_run_open(p, &run, NULL), PR_OK);
    assert_int_equal(pr__pretok_split(run, text, strlen(text), count_piece, &n, NULL), PR_OK);
    pr__pretok_run_close(run);
    return n;
}

static void a_pattern_is_compiled_once(void **state) {
    (void)state;
    pr_texts *t = open_texts();
    pr__pattern *a = pattern_of(t, "[0-9]+"), *b = pattern_of(t, "[0-9]+"), *c = pattern_of(t, "[0-9]*");
    assert_ptr_equal(a, b);
    assert_ptr_not_equal(a, c);
    pr_texts_stats s = stats_of(t);
    assert_int_equal(s.hits, 1);
    assert_int_equal(s.misses, 2);
    assert_int_equal(s.insertions, 2);
    assert_int_equal(s.entries, 2);
    assert_true(s.bytes >= pr__pattern_bytes(a) + pr__pattern_bytes(c));
    pr__pattern_unref(a);
    pr__pattern_unref(b);
    pr__pattern_unref(c);
    pr_texts_close(t);
}

/* What was refused is refused again, with the same words, and is not kept. */
static void a_bad_pattern_stays_bad(void **state) {
    (void)state;
    pr_texts *t = open_texts();
    for (int i = 0; i < 2; i++) {
        pr__pattern *p = NULL;
        pr_err err = {0};
        assert_int_equal(pr__texts_pattern(t, "a(b", &p, &err), PR_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.text, "a(b"));
        assert_null(p);
    }
    assert_int_equal(stats_of(t).entries, 0);
    assert_int_equal(stats_of(t).misses, 2);
    pr_texts_close(t);
}

static const char chatml[] = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
                             "message['content'] + '<|im_end|>' + '\n'}}"
                             "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

static void a_template_is_recognised_once(void **state) {
    (void)state;
    pr_texts *t = open_texts();
    const pr_chat_template *direct = pr_chat_detect(chatml);
    assert_non_null(direct);
    assert_ptr_equal(pr__texts_template(t, chatml), direct);
    assert_ptr_equal(pr__texts_template(t, chatml), direct);
    assert_null(pr__texts_template(t, "{{ unknown }}")); /* that it is unknown is kept, too */
    assert_null(pr__texts_template(t, "{{ unknown }}"));
    pr__pattern *same_text = pattern_of(t, "unknown"); /* a pattern is no template */
    assert_null(pr__texts_template(t, "unknown"));
    assert_null(pr__texts_template(t, NULL));
    assert_ptr_equal(pr__texts_template(NULL, chatml), direct);
    pr_texts_stats s = stats_of(t);
    assert_int_equal(s.hits, 2);
    assert_int_equal(s.misses, 4);
    pr__pattern_unref(same_text);
    pr_texts_close(t);
}

/* A vocabulary's patterns work after the cache has been cleared and closed. */
static void what_is_in_use_outlives_the_cache(void **state) {
    (void)state;
    size_t before = pr_mem_total();
    pr_texts *t = open_texts();
    pr__pre_step step = {"[0-9]+", PR__MATCH};
    pr_pretok *p = NULL, *again = NULL;
    assert_int_equal(pr__pretok_build(&step, 1, t, &p, NULL), PR_OK);
    assert_true(pr_texts_clear(t) > 0);
    assert_int_equal(stats_of(t).entries, 0);
    assert_int_equal(stats_of(t).bytes, 0);
    assert_int_equal(stats_of(t).cleared, 1);
    assert_int_equal(pr__pretok_build(&step, 1, t, &again, NULL), PR_OK); /* compiled anew */
    assert_int_equal(stats_of(t).misses, 2);
    pr__pretok_free(again);
    pr_texts_close(t);
    assert_int_equal(pieces_of(p, "a12b3"), 4);
    pr__pretok_free(p);
    assert_int_equal(pr_mem_total(), before);
}

/* The one that was used longest ago goes; bytes and entries stay within their bounds and are those that are there. */
static void room_is_made_at_the_old_end(void **state) {
    (void)state;
    pr_texts *t = open_texts();
    uint32_t most = stats_of(t).entries_max;
    char text[32];
    for (uint32_t i = 0; i < most; i++) {
        snprintf(text, sizeof text, "x{%u}", i + 1);
        pr__pattern_unref(pattern_of(t, text));
    }
    assert_int_equal(stats_of(t).evictions, 0);
    pr__pattern_unref(pattern_of(t, "x{1}")); /* used: now x{2} is the oldest */
    pr__pattern_unref(pattern_of(t, "y"));
    assert_int_equal(stats_of(t).evictions, 1);
    assert_int_equal(stats_of(t).entries, most);
    uint64_t hits = stats_of(t).hits;
    pr__pattern_unref(pattern_of(t, "x{1}"));
    assert_int_equal(stats_of(t).hits, hits + 1);
    pr__pattern_unref(pattern_of(t, "x{2}"));
    assert_int_equal(stats_of(t).hits, hits + 1);
    pr_texts_close(t);
}

static void bytes_are_bounded(void **state) {
    (void)state;
    pr_texts *t = open_texts();
    size_t most = stats_of(t).bytes_max, len = most / 5;
    char *text = malloc(most);
    assert_non_null(text);
    memset(text, 'a', most);
    for (int i = 0; i < 12; i++) {
        text[0] = (char)('a' + i);
        text[len] = '\0';
        assert_null(pr__texts_template(t, text));
        assert_true(stats_of(t).bytes <= most);
    }
    assert_int_equal(stats_of(t).entries, 4);
    assert_int_equal(stats_of(t).evictions, 8);
    text[len] = 'a';
    text[most / 4] = '\0'; /* too large a part of it: recognised all the same, not kept */
    assert_null(pr__texts_template(t, text));
    assert_int_equal(stats_of(t).refused, 1);
    assert_int_equal(stats_of(t).entries, 4);
    free(text);
    pr_texts_close(t);
}

/* No memory to keep a text: whoever asked has it nevertheless, or an ordinary error. */
static void without_memory(void **state) {
    (void)state;
    size_t before = pr_mem_total();
    int failed = 0, made = 0;
    for (int64_t n = 0;; n++) {
        pr_texts *t = open_texts();
        pr__pattern *p = NULL;
        pr_err err = {0};
        pr_mem_fail_after(n, true);
        pr_status st = pr__texts_pattern(t, "(\\p{L}+|[0-9]{1,3})", &p, &err);
        bool injected = pr_mem_failed();
        pr_mem_fail_after(-1, false);
        if (st) failed++, assert_int_equal(st, PR_ERR_NOMEM), assert_null(p);
        else made++;
        assert_int_equal(stats_of(t).entries + stats_of(t).refused, st ? 0 : 1);
        if (!injected) assert_int_equal(stats_of(t).entries, 1);
        pr__pattern_unref(p);
        pr_texts_close(t);
        if (!injected) break;
    }
    assert_true(failed > 3);
    assert_true(made >= 2); /* kept, and not kept */
    assert_int_equal(pr_mem_total(), before);
}

enum { THREADS = 4, ROUNDS = 400, TEXTS = 100 };

static void *worker(void *arg) {
    pr_texts *t = arg;
    unsigned rng = (unsigned)(uintptr_t)&rng;
    for (int i = 0; i < ROUNDS; i++) {
        char text[32];
        rng = rng * 1664525 + 1013904223;
        snprintf(text, sizeof text, "z{%u}", 1 + (rng >> 16) % TEXTS);
        pr__pre_step step = {text, PR__MATCH};
        pr_pretok *p = NULL;
        if (pr__pretok_build(&step, 1, t, &p, NULL)) return "not built";
        if (pieces_of(p, "zz") != ((rng >> 16) % TEXTS == 0 ? 2 : 1)) return "another's pattern";
        pr__pretok_free(p);
        if (pr__texts_template(t, chatml) != pr_chat_detect(chatml)) return "another's template";
        if (i % 50 == 0) pr_texts_clear(t);
    }
    return NULL;
}

static void threads_share_it(void **state) {
    (void)state;
    pr_texts *t = open_texts();
    pthread_t ids[THREADS];
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&ids[i], NULL, worker, t), 0);
    for (int i = 0; i < THREADS; i++) {
        void *wrong = NULL;
        pthread_join(ids[i], &wrong);
        if (wrong) fail_msg("%s", (const char *)wrong);
    }
    pr_texts_stats s = stats_of(t);
    assert_int_equal(s.hits + s.misses, 2 * THREADS * ROUNDS);
    assert_int_equal(s.insertions, s.misses);
    assert_int_equal(s.insertions, s.evictions + s.cleared + s.entries);
    pr_texts_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pattern_is_compiled_once),
        cmocka_unit_test(a_bad_pattern_stays_bad),
        cmocka_unit_test(a_template_is_recognised_once),
        cmocka_unit_test(what_is_in_use_outlives_the_cache),
        cmocka_unit_test(room_is_made_at_the_old_end),
        cmocka_unit_test(bytes_are_bounded),
        cmocka_unit_test(without_memory),
        cmocka_unit_test(threads_share_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
