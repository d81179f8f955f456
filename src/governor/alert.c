/*
 * Alerts.
 *
 * Two things keep an alert from flapping: time, in both directions, and a margin that a firing one must be left by. What has
 * nothing to measure (no request, so no latency) is well: an alert about silence would be another rule.
 */
#include "governor/alert.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "base/str.h"

static const double margin = 0.05;

static const struct {
    const char *name;
    pr_alert_unit unit;
} metrics[] = {
    {"latency_p50", PR_ALERT_SECONDS},
    {"latency_p95", PR_ALERT_SECONDS},
    {"latency_p99", PR_ALERT_SECONDS},
    {"time_to_first_token_p50", PR_ALERT_SECONDS},
    {"time_to_first_token_p95", PR_ALERT_SECONDS},
    {"time_to_first_token_p99", PR_ALERT_SECONDS},
    {"time_between_tokens_p50", PR_ALERT_SECONDS},
    {"time_between_tokens_p95", PR_ALERT_SECONDS},
    {"time_between_tokens_p99", PR_ALERT_SECONDS},
    {"queue_time_p50", PR_ALERT_SECONDS},
    {"queue_time_p95", PR_ALERT_SECONDS},
    {"queue_time_p99", PR_ALERT_SECONDS},
    {"memory_used", PR_ALERT_SHARE},
    {"memory_peak", PR_ALERT_BYTES},
    {"memory_resident", PR_ALERT_BYTES},
    {"memory_pressure", PR_ALERT_SHARE},
    {"queue_length", PR_ALERT_NUMBER},
    {"requests_running", PR_ALERT_NUMBER},
    {"requests_parked", PR_ALERT_NUMBER},
    {"connections", PR_ALERT_NUMBER},
    {"error_rate", PR_ALERT_SHARE},
    {"cache_hit_rate", PR_ALERT_SHARE},
    {"prefix_hit_rate", PR_ALERT_SHARE},
    {"kv_used", PR_ALERT_SHARE},
    {"tokens_per_second", PR_ALERT_NUMBER},
    {"level", PR_ALERT_LEVELS},
};
_Static_assert(sizeof metrics / sizeof *metrics == PR_ALERT_METRICS, "a row for each metric");

const char *pr_alert_metric_name(pr_alert_metric metric) { return metrics[metric].name; }
pr_alert_unit pr_alert_metric_unit(pr_alert_metric metric) { return metrics[metric].unit; }

const char *pr_alert_unit_name(pr_alert_unit unit) {
    static const char *const names[] = {"seconds", "bytes", "ratio", "count", "level"};
    return names[unit];
}

const char *pr_alert_state_name(pr_alert_state state) {
    static const char *const names[] = {"inactive", "pending", "firing", "resolved"};
    return names[state];
}

/* ---- reading ----------------------------------------------------------- */

enum { WORD = 80 };

typedef struct reader {
    const char *text, *at, *end;
    const char *what;
    size_t rule; /* from 1 */
    pr_err *err;
} reader;

static pr_status refuse(reader *r, const char *at, const char *fmt, ...) PR_PRINTF(3, 4);
static pr_status refuse(reader *r, const char *at, const char *fmt, ...) {
    char why[160];
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, sizeof why, fmt, args);
    va_end(args);
    return pr_fail(r->err, PR_ERR_ARG, "%.100s: rule %zu, column %zu: %s", r->what, r->rule, (size_t)(at - r->text) + 1,
                   why);
}

static void skip_spaces(reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t')) r->at++;
}

static bool is_word(char c) {
    return isalnum((unsigned char)c) || c == '_' || c == '.' || c == '-' || c == '%' || c == '+';
}

/* The next word, "" when there is none; cut at its room, which no valid word fills. */
static const char *take_word(reader *r, char word[WORD]) {
    skip_spaces(r);
    const char *from = r->at;
    while (r->at < r->end && is_word(*r->at)) r->at++;
    size_t len = (size_t)(r->at - from);
    snprintf(word, WORD, "%.*s", (int)(len < WORD ? len : WORD - 1), from);
    return from;
}

/* "50ms" and the like; a bare number is seconds. */
static bool read_seconds(const char *word, double *out) {
    static const struct {
        const char *end;
        double factor;
    } units[] = {{"us", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"m", 60}, {"h", 3600}};
    char number[WORD];
    double factor = 1;
    snprintf(number, sizeof number, "%s", word);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (!pr_str_ends(word, units[i].end)) continue;
        number[strlen(word) - strlen(units[i].end)] = '\0';
        factor = units[i].factor;
        break;
    }
    if (!isdigit((unsigned char)number[0]) || !pr_parse_f64(number, out)) return false;
    *out *= factor;
    return *out <= 1e9;
}

static bool read_number(const char *word, double *out) {
    return isdigit((unsigned char)word[0]) && pr_parse_f64(word, out) && *out <= 1e15;
}

static bool read_share(const char *word, double *out) {
    char number[WORD];
    size_t len = strlen(word);
    bool percent = len > 1 && word[len - 1] == '%';
    snprintf(number, sizeof number, "%.*s", (int)(percent ? len - 1 : len), word);
    if (!read_number(number, out)) return false;
    if (percent) *out /= 100;
    return *out <= 1;
}

static bool read_value(pr_alert_unit unit, const char *word, double *out, const char **expected) {
    uint64_t bytes;
    pr_level level;
    bool ok = false;
    switch (unit) {
    case PR_ALERT_SECONDS: *expected = "a time such as 50ms, 2s or 5m"; return read_seconds(word, out);
    case PR_ALERT_BYTES:
        *expected = "a size such as 100MB";
        ok = pr_parse_bytes(word, &bytes);
        if (ok) *out = (double)bytes;
        return ok;
    case PR_ALERT_SHARE: *expected = "a share such as 90% or 0.9"; return read_share(word, out);
    case PR_ALERT_NUMBER: *expected = "a number"; return read_number(word, out);
    case PR_ALERT_LEVELS:
        *expected = "int2, int4, int8 or fp16";
        ok = pr_level_by_name(word, &level);
        if (ok) *out = (double)level;
        return ok;
    }
    return ok;
}

static pr_status read_metric(reader *r, const char *word, const char *from, pr_alert_rule *rule) {
    if (!word[0]) return refuse(r, from, "a metric is missing, such as latency_p95");
    for (int i = 0; i < PR_ALERT_METRICS; i++) {
        if (strcmp(word, metrics[i].name) != 0) continue;
        rule->metric = (pr_alert_metric)i;
        return PR_OK;
    }
    return refuse(r, from, "there is no metric \"%s\"", word);
}

static pr_status read_comparison(reader *r, pr_alert_rule *rule) {
    skip_spaces(r);
    if (r->at == r->end || (*r->at != '<' && *r->at != '>'))
        return refuse(r, r->at, "after the metric comes <, <=, > or >=");
    rule->below = *r->at++ == '<';
    rule->equal = r->at < r->end && *r->at == '=';
    r->at += rule->equal;
    return PR_OK;
}

static pr_status read_threshold(reader *r, pr_alert_rule *rule) {
    char word[WORD];
    const char *expected = "", *from = take_word(r, word);
    if (read_value(metrics[rule->metric].unit, word, &rule->threshold, &expected)) return PR_OK;
    return refuse(r, from, "\"%s\" is not %s", word, expected);
}

static pr_status read_hold(reader *r, pr_alert_rule *rule) {
    char word[WORD];
    const char *from = take_word(r, word);
    if (!word[0]) return PR_OK;
    if (strcmp(word, "for") != 0) return refuse(r, from, "\"%s\" instead of \"for\" or the end of the rule", word);
    from = take_word(r, word);
    if (read_seconds(word, &rule->hold)) return PR_OK;
    return refuse(r, from, "\"%s\" is not a time such as 30s or 5m", word);
}

static bool is_name(const char *word) {
    size_t len = strlen(word);
    return len >= 1 && len <= PR_ALERT_NAME && !strpbrk(word, "%+");
}

static bool name_taken(const pr_alert_rule *rules, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(rules[i].name, name) == 0) return true;
    return false;
}

/* The metric's name, with a number when there is such a rule. */
static void make_name(const pr_alert_rule *rules, size_t n, pr_alert_rule *rule) {
    snprintf(rule->name, sizeof rule->name, "%s", metrics[rule->metric].name);
    for (size_t i = 2; name_taken(rules, n, rule->name); i++)
        snprintf(rule->name, sizeof rule->name, "%s_%zu", metrics[rule->metric].name, i);
}

/* The rule as it stands in the text, every run of spaces as one. */
static void keep_text(const char *from, const char *end, pr_alert_rule *rule) {
    size_t n = 0;
    for (; from < end && n + 1 < sizeof rule->text; from++) {
        bool space = *from == ' ' || *from == '\t';
        if (space && (n == 0 || rule->text[n - 1] == ' ')) continue;
        rule->text[n++] = space ? ' ' : *from;
    }
    while (n && rule->text[n - 1] == ' ') n--;
    rule->text[n] = '\0';
}

static pr_status read_rule(reader *r, pr_alert_rule *rules, size_t n) {
    char word[WORD];
    pr_alert_rule *rule = &rules[n];
    *rule = (pr_alert_rule){0};
    const char *from = take_word(r, word);
    skip_spaces(r);
    bool named = r->at < r->end && *r->at == ':';
    if (named) {
        if (!is_name(word)) return refuse(r, from, "a name is 1 to %d letters, digits, '_', '.', '-'", PR_ALERT_NAME);
        if (name_taken(rules, n, word)) return refuse(r, from, "the name \"%s\" is taken", word);
        snprintf(rule->name, sizeof rule->name, "%.*s", PR_ALERT_NAME, word);
        r->at++;
        from = take_word(r, word);
    }
    pr_status st = read_metric(r, word, from, rule);
    if (!st) st = read_comparison(r, rule);
    if (!st) st = read_threshold(r, rule);
    if (!st) st = read_hold(r, rule);
    skip_spaces(r);
    if (!st && r->at < r->end && *r->at != ',')
        return refuse(r, r->at, "a rule ends here, and a comma begins the next one");
    if (st) return st;
    if (!named) make_name(rules, n, rule);
    keep_text(from, r->at, rule);
    return PR_OK;
}

pr_status pr_alert_parse(const char *text, size_t len, const char *what, pr_alert_rule *out, size_t *n, pr_err *err) {
    reader r = {.text = text, .at = text, .end = text + len, .what = what, .err = err};
    *n = 0;
    skip_spaces(&r);
    while (r.at < r.end) {
        r.rule = *n + 1;
        if (*n == PR_ALERTS_MAX) return refuse(&r, r.at, "there are more than %d rules", PR_ALERTS_MAX);
        pr_status st = read_rule(&r, out, *n);
        if (st) return st;
        ++*n;
        if (r.at == r.end) break;
        r.at++;
        skip_spaces(&r);
        r.rule++;
        if (r.at == r.end) return refuse(&r, r.at, "nothing follows the comma");
    }
    return PR_OK;
}

/* ---- standing ---------------------------------------------------------- */

static bool is_met(const pr_alert_rule *r, double value) {
    if (isnan(value)) return false;
    if (value == r->threshold) return r->equal;
    return (value < r->threshold) == r->below;
}

/* Whether a firing one is left: not met, by the margin. */
static bool is_left(const pr_alert_rule *r, double value) {
    if (isnan(value)) return true;
    if (is_met(r, value)) return false;
    double by = metrics[r->metric].unit == PR_ALERT_LEVELS ? 0 : margin * fabs(r->threshold);
    return r->below ? value >= r->threshold + by : value <= r->threshold - by;
}

static void enter(pr_alert *a, pr_alert_state state, double now) {
    a->state = state;
    a->since = now;
    a->turning = false;
    a->fired += state == PR_ALERT_FIRING;
}

/* Whether `turned` has been so for as long as the rule holds. */
static bool held(pr_alert *a, bool turned, double now) {
    if (turned && !a->turning) a->turned_at = now;
    a->turning = turned;
    return turned && now - a->turned_at >= a->rule.hold;
}

bool pr_alert_step(pr_alert *a, double value, double now) {
    pr_alert_state before = a->state;
    a->value = value;
    if (a->state == PR_ALERT_FIRING) {
        if (held(a, is_left(&a->rule, value), now)) enter(a, PR_ALERT_RESOLVED, now);
        return a->state != before;
    }
    bool met = is_met(&a->rule, value);
    if (held(a, met, now)) {
        enter(a, PR_ALERT_FIRING, now);
    } else if (met && a->state != PR_ALERT_PENDING) {
        double turned_at = a->turned_at;
        enter(a, PR_ALERT_PENDING, now);
        a->turned_at = turned_at;
        a->turning = true;
    } else if (!met && (a->state == PR_ALERT_PENDING ||
                        (a->state == PR_ALERT_RESOLVED && now - a->since >= PR_ALERT_REMEMBERED))) {
        enter(a, PR_ALERT_INACTIVE, now);
    }
    return a->state != before;
}
