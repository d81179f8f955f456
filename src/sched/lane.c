/*
 * Lanes: composing a step from running jobs, running it, delivering tokens.
 *
 * All jobs of a step run at one level. Most often that is the model's; jobs that force a lower one make steps of their
 * own, in turns with the rest. Within a step decoding comes first, up to `parallel` rows; what prompt
 * tokens are fed beside it is bounded, since everybody waits for the whole step.
 */
#include "sched/lane.h"

#include <string.h>

#include "base/os.h"
#include "engine/serve.h"
#include "sched/fair.h"

enum { SESSIONS_MAX = 256 };

pr__lane *pr__lane_new(const pr_model *model) {
    pr__lane *lane = pr_calloc(PR_TAG_SESSION, 1, sizeof *lane);
    if (!lane) return NULL;
    lane->model = model;
    lane->engine = pr_model_engine(model);
    lane->name = pr_strdup(PR_TAG_SESSION, pr_model_name(model));
    pr_elastic_info elastic;
    pr_engine_elastic(lane->engine, &elastic);
    pr_level top = elastic.elastic ? elastic.top : PR_LEVEL_FP16, now = pr_engine_level(lane->engine);
    lane->levels = (pr_gov_levels){.level = now, .resident = now, .allowed = top, .top = top};
    if (lane->name) return lane;
    pr_free(lane);
    return NULL;
}

void pr__lane_free(pr__lane *lane) {
    if (!lane) return;
    pr__prefix_drop_all(lane);
    pr_free(lane->name);
    pr_free(lane);
}

/* ---- composing --------------------------------------------------------- */

/* Each job's level, or that it is parked. */
static void judge(pr__lane *lane) {
    pr_gov_session sessions[SESSIONS_MAX];
    pr_gov_verdict verdicts[SESSIONS_MAX];
    size_t n = 0;
    for (const pr__job *j = lane->running.first; j && n < SESSIONS_MAX; j = j->link, n++)
        sessions[n] = (pr_gov_session){j->spec.floor_given, j->spec.force_given, j->spec.floor, j->spec.force};
    lane->levels.resident = pr_engine_level(lane->engine);
    pr_gov_plan_step(&lane->levels, sessions, n, verdicts, &lane->plan);
    n = 0;
    for (pr__job *j = lane->running.first; j && n < SESSIONS_MAX; j = j->link, n++) {
        j->verdict = verdicts[n];
        if (j->verdict.kind == PR_GOV_RUN) j->parked_at = 0;
        else if (j->parked_at == 0) j->parked_at = pr_now();
    }
}

/* The level of this step: that of the jobs whose turn it is; false when every job is parked. */
static bool choose_level(pr__lane *lane, pr_level *level) {
    const pr__job *own = NULL, *forced = NULL;
    for (const pr__job *j = lane->running.first; j; j = j->link) {
        if (j->verdict.kind != PR_GOV_RUN) continue;
        const pr__job **kind = j->verdict.level == lane->plan.step ? &own : &forced;
        if (!*kind || j->key->served < (*kind)->key->served) *kind = j;
    }
    lane->decode_turn = !lane->decode_turn;
    const pr__job *pick = own && (lane->decode_turn || !forced) ? own : forced;
    if (!pick) return false;
    *level = pick->verdict.level;
    return true;
}

static bool runs_at(const pr__job *j, pr_level level) {
    return j->verdict.kind == PR_GOV_RUN && j->verdict.level == level;
}

/* Add the jobs picked by turns to the step. decoding: jobs that decode, a row each; else prompts, up to rows_max in all. */
static uint32_t add(const pr__lane *lane, pr__step *step, bool decoding, size_t most, uint32_t rows_max) {
    pr__job *jobs[SESSIONS_MAX];
    pr__turn turns[SESSIONS_MAX];
    size_t order[SESSIONS_MAX], n = 0;
    uint32_t rows = 0;
    for (pr__job *j = lane->running.first; j && n < SESSIONS_MAX; j = j->link) {
        if (pr__job_decoding(j) != decoding || !runs_at(j, step->level)) continue;
        uint32_t left = (uint32_t)j->n_ids - j->n_fed;
        jobs[n] = j;
        turns[n++] = (pr__turn){j->key, j->key->served, j->served,
                                decoding          ? 1
                                : left < rows_max ? left
                                                  : rows_max,
                                false};
    }
    size_t picked = pr__fair_pick(turns, n, most, decoding ? most : UINT64_MAX, order);
    for (size_t i = 0; i < picked && rows < rows_max; i++) {
        pr__job *j = jobs[order[i]];
        uint32_t want = turns[order[i]].rows, take = want < rows_max - rows ? want : rows_max - rows;
        const int32_t *tokens = decoding ? &j->next : j->ids + j->n_fed;
        uint32_t logits = decoding || j->n_fed + take == j->n_ids;
        step->jobs[step->n] = j;
        step->runs[step->n++] = (pr_run){j->session, tokens, take, logits};
        rows += take;
    }
    return rows;
}

bool pr__lane_compose(pr__lane *lane, const pr_sched_opts *opts, pr__step *step) {
    pr_engine_info info;
    pr_engine_describe(lane->engine, &info);
    step->n = 0;
    judge(lane);
    if (!choose_level(lane, &step->level)) return false;
    size_t most = opts->parallel < info.logits_max ? opts->parallel : info.logits_max;
    if (most > info.batch_max) most = info.batch_max;
    uint32_t rows = add(lane, step, true, most, info.batch_max);
    uint32_t chunk = rows ? opts->prefill_chunk : info.batch_max, room = info.batch_max - rows;
    size_t prompts = info.logits_max - rows < opts->parallel ? info.logits_max - rows : opts->parallel;
    add(lane, step, false, prompts, chunk < room ? chunk : room);
    return step->n > 0;
}

/* ---- stepping ---------------------------------------------------------- */

uint32_t pr__lane_step(pr__lane *lane, const pr__step *step) {
    pr_err err = {0};
    size_t row = 0;
    uint32_t decoded = 0;
    pr_level level = pr_engine_level(lane->engine);
    pr_status st = pr_engine_step_at(lane->engine, step->runs, step->n, step->level, &err);
    for (size_t i = 0; i < step->n; i++) {
        pr__job *j = step->jobs[i];
        const pr_run *run = &step->runs[i];
        if (st) {
            pr__job_fail(j, &err, 1);
            continue;
        }
        bool decoding = pr__job_decoding(j);
        j->done.level = step->level < level ? step->level : level; /* what was asked for, or all there is */
        j->done.levels_used |= 1u << j->done.level;
        j->served += run->n_tokens;
        j->key->served += run->n_tokens;
        j->progress_at = pr_now();
        if (!decoding) j->n_fed += run->n_tokens;
        if (run->n_logits) pr__job_advance(j, row++);
        decoded += decoding;
    }
    return decoded;
}
