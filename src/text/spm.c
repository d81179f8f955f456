/*
 * SentencePiece BPE: the whole text is one word, with U+2581 for its spaces.
 *
 * Taken literally that means one heap over the whole text. But a merge that
 * reaches over a space mark must make a token that holds one behind another
 * character, and few vocabularies have any. So pr_vocab_build() notes which
 * bytes stand right before a mark inside some token, and the text is cut before
 * every mark that follows another byte. Nothing can merge across such a cut, so
 * the result is the same, and each heap is small.
 *
 * Characters that are no token become their bytes, as <0xNN> tokens, or the
 * unknown token, one for a run of them.
 */
#include <string.h>

#include "text/internal.h"

#define MARK "\xe2\x96\x81"

/* The text as the model saw it in training, in t->buf. */
static void normalize(pr__tokenizer *t, const char *text, size_t len) {
    const pr_vocab *v = t->v;
    const char *space = v->escape_whitespaces ? MARK : " ";
    pr_str_clear(&t->buf);
    if (v->remove_extra_whitespaces) {
        while (len > 0 && text[0] == ' ') text++, len--;
        while (len > 0 && text[len - 1] == ' ') len--;
    }
    if (len == 0) return;
    if (v->add_space_prefix) pr_str_puts(&t->buf, space);
    for (size_t i = 0; i < len;) {
        const char *at = memchr(text + i, ' ', len - i);
        size_t plain = at ? (size_t)(at - text) - i : len - i;
        pr_str_append(&t->buf, text + i, plain);
        i += plain;
        if (!at) break;
        pr_str_puts(&t->buf, space);
        do i++;
        while (v->remove_extra_whitespaces && i < len && text[i] == ' ');
    }
}

static pr_status put_character(pr__tokenizer *t, const char *text, size_t len, pr_err *err) {
    const pr_vocab *v = t->v;
    bool has_bytes = true;
    for (size_t i = 0; i < len; i++) has_bytes = has_bytes && v->byte_ids[(unsigned char)text[i]] >= 0;
    if (has_bytes) {
        for (size_t i = 0; i < len; i++) pr__sink_put(&t->sink, v->byte_ids[(unsigned char)text[i]]);
    } else if (v->unk < 0) {
        return pr_fail(err, PR_ERR_UNSUPPORTED, "text: the vocabulary has no token for \"%.*s\" and no unknown token",
                       (int)len, text);
    } else if (!t->after_unk) {
        pr__sink_put(&t->sink, v->unk);
    }
    t->after_unk = !has_bytes;
    return PR_OK;
}

static bool is_text(const pr_vocab *v, int32_t id) {
    return id >= 0 && !(v->attrs[id] & (PR_TOKEN_CONTROL | PR_TOKEN_UNKNOWN | PR_TOKEN_BYTE));
}

/* Merge a stretch that no merge reaches out of. */
static pr_status add_stretch(pr__tokenizer *t, const char *text, size_t len, pr_err *err) {
    const pr_vocab *v = t->v;
    pr__merger *m = &t->merger;
    pr_status status = pr__merger_reset(m, len, err);
    if (status) return status;
    for (size_t i = 0; i < len;) {
        int32_t cp;
        size_t n = pr_utf8_decode(text + i, len - i, &cp);
        int32_t id = pr__vocab_find(v, text + i, n);
        pr__merger_push(m, i, is_text(v, id) ? id : -1);
        i += n;
    }
    m->text = text;
    m->len = len;
    pr__merger_run(m);
    for (uint32_t i = 0; i != UINT32_MAX && !status; i = m->syms[i].next) {
        const pr__sym *s = &m->syms[i];
        if (s->id >= 0) {
            pr__sink_put(&t->sink, s->id);
            t->after_unk = false;
        } else {
            size_t end = s->next == UINT32_MAX ? len : m->syms[s->next].at;
            status = put_character(t, text + s->at, end - s->at, err);
        }
    }
    return status;
}

/* Where the first mark after `from` stands that nothing merges with what precedes it; len: nowhere. */
static size_t next_cut(const pr_vocab *v, const char *text, size_t from, size_t len) {
    for (size_t i = from + 1; i + 3 <= len; i++)
        if (memcmp(text + i, MARK, 3) == 0 && !v->before_space[(unsigned char)text[i - 1]]) return i;
    return len;
}

/* One word of the pre-tokenizer, or everything: cut where nothing merges. */
static pr_status add_word(void *arg, const char *text, size_t len, pr_err *err) {
    pr__tokenizer *t = arg;
    const pr_vocab *v = t->v;
    if (v->ignore_merges) {
        int32_t id = pr__vocab_find(v, text, len);
        if (is_text(v, id)) {
            pr__sink_put(&t->sink, id);
            t->after_unk = false;
            return PR_OK;
        }
    }
    pr_status status = PR_OK;
    for (size_t start = 0; start < len && !status;) {
        size_t end = next_cut(v, text, start, len);
        status = add_stretch(t, text + start, end - start, err);
        start = end;
    }
    return status;
}

pr_status pr__spm_text(pr__tokenizer *t, const char *text, size_t len, pr_err *err) {
    normalize(t, text, len);
    if (!pr_str_ok(&t->buf)) return pr_fail_nomem(err, "a text", len);
    t->after_unk = false;
    if (t->pretok) return pr__pretok_split(t->pretok, t->buf.data, t->buf.len, add_word, t, err);
    return t->buf.len ? add_word(t, t->buf.data, t->buf.len, err) : PR_OK;
}
