/*
 * A record: an answer as it came, in bytes.
 *
 * What each token added to which choice, in order, and how each choice ended. Everything that a client can be told is written
 * from it, at once or an hour later, in one piece or as a stream: so an answer that is repeated has the bytes of the first one.
 * A record holds no pointers and may be copied; it is read where it was made, by the same program.
 *
 * Pure. Reading checks every length: fuzz/fuzz_record.c feeds it anything.
 */
#ifndef PRECIS_API_RECORD_H
#define PRECIS_API_RECORD_H

#include "api/write.h"

typedef struct pr_event {
    uint32_t choice;
    pr_level level; /* it was computed at */
    bool ends;      /* the choice ends here: ending and share are set, the rest is empty */
    const char *text;
    size_t len;
    bool has_lp;
    pr_lp_text lp; /* borrows from the record: not to be freed */
    pr_ending ending;
    pr_usage share; /* what the choice adds to the answer's usage */
} pr_event;

/* Append; lp is NULL where there is none. Failure is that of the text. */
void pr_record_token(pr_str *record, uint32_t choice, pr_level level, const char *text, size_t len,
                     const pr_lp_text *lp);
void pr_record_end(pr_str *record, uint32_t choice, const pr_ending *ending, const pr_usage *share);

/* The event at the beginning of data. Returns how many bytes it has; 0: there is none, or it is broken. */
size_t pr_record_next(const char *data, size_t len, pr_event *out);

#endif
