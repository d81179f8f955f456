/*
 * Stop strings, found in a text that arrives in pieces.
 *
 * A matcher lets text through, holds back only what could still become a stop
 * string, and reports the first stop string that is complete. What comes out
 * is the same however the text was cut into pieces.
 *
 * The first stop string is the one whose last byte comes first; of several
 * that end on the same byte it is the longest, so no part of a stop string is
 * let through. Bytes are compared, not characters: when the stop strings and
 * every piece are whole UTF-8 characters, so is everything let through.
 *
 * Not thread-safe; one matcher serves one text at a time.
 */
#ifndef PRECIS_SAMPLE_STOP_H
#define PRECIS_SAMPLE_STOP_H

#include "base/status.h"

typedef struct pr_stop pr_stop;

/* What a push lets through: first head, then body. head points into the matcher (text held back earlier) and is valid
 * until it is closed; body points into the piece pushed. */
typedef struct pr_stop_out {
    const char *head, *body;
    size_t head_len, body_len;
    bool hit;     /* a stop string is complete: the text ends here */
    size_t which; /* its index, when hit */
} pr_stop_out;

/* stops: n terminated strings, copied; n may be 0. PR_ERR_ARG for an empty or missing string, PR_ERR_NOMEM. Memory is a
 * small multiple of the strings, and none is allocated afterwards. */
pr_status pr_stop_open(const char *const *stops, size_t n, pr_stop **out, pr_err *err);
void pr_stop_close(pr_stop *stop); /* NULL is allowed */

/* Push the next piece. After a hit nothing more is let through, and hit stays set, until a reset. O(len * n). */
void pr_stop_push(pr_stop *stop, const char *text, size_t len, pr_stop_out *out);

/* The text ended without a hit: let through what is held (nothing after a hit). The matcher then starts anew. */
void pr_stop_finish(pr_stop *stop, pr_stop_out *out);

/* Start anew with another text; what is held is dropped. */
void pr_stop_reset(pr_stop *stop);

/* Bytes held back now; always less than the longest stop string. */
size_t pr_stop_held(const pr_stop *stop);

#endif
