/*
 * precis doctor: what its parts share.
 */
#ifndef PRECIS_CMD_DOCTOR_H
#define PRECIS_CMD_DOCTOR_H

#include "base/str.h"
#include "governor/settings.h"

typedef enum pr_verdict { PR_GOOD, PR_NOTE, PR_BAD } pr_verdict;

typedef struct pr_doctor {
    bool json, quick;
    const char *config, *root; /* flags; NULL: not given */
    pr_settings settings;      /* defaults where they cannot be read */
    int n_bad, n_noted;
    pr_str out;
} pr_doctor;

/* A fact: what it is about (once a run), the verdict, what to do (NULL when there is nothing to do), the fact in words. */
void pr__doctor_tell(pr_doctor *d, pr_verdict verdict, const char *what, const char *remedy, const char *fmt, ...)
    PR_PRINTF(5, 6);

void pr__doctor_machine(pr_doctor *d); /* processor, memory, what the system adds or takes away */
void pr__doctor_setup(pr_doctor *d);   /* settings, keys, address, servers that run; fills d->settings */
void pr__doctor_models(pr_doctor *d);  /* the folder, the disk below it, each model in it */

#endif
