/*
 * Records: a fixed head for each event, then its bytes.
 *
 * Not aligned, so heads are copied in and out.
 */
#include "api/record.h"

#include <string.h>

enum { PARTS = 4 /* of pr_lp_text */ };

typedef struct head {
    uint32_t choice, len; /* len: of the text, or of the tail of an end */
    uint32_t lp[PARTS];
    uint8_t level, ends, has_lp, unused;
} head;

typedef struct tail { /* of an end */
    double queue_seconds, first_token_seconds, total_seconds;
    uint64_t prompt, cached, completion;
    uint32_t levels_used;
    uint8_t finish, timed_out, unused[2];
} tail;

_Static_assert(sizeof(head) == 28 && sizeof(tail) == 56, "no holes, whose bytes would be anything");

static const char *const finishes[] = {"stop", "length", "capacity"};
enum { FINISHES = sizeof finishes / sizeof *finishes };

static void add(pr_str *record, const void *bytes, size_t len) {
    if (len) pr_str_append(record, bytes, len);
}

static void parts_of(pr_lp_text *lp, pr_str *out[PARTS]) {
    out[0] = &lp->tokens;
    out[1] = &lp->values;
    out[2] = &lp->tops;
    out[3] = &lp->offsets;
}

void pr_record_token(pr_str *record, uint32_t choice, pr_level level, const char *text, size_t len,
                     const pr_lp_text *lp) {
    pr_lp_text none = {0}, borrowed = lp ? *lp : none;
    pr_str *parts[PARTS];
    head h = {.choice = choice, .len = (uint32_t)len, .level = (uint8_t)level, .has_lp = lp != NULL};
    parts_of(&borrowed, parts);
    for (int i = 0; i < PARTS; i++) {
        h.lp[i] = (uint32_t)parts[i]->len;
        record->failed |= parts[i]->failed;
    }
    add(record, &h, sizeof h);
    add(record, text, len);
    for (int i = 0; i < PARTS; i++) add(record, parts[i]->data, parts[i]->len);
}

void pr_record_end(pr_str *record, uint32_t choice, const pr_ending *ending, const pr_usage *share) {
    head h = {.choice = choice, .len = sizeof(tail), .level = (uint8_t)ending->level, .ends = 1};
    tail t = {
        .queue_seconds = ending->queue_seconds,
        .first_token_seconds = ending->first_token_seconds,
        .total_seconds = ending->total_seconds,
        .prompt = share->prompt,
        .cached = share->cached,
        .completion = share->completion,
        .levels_used = ending->levels_used,
        .timed_out = ending->timed_out,
    };
    while (t.finish + 1 < FINISHES && strcmp(finishes[t.finish], ending->finish) != 0) t.finish++;
    add(record, &h, sizeof h);
    add(record, &t, sizeof t);
}

static bool read_end(const char *data, const head *h, pr_event *out) {
    tail t;
    if (h->len != sizeof t) return false;
    memcpy(&t, data, sizeof t);
    if (t.finish >= FINISHES) return false;
    out->ending = (pr_ending){
        .finish = finishes[t.finish],
        .levels_used = t.levels_used,
        .level = out->level,
        .queue_seconds = t.queue_seconds,
        .first_token_seconds = t.first_token_seconds,
        .total_seconds = t.total_seconds,
        .timed_out = t.timed_out != 0,
    };
    out->share = (pr_usage){t.prompt, t.cached, t.completion};
    out->text = NULL;
    out->len = 0;
    return true;
}

size_t pr_record_next(const char *data, size_t len, pr_event *out) {
    head h;
    if (len < sizeof h) return 0;
    memcpy(&h, data, sizeof h);
    size_t at = sizeof h, left = len - sizeof h;
    if (h.choice >= PR_CHOICES_MAX || h.level >= PR_LEVELS || h.len > left) return 0;
    *out = (pr_event){.choice = h.choice, .level = (pr_level)h.level, .ends = h.ends != 0, .has_lp = h.has_lp != 0};
    out->text = data + at;
    out->len = h.len;
    if (out->ends && !read_end(data + at, &h, out)) return 0;
    at += h.len;
    left -= h.len;
    pr_str *parts[PARTS];
    parts_of(&out->lp, parts);
    for (int i = 0; i < PARTS; i++) {
        if (h.lp[i] > left) return 0;
        *parts[i] = (pr_str){.data = (char *)(uintptr_t)(data + at), .len = h.lp[i]}; /* cap 0: nobody's */
        at += h.lp[i];
        left -= h.lp[i];
    }
    return at;
}
