/*
 * Special tokens: cutting a text where one of them stands.
 *
 * Control tokens are matched only when the caller asks for it, user-defined
 * ones always. At every position the longest match wins, from left to right, as
 * the tokenizers that models were trained with do it.
 *
 * The tokens are sorted by text. Reading one more byte of the input narrows the
 * range of tokens that still agree with it, by binary search; where the range
 * begins stands the token that ends right here, if any. A range per first byte
 * makes the usual case, no match, one table look-up. That needs 4 bytes a
 * token; a trie would need hundreds.
 */
#include <stdlib.h>
#include <string.h>

#include "text/internal.h"

#define CONTROL_BITS (PR_TOKEN_CONTROL | PR_TOKEN_UNKNOWN)

static int compare(const void *a, const void *b, void *arg) {
    const pr_vocab *v = arg;
    size_t na, nb;
    const char *ta = pr__string(&v->texts, *(const uint32_t *)a, &na);
    const char *tb = pr__string(&v->texts, *(const uint32_t *)b, &nb);
    int order = memcmp(ta, tb, na < nb ? na : nb);
    return order ? order : (na > nb) - (na < nb);
}

static bool is_special(const pr_vocab *v, uint32_t id) {
    bool nameable = v->texts.at[id + 1] > v->texts.at[id];
    return nameable && (v->attrs[id] & (CONTROL_BITS | PR_TOKEN_USER_DEFINED));
}

static unsigned char byte_at(const pr_vocab *v, uint32_t i, size_t depth) {
    return (unsigned char)v->texts.data[v->texts.at[v->special[i]] + depth];
}

pr_status pr__special_build(pr_vocab *v, pr_err *err) {
    for (uint32_t id = 0; id < v->n; id++) v->n_special += is_special(v, id);
    v->special = pr_arena_array(&v->arena, v->n_special, sizeof *v->special);
    if (!v->special) return pr_fail_nomem(err, "special tokens", v->n_special * sizeof *v->special);
    uint32_t n = 0;
    for (uint32_t id = 0; id < v->n; id++)
        if (is_special(v, id)) v->special[n++] = id;
    qsort_r(v->special, n, sizeof *v->special, compare, v);
    for (uint32_t i = 0; i < n; i++) {
        unsigned char first = byte_at(v, i, 0);
        v->special_first[first + 1] = i + 1;
        if (v->attrs[v->special[i]] & PR_TOKEN_USER_DEFINED) v->first_user[first] = true;
    }
    for (size_t b = 1; b <= 256; b++)
        if (v->special_first[b] < v->special_first[b - 1]) v->special_first[b] = v->special_first[b - 1];
    return PR_OK;
}

/* First token of [low, high) whose byte at depth is at least `least`; all of them are longer than depth. */
static uint32_t lower_bound(const pr_vocab *v, uint32_t low, uint32_t high, size_t depth, unsigned least) {
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (byte_at(v, mid, depth) < least) low = mid + 1;
        else high = mid;
    }
    return low;
}

/* The longest special token at text[0..len), -1: none. */
static int32_t match(const pr_vocab *v, const char *text, size_t len, bool control, size_t *match_len) {
    unsigned char first = (unsigned char)text[0];
    uint32_t low = v->special_first[first], high = v->special_first[first + 1];
    int32_t best = -1;
    for (size_t depth = 1; low < high; depth++) {
        for (; low < high && v->texts.at[v->special[low] + 1] - v->texts.at[v->special[low]] == depth; low++) {
            uint32_t id = v->special[low];
            if (!control && (v->attrs[id] & CONTROL_BITS)) continue;
            best = (int32_t)id;
            *match_len = depth;
        }
        if (depth == len) break;
        unsigned char c = (unsigned char)text[depth];
        low = lower_bound(v, low, high, depth, c);
        high = lower_bound(v, low, high, depth, c + 1u);
    }
    return best;
}

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

pr__fragment pr__special_next(const pr_vocab *v, const char *text, size_t len, size_t pos, bool control) {
    for (size_t i = pos; i < len; i++) {
        unsigned char first = (unsigned char)text[i];
        if (v->special_first[first] == v->special_first[first + 1] || (!control && !v->first_user[first])) continue;
        size_t n = 0;
        int32_t id = match(v, text + i, len - i, control, &n);
        if (id < 0) continue;
        pr__fragment f = {.raw_end = i, .id = id, .next = i + n};
        if (v->attrs[id] & PR_TOKEN_LSTRIP)
            while (f.raw_end > pos && is_space(text[f.raw_end - 1])) f.raw_end--;
        if (v->attrs[id] & PR_TOKEN_RSTRIP)
            while (f.next < len && is_space(text[f.next])) f.next++;
        return f;
    }
    return (pr__fragment){.raw_end = len, .id = -1, .next = len};
}
