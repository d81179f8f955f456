/*
 * Guards: the parts of HTTP that are plain functions of bytes. Framing of a message, request targets, queries,
 * Authorization, routes. No connection, no allocation, no state; fuzz/fuzz_http.c feeds them anything.
 *
 * Threads: all functions are pure.
 */
#ifndef PRECIS_HTTP_GUARD_H
#define PRECIS_HTTP_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One header field or one query parameter; both texts are terminated, len does not count that. */
typedef struct pr_http_field {
    const char *name;
    size_t name_len;
    const char *value;
    size_t value_len;
} pr_http_field;

/* What the header fields say about the body that follows. */
typedef struct pr_http_framing {
    bool has_length; /* Content-Length was given */
    bool chunked;    /* Transfer-Encoding: chunked */
    bool expects;    /* Expect: the client waits for 100 or a refusal before it sends the body */
    uint64_t length;
} pr_http_framing;

/* NULL when the fields are ones that every server and proxy reads in the same way, else the reason for a 400: names that
 * are no tokens, control characters in values, two lengths or hosts, a length beside Transfer-Encoding, an encoding other
 * than chunked, HTTP/1.1 without Host (RFC 9112, 3.2, 5.1, 6.1 and 6.3). */
const char *pr_http_guard_fields(const pr_http_field *fields, size_t n, bool http11, pr_http_framing *out);

/* NULL for a target in origin form ("/path?query") of visible ASCII whose escapes are whole and whose path has no "." or
 * ".." segment and no escaped control character; else the reason for a 400. */
const char *pr_http_guard_target(const char *target, size_t len);

/* NULL or the reason for a 400. */
const char *pr_http_guard_method(const char *method);

/* Undo %XX (and '+' where plus) in place, terminated; false when an escape is broken or makes a NUL. */
bool pr_http_unescape(char *text, size_t *len, bool plus);

/* Cut a query ("a=1&b=2", without '?') into at most max parameters, unescaped in place; false when one is broken or there
 * are more. A parameter without '=' has the value "". Empty ones are skipped. */
bool pr_http_query_parse(char *query, pr_http_field *out, size_t max, size_t *n);

/* The token of "Bearer TOKEN" (RFC 6750; the scheme in any case), borrowed from value; false when it is anything else. */
bool pr_http_bearer(const char *value, const char **token, size_t *len);

/* 1 to 64 letters, digits, '.', '_' and '-': an X-Request-Id that may be taken over, logged and sent back. */
bool pr_http_id_ok(const char *id);

/* "localhost", "127.0.0.1:8000", "[::1]": a Host that a page from elsewhere cannot have (DNS rebinding). */
bool pr_http_host_is_local(const char *host);

/* Origin "http://host:port" of a page that this same Host served. */
bool pr_http_origin_is_host(const char *origin, const char *host);

/* Does path (raw, no query) fit the pattern? A pattern is literal but for one "{name}", which takes one non-empty segment,
 * or one "{name*}" at its end, which takes all that is left. *param and *len are what it took, still escaped. */
bool pr_http_route_fits(const char *pattern, const char *path, const char **param, size_t *len);

/* Does a list ("gzip, br", "W/\"x\", \"y\"", "*") hold the item, comparing without W/ ? For If-None-Match. */
bool pr_http_etag_listed(const char *list, const char *etag);

#endif
