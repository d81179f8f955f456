#include "base/notify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

/* A manager's socket at this address, '@' for the abstract name space. */
static int listen_at(const char *address) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    size_t len = strlen(address);
    memcpy(at.sun_path, address, len);
    if (address[0] == '@') at.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)), 0);
    setenv("NOTIFY_SOCKET", address, 1);
    return fd;
}

static void hears(int fd, const char *text) {
    char got[2048];
    ssize_t n = recv(fd, got, sizeof got - 1, 0);
    assert_true(n > 0);
    got[n] = '\0';
    assert_string_equal(got, text);
}

static void a_manager_hears_it(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "/tmp/precis-notify-%ld", (long)getpid());
    int fd = listen_at(path);
    assert_true(pr_notify("READY=1\nSTATUS=%d models", 3));
    hears(fd, "READY=1\nSTATUS=3 models");
    close(fd);
    assert_false(pr_notify("READY=1")); /* nobody listens there any more */
    unlink(path);
    assert_false(pr_notify("READY=1"));
}

static void an_abstract_address_is_one(void **state) {
    (void)state;
    char name[64];
    snprintf(name, sizeof name, "@precis-notify-%ld", (long)getpid());
    int fd = listen_at(name);
    assert_true(pr_notify("STOPPING=1"));
    hears(fd, "STOPPING=1");
    close(fd);
}

static void what_cannot_be_said_is_not(void **state) {
    (void)state;
    char name[64], longer[1100], far[200];
    unsetenv("NOTIFY_SOCKET");
    assert_false(pr_notify("READY=1"));
    snprintf(name, sizeof name, "@precis-notify-%ld", (long)getpid());
    int fd = listen_at(name);
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    assert_false(pr_notify("%s", longer));
    memset(far, 'x', sizeof far - 1);
    far[sizeof far - 1] = '\0';
    static const char *const bad[] = {"", "/", "relative", "vsock:2:1234"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        setenv("NOTIFY_SOCKET", bad[i], 1);
        assert_false(pr_notify("READY=1"));
    }
    far[0] = '/';
    setenv("NOTIFY_SOCKET", far, 1);
    assert_false(pr_notify("READY=1"));
    close(fd);
}

static void the_watchdog_is_ours_or_none(void **state) {
    (void)state;
    char pid[32];
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    assert_true(pr_notify_watchdog_seconds() == 0);
    setenv("WATCHDOG_USEC", "2500000", 1);
    assert_true(pr_notify_watchdog_seconds() == 2.5);
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    setenv("WATCHDOG_PID", pid, 1);
    assert_true(pr_notify_watchdog_seconds() == 2.5);
    setenv("WATCHDOG_PID", "1", 1);
    assert_true(pr_notify_watchdog_seconds() == 0);
    unsetenv("WATCHDOG_PID");
    setenv("WATCHDOG_USEC", "soon", 1);
    assert_true(pr_notify_watchdog_seconds() == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_manager_hears_it),
        cmocka_unit_test(an_abstract_address_is_one),
        cmocka_unit_test(what_cannot_be_said_is_not),
        cmocka_unit_test(the_watchdog_is_ours_or_none),
    };
    return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
