/*
 * Policy: requests against the model's level.
 *
 * A step computes one level for all its sessions, so a floor is a wish that raises everybody, and a forced level is a batch
 * of its own. What cannot be had is parked rather than run lower: the floor was the caller's condition.
 */
#include <assert.h>
#include <stdio.h>

#include "governor/policy.h"

static pr_level lower_of(pr_level a, pr_level b) { return a < b ? a : b; }

/* The level a session asks for: forced, its floor, or none (int2). */
static pr_level asked(const pr_gov_session *session, pr_level top) {
    pr_level level = PR_LEVEL_INT2;
    if (session->force_given) level = session->force;
    else if (session->floor_given) level = session->floor;
    return lower_of(level, top);
}

void pr_gov_plan_step(const pr_gov_levels *levels, const pr_gov_session *sessions, size_t n, pr_gov_verdict *verdicts,
                      pr_gov_plan *out) {
    pr_level top = levels->top, resident = lower_of(levels->resident, top), allowed = lower_of(levels->allowed, top);
    assert((unsigned)top < PR_LEVELS);
    *out = (pr_gov_plan){.step = lower_of(levels->level, resident)};
    for (size_t i = 0; i < n; i++) {
        pr_level want = asked(&sessions[i], top);
        verdicts[i] = (pr_gov_verdict){.kind = PR_GOV_RUN, .level = want};
        if (want > resident) verdicts[i].kind = want <= allowed ? PR_GOV_WAIT : PR_GOV_PARK;
        if (verdicts[i].kind == PR_GOV_RUN && !sessions[i].force_given && want > out->step) out->step = want;
        if (verdicts[i].kind == PR_GOV_WAIT && want > out->raise_to) out->raise_to = want;
    }
    out->raise = out->raise_to > resident;
    for (size_t i = 0; i < n; i++) {
        if (!sessions[i].force_given && verdicts[i].kind == PR_GOV_RUN) verdicts[i].level = out->step;
    }
}

bool pr_gov_admits(const pr_gov_levels *levels, const pr_gov_session *session, char reason[PR_GOV_REASON]) {
    pr_gov_verdict verdict;
    pr_gov_plan plan;
    pr_gov_plan_step(levels, session, 1, &verdict, &plan);
    reason[0] = '\0';
    if (verdict.kind != PR_GOV_PARK) return true;
    const char *what = session->force_given ? "force_quantization" : "min_quantization";
    pr_level most = levels->resident > levels->allowed ? levels->resident : levels->allowed;
    snprintf(reason, PR_GOV_REASON, "%s %s cannot be met: memory allows %s now", what, pr_level_name(verdict.level),
             pr_level_name(lower_of(most, levels->top)));
    return false;
}
