/*
 * The order of increments.
 *
 * Greedy by damage a byte is a sort, as long as each plane of a unit pays less a byte than the one below it. Where p8 would
 * pay more than p4 the two are worth their common rate, and are sorted by that, p4 first: the corner that a convex hull
 * cuts off.
 */
#include "compress/rank.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

static const double INT2_BITS = 2.6, INT4_BITS = 4.7;

typedef struct item {
    pr_increment increment;
    double rate; /* damage taken away a byte */
} item;

static int by_rate(const void *a, const void *b) {
    const item *x = a, *y = b;
    bool last_x = x->increment.plane == PR_PLANE_P16, last_y = y->increment.plane == PR_PLANE_P16;
    if (last_x != last_y) return last_x ? 1 : -1;
    if (x->rate > y->rate) return -1;
    if (x->rate < y->rate) return 1;
    if (x->increment.unit != y->increment.unit) return x->increment.unit < y->increment.unit ? -1 : 1;
    return (x->increment.plane > y->increment.plane) - (x->increment.plane < y->increment.plane);
}

/* The planes of one unit above p2, with their rates; returns how many. */
static uint32_t items_of(const pr_plane_set *set, const pr_damage *d, uint32_t unit, item *out) {
    uint32_t n_planes = set->tensors[set->units[unit].tensor].n_planes, n = 0;
    double bytes[PR_PLANE_COUNT];
    for (uint32_t p = PR_PLANE_P4; p < n_planes; p++) {
        bytes[p] = (double)pr_plane_unit_bytes(set, unit, (pr_plane)p);
        out[n++] = (item){{unit, (pr_plane)p}, (d->at[p - 1] - d->at[p]) / bytes[p]};
    }
    if (n >= 2 && out[1].rate > out[0].rate) {
        double both = (d->at[PR_PLANE_P2] - d->at[PR_PLANE_P8]) / (bytes[PR_PLANE_P4] + bytes[PR_PLANE_P8]);
        out[0].rate = out[1].rate = both;
    }
    return n;
}

static void fill_kl(pr_plane_set *set, const pr_damage *damages) {
    double sum = 0;
    for (uint32_t u = set->n_units; u-- > 0;) sum += damages[u].at[PR_PLANE_P2];
    set->kl[0] = (float)sum;
    for (uint32_t i = 0; i < set->n_increments; i++) {
        const pr_damage *d = &damages[set->increments[i].unit];
        sum -= d->at[set->increments[i].plane - 1] - d->at[set->increments[i].plane];
        float kl = (float)(sum > 0 ? sum : 0);
        set->kl[i + 1] = kl < set->kl[i] ? kl : set->kl[i];
    }
}

static void fill_levels(pr_plane_set *set) {
    uint64_t bytes = 0;
    uint32_t *cursor = set->level_cursor, n_last = 0;
    double byte_bits = 8 / (double)set->n_weights;
    for (uint32_t u = 0; u < set->n_units; u++) bytes += pr_plane_unit_bytes(set, u, PR_PLANE_P2);
    for (uint32_t l = 0; l < PR_PLANE_COUNT; l++) cursor[l] = 0;
    for (uint32_t i = 0; i < set->n_increments; i++) {
        const pr_increment *in = &set->increments[i];
        bytes += pr_plane_unit_bytes(set, in->unit, in->plane);
        n_last += in->plane == PR_PLANE_P16;
        bool whole = in->plane != PR_PLANE_P16; /* int2 and int4 end before p16 however small the model is */
        if (whole && (double)bytes * byte_bits <= INT2_BITS) cursor[PR_PLANE_P2] = i + 1;
        if (whole && (double)bytes * byte_bits <= INT4_BITS) cursor[PR_PLANE_P4] = i + 1;
    }
    cursor[PR_PLANE_P8] = set->n_increments - n_last;
    cursor[PR_PLANE_P16] = set->n_increments;
}

pr_status pr_rank(pr_plane_set *set, const pr_damage *damages, pr_err *err) {
    uint32_t n = 0;
    item *items = pr_calloc(PR_TAG_FILE, (size_t)set->n_increments + PR_PLANE_COUNT, sizeof *items);
    if (!items) return pr_fail_nomem(err, "increments", set->n_increments * sizeof *items);
    for (uint32_t u = 0; u < set->n_units; u++) n += items_of(set, &damages[u], u, items + n);
    if (n > 1) qsort(items, n, sizeof *items, by_rate);
    for (uint32_t i = 0; i < n; i++) set->increments[i] = items[i].increment;
    pr_free(items);
    fill_kl(set, damages);
    fill_levels(set);
    return PR_OK;
}

double pr_rank_bits(const pr_plane_set *set, uint32_t n) {
    uint64_t bytes = 0;
    for (uint32_t u = 0; u < set->n_units; u++) bytes += pr_plane_unit_bytes(set, u, PR_PLANE_P2);
    for (uint32_t i = 0; i < n; i++)
        bytes += pr_plane_unit_bytes(set, set->increments[i].unit, set->increments[i].plane);
    return (double)bytes * 8 / (double)set->n_weights;
}

/* log of measured by expected, kept sane where one of them is nothing. */
static double log_ratio(double measured, double expected) {
    const double least = 1e-12;
    return log((measured > least ? measured : least) / (expected > least ? expected : least));
}

void pr_rank_bend(pr_plane_set *set, const pr_anchor *anchors, size_t n) {
    for (size_t a = 0; a + 1 < n; a++) {
        uint32_t from = anchors[a].n, to = anchors[a + 1].n;
        if (from == to) continue;
        double left = log_ratio(anchors[a].kl, (double)set->kl[from]);
        double right = log_ratio(anchors[a + 1].kl, (double)set->kl[to]);
        bool last = a + 2 == n;
        for (uint32_t i = from; i < to + last; i++) {
            double t = (double)(i - from) / (to - from);
            double kl = (double)set->kl[i] * exp(left + t * (right - left)), least = anchors[a + 1].kl;
            set->kl[i] = (float)(kl > least ? kl : least);
        }
    }
    for (uint32_t i = 1; i <= set->n_increments; i++)
        if (!(set->kl[i] <= set->kl[i - 1])) set->kl[i] = set->kl[i - 1];
}
