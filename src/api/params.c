/*
 * Parsing requests.
 *
 * Everything is copied out of the JSON document, which is gone when parsing ends: a request that waits or runs for minutes
 * holds its texts once. Bounds stand beside the fields they belong to.
 */
#include "api/params.h"

#include <errno.h>
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "api/reader.h"
#include "base/mem.h"
#include "base/str.h"

enum { ANSWER_TOKENS = 256, TOKENS_MOST = 1 << 24 };

/* ---- messages ---------------------------------------------------------- */

static const char *role_of(const char *role) {
    static const char *const roles[] = {"system", "user", "assistant"};
    if (strcmp(role, "developer") == 0) return roles[0];
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(role, roles[i]) == 0) return roles[i];
    return NULL;
}

/* A string, or a list of text parts, joined. */
static char *content_of(pr_reader *r, size_t at, const json_t *content) {
    pr_str text = {0};
    size_t i;
    const json_t *part;
    if (json_is_string(content)) pr_str_puts(&text, json_string_value(content));
    else if (!json_is_array(content))
        pr_reader_refuse(r, "messages", "the content of message %zu must be a string or a list of parts", at);
    json_array_foreach(content, i, part) {
        const char *type = json_string_value(json_object_get(part, "type"));
        const char *said = json_string_value(json_object_get(part, "text"));
        if (type && strcmp(type, "text") == 0 && said) pr_str_puts(&text, said);
        else
            pr_reader_refuse(r, "messages", "part %zu of message %zu is not {\"type\": \"text\", \"text\": ...}", i,
                             at);
    }
    char *out = r->status ? NULL : pr_str_take(&text);
    if (!out) pr_str_free(&text);
    if (!out) pr_reader_nomem(r, "messages");
    return out;
}

static void read_messages(pr_reader *r, pr_params *p) {
    const json_t *list = pr_reader_get(r, "messages");
    size_t n = json_array_size(list), i;
    const json_t *m;
    if (r->status) return;
    if (!json_is_array(list) || n == 0 || n > PR_MESSAGES_MAX) {
        pr_reader_refuse(r, "messages", "must be a list of 1 to %d messages", PR_MESSAGES_MAX);
        return;
    }
    p->messages = pr_calloc(PR_TAG_HTTP, n, sizeof *p->messages);
    if (!p->messages) {
        pr_reader_nomem(r, "messages");
        return;
    }
    json_array_foreach(list, i, m) {
        if (r->status) return;
        const char *role = json_string_value(json_object_get(m, "role"));
        const char *known = role ? role_of(role) : NULL;
        if (!known) {
            pr_reader_refuse(r, "messages", "the role of message %zu must be \"system\", \"user\" or \"assistant\"", i);
            return;
        }
        p->messages[i].role = known;
        p->messages[i].content = content_of(r, i, json_object_get(m, "content"));
        p->n_messages = i + 1;
    }
}

static void read_query(pr_reader *r, pr_params *p) {
    const char *text = NULL;
    pr_reader_text(r, "query", &text);
    if (!r->status && (!text || !text[0])) pr_reader_refuse(r, "query", "must be a string that is not empty");
    if (r->status) return;
    p->messages = pr_calloc(PR_TAG_HTTP, 1, sizeof *p->messages);
    if (p->messages) p->messages[0] = (pr_message){"user", pr_strdup(PR_TAG_HTTP, text)};
    p->n_messages = p->messages != NULL;
    if (!p->messages || !p->messages[0].content) pr_reader_nomem(r, "query");
}

/* ---- prompts ----------------------------------------------------------- */

static void read_ids(pr_reader *r, const json_t *list, pr_prompt *out) {
    size_t i;
    const json_t *v;
    out->ids = pr_calloc(PR_TAG_HTTP, json_array_size(list) + 1, sizeof *out->ids);
    if (!out->ids) {
        pr_reader_nomem(r, "prompt");
        return;
    }
    json_array_foreach(list, i, v) {
        int64_t id = 0;
        if (r->status) return;
        if (!pr_reader_whole(v, &id) || id < 0 || id > INT32_MAX)
            pr_reader_refuse(r, "prompt", "token %zu is no token", i);
        else out->ids[out->n_ids++] = (int32_t)id;
    }
}

static void read_prompt(pr_reader *r, const json_t *v, pr_prompt *out) {
    if (json_is_array(v) && json_array_size(v) > 0) {
        read_ids(r, v, out);
        return;
    }
    if (!json_is_string(v)) {
        pr_reader_refuse(r, "prompt", "must be a string, a list of strings, or tokens");
        return;
    }
    out->len = json_string_length(v);
    out->text = pr_strndup(PR_TAG_HTTP, json_string_value(v), out->len);
    if (!out->text) pr_reader_nomem(r, "prompt");
}

static void read_prompts(pr_reader *r, pr_params *p) {
    const json_t *v = pr_reader_get(r, "prompt");
    bool many = json_is_array(v) && !json_is_number(json_array_get(v, 0));
    size_t n = many ? json_array_size(v) : 1;
    if (r->status) return;
    if (n == 0 || n > PR_CHOICES_MAX) {
        pr_reader_refuse(r, "prompt", "must hold 1 to %d prompts", PR_CHOICES_MAX);
        return;
    }
    p->prompts = pr_calloc(PR_TAG_HTTP, n, sizeof *p->prompts);
    if (!p->prompts) {
        pr_reader_nomem(r, "prompt");
        return;
    }
    for (; !r->status && p->n_prompts < n; p->n_prompts++)
        read_prompt(r, many ? json_array_get(v, p->n_prompts) : v, &p->prompts[p->n_prompts]);
}

/* ---- lists of options -------------------------------------------------- */

static void add_stop(pr_reader *r, pr_params *p, const json_t *v) {
    if (!json_is_string(v) || json_string_length(v) == 0) {
        pr_reader_refuse(r, "stop", "must be a string or a list of at most %d strings, none empty", PR_STOPS_MAX);
        return;
    }
    p->stop[p->generate.n_stop] = pr_strdup(PR_TAG_HTTP, json_string_value(v));
    if (!p->stop[p->generate.n_stop++]) pr_reader_nomem(r, "stop");
}

static void read_stop(pr_reader *r, pr_params *p) {
    const json_t *v = pr_reader_get(r, "stop"), *item;
    size_t i;
    if (!v) return;
    if (json_array_size(v) > PR_STOPS_MAX) pr_reader_refuse(r, "stop", "at most %d strings", PR_STOPS_MAX);
    if (!json_is_array(v)) add_stop(r, p, v);
    json_array_foreach(v, i, item) {
        if (r->status) return;
        add_stop(r, p, item);
    }
}

/* "1234": a token as a key. */
static bool token_of(const char *key, int32_t *out) {
    enum { DIGITS_MAX = 9 };
    uint32_t id;
    size_t len = strlen(key);
    if (len < 1 || len > DIGITS_MAX || strspn(key, "0123456789") != len || (key[0] == '0' && len > 1)) return false;
    if (!pr_parse_u32(key, &id)) return false;
    *out = (int32_t)id;
    return true;
}

static void read_bias(pr_reader *r, pr_params *p) {
    const json_t *v = pr_reader_get(r, "logit_bias");
    void *at;
    if (!v) return;
    if (!json_is_object(v) || json_object_size(v) > PR_BIASES_MAX) {
        pr_reader_refuse(r, "logit_bias", "must be an object of at most %d tokens", PR_BIASES_MAX);
        return;
    }
    p->bias = pr_calloc(PR_TAG_HTTP, json_object_size(v) + 1, sizeof *p->bias);
    if (!p->bias) {
        pr_reader_nomem(r, "logit_bias");
        return;
    }
    json_t *obj = (json_t *)(uintptr_t)v; /* the iterator's type; nothing is changed */
    for (at = json_object_iter(obj); at && !r->status; at = json_object_iter_next(obj, at)) {
        const json_t *x = json_object_iter_value(at);
        pr_logit_bias *b = &p->bias[p->generate.sample.n_bias];
        double bias = json_number_value(x);
        if (!token_of(json_object_iter_key(at), &b->token) || !json_is_number(x) || !(bias >= -100 && bias <= 100)) {
            pr_reader_refuse(r, "logit_bias", "must give tokens a number from -100 to 100");
            return;
        }
        b->bias = (float)bias;
        p->generate.sample.n_bias++;
    }
}

/* ---- options ----------------------------------------------------------- */

static void read_sampling(pr_reader *r, pr_params *p) {
    pr_sample_params *s = &p->generate.sample;
    pr_reader_f32(r, "temperature", 0, 2, &s->temperature);
    pr_reader_f32(r, "top_p", 0, 1, &s->top_p);
    if (s->top_p == 0) s->top_p = FLT_MIN; /* clients mean the most likely one by it; precis.h means off */
    pr_reader_u32(r, "top_k", 0, TOKENS_MOST, &s->top_k);
    pr_reader_f32(r, "min_p", 0, 1, &s->min_p);
    pr_reader_f32(r, "repetition_penalty", 0, 10, &s->repetition_penalty);
    pr_reader_f32(r, "presence_penalty", -2, 2, &s->presence_penalty);
    pr_reader_f32(r, "frequency_penalty", -2, 2, &s->frequency_penalty);
    pr_reader_u32(r, "no_repeat_ngram_size", 0, PR_NGRAM_LENGTH_MAX, &s->no_repeat_ngram);
    const json_t *seed = pr_reader_get(r, "seed");
    int64_t n = 0;
    if (seed && !pr_reader_whole(seed, &n)) pr_reader_refuse(r, "seed", "must be a whole number");
    if (r->status || !seed) return;
    p->seed_given = true;
    s->seed = (uint64_t)n;
}

static void read_length(pr_reader *r, pr_params *p) {
    pr_reader_u32(r, "max_tokens", 1, TOKENS_MOST, &p->generate.max_tokens);
    pr_reader_u32(r, "max_completion_tokens", 1, TOKENS_MOST, &p->generate.max_tokens);
    pr_reader_u32(r, "n", 1, PR_CHOICES_MAX, &p->n);
    if (!r->status && p->n_prompts > 1 && p->n * p->n_prompts > PR_CHOICES_MAX)
        pr_reader_refuse(r, "n", "prompts times n must be at most %d", PR_CHOICES_MAX);
}

static void read_logprobs(pr_reader *r, pr_ask ask, pr_params *p) {
    if (ask == PR_ASK_COMPLETION) {
        p->logprobs = pr_reader_get(r, "logprobs") != NULL;
        pr_reader_u32(r, "logprobs", 0, PR_TOP_LOGPROBS_MAX, &p->top_logprobs);
        return;
    }
    pr_reader_bool(r, "logprobs", &p->logprobs);
    pr_reader_u32(r, "top_logprobs", 0, PR_TOP_LOGPROBS_MAX, &p->top_logprobs);
    if (!r->status && p->top_logprobs && !p->logprobs) pr_reader_refuse(r, "top_logprobs", "needs \"logprobs\": true");
}

static void read_stream(pr_reader *r, pr_params *p) {
    pr_reader_bool(r, "stream", &p->stream);
    const json_t *v = pr_reader_get(r, "stream_options");
    if (!v) return;
    if (!json_is_object(v)) {
        pr_reader_refuse(r, "stream_options", "must be an object");
        return;
    }
    const json_t *usage = json_object_get(v, "include_usage"), *events = json_object_get(v, "include_events");
    if (usage && !json_is_null(usage) && !json_is_boolean(usage))
        pr_reader_refuse(r, "stream_options", "include_usage must be true or false");
    if (events && !json_is_null(events) && !json_is_boolean(events))
        pr_reader_refuse(r, "stream_options", "include_events must be true or false");
    p->include_usage = json_is_true(usage);
    p->include_events = json_is_true(events);
}

static bool read_level(pr_reader *r, const char *name, pr_level *out) {
    const char *text = NULL;
    pr_reader_text(r, name, &text);
    if (r->status || !text) return false;
    if (!pr_level_by_name(text, out)) pr_reader_refuse(r, name, "must be \"fp16\", \"int8\", \"int4\" or \"int2\"");
    return !r->status;
}

static void read_levels(pr_reader *r, pr_params *p) {
    const char *text = NULL;
    pr_reader_text(r, "task_priority", &text);
    if (!r->status && text && !pr_priority_by_name(text, &p->priority))
        pr_reader_refuse(r, "task_priority", "must be \"quality\", \"balanced\" or \"speed\"");
    p->floor_given = read_level(r, "min_quantization", &p->floor);
    p->force_given = read_level(r, "force_quantization", &p->force);
    text = NULL;
    pr_reader_text(r, "reuse", &text);
    if (!r->status && text && strcmp(text, "any") != 0 && strcmp(text, "level") != 0)
        pr_reader_refuse(r, "reuse", "must be \"any\" or \"level\"");
    p->reuse_any = text && strcmp(text, "any") == 0;
    p->cache_given = pr_reader_get(r, "cache") != NULL;
    pr_reader_bool(r, "cache", &p->cache);
}

/* What is in OpenAI's interface and would change the answer, and is not done here. */
static void refuse_undone(pr_reader *r, pr_ask ask) {
    bool echo = false;
    pr_reader_bool(r, "echo", &echo);
    if (!r->status && echo) pr_reader_refuse(r, "echo", "is not supported");
    if (ask == PR_ASK_COMPLETION && pr_reader_get(r, "suffix")) pr_reader_refuse(r, "suffix", "is not supported");
    const json_t *format = pr_reader_get(r, "response_format");
    if (!format) return;
    const char *type = json_string_value(json_object_get(format, "type"));
    if (!type || strcmp(type, "text") != 0) pr_reader_refuse(r, "response_format", "must be {\"type\": \"text\"}");
}

static void read_all(pr_reader *r, pr_ask ask, pr_params *p) {
    const char *model = "";
    if (!json_is_object(r->obj)) pr_reader_refuse(r, "", "the body must be a JSON object");
    pr_reader_text(r, "model", &model);
    switch (ask) {
    case PR_ASK_CHAT: read_messages(r, p); break;
    case PR_ASK_COMPLETION: read_prompts(r, p); break;
    case PR_ASK_QUERY: read_query(r, p); break;
    }
    read_length(r, p);
    read_sampling(r, p);
    read_stop(r, p);
    read_bias(r, p);
    read_logprobs(r, ask, p);
    read_stream(r, p);
    read_levels(r, p);
    refuse_undone(r, ask);
    if (!r->status && !(p->model = pr_strdup(PR_TAG_HTTP, model))) pr_reader_nomem(r, "model");
}

/* ---- the whole --------------------------------------------------------- */

pr_status pr_params_parse(const char *body, size_t len, pr_ask ask, pr_params *out, char param[PR_PARAM_NAME],
                          pr_err *err) {
    json_t *doc = NULL;
    param[0] = '\0';
    *out = (pr_params){.n = 1, .generate = {.max_tokens = ANSWER_TOKENS}};
    pr_sample_defaults(&out->generate.sample);
    pr_status st = pr_json_parse(body, len, "the body", &doc, err);
    if (st) return st == PR_ERR_FORMAT ? PR_ERR_ARG : st;
    pr_reader r = {doc, param, PR_PARAM_NAME, err, PR_OK};
    read_all(&r, ask, out);
    json_decref(doc);
    out->generate.stop = (const char *const *)out->stop;
    out->generate.sample.bias = out->bias;
    if (r.status) pr_params_free(out);
    return r.status;
}

void pr_params_free(pr_params *p) {
    for (size_t i = 0; i < p->n_messages; i++) pr_free((void *)(uintptr_t)p->messages[i].content);
    for (size_t i = 0; i < p->n_prompts; i++) {
        pr_free(p->prompts[i].text);
        pr_free(p->prompts[i].ids);
    }
    for (int i = 0; i < PR_STOPS_MAX; i++) pr_free(p->stop[i]);
    pr_free(p->messages);
    pr_free(p->prompts);
    pr_free(p->bias);
    pr_free(p->model);
    *p = (pr_params){0};
}
