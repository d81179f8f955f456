/*
 * Chat templates: recognised by their published sources, and rendered to the
 * bytes that Jinja makes of those (goldens of tools/chat-goldens.py).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/os.h"
#include "support/vocab_gguf.h"
#include "text/chat.h"

#define CHATS_MAX 64

typedef struct chat {
    pr_message messages[8];
    size_t n;
    bool generation;
    bool has_system;
} chat;

/* Undo the escapes of a golden, in place, up to '|' or the end; returns what follows the '|', NULL at the end. */
static char *unescape(char *text) {
    char *out = text;
    for (; *text && *text != '|'; text++) {
        char c = *text;
        if (c == '\\') {
            text++;
            c = *text == 'n' ? '\n' : *text == 'p' ? '|' : *text;
        }
        *out++ = c;
    }
    char *rest = *text ? text + 1 : NULL;
    *out = '\0';
    return rest;
}

static void read_chat(char *line, chat *c) {
    *c = (chat){.generation = line[5] == '1'};
    for (char *at = line[6] ? line + 7 : NULL; at; c->n++) {
        char *content = strchr(at, '|') + 1;
        content[-1] = '\0';
        c->messages[c->n].role = at;
        c->messages[c->n].content = content;
        c->has_system = c->has_system || strcmp(at, "system") == 0;
        at = unescape(content);
    }
}

static void check(const pr_chat_template *t, const chat *c, char *want) {
    char *got;
    pr_err err = {0};
    pr_status status = pr_chat_render(t, c->messages, c->n, c->generation, "<s>", "</s>", &got, &err);
    if (strcmp(want, "error") == 0) {
        if (!status) fail_msg("%s: rendered, but should be refused: %s", pr_chat_name(t), got);
        assert_true(status == PR_ERR_ARG || status == PR_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.text, "message"));
    } else {
        if (status) fail_msg("%s: %s", pr_chat_name(t), err.text);
        unescape(want + 2);
        assert_string_equal(got, want + 2);
    }
    pr_free(got);
}

static void test_goldens(void **state) {
    (void)state;
    char *data;
    size_t len, n_chats = 0, n_templates = 0, at = 0;
    pr_err err = {0};
    if (pr_file_slurp("test/goldens/text/chat.txt", 1 << 24, &data, &len, &err)) fail_msg("%s", err.text);
    static chat chats[CHATS_MAX];
    const pr_chat_template *t = NULL;
    for (char *line = data, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = '\0';
        if (strncmp(line, "chat ", 5) == 0) {
            read_chat(line, &chats[n_chats++]);
            assert_true(n_chats < CHATS_MAX);
        } else if (strncmp(line, "template ", 9) == 0) {
            assert_int_equal(at, n_templates ? n_chats : 0);
            char *source = strchr(line, '|') + 1;
            source[-1] = '\0';
            unescape(source);
            t = pr_chat_detect(source);
            if (!t) fail_msg("%s: not recognised", line + 9);
            assert_string_equal(pr_chat_name(t), line + 9);
            at = 0;
            n_templates++;
        } else if (strncmp(line, "stranger ", 9) == 0) {
            unescape(line + 9);
            t = pr_chat_detect(line + 9);
            if (t) fail_msg("taken for %s: %s", pr_chat_name(t), line + 9);
        } else if (*line != '#') {
            if (strcmp(line, "any") != 0) check(t, &chats[at], line);
            at++;
        }
    }
    assert_int_equal(n_templates, 18);
    pr_free(data);
}

static void test_names(void **state) {
    (void)state;
    static const char *const names[] = {"chatml",  "smollm2", "llama2",    "llama3",
                                        "mistral", "zephyr",  "tinyllama", "gemma"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_non_null(pr_chat_by_name(names[i]));
        assert_non_null(strstr(pr_chat_names(), names[i]));
    }
    assert_string_equal(pr_chat_name(pr_chat_by_name("mistral")), "mistral-v3");
    assert_null(pr_chat_by_name("no such"));
    assert_null(pr_chat_by_name(""));
    assert_null(pr_chat_by_name(NULL));
    assert_null(pr_chat_detect(NULL));
    assert_null(pr_chat_detect(""));
    char all[512];
    snprintf(all, sizeof all, "%s", pr_chat_names());
    char *next;
    for (char *name = strtok_r(all, ", ()", &next); name; name = strtok_r(NULL, ", ()", &next))
        assert_non_null(pr_chat_by_name(name));
}

static void expect_refusal(const char *name, const pr_message *messages, size_t n, pr_status status, const char *says) {
    char *out;
    pr_err err = {0};
    assert_int_equal(pr_chat_render(pr_chat_by_name(name), messages, n, true, "", "", &out, &err), status);
    assert_null(out);
    if (!strstr(err.text, says)) fail_msg("\"%s\" does not say \"%s\"", err.text, says);
}

static void test_refusals(void **state) {
    (void)state;
    const pr_message tool[] = {{"user", "a"}, {"tool", "b"}}, empty[] = {{"user", NULL}};
    const pr_message twice[] = {{"user", "a"}, {"user", "b"}};
    const pr_message late[] = {{"user", "a"}, {"assistant", "b"}, {"system", "c"}};
    expect_refusal("chatml", tool, 2, PR_ERR_UNSUPPORTED, "message 2: template \"chatml\" has no place for the role");
    expect_refusal("chatml", empty, 1, PR_ERR_ARG, "message 1");
    expect_refusal("chatml", NULL, 0, PR_ERR_ARG, "no messages");
    expect_refusal("llama2", twice, 2, PR_ERR_ARG, "message 2 is the user's");
    expect_refusal("mistral", late, 3, PR_ERR_ARG, "message 3");
    expect_refusal("gemma", late + 2, 1, PR_ERR_UNSUPPORTED, "\"system\"");
}

static void test_system_in_old_mistral(void **state) {
    (void)state;
    const pr_message messages[] = {{"system", "Be brief."}, {"user", "Hi"}};
    char *out;
    const pr_chat_template *t = pr_chat_by_name("mistral-v0.2");
    assert_int_equal(pr_chat_render(t, messages, 2, true, "<s>", "</s>", &out, NULL), PR_OK);
    assert_string_equal(out, "<s>[INST] Be brief.\n\nHi [/INST]");
    pr_free(out);
    assert_int_equal(pr_chat_render(t, messages + 1, 1, true, NULL, NULL, &out, NULL), PR_OK);
    assert_string_equal(out, "[INST] Hi [/INST]");
    pr_free(out);
}

static void test_template_of_phi3_gguf(void **state) {
    (void)state;
    char buf[512];
    const char *path = test_data_path("vocab/phi-3.gguf", buf, sizeof buf);
    if (!path) {
        print_message("SKIPPED no test data vocab/phi-3.gguf\n");
        skip();
    }
    vocab_gguf g;
    assert_int_equal(vocab_gguf_load(path, &g, NULL), PR_OK);
    const pr_chat_template *t = pr_chat_detect(g.chat_template);
    assert_non_null(t);
    assert_string_equal(pr_chat_name(t), "phi3-first");
    vocab_gguf_free(&g);
}

static void test_out_of_memory(void **state) {
    (void)state;
    const pr_message messages[] = {{"system", "a"}, {"user", "b"}, {"assistant", "c"}, {"user", "d"}};
    static const char *const names[] = {"llama2", "mistral", "llama3.1", "zephyr"};
    size_t before = pr_mem_total();
    for (size_t i = 0; i < 4; i++) {
        for (int64_t n = 0;; n++) {
            pr_mem_fail_after(n, n % 2);
            char *out;
            pr_status status = pr_chat_render(pr_chat_by_name(names[i]), messages, 4, true, "<s>", "</s>", &out, NULL);
            bool failed = pr_mem_failed();
            pr_mem_fail_after(-1, false);
            assert_int_equal(status, failed ? PR_ERR_NOMEM : PR_OK);
            pr_free(out);
            assert_int_equal(pr_mem_total(), before);
            if (!failed) break;
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_system_in_old_mistral),
        cmocka_unit_test(test_template_of_phi3_gguf),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
