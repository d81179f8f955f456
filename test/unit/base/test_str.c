#include "base/str.h"

#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void builds_text(void **state) {
    (void)state;
    pr_str s = {0};
    pr_str_puts(&s, "one");
    pr_str_append(&s, "\0two", 4);
    pr_str_printf(&s, "%d%s", 3, "!");
    assert_true(pr_str_ok(&s));
    assert_int_equal(s.len, 9);
    assert_memory_equal(s.data, "one\0two3!", 10);
    pr_str_clear(&s);
    assert_int_equal(s.len, 0);
    assert_string_equal(s.data, "");
    for (int i = 0; i < 10000; i++) pr_str_printf(&s, "%d,", i % 10);
    assert_int_equal(s.len, 20000);
    char *text = pr_str_take(&s);
    assert_int_equal(strlen(text), 20000);
    assert_null(s.data);
    pr_free(text);
}

static void empty_takes_as_empty(void **state) {
    (void)state;
    pr_str s = {0};
    char *text = pr_str_take(&s);
    assert_string_equal(text, "");
    pr_free(text);
    pr_str_free(&s);
}

static void failure_is_remembered(void **state) {
    (void)state;
    size_t before = pr_mem_total();
    pr_str s = {0};
    pr_str_puts(&s, "kept");
    char big[500];
    memset(big, 'b', sizeof big);
    pr_mem_fail_after(0, false);
    pr_str_append(&s, big, sizeof big);
    pr_str_puts(&s, "x"); /* would fit, but the text has a hole already */
    assert_false(pr_str_ok(&s));
    assert_int_equal(s.len, 4);
    assert_null(pr_str_take(&s));
    assert_int_equal(pr_mem_total(), before);
    pr_str_append(&s, big, SIZE_MAX);
    assert_false(pr_str_ok(&s));
    pr_str_free(&s);
    assert_int_equal(pr_mem_total(), before);
    pr_mem_fail_after(-1, false);
}

static void check_json(const char *text, size_t len, const char *want) {
    pr_str s = {0};
    pr_str_json(&s, text, len);
    assert_true(pr_str_ok(&s));
    assert_string_equal(s.data, want);
    pr_str_free(&s);
}

static void escapes_json(void **state) {
    (void)state;
    check_json("", 0, "\"\"");
    check_json("plain", 5, "\"plain\"");
    check_json("a\"b\\c/\n\t\r\b\f", 11, "\"a\\\"b\\\\c/\\n\\t\\r\\b\\f\"");
    check_json("\0\x1f\x7f", 3, "\"\\u0000\\u001f\\u007f\"");
    check_json("seven b\x7fytes and more", 21, "\"seven b\\u007fytes and more\""); /* within eight plain bytes */
    /* what moves a cursor or turns letters around: C1, a mark, an override, an isolate, a line's end */
    check_json("\xc2\x9b\xe2\x80\x8f\xe2\x80\xae\xe2\x81\xa6\xe2\x80\xa8", 14,
               "\"\\u009b\\u200f\\u202e\\u2066\\u2028\"");
    check_json("\xc2\xa0\xe2\x80\x8d", 5, "\"\xc2\xa0\xe2\x80\x8d\""); /* a space and a joiner do not */
    check_json("gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80", 11, "\"gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80\"");
    check_json("a\xff\xe2\x82z\xc3", 6, "\"a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\"");
    check_json("\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""); /* a surrogate */
}

static void formats_sizes(void **state) {
    (void)state;
    const struct {
        uint64_t bytes;
        const char *want;
    } rows[] = {
        {0, "0 B"},       {999, "999 B"},      {1000, "1.0 kB"},       {1049, "1.0 kB"},
        {12345, "12 kB"}, {93000000, "93 MB"}, {999499, "999 kB"},     {999600, "1.0 MB"},
        {9949, "9.9 kB"}, {9960, "10 kB"},     {1400000000, "1.4 GB"}, {UINT64_MAX, "18 EB"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char buf[32];
        assert_string_equal(pr_format_bytes(buf, sizeof buf, rows[i].bytes), rows[i].want);
    }
}

static void parses_sizes(void **state) {
    (void)state;
    const struct {
        const char *text;
        uint64_t want;
    } good[] = {
        {"0", 0},
        {"4096", 4096},
        {"12B", 12},
        {"2G", 2000000000},
        {"90M", 90000000},
        {"1.5GB", 1500000000},
        {"1.4 GB", 1400000000},
        {"2GiB", (uint64_t)2 << 30},
        {"0.5k", 500},
        {"3kib", 3072},
        {"1.25MiB", 1310720},
        {"2t", 2000000000000},
        {"1.23456789k", 1234},
        {"18446744073709551615", UINT64_MAX},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        uint64_t n = 1;
        if (!pr_parse_bytes(good[i].text, &n)) fail_msg("refused \"%s\"", good[i].text);
        assert_true(n == good[i].want);
    }
    const char *const bad[] = {"",
                               "G",
                               "-1",
                               "1.5",
                               "1.G",
                               ".5G",
                               "2X",
                               "2GG",
                               "2Gi",
                               "1 2G",
                               "1GB ",
                               " 1G",
                               "1e3",
                               "0x10",
                               "1  G",
                               "18446744073709551616",
                               "18446744073709551615k"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t n = 77;
        if (pr_parse_bytes(bad[i], &n)) fail_msg("took \"%s\"", bad[i]);
        assert_int_equal(n, 77);
    }
}

static void parses_whole_numbers(void **state) {
    (void)state;
    uint32_t a = 5;
    uint64_t b = 5;
    assert_true(pr_parse_u32("4294967295", &a));
    assert_true(a == UINT32_MAX);
    assert_true(pr_parse_u32("0xfF", &a));
    assert_int_equal(a, 255);
    assert_false(pr_parse_u32("4294967296", &a));
    assert_true(pr_parse_u64("0xffffffffffffffff", &b));
    assert_true(b == UINT64_MAX);
    const char *const bad[] = {"", "-1", "+1", " 1", "1 ", "0x", "12a", "0xg", "18446744073709551616", "1.0"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (pr_parse_u64(bad[i], &b)) fail_msg("took \"%s\"", bad[i]);
    }
    assert_int_equal(a, 255);
}

static void parses_floats(void **state) {
    (void)state;
    setlocale(LC_ALL, "de_DE.UTF-8"); /* where there is one: must change nothing */
    double f = 1;
    assert_true(pr_parse_f64("0.7", &f));
    assert_true(f == 0.7);
    assert_true(pr_parse_f64("-1e-3", &f));
    assert_true(f == -1e-3);
    assert_true(pr_parse_f64("5", &f));
    assert_true(f == 5);
    const char *const bad[] = {"", "nan", "inf", "1e999", "0,7", "1 ", " 1", "0x1p3", "1.2.3", "e", "-", "1e"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (pr_parse_f64(bad[i], &f)) fail_msg("took \"%s\"", bad[i]);
    }
    assert_true(f == 5);
    setlocale(LC_ALL, "C");
}

static void utf8_goes_round(void **state) {
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
        if (cp >= 0xd800 && cp <= 0xdfff) continue;
        char text[4];
        int32_t back;
        size_t n = pr_utf8_encode(cp, text);
        if (pr_utf8_decode(text, n, &back) != n || back != (int32_t)cp) fail_msg("U+%04X", cp);
        if (pr_utf8_len((unsigned char)text[0]) != n) fail_msg("length of U+%04X", cp);
        if (n > 1 && (pr_utf8_decode(text, n - 1, &back) != 1 || back != -1)) fail_msg("U+%04X cut", cp);
    }
}

static void utf8_refuses_what_is_not(void **state) {
    (void)state;
    const char *const bad[] = {
        "\x80",         "\xc0\x80",     "\xc1\xbf",         "\xe0\x80\x80",     "\xe0\x9f\xbf",
        "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
        "\xff",         "\xc3z",        "\xe2\x82z"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int32_t cp = 0;
        assert_int_equal(pr_utf8_decode(bad[i], strlen(bad[i]), &cp), 1);
        assert_int_equal(cp, -1);
    }
}

static void utf8_tail_is_left_out(void **state) {
    (void)state;
    const struct {
        const char *text;
        size_t want;
    } rows[] = {
        {"", 0},      {"abc", 3},          {"a\xc3", 1},         {"a\xc3\xbc", 3},        {"a\xe2\x82", 1},
        {"\xe2", 0},  {"\xf0\x9f\x98", 0}, {"x\xf0\x9f\x98", 1}, {"\xf0\x9f\x98\x80", 4}, {"\x80\x80\x80\x80", 4},
        {"a\xff", 2}, {"\xc3\xbc\xf0", 2},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(pr_utf8_complete(rows[i].text, strlen(rows[i].text)), rows[i].want);
    }
}

static void check_safe(const char *text, const char *want) {
    char out[256];
    pr_str s = {0};
    assert_string_equal(pr_text_safe(out, sizeof out, text), want);
    assert_string_equal(pr_text_safe(out, sizeof out, want), want); /* what is safe stays as it is */
    pr_str_line(&s, "%s", text);
    assert_true(pr_str_ok(&s));
    assert_int_equal(s.len, strlen(want) + 1);
    assert_memory_equal(s.data, want, strlen(want));
    assert_string_equal(s.data + strlen(want), "\n");
    pr_str_free(&s);
}

static void makes_text_safe(void **state) {
    (void)state;
    check_safe("", "");
    check_safe("plain \\n /path/gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80",
               "plain \\n /path/gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80");
    check_safe("a\nb\rc\td", "a\\nb\\rc\\td");
    check_safe("\x1b[2J\x07\x01\x1f\x7f", "\\x1b[2J\\x07\\x01\\x1f\\x7f");
    check_safe("\xc2\x9b"
               "31m\xc2\x80\xc2\x9f\xc2\xa0",
               "\\u009b31m\\u0080\\u009f\xc2\xa0"); /* CSI in one character */
    check_safe("\x9b"
               "31m \xff\xc3",
               "\\x9b31m \\xff\\xc3");             /* not UTF-8 */
    check_safe("\xed\xa0\x80", "\\xed\\xa0\\x80"); /* a surrogate */
    check_safe("fdp\xe2\x80\xaegpj.exe\xe2\x81\xa6\xe2\x80\xa8", "fdp\\u202egpj.exe\\u2066\\u2028");
    for (int c = 1; c < 256; c++) { /* every byte, alone and before another */
        char text[3] = {(char)c, 'z', '\0'}, out[32];
        pr_text_safe(out, sizeof out, text);
        for (char *p = out; *p; p++) assert_true(*p >= 0x20 && *p < 0x7f);
    }
}

/* Cut within its room, never within a character or an escape. */
static void safe_text_is_cut(void **state) {
    (void)state;
    static const char text[] = "ab\x1b\xc3\xbcz";
    static const char *const want[] = {
        "", "a", "ab", "ab", "ab", "ab", "ab\\x1b", "ab\\x1b", "ab\\x1b\xc3\xbc", "ab\\x1b\xc3\xbcz"};
    char out[16];
    for (size_t room = 1; room <= sizeof want / sizeof *want; room++) {
        memset(out, '#', sizeof out);
        assert_string_equal(pr_text_safe(out, room, text), want[room - 1]);
        for (size_t i = room; i < sizeof out; i++) assert_int_equal(out[i], '#');
    }
    memset(out, '#', sizeof out);
    pr_text_safe(out, 0, text);
    assert_int_equal(out[0], '#');
}

static void prefixes_and_suffixes(void **state) {
    (void)state;
    assert_true(pr_str_starts("blk.0.attn", "blk."));
    assert_false(pr_str_starts("bl", "blk."));
    assert_true(pr_str_ends("model.gguf", ".gguf"));
    assert_false(pr_str_ends("gguf", ".gguf"));
    assert_true(pr_str_ends("x", ""));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(builds_text),           cmocka_unit_test(empty_takes_as_empty),
        cmocka_unit_test(failure_is_remembered), cmocka_unit_test(escapes_json),
        cmocka_unit_test(formats_sizes),         cmocka_unit_test(parses_sizes),
        cmocka_unit_test(parses_whole_numbers),  cmocka_unit_test(parses_floats),
        cmocka_unit_test(utf8_goes_round),       cmocka_unit_test(utf8_refuses_what_is_not),
        cmocka_unit_test(utf8_tail_is_left_out), cmocka_unit_test(prefixes_and_suffixes),
        cmocka_unit_test(makes_text_safe),       cmocka_unit_test(safe_text_is_cut),
    };
    return cmocka_run_group_tests_name("str", tests, NULL, NULL);
}
