/*
 * Generation: prefill, then sample and feed back until something ends it.
 *
 * A round of speculation can take the place of a step: some tokens are drafted, by an elastic model at a lower level or from
 * what followed the same words earlier in the text; one
 * step at the full level gives the logits after each of them, and as long as the real choice is the drafted one the next
 * row is as good as a step. Draws are numbered by token, so draft and real choice use the same random number: they
 * agree often, and what comes out is the very text that plain decoding gives.
 */
#include "engine/answer.h"
#include "engine/engine_impl.h"
#include "engine/serve.h"

typedef struct generation {
    pr_session *session;
    const pr_generate_opts *opts;
    pr_generate_stats *stats;
    pr_answer *answer;
    pr__lookup found; /* for the end of the text as it is */
} generation;

/* ---- speculation ------------------------------------------------------- */

/* What may be drafted at: the policy begins anew when the model's level has moved. */
static void follow_level(pr_engine *e) {
    pr_residency_state now = {0};
    if (e->residency) pr_residency_state_get(e->residency, &now);
    if (e->spec.cursor == now.cursor && e->spec.probe_gap) return;
    if (!e->residency) {
        pr__spec_reset(&e->spec, 0, NULL, NULL, 0, 0);
        return;
    }
    uint32_t cursors[] = {pr__levels_cursor(&e->blue, PR_LEVEL_INT2), pr__levels_cursor(&e->blue, PR_LEVEL_INT4)};
    uint64_t bytes[] = {e->blue.planes_at[cursors[0]], e->blue.planes_at[cursors[1]]};
    pr__spec_reset(&e->spec, now.cursor, cursors, bytes, 2, e->blue.planes_at[now.cursor]);
}

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* Drafts to make after `token`, which is not fed yet: 0 for a plain step. A round of k feeds k + 1 tokens and gives at most as
 * many. */
static pr__spec_choice choose(generation *g, int32_t token) {
    pr_session *s = g->session;
    const pr_engine_opts *o = &s->engine->blue.opts;
    const int32_t *text = g->opts->speculate ? pr_session_tokens_and(s, token) : NULL;
    if (!text) return (pr__spec_choice){0, 0};
    follow_level(s->engine);
    g->found = pr__lookup_find(text, s->kv.n_tokens + 1);
    uint32_t most = least(o->context_max - s->kv.n_tokens, least(o->logits_max, o->batch_max));
    if (g->opts->max_tokens) most = least(most, g->opts->max_tokens - g->stats->n_generated);
    return pr__spec_choose(&s->engine->spec, g->opts->speculate, (int)least(most, PR_SPECULATE_MAX + 1) - 1,
                           pr__spec_lookup_arm(g->found));
}

/* What came after the text that g->found is for: was it what was found? */
static void judge(const generation *g, uint32_t n_text, int32_t token) {
    int32_t first;
    if (!g->found.length) return;
    pr__lookup_drafts(g->session->history, n_text, g->found, &first, 1);
    pr__spec_judge(&g->session->engine->spec, pr__spec_lookup_arm(g->found), first == token);
}

/* Draft c.k tokens after tokens[0]; the session is left as it was. */
static pr_status draft(const generation *g, pr__spec_choice c, int32_t *tokens, pr_err *err) {
    pr_session *s = g->session;
    uint32_t base = s->kv.n_tokens, cursor = s->engine->spec.arms[c.arm].cursor;
    pr_status st = PR_OK;
    if (c.arm >= PR__SPEC_LEVELS) {
        pr__lookup_drafts(s->history, base + 1, g->found, tokens + 1, (uint32_t)c.k);
        return PR_OK;
    }
    if (s->engine->draft_cursor != cursor) pr__engine_draft(s->engine, cursor);
    for (int i = 0; i < c.k && !st; i++) {
        st = pr__engine_step(s->engine, &(pr_run){s, &tokens[i], 1, 1}, 1, PR_VIEW_DRAFT, UINT8_MAX, err);
        uint32_t draw = g->stats->n_generated + (uint32_t)i;
        if (!st) st = pr_answer_sample(g->answer, 0, s->kv.n_tokens, draw, &tokens[i + 1], err);
    }
    pr_kv_seq_truncate(&s->kv, base);
    return st;
}

/* One round: *token, not fed yet, then as many of the drafts as come out right. *token becomes the last one delivered. */
static pr_status speculate(const generation *g, pr__spec_choice c, int32_t *token, pr_err *err) {
    pr_session *s = g->session;
    int32_t tokens[PR_SPECULATE_MAX + 1] = {*token};
    uint32_t base = s->kv.n_tokens, n = (uint32_t)c.k + 1, i = 0;
    double start = pr_now();
    pr_status st = draft(g, c, tokens, err);
    double drafted = pr_now();
    if (!st) st = pr_engine_step(s->engine, &(pr_run){s, tokens, n, n}, 1, err);
    if (st) return st;
    double verified = pr_now();
    bool right = true;
    for (; i < n && right && !st && !g->stats->finish; i++) {
        st = pr_answer_next(g->answer, i, base + 1 + i, token, err);
        right = i + 1 < n && *token == tokens[i + 1];
        if (i == 0 && !st && c.arm < PR__SPEC_LEVELS) judge(g, base + 1, *token);
    }
    pr_kv_seq_truncate(&s->kv, base + i); /* what was delivered last has not been fed */
    uint32_t judged = i < n ? i : n - 1, good = right || i == n ? judged : i - 1;
    g->stats->n_drafted += (uint32_t)c.k;
    g->stats->n_accepted += good;
    pr__spec_round(&s->engine->spec, c, drafted - start, verified - drafted, (int)judged, (int)good);
    return st;
}

/* ---- the loop ---------------------------------------------------------- */

static pr_status plain_step(const generation *g, int32_t *token, pr_err *err) {
    pr_session *s = g->session;
    double start = pr_now();
    pr_status st = pr_engine_step(s->engine, &(pr_run){s, token, 1, 1}, 1, err);
    if (st) return st;
    pr__spec_plain(&s->engine->spec, pr_now() - start);
    st = pr_answer_next(g->answer, 0, s->kv.n_tokens, token, err);
    if (!st) judge(g, s->kv.n_tokens, *token);
    return st;
}

static pr_status generate(generation *g, pr_err *err) {
    int32_t token;
    double decode_start = pr_now();
    pr_status st = pr_answer_next(g->answer, 0, g->session->kv.n_tokens, &token, err);
    while (!st && !g->stats->finish) {
        pr__spec_choice c = choose(g, token);
        st = c.k ? speculate(g, c, &token, err) : plain_step(g, &token, err);
        if (st == PR_ERR_LIMIT && c.k) st = plain_step(g, &token, err); /* no pages for drafts: go on without */
    }
    g->stats->decode_seconds = pr_now() - decode_start;
    if (!st && g->stats->finish != PR_FINISH_CANCELLED) pr_answer_flush(g->answer);
    return st;
}

static pr_status check(const pr_generate_opts *opts, size_t n_prompt, pr_err *err) {
    if (n_prompt == 0) return pr_fail(err, PR_ERR_ARG, "the prompt is empty");
    if (opts->speculate >= PR_SPECULATE_AUTO && opts->speculate <= PR_SPECULATE_MAX) return PR_OK;
    return pr_fail(err, PR_ERR_ARG, "speculate is %d; 0 to %d drafts are possible, or %d for as many as pay",
                   opts->speculate, PR_SPECULATE_MAX, PR_SPECULATE_AUTO);
}

pr_status pr_session_generate(pr_session *session, const int32_t *prompt, size_t n_prompt, const pr_generate_opts *opts,
                              pr_generate_stats *stats, pr_err *err) {
    pr_generate_stats own;
    if (!stats) stats = &own;
    *stats = (pr_generate_stats){0};
    generation g = {.session = session, .opts = opts, .stats = stats};
    pr_status st = check(opts, n_prompt, err);
    if (!st) st = pr_answer_open(session, opts, stats, &g.answer, err);
    if (st) return st;
    double start = pr_now();
    uint32_t before = session->kv.n_tokens;
    st = pr_session_prefill(session, prompt, n_prompt, opts->cancel, err);
    stats->n_prompt = session->kv.n_tokens - before;
    if (!st) {
        stats->prefill_seconds = pr_now() - start;
        st = generate(&g, err);
    } else if (st == PR_ERR_CANCELLED) {
        stats->finish = PR_FINISH_CANCELLED;
        st = PR_OK;
    }
    pr_answer_close(g.answer);
    return st;
}
