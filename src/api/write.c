/*
 * Writing answers.
 *
 * By hand, since an event goes out for each token: the frame of a delta is built once and copied. Everything that is the
 * same for a chat chunk, a completion chunk and a whole answer is written by one function.
 */
#include "api/write.h"

#include <math.h>
#include <string.h>

#include "http/sse.h"

/* ---- small things ------------------------------------------------------ */

void pr_write_key(pr_str *out, const char *key) {
    char last = out->len ? out->data[out->len - 1] : '{';
    if (last != '{' && last != '[') pr_str_puts(out, ",");
    pr_str_json(out, key, strlen(key));
    pr_str_puts(out, ":");
}

void pr_write_text(pr_str *out, const char *key, const char *text) {
    pr_write_key(out, key);
    if (text) pr_str_json(out, text, strlen(text));
    else pr_str_puts(out, "null");
}

void pr_write_u64(pr_str *out, const char *key, uint64_t n) {
    pr_write_key(out, key);
    pr_str_printf(out, "%llu", (unsigned long long)n);
}

void pr_write_f64(pr_str *out, const char *key, double x) {
    pr_write_key(out, key);
    if (isfinite(x)) pr_str_printf(out, "%.6g", x);
    else pr_str_puts(out, "null");
}

void pr_write_bool(pr_str *out, const char *key, bool b) {
    pr_write_key(out, key);
    pr_str_puts(out, b ? "true" : "false");
}

static void write_str(pr_str *out, const pr_str *s) {
    if (s->failed) out->failed = true;
    if (s->len) pr_str_append(out, s->data, s->len);
}

/* ---- parts ------------------------------------------------------------- */

static const char *object_of(const pr_reply *r, bool chunk) {
    switch (r->ask) {
    case PR_ASK_CHAT: return chunk ? "chat.completion.chunk" : "chat.completion";
    case PR_ASK_COMPLETION: return "text_completion";
    case PR_ASK_QUERY: break;
    }
    return chunk ? "query.chunk" : "query";
}

/* {"id":...,"object":...,"created":...,"model":... */
static void write_head(pr_str *out, const pr_reply *r, bool chunk) {
    pr_str_puts(out, "{");
    pr_write_text(out, "id", r->id);
    pr_write_text(out, "object", object_of(r, chunk));
    pr_write_u64(out, "created", (uint64_t)r->created);
    pr_write_text(out, "model", r->model);
}

static void write_usage(pr_str *out, const pr_usage *u) {
    unsigned long long prompt = u->prompt, completion = u->completion, cached = u->cached;
    pr_write_key(out, "usage");
    pr_str_printf(out,
                  "{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%llu}}",
                  prompt, completion, prompt + completion, cached);
}

void pr_write_levels(pr_str *out, uint32_t used) {
    bool first = true;
    pr_write_key(out, "levels");
    pr_str_puts(out, "[");
    for (int l = PR_LEVELS - 1; l >= 0; l--) {
        if (!(used >> l & 1)) continue;
        pr_str_printf(out, "%s\"%s\"", first ? "" : ",", pr_level_name((pr_level)l));
        first = false;
    }
    pr_str_puts(out, "]");
}

static void write_precis(pr_str *out, const pr_ending *e) {
    pr_write_key(out, "precis");
    pr_str_puts(out, "{");
    pr_write_levels(out, e->levels_used);
    pr_write_text(out, "level", pr_level_name(e->level));
    pr_write_f64(out, "queue_seconds", e->queue_seconds);
    pr_write_f64(out, "first_token_seconds", e->first_token_seconds);
    pr_write_f64(out, "total_seconds", e->total_seconds);
    pr_write_bool(out, "timed_out", e->timed_out);
    pr_str_puts(out, "}");
}

static void write_lp(pr_str *out, pr_ask ask, const pr_lp_text *lp) {
    pr_write_key(out, "logprobs");
    if (!lp) {
        pr_str_puts(out, "null");
        return;
    }
    if (ask == PR_ASK_CHAT) {
        pr_str_puts(out, "{\"content\":[");
        write_str(out, &lp->tokens);
        pr_str_puts(out, "],\"refusal\":null}");
        return;
    }
    pr_str_puts(out, "{\"tokens\":[");
    write_str(out, &lp->tokens);
    pr_str_puts(out, "],\"token_logprobs\":[");
    write_str(out, &lp->values);
    pr_str_puts(out, "],\"top_logprobs\":[");
    write_str(out, &lp->tops);
    pr_str_puts(out, "],\"text_offset\":[");
    write_str(out, &lp->offsets);
    pr_str_puts(out, "]}");
}

/* ---- streams ----------------------------------------------------------- */

/* Up to where the text stands, in an event of choice `index`. */
static void open_choice(pr_str *out, const pr_reply *r, uint32_t index, bool has_text) {
    write_head(out, r, true);
    if (r->ask == PR_ASK_QUERY) {
        pr_write_key(out, "delta");
        return;
    }
    pr_write_key(out, "choices");
    pr_str_printf(out, "[{\"index\":%u", index);
    pr_write_key(out, r->ask == PR_ASK_CHAT ? "delta" : "text");
    if (r->ask == PR_ASK_CHAT) pr_str_puts(out, has_text ? "{\"content\":" : "{");
}

/* After the text. */
static void close_choice(pr_str *out, const pr_reply *r, const pr_lp_text *lp, const char *finish) {
    if (r->ask == PR_ASK_QUERY) {
        pr_str_puts(out, "}");
        return;
    }
    if (r->ask == PR_ASK_CHAT) pr_str_puts(out, "}");
    write_lp(out, r->ask, lp);
    pr_write_text(out, "finish_reason", finish);
    pr_str_puts(out, r->include_usage ? "}],\"usage\":null}" : "}]}");
}

void pr_write_frame(pr_str *head, pr_str *tail, const pr_reply *reply, uint32_t index) {
    open_choice(head, reply, index, true);
    if (reply->ask != PR_ASK_COMPLETION) pr_str_puts(tail, "}");
    if (reply->ask != PR_ASK_QUERY)
        pr_str_printf(tail, ",\"logprobs\":null,\"finish_reason\":null}]%s}",
                      reply->include_usage ? ",\"usage\":null" : "");
}

static void send(pr_str *out, pr_str *json) {
    if (!pr_str_ok(json)) out->failed = true;
    else pr_sse_data(out, json->data, json->len);
    pr_str_free(json);
}

void pr_write_role(pr_str *out, const pr_reply *reply, uint32_t index) {
    pr_str json = {0};
    open_choice(&json, reply, index, false);
    pr_str_puts(&json, "\"role\":\"assistant\",\"content\":\"\"");
    close_choice(&json, reply, NULL, NULL);
    send(out, &json);
}

void pr_write_delta(pr_str *out, const pr_reply *reply, uint32_t index, const char *text, size_t len,
                    const pr_lp_text *lp) {
    pr_str json = {0};
    open_choice(&json, reply, index, true);
    pr_str_json(&json, text, len);
    close_choice(&json, reply, lp, NULL);
    send(out, &json);
}

void pr_write_end(pr_str *out, const pr_reply *reply, uint32_t index, const pr_ending *end, const pr_usage *usage) {
    pr_str json = {0};
    if (reply->ask == PR_ASK_QUERY) {
        write_head(&json, reply, true);
        pr_write_bool(&json, "done", true);
        pr_write_text(&json, "finish_reason", end->finish);
        pr_write_levels(&json, end->levels_used);
        pr_write_text(&json, "level", pr_level_name(end->level));
        pr_write_f64(&json, "response_time", end->total_seconds);
        write_usage(&json, usage);
        pr_str_puts(&json, "}");
        send(out, &json);
        return;
    }
    open_choice(&json, reply, index, false);
    if (reply->ask == PR_ASK_COMPLETION) pr_str_puts(&json, "\"\"");
    close_choice(&json, reply, NULL, end->finish);
    if (pr_str_ok(&json)) json.data[--json.len] = '\0'; /* the closing brace: one more field */
    write_precis(&json, end);
    pr_str_puts(&json, "}");
    send(out, &json);
}

void pr_write_usage(pr_str *out, const pr_reply *reply, const pr_usage *usage) {
    pr_str json = {0};
    write_head(&json, reply, true);
    pr_str_puts(&json, ",\"choices\":[]");
    write_usage(&json, usage);
    pr_str_puts(&json, "}");
    send(out, &json);
}

void pr_write_error(pr_str *out, const char *message, const char *code) {
    pr_str json = {0};
    pr_str_puts(&json, "{\"error\":{");
    pr_write_text(&json, "message", message);
    pr_write_text(&json, "type", "server_error");
    pr_write_text(&json, "param", NULL);
    pr_write_text(&json, "code", code);
    pr_str_puts(&json, "}}");
    send(out, &json);
}

/* ---- in one piece ------------------------------------------------------ */

static void write_piece(pr_str *out, const pr_reply *r, const pr_piece *p, uint32_t index) {
    pr_str_printf(out, "%s{\"index\":%u", index ? "," : "", index);
    if (r->ask == PR_ASK_CHAT) {
        pr_write_key(out, "message");
        pr_str_puts(out, "{\"role\":\"assistant\",\"content\":");
    } else {
        pr_write_key(out, "text");
    }
    pr_str_json(out, p->text->len ? p->text->data : "", p->text->len);
    if (r->ask == PR_ASK_CHAT) pr_str_puts(out, ",\"refusal\":null}");
    write_lp(out, r->ask, p->lp);
    pr_write_text(out, "finish_reason", p->end.finish);
    pr_str_puts(out, "}");
}

static void write_query(pr_str *out, const pr_reply *r, const pr_piece *p, const pr_usage *usage) {
    pr_write_text(out, "query", r->query);
    pr_write_key(out, "answer");
    pr_str_json(out, p->text->len ? p->text->data : "", p->text->len);
    pr_write_text(out, "finish_reason", p->end.finish);
    pr_write_levels(out, p->end.levels_used);
    pr_write_text(out, "level", pr_level_name(p->end.level));
    pr_write_bool(out, "cached", r->cached);
    pr_write_f64(out, "response_time", p->end.total_seconds);
    write_usage(out, usage);
    pr_str_puts(out, "}");
}

void pr_write_answer(pr_str *out, const pr_reply *reply, const pr_piece *pieces, uint32_t n, const pr_usage *usage) {
    pr_ending all = pieces[0].end;
    write_head(out, reply, false);
    if (reply->ask == PR_ASK_QUERY) {
        write_query(out, reply, pieces, usage);
        return;
    }
    pr_write_key(out, "choices");
    pr_str_puts(out, "[");
    for (uint32_t i = 0; i < n; i++) {
        write_piece(out, reply, &pieces[i], i);
        all.levels_used |= pieces[i].end.levels_used;
        all.timed_out |= pieces[i].end.timed_out;
    }
    pr_str_puts(out, "]");
    write_usage(out, usage);
    write_precis(out, &all);
    pr_str_puts(out, "}");
}

/* ---- log probabilities ------------------------------------------------- */

static void write_lp_token(pr_str *out, const pr_lp_token *t) {
    pr_str_puts(out, "{");
    pr_write_key(out, "token");
    pr_str_json(out, t->piece, t->len);
    pr_write_f64(out, "logprob", (double)t->logprob);
    pr_write_key(out, "bytes");
    pr_str_puts(out, "[");
    for (size_t i = 0; i < t->len; i++) pr_str_printf(out, "%s%u", i ? "," : "", (unsigned char)t->piece[i]);
    pr_str_puts(out, "]");
}

static void comma(pr_str *s) {
    if (s->len) pr_str_puts(s, ",");
}

void pr_write_lp(pr_lp_text *lp, pr_ask ask, const pr_lp_token *chosen, const pr_lp_token *top, uint32_t n_top,
                 size_t offset) {
    comma(&lp->tokens);
    if (ask == PR_ASK_CHAT) {
        write_lp_token(&lp->tokens, chosen);
        pr_write_key(&lp->tokens, "top_logprobs");
        pr_str_puts(&lp->tokens, "[");
        for (uint32_t i = 0; i < n_top; i++) {
            if (i) pr_str_puts(&lp->tokens, ",");
            write_lp_token(&lp->tokens, &top[i]);
            pr_str_puts(&lp->tokens, "}");
        }
        pr_str_puts(&lp->tokens, "]}");
        return;
    }
    pr_str_json(&lp->tokens, chosen->piece, chosen->len);
    comma(&lp->values);
    pr_str_printf(&lp->values, "%.6g", (double)chosen->logprob);
    comma(&lp->tops);
    pr_str_puts(&lp->tops, "{");
    for (uint32_t i = 0; i < n_top; i++) {
        if (i) pr_str_puts(&lp->tops, ",");
        pr_str_json(&lp->tops, top[i].piece, top[i].len);
        pr_str_printf(&lp->tops, ":%.6g", (double)top[i].logprob);
    }
    pr_str_puts(&lp->tops, "}");
    comma(&lp->offsets);
    pr_str_printf(&lp->offsets, "%zu", offset);
}

void pr_lp_text_clear(pr_lp_text *lp) {
    pr_str_clear(&lp->tokens);
    pr_str_clear(&lp->values);
    pr_str_clear(&lp->tops);
    pr_str_clear(&lp->offsets);
}

void pr_lp_text_free(pr_lp_text *lp) {
    pr_str_free(&lp->tokens);
    pr_str_free(&lp->values);
    pr_str_free(&lp->tops);
    pr_str_free(&lp->offsets);
}

/* ---- decisions --------------------------------------------------------- */

void pr_write_decision(pr_str *out, const pr_timeline_entry *e) {
    pr_str_puts(out, "{");
    pr_write_u64(out, "seq", e->seq);
    pr_write_key(out, "time");
    pr_str_printf(out, "%.3f", e->time);
    pr_write_text(out, "kind", pr_timeline_kind_name(e->kind));
    pr_write_text(out, "model", e->model);
    pr_write_text(out, "from", pr_level_name(e->from));
    pr_write_text(out, "to", pr_level_name(e->to));
    pr_write_u64(out, "cursor", e->cursor);
    pr_write_key(out, "bytes");
    pr_str_printf(out, "%lld", (long long)e->bytes);
    pr_write_f64(out, "seconds", e->seconds);
    pr_write_text(out, "reason", e->reason);
    pr_str_puts(out, "}");
}
