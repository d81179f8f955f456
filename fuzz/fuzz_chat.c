/*
 * Fuzz target: template sources and conversations.
 *
 * The first byte picks a built-in template; the rest is a conversation, one
 * message a line ("u", "a", "s" or another letter, then the content), and also
 * the source that is to be recognised.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/chat.h"

#define MESSAGES_MAX 16

static const pr_chat_template *pick(unsigned n) {
    static char names[512];
    static const pr_chat_template *all[32];
    static unsigned n_all;
    if (!n_all) {
        snprintf(names, sizeof names, "%s", pr_chat_names());
        char *next;
        for (char *name = strtok_r(names, ", ()", &next); name; name = strtok_r(NULL, ", ()", &next))
            all[n_all++] = pr_chat_by_name(name);
    }
    if (!n_all) abort();
    return all[n % n_all];
}

static size_t parse(char *text, pr_message *messages) {
    size_t n = 0;
    char *next;
    for (char *line = strtok_r(text, "\n", &next); line && n < MESSAGES_MAX; line = strtok_r(NULL, "\n", &next), n++) {
        messages[n].role = line[0] == 'u' ? "user" : line[0] == 'a' ? "assistant" : line[0] == 's' ? "system" : "other";
        messages[n].content = line + 1;
    }
    return n;
}

static void render(const pr_chat_template *t, const pr_message *messages, size_t n, int generation) {
    char *out;
    pr_err err = {0};
    pr_status status = pr_chat_render(t, messages, n, generation, "<s>", "</s>", &out, &err);
    if (!status != !!out || (status && (!err.text[0] || err.status != status))) abort();
    pr_free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1 || size > 16384) return 0;
    size_t held = pr_mem_total();
    char *text = malloc(size);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    const pr_chat_template *t = pr_chat_detect(text);
    pr_message messages[MESSAGES_MAX];
    size_t n = parse(text, messages);
    render(pick(data[0] >> 1), messages, n, data[0] & 1);
    if (t) render(t, messages, n, data[0] & 1);
    free(text);
    if (pr_mem_total() != held) abort();
    return 0;
}
