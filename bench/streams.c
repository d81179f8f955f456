/*
 * A client for bench/server.py: many streams at once over HTTP, as little processor as can be.
 *
 *   build/release/bench/streams PORT [SECONDS [MILLISECONDS]] < requests
 *
 * A line of stdin is one request that runs beside the others, with tabs between: how it repeats, its API key or "-", its
 * path, its JSON body. It is sent once ("once"); again and again until nobody is watched any more and SECONDS are over
 * ("loop"); or N times, one after the other, and watched ("N"). The first ###### of a body becomes a number that no other
 * request has, so that no answer can use another's prefix. With MILLISECONDS, /health is asked so often meanwhile, in turns
 * over a connection that is kept and over fresh ones.
 *
 * stdout: one JSON object with the seconds from the first byte sent to the last answer complete, the client's own processor
 * seconds, and for each request the milliseconds to each answer's first text, those between texts, events with text,
 * tokens (of `usage` where the server tells it) and why answers ended. An answer that is not a stream that ends with [DONE] is fatal.
 *
 * One thread polls all streams: the client shares the processors with the server it measures, so its share is told.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/os.h"

enum { STREAMS_MAX = 64, SAMPLES_MAX = 1 << 14, LINE_BYTES = 1 << 16, IN_BYTES = 1 << 16, LIMIT_SECONDS = 300 };

typedef struct samples {
    double *ms;
    size_t n;
} samples;

/* Where a chunked body is being read. */
enum { IN_HEAD, IN_SIZE, IN_DATA, IN_BREAK };

typedef struct stream {
    char *request; /* the line, of which are: */
    const char *path, *key, *body;
    bool loop;
    int times; /* still to be sent */
    int fd;
    bool done;
    double sent, last;
    int where;
    size_t chunk; /* bytes left of it */
    char line[LINE_BYTES];
    size_t len;
    samples first, between;
    size_t events, tokens, answers;
    char finish[32];
} stream;

static stream streams[STREAMS_MAX];
static size_t n_streams;
static uint16_t port;
static unsigned long number = 100000;
static double began;
static atomic_bool over;

static void stop(const char *what, const char *more) {
    fprintf(stderr, "streams: %s %s\n", what, more);
    exit(1);
}

static void add(samples *s, double ms) {
    if (!s->ms) s->ms = malloc(SAMPLES_MAX * sizeof *s->ms);
    if (!s->ms) stop("out of memory", "");
    if (s->n < SAMPLES_MAX) s->ms[s->n++] = ms;
}

static int dial(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int on = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to)) stop("connect:", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

/* ---- requests ----------------------------------------------------------- */

static void send_request(stream *s) {
    static char text[LINE_BYTES + 1024];
    char key[256] = "";
    if (strcmp(s->key, "-") != 0) snprintf(key, sizeof key, "Authorization: Bearer %s\r\n", s->key);
    int n = snprintf(text, sizeof text,
                     "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%sContent-Length: "
                     "%zu\r\n\r\n%s",
                     s->path, key, strlen(s->body), s->body);
    char *mark = strstr(text, "######"), digits[16];
    if (n < 0 || (size_t)n >= sizeof text) stop("a request is too long:", s->path);
    snprintf(digits, sizeof digits, "%06lu", number++ % 1000000);
    if (mark) memcpy(mark, digits, 6);
    s->fd = dial();
    s->where = IN_HEAD;
    s->len = 0;
    s->finish[0] = '\0';
    s->last = 0;
    s->sent = pr_now();
    if (send(s->fd, text, (size_t)n, MSG_NOSIGNAL) != n) stop("send:", strerror(errno));
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
}

static bool any_watched(void) {
    for (size_t i = 0; i < n_streams; i++)
        if (!streams[i].loop && !streams[i].done) return true;
    return false;
}

static void end_answer(stream *s, double seconds) {
    close(s->fd);
    s->fd = -1;
    s->answers++;
    if (!s->finish[0]) stop("a stream ended without a reason:", s->path);
    bool again = s->loop ? any_watched() || pr_now() - began < seconds : --s->times > 0;
    if (again) send_request(s);
    else s->done = true;
}

/* ---- answers ------------------------------------------------------------ */

/* Where the value of a field begins; the events are the server's own, and texts in them have their quotes escaped. */
static const char *value_of(const char *json, const char *name) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", name);
    const char *at = strstr(json, quoted);
    if (!at) return NULL;
    at += strlen(quoted);
    return at + strspn(at, " ");
}

static void read_event(stream *s, const char *json) {
    const char *text = value_of(json, "text"), *why = value_of(json, "finish_reason");
    const char *tokens = value_of(json, "completion_tokens");
    if (!text) text = value_of(json, "content");
    if (text && text[0] == '"' && text[1] != '"') {
        double now = pr_now();
        add(s->last == 0 ? &s->first : &s->between, 1e3 * (now - (s->last == 0 ? s->sent : s->last)));
        s->last = now;
        s->events++;
    }
    if (tokens) s->tokens += strtoul(tokens, NULL, 10);
    if (why && why[0] == '"') snprintf(s->finish, sizeof s->finish, "%.*s", (int)strcspn(why + 1, "\""), why + 1);
    if (value_of(json, "error")) stop("an error:", json);
}

/* A line of the body. True: the answer is complete. */
static bool read_line(stream *s) {
    s->line[s->len] = '\0';
    if (s->len && s->line[s->len - 1] == '\r') s->line[s->len - 1] = '\0';
    s->len = 0;
    if (strncmp(s->line, "data: ", 6) != 0) return false;
    if (strcmp(s->line + 6, "[DONE]") == 0) return true;
    read_event(s, s->line + 6);
    return false;
}

static void end_of_head_line(stream *s) {
    s->line[s->len] = '\0';
    if (strncmp(s->line, "HTTP/", 5) == 0 && !strstr(s->line, " 200")) stop("refused:", s->line);
    if (s->len <= 1) s->where = IN_SIZE;
    s->len = 0;
}

static void put(stream *s, char c) {
    if (s->len + 1 >= LINE_BYTES) stop("a line is too long:", s->path);
    s->line[s->len++] = c;
}

/* One byte of an answer. True: it is complete. */
static bool read_byte(stream *s, char c) {
    static const char hex[] = "0123456789abcdef";
    switch (s->where) {
    case IN_HEAD:
        if (c == '\n') end_of_head_line(s);
        else put(s, c);
        return false;
    case IN_SIZE:
        if (c == '\n') s->where = s->chunk ? IN_DATA : IN_BREAK;
        else if (strchr(hex, c | 32)) s->chunk = s->chunk * 16 + (size_t)(strchr(hex, c | 32) - hex);
        return false;
    case IN_DATA:
        if (--s->chunk == 0) s->where = IN_BREAK;
        if (c == '\n') return read_line(s);
        put(s, c);
        return false;
    case IN_BREAK:
        if (c == '\n') s->where = IN_SIZE;
        return false;
    }
    return false;
}

static void read_stream(stream *s, double seconds) {
    static char in[IN_BYTES];
    ssize_t n = recv(s->fd, in, sizeof in, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) stop("the server ended a stream:", n ? strerror(errno) : "without [DONE]");
    for (ssize_t i = 0; i < n; i++) {
        if (!read_byte(s, in[i])) continue;
        end_answer(s, seconds);
        return;
    }
}

static void run_streams(double seconds) {
    struct pollfd polls[STREAMS_MAX];
    pr_thread_prompt();
    began = pr_now();
    for (size_t i = 0; i < n_streams; i++) send_request(&streams[i]);
    for (size_t open = n_streams; open;) {
        for (size_t i = 0; i < n_streams; i++) polls[i] = (struct pollfd){streams[i].fd, POLLIN, 0};
        if (poll(polls, n_streams, 1000) < 0 && errno != EINTR) stop("poll:", strerror(errno));
        if (pr_now() - began > LIMIT_SECONDS) stop("the answers took too long", "");
        open = 0;
        for (size_t i = 0; i < n_streams; i++) {
            if (polls[i].revents) read_stream(&streams[i], seconds);
            open += !streams[i].done;
        }
    }
}

/* ---- /health ------------------------------------------------------------ */

static void ask_health(int fd) {
    static const char request[] = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    char in[4096];
    size_t len = 0;
    if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) < 0) stop("health:", strerror(errno));
    do {
        ssize_t n = recv(fd, in + len, sizeof in - 1 - len, 0);
        if (n <= 0) stop("health:", "no answer");
        len += (size_t)n;
        in[len] = '\0';
    } while (!strstr(in, "\r\n\r\n") || in[len - 1] != '}');
}

static samples kept, fresh;

static void *health_main(void *arg) {
    const double *pause_ms = arg;
    pr_thread_prompt(); /* else it would measure how long it waits itself for a processor that the server computes on */
    int held = dial();
    ask_health(held); /* once for nothing */
    for (bool again = false; !atomic_load(&over); again = !again) {
        usleep((useconds_t)(*pause_ms * 1e3));
        double start = pr_now();
        int fd = again ? held : dial();
        ask_health(fd);
        add(again ? &kept : &fresh, 1e3 * (pr_now() - start));
        if (!again) close(fd);
    }
    close(held);
    return NULL;
}

/* ---- the run ------------------------------------------------------------ */

static void read_requests(void) {
    static char line[LINE_BYTES];
    while (fgets(line, sizeof line, stdin)) {
        if (n_streams == STREAMS_MAX) stop("too many requests", "");
        stream *s = &streams[n_streams++];
        char *save = NULL;
        s->request = strdup(line);
        if (!s->request) stop("out of memory", "");
        const char *how = strtok_r(s->request, "\t", &save);
        s->key = strtok_r(NULL, "\t", &save);
        s->path = strtok_r(NULL, "\t", &save);
        s->body = strtok_r(NULL, "\n", &save);
        if (!how || !s->body) stop("a line: HOW, KEY, PATH, BODY, with tabs between, not:", line);
        s->loop = strcmp(how, "loop") == 0;
        s->times = strcmp(how, "once") == 0 ? 1 : (int)strtol(how, NULL, 10);
    }
    if (!n_streams) stop("no requests", "");
}

static void print_samples(const char *name, const samples *s) {
    printf("\"%s\": [", name);
    for (size_t i = 0; i < s->n; i++) printf("%s%.3f", i ? ", " : "", s->ms[i]);
    printf("]");
}

static void report(double seconds, double cpu) {
    printf("{\"seconds\": %.6f, \"cpu\": %.4f, \"streams\": [", seconds, cpu);
    for (size_t i = 0; i < n_streams; i++) {
        const stream *s = &streams[i];
        printf("%s{\"answers\": %zu, \"events\": %zu, \"tokens\": %zu, \"finish\": \"%s\", ", i ? ",\n" : "",
               s->answers, s->events, s->tokens, s->finish);
        print_samples("first", &s->first);
        printf(", ");
        print_samples("between", &s->between);
        printf("}");
    }
    printf("], \"health\": {");
    print_samples("kept", &kept);
    printf(", ");
    print_samples("fresh", &fresh);
    printf("}}\n");
}

int main(int argc, char **argv) {
    double seconds = argc > 2 ? strtod(argv[2], NULL) : 0, pause_ms = argc > 3 ? strtod(argv[3], NULL) : 0;
    pthread_t prober = 0;
    struct rusage used;
    if (argc < 2) stop("usage: streams PORT [SECONDS [MILLISECONDS]]", "");
    port = (uint16_t)strtol(argv[1], NULL, 10);
    read_requests();
    if (pause_ms > 0 && pthread_create(&prober, NULL, health_main, &pause_ms)) stop("no thread", "");
    run_streams(seconds);
    seconds = pr_now() - began;
    atomic_store(&over, true);
    if (pause_ms > 0) pthread_join(prober, NULL);
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                 1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    report(seconds, cpu);
    return 0;
}
