/*
 * JSON: reading through jansson with precis' own allocator and bounds.
 *
 * Parsed values are plain jansson objects: borrow with json_object_get(), free
 * the root with json_decref(). The helpers fetch typed fields and name the
 * field in the error. Writing is done with pr_str_json() and pr_str_printf().
 */
#ifndef PRECIS_BASE_JSON_H
#define PRECIS_BASE_JSON_H

#include <jansson.h>

#include "base/status.h"

/* Parse text[len] into *out. what names the source in errors ("tokenizer.json"). Python writes integers of any length
 * ("model_max_length"): where one is over 64 bits, all numbers of the document come as reals. */
pr_status pr_json_parse(const char *text, size_t len, const char *what, json_t **out, pr_err *err);

/* Read and parse a whole file of at most bytes_max. */
pr_status pr_json_load(const char *path, size_t bytes_max, json_t **out, pr_err *err);

/* Field `key` of obj; where it is absent *out keeps its value and PR_OK is
 * returned; a wrong type is PR_ERR_FORMAT naming the key. */
pr_status pr_json_u32(const json_t *obj, const char *key, uint32_t *out, pr_err *err);
pr_status pr_json_f64(const json_t *obj, const char *key, double *out, pr_err *err);
pr_status pr_json_bool(const json_t *obj, const char *key, bool *out, pr_err *err);
pr_status pr_json_str(const json_t *obj, const char *key, const char **out, pr_err *err); /* borrowed */

#endif
