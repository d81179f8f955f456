/*
 * Parts of precis bench: moving while decoding, and speculation.
 */
#ifndef PRECIS_CMD_BENCH_H
#define PRECIS_CMD_BENCH_H

#include "base/str.h"
#include "cmd/load.h"

typedef struct pr_bench_job {
    pr_load load;
    const char *path; /* of an elastic model */
    uint32_t n_prompt, n_answer, repeats;
    bool json;
    const char *moves;     /* --switch FROM:TO */
    int speculate;         /* --speculate: not 0 */
    const char *text_name; /* --text */
} pr_bench_job;

/* Decode, ask for the move in the middle of a step, and see what it does to tokens and memory. */
pr_status pr__bench_switch(const pr_bench_job *job, pr_str *out, pr_err *err);

/* The same greedy answer with speculation and without, in turns. */
pr_status pr__bench_speculate(const pr_bench_job *job, pr_str *out, pr_err *err);

/* Into load->opts.context_max, unless --context was given: `wanted`, or what the model was made for. *context is what it
 * is then. */
pr_status pr__bench_context(pr_load *load, const char *path, uint32_t wanted, uint32_t *context, pr_err *err);

/* Sorts x[n], n >= 1. */
double pr__median(double *x, uint32_t n);

#endif
