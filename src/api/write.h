/*
 * Writing answers: the JSON and the events of each kind of request. Pure: bytes from what is given.
 *
 * A stream of text is: pr_write_role (chat only), pr_write_delta for each piece, pr_write_end for each choice,
 * pr_write_usage when asked for, then pr_sse_done. An answer in one piece is pr_write_answer.
 */
#ifndef PRECIS_API_WRITE_H
#define PRECIS_API_WRITE_H

#include <time.h>

#include "api/params.h"
#include "base/str.h"
#include "governor/timeline.h"

/* What is the same in all parts of an answer. */
typedef struct pr_reply {
    pr_ask ask;
    const char *id, *model, *query; /* query: of PR_ASK_QUERY */
    time_t created;
    bool include_usage, cached;
} pr_reply;

/* Log probabilities of some tokens, as lists without their brackets. */
typedef struct pr_lp_text {
    pr_str tokens, values, tops, offsets; /* chat uses only tokens, for whole objects */
} pr_lp_text;

/* How a choice ended. */
typedef struct pr_ending {
    const char *finish; /* "stop", "length", "capacity" */
    uint32_t levels_used;
    pr_level level;
    double queue_seconds, first_token_seconds, total_seconds;
    bool timed_out;
} pr_ending;

typedef struct pr_usage {
    uint64_t prompt, cached, completion; /* tokens */
} pr_usage;

typedef struct pr_piece { /* a choice of an answer in one piece */
    const pr_str *text;
    const pr_lp_text *lp; /* NULL: not asked for */
    pr_ending end;
} pr_piece;

/* The frame of text deltas of one choice, for pr_sse_delta(). */
void pr_write_frame(pr_str *head, pr_str *tail, const pr_reply *reply, uint32_t index);
void pr_write_role(pr_str *out, const pr_reply *reply, uint32_t index);
/* A delta with log probabilities. */
void pr_write_delta(pr_str *out, const pr_reply *reply, uint32_t index, const char *text, size_t len,
                    const pr_lp_text *lp);
void pr_write_end(pr_str *out, const pr_reply *reply, uint32_t index, const pr_ending *end, const pr_usage *usage);
void pr_write_usage(pr_str *out, const pr_reply *reply, const pr_usage *usage);
void pr_write_error(pr_str *out, const char *message, const char *code);
void pr_write_answer(pr_str *out, const pr_reply *reply, const pr_piece *pieces, uint32_t n, const pr_usage *usage);

/* Append a token to lp: piece[len] are its bytes, top those of the most likely ones. */
typedef struct pr_lp_token {
    const char *piece;
    size_t len;
    float logprob;
} pr_lp_token;
void pr_write_lp(pr_lp_text *lp, pr_ask ask, const pr_lp_token *chosen, const pr_lp_token *top, uint32_t n_top,
                 size_t offset);
void pr_lp_text_clear(pr_lp_text *lp);
void pr_lp_text_free(pr_lp_text *lp);

/* A decision of the governor. */
void pr_write_decision(pr_str *out, const pr_timeline_entry *e);

/* "key": as JSON, and a comma before it where one is needed. For small replies. */
void pr_write_key(pr_str *out, const char *key);
void pr_write_text(pr_str *out, const char *key, const char *text);
void pr_write_u64(pr_str *out, const char *key, uint64_t n);
void pr_write_f64(pr_str *out, const char *key, double x); /* null when it is not finite */
void pr_write_levels(pr_str *out, uint32_t used);          /* "levels":[...], best first, from a bit for each */
void pr_write_bool(pr_str *out, const char *key, bool b);

#endif
