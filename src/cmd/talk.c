/*
 * A conversation.
 *
 * Each turn renders the whole conversation with the template and tokenizes it;
 * the session already holds most of those tokens, so it is cut back to the
 * common beginning and only the rest is fed. Rendering anew, instead of
 * appending pieces, is what keeps templates honest: some trim an answer, some
 * put the system text into the first question, and a changed system text simply
 * shares a shorter beginning. At least one token is always fed, because the
 * logits of the last one are needed.
 *
 * With raw texts there is no template to render: what is new is appended.
 */
#include "cmd/talk.h"

#include <string.h>

static pr_status push(pr_talk *talk, const char *role, const char *text, size_t len, pr_err *err) {
    pr_message *grown = pr_realloc_array(PR_TAG_MISC, talk->messages, talk->n_messages + 1, sizeof *grown);
    if (!grown) return pr_fail_nomem(err, "a conversation", (talk->n_messages + 1) * sizeof *grown);
    talk->messages = grown;
    char *copy = pr_strndup(PR_TAG_MISC, text, len);
    if (!copy) return pr_fail_nomem(err, "a message", len);
    grown[talk->n_messages++] = (pr_message){role, copy};
    return PR_OK;
}

static void pop(pr_talk *talk, size_t n_messages) {
    while (talk->n_messages > n_messages)
        pr_free((char *)(uintptr_t)talk->messages[--talk->n_messages].content); /* push() made it */
}

pr_status pr__talk_open(pr_talk *talk, pr_engine *engine, const pr_talk_opts *opts, pr_err *err) {
    *talk = (pr_talk){.engine = engine, .opts = *opts};
    pr_status status = pr__talk_system(talk, opts->system, err);
    if (status == PR_OK) status = pr_session_open(engine, &talk->session, err);
    return status;
}

void pr__talk_close(pr_talk *talk) {
    pop(talk, 0);
    pr_free(talk->messages);
    pr_free(talk->system);
    pr_str_free(&talk->answer);
    pr_session_close(talk->session);
    *talk = (pr_talk){0};
}

pr_status pr__talk_reset(pr_talk *talk, pr_err *err) {
    pop(talk, 0);
    return pr_session_truncate(talk->session, 0, err);
}

pr_status pr__talk_system(pr_talk *talk, const char *text, pr_err *err) {
    char *copy = NULL;
    if (text && text[0] && !(copy = pr_strdup(PR_TAG_MISC, text)))
        return pr_fail_nomem(err, "a system text", strlen(text));
    pr_free(talk->system);
    talk->system = copy;
    return PR_OK;
}

/* ---- one turn ---- */

/* System text, messages so far and the opened answer, as the template writes them; pr_text_free() it. */
static pr_status render(const pr_talk *talk, char **out, pr_err *err) {
    size_t n = 0;
    pr_message *all = pr_calloc(PR_TAG_MISC, talk->n_messages + 1, sizeof *all);
    if (!all) return pr_fail_nomem(err, "a conversation", 0);
    if (talk->system) all[n++] = (pr_message){"system", talk->system};
    memcpy(all + n, talk->messages, talk->n_messages * sizeof *all);
    n += talk->n_messages;
    pr_status status = pr_engine_chat(talk->engine, talk->opts.template_name, all, n, true, out, err);
    pr_free(all);
    return status;
}

static pr_status tokenize(const pr_talk *talk, const char *text, size_t len, unsigned flags, int32_t **ids, size_t *n,
                          pr_err *err) {
    size_t max = len + 16; /* a token is at least a byte, but for what is added at the start */
    *ids = pr_calloc(PR_TAG_MISC, max, sizeof **ids);
    if (!*ids) return pr_fail_nomem(err, "the tokens of the prompt", max * sizeof **ids);
    return pr_engine_tokenize(talk->engine, text, len, flags, *ids, max, n, err);
}

/* The session is cut back to what it shares with ids; *kept is how much that is. */
static pr_status share(pr_talk *talk, const int32_t *ids, size_t n, size_t *kept, pr_err *err) {
    const int32_t *held = pr_session_tokens(talk->session);
    uint32_t n_held = pr_session_length(talk->session), same = 0;
    while (same < n_held && same < n && held[same] == ids[same]) same++;
    if (same == n) same--; /* the caller has seen to n > 0 */
    *kept = same;
    return pr_session_truncate(talk->session, same, err);
}

static bool collect(void *arg, const char *text, size_t len) {
    pr_talk *talk = arg;
    const pr_generate_opts *o = &talk->opts.generate;
    pr_str_append(&talk->answer, text, len);
    return !o->on_text || o->on_text(o->arg, text, len);
}

static pr_status generate(pr_talk *talk, const int32_t *ids, size_t n, pr_err *err) {
    pr_engine_info info;
    pr_engine_describe(talk->engine, &info);
    size_t kept = 0, total = talk->opts.raw ? pr_session_length(talk->session) + n : n;
    if (n == 0) return pr_fail(err, PR_ERR_ARG, "the prompt is empty");
    if (total > info.context_max) {
        return pr_fail(err, PR_ERR_LIMIT,
                       "the prompt is %zu tokens and the context holds %u: shorten it, or raise --context", total,
                       info.context_max);
    }
    if (!talk->opts.raw) {
        pr_status status = share(talk, ids, n, &kept, err);
        if (status != PR_OK) return status;
    }
    pr_generate_opts o = talk->opts.generate;
    o.sample.seed += talk->turns++;
    o.on_text = collect;
    o.arg = talk;
    talk->n_kept = (uint32_t)kept;
    return pr_session_generate(talk->session, ids + kept, n - kept, &o, &talk->stats, err);
}

pr_status pr__talk_ask(pr_talk *talk, const char *text, size_t len, pr_err *err) {
    size_t before = talk->n_messages, n = 0;
    uint32_t held = pr_session_length(talk->session);
    char *rendered = NULL;
    int32_t *ids = NULL;
    pr_status status = PR_OK;
    pr_str_clear(&talk->answer);
    talk->stats = (pr_generate_stats){0};
    if (talk->opts.raw) {
        status = tokenize(talk, text, len, PR_TOKENIZE_SPECIAL | (held == 0 ? PR_TOKENIZE_BOS : 0), &ids, &n, err);
    } else {
        status = push(talk, "user", text, len, err);
        if (status == PR_OK) status = render(talk, &rendered, err);
        if (status == PR_OK) status = tokenize(talk, rendered, strlen(rendered), PR_TOKENIZE_SPECIAL, &ids, &n, err);
    }
    if (status == PR_OK) status = generate(talk, ids, n, err);
    if (status == PR_OK && !pr_str_ok(&talk->answer)) status = pr_fail_nomem(err, "the answer", 0);
    bool silent = talk->stats.finish == PR_FINISH_CANCELLED && talk->answer.len == 0; /* as if never asked */
    if (status == PR_OK && !talk->opts.raw && !silent) {
        status = push(talk, "assistant", talk->answer.len ? talk->answer.data : "", talk->answer.len, err);
    }
    if (status != PR_OK || silent) pop(talk, before);
    if (status != PR_OK && talk->opts.raw && held < pr_session_length(talk->session))
        (void)pr_session_truncate(talk->session, held, NULL);
    pr_free(ids);
    pr_text_free(rendered);
    return status;
}
