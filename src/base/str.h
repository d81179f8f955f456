/*
 * Growable byte string, and small text helpers.
 *
 * A failed growth is remembered: appends become no-ops and pr_str_ok() is
 * false, so a builder checks once, at its end. Not thread-safe.
 */
#ifndef PRECIS_BASE_STR_H
#define PRECIS_BASE_STR_H

#include <stdarg.h>

#include "base/mem.h"
#include "base/status.h"

typedef struct pr_str {
    char *data; /* terminated once anything was appended; may be NULL */
    size_t len, cap;
    bool failed;
} pr_str;

void pr_str_free(pr_str *s);
void pr_str_clear(pr_str *s); /* keeps the memory */
void pr_str_append(pr_str *s, const char *data, size_t len);
void pr_str_puts(pr_str *s, const char *text);
void pr_str_printf(pr_str *s, const char *fmt, ...) PR_PRINTF(2, 3);
void pr_str_vprintf(pr_str *s, const char *fmt, va_list args) PR_PRINTF(2, 0);
/* Append text as a JSON string with quotes; invalid UTF-8 becomes U+FFFD, and what pr_text_safe() finds harmful to a terminal
 * is escaped, as in \u202e. */
void pr_str_json(pr_str *s, const char *text, size_t len);
/* Append a line for people: what does not belong into one, coming from outside, is written as pr_text_safe() does. */
void pr_str_line(pr_str *s, const char *fmt, ...) PR_PRINTF(2, 3);
static inline bool pr_str_ok(const pr_str *s) { return !s->failed; }
/* Take the memory (pr_free it); "" when empty, NULL when failed. */
char *pr_str_take(pr_str *s);

/* "1.4 GB", "93 MB", "12 kB" with decimal units, into buf. Returns buf. */
char *pr_format_bytes(char *buf, size_t buf_len, uint64_t bytes);
/* "2G", "90M", "4096", "1.5GB" (decimal; KiB/MiB/GiB are binary). false when it is not a size. */
bool pr_parse_bytes(const char *text, uint64_t *out);
bool pr_parse_u32(const char *text, uint32_t *out); /* whole text, decimal or 0x */
bool pr_parse_u64(const char *text, uint64_t *out);
bool pr_parse_f64(const char *text, double *out); /* whole text, finite, '.' whatever the locale */

/* Length of the UTF-8 sequence that a lead byte announces; 1 for bytes that lead nothing. */
size_t pr_utf8_len(unsigned char lead);
/* Decode one code point at text[0..len); returns bytes consumed (>= 1); *cp is -1 for an invalid byte. */
size_t pr_utf8_decode(const char *text, size_t len, int32_t *cp);
/* Encode cp (valid scalar) into out[4]; returns its length. */
size_t pr_utf8_encode(uint32_t cp, char out[4]);
/* Number of leading bytes of text[len] that end on a character boundary (an incomplete tail is left out). */
size_t pr_utf8_complete(const char *text, size_t len);

/* text for people's eyes, in one line and harmless to a terminal: control characters (C0, DEL, C1), what ends lines or turns
 * letters around, and bytes that are not UTF-8 are written as \n, \x1b or \u202e; all else as it is. Into out[out_len], cut
 * where it does not fit, never within a character; what is cut is cut from the result. Returns out. */
char *pr_text_safe(char *out, size_t out_len, const char *text);

bool pr_str_starts(const char *text, const char *prefix);
bool pr_str_ends(const char *text, const char *suffix);

#endif
