/*
 * A flight: one answer being made, or one that was, and everybody who gets it.
 *
 * Its jobs write a record, its clients read that. Who asks for an answer that is being made already becomes one more client
 * of its flight instead of making another (single flight). Jobs are cancelled when the last client has gone, not before.
 *
 * Ownership: counted by its jobs and clients. Threads: everything from any thread.
 */
#ifndef PRECIS_API_FLIGHT_H
#define PRECIS_API_FLIGHT_H

#include "api/answers.h"
#include "api/client.h"

/* An empty flight for a request; params and question are to be filled in. NULL: out of memory. */
pr__flight *pr__flight_new(pr_api *api, pr_ask ask);
void pr__flight_unref(pr__flight *f);

pr_params *pr__flight_params(pr__flight *f);
char *pr__flight_model(pr__flight *f); /* [PR_API_MODEL_NAME] */
pr__question *pr__flight_question(pr__flight *f);

/* Get the client its answer: from a cache, from a flight that is on its way already, or from jobs of f's own. Both references
 * are taken. On the server's thread; the client is answered then or later, whatever happens. */
void pr__flight_board(pr__flight *f, pr__client *c);

/* For counts: what others may join now, and how many clients did since the start. */
typedef struct pr__flights {
    uint32_t answers, clients; /* being made; who waits for them */
    uint64_t joined;
} pr__flights;
void pr__flights_get(pr_api *api, pr__flights *out);

#endif
