/*
 * Lowering: the order of the passes, and their names.
 *
 * Order matters in three places: rows first, while operations are still apart;
 * gate before qkv, which would otherwise merge gate and up as a plain pair;
 * layout after the fusions, so that each input is quantized once, and norm
 * after layout. dead comes last and sweeps up behind all of them.
 */
#include "graph/passes.h"

#include <string.h>

#include "store/convert.h"
#include "store/planes.h"

static const struct {
    const char *name;
    uint32_t bit;
} pass_names[] = {
    {"fold", PR_PASS_FOLD},         {"rows", PR_PASS_ROWS},     {"gate", PR_PASS_GATE}, {"qkv", PR_PASS_QKV},
    {"residual", PR_PASS_RESIDUAL}, {"layout", PR_PASS_LAYOUT}, {"norm", PR_PASS_NORM}, {"dead", PR_PASS_DEAD},
};

const char *pr_pass_names(void) { return "fold, rows, gate, qkv, residual, layout, norm, dead"; }

bool pr_pass_by_name(const char *name, uint32_t *bit) {
    for (size_t i = 0; i < sizeof pass_names / sizeof *pass_names; i++) {
        if (strcmp(name, pass_names[i].name) != 0) continue;
        *bit = pass_names[i].bit;
        return true;
    }
    return false;
}

bool pr_matrix_wants_q8(const pr_tensor_info *t, bool exact) {
    pr_pack pack;
    pr_loss loss;
    if (exact || pr_convert_plan(t->dtype, exact, &pack, &loss, NULL)) return false;
    return pack == PR_PACK_Q8 || pack == PR_PACK_Q4 || pack == PR_PACK_PLANES;
}

bool pr_matrix_wants_both(const pr_tensor_info *t) { return t->planes && t->planes->n_planes == PR_PLANE_COUNT; }

pr_status pr_graph_lower(pr_graph *g, const pr_lower_opts *opts, pr_err *err) {
    pr_status st = PR_OK;
    uint32_t off = opts->passes_off;
    if (!(off & PR_PASS_FOLD)) st = pr__pass_fold(g, err);
    if (!st && !(off & PR_PASS_ROWS)) st = pr__pass_rows(g, err);
    if (!st && !(off & PR_PASS_GATE)) st = pr__pass_gate(g, opts->exact, err);
    if (!st && !(off & PR_PASS_QKV)) st = pr__pass_qkv(g, opts->exact, err);
    if (!st && !(off & PR_PASS_RESIDUAL)) st = pr__pass_residual(g, err);
    if (!st && !(off & PR_PASS_LAYOUT)) st = pr__pass_layout(g, opts->exact, err);
    if (!st && !(off & PR_PASS_NORM)) st = pr__pass_norm(g, err);
    if (!st && !(off & PR_PASS_DEAD)) st = pr__pass_dead(g, err);
    return st;
}
