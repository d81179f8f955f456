/*
 * An answer being made: from rows of logits to text, token by token.
 *
 * Who steps the engine is not its business: pr_session_generate() does it for one session, a scheduler for many in one
 * step. Text goes out through two filters: the detokenizer holds back bytes until a character is whole, the stop matcher
 * holds back what could become a stop string. Everything is allocated when it is opened.
 *
 * Threads: one at a time; it reads the session's history and the engine's logits, so not while a step runs.
 */
#ifndef PRECIS_ENGINE_ANSWER_H
#define PRECIS_ENGINE_ANSWER_H

#include "precis.h"

typedef struct pr_answer pr_answer;

/* opts and what it points to is borrowed until close; stats too: finish, n_generated and first_token_seconds are kept up
 * to date (the latter counted from now). */
pr_status pr_answer_open(pr_session *session, const pr_generate_opts *opts, pr_generate_stats *stats, pr_answer **out,
                         pr_err *err);
void pr_answer_close(pr_answer *answer); /* NULL allowed */

/* The token after the first n_history ones of the session, from row `row` of the last step; the draw is that of token
 * number `draw` of the answer. Changes nothing. PR_ERR_FORMAT when the logits are not finite. */
pr_status pr_answer_sample(pr_answer *answer, size_t row, uint32_t n_history, uint32_t draw, int32_t *token,
                           pr_err *err);

/* Sample for many at once, on all of their engine's threads: answers[i] from row i of the last step, after all tokens that its session
 * holds. The next pr_answer_next() of each takes what was drawn for it, or fails as that did. */
void pr_answers_draw(pr_answer *const *answers, size_t n);

/* Choose the next token likewise and deliver it; stats->finish tells whether it was the last. It has not been fed: that is
 * the caller's next step. */
pr_status pr_answer_next(pr_answer *answer, size_t row, uint32_t n_history, int32_t *token, pr_err *err);

/* Deliver what was held back; after the last token, unless the receiver has gone. */
void pr_answer_flush(pr_answer *answer);

#endif
