/*
 * Levels of elastic models as people write and read them.
 */
#ifndef PRECIS_CMD_ELASTIC_H
#define PRECIS_CMD_ELASTIC_H

#include "base/status.h"
#include "base/str.h"

/* Where to be on the list of increments: a named level, or a budget of bytes. */
typedef struct pr_place {
    bool by_budget;
    pr_level level;
    size_t budget;
} pr_place;

/* "int4" or "90M". PR_ERR_ARG says what would do. */
pr_status pr__place_parse(const char *text, pr_place *out, pr_err *err);
/* Ask the engine to go there; returns at once. */
pr_status pr__place_move(pr_engine *engine, const pr_place *place, pr_err *err);

/* pr_flag parsers: a size above 0 into a size_t; a level into a pr_level; auto, off or a number into an int as
 * pr_generate_opts.speculate. */
pr_status pr__parse_size(void *out, const char *value, pr_err *err);
pr_status pr__parse_level(void *out, const char *value, pr_err *err);
pr_status pr__parse_speculate(void *out, const char *value, pr_err *err);

/* "int4", or "int4+" when some increments of the next level are in use. */
const char *pr__level_text(const pr_elastic_info *e);
/* What should be known before anything is asked of a model at these weights, a sentence without an end of line, or "": less than int4
 * where that is of no use, or not known to be. */
const char *pr__level_caution(const pr_elastic_info *e);
/* "int2, int4, int8": what the file has. */
const char *pr__levels_range(pr_level top);

/* "int4+, 71 MB of weights, 4.9 bits each", or for an ordinary model "98 MB of weights"; with stats also
 * ", 96 of 120 drafts accepted" when there were any. Into buf; returns buf. */
char *pr__elastic_brief(const pr_engine *engine, const pr_generate_stats *stats, char *buf, size_t len);

/* Fields for scripts: level, cursor, increments, weight_bytes, bits_per_weight, kl_expected. */
void pr__elastic_json(pr_str *s, const pr_elastic_info *e);
/* The same of a running engine, with weight_bytes alone for an ordinary model. */
void pr__elastic_engine_json(pr_str *s, const pr_engine *engine);

#endif
