/*
 * Fields of a JSON object from a client: fetched by name, with type and bounds; the first mistake is kept.
 *
 * Not thread-safe: a reader is one parse.
 */
#ifndef PRECIS_API_READER_H
#define PRECIS_API_READER_H

#include "base/json.h"

typedef struct pr_reader {
    const json_t *obj;
    char *param; /* [param_len] name of the field at fault */
    size_t param_len;
    pr_err *err;
    pr_status status; /* PR_OK so far; once it is not, every call below leaves its output alone */
} pr_reader;

/* Refuse field `name`. Returns PR_ERR_ARG. */
pr_status pr_reader_refuse(pr_reader *r, const char *name, const char *fmt, ...) PR_PRINTF(3, 4);
pr_status pr_reader_nomem(pr_reader *r, const char *name);

/* The field, NULL where it is absent or null. */
const json_t *pr_reader_get(const pr_reader *r, const char *name);
/* Each leaves *out alone where the field is absent, and refuses what is of another type or outside the bounds. */
void pr_reader_f32(pr_reader *r, const char *name, double least, double most, float *out);
void pr_reader_f64(pr_reader *r, const char *name, double least, double most, double *out);
/* A whole number, also one written as 2.0, which JSON Schema calls an integer. */
bool pr_reader_whole(const json_t *v, int64_t *out);
void pr_reader_u32(pr_reader *r, const char *name, uint32_t least, uint32_t most, uint32_t *out);
/* A number in a query: digits only, at most 2^53 - 1, which JSON can say, too. */
bool pr_reader_count(const char *text, uint64_t *out);
void pr_reader_bool(pr_reader *r, const char *name, bool *out);
void pr_reader_text(pr_reader *r, const char *name, const char **out); /* borrowed */

#endif
