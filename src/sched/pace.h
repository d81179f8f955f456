/*
 * How long steps take: measured as they run, so that a step can be bounded by time. Pure. Internal to sched/.
 *
 * Seconds of a step are taken as a + b * decoding rows + c * prompt rows, all three above 0. Whatever changes speed (level,
 * other programs, longer contexts) is in them some twenty steps later. Before there were rows of a kind they are guessed. Steps of
 * prompts alone are not noted: their rows are many at once, and cheaper.
 *
 * Threads: the stepping thread's own.
 */
#ifndef PRECIS_SCHED_PACE_H
#define PRECIS_SCHED_PACE_H

#include <stdint.h>

typedef struct pr__pace {         /* zero-initialize */
    double step, row, prompt_row; /* seconds: of every step; of a decoding row; of a prompt row */
    uint32_t steps;               /* that were noted; counted until they are enough */
} pr__pace;

/* A step with so many rows took so long. */
void pr__pace_note(pr__pace *pace, uint32_t decoding, uint32_t prompt, double seconds);
/* Of a step with so many decoding rows and no prompt; 0: not known yet. */
double pr__pace_seconds(const pr__pace *pace, uint32_t decoding);
/* Prompt rows that take so long; `most` when that is more or not known. */
uint32_t pr__pace_prompt_rows(const pr__pace *pace, double seconds, uint32_t most);

#endif
