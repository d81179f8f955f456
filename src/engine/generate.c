/*
 * Generation: prefill, then sample and feed back until something ends it.
 *
 * Text goes out through two filters: the detokenizer holds back bytes until a
 * character is whole, the stop matcher holds back what could become a stop
 * string. Everything is allocated before the first token.
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

/* Sample the next token from row 0 and decide whether it is the last. */
static pr_status next_token(generation *g, int32_t *token, pr_err *err) {
    const pr_session *s = g->session;
    pr_status st = pr_sample(&g->opts->sample, pr_engine_logits(s->engine, 0), sampled_vocab(s->engine), s->history,
                             s->kv.n_tokens, g->stats->n_generated, g->cands, token, err);
    if (st) return st;
    if (!isfinite(pr_engine_logits(s->engine, 0)[*token]))
        return pr_fail(err, PR_ERR_FORMAT, "the logits are not finite numbers: the model's weights are damaged");
    double now = pr_now();
    if (g->stats->n_generated++ == 0) g->stats->first_token_seconds = now - g->start;
    if (!g->opts->ignore_end && pr_vocab_is_end(s->engine->vocab, *token)) {
        g->stats->finish = PR_FINISH_STOP;
        return PR_OK;
    }
    return deliver(g, *token, err);
}

static pr_status generate(generation *g, pr_err *err) {
    pr_session *s = g->session;
    uint32_t context = s->engine->blue.opts.context_max, max = g->opts->max_tokens;
    pr_generate_stats *stats = g->stats;
    int32_t token;
    double decode_start = pr_now();
    for (;;) {
        pr_status st = next_token(g, &token, err);
        if (st) return st;
        if (stats->finish) break;
        if (cancelled(g)) stats->finish = PR_FINISH_CANCELLED;
        else if (s->kv.n_tokens >= context || (max && stats->n_generated >= max)) stats->finish = PR_FINISH_LENGTH;
        if (stats->finish) break;
        st = pr_engine_step(s->engine, &(pr_run){s, &token, 1, 1}, 1, err);
        if (st) return st;
    }
    stats->decode_seconds = pr_now() - decode_start;
    if (stats->finish != PR_FINISH_CANCELLED) flush(g);
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
