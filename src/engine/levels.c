/*
 * Levels of elastic models: from names and budgets to a cursor on the file's list of increments.
 *
 * Everything the caller can ask for is a number of increments: a named level is one that the packer has chosen, a budget
 * is the largest that fits. Moving there is the residency's business (store/residency.h).
 */
#include <string.h>

#include "engine/engine_impl.h"

_Static_assert((int)PR_LEVEL_FP16 == (int)PR_PLANE_P16 && (int)PR_LEVELS == (int)PR_PLANE_COUNT,
               "a level for each plane");

/* ---- cursors ---------------------------------------------------------- */

static pr_level top_of(const struct pr_estimate *b) { return (pr_level)(b->planes->n_planes - 1); }

uint32_t pr__levels_cursor(const struct pr_estimate *b, pr_level level) {
    return b->planes->level_cursor[level < top_of(b) ? level : top_of(b)];
}

pr_level pr__levels_at(const struct pr_estimate *b, uint32_t cursor) {
    pr_level level = PR_LEVEL_INT2;
    while (level < top_of(b) && b->planes->level_cursor[level + 1] <= cursor) level++;
    return level;
}

/* The cursor of a budget for all weights, the ordinary ones counted. */
static pr_status budget_cursor(const struct pr_estimate *b, size_t bytes, uint32_t *cursor, pr_err *err) {
    size_t fixed = b->weights.bytes;
    char want[32], least[32];
    if (bytes >= fixed && pr_bytes_to_cursor(b->planes_at, b->planes->n_increments, bytes - fixed, cursor))
        return PR_OK;
    return pr_fail(err, PR_ERR_LIMIT, "a weights budget of %s is too small: this model's weights take at least %s",
                   pr_format_bytes(want, sizeof want, bytes),
                   pr_format_bytes(least, sizeof least, fixed + b->planes_at[0]));
}

pr_status pr__levels_plan(struct pr_estimate *b, pr_err *err) {
    b->planes = pr_model_file_planes(b->file);
    if (!b->planes) return PR_OK;
    uint32_t n = b->planes->n_increments;
    b->planes_at = pr_calloc(PR_TAG_GRAPH, (size_t)n + 1, sizeof *b->planes_at);
    if (!b->planes_at) return pr_fail_nomem(err, "increments", n * sizeof *b->planes_at);
    pr_plane_set_bytes(b->planes, b->planes_at);
    b->cursor = n;
    if (b->opts.weights_budget) return budget_cursor(b, b->opts.weights_budget, &b->cursor, err);
    if (b->opts.level_given) b->cursor = pr__levels_cursor(b, b->opts.level);
    return PR_OK;
}

/* ---- describing ------------------------------------------------------- */

/* Plane bytes as in the file, without the rounding to pages. */
static double bits_at(const pr_plane_set *set, uint32_t cursor) {
    uint64_t bytes = 0;
    for (uint32_t u = 0; u < set->n_units; u++) bytes += pr_plane_unit_bytes(set, u, PR_PLANE_P2);
    for (uint32_t i = 0; i < cursor; i++)
        bytes += pr_plane_unit_bytes(set, set->increments[i].unit, set->increments[i].plane);
    return (double)bytes * 8 / (double)set->n_weights;
}

static void describe_at(const struct pr_estimate *b, uint32_t cursor, pr_elastic_info *out) {
    size_t fixed = b->weights.bytes;
    uint32_t n = b->planes->n_increments;
    out->elastic = true;
    out->top = top_of(b);
    out->level = pr__levels_at(b, cursor);
    out->cursor = out->target = cursor;
    out->n_increments = n;
    out->bits_per_weight = bits_at(b->planes, cursor);
    out->kl = (double)b->planes->kl[cursor];
    uint32_t int2 = pr__levels_cursor(b, PR_LEVEL_INT2);
    out->measured = b->planes->n_measured > 0;
    out->kl_measured = out->measured && cursor <= b->planes->measured_to;
    out->int2_usable = out->measured && int2 <= b->planes->measured_to && (double)b->planes->kl[int2] <= PR_KL_USABLE;
    out->bytes = fixed + b->planes_at[cursor];
    out->bytes_min = fixed + b->planes_at[0];
    out->bytes_max = fixed + b->planes_at[n];
    for (int l = 0; l < PR_LEVELS; l++) {
        out->level_cursor[l] = pr__levels_cursor(b, (pr_level)l);
        out->level_bytes[l] = fixed + b->planes_at[out->level_cursor[l]];
    }
}

void pr_estimate_elastic(const pr_estimate *estimate, pr_elastic_info *out) {
    *out = (pr_elastic_info){0};
    if (estimate->planes) describe_at(estimate, estimate->cursor, out);
}

bool pr_estimate_increment(const pr_estimate *estimate, uint32_t n, size_t *bytes, size_t *peak, double *kl) {
    if (!estimate->planes || n > estimate->planes->n_increments) return false;
    *bytes = estimate->weights.bytes + estimate->planes_at[n];
    *peak = pr__peak_bytes(estimate, n);
    *kl = (double)estimate->planes->kl[n];
    return true;
}

void pr_engine_elastic(const pr_engine *engine, pr_elastic_info *out) {
    *out = (pr_elastic_info){0};
    if (!engine->residency) return;
    pr_residency_state now;
    pr_residency_state_get(engine->residency, &now);
    describe_at(&engine->blue, now.cursor, out);
    out->target = now.target;
    out->bytes = engine->blue.weights.bytes + now.bytes;
    memcpy(out->plane_bytes, now.plane_bytes, sizeof out->plane_bytes);
    out->moves_down = now.moves_down;
    out->moves_up = now.moves_up;
    out->drop_seconds = now.drop_seconds;
    out->raise_seconds = now.raise_seconds;
    out->raise_err = now.raise_err;
}

/* ---- moving ----------------------------------------------------------- */

static pr_status check_elastic(const pr_engine *e, pr_err *err) {
    if (e->residency) return PR_OK;
    return pr_fail(err, PR_ERR_UNSUPPORTED, "%s has one precision only; `precis pack` makes an elastic model of it",
                   pr_model_file_path(e->blue.file));
}

pr_status pr_engine_set_level(pr_engine *engine, pr_level level, pr_err *err) {
    pr_status st = check_elastic(engine, err);
    return st ? st : pr_residency_move(engine->residency, pr__levels_cursor(&engine->blue, level), err);
}

pr_status pr_engine_set_weights_budget(pr_engine *engine, size_t bytes, pr_err *err) {
    uint32_t cursor;
    pr_status st = check_elastic(engine, err);
    if (!st) st = budget_cursor(&engine->blue, bytes, &cursor, err);
    return st ? st : pr_residency_move(engine->residency, cursor, err);
}

pr_status pr_engine_settle(pr_engine *engine, double seconds, pr_err *err) {
    pr_status st = check_elastic(engine, err);
    return st ? st : pr_residency_settle(engine->residency, seconds, err);
}

void pr__engine_draft(pr_engine *engine, uint32_t n) {
    engine->draft_cursor = n;
    pr_residency_draft(engine->residency, n);
}
