/*
 * In which order the planes of a model should be loaded.
 *
 * A unit (a piece of a matrix) does some damage at each level: what the KL divergence from the source, in nats a token, is
 * expected to grow by while it stays there. Damages are taken to add up. The order that follows is greedy: of all planes
 * that could come next the one that takes away most damage a byte. p16 planes come after all p8 planes. Pure functions.
 */
#ifndef PRECIS_COMPRESS_RANK_H
#define PRECIS_COMPRESS_RANK_H

#include "base/status.h"
#include "store/planes.h"

typedef struct pr_damage {
    double at[PR_PLANE_COUNT]; /* [level]; finite, descending up to the unit's last plane */
} pr_damage;

/*
 * Fill set->increments, set->kl (by the sum of damages) and set->level_cursor; the arrays are there, damages is
 * [set->n_units]. int2 is the largest beginning of the list with at most 2.6 bits a weight, int4 with at most 4.7, int8 all
 * p4 and p8 planes, fp16 everything.
 */
pr_status pr_rank(pr_plane_set *set, const pr_damage *damages, pr_err *err);

/* Bits a weight with the first n increments: bytes of planes. */
double pr_rank_bits(const pr_plane_set *set, uint32_t n);

/* A point of the list where the KL was measured. */
typedef struct pr_anchor {
    uint32_t n; /* increments */
    double kl;
} pr_anchor;

/* Bend set->kl so that it goes through anchors[n] (ascending in .n, from 0 to n_increments), in between by the ratio of
 * measured to expected, and never rises. */
void pr_rank_bend(pr_plane_set *set, const pr_anchor *anchors, size_t n);

#endif
