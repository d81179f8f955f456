/*
 * Keys and values of 4 bits. Internal to kernels/.
 *
 * A group of 32 numbers is rounded to 8 bits first, as q8 does it, and what
 * follows is integers, so every ISA comes to the same nibbles. The 16 levels are
 * those that lose least on normally distributed numbers (Max 1960; a rotated
 * key is about that), on a grid where the outermost is 127. A group's largest
 * number need not lie there: of 8 stretches of the grid, from 0.8 to 1.22, the
 * one with the smallest sum of squared errors is taken, the first among equals.
 * Measured on normal numbers, in units of their variance: equal steps 0.0082,
 * these levels 0.0069, and stretched 0.0060.
 */
#ifndef PRECIS_KERNELS_KV_Q4_H
#define PRECIS_KERNELS_KV_Q4_H

#include <stddef.h>
#include <stdint.h>

enum { PR__Q4_GROUP = 32, PR__Q4_STRETCHES = 8, PR__Q4_HALF = 8 };

static inline size_t pr__q4_pairs(uint32_t head_dim) { return ((size_t)head_dim + 1) / 2; }
static inline size_t pr__q4_groups(uint32_t head_dim) { return ((size_t)head_dim + PR__Q4_GROUP - 1) / PR__Q4_GROUP; }

/* What a nibble means, in units of the group's scale. */
static const int8_t pr__q4_levels[2 * PR__Q4_HALF] = {-127, -96, -75, -58, -44, -31, -18, -6,
                                                      6,    18,  31,  44,  58,  75,  96,  127};

/* Stretch s makes the scale (40 + 3 s) / 50 of q8's. */
static inline float pr__q4_stretch(int s) { return (float)(40 + 3 * s) * 0.02f; }

/* The upper half of the levels in units of q8's scale, rounded; and where a magnitude belongs to the level above: over
 * the middle between two, rounded down (127: never). */
static const uint8_t pr__q4_stretched[PR__Q4_STRETCHES][PR__Q4_HALF] = {
    {5, 14, 25, 35, 46, 60, 77, 102},  {5, 15, 27, 38, 50, 65, 83, 109},  {6, 17, 29, 40, 53, 69, 88, 117},
    {6, 18, 30, 43, 57, 74, 94, 124},  {6, 19, 32, 46, 60, 78, 100, 132}, {7, 20, 34, 48, 64, 83, 106, 140},
    {7, 21, 36, 51, 67, 87, 111, 147}, {7, 22, 38, 54, 71, 92, 117, 155},
};
static const uint8_t pr__q4_over[PR__Q4_STRETCHES][PR__Q4_HALF - 1] = {
    {9, 19, 30, 40, 53, 68, 89},   {10, 21, 32, 44, 57, 74, 96},   {11, 23, 34, 46, 61, 78, 102},
    {12, 24, 36, 50, 65, 84, 109}, {12, 25, 39, 53, 69, 89, 116},  {13, 27, 41, 56, 73, 94, 123},
    {14, 28, 43, 59, 77, 99, 127}, {14, 30, 46, 62, 81, 104, 127},
};

#endif
