#include "api/params.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/str.h"

static pr_params p;
static pr_err err;
static char param[PR_PARAM_NAME];

static const char *const bases[] = {
    [PR_ASK_CHAT] = "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]",
    [PR_ASK_COMPLETION] = "\"prompt\":\"hi\"",
    [PR_ASK_QUERY] = "\"query\":\"hi\"",
};

static pr_status parse_text(pr_ask ask, const char *text) {
    pr_params_free(&p);
    err = (pr_err){0};
    return pr_params_parse(text, strlen(text), ask, &p, param, &err);
}

/* The least body of its kind, and this field. */
static pr_status with(pr_ask ask, const char *field, const char *value) {
    char text[4096];
    snprintf(text, sizeof text, "{%s,\"%s\":%s}", bases[ask], field, value);
    return parse_text(ask, text);
}

static void refuses(pr_ask ask, const char *field, const char *value) {
    assert_int_equal(with(ask, field, value), PR_ERR_ARG);
    assert_string_equal(param, field);
    assert_non_null(strstr(err.text, field));
    assert_null(p.model);
    assert_null(p.messages);
}

/* ---- defaults --------------------------------------------------------------- */

static void test_defaults(void **state) {
    (void)state;
    for (int ask = PR_ASK_CHAT; ask <= PR_ASK_QUERY; ask++) {
        char text[256];
        snprintf(text, sizeof text, "{%s}", bases[ask]);
        assert_int_equal(parse_text((pr_ask)ask, text), PR_OK);
        const pr_sample_params *s = &p.generate.sample;
        assert_int_equal(p.generate.max_tokens, 256);
        assert_true(s->temperature == 0.7F && s->top_p == 0.9F && s->top_k == 50 && s->repetition_penalty == 1.1F);
        assert_true(s->min_p == 0 && s->presence_penalty == 0 && s->frequency_penalty == 0 && s->no_repeat_ngram == 0);
        assert_true(p.n == 1 && !p.stream && !p.include_usage && !p.logprobs && !p.seed_given && !p.reuse_any);
        assert_true(p.priority == PR_PRIORITY_BALANCED && !p.floor_given && !p.force_given);
        assert_string_equal(p.model, "");
        snprintf(text, sizeof text, "{%s,\"top_p\":0}", bases[ask]);
        assert_int_equal(parse_text((pr_ask)ask, text), PR_OK);
        assert_true(p.generate.sample.top_p > 0 &&
                    p.generate.sample.top_p < 1e-30F); /* one token, where 0 would mean all */
    }
}

/* ---- wrong types: every field against every kind of value --------------------- */

enum { NUL = 1, BOOLEAN = 2, WHOLE = 4, REAL = 8, TEXT = 16, LIST = 32, OBJECT = 64, ANY = 127 };

typedef struct row {
    const char *name;
    unsigned takes;   /* kinds */
    const char *text; /* a text it takes, where it takes one */
} row;

static const row rows[] = {
    {"model", NUL | TEXT, "\"x\""},
    {"stream", NUL | BOOLEAN, NULL},
    {"stream_options", NUL | OBJECT, NULL},
    {"n", NUL | WHOLE, NULL},
    {"max_tokens", NUL | WHOLE, NULL},
    {"max_completion_tokens", NUL | WHOLE, NULL},
    {"temperature", NUL | WHOLE | REAL, NULL},
    {"top_p", NUL | WHOLE | REAL, NULL},
    {"top_k", NUL | WHOLE, NULL},
    {"min_p", NUL | WHOLE | REAL, NULL},
    {"repetition_penalty", NUL | WHOLE | REAL, NULL},
    {"presence_penalty", NUL | WHOLE | REAL, NULL},
    {"frequency_penalty", NUL | WHOLE | REAL, NULL},
    {"no_repeat_ngram_size", NUL | WHOLE, NULL},
    {"seed", NUL | WHOLE, NULL},
    {"stop", NUL | TEXT | LIST, "\"x\""},
    {"logit_bias", NUL | OBJECT, NULL},
    {"task_priority", NUL | TEXT, "\"quality\""},
    {"min_quantization", NUL | TEXT, "\"int4\""},
    {"force_quantization", NUL | TEXT, "\"int8\""},
    {"reuse", NUL | TEXT, "\"any\""},
    {"echo", NUL, NULL},
    {"response_format", NUL, NULL},
    {"unknown", ANY, "\"x\""},
};

static void test_types(void **state) {
    (void)state;
    static const struct {
        unsigned kind;
        const char *value;
    } kinds[] = {{NUL, "null"},   {BOOLEAN, "true"}, {WHOLE, "1"},  {REAL, "0.5"},
                 {TEXT, "\"x\""}, {LIST, "[]"},      {OBJECT, "{}"}};
    for (int ask = PR_ASK_CHAT; ask <= PR_ASK_QUERY; ask++) {
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
                bool takes = rows[i].takes & kinds[k].kind;
                const char *value = takes && kinds[k].kind == TEXT ? rows[i].text : kinds[k].value;
                if (takes) assert_int_equal(with((pr_ask)ask, rows[i].name, value), PR_OK);
                else refuses((pr_ask)ask, rows[i].name, value);
            }
        }
    }
}

/* ---- bounds ------------------------------------------------------------------ */

static void test_bounds(void **state) {
    (void)state;
    static const struct {
        const char *name, *below, *least, *most, *above;
    } bounds[] = {
        {"n", "0", "1", "16", "17"},
        {"max_tokens", "0", "1", "16777216", "16777217"},
        {"max_completion_tokens", "0", "1", "16777216", "99999999999999"},
        {"temperature", "-0.01", "0", "2", "2.01"},
        {"top_p", "-0.01", "0", "1", "1.01"},
        {"top_k", "-1", "0", "16777216", "16777217"},
        {"min_p", "-1", "0", "1", "1.5"},
        {"repetition_penalty", "-1", "0", "10", "1e300"},
        {"presence_penalty", "-2.1", "-2", "2", "2.1"},
        {"frequency_penalty", "-2.1", "-2", "2", "2.1"},
        {"no_repeat_ngram_size", "-1", "0", "64", "65"},
    };
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        refuses(PR_ASK_CHAT, bounds[i].name, bounds[i].below);
        refuses(PR_ASK_CHAT, bounds[i].name, bounds[i].above);
        assert_int_equal(with(PR_ASK_CHAT, bounds[i].name, bounds[i].least), PR_OK);
        assert_int_equal(with(PR_ASK_CHAT, bounds[i].name, bounds[i].most), PR_OK);
    }
}

static void test_values(void **state) {
    (void)state;
    assert_int_equal(
        parse_text(PR_ASK_CHAT,
                   "{\"messages\":[{\"role\":\"developer\",\"content\":\"be kind\"},"
                   "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                   "{\"type\":\"text\",\"text\":\"b\"}]}],\"model\":\"m\",\"seed\":-1,\"top_k\":7,"
                   "\"max_tokens\":5,\"max_completion_tokens\":6,\"stop\":[\"x\",\"y\"],"
                   "\"logit_bias\":{\"17\":-3.5},\"task_priority\":\"speed\",\"min_quantization\":\"int8\","
                   "\"force_quantization\":\"int2\",\"reuse\":\"any\",\"logprobs\":true,\"top_logprobs\":20,"
                   "\"stream\":true,\"stream_options\":{\"include_usage\":true}}"),
        PR_OK);
    assert_int_equal(p.n_messages, 2);
    assert_string_equal(p.messages[0].role, "system");
    assert_string_equal(p.messages[1].content, "ab");
    assert_true(p.seed_given && p.generate.sample.seed == UINT64_MAX && p.generate.sample.top_k == 7);
    assert_int_equal(p.generate.max_tokens, 6);
    assert_true(p.generate.n_stop == 2 && !strcmp(p.generate.stop[1], "y"));
    assert_true(p.generate.sample.n_bias == 1 && p.generate.sample.bias[0].token == 17);
    assert_true(p.generate.sample.bias[0].bias == -3.5F);
    assert_true(p.priority == PR_PRIORITY_SPEED && p.floor_given && p.floor == PR_LEVEL_INT8);
    assert_true(p.force_given && p.force == PR_LEVEL_INT2 && p.reuse_any);
    assert_true(p.logprobs && p.top_logprobs == 20 && p.stream && p.include_usage);
}

static void test_lists(void **state) {
    (void)state;
    static const char *const messages[] = {
        "null",
        "[]",
        "[1]",
        "[{}]",
        "[{\"role\":\"user\"}]",
        "[{\"role\":\"tool\",\"content\":\"x\"}]",
        "[{\"role\":1,\"content\":\"x\"}]",
        "[{\"role\":\"user\",\"content\":null}]",
        "[{\"role\":\"user\",\"content\":[\"x\"]}]",
        "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"text\":\"x\"}]}]"};
    for (size_t i = 0; i < sizeof messages / sizeof *messages; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"messages\":%s}", messages[i]);
        assert_int_equal(parse_text(PR_ASK_CHAT, text), PR_ERR_ARG);
        assert_string_equal(param, "messages");
    }
    static const char *const prompts[] = {"null",      "[]",   "1",     "{}",   "[1,\"x\"]",
                                          "[\"x\",1]", "[-1]", "[1.5]", "[[]]", "[2147483648]"};
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"prompt\":%s}", prompts[i]);
        assert_int_equal(parse_text(PR_ASK_COMPLETION, text), PR_ERR_ARG);
        assert_string_equal(param, "prompt");
    }
    assert_int_equal(parse_text(PR_ASK_COMPLETION, "{\"prompt\":[\"a\",[1,2]],\"n\":8}"), PR_OK);
    assert_true(p.n_prompts == 2 && !strcmp(p.prompts[0].text, "a") && p.prompts[1].n_ids == 2);
    assert_int_equal(parse_text(PR_ASK_COMPLETION, "{\"prompt\":[\"a\",\"b\"],\"n\":9}"), PR_ERR_ARG);
    assert_string_equal(param, "n");
    assert_int_equal(parse_text(PR_ASK_COMPLETION, "{\"prompt\":[3.0,4],\"n\":2.0,\"seed\":-7e0}"), PR_OK);
    assert_true(p.n_prompts == 1 && p.prompts[0].n_ids == 2 && p.prompts[0].ids[0] == 3 && p.n == 2);
    assert_true(p.generate.sample.seed == (uint64_t)-7);
    refuses(PR_ASK_CHAT, "seed", "1e300");
    refuses(PR_ASK_CHAT, "logit_bias", "{\"1000000000\":1}");
    refuses(PR_ASK_CHAT, "stop", "[\"a\",\"b\",\"c\",\"d\",\"e\"]");
    refuses(PR_ASK_CHAT, "stop", "\"\"");
    refuses(PR_ASK_CHAT, "stop", "[\"a\",1]");
    refuses(PR_ASK_CHAT, "logit_bias", "{\"x\":1}");
    refuses(PR_ASK_CHAT, "logit_bias", "{\"-1\":1}");
    refuses(PR_ASK_CHAT, "logit_bias", "{\"01\":1}"); /* another name of 1 */
    refuses(PR_ASK_CHAT, "logit_bias", "{\"0x1\":1}");
    refuses(PR_ASK_CHAT, "logit_bias", "{\"\":1}");
    refuses(PR_ASK_CHAT, "logit_bias", "{\"1\":\"1\"}");
    refuses(PR_ASK_CHAT, "logit_bias", "{\"1\":100.5}");
    refuses(PR_ASK_CHAT, "stream_options", "{\"include_usage\":1}");
    refuses(PR_ASK_CHAT, "min_quantization", "\"int3\"");
    refuses(PR_ASK_CHAT, "task_priority", "\"\"");
    refuses(PR_ASK_CHAT, "reuse", "\"all\"");
    refuses(PR_ASK_CHAT, "top_logprobs", "2");
    refuses(PR_ASK_CHAT, "logprobs", "1");
    refuses(PR_ASK_COMPLETION, "logprobs", "true");
    refuses(PR_ASK_COMPLETION, "logprobs", "21");
    refuses(PR_ASK_COMPLETION, "suffix", "\"x\"");
    refuses(PR_ASK_CHAT, "echo", "true");
    assert_int_equal(with(PR_ASK_CHAT, "response_format", "{\"type\":\"text\"}"), PR_OK);
    assert_int_equal(with(PR_ASK_COMPLETION, "logprobs", "0"), PR_OK);
    assert_true(p.logprobs && p.top_logprobs == 0);
}

static void test_bodies(void **state) {
    (void)state;
    static const char *const bodies[] = {"",          "{", "null", "[]", "\"x\"", "1", "{}", "{\"prompt\":\"\\u0000\"}",
                                         "{\"a\":1}x"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        assert_int_equal(parse_text(PR_ASK_COMPLETION, bodies[i]), PR_ERR_ARG);
        assert_true(err.text[0] != '\0');
    }
    assert_int_equal(parse_text(PR_ASK_QUERY, "{\"query\":\"\"}"), PR_ERR_ARG);
    assert_string_equal(param, "query");
}

/* ---- memory ------------------------------------------------------------------ */

static void test_memory(void **state) {
    (void)state;
    const char *text = "{\"prompt\":[\"a\",[1,2]],\"model\":\"m\",\"stop\":[\"x\",\"y\"],\"logit_bias\":{\"1\":1}}";
    const char *chat = "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]}";
    pr_params_free(&p);
    size_t before = pr_mem_bytes(PR_TAG_HTTP);
    for (int kind = 0; kind < 2; kind++) {
        pr_status st = PR_ERR_NOMEM;
        for (int64_t n = 0; st == PR_ERR_NOMEM && n < 500; n++) {
            pr_mem_fail_after(n, false);
            st = parse_text(kind ? PR_ASK_CHAT : PR_ASK_COMPLETION, kind ? chat : text);
            bool failed = pr_mem_failed();
            pr_mem_fail_after(-1, false);
            if (st) assert_true(failed && pr_mem_bytes(PR_TAG_HTTP) == before);
        }
        assert_int_equal(st, PR_OK);
        pr_params_free(&p);
    }
    assert_int_equal(pr_mem_bytes(PR_TAG_HTTP), before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_types), cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_values),   cmocka_unit_test(test_lists), cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
