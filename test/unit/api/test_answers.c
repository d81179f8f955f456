/*
 * Questions: what shares an answer, and what never does; and the header by which a client says what it wants.
 */
#include "api/answers.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/caches.h"

static const pr_cache_control plain = {.age_max = INFINITY};

static pr_api *open_api(uint64_t mb, uint32_t recent) {
    pr_api *api = pr_calloc(PR_TAG_MISC, 1, sizeof *api);
    pr_err err = {0};
    assert_non_null(api);
    pr_settings_defaults(&api->settings);
    api->settings.response_cache_mb = mb;
    api->settings.recent_cache = recent;
    assert_int_equal(pr__caches_open(api, &err), PR_OK);
    return api;
}

static void close_api(pr_api *api) {
    pr__caches_close(api);
    pr_free(api);
}

static pr__question ask(const pr_api *api, const char *body, pr_ask kind, const char *model, const char *key,
                        const pr_cache_control *control) {
    pr_params p;
    pr__question q;
    char param[PR_PARAM_NAME];
    pr_err err = {0};
    pr_status st = pr_params_parse(body, strlen(body), kind, &p, param, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(st, PR_OK);
    pr__question_ask(api, &p, kind, model, key, control, &q);
    pr_params_free(&p);
    return q;
}

static pr__question text(const pr_api *api, const char *body) {
    return ask(api, body, PR_ASK_COMPLETION, "m", "k", &plain);
}

static bool same(const pr__question *a, const pr__question *b) { return !memcmp(&a->key, &b->key, sizeof a->key); }

/* ---- every difference counts ------------------------------------------- */

/* Each line: values of one field that are all different questions; the first one is what every other body has. */
static const char *const fields[][4] = {
    {"\"prompt\":\"ab\"", "\"prompt\":\"ab \"", "\"prompt\":[\"a\",\"b\"]", "\"prompt\":[1,2]"},
    {"\"max_tokens\":9", "\"max_tokens\":8", NULL},
    {"\"n\":1", "\"n\":2", NULL},
    {"\"temperature\":0.7", "\"temperature\":0", "\"temperature\":0.70001", NULL},
    {"\"seed\":1", "\"seed\":2", "\"seed\":null", NULL},
    {"\"top_p\":0.9", "\"top_p\":0.8", NULL},
    {"\"top_k\":50", "\"top_k\":49", "\"top_k\":1", NULL},
    {"\"min_p\":0", "\"min_p\":0.1", NULL},
    {"\"repetition_penalty\":1.1", "\"repetition_penalty\":1", NULL},
    {"\"presence_penalty\":0", "\"presence_penalty\":0.5", NULL},
    {"\"frequency_penalty\":0", "\"frequency_penalty\":0.5", NULL},
    {"\"no_repeat_ngram_size\":0", "\"no_repeat_ngram_size\":3", NULL},
    {"\"stop\":[]", "\"stop\":[\"x\"]", "\"stop\":[\"x\",\"y\"]", "\"stop\":[\"xy\"]"},
    {"\"logit_bias\":{}", "\"logit_bias\":{\"1\":2}", "\"logit_bias\":{\"2\":1}", "\"logit_bias\":{\"1\":2,\"2\":1}"},
    {"\"logprobs\":null", "\"logprobs\":0", "\"logprobs\":2", NULL},
    {"\"task_priority\":\"balanced\"", "\"task_priority\":\"speed\"", "\"task_priority\":\"quality\"", NULL},
    {"\"min_quantization\":null", "\"min_quantization\":\"int2\"", "\"min_quantization\":\"int8\"", NULL},
    {"\"force_quantization\":null", "\"force_quantization\":\"int2\"", "\"force_quantization\":\"int8\"", NULL},
    {"\"reuse\":\"level\"", "\"reuse\":\"any\"", NULL},
};
enum { FIELDS = sizeof fields / sizeof *fields, VALUES = 4 };

typedef struct asked {
    int value[FIELDS], key, model, cursor;
} asked;

static void write_body(char *out, size_t len, const int value[FIELDS]) {
    size_t at = 0;
    for (int f = 0; f < FIELDS; f++)
        at += (size_t)snprintf(out + at, len - at, "%s%s", f ? "," : "{", fields[f][value[f]]);
    snprintf(out + at, len - at, "}");
}

static int random_value(int field) {
    int n = 1;
    while (n < VALUES && fields[field][n]) n++;
    return rand() % 3 ? 0 : rand() % n;
}

/* Chance only has a seed where there is chance. */
static bool equal(const asked *a, const asked *b) {
    bool same_fields = a->key == b->key && a->model == b->model && a->cursor == b->cursor;
    bool greedy = a->value[3] == 1 || a->value[6] == 2;
    for (int f = 0; f < FIELDS; f++) same_fields &= a->value[f] == b->value[f] || (f == 4 && greedy);
    return same_fields;
}

/* Random requests of 2 keys to 3 models at 4 cursors are put into the cache, each with its own name: whoever finds an answer finds that
 * of an equal one. */
static void never_an_answer_of_another_question(void **state) {
    enum { ROUNDS = 3000 };
    static const char *const keys[] = {"one", "two"}, *const models[] = {"m", "M", "m2"};
    (void)state;
    pr_api *api = open_api(500, 0);
    asked *list = pr_calloc(PR_TAG_MISC, ROUNDS, sizeof *list);
    char body[2048];
    int hits = 0;
    srand(7);
    api->settings.response_cache_entries = ROUNDS;
    pr__caches_close(api);
    assert_int_equal(pr__caches_open(api, NULL), PR_OK);
    for (int i = 0; i < ROUNDS; i++) {
        asked *a = &list[i];
        if (i > 0 && rand() % 4 == 0) *a = list[rand() % i]; /* the same again, or all but one thing of it */
        else
            for (int f = 0; f < FIELDS; f++) a->value[f] = random_value(f);
        if (rand() % 2) a->value[4] = 1;
        int turn = rand() % 8;
        if (turn == 0) a->key = !a->key;
        if (turn == 1) a->model = (a->model + 1) % 3;
        if (turn == 2) a->cursor = (a->cursor + 1) % 4;
        if (turn == 3) a->value[rand() % FIELDS] = 0;
        write_body(body, sizeof body, a->value);
        pr__question q = ask(api, body, PR_ASK_COMPLETION, models[a->model], keys[a->key], &plain);
        pr__computed how = {1, (uint32_t)a->cursor};
        pr_blob *found = q.looks ? pr__answers_find(api, &q, &how, NULL) : NULL;
        size_t len;
        int first = 0;
        while (!equal(&list[first], a)) first++;
        if (found) {
            int of;
            memcpy(&of, pr_blob_data(found, &len), sizeof of);
            assert_int_equal(len, sizeof of);
            assert_true(equal(&list[of], a));
            assert_int_equal(of, first);
            hits++;
        } else if (q.sure) {
            assert_int_equal(first, i); /* what was asked before is found */
        }
        pr_blob_unref(found);
        pr_str record = {0};
        pr_str_append(&record, (const char *)&first, sizeof first);
        if (!found && q.keeps) pr__answers_keep(api, &q, &how, &record);
        pr_str_free(&record);
    }
    assert_in_range(hits, ROUNDS / 20, ROUNDS);
    pr_free(list);
    close_api(api);
}

/* One field at a time, all of them against all others. */
static void every_field_counts(void **state) {
    (void)state;
    pr_api *api = open_api(500, 10);
    pr__question list[FIELDS * VALUES];
    char body[2048];
    int n = 0, value[FIELDS] = {0};
    write_body(body, sizeof body, value);
    list[n++] = text(api, body);
    for (int f = 0; f < FIELDS; f++) {
        for (int v = 1; v < VALUES && fields[f][v]; v++) {
            value[f] = v;
            write_body(body, sizeof body, value);
            list[n++] = text(api, body);
            value[f] = 0;
        }
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) assert_false(same(&list[i], &list[j]));
    close_api(api);
}

static void another_model_key_or_endpoint_is_another_question(void **state) {
    (void)state;
    pr_api *api = open_api(500, 10);
    const char *chat = "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"temperature\":0}";
    const char *query = "{\"query\":\"a\",\"temperature\":0}";
    pr__question list[] = {
        ask(api, chat, PR_ASK_CHAT, "m", "k", &plain), ask(api, chat, PR_ASK_CHAT, "m", "", &plain),
        ask(api, chat, PR_ASK_CHAT, "m", "l", &plain), ask(api, chat, PR_ASK_CHAT, "mk", "", &plain),
        ask(api, chat, PR_ASK_CHAT, "n", "k", &plain), ask(api, query, PR_ASK_QUERY, "m", "k", &plain),
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        for (size_t j = 0; j < i; j++) assert_false(same(&list[i], &list[j]));
    close_api(api);
}

static void what_means_the_same_is_the_same(void **state) {
    static const char *const pairs[][2] = {
        {"{\"prompt\":\"a\"}", "{\"prompt\":[\"a\"],\"n\":1,\"max_tokens\":256,\"temperature\":0.7,\"top_p\":0.9}"},
        {"{\"prompt\":\"a\"}", "{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"include_usage\":true}}"},
        {"{\"prompt\":\"a\"}", "{\"prompt\":\"a\",\"user\":\"me\",\"stop\":null,\"seed\":null,\"cache\":true}"},
        {"{\"prompt\":\"a\",\"max_completion_tokens\":9}", "{\"prompt\":\"a\",\"max_tokens\":9}"},
        {"{\"prompt\":\"a\",\"stop\":\"x\"}", "{\"prompt\":\"a\",\"stop\":[\"x\"]}"},
        {"{\"prompt\":\"a\",\"temperature\":0,\"seed\":1}", "{\"prompt\":\"a\",\"temperature\":0.0,\"seed\":2}"},
        {"{\"prompt\":\"a\",\"top_k\":1,\"seed\":1}", "{\"prompt\":\"a\",\"top_k\":1}"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"1\":2,\"3\":4}}", "{\"prompt\":\"a\",\"logit_bias\":{\"3\":4,\"1\":2}}"},
    };
    (void)state;
    pr_api *api = open_api(500, 10);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        pr__question a = text(api, pairs[i][0]), b = text(api, pairs[i][1]);
        assert_true(same(&a, &b));
    }
    pr__question a = ask(api, "{\"messages\":[{\"role\":\"system\",\"content\":\"ab\"}]}", PR_ASK_CHAT, "m", "k",
                         &plain);
    pr__question b = ask(api,
                         "{\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                         "{\"type\":\"text\",\"text\":\"b\"}]}]}",
                         PR_ASK_CHAT, "m", "k", &plain);
    assert_true(same(&a, &b));
    close_api(api);
}

/* ---- wishes ------------------------------------------------------------ */

static void wishes(void **state) {
    (void)state;
    static const struct {
        const char *body;
        uint64_t mb;
        uint32_t recent;
        bool looks, keeps, sure;
    } list[] = {
        {"{\"prompt\":\"a\"}", 500, 10, true, true, false},
        {"{\"prompt\":\"a\"}", 500, 0, false, false, false},
        {"{\"prompt\":\"a\",\"cache\":true}", 500, 0, true, true, true},
        {"{\"prompt\":\"a\",\"cache\":true}", 0, 0, false, false, false},
        {"{\"prompt\":\"a\",\"temperature\":0}", 500, 10, true, true, true},
        {"{\"prompt\":\"a\",\"temperature\":0}", 0, 10, true, true, false},
        {"{\"prompt\":\"a\",\"seed\":5}", 500, 10, true, true, true},
        {"{\"prompt\":\"a\",\"top_k\":1}", 500, 10, true, true, true},
        {"{\"prompt\":\"a\",\"temperature\":0,\"cache\":false}", 500, 10, false, false, true},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        pr_api *api = open_api(list[i].mb, list[i].recent);
        pr__question q = text(api, list[i].body);
        assert_int_equal(q.looks, list[i].looks);
        assert_int_equal(q.keeps, list[i].keeps);
        assert_int_equal(q.sure, list[i].sure);
        pr_cache_control no_cache = {true, false, INFINITY}, no_store = {false, true, INFINITY};
        q = ask(api, list[i].body, PR_ASK_COMPLETION, "m", "k", &no_cache);
        assert_true(!q.looks && q.keeps == list[i].keeps);
        q = ask(api, list[i].body, PR_ASK_COMPLETION, "m", "k", &no_store);
        assert_true(!q.looks && !q.keeps);
        close_api(api);
    }
}

static void reads_cache_control(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool no_cache, no_store;
        double age_max;
    } list[] = {
        {NULL, false, false, INFINITY},
        {"", false, false, INFINITY},
        {"no-cache", true, false, INFINITY},
        {"No-Store", false, true, INFINITY},
        {" no-cache ,\tno-store,", true, true, INFINITY},
        {"max-age=30", false, false, 30},
        {"max-age=\"30\", private", false, false, 30},
        {"max-age=0, no-cache", true, false, 0},
        {"max-age=x", false, false, 0},
        {"max-age=-1", false, false, 0},
        {"max-age", false, false, 0},
        {"max-age=99999999999999999999", false, false, 0},
        {"no-caches, no-sto", false, false, INFINITY},
        {"x=\"a, no-store\", no-cache", true, false, INFINITY},
        {"x=\"a\\\", no-store\"", false, false, INFINITY},
        {"x=\"no-store", false, false, INFINITY},
        {",,,=,no-cache=\"x\"", true, false, INFINITY},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        pr_cache_control c;
        pr_cache_control_parse(list[i].text, &c);
        assert_int_equal(c.no_cache, list[i].no_cache);
        assert_int_equal(c.no_store, list[i].no_store);
        assert_true(c.age_max == list[i].age_max);
    }
}

/* ---- keeping ----------------------------------------------------------- */

static void kept_as_it_was_computed(void **state) {
    (void)state;
    pr_api *api = open_api(500, 10);
    pr__question sure = text(api, "{\"prompt\":\"a\",\"temperature\":0}"), chance = text(api, "{\"prompt\":\"a\"}");
    pr_str record = {0}, broken = {.failed = true};
    pr__computed how = {1, 40}, other[] = {{2, 40}, {1, 41}, {40, 1}};
    pr_str_puts(&record, "answer");
    pr__answers_keep(api, &sure, &how, &record);
    pr__answers_keep(api, &chance, &how, &record);
    for (int i = 0; i < 3; i++) assert_null(pr__answers_find(api, &sure, &other[i], NULL));
    pr__caches_sweep(api);
    pr_cache_clear(api->responses);
    pr_blob *b = pr__answers_find(api, &chance, &how, NULL);
    assert_non_null(b);
    pr_blob_unref(b);
    pr__caches_clear(api);
    assert_null(pr__answers_find(api, &chance, &how, NULL));
    pr__answers_keep(api, &sure, &how, &broken);
    atomic_store(&api->guard_in_force, PR_GUARD_ALERT | PR_GUARD_CLEAR_CACHES);
    pr__answers_keep(api, &sure, &how, &record);
    assert_null(pr__answers_find(api, &sure, &how, NULL));
    atomic_store(&api->guard_in_force, PR_GUARD_ALERT);
    pr_mem_fail_after(0, true);
    pr__answers_keep(api, &sure, &how, &record);
    pr_mem_fail_after(-1, false);
    assert_null(pr__answers_find(api, &sure, &how, NULL));
    pr__answers_keep(api, &sure, &how, &record);
    b = pr__answers_find(api, &sure, &how, NULL);
    assert_non_null(b);
    pr_blob_unref(b);
    pr_str_free(&record);
    close_api(api);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(never_an_answer_of_another_question),
        cmocka_unit_test(every_field_counts),
        cmocka_unit_test(another_model_key_or_endpoint_is_another_question),
        cmocka_unit_test(what_means_the_same_is_the_same),
        cmocka_unit_test(wishes),
        cmocka_unit_test(reads_cache_control),
        cmocka_unit_test(kept_as_it_was_computed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
