/*
 * How long steps take (pace.h).
 *
 * Normalized least mean squares on the logarithms of the three: each step's relative error is laid upon them by the parts they
 * have in it. What a step says nothing about (the slope, while all steps have the same rows) keeps its proportion
 * to the rest: a full machine does the same step for minutes, and would otherwise forget that two rows take less than eight.
 */
#include "sched/pace.h"

#include <math.h>

static const double first_row = 0.2, first_prompt_row = 0.1; /* of what every step takes, until they are seen */
static const double rate = 0.2, error_max = 0.7;

enum { STEPS_MIN = 8 };

void pr__pace_note(pr__pace *p, uint32_t decoding, uint32_t prompt, double seconds) {
    if (decoding == 0 || !(seconds > 0)) return;
    if (p->steps == 0) {
        p->step = seconds / (1 + first_row * decoding + first_prompt_row * prompt);
        p->row = first_row * p->step;
        p->prompt_row = first_prompt_row * p->step;
    }
    double parts[] = {p->step, p->row * decoding, p->prompt_row * prompt};
    double all = parts[0] + parts[1] + parts[2];
    double squares = (parts[0] * parts[0] + parts[1] * parts[1] + parts[2] * parts[2]) / all;
    double error = fmin(fmax(log(seconds / all), -error_max), error_max); /* a step that was interrupted says little */
    p->step *= exp(rate * error * parts[0] / squares);
    p->row *= exp(rate * error * parts[1] / squares);
    p->prompt_row *= exp(rate * error * parts[2] / squares);
    if (p->steps < STEPS_MIN) p->steps++;
}

double pr__pace_seconds(const pr__pace *p, uint32_t decoding) {
    return p->steps < STEPS_MIN ? 0 : p->step + p->row * decoding;
}

uint32_t pr__pace_prompt_rows(const pr__pace *p, double seconds, uint32_t most) {
    if (p->steps < STEPS_MIN) return most;
    double rows = seconds / p->prompt_row;
    return rows >= most ? most : rows > 0 ? (uint32_t)rows : 0;
}
