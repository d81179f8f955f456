/*
 * Drafts for a job that runs alone: what followed the same words earlier in its text (engine/lookup.h), checked in one step.
 *
 * With several jobs a step is full of rows already, and rows are what drafts cost; or the others wait for its end. A
 * model's own drafts at a lower level are left to pr_session_generate(): they take steps of their own, for which others would have to wait.
 */
#include "engine/serve.h"
#include "sched/lane.h"

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* What steps take changes with the level. */
static void follow_level(pr__lane *lane) {
    pr__spec *spec = &lane->drafts.spec;
    uint32_t cursor = 0, unused[PR_LEVELS];
    (void)pr_engine_cursors(lane->engine, &cursor, unused);
    if (spec->cursor != cursor || !spec->probe_gap) pr__spec_reset(spec, cursor, NULL, NULL, 0, 0);
}

void pr__draft_add(pr__lane *lane, pr__step *step, uint32_t most) {
    pr__drafts *d = &lane->drafts;
    step->alone = most > 0 && lane->running.n == 1 && step->decoding == 1 && step->batch == PR__OWN;
    if (!step->alone) return;
    const pr__job *job = step->jobs[0];
    uint32_t length = pr_session_length(job->session);
    const int32_t *text = pr_session_tokens_and(job->session, job->next);
    d->found = (pr__lookup){0};
    d->choice = (pr__spec_choice){0};
    if (!text) return;
    follow_level(lane);
    d->found = pr__lookup_find(text, length + 1);
    uint32_t rows = least(lane->info.logits_max, lane->info.batch_max);
    rows = least(rows, least(lane->info.context_max - length, job->n_new - job->stats.n_generated));
    if (rows < 1) return;
    d->choice = pr__spec_choose(&d->spec, PR_SPECULATE_AUTO, (int)least(rows - 1, most), pr__spec_lookup_arm(d->found));
    uint32_t k = (uint32_t)d->choice.k;
    if (!k) return;
    d->tokens[0] = job->next;
    pr__lookup_drafts(text, length + 1, d->found, d->tokens + 1, k);
    step->runs[0] = (pr_run){job->session, d->tokens, k + 1, k + 1};
}

void pr__draft_drop(pr__step *step) {
    if (step->alone) step->runs[0] = (pr_run){step->jobs[0]->session, &step->jobs[0]->next, 1, 1};
    step->alone = false;
}

uint32_t pr__draft_deliver(pr__lane *lane, const pr__step *step, double seconds) {
    pr__drafts *d = &lane->drafts;
    pr__job *job = step->jobs[0];
    uint32_t n = step->runs[0].n_tokens, before = pr_session_length(job->session) - n, i = 0;
    int32_t first = 0; /* that was found */
    if (d->found.length) pr__lookup_drafts(pr_session_tokens(job->session), before + 1, d->found, &first, 1);
    bool right = true, ended = false;
    for (; i < n && right && !ended; i++) {
        ended = pr__job_advance(job, i, before + 1 + i);
        right = i + 1 < n && job->next == d->tokens[i + 1];
        if (n == 1 && !ended) pr__spec_judge(&d->spec, pr__spec_lookup_arm(d->found), job->next == first);
    }
    (void)pr_session_truncate(job->session, before + i, NULL); /* what was delivered last has not been fed */
    if (n == 1) {
        pr__spec_plain(&d->spec, seconds);
        return i;
    }
    uint32_t judged = least(i, n - 1), good = right || i == n ? judged : i - 1;
    job->stats.n_drafted += n - 1;
    job->stats.n_accepted += good;
    pr__spec_round(&d->spec, d->choice, 0, seconds, (int)judged, (int)good);
    return i;
}
