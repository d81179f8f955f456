/*
 * Residency: which planes of an elastic model are in memory, and moving between that, live.
 *
 * The planes that may be absent are the increments of the file's list (store/planes.h), and what is resident is always
 * a beginning of that list: one number, the cursor, says it all. The p2 planes are always there. Memory is one reserve
 * of address space in the order of the list, so lowering the cursor gives back one contiguous range.
 *
 * Three numbers: target (what is asked for), loaded (what is in memory), cursor (what steps use). cursor <= loaded.
 * Lowering: the levels of the units are lowered before the next step, then a background thread gives the memory back.
 * Raising: that thread reads plane after plane while steps go on at the old levels; what it has read is used from the next
 * step on. Reading leaves nothing in the page cache. An error while raising keeps what is loaded, is kept for
 * pr_residency_state_get() and ends the raise: target becomes loaded.
 *
 * Threads: pr_residency_move(), _state() and _settle() from any thread; _step_begin() and _step_end() by the one thread
 * that steps; the units' levels are written only between a step's end and the next one's beginning, also by the
 * background thread when nobody steps: read them inside a step. _draft() and _cap() by the stepping thread between steps.
 */
#ifndef PRECIS_STORE_RESIDENCY_H
#define PRECIS_STORE_RESIDENCY_H

#include "base/pool.h"
#include "store/planes.h"

/* A step computes with one of two sets of levels: those of the cursor, or the draft's (at most those). */
enum { PR_VIEW_MAIN, PR_VIEW_DRAFT, PR_VIEW_COUNT };

/* A unit as the executor sees it: tiles of one matrix. */
typedef struct pr_unit {
    const uint8_t *plane[PR_PLANE_COUNT]; /* its address; only planes up to the level may be read */
    uint32_t tile0, n_tiles;
    uint8_t level[PR_VIEW_COUNT]; /* a pr_plane: the highest plane in use */
} pr_unit;

typedef struct pr_residency pr_residency;

typedef struct pr_residency_state {
    uint32_t cursor, loaded, target, n_increments;
    bool moving;                        /* the last request is neither fulfilled nor has it failed */
    size_t bytes;                       /* committed now */
    size_t plane_bytes[PR_PLANE_COUNT]; /* of them, by plane */
    uint64_t moves_down, moves_up;      /* finished */
    double drop_seconds, raise_seconds; /* of the last finished move each: from request to memory given back / in use */
    pr_err raise_err;                   /* of the last raise that failed; status 0: none since the last good one */
} pr_residency_state;

/* Bytes in memory with the first n increments; n = 0: the p2 planes alone. O(1). */
size_t pr_residency_bytes_at(const pr_residency *r, uint32_t n);
/* The same without opening: bytes_at[n_increments + 1], for estimates. */
void pr_plane_set_bytes(const pr_plane_set *set, size_t *bytes_at);
/* The largest number of increments with at most `bytes`; false when not even the p2 planes fit. */
bool pr_bytes_to_cursor(const size_t *bytes_at, uint32_t n_increments, size_t bytes, uint32_t *cursor);

/* Reserve address space and make the unit table; file is borrowed and must outlive it. Nothing is read yet. */
pr_status pr_residency_open(const pr_model_file *file, pr_residency **out, pr_err *err);
/* Read the p2 planes and the first `cursor` increments, in parallel, and start the background thread. Once. */
pr_status pr_residency_load(pr_residency *r, uint32_t cursor, pr_team *team,
                            void (*progress)(void *arg, double fraction), void *arg, pr_err *err);
void pr_residency_close(pr_residency *r); /* NULL and half-opened allowed; stops the thread */

/* Units of packed matrix `tensor` (its number in the set), in order of tiles; stable addresses. */
const pr_unit *pr_residency_units(const pr_residency *r, uint32_t tensor, uint32_t *n_units);

/* Ask for a cursor. Returns at once; the newest request wins. PR_ERR_ARG past n_increments, PR_ERR_NOMEM never (a raise that
 * finds no memory fails as a disk error does). */
pr_status pr_residency_move(pr_residency *r, uint32_t cursor, pr_err *err);
/* Wait until the target is reached (read, in use, memory given back) or `seconds` have passed. When the raise that was
 * asked for last has failed, its error is returned. PR_ERR_LIMIT: the time is over. May be called between steps by the
 * stepping thread; inside a step it would wait for itself. */
pr_status pr_residency_settle(pr_residency *r, double seconds, pr_err *err);
void pr_residency_state_get(const pr_residency *r, pr_residency_state *out);

/* Levels of PR_VIEW_DRAFT: those of the cursor `n`, where the main view has more; at first the main view's own. */
void pr_residency_draft(pr_residency *r, uint32_t n);
/* Measuring only: one unit reads at most `level` until it is set again with PR_PLANE_P16. */
void pr_residency_cap(pr_residency *r, uint32_t unit, pr_plane level);

/* Around every step: publish levels, which costs as much as changed, after a gap of a fifth of a step while planes are read and steps
 * take every processor; memory that no step can read any more is given back
 * from then on. Returns a number that changes with the levels. */
uint64_t pr_residency_step_begin(pr_residency *r);
void pr_residency_step_end(pr_residency *r);

#endif
