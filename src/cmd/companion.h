/*
 * Companions: the elastic copy of an ordinary model, NAME.planes.gguf in the model folder.
 *
 * `precis run` makes it by itself, in the background, and uses it from then on where it is better than its source.
 */
#ifndef PRECIS_CMD_COMPANION_H
#define PRECIS_CMD_COMPANION_H

#include "base/status.h"

#define PR_COMPANION_SUFFIX ".planes.gguf"

typedef struct pr_companion {
    char *source;       /* the model that was asked for */
    char *dir, *path;   /* the model folder; the companion in it, there or not */
    char *log_path;     /* what packing said; locked while it goes on */
    bool elastic;       /* the model that was asked for is itself elastic: nothing to do */
    bool wide;          /* its weights have 16 bits or more */
    bool fits;          /* the companion is there, and made of this very source */
    uint64_t n_bytes;   /* of the source */
    int64_t changed_ns; /* when it was last written */
} pr_companion;

/* Look at the model at `source` and at its companion. False when the source cannot be read, or there is no model folder:
 * then there is nothing to be done with companions. */
bool pr__companion_look(const char *source, pr_companion *out);
void pr__companion_free(pr_companion *c);

/* Whether `run` opens it in the model's place: where levels are asked for, and of a wide model always, unless exactly. */
bool pr__companion_taken(const pr_companion *c, bool wants_elastic, bool exact);

/* What to do about `source` when a model with levels is wanted: take its companion, or pack one. Written into buf. */
const char *pr__companion_advice(const char *source, char *buf, size_t len);

/* True while a process packs it. */
bool pr__companion_busy(const pr_companion *c);

/* Start packing in a process of its own, unless it is there, being made, too large (PRECIS_PACK_MAX) or has failed
 * before. What happens is said in one line on stderr. */
void pr__companion_pack(const pr_companion *c);

#endif
