/*
 * What each unit of a plane file costs at each level, in nats a token: the input of the ranking (compress/rank.h).
 *
 * The encoder says how much every row of a matrix has lost at a level. What a matrix' loss is worth is measured with that
 * matrix alone at 2 bits (compress/measure.h), or taken from a table by kind. Losses at higher levels follow by
 *   KL = KL at 2 bits * (loss / loss at 2 bits) ^ exponent
 * and a matrix' KL is shared out to its units by their losses. Rows of the embedding and of the output matrix count by
 * how often their token occurs and how likely it is.
 */
#ifndef PRECIS_COMPRESS_DAMAGE_H
#define PRECIS_COMPRESS_DAMAGE_H

#include "compress/measure.h"
#include "compress/pack_impl.h"

typedef struct pr_damage_how {
    const pr_calibration *cal; /* NULL: rows of the vocabulary all count alike */
    pr_measure *measure;       /* NULL: by the table */
    uint32_t n_layers;
    double work; /* to measure for, multiply-adds, about: matrices that are not reached take after their neighbours */
    const volatile int *cancel;
    void (*progress)(void *arg, double fraction); /* of this work; may be NULL */
    void *progress_arg;
} pr_damage_how;

/* Damages to out[set.n_units]; *n_measured: how many matrices. */
pr_status pr_damage_find(const pr__pack_plan *plan, const pr_damage_how *how, pr_damage *out, uint32_t *n_measured,
                         pr_err *err);

#endif
