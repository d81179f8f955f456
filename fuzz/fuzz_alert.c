/*
 * Fuzz: alert rules.
 *
 * What is refused has a reason; what is taken is within bounds, has names of its own, and means the same when its text is
 * read again. Then each rule is stepped through odd values: its states follow each other as they may.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "governor/alert.h"

static void require(int truth) {
    if (!truth) {
        abort();
    }
}

static void check_rule(const pr_alert_rule *r) {
    static pr_alert_rule again[PR_ALERTS_MAX];
    size_t n = 0;
    require(r->name[0] != '\0' && memchr(r->name, '\0', sizeof r->name) != NULL);
    require(r->metric < PR_ALERT_METRICS && isfinite(r->threshold) && r->threshold >= 0 && r->hold >= 0);
    if (strlen(r->text) + 1 < sizeof r->text) { /* else it was cut */
        require(pr_alert_parse(r->text, strlen(r->text), "again", again, &n, NULL) == PR_OK && n == 1);
        require(again[0].metric == r->metric && again[0].threshold == r->threshold && again[0].hold == r->hold);
        require(again[0].below == r->below && again[0].equal == r->equal);
    }
}

static void check_states(const pr_alert_rule *r) {
    const double values[] = {0, r->threshold, r->threshold * 2 + 1, NAN, r->threshold * 0.9, INFINITY, -1};
    pr_alert a = {.rule = *r};
    double now = 0;
    for (size_t i = 0; i < 64; i++) {
        pr_alert_state before = a.state;
        uint64_t fired = a.fired;
        bool changed = pr_alert_step(&a, values[i * 5 % 7], now += r->hold / 3 + 1);
        require(changed == (a.state != before));
        require(a.state != PR_ALERT_RESOLVED || before == PR_ALERT_FIRING || before == PR_ALERT_RESOLVED);
        require(a.fired == fired + (a.state == PR_ALERT_FIRING && before != PR_ALERT_FIRING));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static pr_alert_rule rules[PR_ALERTS_MAX];
    pr_err err = {0};
    size_t n = 0;
    if (pr_alert_parse((const char *)data, size, "fuzz", rules, &n, &err) != PR_OK) {
        require(err.text[0] != '\0');
        return 0;
    }
    require(n <= PR_ALERTS_MAX);
    for (size_t i = 0; i < n; i++) {
        check_rule(&rules[i]);
        for (size_t j = 0; j < i; j++) {
            require(strcmp(rules[i].name, rules[j].name) != 0);
        }
        check_states(&rules[i]);
    }
    return 0;
}
