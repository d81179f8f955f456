/*
 * Lanes: composing a step from running jobs, running it, delivering tokens.
 *
 * All jobs of a step run at one level. Most often that is the model's; jobs that force a lower one make batches of their
 * own, which take turns with the rest. Within a step decoding comes first, up to `parallel` rows, then prompts of keys that wait
 * for a first token, then others. Where several keys share it all three are bounded, since everybody waits for the whole
 * step: docs/SCHEDULER.md says how, and what else was tried.
 */
#include "sched/lane.h"

#include <string.h>

#include "base/os.h"
#include "engine/serve.h"

enum { SESSIONS_MAX = 256, PROMPT_ROWS = 4, FRESH_ROWS = 16, SHARED_STEPS = 256 };

static const double stretch = 1.75; /* of a step, so that what comes on top stays within 2 */
static const double fresh_share =
    2; /* of the decoding's time, for the prompt of a key that waits for its first token */
static const double lately_share = 1.5;  /* of a full step's time, where a key that left may be back */
static const double prompt_seconds = 10; /* that a prompt may take, beside others */

pr__lane *pr__lane_new(const pr_model *model, pr_prefix_counts *counts) {
    pr__lane *lane = pr_calloc(PR_TAG_SESSION, 1, sizeof *lane);
    if (!lane) return NULL;
    lane->model = model;
    lane->counts = counts;
    lane->engine = pr_model_engine(model);
    lane->name = pr_strdup(PR_TAG_SESSION, pr_model_name(model));
    pr_status st = pr_radix_open(pr_engine_pool(lane->engine), &lane->prefixes, NULL);
    pr_engine_describe(lane->engine, &lane->info);
    pr_elastic_info elastic;
    pr_engine_elastic(lane->engine, &elastic);
    lane->elastic = elastic.elastic;
    lane->weights = lane->weights_sampled = lane->weights_due = elastic.bytes;
    pr_level top = elastic.elastic ? elastic.top : PR_LEVEL_FP16, now = pr_engine_level(lane->engine);
    lane->levels = (pr_gov_levels){.level = now, .resident = now, .allowed = top, .top = top};
    if (lane->name && !st) return lane;
    pr__lane_free(lane);
    return NULL;
}

void pr__lane_free(pr__lane *lane) {
    if (!lane) return;
    if (lane->prefixes) pr__prefix_drop_all(lane);
    pr_radix_close(lane->prefixes);
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

/* What a job wants of a step. A key that has nothing decoding in the batch is fresh: its prompt goes before others'. */
static pr__want want_of(const pr__job *j) {
    return pr__job_decoding(j) ? PR__DECODE : j->party->decodes ? PR__PROMPT : PR__FRESH_PROMPT;
}

/* Add the jobs picked by turns to the step: those that decode, a row each; or prompts, a key's oldest first. */
static uint32_t add(pr__lane *lane, pr__step *step, pr__want want, bool exact, size_t most, uint32_t rows_max) {
    pr__job *jobs[SESSIONS_MAX];
    pr__turn turns[SESSIONS_MAX];
    size_t order[SESSIONS_MAX], n = 0;
    uint32_t rows = 0;
    int b = step->batch;
    for (pr__job *j = lane->running.first; j && n < SESSIONS_MAX; j = j->link) {
        if (want_of(j) != want || batch_of(lane, j, exact) != b) continue;
        bool decodes = want == PR__DECODE;
        jobs[n] = j;
        turns[n++] = (pr__turn){&j->party->shares[want][b], decodes ? j->turn_at : j->id,
                                decodes ? 1 : (uint32_t)j->n_ids - j->n_fed, false};
    }
    size_t picked = pr__fair_pick(&lane->queues[want][b], turns, n, most, rows_max, order);
    for (size_t i = 0; i < picked; i++) {
        pr__job *j = jobs[order[i]];
        uint32_t take = turns[order[i]].rows;
        bool decodes = want == PR__DECODE;
        const int32_t *tokens = decodes ? &j->next : j->ids + j->n_fed;
        uint32_t logits = decodes || j->n_fed + take == j->n_ids;
        if (decodes) j->turn_at = lane->n_steps;
        step->jobs[step->n] = j;
        step->runs[step->n++] = (pr_run){j->session, tokens, take, logits};
        rows += take;
    }
    return rows;
}

/* ---- how much --------------------------------------------------------- */

/* Who shares the step's batch. */
typedef struct company {
    uint32_t keys;
    bool lately;        /* there were several just now: one of them may be back any moment */
    size_t fresh, more; /* the longest prompts still to be fed: of keys that have nothing decoding in it; of others */
} company;

static company company_of(pr__lane *lane, int batch, bool exact) {
    company c = {0};
    for (pr__party *p = lane->parties; p; p = p->next) {
        c.keys += p->batches >> batch & 1;
        p->decodes = false;
    }
    if (c.keys > 1) lane->shared_until = lane->n_steps + SHARED_STEPS;
    c.lately = lane->n_steps < lane->shared_until;
    for (const pr__job *j = lane->running.first; j; j = j->link)
        if (pr__job_decoding(j) && batch_of(lane, j, exact) == batch) j->party->decodes = true;
    for (const pr__job *j = lane->running.first; j; j = j->link) {
        size_t left = j->n_ids - j->n_fed, *longest = j->party->decodes ? &c.more : &c.fresh;
        if (left > *longest && batch_of(lane, j, exact) == batch) *longest = left;
    }
    return c;
}

/* How long a step may take where several keys share it: what each would get beside a single other stream, and some. */
static double bound_of(const pr__lane *lane) { return stretch * pr__pace_seconds(&lane->pace, 2); }

/* Decoding rows: where a row costs what a step does, many at once make everybody wait and gain nothing. */
static uint32_t decoding_rows(const pr__lane *lane, const company *c, uint32_t most) {
    uint32_t rows = most, least = c->keys > 2 ? c->keys : 2;
    double room = bound_of(lane) - (c->more ? PROMPT_ROWS * lane->pace.prompt_row : 0);
    while (c->keys > 1 && rows > least && pr__pace_seconds(&lane->pace, rows) > room) rows--;
    return rows;
}

/* Rows of prompts of which the longest has so many left, beside decoding that takes `now`: as many as take so many seconds,
 * but at least some, and so many that a long one is not for ever on its way. */
static uint32_t prompt_rows(const pr__lane *lane, size_t longest, double now, double seconds, uint32_t least,
                            uint32_t most) {
    double through = (double)longest * now / prompt_seconds;
    uint32_t rows = pr__pace_prompt_rows(&lane->pace, seconds, most);
    if (rows < through) rows = through < most ? (uint32_t)through : most;
    if (rows < least) rows = least;
    return rows < most ? rows : most;
}

static void add_prompts(pr__lane *lane, const pr_sched_opts *opts, const company *c, bool exact, pr__step *step) {
    const pr_engine_info *info = &lane->info;
    double now = pr__pace_seconds(&lane->pace, step->decoding), full = pr__pace_seconds(&lane->pace, opts->parallel);
    uint32_t fresh = opts->prefill_chunk, more = opts->prefill_chunk, room = info->batch_max - step->decoding;
    uint32_t places = info->logits_max - step->decoding;
    if (places > opts->parallel) places = opts->parallel;
    if (c->keys > 1 && step->decoding) fresh = prompt_rows(lane, c->fresh, now, fresh_share * now, FRESH_ROWS, fresh);
    else if (!c->lately) fresh = room; /* nobody waits for the end of the step */
    if (c->keys > 1) more = prompt_rows(lane, c->more, now, bound_of(lane) - now, PROMPT_ROWS, more);
    else if (c->lately) more = prompt_rows(lane, c->more, now, lately_share * full - now, PROMPT_ROWS, more);
    size_t n = step->n;
    step->prompt = add(lane, step, PR__FRESH_PROMPT, exact, places, fresh < room ? fresh : room);
    room -= step->prompt;
    places -= (uint32_t)(step->n - n);
    step->prompt += add(lane, step, PR__PROMPT, exact, places, more < room ? more : room);
}

bool pr__lane_compose(pr__lane *lane, const pr_sched_opts *opts, pr__step *step) {
    const pr_engine_info *info = &lane->info;
    step->n = 0;
    judge(lane);
    bool exact = pr_engine_level_exact(lane->engine);
    step->batch = choose_batch(lane, exact);
    if (step->batch < 0) return false;
    lane->n_steps++;
    company c = company_of(lane, step->batch, exact);
    uint32_t most = opts->parallel < info->logits_max ? opts->parallel : info->logits_max;
    if (most > info->batch_max) most = info->batch_max;
    most = decoding_rows(lane, &c, most);
    step->decoding = add(lane, step, PR__DECODE, exact, most, most);
    add_prompts(lane, opts, &c, exact, step);
    pr__draft_add(lane, step, opts->drafts);
    return step->n > 0;
}

/* ---- stepping ---------------------------------------------------------- */

static pr_status run(const pr__lane *lane, const pr__step *step, size_t first, size_t n, pr_err *err) {
    if (step->batch == PR__OWN) return pr_engine_step(lane->engine, step->runs + first, n, err);
    return pr_engine_step_at(lane->engine, step->runs + first, n, (pr_level)step->batch, err);
}

/* Of runs that have been computed, in so many seconds: count, sample, hand on. Returns how many tokens. */
static uint32_t deliver(pr__lane *lane, const pr__step *step, size_t first, size_t n, double seconds) {
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
        if (step->alone) return pr__draft_deliver(lane, step, seconds);
        if (r->n_logits) pr__job_advance(j, row++, pr_session_length(j->session));
    }
    return (uint32_t)row;
}

uint32_t pr__lane_step(pr__lane *lane, pr__step *step) {
    pr_err err = {0};
    uint32_t tokens = 0;
    double begin = pr_now();
    if (run(lane, step, 0, step->n, &err) == PR_OK) {
        uint32_t rows = step->alone ? step->runs[0].n_tokens : step->decoding;
        tokens = deliver(lane, step, 0, step->n, pr_now() - begin);
        pr__pace_note(&lane->pace, rows, step->prompt, pr_now() - begin);
        return tokens;
    }
    pr__draft_drop(step);
    for (size_t i = 0; i < step->n; i++) { /* a refused step has changed nothing: let only those fail that must */
        if (run(lane, step, i, 1, &err) == PR_OK) tokens += deliver(lane, step, i, 1, 0);
        else pr__job_fail(step->jobs[i], &err, 1);
    }
    return tokens;
}
