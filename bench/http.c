/*
 * What the HTTP server costs: requests a second and latency on loopback.
 *
 *   build/release/bench/http [connections [seconds]]
 *
 * Closed loops on keep-alive connections, one thread each, in the same process: a trivial JSON route answered by its handler,
 * then one that waits and is answered by another thread, then the way of one event of a stream from pr_http_stream_send()
 * to the client. Clients and server share the processors, so the figures are of both.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/os.h"
#include "http/server.h"

enum { CLIENTS_MAX = 64, SAMPLES_MAX = 1 << 20, EVENTS = 2000 };

typedef struct client {
    pthread_t thread;
    uint16_t port;
    const char *request;
    double seconds;
    float *us; /* latencies */
    size_t n;
} client;

static void hello(pr_http_req *req, void *arg) {
    (void)arg;
    pr_http_reply(req, 200, "application/json", NULL, 0, "{\"ok\":true}", 11);
}

/* The thread that answers /later: a queue of one slot for each client. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t some;
    pr_http_req *waiting[CLIENTS_MAX];
    int n;
    bool ends;
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER, .some = PTHREAD_COND_INITIALIZER};

static void later(pr_http_req *req, void *arg) {
    (void)arg;
    pr_http_req_ref(req);
    pthread_mutex_lock(&queue.lock);
    queue.waiting[queue.n++] = req;
    pthread_cond_signal(&queue.some);
    pthread_mutex_unlock(&queue.lock);
}

static void *answer_main(void *arg) {
    (void)arg;
    for (;;) {
        pthread_mutex_lock(&queue.lock);
        while (!queue.n && !queue.ends) pthread_cond_wait(&queue.some, &queue.lock);
        pr_http_req *req = queue.n ? queue.waiting[--queue.n] : NULL;
        pthread_mutex_unlock(&queue.lock);
        if (!req) return NULL;
        hello(req, NULL);
        pr_http_req_unref(req);
    }
}

static pr_http_req *volatile the_stream;

static void stream(pr_http_req *req, void *arg) {
    (void)arg;
    pr_http_stream_begin(req, "text/event-stream", NULL, 0);
    pr_http_req_ref(req);
    the_stream = req;
}

static int dial(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to)) {
        perror("connect");
        exit(1);
    }
    return fd;
}

/* Read until what came ends with `end`. */
static void read_until(int fd, const char *end) {
    char buf[4096];
    size_t len = 0, n = strlen(end);
    while (len < n || memcmp(buf + len - n, end, n) != 0) {
        ssize_t got = recv(fd, buf + len, sizeof buf - len, 0);
        if (got <= 0 || (len += (size_t)got) == sizeof buf) {
            fprintf(stderr, "no answer\n");
            exit(1);
        }
    }
}

static void *client_main(void *arg) {
    client *c = arg;
    int fd = dial(c->port);
    double until = pr_now() + c->seconds;
    for (double now = pr_now(); now < until && c->n < SAMPLES_MAX;) {
        if (send(fd, c->request, strlen(c->request), MSG_NOSIGNAL) < 0) break;
        read_until(fd, "{\"ok\":true}");
        double after = pr_now();
        c->us[c->n++] = (float)((after - now) * 1e6);
        now = after;
    }
    close(fd);
    return NULL;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void report(const char *what, float *us, size_t n, double seconds) {
    if (!n) return;
    qsort(us, n, sizeof *us, by_value);
    printf("%-36s %8.0f /s   p50 %6.0f us   p99 %6.0f us   max %7.0f us\n", what, (double)n / seconds,
           (double)us[n / 2], (double)us[n * 99 / 100], (double)us[n - 1]);
}

static void run(uint16_t port, const char *what, const char *request, int n_clients, double seconds) {
    static client clients[CLIENTS_MAX];
    size_t n = 0;
    for (int i = 0; i < n_clients; i++) {
        clients[i] = (client){.port = port, .request = request, .seconds = seconds};
        clients[i].us = malloc(SAMPLES_MAX * sizeof(float));
        if (!clients[i].us || pthread_create(&clients[i].thread, NULL, client_main, &clients[i])) exit(1);
    }
    for (int i = 0; i < n_clients; i++) {
        pthread_join(clients[i].thread, NULL);
        n += clients[i].n;
    }
    float *all = malloc((n + 1) * sizeof *all), *at = all;
    if (!all) exit(1);
    for (int i = 0; i < n_clients; i++) {
        memcpy(at, clients[i].us, clients[i].n * sizeof *at);
        at += clients[i].n;
        free(clients[i].us);
    }
    char name[64];
    snprintf(name, sizeof name, "%s, %d connections", what, n_clients);
    report(name, all, n, seconds);
    free(all);
}

static void run_stream(uint16_t port) {
    static const char request[] = "GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n";
    static const char event[] = "data: {\"choices\":[{\"delta\":{\"content\":\" word\"}}]}\n\n";
    static float us[EVENTS];
    int fd = dial(port);
    if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) < 0) exit(1);
    while (!the_stream) usleep(1000);
    usleep(10000);
    double began = pr_now();
    for (int i = 0; i < EVENTS; i++) {
        double at = pr_now();
        if (pr_http_stream_send(the_stream, event, sizeof event - 1)) exit(1);
        read_until(fd, "]}\n\n\r\n");
        us[i] = (float)((pr_now() - at) * 1e6);
    }
    report("one event of a stream", us, EVENTS, pr_now() - began);
    pr_http_stream_end(the_stream);
    pr_http_req_unref(the_stream);
    close(fd);
}

int main(int argc, char **argv) {
    static const pr_http_route routes[] = {{"GET", "/hello", hello, NULL, 0, 0},
                                           {"GET", "/later", later, NULL, 0, 0},
                                           {"GET", "/stream", stream, NULL, 0, 0}};
    const pr_http_opts opts = {.routes = routes, .n_routes = 3};
    int n = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 8;
    double seconds = argc > 2 ? strtod(argv[2], NULL) : 2;
    pr_http_server *server;
    pr_err err = {0};
    if (n < 1 || n > CLIENTS_MAX || !(seconds > 0)) return 2;
    if (pr_http_open(&opts, &server, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    pthread_t answerer;
    if (pthread_create(&answerer, NULL, answer_main, NULL)) return 1;
    uint16_t port = pr_http_port(server);
    run(port, "answered by the handler", "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n", 1, seconds);
    run(port, "answered by the handler", "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n", n, seconds);
    run(port, "answered by another thread", "GET /later HTTP/1.1\r\nHost: localhost\r\n\r\n", 1, seconds);
    run(port, "answered by another thread", "GET /later HTTP/1.1\r\nHost: localhost\r\n\r\n", n, seconds);
    run_stream(port);
    pthread_mutex_lock(&queue.lock);
    queue.ends = true;
    pthread_cond_signal(&queue.some);
    pthread_mutex_unlock(&queue.lock);
    pthread_join(answerer, NULL);
    pr_http_close(server);
    return 0;
}
