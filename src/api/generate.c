/*
 * The life of a request that generates.
 *
 * A gen is shared by the jobs it submitted (one for each choice) and by the HTTP request it answers, and freed by the last of
 * them. Its lock is held by each of the scheduler's callbacks, and by the HTTP thread that sends on what waited for a slow
 * reader; not while jobs are submitted, since their callbacks may come before that returns.
 *
 * A stream begins with its first token and not before: until then a refusal is still a status code, and the level in the
 * header is the one it was computed at. Only /api/query/stream, and who asks for events, have it begin earlier when it must wait
 * for long, to tell its place.
 */
#include "api/generate.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "api/logprob.h"
#include "api/write.h"
#include "base/os.h"
#include "http/sse.h"

enum {
    BACKLOG_BYTES_MAX = 1 << 20, /* a reader this far behind is given up */
    ID_BYTES = 40,
    TOKENS_ROOM = 16 /* a tokenizer adds few tokens of its own */
};

static const double queue_told_after = 0.5; /* seconds of waiting after which a query's stream begins */

typedef struct gen gen;

typedef struct choice {
    gen *gen;
    uint32_t index, prompt;
    pr_job_id id;
    const pr_engine *engine; /* while its job holds the model */
    bool begun, done;
    pr_level level;  /* of its last token, once begun */
    double token_at; /* when its last token came; 0: none has */
    pr_str text;     /* all of it; of streams not kept */
    size_t n_text;
    pr_lp_text lp;
    pr_str head, tail; /* of its deltas */
    pr_job_done end;
} choice;

struct gen {
    pr_api *api;
    pr_http_req *req;
    pr_params params;
    pr_reply reply;
    char id[ID_BYTES], model[PR_API_MODEL_NAME], level[16];
    bool stream;
    double began;
    pr__model_metrics *metrics;
    atomic_uint refs;
    choice choices[PR_CHOICES_MAX];
    uint32_t n;
    pthread_mutex_t lock; /* guards the choices and everything below */
    uint32_t n_done;
    bool begun, failed;
    unsigned failure; /* its status */
    pr_str events;    /* of one callback */
    pr_str backlog;   /* what the stream had no room for */
    bool ended, given_up;
};

/* ---- owning ------------------------------------------------------------ */

static void gen_unref(gen *g) {
    if (atomic_fetch_sub(&g->refs, 1) != 1) return;
    for (uint32_t i = 0; i < g->n; i++) {
        choice *c = &g->choices[i];
        pr_str_free(&c->text);
        pr_str_free(&c->head);
        pr_str_free(&c->tail);
        pr_lp_text_free(&c->lp);
    }
    pr_params_free(&g->params);
    pr_str_free(&g->events);
    pr_str_free(&g->backlog);
    pthread_mutex_destroy(&g->lock);
    pr_http_req_unref(g->req);
    pr_free(g);
}

static void on_release(void *arg) { gen_unref(arg); }

/* Under g->lock: end what has not ended. */
static void cancel_all(gen *g) {
    for (uint32_t i = 0; i < g->n; i++)
        if (!g->choices[i].done) pr_sched_cancel(g->api->sched, g->choices[i].id);
}

static void cancel_now(gen *g) {
    pthread_mutex_lock(&g->lock);
    cancel_all(g);
    pthread_mutex_unlock(&g->lock);
}

static void on_gone(pr_http_req *req, void *arg) {
    (void)req;
    cancel_now(arg);
}

/* ---- sending ----------------------------------------------------------- */

/* Move the backlog on, as far as there is room. */
static void push_backlog(gen *g) {
    if (g->backlog.len && pr_http_stream_send(g->req, g->backlog.data, g->backlog.len) == PR_OK)
        pr_str_clear(&g->backlog);
    if (g->ended && g->backlog.len == 0) pr_http_stream_end(g->req);
}

static void on_drain(pr_http_req *req, void *arg) {
    gen *g = arg;
    (void)req;
    pthread_mutex_lock(&g->lock);
    push_backlog(g);
    pthread_mutex_unlock(&g->lock);
}

/* Send what is in g->events, after what waits already; with `last` the stream ends when all has gone out. */
static void send_events(gen *g, bool last) {
    bool give_up = false;
    push_backlog(g);
    if (!g->given_up && g->events.len) {
        pr_status st = g->backlog.len ? PR_ERR_LIMIT : pr_http_stream_send(g->req, g->events.data, g->events.len);
        if (st == PR_ERR_LIMIT) pr_str_append(&g->backlog, g->events.data, g->events.len);
        give_up = !pr_str_ok(&g->events) || !pr_str_ok(&g->backlog) || g->backlog.len > BACKLOG_BYTES_MAX ||
                  (st && st != PR_ERR_LIMIT);
    }
    if (give_up) {
        g->given_up = true;
        pr_str_free(&g->backlog);
    }
    g->ended |= last || give_up;
    push_backlog(g);
    pr_str_clear(&g->events);
    if (give_up) cancel_all(g);
}

static void begin_stream(gen *g, const pr_level *level) {
    pr_http_header headers[2] = {{"X-Cache", "MISS"}};
    size_t n = 1;
    if (level) headers[n++] = (pr_http_header){"X-Precis-Level", pr_level_name(*level)};
    if (g->begun) return;
    g->begun = true;
    pr_http_stream_begin(g->req, "text/event-stream", headers, n);
}

/* ---- failing ----------------------------------------------------------- */

typedef struct refusal {
    unsigned status;
    const char *code;
} refusal;

static refusal refusal_of(pr_status status) {
    switch (status) {
    case PR_ERR_ARG: return (refusal){400, "invalid_value"};
    case PR_ERR_UNSUPPORTED: return (refusal){400, "unsupported"};
    case PR_ERR_NOTFOUND: return (refusal){404, "model_not_found"};
    case PR_ERR_LIMIT: return (refusal){503, "overloaded"};
    case PR_ERR_NOMEM: return (refusal){503, "out_of_memory"};
    case PR_ERR_CANCELLED: return (refusal){503, "shutting_down"};
    case PR_OK:
    case PR_ERR_IO:
    case PR_ERR_FORMAT: break;
    }
    return (refusal){500, "model_failed"};
}

static const char *prompt_field(pr_ask ask) {
    switch (ask) {
    case PR_ASK_CHAT: return "messages";
    case PR_ASK_COMPLETION: return "prompt";
    case PR_ASK_QUERY: break;
    }
    return "query";
}

/* The whole request fails with its first choice: as a status, or as an event when it is too late for that. */
static void fail(gen *g, const pr_err *err, uint32_t retry_after) {
    refusal f = refusal_of(err->status);
    if (g->failed) return;
    g->failed = true;
    g->failure = f.status;
    if (g->begun) {
        pr_write_error(&g->events, err->text, f.code);
        send_events(g, true);
    } else {
        if (f.status == 503 && retry_after == 0) retry_after = 1;
        pr_http_error(g->req, f.status, f.code, f.status == 400 ? prompt_field(g->reply.ask) : NULL, retry_after, "%s",
                      err->text);
    }
    cancel_all(g);
}

/* ---- the scheduler's callbacks ----------------------------------------- */

static pr_status to_tokens(const pr_engine *engine, const char *text, size_t len, unsigned flags, int32_t **ids,
                           size_t *n, pr_err *err) {
    size_t max = len + TOKENS_ROOM;
    for (;;) {
        *ids = pr_alloc(PR_TAG_SESSION, max * sizeof **ids);
        if (!*ids) return pr_fail_nomem(err, "tokens", max * sizeof **ids);
        pr_status st = pr_engine_tokenize(engine, text, len, flags, *ids, max, n, err);
        if (st != PR_ERR_LIMIT || *n <= max) return st;
        max = *n;
        pr_free(*ids);
    }
}

static pr_status copy_tokens(const pr_engine *engine, const pr_prompt *p, int32_t **ids, size_t *n, pr_err *err) {
    size_t len;
    for (size_t i = 0; i < p->n_ids; i++)
        if (!pr_engine_piece(engine, p->ids[i], true, &len))
            return pr_fail(err, PR_ERR_ARG, "prompt: the model has no token %d", p->ids[i]);
    *ids = pr_alloc(PR_TAG_SESSION, p->n_ids * sizeof **ids);
    if (!*ids) return pr_fail_nomem(err, "tokens", p->n_ids * sizeof **ids);
    memcpy(*ids, p->ids, p->n_ids * sizeof **ids);
    *n = p->n_ids;
    return PR_OK;
}

static pr_status on_prepare(void *arg, const pr_engine *engine, int32_t **ids, size_t *n_ids, pr_err *err) {
    choice *c = arg;
    const pr_params *p = &c->gen->params;
    char *text = NULL;
    c->engine = engine;
    if (p->n_prompts) {
        const pr_prompt *prompt = &p->prompts[c->prompt];
        if (!prompt->text) return copy_tokens(engine, prompt, ids, n_ids, err);
        return to_tokens(engine, prompt->text, prompt->len, PR_TOKENIZE_BOS, ids, n_ids, err);
    }
    pr_status st = pr_engine_chat(engine, NULL, p->messages, p->n_messages, true, &text, err);
    if (!st) st = to_tokens(engine, text, strlen(text), PR_TOKENIZE_SPECIAL, ids, n_ids, err);
    pr_text_free(text);
    return st;
}

static pr_lp_token lp_token(const pr_engine *engine, pr_logprob l) {
    size_t len = 0;
    const char *piece = pr_engine_piece(engine, l.token, true, &len);
    return (pr_lp_token){piece ? piece : "", len, l.logprob};
}

static void note_logprobs(choice *c, const pr_job_token *t) {
    pr_logprob chosen, top[PR_TOP_LOGPROBS_MAX];
    pr_lp_token texts[PR_TOP_LOGPROBS_MAX];
    if (!t->logits || pr_engine_is_end(c->engine, t->token)) return;
    uint32_t n = pr_logprobs(t->logits, t->n_vocab, t->token, c->gen->params.top_logprobs, &chosen, top);
    for (uint32_t i = 0; i < n; i++) texts[i] = lp_token(c->engine, top[i]);
    pr_lp_token own = lp_token(c->engine, chosen);
    pr_write_lp(&c->lp, c->gen->reply.ask, &own, texts, n, c->n_text);
}

/* To those who asked for events, when an answer goes on at another level. */
static void tell_level(choice *c, pr_level level) {
    pr_str json = {0};
    pr_str_puts(&json, "{");
    pr_write_u64(&json, "index", c->index);
    pr_write_text(&json, "level", pr_level_name(level));
    pr_str_puts(&json, "}");
    pr_str_puts(&c->gen->events, "event: level\n");
    if (pr_str_ok(&json)) pr_sse_data(&c->gen->events, json.data, json.len);
    pr_str_free(&json);
}

static void begin_choice(choice *c, pr_level level) {
    gen *g = c->gen;
    begin_stream(g, &level);
    if (!c->begun && g->reply.ask == PR_ASK_CHAT) pr_write_role(&g->events, &g->reply, c->index);
    if (c->begun && level != c->level && g->params.include_events) tell_level(c, level);
    c->begun = true;
    c->level = level;
}

static void take_token(choice *c, const pr_job_token *t) {
    gen *g = c->gen;
    if (g->failed) return;
    if (g->params.logprobs) note_logprobs(c, t);
    c->n_text += t->len;
    if (!g->stream) {
        pr_str_append(&c->text, t->text, t->len);
        return;
    }
    begin_choice(c, t->level);
    if (g->params.logprobs) {
        if (t->len || c->lp.tokens.len) pr_write_delta(&g->events, &g->reply, c->index, t->text, t->len, &c->lp);
        pr_lp_text_clear(&c->lp);
    } else if (t->len) {
        pr_sse_delta(&g->events, &c->head, t->text, t->len, &c->tail);
    }
    if (g->events.len) send_events(g, false);
}

static void measure_token(choice *c) {
    double now = pr_now(), since = c->token_at != 0 ? c->token_at : c->gen->began;
    pr__metrics_latency(c->gen->metrics, c->token_at != 0 ? PR__LATENCY_NEXT_TOKEN : PR__LATENCY_FIRST_TOKEN,
                        now - since);
    c->token_at = now;
}

static void on_token(void *arg, const pr_job_token *t) {
    choice *c = arg;
    pthread_mutex_lock(&c->gen->lock);
    if (t->token >= 0) measure_token(c); /* others are text that was held back */
    take_token(c, t);
    pthread_mutex_unlock(&c->gen->lock);
}

static void tell_place(gen *g, uint32_t position, double estimate) {
    pr_str json = {0};
    begin_stream(g, NULL);
    pr_str_puts(&json, "{");
    pr_write_u64(&json, "position", position);
    pr_write_f64(&json, "estimate_seconds", estimate);
    pr_str_puts(&json, "}");
    pr_str_puts(&g->events, "event: queue\n");
    if (pr_str_ok(&json)) pr_sse_data(&g->events, json.data, json.len);
    pr_str_free(&json);
    send_events(g, false);
}

static void on_queue(void *arg, uint32_t position, double estimate) {
    gen *g = ((choice *)arg)->gen;
    pthread_mutex_lock(&g->lock);
    if (!g->failed && pr_now() - g->began >= queue_told_after) tell_place(g, position, estimate);
    pthread_mutex_unlock(&g->lock);
}

/* ---- the end ----------------------------------------------------------- */

static const char *finish_of(pr_job_finish finish) {
    switch (finish) {
    case PR_JOB_STOP: return "stop";
    case PR_JOB_LENGTH:
    case PR_JOB_TIMEOUT: return "length";
    case PR_JOB_CAPACITY:
    case PR_JOB_CANCELLED:
    case PR_JOB_ERROR: break;
    }
    return "capacity";
}

static pr_ending ending_of(const pr_job_done *d) {
    return (pr_ending){finish_of(d->finish),       d->levels_used,         d->level,
                       d->queue_seconds,           d->first_token_seconds, d->total_seconds,
                       d->finish == PR_JOB_TIMEOUT};
}

/* A prompt counts once, however many answers it gets. */
static pr_usage usage_of(const gen *g) {
    pr_usage u = {0};
    for (uint32_t i = 0; i < g->n; i++) {
        const pr_job_done *d = &g->choices[i].end;
        bool first = i == 0 || g->choices[i].prompt != g->choices[i - 1].prompt;
        u.completion += d->n_generated;
        if (!first) continue;
        u.prompt += d->n_prompt;
        u.cached += d->n_cached;
    }
    return u;
}

/* Nothing came of it, and nobody asked for that. */
static bool came_to_nothing(const pr_job_done *d, pr_err *err) {
    if (d->finish == PR_JOB_ERROR) *err = d->err;
    else if (d->n_generated) return false;
    else if (d->finish == PR_JOB_CANCELLED) pr_fail(err, PR_ERR_CANCELLED, "the server is shutting down");
    else if (d->finish == PR_JOB_TIMEOUT) pr_fail(err, PR_ERR_LIMIT, "nothing was generated within the time limit");
    else if (d->finish == PR_JOB_CAPACITY) pr_fail(err, PR_ERR_LIMIT, "the level asked for could not be had in time");
    else return false;
    return true;
}

static void answer_whole(gen *g) {
    pr_piece pieces[PR_CHOICES_MAX];
    pr_str out = {0};
    pr_usage usage = usage_of(g);
    const char *level = pr_level_name(g->choices[0].end.level);
    pr_http_header headers[] = {{"X-Precis-Level", level}, {"X-Cache", "MISS"}};
    for (uint32_t i = 0; i < g->n; i++) {
        choice *c = &g->choices[i];
        pieces[i] = (pr_piece){&c->text, g->params.logprobs ? &c->lp : NULL, ending_of(&c->end)};
        out.failed |= !pr_str_ok(&c->text);
    }
    pr_write_answer(&out, &g->reply, pieces, g->n, &usage);
    size_t len = out.len;
    char *body = pr_str_take(&out);
    if (body) pr_http_reply_owned(g->req, 200, "application/json", headers, 2, body, len);
    else pr_http_error(g->req, 503, "out_of_memory", NULL, 1, "out of memory: the answer");
}

static void end_choice(choice *c) {
    gen *g = c->gen;
    bool last = g->n_done == g->n;
    pr_usage usage = usage_of(g);
    pr_ending end = ending_of(&c->end);
    if (!g->stream) {
        if (last) answer_whole(g);
        return;
    }
    begin_choice(c, c->end.level);
    pr_write_end(&g->events, &g->reply, c->index, &end, &usage);
    if (last && g->reply.include_usage && g->reply.ask != PR_ASK_QUERY) pr_write_usage(&g->events, &g->reply, &usage);
    if (last) pr_sse_done(&g->events);
    send_events(g, last);
}

static pr__outcome outcome_of(pr_job_finish finish) {
    switch (finish) {
    case PR_JOB_STOP: return PR__OUTCOME_STOP;
    case PR_JOB_LENGTH: return PR__OUTCOME_LENGTH;
    case PR_JOB_TIMEOUT: return PR__OUTCOME_TIMEOUT;
    case PR_JOB_CAPACITY: return PR__OUTCOME_CAPACITY;
    case PR_JOB_CANCELLED: return PR__OUTCOME_CANCELLED;
    case PR_JOB_ERROR: break;
    }
    return PR__OUTCOME_ERROR;
}

static void count_choice(gen *g, const pr_job_done *d) {
    pr__counted counted = {outcome_of(d->finish), d->n_prompt, d->n_cached, d->n_generated};
    pr__metrics_count(g->metrics, &counted);
    if (d->finish != PR_JOB_ERROR) pr__metrics_latency(g->metrics, PR__LATENCY_QUEUE, d->queue_seconds);
}

static void count(gen *g) {
    double seconds = pr_now() - g->began;
    bool cancelled = g->choices[0].end.finish == PR_JOB_CANCELLED;
    pthread_mutex_lock(&g->api->lock);
    if (g->failed) g->api->n_failures++;
    else g->api->n_answers++;
    if (!g->failed) g->api->answer_seconds += seconds;
    pthread_mutex_unlock(&g->api->lock);
    if (cancelled) return; /* nobody waited for the end */
    if (!g->failed || g->failure >= 500) pr__metrics_answered(g->api->metrics, g->failed);
    if (!g->failed) pr__metrics_latency(g->metrics, PR__LATENCY_END_TO_END, seconds);
}

static void on_done(void *arg, const pr_job_done *done) {
    choice *c = arg;
    gen *g = c->gen;
    pr_err err = {0};
    pthread_mutex_lock(&g->lock);
    c->end = *done;
    c->done = true;
    g->n_done++;
    count_choice(g, done);
    if (came_to_nothing(done, &err)) fail(g, &err, done->retry_after);
    if (!g->failed) end_choice(c);
    bool all = g->n_done == g->n;
    pthread_mutex_unlock(&g->lock);
    if (all) count(g);
    gen_unref(g);
}

/* ---- the beginning ----------------------------------------------------- */

static void name_answer(gen *g) {
    static const char *const kinds[] = {
        [PR_ASK_CHAT] = "chatcmpl", [PR_ASK_COMPLETION] = "cmpl", [PR_ASK_QUERY] = "query"};
    uint64_t n = 0;
    if (getrandom(&n, sizeof n, 0) != sizeof n) n = pr_now_ns();
    snprintf(g->id, sizeof g->id, "%s-%016llx", kinds[g->reply.ask], (unsigned long long)n);
    if (!g->params.seed_given) g->params.generate.sample.seed = n >> 16;
    g->reply.id = g->id;
    g->reply.model = g->model;
    g->reply.created = time(NULL);
    g->reply.include_usage = g->params.include_usage;
    if (g->reply.ask == PR_ASK_QUERY) g->reply.query = g->params.messages[0].content;
}

/* A job for choice i. One that the scheduler does not take is done at once, with the reason. */
static void submit(gen *g, uint32_t i) {
    choice *c = &g->choices[i];
    const pr_params *p = &g->params;
    pr_job_done refused = {.finish = PR_JOB_ERROR, .retry_after = 1};
    pr_job_id id = 0;
    pr_job job = {
        .model = g->model,
        .key = pr_http_req_key(g->req),
        .prepare = on_prepare,
        .generate = p->generate,
        .priority = p->priority,
        .floor_given = p->floor_given,
        .force_given = p->force_given,
        .floor = p->floor,
        .force = p->force,
        .reuse_any = p->reuse_any,
        .want_logits = p->logprobs,
        .on_token = on_token,
        .on_done = on_done,
        .on_queue = g->stream && (g->reply.ask == PR_ASK_QUERY || p->include_events) ? on_queue : NULL,
        .arg = c,
    };
    job.generate.sample.seed += i % p->n;
    atomic_fetch_add(&g->refs, 1);
    if (pr_sched_submit(g->api->sched, &job, &id, &refused.err) != PR_OK) on_done(c, &refused);
    pthread_mutex_lock(&g->lock);
    c->id = id;
    pthread_mutex_unlock(&g->lock);
}

static void build_choices(gen *g) {
    const pr_params *p = &g->params;
    g->n = p->n * (p->n_prompts ? (uint32_t)p->n_prompts : 1);
    for (uint32_t i = 0; i < g->n; i++) {
        choice *c = &g->choices[i];
        c->gen = g;
        c->index = i;
        c->prompt = i / p->n;
        if (g->stream) pr_write_frame(&c->head, &c->tail, &g->reply, i);
    }
}

static bool has_failed(gen *g) {
    pthread_mutex_lock(&g->lock);
    bool failed = g->failed;
    pthread_mutex_unlock(&g->lock);
    return failed;
}

/* Parse and find the model; false when the request has been refused. */
static bool begin(gen *g, pr_ask ask, bool stream) {
    char param[PR_PARAM_NAME];
    pr_err err = {0};
    size_t len;
    const pr_api_models *models = &g->api->models;
    const char *body = pr_http_req_body(g->req, &len);
    pr_status st = pr_params_parse(body, len, ask, &g->params, param, &err);
    if (st) {
        refusal f = refusal_of(st);
        pr_http_error(g->req, f.status, f.code, param[0] ? param : NULL, f.status == 503, "%s", err.text);
        return false;
    }
    if (ask == PR_ASK_QUERY) g->params.n = 1;
    g->reply.ask = ask;
    g->stream = stream || g->params.stream;
    if (models->find(models->arg, g->params.model, g->model)) {
        g->metrics = pr__metrics_model(g->api->metrics, g->model);
        return true;
    }
    pr_http_error(g->req, 404, "model_not_found", "model", 0, "there is no model \"%.100s\"", g->params.model);
    return false;
}

void pr__generate(pr_api *api, pr_http_req *req, pr_ask ask, bool stream) {
    if (atomic_load(&api->draining)) {
        pr_http_error(req, 503, "shutting_down", NULL, 5, "the server is shutting down");
        return;
    }
    gen *g = pr_calloc(PR_TAG_HTTP, 1, sizeof *g);
    if (!g) {
        pr_http_error(req, 503, "out_of_memory", NULL, 1, "out of memory: the request");
        return;
    }
    g->api = api;
    g->req = req;
    g->began = pr_now();
    atomic_init(&g->refs, 2); /* this function, and the watch */
    pthread_mutex_init(&g->lock, NULL);
    pr_http_req_ref(req);
    if (!begin(g, ask, stream)) {
        gen_unref(g);
        gen_unref(g);
        return;
    }
    name_answer(g);
    build_choices(g);
    for (uint32_t i = 0; i < g->n; i++) submit(g, i);
    pr_http_req_watch(req, &(pr_http_watch){on_gone, on_drain, on_release, g});
    if (has_failed(g)) cancel_now(g);
    gen_unref(g);
}
