/*
 * Engine: a loaded model.
 *
 * Opening goes from cheap to dear, so that a bad file fails before anything
 * large is allocated: blueprint, vocabulary, threads, weights, executor, pages.
 */
#include <string.h>

#include "engine/engine_impl.h"
#include "engine/serve.h"
#include "engine/vocab_load.h"
#include "text/texts.h"

static pr_status unknown_template(const char *name, pr_err *err) {
    return pr_fail(err, PR_ERR_ARG, "--template, or PRECIS_TEMPLATE: %.64s is not known; there are: %s", name,
                   pr_chat_names());
}

static pr_status open_text(pr_engine *e, pr_err *err) {
    char *jinja = NULL;
    pr_status st = pr__vocab_load(e->blue.file, e->blue.opts.texts, &e->vocab, &jinja, err);
    if (st) return st;
    e->has_template = jinja != NULL;
    e->chat = pr__texts_template(e->blue.opts.texts, jinja);
    pr_free(jinja);
    const char *other = e->blue.opts.chat_template;
    const pr_chat_template *named = pr_chat_by_name(other);
    if (other && !named) return unknown_template(other, err);
    if (!e->chat) e->chat = named;
    return PR_OK;
}

static pr_status open_buffers(pr_engine *e, pr_err *err) {
    const pr_engine_opts *o = &e->blue.opts;
    e->tokens = pr_calloc(PR_TAG_SCRATCH, o->batch_max, sizeof *e->tokens);
    e->out_rows = pr_calloc(PR_TAG_SCRATCH, o->logits_max, sizeof *e->out_rows);
    e->runs = pr_calloc(PR_TAG_SCRATCH, o->batch_max, sizeof *e->runs);
    if (e->tokens && e->out_rows && e->runs) return PR_OK;
    return pr_fail_nomem(err, "step buffers", o->batch_max * sizeof *e->runs);
}

static pr_status open_planes(pr_engine *e, pr_err *err) {
    struct pr_estimate *b = &e->blue;
    pr_status st = pr_residency_open(b->file, &e->residency, err);
    if (!st) st = pr_residency_load(e->residency, b->cursor, e->team, b->opts.progress, b->opts.progress_arg, err);
    if (!st) pr_weights_bind(&b->weights, &b->graph, b->planes, e->residency);
    return st;
}

pr_status pr_engine_open(const char *path, const pr_engine_opts *opts, pr_engine **out, pr_err *err) {
    *out = NULL;
    pr_engine *e = pr_calloc(PR_TAG_MISC, 1, sizeof *e);
    if (!e) return pr_fail_nomem(err, "engine", sizeof *e);
    struct pr_estimate *b = &e->blue;
    pr_status st = pr__blueprint_init(b, path, opts, err);
    if (!st) st = open_text(e, err);
    if (!st) st = open_buffers(e, err);
    if (!st) st = pr_team_open(b->opts.n_threads, b->opts.nice, &e->team, err);
    if (!st)
        st = pr_weights_load(&b->weights, &b->graph, b->file, e->team, b->planes ? NULL : b->opts.progress,
                             b->opts.progress_arg, err);
    if (!st && b->planes) st = open_planes(e, err);
    if (!st) st = pr_exec_open(&b->graph, &b->plan, &b->weights, &b->exec, &e->exec, err);
    if (!st) st = pr_kv_pool_open(&b->kv, b->kv_bytes_max, &e->kv, err);
    if (st) pr_engine_close(e);
    else *out = e;
    return st;
}

void pr_engine_close(pr_engine *engine) {
    if (!engine) return;
    pr_exec_close(engine->exec);
    pr_residency_close(engine->residency);
    pr_kv_pool_close(engine->kv);
    pr_team_close(engine->team);
    pr_vocab_free(engine->vocab);
    pr_free(engine->tokens);
    pr_free(engine->out_rows);
    pr_free(engine->runs);
    pr__blueprint_free(&engine->blue);
    pr_free(engine);
}

void pr_engine_describe(const pr_engine *engine, pr_engine_info *out) {
    pr_estimate_describe(&engine->blue, out);
    if (engine->chat) out->chat_template = pr_chat_name(engine->chat);
}

bool pr_engine_file(const pr_engine *engine, pr_file_identity *out) {
    return pr_model_file_identify(engine->blue.file, out);
}

/* ---- text ------------------------------------------------------------- */

pr_status pr_engine_tokenize(const pr_engine *engine, const char *text, size_t len, unsigned flags, int32_t *ids,
                             size_t max, size_t *n, pr_err *err) {
    return pr_tokenize(engine->vocab, text, len, flags, ids, max, n, err);
}

const char *pr_engine_piece(const pr_engine *engine, int32_t id, bool special, size_t *len) {
    return pr_vocab_piece(engine->vocab, id, special, len);
}

bool pr_engine_is_end(const pr_engine *engine, int32_t id) { return pr_vocab_is_end(engine->vocab, id); }

/* The stored text of a token as a terminated copy in buf, "" for none. */
static const char *token_text(const pr_vocab *vocab, int32_t id, char *buf, size_t buf_len) {
    size_t len = 0;
    const char *text = id >= 0 ? pr_vocab_token(vocab, id, &len) : NULL;
    if (!text || len >= buf_len) return "";
    memcpy(buf, text, len);
    buf[len] = '\0';
    return buf;
}

pr_status pr_engine_chat(const pr_engine *engine, const char *template_name, const pr_message *messages,
                         size_t n_messages, bool add_generation, char **text, pr_err *err) {
    const pr_chat_template *t = template_name ? pr_chat_by_name(template_name) : engine->chat;
    if (!t && template_name) return unknown_template(template_name, err);
    if (!t)
        return pr_fail(
            err, PR_ERR_UNSUPPORTED,
            "the model %s: --template, or PRECIS_TEMPLATE, gives it one (%s); texts can be completed without "
            "(/v1/completions, run --raw)",
            engine->has_template ? "has a chat template precis does not know" : "has no chat template",
            pr_chat_names());
    char bos[64], eos[64];
    return pr_chat_render(t, messages, n_messages, add_generation,
                          token_text(engine->vocab, pr_vocab_bos(engine->vocab), bos, sizeof bos),
                          token_text(engine->vocab, pr_vocab_eos(engine->vocab), eos, sizeof eos), text, err);
}

void pr_text_free(char *text) { pr_free(text); }
