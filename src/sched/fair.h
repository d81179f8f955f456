/*
 * Whose turn it is. Pure. Internal to sched/.
 *
 * Start-time fair queuing in its simplest form: each party (an API key) has a count of the rows it was given; the next row
 * goes to the party with the least, and within a party to its job with the lowest order. A party that comes, or comes back
 * after it wanted nothing for a while, starts at the least count of those that went on: waiting earns no credit, being new
 * no penalty. So a key with twenty streams and one with a single one get the same number of rows as long as both want them.
 *
 * Decoding and prefill are separate queues: both are bounded in every step, and a long prompt must not be paid for with
 * standing still once it is through.
 */
#ifndef PRECIS_SCHED_FAIR_H
#define PRECIS_SCHED_FAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct pr__share { /* of one party in one queue; zero-initialize */
    uint64_t served;       /* rows, made comparable when it begins */
    uint64_t round;        /* in which it last wanted some */
} pr__share;

typedef struct pr__fair { /* a queue; zero-initialize */
    uint64_t round, least;
} pr__fair;

typedef struct pr__turn { /* a job that wants rows */
    pr__share *share;     /* its party's */
    uint64_t order;
    uint32_t rows; /* that it would take; when picked: that it gets */
    bool taken;
} pr__turn;

/* Pick turns until `most` are taken or there are rows_max rows, of which the last one picked may get fewer than it wants;
 * order[] gets their indices in the order picked. Shares are charged. Returns how many. O(n * picked). */
size_t pr__fair_pick(pr__fair *queue, pr__turn *turns, size_t n, size_t most, uint32_t rows_max, size_t *order);

/* Batches that cannot share a step take turns in proportion to their weights (stride scheduling). */
enum { PR__BATCHES = 5 };
typedef struct pr__stride { /* zero-initialize */
    double pass[PR__BATCHES];
    bool there[PR__BATCHES];
} pr__stride;

/* The next of those with a weight above 0; -1 when there is none. */
int pr__fair_batch(pr__stride *stride, const double weight[PR__BATCHES]);

#endif
