/*
 * One chart, as SVG: quality over bytes.
 */
#ifndef PRECIS_CMD_PLOT_H
#define PRECIS_CMD_PLOT_H

#include "base/status.h"
#include "base/str.h"

typedef struct pr_plot_point {
    double x;          /* bytes */
    double y;          /* drawn on a log scale; 0 and less stand on the axis */
    const char *label; /* of a point with a name; NULL: one of the line's */
} pr_plot_point;

/* points[n], n >= 1, in the order of the line. Texts are escaped. Readable at 800 x 500, on light and dark pages. */
void pr__plot_svg(pr_str *s, const char *title, const char *y_label, const pr_plot_point *points, size_t n);

#endif
