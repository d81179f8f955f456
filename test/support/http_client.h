/*
 * Test support: a raw HTTP client on one socket to 127.0.0.1, that sends exactly the bytes it is told to.
 *
 * Whatever it waits for it waits for at most some seconds. Nothing here asserts but for the connection itself.
 */
#ifndef PRECIS_TEST_HTTP_CLIENT_H
#define PRECIS_TEST_HTTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct hc {
    int fd;
    char *buf; /* received, not yet given out */
    size_t len, cap;
} hc;

typedef struct hc_reply {
    int status; /* 0: the connection ended, or nothing came in time */
    char head[4096];
    char *body; /* terminated; hc_reply_free() */
    size_t body_len;
} hc_reply;

hc hc_open(uint16_t port);
void hc_close(hc *c);
void hc_send(hc *c, const char *bytes, size_t len);
void hc_puts(hc *c, const char *text);

/* The next reply, chunked or not; head_only for replies to HEAD. false: see status. */
bool hc_reply_get(hc *c, hc_reply *out, bool head_only);
void hc_reply_free(hc_reply *reply);
/* Value of a header of the reply into out, "" when there is none. */
const char *hc_header(const hc_reply *reply, const char *name, char *out, size_t cap);

/* Send text, get one reply, close. The reply is to be freed. */
hc_reply hc_ask(uint16_t port, const char *text);

/* Wait until the bytes received so far hold text; false when it does not come in time or the peer closes before. */
bool hc_wait_for(hc *c, const char *text, double seconds);
/* Wait until the peer closes; false when it does not in time. */
bool hc_wait_closed(hc *c, double seconds);

#endif
