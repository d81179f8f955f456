/*
 * Server-sent events.
 *
 * The JSON of an event is a frame around one string that changes. Building a tree of values and printing it, a token at a
 * time, costs more than sending it; a copy of the frame and one pass over the text does not.
 */
#include "http/sse.h"

#include <string.h>

static const char field[] = "data: ";

void pr_sse_data(pr_str *out, const char *json, size_t len) {
    const char *end = json + len;
    for (;;) {
        const char *line = len ? memchr(json, '\n', (size_t)(end - json)) : NULL;
        pr_str_append(out, field, sizeof field - 1);
        pr_str_append(out, json, (size_t)((line ? line : end) - json));
        pr_str_append(out, "\n", 1);
        if (!line) break;
        json = line + 1;
    }
    pr_str_append(out, "\n", 1);
}

void pr_sse_delta(pr_str *out, const pr_str *head, const char *text, size_t len, const pr_str *tail) {
    pr_str_append(out, field, sizeof field - 1);
    pr_str_append(out, head->data, head->len);
    pr_str_json(out, text, len);
    pr_str_append(out, tail->data, tail->len);
    pr_str_append(out, "\n\n", 2);
}

void pr_sse_done(pr_str *out) { pr_str_puts(out, "data: [DONE]\n\n"); }
