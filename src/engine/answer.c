/*
 * An answer: sampler, detokenizer and stop matcher in a row (answer.h).
 */
#include "engine/answer.h"

#include <math.h>

#include "engine/engine_impl.h"
#include "sample/sample.h"
#include "sample/stop.h"

struct pr_answer {
    pr_session *session;
    const pr_generate_opts *opts;
    pr_generate_stats *stats;
    pr_sample_scratch scratch;
    size_t n_vocab; /* output matrices are often padded beyond the vocabulary: those rows are no tokens */
    pr_stop *stop;
    pr_detok detok;
    char *piece; /* [piece_cap] */
    size_t piece_cap;
    double start;
    /* Left by pr_answers_draw(): */
    bool drawn;
    int32_t drawn_token;
    pr_status drawn_status;
    pr_err drawn_err;
};

static pr_status answer_init(pr_answer *a, pr_err *err) {
    const pr_engine *e = a->session->engine;
    size_t n = pr_vocab_size(e->vocab);
    a->n_vocab = n < e->blue.desc.n_vocab ? n : e->blue.desc.n_vocab;
    pr_status st = pr_sample_check(&a->opts->sample, a->n_vocab, err);
    if (st) return st;
    a->scratch.cands = pr_calloc(PR_TAG_SESSION, a->n_vocab, sizeof *a->scratch.cands);
    a->scratch.there = pr_calloc(PR_TAG_SESSION, pr_sample_words(a->n_vocab), sizeof *a->scratch.there);
    a->piece_cap = pr_vocab_piece_max(e->vocab) + 16;
    a->piece = pr_alloc(PR_TAG_SESSION, a->piece_cap);
    if (!a->scratch.cands || !a->scratch.there || !a->piece)
        return pr_fail_nomem(err, "sampling buffers", a->n_vocab * sizeof *a->scratch.cands);
    pr_detok_init(&a->detok, e->vocab, false, false);
    return pr_stop_open(a->opts->stop, a->opts->n_stop, &a->stop, err);
}

pr_status pr_answer_open(pr_session *session, const pr_generate_opts *opts, pr_generate_stats *stats, pr_answer **out,
                         pr_err *err) {
    *out = NULL;
    pr_answer *a = pr_calloc(PR_TAG_SESSION, 1, sizeof *a);
    if (!a) return pr_fail_nomem(err, "answer", sizeof *a);
    a->session = session;
    a->opts = opts;
    a->stats = stats;
    a->start = pr_now();
    pr_status st = answer_init(a, err);
    if (st) pr_answer_close(a);
    else *out = a;
    return st;
}

void pr_answer_close(pr_answer *answer) {
    if (!answer) return;
    pr_free(answer->scratch.cands);
    pr_free(answer->scratch.there);
    pr_free(answer->piece);
    pr_stop_close(answer->stop);
    pr_free(answer);
}

/* Hand text on; false when the receiver has had enough. */
static bool emit(const pr_answer *a, const pr_stop_out *out) {
    const pr_generate_opts *o = a->opts;
    if (!o->on_text) return true;
    if (out->head_len && !o->on_text(o->arg, out->head, out->head_len)) return false;
    return !out->body_len || o->on_text(o->arg, out->body, out->body_len);
}

/* Pass one token's text on; sets the reason when that ends the answer. */
static pr_status deliver(pr_answer *a, int32_t token, pr_err *err) {
    size_t len = 0;
    pr_status st = pr_detok_push(&a->detok, token, a->piece, a->piece_cap, &len, err);
    if (st) return st;
    pr_stop_out out;
    pr_stop_push(a->stop, a->piece, len, &out);
    if (!emit(a, &out)) a->stats->finish = PR_FINISH_CANCELLED;
    else if (out.hit) a->stats->finish = PR_FINISH_STOP;
    return PR_OK;
}

void pr_answer_flush(pr_answer *answer) {
    pr_stop_out out;
    size_t len = pr_detok_finish(&answer->detok, answer->piece);
    pr_stop_push(answer->stop, answer->piece, len, &out);
    bool go_on = emit(answer, &out);
    pr_stop_finish(answer->stop, &out);
    if (go_on) (void)emit(answer, &out);
}

pr_status pr_answer_sample(pr_answer *answer, size_t row, uint32_t n_history, uint32_t draw, int32_t *token,
                           pr_err *err) {
    const pr_session *s = answer->session;
    const float *logits = pr_engine_logits(s->engine, row);
    pr_status st = pr_sample(&answer->opts->sample, logits, answer->n_vocab, s->history, n_history, draw,
                             &answer->scratch, token, err);
    if (!st && !isfinite(logits[*token]))
        st = pr_fail(err, PR_ERR_FORMAT, "the logits are not finite numbers: the model's weights are damaged");
    return st;
}

/* ---- many at once ------------------------------------------------------- */

typedef struct draws {
    pr_answer *const *answers;
    uint32_t n;
} draws;

static void draw_one(void *ctx, uint32_t i, int thread) {
    const draws *d = ctx;
    pr_answer *a = d->answers[i];
    (void)thread;
    a->drawn_status = pr_answer_sample(a, i, a->session->kv.n_tokens, a->stats->n_generated, &a->drawn_token,
                                       &a->drawn_err);
    a->drawn = true;
}

static void draw_some(void *ctx, int thread) {
    const draws *d = ctx;
    pr_team_for(d->answers[0]->session->engine->team, thread, d->n, draw_one, ctx);
}

void pr_answers_draw(pr_answer *const *answers, size_t n) {
    draws d = {answers, (uint32_t)n};
    if (n > 0) pr_team_run(answers[0]->session->engine->team, draw_some, &d);
}

/* ---- one token ----------------------------------------------------------- */

/* What pr_answers_draw() left, else a fresh one. */
static pr_status choose(pr_answer *a, size_t row, uint32_t n_history, int32_t *token, pr_err *err) {
    if (!a->drawn) return pr_answer_sample(a, row, n_history, a->stats->n_generated, token, err);
    a->drawn = false;
    *token = a->drawn_token;
    if (a->drawn_status) *err = a->drawn_err;
    return a->drawn_status;
}

pr_status pr_answer_next(pr_answer *answer, size_t row, uint32_t n_history, int32_t *token, pr_err *err) {
    const pr_engine *e = answer->session->engine;
    const pr_generate_opts *o = answer->opts;
    pr_generate_stats *stats = answer->stats;
    pr_status st = choose(answer, row, n_history, token, err);
    if (st) return st;
    if (stats->n_generated++ == 0) stats->first_token_seconds = pr_now() - answer->start;
    if (!o->ignore_end && pr_vocab_is_end(e->vocab, *token)) {
        stats->finish = PR_FINISH_STOP;
        return PR_OK;
    }
    st = deliver(answer, *token, err);
    if (st || stats->finish) return st;
    if (o->cancel && *o->cancel) stats->finish = PR_FINISH_CANCELLED;
    else if (n_history >= e->blue.opts.context_max || (o->max_tokens && stats->n_generated >= o->max_tokens))
        stats->finish = PR_FINISH_LENGTH;
    return PR_OK;
}
