#include "http/guard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static pr_http_field field(const char *name, const char *value) {
    return (pr_http_field){name, strlen(name), value, strlen(value)};
}

static void framing_is_read(void **state) {
    (void)state;
    pr_http_framing f;
    pr_http_field all[] = {field("host", "x"), field("CONTENT-LENGTH", "42 "), field("Expect", "100-continue")};
    assert_null(pr_http_guard_fields(all, 3, true, &f));
    assert_true(f.has_length && f.expects && !f.chunked);
    assert_int_equal(f.length, 42);
    all[1] = field("Transfer-Encoding", "Chunked");
    assert_null(pr_http_guard_fields(all, 2, true, &f));
    assert_true(f.chunked && !f.has_length);
    assert_null(pr_http_guard_fields(NULL, 0, false, &f));
    assert_string_equal(pr_http_guard_fields(NULL, 0, true, &f), "no Host");
}

static void check_fields(const char *name, const char *value, const char *why) {
    pr_http_framing f;
    const pr_http_field all[] = {field("Host", "x"), field("Content-Length", "1"), field(name, value)};
    const char *got = pr_http_guard_fields(all, 3, true, &f);
    if (!why) assert_null(got);
    else assert_string_equal(got ? got : "nothing", why);
}

static void two_readings_are_refused(void **state) {
    (void)state;
    check_fields("X", "\tgr\xc3\xbc\xc3\x9f", NULL);
    check_fields("content-length", "1", "more than one Content-Length");
    check_fields("transfer-encoding", "chunked", "Content-Length beside Transfer-Encoding");
    check_fields("transfer-encoding", "identity", "Transfer-Encoding is not chunked");
    check_fields("HOST", "y", "more than one Host");
    check_fields("X Y", "z", "a header name is not a token");
    check_fields("", "z", "a header name is not a token");
    check_fields("X", "a\rb", "a header value holds a control character");
    check_fields("X", "a\x7f", "a header value holds a control character");
}

static const char *target(const char *text) { return pr_http_guard_target(text, strlen(text)); }

static void targets_are_plain_paths(void **state) {
    (void)state;
    static const char *const good[] = {"/", "/a/b?c=d/../e", "/...", "/.well-known", "/a..", "/%41", "/a?b=%0a", "//"};
    static const char *const bad[] = {"",     "a",       "*",    "http://a/", "/.",   "/a/..", "/../a",
                                      "/./",  "/a/..?x", "/a b", "/%",        "/%4",  "/a%g0", "/%00",
                                      "/%7f", "/?%00",   "/a#b", "/\x80",     "/a\n", "/?%1"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_null(target(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (!target(bad[i])) print_message("taken: %s\n", bad[i]);
        assert_non_null(target(bad[i]));
    }
    assert_null(pr_http_guard_method("DELETE"));
    assert_non_null(pr_http_guard_method(""));
    assert_non_null(pr_http_guard_method("GE\"T"));
    assert_non_null(pr_http_guard_method("ABCDEFGHIJKLMNOPQRSTU"));
}

static void queries_are_cut_and_unescaped(void **state) {
    (void)state;
    pr_http_field f[3];
    size_t n;
    char query[] = "a=1%202+3&&b&=x";
    assert_true(pr_http_query_parse(query, f, 3, &n));
    assert_int_equal(n, 3);
    assert_string_equal(f[0].name, "a");
    assert_string_equal(f[0].value, "1 2 3");
    assert_int_equal(f[0].value_len, 5);
    assert_string_equal(f[1].name, "b");
    assert_string_equal(f[1].value, "");
    assert_string_equal(f[2].name, "");
    char four[] = "a&b&c&d", broken[] = "a=%4", nul[] = "a=%00", none[] = "";
    assert_false(pr_http_query_parse(four, f, 3, &n));
    assert_false(pr_http_query_parse(broken, f, 3, &n));
    assert_false(pr_http_query_parse(nul, f, 3, &n));
    assert_true(pr_http_query_parse(none, f, 3, &n));
    assert_int_equal(n, 0);
    char path[] = "a+b%2Fc";
    n = strlen(path);
    assert_true(pr_http_unescape(path, &n, false));
    assert_string_equal(path, "a+b/c");
}

static void bearer_tokens_are_found(void **state) {
    (void)state;
    const char *token;
    size_t len;
    assert_true(pr_http_bearer("bearer  sk-1_2.3~4+5/6== ", &token, &len));
    assert_int_equal(len, 16);
    assert_memory_equal(token, "sk-1_2.3~4+5/6==", 16);
    static const char *const bad[] = {"",          "Bearer",     "Bearer ",    "Bearerx",
                                      "Basic abc", "Bearer a b", "Bearer a,b", "Bearer \xc3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(pr_http_bearer(bad[i], &token, &len));
    char text[600] = "Bearer ";
    memset(text + 7, 'a', 513);
    assert_false(pr_http_bearer(text, &token, &len));
    text[7 + 512] = '\0';
    assert_true(pr_http_bearer(text, &token, &len));
}

static void ids_are_short_and_plain(void **state) {
    (void)state;
    char text[66];
    memset(text, 'a', 65);
    text[65] = '\0';
    assert_false(pr_http_id_ok(text));
    text[64] = '\0';
    assert_true(pr_http_id_ok(text));
    assert_true(pr_http_id_ok("A.b_9-"));
    assert_false(pr_http_id_ok(""));
    assert_false(pr_http_id_ok("a b"));
    assert_false(pr_http_id_ok("a\"b"));
}

static void local_hosts_are_known(void **state) {
    (void)state;
    static const char *const local[] = {"localhost",      "LocalHost:80", "127.0.0.1",
                                        "127.8.9.1:8000", "[::1]",        "[::1]:8000"};
    static const char *const other[] = {
        "",     "local", "localhost.evil", "127.0.0.1.evil", "evil:127.0.0.1", "[::2]",
        "[::1", "[",     "localhost:x",    "10.0.0.1",       "127.",           "[::1]x"};
    for (size_t i = 0; i < sizeof local / sizeof *local; i++) assert_true(pr_http_host_is_local(local[i]));
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        if (pr_http_host_is_local(other[i])) print_message("local: %s\n", other[i]);
        assert_false(pr_http_host_is_local(other[i]));
    }
    assert_true(pr_http_origin_is_host("http://a:1", "A:1"));
    assert_false(pr_http_origin_is_host("http://a:1", "a"));
    assert_false(pr_http_origin_is_host("null", "null"));
}

static void routes_fit(void **state) {
    (void)state;
    const char *p;
    size_t n;
    assert_true(pr_http_route_fits("/a/b", "/a/b", &p, &n));
    assert_int_equal(n, 0);
    assert_false(pr_http_route_fits("/a/b", "/a/bc", &p, &n));
    assert_false(pr_http_route_fits("/a/b", "/a", &p, &n));
    assert_true(pr_http_route_fits("/a/{x}/c", "/a/b1/c", &p, &n));
    assert_int_equal(n, 2);
    assert_memory_equal(p, "b1", 2);
    assert_false(pr_http_route_fits("/a/{x}/c", "/a//c", &p, &n));
    assert_false(pr_http_route_fits("/a/{x}/c", "/a/b/d/c", &p, &n));
    assert_false(pr_http_route_fits("/a/{x}", "/a/b/c", &p, &n));
    assert_true(pr_http_route_fits("/a/{x*}", "/a/b/c", &p, &n));
    assert_int_equal(n, 3);
    assert_false(pr_http_route_fits("/a/{x*}", "/a/", &p, &n));
    assert_false(pr_http_route_fits("/a/{x", "/a/b", &p, &n));
}

static void etags_are_listed(void **state) {
    (void)state;
    assert_true(pr_http_etag_listed("\"a\"", "\"a\""));
    assert_true(pr_http_etag_listed("\"x\", W/\"a\" ,\"y\"", "\"a\""));
    assert_true(pr_http_etag_listed("*", "\"a\""));
    assert_false(pr_http_etag_listed("", "\"a\""));
    assert_false(pr_http_etag_listed("\"ab\"", "\"a\""));
    assert_false(pr_http_etag_listed(" , ", "\"a\""));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(framing_is_read),         cmocka_unit_test(two_readings_are_refused),
        cmocka_unit_test(targets_are_plain_paths), cmocka_unit_test(queries_are_cut_and_unescaped),
        cmocka_unit_test(bearer_tokens_are_found), cmocka_unit_test(ids_are_short_and_plain),
        cmocka_unit_test(local_hosts_are_known),   cmocka_unit_test(routes_fit),
        cmocka_unit_test(etags_are_listed),
    };
    return cmocka_run_group_tests_name("guard", tests, NULL, NULL);
}
