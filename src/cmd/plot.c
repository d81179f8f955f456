/*
 * A chart, written as SVG by hand.
 *
 * The paper is left transparent, and lines and letters are of a middle grey that can be read on white and on black.
 * Ticks of x are at 1, 2 or 5 times a power of ten of bytes; those of y at the powers of ten, with fine lines between
 * at 2 and 5.
 */
#include "cmd/plot.h"

#include <math.h>
#include <stdio.h>

#define GREY "#808080"

enum { WIDTH = 800, HEIGHT = 500, LEFT = 90, RIGHT = 40, TOP = 50, BOTTOM = 65, TICKS_MAX = 10 };

typedef struct frame {
    pr_str *s;
    double x0, x1; /* bytes at the left and right edge */
    double y0, y1; /* log10 at the bottom and top edge */
    double x_tick; /* bytes between ticks */
} frame;

static double x_at(const frame *f, double x) { return LEFT + (x - f->x0) / (f->x1 - f->x0) * (WIDTH - LEFT - RIGHT); }

static double y_at(const frame *f, double y) {
    double at = y > 0 ? log10(y) : f->y0;
    if (at < f->y0) at = f->y0;
    return HEIGHT - BOTTOM - (at - f->y0) / (f->y1 - f->y0) * (HEIGHT - TOP - BOTTOM);
}

static double nice_step(double span) {
    double step = pow(10, floor(log10(span / TICKS_MAX)));
    if (span / step > 5 * TICKS_MAX) return 10 * step;
    if (span / step > 2 * TICKS_MAX) return 5 * step;
    return span / step > TICKS_MAX ? 2 * step : step;
}

static void fit(frame *f, const pr_plot_point *points, size_t n) {
    double low = INFINITY, high = 0;
    f->x0 = f->x1 = points[0].x;
    for (size_t i = 0; i < n; i++) {
        f->x0 = fmin(f->x0, points[i].x);
        f->x1 = fmax(f->x1, points[i].x);
        if (points[i].y > 0) low = fmin(low, points[i].y);
        high = fmax(high, points[i].y);
    }
    if (f->x1 <= f->x0) f->x1 = f->x0 + 1;
    f->x_tick = nice_step(f->x1 - f->x0);
    f->x0 = floor(f->x0 / f->x_tick) * f->x_tick;
    f->x1 = ceil(f->x1 / f->x_tick) * f->x_tick;
    f->y0 = high > 0 ? floor(log10(low)) : -1;
    f->y1 = high > 0 ? ceil(log10(high)) : 0;
    if (f->y1 <= f->y0) f->y1 = f->y0 + 1;
}

/* ---- marks ---- */

static void escape(pr_str *s, const char *text) {
    for (; *text; text++) {
        if (*text == '<') pr_str_puts(s, "&lt;");
        else if (*text == '&') pr_str_puts(s, "&amp;");
        else if ((unsigned char)*text >= ' ') pr_str_append(s, text, 1);
    }
}

static void letters(const frame *f, double x, double y, int size, const char *more, const char *text) {
    pr_str_printf(f->s, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"%d\" %s>", x, y, size, more);
    escape(f->s, text);
    pr_str_puts(f->s, "</text>\n");
}

static void line(const frame *f, double x0, double y0, double x1, double y1, double opacity) {
    pr_str_printf(
        f->s, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"" GREY "\" stroke-opacity=\"%.2f\"/>\n",
        x0, y0, x1, y1, opacity);
}

static void x_axis(const frame *f) {
    bool large = f->x_tick >= 1e8;
    double unit = large ? 1e9 : f->x1 >= 1e6 ? 1e6 : 1e3;
    int decimals = f->x_tick < unit ? (f->x_tick * 10 < unit * 0.999 ? 2 : 1) : 0;
    char text[40];
    int n_ticks = (int)((f->x1 - f->x0) / f->x_tick + 0.5);
    for (int i = 0; i <= n_ticks; i++) {
        double x = f->x0 + i * f->x_tick;
        line(f, x_at(f, x), TOP, x_at(f, x), HEIGHT - BOTTOM + 5, 0.25);
        snprintf(text, sizeof text, "%.*f", decimals, x / unit);
        letters(f, x_at(f, x), HEIGHT - BOTTOM + 22, 13, "text-anchor=\"middle\"", text);
    }
    snprintf(text, sizeof text, "weights in memory, %s", large ? "GB" : unit > 1e5 ? "MB" : "kB");
    letters(f, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 18, 14, "text-anchor=\"middle\"", text);
}

static void y_axis(const frame *f, const char *label) {
    char text[40];
    for (int i = 0; f->y0 + i <= f->y1 + 0.5; i++) {
        double e = f->y0 + i, y = pow(10, e);
        line(f, LEFT - 5, y_at(f, y), WIDTH - RIGHT, y_at(f, y), 0.35);
        snprintf(text, sizeof text, "%.*f", e < 0 ? (int)-e : 0, y);
        letters(f, LEFT - 10, y_at(f, y) + 4, 13, "text-anchor=\"end\"", text);
        if (e + 0.5 > f->y1) break;
        line(f, LEFT, y_at(f, 2 * y), WIDTH - RIGHT, y_at(f, 2 * y), 0.12);
        line(f, LEFT, y_at(f, 5 * y), WIDTH - RIGHT, y_at(f, 5 * y), 0.12);
    }
    pr_str_printf(f->s, "<text transform=\"translate(22 %.1f) rotate(-90)\" font-size=\"14\" text-anchor=\"middle\">",
                  (TOP + HEIGHT - BOTTOM) / 2.0);
    escape(f->s, label);
    pr_str_puts(f->s, "</text>\n");
}

static void draw_named(const frame *f, const pr_plot_point *p) {
    double x = x_at(f, p->x), y = y_at(f, p->y);
    bool right = x > WIDTH - RIGHT - 90;
    char text[40];
    snprintf(text, sizeof text, "%s%s", p->label, p->y > 0 ? "" : ": 0");
    pr_str_printf(f->s, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"6\" fill=\"#e0692b\"/>\n", x, y);
    letters(f, right ? x - 11 : x + 11, y - 8, 14,
            right ? "font-weight=\"bold\" text-anchor=\"end\"" : "font-weight=\"bold\"", text);
}

static void draw_points(const frame *f, const pr_plot_point *points, size_t n) {
    pr_str_puts(f->s, "<polyline fill=\"none\" stroke=\"#3b8fc4\" stroke-width=\"2\" points=\"");
    for (size_t i = 0; i < n; i++)
        pr_str_printf(f->s, "%s%.1f,%.1f", i ? " " : "", x_at(f, points[i].x), y_at(f, points[i].y));
    pr_str_puts(f->s, "\"/>\n");
    for (size_t i = 0; i < n; i++)
        pr_str_printf(f->s, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"#3b8fc4\"/>\n", x_at(f, points[i].x),
                      y_at(f, points[i].y));
    for (size_t i = 0; i < n; i++)
        if (points[i].label) draw_named(f, &points[i]);
}

void pr__plot_svg(pr_str *s, const char *title, const char *y_label, const pr_plot_point *points, size_t n) {
    frame f = {.s = s};
    fit(&f, points, n);
    pr_str_printf(s,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
                  "font-family=\"sans-serif\" fill=\"" GREY "\">\n",
                  WIDTH, HEIGHT, WIDTH, HEIGHT);
    letters(&f, (LEFT + WIDTH - RIGHT) / 2.0, 28, 16, "text-anchor=\"middle\"", title);
    x_axis(&f);
    y_axis(&f, y_label);
    draw_points(&f, points, n);
    pr_str_puts(s, "</svg>\n");
}
