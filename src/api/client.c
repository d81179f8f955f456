/*
 * Clients: from a record to HTTP.
 *
 * A stream begins with its first event and not before: until then a refusal is still a status code, and the level in the
 * header is the one it was computed at. Only /api/query/stream, and who asks for events, have it begin earlier when it must
 * wait for long, to tell its place.
 *
 * A slow reader costs nothing but its place in the record. While that grows, one that is a megabyte behind is given up, so
 * that what nobody may ask for again can be forgotten as it goes out.
 */
#include "api/client.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "api/write.h"
#include "base/os.h"
#include "http/sse.h"

enum { BEHIND_BYTES_MAX = 1 << 20, BATCH_BYTES = 16 << 10 };

static const double queue_told_after = 0.5; /* seconds of waiting after which a query's stream begins */

pr__client *pr__client_new(pr_api *api, pr_http_req *req) {
    pr__client *c = pr_calloc(PR_TAG_HTTP, 1, sizeof *c);
    if (!c) return NULL;
    c->api = api;
    c->req = req;
    c->began = pr_now();
    c->cache = "MISS";
    c->age = -1;
    atomic_init(&c->refs, 1);
    pr_http_req_ref(req);
    return c;
}

pr__client *pr__client_ref(pr__client *c) {
    atomic_fetch_add(&c->refs, 1);
    return c;
}

void pr__client_unref(pr__client *c) {
    if (!c || atomic_fetch_sub(&c->refs, 1) != 1) return;
    for (uint32_t i = 0; i < c->n; i++) {
        pr_str_free(&c->choices[i].head);
        pr_str_free(&c->choices[i].tail);
    }
    pr_str_free(&c->out);
    pr_http_req_unref(c->req);
    pr_free(c);
}

void pr__client_name(pr__client *c, pr_ask ask, const char *model, const char *query, uint32_t n) {
    static const char *const kinds[] = {
        [PR_ASK_CHAT] = "chatcmpl", [PR_ASK_COMPLETION] = "cmpl", [PR_ASK_QUERY] = "query"};
    uint64_t id = 0;
    if (getrandom(&id, sizeof id, 0) != sizeof id) id = pr_now_ns();
    snprintf(c->id, sizeof c->id, "%s-%016llx", kinds[ask], (unsigned long long)id);
    c->reply.ask = ask;
    c->reply.id = c->id;
    c->reply.model = model;
    c->reply.query = query;
    c->reply.created = time(NULL);
    c->reply.cached = c->shared;
    c->n = n;
    for (uint32_t i = 0; c->stream && i < n; i++)
        pr_write_frame(&c->choices[i].head, &c->choices[i].tail, &c->reply, i);
}

/* ---- counting ---------------------------------------------------------- */

typedef enum outcome { ANSWERED, FAILED, LOST /* gone, or too slow */ } outcome;

/* What the request's line in the log says beyond HTTP: never a word of what was asked or answered. */
static void note(const pr__client *c, outcome how) {
    pr_str s = {0};
    if (!pr_log_wants(PR_LOG_INFO) || !c->reply.model) return;
    pr_str_puts(&s, "{");
    pr_write_text(&s, "model", c->reply.model);
    pr_write_bool(&s, "stream", c->stream);
    pr_write_text(&s, "cache", c->cache);
    pr_write_text(&s, "finish", how == FAILED ? "error" : how == LOST ? "cancelled" : c->ending.finish);
    if (c->n_ended) {
        pr_write_levels(&s, c->levels);
        pr_write_u64(&s, "prompt_tokens", c->usage.prompt);
        pr_write_u64(&s, "cached_tokens", c->usage.cached);
        pr_write_u64(&s, "generated_tokens", c->usage.completion);
        pr_write_f64(&s, "queue_seconds", c->ending.queue_seconds);
        pr_write_f64(&s, "first_token_seconds", c->ending.first_token_seconds);
        pr_write_f64(&s, "total_seconds", pr_now() - c->began);
    }
    if (pr_str_ok(&s)) {
        s.data[0] = ','; /* members, to be put behind others */
        pr_http_req_note(c->req, s.data);
    }
    pr_str_free(&s);
}

/* Nothing more is done for it. status: of a failure. */
static void end(pr__client *c, outcome how, unsigned status) {
    pr_api *api = c->api;
    double seconds = pr_now() - c->began;
    if (c->over) return;
    c->over = true;
    note(c, how);
    if (how == LOST) return;
    pthread_mutex_lock(&api->lock);
    if (how == FAILED) {
        api->n_failures++;
    } else {
        api->n_answers++;
        api->n_hits += c->shared;
        api->answer_seconds += seconds;
    }
    pthread_mutex_unlock(&api->lock);
    if (how == ANSWERED || status >= 500) pr__metrics_answered(api->metrics, how == FAILED);
    if (how == ANSWERED) pr__metrics_latency(c->metrics, PR__LATENCY_END_TO_END, seconds);
}

void pr__client_lost(pr__client *c) { end(c, LOST, 0); }

/* ---- headers ----------------------------------------------------------- */

enum { HEADERS_MAX = 3 };

/* level NULL: not known yet. */
static size_t headers_of(const pr__client *c, const pr_level *level, char age[16], pr_http_header *out) {
    size_t n = 0;
    out[n++] = (pr_http_header){"X-Cache", c->cache};
    if (level) out[n++] = (pr_http_header){"X-Precis-Level", pr_level_name(*level)};
    if (c->age < 0) return n;
    snprintf(age, 16, "%.0f", c->age < 1e9 ? c->age : 1e9);
    out[n++] = (pr_http_header){"Age", age};
    return n;
}

static void begin_stream(pr__client *c, const pr_level *level) {
    pr_http_header headers[HEADERS_MAX];
    char age[16];
    if (c->begun) return;
    c->begun = true;
    pr_http_stream_begin(c->req, "text/event-stream", headers, headers_of(c, level, age, headers));
}

/* ---- streams ----------------------------------------------------------- */

/* Send what waits. True when all has gone out. */
static bool flush(pr__client *c) {
    if (!pr_str_ok(&c->out)) {
        end(c, FAILED, 503);
        pr_http_stream_end(c->req);
        return false;
    }
    if (c->out.len == 0) return true;
    pr_status st = pr_http_stream_send(c->req, c->out.data, c->out.len);
    if (st == PR_OK) pr_str_clear(&c->out);
    else if (st != PR_ERR_LIMIT) end(c, LOST, 0);
    return st == PR_OK;
}

/* A shared answer's times are this client's own: it has waited for nobody's turn. */
static pr_ending ending_for(const pr__client *c, const pr_ending *made) {
    pr_ending e = *made;
    if (!c->shared) return e;
    e.queue_seconds = e.first_token_seconds = 0;
    e.total_seconds = pr_now() - c->began;
    return e;
}

static void add_share(pr__client *c, const pr_event *e) {
    c->usage.prompt += e->share.prompt;
    c->usage.cached += e->share.cached;
    c->usage.completion += e->share.completion;
    c->levels |= e->ending.levels_used;
    if (c->n_ended++ == 0) c->ending = ending_for(c, &e->ending);
}

/* To those who asked for events, when an answer goes on at another level. */
static void tell_level(pr__client *c, const pr_event *e) {
    pr_str json = {0};
    pr_str_puts(&json, "{");
    pr_write_u64(&json, "index", e->choice);
    pr_write_text(&json, "level", pr_level_name(e->level));
    pr_str_puts(&json, "}");
    pr_str_puts(&c->out, "event: level\n");
    if (pr_str_ok(&json)) pr_sse_data(&c->out, json.data, json.len);
    pr_str_free(&json);
}

static void write_event(pr__client *c, const pr_event *e) {
    const pr_reply *r = &c->reply;
    begin_stream(c, &e->level);
    bool begun = c->choices[e->choice].begun;
    if (!begun && r->ask == PR_ASK_CHAT) pr_write_role(&c->out, r, e->choice);
    if (begun && c->events && e->level != c->choices[e->choice].level) tell_level(c, e);
    c->choices[e->choice].begun = true;
    c->choices[e->choice].level = e->level;
    if (e->ends) {
        pr_ending ending = ending_for(c, &e->ending);
        add_share(c, e);
        pr_write_end(&c->out, r, e->choice, &ending, &c->usage);
        if (c->n_ended < c->n) return;
        if (r->include_usage && r->ask != PR_ASK_QUERY) pr_write_usage(&c->out, r, &c->usage);
        pr_sse_done(&c->out);
    } else if (e->has_lp) {
        pr_write_delta(&c->out, r, e->choice, e->text, e->len, &e->lp);
    } else if (e->len) {
        pr_sse_delta(&c->out, &c->choices[e->choice].head, e->text, e->len, &c->choices[e->choice].tail);
    }
}

static void read_stream(pr__client *c, const char *data, size_t len, bool complete) {
    pr_event e;
    while (flush(c)) {
        if (c->failed || c->n_ended == c->n) {
            end(c, c->failed ? FAILED : ANSWERED, c->failed);
            pr_http_stream_end(c->req);
            return;
        }
        size_t taken = 0;
        while (len > c->at && c->out.len < BATCH_BYTES && (taken = pr_record_next(data + c->at, len - c->at, &e)) > 0) {
            if (e.choice < c->n) write_event(c, &e);
            c->at += taken;
        }
        if (c->out.len == 0) return; /* nothing new */
    }
    if (c->over || complete || len - c->at <= BEHIND_BYTES_MAX) return;
    end(c, LOST, 0);
    pr_http_stream_end(c->req);
}

/* ---- in one piece ------------------------------------------------------ */

typedef struct whole {
    pr_str text[PR_CHOICES_MAX];
    pr_lp_text lp[PR_CHOICES_MAX];
    pr_piece pieces[PR_CHOICES_MAX];
} whole;

static void join(pr_str *to, const pr_str *more) {
    if (more->len == 0) return;
    if (to->len) pr_str_puts(to, ",");
    pr_str_append(to, more->data, more->len);
}

static void add_event(pr__client *c, whole *w, const pr_event *e) {
    uint32_t i = e->choice;
    if (i >= c->n) return;
    if (e->ends) {
        add_share(c, e);
        w->pieces[i].end = ending_for(c, &e->ending);
        return;
    }
    if (e->len) pr_str_append(&w->text[i], e->text, e->len);
    if (!e->has_lp) return;
    join(&w->lp[i].tokens, &e->lp.tokens);
    join(&w->lp[i].values, &e->lp.values);
    join(&w->lp[i].tops, &e->lp.tops);
    join(&w->lp[i].offsets, &e->lp.offsets);
}

static void reply_whole(pr__client *c, whole *w) {
    pr_http_header headers[HEADERS_MAX];
    char age[16];
    pr_str out = {0};
    for (uint32_t i = 0; i < c->n; i++) {
        w->pieces[i].text = &w->text[i];
        w->pieces[i].lp = c->logprobs ? &w->lp[i] : NULL;
        out.failed |= !pr_str_ok(&w->text[i]);
    }
    pr_write_answer(&out, &c->reply, w->pieces, c->n, &c->usage);
    size_t len = out.len, n = headers_of(c, &w->pieces[0].end.level, age, headers);
    char *body = pr_str_take(&out);
    end(c, body ? ANSWERED : FAILED, 503);
    if (body) pr_http_reply_owned(c->req, 200, "application/json", headers, n, body, len);
    else pr_http_error(c->req, 503, "out_of_memory", NULL, 1, "out of memory: the answer");
}

static void read_whole(pr__client *c, const char *data, size_t len) {
    pr_event e;
    whole *w = pr_calloc(PR_TAG_HTTP, 1, sizeof *w);
    if (!w) {
        end(c, FAILED, 503);
        pr_http_error(c->req, 503, "out_of_memory", NULL, 1, "out of memory: the answer");
        return;
    }
    for (size_t taken; len > c->at && (taken = pr_record_next(data + c->at, len - c->at, &e)) > 0; c->at += taken)
        add_event(c, w, &e);
    reply_whole(c, w);
    for (uint32_t i = 0; i < c->n; i++) {
        pr_str_free(&w->text[i]);
        pr_lp_text_free(&w->lp[i]);
    }
    pr_free(w);
}

void pr__client_read(pr__client *c, const char *data, size_t len, bool complete) {
    if (c->over) return;
    if (c->stream) read_stream(c, data, len, complete);
    else if (complete) read_whole(c, data, len);
}

/* ---- waiting ----------------------------------------------------------- */

void pr__client_place(pr__client *c, uint32_t position, double estimate) {
    pr_str json = {0};
    bool told = c->stream && (c->events || c->reply.ask == PR_ASK_QUERY);
    if (c->over || !told || c->at > 0 || pr_now() - c->began < queue_told_after) return;
    begin_stream(c, NULL);
    pr_str_puts(&json, "{");
    pr_write_u64(&json, "position", position);
    pr_write_f64(&json, "estimate_seconds", estimate);
    pr_str_puts(&json, "}");
    pr_str_puts(&c->out, "event: queue\n");
    if (pr_str_ok(&json)) pr_sse_data(&c->out, json.data, json.len);
    pr_str_free(&json);
    flush(c);
}

/* ---- failing ----------------------------------------------------------- */

pr__refusal pr__refusal_of(pr_status status) {
    switch (status) {
    case PR_ERR_ARG: return (pr__refusal){400, "invalid_value"};
    case PR_ERR_UNSUPPORTED: return (pr__refusal){400, "unsupported"};
    case PR_ERR_NOTFOUND: return (pr__refusal){404, "model_not_found"};
    case PR_ERR_LIMIT: return (pr__refusal){503, "overloaded"};
    case PR_ERR_NOMEM: return (pr__refusal){503, "out_of_memory"};
    case PR_ERR_CANCELLED: return (pr__refusal){503, "shutting_down"};
    case PR_OK:
    case PR_ERR_IO:
    case PR_ERR_FORMAT: break;
    }
    return (pr__refusal){500, "model_failed"};
}

/* What of a request the error is about: the sampler names its parameter, the rest is about the prompt. */
static const char *field_of(pr_ask ask, const char *error) {
    static const char bias[] = "logit_bias";
    if (!strncmp(error, bias, sizeof bias - 1)) return bias;
    switch (ask) {
    case PR_ASK_CHAT: return "messages";
    case PR_ASK_COMPLETION: return "prompt";
    case PR_ASK_QUERY: break;
    }
    return "query";
}

void pr__client_fail(pr__client *c, const pr_err *err, bool of_model, uint32_t retry_after) {
    pr__refusal f = pr__refusal_of(err->status);
    if (c->over || c->failed) return;
    c->failed = f.status;
    if (c->begun) {
        pr_write_error(&c->out, err->text, f.code);
        read_stream(c, NULL, 0, true);
        return;
    }
    if (f.status == 503 && retry_after == 0) retry_after = 1;
    const char *field = of_model ? "model" : field_of(c->reply.ask, err->text);
    end(c, FAILED, f.status);
    pr_http_error(c->req, f.status, f.code, f.status == 400 ? field : NULL, retry_after, "%s", err->text);
}
