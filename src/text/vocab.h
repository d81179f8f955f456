/*
 * Vocabulary: what a tokenizer needs to know, as plain arrays.
 *
 * Model file readers fill a pr_vocab_spec (from GGUF metadata or
 * tokenizer.json); pr_vocab_build() copies it and adds the indexes. Knows
 * nothing of files. A built vocabulary is immutable and thread-safe.
 */
#ifndef PRECIS_TEXT_VOCAB_H
#define PRECIS_TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "precis.h"

typedef enum pr_vocab_kind {
    PR_VOCAB_BPE,       /* byte-level BPE: merges, GPT-2 byte alphabet */
    PR_VOCAB_SPM,       /* SentencePiece BPE: scores, U+2581 for space */
    PR_VOCAB_SPM_MERGES /* pieces like SentencePiece's, but ranked by merges (tokenizer.json: BPE with byte_fallback) */
} pr_vocab_kind;

/* Token attributes, a bit each; the top bit is not for callers. */
enum {
    PR_TOKEN_CONTROL = 1,      /* never text: <s>, <|im_end|> */
    PR_TOKEN_USER_DEFINED = 2, /* matched whole in any text */
    PR_TOKEN_BYTE = 4,         /* <0xNN> */
    PR_TOKEN_UNKNOWN = 8,
    PR_TOKEN_UNUSED = 16,
    PR_TOKEN_LSTRIP = 32, /* swallows (ASCII) white space before it */
    PR_TOKEN_RSTRIP = 64
};

typedef struct pr_text_ref { /* borrowed bytes */
    const char *data;
    size_t len;
} pr_text_ref;

typedef struct pr_vocab_spec {
    pr_vocab_kind kind;
    size_t n_tokens;
    const pr_text_ref *tokens; /* [n_tokens] as stored in the file (BPE: in the byte alphabet) */
    const float *scores;       /* [n_tokens] or NULL (SPM) */
    const uint8_t *attrs;      /* [n_tokens] or NULL: all 0 */
    size_t n_merges;
    const pr_text_ref *merges; /* [n_merges] "left right" in rank order (BPE kinds) */
    /* Pre-tokenizer name as in tokenizer.ggml.pre ("default", "llama-bpe", "smollm", ...); NULL or "" is "default".
     * Looked at for PR_VOCAB_BPE only. */
    const char *pre;
    /* Explicit pre-tokenizer from a tokenizer.json: patterns (as written there) applied one after another, each
     * splitting further into its matches and the gaps; overrides pre when n_pre_patterns > 0, for every kind. */
    const char *const *pre_patterns;
    size_t n_pre_patterns;
    int32_t bos, eos, unk, pad, eot; /* -1: none */
    bool add_bos, add_eos;
    bool add_space_prefix;   /* SPM */
    bool escape_whitespaces; /* SPM: ' ' becomes U+2581 */
    bool ignore_merges;      /* a whole word that is a token wins at once; some names of pre (llama-bpe) imply it */
    bool remove_extra_whitespaces; /* SPM: runs of spaces become one, none at the ends */
    pr_texts *texts;               /* where compiled patterns are shared; NULL: nowhere */
} pr_vocab_spec;

typedef struct pr_vocab pr_vocab;

/* Copies everything out of spec. Of equal texts the first is the one found. Merges whose halves or product are no
 * tokens are left out. SPM kinds: tokens written "<0xNN>" are bytes, with PR_TOKEN_BYTE or without.
 * PR_ERR_FORMAT for a merge without a space (named by its number) and for bos, eos, eot or unk out of range;
 * PR_ERR_UNSUPPORTED names a pre-tokenizer or pattern that is not known here. */
pr_status pr_vocab_build(const pr_vocab_spec *spec, pr_vocab **out, pr_err *err);
void pr_vocab_free(pr_vocab *vocab); /* NULL is allowed */

/* What a GGUF file without tokenizer.ggml.add_bos_token means when its pre-tokenizer is `pre` (BPE kinds). */
bool pr_vocab_pre_adds_bos(const char *pre);

size_t pr_vocab_size(const pr_vocab *vocab);
int32_t pr_vocab_bos(const pr_vocab *vocab); /* -1: none */
int32_t pr_vocab_eos(const pr_vocab *vocab);
bool pr_vocab_add_bos(const pr_vocab *vocab);
bool pr_vocab_is_end(const pr_vocab *vocab, int32_t id); /* eos, eot, <|im_end|>, <|eot_id|>, <end_of_turn>, ... */
int32_t pr_vocab_find(const pr_vocab *vocab, const char *token, size_t len); /* exact stored text; -1: none */
const char *pr_vocab_token(const pr_vocab *vocab, int32_t id, size_t *len);  /* as stored */

/* text[len] -> ids; see pr_engine_tokenize() for flags (PR_TOKENIZE_*), max and *n. Special tokens: the longest match
 * wins, from left to right; user-defined ones are matched with or without PR_TOKENIZE_SPECIAL. PR_TOKENIZE_BOS also
 * adds eos at the end where the model wants that. Bytes that are not UTF-8 are cut out one by one and become their byte
 * tokens. PR_ERR_UNSUPPORTED for text that the vocabulary has no tokens for, PR_ERR_LIMIT over 1 GiB. Takes time
 * n log n and memory in proportion to the longest word, for any text. */
pr_status pr_tokenize(const pr_vocab *vocab, const char *text, size_t len, unsigned flags, int32_t *ids, size_t max,
                      size_t *n, pr_err *err);

/* The bytes a token stands for (byte alphabet and U+2581 undone); NULL when id is out of range.
 * Control tokens are empty unless special. Valid as long as the vocabulary. */
const char *pr_vocab_piece(const pr_vocab *vocab, int32_t id, bool special, size_t *len);

/* Streaming detokenizer: bytes come out only as whole UTF-8 characters. */
typedef struct pr_detok {
    const pr_vocab *vocab;
    unsigned char tail[8]; /* an incomplete character */
    uint8_t n_tail;
    bool skip_space; /* SPM: the first piece loses its leading space */
    bool special;    /* show control tokens */
} pr_detok;

/* at_start: the next token is the first of a text (SPM drops its space prefix). */
void pr_detok_init(pr_detok *d, const pr_vocab *vocab, bool at_start, bool special);
/* Write what token id completes to out[cap]; *len is what was written. cap of pr_vocab_piece_max() + 8 is always
 * enough; when it is not, PR_ERR_LIMIT and d is as before. Bytes that can never become UTF-8 come out as U+FFFD. */
pr_status pr_detok_push(pr_detok *d, int32_t id, char *out, size_t cap, size_t *len, pr_err *err);
/* Flush an incomplete character as U+FFFD (at the end of a text); out has room for 4 bytes. */
size_t pr_detok_finish(pr_detok *d, char *out);
/* The most bytes that one token can show: its piece, every byte of it that is not part of a character as U+FFFD. */
size_t pr_vocab_piece_max(const pr_vocab *vocab);

#endif
