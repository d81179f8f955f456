/*
 * Server-sent events: the bytes of one event, appended to a text.
 *
 * Written for one event a token: nothing is parsed, nothing is allocated but by the text itself, which its owner clears and
 * uses again.
 */
#ifndef PRECIS_HTTP_SSE_H
#define PRECIS_HTTP_SSE_H

#include "base/str.h"

/* "data: " json "\n\n". A line break inside json begins another "data: " line, as the standard has it. */
void pr_sse_data(pr_str *out, const char *json, size_t len);

/* One event that is head, then text as a JSON string with its quotes (invalid UTF-8 becomes U+FFFD), then tail: the delta
 * of a stream, whose head and tail are the same for all its events and hold no line break. */
void pr_sse_delta(pr_str *out, const pr_str *head, const char *text, size_t len, const pr_str *tail);

/* "data: [DONE]\n\n". */
void pr_sse_done(pr_str *out);

#endif
