/*
 * Parts of replies that more than one route has.
 */
#ifndef PRECIS_API_PARTS_H
#define PRECIS_API_PARTS_H

#include "api/context.h"

/* "key": [a model, ...]: those that are resident. Returns how many. */
size_t pr__write_models(pr_str *out, const char *key, const pr_api *api);
/* "requests": {...} */
void pr__write_requests(pr_str *out, const pr_sched_stats *s);
/* "recent": {...}: answers, tokens and latencies of the last five minutes. */
void pr__write_recent(pr_str *out, const pr_api *api);
/* "alerts": [...]: every rule and how it stands. */
void pr__write_alerts(pr_str *out, const pr_api *api);

#endif
