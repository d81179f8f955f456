/*
 * Self-speculation: the policy (speculate.h). Pure arithmetic over what was measured; the clock is the caller's.
 */
#include "engine/speculate.h"

enum {
    PLAIN_FIRST = 4,  /* plain steps before anything is drafted */
    PROBES = 3,       /* rounds of one draft for each level before it is judged */
    GUESS = 3,        /* draft tokens that the guess at the beginning, or what was known before, stands for */
    PLAIN_EVERY = 48, /* choices between two plain steps while drafting */
    GAP_FIRST = 256,  /* choices until levels are judged anew when none paid, doubled each time ... */
    GAP_LAST = 2048   /* ... up to this */
};

static const double acceptance_guess = 0.75, margin = 1.03, cheaper = 0.75;

/* A mean that begins as a plain one and ends with a fixed weight for what is new. */
static void average(double *mean, uint32_t n_before, uint32_t n_most, double value) {
    uint32_t n = n_before < n_most ? n_before : n_most;
    *mean += (value - *mean) / (n + 1);
}

enum { MOST_SECONDS = 10, MOST_JUDGED = 50 };

void pr__spec_reset(pr__spec *s, uint32_t cursor, const uint32_t *cursors, const uint64_t *bytes, int n,
                    uint64_t main_bytes) {
    *s = (pr__spec){.cursor = cursor, .probe_gap = GAP_FIRST};
    for (int i = 0; i < n && s->n_arms < PR__SPEC_ARMS; i++)
        if (cursors[i] < cursor && (double)bytes[i] < cheaper * (double)main_bytes)
            s->arms[s->n_arms++] = (pr__spec_arm){
                .cursor = cursors[i], .n_judged = GUESS, .acceptance = acceptance_guess};
}

/* What was found out may no longer hold. */
static void doubt(pr__spec *s) {
    for (int a = 0; a < s->n_arms; a++) {
        s->arms[a].n_probes = 0;
        s->arms[a].n_judged = GUESS;
    }
}

/* Tokens a second of k drafts with an arm. */
static double rate(const pr__spec *s, const pr__spec_arm *arm, int k) {
    double tokens = 1, all_right = 1;
    for (int i = 0; i < k; i++) tokens += all_right *= arm->acceptance;
    return tokens / (k * arm->draft_seconds + s->plain_seconds + k * s->row_seconds);
}

static pr__spec_choice best(const pr__spec *s, int k_max, double *most) {
    pr__spec_choice c = {0, 0};
    *most = 0;
    for (int a = 0; a < s->n_arms; a++) {
        for (int k = 1; k <= k_max; k++) {
            double r = rate(s, &s->arms[a], k);
            if (r <= *most) continue;
            *most = r;
            c = (pr__spec_choice){k, a};
        }
    }
    return c;
}

static pr__spec_choice choose_auto(pr__spec *s, int k_max) {
    const pr__spec_choice plain = {0, 0};
    double most;
    s->n_rounds++;
    if (s->n_plain < PLAIN_FIRST) return plain;
    for (int a = 0; a < s->n_arms; a++)
        if (s->arms[a].n_probes < PROBES) return (pr__spec_choice){1, a};
    pr__spec_choice c = best(s, k_max, &most);
    if (most * s->plain_seconds >= margin) {
        s->probe_gap = GAP_FIRST;
        return s->n_rounds % PLAIN_EVERY ? c : plain;
    }
    if (s->n_rounds < s->probe_gap) return plain;
    s->n_rounds = 0;
    s->probe_gap = s->probe_gap * 2 < GAP_LAST ? s->probe_gap * 2 : GAP_LAST;
    doubt(s);
    return plain;
}

pr__spec_choice pr__spec_choose(pr__spec *s, int asked, int k_max) {
    double most;
    if (k_max > PR__SPEC_MAX) k_max = PR__SPEC_MAX;
    if (s->n_arms == 0 || asked == 0 || k_max < 1) return (pr__spec_choice){0, 0};
    if (asked < 0) return choose_auto(s, k_max);
    int k = asked < k_max ? asked : k_max;
    for (int a = 0; a < s->n_arms; a++)
        if (s->arms[a].n_probes < PROBES) return (pr__spec_choice){k, a};
    pr__spec_choice c = best(s, k_max, &most);
    c.k = k;
    return c;
}

void pr__spec_plain(pr__spec *s, double seconds) { average(&s->plain_seconds, s->n_plain++, MOST_SECONDS, seconds); }

void pr__spec_round(pr__spec *s, pr__spec_choice c, double draft_seconds, double verify_seconds, int n_judged,
                    int n_accepted) {
    pr__spec_arm *arm = &s->arms[c.arm];
    double more = (verify_seconds - s->plain_seconds) / c.k;
    average(&s->row_seconds, s->n_drafted++, MOST_SECONDS, s->n_plain && more > 0 ? more : 0);
    average(&arm->draft_seconds, arm->n_probes++, MOST_SECONDS, draft_seconds / c.k);
    for (int i = 0; i < n_judged; i++) average(&arm->acceptance, arm->n_judged++, MOST_JUDGED, i < n_accepted ? 1 : 0);
}
