/*
 * gzip: who takes it, what is worth it, bytes that come back the same; and replies that are compressed only where they may be.
 */
#include "http/gzip.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <zlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/str.h"
#include "http/server.h"
#include "support/http_client.h"

enum { LONG = 5000 };

static char text[LONG + 1]; /* JSON that compresses well */

static void accept_encoding_is_read(void **state) {
    (void)state;
    static const char *const yes[] = {"gzip",       "GZIP",           "deflate, gzip",  "gzip;q=0.5",
                                      "gzip ; q=1", "br;q=1, *;q=.1", "x-gzip",         "*",
                                      " ,gzip",     "gzip;q=0.001",   "identity, gzip", "*;q=0, gzip;q=1"};
    static const char *const no[] = {"",        "identity",        "gzip;q=0", "gzip;q=0.000", "*;q=0",    "gzipped",
                                     "gzip;q=", "*;q=1, gzip;q=0", "gzip;x=1", "zip",          "gzip q=1", ","};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        if (!pr_http_gzip_accepted(yes[i])) print_message("refused: %s\n", yes[i]);
        assert_true(pr_http_gzip_accepted(yes[i]));
    }
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        if (pr_http_gzip_accepted(no[i])) print_message("accepted: %s\n", no[i]);
        assert_false(pr_http_gzip_accepted(no[i]));
    }
    assert_false(pr_http_gzip_accepted(NULL));
}

static void only_long_text_is_worth_it(void **state) {
    (void)state;
    assert_true(pr_http_gzip_worth("application/json", 1024));
    assert_true(pr_http_gzip_worth("text/plain; version=0.0.4", 1024));
    assert_false(pr_http_gzip_worth("application/json", 1023));
    assert_false(pr_http_gzip_worth("text/event-stream", 1 << 20));
    assert_false(pr_http_gzip_worth("image/png", 1 << 20));
    assert_false(pr_http_gzip_worth(NULL, 1 << 20));
}

static size_t unzip(const void *data, size_t len, char *out, size_t cap) {
    z_stream z = {.next_in = (Bytef *)(uintptr_t)data,
                  .avail_in = (uInt)len,
                  .next_out = (Bytef *)(void *)out,
                  .avail_out = (uInt)cap};
    assert_int_equal(inflateInit2(&z, 15 + 16), Z_OK);
    assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
    size_t n = z.total_out;
    inflateEnd(&z);
    return n;
}

static void bytes_come_back(void **state) {
    (void)state;
    size_t held = pr_mem_total(), n;
    void *small;
    char back[LONG];
    assert_int_equal(pr_http_gzip(text, LONG, &small, &n), PR_OK);
    assert_true(n < LONG / 4);
    assert_int_equal(unzip(small, n, back, sizeof back), LONG);
    assert_memory_equal(back, text, LONG);
    pr_free(small);
    unsigned char noise[2000];
    uint32_t x = 1;
    for (size_t i = 0; i < sizeof noise; i++) noise[i] = (unsigned char)((x = x * 1664525u + 1013904223u) >> 24);
    assert_int_equal(pr_http_gzip(noise, sizeof noise, &small, &n), PR_ERR_LIMIT);
    assert_null(small);
    assert_int_equal(pr_mem_total(), held);
}

static void memory_may_run_out(void **state) {
    (void)state;
    size_t held = pr_mem_total();
    for (int i = 0;; i++) {
        void *small;
        size_t n;
        pr_mem_fail_after(i, true);
        pr_status st = pr_http_gzip(text, LONG, &small, &n);
        pr_mem_fail_after(-1, false);
        if (st == PR_OK) {
            pr_free(small);
            assert_true(i > 1);
            break;
        }
        assert_int_equal(st, PR_ERR_NOMEM);
        assert_int_equal(pr_mem_total(), held);
    }
}

/* ---- over a socket ---- */

static void say_long(pr_http_req *req, void *arg) { pr_http_reply(req, 200, arg, NULL, 0, text, LONG); }

static void say_short(pr_http_req *req, void *arg) {
    (void)arg;
    pr_http_reply(req, 200, "application/json", NULL, 0, "{}", 2);
}

static void stream(pr_http_req *req, void *arg) {
    (void)arg;
    pr_http_stream_begin(req, "text/event-stream", NULL, 0);
    pr_http_stream_send(req, text, LONG);
    pr_http_stream_end(req);
}

static void asset(pr_http_req *req, void *arg) {
    (void)arg;
    static const pr_http_header more[] = {{"X-More", "yes"}};
    static const pr_http_asset file = {"text/css", "W/\"v1\"", "plain", 5, "zip", 3, more, 1};
    pr_http_reply_asset(req, &file);
}

static pr_http_server *server;

static int setup(void **state) {
    static const pr_http_route routes[] = {
        {"GET", "/json", say_long, "application/json", 0, 0},
        {"GET", "/bytes", say_long, "application/x", 0, 0},
        {"GET", "/short", say_short, NULL, 0, 0},
        {"GET", "/stream", stream, NULL, 0, 0},
        {"GET", "/asset", asset, NULL, 0, 0},
    };
    pr_err err = {0};
    (void)state;
    for (size_t i = 0; i < LONG; i++) text[i] = "{\"a\":[1,2,3]}"[i % 13];
    return pr_http_open(&(pr_http_opts){.routes = routes, .n_routes = 5}, &server, &err) == PR_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    pr_http_close(server);
    return 0;
}

/* Ask with or without gzip; what the reply says of its coding. */
static hc_reply ask(const char *path, const char *more, const char *coding, const char *vary) {
    char request[300], value[100];
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", path, more);
    hc_reply r = hc_ask(pr_http_port(server), request);
    const char *got = hc_header(&r, "Content-Encoding", value, sizeof value);
    assert_string_equal(got ? got : "", coding);
    got = hc_header(&r, "Vary", value, sizeof value);
    assert_string_equal(got ? got : "", vary);
    return r;
}

static void replies_are_compressed_where_they_may_be(void **state) {
    (void)state;
    static const char *const take = "Accept-Encoding: gzip\r\n";
    hc_reply r = ask("/json", take, "gzip", "Accept-Encoding");
    char back[LONG];
    assert_int_equal(unzip(r.body, r.body_len, back, sizeof back), LONG);
    assert_memory_equal(back, text, LONG);
    hc_reply_free(&r);
    r = ask("/json", "", "", "Accept-Encoding");
    assert_string_equal(r.body, text);
    hc_reply_free(&r);
    static const char *const plain[] = {"/bytes", "/short", "/stream"};
    for (int i = 0; i < 3; i++) {
        r = ask(plain[i], take, "", "");
        assert_int_equal(r.status, 200);
        hc_reply_free(&r);
    }
}

static void assets_come_as_they_are_taken(void **state) {
    (void)state;
    char value[100];
    hc_reply r = ask("/asset", "Accept-Encoding: gzip\r\n", "gzip", "Accept-Encoding");
    assert_string_equal(r.body, "zip");
    assert_string_equal(hc_header(&r, "X-More", value, sizeof value), "yes");
    assert_string_equal(hc_header(&r, "ETag", value, sizeof value), "W/\"v1\"");
    hc_reply_free(&r);
    r = ask("/asset", "", "", "Accept-Encoding");
    assert_string_equal(r.body, "plain");
    hc_reply_free(&r);
    r = ask("/asset", "Accept-Encoding: gzip\r\nIf-None-Match: W/\"v1\"\r\n", "", "Accept-Encoding");
    assert_int_equal(r.status, 304);
    hc_reply_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accept_encoding_is_read),
        cmocka_unit_test(only_long_text_is_worth_it),
        cmocka_unit_test(bytes_come_back),
        cmocka_unit_test(memory_may_run_out),
        cmocka_unit_test(replies_are_compressed_where_they_may_be),
        cmocka_unit_test(assets_come_as_they_are_taken),
    };
    return cmocka_run_group_tests_name("gzip", tests, setup, teardown);
}
