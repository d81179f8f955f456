/*
 * The inside of the text floor: what vocab.c builds and the tokenizers read.
 * Nobody outside src/text includes this, except its own tests.
 */
#ifndef PRECIS_TEXT_INTERNAL_H
#define PRECIS_TEXT_INTERNAL_H

#include "base/arena.h"
#include "base/str.h"
#include "text/pretok.h"
#include "text/vocab.h"

#define PR__NO_KEY UINT32_MAX /* the key of a pair that does not merge */

/* One merge: the pair of tokens and its rank; rank PR__NO_KEY marks a free slot. */
typedef struct pr__pair {
    uint32_t left, right, rank;
} pr__pair;

/* n byte strings end to end: string i is data[at[i] .. at[i + 1]). */
typedef struct pr__strings {
    char *data;
    uint32_t *at; /* [n + 1] */
} pr__strings;

struct pr_vocab {
    pr_arena arena; /* holds everything below but the pre-tokenizer */
    pr_vocab_kind kind;
    uint32_t n;
    pr__strings texts;  /* as stored */
    pr__strings pieces; /* the bytes they stand for */
    uint8_t *attrs;     /* [n] PR_TOKEN_*, and PR__TOKEN_END */
    uint32_t text_max;  /* longest stored text that can come out of a merge */
    size_t piece_max;   /* what one token adds to the output of a detokenizer at most */

    uint32_t *slots; /* open addressing: hash of the text -> id + 1, 0: free */
    uint32_t slot_mask;

    pr__pair *pairs; /* open addressing (BPE and SPM_MERGES) */
    uint32_t pair_mask;
    int32_t *products; /* [n_merges] token that the merge of this rank makes */
    uint32_t *keys;    /* [n] SPM: scores turned so that the best is smallest; PR__NO_KEY: never merged into */

    int32_t byte_ids[256];     /* token of each byte: byte alphabet or <0xNN>; -1: none */
    uint8_t before_space[256]; /* SPM kinds: 1 when some token holds this byte right before U+2581 */

    uint32_t *special; /* [n_special] ids of tokens matched whole, sorted by text */
    uint32_t n_special;
    uint32_t special_first[257]; /* special[special_first[b] ..) begin with byte b */
    bool first_user[256];        /* a user-defined token begins with this byte */

    pr_pretok *pretok; /* BPE, or explicit patterns; NULL: none */
    int32_t bos, eos, unk;
    bool add_bos, add_eos, add_space_prefix, escape_whitespaces, ignore_merges, remove_extra_whitespaces;
};

enum { PR__TOKEN_END = 128 }; /* ends a turn */

static inline const char *pr__string(const pr__strings *s, uint32_t i, size_t *len) {
    *len = s->at[i + 1] - s->at[i];
    return s->data + s->at[i];
}

/* ---- vocab.c ---- */
int32_t pr__vocab_find(const pr_vocab *v, const char *text, size_t len); /* -1: none */
/* Rank of the merge of two tokens, PR__NO_KEY if there is none. */
uint32_t pr__vocab_rank(const pr_vocab *v, int32_t left, int32_t right);

/* ---- alphabet.c: the GPT-2 byte alphabet ---- */
uint32_t pr__alphabet_of(unsigned char byte);                /* its code point */
size_t pr__alphabet_encode(unsigned char byte, char out[2]); /* the same as UTF-8 */
int pr__alphabet_byte(int32_t cp);                           /* the byte, -1 when cp is not a letter of it */

/* ---- special.c ---- */
pr_status pr__special_build(pr_vocab *v, pr_err *err);

/* A stretch of text up to and with the next special token. */
typedef struct pr__fragment {
    size_t raw_end; /* plain text is [pos, raw_end) */
    int32_t id;     /* the special token after it; -1 at the end of the text */
    size_t next;    /* where the following fragment begins */
} pr__fragment;
pr__fragment pr__special_next(const pr_vocab *v, const char *text, size_t len, size_t pos, bool control);

/* ---- merge.c: bottom-up merging, shared by every kind ---- */

/* A symbol: a character or what characters have been merged into. */
typedef struct pr__sym {
    uint32_t prev, next; /* neighbours; UINT32_MAX: none */
    uint32_t at;         /* where it begins in the text */
    int32_t id;          /* its token; -1: not a token */
    uint32_t key;        /* priority of merging it with next; PR__NO_KEY: does not merge */
    int32_t product;     /* token that merge makes */
} pr__sym;

/* Scratch of one pr_tokenize() call. */
typedef struct pr__merger {
    const pr_vocab *v;
    const char *text; /* SPM: the bytes that the symbols stand for */
    size_t len;
    pr__sym *syms;
    uint32_t n, cap;
    uint64_t *heap; /* key << 32 | position of the left symbol */
} pr__merger;

void pr__merger_free(pr__merger *m);
/* Make room for n symbols and forget the old ones. */
pr_status pr__merger_reset(pr__merger *m, size_t n, pr_err *err);
void pr__merger_push(pr__merger *m, size_t at, int32_t id);
/* Merge until nothing merges. Symbol 0 stays first; follow next. */
void pr__merger_run(pr__merger *m);

/* ---- where ids go ---- */
typedef struct pr__sink {
    int32_t *ids;
    size_t max, n; /* n counts past max */
} pr__sink;

static inline void pr__sink_put(pr__sink *s, int32_t id) {
    if (s->n < s->max) s->ids[s->n] = id;
    s->n++;
}

/* ---- bpe.c, spm.c: one stretch of plain text ---- */

typedef struct pr__tokenizer {
    const pr_vocab *v;
    pr_pretok_run *pretok; /* NULL: the vocabulary has no patterns */
    pr__merger merger;
    pr__sink sink;
    pr_str buf;     /* BPE: a word in the byte alphabet; SPM: the normalized text */
    bool after_unk; /* SPM: the last token was the unknown one */
} pr__tokenizer;

pr_status pr__bpe_text(pr__tokenizer *t, const char *text, size_t len, pr_err *err);
pr_status pr__spm_text(pr__tokenizer *t, const char *text, size_t len, pr_err *err);

#endif
