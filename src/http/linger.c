/*
 * Lingering: closing a connection so that its last answer arrives.
 *
 * A socket that is closed while bytes lie unread in it, or that gets more after it was closed, answers with a reset, and a
 * reset makes the peer forget what it has not read yet: the refusal of a body that is too long, sent whole, would be lost
 * with it (RFC 9112, 9.6). So when the library is about to close, a second descriptor keeps the connection: it sends no more,
 * and what comes is read and dropped until the peer closes, too, or has used up its time or its bytes.
 *
 * The second descriptor belongs to the watch, which sleeps in epoll anyway. There is room for PR__LINGERERS_MAX; who comes
 * when all is taken is closed at once, with the reset. Reading amid the request instead would cost no descriptor, but the
 * library cannot answer before it has read all of a body, and what it refuses by itself (headers over its memory, bad chunks)
 * we do not see before it closes.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/os.h"
#include "http/server_impl.h"

enum { LINGER_BYTES_MAX = 16 << 20, READ_BYTES = 16 << 10, READS_MAX = 16 };

static const double linger_seconds = 5;

typedef enum left { LEFT_MORE, LEFT_NOTHING, LEFT_ENDED } left;

/* Read and drop some of what has come: is there more, or will there be any? */
static left drop(int fd, size_t *bytes) {
    char buffer[READ_BYTES];
    for (int i = 0; i < READS_MAX; i++) {
        ssize_t n = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return LEFT_NOTHING;
        if (n <= 0) return LEFT_ENDED;
        *bytes += (size_t)n;
    }
    return LEFT_MORE;
}

bool pr__linger_open(pr_http_server *s) {
    s->lingerers = pr_calloc(PR_TAG_HTTP, PR__LINGERERS_MAX, sizeof *s->lingerers);
    if (!s->lingerers) return false;
    for (int i = 0; i < PR__LINGERERS_MAX; i++) s->lingerers[i].fd = -1;
    return true;
}

void pr__linger_begin(pr_http_server *s, const pr__conn *c) {
    size_t bytes = 0;
    if (c->cut || atomic_load(&s->draining) || s->n_lingering >= s->lingerers_max) return;
    if (drop(c->fd, &bytes) == LEFT_ENDED) return; /* as most do: the peer closed first */
    uint32_t i = 0;
    while (s->lingerers[i].fd >= 0) i++;
    pr__lingerer *l = &s->lingerers[i];
    int fd = fcntl(c->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) return;
    l->generation++;
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP,
                                .data.u64 = (uint64_t)l->generation << 32 | (s->n_conns + i)};
    if (shutdown(fd, SHUT_WR) != 0 || epoll_ctl(s->watch_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        close(fd);
        return;
    }
    l->fd = fd;
    l->bytes = bytes;
    l->deadline = pr_now() + linger_seconds;
    s->n_lingering++;
}

static void end(pr_http_server *s, pr__lingerer *l) {
    close(l->fd); /* the last descriptor of it: it leaves the epoll set, too */
    l->fd = -1;
    s->n_lingering--;
}

void pr__linger_event(pr_http_server *s, uint32_t slot, uint32_t generation) {
    if (slot < s->n_conns || slot - s->n_conns >= PR__LINGERERS_MAX) return;
    pr__lingerer *l = &s->lingerers[slot - s->n_conns];
    if (l->fd < 0 || l->generation != generation) return;
    if (drop(l->fd, &l->bytes) == LEFT_ENDED || l->bytes > LINGER_BYTES_MAX) end(s, l);
}

void pr__linger_tick(pr_http_server *s, double now) {
    for (int i = 0; s->n_lingering && i < PR__LINGERERS_MAX; i++) {
        if (s->lingerers[i].fd >= 0 && now > s->lingerers[i].deadline) end(s, &s->lingerers[i]);
    }
}

void pr__linger_close(pr_http_server *s) {
    for (int i = 0; s->n_lingering && i < PR__LINGERERS_MAX; i++) {
        if (s->lingerers[i].fd >= 0) end(s, &s->lingerers[i]);
    }
    pr_free(s->lingerers);
    s->lingerers = NULL;
}
