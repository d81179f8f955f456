/*
 * Replies and streams: from any thread to the one that writes.
 *
 * A reply is made complete on the caller's thread, laid into the request under its lock, and the connection is resumed; the
 * server's thread finds it there and queues it. A stream is a bounded buffer between any thread and the content callback. The
 * callback must never return without bytes while the connection runs, since the library would ask again at once and for ever:
 * with nothing to send it suspends the connection, and the next send resumes it. Whoever finds `suspended` set, under the
 * lock, clears it and resumes: so every suspension is resumed exactly once.
 */
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include "base/os.h"
#include "base/str.h"
#include "http/gzip.h"
#include "http/server_impl.h"

enum { STREAM_CHUNK = 4096, STREAM_FIRST = 1024 };

/* ---- counting ---- */

void pr_http_req_ref(pr_http_req *req) {
    pthread_mutex_lock(&req->lock);
    req->refs++;
    pthread_mutex_unlock(&req->lock);
}

void pr_http_req_unref(pr_http_req *req) {
    if (!req) return;
    pthread_mutex_lock(&req->lock);
    uint32_t left = --req->refs;
    if (left == 1 && req->con && req->handled) { /* only the server is left: nobody can answer or go on any more */
        if (req->stream.active) req->stream.ended = true;
        pr__req_wake(req);
    }
    pthread_mutex_unlock(&req->lock);
    if (!left) pr__req_free(req);
}

void pr__req_free(pr_http_req *req) {
    if (req->watch.release) req->watch.release(req->watch.arg); /* never finished: the server went down before */
    if (req->finished) pr__req_log(req);
    pthread_mutex_destroy(&req->lock);
    pr_free(req->note);
    pr_free(req->stream.data);
    pr_free(req->body);
    pr_free(req->text);
    pr_free(req);
}

/* ---- waking, telling ---- */

void pr__req_wake(pr_http_req *req) {
    if (!req->suspended) return;
    req->suspended = false;
    req->stream.moved_at = pr_now();
    if (!pr__wake_later(req)) MHD_resume_connection(req->con);
}

/* A callback has returned, or the request is finished: give the watch back when none can come any more. Its holder may
 * hold the request in turn, so this must not wait for the end of the object. */
static void let_go(pr_http_req *req, bool called) {
    pr_http_watch watch = {0};
    pthread_mutex_lock(&req->lock);
    if (called) req->calling--;
    if (req->finished && !req->calling) {
        watch = req->watch;
        req->watch = (pr_http_watch){0};
    }
    pthread_mutex_unlock(&req->lock);
    if (watch.release) watch.release(watch.arg);
}

void pr__req_tell_gone(pr_http_req *req) {
    pthread_mutex_lock(&req->lock);
    pr_http_watch watch = req->watch;
    bool tell = req->gone && !req->told && watch.on_gone;
    if (tell) {
        req->told = true;
        req->calling++;
    }
    pthread_mutex_unlock(&req->lock);
    if (!tell) return;
    watch.on_gone(req, watch.arg);
    let_go(req, true);
}

void pr__req_finished(pr_http_req *req) {
    pthread_mutex_lock(&req->lock);
    req->finished = true;
    pthread_mutex_unlock(&req->lock);
    let_go(req, false);
}

void pr_http_req_watch(pr_http_req *req, const pr_http_watch *watch) {
    pthread_mutex_lock(&req->lock);
    req->watch = *watch;
    pthread_mutex_unlock(&req->lock);
    pr__req_tell_gone(req);
    let_go(req, false); /* when it is finished already */
}

bool pr_http_req_gone(pr_http_req *req) {
    pthread_mutex_lock(&req->lock);
    bool gone = req->gone;
    pthread_mutex_unlock(&req->lock);
    return gone;
}

void pr__req_abort(pr_http_req *req) {
    pthread_mutex_lock(&req->lock);
    if (req->con) pr__req_wake(req);
    pthread_mutex_unlock(&req->lock);
}

/* ---- replies ---- */

/* Whether a body depends on what its client can undo, and what was done to it. */
typedef enum body_coding { CODING_NONE, CODING_PLAIN, CODING_GZIP } body_coding;

static bool add_coding(struct MHD_Response *r, body_coding coding) {
    bool ok = coding == CODING_NONE || MHD_add_response_header(r, "Vary", "Accept-Encoding") == MHD_YES;
    return ok && (coding != CODING_GZIP || MHD_add_response_header(r, "Content-Encoding", "gzip") == MHD_YES);
}

/* Headers of every reply. false: out of memory, or a header that is none. */
static bool add_headers(const pr_http_req *req, struct MHD_Response *r, const char *type, const pr_http_header *headers,
                        size_t n) {
    bool ok = MHD_add_response_header(r, "X-Request-Id", req->id) == MHD_YES;
    ok = ok && MHD_add_response_header(r, "X-Content-Type-Options", "nosniff") == MHD_YES;
    if (type) ok = ok && MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type) == MHD_YES;
    for (size_t i = 0; i < n; i++) ok = ok && MHD_add_response_header(r, headers[i].name, headers[i].value) == MHD_YES;
    if (req->origin) {
        static const char exposed[] = "X-Request-Id, X-Precis-Level, X-Cache, Retry-After";
        ok = ok && MHD_add_response_header(r, "Access-Control-Allow-Origin", req->origin) == MHD_YES;
        ok = ok && MHD_add_response_header(r, "Access-Control-Expose-Headers", exposed) == MHD_YES;
        ok = ok && MHD_add_response_header(r, "Vary", "Origin") == MHD_YES;
    }
    return ok;
}

/* Hand a complete response over; takes it in any case. */
static pr_status hand_over(pr_http_req *req, struct MHD_Response *r, unsigned code, size_t len,
                           const pr__stream *stream) {
    pr_status status = PR_OK;
    pthread_mutex_lock(&req->lock);
    if (!req->con || req->gone || req->failed) {
        status = PR_ERR_CANCELLED;
    } else if (req->replied) {
        status = PR_ERR_ARG;
    } else {
        req->replied = true;
        req->response = r;
        req->status = code;
        req->sent = len;
        if (stream) req->stream = *stream;
        pr__req_wake(req);
    }
    pthread_mutex_unlock(&req->lock);
    if (status) MHD_destroy_response(r);
    return status;
}

/* Reply with r (NULL: out of memory), which is taken. */
static pr_status reply_with(pr_http_req *req, struct MHD_Response *r, unsigned code, const char *type,
                            const pr_http_header *headers, size_t n, size_t len, body_coding coding) {
    if (!r) return PR_ERR_NOMEM;
    if (add_headers(req, r, type, headers, n) && add_coding(r, coding)) return hand_over(req, r, code, len, NULL);
    MHD_destroy_response(r);
    return PR_ERR_ARG;
}

static bool takes_gzip(const pr_http_req *req) {
    return pr_http_gzip_accepted(pr_http_req_header(req, "Accept-Encoding"));
}

pr_status pr_http_reply_owned(pr_http_req *req, unsigned status, const char *type, const pr_http_header *headers,
                              size_t n_headers, void *body, size_t len) {
    body_coding coding = pr_http_gzip_worth(type, len) ? CODING_PLAIN : CODING_NONE;
    void *small;
    size_t small_len;
    if (coding && takes_gzip(req) && pr_http_gzip(body, len, &small, &small_len) == PR_OK) {
        pr_free(body);
        body = small;
        len = small_len;
        coding = CODING_GZIP;
    }
    struct MHD_Response *r = MHD_create_response_from_buffer_with_free_callback(len, body, pr_free);
    if (!r) pr_free(body);
    return reply_with(req, r, status, type, headers, n_headers, len, coding);
}

pr_status pr_http_reply(pr_http_req *req, unsigned status, const char *type, const pr_http_header *headers,
                        size_t n_headers, const void *body, size_t len) {
    void *copy = pr_alloc(PR_TAG_HTTP, len);
    if (!copy) return PR_ERR_NOMEM;
    if (len) memcpy(copy, body, len);
    return pr_http_reply_owned(req, status, type, headers, n_headers, copy, len);
}

pr_status pr_http_reply_asset(pr_http_req *req, const pr_http_asset *asset) {
    enum { HEADERS_MAX = 16 };
    pr_http_header headers[HEADERS_MAX] = {{"ETag", asset->etag}, {"Cache-Control", "no-cache"}};
    if (asset->n_headers > HEADERS_MAX - 2) return PR_ERR_ARG;
    for (size_t i = 0; i < asset->n_headers; i++) headers[2 + i] = asset->headers[i];
    const char *have = pr_http_req_header(req, "If-None-Match");
    bool same = have && pr_http_etag_listed(have, asset->etag);
    body_coding coding = !asset->gzip ? CODING_NONE : takes_gzip(req) ? CODING_GZIP : CODING_PLAIN;
    const void *bytes = coding == CODING_GZIP ? asset->gzip : asset->data;
    size_t len = same ? 0 : coding == CODING_GZIP ? asset->gzip_len : asset->len;
    void *data = (void *)(uintptr_t)bytes; /* the library only reads what is persistent */
    struct MHD_Response *r = MHD_create_response_from_buffer(len, data, MHD_RESPMEM_PERSISTENT);
    if (same && coding == CODING_GZIP) coding = CODING_PLAIN;
    return reply_with(req, r, same ? 304 : 200, same ? NULL : asset->type, headers, 2 + asset->n_headers, len, coding);
}

static const char *error_type(unsigned status) {
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 503: return "overloaded_error";
    default: return status < 500 ? "invalid_request_error" : "server_error";
    }
}

static void put_text(pr_str *s, const char *text) {
    if (text) pr_str_json(s, text, strlen(text));
    else pr_str_puts(s, "null");
}

pr_status pr__req_error(pr_http_req *req, unsigned status, const char *code, const char *param, uint32_t retry_after,
                        const char *fmt, va_list args) {
    char message[512], seconds[16];
    vsnprintf(message, sizeof message, fmt, args);
    snprintf(seconds, sizeof seconds, "%u", (unsigned)retry_after);
    pr_http_header headers[2];
    size_t n = 0;
    if (retry_after) headers[n++] = (pr_http_header){"Retry-After", seconds};
    if (status == 401) headers[n++] = (pr_http_header){"WWW-Authenticate", "Bearer"};
    pr_str s = {0};
    pr_str_puts(&s, "{\"error\":{\"message\":");
    put_text(&s, message);
    pr_str_printf(&s, ",\"type\":\"%s\",\"param\":", error_type(status));
    put_text(&s, param);
    pr_str_puts(&s, ",\"code\":");
    put_text(&s, code);
    pr_str_puts(&s, "}}");
    size_t len = s.len;
    char *text = pr_str_take(&s);
    return text ? pr_http_reply_owned(req, status, "application/json", headers, n, text, len) : PR_ERR_NOMEM;
}

pr_status pr_http_error(pr_http_req *req, unsigned status, const char *code, const char *param, uint32_t retry_after,
                        const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    pr_status result = pr__req_error(req, status, code, param, retry_after, fmt, args);
    va_end(args);
    return result;
}

/* ---- streams ---- */

/* Take up to max unsent bytes, under the lock. *drained: the stream was full and has room again. */
static size_t take(pr_http_req *req, char *out, size_t max, bool *drained) {
    pr__stream *s = &req->stream;
    size_t n = s->len - s->at < max ? s->len - s->at : max;
    if (!n) return 0;
    memcpy(out, s->data + s->at, n);
    s->at += n;
    if (s->at == s->len) s->at = s->len = 0;
    s->moved_at = pr_now();
    req->sent += n;
    if (s->full && s->len - s->at <= req->stream_max / 2) {
        s->full = false;
        *drained = true;
    }
    return n;
}

/* Under the lock: its client has hung up while there is more to come. What is complete is still sent. */
static bool deserted(const pr_http_req *req) {
    bool waits = !req->replied || (req->stream.active && !req->stream.ended);
    return req->handled && waits && atomic_load(&req->conn->hung_up);
}

/* The library wants up to max bytes: bytes, or the end, or the connection is suspended until there are some. */
static ssize_t on_content(void *cls, uint64_t pos, char *out, size_t max) {
    (void)pos;
    pr_http_req *req = cls;
    pr__http_wake_all(req->server);
    bool drained = false;
    ssize_t result = MHD_CONTENT_READER_END_WITH_ERROR;
    pthread_mutex_lock(&req->lock);
    if (deserted(req)) req->gone = true;
    bool ends = req->gone || atomic_load(&req->server->stopping);
    size_t n = ends ? 0 : take(req, out, max, &drained);
    if (n) {
        result = (ssize_t)n;
    } else if (!ends && req->stream.ended) {
        result = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (!ends) {
        req->suspended = true;
        MHD_suspend_connection(req->con);
        result = 0;
    }
    pr_http_watch watch = req->watch;
    drained = drained && watch.on_drain;
    if (drained) req->calling++;
    pthread_mutex_unlock(&req->lock);
    if (drained) {
        watch.on_drain(req, watch.arg);
        let_go(req, true);
    }
    pr__req_tell_gone(req);
    return result;
}

pr_status pr_http_stream_begin(pr_http_req *req, const char *type, const pr_http_header *headers, size_t n_headers) {
    pr__stream stream = {.active = true, .pings = strcmp(type, "text/event-stream") == 0, .moved_at = pr_now()};
    struct MHD_Response *r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_CHUNK, on_content, req, NULL);
    if (!r) return PR_ERR_NOMEM;
    bool ok = add_headers(req, r, type, headers, n_headers);
    if (stream.pings) {
        ok = ok && MHD_add_response_header(r, "Cache-Control", "no-cache") == MHD_YES;
        ok = ok && MHD_add_response_header(r, "X-Accel-Buffering", "no") == MHD_YES; /* proxies: pass on at once */
    }
    if (ok) return hand_over(req, r, 200, 0, &stream);
    MHD_destroy_response(r);
    return PR_ERR_ARG;
}

/* Room for len more bytes, under the lock. */
static bool make_room(pr__stream *s, size_t len) {
    if (s->cap - s->len >= len) return true;
    if (s->at) {
        memmove(s->data, s->data + s->at, s->len - s->at);
        s->len -= s->at;
        s->at = 0;
    }
    if (s->cap - s->len >= len) return true;
    size_t cap = s->cap ? s->cap : STREAM_FIRST;
    while (cap - s->len < len) cap *= 2; /* bounded by stream_bytes_max before */
    char *data = pr_realloc(PR_TAG_HTTP, s->data, cap);
    if (!data) return false;
    s->data = data;
    s->cap = cap;
    return true;
}

static pr_status append(pr_http_req *req, const void *bytes, size_t len) {
    pr__stream *s = &req->stream;
    if (!make_room(s, len)) return PR_ERR_NOMEM;
    if (len) memcpy(s->data + s->len, bytes, len);
    s->len += len;
    if (len) pr__req_wake(req);
    return PR_OK;
}

/* Under the lock: may a holder still write to the stream? */
static pr_status writable(const pr_http_req *req) {
    if (!req->con || req->gone || req->failed || atomic_load(&req->server->stopping)) return PR_ERR_CANCELLED;
    return req->stream.active && !req->stream.ended ? PR_OK : PR_ERR_ARG;
}

pr_status pr_http_stream_send(pr_http_req *req, const void *bytes, size_t len) {
    pthread_mutex_lock(&req->lock);
    pr_status status = writable(req);
    if (!status && (len > req->stream_max || req->stream.len - req->stream.at > req->stream_max - len)) {
        req->stream.full = true;
        status = PR_ERR_LIMIT;
    }
    if (!status) status = append(req, bytes, len);
    pthread_mutex_unlock(&req->lock);
    return status;
}

pr_status pr_http_stream_end(pr_http_req *req) {
    pthread_mutex_lock(&req->lock);
    pr_status status = writable(req);
    if (!status) {
        req->stream.ended = true;
        pr__req_wake(req);
    }
    pthread_mutex_unlock(&req->lock);
    return status;
}

size_t pr_http_stream_pending(pr_http_req *req) {
    pthread_mutex_lock(&req->lock);
    size_t pending = req->stream.len - req->stream.at;
    pthread_mutex_unlock(&req->lock);
    return pending;
}

/* ---- the watch ---- */

void pr__req_tick(pr_http_req *req, double now) {
    static const char ping[] = ": ping\n\n";
    pthread_mutex_lock(&req->lock);
    const pr__stream *s = &req->stream;
    double still = now - s->moved_at;
    bool running = req->con != NULL; /* else server and connection are not ours to look at */
    if (running && deserted(req)) {
        req->gone = true;
        pr__req_wake(req);
    } else if (running && s->active && req->suspended && s->pings && still >= req->server->opts.ping_seconds) {
        (void)append(req, ping, sizeof ping - 1); /* no memory: the next tick tries again */
    } else if (running && s->active && !req->suspended && still > req->server->opts.send_seconds) {
        shutdown(req->conn->fd, SHUT_RDWR); /* open: the library closes it after the request is finished */
    }
    pthread_mutex_unlock(&req->lock);
}
