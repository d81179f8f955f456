/*
 * What the files of the server share: connections, requests, what lingers, and who locks what.
 *
 * Locks, in this order: server.lock, then req.lock, then the library's own (taken inside suspend and resume). No callback of
 * a user and nothing of the library that calls back runs under any of them.
 */
#ifndef PRECIS_HTTP_SERVER_IMPL_H
#define PRECIS_HTTP_SERVER_IMPL_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>

#include "base/mem.h"
#include "http/server.h"

/* A connection whose peer sends no more is cut after this time without a request: the library may miss it. */
#define PR__HUNG_UP_SECONDS 1.0

enum { PR__ID_BYTES = 65, PR__PEER_BYTES = 64, PR__QUERY_MAX = 64, PR__LINGERERS_MAX = 256 };

/* One connection; lives in a slot of the server, from accept to close. Under server.lock but for what is said. */
typedef struct pr__conn {
    bool used;
    uint32_t generation; /* tells an old event of this slot from a new one */
    int fd;
    double deadline;     /* 0: none */
    bool reading;        /* between requests, or a request has not come in yet */
    pr_http_req *req;    /* in progress; holds a reference */
    bool cut;            /* over a deadline: shut down */
    atomic_bool hung_up; /* the peer has closed, at least its sending side */
    char peer[PR__PEER_BYTES];
    /* The server's thread only: the target of the request being read, as it was sent, and where it stood. */
    char *target;
    size_t target_len, target_cap;
    const char *target_at;
} pr__conn;

typedef struct pr__stream {
    bool active, ended, full, pings;
    char *data; /* unsent: data[at..len) */
    size_t at, len, cap;
    double moved_at; /* when bytes last went either way */
} pr__stream;

struct pr_http_req {
    pthread_mutex_t lock;
    /* Under lock. */
    uint32_t refs;                 /* of users, and one of the server until the request is finished */
    struct MHD_Connection *con;    /* NULL: finished; server and conn must not be touched any more */
    bool suspended;                /* the library waits for pr__req_wake() */
    bool handled;                  /* the handler has returned: from here on holders answer for the request */
    bool replied;                  /* a reply or a stream has begun */
    bool failed;                   /* cannot be answered: close the connection */
    bool gone;                     /* nobody waits for the answer any more */
    struct MHD_Response *response; /* made, to be queued by the server's thread */
    pr__stream stream;
    pr_http_watch watch;
    struct pr_http_req *wake_next; /* of the list that it is on: wake.c */
    bool told;                     /* on_gone was called, or never will be */
    bool finished;                 /* no callback begins any more */
    uint32_t calling;              /* callbacks that run */
    char *note;                    /* for the log; NULL: nothing */
    /* Fixed once the handler runs. */
    pr_http_server *server;
    pr__conn *conn;
    const pr_http_route *route;
    pr_key *key;
    char id[PR__ID_BYTES], key_name[PR__ID_BYTES], peer[PR__PEER_BYTES];
    char *text; /* one block: everything below points into it */
    const char *method, *path, *param, *origin;
    pr_http_field *fields, *query;
    size_t n_fields, n_query;
    char *body;
    size_t body_len, body_cap, body_max;
    /* The server's thread only. */
    pr_http_framing framing;
    bool discards; /* refused: the body is read and dropped */
    bool closes;   /* the connection ends with this reply */
    bool dispatched;
    size_t dropped;
    size_t stream_max;
    double began;
    double body_began;
    unsigned status;
    uint64_t sent;
    double took; /* seconds, once it is finished */
};

/* A connection that has been closed and whose peer may still send: see linger.c. */
typedef struct pr__lingerer {
    int fd; /* -1: free */
    uint32_t generation;
    double deadline;
    size_t bytes; /* read and dropped */
} pr__lingerer;

struct pr_http_server {
    pr_http_opts opts; /* with defaults filled in */
    struct MHD_Daemon *daemon;
    int listen_fd, watch_fd, wake_fd;
    uint16_t port;
    bool exact_layout; /* the library is the version whose buffers the layout guard knows */
    pthread_t watch;
    bool watching, stopped, synced;
    atomic_bool draining, stopping, watch_ends;
    atomic_size_t body_bytes;
    atomic_uint_least64_t next_id;
    _Atomic(pr_http_req *) waking; /* wake.c: to be resumed by the server's thread */
    atomic_uint n_waking;          /* on any such list */
    uint64_t id_seed;

    pthread_mutex_t lock;
    pthread_cond_t idle; /* active has become 0 */
    pr__conn *conns;
    uint32_t n_conns, n_used, active;
    pr__lingerer *lingerers; /* PR__LINGERERS_MAX */
    uint32_t n_lingering, lingerers_max;
    uint64_t requests;
    pr_http_route_stats *by_route; /* [n_routes + 1] */
    pr_http_req **due;             /* the watch's: requests to look at */
};

/* request.c: callbacks of the library. */
void *pr__http_on_target(void *cls, const char *target, struct MHD_Connection *con);
enum MHD_Result pr__http_on_request(void *cls, struct MHD_Connection *con, const char *url, const char *method,
                                    const char *version, const char *data, size_t *data_len, void **req_cls);
void pr__req_log(const pr_http_req *req); /* its line, when nobody holds it any more */
void pr__http_on_completed(void *cls, struct MHD_Connection *con, void **req_cls, enum MHD_RequestTerminationCode code);

/* reply.c. */
void pr__req_tell_gone(pr_http_req *req);        /* call on_gone if that is due; without locks */
void pr__req_finished(pr_http_req *req);         /* it is answered or gone, and that was told; without locks */
void pr__req_wake(pr_http_req *req);             /* under req.lock */
void pr__req_tick(pr_http_req *req, double now); /* the watch's look at a request: gone, ping, stalled */
void pr__req_abort(pr_http_req *req);            /* the server stops: end it where it is */
void pr__req_free(pr_http_req *req);
/* pr_http_error() with a list of arguments. */
pr_status pr__req_error(pr_http_req *req, unsigned status, const char *code, const char *param, uint32_t retry_after,
                        const char *fmt, va_list args) PR_PRINTF(6, 0);

/* wake.c. */
bool pr__wake_later(pr_http_req *req); /* under req.lock: whether this thread holds, and will see to it */
void pr__http_wake_all(pr_http_server *s);
void pr__http_wake_stop(pr_http_server *s); /* until nothing is on a list */

/* linger.c; all under server.lock. */
bool pr__linger_open(pr_http_server *s);
void pr__linger_begin(pr_http_server *s, const pr__conn *c); /* instead of a reset; the library closes c->fd after it */
void pr__linger_event(pr_http_server *s, uint32_t slot, uint32_t generation); /* something came; slot as in the event */
void pr__linger_tick(pr_http_server *s, double now);
void pr__linger_close(pr_http_server *s);

#endif
