/*
 * Fuzz: stop strings in a stream against a search of the whole text.
 *
 * Input: lines of stop strings up to an empty line, then the text. A byte of
 * the text is also the length of the piece that begins with it, so the cuts are
 * under the fuzzer's control.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sample/stop.h"

enum { STOPS_MAX = 8, STOP_LEN_MAX = 64 };

static void require(int truth) {
    if (!truth) {
        abort();
    }
}

/* The first byte of the stop string that ends first (the longest such), SIZE_MAX when there is none. */
static size_t find_stop(const char *text, size_t len, const char *const *stops, size_t n) {
    for (size_t end = 1; end <= len; end++) {
        size_t most = 0;
        for (size_t i = 0; i < n; i++) {
            size_t l = strlen(stops[i]);
            if (l > most && l <= end && memcmp(text + end - l, stops[i], l) == 0) {
                most = l;
            }
        }
        if (most > 0) {
            return end - most;
        }
    }
    return SIZE_MAX;
}

/* What came out must be the text, in order. */
static size_t require_text(const char *text, size_t len, size_t at, const pr_stop_out *out) {
    require(out->head_len + out->body_len <= len - at);
    require(out->head_len == 0 || memcmp(text + at, out->head, out->head_len) == 0);
    at += out->head_len;
    require(out->body_len == 0 || memcmp(text + at, out->body, out->body_len) == 0);
    return at + out->body_len;
}

static void check(pr_stop *stop, const char *const *stops, size_t n, const char *text, size_t len) {
    size_t want = find_stop(text, len, stops, n), through = 0;
    pr_stop_out out = {0};
    for (size_t at = 0; at < len && !out.hit;) {
        size_t piece = (unsigned char)text[at] % 16u + 1u;
        piece = piece < len - at ? piece : len - at;
        pr_stop_push(stop, text + at, piece, &out);
        at += piece;
        through = require_text(text, len, through, &out);
        require(out.hit ? pr_stop_held(stop) == 0 : through + pr_stop_held(stop) == at);
        require(pr_stop_held(stop) < STOP_LEN_MAX);
    }
    require(out.hit == (want != SIZE_MAX));
    pr_stop_finish(stop, &out);
    through = require_text(text, len, through, &out);
    require(through == (out.hit ? want : len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char strings[STOPS_MAX][STOP_LEN_MAX + 1];
    const char *stops[STOPS_MAX];
    size_t n = 0, at = 0;
    while (n < STOPS_MAX && at < size && data[at] != '\n') {
        size_t len = 0;
        while (at < size && data[at] != '\n' && data[at] != '\0' && len < STOP_LEN_MAX) {
            strings[n][len++] = (char)data[at++];
        }
        strings[n][len] = '\0';
        stops[n] = strings[n];
        n += len > 0;
        at += at < size; /* the line feed, or whatever ended it */
    }
    at += at < size;
    pr_stop *stop = NULL;
    if (pr_stop_open(stops, n, &stop, NULL) == PR_OK) {
        check(stop, stops, n, (const char *)data + at, size - at);
        pr_stop_close(stop);
    }
    return 0;
}
