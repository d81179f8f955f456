/*
 * Whose turn it is. Pure. Internal to sched/.
 *
 * Start-time fair queuing in its simplest form: every key has a count of rows computed for it; the next row goes to the
 * key with the least, and within a key to the job with the least. A key that begins starts at the least count of those at
 * work, so waiting earns no credit and being new no penalty. A key with twenty streams and one with a single one get the
 * same number of rows as long as both want them.
 */
#ifndef PRECIS_SCHED_FAIR_H
#define PRECIS_SCHED_FAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct pr__turn { /* a job that wants rows */
    const void *key;
    uint64_t key_served, served;
    uint32_t rows; /* that it would take */
    bool taken;    /* set when picked */
} pr__turn;

/* Pick turns until `most` are taken or their rows would pass rows_max; order[] gets their indices in the order picked. A turn
 * whose rows alone pass what is left is passed over. Returns how many. O(n * picked). */
size_t pr__fair_pick(pr__turn *turns, size_t n, size_t most, uint64_t rows_max, size_t *order);

#endif
