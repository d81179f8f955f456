/*
 * Byte-level BPE: words, each merged from its bytes by rank.
 *
 * The pre-tokenizer cuts the text into words; merges never cross them. A word
 * begins as one symbol a byte, named by the byte's letter in the vocabulary,
 * and since all 256 letters usually are tokens, any bytes at all can be
 * written: also those that are not UTF-8.
 */
#include "text/internal.h"

/* Vocabularies with ignore_merges: a word that is a token is that token, however merging would come out. */
static int32_t whole_word(pr__tokenizer *t, const char *word, size_t len) {
    if (len > t->v->text_max) return -1;
    pr_str_clear(&t->buf);
    for (size_t i = 0; i < len; i++) {
        char letter[2];
        pr_str_append(&t->buf, letter, pr__alphabet_encode((unsigned char)word[i], letter));
    }
    if (!pr_str_ok(&t->buf)) return -1; /* out of memory: found out by the caller */
    int32_t id = pr__vocab_find(t->v, t->buf.data, t->buf.len);
    return id >= 0 && !(t->v->attrs[id] & (PR_TOKEN_CONTROL | PR_TOKEN_UNKNOWN)) ? id : -1;
}

static pr_status add_word(void *arg, const char *word, size_t len, pr_err *err) {
    pr__tokenizer *t = arg;
    if (t->v->ignore_merges) {
        int32_t id = whole_word(t, word, len);
        if (!pr_str_ok(&t->buf)) return pr_fail_nomem(err, "a word", len);
        if (id >= 0) {
            pr__sink_put(&t->sink, id);
            return PR_OK;
        }
    }
    pr_status status = pr__merger_reset(&t->merger, len, err);
    if (status) return status;
    for (size_t i = 0; i < len; i++) {
        int32_t id = t->v->byte_ids[(unsigned char)word[i]];
        if (id < 0)
            return pr_fail(err, PR_ERR_UNSUPPORTED, "text: the vocabulary has no token for the byte 0x%02x",
                           (unsigned char)word[i]);
        pr__merger_push(&t->merger, i, id);
    }
    pr__merger_run(&t->merger);
    for (uint32_t i = 0; i != UINT32_MAX; i = t->merger.syms[i].next) pr__sink_put(&t->sink, t->merger.syms[i].id);
    return PR_OK;
}

pr_status pr__bpe_text(pr__tokenizer *t, const char *text, size_t len, pr_err *err) {
    return pr__pretok_split(t->pretok, text, len, add_word, t, err);
}
