/*
 * Telling a service manager how it goes.
 *
 * The whole protocol is one datagram to a socket that the environment names, so it is spoken here and not by libsystemd,
 * which would be a dependency for a dozen lines and is not everywhere. An address that begins with '@' is in the abstract
 * name space: a zero byte stands for the '@'.
 */
#include "base/notify.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/str.h"

enum { MESSAGE_MAX = 1024 };

bool pr_notify(const char *fmt, ...) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    char message[MESSAGE_MAX];
    size_t len = path ? strlen(path) : 0;
    if (len < 2 || len >= sizeof to.sun_path || (path[0] != '/' && path[0] != '@')) return false;
    memcpy(to.sun_path, path, len);
    if (path[0] == '@') to.sun_path[0] = '\0';
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    if (n <= 0 || n >= MESSAGE_MAX) return false;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return false;
    socklen_t to_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    ssize_t sent = sendto(fd, message, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&to, to_len);
    close(fd);
    return sent == n;
}

double pr_notify_watchdog_seconds(void) {
    const char *microseconds = getenv("WATCHDOG_USEC"), *process = getenv("WATCHDOG_PID");
    uint64_t n = 0, pid = 0;
    if (!microseconds || !pr_parse_u64(microseconds, &n)) return 0;
    if (process && (!pr_parse_u64(process, &pid) || pid != (uint64_t)getpid())) return 0; /* a child inherits both */
    return (double)n * 1e-6;
}
