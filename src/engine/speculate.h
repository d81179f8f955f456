/*
 * Speculation: how many tokens to draft, and how.
 *
 * An elastic model is its own draft model: fewer planes of the same weights, over the same KV pages. And for any model the
 * text so far has drafts (lookup.h), which cost nothing but the rows that check them. Drafted tokens are drawn with the
 * very random numbers that the real ones will be drawn with, and one step at the full level checks them
 * all; what is kept is what plain decoding would have given, token for token (engine/generate.c). So everything here
 * is about speed alone, and may go by the clock.
 *
 * The policy. Ways to draft are arms: the levels that are clearly cheaper, and lookups by the length of what was found. With
 * acceptance a (each draft token, given those before it), a round of k drafts yields
 * E = (1 - a^(k+1)) / (1 - a) tokens (Leviathan et al., arXiv:2211.17192) and takes k draft steps and one step of k + 1
 * rows. All three are measured as they happen and averaged with a fixed weight; the (arm, k) of the largest E / time
 * is taken, if it beats a plain step by a margin. Plain steps, levels not in favour and steps of several
 * rows are measured again now and then; a lookup is judged by every token that comes, whether it was tried or not.
 */
#ifndef PRECIS_ENGINE_SPECULATE_H
#define PRECIS_ENGINE_SPECULATE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/lookup.h"

enum {
    PR__SPEC_LEVELS = 2,  /* arms of levels come first, */
    PR__SPEC_LOOKUPS = 4, /* then those of lookups */
    PR__SPEC_ARMS = PR__SPEC_LEVELS + PR__SPEC_LOOKUPS,
    PR__SPEC_MAX = 16 /* PR_SPECULATE_MAX */
};

typedef struct pr__spec_arm { /* a way to draft */
    uint32_t cursor;          /* of a level */
    uint32_t n_probes;        /* rounds measured since it was last to be judged anew */
    uint32_t n_judged;        /* draft tokens that acceptance rests on, a guess beforehand counted */
    double acceptance;        /* of one draft token */
    double draft_seconds;     /* of one draft token */
} pr__spec_arm;

/* What is known; lives as long as the engine. Zero-initialized, then reset. */
typedef struct pr__spec {
    uint32_t cursor; /* of the main view when it was measured */
    int n_levels;    /* arms[0 .. n_levels - 1] */
    pr__spec_arm arms[PR__SPEC_ARMS];
    uint32_t n_steps[PR__SPEC_MAX + 2]; /* measured, by rows */
    double step_seconds[PR__SPEC_MAX + 2];
    double row_seconds; /* what a further row adds to a step, for numbers not measured */
    uint32_t n_drafted; /* rounds in all */
    uint32_t n_rounds;  /* choices made, for probing now and then */
    uint32_t probe_gap; /* choices until the next probe when nothing pays */
} pr__spec;

typedef struct pr__spec_choice {
    int k;   /* drafts; 0: a plain step */
    int arm; /* where k > 0 */
} pr__spec_choice;

/* Begin anew when the cursor has moved: arms of levels are the cursors of int2 and int4, as far as they are clearly cheaper,
 * which bytes[] (of arms 0..n-1, and main_bytes) decide. What is known of lookups stays. */
void pr__spec_reset(pr__spec *s, uint32_t cursor, const uint32_t *cursors, const uint64_t *bytes, int n,
                    uint64_t main_bytes);

/* The arm of a lookup, -1 for one that found nothing. */
int pr__spec_lookup_arm(pr__lookup found);

/* asked: PR_SPECULATE_AUTO or a fixed number; k_max: room in context and logits; lookup: what is found just now, an arm or -1. */
pr__spec_choice pr__spec_choose(pr__spec *s, int asked, int k_max, int lookup);

/* What a plain step, or a round, took. n_judged drafts were compared, n_accepted of them right. */
void pr__spec_plain(pr__spec *s, double seconds);
void pr__spec_round(pr__spec *s, pr__spec_choice c, double draft_seconds, double verify_seconds, int n_judged,
                    int n_accepted);
/* A lookup (arm or -1) that was not tried: its first draft would have been right, or not. */
void pr__spec_judge(pr__spec *s, int lookup, bool right);

#endif
