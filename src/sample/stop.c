/*
 * Streaming search for stop strings, after Knuth, Morris and Pratt.
 *
 * For each stop string the matcher knows how many of its bytes the text ends
 * with just now. The text that must be held back is then as long as the largest
 * of these numbers, and since those bytes equal the beginning of that stop
 * string, they need not be stored: the string itself is the buffer. So a push
 * copies nothing, a byte is let through once, and memory is fixed at open.
 *
 * Invariants between pushes: matched < len for every string (a completed one is
 * a hit); the held text is the first matched bytes of pats[longest]; no string
 * is matched further than that one. When a string of L bytes completes, L - 1 of
 * them were matched before its last byte, and therefore held: nothing of it has
 * been let through.
 *
 * One automaton over all strings (Aho-Corasick) would step once a byte instead
 * of once a string, for a table many times this code; requests bring a handful of
 * strings and a few bytes per token.
 */
#include "sample/stop.h"

#include <string.h>

#include "base/mem.h"

typedef struct pattern {
    const char *text;   /* [len] */
    const size_t *next; /* [len]: next[i] is the longest proper border of text[0..i], i + 1 bytes */
    size_t len;
    size_t matched; /* bytes of text that the input ends with */
} pattern;

struct pr_stop {
    size_t n;
    size_t longest; /* the pattern whose beginning is held */
    size_t which;   /* the one that completed, when hit */
    bool hit;
    pattern pats[]; /* [n], then the borders of all, then the bytes of all */
};

/* ---- open and close --------------------------------------------------- */

/* Bytes of one block for n strings of total bytes. */
static bool block_size(size_t n, size_t total, size_t *bytes) {
    size_t pats, borders;
    return pr_size_mul(n, sizeof(pattern), &pats) && pr_size_mul(total, sizeof(size_t) + 1, &borders) &&
           pr_size_add(sizeof(pr_stop), pats, bytes) && pr_size_add(*bytes, borders, bytes);
}

/* How many bytes of text are matched when `byte` follows the first `matched` (< len) of them. */
static size_t advance(const char *text, const size_t *next, size_t matched, char byte) {
    while (text[matched] != byte) {
        if (matched == 0) {
            return 0;
        }
        matched = next[matched - 1];
    }
    return matched + 1;
}

static void fill_borders(const char *text, size_t len, size_t *next) {
    next[0] = 0;
    for (size_t i = 1; i < len; i++) {
        next[i] = advance(text, next, next[i - 1], text[i]);
    }
}

pr_status pr_stop_open(const char *const *stops, size_t n, pr_stop **out, pr_err *err) {
    *out = NULL;
    size_t total = 0, bytes;
    for (size_t i = 0; i < n; i++) {
        if (stops[i] == NULL || stops[i][0] == '\0') {
            return pr_fail(err, PR_ERR_ARG, "stop[%zu] is empty", i);
        }
        if (!pr_size_add(total, strlen(stops[i]), &total)) {
            return pr_fail(err, PR_ERR_LIMIT, "stop strings are too long");
        }
    }
    if (!block_size(n, total, &bytes)) {
        return pr_fail(err, PR_ERR_LIMIT, "stop strings are too long");
    }
    pr_stop *stop = pr_alloc(PR_TAG_SESSION, bytes);
    if (stop == NULL) {
        return pr_fail_nomem(err, "stop strings", bytes);
    }
    *stop = (pr_stop){.n = n};
    size_t *next = (size_t *)(stop->pats + n);
    char *text = (char *)(next + total);
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(stops[i]);
        memcpy(text, stops[i], len);
        fill_borders(text, len, next);
        stop->pats[i] = (pattern){.text = text, .next = next, .len = len};
        next += len;
        text += len;
    }
    *out = stop;
    return PR_OK;
}

void pr_stop_close(pr_stop *stop) { pr_free(stop); }

/* ---- the stream ------------------------------------------------------- */

void pr_stop_reset(pr_stop *stop) {
    for (size_t i = 0; i < stop->n; i++) {
        stop->pats[i].matched = 0;
    }
    stop->longest = stop->which = 0;
    stop->hit = false;
}

size_t pr_stop_held(const pr_stop *stop) { return stop->n > 0 && !stop->hit ? stop->pats[stop->longest].matched : 0; }

/* Take one byte; returns how many of the last bytes are held now, or belong to the stop string that is complete. */
static size_t take(pr_stop *stop, char byte) {
    size_t most = 0;
    for (size_t i = 0; i < stop->n; i++) {
        pattern *pat = &stop->pats[i];
        pat->matched = advance(pat->text, pat->next, pat->matched, byte);
        bool complete = pat->matched == pat->len;
        /* A complete string goes before any beginning, the longer before the shorter. */
        if (complete > stop->hit || (complete == stop->hit && pat->matched > most)) {
            most = pat->matched;
            stop->longest = stop->which = i;
            stop->hit = complete;
        }
    }
    return most;
}

void pr_stop_push(pr_stop *stop, const char *text, size_t len, pr_stop_out *out) {
    *out = (pr_stop_out){.head = "", .body = text, .hit = stop->hit, .which = stop->which};
    if (stop->n == 0) {
        out->body_len = len;
        return;
    }
    if (stop->hit) {
        return;
    }
    const char *held = stop->pats[stop->longest].text;
    size_t n_held = pr_stop_held(stop), kept = n_held, used = 0;
    while (used < len && !stop->hit) {
        kept = take(stop, text[used++]);
    }
    /* Of the n_held + used bytes at hand the last `kept` stay back. */
    size_t through = n_held + used - kept;
    out->head = held;
    out->head_len = through < n_held ? through : n_held;
    out->body_len = through - out->head_len;
    out->hit = stop->hit;
    out->which = stop->which;
}

void pr_stop_finish(pr_stop *stop, pr_stop_out *out) {
    *out = (pr_stop_out){.head = "", .body = "", .hit = stop->hit, .which = stop->which};
    if (pr_stop_held(stop) > 0) {
        out->head = stop->pats[stop->longest].text;
        out->head_len = pr_stop_held(stop);
    }
    pr_stop_reset(stop);
}
