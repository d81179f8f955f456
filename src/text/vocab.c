/*
 * The vocabulary: copies of the file's arrays, and the indexes that make them
 * fast.
 *
 * Two hash tables carry the weight, both open addressing with a power of two
 * at least twice the entries: text -> token (words that are tokens, special
 * tokens, SentencePiece merges) and pair of tokens -> rank (BPE merges). A BPE
 * merge is resolved to token numbers here, once; merging then never touches
 * text. A merge that names or makes something that is no token can never be of
 * use and is left out (pruned vocabularies have them).
 *
 * Strings of all tokens lie end to end in one block with offsets: 50,000 small
 * allocations would double the memory. Everything is in one arena, immutable
 * afterwards, so readers need no locks.
 */
#include "text/vocab.h"

#include <string.h>

#include "base/str.h"
#include "text/internal.h"

#define HASH_MUL 0x9e3779b97f4a7c15u

static const char space_mark[] = "\xe2\x96\x81"; /* U+2581 */

/* ---- the two tables ---- */

static uint32_t hash_text(const char *text, size_t len) {
    uint64_t h = len * HASH_MUL, word;
    for (; len >= 8; text += 8, len -= 8) {
        memcpy(&word, text, 8);
        h = (h ^ word) * HASH_MUL;
        h ^= h >> 32;
    }
    word = 0;
    for (size_t i = 0; i < len; i++) word |= (uint64_t)(unsigned char)text[i] << (8 * i);
    h = (h ^ word) * HASH_MUL;
    return (uint32_t)(h >> 32);
}

static uint32_t hash_pair(uint32_t left, uint32_t right) {
    uint64_t h = ((uint64_t)left << 32 | right) * HASH_MUL;
    return (uint32_t)((h ^ h >> 32) * HASH_MUL >> 32);
}

/* A power of two with room for n entries at half load; 0: too many. */
static uint32_t table_size(size_t n) {
    uint32_t size = 16;
    while (size / 2 < n && size < 1u << 31) size *= 2;
    return size / 2 < n ? 0 : size;
}

int32_t pr__vocab_find(const pr_vocab *v, const char *text, size_t len) {
    for (uint32_t i = hash_text(text, len) & v->slot_mask; v->slots[i]; i = (i + 1) & v->slot_mask) {
        uint32_t id = v->slots[i] - 1;
        size_t n;
        const char *have = pr__string(&v->texts, id, &n);
        if (n == len && memcmp(have, text, len) == 0) return (int32_t)id;
    }
    return -1;
}

uint32_t pr__vocab_rank(const pr_vocab *v, int32_t left, int32_t right) {
    uint32_t l = (uint32_t)left, r = (uint32_t)right;
    uint32_t i = hash_pair(l, r) & v->pair_mask;
    for (; v->pairs[i].rank != PR__NO_KEY; i = (i + 1) & v->pair_mask)
        if (v->pairs[i].left == l && v->pairs[i].right == r) return v->pairs[i].rank;
    return PR__NO_KEY;
}

static pr_status index_texts(pr_vocab *v, pr_err *err) {
    uint32_t size = table_size(v->n);
    v->slots = size ? pr_arena_array(&v->arena, size, sizeof *v->slots) : NULL;
    if (!v->slots) return pr_fail_nomem(err, "the token index", size * sizeof *v->slots);
    v->slot_mask = size - 1;
    for (uint32_t id = 0; id < v->n; id++) {
        size_t len;
        const char *text = pr__string(&v->texts, id, &len);
        if (!len || pr__vocab_find(v, text, len) >= 0) continue; /* the first of equals is the one found */
        uint32_t i = hash_text(text, len) & v->slot_mask;
        while (v->slots[i]) i = (i + 1) & v->slot_mask;
        v->slots[i] = id + 1;
    }
    return PR_OK;
}

/* ---- strings ---- */

/* Room for n strings of `bytes` in all. */
static pr_status strings_open(pr_arena *arena, pr__strings *s, size_t n, size_t bytes, pr_err *err) {
    if (bytes > UINT32_MAX) return pr_fail(err, PR_ERR_LIMIT, "vocabulary: %zu bytes of token text", bytes);
    s->data = pr_arena_alloc(arena, bytes);
    s->at = pr_arena_array(arena, n + 1, sizeof *s->at);
    return s->data && s->at ? PR_OK : pr_fail_nomem(err, "token texts", bytes);
}

static pr_status copy_texts(pr_vocab *v, const pr_vocab_spec *spec, pr_err *err) {
    size_t bytes = 0;
    for (size_t i = 0; i < spec->n_tokens; i++)
        if (!pr_size_add(bytes, spec->tokens[i].len, &bytes)) bytes = SIZE_MAX;
    pr_status status = strings_open(&v->arena, &v->texts, v->n, bytes, err);
    if (status) return status;
    uint32_t at = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        const pr_text_ref *t = &spec->tokens[i];
        if (t->len) memcpy(v->texts.data + at, t->data, t->len);
        at += (uint32_t)t->len;
        v->texts.at[i + 1] = at;
    }
    return PR_OK;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that "<0xNN>" stands for; -1 for any other text. */
static int byte_of_text(const char *text, size_t len) {
    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* ---- attributes ---- */

/* Texts of control tokens that end a turn in some family of models. */
static bool ends_turn(const char *text, size_t len) {
    static const char *const ends[] = {
        "</s>",
        "<eos>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<end_of_turn>",
        "<|return|>",
        "<|call|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<end_of_utterance>",
        "<turn|>",
        "<|end_of_turn|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|eot|>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (strlen(ends[i]) == len && memcmp(ends[i], text, len) == 0) return true;
    return false;
}

static pr_status set_attrs(pr_vocab *v, const pr_vocab_spec *spec, pr_err *err) {
    v->attrs = pr_arena_array(&v->arena, v->n, 1);
    if (!v->attrs) return pr_fail_nomem(err, "token attributes", v->n);
    for (uint32_t i = 0; i < v->n; i++) {
        size_t len;
        const char *text = pr__string(&v->texts, i, &len);
        uint8_t attr = spec->attrs ? (uint8_t)(spec->attrs[i] & ~PR__TOKEN_END) : 0;
        bool is_byte = byte_of_text(text, len) >= 0;
        if (!is_byte) attr = (uint8_t)(attr & ~PR_TOKEN_BYTE);
        else if (v->kind != PR_VOCAB_BPE && !(attr & (PR_TOKEN_CONTROL | PR_TOKEN_USER_DEFINED))) attr |= PR_TOKEN_BYTE;
        if ((attr & PR_TOKEN_CONTROL) && ends_turn(text, len)) attr |= PR__TOKEN_END;
        v->attrs[i] = attr;
    }
    /* In the harmony format <|end|> closes one message of a turn; <|return|> and <|call|> end the turn. */
    int32_t end = pr__vocab_find(v, "<|end|>", 7);
    if (end >= 0 && pr__vocab_find(v, "<|return|>", 10) >= 0 && pr__vocab_find(v, "<|call|>", 8) >= 0)
        v->attrs[end] = (uint8_t)(v->attrs[end] & ~PR__TOKEN_END);
    if (v->eos >= 0) v->attrs[v->eos] |= PR__TOKEN_END;
    if (spec->eot >= 0) v->attrs[spec->eot] |= PR__TOKEN_END;
    return PR_OK;
}

/* ---- pieces ---- */

/* Write the bytes that token text stands for to out (never more than len); returns how many. */
static size_t piece_of(const pr_vocab *v, uint8_t attr, const char *text, size_t len, char *out) {
    size_t n = 0;
    if (attr & PR_TOKEN_BYTE) {
        out[n++] = (char)byte_of_text(text, len);
        return n;
    }
    if (attr & (PR_TOKEN_CONTROL | PR_TOKEN_USER_DEFINED | PR_TOKEN_UNKNOWN)) {
        memcpy(out, text, len);
        return len;
    }
    for (size_t i = 0; i < len;) {
        int32_t cp;
        size_t step = pr_utf8_decode(text + i, len - i, &cp);
        int byte = v->kind == PR_VOCAB_BPE ? pr__alphabet_byte(cp) : cp == 0x2581 ? ' ' : -1;
        if (byte >= 0) out[n++] = (char)byte;
        else
            for (size_t k = 0; k < step; k++) out[n++] = text[i + k];
        i += step;
    }
    return n;
}

/* Bytes that a detokenizer may write for a piece: what is not a whole character becomes U+FFFD. */
static size_t shown_max(const char *piece, size_t len) {
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        int32_t cp;
        size_t step = pr_utf8_decode(piece + i, len - i, &cp);
        n += cp < 0 ? 3 * step : step;
        i += step;
    }
    return n;
}

static pr_status make_pieces(pr_vocab *v, pr_err *err) {
    /* A piece is never longer than its text. */
    pr_status status = strings_open(&v->arena, &v->pieces, v->n, v->texts.at[v->n], err);
    if (status) return status;
    uint32_t at = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        size_t len;
        const char *text = pr__string(&v->texts, i, &len);
        size_t n = piece_of(v, v->attrs[i], text, len, v->pieces.data + at);
        size_t shown = shown_max(v->pieces.data + at, n);
        if (shown > v->piece_max) v->piece_max = shown;
        at += (uint32_t)n;
        v->pieces.at[i + 1] = at;
    }
    return PR_OK;
}

/* ---- merges and scores ---- */

/* Resolve merge i to (left, right) -> product; false when something in it is no token. */
static bool resolve_merge(const pr_vocab *v, const pr_text_ref *merge, size_t space, char *joined, pr__pair *pair,
                          int32_t *product) {
    size_t right_len = merge->len - space - 1;
    int32_t left = pr__vocab_find(v, merge->data, space);
    int32_t right = pr__vocab_find(v, merge->data + space + 1, right_len);
    memcpy(joined, merge->data, space);
    memcpy(joined + space, merge->data + space + 1, right_len);
    *product = pr__vocab_find(v, joined, space + right_len);
    *pair = (pr__pair){.left = (uint32_t)left, .right = (uint32_t)right};
    return left >= 0 && right >= 0 && *product >= 0 && !(v->attrs[*product] & (PR_TOKEN_CONTROL | PR_TOKEN_UNKNOWN));
}

/* The space between the halves; a half may itself begin with one. Returns len when there is none. */
static size_t merge_space(const pr_text_ref *merge) {
    const char *at = merge->len > 2 ? memchr(merge->data + 1, ' ', merge->len - 2) : NULL;
    return at ? (size_t)(at - merge->data) : merge->len;
}

static pr_status index_merges(pr_vocab *v, const pr_vocab_spec *spec, pr_err *err) {
    uint32_t size = table_size(spec->n_merges);
    v->pairs = size ? pr_arena_array(&v->arena, size, sizeof *v->pairs) : NULL;
    v->products = pr_arena_array(&v->arena, spec->n_merges, sizeof *v->products);
    if (!v->pairs || !v->products) return pr_fail_nomem(err, "the merge index", spec->n_merges * sizeof *v->pairs);
    v->pair_mask = size - 1;
    for (uint32_t i = 0; i < size; i++) v->pairs[i].rank = PR__NO_KEY;

    size_t len_max = 0;
    for (size_t i = 0; i < spec->n_merges; i++)
        if (spec->merges[i].len > len_max) len_max = spec->merges[i].len;
    char *joined = pr_alloc(PR_TAG_VOCAB, len_max);
    if (!joined) return pr_fail_nomem(err, "a merge", len_max);
    pr_status status = PR_OK;
    for (uint32_t rank = 0; rank < spec->n_merges; rank++) {
        const pr_text_ref *merge = &spec->merges[rank];
        size_t space = merge_space(merge);
        if (space == merge->len) {
            status = pr_fail(err, PR_ERR_FORMAT, "vocabulary: merge %u is not two texts with a space between", rank);
            break;
        }
        pr__pair pair;
        if (!resolve_merge(v, merge, space, joined, &pair, &v->products[rank])) continue;
        if (pr__vocab_rank(v, (int32_t)pair.left, (int32_t)pair.right) != PR__NO_KEY) continue; /* the first counts */
        uint32_t slot = hash_pair(pair.left, pair.right) & v->pair_mask;
        while (v->pairs[slot].rank != PR__NO_KEY) slot = (slot + 1) & v->pair_mask;
        pair.rank = rank;
        v->pairs[slot] = pair;
    }
    pr_free(joined);
    return status;
}

/* A float as an integer that is smallest for the largest float. */
static uint32_t key_of_score(float score) {
    float positive_zero = score + 0.0f;
    uint32_t bits;
    memcpy(&bits, &positive_zero, 4);
    uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return ascending ? ~ascending : PR__NO_KEY - 1;
}

/* Scores as keys. Tokens that are not text take no part in merging: a "<s>" typed by a user stays text. */
static pr_status make_keys(pr_vocab *v, const pr_vocab_spec *spec, pr_err *err) {
    v->keys = pr_arena_array(&v->arena, v->n, sizeof *v->keys);
    if (!v->keys) return pr_fail_nomem(err, "token scores", v->n * sizeof *v->keys);
    for (uint32_t i = 0; i < v->n; i++) {
        bool text = !(v->attrs[i] & (PR_TOKEN_CONTROL | PR_TOKEN_UNKNOWN | PR_TOKEN_BYTE));
        v->keys[i] = text ? key_of_score(spec->scores ? spec->scores[i] : 0) : PR__NO_KEY;
    }
    return PR_OK;
}

/* Find the tokens of single bytes, and what may stand before a space mark inside a token. */
static void index_bytes(pr_vocab *v) {
    for (int b = 0; b < 256; b++) v->byte_ids[b] = -1;
    if (v->kind == PR_VOCAB_BPE) {
        for (int b = 0; b < 256; b++) {
            char letter[2];
            v->byte_ids[b] = pr__vocab_find(v, letter, pr__alphabet_encode((unsigned char)b, letter));
        }
    }
    for (uint32_t i = 0; i < v->n; i++) {
        size_t len;
        const char *text = pr__string(&v->texts, i, &len);
        if (v->attrs[i] & (PR_TOKEN_CONTROL | PR_TOKEN_UNKNOWN)) continue;
        if (len > v->text_max) v->text_max = (uint32_t)len;
        if (v->kind == PR_VOCAB_BPE) continue;
        if (v->attrs[i] & PR_TOKEN_BYTE) v->byte_ids[byte_of_text(text, len)] = (int32_t)i;
        for (size_t k = 1; k + 3 <= len; k++)
            if (memcmp(text + k, space_mark, 3) == 0) v->before_space[(unsigned char)text[k - 1]] = 1;
    }
}

/* ---- building ---- */

static pr_status check_id(const pr_vocab_spec *spec, const char *what, int32_t id, pr_err *err) {
    if (id < 0 || (size_t)id < spec->n_tokens) return PR_OK;
    return pr_fail(err, PR_ERR_FORMAT, "vocabulary: the %s token is %d, but there are %zu tokens", what, (int)id,
                   spec->n_tokens);
}

static pr_status check_spec(const pr_vocab_spec *spec, pr_err *err) {
    if (!spec->n_tokens) return pr_fail(err, PR_ERR_FORMAT, "vocabulary: no tokens");
    if (spec->n_tokens > INT32_MAX / 2) return pr_fail(err, PR_ERR_LIMIT, "vocabulary: %zu tokens", spec->n_tokens);
    if (spec->n_merges > INT32_MAX / 2) return pr_fail(err, PR_ERR_LIMIT, "vocabulary: %zu merges", spec->n_merges);
    pr_status status;
    if ((status = check_id(spec, "bos", spec->bos, err))) return status;
    if ((status = check_id(spec, "eos", spec->eos, err))) return status;
    if ((status = check_id(spec, "eot", spec->eot, err))) return status;
    return check_id(spec, "unknown", spec->unk, err);
}

static pr_status build_pretok(pr_vocab *v, const pr_vocab_spec *spec, pr_err *err) {
    if (spec->n_pre_patterns) {
        pr__pre_step *steps = pr_calloc(PR_TAG_VOCAB, spec->n_pre_patterns, sizeof *steps);
        if (!steps) return pr_fail_nomem(err, "pre-tokenizer patterns", spec->n_pre_patterns * sizeof *steps);
        for (size_t i = 0; i < spec->n_pre_patterns; i++) steps[i].pattern = spec->pre_patterns[i];
        pr_status status = pr__pretok_build(steps, spec->n_pre_patterns, spec->texts, &v->pretok, err);
        pr_free(steps);
        return status;
    }
    if (v->kind != PR_VOCAB_BPE) return PR_OK;
    const pr__pre_entry *entry = pr__pre_find(spec->pre);
    if (!entry) return pr_fail(err, PR_ERR_UNSUPPORTED, "vocabulary: unknown pre-tokenizer \"%s\"", spec->pre);
    v->ignore_merges = v->ignore_merges || entry->ignore_merges;
    size_t n = 0;
    while (entry->steps[n].pattern) n++;
    return pr__pretok_build(entry->steps, n, spec->texts, &v->pretok, err);
}

pr_status pr_vocab_build(const pr_vocab_spec *spec, pr_vocab **out, pr_err *err) {
    *out = NULL;
    pr_status status = check_spec(spec, err);
    if (status) return status;
    pr_vocab *v = pr_calloc(PR_TAG_VOCAB, 1, sizeof *v);
    if (!v) return pr_fail_nomem(err, "a vocabulary", sizeof *v);
    pr_arena_init(&v->arena, PR_TAG_VOCAB);
    v->kind = spec->kind;
    v->n = (uint32_t)spec->n_tokens;
    v->bos = spec->bos;
    v->eos = spec->eos;
    v->unk = spec->unk;
    v->add_bos = spec->add_bos;
    v->add_eos = spec->add_eos;
    v->add_space_prefix = spec->add_space_prefix;
    v->escape_whitespaces = spec->escape_whitespaces;
    v->ignore_merges = spec->ignore_merges;
    v->remove_extra_whitespaces = spec->remove_extra_whitespaces;

    if ((status = copy_texts(v, spec, err))) goto fail;
    if ((status = index_texts(v, err))) goto fail;
    if ((status = set_attrs(v, spec, err))) goto fail;
    if ((status = make_pieces(v, err))) goto fail;
    index_bytes(v);
    status = v->kind == PR_VOCAB_SPM ? make_keys(v, spec, err) : index_merges(v, spec, err);
    if (status) goto fail;
    if ((status = pr__special_build(v, err))) goto fail;
    if ((status = build_pretok(v, spec, err))) goto fail;
    *out = v;
    return PR_OK;
fail:
    pr_vocab_free(v);
    return status;
}

void pr_vocab_free(pr_vocab *v) {
    if (!v) return;
    pr__pretok_free(v->pretok);
    pr_arena_free(&v->arena);
    pr_free(v);
}

/* ---- asking ---- */

size_t pr_vocab_size(const pr_vocab *v) { return v->n; }
int32_t pr_vocab_bos(const pr_vocab *v) { return v->bos; }
int32_t pr_vocab_eos(const pr_vocab *v) { return v->eos; }
bool pr_vocab_add_bos(const pr_vocab *v) { return v->add_bos && v->bos >= 0; }
size_t pr_vocab_piece_max(const pr_vocab *v) { return v->piece_max; }

static bool in_range(const pr_vocab *v, int32_t id) { return id >= 0 && (uint32_t)id < v->n; }

bool pr_vocab_is_end(const pr_vocab *v, int32_t id) { return in_range(v, id) && (v->attrs[id] & PR__TOKEN_END); }

int32_t pr_vocab_find(const pr_vocab *v, const char *token, size_t len) { return pr__vocab_find(v, token, len); }

const char *pr_vocab_token(const pr_vocab *v, int32_t id, size_t *len) {
    *len = 0;
    return in_range(v, id) ? pr__string(&v->texts, (uint32_t)id, len) : NULL;
}

const char *pr_vocab_piece(const pr_vocab *v, int32_t id, bool special, size_t *len) {
    *len = 0;
    if (!in_range(v, id)) return NULL;
    const char *piece = pr__string(&v->pieces, (uint32_t)id, len);
    if (!special && (v->attrs[id] & (PR_TOKEN_CONTROL | PR_TOKEN_UNKNOWN))) *len = 0;
    return piece;
}

bool pr_vocab_pre_adds_bos(const char *pre) {
    const pr__pre_entry *entry = pr__pre_find(pre);
    return entry && entry->add_bos;
}
