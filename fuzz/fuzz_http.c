/*
 * Fuzz: the parts of HTTP that are functions of bytes. The first byte picks one; the rest is what it reads. What is accepted
 * must be what its contract says: decoded text is no longer than it was, a taken target has no way out, an event is one event.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "http/guard.h"
#include "http/gzip.h"
#include "http/keys.h"
#include "http/sse.h"

enum { FIELDS_MAX = 32 };

static void require(int truth) {
    if (!truth) abort();
}

/* Lines "name:value" as fields. */
static void read_fields(char *text) {
    pr_http_field all[FIELDS_MAX];
    size_t n = 0;
    for (char *line = text, *next; line && n < FIELDS_MAX; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        char *colon = strchr(line, ':');
        char *value = colon ? colon + 1 : line + strlen(line);
        if (colon) *colon = '\0';
        all[n++] = (pr_http_field){line, strlen(line), value, strlen(value)};
    }
    pr_http_framing framing;
    const char *why = pr_http_guard_fields(all, n, n & 1, &framing);
    require(why || !(framing.has_length && framing.chunked));
    for (size_t i = 0; i < n && !why; i++) require(!strpbrk(all[i].value, "\r\n") && all[i].name_len);
}

static void read_target(char *text, size_t len) {
    if (pr_http_guard_target(text, len)) return;
    require(text[0] == '/' && !memchr(text, '\0', len));
    const char *param;
    size_t n;
    if (pr_http_route_fits("/v1/{id}/x", text, &param, &n)) require(n && !memchr(param, '/', n));
    char *query = strchr(text, '?');
    if (query) *query++ = '\0';
    size_t path_len = strlen(text);
    require(!strstr(text, "/../") && !pr_str_ends(text, "/.."));
    require(pr_http_unescape(text, &path_len, false) && strlen(text) == path_len);
    pr_http_field out[FIELDS_MAX];
    if (!query || !pr_http_query_parse(query, out, FIELDS_MAX, &n)) return;
    for (size_t i = 0; i < n; i++)
        require(strlen(out[i].name) == out[i].name_len && strlen(out[i].value) == out[i].value_len);
}

static void read_values(const char *text, size_t len) {
    const char *token;
    size_t n;
    if (pr_http_bearer(text, &token, &n)) require(token > text && n && token + n <= text + len);
    if (pr_http_id_ok(text)) require(!strpbrk(text, "\"\\\r\n "));
    if (pr_http_host_is_local(text)) require(strlen(text) >= 5);
    (void)pr_http_origin_is_host(text, "localhost");
    (void)pr_http_etag_listed(text, "\"a\"");
    (void)pr_http_gzip_accepted(text);
    (void)pr_http_guard_method(text);
    (void)pr_http_route_fits(text, "/v1/a/x", &token, &n);
}

static void read_keys(const char *text, size_t len) {
    pr_keys *keys;
    pr_err err = {0};
    pr_status status = pr_keys_parse(text, len, "keys", &keys, &err);
    require(!status == (keys != NULL) && !status == !err.text[0]);
    if (keys) require(pr_keys_count(keys) > 0);
    pr_keys_close(keys);
}

static void write_events(const char *text, size_t len) {
    pr_str head = {0}, tail = {0}, s = {0};
    pr_str_puts(&head, "{");
    pr_str_puts(&tail, "}");
    pr_sse_delta(&s, &head, text, len, &tail);
    require(pr_str_ok(&s) && s.len >= 12);
    require(strstr(s.data, "\n\n") == s.data + s.len - 2 && strlen(s.data) == s.len); /* one line, no NUL */
    for (size_t i = 0; i < s.len;) {
        int32_t cp;
        i += pr_utf8_decode(s.data + i, s.len - i, &cp);
        require(cp >= 0);
    }
    pr_str_clear(&s);
    pr_sse_data(&s, text, len);
    require(s.len >= len + 8);
    pr_str_free(&s);
    pr_str_free(&head);
    pr_str_free(&tail);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1 || size > 65536) return 0;
    size_t held = pr_mem_total(), len = size - 1;
    char *text = malloc(size);
    memcpy(text, data + 1, len);
    text[len] = '\0';
    switch (data[0] % 5) {
    case 0: read_fields(text); break;
    case 1: read_target(text, len); break;
    case 2: read_values(text, len); break;
    case 3: read_keys(text, len); break;
    case 4: write_events(text, len); break;
    }
    free(text);
    require(pr_mem_total() == held);
    return 0;
}
