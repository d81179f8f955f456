/*
 * Prompt lookup: what follows the end of a text, by what followed it before.
 *
 * Answers repeat their prompt and themselves: names, quotations, code that is being edited, lists. The tokens behind an
 * earlier occurrence of the last few are drafts for nothing, and one step checks them all as it does a model's own drafts
 * (speculate.h). After LLMA (Yang et al., arXiv:2304.04487) and "prompt lookup decoding" (Saxena, 2023).
 */
#ifndef PRECIS_ENGINE_LOOKUP_H
#define PRECIS_ENGINE_LOOKUP_H

#include <stdint.h>

enum { PR__LOOKUP_LEAST = 2, PR__LOOKUP_MOST = 8 }; /* tokens that must be alike; more are not told apart */

typedef struct pr__lookup {
    uint32_t length; /* of the occurrence, PR__LOOKUP_LEAST .. MOST; 0: there is none */
    uint32_t next;   /* position behind it */
} pr__lookup;

/* The longest earlier occurrence of the end of tokens[n], of equal ones the latest. It may overlap the end. */
pr__lookup pr__lookup_find(const int32_t *tokens, uint32_t n);

/* The k tokens behind it. Where the text ends it goes on with those: what goes in circles does so for ever. */
void pr__lookup_drafts(const int32_t *tokens, uint32_t n, pr__lookup at, int32_t *drafts, uint32_t k);

#endif
