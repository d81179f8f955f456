/*
 * Parameters: what a client asks of a model, checked once, for every endpoint that generates.
 *
 * Unknown fields are ignored, null is as if a field were not there, a wrong type or an unusable value is refused by the
 * field's name. Pure: no clock, no model, no randomness; fuzz/fuzz_request.c feeds it anything.
 */
#ifndef PRECIS_API_PARAMS_H
#define PRECIS_API_PARAMS_H

#include "base/status.h"
#include "governor/policy.h"

typedef enum pr_ask {
    PR_ASK_CHAT,       /* POST /v1/chat/completions: "messages" */
    PR_ASK_COMPLETION, /* POST /v1/completions: "prompt" */
    PR_ASK_QUERY       /* POST /api/query: "query" */
} pr_ask;

enum {
    PR_CHOICES_MAX = 16, /* prompts times n */
    PR_STOPS_MAX = 4,
    PR_MESSAGES_MAX = 1024,
    PR_BIASES_MAX = 1024,
    PR_TOP_LOGPROBS_MAX = 20,
    PR_NGRAM_LENGTH_MAX = 64, /* what the sampler takes, too */
    PR_PARAM_NAME = 64
};

/* A prompt of /v1/completions: text, or tokens. */
typedef struct pr_prompt {
    char *text; /* NULL: tokens */
    size_t len;
    int32_t *ids; /* [n_ids] */
    size_t n_ids;
} pr_prompt;

typedef struct pr_params {
    char *model;          /* "": the default one */
    pr_message *messages; /* [n_messages] chat and query */
    size_t n_messages;
    pr_prompt *prompts; /* [n_prompts] completion */
    size_t n_prompts;
    bool stream, include_usage;
    bool include_events; /* tell the place in the queue and changes of level, as named events */
    uint32_t n;          /* answers to each prompt */
    bool logprobs;
    uint32_t top_logprobs;
    pr_generate_opts generate; /* the defaults of docs/API.md where nothing is said; points into this struct */
    bool seed_given;
    pr_priority priority;
    bool floor_given, force_given;
    pr_level floor, force;
    bool reuse_any;
    bool cache_given, cache; /* "cache": whether an answer made before will do, and this one for others */
    char *stop[PR_STOPS_MAX];
    pr_logit_bias *bias;
} pr_params;

/* PR_ERR_ARG: param names the field ("" when it is the body itself), err says what is wrong with it. PR_ERR_NOMEM. *out is
 * empty then. */
pr_status pr_params_parse(const char *body, size_t len, pr_ask ask, pr_params *out, char param[PR_PARAM_NAME],
                          pr_err *err);
void pr_params_free(pr_params *params);

#endif
