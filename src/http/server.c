/*
 * HTTP server: opening, connections, the watch, stopping.
 *
 * libmicrohttpd does the reading and writing on one epoll thread. What it lacks is here: deadlines of the whole headers, body
 * or reply (its own timeout starts again with every byte), and noticing that a client has gone while its request waits (it
 * does not look at a suspended connection). One more thread, the watch, does both. It listens with an epoll set of its own
 * for nothing but hang-ups, so it sleeps while clients behave, and looks at the deadlines every tick. To cut a connection it
 * shuts the socket down, which the library sees like a client that went away; the descriptor stays the library's.
 *
 * The order of stopping matters. The library aborts the process when it is stopped while a connection is suspended. So first
 * a flag forbids to suspend any, then those that are get resumed, and only then is it stopped.
 */
#include "http/server.h"

#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/os.h"
#include "base/str.h"
#include "http/server_impl.h"

#define WAKE_EVENT UINT64_MAX

/* ---- options and address ---- */

#define DEFAULT(field, value)                                                                                          \
    if (o->field == 0) o->field = (value)

static void fill_defaults(pr_http_opts *o) {
    DEFAULT(host, "127.0.0.1");
    DEFAULT(connections_max, 1024);
    DEFAULT(headers_max, 100);
    DEFAULT(header_bytes_max, (size_t)16 << 10);
    DEFAULT(body_bytes_max, (size_t)1 << 20);
    DEFAULT(body_total_max, (size_t)64 << 20);
    DEFAULT(stream_bytes_max, (size_t)256 << 10);
    DEFAULT(send_buffer, 64 << 10);
    DEFAULT(header_seconds, 10);
    DEFAULT(body_seconds, 20);
    DEFAULT(send_seconds, 30);
    DEFAULT(idle_seconds, 60);
    DEFAULT(ping_seconds, 15);
    DEFAULT(tick_seconds, 0.25);
    DEFAULT(rate_min, 16 << 10);
}

#undef DEFAULT

/* Every connection and lingerer is a descriptor, and models are files: there are never more connections than leave some for
 * those. Further clients wait in the listen queue, where accepting them would fail for want of descriptors. */
static void fit_files(pr_http_server *s) {
    enum { OTHERS = 128 };
    uint64_t most = s->opts.connections_max, wanted = most + PR__LINGERERS_MAX + OTHERS;
    uint64_t files = pr_files_allow(wanted);
    s->lingerers_max = PR__LINGERERS_MAX;
    if (files >= wanted) return;
    uint64_t spare = files / 4 < wanted - most ? files / 4 : wanted - most;
    s->lingerers_max = (uint32_t)(spare / 2 < PR__LINGERERS_MAX ? spare / 2 : PR__LINGERERS_MAX);
    if (files - spare >= most) return;
    s->opts.connections_max = (uint32_t)(files - spare);
    pr_log(PR_LOG_WARN, "http: %llu descriptors (ulimit -n) allow for %u connections instead of %llu",
           (unsigned long long)files, (unsigned)s->opts.connections_max, (unsigned long long)most);
}

static bool is_loopback(const struct sockaddr *address) {
    if (address->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, address, sizeof in);
        return ntohl(in.sin_addr.s_addr) >> 24 == 127;
    }
    struct sockaddr_in6 in6;
    memcpy(&in6, address, sizeof in6);
    return address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr);
}

/* A listening socket on one address, or -1 with errno. */
static int listen_on(const pr_http_opts *opts, const struct addrinfo *at) {
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &opts->send_buffer, sizeof opts->send_buffer); /* inherited by accept */
    if (bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) return fd;
    int reason = errno;
    close(fd);
    errno = reason;
    return -1;
}

static pr_status open_socket(pr_http_server *s, pr_err *err) {
    const pr_http_opts *o = &s->opts;
    char port[8];
    snprintf(port, sizeof port, "%u", (unsigned)o->port);
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *all;
    int code = getaddrinfo(o->host, port, &hints, &all);
    if (code) return pr_fail(err, PR_ERR_IO, "host %s: %s", o->host, gai_strerror(code));
    pr_status status = PR_OK;
    if (!o->keys && !is_loopback(all->ai_addr)) {
        status = pr_fail(err, PR_ERR_ARG, "host %s is open to other machines: that needs API keys", o->host);
    } else if ((s->listen_fd = listen_on(o, all)) < 0) {
        status = pr_fail_errno(err, "cannot listen on %s, port %s", o->host, port);
    }
    freeaddrinfo(all);
    if (status) return status;
    struct sockaddr_storage bound;
    socklen_t len = sizeof bound;
    if (getsockname(s->listen_fd, (struct sockaddr *)&bound, &len)) return pr_fail_errno(err, "getsockname");
    char digits[NI_MAXSERV];
    uint32_t number = 0;
    if (getnameinfo((struct sockaddr *)&bound, len, NULL, 0, digits, sizeof digits, NI_NUMERICSERV) ||
        !pr_parse_u32(digits, &number)) {
        return pr_fail(err, PR_ERR_IO, "cannot tell the port of %s", o->host);
    }
    s->port = (uint16_t)number;
    return PR_OK;
}

/* ---- connections ---- */

static void wake_watch(const pr_http_server *s) {
    const uint64_t one = 1;
    ssize_t written = write(s->wake_fd, &one, sizeof one);
    (void)written; /* full means that it is awake */
}

static void begin_conn(pr_http_server *s, struct MHD_Connection *con, void **context) {
    const union MHD_ConnectionInfo *fd = MHD_get_connection_info(con, MHD_CONNECTION_INFO_CONNECTION_FD);
    const union MHD_ConnectionInfo *peer = MHD_get_connection_info(con, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    pthread_mutex_lock(&s->lock);
    uint32_t slot = 0;
    while (slot < s->n_conns && s->conns[slot].used) slot++;
    if (slot < s->n_conns) {
        pr__conn *c = &s->conns[slot];
        c->used = true;
        c->generation++;
        c->fd = fd->connect_fd;
        c->deadline = pr_now() + s->opts.header_seconds;
        c->reading = true;
        atomic_store(&c->hung_up, false);
        c->peer[0] = '\0';
        socklen_t len = peer->client_addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                                 : sizeof(struct sockaddr_in);
        (void)getnameinfo(peer->client_addr, len, c->peer, sizeof c->peer, NULL, 0, NI_NUMERICHOST);
        struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET, .data.u64 = (uint64_t)c->generation << 32 | slot};
        (void)epoll_ctl(s->watch_fd, EPOLL_CTL_ADD, c->fd,
                        &event); /* without it a tick notices nothing: deadlines hold */
        if (!s->n_used++) wake_watch(s);
        *context = c;
    }
    pthread_mutex_unlock(&s->lock);
}

static void end_conn(pr_http_server *s, void **context) {
    pr__conn *c = *context;
    if (!c) return;
    pthread_mutex_lock(&s->lock);
    struct epoll_event none = {0};
    (void)epoll_ctl(s->watch_fd, EPOLL_CTL_DEL, c->fd, &none);
    pr__linger_begin(s, c);
    pr_free(c->target);
    *c = (pr__conn){.generation = c->generation, .fd = -1};
    s->n_used--;
    pthread_mutex_unlock(&s->lock);
    *context = NULL;
}

static void on_connection(void *cls, struct MHD_Connection *con, void **context,
                          enum MHD_ConnectionNotificationCode code) {
    static _Thread_local bool prompt; /* the library's own thread has no other beginning that we see */
    if (!prompt) pr_thread_prompt();
    prompt = true;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) begin_conn(cls, con, context);
    else end_conn(cls, context);
}

/* ---- the watch ---- */

/* Put a reference to what the connection is doing on the list of the watch. */
static uint32_t note_due(pr_http_server *s, pr__conn *c, uint32_t n) {
    if (!c->req) return n;
    pr_http_req_ref(c->req);
    s->due[n] = c->req;
    return n + 1;
}

static uint32_t note_events(pr_http_server *s, const struct epoll_event *events, int n_events, double now) {
    uint32_t n = 0;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < n_events; i++) {
        uint32_t slot = (uint32_t)events[i].data.u64, generation = (uint32_t)(events[i].data.u64 >> 32);
        if (events[i].data.u64 == WAKE_EVENT) continue;
        if (slot >= s->n_conns) {
            pr__linger_event(s, slot, generation);
            continue;
        }
        pr__conn *c = &s->conns[slot];
        if (!c->used || c->generation != generation || atomic_exchange(&c->hung_up, true)) continue;
        if (c->reading) c->deadline = now + PR__HUNG_UP_SECONDS; /* what it sent is here already */
        n = note_due(s, c, n);
    }
    pthread_mutex_unlock(&s->lock);
    return n;
}

static uint32_t note_tick(pr_http_server *s, double now) {
    uint32_t n = 0;
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->n_conns; i++) {
        pr__conn *c = &s->conns[i];
        if (!c->used) continue;
        if (c->deadline > 0 && now > c->deadline) {
            pr_log(PR_LOG_DEBUG, "http: %s was too slow and is cut", c->peer);
            shutdown(c->fd, SHUT_RDWR);
            c->cut = true;
            c->deadline = 0;
        }
        n = note_due(s, c, n);
    }
    pr__linger_tick(s, now);
    pthread_mutex_unlock(&s->lock);
    return n;
}

static void look_at_due(pr_http_server *s, uint32_t n, double now) {
    for (uint32_t i = 0; i < n; i++) {
        pr__req_tick(s->due[i], now);
        pr__req_tell_gone(s->due[i]);
        pr_http_req_unref(s->due[i]);
    }
}

static int watch_wait_ms(pr_http_server *s, double next, double now) {
    pthread_mutex_lock(&s->lock);
    bool busy = s->n_used || s->n_lingering;
    pthread_mutex_unlock(&s->lock);
    return busy ? (int)ceil(fmax(0, next - now) * 1e3) : -1;
}

static void *watch_main(void *arg) {
    enum { EVENTS_MAX = 64 };
    pr_http_server *s = arg;
    double next = pr_now() + s->opts.tick_seconds;
    pr_thread_prompt();
    while (!atomic_load(&s->watch_ends)) {
        struct epoll_event events[EVENTS_MAX];
        int n = epoll_wait(s->watch_fd, events, EVENTS_MAX, watch_wait_ms(s, next, pr_now()));
        for (int i = 0; i < n; i++) {
            uint64_t count;
            if (events[i].data.u64 == WAKE_EVENT && read(s->wake_fd, &count, sizeof count) < 0) continue;
        }
        double now = pr_now();
        look_at_due(s, note_events(s, events, n, now), now);
        pr__http_wake_all(s);
        if (now < next) continue;
        look_at_due(s, note_tick(s, now), now);
        next = now + s->opts.tick_seconds;
    }
    return NULL;
}

/* ---- opening ---- */

static void on_library_log(void *cls, const char *fmt, va_list args) {
    (void)cls;
    if (!pr_log_wants(PR_LOG_DEBUG)) return;
    char line[256];
    vsnprintf(line, sizeof line, fmt, args);
    line[strcspn(line, "\n")] = '\0';
    pr_log(PR_LOG_DEBUG, "http: %s", line);
}

/* Paths are matched as they were sent. */
static size_t on_unescape(void *cls, struct MHD_Connection *con, char *text) {
    (void)cls;
    (void)con;
    return strlen(text);
}

static pr_status open_watch(pr_http_server *s, pr_err *err) {
    s->watch_fd = epoll_create1(EPOLL_CLOEXEC);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = WAKE_EVENT};
    if (s->watch_fd < 0 || s->wake_fd < 0 || epoll_ctl(s->watch_fd, EPOLL_CTL_ADD, s->wake_fd, &event)) {
        return pr_fail_errno(err, "cannot watch connections");
    }
    int code = pthread_create(&s->watch, NULL, watch_main, s);
    if (code) return pr_fail(err, PR_ERR_IO, "cannot start a thread: %s", strerror(code));
    s->watching = true;
    return PR_OK;
}

static pr_status open_daemon(pr_http_server *s, pr_err *err) {
    /* What the library keeps of a connection: its headers twice (text, list), the reply's, and a chunk of a stream. */
    size_t pool = 2 * s->opts.header_bytes_max + ((size_t)24 << 10);
    s->exact_layout = strcmp(MHD_get_version(), "0.9.75") == 0;
    s->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        pr__http_on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_library_log, NULL, MHD_OPTION_LISTEN_SOCKET,
        s->listen_fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)s->opts.connections_max,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, pool, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
        MHD_OPTION_NOTIFY_COMPLETED, pr__http_on_completed, s, MHD_OPTION_URI_LOG_CALLBACK, pr__http_on_target, s,
        MHD_OPTION_UNESCAPE_CALLBACK, on_unescape, NULL, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
    return s->daemon ? PR_OK : pr_fail(err, PR_ERR_IO, "cannot start the HTTP library on port %u", (unsigned)s->port);
}

static pr_status open_sync(pr_http_server *s, pr_err *err) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int code = pthread_mutex_init(&s->lock, NULL);
    if (!code) code = pthread_cond_init(&s->idle, &attr);
    pthread_condattr_destroy(&attr);
    s->synced = !code;
    return code ? pr_fail(err, PR_ERR_IO, "cannot make a lock: %s", strerror(code)) : PR_OK;
}

pr_status pr_http_open(const pr_http_opts *opts, pr_http_server **out, pr_err *err) {
    *out = NULL;
    pr_http_server *s = pr_calloc(PR_TAG_HTTP, 1, sizeof *s);
    if (!s) return pr_fail_nomem(err, "HTTP server", sizeof *s);
    s->opts = *opts;
    s->listen_fd = s->watch_fd = s->wake_fd = -1;
    fill_defaults(&s->opts);
    fit_files(s);
    s->n_conns = s->opts.connections_max;
    if (getrandom(&s->id_seed, sizeof s->id_seed, 0) != sizeof s->id_seed) s->id_seed = pr_now_ns();
    s->conns = pr_calloc(PR_TAG_HTTP, s->n_conns, sizeof *s->conns);
    s->by_route = pr_calloc(PR_TAG_HTTP, s->opts.n_routes + 1, sizeof *s->by_route);
    s->due = pr_calloc(PR_TAG_HTTP, s->n_conns, sizeof(pr_http_req *));
    pr_status status = open_sync(s, err);
    if (!status && (!s->conns || !s->by_route || !s->due || !pr__linger_open(s))) {
        status = pr_fail_nomem(err, "HTTP connections", s->n_conns * sizeof *s->conns);
    }
    if (!status) status = open_socket(s, err);
    if (!status) status = open_watch(s, err);
    if (!status) status = open_daemon(s, err);
    if (status) pr_http_close(s);
    else *out = s;
    return status;
}

uint16_t pr_http_port(const pr_http_server *s) { return s->port; }

void pr_http_stats_get(pr_http_server *s, pr_http_stats *out) {
    pthread_mutex_lock(&s->lock);
    *out = (pr_http_stats){s->n_used, s->active, s->requests, atomic_load(&s->body_bytes)};
    pthread_mutex_unlock(&s->lock);
}

/* ---- stopping ---- */

static void wait_idle(pr_http_server *s, double seconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)seconds;
    until.tv_nsec += (long)((seconds - floor(seconds)) * 1e9);
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&s->lock);
    while (s->active && pthread_cond_timedwait(&s->idle, &s->lock, &until) == 0) continue;
    pthread_mutex_unlock(&s->lock);
}

static void cut_idle(pr_http_server *s) {
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->n_conns; i++) {
        if (s->conns[i].used && !s->conns[i].req) shutdown(s->conns[i].fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&s->lock);
}

static void abort_all(pr_http_server *s) {
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->n_conns; i++) {
        if (s->conns[i].req) pr__req_abort(s->conns[i].req);
    }
    pthread_mutex_unlock(&s->lock);
}

void pr_http_stop(pr_http_server *s, double seconds) {
    const double farewell_seconds = 0.5; /* for the 503 of those that waited to be sent */
    s->stopped = true;
    if (s->daemon) {
        atomic_store(&s->draining, true);
        MHD_socket quiet = MHD_quiesce_daemon(s->daemon);
        /* Refuses from now on; closed when the library's thread has ended, which may still look at it. */
        if (quiet != MHD_INVALID_SOCKET) shutdown(quiet, SHUT_RDWR);
        s->listen_fd = -1; /* quiet, or the library's own to close */
        cut_idle(s);
        wait_idle(s, seconds);
        atomic_store(&s->stopping, true);
        abort_all(s);
        wait_idle(s, farewell_seconds);
        pr__http_wake_stop(s);
        MHD_stop_daemon(s->daemon);
        s->daemon = NULL;
        if (quiet != MHD_INVALID_SOCKET) close(quiet);
    }
    if (s->watching) {
        atomic_store(&s->watch_ends, true);
        wake_watch(s);
        pthread_join(s->watch, NULL);
        s->watching = false;
    }
}

void pr_http_close(pr_http_server *s) {
    if (!s) return;
    if (!s->stopped) pr_http_stop(s, 0);
    if (s->listen_fd >= 0) close(s->listen_fd);
    if (s->watch_fd >= 0) close(s->watch_fd);
    if (s->wake_fd >= 0) close(s->wake_fd);
    pr__linger_close(s);
    if (s->synced) {
        pthread_mutex_destroy(&s->lock);
        pthread_cond_destroy(&s->idle);
    }
    pr_free(s->conns);
    pr_free(s->due);
    pr_free(s->by_route);
    pr_free(s);
}
