/*
 * Lines of a log.
 *
 * JSON that was logged is put together by our own code, with every foreign text escaped, so for machines it is taken over as
 * it is; only its ends are looked at, and a message that happens to begin like an object is still a message. For people it is
 * parsed: a request a line is little beside what the request costs.
 */
#include "base/log_line.h"

#include <string.h>

#include "base/json.h"

static const char *const formats[] = {"auto", "json", "text"};

const char *pr_log_format_name(pr_log_format format) { return formats[format]; }

bool pr_log_format_by_name(const char *name, pr_log_format *out) {
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, formats[i]) != 0) continue;
        *out = (pr_log_format)i;
        return true;
    }
    return false;
}

static bool is_object(const char *logged) {
    size_t len = strlen(logged);
    return len > 2 && logged[0] == '{' && logged[1] == '"' && logged[len - 1] == '}' && !strpbrk(logged, "\n\r");
}

/* "2026-11-26T21:35:31.905Z" */
static void put_time(pr_str *out, const struct timespec *when) {
    struct tm utc;
    char text[40];
    gmtime_r(&when->tv_sec, &utc);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    pr_str_printf(out, "%s.%03ldZ", text, when->tv_nsec / 1000000);
}

static void put_json(pr_str *out, const char *logged) {
    if (is_object(logged)) {
        pr_str_puts(out, logged + 1);
        return;
    }
    pr_str_puts(out, "\"message\":");
    pr_str_json(out, logged, strlen(logged));
    pr_str_puts(out, "}");
}

/* ---- for people -------------------------------------------------------- */

/* Quoted and in ASCII, so that nothing in it moves a cursor or turns letters around. */
static void put_quoted(pr_str *out, const char *text) {
    pr_str valid = {0};
    pr_str_json(&valid, text, strlen(text)); /* valid UTF-8 from whatever it was */
    out->failed |= !pr_str_ok(&valid);
    for (size_t i = 0; i < valid.len;) {
        int32_t cp;
        size_t n = pr_utf8_decode(valid.data + i, valid.len - i, &cp);
        if (cp < 0x7f) pr_str_append(out, valid.data + i, n);
        else if (cp < 0x10000) pr_str_printf(out, "\\u%04x", (unsigned)cp);
        else pr_str_printf(out, "\\u%04x\\u%04x", 0xd7c0 + ((unsigned)cp >> 10), 0xdc00 + ((unsigned)cp & 0x3ff));
        i += n;
    }
    pr_str_free(&valid);
}

static void put_word(pr_str *out, const char *text) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/:+%*{}[]<>@";
    if (*text && !text[strspn(text, plain)]) pr_str_puts(out, text);
    else put_quoted(out, text);
}

static void put_value(pr_str *out, const json_t *value) {
    if (json_is_string(value)) {
        put_word(out, json_string_value(value));
        return;
    }
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(6));
    pr_str_puts(out, text ? text : "?");
    pr_free(text);
}

static void put_fields(pr_str *out, json_t *fields) {
    const char *key;
    json_t *value;
    put_value(out, json_object_get(fields, "event"));
    json_object_foreach(fields, key, value) {
        if (strcmp(key, "event") == 0 || json_is_null(value)) continue;
        if (json_is_string(value) && !*json_string_value(value)) continue;
        pr_str_puts(out, " ");
        put_word(out, key);
        pr_str_puts(out, "=");
        put_value(out, value);
    }
}

static void put_text(pr_str *out, const char *logged) {
    json_t *fields = NULL;
    bool parsed = is_object(logged) && pr_json_parse(logged, strlen(logged), "log", &fields, NULL) == PR_OK &&
                  json_is_string(json_object_get(fields, "event"));
    if (parsed) put_fields(out, fields);
    else put_quoted(out, logged);
    json_decref(fields);
}

/* ---- together ---------------------------------------------------------- */

void pr_log_line(pr_str *out, pr_log_format format, const struct timespec *when, pr_log_level level,
                 const char *logged) {
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    if (format == PR_LOG_TEXT) {
        put_time(out, when);
        pr_str_printf(out, " %-5s ", levels[level]);
        put_text(out, logged);
    } else {
        pr_str_puts(out, "{\"time\":\"");
        put_time(out, when);
        pr_str_printf(out, "\",\"log\":\"%s\",", levels[level]);
        put_json(out, logged);
    }
    pr_str_puts(out, "\n");
}
