/*
 * The life of an answer.
 *
 * Each of the scheduler's callbacks appends to the record under the flight's lock and lets every client read on; so do the HTTP
 * threads when a slow client has room again. The lock is not held while jobs are submitted, since their callbacks may come
 * before that returns.
 *
 * Flights that others may join stand on a list of the server. An answer goes into the caches first and leaves the list then,
 * and who looks for one looks at both under the list's lock: so it is found in one or the other, and never made twice. The
 * list's lock comes before a flight's own.
 *
 * A flight may be joined while it has not begun, or runs as the new request would: by the same loading of the model, with the
 * same planes so far. The record of one that nobody may join is forgotten as it goes out.
 */
#include "api/flight.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "api/logprob.h"
#include "base/log.h"
#include "base/os.h"

enum {
    CLIENTS_MAX = 256,          /* of one flight: each token is written to all of them */
    RECORD_BYTES_MAX = 8 << 20, /* of an answer that others may have, too */
    TOKENS_ROOM = 16,           /* a tokenizer adds few tokens of its own */
    REQUEST_ID_BYTES = 65
};

typedef struct choice {
    pr__flight *flight;
    uint32_t index, prompt;
    pr_job_id id;
    const pr_engine *engine; /* while its job holds the model */
    bool begun, done;
    double token_at; /* when its last token came; 0: none has */
    size_t n_text;
    pr_lp_text lp;
    pr_job_done end;
} choice;

struct pr__flight {
    pr_api *api;
    pr_ask ask;
    pr_params params;
    char model[PR_API_MODEL_NAME];
    pr__question question;
    pr__model_metrics *metrics;
    double began;
    atomic_uint refs;
    pr_blob *blob; /* an answer made before: there are no jobs, and nothing below changes */
    choice choices[PR_CHOICES_MAX];
    uint32_t n;
    pthread_mutex_t lock; /* guards the choices, the clients and everything below */
    pr__client *clients;
    uint32_t n_clients, n_done;
    pr_str record;
    bool failed, abandoned, begun, unsteady;
    double left_at;      /* when its last client was seen to have gone; 0: none has */
    uint64_t left_steps; /* the scheduler's, by then */
    char left_id[REQUEST_ID_BYTES];
    pr__computed how; /* as far as it has begun */
    bool listed;      /* under the list's lock, with next */
    pr__flight *next;
};

/* ---- owning ------------------------------------------------------------ */

pr__flight *pr__flight_new(pr_api *api, pr_ask ask) {
    pr__flight *f = pr_calloc(PR_TAG_HTTP, 1, sizeof *f);
    if (!f) return NULL;
    f->api = api;
    f->ask = ask;
    f->began = pr_now();
    atomic_init(&f->refs, 1);
    pthread_mutex_init(&f->lock, NULL);
    return f;
}

static pr__flight *ref(pr__flight *f) {
    atomic_fetch_add(&f->refs, 1);
    return f;
}

void pr__flight_unref(pr__flight *f) {
    if (atomic_fetch_sub(&f->refs, 1) != 1) return;
    for (pr__client *c = f->clients, *next; c; c = next) {
        next = c->next;
        pr__client_unref(c);
    }
    for (uint32_t i = 0; i < f->n; i++) pr_lp_text_free(&f->choices[i].lp);
    pr_params_free(&f->params);
    pr_str_free(&f->record);
    pr_blob_unref(f->blob);
    pthread_mutex_destroy(&f->lock);
    pr_free(f);
}

pr_params *pr__flight_params(pr__flight *f) { return &f->params; }
char *pr__flight_model(pr__flight *f) { return f->model; }
pr__question *pr__flight_question(pr__flight *f) { return &f->question; }

/* ---- clients ----------------------------------------------------------- */

/* Under f->lock: end what has not ended. */
static void cancel_all(pr__flight *f) {
    for (uint32_t i = 0; i < f->n; i++)
        if (!f->choices[i].done) pr_sched_cancel(f->api->sched, f->choices[i].id);
}

/* Under f->lock, all three. */
static void let_read(pr__flight *f, pr__client *c) {
    bool complete = f->blob || (f->n_done == f->n && !f->failed);
    size_t len = f->record.len;
    const char *data = f->blob ? pr_blob_data(f->blob, &len) : f->record.data;
    pr__client_read(c, data, len, complete);
}

/* Under f->lock: the last client has left before the end, and the jobs are cancelled. */
static void note_left(pr__flight *f) {
    pr_sched_stats stats;
    if (f->left_at != 0 || !f->left_id[0]) return;
    pr_sched_stats_get(f->api->sched, &stats);
    f->left_at = pr_now();
    f->left_steps = stats.steps;
}

/* How long it took until nothing was computed any more for who had gone. */
static void log_left(pr__flight *f) {
    pr_sched_stats stats;
    if (f->left_at == 0 || !pr_log_wants(PR_LOG_INFO)) return;
    pr_sched_stats_get(f->api->sched, &stats);
    uint64_t us = (uint64_t)((pr_now() - f->left_at) * 1e6);
    pr_log(PR_LOG_INFO, "{\"event\":\"left\",\"id\":\"%s\",\"choices\":%u,\"seconds\":%llu.%06llu,\"steps\":%llu}",
           f->left_id, (unsigned)f->n, (unsigned long long)(us / 1000000), (unsigned long long)(us % 1000000),
           (unsigned long long)(stats.steps - f->left_steps));
}

/* Clients that are over leave; nobody is left: the jobs end. */
static void tidy(pr__flight *f) {
    for (pr__client **at = &f->clients; *at;) {
        pr__client *c = *at;
        if (!c->over) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        f->n_clients--;
        if (!f->clients && !f->failed) snprintf(f->left_id, sizeof f->left_id, "%s", pr_http_req_id(c->req));
        pr__client_unref(c);
    }
    if (f->clients || f->blob || f->n_done == f->n) return;
    f->abandoned = true;
    cancel_all(f);
    note_left(f);
}

static void let_all_read(pr__flight *f) {
    bool all = true;
    for (pr__client *c = f->clients; c; c = c->next) {
        let_read(f, c);
        all &= c->at == f->record.len;
    }
    tidy(f);
    f->question.keeps &= f->record.len <= RECORD_BYTES_MAX;
    if (f->question.keeps || !all || f->n_done == f->n) return;
    pr_str_clear(&f->record); /* nobody will read it from its beginning */
    for (pr__client *c = f->clients; c; c = c->next) c->at = 0;
}

static void add_client(pr__flight *f, pr__client *c) {
    pr__client **at = &f->clients;
    while (*at) at = &(*at)->next;
    *at = pr__client_ref(c);
    f->n_clients++;
    c->flight = ref(f);
    c->metrics = f->metrics;
    pr__client_name(c, f->ask, f->model, f->ask == PR_ASK_QUERY ? f->params.messages[0].content : NULL, f->n);
    let_read(f, c);
    tidy(f);
}

/* ---- the HTTP server's callbacks --------------------------------------- */

static void on_gone(pr_http_req *req, void *arg) {
    pr__client *c = arg;
    (void)req;
    pthread_mutex_lock(&c->flight->lock);
    pr__client_lost(c);
    tidy(c->flight);
    pthread_mutex_unlock(&c->flight->lock);
}

static void on_drain(pr_http_req *req, void *arg) {
    pr__client *c = arg;
    (void)req;
    pthread_mutex_lock(&c->flight->lock);
    let_read(c->flight, c);
    tidy(c->flight);
    pthread_mutex_unlock(&c->flight->lock);
}

static void on_release(void *arg) {
    pr__client *c = arg;
    pr__flight_unref(c->flight);
    pr__client_unref(c);
}

/* ---- the list ---------------------------------------------------------- */

static void unlist(pr__flight *f) {
    pr_api *api = f->api;
    pthread_mutex_lock(&api->flights_lock);
    for (pr__flight **at = &api->flights; *at && f->listed; at = &(*at)->next) {
        if (*at != f) continue;
        *at = f->next;
        f->listed = false;
        break;
    }
    pthread_mutex_unlock(&api->flights_lock);
}

/* Whether all of it was computed in one way and came to a proper end. Under f->lock. */
static bool may_be_kept(const pr__flight *f) {
    bool good = f->question.keeps && f->n_done == f->n && !f->failed && !f->unsteady;
    for (uint32_t i = 0; i < f->n; i++) {
        pr_job_finish finish = f->choices[i].end.finish;
        good &= finish == PR_JOB_STOP || finish == PR_JOB_LENGTH;
    }
    return good;
}

/* Become a client of f, if it will do. */
static bool join(pr__flight *f, pr__client *c, const pr__computed *how) {
    pthread_mutex_lock(&f->lock);
    bool same = !f->unsteady && how && how->load == f->how.load && how->cursor == f->how.cursor;
    bool joins = f->question.keeps && !f->failed && !f->abandoned && f->n_clients < CLIENTS_MAX &&
                 (!f->begun || same) && (f->n_done < f->n || may_be_kept(f));
    if (joins) {
        c->shared = true;
        c->cache = "HIT";
        c->age = 0;
        add_client(f, c);
    }
    pthread_mutex_unlock(&f->lock);
    return joins;
}

/* Under the list's lock: the client has joined a flight that answers the same. */
static bool join_any(pr_api *api, const pr__question *q, pr__client *c, const pr__computed *how) {
    for (pr__flight *f = api->flights; f; f = f->next) {
        if (memcmp(&f->question.key, &q->key, sizeof q->key) != 0 || !join(f, c, how)) continue;
        api->n_joined++;
        return true;
    }
    return false;
}

void pr__flights_get(pr_api *api, pr__flights *out) {
    *out = (pr__flights){0};
    pthread_mutex_lock(&api->flights_lock);
    out->joined = api->n_joined;
    for (pr__flight *f = api->flights; f; f = f->next) {
        pthread_mutex_lock(&f->lock);
        out->answers++;
        out->clients += f->n_clients;
        pthread_mutex_unlock(&f->lock);
    }
    pthread_mutex_unlock(&api->flights_lock);
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
    const pr_params *p = &c->flight->params;
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
    uint32_t n = pr_logprobs(t->logits, t->n_vocab, t->token, c->flight->params.top_logprobs, &chosen, top);
    for (uint32_t i = 0; i < n; i++) texts[i] = lp_token(c->engine, top[i]);
    pr_lp_token own = lp_token(c->engine, chosen);
    pr_write_lp(&c->lp, c->flight->ask, &own, texts, n, c->n_text);
}

/* All choices are to be computed alike. */
static void note_how(pr__flight *f, const pr_job_done *so_far) {
    pr__computed how = {so_far->load, so_far->cursor};
    f->unsteady |= !so_far->steady || (f->begun && (how.load != f->how.load || how.cursor != f->how.cursor));
    f->how = how;
    f->begun = true;
}

static void take_token(choice *c, const pr_job_token *t) {
    pr__flight *f = c->flight;
    bool logprobs = f->params.logprobs;
    if (f->failed || f->abandoned) return;
    note_how(f, t->so_far);
    if (logprobs) note_logprobs(c, t);
    c->n_text += t->len;
    bool says = t->len || c->lp.tokens.len;
    if (says || !c->begun)
        pr_record_token(&f->record, c->index, t->level, t->text, t->len, says && logprobs ? &c->lp : NULL);
    c->begun = true;
    pr_lp_text_clear(&c->lp);
    let_all_read(f);
}

static void measure_token(choice *c) {
    double now = pr_now(), since = c->token_at != 0 ? c->token_at : c->flight->began;
    pr__metrics_latency(c->flight->metrics, c->token_at != 0 ? PR__LATENCY_NEXT_TOKEN : PR__LATENCY_FIRST_TOKEN,
                        now - since);
    c->token_at = now;
}

static void on_token(void *arg, const pr_job_token *t) {
    choice *c = arg;
    pthread_mutex_lock(&c->flight->lock);
    if (t->token >= 0) measure_token(c); /* others are text that was held back */
    take_token(c, t);
    pthread_mutex_unlock(&c->flight->lock);
}

static void on_queue(void *arg, uint32_t position, double estimate) {
    pr__flight *f = ((choice *)arg)->flight;
    pthread_mutex_lock(&f->lock);
    for (pr__client *c = f->clients; c && !f->failed; c = c->next) pr__client_place(c, position, estimate);
    tidy(f);
    pthread_mutex_unlock(&f->lock);
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
static pr_usage share_of(const pr__flight *f, const choice *c) {
    bool first = c->index % f->params.n == 0;
    return (pr_usage){first ? c->end.n_prompt : 0, first ? c->end.n_cached : 0, c->end.n_generated};
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

/* All clients fail with the first choice that does. */
static void fail(pr__flight *f, const pr_err *err, bool of_model, uint32_t retry_after) {
    if (f->failed) return;
    f->failed = true;
    for (pr__client *c = f->clients; c; c = c->next) pr__client_fail(c, err, of_model, retry_after);
    cancel_all(f);
    tidy(f);
}

static void end_choice(choice *c) {
    pr__flight *f = c->flight;
    pr_ending end = ending_of(&c->end);
    pr_usage share = share_of(f, c);
    note_how(f, &c->end);
    pr_record_end(&f->record, c->index, &end, &share);
    if (!pr_str_ok(&f->record)) {
        pr_err err = {0};
        pr_fail_nomem(&err, "an answer", f->record.len);
        fail(f, &err, false, 1);
        return;
    }
    /* Before anybody sees its end: who asks again then finds this one. */
    if (may_be_kept(f)) pr__answers_keep(f->api, &f->question, &f->how, &f->record);
    let_all_read(f);
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

static void count_choice(pr__flight *f, const pr_job_done *d) {
    pr__counted counted = {outcome_of(d->finish), d->n_prompt, d->n_cached, d->n_generated};
    pr__metrics_count(f->metrics, &counted);
    if (d->finish != PR_JOB_ERROR) pr__metrics_latency(f->metrics, PR__LATENCY_QUEUE, d->queue_seconds);
}

static void on_done(void *arg, const pr_job_done *done) {
    choice *c = arg;
    pr__flight *f = c->flight;
    pr_err err = {0};
    pthread_mutex_lock(&f->lock);
    c->end = *done;
    c->done = true;
    f->n_done++;
    count_choice(f, done);
    if (came_to_nothing(done, &err)) {
        bool of_model = done->load == 0 && err.status == PR_ERR_UNSUPPORTED; /* it was never open */
        fail(f, &err, of_model, done->retry_after);
    }
    if (!f->failed && !f->abandoned) end_choice(c);
    bool all = f->n_done == f->n;
    pthread_mutex_unlock(&f->lock);
    if (all) unlist(f);
    if (all) log_left(f);
    pr__flight_unref(f);
}

/* ---- the beginning ----------------------------------------------------- */

static bool has_ended(pr__flight *f) {
    pthread_mutex_lock(&f->lock);
    bool ended = f->failed || f->abandoned;
    pthread_mutex_unlock(&f->lock);
    return ended;
}

/* A job for choice i. One that the scheduler does not take is done at once, with the reason. */
static void submit(pr__flight *f, uint32_t i, const char *key_name) {
    choice *c = &f->choices[i];
    const pr_params *p = &f->params;
    pr_job_done refused = {.finish = PR_JOB_ERROR, .retry_after = 1};
    pr_job_id id = 0;
    pr_job job = {
        .model = f->model,
        .key = key_name,
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
        .on_queue = on_queue,
        .arg = c,
    };
    job.generate.sample.seed += i % p->n;
    ref(f);
    pr_status st = has_ended(f) ? pr_fail(&refused.err, PR_ERR_CANCELLED, "the request has failed")
                                : pr_sched_submit(f->api->sched, &job, &id, &refused.err);
    if (st) on_done(c, &refused);
    pthread_mutex_lock(&f->lock);
    c->id = id;
    pthread_mutex_unlock(&f->lock);
}

static void submit_all(pr__flight *f, const char *key_name) {
    pr_params *p = &f->params;
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed) seed = pr_now_ns();
    if (!p->seed_given) p->generate.sample.seed = seed >> 16;
    for (uint32_t i = 0; i < f->n; i++) submit(f, i, key_name);
    pthread_mutex_lock(&f->lock);
    if (f->failed || f->abandoned) cancel_all(f); /* those whose numbers were not known yet */
    pthread_mutex_unlock(&f->lock);
}

static void build_choices(pr__flight *f) {
    const pr_params *p = &f->params;
    f->n = p->n * (p->n_prompts ? (uint32_t)p->n_prompts : 1);
    for (uint32_t i = 0; i < f->n; i++) f->choices[i] = (choice){.flight = f, .index = i, .prompt = i / p->n};
}

/* Look for an answer that is there or on its way; else this flight is on its way from now on. False: jobs are needed. */
static bool find_answer(pr__flight *f, pr__client *c) {
    pr_api *api = f->api;
    const pr__question *q = &f->question;
    pr__computed how;
    if (!q->looks) return false;
    bool known = pr__answers_expect(api, &f->params, f->model, &how);
    pthread_mutex_lock(&api->flights_lock);
    f->blob = known ? pr__answers_find(api, q, &how, &c->age) : NULL;
    bool found = f->blob || join_any(api, q, c, known ? &how : NULL);
    if (!found) {
        f->listed = true;
        f->next = api->flights;
        api->flights = f;
    }
    pthread_mutex_unlock(&api->flights_lock);
    return found;
}

void pr__flight_board(pr__flight *f, pr__client *c) {
    build_choices(f);
    f->metrics = pr__metrics_model(f->api->metrics, f->model);
    if (!f->question.looks) c->cache = "BYPASS";
    bool found = find_answer(f, c);
    if (f->blob) {
        c->shared = true;
        c->cache = "HIT";
    }
    if (!c->flight) {
        pthread_mutex_lock(&f->lock);
        add_client(f, c);
        pthread_mutex_unlock(&f->lock);
    }
    if (!found) submit_all(f, pr_http_req_key(c->req));
    pr_http_req_watch(c->req, &(pr_http_watch){on_gone, on_drain, on_release, c});
    pr__flight_unref(f);
}
