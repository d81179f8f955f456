/*
 * Thread team: the threads that walk one schedule together.
 *
 * pr_team_run() calls fn once on every thread; inside it, the threads go
 * through the same sequence of pr_team_for() loops. A loop's chunks are claimed
 * one by one, so that a thread the system has taken away delays only the chunk
 * it holds; the partition into chunks never depends on the number of threads,
 * and no result may depend on who runs which chunk. Waiting is spin, then park,
 * so a busy neighbour gets the processor instead of a spinning thread.
 */
#ifndef PRECIS_BASE_POOL_H
#define PRECIS_BASE_POOL_H

#include <stdint.h>

#include "base/status.h"

typedef struct pr_team pr_team;

/* n_threads >= 1 counts the caller. Each thread has its own share of the processors the process may use (big cores
 * first, by hwloc), when there are enough of them; the calling thread is bound to its share during a run at most. All
 * but the calling thread run at nice `nice` when > 0. */
pr_status pr_team_open(int n_threads, int nice, pr_team **out, pr_err *err);
void pr_team_close(pr_team *team);
int pr_team_size(const pr_team *team);

/* Run fn(ctx, thread) on all threads, thread in 0..size-1, the caller being 0;
 * returns when all have returned. One run at a time, one calling thread. */
void pr_team_run(pr_team *team, void (*fn)(void *ctx, int thread), void *ctx);

/* Inside a run, called by every thread with the same arguments: body(ctx,
 * chunk, thread) for each chunk in 0..n_chunks-1, each exactly once; all are
 * done, and their writes visible, when it returns. A thread may come after the
 * others have gone on to later loops: what decides the sequence of loops and
 * their arguments must not be written by a body. */
void pr_team_for(pr_team *team, int thread, uint32_t n_chunks, void (*body)(void *ctx, uint32_t chunk, int thread),
                 void *ctx);

#endif
