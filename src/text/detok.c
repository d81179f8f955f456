/*
 * Streaming detokenization: bytes of tokens to whole characters.
 *
 * A token may end in the middle of a character, so up to three bytes wait in
 * d->tail until the next token completes them. Bytes wait only while they can
 * still become a character; what cannot comes out as U+FFFD, one for each
 * longest beginning of a character (Unicode's recommended practice), so that a
 * text is shown the same however it is cut into tokens.
 */
#include <string.h>

#include "base/str.h"
#include "text/internal.h"

static const char replacement[3] = "\xef\xbf\xbd";

/* How many of text[0..len) are the beginning of a character: at least 1, if only of a broken one.
 * *whole: they are all of it; *open: more bytes may follow. */
static size_t character(const unsigned char *text, size_t len, bool *whole, bool *open) {
    unsigned char lead = text[0];
    size_t need = pr_utf8_len(lead);
    *whole = lead < 0x80;
    *open = false;
    if (need == 1) return 1;
    unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80; /* what the second byte may be */
    unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    for (size_t i = 1; i < need; i++, low = 0x80, high = 0xbf) {
        if (i == len) {
            *open = true;
            return i;
        }
        if (text[i] < low || text[i] > high) return i;
    }
    *whole = true;
    return need;
}

void pr_detok_init(pr_detok *d, const pr_vocab *vocab, bool at_start, bool special) {
    *d = (pr_detok){.vocab = vocab, .special = special};
    d->skip_space = at_start && vocab->kind != PR_VOCAB_BPE && vocab->add_space_prefix;
}

/* The n bytes after the tail, through the tail: as if they were one string. */
typedef struct joined {
    const pr_detok *d;
    const char *piece;
    size_t len; /* tail and piece */
} joined;

static size_t window(const joined *j, size_t at, unsigned char out[4]) {
    size_t n = 0;
    for (; n < 4 && at + n < j->len; n++)
        out[n] = at + n < j->d->n_tail ? j->d->tail[at + n] : (unsigned char)j->piece[at + n - j->d->n_tail];
    return n;
}

pr_status pr_detok_push(pr_detok *d, int32_t id, char *out, size_t cap, size_t *len, pr_err *err) {
    *len = 0;
    size_t n_piece;
    const char *piece = pr_vocab_piece(d->vocab, id, d->special, &n_piece);
    if (!piece) return pr_fail(err, PR_ERR_ARG, "token %d: there are %zu", (int)id, pr_vocab_size(d->vocab));
    if (n_piece == 0) return PR_OK;
    bool skip = d->skip_space && piece[0] == ' ';
    joined j = {.d = d, .piece = piece + skip, .len = d->n_tail + n_piece - skip};
    size_t n = 0, at = 0;
    bool open = false;
    while (at < j.len && !open) {
        unsigned char c[4];
        bool whole;
        size_t step = character(c, window(&j, at, c), &whole, &open);
        if (open) break;
        size_t n_put = whole ? step : sizeof replacement;
        if (cap - n < n_put) return pr_fail(err, PR_ERR_LIMIT, "token %d: %zu bytes are too few for it", (int)id, cap);
        memcpy(out + n, whole ? (const char *)c : replacement, n_put);
        n += n_put;
        at += step;
    }
    unsigned char tail[4];
    d->n_tail = (uint8_t)window(&j, at, tail); /* 0, or a beginning of at most three bytes */
    memcpy(d->tail, tail, d->n_tail);
    d->skip_space = false;
    *len = n;
    return PR_OK;
}

size_t pr_detok_finish(pr_detok *d, char *out) {
    if (d->n_tail == 0) return 0;
    d->n_tail = 0;
    memcpy(out, replacement, sizeof replacement);
    return sizeof replacement;
}
