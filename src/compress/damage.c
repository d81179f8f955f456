/*
 * Damages.
 *
 * Measuring goes from coarse to fine: of each kind of matrix first the layers at the ends, then those in the middle, and so
 * on, until all are done or the allowed work is. Work is counted, not timed, so that a file is the same whenever and wherever it
 * is packed. A matrix without a measurement gets its kind's KL a loss from the nearest
 * measured layers on both sides, by a straight line through the logarithms. The exponent is the median of what a few
 * matrices say that are measured at 4 bits too.
 *
 * The table is for files that are packed fast, in which nothing is measured matrix by matrix. A number is what a relative
 * error of 1 of all matrices of the kind together would cost in nats, if KL grew in proportion to it. The figures are round ones between those of a model
 * of 6M weights (prose-6m) and one of 135M (SmolLM2), which differ by a factor of 15 at the embedding and far more at the
 * rest: the order that they give is of some use, the KL is a guess.
 */
#include "compress/damage.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { EXPONENTS_MAX = 32 };

static const double LEAST = 1e-9, EXPONENT_USUAL = 1.2, EXPONENT_MIN = 0.7, EXPONENT_MAX = 1.6, UNSEEN = 0.05;

static const struct {
    const char *kind; /* how it begins */
    double worth;
} table[] = {
    {"token_embd", 10}, {"output.", 10}, {"attn_v", 3},     {"attn_q", 1}, {"attn_k", 1},
    {"attn_output", 1}, {"ffn_up", 2.5}, {"ffn_down", 2.5}, {"", 2},
};
/* Matrices of the first and the last layer were worth that much more than those between. */
static const double ENDS = 4;

typedef struct finder {
    const pr__pack_plan *plan;
    pr_damage_how how;
    double *weight; /* [n_vocab] of rows of the vocabulary; NULL: all 1 */
    double *total;  /* [n_tensors][PLANES] weighted loss */
    double *unit;   /* [n_units][PLANES] weighted loss */
    double *kl2;    /* [n_tensors] at 2 bits; below 0: not known */
    double exponents[EXPONENTS_MAX];
    uint32_t n_exponents;
    double exponent;
    double done; /* multiply-adds */
    uint32_t n_measured;
} finder;

/* ---- losses ------------------------------------------------------------------ */

static pr_status find_weights(finder *f, pr_err *err) {
    const pr_calibration *c = f->how.cal;
    if (!c) return PR_OK;
    f->weight = pr_calloc(PR_TAG_SCRATCH, c->n_vocab, sizeof *f->weight);
    return f->weight ? PR_OK : pr_fail_nomem(err, "weights of tokens", c->n_vocab * sizeof *f->weight);
}

/* Row weights of one matrix, of mean 1; false: all rows count alike. */
static bool weigh_rows(finder *f, const pr__matrix *m, uint32_t rows) {
    const pr_calibration *c = f->how.cal;
    if (!c || (!m->embedding && !m->head) || rows > c->n_vocab) return false;
    assert(f->weight != NULL);
    for (uint32_t r = 0; r < rows; r++) {
        double seen = m->embedding ? c->frequency[r] : c->probability[r];
        if (m->embedding && m->head) seen = (c->frequency[r] + c->probability[r]) / 2;
        f->weight[r] = UNSEEN + (1 - UNSEEN) * seen * rows;
    }
    return true;
}

static void sum_losses(finder *f) {
    const pr_plane_set *set = &f->plan->set;
    for (uint32_t i = 0; i < set->n_tensors; i++) {
        const pr_plane_tensor *t = &set->tensors[i];
        const pr__matrix *m = &f->plan->matrices[i];
        bool weighed = weigh_rows(f, m, t->rows);
        for (uint32_t u = t->unit0; u < t->unit0 + t->n_units; u++) {
            uint32_t first = set->units[u].tile0 * PR_TILE_ROWS, end = first + set->units[u].n_tiles * PR_TILE_ROWS;
            if (end > t->rows) end = t->rows;
            for (uint32_t p = 0; p < t->n_planes; p++) {
                double *sum = &f->unit[u * PR_PLANE_COUNT + p];
                for (uint32_t r = first; r < end; r++) *sum += (double)m->loss[p][r] * (weighed ? f->weight[r] : 1);
                f->total[i * PR_PLANE_COUNT + p] += *sum;
            }
        }
    }
}

/* ---- the table ---------------------------------------------------------------- */

static double table_kl(const finder *f, uint32_t tensor) {
    const pr__matrix *m = &f->plan->matrices[tensor];
    size_t k = 0;
    while (strncmp(m->kind, table[k].kind, strlen(table[k].kind)) != 0) k++;
    bool layered = !m->embedding && !m->head;
    double worth = table[k].worth / (layered ? f->how.n_layers : 1);
    if (layered && (m->layer == 0 || m->layer + 1 == f->how.n_layers)) worth *= ENDS;
    return worth * f->total[tensor * PR_PLANE_COUNT] / (m->norm > 0 ? m->norm : 1);
}

/* ---- measuring --------------------------------------------------------------- */

/* Multiply-adds of a measurement that begins at a layer, attention left aside: all tokens through what comes from there on. */
static double work_of(const finder *f, uint32_t from) {
    const pr_plane_set *set = &f->plan->set;
    double weights = 0;
    for (uint32_t i = 0; i < set->n_tensors; i++) {
        const pr__matrix *m = &f->plan->matrices[i];
        bool used = m->head || (!m->embedding && m->layer >= from);
        if (used) weights += (double)set->tensors[i].cols * set->tensors[i].rows;
    }
    return weights * pr_measure_rows(f->how.measure);
}

static pr_status measure_one(finder *f, uint32_t i, bool both, pr_err *err) {
    const pr__matrix *m = &f->plan->matrices[i];
    const double *total = &f->total[i * PR_PLANE_COUNT];
    double kl2, kl4;
    if (f->how.cancel && *f->how.cancel) return pr_fail(err, PR_ERR_CANCELLED, "stopped");
    pr_status st = pr_measure_matrix(f->how.measure, i, PR_PLANE_P2, m->layer, &kl2, err);
    if (st) return st;
    f->kl2[i] = isfinite(kl2) && kl2 > LEAST ? kl2 : LEAST;
    f->n_measured++;
    f->done += work_of(f, m->layer);
    if (both && f->n_exponents < EXPONENTS_MAX && f->plan->set.tensors[i].n_planes > 1) {
        st = pr_measure_matrix(f->how.measure, i, PR_PLANE_P4, m->layer, &kl4, err);
        f->done += work_of(f, m->layer);
        double ratio = log(total[PR_PLANE_P4] / total[PR_PLANE_P2]);
        if (!st && kl4 > LEAST && ratio < -0.1) f->exponents[f->n_exponents++] = log(kl4 / f->kl2[i]) / ratio;
    }
    if (f->how.progress) f->how.progress(f->how.progress_arg, fmin(f->done / f->how.work, 1));
    return st;
}

/* Is the layer one of this round: 0: the first and the last, then the middles of what lies between. */
static bool of_round(uint32_t layer, uint32_t n_layers, uint32_t step, bool first_round) {
    if (first_round && layer + 1 == n_layers) return true;
    return layer % step == 0 && (first_round || layer % (2 * step) != 0);
}

static pr_status measure_all(finder *f, pr_err *err) {
    const pr_plane_set *set = &f->plan->set;
    uint32_t n_layers = f->how.n_layers, step = 1;
    pr_status st = PR_OK;
    while (step * 2 < n_layers) step *= 2;
    for (bool first = true; step > 0 && !st; step /= 2, first = false) {
        for (uint32_t i = 0; i < set->n_tensors && !st; i++) {
            const pr__matrix *m = &f->plan->matrices[i];
            bool wanted = f->kl2[i] < 0 && of_round(m->layer, n_layers, step, first);
            if (!wanted) continue;
            if (!first && f->done + work_of(f, m->layer) > f->how.work)
                return PR_OK; /* the first round must be: each kind needs something */
            st = measure_one(f, i, first, err);
        }
    }
    return st;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void choose_exponent(finder *f) {
    f->exponent = EXPONENT_USUAL;
    if (!f->n_exponents) return;
    qsort(f->exponents, f->n_exponents, sizeof *f->exponents, by_value);
    double middle = f->exponents[f->n_exponents / 2];
    f->exponent = middle < EXPONENT_MIN ? EXPONENT_MIN : middle > EXPONENT_MAX ? EXPONENT_MAX : middle;
}

/* ---- the rest ------------------------------------------------------------------ */

/* log of KL a loss of the nearest measured matrix of the same kind, upwards or downwards; its distance in layers, or -1. */
static double nearest(const finder *f, uint32_t i, bool up, double *value) {
    const pr__matrix *m = &f->plan->matrices[i];
    double best = -1;
    for (uint32_t k = 0; k < f->plan->set.n_tensors; k++) {
        const pr__matrix *o = &f->plan->matrices[k];
        double far = up ? (double)o->layer - m->layer : (double)m->layer - o->layer;
        if (k == i || f->kl2[k] < 0 || far < 0 || strcmp(o->kind, m->kind) != 0 || (best >= 0 && far >= best)) continue;
        best = far;
        *value = log(f->kl2[k] / (f->total[k * PR_PLANE_COUNT] + 1e-300));
    }
    return best;
}

/* KL at 2 bits of a matrix that was not measured. */
static double guess(const finder *f, uint32_t i) {
    double below = 0, above = 0, down = nearest(f, i, false, &below), up = nearest(f, i, true, &above);
    if (down < 0 && up < 0) return table_kl(f, i);
    double t = down < 0 ? 1 : up < 0 ? 0 : down / (down + up > 0 ? down + up : 1);
    return exp(below * (1 - t) + above * t) * f->total[i * PR_PLANE_COUNT];
}

static void share_out(const finder *f, pr_damage *out) {
    const pr_plane_set *set = &f->plan->set;
    for (uint32_t i = 0; i < set->n_tensors; i++) {
        const pr_plane_tensor *t = &set->tensors[i];
        const double *total = &f->total[i * PR_PLANE_COUNT];
        double kl2 = f->kl2[i] >= 0 ? f->kl2[i] : guess(f, i);
        for (uint32_t u = t->unit0; u < t->unit0 + t->n_units; u++) {
            const double *unit = &f->unit[u * PR_PLANE_COUNT];
            for (uint32_t p = 0; p < PR_PLANE_COUNT; p++) {
                double kl = 0;
                if (p < t->n_planes && total[p] > 0 && total[PR_PLANE_P2] > 0)
                    kl = kl2 * pow(total[p] / total[PR_PLANE_P2], f->exponent) * (unit[p] / total[p]);
                bool rises = p > 0 && kl > out[u].at[p - 1];
                out[u].at[p] = rises ? out[u].at[p - 1] : kl;
            }
        }
    }
}

static pr_status open_finder(finder *f, pr_err *err) {
    const pr_plane_set *set = &f->plan->set;
    f->total = pr_calloc(PR_TAG_SCRATCH, (size_t)set->n_tensors * PR_PLANE_COUNT, sizeof *f->total);
    f->unit = pr_calloc(PR_TAG_SCRATCH, (size_t)set->n_units * PR_PLANE_COUNT, sizeof *f->unit);
    f->kl2 = pr_calloc(PR_TAG_SCRATCH, set->n_tensors, sizeof *f->kl2);
    if (!f->total || !f->unit || !f->kl2) return pr_fail_nomem(err, "damages", set->n_units * sizeof(pr_damage));
    for (uint32_t i = 0; i < set->n_tensors; i++) f->kl2[i] = -1;
    return find_weights(f, err);
}

pr_status pr_damage_find(const pr__pack_plan *plan, const pr_damage_how *how, pr_damage *out, uint32_t *n_measured,
                         pr_err *err) {
    finder f = {.plan = plan, .how = *how};
    pr_status st = open_finder(&f, err);
    if (!st) {
        sum_losses(&f);
        if (how->measure) st = measure_all(&f, err);
    }
    if (!st) {
        choose_exponent(&f);
        share_out(&f, out);
        *n_measured = f.n_measured;
    }
    pr_free(f.weight);
    pr_free(f.total);
    pr_free(f.unit);
    pr_free(f.kl2);
    return st;
}
