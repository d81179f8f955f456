/*
 * A client: one request that is being answered from a record, at its own pace and in its own form.
 *
 * It reads the record from the beginning, whether that grows still, was finished a moment ago or lay in a cache for an hour, and
 * writes what it finds as one piece or as events, with an id and a time of its own.
 *
 * Ownership: counted; it holds its request and, once it has one, its flight (flight.h). Threads: what is not constant is under
 * the flight's lock, which all functions but new, ref and unref want held.
 */
#ifndef PRECIS_API_CLIENT_H
#define PRECIS_API_CLIENT_H

#include "api/context.h"
#include "api/record.h"

typedef struct pr__flight pr__flight;

typedef struct pr__client {
    pr_api *api;
    pr_http_req *req;
    atomic_uint refs;
    pr_reply reply;
    char id[40];
    bool stream, logprobs;
    bool events; /* its stream has events of places and levels */
    pr__model_metrics *metrics;
    double began;
    const char *cache; /* X-Cache */
    bool shared;       /* the answer was, or is being, made for somebody else */
    double age;        /* seconds, of one that was made before; negative: it was not */
    pr__flight *flight;
    struct pr__client *next; /* of its flight */
    /* Under the flight's lock: */
    size_t at; /* in the record */
    struct {
        bool begun;
        pr_level level;    /* of its last event, once begun */
        pr_str head, tail; /* of its deltas */
    } choices[PR_CHOICES_MAX];
    uint32_t n, n_ended; /* choices */
    pr_usage usage;      /* so far */
    pr_ending ending;    /* of the first choice that ended, for the log */
    uint32_t levels;     /* a bit for each that the choices so far were computed at */
    pr_str out;          /* events the connection has had no room for */
    bool begun;
    unsigned failed; /* the status; not 0: what is in out is the last of it */
    bool over;       /* answered, given up, or gone: nothing more is done for it */
} pr__client;

/* Takes a reference of req. NULL: out of memory. */
pr__client *pr__client_new(pr_api *api, pr_http_req *req);
pr__client *pr__client_ref(pr__client *c);
void pr__client_unref(pr__client *c);

/* Say what it gets: an answer of n choices. model and query must outlive it. */
void pr__client_name(pr__client *c, pr_ask ask, const char *model, const char *query, uint32_t n);
/* Read on in the record data[len]; complete: it does not grow any more. */
void pr__client_read(pr__client *c, const char *data, size_t len, bool complete);
/* Its place in the queue, for a stream of /api/query/stream or one with events that has waited for a while. */
void pr__client_place(pr__client *c, uint32_t position, double estimate);
/* It has gone. */
void pr__client_lost(pr__client *c);
/* It fails: with a status, or as an event when it is too late for that. of_model: whatever it had asked, this model could not
 * have answered. */
void pr__client_fail(pr__client *c, const pr_err *err, bool of_model, uint32_t retry_after);

typedef struct pr__refusal {
    unsigned status;
    const char *code;
} pr__refusal;
pr__refusal pr__refusal_of(pr_status status);

#endif
