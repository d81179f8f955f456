/*
 * Tokenizing: special tokens first, then each stretch between them by kind.
 *
 * SentencePiece vocabularies that put a space before a text put one before
 * every stretch: at the start, and after each special token, since that is
 * where the stretches begin.
 */
#include "text/internal.h"

#define TEXT_MAX ((size_t)1 << 30)

static void tokenizer_close(pr__tokenizer *t) {
    pr__pretok_run_close(t->pretok);
    pr__merger_free(&t->merger);
    pr_str_free(&t->buf);
}

static pr_status add_text(pr__tokenizer *t, const char *text, size_t len, unsigned flags, pr_err *err) {
    bool control = flags & PR_TOKENIZE_SPECIAL;
    for (size_t pos = 0; pos < len;) {
        pr__fragment f = pr__special_next(t->v, text, len, pos, control);
        pr_status status = PR_OK;
        if (f.raw_end > pos && t->v->kind == PR_VOCAB_BPE) status = pr__bpe_text(t, text + pos, f.raw_end - pos, err);
        else if (f.raw_end > pos) status = pr__spm_text(t, text + pos, f.raw_end - pos, err);
        if (status) return status;
        if (f.id >= 0) pr__sink_put(&t->sink, f.id);
        pos = f.next;
    }
    return PR_OK;
}

pr_status pr_tokenize(const pr_vocab *v, const char *text, size_t len, unsigned flags, int32_t *ids, size_t max,
                      size_t *n, pr_err *err) {
    *n = 0;
    if (len > TEXT_MAX) return pr_fail(err, PR_ERR_LIMIT, "text: %zu bytes are over %zu", len, TEXT_MAX);
    pr__tokenizer t = {.v = v, .merger.v = v, .sink = {.ids = ids, .max = max}};
    pr_status status = v->pretok ? pr__pretok_run_open(v->pretok, &t.pretok, err) : PR_OK;
    bool whole = flags & PR_TOKENIZE_BOS;
    if (whole && v->add_bos && v->bos >= 0) pr__sink_put(&t.sink, v->bos);
    if (!status) status = add_text(&t, text, len, flags, err);
    if (whole && v->add_eos && v->eos >= 0) pr__sink_put(&t.sink, v->eos);
    tokenizer_close(&t);
    if (status) return status;
    *n = t.sink.n;
    if (*n > max) return pr_fail(err, PR_ERR_LIMIT, "text: %zu tokens, but there is room for %zu", *n, max);
    return PR_OK;
}
