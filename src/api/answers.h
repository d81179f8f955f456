/*
 * Which answers may be given again: the rules of the response cache and the recent cache, in one place.
 *
 * docs/CACHES.md tells them with their reasons. A request has a question: the hash of everything that shapes its answer but
 * the model's file and precision. What was computed by one loading of a model, with one set of planes from the first step to
 * the last, is kept under the question together with those; a request looks where it would be computed itself at that moment.
 *
 * Threads: everything from any thread.
 */
#ifndef PRECIS_API_ANSWERS_H
#define PRECIS_API_ANSWERS_H

#include "api/context.h"
#include "api/params.h"

/* A request's Cache-Control header (RFC 9111). Unknown directives are ignored. */
typedef struct pr_cache_control {
    bool no_cache, no_store;
    double age_max; /* seconds; infinite when not said */
} pr_cache_control;
void pr_cache_control_parse(const char *text, pr_cache_control *out); /* NULL: no header */

/* What a request wants of the caches. */
typedef struct pr__question {
    bool looks; /* an answer made before, or being made, will do */
    bool keeps; /* its own may be given to others */
    bool sure;  /* nothing in it is left to chance, or the client says that does not matter: kept in responses, too */
    double age_max; /* of an answer made before, seconds */
    pr_cache_key key;
} pr__question;

/* key_name: of the API key; model: what the server calls it. control: of the header. */
void pr__question_ask(const pr_api *api, const pr_params *params, pr_ask ask, const char *model, const char *key_name,
                      const pr_cache_control *control, pr__question *out);

/* How something was or would be computed. */
typedef struct pr__computed {
    uint64_t load; /* pr_model_load() */
    uint32_t cursor;
} pr__computed;

/* How the request would be computed if its step were the next one; false: nobody knows, its model is not resident. */
bool pr__answers_expect(pr_api *api, const pr_params *params, const char *model, pr__computed *out);
/* An answer to it, with a reference for the caller; NULL: none. */
pr_blob *pr__answers_find(pr_api *api, const pr__question *q, const pr__computed *how, double *age);
/* Keep a record as the answer; nothing when there is no memory for it. */
void pr__answers_keep(pr_api *api, const pr__question *q, const pr__computed *how, const pr_str *record);

#endif
