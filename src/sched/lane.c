/*
 * Lanes: composing a step from running jobs, running it, delivering tokens.
 *
 * All jobs of a step run at one level. Most often that is the model's; jobs that force a lower one make batches of their
 * own, which take turns with the rest. Within a step decoding comes first, up to `parallel` rows; what prompt
 * tokens are fed beside it is bounded, since everybody waits for the whole step.
 */
#include "sched/lane.h"

#include <string.h>

#include "base/os.h"
#include "engine/serve.h"

enum { SESSIONS_MAX = 256, PROMPT_ROWS = 4, NEWCOMER_ROWS = 16 };

static const double stretch = 1.75;      /* of a step, so that what comes on top stays within 2 */
static const double prompt_seconds = 10; /* that a prompt may take, beside others */

pr__lane *pr__lane_new(const pr_model *model, pr_prefix_counts *counts) {
    pr__lane *lane = pr_calloc(PR_TAG_SESSION, 1, sizeof *lane);
    if (!lane) return NULL;
    lane->model = model;
    lane->counts = counts;
    lane->engine = pr_model_engine(model);
    lane->name = pr_strdup(PR_TAG_SESSION, pr_model_name(model));
    pr_engine_describe(lane->engine, &lane->info);
    pr_elastic_info elastic;
    pr_engine_elastic(lane->engine, &elastic);
    lane->elastic = elastic.elastic;
    lane->weights = lane->weights_sampled = lane->weights_due = elastic.bytes;
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

/* ---- jobs -------------------------------------------------------------- */

bool pr__lane_enter(pr__lane *lane, pr__job *job) {
    pr__party *p = lane->parties;
    while (p && p->key != job->key) p = p->next;
    if (!p) {
        p = pr_calloc(PR_TAG_SESSION, 1, sizeof *p);
        if (!p) return false;
        p->key = job->key;
        p->next = lane->parties;
        lane->parties = p;
    }
    p->n_jobs++;
    job->key->n_running++;
    job->party = p;
    pr__jobs_append(&lane->running, job);
    return true;
}

void pr__lane_leave(pr__lane *lane, pr__job *job) {
    pr__jobs_remove(&lane->running, job);
    job->key->n_running--;
    if (lane->running.n == 0) lane->plan = (pr_gov_plan){0}; /* nobody waits for a higher level */
    if (--job->party->n_jobs > 0) return;
    pr__party **at = &lane->parties;
    while (*at != job->party) at = &(*at)->next;
    *at = job->party->next;
    pr_free(job->party);
}

/* ---- composing --------------------------------------------------------- */

static pr_gov_session wish_of(const pr__job *j) {
    return (pr_gov_session){j->spec.floor_given, j->spec.force_given, j->spec.floor, j->spec.force};
}

/* Each job's level, or that it is parked. An ordinary model has no levels to choose from: everybody runs. */
static void judge(pr__lane *lane) {
    pr_gov_session sessions[SESSIONS_MAX];
    pr_gov_verdict verdicts[SESSIONS_MAX];
    size_t n = 0;
    for (const pr__job *j = lane->running.first; j && n < SESSIONS_MAX; j = j->link, n++)
        sessions[n] = lane->elastic ? wish_of(j) : (pr_gov_session){0};
    lane->levels.resident = pr_engine_level(lane->engine);
    pr_gov_plan_step(&lane->levels, sessions, n, verdicts, &lane->plan);
    n = 0;
    double now = pr_now();
    for (pr__job *j = lane->running.first; j && n < SESSIONS_MAX; j = j->link) {
        j->verdict = verdicts[n++];
        bool runs = j->verdict.kind == PR_GOV_RUN;
        if (runs && j->parked_at != 0) { /* its time begins anew where it stood still */
            j->admitted_at += now - j->parked_at;
            if (j->fed_at != 0) j->fed_at += now - j->parked_at;
            j->progress_at = now;
            j->parked_at = 0;
        }
        if (!runs && j->parked_at == 0) j->parked_at = now;
    }
}

/* A forced job shares the model's own step when that is exactly its level. */
static int batch_of(const pr__lane *lane, const pr__job *j, bool exact) {
    if (j->verdict.kind != PR_GOV_RUN) return -1;
    bool own = !lane->elastic || !j->spec.force_given || (exact && j->verdict.level == lane->plan.step);
    return own ? PR__OWN : (int)j->verdict.level;
}

/* Whose turn it is. A batch weighs as many keys as it has, a key with jobs in several counting a part in each: nobody gets
 * more by forcing many levels. -1: every job is parked. */
static int choose_batch(pr__lane *lane, bool exact) {
    double weight[PR__BATCHES] = {0};
    for (pr__party *p = lane->parties; p; p = p->next) p->batches = 0;
    for (const pr__job *j = lane->running.first; j; j = j->link) {
        int b = batch_of(lane, j, exact);
        if (b >= 0) j->party->batches |= 1u << b;
    }
    for (const pr__party *p = lane->parties; p; p = p->next)
        for (int b = 0; b < PR__BATCHES; b++)
            if (p->batches & 1u << b) weight[b] += 1.0 / __builtin_popcount(p->batches);
    return pr__fair_batch(&lane->stride, weight);
}

/* Add the jobs picked by turns to the step. decoding: jobs that decode, a row each; else prompts, a key's oldest first. */
static uint32_t add(pr__lane *lane, pr__step *step, bool decoding, bool exact, size_t most, uint32_t rows_max) {
    pr__job *jobs[SESSIONS_MAX];
    pr__turn turns[SESSIONS_MAX];
    size_t order[SESSIONS_MAX], n = 0;
    uint32_t rows = 0;
    int b = step->batch;
    for (pr__job *j = lane->running.first; j && n < SESSIONS_MAX; j = j->link) {
        if (pr__job_decoding(j) != decoding || batch_of(lane, j, exact) != b) continue;
        jobs[n] = j;
        if (decoding) turns[n++] = (pr__turn){&j->party->decode[b], j->turn_at, 1, false};
        else turns[n++] = (pr__turn){&j->party->prefill[b], j->id, (uint32_t)j->n_ids - j->n_fed, false};
    }
    size_t picked = pr__fair_pick(decoding ? &lane->decode[b] : &lane->prefill[b], turns, n, most, rows_max, order);
    for (size_t i = 0; i < picked; i++) {
        pr__job *j = jobs[order[i]];
        uint32_t take = turns[order[i]].rows;
        const int32_t *tokens = decoding ? &j->next : j->ids + j->n_fed;
        uint32_t logits = decoding || j->n_fed + take == j->n_ids;
        if (decoding) j->turn_at = j->party->decoded_at = lane->n_steps;
        step->jobs[step->n] = j;
        step->runs[step->n++] = (pr_run){j->session, tokens, take, logits};
        rows += take;
    }
    return rows;
}

/* ---- how much --------------------------------------------------------- */

/* Keys with jobs in the step's batch. */
static uint32_t keys_in(const pr__lane *lane, int batch) {
    uint32_t n = 0;
    for (const pr__party *p = lane->parties; p; p = p->next) n += p->batches >> batch & 1;
    return n;
}

/* How long a step may take where several keys share it: what each would get beside a single other stream, and some. */
static double bound_of(const pr__lane *lane) { return stretch * pr__pace_seconds(&lane->pace, 2); }

/* Decoding rows: where a row costs what a step does, many at once make everybody wait and gain nothing. */
static uint32_t decoding_rows(const pr__lane *lane, uint32_t keys, uint32_t most) {
    uint32_t rows = most, least = keys > 2 ? keys : 2;
    while (keys > 1 && rows > least && pr__pace_seconds(&lane->pace, rows) > bound_of(lane)) rows--;
    return rows;
}

/* Prompt rows beside decoding: with several keys, as long as this step takes anyway for a key that has nothing else in it; for
 * one that has, what is left of the bound. So many in any case that a long prompt is not for ever on its way. */
static uint32_t prompt_rows(const pr__lane *lane, const pr__step *step, uint32_t keys, uint32_t most) {
    bool newcomer = false;
    size_t longest = 0;
    if (keys < 2) return most;
    for (const pr__job *j = lane->running.first; j; j = j->link) {
        if (pr__job_decoding(j) || !(j->party->batches >> step->batch & 1)) continue;
        newcomer |= j->party->decoded_at != lane->n_steps;
        if (j->n_ids - j->n_fed > longest) longest = j->n_ids - j->n_fed;
    }
    double now = pr__pace_seconds(&lane->pace, step->decoding), least = newcomer ? NEWCOMER_ROWS : PROMPT_ROWS;
    uint32_t rows = pr__pace_prompt_rows(&lane->pace, newcomer ? now : bound_of(lane) - now, most);
    if (least < (double)longest * now / prompt_seconds) least = (double)longest * now / prompt_seconds;
    if (rows < least) rows = least < most ? (uint32_t)least : most;
    return rows;
}

bool pr__lane_compose(pr__lane *lane, const pr_sched_opts *opts, pr__step *step) {
    const pr_engine_info *info = &lane->info;
    step->n = 0;
    judge(lane);
    bool exact = pr_engine_level_exact(lane->engine);
    step->batch = choose_batch(lane, exact);
    if (step->batch < 0) return false;
    lane->n_steps++;
    uint32_t most = opts->parallel < info->logits_max ? opts->parallel : info->logits_max;
    if (most > info->batch_max) most = info->batch_max;
    uint32_t keys = keys_in(lane, step->batch);
    most = decoding_rows(lane, keys, most);
    uint32_t rows = step->decoding = add(lane, step, true, exact, most, most);
    uint32_t chunk = rows ? prompt_rows(lane, step, keys, opts->prefill_chunk) : info->batch_max;
    uint32_t room = info->batch_max - rows;
    uint32_t prompts = info->logits_max - rows < opts->parallel ? info->logits_max - rows : opts->parallel;
    step->prompt = add(lane, step, false, exact, prompts, chunk < room ? chunk : room);
    return step->n > 0;
}

/* ---- stepping ---------------------------------------------------------- */

static pr_status run(const pr__lane *lane, const pr__step *step, size_t first, size_t n, pr_err *err) {
    if (step->batch == PR__OWN) return pr_engine_step(lane->engine, step->runs + first, n, err);
    return pr_engine_step_at(lane->engine, step->runs + first, n, (pr_level)step->batch, err);
}

/* Of runs that have been computed: count, sample, hand on. Returns how many tokens. */
static uint32_t deliver(const pr__lane *lane, const pr__step *step, size_t first, size_t n) {
    pr_answer *answers[SESSIONS_MAX];
    size_t row = 0;
    for (size_t i = first; i < first + n; i++)
        if (step->runs[i].n_logits) answers[row++] = step->jobs[i]->answer;
    if (row > 1) pr_answers_draw(answers, row);
    row = 0;
    for (size_t i = first; i < first + n; i++) {
        pr__job *j = step->jobs[i];
        const pr_run *r = &step->runs[i];
        uint32_t cursor = pr_engine_step_cursor(lane->engine);
        j->done.steady = j->done.levels_used == 0 || (j->done.steady && j->done.cursor == cursor);
        j->done.cursor = cursor;
        j->done.level = pr_engine_step_level(lane->engine);
        j->done.levels_used |= 1u << j->done.level;
        j->progress_at = pr_now();
        if (!pr__job_decoding(j) && j->fed_at == 0) j->fed_at = j->progress_at;
        if (!pr__job_decoding(j)) j->n_fed += r->n_tokens;
        if (r->n_logits) pr__job_advance(j, row++);
    }
    return (uint32_t)row;
}

uint32_t pr__lane_step(pr__lane *lane, const pr__step *step) {
    pr_err err = {0};
    uint32_t tokens = 0;
    double begin = pr_now();
    if (run(lane, step, 0, step->n, &err) == PR_OK) {
        tokens = deliver(lane, step, 0, step->n);
        pr__pace_note(&lane->pace, step->decoding, step->prompt, pr_now() - begin);
        return tokens;
    }
    for (size_t i = 0; i < step->n; i++) { /* a refused step has changed nothing: let only those fail that must */
        if (run(lane, step, i, 1, &err) == PR_OK) tokens += deliver(lane, step, i, 1);
        else pr__job_fail(step->jobs[i], &err, 1);
    }
    return tokens;
}
