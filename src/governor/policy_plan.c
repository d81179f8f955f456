/*
 * Policy: plans for models that are not there.
 */
#include <stdio.h>
#include <stdlib.h>

#include "governor/policy.h"

/* ---- calculate --------------------------------------------------------- */

/* Hundredths of a bit a weight. */
static const uint32_t centibits[PR_LEVELS] = {225, 450, 875, 1675};

uint64_t pr_gov_params_bytes(uint64_t n_params, pr_level level) {
    double bytes = (double)n_params * centibits[level] / 800;
    return bytes < 9e18 ? (uint64_t)bytes : (uint64_t)9e18;
}

void pr_gov_calculate(const pr_gov_settings *set, const pr_gov_snapshot *machine, uint64_t n_params,
                      pr_priority priority, pr_gov_estimate *out) {
    static const char *const precisions[PR_LEVELS] = {"2-bit", "4-bit", "8-bit", "16-bit"};
    pr_gov_snapshot snap = {.limit_bytes = machine->limit_bytes,
                            .used_bytes = machine->used_bytes,
                            .projected = machine->projected,
                            .top = PR_LEVEL_FP16,
                            .weight_bytes_max = machine->weight_bytes_max,
                            .n_params = n_params,
                            .levels_able = machine->levels_able,
                            .running = machine->running,
                            .queued = machine->queued,
                            .priority = priority};
    for (int i = 0; i < PR_LEVELS; i++) snap.level_bytes[i] = pr_gov_params_bytes(n_params, (pr_level)i);
    pr_gov_decision decision;
    pr_gov_decide(set, &snap, &decision);
    *out = (pr_gov_estimate){.level = decision.level, .precision = precisions[decision.level]};
    unsigned tenths = (16000 + centibits[decision.level] / 2) / centibits[decision.level]; /* no locale's comma */
    snprintf(out->compression_ratio, sizeof out->compression_ratio, "%u.%ux", tenths / 10, tenths % 10);
    out->estimated_memory_gb = (double)snap.level_bytes[decision.level] / 1e9;
    snprintf(out->reason, sizeof out->reason, "%s", decision.reason);
}
