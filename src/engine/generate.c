/*
 * Generation: prefill, then sample and feed back until something ends it.
 *
 * Text goes out through two filters: the detokenizer holds back bytes until a
 * character is whole, the stop matcher holds back what could become a stop
 * string. Everything is allocated before the first token.
 *
 * With an elastic model a round of speculation can take the place of a step: some tokens are drafted at a lower level, one
 * step at the full level gives the logits after each of them, and as long as the real choice is the drafted one the next
 * row is as good as a step. Draws are numbered by token, so draft and real choice use the same random number: they
 * agree often, and what comes out is the very text that plain decoding gives.
 */
#include <math.h>

#include "engine/engine_impl.h"
#include "sample/sample.h"
#include "sample/stop.h"

typedef struct generation {
    pr_session *session;
    const pr_generate_opts *opts;
    pr_generate_stats *stats;
    pr_cand *cands;
    pr_stop *stop;
    pr_detok detok;
    char *piece; /* [piece_cap] */
    size_t piece_cap;
    double start;
} generation;

static void generation_close(generation *g) {
    pr_free(g->cands);
    pr_free(g->piece);
    pr_stop_close(g->stop);
}

/* Output matrices are often padded beyond the vocabulary: those rows are no tokens. */
static size_t sampled_vocab(const pr_engine *e) {
    size_t n = pr_vocab_size(e->vocab);
    return n < e->blue.desc.n_vocab ? n : e->blue.desc.n_vocab;
}

static pr_status generation_open(generation *g, pr_err *err) {
    const pr_engine *e = g->session->engine;
    size_t n_vocab = sampled_vocab(e);
    pr_status st = pr_sample_check(&g->opts->sample, n_vocab, err);
    if (st) return st;
    if (g->opts->speculate < PR_SPECULATE_AUTO || g->opts->speculate > PR_SPECULATE_MAX)
        return pr_fail(err, PR_ERR_ARG, "speculate is %d; 0 to %d drafts are possible, or %d for as many as pay",
                       g->opts->speculate, PR_SPECULATE_MAX, PR_SPECULATE_AUTO);
    g->cands = pr_calloc(PR_TAG_SESSION, n_vocab, sizeof *g->cands);
    g->piece_cap = pr_vocab_piece_max(e->vocab) + 16;
    g->piece = pr_alloc(PR_TAG_SESSION, g->piece_cap);
    if (!g->cands || !g->piece) return pr_fail_nomem(err, "sampling buffers", n_vocab * sizeof *g->cands);
    pr_detok_init(&g->detok, e->vocab, false, false);
    return pr_stop_open(g->opts->stop, g->opts->n_stop, &g->stop, err);
}

/* Hand text on; false when the receiver has had enough. */
static bool emit(const generation *g, const pr_stop_out *out) {
    const pr_generate_opts *o = g->opts;
    if (!o->on_text) return true;
    if (out->head_len && !o->on_text(o->arg, out->head, out->head_len)) return false;
    return !out->body_len || o->on_text(o->arg, out->body, out->body_len);
}

/* Pass one token's text on; sets the reason when that ends the answer. */
static pr_status deliver(generation *g, int32_t token, pr_err *err) {
    size_t len = 0;
    pr_status st = pr_detok_push(&g->detok, token, g->piece, g->piece_cap, &len, err);
    if (st) return st;
    pr_stop_out out;
    pr_stop_push(g->stop, g->piece, len, &out);
    if (!emit(g, &out)) g->stats->finish = PR_FINISH_CANCELLED;
    else if (out.hit) g->stats->finish = PR_FINISH_STOP;
    return PR_OK;
}

/* What was held back, when no stop string came. */
static void flush(generation *g) {
    pr_stop_out out;
    size_t len = pr_detok_finish(&g->detok, g->piece);
    pr_stop_push(g->stop, g->piece, len, &out);
    bool go_on = emit(g, &out);
    pr_stop_finish(g->stop, &out);
    if (go_on) (void)emit(g, &out);
}

static bool cancelled(const generation *g) { return g->opts->cancel && *g->opts->cancel; }

/* The token after the first n_history ones of the session, from a row of logits. */
static pr_status sample(const generation *g, uint32_t row, uint32_t n_history, uint32_t draw, int32_t *token,
                        pr_err *err) {
    const pr_session *s = g->session;
    const float *logits = pr_engine_logits(s->engine, row);
    pr_status st = pr_sample(&g->opts->sample, logits, sampled_vocab(s->engine), s->history, n_history, draw, g->cands,
                             token, err);
    if (!st && !isfinite(logits[*token]))
        st = pr_fail(err, PR_ERR_FORMAT, "the logits are not finite numbers: the model's weights are damaged");
    return st;
}

/* Choose and deliver the token after the first n_history ones, and decide whether it is the last. */
static pr_status next_token(generation *g, uint32_t row, uint32_t n_history, int32_t *token, pr_err *err) {
    const pr_session *s = g->session;
    uint32_t max = g->opts->max_tokens;
    pr_status st = sample(g, row, n_history, g->stats->n_generated, token, err);
    if (st) return st;
    double now = pr_now();
    if (g->stats->n_generated++ == 0) g->stats->first_token_seconds = now - g->start;
    if (!g->opts->ignore_end && pr_vocab_is_end(s->engine->vocab, *token)) {
        g->stats->finish = PR_FINISH_STOP;
        return PR_OK;
    }
    st = deliver(g, *token, err);
    if (st || g->stats->finish) return st;
    if (cancelled(g)) g->stats->finish = PR_FINISH_CANCELLED;
    else if (n_history >= s->engine->blue.opts.context_max || (max && g->stats->n_generated >= max))
        g->stats->finish = PR_FINISH_LENGTH;
    return PR_OK;
}

/* ---- speculation ------------------------------------------------------- */

/* Drafts to make now: 0 for a plain step. */
static pr__spec_choice choose(const generation *g) {
    const pr_session *s = g->session;
    pr_engine *e = s->engine;
    const pr_engine_opts *o = &e->blue.opts;
    if (!e->residency || g->opts->speculate == 0) return (pr__spec_choice){0, 0};
    pr_residency_state now;
    pr_residency_state_get(e->residency, &now);
    if (e->spec.cursor != now.cursor || e->spec.n_plain + e->spec.n_rounds == 0) {
        uint32_t cursors[] = {pr__levels_cursor(&e->blue, PR_LEVEL_INT2), pr__levels_cursor(&e->blue, PR_LEVEL_INT4)};
        uint64_t bytes[] = {e->blue.planes_at[cursors[0]], e->blue.planes_at[cursors[1]]};
        pr__spec_reset(&e->spec, now.cursor, cursors, bytes, 2, e->blue.planes_at[now.cursor]);
    }
    uint32_t room = o->context_max - s->kv.n_tokens, rows = o->logits_max < o->batch_max ? o->logits_max : o->batch_max;
    uint32_t left = g->opts->max_tokens ? g->opts->max_tokens - g->stats->n_generated : PR_SPECULATE_MAX;
    uint32_t most = room < rows ? room : rows;
    most = most - 1 < left ? most - 1 : left; /* a round gives at most k + 1 tokens, and feeds as many */
    return pr__spec_choose(&e->spec, g->opts->speculate, (int)most);
}

/* Draft c.k tokens after tokens[0], at the lower level; the session is left as it was. */
static pr_status draft(const generation *g, pr__spec_choice c, int32_t *tokens, pr_err *err) {
    pr_session *s = g->session;
    uint32_t base = s->kv.n_tokens, cursor = s->engine->spec.arms[c.arm].cursor;
    pr_status st = PR_OK;
    if (s->engine->draft_cursor != cursor) pr__engine_draft(s->engine, cursor);
    for (int i = 0; i < c.k && !st; i++) {
        st = pr__engine_step(s->engine, &(pr_run){s, &tokens[i], 1, 1}, 1, PR_VIEW_DRAFT, err);
        uint32_t draw = g->stats->n_generated + (uint32_t)i;
        if (!st) st = sample(g, 0, s->kv.n_tokens, draw, &tokens[i + 1], err);
    }
    pr_kv_seq_truncate(&s->kv, base);
    return st;
}

/* One round: *token, not fed yet, then as many of the drafts as come out right. *token becomes the last one delivered. */
static pr_status round_of(generation *g, pr__spec_choice c, int32_t *token, pr_err *err) {
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
    for (; i < n && right && !g->stats->finish; i++) {
        st = next_token(g, i, base + 1 + i, token, err);
        if (st) break;
        right = i + 1 < n && *token == tokens[i + 1];
    }
    pr_kv_seq_truncate(&s->kv, base + i); /* what was delivered last has not been fed */
    uint32_t judged = i < n ? i : n - 1, good = right ? judged : i - 1;
    g->stats->n_drafted += (uint32_t)c.k;
    g->stats->n_accepted += good;
    pr__spec_round(&s->engine->spec, c, drafted - start, verified - drafted, (int)judged, (int)good);
    return st;
}

/* ---- the loop ---------------------------------------------------------- */

static pr_status plain_step(generation *g, int32_t *token, pr_err *err) {
    pr_session *s = g->session;
    double start = pr_now();
    pr_status st = pr_engine_step(s->engine, &(pr_run){s, token, 1, 1}, 1, err);
    if (st) return st;
    pr__spec_plain(&s->engine->spec, pr_now() - start);
    return next_token(g, 0, s->kv.n_tokens, token, err);
}

static pr_status generate(generation *g, pr_err *err) {
    pr_session *s = g->session;
    int32_t token;
    double decode_start = pr_now();
    pr_status st = next_token(g, 0, s->kv.n_tokens, &token, err);
    while (!st && !g->stats->finish) {
        pr__spec_choice c = choose(g);
        st = c.k ? round_of(g, c, &token, err) : PR_OK;
        if (st == PR_ERR_LIMIT || (!st && !c.k))
            st = plain_step(g, &token, err); /* no pages for drafts: go on without */
    }
    if (st) return st;
    g->stats->decode_seconds = pr_now() - decode_start;
    if (g->stats->finish != PR_FINISH_CANCELLED) flush(g);
    return PR_OK;
}

pr_status pr_session_generate(pr_session *session, const int32_t *prompt, size_t n_prompt, const pr_generate_opts *opts,
                              pr_generate_stats *stats, pr_err *err) {
    pr_generate_stats own;
    if (!stats) stats = &own;
    *stats = (pr_generate_stats){0};
    if (n_prompt == 0) return pr_fail(err, PR_ERR_ARG, "the prompt is empty");
    generation g = {.session = session, .opts = opts, .stats = stats, .start = pr_now()};
    pr_status st = generation_open(&g, err);
    uint32_t before = session->kv.n_tokens;
    if (!st) st = pr_session_prefill(session, prompt, n_prompt, opts->cancel, err);
    stats->n_prompt = session->kv.n_tokens - before;
    if (!st) {
        stats->prefill_seconds = pr_now() - g.start;
        st = generate(&g, err);
    } else if (st == PR_ERR_CANCELLED) {
        stats->finish = PR_FINISH_CANCELLED;
        st = PR_OK;
    }
    generation_close(&g);
    return st;
}
