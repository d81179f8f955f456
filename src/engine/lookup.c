/* Prompt lookup, by looking at every position: some microseconds for a few thousand tokens, next to a step. */
#include "engine/lookup.h"

pr__lookup pr__lookup_find(const int32_t *tokens, uint32_t n) {
    pr__lookup best = {0, 0};
    for (uint32_t next = n - 1; n > PR__LOOKUP_LEAST && next >= PR__LOOKUP_LEAST; next--) {
        uint32_t length = 0;
        while (length < PR__LOOKUP_MOST && length < next && tokens[next - 1 - length] == tokens[n - 1 - length])
            length++;
        if (length >= PR__LOOKUP_LEAST && length > best.length) best = (pr__lookup){length, next};
        if (length == PR__LOOKUP_MOST) break;
    }
    return best;
}

void pr__lookup_drafts(const int32_t *tokens, uint32_t n, pr__lookup at, int32_t *drafts, uint32_t k) {
    for (uint32_t i = 0; i < k; i++) {
        uint32_t from = at.next + i;
        drafts[i] = from < n ? tokens[from] : drafts[from - n];
    }
}
