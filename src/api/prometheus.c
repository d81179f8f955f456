/*
 * Writing metrics.
 *
 * The two formats differ in little: OpenMetrics announces a counter without its _total and ends with a line of its own.
 * Numbers are written with a point whatever the locale.
 */
#include "api/prometheus.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void put_number(pr_str *out, double x) {
    char text[32];
    if (isnan(x)) {
        pr_str_puts(out, "NaN");
        return;
    }
    if (isinf(x)) {
        pr_str_puts(out, x > 0 ? "+Inf" : "-Inf");
        return;
    }
    snprintf(text, sizeof text, "%.15g", x);
    char *comma = strchr(text, ',');
    if (comma) *comma = '.';
    pr_str_puts(out, text);
}

/* A bound as OpenMetrics wants it, so that series are the same in both formats: "1.0", "0.25", "+Inf". */
static void put_bound(pr_str *out, double bound) {
    size_t from = out->len;
    put_number(out, bound);
    if (pr_str_ok(out) && !strpbrk(out->data + from, ".eI")) pr_str_puts(out, ".0");
}

static void put_label_value(pr_str *out, const char *text) {
    size_t len = strlen(text);
    for (size_t i = 0; i < len;) {
        int32_t cp;
        size_t n = pr_utf8_decode(text + i, len - i, &cp);
        if (cp < 0) pr_str_puts(out, "\xef\xbf\xbd");
        else if (text[i] == '\\') pr_str_puts(out, "\\\\");
        else if (text[i] == '"') pr_str_puts(out, "\\\"");
        else if (text[i] == '\n') pr_str_puts(out, "\\n");
        else pr_str_append(out, text + i, n);
        i += n;
    }
}

/* name{labels,extra} and a space. */
static void begin_sample(const pr_prom *p, const char *suffix, const pr_prom_label *labels, size_t n,
                         const double *bound) {
    pr_str *out = p->out;
    pr_str_puts(out, p->family);
    pr_str_puts(out, suffix);
    for (size_t i = 0; i < n; i++) {
        pr_str_printf(out, "%s%s=\"", i ? "," : "{", labels[i].name);
        put_label_value(out, labels[i].value);
        pr_str_puts(out, "\"");
    }
    if (bound) {
        pr_str_printf(out, "%sle=\"", n ? "," : "{");
        put_bound(out, *bound);
        pr_str_puts(out, "\"");
    }
    pr_str_puts(out, n || bound ? "} " : " ");
}

void pr_prom_family(pr_prom *p, const char *name, pr_prom_type type, const char *help) {
    static const char *const types[] = {"counter", "gauge", "histogram"};
    static const char total[] = "_total";
    size_t len = strlen(name);
    p->family = name;
    if (p->open && type == PR_PROM_COUNTER && pr_str_ends(name, total)) len -= sizeof total - 1;
    pr_str_printf(p->out, "# HELP %.*s %s\n# TYPE %.*s %s\n", (int)len, name, help, (int)len, name, types[type]);
}

void pr_prom_number(pr_prom *p, const pr_prom_label *labels, size_t n, double value) {
    begin_sample(p, "", labels, n, NULL);
    put_number(p->out, value);
    pr_str_puts(p->out, "\n");
}

void pr_prom_count(pr_prom *p, const pr_prom_label *labels, size_t n, uint64_t value) {
    begin_sample(p, "", labels, n, NULL);
    pr_str_printf(p->out, "%llu\n", (unsigned long long)value);
}

void pr_prom_histogram(pr_prom *p, const pr_prom_label *labels, size_t n, const pr_hist_view *view) {
    double bound;
    uint64_t at_most;
    for (size_t i = 0; pr_hist_coarse(view, i, &bound, &at_most); i++) {
        begin_sample(p, "_bucket", labels, n, &bound);
        pr_str_printf(p->out, "%llu\n", (unsigned long long)at_most);
    }
    begin_sample(p, "_sum", labels, n, NULL);
    put_number(p->out, view->seconds);
    pr_str_puts(p->out, "\n");
    begin_sample(p, "_count", labels, n, NULL);
    pr_str_printf(p->out, "%llu\n", (unsigned long long)view->n);
}

void pr_prom_one(pr_prom *p, const char *name, pr_prom_type type, const char *help, double value) {
    pr_prom_family(p, name, type, help);
    pr_prom_number(p, NULL, 0, value);
}

void pr_prom_end(pr_prom *p) {
    if (p->open) pr_str_puts(p->out, "# EOF\n");
}

bool pr_prom_wants_open(const char *accept) { return accept && strstr(accept, "application/openmetrics-text"); }

const char *pr_prom_content_type(bool open) {
    return open ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                : "text/plain; version=0.0.4; charset=utf-8";
}
