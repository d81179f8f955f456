/*
 * The server over real sockets on 127.0.0.1: routing, keep-alive, bodies, refusals, origins, keys, the access log.
 */
#include "http/server.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/os.h"
#include "base/str.h"
#include "support/http_client.h"

#define GET(path) "GET " path " HTTP/1.1\r\nHost: localhost\r\n\r\n"

/* ---- what the server of these tests does ---- */

static void say_hello(pr_http_req *req, void *arg) {
    pr_http_reply(req, 200, "application/json", NULL, 0, arg, strlen(arg));
}

/* Tells what it was asked: method, parameter, query x, body length and text. */
static void tell(pr_http_req *req, void *arg) {
    (void)arg;
    pr_str s = {0};
    size_t len;
    const char *body = pr_http_req_body(req, &len), *x = pr_http_req_query(req, "x");
    pr_str_printf(&s, "%s|%s|%s|%zu|%.20s|%s|%s", pr_http_req_method(req), pr_http_req_param(req), x ? x : "-", len,
                  body, pr_http_req_peer(req), pr_http_req_key(req));
    len = s.len;
    pr_http_reply_owned(req, 200, "text/plain", NULL, 0, pr_str_take(&s), len);
}

static void say_nothing(pr_http_req *req, void *arg) {
    (void)req;
    (void)arg;
}

static void send_page(pr_http_req *req, void *arg) {
    (void)arg;
    static const pr_http_asset page = {.type = "text/html", .etag = "\"v1\"", .data = "<p>page</p>", .len = 11};
    pr_http_reply_asset(req, &page);
}

static void reply_twice(pr_http_req *req, void *arg) {
    (void)arg;
    const pr_http_header bad = {"X-Bad", "a\r\nSet-Cookie: b"}, good = {"X-Good", "yes"};
    assert_int_equal(pr_http_reply(req, 200, "text/plain", &bad, 1, "one", 3), PR_ERR_ARG);
    assert_int_equal(pr_http_reply(req, 201, "text/plain", &good, 1, "one", 3), PR_OK);
    assert_int_equal(pr_http_reply(req, 200, "text/plain", NULL, 0, "two", 3), PR_ERR_ARG);
    assert_int_equal(pr_http_stream_send(req, "x", 1), PR_ERR_ARG);
}

static const pr_http_route routes[] = {
    {"GET", "/hello", say_hello, "{\"hello\":1}", 0, 0},
    {"GET", "/open", say_hello, "{}", 0, PR_HTTP_OPEN},
    {"POST", "/tell", tell, NULL, 0, 0},
    {"DELETE", "/tell", tell, NULL, 0, 0},
    {"GET", "/models/{id}", tell, NULL, 0, 0},
    {"GET", "/files/{path*}", tell, NULL, 0, 0},
    {"POST", "/small", tell, NULL, 10, 0},
    {"GET", "/nothing", say_nothing, NULL, 0, 0},
    {"GET", "/page", send_page, NULL, 0, PR_HTTP_OPEN},
    {"GET", "/twice", reply_twice, NULL, 0, 0},
};

static pr_http_server *start(pr_http_opts *opts) {
    pr_http_server *server;
    pr_err err = {0};
    opts->routes = routes;
    opts->n_routes = sizeof routes / sizeof *routes;
    pr_status status = pr_http_open(opts, &server, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, PR_OK);
    return server;
}

static pr_http_server *the_server;
static uint16_t port;
static size_t held;

static int setup(void **state) {
    (void)state;
    held = pr_mem_total();
    the_server = start(&(pr_http_opts){.body_bytes_max = 1000});
    port = pr_http_port(the_server);
    return port ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    pr_http_close(the_server);
    return pr_mem_total() == held ? 0 : -1;
}

static void check(const char *request, int status, const char *body) {
    hc_reply r = hc_ask(port, request);
    if (r.status != status) print_message("asked: %.80s\n", request);
    assert_int_equal(r.status, status);
    if (body) assert_string_equal(r.body, body);
    hc_reply_free(&r);
}

/* ---- routing and replies ---- */

static void answers_a_request(void **state) {
    (void)state;
    char text[100];
    hc_reply r = hc_ask(port, GET("/hello"));
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, "{\"hello\":1}");
    assert_string_equal(hc_header(&r, "Content-Type", text, sizeof text), "application/json");
    assert_string_equal(hc_header(&r, "Content-Length", text, sizeof text), "11");
    assert_int_equal(strlen(hc_header(&r, "X-Request-Id", text, sizeof text)), 20);
    assert_true(*hc_header(&r, "Date", text, sizeof text));
    hc_reply_free(&r);
}

static void takes_a_request_id_over_when_it_is_well_formed(void **state) {
    (void)state;
    char text[100];
    hc_reply r = hc_ask(port, "GET /hello HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: abc-1.2_Z\r\n\r\n");
    assert_string_equal(hc_header(&r, "X-Request-Id", text, sizeof text), "abc-1.2_Z");
    hc_reply_free(&r);
    r = hc_ask(port, "GET /hello HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a b\"\r\n\r\n");
    assert_memory_equal(hc_header(&r, "X-Request-Id", text, sizeof text), "req-", 4);
    hc_reply_free(&r);
}

static void routes_by_method_and_path(void **state) {
    (void)state;
    check(GET("/models/smol%2Flm"), 200, "GET|smol/lm|-|0||127.0.0.1|");
    check(GET("/models/a?x=1%20+2&y"), 200, "GET|a|1  2|0||127.0.0.1|");
    check(GET("/files/a/b.js?x"), 200, "GET|a/b.js||0||127.0.0.1|");
    check(GET("/models/"), 404, NULL);
    check(GET("/models/a/b"), 404, NULL);
    check(GET("/hello/"), 404, NULL);
    check(GET("/%68ello"), 404, NULL);
    check(GET("/hello?x=%zz"), 400, NULL);
    check(GET("/nowhere"), 404,
          "{\"error\":{\"message\":\"there is no /nowhere here\",\"type\":\"not_found_error\",\"param\":null,"
          "\"code\":\"not_found\"}}");
    check("DELETE /tell HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi", 200, "DELETE||-|2|hi|127.0.0.1|");
}

static void a_wrong_method_is_told_the_right_ones(void **state) {
    (void)state;
    char text[100];
    hc_reply r = hc_ask(port, GET("/tell"));
    assert_int_equal(r.status, 405);
    assert_string_equal(hc_header(&r, "Allow", text, sizeof text), "POST, DELETE, OPTIONS");
    hc_reply_free(&r);
    r = hc_ask(port, "OPTIONS /hello HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_int_equal(r.status, 204);
    assert_string_equal(hc_header(&r, "Allow", text, sizeof text), "GET, HEAD, OPTIONS");
    hc_reply_free(&r);
}

static void head_has_no_body(void **state) {
    (void)state;
    char text[100];
    hc c = hc_open(port);
    hc_reply r;
    hc_puts(&c, "HEAD /hello HTTP/1.1\r\nHost: localhost\r\n\r\n" GET("/hello"));
    assert_true(hc_reply_get(&c, &r, true));
    assert_int_equal(r.status, 200);
    assert_string_equal(hc_header(&r, "Content-Length", text, sizeof text), "11");
    hc_reply_free(&r);
    assert_true(hc_reply_get(&c, &r, false)); /* begins where the body would */
    assert_int_equal(r.status, 200);
    hc_reply_free(&r);
    hc_close(&c);
}

static void a_handler_that_forgets_is_answered_for(void **state) {
    (void)state;
    check(GET("/nothing"), 500, NULL);
}

static void one_reply_with_clean_headers(void **state) {
    (void)state;
    char text[100];
    hc_reply r = hc_ask(port, GET("/twice"));
    assert_int_equal(r.status, 201);
    assert_string_equal(r.body, "one");
    assert_string_equal(hc_header(&r, "X-Good", text, sizeof text), "yes");
    assert_null(strstr(r.head, "Set-Cookie"));
    hc_reply_free(&r);
}

static void assets_are_not_sent_twice(void **state) {
    (void)state;
    char text[100];
    hc_reply r = hc_ask(port, GET("/page"));
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, "<p>page</p>");
    assert_string_equal(hc_header(&r, "ETag", text, sizeof text), "\"v1\"");
    hc_reply_free(&r);
    check("GET /page HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: \"v0\", W/\"v1\"\r\n\r\n", 304, NULL);
    check("GET /page HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: \"v2\"\r\n\r\n", 200, "<p>page</p>");
}

/* ---- connections ---- */

static void keeps_a_connection(void **state) {
    (void)state;
    hc c = hc_open(port);
    for (int i = 0; i < 50; i++) {
        hc_reply r;
        hc_puts(&c, i % 2 ? GET("/hello") : GET("/nowhere"));
        assert_true(hc_reply_get(&c, &r, false));
        assert_int_equal(r.status, i % 2 ? 200 : 404);
        hc_reply_free(&r);
    }
    hc_close(&c);
}

static void answers_pipelined_requests_in_order(void **state) {
    (void)state;
    hc c = hc_open(port);
    char all[4096] = "", want[64];
    for (int i = 0; i < 20; i++) {
        size_t len = strlen(all);
        snprintf(all + len, sizeof all - len,
                 "POST /tell?x=%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", i);
    }
    hc_puts(&c, all);
    for (int i = 0; i < 20; i++) {
        hc_reply r;
        assert_true(hc_reply_get(&c, &r, false));
        snprintf(want, sizeof want, "POST||%d|3|abc|127.0.0.1|", i);
        assert_string_equal(r.body, want);
        hc_reply_free(&r);
    }
    hc_close(&c);
}

static void a_half_closed_client_gets_an_immediate_answer(void **state) {
    (void)state;
    hc c = hc_open(port);
    hc_reply r;
    hc_puts(&c, GET("/hello"));
    shutdown(c.fd, SHUT_WR);
    assert_true(hc_reply_get(&c, &r, false));
    assert_int_equal(r.status, 200);
    hc_reply_free(&r);
    assert_true(hc_wait_closed(&c, 5));
    hc_close(&c);
    c = hc_open(port); /* in the middle of its headers: nothing to answer */
    hc_puts(&c, "GET /hello HTTP/1.1\r\nHost: loc");
    shutdown(c.fd, SHUT_WR);
    assert_true(hc_wait_closed(&c, 5));
    hc_close(&c);
    c = hc_open(port); /* in the middle of its body */
    hc_puts(&c, "POST /tell HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc");
    shutdown(c.fd, SHUT_WR);
    assert_true(hc_wait_closed(&c, 5));
    hc_close(&c);
}

static void http_1_0_closes(void **state) {
    (void)state;
    hc c = hc_open(port);
    hc_reply r;
    hc_puts(&c, "GET /hello HTTP/1.0\r\n\r\n");
    assert_true(hc_reply_get(&c, &r, false));
    assert_int_equal(r.status, 200);
    hc_reply_free(&r);
    assert_true(hc_wait_closed(&c, 5));
    hc_close(&c);
}

/* ---- bodies ---- */

#define POST(path, fields, body) "POST " path " HTTP/1.1\r\nHost: localhost\r\n" fields "\r\n" body

static void reads_bodies(void **state) {
    (void)state;
    check(POST("/tell", "Content-Length: 5\r\n", "hello"), 200, "POST||-|5|hello|127.0.0.1|");
    check(POST("/tell", "Content-Length: 0\r\n", ""), 200, "POST||-|0||127.0.0.1|");
    check(POST("/tell", "", ""), 200, "POST||-|0||127.0.0.1|");
    check(POST("/tell", "Transfer-Encoding: chunked\r\n", "3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"), 200,
          "POST||-|5|hello|127.0.0.1|");
    hc c = hc_open(port);
    hc_reply r;
    hc_puts(&c, POST("/tell", "Expect: 100-continue\r\nContent-Length: 2\r\n", ""));
    assert_true(hc_reply_get(&c, &r, false));
    assert_int_equal(r.status, 100);
    hc_reply_free(&r);
    hc_puts(&c, "hi");
    assert_true(hc_reply_get(&c, &r, false));
    assert_string_equal(r.body, "POST||-|2|hi|127.0.0.1|");
    hc_reply_free(&r);
    hc_close(&c);
}

static void bodies_have_a_limit(void **state) {
    (void)state;
    check(POST("/small", "Content-Length: 10\r\n", "0123456789"), 200, NULL);
    check(POST("/small", "Content-Length: 11\r\n", "01234567890"), 413, NULL);
    check(POST("/small", "Transfer-Encoding: chunked\r\n", "b\r\n01234567890\r\n0\r\n\r\n"), 413, NULL);
    check(POST("/small", "Transfer-Encoding: chunked\r\n", "a\r\n0123456789\r\n0\r\n\r\n"), 200, NULL);
    check(POST("/tell", "Content-Length: 999999999999\r\n", ""), 413, NULL);
    check(POST("/tell", "Content-Length: 99999999999999999999\r\n", ""), 413, NULL);
    check(POST("/tell", "Expect: 100-continue\r\nContent-Length: 2000\r\n", ""), 413, NULL);
    hc c = hc_open(port); /* the connection lives on after a small body that nobody wanted */
    hc_reply r;
    hc_puts(&c, POST("/small", "Content-Length: 11\r\n", "01234567890") GET("/hello"));
    assert_true(hc_reply_get(&c, &r, false));
    assert_int_equal(r.status, 413);
    hc_reply_free(&r);
    assert_true(hc_reply_get(&c, &r, false));
    assert_int_equal(r.status, 200);
    hc_reply_free(&r);
    hc_close(&c);
}

static void bodies_share_a_limit(void **state) {
    (void)state;
    pr_http_server *s = start(&(pr_http_opts){.body_total_max = 3000, .body_bytes_max = 2500});
    hc one = hc_open(pr_http_port(s));
    hc_puts(&one, POST("/tell", "Content-Length: 2000\r\n", "abc"));
    pr_http_stats stats = {0};
    for (int i = 0; i < 500 && !stats.body_bytes; i++) {
        usleep(10000);
        pr_http_stats_get(s, &stats);
    }
    assert_in_range(stats.body_bytes, 2001, 3000);
    char text[64];
    hc_reply r = hc_ask(pr_http_port(s), POST("/tell", "Content-Length: 2000\r\n", "abc"));
    assert_int_equal(r.status, 0); /* its body never came, so it got no answer before it left */
    hc_reply_free(&r);
    char request[2200] = POST("/tell", "Content-Length: 2000\r\n", "");
    size_t head = strlen(request);
    memset(request + head, 'x', 2000);
    r = hc_ask(pr_http_port(s), request);
    assert_int_equal(r.status, 503);
    assert_string_equal(hc_header(&r, "Retry-After", text, sizeof text), "1");
    hc_reply_free(&r);
    hc_close(&one);
    pr_http_close(s);
}

/* A client that sends all of a body before it reads still gets to read that it was too long. */
static void a_refusal_survives_the_body(void **state) {
    (void)state;
    enum { BODY = 2 << 20 };
    static const char *const heads[] = {POST("/tell", "Content-Length: 2097152\r\n", ""),
                                        POST("/tell", "Transfer-Encoding: chunked\r\n", "200000\r\n")};
    char *body = calloc(1, BODY);
    char text[64];
    assert_non_null(body);
    for (int i = 0; i < 8; i++) {
        hc c = hc_open(port);
        hc_reply r;
        hc_puts(&c, heads[i & 1]);
        assert_int_equal(send(c.fd, body, BODY, MSG_NOSIGNAL), BODY);
        assert_int_equal(send(c.fd, "\r\n0\r\n\r\n", 7, MSG_NOSIGNAL), 7);
        assert_true(hc_reply_get(&c, &r, false));
        assert_int_equal(r.status, 413);
        assert_string_equal(hc_header(&r, "Content-Type", text, sizeof text), "application/json");
        hc_reply_free(&r);
        hc_close(&c);
    }
    free(body);
}

/* ---- malformed requests ---- */

typedef struct bad_request {
    const char *text;
    size_t len;
} bad_request;

#define BAD(text)                                                                                                      \
    { text, sizeof text - 1 }

static const bad_request bad_requests[] = {
    BAD(POST("/tell", "Content-Length: 3\r\nContent-Length: 3\r\n", "abc")),
    BAD(POST("/tell", "Content-Length: 3\r\nContent-Length: 4\r\n", "abcd")),
    BAD(POST("/tell", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n")),
    BAD(POST("/tell", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "3\r\nabc\r\n0\r\n\r\n")),
    BAD(POST("/tell", "Transfer-Encoding: gzip\r\nContent-Length: 3\r\n", "abc")),
    BAD(POST("/tell", "Transfer-Encoding: gzip, chunked\r\n", "3\r\nabc\r\n0\r\n\r\n")),
    BAD(POST("/tell", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
    BAD("POST /tell HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    BAD(POST("/tell", "Content-Length: -3\r\n", "abc")),
    BAD(POST("/tell", "Content-Length: +3\r\n", "abc")),
    BAD(POST("/tell", "Content-Length: 3, 3\r\n", "abc")),
    BAD(POST("/tell", "Content-Length: 0x3\r\n", "abc")),
    BAD(POST("/tell", "Content-Length:\r\n", "abc")),
    BAD(POST("/tell", "Content-Length : 3\r\n", "abc")),
    BAD(POST("/tell", "Transfer-Encoding: chunked\r\n", "zz\r\nabc\r\n0\r\n\r\n")),
    BAD(POST("/tell", "Transfer-Encoding: chunked\r\n", "3\r\nabcXX0\r\n\r\n")),
    BAD(POST("/tell", "Transfer-Encoding: chunked\r\n", "-1\r\nabc\r\n0\r\n\r\n")),
    BAD("GET http://localhost/hello HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("GET hello HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("GET /../hello HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("GET /a/./b HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("GET /hello%00 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("GET /hello%0a HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("GET /hello%2 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("GET /hel\0lo HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("GET /hello\0 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("GET /h\xc3\xa4llo HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("GET /hello#part HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("GET  /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("GET /hello HTTP/1.1\r\n\r\n"),
    BAD("GET /hello HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n\r\n"),
    BAD("GET /hello HTTP/1.1\r\nHost: localhost\r\nA: b\0c\r\nD: e\r\n\r\n"),
    BAD("GET /hello HTTP/1.1\r\nHost: localhost\r\nA: b\0c\r\n\r\n"),
    BAD("GET /hello HTTP/1.1\r\nHost: localhost\r\nA: b\0\r\n\r\n"),
    BAD("GET /hello HTTP/1.1\r\nHost: localhost\r\nA: b\0\0\r\n\r\n"),
    BAD("GET /hello HTTP/1.1\r\nHost: localhost\r\nA:\0\r\n\r\n"),
    BAD(POST("/tell", "Content-Length: 3\0\r\n", "abc")),
    BAD(POST("/tell", "Transfer-Encoding: chunked\0\r\n", "0\r\n\r\n")),
    BAD("GET /hello HTTP/1.1\r\nHost: localhost\r\nA\0b: c\r\n\r\n"),
    BAD("GET /hello HTTP/1.1\r\nHost: localhost\r\nA: b\r\n folded\r\n\r\n"),
    BAD("GET /hello HTTP/1.1\r\nHost: localhost\r\nA: b\rC: d\r\n\r\n"),
    BAD("GET /hello HTTP/1.1\r\nHost: localhost\r\nA: b\x01\r\n\r\n"),
    BAD("GET /hello HTTP/1.1\r\nHost: localhost\r\nA B: c\r\n\r\n"),
    BAD("GET /hello HTTP/1.1\r\nHost: localhost\r\n: c\r\nD: e\r\n\r\n"),
    BAD("GET /hello HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n"),
    BAD("GET /hello HTTP/1.1\nHost: localhost\nA: b\n\n"),
    BAD("G(T /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    BAD("GET /hello\r\n\r\n"),
    BAD("GET /hello HTTP/1.1x\r\nHost: localhost\r\n\r\n"),
};

static void malformed_requests_are_refused_and_end_the_connection(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad_requests / sizeof *bad_requests; i++) {
        hc c = hc_open(port);
        hc_reply r;
        hc_send(&c, bad_requests[i].text, bad_requests[i].len);
        hc_send(&c, GET("/hello"), sizeof GET("/hello") - 1); /* must not be answered */
        hc_reply_get(&c, &r, false);
        if (r.status != 400) print_message("request %zu: %d %.60s\n", i, r.status, bad_requests[i].text);
        assert_int_equal(r.status, 400);
        hc_reply_free(&r);
        bool second = hc_reply_get(&c, &r, false);
        if (second) print_message("request %zu let another through: %.60s\n", i, bad_requests[i].text);
        assert_false(second);
        hc_reply_free(&r);
        assert_true(hc_wait_closed(&c, 5));
        hc_close(&c);
    }
}

static void other_nonsense_ends_the_connection(void **state) {
    (void)state;
    static const char *const nonsense[] = {"\x16\x03\x01\x02\r\n\r\n", "GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
                                           "GET /hello HTTP/2.0\r\nHost: localhost\r\n\r\n"};
    for (size_t i = 0; i < 3; i++) {
        hc c = hc_open(port);
        hc_puts(&c, nonsense[i]);
        assert_true(hc_wait_closed(&c, 5));
        hc_close(&c);
    }
    check(GET("/hello"), 200, NULL);
}

static void headers_have_a_limit(void **state) {
    (void)state;
    static char text[80000];
    size_t len = (size_t)snprintf(text, sizeof text, "GET /hello HTTP/1.1\r\nHost: localhost\r\n");
    for (int i = 0; i < 120; i++) len += (size_t)snprintf(text + len, sizeof text - len, "H%d: x\r\n", i);
    snprintf(text + len, sizeof text - len, "\r\n");
    check(text, 400, NULL);
    len = (size_t)snprintf(text, sizeof text, "GET /hello HTTP/1.1\r\nHost: localhost\r\n");
    for (int i = 0; i < 20; i++) len += (size_t)snprintf(text + len, sizeof text - len, "H%d: %0900d\r\n", i, 0);
    snprintf(text + len, sizeof text - len, "\r\n");
    check(text, 431, NULL);
    len = (size_t)snprintf(text, sizeof text, "GET /hello HTTP/1.1\r\nHost: localhost\r\nH: %070000d\r\n\r\n", 0);
    hc c = hc_open(port);
    hc_send(&c, text, len);
    assert_true(hc_wait_closed(&c, 5));
    hc_close(&c);
}

/* ---- origins ---- */

static void other_pages_are_kept_out(void **state) {
    (void)state;
    check("GET /hello HTTP/1.1\r\nHost: localhost:1\r\nOrigin: http://evil.example\r\n\r\n", 403, NULL);
    check("GET /hello HTTP/1.1\r\nHost: localhost:1\r\nOrigin: null\r\n\r\n", 403, NULL);
    check("GET /hello HTTP/1.1\r\nHost: localhost:1\r\nOrigin: http://localhost:1\r\n\r\n", 200, NULL);
    check("GET /hello HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403, NULL);
    check("GET /hello HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n", 403, NULL);
    check("GET /hello HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", 200, NULL);
}

static void listed_origins_may_ask(void **state) {
    (void)state;
    static const char *const origins[] = {"https://app.example", "http://other.example:3000"};
    pr_http_server *s = start(&(pr_http_opts){.origins = origins, .n_origins = 2});
    char text[100];
    hc_reply r = hc_ask(pr_http_port(s),
                        "GET /hello HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example\r\n\r\n");
    assert_int_equal(r.status, 200);
    assert_string_equal(hc_header(&r, "Access-Control-Allow-Origin", text, sizeof text), "https://app.example");
    assert_string_equal(hc_header(&r, "Vary", text, sizeof text), "Origin");
    hc_reply_free(&r);
    r = hc_ask(pr_http_port(s), "OPTIONS /tell HTTP/1.1\r\nHost: localhost\r\nOrigin: http://other.example:3000\r\n"
                                "Access-Control-Request-Method: POST\r\n"
                                "Access-Control-Request-Headers: authorization\r\n\r\n");
    assert_int_equal(r.status, 204);
    assert_string_equal(hc_header(&r, "Access-Control-Allow-Methods", text, sizeof text), "POST, DELETE, OPTIONS");
    assert_string_equal(hc_header(&r, "Access-Control-Allow-Headers", text, sizeof text), "authorization");
    hc_reply_free(&r);
    r = hc_ask(pr_http_port(s), "GET /hello HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example.evil\r\n\r\n");
    assert_int_equal(r.status, 403);
    assert_string_equal(hc_header(&r, "Access-Control-Allow-Origin", text, sizeof text), "");
    hc_reply_free(&r);
    pr_http_close(s);
}

/* ---- keys ---- */

/* printf %s open-sesame | sha256sum; printf %s second | sha256sum */
static const char keys_text[] = "alice d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7\n"
                                "bob 16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4 rpm=2\n";

static void keys_are_needed_where_they_are_set(void **state) {
    (void)state;
    pr_keys *keys;
    assert_int_equal(pr_keys_parse(keys_text, strlen(keys_text), "keys", &keys, NULL), PR_OK);
    pr_http_server *s = start(&(pr_http_opts){.keys = keys});
    uint16_t before = port;
    port = pr_http_port(s);
    check(GET("/open"), 200, "{}");
    check(GET("/hello"), 401, NULL);
    check("GET /hello HTTP/1.1\r\nHost: elsewhere\r\nAuthorization: Bearer wrong\r\n\r\n", 401,
          "{\"error\":{\"message\":\"the API key is not known here\",\"type\":\"authentication_error\",\"param\":null,"
          "\"code\":\"invalid_api_key\"}}");
    check("GET /hello HTTP/1.1\r\nHost: elsewhere\r\nAuthorization: Basic b3Blbg==\r\n\r\n", 401, NULL);
    check("GET /models/m HTTP/1.1\r\nHost: elsewhere\r\nAuthorization: Bearer open-sesame\r\n\r\n", 200,
          "GET|m|-|0||127.0.0.1|alice");
    static const char bob[] = "GET /models/m HTTP/1.1\r\nHost: elsewhere\r\nAuthorization: bearer  second\r\n\r\n";
    check(bob, 200, "GET|m|-|0||127.0.0.1|bob");
    check(bob, 200, NULL);
    char text[64];
    hc_reply r = hc_ask(port, bob);
    assert_int_equal(r.status, 429);
    assert_string_equal(hc_header(&r, "Retry-After", text, sizeof text), "30");
    hc_reply_free(&r);
    r = hc_ask(port, GET("/hello"));
    assert_string_equal(hc_header(&r, "WWW-Authenticate", text, sizeof text), "Bearer");
    hc_reply_free(&r);
    port = before;
    pr_http_close(s);
    pr_keys_close(keys);
}

static void other_machines_need_keys(void **state) {
    (void)state;
    pr_http_server *s;
    pr_err err = {0};
    pr_http_opts opts = {.host = "0.0.0.0", .routes = routes, .n_routes = 1};
    assert_int_equal(pr_http_open(&opts, &s, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "needs API keys"));
    assert_null(s);
    opts.host = "not.a.host.invalid";
    assert_int_equal(pr_http_open(&opts, &s, &err), PR_ERR_IO);
    opts.host = NULL;
    opts.port = port; /* taken */
    assert_int_equal(pr_http_open(&opts, &s, &err), PR_ERR_IO);
    assert_non_null(strstr(err.text, "cannot listen on 127.0.0.1"));
    pr_http_close(NULL);
}

/* ---- the access log ---- */

typedef struct heard {
    pthread_mutex_t lock;
    char line[1024];
} heard;

static void listen_to(void *arg, pr_log_level level, const char *line) {
    heard *h = arg;
    pthread_mutex_lock(&h->lock);
    if (level == PR_LOG_INFO) snprintf(h->line, sizeof h->line, "%s", line);
    pthread_mutex_unlock(&h->lock);
}

static void each_request_is_one_line_of_json(void **state) {
    (void)state;
    heard h = {.lock = PTHREAD_MUTEX_INITIALIZER};
    pr_log_set(listen_to, &h, PR_LOG_INFO);
    check("GET /hello?secret=1 HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: log-1\r\n\r\n", 200, NULL);
    for (int i = 0; i < 500; i++) {
        pthread_mutex_lock(&h.lock);
        bool there = h.line[0];
        pthread_mutex_unlock(&h.lock);
        if (there) break;
        usleep(10000);
    }
    pr_log_set(NULL, NULL, PR_LOG_DEBUG);
    static const char want[] =
        "{\"event\":\"request\",\"id\":\"log-1\",\"method\":\"GET\",\"path\":\"/hello\",\"route\":\"/hello\","
        "\"status\":200,\"bytes\":11,\"received\":0,\"seconds\":0.";
    assert_memory_equal(h.line, want, sizeof want - 1);
    assert_non_null(strstr(h.line, "\"key\":\"\",\"peer\":\"127.0.0.1\",\"gone\":false}"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_a_request),
        cmocka_unit_test(takes_a_request_id_over_when_it_is_well_formed),
        cmocka_unit_test(routes_by_method_and_path),
        cmocka_unit_test(a_wrong_method_is_told_the_right_ones),
        cmocka_unit_test(head_has_no_body),
        cmocka_unit_test(a_handler_that_forgets_is_answered_for),
        cmocka_unit_test(one_reply_with_clean_headers),
        cmocka_unit_test(assets_are_not_sent_twice),
        cmocka_unit_test(keeps_a_connection),
        cmocka_unit_test(answers_pipelined_requests_in_order),
        cmocka_unit_test(a_half_closed_client_gets_an_immediate_answer),
        cmocka_unit_test(http_1_0_closes),
        cmocka_unit_test(reads_bodies),
        cmocka_unit_test(bodies_have_a_limit),
        cmocka_unit_test(bodies_share_a_limit),
        cmocka_unit_test(a_refusal_survives_the_body),
        cmocka_unit_test(malformed_requests_are_refused_and_end_the_connection),
        cmocka_unit_test(other_nonsense_ends_the_connection),
        cmocka_unit_test(headers_have_a_limit),
        cmocka_unit_test(other_pages_are_kept_out),
        cmocka_unit_test(listed_origins_may_ask),
        cmocka_unit_test(keys_are_needed_where_they_are_set),
        cmocka_unit_test(other_machines_need_keys),
        cmocka_unit_test(each_request_is_one_line_of_json),
    };
    return cmocka_run_group_tests_name("server", tests, setup, teardown);
}
