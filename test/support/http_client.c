/*
 * A raw HTTP client for tests: a socket, a buffer, and just enough parsing to know where a reply ends.
 */
#include "http_client.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/os.h"

static const double patience = 10;

hc hc_open(uint16_t port) {
    hc c = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int on = 1;
    setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    assert_int_equal(connect(c.fd, (struct sockaddr *)&to, sizeof to), 0);
    return c;
}

void hc_close(hc *c) {
    if (c->fd >= 0) close(c->fd);
    free(c->buf);
    *c = (hc){.fd = -1};
}

void hc_send(hc *c, const char *bytes, size_t len) {
    while (len) {
        ssize_t n = send(c->fd, bytes, len, MSG_NOSIGNAL);
        if (n <= 0) return; /* the peer has closed: the reply tells */
        bytes += n;
        len -= (size_t)n;
    }
}

void hc_puts(hc *c, const char *text) { hc_send(c, text, strlen(text)); }

/* More bytes into the buffer; false at the end, on an error, or when `until` has come. */
static bool more(hc *c, double until) {
    if (c->cap - c->len < 4097) {
        c->cap = c->cap * 2 + 8192;
        c->buf = realloc(c->buf, c->cap);
        assert_non_null(c->buf);
    }
    double left = until - pr_now();
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    if (left <= 0 || poll(&p, 1, (int)(left * 1e3) + 1) <= 0) return false;
    ssize_t n = recv(c->fd, c->buf + c->len, c->cap - c->len - 1, 0);
    if (n <= 0) return false;
    c->len += (size_t)n;
    c->buf[c->len] = '\0';
    return true;
}

static void drop(hc *c, size_t n) {
    memmove(c->buf, c->buf + n, c->len - n + 1);
    c->len -= n;
}

const char *hc_header(const hc_reply *reply, const char *name, char *out, size_t cap) {
    size_t n = strlen(name);
    out[0] = '\0';
    for (const char *at = strstr(reply->head, "\r\n"); at; at = strstr(at + 2, "\r\n")) {
        if (strncasecmp(at + 2, name, n) == 0 && at[2 + n] == ':') {
            const char *value = at + 2 + n + 1 + strspn(at + 2 + n + 1, " ");
            snprintf(out, cap, "%.*s", (int)strcspn(value, "\r"), value);
            return out;
        }
    }
    return out;
}

static bool get_head(hc *c, hc_reply *out, double until) {
    char *end;
    while (!c->len || !(end = strstr(c->buf, "\r\n\r\n"))) {
        if (!more(c, until)) return false;
    }
    size_t n = (size_t)(end - c->buf) + 2;
    if (n >= sizeof out->head) n = sizeof out->head - 1;
    memcpy(out->head, c->buf, n);
    out->head[n] = '\0';
    out->status = (int)strtol(out->head + 9, NULL, 10);
    drop(c, (size_t)(end - c->buf) + 4);
    return true;
}

static bool take(hc *c, hc_reply *out, size_t n, double until) {
    while (c->len < n) {
        if (!more(c, until)) return false;
    }
    out->body = realloc(out->body, out->body_len + n + 1);
    assert_non_null(out->body);
    if (n) memcpy(out->body + out->body_len, c->buf, n);
    out->body_len += n;
    out->body[out->body_len] = '\0';
    if (n) drop(c, n);
    return true;
}

static bool get_chunks(hc *c, hc_reply *out, double until) {
    for (;;) {
        char *end;
        while (!c->len || !(end = strstr(c->buf, "\r\n"))) {
            if (!more(c, until)) return false;
        }
        size_t n = strtoul(c->buf, NULL, 16);
        drop(c, (size_t)(end - c->buf) + 2);
        if (!take(c, out, n, until)) return false;
        while (c->len < 2) {
            if (!more(c, until)) return false;
        }
        drop(c, 2);
        if (!n) return true;
    }
}

bool hc_reply_get(hc *c, hc_reply *out, bool head_only) {
    double until = pr_now() + patience;
    char text[64];
    *out = (hc_reply){0};
    bool ok = get_head(c, out, until);
    if (!ok) out->status = 0;
    if (!ok || !take(c, out, 0, until)) return ok;
    if (head_only || out->status == 304 || out->status == 204 || out->status == 100) return true;
    if (strcasecmp(hc_header(out, "Transfer-Encoding", text, sizeof text), "chunked") == 0) {
        return get_chunks(c, out, until);
    }
    return take(c, out, strtoul(hc_header(out, "Content-Length", text, sizeof text), NULL, 10), until);
}

void hc_reply_free(hc_reply *reply) {
    free(reply->body);
    *reply = (hc_reply){0};
}

hc_reply hc_ask(uint16_t port, const char *text) {
    hc c = hc_open(port);
    hc_reply reply;
    hc_puts(&c, text);
    hc_reply_get(&c, &reply, strncmp(text, "HEAD", 4) == 0);
    hc_close(&c);
    return reply;
}

bool hc_wait_for(hc *c, const char *text, double seconds) {
    double until = pr_now() + seconds;
    while (!c->len || !strstr(c->buf, text)) {
        if (!more(c, until)) return false;
    }
    return true;
}

bool hc_wait_closed(hc *c, double seconds) {
    double until = pr_now() + seconds;
    while (more(c, until)) continue;
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    char byte;
    return poll(&p, 1, 0) > 0 && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0;
}
