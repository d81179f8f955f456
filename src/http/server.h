/*
 * HTTP server: connections, requests, replies and streams. Knows nothing of models.
 *
 * One thread of the server (the library's epoll thread) reads, routes and writes; handlers run on it and must be quick. A
 * handler answers at once, or keeps the request and lets any thread answer later. A second thread (the watch) looks after
 * deadlines, pings and clients that have gone. docs/HTTP.md tells the life of a request.
 *
 * Ownership of requests: a pr_http_req is counted. The handler borrows it; who wants to answer after the handler has returned
 * takes pr_http_req_ref() before that and gives it back with pr_http_req_unref(). A request that was neither answered nor
 * kept is answered with 500, a stream whose last holder lets go is ended. The object stays valid while somebody holds it,
 * also when its client has gone and when its server was closed: a reply is then refused with PR_ERR_CANCELLED, and that is
 * harmless.
 *
 * Threads: replies, streams, ref and unref may be called from any thread, also for one request at the same time. What a
 * request says (method, headers, body, ...) does not change once the handler runs and may be read by any holder. Functions of
 * pr_http_server may be called from any thread but the server's own.
 *
 * Errors: PR_ERR_CANCELLED the client has gone or the server stops; PR_ERR_ARG answered already, or an unusable header;
 * PR_ERR_NOMEM.
 */
#ifndef PRECIS_HTTP_SERVER_H
#define PRECIS_HTTP_SERVER_H

#include "base/status.h"
#include "http/guard.h"
#include "http/keys.h"

typedef struct pr_http_server pr_http_server;
typedef struct pr_http_req pr_http_req;

/* ---- the server ---- */

typedef void (*pr_http_handler)(pr_http_req *req, void *arg);

enum { PR_HTTP_OPEN = 1 }; /* route flags: needs no key */

typedef struct pr_http_route {
    const char *method; /* "GET" answers HEAD, too */
    const char *path;   /* with at most one {parameter}: see pr_http_route_fits() */
    pr_http_handler handler;
    void *arg;
    size_t body_bytes_max; /* 0: the server's */
    unsigned flags;
} pr_http_route;

/* Zero-initialize for defaults. Everything pointed to must outlive the server. */
typedef struct pr_http_opts {
    const char *host; /* NULL: 127.0.0.1. Other than loopback only with keys */
    uint16_t port;    /* 0: any free one */
    const pr_http_route *routes;
    size_t n_routes;
    pr_keys *keys;              /* NULL: everybody may ask */
    const char *const *origins; /* of pages that may ask from elsewhere (CORS); "*": any */
    size_t n_origins;

    uint32_t
        connections_max; /* 1024, or what the descriptors allow that a process may have; more wait in the listen queue */
    uint32_t headers_max;    /* 100 fields */
    size_t header_bytes_max; /* 16 KiB: target and fields */
    size_t body_bytes_max;   /* 1 MiB a request: 413 */
    size_t body_total_max;   /* 64 MiB of bodies at a time: 503 */
    size_t stream_bytes_max; /* 256 KiB unsent in a stream: full */
    int send_buffer;         /* 64 KiB: SO_SNDBUF, so that a slow reader is felt here and not in the kernel */

    /* Deadlines in seconds. All are of the whole thing, not since the last byte: a trickle does not extend them. */
    double header_seconds; /* 10: from the connection to the end of the headers */
    double body_seconds;   /* 20: for a body, and as long again as it takes at rate_min */
    double send_seconds;   /* 30: for a reply, likewise; a stream that takes nothing for so long is cut */
    double idle_seconds;   /* 60: between two requests, the next one's headers included */
    double ping_seconds;   /* 15: an idle event stream gets a comment */
    double tick_seconds;   /* 0.25: how often deadlines are looked at */
    uint32_t rate_min;     /* 16 KiB/s */
} pr_http_opts;

/* PR_ERR_ARG for a bind to other than loopback without keys; PR_ERR_IO when the address cannot be had. */
pr_status pr_http_open(const pr_http_opts *opts, pr_http_server **out, pr_err *err);
uint16_t pr_http_port(const pr_http_server *server);

/* Stop accepting, cut idle connections, let requests finish for at most `seconds`; then those that still wait are answered
 * with 503, streams end where they are, and the threads are joined. New requests meanwhile get 503. Call it once. */
void pr_http_stop(pr_http_server *server, double seconds);
/* Stops at once when that was not done. NULL is allowed. */
void pr_http_close(pr_http_server *server);

typedef struct pr_http_stats {
    uint32_t connections; /* open */
    uint32_t active;      /* requests begun and not finished */
    uint64_t requests;    /* finished */
    size_t body_bytes;    /* of request bodies, held now */
} pr_http_stats;
void pr_http_stats_get(pr_http_server *server, pr_http_stats *out);

/* Finished requests of one route. Statuses that the server does not know of itself count as the last one, "other". */
enum { PR_HTTP_STATUSES = 16 };
typedef struct pr_http_route_stats {
    uint64_t by_status[PR_HTTP_STATUSES];
    uint64_t bytes; /* of bodies sent */
    double seconds; /* from the whole head to the last byte */
} pr_http_route_stats;
/* "200", ...; "gone" when the client went before it was answered. NULL past the end. */
const char *pr_http_status_name(size_t column);
/* Route number i of the options; n_routes: requests that fit none. */
void pr_http_route_stats_get(pr_http_server *server, size_t route, pr_http_route_stats *out);

/* ---- the request ---- */

void pr_http_req_ref(pr_http_req *req);
void pr_http_req_unref(pr_http_req *req);

/* All texts are owned by the request. */
const char *pr_http_req_id(const pr_http_req *req); /* X-Request-Id: the client's if well formed, else made here */
const char *pr_http_req_method(const pr_http_req *req);
const char *pr_http_req_path(const pr_http_req *req);                     /* as sent, without the query */
const char *pr_http_req_param(const pr_http_req *req);                    /* what {parameter} took, unescaped; "" */
const char *pr_http_req_header(const pr_http_req *req, const char *name); /* the first so named, in any case; NULL */
const char *pr_http_req_query(const pr_http_req *req, const char *name);  /* likewise; "" when without value */
const char *pr_http_req_body(const pr_http_req *req, size_t *len);        /* terminated; "" when there is none */
const char *pr_http_req_peer(const pr_http_req *req);                     /* "127.0.0.1" */
const char *pr_http_req_key(const pr_http_req *req);                      /* name of the API key; "" */

/* Members for the request's line in the log (",\"model\":\"x\""), copied, in the place of what was noted before. The line is
 * written when the request is finished and nobody holds it any more. */
void pr_http_req_note(pr_http_req *req, const char *json);

/* Does the client still wait? */
bool pr_http_req_gone(pr_http_req *req);

/* Who is told about a request. Each may be NULL. Called on threads of the server, without locks: on_gone at most once, when
 * the client has gone (or the server gives up) before the answer was complete, as soon as that is seen; at once when it has
 * gone already. on_drain whenever a stream that was full is half empty. Both may still be running when a reply returns, so
 * arg is given back by release, once, when the request is finished and neither runs nor can come any more; arg may hold the
 * request itself until then. A client that closes only its sending side while it waits counts as gone: the two cannot be
 * told apart. To be called at most once, by the handler or a holder. */
typedef struct pr_http_watch {
    void (*on_gone)(pr_http_req *req, void *arg);
    void (*on_drain)(pr_http_req *req, void *arg);
    void (*release)(void *arg);
    void *arg;
} pr_http_watch;
void pr_http_req_watch(pr_http_req *req, const pr_http_watch *watch);

/* ---- replies ---- */

/* One header for replies; the server adds X-Request-Id, Content-Length, Date and CORS. */
typedef struct pr_http_header {
    const char *name, *value;
} pr_http_header;

/* Answer with a copy of body. type: "application/json", ...; NULL when there is no body. JSON and text of 1 KiB and more are
 * compressed for clients that take gzip, on the calling thread. */
pr_status pr_http_reply(pr_http_req *req, unsigned status, const char *type, const pr_http_header *headers,
                        size_t n_headers, const void *body, size_t len);
/* The same with a body from pr_alloc() that is taken over, whatever is returned. */
pr_status pr_http_reply_owned(pr_http_req *req, unsigned status, const char *type, const pr_http_header *headers,
                              size_t n_headers, void *body, size_t len);

/* Bytes of the program itself: never copied. etag with its quotes; If-None-Match is answered with 304. gzip: the same
 * compressed, for clients that take it; NULL: none. headers: at most 14, copied. */
typedef struct pr_http_asset {
    const char *type, *etag;
    const void *data;
    size_t len;
    const void *gzip;
    size_t gzip_len;
    const pr_http_header *headers;
    size_t n_headers;
} pr_http_asset;
pr_status pr_http_reply_asset(pr_http_req *req, const pr_http_asset *asset);

/* {"error":{"message","type","param","code"}}; the type follows from the status. param NULL: null. retry_after 0: none. */
pr_status pr_http_error(pr_http_req *req, unsigned status, const char *code, const char *param, uint32_t retry_after,
                        const char *fmt, ...) PR_PRINTF(6, 7);

/* ---- streams ---- */

/* Begin a reply whose bytes follow, with status 200. Of type "text/event-stream" it gets pings: each send should then be
 * whole events. Headers are sent with the first bytes at the latest. */
pr_status pr_http_stream_begin(pr_http_req *req, const char *type, const pr_http_header *headers, size_t n_headers);
/* Until pr_http_release(), on this thread: connections that get something to send wait for it, and are woken together. For what
 * becomes ready at once; keep it short. Any thread; a server that stops waits for it. */
void pr_http_hold(void);
void pr_http_release(void);
/* Append bytes, all or none. PR_ERR_LIMIT: full, the reader is slow; on_drain tells when to try again. */
pr_status pr_http_stream_send(pr_http_req *req, const void *bytes, size_t len);
/* No more bytes; what is unsent still goes out. */
pr_status pr_http_stream_end(pr_http_req *req);
/* Bytes not yet taken by the connection. */
size_t pr_http_stream_pending(pr_http_req *req);

#endif
