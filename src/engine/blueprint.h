/*
 * Blueprint: everything about a model that is known before its weights are read.
 *
 * Opening one reads the header, builds and lowers the graph, plans memory and
 * adds up bytes. An estimate is a blueprint; an engine is a blueprint with
 * weights, pages and threads.
 */
#ifndef PRECIS_ENGINE_BLUEPRINT_H
#define PRECIS_ENGINE_BLUEPRINT_H

#include "graph/exec.h"
#include "graph/passes.h"
#include "model/model.h"

/* The public pr_estimate. */
struct pr_estimate {
    pr_engine_opts opts; /* as asked, with the defaults filled in */
    pr_model_file *file;
    pr_model_desc desc;
    pr_graph source, graph; /* as described; lowered */
    pr_plan plan;
    pr_weights weights; /* planned; the engine loads them */
    pr_exec_opts exec;
    pr_kv_shape kv;
    const pr_plane_set *planes; /* NULL: an ordinary model */
    size_t *planes_at;          /* [n_increments + 1] bytes of planes in memory */
    uint32_t cursor;            /* increments to begin with */
    size_t kv_bytes_max;
    char *types, *note; /* texts of pr_engine_info */
};

pr_status pr__blueprint_init(struct pr_estimate *b, const char *path, const pr_engine_opts *opts, pr_err *err);
void pr__blueprint_free(struct pr_estimate *b); /* accepts a half-built one */

/* What the process takes at most, with n increments of an elastic model. */
size_t pr__peak_bytes(const struct pr_estimate *b, uint32_t n);

/* engine/levels.c: b->planes, planes_at and the cursor that the options ask for. */
pr_status pr__levels_plan(struct pr_estimate *b, pr_err *err);
/* Increments of a level; the top's for one above it. */
uint32_t pr__levels_cursor(const struct pr_estimate *b, pr_level level);
/* The highest level whose increments are among the first `cursor`. */
pr_level pr__levels_at(const struct pr_estimate *b, uint32_t cursor);

#endif
