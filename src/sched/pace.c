/*
 * How long steps take (pace.h).
 *
 * A line by weighted least squares, kept as five sums. Where all steps had the same rows there is no slope to be seen: then
 * it is flat, which is right for those rows.
 */
#include "sched/pace.h"

#include <math.h>
#include <stdbool.h>

static const double fade = 0.98, prompt_share = 0.2;

enum { STEPS_MIN = 8 };

/* a and b of the line; false: too few steps. */
static bool line(const pr__pace *p, double *a, double *b) {
    double known = (1 - pow(fade, STEPS_MIN)) / (1 - fade);
    if (p->weight < known) return false;
    double spread = p->weight * p->rows2 - p->rows * p->rows;
    *b = spread > 0.1 * p->weight * p->weight ? (p->weight * p->rows_seconds - p->rows * p->seconds) / spread : 0;
    if (*b < 0) *b = 0;
    *a = (p->seconds - *b * p->rows) / p->weight;
    if (*a >= 0) return true;
    *a = 0;
    *b = p->seconds / p->rows;
    return true;
}

void pr__pace_note(pr__pace *p, uint32_t decoding, uint32_t prompt, double seconds) {
    double rows = decoding;
    if (prompt == 0) {
        p->weight = p->weight * fade + 1;
        p->rows = p->rows * fade + rows;
        p->rows2 = p->rows2 * fade + rows * rows;
        p->seconds = p->seconds * fade + seconds;
        p->rows_seconds = p->rows_seconds * fade + rows * seconds;
        return;
    }
    double alone = pr__pace_seconds(p, decoding), more = seconds - alone;
    if (alone <= 0 || decoding == 0) return;
    double row = more > 0 ? more / prompt : 0;
    p->prompt_row += p->prompt_row > 0 ? (row - p->prompt_row) * prompt_share : row;
}

double pr__pace_seconds(const pr__pace *p, uint32_t decoding) {
    double a, b;
    return line(p, &a, &b) ? a + b * decoding : 0;
}

uint32_t pr__pace_prompt_rows(const pr__pace *p, double seconds, uint32_t most) {
    if (p->prompt_row <= 0) return most;
    double rows = seconds / p->prompt_row;
    return rows >= most ? most : rows > 0 ? (uint32_t)rows : 0;
}
