/*
 * Text for people and for scripts: counts, JSON objects field by field, and
 * texts that come in from files and pipes.
 */
#ifndef PRECIS_CMD_TEXT_H
#define PRECIS_CMD_TEXT_H

#include "base/status.h"
#include "base/str.h"

/* "134.5M", "1.10B", "656k" into buf. Returns buf. */
char *pr__format_count(char *buf, size_t len, uint64_t n);

/* One JSON object on one line: open, fields, close. A field after another needs no care for commas. Objects may
 * nest: give the inner one's name to pr__json_key() and open it. */
void pr__json_open(pr_str *s);
void pr__json_close(pr_str *s);
void pr__json_key(pr_str *s, const char *key);
void pr__json_text(pr_str *s, const char *key, const char *text);
void pr__json_u64(pr_str *s, const char *key, uint64_t n);
void pr__json_f64(pr_str *s, const char *key, double x); /* null when it is not finite */
void pr__json_bool(pr_str *s, const char *key, bool b);

/* Everything on standard input, at most bytes_max; pr_free() it. */
pr_status pr__text_stdin(size_t bytes_max, char **out, size_t *len, pr_err *err);

/* PR_ERR_ARG naming `what` and the first byte that is not UTF-8, or a zero byte. */
pr_status pr__text_check(const char *what, const char *text, size_t len, pr_err *err);

/* Columns of a terminal that text takes; what is not text of one line counts for nothing. */
int pr__text_columns(const char *text);
/* Append text, and blanks up to `columns`. */
void pr__text_pad(pr_str *s, const char *text, int columns);

#endif
