/*
 * A conversation with a model: messages, and the one session that holds them.
 */
#ifndef PRECIS_CMD_TALK_H
#define PRECIS_CMD_TALK_H

#include "base/status.h"
#include "base/str.h"

typedef struct pr_talk_opts {
    const char *system;        /* or NULL */
    const char *template_name; /* or NULL: the model's own */
    bool raw;                  /* no template: texts follow each other as they are */
    pr_generate_opts generate; /* on_text and arg are the receiver of the answer */
} pr_talk_opts;

typedef struct pr_talk {
    pr_engine *engine;
    pr_session *session;
    pr_talk_opts opts;
    char *system;         /* copy; NULL: none */
    pr_message *messages; /* [n_messages]; the first is the system's when there is one to be rendered */
    size_t n_messages;
    uint32_t turns;          /* answers begun: each draws from a seed of its own */
    pr_generate_stats stats; /* of the last answer */
    uint32_t n_kept;         /* tokens of its prompt that the session held already */
    pr_str answer;           /* its text */
} pr_talk;

/* engine stays the caller's. On failure *talk may be closed all the same. */
pr_status pr__talk_open(pr_talk *talk, pr_engine *engine, const pr_talk_opts *opts, pr_err *err);
void pr__talk_close(pr_talk *talk);

/* One turn: the answer goes to opts.generate.on_text as it comes, and stands in talk->answer and talk->stats
 * afterwards. Only what the session does not hold yet is fed. On failure the conversation is as before. */
pr_status pr__talk_ask(pr_talk *talk, const char *text, size_t len, pr_err *err);

/* Forget the conversation, not the system text. */
pr_status pr__talk_reset(pr_talk *talk, pr_err *err);

/* Another system text, from the next turn on; NULL or "": none. */
pr_status pr__talk_system(pr_talk *talk, const char *text, pr_err *err);

#endif
