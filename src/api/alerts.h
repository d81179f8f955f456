/*
 * Alerts at work: the rules of governor/alert.h, measured once a second by the warden.
 *
 * Latencies, rates and peaks are those of the last PR__ALERT_WINDOW seconds, the rest is as it is at the moment.
 */
#ifndef PRECIS_API_ALERTS_H
#define PRECIS_API_ALERTS_H

#include "governor/alert.h"

typedef struct pr__alerts pr__alerts;
struct pr_api;

enum { PR__ALERT_WINDOW = 60 };

/* rules: "" for none. */
pr_status pr__alerts_open(const char *rules, pr__alerts **out, pr_err *err);
void pr__alerts_close(pr__alerts *alerts); /* NULL allowed */

/* When to look next, pr_now() seconds; infinite without rules. Warden's thread. */
double pr__alerts_due(const pr__alerts *alerts);
/* Measure, step every alert, and tell of changes: log and listeners. Warden's thread. */
void pr__alerts_look(struct pr_api *api, double now);
/* Pass counts of caches on to the metrics' windows. Any thread. */
void pr__alerts_note_caches(struct pr_api *api);
/* Copies of them as they stand; returns how many. Any thread. */
size_t pr__alerts_list(pr__alerts *alerts, pr_alert out[PR_ALERTS_MAX]);

#endif
