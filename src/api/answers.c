/*
 * Keys and rules of kept answers.
 *
 * The key has all that shapes an answer, and nothing that does not: whether it is streamed, whether usage is wanted. Fields
 * that a client left out and those it set to their defaults are the same by then (params.c), and so are a text and a list of
 * one text part. The text itself is not touched: another blank is another prompt.
 */
#include "api/answers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/os.h"

/* ---- Cache-Control ------------------------------------------------------ */

static bool is_directive(const char *text, size_t len, const char *name) {
    return len == strlen(name) && strncasecmp(text, name, len) == 0;
}

/* Digits, perhaps in quotes; anything else is as if it were stale. */
static double seconds_of(const char *text, size_t len) {
    double n = 0;
    if (len >= 2 && text[0] == '"' && text[len - 1] == '"') {
        text++;
        len -= 2;
    }
    if (len == 0 || len > 15) return 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') return 0;
        n = n * 10 + (text[i] - '0');
    }
    return n;
}

/* The end of the directive that begins here: a comma outside quotes, or the end of the text. */
static const char *end_of(const char *at) {
    bool quoted = false;
    for (; *at && (quoted || *at != ','); at++) {
        if (*at == '"') quoted = !quoted;
        if (quoted && *at == '\\' && at[1]) at++;
    }
    return at;
}

void pr_cache_control_parse(const char *text, pr_cache_control *out) {
    static const char blanks[] = " \t";
    *out = (pr_cache_control){.age_max = INFINITY};
    for (const char *at = text ? text : ""; *at;) {
        const char *end = end_of(at), *next = *end ? end + 1 : end;
        at += strspn(at, blanks);
        while (end > at && strchr(blanks, end[-1])) end--;
        size_t len = end > at ? (size_t)(end - at) : 0, name = 0;
        while (name < len && at[name] != '=') name++;
        if (is_directive(at, name, "no-cache")) out->no_cache = true;
        else if (is_directive(at, name, "no-store")) out->no_store = true;
        else if (is_directive(at, name, "max-age"))
            out->age_max = name < len ? seconds_of(at + name + 1, len - name - 1) : 0;
        at = next;
    }
}

/* ---- keys --------------------------------------------------------------- */

static bool is_greedy(const pr_sample_params *s) { return s->temperature == 0 || s->top_k == 1; }

static void hash_prompt(pr_cache_hash *h, const pr_params *p) {
    pr_cache_hash_u64(h, p->n_messages);
    for (size_t i = 0; i < p->n_messages; i++) {
        pr_cache_hash_text(h, p->messages[i].role);
        pr_cache_hash_text(h, p->messages[i].content);
    }
    pr_cache_hash_u64(h, p->n_prompts);
    for (size_t i = 0; i < p->n_prompts; i++) {
        const pr_prompt *prompt = &p->prompts[i];
        pr_cache_hash_u64(h, prompt->text != NULL);
        if (prompt->text) pr_cache_hash_bytes(h, prompt->text, prompt->len);
        else pr_cache_hash_bytes(h, prompt->ids, prompt->n_ids * sizeof *prompt->ids);
    }
}

static int by_token(const void *a, const void *b) {
    const pr_logit_bias *x = a, *y = b;
    return (x->token > y->token) - (x->token < y->token);
}

static void hash_sampling(pr_cache_hash *h, const pr_params *p) {
    const pr_sample_params *s = &p->generate.sample;
    bool seeded = p->seed_given && !is_greedy(s);
    pr_cache_hash_f32(h, s->temperature);
    pr_cache_hash_u64(h, s->top_k);
    pr_cache_hash_f32(h, s->top_p);
    pr_cache_hash_f32(h, s->min_p);
    pr_cache_hash_f32(h, s->repetition_penalty);
    pr_cache_hash_f32(h, s->presence_penalty);
    pr_cache_hash_f32(h, s->frequency_penalty);
    pr_cache_hash_u64(h, s->repeat_last_n);
    pr_cache_hash_u64(h, s->no_repeat_ngram);
    pr_cache_hash_u64(h, seeded);
    pr_cache_hash_u64(h, seeded ? s->seed : 0); /* the choice of the most likely token needs none */
    pr_cache_hash_u64(h, s->n_bias);
    for (size_t i = 0; i < s->n_bias; i++) {
        pr_cache_hash_u64(h, (uint64_t)p->bias[i].token);
        pr_cache_hash_f32(h, p->bias[i].bias);
    }
}

static void hash_options(pr_cache_hash *h, const pr_params *p) {
    pr_cache_hash_u64(h, p->n);
    pr_cache_hash_u64(h, p->generate.max_tokens);
    pr_cache_hash_u64(h, p->generate.n_stop);
    for (size_t i = 0; i < p->generate.n_stop; i++) pr_cache_hash_text(h, p->generate.stop[i]);
    pr_cache_hash_u64(h, p->logprobs);
    pr_cache_hash_u64(h, p->top_logprobs);
    pr_cache_hash_u64(h, (uint64_t)p->priority);
    pr_cache_hash_u64(h, p->floor_given);
    pr_cache_hash_u64(h, p->floor_given ? (uint64_t)p->floor : 0);
    pr_cache_hash_u64(h, p->force_given);
    pr_cache_hash_u64(h, p->force_given ? (uint64_t)p->force : 0);
    pr_cache_hash_u64(h, p->reuse_any);
}

void pr__question_ask(const pr_api *api, const pr_params *params, pr_ask ask, const char *model, const char *key_name,
                      const pr_cache_control *control, pr__question *out) {
    pr_cache_hash h;
    const pr_settings *set = &api->settings;
    const pr_sample_params *s = &params->generate.sample;
    bool opted_in = params->cache_given && params->cache, opted_out = params->cache_given && !params->cache;
    *out = (pr__question){.age_max = control->age_max};
    out->sure = (is_greedy(s) || params->seed_given || opted_in) && set->response_cache_mb &&
                set->response_cache_entries;
    out->keeps = !control->no_store && !opted_out && (out->sure || set->recent_cache > 0);
    out->looks = out->keeps && !control->no_cache;
    if (!out->keeps) return;
    pr_cache_hash_begin(&h);
    pr_cache_hash_u64(&h, ask);
    pr_cache_hash_text(&h, model);
    pr_cache_hash_text(&h, key_name);
    hash_prompt(&h, params);
    /* A JSON object has no order. */
    if (s->n_bias > 1) qsort(params->bias, s->n_bias, sizeof *params->bias, by_token);
    hash_sampling(&h, params);
    hash_options(&h, params);
    if (!pr_cache_hash_end(&h, &out->key)) out->keeps = out->looks = false;
}

/* The question as computed in one way. */
static bool place_of(const pr__question *q, const pr__computed *how, pr_cache_key *out) {
    pr_cache_hash h;
    pr_cache_hash_begin(&h);
    pr_cache_hash_bytes(&h, q->key.bytes, sizeof q->key.bytes);
    pr_cache_hash_u64(&h, how->load);
    pr_cache_hash_u64(&h, how->cursor);
    return pr_cache_hash_end(&h, out);
}

/* ---- answers ------------------------------------------------------------ */

bool pr__answers_expect(pr_api *api, const pr_params *params, const char *model, pr__computed *out) {
    pr_model_standing now;
    if (!pr_registry_standing(api->registry, model, &now)) return false;
    *out = (pr__computed){now.load, now.cursor};
    if (!now.elastic) return true;
    if (params->force_given) out->cursor = now.level_cursor[params->force];
    else if (params->floor_given && now.level_cursor[params->floor] > now.cursor)
        out->cursor = now.level_cursor[params->floor];
    return true;
}

pr_blob *pr__answers_find(pr_api *api, const pr__question *q, const pr__computed *how, double *age) {
    pr_cache_key key;
    double now = pr_now();
    if (!place_of(q, how, &key)) return NULL;
    pr_blob *found = q->sure ? pr_cache_get(api->responses, &key, now, q->age_max, age) : NULL;
    return found ? found : pr_cache_get(api->recent, &key, now, q->age_max, age);
}

void pr__answers_keep(pr_api *api, const pr__question *q, const pr__computed *how, const pr_str *record) {
    pr_cache_key key;
    double now = pr_now();
    bool short_of_memory = atomic_load(&api->guard_in_force) & PR_GUARD_CLEAR_CACHES;
    if (short_of_memory || !pr_str_ok(record) || !place_of(q, how, &key)) return;
    pr_blob *blob = pr_blob_new(record->data, record->len);
    if (!blob) return;
    if (q->sure) pr_cache_put(api->responses, &key, blob, now);
    pr_cache_put(api->recent, &key, blob, now);
    pr_blob_unref(blob);
}
