/*
 * Guards: what may come in.
 *
 * libmicrohttpd reads generously: of two lengths it takes one, a length beside a chunked encoding it ignores, names may
 * hold anything. Alone that is harmless. Behind a proxy that reads the same bytes in another way it lets a client smuggle a
 * second request inside the first. So everything on which two readers could differ is refused, instead of interpreted.
 *
 * A path is matched as it was sent; only what a {parameter} took is unescaped. Then there is no second spelling of a route,
 * and an escaped slash stays inside its segment.
 */
#include "http/guard.h"

#include <string.h>
#include <strings.h>

/* ---- characters ---- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_alnum(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static bool is_token(char c) { return is_alnum(c) || (c && strchr("!#$%&'*+-.^_`|~", c)); }

static int hex_value(char c) {
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* ---- header fields ---- */

static bool name_ok(const pr_http_field *f) {
    for (size_t i = 0; i < f->name_len; i++) {
        if (!is_token(f->name[i])) return false;
    }
    return f->name_len > 0;
}

static bool value_ok(const pr_http_field *f) {
    for (size_t i = 0; i < f->value_len; i++) {
        unsigned char c = (unsigned char)f->value[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f) return false;
    }
    return true;
}

static bool named(const pr_http_field *f, const char *name) {
    return f->name_len == strlen(name) && strncasecmp(f->name, name, f->name_len) == 0;
}

/* Length of the value without blanks at its end. */
static size_t trimmed(const pr_http_field *f) {
    size_t len = f->value_len;
    while (len && (f->value[len - 1] == ' ' || f->value[len - 1] == '\t')) len--;
    return len;
}

static bool parse_length(const pr_http_field *f, uint64_t *out) {
    enum { DIGITS_MAX = 18 }; /* below 2^63, with leading zeros counted */
    size_t len = trimmed(f);
    if (!len || len > DIGITS_MAX) return false;
    *out = 0;
    for (size_t i = 0; i < len; i++) {
        if (!is_digit(f->value[i])) return false;
        *out = *out * 10 + (uint64_t)(f->value[i] - '0');
    }
    return true;
}

const char *pr_http_guard_fields(const pr_http_field *fields, size_t n, bool http11, pr_http_framing *out) {
    size_t hosts = 0;
    *out = (pr_http_framing){0};
    for (size_t i = 0; i < n; i++) {
        const pr_http_field *f = &fields[i];
        if (!name_ok(f)) return "a header name is not a token";
        if (!value_ok(f)) return "a header value holds a control character";
        if (named(f, "Host")) {
            hosts++;
        } else if (named(f, "Content-Length")) {
            if (out->has_length) return "more than one Content-Length";
            if (!parse_length(f, &out->length)) return "Content-Length is not a number";
            out->has_length = true;
        } else if (named(f, "Transfer-Encoding")) {
            if (out->chunked) return "more than one Transfer-Encoding";
            if (trimmed(f) != 7 || strncasecmp(f->value, "chunked", 7) != 0) return "Transfer-Encoding is not chunked";
            out->chunked = true;
        } else if (named(f, "Expect")) {
            out->expects = true;
        }
    }
    if (out->has_length && out->chunked) return "Content-Length beside Transfer-Encoding";
    if (out->chunked && !http11) return "Transfer-Encoding in HTTP/1.0";
    if (hosts > 1) return "more than one Host";
    if (http11 && !hosts) return "no Host";
    return NULL;
}

const char *pr_http_guard_method(const char *method) {
    enum { METHOD_MAX = 20 };
    size_t len = strlen(method);
    if (!len || len > METHOD_MAX) return "the method is not one";
    for (size_t i = 0; i < len; i++) {
        if (!is_token(method[i])) return "the method is not a token";
    }
    return NULL;
}

/* ---- targets ---- */

const char *pr_http_guard_target(const char *target, size_t len) {
    if (!len || target[0] != '/') return "the request target is not a path";
    bool in_path = true;
    size_t segment = 1; /* where the current segment of the path begins */
    for (size_t i = 0; i <= len; i++) {
        unsigned char c = i < len ? (unsigned char)target[i] : 0;
        if (in_path && i && (i == len || c == '/' || c == '?')) {
            size_t n = i - segment;
            if ((n == 1 || n == 2) && memcmp(target + segment, "..", n) == 0) return "the path holds a dot segment";
            segment = i + 1;
            in_path = c != '?';
        }
        if (i == len) break;
        if (c <= 0x20 || c >= 0x7f) return "the request target holds a character that must be escaped";
        if (c == '#') return "the request target holds a fragment";
        if (c == '%') {
            bool whole = len - i > 2;
            int high = whole ? hex_value(target[i + 1]) : -1, low = whole ? hex_value(target[i + 2]) : -1;
            if (high < 0 || low < 0) return "a broken escape in the request target";
            if (in_path && (high < 2 || (high == 7 && low == 15))) return "an escaped control character in the path";
            if (!high && !low) return "an escaped NUL in the request target";
        }
    }
    return NULL;
}

bool pr_http_unescape(char *text, size_t *len, bool plus) {
    size_t to = 0;
    for (size_t i = 0; i < *len; i++, to++) {
        char c = text[i];
        if (c == '%') {
            if (*len - i < 3) return false;
            int high = hex_value(text[i + 1]), low = hex_value(text[i + 2]);
            if (high < 0 || low < 0 || (!high && !low)) return false;
            c = (char)(high << 4 | low);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        text[to] = c;
    }
    text[to] = '\0';
    *len = to;
    return true;
}

bool pr_http_query_parse(char *query, pr_http_field *out, size_t max, size_t *n) {
    *n = 0;
    for (char *at = query; at && *at;) {
        char *next = strchr(at, '&');
        if (next) *next++ = '\0';
        if (*at) {
            char *equals = strchr(at, '=');
            char *value = equals ? equals + 1 : at + strlen(at);
            size_t value_len = strlen(value);
            if (equals) *equals = '\0';
            size_t name_len = strlen(at);
            if (*n == max || !pr_http_unescape(value, &value_len, true) || !pr_http_unescape(at, &name_len, true)) {
                return false;
            }
            out[(*n)++] = (pr_http_field){at, name_len, value, value_len};
        }
        at = next;
    }
    return true;
}

/* ---- fields with a grammar of their own ---- */

bool pr_http_bearer(const char *value, const char **token, size_t *len) {
    enum { TOKEN_MAX = 512 };
    static const char scheme[] = "Bearer";
    size_t n = sizeof scheme - 1;
    if (strncasecmp(value, scheme, n) != 0 || value[n] != ' ') return false;
    const char *at = value + n;
    while (*at == ' ') at++;
    size_t have = 0;
    while (is_alnum(at[have]) || (at[have] && strchr("-._~+/=", at[have]))) have++;
    for (const char *rest = at + have; *rest; rest++) {
        if (*rest != ' ') return false;
    }
    *token = at;
    *len = have;
    return have > 0 && have <= TOKEN_MAX;
}

bool pr_http_id_ok(const char *id) {
    enum { ID_MAX = 64 };
    size_t len = 0;
    for (; id[len] && len <= ID_MAX; len++) {
        if (!is_alnum(id[len]) && !strchr("._-", id[len])) return false;
    }
    return len > 0 && len <= ID_MAX;
}

/* Length of the name or address in "name", "name:port", "[v6]", "[v6]:port"; 0 when it is none of them. */
static size_t host_len(const char *host) {
    size_t len = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    if (host[0] == '[' && host[len - 1] != ']') return 0;
    const char *port = host + len;
    if (*port == ':') {
        for (port++; is_digit(*port); port++) continue;
    }
    return *port ? 0 : len;
}

bool pr_http_host_is_local(const char *host) {
    size_t len = host_len(host);
    if (len == 9 && strncasecmp(host, "localhost", 9) == 0) return true;
    if (len == 5 && memcmp(host, "[::1]", 5) == 0) return true;
    if (len < 7 || memcmp(host, "127.", 4) != 0) return false;
    for (size_t i = 4; i < len; i++) {
        if (!is_digit(host[i]) && host[i] != '.') return false; /* not 127.0.0.1.example.org */
    }
    return true;
}

bool pr_http_origin_is_host(const char *origin, const char *host) {
    const char *at = strstr(origin, "://");
    return at && strcasecmp(at + 3, host) == 0;
}

bool pr_http_route_fits(const char *pattern, const char *path, const char **param, size_t *len) {
    *param = "";
    *len = 0;
    size_t same = strcspn(pattern, "{");
    if (strncmp(pattern, path, same) != 0) return false;
    if (!pattern[same]) return !path[same];
    const char *close = strchr(pattern + same, '}');
    if (!close) return false;
    bool rest = close[-1] == '*';
    *param = path + same;
    *len = rest ? strlen(*param) : strcspn(*param, "/");
    return *len > 0 && strcmp(close + 1, *param + *len) == 0;
}

bool pr_http_etag_listed(const char *list, const char *etag) {
    if (strncmp(etag, "W/", 2) == 0) etag += 2;
    size_t n = strlen(etag);
    while (*list) {
        list += strspn(list, " \t,");
        if (strncmp(list, "W/", 2) == 0) list += 2;
        size_t len = strcspn(list, ", \t");
        if ((len == 1 && *list == '*') || (len == n && memcmp(list, etag, n) == 0)) return true;
        list += len;
    }
    return false;
}
