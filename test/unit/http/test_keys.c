#include "http/keys.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"

/* SHA-256 of "open-sesame" and of "second". */
#define FIRST  "d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7"
#define SECOND "16367AACB67A4A017C8DA8AB95682CCB390863780F7114DDA0A0E0C55644C7C4"

static pr_keys *parse(const char *text) {
    pr_keys *keys;
    pr_err err = {0};
    pr_status status = pr_keys_parse(text, strlen(text), "keys", &keys, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, PR_OK);
    return keys;
}

static void finds_a_key_by_its_secret(void **state) {
    (void)state;
    pr_keys *keys = parse("# who may ask\n\n  alice " FIRST "  # office\r\nbob\t" SECOND " rpm=6 concurrent=2");
    assert_int_equal(pr_keys_count(keys), 2);
    pr_key *alice = pr_keys_find(keys, "open-sesame", 11), *bob = pr_keys_find(keys, "second", 6);
    assert_string_equal(pr_key_name(alice), "alice");
    assert_string_equal(pr_key_name(bob), "bob");
    assert_null(pr_keys_find(keys, "open-sesam", 10));
    assert_null(pr_keys_find(keys, "", 0));
    assert_null(pr_keys_find(keys, FIRST, 64)); /* the hash opens nothing */
    pr_keys_close(keys);
}

static void limits_requests_a_minute(void **state) {
    (void)state;
    pr_keys *keys = parse("bob " SECOND " rpm=6");
    pr_key *bob = pr_keys_find(keys, "second", 6);
    uint32_t after;
    for (int i = 0; i < 6; i++) assert_true(pr_key_admit(bob, 100, &after));
    assert_false(pr_key_admit(bob, 100, &after));
    assert_int_equal(after, 10);
    assert_false(pr_key_admit(bob, 109.5, &after));
    assert_int_equal(after, 1);
    assert_true(pr_key_admit(bob, 110.5, &after));
    assert_false(pr_key_admit(bob, 105, &after));                             /* a clock that goes back gives nothing */
    for (int i = 0; i < 6; i++) assert_true(pr_key_admit(bob, 1000, &after)); /* never more than a minute's worth */
    assert_false(pr_key_admit(bob, 1000, &after));
    pr_keys_close(keys);
}

static void limits_requests_at_a_time(void **state) {
    (void)state;
    pr_keys *keys = parse("bob " SECOND " concurrent=2\nalice " FIRST);
    pr_key *bob = pr_keys_find(keys, "second", 6), *alice = pr_keys_find(keys, "open-sesame", 11);
    uint32_t after;
    assert_true(pr_key_admit(bob, 1, &after));
    assert_true(pr_key_admit(bob, 1, &after));
    assert_false(pr_key_admit(bob, 1, &after));
    assert_int_equal(after, 1);
    pr_key_release(bob);
    assert_true(pr_key_admit(bob, 1, &after));
    for (int i = 0; i < 1000; i++) assert_true(pr_key_admit(alice, 1, &after));
    pr_keys_close(keys);
}

static void check_bad(const char *text, const char *why) {
    pr_keys *keys;
    pr_err err = {0};
    assert_int_equal(pr_keys_parse(text, strlen(text), "keys", &keys, &err), PR_ERR_FORMAT);
    if (!strstr(err.text, why)) print_message("%s\n", err.text);
    assert_non_null(strstr(err.text, why));
    assert_null(keys);
}

static void bad_files_are_refused_by_line(void **state) {
    (void)state;
    size_t held = pr_mem_total();
    check_bad("", "keys: no key in it");
    check_bad("# nobody\n", "keys: no key in it");
    check_bad("a " FIRST "\nalice", "keys, line 2: a key needs a name");
    check_bad("a\"b " FIRST, "line 1: a key's name");
    check_bad("alice open-sesame", "\"alice\" is not 64 hex digits");
    check_bad("alice " FIRST "00", "\"alice\" is not 64 hex digits");
    check_bad("alice " FIRST " rpm=0", "neither rpm=N nor");
    check_bad("alice " FIRST " rpm=x", "neither rpm=N nor");
    check_bad("alice " FIRST " speed=1", "neither rpm=N nor");
    check_bad("alice " FIRST " rpm=1 concurrent=1 rpm=2 rpm=3", "too many words");
    check_bad("alice " FIRST "\nalice " SECOND, "line 2: key \"alice\" is there twice");
    check_bad("alice " FIRST "\nbob " FIRST, "line 2: key \"bob\" is there twice");
    pr_keys *keys;
    assert_int_equal(pr_keys_parse("a\0b", 3, "keys", &keys, NULL), PR_ERR_FORMAT);
    assert_int_equal(pr_keys_load("/nowhere/keys", &keys, NULL), PR_ERR_NOTFOUND);
    pr_keys_close(NULL);
    assert_int_equal(pr_mem_total(), held);
}

static void loads_a_file(void **state) {
    (void)state;
    char path[] = "/tmp/precis-keys-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "alice " FIRST "\n", 71), 71);
    close(fd);
    pr_keys *keys;
    assert_int_equal(pr_keys_load(path, &keys, NULL), PR_OK);
    assert_int_equal(pr_keys_count(keys), 1);
    pr_keys_close(keys);
    unlink(path);
}

static void write_file(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    fclose(f);
}

static void a_reload_goes_by_names(void **state) {
    (void)state;
    char path[] = "/tmp/precis-keys-XXXXXX";
    close(mkstemp(path));
    pr_keys *keys = parse("alice " FIRST " concurrent=1\nbob " SECOND);
    pr_key *alice = pr_keys_find(keys, "open-sesame", 11), *bob = pr_keys_find(keys, "second", 6);
    uint32_t after;
    assert_true(pr_key_admit(alice, 1, &after));
    assert_true(pr_key_admit(bob, 1, &after));

    write_file(path, "alice " SECOND " concurrent=2\ncarol " FIRST " rpm=1\n");
    assert_int_equal(pr_keys_reload(keys, path, NULL), PR_OK);
    assert_int_equal(pr_keys_count(keys), 2);
    assert_ptr_equal(pr_keys_find(keys, "second", 6), alice); /* another secret, the same key */
    pr_key *carol = pr_keys_find(keys, "open-sesame", 11);
    assert_string_equal(pr_key_name(carol), "carol");
    assert_true(pr_key_admit(alice, 1, &after));
    assert_false(pr_key_admit(alice, 1, &after)); /* what ran before counts */
    assert_true(pr_key_admit(carol, 1, &after));
    assert_false(pr_key_admit(carol, 1, &after));
    pr_key_release(bob); /* he is gone, his request was not */

    static const char *const bad[] = {"", "alice nonsense\n", "alice " FIRST "\nalice " SECOND "\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file(path, bad[i]);
        assert_int_equal(pr_keys_reload(keys, path, NULL), PR_ERR_FORMAT);
        assert_ptr_equal(pr_keys_find(keys, "second", 6), alice);
    }
    write_file(path, "bob " FIRST "\n");
    assert_int_equal(pr_keys_reload(keys, path, NULL), PR_OK);
    assert_ptr_equal(pr_keys_find(keys, "open-sesame", 11), bob); /* back again */
    assert_null(pr_keys_find(keys, "second", 6));
    pr_keys_close(keys);
    unlink(path);
}

static void *ask_again_and_again(void *arg) {
    pr_keys *keys = arg;
    uint32_t after;
    for (int i = 0; i < 5000; i++) {
        pr_key *key = pr_keys_find(keys, "open-sesame", 11);
        if (key && pr_key_admit(key, i, &after)) pr_key_release(key);
    }
    return NULL;
}

static void a_reload_stops_nobody(void **state) {
    (void)state;
    char path[] = "/tmp/precis-keys-XXXXXX";
    pthread_t asking;
    close(mkstemp(path));
    pr_keys *keys = parse("alice " FIRST " rpm=100");
    assert_int_equal(pthread_create(&asking, NULL, ask_again_and_again, keys), 0);
    for (int i = 0; i < 100; i++) {
        static const char *const files[] = {"bob " FIRST "\n", "alice " FIRST " concurrent=1\n", "alice " SECOND "\n"};
        write_file(path, files[i % 3]);
        assert_int_equal(pr_keys_reload(keys, path, NULL), PR_OK);
        assert_int_equal(pr_keys_count(keys), 1);
    }
    pthread_join(asking, NULL);
    pr_keys_close(keys);
    unlink(path);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    size_t held = pr_mem_total();
    bool failed = true;
    for (int n = 0; failed; n++) {
        pr_keys *keys;
        static const char text[] = "alice " FIRST "\nbob " SECOND;
        pr_mem_fail_after(n, false);
        pr_status status = pr_keys_parse(text, sizeof text - 1, "keys", &keys, NULL);
        failed = pr_mem_failed();
        pr_mem_fail_after(-1, false);
        assert_int_equal(status, failed ? PR_ERR_NOMEM : PR_OK);
        pr_keys_close(keys);
        assert_int_equal(pr_mem_total(), held);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_a_key_by_its_secret),
        cmocka_unit_test(limits_requests_a_minute),
        cmocka_unit_test(limits_requests_at_a_time),
        cmocka_unit_test(bad_files_are_refused_by_line),
        cmocka_unit_test(loads_a_file),
        cmocka_unit_test(a_reload_goes_by_names),
        cmocka_unit_test(a_reload_stops_nobody),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("keys", tests, NULL, NULL);
}
