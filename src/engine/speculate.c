/*
 * Speculation: the policy (speculate.h). Pure arithmetic over what was measured; the clock is the caller's.
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

static const double acceptance_guess = 0.75, lookup_guess = 0.5, margin = 1.03, cheaper = 0.75;
static const double lookup_margin = 1.1; /* how often they are right differs from one place of a text to the next */
/* Of a plain step, for a further row, before one was measured: hopeful, so that one is. */
static const double row_guess = 0.25;

/* A mean that begins as a plain one and ends with a fixed weight for what is new. */
static void average(double *mean, uint32_t n_before, uint32_t n_most, double value) {
    uint32_t n = n_before < n_most ? n_before : n_most;
    *mean += (value - *mean) / (n + 1);
}

enum { MOST_SECONDS = 10, MOST_JUDGED = 50 };

void pr__spec_reset(pr__spec *s, uint32_t cursor, const uint32_t *cursors, const uint64_t *bytes, int n,
                    uint64_t main_bytes) {
    pr__spec was = *s;
    *s = (pr__spec){.cursor = cursor, .probe_gap = GAP_FIRST};
    for (int i = 0; i < n && s->n_levels < PR__SPEC_LEVELS; i++)
        if (cursors[i] < cursor && (double)bytes[i] < cheaper * (double)main_bytes)
            s->arms[s->n_levels++] = (pr__spec_arm){
                .cursor = cursors[i], .n_judged = GUESS, .acceptance = acceptance_guess};
    for (int a = PR__SPEC_LEVELS; a < PR__SPEC_ARMS; a++)
        s->arms[a] = was.arms[a].n_judged ? was.arms[a] : (pr__spec_arm){.n_judged = GUESS, .acceptance = lookup_guess};
}

int pr__spec_lookup_arm(pr__lookup found) {
    if (!found.length) return -1;
    return PR__SPEC_LEVELS + (found.length <= 2 ? 0 : found.length <= 3 ? 1 : found.length <= 5 ? 2 : 3);
}

/* What was found out may no longer hold: levels, and what steps of several rows take, which only drafts would tell. */
static void doubt(pr__spec *s) {
    for (int rows = 2; rows <= PR__SPEC_MAX + 1; rows++) s->n_steps[rows] = 0;
    s->n_drafted = 0;
    for (int a = 0; a < s->n_levels; a++) {
        s->arms[a].n_probes = 0;
        s->arms[a].n_judged = GUESS;
    }
}

/* Seconds of a step of so many rows: as measured, else from the next smaller number that was. */
static double step_of(const pr__spec *s, int rows) {
    int known = rows;
    while (known > 1 && !s->n_steps[known]) known--;
    double row = s->n_drafted ? s->row_seconds : row_guess * s->step_seconds[1];
    return s->step_seconds[known] + (rows - known) * row;
}

/* Tokens a second of k drafts with an arm. */
static double rate(const pr__spec *s, const pr__spec_arm *arm, int k) {
    double tokens = 1, all_right = 1;
    for (int i = 0; i < k; i++) tokens += all_right *= arm->acceptance;
    return tokens / (k * arm->draft_seconds + step_of(s, k + 1));
}

/* The best of k_min to k_max drafts with an arm that may be used now. */
static pr__spec_choice best(const pr__spec *s, int k_min, int k_max, int lookup, double *most) {
    pr__spec_choice c = {0, 0};
    *most = 0;
    for (int a = 0; a < PR__SPEC_ARMS; a++) {
        bool there = a < PR__SPEC_LEVELS ? a < s->n_levels && s->arms[a].n_probes >= PROBES : a == lookup;
        for (int k = k_min; k <= k_max && there; k++) {
            double r = rate(s, &s->arms[a], k);
            if (r <= *most) continue;
            *most = r;
            c = (pr__spec_choice){k, a};
        }
    }
    return c;
}

static pr__spec_choice choose_auto(pr__spec *s, int k_max, int lookup) {
    const pr__spec_choice plain = {0, 0};
    double most;
    s->n_rounds++;
    if (s->n_steps[1] < PLAIN_FIRST) return plain;
    pr__spec_choice c = best(s, 1, k_max, lookup, &most);
    bool looked_up = c.k && c.arm >= PR__SPEC_LEVELS;
    bool pays = c.k && most * s->step_seconds[1] >= (looked_up ? lookup_margin : margin);
    if (pays) s->probe_gap = GAP_FIRST;
    if (pays && looked_up) return s->n_rounds % PLAIN_EVERY ? c : plain;
    for (int a = 0; a < s->n_levels; a++)
        if (s->arms[a].n_probes < PROBES) return (pr__spec_choice){1, a};
    if (pays) return s->n_rounds % PLAIN_EVERY ? c : plain;
    if (s->n_rounds < s->probe_gap) return plain;
    s->n_rounds = 0;
    s->probe_gap = s->probe_gap * 2 < GAP_LAST ? s->probe_gap * 2 : GAP_LAST;
    doubt(s);
    return plain;
}

pr__spec_choice pr__spec_choose(pr__spec *s, int asked, int k_max, int lookup) {
    double most;
    if (k_max > PR__SPEC_MAX) k_max = PR__SPEC_MAX;
    if ((s->n_levels == 0 && lookup < 0 && asked >= 0) || asked == 0 || k_max < 1) return (pr__spec_choice){0, 0};
    if (asked < 0) return choose_auto(s, k_max, lookup);
    int k = asked < k_max ? asked : k_max;
    for (int a = 0; a < s->n_levels; a++)
        if (s->arms[a].n_probes < PROBES) return (pr__spec_choice){k, a};
    return best(s, k, k, lookup, &most);
}

static void note_step(pr__spec *s, int rows, double seconds) {
    average(&s->step_seconds[rows], s->n_steps[rows]++, MOST_SECONDS, seconds);
}

void pr__spec_plain(pr__spec *s, double seconds) { note_step(s, 1, seconds); }

void pr__spec_round(pr__spec *s, pr__spec_choice c, double draft_seconds, double verify_seconds, int n_judged,
                    int n_accepted) {
    pr__spec_arm *arm = &s->arms[c.arm];
    double more = (verify_seconds - s->step_seconds[1]) / c.k;
    average(&s->row_seconds, s->n_drafted++, MOST_SECONDS, s->n_steps[1] && more > 0 ? more : 0);
    note_step(s, c.k + 1, verify_seconds);
    average(&arm->draft_seconds, arm->n_probes++, MOST_SECONDS, draft_seconds / c.k);
    for (int i = 0; i < n_judged; i++) average(&arm->acceptance, arm->n_judged++, MOST_JUDGED, i < n_accepted ? 1 : 0);
}

void pr__spec_judge(pr__spec *s, int lookup, bool right) {
    if (lookup < 0) return;
    pr__spec_arm *arm = &s->arms[lookup];
    average(&arm->acceptance, arm->n_judged++, MOST_JUDGED, right ? 1 : 0);
}
