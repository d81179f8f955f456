/*
 * Requests: from the library's callbacks to a handler.
 *
 * The library calls on_request once when the headers are there, then with pieces of the body, then once more; while nothing
 * is queued by then, the request is suspended until somebody answers, and on_request is called again. Everything a request
 * says is copied out of the library's buffers at the first call, since its holders may outlive the connection.
 *
 * All that can be refused is refused at the first call, before a body is taken: malformed framing, strangers, over the limit.
 * A small body that nobody wants is still read and dropped, and the connection goes on; with a large one it is closed, and
 * lingers (linger.c).
 *
 * The layout guard. libmicrohttpd 0.9.75 hands out terminated strings, so a NUL inside a header hides what follows it, a
 * folded line or one without a name changes what the next ones mean, and none of that can be seen in the strings. But they
 * point into the buffer the request was read into, where well-formed ones stand back to back with two bytes, CR and LF,
 * between them. Whatever the library skipped leaves a gap. This is done for that very version only; later ones refuse such
 * requests themselves.
 */
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/log.h"
#include "base/os.h"
#include "base/str.h"
#include "http/server_impl.h"

enum {
    DROP_BYTES_MAX = 1 << 20,   /* of a refused body, so that the connection lives on */
    DROP_CHUNKS_MAX = 16 << 20, /* of one without a length: the library cannot answer before its end */
    BODY_FIRST = 4096
};

/* While reading, nothing more is to be waited for once the peer has closed its side. */
static void set_deadline(pr_http_server *s, pr__conn *c, bool reading, double at) {
    pthread_mutex_lock(&s->lock);
    c->reading = reading;
    c->deadline = reading && atomic_load(&c->hung_up) ? pr_now() + PR__HUNG_UP_SECONDS : at;
    pthread_mutex_unlock(&s->lock);
}

/* The connection's place in the server; NULL when there was none left. */
static pr__conn *conn_of(struct MHD_Connection *con) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(con, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

void *pr__http_on_target(void *cls, const char *target, struct MHD_Connection *con) {
    pr_http_server *s = cls;
    pr__conn *c = conn_of(con);
    if (!c) return NULL;
    size_t len = strlen(target);
    if (len + 1 > c->target_cap) {
        char *grown = pr_realloc(PR_TAG_HTTP, c->target, len + 1);
        c->target_at = NULL; /* no memory: the request is not answered */
        if (!grown) return NULL;
        c->target = grown;
        c->target_cap = len + 1;
    }
    memcpy(c->target, target, len + 1);
    c->target_len = len;
    c->target_at = target;
    set_deadline(s, c, true, pr_now() + s->opts.header_seconds);
    return NULL;
}

/* ---- copying a request ---- */

/* What a first pass over the header fields finds. */
typedef struct survey {
    size_t n, bytes;
    const char *end; /* of what came before, in the library's buffer */
    bool gap;
} survey;

static enum MHD_Result survey_field(void *cls, enum MHD_ValueKind kind, const char *name, size_t name_len,
                                    const char *value, size_t value_len) {
    (void)kind;
    survey *v = cls;
    v->n++;
    v->bytes += name_len + value_len + 2;
    if (name != v->end + 2 || !value) v->gap = true;
    v->end = value ? value + value_len : name + name_len;
    return MHD_YES;
}

typedef struct copier {
    pr_http_field *fields;
    size_t n, max;
    char *at;
} copier;

static const char *copy_text(char **at, const char *text, size_t len) {
    char *copy = *at;
    if (len) memcpy(copy, text, len);
    copy[len] = '\0';
    *at += len + 1;
    return copy;
}

static enum MHD_Result copy_field(void *cls, enum MHD_ValueKind kind, const char *name, size_t name_len,
                                  const char *value, size_t value_len) {
    (void)kind;
    copier *c = cls;
    if (c->n == c->max) return MHD_NO;
    pr_http_field *f = &c->fields[c->n++];
    f->name = copy_text(&c->at, name, name_len);
    f->name_len = name_len;
    f->value = copy_text(&c->at, value ? value : "", value_len);
    f->value_len = value_len;
    return MHD_YES;
}

/* Is every byte of the request's head accounted for? See the top of this file. */
static bool layout_ok(const survey *v, struct MHD_Connection *con, const pr__conn *c, const char *method,
                      const char *version) {
    static const char ends[4]; /* CR LF CR LF, as the library leaves them */
    const union MHD_ConnectionInfo *head = MHD_get_connection_info(con, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    return !v->gap && method + strlen(method) + 1 == c->target_at && c->target_at + c->target_len + 1 == version &&
           head && v->end + sizeof ends == method + head->header_size && memcmp(v->end, ends, sizeof ends) == 0;
}

/* Copy method, target and fields into one block. false: out of memory. */
static bool copy_head(pr_http_req *req, struct MHD_Connection *con, const survey *v, const char *method) {
    const pr__conn *c = req->conn;
    size_t n_query = 0;
    for (const char *at = strchr(c->target, '?'); at && n_query <= PR__QUERY_MAX; at = strchr(at + 1, '&')) n_query++;
    size_t arrays = (v->n + n_query) * sizeof(pr_http_field);
    req->text = pr_alloc(PR_TAG_HTTP, arrays + strlen(method) + 1 + 2 * (c->target_len + 1) + v->bytes);
    if (!req->text) return false;
    req->fields = (pr_http_field *)(void *)req->text;
    req->query = req->fields + v->n;
    char *at = req->text + arrays;
    req->method = copy_text(&at, method, strlen(method));
    req->path = copy_text(&at, c->target, c->target_len);
    req->param = copy_text(&at, "", 0);
    at += c->target_len; /* room for what {parameter} takes */
    copier all = {.fields = req->fields, .max = v->n, .at = at};
    MHD_get_connection_values_n(con, MHD_HEADER_KIND, copy_field, &all);
    req->n_fields = all.n;
    return true;
}

/* ---- refusing ---- */

/* Answer instead of a handler. `closes`: the connection cannot be used any more. Always false. */
static bool refused(pr_http_req *req, pr_status replied, bool closes) {
    pthread_mutex_lock(&req->lock);
    if (replied && !req->replied) req->failed = true;
    pthread_mutex_unlock(&req->lock);
    req->closes = req->closes || closes;
    return false;
}

/* The same with an error; retry_after 0: none. */
static bool refuse(pr_http_req *req, bool closes, unsigned status, const char *code, uint32_t retry_after,
                   const char *fmt, ...) PR_PRINTF(6, 7);
static bool refuse(pr_http_req *req, bool closes, unsigned status, const char *code, uint32_t retry_after,
                   const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    pr_status replied = pr__req_error(req, status, code, NULL, retry_after, fmt, args);
    va_end(args);
    return refused(req, replied, closes);
}

/* Well formed, and within limits? */
static bool check_head(pr_http_req *req, struct MHD_Connection *con, const survey *v, const char *method,
                       const char *version) {
    const pr_http_opts *o = &req->server->opts;
    const pr__conn *c = req->conn;
    const char *why = pr_http_guard_method(method);
    if (!why) why = pr_http_guard_target(c->target, c->target_len);
    if (!why && req->server->exact_layout && !layout_ok(v, con, c, method, version)) {
        why = "the head is not lines of text";
    }
    if (!why) why = pr_http_guard_fields(req->fields, req->n_fields, strcmp(version, "HTTP/1.1") == 0, &req->framing);
    if (!why && v->n > o->headers_max) why = "too many headers";
    if (why) return refuse(req, true, 400, "malformed_request", 0, "malformed request: %s", why);
    if (v->bytes + c->target_len > o->header_bytes_max) {
        return refuse(req, true, 431, "headers_too_large", 0, "the headers are over %zu bytes", o->header_bytes_max);
    }
    return true;
}

static bool check_query(pr_http_req *req) {
    char *query = strchr(req->path, '?');
    if (!query) return true;
    *query++ = '\0';
    if (pr_http_query_parse(query, req->query, PR__QUERY_MAX, &req->n_query)) return true;
    req->n_query = 0;
    return refuse(req, false, 400, "malformed_query", 0, "the query is malformed or has over %d parameters",
                  PR__QUERY_MAX);
}

/* ---- where it comes from ---- */

static bool origin_listed(const pr_http_opts *o, const char *origin) {
    for (size_t i = 0; i < o->n_origins; i++) {
        if (strcmp(o->origins[i], "*") == 0 || strcasecmp(o->origins[i], origin) == 0) return true;
    }
    return false;
}

static bool host_expected(const pr_http_opts *o, const char *host) {
    if (pr_http_host_is_local(host)) return true;
    for (size_t i = 0; i < o->n_origins; i++) {
        if (strcmp(o->origins[i], "*") == 0 || pr_http_origin_is_host(o->origins[i], host)) return true;
    }
    return false;
}

/* A browser tells which page a request comes from; without keys that is all that keeps other pages out, together with the
 * Host, which a page whose name was made to point here cannot hide. */
static bool check_origin(pr_http_req *req) {
    const pr_http_opts *o = &req->server->opts;
    const char *host = pr_http_req_header(req, "Host"), *origin = pr_http_req_header(req, "Origin");
    if (!o->keys && host && !host_expected(o, host)) {
        return refuse(req, false, 403, "host_not_allowed", 0, "this server does not answer for host \"%.100s\"", host);
    }
    if (!origin) return true;
    if (origin_listed(o, origin)) req->origin = origin;
    else if (!host || !pr_http_origin_is_host(origin, host)) {
        return refuse(req, false, 403, "origin_not_allowed", 0, "origin \"%.100s\" is not allowed", origin);
    }
    return true;
}

/* ---- routes ---- */

static bool answers(const pr_http_route *r, const char *method) {
    return strcmp(r->method, method) == 0 || (strcmp(r->method, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

static void append_method(char *list, size_t cap, const char *method) {
    size_t len = strlen(list);
    snprintf(list + len, cap - len, "%s%s", len ? ", " : "", method);
}

/* Find the route; *allow gathers the methods of those that fit the path only. */
static const pr_http_route *find_route(pr_http_req *req, char *allow, size_t cap) {
    const pr_http_opts *o = &req->server->opts;
    allow[0] = '\0';
    for (size_t i = 0; i < o->n_routes; i++) {
        const pr_http_route *r = &o->routes[i];
        const char *param;
        size_t len;
        if (!pr_http_route_fits(r->path, req->path, &param, &len)) continue;
        append_method(allow, cap, r->method);
        if (strcmp(r->method, "GET") == 0) append_method(allow, cap, "HEAD");
        if (!answers(r, req->method)) continue;
        char *to = (char *)(uintptr_t)req->param; /* has room for all of the target */
        memcpy(to, param, len);
        if (!pr_http_unescape(to, &len, false)) to[0] = '\0'; /* the target guard has seen to it */
        return r;
    }
    return NULL;
}

static bool preflight(pr_http_req *req, const char *allow) {
    const char *asked = pr_http_req_header(req, "Access-Control-Request-Headers");
    const pr_http_header headers[] = {
        {"Allow", allow},
        {"Access-Control-Allow-Methods", allow},
        {"Access-Control-Max-Age", "600"},
        {"Access-Control-Allow-Headers", asked && *asked ? asked : "Authorization, Content-Type, X-Request-Id"},
    };
    return refused(req, pr_http_reply(req, 204, NULL, headers, req->origin ? 4 : 1, "", 0), false);
}

static bool check_route(pr_http_req *req) {
    char allow[128];
    req->route = find_route(req, allow, sizeof allow);
    if (req->route) return true;
    if (!allow[0]) return refuse(req, false, 404, "not_found", 0, "there is no %.200s here", req->path);
    append_method(allow, sizeof allow, "OPTIONS");
    if (strcmp(req->method, "OPTIONS") == 0) return preflight(req, allow);
    const char text[] =
        "{\"error\":{\"message\":\"this path does not take that method\",\"type\":\"invalid_request_error\","
        "\"param\":null,\"code\":\"method_not_allowed\"}}";
    const pr_http_header header = {"Allow", allow};
    return refused(req, pr_http_reply(req, 405, "application/json", &header, 1, text, sizeof text - 1), false);
}

/* ---- who, and how much ---- */

static bool check_key(pr_http_req *req) {
    pr_keys *keys = req->server->opts.keys;
    if (!keys || (req->route->flags & PR_HTTP_OPEN)) return true;
    const char *value = pr_http_req_header(req, "Authorization"), *token;
    size_t len;
    if (!value) return refuse(req, false, 401, "missing_api_key", 0, "an API key is needed: Authorization: Bearer KEY");
    pr_key *key = pr_http_bearer(value, &token, &len) ? pr_keys_find(keys, token, len) : NULL;
    if (!key) return refuse(req, false, 401, "invalid_api_key", 0, "the API key is not known here");
    uint32_t after;
    if (!pr_key_admit(key, req->began, &after)) {
        return refuse(req, false, 429, "rate_limit_exceeded", after, "over the limits of API key \"%s\"",
                      pr_key_name(key));
    }
    req->key = key;
    snprintf(req->key_name, sizeof req->key_name, "%s", pr_key_name(key));
    return true;
}

/* Memory for `need` bytes of body and a terminator, counted against the bound of all. */
static bool reserve_body(pr_http_req *req, size_t need) {
    if (need + 1 <= req->body_cap) return true;
    size_t cap = req->body_cap ? req->body_cap * 2 : BODY_FIRST;
    if (cap > req->body_max + 1) cap = req->body_max + 1;
    if (cap < need + 1) cap = need + 1;
    pr_http_server *s = req->server;
    size_t more = cap - req->body_cap;
    char *body = NULL;
    if (atomic_fetch_add(&s->body_bytes, more) + more <= s->opts.body_total_max) {
        body = pr_realloc(PR_TAG_HTTP, req->body, cap);
    }
    if (!body) {
        atomic_fetch_sub(&s->body_bytes, more);
        return refuse(req, false, 503, "out_of_memory", 1, "no memory for another request body now");
    }
    req->body = body;
    req->body_cap = cap;
    return true;
}

static bool too_large(pr_http_req *req) {
    return refuse(req, false, 413, "body_too_large", 0, "the body is over %zu bytes", req->body_max);
}

static bool check_body(pr_http_req *req) {
    req->body_max = req->route->body_bytes_max ? req->route->body_bytes_max : req->server->opts.body_bytes_max;
    if (!req->framing.has_length) return true;
    if (req->framing.length > req->body_max) return too_large(req);
    return !req->framing.length || reserve_body(req, (size_t)req->framing.length);
}

/* ---- the library's calls ---- */

static void make_id(pr_http_req *req) {
    const char *given = pr_http_req_header(req, "X-Request-Id");
    if (given && pr_http_id_ok(given)) {
        snprintf(req->id, sizeof req->id, "%s", given);
        return;
    }
    uint64_t z = req->server->id_seed + atomic_fetch_add(&req->server->next_id, 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u; /* splitmix64: unlike numbers, each one once */
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    snprintf(req->id, sizeof req->id, "req-%016llx", (unsigned long long)(z ^ z >> 31));
}

/* A request object for con; NULL when there is no memory or place, and the connection should end. */
static pr_http_req *new_req(pr_http_server *s, struct MHD_Connection *con, pr__conn *c, const survey *v,
                            const char *method) {
    if (!c || !c->target_at) return NULL;
    pr_http_req *req = pr_calloc(PR_TAG_HTTP, 1, sizeof *req);
    if (!req) return NULL;
    req->server = s;
    req->conn = c;
    if (!copy_head(req, con, v, method) || pthread_mutex_init(&req->lock, NULL)) {
        pr_free(req->text);
        pr_free(req);
        return NULL;
    }
    req->con = con;
    req->refs = 1;
    req->stream_max = s->opts.stream_bytes_max;
    req->began = req->body_began = pr_now();
    memcpy(req->peer, c->peer, sizeof req->peer);
    make_id(req);
    pthread_mutex_lock(&s->lock);
    c->req = req;
    s->active++;
    pthread_mutex_unlock(&s->lock);
    set_deadline(s, c, true, req->body_began + s->opts.body_seconds);
    return req;
}

/* Queue the reply that is there; under no lock. */
static enum MHD_Result queue(pr_http_req *req, struct MHD_Connection *con) {
    pr_http_server *s = req->server;
    double now = pr_now();
    pthread_mutex_lock(&req->lock);
    struct MHD_Response *r = req->response;
    req->response = NULL;
    req->stream.moved_at = now;
    unsigned status = req->status;
    double deadline = req->stream.active ? 0 : now + s->opts.send_seconds + (double)req->sent / s->opts.rate_min;
    pthread_mutex_unlock(&req->lock);
    if (req->closes || atomic_load(&s->draining)) {
        (void)MHD_add_response_header(r, MHD_HTTP_HEADER_CONNECTION, "close"); /* no memory: closed by its deadline */
    }
    set_deadline(s, req->conn, false, deadline);
    enum MHD_Result result = MHD_queue_response(con, status, r);
    MHD_destroy_response(r);
    return result;
}

/* The first call: decide whether the body is wanted. */
static enum MHD_Result begin(pr_http_req *req, struct MHD_Connection *con, const survey *v, const char *method,
                             const char *version) {
    bool wanted = check_head(req, con, v, method, version);
    if (wanted && atomic_load(&req->server->draining)) {
        wanted = refuse(req, true, 503, "stopping", 5, "the server is stopping");
    }
    wanted = wanted && check_query(req) && check_origin(req) && check_route(req) && check_key(req) && check_body(req);
    if (wanted) return MHD_YES;
    if (req->failed) return MHD_NO;
    req->discards = true;
    bool small = !req->framing.has_length || req->framing.length <= DROP_BYTES_MAX;
    if (!req->closes && small && !req->framing.expects) return MHD_YES; /* answered when the body has passed */
    req->closes = true;
    return queue(req, con);
}

static enum MHD_Result take_body(pr_http_req *req, const char *data, size_t len) {
    pr_http_server *s = req->server;
    if (!req->discards) {
        bool fits = len <= req->body_max - req->body_len || too_large(req);
        req->discards = !fits || !reserve_body(req, req->body_len + len);
        if (req->failed) return MHD_NO;
    }
    if (req->discards) {
        req->dropped += len;
        if (req->dropped > DROP_CHUNKS_MAX) return MHD_NO;
    } else {
        memcpy(req->body + req->body_len, data, len);
        req->body_len += len;
        req->body[req->body_len] = '\0';
    }
    double earned = (double)(req->body_len + req->dropped) / s->opts.rate_min;
    set_deadline(s, req->conn, true, req->body_began + s->opts.body_seconds + earned);
    return MHD_YES;
}

static void dispatch(pr_http_req *req) {
    set_deadline(req->server, req->conn, false, 0);
    req->dispatched = true;
    req->route->handler(req, req->route->arg);
    pthread_mutex_lock(&req->lock);
    req->handled = true;
    if (req->stream.active && req->refs == 1) req->stream.ended = true;
    pthread_mutex_unlock(&req->lock);
}

typedef enum next_step { NEXT_QUEUE, NEXT_WAIT, NEXT_CLOSE, NEXT_ORPHAN, NEXT_STOPPING } next_step;

/* All is read and the handler has been called: what now? Suspends the connection when that is to wait. */
static next_step decide(pr_http_req *req, struct MHD_Connection *con) {
    next_step next = NEXT_WAIT;
    pthread_mutex_lock(&req->lock);
    if (req->failed || req->gone) next = NEXT_CLOSE;
    else if (req->response) next = NEXT_QUEUE;
    else if (req->refs == 1) next = NEXT_ORPHAN;
    else if (atomic_load(&req->server->stopping)) next = NEXT_STOPPING;
    else if (atomic_load(&req->conn->hung_up)) {
        req->gone = true;
        next = NEXT_CLOSE;
    } else {
        req->suspended = true;
        MHD_suspend_connection(con);
    }
    pthread_mutex_unlock(&req->lock);
    return next;
}

static enum MHD_Result answer(pr_http_req *req, struct MHD_Connection *con) {
    next_step next = decide(req, con);
    /* If a holder answers at the same time, one of the two is refused, and there is a reply to queue all the same. */
    if (next == NEXT_ORPHAN) (void)refuse(req, false, 500, "no_answer", 0, "the request was not answered");
    if (next == NEXT_STOPPING) (void)refuse(req, true, 503, "stopping", 5, "the server is stopping");
    if (next == NEXT_ORPHAN || next == NEXT_STOPPING) next = decide(req, con);
    if (next == NEXT_QUEUE) return queue(req, con);
    pr__req_tell_gone(req);
    return next == NEXT_WAIT ? MHD_YES : MHD_NO;
}

enum MHD_Result pr__http_on_request(void *cls, struct MHD_Connection *con, const char *url, const char *method,
                                    const char *version, const char *data, size_t *data_len, void **req_cls) {
    (void)url;
    pr__http_wake_all(cls);
    pr_http_req *req = *req_cls;
    if (!req) {
        survey v = {.end = version + strlen(version)};
        MHD_get_connection_values_n(con, MHD_HEADER_KIND, survey_field, &v);
        *req_cls = req = new_req(cls, con, conn_of(con), &v, method);
        return req ? begin(req, con, &v, method, version) : MHD_NO;
    }
    if (*data_len) {
        size_t len = *data_len;
        *data_len = 0;
        return take_body(req, data, len);
    }
    if (!req->discards && !req->dispatched) dispatch(req);
    return answer(req, con);
}

/* ---- the end ---- */

void pr_http_req_note(pr_http_req *req, const char *json) {
    char *copy = pr_log_wants(PR_LOG_INFO) ? pr_strdup(PR_TAG_HTTP, json) : NULL; /* no memory: the line does without */
    pthread_mutex_lock(&req->lock);
    char *before = req->note;
    req->note = copy;
    pthread_mutex_unlock(&req->lock);
    pr_free(before);
}

/* One line of JSON. Built only when somebody listens. No query: it may hold what people wrote. */
void pr__req_log(const pr_http_req *req) {
    if (!pr_log_wants(PR_LOG_INFO)) return;
    enum { PATH_MAX_SHOWN = 256 };
    uint64_t us = req->took > 0 ? (uint64_t)(req->took * 1e6) : 0;
    size_t path_len = strcspn(req->path, "?");
    pr_str s = {0};
    pr_str_printf(&s, "{\"event\":\"request\",\"id\":\"%s\",\"method\":", req->id);
    pr_str_json(&s, req->method, strlen(req->method));
    pr_str_puts(&s, ",\"path\":");
    pr_str_json(&s, req->path, path_len < PATH_MAX_SHOWN ? path_len : PATH_MAX_SHOWN);
    pr_str_puts(&s, ",\"route\":");
    if (req->route) pr_str_json(&s, req->route->path, strlen(req->route->path));
    else pr_str_puts(&s, "null");
    pr_str_printf(&s, ",\"status\":%u,\"bytes\":%llu,\"received\":%zu,\"seconds\":%llu.%06llu", req->status,
                  (unsigned long long)req->sent, req->body_len, (unsigned long long)(us / 1000000),
                  (unsigned long long)(us % 1000000));
    pr_str_printf(&s, ",\"key\":\"%s\",\"peer\":\"%s\",\"gone\":%s", req->key_name, req->peer,
                  req->gone ? "true" : "false");
    if (req->note) pr_str_puts(&s, req->note);
    pr_str_puts(&s, "}");
    if (pr_str_ok(&s)) pr_log(PR_LOG_INFO, "%s", s.data);
    pr_str_free(&s);
}

/* ---- counting ---- */

static const struct {
    unsigned status;
    const char *name;
} statuses[PR_HTTP_STATUSES] = {
    {0, "gone"},  {200, "200"}, {204, "204"}, {304, "304"}, {400, "400"}, {401, "401"}, {403, "403"}, {404, "404"},
    {405, "405"}, {413, "413"}, {415, "415"}, {429, "429"}, {431, "431"}, {500, "500"}, {503, "503"}, {1, "other"},
};

const char *pr_http_status_name(size_t column) { return column < PR_HTTP_STATUSES ? statuses[column].name : NULL; }

/* Under the server's lock. */
static void count_request(pr_http_server *s, const pr_http_req *req) {
    size_t route = req->route ? (size_t)(req->route - s->opts.routes) : s->opts.n_routes, column = 0;
    while (column < PR_HTTP_STATUSES - 1 && statuses[column].status != req->status) column++;
    pr_http_route_stats *count = &s->by_route[route];
    count->by_status[column]++;
    count->bytes += req->sent;
    count->seconds += req->took;
}

void pr_http_route_stats_get(pr_http_server *s, size_t route, pr_http_route_stats *out) {
    pthread_mutex_lock(&s->lock);
    *out = s->by_route[route];
    pthread_mutex_unlock(&s->lock);
}

/* After this the request is nobody's but its holders'. */
static void detach(pr_http_req *req, bool went_out) {
    pthread_mutex_lock(&req->lock);
    bool complete = went_out && req->replied &&
                    (!req->stream.active || (req->stream.ended && req->stream.at == req->stream.len));
    struct MHD_Response *unsent = req->response;
    req->con = NULL;
    req->response = NULL;
    if (complete) req->told = true;
    else req->gone = true;
    if (!complete && !req->stream.active && !went_out) req->sent = 0;
    pr_free(req->stream.data);
    req->stream.data = NULL;
    req->stream.at = req->stream.len = req->stream.cap = 0;
    pthread_mutex_unlock(&req->lock);
    if (unsent) MHD_destroy_response(unsent);
    pr__req_tell_gone(req);
    pr__req_finished(req);
}

void pr__http_on_completed(void *cls, struct MHD_Connection *con, void **req_cls,
                           enum MHD_RequestTerminationCode code) {
    (void)con;
    pr_http_server *s = cls;
    pr_http_req *req = *req_cls;
    pr__http_wake_all(s);
    if (!req) return;
    *req_cls = NULL;
    pr__conn *c = req->conn;
    double now = pr_now();
    detach(req, code == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    if (req->key) pr_key_release(req->key);
    req->took = now - req->began;
    atomic_fetch_sub(&s->body_bytes, req->body_cap);
    pthread_mutex_lock(&s->lock);
    c->req = NULL;
    c->reading = true;
    c->deadline = now + (atomic_load(&c->hung_up) ? PR__HUNG_UP_SECONDS : s->opts.idle_seconds);
    if (atomic_load(&s->draining)) shutdown(c->fd, SHUT_RD);
    s->requests++;
    count_request(s, req);
    if (!--s->active) pthread_cond_broadcast(&s->idle);
    pthread_mutex_unlock(&s->lock);
    pr_http_req_unref(req);
}

/* ---- what a request says ---- */

const char *pr_http_req_id(const pr_http_req *req) { return req->id; }
const char *pr_http_req_method(const pr_http_req *req) { return req->method; }
const char *pr_http_req_path(const pr_http_req *req) { return req->path; }
const char *pr_http_req_param(const pr_http_req *req) { return req->param; }
const char *pr_http_req_peer(const pr_http_req *req) { return req->peer; }
const char *pr_http_req_key(const pr_http_req *req) { return req->key_name; }

const char *pr_http_req_header(const pr_http_req *req, const char *name) {
    for (size_t i = 0; i < req->n_fields; i++) {
        if (strcasecmp(req->fields[i].name, name) == 0) return req->fields[i].value;
    }
    return NULL;
}

const char *pr_http_req_query(const pr_http_req *req, const char *name) {
    for (size_t i = 0; i < req->n_query; i++) {
        if (strcmp(req->query[i].name, name) == 0) return req->query[i].value;
    }
    return NULL;
}

const char *pr_http_req_body(const pr_http_req *req, size_t *len) {
    *len = req->body_len;
    return req->body_len ? req->body : "";
}
